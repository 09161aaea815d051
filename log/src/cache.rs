//! Whole encoded records in memory, bounded in bytes.
//!
//! The policy is S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi, "FIFO Queues are All You Need for Cache
//! Eviction", SOSP 2023): a small queue takes what is new, a main queue what was read more than
//! once while in the small one or was wanted again soon after it left it (a *ghost*). Records read
//! once pass through a tenth of the cache and do not touch the rest, so a scan or a bulk load
//! leaves the hot set alone. A hit changes one counter and no order.
//!
//! Large records (topic batches, chunks of large values) that are new have a queue of their own,
//! which is kept short even while there is room: whoever follows a topic reads its end from memory,
//! and a stream of appends goes through the same memory again and again. (Measured: touching new
//! memory for every appended byte cost three times as much as all the rest of the append.)
//!
//! Records lie in regions of memory (`arena`) in the order of their queue, so that the bound holds
//! for the process and not only for our own count, whatever sizes come.
//!
//! Invariants: each record is in one queue and in one hash chain; `bytes() <= capacity()` at all
//! times (a reallocation of a table in progress excepted); the same calls give the same contents.
//!
//! Owned by one shard; never shared.

mod arena;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, BuildHasherDefault};

use ironring_core::SegmentId;
use ironring_core::hash::StableHasher;

use crate::allocation::{SLAB_BLOCK_BYTES_MAX, block_bytes, size_class};
use crate::api::Location;
use arena::{Arena, CopyFromParts, NOWHERE, Queue, Spot, stride};

/// A record may take at most one part in this many of the capacity.
const LARGEST_SHARE: usize = 8;
/// The small queue's share of the capacity: one part in this many (the paper's 10%).
const SMALL_SHARE: usize = 10;
/// The large queue takes at most this, and at most as much as the small one.
const LARGE_BYTES_MAX: usize = 64 << 20;
/// Reads are counted up to this.
const READS_MAX: u8 = 3;
/// A record leaves the small queue for the main one when it was read more than this many times.
const READS_TO_STAY: u8 = 1;
/// Regions are about one part in this many of the capacity, within these bounds.
const REGION_SHARE: usize = 64;
const REGION_BYTES_MIN: usize = 4 << 10;
const REGION_BYTES_MAX: usize = 1 << 20;
/// A region is a block of the allocator's slabs or at least this long.
const PAGED_REGION_BYTES_MIN: usize = 64 << 10;
/// Regions kept free for records that move to the main queue while others are evicted.
const RESERVE_REGIONS: usize = 2;
/// The slots grow by an eighth, at least by this many slots.
const SLOTS_STEP: usize = 64;
const BUCKETS_MIN: usize = 64;
/// No slot: the end of a chain or queue.
const NONE: u32 = u32::MAX;

