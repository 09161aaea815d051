//! What the demo wrote and was told: kept outside the nodes, so that it can be held against them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use ironring_core::prng::Prng;
use ironring_net::client::ClientError;
use ironring_net::client::blocking::Client;

use super::load::{PHASES, Spec};
use crate::cli::error::{CliError, DEMO_FAILED};

/// Keys looked up together when verifying: many, because each partition is asked for its own.
const KEYS_PER_READ: usize = 16_384;
/// But no more than come to so many bytes.
const BYTES_PER_READ: usize = 16 << 20;
/// Clients that verify, each a page at a time.
const READERS: usize = 4;
/// Longest latency that is told apart, in microseconds.
const LATENCY_MAX: u64 = 600_000_000;

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
    /// Microseconds to the durable ack, by the phase it came in.
    pub latency: [Histogram<u64>; PHASES],
    /// The last refusal.
    pub last_error: Option<String>,
}

impl Page {
    /// Nothing put yet.
    #[must_use]
    pub fn new(writer: u16) -> Page {
        let latency = std::array::from_fn(|_| latencies());
        Page { writer, outcomes: Vec::new(), latency, last_error: None }
    }
}

/// For microseconds, to a percent.
fn latencies() -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_MAX, 2).expect("the bounds are sound")
}

/// All of them.
pub struct Ledger {
    /// One per connection.
    pub pages: Vec<Page>,
    /// Longest time without any ack, by phase.
    pub gaps: [Duration; PHASES],
    /// How long each phase was.
    pub took: [Duration; PHASES],
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
    /// Puts that were refused.
    pub refused: u64,
    /// Of those, found all the same.
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
    ///
    /// # Errors
    /// When a key cannot be read.
    pub fn verify(&self, spec: &Spec) -> Result<Verified, CliError> {
        let next = AtomicUsize::new(0);
        let read = |seed| {
            let (mut seen, mut client) = (Verified::default(), Client::connect(spec.client(seed))?);
            while let Some(page) = self.pages.get(next.fetch_add(1, Ordering::Relaxed)) {
                page.verify(spec.value_bytes, &mut client, &mut seen)?;
            }
            Ok(seen)
        };
        let read = &read;
        let seen: Result<Vec<Verified>, ClientError> = std::thread::scope(|scope| {
            let readers: Vec<_> =
                (0..READERS).map(|seed| scope.spawn(move || read(seed as u64))).collect();
            readers.into_iter().map(|r| r.join().expect("a reader does not panic")).collect()
        });
        let failed = |e| CliError::local(&DEMO_FAILED, format!("reading back failed: {e}"));
        Ok(seen.map_err(failed)?.into_iter().sum())
    }

    /// Latencies of a phase; of all without one.
    #[must_use]
    pub fn latency(&self, phase: Option<usize>) -> Histogram<u64> {
        let mut all = latencies();
        for page in &self.pages {
            let parts = page.latency.iter().enumerate();
            for (_, part) in parts.filter(|(at, _)| phase.is_none_or(|phase| phase == *at)) {
                all.add(part).expect("all histograms have the same bounds");
            }
        }
        all
    }

    /// The last refusal any connection met.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        self.pages.iter().find_map(|page| page.last_error.as_deref())
    }
}

impl Page {
    fn verify(
        &self,
        value_bytes: u32,
        client: &mut Client,
        seen: &mut Verified,
    ) -> Result<(), ClientError> {
        let together = (BYTES_PER_READ / value_bytes as usize).clamp(1, KEYS_PER_READ);
        for (chunk, outcomes) in self.outcomes.chunks(together).enumerate() {
            let first = chunk * together;
            let keys: Vec<String> =
                (0..outcomes.len()).map(|i| key(self.writer, first + i)).collect();
            let values = client.multi_get(&keys)?;
            for (i, (outcome, stored)) in outcomes.iter().zip(values).enumerate() {
                let expected = value(self.writer, first + i, value_bytes);
                seen.count(*outcome, stored.map(|v| v.value == expected));
            }
        }
        Ok(())
    }
}

impl std::iter::Sum for Verified {
    fn sum<I: Iterator<Item = Verified>>(parts: I) -> Verified {
        parts.fold(Verified::default(), |a, b| Verified {
            acked: a.acked + b.acked,
            found: a.found + b.found,
            lost: a.lost + b.lost,
            wrong: a.wrong + b.wrong,
            unknown: a.unknown + b.unknown,
            refused: a.refused + b.refused,
            refused_found: a.refused_found + b.refused_found,
        })
    }
}

impl Verified {
    /// Whether what the clients were told is what is there.
    #[must_use]
    pub fn sound(&self) -> bool {
        self.lost + self.wrong + self.refused_found == 0
    }

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
            Outcome::Refused => {
                self.refused += 1;
                self.refused_found += u64::from(right.is_some());
            }
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
        let expected = Verified {
            acked: 3,
            found: 1,
            lost: 1,
            wrong: 3,
            unknown: 3,
            refused: 3,
            refused_found: 2,
        };
        assert_eq!(v, expected);
        assert!(!v.sound());
        assert_eq!([v, v].into_iter().sum::<Verified>().acked, 6);
    }

    #[test]
    fn values_differ_between_writers_and_puts() {
        assert_eq!(value(1, 2, 100), value(1, 2, 100));
        assert_ne!(value(1, 2, 100), value(2, 1, 100));
        assert_ne!(value(1, 2, 100), value(1, 3, 100));
    }
}
