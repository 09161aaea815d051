//! What a shard is told when it is made.

use std::time::Duration;

use ironring_core::{Incarnation, ShardId};
use ironring_log::{Identity, LogConfig};
use ironring_net::message::ClusterMap;
use ironring_ring::Slices;
use ironring_ring::replication::Settings;

use super::compare;
use super::movement::MovementSettings;

/// Everything a shard needs to know; it reads no configuration by itself.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which shard this is, and of which storage.
    pub identity: Identity,
    /// How partitions are divided among the node's shards.
    pub slices: Slices,
    /// The shard's log.
    pub log: LogConfig,
    /// Ceiling for index, cache, sessions, topics and values on their way, in bytes.
    pub memory_bytes_max: usize,
    /// The part of it the record cache may take while the index leaves room, in bytes.
    pub cache_bytes: usize,
    /// Deadline of requests that name none.
    pub deadline_default: Duration,
    /// Longer deadlines are shortened to this.
    pub deadline_max: Duration,
    /// Which run of the node this is; nothing: the log counts its own.
    pub incarnation: Option<Incarnation>,
    /// There is no metadata group: the shard leads every partition by itself.
    pub alone: bool,
    /// The node's own files say that the cluster has other members.
    pub has_others: bool,
    /// How replicas keep together.
    pub replication: Settings,
    /// How fast replicas are moved.
    pub movement: MovementSettings,
    /// How replicas are compared in the background.
    pub compare: compare::Settings,
    /// Answer to a client that asks for the map.
    pub map: ClusterMap,
}

impl ShardConfig {
    /// This shard.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.identity.shard
    }
}
