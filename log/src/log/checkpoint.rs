//! Writing checkpoints of the owner's state.
//!
//! A checkpoint begins at the group being staged: every record of earlier groups is reflected in
//! the picture the owner begins, so replay starts there. Its pieces may reflect records of later
//! groups that are not durable yet; so it counts only when its file and directory are synced *and*
//! every group staged before the last piece is durable, and then by a superblock version. The two
//! newest checkpoints are kept; the third is removed when a superblock without it is settled.
//!
//! Pieces are made and written a bounded step at a time, one request in flight.

use std::time::Duration;

use ironring_core::io::{FileName, IoError, IoOk, IoOp, IoQueue};
use ironring_core::{FilePos, GroupSeq, Instant, Now};

use super::Log;
use crate::format::align_up;
use crate::format::checkpoint::{CheckpointHeader, FrameWriter};
use crate::format::superblock::CheckpointRef;
use crate::ops::Purpose;
use crate::staging::Place;
use crate::status::OpName;
use crate::{CheckpointSource, LogFailure, LogStatus};

/// Bytes of pieces made, and written, in one step.
const STEP_BYTES: usize = 256 << 10;
/// After one was given up for want of space the next is tried this much later.
const RETRY: Duration = Duration::from_secs(1);

enum Step {
    Idle,
    /// The file is being made or written.
    Write,
    Sync,
    SyncDir,
    Close,
    /// Waits for the groups the picture may reflect.
    Durable,
    /// Waits for the superblock version that names it.
    Settle {
        version: u64,
        remove: u64,
    },
    /// The file that is not needed any more is being removed.
    Remove,
}

pub(super) struct Checkpointer {
    step: Step,
    number: u64,
    start: GroupSeq,
    place: Place,
    /// Header checksum and run of the group before `start`, once that group was written.
    previous: Option<(u32, u32)>,
    /// `None` when the end frame was made.
    frames: Option<FrameWriter>,
    /// The last group that pieces may reflect; known when the last piece was made.
    covers: GroupSeq,
    /// Bytes made and not written.
    made: Vec<u8>,
    piece: Vec<u8>,
    written: u64,
    /// Bytes of groups since the newest checkpoint's start.
    log_bytes: u64,
    log_bytes_at_begin: u64,
    /// Damage was found before this group: the newest should begin there at least.
    behind: GroupSeq,
    pub(super) retry_at: Option<Instant>,
    /// The last try found no space: free segments give way to it.
    pub(super) starved: bool,
}

impl Checkpointer {
    pub fn new(place: Place) -> Checkpointer {
        Checkpointer {
            step: Step::Idle,
            number: 0,
            start: GroupSeq(0),
            place,
            previous: None,
            frames: None,
            covers: GroupSeq(0),
            made: Vec::new(),
            piece: Vec::new(),
            written: 0,
            log_bytes: 0,
            log_bytes_at_begin: 0,
            behind: GroupSeq(0),
            retry_at: None,
            starved: false,
        }
    }

    /// Numbers up to this one may be names of files in the directory.
    pub fn skip_number(&mut self, number: u64) {
        self.number = self.number.max(number);
    }

    pub fn is_idle(&self) -> bool {
        matches!(self.step, Step::Idle)
    }

    /// A group of this many bytes is in the log.
    pub fn log_grew(&mut self, bytes: u32) {
        self.log_bytes += u64::from(bytes);
    }

    /// Something before this group is damaged, and would be replayed.
    pub fn begin_behind(&mut self, group: GroupSeq) {
        self.behind = self.behind.max(group);
    }

    /// Group `sequence` is being written behind a group with this header checksum and run.
    pub fn group_begins(&mut self, sequence: GroupSeq, previous: (u32, u32)) {
        if !self.is_idle() && sequence == self.start {
            self.previous = Some(previous);
        }
    }
}

