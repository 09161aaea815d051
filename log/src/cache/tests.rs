use std::collections::BTreeMap;

use ironring_core::prng::Prng;

use super::*;

fn at(number: u64) -> Location {
    Location { segment: SegmentId((number >> 16) as u32), pos: number as u32 & 0xFFFF, len: 0 }
}

fn record(number: u64, version: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Prng::new(number << 8 ^ version).fill(&mut bytes);
    bytes
}

/// Walks slots, chains, free slots and regions, and recomputes what is accounted. O(n).
fn check(cache: &RecordCache) {
    assert!(cache.bytes() <= cache.capacity(), "{} of {}", cache.bytes(), cache.capacity());
    let mut queued_bytes = [0; Queue::ALL.len()];
    let used = cache.slots.iter().enumerate().filter(|(_, slot)| slot.used);
    let mut owned = Vec::new();
    for (index, slot) in used {
        assert_eq!(cache.find(slot.place), Some(index as u32), "a record is found");
        queued_bytes[slot.queue as usize] += stride(slot.record_bytes as usize);
        owned.push((slot.queue, index as u32, slot.spot, slot.record_bytes as usize));
    }
    assert_eq!(owned.len(), cache.len());
    for queue in Queue::ALL {
        assert_eq!(cache.arena.queued_bytes(queue), queued_bytes[queue as usize]);
    }
    cache.arena.check(owned);
    let mut chained = 0;
    for bucket in &cache.buckets {
        let mut index = bucket.first;
        while index != NONE {
            chained += 1;
            index = cache.slots[index as usize].chain;
        }
    }
    assert_eq!(chained, cache.len(), "chains hold the records here and nothing else");
    let (mut free, mut index) = (0, cache.free);
    while index != NONE {
        assert!(!cache.slots[index as usize].used);
        free += 1;
        index = cache.slots[index as usize].chain;
    }
    assert_eq!(free + cache.len(), cache.slots.len());
}

/// Runs random calls against a model of what may be in the cache, and returns a trace.
fn run(seed: u64) -> Vec<u64> {
    let mut prng = Prng::new(seed);
    let mut cache = RecordCache::new(100_000);
    // The newest bytes of each place: what is found must be these.
    let mut newest: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut trace = Vec::new();
    for step in 0..20_000 {
        // Squared, so that low numbers are hot.
        let number = (prng.below(1 << 20) * prng.below(1 << 20)) >> 30;
        match prng.below(100) {
            0..60 => {
                let expected = newest.get(&number);
                if let Some(found) = cache.get(at(number)) {
                    assert_eq!(Some(&found.to_vec()), expected, "step {step}");
                } else if prng.chance(3, 4) {
                    let len = prng.below(600) as usize
                        * (1 + 30 * u64::from(prng.chance(1, 50))) as usize;
                    let bytes = record(number, step, len);
                    cache.insert(at(number), &bytes);
                    newest.insert(number, bytes);
                }
            }
            60..75 => {
                let bytes = record(number, step, prng.below(4) as usize * 100);
                let (front, back) = bytes.split_at(prng.below(bytes.len() as u64 + 1) as usize);
                cache.insert_parts(at(number), &[front, back]);
                newest.insert(number, bytes);
            }
            75..85 => {
                cache.remove(at(number));
                assert!(cache.find(at(number).into()).is_none());
                newest.remove(&number);
            }
            85..90 => {
                let new = 1 << 22 | step;
                let bytes = record(new, step, prng.below(4) as usize * 100);
                cache.insert_in_place_of(at(number), at(new), &[&bytes]);
                assert!(cache.find(at(number).into()).is_none(), "step {step}");
                newest.remove(&number);
                assert_eq!(cache.get(at(new)).is_some(), cache.find(at(new).into()).is_some());
                newest.insert(new, bytes);
                // It goes on as one of those that are asked for.
                cache.remove(at(number ^ 1));
                newest.remove(&(number ^ 1));
                cache.rekey(at(new), at(number ^ 1));
                let bytes = newest.remove(&new).expect("just put there");
                newest.insert(number ^ 1, bytes);
            }
            90..99 => {
                let to = prng.below(1 << 12);
                let moved = cache.find(at(number).into()).is_some();
                cache.rekey(at(number), at(to));
                if moved && to != number {
                    assert!(cache.find(at(number).into()).is_none());
                    assert!(cache.find(at(to).into()).is_some());
                    let bytes = newest.remove(&number).expect("only what was inserted is cached");
                    newest.insert(to, bytes);
                }
            }
            _ => cache.set_capacity([0, 5_000, 30_000, 100_000, 300_000][prng.below(5) as usize]),
        }
        assert!(cache.bytes() <= cache.capacity());
        if step % 50 == 0 {
            check(&cache);
        }
        trace.extend([cache.bytes() as u64, cache.hits(), cache.misses(), cache.len() as u64]);
    }
    trace
}

