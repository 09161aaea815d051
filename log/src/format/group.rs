//! A commit group: a header of 128 bytes, records, zeros up to the block. The unit of durability.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | magic `IRGROUP1` |
//! | 8..10 | format version |
//! | 10..12 | flags (0) |
//! | 12..16 | segment id |
//! | 16..20 | position of this header in the segment file |
//! | 20..24 | run: how many times the log was opened |
//! | 24..32 | group sequence |
//! | 32..40 | durable_floor: the last group known durable when this one was written |
//! | 40..44 | header checksum of the group before |
//! | 44..48 | body length without padding |
//! | 48..52 | number of records |
//! | 52..56 | crc32c of the body |
//! | 56..124 | zeros |
//! | 124..128 | crc32c of bytes 0..124, started from the directory's and shard's identity |
//!
//! A group is one of this log's only when its header verifies under the identity and names the
//! segment and position it was found at. It follows another when its sequence is the next, its
//! previous checksum is that header's checksum, and its run is not older: what an earlier run
//! left behind a cut fails the last test whatever its checksums are.

use ironring_core::checksum::{crc32c, crc32c_append};
use ironring_core::limits::{GROUP_BYTES_TARGET, KEY_BYTES_MAX, RECORD_BYTES_MAX};
use ironring_core::{GroupSeq, SegmentId};

use super::le::{get_u16, get_u32, get_u64, put_u16, put_u32, put_u64};
use super::record::{self, RECORD_HEADER_BYTES, RecordError};
use super::{FORMAT_VERSION, IdentitySeed, align_up};
use crate::{Location, Record};

/// Length of a group's header.
pub const GROUP_HEADER_BYTES: usize = 128;
/// Longest body a group can have.
pub const GROUP_BODY_BYTES_MAX: usize = RECORD_HEADER_BYTES + KEY_BYTES_MAX + RECORD_BYTES_MAX;
const MAGIC: &[u8; 8] = b"IRGROUP1";
const CRC_AT: usize = GROUP_HEADER_BYTES - 4;

const _: () = assert!(GROUP_BODY_BYTES_MAX >= GROUP_BYTES_TARGET);
const _: () = assert!(FORMAT_VERSION <= u16::MAX as u32);

/// A group's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupHeader {
    /// The segment it was written to.
    pub segment: SegmentId,
    /// Where in the segment file.
    pub pos: u32,
    /// Which opening of the log wrote it.
    pub run: u32,
    /// Its sequence.
    pub sequence: GroupSeq,
    /// The last group known durable when it was written.
    pub durable_floor: GroupSeq,
    /// Checksum of the header of the group before.
    pub previous_crc: u32,
    /// Bytes of records.
    pub body_len: u32,
    /// Number of records.
    pub records: u32,
    /// Checksum of the records.
    pub body_crc: u32,
}

/// Why bytes are not a group of this log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// No group begins here.
    #[error("no group begins here")]
    NoMagic,
    /// A header is here and does not verify under this identity.
    #[error("group header checksum {got:#010x}, expected {expected:#010x}")]
    HeaderChecksum {
        /// Stored in the header.
        expected: u32,
        /// Of the bytes found.
        got: u32,
    },
    /// Written by newer code.
    #[error("group has format version {0}")]
    Newer(u16),
    /// A length that cannot be, under a checksum that holds.
    #[error("group body of {0} bytes")]
    Length(u32),
    /// The records changed.
    #[error("group body checksum {got:#010x}, expected {expected:#010x}")]
    BodyChecksum {
        /// Stored in the header.
        expected: u32,
        /// Of the bytes found.
        got: u32,
    },
}

impl GroupHeader {
    /// Bytes the group takes in the file: header, records, padding.
    #[must_use]
    pub fn padded_len(&self, block: u32) -> u32 {
        align_up(GROUP_HEADER_BYTES as u32 + self.body_len, block)
    }

