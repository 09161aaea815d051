//! Comparing replicas: which range is next, when, and what a difference means. Pure; what a range is and
//! comes to is in [`super::ranges`], and the shard reads records and carries messages
//! ([`super::comparing`]).
//!
//! Checksums find what a disk did to a record. They do not find what was wrong before they were made:
//! a bit that flipped in memory, or a bug. So a leader goes through its partitions range by range, and
//! has every replica digest the same range as of the same offset. Where they differ, the majority of
//! the voters is right: a copy that has something else is damaged, and repaired as one
//! ([`super::repair`]). Without a majority nobody is right, and nothing is done but to say so.
//!
//! - Ranges follow each other at the pace by which all of them take the interval, but never faster than
//!   [`Settings::bytes_per_second_max`]; a replica that is asked faster than that answers "later".
//! - Nothing is done about a difference before it was seen twice, at two offsets.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ironring_core::{Instant, Offset, PartitionId, Term, WallTime};
use ironring_ring::metadata::ReplicaId;

use super::ranges::{Cursor, Digest, Range};

/// How often a difference has to be seen before anything is done about it.
const LOOKS: u8 = 2;
/// A range that cannot be compared is tried so often, and then left for the next pass.
const TRIES: u8 = 12;
/// Between two attempts at a range.
const AGAIN_AFTER: Duration = Duration::from_millis(250);
/// Replicas that have not answered by then are left out.
pub const ANSWER_MAX: Duration = Duration::from_secs(3);

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
    use ironring_core::StorageUuid;

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
}
