//! Prints the figures of `docs/placement.md`: evenness of first maps, and what adding and removing
//! a node moves.
//!
//!     cargo run --release -p ironring-ring --example placement_figures

#![expect(clippy::disallowed_types, reason = "the time a call takes is one of the figures")]

use std::time::Instant;

use ironring_core::{NodeId, PartitionId};
use ironring_ring::placement::{
    Change, LeaderChoice, Node, PartitionState, Plan, PlanRules, Ring, Topology, Weight,
    choose_leaders, plan,
};

const RF: usize = 3;

fn ring(nodes: impl Iterator<Item = u64>) -> Ring {
    let nodes = nodes.map(|id| Node::new(NodeId(id))).collect();
    Ring::new(Topology::new(nodes, true).expect("distinct ids"))
}

fn max_to_mean<'a>(nodes: u64, map: impl Iterator<Item = &'a Vec<NodeId>>) -> f64 {
    let mut loads = vec![0u32; nodes as usize + 1];
    map.flatten().for_each(|node| loads[node.0 as usize] += 1);
    let (max, sum) = (loads.iter().max().copied().unwrap_or(0), loads.iter().sum::<u32>());
    f64::from(max) * nodes as f64 / f64::from(sum)
}

fn led(map: Vec<Vec<NodeId>>, topology: &Topology) -> Vec<PartitionState> {
    let choices: Vec<LeaderChoice> = map
        .iter()
        .map(|replicas| LeaderChoice { eligible: replicas.clone(), current: None })
        .collect();
    let leaders = choose_leaders(topology, &choices);
    map.into_iter()
        .zip(leaders)
        .map(|(replicas, leader)| PartitionState { replicas, leader, bytes: 1, pinned: false })
        .collect()
}

fn done(map: &[PartitionState], plan: &Plan) -> Vec<PartitionState> {
    let mut map = map.to_vec();
    for step in &plan.moves {
        step.apply(&mut map[step.partition.0 as usize].replicas);
    }
    for (partition, &leader) in map.iter_mut().zip(&plan.leaders) {
        partition.leader = leader;
    }
    map
}

fn row(nodes: u64, partitions: u32) {
    let old = ring(1..=nodes);
    let walked: Vec<Vec<NodeId>> =
        (0..partitions).map(|p| old.place(PartitionId(p), partitions, RF)).collect();
    let proposed = old.propose(partitions, RF);
    let map = led(proposed.clone(), old.topology());
    let total = partitions as usize * RF;

    let bigger = ring(1..=nodes + 1);
    let added = plan(&bigger, &map, PlanRules::default()).expect("a valid map");
    let elsewhere = added.moves.iter().filter(
        |step| !matches!(step.change, Change::Replace { to, .. } if to == NodeId(nodes + 1)),
    );
    let after = done(&map, &added);
    let back = plan(&old, &after, PlanRules::default()).expect("a valid map");
    let held = after.iter().flat_map(|p| &p.replicas).filter(|n| n.0 == nodes + 1).count();
    println!(
        "| {nodes} | {partitions} | {:.3} | {:.3} | {} | {} | {} | {:.3} | {} of {held} |",
        max_to_mean(nodes, walked.iter()),
        max_to_mean(nodes, proposed.iter()),
        added.copies(),
        total / (nodes as usize + 1),
        elsewhere.count(),
        max_to_mean(nodes + 1, after.iter().map(|p| &p.replicas)),
        back.copies(),
    );
}

fn times(nodes: u64, partitions: u32) {
    let at = Instant::now();
    let old = ring(1..=nodes);
    let made = at.elapsed();
    let at = Instant::now();
    let map = old.propose(partitions, RF);
    let proposed = at.elapsed();
    let choices: Vec<LeaderChoice> = map
        .iter()
        .map(|replicas| LeaderChoice { eligible: replicas.clone(), current: Some(replicas[0]) })
        .collect();
    let at = Instant::now();
    let leaders = choose_leaders(old.topology(), &choices);
    let first = at.elapsed();
    let changed = leaders.iter().zip(&choices).filter(|(l, c)| **l != c.current).count();
    let least = |replicas: &Vec<NodeId>| replicas.iter().min().copied();
    let worst: Vec<LeaderChoice> = map
        .iter()
        .map(|replicas| LeaderChoice { eligible: replicas.clone(), current: least(replicas) })
        .collect();
    let at = Instant::now();
    let _ = choose_leaders(old.topology(), &worst);
    let unevenly = at.elapsed();
    let bigger = ring(1..=nodes + 1);
    let map = led(map, old.topology());
    let at = Instant::now();
    let added = plan(&bigger, &map, PlanRules::default()).expect("a valid map");
    let planned = at.elapsed();
    println!(
        "{nodes} nodes, {partitions} partitions: ring {made:.0?}, propose {proposed:.0?}, leaders \
         {first:.0?} ({changed} changed), from the lowest id {unevenly:.0?}, plan of an added node \
         {planned:.0?} ({} copies)",
        added.copies()
    );
}

/// Plans that move much: a cluster that grows at once, racks that were labelled anew.
fn hard_times() {
    let timed = |what: &str, old: &Ring, new: &Ring, partitions| {
        let map = led(old.propose(partitions, RF), old.topology());
        let at = Instant::now();
        let plan = plan(new, &map, PlanRules::default()).expect("a valid map");
        println!(
            "{what}, {partitions} partitions: {:.0?} ({} copies)",
            at.elapsed(),
            plan.copies()
        );
    };
    let racked = |count: u64, racks: u64, uneven: u64| {
        let nodes = (1..=count).map(|id| Node {
            rack: Some(format!("r{}", (id % uneven).min(racks - 1))),
            weight: Weight::from_hundredths(50 + (id % 7) as u16 * 40).expect("small enough"),
            ..Node::new(NodeId(id))
        });
        Ring::new(Topology::new(nodes.collect(), true).expect("distinct ids"))
    };
    timed("3 nodes to 100", &ring(1..=3), &ring(1..=100), 65_536);
    timed("100 nodes to 50", &ring(1..=100), &ring(1..=50), 65_536);
    let (five, four) = (racked(100, 5, 9), racked(100, 4, 7));
    timed("100 nodes in 5 uneven racks to 4 others", &five, &four, 65_536);
    timed("100 nodes without racks to 5 uneven ones", &ring(1..=100), &five, 65_536);
    timed("96 nodes in 5 uneven racks to 100", &racked(96, 5, 9), &five, 65_536);
    timed("20 nodes in 4 uneven racks to 3", &racked(20, 4, 7), &racked(20, 3, 8), 65_536);
}

fn main() {
    println!(
        "| nodes | P | walk | proposed | moved on add | minimum | elsewhere | after | moved on remove |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for partitions in [256, 4096] {
        for nodes in [3, 4, 5, 6, 8, 10, 12, 16, 20] {
            row(nodes, partitions);
        }
    }
    for (nodes, partitions) in [(3, 65_536), (20, 4096), (20, 65_536), (100, 65_536)] {
        times(nodes, partitions);
    }
    hard_times();
}
