//! Records of a partition that are in the log and not committed: what its state becomes when they are.
//!
//! Readers see committed state only. What decides about a new write (conditions, the next offset of
//! a topic partition) looks here first: a record that is on its way counts as if it were applied,
//! because it lies before the new one in the log.

use std::borrow::Cow;
use std::collections::VecDeque;

use ironring_core::{Offset, PartitionId, SessionId, StableMap, Term, TopicId, WallTime};
use ironring_log::{Location, Record, RecordKind};

use super::fields::Reader;
use super::names::topic_name;
use super::partition::MORE;
use super::sessions::{Outcome, Remembered};

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

/// So many records are looked through one by one; more have an [`Index`].
const SCANNED_MAX: usize = 24;

/// The pending records of one partition: see [`Partition::waits_too_much`](super::partition::Partition::waits_too_much).
#[derive(Clone, Debug, Default)]
pub struct Pending {
    /// With consecutive offsets.
    records: VecDeque<PendingRecord>,
    /// Of their keys and bodies.
    bytes: usize,
    index: Option<Box<Index>>,
}

/// About what an index holds for a record, besides its key.
const INDEXED_BYTES: usize = 64;

/// What is newest of many records.
#[derive(Clone, Debug, Default)]
struct Index {
    keys: StableMap<Box<[u8]>, PendingKey>,
    /// By topic partition: its next offset, and the record that makes it so.
    topics: StableMap<(TopicId, u32), (u64, Offset)>,
    /// By topic partition: the newest record that trims it.
    trims: StableMap<(TopicId, u32), Offset>,
    /// Receipts by session, in order of their records.
    sessions: StableMap<SessionId, Vec<Remembered>>,
}

/// What can be applied next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// So many records, which belong together.
    Apply(usize),
    /// So many records of a batch whose end was never written: its leader lost its place. They never
    /// take effect, on no replica.
    Void(usize),
}

/// The receipt a record is for its session. The last record of a batch is that of the batch.
#[must_use]
pub fn receipt_of(record: &Record<'_>) -> Option<Remembered> {
    if record.session == SessionId::NONE || record.flags & MORE != 0 {
        return None;
    }
    let outcome = match record.kind {
        RecordKind::SessionMark => {
            Outcome::ConditionFailed(Offset(Reader::new(record.body).u64().unwrap_or(0)))
        }
        RecordKind::TopicBatch => match topic_name(record.key) {
            Ok(n) => Outcome::Appended { index: n.index, first: n.first, count: n.count },
            Err(_) => Outcome::Written,
        },
        _ => Outcome::Written,
    };
    let Record { sequence, offset, term, .. } = *record;
    Some(Remembered { sequence, offset, term, outcome })
}

impl PendingRecord {
    fn held_bytes(&self) -> usize {
        self.key.len() + self.body.len()
    }

    fn is_about_key(&self) -> bool {
        matches!(self.kind, RecordKind::Put | RecordKind::PutChunked | RecordKind::Delete)
    }

    fn as_newest(&self) -> PendingKey {
        let exists = self.kind != RecordKind::Delete;
        PendingKey { offset: self.offset, exists, expires: self.expires }
    }

    /// The topic partition it is about, and the end it gives it.
    fn topic(&self, kind: RecordKind) -> Option<((TopicId, u32), u64)> {
        let name = topic_name(&self.key).ok().filter(|_| self.kind == kind)?;
        Some(((name.topic, name.index), name.first + u64::from(name.count)))
    }
}

impl Index {
    fn note(&mut self, pending: &PendingRecord) {
        let offset = pending.offset;
        if let Some(receipt) = receipt_of(&pending.record(PartitionId(0))) {
            self.sessions.entry(pending.session).or_default().push(receipt);
        }
        if pending.is_about_key() {
            self.keys.insert(pending.key.clone(), pending.as_newest());
        } else if let Some((topic, end)) = pending.topic(RecordKind::TopicBatch) {
            self.topics.insert(topic, (end, offset));
        } else if let Some((topic, _)) = pending.topic(RecordKind::TopicTrim) {
            self.trims.insert(topic, offset);
        }
    }

