//! The controller's steps, one by one: here what the tests have in common.

mod elections;
mod moves;
mod shortage;

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
    /// A member whose removal is held back, because it votes.
    votes: Option<NodeId>,
    /// Plans that are being made, and from which metadata.
    plans: Vec<(Planning, Metadata)>,
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
        let (refuses, refused, votes) = (false, 0, None);
        let plans = Vec::new();
        Room { now, metadata, controller, fences, handovers, refuses, refused, votes, plans }
    }

    /// A cluster of three nodes that all hold everything; node 1 leads it.
    fn at_rest() -> Room {
        let mut room = Room::new(3);
        room.elect(&[1]);
        room.rest(&[1, 2, 3]);
        room
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
            // One that was begun in an earlier round.
            for (planning, metadata) in std::mem::take(&mut self.plans) {
                let plan = planning.make(&metadata);
                self.controller.planned(self.now, &self.metadata, &plan);
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
                        let removed = match &*command {
                            Command::Remove { node } => Some(*node),
                            _ => None,
                        };
                        let held_back = removed.is_some() && removed == self.votes;
                        let outcome = (!held_back).then(|| self.commit(&command));
                        let (now, metadata) = (self.now, &self.metadata);
                        self.controller.decided(now, metadata, ticket, outcome.as_ref());
                    }
                    Effect::Fence(node, fences) => {
                        self.fences.extend(fences.into_iter().map(|fence| (node, fence)));
                    }
                    Effect::HandOver { node, partition, to } => {
                        self.handovers.push((node, partition, to));
                    }
                    Effect::Plan(planning) => self.plans.push((planning, self.metadata.clone())),
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
