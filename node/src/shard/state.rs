//! What a partition adds up to, as a leader sends it to a follower whose log ends before its own
//! begins.
//!
//! A piece is a list of records as nodes send them: values, chunks and batches with the offsets they
//! always had, and [`RecordKind::State`] records with what no record says. The follower merges them
//! into the state it has, newer versions win, and goes on with the log from the offset where the
//! picture began; entries met again change nothing, as with a checkpoint ([`super::checkpoint`]).
//! What it merges is committed. So a follower that is interrupted has some of its state from later
//! than its log says. It is not elected before it has the entries too, because whoever is has all that
//! are committed; but an operator may let it lead as it is. Then its log goes on behind the newest
//! that it has of the state, so that what it writes is newer. A large value from later may come without its
//! chunks, which the log brings: a read of it is refused until then. It is taken all the same, because
//! the one before it is not in the piece any more: without either, a stale read could be answered with
//! something older than the age that the replica states.
//!
//! Body of a `State` record: tag u8, then
//! - 1 keys: the piece has all keys behind the first and up to the second of two optional keys (u8 0,
//!   or 1 and the key); one that the follower has there and the piece has not was deleted
//! - 2 topic partition: topic u32, index u32, start u64, end u64
//! - 3 sessions: as in a checkpoint piece

use ironring_core::{Offset, SessionId, TopicId};
use ironring_log::Location;

use super::checkpoint::{read_sessions, write_sessions};
use super::fields::{Malformed, Reader, Writer};
use super::partition::{Partition, TOMBSTONE};
use super::topics::TopicPartition;

/// A piece is closed when its records have this many bytes: what a turn of either side can carry
/// without keeping clients waiting.
const PIECE_BYTES: usize = 64 << 10;
/// Keys looked at for the size of all of them.
const SAMPLE_KEYS: usize = 1024;

/// What the next piece is about. Large values' chunks come before the records that name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateCursor {
    /// Chunks of uploads from (upload, chunk) on.
    Chunks(Offset, usize),
    /// Keys greater than this (all, when `None`).
    Keys(Option<Vec<u8>>),
    /// Topic partitions from (topic, index, first offset) on.
    Topics(TopicId, u32, u64),
    /// Sessions with greater ids.
    Sessions(Option<SessionId>),
}

/// A piece: its records' places, and what no record says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatePiece {
    /// Bodies of `State` records, which come before the others.
    pub says: Vec<Vec<u8>>,
    /// The other records.
    pub places: Vec<Location>,
    /// Where the next piece goes on; nothing: this is the last.
    pub next: Option<StateCursor>,
}

impl StateCursor {
    /// A picture that begins.
    #[must_use]
    pub fn begin() -> StateCursor {
        StateCursor::Chunks(Offset::NONE, 0)
    }

    /// The piece at this place. O(its records), or O(topic partitions).
    #[must_use]
    pub fn piece(&self, p: &Partition) -> StatePiece {
        match self {
            StateCursor::Chunks(upload, chunk) => chunks_piece(p, *upload, *chunk),
            StateCursor::Keys(after) => keys_piece(p, after.as_deref()),
            StateCursor::Topics(topic, index, first) => topics_piece(p, (*topic, *index), *first),
            StateCursor::Sessions(after) => {
                let mut body = vec![3];
                let last = write_sessions(&mut Writer(&mut body), p, *after);
                let next = last.map(|last| StateCursor::Sessions(Some(last)));
                StatePiece { says: vec![body], places: Vec::new(), next }
            }
        }
    }
}

/// Bytes a state comes to as it is sent, about: chunks and batches as they are, keys by the mean of the
/// first of them. O(topic partitions and large values).
#[must_use]
pub fn state_bytes(p: &Partition) -> u64 {
    let chunks = p.large.iter().flat_map(|(_, _, chunks)| chunks).map(|at| u64::from(at.len));
    let batches: u64 = p.topics.values().map(TopicPartition::bytes).sum();
    let (mut bytes, mut keys) = (0, 0);
    for (_, entry) in p.keys.range_after(None).take(SAMPLE_KEYS) {
        bytes += u64::from(entry.location.len);
        keys += 1;
    }
    let all = p.keys.len() as u64;
    let of_keys = (u128::from(bytes) * u128::from(all)).checked_div(keys).unwrap_or(0) as u64;
    of_keys + chunks.sum::<u64>() + batches
}

