//! The protocol between nodes: a frame of sections, made and read.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ironring_core::{Incarnation, Instant, Offset, PartitionId, StorageUuid, Term};
use ironring_net::peer::Output;
use ironring_net::peer::frame::Frame;
use ironring_net::peer::message::{LeaderId, Message, ReplicaId, Replicate};
use ironring_net::peer::output::Buffer;

const SECTIONS: u32 = 64;
const RECORDS_BYTES: usize = 1 << 10;

fn section(partition: u32, records: &[u8]) -> Replicate<'_> {
    let replica = |number| ReplicaId { storage: StorageUuid(number), life: 1 };
    Replicate {
        partition: PartitionId(partition),
        to: replica(2),
        from: LeaderId { replica: replica(1), incarnation: Incarnation(7) },
        term: Term(3),
        first: Offset(1000),
        prev_term: Term(3),
        count: 8,
        high_watermark: Offset(990),
        probe: Instant(1),
        answered: Instant(1),
        age_ms: 0,
        records,
    }
}

fn encode(output: &mut Output, records: &[u8]) {
    let mut frame = output.replicate().expect("the output is empty");
    for partition in 0..SECTIONS {
        frame.push(&section(partition, black_box(records)), []).expect("64 KiB fit");
    }
    frame.finish().expect("sections are right");
}

/// What a receiver does with each section before it appends it.
fn read(frame: &Frame<'_>) -> usize {
    let Ok(Message::Replicate(sections)) = black_box(frame).message() else {
        panic!("just encoded");
    };
    sections.iter().map(|section| black_box(section).records.len()).sum()
}

fn replicate(c: &mut Criterion) {
    let mut group = c.benchmark_group("peer_replicate_64_of_1k");
    let records = [7; RECORDS_BYTES];
    let mut output = Output::new(1 << 20);
    output.agree(1, u64::MAX);
    encode(&mut output, &records);
    let stream = output.bytes().to_vec();
    output.sent(stream.len());
    group.throughput(Throughput::Bytes(stream.len() as u64));
    group.bench_function("encode", |b| {
        b.iter(|| {
            encode(&mut output, &records);
            let len = output.bytes().len();
            output.sent(len);
        });
    });
    let mut aligned = Buffer::new();
    aligned.extend_from_slice(&stream);
    group.bench_function("checksums_and_read", |b| {
        b.iter(|| read(&Frame::parse(black_box(&aligned), 1).expect("just encoded")));
    });
    let frame = Frame::parse(&aligned, 1).expect("just encoded");
    group.bench_function("read", |b| b.iter(|| read(&frame)));
    group.finish();
}

criterion_group!(benches, replicate);
criterion_main!(benches);
