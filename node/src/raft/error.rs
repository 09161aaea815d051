//! What can come of asking the group, besides what was asked for.

use openraft::errors::{
    ClientWriteError, Fatal, ForwardToLeader, LinearizableReadError, RaftError,
};

use super::config::RaftConfigError;
use super::link::Peer;
use super::store::StoreError;
use super::types::Types;

/// Why a group did not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] RaftConfigError),
    /// Its directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its directory can be used, and what is in it does not fit together.
    #[error("the metadata group's state: {0}")]
    State(String),
}

/// Why a request to the group failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// Another node leads, or none that is known. Nothing was changed: ask the leader.
    #[error("this node does not lead{}", leader.as_ref().map_or(String::new(), |l| format!(
        ": node {} at {} does", l.id, l.address)))]
    NotLeader {
        /// The leader.
        leader: Option<Peer>,
    },
    /// This node leads and hears of no quorum, or the leadership is just being handed on. Nothing
    /// was changed: try again a little later.
    #[error("no quorum of the metadata group answers")]
    NoQuorum,
    /// The command may be applied or not: the leadership was lost, the time was over, or the group
    /// stopped on this node, after it had been taken. Find out before it is sent again.
    #[error("it is not known whether the command will be applied")]
    Unknown,
    /// The command is too long.
    #[error("the command has {got} bytes, at most {max} are allowed")]
    TooLarge {
        /// Its bytes.
        got: usize,
        /// How many there may be.
        max: usize,
    },
    /// The change of members is not allowed, or another one is under way. Nothing was changed.
    #[error("members cannot be changed so: {0}")]
    Membership(String),
    /// This group has members already.
    #[error("the group has members already")]
    Bootstrapped,
    /// The group has stopped or failed on this node.
    #[error("the metadata group has stopped on this node: {0}")]
    Stopped(String),
}

fn not_leader(forward: ForwardToLeader<Types>) -> GroupError {
    use openraft::errors::ForwardReason;
    match forward.reason {
        ForwardReason::LeaseExpired => GroupError::NoQuorum,
        ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => {
            let leader = forward.leader_id.zip(forward.leader_node);
            let leader = leader.map(|(id, node)| Peer { id, address: node.addr });
            GroupError::NotLeader { leader }
        }
    }
}

impl From<Fatal<Types>> for GroupError {
    fn from(fatal: Fatal<Types>) -> GroupError {
        GroupError::Stopped(fatal.to_string())
    }
}

impl From<RaftError<Types, ClientWriteError<Types>>> for GroupError {
    fn from(error: RaftError<Types, ClientWriteError<Types>>) -> GroupError {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => not_leader(forward),
            RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => GroupError::Unknown,
            RaftError::APIError(error) => GroupError::Membership(error.to_string()),
            RaftError::Fatal(fatal) => fatal.into(),
        }
    }
}

impl From<RaftError<Types, LinearizableReadError<Types>>> for GroupError {
    fn from(error: RaftError<Types, LinearizableReadError<Types>>) -> GroupError {
        match error {
            RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => {
                not_leader(forward)
            }
            RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => GroupError::NoQuorum,
            RaftError::Fatal(fatal) => fatal.into(),
        }
    }
}
