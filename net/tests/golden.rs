//! One example of every message with its exact bytes, shared with clients in other languages:
//! `golden/frames.json`. A change of these bytes is a change of the protocol.
//!
//! `IRONRING_BLESS=1 cargo test -p ironring-net --test golden` writes the file anew.

#![expect(clippy::unwrap_used, reason = "a test file: a panic is a failed test")]

use std::fmt::Write as _;
use std::path::PathBuf;

use ironring_core::{
    Durability, ErrorCode, Offset, PartitionId, SessionId, StorageUuid, Term, TopicId, WallTime,
};
use ironring_net::frame::HEADER_BYTES;
use ironring_net::list::*;
use ironring_net::message::*;
use ironring_net::{decode_header, decode_request, decode_response};
use ironring_net::{encode_request, encode_response};

const CORRELATION: u64 = 0x0102_0304_0506_0708;
const DEADLINE_MS: u32 = 5000;
const NOW: WallTime = WallTime(1_700_000_000_000);

struct Lists {
    keys: Vec<u8>,
    ops: Vec<u8>,
    appends: Vec<u8>,
    values: Vec<u8>,
    entries: Vec<u8>,
    records: Vec<u8>,
}

fn options(session: u64, sequence: u64) -> WriteOptions {
    WriteOptions { durability: Durability::Quorum, session: SessionId(session), sequence }
}

fn requests<'a>(lists: &'a mut Lists) -> Vec<(&'static str, Request<'a>)> {
    let mut keys = KeyListBuilder::new(&mut lists.keys);
    keys.push(b"alpha").unwrap();
    keys.push(b"beta").unwrap();
    let mut ops = BatchListBuilder::new(&mut lists.ops);
    let condition = Condition::Absent;
    ops.push(BatchOp::Put { key: b"alpha", value: b"one", condition, ttl_ms: 1000 }).unwrap();
    ops.push(BatchOp::Delete { key: b"beta", condition: Condition::Version(Offset(9)) }).unwrap();
    let mut records = AppendListBuilder::new(&mut lists.appends);
    records.push(AppendRecord { key: b"", value: b"first" }).unwrap();
    records.push(AppendRecord { key: b"user", value: b"second" }).unwrap();
    let (topic, records) = (TopicId(3), records.finish());
    let retention = Retention { age_ms: 86_400_000, bytes: 1 << 30 };
    let write = options(77, 5);
    let plain = WriteOptions { durability: Durability::Local, ..options(0, 0) };
    vec![
        (
            "hello",
            Request::Hello {
                version_min: 1,
                version_max: 1,
                features: 1,
                cluster: "prod",
                client: "golden/1.0",
            },
        ),
        ("ping", Request::Ping),
        ("cluster_map", Request::ClusterMap),
        ("open_session", Request::OpenSession),
        ("stats", Request::Stats),
        (
            "put",
            Request::Put {
                options: plain,
                condition: Condition::None,
                ttl_ms: 0,
                key: b"alpha",
                value: b"one",
            },
        ),
        (
            "put_version",
            Request::Put {
                options: write,
                condition: Condition::Version(Offset(42)),
                ttl_ms: 60_000,
                key: b"alpha",
                value: b"",
            },
        ),
        ("get", Request::Get { key: b"alpha" }),
        ("delete", Request::Delete { options: write, condition: Condition::None, key: b"alpha" }),
        ("multi_get", Request::MultiGet { partition: PartitionId(0xba), keys: keys.finish() }),
        (
            "batch",
            Request::Batch { options: write, partition: PartitionId(0xba), ops: ops.finish() },
        ),
        (
            "scan",
            Request::Scan {
                partition: PartitionId(2),
                prefix: b"al",
                after: b"alpha",
                limit: 100,
                values: true,
            },
        ),
        ("topic_create", Request::TopicCreate { name: "orders", partitions: 4, retention }),
        ("topic_delete", Request::TopicDelete { name: "orders" }),
        ("topic_describe", Request::TopicDescribe { name: "orders" }),
        ("topic_list", Request::TopicList),
        ("topic_alter", Request::TopicAlter { name: "orders", retention }),
        (
            "topic_append",
            Request::TopicAppend { options: plain, topic, to: AppendTo::Partition(2), records },
        ),
        (
            "topic_append_key",
            Request::TopicAppend { options: write, topic, to: AppendTo::Key(b"user"), records },
        ),
        (
            "topic_read",
            Request::TopicRead {
                topic,
                partition: 2,
                from: ReadFrom::Offset(17),
                max_records: 100,
                max_bytes: 65_536,
                wait_ms: 250,
            },
        ),
        (
            "topic_read_latest",
            Request::TopicRead {
                topic,
                partition: 2,
                from: ReadFrom::Latest,
                max_records: 0,
                max_bytes: 0,
                wait_ms: 0,
            },
        ),
        ("topic_offsets", Request::TopicOffsets { topic, partition: 2, time: NOW }),
        ("topic_trim", Request::TopicTrim { options: write, topic, partition: 2, before: 17 }),
    ]
}

