//! The metadata group as one place that never fails, and controllers that do: the newest decides,
//! older ones may not know that they are old.

use ironring_core::prng::Prng;
use ironring_core::{Instant, NodeId, StorageUuid};
use ironring_ring::controller::{Decision, Election};
use ironring_ring::metadata::{PartitionRecord, Replica, ReplicaId, Wish};
use ironring_ring::replication::{Fence, FenceAnswer, Request};

use ironring_core::PartitionId;

/// Two controllers at most: one that was replaced and goes on, and the present one.
const CONTROLLERS_MAX: usize = 2;

/// A controller's elections, one per partition at most.
#[derive(Debug, Default)]
struct Controller {
    elections: Vec<Option<(Election, Instant)>>,
}

/// Committed records, and who works on them.
#[derive(Debug)]
pub struct Metadata {
    /// By partition.
    pub records: Vec<PartitionRecord>,
    controllers: Vec<Controller>,
}

impl Metadata {
    /// Each partition on `rf` of the nodes' storages.
    pub fn new(partitions: usize, storages: &[(NodeId, StorageUuid)], rf: usize) -> Metadata {
        let record = |p: usize| {
            let on = |i: usize| storages[(p + i) % storages.len()];
            let replica = |(node, storage)| Replica {
                node,
                id: ReplicaId { storage, life: 0 },
                wish: Wish::Voter,
            };
            let replicas: Vec<Replica> = (0..rf).map(|i| replica(on(i))).collect();
            let mut voters: Vec<ReplicaId> = replicas.iter().map(|r| r.id).collect();
            voters.sort();
            PartitionRecord { replicas, voters, ..PartitionRecord::default() }
        };
        let mut metadata =
            Metadata { records: (0..partitions).map(record).collect(), controllers: Vec::new() };
        metadata.new_controller();
        metadata
    }

    /// Another controller takes over; the one before it may go on for a while.
    pub fn new_controller(&mut self) {
        let elections = self.records.iter().map(|_| None).collect();
        self.controllers.push(Controller { elections });
        if self.controllers.len() > CONTROLLERS_MAX {
            self.controllers.remove(0);
        }
    }

    /// Begins an election of a partition by one of the controllers.
    pub fn elect(&mut self, now: Instant, partition: usize, rng: &mut Prng) {
        let controller = rng.below(self.controllers.len() as u64) as usize;
        let record = &mut self.records[partition];
        let seen = record.term;
        if record.elect(seen).is_ok() {
            let election = Election::new(record);
            self.controllers[controller].elections[partition] = Some((election, now));
        }
    }

    /// Whom every controller fences at present.
    pub fn fences(&self) -> Vec<(NodeId, Fence)> {
        let mut fences = Vec::new();
        for controller in &self.controllers {
            for (i, election) in controller.elections.iter().enumerate() {
                let Some((election, _)) = election else { continue };
                for to in election.missing() {
                    let Some(replica) = self.records[i].replica(to) else { continue };
                    let partition = PartitionId(i as u32);
                    fences.push((replica.node, Fence { partition, to, term: election.term() }));
                }
            }
        }
        fences
    }

    /// A voter's answer reaches every controller.
    pub fn answer(&mut self, now: Instant, answer: &FenceAnswer) {
        for controller in &mut self.controllers {
            let election = &mut controller.elections[answer.partition.0 as usize];
            if let Some((election, _)) = election {
                election.answer(now, answer.clone());
            }
        }
    }

    /// Ends elections that can be ended. Returns the partitions whose record changed, and those
    /// that wait for longer than `patience`.
    pub fn decide(&mut self, now: Instant, patience: std::time::Duration) -> Vec<usize> {
        let mut changed = Vec::new();
        for controller in &mut self.controllers {
            for (i, slot) in controller.elections.iter_mut().enumerate() {
                let Some((election, began)) = slot else { continue };
                match election.decide(now, |_| 0) {
                    Decision::Lead(leader) => {
                        if self.records[i].lead(election.term(), leader).is_ok() {
                            changed.push(i);
                        }
                        *slot = None;
                    }
                    _ if now.since(*began) > patience => *slot = None,
                    _ => {}
                }
            }
        }
        changed
    }

    /// Whether somebody works on an election of the present term.
    pub fn is_electing(&self, partition: usize) -> bool {
        let term = self.records[partition].term;
        self.controllers
            .iter()
            .filter_map(|c| c.elections[partition].as_ref())
            .any(|(e, _)| e.term() == term)
    }

    /// A leader's request. Returns the partition, when its record may have changed.
    pub fn request(&mut self, request: &Request) -> Option<usize> {
        let (partition, decided) = match request {
            Request::Voters { partition, term, from, base, voters } => {
                let record = &mut self.records[partition.0 as usize];
                (partition, record.change_voters(*term, *from, *base, voters))
            }
            Request::Transfer { partition, term, from, to } => {
                let record = &mut self.records[partition.0 as usize];
                (partition, record.transfer(*term, *from, *to))
            }
            Request::Election { .. } => return None,
        };
        // A refusal may have raised the version.
        let _ = decided;
        Some(partition.0 as usize)
    }
}
