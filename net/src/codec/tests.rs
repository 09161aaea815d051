//! Round trips of generated messages, and what damaged, cut and random bytes do.

use ironring_core::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use ironring_core::prng::Prng;
use ironring_core::{
    Durability, ErrorCode, Offset, PartitionId, SessionId, StorageUuid, Term, TopicId, WallTime,
};
use proptest::prelude::*;

use super::*;
use crate::error::{BodyError, RequestError, ResponseError};
use crate::frame::{HEADER_BYTES, Header, Opcode, decode_header, flags, set_age, set_flags};
use crate::list::*;
use crate::message::*;

/// Memory the generated messages borrow from.
#[derive(Default)]
struct Bytes {
    key: Vec<u8>,
    other: Vec<u8>,
    value: Vec<u8>,
    text: String,
    name: String,
    list: Vec<u8>,
}

fn bytes(prng: &mut Prng, min: u64, max: u64) -> Vec<u8> {
    let mut bytes = vec![0; (min + prng.below(max - min + 1)) as usize];
    prng.fill(&mut bytes);
    bytes
}

fn fill(prng: &mut Prng) -> Bytes {
    let key_max = if prng.chance(1, 8) { KEY_BYTES_MAX as u64 } else { 16 };
    let mut name = String::new();
    for _ in 0..1 + prng.below(128) {
        name.push(char::from(b"abcxyz0189._-"[prng.below(13) as usize]));
    }
    Bytes {
        key: bytes(prng, 1, key_max),
        other: bytes(prng, 0, key_max),
        value: bytes(prng, 0, 300),
        text: (0..prng.below(80)).map(|_| ['a', 'é', '環', ' '][prng.below(4) as usize]).collect(),
        name,
        list: Vec::new(),
    }
}

fn options(prng: &mut Prng) -> WriteOptions {
    let session = if prng.chance(1, 3) { 0 } else { prng.next_u64() };
    WriteOptions {
        durability: Durability::from_u8(prng.below(4) as u8).unwrap(),
        session: SessionId(session),
        sequence: prng.below(9) + u64::from(session != 0),
    }
}

fn condition(prng: &mut Prng) -> Condition {
    match prng.below(3) {
        0 => Condition::None,
        1 => Condition::Absent,
        _ => Condition::Version(Offset(prng.next_u64())),
    }
}

fn retention(prng: &mut Prng) -> Retention {
    Retention { age_ms: prng.next_u64(), bytes: prng.next_u64() }
}

fn partition(prng: &mut Prng) -> PartitionId {
    PartitionId(prng.next_u64() as u32)
}

const REQUESTS: u64 = 20;

