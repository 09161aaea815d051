//! The shipped log under a key-value owner as small as can be: finds the log's bugs without those
//! of a shard around it.
//!
//! The owner keeps the rules a shard keeps: it acks at `local` when the group is durable, answers
//! reads with durable versions only, marks what is dead, relocates what compaction keeps, and
//! writes its index into checkpoints piece by piece while writes go on.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use ironring_core::io::{FileName, HeapAlloc, IoOp};
use ironring_core::{
    Durability, ErrorCode, GroupSeq, Instant, Now, Offset, PartitionId, SegmentId, SessionId,
    ShardId, StorageUuid, Term, Token, WallTime,
};
use ironring_log::{
    AppendError, CheckpointSource, Identity, Keep, Location, Log, LogConfig, LogFailure, LogSink,
    LogStatus, Priority, ReadError, ReadId, Record, RecordKind, RestoreError, TailState,
};

use crate::sim::op::{Change, Key, Op, Outcome, Receipt, RequestId, Value, payload};
use crate::sim::subject::{Conn, Effects, Event, FailureKind, Node, Phase, Subject};

const PARTITIONS: u32 = 4;
const PIECE_ENTRIES: usize = 16;

/// A node of one shard that is nothing but a log.
#[derive(Clone, Debug)]
pub struct LogNode {
    /// The log's settings.
    pub config: LogConfig,
}

impl Node for LogNode {
    type Subject = LogAlone;

    fn shards(&self) -> u16 {
        1
    }

    fn partitions(&self) -> u32 {
        PARTITIONS
    }

    fn owner(&self, _partition: PartitionId) -> ShardId {
        ShardId(0)
    }

    fn is_group(&self, op: &IoOp) -> bool {
        is_group(op)
    }

    fn make(&self, shard: ShardId) -> LogAlone {
        let identity = Identity { storage: StorageUuid(0x5EED), shard, salt: 7 };
        LogAlone {
            log: Log::new(self.config.clone(), identity, Box::new(HeapAlloc)),
            owner: Owner::default(),
            waiting: VecDeque::new(),
            reads: BTreeMap::new(),
            next_read: 0,
            was_open: false,
        }
    }
}

/// Whether an operation writes a commit group of the shipped log.
#[must_use]
pub fn is_group(op: &IoOp) -> bool {
    match op {
        IoOp::WriteAt { file: FileName::Segment(_), buf, .. } => buf.starts_with(b"IRGROUP1"),
        _ => false,
    }
}

/// What ended a log's life, in the simulator's terms.
#[must_use]
pub fn kind_of_failure(failure: &LogFailure) -> FailureKind {
    match failure {
        LogFailure::Io { .. } => FailureKind::Device,
        _ => FailureKind::Damage,
    }
}

/// What a log did in its life, to be counted.
#[must_use]
pub fn count_log(log: &Log) -> Vec<(String, u64)> {
    let c = log.counters();
    let r = &c.recovery;
    let opened = matches!(log.status(), LogStatus::Open | LogStatus::Stopped);
    let recovered = opened && !r.formatted;
    let tail = |state| u64::from(recovered && r.tail == state);
    let mut counts = vec![
        ("log formatted", u64::from(r.formatted)),
        ("recovery with a clean tail", tail(TailState::Clean)),
        ("recovery with a torn tail", tail(TailState::Torn)),
        ("recovery with an uncertain tail", tail(TailState::Uncertain)),
        ("recovery from a checkpoint", u64::from(recovered && r.checkpoint > 0)),
        ("checkpoints that did not verify", r.checkpoints_bad),
        ("superblock copies not usable", r.superblock_copies_bad),
        ("segment headers not usable", r.segment_headers_bad),
        ("groups", c.groups),
        ("empty groups", c.groups_empty),
        ("segments filled", c.segments_filled),
        ("segments prepared", c.segments_prepared),
        ("segments freed", c.segments_freed),
        ("checkpoints", c.checkpoints),
        ("checkpoints abandoned", c.checkpoints_abandoned),
        ("records relocated", c.compaction_records),
        ("disk reads for records", c.reads),
        ("damaged records read", c.reads_corrupt),
        ("damage found in the background", c.damage),
        ("scrub rounds", c.scrub_rounds),
    ];
    if let LogStatus::Failed(failure) = log.status() {
        counts.push((failure_name(failure), 1));
    }
    counts.into_iter().map(|(name, times)| (name.to_owned(), times)).collect()
}

