//! The metadata group in virtual time. Each test runs with many seeds; a failure names its seed.

#[path = "raft/elections.rs"]
mod elections;
#[path = "raft/members.rs"]
mod members;
#[path = "raft/snapshots.rs"]
mod snapshots;
#[path = "raft/storage.rs"]
mod storage;

use std::time::Duration;

use ironring_node::raft::RaftConfig;
use ironring_tests::sim::raft::cluster::Cluster;

const SEEDS: u64 = 8;

/// Names the seed of a failure.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Runs a test with `seeds` seeds, or with the one in `RAFT_SEED`.
fn with_seeds(seeds: u64, config: RaftConfig, test: impl AsyncFn(&Cluster)) {
    let only = std::env::var("RAFT_SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in only.map_or(0..seeds, |seed: u64| seed..seed + 1) {
        let named = Seed(seed);
        let cluster = Cluster::new(seed, config.clone());
        cluster.time.run(test(&cluster));
        for node in cluster.running() {
            cluster.crash(node);
        }
        drop(named);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let cluster = Cluster::new(seed, RaftConfig::default());
        cluster.time.run(async {
            cluster.network.lost_per_mille.set(20);
            cluster.form(&[1, 2, 3]).await;
            let mut commands = Vec::new();
            for _ in 0..20 {
                commands.push(cluster.propose(100).await);
            }
            let leader = cluster.elected().await;
            cluster.crash(leader);
            commands.push(cluster.propose(100).await);
            cluster.start(leader).await;
            cluster.agree(&commands).await;
        });
        (cluster.time.trace(), cluster.time.polls(), cluster.time.elapsed())
    };
    let traces: Vec<_> = (0..3).map(run).collect();
    assert_eq!(traces, (0..3).map(run).collect::<Vec<_>>());
    assert_ne!(traces[0].0, traces[1].0);
}
