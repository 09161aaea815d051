//! The slot table: which file holds which segment, in which state, and how much of it is live.
//!
//! Invariants:
//! - log order is the order of segment ids: ids are given when a segment is prepared, and prepared
//!   segments are used in that order, so they are always the last ones;
//! - a slot changes to a state that others may rely on (a free slot to be overwritten, a prepared
//!   one to be appended to) only when the superblock version that says so is settled;
//! - the end of every sealed segment is known: it is recorded when the segment is sealed, and after
//!   a crash before that by replay, which covers every segment that was not recorded as sealed;
//! - live bytes never exceed what was appended: the owner names each location live or dead once.

use std::collections::BTreeMap;

use ironring_core::io::FileName;
use ironring_core::{GroupSeq, SegmentId, SlotId};

use crate::format::superblock::{SLOTS_MAX, SlotEntry, SlotState};
use crate::{Location, SegmentCounts};

/// One slot.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    state: SlotState,
    pub segment: SegmentId,
    pub generation: u32,
    pub first_group: GroupSeq,
    /// The superblock version from which on the state may be relied on.
    pub settles: u64,
    /// End of the last group.
    pub used: u32,
    /// Bytes of records something refers to.
    live: u64,
    /// Reads in flight.
    pub pins: u32,
    /// Something in it does not verify: it is kept as it is.
    pub damaged: bool,
    /// Its owner needs nothing of it once this group is durable.
    pub retires_after: Option<GroupSeq>,
}

impl Slot {
    fn absent() -> Slot {
        Slot {
            state: SlotState::Absent,
            segment: SegmentId(0),
            generation: 0,
            first_group: GroupSeq(0),
            settles: 0,
            used: 0,
            live: 0,
            pins: 0,
            damaged: false,
            retires_after: None,
        }
    }

    pub fn state(&self) -> SlotState {
        self.state
    }

    /// Bytes that compaction would free.
    pub fn dead(&self) -> u64 {
        u64::from(self.used).saturating_sub(self.live)
    }
}

/// All slots.
#[derive(Debug)]
pub(crate) struct Segments {
    slots: Vec<Slot>,
    by_id: BTreeMap<SegmentId, SlotId>,
    counts: [u32; 5],
    live: u64,
    pub next_segment: SegmentId,
    segment_bytes: u32,
}

impl Segments {
    pub fn new(segment_bytes: u32) -> Segments {
        Segments {
            slots: Vec::new(),
            by_id: BTreeMap::new(),
            counts: [0; 5],
            live: 0,
            next_segment: SegmentId(1),
            segment_bytes,
        }
    }

    /// The table a superblock lists.
    pub fn load(&mut self, entries: &[SlotEntry], next_segment: SegmentId) {
        *self = Segments::new(self.segment_bytes);
        self.next_segment = next_segment;
        for (i, entry) in entries.iter().enumerate() {
            self.slots.push(Slot {
                state: entry.state,
                segment: entry.segment,
                generation: entry.generation,
                first_group: entry.first_group,
                used: entry.used,
                ..Slot::absent()
            });
            self.counts[entry.state as usize] += 1;
            if entry.segment != SegmentId(0) {
                self.by_id.insert(entry.segment, SlotId(i as u32));
            }
        }
    }

    /// The table as a superblock stores it.
    pub fn entries(&self) -> Vec<SlotEntry> {
        let entry = |slot: &Slot| SlotEntry {
            segment: slot.segment,
            generation: slot.generation,
            state: slot.state,
            used: if slot.state == SlotState::Sealed { slot.used } else { 0 },
            first_group: slot.first_group,
        };
        self.slots.iter().map(entry).collect()
    }

    pub fn slot(&self, slot: SlotId) -> &Slot {
        &self.slots[slot.0 as usize]
    }

    pub fn slot_mut(&mut self, slot: SlotId) -> &mut Slot {
        &mut self.slots[slot.0 as usize]
    }

    pub fn set_state(&mut self, slot: SlotId, state: SlotState) {
        let entry = &mut self.slots[slot.0 as usize];
        self.counts[entry.state as usize] -= 1;
        self.counts[state as usize] += 1;
        entry.state = state;
    }

    pub fn find(&self, segment: SegmentId) -> Option<SlotId> {
        self.by_id.get(&segment).copied()
    }

