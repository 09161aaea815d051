//! Runs by seed: the seed decides the sizes of the node, the load and what goes wrong.

use std::time::Duration;

use ironring_core::prng::Prng;
use ironring_log::{CompactionConfig, LogConfig, ScrubConfig};
use ironring_ring::Slices;

use crate::sim::cluster;
use crate::sim::log_alone::LogNode;
use crate::sim::profile::{Profile, Trouble};
use crate::sim::replicas;
use crate::sim::shard_node::ShardNode;
use crate::sim::workload::Mix;
use crate::sim::world::{Report, World};

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The log alone.
    Log,
    /// One node of one shard.
    Shard,
    /// One node of several shards, which send each other requests.
    Node,
    /// The replication engines of a cluster.
    Replicas,
    /// The shards of a cluster.
    Cluster,
}

impl Target {
    /// Every target, by name.
    pub const ALL: [(&'static str, Target); 5] = [
        ("log", Target::Log),
        ("shard", Target::Shard),
        ("node", Target::Node),
        ("replicas", Target::Replicas),
        ("cluster", Target::Cluster),
    ];

    /// The target of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Target> {
        Target::ALL.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
    }
}

/// Runs one seed. The same arguments give the same report; `print` also prints the trace.
#[must_use]
pub fn run(target: Target, trouble: Trouble, seed: u64, print: bool) -> Report {
    let mut rng = Prng::new(seed);
    let disk_bytes = match trouble {
        Trouble::Full => (8 + rng.below(4)) << 20,
        _ => 48 << 20,
    };
    let config = log_config(trouble, disk_bytes, &mut rng);
    match target {
        Target::Replicas => replicas::world::run(trouble, seed, print),
        Target::Cluster => cluster::world::run(trouble, config, seed, print),
        Target::Log => {
            let profile = Profile::draw(trouble, Mix::KEYS, disk_bytes, &mut rng);
            World::run(LogNode { config }, profile, rng.next_u64(), print)
        }
        Target::Shard | Target::Node => {
            let profile = Profile::draw(trouble, Mix::ALL, disk_bytes, &mut rng);
            let shards = if target == Target::Shard { 1 } else { 2 + rng.below(2) as u16 };
            let partitions = 4 << rng.below(3);
            let node = ShardNode {
                slices: Slices::new(partitions, shards).expect("more partitions than shards"),
                log: config,
                memory_bytes_max: 64 << 20,
                cache_bytes: [0, 16 << 10, 1 << 20][rng.below(3) as usize],
                deadline: Duration::from_secs(10),
                alone: true,
            };
            World::run(node, profile, rng.next_u64(), print)
        }
    }
}

/// Small and eager: segments fill, checkpoints and compaction happen within hundreds of requests.
fn log_config(trouble: Trouble, disk_bytes: u64, rng: &mut Prng) -> LogConfig {
    LogConfig {
        segment_bytes: 1 << 20,
        // Half of the runs are limited by configuration, the others by the disk.
        disk_bytes_max: if trouble == Trouble::Full && rng.chance(1, 2) { disk_bytes } else { 0 },
        reserve_segments: 2,
        free_segments_target: 1 + rng.below(2) as u32,
        waiting_bytes_max: 1 << (20 + rng.below(3)),
        checkpoint_interval_bytes: 16 << (10 + rng.below(7)),
        idle_floor_after: Duration::from_millis(1 + rng.below(50)),
        compaction: CompactionConfig {
            dead_percent_min: [5, 20, 50][rng.below(3) as usize],
            bandwidth_percent: [25, 100][rng.below(2) as usize],
            ..CompactionConfig::default()
        },
        scrub: ScrubConfig {
            period: Duration::from_secs(1 + rng.below(60)),
            ..ScrubConfig::default()
        },
        ..LogConfig::default()
    }
}
