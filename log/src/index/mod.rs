//! The keys of one partition in memory: where each key's record lies, its version and expiry.
//!
//! An ordered map from keys (byte strings of at most [`KEY_BYTES_MAX`] bytes) to [`Entry`], made
//! to be small: a shard holds tens of millions of keys in about a hundred of these. Keys and
//! packed entries lie in 4 KiB pages of a B+tree; there is no allocation, pointer or padding per
//! key. Keys are not prefix-compressed, so that iteration can lend them as slices.
//!
//! Invariants: every key occurs once; all leaves have the same depth; no leaf is empty except a
//! root; the ledger equals the sum of what is allocated. Same operations, same tree: nothing
//! depends on addresses or hashes.
//!
//! Owned by the shard that owns the partition; never shared.

mod entry;
mod page;
mod range;
#[cfg(test)]
mod tests;
mod tree;

use ironring_core::limits::KEY_BYTES_MAX;

pub use entry::Entry;
use entry::{Packed, packed_bytes, unpack};
use page::Ledger;
pub use range::Range;
use tree::{Leaf, Node};

/// The ordered in-memory index of one partition's keys.
#[derive(Debug)]
pub struct KeyIndex {
    root: Node,
    len: usize,
    ledger: Ledger,
}

impl Default for KeyIndex {
    fn default() -> KeyIndex {
        KeyIndex::new()
    }
}

impl KeyIndex {
    /// An index without keys, which has nothing on the heap.
    #[must_use]
    pub fn new() -> KeyIndex {
        KeyIndex { root: Node::Leaf(Leaf::default()), len: 0, ledger: Ledger::default() }
    }

    /// What the index holds for `key`. O(log n).
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Entry> {
        self.root.leaf_for(key).lookup(key).map(unpack)
    }

    /// Sets what the index holds for `key` and returns what it replaced. O(log n).
    ///
    /// Panics when the key is longer than [`KEY_BYTES_MAX`], which is checked where it enters.
    pub fn insert(&mut self, key: &[u8], entry: Entry) -> Option<Entry> {
        assert!(key.len() <= KEY_BYTES_MAX, "a key of {} bytes was let in", key.len());
        let packed = Packed::new(&entry);
        let (old, split) = self.root.insert(key, &packed, &mut self.ledger);
        if let Some(split) = split {
            self.root.grow(split, &mut self.ledger);
        }
        self.len += usize::from(old.is_none());
        old
    }

    /// Changes the entry of `key` in place; false when there is none. O(log n).
    pub fn update(&mut self, key: &[u8], change: impl FnOnce(&mut Entry)) -> bool {
        let leaf = self.root.leaf_for_mut(key);
        let (index, found) = leaf.find(key);
        if !found {
            return false;
        }
        let cell = leaf.cell_mut(index);
        let mut entry = unpack(cell);
        change(&mut entry);
        let packed = Packed::new(&entry);
        let packed = packed.as_bytes();
        if packed_bytes(cell[0]) == packed.len() {
            cell[..packed.len()].copy_from_slice(packed);
        } else {
            self.insert(key, entry);
        }
        true
    }

    /// Forgets `key` and returns what was held for it. O(log n).
    pub fn remove(&mut self, key: &[u8]) -> Option<Entry> {
        let old = self.root.remove(key, &mut self.ledger)?;
        self.root.flatten(&mut self.ledger);
        self.len -= 1;
        Some(old)
    }

    /// The keys strictly greater than `after` (all keys when `None`) in byte order, with their
    /// entries. Starting costs O(log n), a step O(1) on average.
    #[must_use]
    pub fn range_after<'a>(&'a self, after: Option<&[u8]>) -> Range<'a> {
        Range::new(&self.root, after.unwrap_or_default(), after.is_some())
    }

    /// The keys from `from` on, itself included, in byte order, with their entries. The same cost.
    #[must_use]
    pub fn range_from<'a>(&'a self, from: &[u8]) -> Range<'a> {
        Range::new(&self.root, from, false)
    }

    /// Number of keys. O(1).
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory in use: this value and every heap block with its free space and an
    /// estimate of the allocator's own share. O(1).
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<KeyIndex>() + self.ledger.bytes()
    }
}
