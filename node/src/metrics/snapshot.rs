//! What a node says about itself once a second: plain numbers, no atomics.
//!
//! Each shard counts in plain integers of its own and hands over a copy of its [`ShardSnapshot`]
//! once a second, outside the hot path. The HTTP thread reads the latest [`NodeSnapshot`]; a slow
//! scrape never waits for a shard, and a shard never waits for a scrape.
//!
//! Counters count since the process started. Every number is in base units (bytes, seconds), and
//! every field here is a metric (see `docs/metrics.md`) and part of the JSON status.

use std::collections::BTreeMap;

use serde::Serialize;

use super::histogram::LatencyHistogram;
use super::process::ProcessCounters;

/// Everything one shard counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ShardSnapshot {
    /// The shard.
    pub shard: u16,
    /// CPU it is pinned to.
    pub cpu: u16,
    /// What it is doing.
    pub state: ShardState,
    /// What clients ask and get.
    pub clients: ClientCounters,
    /// Group commit.
    pub log: LogCounters,
    /// Index and cache.
    pub memory: MemoryCounters,
    /// Segments and what is in them.
    pub disk: DiskCounters,
    /// Work done in the background.
    pub background: BackgroundCounters,
    /// How the shard came up.
    pub recovery: RecoveryReport,
    /// What was damaged, and repaired from other replicas.
    pub repair: RepairCounters,
    /// Replicas on their way to other nodes and from them.
    pub movement: MovementCounters,
    /// Comparison with other replicas.
    pub compare: CompareCounters,
    /// Connections to other nodes.
    pub peers: PeerCounters,
    /// When its tasks did not run.
    pub stalls: StallCounters,
}

/// Times in which a shard's tasks did not run though they were due, each of 200 ms or more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct StallCounters {
    /// How many.
    pub count: u64,
    /// The longest since the start.
    pub longest_seconds: f64,
}

/// Replicas on their way, as the leaders of their partitions know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MovementCounters {
    /// Moves of partitions that are led here.
    pub moves: u64,
    /// Bytes they are still to send, about.
    pub left_bytes: u64,
    /// By how many that shrinks in a second.
    pub rate_bytes_per_s: u64,
    /// Seconds to the end of the longest of them, as far as known.
    pub eta_s: u64,
    /// Bytes of states that are still to come in, about.
    pub incoming_bytes: u64,
    /// Bytes sent for moves.
    pub sent_bytes: u64,
    /// What the pace allows at present, in bytes per second.
    pub pace_bytes_per_s: u64,
}

/// The cluster, as a node knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClusterCounters {
    /// Members.
    pub members: u64,
    /// Those that are heard.
    pub members_alive: u64,
    /// Version of the metadata.
    pub epoch: u64,
    /// Term of the metadata group.
    pub term: u64,
    /// Whether this node leads it.
    pub leads: bool,
    /// Its voters.
    pub voters: u64,
    /// Elections of its leader this node has seen.
    pub elections: u64,
    /// Partitions this node leads.
    pub partitions_led: u64,
    /// Replicas it holds.
    pub replicas: u64,
    /// Partitions of the cluster nobody leads.
    pub partitions_leaderless: u64,
    /// Those with too few voters.
    pub partitions_under_replicated: u64,
    /// Replicas each partition should have.
    pub replication_factor: u64,
    /// Voters a partition needs to take writes.
    pub min_voters: u64,
    /// Partitions of the cluster with fewer.
    pub partitions_refusing_writes: u64,
    /// Members that said that they are short of space.
    pub members_short_of_space: u64,
    /// Replicas on their way.
    pub moves: u64,
    /// Members that drain, leave or were given up.
    pub members_going: u64,
    /// Operators' orders this node carried out as the leader of the metadata group.
    pub orders_done: u64,
    /// Those it refused.
    pub orders_refused: u64,
    /// Elections of partitions' leaders this node held as the leader of the metadata group.
    pub partition_elections: u64,
    /// Leaderships of partitions that were handed over as planned while it led.
    pub handovers: u64,
    /// Partitions that went on with one copy by an order this node carried out.
    pub unclean_elections: u64,
}

/// Connections to other nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PeerCounters {
    /// Connections there are, attempts included.
    pub connections: u64,
    /// Bytes received from other nodes, handshakes included.
    pub bytes_in: u64,
    /// Bytes sent to them.
    pub bytes_out: u64,
}

