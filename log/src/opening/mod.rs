//! From a directory to a log that takes records: formatting or recovery.
//!
//! Order: list -> superblock -> segments (lengths, headers) -> checkpoint (verify, then restore)
//! -> replay -> sync of the last segment. Then [`crate::Log`] raises the run number durably and is
//! open. Recovery writes nothing before that superblock version, so a crash at any point of it
//! leaves what it found.
//!
//! Formatting: superblock file of zeros (synced with its directory) -> first segment (zeros,
//! synced, header) -> superblock version 1, then 2. The superblock file comes first and its first
//! version last, so "files of a log without a superblock file" is never a crash, and "a superblock
//! file that was never written" always is; the latter is formatted again.

mod checkpoint;
mod format;
pub(crate) mod replay;
mod segments;
pub(crate) mod superblock_choice;
pub(crate) mod tail;

use ironring_core::FilePos;
use ironring_core::GroupSeq;
use ironring_core::io::{BufAlloc, FileName, IoError, IoOk, IoOp, IoQueue};

use crate::config::LogConfig;
use crate::format::superblock::{
    COPIES, COPY_EXTENT_BYTES, CheckpointRef, SlotState, Superblock, SuperblockError,
};
use crate::format::{FORMAT_VERSION, IdentitySeed};
use crate::ops::{Ops, Purpose};
use crate::segments::file_of;
use crate::staging::Place;
use crate::status::OpName;
use crate::{Identity, LogFailure, LogSink, OpenProgress, OpenStep, RecoveryReport};

use checkpoint::Restoring;
use format::Formatting;
use replay::{Ended, Layout, Next, Replay};
use segments::Checking;
use superblock_choice::{Choice, Copy, choose};
use tail::{Verdict, judge, scan_bytes};

/// What a step may use.
pub(crate) struct Cx<'a> {
    pub ops: &'a mut Ops,
    pub io: &'a mut IoQueue,
    pub alloc: &'a mut dyn BufAlloc,
}

impl Cx<'_> {
    fn push(&mut self, tag: u64, op: IoOp) {
        self.ops.push(self.io, Purpose::Opening(tag), op);
    }
}

/// A request of the opening that ended.
struct Done {
    tag: u64,
    op: OpName,
    result: Result<IoOk, IoError>,
}

impl Done {
    /// The result of a request that must succeed.
    fn ok(self) -> Result<IoOk, LogFailure> {
        let op = self.op;
        self.result.map_err(|error| LogFailure::Io { op, error })
    }
}

/// A directory that was opened: where the log goes on.
#[derive(Debug)]
pub(crate) struct Opened {
    /// As it was read; for a new log one with sequence 0.
    pub superblock: Superblock,
    /// The highest superblock sequence seen.
    pub highest: u64,
    /// The superblock copies to write first.
    pub first_round: [usize; 2],
    pub end: Place,
    pub next: GroupSeq,
    pub last_crc: u32,
    pub last_run: u32,
    /// Where replay began.
    pub start: CheckpointRef,
    /// Bytes of groups that were replayed.
    pub replayed_bytes: u64,
    /// First group and end of the segments that were replayed.
    pub used: Vec<(ironring_core::SlotId, GroupSeq, u32)>,
    /// Checkpoint files that are in the directory and not in the superblock.
    pub stray_checkpoints: Vec<u64>,
    pub report: RecoveryReport,
}

enum Stage {
    List,
    OpenSuperblock,
    ReadSuperblock {
        copies: Box<[Option<Copy>; COPIES]>,
    },
    /// The superblock was never written: is there really nothing in the first segment?
    NeverMade {
        segment_len: Option<u64>,
    },
    Format(Formatting),
    Segments(Checking),
    Checkpoint(Box<Restoring>),
    Replay {
        replay: Box<Replay>,
        ended: Option<Box<Ended>>,
    },
    Settle(Box<Ended>),
    Over,
}

