//! The shards of this node and of others, as the member on core 0 reaches them.

use std::sync::Arc;

use ironring_core::{NodeId, PartitionId};
use ironring_ring::metadata::{Metadata, Outcome, ReplicaId};
use ironring_ring::replication::Fence;

use crate::shard::{MetaFailure, ToController};

/// What is said to a shard on its own node.
#[derive(Debug)]
pub enum ToShard {
    /// The controller, which is on this node: elections have begun.
    Fences(Vec<Fence>),
    /// The controller: another voter is to lead.
    HandOver(PartitionId, ReplicaId),
    /// To core 0, from a shard, to the controller there.
    Controller(Vec<ToController>),
    /// To shard 0, from the member: what became of a change it asked for.
    Decided(u64, Result<Outcome, MetaFailure>),
}

/// The way to them. Nothing is waited for, and what is lost is said again.
pub trait Shards {
    /// Tells every shard of this node the newest metadata.
    fn publish(&self, metadata: &Arc<Metadata>);

    /// Begins elections at this node.
    fn fence(&self, fences: Vec<Fence>);

    /// Begins elections at another.
    fn fence_at(&self, node: NodeId, fences: &[Fence]);

    /// Tells shard 0 of this node what became of a change it asked for.
    fn decided(&self, ticket: u64, result: Result<Outcome, MetaFailure>);

    /// Asks the leader of a partition, which is on this node, to hand over.
    fn hand_over(&self, partition: PartitionId, to: ReplicaId);
}
