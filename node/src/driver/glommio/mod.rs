//! The driver's runtime on glommio.
//!
//! Three habits of glommio shape this folder (all measured). It decides whether a device can be
//! polled by one read of the *first* file an executor opens, and takes the device for pollable
//! when that file is empty, after which every read fails, so a 4 KiB probe file is read first. A
//! timer of zero does not let its reactor run (it is over when first looked at), and a yield only
//! runs other tasks. And it opens directories relative to no directory at all, which is EBADF for
//! a relative path, so the data directory's path is absolute.

mod file;
mod ring;

use std::cell::Cell;
use std::future::Future;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::mpsc;
use std::task::Poll;
use std::time::Duration;

use futures_lite::AsyncRead;
use glommio::io::{Directory, DmaFile};
use glommio::net::{TcpListener, TcpStream};
use glommio::{Latency, LocalExecutorBuilder, Placement, Shares, TaskQueueHandle};
use ironring_core::Instant;
use ironring_core::io::IoError;

use self::file::{RingFile, error_of};
use self::ring::Ring;
use super::runtime::{Join, OpenMode, Runtime, Seat};

/// Shorter than a pass of the reactor, longer than from making a timer to looking at it.
const REACTOR_PASS: Duration = Duration::from_nanos(500);
/// How long to wait for a descriptor when there is none left to wait with.
const NO_DESCRIPTOR_NAP: Duration = Duration::from_millis(1);

/// When glommio asks tasks to give way to those of another queue: never. A pass of the reactor sets a timer
/// for that, and when it has run out before the first task is looked at, because the processor was given
/// to others for so long (10 ms are enough on a busy machine), glommio 0.9 takes it that there is nothing to
/// do, and sleeps until somebody else has a reason to wake it, with everything ready to run: a node was
/// seen to stop for hours like that. No task here runs for long, and the rounds of the sockets make way
/// every [`PASS_EVERY`].
const GIVE_WAY: Duration = Duration::from_secs(365 * 24 * 3600);

/// A pass of the reactor is four system calls at least: while there is always something to do, one is
/// made this often. It serves timers, new connections and the tasks of other queues, none of which is
/// held to less than milliseconds.
const PASS_EVERY: Duration = Duration::from_micros(500);

/// The executor of the thread it is used on.
pub struct Glommio {
    ring: Rc<Ring>,
    passed_at: Cell<Instant>,
}

impl Runtime for Glommio {
    const NAME: &'static str = "glommio";

    type File = RingFile;
    type Listener = TcpListener;
    type Waiter = OwnedFd;
    type Queue = TaskQueueHandle;

