//! An open-loop load of durable puts, and gets when asked for, through the client library, and the ledger of
//! what it was told.
//!
//! Each lane keeps to one partition and has one put under way; puts are due at fixed times whether
//! the one before is answered or not, and count from then on. So the longest put of a lane is the
//! time its partition took no writes, as a client saw it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ironring_core::Token;
use ironring_net::client::asynchronous::Client;
use ironring_net::client::{ClientConfig, ClientError};
use monoio::{FusionDriver, RuntimeBuilder};

use crate::error::BenchError;

/// Keys a lane goes round.
const KEYS_PER_LANE: u64 = 256;
/// Clients, each with its own connections, that the lanes share.
const CLIENTS: usize = 8;
/// Longest a put may take with all its retries.
const DEADLINE: Duration = Duration::from_secs(60);
const RING_ENTRIES: u32 = 1024;

/// What to load, and how.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Where clients connect first.
    pub addrs: Vec<String>,
    /// How many lanes.
    pub lanes: u32,
    /// How many puts a second, all lanes together.
    pub rate: u32,
    /// Bytes of a value; at least 16.
    pub value_bytes: usize,
    /// Every other request is a get of what was put last in its lane or some time before.
    pub gets: bool,
    /// Partitions of the cluster.
    pub partitions: u32,
    /// Seed of the clients.
    pub seed: u64,
}

impl Spec {
    /// How a client connects.
    #[must_use]
    pub fn client(&self, client: usize) -> ClientConfig {
        ClientConfig {
            addrs: self.addrs.clone(),
            deadline: DEADLINE,
            seed: self.seed ^ (client as u64 + 1),
            ..ClientConfig::new("")
        }
    }

    /// The partition a lane keeps to: they are spread over all.
    #[must_use]
    pub fn partition(&self, lane: u32) -> u32 {
        (u64::from(lane) * u64::from(self.partitions) / u64::from(self.lanes)) as u32
    }

    fn keys(&self, lane: u32) -> Vec<String> {
        let partition = self.partition(lane);
        let of_lane =
            |key: &String| Token::of_key(key.as_bytes()).partition(self.partitions).0 == partition;
        let keys = (0_u64..).map(|n| format!("failover/{lane}/{n}")).filter(of_lane);
        keys.take(KEYS_PER_LANE as usize).collect()
    }

    fn value(&self, lane: u32, n: u64) -> Vec<u8> {
        let mut value = format!("{lane:08}{n:016}").into_bytes();
        value.resize(self.value_bytes.max(value.len()), b'.');
        value
    }
}

/// One request, in microseconds since the load began.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Its partition.
    pub partition: u32,
    /// When it was due.
    pub due_us: u64,
    /// When it was answered.
    pub done_us: u64,
    /// It was acknowledged, or read right.
    pub acked: bool,
}

/// What a lane was told of one key.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The newest put that was acknowledged.
    acked: Option<u64>,
    /// Later ones nobody knows the outcome of.
    unknown: Vec<u64>,
}

impl Known {
    /// Whether this may be what the key has.
    fn fits(&self, spec: &Spec, lane: u32, found: Option<&[u8]>) -> bool {
        let is = |n: &u64| found.is_some_and(|found| found == spec.value(lane, *n));
        let nothing = found.is_none() && self.acked.is_none();
        nothing || self.acked.iter().chain(&self.unknown).any(is)
    }
}

/// What all lanes were told, by lane and key.
pub type Ledger = BTreeMap<(u32, String), KnownKey>;

/// See [`Ledger`].
#[derive(Clone, Debug, Default)]
pub struct KnownKey(Known);

/// What the check of a ledger found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Keys that were read.
    pub keys: u64,
    /// Whose newest acknowledged put, or a later one, is not there.
    pub lost: u64,
}

#[derive(Debug)]
struct Shared {
    begin: Instant,
    stop: AtomicBool,
    samples: Mutex<Vec<Sample>>,
    errors: Mutex<Vec<String>>,
    acked: AtomicU64,
    /// By lane: when the put it is at was due.
    at_us: Vec<AtomicU64>,
}

