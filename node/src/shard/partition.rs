//! One partition: everything its log records add up to.
//!
//! The state that readers see is the fold of the committed records, in order; what is in the log
//! beyond them waits in [`Pending`], and can be cut off again when another replica leads. Applying a
//! record twice, or records that the state already reflects, changes nothing: that is what makes
//! fuzzy checkpoints and snapshots right.

mod fold;

use std::collections::{BTreeMap, BTreeSet};

use ironring_core::{Offset, PartitionId, SessionId, Term, TopicId, WallTime};
use ironring_log::index::{Entry, KeyIndex};
use ironring_log::{Location, Record, RecordKind};

use ironring_ring::replication::TermStarts;

use super::entries::Entries;
use super::fields::{Malformed, Reader};
use super::large::LargeValues;
use super::names::{chunk_name, topic_name};
use super::pending::{Next, Pending, PendingRecord, receipt_of};
use super::sessions::{Remembered, SessionTable, Verdict};
use super::state::{Says, merge_sessions, read_says};
use super::topics::{Batch, TopicPartition};

/// [`Entry::flags`]: the key was deleted, by a record met in recovery, or while a leader's state comes
/// in and entries are applied. Dropped when that is over.
pub const TOMBSTONE: u8 = 1;
/// [`Entry::flags`]: the value is chunked; the entry's location is its `PutChunked` record.
pub const CHUNKED: u8 = 2;

/// [`Record::flags`]: more records of the same atomic batch follow in this group.
pub const MORE: u8 = 1;

/// [`Record::flags`]: part of the state another replica sent, not an entry of this log.
pub const MERGED: u8 = 2;

/// [`Record::flags`]: it stands for a record that no replica can read any more. What it is about is
/// neither deleted nor there: reading it is refused as corrupt, until it is written again. In a state
/// that is sent it has not [`MERGED`], so that a build that does not know it takes none of the piece.
pub const LOST: u8 = 4;

/// Body of a `Damaged` record, and what stands behind the offset in a checkpoint, of a copy that has
/// something else than most voters; nothing, of one that has lost something.
pub const DISTRUSTED: u8 = 1;

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
    /// Which of its lives the replica is in; none when there never was a replica here.
    pub life: Option<u64>,
    /// The newest term of a record: of an entry, or promised.
    pub term: Term,
    /// In which terms the entries were written.
    pub terms: TermStarts,
    /// Whether this run has begun its own term; of the partition of the node's own definitions.
    pub term_started: bool,
    /// Offset of the next record.
    pub log_end: Offset,
    /// One past the newest record that is applied: what readers see.
    pub applied_end: Offset,
    /// Records between `applied_end` and `log_end`.
    pub pending: Pending,
    /// Where the newest entries lie, of a partition with other replicas.
    pub entries: Entries,
    /// How many of them are kept; 0: no other replica will ask.
    pub entries_max: usize,
    /// Entries from here on are kept for a follower that is being sent the state: see [`super::pins`].
    pub pinned: Option<Offset>,
    /// The newest end of what is committed that the log says.
    pub noted: Offset,
    /// Behind every offset in the state that came with a checkpoint or another's state: that may be
    /// behind `log_end`. Those that come with entries are before it.
    state_end: Offset,
    /// Keys.
    pub keys: KeyIndex,
    /// Where the chunks of large values lie.
    pub large: LargeValues,
    /// Topic partitions placed here.
    pub topics: BTreeMap<(TopicId, u32), TopicPartition>,
    /// Recent requests of sessions.
    pub sessions: SessionTable,
    /// This replica is the only voter: what it has flushed is committed.
    pub commits_alone: bool,
    /// Something before this offset cannot be read: the replica neither votes nor begins to lead.
    pub hurt: Option<Offset>,
    /// It is hurt because it has something else than most voters: nothing in it is known to be right,
    /// whatever its checksums say.
    pub distrusted: bool,
    /// Recovery is not over: a record may be older than one that was applied.
    recovering: bool,
    /// A leader's state is on its way into a log that goes on meanwhile: what it says of a key may be
    /// older than what was applied since.
    repairing: bool,
    /// Whether a delete was met while tombstones are kept, so that they have to be looked for.
    has_tombstones: bool,
}

