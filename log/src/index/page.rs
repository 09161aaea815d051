//! A packed, sorted run of variable-length cells, each with a key, in one heap buffer.
//!
//! ```text
//! | cell 0 | cell 1 | ... | cell n-1 |   free   | slot n-1 | ... | slot 1 | slot 0 |
//! slot: end of the cell u16, head of its key u32; little endian
//! ```
//!
//! Cells lie in key order and without holes; cell `i` begins where cell `i - 1` ends. Inserting
//! and removing move the cells behind, at most a few KiB. The buffer grows and shrinks in small
//! steps, so that free space stays a few per cent whatever the page's fill: this, not the fill,
//! decides what an index costs.
//!
//! A key's *head* is its first four bytes behind the prefix that all keys of the page share,
//! big endian, filled up with zeros. A search runs over the heads, which lie together in a few
//! cache lines, and looks at cells only where heads are equal (the "poor man's normalized keys" of
//! Graefe and Larson, "B-tree indexes and CPU caches", 2001). Without heads each probe of the
//! binary search is a cache miss of its own.

use std::hint::black_box;
use std::marker::PhantomData;

use crate::allocation::{block_bytes, size_class};

/// Bytes of one slot.
pub(super) const SLOT_BYTES: usize = 6;
const CACHE_LINE_BYTES: usize = 64;
/// Buffers have a size of the allocator's that is a multiple of this.
const STEP_BYTES: usize = 128;

/// Heap bytes in use by an index; every buffer that is made or dropped is entered here.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    bytes: usize,
}

impl Ledger {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn allocated(&mut self, bytes: usize) {
        self.bytes += block_bytes(bytes);
    }

    pub(super) fn freed(&mut self, bytes: usize) {
        self.bytes -= block_bytes(bytes);
    }
}

/// The size of the buffer for `bytes` of cells and slots.
fn buffer_bytes(bytes: usize) -> usize {
    size_class(bytes.next_multiple_of(STEP_BYTES))
}

/// Where the key is in a cell.
pub(super) trait CellKey {
    /// The key part of a cell: its end.
    fn key(cell: &[u8]) -> &[u8];
}

/// A sorted run of cells. At most 65,535 bytes of cells.
#[derive(Debug)]
pub(super) struct Page<K> {
    buffer: Box<[u8]>,
    /// Bytes of cells, which is the end of the last one.
    cell_bytes: u16,
    cells: u16,
    /// All keys share at least this many first bytes; heads begin behind them.
    prefix: u16,
    kind: PhantomData<K>,
}

impl<K> Default for Page<K> {
    fn default() -> Page<K> {
        Page { buffer: Box::default(), cell_bytes: 0, cells: 0, prefix: 0, kind: PhantomData }
    }
}

impl<K: CellKey> Page<K> {
    /// Number of cells.
    pub(super) fn len(&self) -> usize {
        usize::from(self.cells)
    }

    /// Bytes of cells and slots, without free space.
    pub(super) fn content_bytes(&self) -> usize {
        usize::from(self.cell_bytes) + self.len() * SLOT_BYTES
    }

    /// Length of the heap buffer.
    pub(super) fn buffer_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Cell `index`. Panics when there is none.
    pub(super) fn cell(&self, index: usize) -> &[u8] {
        &self.buffer[self.start(index)..self.end(index)]
    }

    /// Cell `index`, to be overwritten in place; its key must stay.
    pub(super) fn cell_mut(&mut self, index: usize) -> &mut [u8] {
        let (start, end) = (self.start(index), self.end(index));
        &mut self.buffer[start..end]
    }

    /// The key of cell `index`. Panics when there is none.
    pub(super) fn key(&self, index: usize) -> &[u8] {
        K::key(self.cell(index))
    }

    /// The first cell whose key is not less than `key`, and whether it is the key itself.
    pub(super) fn find(&self, key: &[u8]) -> (usize, bool) {
        if self.cells == 0 {
            return (0, false);
        }
        self.fetch_slots();
        let prefix = &self.key(0)[..usize::from(self.prefix)];
        match key[..prefix.len().min(key.len())].cmp(prefix) {
            std::cmp::Ordering::Less => return (0, false),
            std::cmp::Ordering::Greater => return (self.len(), false),
            std::cmp::Ordering::Equal => {}
        }
        let index = self.search(key);
        (index, index < self.len() && self.key(index) == key)
    }

    /// The cell with this key. Cheaper than [`Page::find`]: the shared prefix is not looked at
    /// first, since a wrong prefix shows in the one cell that is compared whole.
    pub(super) fn lookup(&self, key: &[u8]) -> Option<&[u8]> {
        self.fetch_slots();
        let index = self.search(key);
        if index == self.len() {
            return None;
        }
        let cell = self.cell(index);
        (K::key(cell) == key).then_some(cell)
    }

