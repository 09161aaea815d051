//! The log's interface in one place: configuration, records, what it tells its owner.

use ironring_core::{GroupSeq, Offset, PartitionId, SegmentId, SessionId, Term, WallTime};

/// Where a record lies. Unique for ever: segment ids are not reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The segment.
    pub segment: SegmentId,
    /// Byte position of the record's header in the segment file.
    pub pos: u32,
    /// Length of the record with header, key and body, in bytes.
    pub len: u32,
}

/// What a record is. The log itself only needs `Chunk`-like sizes to be bounded; the meaning
/// belongs to the shard's data models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// First record of a partition in a term; no key, no body.
    TermStart = 1,
    /// A key's value.
    Put = 2,
    /// A key's removal.
    Delete = 3,
    /// Several puts and deletes, applied together; the body is a list of operations.
    Batch = 4,
    /// A piece of a large value.
    Chunk = 5,
    /// The record that makes a chunked value visible.
    PutChunked = 6,
    /// Records of one topic partition with consecutive offsets.
    TopicBatch = 7,
    /// The topic partition forgets what is before an offset.
    TopicTrim = 8,
    /// A request of a session was answered without changing anything (a failed condition).
    SessionMark = 9,
    /// A change of the node's own definitions (topics, sessions).
    Meta = 10,
    /// The partition's replica promises to take part in no term before the record's. No key, no
    /// body, and no offset: it is not an entry of the partition.
    Promise = 11,
    /// Everything of the partition before the record's offset is committed. No key, no body; not an
    /// entry.
    Watermark = 12,
    /// Entries at the record's offset and behind it, written before this record, are void. No key, no
    /// body; not an entry.
    Cut = 13,
    /// The partition's replica begins a new life, without entries; the body says which (u64). Not an
    /// entry.
    Adopt = 14,
    /// The upload named by the key will not become a value.
    UploadAbort = 15,
    /// Part of a partition's state as another replica sent it; see the shard's `state` module. Not an
    /// entry.
    State = 16,
    /// Everything before the record's offset is in the state: entries go on there. The body is the
    /// term of the entry before it (u64). Not an entry.
    Jump = 17,
    /// Records of the partition before the record's offset cannot be read: the replica neither votes
    /// nor leads until it has them again. No key, no body; not an entry.
    Damaged = 18,
    /// They are all there again. No key, no body; not an entry.
    Repaired = 19,
    /// A change of the metadata group's own log, in a log of its own.
    Raft = 20,
}

impl RecordKind {
    /// Whether it is an entry of its partition, with an offset of its own that replicas share; the
    /// others are a replica's own notes.
    #[must_use]
    pub fn is_entry(self) -> bool {
        !matches!(
            self,
            RecordKind::Promise
                | RecordKind::Watermark
                | RecordKind::Cut
                | RecordKind::Adopt
                | RecordKind::State
                | RecordKind::Jump
                | RecordKind::Damaged
                | RecordKind::Repaired
        )
    }

    /// The kind a stored byte names.
    #[must_use]
    pub fn from_u8(value: u8) -> Option<RecordKind> {
        Some(match value {
            1 => RecordKind::TermStart,
            2 => RecordKind::Put,
            3 => RecordKind::Delete,
            4 => RecordKind::Batch,
            5 => RecordKind::Chunk,
            6 => RecordKind::PutChunked,
            7 => RecordKind::TopicBatch,
            8 => RecordKind::TopicTrim,
            9 => RecordKind::SessionMark,
            10 => RecordKind::Meta,
            11 => RecordKind::Promise,
            12 => RecordKind::Watermark,
            13 => RecordKind::Cut,
            14 => RecordKind::Adopt,
            15 => RecordKind::UploadAbort,
            16 => RecordKind::State,
            17 => RecordKind::Jump,
            18 => RecordKind::Damaged,
            19 => RecordKind::Repaired,
            20 => RecordKind::Raft,
            _ => return None,
        })
    }
}

/// A record to append, or one that was read; borrows its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it is.
    pub kind: RecordKind,
    /// Free for the kind's own use (kept as is).
    pub flags: u8,
    /// Its partition.
    pub partition: PartitionId,
    /// The term it was first written in; kept when the record is relocated.
    pub term: Term,
    /// Its offset in the partition; kept when the record is relocated.
    pub offset: Offset,
    /// The session that wrote it, or none.
    pub session: SessionId,
    /// The session's sequence.
    pub sequence: u64,
    /// When it was written.
    pub time: WallTime,
    /// When it expires; 0: never.
    pub expires: WallTime,
    /// Key bytes; at most [`ironring_core::limits::KEY_BYTES_MAX`].
    pub key: &'a [u8],
    /// Body bytes; at most [`ironring_core::limits::RECORD_BYTES_MAX`].
    pub body: &'a [u8],
}

