//! Who owns what: tokens to partitions, partitions to the shards of this node.
//!
//! Pure and small. [`Slices`] is the node-local part of placement: shards are never named in
//! replicated metadata, so the number of shards can differ between nodes and change over time.

pub mod controller;
pub mod metadata;
pub mod replication;
mod slices;

pub use slices::{Slices, SlicesError};
