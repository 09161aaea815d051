//! The record cache: reads of what is here and what is not, and inserts into a full cache.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ironring_core::prng::Prng;
use ironring_log::cache::RecordCache;
use ironring_perf::keys::location;

const CAPACITY: usize = 64 << 20;
const RECORD_BYTES: usize = 512;

fn cache(c: &mut Criterion) {
    let mut group = c.benchmark_group("cache_64m_of_512b");
    let record = [7; RECORD_BYTES];
    let mut cache = RecordCache::new(CAPACITY);
    let mut next = 0;
    while cache.len() as u64 == next {
        cache.insert(location(next), &record);
        next += 1;
    }
    // The last insert evicted the first record: from 1 on all are here.
    let here = cache.len() as u64;
    let mut prng = Prng::new(3);
    group.bench_function("get_hit", |b| {
        b.iter(|| black_box(cache.get(location(1 + prng.below(here))).expect("it is here").len()));
    });
    group.bench_function("get_miss", |b| {
        b.iter(|| black_box(cache.get(location(1 << 30 | prng.below(1 << 20))).is_none()));
    });
    group.bench_function("insert_and_evict", |b| {
        b.iter(|| {
            next += 1;
            cache.insert(location(next), &record);
        });
    });
    group.finish();
}

criterion_group!(benches, cache);
criterion_main!(benches);