fn failure_name(failure: &LogFailure) -> &'static str {
    match failure {
        LogFailure::Io { .. } => "failure: io",
        LogFailure::Absent => "failure: absent",
        LogFailure::SuperblockMissing(_) => "failure: superblock missing",
        LogFailure::SuperblockUntrusted(_) => "failure: superblock untrusted",
        LogFailure::SegmentMissing { .. } => "failure: segment missing",
        LogFailure::SegmentLength { .. } => "failure: segment length",
        LogFailure::SegmentHeader { .. } => "failure: segment header",
        LogFailure::SuperblockStale { .. } => "failure: superblock stale",
        LogFailure::Checkpoints(_) => "failure: checkpoints",
        LogFailure::Corruption { .. } => "failure: corruption",
        _ => "failure: other",
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    version: u64,
    /// `None` for a removed key.
    at: Option<Location>,
}

/// A read that ended, with the record's offset and body.
type FinishedRead = (ReadId, Result<(u64, Vec<u8>), ReadError>);

#[derive(Debug, Default)]
struct Owner {
    index: BTreeMap<Vec<u8>, Entry>,
    log_end: BTreeMap<PartitionId, u64>,
    durable: GroupSeq,
    /// Versions that are in no durable group yet, by group.
    fresh: BTreeMap<(PartitionId, u64), GroupSeq>,
    dead: Vec<Location>,
    done: Vec<FinishedRead>,
    cursor: Option<Bound<Vec<u8>>>,
    ends_written: bool,
}

impl Owner {
    fn apply(&mut self, at: Location, record: &Record<'_>) {
        let end = self.log_end.entry(record.partition).or_default();
        *end = (*end).max(record.offset.0);
        let put = record.kind == RecordKind::Put;
        let new = Entry { version: record.offset.0, at: put.then_some(at) };
        let old = self.index.get(record.key).copied();
        if old.is_some_and(|old| old.version > new.version) {
            return;
        }
        if let Some(place) = old.and_then(|old| old.at)
            && Some(place) != new.at
        {
            self.dead.push(place);
        }
        self.index.insert(record.key.to_vec(), new);
    }
}

impl LogSink for Owner {
    fn restore(&mut self, piece: &[u8]) -> Result<(), RestoreError> {
        let mut piece = Piece(piece);
        let mut parse = |p: &mut Piece<'_>| -> Option<()> {
            for partition in 0..p.u32()? {
                let end = p.u64()?;
                let known = self.log_end.entry(PartitionId(partition)).or_default();
                *known = (*known).max(end);
            }
            for _ in 0..p.u32()? {
                let len = p.u32()? as usize;
                let key = p.take(len)?.to_vec();
                let version = p.u64()?;
                let (segment, pos, len) = (p.u32()?, p.u32()?, p.u32()?);
                let at = Location { segment: SegmentId(segment), pos, len };
                self.index.insert(key, Entry { version, at: (len > 0).then_some(at) });
            }
            p.0.is_empty().then_some(())
        };
        parse(&mut piece).ok_or_else(|| RestoreError("a field is cut off".to_owned()))
    }

    fn replay(&mut self, at: Location, _group: GroupSeq, record: &Record<'_>) {
        self.apply(at, record);
    }

    fn flushed(
        &mut self,
        group: GroupSeq,
        _records: &mut dyn Iterator<Item = (Location, Record<'_>)>,
    ) {
        self.durable = self.durable.max(group);
        self.fresh.retain(|_, of| *of > group);
    }

    fn read_done(&mut self, read: ReadId, _at: Location, result: Result<Record<'_>, ReadError>) {
        self.done.push((read, result.map(|r| (r.offset.0, r.body.to_vec()))));
    }

    fn keep(&mut self, at: Location, record: &Record<'_>) -> Keep {
        match self.index.get(record.key) {
            Some(Entry { at: Some(place), .. }) if *place == at => Keep::Live,
            _ => Keep::Drop,
        }
    }

    fn relocated(&mut self, from: Location, to: Location, _group: GroupSeq, record: &Record<'_>) {
        let entry = self.index.get_mut(record.key).expect("a kept record has an entry");
        assert_eq!(entry.at, Some(from), "a kept record is where the index says");
        entry.at = Some(to);
    }
}

impl CheckpointSource for Owner {
    fn begin(&mut self) {
        self.cursor = Some(Bound::Unbounded);
        self.ends_written = false;
    }

