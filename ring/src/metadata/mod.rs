//! The cluster's metadata as pure state: what the Raft group replicates.

pub mod partition;

pub use partition::{LeaderId, PartitionRecord, REPLICAS_MAX, Refused, Replica, ReplicaId, Wish};
