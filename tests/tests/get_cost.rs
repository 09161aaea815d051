//! What a get costs: the reads are counted where the shard hands them to its disk.

use std::time::Duration;

use ironring_core::limits::{CHUNK_BYTES, KEY_BYTES_MAX};
use ironring_core::{Durability, ErrorCode, PartitionId, ShardId, Token};
use ironring_log::{CompactionConfig, LogConfig};
use ironring_ring::Slices;
use ironring_tests::sim::bench::Bench;
use ironring_tests::sim::disk::faults::FaultPlan;
use ironring_tests::sim::disk::{Latency, SimDisk};
use ironring_tests::sim::op::{
    Change, Condition, Intent, Key, KeyOp, Op, Outcome, Value, WriteId, payload,
};
use ironring_tests::sim::shard_node::{ShardNode, Simulated};
use ironring_tests::sim::subject::Subject;

/// Four, so that a multi-get finds several keys of one.
const PARTITIONS: u32 = 4;
/// From a few bytes to the longest value that is one record, around every multiple of a block.
const LENGTHS: [u32; 9] = [8, 100, 3_900, 4_096, 4_097, 8_192, 60_000, 200_000, CHUNK_BYTES as u32];

fn node(cache_bytes: usize) -> ShardNode {
    ShardNode {
        slices: Slices::new(PARTITIONS, 1).expect("more partitions than shards"),
        log: LogConfig {
            segment_bytes: 1 << 20,
            free_segments_target: 1,
            checkpoint_interval_bytes: 512 << 10,
            compaction: CompactionConfig { dead_percent_min: 5, ..CompactionConfig::default() },
            ..LogConfig::default()
        },
        memory_bytes_max: 64 << 20,
        cache_bytes,
        deadline: Duration::from_secs(10),
        alone: true,
    }
}

fn empty_disk() -> SimDisk {
    SimDisk::new(1, 64 << 20, Latency::default(), FaultPlan::none())
}

fn key(number: usize) -> Key {
    format!("key-{number}").as_bytes().into()
}

fn partition_of(key: &Key) -> PartitionId {
    Token::of_key(key).partition(PARTITIONS)
}

/// A shard, and what was last put at each key.
struct Store {
    bench: Bench<Simulated>,
    stored: Vec<(Key, WriteId, u32)>,
    writes: u64,
}

impl Store {
    /// A new shard with one value of each length.
    fn filled(cache_bytes: usize) -> Store {
        let bench = Bench::open(&node(cache_bytes), ShardId(0), empty_disk(), true);
        let mut store = Store { bench, stored: Vec::new(), writes: 0 };
        for (number, len) in LENGTHS.into_iter().enumerate() {
            let op = store.put(key(number), len, 0);
            assert!(matches!(store.bench.ask(op), Some(Outcome::Receipt(_))));
        }
        store
    }

    fn write(&mut self, key: Key, change: Change) -> Op {
        self.writes += 1;
        let id = WriteId(self.writes);
        let partition = partition_of(&key);
        let intent = Intent { id, partition, level: Durability::Local, session: None };
        self.stored.retain(|(known, ..)| *known != key);
        if let Change::Put { len, ttl_ms: 0 } = change {
            self.stored.push((key.clone(), id, len));
        }
        Op::Write {
            intent,
            ops: vec![KeyOp { key, change, condition: Condition::None }],
            batch: false,
        }
    }

    fn put(&mut self, key: Key, len: u32, ttl_ms: u64) -> Op {
        self.write(key, Change::Put { len, ttl_ms })
    }

    /// How many reads a request made, and its answer.
    fn cost(&mut self, op: Op) -> (u64, Outcome) {
        let before = self.bench.segment_reads;
        let outcome = self.bench.ask(op).expect("a healthy shard answers");
        (self.bench.segment_reads - before, outcome)
    }

