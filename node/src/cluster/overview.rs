//! What operators look at before and after they order something: partitions, moves, what a node still
//! has to give away, and what a rebalance would do. Pure functions of the metadata.

use ironring_core::{NodeId, PartitionId, WallTime};
use ironring_ring::controller::dry_run;
use ironring_ring::metadata::{
    Member, MemberState, Metadata, Move, PartitionRecord, ReplicaId, Status, Wish,
};
use ironring_ring::placement::{Change, NodeLoad, PaceMode, Reason, Skew};
use serde::{Deserialize, Serialize};

use super::judge::Remaining;
use crate::shard::MoveProgress;

/// A node that is or is not on its way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoingView {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// What an operator decided about it: `active`, `draining`, `leaving` or `lost`.
    pub state: String,
    /// Whether it is heard: `alive`, `suspect` or `dead`.
    pub status: String,
    /// What it has.
    #[serde(flatten)]
    pub remaining: Remaining,
    /// Whether a node that drains is done: it leads nothing, and holds only what stays.
    pub drained: bool,
}

impl GoingView {
    /// A node's.
    #[must_use]
    pub fn of(metadata: &Metadata, node: NodeId) -> Option<GoingView> {
        let member = metadata.member(node)?;
        let remaining = Remaining::of(metadata, node);
        let empty = remaining.leads == 0 && remaining.replicas == remaining.stay;
        Some(GoingView {
            id: node,
            name: member.facts.name.clone(),
            state: member.state.name().to_owned(),
            status: member.status.name().to_owned(),
            remaining,
            drained: member.state != MemberState::Active && empty,
        })
    }
}

/// The stage of a move whose replica has no vote yet.
const CATCHING_UP: &str = "catching-up";

/// The stage of an observer that is sent the state.
const FILLING: &str = "filling";

/// A replica on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveView {
    /// Which partition's.
    pub partition: u32,
    /// From where; none: it is one more.
    pub from: Option<NodeId>,
    /// To where.
    pub to: Option<NodeId>,
    /// `catching-up`: the new replica has no vote yet; `taking-over`: it has, and the old one goes;
    /// `filling`: an observer is sent what there is.
    pub stage: String,
    /// Bytes sent since the partition's leader began; none: it did not say, or has not begun.
    pub sent_bytes: Option<u64>,
    /// Bytes still to be sent, about.
    pub left_bytes: Option<u64>,
    /// By how many bytes that shrinks in a second.
    pub rate_bytes_per_s: Option<u64>,
    /// Seconds to the end at that rate; none while it does not shrink.
    pub eta_s: Option<u64>,
}

impl MoveView {
    fn new(partition: PartitionId, moved: &Move, record: &PartitionRecord) -> MoveView {
        let node = |id: ReplicaId| record.replica(id).map(|replica| replica.node);
        let stage = if record.is_voter(moved.to) { "taking-over" } else { CATCHING_UP };
        MoveView {
            partition: partition.0,
            from: moved.from.and_then(node),
            to: node(moved.to),
            stage: stage.to_owned(),
            sent_bytes: None,
            left_bytes: None,
            rate_bytes_per_s: None,
            eta_s: None,
        }
    }

    /// An observer's, which the leader of its partition says it fills.
    fn of_observer(said: &MoveProgress, metadata: &Metadata) -> Option<MoveView> {
        let record = metadata.partition(PartitionId(said.partition))?;
        let replica = record.replicas.iter().find(|r| r.node == said.to)?;
        (replica.wish == Wish::Observer).then(|| MoveView {
            partition: said.partition,
            from: None,
            to: Some(said.to),
            stage: FILLING.to_owned(),
            sent_bytes: Some(said.sent_bytes),
            left_bytes: Some(said.left_bytes),
            rate_bytes_per_s: Some(said.rate_bytes_per_s),
            eta_s: said.eta_s,
        })
    }

