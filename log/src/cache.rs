//! Whole encoded records in memory, bounded in bytes.
//!
//! The policy is S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi, "FIFO Queues are All You Need for Cache
//! Eviction", SOSP 2023): a small queue takes what is new, a main queue what was read more than
//! once while in the small one or was wanted again soon after it left it (a *ghost*). Records read
//! once pass through a tenth of the cache and do not touch the rest, so a scan or a bulk load
//! leaves the hot set alone. A hit changes one counter and no order.
//!
//! Invariants: each record is in one queue and in one hash chain; `bytes() <= capacity()` at all
//! times (a reallocation in progress excepted); the same calls give the same contents.
//!
//! Owned by one shard; never shared.

#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, BuildHasherDefault};

use ironring_core::SegmentId;
use ironring_core::hash::StableHasher;

use crate::allocation::block_bytes;
use crate::api::Location;

/// A record may take at most one part in this many of the capacity.
const LARGEST_SHARE: usize = 8;
/// The small queue's share of the capacity: one part in this many (the paper's 10%).
const SMALL_SHARE: usize = 10;
/// Reads are counted up to this.
const READS_MAX: u8 = 3;
/// A record leaves the small queue for the main one when it was read more than this many times.
const READS_TO_STAY: u8 = 1;
/// The slab grows by an eighth, at least by this many slots.
const SLOTS_STEP: usize = 64;
const BUCKETS_MIN: usize = 64;
/// No slot: the end of a chain or queue.
const NONE: u32 = u32::MAX;

/// A cache of encoded records by where they lie.
#[derive(Debug)]
pub struct RecordCache {
    capacity: usize,
    slots: Vec<Slot>,
    /// Free slots, chained.
    free: u32,
    len: usize,
    /// A power of two of them, or none.
    buckets: Vec<Bucket>,
    queues: [Queue; 2],
    /// Evictions from the small queue so far, modulo 2^32: the ghosts' clock.
    ghost_clock: u32,
    hits: u64,
    misses: u64,
}

/// What names a record: its location without the length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    segment: SegmentId,
    pos: u32,
}

impl From<Location> for Place {
    fn from(at: Location) -> Place {
        Place { segment: at.segment, pos: at.pos }
    }
}

impl Place {
    fn hash(self) -> u32 {
        BuildHasherDefault::<StableHasher>::default().hash_one(self) as u32
    }
}

#[derive(Debug)]
struct Slot {
    place: Place,
    record: Box<[u8]>,
    /// The next slot with the same bucket, or the next free slot.
    chain: u32,
    older: u32,
    newer: u32,
    reads: u8,
    queue: Which,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Which {
    Small = 0,
    Main = 1,
}

/// Head of a hash chain, and the last ghost that fell into this bucket.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    first: u32,
    ghost_hash: u32,
    ghost_time: u32,
}

/// A ghost time that is always too long ago: half of the clock's range behind it.
const LONG_AGO: u32 = 1 << 31;

#[derive(Debug)]
struct Queue {
    oldest: u32,
    newest: u32,
    /// Heap blocks of its records.
    record_bytes: usize,
}

impl Queue {
    const EMPTY: Queue = Queue { oldest: NONE, newest: NONE, record_bytes: 0 };
}

impl RecordCache {
    /// An empty cache that takes at most `capacity` bytes of memory, its own tables included.
    /// Nothing is allocated before the first insert. With 0 it stays empty.
    #[must_use]
    pub fn new(capacity: usize) -> RecordCache {
        RecordCache {
            capacity,
            slots: Vec::new(),
            free: NONE,
            len: 0,
            buckets: Vec::new(),
            queues: [Queue::EMPTY, Queue::EMPTY],
            ghost_clock: 0,
            hits: 0,
            misses: 0,
        }
    }

    /// The record at a location, if it is here; counts a hit or a miss. O(1).
    pub fn get(&mut self, at: Location) -> Option<&[u8]> {
        let Some(index) = self.find(at.into()) else {
            self.misses += 1;
            return None;
        };
        self.hits += 1;
        let slot = &mut self.slots[index as usize];
        slot.reads = (slot.reads + 1).min(READS_MAX);
        Some(&slot.record)
    }

    /// [`RecordCache::insert_parts`] for a record in one piece.
    pub fn insert(&mut self, at: Location, record: &[u8]) {
        self.insert_parts(at, &[record]);
    }