fn request<'a>(which: u64, prng: &mut Prng, b: &'a mut Bytes) -> Request<'a> {
    let n = prng.next_u64();
    match which {
        0 => Request::Hello {
            version_min: n as u8,
            version_max: (n >> 8) as u8,
            features: prng.next_u64(),
            cluster: &b.name,
            client: &b.text,
        },
        1 => Request::Ping,
        2 => Request::ClusterMap,
        3 => Request::OpenSession,
        4 => Request::Stats,
        5 => Request::Put {
            options: options(prng),
            condition: condition(prng),
            ttl_ms: n,
            key: &b.key,
            value: &b.value,
        },
        6 => Request::Get { key: &b.key },
        7 => Request::Delete { options: options(prng), condition: condition(prng), key: &b.key },
        8 => {
            let mut keys = KeyListBuilder::new(&mut b.list);
            for _ in 0..prng.below(5) {
                keys.push(&bytes(prng, 1, 9)).unwrap();
            }
            Request::MultiGet { partition: partition(prng), keys: keys.finish() }
        }
        9 => {
            let mut ops = BatchListBuilder::new(&mut b.list);
            for _ in 0..prng.below(5) {
                let (key, value) = (bytes(prng, 1, 9), bytes(prng, 0, 40));
                let condition = condition(prng);
                let put = BatchOp::Put { key: &key, value: &value, condition, ttl_ms: n };
                let delete = BatchOp::Delete { key: &key, condition };
                ops.push(if prng.chance(1, 2) { put } else { delete }).unwrap();
            }
            Request::Batch { options: options(prng), partition: partition(prng), ops: ops.finish() }
        }
        10 => Request::Scan {
            partition: partition(prng),
            prefix: &b.other,
            after: &b.key,
            limit: n as u32,
            values: prng.chance(1, 2),
        },
        11 => Request::TopicCreate {
            name: &b.name,
            partitions: 1 + prng.below(1024) as u32,
            retention: retention(prng),
        },
        12 => Request::TopicDelete { name: &b.name },
        13 => Request::TopicDescribe { name: &b.name },
        14 => Request::TopicList,
        15 => Request::TopicAlter { name: &b.name, retention: retention(prng) },
        16 => {
            let mut records = AppendListBuilder::new(&mut b.list);
            for _ in 0..prng.below(5) {
                let (key, value) = (bytes(prng, 0, 9), bytes(prng, 0, 40));
                records.push(AppendRecord { key: &key, value: &value }).unwrap();
            }
            let to = if prng.chance(1, 2) {
                AppendTo::Partition(n as u32)
            } else {
                AppendTo::Key(&b.other)
            };
            let (options, topic) = (options(prng), TopicId(prng.next_u64() as u32));
            Request::TopicAppend { options, topic, to, records: records.finish() }
        }
        17 => Request::TopicRead {
            topic: TopicId(n as u32),
            partition: (n >> 32) as u32,
            from: match prng.below(4) {
                0 => ReadFrom::Offset(prng.next_u64()),
                1 => ReadFrom::Time(WallTime(prng.next_u64())),
                2 => ReadFrom::Earliest,
                _ => ReadFrom::Latest,
            },
            max_records: prng.next_u64() as u32,
            max_bytes: prng.next_u64() as u32,
            wait_ms: prng.next_u64() as u32,
        },
        18 => Request::TopicOffsets {
            topic: TopicId(n as u32),
            partition: (n >> 32) as u32,
            time: WallTime(prng.next_u64()),
        },
        _ => Request::TopicTrim {
            options: options(prng),
            topic: TopicId(n as u32),
            partition: (n >> 32) as u32,
            before: prng.next_u64(),
        },
    }
}

fn receipt(prng: &mut Prng) -> Receipt {
    Receipt {
        durability: Durability::from_u8(prng.below(4) as u8).unwrap(),
        partition: partition(prng),
        term: Term(prng.next_u64()),
        offset: Offset(prng.next_u64()),
        duplicate: prng.chance(1, 2),
    }
}

fn topic(prng: &mut Prng, name: &str) -> TopicInfo {
    TopicInfo {
        id: TopicId(prng.next_u64() as u32),
        name: name.to_owned(),
        partitions: prng.next_u64() as u32,
        retention: retention(prng),
        created: WallTime(prng.next_u64()),
    }
}

fn value<'a>(prng: &mut Prng, value: &'a [u8]) -> ValueRef<'a> {
    ValueRef {
        version: Offset(prng.next_u64()),
        time: WallTime(prng.next_u64()),
        expires: WallTime(prng.next_u64()),
        value,
    }
}

const RESPONSES: u64 = 15;

