//! What clients and nodes say to each other, as types. [`crate::codec`] turns them into bytes and
//! back; `docs/protocol.md` is the same in words.
//!
//! Requests and responses borrow from the frame they were decoded from. Lists stay encoded: a
//! decoded list was validated whole, so iterating it cannot fail.

use ironring_core::{
    Durability, ErrorCode, Offset, PartitionId, SessionId, StorageUuid, Term, TopicId, WallTime,
};

use crate::list::{AppendList, BatchList, KeyList, RecordList, ScanList, ValueList};

/// How a write is to be acknowledged and deduplicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    /// Ack no earlier than this.
    pub durability: Durability,
    /// The session, or [`SessionId::NONE`].
    pub session: SessionId,
    /// Position of the request among the session's requests to its partition: 1, 2, 3, ...
    /// Ignored without a session.
    pub sequence: u64,
}

/// What must hold for a put or delete to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    None,
    /// The key does not exist.
    Absent,
    /// The key exists with exactly this version.
    Version(Offset),
}

/// One operation of an atomic batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchOp<'a> {
    /// Store a value.
    Put {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
        /// Checked before any operation of the batch is applied.
        condition: Condition,
        /// Milliseconds until it expires; 0: never.
        ttl_ms: u64,
    },
    /// Remove a key; a key that does not exist is no error unless the condition says so.
    Delete {
        /// The key.
        key: &'a [u8],
        /// Checked before any operation of the batch is applied.
        condition: Condition,
    },
}

/// Where a topic read begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// At this offset of the topic partition.
    Offset(u64),
    /// At the first record stored at or after this time.
    Time(WallTime),
    /// At the oldest record kept.
    Earliest,
    /// At the end: only records yet to come.
    Latest,
}

/// How long a topic keeps records. Zero means without limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Records older than this may be dropped, in milliseconds.
    pub age_ms: u64,
    /// Oldest records are dropped when a partition holds more than this.
    pub bytes: u64,
}

/// Which topic partition an append goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendTo<'a> {
    /// This one.
    Partition(u32),
    /// The one the key's token names: `token >> 32` modulo the number of partitions.
    Key(&'a [u8]),
}

/// A decoded request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// First frame of every connection.
    Hello {
        /// Lowest protocol version the client speaks.
        version_min: u8,
        /// Highest protocol version the client speaks.
        version_max: u8,
        /// Feature bits the client would like ([`crate::features`]).
        features: u64,
        /// The cluster the client means to reach; empty: any.
        cluster: &'a str,
        /// Name and version of the client program, for logs.
        client: &'a str,
    },
    /// Answers at once.
    Ping,
    /// Asks for the cluster map.
    ClusterMap,
    /// Asks for a session.
    OpenSession,
    /// Asks for counters of the node, as JSON.
    Stats,
    /// Stores a value.
    Put {
        /// Ack and retry.
        options: WriteOptions,
        /// What must hold.
        condition: Condition,
        /// Milliseconds until it expires; 0: never.
        ttl_ms: u64,
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// Reads a value.
    Get {
        /// The key.
        key: &'a [u8],
    },
    /// Removes a key.
    Delete {
        /// Ack and retry.
        options: WriteOptions,
        /// What must hold.
        condition: Condition,
        /// The key.
        key: &'a [u8],
    },
    /// Reads many keys of one partition.
    MultiGet {
        /// The partition all keys belong to.
        partition: PartitionId,
        /// The keys.
        keys: KeyList<'a>,
    },
    /// Applies all operations or none; all keys belong to one partition.
    Batch {
        /// Ack and retry.
        options: WriteOptions,
        /// The partition all keys belong to.
        partition: PartitionId,
        /// What to do.
        ops: BatchList<'a>,
    },
    /// Lists keys of one partition in byte order.
    Scan {
        /// Which partition.
        partition: PartitionId,
        /// Only keys that begin with this.
        prefix: &'a [u8],
        /// Only keys greater than this (the cursor of the page before); empty: from the start.
        after: &'a [u8],
        /// At most this many entries; 0: the server's limit.
        limit: u32,
        /// Whether values are wanted too.
        values: bool,
    },
    /// Makes a topic.
    TopicCreate {
        /// Its name.
        name: &'a str,
        /// How many partitions.
        partitions: u32,
        /// What it keeps.
        retention: Retention,
    },
    /// Drops a topic and its records.
    TopicDelete {
        /// Its name.
        name: &'a str,
    },
    /// Describes one topic.
    TopicDescribe {
        /// Its name.
        name: &'a str,
    },
    /// Names of all topics.
    TopicList,
    /// Changes what a topic keeps.
    TopicAlter {
        /// Its name.
        name: &'a str,
        /// What it keeps from now on.
        retention: Retention,
    },
    /// Appends records, all or none, with consecutive offsets.
    TopicAppend {
        /// Ack and retry.
        options: WriteOptions,
        /// The topic, by the id its description gave.
        topic: TopicId,
        /// The topic partition.
        to: AppendTo<'a>,
        /// The records.
        records: AppendList<'a>,
    },
    /// Reads records.
    TopicRead {
        /// The topic.
        topic: TopicId,
        /// Index of the topic partition.
        partition: u32,
        /// Where to begin.
        from: ReadFrom,
        /// At most this many records; 0: the server's limit.
        max_records: u32,
        /// Stop before the answer holds more bytes than this, except that one record always fits.
        max_bytes: u32,
        /// Wait this long for a record when there is none yet; 0: answer at once.
        wait_ms: u32,
    },
    /// Start and end offset of one topic partition, and the first offset at or after a time.
    TopicOffsets {
        /// The topic.
        topic: TopicId,
        /// Index of the topic partition.
        partition: u32,
        /// The time to look for; 0: none.
        time: WallTime,
    },
    /// Drops the records before an offset.
    TopicTrim {
        /// Ack and retry.
        options: WriteOptions,
        /// The topic.
        topic: TopicId,
        /// Index of the topic partition.
        partition: u32,
        /// First offset that is kept.
        before: u64,
    },
}

