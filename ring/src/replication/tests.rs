//! What simulations found, in few steps.

use super::*;
use crate::metadata::{Refused, Replica, ReplicaId, Wish};

const P: PartitionId = PartitionId(0);

fn record_of(life: u64, version: u64) -> PartitionRecord {
    let id = ReplicaId { storage: StorageUuid(1), life };
    PartitionRecord {
        replicas: vec![Replica { node: NodeId(1), id, wish: Wish::Voter, renewal: 0 }],
        voters: vec![id],
        version,
        ..PartitionRecord::default()
    }
}

#[test]
fn a_restarted_replica_does_not_go_back_to_an_earlier_life() {
    let run = Run { storage: StorageUuid(1), incarnation: Incarnation(2) };
    let mut replicas = Replicator::new(run, Settings::default(), Instant(0), P, PartitionId(1));
    replicas.recovered(P, Recovered { life: Some(34), end: Offset(9), ..Recovered::empty() });
    replicas.record(Instant(1), P, &record_of(29, 33));
    assert_eq!(replicas.effects().collect::<Vec<_>>(), []);
    replicas.record(Instant(2), P, &record_of(34, 36));
    assert_eq!(replicas.effects().collect::<Vec<_>>(), []);
    replicas.record(Instant(3), P, &record_of(40, 40));
    assert_eq!(replicas.effects().collect::<Vec<_>>(), [Effect::Adopt { partition: P, life: 40 }]);
}

/// A partition of two voters that the replica on storage 1 leads.
fn led_with_another(term: u64) -> PartitionRecord {
    let id = |storage| ReplicaId { storage: StorageUuid(storage), life: 1 };
    let replica = |storage, node| Replica {
        node: NodeId(node),
        id: id(storage),
        wish: Wish::Voter,
        renewal: 0,
    };
    PartitionRecord {
        replicas: vec![replica(1, 1), replica(2, 2)],
        voters: vec![id(1), id(2)],
        term: Term(term),
        leader: Some(LeaderId { replica: id(1), incarnation: Incarnation(2) }),
        version: 1,
        ..PartitionRecord::default()
    }
}

#[test]
fn a_leader_that_cannot_begin_its_term_asks_for_an_election_and_no_earlier() {
    let run = Run { storage: StorageUuid(1), incarnation: Incarnation(2) };
    let mut replicas = Replicator::new(run, Settings::default(), Instant(0), P, PartitionId(1));
    replicas.recovered(P, Recovered { life: Some(1), ..Recovered::empty() });
    let (begin, term) = (Instant(1), Term(3));
    replicas.record(begin, P, &led_with_another(term.0));
    replicas.promise_staged(P, term, GroupSeq(1));
    replicas.flushed(begin, GroupSeq(1));
    replicas.appended(P, Offset(2), GroupSeq(2));
    replicas.flushed(begin, GroupSeq(2));
    let mut asks_after = |ms| {
        replicas.tick(begin + Duration::from_millis(ms));
        let asks = replicas.effects().filter(|effect| matches!(effect, Effect::Ask(_)));
        asks.collect::<Vec<_>>()
    };
    assert_eq!(asks_after(1400), [], "the other may answer yet");
    let from = LeaderId { replica: led_with_another(3).voters[0], incarnation: run.incarnation };
    let expected = Effect::Ask(Request::Election { partition: P, term, from });
    assert_eq!(asks_after(1700), [expected]);
}

/// A disk that is full or hangs takes neither the promise nor the entry that begins the term, however
/// well the other voters are: one of them is to lead.
#[test]
fn a_leader_that_writes_nothing_asks_for_an_election() {
    let run = Run { storage: StorageUuid(1), incarnation: Incarnation(2) };
    let from = led_with_another(3).leader.unwrap();
    let expected = Effect::Ask(Request::Election { partition: P, term: Term(3), from });
    for promises in [false, true] {
        let mut replicas = Replicator::new(run, Settings::default(), Instant(0), P, PartitionId(1));
        replicas.recovered(P, Recovered { life: Some(1), ..Recovered::empty() });
        let begin = Instant(1);
        replicas.record(begin, P, &led_with_another(3));
        replicas.promise_staged(P, Term(3), GroupSeq(1));
        if promises {
            replicas.flushed(begin, GroupSeq(1));
            replicas.appended(P, Offset(2), GroupSeq(2));
        }
        let mut asked = Vec::new();
        for ms in (100..8_000).step_by(100) {
            let now = begin + Duration::from_millis(ms);
            replicas.tick(now);
            if promises && let Role::Leader(leader) = &mut replicas.replica_mut(P).role {
                // The other is heard all the time.
                leader.peers.iter_mut().for_each(|peer| peer.heard = now);
            }
            let asks = replicas.effects().any(|effect| effect == expected);
            asked.extend(asks.then_some(ms));
        }
        assert!(asked.first().is_some_and(|ms| *ms > 5_000), "{promises}: {asked:?}");
        // Who has nobody beside itself goes on waiting for its disk.
        let mut alone = Replicator::new(run, Settings::default(), Instant(0), P, PartitionId(1));
        alone.recovered(P, Recovered { life: Some(1), ..Recovered::empty() });
        let mut record = led_with_another(3);
        record.voters.truncate(1);
        alone.record(begin, P, &record);
        alone.tick(begin + Duration::from_secs(9));
        assert!(!alone.effects().any(|effect| matches!(effect, Effect::Ask(_))));
    }
}

