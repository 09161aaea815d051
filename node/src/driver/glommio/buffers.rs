//! Memory for direct I/O, from glommio's registered slab while it lasts and from the heap beyond.

use std::any::Any;
use std::rc::Rc;

use glommio::io::{DmaBuffer, ReadResult};
use ironring_core::io::{BufAlloc, IoBuf, IoMem};

/// A write buffer. Shared with the kernel while a write is under way.
pub struct DmaMem(pub Rc<DmaBuffer>);

impl IoMem for DmaMem {
    fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        Rc::get_mut(&mut self.0)
            .expect("the state machine owns the buffer, so no write is under way")
            .as_bytes_mut()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// What a read returned. Never written to.
pub struct ReadMem(pub ReadResult);

impl IoMem for ReadMem {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        panic!("what was read is not written to");
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Allocates from the executor it is used on.
#[derive(Debug, Default)]
pub struct DmaAlloc;

impl BufAlloc for DmaAlloc {
    fn alloc(&mut self, len: usize) -> IoBuf {
        IoBuf::new(Box::new(DmaMem(Rc::new(glommio::allocate_dma_buffer(len)))))
    }
}
