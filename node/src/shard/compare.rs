//! Comparing replicas: what is compared, when, and what a difference means. Pure; the shard reads
//! records and carries messages ([`super::comparing`]).
//!
//! Checksums find what a disk did to a record. They do not find what was wrong before they were made:
//! a bit that flipped in memory, or a bug. So a leader goes through its partitions range by range, and
//! has every replica digest the same range as of the same offset. Where they differ, the majority of
//! the voters is right: a copy that has something else is damaged, and repaired as one
//! ([`super::repair`]). Without a majority nobody is right, and nothing is done but to say so.
//!
//! - A range is at most [`RANGE_BYTES`] or [`RANGE_ITEMS`] records, or one value if that is longer.
//! - Ranges follow each other at the pace by which all of them take the interval, but never faster than
//!   [`Settings::bytes_per_second_max`]; a replica that is asked faster than that answers "later".
//! - Nothing is done about a difference before it was seen twice, at two offsets.
//! - What expires soon is left out, and so are receipts of sessions, which replicas forget by
//!   themselves; and uploads that are no value.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ironring_core::checksum::crc32c;
use ironring_core::{Instant, Offset, PartitionId, Term, TopicId, WallTime};
use ironring_log::{Location, Record};
use ironring_ring::metadata::ReplicaId;

use super::fields::{Malformed, Reader, Writer};
use super::partition::{CHUNKED, LOST, Partition, TOMBSTONE};

/// A range is closed when its records have this many bytes.
pub const RANGE_BYTES: u64 = 1 << 20;
/// Or when it has so many.
pub const RANGE_ITEMS: usize = 4096;
/// A replica with so many records in a range is not read further: it differs anyway.
const ITEMS_MAX: usize = 4 * RANGE_ITEMS;
/// How often a difference has to be seen before anything is done about it.
const LOOKS: u8 = 2;
/// A range that cannot be compared is tried so often, and then left for the next pass.
const TRIES: u8 = 12;
/// Between two attempts at a range.
const AGAIN_AFTER: Duration = Duration::from_millis(250);
/// Replicas that have not answered by then are left out.
pub const ANSWER_MAX: Duration = Duration::from_secs(3);
/// Keys that expire within that time are left out: clocks of nodes differ.
pub const EXPIRY_MARGIN_MS: u64 = 600_000;

/// How replicas are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Everything is compared once in this time; zero: never.
    pub interval: Duration,
    /// Most bytes read a second for the partitions this shard leads, and as many for those it follows.
    pub bytes_per_second_max: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { interval: Duration::from_secs(7 * 86_400), bytes_per_second_max: 4 << 20 }
    }
}

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
        let chunks = p.large.chunks(entry.version).unwrap_or_default();
        items.extend(chunks.iter().map(|at| Item { at: *at, salt: entry.version.0 }));
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

/// What a comparison comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All who answered have the same.
    Equal,
    /// These differ from the majority of the voters.
    Differ(Vec<ReplicaId>),
    /// Replicas differ, and none of the answers is a majority's.
    Undecided,
    /// Nobody but the leader has answered.
    Nobody,
}

/// Judges the answers, the leader's own among them. `votes`: who votes.
#[must_use]
pub fn judge(votes: &[ReplicaId], answers: &BTreeMap<ReplicaId, Digest>) -> Verdict {
    if answers.len() < 2 {
        return Verdict::Nobody;
    }
    let mut distinct: Vec<Digest> = Vec::new();
    for digest in answers.values() {
        if !distinct.contains(digest) {
            distinct.push(*digest);
        }
    }
    if distinct.len() == 1 {
        return Verdict::Equal;
    }
    let voters_with =
        |digest: &Digest| votes.iter().filter(|voter| answers.get(voter) == Some(digest)).count();
    match distinct.iter().find(|digest| voters_with(digest) > votes.len() / 2) {
        // A voter alone is no witness against itself.
        Some(right) if voters_with(right) >= 2 => {
            let wrong = answers.iter().filter(|(_, digest)| *digest != right);
            Verdict::Differ(wrong.map(|(id, _)| *id).collect())
        }
        _ => Verdict::Undecided,
    }
}

/// A comparison that is under way.
#[derive(Clone, Debug)]
pub struct Open {
    /// Its number.
    pub number: u64,
    /// The partition.
    pub partition: PartitionId,
    /// The term it is led in.
    pub term: Term,
    /// As of which offset.
    pub at: Offset,
    /// What is compared.
    pub range: Range,
    /// Who was asked, the leader too.
    pub asked: BTreeSet<ReplicaId>,
    /// What they have.
    pub answers: BTreeMap<ReplicaId, Digest>,
    /// Somebody could not tell.
    pub later: bool,
    began: Instant,
}