/// What a shard is doing. A node is ready when all its shards are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardState {
    /// Opening its files.
    #[default]
    Starting,
    /// Reading its log.
    Recovering,
    /// Serving.
    Ready,
    /// Finishing what was begun; takes nothing new.
    Draining,
    /// Its log is lost, and it is being rebuilt from other replicas.
    Damaged,
    /// Stopped by a disk fault.
    Fenced,
}

impl ShardState {
    /// Every state, in the order a shard goes through them.
    pub const ALL: [ShardState; 6] = [
        ShardState::Starting,
        ShardState::Recovering,
        ShardState::Ready,
        ShardState::Draining,
        ShardState::Damaged,
        ShardState::Fenced,
    ];

    /// The state's name in JSON and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ShardState::Starting => "starting",
            ShardState::Recovering => "recovering",
            ShardState::Ready => "ready",
            ShardState::Draining => "draining",
            ShardState::Damaged => "damaged",
            ShardState::Fenced => "fenced",
        }
    }
}

/// What clients ask and get.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ClientCounters {
    /// Connections open.
    pub connections: u64,
    /// Connections accepted.
    pub connections_accepted: u64,
    /// Connections refused because of the limit.
    pub connections_refused: u64,
    /// Requests received, by opcode name.
    pub requests: BTreeMap<&'static str, u64>,
    /// Requests answered with an error, by [`ironring_core::ErrorCode::name`].
    pub errors: BTreeMap<&'static str, u64>,
    /// Requests received and not answered yet.
    pub in_flight: u64,
    /// Requests this shard handed to the shard that owns their partition.
    pub forwarded: u64,
    /// Large requests that waited for memory to be received into.
    pub input_waits: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Time from the last byte of a request to the first byte of its answer handed to the kernel:
    /// reads.
    pub read_latency: LatencyHistogram,
    /// The same for writes.
    pub write_latency: LatencyHistogram,
    /// Client sessions remembered.
    pub sessions: u64,
    /// Topic partitions the shard owns.
    pub topic_partitions: u64,
}

/// Group commit.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LogCounters {
    /// Commit groups written.
    pub groups: u64,
    /// Groups written only to raise the durable floor while idle.
    pub groups_idle: u64,
    /// Records written.
    pub records: u64,
    /// Bytes of records written, headers included.
    pub record_bytes: u64,
    /// Bytes written to fill groups up to whole blocks.
    pub padding_bytes: u64,
    /// Durable writes (a write and its fsync, or one O_DSYNC write).
    pub flushes: u64,
    /// Time of one durable write.
    pub flush_latency: LatencyHistogram,
    /// Bytes of requests that wait for the disk.
    pub waiting_bytes: u64,
    /// Sequence of the newest durable group.
    pub flushed_group: u64,
}

/// Index and cache.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MemoryCounters {
    /// Keys that exist.
    pub index_keys: u64,
    /// Bytes the index takes.
    pub index_bytes: u64,
    /// Bytes the cache takes.
    pub cache_bytes: u64,
    /// Reads answered from memory.
    pub cache_hits: u64,
    /// Reads that went to disk.
    pub cache_misses: u64,
    /// Bytes of requests as far as they came.
    pub input_bytes: u64,
    /// Bytes of answers as far as they were not taken.
    pub output_bytes: u64,
    /// All memory the shard accounts for.
    pub used_bytes: u64,
    /// The most it may take.
    pub limit_bytes: u64,
}

/// Segments and what is in them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DiskCounters {
    /// Zeroed segments ready for use.
    pub segments_free: u64,
    /// Segments being written.
    pub segments_active: u64,
    /// Full segments.
    pub segments_sealed: u64,
    /// Bytes of records that are still referred to.
    pub live_bytes: u64,
    /// Bytes of records that are not.
    pub dead_bytes: u64,
    /// Most bytes the shard's segments may take.
    pub limit_bytes: u64,
    /// Whether users are refused for want of space, or will be with the next segment.
    pub short_of_space: bool,
    /// Reads that reached the device.
    pub reads: u64,
    /// Bytes read from the device.
    pub read_bytes: u64,
    /// Bytes written to the device, everything included.
    pub written_bytes: u64,
}

