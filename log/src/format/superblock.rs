//! The superblock: which segments and checkpoints make up the log. Four copies in one file, each
//! in an extent of its own.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | magic `IRSUPER1` |
//! | 8..12 | format version |
//! | 12..16 | crc32c of bytes 0..12 and 16..length |
//! | 16..20 | length in bytes, with the segment table |
//! | 20..24 | block size |
//! | 24..40 | storage uuid |
//! | 40..48 | superblock sequence |
//! | 48..50 | shard |
//! | 50..52 | zeros |
//! | 52..56 | segment size |
//! | 56..60 | run: how many times the log was opened |
//! | 60..64 | next segment id |
//! | 64..72 | durable: the last group known durable when this was made |
//! | 72..112 | newest checkpoint |
//! | 112..152 | older checkpoint |
//! | 152..156 | number of slots |
//! | 156..160 | zeros |
//! | 160..168 | salt; format 1: zeros |
//! | 168..256 | zeros |
//! | 256.. | segment table, 24 bytes a slot |
//!
//! Checkpoint: number u64 (0: the beginning of the log, there is no file), first group to replay
//! u64, segment u32, position u32, previous header checksum u32, previous run u32, file bytes u64.
//!
//! Slot: segment id u32, generation u32, state u8, 3 zeros, end of the last group u32 (0: not
//! sealed), first group u64 (0: not known).
//!
//! Magic, version, checksum and length stay at these places in every version to come, so that
//! older code can tell "newer" from "damaged".

use ironring_core::checksum::{crc32c, crc32c_append};
use ironring_core::{GroupSeq, SegmentId, ShardId, StorageUuid};

use super::FORMAT_VERSION;
use super::le::{get_u16, get_u32, get_u64, get_u128, put_u16, put_u32, put_u64, put_u128};
use crate::Identity;

/// Length of the part before the segment table.
pub const SUPERBLOCK_HEADER_BYTES: usize = 256;
/// Length of one slot in the segment table.
pub const SLOT_BYTES: usize = 24;
/// Most slots one shard can have.
pub const SLOTS_MAX: usize = 16_384;
/// Number of copies.
pub const COPIES: usize = 4;
/// Room for one copy.
pub const COPY_EXTENT_BYTES: usize = 512 << 10;
/// Length of the superblock file.
pub const SUPERBLOCK_FILE_BYTES: usize = COPIES * COPY_EXTENT_BYTES;
const CHECKPOINT_BYTES: usize = 40;
const CHECKPOINTS_AT: usize = 72;
const MAGIC: &[u8; 8] = b"IRSUPER1";

const _: () = assert!(SUPERBLOCK_HEADER_BYTES + SLOTS_MAX * SLOT_BYTES <= COPY_EXTENT_BYTES);
const _: () = assert!(COPY_EXTENT_BYTES.is_multiple_of(crate::config::BLOCK_BYTES_MAX as usize));
const _: () = assert!(CHECKPOINTS_AT + 2 * CHECKPOINT_BYTES == 152);

/// What a slot is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum SlotState {
    /// There is no file.
    Absent = 0,
    /// The file is full-sized and holds nothing that is needed.
    Free = 1,
    /// The file has a header for its next segment and no group of it yet.
    Prepared = 2,
    /// Groups are appended here.
    Active = 3,
    /// Full.
    Sealed = 4,
}

impl SlotState {
    fn from_u8(value: u8) -> Option<SlotState> {
        Some(match value {
            0 => SlotState::Absent,
            1 => SlotState::Free,
            2 => SlotState::Prepared,
            3 => SlotState::Active,
            4 => SlotState::Sealed,
            _ => return None,
        })
    }

    /// The state's name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            SlotState::Absent => "absent",
            SlotState::Free => "free",
            SlotState::Prepared => "prepared",
            SlotState::Active => "active",
            SlotState::Sealed => "sealed",
        }
    }
}

/// One slot of the segment table. Its number is its place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotEntry {
    /// The segment it holds; 0 when it is free or absent.
    pub segment: SegmentId,
    /// How many segments it has held.
    pub generation: u32,
    /// What it is used for.
    pub state: SlotState,
    /// Byte position behind the last group of a sealed segment, 0 in every other state.
    pub used: u32,
    /// Sequence of the first group, 0 when none was written or it was not known yet.
    pub first_group: GroupSeq,
}

/// A checkpoint and where replay begins after it was restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointRef {
    /// Number of the file; 0 is the beginning of the log, which needs no file.
    pub number: u64,
    /// The first group to replay.
    pub start: GroupSeq,
    /// The segment to look for it, from `pos`, and then in the segments after it.
    pub segment: SegmentId,
    /// Byte position in that segment.
    pub pos: u32,
    /// Header checksum of the group before `start`.
    pub previous_crc: u32,
    /// Run of the group before `start`.
    pub previous_run: u32,
    /// Size of the checkpoint file.
    pub bytes: u64,
}

/// The superblock's contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Counts the versions written.
    pub sequence: u64,
    /// Whose log this is.
    pub identity: Identity,
    /// Size of every segment.
    pub segment_bytes: u32,
    /// Size of a block.
    pub block_bytes: u32,
    /// How many times the log was opened. Raised durably before a run writes its first group.
    pub run: u32,
    /// The id the next prepared segment gets.
    pub next_segment: SegmentId,
    /// A group at or below this that is not found is a damaged log, never a torn tail.
    pub durable: GroupSeq,
    /// The newest checkpoint.
    pub newest: CheckpointRef,
    /// The one before, which recovery falls back to. Nothing from its start on was freed.
    pub older: CheckpointRef,
    /// The segment table.
    pub slots: Vec<SlotEntry>,
}

