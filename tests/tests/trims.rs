//! A trim is a record: nobody is told of it before it is durable, or a crash would take it back.

use std::time::Duration;

use ironring_core::{Durability, ErrorCode, ShardId, Token, TopicId};
use ironring_log::LogConfig;
use ironring_ring::Slices;
use ironring_tests::sim::bench::Bench;
use ironring_tests::sim::disk::faults::FaultPlan;
use ironring_tests::sim::disk::{Latency, SimDisk};
use ironring_tests::sim::op::{Intent, Op, Outcome, WriteId};
use ironring_tests::sim::shard_node::{ShardNode, Simulated};

fn intent(id: u64, topic: TopicId, level: Durability) -> Intent {
    let partition = Token::of_topic_partition(topic, 0).partition(1);
    Intent { id: WriteId(id), partition, level, session: None }
}

fn read(topic: TopicId, from: Option<u64>) -> Op {
    Op::TopicRead { topic, index: 0, from, max_records: 10 }
}

/// A topic with three records.
fn filled() -> (Bench<Simulated>, TopicId) {
    let node = ShardNode {
        slices: Slices::new(1, 1).expect("one partition for one shard"),
        log: LogConfig { segment_bytes: 1 << 20, ..LogConfig::default() },
        memory_bytes_max: 64 << 20,
        cache_bytes: 1 << 20,
        deadline: Duration::from_secs(10),
        alone: true,
    };
    let disk = SimDisk::new(1, 64 << 20, Latency::default(), FaultPlan::none());
    let mut bench = Bench::open(&node, ShardId(0), disk, true);
    let create = Op::TopicCreate { name: "t".to_owned(), partitions: 1, retain_bytes: 0 };
    let Some(Outcome::Topic(topic)) = bench.ask(create) else { panic!("no topic") };
    for id in 1..4 {
        let intent = intent(id, topic, Durability::Local);
        let append = Op::Append { intent, topic, index: 0, lens: vec![20] };
        assert!(matches!(bench.ask(append), Some(Outcome::Appended { .. })));
    }
    (bench, topic)
}

fn offsets(outcome: &Outcome) -> (Vec<u64>, u64) {
    match outcome {
        Outcome::Records { records, start, .. } => {
            (records.iter().map(|record| record.offset).collect(), *start)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn readers_hear_of_a_trim_when_it_is_durable() {
    for level in [Durability::Async, Durability::Local] {
        let (mut bench, topic) = filled();
        let trim = Op::Trim { intent: intent(9, topic, level), topic, index: 0, before: 2 };
        let acked = bench.ask_before_writes(trim).is_some();
        assert_eq!(acked, level == Durability::Async);
        for from in [Some(0), Some(2), None, Some(77)] {
            assert_eq!(bench.ask_before_writes(read(topic, from)), None, "from {from:?}");
        }
        let mut answers = bench.answers();
        answers.retain(|answer| !matches!(answer, Outcome::Receipt(_)));
        let gone = Outcome::Error { code: ErrorCode::OffsetOutOfRange, detail: 2 };
        assert_eq!(answers.iter().filter(|answer| **answer == gone).count(), 2);
        let read: Vec<_> = answers.iter().filter(|answer| **answer != gone).map(offsets).collect();
        assert_eq!(read, [(vec![2], 2), (vec![2], 2)]);
    }
}

#[test]
fn a_topic_trimmed_to_its_end_is_not_called_empty_before_that_is_durable() {
    let (mut bench, topic) = filled();
    let intent = intent(9, topic, Durability::Local);
    assert_eq!(bench.ask_before_writes(Op::Trim { intent, topic, index: 0, before: 3 }), None);
    assert_eq!(bench.ask_before_writes(read(topic, None)), None);
    let answers = bench.answers();
    let read: Vec<_> = answers.iter().filter(|a| !matches!(a, Outcome::Receipt(_))).collect();
    assert_eq!(read.len(), 1);
    assert_eq!(offsets(read[0]), (vec![], 3));
}

#[test]
fn a_read_at_the_end_that_waits_for_a_trim_does_not_skip_what_comes_meanwhile() {
    let (mut bench, topic) = filled();
    let trim = intent(9, topic, Durability::Async);
    let trim = Op::Trim { intent: trim, topic, index: 0, before: 1 };
    assert!(bench.ask_before_writes(trim).is_some());
    assert_eq!(bench.ask_before_writes(read(topic, Some(3))), None);
    let intent = intent(10, topic, Durability::Async);
    let append = Op::Append { intent, topic, index: 0, lens: vec![20] };
    assert!(bench.ask_before_writes(append).is_some());
    let end = |outcome: &Outcome| match outcome {
        Outcome::Records { records, start, end } => (records.len(), *start, *end),
        other => panic!("{other:?}"),
    };
    assert_eq!(bench.answers().iter().map(end).collect::<Vec<_>>(), [(1, 1, 4)]);
}
