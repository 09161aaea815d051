//! Reads that need more than memory: the parts of one answer, collected from the disk.
//!
//! A gather asks for each part that is not cached with one disk read, and answers when all are there,
//! or that its deadline passed.

use std::collections::BTreeMap;

use ironring_core::{Instant, Offset, PartitionId, TopicId, WallTime};
use ironring_log::{Location, ReadId};

use super::event::Origin;
use super::models::Stored;

/// Names a gather. Unique within one run of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GatherId(pub u64);

/// What the answer is to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A get: one item.
    Get,
    /// A multi-get: items in the order of the request.
    MultiGet,
    /// A scan.
    Scan {
        /// Whether the answer holds values.
        values: bool,
        /// Whether there may be more.
        more: bool,
    },
    /// A topic read: items are batches.
    Topic {
        /// The topic.
        topic: TopicId,
        /// Index of the topic partition.
        index: u32,
        /// First offset wanted.
        from: u64,
        /// Whether the reader asked for what is oldest, wherever that is by now.
        oldest: bool,
        /// Most records.
        max_records: u32,
        /// Most bytes.
        max_bytes: u32,
    },
}

/// One key or batch of the answer.
#[derive(Clone, Debug)]
pub struct Item {
    /// The key; empty for a batch.
    pub key: Vec<u8>,
    /// Version of the value; [`Offset::NONE`] when there is none. First offset of a batch.
    pub version: Offset,
    /// When the value expires.
    pub expires: WallTime,
    /// Records in the batch; 0 for a key.
    pub count: u32,
    /// Which parts hold the bytes, in order.
    pub parts: std::ops::Range<usize>,
}

/// One record to fetch.
#[derive(Clone, Debug)]
pub struct Part {
    /// Where it lies.
    pub at: Location,
    /// Its offset, where the state knows it: of a value that is one record.
    pub offset: Option<Offset>,
    /// What was fetched.
    pub stored: Option<Stored>,
}

impl Part {
    /// A record that is not fetched yet.
    #[must_use]
    pub fn new(at: Location, offset: Option<Offset>) -> Part {
        Part { at, offset, stored: None }
    }
}

/// One answer in the making.
#[derive(Clone, Debug)]
pub struct Gather {
    /// Who waits; `None` when they were told that the deadline passed. Reads on their way keep
    /// their gather, so that a device which does not answer is not asked without a bound.
    pub origin: Option<Origin>,
    /// When the request came.
    pub since: Instant,
    /// When they stop waiting.
    pub deadline: Instant,
    /// The partition.
    pub partition: PartitionId,
    /// What it is.
    pub kind: Kind,
    /// What the answer holds.
    pub items: Vec<Item>,
    /// The records it needs.
    pub parts: Vec<Part>,
    /// Reads not finished.
    pub outstanding: usize,
    /// A part could not be read: the answer is this error.
    pub failed: Option<String>,
    /// Of a part no replica has what it was.
    pub lost: bool,
}

/// The gathers of a shard.
#[derive(Debug, Default)]
pub struct Gathers {
    next: u64,
    next_read: u64,
    all: BTreeMap<GatherId, Gather>,
    reads: BTreeMap<ReadId, (GatherId, usize)>,
    bytes: usize,
}

/// Most gathers at a time; more are refused as overload.
pub const GATHERS_MAX: usize = 8192;

impl Gathers {
    /// Adds a gather.
    pub fn add(&mut self, gather: Gather) -> GatherId {
        self.next += 1;
        self.bytes += bytes_of(&gather);
        self.all.insert(GatherId(self.next), gather);
        GatherId(self.next)
    }

    /// A gather by name.
    pub fn get_mut(&mut self, id: GatherId) -> Option<&mut Gather> {
        self.all.get_mut(&id)
    }

    /// Takes a finished gather.
    pub fn remove(&mut self, id: GatherId) -> Option<Gather> {
        let gone = self.all.remove(&id)?;
        self.bytes -= bytes_of(&gone);
        Some(gone)
    }

    /// Tells `expired` who waited too long for the disk, each once. O(gathers).
    pub fn expire(&mut self, now: Instant, mut expired: impl FnMut(Origin)) {
        for gather in self.all.values_mut() {
            if gather.outstanding > 0
                && gather.deadline <= now
                && let Some(origin) = gather.origin.take()
            {
                expired(origin);
            }
        }
    }

    /// A name for the read of one part.
    pub fn begin_read(&mut self, id: GatherId, part: usize) -> ReadId {
        self.next_read += 1;
        self.reads.insert(ReadId(self.next_read), (id, part));
        ReadId(self.next_read)
    }

    /// Which part a finished read was for.
    pub fn end_read(&mut self, read: ReadId) -> Option<(GatherId, usize)> {
        self.reads.remove(&read)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Bytes the answers will hold.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The sizes are known from the locations before anything is read.
fn bytes_of(gather: &Gather) -> usize {
    gather.parts.iter().map(|p| p.at.len as usize).sum::<usize>() + gather.items.len() * 64
}
