//! Changes of the metadata, as they stand in the group's log, and what comes of them.
//!
//! Commands are JSON with a format number: a node that meets a command of a newer format stops
//! applying instead of guessing. Times and random numbers are in the command, so that every node
//! applies the same. Times are those of the leader that proposes it, whoever asked for the change
//! ([`Command::stamp`]): one clock at a time says what is early and what is late.

use ironring_core::{Incarnation, NodeId, PartitionId, StorageUuid, Term, TopicId, WallTime};
use serde::{Deserialize, Serialize};

use super::member::{Condition, Facts, MemberState, Status, VoteWish};
use super::partition::{LeaderId, Refused, ReplicaId, Wish};
use super::token::{JoinToken, TokenRefused};
use super::topic::Topic;
use crate::placement::PaceMode;

/// The newest format of commands this code writes and reads. A command is written in the oldest
/// format that has it, so that members which do not know the newest go on until one is needed.
///
/// | format | what it brought |
/// |---|---|
/// | 1 | all but the following |
/// | 2 | [`Command::SetVote`], [`Command::Replace`], the wish of a member about its vote, observers |
/// | 3 | [`Command::SetPace`] |
/// | 4 | the condition of a node ([`Facts::condition`]), [`Command::LeadWithLoss`] |
pub const COMMAND_FORMAT: u32 = 4;

/// A change of the metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// The first of all: the cluster begins with one node, which holds every partition.
    Found {
        /// Its name.
        name: String,
        /// Its identity.
        uuid: StorageUuid,
        /// How many partitions it has, a power of two.
        partitions: u32,
        /// How many replicas of each there should be.
        rf: u8,
        /// The first node.
        node: Facts,
        /// When.
        at: WallTime,
    },
    /// A node joins, or one that is a member says what it is like after a restart.
    Join {
        /// The node.
        node: Facts,
        /// The id of the token it showed; a member needs none.
        token: Option<String>,
        /// When.
        at: WallTime,
    },
    /// A node joins in place of a dead one of its name, whose storage is given up. Since format 2.
    Replace {
        /// The node.
        node: Facts,
        /// The id of the token it showed.
        token: String,
        /// When.
        at: WallTime,
    },
    /// An operator decides whether a node votes in the metadata group. Since format 2.
    SetVote {
        /// Which.
        node: NodeId,
        /// See above.
        vote: VoteWish,
    },
    /// An operator decides about a node.
    SetMember {
        /// Which.
        node: NodeId,
        /// What may be done with it.
        state: MemberState,
    },
    /// A node that holds nothing is no member any more; its id is never used again.
    Remove {
        /// Which.
        node: NodeId,
    },
    /// What the controller hears of nodes changed.
    Status {
        /// By node.
        nodes: Vec<(NodeId, Status)>,
        /// When.
        at: WallTime,
    },
    /// Elections begin.
    Elect {
        /// By partition: the term that was seen.
        partitions: Vec<(PartitionId, Term)>,
    },
    /// Elections end.
    Lead {
        /// By partition: the term, and who leads it.
        partitions: Vec<(PartitionId, Term, LeaderId)>,
    },
    /// An election ends with a replica that is the only voter from here on: it has all that is committed,
    /// and too few others are left to commit more.
    LeadUnclean {
        /// The partition.
        partition: PartitionId,
        /// The term of an election that found no quorum.
        term: Term,
        /// Who is to lead.
        leader: LeaderId,
    },
    /// An operator has a replica lead that may lack what is committed; every other begins a new life. Since
    /// format 4.
    LeadWithLoss {
        /// The partition.
        partition: PartitionId,
        /// The term of an election that found no quorum.
        term: Term,
        /// Who is to lead.
        leader: LeaderId,
    },
    /// A leader proposes voters.
    Voters {
        /// The partition.
        partition: PartitionId,
        /// The leader's term.
        term: Term,
        /// The leader.
        from: ReplicaId,
        /// The version it builds on.
        base: u64,
        /// Who is to vote.
        voters: Vec<ReplicaId>,
    },
    /// A leader hands over.
    Transfer {
        /// The partition.
        partition: PartitionId,
        /// Its term.
        term: Term,
        /// The leader.
        from: ReplicaId,
        /// Who is to lead.
        to: LeaderId,
    },
    /// Replicas come and go.
    Replicas {
        /// In order.
        changes: Vec<(PartitionId, ReplicaChange)>,
    },
    /// How many replicas there should be, and how many voters a write needs at least.
    SetKeyspace {
        /// Replicas of each partition.
        rf: u8,
        /// A partition with fewer voters refuses writes.
        min_voters: u8,
    },
    /// A join token is made.
    AddToken(JoinToken),
    /// A join token is taken back.
    RevokeToken {
        /// Which.
        id: String,
    },
    /// Whether replicas are moved for balance.
    SetBalancing(bool),
    /// How fast replicas are moved; none: as each node is configured. Since format 3.
    SetPace(Option<PaceMode>),
    /// A topic is made.
    CreateTopic {
        /// Its name.
        name: String,
        /// How many partitions it has.
        partitions: u32,
        /// How long records are kept, in milliseconds; 0: for ever.
        age_ms: u64,
        /// How many bytes of each partition are kept; 0: all.
        bytes: u64,
        /// When.
        at: WallTime,
    },
    /// A topic is dropped, with all it holds.
    DropTopic {
        /// Which.
        id: TopicId,
    },
    /// What a topic keeps is changed.
    AlterTopic {
        /// Which.
        id: TopicId,
        /// See above.
        age_ms: u64,
        /// See above.
        bytes: u64,
    },
    /// Session numbers are set aside for a node.
    GrantSessions {
        /// How many.
        count: u64,
    },
}

