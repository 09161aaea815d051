//! Who leads: elections, their voters, and whom a leader may leave out.

use super::*;

#[test]
fn a_new_cluster_gets_leaders() {
    let mut room = Room::new(1);
    room.elect(&[1]);
    for i in 0..4 {
        let record = room.record(PartitionId(i));
        assert_eq!(record.term, Term(1));
        assert_eq!(record.leader.map(|l| l.replica.storage), Some(StorageUuid(1)));
    }
    let epoch = room.metadata.epoch();
    room.pass(10_000, &[1]);
    assert_eq!(room.metadata.epoch(), epoch, "nothing is decided at rest");
}

#[test]
fn three_nodes_get_three_replicas_of_everything_and_share_the_leaderships() {
    let room = Room::at_rest();
    for i in 0..4 {
        assert_eq!(room.nodes_of(PartitionId(i)), [1, 2, 3]);
        assert_eq!(room.record(PartitionId(i)).voters.len(), 3);
    }
    assert!(room.metadata.moves().is_empty());
    let to: BTreeSet<_> = room.handovers.iter().map(|(_, _, to)| to.storage.0).collect();
    assert_eq!(to, BTreeSet::from([2, 3]), "node 1 led everything");
}

#[test]
fn a_silent_leader_is_replaced_and_comes_back_without_an_election() {
    let mut room = Room::at_rest();
    let term = room.record(P).term;
    room.pass(500, &[2, 3]);
    assert_eq!(room.record(P).term, term, "not yet");
    room.pass(200, &[2, 3]);
    assert!(room.record(P).term > term);
    assert_eq!(room.metadata.member(NodeId(1)).unwrap().status, Status::Suspect);
    room.answer(&[2, 3]);
    room.pass(20, &[2, 3]);
    let leader = room.record(P).leader.unwrap();
    assert_ne!(leader.replica.storage, StorageUuid(1));
    room.pass(11_000, &[2, 3]);
    assert_eq!(room.metadata.member(NodeId(1)).unwrap().status, Status::Dead);
    let term = room.record(P).term;
    room.pass(1000, &[1, 2, 3]);
    assert_eq!(room.metadata.member(NodeId(1)).unwrap().status, Status::Alive);
    assert_eq!((room.record(P).term, room.record(P).leader), (term, Some(leader)));
}

/// The group's leader led partitions too. Whoever succeeds it after a silence knows of that silence.
#[test]
fn a_silence_from_before_the_controller_counts() {
    let mut room = Room::at_rest();
    let term = room.record(P).term;
    let silent_since = room.now;
    room.now = room.now + Duration::from_millis(900);
    for (known, expected) in [(None, 0), (Some(silent_since), 1)] {
        room.controller = Controller::new(room.now, Settings::default(), &room.metadata);
        if let Some(at) = known {
            room.controller.heard_before(NodeId(1), at);
        }
        room.pass(20, &[2, 3]);
        assert_eq!(room.record(P).term.0 - term.0, expected, "{known:?}");
    }
}

#[test]
fn a_pause_of_the_controller_is_nobodys_silence() {
    let mut room = Room::at_rest();
    room.pass(11_000, &[1, 2]);
    room.answer(&[1, 2]);
    room.pass(1000, &[1, 2]);
    let terms = |room: &Room| (0..4).map(|i| room.record(PartitionId(i)).term).collect::<Vec<_>>();
    let before = terms(&room);
    let status = |room: &Room, n| room.metadata.member(NodeId(n)).unwrap().status;
    room.now = room.now + Duration::from_secs(5);
    room.pass(10, &[]);
    assert_eq!(terms(&room), before);
    assert_eq!([1, 2, 3].map(|n| status(&room, n)), [Status::Alive, Status::Alive, Status::Dead]);
    // From here on their silence is their own.
    room.pass(650, &[1]);
    assert_eq!(status(&room, 2), Status::Suspect);
}

#[test]
fn a_process_that_ended_is_not_waited_for() {
    let mut room = Room::at_rest();
    let term = room.record(P).term;
    room.controller.gone(NodeId(1));
    room.pass(10, &[2, 3]);
    assert!(room.record(P).term > term);
}

#[test]
fn a_leader_that_restarted_gets_an_election() {
    let mut room = Room::new(1);
    room.elect(&[1]);
    let again = Command::Join { node: facts(1, 2), token: None, at: WallTime(5) };
    room.metadata.apply(&again);
    room.elect(&[1]);
    assert_eq!(room.record(P).term, Term(2));
    assert_eq!(room.record(P).leader.unwrap().incarnation, Incarnation(2));
}

