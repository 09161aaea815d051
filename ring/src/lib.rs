//! Who owns what: tokens to partitions, partitions to nodes and to the shards of this node.
//!
//! Pure. [`metadata`] is what the metadata group says, [`replication`] what replicas do about it,
//! [`controller`] what the group's leader decides. [`placement`] says which nodes should hold a
//! partition, and which moves lead from the map there is to the one that is wanted. [`Slices`] is
//! the node-local part: shards are never named in replicated metadata, so the number of shards can
//! differ between nodes and change over time.

pub mod controller;
pub mod metadata;
pub mod placement;
pub mod replication;
mod slices;

pub use slices::{Slices, SlicesError};
