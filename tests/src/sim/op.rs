//! What simulated clients ask for and hear, in owned form. A [`crate::sim::subject::Subject`]
//! turns these into whatever its state machine takes.
//!
//! Every write has a number, and every value and topic record carries that number in its first
//! bytes, so that whoever reads it knows exactly which write it sees.

use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

use ironring_core::prng::Prng;
use ironring_core::{Durability, ErrorCode, PartitionId, SessionId, TopicId};

/// Names a request of the simulation, over all clients and lives of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names a write: one intention of a client, however often it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId(pub u64);

/// A key's bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(Rc<[u8]>);

impl From<&[u8]> for Key {
    fn from(bytes: &[u8]) -> Key {
        Key(bytes.into())
    }
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", ShortKey(self))
    }
}

/// The beginning of a key, and its length when that is not all.
struct ShortKey<'a>(&'a [u8]);

impl fmt::Display for ShortKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0[..self.0.len().min(12)].escape_ascii())?;
        if self.0.len() > 12 { write!(f, "...{}", self.0.len()) } else { Ok(()) }
    }
}

/// What must hold for a put or delete to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    None,
    /// The key does not exist.
    Absent,
    /// The key exists with exactly this version.
    Version(u64),
}

/// What a write does to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Stores [`payload`] of this length.
    Put {
        /// Bytes of the value, at least [`TAG_BYTES`].
        len: u32,
        /// Milliseconds until it expires; 0: never.
        ttl_ms: u64,
    },
    /// Removes the key.
    Delete,
}

/// One change of one key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyOp {
    /// The key.
    pub key: Key,
    /// What happens to it.
    pub change: Change,
    /// What must hold.
    pub condition: Condition,
}

impl fmt::Debug for KeyOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KeyOp { key, change, condition } = self;
        write!(f, "{key:?} {change:?} if {condition:?}")
    }
}

/// How a write is acknowledged and retried, and which write it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intent {
    /// The write.
    pub id: WriteId,
    /// The partition its record goes to.
    pub partition: PartitionId,
    /// Ack no earlier than this.
    pub level: Durability,
    /// The session and the sequence within it, if any.
    pub session: Option<(SessionId, u64)>,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Asks for a session.
    OpenSession,
    /// A put or delete when there is one operation and `batch` is false, else an atomic batch.
    Write {
        /// Which write.
        intent: Intent,
        /// What to do.
        ops: Vec<KeyOp>,
        /// Sent as a batch.
        batch: bool,
    },
    /// Reads a key.
    Get {
        /// The key.
        key: Key,
    },
    /// Reads several keys of one partition.
    MultiGet {
        /// Their partition.
        partition: PartitionId,
        /// The keys.
        keys: Vec<Key>,
    },
    /// Lists keys of one partition.
    Scan {
        /// The partition.
        partition: PartitionId,
        /// Only keys that begin with this.
        prefix: Vec<u8>,
        /// Only keys after this; empty: from the start.
        after: Vec<u8>,
        /// At most this many entries.
        limit: u32,
        /// Whether values are wanted.
        values: bool,
    },
    /// Makes a topic.
    TopicCreate {
        /// Its name.
        name: String,
        /// How many partitions.
        partitions: u32,
        /// Keep at most so many bytes per partition; 0: all.
        retain_bytes: u64,
    },
    /// Drops a topic.
    TopicDelete {
        /// Its name.
        name: String,
    },
    /// Lists topics.
    TopicList,
    /// Appends records to a topic partition.
    Append {
        /// Which write.
        intent: Intent,
        /// The topic.
        topic: TopicId,
        /// The topic partition.
        index: u32,
        /// The length of each record's value, at least [`TAG_BYTES`].
        lens: Vec<u32>,
    },
    /// Reads records of a topic partition.
    TopicRead {
        /// The topic.
        topic: TopicId,
        /// The topic partition.
        index: u32,
        /// First offset; `None`: the oldest kept.
        from: Option<u64>,
        /// At most this many; 0: the server's limit.
        max_records: u32,
    },
    /// Drops records before an offset.
    Trim {
        /// Which write.
        intent: Intent,
        /// The topic.
        topic: TopicId,
        /// The topic partition.
        index: u32,
        /// First offset kept.
        before: u64,
    },
}

