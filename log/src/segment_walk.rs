//! Walks the groups of a sealed segment, verifying everything, a bounded read at a time.

use ironring_core::io::IoOp;
use ironring_core::{FilePos, SegmentId, SlotId};

use crate::format::IdentitySeed;
use crate::format::group::{GROUP_HEADER_BYTES, GroupHeader, GroupRecords};
use crate::segments::file_of;

/// A verified group in the walker's window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walked {
    header: GroupHeader,
    /// Where the body begins in the window.
    body_at: usize,
}

/// The walk. `pos..end` of the segment is covered by groups without holes.
#[derive(Debug)]
pub(crate) struct SegmentWalk {
    seed: IdentitySeed,
    block: u32,
    pub segment: SegmentId,
    pub slot: SlotId,
    /// Position of the next group.
    pos: u32,
    end: u32,
    window: Vec<u8>,
    at: usize,
}

impl SegmentWalk {
    pub fn new(
        seed: IdentitySeed,
        block: u32,
        (segment, slot): (SegmentId, SlotId),
        start: u32,
        end: u32,
    ) -> SegmentWalk {
        SegmentWalk { seed, block, segment, slot, pos: start, end, window: Vec::new(), at: 0 }
    }

    /// Position of the next group.
    pub fn pos(&self) -> u32 {
        self.pos
    }

    /// The next read of at most `chunk` bytes; `None` at the end of the segment.
    pub fn next_read(&self, chunk: u32) -> Option<IoOp> {
        let from = self.pos + (self.window.len() - self.at) as u32;
        let len = chunk.min(self.end - from);
        let pos = FilePos(u64::from(from));
        (len > 0).then(|| IoOp::ReadAt { file: file_of(self.slot), pos, len })
    }

    /// The bytes of that read.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.window.drain(..self.at);
        self.at = 0;
        self.window.extend_from_slice(bytes);
    }

    /// The next whole group, verified; `None`: more bytes are needed, or the segment ended.
    pub fn next_group(&mut self) -> Result<Option<Walked>, String> {
        let rest = &self.window[self.at..];
        if rest.len() < self.block as usize {
            return Ok(None);
        }
        let (header, _) = GroupHeader::decode(rest, self.seed).map_err(|e| e.to_string())?;
        if (header.segment, header.pos) != (self.segment, self.pos) {
            return Err(format!(
                "a group of segment {}, byte {} is there",
                header.segment, header.pos
            ));
        }
        let padded = header.padded_len(self.block);
        if padded > self.end - self.pos {
            return Err(format!("a group of {padded} bytes does not end in its segment"));
        }
        if rest.len() < padded as usize {
            return Ok(None);
        }
        let body = &rest[GROUP_HEADER_BYTES..GROUP_HEADER_BYTES + header.body_len as usize];
        header.verify_body(body).map_err(|e| e.to_string())?;
        let body_pos = self.pos + GROUP_HEADER_BYTES as u32;
        for item in GroupRecords::verified(body, self.segment, body_pos) {
            item.map_err(|(pos, e)| format!("record at byte {pos}: {e}"))?;
        }
        let walked = Walked { header, body_at: self.at + GROUP_HEADER_BYTES };
        self.at += padded as usize;
        self.pos += padded;
        Ok(Some(walked))
    }

    /// The records of a group that [`SegmentWalk::next_group`] gave, until the next `feed`,
    /// beginning `skip` bytes into the body.
    pub fn records(&self, walked: &Walked, skip: u32) -> GroupRecords<'_> {
        let start = walked.body_at + skip as usize;
        let end = walked.body_at + walked.header.body_len as usize;
        let pos = walked.header.pos + GROUP_HEADER_BYTES as u32 + skip;
        GroupRecords::trusted(&self.window[start..end], self.segment, pos)
    }
}
