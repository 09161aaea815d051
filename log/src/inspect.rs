//! Looking at a stopped log's files: what lies where, and what does not verify. Works on bytes the
//! caller read; damaged input gives reports, never a panic.

use crate::format::IdentitySeed;
use crate::format::checkpoint::{CheckpointError, CheckpointHeader, Frame, FrameReader};
use crate::format::group::{GROUP_HEADER_BYTES, GroupError, GroupHeader, GroupRecords};
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, SegmentHeaderError};
use crate::format::superblock::{COPIES, COPY_EXTENT_BYTES, Superblock, SuperblockError};
use crate::opening::superblock_choice::{Choice, Copy, choose};

/// What a superblock file holds.
#[derive(Clone, Debug)]
pub struct SuperblockInspection {
    /// Each copy.
    pub copies: Vec<Result<Superblock, SuperblockError>>,
    /// The version recovery would use, or why it would use none.
    pub chosen: Result<Superblock, String>,
}

/// Looks at the bytes of a superblock file.
#[must_use]
pub fn superblock(file: &[u8]) -> SuperblockInspection {
    let decode = |i: usize| {
        let extent = file.get(i * COPY_EXTENT_BYTES..(i + 1) * COPY_EXTENT_BYTES).unwrap_or(&[]);
        Superblock::decode(extent).map(|(superblock, len)| (superblock, extent[..len].to_vec()))
    };
    let copies: [Copy; COPIES] = std::array::from_fn(|i| match decode(i) {
        Ok((superblock, bytes)) => Copy::Good(Box::new(superblock), bytes),
        Err(error) => Copy::Bad(error),
    });
    let chosen = match choose(&copies) {
        Choice::Use { superblock, .. } => Ok(*superblock),
        Choice::NeverMade => Err("the log was never completely made".to_owned()),
        Choice::Newer(version) => Err(format!("format version {version} is not known")),
        Choice::Refuse(why) => Err(why),
    };
    let copies = (0..COPIES).map(|i| decode(i).map(|(superblock, _)| superblock)).collect();
    SuperblockInspection { copies, chosen }
}

/// A range of a segment file.
#[derive(Clone, Debug)]
pub enum SegmentItem<'a> {
    /// A group of this segment.
    Group {
        /// Byte position.
        pos: u32,
        /// Its header.
        header: GroupHeader,
        /// The checksum of the header, which the next group names.
        header_crc: u32,
        /// Whether the body verifies.
        body: Result<(), GroupError>,
        /// The body's bytes, as many as the file has.
        bytes: &'a [u8],
    },
    /// A header that does not verify.
    Damaged {
        /// Byte position.
        pos: u32,
        /// What is wrong with it.
        error: GroupError,
    },
    /// Blocks without a group of this segment: never used, or left by an earlier one.
    Gap {
        /// Byte position.
        pos: u32,
        /// Length in bytes.
        len: u32,
        /// Groups of an earlier segment of this file among them.
        left_overs: u32,
    },
}

/// Walks a segment file's bytes from front to back.
pub struct SegmentInspector<'a> {
    bytes: &'a [u8],
    copies: [Result<SegmentHeader, SegmentHeaderError>; 2],
    header: SegmentHeader,
    seed: IdentitySeed,
    pos: u32,
}

