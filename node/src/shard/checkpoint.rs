//! A shard's state as checkpoint pieces, and back.
//!
//! Pieces are made over many turns while writes go on ("fuzzy"): each piece is consistent in
//! itself, and replaying the log from the checkpoint's beginning repairs the rest, because folding
//! a record that is already reflected changes nothing. A topic partition's bounds go into the same
//! piece as its last batches, so that no batch can fall between the two.
//!
//! Piece: tag u8, then little-endian fields:
//! - 8 partition: id u32, life u64 (2^64 - 1: none), term u64, applied_end u64, log_end u64, then until
//!   the end { term u64, first offset u64 }. As it was when the picture began; they come first
//! - 9 damaged: partition u32, offset u64: something before it cannot be read; and u8 1 when the copy has
//!   something else than most voters. Behind its partition's piece, and only while that is so
//! - 2 keys: partition u32, then until the end { key (u32 length), location, version u64, expires
//!   u64, flags u8 }
//! - 3 topic batches: partition u32, topic u32, index u32, last u8, [start u64, end u64 when
//!   last], then until the end { first u64, count u32, time u64, location }
//! - 4 metadata: last u8, then a part of [`Meta::encode`], which was made when the picture began
//! - 5 sessions: partition u32, expired_to u64, then until the end { id u64, n u32 x { sequence u64,
//!   offset u64, term u64, kind u8, a u64, b u32, c u32 } }. `expired_to` is in every one, because a
//!   session may be forgotten between two
//! - 6 uploads: partition u32, then until the end { id u64, version u64, n u32 x location, of length 0
//!   where a chunk has not come yet }
//! - 7 pending records: partition u32, then until the end { kind u8, flags u8, term u64, offset u64,
//!   session u64, sequence u64, time u64, expires u64, key (u32 length), body (u32 length),
//!   location }. Those there were when the picture began: replay begins behind them. They come
//!   last, because other pieces may be older than what they say
//!
//! location: segment u32, pos u32, len u32.

use std::collections::VecDeque;

use ironring_core::limits::KEY_BYTES_MAX;
use ironring_core::{Offset, PartitionId, SegmentId, SessionId, Term, TopicId, WallTime};
use ironring_log::index::Entry;
use ironring_log::{Location, Record, RecordKind};
use ironring_ring::replication::TermStarts;

use super::fields::{Malformed, Reader, Writer};
use super::meta::Meta;
use super::models::Models;
use super::partition::{DISTRUSTED, Partition, Space, TOMBSTONE};
use super::pending::PendingRecord;
use super::sessions::{Outcome, Remembered};
use super::topics::Batch;

/// A piece is closed when it holds this many bytes.
const PIECE_BYTES: usize = 128 << 10;

/// The life of a replica that never was.
const NO_LIFE: u64 = u64::MAX;

/// How far the picture has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Begin,
    /// The encoded metadata, and how much of them was told.
    Meta(Vec<u8>, usize),
    Headers,
    Partition,
    /// Sessions with greater ids.
    Sessions(Option<SessionId>),
    /// Uploads with greater ids.
    Uploads(Offset),
    /// Keys greater than this (all, when `None`).
    Keys(Option<Vec<u8>>),
    /// Batches of topic partitions from (topic, index, first offset).
    Topics(TopicId, u32, u64),
    /// The pieces of pending records that were not told yet.
    Pending,
    Done,
}

/// Walks a shard's state, piece by piece.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    partition: usize,
    stage: Stage,
    headers: VecDeque<Vec<u8>>,
    pending: VecDeque<Vec<u8>>,
}

