//! One partition: everything its log records add up to.
//!
//! The state that readers see is the fold of the committed records, in order; what is in the log
//! beyond them waits in [`Pending`]. Sessions alone are folded to the end of the log: a retry must
//! find the first attempt while that is on its way. Applying a record twice, or records that the
//! state already reflects, changes nothing: that is what makes fuzzy checkpoints right.

use std::collections::{BTreeMap, BTreeSet};

use ironring_core::{Offset, PartitionId, SessionId, Term, TopicId, WallTime};
use ironring_log::index::{Entry, KeyIndex};
use ironring_log::{Location, Record, RecordKind};

use super::fields::{Malformed, Reader, Writer};
use super::large::LargeValues;
use super::pending::Pending;
use super::sessions::{Outcome, Remembered, SessionTable};
use super::topics::{Batch, TopicPartition};

/// [`Entry::flags`]: the key was deleted, by a record met in recovery. Dropped when that is over.
pub const TOMBSTONE: u8 = 1;
/// [`Entry::flags`]: the value is chunked; the entry's location is its `PutChunked` record.
pub const CHUNKED: u8 = 2;

/// [`Record::flags`]: more records of the same atomic batch follow in this group.
pub const MORE: u8 = 1;

/// What a session's receipts take in memory, about.
const SESSION_MEMORY_BYTES: usize = 256 + 64 * std::mem::size_of::<Remembered>();

/// What a fold did to the space of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// The record at this place is needed.
    Live(Location),
    /// The record at this place is not needed any more.
    Dead(Location),
}

/// The state of one partition.
#[derive(Debug)]
pub struct Partition {
    /// Which one.
    pub id: PartitionId,
    /// The newest term of a record: of an entry, or promised.
    pub term: Term,
    /// Whether this run has begun its own term; of the partition of the node's own definitions.
    pub term_started: bool,
    /// Offset of the next record.
    pub log_end: Offset,
    /// One past the newest record that is applied: what readers see.
    pub applied_end: Offset,
    /// Records between `applied_end` and `log_end`.
    pub pending: Pending,
    /// Keys.
    pub keys: KeyIndex,
    /// Where the chunks of large values lie.
    pub large: LargeValues,
    /// Topic partitions placed here.
    pub topics: BTreeMap<(TopicId, u32), TopicPartition>,
    /// Recent requests of sessions.
    pub sessions: SessionTable,
    /// Uploads that ended without a value, with the end of the log at that time: their chunks are
    /// dead when they are applied.
    aborted: BTreeMap<Offset, Offset>,
    /// This replica is the only voter: what it has flushed is committed.
    pub commits_alone: bool,
    /// Recovery is not over: a record may be older than one that was applied.
    recovering: bool,
    /// Whether recovery has met a delete, so that tombstones have to be looked for.
    has_tombstones: bool,
}

impl Partition {
    /// A partition without records.
    #[must_use]
    pub fn new(id: PartitionId) -> Partition {
        Partition {
            id,
            term: Term(0),
            term_started: false,
            log_end: Offset::FIRST,
            applied_end: Offset::FIRST,
            pending: Pending::default(),
            keys: KeyIndex::new(),
            large: LargeValues::default(),
            topics: BTreeMap::new(),
            sessions: SessionTable::default(),
            aborted: BTreeMap::new(),
            commits_alone: false,
            recovering: true,
            has_tombstones: false,
        }
    }

    /// The entry of a key that exists: not deleted, not expired.
    #[must_use]
    pub fn live_entry(&self, key: &[u8], now: WallTime) -> Option<Entry> {
        self.keys.get(key).filter(|e| is_live(e, now))
    }

    /// Whether the record with this offset is applied, and readers see it.
    #[must_use]
    pub fn is_applied(&self, offset: Offset) -> bool {
        offset < self.applied_end
    }

    /// What the version of a key is, with records that are on their way: [`Offset::NONE`] when it
    /// does not exist.
    #[must_use]
    pub fn newest_version(&self, key: &[u8], now: WallTime) -> Offset {
        match self.pending.key(key) {
            Some(newest) => {
                let gone = newest.expires.0 != 0 && newest.expires <= now;
                if newest.exists && !gone { newest.offset } else { Offset::NONE }
            }
            None => self.live_entry(key, now).map_or(Offset::NONE, |entry| entry.version),
        }
    }

    /// Takes up a record that was just appended: it waits until it is committed.
    pub fn appended(&mut self, at: Location, record: &Record<'_>) {
        self.note(record);
        self.pending.push(at, record);
    }

    /// A term was promised.
    pub fn promised(&mut self, term: Term) {
        self.term = self.term.max(term);
    }

    /// Takes up a record met in recovery, and applies it. Tells which places in the log became
    /// needed or dead.
    pub fn replayed(&mut self, at: Location, record: &Record<'_>, space: &mut Vec<Space>) {
        self.note(record);
        self.apply(at, record, space);
    }

