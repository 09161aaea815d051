//! Where the newest entries of a partition lie: what a follower can still be sent one by one.
//!
//! Older entries are known only by what they add up to; a follower that lacks them gets that. The
//! window has no gaps: when a place in it is lost, everything before is given up with it.

use std::collections::VecDeque;

use ironring_core::Offset;
use ironring_log::Location;

/// Most entries of a shard, divided among its partitions: 12 bytes each.
const ENTRIES_PER_SHARD: usize = 2 << 20;
/// A partition has room for this many, however many partitions there are.
const ENTRIES_MIN: usize = 256;

/// The places of consecutive entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entries {
    first: Offset,
    places: VecDeque<Location>,
}

impl Default for Entries {
    fn default() -> Entries {
        Entries { first: Offset::FIRST, places: VecDeque::new() }
    }
}

/// How many entries each of so many partitions may keep.
#[must_use]
pub fn entries_max(partitions: usize) -> usize {
    (ENTRIES_PER_SHARD / partitions.max(1)).max(ENTRIES_MIN)
}

impl Entries {
    /// The offset of the oldest entry whose place is known.
    #[must_use]
    pub fn first(&self) -> Offset {
        self.first
    }

    /// Behind the newest.
    #[must_use]
    pub fn end(&self) -> Offset {
        Offset(self.first.0 + self.places.len() as u64)
    }

    /// The place of an entry.
    #[must_use]
    pub fn get(&self, offset: Offset) -> Option<Location> {
        self.places.get(offset.0.checked_sub(self.first.0)? as usize).copied()
    }

    /// Bytes of the entries from `first` to before `end`, as far as their places are known. O(entries).
    #[must_use]
    pub fn bytes(&self, first: Offset, end: Offset) -> u64 {
        let at = |offset: Offset| offset.0.saturating_sub(self.first.0) as usize;
        let (from, to) = (at(first), at(end).min(self.places.len()));
        self.places.range(from.min(to)..to).map(|place| u64::from(place.len)).sum()
    }

    /// The entry at the end lies here. Beyond `most` the oldest is given up, if it is committed: what
    /// comes before `committed` adds up to a state that can be sent instead, and nothing else does.
    pub fn push(&mut self, offset: Offset, at: Location, most: usize, committed: Offset) {
        if self.end() != offset {
            self.begin(offset);
        }
        self.places.push_back(at);
        while self.places.len() > most && self.first < committed {
            self.places.pop_front();
            self.first = self.first.next();
        }
    }

    /// Forgets everything: the next entry has this offset.
    pub fn begin(&mut self, offset: Offset) {
        self.first = offset;
        self.places.clear();
        self.places.shrink_to(ENTRIES_MIN);
    }

    /// Entries from `end` on are void.
    pub fn truncate(&mut self, end: Offset) {
        if end <= self.first {
            return self.begin(end);
        }
        self.places.truncate((end.0 - self.first.0) as usize);
    }

    /// The entry has a copy at `to`.
    pub fn relocate(&mut self, offset: Offset, from: Location, to: Location) {
        let number = offset.0.checked_sub(self.first.0);
        if let Some(place) = number.and_then(|n| self.places.get_mut(n as usize))
            && *place == from
        {
            *place = to;
        }
    }

    /// The record at `at` will be gone: when it is an entry here, that and all before it are given up.
    pub fn lose(&mut self, offset: Offset, at: Location) {
        if self.get(offset) == Some(at) {
            self.places.drain(..=(offset.0 - self.first.0) as usize);
            self.first = offset.next();
        }
    }

    /// An entry cannot be read any more: it and all before it are given up.
    pub fn lose_before(&mut self, end: Offset) {
        let end = end.min(self.end());
        if end > self.first {
            self.places.drain(..(end.0 - self.first.0) as usize);
            self.first = end;
        }
    }

    /// Memory held, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.places.capacity() * size_of::<Location>()
    }
}

#[cfg(test)]
mod tests {
    use ironring_core::SegmentId;

    use super::*;

    fn at(n: u32) -> Location {
        Location { segment: SegmentId(1), pos: n * 64, len: 64 }
    }

    fn filled() -> Entries {
        let mut e = Entries::default();
        e.begin(Offset(10));
        (10..20).for_each(|n| e.push(Offset(n), at(n as u32), 8, Offset(99)));
        e
    }

    #[test]
    fn the_newest_are_kept() {
        let mut e = filled();
        assert_eq!((e.first(), e.end()), (Offset(12), Offset(20)));
        assert_eq!((e.get(Offset(12)), e.get(Offset(11))), (Some(at(12)), None));
        e.truncate(Offset(15));
        assert_eq!((e.end(), e.get(Offset(15))), (Offset(15), None));
        e.truncate(Offset(3));
        assert_eq!((e.first(), e.end()), (Offset(3), Offset(3)));
        e.push(Offset(9), at(9), 8, Offset(1));
        assert_eq!((e.first(), e.end()), (Offset(9), Offset(10)), "a gap begins it anew");
    }

    #[test]
    fn what_is_not_committed_is_kept_however_much_it_is() {
        let mut e = Entries::default();
        (1..30).for_each(|n| e.push(Offset(n), at(n as u32), 8, Offset(5)));
        assert_eq!((e.first(), e.end()), (Offset(5), Offset(30)));
        e.push(Offset(30), at(30), 8, Offset(27));
        assert_eq!((e.first(), e.end()), (Offset(23), Offset(31)));
    }

    #[test]
    fn bytes_are_those_of_the_entries_there_are() {
        let e = filled();
        assert_eq!(e.bytes(Offset(1), Offset(99)), 8 * 64, "from 12 to before 20");
        assert_eq!(e.bytes(Offset(18), Offset(19)), 64);
        assert_eq!(e.bytes(Offset(19), Offset(12)), 0);
        assert_eq!(e.bytes(Offset(30), Offset(40)), 0);
    }

    #[test]
    fn a_lost_place_takes_what_is_before_it_along() {
        let mut e = filled();
        e.lose(Offset(14), at(99));
        assert_eq!(e.first(), Offset(12), "that was another copy");
        e.relocate(Offset(15), at(15), at(90));
        e.lose(Offset(14), at(14));
        assert_eq!((e.first(), e.get(Offset(15))), (Offset(15), Some(at(90))));
        e.lose_before(Offset(99));
        assert_eq!((e.first(), e.end()), (Offset(20), Offset(20)));
    }
}
