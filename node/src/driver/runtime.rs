//! What a driver's asynchronous runtime must supply; everything else of the driver is shared.
//!
//! The shard's turns, connections, timer and life are written once over [`Runtime`], with the
//! runtime as a type parameter: a call costs what it would cost if there were only one. A runtime
//! runs tasks on the one thread of a shard, waits for time and for one descriptor, accepts
//! connections and executes file operations. It decides nothing.
//!
//! Two habits the shared code relies on: a task that is woken runs behind those that are ready
//! (which is what makes a turn cover everything that came before it), and a future that was polled
//! once makes progress without being polled again until it wakes its task.

use std::future::Future;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use ironring_core::Instant;
use ironring_core::io::{IoBuf, IoError};

/// Where and how one shard's thread runs.
#[derive(Clone, Debug)]
pub struct Seat {
    /// The shard.
    pub shard: u16,
    /// The CPU to pin its thread to.
    pub cpu: Option<u16>,
    /// What the process may lock, when that is little: the rings need all of it.
    pub memlock_tight_bytes: Option<usize>,
    /// Entries of each of the runtime's rings.
    pub ring_depth: u32,
    /// Durable writes may wait for a flush of the disk's cache: while other nodes wait for this one, a runtime
    /// that can has them submitted by another thread of the kernel's.
    pub flushes: bool,
    /// A file of 4 KiB for a runtime that must read one before any other: glommio does.
    pub probe: PathBuf,
}

#[cfg(test)]
impl Seat {
    /// The only one of a test, on any CPU. `dir` gets the probe.
    pub(crate) fn in_test(dir: &Path) -> Seat {
        let probe = dir.join("probe");
        std::fs::write(&probe, vec![1; 4096]).expect("the directory is there");
        let ring_depth = 64;
        Seat { shard: 0, cpu: None, memlock_tight_bytes: None, ring_depth, flushes: true, probe }
    }
}

/// How a shard's thread ended: with the shard's own result, or without one.
pub type Ended = Result<Result<(), String>, String>;

/// Waits for the end of a shard's thread.
pub type Join = Box<dyn FnOnce() -> Ended>;

/// An asynchronous runtime that runs one shard on one thread.
pub trait Runtime: Sized + 'static {
    /// Its name in settings and messages.
    const NAME: &'static str;

    /// An open file.
    type File: File;
    /// A socket that accepts connections.
    type Listener: 'static;
    /// A descriptor to wait for.
    type Waiter: 'static;
    /// A queue of tasks.
    type Queue: 'static;

    /// Starts a thread with a runtime on it, which runs `life` to its end.
    ///
    /// # Errors
    /// Why there is no such thread.
    fn start<L, F>(seat: Seat, life: L) -> Result<Join, String>
    where
        L: FnOnce(Rc<Self>) -> F + Send + 'static,
        F: Future<Output = Result<(), String>> + 'static;

    /// Runs a task beside this one. When it is polled first is the runtime's choice.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);

    /// Makes a queue of tasks beside that of all others, so that neither keeps the other waiting for
    /// long. A runtime that has one queue only gives that.
    fn queue(&self, name: &'static str) -> Self::Queue;

    /// Runs a task beside this one, in a queue.
    fn spawn_into(&self, queue: &Self::Queue, task: impl Future<Output = ()> + 'static);

    /// Waits.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()>;

    /// Lets every ready task run, and then the reactor: what was asked of the kernel is submitted,
    /// what it has finished is noticed. Does not wait for anything.
    fn reactor_pass(&self) -> impl Future<Output = ()>;

    /// Lets every ready task run, and the reactor when it has not run for a while: for a task that
    /// has always something to do.
    fn yield_now(&self, now: Instant) -> impl Future<Output = ()>;

    /// Sees to it that the file operations asked for are under way.
    fn submit(&self) -> impl Future<Output = ()>;

    /// Submits file operations and notices their ends, where the reactor does not do that.
    fn drive(&self);

    /// Whether other nodes wait for this one's heartbeats: its executors are not to wait for a disk then,
    /// where a runtime has the choice, though it costs throughput.
    fn others_wait(&self, wait: bool) {
        let _ = wait;
    }

    /// A descriptor that is readable while [`Runtime::drive`] has something to notice.
    fn completions(&self) -> Option<BorrowedFd<'_>>;

    /// Makes a descriptor one that can be waited for.
    ///
    /// # Errors
    /// When the system has no descriptors left.
    fn waiter(&self, descriptor: BorrowedFd<'_>) -> std::io::Result<Self::Waiter>;

    /// Waits until the descriptor is readable. May end early. Dropping the future gives it up.
    fn readable(&self, waiter: &Self::Waiter) -> impl Future<Output = ()>;

    /// Takes over a socket that listens already.
    ///
    /// # Errors
    /// When the runtime cannot have it.
    fn listener(&self, socket: socket2::Socket) -> std::io::Result<Self::Listener>;

    /// Accepts one connection.
    fn accept(&self, listener: &Self::Listener) -> impl Future<Output = std::io::Result<OwnedFd>>;

    /// Opens a file.
    fn open(
        &self,
        path: &Path,
        mode: OpenMode,
    ) -> impl Future<Output = Result<Self::File, IoError>>;

    /// Deletes a file. With a large one a file system takes its time, and the disk as well.
    fn remove(&self, path: &Path) -> impl Future<Output = Result<(), IoError>>;

    /// Gives a file another name, whoever had it before.
    fn rename(&self, from: &Path, to: &Path) -> impl Future<Output = Result<(), IoError>>;

    /// Makes the names of a directory durable.
    fn sync_dir(&self, dir: &Path) -> impl Future<Output = Result<(), IoError>>;
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// For reads, and writes that need not be durable when they complete.
    Plain,
    /// With O_DSYNC: a write completes when it is durable.
    Durable,
    /// Plain, made if it does not exist, and emptied.
    Create,
}

/// An open file, for direct I/O where the file system offers it. Nothing is retried.
pub trait File: Sized + 'static {
    /// Its length in bytes.
    fn size(&self) -> impl Future<Output = Result<u64, IoError>>;

    /// Exactly `len` bytes at `pos`, or an error.
    fn read_at(&self, pos: u64, len: usize) -> impl Future<Output = Result<IoBuf, IoError>>;

    /// Writes all of `buf`, which [`super::buffers::Alloc`] made, and returns it.
    fn write_at(&self, buf: IoBuf, pos: u64) -> impl Future<Output = Result<IoBuf, IoError>>;

    /// Makes its bytes and its length durable.
    fn sync_data(&self) -> impl Future<Output = Result<(), IoError>>;

    /// Closes it.
    fn close(self) -> impl Future<Output = Result<(), IoError>>;
}

/// An error of the system in the seam's words.
#[must_use]
pub fn io_error(error: &std::io::Error) -> IoError {
    match error.raw_os_error() {
        Some(libc::ENOENT) => IoError::NotFound,
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => IoError::NoSpace,
        Some(errno) => IoError::Os { errno, message: error.to_string() },
        None => IoError::Os { errno: 0, message: error.to_string() },
    }
}
