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
