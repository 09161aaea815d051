//! A checkpoint file: a header, frames one after another, the last frame says how many there were;
//! zeros up to the block.
//!
//! Header (64 bytes): magic `IRCHKPT1`, format version u32, crc32c u32 of bytes 0..12 and 16..64,
//! storage uuid u128, shard u16, 6 zeros, number u64, start group u64, salt u64 (format 1: zeros).
//!
//! Frame: kind u32 (1 piece, 2 end), payload length u32, index u32, crc32c u32 of (header
//! checksum, kind, length, index, payload), payload. The end's payload: number of pieces u64,
//! bytes of all pieces u64; its index is the number of pieces.

use ironring_core::checksum::{crc32c, crc32c_append};
use ironring_core::{GroupSeq, ShardId, StorageUuid};

use super::FORMAT_VERSION;
use super::le::{get_u16, get_u32, get_u64, get_u128, put_u16, put_u32, put_u64, put_u128};
use crate::Identity;

/// Length of a checkpoint's header.
pub const CHECKPOINT_HEADER_BYTES: usize = 64;
/// Length of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 16;
/// Longest piece.
pub const PIECE_BYTES_MAX: usize = 4 << 20;
const MAGIC: &[u8; 8] = b"IRCHKPT1";
const KIND_PIECE: u32 = 1;
const KIND_END: u32 = 2;
const END_BYTES: usize = 16;

/// A checkpoint's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointHeader {
    /// Whose it is.
    pub identity: Identity,
    /// Number of the file.
    pub number: u64,
    /// The first group to replay after it.
    pub start: GroupSeq,
}

/// Why a checkpoint file is not complete and intact.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// No header.
    #[error("no checkpoint header")]
    NoMagic,
    /// Header or frame bytes changed.
    #[error("checksum {got:#010x} at byte {pos}, expected {expected:#010x}")]
    Checksum {
        /// Where in the file.
        pos: u64,
        /// Stored.
        expected: u32,
        /// Of the bytes found.
        got: u32,
    },
    /// Written by newer code.
    #[error("format version {0}")]
    Newer(u32),
    /// The header is of another directory, shard, number or start.
    #[error("the header names another checkpoint: {0}")]
    Other(String),
    /// A frame that cannot be.
    #[error("bad frame at byte {pos}: {what}")]
    Frame {
        /// Where in the file.
        pos: u64,
        /// What is wrong.
        what: String,
    },
    /// The file ended before the end frame.
    #[error("the file ends before its last frame")]
    Unfinished,
}

impl CheckpointHeader {
    /// The header's bytes and its checksum, which every frame's checksum starts from.
    #[must_use]
    pub fn encode(&self) -> ([u8; CHECKPOINT_HEADER_BYTES], u32) {
        let mut out = [0u8; CHECKPOINT_HEADER_BYTES];
        out[..8].copy_from_slice(MAGIC);
        put_u32(&mut out, 8, FORMAT_VERSION);
        put_u128(&mut out, 16, self.identity.storage.0);
        put_u16(&mut out, 32, self.identity.shard.0);
        put_u64(&mut out, 40, self.number);
        put_u64(&mut out, 48, self.start.0);
        put_u64(&mut out, 56, self.identity.salt);
        let crc = header_checksum(&out);
        put_u32(&mut out, 12, crc);
        (out, crc)
    }

    /// The header at the beginning of `bytes`, and its checksum.
    pub fn decode(bytes: &[u8]) -> Result<(CheckpointHeader, u32), CheckpointError> {
        if bytes.len() < CHECKPOINT_HEADER_BYTES {
            return Err(CheckpointError::NoMagic);
        }
        if &bytes[..8] != MAGIC {
            return Err(CheckpointError::NoMagic);
        }
        let expected = get_u32(bytes, 12);
        let got = header_checksum(&bytes[..CHECKPOINT_HEADER_BYTES]);
        if expected != got {
            return Err(CheckpointError::Checksum { pos: 0, expected, got });
        }
        let version = get_u32(bytes, 8);
        if version > FORMAT_VERSION {
            return Err(CheckpointError::Newer(version));
        }
        let header = CheckpointHeader {
            identity: Identity {
                storage: StorageUuid(get_u128(bytes, 16)),
                shard: ShardId(get_u16(bytes, 32)),
                salt: get_u64(bytes, 56),
            },
            number: get_u64(bytes, 40),
            start: GroupSeq(get_u64(bytes, 48)),
        };
        Ok((header, got))
    }
}

fn header_checksum(header: &[u8]) -> u32 {
    crc32c_append(crc32c(&header[..12]), &header[16..])
}

fn frame_checksum(header_crc: u32, frame_header: &[u8], payload: &[u8]) -> u32 {
    crc32c_append(crc32c_append(header_crc, &frame_header[..12]), payload)
}

/// Makes the frames of one checkpoint file.
#[derive(Debug)]
pub struct FrameWriter {
    header_crc: u32,
    pieces: u64,
    bytes: u64,
}

