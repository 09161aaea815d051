//! Makes segments ready ahead of their use: zero-fills new files, prepares free ones.
//!
//! Overwriting blocks that were written before costs a group commit one device write; extending a
//! file or writing into allocated but unwritten extents costs a journal commit each time. So a new
//! file is filled with zeros, in chunks of [`FILL_BYTES`] with one in flight so that they never
//! crowd out the group commit, and synced with its directory before the superblock lists it. A
//! recycled file is overwritten as it is: its old groups carry an old segment id.

use ironring_core::FilePos;
use ironring_core::SlotId;
use ironring_core::io::{BufAlloc, IoBuf, IoOk, IoOp};

use crate::format::segment::SegmentHeader;
use crate::segments::file_of;

/// Bytes of one write of zeros.
pub(crate) const FILL_BYTES: u32 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Create,
    Write,
    Sync,
    SyncDir,
}

/// Zero-filling one file, a request at a time.
#[derive(Debug)]
pub(crate) struct Fill {
    pub slot: SlotId,
    segment_bytes: u32,
    step: Step,
    pos: u32,
    zeros: Option<IoBuf>,
}

impl Fill {
    /// The fill and its first request.
    pub fn begin(slot: SlotId, segment_bytes: u32) -> (Fill, IoOp) {
        let fill = Fill { slot, segment_bytes, step: Step::Create, pos: 0, zeros: None };
        (fill, IoOp::Create { file: file_of(slot) })
    }

    /// Bytes written so far.
    pub fn bytes_done(&self) -> u64 {
        u64::from(self.pos)
    }

    /// The request that follows `done`; `None`: the file is full-sized and durable.
    pub fn next(&mut self, done: IoOk, alloc: &mut dyn BufAlloc) -> Option<IoOp> {
        let file = file_of(self.slot);
        match self.step {
            Step::Create => self.step = Step::Write,
            Step::Write => {
                if let IoOk::Written(buf) = done {
                    self.zeros = Some(buf);
                }
            }
            Step::Sync => {
                self.step = Step::SyncDir;
                return Some(IoOp::SyncDir);
            }
            Step::SyncDir => return None,
        }
        if self.pos == self.segment_bytes {
            self.step = Step::Sync;
            self.zeros = None;
            return Some(IoOp::Sync { file });
        }
        let len = FILL_BYTES.min(self.segment_bytes - self.pos) as usize;
        let buf = match self.zeros.take() {
            Some(buf) if buf.len() == len => buf,
            _ => {
                let mut buf = alloc.alloc(len);
                buf.fill(0);
                buf
            }
        };
        let pos = FilePos(u64::from(self.pos));
        self.pos += len as u32;
        Some(IoOp::WriteAt { file, pos, buf, durable: false })
    }
}

/// The write of both copies of a segment's header.
pub(crate) fn header_write(header: &SegmentHeader, alloc: &mut dyn BufAlloc) -> IoOp {
    let block = header.block_bytes as usize;
    let mut buf = alloc.alloc(2 * block);
    buf.fill(0);
    let (first, second) = buf.split_at_mut(block);
    header.encode(first);
    header.encode(second);
    IoOp::WriteAt { file: file_of(header.slot), pos: FilePos(0), buf, durable: true }
}