/// What an acknowledged write got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The level reached, at least the one asked for.
    pub durability: Durability,
    /// The partition that holds the record.
    pub partition: PartitionId,
    /// The term it was written in.
    pub term: Term,
    /// Its offset; for keys this is the version.
    pub offset: Offset,
    /// True when this request had been applied before and this is the first receipt again.
    pub duplicate: bool,
}

/// A value that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueRef<'a> {
    /// Version of the value: the offset of the record that wrote it.
    pub version: Offset,
    /// When it was written.
    pub time: WallTime,
    /// When it expires; 0: never.
    pub expires: WallTime,
    /// The bytes.
    pub value: &'a [u8],
}

/// One entry of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanEntry<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Its version.
    pub version: Offset,
    /// The value, when asked for.
    pub value: Option<&'a [u8]>,
}

/// One record to append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendRecord<'a> {
    /// An optional key, empty for none.
    pub key: &'a [u8],
    /// The payload.
    pub value: &'a [u8],
}

/// One record that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicRecord<'a> {
    /// Offset in the topic partition.
    pub offset: u64,
    /// When the node stored it.
    pub time: WallTime,
    /// Its key, empty for none.
    pub key: &'a [u8],
    /// The payload.
    pub value: &'a [u8],
}

/// What the node tells a client that said hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome<'a> {
    /// The version spoken on this connection from here on.
    pub version: u8,
    /// Feature bits both sides have.
    pub features: u64,
    /// Identity of the node's storage.
    pub storage: StorageUuid,
    /// Name of the cluster.
    pub cluster: &'a str,
    /// Name of the node.
    pub node: &'a str,
    /// Version of the server program.
    pub server: &'a str,
    /// The shard that accepted this connection.
    pub shard: u16,
    /// Largest frame body the server takes.
    pub frame_bytes_max: u32,
    /// Most requests one connection may have unanswered.
    pub in_flight_max: u32,
    /// Longest key.
    pub key_bytes_max: u32,
    /// Longest value.
    pub value_bytes_max: u32,
}

/// One shard of the cluster map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardAddress {
    /// The shard.
    pub shard: u16,
    /// Where it listens by itself, `host:port`.
    pub address: String,
    /// First partition it owns.
    pub first: u32,
    /// One past the last partition it owns.
    pub end: u32,
}

/// Which shard owns which partitions, and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterMap {
    /// Version of the map: grows with each change.
    pub epoch: u64,
    /// P, a power of two.
    pub partitions: u32,
    /// In order of `first`, without holes.
    pub shards: Vec<ShardAddress>,
}

/// A topic's definition and state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its id.
    pub id: TopicId,
    /// Its name.
    pub name: String,
    /// How many partitions.
    pub partitions: u32,
    /// What it keeps.
    pub retention: Retention,
    /// When it was made.
    pub created: WallTime,
}

/// A decoded response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response<'a> {
    /// To `Hello`.
    Welcome(Welcome<'a>),
    /// To `Ping`.
    Pong,
    /// To `ClusterMap`.
    ClusterMap(ClusterMap),
    /// To `OpenSession`.
    Session(SessionId),
    /// To `Stats`: a JSON object.
    Stats(&'a str),
    /// To `Put`, `Delete`, `Batch` and `TopicTrim`.
    Receipt(Receipt),
    /// To `Get`.
    Value(ValueRef<'a>),
    /// To `MultiGet`: one entry per key, in the order of the request.
    Values(ValueList<'a>),
    /// To `Scan`.
    Page {
        /// The entries, in byte order of key.
        entries: ScanList<'a>,
        /// True when there may be more after the last entry.
        more: bool,
    },
    /// To `TopicCreate`, `TopicDescribe`, `TopicAlter` and `TopicDelete`.
    Topic(TopicInfo),
    /// To `TopicList`.
    Topics(Vec<TopicInfo>),
    /// To `TopicAppend`.
    Appended {
        /// The receipt.
        receipt: Receipt,
        /// Index of the topic partition.
        partition: u32,
        /// Offset of the first record in the topic partition; the rest follow.
        first: u64,
        /// How many.
        count: u32,
    },
    /// To `TopicRead`.
    Records {
        /// The records, in order of offset.
        records: RecordList<'a>,
        /// Oldest offset kept.
        start: u64,
        /// One past the newest offset that may be read.
        end: u64,
    },
    /// To `TopicOffsets`.
    Offsets {
        /// Oldest offset kept.
        start: u64,
        /// One past the newest.
        end: u64,
        /// First offset at or after the time asked for; `end` when there is none.
        at_time: u64,
    },
    /// To anything.
    Error {
        /// What went wrong.
        code: ErrorCode,
        /// A number the code defines: the current version for `condition_failed` (0: absent), the
        /// oldest offset kept for `offset_out_of_range`, milliseconds to wait for `overloaded`,
        /// the sequence expected next for `sequence_gap`.
        detail: u64,
        /// One sentence for a person.
        message: &'a str,
    },
}
