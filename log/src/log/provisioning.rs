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
        let empty = self.segments.count(SlotState::Free) + self.segments.count(SlotState::Prepared);
        let keep = match claim {
            Claim::User => self.config.reserve_segments,
            Claim::Reserve => 1,
        };
        if empty > keep
            && let Some(slot) = self.segments.next_prepared(self.superblock.settled())
        {
            return Ok(slot);
        }
        if empty <= keep && !self.may_grow() {
            self.counters.refused_no_space += 1;
            return Err(AppendError::NoSpace);
        }
        self.counters.refused_overloaded += 1;
        Err(AppendError::Overloaded)
    }

    /// Whether one more segment file may be made.
    fn may_grow(&self) -> bool {
        let checkpoints = self.newest.bytes + self.older.bytes + self.newest.bytes.max(1);
        let bytes = self.segments.file_bytes() + checkpoints + u64::from(self.config.segment_bytes);
        let below_limit = self.config.disk_bytes_max == 0 || bytes <= self.config.disk_bytes_max;
        below_limit && self.no_space_until.is_none() && self.segments.has_vacancy()
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
        // One header at a time may be ahead of the superblock: recovery refuses a header that is
        // further ahead, which only an old superblock explains.
        let settled = self.superblock.settled();
        if self.segments.count(SlotState::Prepared) < PREPARED_TARGET
            && self.segments.settled(SlotState::Prepared, settled)
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
        let empty = self.segments.count(SlotState::Free) + self.segments.count(SlotState::Prepared);
        let target = self.config.reserve_segments + self.config.free_segments_target;
        if empty < target
            && self.may_grow()
            && let Some(slot) = self.segments.vacant()
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
                    self.segments.assign(slot, SlotState::Prepared);
                    self.segments.slot_mut(slot).settles = self.superblock.request();
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
        let slot = self.segments.slot_mut(fill.slot);
        slot.state = SlotState::Free;
        slot.settles = settles;
        self.counters.segments_filled += 1;
    }

    fn remove_file(&mut self, file: FileName, io: &mut IoQueue) {
        self.provision = ProvisionWork::Remove;
        self.ops.push(io, Purpose::Provision, IoOp::Remove { file });
    }
}
