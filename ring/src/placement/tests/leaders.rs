//! Leaders.

use proptest::prelude::*;

use super::*;

fn counts(leaders: &[Option<NodeId>]) -> BTreeMap<NodeId, u64> {
    let mut counts = BTreeMap::new();
    for leader in leaders.iter().flatten() {
        *counts.entry(*leader).or_insert(0) += 1;
    }
    counts
}

fn changed(leaders: &[Option<NodeId>], choices: &[LeaderChoice]) -> usize {
    leaders.iter().zip(choices).filter(|(leader, choice)| **leader != choice.current).count()
}

fn choice(eligible: &[u64], current: Option<u64>) -> LeaderChoice {
    LeaderChoice {
        eligible: eligible.iter().map(|&id| NodeId(id)).collect(),
        current: current.map(NodeId),
    }
}

#[test]
fn nobody_eligible_means_no_leader() {
    let topology = Topology::new(plain(1..=2), true).unwrap();
    let leaders = choose_leaders(&topology, &[choice(&[], Some(1)), choice(&[2], Some(1))]);
    assert_eq!(leaders, [None, Some(NodeId(2))]);
}

#[test]
fn others_lead_only_where_no_data_node_may() {
    let mut nodes = plain(1..=3);
    nodes[0].state = NodeState::Draining;
    let topology = Topology::new(nodes, true).unwrap();
    let choices = [choice(&[1, 2], Some(1)), choice(&[1, 9], Some(1)), choice(&[9, 1], None)];
    let leaders = choose_leaders(&topology, &choices);
    assert_eq!(leaders, [Some(NodeId(2)), Some(NodeId(1)), Some(NodeId(9))]);
}

#[test]
fn a_chain_is_found_where_no_single_change_helps() {
    // Node 1 leads three; it can pass one only to node 2, which passes one on to node 3.
    let topology = Topology::new(plain(1..=3), true).unwrap();
    let choices = [
        choice(&[1, 2], Some(1)),
        choice(&[1], Some(1)),
        choice(&[1], Some(1)),
        choice(&[2, 3], Some(2)),
        choice(&[2], Some(2)),
        choice(&[3], Some(3)),
    ];
    let leaders = choose_leaders(&topology, &choices);
    assert!(counts(&leaders).values().all(|&count| count == 2), "{leaders:?}");
    assert_eq!(changed(&leaders, &choices), 2);
}

#[test]
fn even_leaders_stay() {
    let ring = ring(plain(1..=7));
    let map = running(&ring, 256, 3);
    let choices: Vec<LeaderChoice> = map
        .iter()
        .map(|p| LeaderChoice { eligible: p.replicas.clone(), current: p.leader })
        .collect();
    assert_eq!(changed(&choose_leaders(ring.topology(), &choices), &choices), 0);
}

/// Least sum of squares over weights (times all weights), and the fewest changes with that sum, by
/// trying everything.
fn by_hand(topology: &Topology, choices: &[LeaderChoice]) -> (u64, usize) {
    let weight = |id: &NodeId| u64::from(topology.node(*id).unwrap().weight.hundredths());
    let scale: u64 = topology.nodes().iter().map(|n| u64::from(n.weight.hundredths())).product();
    let sum = |leaders: &[Option<NodeId>]| {
        counts(leaders).iter().map(|(id, count)| count * count * (scale / weight(id))).sum()
    };
    let mut best = (u64::MAX, usize::MAX);
    let mut leaders: Vec<Option<NodeId>> = vec![None; choices.len()];
    let ways: usize = choices.iter().map(|choice| choice.eligible.len()).product();
    for mut way in 0..ways {
        for (leader, choice) in leaders.iter_mut().zip(choices) {
            *leader = Some(choice.eligible[way % choice.eligible.len()]);
            way /= choice.eligible.len();
        }
        best = best.min((sum(&leaders), changed(&leaders, choices)));
    }
    let chosen = choose_leaders(topology, choices);
    assert_eq!((sum(&chosen), changed(&chosen, choices)), best, "{choices:?} {chosen:?}");
    best
}

/// Levelling alone changes six leaders here; the sixth is found to be needless by a cycle.
#[test]
fn changes_that_cancel_out_are_undone() {
    let mut nodes = plain(1..=4);
    nodes.iter_mut().for_each(|node| node.weight = Weight::from_hundredths(1).unwrap());
    nodes[3].weight = Weight::from_hundredths(2).unwrap();
    let choices = [
        choice(&[1, 2, 4], Some(1)),
        choice(&[2, 3, 4], Some(5)),
        choice(&[2, 4], None),
        choice(&[1, 2], Some(5)),
        choice(&[2, 3, 4], Some(1)),
        choice(&[3, 4], Some(2)),
        choice(&[1], Some(1)),
    ];
    assert_eq!(by_hand(&Topology::new(nodes, true).unwrap(), &choices), (21, 5));
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn small_cases_are_exactly_right(
        weights in proptest::collection::vec(prop_oneof![Just(1u16), Just(1), 1u16..4], 4),
        lists in proptest::collection::vec((proptest::sample::subsequence(vec![1u64, 2, 3, 4], 1..=3), 0u64..6), 1..=7),
    ) {
        let mut nodes = plain(1..=4);
        for (node, weight) in nodes.iter_mut().zip(weights) {
            node.weight = Weight::from_hundredths(weight).unwrap();
        }
        let topology = Topology::new(nodes, true).unwrap();
        let choices: Vec<LeaderChoice> = lists
            .iter()
            .map(|(eligible, current)| choice(eligible, Some(*current).filter(|&c| c > 0)))
            .collect();
        by_hand(&topology, &choices);
    }
}

proptest! {
    #![proptest_config(config(32))]

    #[test]
    fn leaders_differ_by_one_at_most(
        count in 3u64..=20, bits in 4u32..=9, seed in any::<u64>(), rf in 2usize..=4,
    ) {
        let ring = ring(plain(1..=count));
        let map = ring.propose(1 << bits, rf);
        let mut random = ironring_core::prng::Prng::new(seed);
        let choices: Vec<LeaderChoice> = map
            .into_iter()
            .map(|replicas| {
                let current = Some(replicas[random.below(replicas.len() as u64) as usize]);
                LeaderChoice { eligible: replicas, current }
            })
            .collect();
        let leaders = choose_leaders(ring.topology(), &choices);
        for (leader, choice) in leaders.iter().zip(&choices) {
            prop_assert!(choice.eligible.contains(&leader.unwrap()));
        }
        let counts = counts(&leaders);
        let of = |id| counts.get(&NodeId(id)).copied().unwrap_or(0);
        let (least, most) = ((1..=count).map(of).min().unwrap(), (1..=count).map(of).max().unwrap());
        prop_assert!(most - least <= 1, "{counts:?}");
    }
}
