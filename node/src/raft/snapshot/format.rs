//! A snapshot file, byte for byte.
//!
//! Integers are little endian. A header of 64 bytes, the membership, the body, and zeros up to a
//! whole block:
//!
//! | at | what |
//! |---|---|
//! | 0 | magic `IRMSNAP1` |
//! | 8 | format version u32 |
//! | 12 | crc32c u32 of the header with this field 0, and the membership |
//! | 16 | flags u32: 1 when there is a last entry |
//! | 20 | length of the membership u32 |
//! | 24 | term of the last entry u64 |
//! | 32 | index of the last entry u64 |
//! | 40 | length of the body u64 |
//! | 48 | crc32c u32 of the body |
//! | 52 | 12 zeros |

use ironring_core::checksum::{crc32c, crc32c_append};
use ironring_core::limits::BLOCK_BYTES;

use crate::raft::message;
use crate::raft::types::{LogId, LogPoint, SnapshotMeta, StoredMembership};

/// The format this code writes, and the only one it reads.
pub const VERSION: u32 = 1;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 64;

const MAGIC: &[u8; 8] = b"IRMSNAP1";
const HAS_LAST: u32 = 1;

/// Why a file is no snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Shorter than its header says, or than a header.
    #[error("{got} bytes, where {expected} are expected")]
    Short {
        /// Bytes there should be.
        expected: u64,
        /// Bytes there are.
        got: u64,
    },
    /// It begins with something else.
    #[error("it does not begin as a snapshot does")]
    Magic,
    /// It was written by newer code.
    #[error("format version {0}, this version reads {VERSION}: upgrade")]
    Version(u32),
    /// The header or the membership changed.
    #[error("the header's checksum is {got:08x}, expected {expected:08x}")]
    Header {
        /// What the header says.
        expected: u32,
        /// What its bytes give.
        got: u32,
    },
    /// The body changed.
    #[error("the body's checksum is {got:08x}, expected {expected:08x}")]
    Body {
        /// What the header says.
        expected: u32,
        /// What the body gives.
        got: u32,
    },
    /// The checksums hold and the membership does not parse: a bug.
    #[error("the membership does not parse: {0}")]
    Membership(String),
}

/// The file of a snapshot.
pub(in crate::raft) fn encode(meta: &SnapshotMeta, body: &[u8]) -> Vec<u8> {
    let membership = message::encode(&meta.last_membership);
    let len = (HEADER_BYTES + membership.len() + body.len()).next_multiple_of(BLOCK_BYTES);
    let mut file = Vec::with_capacity(len);
    file.extend_from_slice(MAGIC);
    let last = meta.last_log_id.map(LogPoint::from);
    let point = last.unwrap_or(LogPoint { term: 0, index: 0 });
    let membership_len = u32::try_from(membership.len()).expect("a membership is short");
    for word in [VERSION, 0, if last.is_some() { HAS_LAST } else { 0 }, membership_len] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    for word in [point.term, point.index, body.len() as u64] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(&crc32c(body).to_le_bytes());
    file.resize(HEADER_BYTES, 0);
    file.extend_from_slice(&membership);
    let crc = crc32c(&file);
    file[12..16].copy_from_slice(&crc.to_le_bytes());
    file.extend_from_slice(body);
    file.resize(len, 0);
    file
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// What a file holds, all of it verified.
pub(in crate::raft) fn decode(file: &[u8]) -> Result<(SnapshotMeta, &[u8]), SnapshotError> {
    let short = |expected: u64| SnapshotError::Short { expected, got: file.len() as u64 };
    let header = file.get(..HEADER_BYTES).ok_or(short(HEADER_BYTES as u64))?;
    if &header[..8] != MAGIC {
        return Err(SnapshotError::Magic);
    }
    let version = u32_at(header, 8);
    if version != VERSION {
        return Err(SnapshotError::Version(version));
    }
    let body_at = HEADER_BYTES as u64 + u64::from(u32_at(header, 20));
    let end = body_at.saturating_add(u64_at(header, 40));
    let body_at = usize::try_from(body_at).map_err(|_| short(body_at))?;
    let membership = file.get(HEADER_BYTES..body_at).ok_or(short(body_at as u64))?;
    let mut unsigned: Vec<u8> = header.to_vec();
    unsigned[12..16].fill(0);
    let (expected, got) = (u32_at(header, 12), crc32c_append(crc32c(&unsigned), membership));
    if expected != got {
        return Err(SnapshotError::Header { expected, got });
    }
    let body =
        usize::try_from(end).ok().and_then(|end| file.get(body_at..end)).ok_or(short(end))?;
    let (expected, got) = (u32_at(header, 48), crc32c(body));
    if expected != got {
        return Err(SnapshotError::Body { expected, got });
    }
    let last_membership: StoredMembership =
        message::decode(membership).map_err(|e| SnapshotError::Membership(e.to_string()))?;
    let point = LogPoint { term: u64_at(header, 24), index: u64_at(header, 32) };
    let last_log_id = (u32_at(header, 16) & HAS_LAST != 0).then(|| LogId::from(point));
    Ok((SnapshotMeta { last_log_id, last_membership }, body))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use openraft::BasicNode;

    use super::*;
    use crate::raft::types::Membership;

    fn sample() -> SnapshotMeta {
        let nodes = BTreeMap::from([(3, BasicNode::new("a:1"))]);
        let membership = Membership::new(vec![BTreeSet::from([3])], nodes).expect("it is one");
        let at = LogId::from(LogPoint { term: 2, index: 9 });
        SnapshotMeta {
            last_log_id: Some(at),
            last_membership: StoredMembership::new(Some(at), membership),
        }
    }

    #[test]
    fn the_header_has_its_bytes() {
        let file = encode(&sample(), b"123456789");
        assert_eq!(file.len(), BLOCK_BYTES);
        assert_eq!(&file[..12], b"IRMSNAP1\x01\0\0\0");
        assert_eq!(u32_at(&file, 16), 1);
        assert_eq!((u64_at(&file, 24), u64_at(&file, 32), u64_at(&file, 40)), (2, 9, 9));
        assert_eq!(u32_at(&file, 48), 0xE306_9283, "the check value of crc32c");
        let body_at = HEADER_BYTES + u32_at(&file, 20) as usize;
        assert_eq!(&file[body_at..body_at + 9], b"123456789");
        assert_eq!(decode(&file), Ok((sample(), &b"123456789"[..])));
    }

    #[test]
    fn an_empty_snapshot_is_one() {
        let meta = SnapshotMeta::default();
        assert_eq!(decode(&encode(&meta, &[])), Ok((meta, &[][..])));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let file = encode(&sample(), b"the state of the machine");
        let used = HEADER_BYTES + u32_at(&file, 20) as usize + 24;
        for at in 0..used {
            let mut bad = file.clone();
            bad[at] ^= 0x20;
            assert!(decode(&bad).is_err(), "byte {at}");
        }
        for len in [0, 63, used - 1] {
            assert!(decode(&file[..len]).is_err(), "cut to {len}");
        }
    }
}
