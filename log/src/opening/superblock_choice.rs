//! Which superblock version counts, from what the four copies hold.
//!
//! Version n is written to two copies, durable, then to the other two, durable, and only then is
//! anything done that relies on it. The first round of a run takes the two copies that recovery did
//! *not* rely on, so the two it relied on stay until two others agree on something newer, however
//! many runs die on the way; from then on copies 0 and 1 come first. Version 1 is written when a
//! log is made, into a file of zeros, copies 0 and 1 first; nothing is acknowledged before version
//! 2 is settled. So after any number of crashes, with a and b the copies of a first round:
//!
//! | crash | a | b | the other two |
//! |---|---|---|---|
//! | in the first round | old, torn or newer | old, torn or newer | old, equal |
//! | between the rounds | new | new | old |
//! | in the second round | new | new | old, torn or new |
//!
//! Sequences only grow past what was seen, so two runs never write one sequence differently.
//!
//! The table of answers, first match counts:
//!
//! | | found | answer |
//! |---|---|---|
//! | A | two or more copies agree byte for byte; nothing newer | use it (the highest such) |
//! | B | as A, and one copy is newer, or two are with different sequences | use it: the newer ones were in first rounds that did not end, nothing relied on them |
//! | C | as A, and two newer copies differ in one sequence | refuse: no run writes that |
//! | D | no two agree, a copy cannot be read | refuse: a device error is not an absence |
//! | E | no two agree, a copy is of a newer format | refuse: upgrade |
//! | F | no two agree; 2 and 3 blank; 0 and 1 each blank, damaged or version 1 | the log was never made: nothing was acknowledged |
//! | G | anything else | refuse: more is damaged than a crash explains |

use crate::format::superblock::{COPIES, Superblock, SuperblockError};

/// What one copy's extent holds.
#[derive(Clone, Debug)]
pub(crate) enum Copy {
    /// The device failed the read.
    Unreadable(String),
    /// Not a usable copy.
    Bad(SuperblockError),
    /// A copy that verifies, and its bytes.
    Good(Box<Superblock>, Vec<u8>),
}

/// The answer.
#[derive(Clone, Debug)]
pub(crate) enum Choice {
    /// This version; `highest` is the highest sequence seen anywhere, `first_round` the copies to
    /// write first, because the other two are relied on.
    Use { superblock: Box<Superblock>, highest: u64, bad_copies: u64, first_round: [usize; 2] },
    /// Making the log was interrupted.
    NeverMade,
    /// Written by newer code.
    Newer(u32),
    /// Not to be trusted.
    Refuse(String),
}

/// Decides by the table in the module header.
pub(crate) fn choose(copies: &[Copy; COPIES]) -> Choice {
    let good = |i: usize| match &copies[i] {
        Copy::Good(superblock, bytes) => Some((superblock, bytes)),
        _ => None,
    };
    let agreed = (0..COPIES)
        .filter_map(|i| {
            let (superblock, bytes) = good(i)?;
            let others = (i + 1..COPIES).filter(|j| good(*j).is_some_and(|(_, b)| b == bytes));
            (others.count() >= 1).then_some(superblock)
        })
        .max_by_key(|superblock| superblock.sequence);
    let Some(agreed) = agreed else {
        return without_agreement(copies);
    };
    // A copy of a newer format counts as a newer sequence: what it says is not known here.
    let newer: Vec<usize> = (0..COPIES)
        .filter(|i| match &copies[*i] {
            Copy::Good(superblock, _) => superblock.sequence > agreed.sequence,
            Copy::Bad(SuperblockError::Newer(_)) => true,
            _ => false,
        })
        .collect();
    let newer_format = copies.iter().find_map(|copy| match copy {
        Copy::Bad(SuperblockError::Newer(version)) => Some(*version),
        _ => None,
    });
    let sequence = |i: usize| good(i).map(|(superblock, _)| superblock.sequence);
    match (newer.as_slice(), newer_format) {
        ([] | [_], _) => {}
        ([a, b], None) if sequence(*a) != sequence(*b) => {}
        (_, Some(version)) => return Choice::Newer(version),
        _ => {
            return Choice::Refuse(format!(
                "copies {newer:?} are newer than version {}, on which two agree",
                agreed.sequence
            ));
        }
    }
    let mut relied: Vec<usize> =
        (0..COPIES).filter(|i| sequence(*i) == Some(agreed.sequence)).collect();
    let relied = relied.split_off(relied.len() - 2);
    let mut others = (0..COPIES).filter(|i| !relied.contains(i));
    let first_round = [others.next(), others.next()].map(|i| i.expect("four copies less two"));
    let highest = (0..COPIES).filter_map(good).map(|(s, _)| s.sequence).max();
    let bad_copies = (0..COPIES).filter(|i| good(*i).is_none()).count() as u64;
    Choice::Use {
        superblock: agreed.clone(),
        highest: highest.unwrap_or(agreed.sequence),
        bad_copies,
        first_round,
    }
}