#[test]
fn an_election_without_quorum_is_begun_again_in_another_term() {
    let mut room = Room::at_rest();
    room.pass(700, &[2]);
    let term = room.record(P).term;
    room.answer(&[2]);
    room.pass(500, &[2]);
    assert_eq!(room.record(P).leader, None, "one of three is no fence quorum");
    room.pass(1000, &[2]);
    assert!(room.record(P).term > term);
}

#[test]
fn what_a_leader_asked_for_does_not_depose_the_next() {
    let mut room = Room::at_rest();
    let record = room.record(P).clone();
    let from = record.leader.unwrap();
    let asks = Request::Election { partition: P, term: record.term, from };
    room.controller.request(room.now, &room.metadata, &asks);
    // Before that is looked at, the leader hands over.
    let other = record.voters.iter().find(|voter| **voter != from.replica).unwrap();
    let to = LeaderId { replica: *other, incarnation: Incarnation(1) };
    let partitions = Command::Transfer { partition: P, term: record.term, from: from.replica, to };
    room.metadata.apply(&partitions);
    let term = room.record(P).term;
    assert!(term > record.term && room.record(P).leader == Some(to));
    room.pass(100, &[1, 2, 3]);
    assert_eq!((room.record(P).term, room.record(P).leader), (term, Some(to)));
}

#[test]
fn a_leader_that_is_cut_off_does_not_go_on_alone() {
    let mut room = Room::at_rest();
    let record = room.record(P).clone();
    let from = record.leader.unwrap().replica;
    let alone = Request::Voters {
        partition: P,
        term: record.term,
        from,
        base: record.version,
        voters: vec![from],
    };
    room.controller.request(room.now, &room.metadata, &alone);
    room.pass(10, &[1, 2, 3]);
    assert_eq!(room.record(P).voters.len(), 3);
    assert!(room.record(P).term > record.term, "one of the others is to lead");
    // When the others are silent it is right.
    let mut room = Room::at_rest();
    let record = room.record(P).clone();
    let from = record.leader.unwrap().replica;
    let node = record.replica(from).unwrap().node;
    room.pass(2000, &[node.0]);
    let (term, base, voters) = (record.term, record.version, vec![from]);
    let alone = Request::Voters { partition: P, term, from, base, voters };
    room.controller.request(room.now, &room.metadata, &alone);
    room.pass(10, &[node.0]);
    assert_eq!(room.record(P).voters, [from]);
}

/// Nodes that live are no reason to depose a leader when their logs are lost: it has everything, and
/// they can only get it from there.
#[test]
fn a_leader_goes_on_without_voters_that_have_lost_their_logs() {
    let mut room = Room::at_rest();
    let record = room.record(P).clone();
    let from = record.leader.unwrap().replica;
    let (term, base, voters) = (record.term, record.version, vec![from]);
    let alone = Request::Voters { partition: P, term, from, base, voters };
    let others: Vec<_> = record.voters.iter().copied().filter(|v| *v != from).collect();
    for replica in &others {
        let lost = Request::Renew { partition: P, replica: *replica, renewal: 7 };
        room.controller.request(room.now, &room.metadata, &lost);
    }
    room.pass(10, &[1, 2, 3]);
    assert_eq!(room.record(P), &record, "a voter gets no new life");
    room.controller.request(room.now, &room.metadata, &alone);
    room.pass(10, &[1, 2, 3]);
    assert_eq!((room.record(P).term, &room.record(P).voters[..]), (term, &[from][..]));
    for replica in &others {
        let lost = Request::Renew { partition: P, replica: *replica, renewal: 7 };
        room.controller.request(room.now, &room.metadata, &lost);
        room.pass(10, &[1, 2, 3]);
        assert!(room.record(P).replica(*replica).is_none(), "it has another life by now");
    }
}