    /// Segments in log order from `first` on.
    pub fn from(&self, first: SegmentId) -> impl Iterator<Item = (SegmentId, SlotId)> + '_ {
        self.by_id.range(first..).map(|(segment, slot)| (*segment, *slot))
    }

    /// Segments in log order before `end`.
    pub fn before(&self, end: SegmentId) -> impl Iterator<Item = (SlotId, &Slot)> {
        self.by_id.range(..end).map(|(_, slot)| (*slot, self.slot(*slot)))
    }

    /// Gives a free slot its next segment, prepared: a new id and generation.
    pub fn assign(&mut self, slot: SlotId, settles: u64) {
        let segment = self.next_segment;
        self.next_segment = SegmentId(segment.0 + 1);
        self.set_state(slot, SlotState::Prepared);
        let entry = &mut self.slots[slot.0 as usize];
        let (state, generation) = (entry.state, entry.generation + 1);
        *entry = Slot { state, segment, generation, settles, ..Slot::absent() };
        self.by_id.insert(segment, slot);
    }

    /// The slot's segment is no longer part of the log.
    pub fn release(&mut self, slot: SlotId, state: SlotState, settles: u64) {
        self.set_state(slot, state);
        let entry = &mut self.slots[slot.0 as usize];
        assert_eq!(entry.pins, 0, "a segment is freed only when no read is in flight");
        self.by_id.remove(&entry.segment);
        self.live -= entry.live;
        *entry = Slot { state, generation: entry.generation, settles, ..Slot::absent() };
    }

    /// A slot without a file, to make one in; `None` when the table is full.
    pub fn vacant(&mut self, settled: u64) -> Option<SlotId> {
        let vacant = |s: &Slot| s.state == SlotState::Absent && s.settles <= settled;
        if let Some(i) = self.slots.iter().position(vacant) {
            return Some(SlotId(i as u32));
        }
        if self.slots.len() == SLOTS_MAX {
            return None;
        }
        self.slots.push(Slot::absent());
        self.counts[SlotState::Absent as usize] += 1;
        Some(SlotId(self.slots.len() as u32 - 1))
    }

    /// Whether [`Segments::vacant`] can give a slot.
    pub fn has_vacancy(&self) -> bool {
        self.slots.len() < SLOTS_MAX || self.count(SlotState::Absent) > 0
    }

    /// The prepared segments, last first.
    fn prepared(&self) -> impl Iterator<Item = (SlotId, &Slot)> {
        let slots = self.by_id.values().rev().map(|slot| (*slot, self.slot(*slot)));
        slots.take_while(|(_, slot)| slot.state == SlotState::Prepared)
    }

    /// The prepared segment to use next, when superblock version `settled` holds it.
    pub fn next_prepared(&self, settled: u64) -> Option<SlotId> {
        let (id, slot) = self.prepared().last()?;
        (slot.settles <= settled).then_some(id)
    }

    /// The prepared segment that would be used last, if there are two.
    pub fn last_prepared(&self) -> Option<SlotId> {
        (self.count(SlotState::Prepared) > 1).then(|| self.prepared().next().map(|(id, _)| id))?
    }

    /// Whether superblock version `settled` holds every prepared segment.
    pub fn prepared_settled(&self, settled: u64) -> bool {
        self.prepared().all(|(_, slot)| slot.settles <= settled)
    }

    /// A free slot that may be overwritten under superblock version `settled`.
    pub fn free_slot(&self, settled: u64) -> Option<SlotId> {
        if self.count(SlotState::Free) == 0 {
            return None;
        }
        let free = |slot: &Slot| slot.state == SlotState::Free && slot.settles <= settled;
        self.slots.iter().position(free).map(|i| SlotId(i as u32))
    }

    pub fn count(&self, state: SlotState) -> u32 {
        self.counts[state as usize]
    }

    /// Segments ready for use, now or after they are prepared.
    pub fn empty(&self) -> u32 {
        self.count(SlotState::Free) + self.count(SlotState::Prepared)
    }

    pub fn counts(&self) -> SegmentCounts {
        SegmentCounts {
            free: self.count(SlotState::Free),
            prepared: self.count(SlotState::Prepared),
            active: self.count(SlotState::Active),
            sealed: self.count(SlotState::Sealed),
        }
    }

    /// Bytes all segment files take.
    pub fn file_bytes(&self) -> u64 {
        let files = self.slots.len() as u64 - u64::from(self.count(SlotState::Absent));
        files * u64::from(self.segment_bytes)
    }

    /// Bytes of the files that hold segments with groups.
    pub fn held_bytes(&self) -> u64 {
        let held = self.count(SlotState::Active) + self.count(SlotState::Sealed);
        u64::from(held) * u64::from(self.segment_bytes)
    }

    /// Bytes of live records.
    pub fn live(&self) -> u64 {
        self.live
    }

    pub fn mark_live(&mut self, at: Location) {
        if let Some(slot) = self.find(at.segment) {
            self.slot_mut(slot).live += u64::from(at.len);
            self.live += u64::from(at.len);
        }
    }

    pub fn mark_dead(&mut self, at: Location) {
        if let Some(slot) = self.find(at.segment) {
            let slot = self.slot_mut(slot);
            let dead = u64::from(at.len).min(slot.live);
            slot.live -= dead;
            self.live -= dead;
        }
    }
}

/// The file of a slot.
pub(crate) fn file_of(slot: SlotId) -> FileName {
    FileName::Segment(slot)
}
