//! What operators order over HTTP, and what they look at for it. Any node answers; orders go to the
//! leader of the metadata group, which judges them ([`crate::cluster::judge`]).

use axum::Json;
use axum::extract::State;
use ironring_core::{NodeId, PartitionId};
use ironring_ring::metadata::{Metadata, VoteWish};
use serde::{Deserialize, Serialize};

use super::cluster::ask;
use super::error::HttpError;
use super::request::{Body, Path, Query};
use super::routes::Shared;
use crate::cluster::operation::{Operation, PaceWish, Refusal};
use crate::cluster::overview::{
    GoingView, PartitionFilter, PartitionView, PlanView, RebalanceView, partitions as listed,
};
use crate::cluster::plane::{Answer, Ask, Operated, Taken};
use crate::driver::clock;

/// A node, by its number or its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum NodeName {
    /// Its number.
    Id(u64),
    /// Its name; digits only are its number, which no name is.
    Name(String),
}

impl NodeName {
    fn resolve(&self, metadata: &Metadata) -> Result<NodeId, HttpError> {
        let by_name = |name: &str| metadata.members().find(|m| m.facts.name == name).map(|m| m.id);
        let found = match self {
            NodeName::Id(id) => Ok(NodeId(*id)),
            NodeName::Name(name) => name.parse().map(NodeId).or_else(|_| by_name(name).ok_or(name)),
        };
        let id = found.map_err(|name| HttpError::refused(format!("there is no node `{name}`")))?;
        match metadata.member(id) {
            Some(_) => Ok(id),
            None => Err(HttpError::denied(&Refusal::NoNode(id))),
        }
    }
}

/// Has an order carried out.
async fn operate(shared: &Shared, operation: Operation) -> Result<Json<Operated>, HttpError> {
    match ask(shared, Ask::Operate(operation)).await? {
        Answer::Operated(operated) => Ok(Json(operated)),
        _ => Err(HttpError::internal("an answer to something else")),
    }
}

fn named(shared: &Shared, node: &NodeName) -> Result<NodeId, HttpError> {
    node.resolve(&shared.board().metadata())
}

/// The node that is asked.
fn this_node(shared: &Shared) -> Result<NodeId, HttpError> {
    let group = shared.board().group();
    let group = group.ok_or_else(|| HttpError::unavailable("the metadata group starts"))?;
    Ok(NodeId(group.id))
}

/// Which node is to leave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LeaveWish {
    /// None: the one that is asked.
    pub node: Option<NodeName>,
    /// It is dead and given up, with what it holds.
    pub lost: bool,
    /// Whatever is lost by that.
    pub force: bool,
}

pub(super) async fn leave(
    State(shared): State<Shared>,
    Body(wish): Body<LeaveWish>,
) -> Result<Json<Operated>, HttpError> {
    let node = match &wish.node {
        Some(node) => named(&shared, node)?,
        None if wish.lost => return Err(HttpError::refused("a node does not give itself up")),
        None => this_node(&shared)?,
    };
    let force = wish.force;
    let operation = match wish.lost {
        true => Operation::GiveUp { node, force },
        false => Operation::Leave { node, force },
    };
    operate(&shared, operation).await
}

/// Which node is to vote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VoteOrder {
    /// Which.
    pub node: NodeName,
    /// The cluster decides from here on.
    #[serde(default)]
    pub auto: bool,
}

pub(super) async fn promote(
    State(shared): State<Shared>,
    Body(order): Body<VoteOrder>,
) -> Result<Json<Operated>, HttpError> {
    vote(&shared, &order, VoteWish::Voter).await
}

pub(super) async fn demote(
    State(shared): State<Shared>,
    Body(order): Body<VoteOrder>,
) -> Result<Json<Operated>, HttpError> {
    vote(&shared, &order, VoteWish::Learner).await
}

async fn vote(
    shared: &Shared,
    order: &VoteOrder,
    vote: VoteWish,
) -> Result<Json<Operated>, HttpError> {
    let node = named(shared, &order.node)?;
    let vote = if order.auto { VoteWish::Auto } else { vote };
    operate(shared, Operation::Vote { node, vote }).await
}

