//! What a committed record, or part of a state, does to the state. Which records are in the log and which
//! of them are committed is the business of the parent.

use ironring_core::{Offset, WallTime};
use ironring_log::index::Entry;
use ironring_log::{Location, Record, RecordKind};

use super::{CHUNKED, Partition, Space, TOMBSTONE};
use crate::shard::fields::Malformed;
use crate::shard::names::{ChunkedBody, chunk_name, topic_name};
use crate::shard::pending::receipt_of;
use crate::shard::topics::Batch;

impl Partition {
    /// Applies a committed record, or part of a state. A record that is older than the state changes nothing.
    pub fn apply(&mut self, at: Location, record: &Record<'_>, space: &mut Vec<Space>) {
        if let Some(receipt) = receipt_of(record) {
            self.sessions.fold(record.session, receipt);
        }
        match record.kind {
            RecordKind::Put => self.fold_put(at, record, 0, space),
            RecordKind::PutChunked => self.fold_put_chunked(at, record, space),
            RecordKind::Delete => {
                space.push(Space::Dead(at));
                self.fold_delete(at, record, space);
            }
            RecordKind::Chunk => match chunk_name(record.key) {
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
            RecordKind::TermStart => {
                space.push(Space::Dead(at));
                // Only the leader of an earlier term could have finished them.
                self.abort_uploads_before(record.offset, space);
            }
            RecordKind::UploadAbort => {
                space.push(Space::Dead(at));
                if let Ok((upload, _)) = chunk_name(record.key) {
                    space.extend(self.large.abort(upload).into_iter().map(Space::Dead));
                }
            }
            RecordKind::Promise
            | RecordKind::Watermark
            | RecordKind::Cut
            | RecordKind::Adopt
            | RecordKind::State
            | RecordKind::Jump
            | RecordKind::Damaged
            | RecordKind::Repaired
            | RecordKind::SessionMark
            | RecordKind::Meta
            | RecordKind::Raft
            | RecordKind::Batch => {
                space.push(Space::Dead(at));
            }
        }
    }

    /// Forgets the uploads that began before `offset` and are no value.
    fn abort_uploads_before(&mut self, offset: Offset, space: &mut Vec<Space>) {
        let unfinished = |&(upload, version, _): &(Offset, Offset, &[Location])| {
            version == Offset::NONE && upload < offset
        };
        let gone: Vec<Offset> = self.large.iter().filter(unfinished).map(|u| u.0).collect();
        for upload in gone {
            space.extend(self.large.abort(upload).into_iter().map(Space::Dead));
        }
    }

    fn fold_put(&mut self, at: Location, record: &Record<'_>, flags: u8, space: &mut Vec<Space>) {
        let entry = Entry { location: at, version: record.offset, expires: record.expires, flags };
        match self.keys.insert(record.key, entry) {
            Some(old) if old.version > record.offset || is_delete_of(&old, record) => {
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
        let is_current = |e: Entry| e.version == record.offset && e.flags & CHUNKED != 0;
        if self.keys.get(record.key).is_some_and(is_current) {
            self.large.finish(body.upload, record.offset, body.chunks);
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
            // Also a value of the same version: see `is_delete_of`.
            Some(old) => self.superseded(&old, space),
            None => {}
        }
        if self.recovering || self.repairing {
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

    /// What an entry that is replaced or removed leaves behind.
    pub fn superseded(&mut self, old: &Entry, space: &mut Vec<Space>) {
        if old.flags & TOMBSTONE == 0 {
            space.push(Space::Dead(old.location));
        }
        if old.flags & CHUNKED != 0 {
            space.extend(self.large.remove(old.version).into_iter().map(Space::Dead));
        }
    }
}

/// Whether the value of a record was deleted with its own version. What a leader's state does not have is
/// deleted at the last offset before the state's end, which may be that of the value.
fn is_delete_of(entry: &Entry, put: &Record<'_>) -> bool {
    entry.version == put.offset && entry.flags & TOMBSTONE != 0
}