/// The leader that a record names, with the entry that begins its term on its own disk.
fn begun(now: Instant, record: &PartitionRecord) -> Replicator {
    let me = record.leader.unwrap();
    let run = Run { storage: me.replica.storage, incarnation: me.incarnation };
    let mut replicas = Replicator::new(run, Settings::default(), Instant(0), P, PartitionId(1));
    replicas.recovered(P, Recovered { life: Some(me.replica.life), ..Recovered::empty() });
    replicas.record(now, P, record);
    replicas.promise_staged(P, record.term, GroupSeq(1));
    replicas.flushed(now, GroupSeq(1));
    replicas.appended(P, Offset(2), GroupSeq(2));
    replicas.flushed(now, GroupSeq(2));
    replicas
}

/// What a voter has acked may be gone with its disk: one that is silent is not handed the leadership.
#[test]
fn only_a_voter_that_was_heard_lately_is_handed_the_leadership() {
    let record = led_with_another(3);
    let (me, begin) = (record.leader.unwrap(), Instant(1));
    let mut replicas = begun(begin, &record);
    let other = *record.voters.iter().find(|voter| **voter != me.replica).unwrap();
    let node = record.replica(other).unwrap().node;
    let ack = |probe| Ack {
        partition: P,
        to: me.replica,
        from: LeaderId { replica: other, incarnation: Incarnation(1) },
        term: Term(3),
        state: AckState::Flushed { end: Offset(2) },
        probe,
    };
    while let Some(section) = replicas.next_section(begin, node, 100) {
        replicas.sent(node, &section, section.message.count);
    }
    replicas.ack(begin, &ack(begin));
    assert_eq!(replicas.view(P).leads, Some(Stage::Serving));
    let later = begin + Settings::default().lease;
    let refused = replicas.hand_over(later, P, Some(other));
    assert_eq!(refused, Err(NotServing::Changing));
    let nobody = replicas.hand_over(later, P, None);
    assert_eq!(nobody, Err(NotServing::FewVoters { have: 2, need: 2 }), "nor is it chosen");
    assert_eq!(replicas.view(P).leads, Some(Stage::Serving));
    replicas.ack(later, &ack(later));
    // Nor is one that lacks much, for which everybody would wait.
    replicas.appended(P, Offset(3000), GroupSeq(3));
    replicas.flushed(later, GroupSeq(3));
    assert_eq!(replicas.hand_over(later, P, Some(other)), Err(NotServing::Changing));
    let all = |probe| Ack { state: AckState::Flushed { end: Offset(3000) }, ..ack(probe) };
    replicas.ack(later, &all(later));
    assert_eq!(replicas.view(P).high_watermark, Offset(3000));
    assert_eq!(replicas.hand_over(later, P, Some(other)), Ok(()));
}

/// Between the order and the moment it can be carried out the successor's disk may be lost.
#[test]
fn a_successor_that_falls_silent_before_it_is_named_is_not() {
    let record = led_with_another(3);
    let (me, begin) = (record.leader.unwrap(), Instant(1));
    let mut replicas = begun(begin, &record);
    let other = record.voters[1];
    let ack = |end| Ack {
        partition: P,
        to: me.replica,
        from: LeaderId { replica: other, incarnation: Incarnation(1) },
        term: Term(3),
        state: AckState::Flushed { end: Offset(end) },
        probe: begin,
    };
    let send = |replicas: &mut Replicator| {
        while let Some(section) = replicas.next_section(begin, NodeId(2), 100) {
            replicas.sent(NodeId(2), &section, section.message.count);
        }
    };
    send(&mut replicas);
    replicas.ack(begin, &ack(2));
    replicas.appended(P, Offset(3), GroupSeq(3));
    send(&mut replicas);
    replicas.ack(begin, &ack(3));
    // Its own disk is the slower one.
    assert_eq!(replicas.hand_over(begin, P, Some(other)), Ok(()));
    replicas.effects().for_each(drop);
    replicas.flushed(begin + Settings::default().lease, GroupSeq(3));
    let transfers = replicas.effects().any(|effect| matches!(effect, Effect::Ask(_)));
    assert!(!transfers && replicas.view(P).leads.is_some(), "it goes on leading");
}