/// A cache of encoded records by where they lie.
#[derive(Debug)]
pub struct RecordCache {
    capacity: usize,
    arena: Arena,
    slots: Vec<Slot>,
    /// Free slots, chained.
    free: u32,
    len: usize,
    /// A power of two of them, or none.
    buckets: Vec<Bucket>,
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

/// A record here, or a free slot.
#[derive(Clone, Copy, Debug)]
struct Slot {
    place: Place,
    spot: Spot,
    record_bytes: u32,
    /// The next slot with the same bucket, or the next free slot.
    chain: u32,
    queue: Queue,
    reads: u8,
    used: bool,
}

impl Slot {
    const FREE: Slot = Slot {
        place: Place { segment: SegmentId(0), pos: 0 },
        spot: NOWHERE,
        record_bytes: 0,
        chain: NONE,
        queue: Queue::Small,
        reads: 0,
        used: false,
    };
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

impl RecordCache {
    /// An empty cache that takes at most `capacity` bytes of memory, its own tables included.
    /// Nothing is allocated before the first insert. With 0 it stays empty.
    #[must_use]
    pub fn new(capacity: usize) -> RecordCache {
        RecordCache {
            capacity,
            arena: Arena::new(region_bytes(capacity)),
            slots: Vec::new(),
            free: NONE,
            len: 0,
            buckets: Vec::new(),
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
        Some(self.arena.record(slot.spot, slot.record_bytes as usize))
    }

    /// [`RecordCache::insert_parts`] for a record in one piece.
    pub fn insert(&mut self, at: Location, record: &[u8]) {
        self.insert_parts(at, &[record]);
    }

    /// Takes a copy of a record that lies in parts, one behind the other, and makes room for it by
    /// evicting others. A record that would take more than an eighth of the capacity is not taken,
    /// without a word: it would push out too much. O(1) on average, besides the copy.
    pub fn insert_parts(&mut self, at: Location, parts: &[&[u8]]) {
        let place = Place::from(at);
        let len = parts.iter().map(|part| part.len()).sum();
        if let Some(index) = self.find(place) {
            let Slot { spot, record_bytes, .. } = self.slots[index as usize];
            if record_bytes as usize == len {
                self.arena.record_mut(spot, len).copy_from_parts(parts);
                return;
            }
            self.drop_slot(index);
        }
        self.insert_new(place, parts, len);
    }

    /// [`RecordCache::insert_parts`] for a record that is not here, in place of one that is needed no
    /// more: it takes over its memory and history when it is as long. O(1), besides the copy.
    pub fn insert_in_place_of(&mut self, old: Location, at: Location, parts: &[&[u8]]) {
        let place = Place::from(at);
        debug_assert!(self.find(place).is_none(), "a record that is new lies nowhere yet");
        let len = parts.iter().map(|part| part.len()).sum();
        if let Some(index) = self.find(old.into()) {
            let Slot { spot, record_bytes, .. } = self.slots[index as usize];
            if record_bytes as usize == len {
                self.unlink(index);
                self.slots[index as usize].place = place;
                self.link(index, place.hash());
                self.arena.record_mut(spot, len).copy_from_parts(parts);
                return;
            }
            self.drop_slot(index);
        }
        self.insert_new(place, parts, len);
    }

    fn insert_new(&mut self, place: Place, parts: &[&[u8]], len: usize) {
        if stride(len) > self.capacity / LARGEST_SHARE {
            return;
        }
        let hash = place.hash();
        let queue = match self.arena.is_large(len) {
            _ if self.is_ghost(hash) => Queue::Main,
            true => Queue::Large,
            false => Queue::Small,
        };
        self.make_room_for_large(queue, len);
        if !self.make_room(queue, len) {
            return;
        }
        let index = self.take_slot();
        let spot = self.arena.append(queue, index, parts, len);
        self.slots[index as usize] = Slot {
            place,
            spot,
            record_bytes: len as u32,
            chain: NONE,
            queue,
            reads: 0,
            used: true,
        };
        self.link(index, hash);
        self.evict_ahead(stride(len));
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
        let Some(index) = self.find(from) else { return };
        if from == to {
            return;
        }
        if let Some(other) = self.find(to) {
            self.drop_slot(other);
        }
        self.unlink(index);
        self.slots[index as usize].place = to;
        self.link(index, to.hash());
    }

    /// Changes the capacity. A smaller one is kept at once: if more is in use, records are evicted, a
    /// 64th of the old capacity at a time, and the tables give their memory back, in O(n).
    pub fn set_capacity(&mut self, bytes: usize) {
        let reserve = RESERVE_REGIONS * region_bytes(bytes);
        if bytes < self.capacity && self.bytes() + reserve > bytes {
            // Tables made anew for the records left take no more than this.
            while self.arena.used_bytes() + tables_bytes(self.len, bucket_count(self.len)) + reserve
                > bytes
                && self.evict(bytes).is_some()
            {}
            self.rebuild();
        }
        self.capacity = bytes;
        self.arena.set_region_bytes(region_bytes(bytes));
    }

    /// The most bytes of memory it may take.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes of heap memory in use: regions and tables, free space and an estimate of the
    /// allocator's own share included. O(1).
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.arena.bytes() + self.tables_bytes()
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

    /// Evicts until a record of `len` bytes can be appended. False: it never can.
    fn make_room(&mut self, queue: Queue, len: usize) -> bool {
        loop {
            // An eviction leaves a free slot, so that the tables need not grow: the loop ends.
            let growth = self.arena.growth(queue, len) + self.tables_growth();
            if growth == 0 || self.fits(growth + self.reserve_bytes()) {
                self.give_up_spare_for(growth);
                return true;
            }
            if self.evict(self.capacity).is_none() {
                return false;
            }
        }
    }

    /// Keeps the large queue short: evicts from it what a new large record pushes out.
    fn make_room_for_large(&mut self, queue: Queue, len: usize) {
        let most = large_bytes_max(self.capacity);
        while queue == Queue::Large
            && self.arena.queued_bytes(Queue::Large) + stride(len) > most
            && let Some(index) = self.arena.oldest(Queue::Large)
        {
            self.pass(index);
        }
    }

    /// Once the cache is full, evicts as much as came. By the time the newest region is full the
    /// oldest one is empty, and no single insert has to empty it.
    fn evict_ahead(&mut self, came: usize) {
        let mut left = came;
        while left > 0 && !self.fits(self.arena.region_cost() + self.reserve_bytes()) {
            let Some(evicted) = self.evict(self.capacity) else { return };
            left = left.saturating_sub(evicted);
        }
    }

    /// Whether this many bytes more may be used. The spare region is not in use.
    fn fits(&self, growth: usize) -> bool {
        self.arena.used_bytes() + self.tables_bytes() + growth <= self.capacity
    }

    /// Frees the spare region when it would be in the way of what comes.
    fn give_up_spare_for(&mut self, growth: usize) {
        if self.bytes() + growth > self.capacity {
            self.arena.drop_spare();
        }
    }

    fn tables_bytes(&self) -> usize {
        tables_bytes(self.slots.capacity(), self.buckets.len())
    }

    fn reserve_bytes(&self) -> usize {
        RESERVE_REGIONS * region_bytes(self.capacity)
    }

    /// Evicts one record on the way to a capacity, and returns what it took. `None`: there is none.
    /// A queue that has more than its share of that capacity comes first; the large one, whose
    /// share was larger before the cache shrank, before the small one. Amortized O(1): each move
    /// to the main queue was paid for by a read.
    fn evict(&mut self, capacity: usize) -> Option<usize> {
        loop {
            let order = if self.arena.queued_bytes(Queue::Large) > large_bytes_max(capacity) {
                [Queue::Large, Queue::Small, Queue::Main]
            } else if self.arena.queued_bytes(Queue::Small) > capacity / SMALL_SHARE {
                [Queue::Small, Queue::Main, Queue::Large]
            } else {
                [Queue::Main, Queue::Small, Queue::Large]
            };
            let index = order.into_iter().find_map(|queue| self.arena.oldest(queue))?;
            if let Some(bytes) = self.pass(index) {
                return Some(bytes);
            }
        }
    }

    /// The oldest record of its queue has its turn: it moves to the main queue (`None`), or goes;
    /// then, what it took.
    fn pass(&mut self, index: u32) -> Option<usize> {
        let slot = self.slots[index as usize];
        let stays = match slot.queue {
            Queue::Small | Queue::Large => slot.reads > READS_TO_STAY,
            Queue::Main => slot.reads > 0,
        };
        if stays && self.move_to_main(index) {
            return None;
        }
        if slot.queue != Queue::Main {
            self.remember_ghost(slot.place.hash());
        }
        self.drop_slot(index);
        Some(stride(slot.record_bytes as usize))
    }

    /// Makes a record the newest of the main queue. False: even the reserve is in use.
    fn move_to_main(&mut self, index: u32) -> bool {
        let Slot { spot, record_bytes, queue, reads, .. } = self.slots[index as usize];
        let len = record_bytes as usize;
        let growth = self.arena.requeue_growth(spot, len);
        if growth > 0 && !self.fits(growth) {
            return false;
        }
        let slot = &mut self.slots[index as usize];
        slot.spot = self.arena.requeue(spot, index, len, queue);
        slot.reads = if queue == Queue::Main { reads - 1 } else { 0 };
        slot.queue = Queue::Main;
        true
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

    fn drop_slot(&mut self, index: u32) {
        self.unlink(index);
        let slot = &mut self.slots[index as usize];
        self.arena.abandon(slot.spot, slot.record_bytes as usize, slot.queue);
        slot.used = false;
        slot.chain = self.free;
        self.free = index;
        self.len -= 1;
    }

    /// What the tables will grow by when one more record comes.
    fn tables_growth(&self) -> usize {
        let (slots, buckets) = self.tables_for_one_more();
        tables_bytes(slots, buckets) - self.tables_bytes()
    }

    /// Slots and buckets to have room for, with one more record.
    fn tables_for_one_more(&self) -> (usize, usize) {
        let mut slots = self.slots.capacity();
        if self.free == NONE && self.slots.len() == slots {
            slots += (slots / 8).max(SLOTS_STEP);
        }
        (slots, self.buckets.len().max(bucket_count(self.len + 1)))
    }

    /// A slot to be filled, from the free ones or a new one.
    fn take_slot(&mut self) -> u32 {
        let (slots, buckets) = self.tables_for_one_more();
        self.slots.reserve_exact(slots - self.slots.len());
        if buckets > self.buckets.len() {
            self.rehash(buckets);
        }
        self.len += 1;
        if self.free == NONE {
            self.slots.push(Slot::FREE);
            return u32::try_from(self.slots.len() - 1).expect("memory ends before 2^32 records");
        }
        let index = self.free;
        self.free = self.slots[index as usize].chain;
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
        for index in 0..self.slots.len() {
            let Slot { place, used, .. } = self.slots[index];
            if used {
                self.link(index as u32, place.hash());
            }
        }
    }

    /// Moves all slots to tables of just the size.
    fn rebuild(&mut self) {
        let old = std::mem::take(&mut self.slots);
        self.slots.reserve_exact(self.len);
        self.slots.extend(old.into_iter().filter(|slot| slot.used));
        self.free = NONE;
        for (index, slot) in self.slots.iter().enumerate() {
            self.arena.set_owner(slot.spot, index as u32);
        }
        self.rehash(bucket_count(self.len));
    }
}

/// What the large queue may take.
fn large_bytes_max(capacity: usize) -> usize {
    LARGE_BYTES_MAX.min(capacity / SMALL_SHARE)
}

fn region_bytes(capacity: usize) -> usize {
    let bytes = size_class((capacity / REGION_SHARE).clamp(REGION_BYTES_MIN, REGION_BYTES_MAX));
    // The page that the allocator adds to a block outside its slabs would be a lot of a small one.
    if bytes < PAGED_REGION_BYTES_MIN { bytes.min(SLAB_BLOCK_BYTES_MAX) } else { bytes }
}

/// Buckets for this many records: a power of two, half to all of them in use.
fn bucket_count(records: usize) -> usize {
    if records == 0 { 0 } else { records.next_power_of_two().max(BUCKETS_MIN) }
}

fn tables_bytes(slots: usize, buckets: usize) -> usize {
    block_bytes(slots * size_of::<Slot>()) + block_bytes(buckets * size_of::<Bucket>())
}
