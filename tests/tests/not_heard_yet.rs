//! Requests on a shard that does not know yet what shard 0 knows.

use std::time::Duration;

use ironring_core::{Durability, ErrorCode, PartitionId, SessionId, ShardId, Token};
use ironring_log::LogConfig;
use ironring_ring::Slices;
use ironring_tests::sim::bench::Bench;
use ironring_tests::sim::disk::faults::FaultPlan;
use ironring_tests::sim::disk::{Latency, SimDisk};
use ironring_tests::sim::op::{Change, Condition, Intent, Key, KeyOp, Op, Outcome, WriteId};
use ironring_tests::sim::shard_node::{ShardNode, Simulated};
use ironring_tests::sim::subject::Node;

fn node() -> ShardNode {
    ShardNode {
        slices: Slices::new(4, 2).expect("more partitions than shards"),
        log: LogConfig { segment_bytes: 1 << 20, free_segments_target: 1, ..LogConfig::default() },
        memory_bytes_max: 64 << 20,
        cache_bytes: 0,
        deadline: Duration::from_secs(10),
        alone: true,
    }
}

fn open(shard: u16) -> Bench<Simulated> {
    let disk = SimDisk::new(1, 64 << 20, Latency::default(), FaultPlan::none());
    Bench::open(&node(), ShardId(shard), disk, true)
}

/// A session's first write to a partition of shard 1.
fn write(session: SessionId) -> Op {
    let keys = (0..).map(|n| Key::from(format!("key-{n}").as_bytes()));
    let placed = keys.map(|key| (Token::of_key(&key).partition(4), key));
    let mut there = placed.filter(|(partition, _)| node().owner(*partition) == ShardId(1));
    let (partition, key): (PartitionId, Key) = there.next().expect("half of the keys are");
    let change = Change::Put { len: 20, ttl_ms: 0 };
    let level = Durability::Local;
    let session = Some((session, 1));
    let intent = Intent { id: WriteId(1), partition, level, session };
    Op::Write { intent, ops: vec![KeyOp { key, change, condition: Condition::None }], batch: false }
}

fn refused(outcome: Option<Outcome>) -> ErrorCode {
    match outcome {
        Some(Outcome::Error { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn before_shard_0_has_told_no_session_is_called_unknown() {
    let mut shard_1 = open(1);
    for session in [1, 2_049, 1_000_000] {
        // A client that is told to wait tries again; one that is told `session_expired` would give
        // its session up, and with it what makes its retries apply once.
        assert_eq!(refused(shard_1.ask(write(SessionId(session)))), ErrorCode::NotReady);
    }
}

#[test]
fn after_shard_0_has_told_its_sessions_are_welcome_and_invented_ones_are_not() {
    let (mut shard_0, mut shard_1) = (open(0), open(1));
    let Some(Outcome::Session(session)) = shard_0.ask(Op::OpenSession) else {
        panic!("shard 0 opens sessions");
    };
    for (to, message) in shard_0.messages() {
        assert_eq!(to, ShardId(1));
        shard_1.deliver(message);
    }
    let told = shard_1.ask(write(session));
    assert!(matches!(told, Some(Outcome::Receipt(_))), "{told:?}");
    let invented = SessionId(session.0 + 1_000_000);
    assert_eq!(refused(shard_1.ask(write(invented))), ErrorCode::SessionExpired);
}

#[test]
fn what_shard_0_sends_back_is_with_nobody_else() {
    let (mut shard_0, mut shard_1) = (open(0), open(1));
    shard_0.ask(Op::OpenSession);
    let told = shard_0.messages();
    told.into_iter().for_each(|(_, message)| shard_1.deliver(message));
    let mut passed = 0;
    // Some of their partitions are shard 1's.
    for n in 0..8 {
        let create = Op::TopicCreate { name: format!("t{n}"), partitions: 1, retain_bytes: 0 };
        let Some(Outcome::Topic(topic)) = shard_0.ask(create) else { panic!("it can be made") };
        let news = shard_0.messages();
        let partition = ironring_core::PartitionId::META;
        let intent = Intent { id: WriteId(n), partition, level: Durability::Local, session: None };
        // Shard 1 has not heard of it and asks shard 0.
        assert_eq!(shard_1.ask(Op::Append { intent, topic, index: 0, lens: vec![20] }), None);
        let asked = shard_1.messages();
        assert!(shard_1.subject.shard().handed_bytes() > 0 && asked.len() == 1);
        news.into_iter().for_each(|(_, message)| shard_1.deliver(message));
        asked.into_iter().for_each(|(_, message)| shard_0.deliver(message));
        while shard_0.step() {}
        let back = shard_0.messages();
        assert_eq!(back.len(), 1, "a request is answered or sent on");
        passed += usize::from(format!("{:?}", back[0].1).starts_with("Forward"));
        back.into_iter().for_each(|(_, message)| shard_1.deliver(message));
        while shard_1.step() {}
        assert_eq!(shard_1.subject.shard().handed_bytes(), 0, "topic {n}");
    }
    assert!(passed > 0, "no topic was shard 1's own");
}
