//! What nodes tell each other, as plain types. They belong to no version: each version's module
//! archives them and reads them back in place.
//!
//! The same types go out and come in; what they list is a slice on one side and the archive where it
//! lies in the receive buffer on the other ([`super::list`]).

use ironring_core::{Incarnation, Instant, Offset, PartitionId, StorageUuid, Term, WallTime};

use super::frame::Kind;
use super::list::{Acks, Asks, FenceAnswers, Fences, Replicas, Sections};
use crate::frame::Header as ClientHeader;

/// Most sections of a `Replicate` frame; acks, fences and answers to them of a frame.
pub const SECTIONS_MAX: usize = 4096;
/// Most requests to the controller in a frame.
pub const ASKS_MAX: usize = 1024;
/// Most voters a request names.
pub const VOTERS_MAX: usize = 16;
/// Most entries of one section.
pub const SECTION_ENTRIES_MAX: u32 = 65_536;

/// A replica for ever: the storage it is on, and which of its lives there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ReplicaId {
    /// The storage.
    pub storage: StorageUuid,
    /// Which life.
    pub life: u64,
}

/// One run of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LeaderId {
    /// The replica.
    pub replica: ReplicaId,
    /// The run of its process.
    pub incarnation: Incarnation,
}

/// Entries of one partition for a replica, or none of them: a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replicate<'a> {
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
    /// How many entries, at most [`SECTION_ENTRIES_MAX`]; `first` + `count` is an offset.
    pub count: u32,
    /// The leader's.
    pub high_watermark: Offset,
    /// When it was sent, by the leader's clock. Only the leader reads it.
    pub probe: Instant,
    /// The newest probe to this replica the leader had an answer to; [`Instant`] 0: none. Since
    /// version 2; in version 1 it is 0.
    pub answered: Instant,
    /// How old what the leader knows to be committed may be, in milliseconds; [`AGE_UNKNOWN`]. Since
    /// version 2; in version 1 it is unknown.
    pub age_ms: u32,
    /// The entries as the log has them: empty exactly when `count` is 0.
    pub records: &'a [u8],
}

/// [`Replicate::age_ms`] of who cannot tell.
pub const AGE_UNKNOWN: u32 = u32::MAX;

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
    /// [`Replicate::probe`] of the newest message that was taken, of a mismatch that of the message
    /// which did not match; unchanged.
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
    /// How long a lease it has granted may still run, in nanoseconds by its own clock.
    pub lease_left_ns: u64,
}

/// What a replica asks of the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask<'a> {
    /// Other voters.
    Voters {
        /// The partition.
        partition: PartitionId,
        /// The leader's term.
        term: Term,
        /// The leader.
        from: ReplicaId,
        /// The version of the partition's metadata it builds on.
        base: u64,
        /// Who is to vote: 1 to [`VOTERS_MAX`].
        voters: Replicas<'a>,
    },
    /// Another leader.
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
    /// An election.
    Election {
        /// The partition.
        partition: PartitionId,
        /// The term its leader cannot lead.
        term: Term,
        /// Who says so.
        from: LeaderId,
    },
    /// A new life for a replica that has lost its log.
    Renew {
        /// The partition.
        partition: PartitionId,
        /// The replica.
        replica: ReplicaId,
        /// Names the request; the storage uses a number once.
        renewal: u64,
    },
}

/// Which half of a call a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// It asks.
    Request,
    /// It answers the request with the same call id.
    Answer,
}

/// A message of the metadata group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raft<'a> {
    /// The caller's name for the call.
    pub call: u64,
    /// Request or answer.
    pub half: Half,
    /// Encoded by the metadata group.
    pub payload: &'a [u8],
}

/// A client's request, sent on to the node that leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward<'a> {
    /// The sender's name for the call.
    pub call: u64,
    /// The client's header. `deadline_ms` is what is left of it, never 0; `body_len` is that of
    /// `body`; `body_crc` is what the client computed, so that its checksum reaches the leader.
    pub header: ClientHeader,
    /// The client's body.
    pub body: &'a [u8],
}

/// The answer to [`Forward`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardAnswer<'a> {
    /// That of the request.
    pub call: u64,
    /// Header of the response. `correlation` and `deadline_ms` are 0: the sender of the request
    /// knows them.
    pub header: ClientHeader,
    /// Body of the response.
    pub body: &'a [u8],
}