fn response<'a>(which: u64, prng: &mut Prng, b: &'a mut Bytes) -> Response<'a> {
    let n = prng.next_u64();
    match which {
        0 => Response::Welcome(Welcome {
            version: n as u8,
            features: prng.next_u64(),
            storage: StorageUuid(u128::from(prng.next_u64()) << 64 | u128::from(n)),
            cluster: &b.name,
            node: &b.text,
            server: "0.1.0",
            shard: (n >> 8) as u16,
            frame_bytes_max: prng.next_u64() as u32,
            in_flight_max: prng.next_u64() as u32,
            key_bytes_max: prng.next_u64() as u32,
            value_bytes_max: prng.next_u64() as u32,
        }),
        1 => Response::Pong,
        2 => {
            let shards = prng.below(5) as u32;
            let shards = (0..=shards).map(|i| ShardAddress {
                shard: i as u16,
                address: format!("127.0.0.1:{}", 7411 + i),
                first: i.min(4),
                end: if i == shards { 8 } else { (i + 1).min(4) },
            });
            let shards = shards.collect();
            Response::ClusterMap(ClusterMap { epoch: n, partitions: 8, shards })
        }
        3 => Response::Session(SessionId(n)),
        4 => Response::Stats(&b.text),
        5 => Response::Receipt(receipt(prng)),
        6 => Response::Value(value(prng, &b.value)),
        7 => {
            let mut values = ValueListBuilder::new(&mut b.list);
            for _ in 0..prng.below(5) {
                let found = prng.chance(2, 3).then(|| value(prng, &b.value));
                values.push(found).unwrap();
            }
            Response::Values(values.finish())
        }
        8 => {
            let mut entries = ScanListBuilder::new(&mut b.list);
            for _ in 0..prng.below(5) {
                let (key, version) = (bytes(prng, 1, 9), Offset(prng.next_u64()));
                let value = prng.chance(1, 2).then_some(b.value.as_slice());
                entries.push(ScanEntry { key: &key, version, value }).unwrap();
            }
            Response::Page { entries: entries.finish(), more: prng.chance(1, 2) }
        }
        9 => Response::Topic(topic(prng, &b.name)),
        10 => Response::Topics((0..prng.below(4)).map(|_| topic(prng, &b.name)).collect()),
        11 => Response::Appended {
            receipt: receipt(prng),
            partition: n as u32,
            first: prng.next_u64(),
            count: (n >> 32) as u32,
        },
        12 => {
            let mut records = RecordListBuilder::new(&mut b.list);
            for offset in 0..prng.below(5) {
                let (key, time) = (bytes(prng, 0, 9), WallTime(prng.next_u64()));
                records.push(TopicRecord { offset, time, key: &key, value: &b.value }).unwrap();
            }
            Response::Records { records: records.finish(), start: n, end: prng.next_u64() }
        }
        13 => Response::Offsets { start: n, end: prng.next_u64(), at_time: prng.next_u64() },
        _ => Response::Error {
            code: ErrorCode::ALL[prng.below(ErrorCode::ALL.len() as u64) as usize],
            detail: n,
            message: &b.text,
        },
    }
}

fn split(frame: &[u8]) -> (Header, &[u8]) {
    let header = decode_header(frame).unwrap();
    assert_eq!(frame.len(), header.frame_bytes());
    (header, &frame[HEADER_BYTES..])
}

/// The frame with another body, sealed anew: damage that the checksums do not see.
fn with_body(header: &Header, body: &[u8]) -> Header {
    let body_crc = ironring_core::checksum::crc32c(body);
    Header { body_len: body.len() as u32, body_crc, ..*header }
}

fn encoded_request(which: u64, seed: u64) -> Vec<u8> {
    let mut prng = Prng::new(seed);
    let mut b = fill(&mut prng);
    let mut out = Vec::new();
    encode_request(&mut out, seed, 77, &request(which, &mut prng, &mut b)).unwrap();
    out
}

fn encoded_response(which: u64, seed: u64) -> Vec<u8> {
    let mut prng = Prng::new(seed);
    let mut b = fill(&mut prng);
    let mut out = Vec::new();
    encode_response(&mut out, seed, &response(which, &mut prng, &mut b));
    out
}

