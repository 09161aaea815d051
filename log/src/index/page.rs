//! A packed, sorted run of variable-length cells in one heap buffer.
//!
//! ```text
//! | cell 0 | cell 1 | ... | cell n-1 |   free   | end n-1 | ... | end 1 | end 0 |
//! ```
//!
//! Cells lie in order and without holes; slot `i`, counted from the back, is the end of cell `i`
//! (u16, little endian), and cell `i` begins where cell `i - 1` ends. Inserting and removing move
//! the cells behind, at most a few KiB. The buffer grows and shrinks in small steps, so that free
//! space stays a few per cent whatever the page's fill: this, not the fill, decides what an index
//! costs. The page does not know what its cells mean.

/// Bytes of one slot.
const SLOT_BYTES: usize = 2;
/// What an allocator adds to a block (glibc's chunk header); sizes are chosen so that block and
/// header together are a multiple of the step.
const ALLOCATOR_HEADER_BYTES: usize = 8;
/// Steps of buffer sizes, up to and above [`SMALL_BYTES_MAX`].
const SMALL_STEP_BYTES: usize = 128;
const LARGE_STEP_BYTES: usize = 256;
const SMALL_BYTES_MAX: usize = 1024;

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

/// What an allocation of `bytes` really takes: header, rounding to 16, at least 32 (the rules of
/// glibc's malloc on 64-bit machines; size-class allocators differ by about the same either way).
pub(super) fn block_bytes(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { (bytes + ALLOCATOR_HEADER_BYTES).next_multiple_of(16).max(32) }
}

/// The size of the buffer for `bytes` of cells and slots.
fn buffer_bytes(bytes: usize) -> usize {
    if bytes == 0 {
        return 0;
    }
    let block = bytes + ALLOCATOR_HEADER_BYTES;
    let step = if block <= SMALL_BYTES_MAX { SMALL_STEP_BYTES } else { LARGE_STEP_BYTES };
    block.next_multiple_of(step) - ALLOCATOR_HEADER_BYTES
}

/// A sorted run of cells. At most 65,535 bytes of cells.
#[derive(Debug, Default)]
pub(super) struct Page {
    buffer: Box<[u8]>,
    /// Bytes of cells, which is the end of the last one.
    cell_bytes: u16,
    cells: u16,
}

impl Page {
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

    /// Cell `index`, to be overwritten in place.
    pub(super) fn cell_mut(&mut self, index: usize) -> &mut [u8] {
        let (start, end) = (self.start(index), self.end(index));
        &mut self.buffer[start..end]
    }