impl Command {
    /// Puts the time of the leader that proposes it in the place of what its sender took for the time.
    /// What is valid for so long is valid for so long still.
    pub fn stamp(&mut self, now: WallTime) {
        match self {
            Command::Found { at, .. }
            | Command::Join { at, .. }
            | Command::Replace { at, .. }
            | Command::Status { at, .. }
            | Command::CreateTopic { at, .. } => *at = now,
            Command::AddToken(token) => {
                let valid_ms = token.expires.0.saturating_sub(token.created.0);
                token.created = now;
                token.expires = WallTime(now.0.saturating_add(valid_ms));
            }
            Command::SetMember { .. }
            | Command::SetVote { .. }
            | Command::Remove { .. }
            | Command::Elect { .. }
            | Command::Lead { .. }
            | Command::LeadUnclean { .. }
            | Command::LeadWithLoss { .. }
            | Command::Voters { .. }
            | Command::Transfer { .. }
            | Command::Replicas { .. }
            | Command::SetKeyspace { .. }
            | Command::RevokeToken { .. }
            | Command::SetBalancing(_)
            | Command::SetPace(_)
            | Command::DropTopic { .. }
            | Command::AlterTopic { .. }
            | Command::GrantSessions { .. } => {}
        }
    }
}

/// One change of a partition's replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplicaChange {
    /// A learner on a node, in place of a replica that then leaves, or beside the others.
    Add {
        /// Where.
        node: NodeId,
        /// What it is meant to become.
        wish: Wish,
        /// Whom it replaces.
        replaces: Option<ReplicaId>,
    },
    /// What a replica is meant to become.
    Wish {
        /// Which.
        replica: ReplicaId,
        /// See above.
        wish: Wish,
    },
    /// A replica that does not vote is dropped.
    Drop {
        /// Which.
        replica: ReplicaId,
    },
    /// A move is given up: what it added leaves again.
    Cancel,
    /// A replica that does not vote has lost its log, and begins a new life.
    Renew {
        /// Which.
        replica: ReplicaId,
        /// Names the request: see [`super::partition::Replica::renewal`].
        renewal: u64,
    },
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rejected {
    /// The cluster exists, or does not yet.
    #[error("the cluster has been founded")]
    Founded,
    /// See above.
    #[error("the cluster has not been founded")]
    NotFounded,
    /// There is no such node.
    #[error("there is no node {0}")]
    NoNode(NodeId),
    /// Another node has that name.
    #[error(
        "node {id} has the name `{name}` with another storage ({storage}): `ironring node reinit` replaces it"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Whose it is.
        id: NodeId,
        /// Its storage.
        storage: StorageUuid,
    },
    /// The token is not taken.
    #[error("{0}")]
    Token(TokenRefused),
    /// A node that is no member shows no token.
    #[error("a node that is no member needs a join token")]
    NeedsToken,
    /// It was a member and was removed.
    #[error(
        "storage {0} belongs to a node that was removed: start it with an empty data directory"
    )]
    Removed(StorageUuid),
    /// A newer run of the node is known.
    #[error(
        "this is run {run} of node {node}, and run {known} of it is known: its data directory is an old \
         copy, or another process runs on a copy of it"
    )]
    OldRun {
        /// The node.
        node: NodeId,
        /// The run that was told of.
        run: Incarnation,
        /// The newest.
        known: Incarnation,
    },
    /// The directory is not the one that ran last.
    #[error(
        "the data directory of node {node} is not the one its last run had: it is a copy, or was restored \
         from a backup, and may lack what was acknowledged since; start it with an empty one"
    )]
    OtherCopy {
        /// The node.
        node: NodeId,
    },
    /// It holds replicas, or is needed.
    #[error("node {0} still holds replicas")]
    HoldsReplicas(NodeId),
    /// It is not dead, or not yet.
    #[error("node {id} (`{name}`) is {status}: only a dead node is replaced", status = .status.name())]
    NotDead {
        /// The name.
        name: String,
        /// Whose it is.
        id: NodeId,
        /// How it is.
        status: Status,
    },
    /// There are too many.
    #[error("there are {0} nodes, which is the most")]
    TooMany(usize),
    /// A topic has that name.
    #[error("topic `{0}` exists")]
    TopicExists(String),
    /// There is no such topic (any more).
    #[error("there is no topic {0}")]
    NoTopic(TopicId),
    /// A value is out of its range.
    #[error("{0}")]
    Invalid(String),
    /// The partition's record did not allow it.
    #[error("partition {0}: {1}")]
    Partition(PartitionId, Refused),
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is done. Of a command about several partitions: those it did not change are named.
    Done {
        /// The metadata's epoch behind it.
        epoch: u64,
        /// What was not changed, and why.
        refused: Vec<(PartitionId, Refused)>,
    },
    /// The node is a member.
    Joined {
        /// Under this number.
        node: NodeId,
        /// The metadata's epoch behind it.
        epoch: u64,
    },
    /// The topic was made, changed or, as it was last, dropped.
    Topic {
        /// The topic.
        topic: Topic,
        /// The metadata's epoch behind it.
        epoch: u64,
    },
    /// Session numbers are set aside.
    Sessions {
        /// The first of them.
        first: u64,
        /// The metadata's epoch behind it.
        epoch: u64,
    },
    /// Nothing changed.
    Rejected(Rejected),
}

