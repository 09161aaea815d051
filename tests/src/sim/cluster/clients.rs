//! Clients: what they ask, whom, and what they hear.

use std::collections::BTreeMap;

use ironring_core::limits::CHUNK_BYTES;
use ironring_core::prng::Prng;
use ironring_core::{Durability, ErrorCode, PartitionId, Token};

use crate::linear::{Answer, Call, Cell, Change, Condition, Level, Nanos, Operation};
use crate::sim::op::{self, Intent, Key, KeyOp, Op, Outcome, RequestId, WriteId};

/// Keys per partition that are written all the time.
const BUSY_KEYS: usize = 3;
/// And with the one that is written seldom: what is wrong with it stays until somebody finds it.
const KEYS: usize = BUSY_KEYS + 1;
/// One of so many requests is about it.
const SELDOM: u64 = 150;
/// One of so many puts of a single key has a value that is stored in chunks: a few in a run, because each
/// is as many bytes as thousands of others.
const LARGE: u64 = 250;
/// One of so many reads is asked of any node, for what it has.
const STALE: u64 = 4;

/// A client: one request at a time.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// What it waits for, and where: the request, its operation in the history, and the node.
    pub waits: Option<(RequestId, usize, usize)>,
    /// It asked for what a node has, however old that is.
    pub stale: bool,
    /// When it asks next.
    pub asks_at: u64,
    /// When it stops to wait.
    pub until: u64,
}

/// All clients and what they did.
#[derive(Debug)]
pub struct Clients {
    /// The clients.
    pub all: Vec<Client>,
    /// What they did.
    pub history: Vec<Operation>,
    keys: Vec<Vec<Key>>,
    /// The last version anybody heard of, by key, to make conditions that sometimes hold.
    versions: BTreeMap<Vec<u8>, u64>,
    next_write: u64,
    next_request: u64,
    /// Which values are large, and how large: drawn apart, so that a run without any is as it was.
    large: Prng,
    /// Which reads may be old, and whom they are for.
    stale: Prng,
    /// Writes that were acked, and reads that were answered.
    pub acked: u64,
    pub read: u64,
    /// Of these, by how old they said they may be: not at all, so long, unknown.
    pub stale_read: [u64; 3],
    /// Values that are stored in chunks, acked or not.
    pub large_values: u64,
}

impl Clients {
    /// So many clients of a cluster with so many partitions; `large` draws the large values, `stale` the
    /// reads that may be old.
    pub fn new(count: usize, partitions: u32, large: Prng, stale: Prng) -> Clients {
        let mut keys: Vec<Vec<Key>> = vec![Vec::new(); partitions as usize];
        let mut n = 0;
        while keys.iter().any(|keys| keys.len() < KEYS) {
            let key = format!("k{n:03}");
            let home = Token::of_key(key.as_bytes()).partition(partitions);
            let room = &mut keys[home.0 as usize];
            if room.len() < KEYS {
                room.push(Key::from(key.as_bytes()));
            }
            n += 1;
        }
        Clients {
            all: vec![Client::default(); count],
            history: Vec::new(),
            keys,
            versions: BTreeMap::new(),
            next_write: 0,
            next_request: 0,
            large,
            stale,
            acked: 0,
            read: 0,
            stale_read: [0; 3],
            large_values: 0,
        }
    }

    /// Something to ask about a partition.
    pub fn draw(&mut self, partition: PartitionId, rng: &mut Prng) -> Op {
        let keys = &self.keys[partition.0 as usize];
        let key = match rng.chance(1, SELDOM) {
            true => keys[BUSY_KEYS].clone(),
            false => keys[rng.below(BUSY_KEYS as u64) as usize].clone(),
        };
        if rng.chance(2, 5) {
            return Op::Get { key };
        }
        if rng.chance(1, 20) {
            let prefix = b"k".to_vec();
            return Op::Scan { partition, prefix, after: Vec::new(), limit: 100, values: true };
        }
        self.next_write += 1;
        let level = match rng.below(10) {
            0 => Durability::All,
            _ => Durability::Quorum,
        };
        let id = WriteId(self.next_write);
        let intent = Intent { id, partition, level, session: None };
        let condition = match (rng.below(8), self.versions.get(&key[..])) {
            (0, Some(version)) => op::Condition::Version(*version),
            (1, _) => op::Condition::Absent,
            _ => op::Condition::None,
        };
        let change = |rng: &mut Prng| match rng.below(6) {
            0 => op::Change::Delete,
            1 => op::Change::Put { len: 200 + rng.below(6000) as u32, ttl_ms: 0 },
            _ => op::Change::Put { len: 16 + rng.below(100) as u32, ttl_ms: 0 },
        };
        if rng.chance(1, 6) {
            let ops = keys[..BUSY_KEYS].iter().map(|key| {
                let condition = op::Condition::None;
                KeyOp { key: key.clone(), change: change(rng), condition }
            });
            return Op::Write { intent, ops: ops.collect(), batch: true };
        }
        let mut change = change(rng);
        if let op::Change::Put { len, .. } = &mut change
            && self.large.chance(1, LARGE)
        {
            *len = CHUNK_BYTES as u32 + 1 + self.large.below(CHUNK_BYTES as u64) as u32;
            self.large_values += 1;
        }
        Op::Write { intent, ops: vec![KeyOp { key, change, condition }], batch: false }
    }

    /// Which of so many nodes is asked for what it has, whoever leads; nothing for most requests.
    pub fn draw_stale(&mut self, op: &Op, nodes: usize) -> Option<usize> {
        let reads = matches!(op, Op::Get { .. } | Op::Scan { .. });
        (reads && self.stale.chance(1, STALE)).then(|| self.stale.below(nodes as u64) as usize)
    }

