//! All partitions of a shard, as the log's owner: what it replays, flushes, keeps and checkpoints.
//!
//! Callbacks of the log only note what happened; [`super::Shard`] acts on the notes when the call
//! into the log has returned.

use std::collections::{BTreeSet, VecDeque};

use ironring_core::{GroupSeq, Offset, PartitionId, SegmentId, TopicId};
use ironring_log::cache::RecordCache;
use ironring_log::{Keep, Location, LogSink, ReadError, ReadId, Record, RecordKind, RestoreError};

use super::checkpoint::{Cursor, restore_piece};
use super::fields::Malformed;
use super::meta::{Command, Meta};
use super::partition::{Partition, Space, topic_name};

/// A record body with the time it was written, as reads return and the cache keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Milliseconds since the epoch.
    pub time: u64,
    /// The record's offset.
    pub offset: Offset,
    /// The record's body.
    pub body: Vec<u8>,
}

/// A record's body in the cache; see [`Stored`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedRecord<'a> {
    /// Milliseconds since the epoch.
    pub time: u64,
    /// The record's offset.
    pub offset: Offset,
    /// The record's body.
    pub body: &'a [u8],
}

/// A read the log has finished.
#[derive(Debug)]
pub struct FinishedRead {
    /// Which.
    pub read: ReadId,
    /// What was read.
    pub result: Result<Stored, ReadError>,
}

/// The partitions of one shard.
pub struct Models {
    first: u32,
    partitions: Vec<Partition>,
    /// The metadata partition, on shard 0 only.
    meta_partition: Option<Partition>,
    /// The committed metadata: authoritative on shard 0, a copy elsewhere (`None` until it came).
    pub meta: Option<Meta>,
    /// The metadata with commands that are not durable yet: what a checkpoint has to hold, because
    /// replay begins behind everything that was appended before it. On shard 0 only.
    pub appended_meta: Meta,
    /// Encoded metadata of a checkpoint being restored, as far as they came.
    pub meta_bytes: Vec<u8>,
    /// Recently written and read record bodies.
    pub cache: RecordCache,
    /// Changes of the log's space that the log has not been told yet.
    pub space: Vec<Space>,
    /// Finished reads that have not been answered yet.
    pub finished_reads: Vec<FinishedRead>,
    /// The newest durable group.
    pub durable: GroupSeq,
    /// Topic partitions with newly visible records.
    pub grown: Vec<(TopicId, u32)>,
    /// Durable metadata commands, not yet broadcast.
    pub committed: Vec<Command>,
    /// Copies made by compaction that are not durable yet, in log order: records that were not
    /// just written, although their group was.
    relocations: VecDeque<Location>,
    /// The last durable record.
    flushed_last: Location,
    /// Records behind it that are superseded already.
    superseded: BTreeSet<Location>,
    cursor: Cursor,
    /// Bytes of memory in key indexes, kept up to date by [`Models::note_key_memory`].
    key_bytes: usize,
    /// Records replayed since the start, for the recovery report.
    pub replayed: u64,
}

impl Models {
    /// Partitions `first..end`, without records; with the metadata partition when `first` is 0.
    #[must_use]
    pub fn new(first: u32, end: u32, cache_bytes: usize) -> Models {
        let holds_meta = first == 0;
        Models {
            first,
            partitions: (first..end).map(|p| Partition::new(PartitionId(p))).collect(),
            meta_partition: holds_meta.then(|| Partition::new(PartitionId::META)),
            meta: holds_meta.then(Meta::default),
            appended_meta: Meta::default(),
            meta_bytes: Vec::new(),
            cache: RecordCache::new(cache_bytes),
            space: Vec::new(),
            finished_reads: Vec::new(),
            durable: GroupSeq(0),
            grown: Vec::new(),
            committed: Vec::new(),
            relocations: VecDeque::new(),
            flushed_last: Location { segment: SegmentId(0), pos: 0, len: 0 },
            superseded: BTreeSet::new(),
            cursor: Cursor::default(),
            key_bytes: 0,
            replayed: 0,
        }
    }