/// Work done in the background.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BackgroundCounters {
    /// Segments compacted.
    pub compactions: u64,
    /// Bytes compaction read.
    pub compaction_read_bytes: u64,
    /// Bytes of live records compaction wrote again.
    pub compaction_written_bytes: u64,
    /// Bytes of segments compaction freed.
    pub compaction_freed_bytes: u64,
    /// Checkpoints finished.
    pub checkpoints: u64,
    /// Bytes of checkpoints written.
    pub checkpoint_bytes: u64,
    /// Bytes read again and verified.
    pub scrub_bytes: u64,
    /// Rounds of scrub over everything.
    pub scrub_rounds: u64,
    /// Places where stored bytes did not match their checksum, found since the start.
    pub damages: u64,
}

/// How a shard came up. All zero until its recovery ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RecoveryReport {
    /// Seconds it took.
    pub seconds: f64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Checkpoint bytes restored; 0: there was no checkpoint.
    pub checkpoint_bytes: u64,
    /// Groups replayed.
    pub groups: u64,
    /// Records replayed.
    pub records: u64,
    /// A torn tail was cut. Nothing in it was ever acknowledged.
    pub torn: bool,
    /// Damaged places found: typed and located in the node's log.
    pub damages: u64,
}

/// What was damaged, and repaired from other replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RepairCounters {
    /// Partitions with records that cannot be read, at present: they neither vote nor begin to lead.
    pub partitions_damaged: u64,
    /// Damaged segments, at present, that something needed may still lie in.
    pub segments_damaged: u64,
    /// Records found that could not be read.
    pub records_lost: u64,
    /// Those of them that no replica had: reads of them are refused as corrupt.
    pub records_given_up: u64,
    /// Records written again as another replica has them.
    pub records_repaired: u64,
    /// Records of damaged segments that could be read, written again elsewhere.
    pub records_moved: u64,
    /// Partitions that are whole again.
    pub partitions_repaired: u64,
    /// Damaged segments given back once nothing in them was needed.
    pub segments_retired: u64,
    /// Times the whole log was lost.
    pub logs_lost: u64,
    /// Logs made anew whose replicas all vote again.
    pub logs_rebuilt: u64,
}

/// Comparison of replicas in the background.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CompareCounters {
    /// Ranges of partitions this shard leads that were compared.
    pub ranges: u64,
    /// Of these, with a difference.
    pub differing: u64,
    /// Ranges that could not be compared: nobody else answered.
    pub skipped: u64,
    /// Bytes of records read for comparisons, of leaders elsewhere too.
    pub bytes: u64,
    /// Partitions this shard leads, at present, whose replicas differ without a majority.
    pub undecided: u64,
    /// Times a copy of this shard was found to differ from the majority.
    pub copies_diverged: u64,
    /// Those that are repaired.
    pub copies_repaired: u64,
    /// Passes over everything this shard leads.
    pub passes: u64,
    /// When the last one ended; 0: none did.
    pub last_pass_unix_ms: u64,
}

/// Everything a node says about itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NodeSnapshot {
    /// Name of the node.
    pub node: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Identity of the data directory.
    pub storage: String,
    /// Version of the program.
    pub version: &'static str,
    /// When the process started, in milliseconds since the Unix epoch.
    pub started_unix_ms: u64,
    /// Seconds since then.
    pub uptime_seconds: f64,
    /// How many partitions the token ring is cut into.
    pub partitions: u32,
    /// Topics defined.
    pub topics: u64,
    /// Address clients are told to connect to.
    pub clients_address: String,
    /// The cluster, as this node knows it.
    pub cluster_counters: ClusterCounters,
    /// The process, read by the HTTP thread when it is asked; a shard leaves it alone.
    pub process: ProcessCounters,
    /// One per shard, ascending.
    pub shards: Vec<ShardSnapshot>,
}

impl NodeSnapshot {
    /// Why the node is not ready, one sentence per shard that is not; empty when it is.
    #[must_use]
    pub fn not_ready_reasons(&self) -> Vec<String> {
        if self.shards.is_empty() {
            return vec!["no shard has started".to_owned()];
        }
        let waiting = self.shards.iter().filter(|shard| shard.state != ShardState::Ready);
        waiting.map(|shard| format!("shard {} is {}", shard.shard, shard.state.name())).collect()
    }
}
