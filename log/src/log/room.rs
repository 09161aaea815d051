//! Room in groups and on disk: what the owner may ask before it appends.

use super::Log;
use super::commit::Claim;
use crate::{AppendError, LogStatus, Priority};

/// How full the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes of records something refers to.
    pub live_bytes: u64,
    /// Bytes of segments that hold or held records.
    pub used_bytes: u64,
    /// Bytes of all segment files.
    pub file_bytes: u64,
}

/// Whether users can go on writing when the active segment is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Room {
    /// No: no more segments can be made, and what is empty is the reserve.
    Short,
    /// For the moment, or it is not known: the log is not open, say.
    #[default]
    Tight,
    /// Yes: segments can be made, or more are empty than one that was just freed.
    Plenty,
}

impl Log {
    /// How much room there is for users. O(1).
    ///
    /// Between [`Room::Short`] and [`Room::Plenty`] lies one segment, so that a log at its limit, where
    /// compaction frees what users fill, is not now this and now that.
    #[must_use]
    pub fn room(&self) -> Room {
        if !matches!(self.status, LogStatus::Open) {
            return Room::Tight;
        }
        let (empty, reserve) = (self.segments.empty(), self.config.reserve_segments);
        match self.growth_is_possible() {
            true if empty > reserve => Room::Plenty,
            false if empty > reserve + 1 => Room::Plenty,
            false if empty <= reserve => Room::Short,
            _ => Room::Tight,
        }
    }

    /// Makes sure that the next appends of this turn, `bytes` of encoded records in all, go into
    /// one group: durable together or not at all. Appends made with [`Priority::Reserve`] then
    /// cannot be refused. Costs nothing when the open group has the room.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn reserve(&mut self, bytes: usize, priority: Priority) -> Result<(), AppendError> {
        if !matches!(self.status, LogStatus::Open) {
            return Err(AppendError::Closed);
        }
        if bytes > self.config.record_bytes_max() {
            return Err(AppendError::TooLarge);
        }
        let waiting = self.staging.waiting();
        if waiting > 0 && waiting + bytes > self.config.waiting_bytes_max as usize {
            self.counters.refused_overloaded += 1;
            return Err(AppendError::Overloaded);
        }
        let claim = match priority {
            Priority::User => Claim::User,
            Priority::Reserve => Claim::Reserve,
        };
        if claim < self.active_claim() {
            return Err(self.refuse_for_space());
        }
        if self.staging.open_takes(bytes) {
            return Ok(());
        }
        let place = self.place_for(bytes, claim)?;
        self.staging.open_group(place, bytes, &mut *self.alloc);
        Ok(())
    }

    /// Bytes staged and in flight.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.staging.waiting()
    }

    /// Whether users can go on when the active segment is full: the next one is ready, or there is
    /// no room for one.
    #[must_use]
    pub fn next_segment_is_ready(&self) -> bool {
        let ready = self.segments.empty() > self.config.reserve_segments
            && self.segments.next_prepared(self.superblock.settled()).is_some();
        ready || !self.growth_is_possible()
    }

    /// How full the log is. O(1).
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            live_bytes: self.segments.live(),
            used_bytes: self.segments.held_bytes(),
            file_bytes: self.segments.file_bytes(),
        }
    }
}
