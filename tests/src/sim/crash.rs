//! When the simulated node dies: after so many steps of a life, or at a chosen file operation, so
//! that rare moments (a checkpoint half written, a superblock just replaced) are met often.

use ironring_core::io::{FileName, IoOp};
use ironring_core::prng::Prng;

/// The kind of a file operation, for triggers and coverage.
#[must_use]
pub fn kind_of(op: &IoOp) -> &'static str {
    match op {
        IoOp::List => "list",
        IoOp::SyncDir => "sync_dir",
        IoOp::Open { .. } => "open",
        IoOp::ReadAt { file: FileName::Superblock, .. } => "read_superblock",
        IoOp::ReadAt { file: FileName::Segment(_), .. } => "read_segment",
        IoOp::ReadAt { file: FileName::Checkpoint(_), .. } => "read_checkpoint",
        IoOp::WriteAt { file: FileName::Superblock, .. } => "write_superblock",
        IoOp::WriteAt { file: FileName::Segment(_), durable: true, .. } => "write_segment",
        IoOp::WriteAt { file: FileName::Segment(_), .. } => "fill_segment",
        IoOp::WriteAt { file: FileName::Checkpoint(_), .. } => "write_checkpoint",
        IoOp::Create { file: FileName::Checkpoint(_) } => "create_checkpoint",
        IoOp::Create { .. } => "create",
        IoOp::Sync { .. } => "sync",
        IoOp::Remove { .. } => "remove",
        IoOp::Close { .. } => "close",
    }
}

const KINDS: [&str; 15] = [
    "list",
    "sync_dir",
    "open",
    "read_superblock",
    "read_segment",
    "read_checkpoint",
    "write_superblock",
    "write_segment",
    "fill_segment",
    "write_checkpoint",
    "create_checkpoint",
    "create",
    "sync",
    "remove",
    "close",
];

/// A moment in the life of a file operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It was handed to the disk.
    Submitted,
    /// It took effect; the node has not heard.
    Done,
    /// The node has heard.
    Heard,
}

/// What brings a life to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// So many more events handled.
    Steps(u64),
    /// The n-th operation of a kind reaches a moment.
    At {
        /// See [`kind_of`].
        kind: &'static str,
        /// How many more of them.
        nth: u32,
        /// Which moment.
        moment: Moment,
    },
}

impl Trigger {
    /// Draws one. Half of them count steps, on a scale from a few (formatting, recovery) to many.
    pub fn draw(rng: &mut Prng) -> Trigger {
        if rng.chance(1, 2) {
            let scale = rng.below(12) as u32;
            return Trigger::Steps(1 + rng.below(2 << scale));
        }
        // A third of these die with a commit group in flight: the commonest real crash.
        let kind = match rng.below(3) {
            0 => "write_segment",
            _ => KINDS[rng.below(KINDS.len() as u64) as usize],
        };
        let moment = match rng.below(4) {
            0 | 1 => Moment::Submitted,
            2 => Moment::Done,
            _ => Moment::Heard,
        };
        let many = if kind == "write_segment" { 40 } else { 4 };
        Trigger::At { kind, nth: 1 + rng.below(many) as u32, moment }
    }

    /// An event was handled: is it time?
    pub fn step(&mut self) -> bool {
        match self {
            Trigger::Steps(left) => {
                *left = left.saturating_sub(1);
                *left == 0
            }
            Trigger::At { .. } => false,
        }
    }

    /// An operation reached a moment: is it time?
    pub fn io(&mut self, happened: &'static str, at: Moment) -> bool {
        match self {
            Trigger::At { kind, nth, moment } if *kind == happened && *moment == at => {
                *nth = nth.saturating_sub(1);
                *nth == 0
            }
            _ => false,
        }
    }
}
