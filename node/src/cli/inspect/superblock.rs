//! A superblock file: its copies, and the version recovery would use.

use std::path::{Path, PathBuf};

use ironring_log::format::superblock::{CheckpointRef, SlotEntry, Superblock};
use serde::Serialize;

use super::verdict;
use crate::cli::output::{Cell, Column, Report, View};
use crate::cli::units;

/// A superblock file.
#[derive(Serialize)]
pub(super) struct SuperblockFound {
    pub(super) file: PathBuf,
    pub(super) copies: Vec<CopyFound>,
    /// Why recovery would use none of them.
    pub(super) refused: Option<String>,
    pub(super) chosen: Option<Chosen>,
}

#[derive(Serialize)]
pub(super) struct CopyFound {
    pub(super) copy: usize,
    pub(super) sequence: Option<u64>,
    pub(super) damage: Option<String>,
}

/// The version recovery would use.
#[derive(Serialize)]
pub(super) struct Chosen {
    pub(super) sequence: u64,
    pub(super) storage: String,
    pub(super) shard: u16,
    pub(super) segment_bytes: u32,
    pub(super) block_bytes: u32,
    pub(super) run: u32,
    pub(super) next_segment: u32,
    pub(super) durable_group: u64,
    pub(super) newest_checkpoint: CheckpointFacts,
    pub(super) older_checkpoint: CheckpointFacts,
    pub(super) slots: Vec<SlotFacts>,
}

#[derive(Serialize)]
pub(super) struct CheckpointFacts {
    pub(super) number: u64,
    pub(super) start_group: u64,
    pub(super) segment: u32,
    pub(super) pos: u32,
    pub(super) bytes: u64,
}

impl From<&CheckpointRef> for CheckpointFacts {
    fn from(checkpoint: &CheckpointRef) -> CheckpointFacts {
        CheckpointFacts {
            number: checkpoint.number,
            start_group: checkpoint.start.0,
            segment: checkpoint.segment.0,
            pos: checkpoint.pos,
            bytes: checkpoint.bytes,
        }
    }
}

impl CheckpointFacts {
    fn words(&self) -> String {
        match self.number {
            0 => "none".to_owned(),
            number => format!(
                "{number}: {}, replay from group {} (segment {}, byte {})",
                units::bytes(self.bytes),
                self.start_group,
                self.segment,
                self.pos
            ),
        }
    }
}

#[derive(Serialize)]
pub(super) struct SlotFacts {
    pub(super) slot: usize,
    pub(super) state: &'static str,
    pub(super) segment: u32,
    pub(super) generation: u32,
    pub(super) used: u32,
    pub(super) first_group: u64,
}

impl SlotFacts {
    pub(super) fn new((slot, entry): (usize, &SlotEntry)) -> SlotFacts {
        SlotFacts {
            slot,
            state: entry.state.name(),
            segment: entry.segment.0,
            generation: entry.generation,
            used: entry.used,
            first_group: entry.first_group.0,
        }
    }
}

impl From<Superblock> for Chosen {
    fn from(superblock: Superblock) -> Chosen {
        Chosen {
            sequence: superblock.sequence,
            storage: superblock.identity.storage.to_string(),
            shard: superblock.identity.shard.0,
            segment_bytes: superblock.segment_bytes,
            block_bytes: superblock.block_bytes,
            run: superblock.run,
            next_segment: superblock.next_segment.0,
            durable_group: superblock.durable.0,
            newest_checkpoint: (&superblock.newest).into(),
            older_checkpoint: (&superblock.older).into(),
            slots: superblock.slots.iter().enumerate().map(SlotFacts::new).collect(),
        }
    }
}

impl SuperblockFound {
    pub(super) fn new(file: &Path, bytes: &[u8]) -> SuperblockFound {
        let found = ironring_log::inspect::superblock(bytes);
        let copies = found.copies.iter().enumerate().map(|(copy, decoded)| CopyFound {
            copy,
            sequence: decoded.as_ref().ok().map(|superblock| superblock.sequence),
            damage: decoded.as_ref().err().map(ToString::to_string),
        });
        SuperblockFound {
            file: file.to_owned(),
            copies: copies.collect(),
            refused: found.chosen.as_ref().err().cloned(),
            chosen: found.chosen.ok().map(Chosen::from),
        }
    }

    pub(super) fn sound(&self) -> bool {
        self.chosen.is_some() && self.copies.iter().all(|copy| copy.damage.is_none())
    }
}

impl Report for SuperblockFound {
    fn view(&self) -> View {
        let copy = |copy: &CopyFound| -> Vec<Cell> {
            let sequence =
                copy.sequence.map_or_else(|| "-".to_owned(), |number| number.to_string());
            vec![copy.copy.to_string().into(), sequence.into(), verdict(copy.damage.as_deref())]
        };
        let view = View::new().rows(
            &[Column::Right("COPY"), Column::Right("SEQUENCE"), Column::Left("VERDICT")],
            self.copies.iter().map(copy).collect(),
        );
        let chosen = match (&self.chosen, &self.refused) {
            (Some(chosen), _) => chosen,
            (None, why) => {
                return view
                    .text(format!("recovery would use none: {}", why.as_deref().unwrap_or("-")));
            }
        };
        let slot = |slot: &SlotFacts| -> Vec<Cell> {
            vec![
                slot.slot.to_string().into(),
                slot.state.into(),
                slot.segment.to_string().into(),
                slot.generation.to_string().into(),
                units::bytes(u64::from(slot.used)).into(),
                slot.first_group.to_string().into(),
            ]
        };
        view.pairs([
            ("used", format!("sequence {}", chosen.sequence)),
            ("storage", chosen.storage.clone()),
            ("shard", chosen.shard.to_string()),
            ("segment size", units::bytes(u64::from(chosen.segment_bytes))),
            ("block size", units::bytes(u64::from(chosen.block_bytes))),
            ("run", chosen.run.to_string()),
            ("next segment", chosen.next_segment.to_string()),
            ("durable group", format!("at least {}", chosen.durable_group)),
            ("checkpoint", chosen.newest_checkpoint.words()),
            ("older checkpoint", chosen.older_checkpoint.words()),
        ])
        .rows(
            &[
                Column::Right("SLOT"),
                Column::Left("STATE"),
                Column::Right("SEGMENT"),
                Column::Right("GENERATION"),
                Column::Right("USED"),
                Column::Right("FIRST GROUP"),
            ],
            chosen.slots.iter().map(slot).collect(),
        )
    }
}