impl Partition {
    /// A partition without records.
    #[must_use]
    pub fn new(id: PartitionId) -> Partition {
        Partition {
            id,
            life: None,
            term: Term(0),
            terms: TermStarts::default(),
            term_started: false,
            log_end: Offset::FIRST,
            applied_end: Offset::FIRST,
            pending: Pending::default(),
            entries: Entries::default(),
            entries_max: 0,
            pinned: None,
            noted: Offset::FIRST,
            state_end: Offset::FIRST,
            keys: KeyIndex::new(),
            large: LargeValues::default(),
            topics: BTreeMap::new(),
            sessions: SessionTable::default(),
            commits_alone: false,
            hurt: None,
            distrusted: false,
            recovering: true,
            repairing: false,
            has_tombstones: false,
        }
    }

    /// The entry of a key that exists: not deleted, not expired.
    #[must_use]
    pub fn live_entry(&self, key: &[u8], now: WallTime) -> Option<Entry> {
        self.keys.get(key).filter(|e| is_live(e, now))
    }

    /// Where the records of a value lie, in order; `None` while not all of them are here, as of a large
    /// value that a leader's state names before the log brings its chunks.
    #[must_use]
    pub fn value_places<'a>(&'a self, entry: &'a Entry) -> Option<&'a [Location]> {
        if entry.flags & CHUNKED == 0 {
            return Some(std::slice::from_ref(&entry.location));
        }
        self.large.whole(entry.version)
    }