    /// Whether a key is one that is written seldom.
    pub fn is_seldom(&self, key: &[u8]) -> bool {
        self.keys.iter().any(|keys| keys[BUSY_KEYS][..] == *key)
    }

    /// A client asks a node about a partition at `time`; `stale`: for what it has.
    pub fn ask(
        &mut self,
        client: usize,
        (time, patience): (u64, u64),
        (node, stale): (usize, bool),
        (partition, op): (PartitionId, &Op),
    ) -> RequestId {
        self.next_request += 1;
        let request = RequestId(self.next_request);
        let at = self.history.len();
        self.history.push(Operation {
            client: client as u32,
            start: time,
            end: None,
            age: None,
            call: call(partition, op),
            answer: Answer::Unknown,
        });
        let c = &mut self.all[client];
        c.waits = Some((request, at, node));
        c.stale = stale;
        c.until = time + patience;
        request
    }

    /// A client heard the answer to what it waits for. `age_ms`: how old a stale one says it may be.
    pub fn hear(
        &mut self,
        client: usize,
        time: u64,
        outcome: &Outcome,
        age_ms: u32,
    ) -> Result<(), String> {
        let Some((_, at, _)) = self.all[client].waits.take() else { return Ok(()) };
        let operation = &mut self.history[at];
        let heard = match outcome {
            // A copy that has lost it says so; who must have it is asked when the read is not stale.
            Outcome::Error { code: ErrorCode::Corrupt, .. } if self.all[client].stale => {
                Answer::Failed
            }
            outcome => answer(&operation.call, outcome)?,
        };
        match &heard {
            Answer::Receipt { version: Some(version), .. } => {
                self.acked += 1;
                if let Call::Write { changes, .. } = &operation.call
                    && let [change] = &changes[..]
                {
                    self.versions.insert(change.key.clone().into_bytes(), *version);
                }
            }
            Answer::Cells(_) | Answer::Page { .. } => {
                self.read += 1;
                if self.all[client].stale {
                    let how = 1 + usize::from(age_ms == u32::MAX) - usize::from(age_ms == 0);
                    self.stale_read[how] += 1;
                }
            }
            _ => {}
        }
        operation.age = match age_ms {
            _ if !self.all[client].stale => None,
            u32::MAX => Some(Nanos::MAX),
            age_ms => Some(u64::from(age_ms) * 1_000_000),
        };
        if heard != Answer::Unknown {
            operation.end = Some(time);
        }
        operation.answer = heard;
        Ok(())
    }

    /// A get of every key, to end with.
    pub fn audit(&self) -> Vec<(PartitionId, Op)> {
        let keys = self.keys.iter().enumerate();
        let gets = keys.flat_map(|(p, keys)| {
            keys.iter().map(move |key| (PartitionId(p as u32), Op::Get { key: key.clone() }))
        });
        gets.collect()
    }
}

fn text(key: &[u8]) -> String {
    String::from_utf8(key.to_vec()).expect("simulated keys are text")
}

/// The number of a value: that of its write and which of its changes it is.
pub fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

fn call(partition: PartitionId, op: &Op) -> Call {
    match op {
        Op::Get { key } => Call::Get { partition: partition.0, keys: vec![text(key)] },
        Op::Scan { partition, prefix, after, .. } => {
            Call::Scan { partition: partition.0, prefix: text(prefix), after: text(after) }
        }
        Op::Write { intent, ops, .. } => {
            let changes = ops.iter().enumerate().map(|(i, op)| Change {
                key: text(&op.key),
                value: match op.change {
                    op::Change::Put { len, .. } => Some(number(&op::payload(intent.id, i, len))),
                    op::Change::Delete => None,
                },
                condition: match op.condition {
                    op::Condition::None => Condition::None,
                    op::Condition::Absent => Condition::Absent,
                    op::Condition::Version(version) => Condition::Version(version),
                },
                ttl_ms: 0,
            });
            Call::Write { partition: intent.partition.0, changes: changes.collect() }
        }
        other => panic!("clients of a cluster do not ask {other:?}"),
    }
}

fn answer(call: &Call, outcome: &Outcome) -> Result<Answer, String> {
    use ErrorCode as Code;
    let cell = |value: &op::Value| Cell {
        version: Some(value.version),
        value: Some(number(&value.bytes)),
    };
    Ok(match outcome {
        Outcome::Receipt(receipt) => {
            let level = match receipt.level {
                Durability::Async => Level::Async,
                Durability::Local => Level::Local,
                Durability::Quorum => Level::Quorum,
                Durability::All => Level::All,
            };
            Answer::Receipt { level, version: Some(receipt.offset) }
        }
        Outcome::Value(value) => Answer::Cells(vec![Some(cell(value))]),
        Outcome::Page { entries, more } => {
            let entries = entries.iter().map(|e| {
                let value = e.value.as_deref().map(number);
                (text(&e.key), Cell { version: Some(e.version), value })
            });
            Answer::Page { entries: entries.collect(), more: *more }
        }
        Outcome::Error { code: Code::NotFound, .. } if !call.is_write() => {
            Answer::Cells(vec![None])
        }
        Outcome::Error { code: Code::ConditionFailed, detail } => {
            Answer::ConditionFailed { found: *detail }
        }
        Outcome::Error { code: Code::Unknown, .. } => Answer::Unknown,
        Outcome::Error {
            code:
                Code::NotLeader
                | Code::NotReady
                | Code::Overloaded
                | Code::DeadlineExceeded
                | Code::TooFewReplicas
                | Code::NoSpace
                | Code::ShardFenced,
            ..
        } => Answer::Failed,
        other => return Err(format!("{call:?} was answered {other:?}")),
    })
}
