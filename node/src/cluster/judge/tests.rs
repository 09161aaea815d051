//! Orders in small clusters, each refusal once.

use ironring_core::{Incarnation, StorageUuid, Term, WallTime};
use ironring_ring::metadata::{Facts, Outcome};
use ironring_ring::placement::PaceMode;

use super::*;
use crate::cluster::overview::{GoingView, PartitionFilter, PlanView, RebalanceView, partitions};
use crate::cluster::tests::{cluster_of, group_status};
use crate::shard::MoveProgress;

const P: PartitionId = PartitionId(3);

/// A cluster with replicas of every partition on its first three nodes, led by node 1.
fn cluster(nodes: u64) -> Metadata {
    let mut metadata = cluster_of(nodes);
    metadata.apply(&Command::SetKeyspace { rf: 3, min_voters: 1 });
    let all: Vec<PartitionId> = (0..8).map(PartitionId).collect();
    let of = |m: &Metadata, id| m.partition(id).unwrap().replicas[0].id;
    let elect = all.iter().map(|id| (*id, Term(0))).collect();
    metadata.apply(&Command::Elect { partitions: elect });
    let first = of(&metadata, P);
    let incarnation = metadata.member(NodeId(1)).unwrap().facts.incarnation;
    let leader = LeaderId { replica: first, incarnation };
    let leads = all.iter().map(|id| (*id, Term(1), leader)).collect();
    metadata.apply(&Command::Lead { partitions: leads });
    for node in 2..=nodes.min(3) {
        for id in &all {
            add(&mut metadata, *id, node, None);
            settle(&mut metadata, *id);
        }
    }
    assert!(metadata.moves().is_empty());
    metadata
}

fn add(metadata: &mut Metadata, id: PartitionId, node: u64, replaces: Option<ReplicaId>) {
    let add = ReplicaChange::Add { node: NodeId(node), wish: Wish::Voter, replaces };
    metadata.apply(&Command::Replicas { changes: vec![(id, add)] });
}

/// Every replica of a partition votes, and its move is over.
fn settle(metadata: &mut Metadata, id: PartitionId) {
    let record = metadata.partition(id).unwrap();
    let voters: Vec<ReplicaId> = record.replicas.iter().map(|r| r.id).collect();
    let from = record.leader.unwrap().replica;
    let (term, base, last) = (record.term, record.version, *voters.last().unwrap());
    metadata.apply(&Command::Voters { partition: id, term, from, base, voters });
    let wish = ReplicaChange::Wish { replica: last, wish: Wish::Voter };
    metadata.apply(&Command::Replicas { changes: vec![(id, wish)] });
}

fn status(metadata: &mut Metadata, node: u64, status: Status) {
    let nodes = vec![(NodeId(node), status)];
    metadata.apply(&Command::Status { nodes, at: WallTime(50) });
}

fn state(metadata: &mut Metadata, node: u64, state: MemberState) {
    metadata.apply(&Command::SetMember { node: NodeId(node), state });
}

/// Carries an order out as far as the metadata go.
fn apply(metadata: &mut Metadata, verdict: &Verdict) {
    for step in &verdict.steps {
        if let Step::Propose(command) = step {
            let outcome = metadata.apply(command);
            assert!(matches!(&outcome, Outcome::Done { refused, .. } if refused.is_empty()));
        }
    }
}

fn drain(node: u64) -> Operation {
    Operation::Drain { node: NodeId(node), force: false }
}

fn leave(node: u64) -> Operation {
    Operation::Leave { node: NodeId(node), force: false }
}

