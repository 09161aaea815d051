//! Receiving a snapshot in pieces.
//!
//! One transfer is held at a time, named by what it reflects, its length and its checksum. A piece
//! counts when it begins where the last one ended and its checksum holds; the answer says how many
//! bytes are there, and the sender goes on from that. So a transfer whose sender was interrupted,
//! or replaced by one that has the same snapshot, goes on where it was.

use serde::{Deserialize, Serialize};

use ironring_core::checksum::{crc32c, crc32c_append};

use crate::raft::types::{Blob, SnapshotMeta, Vote};

/// A piece of a snapshot. One without bytes asks how far the transfer is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::raft) struct Piece {
    /// The leader's.
    pub vote: Vote,
    /// What the snapshot reflects.
    pub meta: SnapshotMeta,
    /// Bytes of the whole body.
    pub total_bytes: u64,
    /// Checksum of the whole body.
    pub total_crc: u32,
    /// Where this piece begins.
    pub offset: u64,
    /// Checksum of the piece.
    pub crc: u32,
    /// The piece.
    pub bytes: Blob,
}

struct Partial {
    meta: SnapshotMeta,
    total_bytes: u64,
    total_crc: u32,
    /// Checksum of what is there.
    crc: u32,
    bytes: Vec<u8>,
}

/// What a piece led to.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::raft) enum Received {
    /// So many bytes are there.
    Have(u64),
    /// All are there and verified.
    Whole(Vec<u8>),
    /// The snapshot is longer than this node takes.
    TooLarge,
}

/// The receiving side.
#[derive(Default)]
pub(in crate::raft) struct Receiver {
    partial: Option<Partial>,
}

impl Receiver {
    /// Takes a piece of a snapshot of at most `bytes_max`.
    pub fn receive(&mut self, piece: Piece, bytes_max: u64) -> Received {
        if piece.total_bytes > bytes_max {
            return Received::TooLarge;
        }
        let same = |p: &Partial| {
            (&p.meta, p.total_bytes, p.total_crc)
                == (&piece.meta, piece.total_bytes, piece.total_crc)
        };
        let mut partial = self.partial.take().filter(same).unwrap_or_else(|| Partial {
            meta: piece.meta.clone(),
            total_bytes: piece.total_bytes,
            total_crc: piece.total_crc,
            crc: crc32c(&[]),
            bytes: Vec::new(),
        });
        let have = partial.bytes.len() as u64;
        let bytes = &piece.bytes.0;
        let fits = bytes.len() as u64 <= partial.total_bytes - have;
        if piece.offset == have && fits && crc32c(bytes) == piece.crc {
            partial.crc = crc32c_append(partial.crc, bytes);
            partial.bytes.extend_from_slice(bytes);
        }
        let have = partial.bytes.len() as u64;
        if have == partial.total_bytes {
            if partial.crc == partial.total_crc {
                return Received::Whole(partial.bytes);
            }
            // Pieces of two snapshots that claim to be one: from the beginning.
            return Received::Have(0);
        }
        self.partial = Some(partial);
        Received::Have(have)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::Ballot;

    fn piece(body: &[u8], offset: usize, len: usize) -> Piece {
        let bytes = body[offset..offset + len].to_vec();
        Piece {
            vote: Ballot { term: 1, node: 1, elected: true }.into(),
            meta: SnapshotMeta::default(),
            total_bytes: body.len() as u64,
            total_crc: crc32c(body),
            offset: offset as u64,
            crc: crc32c(&bytes),
            bytes: Blob(bytes),
        }
    }

    #[test]
    fn pieces_join_and_an_interrupted_transfer_goes_on() {
        let body: Vec<u8> = (0..100).collect();
        let mut receiver = Receiver::default();
        assert_eq!(receiver.receive(piece(&body, 0, 40), 100), Received::Have(40));
        // Asked, repeated, out of order: nothing changes.
        for (offset, len) in [(0, 0), (0, 40), (60, 40)] {
            assert_eq!(receiver.receive(piece(&body, offset, len), 100), Received::Have(40));
        }
        let mut bad = piece(&body, 40, 60);
        bad.bytes.0[3] ^= 1;
        assert_eq!(receiver.receive(bad, 100), Received::Have(40));
        assert_eq!(receiver.receive(piece(&body, 40, 60), 100), Received::Whole(body.clone()));
        assert_eq!(receiver.receive(piece(&body, 0, 0), 100), Received::Have(0), "it is over");
    }

    #[test]
    fn another_snapshot_begins_anew_and_one_too_long_is_refused() {
        let (a, b): (Vec<u8>, Vec<u8>) = ((0..50).collect(), (50..100).collect());
        let mut receiver = Receiver::default();
        assert_eq!(receiver.receive(piece(&a, 0, 20), 50), Received::Have(20));
        assert_eq!(receiver.receive(piece(&b, 0, 10), 50), Received::Have(10));
        assert_eq!(receiver.receive(piece(&a, 20, 30), 50), Received::Have(0));
        assert_eq!(receiver.receive(piece(&a, 0, 20), 49), Received::TooLarge);
        let mut mixed = piece(&a, 0, 50);
        mixed.total_crc ^= 1;
        assert_eq!(receiver.receive(mixed, 50), Received::Have(0), "the whole does not verify");
        assert_eq!(receiver.receive(piece(&[], 0, 0), 50), Received::Whole(Vec::new()));
    }
}
