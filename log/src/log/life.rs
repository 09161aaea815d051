//! Opening and stopping.

use ironring_core::io::{FileName, HeapAlloc, IoError, IoOk, IoOp, IoQueue};
use ironring_core::{GroupSeq, Now, SegmentId};

use super::{Log, ProvisionWork};
use crate::format::IdentitySeed;
use crate::format::superblock::{SlotState, Superblock};
use crate::opening::{Cx, Opened};
use crate::ops::Purpose;
use crate::status::OpName;
use crate::{Identity, LogSink, LogStatus, OpenProgress, OpenStep};

impl Log {
    pub(super) fn opening_done(
        &mut self,
        tag: u64,
        op: OpName,
        result: Result<IoOk, IoError>,
        io: &mut IoQueue,
        sink: &mut (impl LogSink + ?Sized),
    ) {
        // A stop in the meantime gave the opening up.
        let Some(opening) = &mut self.opening else { return };
        let mut cx = Cx { ops: &mut self.ops, io, alloc: &mut *self.alloc };
        match opening.on_done(tag, op, result, &mut cx, sink) {
            Ok(None) => self.status = LogStatus::Opening(opening.progress()),
            Ok(Some(opened)) => self.settle(opened),
            Err(failure) => self.fail(failure),
        }
    }

    /// The directory was read: makes this run durable before it is open.
    fn settle(&mut self, opened: Opened) {
        self.opening = None;
        let superblock = &opened.superblock;
        let end = opened.end;
        self.segments.load(&superblock.slots, superblock.next_segment);
        let held: Vec<_> = self.segments.from(SegmentId(0)).collect();
        for (segment, slot) in held {
            let state = match segment.cmp(&end.segment) {
                std::cmp::Ordering::Less => SlotState::Sealed,
                std::cmp::Ordering::Equal => SlotState::Active,
                std::cmp::Ordering::Greater => SlotState::Prepared,
            };
            self.segments.set_state(slot, state);
            let slot = self.segments.slot_mut(slot);
            if state == SlotState::Prepared {
                slot.first_group = GroupSeq(0);
            }
            // Replay may begin behind the last group of a segment.
            if segment == opened.start.segment {
                slot.used = slot.used.max(opened.start.pos);
            }
        }
        for (slot, first_group, used) in opened.used {
            let slot = self.segments.slot_mut(slot);
            slot.used = used;
            // Replay may begin in the middle of a segment whose first group is known.
            if slot.first_group.0 == 0 || slot.first_group > first_group {
                slot.first_group = first_group;
            }
        }
        // Version 1 says only that the log exists. Any other raises the run, which every group
        // carries: no group of this run is written before it is durable.
        self.opening_versions = if opened.highest == 0 { 2 } else { 1 };
        self.run = superblock.run + u32::from(opened.highest != 0);
        (self.newest, self.older) = (superblock.newest, superblock.older);
        self.active_claim = self.claim_of(self.segments.empty());
        self.settled_older = superblock.older.segment;
        self.checkpoint.log_grew(u32::try_from(opened.replayed_bytes).unwrap_or(u32::MAX));
        self.durable_end = end;
        self.identity = superblock.identity;
        self.staging.set_seed(IdentitySeed::new(self.identity));
        self.staging.resume(end, opened.next, opened.last_crc, opened.last_run);
        self.superblock.resume(opened.highest, opened.first_round);
        self.superblock.request();
        // Removing a left-over must not meet a new file of the same name.
        let strays = opened.stray_checkpoints.iter().copied();
        self.checkpoint.skip_number(strays.max().unwrap_or(0));
        self.stray_checkpoints = opened.stray_checkpoints;
        self.counters.recovery = opened.report;
        let progress = OpenProgress { step: OpenStep::Settle, bytes_done: 0, bytes_total: 0 };
        self.status = LogStatus::Opening(progress);
    }

    pub(super) fn superblock_image(&self, sequence: u64) -> Superblock {
        Superblock {
            sequence,
            identity: self.identity,
            segment_bytes: self.config.segment_bytes,
            block_bytes: self.config.block_bytes,
            run: self.run,
            next_segment: self.segments.next_segment,
            durable: self.staging.durable(),
            newest: self.newest,
            older: self.older,
            slots: self.segments.entries(),
        }
    }

    pub(super) fn superblock_copy_done(&mut self, io: &mut IoQueue) {
        let settled = self.superblock.copy_done(&mut *self.alloc, &mut self.ops, io);
        let Some(image) = settled else { return };
        self.settled_older = image.older.segment;
        self.counters.superblocks += 1;
        if self.opening_versions == 0 {
            return;
        }
        self.opening_versions -= 1;
        if self.opening_versions > 0 {
            self.run += 1;
            self.superblock.request();
            return;
        }
        self.staging.set_run(self.run);
        if matches!(self.status, LogStatus::Stopping) {
            return;
        }
        self.status = LogStatus::Open;
        for number in std::mem::take(&mut self.stray_checkpoints) {
            let op = IoOp::Remove { file: FileName::Checkpoint(number) };
            self.ops.push(io, Purpose::Cleanup, op);
        }
    }

    /// Whether no request is in flight.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.ops.is_empty()
    }

    /// Becomes another log that was not started, for an owner that has put its files out of the way.
    ///
    /// # Panics
    /// When a request is in flight.
    pub fn renew(&mut self, identity: Identity) {
        assert!(self.ops.is_empty(), "the files of a log that is in use stay where they are");
        let alloc = std::mem::replace(&mut self.alloc, Box::new(HeapAlloc));
        *self = Log::new(self.config.clone(), identity, alloc);
    }

    /// No more appends; what is staged is written, then the status becomes `Stopped`. A log that
    /// is still being opened gives that up.
    pub fn begin_stop(&mut self, now: Now, io: &mut IoQueue) {
        match self.status {
            LogStatus::Failed(_) | LogStatus::Stopped | LogStatus::Stopping => return,
            LogStatus::Opening(_) => self.opening = None,
            LogStatus::Open => {}
        }
        self.status = LogStatus::Stopping;
        self.write_group(now, true, io);
        self.pump(now, io);
    }

    /// Stopping ends when nothing is in flight and the superblock knows the last group.
    pub(super) fn stop_if_done(&mut self, now: Now, io: &mut IoQueue) {
        if !matches!(self.status, LogStatus::Stopping) {
            return;
        }
        self.write_group(now, true, io);
        // A log that was never open leaves everything as it found it.
        let was_open = self.opening_versions == 0 && self.run > 0;
        let idle = self.staging.is_idle() && matches!(self.provision, ProvisionWork::Idle);
        let checkpointed = !was_open || self.checkpoint_rests();
        if !idle || !checkpointed || !self.ops.is_empty() {
            return;
        }
        match self.final_superblock {
            None if was_open => {
                let sequence = self.superblock.request();
                self.final_superblock = Some(sequence);
                let image = self.superblock_image(sequence);
                self.superblock.begin(image, &mut *self.alloc, &mut self.ops, io);
            }
            _ => self.status = LogStatus::Stopped,
        }
    }
}