    fn next_piece(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(from) = self.cursor.take() else { return false };
        let range = self.index.range::<Vec<u8>, _>((from, Bound::Unbounded));
        let entries: Vec<_> = range.take(PIECE_ENTRIES).collect();
        if entries.is_empty() && self.ends_written {
            return false;
        }
        // Offsets given to tombstones that nothing refers to any more must not be given again.
        let ends = if self.ends_written { 0 } else { PARTITIONS };
        self.ends_written = true;
        out.extend_from_slice(&ends.to_le_bytes());
        for partition in 0..ends {
            let end = self.log_end.get(&PartitionId(partition)).copied().unwrap_or(0);
            out.extend_from_slice(&end.to_le_bytes());
        }
        out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
        for (key, entry) in &entries {
            out.extend_from_slice(&(key.len() as u32).to_le_bytes());
            out.extend_from_slice(key);
            out.extend_from_slice(&entry.version.to_le_bytes());
            let at = entry.at.map_or([0; 3], |at| [at.segment.0, at.pos, at.len]);
            at.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
        }
        self.cursor = entries.last().map(|(key, _)| Bound::Excluded((*key).clone()));
        true
    }
}

struct Piece<'a>(&'a [u8]);

impl<'a> Piece<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (now, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(now)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
}

/// An answer that waits for a group.
#[derive(Debug)]
struct Waiting {
    group: GroupSeq,
    conn: Conn,
    request: RequestId,
    then: Then,
}

#[derive(Debug)]
enum Then {
    Ack(Receipt),
    Read(Key),
}

/// See the module's description.
pub struct LogAlone {
    log: Log,
    owner: Owner,
    waiting: VecDeque<Waiting>,
    reads: BTreeMap<ReadId, (Conn, RequestId, Key)>,
    next_read: u64,
    was_open: bool,
}

impl LogAlone {
    fn request(&mut self, now: Now, conn: Conn, request: RequestId, op: Op, fx: &mut Effects<()>) {
        if !matches!(self.log.status(), LogStatus::Open) {
            let code = match self.log.status() {
                LogStatus::Failed(_) => ErrorCode::ShardFenced,
                _ => ErrorCode::NotReady,
            };
            fx.replies.push((conn, request, error(code)));
            return;
        }
        match op {
            Op::Write { intent, ops, batch: false } => {
                let outcome = self.write(now, &intent, &ops[0].key, ops[0].change);
                match outcome {
                    Ok((group, receipt)) if intent.level == Durability::Async => {
                        let _ = group;
                        fx.replies.push((conn, request, Outcome::Receipt(receipt)));
                    }
                    Ok((group, receipt)) => {
                        let then = Then::Ack(receipt);
                        self.waiting.push_back(Waiting { group, conn, request, then });
                    }
                    Err(code) => fx.replies.push((conn, request, error(code))),
                }
            }
            Op::Get { key } => self.get(conn, request, key, fx),
            other => unreachable!("a log alone is not asked for {other:?}"),
        }
    }

    fn write(
        &mut self,
        now: Now,
        intent: &crate::sim::op::Intent,
        key: &Key,
        change: Change,
    ) -> Result<(GroupSeq, Receipt), ErrorCode> {
        let offset = self.owner.log_end.get(&intent.partition).copied().unwrap_or(0) + 1;
        let (kind, body, priority) = match change {
            Change::Put { len, .. } => {
                (RecordKind::Put, payload(intent.id, 0, len), Priority::User)
            }
            Change::Delete => (RecordKind::Delete, Vec::new(), Priority::Reserve),
        };
        let record = Record {
            kind,
            flags: 0,
            partition: intent.partition,
            term: Term(1),
            offset: Offset(offset),
            session: SessionId::NONE,
            sequence: 0,
            time: now.wall,
            expires: WallTime(0),
            key,
            body: &body,
        };
        let appended = self.log.append(&record, priority).map_err(|e| match e {
            AppendError::Overloaded => ErrorCode::Overloaded,
            AppendError::NoSpace => ErrorCode::NoSpace,
            AppendError::TooLarge => ErrorCode::TooLarge,
            AppendError::Closed => ErrorCode::NotReady,
        })?;
        self.owner.apply(appended.location, &record);
        self.owner.fresh.insert((intent.partition, offset), appended.group);
        if kind == RecordKind::Delete {
            // Nothing refers to a tombstone's record.
            self.log.mark_dead(appended.location);
        }
        self.tell_dead();
        let receipt = Receipt {
            level: intent.level,
            partition: intent.partition,
            term: 1,
            offset,
            duplicate: false,
        };
        Ok((appended.group, receipt))
    }

