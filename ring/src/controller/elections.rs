//! All elections a controller has under way, and which have to begin.

use std::collections::{BTreeMap, BTreeSet};

use ironring_core::{Instant, NodeId, Offset, PartitionId, Term};

use super::{Controller, Decision, Effect, Election, Proposed, Settings};
use crate::metadata::{Command, MemberState, Metadata, PartitionRecord, Replica, ReplicaId};
use crate::replication::quorum::{commit_quorum, fence_quorum};
use crate::replication::{Fence, FenceAnswer};

/// Partitions in one command, so that it stays far below what the group takes (1 MiB; a leader takes
/// about 130 bytes). The others follow in the next.
const PARTITIONS_PER_COMMAND: usize = 4096;

#[derive(Debug)]
struct Running {
    election: Election,
    began: Instant,
    /// When its voters are fenced again.
    fence_at: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Elections {
    running: BTreeMap<PartitionId, Running>,
}

impl Elections {
    pub fn begin(&mut self, now: Instant, id: PartitionId, record: &PartitionRecord) {
        let running = Running { election: Election::new(record), began: now, fence_at: now };
        self.running.insert(id, running);
    }

    pub fn answer(&mut self, now: Instant, answer: FenceAnswer) {
        if let Some(running) = self.running.get_mut(&answer.partition) {
            running.election.answer(now, answer);
        }
    }

    pub fn answered(&self, id: PartitionId, voter: ReplicaId) -> Option<(Term, Offset)> {
        self.running.get(&id)?.election.answered(voter)
    }

    /// When the next voter is to be fenced or the next lease ends.
    pub fn next_deadline(&self, now: Instant, settings: &Settings) -> Option<Instant> {
        let next = |r: &Running| match r.election.decide(now, |_| 0) {
            Decision::Wait(until) => until.min(r.fence_at),
            _ => r.fence_at.min(r.began + settings.election_patience),
        };
        self.running.values().map(next).min()
    }
}

impl Controller {
    /// Takes a new term wherever nobody leads who is heard.
    pub(super) fn begin_elections(&mut self, now: Instant, metadata: &Metadata) {
        // An election that has found no quorum is over; the next one has a new term.
        let patience = self.settings.election_patience;
        let named = self.being_named();
        self.elections.running.retain(|id, r| {
            let current = metadata
                .partition(*id)
                .is_some_and(|record| record.term == r.election.term() && record.leader.is_none());
            // Another term would depose whoever is just being named.
            current && (now.since(r.began) < patience || named.contains(id))
        });
        if self.waits_for(|p| matches!(p, Proposed::Elections(_))) {
            return;
        }
        let mut begin = Vec::new();
        for (i, record) in metadata.partitions().iter().enumerate() {
            let id = PartitionId(i as u32);
            if !self.elections.running.contains_key(&id) && self.needs_election(now, id, record) {
                begin.push((id, record.term));
                if begin.len() == PARTITIONS_PER_COMMAND {
                    break;
                }
            }
        }
        if !begin.is_empty() {
            let what = Proposed::Elections(begin.iter().map(|(id, _)| *id).collect());
            self.propose(what, Command::Elect { partitions: begin });
        }
    }

    /// Partitions for which a leader is proposed and not decided yet.
    fn being_named(&self) -> BTreeSet<PartitionId> {
        let ids = self.proposed.values().filter_map(|p| match p {
            Proposed::Leaders(ids) => Some(ids),
            _ => None,
        });
        ids.flatten().copied().collect()
    }

    fn needs_election(&self, now: Instant, id: PartitionId, record: &PartitionRecord) -> bool {
        let Some(leader) = record.leader else { return true };
        let Some(replica) = record.replica(leader.replica) else { return true };
        let silent = !self.liveness.is_heard(now, replica.node, self.settings.leader_timeout);
        let restarted = self
            .liveness
            .incarnation(replica.node)
            .is_some_and(|incarnation| incarnation > leader.incarnation);
        silent || restarted || self.asked.get(&id) == Some(&record.term)
    }

