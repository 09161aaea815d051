//! Metadata groups in virtual time: the shipped group over a simulated network and simulated disks.
//!
//! - [`virtual_time`]: the executor; whole nodes can be killed on it.
//! - [`network`]: the way between members, which delays, loses and cuts.
//! - [`disk`]: a directory that loses what was not durable.
//! - [`cluster`]: members put together, and what tests ask of them.

pub mod cluster;
pub mod disk;
pub mod network;
pub mod virtual_time;
