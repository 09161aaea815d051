//! What operators order, and why an order is refused. Whether it may be done, and how, is judged in
//! [`super::judge`].

use ironring_core::{NodeId, PartitionId};
use ironring_ring::metadata::{MemberState, RF_MAX, Status, VoteWish};
use ironring_ring::placement::PaceMode;
use serde::{Deserialize, Serialize};

/// What an operator orders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// A node is to give away what it leads and holds, and serves on.
    Drain {
        /// Which.
        node: NodeId,
        /// Although a node that leaves then finds too few to take its replicas.
        force: bool,
    },
    /// A node is to take replicas and lead again.
    Resume {
        /// Which.
        node: NodeId,
    },
    /// A node is to give everything away and then be no member any more.
    Leave {
        /// Which.
        node: NodeId,
        /// Although partitions then have fewer replicas than they should.
        force: bool,
    },
    /// A dead node is given up, with what it holds.
    GiveUp {
        /// Which.
        node: NodeId,
        /// Although it may hold what no other node has.
        force: bool,
    },
    /// Whether a node votes in the metadata group.
    Vote {
        /// Which.
        node: NodeId,
        /// See above.
        vote: VoteWish,
    },
    /// Another node is to lead the metadata group.
    LeadGroup {
        /// Which; none: the one that has the most of it.
        node: Option<NodeId>,
    },
    /// Whether replicas are moved for balance.
    Balance {
        /// See above.
        on: bool,
        /// How fast, from here on; none: as it is.
        #[serde(default)]
        pace: Option<PaceWish>,
    },
    /// How many replicas partitions have, and how many of them must vote for a write.
    Configure {
        /// Replicas of each partition; none: as it is.
        rf: Option<u8>,
        /// A partition with fewer voters takes no writes; none: as it is.
        min_voters: Option<u8>,
        /// Although partitions then take no writes.
        force: bool,
    },
    /// Moves that are under way are given up.
    Cancel {
        /// That of one partition; none: all, and no others are begun for balance.
        partition: Option<PartitionId>,
    },
    /// A replica is moved.
    Move {
        /// Of which partition.
        partition: PartitionId,
        /// From where.
        from: NodeId,
        /// To where.
        to: NodeId,
    },
    /// Another voter is to lead a partition.
    Lead {
        /// Which partition.
        partition: PartitionId,
        /// On which node.
        node: NodeId,
    },
    /// A replica is to lead a partition that has lost most of its voters, whatever it lacks.
    LeadUnclean {
        /// Which partition.
        partition: PartitionId,
        /// On which node.
        node: NodeId,
        /// Although nobody knows what it has.
        #[serde(default)]
        force: bool,
    },
}

/// How fast an operator wants replicas moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PaceWish {
    /// 10 % of what a node could move
    Gradual,
    /// 50 % of it
    Aggressive,
    /// 10 % beside a busy foreground, up to 80 % beside an idle one
    Progressive,
    /// Whatever each node is configured for (`movement.pace`)
    Configured,
}

impl PaceWish {
    /// The mode; none: as each node is configured.
    pub(super) fn mode(self) -> Option<PaceMode> {
        match self {
            PaceWish::Gradual => Some(PaceMode::Gradual),
            PaceWish::Aggressive => Some(PaceMode::Aggressive),
            PaceWish::Progressive => Some(PaceMode::Progressive),
            PaceWish::Configured => None,
        }
    }
}