#[test]
fn finds_only_the_newest_bytes_and_keeps_its_bound() {
    (0..8).for_each(|seed| drop(run(seed)));
}

#[test]
fn the_same_calls_give_the_same_contents() {
    assert_eq!(run(99), run(99));
}

#[test]
fn a_scan_leaves_the_hot_set_alone() {
    let mut cache = RecordCache::new(1 << 20);
    let hot = 0..1_000u64;
    for number in hot.clone() {
        cache.insert(at(number), &record(number, 0, 400));
    }
    for number in hot.clone().chain(hot.clone()) {
        assert!(cache.get(at(number)).is_some());
    }
    // Twenty times the capacity passes by, and the hot records are not read meanwhile.
    for number in 1_000_000..1_050_000 {
        cache.insert(at(number), &record(number, 0, 400));
    }
    check(&cache);
    for number in hot {
        assert_eq!(cache.get(at(number)), Some(&record(number, 0, 400)[..]));
    }
}

#[test]
fn records_that_move_to_the_main_queue_arrive_there() {
    let mut cache = RecordCache::new(1 << 20);
    // Full before the first hot record comes, and full all the time after it.
    for number in 1_000_000..1_010_000 {
        cache.insert(at(number), &record(number, 0, 400));
    }
    for hot in 0..1_500 {
        cache.insert(at(hot), &record(hot, 0, 400));
        assert!(cache.get(at(hot)).is_some() && cache.get(at(hot)).is_some());
        for number in 0..10 {
            cache.insert(at(2_000_000 + hot * 10 + number), &record(number, 0, 400));
        }
    }
    check(&cache);
    // 600 KB of hot records: less than the main queue's share.
    for hot in 0..1_500 {
        assert!(cache.get(at(hot)).is_some(), "hot record {hot} was lost");
    }
}

#[test]
fn a_record_wanted_again_soon_after_it_left_goes_to_the_main_queue() {
    let mut cache = RecordCache::new(100_000);
    cache.insert(at(1), &[1; 400]);
    let mut number = 1_000;
    while cache.find(at(1).into()).is_some() {
        cache.insert(at(number), &[2; 400]);
        number += 1;
    }
    cache.insert(at(1), &[1; 400]);
    let again = cache.find(at(1).into()).expect("just inserted");
    assert_eq!(cache.slots[again as usize].queue, Queue::Main);
    // One that left long ago is new again.
    cache.remove(at(1));
    for number in 2_000..4_000 {
        cache.insert(at(number), &[2; 400]);
    }
    cache.insert(at(1), &[1; 400]);
    let again = cache.find(at(1).into()).expect("just inserted");
    assert_eq!(cache.slots[again as usize].queue, Queue::Small);
}

#[test]
fn a_record_above_an_eighth_is_refused() {
    let mut cache = RecordCache::new(80_000);
    cache.insert(at(1), &[0; 20_000]);
    assert!(cache.is_empty());
    assert_eq!(cache.bytes(), 0);
    cache.insert(at(1), &[0; 9_000]);
    assert_eq!(cache.len(), 1);
    // A new value that is too large takes the old one's place: nothing stale stays.
    cache.insert(at(1), &[0; 20_000]);
    assert!(cache.get(at(1)).is_none());
    assert_eq!((cache.hits(), cache.misses()), (0, 1));
}

#[test]
fn shrinking_gives_memory_back_at_once() {
    let mut cache = RecordCache::new(4 << 20);
    for number in 0..20_000 {
        cache.insert(at(number), &[0; 100]);
    }
    assert!(cache.len() > 15_000, "{} records", cache.len());
    cache.set_capacity(1 << 20);
    check(&cache);
    assert!(cache.len() > 3_500, "{} records are left", cache.len());
    cache.set_capacity(0);
    check(&cache);
    assert_eq!((cache.len(), cache.bytes(), cache.slots.capacity()), (0, 0, 0));
    cache.insert(at(1), &[]);
    assert!(cache.get(at(1)).is_none());
    cache.set_capacity(1 << 20);
    cache.insert(at(1), &[7; 9]);
    assert_eq!(cache.get(at(1)), Some(&[7; 9][..]));
}

