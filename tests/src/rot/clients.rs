//! Clients of a run: each on its own thread, with keys and a topic partition of its own, and a ledger.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ironring_core::prng::Prng;
use ironring_net::client::blocking::Client;
use ironring_net::client::{ClientConfig, ClientError, Value};
use ironring_net::message::{AppendRecord, AppendTo, ReadFrom, Retention};
use serde::Serialize;

use super::ledger::{Class, Found, Ledger, Wrong, bytes_of, number, number_of};

/// Clients of a run, each with a partition of the topic.
pub const CLIENTS: u32 = 6;
/// The topic.
pub const TOPIC: &str = "rot";
/// Keys a client writes before anything is corrupted, and reads from then on.
const COLD_KEYS: u32 = 150;
const LARGE_KEYS: u32 = 2;
/// Keys it overwrites all the time.
const HOT_KEYS: u64 = 60;
const DEADLINE: Duration = Duration::from_secs(10);
const LAST_READ_DEADLINE: Duration = Duration::from_secs(30);
const PAUSE_MAX_MS: u64 = 16;
const WAIT: Duration = Duration::from_millis(50);
/// How long a replica may take to show what was committed.
const CATCH_UP: Duration = Duration::from_secs(30);
/// A client that cannot find out so much gives up: a cluster that is broken answers nothing.
const UNPROVEN_MAX: usize = 5;

/// What all clients do at the moment.
#[derive(Debug, Default)]
pub struct Phase {
    phase: AtomicU8,
    ready: AtomicU64,
}

impl Phase {
    const WORK: u8 = 0;
    const REST: u8 = 1;
    const READ: u8 = 2;

    /// Writes end.
    pub fn rest(&self) {
        self.phase.store(Phase::REST, Ordering::Release);
    }

    /// Everything is read once more.
    pub fn read(&self) {
        self.phase.store(Phase::READ, Ordering::Release);
    }

    /// Whether every client has written what is there before anything is corrupted.
    #[must_use]
    pub fn all_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) == u64::from(CLIENTS)
    }

    fn is(&self, phase: u8) -> bool {
        self.phase.load(Ordering::Acquire) == phase
    }
}

/// What one client, or all of them, saw.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Seen {
    /// Keys written.
    pub keys: u64,
    /// Writes acknowledged, appends too.
    pub acked: u64,
    /// Writes of unknown outcome.
    pub unknown: u64,
    /// Requests that failed and changed nothing.
    pub failed: u64,
    /// Reads at leaders that were judged while files were corrupted.
    pub reads: u64,
    /// Reads of any replica that were judged meanwhile.
    pub stale_reads: u64,
    /// Keys and records of the topic verified at the end, at leaders.
    pub verified: u64,
    /// Keys verified at the end, at each node by itself.
    pub verified_at_each: u64,
    /// Acknowledged writes that are gone.
    pub lost: Vec<String>,
    /// Answers that were wrong.
    pub wrong: Vec<String>,
    /// What could not be found out.
    pub unproven: Vec<String>,
}

impl Seen {
    /// Adds what another client saw.
    pub fn add(&mut self, other: Seen) {
        self.keys += other.keys;
        self.acked += other.acked;
        self.unknown += other.unknown;
        self.failed += other.failed;
        self.reads += other.reads;
        self.stale_reads += other.stale_reads;
        self.verified += other.verified;
        self.verified_at_each += other.verified_at_each;
        self.lost.extend(other.lost);
        self.wrong.extend(other.wrong);
        self.unproven.extend(other.unproven);
    }

    fn judge(&mut self, judged: Result<(), Wrong>) {
        match judged {
            Ok(()) => {}
            Err(Wrong::Lost(why)) => self.lost.push(why),
            Err(Wrong::Served(why)) => self.wrong.push(why),
        }
    }
}

/// Makes the topic.
///
/// # Errors
/// The cluster does not take it.
pub fn make_topic(addresses: &[String]) -> Result<(), ClientError> {
    let mut config = config(addresses.to_vec(), 0);
    config.deadline = LAST_READ_DEADLINE;
    let forever = Retention { age_ms: 0, bytes: 0 };
    Client::connect(config)?.topic_create(TOPIC, CLIENTS, forever).map(drop)
}

fn config(addrs: Vec<String>, client: u32) -> ClientConfig {
    let mut config = ClientConfig::new("");
    config.addrs = addrs;
    config.cluster = "chaos".to_owned();
    config.deadline = DEADLINE;
    config.connect_timeout = Duration::from_secs(1);
    config.session = !client.is_multiple_of(3);
    config.seed = u64::from(client);
    config
}

