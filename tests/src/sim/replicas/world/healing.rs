//! The end of a run: everything works again, and has to be whole soon. Then everybody's leader is
//! elected once more, which shows what earlier elections lost. In some runs an operator then has a replica
//! lead that lacks what is committed, and the others come back with that.

use ironring_core::{NodeId, PartitionId, Term};
use ironring_ring::metadata::{Command, LeaderId, MemberState, ReplicaId, Wish};
use ironring_ring::replication::Stage;
use ironring_ring::replication::quorum::{commit_quorum, fence_quorum};

use super::{Event, Phase, World};
use crate::sim::replicas::checks::Broken;
use crate::sim::replicas::plan::{Faults, MS};

/// How long a healed cluster has to be whole.
const PATIENCE_NS: u64 = 20_000 * MS;
/// How long it may take before an operator looks for what only people can decide.
const OPERATOR_NS: u64 = 4_000 * MS;
/// How often it is looked at.
const LOOK_NS: u64 = 50 * MS;
/// The last entries may still be on their way to a replica.
const BEHIND_MAX: usize = 20;

/// How far the healing is.
#[derive(Debug)]
pub(super) struct Healing {
    give_up_at: u64,
    operator_at: u64,
    look_at: u64,
    /// Entries that were committed when it began, or when the last elections were, by partition.
    committed: Vec<usize>,
    elected_again: bool,
    /// An operator is still to give something up.
    gives_up: bool,
}

impl World {
    pub(super) fn heal(&mut self) {
        self.note(&[8], || "everything heals".to_owned());
        let gives_up = self.rng.chance(1, 2);
        self.phase = Phase::Heals(Healing {
            give_up_at: self.time + PATIENCE_NS,
            operator_at: self.time + OPERATOR_NS,
            look_at: self.time + LOOK_NS,
            committed: self.committed(),
            elected_again: false,
            gives_up,
        });
        self.network.heal();
        (self.faults, self.commit_ns) = (Faults::default(), MS);
        self.plan.clients.writes = self.plan.clients.writes.max(100);
        for i in 0..self.nodes.len() {
            self.nodes[i].paused_until = 0;
            self.nodes[i].flush_ns = MS / 2;
            self.start(i);
        }
        self.link_up_everywhere();
        let members: Vec<NodeId> = self.group.state.members().map(|m| m.id).collect();
        for node in members {
            if self.index_of(node).is_some() {
                let state = MemberState::Active;
                self.commits(None, &Command::SetMember { node, state });
            }
        }
        let rf = self.rf_at_the_end() as u8;
        self.commits(None, &Command::SetKeyspace { rf, min_voters: 1 });
    }

    fn rf_at_the_end(&self) -> usize {
        self.nodes.len()
    }

    fn committed(&self) -> Vec<usize> {
        self.partitions().map(|p| self.checks.committed(p.0 as usize).len()).collect()
    }

    /// Whether the run has come to its good end.
    pub(super) fn is_over(&mut self) -> Result<bool, Broken> {
        let Phase::Heals(healing) = &self.phase else { return Ok(false) };
        if self.time < healing.look_at {
            return Ok(false);
        }
        let (elected_again, give_up) = (healing.elected_again, self.time > healing.give_up_at);
        let whole = self.partitions().try_for_each(|p| self.is_whole(p, healing));
        if let Err(lacking) = whole {
            if give_up {
                return Err(format!("after healing: {lacking}"));
            }
            if self.time >= healing.operator_at {
                self.elect_survivors();
            }
        } else if elected_again && healing.gives_up {
            self.give_up();
        } else if elected_again {
            for committed in self.committed() {
                self.coverage.add("entries committed", committed as u64);
            }
            self.note(&[9], || "the end".to_owned());
            return Ok(true);
        } else {
            self.elect_again();
        }
        if let Phase::Heals(healing) = &mut self.phase {
            healing.look_at = self.time + LOOK_NS;
        }
        Ok(false)
    }

    fn elect_again(&mut self) {
        let records = self.group.state.partitions().iter().zip(self.partitions());
        let partitions = records.map(|(record, id)| (id, record.term)).collect();
        self.commits(None, &Command::Elect { partitions });
        let committed = self.committed();
        if let Phase::Heals(healing) = &mut self.phase {
            (healing.committed, healing.elected_again) = (committed, true);
        }
    }

