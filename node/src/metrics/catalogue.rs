//! Every metric, once: name, unit, meaning, and where its value lies in a snapshot.
//!
//! `/metrics` and `docs/metrics.md` are made from this list, and the dashboard and alert rules are
//! tested against it. Names begin with `ironring_`; units are base units and end the name
//! (`_seconds`, `_bytes`), counters end in `_total`.

use std::collections::BTreeMap;

use super::histogram::LatencyHistogram;
use super::snapshot::{NodeSnapshot, ShardSnapshot, ShardState};

/// A unit that ends a metric's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A plain number.
    None,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
}

/// A value of one shard.
pub enum ShardValue {
    /// Only grows.
    Counter(fn(&ShardSnapshot) -> u64),
    /// Only grows; one series per key, in a label of this name.
    CounterBy(&'static str, fn(&ShardSnapshot) -> &BTreeMap<&'static str, u64>),
    /// Goes up and down.
    Gauge(fn(&ShardSnapshot) -> f64),
    /// One series per state, 1 for the one the shard is in, in a label `state`.
    State,
    /// Durations; one series per name, in a label of this name (empty: no label).
    Histograms(&'static str, &'static [(&'static str, HistogramOf)]),
}

/// A histogram of one shard.
pub type HistogramOf = fn(&ShardSnapshot) -> &LatencyHistogram;

/// A value of the node.
pub enum NodeValue {
    /// Only grows.
    Counter(fn(&NodeSnapshot) -> f64),
    /// Goes up and down.
    Gauge(fn(&NodeSnapshot) -> f64),
    /// Always 1, with what identifies the node in labels.
    Identity,
}

/// Whom a metric is about.
pub enum Value {
    /// The node as a whole.
    Node(NodeValue),
    /// Each shard, by a label `shard`.
    Shard(ShardValue),
}

/// One metric.
pub struct Metric {
    /// Its name, without prefix, unit and `_total`.
    pub name: &'static str,
    /// Its unit.
    pub unit: Unit,
    /// What it counts.
    pub help: &'static str,
    /// Where its value lies.
    pub value: Value,
}

impl Metric {
    /// The name as queries spell it, without the suffixes of histogram series.
    #[must_use]
    pub fn full_name(&self) -> String {
        let unit = match self.unit {
            Unit::None => "",
            Unit::Bytes => "_bytes",
            Unit::Seconds => "_seconds",
        };
        let total = match self.kind() {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        format!("ironring_{}{unit}{total}", self.name)
    }

    /// `counter`, `gauge`, `histogram` or `info`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Node(NodeValue::Identity) => "info",
            Value::Node(NodeValue::Counter(_))
            | Value::Shard(ShardValue::Counter(_) | ShardValue::CounterBy(..)) => "counter",
            Value::Node(NodeValue::Gauge(_))
            | Value::Shard(ShardValue::Gauge(_) | ShardValue::State) => "gauge",
            Value::Shard(ShardValue::Histograms(..)) => "histogram",
        }
    }

    /// The names of its labels.
    #[must_use]
    pub fn labels(&self) -> Vec<&'static str> {
        match &self.value {
            Value::Node(NodeValue::Identity) => vec!["node", "cluster", "storage", "version"],
            Value::Node(_) => Vec::new(),
            Value::Shard(ShardValue::CounterBy(label, _)) => vec!["shard", label],
            Value::Shard(ShardValue::State) => vec!["shard", "state"],
            Value::Shard(ShardValue::Histograms(label, _)) if !label.is_empty() => {
                vec!["shard", label]
            }
            Value::Shard(_) => vec!["shard"],
        }
    }
}

macro_rules! metrics {
    ($( $name:literal $unit:ident $value:expr, $help:literal; )*) => {
        /// Every metric, in the order of `/metrics`.
        pub static METRICS: &[Metric] = &[
            $( Metric { name: $name, unit: Unit::$unit, help: $help, value: $value }, )*
        ];
    };
}

const fn counter(of: fn(&ShardSnapshot) -> u64) -> Value {
    Value::Shard(ShardValue::Counter(of))
}

const fn gauge(of: fn(&ShardSnapshot) -> f64) -> Value {
    Value::Shard(ShardValue::Gauge(of))
}

const fn node_gauge(of: fn(&NodeSnapshot) -> f64) -> Value {
    Value::Node(NodeValue::Gauge(of))
}

metrics! {
    "node" None Value::Node(NodeValue::Identity), "Identity of the node; always 1";
    "uptime" Seconds node_gauge(|node| node.uptime_seconds), "Time since the process started";
    "ready" None node_gauge(|node| f64::from(u8::from(node.not_ready_reasons().is_empty()))), "1 when every shard is ready";
    "shards" None node_gauge(|node| node.shards.len() as f64), "Shards of the node";
    "partitions" None node_gauge(|node| f64::from(node.partitions)), "Partitions the token ring is cut into";
    "topics" None node_gauge(|node| node.topics as f64), "Topics defined";
    "cluster_members" None node_gauge(|node| node.cluster_counters.members as f64), "Members of the cluster";
    "cluster_members_alive" None node_gauge(|node| node.cluster_counters.members_alive as f64), "Members that are heard";
    "cluster_partitions_led" None node_gauge(|node| node.cluster_counters.partitions_led as f64), "Partitions this node leads";
    "cluster_replicas" None node_gauge(|node| node.cluster_counters.replicas as f64), "Replicas this node holds";
    "cluster_partitions_leaderless" None node_gauge(|node| node.cluster_counters.partitions_leaderless as f64), "Partitions of the cluster nobody leads";
    "cluster_partitions_under_replicated" None node_gauge(|node| node.cluster_counters.partitions_under_replicated as f64), "Partitions of the cluster with fewer voters than they should have";
    "cluster_replication_factor" None node_gauge(|node| node.cluster_counters.replication_factor as f64), "Replicas each partition should have";
    "cluster_min_voters" None node_gauge(|node| node.cluster_counters.min_voters as f64), "Voters a partition needs to take writes";
    "cluster_partitions_refusing_writes" None node_gauge(|node| node.cluster_counters.partitions_refusing_writes as f64), "Partitions of the cluster with fewer voters than that";
    "cluster_moves" None node_gauge(|node| node.cluster_counters.moves as f64), "Replicas on their way from one node to another";
    "cluster_members_going" None node_gauge(|node| node.cluster_counters.members_going as f64), "Members that drain, leave or were given up";
    "cluster_members_short_of_space" None node_gauge(|node| node.cluster_counters.members_short_of_space as f64), "Members that are short of space: others lead in their place where they can";
    "cluster_orders_done" None Value::Node(NodeValue::Counter(|node| node.cluster_counters.orders_done as f64)), "Orders of operators this node carried out as the leader of the metadata group";
    "cluster_orders_refused" None Value::Node(NodeValue::Counter(|node| node.cluster_counters.orders_refused as f64)), "Orders of operators this node refused as the leader of the metadata group";
    "cluster_elections" None Value::Node(NodeValue::Counter(|node| node.cluster_counters.partition_elections as f64)), "Elections of partitions' leaders this node held as the leader of the metadata group";
    "cluster_handovers" None Value::Node(NodeValue::Counter(|node| node.cluster_counters.handovers as f64)), "Leaderships of partitions that were handed over as planned while this node led the metadata group";
    "cluster_unclean_elections" None Value::Node(NodeValue::Counter(|node| node.cluster_counters.unclean_elections as f64)), "Partitions that went on with one copy, whatever it lacked, by an order this node carried out as the leader of the metadata group";
    "metadata_epoch" None node_gauge(|node| node.cluster_counters.epoch as f64), "Version of the metadata this node has";
    "metadata_term" None node_gauge(|node| node.cluster_counters.term as f64), "Term of the metadata group";
    "metadata_leader" None node_gauge(|node| f64::from(u8::from(node.cluster_counters.leads))), "1 on the node that leads the metadata group";
    "metadata_voters" None node_gauge(|node| node.cluster_counters.voters as f64), "Voters of the metadata group";
    "metadata_elections" None Value::Node(NodeValue::Counter(|node| node.cluster_counters.elections as f64)), "Elections of the metadata group's leader this node has seen";
    "process_resident_memory" Bytes node_gauge(|node| node.process.resident_bytes as f64), "Memory the process occupies";
    "process_cpu" Seconds Value::Node(NodeValue::Counter(|node| node.process.cpu_seconds)), "CPU time the process took";
    "process_open_descriptors" None node_gauge(|node| node.process.open_descriptors as f64), "File descriptors the process has open";

    "shard_state" None Value::Shard(ShardValue::State), "1 for the state the shard is in";
    "connections" None gauge(|shard| shard.clients.connections as f64), "Client connections open";
    "connections_accepted" None counter(|shard| shard.clients.connections_accepted), "Client connections accepted";
    "connections_refused" None counter(|shard| shard.clients.connections_refused), "Client connections refused because of the limit";
    "shard_stalls" None counter(|shard| shard.stalls.count), "Times in which the shard's tasks did not run for 200 ms or more though they were due";
    "shard_stall_longest" Seconds gauge(|shard| shard.stalls.longest_seconds), "The longest of them since the start";
    "peer_connections" None gauge(|shard| shard.peers.connections as f64), "Connections to other nodes, attempts included";
    "peer_received" Bytes counter(|shard| shard.peers.bytes_in), "Bytes received from other nodes";
    "peer_sent" Bytes counter(|shard| shard.peers.bytes_out), "Bytes sent to other nodes";
    "requests" None Value::Shard(ShardValue::CounterBy("opcode", |shard| &shard.clients.requests)), "Requests received";
    "request_errors" None Value::Shard(ShardValue::CounterBy("code", |shard| &shard.clients.errors)), "Requests answered with an error";
    "requests_in_flight" None gauge(|shard| shard.clients.in_flight as f64), "Requests received and not answered yet";
    "requests_forwarded" None counter(|shard| shard.clients.forwarded), "Requests handed to the shard that owns their partition";
    "received" Bytes counter(|shard| shard.clients.bytes_in), "Bytes received from clients";
    "sent" Bytes counter(|shard| shard.clients.bytes_out), "Bytes sent to clients";
    "request_latency" Seconds Value::Shard(ShardValue::Histograms("kind", &[
        ("read", |shard| &shard.clients.read_latency),
        ("write", |shard| &shard.clients.write_latency),
    ])), "Time from the last byte of a request to the first byte of its answer";
    "sessions" None gauge(|shard| shard.clients.sessions as f64), "Client sessions remembered";
    "topic_partitions" None gauge(|shard| shard.clients.topic_partitions as f64), "Topic partitions the shard owns";

    "log_groups" None counter(|shard| shard.log.groups), "Commit groups written";
    "log_groups_idle" None counter(|shard| shard.log.groups_idle), "Groups written only to raise the durable floor while idle";
    "log_records" None counter(|shard| shard.log.records), "Records written";
    "log_record" Bytes counter(|shard| shard.log.record_bytes), "Bytes of records written, headers included";
    "log_padding" Bytes counter(|shard| shard.log.padding_bytes), "Bytes written to fill groups up to whole blocks";
    "log_flushes" None counter(|shard| shard.log.flushes), "Durable writes";
    "log_flush_latency" Seconds Value::Shard(ShardValue::Histograms("", &[
        ("", |shard| &shard.log.flush_latency),
    ])), "Time of one durable write";
    "log_waiting" Bytes gauge(|shard| shard.log.waiting_bytes as f64), "Bytes of requests that wait for the disk";
    "log_flushed_group" None gauge(|shard| shard.log.flushed_group as f64), "Sequence of the newest durable group";

    "index_keys" None gauge(|shard| shard.memory.index_keys as f64), "Keys that exist";
    "index" Bytes gauge(|shard| shard.memory.index_bytes as f64), "Memory of the index";
    "cache" Bytes gauge(|shard| shard.memory.cache_bytes as f64), "Memory of the cache";
    "cache_hits" None counter(|shard| shard.memory.cache_hits), "Reads answered from memory";
    "cache_misses" None counter(|shard| shard.memory.cache_misses), "Reads that went to disk";
    "connection_input" Bytes gauge(|shard| shard.memory.input_bytes as f64), "Memory of requests as far as they came";
    "connection_output" Bytes gauge(|shard| shard.memory.output_bytes as f64), "Memory of answers as far as they were not taken";
    "connection_input_waits" None counter(|shard| shard.clients.input_waits), "Large requests that waited for memory to be received into";
    "memory_used" Bytes gauge(|shard| shard.memory.used_bytes as f64), "All memory the shard accounts for";
    "memory_limit" Bytes gauge(|shard| shard.memory.limit_bytes as f64), "The most memory the shard may take";

    "segments_free" None gauge(|shard| shard.disk.segments_free as f64), "Zeroed segments ready for use";
    "segments_active" None gauge(|shard| shard.disk.segments_active as f64), "Segments being written";
    "segments_sealed" None gauge(|shard| shard.disk.segments_sealed as f64), "Full segments";
    "disk_live" Bytes gauge(|shard| shard.disk.live_bytes as f64), "Bytes of records that are still referred to";
    "disk_dead" Bytes gauge(|shard| shard.disk.dead_bytes as f64), "Bytes of records that are not";
    "disk_limit" Bytes gauge(|shard| shard.disk.limit_bytes as f64), "The most bytes the shard's segments may take";
    "disk_short_of_space" None gauge(|shard| f64::from(u8::from(shard.disk.short_of_space))), "1 while users are refused for want of space, or will be with the next segment";
    "disk_reads" None counter(|shard| shard.disk.reads), "Reads that reached the device";
    "disk_read" Bytes counter(|shard| shard.disk.read_bytes), "Bytes read from the device";
    "disk_written" Bytes counter(|shard| shard.disk.written_bytes), "Bytes written to the device, everything included";

    "compactions" None counter(|shard| shard.background.compactions), "Segments compacted";
    "compaction_read" Bytes counter(|shard| shard.background.compaction_read_bytes), "Bytes compaction read";
    "compaction_written" Bytes counter(|shard| shard.background.compaction_written_bytes), "Bytes of live records compaction wrote again";
    "compaction_freed" Bytes counter(|shard| shard.background.compaction_freed_bytes), "Bytes of segments compaction freed";
    "checkpoints" None counter(|shard| shard.background.checkpoints), "Checkpoints finished";
    "checkpoint_written" Bytes counter(|shard| shard.background.checkpoint_bytes), "Bytes of checkpoints written";
    "scrub_read" Bytes counter(|shard| shard.background.scrub_bytes), "Bytes read again and verified";
    "scrub_rounds" None counter(|shard| shard.background.scrub_rounds), "Rounds of scrub over everything";
    "damages" None counter(|shard| shard.background.damages), "Places where stored bytes did not match their checksum, found since the start";

    "repair_partitions_damaged" None gauge(|shard| shard.repair.partitions_damaged as f64), "Partitions with records that cannot be read: they neither vote nor begin to lead";
    "repair_segments_damaged" None gauge(|shard| shard.repair.segments_damaged as f64), "Damaged segments that something needed may still lie in";
    "repair_records_lost" None counter(|shard| shard.repair.records_lost), "Records found that could not be read";
    "repair_records_given_up" None counter(|shard| shard.repair.records_given_up), "Records that no replica has: reads of them are refused as corrupt until they are written again";
    "repair_records" None counter(|shard| shard.repair.records_repaired), "Records written again as another replica has them";
    "repair_records_moved" None counter(|shard| shard.repair.records_moved), "Records of damaged segments that could be read, written again elsewhere";
    "repair_partitions" None counter(|shard| shard.repair.partitions_repaired), "Damaged partitions that are whole again";
    "repair_segments_retired" None counter(|shard| shard.repair.segments_retired), "Damaged segments given back once nothing in them was needed";
    "repair_logs_lost" None counter(|shard| shard.repair.logs_lost), "Times the shard's whole log was lost";
    "repair_logs" None counter(|shard| shard.repair.logs_rebuilt), "Logs made anew whose replicas all vote again";

    "rebalance_moves" None gauge(|shard| shard.movement.moves as f64), "Moves of replicas that the shard sends as the leader of their partitions";
    "rebalance_left" Bytes gauge(|shard| shard.movement.left_bytes as f64), "Bytes they are still to send, about";
    "rebalance_rate" Bytes gauge(|shard| shard.movement.rate_bytes_per_s as f64), "Bytes by which that shrinks in a second";
    "rebalance_eta" Seconds gauge(|shard| shard.movement.eta_s as f64), "Time to the end of the longest of them; 0 when none is known";
    "rebalance_sent" Bytes counter(|shard| shard.movement.sent_bytes), "Bytes sent for moves";
    "rebalance_pace" Bytes gauge(|shard| shard.movement.pace_bytes_per_s as f64), "Bytes a second that moves may send, besides what is written meanwhile";
    "rebalance_incoming" Bytes gauge(|shard| shard.movement.incoming_bytes as f64), "Bytes of states that other nodes are still to send, about";
    "compare_ranges" None counter(|shard| shard.compare.ranges), "Ranges of partitions this shard leads that were compared with their other replicas";
    "compare_ranges_differing" None counter(|shard| shard.compare.differing), "Compared ranges in which a replica has something else";
    "compare_ranges_skipped" None counter(|shard| shard.compare.skipped), "Ranges that could not be compared, because no other replica answered";
    "compare_read" Bytes counter(|shard| shard.compare.bytes), "Bytes of records read to be compared, for leaders elsewhere too";
    "compare_undecided" None gauge(|shard| shard.compare.undecided as f64), "Partitions this shard leads whose replicas differ without a majority that agrees: nothing is repaired before somebody decides";
    "compare_copies_diverged" None counter(|shard| shard.compare.copies_diverged), "Times a copy of this shard had something else than most voters";
    "compare_copies_repaired" None counter(|shard| shard.compare.copies_repaired), "Those of them that are repaired";
    "compare_passes" None counter(|shard| shard.compare.passes), "Passes over everything this shard leads";
    "compare_last_pass_timestamp" Seconds gauge(|shard| shard.compare.last_pass_unix_ms as f64 / 1000.0), "When the last pass ended, in seconds since the Unix epoch; 0: none did";

    "recovery" Seconds gauge(|shard| shard.recovery.seconds), "Time the last recovery took";
    "recovery_read" Bytes gauge(|shard| shard.recovery.bytes_read as f64), "Bytes the last recovery read";
    "recovery_records" None gauge(|shard| shard.recovery.records as f64), "Records the last recovery replayed";
    "recovery_torn" None gauge(|shard| f64::from(u8::from(shard.recovery.torn))), "1 when the last recovery cut a torn tail";
    "recovery_damages" None gauge(|shard| shard.recovery.damages as f64), "Damaged places the last recovery found";
}

/// Every series name a query may use: histograms also as `_bucket`, `_sum` and `_count`.
#[must_use]
pub fn series_names() -> Vec<String> {
    METRICS
        .iter()
        .flat_map(|metric| {
            let name = metric.full_name();
            match metric.kind() {
                "histogram" => {
                    ["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}")).to_vec()
                }
                _ => vec![name],
            }
        })
        .collect()
}

/// Whether `state` is the one of the shard, as a gauge.
#[must_use]
pub fn in_state(shard: &ShardSnapshot, state: ShardState) -> f64 {
    f64::from(u8::from(shard.state == state))
}
