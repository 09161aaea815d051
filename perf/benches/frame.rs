//! The client protocol: frames of the two hottest exchanges, made and read.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ironring_core::{Durability, Offset, SessionId, WallTime};
use ironring_net::frame::HEADER_BYTES;
use ironring_net::message::{Condition, Request, Response, ValueRef, WriteOptions};
use ironring_net::{
    decode_header, decode_request, decode_response, encode_request, encode_response,
};

const KEY: &[u8] = b"user:000123:cart";

fn requests(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame_put");
    for value_bytes in [100, 1 << 10, 16 << 10] {
        let value = vec![7; value_bytes];
        let request = Request::Put {
            options: WriteOptions {
                durability: Durability::Quorum,
                session: SessionId(5),
                sequence: 77,
            },
            condition: Condition::None,
            ttl_ms: 0,
            key: KEY,
            value: &value,
        };
        let mut frame = Vec::new();
        encode_request(&mut frame, 1, 1_000, &request).expect("within the limits");
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_with_input(BenchmarkId::new("encode", value_bytes), &request, |b, request| {
            let mut out = Vec::with_capacity(frame.len());
            b.iter(|| {
                out.clear();
                encode_request(&mut out, 1, 1_000, black_box(request)).expect("within the limits");
            });
        });
        group.bench_with_input(BenchmarkId::new("decode", value_bytes), &frame, |b, frame| {
            b.iter(|| {
                let header = decode_header(black_box(frame)).expect("just encoded");
                let request = decode_request(&header, &frame[HEADER_BYTES..]);
                assert!(matches!(request, Ok(Request::Put { .. })));
            });
        });
    }
    group.finish();
}

fn responses(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame_value");
    for value_bytes in [100, 1 << 10, 16 << 10] {
        let value = vec![7; value_bytes];
        let response = Response::Value(ValueRef {
            version: Offset(9),
            time: WallTime(1_700_000_000_000),
            expires: WallTime(0),
            value: &value,
        });
        let mut frame = Vec::new();
        encode_response(&mut frame, 1, &response);
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_with_input(
            BenchmarkId::new("encode", value_bytes),
            &response,
            |b, response| {
                let mut out = Vec::with_capacity(frame.len());
                b.iter(|| {
                    out.clear();
                    encode_response(&mut out, 1, black_box(response));
                });
            },
        );
        group.bench_with_input(BenchmarkId::new("decode", value_bytes), &frame, |b, frame| {
            b.iter(|| {
                let header = decode_header(black_box(frame)).expect("just encoded");
                let response = decode_response(&header, &frame[HEADER_BYTES..]);
                assert!(matches!(response, Ok(Response::Value(_))));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, requests, responses);
criterion_main!(benches);
