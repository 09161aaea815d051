//! One shard log on a disk in memory, with an owner that only counts.

use ironring_core::io::{HeapAlloc, IoDone, IoQueue};
use ironring_core::{
    GroupSeq, Instant, Now, Offset, PartitionId, SessionId, ShardId, StorageUuid, Term, WallTime,
};
use ironring_log::{
    Appended, CheckpointSource, Identity, Keep, Location, Log, LogConfig, LogSink, LogStatus,
    Priority, ReadError, ReadId, Record, RecordKind, RestoreError,
};

use crate::memory_disk::MemoryDisk;

/// A put of partition 3.
#[must_use]
pub fn put<'a>(offset: u64, key: &'a [u8], body: &'a [u8]) -> Record<'a> {
    Record {
        kind: RecordKind::Put,
        flags: 0,
        partition: PartitionId(3),
        term: Term(1),
        offset: Offset(offset),
        session: SessionId::NONE,
        sequence: 0,
        time: WallTime(1_700_000_000_000),
        expires: WallTime(0),
        key,
        body,
    }
}

/// What the log told its owner, in numbers. Everything is live; there is nothing to checkpoint.
#[derive(Debug, Default)]
pub struct Counts {
    /// Records recovered.
    pub replayed: u64,
    /// Records made durable.
    pub flushed: u64,
}

impl LogSink for Counts {
    fn restore(&mut self, _piece: &[u8]) -> Result<(), RestoreError> {
        Err(RestoreError("this owner makes no checkpoint pieces".to_owned()))
    }

    fn replay(&mut self, _at: Location, _group: GroupSeq, _record: &Record<'_>) {
        self.replayed += 1;
    }

    fn flushed(
        &mut self,
        _group: GroupSeq,
        records: &mut dyn Iterator<Item = (Location, Record<'_>)>,
    ) {
        self.flushed += records.count() as u64;
    }

    fn read_done(&mut self, _read: ReadId, _at: Location, result: Result<Record<'_>, ReadError>) {
        result.expect("a disk in memory does not fail");
    }

    fn keep(&mut self, _at: Location, _record: &Record<'_>) -> Keep {
        Keep::Live
    }

    fn relocated(&mut self, _from: Location, _to: Location, _at: GroupSeq, _record: &Record<'_>) {}
}

impl CheckpointSource for Counts {
    fn begin(&mut self) {}

    fn next_piece(&mut self, _out: &mut Vec<u8>) -> bool {
        false
    }
}

/// A log, its disk and its owner.
pub struct SoloLog {
    log: Log,
    disk: MemoryDisk,
    io: IoQueue,
    now: Now,
    counts: Counts,
}

impl SoloLog {
    /// Opens the log on `disk`, or makes one when it is empty, and waits until it has prepared the
    /// segments it keeps in reserve: that work is not part of a commit.
    ///
    /// # Panics
    /// When it does not open.
    #[must_use]
    pub fn open(config: LogConfig, disk: MemoryDisk) -> SoloLog {
        let identity = Identity { storage: StorageUuid(7), shard: ShardId(0), salt: 1 };
        let mut solo = SoloLog {
            log: Log::new(config, identity, Box::new(HeapAlloc)),
            disk,
            io: IoQueue::default(),
            now: Now { mono: Instant(1), wall: WallTime(1_700_000_000_000) },
            counts: Counts::default(),
        };
        solo.log.start(true, &mut solo.io);
        while matches!(solo.log.status(), LogStatus::Opening(_)) {
            assert!(solo.complete_one(), "opening waits for nothing");
        }
        while solo.complete_one() {}
        assert_eq!(solo.log.status(), &LogStatus::Open);
        solo
    }

    /// Stages a record for the next group.
    ///
    /// # Panics
    /// When it is refused.
    pub fn append(&mut self, record: &Record<'_>) -> Appended {
        self.log.append(record, Priority::User).expect("the disk and the buffers have room")
    }

    /// Writes the staged group, and completes it and all that follows from it.
    pub fn commit(&mut self) {
        self.log.seal(self.now, &mut self.io);
        while self.complete_one() {}
    }

    /// What the owner was told.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The disk as a power failure would leave it at this moment.
    #[must_use]
    pub fn into_disk(self) -> MemoryDisk {
        self.disk
    }

    fn complete_one(&mut self) -> bool {
        let Some(request) = self.io.pop() else { return false };
        let done = IoDone { id: request.id, result: self.disk.execute(request.op) };
        self.log.on_io(self.now, done, &mut self.io, &mut self.counts);
        self.log.seal(self.now, &mut self.io);
        true
    }
}
