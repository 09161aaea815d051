//! Records of a partition that are in the log and not committed: what its state becomes when they are.
//!
//! Readers see committed state only. What decides about a new write (conditions, the next offset of
//! a topic partition) looks here first: a record that is on its way counts as if it were applied,
//! because it lies before the new one in the log.

use std::collections::VecDeque;

use ironring_core::{Offset, PartitionId, SessionId, StableMap, Term, TopicId, WallTime};
use ironring_log::{Location, Record, RecordKind};

use super::partition::topic_name;

/// One record, with as much of it as applying it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingRecord {
    /// Where it lies.
    pub at: Location,
    kind: RecordKind,
    flags: u8,
    term: Term,
    /// Its offset.
    pub offset: Offset,
    session: SessionId,
    sequence: u64,
    time: WallTime,
    expires: WallTime,
    key: Box<[u8]>,
    /// Empty for kinds whose body is only read by its place.
    body: Box<[u8]>,
}

impl PendingRecord {
    fn new(at: Location, record: &Record<'_>) -> PendingRecord {
        let needs_body = matches!(record.kind, RecordKind::PutChunked | RecordKind::SessionMark);
        PendingRecord {
            at,
            kind: record.kind,
            flags: record.flags,
            term: record.term,
            offset: record.offset,
            session: record.session,
            sequence: record.sequence,
            time: record.time,
            expires: record.expires,
            key: record.key.into(),
            body: if needs_body { record.body.into() } else { Box::default() },
        }
    }

    /// As a record, without the body of kinds that are read by their place.
    #[must_use]
    pub fn record(&self, partition: PartitionId) -> Record<'_> {
        Record {
            kind: self.kind,
            flags: self.flags,
            partition,
            term: self.term,
            offset: self.offset,
            session: self.session,
            sequence: self.sequence,
            time: self.time,
            expires: self.expires,
            key: &self.key,
            body: &self.body,
        }
    }
}

/// What the newest pending record of a key makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingKey {
    /// The record.
    pub offset: Offset,
    /// False: the key is deleted.
    pub exists: bool,
    /// When it expires; 0: never.
    pub expires: WallTime,
}

/// The pending records of one partition. Bounded by what the log lets wait.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    /// With consecutive offsets.
    records: VecDeque<PendingRecord>,
    keys: StableMap<Box<[u8]>, PendingKey>,
    /// By topic partition: its next offset, and the record that makes it so.
    topics: StableMap<(TopicId, u32), (u64, Offset)>,
    /// By topic partition: the newest record that trims it.
    trims: StableMap<(TopicId, u32), Offset>,
}

impl Pending {
    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// All records, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &PendingRecord> {
        self.records.iter()
    }

    /// The newest record about a key. O(1), and free when nothing is pending.
    #[must_use]
    pub fn key(&self, key: &[u8]) -> Option<&PendingKey> {
        if self.keys.is_empty() { None } else { self.keys.get(key) }
    }

    /// The newest record about a key with this prefix. O(pending keys).
    #[must_use]
    pub fn newest_with_prefix(&self, prefix: &[u8]) -> Option<Offset> {
        let about = self.keys.iter().filter(|(key, _)| key.starts_with(prefix));
        about.map(|(_, pending)| pending.offset).max()
    }

    /// The next offset of a topic partition, when records for it are pending.
    #[must_use]
    pub fn topic_end(&self, topic: TopicId, index: u32) -> Option<u64> {
        self.topics.get(&(topic, index)).map(|(end, _)| *end)
    }

    /// The newest record that trims a topic partition.
    #[must_use]
    pub fn trim(&self, topic: TopicId, index: u32) -> Option<Offset> {
        if self.trims.is_empty() { None } else { self.trims.get(&(topic, index)).copied() }
    }

    /// Adds a record that was appended behind all others.
    pub fn push(&mut self, at: Location, record: &Record<'_>) {
        debug_assert!(self.records.back().is_none_or(|last| last.offset.next() == record.offset));
        let pending = PendingRecord::new(at, record);
        let offset = record.offset;
        match record.kind {
            RecordKind::Put | RecordKind::PutChunked | RecordKind::Delete => {
                let exists = record.kind != RecordKind::Delete;
                let newest = PendingKey { offset, exists, expires: record.expires };
                self.keys.insert(pending.key.clone(), newest);
            }
            RecordKind::TopicBatch => {
                if let Ok(name) = topic_name(record.key) {
                    let end = name.first + u64::from(name.count);
                    self.topics.insert((name.topic, name.index), (end, offset));
                }
            }
            RecordKind::TopicTrim => {
                if let Ok(name) = topic_name(record.key) {
                    self.trims.insert((name.topic, name.index), offset);
                }
            }
            _ => {}
        }
        self.records.push_back(pending);
    }

    /// Takes the oldest record, when its offset is below `end`.
    pub fn pop_below(&mut self, end: Offset) -> Option<PendingRecord> {
        if self.records.front()?.offset >= end {
            return None;
        }
        let record = self.records.pop_front()?;
        match record.kind {
            RecordKind::Put | RecordKind::PutChunked | RecordKind::Delete
                if self.keys.get(&record.key).is_some_and(|k| k.offset == record.offset) =>
            {
                self.keys.remove(&record.key);
            }
            RecordKind::TopicBatch => {
                if let Ok(name) = topic_name(&record.key) {
                    let name = (name.topic, name.index);
                    if self.topics.get(&name).is_some_and(|(_, o)| *o == record.offset) {
                        self.topics.remove(&name);
                    }
                }
            }
            RecordKind::TopicTrim => {
                if let Ok(name) = topic_name(&record.key) {
                    let name = (name.topic, name.index);
                    if self.trims.get(&name) == Some(&record.offset) {
                        self.trims.remove(&name);
                    }
                }
            }
            _ => {}
        }
        Some(record)
    }

    /// The record with an offset.
    fn get_mut(&mut self, offset: Offset) -> Option<&mut PendingRecord> {
        let first = self.records.front()?.offset;
        self.records.get_mut(offset.0.checked_sub(first.0)? as usize)
    }

    /// Whether the copy of a record at `at` is the one that will be applied.
    #[must_use]
    pub fn holds(&self, at: Location, offset: Offset) -> bool {
        let Some(first) = self.records.front() else { return false };
        let number = offset.0.checked_sub(first.offset.0);
        number.and_then(|n| self.records.get(n as usize)).is_some_and(|record| record.at == at)
    }

    /// A copy of a record was made at `to`. False: the record is not pending.
    pub fn relocate(&mut self, offset: Offset, to: Location) -> bool {
        let found = self.get_mut(offset);
        let is = found.is_some();
        if let Some(record) = found {
            record.at = to;
        }
        is
    }
}

