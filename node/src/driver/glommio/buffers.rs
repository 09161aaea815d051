//! Memory for direct I/O, from glommio's registered slab while it lasts and from the heap beyond.

use std::any::Any;

use glommio::io::DmaBuffer;
use ironring_core::io::{BufAlloc, IoBuf, IoMem};

/// Aligned memory.
pub struct DmaMem(pub DmaBuffer);

impl IoMem for DmaMem {
    fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_bytes_mut()
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
        IoBuf::new(Box::new(DmaMem(glommio::allocate_dma_buffer(len))))
    }
}
