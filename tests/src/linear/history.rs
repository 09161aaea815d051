//! What clients asked for, what they heard, and when.
//!
//! Invariants: times are of one monotonic clock, in nanoseconds; `end` is absent exactly when the
//! client never learned the outcome; an operation that certainly changed nothing is
//! [`Answer::Failed`] and says nothing about the data.

use serde::{Deserialize, Serialize};

/// Nanoseconds of the monotonic clock that all clients of a history share.
pub type Nanos = u64;

/// How durable an acknowledged write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// In the leader's memory.
    Async,
    /// Fsynced on the leader.
    Local,
    /// Fsynced on a majority of the voters.
    Quorum,
    /// Fsynced on every replica.
    All,
}

/// What must hold for a change to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// Nothing.
    None,
    /// The key does not exist.
    Absent,
    /// The key exists with exactly this version.
    Version(u64),
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The key. A harness with binary keys encodes them so that their order is kept (hex).
    #[serde(rename = "k")]
    pub key: String,
    /// The number or hash of the value that is stored; `None` deletes.
    #[serde(rename = "to", default, skip_serializing_if = "Option::is_none")]
    pub value: Option<u64>,
    /// What must hold.
    #[serde(rename = "if", default = "nothing", skip_serializing_if = "is_nothing")]
    pub condition: Condition,
    /// Milliseconds until the value expires; 0: never.
    #[serde(rename = "ttl", default, skip_serializing_if = "is_zero")]
    pub ttl_ms: u64,
}

fn nothing() -> Condition {
    Condition::None
}

fn is_nothing(condition: &Condition) -> bool {
    *condition == Condition::None
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What a client asked for. `partition` counts in the key space; `topic` and `index` name a topic
/// partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[expect(missing_docs, reason = "fields named as in docs/protocol.md")]
pub enum Call {
    /// A put or delete, or an atomic batch of them.
    Write { partition: u32, changes: Vec<Change> },
    /// A get of one key, or a multi-get.
    Get { partition: u32, keys: Vec<String> },
    /// One page of a scan: keys that begin with `prefix` and are greater than `after`.
    Scan { partition: u32, prefix: String, after: String },
    /// An append of records, by the numbers of their values.
    Append { topic: u32, index: u32, values: Vec<u64> },
    /// A read from an offset, or from the oldest record. `max` 0: no limit.
    Read { topic: u32, index: u32, from: Option<u64>, max: u32 },
    /// Asks for start and end.
    Offsets { topic: u32, index: u32 },
    /// Drops records below `before`.
    Trim { topic: u32, index: u32, before: u64 },
}

impl Call {
    /// Whether it changes something.
    #[must_use]
    pub fn is_write(&self) -> bool {
        matches!(self, Call::Write { .. } | Call::Append { .. } | Call::Trim { .. })
    }
}

/// What was read of a key that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// Its version, when the answer tells.
    #[serde(rename = "v", default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// The number or hash of its value, when the answer tells.
    #[serde(rename = "is", default, skip_serializing_if = "Option::is_none")]
    pub value: Option<u64>,
}

/// What a client heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[expect(missing_docs, reason = "fields named as in docs/protocol.md")]
pub enum Answer {
    /// To a write or trim: applied. `version` is that of the last change; 0: there was nothing to
    /// delete; `None`: not told.
    Receipt { level: Level, version: Option<u64> },
    /// To an append: offset of the first record.
    Appended { level: Level, first: u64 },
    /// To a write: not applied; the version found instead, 0 when the key does not exist.
    ConditionFailed { found: u64 },
    /// To a get: in the order of the keys.
    Cells(Vec<Option<Cell>>),
    /// To a scan.
    Page { entries: Vec<(String, Cell)>, more: bool },
    /// To a read or a question for offsets: pairs of offset and value.
    Records { records: Vec<(u64, u64)>, start: u64, end: u64 },
    /// To a read or trim: outside of what is kept, which starts here.
    OutOfRange { start: u64 },
    /// To anything: certainly nothing was changed, and nothing was learned.
    Failed,
    /// To anything: the client does not know.
    Unknown,
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// Who asked.
    #[serde(rename = "c")]
    pub client: u32,
    /// When it was sent.
    #[serde(rename = "s")]
    pub start: Nanos,
    /// When the answer came; `None` when it never did.
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Nanos>,
    /// How old the answer says it may be; present exactly on answers flagged stale. [`Nanos::MAX`]:
    /// nobody knows, so that all of it may be missing.
    #[serde(rename = "age", default, skip_serializing_if = "Option::is_none")]
    pub age: Option<Nanos>,
    /// What was asked.
    #[serde(rename = "q")]
    pub call: Call,
    /// What was heard.
    #[serde(rename = "a")]
    pub answer: Answer,
}

/// Operations of all clients, in order of their start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The operations.
    pub operations: Vec<Operation>,
}

impl History {
    /// Puts operations in order of their start.
    #[must_use]
    pub fn new(mut operations: Vec<Operation>) -> History {
        operations.sort_by_key(|op| (op.start, op.client));
        History { operations }
    }

    /// Joins what clients recorded. What has no answer is unknown.
    #[must_use]
    pub fn merge<C: Fn() -> Nanos>(logs: impl IntoIterator<Item = ClientLog<C>>) -> History {
        History::new(logs.into_iter().flat_map(|log| log.operations).collect())
    }
}

/// An operation of a [`ClientLog`] that waits for its answer.
#[derive(Debug)]
#[must_use = "an operation that is never finished stays unknown"]
pub struct Ticket(usize);

/// What one client does. Each client, on whatever thread, owns one, so recording takes no lock;
/// [`History::merge`] joins them. A client may have several operations in flight.
#[derive(Debug)]
pub struct ClientLog<C> {
    client: u32,
    clock: C,
    operations: Vec<Operation>,
}

impl<C: Fn() -> Nanos> ClientLog<C> {
    /// The log of a client. `clock` is monotonic and the same for all clients of a history.
    pub fn new(client: u32, clock: C) -> ClientLog<C> {
        ClientLog { client, clock, operations: Vec::new() }
    }

    /// To be called before the request is sent.
    pub fn begin(&mut self, call: Call) -> Ticket {
        let start = (self.clock)();
        let (client, answer) = (self.client, Answer::Unknown);
        self.operations.push(Operation { client, start, end: None, age: None, call, answer });
        Ticket(self.operations.len() - 1)
    }

    /// To be called after the answer was received.
    pub fn finish(&mut self, ticket: Ticket, answer: Answer) {
        self.finish_stale(ticket, answer, None);
    }

    /// As [`ClientLog::finish`], for an answer flagged stale that states its age.
    pub fn finish_stale(&mut self, ticket: Ticket, answer: Answer, age: Option<Nanos>) {
        let now = (self.clock)();
        let op = &mut self.operations[ticket.0];
        op.end = (answer != Answer::Unknown).then_some(now);
        op.answer = answer;
        op.age = age;
    }
}
