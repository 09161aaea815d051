//! The node: shards composed from the pure crates, their driver, and the operator's surface.

pub mod cli;
pub mod cluster;
pub mod config;
pub mod diskprobe;
pub mod doctor;
pub mod driver;
pub mod http;
pub mod metrics;
pub mod peer;
pub mod raft;
pub mod shard;
