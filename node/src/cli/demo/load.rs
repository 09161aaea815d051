//! The demo's load: connections that each put one value after another through the client library.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ironring_net::client::blocking::Client;
use ironring_net::client::{ClientConfig, ClientError};

use super::interrupt::Interrupt;
use super::ledger::{Ledger, Outcome, Page, key, value};
use crate::cli::error::CliError;

/// Longest a put may take, with all its retries. A killed node makes a put late, not doubtful.
const DEADLINE: Duration = Duration::from_secs(30);
/// Pause of a connection that could not be made.
const CONNECT_NAP: Duration = Duration::from_millis(20);

/// What to load and how.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Where clients connect first.
    pub addrs: Vec<String>,
    /// Connections.
    pub connections: u16,
    /// Bytes of a value.
    pub value_bytes: u32,
}

impl Spec {
    /// The configuration of one of its clients.
    #[must_use]
    pub fn client(&self, seed: u64) -> ClientConfig {
        ClientConfig {
            addrs: self.addrs.clone(),
            deadline: DEADLINE,
            seed,
            ..ClientConfig::new("")
        }
    }
}

/// A part of the time of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Every node runs.
    Whole,
    /// One was killed.
    Killed,
    /// It was started again.
    Back,
    /// Another one joins.
    Growing,
}

/// Phases there are.
pub const PHASES: usize = 4;

/// What all connections see together.
struct Progress {
    begin: Instant,
    stop: AtomicBool,
    phase: AtomicUsize,
    /// Microseconds since the begin; 0: none yet.
    last_ack: AtomicU64,
    /// Longest time without an ack in each phase, in microseconds.
    gaps: [AtomicU64; PHASES],
}

impl Progress {
    fn new() -> Progress {
        Progress {
            begin: Instant::now(),
            stop: AtomicBool::new(false),
            phase: AtomicUsize::new(Phase::Whole as usize),
            last_ack: AtomicU64::new(0),
            gaps: Default::default(),
        }
    }

    fn micros(&self) -> u64 {
        micros(self.begin.elapsed())
    }

    /// An ack came; the phase it came in.
    fn acked(&self) -> usize {
        let now = self.micros();
        let (last, phase) =
            (self.last_ack.swap(now, Ordering::Relaxed), self.phase.load(Ordering::Relaxed));
        self.waited(phase, last, now);
        phase
    }

    fn waited(&self, phase: usize, last: u64, now: u64) {
        if last != 0 {
            self.gaps[phase].fetch_max(now.saturating_sub(last), Ordering::Relaxed);
        }
    }

    /// Ends a phase, for all connections. A gap that is open counts in it as far as it goes, and as a
    /// whole in the phase that the next ack comes in.
    fn end_phase(&self, next: Option<Phase>) {
        let phase = self.phase.load(Ordering::Relaxed);
        self.waited(phase, self.last_ack.load(Ordering::Relaxed), self.micros());
        if let Some(next) = next {
            self.phase.store(next as usize, Ordering::Relaxed);
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A load under way.
pub struct Load {
    progress: Arc<Progress>,
    writers: Vec<JoinHandle<Page>>,
    entered: Instant,
    took: [Duration; PHASES],
}

impl Load {
    /// Starts every connection.
    #[must_use]
    pub fn start(spec: &Spec) -> Load {
        let progress = Arc::new(Progress::new());
        let writer = |writer| {
            let (spec, progress) = (spec.clone(), Arc::clone(&progress));
            std::thread::spawn(move || write(&spec, writer, &progress))
        };
        let writers = (0..spec.connections).map(writer).collect();
        Load { progress, writers, entered: Instant::now(), took: [Duration::ZERO; PHASES] }
    }

    /// From here on acks count in another phase.
    pub fn enter(&mut self, phase: Phase) {
        self.end_phase(Some(phase));
    }

    fn end_phase(&mut self, next: Option<Phase>) {
        let ended = self.progress.phase.load(Ordering::Relaxed);
        self.progress.end_phase(next);
        self.took[ended] += self.entered.elapsed();
        self.entered = Instant::now();
    }

    /// Lets every connection finish the put it is at.
    ///
    /// # Errors
    /// When somebody interrupts the demo meanwhile.
    pub fn stop(mut self, interrupt: &Interrupt) -> Result<Ledger, CliError> {
        self.end_phase(None);
        self.progress.stop.store(true, Ordering::Relaxed);
        let pages: Result<Vec<Page>, CliError> =
            self.writers.into_iter().map(|writer| interrupt.join(writer)).collect();
        let pages = pages?;
        let gaps = &self.progress.gaps;
        let gaps = gaps.each_ref().map(|us| Duration::from_micros(us.load(Ordering::Relaxed)));
        Ok(Ledger { pages, gaps, took: self.took })
    }
}

/// One connection. Retries are the client library's: a put is tried again with its session and
/// sequence until it is acknowledged or its deadline passes.
fn write(spec: &Spec, writer: u16, progress: &Progress) -> Page {
    let config = spec.client(u64::from(writer) + 1);
    let mut page = Page::new(writer);
    let mut client = None;
    while !progress.stop.load(Ordering::Relaxed) {
        let client = match &mut client {
            Some(client) => client,
            none => match Client::connect(config.clone()) {
                Ok(new) => none.insert(new),
                Err(error) => {
                    page.last_error = Some(error.to_string());
                    std::thread::sleep(CONNECT_NAP);
                    continue;
                }
            },
        };
        let n = page.outcomes.len();
        let began = Instant::now();
        let put = client.put(key(writer, n).as_bytes(), &value(writer, n, spec.value_bytes));
        let took = micros(began.elapsed());
        page.outcomes.push(match put {
            Ok(_) => {
                page.latency[progress.acked()].saturating_record(took);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Longest gaps in milliseconds.
    fn gaps(progress: &Progress) -> [u64; PHASES] {
        progress.gaps.each_ref().map(|us| us.load(Ordering::Relaxed) / 1000)
    }

    #[test]
    fn a_gap_counts_where_it_ends() {
        let progress = Progress::new();
        let nap = || std::thread::sleep(Duration::from_millis(5));
        nap();
        assert_eq!(progress.acked(), Phase::Whole as usize);
        assert_eq!(gaps(&progress), [0; PHASES], "connecting is no gap");
        nap();
        progress.end_phase(Some(Phase::Killed));
        nap();
        assert_eq!(progress.acked(), Phase::Killed as usize);
        let [whole, killed, back, growing] = gaps(&progress);
        assert!(whole >= 5 && killed >= whole + 5, "{whole} {killed}");
        assert_eq!((back, growing), (0, 0));
    }

    #[test]
    fn a_gap_that_does_not_end_counts() {
        let progress = Progress::new();
        std::thread::sleep(Duration::from_millis(1));
        progress.acked();
        progress.end_phase(Some(Phase::Killed));
        std::thread::sleep(Duration::from_millis(5));
        progress.end_phase(None);
        assert!(gaps(&progress)[Phase::Killed as usize] >= 5);
    }
}
