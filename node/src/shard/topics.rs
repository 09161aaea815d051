//! One topic partition: which batches it holds and where they lie.
//!
//! Offsets of a topic partition are dense and its own; each batch is one log record with
//! consecutive offsets. 32 bytes of memory a batch, whatever the batch holds.

use std::collections::VecDeque;

use ironring_core::WallTime;
use ironring_log::Location;

/// One stored batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Offset of its first record.
    pub first: u64,
    /// How many records.
    pub count: u32,
    /// When it was stored.
    pub time: WallTime,
    /// Where.
    pub at: Location,
}

impl Batch {
    /// One past its last offset.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }
}

/// The state of one topic partition.
#[derive(Clone, Debug, Default)]
pub struct TopicPartition {
    start: u64,
    end: u64,
    bytes: u64,
    batches: VecDeque<Batch>,
}

impl TopicPartition {
    /// Oldest offset kept.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// One past the newest record that is applied.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Bytes of the batches kept.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Batches kept, oldest first.
    pub fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.batches.iter()
    }

    /// Batches whose first offset is at least `first`, oldest first; O(log n) to begin.
    pub fn batches_from(&self, first: u64) -> impl Iterator<Item = &Batch> {
        let i = self.batches.partition_point(|b| b.first < first);
        self.batches.range(i..)
    }

    /// Adds a batch at the end, or notes the new place of one that is there. Returns the place
    /// that is dead now: the old one, or `batch` itself when it was trimmed already. A state that
    /// another replica sent says where the topic partition ends before its batches come: these are put
    /// where they belong.
    pub fn put(&mut self, batch: Batch) -> Option<Location> {
        if batch.end() <= self.start {
            return Some(batch.at);
        }
        if batch.first >= self.end {
            if self.batches.is_empty() && batch.first > self.start {
                self.start = batch.first;
            }
            self.end = batch.end();
            self.bytes += u64::from(batch.at.len);
            self.batches.push_back(batch);
            return None;
        }
        match self.batches.binary_search_by_key(&batch.first, |b| b.first) {
            Ok(i) => {
                let before = std::mem::replace(&mut self.batches[i].at, batch.at);
                self.bytes = self.bytes + u64::from(batch.at.len) - u64::from(before.len);
                (before != batch.at).then_some(before)
            }
            Err(i) => {
                let before = i.checked_sub(1).and_then(|i| self.batches.get(i));
                let fits = before.is_none_or(|before| before.end() <= batch.first)
                    && self.batches.get(i).is_none_or(|next| batch.end() <= next.first);
                if !fits {
                    return Some(batch.at);
                }
                self.bytes += u64::from(batch.at.len);
                self.batches.insert(i, batch);
                None
            }
        }
    }

    /// Forgets everything before `before`; calls `dead` with the place of each batch that goes.
    /// A batch that straddles `before` stays, and readers do not see its older part.
    pub fn trim(&mut self, before: u64, mut dead: impl FnMut(Location)) {
        self.start = self.start.max(before);
        self.end = self.end.max(self.start);
        while let Some(batch) = self.batches.front() {
            if batch.end() > self.start {
                break;
            }
            self.bytes -= u64::from(batch.at.len);
            dead(batch.at);
            self.batches.pop_front();
        }
    }

    /// True when the batch at `at` that begins at `first` is the current copy.
    #[must_use]
    pub fn holds(&self, first: u64, at: Location) -> bool {
        self.batches
            .binary_search_by_key(&first, |b| b.first)
            .is_ok_and(|i| self.batches[i].at == at)
    }

    /// The batch that holds `offset`, and all after it.
    pub fn from_offset(&self, offset: u64) -> impl Iterator<Item = &Batch> {
        let i = self.batches.partition_point(|b| b.end() <= offset);
        self.batches.range(i..)
    }

    /// Offset of the first batch stored at or after `time`; the end when there is none. Times of a
    /// partition only grow, unless the wall clock was set back: then this is approximate.
    #[must_use]
    pub fn offset_at(&self, time: WallTime) -> u64 {
        let i = self.batches.partition_point(|b| b.time < time);
        self.batches.get(i).map_or(self.end, |b| b.first.max(self.start))
    }

    /// The offset up to which retention lets records go: batches stored before `oldest`, and the
    /// oldest ones beyond `bytes_max` (0: no limit). Whole batches only.
    #[must_use]
    pub fn retention_cut(&self, oldest: WallTime, bytes_max: u64) -> u64 {
        let mut cut = self.start;
        let mut bytes = self.bytes;
        for batch in &self.batches {
            let too_old = batch.time < oldest;
            let too_much = bytes_max > 0 && bytes > bytes_max;
            if !(too_old || too_much) {
                break;
            }
            bytes -= u64::from(batch.at.len);
            cut = batch.end();
        }
        cut
    }

    /// Sets the bounds, when restoring from a checkpoint.
    pub fn restore_bounds(&mut self, start: u64, end: u64) {
        self.start = self.start.max(start);
        self.end = self.end.max(end).max(self.start);
    }

    /// Memory held, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.batches.capacity() * std::mem::size_of::<Batch>() + 128
    }
}

