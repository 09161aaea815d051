//! What clients ask for, and what they heard, as the history has it.
//!
//! Keys are `k00`, `k01`, ...; a value begins with its number, and all bytes behind follow from that,
//! so that a value which was mixed up is no value anybody wrote.

use ironring_core::prng::Prng;
use ironring_core::{Durability, ErrorCode, Offset, Token};
use ironring_net::client::{ClientError, Stale, Value, WriteSettings};
use ironring_net::message::{self, Receipt};

use crate::linear::{Answer, Call, Cell, Change, Condition, Level, Nanos};

/// Partitions of the cluster: few, so that each has several of the keys.
pub const PARTITIONS: u32 = 16;
/// Keys of a run.
pub const KEYS: usize = 48;
/// Half of the operations go to so many of them.
const HOT_KEYS: u64 = 8;
/// One of so many clients asks for the level `all`, which one replica that is away holds up: were it
/// any of them, all would soon wait and nobody would load what is left.
const ALL_EVERY: u32 = 4;
/// What is read when the bytes are none that were written.
pub const DAMAGED: u64 = u64::MAX;

/// An operation to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    /// Number of the key.
    pub key: usize,
    /// What to do with it.
    pub what: What,
    /// The level of a write.
    pub level: Durability,
}

/// What to do with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Read it.
    Get,
    /// Read what some replica has of it.
    GetStale,
    /// Store the value of this number under a condition.
    Put(u64, Condition),
    /// Remove it under a condition.
    Delete(Condition),
}

/// One client's choices.
#[derive(Clone, Debug)]
pub struct Workload {
    prng: Prng,
    client: u32,
    puts: u64,
    quorum_only: bool,
    /// The version of each key this client heard of last; 0: it was not there.
    seen: Vec<Option<u64>>,
}

impl Workload {
    /// The choices of a client of a run.
    #[must_use]
    pub fn new(seed: u64, client: u32) -> Workload {
        let mut prng = Prng::new(seed ^ (u64::from(client) + 1).wrapping_mul(0x9E37_79B9));
        prng.next_u64();
        Workload { prng, client, puts: 0, quorum_only: false, seen: vec![None; KEYS] }
    }

    /// No write waits for every replica.
    pub fn ask_for_quorum_only(&mut self) {
        self.quorum_only = true;
    }

    /// A number below `bound`, for what is not an operation.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.prng.below(bound)
    }

    /// The next operation.
    pub fn next_op(&mut self) -> Op {
        let keys = if self.prng.chance(1, 2) { HOT_KEYS } else { KEYS as u64 };
        let key = self.prng.below(keys) as usize;
        let all = self.client % ALL_EVERY == ALL_EVERY - 1 && self.prng.chance(1, 2);
        let level = if all && !self.quorum_only { Durability::All } else { Durability::Quorum };
        let expected = match self.seen[key] {
            Some(version) if version > 0 => Condition::Version(version),
            _ => Condition::Absent,
        };
        let what = match self.prng.below(100) {
            0..30 => What::Get,
            30..40 => What::GetStale,
            40..65 => What::Put(self.number(), Condition::None),
            65..87 => What::Put(self.number(), expected),
            87..90 => What::Put(self.number(), Condition::Absent),
            90..97 => What::Delete(Condition::None),
            _ => What::Delete(expected),
        };
        Op { key, what, level }
    }

    /// Nobody else writes this number.
    fn number(&mut self) -> u64 {
        self.puts += 1;
        (u64::from(self.client) << 32) | self.puts
    }

    /// What was heard about a key is what the next condition on it is about.
    pub fn heard(&mut self, op: &Op, answer: &Answer) {
        match answer {
            Answer::Receipt { version: Some(version), .. } => {
                let gone = matches!(op.what, What::Delete(_));
                self.seen[op.key] = Some(if gone { 0 } else { *version });
            }
            Answer::ConditionFailed { found } => self.seen[op.key] = Some(*found),
            Answer::Cells(cells) => {
                let version = |cell: &Option<Cell>| cell.map_or(Some(0), |cell| cell.version);
                self.seen[op.key] = cells.first().and_then(version);
            }
            _ => {}
        }
    }
}

impl Op {
    /// The operation in a history.
    #[must_use]
    pub fn call(&self) -> Call {
        let (key, partition) = (key_name(self.key), partition_of(self.key));
        let change = |value, condition| Change { key: key.clone(), value, condition, ttl_ms: 0 };
        match self.what {
            What::Get | What::GetStale => Call::Get { partition, keys: vec![key] },
            What::Put(number, condition) => {
                Call::Write { partition, changes: vec![change(Some(number), condition)] }
            }
            What::Delete(condition) => {
                Call::Write { partition, changes: vec![change(None, condition)] }
            }
        }
    }

    /// How the client is told what a write is to be.
    #[must_use]
    pub fn settings(&self) -> WriteSettings {
        let condition = match self.what {
            What::Put(_, condition) | What::Delete(condition) => condition,
            What::Get | What::GetStale => Condition::None,
        };
        let condition = match condition {
            Condition::None => message::Condition::None,
            Condition::Absent => message::Condition::Absent,
            Condition::Version(version) => message::Condition::Version(Offset(version)),
        };
        WriteSettings { durability: Some(self.level), ..WriteSettings::when(condition) }
    }
}

/// The name of a key.
#[must_use]
pub fn key_name(key: usize) -> String {
    format!("k{key:02}")
}

/// The partition of a key.
#[must_use]
pub fn partition_of(key: usize) -> u32 {
    Token::of_key(key_name(key).as_bytes()).partition(PARTITIONS).0
}

