//! Writers that remember what they were told about every write, and compare it with what is there.
//!
//! What a client may be told and what must hold afterwards:
//!
//! | told | the write is |
//! |---|---|
//! | acknowledged | there, once |
//! | refused (any definite error) | not there |
//! | unknown | there once, or not there |

use std::collections::BTreeMap;

use ironring_core::prng::Prng;
use ironring_net::client::ClientError;
use ironring_net::client::blocking::Client;
use ironring_net::message::{AppendRecord, AppendTo, ReadFrom};

/// The topic writers append to: writer `i` to partition `i`.
pub const TOPIC: &str = "ledger";

/// Longest value written.
const VALUE_BYTES_MAX: u64 = 6000;
/// One value in this many is a hundred times as long.
const LARGE_EVERY: u64 = 97;

/// What was told, all writers together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    pub acked: u64,
    pub refused: u64,
    pub unknown: u64,
}

impl std::ops::AddAssign for Told {
    fn add_assign(&mut self, other: Told) {
        self.acked += other.acked;
        self.refused += other.refused;
        self.unknown += other.unknown;
    }
}

/// A record of the topic as its writer knows it.
#[derive(Clone, Copy)]
struct Appended {
    ordinal: u64,
    /// Where it must be; `None` when the outcome is unknown.
    offset: Option<u64>,
}

/// One client with keys and a topic partition of its own.
pub struct Writer {
    id: u32,
    client: Client,
    prng: Prng,
    /// What each key may hold: versions, `None` for no value. More than one after an unknown
    /// outcome only.
    keys: Vec<Vec<Option<u64>>>,
    /// Keys written since they were compared last.
    touched: Vec<usize>,
    appended: Vec<Appended>,
    versions: u64,
    ordinals: u64,
    pub told: Told,
    /// What contradicts the table above, in words.
    pub wrong: Vec<String>,
}

impl Writer {
    pub fn new(id: u32, client: Client, seed: u64) -> Writer {
        Writer {
            id,
            client,
            prng: Prng::new(seed),
            keys: Vec::new(),
            touched: Vec::new(),
            appended: Vec::new(),
            versions: 0,
            ordinals: 0,
            told: Told::default(),
            wrong: Vec::new(),
        }
    }

    /// One write of some kind.
    pub fn step(&mut self) {
        match self.prng.below(10) {
            0..4 => self.put_new(),
            4..6 => self.overwrite(),
            6 => self.delete(),
            7 => self.put_on_taken(),
            _ => self.append(),
        }
    }

    fn some_key(&mut self) -> Option<usize> {
        let keys = self.keys.len() as u64;
        (keys > 0).then(|| self.prng.below(keys) as usize)
    }

    fn put_new(&mut self) {
        self.keys.push(vec![None]);
        self.put(self.keys.len() - 1);
    }

    fn overwrite(&mut self) {
        if let Some(n) = self.some_key() {
            self.put(n);
        }
    }

    fn put(&mut self, n: usize) {
        self.versions += 1;
        let (key, value) = (self.key(n), self.value(n, self.versions));
        let told = self.client.put(&key, &value).map(|_| ());
        self.settle(n, Some(self.versions), told);
    }

    fn delete(&mut self) {
        if let Some(n) = self.some_key() {
            let told = self.client.delete(&self.key(n)).map(|_| ());
            self.settle(n, None, told);
        }
    }

    /// A write that must be refused, and must leave nothing.
    fn put_on_taken(&mut self) {
        let Some(n) = self.some_key() else { return };
        if self.keys[n].contains(&None) {
            return;
        }
        match self.client.put_if_absent(&self.key(n), b"refused") {
            Err(ClientError::Unknown { .. }) => self.told.unknown += 1,
            Err(_) => self.told.refused += 1,
            Ok(_) => self.wrong.push(format!("key {n} of writer {} was taken twice", self.id)),
        }
        self.touched.push(n);
    }

    fn settle(&mut self, n: usize, version: Option<u64>, told: Result<(), ClientError>) {
        self.touched.push(n);
        match told {
            Ok(()) => {
                self.told.acked += 1;
                self.keys[n] = vec![version];
            }
            Err(ClientError::Unknown { .. }) => {
                self.told.unknown += 1;
                self.keys[n].push(version);
            }
            Err(_) => self.told.refused += 1,
        }
    }

    fn append(&mut self) {
        let count = 1 + self.prng.below(3);
        let ordinals = self.ordinals..self.ordinals + count;
        self.ordinals = ordinals.end;
        let values: Vec<String> = ordinals.clone().map(record).collect();
        let records: Vec<AppendRecord<'_>> =
            values.iter().map(|v| AppendRecord { key: b"", value: v.as_bytes() }).collect();
        let to = AppendTo::Partition(self.id);
        let first = match self.client.topic_append(TOPIC, to, &records, None) {
            Ok(appended) => {
                self.told.acked += 1;
                Some(appended.first)
            }
            Err(ClientError::Unknown { .. }) => {
                self.told.unknown += 1;
                None
            }
            Err(_) => {
                self.told.refused += 1;
                return;
            }
        };
        self.appended.extend(
            ordinals.enumerate().map(|(i, ordinal)| Appended {
                ordinal,
                offset: first.map(|first| first + i as u64),
            }),
        );
    }

