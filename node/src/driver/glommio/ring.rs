//! Reads and writes of log files on a ring of their own, beside glommio's reactor.
//!
//! A pass of glommio's reactor re-arms its timers and links its three rings: four system calls and
//! about 8 us, paid once to submit a write and again to notice that it ended. With one client that
//! was a third of a put, and under load a tenth of the processor. This ring is submitted with one
//! system call at the end of a turn, and its completions are read from memory in every round of the
//! executor; it sleeps where the sockets sleep, because its descriptor is in their epoll set.
//!
//! Memory belongs to an operation from the moment it is asked for until the kernel has answered,
//! also when nobody waits for it any more. An operation that is abandoned is still completed.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::squeue::Entry;
use io_uring::{IoUring, opcode, types};

use super::buffers::DmaMem;

/// Submissions the ring takes at once. More operations than these may be under way.
const ENTRIES: u32 = 128;
/// Completions the ring holds; what is beyond, the kernel keeps until it is asked again.
const COMPLETIONS: u32 = 1024;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// File to memory.
    Read,
    /// Memory to file.
    Write,
}

enum Slot {
    Free,
    /// The kernel may touch the memory.
    UnderWay {
        memory: Box<DmaMem>,
        waker: Option<Waker>,
    },
    /// Nobody waits, but the kernel may touch the memory.
    Abandoned {
        _memory: Box<DmaMem>,
    },
    Done {
        memory: Box<DmaMem>,
        result: i32,
    },
}

/// The ring of one executor.
pub struct Ring {
    ring: RefCell<IoUring>,
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<usize>>,
    /// Entries the kernel was not told of yet.
    unsubmitted: Cell<usize>,
    under_way: Cell<usize>,
}

impl Ring {
    /// An empty ring.
    ///
    /// # Errors
    /// The system refuses: no io_uring, or not enough lockable memory.
    pub fn new() -> std::io::Result<Ring> {
        let build = |coop: bool| {
            let mut builder = IoUring::builder();
            builder.setup_clamp().setup_cqsize(COMPLETIONS);
            if coop {
                // Completions are posted when this thread enters the kernel anyway, or sleeps in
                // it; nobody interrupts it for them.
                builder.setup_coop_taskrun();
            }
            builder.build(ENTRIES)
        };
        let ring = match build(true) {
            // A kernel before 5.19.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => build(false)?,
            built => built?,
        };
        Ok(Ring {
            ring: RefCell::new(ring),
            slots: RefCell::default(),
            free: RefCell::default(),
            unsubmitted: Cell::new(0),
            under_way: Cell::new(0),
        })
    }

    /// Asks for all of `memory` to be read from, or written to, `file` at `pos`. The file must stay
    /// open until the operation has ended. Nothing happens before [`Ring::drive`].
    pub fn ask(
        self: &Rc<Self>,
        direction: Direction,
        file: RawFd,
        pos: u64,
        mut memory: Box<DmaMem>,
    ) -> Operation {
        let len = u32::try_from(memory.0.len()).expect("buffers are far below 4 GiB");
        let slot = self.free.borrow_mut().pop().unwrap_or_else(|| {
            let mut slots = self.slots.borrow_mut();
            slots.push(Slot::Free);
            slots.len() - 1
        });
        let file = types::Fd(file);
        let entry = match direction {
            Direction::Read => {
                opcode::Read::new(file, memory.0.as_mut_ptr(), len).offset(pos).build()
            }
            Direction::Write => {
                opcode::Write::new(file, memory.0.as_ptr(), len).offset(pos).build()
            }
        };
        self.slots.borrow_mut()[slot] = Slot::UnderWay { memory, waker: None };
        self.push(&entry.user_data(slot as u64));
        self.under_way.set(self.under_way.get() + 1);
        Operation { ring: Rc::clone(self), slot }
    }

    fn push(&self, entry: &Entry) {
        loop {
            // SAFETY: the entry names memory that a slot owns until the completion is seen, at an
            // address that moving the box does not change.
            let pushed = unsafe { self.ring.borrow_mut().submission().push(entry) };
            if pushed.is_ok() {
                self.unsubmitted.set(self.unsubmitted.get() + 1);
                return;
            }
            self.submit();
        }
    }

    /// Submits what was asked for, and hands over what has ended.
    pub fn drive(&self) {
        let overflowed = || self.ring.borrow_mut().submission().cq_overflow();
        if self.unsubmitted.get() > 0 || (self.under_way.get() > 0 && overflowed()) {
            self.submit();
        }
        if self.under_way.get() > 0 {
            self.reap();
        }
    }