proptest! {
    #[test]
    fn requests_round_trip(seed: u64, which in 0..REQUESTS) {
        let mut prng = Prng::new(seed);
        let mut b = fill(&mut prng);
        let request = request(which, &mut prng, &mut b);
        let mut out = b"before".to_vec();
        encode_request(&mut out, seed, 77, &request).unwrap();
        let (header, body) = split(&out[6..]);
        prop_assert_eq!((header.correlation, header.deadline_ms, header.status), (seed, 77, 0));
        prop_assert_eq!(decode_request(&header, body), Ok(request));
    }

    #[test]
    fn responses_round_trip(seed: u64, which in 0..RESPONSES) {
        let mut prng = Prng::new(seed);
        let mut b = fill(&mut prng);
        let response = response(which, &mut prng, &mut b);
        let mut out = b"before".to_vec();
        encode_response(&mut out, seed, &response);
        let (header, body) = split(&out[6..]);
        prop_assert_eq!((header.correlation, header.deadline_ms), (seed, 0));
        prop_assert_eq!(decode_response(&header, body), Ok(response));
    }

    #[test]
    fn random_bodies_are_refused_or_understood(
        opcode: u8, status: u16, body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let header = Header {
            version: 1, opcode, status, correlation: 0, body_len: 0, deadline_ms: 0, body_crc: 0,
        };
        let header = with_body(&header, &body);
        // Whatever is understood must encode to the same bytes: there is one encoding.
        if let Ok(request) = decode_request(&header, &body) {
            let mut out = Vec::new();
            encode_request(&mut out, 0, 0, &request).unwrap();
            prop_assert_eq!(&out[HEADER_BYTES..], &body[..]);
        }
        if let Ok(response) = decode_response(&header, &body) {
            let mut out = Vec::new();
            encode_response(&mut out, 0, &response);
            prop_assert_eq!(&out[HEADER_BYTES..], &body[..]);
        }
    }

    #[test]
    fn random_bytes_are_no_header(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        prop_assert!(decode_header(&bytes).is_err());
    }
}

/// The variants a generator knows are all there are.
#[test]
fn every_opcode_is_generated() {
    let mut seen: Vec<u8> = (0..REQUESTS).map(|which| encoded_request(which, 1)[5]).collect();
    seen.extend((0..RESPONSES).map(|which| encoded_response(which, 1)[5]));
    seen.sort_unstable();
    let all: Vec<u8> = Opcode::ALL.iter().map(|opcode| *opcode as u8).collect();
    assert_eq!(seen, all);
}

#[test]
fn a_body_cut_anywhere_or_with_a_byte_more_is_refused() {
    for seed in 0..20 {
        for which in 0..REQUESTS {
            let frame = encoded_request(which, seed);
            let (header, body) = split(&frame);
            for len in 0..body.len() {
                let cut = &body[..len];
                let result = decode_request(&with_body(&header, cut), cut);
                assert!(matches!(result, Err(RequestError::Body(_))), "{which} at {len}");
            }
            let more = [body, &[0]].concat();
            let result = decode_request(&with_body(&header, &more), &more);
            assert!(matches!(result, Err(RequestError::Body(_))), "{which} and a byte more");
        }
        for which in 0..RESPONSES {
            let frame = encoded_response(which, seed);
            let (header, body) = split(&frame);
            for len in 0..body.len() {
                let cut = &body[..len];
                assert!(
                    decode_response(&with_body(&header, cut), cut).is_err(),
                    "{which} at {len}"
                );
            }
            let more = [body, &[0]].concat();
            let result = decode_response(&with_body(&header, &more), &more);
            assert!(matches!(result, Err(ResponseError::Body(_))), "{which} and a byte more");
        }
    }
}

#[test]
fn each_flipped_bit_of_a_frame_is_detected() {
    for which in 0..REQUESTS {
        let good = encoded_request(which, 3);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let Ok(header) = decode_header(&bad) else { continue };
            assert!(bit / 8 >= HEADER_BYTES, "the header's checksum misses bit {bit}");
            assert!(matches!(
                decode_request(&header, &bad[HEADER_BYTES..]),
                Err(RequestError::BodyChecksum { .. })
            ));
        }
    }
}

