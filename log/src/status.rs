//! What can be known about a log from outside: its state, why it failed, what it counted.

use ironring_core::io::{FileName, IoError};
use ironring_core::{GroupSeq, SegmentId, ShardId, StorageUuid};

use crate::RestoreError;

/// Where a log is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogStatus {
    /// Being formatted or recovered; takes no records yet.
    Opening(OpenProgress),
    /// Takes records.
    Open,
    /// Ended by a disk fault or by what was found on disk. Nothing more is acknowledged or
    /// written; reads of durable records still work when it was open before.
    Failed(LogFailure),
    /// Writing what is staged and a last checkpoint.
    Stopping,
    /// Everything is durable; no request is in flight.
    Stopped,
}

/// How far opening is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenProgress {
    /// What it does at present.
    pub step: OpenStep,
    /// Bytes of this step done.
    pub bytes_done: u64,
    /// Bytes of this step to do, at most.
    pub bytes_total: u64,
}

/// The steps of opening, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenStep {
    /// `start` was not called yet.
    Idle,
    /// Making a new log.
    Format,
    /// Reading the superblock.
    Superblock,
    /// Opening the segments and reading their headers.
    Segments,
    /// Verifying and restoring a checkpoint.
    Checkpoint,
    /// Replaying groups.
    Replay,
    /// Making the recovered end durable.
    Settle,
}

/// Which operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpName {
    /// The operation's name.
    pub name: &'static str,
    /// The file, or none for operations on the directory.
    pub file: Option<FileName>,
    /// Byte position, 0 where there is none.
    pub pos: u64,
}

impl std::fmt::Display for OpName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.file {
            Some(file) => write!(f, "{} of {} at byte {}", self.name, file.file_name(), self.pos),
            None => f.write_str(self.name),
        }
    }
}

/// Why a log does not open, or ended. Every message says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogFailure {
    /// The device failed an operation whose outcome the log depends on.
    #[error(
        "{op} failed: {error}; nothing more is acknowledged: check the device and restart, \
         recovery reads what is really there"
    )]
    Io {
        /// The operation.
        op: OpName,
        /// How it failed.
        error: IoError,
    },
    /// The directory is empty and a log was expected.
    #[error(
        "no log here although this shard should have one: check that the right directory is \
         mounted, or re-initialise the node"
    )]
    Absent,
    /// There are files of a log and no superblock.
    #[error(
        "the superblock is missing next to {0} other files: restore it or re-initialise the node; \
         nothing was changed"
    )]
    SuperblockMissing(usize),
    /// The superblock's copies cannot be trusted.
    #[error("the superblock cannot be trusted ({0}): re-initialise the node from its replicas")]
    SuperblockUntrusted(String),
    /// A file belongs to another data directory.
    #[error("{} belongs to storage {found}, not {expected}: put the files back where they belong", file.file_name())]
    WrongStorage {
        /// The file.
        file: FileName,
        /// This directory.
        expected: StorageUuid,
        /// What the file says.
        found: StorageUuid,
    },
    /// A file belongs to another shard.
    #[error("{} belongs to shard {found}, not {expected}: put the files back where they belong", file.file_name())]
    WrongShard {
        /// The file.
        file: FileName,
        /// This shard.
        expected: ShardId,
        /// What the file says.
        found: ShardId,
    },
    /// A file belongs to another log of the same shard, made before or after this one.
    #[error("{} belongs to another log of this shard: put the files back where they belong", file.file_name())]
    WrongLog {
        /// The file.
        file: FileName,
    },
    /// A file was written by newer code.
    #[error("{} has format version {found}, this version reads up to {supported}: upgrade", file.file_name())]
    Newer {
        /// The file.
        file: FileName,
        /// Its version.
        found: u32,
        /// The newest this code reads.
        supported: u32,
    },
    /// A size that is fixed when a log is made is configured differently.
    #[error("{what} is {configured} in the configuration and {found} on disk: configure {found}")]
    Setting {
        /// Which setting.
        what: &'static str,
        /// Configured.
        configured: u32,
        /// On disk.
        found: u32,
    },
    /// A segment the superblock lists has no file.
    #[error("{} is missing: restore it or re-initialise the node", file.file_name())]
    SegmentMissing {
        /// The file.
        file: FileName,
    },
    /// A segment file has the wrong length.
    #[error("{} has {found} bytes instead of {expected}: restore it or re-initialise the node", file.file_name())]
    SegmentLength {
        /// The file.
        file: FileName,
        /// What it should have.
        expected: u64,
        /// What it has.
        found: u64,
    },
    /// Neither copy of a segment's header is what the superblock says.
    #[error("the header of {} is unreadable ({detail}): re-initialise the node from its replicas", file.file_name())]
    SegmentHeader {
        /// The file.
        file: FileName,
        /// What was found.
        detail: String,
    },
    /// A segment holds a header newer than the superblock: an old superblock was put back.
    #[error("{} holds segment {found}, which the superblock does not know: restore the right superblock", file.file_name())]
    SuperblockStale {
        /// The file.
        file: FileName,
        /// The segment it holds.
        found: SegmentId,
    },
    /// No checkpoint verifies.
    #[error("no checkpoint can be used ({0}): re-initialise the node from its replicas")]
    Checkpoints(String),
    /// The owner could not take a checkpoint piece whose checksum held.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A group that was durable is damaged. The log is not cut and does not open.
    #[error(
        "group {group} is damaged at byte {pos} of {} (segment {segment}): {detail}; it was \
         durable, so nothing is cut: repair from a replica",
        file.file_name()
    )]
    Corruption {
        /// The group.
        group: GroupSeq,
        /// Where it should be.
        file: FileName,
        /// Where it should be.
        segment: SegmentId,
        /// Where it should be.
        pos: u32,
        /// What was found, and how it is known that the group was durable.
        detail: String,
    },
}

