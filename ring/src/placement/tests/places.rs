//! The ring, shares and first maps.

use ironring_core::{PartitionId, Token};
use proptest::prelude::*;

use super::*;

#[test]
fn a_partition_stands_at_the_first_token_of_its_range() {
    for partitions in [1u32, 2, 256, 65_536] {
        for p in [0, partitions / 3, partitions - 1].map(PartitionId) {
            let start = partition_start(p, partitions);
            assert_eq!(start.partition(partitions), p);
            if p.0 > 0 {
                assert_eq!(Token(start.0 - 1).partition(partitions), PartitionId(p.0 - 1));
            }
        }
    }
}

/// Maps were proposed by this walk: another result here is another placement version.
#[test]
fn golden_walks() {
    let ring = ring(plain(1..=5));
    let walk = |p| ring.place(PartitionId(p), 256, 3).iter().map(|n| n.0).collect::<Vec<_>>();
    assert_eq!(
        [walk(0), walk(1), walk(0xba), walk(255)],
        [[5, 1, 3], [1, 5, 4], [3, 2, 1], [4, 3, 5]]
    );
}

#[test]
fn without_racks_the_walk_is_the_next_distinct_nodes() {
    let ring = ring(plain([3, 17, 4, 90, 8]));
    let vnodes: Vec<_> = ring.vnodes().collect();
    assert_eq!(vnodes.len(), 5 * 150);
    for p in (0..256).map(PartitionId) {
        let start = partition_start(p, 256);
        let from = vnodes.iter().position(|&(token, _)| token >= start).unwrap_or(0);
        let mut next = Vec::new();
        for (_, node) in vnodes[from..].iter().chain(&vnodes[..from]) {
            if !next.contains(node) && next.len() < 3 {
                next.push(*node);
            }
        }
        assert_eq!(ring.place(p, 256, 3), next);
    }
}

#[test]
fn the_whole_ring_is_owned() {
    let ring = ring(plain(1..=7));
    let owned = ring.owned();
    assert_eq!(owned.iter().map(|(_, tokens)| tokens).sum::<u128>(), 1 << 64);
    assert!(owned.iter().all(|(_, tokens)| *tokens > 0));
}

#[test]
fn racks_come_before_regions() {
    let node = |id, rack: &str, region: &str| Node {
        rack: Some(rack.to_owned()),
        region: Some(region.to_owned()),
        ..Node::new(NodeId(id))
    };
    // Region x has one rack, y has three: a fourth replica prefers y's third rack to x again.
    let nodes = vec![
        node(1, "a", "x"),
        node(2, "a", "x"),
        node(3, "a", "y"),
        node(4, "b", "y"),
        node(5, "c", "y"),
        node(6, "c", "y"),
    ];
    let ring = ring(nodes);
    for p in (0..64).map(PartitionId) {
        let placed = ring.place(p, 64, 4);
        let in_x = placed.iter().filter(|n| n.0 <= 2).count();
        let in_c = placed.iter().filter(|n| n.0 >= 5).count();
        assert_eq!((in_x, in_c), (1, 1), "{placed:?}");
        let two = ring.place(p, 64, 2);
        assert_eq!(two.iter().filter(|n| n.0 <= 2).count(), 1, "both regions: {two:?}");
    }
}

#[test]
fn a_small_rack_holds_a_replica_of_everything_unless_spread_is_off() {
    let racked = |id: u64| Node {
        rack: Some(if id == 1 { "small".to_owned() } else { format!("r{}", id % 2) }),
        ..Node::new(NodeId(id))
    };
    let nodes: Vec<Node> = (1..=9).map(racked).collect();
    let shares = |spread| {
        let topology = Topology::new(nodes.clone(), spread).unwrap();
        fair_shares(&topology, 256, 3).into_iter().map(|(_, share)| share).collect::<Vec<_>>()
    };
    assert_eq!(shares(true), [256, 64, 64, 64, 64, 64, 64, 64, 64]);
    assert_eq!(shares(false).iter().sum::<u32>(), 768);
    assert!(shares(false).iter().all(|&share| share == 85 || share == 86));
}

#[test]
fn empty_and_tiny_clusters() {
    let none = ring(Vec::new());
    assert_eq!(none.propose(4, 3), vec![Vec::<NodeId>::new(); 4]);
    assert!(none.owned().is_empty());
    let one = ring(plain([9]));
    assert_eq!(one.propose(1, 3), vec![vec![NodeId(9)]]);
    assert_eq!(one.owned(), [(NodeId(9), 1 << 64)]);
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn first_maps_are_sound_and_exactly_shared(
        nodes in nodes(1..=14), rf in 1usize..=5, bits in 0u32..=8,
    ) {
        let ring = ring(nodes);
        let partitions = 1u32 << bits;
        let map = running(&ring, partitions, rf);
        assert_sound(&ring, &map, rf);
        assert_in_band(&ring, &map, rf, 0);
        let loads = loads(&map);
        for (node, share) in fair_shares(ring.topology(), partitions, rf) {
            assert_eq!(loads.get(&node).copied().unwrap_or(0), share, "{node}");
        }
    }

    #[test]
    fn the_order_of_nodes_changes_nothing(
        (nodes, shuffled) in nodes(1..=12).prop_flat_map(|n| (Just(n.clone()), Just(n).prop_shuffle())),
        rf in 1usize..=4,
    ) {
        let (a, b) = (ring(nodes), ring(shuffled));
        prop_assert_eq!(a.propose(128, rf), b.propose(128, rf));
        let map = running(&a, 128, rf);
        let rules = PlanRules { rf: 3, tolerance_percent: 10 };
        prop_assert_eq!(plan(&a, &map, rules), plan(&b, &map, rules));
    }

    #[test]
    fn walks_are_as_well_spread_as_any_choice(nodes in nodes(1..=8), rf in 1usize..=5) {
        let ring = ring(nodes);
        let all: Vec<NodeId> = ring.topology().nodes().iter().map(|n| n.id).collect();
        let count = rf.min(all.len());
        let best = (0u32..1 << all.len())
            .filter(|bits| bits.count_ones() as usize == count)
            .map(|bits| {
                let set: Vec<NodeId> =
                    (0..all.len()).filter(|at| bits >> at & 1 == 1).map(|at| all[at]).collect();
                ring.topology().spread_cost(&set)
            })
            .min()
            .unwrap();
        prop_assert_eq!(ring.topology().best_spread(rf), best);
        for p in (0..16).map(PartitionId) {
            prop_assert_eq!(ring.topology().spread_cost(&ring.place(p, 16, rf)), best);
        }
    }

    #[test]
    fn a_plain_walk_moves_replicas_only_to_a_new_node(count in 3u64..=15) {
        let (old, new) = (ring(plain(1..=count)), ring(plain(1..=count + 1)));
        for p in (0..128).map(PartitionId) {
            let (before, after) = (old.place(p, 128, 3), new.place(p, 128, 3));
            let came: Vec<_> = after.iter().filter(|n| !before.contains(n)).collect();
            prop_assert!(came.iter().all(|n| n.0 == count + 1) && came.len() <= 1);
        }
    }
}