/// What a leader of two or three voters proposes while one of them, or two, acks nothing new, and what
/// that says is committed.
fn proposed_beside_stalled(voters: u128, stalled: &[u128]) -> Option<Vec<u128>> {
    let id = |n: u128| ReplicaId { storage: StorageUuid(n), life: 1 };
    let replica =
        |n: u128| Replica { node: NodeId(n as u64), id: id(n), wish: Wish::Voter, renewal: 0 };
    let me = LeaderId { replica: id(1), incarnation: Incarnation(2) };
    let record = PartitionRecord {
        replicas: (1..=voters).map(replica).collect(),
        voters: (1..=voters).map(id).collect(),
        term: Term(3),
        leader: Some(me),
        version: 1,
        ..PartitionRecord::default()
    };
    let run = Run { storage: StorageUuid(1), incarnation: Incarnation(2) };
    let settings = Settings::default();
    let mut replicas = Replicator::new(run, settings, Instant(0), P, PartitionId(1));
    replicas.recovered(P, Recovered { life: Some(1), ..Recovered::empty() });
    let mut now = Instant(1);
    replicas.record(now, P, &record);
    replicas.promise_staged(P, Term(3), GroupSeq(1));
    replicas.flushed(now, GroupSeq(1));
    replicas.appended(P, Offset(2), GroupSeq(2));
    replicas.flushed(now, GroupSeq(2));
    let mut end = Offset(2);
    let ack = |n: u128, probe: Instant, end: Offset| Ack {
        partition: P,
        to: id(1),
        from: LeaderId { replica: id(n), incarnation: Incarnation(1) },
        term: Term(3),
        state: AckState::Flushed { end },
        probe,
    };
    for step in 0..200u64 {
        // Everything that is owed is sent.
        for node in (2..=voters).map(|n| NodeId(n as u64)) {
            while let Some(section) = replicas.next_section(now, node, 100) {
                replicas.sent(node, &section, section.message.count);
            }
        }
        for n in 2..=voters {
            let end = if stalled.contains(&n) { Offset(2) } else { end };
            replicas.ack(now, &ack(n, now, end));
        }
        if step == 0 {
            // The term has begun; a write follows.
            end = Offset(3);
            replicas.appended(P, end, GroupSeq(3));
            replicas.flushed(now, GroupSeq(3));
        }
        now = now + Duration::from_millis(50);
        replicas.tick(now);
        for effect in replicas.effects() {
            if let Effect::Ask(Request::Voters { voters, .. }) = effect {
                let patience = settings.replica_timeout * 4;
                assert!(now.since(Instant(1)) > patience, "after {:?}", now.since(Instant(1)));
                return Some(voters.iter().map(|v| v.storage.0).collect());
            }
        }
    }
    None
}

/// Who is preferred is named among those that lack little, and nobody far behind for that sake.
#[test]
fn a_successor_is_one_that_is_preferred_if_it_lacks_little() {
    let id = |n: u128| ReplicaId { storage: StorageUuid(n), life: 1 };
    let replica =
        |n: u128| Replica { node: NodeId(n as u64), id: id(n), wish: Wish::Voter, renewal: 0 };
    let record = PartitionRecord {
        replicas: (1..=3).map(replica).collect(),
        voters: (1..=3).map(id).collect(),
        ..led_with_another(3)
    };
    let me = record.leader.unwrap();
    let run = Run { storage: me.replica.storage, incarnation: me.incarnation };
    let mut replicas = Replicator::new(run, Settings::default(), Instant(0), P, PartitionId(1));
    replicas.recovered(P, Recovered { life: Some(1), ..Recovered::empty() });
    let now = Instant(1);
    replicas.record(now, P, &record);
    replicas.promise_staged(P, Term(3), GroupSeq(1));
    replicas.flushed(now, GroupSeq(1));
    let grow_to = |replicas: &mut Replicator, end, acked: [u64; 2]| {
        replicas.appended(P, Offset(end), GroupSeq(end));
        replicas.flushed(now, GroupSeq(end));
        for (n, end) in [2u64, 3].into_iter().zip(acked) {
            while let Some(section) = replicas.next_section(now, NodeId(n), 9_999) {
                replicas.sent(NodeId(n), &section, section.message.count);
            }
            let from = LeaderId { replica: id(n.into()), incarnation: Incarnation(1) };
            let (to, state) = (me.replica, AckState::Flushed { end: Offset(end) });
            let ack = Ack { partition: P, to, from, term: Term(3), state, probe: now };
            replicas.ack(now, &ack);
        }
    };
    grow_to(&mut replicas, 2, [2, 2]);
    for preferred in [2, 3] {
        let named = replicas.successor(now, P, |node| node == NodeId(preferred));
        assert_eq!(named, Some(id(preferred.into())));
    }
    grow_to(&mut replicas, 3_000, [2, 3_000]);
    assert_eq!(replicas.successor(now, P, |node| node == NodeId(2)), Some(id(3)));
}

