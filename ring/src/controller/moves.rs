//! Replicas that come and go: the next step of every move, and which moves to begin.
//!
//! A move is a learner that is added, becomes a voter when its leader says that it has caught up,
//! and then the replica it replaces leaves the voters and is dropped. Each step is a commit; which
//! one is next is seen from the partition's record, so another controller goes on where this one
//! ended.

use std::collections::BTreeSet;

use ironring_core::{Instant, NodeId, PartitionId};

use super::{Controller, Effect, Proposed};
use crate::metadata::{
    Command, Member, MemberState, Metadata, PartitionRecord, Replica, ReplicaChange, Status, Wish,
};
use crate::placement::{
    Change, LeaderChoice, Node, NodeState, PartitionState, Plan, PlanRules, Ring, Topology, Weight,
    choose_leaders, plan,
};

/// Changes of replicas in one command.
const CHANGES_MAX: usize = 64;

impl Controller {
    /// Takes the next step of every move that can take one, and sees members off that left.
    pub(super) fn move_replicas(&mut self, now: Instant, metadata: &Metadata) {
        if self.waits_for(|p| matches!(p, Proposed::Replicas | Proposed::Member)) {
            return;
        }
        let mut changes = Vec::new();
        for (i, record) in metadata.partitions().iter().enumerate() {
            let id = PartitionId(i as u32);
            if let Some(change) = self.next_step(now, metadata, id, record) {
                changes.push((id, change));
                if changes.len() == CHANGES_MAX {
                    break;
                }
            }
        }
        if !changes.is_empty() {
            return self.propose(Proposed::Replicas, Command::Replicas { changes });
        }
        let holds = |node: NodeId| {
            metadata.partitions().iter().any(|p| p.replicas.iter().any(|r| r.node == node))
        };
        let gone = |m: &&Member| {
            matches!(m.state, MemberState::Leaving | MemberState::Lost) && !holds(m.id)
        };
        if let Some(member) = metadata.members().find(gone) {
            self.propose(Proposed::Member, Command::Remove { node: member.id });
        }
    }

    fn next_step(
        &self,
        now: Instant,
        metadata: &Metadata,
        id: PartitionId,
        record: &PartitionRecord,
    ) -> Option<ReplicaChange> {
        // A replica on a storage that is no longer its node's is gone with it.
        let replaced = |r: &&Replica| {
            let member = metadata.member(r.node);
            r.wish != Wish::Leaving && member.is_none_or(|m| m.facts.storage != r.id.storage)
        };
        if let Some(gone) = record.replicas.iter().find(replaced) {
            return Some(ReplicaChange::Wish { replica: gone.id, wish: Wish::Leaving });
        }
        if let Some(moved) = metadata.moves().get(&id) {
            let comes = record.replica(moved.to);
            if record.is_voter(moved.to) {
                let leaves = moved.from.and_then(|from| record.replica(from));
                match leaves {
                    Some(r) if r.wish != Wish::Leaving => {
                        return Some(ReplicaChange::Wish { replica: r.id, wish: Wish::Leaving });
                    }
                    // Its voters are changed by its leader, and then it is dropped below.
                    Some(_) => {}
                    None => {
                        return Some(ReplicaChange::Wish { replica: moved.to, wish: Wish::Voter });
                    }
                }
            } else if comes.is_some_and(|r| self.is_dead(now, r.node)) {
                return Some(ReplicaChange::Cancel);
            }
        }
        let leads = |r| record.leader.is_some_and(|l| l.replica == r);
        let gone = record
            .replicas
            .iter()
            .find(|r| r.wish == Wish::Leaving && !record.is_voter(r.id) && !leads(r.id));
        gone.map(|r| ReplicaChange::Drop { replica: r.id })
    }

    fn is_dead(&self, now: Instant, node: NodeId) -> bool {
        self.liveness.silence(now, node) >= self.settings.session_timeout
    }

    /// The nodes as placement sees them.
    fn topology(&self, now: Instant, metadata: &Metadata) -> Option<Topology> {
        let patience = self.settings.session_timeout + self.settings.rebalance_grace;
        let node = |m: &Member| {
            let lost = m.state == MemberState::Lost
                || (m.status == Status::Dead && self.liveness.silence(now, m.id) >= patience);
            let label = |s: &String| (!s.is_empty()).then(|| s.clone());
            Some(Node {
                id: m.id,
                weight: Weight::from_hundredths(m.facts.weight).ok()?,
                rack: label(&m.facts.rack),
                region: label(&m.facts.region),
                state: match m.state {
                    _ if lost => NodeState::Lost,
                    MemberState::Active => NodeState::Active,
                    _ => NodeState::Draining,
                },
            })
        };
        Topology::new(metadata.members().filter_map(node).collect(), true).ok()
    }

