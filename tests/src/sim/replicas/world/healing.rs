//! The end of a run: everything works again, and has to be whole soon. Then everybody's leader is
//! elected once more, which shows what earlier elections lost.

use ironring_core::{NodeId, PartitionId, Term};
use ironring_ring::metadata::{Command, LeaderId, MemberState, ReplicaId, Wish};
use ironring_ring::replication::Stage;
use ironring_ring::replication::quorum::{commit_quorum, fence_quorum};

use super::{Phase, World};
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
}

impl World {
    pub(super) fn heal(&mut self) {
        self.note(&[8], || "everything heals".to_owned());
        self.phase = Phase::Heals(Healing {
            give_up_at: self.time + PATIENCE_NS,
            operator_at: self.time + OPERATOR_NS,
            look_at: self.time + LOOK_NS,
            committed: self.committed(),
            elected_again: false,
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