/// Who found damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageFinder {
    /// A record read.
    Read,
    /// Compaction.
    Compaction,
    /// The background verification.
    Scrub,
}

/// A damaged place found while running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Who found it.
    pub finder: DamageFinder,
    /// The file.
    pub file: FileName,
    /// The segment in it.
    pub segment: SegmentId,
    /// Byte position of the damaged group, or record for [`DamageFinder::Read`].
    pub pos: u32,
    /// What was found.
    pub detail: String,
}

/// How the log ended when it was recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TailState {
    /// Nothing lay behind the last group.
    #[default]
    Clean,
    /// A write was in flight and did not complete: it was never acknowledged, and is cut.
    Torn,
    /// One damaged group lay at the end. Either it was in flight, or it was damaged before its
    /// durability was recorded. It is cut.
    Uncertain,
}

/// What recovery found.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RecoveryReport {
    /// The log was made new.
    pub formatted: bool,
    /// Number of the checkpoint restored; 0: replay from the beginning.
    pub checkpoint: u64,
    /// Checkpoints that did not verify.
    pub checkpoints_bad: u64,
    /// Bytes of checkpoint restored.
    pub checkpoint_bytes: u64,
    /// Bytes read for replay.
    pub bytes_scanned: u64,
    /// Groups replayed.
    pub groups: u64,
    /// Records replayed.
    pub records: u64,
    /// How the log ended.
    pub tail: TailState,
    /// Superblock copies that were not usable.
    pub superblock_copies_bad: u64,
    /// Segment header copies that were not usable.
    pub segment_headers_bad: u64,
}

/// Slots by state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SegmentCounts {
    /// Zero-filled or recycled, ready for use.
    pub free: u32,
    /// With a header for their next use.
    pub prepared: u32,
    /// Taking groups.
    pub active: u32,
    /// Full.
    pub sealed: u32,
}

/// What the log did since it was started. Plain numbers of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LogCounters {
    /// Groups made durable.
    pub groups: u64,
    /// Groups without records among them, written when idle.
    pub groups_empty: u64,
    /// Records made durable.
    pub records: u64,
    /// Bytes of records made durable.
    pub record_bytes: u64,
    /// Bytes of groups written, with headers and padding.
    pub group_bytes: u64,
    /// Appends refused as overload.
    pub refused_overloaded: u64,
    /// Appends refused for want of space.
    pub refused_no_space: u64,
    /// Superblock versions made durable.
    pub superblocks: u64,
    /// Segments zero-filled.
    pub segments_filled: u64,
    /// Segments prepared for use.
    pub segments_prepared: u64,
    /// Segments freed by compaction.
    pub segments_freed: u64,
    /// Times the disk had no space for a segment or checkpoint.
    pub no_space: u64,
    /// Record reads asked for.
    pub reads: u64,
    /// Bytes read for them.
    pub read_bytes: u64,
    /// Record reads that found damage.
    pub reads_corrupt: u64,
    /// Record reads the device failed.
    pub reads_failed: u64,
    /// Checkpoints completed.
    pub checkpoints: u64,
    /// Checkpoints given up for want of space.
    pub checkpoints_abandoned: u64,
    /// Bytes of checkpoints written.
    pub checkpoint_bytes: u64,
    /// Bytes compaction read.
    pub compaction_read_bytes: u64,
    /// Records compaction copied.
    pub compaction_records: u64,
    /// Bytes of records compaction copied.
    pub compaction_bytes: u64,
    /// Bytes of records compaction dropped.
    pub compaction_dropped_bytes: u64,
    /// Bytes verified in the background.
    pub scrub_bytes: u64,
    /// Times every sealed segment had been verified.
    pub scrub_rounds: u64,
    /// Damaged places found while running.
    pub damage: u64,
    /// Damaged segments freed because nothing in them is needed any more.
    pub segments_retired: u64,
    /// What recovery found.
    pub recovery: RecoveryReport,
    /// Slots by state at present.
    pub segments: SegmentCounts,
    /// Bytes of live records at present.
    pub live_bytes: u64,
    /// Bytes of segment files that hold records, live or not, at present.
    pub held_bytes: u64,
    /// Bytes of segment and checkpoint files at present.
    pub disk_bytes: u64,
}
