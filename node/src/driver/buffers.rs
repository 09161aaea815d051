//! Memory for direct I/O: blocks from the heap at addresses a device takes.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::any::Any;
use std::ptr::NonNull;

use ironring_core::io::{BufAlloc, IoBuf, IoMem};
use ironring_core::limits::BLOCK_BYTES;

/// Bytes at an address that is a multiple of [`BLOCK_BYTES`]. They stay where they are when the
/// value is moved.
pub struct Aligned {
    start: NonNull<u8>,
    /// How many are shown, and how many there are.
    len: usize,
    capacity: usize,
}

impl Aligned {
    /// `len` zeros.
    #[must_use]
    pub fn zeroed(len: usize) -> Aligned {
        let layout = Aligned::layout(len);
        // SAFETY: the layout is not empty.
        Aligned::new(unsafe { alloc_zeroed(layout) }, len)
    }

    /// `len` bytes for a device to write: zeroing a read of 1 MiB would cost a twentieth of its time.
    ///
    /// # Safety
    /// Nobody looks at them before the device has written all of them.
    #[must_use]
    pub unsafe fn to_be_read(len: usize) -> Aligned {
        let layout = Aligned::layout(len);
        // SAFETY: the layout is not empty.
        Aligned::new(unsafe { alloc(layout) }, len)
    }

    fn new(start: *mut u8, len: usize) -> Aligned {
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(Aligned::layout(len)));
        Aligned { start, len, capacity: len }
    }

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len.max(1), BLOCK_BYTES).expect("lengths are far from the end")
    }

    /// Where it begins.
    #[must_use]
    pub fn as_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }

    /// Where it begins.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// How many bytes are shown.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: it was allocated with the same layout, and nobody else frees it.
        unsafe { dealloc(self.start.as_ptr(), Aligned::layout(self.capacity)) };
    }
}

impl IoMem for Aligned {
    fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes and more are ours; they were zeroed, or a device has written all of them.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else has a reference to them.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn show(&mut self, len: usize) {
        self.len = len.min(self.capacity);
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Where a shard's write buffers come from.
#[derive(Debug, Default)]
pub struct Alloc;

impl BufAlloc for Alloc {
    fn alloc(&mut self, len: usize) -> IoBuf {
        IoBuf::new(Box::new(Aligned::zeroed(len)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_where_a_device_takes_it_and_as_long_as_asked() {
        for len in [0, 1, 512, BLOCK_BYTES, 3 * BLOCK_BYTES + 7] {
            let mut memory = Aligned::zeroed(len);
            assert_eq!(memory.as_ptr() as usize % BLOCK_BYTES, 0);
            assert_eq!(memory.bytes(), vec![0; len]);
            memory.bytes_mut().fill(7);
            assert_eq!(memory.bytes(), vec![7; len]);
            memory.show(len / 2);
            assert_eq!((memory.bytes(), memory.len()), (&vec![7; len / 2][..], len / 2));
            memory.show(len);
            assert_eq!((memory.bytes(), memory.capacity()), (&vec![7; len][..], len));
            // SAFETY: nobody looks at it.
            let unread = unsafe { Aligned::to_be_read(len) };
            assert_eq!(unread.as_ptr() as usize % BLOCK_BYTES, 0);
        }
    }
}