fn responses<'a>(lists: &'a mut Lists) -> Vec<(&'static str, Response<'a>)> {
    let found = ValueRef {
        version: Offset(42),
        time: NOW,
        expires: WallTime(NOW.0 + 60_000),
        value: b"one",
    };
    let mut values = ValueListBuilder::new(&mut lists.values);
    values.push(Some(found)).unwrap();
    values.push(None).unwrap();
    let mut entries = ScanListBuilder::new(&mut lists.entries);
    let version = Offset(42);
    entries.push(ScanEntry { key: b"alpha", version, value: Some(b"one") }).unwrap();
    entries.push(ScanEntry { key: b"beta", version, value: None }).unwrap();
    let mut records = RecordListBuilder::new(&mut lists.records);
    records.push(TopicRecord { offset: 17, time: NOW, key: b"", value: b"first" }).unwrap();
    records.push(TopicRecord { offset: 18, time: NOW, key: b"user", value: b"second" }).unwrap();
    let receipt = Receipt {
        durability: Durability::Quorum,
        partition: PartitionId(0xba),
        term: Term(3),
        offset: Offset(42),
        duplicate: true,
    };
    let topic = TopicInfo {
        id: TopicId(3),
        name: "orders".into(),
        partitions: 4,
        retention: Retention { age_ms: 86_400_000, bytes: 1 << 30 },
        created: NOW,
    };
    let other = TopicInfo { id: TopicId(4), name: "a.b_c-9".into(), ..topic.clone() };
    let shard = |shard: u16, first, end| ShardAddress {
        shard,
        address: format!("127.0.0.1:{}", 7420 + shard),
        first,
        end,
    };
    vec![
        (
            "welcome",
            Response::Welcome(Welcome {
                version: 1,
                features: 1,
                storage: StorageUuid(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
                cluster: "prod",
                node: "n1",
                server: "0.1.0",
                shard: 1,
                frame_bytes_max: 16_842_752,
                in_flight_max: 1024,
                key_bytes_max: 1024,
                value_bytes_max: 16 << 20,
            }),
        ),
        ("pong", Response::Pong),
        (
            "map",
            Response::ClusterMap(ClusterMap {
                epoch: 7,
                partitions: 256,
                shards: vec![shard(0, 0, 128), shard(1, 128, 256)],
            }),
        ),
        ("session", Response::Session(SessionId(77))),
        ("stats_text", Response::Stats("{\"shards\":2}")),
        ("receipt", Response::Receipt(receipt)),
        ("value", Response::Value(found)),
        ("values", Response::Values(values.finish())),
        ("page", Response::Page { entries: entries.finish(), more: true }),
        ("topic", Response::Topic(topic.clone())),
        ("topics", Response::Topics(vec![topic, other])),
        ("appended", Response::Appended { receipt, partition: 2, first: 17, count: 2 }),
        ("records", Response::Records { records: records.finish(), start: 5, end: 19 }),
        ("offsets", Response::Offsets { start: 5, end: 19, at_time: 17 }),
        (
            "error",
            Response::Error {
                code: ErrorCode::ConditionFailed,
                detail: 42,
                message: "the key has version 42",
            },
        ),
    ]
}

fn lists() -> Lists {
    Lists {
        keys: Vec::new(),
        ops: Vec::new(),
        appends: Vec::new(),
        values: Vec::new(),
        entries: Vec::new(),
        records: Vec::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/frames.json")
}

/// (name, frame) as this build encodes them.
fn encoded() -> Vec<(&'static str, Vec<u8>)> {
    let mut lists_of_requests = lists();
    let mut lists_of_responses = lists();
    let mut frames = Vec::new();
    for (name, request) in requests(&mut lists_of_requests) {
        let mut frame = Vec::new();
        encode_request(&mut frame, CORRELATION, DEADLINE_MS, &request).unwrap();
        frames.push((name, frame));
    }
    for (name, response) in responses(&mut lists_of_responses) {
        let mut frame = Vec::new();
        encode_response(&mut frame, CORRELATION, &response);
        frames.push((name, frame));
    }
    frames
}

/// (name, frame) as the file has them.
fn golden() -> Vec<(String, Vec<u8>)> {
    if std::env::var_os("IRONRING_BLESS").is_some() {
        let lines: Vec<String> = encoded()
            .iter()
            .map(|(name, frame)| {
                format!("  {{\"name\": \"{name}\", \"frame\": \"{}\"}}", hex(frame))
            })
            .collect();
        std::fs::write(path(), format!("[\n{}\n]\n", lines.join(",\n"))).unwrap();
    }
    let text = std::fs::read_to_string(path()).unwrap();
    let file: serde_json::Value = serde_json::from_str(&text).unwrap();
    let entry = |entry: &serde_json::Value| {
        let text = |field: &str| entry[field].as_str().unwrap().to_owned();
        (text("name"), unhex(&text("frame")))
    };
    file.as_array().unwrap().iter().map(entry).collect()
}

#[test]
fn messages_have_the_golden_bytes() {
    let (golden, encoded) = (golden(), encoded());
    let names = |frames: &[(String, Vec<u8>)]| -> Vec<String> {
        frames.iter().map(|(name, _)| name.clone()).collect()
    };
    let encoded: Vec<_> =
        encoded.into_iter().map(|(name, frame)| (name.to_owned(), frame)).collect();
    assert_eq!(names(&golden), names(&encoded));
    for ((name, expected), (_, frame)) in golden.iter().zip(&encoded) {
        assert_eq!(hex(frame), hex(expected), "{name}");
    }
}

#[test]
fn golden_bytes_decode_to_the_messages() {
    let golden = golden();
    let (mut asked, mut answered) = (lists(), lists());
    let (requests, responses) = (requests(&mut asked), responses(&mut answered));
    assert_eq!(golden.len(), requests.len() + responses.len());
    let (to_server, to_client) = golden.split_at(requests.len());
    for ((name, frame), (_, request)) in to_server.iter().zip(requests) {
        let header = decode_header(frame).unwrap();
        assert_eq!((header.correlation, header.deadline_ms), (CORRELATION, DEADLINE_MS));
        assert_eq!(decode_request(&header, &frame[HEADER_BYTES..]), Ok(request), "{name}");
    }
    for ((name, frame), (_, response)) in to_client.iter().zip(responses) {
        let header = decode_header(frame).unwrap();
        assert_eq!((header.correlation, header.deadline_ms), (CORRELATION, 0));
        assert_eq!(decode_response(&header, &frame[HEADER_BYTES..]), Ok(response), "{name}");
    }
}