    /// Inserts a cell, made of something in front and its key, as cell `index`.
    pub(super) fn insert(&mut self, index: usize, front: &[u8], key: &[u8], ledger: &mut Ledger) {
        let added = front.len() + key.len();
        let content = self.content_bytes() + added + SLOT_BYTES;
        if content > self.buffer.len() {
            self.resize(content, ledger);
        }
        self.share_prefix_with(key);
        let start = self.start(index);
        let middle = start + front.len();
        self.buffer.copy_within(start..usize::from(self.cell_bytes), start + added);
        self.buffer[start..middle].copy_from_slice(front);
        self.buffer[middle..start + added].copy_from_slice(key);

        let capacity = self.buffer.len();
        let behind = capacity - self.len() * SLOT_BYTES..capacity - index * SLOT_BYTES;
        self.buffer.copy_within(behind.clone(), behind.start - SLOT_BYTES);
        self.cells = u16::try_from(self.len() + 1).expect("a page holds fewer cells than bytes");
        self.cell_bytes = u16::try_from(usize::from(self.cell_bytes) + added)
            .expect("the tree splits pages long before 64 KiB");
        self.shift_ends(index + 1, added as u16);
        let head = head(key, usize::from(self.prefix));
        *self.slot_mut(index) = Slot { end: (start + added) as u16, head }.pack();
    }

    /// Removes cell `index`.
    pub(super) fn remove(&mut self, index: usize, ledger: &mut Ledger) {
        let (start, end) = (self.start(index), self.end(index));
        self.buffer.copy_within(end..usize::from(self.cell_bytes), start);
        let capacity = self.buffer.len();
        let behind = capacity - self.len() * SLOT_BYTES..capacity - (index + 1) * SLOT_BYTES;
        self.buffer.copy_within(behind.clone(), behind.start + SLOT_BYTES);
        self.cells -= 1;
        self.cell_bytes -= (end - start) as u16;
        self.shift_ends(index, ((end - start) as u16).wrapping_neg());
        self.shrink(ledger);
    }

    /// Cuts off the cells from `index` on, as a page of their own.
    pub(super) fn split_off(&mut self, index: usize, ledger: &mut Ledger) -> Page<K> {
        let mut right = Page::default();
        right.append_cells(self, index, ledger);
        self.cell_bytes = self.start(index) as u16;
        self.cells = index as u16;
        self.shrink(ledger);
        self.set_heads();
        right.set_heads();
        right
    }

    /// Appends all cells of `other`, whose keys are all greater.
    pub(super) fn append(&mut self, other: Page<K>, ledger: &mut Ledger) {
        self.append_cells(&other, 0, ledger);
        self.set_heads();
        other.discard(ledger);
    }

    /// Drops the page.
    pub(super) fn discard(self, ledger: &mut Ledger) {
        ledger.freed(self.buffer_bytes());
    }

    /// The most cells, at least one, that together take at most `bytes`, when each takes `extra`
    /// bytes besides its own and its slot.
    pub(super) fn cells_within(&self, bytes: usize, extra: usize) -> usize {
        (1..self.len())
            .take_while(|&n| self.start(n) + n * (SLOT_BYTES + extra) <= bytes)
            .last()
            .unwrap_or(1)
    }