impl Log {
    /// Bytes of log between checkpoints at present: what the configuration says, unless there is
    /// more garbage than there should be. Compaction frees nothing behind the older of two
    /// checkpoints.
    fn checkpoint_interval(&self) -> u64 {
        if self.garbage_presses() {
            return self.pressed_interval();
        }
        self.config.checkpoint_interval_bytes.max(self.interval_least())
    }

    /// The interval while there is much garbage: so short that what two checkpoints pin is about
    /// half of what is live, but no less than a segment and an eighth of what is configured.
    pub(super) fn pressed_interval(&self) -> u64 {
        let configured = self.config.checkpoint_interval_bytes;
        let quarter = self.segments.live() / 4;
        let least = u64::from(self.config.segment_bytes).max(configured / 8);
        quarter.max(least).min(configured).max(self.interval_least())
    }

    /// Checkpoints take half as many bytes as the log at most.
    fn interval_least(&self) -> u64 {
        2 * self.newest.bytes
    }

    /// When stopping: none is being written and none is worth writing.
    pub(super) fn checkpoint_rests(&self) -> bool {
        let c = &self.checkpoint;
        let says_all = c.log_bytes == 0 && self.newest.start >= c.behind;
        c.is_idle() && (says_all || c.starved || self.final_superblock.is_some())
    }

    /// Starts or continues a checkpoint where no completion will.
    pub(super) fn checkpoint_pump(
        &mut self,
        now: Now,
        io: &mut IoQueue,
        source: &mut impl CheckpointSource,
    ) {
        let due = self.checkpoint.is_idle() && self.checkpoint_due(now);
        match self.checkpoint.step {
            Step::Idle if due => self.begin_checkpoint(io, source),
            Step::Durable => self.complete_checkpoint(),
            Step::Settle { version, remove } if self.superblock.settled() >= version => {
                self.counters.checkpoints += 1;
                self.compaction.look();
                if remove == 0 {
                    self.checkpoint.step = Step::Idle;
                } else {
                    self.checkpoint.step = Step::Remove;
                    let op = IoOp::Remove { file: FileName::Checkpoint(remove) };
                    self.ops.push(io, Purpose::Checkpoint, op);
                }
            }
            _ => {}
        }
    }

    fn checkpoint_due(&mut self, now: Now) -> bool {
        match self.status {
            // One more at the end, unless it would say what the newest says already.
            LogStatus::Stopping => self.staging.is_idle() && !self.checkpoint_rests(),
            LogStatus::Open => {
                let retry_at = &mut self.checkpoint.retry_at;
                if retry_at.is_some_and(|at| now.mono < at) {
                    return false;
                }
                *retry_at = None;
                self.checkpoint.log_bytes >= self.checkpoint_interval()
                    || self.newest.start < self.checkpoint.behind
                    || self.retiring_waits_for_checkpoint()
            }
            _ => false,
        }
    }

    fn begin_checkpoint(&mut self, io: &mut IoQueue, source: &mut impl CheckpointSource) {
        source.begin();
        let number = self.newest.number.max(self.checkpoint.number) + 1;
        let start = self.staging.staged();
        let header = CheckpointHeader { identity: self.identity, number, start };
        let (header, crc) = header.encode();
        let c = &mut self.checkpoint;
        c.number = number;
        c.start = start;
        c.place = self.staging.staged_place();
        c.previous = None;
        c.frames = Some(FrameWriter::new(crc));
        c.made.clear();
        c.made.extend_from_slice(&header);
        c.written = 0;
        c.log_bytes_at_begin = c.log_bytes;
        c.step = Step::Write;
        self.ops.push(io, Purpose::Checkpoint, IoOp::Create { file: FileName::Checkpoint(number) });
    }

