//! `ironring explain`: what an error code means and what to do about it.

use ironring_core::ErrorCode;
use serde::Serialize;

use super::error::{CliError, LOCAL_CODES, USAGE};
use super::output::{Column, Output, Report, View, each};
use crate::config::load::closest;

/// A code and what to do about it.
#[derive(Clone, Debug, Serialize)]
pub struct Explained {
    /// Its name.
    pub code: &'static str,
    /// Its number in the protocol; codes of the command line have none.
    pub number: Option<u16>,
    /// What it means.
    pub meaning: String,
    /// Whether the same request may succeed later.
    pub retriable: bool,
    /// What to do.
    pub hint: &'static str,
}

/// Every code: the protocol's by number, then the command line's by name.
#[must_use]
pub fn all() -> Vec<Explained> {
    let protocol = ErrorCode::ALL.iter().map(|code| Explained {
        code: code.name(),
        number: Some(*code as u16),
        meaning: meaning(*code).to_owned(),
        retriable: code.retriable(),
        hint: code.hint(),
    });
    let local = LOCAL_CODES.iter().map(|code| Explained {
        code: code.name,
        number: None,
        meaning: code.meaning.to_owned(),
        retriable: code.retriable,
        hint: code.hint,
    });
    protocol.chain(local).collect()
}

/// What happened when a server answers with the code.
fn meaning(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Malformed => "The frame or its body does not parse. The connection is closed.",
        ErrorCode::UnsupportedVersion => "Client and server have no protocol version in common.",
        ErrorCode::UnknownOpcode => "The server does not know this kind of request.",
        ErrorCode::BadChecksum => "A checksum did not match: the frame was damaged on the way.",
        ErrorCode::TooLarge => "A frame, key, value, batch or name is longer than its limit.",
        ErrorCode::InvalidArgument => "A field of the request holds a value that is not allowed.",
        ErrorCode::HandshakeRequired => "The first frame of the connection was not a handshake.",
        ErrorCode::WrongCluster => "The client named a cluster this node does not belong to.",
        ErrorCode::TooManyConnections => "The node has as many connections as it allows.",
        ErrorCode::Overloaded => {
            "More waits already than the node lets wait. The request was not started."
        }
        ErrorCode::DeadlineExceeded => {
            "The deadline passed before the request was started. Nothing was changed."
        }
        ErrorCode::Unknown => {
            "The write was started and then its fate was lost: it may or may not be durable."
        }
        ErrorCode::NotReady => "The node is starting, recovering or stopping.",
        ErrorCode::NoSpace => "There is no space for new data, on the disk or below its limit.",
        ErrorCode::MemoryFull => "The memory ceiling leaves no room for new keys.",
        ErrorCode::ShardFenced => {
            "A disk fault stopped the shard: it acknowledges nothing it cannot keep."
        }
        ErrorCode::Corrupt => {
            "Stored bytes do not match their checksum. They are not served, and not deleted."
        }
        ErrorCode::NotLeader => {
            "The node has a copy of the partition and does not lead it, or is about to. After a failure \
             another replica leads within a second; a client library finds it by itself."
        }
        ErrorCode::TooFewReplicas => {
            "So many replicas of the partition are down that a write would be on fewer disks than \
             min_voters asks for, or that no majority of them is heard. It was refused before anything \
             was written."
        }
        ErrorCode::WrongPartition => "The request names a partition that is served elsewhere.",
        ErrorCode::NotFound => "The key does not exist or has expired.",
        ErrorCode::ConditionFailed => "The key's version is not the one the request demands.",
        ErrorCode::SessionExpired => "The node does not know the session any more.",
        ErrorCode::SequenceGap => "An earlier request of the session is missing.",
        ErrorCode::SequenceTooOld => {
            "The request was answered so long ago that its receipt is gone."
        }
        ErrorCode::UnknownTopic => "There is no topic of that name or id.",
        ErrorCode::TopicExists => "A topic of that name exists already.",
        ErrorCode::UnknownPartition => "The topic has fewer partitions than the request assumes.",
        ErrorCode::OffsetOutOfRange => "The offset was trimmed, or does not exist yet.",
    }
}

/// Explains one code, by name or number, or lists all.
///
/// # Errors
/// When there is no such code.
pub fn run(code: Option<&str>, output: Output) -> Result<(), CliError> {
    let codes = all();
    let printed = match code {
        None => output.print(&List(codes)),
        Some(wanted) => {
            let found = codes.iter().find(|explained| {
                explained.code == wanted
                    || explained.number.is_some_and(|number| number.to_string() == wanted)
            });
            let Some(found) = found else {
                let near = closest(wanted, codes.iter().map(|explained| explained.code));
                let hint = match near {
                    Some(near) => format!("did you mean {near}?"),
                    None => "`ironring explain` lists all codes".to_owned(),
                };
                return Err(CliError::hinted(&USAGE, format!("there is no code {wanted:?}"), hint));
            };
            output.print(found)
        }
    };
    printed.map_err(|error| CliError::io("stdout", &error))
}

impl Report for Explained {
    fn view(&self) -> View {
        let number =
            self.number.map_or_else(|| "none (command line)".to_owned(), |n| n.to_string());
        View::new().pairs([
            ("code", self.code.to_owned()),
            ("number", number),
            ("meaning", self.meaning.clone()),
            ("retry", retry(self.retriable).to_owned()),
            ("do", self.hint.to_owned()),
        ])
    }
}

fn retry(retriable: bool) -> &'static str {
    if retriable { "may help" } else { "does not help" }
}

#[derive(Serialize)]
#[serde(transparent)]
struct List(Vec<Explained>);

impl Report for List {
    fn view(&self) -> View {
        let row = |code: &Explained| {
            vec![
                code.number.map_or_else(|| "-".to_owned(), |number| number.to_string()).into(),
                code.code.into(),
                retry(code.retriable).into(),
                code.meaning.as_str().into(),
            ]
        };
        View::new().rows(
            &[
                Column::Right("NUMBER"),
                Column::Left("CODE"),
                Column::Left("RETRY"),
                Column::Left("MEANING"),
            ],
            self.0.iter().map(row).collect(),
        )
    }

    fn items(&self) -> serde_json::Result<Vec<serde_json::Value>> {
        each(&self.0)
    }
}