/// What to do about a range that was compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done: go on.
    Done,
    /// The same range once more, in a moment.
    Again,
    /// These copies are damaged.
    Damaged(Vec<ReplicaId>),
    /// Replicas differ, and nobody knows who is right.
    Undecided,
}

/// What was counted. Gauges say so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ranges that were compared to the end.
    pub ranges: u64,
    /// Of these, with a difference.
    pub differing: u64,
    /// Ranges that could not be compared.
    pub skipped: u64,
    /// Passes over everything this shard leads.
    pub passes: u64,
    /// When the last one ended, by the wall clock.
    pub last_pass: WallTime,
}

/// Where in all partitions the comparison is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    partition: PartitionId,
    cursor: Cursor,
    /// Something differed in this pass, and nobody knows who is right.
    undecided: bool,
}

/// The leader's side: which range is next, and what its comparison came to.
#[derive(Debug)]
pub struct Comparer {
    settings: Settings,
    due: Instant,
    pass_began: Instant,
    place: Option<Place>,
    open: Option<Open>,
    tries: u8,
    looks: u8,
    number: u64,
    /// What it counted.
    pub counts: Counts,
    /// Partitions in which a range differs and nobody knows who is right.
    pub undecided: BTreeSet<PartitionId>,
}

impl Comparer {
    /// Begins with a pass after a moment.
    #[must_use]
    pub fn new(settings: Settings) -> Comparer {
        Comparer {
            settings,
            due: Instant(0),
            pass_began: Instant(0),
            place: None,
            open: None,
            tries: 0,
            looks: 0,
            number: 0,
            counts: Counts::default(),
            undecided: BTreeSet::new(),
        }
    }

    /// Whether a range is to be chosen now.
    #[must_use]
    pub fn wants(&self, now: Instant) -> bool {
        !self.settings.interval.is_zero() && self.open.is_none() && now >= self.due
    }

    /// The comparison that is under way.
    #[must_use]
    pub fn open(&self) -> Option<&Open> {
        self.open.as_ref()
    }

    /// Where the next range begins: of the first partition from where the last one ended that
    /// `leads` says this replica can compare. Nothing: a pass ended, or there is none.
    pub fn next_place(
        &mut self,
        now: Instant,
        wall: WallTime,
        partitions: std::ops::Range<u32>,
        leads: impl Fn(PartitionId) -> bool,
    ) -> Option<(PartitionId, Cursor)> {
        if self.place.as_ref().is_some_and(|place| !leads(place.partition)) {
            // Another leads it, and compares it.
            let place = self.place.take()?;
            self.undecided.remove(&place.partition);
            self.place = next_led(place.partition.0 + 1..partitions.end, &leads);
            self.begin_range();
            if self.place.is_none() {
                self.end_pass(now, wall);
                return None;
            }
        }
        if self.place.is_none() {
            self.undecided.retain(|id| leads(*id));
            self.place = next_led(partitions, &leads);
            self.pass_began = now;
            self.begin_range();
        }
        match &self.place {
            Some(place) => Some((place.partition, place.cursor.clone())),
            None => {
                self.due = now + AGAIN_AFTER;
                None
            }
        }
    }

    /// A comparison begins: its number.
    pub fn begin(
        &mut self,
        now: Instant,
        (partition, term, at): (PartitionId, Term, Offset),
        range: Range,
        asked: BTreeSet<ReplicaId>,
    ) -> u64 {
        self.number += 1;
        self.open = Some(Open {
            number: self.number,
            partition,
            term,
            at,
            range,
            asked,
            answers: BTreeMap::new(),
            later: false,
            began: now,
        });
        self.number
    }

    /// A replica, or this one, has digested the range; `None`: it cannot tell now.
    pub fn heard(&mut self, number: u64, from: ReplicaId, digest: Option<Digest>) {
        let Some(open) = self.open.as_mut().filter(|open| open.number == number) else { return };
        if !open.asked.contains(&from) {
            return;
        }
        match digest {
            Some(digest) => drop(open.answers.insert(from, digest)),
            None => {
                open.later = true;
                open.asked.remove(&from);
            }
        }
    }