    /// Whether what is missing of a value may still come: with the state that another replica sends, or
    /// with the entries behind it. Otherwise it is lost, as when an order lets a copy lead that has only part
    /// of a state.
    #[must_use]
    pub fn may_be_completed(&self, entry: &Entry) -> bool {
        self.repairing || self.ahead().is_some() || !self.is_applied(entry.version)
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

    /// Judges a request of a session. O(window + pending of the session).
    #[must_use]
    pub fn judge(&self, session: SessionId, sequence: u64) -> Verdict {
        self.sessions.judge(session, sequence, &self.pending.receipts(session))
    }

    /// Takes up an entry that was just appended: it waits until it is committed.
    pub fn appended(&mut self, at: Location, record: &Record<'_>) {
        self.take_up(at, record);
        self.pending.push(at, record);
    }

    /// A term was promised.
    pub fn promised(&mut self, term: Term) {
        self.term = self.term.max(term);
    }

    /// Entries from `end` on are void: their leader lost its place before they were committed.
    pub fn cut(&mut self, end: Offset, space: &mut Vec<Space>) {
        assert!(end >= self.applied_end, "{}: a cut at {end} of what is committed", self.id);
        self.pending.truncate(end, |at| space.push(Space::Dead(at)));
        self.entries.truncate(end);
        self.terms.truncate(end);
        self.log_end = self.log_end.min(end);
        self.hurt = self.hurt.map(|below| below.min(end));
    }

    /// The replica begins a new life: nothing it has counts any more.
    pub fn adopt(&mut self, life: u64, space: &mut Vec<Space>) {
        self.live_places(|at| space.push(Space::Dead(at)));
        *self = Partition {
            life: Some(life),
            term: self.term,
            entries_max: self.entries_max,
            commits_alone: self.commits_alone,
            recovering: self.recovering,
            ..Partition::new(self.id)
        };
    }

    /// Takes up a record met in recovery. Tells which places in the log became needed or dead.
    pub fn replayed(&mut self, at: Location, record: &Record<'_>, space: &mut Vec<Space>) {
        match record.kind {
            RecordKind::Promise => self.promised(record.term),
            RecordKind::Watermark => {
                self.noted = self.noted.max(record.offset);
                self.commit(record.offset, space, |_, _, _| {});
            }
            RecordKind::Cut => self.cut(record.offset.max(self.applied_end), space),
            RecordKind::Adopt => self.adopt(Reader::new(record.body).u64().unwrap_or(0), space),
            RecordKind::Jump => {
                let term = Term(Reader::new(record.body).u64().unwrap_or(0));
                self.jump(record.offset, term, space);
            }
            RecordKind::Damaged => {
                self.hurt = Some(record.offset);
                // One that an operator has let lead is not distrusted any more.
                self.distrusted = record.body.first() == Some(&DISTRUSTED);
            }
            RecordKind::Repaired => {
                (self.hurt, self.distrusted) = (None, false);
                self.end_repair();
            }
            _ if record.flags & MERGED != 0 => return self.merge(at, record, space),
            _ => return self.replayed_entry(at, record, space),
        }
        space.push(Space::Dead(at));
    }

    /// A leader's state begins to come in while entries are applied: from here on until
    /// [`Partition::end_repair`] what was deleted is remembered, and what has expired stays.
    pub fn begin_repair(&mut self) {
        self.end_repair();
        self.repairing = true;
    }

    /// It is here, or comes no more. O(keys) when a key was deleted meanwhile.
    pub fn end_repair(&mut self) {
        self.repairing = false;
        if !self.recovering {
            self.sweep_tombstones();
        }
    }

    fn sweep_tombstones(&mut self) {
        if !std::mem::take(&mut self.has_tombstones) {
            return;
        }
        let deleted = self.keys.range_after(None).filter(|(_, e)| e.flags & TOMBSTONE != 0);
        let gone: Vec<Vec<u8>> = deleted.map(|(key, _)| key.to_vec()).collect();
        for key in gone {
            self.keys.remove(&key);
        }
    }

    /// Whether a leader's state comes in while entries are applied.
    #[must_use]
    pub fn is_repairing(&self) -> bool {
        self.repairing
    }

    /// Whether the key of a value was written, or deleted, after it.
    #[must_use]
    pub fn has_newer(&self, record: &Record<'_>) -> bool {
        matches!(record.kind, RecordKind::Put | RecordKind::PutChunked)
            && self.keys.get(record.key).is_some_and(|entry| entry.version > record.offset)
    }

    /// Where entries would have to go on to be newer than all that the state has; nothing: they do. Only
    /// part of a state that another replica sent is newer than the log.
    #[must_use]
    pub fn ahead(&self) -> Option<Offset> {
        (self.state_end > self.log_end).then_some(self.state_end)
    }

    /// The state has something with this offset that did not come with an entry.
    pub(super) fn note_in_state(&mut self, offset: Offset) {
        self.state_end = self.state_end.max(Offset(offset.0.saturating_add(1)));
    }

    /// Takes up part of the state another replica sent.
    pub fn merge(&mut self, at: Location, record: &Record<'_>, space: &mut Vec<Space>) {
        if record.kind != RecordKind::State {
            self.note_in_state(offset_in_state(record));
            return self.apply(at, record, space);
        }
        space.push(Space::Dead(at));
        match read_says(record.body) {
            Ok(Says::Topic(topic, index, start, end)) => {
                let topic = self.topics.entry((topic, index)).or_default();
                topic.trim(start, |gone| space.push(Space::Dead(gone)));
                topic.restore_bounds(start, end);
            }
            Ok(Says::Sessions) => {
                // What does not parse was not made by this code; the receipts before it count.
                let _ = merge_sessions(self, record.body);
            }
            Ok(Says::Keys(..)) | Err(Malformed) => {}
        }
    }

    /// The whole state that another replica sent is here: entries go on at `end`. `term` is that of the
    /// entry before.
    pub fn jump(&mut self, end: Offset, term: Term, space: &mut Vec<Space>) {
        self.pending.truncate(Offset::NONE, |at| space.push(Space::Dead(at)));
        (self.log_end, self.applied_end, self.noted) = (end, end, end);
        self.entries.begin(end);
        self.terms = TermStarts::from_pairs(vec![(term, Offset(end.0 - 1))]);
        self.term = self.term.max(term);
    }

    fn replayed_entry(&mut self, at: Location, record: &Record<'_>, space: &mut Vec<Space>) {
        let offset = record.offset;
        if offset < self.applied_end {
            // Reflected by the checkpoint, or a copy made by compaction.
            return self.apply(at, record, space);
        }
        if offset < self.log_end {
            match self.pending.term_at(offset) {
                Some(term) if term == record.term => {
                    if let Some(from) = self.pending.relocate(offset, at) {
                        self.entries.relocate(offset, from, at);
                    }
                    return;
                }
                Some(term) if term > record.term => return space.push(Space::Dead(at)),
                // The cut before it was written down in a segment that is gone.
                _ => self.cut(offset, space),
            }
        } else if offset > self.log_end {
            // Compaction has dropped what was between, which it does only to what is committed.
            self.commit(self.log_end, space, |_, _, _| {});
            self.applied_end = offset;
        }
        self.take_up(at, record);
        self.pending.push(at, record);
    }

    /// Keeps the places of so many of the newest entries; 0: of none.
    pub fn keep_entries(&mut self, most: usize) {
        let begins = self.entries_max == 0 && most > 0;
        self.entries_max = most;
        if most == 0 {
            self.entries.begin(self.log_end);
        } else if begins {
            self.entries.begin(self.applied_end);
            let applied = self.applied_end;
            self.pending.iter().for_each(|r| self.entries.push(r.offset, r.at, most, applied));
        }
    }

    /// Takes up an entry that a checkpoint holds: in the log, and not committed when that began.
    pub fn restore_pending(&mut self, at: Location, record: &Record<'_>) {
        if self.entries_max > 0 {
            self.entries.push(record.offset, at, self.entries_max, self.applied_end);
        }
        self.pending.push(at, record);
    }

    /// What follows from an entry's being in the log.
    fn take_up(&mut self, at: Location, record: &Record<'_>) {
        self.log_end = record.offset.next();
        self.term = self.term.max(record.term);
        self.terms.append(record.term, record.offset);
        if self.entries_max > 0 {
            // A follower that does not keep up with its own rebuilding begins anew.
            let most = match self.pinned {
                Some(_) => 16 * self.entries_max,
                None => self.entries_max,
            };
            self.entries.push(record.offset, at, most, self.applied_end);
        }
    }

    /// Applies what is committed: everything before `end`. Tells each record that takes effect, with
    /// where in `space` begins what follows from it.
    pub fn commit(
        &mut self,
        end: Offset,
        space: &mut Vec<Space>,
        mut applied: impl FnMut(&PendingRecord, &mut Vec<Space>, usize),
    ) {
        while let Some(next) = self.pending.next(end) {
            let (Next::Apply(count) | Next::Void(count)) = next;
            for _ in 0..count {
                let Some(pending) = self.pending.pop_below(end) else { break };
                let first = space.len();
                match next {
                    Next::Apply(_) => self.apply(pending.at, &pending.record(self.id), space),
                    Next::Void(_) => space.push(Space::Dead(pending.at)),
                }
                self.applied_end = pending.offset.next();
                applied(&pending, space, first);
            }
        }
    }

    /// A live record at `from` has a copy at `to`: refer to it from here on, if it is still needed.
    /// The log has moved its count of live bytes to `to` already.
    pub fn relocate(
        &mut self,
        (from, to): (Location, Location),
        record: &Record<'_>,
        space: &mut Vec<Space>,
    ) {
        if record.flags & MERGED == 0 {
            self.entries.relocate(record.offset, from, to);
        }
        if record.offset >= self.applied_end && record.flags & MERGED == 0 {
            if self.pending.holds(from, record.offset) {
                self.pending.relocate(record.offset, to);
            } else {
                space.push(Space::Dead(to));
            }
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
        if record.offset >= self.applied_end && record.flags & MERGED == 0 {
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

    /// Recovery is over. What is not known to be committed stays pending.
    pub fn recovered(&mut self, space: &mut Vec<Space>) {
        self.recovering = false;
        self.sweep_tombstones();
        if self.large.is_empty() {
            return;
        }
        let chunked = self.keys.range_after(None).filter(|(_, e)| e.flags & CHUNKED != 0);
        let chunked: BTreeSet<Offset> = chunked.map(|(_, entry)| entry.version).collect();
        // Those whose value was replaced while the checkpoint was being made. Others become a value
        // yet, or are forgotten when the next term begins.
        let orphans: Vec<Offset> = self
            .large
            .iter()
            .filter(|(_, version, _)| *version != Offset::NONE && !chunked.contains(version))
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
        for record in self.pending.iter() {
            live(record.at);
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
            + self.entries.memory_bytes()
            + self.pending.memory_bytes()
    }

    /// Whether so many entries wait to be committed that no more are taken from users: as long as there
    /// is a window of entries they have to fit into it, with room for those that are no users'.
    #[must_use]
    pub fn waits_too_much(&self) -> bool {
        self.entries_max > 0 && self.pending.len() >= self.entries_max - self.entries_max / 4
    }
}

/// The offset that a record leaves in the state: the version of a key, the number of an upload, or that of
/// a receipt. Batches of topics have numbers of their own.
fn offset_in_state(record: &Record<'_>) -> Offset {
    let receipt = receipt_of(record).map_or(Offset::NONE, |receipt| receipt.offset);
    match record.kind {
        // What is deleted leaves its version to recovery.
        RecordKind::Put | RecordKind::PutChunked | RecordKind::Delete => record.offset,
        RecordKind::Chunk => chunk_name(record.key).map_or(receipt, |(upload, _)| upload),
        _ => receipt,
    }
}

/// True when the entry is a value a reader may get at this time.
#[must_use]
pub fn is_live(entry: &Entry, now: WallTime) -> bool {
    entry.flags & TOMBSTONE == 0 && (entry.expires.0 == 0 || entry.expires > now)
}

#[cfg(test)]
pub(super) mod tests {
    use ironring_core::SegmentId;

    use super::super::names::{ChunkedBody, TopicName, chunk_key};
    use super::*;

    pub fn at(n: u32) -> Location {
        Location { segment: SegmentId(1), pos: n * 64, len: 64 }
    }

    pub fn record<'a>(kind: RecordKind, offset: u64, key: &'a [u8], body: &'a [u8]) -> Record<'a> {
        Record {
            kind,
            flags: 0,
            partition: PartitionId(0),
            term: Term(1),
            offset: Offset(offset),
            session: SessionId::NONE,
            sequence: 0,
            time: WallTime(0),
            expires: WallTime(0),
            key,
            body,
        }
    }

    /// What decides is what a new record could be taken for older than, or for the same.
    #[test]
    fn part_of_a_state_is_ahead_of_the_log_until_entries_get_there() {
        let (mut p, mut space) = (Partition::new(PartitionId(0)), Vec::new());
        p.recovered(&mut space);
        let merged = |kind, offset, key| Record { flags: MERGED, ..record(kind, offset, key, b"") };
        let batch = TopicName { topic: TopicId(1), index: 0, first: 0, count: 1 }.encode();
        p.merge(at(1), &merged(RecordKind::TopicBatch, 900, &batch), &mut space);
        assert_eq!(p.ahead(), None, "a batch has no offset that anything is compared with");
        let upload = chunk_key(Offset(5), 0);
        p.merge(at(3), &merged(RecordKind::Chunk, 6, &upload), &mut space);
        assert_eq!(p.ahead(), Some(Offset(6)), "an upload has that of its first chunk");
        p.merge(at(2), &merged(RecordKind::Put, 7, b"k"), &mut space);
        assert_eq!(p.ahead(), Some(Offset(8)));
        p.merge(at(4), &merged(RecordKind::Delete, 8, b"k"), &mut space);
        assert_eq!(p.ahead(), Some(Offset(9)), "a put at 8 would not outlive a recovery");
        let with_receipt = Record {
            session: SessionId(3),
            sequence: 1,
            ..merged(RecordKind::TopicBatch, 10, &batch)
        };
        p.merge(at(5), &with_receipt, &mut space);
        assert_eq!(p.ahead(), Some(Offset(11)));
        for offset in 1..=10 {
            assert!(p.ahead().is_some(), "there is no entry at {offset} yet");
            p.appended(at(10), &record(RecordKind::Put, offset, b"other", b""));
        }
        assert_eq!(p.ahead(), None);
        p.adopt(7, &mut space);
        p.merge(at(4), &merged(RecordKind::Put, 8, b"k"), &mut space);
        assert_eq!(p.ahead(), Some(Offset(9)), "another life, another log");
        p.jump(Offset(9), Term(1), &mut space);
        assert_eq!(p.ahead(), None);
        p.appended(at(6), &record(RecordKind::Put, 9, b"k", b""));
        p.commit(Offset(10), &mut space, |_, _, _| {});
        assert_eq!(p.keys.get(b"k").map(|e| (e.version, e.location)), Some((Offset(9), at(6))));
    }

    /// A state that is sent names a value that was written meanwhile: its chunks come with the log.
    #[test]
    fn what_waits_is_kept_beyond_the_window_and_no_more_is_taken_near_its_end() {
        let (mut p, mut space) = (Partition::new(PartitionId(0)), Vec::new());
        p.recovered(&mut space);
        p.keep_entries(8);
        let append = |p: &mut Partition, offsets: std::ops::Range<u64>| {
            for offset in offsets {
                let put = record(RecordKind::Put, offset, b"k", b"v");
                p.appended(at(offset as u32), &put);
            }
        };
        append(&mut p, 1..6);
        assert!(!p.waits_too_much());
        append(&mut p, 6..7);
        assert!(p.waits_too_much(), "a quarter is for entries that are no users'");
        append(&mut p, 7..30);
        // A follower that has none of them can be sent nothing else: they add up to no state yet.
        assert_eq!((p.entries.first(), p.entries.end()), (Offset(1), Offset(30)));
        p.commit(Offset(28), &mut Vec::new(), |_, _, _| {});
        assert!(!p.waits_too_much());
        append(&mut p, 30..31);
        assert_eq!(p.entries.first(), Offset(23));
    }

    /// What a state does not have is deleted at the last offset before its end: the value's own, here.
    #[test]
    fn a_large_value_that_a_state_does_not_have_leaves_nothing_behind() {
        let (mut p, mut space) = (Partition::new(PartitionId(0)), Vec::new());
        p.recovered(&mut space);
        let body = ChunkedBody { upload: Offset(7), chunks: 1, value_bytes: 300 << 10 }.encode();
        let key = chunk_key(Offset(7), 0);
        p.apply(at(3), &record(RecordKind::Chunk, 7, &key, b"a"), &mut space);
        p.apply(at(4), &record(RecordKind::PutChunked, 9, b"k", &body), &mut space);
        space.clear();
        let delete = record(RecordKind::Delete, 9, b"k", b"");
        p.merge(at(5), &Record { flags: MERGED, ..delete }, &mut space);
        let dead: Vec<Space> = [5, 4, 3].map(|n| Space::Dead(at(n))).to_vec();
        assert_eq!((space, p.keys.len(), p.large.is_empty()), (dead, 0, true));
    }

    /// Compaction may have copied the value before the delete was there: the copy lies behind it in the log.
    #[test]
    fn a_value_that_a_state_does_not_have_does_not_come_back_by_a_copy_of_it() {
        let (mut p, mut space) = (Partition::new(PartitionId(0)), Vec::new());
        let put = record(RecordKind::Put, 9, b"k", b"v");
        let delete = Record { flags: MERGED, ..record(RecordKind::Delete, 9, b"k", b"") };
        p.merge(at(1), &put, &mut space);
        p.merge(at(2), &delete, &mut space);
        space.clear();
        p.merge(at(3), &Record { flags: MERGED, ..put }, &mut space);
        assert_eq!(space, [Space::Dead(at(3))]);
        p.recovered(&mut space);
        assert_eq!(p.keys.len(), 0);
    }

    #[test]
    fn a_large_value_is_read_when_all_of_it_is_here() {
        let (mut p, mut space) = (Partition::new(PartitionId(0)), Vec::new());
        p.recovered(&mut space);
        let body = ChunkedBody { upload: Offset(7), chunks: 2, value_bytes: 300 << 10 }.encode();
        let put = record(RecordKind::PutChunked, 9, b"k", &body);
        p.merge(at(1), &Record { flags: MERGED, ..put }, &mut space);
        let places = |p: &Partition| {
            let entry = p.live_entry(b"k", WallTime(0)).unwrap();
            p.value_places(&entry).map(<[Location]>::to_vec)
        };
        assert_eq!(places(&p), None, "nothing of it is here");
        // Neither a term that begins nor one part of two makes it a value, whichever comes first.
        p.apply(at(2), &record(RecordKind::TermStart, 6, b"", b""), &mut space);
        let keys = [0, 1].map(|index| chunk_key(Offset(7), index));
        p.apply(at(3), &record(RecordKind::Chunk, 7, &keys[0], b"a"), &mut space);
        assert_eq!(places(&p), None, "the end of it is missing");
        let entry = p.live_entry(b"k", WallTime(0)).unwrap();
        assert!(p.may_be_completed(&entry), "the entry that made it a value is not here yet");
        let mut other = Partition::new(PartitionId(0));
        other.merge(at(1), &Record { flags: MERGED, ..put }, &mut space);
        other.apply(at(4), &record(RecordKind::Chunk, 8, &keys[1], b"b"), &mut space);
        assert_eq!(places(&other), None, "the beginning of it is missing");
        let entry = other.live_entry(b"k", WallTime(0)).unwrap();
        assert!(other.may_be_completed(&entry), "the log is behind the state");
        other.jump(Offset(12), Term(1), &mut space);
        assert_eq!(places(&other), None);
        assert!(!other.may_be_completed(&entry), "it goes on behind the state, without the rest");
        p.apply(at(4), &record(RecordKind::Chunk, 8, &keys[1], b"b"), &mut space);
        assert_eq!(places(&p), Some(vec![at(3), at(4)]));
        p.apply(at(5), &put, &mut space);
        assert_eq!(places(&p), Some(vec![at(3), at(4)]));
        let mut live = Vec::new();
        p.live_places(|place| live.push(place));
        live.sort();
        assert_eq!(live, [at(3), at(4), at(5)]);
    }
}