impl Cursor {
    /// A picture that begins.
    #[must_use]
    pub fn begin(models: &Models) -> Cursor {
        let mut cursor = Cursor::default();
        for p in models.iter() {
            let mut header = Vec::new();
            header_piece(p, &mut header);
            cursor.headers.push_back(header);
            if let Some(below) = p.hurt {
                let mut damaged = Vec::new();
                let mut w = Writer(&mut damaged);
                w.u8(9);
                w.u32(p.id.0);
                w.u64(below.0);
                if p.distrusted {
                    w.u8(DISTRUSTED);
                }
                cursor.headers.push_back(damaged);
            }
            let mut piece = Vec::new();
            for record in p.pending.iter() {
                if piece.is_empty() {
                    let mut w = Writer(&mut piece);
                    w.u8(7);
                    w.u32(p.id.0);
                }
                pending_record(&mut Writer(&mut piece), p.id, record);
                if piece.len() >= PIECE_BYTES {
                    cursor.pending.push_back(std::mem::take(&mut piece));
                }
            }
            if !piece.is_empty() {
                cursor.pending.push_back(piece);
            }
        }
        cursor
    }

    /// Appends the next piece; false when the picture was complete already.
    pub fn next_piece(&mut self, models: &Models, out: &mut Vec<u8>) -> bool {
        loop {
            let stage = std::mem::take(&mut self.stage);
            let stage = match stage {
                Stage::Begin if models.holds_meta() => {
                    let mut bytes = Vec::new();
                    models.appended_meta.encode(&mut bytes);
                    Stage::Meta(bytes, 0)
                }
                Stage::Begin => Stage::Headers,
                stage => stage,
            };
            if let Stage::Meta(bytes, told) = stage {
                let end = bytes.len().min(told + PIECE_BYTES);
                let last = end == bytes.len();
                out.push(4);
                out.push(u8::from(last));
                out.extend_from_slice(&bytes[told..end]);
                self.stage = if last { Stage::Headers } else { Stage::Meta(bytes, end) };
                return true;
            }
            if stage == Stage::Headers {
                match self.headers.pop_front() {
                    Some(piece) => {
                        self.stage = Stage::Headers;
                        out.extend_from_slice(&piece);
                        return true;
                    }
                    None => self.stage = Stage::Partition,
                }
                continue;
            }
            let Some(p) = models.iter().nth(self.partition) else {
                let Some(piece) = self.pending.pop_front() else {
                    self.stage = Stage::Done;
                    return false;
                };
                self.stage = Stage::Pending;
                out.extend_from_slice(&piece);
                return true;
            };
            let made = match stage {
                Stage::Partition => self.sessions_piece(p, None, out),
                Stage::Sessions(after) => self.sessions_piece(p, after, out),
                Stage::Uploads(after) => self.uploads_piece(p, after, out),
                Stage::Keys(after) => self.keys_piece(p, after, out),
                Stage::Topics(topic, index, first) => {
                    self.topic_piece(p, (topic, index), first, out)
                }
                Stage::Begin | Stage::Meta(..) | Stage::Headers | Stage::Pending | Stage::Done => {
                    return false;
                }
            };
            if made {
                return true;
            }
        }
    }

    fn sessions_piece(
        &mut self,
        p: &Partition,
        after: Option<SessionId>,
        out: &mut Vec<u8>,
    ) -> bool {
        let mut w = Writer(out);
        w.u8(5);
        w.u32(p.id.0);
        self.stage = match write_sessions(&mut w, p, after) {
            Some(last) => Stage::Sessions(Some(last)),
            None => Stage::Uploads(Offset::NONE),
        };
        true
    }

    fn uploads_piece(&mut self, p: &Partition, after: Offset, out: &mut Vec<u8>) -> bool {
        let begin = out.len();
        let mut w = Writer(out);
        w.u8(6);
        w.u32(p.id.0);
        let empty = w.0.len();
        self.stage = Stage::Keys(None);
        for (id, version, chunks) in p.large.iter().filter(|(id, _, _)| *id > after) {
            w.u64(id.0);
            w.u64(version.0);
            w.u32(chunks.len() as u32);
            for at in chunks {
                location(&mut w, *at);
            }
            if w.0.len() - begin >= PIECE_BYTES {
                self.stage = Stage::Uploads(id);
                break;
            }
        }
        if out.len() == empty {
            out.truncate(begin);
            return false;
        }
        true
    }

