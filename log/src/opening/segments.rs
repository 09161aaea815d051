//! Opens every segment file the superblock lists and compares its headers with the table; looks
//! into files it does not list, which a crash while a segment was made leaves behind.

use ironring_core::io::{FileName, IoError, IoOk, IoOp};
use ironring_core::{FilePos, SlotId};

use super::{Cx, Done, check_identity};
use crate::format::FORMAT_VERSION;
use crate::format::segment::{SegmentHeader, SegmentHeaderError};
use crate::format::superblock::{SlotEntry, SlotState, Superblock};
use crate::segments::file_of;
use crate::{LogFailure, RecoveryReport};

/// Files looked at at the same time.
const PARALLEL: usize = 16;

pub(super) struct Checking {
    /// Files not begun, last first.
    todo: Vec<SlotId>,
    in_flight: usize,
    total: u64,
}

impl Checking {
    pub fn begin(
        superblock: &Superblock,
        listing: &[(FileName, u64)],
        cx: &mut Cx<'_>,
    ) -> Checking {
        let listed = (superblock.slots.iter().enumerate())
            .filter(|(_, entry)| entry.state != SlotState::Absent)
            .map(|(i, _)| SlotId(i as u32));
        let in_directory = listing.iter().filter_map(|(file, _)| match file {
            FileName::Segment(slot) => Some(*slot),
            _ => None,
        });
        let mut todo: Vec<SlotId> = listed.chain(in_directory).collect();
        todo.sort_unstable_by(|a, b| b.cmp(a));
        todo.dedup();
        let total = todo.len() as u64;
        let mut checking = Checking { todo, in_flight: 0, total };
        checking.open_more(cx);
        checking
    }

    pub fn done(&self) -> u64 {
        self.total - self.todo.len() as u64
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    fn open_more(&mut self, cx: &mut Cx<'_>) {
        while self.in_flight < PARALLEL
            && let Some(slot) = self.todo.pop()
        {
            cx.push(u64::from(slot.0), IoOp::Open { file: file_of(slot) });
            self.in_flight += 1;
        }
    }

    /// A request ended. True: all files were looked at.
    pub fn on_done(
        &mut self,
        done: Done,
        superblock: &Superblock,
        report: &mut RecoveryReport,
        cx: &mut Cx<'_>,
    ) -> Result<bool, LogFailure> {
        let slot = SlotId(done.tag as u32);
        let file = file_of(slot);
        let entry =
            superblock.slots.get(done.tag as usize).filter(|e| e.state != SlotState::Absent);
        let headers = 2 * superblock.block_bytes;
        match (done.result, entry) {
            (Err(IoError::NotFound), Some(_)) => return Err(LogFailure::SegmentMissing { file }),
            (Err(error), _) => return Err(LogFailure::Io { op: done.op, error }),
            (Ok(IoOk::Opened(found)), Some(_)) if found != u64::from(superblock.segment_bytes) => {
                let expected = u64::from(superblock.segment_bytes);
                return Err(LogFailure::SegmentLength { file, expected, found });
            }
            (Ok(IoOk::Opened(len)), _) if len >= u64::from(headers) => {
                cx.push(done.tag, IoOp::ReadAt { file, pos: FilePos(0), len: headers });
                return Ok(false);
            }
            (Ok(IoOk::Read(buf)), entry) => {
                let copies = buf.split_at(superblock.block_bytes as usize);
                let copies = [SegmentHeader::decode(copies.0), SegmentHeader::decode(copies.1)];
                match entry {
                    Some(entry) if entry.state != SlotState::Free => {
                        listed_header(superblock, slot, entry, copies, report)?;
                    }
                    _ => unused_header(superblock, slot, copies)?,
                }
                if entry.is_none() {
                    cx.push(done.tag, IoOp::Close { file });
                    return Ok(false);
                }
            }
            // A file too short for headers that the superblock does not list.
            (Ok(IoOk::Opened(_)), _) => {
                cx.push(done.tag, IoOp::Close { file });
                return Ok(false);
            }
            (Ok(_), _) => {}
        }
        self.in_flight -= 1;
        self.open_more(cx);
        Ok(self.in_flight == 0)
    }
}

/// The header of a slot that holds a segment: one good copy must say what the table says.
fn listed_header(
    superblock: &Superblock,
    slot: SlotId,
    entry: &SlotEntry,
    copies: [Result<SegmentHeader, SegmentHeaderError>; 2],
    report: &mut RecoveryReport,
) -> Result<(), LogFailure> {
    let file = file_of(slot);
    let mut detail = String::new();
    let mut good = 0;
    for copy in copies {
        match copy {
            Ok(header) => {
                check_identity(file, superblock.identity, header.identity)?;
                if header.slot == slot
                    && header.segment == entry.segment
                    && header.generation == entry.generation
                {
                    good += 1;
                } else {
                    detail = format!(
                        "it is segment {} of slot {}, the superblock says segment {} of slot {slot}",
                        header.segment, header.slot, entry.segment
                    );
                }
            }
            Err(SegmentHeaderError::Newer(found)) => {
                return Err(LogFailure::Newer { file, found, supported: FORMAT_VERSION });
            }
            Err(error) => {
                report.segment_headers_bad += 1;
                detail = error.to_string();
            }
        }
    }
    if good == 0 {
        return Err(LogFailure::SegmentHeader { file, detail });
    }
    Ok(())
}

/// The header of a file that holds nothing the log needs: it must not be newer than the table.
/// It may be that of the very next segment: preparing it was interrupted, and the slot is free still,
/// or was given up since and its file not yet removed.
fn unused_header(
    superblock: &Superblock,
    slot: SlotId,
    copies: [Result<SegmentHeader, SegmentHeaderError>; 2],
) -> Result<(), LogFailure> {
    let file = file_of(slot);
    for header in copies.into_iter().flatten() {
        check_identity(file, superblock.identity, header.identity)?;
        if header.segment > superblock.next_segment {
            return Err(LogFailure::SuperblockStale { file, found: header.segment });
        }
    }
    Ok(())
}
