//! A request is answered by its deadline, whatever its disk does.

use std::sync::Arc;
use std::time::Duration;

use ironring_core::{Durability, ErrorCode, Incarnation, SessionId, ShardId, StorageUuid, Token};
use ironring_log::LogConfig;
use ironring_node::shard::{Event, MetaAsk};
use ironring_ring::Slices;
use ironring_ring::controller::Settings;
use ironring_ring::metadata;
use ironring_tests::sim::bench::Bench;
use ironring_tests::sim::disk::faults::FaultPlan;
use ironring_tests::sim::disk::{Latency, SimDisk};
use ironring_tests::sim::op::{Change, Condition, Intent, Key, KeyOp, Op, Outcome, WriteId};
use ironring_tests::sim::replicas::metadata::{Group, facts};
use ironring_tests::sim::shard_node::{ShardNode, Simulated};

fn put(key: &Key) -> Op {
    let partition = Token::of_key(key).partition(1);
    let intent = Intent { id: WriteId(1), partition, level: Durability::Local, session: None };
    let change = Change::Put { len: 100, ttl_ms: 0 };
    let op = KeyOp { key: key.clone(), change, condition: Condition::None };
    Op::Write { intent, ops: vec![op], batch: false }
}

/// A shard with one partition, in no cluster or in one.
fn open(alone: bool) -> Bench<Simulated> {
    let node = ShardNode {
        slices: Slices::new(1, 1).expect("one partition for one shard"),
        log: LogConfig { segment_bytes: 1 << 20, ..LogConfig::default() },
        memory_bytes_max: 64 << 20,
        cache_bytes: 0,
        deadline: Duration::from_millis(500),
        alone,
    };
    let disk = SimDisk::new(1, 64 << 20, Latency::default(), FaultPlan::none());
    Bench::open(&node, ShardId(0), disk, true)
}

#[test]
fn a_read_that_the_disk_never_answers_ends_with_its_deadline() {
    let mut bench = open(true);
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

#[test]
fn a_change_that_the_group_never_answers_ends_with_its_deadline_and_answers_no_other() {
    let mut bench = open(false);
    // Another node's: this one leads nothing and has no other office than to ask.
    let other = facts(0, StorageUuid(1), Incarnation(1));
    let mut group = Group::new(1, 1, other, Settings::default()).state;
    bench.tell(Event::Metadata(Arc::new(group.clone())));

    let create = Op::TopicCreate { name: "first".to_owned(), partitions: 1, retain_bytes: 0 };
    let error = |code| Outcome::Error { code, detail: 0 };
    // One is asked of the group, and the other waits for it.
    let answers = bench.ask_all(vec![create, Op::OpenSession]);
    let late = [error(ErrorCode::DeadlineExceeded), error(ErrorCode::Unknown)];
    assert_eq!(answers, late);
    let asked: Vec<MetaAsk> = bench.subject.asked_group();
    let [first] = asked.as_slice() else { panic!("{asked:?}") };

    // Whoever asks next gets what was decided about its own.
    assert_eq!(bench.ask_before_writes(Op::OpenSession), None);
    let asked = bench.subject.asked_group();
    let [second] = asked.as_slice() else { panic!("{asked:?}") };
    let outcome = group.apply(&first.command);
    assert!(matches!(outcome, metadata::Outcome::Topic { .. }));
    let ticket = first.ticket;
    let decided = Event::MetaDecided { ticket, result: Ok(outcome) };
    assert_eq!(bench.tell(decided), []);
    assert_eq!(bench.tell(Event::Metadata(Arc::new(group.clone()))), []);
    let outcome = group.apply(&second.command);
    let ticket = second.ticket;
    assert_eq!(bench.tell(Event::MetaDecided { ticket, result: Ok(outcome) }), []);
    let session = Outcome::Session(SessionId(1));
    assert_eq!(bench.tell(Event::Metadata(Arc::new(group))), [session]);
}
