//! The types openraft is instantiated with, and plain ones for everybody else.
//!
//! Terms have one leader at most (`leader_id_std`), so an entry is named by its term and index.

use std::fmt;

use openraft::impls::leader_id_std;
use openraft::vote::RaftLeaderId;
use openraft::{BasicNode, RaftTypeConfig};
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

use super::runtime::RaftRuntime;

openraft::declare_raft_types!(
    /// The metadata group's instantiation of openraft.
    pub Types:
        D = Command,
        R = Outcome,
        NodeId = u64,
        Node = BasicNode,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = RaftRuntime,
);

/// A term that has a leader.
type Committed = openraft::type_config::alias::CommittedLeaderIdOf<Types>;
/// openraft's name of an entry.
pub(super) type LogId = openraft::LogId<Committed>;
/// An entry.
pub(super) type Entry = <Types as RaftTypeConfig>::Entry;
/// A vote.
pub(super) type Vote = <Types as RaftTypeConfig>::Vote;
/// Voters, learners and their addresses.
pub(super) type Membership = openraft::Membership<u64, BasicNode>;
/// The same with the entry that set it.
pub(super) type StoredMembership = openraft::StoredMembership<Committed, u64, BasicNode>;
/// What a snapshot reflects.
pub(super) type SnapshotMeta = openraft::SnapshotMeta<Committed, u64, BasicNode>;

/// A command of the replicated state machine: opaque bytes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Command(pub Vec<u8>);

/// What the state machine made of a command: opaque bytes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Outcome(pub Vec<u8>);

macro_rules! bytes_type {
    ($name:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({} bytes)"), self.0.len())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_byte_buf(Bytes).map($name)
            }
        }
    };
}

bytes_type!(Command);
bytes_type!(Outcome);

/// Bytes of a message, kept as bytes rather than as a list of numbers.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Blob(pub Vec<u8>);

bytes_type!(Blob);

struct Bytes;

impl<'de> Visitor<'de> for Bytes {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u8>, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = seq.next_element()? {
            bytes.push(byte);
        }
        Ok(bytes)
    }
}

/// An entry's place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPoint {
    /// The term it was proposed in.
    pub term: u64,
    /// Its index; the first is 0.
    pub index: u64,
}

impl fmt::Display for LogPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.index)
    }
}

impl From<LogId> for LogPoint {
    fn from(id: LogId) -> LogPoint {
        LogPoint { term: id.committed_leader_id().term, index: id.index() }
    }
}

impl From<LogPoint> for LogId {
    fn from(point: LogPoint) -> LogId {
        LogId::new(Committed::new(point.term), point.index)
    }
}

/// Whom this node votes for, or follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ballot {
    /// The term.
    pub term: u64,
    /// The candidate, or leader.
    pub node: u64,
    /// A quorum voted for it: it is the leader.
    pub elected: bool,
}

impl From<&Vote> for Ballot {
    fn from(vote: &Vote) -> Ballot {
        let id = vote.leader_id;
        Ballot { term: id.term, node: id.voted_for, elected: vote.committed }
    }
}

impl From<Ballot> for Vote {
    fn from(ballot: Ballot) -> Vote {
        let id = leader_id_std::LeaderId::new(ballot.term, ballot.node);
        Vote { leader_id: id, committed: ballot.elected }
    }
}
