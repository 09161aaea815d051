//! A shard's counters as everybody else sees them.

use ironring_log::{Room, TailState};

use crate::metrics::{
    BackgroundCounters, ClientCounters, DiskCounters, LogCounters, MemoryCounters,
    MovementCounters, PeerCounters, RecoveryReport, RepairCounters, ShardSnapshot, ShardState,
    StallCounters,
};

use super::{Phase, Shard};

impl Shard {
    /// Copies the counters out. Allocates; called about once a second.
    #[must_use]
    pub fn snapshot(&self) -> ShardSnapshot {
        let log = self.log.counters();
        let usage = self.log.usage();
        let segment = u64::from(self.config.log.segment_bytes);
        ShardSnapshot {
            shard: self.id().0,
            cpu: 0,
            state: match self.phase {
                Phase::Opening => ShardState::Recovering,
                Phase::Serving => ShardState::Ready,
                Phase::Stopping | Phase::Stopped => ShardState::Draining,
                Phase::Damaged => ShardState::Damaged,
                Phase::Failed => ShardState::Fenced,
            },
            clients: ClientCounters {
                requests: self.counters.requests.iter().map(|(o, n)| (o.name(), n)).collect(),
                errors: self.counters.errors.iter().map(|(c, n)| (c.name(), n)).collect(),
                forwarded: self.counters.forwarded,
                read_latency: self.counters.read_latency.clone(),
                write_latency: self.counters.ack_latency.clone(),
                sessions: self.models.iter().map(|p| p.sessions.count() as u64).sum(),
                topic_partitions: self.models.iter().map(|p| p.topics.len() as u64).sum(),
                ..ClientCounters::default()
            },
            log: LogCounters {
                groups: log.groups,
                groups_idle: log.groups_empty,
                records: log.records,
                record_bytes: log.record_bytes,
                padding_bytes: log.group_bytes.saturating_sub(log.record_bytes),
                flushes: log.groups,
                flush_latency: self.counters.flush_latency.clone(),
                waiting_bytes: self.log.waiting_bytes() as u64,
                flushed_group: self.log.durable().0,
            },
            memory: MemoryCounters {
                index_keys: self.models.iter().map(|p| p.keys.len() as u64).sum(),
                index_bytes: self.models.key_bytes() as u64,
                cache_bytes: self.models.cache.bytes() as u64,
                cache_hits: self.models.cache.hits(),
                cache_misses: self.models.cache.misses(),
                input_bytes: self.memory.connections.input as u64,
                output_bytes: self.memory.connections.output as u64,
                used_bytes: (self.fixed_memory_bytes() + self.models.cache.bytes()) as u64,
                limit_bytes: self.memory_limit() as u64,
            },
            disk: DiskCounters {
                segments_free: u64::from(log.segments.free + log.segments.prepared),
                segments_active: u64::from(log.segments.active),
                segments_sealed: u64::from(log.segments.sealed),
                live_bytes: usage.live_bytes,
                dead_bytes: usage.used_bytes.saturating_sub(usage.live_bytes),
                limit_bytes: self.config.log.disk_bytes_max,
                short_of_space: self.room() == Room::Short,
                reads: log.reads,
                read_bytes: log.read_bytes + log.compaction_read_bytes + log.scrub_bytes,
                written_bytes: log.group_bytes
                    + log.checkpoint_bytes
                    + log.segments_filled * segment,
            },
            background: BackgroundCounters {
                compactions: log.segments_freed,
                compaction_read_bytes: log.compaction_read_bytes,
                compaction_written_bytes: log.compaction_bytes,
                compaction_freed_bytes: log.segments_freed * segment,
                checkpoints: log.checkpoints,
                checkpoint_bytes: log.checkpoint_bytes,
                scrub_bytes: log.scrub_bytes,
                scrub_rounds: log.scrub_rounds,
                damages: log.damage,
            },
            repair: RepairCounters {
                partitions_damaged: self.models.iter().filter(|p| p.hurt.is_some()).count() as u64,
                segments_damaged: self.repair.segments_damaged(),
                segments_retired: log.segments_retired,
                ..self.counters.repair
            },
            movement: MovementCounters {
                incoming_bytes: self.transfers.incoming_bytes(),
                ..self.movement.counters()
            },
            compare: self.comparing.counters(),
            // The driver has them.
            peers: PeerCounters::default(),
            stalls: StallCounters::default(),
            recovery: RecoveryReport {
                seconds: self.counters.recovery_took.as_secs_f64(),
                bytes_read: log.recovery.bytes_scanned + log.recovery.checkpoint_bytes,
                checkpoint_bytes: log.recovery.checkpoint_bytes,
                groups: log.recovery.groups,
                records: log.recovery.records,
                torn: log.recovery.tail != TailState::Clean,
                damages: log.recovery.checkpoints_bad
                    + log.recovery.superblock_copies_bad
                    + log.recovery.segment_headers_bad,
            },
        }
    }

    /// How much room its users have.
    #[must_use]
    pub fn room(&self) -> Room {
        self.log.room()
    }

    /// The answer to `Stats`.
    pub(super) fn stats_json(&self) -> String {
        let snapshot = self.snapshot();
        let mut json = serde_json::to_value(&snapshot).expect("plain numbers always serialise");
        json["gets"] = self.counters.gets.into();
        json["get_disk_reads"] = self.counters.get_disk_reads.into();
        json["duplicates"] = self.counters.duplicates.into();
        json["stale_reads"] = self.counters.stale_reads.into();
        json["expired"] = self.counters.expired.into();
        json.to_string()
    }
}