    fn keys_piece(&mut self, p: &Partition, after: Option<Vec<u8>>, out: &mut Vec<u8>) -> bool {
        let begin = out.len();
        let mut w = Writer(out);
        w.u8(2);
        w.u32(p.id.0);
        let empty = w.0.len();
        let mut last = None;
        let mut full = false;
        for (key, entry) in p.keys.range_after(after.as_deref()) {
            if entry.flags & TOMBSTONE == 0 {
                w.bytes(key);
                location(&mut w, entry.location);
                w.u64(entry.version.0);
                w.u64(entry.expires.0);
                w.u8(entry.flags);
            }
            if w.0.len() - begin >= PIECE_BYTES {
                last = Some(key.to_vec());
                full = true;
                break;
            }
        }
        self.stage = if full { Stage::Keys(last) } else { Stage::Topics(TopicId(0), 0, 0) };
        if out.len() == empty {
            out.truncate(begin);
            return false;
        }
        true
    }

    fn topic_piece(
        &mut self,
        p: &Partition,
        from: (TopicId, u32),
        first: u64,
        out: &mut Vec<u8>,
    ) -> bool {
        let Some((&(topic, index), state)) = p.topics.range(from..).next() else {
            self.partition += 1;
            self.stage = Stage::Partition;
            return false;
        };
        let first = if (topic, index) == from { first } else { 0 };
        let mut body = Vec::new();
        let mut w = Writer(&mut body);
        let mut resume = None;
        for batch in state.batches_from(first) {
            if w.0.len() >= PIECE_BYTES {
                resume = Some(batch.first);
                break;
            }
            w.u64(batch.first);
            w.u32(batch.count);
            w.u64(batch.time.0);
            location(&mut w, batch.at);
        }
        let mut w = Writer(out);
        w.u8(3);
        w.u32(p.id.0);
        w.u32(topic.0);
        w.u32(index);
        w.u8(u8::from(resume.is_none()));
        if resume.is_none() {
            w.u64(state.start());
            w.u64(state.end());
        }
        out.extend_from_slice(&body);
        self.stage = match resume {
            Some(first) => Stage::Topics(topic, index, first),
            None if index == u32::MAX => Stage::Topics(TopicId(topic.0 + 1), 0, 0),
            None => Stage::Topics(topic, index + 1, 0),
        };
        true
    }
}

fn header_piece(p: &Partition, out: &mut Vec<u8>) {
    let mut w = Writer(out);
    w.u8(8);
    w.u32(p.id.0);
    w.u64(p.life.unwrap_or(NO_LIFE));
    w.u64(p.term.0);
    w.u64(p.applied_end.0);
    w.u64(p.log_end.0);
    for (term, first) in p.terms.pairs() {
        w.u64(term.0);
        w.u64(first.0);
    }
}

/// Folds one piece into a shard's state. Pieces come in the order they were made.
pub fn restore_piece(models: &mut Models, piece: &[u8]) -> Result<(), Malformed> {
    let mut r = Reader::new(piece);
    match r.u8()? {
        2 => {
            let id = PartitionId(r.u32()?);
            let mut space = std::mem::take(&mut models.space);
            let p = models.owned(id)?;
            while !r.is_empty() {
                let key = r.bytes()?;
                if key.len() > KEY_BYTES_MAX {
                    return Err(Malformed);
                }
                let location = read_location(&mut r)?;
                let version = Offset(r.u64()?);
                let expires = WallTime(r.u64()?);
                let flags = r.u8()?;
                p.keys.insert(key, Entry { location, version, expires, flags });
                p.note_in_state(version);
                space.push(Space::Live(location));
            }
            models.space = space;
        }
        3 => restore_topic(models, &mut r)?,
        4 => {
            let last = r.u8()? == 1;
            models.meta_bytes.extend_from_slice(&piece[2..]);
            if last {
                models.appended_meta = Meta::decode(&std::mem::take(&mut models.meta_bytes))?;
            }
            return Ok(());
        }
        5 => restore_sessions(models, &mut r)?,
        6 => restore_uploads(models, &mut r)?,
        7 => restore_pending(models, &mut r)?,
        8 => restore_header(models, &mut r)?,
        9 => {
            let p = models.owned(PartitionId(r.u32()?))?;
            p.hurt = Some(Offset(r.u64()?));
            p.distrusted = !r.is_empty() && r.u8()? == DISTRUSTED;
        }
        _ => return Err(Malformed),
    }
    r.end()
}

