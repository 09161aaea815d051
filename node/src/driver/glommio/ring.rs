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

use std::cell::RefCell;
use std::future::Future;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::squeue::{self, Entry};
use io_uring::{IoUring, opcode, types};

use crate::driver::buffers::Aligned;

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
    /// The same to a file opened with O_DSYNC.
    WriteDurable,
}

enum Slot {
    Free,
    /// The kernel may touch the memory.
    UnderWay {
        memory: Box<Aligned>,
        waker: Option<Waker>,
    },
    /// Nobody waits, but the kernel may touch the memory.
    Abandoned {
        memory: Box<Aligned>,
    },
    /// The kernel is done with the memory; bytes moved, or -errno.
    Done {
        memory: Box<Aligned>,
        result: i32,
    },
    /// The ring broke: nobody knows what became of the operation.
    Lost {
        errno: i32,
    },
}

/// The ring of one executor.
pub struct Ring(RefCell<Inner>);

struct Inner {
    ring: IoUring,
    /// A durable write may end in a flush of the disk's cache. When the disk has written before the thread
    /// that submits is back, the kernel lets that one wait for the flush: all of a shard waits then, and
    /// 242 ms were seen.
    flushes: bool,
    /// Other nodes wait for this one: a thread of the kernel's submits such writes. A node alone does without:
    /// its clients wait for the disk anyway, and the thread takes a twentieth of a processor.
    others_wait: bool,
    /// Such a write is among those the kernel was not told of.
    has_aside: bool,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Entries the kernel was not told of yet.
    unsubmitted: usize,
    under_way: usize,
    /// The kernel's last words, once it takes nothing more.
    broken: Option<i32>,
}

impl Ring {
    /// An empty ring. `flushes`: a durable write may end in a flush of the disk's cache.
    ///
    /// # Errors
    /// The system refuses: no io_uring, or not enough lockable memory.
    pub fn new(flushes: bool) -> std::io::Result<Ring> {
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
        Ok(Ring(RefCell::new(Inner {
            ring,
            flushes,
            others_wait: false,
            has_aside: false,
            slots: Vec::new(),
            free: Vec::new(),
            unsubmitted: 0,
            under_way: 0,
            broken: None,
        })))
    }

    /// Asks for all of `memory` to be read from, or written to, `file` at `pos`. The file must stay
    /// open until the operation has ended. Nothing happens before [`Ring::drive`].
    pub fn ask(
        self: &Rc<Self>,
        direction: Direction,
        file: RawFd,
        pos: u64,
        memory: Box<Aligned>,
    ) -> Operation {
        let slot = self.0.borrow_mut().ask(direction, types::Fd(file), pos, memory);
        Operation { ring: Rc::clone(self), slot }
    }

    /// Submits what was asked for, and hands over what has ended.
    pub fn drive(&self) {
        self.0.borrow_mut().drive();
    }

    /// Whether other nodes wait for this one.
    pub fn others_wait(&self, wait: bool) {
        self.0.borrow_mut().others_wait = wait;
    }

    /// Readable while there are completions to hand over.
    #[must_use]
    pub fn completions(&self) -> BorrowedFd<'_> {
        let descriptor = self.0.borrow().ring.as_raw_fd();
        // SAFETY: the ring lives as long as `self`, and with it its descriptor.
        unsafe { BorrowedFd::borrow_raw(descriptor) }
    }
}