    /// What placement would move, given the map there is: also for a dry run.
    #[must_use]
    pub fn plan(&self, now: Instant, metadata: &Metadata) -> Option<Plan> {
        let ring = Ring::new(self.topology(now, metadata)?);
        let state = |(i, record): (usize, &PartitionRecord)| {
            let leads = |r: &&Replica| record.leader.is_some_and(|l| l.replica == r.id);
            let stays = record.replicas.iter().filter(|r| r.wish == Wish::Voter);
            let moving = metadata.moves().get(&PartitionId(i as u32));
            let from = moving.and_then(|m| m.from);
            PartitionState {
                // As they will be when the move that is under way has ended.
                replicas: stays.filter(|r| Some(r.id) != from).map(|r| r.node).collect(),
                leader: record.replicas.iter().find(leads).map(|r| r.node),
                bytes: 0,
                pinned: moving.is_some(),
            }
        };
        let map: Vec<PartitionState> =
            metadata.partitions().iter().enumerate().map(state).collect();
        let rules = PlanRules { rf: metadata.rf(), ..PlanRules::default() };
        plan(&ring, &map, rules).ok()
    }

    /// Begins moves, as many as may be under way.
    pub(super) fn balance_replicas(&mut self, now: Instant, metadata: &Metadata) {
        let under_way = metadata.moves().len();
        let busy = self.waits_for(|p| matches!(p, Proposed::Replicas));
        if !metadata.balancing() || busy || under_way >= self.settings.moves_max {
            return;
        }
        self.moving_since = None;
        let Some(plan) = self.plan(now, metadata) else { return };
        let mut touched = BTreeSet::new();
        let mut changes = Vec::new();
        for step in &plan.moves {
            if under_way + changes.len() >= self.settings.moves_max {
                break;
            }
            let Some(record) = metadata.partition(step.partition) else { continue };
            // A partition nobody leads goes on when somebody does.
            if record.leader.is_none() || !touched.insert(step.partition) {
                continue;
            }
            let on = |node| record.replicas.iter().find(|r| r.node == node);
            let change = match step.change {
                Change::Add { to } => on(to).is_none().then_some(ReplicaChange::Add {
                    node: to,
                    wish: Wish::Voter,
                    replaces: None,
                }),
                Change::Replace { from, to } => on(to).is_none().then_some(ReplicaChange::Add {
                    node: to,
                    wish: Wish::Voter,
                    replaces: on(from).map(|r| r.id),
                }),
                Change::Remove { from } => {
                    on(from).map(|r| ReplicaChange::Wish { replica: r.id, wish: Wish::Leaving })
                }
            };
            changes.extend(change.map(|change| (step.partition, change)));
        }
        if !changes.is_empty() {
            self.moving_since = Some(now);
            self.propose(Proposed::Replicas, Command::Replicas { changes });
        }
    }

    /// Asks leaders to hand over where nodes lead too much.
    pub(super) fn balance_leaders(&mut self, now: Instant, metadata: &Metadata) {
        let Some(topology) = self.topology(now, metadata) else { return };
        let heard = |node| self.liveness.is_heard(now, node, self.settings.leader_timeout);
        let choice = |record: &PartitionRecord| {
            let votes = record.replicas.iter().filter(|r| record.is_voter(r.id));
            let fit = votes.filter(|r| r.wish == Wish::Voter && heard(r.node));
            let current = record.leader.and_then(|l| record.replica(l.replica)).map(|r| r.node);
            LeaderChoice { eligible: fit.map(|r| r.node).collect(), current }
        };
        let choices: Vec<LeaderChoice> = metadata.partitions().iter().map(choice).collect();
        let wanted = choose_leaders(&topology, &choices);
        let mut handovers = Vec::new();
        for (i, (choice, wanted)) in choices.iter().zip(wanted).enumerate() {
            let (Some(node), Some(wanted)) = (choice.current, wanted) else { continue };
            let record = &metadata.partitions()[i];
            let to = record.replicas.iter().find(|r| r.node == wanted).map(|r| r.id);
            if node != wanted
                && let Some(to) = to
            {
                let partition = PartitionId(i as u32);
                handovers.push(Effect::HandOver { node, partition, to });
            }
        }
        handovers.truncate(self.settings.handovers_max);
        self.effects.extend(handovers);
    }
}