fn without_agreement(copies: &[Copy; COPIES]) -> Choice {
    let told = || {
        let one = |copy: &Copy| match copy {
            Copy::Unreadable(error) => error.clone(),
            Copy::Bad(error) => error.to_string(),
            Copy::Good(superblock, _) => format!("version {}", superblock.sequence),
        };
        let all: Vec<String> =
            copies.iter().enumerate().map(|(i, c)| format!("copy {i}: {}", one(c))).collect();
        all.join(", ")
    };
    if copies.iter().any(|copy| matches!(copy, Copy::Unreadable(_))) {
        return Choice::Refuse(told());
    }
    for copy in copies {
        if let Copy::Bad(SuperblockError::Newer(version)) = copy {
            return Choice::Newer(*version);
        }
    }
    let blank = |copy: &Copy| matches!(copy, Copy::Bad(SuperblockError::Blank));
    let first_round = |copy: &Copy| match copy {
        Copy::Bad(_) => true,
        Copy::Good(superblock, _) => superblock.sequence == 1,
        Copy::Unreadable(_) => false,
    };
    if copies[2..].iter().all(blank) && copies[..2].iter().all(first_round) {
        return Choice::NeverMade;
    }
    Choice::Refuse(told())
}

#[cfg(test)]
mod tests {
    use ironring_core::{GroupSeq, SegmentId, ShardId, StorageUuid};

    use super::*;
    use crate::Identity;
    use crate::format::superblock::CheckpointRef;

    /// A copy of version `n`; `variant` tells copies of one version apart.
    fn good(n: u64, variant: u32) -> Copy {
        let checkpoint = CheckpointRef {
            number: 0,
            start: GroupSeq(1),
            segment: SegmentId(1),
            pos: 8192,
            previous_crc: 0,
            previous_run: 0,
            bytes: 0,
        };
        let superblock = Superblock {
            sequence: n,
            identity: Identity { storage: StorageUuid(1), shard: ShardId(0), salt: 0 },
            segment_bytes: 1 << 20,
            block_bytes: 4096,
            run: variant,
            next_segment: SegmentId(2),
            durable: GroupSeq(0),
            newest: checkpoint,
            older: checkpoint,
            slots: Vec::new(),
        };
        let bytes = superblock.encode();
        Copy::Good(Box::new(superblock), bytes)
    }

    fn v(n: u64) -> Copy {
        good(n, 0)
    }

    fn torn() -> Copy {
        Copy::Bad(SuperblockError::Damaged("torn".to_owned()))
    }

    fn blank() -> Copy {
        Copy::Bad(SuperblockError::Blank)
    }

    fn eio() -> Copy {
        Copy::Unreadable("EIO".to_owned())
    }

    fn newer_format() -> Copy {
        Copy::Bad(SuperblockError::Newer(2))
    }

    #[derive(Debug, PartialEq, Eq)]
    enum Answer {
        Use(u64, u64),
        NeverMade,
        Newer,
        Refuse,
    }

    fn answer(copies: [Copy; COPIES]) -> Answer {
        match choose(&copies) {
            Choice::Use { superblock, highest, .. } => Answer::Use(superblock.sequence, highest),
            Choice::NeverMade => Answer::NeverMade,
            Choice::Newer(_) => Answer::Newer,
            Choice::Refuse(_) => Answer::Refuse,
        }
    }

