//! The slot table: which file holds which segment, in which state, and how much of it is live.
//!
//! Invariants:
//! - log order is the order of segment ids: ids are given when a segment is prepared, and prepared
//!   segments are used in that order;
//! - a slot changes to a state that others may rely on (a free slot to be overwritten, a prepared
//!   one to be appended to) only when the superblock version that says so is settled;
//! - live bytes never exceed what was appended: the owner names each location live or dead once.

use std::collections::BTreeMap;

use ironring_core::io::FileName;
use ironring_core::{GroupSeq, SegmentId, SlotId};

use crate::format::superblock::{SLOTS_MAX, SlotEntry, SlotState};
use crate::{Location, SegmentCounts};

/// One slot.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub state: SlotState,
    pub segment: SegmentId,
    pub generation: u32,
    pub first_group: GroupSeq,
    /// The superblock version from which on the state may be relied on.
    pub settles: u64,
    /// End of the last group, as far as known; the whole segment when it was not replayed.
    pub used: u32,
    /// Bytes of records something refers to.
    pub live: u64,
    /// Reads in flight.
    pub pins: u32,
}

impl Slot {
    pub fn absent() -> Slot {
        Slot {
            state: SlotState::Absent,
            segment: SegmentId(0),
            generation: 0,
            first_group: GroupSeq(0),
            settles: 0,
            used: 0,
            live: 0,
            pins: 0,
        }
    }
}

/// All slots.
#[derive(Debug)]
pub(crate) struct Segments {
    slots: Vec<Slot>,
    by_id: BTreeMap<SegmentId, SlotId>,
    pub next_segment: SegmentId,
    pub segment_bytes: u32,
}

impl Segments {
    pub fn new(segment_bytes: u32) -> Segments {
        Segments {
            slots: Vec::new(),
            by_id: BTreeMap::new(),
            next_segment: SegmentId(1),
            segment_bytes,
        }
    }

    /// The table a superblock lists.
    pub fn load(&mut self, entries: &[SlotEntry], next_segment: SegmentId) {
        self.next_segment = next_segment;
        self.slots.clear();
        self.by_id.clear();
        for (i, entry) in entries.iter().enumerate() {
            self.slots.push(Slot {
                state: entry.state,
                segment: entry.segment,
                generation: entry.generation,
                first_group: entry.first_group,
                ..Slot::absent()
            });
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

    pub fn find(&self, segment: SegmentId) -> Option<SlotId> {
        self.by_id.get(&segment).copied()
    }

    /// Segments in log order from `first` on.
    pub fn from(&self, first: SegmentId) -> impl Iterator<Item = (SegmentId, SlotId)> + '_ {
        self.by_id.range(first..).map(|(segment, slot)| (*segment, *slot))
    }

    pub fn iter(&self) -> impl Iterator<Item = (SlotId, &Slot)> {
        self.slots.iter().enumerate().map(|(i, slot)| (SlotId(i as u32), slot))
    }

    /// Gives the slot its next segment: a new id and generation.
    pub fn assign(&mut self, slot: SlotId, state: SlotState) -> SegmentId {
        let segment = self.next_segment;
        self.next_segment = SegmentId(segment.0 + 1);
        let entry = &mut self.slots[slot.0 as usize];
        *entry = Slot { state, segment, generation: entry.generation + 1, ..Slot::absent() };
        self.by_id.insert(segment, slot);
        segment
    }

    /// A slot without a file, to make one in; `None` when the table is full.
    pub fn vacant(&mut self) -> Option<SlotId> {
        if let Some(i) = self.slots.iter().position(|s| s.state == SlotState::Absent) {
            return Some(SlotId(i as u32));
        }
        if self.slots.len() == SLOTS_MAX {
            return None;
        }
        self.slots.push(Slot::absent());
        Some(SlotId(self.slots.len() as u32 - 1))
    }

    /// Whether [`Segments::vacant`] would give a slot.
    pub fn has_vacancy(&self) -> bool {
        self.slots.len() < SLOTS_MAX || self.count(SlotState::Absent) > 0
    }

    /// The prepared segment to use next, when superblock version `settled` holds it.
    pub fn next_prepared(&self, settled: u64) -> Option<SlotId> {
        let prepared = |slot: &&SlotId| self.slot(**slot).state == SlotState::Prepared;
        let first = *self.by_id.values().find(prepared)?;
        (self.slot(first).settles <= settled).then_some(first)
    }

    /// A free slot that may be overwritten under superblock version `settled`.
    pub fn free_slot(&self, settled: u64) -> Option<SlotId> {
        let free =
            |(_, slot): &(SlotId, &Slot)| slot.state == SlotState::Free && slot.settles <= settled;
        self.iter().find(free).map(|(id, _)| id)
    }

    /// Whether superblock version `settled` holds every slot of `state`.
    pub fn settled(&self, state: SlotState, settled: u64) -> bool {
        self.slots.iter().all(|s| s.state != state || s.settles <= settled)
    }

    pub fn count(&self, state: SlotState) -> u32 {
        self.slots.iter().filter(|s| s.state == state).count() as u32
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

    pub fn mark_live(&mut self, at: Location) {
        if let Some(slot) = self.find(at.segment) {
            self.slot_mut(slot).live += u64::from(at.len);
        }
    }

    pub fn mark_dead(&mut self, at: Location) {
        if let Some(slot) = self.find(at.segment) {
            let live = &mut self.slot_mut(slot).live;
            *live = live.saturating_sub(u64::from(at.len));
        }
    }
}

/// The file of a slot.
pub(crate) fn file_of(slot: SlotId) -> FileName {
    FileName::Segment(slot)
}