/// The opening of one directory.
pub(crate) struct Opening {
    config: LogConfig,
    identity: Identity,
    may_format: bool,
    stage: Stage,
    /// Requests in flight; a stage ends only when it has none.
    outstanding: usize,
    listing: Vec<(FileName, u64)>,
    superblock: Option<Box<Superblock>>,
    start: Option<CheckpointRef>,
    replayed_bytes: u64,
    highest: u64,
    first_round: [usize; 2],
    report: RecoveryReport,
}

type Step = Result<Option<Opened>, LogFailure>;

impl Opening {
    pub fn begin(
        config: LogConfig,
        identity: Identity,
        may_format: bool,
        cx: &mut Cx<'_>,
    ) -> Opening {
        cx.push(0, IoOp::List);
        Opening {
            config,
            identity,
            may_format,
            stage: Stage::List,
            outstanding: 1,
            listing: Vec::new(),
            superblock: None,
            start: None,
            replayed_bytes: 0,
            highest: 0,
            first_round: [0, 1],
            report: RecoveryReport::default(),
        }
    }

    pub fn progress(&self) -> OpenProgress {
        let (step, bytes_done, bytes_total) = match &self.stage {
            Stage::List
            | Stage::OpenSuperblock
            | Stage::ReadSuperblock { .. }
            | Stage::NeverMade { .. } => (OpenStep::Superblock, 0, 0),
            Stage::Format(format) => {
                (OpenStep::Format, format.bytes_done(), u64::from(self.config.segment_bytes))
            }
            Stage::Segments(checking) => (OpenStep::Segments, checking.done(), checking.total()),
            Stage::Checkpoint(restoring) => {
                (OpenStep::Checkpoint, restoring.bytes_done(), restoring.bytes_total())
            }
            Stage::Replay { replay, .. } => (OpenStep::Replay, replay.bytes, replay.bytes_total()),
            Stage::Settle(_) | Stage::Over => (OpenStep::Settle, 0, 0),
        };
        OpenProgress { step, bytes_done, bytes_total }
    }

    /// A request ended. `Some`: the directory is open.
    pub fn on_done(
        &mut self,
        tag: u64,
        op: OpName,
        result: Result<IoOk, IoError>,
        cx: &mut Cx<'_>,
        sink: &mut (impl LogSink + ?Sized),
    ) -> Step {
        self.outstanding -= 1;
        let done = Done { tag, op, result };
        let before = cx.io.len();
        let step = self.step(done, cx, sink);
        self.outstanding += cx.io.len() - before;
        step
    }