    /// Inserts a cell made of two parts before cell `index`.
    pub(super) fn insert(&mut self, index: usize, parts: [&[u8]; 2], ledger: &mut Ledger) {
        let added = parts[0].len() + parts[1].len();
        let content = self.content_bytes() + added + SLOT_BYTES;
        if content > self.buffer.len() {
            self.resize(content, ledger);
        }
        let start = self.start(index);
        let middle = start + parts[0].len();
        self.buffer.copy_within(start..usize::from(self.cell_bytes), start + added);
        self.buffer[start..middle].copy_from_slice(parts[0]);
        self.buffer[middle..start + added].copy_from_slice(parts[1]);

        let capacity = self.buffer.len();
        let slots = capacity - self.len() * SLOT_BYTES..capacity - index * SLOT_BYTES;
        self.buffer.copy_within(slots.clone(), slots.start - SLOT_BYTES);
        self.cells = u16::try_from(self.len() + 1).expect("a page holds fewer cells than bytes");
        self.cell_bytes = u16::try_from(usize::from(self.cell_bytes) + added)
            .expect("the tree splits pages long before 64 KiB");
        self.set_end(index, start + added);
        self.shift_ends(index + 1, added as u16);
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
    pub(super) fn split_off(&mut self, index: usize, ledger: &mut Ledger) -> Page {
        let mut right = Page::default();
        right.append_cells(self, index, ledger);
        self.cell_bytes = self.start(index) as u16;
        self.cells = index as u16;
        self.shrink(ledger);
        right
    }

    /// Appends all cells of `other`, which is gone afterwards.
    pub(super) fn append(&mut self, other: Page, ledger: &mut Ledger) {
        self.append_cells(&other, 0, ledger);
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

    /// The first index whose cell is not `before`; the cells for which it holds come first.
    pub(super) fn partition_point(&self, mut before: impl FnMut(&[u8]) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if before(self.cell(middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn append_cells(&mut self, from: &Page, first: usize, ledger: &mut Ledger) {
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
            self.set_end(old + i, from.end(first + i) - start + at);
        }
    }

    fn slot(&self, index: usize) -> usize {
        self.buffer.len() - (index + 1) * SLOT_BYTES
    }

    fn end(&self, index: usize) -> usize {
        assert!(index < self.len(), "a cell that exists");
        let at = self.slot(index);
        usize::from(u16::from_le_bytes([self.buffer[at], self.buffer[at + 1]]))
    }

    fn start(&self, index: usize) -> usize {
        if index == 0 { 0 } else { self.end(index - 1) }
    }

    fn set_end(&mut self, index: usize, end: usize) {
        let at = self.slot(index);
        self.buffer[at..at + SLOT_BYTES].copy_from_slice(&(end as u16).to_le_bytes());
    }

    /// Adds `by`, modulo 2^16, to the ends of the cells from `first` on.
    fn shift_ends(&mut self, first: usize, by: u16) {
        let capacity = self.buffer.len();
        let slots = capacity - self.len() * SLOT_BYTES..capacity - first * SLOT_BYTES;
        for slot in self.buffer[slots].chunks_exact_mut(SLOT_BYTES) {
            let end = u16::from_le_bytes([slot[0], slot[1]]).wrapping_add(by);
            slot.copy_from_slice(&end.to_le_bytes());
        }
    }

    /// Gives memory back once two steps of it lie idle, so that a key added and removed again and
    /// again does not reallocate each time.
    fn shrink(&mut self, ledger: &mut Ledger) {
        let content = self.content_bytes();
        if buffer_bytes(content) + 2 * SMALL_STEP_BYTES <= self.buffer.len() || content == 0 {
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

#[cfg(test)]
mod tests {
    use ironring_core::prng::Prng;

    use super::*;

    fn cells(page: &Page) -> Vec<Vec<u8>> {
        (0..page.len()).map(|i| page.cell(i).to_vec()).collect()
    }

    #[test]
    fn a_page_is_a_vector_of_cells() {
        let mut prng = Prng::new(1);
        let mut ledger = Ledger::default();
        let mut page = Page::default();
        let mut model: Vec<Vec<u8>> = Vec::new();
        for step in 0..20_000u32 {
            let grow = step / 2_000 % 2 == 0;
            if model.is_empty() || prng.chance(if grow { 3 } else { 1 }, 4) {
                let at = prng.below(model.len() as u64 + 1) as usize;
                let mut cell = vec![0; prng.below(40) as usize];
                prng.fill(&mut cell);
                let (a, b) = cell.split_at(cell.len() / 3);
                page.insert(at, [a, b], &mut ledger);
                model.insert(at, cell);
            } else {
                let at = prng.below(model.len() as u64) as usize;
                page.remove(at, &mut ledger);
                model.remove(at);
            }
            if step % 97 == 0 {
                assert_eq!(cells(&page), model);
            }
            if step % 1_999 == 0 {
                let at = prng.below(model.len() as u64 + 1) as usize;
                let right = page.split_off(at, &mut ledger);
                assert_eq!(cells(&page), model[..at]);
                assert_eq!(cells(&right), model[at..]);
                page.append(right, &mut ledger);
            }
            assert_eq!(ledger.bytes(), block_bytes(page.buffer_bytes()));
            assert!(page.buffer_bytes() <= page.content_bytes() + 3 * LARGE_STEP_BYTES);
        }
        page.discard(&mut ledger);
        assert_eq!(ledger.bytes(), 0);
    }

    #[test]
    fn an_emptied_page_has_no_buffer() {
        let mut ledger = Ledger::default();
        let mut page = Page::default();
        page.insert(0, [b"a", b""], &mut ledger);
        page.remove(0, &mut ledger);
        assert_eq!((page.buffer_bytes(), ledger.bytes()), (0, 0));
    }
}