    /// Takes a copy of a record that lies in parts, one behind the other, and makes room for it by
    /// evicting others. A record that would take more than an eighth of the capacity is not taken,
    /// without a word: it would push out too much. O(1) on average and for each record evicted.
    pub fn insert_parts(&mut self, at: Location, parts: &[&[u8]]) {
        let place = Place::from(at);
        let record_bytes = parts.iter().map(|part| part.len()).sum();
        if let Some(index) = self.find(place) {
            let old = &mut self.slots[index as usize].record;
            if old.len() == record_bytes {
                let mut rest = &mut old[..];
                for part in parts {
                    let (place, behind) = rest.split_at_mut(part.len());
                    place.copy_from_slice(part);
                    rest = behind;
                }
                return;
            }
            self.drop_slot(index);
        }
        let cost = block_bytes(record_bytes);
        if cost > self.capacity / LARGEST_SHARE {
            return;
        }
        // An eviction leaves a free slot, so that the tables need not grow: the loop ends.
        while self.bytes() + cost + self.growth_bytes() > self.capacity {
            if !self.evict() {
                return;
            }
        }
        let hash = place.hash();
        let queue = if self.is_ghost(hash) { Which::Main } else { Which::Small };
        let index = self.take_slot(Slot {
            place,
            record: parts.concat().into_boxed_slice(),
            chain: NONE,
            older: NONE,
            newer: NONE,
            reads: 0,
            queue,
        });
        self.link(index, hash);
        self.push_newest(index, queue);
    }

    /// Forgets the record at a location. O(1).
    pub fn remove(&mut self, at: Location) {
        if let Some(index) = self.find(at.into()) {
            self.drop_slot(index);
        }
    }

    /// The record at `from` was relocated: from here on it is found at `to`, with its history.
    /// Nothing happens when it is not here. O(1).
    pub fn rekey(&mut self, from: Location, to: Location) {
        let (from, to) = (Place::from(from), Place::from(to));
        if from == to || self.find(from).is_none() {
            return;
        }
        if let Some(index) = self.find(to) {
            self.drop_slot(index);
        }
        let index = self.find(from).expect("it was found above, and only `to` was dropped");
        self.unlink(index);
        self.slots[index as usize].place = to;
        self.link(index, to.hash());
    }

    /// Changes the capacity. A smaller one is kept at once: records are evicted and the tables
    /// give their memory back, in O(n).
    pub fn set_capacity(&mut self, bytes: usize) {
        let shrinks = bytes < self.capacity;
        self.capacity = bytes;
        if !shrinks || self.bytes() <= bytes {
            return;
        }
        // Tables made for the records left take no more than the tables in use.
        while self.record_bytes() + tables_bytes(self.len, bucket_count(self.len)) > bytes {
            if !self.evict() {
                break;
            }
        }
        self.rebuild();
    }

