//! Replicas that come and go.

use super::*;

#[test]
fn a_drained_node_gives_everything_away_and_a_leaving_one_is_removed() {
    let mut room = Room::new(4);
    room.elect(&[1]);
    room.rest(&[1, 2, 3, 4]);
    let set = Command::SetMember { node: NodeId(2), state: MemberState::Leaving };
    room.metadata.apply(&set);
    for _ in 0..30 {
        let members: Vec<u64> = room.metadata.members().map(|m| m.id.0).collect();
        room.rest(&members);
        room.lead_elsewhere();
        if room.metadata.member(NodeId(2)).is_none() {
            break;
        }
    }
    assert!(room.metadata.member(NodeId(2)).is_none(), "{:?}", room.metadata.moves());
    for i in 0..4 {
        assert_eq!(room.nodes_of(PartitionId(i)), [1, 3, 4]);
    }
}

#[test]
fn a_node_that_leaves_where_nobody_can_take_its_replicas_is_removed_all_the_same() {
    let mut room = Room::at_rest();
    let set = |state| Command::SetMember { node: NodeId(2), state };
    room.metadata.apply(&set(MemberState::Draining));
    room.rest(&[1, 2, 3]);
    assert_eq!(room.nodes_of(P), [1, 2, 3], "a node that drains keeps what nobody can take");
    room.metadata.apply(&set(MemberState::Leaving));
    for _ in 0..30 {
        room.rest(&[1, 2, 3]);
        room.lead_elsewhere();
    }
    assert!(room.metadata.member(NodeId(2)).is_none());
    assert_eq!(room.nodes_of(P), [1, 3]);
}

#[test]
fn a_lost_node_is_removed_when_the_others_have_its_partitions() {
    let mut room = Room::at_rest();
    let set = Command::SetMember { node: NodeId(2), state: MemberState::Lost };
    room.metadata.apply(&set);
    for _ in 0..30 {
        room.answer(&[1, 3]);
        room.rest(&[1, 3]);
    }
    assert!(room.metadata.member(NodeId(2)).is_none());
    assert_eq!(room.nodes_of(P), [1, 3]);
}

#[test]
fn what_fits_no_more_is_left_out_of_a_plan() {
    for (state, begins) in [(MemberState::Active, true), (MemberState::Draining, false)] {
        let mut room = Room::at_rest();
        let token = Some("t".to_owned());
        room.metadata.apply(&Command::Join { node: facts(4, 1), token, at: WallTime(1) });
        while room.plans.is_empty() {
            room.now = room.now + Duration::from_millis(10);
            for n in 1..=4 {
                room.controller.heard(room.now, NodeId(n), Incarnation(1));
            }
            room.controller.step(room.now, WallTime(0), &room.metadata);
            room.settle();
        }
        let plans = std::mem::take(&mut room.plans);
        let [(planning, before)] = plans.as_slice() else { panic!("one at a time: {plans:?}") };
        let plan = planning.make(before);
        room.metadata.apply(&Command::SetMember { node: NodeId(4), state });
        room.controller.planned(room.now, &room.metadata, &plan);
        room.settle();
        assert_eq!(!room.metadata.moves().is_empty(), begins, "{state:?}: {plan:?}");
    }
}

#[test]
fn a_member_that_cannot_be_removed_keeps_no_other_waiting() {
    let mut room = Room::at_rest();
    let token = || Some("t".to_owned());
    for n in 4..=5 {
        room.metadata.apply(&Command::Join { node: facts(n, 1), token: token(), at: WallTime(1) });
    }
    room.votes = Some(NodeId(4));
    for n in 4..=5 {
        room.metadata.apply(&Command::SetMember { node: NodeId(n), state: MemberState::Lost });
    }
    room.pass(1000, &[1, 2, 3]);
    let members: Vec<u64> = room.metadata.members().map(|m| m.id.0).collect();
    assert_eq!(members, [1, 2, 3, 4]);
    room.votes = None;
    room.pass(1000, &[1, 2, 3]);
    assert!(room.metadata.member(NodeId(4)).is_none());
}

