//! Requests to one node and no other, and whether a cluster serves.

use std::time::{Duration, Instant};

use ironring_core::{Durability, ErrorCode, SessionId, Token};
use ironring_net::VERSIONS;
use ironring_net::client::blocking::{Client, RawConnection};
use ironring_net::client::{ClientConfig, ClientError};
use ironring_net::codec::{decode_response, encode_request};
use ironring_net::frame;
use ironring_net::message::{Condition, Request, Response, WriteOptions};

use crate::chaos::nodes::CLUSTER;
use crate::chaos::workload::PARTITIONS;

/// How long one node may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A key of each partition, none of which a load uses.
pub fn keys() -> Vec<String> {
    let key = |partition: u32| {
        let mut names = (0..).map(|n| format!("probe-{partition}-{n}"));
        let fits =
            |name: &String| Token::of_key(name.as_bytes()).partition(PARTITIONS).0 == partition;
        names.find(fits).expect("some key has each token")
    };
    (0..PARTITIONS).map(key).collect()
}

/// Writes and reads a key of every partition at nodes at these addresses or wherever they send; the value
/// they have from here on.
///
/// # Errors
/// What a client heard of the first that could not be, within `deadline` each.
pub fn write_all_partitions(addresses: Vec<String>, deadline: Duration) -> Result<Vec<u8>, String> {
    let config = ClientConfig { addrs: addresses, deadline, ..ClientConfig::new("") };
    let mut client = connected(&config, deadline)?;
    let value = format!("{:?}", Instant::now()).into_bytes();
    for key in keys() {
        let told = |error: ClientError| format!("{key}: {error}");
        client.put(key.as_bytes(), &value).map_err(told)?;
        let found = client.get(key.as_bytes()).map_err(told)?;
        if found.is_none_or(|found| found.value != value) {
            return Err(format!("{key} does not have the value that was just acknowledged"));
        }
    }
    Ok(value)
}

fn connected(config: &ClientConfig, patience: Duration) -> Result<Client, String> {
    let begin = Instant::now();
    loop {
        match Client::connect(config.clone()) {
            Ok(client) => return Ok(client),
            Err(error) if begin.elapsed() > patience => return Err(error.to_string()),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// What one node answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A write was acknowledged.
    Acked,
    /// A value, with its version, and how old the answer may be where it says so.
    Value(Vec<u8>, u64, u32),
    /// It refused.
    Refused(ErrorCode, String),
}

/// Connects to one node, and to no other whatever it says.
pub struct Door(RawConnection);

impl Door {
    /// Connects.
    ///
    /// # Errors
    /// What the node or the system said.
    pub fn open(address: &str) -> Result<Door, String> {
        let hello = Request::Hello {
            version_min: VERSIONS.0,
            version_max: VERSIONS.1,
            features: 0,
            cluster: CLUSTER,
            client: "drill",
        };
        let until = Instant::now() + ANSWER_MAX;
        RawConnection::connect(address, &hello, until).map(Door).map_err(|error| error.to_string())
    }

    /// Stores a value at level `quorum`, outside of any session.
    ///
    /// # Errors
    /// No answer.
    pub fn put(&mut self, key: &str, value: &[u8]) -> Result<Said, String> {
        let (durability, session) = (Durability::Quorum, SessionId::NONE);
        let options = WriteOptions { durability, session, sequence: 0 };
        let (condition, key) = (Condition::None, key.as_bytes());
        let put = Request::Put { options, condition, ttl_ms: 0, key, value };
        self.ask(&put, 0, ANSWER_MAX / 2)
    }

    /// Reads a value, which the node is to answer in so much time.
    ///
    /// # Errors
    /// No answer.
    pub fn get(&mut self, key: &str, within: Duration) -> Result<Said, String> {
        self.ask(&Request::Get { key: key.as_bytes() }, 0, within)
    }

    /// Reads a value from this node's own copy.
    ///
    /// # Errors
    /// No answer.
    pub fn get_stale(&mut self, key: &str) -> Result<Said, String> {
        self.ask(&Request::Get { key: key.as_bytes() }, frame::flags::STALE, ANSWER_MAX / 2)
    }

    fn ask(&mut self, request: &Request<'_>, flags: u16, within: Duration) -> Result<Said, String> {
        let deadline_ms = within.as_millis() as u32;
        let mut bytes = Vec::new();
        encode_request(&mut bytes, 2, deadline_ms, request).map_err(|error| error.to_string())?;
        frame::set_flags(&mut bytes, flags);
        let until = Instant::now() + ANSWER_MAX;
        self.0.send(&bytes, until).map_err(|error| error.to_string())?;
        let (header, body) = self.0.receive(until).map_err(|error| error.to_string())?;
        match decode_response(&header, body).map_err(|error| error.to_string())? {
            Response::Receipt(_) => Ok(Said::Acked),
            Response::Value(found) => {
                Ok(Said::Value(found.value.to_vec(), found.version.0, header.deadline_ms))
            }
            Response::Error { code, message, .. } => Ok(Said::Refused(code, message.to_owned())),
            other => Err(format!("an answer to something else: {other:?}")),
        }
    }
}

/// Whether a refusal says that nothing was written, because this node may not decide.
pub fn is_typed(said: &Said) -> bool {
    matches!(said, Said::Refused(ErrorCode::NotLeader | ErrorCode::TooFewReplicas, _))
}

/// How often each answer was given, as `3 x not_leader, 2 x too_few_replicas`.
pub fn tally<'a>(said: impl Iterator<Item = &'a Said>) -> String {
    let mut counts = std::collections::BTreeMap::<String, u32>::new();
    for one in said {
        let name = match one {
            Said::Acked => "acked".to_owned(),
            Said::Value(..) => "value".to_owned(),
            Said::Refused(code, _) => code.name().to_owned(),
        };
        *counts.entry(name).or_default() += 1;
    }
    let counts: Vec<String> = counts.iter().map(|(name, n)| format!("{n} x {name}")).collect();
    counts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_has_a_key_of_its_own() {
        let keys = keys();
        let partitions =
            keys.iter().map(|key| Token::of_key(key.as_bytes()).partition(PARTITIONS).0);
        assert_eq!(partitions.collect::<Vec<u32>>(), (0..PARTITIONS).collect::<Vec<u32>>());
    }

    #[test]
    fn an_ack_or_an_unknown_outcome_is_no_typed_refusal() {
        let refused = |code| Said::Refused(code, String::new());
        assert!(is_typed(&refused(ErrorCode::NotLeader)));
        assert!(!is_typed(&refused(ErrorCode::Unknown)) && !is_typed(&Said::Acked));
        let said = [refused(ErrorCode::NotLeader), Said::Acked, refused(ErrorCode::NotLeader)];
        assert_eq!(tally(said.iter()), "1 x acked, 2 x not_leader");
    }
}