    /// Gets every key that is one record, checks its value, and returns what each get cost.
    fn costs(&mut self) -> Vec<u64> {
        let stored = self.stored.clone();
        let cost = |(key, id, len): (Key, WriteId, u32)| {
            let (cost, outcome) = self.cost(Op::Get { key });
            let Outcome::Value(Value { bytes, .. }) = outcome else {
                panic!("{len} bytes: {outcome:?}");
            };
            assert_eq!(bytes, payload(id, 0, len));
            cost
        };
        stored.into_iter().map(cost).collect()
    }

    fn restarted(self, cache_bytes: usize) -> Store {
        let mut disk = self.bench.disk;
        disk.kill();
        Store { bench: Bench::open(&node(cache_bytes), ShardId(0), disk, false), ..self }
    }

    fn counted(&self, name: &str) -> u64 {
        let counts = self.bench.subject.counted();
        counts.into_iter().find(|(known, _)| known == name).expect("it is counted").1
    }
}

#[test]
fn a_value_that_is_one_record_costs_one_read_without_a_cache() {
    let mut store = Store::filled(0);
    assert_eq!(store.costs(), [1; LENGTHS.len()]);
    let mut store = store.restarted(0);
    assert_eq!(store.costs(), [1; LENGTHS.len()], "after a restart");
}

#[test]
fn the_longest_key_and_value_that_fit_one_record_cost_one_read() {
    let mut store = Store::filled(0);
    let key = Key::from(vec![b'k'; KEY_BYTES_MAX].as_slice());
    let put = store.put(key, CHUNK_BYTES as u32, 0);
    store.bench.ask(put);
    assert_eq!(store.costs(), [1; LENGTHS.len() + 1]);
}

#[test]
fn what_was_just_written_or_read_costs_none_with_a_cache() {
    let mut store = Store::filled(16 << 20);
    assert_eq!(store.costs(), [0; LENGTHS.len()], "just written");
    let mut store = store.restarted(16 << 20);
    assert_eq!(store.costs(), [1; LENGTHS.len()], "the first time after a restart");
    assert_eq!(store.costs(), [0; LENGTHS.len()], "and then from memory");
}

#[test]
fn compaction_does_not_make_gets_dearer() {
    let mut store = Store::filled(0);
    for round in 0..60 {
        // The first keys stay and are moved; the others are overwritten.
        for number in 4..LENGTHS.len() {
            let op = store.put(key(number), 30_000 + round, 0);
            assert!(matches!(store.bench.ask(op), Some(Outcome::Receipt(_))));
        }
        assert_eq!(store.costs(), [1; LENGTHS.len()], "round {round}");
    }
    assert!(store.counted("records relocated") > 0, "nothing was moved");
    assert!(store.counted("segments freed") > 0, "nothing was freed");
}

#[test]
fn a_get_that_waits_for_a_write_costs_one_read_at_most() {
    for (cache_bytes, most) in [(0, 1), (1 << 20, 0)] {
        let mut store = Store::filled(cache_bytes);
        let put = store.put(key(1), 5_000, 0);
        let before = store.bench.segment_reads;
        let outcomes = store.bench.ask_all(vec![put, Op::Get { key: key(1) }]);
        let cost = store.bench.segment_reads - before;
        let right = |o: &Outcome| matches!(o, Outcome::Value(v) if v.bytes.len() == 5_000);
        assert!(outcomes.iter().any(right), "{outcomes:?}");
        assert!(cost <= most, "{cost} reads with a cache of {cache_bytes} bytes");
    }
}