    /// Writes the header to the first [`GROUP_HEADER_BYTES`] of `out`; returns its checksum.
    pub fn encode(&self, seed: IdentitySeed, out: &mut [u8]) -> u32 {
        let out = &mut out[..GROUP_HEADER_BYTES];
        out.fill(0);
        out[..8].copy_from_slice(MAGIC);
        put_u16(out, 8, FORMAT_VERSION as u16);
        put_u32(out, 12, self.segment.0);
        put_u32(out, 16, self.pos);
        put_u32(out, 20, self.run);
        put_u64(out, 24, self.sequence.0);
        put_u64(out, 32, self.durable_floor.0);
        put_u32(out, 40, self.previous_crc);
        put_u32(out, 44, self.body_len);
        put_u32(out, 48, self.records);
        put_u32(out, 52, self.body_crc);
        let crc = crc32c_append(seed.0, &out[..CRC_AT]);
        put_u32(out, CRC_AT, crc);
        crc
    }

    /// The header at the beginning of `bytes` (at least [`GROUP_HEADER_BYTES`]) and its checksum.
    /// The caller compares segment and position with where the bytes were found.
    pub fn decode(bytes: &[u8], seed: IdentitySeed) -> Result<(GroupHeader, u32), GroupError> {
        if &bytes[..8] != MAGIC {
            return Err(GroupError::NoMagic);
        }
        let expected = get_u32(bytes, CRC_AT);
        let got = crc32c_append(seed.0, &bytes[..CRC_AT]);
        if expected != got {
            return Err(GroupError::HeaderChecksum { expected, got });
        }
        let version = get_u16(bytes, 8);
        if u32::from(version) > FORMAT_VERSION {
            return Err(GroupError::Newer(version));
        }
        let header = GroupHeader {
            segment: SegmentId(get_u32(bytes, 12)),
            pos: get_u32(bytes, 16),
            run: get_u32(bytes, 20),
            sequence: GroupSeq(get_u64(bytes, 24)),
            durable_floor: GroupSeq(get_u64(bytes, 32)),
            previous_crc: get_u32(bytes, 40),
            body_len: get_u32(bytes, 44),
            records: get_u32(bytes, 48),
            body_crc: get_u32(bytes, 52),
        };
        if header.body_len as usize > GROUP_BODY_BYTES_MAX {
            return Err(GroupError::Length(header.body_len));
        }
        Ok((header, got))
    }

    /// Compares `body` (without padding) with the header's checksum.
    pub fn verify_body(&self, body: &[u8]) -> Result<(), GroupError> {
        let got = crc32c(body);
        if got != self.body_crc {
            return Err(GroupError::BodyChecksum { expected: self.body_crc, got });
        }
        Ok(())
    }
}

/// Walks the records of a group's body, in order. Stops after an error.
pub struct GroupRecords<'a> {
    body: &'a [u8],
    at: usize,
    segment: SegmentId,
    body_pos: u32,
    verify: bool,
}

impl<'a> GroupRecords<'a> {
    /// The records of `body`, whose first byte lies at `body_pos` of `segment`; every record's
    /// checksum is verified.
    #[must_use]
    pub fn verified(body: &'a [u8], segment: SegmentId, body_pos: u32) -> GroupRecords<'a> {
        GroupRecords { body, at: 0, segment, body_pos, verify: true }
    }

    /// As [`GroupRecords::verified`], for a body this process has just encoded.
    pub(crate) fn trusted(body: &'a [u8], segment: SegmentId, body_pos: u32) -> GroupRecords<'a> {
        GroupRecords { body, at: 0, segment, body_pos, verify: false }
    }
}

impl<'a> Iterator for GroupRecords<'a> {
    type Item = Result<(Location, Record<'a>), (u32, RecordError)>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.body[self.at..];
        if rest.is_empty() {
            return None;
        }
        let pos = self.body_pos + self.at as u32;
        let decoded = if self.verify {
            record::decode(rest, self.segment, pos)
        } else {
            record::decode_unverified(rest)
        };
        Some(match decoded {
            Ok((record, len)) => {
                self.at += len;
                Ok((Location { segment: self.segment, pos, len: len as u32 }, record))
            }
            Err(error) => {
                self.at = self.body.len();
                Err((pos, error))
            }
        })
    }
}