    #[test]
    fn every_state_a_crash_leaves_is_decided() {
        // In the first round: copies 0 and 1 are old, torn or new by themselves.
        for first in [v(7), torn(), v(8)] {
            for second in [v(7), torn(), v(8)] {
                let both_new = matches!((&first, &second), (Copy::Good(a, _), Copy::Good(b, _))
                    if a.sequence == 8 && b.sequence == 8);
                let any_new = [&first, &second]
                    .iter()
                    .any(|c| matches!(c, Copy::Good(s, _) if s.sequence == 8));
                let expected = if both_new { 8 } else { 7 };
                let copies = [first.clone(), second, v(7), v(7)];
                assert_eq!(answer(copies), Answer::Use(expected, if any_new { 8 } else { 7 }));
            }
        }
        // Between the rounds and in the second.
        for third in [v(7), torn(), v(8)] {
            for fourth in [v(7), torn(), v(8)] {
                let copies = [v(8), v(8), third.clone(), fourth];
                assert_eq!(answer(copies), Answer::Use(8, 8));
            }
        }
    }

    #[test]
    fn a_any_two_damaged_copies_leave_two_that_agree() {
        for bad in [torn(), blank(), eio()] {
            for (i, j) in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] {
                let mut copies = [v(5), v(5), v(5), v(5)];
                copies[i] = bad.clone();
                copies[j] = bad.clone();
                assert_eq!(answer(copies), Answer::Use(5, 5));
            }
        }
    }

    #[test]
    fn b_versions_that_never_left_their_first_round_are_passed_over() {
        assert_eq!(answer([v(9), v(8), v(7), v(7)]), Answer::Use(7, 9), "two crashes");
        assert_eq!(answer([v(8), v(9), v(7), v(7)]), Answer::Use(7, 9), "two crashes");
        assert_eq!(answer([newer_format(), v(7), v(7), v(7)]), Answer::Use(7, 7));
        assert_eq!(
            answer([v(7), v(7), v(8), v(9)]),
            Answer::Use(7, 9),
            "a run that relied on 0 and 1"
        );
        assert_eq!(answer([v(7), v(7), v(8), v(7)]), Answer::Use(7, 8));
    }

    #[test]
    fn c_two_contents_of_one_sequence_are_refused() {
        assert_eq!(answer([good(8, 1), good(8, 2), v(7), v(7)]), Answer::Refuse);
        assert_eq!(answer([v(7), v(7), good(8, 1), good(8, 2)]), Answer::Refuse);
        assert_eq!(answer([newer_format(), v(8), v(7), v(7)]), Answer::Newer);
    }

    #[test]
    fn runs_that_die_in_their_first_round_never_use_up_the_copies() {
        // Each run writes its version to one or both copies of its first round, or tears them.
        let mut states = vec![[v(5), v(5), v(5), v(5)], [v(5), v(5), torn(), v(4)]];
        for _ in 0..4 {
            let mut next = Vec::new();
            for copies in &states {
                let Choice::Use { superblock, highest, first_round, .. } = choose(copies) else {
                    panic!("does not open: {copies:?}");
                };
                assert!(superblock.sequence >= 5);
                let new = v(highest + 1);
                for (a, b) in [(0, 1), (1, 0), (1, 2), (2, 1), (2, 2), (0, 0), (1, 1)] {
                    let mut after = copies.clone();
                    for (i, what) in first_round.into_iter().zip([a, b]) {
                        match what {
                            0 => {}
                            1 => after[i] = new.clone(),
                            _ => after[i] = torn(),
                        }
                    }
                    next.push(after);
                }
            }
            states = next;
        }
        assert!(states.iter().all(|copies| matches!(choose(copies), Choice::Use { .. })));
    }

    #[test]
    fn d_to_g_without_agreement() {
        assert_eq!(answer([eio(), blank(), blank(), blank()]), Answer::Refuse, "D");
        assert_eq!(answer([eio(), eio(), eio(), eio()]), Answer::Refuse, "D");
        let all_newer = [newer_format(), newer_format(), newer_format(), newer_format()];
        assert_eq!(answer(all_newer), Answer::Newer, "E");
        for first in [blank(), torn(), v(1)] {
            for second in [blank(), torn()] {
                assert_eq!(
                    answer([first.clone(), second, blank(), blank()]),
                    Answer::NeverMade,
                    "F"
                );
            }
        }
        assert_eq!(answer([v(2), blank(), blank(), blank()]), Answer::Refuse, "G");
        assert_eq!(answer([torn(), torn(), torn(), blank()]), Answer::Refuse, "G");
        assert_eq!(answer([v(9), torn(), v(7), torn()]), Answer::Refuse, "G");
        assert_eq!(answer([v(9), v(8), v(7), v(6)]), Answer::Refuse, "G");
    }
}