/// Flips that the checksums do not see (a peer that computes them over nonsense): nothing panics,
/// and what is understood has one encoding.
#[test]
fn flipped_bits_under_a_new_checksum_never_panic() {
    for seed in 0..4 {
        for which in 0..REQUESTS.max(RESPONSES) {
            let (asked, answered) =
                (encoded_request(which, seed), encoded_response(which % RESPONSES, seed));
            for good in [asked, answered] {
                let (header, body) = split(&good);
                for bit in 0..body.len() * 8 {
                    let mut bad = body.to_vec();
                    bad[bit / 8] ^= 1 << (bit % 8);
                    let header = with_body(&header, &bad);
                    let mut out = Vec::new();
                    if let Ok(request) = decode_request(&header, &bad) {
                        encode_request(&mut out, 0, 0, &request).unwrap();
                        assert_eq!(out[HEADER_BYTES..], bad);
                    } else if let Ok(response) = decode_response(&header, &bad) {
                        encode_response(&mut out, 0, &response);
                        assert_eq!(out[HEADER_BYTES..], bad);
                    }
                }
            }
        }
    }
}

fn encode(request: &Request<'_>) -> Result<Vec<u8>, BodyError> {
    let mut out = b"kept".to_vec();
    let result = encode_request(&mut out, 1, 0, request);
    assert!(result.is_ok() || out == b"kept", "a refused request leaves nothing behind");
    result.map(|()| out)
}

fn put<'a>(key: &'a [u8], value: &'a [u8]) -> Request<'a> {
    let options =
        WriteOptions { durability: Durability::Local, session: SessionId::NONE, sequence: 0 };
    Request::Put { options, condition: Condition::None, ttl_ms: 0, key, value }
}

#[test]
fn limits_hold_on_the_way_out() {
    let code = |request: &Request<'_>| encode(request).map(|_| ()).map_err(|error| error.code());
    let (key, value) = (vec![b'k'; KEY_BYTES_MAX + 1], vec![0; VALUE_BYTES_MAX + 1]);
    assert_eq!(code(&put(&key[1..], &value[1..])), Ok(()));
    assert_eq!(code(&put(&key, b"")), Err(ErrorCode::TooLarge));
    assert_eq!(code(&put(b"k", &value)), Err(ErrorCode::TooLarge));
    assert_eq!(code(&put(b"", b"")), Err(ErrorCode::InvalidArgument));
    for name in ["", "Upper", "space here", "é", "slash/"] {
        assert_eq!(code(&Request::TopicDelete { name }), Err(ErrorCode::InvalidArgument), "{name}");
    }
    let long = "n".repeat(129);
    assert_eq!(code(&Request::TopicDelete { name: &long }), Err(ErrorCode::TooLarge));
    assert_eq!(code(&Request::TopicDelete { name: &long[1..] }), Ok(()));
    let retention = Retention::default();
    for (partitions, expected) in
        [(0, Err(ErrorCode::InvalidArgument)), (1024, Ok(())), (1025, Err(ErrorCode::TooLarge))]
    {
        let request = Request::TopicCreate { name: "t", partitions, retention };
        assert_eq!(code(&request), expected);
    }
    let options =
        WriteOptions { durability: Durability::Local, session: SessionId(1), sequence: 0 };
    let delete = Request::Delete { options, condition: Condition::None, key: b"k" };
    assert_eq!(code(&delete), Err(ErrorCode::InvalidArgument));
}

#[test]
fn limits_hold_on_the_way_in() {
    let frame = encode(&put(b"key", b"value")).unwrap();
    let (header, body) = split(&frame[4..]);
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = body.to_vec();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        decode_request(&with_body(&header, &changed), &changed).map(|_| ()).map_err(|e| e.code())
    };
    assert_eq!(with(2, &0u16.to_le_bytes()), Err(ErrorCode::InvalidArgument), "empty key");
    assert_eq!(with(2, &1025u16.to_le_bytes()), Err(ErrorCode::TooLarge), "key length");
    let over = (VALUE_BYTES_MAX as u32 + 1).to_le_bytes();
    assert_eq!(with(4, &over), Err(ErrorCode::TooLarge), "value length");
    assert_eq!(with(0, &[4]), Err(ErrorCode::Malformed), "durability");
    assert_eq!(with(1, &[3]), Err(ErrorCode::Malformed), "condition");
    assert_eq!(with(24, &[1]), Err(ErrorCode::Malformed), "a version nothing asks for");
    assert_eq!(with(8, &[1]), Err(ErrorCode::InvalidArgument), "a session without sequence");
}