/// Starts a client.
///
/// # Errors
/// The system starts no thread.
pub fn start(
    seed: u64,
    client: u32,
    addresses: Vec<String>,
    phase: &Arc<Phase>,
) -> std::io::Result<JoinHandle<Seen>> {
    let phase = Arc::clone(phase);
    let prng = Prng::new(seed ^ (u64::from(client) + 1).wrapping_mul(0x9E37_79B9));
    let caller = Caller {
        config: config(addresses.clone(), client),
        number: client,
        nodes: addresses,
        prng,
        counter: 0,
        client: None,
        each: BTreeMap::new(),
        ledger: Ledger::default(),
        appended: BTreeMap::new(),
        appends_unknown: Vec::new(),
        seen: Seen::default(),
    };
    let thread = std::thread::Builder::new().name(format!("client-{client}"));
    thread.spawn(move || caller.run(&phase))
}

struct Caller {
    config: ClientConfig,
    number: u32,
    nodes: Vec<String>,
    prng: Prng,
    counter: u32,
    client: Option<Client>,
    /// A client of each node alone, for reads of whatever it has.
    each: BTreeMap<String, Client>,
    ledger: Ledger,
    /// Records of its topic partition, by offset.
    appended: BTreeMap<u64, u64>,
    appends_unknown: Vec<u64>,
    seen: Seen,
}

impl Caller {
    fn run(mut self, phase: &Phase) -> Seen {
        self.fill(phase);
        phase.ready.fetch_add(1, Ordering::AcqRel);
        while phase.is(Phase::WORK) {
            self.work();
            std::thread::sleep(Duration::from_millis(self.prng.below(PAUSE_MAX_MS + 1)));
        }
        while phase.is(Phase::REST) {
            std::thread::sleep(WAIT);
        }
        self.config.deadline = LAST_READ_DEADLINE;
        self.client = None;
        self.verify();
        self.seen.acked = self.ledger.acked + self.appended.len() as u64;
        self.seen.unknown = self.ledger.unknown + self.appends_unknown.len() as u64;
        self.seen.keys = self.ledger.keys().count() as u64;
        self.seen
    }

    fn cold_key(&self, key: u32) -> String {
        format!("cold-{}-{key:04}", self.number)
    }

    /// Writes what is only read later. What is not taken is tried again.
    fn fill(&mut self, phase: &Phase) {
        for key in 0..COLD_KEYS + LARGE_KEYS {
            let class = if key < COLD_KEYS { Class::Cold } else { Class::Large };
            let name = self.cold_key(key);
            while !self.put(&name, class) && phase.is(Phase::WORK) {
                std::thread::sleep(WAIT);
            }
        }
    }

    fn work(&mut self) {
        let hot = self.prng.below(HOT_KEYS);
        let hot = format!("hot-{}-{hot:03}", self.number);
        match self.prng.below(100) {
            0..30 => {
                let key = self.any_key(&hot);
                self.read(&key);
            }
            30..50 => {
                let key = self.any_key(&hot);
                let node = self.prng.below(self.nodes.len() as u64) as usize;
                if let Ok(found) = self.stale(node, &key) {
                    self.seen.stale_reads += 1;
                    let judged = self.ledger.judge_stale(&key, found);
                    self.seen.judge(judged);
                }
            }
            50..85 => {
                let class = if self.prng.chance(1, 2) { Class::Small } else { Class::Medium };
                self.put(&hot, class);
            }
            85..90 => self.delete(&hot),
            _ => self.append(),
        }
    }

    fn any_key(&mut self, hot: &str) -> String {
        match self.prng.chance(1, 3) {
            true => hot.to_owned(),
            false => {
                let key = self.prng.below(u64::from(COLD_KEYS + LARGE_KEYS)) as u32;
                self.cold_key(key)
            }
        }
    }

    fn next_number(&mut self, class: Class) -> u64 {
        self.counter += 1;
        number(self.number, class, self.counter)
    }

    /// An open client; nothing when no node takes a connection.
    fn client(&mut self) -> Option<&mut Client> {
        if self.client.is_none() {
            self.client = Client::connect(self.config.clone()).ok();
        }
        self.client.as_mut()
    }

    /// Whether a put was acknowledged.
    fn put(&mut self, key: &str, class: Class) -> bool {
        let value = self.next_number(class);
        self.ledger.writes(key, Some(value));
        let Some(client) = self.client() else { return false };
        let written = client.put(key.as_bytes(), &bytes_of(value));
        self.written(key, Some(value), written.map(|receipt| receipt.offset.0))
    }

    fn delete(&mut self, key: &str) {
        let Some(client) = self.client() else { return };
        let written = client.delete(key.as_bytes());
        self.written(key, None, written.map(|receipt| receipt.offset.0));
    }

    fn written(&mut self, key: &str, value: Option<u64>, how: Result<u64, ClientError>) -> bool {
        match how {
            Ok(version) => {
                self.ledger.acked(key, version, value);
                return true;
            }
            Err(ClientError::Unknown { .. }) => self.ledger.unknown(key, value),
            Err(_) => self.seen.failed += 1,
        }
        false
    }

