//! What the first group that is not found means. The table:
//!
//! Group k is the first that is not valid at either place it can be: behind group k-1, or at the
//! beginning of the next segment. Recovery then looks at every block of the following
//! [`scan_bytes`] bytes, and of as many at the beginning of each later segment, for headers of
//! groups of this log ("later groups"; those of a run older than group k-1's are left-overs behind
//! an earlier cut and do not count).
//!
//! | | at k's place | later groups | answer |
//! |---|---|---|---|
//! | A | valid, follows k-1 | - | replay it |
//! | B | the end of the segment, or nothing of this log, or a left-over | none | clean end |
//! | C | k, with a damaged body or header | none | uncertain: cut |
//! | D | anything but A | some, all with durable_floor < k | torn: cut |
//! | E | anything but A | one with durable_floor >= k | corruption |
//! | F | anything but A, and the superblock knows k as durable | - | corruption |
//! | G | a valid header that does not follow k-1 though its run is not older | - | corruption |
//! | H | its body verifies, a record in it does not | - | corruption |
//! | I | not readable (device error) | - | failure; never an end |
//!
//! Why a cut group was never relied on: it is acknowledged only when durable, and every group
//! written after that says so in its durable_floor (E); an idle log writes an empty group to say
//! it. What remains is damage to the very last durable group before anything else was written: C
//! cannot tell it from a write that was in flight, and reports it.
//!
//! Why a left-over never becomes part of the log: a run writes its number, which is durable in the
//! superblock before, into its groups, and the chain of groups never goes back to an older run.

use ironring_core::GroupSeq;

use crate::TailState;
use crate::config::LogConfig;

/// What lies where group k should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The end of the segment.
    SegmentEnd,
    /// Nothing of this log, or of a segment this slot held before.
    Nothing,
    /// A group of an older run.
    LeftOver,
    /// A header or body that does not verify.
    Damaged(String),
    /// A valid header of this or a later run that does not follow.
    Chain(String),
    /// A body that verifies with a record that does not.
    BadRecord(String),
}

/// A later group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Later {
    pub sequence: GroupSeq,
    pub durable_floor: GroupSeq,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The log ends before k; write k there.
    End(TailState),
    /// k was durable.
    Corruption(String),
}

/// Decides by the table in the module header. `durable` is what the superblock knows; `later` the
/// later group with the highest floor.
pub(crate) fn judge(
    k: GroupSeq,
    found: &Found,
    durable: GroupSeq,
    later: Option<Later>,
) -> Verdict {
    let what = match found {
        Found::SegmentEnd | Found::Nothing => "nothing is there".to_owned(),
        Found::LeftOver => "a group of an older run is there".to_owned(),
        Found::Damaged(what) => what.clone(),
        Found::Chain(what) | Found::BadRecord(what) => return Verdict::Corruption(what.clone()),
    };
    if durable >= k {
        let known = format!("{what}; the superblock knows group {durable} as durable");
        return Verdict::Corruption(known);
    }
    match later {
        Some(later) if later.durable_floor >= k => Verdict::Corruption(format!(
            "{what}; group {} was written when group {} was durable",
            later.sequence, later.durable_floor
        )),
        Some(_) => Verdict::End(TailState::Torn),
        None if matches!(found, Found::Damaged(_)) => Verdict::End(TailState::Uncertain),
        None => Verdict::End(TailState::Clean),
    }
}

/// How far to look behind a group that is not found: past the longest group, and the one after.
/// One group is in flight at a time, so the group behind k was written when k was durable.
pub(crate) fn scan_bytes(config: &LogConfig) -> u32 {
    3 * config.group_bytes_max()
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: GroupSeq = GroupSeq(7);
    const BEFORE: GroupSeq = GroupSeq(6);

    fn later(floor: u64) -> Option<Later> {
        Some(Later { sequence: GroupSeq(9), durable_floor: GroupSeq(floor) })
    }

    fn corrupt(found: &Found, durable: GroupSeq, later: Option<Later>) -> bool {
        matches!(judge(K, found, durable, later), Verdict::Corruption(_))
    }

    #[test]
    fn every_cell() {
        let damaged = Found::Damaged("bits".to_owned());
        let missing = [Found::SegmentEnd, Found::Nothing, Found::LeftOver];
        for found in &missing {
            assert_eq!(judge(K, found, BEFORE, None), Verdict::End(TailState::Clean), "B");
        }
        assert_eq!(judge(K, &damaged, BEFORE, None), Verdict::End(TailState::Uncertain), "C");
        for found in missing.iter().chain([&damaged]) {
            assert_eq!(judge(K, found, BEFORE, later(6)), Verdict::End(TailState::Torn), "D");
            assert!(corrupt(found, BEFORE, later(7)), "E");
            assert!(corrupt(found, BEFORE, later(8)), "E");
            assert!(corrupt(found, K, None), "F");
            assert!(corrupt(found, GroupSeq(8), later(6)), "F");
        }
        for found in [Found::Chain("x".to_owned()), Found::BadRecord("x".to_owned())] {
            for later in [None, later(6), later(7)] {
                assert!(corrupt(&found, BEFORE, later), "G, H");
            }
        }
    }
}