    /// Every node is lost, and an operator has the partitions go on with what is left on one, which lacks
    /// some of what was committed. The others were not lost for good.
    fn give_up(&mut self) {
        let left = self.rng.below(self.nodes.len() as u64) as usize;
        let part_of = |p: PartitionId| &self.nodes[left].disk.durable[p.0 as usize];
        if self.partitions().any(|p| part_of(p).damaged_below.is_some()) {
            return;
        }
        self.note(&[14, left as u64], || format!("only node {} is left", left + 1));
        for node in 0..self.nodes.len() {
            let survives = self.rng.chance(1, 2);
            self.nodes[node].crash(survives);
            if node != left {
                let incarnation = self.nodes[node].incarnation;
                let away = self.rng.below(400 * MS);
                self.schedule(away, Event::Restarts { node, incarnation });
            }
        }
        for p in 0..self.plan.partitions {
            let behind = self.rng.below(30) as usize;
            let part = &mut self.nodes[left].disk.durable[p];
            // As one that did not hear of the last entries.
            part.entries.truncate(part.entries.len().saturating_sub(behind));
        }
        self.start(left);
        for partition in self.partitions() {
            let record = self.group.state.partitions()[partition.0 as usize].clone();
            let Some(replica) = record.replica_on(self.nodes[left].storage) else { continue };
            let incarnation = self.nodes[left].incarnation;
            let leader = LeaderId { replica: replica.id, incarnation };
            let term = Term(record.term.0 + 1);
            self.commits(None, &Command::Elect { partitions: vec![(partition, record.term)] });
            self.commits(None, &Command::LeadWithLoss { partition, term, leader });
            let p = partition.0 as usize;
            let since = self.group.state.partitions()[p].version;
            let lost = self.checks.given_up(p, &self.nodes[left].disk.durable[p], since);
            self.coverage.add("committed entries given up by an operator", lost as u64);
        }
        let committed = self.committed();
        if let Phase::Heals(healing) = &mut self.phase {
            (healing.committed, healing.gives_up) = (committed, false);
            healing.give_up_at = self.time + PATIENCE_NS;
            healing.operator_at = self.time + OPERATOR_NS;
        }
    }

    /// A voter whose disk was lost may be one that a new leader would need, to commit anything or
    /// to propose voters without it: then an operator has to name one that has everything.
    fn elect_survivors(&mut self) {
        if let Phase::Heals(healing) = &mut self.phase {
            healing.operator_at = self.time + OPERATOR_NS;
        }
        for partition in self.partitions() {
            let record = self.group.state.partitions()[partition.0 as usize].clone();
            let on = |id: &ReplicaId| self.nodes.iter().find(|n| n.storage == id.storage);
            let (there, lost): (Vec<ReplicaId>, Vec<ReplicaId>) =
                record.voters.iter().partition(|id| on(id).is_some());
            let enough = there.len() >= fence_quorum(record.voters.len());
            if lost.is_empty() || !enough || there.len() >= commit_quorum(record.voters.len()) {
                continue;
            }
            let place = |id: &&ReplicaId| {
                let part = on(id).map(|n| &n.disk.durable[partition.0 as usize]);
                part.map(|part| (part.entries.last().map(|(term, _)| *term), part.end()))
            };
            let Some(best) = there.iter().max_by_key(place).copied() else { continue };
            let Some(node) = on(&best) else { continue };
            let leader = LeaderId { replica: best, incarnation: node.incarnation };
            self.coverage.add("survivors elected by an operator", 1);
            let term = Term(record.term.0 + 1);
            self.commits(None, &Command::Elect { partitions: vec![(partition, record.term)] });
            self.commits(None, &Command::LeadUnclean { partition, term, leader });
        }
    }

    /// A partition serves, and all its replicas vote and have everything.
    fn is_whole(&self, partition: PartitionId, healing: &Healing) -> Result<(), Broken> {
        let p = partition.0 as usize;
        let record = &self.group.state.partitions()[p];
        let leads = |storage| {
            let node = self.nodes.iter().find(|n| n.storage == storage);
            let process = node.and_then(|n| n.process.as_ref());
            process.is_some_and(|process| {
                let view = process.engine.view(partition);
                view.leads == Some(Stage::Serving) && view.term == record.term
            })
        };
        if !record.leader.is_some_and(|l| leads(l.replica.storage)) {
            return Err(format!("nobody leads {partition}: {record:?}"));
        }
        let committed = self.checks.committed(p).len();
        if committed <= healing.committed[p] {
            return Err(format!("nothing is written to {partition}: {record:?}"));
        }
        let rf = self.rf_at_the_end();
        if record.replicas.len() != rf {
            return Err(format!("{partition} does not have {rf} replicas: {record:?}"));
        }
        for replica in &record.replicas {
            let node = self.nodes.iter().find(|n| n.storage == replica.id.storage);
            let process = node.and_then(|n| n.process.as_ref());
            let have = process.map_or(0, |process| process.parts[p].entries.len());
            if have + BEHIND_MAX < committed {
                return Err(format!(
                    "{:?} of {partition} has {have} of {committed} entries: {record:?}",
                    replica.id
                ));
            }
            if replica.wish != Wish::Voter || !record.is_voter(replica.id) {
                return Err(format!("{:?} of {partition} does not vote: {record:?}", replica.id));
            }
        }
        Ok(())
    }
}