#[test]
fn without_balancing_nodes_are_still_emptied_and_nothing_is_evened_out() {
    let mut room = Room::new(4);
    room.metadata.apply(&Command::SetBalancing(false));
    room.elect(&[1]);
    room.rest(&[1, 2, 3, 4]);
    let replicas = |room: &Room, node| {
        (0..4).filter(|i| room.nodes_of(PartitionId(*i)).contains(&node)).count()
    };
    assert_eq!((1..=4).map(|n| replicas(&room, n)).sum::<usize>(), 12, "what was missing came");
    let uneven: Vec<Vec<u64>> = (0..4).map(|i| room.nodes_of(PartitionId(i))).collect();
    room.metadata.apply(&Command::SetMember { node: NodeId(3), state: MemberState::Draining });
    for _ in 0..30 {
        room.rest(&[1, 2, 3, 4]);
        room.lead_elsewhere();
    }
    assert_eq!(replicas(&room, 3), 0, "{uneven:?}");
    room.metadata.apply(&Command::SetMember { node: NodeId(3), state: MemberState::Active });
    room.rest(&[1, 2, 3, 4]);
    assert_eq!(replicas(&room, 3), 0, "it comes back, and nothing is moved there for balance");
    room.metadata.apply(&Command::SetBalancing(true));
    for _ in 0..30 {
        room.rest(&[1, 2, 3, 4]);
        room.lead_elsewhere();
    }
    assert!(replicas(&room, 3) > 0);
}

#[test]
fn what_a_dead_node_held_is_rebuilt_after_the_grace() {
    let mut room = Room::new(4);
    room.elect(&[1]);
    room.rest(&[1, 2, 3, 4]);
    let dead = room.nodes_of(P)[0];
    let rest: Vec<u64> = (1..=4).filter(|n| *n != dead).collect();
    room.rest(&rest);
    assert!(room.nodes_of(P).contains(&dead), "not before the grace is over");
    let grace = Settings::default().rebalance_grace;
    room.pass(grace.as_millis() as u64 + 11_000, &rest);
    room.answer(&rest);
    room.rest(&rest);
    for i in 0..4 {
        assert_eq!(room.nodes_of(PartitionId(i)), rest);
    }
}

/// An observer has a copy of everything that neither votes nor leads, as long as it observes.
#[test]
fn observers_follow_every_partition_and_never_vote() {
    let mut room = Room::new(4);
    let role = |observer| {
        let node = Facts { observer, ..facts(4, 1) };
        Command::Join { node, token: None, at: WallTime(2) }
    };
    room.metadata.apply(&role(true));
    room.elect(&[1]);
    room.rest(&[1, 2, 3, 4]);
    for i in 0..4 {
        let record = room.record(PartitionId(i));
        assert_eq!(room.nodes_of(PartitionId(i)), [1, 2, 3, 4]);
        let observer = record.replicas.iter().find(|r| r.node == NodeId(4)).unwrap();
        assert_eq!(observer.wish, Wish::Observer);
        assert!(!record.is_voter(observer.id) && record.voters.len() == 3, "{record:?}");
    }
    assert!(room.metadata.moves().is_empty());
    // A node that is lost is not replaced by the one that observes.
    room.metadata.apply(&Command::SetMember { node: NodeId(3), state: MemberState::Lost });
    for _ in 0..10 {
        room.answer(&[1, 2]);
        room.rest(&[1, 2, 4]);
    }
    let votes = |room: &Room, id| room.record(id).voters.len();
    assert!((0..4).all(|i| votes(&room, PartitionId(i)) == 2));
    // It becomes a node like the others, and its copies votes like theirs.
    room.metadata.apply(&role(false));
    for _ in 0..20 {
        room.answer(&[1, 2, 4]);
        room.rest(&[1, 2, 4]);
    }
    assert!((0..4).all(|i| votes(&room, PartitionId(i)) == 3), "{:?}", room.record(P));
}

