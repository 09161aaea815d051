//! Compaction: copies what is live in a mostly dead segment to the end of the log and frees it.
//!
//! Only segments wholly before the start of the *older* kept checkpoint are compacted. So the
//! groups from either checkpoint's start on are always all there, and recovery never meets a hole;
//! and tombstones are never copied: a delete in such a segment is reflected in both checkpoints,
//! the puts it deleted lie before it, and a put is copied only while it is live, so any copy that
//! is replayed after a checkpoint is older than a delete that is replayed after it as well.
//!
//! A segment is freed when every group that was staged when its last record was looked at is
//! durable, no read of it is in flight, and a superblock version without it is settled. The groups
//! are those of the copies, and those of the records that superseded what was not copied: such a
//! record may still be in memory only, and a crash would lose both. A segment with damage is reported and left alone.
//!
//! Pace: credit, which may become debt. Every byte of groups the log writes earns compaction a
//! share of bytes to read and copy, and what a step takes beyond its credit is paid back before the
//! next one. The share is small while there is little garbage, and grows to all with the garbage
//! there is in relation to what there may be; so under endless overwrites it settles where as much
//! is freed as is written, some way below the bound. A log that nobody writes to, and one whose
//! share is all, need no credit, and what they do then costs none: so debt stays within one step's.
//! Copies are staged a bounded step at a time, and only while less than one group waits, so no
//! append waits for more than that.
//!
//! An owner that reads dead records for a while (entries that a follower needs which is being sent the
//! state) holds the segments they lie in: those are compacted only when space presses. Copying dead records
//! instead would bring back what was deleted: replay would meet an old put behind the delete of its key.
//!
//! Which segment: the one with the most dead bytes. Weighing them by age (Rosenblum and Ousterhout,
//! The Design and Implementation of a Log-Structured File System) gains nothing here, where copies
//! and new records share one log: `perf/examples/overwrite_space.rs` shows it.

use std::time::Duration;

use ironring_core::io::{IoError, IoOk, IoQueue};
use ironring_core::limits::GROUP_BYTES_TARGET;
use ironring_core::{GroupSeq, Instant, Now, SlotId};

use super::Log;
use super::commit::Claim;
use crate::format::IdentitySeed;
use crate::format::record::encoded_len;
use crate::format::superblock::SlotState;
use crate::ops::Purpose;
use crate::segment_walk::{SegmentWalk, Walked};
use crate::status::{DamageFinder, OpName};
use crate::{Keep, LogSink, LogStatus};

/// Bytes of one read.
const READ_BYTES: u32 = 512 << 10;
/// Bytes of copies staged in one step.
const COPY_BYTES: usize = 256 << 10;
/// Below this share of dead bytes a segment is not worth the copy however short space is.
const DEAD_PERCENT_FLOOR: u64 = 5;
/// How often to look for a segment when nothing else tells to.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Credit kept at most, so that a burst of appends is not followed by a burst of compaction.
const CREDIT_MAX: i64 = 8 << 20;
/// A log is idle when nobody has appended for this long.
const IDLE_AFTER: Duration = Duration::from_millis(50);
/// Space pressure, in percent, from which on what the owner holds is compacted as well: soon enough for
/// garbage to be freed before users wait for it.
const HOLD_PRESSURE_MAX: u64 = 75;
/// Garbage, in percent of what may be there, from which on compaction's share grows.
const PRESSURE_FROM: u64 = 60;

/// A segment being compacted.
struct Victim {
    walk: SegmentWalk,
    /// A group whose records are being looked at, and how many of its bytes were.
    group: Option<(Walked, u32)>,
    reading: bool,
    /// Everything was looked at, and up to this group must be durable.
    waits_for: Option<GroupSeq>,
}

pub(super) struct Compactor {
    victim: Option<Victim>,
    /// Look for a victim.
    look: bool,
    pub(super) look_at: Option<Instant>,
    /// Bytes it may move; below 0 it has moved more than it had earned.
    credit: i64,
    /// Share of the device's bytes that compaction may use, in percent.
    share: u64,
    /// Nobody has appended for a while.
    idle: bool,
    /// Somebody has appended since the last look at the clock.
    appended: bool,
    /// Until then the log counts as written to.
    busy_until: Instant,
}

impl Compactor {
    pub fn new() -> Compactor {
        Compactor {
            victim: None,
            look: false,
            look_at: None,
            credit: 0,
            share: 0,
            idle: false,
            appended: false,
            busy_until: Instant(0),
        }
    }

    /// Something changed that may make a segment worth compacting.
    pub fn look(&mut self) {
        self.look = true;
    }

    /// The log wrote a group of this many bytes.
    pub fn foreground(&mut self, bytes: u32) {
        let earned = u64::from(bytes) * self.share / (101 - self.share);
        self.credit = (self.credit + earned as i64).min(CREDIT_MAX);
    }

    /// Somebody other than compaction has appended.
    pub fn appended(&mut self) {
        self.appended = true;
    }

