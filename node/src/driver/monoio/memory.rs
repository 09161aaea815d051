//! Memory for direct I/O: aligned blocks from the heap, kept for the next use.
//!
//! monoio has no buffers that are registered with the kernel. What is kept is bounded and always
//! initialised: a block is zeroed once, when the heap gives it.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::rc::Rc;

use ironring_core::io::{BufAlloc, IoBuf, IoMem};
use ironring_core::limits::BLOCK_BYTES;

/// Sizes of blocks are powers of two, from this on: the least a device is asked for.
const SMALLEST_LOG2: usize = BLOCK_BYTES.trailing_zeros() as usize;
/// More kinds of size than a process can address.
const SIZES: usize = usize::BITS as usize - SMALLEST_LOG2;

const _: () = assert!(BLOCK_BYTES.is_power_of_two());

/// Initialised bytes at an address that is a multiple of [`BLOCK_BYTES`].
struct Block {
    start: NonNull<u8>,
    size: usize,
}

impl Block {
    fn new(size: usize) -> Block {
        let layout = Block::layout(size);
        // SAFETY: the layout is not empty: the smallest size is that of a block.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        Block { start, size }
    }

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, BLOCK_BYTES)
            .expect("sizes are powers of two, far from the end")
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: `new` allocated it with the same layout, and nobody else frees it.
        unsafe { dealloc(self.start.as_ptr(), Block::layout(self.size)) };
    }
}

/// Blocks of one shard that wait for their next use.
pub struct Pool {
    free: RefCell<[Vec<Block>; SIZES]>,
    bytes: Cell<usize>,
    bytes_max: usize,
}

impl Pool {
    /// Keeps at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Rc<Pool> {
        let free = RefCell::new(std::array::from_fn(|_| Vec::new()));
        Rc::new(Pool { free, bytes: Cell::new(0), bytes_max })
    }

    /// `len` bytes, contents unspecified.
    pub fn take(self: &Rc<Pool>, len: usize) -> Memory {
        let size = len.max(BLOCK_BYTES).next_power_of_two();
        let kept = self.free.borrow_mut()[kind(size)].pop();
        let block = match kept {
            Some(block) => {
                self.bytes.set(self.bytes.get() - size);
                block
            }
            None => Block::new(size),
        };
        Memory { block: Some(block), len, pool: Rc::clone(self) }
    }

    fn keep(&self, block: Block) {
        let bytes = self.bytes.get() + block.size;
        if bytes <= self.bytes_max {
            self.bytes.set(bytes);
            self.free.borrow_mut()[kind(block.size)].push(block);
        }
    }
}

fn kind(size: usize) -> usize {
    size.trailing_zeros() as usize - SMALLEST_LOG2
}

/// A buffer; goes back to its pool when dropped.
pub struct Memory {
    /// There until dropped.
    block: Option<Block>,
    len: usize,
    pool: Rc<Pool>,
}

impl Memory {
    fn start(&self) -> *mut u8 {
        self.block.as_ref().expect("there until dropped").start.as_ptr()
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.pool.keep(self.block.take().expect("dropped once"));
    }
}

impl IoMem for Memory {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the block is initialised, at least `len` long, and ours.
        unsafe { std::slice::from_raw_parts(self.start(), self.len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else has a reference to it.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len) }
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

// SAFETY: the bytes are on the heap, so they stay where they are when the value is moved; all of
// them are initialised.
unsafe impl monoio::buf::IoBuf for Memory {
    fn read_ptr(&self) -> *const u8 {
        self.start()
    }

    fn bytes_init(&self) -> usize {
        self.len
    }
}

// SAFETY: as above. There is nothing to keep of how much was read: it is all initialised.
unsafe impl monoio::buf::IoBufMut for Memory {
    fn write_ptr(&mut self) -> *mut u8 {
        self.start()
    }

    fn bytes_total(&mut self) -> usize {
        self.len
    }

    unsafe fn set_init(&mut self, _pos: usize) {}
}

/// Allocates from a pool.
pub struct Alloc(pub Rc<Pool>);

impl BufAlloc for Alloc {
    fn alloc(&mut self, len: usize) -> IoBuf {
        IoBuf::new(Box::new(self.0.take(len)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_used_again_and_kept_up_to_a_bound() {
        let pool = Pool::new(3 * BLOCK_BYTES);
        let mut first = pool.take(BLOCK_BYTES);
        assert_eq!(first.start() as usize % BLOCK_BYTES, 0);
        first.bytes_mut().fill(7);
        let start = first.start();
        drop(first);
        let again = pool.take(100);
        assert_eq!((again.start(), again.bytes()), (start, &[7; 100][..]));
        let large = pool.take(2 * BLOCK_BYTES + 1);
        assert_eq!(large.bytes(), &[0; 2 * BLOCK_BYTES + 1][..]);
        drop(large);
        assert_eq!(pool.bytes.get(), 0, "four blocks are more than are kept");
        drop((again, pool.take(2 * BLOCK_BYTES)));
        assert_eq!(pool.bytes.get(), 3 * BLOCK_BYTES);
        drop(pool.take(BLOCK_BYTES));
        assert_eq!(pool.bytes.get(), 3 * BLOCK_BYTES);
    }
}
