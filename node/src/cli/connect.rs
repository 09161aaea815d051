//! What every command that talks to a node has in common: where it is, how long to wait, and how
//! its errors read.

use std::time::Duration;

use clap::Args;
use ironring_core::{Durability, ErrorCode, Offset};
use ironring_net::client::blocking::Client;
use ironring_net::client::{ClientConfig, ClientError};
use serde::{Serialize, Serializer};

use super::arguments;
use super::error::{CONNECT_FAILED, CliError, EXIT_USAGE, Fault, PROTOCOL_ERROR};

/// Where the node is and how long to wait for it.
#[derive(Args, Clone, Debug)]
pub struct ConnectArgs {
    /// Client address of a node (repeatable: tried in this order)
    #[arg(long, global = true, value_name = "HOST:PORT", default_value = "127.0.0.1:7411")]
    pub addr: Vec<String>,
    /// Refuse nodes of any other cluster
    #[arg(long, global = true, value_name = "NAME", default_value = "")]
    pub cluster: String,
    /// Longest a request may take, with all its retries
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = arguments::duration)]
    pub timeout: Duration,
}

impl ConnectArgs {
    /// The configuration of a client. `lane` keeps clients of one command apart: their pauses
    /// between retries differ.
    #[must_use]
    pub fn config(&self, durability: Durability, lane: u64) -> ClientConfig {
        ClientConfig {
            addrs: self.addr.clone(),
            cluster: self.cluster.clone(),
            name: concat!("ironring-cli/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: self.timeout.min(Duration::from_secs(5)),
            deadline: self.timeout,
            durability,
            seed: u64::from(std::process::id()) << 32 | lane,
            ..ClientConfig::new("")
        }
    }

    /// A client for reads and definitions.
    ///
    /// # Errors
    /// When no address answers.
    pub fn connect(&self) -> Result<Client, CliError> {
        Ok(Client::connect(self.config(Durability::Quorum, 0))?)
    }
}

/// How writes are acknowledged.
#[derive(Args, Clone, Copy, Debug)]
pub struct WriteArgs {
    /// Wait until the write is this durable: async, local, quorum or all
    #[arg(long, value_name = "LEVEL", default_value = "quorum", value_parser = arguments::durability)]
    pub durability: Durability,
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> CliError {
        match &error {
            ClientError::Server { code, message, .. } => {
                let message = if message.is_empty() { code.name() } else { message };
                match error.current_version() {
                    None => CliError::refused(*code, message),
                    Some(Offset::NONE) => {
                        CliError::refused(*code, format!("{message}: the key does not exist"))
                    }
                    Some(version) => CliError::refused(
                        *code,
                        format!("{message}: the key has version {version}"),
                    ),
                }
            }
            ClientError::Io { .. } => CliError::local(&CONNECT_FAILED, error.to_string()),
            ClientError::Timeout => {
                CliError::refused(ErrorCode::DeadlineExceeded, error.to_string())
            }
            ClientError::Unknown { .. } => CliError {
                faults: vec![Fault { message: error.to_string(), hint: error.hint().to_owned() }],
                ..CliError::refused(ErrorCode::Unknown, "")
            },
            ClientError::Protocol(_) => CliError::local(&PROTOCOL_ERROR, error.to_string()),
            ClientError::Request(_) => CliError {
                exit: EXIT_USAGE,
                ..CliError::refused(ErrorCode::InvalidArgument, error.to_string())
            },
        }
    }
}

/// Bytes of a user. In JSON a string when they are UTF-8, and `{"hex": "..."}` when they are not;
/// in tables text, with what cannot be shown escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

impl Blob {
    /// The bytes for a table cell: one line, escaped, cut after `chars_max` characters.
    #[must_use]
    pub fn cell(&self, chars_max: usize) -> String {
        let shown: String = match std::str::from_utf8(&self.0) {
            Ok(text) => text
                .chars()
                .flat_map(|c| {
                    let escaped = c.is_control() || c == '\\';
                    let plain = (!escaped).then_some(c);
                    plain
                        .into_iter()
                        .chain(escaped.then(|| c.escape_default()).into_iter().flatten())
                })
                .take(chars_max + 1)
                .collect(),
            Err(_) => self.0.escape_ascii().map(char::from).take(chars_max + 1).collect(),
        };
        if shown.chars().count() <= chars_max {
            return shown;
        }
        shown.chars().take(chars_max.saturating_sub(3)).chain("...".chars()).collect()
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let hex: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
                serializer.collect_map([("hex", hex)])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_text_when_they_can_be() {
        let json = |bytes: &[u8]| serde_json::to_string(&Blob(bytes.to_vec())).unwrap();
        assert_eq!(json("é\n".as_bytes()), "\"é\\n\"");
        assert_eq!(json(&[0xff, 0x00]), "{\"hex\":\"ff00\"}");

        let cell = |bytes: &[u8], max| Blob(bytes.to_vec()).cell(max);
        assert_eq!(cell("é\ta\\".as_bytes(), 20), "é\\ta\\\\");
        assert_eq!(cell(&[0xff, b'a'], 20), "\\xffa");
        assert_eq!(cell(b"0123456789", 10), "0123456789");
        assert_eq!(cell(b"0123456789a", 10), "0123456...");
    }

    #[test]
    fn failures_keep_apart_what_was_not_done_and_what_may_have_been() {
        let unknown = CliError::from(ClientError::Unknown { reason: "reset".to_owned() });
        assert_eq!((unknown.code, unknown.retriable, unknown.exit), ("unknown", true, 1));
        assert_eq!(
            unknown.faults[0].hint,
            "read back whether the write was applied before repeating it"
        );

        let timeout = CliError::from(ClientError::Timeout);
        assert_eq!((timeout.code, timeout.exit), ("deadline_exceeded", 1));

        let refused = CliError::from(ClientError::Server {
            code: ErrorCode::NoSpace,
            detail: 0,
            message: String::new(),
        });
        assert_eq!(refused.text(false).lines().next(), Some("error: no_space"));

        let io =
            ClientError::Io { address: "h:1".to_owned(), source: std::io::Error::other("refused") };
        assert_eq!(CliError::from(io).code, "connect_failed");
    }
}