/// Which node is to lead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TransferWish {
    /// None: whichever voter has the most.
    pub to: Option<NodeName>,
}

pub(super) async fn transfer(
    State(shared): State<Shared>,
    Body(wish): Body<TransferWish>,
) -> Result<Json<Operated>, HttpError> {
    let node = wish.to.as_ref().map(|to| named(&shared, to)).transpose()?;
    operate(&shared, Operation::LeadGroup { node }).await
}

pub(super) async fn snapshot(State(shared): State<Shared>) -> Result<Json<Taken>, HttpError> {
    match ask(&shared, Ask::Snapshot).await? {
        Answer::Snapshot(taken) => Ok(Json(taken)),
        _ => Err(HttpError::internal("an answer to something else")),
    }
}

/// What the cluster's keyspace is to be like. What is not named stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigureWish {
    /// Replicas of each partition.
    pub replication_factor: Option<u8>,
    /// Voters a partition needs to take writes.
    pub min_voters: Option<u8>,
    /// Although partitions then take no writes.
    pub force: bool,
}

pub(super) async fn configure(
    State(shared): State<Shared>,
    Body(wish): Body<ConfigureWish>,
) -> Result<Json<Operated>, HttpError> {
    let ConfigureWish { replication_factor: rf, min_voters, force } = wish;
    if rf.or(min_voters).is_none() {
        return Err(HttpError::refused("name replication_factor, min_voters or both"));
    }
    operate(&shared, Operation::Configure { rf, min_voters, force }).await
}

pub(super) async fn rebalance(State(shared): State<Shared>) -> Json<RebalanceView> {
    let board = shared.board();
    // Without an answer it is not known how far they are.
    let moves = match ask(&shared, Ask::Moves).await {
        Ok(Answer::Moves(moves)) => moves,
        _ => board.moves(),
    };
    Json(RebalanceView::of(&board.metadata(), board.leader(), board.pace(), &moves))
}

pub(super) async fn rebalance_plan(
    State(shared): State<Shared>,
) -> Result<Json<PlanView>, HttpError> {
    let board = shared.board();
    let (metadata, after_ms) = (board.metadata(), board.given_up_after_ms());
    // It may take some seconds for many partitions, also when who asked has gone.
    let turn = shared.plans().await;
    let plan = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        PlanView::of(&metadata, clock::now().wall, after_ms)
    });
    let plan = plan.await.map_err(|_| HttpError::internal("the plan could not be made"))?;
    plan.map(Json).ok_or_else(|| HttpError::unavailable("there is nothing to plan for yet"))
}

/// What is to become of moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RebalanceOrder {
    /// See [`RebalanceAction`].
    pub action: RebalanceAction,
    /// For `cancel`: that of this partition only.
    #[serde(default)]
    pub partition: Option<u32>,
    /// For `start`: how fast, from here on.
    #[serde(default)]
    pub pace: Option<PaceWish>,
}

/// What is to become of moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RebalanceAction {
    /// Moves are begun for balance.
    Start,
    /// No more moves are begun for balance.
    Pause,
    /// Those under way are given up, and no more are begun for balance.
    Cancel,
}

pub(super) async fn set_rebalance(
    State(shared): State<Shared>,
    Body(order): Body<RebalanceOrder>,
) -> Result<Json<Operated>, HttpError> {
    let operation = match order.action {
        RebalanceAction::Start => Operation::Balance { on: true, pace: order.pace },
        RebalanceAction::Pause => Operation::Balance { on: false, pace: None },
        RebalanceAction::Cancel => {
            Operation::Cancel { partition: order.partition.map(PartitionId) }
        }
    };
    if order.partition.is_some() && order.action != RebalanceAction::Cancel {
        return Err(HttpError::refused("only a move is cancelled by its partition"));
    }
    if order.pace.is_some() && order.action != RebalanceAction::Start {
        return Err(HttpError::refused("a pace is for `start`"));
    }
    operate(&shared, operation).await
}

pub(super) async fn going(
    State(shared): State<Shared>,
    Path(id): Path<String>,
) -> Result<Json<GoingView>, HttpError> {
    let metadata = shared.board().metadata();
    let node = NodeName::Name(id).resolve(&metadata)?;
    let view = GoingView::of(&metadata, node);
    view.map(Json).ok_or_else(|| HttpError::denied(&Refusal::NoNode(node)))
}

