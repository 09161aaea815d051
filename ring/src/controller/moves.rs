//! Replicas that come and go: the next step of every move, and which moves to begin.
//!
//! A move is a learner that is added, becomes a voter when its leader says that it has caught up,
//! and then the replica it replaces leaves the voters and is dropped. Each step is a commit; which
//! one is next is seen from the partition's record, so another controller goes on where this one
//! ended.
//!
//! A node that is short of space keeps the replicas it has, takes no others, and leads only where
//! nobody else may.

use std::collections::BTreeSet;

use ironring_core::{Instant, NodeId, PartitionId};

use super::{Controller, Effect, MOVE_PAUSE, Proposed, RELIEF_PAUSE};
use crate::metadata::{
    Command, Member, MemberState, Metadata, Move, PartitionRecord, REPLICAS_MAX, Replica,
    ReplicaChange, Status, Wish,
};
use crate::placement::{
    Change, LeaderChoice, Move as Step, Node, NodeState, PartitionState, Plan, PlanRules, Reason,
    Ring, Topology, Weight, choose_leaders, plan,
};

/// Changes of replicas in one command.
const CHANGES_MAX: usize = 64;
/// How often the wait behind changes that are refused is doubled.
const WAIT_DOUBLINGS_MAX: u32 = 6;

/// Whether a replica is on a node that leaves while every node that takes replicas has a voter
/// already: nobody is to come in its place. That there are fewer such nodes than replicas wanted was
/// accepted when the node was let go.
fn has_no_successor(metadata: &Metadata, record: &PartitionRecord, replica: &Replica) -> bool {
    let leaves = |m: &Member| m.state == MemberState::Leaving;
    if !metadata.member(replica.node).is_some_and(leaves) {
        return false;
    }
    let mut takers = metadata.members().filter(|m| takes_replicas(m)).peekable();
    let votes = |node| {
        let on = record.replicas.iter().find(|r| r.node == node);
        on.is_some_and(|r| r.wish == Wish::Voter && record.is_voter(r.id))
    };
    takers.peek().is_some() && takers.all(|m| votes(m.id))
}

/// Whether a replica that is one too many may go: never one that votes for the sake of one that does
/// not, whose node may be silent and never come back.
fn may_be_dropped(record: &PartitionRecord, replica: &Replica) -> bool {
    let stays = |r: &&Replica| r.id != replica.id && r.wish == Wish::Voter;
    !record.is_voter(replica.id)
        || record.replicas.iter().filter(stays).all(|r| record.is_voter(r.id))
}

/// Whether replicas that vote may come to a node.
#[must_use]
pub fn takes_replicas(member: &Member) -> bool {
    member.state == MemberState::Active && member.facts.weight > 0 && !member.facts.observer
}

/// Whether a node holds copies that only follow.
#[must_use]
pub fn observes(member: &Member) -> bool {
    let goes = matches!(member.state, MemberState::Leaving | MemberState::Lost);
    member.facts.observer && member.facts.weight > 0 && !goes
}

/// Whether a node would take replicas, were it not short of space.
fn lacks_room(member: &Member) -> bool {
    takes_replicas(member) && member.facts.condition.short_of_space
}

/// Places of a partition for copies that only follow, beside so many that vote and one that comes.
#[must_use]
pub fn places_beside(voters: usize) -> usize {
    REPLICAS_MAX.saturating_sub(voters + 1)
}

/// The same of this partition, which may have more that do not only follow.
fn observer_places(voters: usize, record: &PartitionRecord) -> usize {
    let others = record.replicas.len() - observers_of(record);
    places_beside(voters).min(REPLICAS_MAX - others)
}

fn observers_of(record: &PartitionRecord) -> usize {
    record.replicas.iter().filter(|r| r.wish == Wish::Observer).count()
}

/// What placement would move, given the map there is. `lost` says which members are given up; those
/// of [`MemberState::Lost`] always are. Changes nothing, and takes as long as [`plan()`]. What would go
/// to nodes that are short of space is among it, and is not begun before they have room.
#[must_use]
pub fn dry_run(metadata: &Metadata, lost: impl Fn(&Member) -> bool) -> Option<Plan> {
    planned(metadata, lost, |_| false)
}

