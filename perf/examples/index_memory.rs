//! What a key costs in memory: resident bytes per key besides the key itself, for key lengths and
//! insertion orders, next to what the index says of itself.
//!
//! `cargo run --release -p ironring-perf --example index_memory [keys per index] [indexes]`
//!
//! Resident memory is read from `/proc/self/status`. Each row's indexes stay alive until the end,
//! so that no row is built in memory that an earlier row gave back.

use std::time::Instant;

use ironring_log::index::KeyIndex;
use ironring_perf::keys::{entry, random_key, sequential_key};
use ironring_perf::resident_bytes;

/// Whose keys come in which order.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// Uniformly random bytes.
    Random,
    /// A counter, big endian, behind a constant prefix.
    Sequential,
    /// Random insertion into half-removed indexes: the long-run state under churn.
    Churned,
}

/// Key number `i` of index `index`, in `key`.
fn write_key(key: &mut [u8], order: Order, index: u64, i: u64) {
    match order {
        Order::Random | Order::Churned => random_key(key, index << 40 ^ i),
        Order::Sequential => sequential_key(key, i),
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<u64>().expect("a number"));
    let keys = arguments.next().unwrap_or(1_000_000);
    let indexes = arguments.next().unwrap_or(1);
    println!("{keys} keys in each of {indexes} indexes; bytes per key besides the key");
    println!(
        "{:>8} {:>10} {:>8} {:>9} {:>12}",
        "key len", "order", "resident", "accounted", "insert ns"
    );
    let mut alive: Vec<Vec<KeyIndex>> = Vec::new();
    for order in [Order::Random, Order::Sequential, Order::Churned] {
        for key_len in [8usize, 16, 32, 64] {
            let mut key = vec![0u8; key_len];
            let mut set: Vec<KeyIndex> = (0..indexes).map(|_| KeyIndex::new()).collect();
            let before = resident_bytes();
            let started = Instant::now();
            let mut inserts = 0u64;
            // Round robin: the way keys of a hash-partitioned node arrive.
            for i in 0..keys {
                for (n, index) in set.iter_mut().enumerate() {
                    write_key(&mut key, order, n as u64, i);
                    index.insert(&key, entry(i));
                    inserts += 1;
                }
            }
            if matches!(order, Order::Churned) {
                // Three times over: remove a random half, insert as many new keys.
                for round in 0..3u64 {
                    for i in 0..keys {
                        for (n, index) in set.iter_mut().enumerate() {
                            if (i ^ i >> 3) % 2 == round % 2 {
                                write_key(&mut key, order, n as u64 + round * indexes, i);
                                index.remove(&key);
                            }
                            write_key(&mut key, order, n as u64 + (round + 1) * indexes, i);
                            if index.len() < keys as usize {
                                index.insert(&key, entry(i));
                                inserts += 1;
                            }
                        }
                    }
                }
            }
            let elapsed = started.elapsed();
            let resident = resident_bytes() - before;
            let held: usize = set.iter().map(KeyIndex::len).sum();
            let accounted: usize = set.iter().map(KeyIndex::memory_bytes).sum();
            println!(
                "{key_len:>8} {:>10} {:>8.1} {:>9.1} {:>12.0}",
                format!("{order:?}"),
                resident as f64 / held as f64 - key_len as f64,
                accounted as f64 / held as f64 - key_len as f64,
                elapsed.as_nanos() as f64 / inserts as f64,
            );
            alive.push(set);
        }
    }
}
