//! One run of a log on a disk: executes its requests in a random order.

use std::time::Duration;

use ironring_core::io::{FileName, HeapAlloc, IoDone, IoOp, IoQueue, IoRequest};
use ironring_core::prng::Prng;
use ironring_core::{Instant, Now, ShardId, StorageUuid, WallTime};

use super::disk::{Disk, name_of};
use super::owner::{Owner, record};
use crate::{
    AppendError, Appended, Identity, Location, Log, LogConfig, LogStatus, Priority, ReadError,
    ReadId, RecordKind,
};

pub const IDENTITY: Identity =
    Identity { storage: StorageUuid(0xA11CE), shard: ShardId(2), salt: 0x5A17 };

/// Segments of 1 MiB, checkpoints far apart.
pub fn small() -> LogConfig {
    LogConfig { segment_bytes: 1 << 20, checkpoint_interval_bytes: 1 << 40, ..LogConfig::default() }
}

pub struct Run {
    pub log: Log,
    pub owner: Owner,
    pub disk: Disk,
    io: IoQueue,
    in_flight: Vec<IoRequest>,
    /// What is asked of this file is not done yet.
    pub held: Option<FileName>,
    pub now: Now,
    pub rng: Prng,
    pub next_offset: u64,
    next_read: u64,
}

impl Run {
    /// Starts a log on `disk`; nothing is executed yet.
    pub fn start(config: LogConfig, disk: Disk, seed: u64) -> Run {
        Run::start_as(IDENTITY, config, disk, seed, true)
    }

    pub fn start_as(
        id: Identity,
        config: LogConfig,
        disk: Disk,
        seed: u64,
        may_format: bool,
    ) -> Run {
        let mut run = Run {
            log: Log::new(config, id, Box::new(HeapAlloc)),
            owner: Owner { piece_entries: 8, ..Owner::default() },
            disk,
            io: IoQueue::default(),
            in_flight: Vec::new(),
            held: None,
            now: Now { mono: Instant(1), wall: WallTime(1_700_000_000_000) },
            rng: Prng::new(seed),
            next_offset: 1,
            next_read: 1,
        };
        run.log.start(may_format, &mut run.io);
        run
    }

    /// Starts and runs until the log is open or failed.
    pub fn open(config: LogConfig, disk: Disk, seed: u64) -> Run {
        let mut run = Run::start(config, disk, seed);
        run.until_opened();
        run
    }

    /// A log that opened.
    pub fn opened(config: LogConfig, disk: Disk, seed: u64) -> Run {
        let run = Run::open(config, disk, seed);
        assert_eq!(run.log.status(), &LogStatus::Open);
        run
    }

    pub fn until_opened(&mut self) {
        while matches!(self.log.status(), LogStatus::Opening(_)) {
            assert!(self.step(), "opening is stuck: {:?}", self.log.status());
        }
        if matches!(self.log.status(), LogStatus::Open) {
            self.next_offset = 1 + self.owner.index.values().map(|(o, _)| *o).max().unwrap_or(0);
            for at in self.owner.index.values().filter_map(|(_, at)| *at) {
                self.log.mark_live(at);
            }
            self.owner.dead.clear();
        }
    }

    fn collect(&mut self) {
        while let Some(request) = self.io.pop() {
            self.in_flight.push(request);
        }
    }

    /// Completes one request, any. False: there is none.
    pub fn step(&mut self) -> bool {
        self.collect();
        let held = self.held;
        let goes = |r: &&IoRequest| held.is_none() || name_of(&r.op).1 != held;
        let count = self.in_flight.iter().filter(goes).count();
        if count == 0 {
            return false;
        }
        let i = self.rng.below(count as u64) as usize;
        let mut may = (0..self.in_flight.len()).filter(|i| goes(&&self.in_flight[*i]));
        let i = may.nth(i).expect("fewer than there are");
        let request = self.in_flight.swap_remove(i);
        if let IoOp::Remove { file } = &request.op {
            let mut live = self.owner.index.values().filter_map(|(_, at)| *at);
            let there = live.find(|at| self.log.file_of(at.segment) == Some(*file));
            assert_eq!(there, None, "{file:?} is deleted and has live records");
        }
        let result = self.disk.execute(request.op);
        let done = IoDone { id: request.id, result };
        self.now.mono = self.now.mono + Duration::from_micros(50);
        self.log.on_io(self.now, done, &mut self.io, &mut self.owner);
        self.turn_ends();
        true
    }