const _: () = assert!(std::mem::size_of::<Batch>() <= 40);

#[cfg(test)]
mod tests {
    use super::*;
    use ironring_core::SegmentId;

    fn batch(first: u64, count: u32, time: u64) -> Batch {
        let at = Location { segment: SegmentId(1), pos: first as u32 * 100, len: 100 };
        Batch { first, count, time: WallTime(time), at }
    }

    /// As a replica that is being filled meets them.
    #[test]
    fn batches_of_which_only_the_bounds_are_known_are_put_where_they_belong() {
        let mut t = TopicPartition::default();
        t.restore_bounds(2, 9);
        for batch in [batch(5, 4, 3), batch(0, 3, 1), batch(3, 2, 2)] {
            assert_eq!(t.put(batch), None);
        }
        let firsts: Vec<u64> = t.batches().map(|batch| batch.first).collect();
        assert_eq!((firsts, t.bytes()), (vec![0, 3, 5], 300));
        assert_eq!((t.start(), t.end()), (2, 9));
        // What overlaps another, or was trimmed, is not part of it.
        let odd = batch(4, 2, 4);
        assert_eq!(t.put(odd), Some(odd.at));
        let old = batch(0, 2, 4);
        assert_eq!(t.put(old), Some(old.at));
        assert_eq!(t.put(batch(9, 1, 5)), None);
        assert_eq!((t.batches().count(), t.end()), (4, 10));
    }

    fn three() -> TopicPartition {
        let mut t = TopicPartition::default();
        for b in [batch(0, 10, 100), batch(10, 5, 200), batch(15, 1, 300)] {
            assert_eq!(t.put(b), None);
        }
        t
    }

    #[test]
    fn offsets_are_dense_and_found() {
        let t = three();
        assert_eq!((t.start(), t.end(), t.bytes()), (0, 16, 300));
        assert_eq!(t.from_offset(12).map(|b| b.first).collect::<Vec<_>>(), [10, 15]);
        assert_eq!(t.from_offset(16).count(), 0);
        assert_eq!((t.offset_at(WallTime(0)), t.offset_at(WallTime(101))), (0, 10));
        assert_eq!(t.offset_at(WallTime(999)), 16);
    }

    #[test]
    fn trim_inside_a_batch_keeps_the_batch_but_moves_the_start() {
        let mut t = three();
        let mut dead = vec![];
        t.trim(12, |at| dead.push(at.pos));
        assert_eq!((t.start(), dead), (12, vec![0]));
        assert_eq!(t.put(batch(0, 10, 100)), Some(batch(0, 10, 100).at), "a trimmed batch is dead");
        t.trim(16, |_| ());
        assert_eq!((t.start(), t.end(), t.bytes()), (16, 16, 0));
        assert_eq!(t.put(batch(16, 1, 400)), None);
    }

    #[test]
    fn relocation_and_retention() {
        let mut t = three();
        let moved =
            Batch { at: Location { segment: SegmentId(9), pos: 0, len: 100 }, ..batch(10, 5, 200) };
        assert_eq!(t.put(moved), Some(batch(10, 5, 200).at));
        assert!(t.holds(10, moved.at) && !t.holds(10, batch(10, 5, 200).at));
        assert_eq!(t.retention_cut(WallTime(0), 0), 0);
        assert_eq!(t.retention_cut(WallTime(201), 0), 15);
        assert_eq!(t.retention_cut(WallTime(0), 150), 15);
        assert_eq!(t.retention_cut(WallTime(999), 1), 16);
    }
}