#[test]
fn a_cache_that_shrinks_keeps_its_small_records() {
    let mut cache = RecordCache::new(32 << 20);
    // The large queue takes all it may, 3.2 MB, which is more than the smaller cache will have.
    for number in 100_000..100_200 {
        cache.insert(at(number), &record(number, 0, 200_000));
    }
    let small = 0..4_000u64;
    for number in small.clone() {
        cache.insert(at(number), &record(number, 0, 400));
    }
    cache.set_capacity(3 << 20);
    check(&cache);
    let hits = small.filter(|number| cache.get(at(*number)).is_some()).count();
    assert_eq!(hits, 4_000, "1.6 MB of small records fit 3 MB");
}

#[test]
fn small_records_fill_a_cache_that_was_full_of_large_ones() {
    let mut cache = RecordCache::new(1 << 20);
    for number in 0..100 {
        cache.insert(at(number), &[0; 60_000]);
    }
    for number in 1_000..20_000 {
        cache.insert(at(number), &[0; 100]);
    }
    check(&cache);
    assert!(cache.len() > 5_000, "{} records", cache.len());
    assert!(cache.bytes() > cache.capacity() / 10 * 9);
}

#[test]
fn a_stream_of_large_records_takes_little_memory_and_keeps_what_is_read() {
    let capacity = 4 << 20;
    let mut cache = RecordCache::new(capacity);
    for number in 0..1_000 {
        cache.insert(at(number), &record(number, 0, 400));
    }
    cache.insert(at(5_000), &record(5_000, 0, 40_000));
    assert!(cache.get(at(5_000)).is_some() && cache.get(at(5_000)).is_some());
    for number in 10_000..10_300 {
        cache.insert(at(number), &record(number, 0, 40_000));
        assert!(cache.get(at(number)).is_some(), "the end of the stream is here");
        check(&cache);
    }
    assert!(cache.arena.queued_bytes(Queue::Large) <= capacity / SMALL_SHARE);
    assert!(cache.bytes() < capacity / 3, "{} bytes for a tenth", cache.bytes());
    assert!(cache.get(at(10_000)).is_none(), "the beginning is gone, though there is room");
    assert!(cache.get(at(5_000)).is_some(), "what was read twice moved on");
    assert!((0..1_000).all(|number| cache.get(at(number)).is_some()), "small ones stay");
}

#[test]
fn a_large_record_counts_as_the_block_it_takes() {
    let mut cache = RecordCache::new(64 << 20);
    for number in 0..20 {
        // jemalloc's next size is 320 KiB.
        cache.insert(at(number), &record(number, 0, (256 << 10) + 100));
    }
    assert_eq!(cache.len(), 20);
    assert!(cache.bytes() >= 20 * (320 << 10), "{} bytes", cache.bytes());
    check(&cache);
}

#[test]
fn what_takes_the_place_of_another_takes_its_memory() {
    let mut cache = RecordCache::new(100_000);
    for number in 0..40 {
        cache.insert(at(number), &[1; 100]);
    }
    let bytes = cache.bytes();
    for number in 0..40 {
        cache.insert_in_place_of(at(number), at(100 + number), &[&[2; 60], &[3; 40]]);
        let found = cache.get(at(100 + number)).expect("it is as long as the other");
        assert_eq!((&found[..60], &found[60..]), (&[2; 60][..], &[3; 40][..]));
        assert!(cache.get(at(number)).is_none());
    }
    assert_eq!((cache.bytes(), cache.len()), (bytes, 40));
    cache.insert_in_place_of(at(100), at(200), &[&[4; 50]]);
    assert!(cache.get(at(100)).is_none(), "of another length: its memory is free");
    assert_eq!(cache.get(at(200)), Some(&[4; 50][..]));
    cache.insert_in_place_of(at(999), at(201), &[&[5; 50]]);
    assert_eq!(cache.get(at(201)), Some(&[5; 50][..]));
    assert_eq!(cache.len(), 41);
}

#[test]
fn a_relocated_record_keeps_its_history() {
    let mut cache = RecordCache::new(100_000);
    cache.insert(at(1), &[1; 100]);
    assert!(cache.get(at(1)).is_some() && cache.get(at(1)).is_some());
    cache.rekey(at(1), at(2));
    cache.rekey(at(2), at(2));
    cache.rekey(at(77), at(2));
    for number in 1_000..3_000 {
        cache.insert(at(number), &[2; 400]);
    }
    assert!(cache.get(at(1)).is_none());
    assert_eq!(cache.get(at(2)), Some(&[1; 100][..]), "read twice, so it outlives the others");
}
