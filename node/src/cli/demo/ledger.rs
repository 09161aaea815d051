//! What the demo wrote and was told: kept outside the node, so that it can be held against it.

use ironring_core::prng::Prng;
use ironring_net::client::ClientConfig;
use ironring_net::client::blocking::Client;

use super::load::Spec;
use crate::cli::error::{CliError, START_FAILED};

/// Keys read in one request when verifying.
const KEYS_PER_READ: usize = 256;

/// How one put ended for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged as durable.
    Acked,
    /// Not known: it may be there or not.
    Unknown,
    /// Refused: it must not be there.
    Refused,
}

/// The puts of one connection, in order, with their latencies.
pub struct Page {
    /// Number of the connection.
    pub writer: u16,
    /// Put n of the connection has index n.
    pub outcomes: Vec<Outcome>,
    /// Microseconds to the durable ack.
    pub latency: hdrhistogram::Histogram<u64>,
    /// The last refusal.
    pub last_error: Option<String>,
}

/// All of them.
pub struct Ledger {
    /// One per connection.
    pub pages: Vec<Page>,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Acknowledged puts.
    pub acked: u64,
    /// Of those, found with the right bytes.
    pub found: u64,
    /// Of those, not found.
    pub lost: u64,
    /// Found with other bytes than were put, acknowledged or not.
    pub wrong: u64,
    /// Puts whose outcome the client did not learn.
    pub unknown: u64,
    /// Puts that were refused, and yet are there.
    pub refused_found: u64,
}

/// The key of put `n` of a connection.
#[must_use]
pub fn key(writer: u16, n: usize) -> String {
    format!("demo/{writer:04}/{n:09}")
}

/// The value of put `n` of a connection: random bytes anybody can make again.
#[must_use]
pub fn value(writer: u16, n: usize, bytes: u32) -> Vec<u8> {
    let mut out = vec![0; bytes as usize];
    Prng::new((u64::from(writer) << 40) ^ n as u64).fill(&mut out);
    out
}

impl Ledger {
    /// Reads every key back and compares it with what was put.
    pub fn verify(&self, spec: &Spec) -> Result<Verified, CliError> {
        let failed = |e: ironring_net::client::ClientError| {
            CliError::local(&START_FAILED, format!("reading back failed: {e}"))
        };
        let mut client =
            Client::connect(ClientConfig::new(spec.address.to_string())).map_err(failed)?;
        let mut seen = Verified::default();
        for page in &self.pages {
            for (chunk, outcomes) in page.outcomes.chunks(KEYS_PER_READ).enumerate() {
                let first = chunk * KEYS_PER_READ;
                let keys: Vec<String> =
                    (0..outcomes.len()).map(|i| key(page.writer, first + i)).collect();
                let values = client.multi_get(&keys).map_err(failed)?;
                for (i, (outcome, stored)) in outcomes.iter().zip(values).enumerate() {
                    let expected = value(page.writer, first + i, spec.value_bytes);
                    seen.count(*outcome, stored.map(|v| v.value == expected));
                }
            }
        }
        Ok(seen)
    }
}

impl Verified {
    /// `right`: whether the bytes found are those put; `None` when nothing was found.
    fn count(&mut self, outcome: Outcome, right: Option<bool>) {
        self.wrong += u64::from(right == Some(false));
        match outcome {
            Outcome::Acked => {
                self.acked += 1;
                self.found += u64::from(right == Some(true));
                self.lost += u64::from(right.is_none());
            }
            Outcome::Unknown => self.unknown += 1,
            Outcome::Refused => self.refused_found += u64::from(right.is_some()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_is_counted_where_it_belongs() {
        let mut v = Verified::default();
        for outcome in [Outcome::Acked, Outcome::Unknown, Outcome::Refused] {
            for right in [None, Some(true), Some(false)] {
                v.count(outcome, right);
            }
        }
        let expected =
            Verified { acked: 3, found: 1, lost: 1, wrong: 3, unknown: 3, refused_found: 2 };
        assert_eq!(v, expected);
    }

    #[test]
    fn values_differ_between_writers_and_puts() {
        assert_eq!(value(1, 2, 100), value(1, 2, 100));
        assert_ne!(value(1, 2, 100), value(2, 1, 100));
        assert_ne!(value(1, 2, 100), value(1, 3, 100));
    }
}
