//! Whether the record cache's bound holds in resident memory: records of mixed sizes come and go,
//! and what the allocator cannot reuse between them shows as a difference.
//!
//! `cargo run --release -p ironring-perf --example cache_memory [capacity in MiB]`

use ironring_core::prng::Prng;
use ironring_log::cache::RecordCache;
use ironring_perf::keys::location;
use ironring_perf::resident_bytes;

fn main() {
    let mib = std::env::args().nth(1).map_or(256, |a| a.parse::<usize>().expect("a number"));
    let record = vec![7; 32 << 10];
    let before = resident_bytes();
    let mut cache = RecordCache::new(mib << 20);
    let mut prng = Prng::new(1);
    let mut next = 0;
    println!("capacity {mib} MiB");
    println!(
        "{:>22} {:>9} {:>13} {:>13} {:>8}",
        "record bytes", "records", "accounted MiB", "resident MiB", "ratio"
    );
    for (low, high) in
        [(64usize, 512u32), (64, 32 << 10), (4 << 10, 8 << 10), (64, 512), (64, 32 << 10)]
    {
        // Enough to replace the contents several times over.
        let mut inserted = 0;
        while inserted < 6 * (mib << 20) {
            // Log-uniform: as many records from 64 to 128 bytes as from 16 to 32 KiB.
            let doublings = u64::from((high / low as u32).ilog2());
            let base = low << prng.below(doublings.max(1));
            let len = base + prng.below(base as u64) as usize;
            cache.insert(location(next), &record[..len]);
            // A tenth is read again and moves to the main queue, which mixes life times.
            if prng.chance(1, 10) {
                let again = location(next - prng.below(next.min(1_000) + 1));
                cache.get(again);
                cache.get(again);
            }
            next += 1;
            inserted += len;
        }
        let (accounted, resident) = (cache.bytes(), resident_bytes() - before);
        println!(
            "{:>22} {:>9} {:>13} {:>13} {:>8.3}",
            format!("{low} to {high}"),
            cache.len(),
            accounted >> 20,
            resident >> 20,
            resident as f64 / accounted as f64,
        );
    }
    cache.set_capacity(0);
    println!("after set_capacity(0): {} MiB resident", (resident_bytes() - before) >> 20);
}
