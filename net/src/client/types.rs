//! What calls take and give, owned.

use std::time::Duration;

use ironring_core::{Durability, Offset, StorageUuid, WallTime};

use crate::message::{Condition, Receipt, ScanEntry, TopicRecord, ValueRef, Welcome};

/// How one write differs from the configuration's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteSettings {
    /// The level to wait for; `None`: the configuration's.
    pub durability: Option<Durability>,
    /// What must hold.
    pub condition: Condition,
    /// When the value expires; `None`: never. Of puts only.
    pub ttl: Option<Duration>,
}

impl Default for WriteSettings {
    fn default() -> WriteSettings {
        WriteSettings { durability: None, condition: Condition::None, ttl: None }
    }
}

impl WriteSettings {
    /// Only when `condition` holds.
    #[must_use]
    pub fn when(condition: Condition) -> WriteSettings {
        WriteSettings { condition, ..WriteSettings::default() }
    }

    /// The time to live as the wire has it. Less than a millisecond counts as one: 0 means never.
    pub(crate) fn ttl_ms(&self) -> u64 {
        self.ttl.map_or(0, |ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1))
    }
}

/// A value that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The version, for compare-and-set.
    pub version: Offset,
    /// When it was written.
    pub time: WallTime,
    /// When it expires; 0: never.
    pub expires: WallTime,
    /// The bytes.
    pub value: Vec<u8>,
}

impl From<ValueRef<'_>> for Value {
    fn from(v: ValueRef<'_>) -> Value {
        Value { version: v.version, time: v.time, expires: v.expires, value: v.value.to_vec() }
    }
}

/// What a replica knew to be committed, which may be old.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale<T> {
    /// What was found.
    pub found: T,
    /// Everything that had been committed so long ago is in it; `None`: the replica does not know.
    pub age: Option<Duration>,
}

impl<T> Stale<T> {
    pub(crate) fn new(found: T, age_ms: u32) -> Stale<T> {
        let age = (age_ms != u32::MAX).then(|| Duration::from_millis(u64::from(age_ms)));
        Stale { found, age }
    }
}

/// One entry of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Vec<u8>,
    /// Its version.
    pub version: Offset,
    /// The value, when asked for.
    pub value: Option<Vec<u8>>,
}

impl From<ScanEntry<'_>> for Entry {
    fn from(e: ScanEntry<'_>) -> Entry {
        Entry { key: e.key.to_vec(), version: e.version, value: e.value.map(<[u8]>::to_vec) }
    }
}

/// One record of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Offset in the topic partition.
    pub offset: u64,
    /// When the node stored it.
    pub time: WallTime,
    /// Its key, empty for none.
    pub key: Vec<u8>,
    /// The payload.
    pub value: Vec<u8>,
}

impl From<TopicRecord<'_>> for Record {
    fn from(r: TopicRecord<'_>) -> Record {
        Record { offset: r.offset, time: r.time, key: r.key.to_vec(), value: r.value.to_vec() }
    }
}

/// What a read of a topic partition gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records {
    /// The records, in order of offset; empty when there is none (yet).
    pub records: Vec<Record>,
    /// Oldest offset kept.
    pub start: u64,
    /// One past the newest offset that may be read.
    pub end: u64,
}

/// Where appended records went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The receipt.
    pub receipt: Receipt,
    /// Index of the topic partition.
    pub partition: u32,
    /// Offset of the first record; the rest follow.
    pub first: u64,
    /// How many.
    pub count: u32,
}

/// What a server said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// The protocol version spoken.
    pub version: u8,
    /// Feature bits both sides have.
    pub features: u64,
    /// Identity of the node's storage.
    pub storage: StorageUuid,
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the node.
    pub node: String,
    /// Version of the server program.
    pub server: String,
    /// The shard that accepted the connection.
    pub shard: u16,
    /// Largest frame body the server takes.
    pub frame_bytes_max: u32,
    /// Most requests the connection may have unanswered.
    pub in_flight_max: u32,
}

impl From<Welcome<'_>> for ServerInfo {
    fn from(w: Welcome<'_>) -> ServerInfo {
        ServerInfo {
            version: w.version,
            features: w.features,
            storage: w.storage,
            cluster: w.cluster.to_owned(),
            node: w.node.to_owned(),
            server: w.server.to_owned(),
            shard: w.shard,
            frame_bytes_max: w.frame_bytes_max,
            in_flight_max: w.in_flight_max,
        }
    }
}