#[test]
fn a_node_drains_where_others_take_replicas_and_says_what_stays() {
    let mut metadata = cluster(3);
    let group = group_status(&[1, 2, 3], &[]);
    let verdict = judge(&drain(2), &metadata, &group).unwrap();
    assert!(verdict.warnings[0].contains("8 of its 8 replicas stay"), "{verdict:?}");
    apply(&mut metadata, &verdict);
    assert_eq!(metadata.member(NodeId(2)).unwrap().state, MemberState::Draining);
    assert!(judge(&drain(2), &metadata, &group).unwrap().steps.is_empty(), "it drains already");
    let going = GoingView::of(&metadata, NodeId(2)).unwrap();
    assert_eq!((going.remaining.stay, going.drained), (8, true), "it leads nothing");

    let resume = Operation::Resume { node: NodeId(2) };
    let verdict = judge(&resume, &metadata, &group).unwrap();
    apply(&mut metadata, &verdict);
    assert_eq!(metadata.member(NodeId(2)).unwrap().state, MemberState::Active);
    state(&mut metadata, 2, MemberState::Lost);
    let lost = Refusal::State { node: NodeId(2), state: MemberState::Lost };
    assert_eq!(judge(&resume, &metadata, &group), Err(lost));

    let alone = cluster(1);
    let group = group_status(&[1], &[]);
    assert_eq!(judge(&drain(1), &alone, &group), Err(Refusal::LastNode(NodeId(1))));
    assert_eq!(judge(&drain(9), &alone, &group), Err(Refusal::NoNode(NodeId(9))));

    // A dead node takes over nothing.
    let mut two = cluster(2);
    let group = group_status(&[1, 2], &[]);
    assert!(judge(&drain(2), &two, &group).is_ok());
    let nodes = vec![(NodeId(1), Status::Dead)];
    two.apply(&Command::Status { nodes, at: WallTime(9) });
    assert_eq!(judge(&drain(2), &two, &group), Err(Refusal::LastNode(NodeId(2))));
}

#[test]
fn a_node_leaves_when_enough_others_are_left_or_by_force() {
    let mut metadata = cluster(4);
    let group = group_status(&[1, 2, 3], &[4]);
    let verdict = judge(&leave(2), &metadata, &group).unwrap();
    assert!(verdict.done.contains("gives away 8 replicas and 0 leaderships"), "{verdict:?}");
    apply(&mut metadata, &verdict);
    // The next one would leave two for three replicas, and so would one that drains.
    let few = Err(Refusal::FewerThanReplicas { left: 2, rf: 3 });
    assert_eq!(judge(&leave(3), &metadata, &group), few);
    assert_eq!(judge(&drain(3), &metadata, &group), few);
    let force = Operation::Leave { node: NodeId(3), force: true };
    let verdict = judge(&force, &metadata, &group).unwrap();
    assert!(verdict.warnings[0].contains("2 replicas instead of 3"), "{verdict:?}");
    // A dead node takes nothing.
    let mut metadata = cluster(4);
    status(&mut metadata, 4, Status::Dead);
    assert_eq!(judge(&leave(2), &metadata, &group), few);
    let alone = cluster(1);
    let last = judge(&leave(1), &alone, &group_status(&[1], &[]));
    assert_eq!(last, Err(Refusal::LastVoter(NodeId(1))));
}

#[test]
fn nobody_leaves_or_is_demoted_who_would_take_the_quorum_along() {
    let mut metadata = cluster(4);
    status(&mut metadata, 3, Status::Suspect);
    let group = group_status(&[1, 2, 3], &[4]);
    let broken = Err(Refusal::BreaksQuorum { voters: 2, heard: 1, needed: 2 });
    assert_eq!(judge(&leave(2), &metadata, &group), broken);
    let force = Operation::Leave { node: NodeId(2), force: true };
    assert_eq!(judge(&force, &metadata, &group), broken, "force is about replicas");
    let demote = |node| Operation::Vote { node: NodeId(node), vote: VoteWish::Learner };
    assert_eq!(judge(&demote(2), &metadata, &group), broken);
    assert!(judge(&demote(3), &metadata, &group).is_ok(), "the silent one may go");
    let alone = group_status(&[1], &[2, 3, 4]);
    assert!(judge(&demote(1), &metadata, &alone).is_ok(), "another gets the vote first");
    let mut observed = cluster_of(2);
    let facts = observed.member(NodeId(2)).unwrap().facts.clone();
    let node = Facts { incarnation: Incarnation(2), observer: true, ..facts };
    observed.apply(&Command::Join { node, token: None, at: WallTime(2) });
    assert!(observed.member(NodeId(2)).unwrap().facts.observer);
    let last = judge(&demote(1), &observed, &group_status(&[1], &[2]));
    assert_eq!(last, Err(Refusal::LastVoter(NodeId(1))), "an observer never votes");
    let last = judge(&demote(1), &cluster(1), &group_status(&[1], &[]));
    assert_eq!(last, Err(Refusal::LastVoter(NodeId(1))));
}

