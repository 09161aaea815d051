//! The memory ceiling: who may still take how much.
//!
//! What *stays* (index, topics, sessions) is refused when it does not fit; what *passes* (requests
//! and answers on their way) has a bound for each of its kinds, [`ShardConfig::request_bytes_max`],
//! whose room what stays leaves alone; the cache has the rest and gives way at once. Besides there is
//! what no shard accounts for: the program, what the allocator keeps, copies that live for a moment.

use super::{Shard, ShardConfig};

/// Taken by the program itself, by the allocator and for a moment while values of megabytes come and go,
/// however small the ceiling is (100 MiB were seen at a ceiling of 186).
const UNSEEN_BYTES: usize = 72 << 20;
/// More of one kind would only wait.
const PASSING_BYTES_MAX: usize = 64 << 20;
/// What may wait for each client when too much waits for all.
const OUTPUT_BYTES_PRESSED: usize = 1 << 20;
/// Kinds of what passes: received, written, read, answered.
const PASSING_KINDS: usize = 4;

/// Memory of a shard's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionBytes {
    /// Requests as far as they came.
    pub input: usize,
    /// Answers as far as they were not taken.
    pub output: usize,
}

/// What the driver tells of memory the shard does not see.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub connections: ConnectionBytes,
    /// Answers in each shard's inbox that wait to be passed on.
    inboxes: Vec<usize>,
    /// This shard's share of the memory no shard accounts for.
    unaccounted: usize,
}

/// Whether `bytes` more may be taken by a kind of what passes that has `held` and may have `most`. One
/// that is larger than that may begin when little is held: waiting for nothing it might never.
#[must_use]
pub fn fits(held: usize, bytes: usize, most: usize) -> bool {
    held + bytes.min(most / 2) <= most
}

impl Shard {
    /// See [`ShardConfig::request_bytes_max`].
    #[must_use]
    pub fn request_bytes_max(&self) -> usize {
        self.config.request_bytes_max()
    }

    /// Bytes of memory that are not the cache.
    #[must_use]
    pub fn fixed_memory_bytes(&self) -> usize {
        self.staying_bytes() + self.passing_bytes()
    }

    fn staying_bytes(&self) -> usize {
        self.models.key_bytes() + self.counters.other_memory_bytes
    }

    fn passing_bytes(&self) -> usize {
        let mine = usize::from(self.id().0);
        self.uploads.bytes()
            // Once as read, once as answered.
            + 2 * self.gathers.bytes()
            + self.log.waiting_bytes()
            + self.handed_bytes
            + self.leases.bytes()
            + self.chunks.bytes()
            + self.transfers.bytes()
            + self.log.recent_bytes()
            + self.memory.inboxes.get(mine).copied().unwrap_or(0)
            + self.memory.connections.input
            + self.memory.connections.output
    }

    /// The ceiling without what nobody accounts for.
    pub(super) fn memory_limit(&self) -> usize {
        let most = self.config.memory_bytes_max;
        // There is always some, the more of it the smaller the ceiling, and it is not seen before it
        // is there. A peak of it must not refuse everything for a while.
        let unseen = (most / 8 + UNSEEN_BYTES).min(most / 2);
        most - self.memory.unaccounted.min(most / 2).max(unseen)
    }

    /// What is left below the ceiling, besides the cache, which gives way.
    pub(super) fn memory_left(&self) -> usize {
        self.memory_limit().saturating_sub(self.fixed_memory_bytes())
    }

    /// Bytes of requests other shards have not answered; 0 when none has one.
    #[must_use]
    pub fn handed_bytes(&self) -> usize {
        self.handed_bytes
    }

    /// Bytes of large values on their way into the log: they count among requests being received, so
    /// that the next ones wait in their senders' sockets.
    #[must_use]
    pub fn upload_bytes(&self) -> usize {
        self.uploads.bytes()
    }

    /// What the connections take now.
    pub fn count_connections(&mut self, bytes: ConnectionBytes) {
        self.memory.connections = bytes;
    }

    /// Bytes of answers that wait in the inbox of each shard.
    pub fn count_inboxes(&mut self, bytes: impl Iterator<Item = usize>) {
        self.memory.inboxes.clear();
        self.memory.inboxes.extend(bytes);
    }

    /// How much memory there is now that no shard accounts for, as this shard's share of it; told
    /// once a second. What counts is an average of the last ones: a peak is over when the allocator
    /// has given it back.
    pub fn leave_room(&mut self, unaccounted_bytes: usize) {
        self.memory.unaccounted = (self.memory.unaccounted * 7 + unaccounted_bytes) / 8;
    }

    /// Answers with data are made for a connection while less than this waits for its client. When
    /// all together have more waiting than they may, who reads on is answered still; who does not
    /// pays for what it makes all others lack.
    #[must_use]
    pub fn output_bytes_max(&self) -> usize {
        let pressed = self.memory.connections.output > self.request_bytes_max();
        if pressed { OUTPUT_BYTES_PRESSED } else { usize::MAX }
    }

    /// Whether an answer with data may be made for a connection of `shard`: not while more of them
    /// wait there than it can pass on.
    pub(super) fn may_answer(&self, shard: ironring_core::ShardId) -> bool {
        let waiting = self.memory.inboxes.get(usize::from(shard.0));
        shard == self.id() || waiting.is_none_or(|bytes| *bytes <= self.request_bytes_max())
    }

    /// The cache gives way at once to what came; it gets its room back with a sweep.
    pub(super) fn make_room(&mut self) {
        let left = self.memory_left();
        if left < self.models.cache.bytes() {
            self.models.cache.set_capacity(left.saturating_sub(self.spare_bytes()));
        }
    }

    /// Gives the cache what the rest leaves of the ceiling.
    pub(super) fn fit_memory(&mut self) {
        self.counters.other_memory_bytes =
            self.models.iter().map(super::partition::Partition::other_memory_bytes).sum();
        let want =
            self.config.cache_bytes.min(self.memory_left().saturating_sub(self.spare_bytes()));
        let has = self.models.cache.capacity();
        // A change costs a pass over the cache: not for every wave of what passes.
        if want == self.config.cache_bytes || want.abs_diff(has) > self.spare_bytes() {
            self.models.cache.set_capacity(want);
        }
    }

    fn spare_bytes(&self) -> usize {
        self.config.memory_bytes_max / 32
    }

    /// Whether a new key of this length fits below the ceiling. What stays may not take the room of
    /// what passes, though nothing passes at the moment.
    pub(super) fn has_memory_for(&self, key: &[u8]) -> bool {
        let passing = self.passing_bytes().max(PASSING_KINDS * self.config.request_bytes_max());
        self.staying_bytes() + passing + key.len() + 64 <= self.memory_limit()
    }
}

impl ShardConfig {
    /// The most that requests being received may take, the same for requests handed to other shards,
    /// for what is collected from the disk, and for answers not yet taken: a sixteenth of the
    /// ceiling and no more than keeps a disk busy, or what a single one needs.
    #[must_use]
    pub fn request_bytes_max(&self) -> usize {
        (self.memory_bytes_max / 16).min(PASSING_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn one_larger_than_its_kind_may_be_begins_beside_little() {
        assert!(fits(0, 1000, 100) && fits(50, 1000, 100) && !fits(51, 1000, 100));
        assert!(fits(60, 40, 100) && !fits(61, 40, 100));
    }
}
