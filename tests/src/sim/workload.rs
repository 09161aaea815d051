//! What simulated clients do: a seeded mix over few, hot keys and topics, so that everything
//! meets everything within a few hundred requests.

use std::collections::BTreeMap;

use ironring_core::prng::Prng;
use ironring_core::{Durability, PartitionId, SessionId, Token, TopicId};

use crate::sim::op::{Change, Condition, Intent, Key, KeyOp, Op, WriteId};

/// How likely each kind of request is, relative to the others.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Unconditional puts of small values.
    pub put: u32,
    /// Puts of values that span blocks.
    pub put_large: u32,
    /// Puts of values that are written in chunks.
    pub put_chunked: u32,
    /// Puts that expire.
    pub put_ttl: u32,
    /// Removals.
    pub delete: u32,
    /// Puts and deletes with a condition.
    pub conditional: u32,
    /// Atomic batches.
    pub batch: u32,
    /// Reads of one key.
    pub get: u32,
    /// Reads of several keys.
    pub multi_get: u32,
    /// Listings.
    pub scan: u32,
    /// Topic appends.
    pub append: u32,
    /// Topic reads.
    pub topic_read: u32,
    /// Topic trims.
    pub trim: u32,
    /// Topics made and dropped, and listed.
    pub topic_admin: u32,
    /// Share of clients with a session, in percent.
    pub session_percent: u64,
}

impl Mix {
    /// Everything.
    pub const ALL: Mix = Mix {
        put: 300,
        put_large: 30,
        put_chunked: 4,
        put_ttl: 30,
        delete: 60,
        conditional: 80,
        batch: 40,
        get: 220,
        multi_get: 40,
        scan: 30,
        append: 120,
        topic_read: 80,
        trim: 8,
        topic_admin: 6,
        session_percent: 60,
    };

    /// What a log with keys alone can do.
    pub const KEYS: Mix = Mix {
        put: 400,
        put_large: 60,
        put_chunked: 0,
        put_ttl: 0,
        delete: 80,
        conditional: 0,
        batch: 0,
        get: 250,
        multi_get: 0,
        scan: 0,
        append: 0,
        topic_read: 0,
        trim: 0,
        topic_admin: 0,
        session_percent: 0,
    };

    fn kinds(&self) -> [(u32, Kind); 14] {
        [
            (self.put, Kind::Put),
            (self.put_large, Kind::PutLarge),
            (self.put_chunked, Kind::PutChunked),
            (self.put_ttl, Kind::PutTtl),
            (self.delete, Kind::Delete),
            (self.conditional, Kind::Conditional),
            (self.batch, Kind::Batch),
            (self.get, Kind::Get),
            (self.multi_get, Kind::MultiGet),
            (self.scan, Kind::Scan),
            (self.append, Kind::Append),
            (self.topic_read, Kind::TopicRead),
            (self.trim, Kind::Trim),
            (self.topic_admin, Kind::TopicAdmin),
        ]
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Put,
    PutLarge,
    PutChunked,
    PutTtl,
    Delete,
    Conditional,
    Batch,
    Get,
    MultiGet,
    Scan,
    Append,
    TopicRead,
    Trim,
    TopicAdmin,
}

/// What the clients of one run do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How many clients.
    pub clients: u32,
    /// Most requests a client has unanswered.
    pub depth: u32,
    /// How many keys.
    pub keys: u32,
    /// Topics that last for the whole run, with up to four partitions each.
    pub topics: u32,
    /// How likely each request is.
    pub mix: Mix,
    /// Share of writes at level `async`, in percent.
    pub async_percent: u64,
    /// Longest value of a large put, in bytes.
    pub large_bytes_max: u64,
    /// Longest value that is written in chunks, in bytes.
    pub chunked_bytes_max: u64,
}

/// What clients know about a topic.
#[derive(Clone, Debug)]
pub struct KnownTopic {
    /// Its id.
    pub id: TopicId,
    /// How many partitions.
    pub partitions: u32,
    /// The end of each partition, as far as known.
    pub ends: BTreeMap<u32, u64>,
}

/// Draws requests. Shared by all clients of a run.
#[derive(Debug)]
pub struct Workload {
    rng: Prng,
    load: Load,
    partitions: u32,
    keys: Vec<Key>,
    by_partition: BTreeMap<PartitionId, Vec<Key>>,
    /// Newest version of each key that any client knows.
    pub versions: BTreeMap<Key, u64>,
    /// Topics that last for the whole run, in the order they were made.
    pub topics: Vec<KnownTopic>,
    /// Names of topics that come and go.
    passing: Vec<String>,
    next_write: u64,
    next_topic: u32,
}

