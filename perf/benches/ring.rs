//! From a key to its partition: what every request pays before anything else.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ironring_core::Token;
use ironring_perf::keys::random_key;

fn partition_of_key(c: &mut Criterion) {
    let mut group = c.benchmark_group("partition_of_key");
    for key_bytes in [16, 64, 1024] {
        let mut key = vec![0; key_bytes];
        random_key(&mut key, 1);
        group.bench_with_input(BenchmarkId::from_parameter(key_bytes), &key, |b, key| {
            b.iter(|| Token::of_key(black_box(key)).partition(256));
        });
    }
    group.finish();
}

criterion_group!(benches, partition_of_key);
criterion_main!(benches);
