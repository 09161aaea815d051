//! A shard's state as checkpoint pieces, and back.
//!
//! Pieces are made over many turns while writes go on ("fuzzy"): each piece is consistent in
//! itself, and replaying the log from the checkpoint's beginning repairs the rest, because folding
//! a record that is already reflected changes nothing. A topic partition's bounds go into the same
//! piece as its last batches, so that no batch can fall between the two.
//!
//! Piece: tag u8, then little-endian fields:
//! - 1 partition: id u32, term u64, log_end u64, expired_to u64, sessions u32 x { id u64, n u32 x {
//!   sequence u64, offset u64, kind u8, a u64, b u32, c u32 } }, uploads u32 x { id u64, version
//!   u64, n u32 x location }
//! - 2 keys: partition u32, then until the end { key (u32 length), location, version u64, expires
//!   u64, flags u8 }
//! - 3 topic batches: partition u32, topic u32, index u32, last u8, [start u64, end u64 when
//!   last], then until the end { first u64, count u32, time u64, location }
//! - 4 metadata: [`Meta::encode`]
//!
//! location: segment u32, pos u32, len u32.

use ironring_core::{Offset, PartitionId, SegmentId, SessionId, Term, TopicId, WallTime};
use ironring_log::Location;
use ironring_log::index::Entry;

use super::fields::{Malformed, Reader, Writer};
use super::meta::Meta;
use super::models::Models;
use super::partition::{Partition, Space, TOMBSTONE};
use super::sessions::{Outcome, Remembered};
use super::topics::Batch;

/// A piece is closed when it holds this many bytes.
const PIECE_BYTES: usize = 128 << 10;

/// How far the picture has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Meta,
    Header,
    /// Keys greater than this (all, when `None`).
    Keys(Option<Vec<u8>>),
    /// Batches of topic partitions from (topic, index, first offset).
    Topics(TopicId, u32, u64),
    Done,
}

/// Walks a shard's state, piece by piece.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    partition: usize,
    stage: Stage,
}

impl Cursor {
    /// Appends the next piece; false when the picture was complete already.
    pub fn next_piece(&mut self, models: &Models, out: &mut Vec<u8>) -> bool {
        loop {
            if self.stage == Stage::Meta {
                self.stage = Stage::Header;
                if models.holds_meta() {
                    out.push(4);
                    models.appended_meta.encode(out);
                    return true;
                }
            }
            let Some(p) = models.iter().nth(self.partition) else {
                self.stage = Stage::Done;
                return false;
            };
            let made = match std::mem::take(&mut self.stage) {
                Stage::Meta | Stage::Header => {
                    header_piece(p, out);
                    self.stage = Stage::Keys(None);
                    true
                }
                Stage::Keys(after) => self.keys_piece(p, after, out),
                Stage::Topics(topic, index, first) => {
                    self.topic_piece(p, (topic, index), first, out)
                }
                Stage::Done => return false,
            };
            if made {
                return true;
            }
        }
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
            self.stage = Stage::Header;
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
    w.u8(1);
    w.u32(p.id.0);
    w.u64(p.term.0);
    w.u64(p.log_end.0);
    w.u64(p.sessions.expired_to().0);
    let sessions = p.sessions.export();
    w.u32(sessions.len() as u32);
    for (id, recent) in sessions {
        w.u64(id.0);
        w.u32(recent.len() as u32);
        for r in recent {
            w.u64(r.sequence);
            w.u64(r.offset.0);
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
    }
    let uploads: Vec<_> = p.large.iter().collect();
    w.u32(uploads.len() as u32);
    for (id, version, chunks) in uploads {
        w.u64(id.0);
        w.u64(version.0);
        w.u32(chunks.len() as u32);
        for at in chunks {
            location(&mut w, *at);
        }
    }
}

/// Folds one piece into a shard's state. Pieces come in the order they were made.
pub fn restore_piece(models: &mut Models, piece: &[u8]) -> Result<(), Malformed> {
    let mut r = Reader::new(piece);
    match r.u8()? {
        1 => restore_header(models, &mut r)?,
        2 => {
            let id = PartitionId(r.u32()?);
            let mut space = std::mem::take(&mut models.space);
            let p = models.owned(id)?;
            while !r.is_empty() {
                let key = r.bytes()?;
                let location = read_location(&mut r)?;
                let version = Offset(r.u64()?);
                let expires = WallTime(r.u64()?);
                let flags = r.u8()?;
                p.keys.insert(key, Entry { location, version, expires, flags });
                space.push(Space::Live(location));
            }
            models.space = space;
        }
        3 => restore_topic(models, &mut r)?,
        4 => {
            models.appended_meta = Meta::decode(&piece[1..])?;
            return Ok(());
        }
        _ => return Err(Malformed),
    }
    r.end()
}

fn restore_header(models: &mut Models, r: &mut Reader<'_>) -> Result<(), Malformed> {
    let id = PartitionId(r.u32()?);
    let mut space = std::mem::take(&mut models.space);
    let p = models.owned(id)?;
    p.term = Term(r.u64()?);
    p.log_end = Offset(r.u64()?);
    let expired_to = SessionId(r.u64()?);
    for _ in 0..r.u32()? {
        let session = SessionId(r.u64()?);
        for _ in 0..r.u32()? {
            let (sequence, offset) = (r.u64()?, Offset(r.u64()?));
            let (kind, a, b, c) = (r.u8()?, r.u64()?, r.u32()?, r.u32()?);
            let outcome = match kind {
                0 => Outcome::Written,
                1 => Outcome::ConditionFailed(Offset(a)),
                2 => Outcome::Appended { index: c, first: a, count: b },
                _ => return Err(Malformed),
            };
            p.sessions.fold(session, Remembered { sequence, offset, outcome });
        }
    }
    p.sessions.set_expired_to(expired_to);
    for _ in 0..r.u32()? {
        let (upload, version) = (Offset(r.u64()?), Offset(r.u64()?));
        for index in 0..r.u32()? {
            let at = read_location(r)?;
            if at.len > 0 {
                p.large.set_chunk(upload, index, at);
                space.push(Space::Live(at));
            }
        }
        if version != Offset::NONE {
            p.large.finish(upload, version);
        }
    }
    models.space = space;
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