#[test]
fn voters_that_are_heard_and_write_nothing_are_left_out() {
    assert_eq!(proposed_beside_stalled(2, &[]), None);
    assert_eq!(proposed_beside_stalled(2, &[2]), Some(vec![1]), "nothing else would be committed");
    assert_eq!(proposed_beside_stalled(3, &[3]), Some(vec![1, 2]));
    assert_eq!(proposed_beside_stalled(3, &[2, 3]), None, "most of them do not write");
}

/// A follower of P among three voters, or the only one.
fn voter(voters: u128) -> Replicator {
    let run = Run { storage: StorageUuid(1), incarnation: Incarnation(2) };
    let mut replicas = Replicator::new(run, Settings::default(), Instant(0), P, PartitionId(1));
    replicas.recovered(P, Recovered { life: Some(5), end: Offset(9), ..Recovered::empty() });
    let id = |n| ReplicaId { storage: StorageUuid(n), life: 5 };
    let replica = |n| Replica { node: NodeId(n as u64), id: id(n), wish: Wish::Voter, renewal: 0 };
    let record = PartitionRecord {
        replicas: (1..=3).map(replica).collect(),
        voters: (1..=voters).map(id).collect(),
        term: Term(4),
        version: 7,
        ..PartitionRecord::default()
    };
    replicas.record(Instant(1), P, &record);
    replicas
}

/// One that has lost something it had applied.
fn hurt_voter(voters: u128, known: bool) -> Replicator {
    let mut replicas = voter(voters);
    replicas.hurt(P, known);
    replicas
}

/// Whether it answers a Fence of a term at that time, once its promise is durable.
fn answers(replicas: &mut Replicator, now: Instant, term: u64) -> bool {
    let to = ReplicaId { storage: StorageUuid(1), life: 5 };
    replicas.fence(now, &Fence { partition: P, to, term: Term(term) });
    let mut answered = false;
    loop {
        let effects: Vec<Effect> = replicas.effects().collect();
        if effects.is_empty() {
            return answered;
        }
        for effect in effects {
            match effect {
                Effect::Promise { partition, term } => {
                    let group = GroupSeq(replicas.replica(P).promised.0);
                    replicas.promise_staged(partition, term, group);
                    replicas.flushed(now, group);
                }
                Effect::Fenced(answer) => answered |= answer.term == Term(term),
                _ => {}
            }
        }
    }
}

#[test]
fn a_damaged_copy_votes_only_when_no_leader_is_found_without_it() {
    let at = |ms: u64| Instant(ms * 1_000_000);
    let mut replicas = hurt_voter(3, true);
    assert!(!answers(&mut replicas, at(10), 5));
    assert!(!answers(&mut replicas, at(2_900), 6));
    assert!(!replicas.replica(P).may_lead(Term(6)), "nor does it lead");
    assert!(answers(&mut replicas, at(3_010), 7));
    assert!(replicas.replica(P).may_lead(Term(7)), "what it has voted in it may lead");
    assert!(!replicas.replica(P).may_lead(Term(8)), "and nothing later");
    // Behind a leader it waits again.
    let mut record = replicas.known(P).clone();
    record.term = Term(8);
    let replica = ReplicaId { storage: StorageUuid(2), life: 5 };
    record.leader = Some(LeaderId { replica, incarnation: Incarnation(1) });
    replicas.record(at(3_020), P, &record);
    assert!(!answers(&mut replicas, at(6_100), 9));
    assert!(!answers(&mut replicas, at(9_000), 10));
    // One whose losses are not known never does: it could lead with what is wrong.
    let mut replicas = hurt_voter(3, false);
    assert!(!answers(&mut replicas, at(10), 5) && !answers(&mut replicas, at(60_000), 6));
    // Of the only voter nobody has more.
    let mut replicas = hurt_voter(1, false);
    assert!(answers(&mut replicas, at(10), 5));
    assert!(replicas.replica(P).may_lead(Term(6)));
}

/// What a replica knew to be committed stays so when another leader is elected.
#[test]
fn the_age_of_what_is_known_survives_a_change_of_leader() {
    let at = |ms: u64| Instant(ms * 1_000_000);
    let (mut replicas, probe) = following();
    assert_eq!(replicas.age(at(1), P), None, "no leader was heard");
    let probe = Replicate { probe: at(9), ..probe };
    replicas.judge(at(10), NodeId(2), &probe, &|_| Term(5));
    assert_eq!(replicas.age(at(10), P), None, "it may have been sent at any time before");
    let next = Replicate { probe: at(80), answered: at(9), ..probe };
    replicas.judge(at(90), NodeId(2), &next, &|_| Term(5));
    assert_eq!(replicas.age(at(95), P), Some(at_most(85)));
    replicas.fence(at(100), &Fence { partition: P, to: probe.to, term: Term(6) });
    assert_eq!(replicas.view(P).term, Term(6));
    assert_eq!(replicas.age(at(110), P), Some(at_most(100)));
}

