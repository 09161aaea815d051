//! From the actual map to the moves that mend and balance it.
//!
//! The map is authoritative, so a plan starts from it and moves a replica only for a [`Reason`]:
//!
//! | reason | when |
//! |---|---|
//! | lost | it is on a node that was given up or is no member |
//! | missing | the partition has fewer replicas than the replication factor |
//! | spread | other nodes give the partition a better spread over racks and regions |
//! | drain | it is on a node that is draining, or whose weight is 0 |
//! | surplus | the partition has more replicas than the replication factor |
//! | balance | its node, or the one it goes to, is outside the band around its fair share |
//!
//! That the ring would choose other nodes is no reason; among equal choices what the ring proposes
//! comes first. A node inside its band takes part in a balance only as the other end of a move of
//! a node outside, so a balanced map gives an empty plan and the plan for the map behind a plan is
//! empty too.
//!
//! The new map is worked out as a whole and the moves are its difference to the actual one, so no
//! replica moves twice. Order of urgency: as in the table, and partitions with the fewest copies
//! first. A copy on a node that is lost or draining stays in the map until another takes its place.

use std::collections::BTreeSet;

use ironring_core::{NodeId, PartitionId};

use super::assignment::Assignment;
use super::leaders::{LeaderChoice, choose_leaders};
use super::ring::Ring;
use super::skew::{Measured, Skew};
use super::topology::{NodeState, Topology};

/// One partition of the actual map.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PartitionState {
    /// Who holds it. The order has no meaning here and is kept: a new replica takes the place of
    /// the one it replaces, or the last.
    pub replicas: Vec<NodeId>,
    /// Who leads it, if anyone. Replicas that do not lead move first.
    pub leader: Option<NodeId>,
    /// Size of one replica, 0 when unknown. Used in figures and never in a decision.
    pub bytes: u64,
    /// Plan nothing for this partition, but count its replicas: a move of it is under way (give the
    /// replicas as they will be), or an operator wants it where it is.
    pub pinned: bool,
}

/// What a plan aims at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanRules {
    /// Replicas of a partition, 1 to 16. With fewer data nodes, one on each.
    pub rf: u8,
    /// Half the width of the band around a node's fair share, in percent of the share, in which
    /// nothing is moved for balance. 0 asks for shares that are met to one replica.
    pub tolerance_percent: u8,
}

impl PlanRules {
    /// Most replicas of a partition.
    pub const MAX_RF: u8 = 16;
}

impl Default for PlanRules {
    fn default() -> Self {
        PlanRules { rf: 3, tolerance_percent: 10 }
    }
}

/// Why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The number of partitions is fixed at creation as a power of two up to 65,536.
    #[error("a map of {0} partitions: their number is a power of two between 1 and 65536")]
    Partitions(usize),
    /// Outside 1 to [`PlanRules::MAX_RF`].
    #[error("replication factor {0}: choose 1 to {max}", max = PlanRules::MAX_RF)]
    Rf(u8),
    /// The map has a node twice in one partition.
    #[error("partition {partition} has node {node} twice")]
    Duplicate {
        /// The partition.
        partition: PartitionId,
        /// The node.
        node: NodeId,
    },
}

/// What a move does to the replicas of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// `to` takes a copy; once it counts, `from` gives its own up.
    Replace {
        /// Who gives it up.
        from: NodeId,
        /// Who takes it.
        to: NodeId,
    },
    /// `to` takes a copy.
    Add {
        /// Who takes it.
        to: NodeId,
    },
    /// `from` gives its copy up.
    Remove {
        /// Who gives it up.
        from: NodeId,
    },
}

/// Why a replica moves. Ordered by urgency, most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Its node was given up or is no member.
    Lost,
    /// The partition has too few replicas.
    Missing,
    /// The partition can be spread better over racks and regions.
    Spread,
    /// Its node is draining or has weight 0.
    Drain,
    /// The partition has too many replicas.
    Surplus,
    /// Too much or too little on one of the two nodes.
    Balance,
}