#[test]
fn only_reads_may_be_old_and_answers_say_how_old() {
    let flagged = |request: &Request<'_>, flags| {
        let mut frame = Vec::new();
        encode_request(&mut frame, 7, 0, request).unwrap();
        set_flags(&mut frame, flags);
        let header = decode_header(&frame).expect("its checksum was put right");
        decode_request(&header, &frame[HEADER_BYTES..]).map(|_| header.status)
    };
    let get = Request::Get { key: b"k" };
    assert_eq!(flagged(&get, flags::STALE), Ok(1));
    assert_eq!(flagged(&get, 2), Err(RequestError::UnknownFlags(2)));
    assert_eq!(flagged(&get, 3), Err(RequestError::UnknownFlags(3)));
    assert_eq!(flagged(&Request::Ping, flags::STALE), Err(RequestError::UnknownFlags(1)));
    let mut frame = Vec::new();
    encode_response(&mut frame, 7, &Response::Pong);
    set_age(&mut frame, 1234);
    let header = decode_header(&frame).expect("its checksum was put right");
    assert_eq!((header.correlation, header.deadline_ms), (7, 1234));
    assert_eq!(decode_response(&header, &frame[HEADER_BYTES..]), Ok(Response::Pong));
}

#[test]
fn requests_of_another_time_are_told_apart() {
    let frame = encoded_request(1, 1);
    let (header, body) = split(&frame);
    let with = |change: Header| decode_request(&change, body).unwrap_err();
    assert_eq!(with(Header { opcode: 0x7E, ..header }), RequestError::UnknownOpcode(0x7E));
    let pong = Opcode::Pong as u8;
    assert_eq!(with(Header { opcode: pong, ..header }), RequestError::UnknownOpcode(pong));
    assert_eq!(with(Header { status: 1, ..header }), RequestError::UnknownFlags(1));
    let frame = encoded_response(14, 1);
    let (header, body) = split(&frame);
    let with = |change: Header| decode_response(&change, body).unwrap_err();
    let unknown = with(Header { status: 999, ..header });
    assert!(matches!(unknown, ResponseError::UnknownCode { code: 999, .. }), "{unknown:?}");
    let ok = Header { status: 0, ..header };
    assert_eq!(with(ok), ResponseError::Status { status: 0, opcode: 0xFF });
    let ping = Header { opcode: Opcode::Ping as u8, ..header };
    assert_eq!(with(ping), ResponseError::UnknownOpcode(2));
}

#[test]
fn an_answer_that_breaks_a_limit_becomes_an_error() {
    let long = "x".repeat(300);
    let shards = vec![ShardAddress { shard: 0, address: long, first: 0, end: 1 }];
    let map = ClusterMap { epoch: 1, partitions: 1, shards };
    let holed = ClusterMap { epoch: 1, partitions: 2, shards: vec![] };
    for (map, expected) in [(map, ErrorCode::TooLarge), (holed, ErrorCode::InvalidArgument)] {
        let mut out = Vec::new();
        encode_response(&mut out, 5, &Response::ClusterMap(map));
        let (header, body) = split(&out);
        assert_eq!(header.correlation, 5);
        match decode_response(&header, body).unwrap() {
            Response::Error { code, .. } => assert_eq!(code, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_long_error_message_is_cut_between_characters() {
    let message = "環".repeat(1000);
    let mut out = Vec::new();
    let code = ErrorCode::Overloaded;
    encode_response(&mut out, 5, &Response::Error { code, detail: 3, message: &message });
    let (header, body) = split(&out);
    match decode_response(&header, body).unwrap() {
        Response::Error { message: cut, detail: 3, .. } => assert_eq!(cut, "環".repeat(341)),
        other => panic!("{other:?}"),
    }
}