    /// The most bytes of memory it may take.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes of heap memory in use: records and tables, free space and an estimate of the
    /// allocator's own share included. O(1).
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.record_bytes() + tables_bytes(self.slots.capacity(), self.buckets.len())
    }

    /// Number of records here.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no record is here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many [`RecordCache::get`] found their record, since the beginning.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits
    }

    /// How many [`RecordCache::get`] did not.
    #[must_use]
    pub fn misses(&self) -> u64 {
        self.misses
    }

    fn record_bytes(&self) -> usize {
        self.queues[0].record_bytes + self.queues[1].record_bytes
    }

    /// Evicts one record. False: there is none. Amortized O(1): each step back to the main queue
    /// was paid for by a read.
    fn evict(&mut self) -> bool {
        loop {
            let small = &self.queues[Which::Small as usize];
            let main = &self.queues[Which::Main as usize];
            let from_small = small.oldest != NONE
                && (small.record_bytes > self.capacity / SMALL_SHARE || main.oldest == NONE);
            let index = if from_small { small.oldest } else { main.oldest };
            let Some(slot) = self.slots.get(index as usize) else { return false };
            let (reads, hash) = (slot.reads, slot.place.hash());
            match from_small {
                true if reads > READS_TO_STAY => self.requeue(index, 0),
                false if reads > 0 => self.requeue(index, reads - 1),
                _ => {
                    if from_small {
                        self.remember_ghost(hash);
                    }
                    self.drop_slot(index);
                    return true;
                }
            }
        }
    }

    /// Makes a record the newest of the main queue.
    fn requeue(&mut self, index: u32, reads: u8) {
        self.unqueue(index);
        self.slots[index as usize].reads = reads;
        self.push_newest(index, Which::Main);
    }

    fn is_ghost(&self, hash: u32) -> bool {
        let Some(bucket) = self.buckets.get(self.bucket_of(hash)) else { return false };
        // As many ghosts as records: the rest left too long ago to matter.
        bucket.ghost_hash == hash
            && self.ghost_clock.wrapping_sub(bucket.ghost_time) as usize <= self.len
    }

    fn remember_ghost(&mut self, hash: u32) {
        self.ghost_clock = self.ghost_clock.wrapping_add(1);
        let bucket = self.bucket_of(hash);
        self.buckets[bucket].ghost_hash = hash;
        self.buckets[bucket].ghost_time = self.ghost_clock;
    }

    fn bucket_of(&self, hash: u32) -> usize {
        hash as usize & self.buckets.len().wrapping_sub(1)
    }

    fn find(&self, place: Place) -> Option<u32> {
        let mut index = self.buckets.get(self.bucket_of(place.hash()))?.first;
        while index != NONE {
            let slot = &self.slots[index as usize];
            if slot.place == place {
                return Some(index);
            }
            index = slot.chain;
        }
        None
    }

    fn link(&mut self, index: u32, hash: u32) {
        let bucket = self.bucket_of(hash);
        self.slots[index as usize].chain = self.buckets[bucket].first;
        self.buckets[bucket].first = index;
    }

    fn unlink(&mut self, index: u32) {
        let bucket = self.bucket_of(self.slots[index as usize].place.hash());
        let after = self.slots[index as usize].chain;
        if self.buckets[bucket].first == index {
            self.buckets[bucket].first = after;
            return;
        }
        let mut before = self.buckets[bucket].first;
        while self.slots[before as usize].chain != index {
            before = self.slots[before as usize].chain;
        }
        self.slots[before as usize].chain = after;
    }

    fn push_newest(&mut self, index: u32, which: Which) {
        let queue = &mut self.queues[which as usize];
        let older = std::mem::replace(&mut queue.newest, index);
        let slot = &mut self.slots[index as usize];
        (slot.older, slot.newer, slot.queue) = (older, NONE, which);
        queue.record_bytes += block_bytes(slot.record.len());
        match self.slots.get_mut(older as usize) {
            Some(older) => older.newer = index,
            None => queue.oldest = index,
        }
    }

    fn unqueue(&mut self, index: u32) {
        let Slot { older, newer, queue, .. } = self.slots[index as usize];
        let queue = &mut self.queues[queue as usize];
        queue.record_bytes -= block_bytes(self.slots[index as usize].record.len());
        match self.slots.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => queue.oldest = newer,
        }
        match self.slots.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => queue.newest = older,
        }
    }

    fn drop_slot(&mut self, index: u32) {
        self.unlink(index);
        self.unqueue(index);
        let slot = &mut self.slots[index as usize];
        slot.record = Box::default();
        slot.chain = self.free;
        self.free = index;
        self.len -= 1;
    }

    /// What the tables will grow by when one more record comes.
    fn growth_bytes(&self) -> usize {
        let (slots, buckets) = self.tables_for_one_more();
        tables_bytes(slots, buckets) - tables_bytes(self.slots.capacity(), self.buckets.len())
    }

    /// Slots and buckets to have room for, with one more record.
    fn tables_for_one_more(&self) -> (usize, usize) {
        let mut slots = self.slots.capacity();
        if self.free == NONE && self.slots.len() == slots {
            slots += (slots / 8).max(SLOTS_STEP);
        }
        (slots, self.buckets.len().max(bucket_count(self.len + 1)))
    }

    /// A slot with these contents, from the free ones or a new one.
    fn take_slot(&mut self, slot: Slot) -> u32 {
        let (slots, buckets) = self.tables_for_one_more();
        self.slots.reserve_exact(slots - self.slots.len());
        if buckets > self.buckets.len() {
            self.rehash(buckets);
        }
        self.len += 1;
        if self.free == NONE {
            self.slots.push(slot);
            return u32::try_from(self.slots.len() - 1).expect("memory ends before 2^32 records");
        }
        let index = self.free;
        self.free = self.slots[index as usize].chain;
        self.slots[index as usize] = slot;
        index
    }

    /// Makes a new bucket table; ghosts move along.
    fn rehash(&mut self, count: usize) {
        let ghost_time = self.ghost_clock.wrapping_sub(LONG_AGO);
        let empty = Bucket { first: NONE, ghost_hash: 0, ghost_time };
        let old = std::mem::replace(&mut self.buckets, vec![empty; count]);
        for ghost in old {
            if self.buckets.is_empty() {
                break;
            }
            let bucket = self.bucket_of(ghost.ghost_hash);
            let age = |bucket: &Bucket| self.ghost_clock.wrapping_sub(bucket.ghost_time);
            if age(&ghost) < age(&self.buckets[bucket]) {
                self.buckets[bucket] = Bucket { first: NONE, ..ghost };
            }
        }
        for which in 0..self.queues.len() {
            let mut index = self.queues[which].oldest;
            while index != NONE {
                let Slot { place, newer, .. } = self.slots[index as usize];
                self.link(index, place.hash());
                index = newer;
            }
        }
    }

    /// Moves all records to tables of just the size.
    fn rebuild(&mut self) {
        let mut old = std::mem::take(&mut self.slots);
        let queues = std::mem::replace(&mut self.queues, [Queue::EMPTY, Queue::EMPTY]);
        self.slots.reserve_exact(self.len);
        self.free = NONE;
        for queue in queues {
            let mut next = queue.oldest;
            while next != NONE {
                let slot = &mut old[next as usize];
                let which = slot.queue;
                next = slot.newer;
                let index = self.slots.len() as u32;
                self.slots.push(Slot { record: std::mem::take(&mut slot.record), ..*slot });
                self.push_newest(index, which);
            }
        }
        self.rehash(bucket_count(self.len));
    }
}

/// Buckets for this many records: a power of two, half to all of them in use.
fn bucket_count(records: usize) -> usize {
    if records == 0 { 0 } else { records.next_power_of_two().max(BUCKETS_MIN) }
}

fn tables_bytes(slots: usize, buckets: usize) -> usize {
    block_bytes(slots * size_of::<Slot>()) + block_bytes(buckets * size_of::<Bucket>())
}