    fn get(&mut self, conn: Conn, request: RequestId, key: Key, fx: &mut Effects<()>) {
        let Some(entry) = self.owner.index.get(&*key).copied() else {
            fx.replies.push((conn, request, error(ErrorCode::NotFound)));
            return;
        };
        let partition = Token::of_key(&key).partition(PARTITIONS);
        if let Some(group) = self.owner.fresh.get(&(partition, entry.version)).copied() {
            let then = Then::Read(key);
            self.waiting.push_back(Waiting { group, conn, request, then });
            return;
        }
        match entry.at {
            None => fx.replies.push((conn, request, error(ErrorCode::NotFound))),
            Some(at) => {
                self.next_read += 1;
                let read = ReadId(self.next_read);
                self.reads.insert(read, (conn, request, key));
                self.log.read(read, at, &mut fx.io);
            }
        }
    }

    fn tell_dead(&mut self) {
        for at in self.owner.dead.drain(..) {
            self.log.mark_dead(at);
        }
    }

    /// Answers what the log's news allow.
    fn follow(&mut self, fx: &mut Effects<()>) {
        self.tell_dead();
        if !self.was_open && matches!(self.log.status(), LogStatus::Open) {
            self.was_open = true;
            self.owner.durable = self.owner.durable.max(self.log.durable());
            let live: Vec<Location> = self.owner.index.values().filter_map(|e| e.at).collect();
            live.into_iter().for_each(|at| self.log.mark_live(at));
        }
        for (read, result) in std::mem::take(&mut self.owner.done) {
            let (conn, request, _) = self.reads.remove(&read).expect("a read ends once");
            let outcome = match result {
                Ok((version, bytes)) => Outcome::Value(Value { version, expires: 0, bytes }),
                Err(ReadError::Corrupt { .. }) => error(ErrorCode::Corrupt),
                Err(_) => error(ErrorCode::ShardFenced),
            };
            fx.replies.push((conn, request, outcome));
        }
        let durable = self.owner.durable;
        // Reads wait for groups that acks before them may wait longer for: order is by arrival.
        let (ready, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|w| w.group <= durable);
        self.waiting = rest.into();
        for Waiting { conn, request, then, .. } in ready {
            match then {
                Then::Ack(receipt) => {
                    fx.replies.push((conn, request, Outcome::Receipt(receipt)));
                }
                Then::Read(key) => self.get(conn, request, key, fx),
            }
        }
        if matches!(self.log.status(), LogStatus::Failed(_)) {
            for Waiting { conn, request, .. } in self.waiting.drain(..) {
                fx.replies.push((conn, request, error(ErrorCode::Unknown)));
            }
        }
    }
}

impl Subject for LogAlone {
    type Message = ();

    fn handle(&mut self, now: Now, event: Event<()>, fx: &mut Effects<()>) {
        match event {
            Event::Start { format } => self.log.start(format, &mut fx.io),
            Event::Io(done) => {
                self.log.on_io(now, done, &mut fx.io, &mut self.owner);
                self.follow(fx);
            }
            Event::Request { conn, request, op } => self.request(now, conn, request, op, fx),
            Event::TurnEnd => {
                self.log.seal(now, &mut fx.io);
                self.follow(fx);
            }
            Event::Timer => {
                self.log.on_timer(now, &mut fx.io, &mut self.owner);
                self.follow(fx);
            }
            Event::Stop => {
                self.log.begin_stop(now, &mut fx.io);
                self.follow(fx);
            }
            Event::Closed(_) | Event::Message(()) => {}
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.log.next_deadline()
    }

    fn phase(&self) -> Phase {
        match self.log.status() {
            LogStatus::Opening(_) => Phase::Opening,
            LogStatus::Open | LogStatus::Stopping => Phase::Serving,
            LogStatus::Stopped => Phase::Stopped,
            LogStatus::Failed(failure) => {
                Phase::Failed(kind_of_failure(failure), failure.to_string())
            }
        }
    }

    fn counted(&self) -> Vec<(String, u64)> {
        count_log(&self.log)
    }
}

fn error(code: ErrorCode) -> Outcome {
    Outcome::Error { code, detail: 0 }
}
