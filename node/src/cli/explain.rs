//! `ironring explain`: what an error code means and what to do about it.

use ironring_core::ErrorCode;
use serde::Serialize;

use super::error::{CliError, LOCAL_CODES, USAGE};
use super::output::{Column, Output, Report, View, each};
use crate::config::load::closest;
use crate::http::error::CODES;
use crate::http::reason::REASONS;

/// Where a code is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// In the client protocol.
    Protocol,
    /// In the tool itself.
    CommandLine,
    /// In answers over HTTP.
    Http,
    /// It is no code, but the reason of an order that is refused.
    Reason,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Protocol => "protocol",
            Kind::CommandLine => "command line",
            Kind::Http => "HTTP",
            Kind::Reason => "reason",
        }
    }
}

/// A code or a reason, and what to do about it.
#[derive(Clone, Debug, Serialize)]
pub struct Explained {
    /// Its name.
    pub code: &'static str,
    /// Where it is met.
    pub kind: Kind,
    /// Its number in the protocol; others have none.
    pub number: Option<u16>,
    /// What it means.
    pub meaning: String,
    /// Whether the same request may succeed later.
    pub retriable: bool,
    /// What to do.
    pub hint: &'static str,
}

/// The protocol's codes by number, then the command line's by name.
#[must_use]
pub fn all() -> Vec<Explained> {
    let protocol = ErrorCode::ALL.iter().map(|code| Explained {
        code: code.name(),
        kind: Kind::Protocol,
        number: Some(*code as u16),
        meaning: meaning(*code).to_owned(),
        retriable: code.retriable(),
        hint: code.hint(),
    });
    let local = LOCAL_CODES.iter().map(|code| Explained {
        code: code.name,
        kind: Kind::CommandLine,
        number: None,
        meaning: code.meaning.to_owned(),
        retriable: code.retriable,
        hint: code.hint,
    });
    protocol.chain(local).collect()
}

/// The codes of answers over HTTP, then the reasons of refused orders.
#[must_use]
pub fn over_http() -> Vec<Explained> {
    let codes = CODES.iter().map(|code| Explained {
        code: code.name,
        kind: Kind::Http,
        number: None,
        meaning: code.meaning.to_owned(),
        retriable: code.retriable,
        hint: code.hint,
    });
    let reasons = REASONS.iter().map(|reason| Explained {
        code: reason.name,
        kind: Kind::Reason,
        number: None,
        meaning: reason.meaning.to_owned(),
        // As the code `refused`, with which they come: something has to change first.
        retriable: false,
        hint: reason.hint,
    });
    codes.chain(reasons).collect()
}

/// What a name or a number stands for. Whether words are joined by `-` or by `_` does not matter.
fn find<'a>(codes: &'a [Explained], wanted: &str) -> Option<&'a Explained> {
    let name = wanted.replace('-', "_");
    codes.iter().find(|explained| {
        explained.code.replace('-', "_") == name
            || explained.number.is_some_and(|number| number.to_string() == wanted)
    })
}

/// What happened when a server answers with the code.
fn meaning(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Malformed => {
            "The frame or its body does not parse. After a frame the connection is closed; after a body it goes on."
        }
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

/// Explains one code or reason, by name or number, or lists all.
///
/// # Errors
/// When there is no such code.
pub fn run(code: Option<&str>, output: Output) -> Result<(), CliError> {
    let mut codes = all();
    codes.extend(over_http());
    let printed = match code {
        None => output.print(&List(codes)),
        Some(wanted) => {
            let Some(found) = find(&codes, wanted) else {
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
        let number = match self.number {
            Some(number) => number.to_string(),
            None => format!("none ({})", self.kind.name()),
        };
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
                code.kind.name().into(),
                retry(code.retriable).into(),
                code.meaning.as_str().into(),
            ]
        };
        View::new().rows(
            &[
                Column::Right("NUMBER"),
                Column::Left("CODE"),
                Column::Left("KIND"),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> Vec<Explained> {
        let mut codes = all();
        codes.extend(over_http());
        codes
    }

    #[test]
    fn every_code_and_reason_that_is_answered_is_explained() {
        let codes = everything();
        let http = CODES.iter().map(|code| (code.name, Kind::Http));
        let reasons = REASONS.iter().map(|reason| (reason.name, Kind::Reason));
        for (name, kind) in http.chain(reasons) {
            let found = find(&codes, name).expect(name);
            assert_eq!((found.code, found.kind), (name, kind));
            assert!(!found.meaning.is_empty() && !found.hint.is_empty(), "{name}");
        }
    }

    #[test]
    fn no_two_of_them_have_the_same_name() {
        let codes = everything();
        for explained in &codes {
            let found = find(&codes, explained.code).expect(explained.code);
            assert_eq!((found.kind, found.code), (explained.kind, explained.code));
            let same = codes.iter().filter(|other| other.code == explained.code).count();
            assert_eq!(same, 1, "{}", explained.code);
        }
    }

    #[test]
    fn a_number_and_either_way_to_join_words_find_it() {
        let codes = everything();
        let named = |wanted| find(&codes, wanted).map(|found| found.code);
        assert_eq!(named("24"), Some("no_space"));
        assert_eq!(named("outcome-unknown"), Some("outcome_unknown"));
        assert_eq!(named("last_node"), Some("last-node"));
        assert_eq!(named("nospace"), None);
    }
}