    /// With what its partition's leader says, if it is one of these.
    fn with(self, said: &[MoveProgress]) -> MoveView {
        let its = |p: &&MoveProgress| p.partition == self.partition && Some(p.to) == self.to;
        let Some(said) = said.iter().find(its) else { return self };
        MoveView {
            sent_bytes: Some(said.sent_bytes),
            left_bytes: Some(said.left_bytes),
            rate_bytes_per_s: Some(said.rate_bytes_per_s),
            eta_s: said.eta_s,
            ..self
        }
    }
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionView {
    /// Which.
    pub partition: u32,
    /// The node that leads it.
    pub leader: Option<NodeId>,
    /// Its term.
    pub term: u64,
    /// Nodes whose replicas vote.
    pub voters: Vec<NodeId>,
    /// Nodes whose replicas have no vote.
    pub learners: Vec<NodeId>,
    /// Those of both whose replicas are to leave.
    pub leaving: Vec<NodeId>,
    /// Whether it has fewer voters than it should, for as many nodes as there are.
    pub under_replicated: bool,
    /// A replica on its way.
    pub moving: Option<MoveView>,
}

/// Which partitions are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionFilter {
    /// With a replica on this node.
    pub node: Option<NodeId>,
    /// Without a leader.
    pub leaderless: bool,
    /// With fewer voters than there should be.
    pub under_replicated: bool,
}

/// The partitions that pass all of the filter.
#[must_use]
pub fn partitions(metadata: &Metadata, filter: PartitionFilter) -> Vec<PartitionView> {
    let wanted = metadata.voters_wanted();
    let views = metadata.partitions().iter().enumerate().map(|(i, record)| {
        let id = PartitionId(i as u32);
        let nodes = |keep: &dyn Fn(&ReplicaId, Wish) -> bool| -> Vec<NodeId> {
            let kept = record.replicas.iter().filter(|r| keep(&r.id, r.wish));
            kept.map(|replica| replica.node).collect()
        };
        PartitionView {
            partition: id.0,
            leader: record.leader.and_then(|l| record.replica(l.replica)).map(|r| r.node),
            term: record.term.0,
            voters: nodes(&|replica, _| record.is_voter(*replica)),
            learners: nodes(&|replica, _| !record.is_voter(*replica)),
            leaving: nodes(&|_, wish| wish == Wish::Leaving),
            under_replicated: record.voters.len() < wanted,
            moving: metadata.moves().get(&id).map(|moved| MoveView::new(id, moved, record)),
        }
    });
    let passes = |view: &PartitionView| {
        let holds = |node: NodeId| view.voters.contains(&node) || view.learners.contains(&node);
        filter.node.is_none_or(holds)
            && (!filter.leaderless || view.leader.is_none())
            && (!filter.under_replicated || view.under_replicated)
    };
    views.filter(passes).collect()
}

/// How balancing is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebalanceView {
    /// Whether moves are begun for balance.
    pub balancing: bool,
    /// The node that begins them: the controller.
    pub controller: Option<NodeId>,
    /// Nodes that are being emptied.
    pub emptying: Vec<NodeId>,
    /// How fast replicas are moved.
    pub pace: PaceMode,
    /// An operator has said so; else the node that is asked is configured so, and others may be
    /// configured otherwise.
    pub pace_ordered: bool,
    /// Bytes that moves under way are still to send, as far as is known.
    pub left_bytes: u64,
    /// By how many bytes that shrinks in a second.
    pub rate_bytes_per_s: u64,
    /// Seconds to the end of the longest of them, if that is known of all that catch up.
    pub eta_s: Option<u64>,
    /// Moves under way.
    pub moves: Vec<MoveView>,
}

impl RebalanceView {
    /// As the metadata say, and the leaders of partitions that move; `configured` is the pace of the node
    /// that is asked.
    #[must_use]
    pub fn of(
        metadata: &Metadata,
        controller: Option<NodeId>,
        configured: PaceMode,
        said: &[MoveProgress],
    ) -> RebalanceView {
        let moves = metadata.moves().iter().filter_map(|(id, moved)| {
            Some(MoveView::new(*id, moved, metadata.partition(*id)?).with(said))
        });
        let observers = said.iter().filter_map(|said| MoveView::of_observer(said, metadata));
        let moves: Vec<MoveView> = moves.chain(observers).collect();
        let catching_up = moves.iter().filter(|m| [CATCHING_UP, FILLING].contains(&&*m.stage));
        let etas: Option<Vec<u64>> = catching_up.map(|m| m.eta_s).collect();
        let goes = |m: &&Member| m.state != MemberState::Active;
        RebalanceView {
            balancing: metadata.balancing(),
            controller,
            emptying: metadata.members().filter(goes).map(|m| m.id).collect(),
            pace: metadata.pace().unwrap_or(configured),
            pace_ordered: metadata.pace().is_some(),
            left_bytes: moves.iter().filter_map(|m| m.left_bytes).sum(),
            rate_bytes_per_s: moves.iter().filter_map(|m| m.rate_bytes_per_s).sum(),
            eta_s: etas.map(|etas| etas.into_iter().max().unwrap_or(0)),
            moves,
        }
    }
}

