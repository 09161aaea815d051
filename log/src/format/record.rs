//! One record: a header of 64 bytes, the key, the body.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | crc32c of (segment id, position, bytes 4.. of header, key, body) |
//! | 4..8 | body length |
//! | 8..10 | key length |
//! | 10 | kind |
//! | 11 | flags |
//! | 12..16 | partition |
//! | 16..24 | term |
//! | 24..32 | offset |
//! | 32..40 | session |
//! | 40..48 | sequence in the session |
//! | 48..56 | time, ms |
//! | 56..64 | expires, ms |
//!
//! The checksum begins with where the record lies, so a record that a misdirected or lost write
//! left at another place does not verify: a read needs no group header.

use ironring_core::checksum::{crc32c, crc32c_append, crc32c_combine};
use ironring_core::limits::{KEY_BYTES_MAX, RECORD_BYTES_MAX};
use ironring_core::{Offset, PartitionId, SegmentId, SessionId, Term, WallTime};

use super::le::{get_u16, get_u32, get_u64, put_u16, put_u32, put_u64};
use crate::{Record, RecordKind};

/// Length of a record's header.
pub const RECORD_HEADER_BYTES: usize = 64;

const _: () = assert!(KEY_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!(RECORD_HEADER_BYTES + KEY_BYTES_MAX + RECORD_BYTES_MAX < u32::MAX as usize);

/// From this length on, the checksum of a record's bytes is combined with others instead of being
/// computed again for each.
const COMBINE_BYTES_MIN: usize = 128 << 10;

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Fewer bytes than a header, or than the header says.
    #[error("{have} bytes are there, the record needs {need}")]
    Truncated {
        /// Bytes needed.
        need: usize,
        /// Bytes there.
        have: usize,
    },
    /// A length above its limit.
    #[error("key of {key} or body of {body} bytes is above the limit")]
    TooLong {
        /// Key length found.
        key: usize,
        /// Body length found.
        body: usize,
    },
    /// A kind this version does not know.
    #[error("unknown record kind {0}")]
    Kind(u8),
    /// The bytes changed.
    #[error("record checksum {got:#010x}, expected {expected:#010x}")]
    Checksum {
        /// Stored in the header.
        expected: u32,
        /// Of the bytes found.
        got: u32,
    },
}

/// Length of the record on disk, in bytes.
#[must_use]
pub fn encoded_len(record: &Record<'_>) -> usize {
    RECORD_HEADER_BYTES + record.key.len() + record.body.len()
}

fn checksum(segment: SegmentId, pos: u32, covered: &[u8]) -> u32 {
    crc32c_append(place_checksum(segment, pos), covered)
}

fn place_checksum(segment: SegmentId, pos: u32) -> u32 {
    let mut place = [0u8; 8];
    put_u32(&mut place, 0, segment.0);
    put_u32(&mut place, 4, pos);
    crc32c(&place)
}

/// Writes the record to `out`, which is exactly [`encoded_len`] bytes long. `segment` and `pos`
/// say where it will lie. Returns the checksum of `out[4..]` when the record is so long that summing
/// it once more would cost: the group's is then combined from it.
pub fn encode(record: &Record<'_>, segment: SegmentId, pos: u32, out: &mut [u8]) -> Option<u32> {
    assert!(record.key.len() <= KEY_BYTES_MAX, "keys are checked when a request arrives");
    assert!(record.body.len() <= RECORD_BYTES_MAX, "bodies are checked when a request arrives");
    assert_eq!(out.len(), encoded_len(record), "the caller measured the record");
    put_u32(out, 4, record.body.len() as u32);
    put_u16(out, 8, record.key.len() as u16);
    out[10] = record.kind as u8;
    out[11] = record.flags;
    put_u32(out, 12, record.partition.0);
    put_u64(out, 16, record.term.0);
    put_u64(out, 24, record.offset.0);
    put_u64(out, 32, record.session.0);
    put_u64(out, 40, record.sequence);
    put_u64(out, 48, record.time.0);
    put_u64(out, 56, record.expires.0);
    let body_at = RECORD_HEADER_BYTES + record.key.len();
    out[RECORD_HEADER_BYTES..body_at].copy_from_slice(record.key);
    out[body_at..].copy_from_slice(record.body);
    let covered = &out[4..];
    if covered.len() < COMBINE_BYTES_MIN {
        let crc = checksum(segment, pos, covered);
        put_u32(out, 0, crc);
        return None;
    }
    let plain = crc32c(covered);
    let crc = crc32c_combine(place_checksum(segment, pos), plain, covered.len());
    put_u32(out, 0, crc);
    Some(plain)
}