/// The bytes of a value: mostly short, a few of some KiB.
#[must_use]
pub fn value_bytes(number: u64) -> Vec<u8> {
    let mut prng = Prng::new(number);
    let len = match prng.below(50) {
        0 => 20_000,
        1..5 => 2_000,
        _ => 8 + prng.below(100) as usize,
    };
    let mut bytes = vec![0; len];
    prng.fill(&mut bytes);
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// The number of a value, or [`DAMAGED`].
#[must_use]
pub fn value_number(bytes: &[u8]) -> u64 {
    let number = bytes.first_chunk().map(|first| u64::from_le_bytes(*first));
    number.filter(|number| value_bytes(*number) == bytes).unwrap_or(DAMAGED)
}

/// What a read heard.
#[must_use]
pub fn read_answer(found: &Result<Option<Value>, ClientError>) -> Answer {
    match found {
        Ok(found) => Answer::Cells(vec![found.as_ref().map(|value| Cell {
            version: Some(value.version.0),
            value: Some(value_number(&value.value)),
        })]),
        Err(_) => Answer::Failed,
    }
}

/// What a read heard that some replica answered, and how old that may be.
#[must_use]
pub fn stale_answer(found: Result<Stale<Option<Value>>, ClientError>) -> (Answer, Option<Nanos>) {
    let age = found.as_ref().ok().map(|stale| stale.age);
    let age = age.map(|age| age.map_or(Nanos::MAX, |age| age.as_nanos() as Nanos));
    (read_answer(&found.map(|stale| stale.found)), age)
}

/// What a write heard.
#[must_use]
pub fn write_answer(written: &Result<Receipt, ClientError>) -> Answer {
    match written {
        Ok(receipt) => {
            let level = match receipt.durability {
                Durability::Async => Level::Async,
                Durability::Local => Level::Local,
                Durability::Quorum => Level::Quorum,
                Durability::All => Level::All,
            };
            Answer::Receipt { level, version: Some(receipt.offset.0) }
        }
        Err(ClientError::Unknown { .. }) => Answer::Unknown,
        Err(ClientError::Server { code: ErrorCode::ConditionFailed, detail, .. }) => {
            Answer::ConditionFailed { found: *detail }
        }
        Err(_) => Answer::Failed,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ironring_core::{PartitionId, Term};

    use super::*;

    #[test]
    fn every_partition_is_used_and_no_number_is_written_twice() {
        let used: BTreeSet<u32> = (0..KEYS).map(partition_of).collect();
        assert!(used.len() >= PARTITIONS as usize - 2, "{used:?}");
        let (mut numbers, mut all) = (BTreeSet::new(), BTreeSet::new());
        for client in 0..8 {
            let mut workload = Workload::new(3, client);
            for _ in 0..1_000 {
                let op = workload.next_op();
                all.insert((client, op.level == Durability::All));
                if let What::Put(number, _) = op.what {
                    assert!(numbers.insert(number) && number != DAMAGED);
                }
            }
        }
        let ask_for_all: Vec<u32> = all.iter().filter(|(_, is)| *is).map(|(c, _)| *c).collect();
        assert_eq!(ask_for_all, [3, 7]);
    }

    #[test]
    fn a_condition_is_about_what_was_heard_last() {
        let mut workload = Workload::new(1, 0);
        let receipt = Answer::Receipt { level: Level::Quorum, version: Some(9) };
        for key in 0..KEYS {
            let op = Op { key, what: What::Put(1, Condition::None), level: Durability::Quorum };
            workload.heard(&op, &receipt);
        }
        let conditions = |workload: &mut Workload| {
            let ops = (0..1_000).map(|_| workload.next_op().what);
            ops.filter_map(|what| match what {
                What::Put(_, condition) | What::Delete(condition) => Some(condition),
                What::Get | What::GetStale => None,
            })
            .collect::<Vec<_>>()
        };
        assert!(conditions(&mut workload).contains(&Condition::Version(9)));
        for key in 0..KEYS {
            let op = Op { key, what: What::Get, level: Durability::Quorum };
            workload.heard(&op, &Answer::Cells(vec![None]));
            workload.heard(&op, &Answer::Failed);
        }
        let after = conditions(&mut workload);
        assert!(after.iter().all(|c| matches!(c, Condition::None | Condition::Absent)));
    }

    #[test]
    fn a_value_that_was_mixed_up_has_no_number() {
        for number in [1, 77, (3 << 32) | 5] {
            let mut bytes = value_bytes(number);
            assert_eq!(value_number(&bytes), number);
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            assert_eq!(value_number(&bytes), DAMAGED);
        }
        assert_eq!(value_number(b"short"), DAMAGED);
    }

    #[test]
    fn only_what_certainly_changed_nothing_is_failed() {
        let server =
            |code, detail| Err(ClientError::Server { code, detail, message: String::new() });
        let unknown = Err(ClientError::Unknown { reason: String::new() });
        assert_eq!(write_answer(&unknown), Answer::Unknown);
        assert_eq!(write_answer(&Err(ClientError::Timeout)), Answer::Failed);
        assert_eq!(write_answer(&server(ErrorCode::TooFewReplicas, 0)), Answer::Failed);
        let refused = write_answer(&server(ErrorCode::ConditionFailed, 4));
        assert_eq!(refused, Answer::ConditionFailed { found: 4 });
        let receipt = Receipt {
            durability: Durability::All,
            partition: PartitionId(1),
            term: Term(1),
            offset: Offset(8),
            duplicate: true,
        };
        let expected = Answer::Receipt { level: Level::All, version: Some(8) };
        assert_eq!(write_answer(&Ok(receipt)), expected);
        assert_eq!(read_answer(&Ok(None)), Answer::Cells(vec![None]));
        assert_eq!(read_answer(&Err(ClientError::Timeout)), Answer::Failed);
    }
}
