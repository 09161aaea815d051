//! Against the codec, and against a fake node over real sockets.

use ironring_core::{StorageUuid, WallTime};
use ironring_net::codec::{decode_request, encode_response};
use ironring_net::list::{RecordList, RecordListBuilder};
use ironring_net::message::{TopicInfo, TopicRecord, ValueRef, Welcome};

use std::io::Write;
use std::net::TcpListener;

use super::*;
use crate::engine::{self, Surroundings};
use crate::protocol::split_check;
use crate::result::RunResult;

fn connection() -> Ironring {
    Ironring::for_keys(Durability::Local, Duration::from_secs(1))
}

fn sent(protocol: &mut Ironring, kind: OpKind, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    protocol.encode(&Op { kind, key: 42, value }, 7, &mut out);
    out
}

#[test]
fn requests_decode_to_what_was_meant() {
    let frame = sent(&mut connection(), OpKind::Put, b"v");
    let header = decode_header(&frame).unwrap();
    assert_eq!((header.correlation, header.deadline_ms), (7, 1000));
    let Request::Put { options, key, value, .. } =
        decode_request(&header, &frame[HEADER_BYTES..]).unwrap()
    else {
        panic!("not a put");
    };
    assert_eq!(
        (options.durability, key, value),
        (Durability::Local, &key_bytes(42)[..], &b"v"[..])
    );
}

#[test]
fn an_append_is_encoded_once_and_sent_under_each_tag() {
    let mut protocol = connection();
    protocol.encode_append(&[b"one", b"two"]).unwrap();
    let mut frames = sent(&mut protocol, OpKind::Append, b"");
    let first = frames.len();
    protocol.encode(&Op { kind: OpKind::Append, key: 0, value: b"" }, 8, &mut frames);
    for (frame, tag) in [(&frames[..first], 7), (&frames[first..], 8)] {
        let header = decode_header(frame).unwrap();
        assert_eq!(header.correlation, tag);
        let request = decode_request(&header, &frame[HEADER_BYTES..]).unwrap();
        let Request::TopicAppend { records, .. } = request else { panic!("not an append") };
        let values: Vec<&[u8]> = records.iter().map(|r| r.value).collect();
        assert_eq!(values, [b"one", b"two"]);
    }
    let large = vec![0; 3 << 20];
    assert!(protocol.encode_append(&[&large]).unwrap_err().is_usage());
}

#[test]
fn replies_are_the_same_at_every_split() {
    let mut input = Vec::new();
    let value = ValueRef {
        version: Offset(3),
        time: WallTime(1),
        expires: WallTime(0),
        value: b"some value",
    };
    encode_response(&mut input, 5, &Response::Receipt(empty_receipt()));
    encode_response(&mut input, 4, &Response::Value(value));
    for (tag, code) in [(3, ErrorCode::NotFound), (2, ErrorCode::Overloaded)] {
        let error = Response::Error { code, detail: 0, message: "why" };
        encode_response(&mut input, tag, &error);
    }
    let replies = split_check::every_split(connection, &input);
    let expected = [(5, "Ok"), (4, "Ok"), (3, "Missing"), (2, "Refused(\"overloaded\")")];
    assert_eq!(replies, expected.map(|(tag, o)| (Some(tag), o.to_owned())));
}

#[test]
fn topic_reads_go_on_where_the_last_one_ended_and_start_again_at_the_end() {
    let mut protocol = connection();
    let answer = |protocol: &mut Ironring, offsets: &[u64]| {
        let mut bytes = Vec::new();
        let mut builder = RecordListBuilder::new(&mut bytes);
        for offset in offsets {
            let record = TopicRecord { offset: *offset, time: WallTime(1), key: b"", value: b"x" };
            builder.push(record).unwrap();
        }
        let records: RecordList<'_> = builder.finish();
        let mut frame = Vec::new();
        let response = Response::Records { records, start: 10, end: 14 };
        encode_response(&mut frame, 1, &response);
        protocol.parse(&frame).unwrap();
    };
    answer(&mut protocol, &[10, 11]);
    assert_eq!(protocol.position, ReadFrom::Offset(12));
    answer(&mut protocol, &[12, 13]);
    assert_eq!(protocol.position, ReadFrom::Offset(10));
}

