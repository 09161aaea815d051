//! Properties of placement over generated clusters. Seeds are fixed: a failure is one everywhere.

mod leaders;
mod moves;
mod pace;
mod places;

use std::collections::BTreeMap;

use ironring_core::NodeId;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(0x1207),
        ..ProptestConfig::default()
    }
}

fn plain(ids: impl IntoIterator<Item = u64>) -> Vec<Node> {
    ids.into_iter().map(|id| Node::new(NodeId(id))).collect()
}

fn ring(nodes: Vec<Node>) -> Ring {
    Ring::new(Topology::new(nodes, true).unwrap())
}

/// Nodes with distinct ids, of weights and in racks and regions as they come.
fn nodes(count: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Vec<Node>> {
    let weight = prop_oneof![Just(100u16), Just(100), 40u16..400];
    let node = (1u64..1000, weight, proptest::option::of(0u8..5), proptest::option::of(0u8..3));
    proptest::collection::vec(node, count).prop_map(|list| {
        let by_id: BTreeMap<u64, Node> = list
            .into_iter()
            .map(|(id, weight, rack, region)| {
                let node = Node {
                    id: NodeId(id),
                    weight: Weight::from_hundredths(weight).unwrap(),
                    rack: rack.map(|r| format!("r{r}")),
                    region: region.map(|r| format!("g{r}")),
                    state: NodeState::Active,
                };
                (id, node)
            })
            .collect();
        by_id.into_values().collect()
    })
}

/// A map as a running cluster has it: first proposal, balanced leaders, sizes.
fn running(ring: &Ring, partitions: u32, rf: usize) -> Vec<PartitionState> {
    let map = ring.propose(partitions, rf);
    let choices: Vec<LeaderChoice> = map
        .iter()
        .map(|replicas| LeaderChoice { eligible: replicas.clone(), current: None })
        .collect();
    let leaders = choose_leaders(ring.topology(), &choices);
    map.into_iter()
        .zip(leaders)
        .map(|(replicas, leader)| PartitionState { replicas, leader, bytes: 10, pinned: false })
        .collect()
}

/// Carries a plan out, a step at a time, and checks each on the way.
fn carry_out(map: &[PartitionState], plan: &Plan) -> Vec<PartitionState> {
    let mut map = map.to_vec();
    for step in &plan.moves {
        let replicas = &mut map[step.partition.0 as usize].replicas;
        if let Change::Replace { to, .. } | Change::Add { to } = step.change {
            assert!(!replicas.contains(&to), "{step:?} of {replicas:?}");
        }
        step.apply(replicas);
        assert!(!replicas.is_empty());
    }
    for (partition, &leader) in map.iter_mut().zip(&plan.leaders) {
        partition.leader = leader;
    }
    map
}

fn loads(map: &[PartitionState]) -> BTreeMap<NodeId, u32> {
    let mut loads = BTreeMap::new();
    for &node in map.iter().flat_map(|partition| &partition.replicas) {
        *loads.entry(node).or_insert(0) += 1;
    }
    loads
}

/// Every node holds its share, give or take `percent` and one replica.
fn assert_in_band(ring: &Ring, map: &[PartitionState], rf: usize, percent: u32) {
    let loads = loads(map);
    for (node, share) in fair_shares(ring.topology(), map.len() as u32, rf) {
        let load = loads.get(&node).copied().unwrap_or(0);
        let off = load.abs_diff(share);
        assert!(off <= 1 || off * 100 <= share * percent, "{node}: {load} of {share}");
    }
}

/// Distinct data nodes, as many as asked for, spread as well as can be.
fn assert_sound(ring: &Ring, map: &[PartitionState], rf: usize) {
    let topology = ring.topology();
    let count = rf.min(topology.data_nodes());
    for partition in map {
        let mut distinct = partition.replicas.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), count, "{partition:?}");
        assert!(distinct.iter().all(|&id| topology.index(id).is_some()), "{partition:?}");
        assert_eq!(topology.spread_cost(&distinct), topology.best_spread(count), "{partition:?}");
    }
}
