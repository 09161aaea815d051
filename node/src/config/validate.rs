//! Checks between keys. What one key alone may hold is in [`super::schema`].

use std::net::SocketAddr;
use std::time::Duration;

use ironring_core::limits::BLOCK_BYTES;
use ironring_ring::controller::Settings;

use super::schema::Config;
use super::size;
use crate::raft::RaftConfig;

/// Keys that do not fit each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// `section.name` of each key involved, the one most likely to be corrected first.
    pub keys: &'static [&'static str],
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// Segments a shard needs beside those in reserve: the one being written, one being compacted, and
/// one of deletes and relocations when the disk is full.
const SEGMENTS_BESIDE_RESERVE: u64 = 3;

impl Config {
    /// Everything that does not fit together; empty when the configuration can be used.
    #[must_use]
    pub fn conflicts(&self) -> Vec<Conflict> {
        let mut found = Vec::new();
        let mut conflict = |keys, message: String, hint: String| {
            found.push(Conflict { keys, message, hint });
        };

        let partitions = self.cluster.partitions;
        if !partitions.is_power_of_two() {
            conflict(
                &["cluster.partitions"],
                format!("cluster.partitions is {partitions}, which is not a power of two"),
                format!(
                    "use {} or {}",
                    partitions.next_power_of_two() / 2,
                    partitions.next_power_of_two()
                ),
            );
        }
        if u32::from(self.node.shards) > partitions {
            conflict(
                &["node.shards", "cluster.partitions"],
                format!("node.shards is {}, more than the {partitions} partitions there are to serve", self.node.shards),
                "a shard without a partition does nothing: lower node.shards or raise cluster.partitions".to_owned(),
            );
        }
        let cpus = self.node.cpus.len();
        if cpus > 0 && usize::from(self.node.shards) > cpus {
            conflict(
                &["node.shards", "node.cpus"],
                format!("node.shards is {}, but node.cpus names {cpus}", self.node.shards),
                "name one CPU per shard, or leave node.shards out".to_owned(),
            );
        }
        let segment = self.log.segment_bytes;
        if !segment.is_multiple_of(BLOCK_BYTES as u64) {
            conflict(
                &["log.segment_bytes"],
                format!("log.segment_bytes is {segment}, which is not a multiple of {BLOCK_BYTES}"),
                format!("use {}", size::exact(segment.next_multiple_of(1 << 20))),
            );
        }
        let shards = u64::from(self.node.shards.max(1));
        let least =
            shards * (u64::from(self.log.reserve_segments) + SEGMENTS_BESIDE_RESERVE) * segment;
        if self.log.disk_bytes_max != 0 && self.log.disk_bytes_max < least {
            conflict(
                &["log.disk_bytes_max", "log.segment_bytes", "log.reserve_segments"],
                format!(
                    "log.disk_bytes_max is {}, too little for {shards} shard(s) of {} segments of {}",
                    size::exact(self.log.disk_bytes_max),
                    u64::from(self.log.reserve_segments) + SEGMENTS_BESIDE_RESERVE,
                    size::exact(segment)
                ),
                format!("allow at least {}, or make log.segment_bytes smaller", size::exact(least)),
            );
        }
        let (memory, cache) = (self.memory.max_bytes, self.memory.cache_bytes);
        if memory != 0 && cache > memory / 2 {
            conflict(
                &["memory.cache_bytes", "memory.max_bytes"],
                format!(
                    "memory.cache_bytes is {}, more than half of memory.max_bytes ({})",
                    size::exact(cache),
                    size::exact(memory)
                ),
                "the index and requests need the rest: lower memory.cache_bytes".to_owned(),
            );
        }
        let (default, max) = (self.limits.deadline_default_ms, self.limits.deadline_max_ms);
        if default > max {
            conflict(
                &["limits.deadline_default_ms", "limits.deadline_max_ms"],
                format!(
                    "limits.deadline_default_ms is {default}, more than limits.deadline_max_ms ({max})"
                ),
                "lower the default or raise the maximum".to_owned(),
            );
        }
        if let Err(error) = self.raft().validate() {
            found.push(Conflict {
                keys: metadata_key(error.field),
                message: format!("metadata.{}: {}", error.field, error.problem),
                hint: "see the keys of [metadata]".to_owned(),
            });
        }
        found.extend(self.controller_conflicts());
        found.extend(self.listen_conflicts());
        found
    }

    fn controller_conflicts(&self) -> Vec<Conflict> {
        let mut found = Vec::new();
        let (controller, heartbeat) = (&self.controller, self.metadata.heartbeat_interval_ms);
        let (leader, session) = (controller.leader_timeout_ms, controller.session_timeout_ms);
        if u64::from(leader) < 3 * u64::from(heartbeat) {
            found.push(Conflict {
                keys: &["controller.leader_timeout_ms", "metadata.heartbeat_interval_ms"],
                message: format!(
                    "controller.leader_timeout_ms is {leader}, less than three times \
                     metadata.heartbeat_interval_ms ({heartbeat}): nodes that are well would lose \
                     their leaderships"
                ),
                hint: format!("use at least {}", 3 * u64::from(heartbeat)),
            });
        }
        if session <= leader {
            found.push(Conflict {
                keys: &["controller.session_timeout_ms", "controller.leader_timeout_ms"],
                message: format!(
                    "controller.session_timeout_ms is {session}, no more than \
                     controller.leader_timeout_ms ({leader})"
                ),
                hint: "a node loses its leaderships first and is dead later".to_owned(),
            });
        }
        found
    }