    /// The first cell whose key is not less than `key`, if `key` has the shared prefix.
    fn search(&self, key: &[u8]) -> usize {
        let wanted = head(key, usize::from(self.prefix));
        let slots = self.slots();
        // Slots lie in descending order of their keys.
        let at_least = slots.partition_point(|slot| Slot::unpack(slot).head >= wanted);
        let first = slots.len() - at_least;
        let equal = |index: usize| {
            index < slots.len() && Slot::unpack(&slots[slots.len() - 1 - index]).head == wanted
        };
        if !equal(first) {
            return first;
        }
        let (mut low, mut high) = (first, first + 1);
        if equal(high) {
            let greater = slots.partition_point(|slot| Slot::unpack(slot).head > wanted);
            high = slots.len() - greater;
        }
        while low < high {
            let middle = low.midpoint(high);
            if self.key(middle) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Reads one byte per cache line of the slots, so that all the lines are fetched at once; the
    /// search alone waits for one line after the other. Most leaves are in no cache.
    fn fetch_slots(&self) {
        let lines = self.slots().iter().step_by(CACHE_LINE_BYTES / SLOT_BYTES);
        black_box(lines.fold(0, |all, slot| all | slot[0]));
    }

    /// Shortens the shared prefix to what a new key shares, too.
    fn share_prefix_with(&mut self, key: &[u8]) {
        if self.cells == 0 {
            self.prefix = key.len() as u16;
            return;
        }
        let prefix = &self.key(0)[..usize::from(self.prefix)];
        if !key.starts_with(prefix) {
            self.prefix = shared_bytes(prefix, key) as u16;
            self.fill_heads();
        }
    }

    /// Finds the shared prefix anew and sets all heads.
    fn set_heads(&mut self) {
        if self.cells > 0 {
            // Keys are sorted: what the first and the last share, all share.
            self.prefix = shared_bytes(self.key(0), self.key(self.len() - 1)) as u16;
            self.fill_heads();
        }
    }

    fn fill_heads(&mut self) {
        for index in 0..self.len() {
            let head = head(self.key(index), usize::from(self.prefix));
            let slot = self.slot_mut(index);
            *slot = Slot { head, ..Slot::unpack(slot) }.pack();
        }
    }

    /// Appends cells of another page; the caller sets the heads.
    fn append_cells(&mut self, from: &Page<K>, first: usize, ledger: &mut Ledger) {
        let (start, end) = (from.start(first), usize::from(from.cell_bytes));
        let count = from.len() - first;
        let content = self.content_bytes() + (end - start) + count * SLOT_BYTES;
        if content > self.buffer.len() {
            self.resize(content, ledger);
        }
        let (at, old) = (usize::from(self.cell_bytes), self.len());
        self.buffer[at..at + (end - start)].copy_from_slice(&from.buffer[start..end]);
        self.cells = u16::try_from(old + count).expect("a page holds fewer cells than bytes");
        self.cell_bytes = u16::try_from(at + (end - start))
            .expect("the tree merges only pages that fit together");
        for i in 0..count {
            let end = (from.end(first + i) - start + at) as u16;
            *self.slot_mut(old + i) = Slot { end, head: 0 }.pack();
        }
    }

    /// The slots in use, last one first.
    fn slots(&self) -> &[[u8; SLOT_BYTES]] {
        let from = self.buffer.len() - self.len() * SLOT_BYTES;
        self.buffer[from..].as_chunks().0
    }

    fn slot_mut(&mut self, index: usize) -> &mut [u8; SLOT_BYTES] {
        let at = self.buffer.len() - (index + 1) * SLOT_BYTES;
        self.buffer[at..].first_chunk_mut().expect("slots end where the buffer does")
    }

    fn end(&self, index: usize) -> usize {
        let slots = self.slots();
        usize::from(Slot::unpack(&slots[slots.len() - 1 - index]).end)
    }

    fn start(&self, index: usize) -> usize {
        if index == 0 { 0 } else { self.end(index - 1) }
    }

    /// Adds `by`, modulo 2^16, to the ends of the cells from `first` on.
    fn shift_ends(&mut self, first: usize, by: u16) {
        let capacity = self.buffer.len();
        let behind = capacity - self.len() * SLOT_BYTES..capacity - first * SLOT_BYTES;
        for slot in self.buffer[behind].as_chunks_mut().0 {
            let Slot { end, head } = Slot::unpack(slot);
            *slot = Slot { end: end.wrapping_add(by), head }.pack();
        }
    }

    /// Gives memory back once two steps of it lie idle, so that a key added and removed again and
    /// again does not reallocate each time.
    fn shrink(&mut self, ledger: &mut Ledger) {
        let content = self.content_bytes();
        if buffer_bytes(content) + 2 * STEP_BYTES <= self.buffer.len() || content == 0 {
            self.resize(content, ledger);
        }
    }

    fn resize(&mut self, content: usize, ledger: &mut Ledger) {
        let old = std::mem::take(&mut self.buffer);
        self.buffer = vec![0; buffer_bytes(content)].into_boxed_slice();
        ledger.freed(old.len());
        ledger.allocated(self.buffer.len());
        let cell_bytes = usize::from(self.cell_bytes);
        let slot_bytes = self.len() * SLOT_BYTES;
        self.buffer[..cell_bytes].copy_from_slice(&old[..cell_bytes]);
        let slots = self.buffer.len() - slot_bytes;
        self.buffer[slots..].copy_from_slice(&old[old.len() - slot_bytes..]);
    }
}

struct Slot {
    end: u16,
    head: u32,
}

impl Slot {
    fn pack(self) -> [u8; SLOT_BYTES] {
        let ([a, b], [c, d, e, f]) = (self.end.to_le_bytes(), self.head.to_le_bytes());
        [a, b, c, d, e, f]
    }

    fn unpack(&[a, b, c, d, e, f]: &[u8; SLOT_BYTES]) -> Slot {
        Slot { end: u16::from_le_bytes([a, b]), head: u32::from_le_bytes([c, d, e, f]) }
    }
}

/// The head of a key. Of two keys with the same first `prefix` bytes the lesser one never has the
/// greater head.
fn head(key: &[u8], prefix: usize) -> u32 {
    let rest = key.get(prefix..).unwrap_or_default();
    match rest.first_chunk() {
        Some(first) => u32::from_be_bytes(*first),
        None => {
            rest.iter().zip([24, 16, 8]).fold(0, |head, (&b, shift)| head | u32::from(b) << shift)
        }
    }
}

/// How many first bytes two keys share.
pub(super) fn shared_bytes(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use ironring_core::prng::Prng;

    use super::*;

    /// The first byte is not part of the key.
    struct SecondByteOn;

    impl CellKey for SecondByteOn {
        fn key(cell: &[u8]) -> &[u8] {
            &cell[1..]
        }
    }

    fn check(page: &Page<SecondByteOn>, model: &[Vec<u8>], probe: &[u8]) {
        let cells: Vec<&[u8]> = (0..page.len()).map(|i| page.cell(i)).collect();
        assert_eq!(cells, model);
        for key in model.iter().map(|cell| &cell[1..]).chain([probe, b"", &[0xFF; 30]]) {
            let expected = model.binary_search_by(|cell| cell[1..].cmp(key));
            let index = expected.unwrap_or_else(|index| index);
            assert_eq!(page.find(key), (index, expected.is_ok()), "{key:?}");
            assert_eq!(page.lookup(key), expected.ok().map(|i| &model[i][..]), "{key:?}");
        }
    }

    #[test]
    fn a_page_is_a_sorted_vector_of_cells() {
        let mut prng = Prng::new(1);
        let mut ledger = Ledger::default();
        let mut page = Page::<SecondByteOn>::default();
        let mut model: Vec<Vec<u8>> = Vec::new();
        for step in 0..30_000u32 {
            // Few distinct bytes and lengths around the head's: shared prefixes, equal heads and
            // zeros behind the end all occur, and keys often repeat. Emptied now and then.
            let mut cell = vec![step as u8];
            cell.extend_from_slice(&b"ppppp"[..5 * usize::from(!prng.chance(1, 50))]);
            cell.extend((0..prng.below(9)).map(|_| [0, 0, b'p', 0xFF][prng.below(4) as usize]));
            let (index, found) = page.find(&cell[1..]);
            if found && prng.chance(if step / 3_000 % 2 == 0 { 1 } else { 4 }, 4) {
                page.remove(index, &mut ledger);
                model.remove(index);
            } else if !found && (step / 3_000 % 2 == 0 || prng.chance(1, 20)) {
                page.insert(index, &cell[..1], &cell[1..], &mut ledger);
                model.insert(index, cell.clone());
            }
            if step % 97 == 0 {
                check(&page, &model, &cell[1..]);
            }
            if step % 499 == 0 {
                let at = prng.below(model.len() as u64 + 1) as usize;
                let right = page.split_off(at, &mut ledger);
                check(&page, &model[..at], &cell[1..]);
                check(&right, &model[at..], &cell[1..]);
                page.append(right, &mut ledger);
                check(&page, &model, &cell[1..]);
            }
            assert_eq!(ledger.bytes(), block_bytes(page.buffer_bytes()));
            let most = page.content_bytes() * 3 / 2 + 3 * STEP_BYTES;
            assert!(page.buffer_bytes() <= most, "{} of {most}", page.buffer_bytes());
        }
        page.discard(&mut ledger);
        assert_eq!(ledger.bytes(), 0);
    }

    #[test]
    fn heads_are_in_the_order_of_keys() {
        let keys: [&[u8]; 9] =
            [b"", b"\0", b"\0\0\0\0\0", b"\0\x01", b"a", b"ab", b"abcd", b"abcde", b"\xFF"];
        for pair in keys.windows(2) {
            assert!(pair[0] < pair[1]);
            assert!(head(pair[0], 0) <= head(pair[1], 0));
        }
        assert_eq!(head(b"xxabc", 2), 0x6162_6300);
        assert_eq!(head(b"xx", 3), 0);
    }

    #[test]
    fn an_emptied_page_has_no_buffer() {
        let mut ledger = Ledger::default();
        let mut page = Page::<SecondByteOn>::default();
        page.insert(0, b"a", b"", &mut ledger);
        page.remove(0, &mut ledger);
        assert_eq!((page.buffer_bytes(), ledger.bytes()), (0, 0));
    }
}
