//! All partitions of a shard, as the log's owner: what it replays, flushes, keeps and checkpoints.
//!
//! Callbacks of the log only note what happened; [`super::Shard`] acts on the notes when the call
//! into the log has returned.

use std::collections::VecDeque;

use ironring_core::{GroupSeq, Offset, PartitionId, TopicId, WallTime};
use ironring_log::cache::RecordCache;
use ironring_log::format::record::encode_wire;
use ironring_log::{Keep, Location, LogSink, ReadError, ReadId, Record, RecordKind, RestoreError};

use super::checkpoint::{Cursor, restore_piece};
use super::entries::entries_max;
use super::expiry::Found;
use super::fields::Malformed;
use super::meta::{Command, Meta};
use super::names::topic_name;
use super::partition::{LOST, MERGED, Partition, Space};
use super::sending::Chunks;

/// Most records of [`Models::vacant`], and most bytes of each: about what a group replaces.
const VACANT_MAX: usize = 256;
const VACANT_BYTES_MAX: u32 = 16 << 10;

/// Why a record that stands for a lost one is not read.
const GIVEN_UP: &str = "it was lost, and no replica has it; writing it again heals it";

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
    /// There is nothing to be read there: no replica has what it was.
    pub lost: bool,
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
    /// Records in the cache that nobody needs any more: what is written next takes their memory.
    vacant: Vec<Location>,
    /// Changes of the log's space that the log has not been told yet.
    pub space: Vec<Space>,
    /// Finished reads that have not been answered yet.
    pub finished_reads: Vec<FinishedRead>,
    /// Entries read for followers that were not taken yet, as nodes send them.
    pub read_entries: Vec<(ReadId, Result<Vec<u8>, ReadError>)>,
    /// The newest durable group.
    pub durable: GroupSeq,
    /// Topic partitions with newly applied records.
    pub grown: Vec<(TopicId, u32)>,
    /// Durable metadata commands, not yet broadcast.
    pub committed: Vec<Command>,
    /// Copies made by compaction that are not durable yet, in log order: records that were not
    /// just written, although their group was.
    relocations: VecDeque<Location>,
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
        let most = entries_max((end - first) as usize);
        let partition = |id| {
            let mut p = Partition::new(PartitionId(id));
            p.entries_max = most;
            p
        };
        Models {
            first,
            partitions: (first..end).map(partition).collect(),
            meta_partition: holds_meta.then(|| Partition::new(PartitionId::META)),
            meta: holds_meta.then(Meta::default),
            appended_meta: Meta::default(),
            meta_bytes: Vec::new(),
            cache: RecordCache::new(cache_bytes),
            vacant: Vec::new(),
            space: Vec::new(),
            finished_reads: Vec::new(),
            read_entries: Vec::new(),
            durable: GroupSeq(0),
            grown: Vec::new(),
            committed: Vec::new(),
            relocations: VecDeque::new(),
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

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.partitions.len() + usize::from(self.meta_partition.is_some())
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

    /// Takes up a record that was just appended: the log counts it as live by itself.
    pub fn appended(&mut self, at: Location, record: &Record<'_>) {
        let mut space = std::mem::take(&mut self.space);
        let p = self.partition(record.partition);
        let first = space.len();
        let before = p.keys.memory_bytes();
        if record.flags & MERGED != 0 {
            p.merge(at, record, &mut space);
            // Counted by the log when it was appended.
            if let Some(own) = space[first..].iter().position(|c| *c == Space::Live(at)) {
                space.remove(first + own);
            }
        } else if record.kind.is_entry() {
            p.appended(at, record);
            if record.partition == PartitionId::META {
                // Nobody else has a say in it, and its commands count when they are durable.
                p.commit(p.log_end, &mut space, |_, _, _| {});
            }
        } else {
            // Checkpoints hold what it says; nothing refers to the record.
            match record.kind {
                RecordKind::Promise => p.promised(record.term),
                RecordKind::Watermark => p.noted = p.noted.max(record.offset),
                RecordKind::Cut => p.cut(record.offset, &mut space),
                _ => p.replayed(at, record, &mut space),
            }
            if !matches!(record.kind, RecordKind::Adopt | RecordKind::Jump) {
                space.push(Space::Dead(at));
            }
        }
        let after = p.keys.memory_bytes();
        self.key_bytes = self.key_bytes + after - before;
        self.space = space;
        if record.partition == PartitionId::META
            && let Ok(command) = Command::decode(record.body)
        {
            self.appended_meta.apply(&command);
        }
        if record.flags & MERGED != 0 || !record.kind.is_entry() {
            self.forget_dead(first);
        }
    }

    /// Takes the records out of the cache that died with what `space` lists from `first` on, or leaves
    /// their memory to the next.
    fn forget_dead(&mut self, first: usize) {
        for change in &self.space[first..] {
            let Space::Dead(old) = *change else { continue };
            if self.vacant.len() < VACANT_MAX && old.len <= VACANT_BYTES_MAX {
                self.vacant.push(old);
            } else {
                self.cache.remove(old);
            }
        }
    }

    /// Applies what is committed of a partition: everything below `end`. What it replaces leaves
    /// the cache.
    pub fn commit(&mut self, id: PartitionId, end: Offset) {
        let Some(i) = self.index_of(id) else { return };
        let mut space = std::mem::take(&mut self.space);
        let (meta, grown) = (self.meta.as_ref(), &mut self.grown);
        let first = space.len();
        let p = match i {
            usize::MAX => self.meta_partition.as_mut().expect("index_of found it"),
            i => &mut self.partitions[i],
        };
        let before = p.keys.memory_bytes();
        let mut dropped = Vec::new();
        p.commit(end, &mut space, |pending, space, first| {
            let record = pending.record(id);
            // Counted by the log when it was appended.
            if let Some(own) = space[first..].iter().position(|c| *c == Space::Live(pending.at)) {
                space.remove(first + own);
            }
            match dropped_topic(meta, &record) {
                Some((topic, _)) => dropped.push(topic),
                None if record.kind == RecordKind::TopicBatch => {
                    grown.extend(topic_name(record.key).map(|name| (name.topic, name.index)));
                }
                None => {}
            }
        });
        for topic in dropped {
            p.drop_topic(topic, &mut space);
        }
        let after = p.keys.memory_bytes();
        self.space = space;
        self.forget_dead(first);
        self.key_bytes = self.key_bytes + after - before;
    }

    /// Takes up a record that was replayed.
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
        p.replayed(at, record, &mut self.space);
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

    /// Counts the key memory anew, after changes that did not go through [`Models::commit`].
    pub fn note_key_memory(&mut self) {
        self.key_bytes = self.partitions.iter().map(|p| p.keys.memory_bytes()).sum();
    }

    /// Looks at up to `most` keys behind `after` of the partition at a position, and removes those that have
    /// expired. A partition that is being repaired keeps them: an older value of the key may be on its way,
    /// which has no such time.
    pub(super) fn expire(
        &mut self,
        at: usize,
        after: Option<&[u8]>,
        most: usize,
        now: WallTime,
    ) -> Found {
        let mut found = Found::default();
        let mut space = std::mem::take(&mut self.space);
        if let Some(p) = self.nth(at) {
            let before = p.keys.memory_bytes();
            let kept = p.is_repairing();
            let mut expired = Vec::new();
            for (key, entry) in p.keys.range_after(after).take(most) {
                found.looked += 1;
                if entry.expires.0 != 0 && entry.expires <= now && !kept {
                    expired.push(key.to_vec());
                }
                if found.looked == most {
                    found.last = Some(key.to_vec());
                }
            }
            for key in &expired {
                if let Some(old) = p.keys.remove(key) {
                    p.superseded(&old, &mut space);
                }
            }
            found.expired = expired.len();
            let after = p.keys.memory_bytes();
            self.key_bytes = self.key_bytes + after - before;
        }
        self.space = space;
        found
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
            if p.id == PartitionId::META {
                // Nobody else has a say in it.
                p.commit(p.log_end, &mut space, |_, _, _| {});
            }
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

    /// Keeps a flushed value for readers, in the memory of one that was replaced: a set of keys that is
    /// written again and again touches no new memory. (Measured: new memory for every value made a
    /// put cost a quarter more.)
    fn cache_put(&mut self, at: Location, record: &Record<'_>) {
        let Some(old) = self.vacant.pop() else { return self.cache_body(at, record) };
        let head = [record.time.0.to_le_bytes(), record.offset.0.to_le_bytes()];
        self.cache.insert_in_place_of(old, at, &[&head[0], &head[1], record.body]);
    }

    /// A cached record. `offset`: which one it has to be, where the reader knows.
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
            if self.relocations.front() == Some(&at) {
                self.relocations.pop_front();
                // Referred to since it was staged; not worth a place in the cache.
                continue;
            }
            if self.index_of(record.partition).is_none() || record.flags & LOST != 0 {
                continue;
            }
            match record.kind {
                RecordKind::Put => self.cache_put(at, &record),
                RecordKind::Chunk | RecordKind::TopicBatch => self.cache_body(at, &record),
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
    }

    fn read_done(&mut self, read: ReadId, at: Location, result: Result<Record<'_>, ReadError>) {
        if Chunks::is_theirs(read) {
            let result = result.map(|record| {
                let mut wire = Vec::new();
                encode_wire(&record, &mut wire);
                wire
            });
            return self.read_entries.push((read, result));
        }
        let lost = result.as_ref().is_ok_and(|record| record.flags & LOST != 0);
        let result = result.and_then(|record| {
            if lost {
                return Err(ReadError::Corrupt { at, detail: GIVEN_UP.to_owned() });
            }
            // It may have been moved or replaced meanwhile.
            if self.get(record.partition).is_none_or(|p| p.holds(at, &record)) {
                self.cache_body(at, &record);
            }
            let (time, offset) = (record.time.0, record.offset);
            Ok(Stored { time, offset, body: record.body.to_vec() })
        });
        self.finished_reads.push(FinishedRead { read, result, lost });
    }

    fn keep(&mut self, at: Location, record: &Record<'_>) -> Keep {
        match self.find(record.partition) {
            Some(p) if p.holds(at, record) => Keep::Live,
            Some(p) => {
                if record.kind.is_entry() && record.flags & MERGED == 0 {
                    p.entries.lose(record.offset, at);
                }
                Keep::Drop
            }
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
            p.relocate((from, to), record, &mut space);
        }
        self.space = space;
    }
}

impl ironring_log::CheckpointSource for Models {
    fn begin(&mut self) {
        self.cursor = Cursor::begin(self);
    }

    fn next_piece(&mut self, out: &mut Vec<u8>) -> bool {
        let mut cursor = std::mem::take(&mut self.cursor);
        let more = cursor.next_piece(self, out);
        self.cursor = cursor;
        more
    }
}

/// The topic partition a record is about, when metadata say that its topic is dropped.
fn dropped_topic(meta: Option<&Meta>, record: &Record<'_>) -> Option<(TopicId, u32)> {
    if !matches!(record.kind, RecordKind::TopicBatch | RecordKind::TopicTrim) {
        return None;
    }
    let name = topic_name(record.key).ok()?;
    meta?.is_dropped(name.topic).then_some((name.topic, name.index))
}

#[cfg(test)]
mod tests {
    use ironring_core::{SegmentId, SessionId, Term, Token};

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

    fn place(n: u32) -> Location {
        Location { segment: SegmentId(1), pos: n * 4096, len: 500 }
    }

    /// The shard of partition 0 of 1, where the key lies.
    fn one() -> (Models, PartitionId) {
        let mut models = Models::new(0, 1, 1 << 20);
        models.recovered();
        (models, Token::of_key(b"key").partition(1))
    }

    fn is_cached(models: &mut Models, at: Location, offset: u64, body: &[u8]) -> bool {
        models.cached(at, Some(Offset(offset))).is_some_and(|found| found.body == body)
    }

    /// The records of a group become durable and committed.
    fn settle(models: &mut Models, group: u64, records: &[(Location, Record<'_>)]) {
        models.flushed(GroupSeq(group), &mut records.iter().copied());
        for (_, record) in records {
            models.commit(record.partition, record.offset.next());
        }
    }

    #[test]
    fn a_key_that_is_written_again_leaves_its_memory_to_the_next_version() {
        let (mut models, partition) = one();
        for n in 1..100u32 {
            let body = vec![n as u8; 400];
            let record = put(partition, u64::from(n), &body);
            models.appended(place(n), &record);
            assert!(models.cached(place(n), None).is_none(), "not before it is durable");
            settle(&mut models, u64::from(n), &[(place(n), record)]);
            assert!(is_cached(&mut models, place(n), u64::from(n), &body), "what is new is cached");
            assert!(models.cache.len() <= 2, "the next takes the memory of the old version");
        }
        // A delete leaves nothing.
        let delete = Record { kind: RecordKind::Delete, body: &[], ..put(partition, 100, &[]) };
        models.appended(place(100), &delete);
        settle(&mut models, 100, &[(place(100), delete)]);
        assert!(models.cache.len() <= 2 && models.peek(partition).keys.is_empty());
    }

    #[test]
    fn superseded_versions_leave_their_memory_to_what_comes() {
        let (mut models, partition) = one();
        let bodies: Vec<Vec<u8>> = (0..4).map(|n| vec![n; 400]).collect();
        let records: Vec<_> = (0..4).map(|n| put(partition, n + 1, &bodies[n as usize])).collect();
        for n in 0..4u32 {
            models.appended(place(n), &records[n as usize]);
        }
        let group: Vec<_> = (0..4u32).map(|n| (place(n), records[n as usize])).collect();
        settle(&mut models, 1, &group);
        assert!(is_cached(&mut models, place(3), 4, &bodies[3]));
        assert_eq!(models.space.len(), 3, "three places are dead: {:?}", models.space);
        let cached = models.cache.len();
        for n in 4..7u32 {
            let other = Record { key: &[n as u8], ..put(partition, u64::from(n) + 1, &bodies[0]) };
            models.appended(place(n), &other);
            settle(&mut models, 2, &[(place(n), other)]);
            assert!(is_cached(&mut models, place(n), u64::from(n) + 1, &bodies[0]));
        }
        assert_eq!(models.cache.len(), cached, "three take the memory of three");
        assert!(is_cached(&mut models, place(3), 4, &bodies[3]));
    }

    /// Readers see a record when it is committed, be it durable for long.
    #[test]
    fn what_is_durable_and_not_committed_is_not_seen() {
        let (mut models, partition) = one();
        let (first, second) = (put(partition, 1, b"old"), put(partition, 2, b"new"));
        for (n, record) in [(1, first), (2, second)] {
            models.appended(place(n), &record);
        }
        models.flushed(GroupSeq(1), &mut [(place(1), first), (place(2), second)].into_iter());
        assert!(models.peek(partition).keys.is_empty());
        models.commit(partition, Offset(2));
        let p = models.peek(partition);
        assert_eq!(p.keys.get(b"key").map(|e| e.version), Some(Offset(1)));
        assert_eq!(p.newest_version(b"key", WallTime(0)), Offset(2), "writers see what is next");
        models.commit(partition, Offset(3));
        assert_eq!(models.peek(partition).keys.get(b"key").map(|e| e.version), Some(Offset(2)));
    }

    /// Compaction moves the old version while its successor is on its way.
    #[test]
    fn a_rewrite_beside_a_relocation_is_cached() {
        let (mut models, partition) = one();
        let (old, new) = ([1; 400], [2; 400]);
        let (first, second) = (put(partition, 1, &old), put(partition, 2, &new));
        models.appended(place(0), &first);
        settle(&mut models, 1, &[(place(0), first)]);
        models.relocated(place(0), place(1), GroupSeq(2), &first);
        assert!(is_cached(&mut models, place(1), 1, &old), "the copy is read from memory");
        models.appended(place(2), &second);
        assert_eq!(models.keep(place(1), &first), Keep::Live, "it may yet be read");
        assert_eq!(models.keep(place(2), &second), Keep::Live);
        settle(&mut models, 2, &[(place(1), first), (place(2), second)]);
        assert!(is_cached(&mut models, place(2), 2, &new));
        assert!(models.cache.len() <= 2, "the next takes the memory of the old version");
        assert_eq!(models.keep(place(1), &first), Keep::Drop);
        assert!(models.relocations.is_empty());
    }

    #[test]
    fn a_pending_record_is_found_where_its_copy_lies() {
        let (mut models, partition) = one();
        let record = put(partition, 1, b"new");
        models.appended(place(0), &record);
        models.relocated(place(0), place(5), GroupSeq(1), &record);
        models.commit(partition, Offset(2));
        let entry = models.peek(partition).keys.get(b"key").unwrap();
        assert_eq!(entry.location, place(5));
    }

    /// The record was replaced while the disk read it.
    #[test]
    fn what_is_read_is_cached_only_while_it_is_needed() {
        let (mut models, partition) = one();
        let (first, second) = (put(partition, 1, b"old"), put(partition, 2, b"new"));
        models.appended(place(0), &first);
        models.commit(partition, Offset(2));
        models.read_done(ReadId(1), place(0), Ok(first));
        assert_eq!(models.cache.len(), 1);
        models.cache.remove(place(0));
        models.appended(place(1), &second);
        models.commit(partition, Offset(3));
        models.read_done(ReadId(2), place(0), Ok(first));
        assert!(models.cache.is_empty());
        assert!(models.finished_reads.iter().all(|done| done.result.is_ok()));
    }

    #[test]
    fn a_relocated_record_of_a_strange_partition_keeps_the_queue_in_step() {
        let (mut models, mine) = one();
        let strange = put(PartitionId(7), 1, b"strange");
        let record = put(mine, 1, b"mine");
        models.appended(place(1), &record);
        models.commit(mine, Offset(2));
        models.relocated(place(0), place(2), GroupSeq(1), &strange);
        models.relocated(place(1), place(3), GroupSeq(1), &record);
        models.flushed(GroupSeq(1), &mut [(place(2), strange), (place(3), record)].into_iter());
        assert!(models.relocations.is_empty(), "{:?}", models.relocations);
        assert!(models.cache.is_empty(), "a copy is not worth a place in the cache");
    }
}