#[test]
fn a_damaged_reply_is_an_error() {
    let mut frame = Vec::new();
    encode_response(&mut frame, 1, &Response::Receipt(empty_receipt()));
    *frame.last_mut().unwrap() ^= 1;
    assert!(connection().parse(&frame).unwrap_err().contains("checksum"));
}

/// Most unanswered requests the fake node allows.
const IN_FLIGHT_MAX: u32 = 4;

/// A node that keeps nothing: one thread per connection, every write a success, one sync each.
struct FakeNode {
    addr: String,
    topic_exists: bool,
}

/// The map of a node with one shard, or of one with two that are the same listener.
fn map(addr: &str) -> ClusterMap {
    let shard = |shard, first, end| ironring_net::message::ShardAddress {
        first,
        end,
        shard,
        address: addr.to_owned(),
    };
    ClusterMap { epoch: 1, partitions: 256, shards: vec![shard(0, 0, 100), shard(1, 100, 256)] }
}

impl FakeNode {
    fn start(topic_exists: bool) -> FakeNode {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let writes = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, writes) = (stream.unwrap(), std::sync::Arc::clone(&writes));
                std::thread::spawn(
                    move || while answer(&mut stream, topic_exists, &writes).is_some() {},
                );
            }
        });
        FakeNode { addr, topic_exists }
    }

    fn scenario(&self, text: &str) -> Scenario {
        let mut scenario: Scenario = toml::from_str(text).unwrap();
        scenario.addr = self.addr.clone();
        scenario.duration = Duration::from_millis(300);
        scenario.warmup = Duration::from_millis(10);
        scenario.load.mode = crate::scenario::Mode::Closed;
        scenario.load.connections = 2;
        scenario.load.pipeline = IN_FLIGHT_MAX as usize;
        scenario.load.timeout = Duration::from_secs(60);
        scenario.check().unwrap();
        scenario
    }
}

fn answer(
    stream: &mut TcpStream,
    topic_exists: bool,
    writes: &std::sync::atomic::AtomicU64,
) -> Option<()> {
    let mut head = [0; HEADER_BYTES];
    stream.read_exact(&mut head).ok()?;
    let header = decode_header(&head).unwrap();
    let mut body = vec![0; header.body_len as usize];
    stream.read_exact(&mut body).ok()?;
    let topic = TopicInfo {
        id: TopicId(7),
        name: "bench".to_owned(),
        partitions: 1,
        retention: Retention::default(),
        created: WallTime(1),
    };
    let stats;
    let addr = stream.local_addr().unwrap().to_string();
    let wrote = || writes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let response = match decode_request(&header, &body).unwrap() {
        Request::Hello { .. } => Response::Welcome(Welcome {
            version: 1,
            features: 0,
            storage: StorageUuid(1),
            cluster: "c",
            node: "n",
            server: "fake",
            shard: 0,
            frame_bytes_max: 1 << 20,
            in_flight_max: IN_FLIGHT_MAX,
            key_bytes_max: 1024,
            value_bytes_max: 1 << 20,
        }),
        Request::TopicCreate { .. } if topic_exists => {
            Response::Error { code: ErrorCode::TopicExists, detail: 0, message: "it exists" }
        }
        Request::TopicCreate { .. } | Request::TopicDescribe { .. } => Response::Topic(topic),
        Request::TopicAppend { topic, records, to, .. } => {
            assert_eq!((topic, to), (TopicId(7), AppendTo::Partition(0)));
            wrote();
            let count = records.count();
            Response::Appended { receipt: empty_receipt(), partition: 0, first: 0, count }
        }
        Request::Put { .. } => {
            wrote();
            Response::Receipt(empty_receipt())
        }
        Request::Stats => {
            let flushes = writes.load(std::sync::atomic::Ordering::Relaxed);
            stats = format!("{{\"state\":\"ready\",\"log\":{{\"flushes\":{flushes}}}}}");
            Response::Stats(&stats)
        }
        Request::ClusterMap => Response::ClusterMap(map(&addr)),
        other => panic!("not expected: {other:?}"),
    };
    let mut out = Vec::new();
    encode_response(&mut out, header.correlation, &response);
    stream.write_all(&out).ok()
}

