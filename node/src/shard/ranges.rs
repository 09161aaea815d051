//! What is compared of a partition, and what it comes to: parts of it in order, the records of each, and
//! digests of what these say. Pure; which part is next and what a difference means is in [`super::compare`].
//!
//! - A range is at most [`RANGE_BYTES`] or [`RANGE_ITEMS`] records, or one value if that is longer.
//! - What expires soon is left out, and so are receipts of sessions, which replicas forget by
//!   themselves; and uploads that are no value.

use ironring_core::checksum::crc32c;
use ironring_core::{TopicId, WallTime};
use ironring_log::{Location, Record};

use super::fields::{Malformed, Reader, Writer};
use super::partition::{CHUNKED, LOST, Partition, TOMBSTONE};

/// A range is closed when its records have this many bytes.
pub const RANGE_BYTES: u64 = 1 << 20;
/// Or when it has so many.
pub const RANGE_ITEMS: usize = 4096;
/// A replica with so many records in a range is not read further: it differs anyway.
const ITEMS_MAX: usize = 4 * RANGE_ITEMS;
/// Keys that expire within that time are left out: clocks of nodes differ.
pub const EXPIRY_MARGIN_MS: u64 = 600_000;

/// Part of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Range {
    /// Keys greater than the first, up to the second (all behind, when `None`).
    Keys(Option<Vec<u8>>, Option<Vec<u8>>),
    /// Batches of a topic partition that begin at these offsets: from the first on, before the second.
    Topic(TopicId, u32, u64, u64),
}

impl Range {
    /// The bytes that name it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut w = Writer(&mut out);
        match self {
            Range::Keys(after, last) => {
                w.u8(1);
                for bound in [after, last] {
                    w.u8(u8::from(bound.is_some()));
                    bound.iter().for_each(|key| w.bytes(key));
                }
            }
            Range::Topic(topic, index, from, to) => {
                w.u8(2);
                w.u32(topic.0);
                w.u32(*index);
                w.u64(*from);
                w.u64(*to);
            }
        }
        out
    }

    /// The range that bytes name.
    ///
    /// # Errors
    /// They name none.
    pub fn decode(bytes: &[u8]) -> Result<Range, Malformed> {
        let mut r = Reader::new(bytes);
        let range = match r.u8()? {
            1 => {
                let mut bound = || {
                    Ok(match r.u8()? {
                        0 => None,
                        1 => Some(r.bytes()?.to_vec()),
                        _ => return Err(Malformed),
                    })
                };
                Range::Keys(bound()?, bound()?)
            }
            2 => Range::Topic(TopicId(r.u32()?), r.u32()?, r.u64()?, r.u64()?),
            _ => return Err(Malformed),
        };
        r.end()?;
        Ok(range)
    }

    /// The records of it that `p` has, in order.
    #[must_use]
    pub fn items(&self, p: &Partition, expires_after: WallTime) -> Vec<Item> {
        let mut items = Vec::new();
        match self {
            Range::Keys(after, last) => {
                let within = |key: &[u8]| last.as_deref().is_none_or(|last| key <= last);
                let range = p.keys.range_after(after.as_deref());
                for (key, entry) in range.take_while(|(key, _)| within(key)) {
                    if items.len() >= ITEMS_MAX {
                        break;
                    }
                    if counts(entry.flags, entry.expires, expires_after) {
                        push_key(&mut items, p, key, &entry);
                    }
                }
            }
            Range::Topic(topic, index, from, to) => {
                let Some(found) = p.topics.get(&(*topic, *index)) else { return items };
                let batches = found.batches_from(*from).take_while(|batch| batch.first < *to);
                let item = |batch: &super::topics::Batch| {
                    let mut salt = Mix::default();
                    salt.number(batch.first);
                    salt.number(batch.count.into());
                    Item { at: batch.at, salt: salt.0 }
                };
                items.extend(batches.take(ITEMS_MAX).map(item));
            }
        }
        items
    }
}

/// Whether a key is compared.
fn counts(flags: u8, expires: WallTime, expires_after: WallTime) -> bool {
    flags & TOMBSTONE == 0 && (expires.0 == 0 || expires > expires_after)
}

fn push_key(items: &mut Vec<Item>, p: &Partition, key: &[u8], entry: &ironring_log::index::Entry) {
    let mut salt = Mix::default();
    salt.bytes(key);
    salt.number(entry.version.0);
    salt.number(entry.expires.0);
    items.push(Item { at: entry.location, salt: salt.0 });
    if entry.flags & CHUNKED != 0 {
        let chunks = p.large.chunks(entry.version);
        items.extend(chunks.map(|at| Item { at, salt: entry.version.0 }));
    }
}