    /// What follows from a record's being in the log.
    fn note(&mut self, record: &Record<'_>) {
        self.log_end = self.log_end.max(record.offset.next());
        self.term = self.term.max(record.term);
        if record.session != SessionId::NONE && record.flags & MORE == 0 {
            self.fold_session(record);
        }
    }

    /// Applies a committed record. A record that is older than the state changes nothing.
    pub fn apply(&mut self, at: Location, record: &Record<'_>, space: &mut Vec<Space>) {
        self.applied_end = self.applied_end.max(record.offset.next());
        match record.kind {
            RecordKind::Put => self.fold_put(at, record, 0, space),
            RecordKind::PutChunked => self.fold_put_chunked(at, record, space),
            RecordKind::Delete => {
                space.push(Space::Dead(at));
                self.fold_delete(at, record, space);
            }
            RecordKind::Chunk => match chunk_name(record.key) {
                Ok((upload, _)) if self.aborted.contains_key(&upload) => {
                    space.push(Space::Dead(at));
                }
                Ok((upload, index)) => {
                    if self.large.holds(upload, index, at) {
                        return;
                    }
                    space.push(Space::Live(at));
                    if let Some(before) = self.large.set_chunk(upload, index, at) {
                        space.push(Space::Dead(before));
                    }
                }
                Err(Malformed) => space.push(Space::Dead(at)),
            },
            RecordKind::TopicBatch => self.fold_topic_batch(at, record, space),
            RecordKind::TopicTrim => {
                space.push(Space::Dead(at));
                if let Ok(name) = topic_name(record.key) {
                    let topic = self.topics.entry((name.topic, name.index)).or_default();
                    topic.trim(name.first, |gone| space.push(Space::Dead(gone)));
                }
            }
            RecordKind::TermStart
            | RecordKind::Promise
            | RecordKind::SessionMark
            | RecordKind::Meta
            | RecordKind::Raft
            | RecordKind::Batch => {
                space.push(Space::Dead(at));
            }
        }
        if !self.aborted.is_empty() {
            let end = self.applied_end;
            self.aborted.retain(|_, log_end| *log_end > end);
        }
    }

    /// An upload ended without a value. Tells the places of its chunks that were applied; those that
    /// are on their way are dead when they are.
    pub fn abort_upload(&mut self, upload: Offset, space: &mut Vec<Space>) {
        space.extend(self.large.abort(upload).into_iter().map(Space::Dead));
        if upload != Offset::NONE && self.applied_end < self.log_end {
            self.aborted.insert(upload, self.log_end);
        }
    }

    fn fold_put(&mut self, at: Location, record: &Record<'_>, flags: u8, space: &mut Vec<Space>) {
        let entry = Entry { location: at, version: record.offset, expires: record.expires, flags };
        match self.keys.insert(record.key, entry) {
            Some(old) if old.version > record.offset => {
                // The state is ahead of this record (fuzzy checkpoint): put the newer one back.
                self.keys.insert(record.key, old);
                space.push(Space::Dead(at));
                return;
            }
            // Reflected already: counted when the checkpoint was restored.
            Some(old) if old.version == record.offset && old.location == at => return,
            Some(old) if old.version == record.offset => space.push(Space::Dead(old.location)),
            Some(old) => self.superseded(&old, space),
            None => {}
        }
        space.push(Space::Live(at));
    }

    fn fold_put_chunked(&mut self, at: Location, record: &Record<'_>, space: &mut Vec<Space>) {
        let Ok(body) = ChunkedBody::decode(record.body) else {
            space.push(Space::Dead(at));
            return;
        };
        self.fold_put(at, record, CHUNKED, space);
        let current = self.keys.get(record.key).is_some_and(|e| e.version == record.offset);
        if current {
            self.large.finish(body.upload, record.offset);
        } else {
            for chunk in self.large.abort(body.upload) {
                space.push(Space::Dead(chunk));
            }
        }
    }

    fn fold_delete(&mut self, at: Location, record: &Record<'_>, space: &mut Vec<Space>) {
        let entry =
            Entry { location: at, version: record.offset, expires: WallTime(0), flags: TOMBSTONE };
        match self.keys.insert(record.key, entry) {
            Some(old) if old.version > record.offset => {
                self.keys.insert(record.key, old);
                return;
            }
            Some(old) if old.version == record.offset => {}
            Some(old) => self.superseded(&old, space),
            None => {}
        }
        if self.recovering {
            self.has_tombstones = true;
        } else {
            self.keys.remove(record.key);
        }
    }