    /// Compares the keys written since the last time with the node; how many there were.
    pub fn verify_touched(&mut self, client: &mut Client) -> usize {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        for chunk in touched.chunks(64) {
            let keys: Vec<Vec<u8>> = chunk.iter().map(|n| self.key(*n)).collect();
            let found = client.multi_get(&keys).expect("a running node answers reads");
            for (n, found) in chunk.iter().zip(found) {
                self.compare(*n, found.as_ref().map(|f| f.value.as_slice()));
            }
        }
        touched.len()
    }

    /// Compares everything with the node, and that there is nothing else.
    pub fn verify_all(&mut self, client: &mut Client) {
        self.touched = (0..self.keys.len()).collect();
        self.verify_touched(client);
        let prefix = format!("{}/", self.id);
        let scanned: Vec<Vec<u8>> = client
            .scan(prefix.as_bytes(), false)
            .map(|entry| entry.expect("a running node answers scans").key)
            .collect();
        let known: BTreeMap<Vec<u8>, usize> =
            (0..self.keys.len()).map(|n| (self.key(n), n)).collect();
        for key in &scanned {
            let may_be = known.get(key).is_some_and(|n| self.keys[*n].iter().any(Option::is_some));
            if !may_be {
                self.wrong.push(format!("{} was never stored", String::from_utf8_lossy(key)));
            }
        }
        let must_be = self.keys.iter().filter(|may| !may.contains(&None)).count();
        if scanned.len() < must_be {
            self.wrong.push(format!("{} keys scanned, {must_be} were stored", scanned.len()));
        }
        self.verify_topic(client);
    }

    fn compare(&mut self, n: usize, found: Option<&[u8]>) {
        let fits = |may: &Option<u64>| match (may, found) {
            (None, None) => true,
            (Some(version), Some(found)) => self.value(n, *version) == found,
            _ => false,
        };
        if !self.keys[n].iter().any(fits) {
            let found = found.map(|f| String::from_utf8_lossy(&f[..f.len().min(40)]).into_owned());
            let key = String::from_utf8_lossy(&self.key(n)).into_owned();
            self.wrong.push(format!("{key} may hold {:?}, holds {found:?}", self.keys[n]));
        }
    }

    /// Offsets are dense; what was acknowledged is where the receipt said, once; what was refused
    /// is nowhere.
    fn verify_topic(&mut self, client: &mut Client) {
        let mut found: Vec<String> = Vec::new();
        loop {
            let from = ReadFrom::Offset(found.len() as u64);
            let page = client.topic_read(TOPIC, self.id, from, (0, 0), 0);
            let page = page.expect("a running node answers reads");
            for record in &page.records {
                if record.offset != found.len() as u64 {
                    let at = found.len();
                    self.wrong.push(format!("offset {} where {at} belongs", record.offset));
                }
                found.push(String::from_utf8_lossy(&record.value).into_owned());
            }
            if found.len() as u64 >= page.end {
                break;
            }
            assert!(!page.records.is_empty(), "a read below the end yields records");
        }
        let mut times: BTreeMap<&str, u32> = BTreeMap::new();
        for value in &found {
            *times.entry(value).or_default() += 1;
        }
        for appended in &self.appended {
            let value = record(appended.ordinal);
            let there = times.remove(value.as_str()).unwrap_or(0);
            let right = match appended.offset {
                Some(offset) => there == 1 && found.get(offset as usize) == Some(&value),
                None => there <= 1,
            };
            if !right {
                let at = appended.offset;
                self.wrong.push(format!("topic record {value} ({at:?}) is there {there} times"));
            }
        }
        for (value, _) in times {
            self.wrong.push(format!("topic record {value} was never appended"));
        }
    }

    fn key(&self, n: usize) -> Vec<u8> {
        format!("{}/{n:06}", self.id).into_bytes()
    }

    /// Values tell from which write they are, in every byte.
    fn value(&self, n: usize, version: u64) -> Vec<u8> {
        let mut prng = Prng::new(u64::from(self.id) << 48 ^ (n as u64) << 24 ^ version);
        let mut len = prng.below(VALUE_BYTES_MAX);
        if prng.chance(1, LARGE_EVERY) {
            len *= 100;
        }
        let mut value = format!("{} {n} {version} ", self.id).into_bytes();
        let head = value.len();
        value.resize(head + len as usize, 0);
        prng.fill(&mut value[head..]);
        value
    }
}

fn record(ordinal: u64) -> String {
    format!("record {ordinal}")
}