    /// Fences, and ends the elections that can be ended.
    pub(super) fn go_on_electing(&mut self, now: Instant, metadata: &Metadata) {
        self.fence(now, metadata);
        let mut leads = Vec::new();
        let mut alone = Vec::new();
        let mut led = self.leaderships(metadata);
        let named = self.being_named();
        for (id, running) in &self.elections.running {
            if named.contains(id) {
                continue;
            }
            let Some(record) = metadata.partition(*id) else { continue };
            let node_of = |r| record.replica(r).map(|r| r.node);
            let preference =
                |r| node_of(r).map_or(u32::MAX, |n| self.burden(now, metadata, &led, n));
            if let Decision::Lead(leader) = running.election.decide(now, preference) {
                let term = running.election.term();
                match self.is_left_alone(now, metadata, *id, leader.replica) {
                    true => alone.push((*id, term, leader)),
                    false => leads.push((*id, term, leader)),
                }
                if let Some(node) = node_of(leader.replica) {
                    *led.entry(node).or_default() += 1;
                }
                if leads.len() == PARTITIONS_PER_COMMAND {
                    break;
                }
            }
        }
        for (partition, term, leader) in alone {
            let command = Command::LeadUnclean { partition, term, leader };
            self.propose(Proposed::Leaders(vec![partition]), command);
        }
        if !leads.is_empty() {
            let what = Proposed::Leaders(leads.iter().map(|(id, _, _)| *id).collect());
            self.propose(what, Command::Lead { partitions: leads });
        }
    }

    /// Whether so few voters are heard, or answer the leader, that nobody could commit the entry that
    /// begins a term, though fewer are enough to elect who leads it: of two voters one, of four two. The
    /// winner holds everything that is committed, and without those that were fenced nobody else can
    /// commit in an earlier term; so it may go on as the only voter, and the others vote again when they
    /// have caught up.
    ///
    /// A winner that is not there itself is named as any other, so that another may be elected without it:
    /// it may have answered, and lost its disk while leases were waited out.
    fn is_left_alone(
        &self,
        now: Instant,
        metadata: &Metadata,
        id: PartitionId,
        winner: ReplicaId,
    ) -> bool {
        let Some(record) = metadata.partition(id) else { return false };
        let voters = record.voters.len();
        let timeout = self.settings.leader_timeout;
        let is_there = |r: &&Replica| {
            let member = metadata.member(r.node);
            record.is_voter(r.id)
                && member.is_some_and(|m| {
                    m.facts.storage == r.id.storage && m.state != MemberState::Lost
                })
                && self.liveness.is_heard(now, r.node, timeout)
        };
        let there = record.replicas.iter().filter(is_there);
        let winner_is_there = there.clone().any(|r| r.id == winner);
        let there = there.count();
        winner_is_there
            && fence_quorum(voters) < commit_quorum(voters)
            && (there < commit_quorum(voters) || (voters == 2 && self.stuck.contains(&id)))
    }

    /// How many partitions each node leads.
    fn leaderships(&self, metadata: &Metadata) -> BTreeMap<NodeId, u32> {
        let mut led = BTreeMap::new();
        for record in metadata.partitions() {
            if let Some(node) =
                record.leader.and_then(|l| record.replica(l.replica)).map(|r| r.node)
            {
                *led.entry(node).or_default() += 1;
            }
        }
        led
    }

    /// How little a node should lead: first those that are silent, leave or are short of space, then
    /// those that lead much for their weight.
    fn burden(
        &self,
        now: Instant,
        metadata: &Metadata,
        led: &BTreeMap<NodeId, u32>,
        node: NodeId,
    ) -> u32 {
        const UNFIT: u32 = 1 << 30;
        let heard = self.liveness.is_heard(now, node, self.settings.leader_timeout);
        let member = metadata.member(node);
        let weight = member.map_or(0, |m| u32::from(m.facts.weight));
        let stays = member.is_some_and(|m| {
            m.state == MemberState::Active && !m.facts.condition.short_of_space && weight > 0
        });
        let load = led.get(&node).copied().unwrap_or(0);
        let load = (load * 1000 / weight.max(1)).min(UNFIT - 1);
        load + if heard && stays { 0 } else { UNFIT }
    }

    fn fence(&mut self, now: Instant, metadata: &Metadata) {
        let mut by_node: BTreeMap<NodeId, Vec<Fence>> = BTreeMap::new();
        let again = now + self.settings.fence_again;
        for (id, running) in &mut self.elections.running {
            if now < running.fence_at {
                continue;
            }
            running.fence_at = again;
            let Some(record) = metadata.partition(*id) else { continue };
            for to in running.election.missing() {
                let Some(replica) = record.replica(to) else { continue };
                let fence = Fence { partition: *id, to, term: running.election.term() };
                by_node.entry(replica.node).or_default().push(fence);
            }
        }
        self.effects.extend(by_node.into_iter().map(|(node, fences)| Effect::Fence(node, fences)));
    }
}
