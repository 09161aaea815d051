//! The shipped replication engine, metadata and controller in a cluster of two to five nodes.
//! All around them is simulated: logs with group commit, a network that loses, doubles, delays and cuts,
//! clocks that drift, processes that die and pause, disks that are replaced or damaged.
//!
//! - [`log`]: what is written and what survives; [`node`]: an engine over it.
//! - [`metadata`]: the shipped metadata and controllers; committing is what is simulated.
//! - [`plan`]: what a seed is about; [`network`] and [`nemesis`]: what goes wrong in it, and when.
//! - [`checks`]: the protocol's invariants, looked at after every event.
//! - [`world`]: what happens when.

pub mod checks;
pub mod log;
pub mod metadata;
pub mod nemesis;
pub mod network;
pub mod node;
pub mod plan;
pub mod world;
