//! What is corrupted in a run, by seed.
//!
//! Kinds come in decks, each a shuffled set in which every kind is, so that a run of a few hundred
//! corruptions has all of them.

use ironring_core::prng::Prng;
use serde::Serialize;

/// What befalls the files in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Bits flip in segments, sealed and active, under a node that runs.
    Flip,
    /// Sectors are overwritten with zeros or noise under a node that runs.
    Garbage,
    /// Bits flip in records of every node, all running: of each partition on one node only.
    Spread,
    /// Bits flip while the node is stopped.
    StoppedFlip,
    /// Sectors are overwritten while it is stopped.
    StoppedGarbage,
    /// Segment files are cut off while it is stopped.
    Truncate,
    /// A segment file is deleted while it is stopped.
    DeleteSegment,
    /// A segment file is deleted or emptied under a node that runs, which is killed a moment later.
    LoseUnder,
    /// Copies of the superblock are overwritten while it is stopped: one or two, or all.
    Superblock,
    /// Checkpoints are overwritten while it is stopped: the newest, or all.
    Checkpoints,
    /// The shard's directory is emptied while it is stopped.
    DeleteLog,
    /// The whole data directory is gone: the node is given up, and joins as a new one.
    Wipe,
    /// The part of the metadata group is damaged: the node is emptied with `node reinit`.
    Reinit,
}

impl Kind {
    /// Every kind, with how often it is in a deck.
    pub const DECK: [(Kind, u32); 13] = [
        (Kind::Flip, 4),
        (Kind::Garbage, 2),
        (Kind::Spread, 4),
        (Kind::StoppedFlip, 3),
        (Kind::StoppedGarbage, 2),
        (Kind::Truncate, 1),
        (Kind::DeleteSegment, 1),
        (Kind::LoseUnder, 1),
        (Kind::Superblock, 1),
        (Kind::Checkpoints, 1),
        (Kind::DeleteLog, 1),
        (Kind::Wipe, 1),
        (Kind::Reinit, 1),
    ];

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Flip => "flip",
            Kind::Garbage => "garbage",
            Kind::Spread => "spread",
            Kind::StoppedFlip => "stopped_flip",
            Kind::StoppedGarbage => "stopped_garbage",
            Kind::Truncate => "truncate",
            Kind::DeleteSegment => "delete_segment",
            Kind::LoseUnder => "lose_under",
            Kind::Superblock => "superblock",
            Kind::Checkpoints => "checkpoints",
            Kind::DeleteLog => "delete_log",
            Kind::Wipe => "wipe",
            Kind::Reinit => "reinit",
        }
    }

    /// Whether the node's files are corrupted while it is stopped.
    #[must_use]
    pub fn stops(self) -> bool {
        !matches!(self, Kind::Flip | Kind::Garbage | Kind::Spread)
    }

    /// How many corruptions a round of it puts in, from and to.
    fn counts(self) -> (u64, u64) {
        match self {
            Kind::Flip => (20, 60),
            Kind::Spread => (30, 60),
            Kind::StoppedFlip => (10, 40),
            Kind::Garbage | Kind::StoppedGarbage => (5, 20),
            Kind::Truncate => (1, 2),
            _ => (1, 1),
        }
    }
}

/// One round: a corruption, and the healing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Round {
    /// What.
    pub kind: Kind,
    /// Whose files; of [`Kind::Spread`] whose turn it is first.
    pub node: usize,
    /// How many corruptions.
    pub count: u64,
    /// A node that is stopped is told to end; else it is killed.
    pub politely: bool,
    /// What is drawn among the places there are comes from it.
    pub seed: u64,
}

/// Rounds of at least so many corruptions.
///
/// # Panics
/// Without nodes.
#[must_use]
pub fn rounds(seed: u64, nodes: usize, corruptions: u64) -> Vec<Round> {
    assert!(nodes > 0, "somebody's files are corrupted");
    let mut prng = Prng::new(seed ^ 0x0707_C0DE);
    let mut rounds = Vec::new();
    let mut deck: Vec<Kind> = Vec::new();
    let mut left = corruptions;
    while left > 0 {
        if deck.is_empty() {
            let cards = |&(kind, n): &(Kind, u32)| (0..n).map(move |_| kind);
            deck = Kind::DECK.iter().flat_map(cards).collect();
        }
        let kind = deck.swap_remove(prng.below(deck.len() as u64) as usize);
        let (least, most) = kind.counts();
        let round = Round {
            kind,
            node: prng.below(nodes as u64) as usize,
            count: least + prng.below(most - least + 1),
            politely: prng.chance(1, 3),
            seed: prng.next_u64(),
        };
        left = left.saturating_sub(round.count);
        rounds.push(round);
    }
    rounds
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_is_one_plan() {
        assert_eq!(rounds(7, 3, 500), rounds(7, 3, 500));
        assert_ne!(rounds(7, 3, 500), rounds(8, 3, 500));
    }

    #[test]
    fn a_run_of_a_thousand_corruptions_has_every_kind_on_every_node() {
        for seed in 0..50 {
            let rounds = rounds(seed, 3, 1000);
            let kinds: BTreeSet<Kind> = rounds.iter().map(|round| round.kind).collect();
            assert_eq!(kinds.len(), Kind::DECK.len(), "seed {seed}");
            let nodes: BTreeSet<usize> = rounds.iter().map(|round| round.node).collect();
            assert_eq!(nodes.len(), 3);
            let sum: u64 = rounds.iter().map(|round| round.count).sum();
            assert!((1000..1060).contains(&sum), "{sum}");
        }
    }
}
