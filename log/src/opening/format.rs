//! Makes a new log; the order is the one the header of [`super`] states.

use ironring_core::io::{FileName, IoOk, IoOp};
use ironring_core::{FilePos, GroupSeq, SegmentId, SlotId};

use super::Cx;
use crate::Identity;
use crate::config::LogConfig;
use crate::format::segment::SegmentHeader;
use crate::format::superblock::{
    COPIES, COPY_EXTENT_BYTES, CheckpointRef, SlotEntry, SlotState, Superblock,
};
use crate::provision::{Fill, header_write};

const FIRST_SEGMENT: SegmentId = SegmentId(1);

enum Step {
    Create,
    Zero { next_copy: usize },
    Sync,
    SyncDir,
    Fill(Fill),
    Header,
}

pub(super) struct Formatting {
    identity: Identity,
    step: Step,
}

impl Formatting {
    pub fn begin(_config: &LogConfig, identity: Identity, cx: &mut Cx<'_>) -> Formatting {
        cx.push(0, IoOp::Create { file: FileName::Superblock });
        Formatting { identity, step: Step::Create }
    }

    pub fn bytes_done(&self) -> u64 {
        if let Step::Fill(fill) = &self.step { fill.bytes_done() } else { 0 }
    }

    /// The request that follows `done`; at the end, what the first superblock version says.
    pub fn next(&mut self, done: IoOk, config: &LogConfig, cx: &mut Cx<'_>) -> Option<Superblock> {
        match &mut self.step {
            Step::Create => {
                self.step = Step::Zero { next_copy: 0 };
                self.zero_copy(0, cx);
            }
            Step::Zero { next_copy } if *next_copy + 1 < COPIES => {
                *next_copy += 1;
                let copy = *next_copy;
                self.zero_copy(copy, cx);
            }
            Step::Zero { .. } => {
                cx.push(0, IoOp::Sync { file: FileName::Superblock });
                self.step = Step::Sync;
            }
            Step::Sync => {
                cx.push(0, IoOp::SyncDir);
                self.step = Step::SyncDir;
            }
            Step::SyncDir => {
                let (fill, op) = Fill::begin(SlotId(0), config.segment_bytes);
                cx.push(0, op);
                self.step = Step::Fill(fill);
            }
            Step::Fill(fill) => {
                if let Some(op) = fill.next(done, cx.alloc) {
                    cx.push(0, op);
                    return None;
                }
                let header = SegmentHeader {
                    identity: self.identity,
                    slot: SlotId(0),
                    segment: FIRST_SEGMENT,
                    generation: 1,
                    prepared_at: GroupSeq(1),
                    segment_bytes: config.segment_bytes,
                    block_bytes: config.block_bytes,
                };
                let op = header_write(&header, cx.alloc);
                cx.push(0, op);
                self.step = Step::Header;
            }
            Step::Header => return Some(self.first_superblock(config)),
        }
        None
    }

    fn zero_copy(&self, copy: usize, cx: &mut Cx<'_>) {
        let mut buf = cx.alloc.alloc(COPY_EXTENT_BYTES);
        buf.fill(0);
        let pos = FilePos((copy * COPY_EXTENT_BYTES) as u64);
        cx.push(0, IoOp::WriteAt { file: FileName::Superblock, pos, buf, durable: false });
    }

    fn first_superblock(&self, config: &LogConfig) -> Superblock {
        let beginning = CheckpointRef {
            number: 0,
            start: GroupSeq(1),
            segment: FIRST_SEGMENT,
            pos: config.data_start(),
            previous_crc: 0,
            previous_run: 0,
            bytes: 0,
        };
        Superblock {
            sequence: 0,
            identity: self.identity,
            segment_bytes: config.segment_bytes,
            block_bytes: config.block_bytes,
            run: 0,
            next_segment: SegmentId(FIRST_SEGMENT.0 + 1),
            durable: GroupSeq(0),
            newest: beginning,
            older: beginning,
            slots: vec![SlotEntry {
                segment: FIRST_SEGMENT,
                generation: 1,
                state: SlotState::Active,
                used: 0,
                first_group: GroupSeq(1),
            }],
        }
    }
}