/// Places are kept for as many voters as are wanted and one that comes, and given up for them.
#[test]
fn copies_that_only_follow_leave_room_for_voters() {
    let mut room = Room::new(13);
    let all: Vec<u64> = (1..=13).collect();
    for n in 8..=13 {
        let node = Facts { observer: true, ..facts(n, 1) };
        room.metadata.apply(&Command::Join { node, token: None, at: WallTime(2) });
    }
    // Those take no replicas for now.
    for n in 4..=7 {
        let (node, state) = (NodeId(n), MemberState::Draining);
        room.metadata.apply(&Command::SetMember { node, state });
    }
    room.elect(&[1]);
    room.rest(&all);
    let wished = |room: &Room, i, wish| {
        room.record(PartitionId(i)).replicas.iter().filter(|r| r.wish == wish).count()
    };
    for i in 0..4 {
        assert_eq!(wished(&room, i, Wish::Observer), 5, "and the sixth has nothing");
        assert_eq!(room.record(PartitionId(i)).voters.len(), 3);
    }
    for n in 4..=7 {
        let (node, state) = (NodeId(n), MemberState::Active);
        room.metadata.apply(&Command::SetMember { node, state });
    }
    room.metadata.apply(&Command::SetKeyspace { rf: 7, min_voters: 1 });
    for _ in 0..10 {
        room.rest(&all);
    }
    for i in 0..4 {
        assert_eq!(room.record(PartitionId(i)).voters.len(), 7, "{:?}", room.record(P));
        assert_eq!(wished(&room, i, Wish::Observer), 1);
    }
    assert_eq!(room.refused, 0);
}

#[test]
fn changes_that_are_refused_are_proposed_again_ever_more_seldom() {
    let mut room = Room::new(3);
    room.elect(&[1]);
    room.refuses = true;
    room.pass(20_000, &[1, 2, 3]);
    assert!((5..20).contains(&room.refused), "{} in 20 s", room.refused);
    room.refuses = false;
    room.rest(&[1, 2, 3]);
    assert!((0..4).all(|i| room.record(PartitionId(i)).voters.len() == 3));
}

#[test]
fn of_replicas_that_are_too_many_none_goes_for_the_sake_of_one_that_does_not_vote() {
    for silent in 1..=3 {
        let mut room = Room::new(3);
        room.elect(&[1]);
        room.rest(&[1, 2, 3]);
        let rest: Vec<u64> = (1..=3).filter(|n| *n != silent).collect();
        room.pass(1000, &rest);
        room.answer(&rest);
        room.pass(20, &rest);
        // Its leaders go on without the silent one, and it is no voter any more.
        for i in 0..4 {
            let partition = PartitionId(i);
            let record = room.record(partition);
            let leader = record.leader.expect("two of three were heard").replica;
            let here = |r: &ReplicaId| r.storage.0 != u128::from(silent);
            let voters: Vec<ReplicaId> = record.voters.iter().copied().filter(here).collect();
            let (term, base) = (record.term, record.version);
            let request = Request::Voters { partition, term, from: leader, base, voters };
            room.controller.request(room.now, &room.metadata, &request);
            room.settle();
            assert_eq!(room.record(partition).voters.len(), 2);
        }
        room.metadata.apply(&Command::SetKeyspace { rf: 2, min_voters: 1 });
        for _ in 0..5 {
            room.pass(2000, &rest);
            room.answer(&rest);
        }
        for i in 0..4 {
            let record = room.record(PartitionId(i));
            let votes = |n: &&u64| {
                let id = record.replicas.iter().find(|r| r.node.0 == **n && r.wish == Wish::Voter);
                id.is_some_and(|r| record.is_voter(r.id))
            };
            assert_eq!(rest.iter().filter(votes).count(), 2, "partition {i} without {silent}");
        }
        // Heard again and caught up, it is as good as another.
        for _ in 0..30 {
            room.rest(&[1, 2, 3]);
            room.lead_elsewhere();
        }
        for i in 0..4 {
            assert_eq!(room.nodes_of(PartitionId(i)).len(), 2);
            assert_eq!(room.record(PartitionId(i)).voters.len(), 2);
        }
    }
}