#[test]
fn votes_are_wished_within_bounds() {
    let mut metadata = cluster(9);
    let promote = |node| Operation::Vote { node: NodeId(node), vote: VoteWish::Voter };
    let seven = group_status(&[1, 2, 3, 4, 5, 6, 7], &[8, 9]);
    assert_eq!(judge(&promote(8), &metadata, &seven), Err(Refusal::TooManyVoters(7)));
    assert!(judge(&promote(7), &metadata, &seven).is_ok(), "it votes already, and is to stay");
    let six = group_status(&[1, 2, 3, 4, 5, 6], &[7, 8, 9]);
    let mut wished = cluster(9);
    let verdict = judge(&promote(7), &wished, &six).unwrap();
    apply(&mut wished, &verdict);
    let second = judge(&promote(8), &wished, &six);
    assert_eq!(second, Err(Refusal::TooManyVoters(7)), "7 is to vote and does not yet");
    let three = group_status(&[1, 2, 3], &[4]);
    let verdict = judge(&promote(4), &metadata, &three).unwrap();
    assert!(verdict.warnings[0].contains("4 voters survive the loss of 1, as 3 do"), "{verdict:?}");
    apply(&mut metadata, &verdict);
    assert_eq!(metadata.member(NodeId(4)).unwrap().vote, VoteWish::Voter);
    assert!(judge(&promote(4), &metadata, &three).unwrap().steps.is_empty());
    status(&mut metadata, 5, Status::Dead);
    assert_eq!(judge(&promote(5), &metadata, &three), Err(Refusal::NotHeard(NodeId(5))));
    state(&mut metadata, 6, MemberState::Leaving);
    let leaving = Refusal::State { node: NodeId(6), state: MemberState::Leaving };
    assert_eq!(judge(&promote(6), &metadata, &three), Err(leaving));
    let mut facts: Facts = metadata.member(NodeId(7)).unwrap().facts.clone();
    facts.format = 1;
    metadata.apply(&Command::Join { node: facts, token: None, at: WallTime(9) });
    let old = Refusal::OldProgram { node: NodeId(7), has: 1, needs: 2 };
    assert_eq!(judge(&promote(3), &metadata, &three), Err(old));
}

#[test]
fn only_the_dead_are_given_up_and_what_they_alone_have_by_force() {
    let mut metadata = cluster(3);
    let group = group_status(&[1, 2, 3], &[]);
    let give_up = |force| Operation::GiveUp { node: NodeId(3), force };
    for silent in [Status::Alive, Status::Suspect] {
        status(&mut metadata, 3, silent);
        let refused = Refusal::NotDead { node: NodeId(3), status: silent };
        assert_eq!(judge(&give_up(true), &metadata, &group), Err(refused));
    }
    status(&mut metadata, 3, Status::Dead);
    assert!(judge(&give_up(false), &metadata, &group).is_ok(), "two of three voters are heard");
    status(&mut metadata, 2, Status::Suspect);
    let loses = Refusal::LosesData { node: NodeId(3), partitions: 8 };
    assert_eq!(judge(&give_up(false), &metadata, &group), Err(loses));
    let verdict = judge(&give_up(true), &metadata, &group).unwrap();
    assert!(verdict.warnings[0].contains("8 partitions have no majority"), "{verdict:?}");
    apply(&mut metadata, &verdict);
    assert_eq!(metadata.member(NodeId(3)).unwrap().state, MemberState::Lost);
}

#[test]
fn the_group_is_led_by_another_voter_that_is_heard() {
    let mut metadata = cluster(4);
    let mut group = group_status(&[1, 2, 3], &[4]);
    group.matched.insert(3, Some(100));
    let to = |node: u64| Operation::LeadGroup { node: Some(NodeId(node)) };
    let any = Operation::LeadGroup { node: None };
    assert_eq!(judge(&any, &metadata, &group).unwrap().steps, [Step::LeadGroup(3)]);
    assert_eq!(judge(&to(2), &metadata, &group).unwrap().steps, [Step::LeadGroup(2)]);
    assert!(judge(&to(1), &metadata, &group).unwrap().steps.is_empty(), "it leads");
    assert_eq!(judge(&to(4), &metadata, &group), Err(Refusal::NoVote(NodeId(4))));
    state(&mut metadata, 3, MemberState::Draining);
    assert_eq!(judge(&any, &metadata, &group).unwrap().steps, [Step::LeadGroup(2)]);
    status(&mut metadata, 2, Status::Suspect);
    assert_eq!(judge(&to(2), &metadata, &group), Err(Refusal::NotHeard(NodeId(2))));
    status(&mut metadata, 3, Status::Dead);
    assert_eq!(judge(&any, &metadata, &group), Err(Refusal::NoOtherVoter));
}