impl Op {
    /// The write this is, when it is one.
    #[must_use]
    pub fn intent(&self) -> Option<&Intent> {
        match self {
            Op::Write { intent, .. } | Op::Append { intent, .. } | Op::Trim { intent, .. } => {
                Some(intent)
            }
            _ => None,
        }
    }
}

/// What an acknowledged write got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The level reached.
    pub level: Durability,
    /// The partition of the record.
    pub partition: PartitionId,
    /// The term it was written in.
    pub term: u64,
    /// Its offset; for keys the version. 0: nothing had to be written.
    pub offset: u64,
    /// True when this answers an attempt after the first.
    pub duplicate: bool,
}

/// A value that was read.
#[derive(Clone, PartialEq, Eq)]
pub struct Value {
    /// Its version.
    pub version: u64,
    /// When it expires, in milliseconds of wall time; 0: never.
    pub expires: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Value { version, expires, bytes } = self;
        write!(f, "version {version} {} expires {expires}", Payload(bytes))
    }
}

/// Bytes by their author and length: the rest follows from these.
struct Payload<'a>(&'a [u8]);

impl fmt::Display for Payload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match author(self.0) {
            Some((write, index)) => write!(f, "{write:?}.{index} ({} bytes)", self.0.len()),
            None => write!(f, "{}", self.0.escape_ascii()),
        }
    }
}

/// One key of a scan.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Vec<u8>,
    /// Its version.
    pub version: u64,
    /// Its bytes, when asked for.
    pub value: Option<Vec<u8>>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} version {}", ShortKey(&self.key), self.version)?;
        self.value.as_ref().map_or(Ok(()), |value| write!(f, " {}", Payload(value)))
    }
}

/// One topic record that was read.
#[derive(Clone, PartialEq, Eq)]
pub struct TopicRecord {
    /// Its offset.
    pub offset: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for TopicRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.offset, Payload(&self.bytes))
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// To `OpenSession`.
    Session(SessionId),
    /// To `Write` and `Trim`.
    Receipt(Receipt),
    /// To `Get`.
    Value(Value),
    /// To `MultiGet`, in the order of the keys; an error stands for its key alone.
    Values(Vec<Result<Value, ErrorCode>>),
    /// To `Scan`.
    Page {
        /// In order of key.
        entries: Vec<Entry>,
        /// There may be more.
        more: bool,
    },
    /// To `TopicCreate` and `TopicDelete`.
    Topic(TopicId),
    /// To `TopicList`.
    Topics(Vec<(String, TopicId)>),
    /// To `Append`.
    Appended {
        /// The receipt.
        receipt: Receipt,
        /// Offset of the first record in the topic partition.
        first: u64,
        /// How many.
        count: u32,
    },
    /// To `TopicRead`.
    Records {
        /// In order of offset.
        records: Vec<TopicRecord>,
        /// Oldest offset kept.
        start: u64,
        /// One past the newest that may be read.
        end: u64,
    },
    /// To anything.
    Error {
        /// What went wrong.
        code: ErrorCode,
        /// The number that goes with the code.
        detail: u64,
    },
}

/// Bytes at the start of every payload that name the write it belongs to.
pub const TAG_BYTES: usize = 8;
const INDEX_BITS: u32 = 16;

/// The bytes that operation `index` of a write stores. Always the same for the same arguments.
#[must_use]
pub fn payload(write: WriteId, index: usize, len: u32) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    let tag = (write.0 << INDEX_BITS) | index as u64;
    bytes[..TAG_BYTES].copy_from_slice(&tag.to_le_bytes());
    Prng::new(tag).fill(&mut bytes[TAG_BYTES..]);
    bytes
}

/// Which write, and which of its operations, stored these bytes; `None` when they are too short
/// to tell. Whether the rest matches is for the caller to check against [`payload`].
#[must_use]
pub fn author(bytes: &[u8]) -> Option<(WriteId, usize)> {
    let tag = u64::from_le_bytes(bytes.get(..TAG_BYTES)?.try_into().ok()?);
    Some((WriteId(tag >> INDEX_BITS), (tag & ((1 << INDEX_BITS) - 1)) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_name_their_author() {
        let bytes = payload(WriteId(77), 3, 100);
        assert_eq!(author(&bytes), Some((WriteId(77), 3)));
        assert_eq!(bytes, payload(WriteId(77), 3, 100));
        assert_ne!(bytes[TAG_BYTES..], payload(WriteId(78), 3, 100)[TAG_BYTES..]);
        assert_eq!(author(b"short"), None);
    }
}
