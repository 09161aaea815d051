//! Which superblock version counts, from what the four copies hold.
//!
//! Version n is written to copies 0 and 1, durable, then to copies 2 and 3, durable, and only then
//! is anything done that relies on it. Version 1 is written when a log is made, into a file of
//! zeros; nothing is acknowledged before version 2 is settled. So after a crash the copies are:
//!
//! | crash | 0 | 1 | 2 | 3 |
//! |---|---|---|---|---|
//! | in the first round | old, torn or new | old, torn or new | old | old |
//! | between the rounds | new | new | old | old |
//! | in the second round | new | new | old, torn or new | old, torn or new |
//!
//! The table of answers, first match counts:
//!
//! | | found | answer |
//! |---|---|---|
//! | A | two or more copies agree byte for byte; nothing newer | use it (the highest such) |
//! | B | as A, and copies 0 or 1 are newer, both only with different sequences | use it: the newer ones were in a first round (after two crashes in two of them), nothing relied on them |
//! | C | as A, and copy 2 or 3 alone is newer, or 0 and 1 are newer and differ in one sequence | refuse: the first round was complete and is gone |
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
    /// This version; `highest` is the highest sequence seen anywhere.
    Use { superblock: Box<Superblock>, highest: u64, bad_copies: u64 },
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
    let sequences_differ = match (good(0), good(1)) {
        (Some((a, _)), Some((b, _))) => a.sequence != b.sequence,
        _ => false,
    };
    match (newer.as_slice(), newer_format) {
        ([] | [0] | [1], _) => {}
        ([0, 1], None) if sequences_differ => {}
        (_, Some(version)) => return Choice::Newer(version),
        _ => {
            return Choice::Refuse(format!(
                "copies {newer:?} are newer than version {}, on which two agree",
                agreed.sequence
            ));
        }
    }
    let highest = (0..COPIES).filter_map(good).map(|(s, _)| s.sequence).max();
    let bad_copies = (0..COPIES).filter(|i| good(*i).is_none()).count() as u64;
    Choice::Use {
        superblock: agreed.clone(),
        highest: highest.unwrap_or(agreed.sequence),
        bad_copies,
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
