//! Snapshots: when they are taken, how they travel, what a damaged one does.

use std::time::Duration;

use ironring_node::raft::{RaftConfig, Role};
use ironring_tests::sim::raft::cluster::Cluster;

use super::{SEEDS, ms, with_seeds};

/// Snapshots after few entries, of which few are kept.
fn small() -> RaftConfig {
    RaftConfig {
        snapshot_entries: 50,
        lag_entries_max: 60,
        entries_kept: 10,
        purge_batch: 7,
        snapshot_chunk_bytes: 4096,
        ..RaftConfig::default()
    }
}

/// Commands enough for some snapshots on every node, which have been taken.
async fn some_snapshots(c: &Cluster, commands: &mut Vec<Vec<u8>>) {
    for _ in 0..230 {
        commands.push(c.propose(30).await);
    }
    c.agree(commands).await;
    c.time.pass(ms(500)).await;
}

#[test]
fn the_log_stays_bounded_and_three_snapshots_are_kept() {
    with_seeds(SEEDS, small(), async |c: &Cluster| {
        c.form(&[1, 2, 3]).await;
        let mut commands = Vec::new();
        for _ in 0..400 {
            commands.push(c.propose(30).await);
        }
        c.agree(&commands).await;
        c.time.pass(ms(500)).await;
        for (node, status) in c.look() {
            let snapshots = c.group(node).snapshots();
            assert_eq!(snapshots.len(), 3, "node {node}: {snapshots:?}");
            let kept = c.group(node).store().with(|state| state.len());
            // Back to the second newest snapshot, and what came since the newest.
            assert!((40..=170).contains(&kept), "node {node}: {kept} entries, {status:?}");
            assert_eq!(c.disk(node).snapshots().len(), 3);
        }
        for node in [1, 2, 3] {
            c.crash(node);
        }
        for node in [1, 2, 3] {
            c.start(node).await;
        }
        c.agree(&commands).await;
    });
}

#[test]
fn a_node_far_behind_gets_a_snapshot() {
    with_seeds(SEEDS, small(), async |c: &Cluster| {
        c.form(&[1, 2, 3]).await;
        let mut commands = vec![c.propose(8).await];
        let leader = c.elected().await;
        let late = [1, 2, 3].into_iter().find(|node| *node != leader).expect("two follow");
        c.crash(late);
        for _ in 0..300 {
            commands.push(c.propose(200).await);
        }
        c.network.lost_per_mille.set(50);
        c.start(late).await;
        c.agree(&commands).await;
        let status = c.group(late).status();
        assert!(status.snapshot.is_some_and(|at| at.index >= 100), "{status:?}");
        c.network.lost_per_mille.set(0);
        // It counts in full.
        let leader = c.elected().await;
        if leader != late {
            c.crash([1, 2, 3].into_iter().find(|n| ![leader, late].contains(n)).expect("a third"));
        }
        commands.push(c.propose(8).await);
        c.crash(late);
        c.start(late).await;
        c.agree(&commands).await;
    });
}

#[test]
fn a_new_member_gets_a_snapshot_and_an_interrupted_transfer_goes_on() {
    with_seeds(SEEDS, small(), async |c: &Cluster| {
        c.form(&[1]).await;
        let mut commands = Vec::new();
        for _ in 0..200 {
            commands.push(c.propose(1000).await);
        }
        c.group(1).take_snapshot().await.expect("it runs");
        c.time.pass(ms(100)).await;
        c.start(2).await;
        c.group(1).add_learner(2, "node-2:1".to_owned(), false).await.expect("it leads");
        // About fifty pieces are on their way; again and again the way is cut.
        let before = c.network.traffic().1;
        for _ in 0..6 {
            c.time.pass(ms(20)).await;
            c.network.cut(&[1], &[2]);
            c.time.pass(ms(6000)).await;
            c.network.heal();
        }
        c.agree(&commands).await;
        assert_eq!(c.group(2).status().role, Role::Learner);
        let sent = c.network.traffic().1 - before;
        assert!(sent < 600_000, "{sent} bytes for a snapshot of about 200 KB");
    });
}

#[test]
fn snapshots_are_taken_by_time_by_size_and_on_demand() {
    let config = RaftConfig {
        snapshot_interval: Duration::from_secs(60),
        snapshot_log_bytes: 100_000,
        ..RaftConfig::default()
    };
    with_seeds(4, config, async |c: &Cluster| {
        c.form(&[1]).await;
        let mut commands = vec![c.propose(8).await];
        let count = |c: &Cluster| c.group(1).snapshots().len();
        c.time.pass(Duration::from_secs(50)).await;
        assert_eq!(count(c), 0);
        c.time.pass(Duration::from_secs(20)).await;
        assert_eq!(count(c), 1, "by time");
        c.time.pass(Duration::from_secs(600)).await;
        assert_eq!(count(c), 1, "not when nothing was applied");
        for _ in 0..11 {
            commands.push(c.propose(10_000).await);
        }
        c.time.pass(Duration::from_secs(3)).await;
        assert_eq!(count(c), 2, "by size");
        commands.push(c.propose(8).await);
        c.group(1).take_snapshot().await.expect("it runs");
        c.time.pass(ms(100)).await;
        assert_eq!(count(c), 3, "on demand");
        c.crash(1);
        c.start(1).await;
        c.agree(&commands).await;
    });
}

#[test]
fn an_older_snapshot_stands_in_for_a_damaged_one() {
    with_seeds(SEEDS, small(), async |c: &Cluster| {
        c.form(&[1, 2, 3]).await;
        let mut commands = Vec::new();
        some_snapshots(c, &mut commands).await;
        let before = c.group(2).snapshots();
        c.crash(2);
        let names = c.disk(2).snapshots();
        let newest = names.last().expect("three are kept");
        c.disk(2).damage(newest, c.below(3000) as usize);
        let group = c.start(2).await;
        assert_eq!(group.status().damaged_snapshots, 1);
        // That older ones were removed may not have been durable.
        assert!(group.snapshots().ends_with(&before[..before.len() - 1]));
        c.agree(&commands).await;
        // Set aside is not looked at again.
        c.crash(2);
        let group = c.start(2).await;
        assert_eq!(group.status().damaged_snapshots, 0);
        commands.push(c.propose(8).await);
        c.agree(&commands).await;
    });
}

#[test]
fn a_full_disk_costs_snapshots_and_no_node() {
    let config = RaftConfig { entries_kept: 0, ..small() };
    with_seeds(SEEDS, config, async |c: &Cluster| {
        c.form(&[1, 2, 3]).await;
        let mut commands = Vec::new();
        some_snapshots(c, &mut commands).await;
        let before = c.group(2).snapshots();
        c.disk(2).fill(true);
        some_snapshots(c, &mut commands).await;
        // One of all there is in the log, so that openraft needs nothing of that any more.
        c.group(2).take_snapshot().await.expect("it runs");
        c.time.pass(ms(500)).await;
        let status = c.group(2).status();
        assert_eq!(status.snapshot, status.applied);
        assert!(status.snapshot > before.last().copied(), "it has one in memory");
        assert_eq!(c.group(2).snapshots(), before);
        assert!(c.disk(2).names().iter().all(|name| name.ends_with(".snap")), "nothing is left");
        // What the snapshots on disk do not reflect, the log does.
        c.crash(2);
        c.start(2).await;
        c.agree(&commands).await;
        c.disk(2).fill(false);
        some_snapshots(c, &mut commands).await;
        assert!(c.group(2).snapshots().last() > before.last(), "there is room again");
        c.crash(2);
        c.start(2).await;
        c.agree(&commands).await;
    });
}