fn chunks_piece(p: &Partition, from: Offset, first: usize) -> StatePiece {
    let mut piece = StatePiece { next: Some(StateCursor::Keys(None)), ..StatePiece::default() };
    let mut bytes = 0;
    for (upload, _, chunks) in p.large.iter().filter(|(upload, ..)| *upload >= from) {
        let skip = if upload == from { first } else { 0 };
        for (number, at) in chunks.iter().enumerate().skip(skip).filter(|(_, at)| at.len > 0) {
            if bytes > 0 && bytes + at.len as usize > PIECE_BYTES {
                piece.next = Some(StateCursor::Chunks(upload, number));
                return piece;
            }
            bytes += at.len as usize;
            piece.places.push(*at);
        }
    }
    piece
}

fn keys_piece(p: &Partition, after: Option<&[u8]>) -> StatePiece {
    let mut places = Vec::new();
    let mut bytes = 0;
    let mut last = None;
    for (key, entry) in p.keys.range_after(after) {
        if entry.flags & TOMBSTONE != 0 {
            continue;
        }
        bytes += entry.location.len as usize;
        places.push(entry.location);
        if bytes >= PIECE_BYTES {
            last = Some(key.to_vec());
            break;
        }
    }
    let mut body = vec![1];
    let mut w = Writer(&mut body);
    for bound in [after, last.as_deref()] {
        w.u8(u8::from(bound.is_some()));
        bound.into_iter().for_each(|key| w.bytes(key));
    }
    let next = match last {
        Some(last) => StateCursor::Keys(Some(last)),
        None => StateCursor::Topics(TopicId(0), 0, 0),
    };
    StatePiece { says: vec![body], places, next: Some(next) }
}

fn topics_piece(p: &Partition, from: (TopicId, u32), first: u64) -> StatePiece {
    let mut piece = StatePiece { next: Some(StateCursor::Sessions(None)), ..StatePiece::default() };
    let mut bytes = 0;
    for (&(topic, index), state) in p.topics.range(from..) {
        let mut body = vec![2];
        let mut w = Writer(&mut body);
        w.u32(topic.0);
        w.u32(index);
        w.u64(state.start());
        w.u64(state.end());
        piece.says.push(body);
        let first = if (topic, index) == from { first } else { 0 };
        for batch in state.batches_from(first) {
            if bytes > 0 && bytes + batch.at.len as usize > PIECE_BYTES {
                // Its bounds come with its last batches.
                piece.says.pop();
                piece.next = Some(StateCursor::Topics(topic, index, batch.first));
                return piece;
            }
            bytes += batch.at.len as usize;
            piece.places.push(batch.at);
        }
    }
    piece
}

/// What a `State` record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Says<'a> {
    /// The piece has all keys behind the first and up to the second.
    Keys(Option<&'a [u8]>, Option<&'a [u8]>),
    /// A topic partition's bounds.
    Topic(TopicId, u32, u64, u64),
    /// Receipts of sessions, for [`merge_sessions`].
    Sessions,
}

/// Reads the body of a `State` record.
pub fn read_says(body: &[u8]) -> Result<Says<'_>, Malformed> {
    let mut r = Reader::new(body);
    let says = match r.u8()? {
        1 => {
            let after = if r.u8()? == 1 { Some(r.bytes()?) } else { None };
            let last = if r.u8()? == 1 { Some(r.bytes()?) } else { None };
            Says::Keys(after, last)
        }
        2 => Says::Topic(TopicId(r.u32()?), r.u32()?, r.u64()?, r.u64()?),
        3 => return Ok(Says::Sessions),
        _ => return Err(Malformed),
    };
    r.end()?;
    Ok(says)
}

/// Takes the receipts of a `State` record into a partition.
pub fn merge_sessions(p: &mut Partition, body: &[u8]) -> Result<(), Malformed> {
    let mut r = Reader::new(body.get(1..).ok_or(Malformed)?);
    read_sessions(&mut r, p)
}
