//! The deterministic simulator.
//!
//! - [`disk`]: a disk in virtual time that loses, tears, flips, misdirects and refuses.
//! - [`op`]: what simulated clients ask for and hear; [`workload`] draws it, [`client`] sends it.
//! - [`oracle`]: what a correct node may answer.
//! - [`subject`]: what is simulated; [`bench`]: one of them without the rest of the world.
//! - [`replicas`]: the shipped replication engine in a cluster, without the rest of the shard.
//! - [`shard_node`]: the shipped shards of one node as subjects; [`log_alone`]: the log by itself.
//! - [`raft`]: metadata groups in virtual time.
//! - [`world`]: the loop of events, crashes and restarts; [`crash`] decides when, [`profile`] what
//!   goes wrong, [`trace`] remembers, [`runs`] puts them together by seed.

pub mod bench;
pub mod client;
pub mod cluster;
pub mod crash;
pub mod disk;
pub mod log_alone;
pub mod op;
pub mod oracle;
pub mod profile;
pub mod raft;
pub mod replicas;
pub mod runs;
pub mod schedule;
pub mod shard_node;
pub mod subject;
pub mod trace;
pub mod workload;
pub mod world;