#[test]
fn moves_are_paused_begun_by_hand_and_given_up_whole() {
    let mut metadata = cluster(4);
    let group = group_status(&[1, 2, 3], &[4]);
    let moves = |from, to| Operation::Move { partition: P, from: NodeId(from), to: NodeId(to) };
    let refused = |metadata: &Metadata, operation| judge(&operation, metadata, &group).unwrap_err();
    let (partition, node) = (P, NodeId(4));
    assert_eq!(refused(&metadata, moves(4, 1)), Refusal::NoReplica { partition, node });
    let node = NodeId(2);
    assert_eq!(refused(&metadata, moves(1, 2)), Refusal::HasReplica { partition, node });
    status(&mut metadata, 4, Status::Suspect);
    assert_eq!(refused(&metadata, moves(2, 4)), Refusal::TakesNone(NodeId(4)));
    status(&mut metadata, 4, Status::Alive);
    let cancel = |partition| Operation::Cancel { partition };
    assert_eq!(refused(&metadata, cancel(Some(P))), Refusal::NotMoving(P));
    let verdict = judge(&moves(2, 4), &metadata, &group).unwrap();
    assert_eq!(verdict.warnings.len(), 1, "balancing is on");
    apply(&mut metadata, &verdict);
    assert_eq!(refused(&metadata, moves(3, 4)), Refusal::HasReplica { partition, node: NodeId(4) });
    let see = |said: &[MoveProgress]| RebalanceView::of(&metadata, None, PaceMode::Gradual, said);
    let view = see(&[]);
    assert_eq!((view.moves[0].from, view.moves[0].to), (Some(NodeId(2)), Some(NodeId(4))));
    assert_eq!(view.moves[0].stage, "catching-up");
    assert_eq!((view.moves[0].left_bytes, view.eta_s, view.left_bytes), (None, None, 0));
    let said = |to: u64, eta_s| MoveProgress {
        partition: P.0,
        to: NodeId(to),
        sent_bytes: 10,
        left_bytes: 90,
        rate_bytes_per_s: 30,
        eta_s,
    };
    assert_eq!(see(&[said(3, Some(3))]).moves[0].left_bytes, None, "that is another's");
    let view = see(&[said(4, Some(3))]);
    assert_eq!((view.moves[0].sent_bytes, view.moves[0].left_bytes), (Some(10), Some(90)));
    assert_eq!((view.left_bytes, view.rate_bytes_per_s, view.eta_s), (90, 30, Some(3)));
    assert_eq!(see(&[said(4, None)]).eta_s, None);

    // The new replica votes already and the old one is to leave: it stays after all.
    let record = metadata.partition(P).unwrap();
    let old = on(record, NodeId(2)).unwrap().id;
    let voters: Vec<ReplicaId> = record.replicas.iter().map(|r| r.id).collect();
    let (term, base) = (record.term, record.version);
    let from = record.leader.unwrap().replica;
    metadata.apply(&Command::Voters { partition: P, term, from, base, voters });
    let wish = ReplicaChange::Wish { replica: old, wish: Wish::Leaving };
    metadata.apply(&Command::Replicas { changes: vec![(P, wish)] });
    let verdict = judge(&cancel(None), &metadata, &group).unwrap();
    assert_eq!((verdict.changed, verdict.steps.len()), (1, 2), "and balancing is paused");
    apply(&mut metadata, &verdict);
    assert!(metadata.moves().is_empty() && !metadata.balancing());
    let record = metadata.partition(P).unwrap();
    assert_eq!(on(record, NodeId(2)).unwrap().wish, Wish::Voter);
    assert_eq!(on(record, NodeId(4)).unwrap().wish, Wish::Leaving);

    let start = Operation::Balance { on: true, pace: None };
    let verdict = judge(&start, &metadata, &group).unwrap();
    apply(&mut metadata, &verdict);
    assert!(metadata.balancing());
    assert!(judge(&start, &metadata, &group).unwrap().steps.is_empty());

    // How fast is a wish of its own, and stays when it is not named.
    let fast = Operation::Balance { on: true, pace: Some(PaceWish::Aggressive) };
    let verdict = judge(&fast, &metadata, &group).unwrap();
    assert!(verdict.done.ends_with("at the pace `aggressive`"), "{verdict:?}");
    apply(&mut metadata, &verdict);
    assert_eq!(metadata.pace(), Some(PaceMode::Aggressive));
    assert!(judge(&fast, &metadata, &group).unwrap().steps.is_empty());
    assert!(judge(&start, &metadata, &group).unwrap().steps.is_empty());
    let view = RebalanceView::of(&metadata, None, PaceMode::Gradual, &[]);
    assert_eq!((view.pace, view.pace_ordered), (PaceMode::Aggressive, true));
    let configured = Operation::Balance { on: true, pace: Some(PaceWish::Configured) };
    let verdict = judge(&configured, &metadata, &group).unwrap();
    apply(&mut metadata, &verdict);
    assert_eq!(metadata.pace(), None);
}