impl Shared {
    fn now_us(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn note(&self, spec: &Spec, lane: u32, due_us: u64, acked: bool) {
        let partition = spec.partition(lane);
        let sample = Sample { partition, due_us, done_us: self.now_us(), acked };
        locked(&self.samples).push(sample);
    }
}

/// A load under way.
#[derive(Debug)]
pub struct Lanes {
    spec: Spec,
    shared: Arc<Shared>,
    thread: JoinHandle<Result<Ledger, BenchError>>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lanes {
    /// Starts every lane.
    #[must_use]
    pub fn start(spec: &Spec) -> Lanes {
        let shared = Arc::new(Shared {
            begin: Instant::now(),
            stop: AtomicBool::new(false),
            samples: Mutex::default(),
            errors: Mutex::default(),
            acked: AtomicU64::new(0),
            at_us: (0..spec.lanes).map(|_| AtomicU64::new(0)).collect(),
        });
        let thread = {
            let (spec, shared) = (spec.clone(), Arc::clone(&shared));
            std::thread::spawn(move || load(&spec, &shared))
        };
        Lanes { spec: spec.clone(), shared, thread }
    }

    /// Microseconds since the load began.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.shared.now_us()
    }

    /// Waits until every lane has had an answer: sessions are opened, and connections made.
    pub fn get_going(&self) {
        while self.acked() == 0 && !self.thread.is_finished() {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.pass(self.now_us());
    }

    /// Waits until every put that was due before a moment is answered.
    pub fn pass(&self, moment_us: u64) {
        let passed = |at: &AtomicU64| at.load(Ordering::Acquire) >= moment_us;
        while !self.shared.at_us.iter().all(passed) && !self.thread.is_finished() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// All puts answered since this was asked last.
    #[must_use]
    pub fn take(&self) -> Vec<Sample> {
        std::mem::take(&mut locked(&self.shared.samples))
    }

    /// What requests failed with since this was asked last.
    #[must_use]
    pub fn errors(&self) -> Vec<String> {
        std::mem::take(&mut locked(&self.shared.errors))
    }

    /// Puts acknowledged so far.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.shared.acked.load(Ordering::Relaxed)
    }

    /// Ends the load and reads back what every lane was told.
    ///
    /// # Errors
    /// The cluster cannot be reached, or the load could not be made.
    pub fn stop(self) -> Result<Verdict, BenchError> {
        self.shared.stop.store(true, Ordering::Release);
        let ledger = match self.thread.join() {
            Ok(ledger) => ledger?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        verify(&self.spec, ledger)
    }
}

/// Runs a task on a runtime of its own.
///
/// # Errors
/// The task's, or there is no such runtime.
pub fn run<T>(task: impl Future<Output = Result<T, BenchError>>) -> Result<T, BenchError> {
    let runtime = RuntimeBuilder::<FusionDriver>::new()
        .with_entries(RING_ENTRIES)
        .enable_timer()
        .build()
        .map_err(BenchError::system("starting an io_uring runtime"));
    runtime?.block_on(task)
}

/// A client's error as the study's.
pub fn client_error(error: &ClientError) -> BenchError {
    BenchError::Server(error.to_string())
}

fn load(spec: &Spec, shared: &Arc<Shared>) -> Result<Ledger, BenchError> {
    run(async {
        let mut clients = Vec::new();
        for client in 0..CLIENTS {
            let client = Client::connect(spec.client(client)).await;
            clients.push(client.map_err(|e| client_error(&e))?);
        }
        let lanes: Vec<_> = (0..spec.lanes)
            .map(|lane| {
                let client = clients[lane as usize % CLIENTS].clone();
                monoio::spawn(run_lane(spec.clone(), Arc::clone(shared), client, lane))
            })
            .collect();
        let mut ledger = Ledger::new();
        for lane in lanes {
            ledger.extend(lane.await);
        }
        Ok(ledger)
    })
}

async fn run_lane(spec: Spec, shared: Arc<Shared>, client: Client, lane: u32) -> Ledger {
    let keys = spec.keys(lane);
    let mut ledger = Ledger::new();
    let period_us = 1_000_000 * u64::from(spec.lanes) / u64::from(spec.rate.max(1));
    let first_us = shared.now_us() + period_us * u64::from(lane) / u64::from(spec.lanes);
    for n in 0.. {
        let due_us = first_us + n * period_us;
        shared.at_us[lane as usize].store(due_us, Ordering::Release);
        let wait = due_us.saturating_sub(shared.now_us());
        if wait > 0 {
            monoio::time::sleep(Duration::from_micros(wait)).await;
        }
        if shared.stop.load(Ordering::Acquire) {
            break;
        }
        if spec.gets && n % 2 == 1 {
            // Mostly what is in memory, and what is not.
            let known = ledger.iter().nth((n as usize * 7) % ledger.len().max(1));
            let Some(((_, key), KnownKey(known))) = known else { continue };
            let found = client.get(key.as_bytes()).await;
            let right = match &found {
                Ok(found) => known.fits(&spec, lane, found.as_ref().map(|f| f.value.as_slice())),
                Err(_) => false,
            };
            if !right {
                let why = match found {
                    Ok(_) => format!("a get of {key} found what was overwritten, or nothing"),
                    Err(error) => error.to_string(),
                };
                locked(&shared.errors).push(why);
            }
            shared.note(&spec, lane, due_us, right);
            continue;
        }
        let step = if spec.gets { n / 2 } else { n };
        let key = &keys[(step % KEYS_PER_LANE) as usize];
        let put = client.put(key.as_bytes(), &spec.value(lane, n)).await;
        shared.note(&spec, lane, due_us, put.is_ok());
        let known = &mut ledger.entry((lane, key.clone())).or_default().0;
        match put {
            Ok(_) => {
                shared.acked.fetch_add(1, Ordering::Relaxed);
                *known = Known { acked: Some(n), unknown: Vec::new() };
            }
            Err(error) => {
                if matches!(error, ClientError::Unknown { .. }) {
                    known.unknown.push(n);
                }
                locked(&shared.errors).push(error.to_string());
            }
        }
    }
    shared.at_us[lane as usize].store(u64::MAX, Ordering::Release);
    ledger
}

fn verify(spec: &Spec, ledger: Ledger) -> Result<Verdict, BenchError> {
    run(async {
        let client = Client::connect(spec.client(0)).await.map_err(|e| client_error(&e))?;
        let mut verdict = Verdict::default();
        for ((lane, key), KnownKey(known)) in ledger {
            let found = client.get(key.as_bytes()).await.map_err(|e| client_error(&e))?;
            let sound = known.fits(spec, lane, found.as_ref().map(|f| f.value.as_slice()));
            verdict.keys += 1;
            verdict.lost += u64::from(!sound);
        }
        Ok(verdict)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        let addrs = Vec::new();
        let (gets, partitions) = (true, 256);
        Spec { addrs, lanes: 8, rate: 100, value_bytes: 64, gets, partitions, seed: 1 }
    }

    #[test]
    fn lanes_are_spread_over_the_partitions_and_keep_to_theirs() {
        let spec = spec();
        let partitions: Vec<u32> = (0..8).map(|lane| spec.partition(lane)).collect();
        assert_eq!(partitions, [0, 32, 64, 96, 128, 160, 192, 224]);
        let keys = spec.keys(3);
        assert_eq!(keys.len(), KEYS_PER_LANE as usize);
        for key in keys {
            assert_eq!(Token::of_key(key.as_bytes()).partition(256).0, 96);
        }
    }

    #[test]
    fn a_key_has_what_was_acknowledged_last_or_what_came_later_and_may_have_been() {
        let spec = spec();
        let has = |known: &Known, n: u64| known.fits(&spec, 1, Some(&spec.value(1, n)));
        let mut known = Known { acked: Some(5), unknown: vec![7] };
        assert!(has(&known, 5) && has(&known, 7) && !has(&known, 4) && !has(&known, 6));
        assert!(!known.fits(&spec, 1, None));
        known.acked = None;
        assert!(known.fits(&spec, 1, None) && has(&known, 7) && !has(&known, 5));
    }

    #[test]
    fn values_differ_by_lane_and_number() {
        let spec = spec();
        assert_eq!(spec.value(1, 2).len(), 64);
        assert_ne!(spec.value(1, 2), spec.value(1, 3));
        assert_ne!(spec.value(1, 2), spec.value(2, 2));
    }
}
