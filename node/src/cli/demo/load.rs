//! The demo's load: connections that each put one value after another through the client library.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ironring_net::client::blocking::Client;
use ironring_net::client::{ClientConfig, ClientError};

use super::ledger::{Ledger, Outcome, Page, key, value};

/// What to load and how.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// The node.
    pub address: SocketAddr,
    /// Connections.
    pub connections: u16,
    /// Bytes of a value.
    pub value_bytes: u32,
}

/// A load under way.
pub struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Page>>,
}

impl Load {
    /// Starts every connection.
    #[must_use]
    pub fn start(spec: &Spec) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let spec = *spec;
        let writers = (0..spec.connections)
            .map(|writer| {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || write(spec, writer, &stop))
            })
            .collect();
        Load { stop, writers }
    }

    /// Lets every connection finish the put it is at.
    #[must_use]
    pub fn stop(self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        let pages = self.writers.into_iter().map(|w| w.join().expect("a writer does not panic"));
        Ledger { pages: pages.collect() }
    }
}

/// One connection. Retries are the client library's: a put is tried again with its session and
/// sequence until it is acknowledged or its deadline passes, so a killed node makes it late, not
/// doubtful.
fn write(spec: Spec, writer: u16, stop: &AtomicBool) -> Page {
    let config = ClientConfig {
        deadline: Duration::from_secs(30),
        seed: u64::from(writer) + 1,
        ..ClientConfig::new(spec.address.to_string())
    };
    let latency = hdrhistogram::Histogram::new_with_max(600_000_000, 3);
    let latency = latency.expect("the bounds are sound");
    let mut page = Page { writer, outcomes: Vec::new(), latency, last_error: None };
    let mut client = None;
    while !stop.load(Ordering::Relaxed) {
        let client = match &mut client {
            Some(client) => client,
            none => match Client::connect(config.clone()) {
                Ok(new) => none.insert(new),
                Err(error) => {
                    page.last_error = Some(error.to_string());
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
            },
        };
        let n = page.outcomes.len();
        let began = Instant::now();
        let put = client.put(key(writer, n).as_bytes(), &value(writer, n, spec.value_bytes));
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        page.outcomes.push(match put {
            Ok(_) => {
                page.latency.saturating_record(micros);
                Outcome::Acked
            }
            Err(error) => {
                let outcome = match &error {
                    ClientError::Unknown { .. } => Outcome::Unknown,
                    _ => Outcome::Refused,
                };
                page.last_error = Some(error.to_string());
                outcome
            }
        });
    }
    page
}