/// A command or outcome that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Written by newer code.
    #[error(
        "a metadata command has format {0}, this program reads up to {COMMAND_FORMAT}: upgrade it"
    )]
    Newer(u32),
    /// Not what this code writes.
    #[error("a metadata command does not parse: {0}")]
    Malformed(#[from] serde_json::Error),
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    format: u32,
    #[serde(flatten)]
    body: T,
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

#[derive(Serialize, Deserialize)]
struct Body<T> {
    command: T,
}

impl Command {
    /// The oldest format that has it.
    #[must_use]
    pub fn format(&self) -> u32 {
        match self {
            Command::Join { node, .. } | Command::Replace { node, .. }
                if !node.condition.is_sound() =>
            {
                Condition::FORMAT
            }
            Command::SetVote { .. } | Command::Replace { .. } => 2,
            Command::Join { node, .. } if node.observer => 2,
            Command::SetPace(_) => 3,
            Command::LeadWithLoss { .. } => 4,
            _ => 1,
        }
    }

    /// As it stands in the log.
    ///
    /// # Panics
    /// Never: every command is representable.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let envelope = Envelope { format: self.format(), body: Body { command: self } };
        serde_json::to_vec(&envelope).expect("commands have string keys only")
    }

    /// From the log.
    ///
    /// # Errors
    /// When it is of a newer format, or damaged.
    pub fn decode(bytes: &[u8]) -> Result<Command, Unreadable> {
        let FormatOnly { format } = serde_json::from_slice(bytes)?;
        if format > COMMAND_FORMAT {
            return Err(Unreadable::Newer(format));
        }
        let envelope: Envelope<Body<Command>> = serde_json::from_slice(bytes)?;
        Ok(envelope.body.command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_read_as_they_were_written() {
        let replica = ReplicaId { storage: StorageUuid(u128::MAX - 5), life: 3 };
        let leader = LeaderId { replica, incarnation: ironring_core::Incarnation(9) };
        let commands = [
            Command::Elect { partitions: vec![(PartitionId(7), Term(2))] },
            Command::Lead { partitions: vec![(PartitionId(7), Term(3), leader)] },
            Command::SetBalancing(false),
            Command::Replicas {
                changes: vec![
                    (PartitionId(1), ReplicaChange::Drop { replica }),
                    (PartitionId(1), ReplicaChange::Cancel),
                ],
            },
        ];
        for command in commands {
            let bytes = command.encode();
            assert_eq!(Command::decode(&bytes).unwrap(), command);
        }
    }

    /// What stands in logs: a change here needs a new format.
    #[test]
    fn golden_text() {
        let replica = ReplicaId { storage: StorageUuid(0x0123), life: 3 };
        let command = Command::Replicas {
            changes: vec![(PartitionId(1), ReplicaChange::Wish { replica, wish: Wish::Leaving })],
        };
        let text = String::from_utf8(command.encode()).unwrap();
        let wanted = r#"{"format":1,"command":{"replicas":{"changes":[[1,{"wish":{"replica":{"storage":"00000000-0000-0000-0000-000000000123","life":3},"wish":"Leaving"}}]]}}}"#;
        assert_eq!(text, wanted);
        let command = Command::SetVote { node: NodeId(4), vote: VoteWish::Learner };
        let text = String::from_utf8(command.encode()).unwrap();
        assert_eq!(text, r#"{"format":2,"command":{"set-vote":{"node":4,"vote":"learner"}}}"#);
        let command = Command::SetPace(Some(PaceMode::Aggressive));
        let text = String::from_utf8(command.encode()).unwrap();
        assert_eq!(text, r#"{"format":3,"command":{"set-pace":"aggressive"}}"#);
        let condition = Condition { short_of_space: true, compare_undecided: 0 };
        let text = serde_json::to_string(&condition).unwrap();
        assert_eq!(text, r#"{"short_of_space":true}"#);
        let leader = LeaderId { replica, incarnation: Incarnation(9) };
        let (partition, term) = (PartitionId(7), Term(3));
        let command = Command::LeadWithLoss { partition, term, leader };
        let text = String::from_utf8(command.encode()).unwrap();
        let wanted = r#"{"format":4,"command":{"lead-with-loss":{"partition":7,"term":3,"leader":{"replica":{"storage":"00000000-0000-0000-0000-000000000123","life":3},"incarnation":9}}}}"#;
        assert_eq!(text, wanted);
    }

    #[test]
    fn times_are_those_of_the_leader() {
        let token = |created, expires| {
            Command::AddToken(JoinToken {
                id: "t".to_owned(),
                hash: String::new(),
                created: WallTime(created),
                expires: WallTime(expires),
                single_use: true,
                used_by: None,
            })
        };
        let topic = |at| Command::CreateTopic {
            name: "n".to_owned(),
            partitions: 1,
            age_ms: 5,
            bytes: 0,
            at: WallTime(at),
        };
        let status = |at| Command::Status { nodes: Vec::new(), at: WallTime(at) };
        for (mut sent, proposed) in [
            (token(9_000, 9_700), token(100, 800)),
            (token(9_000, u64::MAX), token(100, u64::MAX - 8_900)),
            (topic(9_000), topic(100)),
            (status(9_000), status(100)),
            (Command::SetBalancing(true), Command::SetBalancing(true)),
        ] {
            sent.stamp(WallTime(100));
            assert_eq!(sent, proposed);
        }
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let newer = br#"{"format":5,"command":{"something-else":1}}"#;
        assert!(matches!(Command::decode(newer), Err(Unreadable::Newer(5))));
        assert!(matches!(Command::decode(b"{}"), Err(Unreadable::Malformed(_))));
    }
}
