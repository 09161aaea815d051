//! Version 1 of the archived bodies. **Frozen**: a field that is added, dropped, moved or read
//! otherwise is another version, in another module.
//!
//! Only integers, byte arrays, structs of them and vectors: no enums, options, strings, shared
//! pointers or niches, whose archived form would be rkyv's choice. Fields stand where no padding
//! is needed; numbers that name a choice are checked by `read`, and fields without a meaning are 0.
//! The root is the struct named like the kind, or a vector of items for the kinds that list.

mod read;
mod write;

pub use read::Item;
pub(super) use read::{leader_id, plain, read, replica_id, require, sections, unknown, zero};
pub(super) use write::{leader, put, replica, section, write, write_sections};

use super::archived::archived;
use super::frame::LIST_BODY_BYTES_MAX;
use super::message::{ASKS_MAX, SECTIONS_MAX, VOTERS_MAX};

/// Values of [`Ack::state`].
mod ack_state {
    pub const FLUSHED: u32 = 1;
    pub const MISMATCH: u32 = 2;
    pub const PROMISED: u32 = 3;
}

/// Values of [`Ask::kind`].
mod ask_kind {
    pub const VOTERS: u32 = 1;
    pub const TRANSFER: u32 = 2;
    pub const ELECTION: u32 = 3;
    pub const RENEW: u32 = 4;
}

/// Values of [`Raft::half`].
mod half {
    pub const REQUEST: u32 = 1;
    pub const ANSWER: u32 = 2;
}

/// Values of [`SnapshotAnswer::state`].
mod snapshot_state {
    pub const RESUME: u32 = 1;
    pub const COMPLETE: u32 = 2;
    pub const REFUSED: u32 = 3;
}

archived! {
    /// A replica.
    ArchivedReplica Replica, 24 { storage: [u8; 16], life: u64, }
    /// A run of a replica.
    ArchivedLeader Leader, 32 { replica: Replica, incarnation: u64, }
    /// An item of `Replicate`.
    ArchivedSection Section, 112 {
        partition: u32,
        count: u32,
        to: Replica,
        from: Leader,
        term: u64,
        first: u64,
        prev_term: u64,
        high_watermark: u64,
        probe_ns: u64,
        payload_start: u32,
        payload_len: u32,
    }
    /// An item of `Acks`.
    ArchivedAck Ack, 96 {
        partition: u32,
        state: u32,
        from: Leader,
        to: Replica,
        term: u64,
        end: u64,
        state_term: u64,
        probe_ns: u64,
    }
    /// An item of `Fences`.
    ArchivedFence Fence, 40 { partition: u32, reserved: u32, to: Replica, term: u64, }
    /// An item of `FenceAnswers`.
    ArchivedFenceAnswer FenceAnswer, 72 {
        partition: u32,
        reserved: u32,
        from: Leader,
        term: u64,
        last_term: u64,
        log_end: u64,
        lease_left_ns: u64,
    }
    /// An item of `Asks`.
    ArchivedAsk Ask, 96 {
        partition: u32,
        kind: u32,
        term: u64,
        from: Leader,
        base: u64,
        to: Leader,
        voters: Vec<Replica>,
    }
    /// The body of `Raft`.
    ArchivedRaft Raft, 16 { call: u64, half: u32, reserved: u32, }
    /// The body of `Forward`.
    ArchivedForward Forward, 32 {
        call: u64,
        correlation: u64,
        deadline_ms: u32,
        body_crc: u32,
        status: u16,
        version: u8,
        opcode: u8,
        reserved: u32,
    }
    /// The body of `ForwardAnswer`.
    ArchivedForwardAnswer ForwardAnswer, 16 {
        call: u64,
        body_crc: u32,
        status: u16,
        version: u8,
        opcode: u8,
    }
    /// The body of `SnapshotBegin`.
    ArchivedSnapshotBegin SnapshotBegin, 112 {
        transfer: u64,
        partition: u32,
        reserved: u32,
        to: Replica,
        from: Leader,
        term: u64,
        start: u64,
        end: u64,
        end_term: u64,
        total_bytes: u64,
    }
    /// The body of `SnapshotPiece`.
    ArchivedSnapshotPiece SnapshotPiece, 16 { transfer: u64, number: u32, last: u32, }
    /// The body of `SnapshotAnswer`.
    ArchivedSnapshotAnswer SnapshotAnswer, 16 { transfer: u64, state: u32, value: u32, }
    /// The body of `Credits`.
    ArchivedCredits Credits, 8 { bytes: u64, }
    /// The body of `Ping` and of `Pong`.
    ArchivedPing Ping, 16 { sent_ns: u64, wall_ms: u64, }
    /// The body of `Goodbye`.
    ArchivedGoodbye Goodbye, 8 { reason: u32, reserved: u32, }
}

/// A vector's root: a relative pointer and a count.
const ROOT: usize = 8;
const _: () = assert!(size_of::<rkyv::vec::ArchivedVec<ArchivedSection>>() == ROOT);
// Lists at their caps fit a body, so that caps are all a sender has to heed.
const _: () = assert!(SECTIONS_MAX * 112 + ROOT <= LIST_BODY_BYTES_MAX as usize);
const _: () = assert!(ASKS_MAX * (96 + VOTERS_MAX * 24) + ROOT <= LIST_BODY_BYTES_MAX as usize);