/// One step of a plan. Steps of one partition are done in their order, one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Which partition.
    pub partition: PartitionId,
    /// What happens to its replicas.
    pub change: Change,
    /// Why.
    pub reason: Reason,
    /// Bytes to be copied, as far as the size was given.
    pub bytes: u64,
}

impl Move {
    /// Does the move in a list of replicas. Panics when it is not a move of this list.
    pub fn apply(&self, replicas: &mut Vec<NodeId>) {
        let place = |node| {
            let at = replicas.iter().position(|&other| other == node);
            at.expect("the node that gives a replica up holds one")
        };
        match self.change {
            Change::Replace { from, to } => {
                let at = place(from);
                replicas[at] = to;
            }
            Change::Add { to } => replicas.push(to),
            Change::Remove { from } => {
                let at = place(from);
                replicas.remove(at);
            }
        }
    }
}

/// Moves, and what they are good for. A dry run shows this; carrying it out is the controller's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Most urgent first. Those of one partition are in order, not always side by side.
    pub moves: Vec<Move>,
    /// Figures of the actual map.
    pub before: Skew,
    /// Figures when every move is done and `leaders` lead.
    pub after: Skew,
    /// Leaders for the map behind the plan, by partition: [`choose_leaders`] with every replica on
    /// a data node eligible.
    pub leaders: Vec<Option<NodeId>>,
    /// Partitions that will have fewer replicas on data nodes than asked for: too few data nodes,
    /// or pinned.
    pub short: Vec<PartitionId>,
}

impl Plan {
    /// Bytes to be copied by all moves, as far as sizes were given.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.moves.iter().map(|step| step.bytes).sum()
    }

    /// Replicas to be copied.
    #[must_use]
    pub fn copies(&self) -> usize {
        let copies = |step: &&Move| !matches!(step.change, Change::Remove { .. });
        self.moves.iter().filter(copies).count()
    }
}

/// The plan for `map` (by partition) and the nodes of `ring`. A repeated call with the same
/// arguments gives the same plan. For 65,536 partitions on 100 nodes and one node more it takes
/// about 0.4 s, and some seconds when all racks are labelled anew: not for a thread that serves.
pub fn plan(ring: &Ring, map: &[PartitionState], rules: PlanRules) -> Result<Plan, PlanError> {
    validate(map, rules)?;
    let topology = ring.topology();
    let rf = usize::from(rules.rf);
    let indices = |nodes: &[NodeId]| nodes.iter().filter_map(|&id| topology.index(id)).collect();
    let sets = map.iter().map(|partition| indices(&partition.replicas)).collect();
    let leader = |partition: &PartitionState| partition.leader.and_then(|id| topology.index(id));
    let mut assignment = Assignment::new(topology, sets, rf)
        .with_limits(map.iter().map(leader).collect(), map.iter().map(|p| p.pinned).collect());
    assignment.repair(ring, rf);
    assignment.balance(ring, rules.tolerance_percent);
    let shares = assignment.targets().to_vec();

    let mut moves = Vec::new();
    let mut after = Vec::with_capacity(map.len());
    let mut short = Vec::new();
    for (p, (now, set)) in map.iter().zip(assignment.into_sets()).enumerate() {
        let partition = PartitionId(p as u32);
        if set.len() < rf {
            short.push(partition);
        }
        let wanted = if now.pinned { now.replicas.clone() } else { merge(topology, now, &set, rf) };
        let copies = indices_len(topology, &now.replicas);
        let steps = difference(topology, partition, now, &wanted, rf);
        let keyed = steps.into_iter().map(|(urgency, step)| ((urgency, copies), step));
        moves.extend(keyed);
        after.push(PartitionState { replicas: wanted, ..now.clone() });
    }
    // Stable: the steps of a partition never grow more urgent, so they stay in order.
    moves.sort_by_key(|&(key, _)| key);
    let leaders = leaders(topology, &after);
    let figures = |map: &[PartitionState], leaders: &[Option<NodeId>]| {
        let measured = map.iter().zip(leaders).map(|(partition, &leader)| Measured {
            replicas: &partition.replicas,
            leader,
            bytes: partition.bytes,
        });
        Skew::of(topology, &shares, measured)
    };
    let leaders_now: Vec<Option<NodeId>> = map.iter().map(|partition| partition.leader).collect();
    Ok(Plan {
        moves: moves.into_iter().map(|(_, step)| step).collect(),
        before: figures(map, &leaders_now),
        after: figures(&after, &leaders),
        leaders,
        short,
    })
}