/// How a node drains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DrainWish {
    /// Although a node that leaves then finds too few to take its replicas.
    pub force: bool,
}

pub(super) async fn drain(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    Body(wish): Body<DrainWish>,
) -> Result<Json<Operated>, HttpError> {
    let node = named(&shared, &NodeName::Name(id))?;
    operate(&shared, Operation::Drain { node, force: wish.force }).await
}

pub(super) async fn resume(
    State(shared): State<Shared>,
    Path(id): Path<String>,
) -> Result<Json<Operated>, HttpError> {
    let node = named(&shared, &NodeName::Name(id))?;
    operate(&shared, Operation::Resume { node }).await
}

/// Which partitions are listed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PartitionQuery {
    node: Option<String>,
    leaderless: bool,
    under_replicated: bool,
}

pub(super) async fn partitions(
    State(shared): State<Shared>,
    Query(query): Query<PartitionQuery>,
) -> Result<Json<Vec<PartitionView>>, HttpError> {
    let metadata = shared.board().metadata();
    let node = query.node.map(|node| NodeName::Name(node).resolve(&metadata)).transpose()?;
    let PartitionQuery { leaderless, under_replicated, .. } = query;
    Ok(Json(listed(&metadata, PartitionFilter { node, leaderless, under_replicated })))
}

/// Where a replica is moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveOrder {
    /// Where it is.
    pub from: NodeName,
    /// Where it is to be.
    pub to: NodeName,
}

pub(super) async fn move_partition(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    Body(order): Body<MoveOrder>,
) -> Result<Json<Operated>, HttpError> {
    let partition = partition(&id)?;
    let (from, to) = (named(&shared, &order.from)?, named(&shared, &order.to)?);
    operate(&shared, Operation::Move { partition, from, to }).await
}

/// Which replica is to lead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeadOrder {
    /// Where it is.
    pub to: NodeName,
}

/// Which replica is to lead, whatever it lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UncleanOrder {
    /// Where it is.
    pub to: NodeName,
    /// Although nobody knows what it has.
    #[serde(default)]
    pub force: bool,
}

pub(super) async fn transfer_partition(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    Body(order): Body<LeadOrder>,
) -> Result<Json<Operated>, HttpError> {
    let (partition, node) = (partition(&id)?, named(&shared, &order.to)?);
    operate(&shared, Operation::Lead { partition, node }).await
}

pub(super) async fn elect_unclean(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    Body(order): Body<UncleanOrder>,
) -> Result<Json<Operated>, HttpError> {
    let (partition, node) = (partition(&id)?, named(&shared, &order.to)?);
    operate(&shared, Operation::LeadUnclean { partition, node, force: order.force }).await
}

fn partition(id: &str) -> Result<PartitionId, HttpError> {
    let id = id.parse().map(PartitionId);
    id.map_err(|_| HttpError::refused("a partition is a whole number from 0 on"))
}

#[cfg(test)]
mod tests {
    use ironring_core::WallTime;
    use ironring_ring::metadata::Command;

    use super::*;
    use crate::cluster::tests::cluster_of;

    #[test]
    fn digits_are_the_id_of_a_node_whoever_is_called_so() {
        let mut metadata = cluster_of(3);
        for (n, name) in [(1, "0"), (2, "1"), (3, "c")] {
            let mut node = metadata.member(NodeId(n)).unwrap().facts.clone();
            node.name = name.to_owned();
            metadata.apply(&Command::Join { node, token: None, at: WallTime(9) });
        }
        let names: Vec<_> = metadata.members().map(|m| (m.id.0, m.facts.name.as_str())).collect();
        assert_eq!(names, [(1, "0"), (2, "1"), (3, "c")]);
        let resolve = |name: &str| NodeName::Name(name.to_owned()).resolve(&metadata).ok();
        assert_eq!(resolve("1"), Some(NodeId(1)), "and not the one that is called 1");
        assert_eq!((resolve("c"), resolve("3")), (Some(NodeId(3)), Some(NodeId(3))));
        assert_eq!((resolve("0"), resolve("d")), (None, None));
    }
}