/// Why an extent holds no superblock copy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    /// Nothing was ever written here: all zeros.
    #[error("blank")]
    Blank,
    /// Something is here and it does not verify.
    #[error("{0}")]
    Damaged(String),
    /// It verifies and was written by newer code.
    #[error("format version {0}")]
    Newer(u32),
}

impl Superblock {
    /// The copy's bytes, without padding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.slots.len() <= SLOTS_MAX, "slots are counted before one is added");
        let length = SUPERBLOCK_HEADER_BYTES + self.slots.len() * SLOT_BYTES;
        let mut out = vec![0u8; length];
        out[..8].copy_from_slice(MAGIC);
        put_u32(&mut out, 8, FORMAT_VERSION);
        put_u32(&mut out, 16, length as u32);
        put_u32(&mut out, 20, self.block_bytes);
        put_u128(&mut out, 24, self.identity.storage.0);
        put_u64(&mut out, 40, self.sequence);
        put_u16(&mut out, 48, self.identity.shard.0);
        put_u32(&mut out, 52, self.segment_bytes);
        put_u32(&mut out, 56, self.run);
        put_u32(&mut out, 60, self.next_segment.0);
        put_u64(&mut out, 64, self.durable.0);
        put_checkpoint(&mut out, CHECKPOINTS_AT, &self.newest);
        put_checkpoint(&mut out, CHECKPOINTS_AT + CHECKPOINT_BYTES, &self.older);
        put_u32(&mut out, 152, self.slots.len() as u32);
        put_u64(&mut out, 160, self.identity.salt);
        for (i, slot) in self.slots.iter().enumerate() {
            let at = SUPERBLOCK_HEADER_BYTES + i * SLOT_BYTES;
            put_u32(&mut out, at, slot.segment.0);
            put_u32(&mut out, at + 4, slot.generation);
            out[at + 8] = slot.state as u8;
            put_u32(&mut out, at + 12, slot.used);
            put_u64(&mut out, at + 16, slot.first_group.0);
        }
        let crc = checksum(&out);
        put_u32(&mut out, 12, crc);
        out
    }

    /// The copy at the beginning of `extent`, and how many bytes of it the checksum covers.
    pub fn decode(extent: &[u8]) -> Result<(Superblock, usize), SuperblockError> {
        let damaged = |what: String| Err(SuperblockError::Damaged(what));
        if extent.iter().all(|b| *b == 0) {
            return Err(SuperblockError::Blank);
        }
        if extent.len() < SUPERBLOCK_HEADER_BYTES || &extent[..8] != MAGIC {
            return damaged("no superblock magic".to_owned());
        }
        let length = get_u32(extent, 16) as usize;
        if length < SUPERBLOCK_HEADER_BYTES || length > extent.len() {
            return damaged(format!("length {length}"));
        }
        let bytes = &extent[..length];
        let (expected, got) = (get_u32(bytes, 12), checksum(bytes));
        if expected != got {
            return damaged(format!("checksum {got:#010x}, expected {expected:#010x}"));
        }
        let version = get_u32(bytes, 8);
        if version > FORMAT_VERSION {
            return Err(SuperblockError::Newer(version));
        }
        let slots = get_u32(bytes, 152) as usize;
        if slots > SLOTS_MAX || SUPERBLOCK_HEADER_BYTES + slots * SLOT_BYTES != length {
            return damaged(format!("{slots} slots in {length} bytes"));
        }
        let mut table = Vec::with_capacity(slots);
        for i in 0..slots {
            let at = SUPERBLOCK_HEADER_BYTES + i * SLOT_BYTES;
            let Some(state) = SlotState::from_u8(bytes[at + 8]) else {
                return damaged(format!("slot {i} has state {}", bytes[at + 8]));
            };
            table.push(SlotEntry {
                segment: SegmentId(get_u32(bytes, at)),
                generation: get_u32(bytes, at + 4),
                state,
                used: get_u32(bytes, at + 12),
                first_group: GroupSeq(get_u64(bytes, at + 16)),
            });
        }
        let superblock = Superblock {
            sequence: get_u64(bytes, 40),
            identity: Identity {
                storage: StorageUuid(get_u128(bytes, 24)),
                shard: ShardId(get_u16(bytes, 48)),
                salt: get_u64(bytes, 160),
            },
            segment_bytes: get_u32(bytes, 52),
            block_bytes: get_u32(bytes, 20),
            run: get_u32(bytes, 56),
            next_segment: SegmentId(get_u32(bytes, 60)),
            durable: GroupSeq(get_u64(bytes, 64)),
            newest: get_checkpoint(bytes, CHECKPOINTS_AT),
            older: get_checkpoint(bytes, CHECKPOINTS_AT + CHECKPOINT_BYTES),
            slots: table,
        };
        Ok((superblock, length))
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    crc32c_append(crc32c(&bytes[..12]), &bytes[16..])
}

fn put_checkpoint(out: &mut [u8], at: usize, c: &CheckpointRef) {
    put_u64(out, at, c.number);
    put_u64(out, at + 8, c.start.0);
    put_u32(out, at + 16, c.segment.0);
    put_u32(out, at + 20, c.pos);
    put_u32(out, at + 24, c.previous_crc);
    put_u32(out, at + 28, c.previous_run);
    put_u64(out, at + 32, c.bytes);
}

fn get_checkpoint(bytes: &[u8], at: usize) -> CheckpointRef {
    CheckpointRef {
        number: get_u64(bytes, at),
        start: GroupSeq(get_u64(bytes, at + 8)),
        segment: SegmentId(get_u32(bytes, at + 16)),
        pos: get_u32(bytes, at + 20),
        previous_crc: get_u32(bytes, at + 24),
        previous_run: get_u32(bytes, at + 28),
        bytes: get_u64(bytes, at + 32),
    }
}