/// A move that would be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMove {
    /// Which partition's.
    pub partition: u32,
    /// Who gives a replica up.
    pub from: Option<NodeId>,
    /// Who takes one.
    pub to: Option<NodeId>,
    /// `lost`, `missing`, `spread`, `drain`, `surplus` or `balance`: see `docs/placement.md`.
    pub reason: String,
}

/// What one node holds, before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeShare {
    /// Which.
    pub node: NodeId,
    /// Its fair share of replicas.
    pub share: u32,
    /// Replicas.
    pub replicas: u32,
    /// Leaderships.
    pub leaders: u32,
    /// Replicas behind the plan.
    pub replicas_after: u32,
    /// Leaderships behind the plan.
    pub leaders_after: u32,
}

/// How uneven a map is: the largest load of a node to the mean, by weight.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SkewView {
    /// Of replicas.
    pub replicas: f64,
    /// Of leaderships.
    pub leaders: f64,
}

impl SkewView {
    fn of(skew: &Skew) -> SkewView {
        let ratio = |permille: u64| permille as f64 / 1000.0;
        SkewView { replicas: ratio(skew.replicas_permille), leaders: ratio(skew.leaders_permille) }
    }
}

/// What a rebalance would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanView {
    /// Whether moves are begun for balance.
    pub balancing: bool,
    /// Moves of a plan made before, which are under way.
    pub under_way: usize,
    /// Behind those.
    pub before: SkewView,
    /// Behind the plan.
    pub after: SkewView,
    /// Replicas that would be copied.
    pub copies: usize,
    /// The fewest copies with which every node could have its exact share. The plan may do with
    /// fewer: it leaves a tenth of a share as it is.
    pub copies_to_even: u64,
    /// Partitions that would have fewer replicas than they should.
    pub short: usize,
    /// By node.
    pub nodes: Vec<NodeShare>,
    /// The moves, most urgent first.
    pub moves: Vec<PlannedMove>,
}

impl PlanView {
    /// The plan for what the metadata say at `now`, if this node's patience is the controller's.
    /// Takes as long as [`dry_run`].
    #[must_use]
    pub fn of(metadata: &Metadata, now: WallTime, given_up_after_ms: u64) -> Option<PlanView> {
        let lost = |m: &Member| {
            m.status == Status::Dead && now.0.saturating_sub(m.since.0) >= given_up_after_ms
        };
        let plan = dry_run(metadata, lost)?;
        let even = plan.before.nodes.iter().map(|load| load.share.saturating_sub(load.replicas));
        let after = |node: NodeId| plan.after.nodes.iter().find(|load| load.node == node);
        let share = |load: &NodeLoad| NodeShare {
            node: load.node,
            share: load.share,
            replicas: load.replicas,
            leaders: load.leaders,
            replicas_after: after(load.node).map_or(0, |load| load.replicas),
            leaders_after: after(load.node).map_or(0, |load| load.leaders),
        };
        let planned = plan.moves.iter().map(|step| {
            let (from, to) = match step.change {
                Change::Replace { from, to } => (Some(from), Some(to)),
                Change::Add { to } => (None, Some(to)),
                Change::Remove { from } => (Some(from), None),
            };
            let reason = reason(step.reason).to_owned();
            PlannedMove { partition: step.partition.0, from, to, reason }
        });
        Some(PlanView {
            balancing: metadata.balancing(),
            under_way: metadata.moves().len(),
            before: SkewView::of(&plan.before),
            after: SkewView::of(&plan.after),
            copies: plan.copies(),
            copies_to_even: even.map(u64::from).sum(),
            short: plan.short.len(),
            nodes: plan.before.nodes.iter().map(share).collect(),
            moves: planned.collect(),
        })
    }
}

fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Lost => "lost",
        Reason::Missing => "missing",
        Reason::Spread => "spread",
        Reason::Drain => "drain",
        Reason::Surplus => "surplus",
        Reason::Balance => "balance",
    }
}
