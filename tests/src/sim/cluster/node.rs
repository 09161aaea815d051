//! One node: a shipped shard, its disk and its clock.

use std::time::Duration;

use ironring_core::io::HeapAlloc;
use ironring_core::{Incarnation, NodeId, Now, PartitionId, ShardId, StorageUuid, WallTime};
use ironring_log::{Identity, LogConfig};
use ironring_net::message::ClusterMap;
use ironring_net::peer::message::{Compare, Fetch, Fetched, SnapshotPiece};
use ironring_node::shard::{
    Effects, Event, MovementSettings, PeerMessage, Phase, Shard, ShardConfig, ToPeer, compare,
};
use ironring_ring::Slices;
use ironring_ring::metadata::ReplicaId;
use ironring_ring::replication::{Fence, Settings};

use crate::sim::disk::SimDisk;
use crate::sim::replicas::node::Clock;

/// Something on its way to a node.
#[derive(Clone, Debug)]
pub enum Message {
    /// From a shard of another node.
    Peer(ToPeer),
    /// From the controller.
    Fence(Fence),
    /// From the controller.
    HandOver(PartitionId, ReplicaId),
}

/// A node.
pub struct Node {
    /// Its number; 0 while it has not joined.
    pub id: NodeId,
    /// Its storage.
    pub storage: StorageUuid,
    /// How often its process was started.
    pub incarnation: Incarnation,
    /// Its clock.
    pub clock: Clock,
    /// Its disk.
    pub disk: SimDisk,
    /// The disk never had a log.
    pub blank: bool,
    /// The process, while it runs.
    pub shard: Option<Shard>,
    /// What it wants done.
    pub fx: Effects,
    /// It handles nothing until then.
    pub paused_until: u64,
}

/// What every node of a run is like.
#[derive(Clone, Debug)]
pub struct Making {
    /// Partitions among shards: one.
    pub slices: Slices,
    /// Every shard's log.
    pub log: LogConfig,
    /// Bytes of cache.
    pub cache_bytes: usize,
    /// How replicas keep together.
    pub replication: Settings,
    /// How they are compared.
    pub compare: compare::Settings,
}

impl Node {
    /// Starts the process.
    pub fn start(&mut self, making: &Making) {
        self.incarnation = Incarnation(self.incarnation.0 + 1);
        let config = ShardConfig {
            // Another at each start, as it is drawn: the log goes on with its own.
            identity: Identity {
                storage: self.storage,
                shard: ShardId(0),
                salt: self.incarnation.0,
            },
            slices: making.slices,
            log: making.log.clone(),
            memory_bytes_max: 64 << 20,
            cache_bytes: making.cache_bytes,
            deadline_default: Duration::from_secs(2),
            deadline_max: Duration::from_secs(2),
            incarnation: Some(self.incarnation),
            alone: false,
            has_others: true,
            replication: making.replication,
            movement: MovementSettings::default(),
            compare: making.compare,
            map: ClusterMap {
                epoch: 1,
                partitions: making.slices.partitions(),
                shards: Vec::new(),
            },
        };
        self.shard = Some(Shard::new(config, Box::new(HeapAlloc)));
        self.fx = Effects::default();
    }

    /// What its clocks show.
    pub fn now(&self, time: u64) -> Now {
        let wall = WallTime(1_700_000_000_000 + time / 1_000_000);
        Now { mono: self.clock.at(time), wall }
    }

    /// Whether it handles events.
    pub fn is_awake(&self, time: u64) -> bool {
        self.shard.is_some() && self.paused_until <= time
    }

    /// Hands an event to the shard.
    pub fn handle(&mut self, time: u64, event: Event<'_>) {
        let now = self.now(time);
        if let Some(shard) = &mut self.shard {
            shard.handle(now, event, &mut self.fx);
        }
    }

    /// A message arrived.
    pub fn receive(&mut self, time: u64, node: NodeId, message: &Message) {
        let message = match message {
            Message::Fence(fence) => PeerMessage::Fence(*fence),
            Message::HandOver(partition, to) => {
                PeerMessage::HandOver { partition: *partition, to: *to }
            }
            Message::Peer(ToPeer::Replicate(message, records)) => {
                PeerMessage::Replicate { message: *message, records }
            }
            Message::Peer(ToPeer::Ack(ack)) => PeerMessage::Ack(*ack),
            Message::Peer(ToPeer::SnapshotBegin(begin)) => PeerMessage::SnapshotBegin(*begin),
            Message::Peer(ToPeer::SnapshotPiece { partition, transfer, number, last, payload }) => {
                PeerMessage::SnapshotPiece {
                    partition: *partition,
                    piece: SnapshotPiece {
                        transfer: *transfer,
                        number: *number,
                        last: *last,
                        payload,
                    },
                }
            }
            Message::Peer(ToPeer::SnapshotAnswer { partition, answer }) => {
                PeerMessage::SnapshotAnswer { partition: *partition, answer: *answer }
            }
            Message::Peer(ToPeer::Compare { compare, range }) => {
                PeerMessage::Compare(Compare { range, ..*compare })
            }
            Message::Peer(ToPeer::Compared(compared)) => PeerMessage::Compared(*compared),
            Message::Peer(ToPeer::Diverged(diverged)) => PeerMessage::Diverged(*diverged),
            Message::Peer(ToPeer::Fetch { fetch, wants }) => {
                PeerMessage::Fetch(Fetch { wants, ..*fetch })
            }
            Message::Peer(ToPeer::Fetched { fetched, records }) => {
                PeerMessage::Fetched(Fetched { records, ..*fetched })
            }
        };
        self.handle(time, Event::Peer { node, message });
    }

    /// Why the shard ended by itself, or lost its log when nothing explains that.
    pub fn failure(&self, explained: bool) -> Option<String> {
        let failed = |shard: &&Shard| match shard.phase() {
            Phase::Failed => true,
            Phase::Damaged => !explained,
            _ => false,
        };
        let shard = self.shard.as_ref().filter(failed)?;
        Some(shard.failure().map_or_else(String::new, ToString::to_string))
    }
}