    fn append(&mut self) {
        let value = self.next_number(Class::Small);
        let (bytes, to) = (bytes_of(value), AppendTo::Partition(self.number));
        let Some(client) = self.client() else { return };
        let record = AppendRecord { key: b"", value: &bytes };
        match client.topic_append(TOPIC, to, &[record], None) {
            Ok(appended) => drop(self.appended.insert(appended.first, value)),
            Err(ClientError::Unknown { .. }) => self.appends_unknown.push(value),
            Err(_) => self.seen.failed += 1,
        }
    }

    /// Reads a key at its leader. Whether it was answered.
    fn read(&mut self, key: &str) -> bool {
        let Some(client) = self.client() else { return false };
        match client.get(key.as_bytes()) {
            Ok(found) => {
                self.seen.reads += 1;
                let judged = self.ledger.judge(key, found_of(found));
                self.seen.judge(judged);
                true
            }
            Err(_) => {
                self.seen.failed += 1;
                false
            }
        }
    }

    /// Reads what one node has.
    fn stale(&mut self, node: usize, key: &str) -> Result<Found, ClientError> {
        let address = self.nodes[node].clone();
        let client = match self.each.remove(&address) {
            Some(client) => client,
            None => {
                let mut config = config(vec![address.clone()], self.number);
                (config.session, config.shard_aware) = (false, false);
                Client::connect(config)?
            }
        };
        let client = self.each.entry(address).or_insert(client);
        client.get_stale(key.as_bytes()).map(|stale| found_of(stale.found))
    }

    /// Reads everything, at the leaders and at every node by itself.
    fn verify(&mut self) {
        let reads = self.seen.reads;
        let keys: Vec<String> = self.ledger.keys().map(str::to_owned).collect();
        for key in &keys {
            if self.seen.unproven.len() >= UNPROVEN_MAX {
                return;
            }
            let Some(client) = self.client() else {
                self.seen.unproven.push(format!("no node takes a connection to read {key}"));
                return;
            };
            let found = match client.get(key.as_bytes()) {
                Ok(found) => found_of(found),
                Err(error) => {
                    self.seen.unproven.push(format!("{key}: {error}"));
                    continue;
                }
            };
            self.seen.verified += 1;
            let judged = self.ledger.judge(key, found);
            self.seen.judge(judged);
            for node in 0..self.nodes.len() {
                self.verify_at(node, key, found);
            }
        }
        self.seen.reads = reads;
        self.verify_topic();
    }

    /// A node by itself has what its leader answered.
    fn verify_at(&mut self, node: usize, key: &str, wanted: Found) {
        let by = Instant::now() + CATCH_UP;
        loop {
            let found = self.stale(node, key);
            if found.as_ref().is_ok_and(|found| *found == wanted) {
                self.seen.verified_at_each += 1;
                return;
            }
            if Instant::now() > by {
                let at = &self.nodes[node];
                match found {
                    Ok(found) => self.seen.wrong.push(format!(
                        "{key} at {at} alone: {found:x?}, its leader has {wanted:x?}"
                    )),
                    Err(error) => self.seen.unproven.push(format!("{key} at {at}: {error}")),
                }
                return;
            }
            std::thread::sleep(WAIT);
        }
    }

    /// Every acknowledged record is where it was acknowledged, and each was appended once at most.
    fn verify_topic(&mut self) {
        let mut from = ReadFrom::Earliest;
        let mut found: BTreeMap<u64, u64> = BTreeMap::new();
        loop {
            let partition = self.number;
            let Some(client) = self.client() else { return };
            match client.topic_read(TOPIC, partition, from, (0, 0), 0) {
                Ok(read) => {
                    let Some(last) = read.records.last().map(|record| record.offset) else { break };
                    from = ReadFrom::Offset(last + 1);
                    found.extend(read.records.iter().map(|r| (r.offset, number_of(&r.value))));
                }
                Err(error) => {
                    self.seen.unproven.push(format!("topic partition {partition}: {error}"));
                    return;
                }
            }
        }
        for (offset, value) in &self.appended {
            match found.remove(offset) {
                Some(number) if number == *value => self.seen.verified += 1,
                Some(number) => {
                    let why = format!("record {offset}: {number:#x}, appended was {value:#x}");
                    self.seen.wrong.push(why);
                }
                None => self.seen.lost.push(format!("record {offset} of {}", self.number)),
            }
        }
        for (offset, number) in found {
            match self.appends_unknown.iter().position(|unknown| *unknown == number) {
                Some(at) => drop(self.appends_unknown.swap_remove(at)),
                None => {
                    let why = format!("record {offset}: {number:#x} was not appended there");
                    self.seen.wrong.push(why);
                }
            }
        }
    }
}

fn found_of(value: Option<Value>) -> Found {
    value.map(|value| (value.version.0, number_of(&value.value)))
}