    /// Whether everybody has answered, or nobody else will.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        self.open.as_ref().is_some_and(|open| {
            open.answers.len() == open.asked.len() || now.since(open.began) >= ANSWER_MAX
        })
    }

    /// Ends the comparison. `own`: this replica; without its own answer there is none. `next`: where the
    /// range ended. `total`: bytes of everything this shard leads.
    pub fn end(
        &mut self,
        now: Instant,
        wall: WallTime,
        (own, votes): (ReplicaId, &[ReplicaId]),
        (next, total): (Option<Cursor>, u64),
        partitions: std::ops::Range<u32>,
        leads: impl Fn(PartitionId) -> bool,
    ) -> Outcome {
        let Some(open) = self.open.take() else { return Outcome::Done };
        let mine = open.answers.get(&own).copied();
        let verdict = match mine {
            Some(_) => judge(votes, &open.answers),
            None => Verdict::Nobody,
        };
        // Who cannot tell now may be the one that differs, or the majority.
        let incomplete = open.later || verdict == Verdict::Nobody;
        self.tries += 1;
        if incomplete && self.tries < TRIES {
            self.due = now + AGAIN_AFTER;
            return Outcome::Again;
        }
        if matches!(verdict, Verdict::Differ(_) | Verdict::Undecided) {
            self.looks += 1;
            if self.looks < LOOKS {
                self.due = now + AGAIN_AFTER;
                return Outcome::Again;
            }
        }
        let outcome = match verdict {
            Verdict::Nobody => {
                self.counts.skipped += 1;
                Outcome::Done
            }
            Verdict::Equal => {
                self.counts.ranges += 1;
                Outcome::Done
            }
            Verdict::Differ(wrong) => {
                self.counts.ranges += 1;
                self.counts.differing += 1;
                Outcome::Damaged(wrong)
            }
            Verdict::Undecided => {
                self.counts.ranges += 1;
                self.counts.differing += 1;
                self.undecided.insert(open.partition);
                Outcome::Undecided
            }
        };
        self.go_on(now, wall, outcome == Outcome::Undecided, next, partitions, leads);
        let bytes = mine.map_or(0, |digest| digest.bytes);
        if self.place.is_some() {
            self.due = now + self.pause(bytes, total);
        }
        outcome
    }

    /// The comparison under way is given up: its leader leads no more, or something lies elsewhere by
    /// now. It is begun again.
    pub fn give_up(&mut self, now: Instant) {
        self.open = None;
        self.due = now + AGAIN_AFTER;
    }

    /// How long to wait behind a range of so many bytes, of so many in all.
    fn pause(&self, bytes: u64, total: u64) -> Duration {
        let interval = self.settings.interval.as_nanos();
        let even = interval * u128::from(bytes) / u128::from(total.max(bytes).max(1));
        let rate = u128::from(self.settings.bytes_per_second_max.max(1));
        let fastest = u128::from(bytes) * 1_000_000_000 / rate;
        Duration::from_nanos(u64::try_from(even.max(fastest)).unwrap_or(u64::MAX))
    }

    fn begin_range(&mut self) {
        (self.tries, self.looks) = (0, 0);
    }

    fn go_on(
        &mut self,
        now: Instant,
        wall: WallTime,
        undecided: bool,
        next: Option<Cursor>,
        partitions: std::ops::Range<u32>,
        leads: impl Fn(PartitionId) -> bool,
    ) {
        self.begin_range();
        let Some(place) = &mut self.place else { return };
        place.undecided |= undecided;
        if let Some(next) = next {
            place.cursor = next;
            return;
        }
        if !place.undecided {
            self.undecided.remove(&place.partition);
        }
        self.place = next_led(place.partition.0 + 1..partitions.end, &leads);
        if self.place.is_none() {
            self.end_pass(now, wall);
        }
    }

    fn end_pass(&mut self, now: Instant, wall: WallTime) {
        self.counts.passes += 1;
        self.counts.last_pass = wall;
        self.due = (self.pass_began + self.settings.interval).max(now + AGAIN_AFTER);
    }
}

fn next_led(
    mut partitions: std::ops::Range<u32>,
    leads: impl Fn(PartitionId) -> bool,
) -> Option<Place> {
    let found = partitions.find(|id| leads(PartitionId(*id)))?;
    Some(Place { partition: PartitionId(found), cursor: Cursor::BEGIN, undecided: false })
}

#[cfg(test)]
mod tests {
    use ironring_core::{SegmentId, SessionId, StorageUuid};
    use ironring_log::RecordKind;
    use ironring_log::index::Entry;

    use super::*;

