//! Entries that are kept for followers which are sent the state.
//!
//! A state ends where the log ended when it began. What is written while it is on its way the follower needs
//! as entries, also those that were overwritten or deleted meanwhile: without one of them it would have to
//! be sent the whole state again, and so on for as long as a state takes longer than compaction needs to get
//! there. So the log holds the segments they lie in until the follower has caught up with what there was when
//! it had the state, or stops getting on. When space presses the log compacts them nevertheless; then
//! nothing is kept for that follower any more, as there would be no use.

use std::collections::BTreeMap;
use std::time::Duration;

use ironring_core::{Instant, NodeId, Offset, PartitionId, SegmentId, Term};
use ironring_ring::metadata::ReplicaId;

/// A follower that has the state and then nothing more for so long has to be sent it again, if it comes
/// back too late.
const STILL_MAX: Duration = Duration::from_secs(20);

/// What a leader knows of a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// The leader's term.
    pub term: Term,
    /// What the follower has fsynced ends here.
    pub acked: Offset,
    /// The follower cannot be sent entries.
    pub needs_state: bool,
    /// The oldest entry that can be sent.
    pub first: Offset,
}

#[derive(Clone, Copy, Debug)]
struct Pin {
    replica: ReplicaId,
    term: Term,
    /// The first entry that it needs besides the state.
    from: Offset,
    /// No entry from there on lies before this segment.
    segment: SegmentId,
    filled: Option<Filled>,
}

/// The follower has the state.
#[derive(Clone, Copy, Debug)]
struct Filled {
    /// Where the leader's log ended then.
    until: Offset,
    /// How far it was seen to have got, and when it got there.
    acked: Offset,
    at: Instant,
}

/// What a shard keeps, by partition and the node of the follower.
#[derive(Debug, Default)]
pub(super) struct Pins {
    all: BTreeMap<(PartitionId, NodeId), Pin>,
}

impl Pins {
    /// A state begins that ends at `from`; entries from there on lie in `segment` and those behind it.
    pub(super) fn begin(
        &mut self,
        to: (PartitionId, NodeId),
        (replica, term): (ReplicaId, Term),
        from: Offset,
        segment: SegmentId,
    ) {
        self.all.insert(to, Pin { replica, term, from, segment, filled: None });
    }

    /// The state is not sent any more.
    pub(super) fn end(&mut self, to: (PartitionId, NodeId)) {
        self.all.remove(&to);
    }

    /// The follower has the state, and the leader's log ends at `until`.
    pub(super) fn filled(&mut self, now: Instant, to: (PartitionId, NodeId), until: Offset) {
        if let Some(pin) = self.all.get_mut(&to) {
            pin.filled = Some(Filled { until, acked: pin.from, at: now });
        }
    }

    /// Lets go what nobody needs any more, or what is gone already. `look`: what is known of a follower;
    /// nothing when this replica does not lead or the follower is no replica.
    pub(super) fn follow(
        &mut self,
        now: Instant,
        mut look: impl FnMut(PartitionId, ReplicaId) -> Option<Seen>,
    ) {
        self.all.retain(|(partition, _), pin| {
            let seen = look(*partition, pin.replica).filter(|seen| seen.term == pin.term);
            let Some(seen) = seen else { return false };
            if let Some(filled) = &mut pin.filled {
                if seen.acked > filled.acked {
                    (filled.acked, filled.at) = (seen.acked, now);
                }
                let still = now.since(filled.at) > STILL_MAX;
                if filled.acked >= filled.until || still || seen.needs_state {
                    return false;
                }
            }
            seen.first <= pin.filled.map_or(pin.from, |filled| filled.acked)
        });
    }

    /// Of which partitions something is kept.
    pub(super) fn partitions(&self) -> Vec<PartitionId> {
        self.all.keys().map(|(partition, _)| *partition).collect()
    }

    /// The first entry that is kept of a partition.
    pub(super) fn first(&self, partition: PartitionId) -> Option<Offset> {
        let of_it = self.all.range((partition, NodeId(0))..=(partition, NodeId(u64::MAX)));
        of_it.map(|(_, pin)| pin.filled.map_or(pin.from, |filled| filled.acked)).min()
    }

    /// The first segment that is to stay as it is.
    pub(super) fn segment(&self) -> Option<SegmentId> {
        self.all.values().map(|pin| pin.segment).min()
    }
}

#[cfg(test)]
mod tests {
    use ironring_core::StorageUuid;

    use super::*;

    const P: PartitionId = PartitionId(3);
    const TO: (PartitionId, NodeId) = (P, NodeId(2));
    const LEADER: (ReplicaId, Term) = (ReplicaId { storage: StorageUuid(2), life: 1 }, Term(4));
    const SEEN: Seen =
        Seen { term: Term(4), acked: Offset(1), needs_state: true, first: Offset(100) };

    fn begun() -> Pins {
        let mut pins = Pins::default();
        pins.begin(TO, LEADER, Offset(100), SegmentId(7));
        pins
    }

    /// Looks a second after `now` seconds; says what is kept then.
    fn look(pins: &mut Pins, now: u64, seen: Option<Seen>) -> Option<(Offset, SegmentId)> {
        pins.follow(at(now), |_, _| seen);
        pins.first(P).zip(pins.segment())
    }

    fn at(seconds: u64) -> Instant {
        Instant(0) + Duration::from_secs(seconds)
    }

    fn acked(offset: u64) -> Option<Seen> {
        Some(Seen { acked: Offset(offset), needs_state: false, ..SEEN })
    }

    #[test]
    fn entries_are_kept_until_the_follower_has_caught_up() {
        let mut pins = begun();
        let kept = |offset| Some((Offset(offset), SegmentId(7)));
        assert_eq!(look(&mut pins, 1000, Some(SEEN)), kept(100), "however long the state takes");
        pins.filled(at(1000), TO, Offset(150));
        assert_eq!(look(&mut pins, 1001, acked(1)), kept(100), "it has not said so yet");
        assert_eq!(look(&mut pins, 1002, acked(120)), kept(120));
        assert_eq!(look(&mut pins, 1022, acked(149)), kept(149));
        assert_eq!(look(&mut pins, 1023, acked(150)), None);
    }

    #[test]
    fn a_follower_that_does_not_get_on_has_nothing_kept() {
        let mut pins = begun();
        pins.filled(at(10), TO, Offset(150));
        assert!(look(&mut pins, 30, acked(100)).is_some());
        assert_eq!(look(&mut pins, 31, acked(100)), None);
        let mut pins = begun();
        pins.filled(at(10), TO, Offset(150));
        assert_eq!(look(&mut pins, 11, Some(SEEN)), None, "it needs the state again");
    }

    #[test]
    fn what_is_lost_or_of_another_term_is_not_kept() {
        for seen in [
            None,
            Some(Seen { term: Term(5), ..SEEN }),
            // Space pressed, and compaction has dropped an entry.
            Some(Seen { first: Offset(101), ..SEEN }),
        ] {
            assert_eq!(look(&mut begun(), 1, seen), None, "{seen:?}");
        }
        let mut pins = begun();
        pins.begin((P, NodeId(9)), LEADER, Offset(90), SegmentId(5));
        assert_eq!(pins.first(P).zip(pins.segment()), Some((Offset(90), SegmentId(5))));
        pins.end((P, NodeId(9)));
        assert_eq!(pins.first(P).zip(pins.segment()), Some((Offset(100), SegmentId(7))));
        assert_eq!(pins.first(PartitionId(4)), None);
    }
}