impl Inner {
    fn ask(
        &mut self,
        direction: Direction,
        file: types::Fd,
        pos: u64,
        mut memory: Box<Aligned>,
    ) -> usize {
        let len = u32::try_from(memory.len()).expect("buffers are far below 4 GiB");
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            self.slots.len() - 1
        });
        let entry = match direction {
            Direction::Read => {
                opcode::Read::new(file, memory.as_mut_ptr(), len).offset(pos).build()
            }
            Direction::Write | Direction::WriteDurable => {
                opcode::Write::new(file, memory.as_ptr(), len).offset(pos).build()
            }
        };
        let durable = direction == Direction::WriteDurable;
        let aside = durable && self.flushes && self.others_wait;
        let entry = if aside { entry.flags(squeue::Flags::ASYNC) } else { entry };
        self.has_aside |= aside;
        self.slots[slot] = Slot::UnderWay { memory, waker: None };
        self.under_way += 1;
        self.push(&entry.user_data(slot as u64));
        slot
    }

    fn push(&mut self, entry: &Entry) {
        while self.broken.is_none() {
            // SAFETY: the entry names memory that a slot owns until the completion is seen, at an
            // address that moving the box does not change.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                self.unsubmitted += 1;
                return;
            }
            // Before 5.11 the kernel takes nothing while completions have no room: both go on.
            self.submit();
            self.reap();
        }
        // Also what this entry was for.
        self.lose_all();
    }

    fn drive(&mut self) {
        let overflowed = self.under_way > 0 && self.ring.submission().cq_overflow();
        if self.unsubmitted > 0 || overflowed {
            self.submit();
        }
        if self.under_way > 0 {
            self.reap();
        }
    }

    fn submit(&mut self) {
        match self.ring.submit() {
            Ok(taken) => {
                self.unsubmitted = self.unsubmitted.saturating_sub(taken);
                if std::mem::take(&mut self.has_aside) {
                    // The kernel's thread may be bound to this processor, and the disk waits for it.
                    std::thread::yield_now();
                }
            }
            // Interrupted, or the kernel is short of something: what it did not take stays queued,
            // and the next round asks again.
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => {}
                errno => {
                    self.broken = Some(errno.unwrap_or(libc::EIO));
                    self.lose_all();
                }
            },
        }
    }

    fn reap(&mut self) {
        for completion in self.ring.completion() {
            let slot = completion.user_data() as usize;
            let ended = match std::mem::replace(&mut self.slots[slot], Slot::Free) {
                Slot::UnderWay { memory, waker } => {
                    self.slots[slot] = Slot::Done { memory, result: completion.result() };
                    waker
                }
                Slot::Abandoned { .. } => {
                    self.free.push(slot);
                    None
                }
                // It ended after all, too late for whoever asked.
                lost if self.broken.is_some() => {
                    self.slots[slot] = lost;
                    continue;
                }
                _ => unreachable!("an operation ends once"),
            };
            self.under_way -= 1;
            if let Some(waker) = ended {
                waker.wake();
            }
        }
    }

    /// The ring is broken: whoever waits is told. What the kernel may still write to is never freed.
    fn lose_all(&mut self) {
        let Some(errno) = self.broken else { return };
        for slot in &mut self.slots {
            match std::mem::replace(slot, Slot::Free) {
                Slot::UnderWay { memory, waker } => {
                    std::mem::forget(memory);
                    *slot = Slot::Lost { errno };
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                }
                Slot::Abandoned { memory } => {
                    std::mem::forget(memory);
                    *slot = Slot::Lost { errno };
                }
                other => *slot = other,
            }
        }
        (self.under_way, self.unsubmitted) = (0, 0);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A device that still works on an operation must find its memory. This is the end of the
        // process, or close to it.
        for slot in self.slots.drain(..) {
            if let Slot::UnderWay { memory, .. } | Slot::Abandoned { memory } = slot {
                std::mem::forget(memory);
            }
        }
    }
}

/// An operation under way. Its end: the memory and how many bytes were moved, or the error.
pub struct Operation {
    ring: Rc<Ring>,
    slot: usize,
}

/// The slot of an operation whose end was taken.
const TAKEN: usize = usize::MAX;

impl Future for Operation {
    type Output = std::io::Result<(Box<Aligned>, usize)>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        assert_ne!(self.slot, TAKEN, "an operation ends once");
        let slot = self.slot;
        let mut inner = self.ring.0.borrow_mut();
        let ended = match std::mem::replace(&mut inner.slots[slot], Slot::Free) {
            Slot::UnderWay { memory, .. } => {
                inner.slots[slot] = Slot::UnderWay { memory, waker: Some(cx.waker().clone()) };
                return Poll::Pending;
            }
            Slot::Done { memory, result } => match usize::try_from(result) {
                Ok(moved) => Ok((memory, moved)),
                Err(_) => Err(std::io::Error::from_raw_os_error(-result)),
            },
            Slot::Lost { errno } => Err(std::io::Error::from_raw_os_error(errno)),
            Slot::Free | Slot::Abandoned { .. } => unreachable!("this operation holds the slot"),
        };
        inner.free.push(slot);
        drop(inner);
        self.slot = TAKEN;
        Poll::Ready(ended)
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if self.slot == TAKEN {
            return;
        }
        let mut inner = self.ring.0.borrow_mut();
        match std::mem::replace(&mut inner.slots[self.slot], Slot::Free) {
            Slot::UnderWay { memory, .. } => inner.slots[self.slot] = Slot::Abandoned { memory },
            _ => inner.free.push(self.slot),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use ironring_core::io::IoMem as _;

    use super::*;

    fn memory(len: usize) -> Box<Aligned> {
        Box::new(Aligned::zeroed(len))
    }

    fn ends(ring: &Ring, mut operation: Operation) -> std::io::Result<(Box<Aligned>, usize)> {
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            ring.drive();
            if let Poll::Ready(end) = Pin::new(&mut operation).poll(&mut cx) {
                return end;
            }
        }
    }