    fn submit(&self) {
        match self.ring.borrow().submit() {
            Ok(taken) => self.unsubmitted.set(self.unsubmitted.get().saturating_sub(taken)),
            // Interrupted, or the kernel is short of something: what it did not take stays queued,
            // and the next round asks again.
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => {}
                _ => panic!("the kernel takes no more I/O: {error}"),
            },
        }
    }

    fn reap(&self) {
        let mut ring = self.ring.borrow_mut();
        for completion in ring.completion() {
            let slot = completion.user_data() as usize;
            self.under_way.set(self.under_way.get() - 1);
            let mut slots = self.slots.borrow_mut();
            match std::mem::replace(&mut slots[slot], Slot::Free) {
                Slot::UnderWay { memory, waker } => {
                    slots[slot] = Slot::Done { memory, result: completion.result() };
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                }
                Slot::Abandoned { .. } => self.free.borrow_mut().push(slot),
                Slot::Free | Slot::Done { .. } => unreachable!("an operation ends once"),
            }
        }
    }

    /// Readable while there are completions to hand over.
    #[must_use]
    pub fn completions(&self) -> BorrowedFd<'_> {
        let descriptor = self.ring.borrow().as_raw_fd();
        // SAFETY: the ring lives as long as `self`, and with it its descriptor.
        unsafe { BorrowedFd::borrow_raw(descriptor) }
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.completions()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // A device that still works on an operation must find its memory. This is the end of the
        // process, or close to it.
        for slot in self.slots.borrow_mut().drain(..) {
            if matches!(slot, Slot::UnderWay { .. } | Slot::Abandoned { .. }) {
                std::mem::forget(slot);
            }
        }
    }
}

/// An operation under way. Its end: the memory, and what the kernel says (bytes, or -errno).
pub struct Operation {
    ring: Rc<Ring>,
    slot: usize,
}

/// The slot of an operation whose end was taken.
const TAKEN: usize = usize::MAX;

impl Future for Operation {
    type Output = (Box<DmaMem>, i32);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        assert_ne!(self.slot, TAKEN, "an operation ends once");
        let slot = self.slot;
        let mut slots = self.ring.slots.borrow_mut();
        match std::mem::replace(&mut slots[slot], Slot::Free) {
            Slot::UnderWay { memory, .. } => {
                slots[slot] = Slot::UnderWay { memory, waker: Some(cx.waker().clone()) };
                Poll::Pending
            }
            Slot::Done { memory, result } => {
                drop(slots);
                self.ring.free.borrow_mut().push(slot);
                self.slot = TAKEN;
                Poll::Ready((memory, result))
            }
            Slot::Free | Slot::Abandoned { .. } => unreachable!("this operation holds the slot"),
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if self.slot == TAKEN {
            return;
        }
        let mut slots = self.ring.slots.borrow_mut();
        let slot = &mut slots[self.slot];
        match std::mem::replace(slot, Slot::Free) {
            Slot::UnderWay { memory, .. } => *slot = Slot::Abandoned { _memory: memory },
            _ => self.ring.free.borrow_mut().push(self.slot),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn memory(len: usize) -> Box<DmaMem> {
        Box::new(DmaMem(glommio::allocate_dma_buffer(len)))
    }

    /// Runs `body` on an executor of its own.
    fn on_executor<F: Future<Output = ()> + 'static>(body: impl FnOnce() -> F + Send + 'static) {
        let executor = glommio::LocalExecutorBuilder::default().io_memory(64 << 10);
        executor.spawn(body).expect("an executor").join().expect("it ends well");
    }

    async fn ends(ring: &Ring, mut operation: Operation) -> (Box<DmaMem>, i32) {
        loop {
            ring.drive();
            if let Some(end) = futures_lite::future::poll_once(&mut operation).await {
                return end;
            }
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_errors_are_told() {
        on_executor(|| async {
            let ring = Rc::new(Ring::new().unwrap());
            let file = tempfile::tempfile().unwrap();
            let mut from = memory(8192);
            from.0.as_bytes_mut().fill(0x5A);
            let write = ring.ask(Direction::Write, file.as_raw_fd(), 4096, from);
            assert_eq!(ends(&ring, write).await.1, 8192);
            let read = ring.ask(Direction::Read, file.as_raw_fd(), 8192, memory(8192));
            let (bytes, result) = ends(&ring, read).await;
            assert_eq!(result, 4096, "the file ends");
            assert!(bytes.0.as_bytes()[..4096].iter().all(|b| *b == 0x5A));
            let bad = ring.ask(Direction::Read, -1, 0, memory(4096));
            assert_eq!(ends(&ring, bad).await.1, -libc::EBADF);
        });
    }

    #[test]
    fn more_completions_than_the_ring_holds_are_all_handed_over() {
        on_executor(|| async {
            let ring = Rc::new(Ring::new().unwrap());
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&[9; 4096]).unwrap();
            let ask = |_| ring.ask(Direction::Read, file.as_raw_fd(), 0, memory(512));
            let mut all: Vec<Operation> = (0..3 * COMPLETIONS).map(ask).collect();
            // All are submitted before the first is handed over.
            while ring.unsubmitted.get() > 0 {
                ring.submit();
            }
            for operation in all.drain(..) {
                assert_eq!(ends(&ring, operation).await.1, 512);
            }
            assert_eq!(ring.under_way.get(), 0);
        });
    }

    #[test]
    fn abandoned_operations_end_and_their_slots_serve_again() {
        on_executor(|| async {
            let ring = Rc::new(Ring::new().unwrap());
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&[1; 4096]).unwrap();
            // More than the ring takes at once.
            for round in 0..3 * ENTRIES {
                drop(ring.ask(Direction::Read, file.as_raw_fd(), 0, memory(4096)));
                let read = ring.ask(Direction::Read, file.as_raw_fd(), 0, memory(4096));
                if round % 2 == 0 {
                    assert_eq!(ends(&ring, read).await.1, 4096);
                }
            }
            while ring.under_way.get() > 0 {
                ring.drive();
            }
            let slots = ring.slots.borrow().len();
            assert_eq!(ring.free.borrow().len(), slots, "every slot is free again");
        });
    }
}