    fn fold_topic_batch(&mut self, at: Location, record: &Record<'_>, space: &mut Vec<Space>) {
        let Ok(name) = topic_name(record.key) else {
            space.push(Space::Dead(at));
            return;
        };
        let batch = Batch { first: name.first, count: name.count, time: record.time, at };
        let topic = self.topics.entry((name.topic, name.index)).or_default();
        if topic.holds(name.first, at) {
            return;
        }
        space.push(Space::Live(at));
        if let Some(dead) = topic.put(batch) {
            space.push(Space::Dead(dead));
        }
    }

    fn fold_session(&mut self, record: &Record<'_>) {
        let outcome = match record.kind {
            RecordKind::SessionMark => {
                let version = Reader::new(record.body).u64().unwrap_or(0);
                Outcome::ConditionFailed(Offset(version))
            }
            RecordKind::TopicBatch => match topic_name(record.key) {
                Ok(n) => Outcome::Appended { index: n.index, first: n.first, count: n.count },
                Err(Malformed) => Outcome::Written,
            },
            _ => Outcome::Written,
        };
        let remembered = Remembered {
            sequence: record.sequence,
            offset: record.offset,
            term: record.term,
            outcome,
        };
        self.sessions.fold(record.session, remembered);
    }

    /// What an entry that is replaced or removed leaves behind.
    pub fn superseded(&mut self, old: &Entry, space: &mut Vec<Space>) {
        if old.flags & TOMBSTONE == 0 {
            space.push(Space::Dead(old.location));
        }
        if old.flags & CHUNKED != 0 {
            space.extend(self.large.remove(old.version).into_iter().map(Space::Dead));
        }
    }

    /// A live record has a copy at `to`: refer to it from here on, if it is still needed.
    /// The log has moved its count of live bytes to `to` already.
    pub fn relocate(&mut self, to: Location, record: &Record<'_>, space: &mut Vec<Space>) {
        if record.offset >= self.applied_end && self.pending.relocate(record.offset, to) {
            return;
        }
        if !self.needs(record) {
            space.push(Space::Dead(to));
            return;
        }
        match record.kind {
            RecordKind::Put | RecordKind::PutChunked => {
                self.keys.update(record.key, |e| e.location = to);
            }
            RecordKind::Chunk => {
                if let Ok((upload, index)) = chunk_name(record.key) {
                    self.large.set_chunk(upload, index, to);
                }
            }
            RecordKind::TopicBatch => {
                if let Ok(name) = topic_name(record.key)
                    && let Some(topic) = self.topics.get_mut(&(name.topic, name.index))
                {
                    let batch =
                        Batch { first: name.first, count: name.count, time: record.time, at: to };
                    topic.put(batch);
                }
            }
            _ => {}
        }
    }

    /// Whether the state refers to this record at all, wherever its copies lie.
    fn needs(&self, record: &Record<'_>) -> bool {
        match record.kind {
            RecordKind::Put | RecordKind::PutChunked => self
                .keys
                .get(record.key)
                .is_some_and(|e| e.version == record.offset && e.flags & TOMBSTONE == 0),
            RecordKind::Chunk => chunk_name(record.key).is_ok_and(|(u, i)| self.large.has(u, i)),
            RecordKind::TopicBatch => topic_name(record.key).is_ok_and(|n| {
                self.topics.get(&(n.topic, n.index)).is_some_and(|t| {
                    t.batches_from(n.first).next().is_some_and(|b| b.first == n.first)
                })
            }),
            _ => false,
        }
    }

    /// Whether the copy of the record at `at` is the one the state refers to.
    #[must_use]
    pub fn holds(&self, at: Location, record: &Record<'_>) -> bool {
        if record.offset >= self.applied_end {
            return self.pending.holds(at, record.offset);
        }
        match record.kind {
            RecordKind::Put | RecordKind::PutChunked => self
                .keys
                .get(record.key)
                .is_some_and(|e| e.location == at && e.flags & TOMBSTONE == 0),
            RecordKind::Chunk => {
                chunk_name(record.key).is_ok_and(|(u, i)| self.large.holds(u, i, at))
            }
            RecordKind::TopicBatch => topic_name(record.key).is_ok_and(|n| {
                self.topics.get(&(n.topic, n.index)).is_some_and(|t| t.holds(n.first, at))
            }),
            _ => false,
        }
    }

    /// Recovery is over: what was recovered is durable, and uploads nobody will finish are dead.
    pub fn recovered(&mut self, space: &mut Vec<Space>) {
        self.recovering = false;
        self.applied_end = self.log_end;
        if !self.has_tombstones && self.large.is_empty() {
            return;
        }
        let mut gone = Vec::new();
        let mut chunked = BTreeSet::new();
        for (key, entry) in self.keys.range_after(None) {
            if entry.flags & TOMBSTONE != 0 {
                gone.push(key.to_vec());
            }
            if entry.flags & CHUNKED != 0 {
                chunked.insert(entry.version);
            }
        }
        for key in gone {
            self.keys.remove(&key);
        }
        // Uploads nobody will finish, and those whose value was replaced while the checkpoint was
        // being made.
        let orphans: Vec<Offset> = self
            .large
            .iter()
            .filter(|(_, version, _)| !chunked.contains(version))
            .map(|(upload, _, _)| upload)
            .collect();
        for upload in orphans {
            space.extend(self.large.abort(upload).into_iter().map(Space::Dead));
        }
    }

