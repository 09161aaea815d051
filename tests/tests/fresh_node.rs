//! A new node that says it serves takes what clients send at once.

use std::time::Duration;

use ironring_core::limits::CHUNK_BYTES;
use ironring_core::{Durability, ShardId, Token};
use ironring_log::LogConfig;
use ironring_ring::Slices;
use ironring_tests::sim::bench::Bench;
use ironring_tests::sim::disk::faults::FaultPlan;
use ironring_tests::sim::disk::{Latency, SimDisk};
use ironring_tests::sim::op::{Change, Condition, Intent, Key, KeyOp, Op, Outcome, WriteId};
use ironring_tests::sim::shard_node::ShardNode;
use ironring_tests::sim::subject::{Phase, Subject};

fn node() -> ShardNode {
    ShardNode {
        slices: Slices::new(1, 1).expect("one partition for one shard"),
        log: LogConfig { segment_bytes: 1 << 20, ..LogConfig::default() },
        memory_bytes_max: 64 << 20,
        cache_bytes: 0,
        deadline: Duration::from_secs(10),
        alone: true,
    }
}

fn put(id: u64) -> Op {
    let key = Key::from(format!("key-{id}").as_bytes());
    let partition = Token::of_key(&key).partition(1);
    let intent = Intent { id: WriteId(id), partition, level: Durability::Local, session: None };
    let change = Change::Put { len: CHUNK_BYTES as u32, ttl_ms: 0 };
    Op::Write { intent, ops: vec![KeyOp { key, change, condition: Condition::None }], batch: false }
}

#[test]
fn a_burst_right_after_the_format_is_not_refused() {
    let disk = SimDisk::new(1, 64 << 20, Latency::default(), FaultPlan::none());
    let mut bench = Bench::open_just_serving(&node(), ShardId(0), disk, true);
    // Half more than the first segment holds.
    let outcomes = bench.ask_all((1..7).map(put).collect());
    let taken = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Receipt(_))).count();
    assert_eq!(taken, 6, "{outcomes:?}");
}

#[test]
fn a_disk_without_room_for_more_segments_is_served_from_the_first() {
    let disk = SimDisk::new(1, 3 << 20, Latency::default(), FaultPlan::none());
    let bench = Bench::open_just_serving(&node(), ShardId(0), disk, true);
    assert_eq!(bench.subject.phase(), Phase::Serving);
}
