//! The shard log without a device: what sealing a group and recovering a log cost the processor.
//!
//! The disk is memory and answers at once; its one copy of what is written or read is included,
//! and so is, in recovery, preparing the segments the log keeps in reserve.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ironring_log::LogConfig;
use ironring_perf::keys::random_key;
use ironring_perf::memory_disk::MemoryDisk;
use ironring_perf::solo_log::{SoloLog, put};

const BODY: [u8; 1024] = [7; 1024];

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 16 << 20,
        // No checkpoint: recovery reads all of it.
        checkpoint_interval_bytes: 1 << 40,
        ..LogConfig::default()
    }
}

/// Appends `records` records of 1 KiB from `offset` on and commits them as one group.
fn commit_group(log: &mut SoloLog, offset: u64, records: u64) {
    let mut key = [0; 16];
    for offset in offset..offset + records {
        random_key(&mut key, offset);
        log.append(&put(offset, &key, &BODY));
    }
    log.commit();
}

fn seal(c: &mut Criterion) {
    let mut group = c.benchmark_group("log_commit_1k_records");
    for records in [1, 16, 256] {
        let groups = 2048 / records;
        group.throughput(Throughput::Elements(records * groups)).sample_size(20);
        group.bench_function(BenchmarkId::new("per_group", records), |b| {
            b.iter_batched(
                || SoloLog::open(config(), MemoryDisk::default()),
                |mut log| {
                    for n in 0..groups {
                        commit_group(&mut log, 1 + n * records, records);
                    }
                    assert_eq!(log.counts().flushed, records * groups);
                    log
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn recovery(c: &mut Criterion) {
    const GROUPS: u64 = 1_000;
    const RECORDS: u64 = 64;
    let mut log = SoloLog::open(config(), MemoryDisk::default());
    for n in 0..GROUPS {
        commit_group(&mut log, 1 + n * RECORDS, RECORDS);
    }
    let disk = log.into_disk();
    let mut group = c.benchmark_group("log_recovery_64_mib");
    group.throughput(Throughput::Bytes(GROUPS * RECORDS * BODY.len() as u64)).sample_size(10);
    group.bench_function("scan", |b| {
        b.iter_batched(
            || disk.clone(),
            |disk| {
                let log = SoloLog::open(config(), disk);
                assert_eq!(log.counts().replayed, GROUPS * RECORDS);
                log
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, seal, recovery);
criterion_main!(benches);