impl<'a> SegmentInspector<'a> {
    /// Begins. An error when neither copy of the header verifies: without it groups cannot be
    /// told from other bytes.
    pub fn new(bytes: &'a [u8]) -> Result<SegmentInspector<'a>, SegmentHeaderError> {
        let decode = |at: usize| match bytes.get(at..at + SEGMENT_HEADER_BYTES) {
            Some(header) => SegmentHeader::decode(header),
            None => Err(SegmentHeaderError::NoMagic),
        };
        let first = decode(0);
        // The second copy is one block further; without the first, every block size is tried.
        let second = match &first {
            Ok(header) => decode(header.block_bytes as usize),
            Err(_) => (12..=16)
                .find_map(|bits| decode(1 << bits).ok().filter(|h| h.block_bytes == 1 << bits))
                .ok_or(SegmentHeaderError::NoMagic),
        };
        let header = match (&first, &second) {
            (Ok(header), _) | (Err(_), Ok(header)) => *header,
            (Err(error), Err(_)) => return Err(*error),
        };
        let seed = IdentitySeed::new(header.identity);
        let pos = 2 * header.block_bytes;
        Ok(SegmentInspector { bytes, copies: [first, second], header, seed, pos })
    }

    /// The segment's header.
    #[must_use]
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// Both copies of the header as they are.
    pub fn copies(&self) -> &[Result<SegmentHeader, SegmentHeaderError>; 2] {
        &self.copies
    }

    /// The records of a group's body, verified one by one.
    #[must_use]
    pub fn records(&self, pos: u32, body: &'a [u8]) -> GroupRecords<'a> {
        GroupRecords::verified(body, self.header.segment, pos + GROUP_HEADER_BYTES as u32)
    }

    fn block(&self, pos: u32) -> Option<&'a [u8]> {
        let start = pos as usize;
        self.bytes.get(start..start + self.header.block_bytes as usize)
    }

    /// Whether a group of an earlier segment of this file lies in the block.
    fn left_over(&self, pos: u32, decoded: &Result<(GroupHeader, u32), GroupError>) -> bool {
        matches!(decoded, Ok((h, _)) if (h.segment, h.pos) != (self.header.segment, pos))
    }
}

impl<'a> Iterator for SegmentInspector<'a> {
    type Item = SegmentItem<'a>;

    fn next(&mut self) -> Option<SegmentItem<'a>> {
        let (start, block) = (self.pos, self.header.block_bytes);
        let mut left_overs = 0;
        while let Some(bytes) = self.block(self.pos) {
            let decoded = GroupHeader::decode(bytes, self.seed);
            let left_over = self.left_over(self.pos, &decoded);
            if left_over || matches!(decoded, Err(GroupError::NoMagic)) {
                left_overs += u32::from(left_over);
                self.pos += block;
                continue;
            }
            if self.pos > start {
                break;
            }
            let pos = self.pos;
            let (header, header_crc) = match decoded {
                Ok(decoded) => decoded,
                Err(error) => {
                    self.pos += block;
                    return Some(SegmentItem::Damaged { pos, error });
                }
            };
            let from = pos as usize + GROUP_HEADER_BYTES;
            let to = (from + header.body_len as usize).min(self.bytes.len());
            let bytes = &self.bytes[from..to];
            let body = header.verify_body(bytes);
            // Behind a damaged body the next group is looked for block by block.
            self.pos += if body.is_ok() { header.padded_len(block) } else { block };
            return Some(SegmentItem::Group { pos, header, header_crc, body, bytes });
        }
        let len = self.pos - start;
        (len > 0).then_some(SegmentItem::Gap { pos: start, len, left_overs })
    }
}

/// A checkpoint file's header and pieces.
#[derive(Clone, Debug)]
pub struct CheckpointInspection {
    /// The header.
    pub header: CheckpointHeader,
    /// The pieces up to the first damage.
    pub pieces: Vec<Vec<u8>>,
    /// Whether all of it verifies.
    pub complete: Result<(), CheckpointError>,
}

/// Looks at the bytes of a checkpoint file.
pub fn checkpoint(file: &[u8]) -> Result<CheckpointInspection, CheckpointError> {
    let header = CheckpointHeader::decode(file)?.0;
    let mut frames = FrameReader::new(header);
    frames.feed(file);
    let mut pieces = Vec::new();
    let complete = loop {
        match frames.next_frame() {
            Ok(Frame::Piece(piece)) => pieces.push(piece.to_vec()),
            Ok(Frame::End) => break Ok(()),
            Ok(Frame::NeedMore) => break Err(CheckpointError::Unfinished),
            Err(error) => break Err(error),
        }
    };
    Ok(CheckpointInspection { header, pieces, complete })
}