/// Voters say again and again that their logs are lost, and a new controller has not heard it yet.
#[test]
fn a_new_controller_deposes_nobody_for_voters_it_has_not_listened_to() {
    let mut room = Room::at_rest();
    let record = room.record(P).clone();
    let from = record.leader.unwrap().replica;
    let (term, base, voters) = (record.term, record.version, vec![from]);
    let alone = Request::Voters { partition: P, term, from, base, voters };
    room.controller = Controller::new(room.now, Settings::default(), &room.metadata);
    room.controller.request(room.now, &room.metadata, &alone);
    room.pass(10, &[1, 2, 3]);
    assert_eq!(room.record(P), &record, "neither an election nor fewer voters");
    for replica in record.voters.iter().filter(|voter| **voter != from) {
        let lost = Request::Renew { partition: P, replica: *replica, renewal: 7 };
        room.controller.request(room.now, &room.metadata, &lost);
    }
    room.controller.request(room.now, &room.metadata, &alone);
    room.pass(10, &[1, 2, 3]);
    assert_eq!((room.record(P).term, &room.record(P).voters[..]), (term, &[from][..]));
    // One that has listened for a while knows.
    let mut room = Room::at_rest();
    room.controller = Controller::new(room.now, Settings::default(), &room.metadata);
    room.pass(2_100, &[1, 2, 3]);
    room.controller.request(room.now, &room.metadata, &alone);
    room.pass(10, &[1, 2, 3]);
    assert!(room.record(P).leader.is_none() && room.record(P).term > term);
}

/// The whole copy would give up its place for one that has nothing.
#[test]
fn no_leadership_goes_to_a_voter_that_has_lost_its_log() {
    let mut room = Room::at_rest();
    let asked = |room: &mut Room, lost: bool| {
        room.handovers.clear();
        let end = room.now + Settings::default().balance_every * 2;
        while room.now < end {
            for partition in (0..4).filter(|_| lost).map(PartitionId) {
                let on_2 = room.record(partition).replicas.iter().find(|r| r.node == NodeId(2));
                let replica = on_2.unwrap().id;
                let request = Request::Renew { partition, replica, renewal: 7 };
                room.controller.request(room.now, &room.metadata, &request);
            }
            room.pass(500, &[1, 2, 3]);
        }
        let storage = |n| room.metadata.member(NodeId(n)).unwrap().facts.storage;
        [2, 3].map(|n| room.handovers.iter().any(|(.., to)| to.storage == storage(n)))
    };
    assert_eq!(asked(&mut room, false), [true, true]);
    assert_eq!(asked(&mut room, true), [false, true]);
}

/// Whether a copy may lead whatever it lacks is judged by what it says it has.
#[test]
fn how_far_a_voter_is_is_known_from_its_answer_only() {
    let mut room = Room::at_rest();
    // Of three only the third is left, which is no quorum.
    room.pass(700, &[3]);
    let voter = |room: &Room, node| {
        let record = room.record(P);
        record.replicas.iter().find(|r| r.node == NodeId(node)).map(|r| r.id)
    };
    assert!(room.record(P).leader.is_none() && room.record(P).voters.len() == 3);
    let third = voter(&room, 3).unwrap();
    assert_eq!(room.controller.answered(P, third), None, "it was asked, no more");
    room.answer(&[3]);
    assert_eq!(room.controller.answered(P, third), Some((Term(0), Offset(1))));
    assert_eq!(room.controller.answered(P, voter(&room, 1).unwrap()), None);
    assert!(room.record(P).leader.is_none());
}

#[test]
fn a_leader_goes_on_without_voters_whose_nodes_have_just_started() {
    let mut room = Room::at_rest();
    let record = room.record(P).clone();
    let from = record.leader.unwrap().replica;
    let leads = record.replica(from).unwrap().node;
    for node in [1, 2, 3].map(NodeId).into_iter().filter(|node| *node != leads) {
        room.controller.heard(room.now, node, Incarnation(2));
    }
    let (term, base, voters) = (record.term, record.version, vec![from]);
    let alone = Request::Voters { partition: P, term, from, base, voters };
    room.controller.request(room.now, &room.metadata, &alone);
    room.pass(10, &[leads.0]);
    assert_eq!((room.record(P).term, &room.record(P).voters[..]), (term, &[from][..]));
}

#[test]
fn of_two_voters_the_one_that_is_left_goes_on_alone() {
    let mut room = Room::new(2);
    room.elect(&[1]);
    room.rest(&[1, 2]);
    assert_eq!(room.record(P).voters.len(), 2);
    let led_by = room.record(P).leader.unwrap().replica.storage.0 as u64;
    let other = 3 - led_by;
    room.pass(700, &[other]);
    room.answer(&[other]);
    room.pass(20, &[other]);
    for i in 0..4 {
        let record = room.record(PartitionId(i));
        let leader = record.leader.unwrap().replica;
        assert_eq!(leader.storage, StorageUuid(u128::from(other)));
    }
    assert_eq!(room.record(P).voters, [room.record(P).leader.unwrap().replica]);
    room.rest(&[1, 2]);
    assert_eq!(room.record(P).voters.len(), 2, "the other votes again when it has caught up");
}

