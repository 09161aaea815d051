//! The controller's steps, one by one.

use std::collections::BTreeSet;

use ironring_core::{Offset, StorageUuid, Term};

use super::*;
use crate::metadata::{
    Addresses, COMMAND_FORMAT, Condition, Facts, JoinToken, LeaderId, Lineage, MemberState,
    Refused, Status, Wish,
};
use crate::placement::Weight;

fn facts(n: u64, incarnation: u64) -> Facts {
    Facts {
        name: format!("n{n}"),
        storage: StorageUuid(u128::from(n)),
        incarnation: Incarnation(incarnation),
        addresses: Addresses::default(),
        rack: String::new(),
        region: String::new(),
        weight: Weight::ONE.hundredths(),
        shards: 1,
        format: COMMAND_FORMAT,
        lineage: Lineage::default(),
        observer: false,
        condition: Condition::default(),
    }
}

/// A controller with its metadata; what it proposes is committed at once.
struct Room {
    now: Instant,
    metadata: Metadata,
    controller: Controller,
    fences: Vec<(NodeId, Fence)>,
    handovers: Vec<(NodeId, PartitionId, ReplicaId)>,
    /// Every change of replicas is refused.
    refuses: bool,
    /// Commands about replicas that were refused whole.
    refused: usize,
}

const P: PartitionId = PartitionId(0);

impl Room {
    /// A cluster of so many nodes, with four partitions.
    fn new(nodes: u64) -> Room {
        let mut metadata = Metadata::default();
        metadata.apply(&Command::Found {
            name: "c".to_owned(),
            uuid: StorageUuid(77),
            partitions: 4,
            rf: 3,
            node: facts(1, 1),
            at: WallTime(0),
        });
        metadata.apply(&Command::AddToken(JoinToken {
            id: "t".to_owned(),
            hash: String::new(),
            created: WallTime(0),
            expires: WallTime(1000),
            single_use: false,
            used_by: None,
        }));
        for n in 2..=nodes {
            let token = Some("t".to_owned());
            metadata.apply(&Command::Join { node: facts(n, 1), token, at: WallTime(1) });
        }
        let controller = Controller::new(Instant(0), Settings::default(), &metadata);
        let (fences, handovers) = (Vec::new(), Vec::new());
        let now = Instant(0);
        Room { now, metadata, controller, fences, handovers, refuses: false, refused: 0 }
    }

    /// Lets time pass while these nodes are heard, and commits whatever is proposed.
    fn pass(&mut self, ms: u64, heard: &[u64]) {
        let end = self.now + Duration::from_millis(ms);
        while self.now < end {
            self.now = self.now + Duration::from_millis(10);
            for n in heard {
                let Some(member) = self.metadata.member(NodeId(*n)) else { continue };
                self.controller.heard(self.now, member.id, member.facts.incarnation);
            }
            self.controller.step(self.now, WallTime(0), &self.metadata);
            self.settle();
        }
    }

    fn commit(&mut self, command: &Command) -> Outcome {
        let Command::Replicas { changes } = command else { return self.metadata.apply(command) };
        let outcome = match self.refuses {
            true => {
                let refused = changes.iter().map(|(id, _)| (*id, Refused::Exists)).collect();
                Outcome::Done { epoch: self.metadata.epoch(), refused }
            }
            false => self.metadata.apply(command),
        };
        let whole = |refused: usize| refused == changes.len();
        self.refused +=
            usize::from(matches!(&outcome, Outcome::Done { refused, .. } if whole(refused.len())));
        outcome
    }