    /// A partition of this shard.
    ///
    /// # Panics
    /// When it is another shard's: requests are routed before they get here.
    pub fn partition(&mut self, id: PartitionId) -> &mut Partition {
        self.find(id).expect("the request was routed to the owner of its partition")
    }

    /// A partition of this shard, to look at.
    #[must_use]
    pub fn peek(&self, id: PartitionId) -> &Partition {
        self.get(id).expect("the request was routed to the owner of its partition")
    }

    /// All partitions, the metadata partition last.
    pub fn all(&mut self) -> impl Iterator<Item = &mut Partition> {
        self.partitions.iter_mut().chain(self.meta_partition.as_mut())
    }

    /// The partition at a position, the metadata partition last.
    pub fn nth(&mut self, at: usize) -> Option<&mut Partition> {
        if at == self.partitions.len() {
            return self.meta_partition.as_mut();
        }
        self.partitions.get_mut(at)
    }

    /// All partitions, to look at.
    pub fn iter(&self) -> impl Iterator<Item = &Partition> {
        self.partitions.iter().chain(self.meta_partition.as_ref())
    }

    /// Whether this shard owns the metadata.
    #[must_use]
    pub fn holds_meta(&self) -> bool {
        self.meta_partition.is_some()
    }

    /// A partition named by bytes from disk.
    pub fn owned(&mut self, id: PartitionId) -> Result<&mut Partition, Malformed> {
        self.find(id).ok_or(Malformed)
    }

    fn get(&self, id: PartitionId) -> Option<&Partition> {
        if id == PartitionId::META {
            return self.meta_partition.as_ref();
        }
        self.partitions.get(id.0.checked_sub(self.first)? as usize)
    }

    fn find(&mut self, id: PartitionId) -> Option<&mut Partition> {
        if id == PartitionId::META {
            return self.meta_partition.as_mut();
        }
        self.partitions.get_mut(id.0.checked_sub(self.first)? as usize)
    }

    /// Folds a record that was just appended: the log counts it as live by itself. What it replaces
    /// leaves the cache, or leaves its memory to the new version: a key that is written again and
    /// again takes no more room, and keeps the place its reads have earned. The bytes follow when
    /// the record is durable; nobody looks for them before. What is superseded before it is durable
    /// is never cached.
    pub fn fold_appended(&mut self, at: Location, record: &Record<'_>) {
        let before = self.space.len();
        self.fold(at, record);
        let mut heir = (record.kind == RecordKind::Put).then_some(at);
        let cache = &mut self.cache;
        let mut i = before;
        while i < self.space.len() {
            match self.space[i] {
                Space::Live(new) if new == at => {
                    self.space.remove(i);
                    continue;
                }
                Space::Dead(old) if old != at => {
                    if old > self.flushed_last {
                        self.superseded.insert(old);
                    }
                    match heir.take() {
                        Some(heir) => cache.rekey(old, heir),
                        None => cache.remove(old),
                    }
                }
                Space::Live(_) | Space::Dead(_) => {}
            }
            i += 1;
        }
    }

    /// Folds a record that was replayed.
    pub fn fold(&mut self, at: Location, record: &Record<'_>) {
        let Some(i) = self.index_of(record.partition) else { return };
        if record.kind == RecordKind::Meta
            && let Ok(command) = Command::decode(record.body)
        {
            self.appended_meta.apply(&command);
        }
        let p = match i {
            usize::MAX => self.meta_partition.as_mut().expect("index_of found it"),
            i => &mut self.partitions[i],
        };
        let before = p.keys.memory_bytes();
        p.fold(at, record, &mut self.space);
        let after = p.keys.memory_bytes();
        self.key_bytes = self.key_bytes + after - before;
    }

    fn index_of(&self, id: PartitionId) -> Option<usize> {
        if id == PartitionId::META {
            return self.meta_partition.is_some().then_some(usize::MAX);
        }
        let i = id.0.checked_sub(self.first)? as usize;
        (i < self.partitions.len()).then_some(i)
    }

    /// Memory of all key indexes, in bytes. O(1).
    #[must_use]
    pub fn key_bytes(&self) -> usize {
        self.key_bytes
    }

    /// Counts the key memory anew, after changes that did not go through [`Models::fold`].
    pub fn note_key_memory(&mut self) {
        self.key_bytes = self.partitions.iter().map(|p| p.keys.memory_bytes()).sum();
    }