impl Workload {
    /// The requests of `load`, drawn from `seed`.
    #[must_use]
    pub fn new(seed: u64, load: Load, partitions: u32) -> Workload {
        let mut rng = Prng::new(seed);
        let keys: Vec<Key> = (0..load.keys).map(|i| make_key(&mut rng, i)).collect();
        let mut by_partition: BTreeMap<PartitionId, Vec<Key>> = BTreeMap::new();
        for key in &keys {
            let partition = Token::of_key(key).partition(partitions);
            by_partition.entry(partition).or_default().push(key.clone());
        }
        Workload {
            rng,
            load,
            partitions,
            keys,
            by_partition,
            versions: BTreeMap::new(),
            topics: Vec::new(),
            passing: Vec::new(),
            next_write: 0,
            next_topic: 0,
        }
    }

    /// The creation of a topic that lasts.
    pub fn lasting_topic(&mut self) -> Op {
        let partitions = 1 + self.rng.below(4) as u32;
        self.next_topic += 1;
        Op::TopicCreate {
            name: format!("lasting-{}", self.next_topic),
            partitions,
            retain_bytes: 0,
        }
    }

    /// The partition of a key.
    #[must_use]
    pub fn partition_of(&self, key: &Key) -> PartitionId {
        Token::of_key(key).partition(self.partitions)
    }

    /// The next request of a client. Writes have no session yet: see [`with_session`].
    pub fn draw(&mut self) -> Op {
        let kinds = self.load.mix.kinds();
        let total: u32 = kinds.iter().map(|(weight, _)| weight).sum();
        let mut pick = self.rng.below(u64::from(total)) as u32;
        for (weight, kind) in kinds {
            if pick < weight {
                return self.make(kind);
            }
            pick -= weight;
        }
        unreachable!("the pick is below the sum of the weights")
    }

    fn make(&mut self, kind: Kind) -> Op {
        match kind {
            Kind::Put | Kind::PutLarge | Kind::PutChunked | Kind::PutTtl | Kind::Delete => {
                let change = self.change(kind);
                self.single(change, false)
            }
            Kind::Conditional => {
                let kind = if self.rng.chance(1, 5) { Kind::Delete } else { Kind::Put };
                let change = self.change(kind);
                self.single(change, true)
            }
            Kind::Batch => self.batch(),
            Kind::Get => Op::Get { key: self.key() },
            Kind::MultiGet => {
                let (partition, keys) = self.keys_of_one_partition(6);
                Op::MultiGet { partition, keys }
            }
            Kind::Scan => self.scan(),
            Kind::Append | Kind::TopicRead | Kind::Trim if self.topics.is_empty() => {
                Op::Get { key: self.key() }
            }
            Kind::Append => self.append(),
            Kind::TopicRead => self.topic_read(),
            Kind::Trim => self.trim(),
            Kind::TopicAdmin => self.topic_admin(),
        }
    }

    fn key(&mut self) -> Key {
        // Half of the requests go to a tenth of the keys.
        let all = self.keys.len() as u64;
        let range = if self.rng.chance(1, 2) { all.div_ceil(10) } else { all };
        self.keys[self.rng.below(range) as usize].clone()
    }

    fn change(&mut self, kind: Kind) -> Change {
        let small = 8 + self.rng.below(200);
        let (len, ttl_ms) = match kind {
            Kind::Delete => return Change::Delete,
            Kind::PutLarge => (8 + self.rng.below(self.load.large_bytes_max), 0),
            Kind::PutChunked => {
                let least = ironring_core::limits::CHUNK_BYTES as u64;
                (least + self.rng.below(self.load.chunked_bytes_max - least), 0)
            }
            Kind::PutTtl => (small, 1 + self.rng.below(400)),
            _ => (small, 0),
        };
        Change::Put { len: len as u32, ttl_ms }
    }

    fn intent(&mut self, partition: PartitionId) -> Intent {
        self.next_write += 1;
        let level = if self.rng.chance(self.load.async_percent, 100) {
            Durability::Async
        } else if self.rng.chance(1, 3) {
            Durability::Quorum
        } else {
            Durability::Local
        };
        Intent { id: WriteId(self.next_write), partition, level, session: None }
    }

    fn condition(&mut self, key: &Key) -> Condition {
        let known = self.versions.get(key).copied();
        match (self.rng.below(4), known) {
            (0, _) | (_, None) => Condition::Absent,
            (1, Some(version)) => Condition::Version(version.saturating_sub(1).max(1)),
            (_, Some(version)) => Condition::Version(version),
        }
    }

    fn single(&mut self, change: Change, conditional: bool) -> Op {
        let key = self.key();
        let partition = self.partition_of(&key);
        let condition = if conditional { self.condition(&key) } else { Condition::None };
        let intent = self.intent(partition);
        Op::Write { intent, ops: vec![KeyOp { key, change, condition }], batch: false }
    }