    const WALL: WallTime = WallTime(1_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    fn replica(n: u128) -> ReplicaId {
        ReplicaId { storage: StorageUuid(n), life: 0 }
    }

    fn digest(hash: u64) -> Digest {
        Digest { items: 1, bytes: 1000, hash }
    }

    fn answers(hashes: &[(u128, u64)]) -> BTreeMap<ReplicaId, Digest> {
        hashes.iter().map(|(n, hash)| (replica(*n), digest(*hash))).collect()
    }

    #[test]
    fn a_majority_of_the_voters_is_right_and_nobody_else() {
        let three = [1, 2, 3].map(replica);
        let judged = |votes: &[ReplicaId], hashes: &[(u128, u64)]| judge(votes, &answers(hashes));
        assert_eq!(judged(&three, &[(1, 7), (2, 7), (3, 7)]), Verdict::Equal);
        assert_eq!(judged(&three, &[(1, 7), (2, 7)]), Verdict::Equal);
        let differ = |n| Verdict::Differ(vec![replica(n)]);
        assert_eq!(judged(&three, &[(1, 7), (2, 7), (3, 8)]), differ(3));
        assert_eq!(judged(&three, &[(1, 8), (2, 7), (3, 7)]), differ(1), "the leader too");
        assert_eq!(judged(&three, &[(1, 7), (2, 8), (3, 9)]), Verdict::Undecided);
        assert_eq!(judged(&three, &[(1, 7), (2, 8)]), Verdict::Undecided, "the third may know");
        assert_eq!(judged(&three, &[(1, 7)]), Verdict::Nobody);
        assert_eq!(judged(&three[..2], &[(1, 7), (2, 8)]), Verdict::Undecided);
        assert_eq!(
            judged(&three[..2], &[(1, 7), (2, 7), (3, 8)]),
            differ(3),
            "a learner is no voter"
        );
        assert_eq!(
            judged(&three[..1], &[(1, 7), (3, 8)]),
            Verdict::Undecided,
            "one is no majority"
        );
        let five = [1, 2, 3, 4, 5].map(replica);
        assert_eq!(judged(&five, &[(1, 7), (2, 7), (3, 8), (4, 7)]), differ(3));
        assert_eq!(judged(&five, &[(1, 7), (2, 7), (3, 8), (4, 8)]), Verdict::Undecided);
    }

    fn comparer() -> Comparer {
        Comparer::new(Settings { interval: 100 * SECOND, bytes_per_second_max: 1000 })
    }

    /// One attempt at a range, in which each replica has this hash.
    fn attempt(c: &mut Comparer, now: Instant, hashes: &[(u128, Option<u64>)]) -> Outcome {
        assert!(c.wants(now));
        let (partition, cursor) = c.next_place(now, WALL, 0..2, |_| true).expect("some are led");
        assert_eq!(cursor, Cursor::BEGIN);
        let asked = hashes.iter().map(|(n, _)| replica(*n)).collect();
        let range = Range::Keys(None, None);
        let number = c.begin(now, (partition, Term(1), Offset(9)), range, asked);
        assert!(!c.wants(now) && !c.is_over(now));
        for (n, hash) in hashes {
            c.heard(number - 1, replica(*n), Some(digest(99)));
            c.heard(number, replica(*n), hash.map(digest));
        }
        c.heard(number, replica(77), Some(digest(99)));
        assert!(c.is_over(now));
        let votes = [1, 2, 3].map(replica);
        c.end(now, WALL, (replica(1), &votes), (None, 2000), 0..2, |_| true)
    }

    #[test]
    fn a_difference_counts_when_it_was_seen_twice() {
        let mut c = comparer();
        let mut now = Instant(1);
        let differ = [(1, Some(7)), (2, Some(7)), (3, Some(8))];
        assert_eq!(attempt(&mut c, now, &differ), Outcome::Again);
        assert!(!c.wants(now), "in a moment");
        now = now + AGAIN_AFTER;
        let equal = [(1, Some(7)), (2, Some(7)), (3, Some(7))];
        assert_eq!(attempt(&mut c, now, &equal), Outcome::Done);
        assert_eq!((c.counts.ranges, c.counts.differing), (1, 0));
        now = now + 50 * SECOND;
        assert_eq!(attempt(&mut c, now, &differ), Outcome::Again);
        now = now + AGAIN_AFTER;
        assert_eq!(attempt(&mut c, now, &differ), Outcome::Damaged(vec![replica(3)]));
        assert_eq!((c.counts.ranges, c.counts.differing, c.counts.passes), (2, 1, 1));
    }

    #[test]
    fn who_cannot_tell_is_asked_again_and_left_out_in_the_end() {
        let mut c = comparer();
        let mut now = Instant(1);
        let late = [(1, Some(7)), (2, Some(7)), (3, None)];
        for _ in 1..TRIES {
            assert_eq!(attempt(&mut c, now, &late), Outcome::Again);
            now = now + AGAIN_AFTER;
        }
        assert_eq!(attempt(&mut c, now, &late), Outcome::Done);
        assert_eq!((c.counts.ranges, c.counts.skipped), (1, 0));
        now = now + 50 * SECOND;
        let alone = [(1, Some(7)), (2, None), (3, None)];
        for _ in 1..TRIES {
            assert_eq!(attempt(&mut c, now, &alone), Outcome::Again);
            now = now + AGAIN_AFTER;
        }
        assert_eq!(attempt(&mut c, now, &alone), Outcome::Done);
        assert_eq!((c.counts.ranges, c.counts.skipped), (1, 1));
    }

    #[test]
    fn what_nobody_can_decide_is_remembered_until_it_is_equal() {
        let mut c = comparer();
        let mut now = Instant(1);
        let all_differ = [(1, Some(7)), (2, Some(8)), (3, Some(9))];
        let equal = [(1, Some(7)), (2, Some(7)), (3, Some(7))];
        assert_eq!(attempt(&mut c, now, &all_differ), Outcome::Again);
        now = now + AGAIN_AFTER;
        assert_eq!(attempt(&mut c, now, &all_differ), Outcome::Undecided);
        now = now + 50 * SECOND;
        assert_eq!(attempt(&mut c, now, &equal), Outcome::Done, "of the other partition");
        assert_eq!(c.undecided, [PartitionId(0)].into());
        now = now + 100 * SECOND;
        assert_eq!(attempt(&mut c, now, &equal), Outcome::Done);
        assert!(c.undecided.is_empty());
    }

    #[test]
    fn a_pass_takes_the_interval_and_never_reads_faster_than_it_may() {
        let mut c = comparer();
        let equal = [(1, Some(7)), (2, Some(7))];
        attempt(&mut c, Instant(0), &equal);
        // Half of what there is: half of the interval.
        assert!(!c.wants(Instant(0) + 49 * SECOND) && c.wants(Instant(0) + 50 * SECOND));
        attempt(&mut c, Instant(0) + 50 * SECOND, &equal);
        assert_eq!((c.counts.passes, c.counts.last_pass), (1, WALL));
        assert!(!c.wants(Instant(0) + 99 * SECOND) && c.wants(Instant(0) + 100 * SECOND));
        let settings = Settings { interval: Duration::from_millis(1), bytes_per_second_max: 500 };
        let mut hasty = Comparer::new(settings);
        attempt(&mut hasty, Instant(0), &equal);
        assert!(!hasty.wants(Instant(0) + SECOND) && hasty.wants(Instant(0) + 2 * SECOND));
        let off = Comparer::new(Settings { interval: Duration::ZERO, ..settings });
        assert!(!off.wants(Instant(u64::MAX)));
    }

    #[test]
    fn a_replica_that_leads_no_more_goes_on_with_what_it_leads() {
        let mut c = comparer();
        let now = Instant(5);
        assert_eq!(c.next_place(now, WALL, 0..3, |_| false), None);
        assert!(!c.wants(now), "looked at again in a moment");
        let now = now + AGAIN_AFTER;
        let place = |id| Some((PartitionId(id), Cursor::BEGIN));
        assert_eq!(c.next_place(now, WALL, 0..3, |id| id.0 > 0), place(1));
        assert_eq!(c.next_place(now, WALL, 0..3, |id| id.0 != 1), place(2));
        assert_eq!(c.next_place(now, WALL, 0..3, |id| id.0 == 0), None, "the pass ends");
        assert_eq!(c.counts.passes, 1);
        assert_eq!(c.next_place(now + 100 * SECOND, WALL, 0..3, |id| id.0 == 0), place(0));
    }

    #[test]
    fn who_says_nothing_is_not_waited_for_for_ever() {
        let mut c = comparer();
        let asked = [1, 2, 3].map(replica).into();
        let about = (PartitionId(0), Term(1), Offset(1));
        c.next_place(Instant(0), WALL, 0..1, |_| true);
        let number = c.begin(Instant(0), about, Range::Keys(None, None), asked);
        c.heard(number, replica(1), Some(digest(1)));
        c.heard(number, replica(2), Some(digest(1)));
        let late = Instant(0) + ANSWER_MAX;
        assert!(!c.is_over(Instant(late.0 - 1)) && c.is_over(late));
        let votes = [1, 2, 3].map(replica);
        let outcome = c.end(late, WALL, (replica(1), &votes), (None, 1), 0..1, |_| true);
        assert_eq!((outcome, c.counts.ranges), (Outcome::Done, 1));
    }

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