/// A version that is waited for, or that another part of the answer makes wait, is replaced by one
/// of the same length in the meantime: what is answered has the bytes of its version.
#[test]
fn a_rewrite_of_the_same_length_does_not_mix_versions() {
    for cache_bytes in [0, 1 << 20] {
        let mut store = Store::filled(cache_bytes);
        let partition = partition_of(&key(1));
        let other = (100..).map(key).find(|k| partition_of(k) == partition).expect("one in four");
        let old = store.stored.iter().find(|(k, ..)| *k == key(1)).expect("it was filled").1;
        let len = LENGTHS[1];
        let mut ops = vec![store.put(other.clone(), 9, 0)];
        ops.push(Op::MultiGet { partition, keys: vec![key(1), other] });
        let mut ids = vec![old];
        for _ in 0..3 {
            ops.push(store.put(key(1), len, 0));
            ids.push(WriteId(store.writes));
            ops.push(Op::Get { key: key(1) });
        }
        let asked = ops.len();
        let outcomes = store.bench.ask_all(ops);
        assert_eq!(outcomes.len(), asked);
        let mut found = Vec::new();
        for outcome in outcomes {
            match outcome {
                Outcome::Receipt(_) => {}
                Outcome::Value(value) => found.push(value),
                Outcome::Values(values) => {
                    found.insert(0, values[0].clone().expect("it was there all the time"));
                }
                other => panic!("{other:?}"),
            }
        }
        // A read that waited may find a later version than the one it waited for.
        let bytes: Vec<Vec<u8>> = ids.iter().map(|id| payload(*id, 0, len)).collect();
        let mut seen: Vec<_> = found
            .iter()
            .map(|v| (v.version, bytes.iter().position(|b| *b == v.bytes).expect("one of them")))
            .collect();
        assert_eq!(seen.len(), ids.len());
        seen.sort_unstable();
        let same = |w: &[(u64, usize)]| (w[0].0 == w[1].0) == (w[0].1 == w[1].1);
        assert!(seen.windows(2).all(same), "cache of {cache_bytes}: {seen:?}");
        assert!(seen.is_sorted_by_key(|(_, id)| *id), "cache of {cache_bytes}: {seen:?}");
    }
}

#[test]
fn a_get_of_nothing_costs_none() {
    let mut store = Store::filled(0);
    let delete = store.write(key(0), Change::Delete);
    let expires = store.put(key(1), 100, 5);
    assert_eq!(store.bench.ask_all(vec![delete, expires]).len(), 2);
    store.bench.pass(50);
    for (what, key) in [("deleted", key(0)), ("expired", key(1)), ("unknown", key(77))] {
        let (cost, outcome) = store.cost(Op::Get { key });
        assert!(matches!(outcome, Outcome::Error { code: ErrorCode::NotFound, .. }), "{what}");
        assert_eq!(cost, 0, "{what}");
    }
}

#[test]
fn a_multi_get_costs_one_read_for_each_value() {
    let mut store = Store::filled(0);
    let mut several = 0;
    for partition in (0..PARTITIONS).map(PartitionId) {
        let all = store.stored.iter().map(|(key, ..)| key);
        let mut keys: Vec<Key> = all.filter(|k| partition_of(k) == partition).cloned().collect();
        let present = keys.len() as u64;
        several += u64::from(present > 1);
        let strangers = (100..200).map(key).filter(|k| partition_of(k) == partition);
        keys.extend(strangers.take(2));
        let (cost, outcome) = store.cost(Op::MultiGet { partition, keys });
        let Outcome::Values(values) = outcome else { panic!("{outcome:?}") };
        assert_eq!(values.iter().filter(|v| v.is_ok()).count() as u64, present);
        assert_eq!(cost, present, "partition {partition}");
    }
    assert!(several > 0, "no multi-get found more than one key");
}

#[test]
fn a_chunked_value_costs_one_read_for_each_chunk() {
    let mut store = Store::filled(0);
    for len in [CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 1 << 20, (1 << 20) + 1] {
        let put = store.put(key(50), len as u32, 0);
        assert!(matches!(store.bench.ask(put), Some(Outcome::Receipt(_))));
        let (cost, outcome) = store.cost(Op::Get { key: key(50) });
        assert!(matches!(outcome, Outcome::Value(v) if v.bytes.len() == len));
        assert_eq!(cost, len.div_ceil(CHUNK_BYTES) as u64, "{len} bytes");
    }
}