    /// Tells the place of every record the state refers to. O(keys + chunks + batches).
    pub fn live_places(&self, mut live: impl FnMut(Location)) {
        for (_, entry) in self.keys.range_after(None) {
            if entry.flags & TOMBSTONE == 0 {
                live(entry.location);
            }
        }
        for (_, _, chunks) in self.large.iter() {
            chunks.iter().filter(|at| at.len > 0).for_each(|at| live(*at));
        }
        for batch in self.topics.values().flat_map(TopicPartition::batches) {
            live(batch.at);
        }
    }

    /// A committed command dropped this topic: forget its records.
    pub fn drop_topic(&mut self, topic: TopicId, space: &mut Vec<Space>) {
        let names: Vec<_> =
            self.topics.range((topic, 0)..=(topic, u32::MAX)).map(|(name, _)| *name).collect();
        for name in names {
            if let Some(gone) = self.topics.remove(&name) {
                space.extend(gone.batches().map(|b| Space::Dead(b.at)));
            }
        }
    }

    /// Memory held besides the keys, in bytes.
    #[must_use]
    pub fn other_memory_bytes(&self) -> usize {
        self.topics.values().map(TopicPartition::memory_bytes).sum::<usize>()
            + self.sessions.count() * SESSION_MEMORY_BYTES
            + self.large.memory_bytes()
    }
}

/// True when the entry is a value a reader may get at this time.
#[must_use]
pub fn is_live(entry: &Entry, now: WallTime) -> bool {
    entry.flags & TOMBSTONE == 0 && (entry.expires.0 == 0 || entry.expires > now)
}

/// The key of a `TopicBatch` or `TopicTrim` record: topic u32, index u32, first offset u64 (the
/// offset to trim before), count u32; little endian, 20 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicName {
    /// The topic.
    pub topic: TopicId,
    /// Index of the topic partition.
    pub index: u32,
    /// First offset of the batch, or first offset kept.
    pub first: u64,
    /// Records in the batch; 0 for a trim.
    pub count: u32,
}

impl TopicName {
    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; 20] {
        let mut out = [0; 20];
        out[..4].copy_from_slice(&self.topic.0.to_le_bytes());
        out[4..8].copy_from_slice(&self.index.to_le_bytes());
        out[8..16].copy_from_slice(&self.first.to_le_bytes());
        out[16..].copy_from_slice(&self.count.to_le_bytes());
        out
    }
}

/// The opposite of [`TopicName::encode`].
pub fn topic_name(key: &[u8]) -> Result<TopicName, Malformed> {
    let mut r = Reader::new(key);
    let name =
        TopicName { topic: TopicId(r.u32()?), index: r.u32()?, first: r.u64()?, count: r.u32()? };
    r.end()?;
    // A batch whose end is no offset was not made by this code.
    name.first.checked_add(u64::from(name.count)).ok_or(Malformed)?;
    Ok(name)
}

/// The key of a `Chunk` record: upload u64, index u32; little endian.
#[must_use]
pub fn chunk_key(upload: Offset, index: u32) -> [u8; 12] {
    let mut out = [0; 12];
    out[..8].copy_from_slice(&upload.0.to_le_bytes());
    out[8..].copy_from_slice(&index.to_le_bytes());
    out
}

/// The opposite of [`chunk_key`].
pub fn chunk_name(key: &[u8]) -> Result<(Offset, u32), Malformed> {
    let mut r = Reader::new(key);
    let name = (Offset(r.u64()?), r.u32()?);
    r.end()?;
    Ok(name)
}

/// The body of a `PutChunked` record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkedBody {
    /// The upload that holds the value.
    pub upload: Offset,
    /// Chunks it has.
    pub chunks: u32,
    /// Bytes of the value.
    pub value_bytes: u64,
}

impl ChunkedBody {
    /// The bytes: upload u64, chunks u32, length u64; little endian.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(20);
        let mut w = Writer(&mut out);
        w.u64(self.upload.0);
        w.u32(self.chunks);
        w.u64(self.value_bytes);
        out
    }

    /// The opposite.
    pub fn decode(bytes: &[u8]) -> Result<ChunkedBody, Malformed> {
        let mut r = Reader::new(bytes);
        let body =
            ChunkedBody { upload: Offset(r.u64()?), chunks: r.u32()?, value_bytes: r.u64()? };
        r.end()?;
        Ok(body)
    }
}