/// As old as so many milliseconds of one clock may be by another.
fn at_most(ms: u64) -> Duration {
    let age = Settings::default().at_most(Duration::from_millis(ms));
    assert!(age >= Duration::from_millis(ms * 1_000 / 955), "a slow clock beside one that is not");
    age
}

/// A follower of storage 2, and a probe of it.
fn following() -> (Replicator, Replicate) {
    let mut replicas = voter(1);
    let me = replicas.me(P).replica;
    let other = ReplicaId { storage: StorageUuid(2), life: 5 };
    let leader = LeaderId { replica: other, incarnation: Incarnation(1) };
    let mut record = replicas.known(P).clone();
    record.voters = vec![me, other];
    (record.term, record.leader, record.version) = (Term(5), Some(leader), 8);
    replicas.record(Instant(1), P, &record);
    let probe = Replicate {
        partition: P,
        to: me,
        from: leader,
        term: Term(5),
        first: Offset(1),
        prev_term: Term(0),
        count: 0,
        high_watermark: Offset(1),
        probe: Instant(1),
        answered: Instant(0),
        age_ms: 0,
    };
    (replicas, probe)
}

/// Behind a leader that was deposed without hearing of it what is known gets old as it does there.
#[test]
fn a_follower_is_no_younger_than_its_leader() {
    let at = |ms: u64| Instant(ms * 1_000_000);
    let (mut replicas, probe) = following();
    for n in 1..=100u64 {
        // Its probes are answered by this replica, and since the first second by nobody else.
        let age_ms = (n * 80).saturating_sub(1_000) as u32;
        let answered = at(80 * (n - 1));
        let probe = Replicate { probe: at(80 * n), answered, age_ms, ..probe };
        replicas.judge(at(80 * n + 1), NodeId(2), &probe, &|_| Term(5));
    }
    let age = replicas.age(at(8_000), P).unwrap();
    assert!((at_most(7_000)..at_most(7_200)).contains(&age), "{age:?}");
    // One that cannot tell makes nothing newer.
    let silent = Replicate { probe: at(9_000), age_ms: AGE_UNKNOWN, answered: at(7_920), ..probe };
    replicas.judge(at(9_001), NodeId(2), &silent, &|_| Term(5));
    assert_eq!(replicas.age(at(9_001), P), Some(age + at_most(1_001)));
}

/// What waited on its way is as old as it is, not as new as its coming.
#[test]
fn a_message_that_comes_late_makes_nothing_new() {
    let at = |ms: u64| Instant(ms * 1_000_000);
    let (mut replicas, probe) = following();
    for n in 1..=5u64 {
        let probe = Replicate { probe: at(80 * n), answered: at(80 * (n - 1)), ..probe };
        replicas.judge(at(80 * n + 1), NodeId(2), &probe, &|_| Term(5));
    }
    let late = Replicate { probe: at(480), answered: at(400), ..probe };
    replicas.judge(at(30_000), NodeId(2), &late, &|_| Term(5));
    assert_eq!(replicas.age(at(30_000), P), Some(at_most(30_000 - 401)));
}

/// What a leader says of its own age: nothing is older, while a majority answers it.
#[test]
fn a_leader_says_how_old_what_it_knows_is() {
    let at = |ms: u64| Instant(ms * 1_000_000);
    let run = Run { storage: StorageUuid(1), incarnation: Incarnation(2) };
    let mut replicas = Replicator::new(run, Settings::default(), Instant(0), P, PartitionId(1));
    replicas.recovered(P, Recovered { life: Some(1), ..Recovered::empty() });
    replicas.record(at(1), P, &led_with_another(3));
    replicas.promise_staged(P, Term(3), GroupSeq(1));
    replicas.flushed(at(1), GroupSeq(1));
    replicas.appended(P, Offset(2), GroupSeq(2));
    replicas.flushed(at(1), GroupSeq(2));
    let said = |replicas: &mut Replicator, now| {
        replicas.tick(now);
        let section = replicas.next_section(now, NodeId(2), 0).expect("a probe is due");
        replicas.sent(NodeId(2), &section, 0);
        (section.message.answered, section.message.age_ms)
    };
    assert_eq!(said(&mut replicas, at(100)), (Instant(0), AGE_UNKNOWN), "its term has not begun");
    let from = LeaderId { replica: led_with_another(3).voters[1], incarnation: Incarnation(1) };
    let (to, probe) = (replicas.me(P).replica, at(100));
    let state = AckState::Flushed { end: Offset(2) };
    replicas.ack(at(110), &Ack { partition: P, to, from, term: Term(3), probe, state });
    assert_eq!(said(&mut replicas, at(200)), (at(100), 0));
    let (answered, age_ms) = said(&mut replicas, at(5_100));
    let lease = Settings::default().lease_as_leader().as_millis() as u32;
    let age = at_most(u64::from(5_000 - lease));
    assert_eq!((answered, age_ms), (at(100), age.as_millis() as u32));
}