#[cfg(test)]
mod tests {
    use ironring_core::SegmentId;

    use super::super::partition::TopicName;
    use super::*;

    fn at(n: u32) -> Location {
        Location { segment: SegmentId(1), pos: n * 64, len: 64 }
    }

    fn record<'a>(kind: RecordKind, offset: u64, key: &'a [u8]) -> Record<'a> {
        Record {
            kind,
            flags: 0,
            partition: PartitionId(0),
            term: Term(1),
            offset: Offset(offset),
            session: SessionId::NONE,
            sequence: 0,
            time: WallTime(5),
            expires: WallTime(9),
            key,
            body: b"body",
        }
    }

    #[test]
    fn the_newest_record_of_a_key_counts_until_it_is_taken() {
        let mut p = Pending::default();
        p.push(at(1), &record(RecordKind::Put, 7, b"a"));
        p.push(at(2), &record(RecordKind::Put, 8, b"ab"));
        p.push(at(3), &record(RecordKind::Delete, 9, b"a"));
        let expires = WallTime(9);
        let deleted = PendingKey { offset: Offset(9), exists: false, expires };
        assert_eq!(p.key(b"a"), Some(&deleted));
        assert_eq!(p.newest_with_prefix(b"ab"), Some(Offset(8)));
        assert_eq!(p.newest_with_prefix(b"a"), Some(Offset(9)));
        assert_eq!(p.pop_below(Offset(7)), None);
        assert_eq!(p.pop_below(Offset(8)).map(|r| r.offset), Some(Offset(7)));
        assert_eq!(p.key(b"a"), Some(&deleted), "taking the older one leaves the newer");
        while p.pop_below(Offset(100)).is_some() {}
        assert!(p.is_empty() && p.key(b"a").is_none());
    }

    #[test]
    fn topic_partitions_go_on_where_pending_batches_end() {
        let mut p = Pending::default();
        let batch = |first, count| TopicName { topic: TopicId(3), index: 1, first, count }.encode();
        p.push(at(1), &record(RecordKind::TopicBatch, 7, &batch(10, 5)));
        p.push(at(2), &record(RecordKind::TopicBatch, 8, &batch(15, 2)));
        assert_eq!(p.topic_end(TopicId(3), 1), Some(17));
        p.pop_below(Offset(8));
        assert_eq!(p.topic_end(TopicId(3), 1), Some(17));
        p.pop_below(Offset(9));
        assert_eq!(p.topic_end(TopicId(3), 1), None);
        p.push(at(3), &record(RecordKind::TopicTrim, 9, &batch(12, 0)));
        assert_eq!((p.trim(TopicId(3), 1), p.trim(TopicId(3), 0)), (Some(Offset(9)), None));
        p.pop_below(Offset(10));
        assert_eq!(p.trim(TopicId(3), 1), None);
    }

    #[test]
    fn a_record_is_found_where_its_copy_lies() {
        let mut p = Pending::default();
        p.push(at(1), &record(RecordKind::Put, 7, b"a"));
        p.push(at(2), &record(RecordKind::Put, 8, b"b"));
        assert!(p.holds(at(2), Offset(8)) && !p.holds(at(1), Offset(8)));
        assert!(!p.holds(at(1), Offset(6)) && !p.holds(at(1), Offset(9)));
        assert!(p.relocate(Offset(8), at(9)) && !p.relocate(Offset(9), at(9)));
        assert!(p.holds(at(9), Offset(8)));
        let taken = p.pop_below(Offset(8)).unwrap();
        assert_eq!(taken.record(PartitionId(0)).key, b"a");
        assert!(taken.record(PartitionId(0)).body.is_empty(), "a value is read by its place");
    }
}
