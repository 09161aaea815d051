//! The whole surface of one node, over the real client and the real binary.

#![expect(clippy::unwrap_used, reason = "tests run under every runtime are plain functions")]

mod support;

use ironring_core::{Durability, ErrorCode, Offset, WallTime};
use ironring_net::client::WriteSettings;
use ironring_net::message::{AppendRecord, AppendTo, BatchOp, Condition, ReadFrom, Retention};
use support::{NodeProcess, SMALL, data_dir, under_every_runtime};

under_every_runtime! {
    keys_of_every_kind_survive_a_kill,
    batches_are_atomic_and_bound_to_a_partition,
    topics_append_read_trim_and_survive,
    a_second_process_and_another_shard_count_are_refused,
    a_ready_node_says_so_and_counts,
    a_stop_answers_the_reads_that_wait_for_records,
    a_shard_that_was_held_up_says_so,
}

fn args(shards: &'static str) -> Vec<&'static str> {
    [SMALL, &["--shards", shards]].concat()
}

fn keys_of_every_kind_survive_a_kill() {
    let (_tmp, dir) = data_dir();
    let node = NodeProcess::start(&dir, &args("2"));
    let mut c = node.client();
    let first = c.put(b"a", b"1").unwrap();
    assert!(first.offset > Offset::NONE);
    assert_eq!(c.get(b"a").unwrap().unwrap().value, b"1");
    assert_eq!(c.get(b"missing").unwrap(), None);

    let second = c.cas(b"a", first.offset, b"2").unwrap();
    let stale = c.cas(b"a", first.offset, b"3").unwrap_err();
    assert_eq!(stale.code(), Some(ErrorCode::ConditionFailed));
    assert_eq!(c.get(b"a").unwrap().unwrap().version, second.offset);
    let taken = c.put_if_absent(b"a", b"x").unwrap_err();
    assert_eq!(taken.code(), Some(ErrorCode::ConditionFailed));
    c.put_if_absent(b"b", b"b").unwrap();
    c.delete(b"b").unwrap();
    assert_eq!(c.get(b"b").unwrap(), None);
    c.put_if_absent(b"b", b"again").unwrap();

    let big: Vec<u8> = (0..5_000_000u32).map(|i| (i % 251) as u8).collect();
    c.put(b"big", &big).unwrap();
    assert!(c.get(b"big").unwrap().unwrap().value == big);

    let expired = WriteSettings {
        ttl: Some(std::time::Duration::from_millis(1)),
        durability: Some(Durability::Async),
        condition: Condition::None,
    };
    c.put_with(b"short", b"lived", expired).unwrap();

    let keys: Vec<String> = (0..500).map(|i| format!("user/{i:04}")).collect();
    for key in &keys {
        c.put(key.as_bytes(), key.as_bytes()).unwrap();
    }
    node.kill();

    let node = NodeProcess::start(&dir, &[]);
    let mut c = node.client();
    assert_eq!(c.get(b"a").unwrap().unwrap().value, b"2");
    assert_eq!(c.get(b"b").unwrap().unwrap().value, b"again");
    assert!(c.get(b"big").unwrap().unwrap().value == big);
    assert_eq!(c.get(b"short").unwrap(), None);
    let found = c.multi_get(&keys).unwrap();
    for (key, value) in keys.iter().zip(found) {
        assert_eq!(value.unwrap().value, key.as_bytes());
    }
    let mut scanned: Vec<Vec<u8>> = c
        .scan(b"user/", true)
        .map(|e| e.unwrap())
        .map(|e| {
            assert_eq!(e.value.as_deref(), Some(e.key.as_slice()));
            e.key
        })
        .collect();
    scanned.sort();
    assert_eq!(scanned, keys.iter().map(|k| k.as_bytes().to_vec()).collect::<Vec<_>>());
    let (status, said) = node.stop();
    assert_eq!(status, 0, "{said}");

    let node = NodeProcess::start(&dir, &[]);
    assert_eq!(node.client().get(b"a").unwrap().unwrap().value, b"2");
}

fn batches_are_atomic_and_bound_to_a_partition() {
    let (_tmp, dir) = data_dir();
    let node = NodeProcess::start(&dir, &args("2"));
    let mut c = node.client();
    let home = c.partition_of(b"k0").unwrap();
    let mut keys: Vec<Vec<u8>> = Vec::new();
    for i in 0.. {
        let key = format!("k{i}").into_bytes();
        if c.partition_of(&key).unwrap() == home {
            keys.push(key);
        }
        if keys.len() == 3 {
            break;
        }
    }
    let none = Condition::None;
    let put = |key, condition| BatchOp::Put { key, value: b"v", condition, ttl_ms: 0 };
    let ops = [put(&keys[0], none), put(&keys[1], none), put(&keys[2], none)];
    let receipt = c.batch(&ops, WriteSettings::default()).unwrap();
    assert_eq!(c.get(&keys[0]).unwrap().unwrap().version, Offset(receipt.offset.0 - 2));
    assert_eq!(c.get(&keys[2]).unwrap().unwrap().version, receipt.offset);
    let ops =
        [BatchOp::Delete { key: &keys[0], condition: none }, put(&keys[1], Condition::Absent)];
    let failed = c.batch(&ops, WriteSettings::default()).unwrap_err();
    assert_eq!(failed.code(), Some(ErrorCode::ConditionFailed));
    assert!(c.get(&keys[0]).unwrap().is_some(), "nothing of a failed batch is applied");
}

fn topics_append_read_trim_and_survive() {
    let (_tmp, dir) = data_dir();
    let node = NodeProcess::start(&dir, &args("2"));
    let mut c = node.client();
    c.topic_create("orders", 4, Retention::default()).unwrap();
    let exists = c.topic_create("orders", 4, Retention::default()).unwrap_err();
    assert_eq!(exists.code(), Some(ErrorCode::TopicExists));
    let record = |value| AppendRecord { key: b"", value };
    for p in 0..4 {
        let to = AppendTo::Partition(p);
        let a = c.topic_append("orders", to, &[record(b"x"), record(b"y")], None).unwrap();
        assert_eq!((a.partition, a.first, a.count), (p, 0, 2));
        let b = c.topic_append("orders", to, &[record(b"z")], None).unwrap();
        assert_eq!(b.first, 2);
    }
    let keyed = c.topic_append("orders", AppendTo::Key(b"k"), &[record(b"k")], None).unwrap();
    let read = c.topic_read("orders", 0, ReadFrom::Offset(1), (0, 0), 0).unwrap();
    let values: Vec<_> = read.records.iter().map(|r| (r.offset, r.value.clone())).collect();
    assert_eq!(values[..2], [(1, b"y".to_vec()), (2, b"z".to_vec())]);
    c.topic_trim("orders", 1, 2).unwrap();
    let gone = c.topic_read("orders", 1, ReadFrom::Offset(0), (0, 0), 0).unwrap_err();
    assert_eq!(gone.code(), Some(ErrorCode::OffsetOutOfRange));
    node.kill();

    let node = NodeProcess::start(&dir, &[]);
    let mut c = node.client();
    let (start, end, _) = c.topic_offsets("orders", 1, WallTime(0)).unwrap();
    assert_eq!((start, end), (2, 3 + u64::from(keyed.partition == 1)));
    assert_eq!(c.topic_list().unwrap().len(), 1);

    // A reader waits for records to come.
    let mut reader = node.client();
    let waiting = std::thread::spawn(move || {
        reader.topic_read("orders", 2, ReadFrom::Latest, (0, 0), 10_000).unwrap()
    });
    let mut end = 0;
    while !waiting.is_finished() {
        end = c
            .topic_append("orders", AppendTo::Partition(2), &[record(b"new")], None)
            .unwrap()
            .first;
    }
    let got = waiting.join().unwrap();
    assert_eq!(got.records[0].value, b"new");
    assert!(got.records[0].offset <= end);

    c.topic_delete("orders").unwrap();
    assert_eq!(c.topic_describe("orders").unwrap_err().code(), Some(ErrorCode::UnknownTopic));
    c.topic_create("orders", 1, Retention::default()).unwrap();
    let (start, end, _) = c.topic_offsets("orders", 0, WallTime(0)).unwrap();
    assert_eq!((start, end), (0, 0), "a new topic of an old name is empty");
    assert_eq!(node.stop().0, 0);
}

fn a_second_process_and_another_shard_count_are_refused() {
    let (_tmp, dir) = data_dir();
    let node = NodeProcess::start(&dir, &args("2"));
    let said = NodeProcess::try_start(&dir, &[]).map(|_| ()).unwrap_err();
    let _ = said;
    assert_eq!(node.client().get(b"x").unwrap(), None, "the first goes on");
    node.stop();
    assert!(NodeProcess::try_start(&dir, &["--shards", "3"]).is_err());
    NodeProcess::start(&dir, &["--shards", "2"]).client().put(b"x", b"y").unwrap();
}

/// What a browser would get.
fn a_ready_node_says_so_and_counts() {
    let (_tmp, dir) = data_dir();
    let node = NodeProcess::start(&dir, &args("2"));
    node.client().put(b"k", b"v").unwrap();
    while !node.http_get("/health/ready").starts_with("HTTP/1.1 200") {
        std::thread::yield_now();
    }
    let counted = || {
        let text = node.http_get("/metrics");
        let flushed = |line: &&str| {
            line.starts_with("ironring_log_flush_latency_seconds_count") && !line.ends_with(" 0")
        };
        text.lines().any(|line| flushed(&line))
    };
    while !counted() {
        std::thread::yield_now();
    }
}

fn a_stop_answers_the_reads_that_wait_for_records() {
    let (_tmp, dir) = data_dir();
    let node = NodeProcess::start(&dir, &args("1"));
    node.client().topic_create("quiet", 1, Retention::default()).unwrap();
    let mut waiting = node.client();
    let reader = std::thread::spawn(move || {
        waiting.topic_read("quiet", 0, ReadFrom::Offset(0), (0, 0), 50_000)
    });
    let mut watching = node.client();
    loop {
        let stats: serde_json::Value = serde_json::from_str(&watching.stats().unwrap()).unwrap();
        let served = &stats["clients"]["requests"]["TopicRead"];
        if served.as_u64().is_some_and(|reads| reads > 0) {
            break;
        }
    }
    let (status, said) = node.stop();
    assert_eq!(status, 0, "{said}");
    // Not a connection that broke while the answer was due in 50 seconds.
    let records = reader.join().unwrap().unwrap();
    assert!(records.records.is_empty());
}

/// However fast the machine is, a process that is stopped for a second does not run meanwhile: the second
/// is what is done to it, and nothing is waited for.
fn a_shard_that_was_held_up_says_so() {
    use nix::sys::signal::{Signal, kill};
    let (_tmp, dir) = data_dir();
    let mut node = NodeProcess::start(&dir, &args("1"));
    // Its timer runs: what it publishes comes with it.
    node.until_metric("ironring_ready", |ready| ready == 1.0);
    let before = node.metric("ironring_shard_stalls_total");
    kill(node.pid(), Signal::SIGSTOP).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(1));
    kill(node.pid(), Signal::SIGCONT).unwrap();
    node.until_metric("ironring_shard_stalls_total", |stalls| stalls > before);
    assert!(node.metric("ironring_shard_stall_longest_seconds") > 0.5);
    let lines = node.new_lines();
    assert!(lines.iter().any(|line| line.contains("held up for")), "{lines:?}");
    node.stop();
}