/// What a plan of moves is made with, beside the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planning {
    /// Nodes that are given up.
    lost: BTreeSet<NodeId>,
    /// Nodes to which nothing can be moved at present.
    dead: BTreeSet<NodeId>,
}

/// A plan of moves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned(Vec<Step>);

impl Planning {
    /// Makes the plan. Takes as long as [`plan()`], and twice as long with full or dead nodes in its way.
    #[must_use]
    pub fn make(&self, metadata: &Metadata) -> Planned {
        let lost = |m: &Member| self.lost.contains(&m.id);
        let dead = |m: &Member| self.dead.contains(&m.id);
        Planned(steps(metadata, lost, dead).unwrap_or_default())
    }
}

/// Where a step brings a replica.
fn to(step: &Step) -> Option<NodeId> {
    match step.change {
        Change::Replace { to, .. } | Change::Add { to } => Some(to),
        Change::Remove { .. } => None,
    }
}

/// The steps of a plan that may be taken while nodes are short of space or dead. None brings a replica
/// there: what mends a partition goes where it would if they took nothing, what is for spread or balance
/// waits. What they hold stays. With such a node in the way this takes twice as long as [`plan()`].
fn steps(
    metadata: &Metadata,
    lost: impl Fn(&Member) -> bool + Copy,
    dead: impl Fn(&Member) -> bool + Copy,
) -> Option<Vec<Step>> {
    let steps = planned(metadata, lost, |_| false)?.moves;
    let takes_none = |member: &Member| lacks_room(member) || dead(member);
    let is_lost = |member: &Member| member.state == MemberState::Lost || lost(member);
    let full = |node| metadata.member(node).is_some_and(takes_none);
    let keeps = |node| metadata.member(node).is_some_and(|m| takes_none(m) && !is_lost(m));
    let from = |step: &Step| match step.change {
        Change::Replace { from, .. } | Change::Remove { from } => Some(from),
        Change::Add { .. } => None,
    };
    let fills = |step: &Step| to(step).is_some_and(full);
    if !steps.iter().any(fills) {
        return Some(steps);
    }
    let urgent = |step: &&Step| fills(step) && mends(step.reason);
    let elsewhere: BTreeSet<PartitionId> =
        steps.iter().filter(urgent).map(|step| step.partition).collect();
    let others = planned(metadata, lost, takes_none)?.moves.into_iter().filter(|step| {
        let goes = from(step).is_none_or(|node| !keeps(node));
        elsewhere.contains(&step.partition) && mends(step.reason) && goes
    });
    let kept = steps.iter().filter(|step| !fills(step) && !elsewhere.contains(&step.partition));
    let mut all: Vec<Step> = kept.copied().chain(others).collect();
    // Stable: steps of one partition stay in order.
    all.sort_by_key(|step| step.reason);
    Some(all)
}

/// Whether a move brings back what is lost or missing, or empties a node that is to be empty: those are
/// begun also while the operator wants no balance.
fn mends(reason: Reason) -> bool {
    matches!(reason, Reason::Lost | Reason::Missing | Reason::Drain)
}

/// What placement would move if the nodes that `shunned` names were to be emptied.
fn planned(
    metadata: &Metadata,
    lost: impl Fn(&Member) -> bool,
    shunned: impl Fn(&Member) -> bool,
) -> Option<Plan> {
    let ring = Ring::new(topology(metadata, lost, shunned)?);
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
    let map: Vec<PartitionState> = metadata.partitions().iter().enumerate().map(state).collect();
    let rules = PlanRules { rf: metadata.rf(), ..PlanRules::default() };
    plan(&ring, &map, rules).ok()
}

/// The nodes as placement sees them. Those that are `shunned` count as draining.
fn topology(
    metadata: &Metadata,
    lost: impl Fn(&Member) -> bool,
    shunned: impl Fn(&Member) -> bool,
) -> Option<Topology> {
    let node = |m: &Member| {
        let label = |s: &String| (!s.is_empty()).then(|| s.clone());
        Some(Node {
            id: m.id,
            weight: Weight::from_hundredths(m.facts.weight).ok()?,
            rack: label(&m.facts.rack),
            region: label(&m.facts.region),
            state: match m.state {
                _ if m.state == MemberState::Lost || lost(m) => NodeState::Lost,
                MemberState::Active if !m.facts.observer && !shunned(m) => NodeState::Active,
                _ => NodeState::Draining,
            },
        })
    };
    Topology::new(metadata.members().filter_map(node).collect(), true).ok()
}