    /// The oldest record is taken.
    fn forget(&mut self, pending: &PendingRecord) {
        let offset = pending.offset;
        if let Some(receipts) = self.sessions.get_mut(&pending.session)
            && receipts.first().is_some_and(|first| first.offset == offset)
        {
            receipts.remove(0);
            if receipts.is_empty() {
                self.sessions.remove(&pending.session);
            }
        }
        if pending.is_about_key() {
            if self.keys.get(&pending.key).is_some_and(|newest| newest.offset == offset) {
                self.keys.remove(&pending.key);
            }
        } else if let Some((topic, _)) = pending.topic(RecordKind::TopicBatch) {
            if self.topics.get(&topic).is_some_and(|newest| newest.1 == offset) {
                self.topics.remove(&topic);
            }
        } else if let Some((topic, _)) = pending.topic(RecordKind::TopicTrim)
            && self.trims.get(&topic) == Some(&offset)
        {
            self.trims.remove(&topic);
        }
    }
}

impl Pending {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Memory held, in bytes. About, of the index.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let indexed = usize::from(self.index.is_some());
        let each = size_of::<PendingRecord>() + indexed * INDEXED_BYTES;
        self.records.len() * each + self.bytes * (1 + indexed)
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Behind the newest.
    #[must_use]
    pub fn end(&self) -> Option<Offset> {
        self.records.back().map(|last| last.offset.next())
    }