    pub(super) fn checkpoint_done(
        &mut self,
        now: Now,
        op: OpName,
        result: Result<IoOk, IoError>,
        io: &mut IoQueue,
        source: &mut impl CheckpointSource,
    ) {
        let file = FileName::Checkpoint(self.checkpoint.number);
        match result {
            Ok(_) => {}
            // A full disk is no fault: the checkpoints that count are untouched.
            Err(IoError::NoSpace | IoError::ShortWrite { .. })
                if matches!(self.checkpoint.step, Step::Write | Step::Sync | Step::SyncDir) =>
            {
                return self.give_up_checkpoint(now, op, io);
            }
            Err(error) => return self.fail(LogFailure::Io { op, error }),
        }
        match self.checkpoint.step {
            Step::Write => self.write_checkpoint(io, source),
            Step::Sync => {
                self.checkpoint.step = Step::SyncDir;
                self.ops.push(io, Purpose::Checkpoint, IoOp::SyncDir);
            }
            Step::SyncDir => {
                self.checkpoint.step = Step::Close;
                self.ops.push(io, Purpose::Checkpoint, IoOp::Close { file });
            }
            Step::Close => self.checkpoint.step = Step::Durable,
            Step::Remove => self.checkpoint.step = Step::Idle,
            Step::Idle | Step::Durable | Step::Settle { .. } => {}
        }
    }

    /// Makes pieces for one step and writes them.
    fn write_checkpoint(&mut self, io: &mut IoQueue, source: &mut impl CheckpointSource) {
        let block = self.config.block_bytes as usize;
        let c = &mut self.checkpoint;
        while c.made.len() < STEP_BYTES
            && let Some(frames) = &mut c.frames
        {
            c.piece.clear();
            if source.next_piece(&mut c.piece) {
                frames.piece(&c.piece, &mut c.made);
            } else if let Some(frames) = c.frames.take() {
                frames.end(&mut c.made);
                c.covers = GroupSeq(self.staging.next_sequence().0 - 1);
                let padded = align_up(c.made.len() as u32, block as u32) as usize;
                c.made.resize(padded, 0);
            }
        }
        let file = FileName::Checkpoint(c.number);
        let len = c.made.len() - c.made.len() % block;
        if len == 0 {
            c.step = Step::Sync;
            self.ops.push(io, Purpose::Checkpoint, IoOp::Sync { file });
            return;
        }
        let mut buf = self.alloc.alloc(len);
        buf.copy_from_slice(&c.made[..len]);
        c.made.drain(..len);
        let pos = FilePos(c.written);
        c.written += len as u64;
        self.counters.checkpoint_bytes += len as u64;
        let op = IoOp::WriteAt { file, pos, buf, durable: false };
        self.ops.push(io, Purpose::Checkpoint, op);
    }

    /// The file is durable; when the groups it may reflect are too, the superblock may name it.
    fn complete_checkpoint(&mut self) {
        let c = &mut self.checkpoint;
        if self.staging.durable() < c.covers {
            return;
        }
        // The group before `start` was written, so if `start` was not, it is the last one.
        let (previous_crc, previous_run) = c.previous.unwrap_or(self.staging.last());
        // After the newest was lost the two are one.
        let remove = if self.older.number == self.newest.number { 0 } else { self.older.number };
        self.older = self.newest;
        self.newest = CheckpointRef {
            number: c.number,
            start: c.start,
            segment: c.place.segment,
            pos: c.place.pos,
            previous_crc,
            previous_run,
            bytes: c.written,
        };
        c.log_bytes -= c.log_bytes_at_begin;
        c.starved = false;
        let version = self.superblock.request();
        self.checkpoint.step = Step::Settle { version, remove };
    }

    fn give_up_checkpoint(&mut self, now: Now, op: OpName, io: &mut IoQueue) {
        self.counters.no_space += 1;
        self.counters.checkpoints_abandoned += 1;
        let c = &mut self.checkpoint;
        c.retry_at = Some(now.mono + RETRY);
        c.starved = true;
        c.frames = None;
        if op.name == "create" {
            c.step = Step::Idle;
        } else {
            c.step = Step::Remove;
            let op = IoOp::Remove { file: FileName::Checkpoint(c.number) };
            self.ops.push(io, Purpose::Checkpoint, op);
        }
    }
}
