//! The metadata group: one Raft group over the members of a cluster, for metadata only.
//!
//! openraft decides; this folder is all that knows it. What it runs on is ours: its tasks and clock
//! ([`host`]), its log ([`store`], on the same log code as the shards, in files of its own), its
//! snapshots ([`snapshot`]), its messages ([`link`]). The rest of the node sees [`MetaGroup`] and
//! plain types.
//!
//! - One group is one thread's; nothing in it is shared with other threads.
//! - Nothing is answered before it is durable: a vote before it is given, an entry before it counts.
//! - A failure of the disk ends the group on this node; nothing is retried.
//! - Terms have one leader at most. A leader that hears of no quorum takes no proposals.
//! - What the group replicates is a [`MetaMachine`], whose commands and snapshots are opaque here.

mod calls;
mod channels;
mod config;
mod disk;
mod error;
pub mod force;
mod group;
pub mod host;
mod link;
mod machine;
mod message;
mod network;
mod runtime;
mod silence;
pub mod snapshot;
mod status;
pub mod store;
mod types;

#[cfg(test)]
mod tests;

/// Fills what openraft fills when the first group of a process starts: tables of some 30 MiB for
/// histograms of every precision there is. Done on another thread, the group's need not wait for it.
pub fn warm_up() {
    drop(base2histogram::Histogram::<()>::new());
}

pub use calls::{CALLS_MAX, RaftCalls};
pub use config::{COMMAND_BYTES_MAX, RaftConfig, RaftConfigError, Timing};
pub use disk::{Done, DriverDisk, RaftDisk};
pub use error::{GroupError, StartError};
pub use group::{MetaGroup, Surroundings};
pub use link::{LinkError, Peer, RaftLink};
pub use machine::{Machine, MetaMachine};
pub use message::MessageError;
pub use runtime::RaftRuntime;
pub use status::{GroupStatus, Leadership, LeadershipWatch, Role};
pub use types::{Ballot, Command, LogPoint, Outcome, Types};
