//! What nodes ask each other about the cluster: messages of the metadata group and, beside them,
//! requests that its leader takes. Both travel as calls of [`crate::raft::RaftCalls`].
//!
//! The first byte says which. A request is JSON behind it: its fields may grow, and a reader that
//! meets a request of a kind it does not know says so. A node that does not lead sends it on to the one
//! that does, once.

use ironring_core::{NodeId, PartitionId, StorageUuid};
use ironring_ring::metadata::{Command, Facts, Outcome, ReplicaId};
use serde::{Deserialize, Serialize};

use super::identity::Known;
use super::operation::{Operation, Refusal};
use crate::raft::GroupError;
use crate::shard::MoveProgress;

/// A message of the metadata group follows.
const GROUP: u8 = 0;
/// A request or its answer follows.
const REQUEST: u8 = 1;

/// A message between nodes about the cluster.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Of the metadata group.
    Group(&'a [u8]),
    /// A request or its answer.
    Request(&'a [u8]),
}

impl Message<'_> {
    /// The message in these bytes; `None`: of a kind this code does not know.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Message<'_>> {
        match bytes.split_first()? {
            (&GROUP, rest) => Some(Message::Group(rest)),
            (&REQUEST, rest) => Some(Message::Request(rest)),
            _ => None,
        }
    }
}

/// Marks a message of the metadata group.
#[must_use]
pub fn group(mut message: Vec<u8>) -> Vec<u8> {
    message.insert(0, GROUP);
    message
}

/// A request to the leader of the metadata group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// A node that is no member wants to be one.
    Join {
        /// What it is.
        facts: Box<Facts>,
        /// The secret it shows.
        secret: String,
        /// It takes the place of a dead node of its name.
        #[serde(default)]
        replace: bool,
    },
    /// A member wants a change of the metadata.
    Change(Box<Command>),
    /// An operator's order.
    Operate(Operation),
    /// A snapshot of the metadata group is to be taken, on the node that is asked.
    Snapshot,
    /// How far moves are: of partitions that are led on the node that is asked, and, unless a node has
    /// passed it on, of all others.
    Moves,
    /// The controller wants a leader on the node that is asked to hand over.
    HandOver {
        /// The partition.
        partition: PartitionId,
        /// Who is to lead it.
        to: ReplicaId,
    },
}

impl Ask {
    /// Why a node may not ask this, if it may not: whoever tells of a data directory must have it, as
    /// the handshake says, and who is no member changes nothing. `passed_on`: a member passes on what
    /// another asked, and has looked at it.
    ///
    /// # Errors
    /// The reason.
    pub fn check_sender(
        &self,
        storage: StorageUuid,
        stranger: bool,
        passed_on: bool,
    ) -> Result<(), String> {
        let told = match self {
            Ask::Join { facts, .. } => facts.storage,
            _ if stranger => {
                return Err("a node that is no member changes nothing".to_owned());
            }
            Ask::Change(command) => match &**command {
                Command::Join { node, .. } => node.storage,
                _ => return Ok(()),
            },
            Ask::HandOver { .. } | Ask::Operate(_) | Ask::Snapshot | Ask::Moves => return Ok(()),
        };
        if told == storage || (passed_on && !stranger) {
            return Ok(());
        }
        Err(format!("the node has the data directory {storage} and tells of {told}"))
    }
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The node is a member.
    Joined(Admitted),
    /// The command was applied, with this outcome.
    Applied(Outcome),
    /// It was passed on: what comes of it is seen in the metadata.
    PassedOn,
    /// An operator's order was carried out.
    Operated(Operated),
    /// A snapshot was taken.
    Snapshot(Taken),
    /// How far moves are.
    Moves(Vec<MoveProgress>),
    /// It was not taken, or nobody knows.
    Failed(Failure),
}

/// What came of an operator's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operated {
    /// What is so now, or will be, for people.
    pub done: String,
    /// How many things changed; 0: it was as wanted.
    pub changed: u64,
    /// The metadata's epoch behind it.
    pub epoch: u64,
    /// What the operator should know besides.
    pub warnings: Vec<String>,
}

/// A snapshot of the metadata group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// The node that took it and keeps it.
    pub node: NodeId,
    /// The last change it reflects.
    pub index: u64,
    /// The term that change was made in.
    pub term: u64,
    /// How many snapshots the node keeps.
    pub kept: usize,
}

/// What a node that was let in needs to begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// Its id, for ever.
    pub node: NodeId,
    /// The cluster.
    pub cluster: StorageUuid,
    /// How many partitions it has.
    pub partitions: u32,
    /// The other members.
    pub members: Vec<Known>,
}

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// Nobody leads the metadata group, as far as the node that was asked knows.
    #[error("no leader of the metadata group is known")]
    NoLeader,
    /// The leader hears of no quorum, or cannot be reached.
    #[error("the metadata group does not answer: {0}")]
    Unavailable(String),
    /// It may have been taken.
    #[error("it is not known whether the change was made")]
    Unknown,
    /// It was begun: some of it was done, or may be done yet.
    #[error("{0}")]
    Begun(String),
    /// It can never be taken as it is.
    #[error("{0}")]
    Refused(String),
    /// The order is refused.
    #[error("{0}")]
    Denied(Refusal),
}

impl Failure {
    /// What failed after a part of an order was done: nobody is to be told that nothing was changed.
    #[must_use]
    pub fn half_way(self) -> Failure {
        match self {
            Failure::Unknown | Failure::Begun(_) => self,
            failure => Failure::Begun(format!("a part of it was done, then: {failure}")),
        }
    }

    /// Whether the same request may be taken later.
    #[must_use]
    pub fn retriable(&self) -> bool {
        !matches!(self, Failure::Refused(_) | Failure::Denied(_))
    }
}