/// The record at the beginning of `bytes`, and its length. Verified in full.
pub fn decode(
    bytes: &[u8],
    segment: SegmentId,
    pos: u32,
) -> Result<(Record<'_>, usize), RecordError> {
    let (record, len) = decode_unverified(bytes)?;
    let expected = get_u32(bytes, 0);
    let got = checksum(segment, pos, &bytes[4..len]);
    if expected != got {
        return Err(RecordError::Checksum { expected, got });
    }
    Ok((record, len))
}

/// Turns an encoded record of our own memory that lies at `segment`, `pos` into one that lies
/// nowhere: as nodes send it to each other, its checksum covers its bytes only.
pub fn unplace(bytes: &mut [u8], segment: SegmentId, pos: u32) {
    let covered = bytes.len() - 4;
    let plain = if covered < COMBINE_BYTES_MIN {
        crc32c(&bytes[4..])
    } else {
        // The checksum of two parts is that of the first, moved by the second's length, and that of
        // the second, added; adding the first again takes it away.
        crc32c_combine(place_checksum(segment, pos), get_u32(bytes, 0), covered)
    };
    put_u32(bytes, 0, plain);
}

/// Writes a record as nodes send it to each other, behind what is in `out`.
pub fn encode_wire(record: &Record<'_>, out: &mut Vec<u8>) {
    let at = out.len();
    out.resize(at + encoded_len(record), 0);
    encode(record, SegmentId(0), 0, &mut out[at..]);
    unplace(&mut out[at..], SegmentId(0), 0);
}

/// The record at the beginning of `bytes`, as nodes send it to each other, and its length. Verified
/// in full.
pub fn decode_wire(bytes: &[u8]) -> Result<(Record<'_>, usize), RecordError> {
    let (record, len) = decode_unverified(bytes)?;
    let expected = get_u32(bytes, 0);
    let got = crc32c(&bytes[4..len]);
    if expected != got {
        return Err(RecordError::Checksum { expected, got });
    }
    Ok((record, len))
}

/// As [`decode`] without the checksum, for bytes that never left memory. Lengths are checked.
pub(crate) fn decode_unverified(bytes: &[u8]) -> Result<(Record<'_>, usize), RecordError> {
    if bytes.len() < RECORD_HEADER_BYTES {
        return Err(RecordError::Truncated { need: RECORD_HEADER_BYTES, have: bytes.len() });
    }
    let body_len = get_u32(bytes, 4) as usize;
    let key_len = usize::from(get_u16(bytes, 8));
    if key_len > KEY_BYTES_MAX || body_len > RECORD_BYTES_MAX {
        return Err(RecordError::TooLong { key: key_len, body: body_len });
    }
    let body_at = RECORD_HEADER_BYTES + key_len;
    let len = body_at + body_len;
    if bytes.len() < len {
        return Err(RecordError::Truncated { need: len, have: bytes.len() });
    }
    let kind = RecordKind::from_u8(bytes[10]).ok_or(RecordError::Kind(bytes[10]))?;
    let record = Record {
        kind,
        flags: bytes[11],
        partition: PartitionId(get_u32(bytes, 12)),
        term: Term(get_u64(bytes, 16)),
        offset: Offset(get_u64(bytes, 24)),
        session: SessionId(get_u64(bytes, 32)),
        sequence: get_u64(bytes, 40),
        time: WallTime(get_u64(bytes, 48)),
        expires: WallTime(get_u64(bytes, 56)),
        key: &bytes[RECORD_HEADER_BYTES..body_at],
        body: &bytes[body_at..len],
    };
    Ok((record, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_was_moved_verifies() {
        let large = vec![8; 200 << 10];
        for body in [&large[..], &large[..1000], &[]] {
            let record = Record {
                kind: RecordKind::Put,
                flags: 3,
                partition: PartitionId(1),
                term: Term(2),
                offset: Offset(3),
                session: SessionId(4),
                sequence: 5,
                time: WallTime(6),
                expires: WallTime(7),
                key: b"key",
                body,
            };
            let mut placed = vec![0; encoded_len(&record)];
            encode(&record, SegmentId(9), 4096, &mut placed);
            let mut wire = b"before".to_vec();
            encode_wire(&record, &mut wire);
            unplace(&mut placed, SegmentId(9), 4096);
            assert_eq!(placed, wire[6..]);
            assert_eq!(decode_wire(&placed), Ok((record, placed.len())));
            placed[20] ^= 1;
            assert!(matches!(decode_wire(&placed), Err(RecordError::Checksum { .. })));
        }
    }
}