    /// Forgets the records of topics that metadata say are dropped.
    pub fn drop_topics(&mut self) {
        let Some(meta) = &self.meta else { return };
        for p in &mut self.partitions {
            let dropped: Vec<TopicId> =
                p.topics.keys().map(|(topic, _)| *topic).filter(|t| meta.is_dropped(*t)).collect();
            for topic in dropped {
                p.drop_topic(topic, &mut self.space);
            }
        }
    }

    /// Recovery is over.
    pub fn recovered(&mut self) {
        let mut space = std::mem::take(&mut self.space);
        for p in self.all() {
            p.recovered(&mut space);
        }
        // What died on the way was never counted: only what is needed in the end is.
        space.clear();
        for p in self.iter() {
            p.live_places(|at| space.push(Space::Live(at)));
        }
        self.space = space;
        if self.holds_meta() {
            // Everything that was recovered is durable.
            self.meta = Some(self.appended_meta.clone());
        }
        self.note_key_memory();
    }

    /// Keeps a record's body for readers.
    pub fn cache_body(&mut self, at: Location, record: &Record<'_>) {
        let head = [record.time.0.to_le_bytes(), record.offset.0.to_le_bytes()];
        self.cache.insert_parts(at, &[&head[0], &head[1], record.body]);
    }

    /// A cached record. `offset`: which one it has to be, where the reader knows; the memory of a
    /// record that is not durable yet still holds the version before it.
    pub fn cached(&mut self, at: Location, offset: Option<Offset>) -> Option<CachedRecord<'_>> {
        let bytes = self.cache.get(at)?;
        let (time, rest) = bytes.split_first_chunk::<8>()?;
        let (found, body) = rest.split_first_chunk::<8>()?;
        let found = Offset(u64::from_le_bytes(*found));
        let time = u64::from_le_bytes(*time);
        offset.is_none_or(|wanted| wanted == found).then_some(CachedRecord {
            time,
            offset: found,
            body,
        })
    }
}

impl LogSink for Models {
    fn restore(&mut self, piece: &[u8]) -> Result<(), RestoreError> {
        let restored = restore_piece(self, piece);
        self.note_key_memory();
        restored.map_err(|_| RestoreError("a piece is malformed".to_owned()))
    }

    fn replay(&mut self, at: Location, _group: GroupSeq, record: &Record<'_>) {
        self.replayed += 1;
        self.fold(at, record);
    }

    fn flushed(
        &mut self,
        group: GroupSeq,
        records: &mut dyn Iterator<Item = (Location, Record<'_>)>,
    ) {
        self.durable = group;
        for (at, record) in records {
            self.flushed_last = at;
            let relocated = self.relocations.front() == Some(&at);
            if relocated {
                self.relocations.pop_front();
            }
            let Some(i) = self.index_of(record.partition) else { continue };
            let p = match i {
                usize::MAX => self.meta_partition.as_mut().expect("index_of found it"),
                i => &mut self.partitions[i],
            };
            if relocated {
                // Referred to since it was staged; not worth a place in the cache.
                continue;
            }
            if record.kind == RecordKind::Delete {
                let before = p.keys.memory_bytes();
                p.flushed(&record);
                self.key_bytes = self.key_bytes + p.keys.memory_bytes() - before;
            } else {
                p.flushed(&record);
            }
            let needed = self.superseded.is_empty() || !self.superseded.contains(&at);
            match record.kind {
                RecordKind::Put | RecordKind::Chunk if needed => self.cache_body(at, &record),
                RecordKind::TopicBatch => {
                    if needed {
                        self.cache_body(at, &record);
                    }
                    if let Ok(name) = topic_name(record.key) {
                        self.grown.push((name.topic, name.index));
                    }
                }
                RecordKind::Meta => {
                    if let Ok(command) = Command::decode(record.body) {
                        if let Some(meta) = &mut self.meta {
                            meta.apply(&command);
                        }
                        self.committed.push(command);
                    }
                }
                _ => {}
            }
        }
        while self.superseded.first().is_some_and(|at| *at <= self.flushed_last) {
            self.superseded.pop_first();
        }
    }

    fn read_done(&mut self, read: ReadId, at: Location, result: Result<Record<'_>, ReadError>) {
        let result = result.map(|record| {
            // It may have been moved or replaced meanwhile.
            if self.keep(at, &record) == Keep::Live {
                self.cache_body(at, &record);
            }
            Stored { time: record.time.0, offset: record.offset, body: record.body.to_vec() }
        });
        self.finished_reads.push(FinishedRead { read, result });
    }

    fn keep(&mut self, at: Location, record: &Record<'_>) -> Keep {
        match self.get(record.partition) {
            Some(p) if p.holds(at, record) => Keep::Live,
            Some(_) => Keep::Drop,
            // Not a partition of this shard: never dropped for being unknown.
            None => Keep::Live,
        }
    }

    fn relocated(&mut self, from: Location, to: Location, _group: GroupSeq, record: &Record<'_>) {
        // The copy counts from here on, not from when it is durable: a checkpoint that begins
        // between the two must not hold the old place, because replay would begin behind the copy.
        self.relocations.push_back(to);
        self.cache.rekey(from, to);
        let mut space = std::mem::take(&mut self.space);
        if let Some(p) = self.find(record.partition) {
            p.relocate(to, record, &mut space);
        }
        self.space = space;
    }
}

impl ironring_log::CheckpointSource for Models {
    fn begin(&mut self) {
        self.cursor = Cursor::default();
    }

