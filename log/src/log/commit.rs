//! Appending and group commit.

use ironring_core::Now;
use ironring_core::io::{IoOk, IoQueue};

use super::Log;
use crate::format::group::{GROUP_HEADER_BYTES, GroupRecords};
use crate::format::record::encoded_len;
use crate::format::superblock::SlotState;
use crate::ops::Purpose;
use crate::staging::Place;
use crate::{AppendError, Appended, Location, LogSink, LogStatus, Priority, Record};

/// Whose need a segment is taken for, from the first to be refused to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Claim {
    /// Records that add data.
    User,
    /// Records that free space.
    Reserve,
    /// Copies of compaction, without which nothing is ever freed.
    Compaction,
}

impl Log {
    /// Adds a record to the group being staged. Costs one copy of the record and its checksum; no
    /// allocation but the group's buffer. Nothing is written before [`Log::seal`].
    pub fn append(
        &mut self,
        record: &Record<'_>,
        priority: Priority,
    ) -> Result<Appended, AppendError> {
        if !matches!(self.status, LogStatus::Open) {
            return Err(AppendError::Closed);
        }
        let len = encoded_len(record);
        if len > self.config.record_bytes_max() {
            return Err(AppendError::TooLarge);
        }
        let (claim, factor) = match priority {
            Priority::User => (Claim::User, 1),
            Priority::Reserve => (Claim::Reserve, 2),
        };
        let waiting = self.staging.waiting();
        if waiting > 0 && waiting + len > factor * self.config.waiting_bytes_max as usize {
            self.counters.refused_overloaded += 1;
            return Err(AppendError::Overloaded);
        }
        self.compaction.appended();
        self.stage(record, len, claim)
    }

    pub(super) fn stage(
        &mut self,
        record: &Record<'_>,
        len: usize,
        claim: Claim,
    ) -> Result<Appended, AppendError> {
        if claim < self.active_claim() {
            return Err(self.refuse_for_space());
        }
        if !self.staging.open_takes(len) {
            let place = self.place_for(len, claim)?;
            self.staging.open_group(place, len, &mut *self.alloc);
        }
        let (place, group) = self.staging.push(record, len, &mut *self.alloc);
        let location = Location { segment: place.segment, pos: place.pos, len: len as u32 };
        self.segments.mark_live(location);
        Ok(Appended { location, group })
    }

    /// Where a group that begins with `body` bytes of records goes: behind the last one, or at the
    /// beginning of the next segment.
    pub(super) fn place_for(&mut self, body: usize, claim: Claim) -> Result<Place, AppendError> {
        let end = self.staging.end();
        let fits = self.staging.fits(end, body);
        if fits && !self.leaves(end.segment) {
            return Ok(end);
        }
        let slot = match self.take_segment(claim) {
            Err(_) if fits => return Ok(end),
            taken => taken?,
        };
        self.condemned_active = None;
        self.segments.set_state(end.slot, SlotState::Sealed);
        self.segments.slot_mut(end.slot).used = end.pos;
        // The group behind the open one: its sequence is the one after.
        let first_group = self.staging.next_sequence();
        self.segments.set_state(slot, SlotState::Active);
        let next = self.segments.slot_mut(slot);
        next.first_group = first_group;
        let segment = next.segment;
        // The table on disk may lag: recovery follows the groups, not the states.
        self.superblock.request();
        self.compaction.look();
        Ok(Place { segment, slot, pos: self.config.data_start() })
    }

    /// Writes the next group unless one is in flight; the open one only when `seal`.
    pub(super) fn write_group(&mut self, now: Now, seal: bool, io: &mut IoQueue) {
        if !matches!(self.status, LogStatus::Open | LogStatus::Stopping) {
            return;
        }
        let before = self.staging.last();
        if let Some((sequence, op)) = self.staging.next_write(seal, &mut *self.alloc) {
            self.checkpoint.group_begins(sequence, before);
            self.floor_open_since = None;
            self.gather.write_begins(now.mono);
            self.ops.push(io, Purpose::Group, op);
        }
    }

    /// The group in flight is durable.
    pub(super) fn group_done(
        &mut self,
        now: Now,
        done: IoOk,
        io: &mut IoQueue,
        sink: &mut (impl LogSink + ?Sized),
    ) {
        let IoOk::Written(buf) = done else {
            unreachable!("the driver answers a request with its own kind of result");
        };
        let group = self.staging.written();
        self.gather.write_ended(now.mono, group.records, self.staging.staged_records());
        self.durable_end = Place { pos: group.at.pos + group.padded, ..group.at };
        let slot = self.segments.slot_mut(group.at.slot);
        slot.used = slot.used.max(self.durable_end.pos);
        if group.records > 0 {
            self.checkpoint.log_grew(group.padded);
        }
        self.compaction.foreground(group.padded);
        self.counters.groups += 1;
        self.counters.group_bytes += u64::from(group.padded);
        self.counters.records += u64::from(group.records);
        self.counters.record_bytes += u64::from(group.len) - GROUP_HEADER_BYTES as u64;
        if group.records == 0 {
            self.counters.groups_empty += 1;
        } else if self.staging.is_idle() {
            self.floor_open_since = Some(now.mono);
        }
        let body = &buf[GROUP_HEADER_BYTES..group.len as usize];
        let body_pos = group.at.pos + GROUP_HEADER_BYTES as u32;
        let mut records = GroupRecords::trusted(body, group.at.segment, body_pos)
            .map(|record| record.expect("the group was encoded from records"));
        sink.flushed(group.sequence, &mut records);
        self.staging.retire(&group, buf);
        self.unpark_reads(io);
        // Groups that were closed do not wait for the end of the turn: nothing joins them.
        self.write_group(now, false, io);
    }

    /// An idle log says that its last group is durable: recovery can then tell damage to it from a
    /// write that was in flight.
    pub(super) fn write_idle_floor(&mut self, now: Now) {
        let Some(since) = self.floor_open_since else { return };
        let open = matches!(self.status, LogStatus::Open);
        if !open || now.mono < since + self.config.idle_floor_after || !self.staging.is_idle() {
            return;
        }
        self.floor_open_since = None;
        // Without room for it the next group will say it.
        if let Ok(place) = self.place_for(0, Claim::Reserve) {
            self.staging.open_group(place, 0, &mut *self.alloc);
        }
    }
}
