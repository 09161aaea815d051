//! What simulations found, in few steps.

use super::*;
use crate::metadata::{Replica, ReplicaId, Wish};

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