impl From<GroupError> for Failure {
    fn from(error: GroupError) -> Failure {
        match error {
            GroupError::NotLeader { leader: None } => Failure::NoLeader,
            GroupError::Unknown => Failure::Unknown,
            GroupError::TooLarge { .. } | GroupError::Membership(_) => {
                Failure::Refused(error.to_string())
            }
            GroupError::NotLeader { .. }
            | GroupError::NoQuorum
            | GroupError::Bootstrapped
            | GroupError::Stopped(_) => Failure::Unavailable(error.to_string()),
        }
    }
}

/// A request on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// What is asked.
    pub ask: Ask,
    /// A member has sent it on: it is not sent on again.
    pub forwarded: bool,
}

/// A request as it is sent.
///
/// # Panics
/// Never: every request is representable.
#[must_use]
pub fn request(letter: &Letter) -> Vec<u8> {
    let mut bytes = vec![REQUEST];
    serde_json::to_writer(&mut bytes, letter).expect("requests have string keys only");
    bytes
}

/// An answer as it is sent.
///
/// # Panics
/// Never: every answer is representable.
#[must_use]
pub fn answer(answer: &Answer) -> Vec<u8> {
    let mut bytes = vec![REQUEST];
    serde_json::to_writer(&mut bytes, answer).expect("answers have string keys only");
    bytes
}

/// The request in the body of a [`Message::Request`].
///
/// # Errors
/// When this code does not know it.
pub fn read_request(body: &[u8]) -> Result<Letter, String> {
    serde_json::from_slice(body).map_err(|error| format!("a request of another version: {error}"))
}

/// The answer in the bytes that came back for [`request`].
///
/// # Errors
/// When this code does not know it.
pub fn read_answer(bytes: &[u8]) -> Result<Answer, String> {
    let Some(Message::Request(body)) = Message::of(bytes) else {
        return Err("an answer of another version".to_owned());
    };
    serde_json::from_slice(body).map_err(|error| format!("an answer of another version: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::tests::facts;

    #[test]
    fn requests_and_answers_are_read_as_they_were_written() {
        let asks = [
            Ask::Join { facts: Box::new(facts("a", 4)), secret: "s".to_owned(), replace: true },
            Ask::Change(Box::new(Command::SetBalancing(true))),
            Ask::Operate(Operation::Leave { node: NodeId(3), force: true }),
            Ask::Snapshot,
            Ask::Moves,
        ];
        for ask in asks {
            let letter = Letter { ask, forwarded: true };
            let bytes = request(&letter);
            let Some(Message::Request(body)) = Message::of(&bytes) else { panic!("a request") };
            assert_eq!(read_request(body), Ok(letter));
        }
        let known = Known {
            node: NodeId(1),
            storage: StorageUuid(u128::MAX),
            address: "a:1".to_owned(),
            shards: 2,
        };
        let admitted = Admitted {
            node: NodeId(2),
            cluster: StorageUuid(5),
            partitions: 64,
            members: vec![known],
        };
        let denied = Refusal::FewerThanReplicas { left: 2, rf: 3 };
        let operated = Operated {
            done: "it is so".to_owned(),
            changed: 1,
            epoch: 9,
            warnings: vec!["but".to_owned()],
        };
        for sent in [
            Answer::Joined(admitted),
            Answer::Failed(Failure::NoLeader),
            Answer::Failed(Failure::Begun("half".to_owned())),
            Answer::Failed(Failure::Denied(denied)),
            Answer::Operated(operated),
            Answer::Snapshot(Taken { node: NodeId(1), index: 7, term: 2, kept: 3 }),
            Answer::Moves(vec![MoveProgress {
                partition: 3,
                to: NodeId(4),
                sent_bytes: 1,
                left_bytes: 2,
                rate_bytes_per_s: 3,
                eta_s: None,
            }]),
        ] {
            assert_eq!(read_answer(&answer(&sent)), Ok(sent));
        }
    }

    #[test]
    fn nobody_tells_of_the_directory_of_another() {
        let (mine, other) = (StorageUuid(0x77), StorageUuid(1));
        let node = facts("a", 4);
        let (facts, secret) = (Box::new(node.clone()), String::new());
        let join = Ask::Join { facts, secret, replace: false };
        let again = Command::Join { node, token: None, at: ironring_core::WallTime(1) };
        let again = Ask::Change(Box::new(again));
        for ask in [&join, &again] {
            assert_eq!(ask.check_sender(mine, false, false), Ok(()));
            let why = ask.check_sender(other, false, false).unwrap_err();
            assert!(why.ends_with("tells of 00000000-0000-0000-0000-000000000077"), "{why}");
            assert_eq!(ask.check_sender(other, false, true), Ok(()), "it was looked at before");
        }
        assert_eq!(join.check_sender(mine, true, true), Ok(()));
        assert!(join.check_sender(other, true, true).is_err(), "a stranger passes nothing on");
        assert!(again.check_sender(mine, true, false).is_err(), "nor changes anything");
        let setting = Ask::Change(Box::new(Command::SetBalancing(true)));
        assert_eq!(setting.check_sender(other, false, false), Ok(()));
        assert!(setting.check_sender(other, true, false).is_err());
    }

    #[test]
    fn what_is_of_another_kind_is_told_from_what_is_damaged() {
        assert_eq!(Message::of(&group(vec![7])), Some(Message::Group(&[7])));
        assert_eq!(Message::of(&[9, 1]), None);
        assert_eq!(Message::of(&[]), None);
        assert!(read_request(br#"{"ask":{"later":1},"forwarded":false}"#).is_err());
        assert!(read_answer(&[0]).is_err());
    }
}