    fn keys_of_one_partition(&mut self, most: u64) -> (PartitionId, Vec<Key>) {
        let some = self.key();
        let partition = self.partition_of(&some);
        let all = &self.by_partition[&partition];
        let mut keys: Vec<Key> = Vec::new();
        for _ in 0..=self.rng.below(most) {
            let key = &all[self.rng.below(all.len() as u64) as usize];
            if !keys.contains(key) {
                keys.push(key.clone());
            }
        }
        (partition, keys)
    }

    fn batch(&mut self) -> Op {
        let (partition, keys) = self.keys_of_one_partition(8);
        let ops = keys.into_iter().map(|key| {
            let kind = match self.rng.below(6) {
                0 => Kind::Delete,
                1 => Kind::PutTtl,
                _ => Kind::Put,
            };
            let change = self.change(kind);
            let condition =
                if self.rng.chance(1, 8) { self.condition(&key) } else { Condition::None };
            KeyOp { key, change, condition }
        });
        let ops = ops.collect();
        Op::Write { intent: self.intent(partition), ops, batch: true }
    }

    fn scan(&mut self) -> Op {
        let some = self.key();
        let partition = self.partition_of(&some);
        let cut = self.rng.below(3) as usize;
        let prefix = if self.rng.chance(1, 2) { Vec::new() } else { some[..cut].to_vec() };
        let after = if self.rng.chance(1, 3) { self.key().to_vec() } else { Vec::new() };
        let limit = if self.rng.chance(1, 2) { 0 } else { 1 + self.rng.below(5) as u32 };
        Op::Scan { partition, prefix, after, limit, values: self.rng.chance(1, 2) }
    }

    fn part(&mut self) -> (TopicId, u32, PartitionId) {
        let topic = &self.topics[self.rng.below(self.topics.len() as u64) as usize];
        let index = self.rng.below(u64::from(topic.partitions)) as u32;
        let token = Token::of_topic_partition(topic.id, index);
        (topic.id, index, token.partition(self.partitions))
    }

    fn append(&mut self) -> Op {
        let (topic, index, partition) = self.part();
        let count = if self.rng.chance(1, 4) { 1 + self.rng.below(20) } else { 1 };
        let lens = (0..count).map(|_| 8 + self.rng.below(300) as u32).collect();
        Op::Append { intent: self.intent(partition), topic, index, lens }
    }

    fn end_of(&self, topic: TopicId, index: u32) -> u64 {
        let known = self.topics.iter().find(|t| t.id == topic);
        known.and_then(|t| t.ends.get(&index)).copied().unwrap_or(0)
    }

    fn topic_read(&mut self) -> Op {
        let (topic, index, _) = self.part();
        let end = self.end_of(topic, index);
        let from = self.rng.chance(4, 5).then(|| self.rng.below(end + 2));
        let max_records = if self.rng.chance(1, 2) { 0 } else { 1 + self.rng.below(10) as u32 };
        Op::TopicRead { topic, index, from, max_records }
    }

    fn trim(&mut self) -> Op {
        let (topic, index, partition) = self.part();
        let before = self.rng.below(self.end_of(topic, index) + 1);
        Op::Trim { intent: self.intent(partition), topic, index, before }
    }

    fn topic_admin(&mut self) -> Op {
        match self.rng.below(4) {
            0 if !self.passing.is_empty() => {
                let at = self.rng.below(self.passing.len() as u64) as usize;
                Op::TopicDelete { name: self.passing.swap_remove(at) }
            }
            0 | 1 => {
                self.next_topic += 1;
                let name = format!("passing-{}", self.next_topic);
                self.passing.push(name.clone());
                let partitions = 1 + self.rng.below(3) as u32;
                Op::TopicCreate { name, partitions, retain_bytes: 4096 }
            }
            _ => Op::TopicList,
        }
    }

    /// Whether a new client uses a session.
    pub fn wants_session(&mut self) -> bool {
        self.rng.chance(self.load.mix.session_percent, 100)
    }

    /// What a request costs to send: how long a client thinks before its next one, in nanoseconds.
    pub fn think_ns(&mut self) -> u64 {
        match self.rng.below(20) {
            0 => 1_000_000 + self.rng.below(60_000_000),
            1..=4 => 10_000 + self.rng.below(500_000),
            _ => self.rng.below(20_000),
        }
    }
}

/// Gives a write its place in a session.
pub fn with_session(op: &mut Op, session: SessionId, sequence: u64) {
    if let Op::Write { intent, .. } | Op::Append { intent, .. } | Op::Trim { intent, .. } = op {
        intent.session = Some((session, sequence));
    }
}

fn make_key(rng: &mut Prng, index: u32) -> Key {
    let mut key = format!("k{index:04}").into_bytes();
    // Mostly short; some fill the limit.
    let more = match rng.below(20) {
        0 => ironring_core::limits::KEY_BYTES_MAX - key.len(),
        1..=4 => rng.below(200) as usize,
        _ => 0,
    };
    key.extend(std::iter::repeat_n(b'x', more));
    Key::from(key.as_slice())
}