/// What an append got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Where the record will lie.
    pub location: Location,
    /// The commit group it is part of: durable once [`LogSink::flushed`] names it or a later one.
    pub group: GroupSeq,
}

/// Why an append was refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Too much waits for the disk already.
    #[error("too many bytes wait for the disk")]
    Overloaded,
    /// The disk, or the log's own limit, is full.
    #[error("no space for new records")]
    NoSpace,
    /// The record does not fit a segment: see [`crate::LogConfig::record_bytes_max`].
    #[error("the record is longer than a segment can hold")]
    TooLarge,
    /// A disk fault ended this log's life, or it is not open yet.
    #[error("the log does not take records")]
    Closed,
}

/// Which caller an append or its space is for: user records leave the reserve alone, so that
/// deletes and compaction always have room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// A record that adds data.
    User,
    /// A record that frees space or is the log's own: deletes, trims, relocations.
    Reserve,
}

/// What happens to a record met by compaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing refers to it any more.
    Drop,
    /// It is live: the log copies it and calls [`LogSink::relocated`].
    Live,
}

/// What the log tells its owner. Called from inside [`crate::Log::on_io`] and friends, in an order
/// that matters; implementations must not call back into the log.
pub trait LogSink {
    /// A piece of the checkpoint being restored, exactly as [`CheckpointSource::next_piece`] made
    /// it. All pieces come before the first `replay`.
    fn restore(&mut self, piece: &[u8]) -> Result<(), RestoreError>;

    /// A recovered record, in log order. The same record may come again at another location (it
    /// was relocated); the later location counts. Records reflected in the checkpoint may come
    /// again: replay is idempotent by (partition, offset).
    fn replay(&mut self, at: Location, group: GroupSeq, record: &Record<'_>);

    /// Every group up to and including `group` is durable. `records` walks the records of the
    /// groups that just became so, still in memory (the owner may cache them).
    fn flushed(
        &mut self,
        group: GroupSeq,
        records: &mut dyn Iterator<Item = (Location, Record<'_>)>,
    );

    /// A read asked for with [`crate::Log::read`] ended.
    fn read_done(&mut self, read: ReadId, at: Location, result: Result<Record<'_>, ReadError>);

    /// Whether compaction must keep this record (it lies at `at`). `Drop` says that a crash which
    /// keeps every group staged so far needs it no more: the log waits for those groups before it
    /// frees the segment. A record whose successor may be rolled back by other means is `Live`.
    fn keep(&mut self, at: Location, record: &Record<'_>) -> Keep;

    /// Compaction appended a copy of the live record at `from` to `to`, which is durable with
    /// `group`. From here on reads use `to`; `from` stays readable until its segment is freed,
    /// which happens only after `group` is durable.
    fn relocated(&mut self, from: Location, to: Location, group: GroupSeq, record: &Record<'_>);
}

/// A consistent-enough picture of the owner's state, piece by piece. Pieces are made while writes
/// go on, so a piece may or may not reflect records appended after [`CheckpointSource::begin`];
/// replay from the beginning of the checkpoint repairs that.
pub trait CheckpointSource {
    /// Starts a new picture.
    fn begin(&mut self);
    /// The next piece, appended to `out` (at most about 256 KiB a call). False: there is no more.
    fn next_piece(&mut self, out: &mut Vec<u8>) -> bool;
}

/// A checkpoint piece does not parse although its checksum held: a bug or a newer format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("checkpoint does not parse: {0}")]
pub struct RestoreError(pub String);

/// Names a read; chosen by the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// Why a read failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The bytes on disk do not match their checksum, or are not the record asked for.
    #[error("record at segment {}, byte {} is corrupt: {detail}", at.segment, at.pos)]
    Corrupt {
        /// Where.
        at: Location,
        /// What did not match.
        detail: String,
    },
    /// The device failed the read.
    #[error("record at segment {}, byte {} cannot be read: {message}", at.segment, at.pos)]
    Io {
        /// Where.
        at: Location,
        /// The system's words.
        message: String,
    },
}