#[test]
fn a_partition_is_handed_to_a_voter_and_given_to_one_replica_only_without_a_majority() {
    let mut metadata = cluster(4);
    let group = group_status(&[1, 2, 3], &[4]);
    let partition = P;
    let lead = |node| Operation::Lead { partition, node: NodeId(node) };
    let ordered = |node, force| Operation::LeadUnclean { partition, node: NodeId(node), force };
    let unclean = |node| ordered(node, false);
    let to = on(metadata.partition(P).unwrap(), NodeId(3)).unwrap().id;
    let steps = judge(&lead(3), &metadata, &group).unwrap().steps;
    assert_eq!(steps, [Step::HandOver { at: NodeId(1), partition, to }]);
    assert!(judge(&lead(1), &metadata, &group).unwrap().steps.is_empty(), "it leads");
    let none = Refusal::NoReplica { partition, node: NodeId(4) };
    assert_eq!(judge(&lead(4), &metadata, &group), Err(none.clone()));
    state(&mut metadata, 2, MemberState::Draining);
    let drains = Refusal::State { node: NodeId(2), state: MemberState::Draining };
    assert_eq!(judge(&lead(2), &metadata, &group), Err(drains));

    assert_eq!(judge(&unclean(2), &metadata, &group), Err(Refusal::Led(P)));
    metadata.apply(&Command::Elect { partitions: vec![(P, Term(1))] });
    assert_eq!(judge(&lead(3), &metadata, &group), Err(Refusal::Leaderless(P)));
    assert_eq!(judge(&unclean(2), &metadata, &group), Err(Refusal::QuorumHeard(P)));
    assert_eq!(judge(&unclean(4), &metadata, &group), Err(none));
    status(&mut metadata, 3, Status::Dead);
    let mut elsewhere = group.clone();
    elsewhere.id = 4;
    status(&mut metadata, 1, Status::Dead);
    assert_eq!(judge(&unclean(3), &metadata, &elsewhere), Err(Refusal::NotHeard(NodeId(3))));
    let verdict = judge(&unclean(2), &metadata, &elsewhere).unwrap();
    assert!(matches!(verdict.steps[..], [Step::LeadUnclean { .. }]), "{verdict:?}");
    assert!(matches!(verdict.steps[..], [Step::LeadUnclean { known: true, .. }]), "{verdict:?}");
    let verdict = judge(&ordered(2, true), &metadata, &elsewhere).unwrap();
    assert!(matches!(verdict.steps[..], [Step::LeadUnclean { known: false, .. }]), "{verdict:?}");
    // Who was heard a moment ago may lead on, and ack.
    for silent in [1, 3] {
        let mut suspect = metadata.clone();
        status(&mut suspect, silent, Status::Suspect);
        assert_eq!(judge(&unclean(2), &suspect, &elsewhere), Err(Refusal::QuorumHeard(P)));
        state(&mut suspect, silent, MemberState::Lost);
        assert!(judge(&unclean(2), &suspect, &elsewhere).is_ok(), "it was given up");
    }
    let mut older = metadata.clone();
    let mut facts = older.member(NodeId(1)).unwrap().facts.clone();
    facts.format = 3;
    older.apply(&Command::Join { node: facts, token: None, at: WallTime(9) });
    let old = Refusal::OldProgram { node: NodeId(1), has: 3, needs: 4 };
    assert_eq!(judge(&unclean(2), &older, &elsewhere), Err(old));
    state(&mut older, 1, MemberState::Lost);
    assert!(judge(&unclean(2), &older, &elsewhere).is_ok(), "who is given up reads nothing more");
    let nowhere = Operation::Lead { partition: PartitionId(99), node: NodeId(1) };
    assert_eq!(judge(&nowhere, &metadata, &group), Err(Refusal::NoPartition(PartitionId(99))));

    let only = |filter| partitions(&metadata, filter).len();
    let all = PartitionFilter::default();
    assert_eq!(only(all), 8);
    assert_eq!(only(PartitionFilter { leaderless: true, ..all }), 1);
    assert_eq!(only(PartitionFilter { node: Some(NodeId(4)), ..all }), 0);
    assert_eq!(only(PartitionFilter { under_replicated: true, ..all }), 0);
}

