//! Keeps segments ready, and decides who may take one.

use std::time::Duration;

use ironring_core::io::{FileName, IoError, IoOk, IoOp, IoQueue};
use ironring_core::{Now, SlotId};

use super::commit::Claim;
use super::{Log, ProvisionWork};
use crate::format::segment::SegmentHeader;
use crate::format::superblock::SlotState;
use crate::ops::Purpose;
use crate::provision::{Fill, header_write};
use crate::segments::file_of;
use crate::status::OpName;
use crate::{AppendError, LogFailure, LogStatus};

/// Segments kept prepared, so that rolling never waits for one even when segments are short.
const PREPARED_TARGET: u32 = 2;
/// After a full disk growth is tried again this much later.
const NO_SPACE_RETRY: Duration = Duration::from_secs(1);

impl Log {
    /// Takes the next prepared segment into use. User records leave the reserve alone, and of the
    /// reserve the last segment is left to compaction, without which nothing is ever freed.
    pub(super) fn take_segment(&mut self, claim: Claim) -> Result<SlotId, AppendError> {
        let empty = self.segments.empty();
        let keep = match claim {
            Claim::User => self.config.reserve_segments,
            Claim::Reserve => 1,
            Claim::Compaction => 0,
        };
        if claim == Claim::User && self.garbage_blocks_users() {
            self.counters.refused_overloaded += 1;
            return Err(AppendError::Overloaded);
        }
        if empty > keep
            && let Some(slot) = self.segments.next_prepared(self.superblock.settled())
        {
            self.active_claim = self.claim_of(empty - 1);
            return Ok(slot);
        }
        if empty <= keep {
            return Err(self.refuse_for_space());
        }
        self.counters.refused_overloaded += 1;
        Err(AppendError::Overloaded)
    }

    /// Who may write to a segment that was taken when this many empty ones were left.
    pub(super) fn claim_of(&self, left: u32) -> Claim {
        match left {
            0 => Claim::Compaction,
            n if n < self.config.reserve_segments => Claim::Reserve,
            _ => Claim::User,
        }
    }

    /// Who may append at present: while space is short the active segment belongs to those it was
    /// taken for.
    pub(super) fn active_claim(&self) -> Claim {
        let plenty = self.segments.empty() >= self.config.reserve_segments;
        if plenty || self.growth_is_possible() { Claim::User } else { self.active_claim }
    }

    /// The error of an append that must wait for an empty segment.
    pub(super) fn refuse_for_space(&mut self) -> AppendError {
        if self.growth_is_possible() {
            self.counters.refused_overloaded += 1;
            AppendError::Overloaded
        } else {
            self.counters.refused_no_space += 1;
            AppendError::NoSpace
        }
    }

    /// Whether one more segment file may be made, as far as is known.
    pub(super) fn growth_is_possible(&self) -> bool {
        // Two checkpoints are kept while the next, which may be somewhat larger, is written.
        let checkpoints = self.older.bytes + 2 * self.newest.bytes + self.newest.bytes / 4;
        let bytes = self.segments.file_bytes() + checkpoints + u64::from(self.config.segment_bytes);
        let below_limit = self.config.disk_bytes_max == 0 || bytes <= self.config.disk_bytes_max;
        below_limit && !self.disk_is_full && self.segments.has_vacancy()
    }

    /// Starts the next piece of work on segments, unless some is in flight.
    pub(super) fn provision(&mut self, now: Now, io: &mut IoQueue) {
        if !matches!(self.status, LogStatus::Open) || !matches!(self.provision, ProvisionWork::Idle)
        {
            return;
        }
        if self.no_space_until.is_some_and(|until| now.mono >= until) {
            self.no_space_until = None;
        }
        // What gives way is not to be filled again before its file is gone, though the checkpoint it
        // gave way to may have got its room elsewhere by now.
        if self.checkpoint.starved || self.giving_way.is_some() {
            self.make_room_for_checkpoint(io);
            return;
        }
        // One header at a time may be ahead of the superblock: recovery refuses a header that is
        // further ahead, which only an old superblock explains.
        let settled = self.superblock.settled();
        if self.segments.count(SlotState::Prepared) < PREPARED_TARGET
            && self.segments.prepared_settled(settled)
            && let Some(slot) = self.segments.free_slot(settled)
        {
            let header = SegmentHeader {
                identity: self.identity,
                slot,
                segment: self.segments.next_segment,
                generation: self.segments.slot(slot).generation + 1,
                prepared_at: self.staging.staged(),
                segment_bytes: self.config.segment_bytes,
                block_bytes: self.config.block_bytes,
            };
            let op = header_write(&header, &mut *self.alloc);
            self.provision = ProvisionWork::Header(slot);
            self.ops.push(io, Purpose::Provision, op);
            return;
        }
        let empty = self.segments.empty();
        let target = self.config.reserve_segments + self.config.free_segments_target;
        // A full disk is tried again from time to time.
        let retry = self.disk_is_full && self.no_space_until.is_none();
        if empty < target
            && (retry || self.growth_is_possible())
            && let Some(slot) = self.segments.vacant(settled)
        {
            let (fill, op) = Fill::begin(slot, self.config.segment_bytes);
            self.provision = ProvisionWork::Fill(fill);
            self.ops.push(io, Purpose::Provision, op);
        }
    }

