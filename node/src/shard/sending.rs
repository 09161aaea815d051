//! Entries on their way to followers.
//!
//! A follower that keeps up is sent what is staged, from the log's own memory; one that is a little
//! late what was written last, which is kept there for a while. For one that is further behind
//! entries are read from the disk, a chunk at a time and few chunks at once, so that catching up
//! leaves the disk to those who wait for it.

use std::collections::BTreeMap;

use ironring_core::{Instant, NodeId, Now, Offset, PartitionId};
use ironring_log::{Location, ReadError, ReadId};
use ironring_ring::replication::{Replicate, Section};

use super::Shard;
use super::event::{Effects, ToPeer};
use super::movement::Share;
use super::replicas::SECTION_ENTRIES;

/// Bytes of entries in one message: beyond it no more are added.
const SECTION_BYTES: usize = 1 << 20;
/// The same of a move: as much as a piece of a state, so that both have turns of a length.
const PACED_BYTES: usize = 256 << 10;
/// Most entries read from the disk for one chunk, and most bytes.
const CHUNK_ENTRIES: u64 = 256;
const CHUNK_BYTES: usize = 1 << 20;
/// Most chunks at once.
const CHUNKS_MAX: usize = 8;
/// A chunk nobody was sent for so long is given up.
const CHUNK_KEPT: std::time::Duration = std::time::Duration::from_secs(2);
/// Reads for other replicas have this bit in their id; those for answers do not.
const READ_BIT: u64 = 1 << 63;

/// Consecutive entries read from the disk, as they are sent.
#[derive(Debug)]
struct Chunk {
    first: Offset,
    /// Where each lies, and its bytes once they were read. A place is never used twice: what was cut
    /// off and written anew since then is recognised by it.
    entries: Vec<(Location, Option<Vec<u8>>)>,
    missing: usize,
    since: Instant,
}

/// Chunks of the shard, one per partition at most.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    by_partition: BTreeMap<PartitionId, Chunk>,
    reads: BTreeMap<ReadId, (PartitionId, Offset, Location)>,
    last: u64,
}

impl Chunks {
    fn get(&self, partition: PartitionId, offset: Offset, at: Location) -> Option<&[u8]> {
        let chunk = self.by_partition.get(&partition)?;
        let number = offset.0.checked_sub(chunk.first.0)?;
        let (place, bytes) = chunk.entries.get(number as usize)?;
        bytes.as_deref().filter(|_| *place == at)
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        let chunks = self.by_partition.values();
        let bytes = chunks.flat_map(|c| c.entries.iter().filter_map(|(_, bytes)| bytes.as_ref()));
        bytes.map(Vec::capacity).sum()
    }

    /// A name for a read of entries or pieces.
    pub(super) fn next_read(&mut self) -> ReadId {
        self.last += 1;
        ReadId(self.last | READ_BIT)
    }

    /// Whether a read is of entries or pieces.
    pub(super) fn is_theirs(read: ReadId) -> bool {
        read.0 & READ_BIT != 0
    }

    /// A partition's entries are not what they were.
    pub(super) fn forget(&mut self, partition: PartitionId) {
        self.by_partition.remove(&partition);
    }

    /// Everything before `next` was sent: a chunk that ends there makes room for another partition's.
    fn sent(&mut self, partition: PartitionId, next: Offset) {
        let used_up = |chunk: &Chunk| {
            let end = chunk.first.0 + chunk.entries.len() as u64;
            chunk.missing == 0 && next.0 >= end
        };
        if self.by_partition.get(&partition).is_some_and(used_up) {
            self.by_partition.remove(&partition);
        }
    }

    /// What was read waits for its turn: unless others want the place, it is not read once more.
    fn keep(&mut self, now: Instant, partition: PartitionId) {
        if self.by_partition.len() < CHUNKS_MAX
            && let Some(chunk) = self.by_partition.get_mut(&partition)
        {
            chunk.since = now;
        }
    }

    /// Gives up what nobody came for.
    pub(super) fn expire(&mut self, now: Instant) {
        self.by_partition.retain(|_, chunk| now.since(chunk.since) < CHUNK_KEPT);
    }
}

impl Shard {
    /// Tells other nodes what there is for them: acks, entries, probes. Called before the log gets
    /// the chance to write what is staged, and at the end of a turn.
    pub(super) fn send(&mut self, now: Now, fx: &mut Effects) {
        if self.replicas.is_none() {
            return;
        }
        for (node, ack) in self.engine().take_acks() {
            fx.peers.push((node, ToPeer::Ack(ack)));
        }
        for partition in self.movement.take_held(now.mono) {
            self.engine().wake(partition);
        }
        let nodes: Vec<NodeId> = self.engine().nodes_to_send().collect();
        for node in nodes {
            let room = fx.peer_room.get(&node).copied().unwrap_or(usize::MAX);
            // Catching up would otherwise starve whoever cannot be sent entries.
            let kept = self.transfers.ready_bytes(node).min(room);
            let mut room = room - kept;
            while room > 0
                && let Some(section) = self.engine().next_section(now.mono, node, SECTION_ENTRIES)
            {
                let partition = section.message.partition;
                let going = self.movement.is_going(partition, node);
                let (message, bytes) = if going && self.must_wait(now, &section) {
                    (Replicate { count: 0, ..section.message }, Vec::new())
                } else {
                    let most = if going { PACED_BYTES } else { SECTION_BYTES };
                    self.fill(now, section, room.min(most), fx)
                };
                self.movement.sent(now.mono, partition, node, bytes.len());
                room = room.saturating_sub(bytes.len().max(1));
                self.engine().sent(node, &section, message.count);
                let is_probe = message.count == 0;
                if !is_probe || section.probe {
                    fx.peers.push((node, ToPeer::Replicate(message, bytes)));
                }
            }
            if let Some(left) = fx.peer_room.get_mut(&node) {
                *left = room + kept;
            }
        }
    }