fn pending_record(w: &mut Writer<'_>, partition: PartitionId, pending: &PendingRecord) {
    let record = pending.record(partition);
    w.u8(record.kind as u8);
    w.u8(record.flags);
    w.u64(record.term.0);
    w.u64(record.offset.0);
    w.u64(record.session.0);
    w.u64(record.sequence);
    w.u64(record.time.0);
    w.u64(record.expires.0);
    w.bytes(record.key);
    w.bytes(record.body);
    location(w, pending.at);
}

/// They were durable before the checkpoint counted.
fn restore_pending(models: &mut Models, r: &mut Reader<'_>) -> Result<(), Malformed> {
    let partition = PartitionId(r.u32()?);
    let p = models.owned(partition)?;
    while !r.is_empty() {
        let kind = RecordKind::from_u8(r.u8()?).ok_or(Malformed)?;
        let flags = r.u8()?;
        let (term, offset) = (Term(r.u64()?), Offset(r.u64()?));
        let (session, sequence) = (SessionId(r.u64()?), r.u64()?);
        let (time, expires) = (WallTime(r.u64()?), WallTime(r.u64()?));
        let (key, body) = (r.bytes()?, r.bytes()?);
        let at = read_location(r)?;
        if key.len() > KEY_BYTES_MAX || offset == Offset::NONE || offset == Offset(u64::MAX) {
            return Err(Malformed);
        }
        let record = Record {
            kind,
            flags,
            partition,
            term,
            offset,
            session,
            sequence,
            time,
            expires,
            key,
            body,
        };
        if offset >= p.applied_end && offset < p.log_end {
            if p.pending.end().is_some_and(|end| end != offset) {
                return Err(Malformed);
            }
            p.restore_pending(at, &record);
        }
    }
    Ok(())
}

fn restore_header(models: &mut Models, r: &mut Reader<'_>) -> Result<(), Malformed> {
    let id = PartitionId(r.u32()?);
    let p = models.owned(id)?;
    let life = r.u64()?;
    p.life = (life != NO_LIFE).then_some(life);
    p.term = Term(r.u64()?);
    p.applied_end = Offset(r.u64()?);
    p.log_end = Offset(r.u64()?);
    let mut pairs: Vec<(Term, Offset)> = Vec::new();
    while !r.is_empty() {
        let pair = (Term(r.u64()?), Offset(r.u64()?));
        if pairs.last().is_some_and(|last| last.0 >= pair.0 || last.1 >= pair.1) {
            return Err(Malformed);
        }
        pairs.push(pair);
    }
    if p.applied_end < Offset::FIRST || p.applied_end > p.log_end {
        return Err(Malformed);
    }
    p.noted = p.applied_end;
    p.terms = TermStarts::from_pairs(pairs);
    p.entries.begin(p.log_end);
    Ok(())
}