#[test]
fn of_two_voters_that_are_both_heard_neither_is_left_out() {
    let mut room = Room::new(2);
    room.elect(&[1]);
    room.rest(&[1, 2]);
    // One that has not named the leader does not know how long it has led.
    room.controller = Controller::new(room.now, Settings::default(), &room.metadata);
    let record = room.record(P);
    let (term, leader) = (record.term, record.leader.unwrap());
    let request = Request::Election { partition: P, term, from: leader };
    room.controller.request(room.now, &room.metadata, &request);
    room.pass(20, &[1, 2]);
    room.answer(&[1, 2]);
    room.pass(20, &[1, 2]);
    let record = room.record(P);
    assert!(record.term > term && record.leader.is_some());
    assert_eq!(record.voters.len(), 2);
}

/// The other is heard, and its replica is not there: its shard has lost its log, perhaps.
#[test]
fn a_leader_of_two_voters_that_cannot_begin_its_term_is_elected_alone() {
    let mut room = Room::new(2);
    room.elect(&[1]);
    room.rest(&[1, 2]);
    let other = room.record(P).leader.unwrap().replica.storage.0 as u64 % 2 + 1;
    for _ in 0..2 {
        let (term, leader) = (room.record(P).term, room.record(P).leader.unwrap());
        let request = Request::Election { partition: P, term, from: leader };
        room.controller.request(room.now, &room.metadata, &request);
        room.pass(20, &[1, 2]);
        room.answer(&[other]);
        room.pass(1600, &[1, 2]);
    }
    let record = room.record(P);
    assert_eq!(record.leader.unwrap().replica.storage, StorageUuid(u128::from(other)));
    assert_eq!(record.voters, [record.leader.unwrap().replica]);
}

/// It has answered, and its disk was lost while leases were waited out: the other has everything too.
#[test]
fn a_winner_that_is_gone_is_not_made_the_only_voter() {
    let mut room = Room::new(2);
    room.elect(&[1]);
    room.rest(&[1, 2]);
    let led_by = room.record(P).leader.unwrap().replica.storage.0 as u64;
    let other = 3 - led_by;
    room.pass(700, &[other]);
    room.answer(&[other]);
    let lost = Command::SetMember { node: NodeId(other), state: MemberState::Lost };
    room.metadata.apply(&lost);
    room.pass(20, &[]);
    assert_eq!(room.record(P).voters.len(), 2, "{:?}", room.record(P));
    room.pass(700, &[led_by]);
    room.answer(&[led_by]);
    room.pass(20, &[led_by]);
    let leader = room.record(P).leader.unwrap().replica;
    assert_eq!(leader.storage, StorageUuid(u128::from(led_by)));
}

/// The group is slow: what is decided of a leader comes later than elections are given up.
#[test]
fn a_leader_that_is_being_named_is_not_deposed_by_the_next_election() {
    let mut room = Room::new(3);
    room.elect(&[1]);
    room.rest(&[1, 2, 3]);
    let leader = room.record(P).leader.unwrap();
    let asks = Request::Election { partition: P, term: room.record(P).term, from: leader };
    room.controller.request(room.now, &room.metadata, &asks);
    room.pass(20, &[1, 2, 3]);
    room.answer(&[1, 2, 3]);
    room.controller.step(room.now, WallTime(0), &room.metadata);
    let proposed: Vec<Effect> = room.controller.effects().collect();
    let named = proposed.iter().find_map(|effect| match effect {
        Effect::Propose(ticket, command) if matches!(**command, Command::Lead { .. }) => {
            Some((*ticket, command.clone()))
        }
        _ => None,
    });
    let (ticket, lead) = named.expect("all have answered");
    let term = room.record(P).term;
    room.pass(3 * Settings::default().election_patience.as_millis() as u64, &[1, 2, 3]);
    assert_eq!(room.record(P).term, term, "another election would depose who is named");
    let outcome = room.metadata.apply(&lead);
    room.controller.decided(room.now, &room.metadata, ticket, Some(&outcome));
    room.pass(50, &[1, 2, 3]);
    assert_eq!((room.record(P).term, room.record(P).leader.is_some()), (term, true));
}