    /// What a shard does at the end of a turn.
    pub fn turn_ends(&mut self) {
        for at in std::mem::take(&mut self.owner.dead) {
            self.log.mark_dead(at);
        }
        self.log.seal(self.now, &mut self.io);
    }

    /// Completes everything that is in flight and what follows from it.
    pub fn settle(&mut self) {
        while self.step() {}
    }

    /// Time passes; due timers fire.
    pub fn pass(&mut self, time: Duration) {
        self.now.mono = self.now.mono + time;
        while self.log.next_deadline().is_some_and(|at| at <= self.now.mono) {
            self.log.on_timer(self.now, &mut self.io, &mut self.owner);
            self.turn_ends();
            if !self.step() && self.log.next_deadline().is_some_and(|at| at <= self.now.mono) {
                self.log.on_timer(self.now, &mut self.io, &mut self.owner);
                self.turn_ends();
                break;
            }
        }
    }

    pub fn append(
        &mut self,
        kind: RecordKind,
        key: &[u8],
        body: &[u8],
        priority: Priority,
    ) -> Result<Appended, AppendError> {
        let rec = record(kind, self.next_offset, key, body);
        let done = self.log.append(&rec, priority)?;
        self.next_offset += 1;
        self.owner.apply(done.location, &rec);
        if kind != RecordKind::Put {
            self.owner.dead.push(done.location);
        }
        Ok(done)
    }

    pub fn put(&mut self, key: &[u8], body: &[u8]) -> Appended {
        self.append(RecordKind::Put, key, body, Priority::User).expect("there is room")
    }

    /// Puts and waits until it is durable.
    pub fn put_durable(&mut self, key: &[u8], body: &[u8]) -> Appended {
        let done = self.put(key, body);
        self.turn_ends();
        while self.log.durable() < done.group {
            assert!(self.step(), "the group is never written");
        }
        done
    }

    /// Puts however often it is refused as overload.
    pub fn put_patiently(&mut self, key: &[u8], body: &[u8]) -> Result<Appended, AppendError> {
        loop {
            match self.append(RecordKind::Put, key, body, Priority::User) {
                Err(AppendError::Overloaded) => {
                    self.turn_ends();
                    if !self.step() {
                        self.pass(Duration::from_secs(1));
                        assert!(self.step(), "overloaded and nothing in flight");
                    }
                }
                other => return other,
            }
        }
    }

    pub fn read(&mut self, at: Location) -> Result<super::owner::Owned, ReadError> {
        let id = ReadId(self.next_read);
        self.next_read += 1;
        self.log.read(id, at, &mut self.io);
        self.pass(Duration::ZERO);
        while !self.owner.reads.contains_key(&id) {
            if !self.step() {
                // The group it waits for may be held back for more records.
                self.pass(Duration::from_millis(2));
                assert!(self.step(), "the read is never answered");
            }
        }
        self.owner.reads.remove(&id).expect("just found")
    }

    /// Bytes of the records the index refers to.
    pub fn live_bytes(&self) -> u64 {
        self.owner.index.values().filter_map(|(_, at)| *at).map(|at| u64::from(at.len)).sum()
    }

    /// Every key of the index reads back as a put of that key.
    pub fn check_reads(&mut self) {
        // Compaction goes on meanwhile: each place is looked up when it is read.
        let keys: Vec<_> = self.owner.index.keys().cloned().collect();
        for key in keys {
            if let (offset, Some(at)) = self.owner.index[&key] {
                let found = self.read(at).expect("a record of the index is readable");
                assert_eq!((found.key, found.offset), (key, offset));
            }
        }
    }

    /// Power fails.
    pub fn crash(mut self) -> Disk {
        self.collect();
        let in_flight = self.in_flight.into_iter().map(|r| r.op).collect();
        self.disk.crash(in_flight, &mut self.rng);
        self.disk
    }

    /// The process dies; the device keeps what it was given until power fails as well.
    pub fn kill(mut self) -> Disk {
        self.collect();
        let in_flight = self.in_flight.into_iter().map(|r| r.op).collect();
        self.disk.kill(in_flight, &mut self.rng);
        self.disk
    }

    /// Stops in order.
    pub fn stop(mut self) -> Disk {
        self.log.begin_stop(self.now, &mut self.io);
        while !matches!(self.log.status(), LogStatus::Stopped) {
            if !self.step() {
                assert!(self.log.next_deadline().is_some(), "stopping is stuck");
                self.pass(Duration::ZERO);
            }
        }
        self.collect();
        assert!(self.in_flight.is_empty(), "a stopped log has nothing in flight");
        self.disk.close_all();
        self.disk
    }
}