/// Writes the sessions of a partition behind `after`: `expired_to`, then each with its receipts. Returns
/// the last one, when there may be more.
pub fn write_sessions(
    w: &mut Writer<'_>,
    p: &Partition,
    after: Option<SessionId>,
) -> Option<SessionId> {
    let begin = w.0.len();
    w.u64(p.sessions.expired_to().0);
    for (id, recent) in p.sessions.export_after(after) {
        w.u64(id.0);
        w.u32(recent.len() as u32);
        for r in recent {
            w.u64(r.sequence);
            w.u64(r.offset.0);
            w.u64(r.term.0);
            let (kind, a, b, c) = match r.outcome {
                Outcome::Written => (0, 0, 0, 0),
                Outcome::ConditionFailed(version) => (1, version.0, 0, 0),
                Outcome::Appended { index, first, count } => (2, first, count, index),
            };
            w.u8(kind);
            w.u64(a);
            w.u32(b);
            w.u32(c);
        }
        if w.0.len() - begin >= PIECE_BYTES {
            return Some(id);
        }
    }
    None
}

/// The opposite of [`write_sessions`], into a partition.
pub fn read_sessions(r: &mut Reader<'_>, p: &mut Partition) -> Result<(), Malformed> {
    let expired_to = SessionId(r.u64()?);
    while !r.is_empty() {
        let session = SessionId(r.u64()?);
        for _ in 0..r.u32()? {
            let (sequence, offset, term) = (r.u64()?, Offset(r.u64()?), Term(r.u64()?));
            let (kind, a, b, c) = (r.u8()?, r.u64()?, r.u32()?, r.u32()?);
            let outcome = match kind {
                0 => Outcome::Written,
                1 => Outcome::ConditionFailed(Offset(a)),
                2 => Outcome::Appended { index: c, first: a, count: b },
                _ => return Err(Malformed),
            };
            p.sessions.restore(session, Remembered { sequence, offset, term, outcome });
            p.note_in_state(offset);
        }
    }
    p.sessions.set_expired_to(expired_to);
    Ok(())
}

fn restore_sessions(models: &mut Models, r: &mut Reader<'_>) -> Result<(), Malformed> {
    let id = PartitionId(r.u32()?);
    read_sessions(r, models.owned(id)?)
}

fn restore_uploads(models: &mut Models, r: &mut Reader<'_>) -> Result<(), Malformed> {
    let id = PartitionId(r.u32()?);
    let p = models.owned(id)?;
    while !r.is_empty() {
        let (upload, version) = (Offset(r.u64()?), Offset(r.u64()?));
        p.note_in_state(upload);
        let chunks = r.u32()?;
        for index in 0..chunks {
            let at = read_location(r)?;
            if at.len > 0 {
                p.large.set_chunk(upload, index, at);
            }
        }
        if version != Offset::NONE {
            p.large.finish(upload, version, chunks);
        }
    }
    Ok(())
}

fn restore_topic(models: &mut Models, r: &mut Reader<'_>) -> Result<(), Malformed> {
    let id = PartitionId(r.u32()?);
    let name = (TopicId(r.u32()?), r.u32()?);
    let bounds = if r.u8()? == 1 { Some((r.u64()?, r.u64()?)) } else { None };
    let mut space = std::mem::take(&mut models.space);
    let p = models.owned(id)?;
    let topic = p.topics.entry(name).or_default();
    while !r.is_empty() {
        let batch = Batch {
            first: r.u64()?,
            count: r.u32()?,
            time: WallTime(r.u64()?),
            at: read_location(r)?,
        };
        if batch.first.checked_add(u64::from(batch.count)).is_none() {
            models.space = space;
            return Err(Malformed);
        }
        space.push(Space::Live(batch.at));
        if let Some(dead) = topic.put(batch) {
            space.push(Space::Dead(dead));
        }
    }
    if let Some((start, end)) = bounds {
        topic.trim(start, |at| space.push(Space::Dead(at)));
        topic.restore_bounds(start, end);
    }
    models.space = space;
    Ok(())
}