    pub(super) fn provision_done(
        &mut self,
        now: Now,
        op: OpName,
        result: Result<IoOk, IoError>,
        io: &mut IoQueue,
    ) {
        match std::mem::replace(&mut self.provision, ProvisionWork::Idle) {
            ProvisionWork::Idle => {}
            ProvisionWork::Header(slot) => match result {
                // The segment exists only now: a superblock that listed it before its header was
                // durable would not open after a crash.
                Ok(_) => {
                    let version = self.superblock.request();
                    self.segments.assign(slot, version);
                    self.counters.segments_prepared += 1;
                }
                Err(error) => self.fail(LogFailure::Io { op, error }),
            },
            ProvisionWork::Remove => {
                if let Err(error) = result {
                    self.fail(LogFailure::Io { op, error });
                }
            }
            ProvisionWork::Fill(fill) => self.filled(now, fill, op, result, io),
        }
    }

    fn filled(
        &mut self,
        now: Now,
        mut fill: Fill,
        op: OpName,
        result: Result<IoOk, IoError>,
        io: &mut IoQueue,
    ) {
        let done = match result {
            Ok(done) => done,
            // The file is not part of the log yet: a full disk is no fault.
            Err(IoError::NoSpace | IoError::ShortWrite { .. }) => {
                self.counters.no_space += 1;
                self.no_space_until = Some(now.mono + NO_SPACE_RETRY);
                self.disk_is_full = true;
                if op.name != "create" {
                    self.remove_file(file_of(fill.slot), io);
                }
                return;
            }
            Err(error) => return self.fail(LogFailure::Io { op, error }),
        };
        if !matches!(self.status, LogStatus::Open) {
            // Stopping: the file is made again after the next start.
            return;
        }
        if let Some(op) = fill.next(done, &mut *self.alloc) {
            self.provision = ProvisionWork::Fill(fill);
            self.ops.push(io, Purpose::Provision, op);
            return;
        }
        let settles = self.superblock.request();
        self.segments.set_state(fill.slot, SlotState::Free);
        self.segments.slot_mut(fill.slot).settles = settles;
        self.counters.segments_filled += 1;
        self.disk_is_full = false;
    }

    /// A checkpoint found no space, and without checkpoints compaction frees nothing: an empty
    /// segment's file gives way. The last prepared segment stays, for compaction.
    fn make_room_for_checkpoint(&mut self, io: &mut IoQueue) {
        if let Some(slot) = self.giving_way {
            if self.segments.slot(slot).settles <= self.superblock.settled() {
                let state = self.segments.slot(slot).state();
                assert_eq!(state, SlotState::Absent, "{slot:?} gives way and is in use");
                self.giving_way = None;
                self.checkpoint.starved = false;
                self.remove_file(file_of(slot), io);
            }
            return;
        }
        let settled = self.superblock.settled();
        let slot = self.segments.free_slot(settled).or_else(|| self.segments.last_prepared());
        if let Some(slot) = slot {
            let version = self.superblock.request();
            self.segments.release(slot, SlotState::Absent, version);
            self.giving_way = Some(slot);
        } else {
            self.checkpoint.starved = false;
        }
    }

    fn remove_file(&mut self, file: FileName, io: &mut IoQueue) {
        self.provision = ProvisionWork::Remove;
        self.ops.push(io, Purpose::Provision, IoOp::Remove { file });
    }
}