impl Controller {
    /// Takes the next step of every move that can take one, and sees members off that left.
    pub(super) fn move_replicas(&mut self, now: Instant, metadata: &Metadata) {
        let waits = self.waits_for(|p| matches!(p, Proposed::Replicas(_) | Proposed::Member));
        if waits || now < self.replicas_at {
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
            return self.change_replicas(changes);
        }
        let holds = |node: NodeId| {
            metadata.partitions().iter().any(|p| p.replicas.iter().any(|r| r.node == node))
        };
        let gone = |m: &&Member| {
            matches!(m.state, MemberState::Leaving | MemberState::Lost) && !holds(m.id)
        };
        let members = metadata.members().filter(gone).map(|m| m.id);
        let next = members.min_by_key(|id| (*id <= self.removed_last, *id));
        if let Some(node) = next {
            self.removed_last = node;
            self.propose(Proposed::Member, Command::Remove { node });
        }
    }

    fn next_step(
        &self,
        now: Instant,
        metadata: &Metadata,
        id: PartitionId,
        record: &PartitionRecord,
    ) -> Option<ReplicaChange> {
        // A replica on a storage that is no longer its node's, or was given up, is gone with it.
        let gone = |r: &Replica| {
            metadata
                .member(r.node)
                .is_none_or(|m| m.facts.storage != r.id.storage || m.state == MemberState::Lost)
        };
        let only_follows = |r: &Replica| r.wish == Wish::Observer;
        let unwanted =
            |r: &Replica| only_follows(r) && metadata.member(r.node).is_some_and(|m| !observes(m));
        // Of an election that made the only voter of a copy that follows, by an earlier program: its leader
        // could propose no voters at all.
        let votes = |r: &&Replica| only_follows(r) && record.is_voter(r.id);
        if let Some(r) = record.replicas.iter().find(votes) {
            return Some(ReplicaChange::Wish { replica: r.id, wish: Wish::Voter });
        }
        let goes = |r: &&Replica| gone(r) || unwanted(r) || has_no_successor(metadata, record, r);
        if let Some(r) = record.replicas.iter().filter(|r| r.wish != Wish::Leaving).find(goes) {
            return Some(ReplicaChange::Wish { replica: r.id, wish: Wish::Leaving });
        }
        // Who votes has the places, when there are nodes that could.
        if observers_of(record) > observer_places(metadata.voters_wanted(), record) {
            let newest = record.replicas.iter().rev().find(|r| only_follows(r));
            return newest.map(|r| ReplicaChange::Wish { replica: r.id, wish: Wish::Leaving });
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
            } else if let Some(from) = moved.from.and_then(|from| record.replica(from))
                && from.wish == Wish::Leaving
                && !goes(&from)
            {
                // What came had its vote for a moment, and is left out again: what was to make room stays.
                return Some(ReplicaChange::Wish { replica: from.id, wish: Wish::Voter });
            } else if comes.is_some_and(|r| {
                let full = metadata.is_short_of_space(r.node);
                self.is_dead(now, r.node) || full && self.has_other_taker(now, metadata, record)
            }) {
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

    /// Whether a node that has room could take a replica of a partition that it does not hold. Where none
    /// could, a replica that comes to a full node waits there: begun again and again it would only fill
    /// that node each time.
    fn has_other_taker(&self, now: Instant, metadata: &Metadata, record: &PartitionRecord) -> bool {
        let holds = |node| record.replicas.iter().any(|r| r.node == node);
        let heard = |node| self.liveness.is_heard(now, node, self.settings.leader_timeout);
        let takes = |m: &Member| takes_replicas(m) && !lacks_room(m) && heard(m.id) && !holds(m.id);
        metadata.members().any(takes)
    }

    /// Whether a node has been dead for so long that what it held is rebuilt elsewhere.
    fn is_given_up(&self, now: Instant, m: &Member) -> bool {
        let patience = self.settings.session_timeout + self.settings.rebalance_grace;
        m.status == Status::Dead && self.liveness.silence(now, m.id) >= patience
    }

    /// Moves under way, without those that wait until their node has room.
    pub(super) fn moves_under_way(metadata: &Metadata) -> usize {
        let waits = |(id, moved): &(&PartitionId, &Move)| {
            metadata.partition(**id).is_some_and(|record| {
                let full = |r: &Replica| metadata.is_short_of_space(r.node);
                !record.is_voter(moved.to) && record.replica(moved.to).is_some_and(full)
            })
        };
        metadata.moves().iter().filter(|moved| !waits(moved)).count()
    }

    /// Whether moves may be begun: not while others are decided about, or as many as may be are under way.
    fn may_move(&self, now: Instant, metadata: &Metadata) -> bool {
        let busy = self.waits_for(|p| matches!(p, Proposed::Replicas(_)));
        !busy
            && now >= self.replicas_at
            && Self::moves_under_way(metadata) < self.settings.moves_max
    }

    /// Has a plan of moves made, when some may be begun.
    pub(super) fn plan_moves(&mut self, now: Instant, metadata: &Metadata) {
        if self.planning || !self.may_move(now, metadata) {
            return;
        }
        self.moving_since = None;
        self.planning = true;
        let those = |is: &dyn Fn(&Member) -> bool| {
            metadata.members().filter(|m| is(m)).map(|m| m.id).collect()
        };
        // A move to a dead node would only be given up again, and be in the way of others.
        self.effects.push(Effect::Plan(Planning {
            lost: those(&|m| self.is_given_up(now, m)),
            dead: those(&|m| self.is_dead(now, m.id)),
        }));
    }

    /// A plan was made. The metadata may have changed since: what does not fit them any more is left out,
    /// and found again by the next plan.
    pub fn planned(&mut self, now: Instant, metadata: &Metadata, plan: &Planned) {
        self.planning = false;
        if self.may_move(now, metadata) {
            self.begin_moves(now, metadata, plan);
        }
        self.add_observers(now, metadata);
    }

    /// Begins moves, as many as may be under way. Those that mend and those off nodes that are to be
    /// empty are begun also while the operator wants no balance.
    fn begin_moves(&mut self, now: Instant, metadata: &Metadata, plan: &Planned) {
        let under_way = Self::moves_under_way(metadata);
        let takes = |node: NodeId| {
            let takes = |m: &Member| takes_replicas(m) && !lacks_room(m);
            metadata.member(node).is_some_and(takes) && !self.is_dead(now, node)
        };
        let mut touched = BTreeSet::new();
        let mut changes = Vec::new();
        for step in &plan.0 {
            if under_way + changes.len() >= self.settings.moves_max {
                break;
            }
            if !metadata.balancing() && !mends(step.reason) {
                continue;
            }
            let Some(record) = metadata.partition(step.partition) else { continue };
            let adds = !matches!(step.change, Change::Remove { .. });
            if adds && record.replicas.len() >= REPLICAS_MAX {
                continue;
            }
            // A partition nobody leads goes on when somebody does.
            if record.leader.is_none() || !touched.insert(step.partition) {
                continue;
            }
            let moves = metadata.moves().contains_key(&step.partition);
            if moves || to(step).is_some_and(|node| !takes(node)) {
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
                Change::Remove { from } => on(from)
                    .filter(|r| may_be_dropped(record, r))
                    .map(|r| ReplicaChange::Wish { replica: r.id, wish: Wish::Leaving }),
            };
            changes.extend(change.map(|change| (step.partition, change)));
        }
        if !changes.is_empty() {
            self.moving_since = Some(now);
            self.change_replicas(changes);
        }
    }

    fn change_replicas(&mut self, changes: Vec<(PartitionId, ReplicaChange)>) {
        self.propose(Proposed::Replicas(changes.len()), Command::Replicas { changes });
    }

    /// What came of changes of replicas: whether all of them were refused. Whatever speaks against them
    /// may stay so: each time the wait until others are proposed is twice as long.
    pub(super) fn replicas_decided(&mut self, now: Instant, all_refused: bool) {
        if !all_refused {
            self.replicas_refused = 0;
            return;
        }
        let wait = MOVE_PAUSE * (1 << self.replicas_refused.min(WAIT_DOUBLINGS_MAX));
        self.replicas_refused += 1;
        self.replicas_at = now + wait.min(self.settings.balance_every.max(MOVE_PAUSE));
        self.moving_since = None;
    }

    /// Adds copies on nodes that observe, a few at a time, when that is due.
    pub(super) fn add_observers(&mut self, now: Instant, metadata: &Metadata) {
        let due = std::mem::take(&mut self.observers_due);
        let busy = self.waits_for(|p| matches!(p, Proposed::Replicas(_)));
        if !due || busy || now < self.replicas_at {
            return;
        }
        let heard = |m: &&Member| {
            let heard = self.liveness.is_heard(now, m.id, self.settings.leader_timeout);
            heard && observes(m) && !m.facts.condition.short_of_space
        };
        let mut changes = Vec::new();
        for member in metadata.members().filter(heard) {
            let lacks = metadata.partitions().iter().enumerate().filter(|(i, record)| {
                let rf = usize::from(metadata.rf());
                let has_room = observers_of(record) < observer_places(rf, record);
                let moves = metadata.moves().contains_key(&PartitionId(*i as u32));
                let has = record.replicas.iter().any(|r| r.node == member.id);
                record.leader.is_some() && has_room && !moves && !has
            });
            let add = ReplicaChange::Add { node: member.id, wish: Wish::Observer, replaces: None };
            let some = lacks.take(self.settings.moves_max);
            changes.extend(some.map(|(i, _)| (PartitionId(i as u32), add)));
        }
        if !changes.is_empty() {
            self.change_replicas(changes);
        }
    }

    /// Asks leaders to hand over where nodes lead too much, or should lead nothing.
    pub(super) fn balance_leaders(&mut self, now: Instant, metadata: &Metadata) {
        self.relief_at = None;
        let given_up = |m: &Member| self.is_given_up(now, m);
        let Some(topology) = topology(metadata, given_up, lacks_room) else { return };
        let heard = |node| self.liveness.is_heard(now, node, self.settings.leader_timeout);
        let choice = |(i, record): (usize, &PartitionRecord)| {
            let votes = record.replicas.iter().filter(|r| record.is_voter(r.id));
            let has_log = |r: &&Replica| !self.lost.contains_key(&(PartitionId(i as u32), r.id));
            let fit = votes.filter(|r| r.wish == Wish::Voter && heard(r.node)).filter(has_log);
            let current = record.leader.and_then(|l| record.replica(l.replica)).map(|r| r.node);
            LeaderChoice { eligible: fit.map(|r| r.node).collect(), current }
        };
        let choices: Vec<LeaderChoice> =
            metadata.partitions().iter().enumerate().map(choice).collect();
        let wanted = choose_leaders(&topology, &choices);
        let mut handovers = Vec::new();
        for (i, (choice, wanted)) in choices.iter().zip(wanted).enumerate() {
            let (Some(node), Some(wanted)) = (choice.current, wanted) else { continue };
            let record = &metadata.partitions()[i];
            let to = record.replicas.iter().find(|r| r.node == wanted).map(|r| r.id);
            if node != wanted
                && let Some(to) = to
            {
                handovers.push((node, PartitionId(i as u32), to));
            }
        }
        let full = |node: NodeId| metadata.is_short_of_space(node);
        let last = self.handed_last;
        handovers.sort_by_key(|(node, partition, _)| (!full(*node), Some(*partition) <= last));
        handovers.truncate(self.settings.handovers_max);
        if handovers.iter().any(|(node, ..)| full(*node)) {
            self.relief_at = Some(now + RELIEF_PAUSE);
        }
        self.handed_last = handovers.last().map(|(_, partition, _)| *partition).or(last);
        let handovers = handovers.into_iter();
        self.effects.extend(handovers.map(|(node, partition, to)| Effect::HandOver {
            node,
            partition,
            to,
        }));
    }
}
