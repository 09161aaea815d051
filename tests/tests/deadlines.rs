//! A request is answered by its deadline, whatever its disk does.

use std::time::Duration;

use ironring_core::{Durability, ErrorCode, ShardId, Token};
use ironring_log::LogConfig;
use ironring_ring::Slices;
use ironring_tests::sim::bench::Bench;
use ironring_tests::sim::disk::faults::FaultPlan;
use ironring_tests::sim::disk::{Latency, SimDisk};
use ironring_tests::sim::op::{Change, Condition, Intent, Key, KeyOp, Op, Outcome, WriteId};
use ironring_tests::sim::shard_node::ShardNode;

fn put(key: &Key) -> Op {
    let partition = Token::of_key(key).partition(1);
    let intent = Intent { id: WriteId(1), partition, level: Durability::Local, session: None };
    let change = Change::Put { len: 100, ttl_ms: 0 };
    let op = KeyOp { key: key.clone(), change, condition: Condition::None };
    Op::Write { intent, ops: vec![op], batch: false }
}

#[test]
fn a_read_that_the_disk_never_answers_ends_with_its_deadline() {
    let node = ShardNode {
        slices: Slices::new(1, 1).expect("one partition for one shard"),
        log: LogConfig { segment_bytes: 1 << 20, ..LogConfig::default() },
        memory_bytes_max: 64 << 20,
        cache_bytes: 0,
        deadline: Duration::from_millis(500),
    };
    let disk = SimDisk::new(1, 64 << 20, Latency::default(), FaultPlan::none());
    let mut bench = Bench::open(&node, ShardId(0), disk, true);
    let key = Key::from(b"key".as_slice());
    assert!(matches!(bench.ask(put(&key)), Some(Outcome::Receipt(_))));
    bench.reads_hang = true;
    for _ in 0..3 {
        let outcome = bench.ask(Op::Get { key: key.clone() });
        let late = Some(Outcome::Error { code: ErrorCode::DeadlineExceeded, detail: 0 });
        assert_eq!(outcome, late);
    }
    assert!(matches!(bench.ask(put(&key)), Some(Outcome::Receipt(_))), "writes go on");
    // The device comes back; what it was asked for before is lost.
    bench.reads_hang = false;
    assert!(matches!(bench.ask(Op::Get { key }), Some(Outcome::Value(_))));
}