    fn moved(ring: &Ring, operation: Operation) -> usize {
        ends(ring, operation).expect("it ends well").1
    }

    #[test]
    fn what_is_written_is_read_back_and_errors_are_told() {
        // By this thread, and by one of the kernel's.
        for others_wait in [false, true] {
            let ring = Rc::new(Ring::new(true).unwrap());
            ring.others_wait(others_wait);
            write_read_and_fail(&ring);
        }
    }

    fn write_read_and_fail(ring: &Rc<Ring>) {
        let file = tempfile::tempfile().unwrap();
        let mut from = memory(8192);
        from.bytes_mut().fill(0x5A);
        assert_eq!(moved(ring, ring.ask(Direction::Write, file.as_raw_fd(), 4096, from)), 8192);
        let durable = ring.ask(Direction::WriteDurable, file.as_raw_fd(), 8192, memory(4096));
        assert_eq!(moved(ring, durable), 4096);
        let read = ring.ask(Direction::Read, file.as_raw_fd(), 8192, memory(8192));
        let (bytes, got) = ends(ring, read).unwrap();
        assert_eq!(got, 4096, "the file ends");
        assert!(bytes.bytes()[..4096].iter().all(|b| *b == 0));
        let read = ring.ask(Direction::Read, file.as_raw_fd(), 4096, memory(4096));
        let (bytes, _) = ends(ring, read).unwrap();
        assert!(bytes.bytes().iter().all(|b| *b == 0x5A));
        let bad = ring.ask(Direction::Read, -1, 0, memory(4096));
        assert_eq!(ends(ring, bad).err().unwrap().raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn more_completions_than_the_ring_holds_are_all_handed_over() {
        let ring = Rc::new(Ring::new(true).unwrap());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[9; 4096]).unwrap();
        let ask = |_| ring.ask(Direction::Read, file.as_raw_fd(), 0, memory(512));
        let mut all: Vec<Operation> = (0..3 * COMPLETIONS).map(ask).collect();
        // All are submitted before the first is handed over.
        while ring.0.borrow().unsubmitted > 0 {
            ring.0.borrow_mut().submit();
        }
        for operation in all.drain(..) {
            assert_eq!(moved(&ring, operation), 512);
        }
        assert_eq!(ring.0.borrow().under_way, 0);
    }

    #[test]
    fn abandoned_operations_end_and_their_slots_serve_again() {
        let ring = Rc::new(Ring::new(true).unwrap());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 4096]).unwrap();
        // More than the ring takes at once.
        for round in 0..3 * ENTRIES {
            drop(ring.ask(Direction::Read, file.as_raw_fd(), 0, memory(4096)));
            let read = ring.ask(Direction::Read, file.as_raw_fd(), 0, memory(4096));
            if round % 2 == 0 {
                assert_eq!(moved(&ring, read), 4096);
            }
        }
        while ring.0.borrow().under_way > 0 {
            ring.drive();
        }
        let inner = ring.0.borrow();
        assert_eq!(inner.free.len(), inner.slots.len(), "every slot is free again");
    }

    #[test]
    fn when_the_kernel_takes_no_more_everybody_is_told() {
        let ring = Rc::new(Ring::new(true).unwrap());
        let file = tempfile::tempfile().unwrap();
        let waiting = ring.ask(Direction::Write, file.as_raw_fd(), 0, memory(4096));
        drop(ring.ask(Direction::Write, file.as_raw_fd(), 4096, memory(4096)));
        // From here on its descriptor is none of a ring.
        let null = std::fs::File::open("/dev/null").unwrap();
        // SAFETY: both descriptors are open, and nobody else uses the ring's.
        assert!(unsafe { libc::dup2(null.as_raw_fd(), ring.completions().as_raw_fd()) } >= 0);
        assert!(ends(&ring, waiting).is_err());
        let late = ring.ask(Direction::Read, file.as_raw_fd(), 0, memory(4096));
        assert!(ends(&ring, late).is_err());
    }
}
