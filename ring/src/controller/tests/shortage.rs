//! Nodes that are short of space.

use super::*;

impl Room {
    /// A node says whether it is short of space.
    fn says(&mut self, node: u64, short_of_space: bool) {
        let known = self.metadata.member(NodeId(node)).unwrap().facts.clone();
        let condition = Condition { short_of_space, ..known.condition };
        let node = Facts { condition, ..known };
        self.metadata.apply(&Command::Join { node, token: None, at: WallTime(3) });
    }

    fn led_by(&self, node: u64) -> usize {
        let leads = |i: &u32| {
            let leader = self.record(PartitionId(*i)).leader;
            leader.is_some_and(|l| l.replica.storage == StorageUuid(u128::from(node)))
        };
        (0..4).filter(leads).count()
    }

    /// At rest, with the leaders spread.
    fn spread(&mut self, heard: &[u64]) {
        for _ in 0..5 {
            self.rest(heard);
            self.lead_elsewhere();
        }
    }
}

#[test]
fn a_node_that_is_short_of_space_leads_nothing_until_it_has_room() {
    let mut room = Room::new(3);
    room.elect(&[1]);
    room.spread(&[1, 2, 3]);
    assert!((1..=3).all(|n| room.led_by(n) > 0), "leaders are spread");
    let before = room.now;
    room.says(2, true);
    while room.led_by(2) > 0 {
        room.pass(50, &[1, 2, 3]);
        room.lead_elsewhere();
        assert!(room.now.since(before) < Settings::default().balance_every, "it takes too long");
    }
    // Nor is it elected, where another has as much.
    for _ in 0..3 {
        let leader = room.record(P).leader.unwrap();
        let asks = Request::Election { partition: P, term: room.record(P).term, from: leader };
        room.controller.request(room.now, &room.metadata, &asks);
        room.elect(&[1, 2, 3]);
        assert!(room.record(P).leader.is_some() && room.led_by(2) == 0);
    }
    room.spread(&[1, 2, 3]);
    assert_eq!(room.led_by(2), 0);
    assert_eq!(room.nodes_of(P), [1, 2, 3], "it keeps what it has");
    room.says(2, false);
    room.spread(&[1, 2, 3]);
    assert!(room.led_by(2) > 0, "it leads again");
}

#[test]
fn where_every_node_is_short_of_space_nobody_hands_over() {
    let mut room = Room::new(3);
    room.elect(&[1]);
    room.spread(&[1, 2, 3]);
    (1..=3).for_each(|n| room.says(n, true));
    room.rest(&[1, 2, 3]);
    assert_eq!(room.handovers, [], "one is as good as another");
    // One has room: it leads everything.
    room.says(3, false);
    room.spread(&[1, 2, 3]);
    assert_eq!(room.led_by(3), 4);
}

/// Partitions that cannot be handed over at present keep no others waiting.
#[test]
fn of_more_partitions_than_are_handed_over_at_a_time_each_gets_its_turn() {
    let mut room = Room::new(3);
    room.elect(&[1]);
    room.spread(&[1, 2, 3]);
    let settings = Settings { handovers_max: 1, ..Settings::default() };
    room.controller = Controller::new(room.now, settings, &room.metadata);
    [1, 2].into_iter().for_each(|n| room.says(n, true));
    room.pass(1500, &[1, 2, 3]);
    let asked: BTreeSet<_> = room.handovers.iter().map(|(_, partition, _)| *partition).collect();
    assert_eq!(asked.len(), 4 - room.led_by(3), "{:?}", room.handovers);
}

#[test]
fn a_node_that_is_short_of_space_gets_no_replicas() {
    let mut room = Room::new(4);
    (1..=3).for_each(|n| room.says(n, false));
    room.says(4, true);
    room.elect(&[1]);
    room.spread(&[1, 2, 3, 4]);
    for i in 0..4 {
        assert_eq!(room.nodes_of(PartitionId(i)), [1, 2, 3]);
    }
    room.says(4, false);
    room.spread(&[1, 2, 3, 4]);
    let holds = (0..4).filter(|i| room.nodes_of(PartitionId(*i)).contains(&4)).count();
    assert!(holds > 0, "it takes its share");
}

/// What a lost node held goes where there is room, also where placement would choose a full node; and what
/// full nodes hold stays.
#[test]
fn what_is_lost_is_rebuilt_where_there_is_room() {
    let mut room = Room::new(5);
    room.elect(&[1]);
    room.spread(&[1, 2, 3, 4, 5]);
    let held = |room: &Room, node| {
        (0..4).filter(|i| room.nodes_of(PartitionId(*i)).contains(&node)).collect::<Vec<u32>>()
    };
    let had = held(&room, 4);
    room.says(4, true);
    room.metadata.apply(&Command::SetMember { node: NodeId(5), state: MemberState::Lost });
    for _ in 0..10 {
        room.answer(&[1, 2, 3, 4]);
        room.spread(&[1, 2, 3, 4]);
    }
    assert_eq!(held(&room, 5), Vec::<u32>::new());
    assert_eq!(held(&room, 4), had, "it keeps what it had, and gets nothing");
    assert!((0..4).all(|i| room.record(PartitionId(i)).voters.len() == 3), "{:?}", room.record(P));
}

#[test]
fn a_replica_on_its_way_to_a_full_node_goes_elsewhere_if_it_can() {
    for nodes in [4, 5] {
        let all: Vec<u64> = (1..=nodes).collect();
        let mut room = Room::new(nodes);
        room.metadata.apply(&Command::SetBalancing(false));
        room.elect(&[1]);
        room.spread(&all);
        let free = all.iter().copied().filter(|n| !room.nodes_of(P).contains(n));
        let free: Vec<u64> = free.collect();
        let replaces = room
            .record(P)
            .replicas
            .iter()
            .find(|r| Some(r.id) != room.record(P).leader.map(|l| l.replica));
        let replaces = replaces.map(|r| r.id);
        let node = NodeId(free[0]);
        let add = ReplicaChange::Add { node, wish: Wish::Voter, replaces };
        room.metadata.apply(&Command::Replicas { changes: vec![(P, add)] });
        room.says(free[0], true);
        room.pass(100, &all);
        let comes = room.nodes_of(P).contains(&free[0]);
        assert_eq!(comes, free.len() == 1, "of {nodes} nodes {free:?} hold no replica");
        // A move that waits takes no other's place.
        let waits = Controller::moves_under_way(&room.metadata);
        assert_eq!((waits, room.metadata.moves().len()), (0, usize::from(comes)));
    }
}

/// Their nodes live, and they cannot write what a leader asks of them.
#[test]
fn a_leader_goes_on_without_voters_that_are_short_of_space() {
    let mut room = Room::new(3);
    room.elect(&[1]);
    room.spread(&[1, 2, 3]);
    let record = room.record(P).clone();
    let from = record.leader.unwrap().replica;
    for node in (1..=3).filter(|n| u128::from(*n) != from.storage.0) {
        room.says(node, true);
    }
    let (term, base, voters) = (record.term, record.version, vec![from]);
    let alone = Request::Voters { partition: P, term, from, base, voters };
    room.controller.request(room.now, &room.metadata, &alone);
    room.pass(10, &[1, 2, 3]);
    assert_eq!((room.record(P).term, &room.record(P).voters[..]), (term, &[from][..]));
}
