//! Background verification: every durable byte is read and verified within the configured period.
//!
//! The pace follows from what there is to read: a chunk is due so often that a round over all
//! segments takes the period, but never faster than the configured rate, nor slower than the least
//! one. Of the active segment what is durable when its turn comes is read. Damage is reported and the
//! segment kept, and not read again; the shard repairs from a replica what it can.

use std::time::Duration;

use ironring_core::io::{IoError, IoOk, IoQueue};
use ironring_core::{Instant, Now, SegmentId, SlotId};

use super::Log;
use crate::LogStatus;
use crate::format::IdentitySeed;
use crate::format::superblock::SlotState;
use crate::ops::Purpose;
use crate::segment_walk::SegmentWalk;
use crate::segments::file_of;
use crate::status::{Damage, DamageFinder, OpName};

/// Bytes of one read.
const CHUNK_BYTES: u32 = 256 << 10;
/// Damage remembered in detail; more is only counted.
const DAMAGES_MAX: usize = 64;

pub(super) struct Scrubber {
    walk: Option<SegmentWalk>,
    reading: bool,
    /// The segment verified last.
    last: SegmentId,
    due: Option<Instant>,
    /// Something was verified since the last round began.
    progressed: bool,
}

impl Scrubber {
    pub fn new() -> Scrubber {
        Scrubber { walk: None, reading: false, last: SegmentId(0), due: None, progressed: false }
    }

    /// When the next chunk is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.due.filter(|_| !self.reading)
    }
}

impl Log {
    /// Damage found while running, the first 64 places.
    #[must_use]
    pub fn damages(&self) -> &[Damage] {
        &self.damages
    }

    /// Notes a damaged place once; its segment is kept as it is.
    pub(super) fn report_damage(
        &mut self,
        finder: DamageFinder,
        slot: SlotId,
        pos: u32,
        detail: String,
    ) {
        let segment = self.segments.slot(slot).segment;
        self.suspect(slot);
        if self.damages.iter().any(|d| (d.segment, d.pos) == (segment, pos)) {
            return;
        }
        self.counters.damage += 1;
        if self.damages.len() < DAMAGES_MAX {
            self.damages.push(Damage { finder, file: file_of(slot), segment, pos, detail });
        }
    }

    /// Time between two chunks.
    fn scrub_interval(&self) -> Duration {
        let sealed = u64::from(self.segments.count(SlotState::Sealed));
        let active = u64::from(self.durable_end.pos);
        let bytes = (sealed * u64::from(self.config.segment_bytes) + active).max(1);
        let chunks = bytes.div_ceil(u64::from(CHUNK_BYTES));
        let even = self.config.scrub.period.as_nanos() / u128::from(chunks);
        let at = |rate: u64| u128::from(CHUNK_BYTES) * 1_000_000_000 / u128::from(rate);
        let scrub = &self.config.scrub;
        let slowest = match scrub.bytes_per_second_min {
            0 => u128::MAX,
            rate => at(rate),
        };
        let interval = even.min(slowest).max(at(scrub.bytes_per_second_max));
        Duration::from_nanos(u64::try_from(interval).unwrap_or(u64::MAX))
    }

    /// Reads the next chunk when it is due.
    pub(super) fn scrub_pump(&mut self, now: Now, io: &mut IoQueue) {
        if !matches!(self.status, LogStatus::Open) || self.scrub.reading {
            return;
        }
        if self.segments.count(SlotState::Sealed) == 0 && !self.active_has_groups() {
            self.scrub.due = None;
            return;
        }
        let Some(due) = self.scrub.due else {
            self.scrub.due = Some(now.mono + self.scrub_interval());
            return;
        };
        if now.mono < due {
            return;
        }
        self.scrub.due = Some(now.mono + self.scrub_interval());
        if self.scrub.walk.is_none() {
            self.scrub.walk = self.next_to_scrub();
        }
        let Some(walk) = &self.scrub.walk else { return };
        // Compaction may have freed it meanwhile.
        let held = self.segments.find(walk.segment) == Some(walk.slot);
        let slot = walk.slot;
        match walk.next_read(CHUNK_BYTES).filter(|_| held) {
            Some(op) => {
                self.segments.slot_mut(slot).pins += 1;
                self.scrub.reading = true;
                self.ops.push(io, Purpose::Scrub(slot), op);
            }
            None => self.scrub_next_segment(),
        }
    }

    fn scrub_next_segment(&mut self) {
        if let Some(walk) = self.scrub.walk.take() {
            self.scrub.last = walk.segment;
        }
    }

    fn active_has_groups(&self) -> bool {
        self.durable_end.pos > self.config.data_start()
    }

    /// The segment behind the last one that was verified, or the first of a new round.
    fn next_to_scrub(&mut self) -> Option<SegmentWalk> {
        // The last group of a segment that was just sealed may be in flight.
        let durable = self.durable_end.segment;
        let active = self.active_has_groups();
        let after = |segment: SegmentId| {
            self.segments.from(segment).take_while(|(segment, _)| *segment <= durable).find(
                |(segment, slot)| {
                    let slot = self.segments.slot(*slot);
                    let ended = slot.state() == SlotState::Sealed && *segment < durable;
                    !slot.damaged && (ended || (*segment == durable && active))
                },
            )
        };
        let mut found = after(SegmentId(self.scrub.last.0 + 1));
        if found.is_none() && self.scrub.progressed {
            self.counters.scrub_rounds += 1;
            self.scrub.progressed = false;
            found = after(SegmentId(0));
        } else if found.is_none() {
            found = after(SegmentId(0));
        }
        let (segment, slot) = found?;
        let seed = IdentitySeed::new(self.identity);
        let ends =
            if segment == durable { self.durable_end.pos } else { self.segments.slot(slot).used };
        let (start, end) = (self.config.data_start(), ends);
        Some(SegmentWalk::new(seed, self.config.block_bytes, (segment, slot), start, end))
    }

    pub(super) fn scrub_done(&mut self, slot: SlotId, op: OpName, result: Result<IoOk, IoError>) {
        self.scrub.reading = false;
        self.segments.slot_mut(slot).pins -= 1;
        let Some(walk) = &mut self.scrub.walk else { return };
        let damage = match result {
            Ok(IoOk::Read(buf)) => {
                self.counters.scrub_bytes += buf.len() as u64;
                self.scrub.progressed = true;
                walk.feed(&buf);
                loop {
                    match walk.next_group() {
                        Ok(Some(_)) => {}
                        Ok(None) => break None,
                        Err(detail) => break Some((walk.pos(), detail)),
                    }
                }
            }
            Ok(_) => unreachable!("the driver answers a request with its own kind of result"),
            Err(error) => Some((op.pos as u32, error.to_string())),
        };
        if let Some((pos, detail)) = damage {
            self.report_damage(DamageFinder::Scrub, slot, pos, detail);
            // What lies behind the damage in this segment is looked at record by record by reads.
            self.scrub_next_segment();
        }
    }
}