    fn step(&mut self, done: Done, cx: &mut Cx<'_>, sink: &mut (impl LogSink + ?Sized)) -> Step {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::List => self.listed(done, cx),
            Stage::OpenSuperblock => self.superblock_opened(done, cx),
            Stage::ReadSuperblock { copies } => self.copy_read(done, copies, cx),
            Stage::NeverMade { segment_len } => self.looked_into_segment(done, segment_len, cx),
            Stage::Format(format) => self.formatted(done, format, cx),
            Stage::Segments(checking) => self.segment_checked(done, checking, cx, sink),
            Stage::Checkpoint(restoring) => self.checkpoint_read(done, restoring, cx, sink),
            Stage::Replay { replay, ended } => self.replayed(done, replay, ended, cx, sink),
            Stage::Settle(ended) => {
                done.ok()?;
                if self.outstanding > 0 {
                    self.stage = Stage::Settle(ended);
                    return Ok(None);
                }
                Ok(Some(self.opened(*ended)))
            }
            Stage::Over => Ok(None),
        }
    }

    fn listed(&mut self, done: Done, cx: &mut Cx<'_>) -> Step {
        let IoOk::Listed(listing) = done.ok()? else {
            unreachable!("the driver answers a request with its own kind of result");
        };
        self.listing = listing;
        if self.listing.is_empty() {
            return self.format(cx);
        }
        if !self.listing.iter().any(|(file, _)| *file == FileName::Superblock) {
            return Err(LogFailure::SuperblockMissing(self.listing.len()));
        }
        cx.push(0, IoOp::Open { file: FileName::Superblock });
        self.stage = Stage::OpenSuperblock;
        Ok(None)
    }

    fn superblock_opened(&mut self, done: Done, cx: &mut Cx<'_>) -> Step {
        let IoOk::Opened(len) = done.ok()? else {
            unreachable!("the driver answers a request with its own kind of result");
        };
        let mut copies: Box<[Option<Copy>; COPIES]> = Box::default();
        for (i, copy) in copies.iter_mut().enumerate() {
            let pos = (i * COPY_EXTENT_BYTES) as u64;
            if pos + COPY_EXTENT_BYTES as u64 > len {
                // The file is made of zeros in full before anything else: a short one is blank.
                *copy = Some(Copy::Bad(SuperblockError::Blank));
                continue;
            }
            let read = IoOp::ReadAt {
                file: FileName::Superblock,
                pos: FilePos(pos),
                len: COPY_EXTENT_BYTES as u32,
            };
            cx.push(i as u64, read);
        }
        if copies.iter().all(Option::is_some) {
            return self.never_made(cx);
        }
        self.stage = Stage::ReadSuperblock { copies };
        Ok(None)
    }

    fn copy_read(
        &mut self,
        done: Done,
        mut copies: Box<[Option<Copy>; COPIES]>,
        cx: &mut Cx<'_>,
    ) -> Step {
        copies[done.tag as usize] = Some(match done.result {
            Ok(IoOk::Read(buf)) => match Superblock::decode(&buf) {
                Ok((superblock, length)) => {
                    Copy::Good(Box::new(superblock), buf[..length].to_vec())
                }
                Err(error) => Copy::Bad(error),
            },
            Ok(_) => unreachable!("the driver answers a request with its own kind of result"),
            Err(error) => Copy::Unreadable(error.to_string()),
        });
        if copies.iter().any(Option::is_none) {
            self.stage = Stage::ReadSuperblock { copies };
            return Ok(None);
        }
        let all = copies.map(|copy| copy.expect("all four were read"));
        match choose(&all) {
            Choice::Use { superblock, highest, bad_copies, first_round } => {
                self.first_round = first_round;
                self.report.superblock_copies_bad = bad_copies;
                self.highest = highest;
                self.check_superblock(&superblock)?;
                let checking = Checking::begin(&superblock, &self.listing, cx);
                self.superblock = Some(superblock);
                self.stage = Stage::Segments(checking);
                Ok(None)
            }
            Choice::NeverMade => self.never_made(cx),
            Choice::Newer(found) => Err(LogFailure::Newer {
                file: FileName::Superblock,
                found,
                supported: FORMAT_VERSION,
            }),
            Choice::Refuse(what) => Err(LogFailure::SuperblockUntrusted(what)),
        }
    }

    fn check_superblock(&mut self, superblock: &Superblock) -> Result<(), LogFailure> {
        // The log goes on with the salt it was made with.
        self.identity.salt = superblock.identity.salt;
        check_identity(FileName::Superblock, self.identity, superblock.identity)?;
        for (what, configured, found) in [
            ("segment_bytes", self.config.segment_bytes, superblock.segment_bytes),
            ("block_bytes", self.config.block_bytes, superblock.block_bytes),
        ] {
            if configured != found {
                return Err(LogFailure::Setting { what, configured, found });
            }
        }
        Ok(())
    }

    /// The superblock was never written. Formatting is repeated only if nothing else contradicts:
    /// formatting makes one segment and no group.
    fn never_made(&mut self, cx: &mut Cx<'_>) -> Step {
        let first = file_of(ironring_core::SlotId(0));
        let others = self.listing.iter().filter(|(f, _)| *f != FileName::Superblock && *f != first);
        if others.count() > 0 {
            let what = "no copy was ever written, and there are files of a log".to_owned();
            return Err(LogFailure::SuperblockUntrusted(what));
        }
        let Some((_, len)) = self.listing.iter().find(|(f, _)| *f == first).copied() else {
            return self.format(cx);
        };
        cx.push(0, IoOp::Open { file: first });
        self.stage = Stage::NeverMade { segment_len: Some(len) };
        Ok(None)
    }

    fn looked_into_segment(
        &mut self,
        done: Done,
        segment_len: Option<u64>,
        cx: &mut Cx<'_>,
    ) -> Step {
        let block = self.config.block_bytes;
        let start = self.config.data_start();
        match (done.ok()?, segment_len) {
            (IoOk::Opened(len), Some(_)) if len >= u64::from(start + block) => {
                let file = file_of(ironring_core::SlotId(0));
                cx.push(0, IoOp::ReadAt { file, pos: FilePos(u64::from(start)), len: block });
                self.stage = Stage::NeverMade { segment_len: None };
                Ok(None)
            }
            (IoOk::Read(buf), _) if buf.iter().any(|b| *b != 0) => {
                let what = "no copy was ever written, and the first segment has groups".to_owned();
                Err(LogFailure::SuperblockUntrusted(what))
            }
            _ => self.format(cx),
        }
    }

    fn format(&mut self, cx: &mut Cx<'_>) -> Step {
        if !self.may_format {
            return Err(LogFailure::Absent);
        }
        self.stage = Stage::Format(Formatting::begin(&self.config, self.identity, cx));
        Ok(None)
    }

    fn formatted(&mut self, done: Done, mut format: Formatting, cx: &mut Cx<'_>) -> Step {
        let Some(superblock) = format.next(done.ok()?, &self.config, cx) else {
            self.stage = Stage::Format(format);
            return Ok(None);
        };
        self.report.formatted = true;
        let end = Place {
            segment: superblock.newest.segment,
            slot: ironring_core::SlotId(0),
            pos: self.config.data_start(),
        };
        Ok(Some(Opened {
            highest: 0,
            first_round: self.first_round,
            end,
            next: superblock.newest.start,
            last_crc: 0,
            last_run: 0,
            start: superblock.newest,
            replayed_bytes: 0,
            used: Vec::new(),
            stray_checkpoints: Vec::new(),
            report: std::mem::take(&mut self.report),
            superblock,
        }))
    }

    fn table(&self) -> &Superblock {
        self.superblock.as_ref().expect("stages after the superblock's have one")
    }

    fn segment_checked(
        &mut self,
        done: Done,
        mut checking: Checking,
        cx: &mut Cx<'_>,
        sink: &mut (impl LogSink + ?Sized),
    ) -> Step {
        let superblock = self.superblock.as_ref().expect("it was chosen before");
        let over = checking.on_done(done, superblock, &mut self.report, cx)?;
        if !over {
            self.stage = Stage::Segments(checking);
            return Ok(None);
        }
        let restoring = Restoring::begin(superblock, self.identity, cx);
        self.checkpoint_step(Box::new(restoring), cx, sink)
    }

    fn checkpoint_read(
        &mut self,
        done: Done,
        mut restoring: Box<Restoring>,
        cx: &mut Cx<'_>,
        sink: &mut (impl LogSink + ?Sized),
    ) -> Step {
        restoring.on_done(done, cx, sink)?;
        self.checkpoint_step(restoring, cx, sink)
    }

    fn checkpoint_step(
        &mut self,
        restoring: Box<Restoring>,
        cx: &mut Cx<'_>,
        sink: &mut (impl LogSink + ?Sized),
    ) -> Step {
        let Some(used) = restoring.restored() else {
            self.stage = Stage::Checkpoint(restoring);
            return Ok(None);
        };
        self.start = Some(used);
        self.report.checkpoint = used.number;
        self.report.checkpoints_bad = restoring.bad();
        self.report.checkpoint_bytes = used.bytes;
        let config = &self.config;
        let layout = Layout {
            seed: IdentitySeed::new(self.identity),
            block: config.block_bytes,
            segment_bytes: config.segment_bytes,
            data_start: config.data_start(),
            scan_bytes: scan_bytes(config),
        };
        let mut listed: Vec<_> = (self.table().slots.iter().enumerate())
            .filter(|(_, entry)| {
                !matches!(entry.state, SlotState::Absent | SlotState::Free)
                    && entry.segment >= used.segment
            })
            .map(|(i, entry)| (entry.segment, ironring_core::SlotId(i as u32)))
            .collect();
        listed.sort_unstable();
        if listed.first().map(|(segment, _)| *segment) != Some(used.segment) {
            let what = format!("it does not list segment {}, where replay begins", used.segment);
            return Err(LogFailure::SuperblockUntrusted(what));
        }
        let last = (used.previous_crc, used.previous_run);
        let replay = Box::new(Replay::new(layout, listed, used.pos, used.start, last));
        self.replay_step(replay, None, cx, sink)
    }

    fn replayed(
        &mut self,
        done: Done,
        mut replay: Box<Replay>,
        ended: Option<Box<Ended>>,
        cx: &mut Cx<'_>,
        sink: &mut (impl LogSink + ?Sized),
    ) -> Step {
        if ended.is_none() && replay.wants(done.tag) {
            let number = done.tag;
            if let IoOk::Read(buf) = done.ok()? {
                replay.arrived(number, buf);
            }
        }
        self.replay_step(replay, ended, cx, sink)
    }

    fn replay_step(
        &mut self,
        mut replay: Box<Replay>,
        mut ended: Option<Box<Ended>>,
        cx: &mut Cx<'_>,
        sink: &mut (impl LogSink + ?Sized),
    ) -> Step {
        if ended.is_none() {
            if let Next::Ended(end) = replay.advance(sink) {
                ended = Some(end);
            } else {
                while let Some((number, op)) = replay.next_request() {
                    cx.push(number, op);
                }
            }
        }
        let Some(end) = ended.take_if(|_| self.outstanding == 0) else {
            self.stage = Stage::Replay { replay, ended };
            return Ok(None);
        };
        self.report.bytes_scanned = replay.bytes;
        self.replayed_bytes = replay.group_bytes;
        self.report.groups = replay.groups;
        self.report.records = replay.records;
        match judge(end.missing, &end.found, self.table().durable, end.later) {
            Verdict::Corruption(detail) => Err(LogFailure::Corruption {
                group: end.missing,
                file: file_of(end.looked.slot),
                segment: end.looked.segment,
                pos: end.looked.pos,
                detail,
            }),
            Verdict::End(tail) => {
                self.report.tail = tail;
                // What was read may still be in a cache that a power failure empties, because the
                // process that wrote it was killed: it must be durable before it counts as
                // durable, and before a new superblock relies on the copies that agreed.
                cx.push(0, IoOp::Sync { file: file_of(end.end.slot) });
                cx.push(1, IoOp::Sync { file: FileName::Superblock });
                self.stage = Stage::Settle(end);
                Ok(None)
            }
        }
    }

    fn opened(&mut self, ended: Ended) -> Opened {
        let mut superblock = *self.superblock.take().expect("it was chosen before");
        let start = self.start.expect("replay began at a checkpoint");
        if start != superblock.newest {
            // The newest did not verify: from here on there is one, until the next is complete.
            (superblock.newest, superblock.older) = (start, start);
        }
        let kept = [superblock.newest.number, superblock.older.number];
        let stray = |(file, _): &(FileName, u64)| match file {
            FileName::Checkpoint(n) if !kept.contains(n) => Some(*n),
            _ => None,
        };
        Opened {
            highest: self.highest,
            first_round: self.first_round,
            end: ended.end,
            next: ended.missing,
            last_crc: ended.last_crc,
            last_run: ended.last_run,
            start,
            replayed_bytes: self.replayed_bytes,
            used: ended.used,
            stray_checkpoints: self.listing.iter().filter_map(stray).collect(),
            report: std::mem::take(&mut self.report),
            superblock,
        }
    }
}

/// Compares who a file says it belongs to.
fn check_identity(file: FileName, expected: Identity, found: Identity) -> Result<(), LogFailure> {
    if found.storage != expected.storage {
        let (expected, found) = (expected.storage, found.storage);
        return Err(LogFailure::WrongStorage { file, expected, found });
    }
    if found.shard != expected.shard {
        let (expected, found) = (expected.shard, found.shard);
        return Err(LogFailure::WrongShard { file, expected, found });
    }
    if found.salt != expected.salt {
        return Err(LogFailure::WrongLog { file });
    }
    Ok(())
}