/// A snapshot of a partition is on its way: its live records, with their offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotBegin {
    /// The sender's name for the transfer; the same when it is begun again on another connection.
    pub transfer: u64,
    /// The partition.
    pub partition: PartitionId,
    /// The replica it is for.
    pub to: ReplicaId,
    /// The leader.
    pub from: LeaderId,
    /// The leader's term.
    pub term: Term,
    /// First offset that can be live.
    pub start: Offset,
    /// Offset behind the last record: replication goes on there. Not before `start`.
    pub end: Offset,
    /// Term of the record before `end`.
    pub end_term: Term,
    /// About how many payload bytes there will be.
    pub total_bytes: u64,
}

/// A piece of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotPiece<'a> {
    /// The transfer.
    pub transfer: u64,
    /// 0, 1, 2, ...
    pub number: u32,
    /// Whether no more follow.
    pub last: bool,
    /// Records as the log has them.
    pub payload: &'a [u8],
}

/// Why a snapshot is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SnapshotRefusal {
    /// The receiver is not a replica of the partition, or another life of it.
    NotAReplica = 1,
    /// The receiver has promised a higher term.
    OldTerm = 2,
    /// The receiver takes as many snapshots as it can: try again later.
    Busy = 3,
    /// The receiver has no room on disk.
    NoSpace = 4,
    /// The receiver does not know the transfer: begin it again.
    UnknownTransfer = 5,
    /// The receiver has these records already.
    NotNeeded = 6,
}

impl SnapshotRefusal {
    /// The reason a wire number names.
    #[must_use]
    pub fn from_u32(code: u32) -> Option<SnapshotRefusal> {
        Some(match code {
            1 => SnapshotRefusal::NotAReplica,
            2 => SnapshotRefusal::OldTerm,
            3 => SnapshotRefusal::Busy,
            4 => SnapshotRefusal::NoSpace,
            5 => SnapshotRefusal::UnknownTransfer,
            6 => SnapshotRefusal::NotNeeded,
            _ => return None,
        })
    }
}

/// How a receiver stands to a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotState {
    /// Everything before this piece is durable: send from here.
    Resume {
        /// The next piece.
        number: u32,
    },
    /// All of it is durable.
    Complete,
    /// It is not taken.
    Refused(SnapshotRefusal),
}

/// The answer to [`SnapshotBegin`], and to pieces as they become durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotAnswer {
    /// The transfer.
    pub transfer: u64,
    /// How it stands.
    pub state: SnapshotState,
}

/// A leader compares part of a partition with a replica: both digest what they had applied when the
/// offset was reached, and readers saw it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compare<'a> {
    /// The leader's name for it.
    pub number: u64,
    /// The partition.
    pub partition: PartitionId,
    /// The replica it is for.
    pub to: ReplicaId,
    /// The leader.
    pub from: LeaderId,
    /// The leader's term.
    pub term: Term,
    /// Everything before this offset is applied, and nothing behind it.
    pub at: Offset,
    /// What expires before is left out: replicas drop it by their own clocks.
    pub expires_after: WallTime,
    /// Which part, as the shards have it: 1 to [`super::frame::COMPARE_BYTES_MAX`] bytes.
    pub range: &'a [u8],
}

/// What a part of a partition comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComparedState {
    /// All of it was read.
    Digest {
        /// How many records.
        items: u64,
        /// Their bytes.
        bytes: u64,
        /// What they say.
        hash: u64,
    },
    /// It cannot be told now: to be asked again, or not.
    Later,
}

/// The answer to [`Compare`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compared {
    /// That of the question.
    pub number: u64,
    /// The partition.
    pub partition: PartitionId,
    /// The replica.
    pub from: LeaderId,
    /// The leader's term.
    pub term: Term,
    /// What it has.
    pub state: ComparedState,
}

/// Most replicas have something else than this one: its copy is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Diverged {
    /// That of the last comparison.
    pub number: u64,
    /// The partition.
    pub partition: PartitionId,
    /// The replica.
    pub to: ReplicaId,
    /// The leader.
    pub from: LeaderId,
    /// The leader's term.
    pub term: Term,
}

/// A leader has lost records, and asks a replica for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch<'a> {
    /// The leader's name for it.
    pub number: u64,
    /// The partition.
    pub partition: PartitionId,
    /// The replica it is for.
    pub to: ReplicaId,
    /// The leader.
    pub from: LeaderId,
    /// The leader's term.
    pub term: Term,
    /// Which records, as the shards name them: 1 to [`super::frame::FETCH_BYTES_MAX`] bytes.
    pub wants: &'a [u8],
}

