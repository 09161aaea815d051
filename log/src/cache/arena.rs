//! Memory in large regions, in which records lie one behind the other in the order they came.
//!
//! A cache of records with a heap block each keeps its bound by its own count only: when record
//! sizes change, the holes between blocks that stay fit nothing that comes, and the process was
//! measured to hold 1.6 times the bound. Regions are all of one size, so that one given up by one
//! queue serves the other, and go back to the system when they are not needed.
//!
//! ```text
//! region: | owner u32, length u32, record, zeros to a multiple of 8 | ... | free |
//! ```
//!
//! Each region belongs to one of three first-in-first-out queues. Records are taken from the front
//! of a queue's oldest region and appended to its newest. A record of more than a quarter of a
//! region is large: it has a region of its own size.
//!
//! Invariant: every region in a queue has at least one record that has an owner.

use std::collections::VecDeque;

use crate::allocation::block_bytes;

/// Owner and length, in front of each record.
const HEADER_BYTES: usize = 8;
/// The owner of a record that was given up.
const ABANDONED: u32 = u32::MAX;
/// What a region costs besides its bytes: its entries in the tables here, which double in size.
const REGION_ENTRY_BYTES: usize = 2 * (size_of::<Region>() + size_of::<u32>());
/// A record that takes more than one part in this many of a region has its own.
const OWN_REGION_SHARE: usize = 4;

/// The queue a record is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Queue {
    /// What is new.
    Small = 0,
    /// What is new and large.
    Large = 1,
    /// What proved to be wanted.
    Main = 2,
}

impl Queue {
    /// All of them.
    #[cfg(test)]
    pub(super) const ALL: [Queue; 3] = [Queue::Small, Queue::Large, Queue::Main];
}

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    region: u32,
    /// First byte of the record, behind its header.
    start: u32,
}

/// Where no record is.
pub(super) const NOWHERE: Spot = Spot { region: u32::MAX, start: 0 };

#[derive(Debug, Default)]
struct Region {
    memory: Box<[u8]>,
    filled: usize,
    /// Start of the oldest record that may have an owner.
    front: usize,
    /// Records with an owner.
    records: usize,
    /// It was made for a single record.
    own: bool,
}

/// The regions of a cache and their queues.
#[derive(Debug)]
pub(super) struct Arena {
    region_bytes: usize,
    /// By number; the numbers in `unused` have no memory.
    regions: Vec<Region>,
    unused: Vec<u32>,
    /// An empty region of the common size, kept for the next append.
    spare: Option<Box<[u8]>>,
    queues: [VecDeque<u32>; 3],
    /// Bytes of the records with an owner, by queue.
    queued_bytes: [usize; 3],
    used_bytes: usize,
}

/// Bytes a record takes in a region.
pub(super) fn stride(record_bytes: usize) -> usize {
    (HEADER_BYTES + record_bytes).next_multiple_of(8)
}

fn cost(memory_bytes: usize) -> usize {
    block_bytes(memory_bytes) + REGION_ENTRY_BYTES
}

impl Arena {
    /// An arena with regions of this size, a multiple of 8; it has none yet.
    pub(super) fn new(region_bytes: usize) -> Arena {
        Arena {
            region_bytes,
            regions: Vec::new(),
            unused: Vec::new(),
            spare: None,
            queues: Default::default(),
            queued_bytes: [0; 3],
            used_bytes: 0,
        }
    }

    /// Memory in use, the spare region included.
    pub(super) fn bytes(&self) -> usize {
        self.used_bytes + self.spare.as_ref().map_or(0, |spare| cost(spare.len()))
    }

    /// Memory in use, without the spare region.
    pub(super) fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    /// Bytes of the records in a queue.
    pub(super) fn queued_bytes(&self, queue: Queue) -> usize {
        self.queued_bytes[queue as usize]
    }

    /// What one more region of the common size takes.
    pub(super) fn region_cost(&self) -> usize {
        cost(self.region_bytes)
    }

    /// What [`Arena::used_bytes`] grows by when a record of `len` bytes is appended to `queue`.
    pub(super) fn growth(&self, queue: Queue, len: usize) -> usize {
        let stride = stride(len);
        if self.is_large(len) {
            return cost(stride);
        }
        match self.queues[queue as usize].back() {
            Some(&newest) if self.has_room(newest, stride) => 0,
            _ => self.region_cost(),
        }
    }