/// Why a single change is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The partition is pinned.
    #[error("a move of this partition is under way, or it is pinned")]
    Pinned,
    /// Nothing to give up there.
    #[error("node {0} holds no replica of this partition")]
    NotThere(NodeId),
    /// It has one.
    #[error("node {0} holds a replica of this partition already")]
    AlreadyThere(NodeId),
    /// Not a data node: unknown, draining, lost or without weight.
    #[error("node {0} takes no replicas")]
    TakesNone(NodeId),
    /// Fewer racks or regions than it has.
    #[error("the replicas would be spread over fewer racks or regions than they are")]
    WorseSpread,
    /// No copy that counts would remain.
    #[error("no other replica of this partition is on a node that keeps it")]
    LastCopy,
}

/// Whether a change an operator asks for leaves the partition sound: distinct data nodes, a spread
/// no worse, at least one copy on a data node.
pub fn check(
    topology: &Topology,
    partition: &PartitionState,
    change: Change,
) -> Result<(), ChangeError> {
    if partition.pinned {
        return Err(ChangeError::Pinned);
    }
    let (from, to) = match change {
        Change::Replace { from, to } => (Some(from), Some(to)),
        Change::Add { to } => (None, Some(to)),
        Change::Remove { from } => (Some(from), None),
    };
    if let Some(from) = from.filter(|from| !partition.replicas.contains(from)) {
        return Err(ChangeError::NotThere(from));
    }
    if let Some(to) = to {
        if partition.replicas.contains(&to) {
            return Err(ChangeError::AlreadyThere(to));
        }
        if topology.index(to).is_none() {
            return Err(ChangeError::TakesNone(to));
        }
    }
    let mut after = partition.replicas.clone();
    after.retain(|&node| Some(node) != from);
    after.extend(to);
    if indices_len(topology, &after) == 0 {
        return Err(ChangeError::LastCopy);
    }
    let (old, new) = (topology.spread_cost(&partition.replicas), topology.spread_cost(&after));
    // Only like is compared with like: another number of replicas has another cost.
    let counts = indices_len(topology, &partition.replicas) == indices_len(topology, &after);
    if counts && new > old { Err(ChangeError::WorseSpread) } else { Ok(()) }
}

fn validate(map: &[PartitionState], rules: PlanRules) -> Result<(), PlanError> {
    if !map.len().is_power_of_two() || map.len() > 65_536 {
        return Err(PlanError::Partitions(map.len()));
    }
    if rules.rf == 0 || rules.rf > PlanRules::MAX_RF {
        return Err(PlanError::Rf(rules.rf));
    }
    for (p, partition) in map.iter().enumerate() {
        let mut seen = BTreeSet::new();
        if let Some(&node) = partition.replicas.iter().find(|&&node| !seen.insert(node)) {
            return Err(PlanError::Duplicate { partition: PartitionId(p as u32), node });
        }
    }
    Ok(())
}

fn indices_len(topology: &Topology, nodes: &[NodeId]) -> usize {
    nodes.iter().filter(|&&id| topology.index(id).is_some()).count()
}