    fn next_piece(&mut self, out: &mut Vec<u8>) -> bool {
        let mut cursor = std::mem::take(&mut self.cursor);
        let more = cursor.next_piece(self, out);
        self.cursor = cursor;
        more
    }
}

#[cfg(test)]
mod tests {
    use ironring_core::{SessionId, Term, Token, WallTime};

    use super::*;

    fn put<'a>(partition: PartitionId, offset: u64, body: &'a [u8]) -> Record<'a> {
        Record {
            kind: RecordKind::Put,
            flags: 0,
            partition,
            term: Term(1),
            offset: Offset(offset),
            session: SessionId::NONE,
            sequence: 0,
            time: WallTime(offset),
            expires: WallTime(0),
            key: b"key",
            body,
        }
    }

    #[test]
    fn a_key_that_is_written_again_keeps_its_memory_in_the_cache() {
        let partition = Token::of_key(b"key").partition(1);
        let mut models = Models::new(0, 1, 1 << 20);
        let place = |n: u32| Location { segment: SegmentId(1), pos: n * 4096, len: 500 };
        for n in 1..100u32 {
            let body = vec![n as u8; 400];
            let record = put(partition, u64::from(n), &body);
            models.fold_appended(place(n), &record);
            let version = Some(Offset(u64::from(n)));
            assert!(models.cached(place(n), version).is_none(), "not before it is durable");
            models.flushed(GroupSeq(u64::from(n)), &mut [(place(n), record)].into_iter());
            let found = models.cached(place(n), version).expect("what is new is cached");
            assert_eq!((found.time, found.body), (u64::from(n), &body[..]));
            assert_eq!(models.cache.len(), 1, "the old version is gone");
        }
        // A version of another length takes the place too.
        let longer = vec![7; 900];
        let record = put(partition, 100, &longer);
        models.fold_appended(place(100), &record);
        models.flushed(GroupSeq(100), &mut [(place(100), record)].into_iter());
        assert_eq!(models.cached(place(100), None).map(|found| found.body), Some(&longer[..]));
        // A delete leaves nothing.
        let delete = Record { kind: RecordKind::Delete, body: &[], ..put(partition, 101, &[]) };
        models.fold_appended(place(101), &delete);
        assert!(models.cached(place(100), None).is_none() && models.cache.is_empty());
    }
    fn place(n: u32) -> Location {
        Location { segment: SegmentId(1), pos: n * 4096, len: 500 }
    }

    fn is_cached(models: &mut Models, at: Location, offset: u64, body: &[u8]) -> bool {
        models.cached(at, Some(Offset(offset))).is_some_and(|found| found.body == body)
    }

    /// What is not durable yet and superseded already leaves nothing behind.
    #[test]
    fn a_key_written_several_times_in_one_group_is_cached_once() {
        let partition = Token::of_key(b"key").partition(1);
        let mut models = Models::new(0, 1, 1 << 20);
        let bodies: Vec<Vec<u8>> = (0..4).map(|n| vec![n; 400]).collect();
        let records: Vec<_> = (0..4).map(|n| put(partition, n + 1, &bodies[n as usize])).collect();
        models.fold_appended(place(0), &records[0]);
        models.flushed(GroupSeq(1), &mut [(place(0), records[0])].into_iter());
        for n in 1..4u32 {
            models.fold_appended(place(n), &records[n as usize]);
        }
        models.flushed(GroupSeq(2), &mut (1..4u32).map(|n| (place(n), records[n as usize])));
        assert!(is_cached(&mut models, place(3), 4, &bodies[3]));
        assert_eq!(models.cache.len(), 1, "superseded versions are not cached");
        assert!(models.superseded.is_empty(), "{:?}", models.superseded);
    }

    /// Compaction moves the old version while a group holds its successor, or is about to.
    #[test]
    fn a_rewrite_beside_a_relocation_is_cached_once() {
        let partition = Token::of_key(b"key").partition(1);
        let (old, new) = ([1; 400], [2; 400]);
        let (first, second) = (put(partition, 1, &old), put(partition, 2, &new));
        let mut models = Models::new(0, 1, 1 << 20);
        models.fold_appended(place(0), &first);
        models.flushed(GroupSeq(1), &mut [(place(0), first)].into_iter());
        // Moved, then rewritten, in one group.
        models.relocated(place(0), place(1), GroupSeq(2), &first);
        assert!(is_cached(&mut models, place(1), 1, &old), "the copy is read from memory");
        models.fold_appended(place(2), &second);
        assert!(models.cached(place(1), Some(Offset(1))).is_none());
        assert!(models.cached(place(2), Some(Offset(2))).is_none(), "not before it is durable");
        models.flushed(GroupSeq(2), &mut [(place(1), first), (place(2), second)].into_iter());
        assert!(is_cached(&mut models, place(2), 2, &new));
        assert_eq!(models.cache.len(), 1);
        // Rewritten, then met by compaction, which drops the old version.
        let third = put(partition, 3, &old);
        models.fold_appended(place(3), &third);
        assert_eq!(models.keep(place(2), &second), Keep::Drop);
        models.flushed(GroupSeq(3), &mut [(place(3), third)].into_iter());
        assert!(is_cached(&mut models, place(3), 3, &old));
        assert_eq!(models.cache.len(), 1);
        assert!(models.relocations.is_empty() && models.superseded.is_empty());
    }

    /// The record was replaced while the disk read it.
    #[test]
    fn what_is_read_is_cached_only_while_it_is_needed() {
        let partition = Token::of_key(b"key").partition(1);
        let mut models = Models::new(0, 1, 1 << 20);
        let (first, second) = (put(partition, 1, b"old"), put(partition, 2, b"new"));
        models.fold_appended(place(0), &first);
        models.read_done(ReadId(1), place(0), Ok(first));
        assert_eq!(models.cache.len(), 1);
        models.cache.remove(place(0));
        models.fold_appended(place(1), &second);
        models.read_done(ReadId(2), place(0), Ok(first));
        assert!(models.cache.is_empty());
        assert!(models.finished_reads.iter().all(|done| done.result.is_ok()));
    }

    #[test]
    fn a_relocated_record_of_a_strange_partition_keeps_the_queue_in_step() {
        let mut models = Models::new(0, 1, 1 << 20);
        let mine = Token::of_key(b"key").partition(1);
        let strange = put(PartitionId(7), 1, b"strange");
        let record = put(mine, 2, b"mine");
        models.fold_appended(place(1), &record);
        models.relocated(place(0), place(2), GroupSeq(1), &strange);
        models.relocated(place(1), place(3), GroupSeq(1), &record);
        models.flushed(GroupSeq(1), &mut [(place(2), strange), (place(3), record)].into_iter());
        assert!(models.relocations.is_empty(), "{:?}", models.relocations);
        assert!(models.cache.is_empty(), "a copy is not worth a place in the cache");
    }
}
