//! Damaged segments: what the owner hears of them, and how they leave the log.
//!
//! The log keeps a damaged segment as it is, out of compaction's and the scrub's way. An owner that
//! can get what is lost from elsewhere appends it again, appends what can still be read of the
//! segment again as well, and gives the segment up: it is freed as compaction frees one, when what
//! replaces it is durable, both checkpoints begin behind it and no read of it is in flight.
//!
//! Replay must not meet the damage again, and a log that nobody writes to has no checkpoint due. So one
//! is made as soon as damage is found that the newest does not begin behind, and until both begin behind
//! a segment that was given up. What such a checkpoint says of a record that was appended again is true:
//! it counts only when all groups it may reflect are durable, as any does. What was not appended again
//! yet it refers to where it lies, and there it stays.

use ironring_core::{GroupSeq, SegmentId, SlotId};

use super::Log;
use crate::format::superblock::SlotState;

impl Log {
    /// Segments in which something did not verify, or could not be read, since the last call.
    pub fn take_suspects(&mut self) -> Vec<SegmentId> {
        std::mem::take(&mut self.suspects)
    }

    /// Whether a segment is known to be damaged, and part of the log still.
    #[must_use]
    pub fn is_damaged(&self, segment: SegmentId) -> bool {
        self.segments.find(segment).is_some_and(|slot| self.segments.slot(slot).damaged)
    }

    /// Notes that something in a segment does not verify.
    pub(super) fn suspect(&mut self, slot: SlotId) {
        if self.mark_damaged(slot) {
            self.suspects.push(self.segments.slot(slot).segment);
        }
    }

    /// Something in a segment does not verify. False: that was known.
    fn mark_damaged(&mut self, slot: SlotId) -> bool {
        let slot = self.segments.slot_mut(slot);
        let new = !std::mem::replace(&mut slot.damaged, true);
        if new && slot.segment >= self.newest.segment {
            // What is damaged was written, so it lies before what is staged.
            self.checkpoint.begin_behind(self.staging.staged());
        }
        new
    }

    /// The owner takes a segment for damaged: it is going to empty it. When it is the active one the log
    /// goes on in the next as soon as there is one to spare: what is appended in place of something
    /// must not lie there too.
    pub fn condemn(&mut self, segment: SegmentId) {
        if let Some(slot) = self.segments.find(segment) {
            self.mark_damaged(slot);
            if segment == self.staging.end().segment {
                self.condemned_active = Some(segment);
            }
        }
    }

    /// Whether nothing more is to be appended to the active segment, though it has room.
    pub(super) fn leaves(&self, active: SegmentId) -> bool {
        self.condemned_active == Some(active)
            && self.segments.empty() > self.config.reserve_segments
            && self.segments.next_prepared(self.superblock.settled()).is_some()
    }

    /// The owner needs nothing of a damaged segment: everything it refers to lies elsewhere, staged
    /// at least. The segment is freed when that is safe.
    pub fn retire(&mut self, segment: SegmentId) {
        let Some(slot) = self.segments.find(segment) else { return };
        let staged = GroupSeq(self.staging.next_sequence().0 - 1);
        let slot = self.segments.slot_mut(slot);
        if slot.damaged && slot.retires_after.is_none() {
            slot.retires_after = Some(staged);
            self.retiring.push(segment);
        }
    }

    /// Whether a segment that was given up is held by a checkpoint that begins no later, and the next
    /// would begin behind it.
    pub(super) fn retiring_waits_for_checkpoint(&self) -> bool {
        let begins = self.staging.staged_place().segment;
        self.retiring.iter().any(|segment| *segment >= self.older.segment && *segment < begins)
    }

    /// Frees the segments that were given up and can go.
    pub(super) fn retire_pump(&mut self) {
        if self.retiring.is_empty() {
            return;
        }
        for segment in std::mem::take(&mut self.retiring) {
            let Some(slot) = self.segments.find(segment) else { continue };
            let s = self.segments.slot(slot);
            let replaced = s.retires_after.is_some_and(|group| group <= self.staging.durable());
            let goes = replaced
                && s.state() == SlotState::Sealed
                && s.pins == 0
                && segment < self.settled_older
                && self.compaction.segment() != Some(segment);
            if !goes {
                self.retiring.push(segment);
                continue;
            }
            let version = self.superblock.request();
            self.segments.release(slot, SlotState::Free, version);
            self.counters.segments_freed += 1;
            self.counters.segments_retired += 1;
            self.no_space_until = None;
        }
    }
}