/// What the leaders before it committed, one that has not begun its term may not know to be.
#[test]
fn a_leader_that_has_not_begun_its_term_does_not_call_what_it_has_current() {
    let run = Run { storage: StorageUuid(1), incarnation: Incarnation(2) };
    let mut replicas = Replicator::new(run, Settings::default(), Instant(0), P, PartitionId(1));
    replicas.recovered(P, Recovered { life: Some(1), end: Offset(5), ..Recovered::empty() });
    replicas.record(Instant(1), P, &led_with_another(3));
    replicas.promise_staged(P, Term(3), GroupSeq(1));
    replicas.flushed(Instant(1), GroupSeq(1));
    assert_eq!(replicas.view(P).leads, Some(Stage::Starting));
    let from = LeaderId { replica: led_with_another(3).voters[1], incarnation: Incarnation(1) };
    let (to, probe) = (replicas.me(P).replica, Instant(2));
    let state = AckState::Flushed { end: Offset(5) };
    replicas.ack(Instant(3), &Ack { partition: P, to, from, term: Term(3), probe, state });
    assert!(replicas.has_lease(Instant(4), P));
    assert_eq!(replicas.age(Instant(4), P), None);
}

/// Entries 90 to 99 are committed on A and B, whom it loses; C has those before 90 and is made to lead.
/// A comes back and knew 95 to be the end of what is committed.
#[test]
fn what_an_operator_gave_up_does_not_come_back_with_who_had_it() {
    let at = |ms: u64| Instant(ms * 1_000_000);
    let id = |n| ReplicaId { storage: StorageUuid(n), life: 1 };
    let replica = |n| Replica { node: NodeId(n as u64), id: id(n), wish: Wish::Voter, renewal: 0 };
    let run_of = |replica| LeaderId { replica, incarnation: Incarnation(1) };
    let mut record = PartitionRecord {
        replicas: (1..=3).map(replica).collect(),
        voters: (1..=3).map(id).collect(),
        term: Term(1),
        leader: Some(run_of(id(1))),
        version: 1,
        ..PartitionRecord::default()
    };
    let run = Run { storage: StorageUuid(1), incarnation: Incarnation(2) };
    let mut a = Replicator::new(run, Settings::default(), Instant(0), P, PartitionId(1));
    let mut terms = TermStarts::default();
    terms.append(Term(1), Offset(1));
    let (end, high_watermark) = (Offset(100), Offset(95));
    let life = Some(1);
    let promised = Term(1);
    a.recovered(P, Recovered { life, end, terms, promised, high_watermark, ..Recovered::empty() });
    a.record(at(1), P, &record);
    record.elect(Term(1)).unwrap();
    record.lead_with_loss(Term(2), run_of(id(3))).unwrap();

    // Before A hears of it, the leader speaks to another than it is.
    let to = record.replica_on(StorageUuid(1)).unwrap().id;
    let entries = Replicate {
        partition: P,
        to,
        from: run_of(id(3)),
        term: Term(2),
        first: Offset(90),
        prev_term: Term(1),
        count: 2,
        high_watermark: Offset(91),
        probe: at(2),
        answered: Instant(0),
        age_ms: AGE_UNKNOWN,
    };
    assert_eq!(a.judge(at(3), NodeId(3), &entries, &|_| Term(2)), Verdict::Done);
    assert_eq!(a.take_acks(), [], "it says nothing of a log that counts no more");
    a.record(at(4), P, &record);
    let adopt = Effect::Adopt { partition: P, life: to.life };
    assert!(a.effects().any(|effect| effect == adopt));
    a.adopted(at(4), P, to.life);

    // From here on it has nothing, and says so.
    assert_eq!(a.view(P).end, Offset::FIRST);
    assert_eq!(a.judge(at(5), NodeId(3), &entries, &|_| Term(2)), Verdict::Done);
    for effect in a.effects().collect::<Vec<_>>() {
        if let Effect::Promise { partition, term } = effect {
            a.promise_staged(partition, term, GroupSeq(1));
        }
    }
    a.flushed(at(5), GroupSeq(1));
    let states: Vec<_> = a.take_acks().into_iter().map(|(_, ack)| ack.state).collect();
    assert_eq!(states, [AckState::Mismatch { end: Offset::FIRST, term: Term(0) }]);
}