/// A move to a dead node would be given up at once and begun again, in the place of others.
#[test]
fn nothing_is_moved_to_a_dead_node_and_what_it_would_get_goes_elsewhere() {
    let mut room = Room::new(5);
    room.elect(&[1]);
    room.rest(&[1, 2, 3, 4, 5]);
    let heard = |gone: &[u64]| -> Vec<u64> { (1..=5).filter(|n| !gone.contains(n)).collect() };
    // One is dead and another given up: what that held is rebuilt, and not on the dead one.
    let (dead, lost) = (5, 4);
    room.pass(11_000, &heard(&[dead]));
    room.answer(&heard(&[dead]));
    room.rest(&heard(&[dead]));
    let set = Command::SetMember { node: NodeId(lost), state: MemberState::Lost };
    room.metadata.apply(&set);
    let before: Vec<Vec<u64>> = (0..4).map(|i| room.nodes_of(PartitionId(i))).collect();
    let epoch = room.metadata.epoch();
    for _ in 0..5 {
        room.answer(&heard(&[dead, lost]));
        room.rest(&heard(&[dead, lost]));
    }
    for (i, before) in before.iter().enumerate() {
        let now = room.nodes_of(PartitionId(i as u32));
        assert!(!now.contains(&lost), "{now:?}");
        assert_eq!(now.contains(&dead), before.contains(&dead), "{before:?} {now:?}");
    }
    assert!(room.metadata.moves().is_empty());
    let changes = room.metadata.epoch() - epoch;
    assert!(changes < 200, "{changes} changes for four partitions");
}

/// What comes votes, its predecessor is to leave, and then it dies before that has left.
#[test]
fn what_makes_room_for_a_replica_that_dies_stays() {
    let mut room = Room::new(4);
    room.elect(&[1]);
    room.rest(&[1, 2, 3, 4]);
    let (to, from) = {
        let nodes = room.nodes_of(P);
        let to = (1..=4).find(|n| !nodes.contains(n)).unwrap();
        let record = room.record(P);
        let leader = record.leader.unwrap().replica;
        (to, record.replicas.iter().find(|r| r.id != leader).unwrap().id)
    };
    room.metadata.apply(&Command::SetBalancing(false));
    let add = ReplicaChange::Add { node: NodeId(to), wish: Wish::Voter, replaces: Some(from) };
    room.metadata.apply(&Command::Replicas { changes: vec![(P, add)] });
    room.catch_up();
    room.pass(10, &[1, 2, 3, 4]);
    let wish = |room: &Room| room.record(P).replica(from).map(|r| r.wish);
    assert_eq!(wish(&room), Some(Wish::Leaving));
    // Its leader goes on without both.
    let record = room.record(P).clone();
    let comes = record.replicas.iter().find(|r| r.node.0 == to).unwrap().id;
    let stay = |id: &&ReplicaId| **id != from && **id != comes;
    let voters: Vec<ReplicaId> = record.voters.iter().filter(stay).copied().collect();
    let (base, leader) = (record.version, record.leader.unwrap().replica);
    let change = Command::Voters { partition: P, term: record.term, from: leader, base, voters };
    room.metadata.apply(&change);
    assert!(!room.record(P).is_voter(comes), "{:?}", room.record(P));
    let others: Vec<u64> = (1..=4).filter(|n| *n != to).collect();
    room.pass(10, &others);
    assert_eq!(wish(&room), Some(Wish::Voter), "it is whole, and stays");
    room.pass(11_000, &others);
    assert!(room.metadata.moves().is_empty(), "the move is given up");
    room.rest(&others);
    assert!(room.record(P).is_voter(from) && !room.nodes_of(P).contains(&to));
}
