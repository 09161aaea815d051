//! This node's place in the cluster: founding and joining, and its part of the metadata group.
//!
//! Core 0 of a node runs a [`Member`]: the metadata group ([`crate::raft`]) with the cluster's
//! metadata ([`ironring_ring::metadata`]) as its state machine. What the group has committed is
//! published to every shard and to the [`Board`], from which other threads read it.
//!
//! - A directory belongs to one node of one cluster for ever ([`identity`]).
//! - A node without a cluster founds one, and is then its only member; with seeds it joins that of the
//!   seeds before anything of it runs ([`join`]).
//! - Members of the cluster become members of the group by what its leader does ([`steward`]); requests
//!   go to the leader from wherever they come ([`plane`]).
//! - When the leader of the group is known to be gone, those who vote take turns to succeed it
//!   ([`succession`]), and do not wait until it has been silent.
//! - On the node that leads the group the member is the controller ([`ironring_ring::controller`]): it
//!   hears which nodes live, has partitions' leaders elected, and moves replicas ([`control`]).
//! - A node that is short of space says so ([`shortage`]) among what it tells of itself.
//! - Operators' orders ([`operation`]) are judged where the group is led ([`judge`]) and carried out
//!   there ([`operate`]).
//! - Who may connect follows from the metadata, and before a node has any from what its directory
//!   remembers ([`roster`], [`token`]).
//! - Only the thread of the group writes the board, and only with what is committed.

mod board;
mod catalog;
mod control;
pub mod identity;
pub mod join;
pub mod judge;
mod member;
mod operate;
pub mod operation;
pub mod overview;
pub mod plane;
pub mod refused;
pub mod roster;
mod saver;
mod shards;
mod shortage;
pub mod status;
pub mod steward;
mod succession;
pub mod token;

#[cfg(test)]
pub(crate) mod tests;

pub use board::{Board, Order};
pub use catalog::{Catalog, decode_outcome};
pub use identity::{ClusterIdentity, IdentityError, Stage, log_identity};
pub use member::{ClusterError, META_SHARD, Member, Place};
pub use shards::{Shards, ToShard};