/// It was being sent a state and is all that is left. Nothing is sent before it is fsynced where its log goes on.
#[test]
fn the_only_voter_begins_its_term_behind_what_it_has_of_a_state() {
    let mut record = led_with_another(3);
    record.voters.truncate(1);
    let (now, term, node) = (Instant(1), Term(3), NodeId(2));
    let run = Run { storage: StorageUuid(1), incarnation: Incarnation(2) };
    let mut replicas = Replicator::new(run, Settings::default(), Instant(0), P, PartitionId(1));
    replicas.recovered(P, Recovered { life: Some(1), end: Offset(5), ..Recovered::empty() });
    replicas.record(now, P, &record);
    replicas.promise_staged(P, term, GroupSeq(1));
    replicas.flushed(now, GroupSeq(1));
    let starts = |offset| Effect::StartTerm { partition: P, term, offset: Offset(offset) };
    assert!(replicas.effects().any(|effect| effect == starts(5)));
    let terms = TermStarts::from_pairs(vec![(term, Offset(99))]);
    replicas.jumped(P, Offset(100), terms, GroupSeq(2));
    replicas.tick(now + Duration::from_secs(1));
    assert_eq!(replicas.next_section(now, node, 10), None);
    assert_eq!(replicas.effects().collect::<Vec<_>>(), []);
    let view = replicas.view(P);
    assert_eq!((view.leads, view.end), (Some(Stage::Promising), Offset(100)));
    assert_eq!((view.flushed_end, view.high_watermark), (Offset(5), Offset(1)));
    replicas.flushed(now, GroupSeq(2));
    assert_eq!(replicas.effects().collect::<Vec<_>>(), [starts(100)]);
    replicas.appended(P, Offset(101), GroupSeq(3));
    replicas.flushed(now, GroupSeq(3));
    let view = replicas.view(P);
    assert_eq!((view.leads, view.high_watermark), (Some(Stage::Serving), Offset(101)));
    // Whoever has less needs the state.
    replicas.tick(now + Duration::from_secs(2));
    let section = replicas.next_section(now, node, 10).unwrap();
    assert_eq!((section.message.first, section.message.prev_term), (Offset(100), term));
    let from = LeaderId { replica: record.replicas[1].id, incarnation: Incarnation(1) };
    let to = replicas.me(P).replica;
    let state = AckState::Mismatch { end: Offset(1), term: Term(0) };
    let probe = section.message.probe;
    replicas.ack(now, &Ack { partition: P, from, to, term, state, probe });
    replicas.tick(now + Duration::from_secs(3));
    while replicas.next_section(now, node, 10).is_some() {}
    let needs = Effect::NeedsSnapshot { partition: P, node, has: Offset::NONE };
    assert!(replicas.effects().any(|effect| effect == needs));
}

/// Others may have what it would skip.
#[test]
#[should_panic(expected = "nobody else has a say")]
fn one_of_several_voters_does_not_skip_anything() {
    let run = Run { storage: StorageUuid(1), incarnation: Incarnation(2) };
    let mut replicas = Replicator::new(run, Settings::default(), Instant(0), P, PartitionId(1));
    replicas.recovered(P, Recovered { life: Some(1), ..Recovered::empty() });
    replicas.record(Instant(1), P, &led_with_another(3));
    replicas.promise_staged(P, Term(3), GroupSeq(1));
    replicas.flushed(Instant(1), GroupSeq(1));
    let terms = TermStarts::from_pairs(vec![(Term(3), Offset(99))]);
    replicas.jumped(P, Offset(100), terms, GroupSeq(2));
}

/// A leader whose voters metadata refuse, whatever the reason, proposes them again and ever less often.
#[test]
fn a_proposal_that_is_refused_is_repeated_ever_more_seldom() {
    let run = Run { storage: StorageUuid(1), incarnation: Incarnation(2) };
    let mut replicas = Replicator::new(run, Settings::default(), Instant(0), P, PartitionId(1));
    replicas.recovered(P, Recovered { life: Some(1), ..Recovered::empty() });
    // It was made the only voter although it was to follow only.
    let mut record = led_with_another(3);
    record.voters.truncate(1);
    record.replicas[0].wish = Wish::Observer;
    let (begin, term) = (Instant(1), Term(3));
    replicas.record(begin, P, &record);
    replicas.promise_staged(P, term, GroupSeq(1));
    replicas.flushed(begin, GroupSeq(1));
    replicas.appended(P, Offset(2), GroupSeq(2));
    replicas.flushed(begin, GroupSeq(2));
    assert_eq!(replicas.view(P).leads, Some(Stage::Serving));
    let other = record.replicas[1].id;
    let mut proposed = 0;
    for ms in (0..60_000).step_by(10) {
        let now = begin + Duration::from_millis(ms);
        let from = LeaderId { replica: other, incarnation: Incarnation(1) };
        let (to, state) = (replicas.me(P).replica, AckState::Flushed { end: Offset(2) });
        replicas.ack(now, &Ack { partition: P, to, from, term, probe: now, state });
        replicas.tick(now);
        let effects: Vec<Effect> = replicas.effects().collect();
        for effect in effects {
            let Effect::Ask(Request::Voters { from, base, voters, .. }) = effect else { continue };
            proposed += 1;
            assert_eq!(record.change_voters(term, from, base, &voters), Err(Refused::Replica));
            replicas.record(now, P, &record);
        }
    }
    assert!((5..25).contains(&proposed), "{proposed} in a minute");
    // What is refused is not what else may be wanted.
    record.replicas[0].wish = Wish::Voter;
    let mut taken = false;
    for ms in (60_000..66_000).step_by(10) {
        let now = begin + Duration::from_millis(ms);
        let from = LeaderId { replica: other, incarnation: Incarnation(1) };
        let (to, state) = (replicas.me(P).replica, AckState::Flushed { end: Offset(2) });
        replicas.ack(now, &Ack { partition: P, to, from, term, probe: now, state });
        replicas.tick(now);
        let effects: Vec<Effect> = replicas.effects().collect();
        for effect in effects {
            let Effect::Ask(Request::Voters { from, base, voters, .. }) = effect else { continue };
            taken |= record.change_voters(term, from, base, &voters).is_ok();
            replicas.record(now, P, &record);
        }
    }
    assert!(taken, "{record:?}");
}