    fn settle(&mut self) {
        loop {
            let effects: Vec<Effect> = self.controller.effects().collect();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Propose(ticket, command) => {
                        let outcome = self.commit(&command);
                        let (now, metadata) = (self.now, &self.metadata);
                        self.controller.decided(now, metadata, ticket, Some(&outcome));
                    }
                    Effect::Fence(node, fences) => {
                        self.fences.extend(fences.into_iter().map(|fence| (node, fence)));
                    }
                    Effect::HandOver { node, partition, to } => {
                        self.handovers.push((node, partition, to));
                    }
                }
            }
        }
    }

    /// Leaders hand over, as they are asked to.
    fn lead_elsewhere(&mut self) {
        for (node, partition, to) in std::mem::take(&mut self.handovers) {
            let record = self.record(partition);
            let Some(leader) = record.leader else { continue };
            if record.replica(leader.replica).is_some_and(|r| r.node == node) {
                let to = LeaderId { replica: to, incarnation: Incarnation(1) };
                let (term, from) = (record.term, leader.replica);
                let request = Request::Transfer { partition, term, from, to };
                self.controller.request(self.now, &self.metadata, &request);
                self.settle();
            }
        }
    }

    /// Those of the nodes that were fenced answer, with empty logs.
    fn answer(&mut self, nodes: &[u64]) {
        for (node, fence) in std::mem::take(&mut self.fences) {
            if nodes.contains(&node.0) {
                let incarnation = self.metadata.member(node).unwrap().facts.incarnation;
                let answer = FenceAnswer {
                    partition: fence.partition,
                    from: LeaderId { replica: fence.to, incarnation },
                    term: fence.term,
                    last_term: Term(0),
                    log_end: Offset(1),
                    lease_left: Duration::ZERO,
                };
                self.controller.answer(self.now, answer);
            }
        }
    }

    /// Elections of everything, answered by these nodes.
    fn elect(&mut self, nodes: &[u64]) {
        self.pass(20, nodes);
        self.answer(nodes);
        self.pass(20, nodes);
    }

    fn record(&self, id: PartitionId) -> &crate::metadata::PartitionRecord {
        self.metadata.partition(id).unwrap()
    }

    /// The leader makes voters of every replica that is meant to vote, as it does when they have
    /// caught up.
    fn catch_up(&mut self) {
        for i in 0..4 {
            let partition = PartitionId(i);
            let record = self.record(partition);
            let Some(leader) = record.leader else { continue };
            let fit = record.replicas.iter().filter(|r| r.wish == Wish::Voter);
            let mut voters: Vec<ReplicaId> = fit.map(|r| r.id).collect();
            voters.sort();
            if voters == record.voters || !voters.contains(&leader.replica) {
                continue;
            }
            let request = Request::Voters {
                partition,
                term: record.term,
                from: leader.replica,
                base: record.version,
                voters,
            };
            self.controller.request(self.now, &self.metadata, &request);
            self.settle();
        }
    }

    fn nodes_of(&self, id: PartitionId) -> Vec<u64> {
        let mut nodes: Vec<u64> = self.record(id).replicas.iter().map(|r| r.node.0).collect();
        nodes.sort_unstable();
        nodes
    }

    /// Until nothing moves any more.
    fn rest(&mut self, heard: &[u64]) {
        for _ in 0..20 {
            self.pass(2000, heard);
            self.answer(heard);
            self.catch_up();
        }
    }
}

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
    let mut room = Room::new(3);
    room.elect(&[1]);
    room.rest(&[1, 2, 3]);
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
    let mut room = Room::new(3);
    room.elect(&[1]);
    room.rest(&[1, 2, 3]);
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
    let mut room = Room::new(3);
    room.elect(&[1]);
    room.rest(&[1, 2, 3]);
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
    let mut room = Room::new(3);
    room.elect(&[1]);
    room.rest(&[1, 2, 3]);
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
    let mut room = Room::new(3);
    room.elect(&[1]);
    room.rest(&[1, 2, 3]);
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
    let mut room = Room::new(3);
    room.elect(&[1]);
    room.rest(&[1, 2, 3]);
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
    let mut room = Room::new(3);
    room.elect(&[1]);
    room.rest(&[1, 2, 3]);
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
    let mut room = Room::new(3);
    room.elect(&[1]);
    room.rest(&[1, 2, 3]);
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
    let mut room = Room::new(3);
    room.elect(&[1]);
    room.rest(&[1, 2, 3]);
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
    let mut room = Room::new(3);
    room.elect(&[1]);
    room.rest(&[1, 2, 3]);
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

/// The whole copy would give up its place for one that has nothing.
#[test]
fn no_leadership_goes_to_a_voter_that_has_lost_its_log() {
    let mut room = Room::new(3);
    room.elect(&[1]);
    room.rest(&[1, 2, 3]);
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

#[test]
fn a_leader_goes_on_without_voters_whose_nodes_have_just_started() {
    let mut room = Room::new(3);
    room.elect(&[1]);
    room.rest(&[1, 2, 3]);
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
    let mut room = Room::new(3);
    room.elect(&[1]);
    room.rest(&[1, 2, 3]);
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
    let mut room = Room::new(3);
    room.elect(&[1]);
    room.rest(&[1, 2, 3]);
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
