//! Clients that read and write as [`Workload`] chooses and record what they heard, each on a thread of
//! its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ironring_core::Durability;
use ironring_net::client::ClientConfig;
use ironring_net::client::blocking::Client;

use super::nodes::{CLUSTER, ChaosError, system};
use super::workload::{
    KEYS, Op, What, Workload, key_name, read_answer, stale_answer, value_bytes, write_answer,
};
use crate::linear::{Answer, ClientLog, History, Nanos};

/// A call that is not answered after so long ends, and what it wrote is unknown.
pub const DEADLINE: Duration = Duration::from_secs(4);
/// Operations after which a client connects anew, in a new session.
const LIFE_OPS: u64 = 400;
/// How long each of the last reads may take.
const LAST_READ_DEADLINE: Duration = Duration::from_secs(30);
const SLICE: Duration = Duration::from_millis(50);

/// How clients behave.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// What their choices come from.
    pub seed: u64,
    /// How many there are; every third one works without sessions.
    pub clients: u32,
    /// How long a client waits at most between two operations, in milliseconds.
    pub pause_max_ms: u64,
    /// Longest an operation may take.
    pub deadline: Duration,
    /// Whether some writes wait for every replica, which one that is away holds up.
    pub all: bool,
}

/// What was heard so far, all clients together. One that no node takes a connection of counts as failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Writes that were acknowledged.
    pub acked: u64,
    /// Operations that failed, and certainly changed nothing.
    pub failed: u64,
    /// Operations whose outcome is not known.
    pub unknown: u64,
}

#[derive(Debug, Default)]
struct Shared {
    phase: AtomicU8,
    acked: AtomicU64,
    failed: AtomicU64,
    unknown: AtomicU64,
}

/// What all clients do at the moment.
const WORK: u8 = 0;
const REST: u8 = 1;
const READ: u8 = 2;

impl Shared {
    fn is(&self, phase: u8) -> bool {
        self.phase.load(Ordering::Acquire) == phase
    }

    fn note(&self, op: &Op, answer: &Answer) {
        let counter = match answer {
            Answer::Receipt { .. } if op.what != What::Get => &self.acked,
            Answer::Failed => &self.failed,
            Answer::Unknown => &self.unknown,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The clock of a history.
type Clock = Box<dyn Fn() -> Nanos + Send>;

/// Clients at work.
#[derive(Debug)]
pub struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<ClientLog<Clock>>>,
}

impl Clients {
    /// Starts them on nodes at `addresses`; each begins at another. Times count from `epoch`.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(
        habits: Habits,
        addresses: &[String],
        epoch: Instant,
    ) -> Result<Clients, ChaosError> {
        let shared = Arc::new(Shared::default());
        let mut clients = Clients { shared, threads: Vec::new() };
        for number in 0..habits.clients {
            let clock: Clock = Box::new(move || epoch.elapsed().as_nanos() as Nanos);
            let mut config = ClientConfig::new("");
            config.addrs = addresses.to_vec();
            config.addrs.rotate_left(number as usize % addresses.len());
            config.cluster = CLUSTER.to_owned();
            config.deadline = habits.deadline;
            config.connect_timeout = Duration::from_secs(1);
            config.session = !number.is_multiple_of(3);
            config.seed = habits.seed.wrapping_add(u64::from(number));
            let mut workload = Workload::new(habits.seed, number);
            if !habits.all {
                workload.ask_for_quorum_only();
            }
            let log = ClientLog::new(number, clock);
            let pause_max_ms = habits.pause_max_ms;
            let shared = Arc::clone(&clients.shared);
            let caller = Caller { workload, config, client: None, log, pause_max_ms, shared };
            let thread = std::thread::Builder::new().name(format!("client-{number}"));
            let thread = thread.spawn(|| caller.run()).map_err(system("starting a client"))?;
            clients.threads.push(thread);
        }
        Ok(clients)
    }

    /// What they heard so far.
    #[must_use]
    pub fn heard(&self) -> Heard {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let shared = &self.shared;
        Heard {
            acked: read(&shared.acked),
            failed: read(&shared.failed),
            unknown: read(&shared.unknown),
        }
    }

    /// They ask for nothing from here on, once what they wait for has ended.
    pub fn rest(&self) {
        self.shared.phase.store(REST, Ordering::Release);
    }

    /// Each reads every key once, and ends; what all of them recorded, and whether none has panicked.
    #[must_use]
    pub fn finish(mut self) -> (History, bool) {
        self.shared.phase.store(READ, Ordering::Release);
        let threads = std::mem::take(&mut self.threads);
        let count = threads.len();
        let logs: Vec<_> = threads.into_iter().filter_map(|thread| thread.join().ok()).collect();
        let all = logs.len() == count;
        (History::merge(logs), all)
    }
}

impl Drop for Clients {
    /// Those that nobody waits for end with their operation.
    fn drop(&mut self) {
        self.shared.phase.store(u8::MAX, Ordering::Release);
    }
}

/// One client, on its own thread.
struct Caller {
    workload: Workload,
    config: ClientConfig,
    client: Option<Client>,
    log: ClientLog<Clock>,
    pause_max_ms: u64,
    shared: Arc<Shared>,
}

impl Caller {
    fn run(mut self) -> ClientLog<Clock> {
        while self.shared.is(WORK) {
            if self.workload.below(LIFE_OPS) == 0 {
                self.client = None;
            }
            let op = self.workload.next_op();
            if self.make(&op).is_some() {
                let pause_ms = self.workload.below(self.pause_max_ms + 1);
                std::thread::sleep(Duration::from_millis(pause_ms));
            } else {
                self.shared.failed.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(SLICE);
            }
        }
        while self.shared.is(REST) {
            std::thread::sleep(SLICE);
        }
        self.config.deadline = LAST_READ_DEADLINE;
        self.client = None;
        for key in 0..KEYS {
            if !self.shared.is(READ) {
                break;
            }
            let _ = self.make(&Op { key, what: What::Get, level: Durability::Quorum });
        }
        self.log
    }

    /// Makes one operation and records it; nothing when no node takes a connection.
    fn make(&mut self, op: &Op) -> Option<()> {
        let client = match self.client.take() {
            Some(client) => self.client.insert(client),
            None => self.client.insert(Client::connect(self.config.clone()).ok()?),
        };
        let key = key_name(op.key);
        let key = key.as_bytes();
        let ticket = self.log.begin(op.call());
        let (answer, age) = match op.what {
            What::Get => (read_answer(&client.get(key)), None),
            What::GetStale => stale_answer(client.get_stale(key)),
            What::Put(number, _) => {
                let written = client.put_with(key, &value_bytes(number), op.settings());
                (write_answer(&written), None)
            }
            What::Delete(_) => (write_answer(&client.delete_with(key, op.settings())), None),
        };
        self.workload.heard(op, &answer);
        self.shared.note(op, &answer);
        self.log.finish_stale(ticket, answer, age);
        Some(())
    }
}