    /// Appends a record in parts, `len` bytes together, to `queue`.
    pub(super) fn append(&mut self, queue: Queue, owner: u32, parts: &[&[u8]], len: usize) -> Spot {
        let stride = stride(len);
        if self.is_large(len) {
            // Filled once: a megabyte is not zeroed first.
            let mut memory = Vec::with_capacity(stride);
            memory.extend_from_slice(&owner.to_le_bytes());
            memory.extend_from_slice(&(len as u32).to_le_bytes());
            for part in parts {
                memory.extend_from_slice(part);
            }
            memory.resize(stride, 0);
            let region = self.add_region(memory.into_boxed_slice());
            self.own_region_filled(queue, region, stride);
            return Spot { region, start: HEADER_BYTES as u32 };
        }
        let spot = self.reserve(queue, owner, len);
        self.record_mut(spot, len).copy_from_parts(parts);
        spot
    }

    /// What [`Arena::used_bytes`] grows by when a record moves to the end of the main queue.
    pub(super) fn requeue_growth(&self, from: Spot, len: usize) -> usize {
        if self.regions[from.region as usize].own { 0 } else { self.growth(Queue::Main, len) }
    }

    /// Moves a record of `queue` to the end of the main queue.
    pub(super) fn requeue(&mut self, from: Spot, owner: u32, len: usize, queue: Queue) -> Spot {
        if self.regions[from.region as usize].own {
            // The region moves, not the record.
            self.queues[queue as usize].retain(|&region| region != from.region);
            self.queued_bytes[queue as usize] -= stride(len);
            self.push_own_region(Queue::Main, from.region);
            self.queued_bytes[Queue::Main as usize] += stride(len);
            return from;
        }
        let to = self.reserve(Queue::Main, owner, len);
        let start = from.start as usize;
        if from.region == to.region {
            let memory = &mut self.regions[from.region as usize].memory;
            memory.copy_within(start..start + len, to.start as usize);
        } else {
            let [source, target] = self
                .regions
                .get_disjoint_mut([from.region as usize, to.region as usize])
                .expect("two different regions");
            let target = &mut target.memory[to.start as usize..to.start as usize + len];
            target.copy_from_slice(&source.memory[start..start + len]);
        }
        self.abandon(from, len, queue);
        to
    }

    /// The owner of the oldest record of a queue.
    pub(super) fn oldest(&mut self, queue: Queue) -> Option<u32> {
        let &region = self.queues[queue as usize].front()?;
        let region = &mut self.regions[region as usize];
        loop {
            let (owner, len) = read_header(&region.memory[region.front..]);
            if owner != ABANDONED {
                return Some(owner);
            }
            region.front += stride(len);
        }
    }

    /// Gives up a record. A region without any is freed.
    pub(super) fn abandon(&mut self, at: Spot, len: usize, queue: Queue) {
        self.set_owner(at, ABANDONED);
        self.queued_bytes[queue as usize] -= stride(len);
        let region = &mut self.regions[at.region as usize];
        region.records -= 1;
        if region.records > 0 {
            return;
        }
        let Region { memory, own, .. } = std::mem::take(region);
        self.used_bytes -= cost(memory.len());
        // At the front, as a rule; a queue has about a hundred regions.
        let order = &mut self.queues[queue as usize];
        let place = order.iter().position(|&r| r == at.region).expect("a region is in its queue");
        order.remove(place);
        self.unused.push(at.region);
        if !own && memory.len() == self.region_bytes && self.spare.is_none() {
            self.spare = Some(memory);
        }
    }

    /// Names the new owner of a record.
    pub(super) fn set_owner(&mut self, at: Spot, owner: u32) {
        let header = at.start as usize - HEADER_BYTES;
        let memory = &mut self.regions[at.region as usize].memory;
        memory[header..header + 4].copy_from_slice(&owner.to_le_bytes());
    }

    /// The record of `len` bytes at a spot.
    pub(super) fn record(&self, at: Spot, len: usize) -> &[u8] {
        &self.regions[at.region as usize].memory[at.start as usize..at.start as usize + len]
    }

    /// The same, to overwrite it.
    pub(super) fn record_mut(&mut self, at: Spot, len: usize) -> &mut [u8] {
        &mut self.regions[at.region as usize].memory[at.start as usize..at.start as usize + len]
    }

    /// Makes regions of this size from here on, and gives idle memory back.
    pub(super) fn set_region_bytes(&mut self, region_bytes: usize) {
        self.region_bytes = region_bytes;
        self.drop_spare();
        if self.queues.iter().all(VecDeque::is_empty) {
            *self = Arena::new(region_bytes);
        }
    }

    /// Gives the spare region back.
    pub(super) fn drop_spare(&mut self) {
        self.spare = None;
    }

    /// Whether a record of this length has a region of its own.
    pub(super) fn is_large(&self, len: usize) -> bool {
        stride(len) > self.region_bytes / OWN_REGION_SHARE
    }

    fn has_room(&self, region: u32, stride: usize) -> bool {
        let region = &self.regions[region as usize];
        region.memory.len() - region.filled >= stride
    }