    /// All records, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &PendingRecord> {
        self.records.iter()
    }

    /// The newest record about a key. O(1), and free when nothing is pending.
    #[must_use]
    pub fn key(&self, key: &[u8]) -> Option<PendingKey> {
        if let Some(index) = &self.index {
            return index.keys.get(key).copied();
        }
        let mut about = self.iter().rev().filter(|r| r.is_about_key() && *r.key == *key);
        about.next().map(PendingRecord::as_newest)
    }

    /// The newest record about a key with this prefix. O(pending).
    #[must_use]
    pub fn newest_with_prefix(&self, prefix: &[u8]) -> Option<Offset> {
        let mut about = self.iter().rev().filter(|r| r.is_about_key() && r.key.starts_with(prefix));
        about.next().map(|r| r.offset)
    }

    /// The next offset of a topic partition, when records for it are pending.
    #[must_use]
    pub fn topic_end(&self, topic: TopicId, index: u32) -> Option<u64> {
        let wanted = (topic, index);
        if let Some(index) = &self.index {
            return index.topics.get(&wanted).map(|(end, _)| *end);
        }
        let mut batches = self.iter().rev().filter_map(|r| r.topic(RecordKind::TopicBatch));
        batches.find(|(topic, _)| *topic == wanted).map(|(_, end)| end)
    }

    /// The newest record that trims a topic partition.
    #[must_use]
    pub fn trim(&self, topic: TopicId, index: u32) -> Option<Offset> {
        let wanted = (topic, index);
        if let Some(index) = &self.index {
            return index.trims.get(&wanted).copied();
        }
        let trims = |r: &&PendingRecord| {
            r.topic(RecordKind::TopicTrim).is_some_and(|(topic, _)| topic == wanted)
        };
        self.iter().rev().find(trims).map(|r| r.offset)
    }

    /// Receipts of a session's records, oldest first. O(1), or O(pending) of a few.
    #[must_use]
    pub fn receipts(&self, session: SessionId) -> Cow<'_, [Remembered]> {
        if let Some(index) = &self.index {
            return index.sessions.get(&session).map_or(&[][..], Vec::as_slice).into();
        }
        let of_session = self.iter().filter(|r| r.session == session);
        let receipts = of_session.filter_map(|r| receipt_of(&r.record(PartitionId(0))));
        receipts.collect::<Vec<_>>().into()
    }

    /// The term of a record.
    #[must_use]
    pub fn term_at(&self, offset: Offset) -> Option<Term> {
        self.get(offset).map(|record| record.term)
    }

    /// Adds a record that was appended behind all others.
    pub fn push(&mut self, at: Location, record: &Record<'_>) {
        debug_assert!(self.records.back().is_none_or(|last| last.offset.next() == record.offset));
        let pending = PendingRecord::new(at, record);
        match &mut self.index {
            Some(index) => index.note(&pending),
            None if self.records.len() >= SCANNED_MAX => {
                let mut index = Box::<Index>::default();
                self.records.iter().chain([&pending]).for_each(|record| index.note(record));
                self.index = Some(index);
            }
            None => {}
        }
        self.bytes += pending.held_bytes();
        self.records.push_back(pending);
    }

    /// Forgets the records from `end` on; tells where they lie. O(pending).
    pub fn truncate(&mut self, end: Offset, mut cut: impl FnMut(Location)) {
        while let Some(last) = self.records.back().filter(|last| last.offset >= end) {
            self.bytes -= last.held_bytes();
            cut(last.at);
            self.records.pop_back();
        }
        if self.index.is_some() {
            let mut index = Box::<Index>::default();
            self.records.iter().for_each(|record| index.note(record));
            self.index = Some(index);
        }
    }

    /// What can be applied when everything before `end` is committed: batches whole or not at all.
    /// O(records of the batch).
    #[must_use]
    pub fn next(&self, end: Offset) -> Option<Next> {
        let first = self.records.front().filter(|first| first.offset < end)?;
        for (n, record) in self.records.iter().enumerate() {
            if record.offset >= end {
                break;
            }
            if record.term != first.term {
                return Some(Next::Void(n));
            }
            if record.flags & MORE == 0 {
                return Some(Next::Apply(n + 1));
            }
        }
        None
    }

    /// Takes the oldest record, when its offset is below `end`.
    pub fn pop_below(&mut self, end: Offset) -> Option<PendingRecord> {
        if self.records.front()?.offset >= end {
            return None;
        }
        let record = self.records.pop_front()?;
        self.bytes -= record.held_bytes();
        if let Some(index) = &mut self.index {
            index.forget(&record);
            if self.records.is_empty() {
                self.index = None;
            }
        }
        Some(record)
    }

    fn number(&self, offset: Offset) -> Option<usize> {
        let first = self.records.front()?.offset;
        Some(offset.0.checked_sub(first.0)? as usize)
    }

    fn get(&self, offset: Offset) -> Option<&PendingRecord> {
        self.records.get(self.number(offset)?)
    }

    /// Whether the copy of a record at `at` is the one that will be applied.
    #[must_use]
    pub fn holds(&self, at: Location, offset: Offset) -> bool {
        self.get(offset).is_some_and(|record| record.at == at)
    }

    /// A copy of a record lies at `to`: says where it lay before. Nothing: it is not pending.
    pub fn relocate(&mut self, offset: Offset, to: Location) -> Option<Location> {
        let number = self.number(offset)?;
        let record = self.records.get_mut(number)?;
        Some(std::mem::replace(&mut record.at, to))
    }
}

#[cfg(test)]
mod tests {
    use ironring_core::SegmentId;

