//! The key index: point operations on one index of a million keys, and over many indexes.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ironring_core::prng::Prng;
use ironring_log::index::KeyIndex;
use ironring_perf::keys::{entry, random_key, sequential_key};

const KEYS: u64 = 1_000_000;
const KEY_BYTES: usize = 16;

fn filled(first: u64, keys: u64) -> KeyIndex {
    let mut index = KeyIndex::new();
    let mut key = [0; KEY_BYTES];
    for number in first..first + keys {
        random_key(&mut key, number);
        index.insert(&key, entry(number));
    }
    index
}

/// Times include drawing a number and making its key, which `key_alone` measures.
fn one_index(c: &mut Criterion) {
    let mut group = c.benchmark_group("index_1m");
    let mut index = filled(0, KEYS);
    let mut prng = Prng::new(1);
    let mut key = [0; KEY_BYTES];
    group.bench_function("key_alone", |b| {
        b.iter(|| {
            random_key(&mut key, prng.below(KEYS));
            black_box(&key);
        });
    });
    group.bench_function("get_hit", |b| {
        b.iter(|| {
            random_key(&mut key, prng.below(KEYS));
            black_box(index.get(&key))
        });
    });
    group.bench_function("get_miss", |b| {
        b.iter(|| {
            random_key(&mut key, KEYS + prng.below(KEYS));
            black_box(index.get(&key))
        });
    });
    group.bench_function("overwrite", |b| {
        b.iter(|| {
            let number = prng.below(KEYS);
            random_key(&mut key, number);
            black_box(index.insert(&key, entry(number + 1)))
        });
    });
    group.bench_function("scan_100", |b| {
        b.iter(|| {
            random_key(&mut key, prng.below(KEYS));
            index
                .range_after(Some(&key))
                .take(100)
                .fold(0, |sum, (key, entry)| sum + key.len() as u64 + entry.version.0)
        });
    });
    // Keeps the size: the oldest key goes, a new one comes.
    let mut oldest = 0;
    group.bench_function("remove_and_insert", |b| {
        b.iter(|| {
            random_key(&mut key, oldest);
            index.remove(&key);
            random_key(&mut key, oldest + KEYS);
            index.insert(&key, entry(oldest));
            oldest += 1;
        });
    });
    group.finish();
}

/// Each lookup in another index, as on a shard: most of the path is in no cache.
fn many_indexes(c: &mut Criterion) {
    const INDEXES: u64 = 64;
    const EACH: u64 = 100_000;
    let mut group = c.benchmark_group("index_64x100k");
    let set: Vec<KeyIndex> = (0..INDEXES).map(|i| filled(i * EACH, EACH)).collect();
    let mut prng = Prng::new(2);
    let mut key = [0; KEY_BYTES];
    group.bench_function("get_hit", |b| {
        b.iter(|| {
            let number = prng.below(INDEXES * EACH);
            random_key(&mut key, number);
            black_box(set[(number / EACH) as usize].get(&key))
        });
    });
    group.finish();
}

fn build(c: &mut Criterion) {
    const BUILT: u64 = 100_000;
    let mut group = c.benchmark_group("index_build_100k");
    group.throughput(Throughput::Elements(BUILT)).sample_size(20);
    for (name, write_key) in
        [("random", random_key as fn(&mut [u8], u64)), ("sequential", sequential_key)]
    {
        group.bench_function(name, |b| {
            b.iter_batched(
                KeyIndex::new,
                |mut index| {
                    let mut key = [0; KEY_BYTES];
                    for number in 0..BUILT {
                        write_key(&mut key, number);
                        index.insert(&key, entry(number));
                    }
                    index
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, one_index, many_indexes, build);
criterion_main!(benches);