    /// Room for a record at the end of a queue, with its header written.
    fn reserve(&mut self, queue: Queue, owner: u32, len: usize) -> Spot {
        let stride = stride(len);
        let region = match self.queues[queue as usize].back() {
            _ if self.is_large(len) => {
                // Only a record whose region was larger than regions are by now gets here.
                let region = self.add_region(vec![0; stride].into_boxed_slice());
                self.own_region_filled(queue, region, stride);
                let start = HEADER_BYTES as u32;
                let memory = &mut self.regions[region as usize].memory;
                memory[..4].copy_from_slice(&owner.to_le_bytes());
                memory[4..HEADER_BYTES].copy_from_slice(&(len as u32).to_le_bytes());
                return Spot { region, start };
            }
            Some(&newest) if self.has_room(newest, stride) => newest,
            _ => {
                let region = match self.spare.take() {
                    Some(memory) => self.add_region(memory),
                    None => self.add_region(vec![0; self.region_bytes].into_boxed_slice()),
                };
                self.queues[queue as usize].push_back(region);
                region
            }
        };
        self.queued_bytes[queue as usize] += stride;
        let target = &mut self.regions[region as usize];
        let header = target.filled;
        target.memory[header..header + 4].copy_from_slice(&owner.to_le_bytes());
        target.memory[header + 4..header + 8].copy_from_slice(&(len as u32).to_le_bytes());
        target.filled += stride;
        target.records += 1;
        Spot { region, start: (header + HEADER_BYTES) as u32 }
    }

    fn add_region(&mut self, memory: Box<[u8]>) -> u32 {
        self.used_bytes += cost(memory.len());
        let region = Region { memory, ..Region::default() };
        match self.unused.pop() {
            Some(number) => {
                self.regions[number as usize] = region;
                number
            }
            None => {
                self.regions.push(region);
                (self.regions.len() - 1) as u32
            }
        }
    }

    /// A new region holds its single record: counts it and queues it.
    fn own_region_filled(&mut self, queue: Queue, region: u32, stride: usize) {
        let target = &mut self.regions[region as usize];
        (target.own, target.filled, target.records) = (true, stride, 1);
        self.queued_bytes[queue as usize] += stride;
        self.push_own_region(queue, region);
    }

    /// Puts a region with a single record in a queue, in front of the one being filled.
    fn push_own_region(&mut self, queue: Queue, region: u32) {
        let order = &mut self.queues[queue as usize];
        match queue {
            Queue::Large => order.push_back(region),
            Queue::Small | Queue::Main => order.insert(order.len().saturating_sub(1), region),
        }
    }
}

fn read_header(bytes: &[u8]) -> (u32, usize) {
    let word =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    (word(0), word(4) as usize)
}

/// Filling a slice from parts that lie one behind the other.
pub(super) trait CopyFromParts {
    /// Copies all parts; together they are as long as the slice.
    fn copy_from_parts(&mut self, parts: &[&[u8]]);
}

impl CopyFromParts for [u8] {
    fn copy_from_parts(&mut self, parts: &[&[u8]]) {
        let mut rest = self;
        for part in parts {
            let (place, behind) = rest.split_at_mut(part.len());
            place.copy_from_slice(part);
            rest = behind;
        }
        assert!(rest.is_empty(), "parts as long as the record");
    }
}

#[cfg(test)]
impl Arena {
    /// Checks regions and queues against the records that have an owner: queue, owner, spot and
    /// length of each.
    pub(super) fn check(&self, mut owned: Vec<(Queue, u32, Spot, usize)>) {
        let mut found = Vec::new();
        let mut bytes = 0;
        for queue in Queue::ALL {
            for &number in &self.queues[queue as usize] {
                let region = &self.regions[number as usize];
                let before = found.len();
                let mut at = region.front;
                while at < region.filled {
                    let (owner, len) = read_header(&region.memory[at..]);
                    if owner != ABANDONED {
                        let start = (at + HEADER_BYTES) as u32;
                        found.push((queue, owner, Spot { region: number, start }, len));
                    }
                    at += stride(len);
                }
                assert_eq!(at, region.filled, "records end where the region is filled");
                assert_eq!(found.len() - before, region.records);
                assert!(region.records > 0 && (!region.own || region.records == 1));
                bytes += cost(region.memory.len());
            }
        }
        assert_eq!(bytes, self.used_bytes);
        let queued: usize = self.queues.iter().map(VecDeque::len).sum();
        assert_eq!(queued + self.unused.len(), self.regions.len());
        found.sort_by_key(|record| record.1);
        owned.sort_by_key(|record| record.1);
        assert_eq!(found, owned);
    }
}