fn measured(node: &FakeNode, text: &str) -> RunResult {
    let scenario = node.scenario(text);
    let target = IronringTarget::prepare(&scenario).unwrap();
    let around = Surroundings { server_pid: None, quiet: true };
    let measured = engine::measure(&target, &scenario, 1, around).unwrap();
    RunResult::of(&scenario, 1, &measured)
}

#[test]
fn a_node_is_measured_with_its_counters() {
    let run = measured(&FakeNode::start(false), "[values]\nsize = 10");
    assert!(run.achieved_per_s > 0.0 && run.refused.is_empty());
    assert!(run.server.counters["shards.0.log.flushes"] > 0.0);
    assert!(run.server.counters["shards.1.log.flushes"] > 0.0, "every shard is asked");
    assert!(run.server.records_per_sync.is_some());
}

#[test]
fn a_node_is_ready_when_all_its_shards_are() {
    ready(&FakeNode::start(false).addr).unwrap();
}

#[test]
fn placed_connections_ask_only_for_keys_of_their_shard() {
    let node = FakeNode::start(false);
    let scenario = node.scenario("[load]\nplacement = \"owner\"\n[keys]\ncount = 1000");
    let target = IronringTarget::prepare(&scenario).unwrap();
    let mut workload = Workload::new(&scenario, 1).unwrap();
    for (lane, range) in [(0, 0..100), (1, 100..256), (2, 0..100)] {
        let (_, mut protocol) = target.connect(lane, &mut workload).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..1000 {
            let mut frame = Vec::new();
            protocol.encode(&Op { kind: OpKind::Get, key: number, value: b"" }, 1, &mut frame);
            let header = decode_header(&frame).unwrap();
            let request = decode_request(&header, &frame[HEADER_BYTES..]).unwrap();
            let Request::Get { key } = request else { panic!("not a get") };
            assert!(range.contains(&Token::of_key(key).partition(256).0));
            seen.insert(key.to_vec());
        }
        assert!(seen.len() > 300, "they are still spread: {}", seen.len());
    }
}

#[test]
fn a_shard_of_a_cluster_leads_many_ranges_and_is_one() {
    let shard = |address: &str, first, end| ironring_net::message::ShardAddress {
        shard: 0,
        address: address.to_owned(),
        first,
        end,
    };
    let shards = vec![shard("a", 0, 2), shard("b", 2, 3), shard("a", 3, 4)];
    let map = ClusterMap { epoch: 1, partitions: 4, shards };
    let owned = |wanted: fn(&str) -> bool| -> Vec<(String, Vec<bool>)> {
        let placed = Placed::new(&map, 9, wanted);
        placed.shards.iter().map(|(at, owned)| (at.clone(), owned.to_vec())).collect()
    };
    let a = ("a".to_owned(), vec![true, true, false, true]);
    let b = ("b".to_owned(), vec![false, false, true, false]);
    assert_eq!(owned(|_| true), [a, b.clone()]);
    assert_eq!(owned(|address| address == "b"), [b]);
}

#[test]
fn topics_are_made_or_found_and_batches_count_as_their_records() {
    let text = "[mix]\nappend = 1\n[values]\nsize = 10\n[topic]\nrecords_per_append = 50";
    for topic_exists in [false, true] {
        let node = FakeNode::start(topic_exists);
        let run = measured(&node, text);
        assert!(run.achieved_per_s > 0.0, "topic exists: {}", node.topic_exists);
        assert!((run.records_per_s / run.achieved_per_s - 50.0).abs() < 1e-6);
    }
}

#[test]
fn a_pipeline_deeper_than_the_server_allows_is_refused_before_the_run() {
    let node = FakeNode::start(false);
    let mut scenario = node.scenario("");
    scenario.load.pipeline = IN_FLIGHT_MAX as usize + 1;
    let target = IronringTarget::prepare(&scenario).unwrap();
    let around = Surroundings { server_pid: None, quiet: true };
    let error = engine::measure(&target, &scenario, 1, around).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("pipeline"), "{error}");
}