impl FrameWriter {
    /// For the file whose header has this checksum.
    #[must_use]
    pub fn new(header_crc: u32) -> FrameWriter {
        FrameWriter { header_crc, pieces: 0, bytes: 0 }
    }

    /// Appends a piece's frame to `out`.
    pub fn piece(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        assert!(piece.len() <= PIECE_BYTES_MAX, "a checkpoint piece is bounded by its source");
        self.frame(KIND_PIECE, piece, out);
        self.pieces += 1;
        self.bytes += piece.len() as u64;
    }

    /// Appends the end frame to `out`.
    pub fn end(self, out: &mut Vec<u8>) {
        let mut payload = [0u8; END_BYTES];
        put_u64(&mut payload, 0, self.pieces);
        put_u64(&mut payload, 8, self.bytes);
        self.frame(KIND_END, &payload, out);
    }

    fn frame(&self, kind: u32, payload: &[u8], out: &mut Vec<u8>) {
        let mut header = [0u8; FRAME_HEADER_BYTES];
        put_u32(&mut header, 0, kind);
        put_u32(&mut header, 4, payload.len() as u32);
        put_u32(&mut header, 8, self.pieces as u32);
        let crc = frame_checksum(self.header_crc, &header, payload);
        put_u32(&mut header, 12, crc);
        out.extend_from_slice(&header);
        out.extend_from_slice(payload);
    }
}

/// What [`FrameReader::next_frame`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// The next piece.
    Piece(&'a [u8]),
    /// All pieces were read and their number is right.
    End,
    /// Feed more bytes.
    NeedMore,
}

/// Takes a checkpoint file apart as its bytes arrive.
#[derive(Debug)]
pub struct FrameReader {
    expect: CheckpointHeader,
    header_crc: Option<u32>,
    window: Vec<u8>,
    at: usize,
    pos: u64,
    pieces: u64,
    bytes: u64,
}

impl FrameReader {
    /// Reads the file that `expect` describes; any other header is an error.
    #[must_use]
    pub fn new(expect: CheckpointHeader) -> FrameReader {
        FrameReader {
            expect,
            header_crc: None,
            window: Vec::new(),
            at: 0,
            pos: 0,
            pieces: 0,
            bytes: 0,
        }
    }

    /// Adds the file's next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.window.drain(..self.at);
        self.at = 0;
        self.window.extend_from_slice(bytes);
    }

    /// The next frame among the bytes fed. After an error or the end it must not be called again.
    pub fn next_frame(&mut self) -> Result<Frame<'_>, CheckpointError> {
        let header_crc = match self.header_crc {
            Some(crc) => crc,
            None => {
                if self.window.len() < CHECKPOINT_HEADER_BYTES {
                    return Ok(Frame::NeedMore);
                }
                let (header, crc) = CheckpointHeader::decode(&self.window)?;
                if header != self.expect {
                    return Err(CheckpointError::Other(format!(
                        "storage {}, shard {}, number {}, start {}",
                        header.identity.storage, header.identity.shard, header.number, header.start
                    )));
                }
                self.header_crc = Some(crc);
                self.advance(CHECKPOINT_HEADER_BYTES);
                crc
            }
        };
        let rest = &self.window[self.at..];
        if rest.len() < FRAME_HEADER_BYTES {
            return Ok(Frame::NeedMore);
        }
        let (kind, len) = (get_u32(rest, 0), get_u32(rest, 4) as usize);
        let frame_error = |what: String| Err(CheckpointError::Frame { pos: self.pos, what });
        if len > PIECE_BYTES_MAX || !(kind == KIND_PIECE || kind == KIND_END && len == END_BYTES) {
            return frame_error(format!("kind {kind} of {len} bytes"));
        }
        if u64::from(get_u32(rest, 8)) != self.pieces {
            return frame_error(format!("index {} after {} pieces", get_u32(rest, 8), self.pieces));
        }
        let total = FRAME_HEADER_BYTES + len;
        if rest.len() < total {
            return Ok(Frame::NeedMore);
        }
        let payload = &rest[FRAME_HEADER_BYTES..total];
        let expected = get_u32(rest, 12);
        let got = frame_checksum(header_crc, rest, payload);
        if expected != got {
            return Err(CheckpointError::Checksum { pos: self.pos, expected, got });
        }
        if kind == KIND_END {
            let (pieces, bytes) = (get_u64(payload, 0), get_u64(payload, 8));
            if (pieces, bytes) != (self.pieces, self.bytes) {
                return frame_error(format!("the end counts {pieces} pieces of {bytes} bytes"));
            }
            return Ok(Frame::End);
        }
        self.pieces += 1;
        self.bytes += len as u64;
        let start = self.at + FRAME_HEADER_BYTES;
        self.advance(total);
        Ok(Frame::Piece(&self.window[start..start + len]))
    }

    fn advance(&mut self, n: usize) {
        self.at += n;
        self.pos += n as u64;
    }
}