/// The wanted replicas: those of the set, and copies on other nodes as long as there are too few.
/// Replicas that stay keep their places.
fn merge(topology: &Topology, now: &PartitionState, set: &[u16], rf: usize) -> Vec<NodeId> {
    let wanted: Vec<NodeId> = set.iter().map(|&at| topology.data()[usize::from(at)].id).collect();
    let mut others: Vec<NodeId> =
        now.replicas.iter().copied().filter(|&id| topology.index(id).is_none()).collect();
    others.sort_by_key(|&id| is_lost(topology, id));
    others.truncate(rf.saturating_sub(wanted.len()));
    let stays = |id: &NodeId| wanted.contains(id) || others.contains(id);
    let mut merged: Vec<NodeId> = now.replicas.iter().copied().filter(stays).collect();
    merged.extend(wanted.iter().copied().filter(|id| !now.replicas.contains(id)));
    merged
}

fn is_lost(topology: &Topology, id: NodeId) -> bool {
    topology.node(id).is_none_or(|node| node.state == NodeState::Lost)
}

/// The steps from a partition's replicas to those wanted: lost copies are replaced, missing ones
/// added, others replaced, and what is too many removed last. Each with its urgency, which does not
/// rise from one step to the next.
fn difference(
    topology: &Topology,
    partition: PartitionId,
    now: &PartitionState,
    wanted: &[NodeId],
    rf: usize,
) -> Vec<(Reason, Move)> {
    if now.replicas == wanted {
        return Vec::new();
    }
    let mut gone: Vec<NodeId> =
        now.replicas.iter().copied().filter(|id| !wanted.contains(id)).collect();
    let mut new: Vec<NodeId> =
        wanted.iter().copied().filter(|id| !now.replicas.contains(id)).collect();
    let count = indices_len(topology, &now.replicas);
    let spread_badly = count == rf.min(topology.data_nodes())
        && topology.spread_cost(&now.replicas) > topology.best_spread(count);
    let reason = |id: NodeId| match topology.node(id) {
        _ if is_lost(topology, id) => Reason::Lost,
        _ if topology.index(id).is_none() => Reason::Drain,
        _ if spread_badly => Reason::Spread,
        _ => Reason::Balance,
    };
    gone.sort_by_key(|&id| reason(id));
    let mut current = now.replicas.clone();
    let mut urgency = Reason::Lost;
    let mut steps = Vec::with_capacity(gone.len().max(new.len()));
    while !(gone.is_empty() && new.is_empty()) {
        let lost = gone.first().is_some_and(|&id| is_lost(topology, id));
        let (change, reason) = if !lost && new.len() > gone.len() || gone.is_empty() {
            (Change::Add { to: take_best(topology, &current, None, &mut new) }, Reason::Missing)
        } else if new.is_empty() {
            let from = gone.remove(0);
            (Change::Remove { from }, reason(from).min(Reason::Surplus))
        } else {
            let from = gone.remove(0);
            let to = take_best(topology, &current, Some(from), &mut new);
            (Change::Replace { from, to }, reason(from))
        };
        let bytes = if matches!(change, Change::Remove { .. }) { 0 } else { now.bytes };
        let step = Move { partition, change, reason, bytes };
        step.apply(&mut current);
        urgency = urgency.max(reason);
        steps.push((urgency, step));
    }
    steps
}

/// Takes from `new` the node that leaves the best spread on the way.
fn take_best(
    topology: &Topology,
    current: &[NodeId],
    from: Option<NodeId>,
    new: &mut Vec<NodeId>,
) -> NodeId {
    let cost = |to: NodeId| {
        let mut set: Vec<NodeId> = current.iter().copied().filter(|&n| Some(n) != from).collect();
        set.push(to);
        topology.spread_cost(&set)
    };
    let at = (0..new.len()).min_by_key(|&at| cost(new[at])).expect("a node that takes a replica");
    new.remove(at)
}

fn leaders(topology: &Topology, map: &[PartitionState]) -> Vec<Option<NodeId>> {
    let choices: Vec<LeaderChoice> = map
        .iter()
        .map(|partition| LeaderChoice {
            eligible: partition
                .replicas
                .iter()
                .copied()
                .filter(|&id| !is_lost(topology, id))
                .collect(),
            current: partition.leader,
        })
        .collect();
    choose_leaders(topology, &choices)
}