/// A record that is compared: where it lies, and what the index says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Where.
    pub at: Location,
    salt: u64,
}

impl Item {
    /// What the record says and what is said of it, in 64 bits. Its place and how it came there do not
    /// count.
    #[must_use]
    pub fn hash(&self, record: &Record<'_>) -> u64 {
        let mut mix = Mix(self.salt);
        // A record that stands for a lost one is not an empty value.
        mix.number(record.kind as u64 | u64::from(record.flags & LOST) << 8);
        for number in [record.offset.0, record.time.0, record.expires.0] {
            mix.number(number);
        }
        mix.bytes(record.key);
        mix.bytes(record.body);
        mix.0
    }
}

/// What a range comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// Records.
    pub items: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What they say, in order.
    pub hash: u64,
}

impl Digest {
    /// Of the hashes of records in order, and their bytes.
    #[must_use]
    pub fn of(hashes: &[u64], bytes: u64) -> Digest {
        let mut mix = Mix::default();
        hashes.iter().for_each(|hash| mix.number(*hash));
        Digest { items: hashes.len() as u64, bytes, hash: mix.0 }
    }
}

/// Mixes what it is told into 64 bits, depending on the order. Not for secrets: nobody chooses what
/// differs.
#[derive(Clone, Copy, Debug, Default)]
struct Mix(u64);

impl Mix {
    fn number(&mut self, number: u64) {
        let mut z = (self.0 ^ number).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        self.0 = z ^ (z >> 31);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        // Two checksums of different kind: one flipped bit changes either, many rarely none.
        let mut sum: u64 = bytes.len() as u64;
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            sum = (sum ^ u64::from_le_bytes(word))
                .wrapping_mul(0x0000_0100_0000_01B3)
                .rotate_left(29);
        }
        self.number(sum);
        self.number(crc32c(bytes).into());
    }
}

/// Where in a partition the next range begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// Keys greater than this.
    Keys(Option<Vec<u8>>),
    /// Topic partitions from this on, at this offset.
    Topics(TopicId, u32, u64),
}

impl Cursor {
    /// At the beginning of a partition.
    pub const BEGIN: Cursor = Cursor::Keys(None);

    /// The next range and where it ends; nothing when the partition has no more. O(its records).
    #[must_use]
    pub fn next(&self, p: &Partition, expires_after: WallTime) -> Option<(Range, Option<Cursor>)> {
        match self {
            Cursor::Keys(after) => Some(keys(p, after.as_deref(), expires_after)),
            Cursor::Topics(topic, index, from) => topic_range(p, (*topic, *index), *from),
        }
    }
}

fn keys(p: &Partition, after: Option<&[u8]>, expires_after: WallTime) -> (Range, Option<Cursor>) {
    let (mut bytes, mut seen, mut items) = (0, 0, Vec::new());
    for (key, entry) in p.keys.range_after(after) {
        let first = items.len();
        if counts(entry.flags, entry.expires, expires_after) {
            push_key(&mut items, p, key, &entry);
        }
        seen += 1;
        bytes += items[first..].iter().map(|item| u64::from(item.at.len)).sum::<u64>();
        if bytes >= RANGE_BYTES || seen >= RANGE_ITEMS {
            let last = Some(key.to_vec());
            return (
                Range::Keys(after.map(<[u8]>::to_vec), last.clone()),
                Some(Cursor::Keys(last)),
            );
        }
    }
    let topics = Cursor::Topics(TopicId(0), 0, 0);
    let next = (!p.topics.is_empty()).then_some(topics);
    (Range::Keys(after.map(<[u8]>::to_vec), None), next)
}

fn topic_range(p: &Partition, from: (TopicId, u32), first: u64) -> Option<(Range, Option<Cursor>)> {
    let (&(topic, index), found) = p.topics.range(from..).next()?;
    let first = if (topic, index) == from { first } else { 0 };
    let mut bytes = 0;
    for (number, batch) in found.batches_from(first).enumerate() {
        bytes += u64::from(batch.at.len);
        if bytes >= RANGE_BYTES || number + 1 >= RANGE_ITEMS {
            let to = batch.first + 1;
            let next = Cursor::Topics(topic, index, to);
            return Some((Range::Topic(topic, index, first, to), Some(next)));
        }
    }
    // To its end and not further: a replica may have another topic partition behind it.
    let next = index.checked_add(1).map(|next| Cursor::Topics(topic, next, 0));
    let more = next.filter(|next| {
        let Cursor::Topics(topic, index, _) = next else { return false };
        p.topics.range((*topic, *index)..).next().is_some()
    });
    Some((Range::Topic(topic, index, first, u64::MAX), more))
}