    fn start<L, F>(seat: Seat, life: L) -> Result<Join, String>
    where
        L: FnOnce(Rc<Self>) -> F + Send + 'static,
        F: Future<Output = Result<(), String>> + 'static,
    {
        let placement = match seat.cpu {
            Some(cpu) => Placement::Fixed(usize::from(cpu)),
            None => Placement::Unbound,
        };
        // glommio keeps memory for its own reads, of which there is one, and registers it with the
        // kernel as far as it may: the rings need that room where there is little of it, and what is
        // more than the limit is not registered.
        let slab_bytes = seat.memlock_tight_bytes.map_or(0, |limit| limit + 1);
        let (started, starts) = mpsc::channel();
        let thread = LocalExecutorBuilder::new(placement)
            .name(&format!("shard-{}", seat.shard))
            .io_memory(slab_bytes)
            .ring_depth(seat.ring_depth as usize)
            .preempt_timer(GIVE_WAY)
            .spawn(move || async move {
                match Glommio::new(&seat.probe, seat.flushes).await {
                    Ok(runtime) => {
                        let _ = started.send(());
                        Ok(life(Rc::new(runtime)).await)
                    }
                    Err(why) => Err(why),
                }
            })
            .map_err(|e| e.to_string())?;
        let join = move || thread.join().unwrap_or_else(|e| Err(e.to_string()));
        match starts.recv() {
            Ok(()) => Ok(Box::new(join)),
            Err(_) => Err(join().err().unwrap_or_else(|| "it ended at once".to_owned())),
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        glommio::spawn_local(task).detach();
    }

    /// Its tasks get as much time as all others when both have much to do, and wait for the tasks of
    /// another queue that are ready, which is a round of the sockets at most.
    fn queue(&self, name: &'static str) -> TaskQueueHandle {
        let latency = Latency::Matters(GIVE_WAY);
        glommio::executor().create_task_queue(Shares::default(), latency, name)
    }

    fn spawn_into(&self, queue: &TaskQueueHandle, task: impl Future<Output = ()> + 'static) {
        let task = glommio::spawn_local_into(task, *queue);
        task.expect("queues live as long as their executor").detach();
    }

    async fn sleep(&self, duration: Duration) {
        glommio::timer::sleep(duration).await;
    }

    /// A timer of less than a pass of the reactor takes one.
    async fn reactor_pass(&self) {
        glommio::timer::sleep(REACTOR_PASS).await;
    }

    async fn yield_now(&self, now: Instant) {
        if now.since(self.passed_at.get()) >= PASS_EVERY {
            self.passed_at.set(now);
            return self.reactor_pass().await;
        }
        let mut yielded = false;
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    fn drive(&self) {
        self.ring.drive();
    }

    fn others_wait(&self, wait: bool) {
        self.ring.others_wait(wait);
    }

    async fn submit(&self) {
        self.ring.drive();
    }

    fn completions(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ring.completions())
    }

    fn waiter(&self, descriptor: BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
        descriptor.try_clone_to_owned()
    }

    /// glommio can only wait for sockets, so the descriptor poses as one: a stream begins with a
    /// poll of its descriptor, which is what is wanted, and then fails to receive from it, which
    /// tells that the poll has ended. A new stream is needed for each wait.
    async fn readable(&self, waiter: &OwnedFd) {
        let Ok(copy) = waiter.try_clone() else {
            // Out of descriptors: look again a little later.
            glommio::timer::sleep(NO_DESCRIPTOR_NAP).await;
            return;
        };
        // SAFETY: the descriptor is a fresh copy that nothing else owns.
        let mut pose = unsafe { TcpStream::from_raw_fd(copy.into_raw_fd()) };
        std::future::poll_fn(|cx| match Pin::new(&mut pose).poll_read(cx, &mut [0]) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(_) => Poll::Ready(()),
        })
        .await;
    }

    fn listener(&self, socket: socket2::Socket) -> std::io::Result<TcpListener> {
        // SAFETY: the descriptor is handed over: nothing else refers to it.
        Ok(unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) })
    }

    /// The copy is what the poller waits for; glommio's stream, with a poll of its own, goes.
    async fn accept(&self, listener: &TcpListener) -> std::io::Result<OwnedFd> {
        let stream = listener.accept().await.map_err(std::io::Error::from)?;
        // SAFETY: the descriptor is the stream's, which outlives the borrow.
        let descriptor = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
        descriptor.try_clone_to_owned()
    }

    async fn open(&self, path: &Path, mode: OpenMode) -> Result<RingFile, IoError> {
        RingFile::open(path, mode, Rc::clone(&self.ring)).await
    }

    /// By the kernel, or a thread for such things.
    async fn remove(&self, path: &Path) -> Result<(), IoError> {
        glommio::io::remove(path).await.map_err(|e| error_of(&e))
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), IoError> {
        glommio::io::rename(from, to).await.map_err(|e| error_of(&e))
    }

    async fn sync_dir(&self, dir: &Path) -> Result<(), IoError> {
        let dir = Directory::open(dir).await.map_err(|e| error_of(&e))?;
        let synced = dir.sync().await.map_err(|e| error_of(&e));
        dir.close().await.map_err(|e| error_of(&e))?;
        synced
    }
}

impl Glommio {
    /// The runtime of the executor this runs on; `probe` is the first file it opens. `flushes`: as in
    /// [`Seat`].
    pub(crate) async fn new(probe: &Path, flushes: bool) -> Result<Glommio, String> {
        read_probe(probe).await?;
        let ring = Ring::new(flushes).map_err(|e| format!("io_uring: {e}"))?;
        Ok(Glommio { ring: Rc::new(ring), passed_at: Cell::new(Instant(0)) })
    }
}

/// Reads the probe, which must be the first file the executor opens.
async fn read_probe(probe: &Path) -> Result<(), String> {
    let probe = DmaFile::open(probe).await.map_err(|e| e.to_string())?;
    let read = probe.read_at_aligned(0, 4096).await.map_err(|e| e.to_string())?;
    assert_eq!(read.len(), 4096, "the data directory made the probe file this long");
    drop(read);
    probe.close().await.map_err(|e| e.to_string())
}