#[test]
fn no_copy_is_put_in_the_place_of_voters_that_elect_without_loss_and_none_that_nobody_knows() {
    let mut metadata = cluster(4);
    let mut group = group_status(&[1, 2, 3], &[4]);
    group.id = 4;
    let unclean = |node, force| Operation::LeadUnclean { partition: P, node: NodeId(node), force };
    let record = metadata.partition(P).unwrap();
    let voters = [1, 2].map(|node| on(record, NodeId(node)).unwrap().id).to_vec();
    let (term, base, from) = (record.term, record.version, record.leader.unwrap().replica);
    metadata.apply(&Command::Voters { partition: P, term, from, base, voters });
    metadata.apply(&Command::Elect { partitions: vec![(P, Term(1))] });
    assert_eq!(metadata.partition(P).unwrap().voters.len(), 2);
    status(&mut metadata, 1, Status::Dead);
    for force in [false, true] {
        let refused = judge(&unclean(3, force), &metadata, &group);
        assert_eq!(refused, Err(Refusal::QuorumHeard(P)), "node 2 will lead alone");
        assert!(judge(&unclean(2, force), &metadata, &group).is_ok());
    }
    // The only voter there is may be damaged, and answer no election.
    let record = metadata.partition(P).unwrap();
    let (term, last) = (record.term, on(record, NodeId(2)).unwrap().id);
    let leader = LeaderId { replica: last, incarnation: Incarnation(1) };
    let mut alone = metadata.clone();
    alone.apply(&Command::LeadUnclean { partition: P, term, leader });
    alone.apply(&Command::Elect { partitions: vec![(P, term)] });
    assert_eq!(alone.partition(P).unwrap().voters, [last]);
    assert_eq!(judge(&unclean(2, false), &alone, &group), Err(Refusal::QuorumHeard(P)));
    assert!(judge(&unclean(2, true), &alone, &group).is_ok());
    assert_eq!(judge(&unclean(3, true), &alone, &group), Err(Refusal::QuorumHeard(P)));
    status(&mut metadata, 2, Status::Dead);
    let unknown = Refusal::UnknownCopy { partition: P, node: NodeId(3) };
    assert_eq!(judge(&unclean(3, false), &metadata, &group), Err(unknown));
    assert!(judge(&unclean(3, true), &metadata, &group).is_ok());
}

#[test]
fn a_plan_says_what_is_uneven_and_what_it_would_copy() {
    let metadata = cluster(4);
    let plan = PlanView::of(&metadata, WallTime(100), 1000).unwrap();
    assert!(plan.before.replicas > 1.3 && plan.after.replicas < 1.2, "{plan:?}");
    assert_eq!((plan.copies_to_even, plan.short), (6, 0), "a quarter of 24 on the new node");
    assert_eq!(plan.copies, plan.moves.len());
    assert!(plan.moves.iter().all(|m| m.to == Some(NodeId(4)) && m.reason == "balance"));
    let mut dead = metadata;
    status(&mut dead, 2, Status::Dead);
    let reasons = |at| {
        let plan = PlanView::of(&dead, WallTime(at), 1000).unwrap();
        plan.moves.iter().any(|m| m.reason == "lost")
    };
    assert!(!reasons(1049) && reasons(1050), "after the grace");
}