#[cfg(test)]
mod tests {
    use ironring_core::{Offset, PartitionId, SegmentId, SessionId, Term};
    use ironring_log::RecordKind;
    use ironring_log::index::Entry;

    use super::*;

    const WALL: WallTime = WallTime(1_000_000);

    fn at(pos: u32) -> Location {
        Location { segment: SegmentId(1), pos, len: 300 }
    }

    fn with_keys(keys: impl Iterator<Item = (u32, u64)>) -> Partition {
        let mut p = Partition::new(PartitionId(0));
        for (n, expires) in keys {
            let (version, expires) = (Offset(u64::from(n) + 1), WallTime(expires));
            let entry = Entry { location: at(n), version, expires, flags: 0 };
            p.keys.insert(format!("{n:06}").as_bytes(), entry);
        }
        p
    }

    #[test]
    fn ranges_cover_every_key_once_and_are_bounded() {
        let p = with_keys((0..10_000).map(|n| (n, 0)));
        let (mut cursor, mut seen, mut ranges) = (Some(Cursor::BEGIN), Vec::new(), 0);
        while let Some(place) = cursor {
            let (range, next) = place.next(&p, WALL).expect("there is a range");
            assert_eq!(Range::decode(&range.encode()), Ok(range.clone()));
            let items = range.items(&p, WALL);
            assert!(items.len() <= RANGE_ITEMS);
            seen.extend(items.iter().map(|item| item.at.pos));
            (cursor, ranges) = (next, ranges + 1);
        }
        assert_eq!(seen, (0..10_000).collect::<Vec<u32>>());
        assert_eq!(ranges, 3, "1 MiB is 3,496 of them");
    }

    #[test]
    fn what_expires_soon_is_not_compared() {
        let p = with_keys([(1, 0), (2, WALL.0), (3, WALL.0 + 1)].into_iter());
        let places: Vec<u32> =
            Range::Keys(None, None).items(&p, WALL).iter().map(|item| item.at.pos).collect();
        assert_eq!(places, [1, 3]);
    }

    #[test]
    fn everything_a_record_says_counts_and_where_it_lies_does_not() {
        let record = Record {
            kind: RecordKind::Put,
            flags: 0,
            partition: PartitionId(0),
            term: Term(1),
            offset: Offset(8),
            session: SessionId::NONE,
            sequence: 0,
            time: WALL,
            expires: WallTime(0),
            key: b"key",
            body: b"a body of some bytes",
        };
        let item = Item { at: at(1), salt: 5 };
        let hash = item.hash(&record);
        assert_eq!(Item { at: at(2), ..item }.hash(&Record { flags: 2, ..record }), hash);
        let mut flipped = record.body.to_vec();
        let mut others = vec![
            Item { salt: 6, ..item }.hash(&record),
            item.hash(&Record { offset: Offset(9), ..record }),
            item.hash(&Record { time: WallTime(1), ..record }),
            item.hash(&Record { expires: WallTime(1), ..record }),
            item.hash(&Record { key: b"kez", ..record }),
            item.hash(&Record { kind: RecordKind::Chunk, ..record }),
        ];
        for bit in 0..flipped.len() * 8 {
            flipped[bit / 8] ^= 1 << (bit % 8);
            others.push(item.hash(&Record { body: &flipped, ..record }));
            flipped[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(others.iter().all(|other| *other != hash));
        assert_ne!(Digest::of(&[1, 2], 9), Digest::of(&[2, 1], 9));
        assert_ne!(Digest::of(&[1], 9), Digest::of(&[1, 0], 9));
    }

    #[test]
    fn bytes_that_name_no_range_are_refused() {
        for bytes in [&[][..], &[3], &[1, 2], &[1, 0], &[2, 0, 0], &[1, 0, 0, 0]] {
            assert_eq!(Range::decode(bytes), Err(Malformed), "{bytes:?}");
        }
        let topic = Range::Topic(TopicId(3), 1, 7, 90);
        assert_eq!(Range::decode(&topic.encode()), Ok(topic));
    }
}