    /// How patient the node is as the controller.
    #[must_use]
    pub fn controller_settings(&self) -> Settings {
        let controller = &self.controller;
        let ms = |n: u32| Duration::from_millis(u64::from(n));
        Settings {
            leader_timeout: ms(controller.leader_timeout_ms),
            session_timeout: ms(controller.session_timeout_ms),
            rebalance_grace: Duration::from_secs(u64::from(controller.rebalance_grace_s)),
            moves_max: controller.moves_max as usize,
            handovers_max: controller.handovers_max as usize,
            ..Settings::default()
        }
    }

    /// The settings of the metadata group.
    #[must_use]
    pub fn raft(&self) -> RaftConfig {
        let metadata = &self.metadata;
        let ms = |n: u32| Duration::from_millis(u64::from(n));
        RaftConfig {
            cluster_name: self.cluster.name.clone(),
            heartbeat_interval: ms(metadata.heartbeat_interval_ms),
            election_timeout_min: ms(metadata.election_timeout_min_ms),
            election_timeout_max: ms(metadata.election_timeout_max_ms),
            snapshot_entries: u64::from(metadata.snapshot_entries),
            snapshot_interval: Duration::from_secs(u64::from(metadata.snapshot_interval_s)),
            snapshot_retain: metadata.snapshot_retain_count as usize,
            entries_kept: u64::from(metadata.entries_kept),
            purge_batch: u64::from(metadata.purge_batch_size),
            ..RaftConfig::default()
        }
    }

    fn listen_conflicts(&self) -> Vec<Conflict> {
        let mut found = Vec::new();
        let listen = &self.listen;
        let pairs: [(&'static [&'static str], _, _); 3] = [
            (&["listen.http", "listen.clients"], listen.http, listen.clients),
            (&["listen.peers", "listen.clients"], listen.peers, listen.clients),
            (&["listen.peers", "listen.http"], listen.peers, listen.http),
        ];
        for (keys, one, other) in pairs {
            if one.port() != 0 && overlap(one, other) {
                found.push(Conflict {
                    keys,
                    message: format!("{} and {} are both {one}", keys[0], keys[1]),
                    hint: "give them different ports".to_owned(),
                });
            }
        }
        if listen.peers.ip().is_unspecified() && listen.peers_advertise.is_empty() {
            found.push(Conflict {
                keys: &["listen.peers", "listen.peers_advertise"],
                message: format!("listen.peers is {}, which nodes cannot connect to", listen.peers),
                hint: "set listen.peers_advertise to the host name or address nodes should use"
                    .to_owned(),
            });
        }
        if listen.clients.ip().is_unspecified() && listen.advertise.is_empty() {
            found.push(Conflict {
                keys: &["listen.clients", "listen.advertise"],
                message: format!(
                    "listen.clients is {}, which clients cannot connect to",
                    listen.clients
                ),
                hint: "set listen.advertise to the host name or address clients should use"
                    .to_owned(),
            });
        }
        let base = u32::from(listen.shard_port_base);
        let end = base + u32::from(self.node.shards.max(1));
        if base != 0 && end > 65_536 {
            found.push(Conflict {
                keys: &["listen.shard_port_base", "node.shards"],
                message: format!(
                    "listen.shard_port_base is {base}: ports of {} shards end above 65535",
                    self.node.shards
                ),
                hint: format!("use at most {}", 65_536 - u32::from(self.node.shards.max(1))),
            });
        }
        for (name, address) in [
            ("listen.clients", listen.clients),
            ("listen.peers", listen.peers),
            ("listen.http", listen.http),
        ] {
            if base != 0 && (base..end).contains(&u32::from(address.port())) {
                found.push(Conflict {
                    keys: &[
                        "listen.shard_port_base",
                        "listen.clients",
                        "listen.peers",
                        "listen.http",
                    ],
                    message: format!(
                        "the shards' ports {base} to {} include the port of {name} ({})",
                        end - 1,
                        address.port()
                    ),
                    hint: "choose another listen.shard_port_base".to_owned(),
                });
            }
        }
        found
    }

    /// What works but deserves a second look, each as one sentence.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (name, address) in [
            ("listen.clients", self.listen.clients),
            ("listen.peers", self.listen.peers),
            ("listen.http", self.listen.http),
        ] {
            if !address.ip().is_loopback() {
                found.push(format!(
                    "{name} is {address}: there is no authentication or encryption, so every host that reaches it must be trusted"
                ));
            }
        }
        found
    }
}

/// The key a setting of the metadata group comes from.
fn metadata_key(field: &str) -> &'static [&'static str] {
    match field {
        "heartbeat_interval_ms" => {
            &["metadata.heartbeat_interval_ms", "metadata.election_timeout_min_ms"]
        }
        "election_timeout_min_ms" => &["metadata.election_timeout_min_ms"],
        _ => &["metadata.election_timeout_max_ms", "metadata.election_timeout_min_ms"],
    }
}

fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let same_host = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && same_host
}
