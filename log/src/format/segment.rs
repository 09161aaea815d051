//! A segment's header: in block 0 of the file, and a copy in block 1. Groups follow from block 2.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | magic `IRSEGMT1` |
//! | 8..12 | format version |
//! | 12..16 | crc32c of bytes 0..12 and 16..96 |
//! | 16..32 | storage uuid |
//! | 32..34 | shard |
//! | 34..36 | zeros |
//! | 36..40 | slot |
//! | 40..44 | segment id |
//! | 44..48 | generation: how many segments this slot has held, from 1 |
//! | 48..56 | prepared_at: the first group sequence this segment can begin with |
//! | 56..60 | segment size in bytes |
//! | 60..64 | block size in bytes |
//! | 64..72 | salt; format 1: zeros |
//! | 72..96 | zeros |
//!
//! A segment is prepared ahead of its use, so its header cannot name its first group, only a lower
//! bound; the first group itself says which it is and which header checksum it follows.

use ironring_core::checksum::{crc32c, crc32c_append};
use ironring_core::limits::BLOCK_BYTES;
use ironring_core::{GroupSeq, SegmentId, ShardId, SlotId, StorageUuid};

use super::FORMAT_VERSION;
use super::le::{get_u16, get_u32, get_u64, get_u128, put_u16, put_u32, put_u64, put_u128};
use crate::Identity;
use crate::config::BLOCK_BYTES_MAX;

/// Length of a segment's header.
pub const SEGMENT_HEADER_BYTES: usize = 96;
const MAGIC: &[u8; 8] = b"IRSEGMT1";

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Whose it is.
    pub identity: Identity,
    /// The file it is in.
    pub slot: SlotId,
    /// Which segment this is.
    pub segment: SegmentId,
    /// How many segments the slot has held, with this one.
    pub generation: u32,
    /// Its first group has this sequence or a later one.
    pub prepared_at: GroupSeq,
    /// Size of the file.
    pub segment_bytes: u32,
    /// Size of a block.
    pub block_bytes: u32,
}

/// Why a block is not a segment header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentHeaderError {
    /// No header here.
    #[error("no segment header")]
    NoMagic,
    /// The bytes changed.
    #[error("segment header checksum {got:#010x}, expected {expected:#010x}")]
    Checksum {
        /// Stored.
        expected: u32,
        /// Of the bytes found.
        got: u32,
    },
    /// Written by newer code.
    #[error("segment has format version {0}")]
    Newer(u32),
    /// No log has blocks of this size, although the checksum holds.
    #[error("segment has blocks of {0} bytes")]
    BlockSize(u32),
}

impl SegmentHeader {
    /// Writes the header to the first [`SEGMENT_HEADER_BYTES`] of `out`.
    pub fn encode(&self, out: &mut [u8]) {
        let out = &mut out[..SEGMENT_HEADER_BYTES];
        out.fill(0);
        out[..8].copy_from_slice(MAGIC);
        put_u32(out, 8, FORMAT_VERSION);
        put_u128(out, 16, self.identity.storage.0);
        put_u16(out, 32, self.identity.shard.0);
        put_u32(out, 36, self.slot.0);
        put_u32(out, 40, self.segment.0);
        put_u32(out, 44, self.generation);
        put_u64(out, 48, self.prepared_at.0);
        put_u32(out, 56, self.segment_bytes);
        put_u32(out, 60, self.block_bytes);
        put_u64(out, 64, self.identity.salt);
        let crc = checksum(out);
        put_u32(out, 12, crc);
    }

    /// The header at the beginning of `bytes` (at least [`SEGMENT_HEADER_BYTES`]).
    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader, SegmentHeaderError> {
        let bytes = &bytes[..SEGMENT_HEADER_BYTES];
        if &bytes[..8] != MAGIC {
            return Err(SegmentHeaderError::NoMagic);
        }
        let (expected, got) = (get_u32(bytes, 12), checksum(bytes));
        if expected != got {
            return Err(SegmentHeaderError::Checksum { expected, got });
        }
        let version = get_u32(bytes, 8);
        if version > FORMAT_VERSION {
            return Err(SegmentHeaderError::Newer(version));
        }
        let block_bytes = get_u32(bytes, 60);
        if !block_bytes.is_power_of_two()
            || !(BLOCK_BYTES as u32..=BLOCK_BYTES_MAX).contains(&block_bytes)
        {
            return Err(SegmentHeaderError::BlockSize(block_bytes));
        }
        Ok(SegmentHeader {
            identity: Identity {
                storage: StorageUuid(get_u128(bytes, 16)),
                shard: ShardId(get_u16(bytes, 32)),
                salt: get_u64(bytes, 64),
            },
            slot: SlotId(get_u32(bytes, 36)),
            segment: SegmentId(get_u32(bytes, 40)),
            generation: get_u32(bytes, 44),
            prepared_at: GroupSeq(get_u64(bytes, 48)),
            segment_bytes: get_u32(bytes, 56),
            block_bytes,
        })
    }
}

fn checksum(header: &[u8]) -> u32 {
    crc32c_append(crc32c(&header[..12]), &header[16..])
}