    /// The segment at hand.
    pub fn segment(&self) -> Option<ironring_core::SegmentId> {
        self.victim.as_ref().map(|victim| victim.walk.segment)
    }

    pub fn is_active(&self) -> bool {
        self.victim.is_some()
    }

    /// Gives the segment at hand up; what was copied stays valid.
    pub fn abandon(&mut self) {
        self.victim = None;
    }

    /// It moves at its own speed, not at that of the appends.
    fn is_free(&self) -> bool {
        self.idle || self.share >= 100
    }

    fn spend(&mut self, bytes: u64) {
        if !self.is_free() {
            self.credit -= bytes as i64;
        }
    }
}

impl Log {
    /// Garbage that is there, in percent of what may be there.
    fn garbage_percent(&self) -> u64 {
        let segment = u64::from(self.config.segment_bytes);
        let live = self.segments.live();
        let garbage = self.segments.held_bytes().saturating_sub(live);
        let share = u64::from(self.config.compaction.space_percent_max) - 100;
        // Of a small log the last segments and what two checkpoints pin may all be garbage, and
        // none of it can be freed.
        let least = 2 * self.pressed_interval() + 4 * segment;
        let allowed = (live * share / 100).max(least);
        garbage * 100 / allowed
    }

    /// There is so much garbage that checkpoints should not keep it from being freed.
    pub(super) fn garbage_presses(&self) -> bool {
        self.garbage_percent() >= PRESSURE_FROM
    }

    /// Users wait for compaction: there is more garbage than may be, and it is being freed.
    pub(super) fn garbage_blocks_users(&self) -> bool {
        self.compaction.is_active() && self.garbage_percent() >= 100
    }

    /// From 0 (nothing presses) to 100 (space is what matters now).
    fn space_pressure(&self) -> u64 {
        if !self.growth_is_possible() && self.segments.empty() <= self.config.reserve_segments + 1 {
            return 100;
        }
        let over = self.garbage_percent().saturating_sub(PRESSURE_FROM);
        (over * 100 / (100 - PRESSURE_FROM)).min(100)
    }

    /// Starts or continues compaction where no completion will.
    pub(super) fn compaction_pump(
        &mut self,
        now: Now,
        io: &mut IoQueue,
        sink: &mut (impl LogSink + ?Sized),
    ) {
        if !matches!(self.status, LogStatus::Open) {
            self.compaction.abandon();
            return;
        }
        if std::mem::take(&mut self.compaction.appended) {
            self.compaction.busy_until = now.mono + IDLE_AFTER;
        }
        self.compaction.idle = now.mono >= self.compaction.busy_until;
        let pressure = self.space_pressure();
        let least = u64::from(self.config.compaction.bandwidth_percent);
        self.compaction.share = least + (100 - least) * pressure / 100;
        let due = self.compaction.look_at.is_none_or(|at| now.mono >= at);
        if due {
            self.compaction.look_at = Some(now.mono + LOOK_EVERY);
        }
        if self.compaction.victim.is_none() {
            if !self.compaction.look && !due {
                return;
            }
            self.compaction.look = false;
            self.choose_victim(pressure);
        }
        self.compact(io, sink);
    }

    /// The segment with the most dead bytes, if they are worth it under this pressure.
    fn choose_victim(&mut self, pressure: u64) {
        let held = self.held_from.filter(|_| pressure < HOLD_PRESSURE_MAX);
        let end = held.map_or(self.settled_older, |held| held.min(self.settled_older));
        let best = (self.segments.before(end))
            .filter(|(_, slot)| slot.state() == SlotState::Sealed && !slot.damaged)
            .max_by_key(|(id, slot)| (slot.dead(), std::cmp::Reverse(*id)));
        let Some((id, slot)) = best else { return };
        let percent = slot.dead() * 100 / u64::from(slot.used.max(1));
        let least = u64::from(self.config.compaction.dead_percent_min);
        // The threshold falls to the floor as pressure rises.
        let least = least - least.saturating_sub(DEAD_PERCENT_FLOOR) * pressure / 100;
        if percent < least {
            return;
        }
        let seed = IdentitySeed::new(self.identity);
        let (start, end) = (self.config.data_start(), slot.used);
        let place = (slot.segment, id);
        self.compaction.victim = Some(Victim {
            walk: SegmentWalk::new(seed, self.config.block_bytes, place, start, end),
            group: None,
            reading: false,
            waits_for: None,
        });
    }

    /// Whether the next step may begin, or this one go on.
    fn may_compact(&self) -> bool {
        let waiting = self.staging.waiting();
        let c = &self.compaction;
        c.share >= 100 && waiting < 2 * GROUP_BYTES_TARGET
            || (c.idle || c.credit > 0) && waiting < GROUP_BYTES_TARGET
    }

