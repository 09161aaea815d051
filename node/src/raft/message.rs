//! Messages between members, as bytes.
//!
//! A version byte, then MessagePack with names of fields: a field that a reader does not know is
//! skipped, so fields can be added; anything else needs a new version.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};

use super::snapshot::transfer::Piece;
use super::types::{Types, Vote};

/// The version this code speaks.
pub const VERSION: u8 = 1;

/// What a member asks another.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Take entries, or know that the leader lives.
    Append(AppendEntriesRequest<Types>),
    /// Vote.
    Vote(VoteRequest<Types>),
    /// Would you vote?
    PreVote(VoteRequest<Types>),
    /// Become the leader, or know that another becomes it.
    Transfer(TransferLeaderRequest<Types>),
    /// Take a piece of a snapshot.
    Snapshot(Piece),
}

/// The answer to a [`Request`] of the same name.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// To `Append`.
    Append(AppendEntriesResponse<Types>),
    /// To `Vote` and `PreVote`.
    Vote(VoteResponse<Types>),
    /// To `Transfer`.
    Transfer(TransferLeaderResponse<Types>),
    /// To `Snapshot`.
    Snapshot {
        /// The answering node's.
        vote: Vote,
        /// Bytes that are there; `None` when the snapshot is installed.
        have: Option<u64>,
    },
    /// The node cannot answer: it stops, or does not understand.
    Refused(String),
}

/// Bytes that are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// No bytes at all.
    #[error("an empty message")]
    Empty,
    /// Another version.
    #[error("message version {0}, this node speaks {VERSION}")]
    Version(u8),
    /// The rest does not parse.
    #[error("a message that does not parse: {0}")]
    Parse(String),
}

/// A value as bytes, without a version.
pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(value).expect("our types have only what the codec knows")
}

/// The value of bytes.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, MessageError> {
    rmp_serde::from_slice(bytes).map_err(|error| MessageError::Parse(error.to_string()))
}

/// A message: version and value.
pub(super) fn pack<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    rmp_serde::encode::write_named(&mut bytes, value)
        .expect("our types have only what the codec knows");
    bytes
}

/// The value of a message.
pub(super) fn unpack<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, MessageError> {
    match bytes.split_first() {
        None => Err(MessageError::Empty),
        Some((&VERSION, rest)) => decode(rest),
        Some((&other, _)) => Err(MessageError::Version(other)),
    }
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::*;
    use crate::raft::types::{Ballot, Command, Entry, LogId, LogPoint};

    fn append(command: Vec<u8>) -> Request {
        let at = |index| LogId::from(LogPoint { term: 2, index });
        Request::Append(AppendEntriesRequest {
            vote: Ballot { term: 2, node: 1, elected: true }.into(),
            prev_log_id: Some(at(4)),
            entries: vec![
                Entry { log_id: at(5), payload: EntryPayload::Blank },
                Entry { log_id: at(6), payload: EntryPayload::Normal(Command(command)) },
            ],
            leader_commit: None,
        })
    }

    #[test]
    fn messages_round_trip_and_commands_stay_bytes() {
        let command: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        let bytes = pack(&append(command.clone()));
        assert!(bytes.len() < 10_300, "{} bytes", bytes.len());
        let Ok(Request::Append(back)) = unpack(&bytes) else { panic!("it was just made") };
        assert_eq!(back.entries.len(), 2);
        assert_eq!(back.entries[1].payload, EntryPayload::Normal(Command(command)));
        let answer = Answer::Transfer(Ok(()));
        assert!(matches!(unpack(&pack(&answer)), Ok(Answer::Transfer(Ok(())))));
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        assert_eq!(unpack::<Request>(&[]).map(|_| ()), Err(MessageError::Empty));
        assert_eq!(unpack::<Request>(&[9, 1]).map(|_| ()), Err(MessageError::Version(9)));
        let bytes = pack(&append(vec![1, 2, 3]));
        for len in 1..bytes.len() {
            assert!(matches!(unpack::<Request>(&bytes[..len]), Err(MessageError::Parse(_))));
        }
    }
}