#[test]
fn replicas_and_voters_are_configured_within_what_makes_sense_and_with_what_it_costs() {
    let mut metadata = cluster(3);
    let group = group_status(&[1, 2, 3], &[]);
    let configure = |rf: u8, min: u8, force: bool| {
        let some = |n: u8| (n != 99).then_some(n);
        Operation::Configure { rf: some(rf), min_voters: some(min), force }
    };
    const SAME: u8 = 99;
    for (rf, min) in [(0, SAME), (8, SAME), (SAME, 0), (SAME, 4), (2, 3)] {
        let refused = judge(&configure(rf, min, true), &metadata, &group);
        assert!(matches!(refused, Err(Refusal::Keyspace { .. })), "{rf} {min}: {refused:?}");
    }
    assert!(judge(&configure(3, 1, false), &metadata, &group).unwrap().steps.is_empty());

    // Partitions have three voters: two may be asked for, and all three with a word about it.
    let verdict = judge(&configure(SAME, 2, false), &metadata, &group).unwrap();
    assert_eq!(verdict.warnings, Vec::<String>::new());
    apply(&mut metadata, &verdict);
    assert_eq!((metadata.rf(), metadata.min_voters()), (3, 2));
    let verdict = judge(&configure(SAME, 3, false), &metadata, &group).unwrap();
    assert!(verdict.warnings[0].contains("loses one replica takes no writes"), "{verdict:?}");
    // Fewer replicas than must vote have to be asked for together with fewer voters.
    let refused = judge(&configure(1, SAME, false), &metadata, &group);
    assert_eq!(refused, Err(Refusal::Keyspace { rf: 1, min_voters: 2 }));
    assert!(judge(&configure(1, 1, false), &metadata, &group).is_ok());

    // More than there are nodes for is taken, and said.
    let verdict = judge(&configure(5, SAME, false), &metadata, &group).unwrap();
    assert!(verdict.warnings[0].contains("3 nodes take replicas"), "{verdict:?}");
    let few = Err(Refusal::StopsWrites { partitions: 8, min_voters: 4 });
    assert_eq!(judge(&configure(5, 4, false), &metadata, &group), few);
    let verdict = judge(&configure(5, 4, true), &metadata, &group).unwrap();
    assert!(verdict.warnings[1].contains("8 partitions have fewer voters"), "{verdict:?}");
    status(&mut metadata, 2, Status::Dead);
    let verdict = judge(&configure(4, SAME, false), &metadata, &group).unwrap();
    assert!(verdict.warnings[0].contains("2 nodes take replicas"), "{verdict:?}");

    metadata.apply(&Command::SetBalancing(false));
    let verdict = judge(&configure(2, SAME, false), &metadata, &group).unwrap();
    assert!(verdict.warnings.iter().any(|w| w.contains("balancing is paused")), "{verdict:?}");
}

#[test]
fn a_program_that_cannot_read_what_the_group_has_is_not_let_in() {
    let mut metadata = cluster(3);
    let with = |metadata: &Metadata, node: u64, format| {
        let facts = metadata.member(NodeId(node)).unwrap().facts.clone();
        Facts { format, ..facts }
    };
    let join = |facts: &Facts| {
        let at = WallTime(9);
        let token = "t".to_owned();
        let joins = Command::Join { node: facts.clone(), token: Some(token.clone()), at };
        (joins, Command::Replace { node: facts.clone(), token, at })
    };
    let mut new = with(&metadata, 3, 3);
    new.storage = StorageUuid(77);
    let why =
        "this program knows metadata commands up to format 3, the cluster needs 4: upgrade it";
    let (joins, replaces) = join(&new);
    assert_eq!(unreadable(&metadata, &joins).as_deref(), Some(why), "all know 4: it may be used");
    assert_eq!(unreadable(&metadata, &replaces).as_deref(), Some(why));
    assert_eq!(unreadable(&metadata, &join(&Facts { format: 4, ..new.clone() }).0), None);
    // A member whose program is an older one again reads what there is, until there is more.
    let older = with(&metadata, 3, 1);
    assert_eq!(unreadable(&metadata, &join(&older).0), None);
    metadata.apply(&join(&older).0);
    assert_eq!(unreadable(&metadata, &joins), None, "nothing newer than 1 was proposed since");
    metadata.apply(&Command::SetVote { node: NodeId(2), vote: VoteWish::Voter });
    let why =
        "this program knows metadata commands up to format 1, the cluster needs 2: upgrade it";
    assert_eq!(unreadable(&metadata, &join(&older).0).as_deref(), Some(why));
    assert_eq!(unreadable(&metadata, &Command::SetBalancing(true)), None);
}
