//! The driver's runtime on monoio, with its io_uring driver.
//!
//! What shapes this folder. monoio's timers count whole milliseconds, and a commit group is held
//! back for less, so waits are timer descriptors. Its yield puts a task before those that are
//! ready, and it sleeps when no task is, so a pass of the reactor waits for a descriptor that is
//! always readable: its completion is there as soon as everything else was submitted. Dropping a
//! descriptor of monoio submits its close to the ring of the thread, so a runtime is never taken
//! down: it ends with the process, and with it what the kernel may still write to.

mod file;

use std::cell::RefCell;
use std::future::Future;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use ironring_core::Instant;
use ironring_core::io::IoError;
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use self::file::DirectFile;
use super::runtime::{Join, OpenMode, Runtime, Seat, io_error};

/// Waits that never need a new timer: the turns', the timer task's and one of each listener.
const TIMERS: usize = 4;
/// The thread rests this long when there is no descriptor left for a timer.
const NO_TIMER_NAP: Duration = Duration::from_millis(1);

/// The runtime of the thread it is used on.
pub struct Monoio {
    always_readable: Waiter,
    timers: RefCell<Vec<Timer>>,
}

/// A descriptor to wait for. monoio polls sockets only, so it poses as one: a poll asks for
/// nothing else.
pub struct Waiter(TcpStream);

impl Waiter {
    fn new(descriptor: OwnedFd) -> std::io::Result<Waiter> {
        // SAFETY: the descriptor is handed over: nothing else owns it.
        let pose = unsafe { std::net::TcpStream::from_raw_fd(descriptor.into_raw_fd()) };
        Ok(Waiter(TcpStream::from_std(pose)?))
    }

    async fn readable(&self) {
        // A failure ends the wait, which may end early.
        let _ = self.0.readable(false).await;
    }
}

struct Timer {
    timer: TimerFd,
    over: Waiter,
}

impl Timer {
    fn new() -> std::io::Result<Timer> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let over = Waiter::new(timer.as_fd().try_clone_to_owned()?)?;
        Ok(Timer { timer, over })
    }

    async fn wait(&self, duration: Duration) -> std::io::Result<()> {
        // Zero would stop it.
        let after = TimeSpec::from_duration(duration.max(Duration::from_nanos(1)));
        self.timer.set(Expiration::OneShot(after), TimerSetTimeFlags::empty())?;
        self.over.readable().await;
        Ok(())
    }
}

impl Monoio {
    /// The runtime of the thread this runs on.
    pub(crate) fn new() -> std::io::Result<Monoio> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let one = EventFd::from_value_and_flags(1, flags)?;
        Ok(Monoio {
            always_readable: Waiter::new(OwnedFd::from(one))?,
            timers: RefCell::new((0..TIMERS).map(|_| Timer::new()).collect::<Result<_, _>>()?),
        })
    }
}

impl Runtime for Monoio {
    const NAME: &'static str = "monoio";

    type File = DirectFile;
    type Listener = TcpListener;
    type Waiter = Waiter;
    type Queue = ();

    fn start<L, F>(seat: Seat, life: L) -> Result<Join, String>
    where
        L: FnOnce(Rc<Self>) -> F + Send + 'static,
        F: Future<Output = Result<(), String>> + 'static,
    {
        let (started, starts) = mpsc::channel();
        let run = move || {
            let ring = seat
                .cpu
                .map_or(Ok(()), |cpu| monoio::utils::bind_to_cpu_set([usize::from(cpu)]))
                .map_err(|errno| std::io::Error::from_raw_os_error(errno as i32))
                .and_then(|()| {
                    RuntimeBuilder::<IoUringDriver>::new().with_entries(seat.ring_depth).build()
                });
            let mut ring = match ring {
                Ok(ring) => ring,
                Err(error) => {
                    let _ = started.send(Err(error.to_string()));
                    return Err("never started".to_owned());
                }
            };
            let ended = ring.block_on(async move {
                let runtime = Monoio::new().map_err(|e| e.to_string());
                let _ = started.send(runtime.as_ref().map(|_| ()).map_err(String::clone));
                life(Rc::new(runtime?)).await
            });
            // See the top of this file.
            std::mem::forget(ring);
            ended
        };
        let thread = std::thread::Builder::new()
            .name(format!("shard-{}", seat.shard))
            .spawn(run)
            .map_err(|e| e.to_string())?;
        starts.recv().map_err(|_| "its thread ended at once".to_owned())??;
        Ok(Box::new(move || thread.join().map_err(|_| "its thread panicked".to_owned())))
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        // The handle is only for who wants to wait for the task: it runs without.
        drop(monoio::spawn(task));
    }

    /// monoio has one queue, in which every task that is ready has its turn.
    fn queue(&self, _name: &'static str) {}

    fn spawn_into(&self, (): &(), task: impl Future<Output = ()> + 'static) {
        self.spawn(task);
    }

    async fn sleep(&self, duration: Duration) {
        let kept = self.timers.borrow_mut().pop();
        let timer = kept.map_or_else(Timer::new, Ok);
        let waited = match &timer {
            Ok(timer) => timer.wait(duration).await.is_ok(),
            Err(_) => false,
        };
        if !waited {
            std::thread::sleep(duration.min(NO_TIMER_NAP));
        }
        self.timers.borrow_mut().extend(timer);
    }

    async fn reactor_pass(&self) {
        self.always_readable.readable().await;
    }

    /// A pass costs one system call here, and completions are noticed in no other way.
    async fn yield_now(&self, _now: Instant) {
        self.reactor_pass().await;
    }

    async fn submit(&self) {
        self.reactor_pass().await;
    }

    /// The ring of the files is the reactor's.
    fn drive(&self) {}

    fn completions(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn waiter(&self, descriptor: BorrowedFd<'_>) -> std::io::Result<Waiter> {
        Waiter::new(descriptor.try_clone_to_owned()?)
    }

    async fn readable(&self, waiter: &Waiter) {
        waiter.readable().await;
    }

    fn listener(&self, socket: socket2::Socket) -> std::io::Result<TcpListener> {
        TcpListener::from_std(socket.into())
    }

    async fn accept(&self, listener: &TcpListener) -> std::io::Result<OwnedFd> {
        let (stream, _) = listener.accept().await?;
        // SAFETY: the descriptor is handed over: nothing else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(stream.into_raw_fd()) })
    }

    async fn open(&self, path: &Path, mode: OpenMode) -> Result<DirectFile, IoError> {
        DirectFile::open(path, mode).await
    }

    async fn remove(&self, path: &Path) -> Result<(), IoError> {
        monoio::fs::remove_file(path).await.map_err(|e| io_error(&e))
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), IoError> {
        monoio::fs::rename(from, to).await.map_err(|e| io_error(&e))
    }

    async fn sync_dir(&self, dir: &Path) -> Result<(), IoError> {
        let dir = monoio::fs::File::open(dir).await.map_err(|e| io_error(&e))?;
        let synced = dir.sync_all().await.map_err(|e| io_error(&e));
        dir.close().await.map_err(|e| io_error(&e))?;
        synced
    }
}
