//! What replicas, leaders and the controller tell each other about one partition.
//!
//! The bytes of entries are not here: the owner of a [`super::Replicator`] takes them from its log
//! and puts them beside the [`Replicate`] that names them. Messages to and from one node travel
//! together, many partitions in a frame.

use std::time::Duration;

use ironring_core::{Instant, Offset, PartitionId, Term};

use crate::metadata::{LeaderId, ReplicaId};

/// Entries for a replica, or none of them: a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replicate {
    /// The partition.
    pub partition: PartitionId,
    /// The replica it is for.
    pub to: ReplicaId,
    /// The leader.
    pub from: LeaderId,
    /// The leader's term.
    pub term: Term,
    /// Offset of the first entry.
    pub first: Offset,
    /// Term of the entry before it.
    pub prev_term: Term,
    /// How many entries.
    pub count: u32,
    /// The leader's.
    pub high_watermark: Offset,
    /// When it was sent, by the leader's clock: the lease counts from here.
    pub probe: Instant,
    /// The newest probe the leader has an answer to from this replica: the message was sent after
    /// that answer. [`Instant`] 0: none yet.
    pub answered: Instant,
    /// How old what the leader knows to be committed may be, in milliseconds, rounded up;
    /// [`AGE_UNKNOWN`]: it cannot tell, or speaks a version of the protocol that does not.
    pub age_ms: u32,
}

/// [`Replicate::age_ms`] of who cannot tell.
pub const AGE_UNKNOWN: u32 = u32::MAX;

impl Replicate {
    /// The offset behind its entries.
    #[must_use]
    pub fn end(&self) -> Offset {
        Offset(self.first.0 + u64::from(self.count))
    }
}

/// How a replica stands to a [`Replicate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckState {
    /// Its log equals the leader's up to `end`, and that much is fsynced.
    Flushed {
        /// See above.
        end: Offset,
    },
    /// The entry before the first has another term, or is missing.
    Mismatch {
        /// Where the replica's entries with terms up to the leader's `prev_term` end.
        end: Offset,
        /// The term of the last of them.
        term: Term,
    },
    /// The replica has promised a higher term.
    Promised {
        /// Which.
        term: Term,
    },
}

/// A replica's answer to one or several [`Replicate`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The partition.
    pub partition: PartitionId,
    /// The replica.
    pub from: LeaderId,
    /// The leader it answers.
    pub to: ReplicaId,
    /// The leader's term.
    pub term: Term,
    /// How it stands.
    pub state: AckState,
    /// [`Replicate::probe`] of the newest that was taken, of a mismatch that of the message which
    /// did not match: a lease is granted from there.
    pub probe: Instant,
}

/// The controller has begun an election: no older term may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The partition.
    pub partition: PartitionId,
    /// The voter it is for.
    pub to: ReplicaId,
    /// The term that begins.
    pub term: Term,
}

/// A voter's answer to [`Fence`]: it has promised the term, and everything it has is fsynced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FenceAnswer {
    /// The partition.
    pub partition: PartitionId,
    /// The voter.
    pub from: LeaderId,
    /// The term it has promised.
    pub term: Term,
    /// Term of its last entry.
    pub last_term: Term,
    /// End of what it has fsynced.
    pub log_end: Offset,
    /// How long a lease it has granted may still run, by its own clock.
    pub lease_left: Duration,
}

/// What a leader asks of metadata, and a replica of the controller. Repeated until metadata say
/// that it is decided; each is conditional, so a repetition does no harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Other voters.
    Voters {
        /// The partition.
        partition: PartitionId,
        /// The leader's term.
        term: Term,
        /// The leader.
        from: ReplicaId,
        /// The version it builds on.
        base: u64,
        /// Who is to vote.
        voters: Vec<ReplicaId>,
    },
    /// Another leader. The sender has stepped down for good.
    Transfer {
        /// The partition.
        partition: PartitionId,
        /// The leader's term.
        term: Term,
        /// The leader.
        from: ReplicaId,
        /// Who is to lead term + 1.
        to: LeaderId,
    },
    /// An election: the leader metadata name cannot lead.
    Election {
        /// The partition.
        partition: PartitionId,
        /// The term it cannot lead.
        term: Term,
        /// Who says so.
        from: LeaderId,
    },
    /// A new life for a replica whose log is lost: it counts for nothing until then, and afterwards
    /// for what it has from there on.
    Renew {
        /// The partition.
        partition: PartitionId,
        /// Who has lost it.
        replica: ReplicaId,
        /// Names the request; the storage uses a number once.
        renewal: u64,
    },
}