    /// Copies what is read, then reads on, or frees the segment.
    fn compact(&mut self, io: &mut IoQueue, sink: &mut (impl LogSink + ?Sized)) {
        let Some(mut victim) = self.compaction.victim.take() else { return };
        if victim.reading || !self.may_compact() {
            self.compaction.victim = Some(victim);
            return;
        }
        match self.copy_groups(&mut victim, sink) {
            Err(detail) => {
                let pos = victim.walk.pos();
                self.report_damage(DamageFinder::Compaction, victim.walk.slot, pos, detail);
                self.compaction.look();
                return;
            }
            Ok(Copied::Paused) => {}
            Ok(Copied::NeedMore) => match victim.walk.next_read(READ_BYTES) {
                Some(op) => {
                    victim.reading = true;
                    self.segments.slot_mut(victim.walk.slot).pins += 1;
                    self.ops.push(io, Purpose::Compaction(victim.walk.slot), op);
                }
                None => {
                    if self.free_victim(&mut victim) {
                        return;
                    }
                }
            },
        }
        self.compaction.victim = Some(victim);
    }

    /// Copies the live records among the bytes read, one step's worth.
    fn copy_groups(
        &mut self,
        victim: &mut Victim,
        sink: &mut (impl LogSink + ?Sized),
    ) -> Result<Copied, String> {
        let mut staged = 0;
        loop {
            let (walked, mut skip) = match victim.group.take() {
                Some(group) => group,
                None => match victim.walk.next_group()? {
                    Some(walked) => (walked, 0),
                    None => return Ok(Copied::NeedMore),
                },
            };
            for item in victim.walk.records(&walked, skip) {
                let (from, record) = item.expect("the walk verified the group");
                if staged >= COPY_BYTES || staged > 0 && !self.may_compact() {
                    victim.group = Some((walked, skip));
                    return Ok(Copied::Paused);
                }
                let len = encoded_len(&record);
                if sink.keep(from, &record) == Keep::Drop {
                    self.counters.compaction_dropped_bytes += len as u64;
                    skip += from.len;
                    continue;
                }
                let Ok(copy) = self.stage(&record, len, Claim::Compaction) else {
                    victim.group = Some((walked, skip));
                    return Ok(Copied::Paused);
                };
                self.segments.mark_dead(from);
                self.counters.compaction_records += 1;
                self.counters.compaction_bytes += len as u64;
                self.compaction.spend(len as u64);
                staged += len;
                skip += from.len;
                sink.relocated(from, copy.location, copy.group, &record);
            }
        }
    }

    /// Frees the segment when what replaces it is durable and nobody reads it.
    fn free_victim(&mut self, victim: &mut Victim) -> bool {
        let slot = victim.walk.slot;
        let staged = GroupSeq(self.staging.next_sequence().0 - 1);
        let waits_for = *victim.waits_for.get_or_insert(staged);
        if self.staging.durable() < waits_for || self.segments.slot(slot).pins > 0 {
            return false;
        }
        let version = self.superblock.request();
        self.segments.release(slot, SlotState::Free, version);
        self.counters.segments_freed += 1;
        self.no_space_until = None;
        self.compaction.look();
        true
    }

    pub(super) fn compaction_done(
        &mut self,
        slot: SlotId,
        op: OpName,
        result: Result<IoOk, IoError>,
    ) {
        self.segments.slot_mut(slot).pins -= 1;
        let Some(victim) = &mut self.compaction.victim else { return };
        match result {
            Ok(IoOk::Read(buf)) => {
                victim.reading = false;
                victim.walk.feed(&buf);
                self.compaction.spend(buf.len() as u64);
                self.counters.compaction_read_bytes += buf.len() as u64;
            }
            Ok(_) => unreachable!("the driver answers a request with its own kind of result"),
            Err(error) => {
                self.compaction.abandon();
                self.compaction.look();
                self.report_damage(
                    DamageFinder::Compaction,
                    slot,
                    op.pos as u32,
                    error.to_string(),
                );
            }
        }
    }
}

enum Copied {
    /// All bytes read were looked at.
    NeedMore,
    /// A step is over, or there was no room for a copy.
    Paused,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_step_takes_beyond_its_credit_is_paid_back_first() {
        let mut c = Compactor::new();
        c.share = 25;
        c.foreground(76 << 10);
        assert_eq!(c.credit, 25 << 10, "a quarter of all bytes is a third of the others'");
        c.spend(u64::from(READ_BYTES));
        let mut groups = 0;
        while c.credit <= 0 {
            c.foreground(76 << 10);
            groups += 1;
        }
        assert_eq!(groups, 20, "512 KiB are 20.5 times 25 KiB");
        c.foreground(u32::MAX);
        assert_eq!(c.credit, CREDIT_MAX);
    }

    #[test]
    fn what_needs_no_credit_costs_none() {
        let mut c = Compactor::new();
        for (idle, share) in [(true, 25), (false, 100)] {
            (c.idle, c.share) = (idle, share);
            c.spend(u64::from(READ_BYTES));
            assert_eq!(c.credit, 0);
        }
    }
}
