//! The promise of the key index: at most 48 bytes per key besides the key, by the kernel's count.
//!
//! A file of its own with a single test, because resident memory belongs to a process.

use ironring_core::prng::Prng;
use ironring_core::{Offset, SegmentId, WallTime};
use ironring_log::Location;
use ironring_log::index::{Entry, KeyIndex};

/// The node's allocator: what a block really takes is its rule.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const KEYS: u64 = 150_000;
const PROMISED_BYTES_PER_KEY: f64 = 48.0;

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has /proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a VmRSS line");
    let kib: usize = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    kib * 1024
}

/// Location, version and expiry of the sizes a full node has, every second key with an expiry.
fn entry(i: u64) -> Entry {
    Entry {
        location: Location {
            segment: SegmentId(1_000_000 + (i >> 10) as u32),
            pos: (i << 12) as u32,
            len: 4_000,
        },
        version: Offset(5_000_000_000 + i),
        expires: WallTime(i % 2 * 1_900_000_000_000),
        flags: 0,
    }
}

#[test]
fn a_key_costs_at_most_48_bytes_besides_itself() {
    // Kept to the end: memory that a case gives back would hide what the next one takes.
    let mut alive = Vec::new();
    for sequential in [false, true] {
        for key_bytes in [8, 16, 32, 64] {
            let mut index = KeyIndex::new();
            let mut key = vec![b'k'; key_bytes];
            let before = resident_bytes();
            for i in 0..KEYS {
                if sequential {
                    key[key_bytes - 8..].copy_from_slice(&i.to_be_bytes());
                } else {
                    Prng::new(i).fill(&mut key);
                }
                index.insert(&key, entry(i));
            }
            let resident = resident_bytes() - before;
            assert_eq!(index.len() as u64, KEYS);
            let per_key = resident as f64 / KEYS as f64 - key_bytes as f64;
            println!("{key_bytes} byte keys, sequential {sequential}: {per_key:.1} B besides");
            assert!(per_key <= PROMISED_BYTES_PER_KEY, "{per_key:.1} bytes besides the key");
            let accounted = index.memory_bytes() as f64 / resident as f64;
            assert!((0.9..1.1).contains(&accounted), "accounts for {accounted:.2} of resident");
            alive.push(index);
        }
    }
}