/// A cut-off leader may be asked for hours; and who led knows no more what all have.
#[test]
fn reads_that_were_given_up_are_forgotten_and_who_steps_down_knows_of_no_others() {
    let record = led_with_another(3);
    let (me, begin) = (record.leader.unwrap(), Instant(1));
    let mut replicas = begun(begin, &record);
    let state = AckState::Flushed { end: Offset(2) };
    let from = LeaderId { replica: record.voters[1], incarnation: Incarnation(1) };
    let (to, term) = (me.replica, Term(3));
    let ack = |state, probe| Ack { partition: P, to, from, term, probe, state };
    replicas.ack(begin, &ack(state, begin));
    assert_eq!(replicas.view(P).all_end, Offset(2));
    let later = begin + Duration::from_secs(60);
    for n in 0..1000 {
        assert_eq!(replicas.read(later, P, ReadTicket(n)), Ok(false), "its lease is over");
        replicas.keep_reads(P, |ticket| ticket.0 > 990);
    }
    let reads = |replicas: &Replicator| replicas.replica(P).leader().unwrap().reads.len();
    assert_eq!(reads(&replicas), 9);
    replicas.effects().for_each(drop);
    replicas.ack(later, &ack(AckState::Promised { term: Term(4) }, later));
    assert_eq!(replicas.view(P).leads, None);
    assert_eq!(replicas.view(P).all_end, Offset::NONE);
    let decided = replicas.effects().filter(|e| matches!(e, Effect::ReadDecided { .. })).count();
    assert_eq!(decided, 9);
}

/// It begins to hand over again and again, and nobody can be handed what cannot be committed.
#[test]
fn a_leader_that_is_to_leave_goes_on_without_voters_it_does_not_hear() {
    let id = |n: u128| ReplicaId { storage: StorageUuid(n), life: 1 };
    let replica = |n: u128| {
        let wish = if n == 1 { Wish::Leaving } else { Wish::Voter };
        Replica { node: NodeId(n as u64), id: id(n), wish, renewal: 0 }
    };
    let record = PartitionRecord {
        replicas: (1..=4).map(replica).collect(),
        voters: (1..=4).map(id).collect(),
        ..led_with_another(3)
    };
    let mut now = Instant(1);
    let mut replicas = begun(now, &record);
    let to = record.leader.unwrap().replica;
    let ack = |n: u128, probe, end| {
        let from = LeaderId { replica: id(n), incarnation: Incarnation(1) };
        Ack { partition: P, to, from, term: Term(3), probe, state: AckState::Flushed { end } }
    };
    let send = |replicas: &mut Replicator, now| {
        for node in [2, 3, 4].map(NodeId) {
            while let Some(section) = replicas.next_section(now, node, 100) {
                replicas.sent(node, &section, section.message.count);
            }
        }
    };
    send(&mut replicas, now);
    // The term has begun, and there is a write that one voter gets; the others are silent from here on.
    [2, 3].into_iter().for_each(|n| replicas.ack(now, &ack(n, now, Offset(2))));
    replicas.appended(P, Offset(3), GroupSeq(3));
    replicas.flushed(now, GroupSeq(3));
    for _ in 0..100 {
        send(&mut replicas, now);
        replicas.ack(now, &ack(2, now, Offset(3)));
        now = now + Duration::from_millis(50);
        replicas.tick(now);
        for effect in replicas.effects() {
            if let Effect::Ask(Request::Voters { voters, .. }) = effect {
                return assert_eq!(voters, [id(1), id(2)]);
            }
        }
    }
    panic!("it proposes nothing, and is {:?}", replicas.view(P).leads);
}