    /// Whether the entries of a section are a move's, whose turn has not come. Its probe is sent all the
    /// same.
    fn must_wait(&mut self, now: Now, section: &Section) -> bool {
        let partition = section.message.partition;
        if section.message.count == 0 || self.movement.may_send(now.mono, Share::Entries) {
            return false;
        }
        self.movement.hold(partition);
        self.chunks.keep(now.mono, partition);
        true
    }

    /// The entries of a section, as many as are at hand.
    fn fill(
        &mut self,
        now: Now,
        section: Section,
        most: usize,
        fx: &mut Effects,
    ) -> (Replicate, Vec<u8>) {
        let mut message = section.message;
        let partition = message.partition;
        let mut bytes = Vec::new();
        let mut count = 0;
        while count < message.count {
            let offset = Offset(message.first.0 + u64::from(count));
            let Some(at) = self.models.peek(partition).entries.get(offset) else {
                let first = self.models.peek(partition).entries.first();
                self.engine().forget_before(partition, first);
                break;
            };
            if count > 0 && bytes.len() + at.len as usize > most {
                break;
            }
            if let Some(entry) = self.chunks.get(partition, offset, at) {
                bytes.extend_from_slice(entry);
            } else if !self.log.copy_wire(at, &mut bytes) {
                self.begin_chunk(now, partition, offset, fx);
                break;
            }
            count += 1;
        }
        message.count = count;
        if count > 0 {
            self.chunks.sent(partition, Offset(message.first.0 + u64::from(count)));
        }
        (message, bytes)
    }

    /// Begins to read entries that are not in memory.
    fn begin_chunk(&mut self, now: Now, partition: PartitionId, first: Offset, fx: &mut Effects) {
        let chunks = &mut self.chunks;
        match chunks.by_partition.get(&partition) {
            Some(chunk) if chunk.missing > 0 => return,
            None if chunks.by_partition.len() >= CHUNKS_MAX => return,
            _ => {}
        }
        let entries = &self.models.peek(partition).entries;
        let mut places = Vec::new();
        let mut bytes = 0;
        for offset in (first.0..entries.end().0.min(first.0 + CHUNK_ENTRIES)).map(Offset) {
            let Some(at) = entries.get(offset) else { break };
            bytes += at.len as usize;
            if bytes > CHUNK_BYTES && !places.is_empty() {
                break;
            }
            places.push((offset, at));
        }
        let entries = places.iter().map(|(_, at)| (*at, None)).collect();
        let chunk = Chunk { first, entries, missing: places.len(), since: now.mono };
        chunks.by_partition.insert(partition, chunk);
        for (offset, at) in places {
            let read = chunks.next_read();
            chunks.reads.insert(read, (partition, offset, at));
            self.log.read(read, at, &mut fx.io);
        }
    }

    /// An entry was read, or cannot be.
    pub(super) fn entry_read(&mut self, read: ReadId, result: Result<Vec<u8>, ReadError>) {
        let Some((partition, offset, at)) = self.chunks.reads.remove(&read) else { return };
        let chunk = self.chunks.by_partition.get_mut(&partition);
        let Some(chunk) = chunk.filter(|chunk| chunk.first <= offset) else { return };
        let Some(entry) = chunk.entries.get_mut((offset.0 - chunk.first.0) as usize) else {
            return;
        };
        if entry.0 != at || entry.1.is_some() {
            return;
        }
        let lost = result.is_err();
        entry.1 = result.ok();
        chunk.missing = chunk.missing.saturating_sub(1);
        let whole = chunk.missing == 0;
        if lost {
            // Compaction has freed its place, or it is damaged: followers get what it added up to.
            self.chunks.forget(partition);
            let entries = &mut self.models.partition(partition).entries;
            entries.lose_before(offset.next());
            let first = entries.first();
            self.engine().forget_before(partition, first);
        }
        if whole || lost {
            self.engine().wake(partition);
        }
    }
}

#[cfg(test)]
mod tests {
    use ironring_core::SegmentId;

    use super::*;

    #[test]
    fn a_chunk_that_was_sent_makes_room() {
        let (p, mut chunks) = (PartitionId(3), Chunks::default());
        let at = Location { segment: SegmentId(1), pos: 64, len: 64 };
        let chunk = |missing| {
            let entries = vec![(at, Some(vec![7])); 4];
            Chunk { first: Offset(10), entries, missing, since: Instant(0) }
        };
        chunks.by_partition.insert(p, chunk(1));
        chunks.sent(p, Offset(14));
        assert!(chunks.by_partition.contains_key(&p), "it is being read");
        chunks.by_partition.insert(p, chunk(0));
        chunks.sent(p, Offset(13));
        assert_eq!(chunks.get(p, Offset(13), at), Some(&[7][..]), "its last entry was not sent");
        let elsewhere = Location { pos: 128, ..at };
        assert_eq!(
            chunks.get(p, Offset(13), elsewhere),
            None,
            "another entry has its offset by now"
        );
        chunks.sent(PartitionId(4), Offset(14));
        chunks.sent(p, Offset(14));
        assert!(chunks.by_partition.is_empty());
    }
}