/// The answer to [`Fetch`]: those of the records that the replica has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched<'a> {
    /// That of the question.
    pub number: u64,
    /// The partition.
    pub partition: PartitionId,
    /// The replica.
    pub from: LeaderId,
    /// The leader's term.
    pub term: Term,
    /// Records as the log has them; none when it has none of them.
    pub records: &'a [u8],
}

/// A sign of life, and its answer, in which `sent` is that of the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    /// When the question was sent, by the clock of who asks. Only that node reads it.
    pub sent: Instant,
    /// The sender's wall clock.
    pub wall: WallTime,
}

/// Why a connection ends in good order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum GoodbyeReason {
    /// The node stops.
    Stopping = 1,
    /// The other node was removed from the cluster.
    Removed = 2,
    /// Another connection between the same shards took its place.
    Replaced = 3,
    /// Nothing was sent for too long.
    Idle = 4,
    /// What the other side sent broke the protocol.
    Protocol = 5,
}

impl GoodbyeReason {
    /// The reason a wire number names.
    #[must_use]
    pub fn from_u32(code: u32) -> Option<GoodbyeReason> {
        Some(match code {
            1 => GoodbyeReason::Stopping,
            2 => GoodbyeReason::Removed,
            3 => GoodbyeReason::Replaced,
            4 => GoodbyeReason::Idle,
            5 => GoodbyeReason::Protocol,
            _ => return None,
        })
    }
}

/// What a frame says, handshakes aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// From leaders, 1 to [`SECTIONS_MAX`].
    Replicate(Sections<'a>),
    /// To leaders, 1 to [`SECTIONS_MAX`].
    Acks(Acks<'a>),
    /// From the controller, 1 to [`SECTIONS_MAX`].
    Fences(Fences<'a>),
    /// To the controller, 1 to [`SECTIONS_MAX`].
    FenceAnswers(FenceAnswers<'a>),
    /// To the controller, 1 to [`ASKS_MAX`].
    Asks(Asks<'a>),
    /// Between nodes of the metadata group.
    Raft(Raft<'a>),
    /// To a leader.
    Forward(Forward<'a>),
    /// Back from a leader.
    ForwardAnswer(ForwardAnswer<'a>),
    /// From a leader.
    SnapshotBegin(SnapshotBegin),
    /// From a leader.
    SnapshotPiece(SnapshotPiece<'a>),
    /// To a leader.
    SnapshotAnswer(SnapshotAnswer),
    /// From a leader.
    Compare(Compare<'a>),
    /// To a leader.
    Compared(Compared),
    /// From a leader.
    Diverged(Diverged),
    /// From a leader.
    Fetch(Fetch<'a>),
    /// To a leader.
    Fetched(Fetched<'a>),
    /// So many payload bytes more may be sent to whom this comes from.
    Credits {
        /// How many; at least 1.
        bytes: u64,
    },
    /// To see that the other side lives.
    Ping(Ping),
    /// It does.
    Pong(Ping),
    /// Nothing follows.
    Goodbye(GoodbyeReason),
}

impl Message<'_> {
    /// The kind of its frame.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Message::Replicate(_) => Kind::Replicate,
            Message::Acks(_) => Kind::Acks,
            Message::Fences(_) => Kind::Fences,
            Message::FenceAnswers(_) => Kind::FenceAnswers,
            Message::Asks(_) => Kind::Asks,
            Message::Raft(_) => Kind::Raft,
            Message::Forward(_) => Kind::Forward,
            Message::ForwardAnswer(_) => Kind::ForwardAnswer,
            Message::SnapshotBegin(_) => Kind::SnapshotBegin,
            Message::SnapshotPiece(_) => Kind::SnapshotPiece,
            Message::SnapshotAnswer(_) => Kind::SnapshotAnswer,
            Message::Compare(_) => Kind::Compare,
            Message::Compared(_) => Kind::Compared,
            Message::Diverged(_) => Kind::Diverged,
            Message::Fetch(_) => Kind::Fetch,
            Message::Fetched(_) => Kind::Fetched,
            Message::Credits { .. } => Kind::Credits,
            Message::Ping(_) => Kind::Ping,
            Message::Pong(_) => Kind::Pong,
            Message::Goodbye(_) => Kind::Goodbye,
        }
    }
}
