//! Requests in flight, and what each is for.

use ironring_core::io::{FileName, IoOp, IoQueue, OpId};
use ironring_core::{FilePos, SlotId, StableMap};

use crate::status::OpName;
use crate::{Location, ReadId};

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A step of formatting or recovery; the number is the step's own.
    Opening(u64),
    /// The group in flight.
    Group,
    /// A superblock copy.
    Superblock,
    /// Zero-filling or preparing a segment.
    Provision,
    /// The checkpoint being written.
    Checkpoint,
    /// Compaction's read of a segment.
    Compaction(SlotId),
    /// The background verification's read of a segment.
    Scrub(SlotId),
    /// Removing a file nothing refers to.
    Cleanup,
    /// A record read.
    Read { read: ReadId, at: Location, slot: SlotId },
}

/// A request in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub purpose: Purpose,
    pub op: OpName,
}

/// Every request the log has in flight.
#[derive(Debug, Default)]
pub(crate) struct Ops {
    pending: StableMap<OpId, Pending>,
}

impl Ops {
    pub fn push(&mut self, io: &mut IoQueue, purpose: Purpose, op: IoOp) {
        let name = op_name(&op);
        let id = io.push(op);
        self.pending.insert(id, Pending { purpose, op: name });
    }

    pub fn take(&mut self, id: OpId) -> Pending {
        self.pending.remove(&id).expect("the driver completes each request once, and only ours")
    }

    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

fn op_name(op: &IoOp) -> OpName {
    let of = |name, file: &FileName| OpName { name, file: Some(*file), pos: 0 };
    let at = |name, file: &FileName, pos: &FilePos| OpName { name, file: Some(*file), pos: pos.0 };
    match op {
        IoOp::List => OpName { name: "list", file: None, pos: 0 },
        IoOp::Open { file } => of("open", file),
        IoOp::Create { file } => of("create", file),
        IoOp::ReadAt { file, pos, .. } => at("read", file, pos),
        IoOp::WriteAt { file, pos, durable: true, .. } => at("durable write", file, pos),
        IoOp::WriteAt { file, pos, .. } => at("write", file, pos),
        IoOp::Sync { file } => of("sync", file),
        IoOp::SyncDir => OpName { name: "sync of the directory", file: None, pos: 0 },
        IoOp::Remove { file } => of("remove", file),
        IoOp::Close { file } => of("close", file),
    }
}