fn location(w: &mut Writer<'_>, at: Location) {
    w.u32(at.segment.0);
    w.u32(at.pos);
    w.u32(at.len);
}

fn read_location(r: &mut Reader<'_>) -> Result<Location, Malformed> {
    Ok(Location { segment: SegmentId(r.u32()?), pos: r.u32()?, len: r.u32()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ironring_log::CheckpointSource;
    use ironring_net::message::Retention;

    /// Everything a partition can hold, more of each than fits one piece.
    fn crowded() -> Models {
        let mut models = Models::new(0, 2, 1 << 20);
        let p = models.partition(PartitionId(1));
        let at = |n: u64| Location { segment: SegmentId(1), pos: n as u32 * 64, len: 64 };
        for session in 1..=2500u64 {
            for sequence in 1..=64 {
                let offset = Offset(session * 64 + sequence);
                let (term, outcome) = (Term(3), Outcome::Written);
                p.sessions.fold(SessionId(session), Remembered { sequence, offset, term, outcome });
            }
        }
        for upload in 1..=5000 {
            p.large.set_chunk(Offset(upload), 0, at(upload));
            p.large.set_chunk(Offset(upload), 1, at(upload + 1));
            p.large.finish(Offset(upload), Offset(upload + 10_000), 2);
        }
        for n in 0..10_000u64 {
            let entry =
                Entry { location: at(n), version: Offset(n + 1), expires: WallTime(0), flags: 0 };
            p.keys.insert(format!("key-{n:08}").as_bytes(), entry);
            let batch = Batch { first: n * 3, count: 3, time: WallTime(n), at: at(n) };
            p.topics.entry((TopicId(1), 0)).or_default().put(batch);
        }
        p.log_end = Offset(1 << 20);
        p.applied_end = p.log_end;
        p.terms = TermStarts::from_pairs(vec![(Term(1), Offset(1)), (Term(3), Offset(70))]);
        p.life = Some(4);
        for n in 0..4000 {
            let name = format!("topic-{n:0>100}");
            let made = models.appended_meta.create(&name, 1, Retention::default(), WallTime(1));
            models.appended_meta.apply(&made.unwrap());
        }
        models
    }

    #[test]
    fn pieces_are_bounded_and_give_the_state_back() {
        let mut models = crowded();
        let mut again = Models::new(0, 2, 1 << 20);
        models.begin();
        let mut piece = Vec::new();
        let mut pieces = 0;
        while models.next_piece(&mut piece) {
            assert!(piece.len() < 2 * PIECE_BYTES, "a piece of {} bytes", piece.len());
            restore_piece(&mut again, &piece).unwrap();
            piece.clear();
            pieces += 1;
        }
        assert!(pieces > 40, "only {pieces} pieces: the state does not test the bounds");
        assert_eq!(again.appended_meta, models.appended_meta);
        let (a, b) = (models.peek(PartitionId(1)), again.peek(PartitionId(1)));
        assert_eq!((a.log_end, a.applied_end, a.life), (b.log_end, b.applied_end, b.life));
        assert_eq!(a.terms, b.terms);
        assert!(a.keys.range_after(None).eq(b.keys.range_after(None)));
        assert!(a.large.iter().eq(b.large.iter()));
        assert!(a.sessions.export_after(None).eq(b.sessions.export_after(None)));
        let name = (TopicId(1), 0);
        assert!(a.topics[&name].batches().eq(b.topics[&name].batches()));
        assert_eq!(b.topics[&name].end(), 30_000);
    }

    /// As a follower has it that is being filled: the log brings the rest.
    #[test]
    fn a_large_value_that_is_not_all_here_is_restored_as_such() {
        use crate::shard::names::{ChunkedBody, chunk_key};
        use crate::shard::partition::{CHUNKED, MERGED};
        let mut models = Models::new(0, 1, 0);
        let at = |n: u32| Location { segment: SegmentId(1), pos: n * 64, len: 64 };
        let body = ChunkedBody { upload: Offset(7), chunks: 3, value_bytes: 700 << 10 }.encode();
        let (key, mut space) = (chunk_key(Offset(7), 0), Vec::new());
        let put = Record {
            kind: RecordKind::PutChunked,
            flags: MERGED,
            partition: PartitionId(0),
            term: Term(1),
            offset: Offset(9),
            session: SessionId::NONE,
            sequence: 0,
            time: WallTime(0),
            expires: WallTime(0),
            key: b"k",
            body: &body,
        };
        let chunk = Record { kind: RecordKind::Chunk, offset: Offset(7), key: &key, ..put };
        let p = models.partition(PartitionId(0));
        p.merge(at(1), &chunk, &mut space);
        p.merge(at(2), &put, &mut space);
        let mut again = restored(&mut models);
        let p = again.partition(PartitionId(0));
        let entry = p.keys.get(b"k").unwrap();
        assert_eq!((entry.flags & CHUNKED, p.value_places(&entry)), (CHUNKED, None));
        for index in [1, 2] {
            let key = chunk_key(Offset(7), index);
            p.apply(at(3 + index), &Record { key: &key, flags: 0, ..chunk }, &mut space);
        }
        assert_eq!(p.value_places(&entry), Some(&[at(1), at(4), at(5)][..]));
    }

    /// What is known again after a restart, of one partition.
    fn restored(models: &mut Models) -> Models {
        let mut again = Models::new(0, 1, 0);
        models.begin();
        let mut piece = Vec::new();
        while models.next_piece(&mut piece) {
            restore_piece(&mut again, &piece).unwrap();
            piece.clear();
        }
        again
    }

    /// A replica that begins anew while it is being filled knows what of the state is newer than its log.
    #[test]
    fn what_is_ahead_of_the_log_is_known_again() {
        use crate::shard::names::chunk_key;
        use crate::shard::partition::MERGED;
        use crate::shard::partition::tests::{at, record};
        let record = |kind, offset, key| Record { flags: MERGED, ..record(kind, offset, key, b"") };
        let upload = chunk_key(Offset(70), 0);
        let put = record(RecordKind::Put, 50, b"k");
        let receipt =
            Record { session: SessionId(2), sequence: 1, ..record(RecordKind::Put, 90, b"l") };
        let mut ahead = Vec::new();
        for merged in [put, record(RecordKind::Chunk, 70, &upload), receipt] {
            let mut models = Models::new(0, 1, 0);
            let p = models.partition(PartitionId(0));
            p.merge(at(1), &merged, &mut Vec::new());
            if merged.session != SessionId::NONE {
                // Its key was deleted since; the receipt stays.
                p.keys.remove(merged.key);
            }
            let before = p.ahead();
            let after = restored(&mut models).peek(PartitionId(0)).ahead();
            assert_eq!(after, before);
            ahead.push(after);
        }
        assert_eq!(ahead, [Some(Offset(51)), Some(Offset(71)), Some(Offset(91))]);
    }

    #[test]
    fn a_remembered_session_older_than_a_forgotten_one_comes_back() {
        let mut models = Models::new(0, 1, 0);
        let p = models.partition(PartitionId(0));
        let r =
            Remembered { sequence: 1, offset: Offset(5), term: Term(1), outcome: Outcome::Written };
        p.sessions.fold(SessionId(7), r);
        p.sessions.set_expired_to(SessionId(100));
        let mut again = Models::new(0, 1, 0);
        models.begin();
        let mut piece = Vec::new();
        while models.next_piece(&mut piece) {
            restore_piece(&mut again, &piece).unwrap();
            restore_piece(&mut again, &piece).unwrap();
            piece.clear();
        }
        let verdict = again.peek(PartitionId(0)).sessions.judge(SessionId(7), 1, &[]);
        assert_eq!(verdict, super::super::sessions::Verdict::Duplicate(r));
    }
}