    use super::super::names::TopicName;
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
        assert_eq!(p.key(b"a"), Some(deleted));
        assert_eq!(p.newest_with_prefix(b"ab"), Some(Offset(8)));
        assert_eq!(p.newest_with_prefix(b"a"), Some(Offset(9)));
        assert_eq!(p.pop_below(Offset(7)), None);
        assert_eq!(p.pop_below(Offset(8)).map(|r| r.offset), Some(Offset(7)));
        assert_eq!(p.key(b"a"), Some(deleted), "taking the older one leaves the newer");
        while p.pop_below(Offset(100)).is_some() {}
        assert!(p.is_empty() && p.key(b"a").is_none());
        p.push(at(4), &record(RecordKind::Put, 10, b"abc"));
        assert!(p.memory_bytes() > 3);
        p.truncate(Offset(10), |_| {});
        assert_eq!((p.len(), p.memory_bytes()), (0, 0));
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
        assert_eq!(p.relocate(Offset(8), at(9)), Some(at(2)));
        assert_eq!(p.relocate(Offset(9), at(9)), None);
        assert!(p.holds(at(9), Offset(8)));
        let taken = p.pop_below(Offset(8)).unwrap();
        assert_eq!(taken.record(PartitionId(0)).key, b"a");
        assert!(taken.record(PartitionId(0)).body.is_empty(), "a value is read by its place");
    }

    /// Few records and many are looked up in different ways.
    #[test]
    fn many_records_are_found_as_few_are() {
        let mut p = Pending::default();
        for n in 0..100 {
            let key = [b'k', n as u8 % 40];
            let of_session = Record {
                session: SessionId(n % 3 + 1),
                sequence: n / 3 + 1,
                ..record(RecordKind::Put, 7 + n, &key)
            };
            p.push(at(n as u32), &of_session);
            assert_eq!(p.key(&key).map(|k| k.offset), Some(Offset(7 + n)));
            assert_eq!(p.receipts(SessionId(n % 3 + 1)).len() as u64, n / 3 + 1);
        }
        for n in 0..100 {
            assert_eq!(p.pop_below(Offset(200)).map(|r| r.offset), Some(Offset(7 + n)));
            let newest = p.key(&[b'k', n as u8 % 40]).map(|k| k.offset);
            let next = (n + 40 < 100).then(|| Offset(7 + n + (99 - n) / 40 * 40));
            assert_eq!(newest, next, "after {n}");
        }
    }

    #[test]
    fn a_cut_restores_what_was_newest_before() {
        let mut p = Pending::default();
        let of_session = |offset, sequence| Record {
            session: SessionId(5),
            sequence,
            ..record(RecordKind::Put, offset, b"a")
        };
        p.push(at(1), &of_session(7, 1));
        p.push(at(2), &of_session(8, 2));
        assert_eq!(p.receipts(SessionId(5)).len(), 2);
        let mut gone = Vec::new();
        p.truncate(Offset(8), |place| gone.push(place));
        assert_eq!(gone, [at(2)]);
        assert_eq!(p.key(b"a").map(|k| k.offset), Some(Offset(7)));
        assert_eq!(p.receipts(SessionId(5)).iter().map(|r| r.sequence).collect::<Vec<_>>(), [1]);
        p.push(at(3), &of_session(8, 2));
        while p.pop_below(Offset(9)).is_some() {}
        assert!(p.receipts(SessionId(5)).is_empty() && p.is_empty());
    }

    #[test]
    fn batches_are_applied_whole_or_void() {
        let mut p = Pending::default();
        let part = |offset, term, flags| Record {
            term: Term(term),
            flags,
            ..record(RecordKind::Put, offset, b"a")
        };
        p.push(at(1), &part(1, 1, 0));
        p.push(at(2), &part(2, 1, MORE));
        p.push(at(3), &part(3, 1, MORE));
        assert_eq!(p.next(Offset(1)), None);
        assert_eq!(p.next(Offset(9)), Some(Next::Apply(1)));
        p.pop_below(Offset(2));
        assert_eq!(p.next(Offset(9)), None, "its end may come");
        p.push(at(4), &part(4, 1, 0));
        assert_eq!(p.next(Offset(4)), None, "its end is not committed");
        assert_eq!(p.next(Offset(5)), Some(Next::Apply(3)));
        p.truncate(Offset(4), |_| {});
        p.push(at(4), &part(4, 2, 0));
        assert_eq!(p.next(Offset(4)), None);
        assert_eq!(p.next(Offset(5)), Some(Next::Void(2)), "another leader's term began");
    }
}