/// Why an order is not carried out. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// There is no such node.
    #[error("there is no node {0}")]
    NoNode(NodeId),
    /// There is no such partition.
    #[error("there is no partition {0}")]
    NoPartition(PartitionId),
    /// An earlier decision stands against it.
    #[error("node {node} is {state}", state = .state.name())]
    State {
        /// Which.
        node: NodeId,
        /// What was decided about it.
        state: MemberState,
    },
    /// Nobody else could take anything.
    #[error("no other node takes replicas: what node {0} holds has nowhere to go")]
    LastNode(NodeId),
    /// Too few nodes would take replicas.
    #[error(
        "{left} nodes would be left for {rf} replicas of each partition: add a node first; with \
         --force partitions keep {left}, and survive fewer failures"
    )]
    FewerThanReplicas {
        /// Nodes that would take replicas.
        left: usize,
        /// Replicas wanted.
        rf: u8,
    },
    /// The metadata group would stand still.
    #[error(
        "of the {voters} voters the metadata group would have {heard} are heard, and {needed} are \
         needed: it would stand still; give up the dead ones first (`ironring cluster leave --lost`)"
    )]
    BreaksQuorum {
        /// Voters there would be.
        voters: usize,
        /// Those that are heard.
        heard: usize,
        /// How many must be.
        needed: usize,
    },
    /// Nobody would vote.
    #[error("node {0} is the only voter of the metadata group")]
    LastVoter(NodeId),
    /// There are as many voters as there may be.
    #[error("the metadata group has {0} voters, which is the most: demote one first")]
    TooManyVoters(usize),
    /// Only a dead node is given up.
    #[error("node {node} is {status}, and only a dead node is given up: {hint}",
        status = .status.name(),
        hint = match .status {
            Status::Alive => "`ironring cluster leave` without --lost lets it go without loss",
            _ => "a silent node is dead after controller.session_timeout_ms",
        })]
    NotDead {
        /// Which.
        node: NodeId,
        /// How it is.
        status: Status,
    },
    /// What only that node has would be gone.
    #[error(
        "without node {node} {partitions} partitions have no majority of their voters: what was \
         acknowledged there may be on it alone; with --force it is given up, and `ironring partition \
         elect-unclean` lets them go on with what is left"
    )]
    LosesData {
        /// Which.
        node: NodeId,
        /// How many.
        partitions: usize,
    },
    /// It is not heard.
    #[error("node {0} is not heard")]
    NotHeard(NodeId),
    /// It has no vote in the metadata group.
    #[error("node {0} has no vote in the metadata group: only a voter leads it")]
    NoVote(NodeId),
    /// There is nobody to lead in its place.
    #[error("no other voter of the metadata group is heard and active")]
    NoOtherVoter,
    /// A member runs an older program.
    #[error(
        "node {node} knows metadata commands up to format {has}, this needs {needs}: upgrade it"
    )]
    OldProgram {
        /// Which.
        node: NodeId,
        /// What it knows.
        has: u32,
        /// What is needed.
        needs: u32,
    },
    /// Out of range, or of no sense together.
    #[error(
        "{rf} replicas of each partition, of which {min_voters} must vote for a write: use 1 to \
         {RF_MAX} replicas, and from 1 to as many voters as replicas"
    )]
    Keyspace {
        /// Replicas wanted.
        rf: u8,
        /// Voters needed.
        min_voters: u8,
    },
    /// Too few replicas vote for what is asked for.
    #[error(
        "{partitions} partitions have fewer than {min_voters} voters now, and would take no writes \
         until they have: wait for them (`ironring partition list`), or use --force"
    )]
    StopsWrites {
        /// Which would.
        partitions: usize,
        /// Voters needed.
        min_voters: u8,
    },
    /// There is nothing to cancel.
    #[error("no move of partition {0} is under way")]
    NotMoving(PartitionId),
    /// One at a time.
    #[error("a move of partition {0} is under way")]
    Moving(PartitionId),
    /// There is no replica there.
    #[error("node {node} has no replica of partition {partition}")]
    NoReplica {
        /// Which partition.
        partition: PartitionId,
        /// Which node.
        node: NodeId,
    },
    /// There is a replica there.
    #[error("node {node} has a replica of partition {partition}")]
    HasReplica {
        /// Which partition.
        partition: PartitionId,
        /// Which node.
        node: NodeId,
    },
    /// No replica may come there.
    #[error(
        "node {0} takes no replicas: it drains, leaves, is not heard, observes or has no weight"
    )]
    TakesNone(NodeId),
    /// It never votes.
    #[error("node {0} is an observer (node.role): it never votes")]
    Observer(NodeId),
    /// Its replica has no vote.
    #[error("the replica of partition {partition} on node {node} has no vote, or is to leave")]
    NotVoter {
        /// Which partition.
        partition: PartitionId,
        /// Which node.
        node: NodeId,
    },
    /// Nobody leads it.
    #[error("nobody leads partition {0}")]
    Leaderless(PartitionId),
    /// It has a leader.
    #[error("partition {0} has a leader: nothing has to be given up")]
    Led(PartitionId),
    /// It will have one.
    #[error(
        "of the voters of partition {0} enough are heard to elect one of them, or were a moment ago: a \
         silent node counts as gone when it is dead, after controller.session_timeout_ms"
    )]
    QuorumHeard(PartitionId),
    /// Nobody knows what it has.
    #[error(
        "the replica of partition {partition} on node {node} has not said how far its log is: it does \
         not vote and may be far behind, or its copy is damaged or lost; with --force it leads with \
         whatever it has, and every other copy is emptied"
    )]
    UnknownCopy {
        /// Which partition.
        partition: PartitionId,
        /// Which node.
        node: NodeId,
    },
}

impl Refusal {
    /// Its stable name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Refusal::NoNode(_) => "no-node",
            Refusal::NoPartition(_) => "no-partition",
            Refusal::State { .. } => "state",
            Refusal::LastNode(_) => "last-node",
            Refusal::FewerThanReplicas { .. } => "fewer-than-replicas",
            Refusal::BreaksQuorum { .. } => "breaks-quorum",
            Refusal::LastVoter(_) => "last-voter",
            Refusal::TooManyVoters(_) => "too-many-voters",
            Refusal::NotDead { .. } => "not-dead",
            Refusal::LosesData { .. } => "loses-data",
            Refusal::NotHeard(_) => "not-heard",
            Refusal::NoVote(_) => "no-vote",
            Refusal::NoOtherVoter => "no-other-voter",
            Refusal::OldProgram { .. } => "old-program",
            Refusal::Keyspace { .. } => "keyspace",
            Refusal::StopsWrites { .. } => "stops-writes",
            Refusal::NotMoving(_) => "not-moving",
            Refusal::Moving(_) => "moving",
            Refusal::NoReplica { .. } => "no-replica",
            Refusal::HasReplica { .. } => "has-replica",
            Refusal::TakesNone(_) => "takes-none",
            Refusal::Observer(_) => "observer",
            Refusal::NotVoter { .. } => "not-voter",
            Refusal::Leaderless(_) => "leaderless",
            Refusal::Led(_) => "led",
            Refusal::QuorumHeard(_) => "quorum-heard",
            Refusal::UnknownCopy { .. } => "unknown-copy",
        }
    }
}
