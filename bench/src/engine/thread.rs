//! One generator thread: connects, runs its connections on a monoio runtime, and ends them.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::poll_fn;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::task::Poll;
use std::time::Duration;

use monoio::io::Splitable;
use monoio::net::TcpStream;
use monoio::{FusionDriver, RuntimeBuilder};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::connection::{Conn, Pace, Shared, Thread, read_loop, write_loop};
use super::{Phase, ThreadResult, ThreadUse, Timing};
use crate::error::BenchError;
use crate::protocol::{Protocol, Target};
use crate::random::thread_seed;
use crate::recorder::Recorder;
use crate::scenario::{Mode, Scenario};
use crate::schedule::{Arrivals, Dispatcher};
use crate::system::{Clock, ThreadTimes, pin_thread};
use crate::units;
use crate::workload::Workload;

/// Entries of the io_uring submission queue; it is flushed when full.
const RING_ENTRIES: u32 = 4096;
/// Longest time between two looks at timeouts and failures.
const TICK_MAX: Duration = Duration::from_millis(50);
/// Time between two looks while the last replies are awaited.
const DRAIN_TICK: Duration = Duration::from_millis(1);
/// A sleeping dispatcher sleeps at least so long: at high rates one wake-up sends several
/// requests. Part of the send lag that is reported.
const SLEEP_MIN_NS: u64 = 20_000;
/// A prefill without any reply for this long has failed.
const PREFILL_STALL: Duration = Duration::from_secs(30);

/// What a thread needs to start.
pub struct Job<T> {
    pub(super) target: T,
    pub(super) scenario: Scenario,
    pub(super) seed: u64,
    pub(super) phase: Phase,
    pub(super) index: usize,
    pub(super) clock: Clock,
    pub(super) replies: Arc<AtomicU64>,
}

impl<T: Target> Job<T> {
    /// Connects, says so, waits for the start, runs.
    pub fn run(self, ready: &mpsc::Sender<()>, start: &mpsc::Receiver<Timing>) -> ThreadResult {
        let load = &self.scenario.load;
        if let Some(cpu) = load.pin.get(self.index) {
            pin_thread(*cpu).map_err(BenchError::system(format!("pinning to CPU {cpu}")))?;
        }
        let seed = thread_seed(self.seed, self.index);
        let mut workload = match self.phase {
            Phase::Prefill => Workload::prefill(&self.scenario, seed, self.index, load.threads)?,
            Phase::Measure => Workload::new(&self.scenario, seed)?,
        };
        let mut streams = Vec::new();
        let mut conns = Vec::new();
        for lane in (self.index..load.connections).step_by(load.threads) {
            let (stream, protocol) = self.target.connect(lane, &mut workload)?;
            let untimed = || {
                stream.set_read_timeout(None)?;
                stream.set_write_timeout(None)
            };
            untimed().map_err(BenchError::system("preparing a connection"))?;
            streams.push(stream);
            conns.push(RefCell::new(Conn::new(protocol, load.pipeline)));
        }
        let mut runtime = RuntimeBuilder::<FusionDriver>::new()
            .with_entries(RING_ENTRIES)
            .enable_timer()
            .build()
            .map_err(BenchError::system("starting an io_uring runtime"))?;
        // The coordinator is gone only when another thread failed; that failure is reported.
        let _ = ready.send(());
        let Ok(timing) = start.recv() else {
            return Err(BenchError::Server("another thread could not connect".to_owned()));
        };
        let thread = Rc::new(Thread {
            clock: self.clock,
            shared: RefCell::new(self.shared(workload, seed, timing)),
            conns,
            closing: Cell::new(false),
        });
        runtime.block_on(self.drive(&thread, streams, timing))
    }

    fn shared(&self, workload: Workload, seed: u64, timing: Timing) -> Shared {
        let load = &self.scenario.load;
        let open = load.mode == Mode::Open && self.phase == Phase::Measure;
        let pace = if open {
            let share = (self.index, load.threads);
            let arrivals =
                Arrivals::new(load.arrivals, load.rate, timing.start_ns, share, seed ^ 1);
            let shed_after_ns = units::ns(load.timeout);
            Pace::Open(Dispatcher::new(arrivals, timing.window.end_ns, shed_after_ns))
        } else {
            Pace::Closed { stopped: false }
        };
        let recorder = match self.phase {
            Phase::Prefill => Recorder::unmeasured(),
            Phase::Measure => Recorder::new(timing.window, open),
        };
        Shared::new(recorder, workload, pace)
    }

    async fn drive(
        &self,
        thread: &Rc<Thread<T::Protocol>>,
        streams: Vec<std::net::TcpStream>,
        timing: Timing,
    ) -> ThreadResult {
        let mut sockets = Vec::new();
        let mut tasks = Vec::new();
        for (index, stream) in streams.into_iter().enumerate() {
            let taking = || BenchError::system("taking a connection");
            sockets.push(stream.try_clone().map_err(taking())?);
            let stream = TcpStream::from_std(stream).map_err(taking())?;
            let (read, write) = stream.into_split();
            tasks.push(monoio::spawn(read_loop(Rc::clone(thread), index, read)));
            tasks.push(monoio::spawn(write_loop(Rc::clone(thread), index, write)));
        }
        let used = self.work(thread, timing).await;
        // A read in flight holds its socket open, even when the runtime is gone.
        thread.close();
        for socket in sockets {
            // It may be closed already, which is as good.
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
        for task in tasks {
            task.await;
        }
        Ok((thread.shared.borrow().recorder.clone(), used?))
    }

    /// Sends and waits for replies until the phase is over.
    async fn work(
        &self,
        thread: &Rc<Thread<T::Protocol>>,
        timing: Timing,
    ) -> Result<ThreadUse, BenchError> {
        self.sleep_until(timing.start_ns).await;
        let open = matches!(thread.shared.borrow().pace, Pace::Open(_));
        if open {
            monoio::spawn(dispatch(Rc::clone(thread), self.scenario.load.spin));
        } else {
            thread.fill_all(self.clock.now_ns());
            if self.scenario.load.spin {
                let alarm = Alarm::new(true).map_err(BenchError::system("opening /dev/zero"))?;
                monoio::spawn(stay_awake(alarm));
            }
        }
        match self.phase {
            Phase::Prefill => self.until_filled(thread).await,
            Phase::Measure => self.until_measured(thread, timing).await,
        }
    }

    async fn sleep_until(&self, at_ns: u64) {
        let now_ns = self.clock.now_ns();
        monoio::time::sleep(Duration::from_nanos(at_ns.saturating_sub(now_ns))).await;
    }

    /// Publishes progress, and ends the thread when something went wrong.
    fn check(&self, thread: &Thread<T::Protocol>, published: &mut u64) -> Result<(), BenchError> {
        let shared = &mut *thread.shared.borrow_mut();
        self.replies.fetch_add(shared.replies - *published, Ordering::Relaxed);
        *published = shared.replies;
        shared.failure.take().map_or(Ok(()), Err)
    }

    async fn until_filled(&self, thread: &Thread<T::Protocol>) -> Result<ThreadUse, BenchError> {
        let mut published = 0;
        let mut last_reply_ns = self.clock.now_ns();
        loop {
            monoio::time::sleep(DRAIN_TICK).await;
            let before = published;
            self.check(thread, &mut published)?;
            let now_ns = self.clock.now_ns();
            if published > before {
                last_reply_ns = now_ns;
            }
            if thread.shared.borrow().exhausted && thread.is_idle() {
                return Ok(ThreadUse { wall_ns: 0, times: ThreadTimes::default() });
            }
            if now_ns - last_reply_ns > units::ns(PREFILL_STALL) {
                let problem = format!("prefill: no reply for {} s", PREFILL_STALL.as_secs());
                return Err(BenchError::Server(problem));
            }
        }
    }

    async fn until_measured(
        &self,
        thread: &Thread<T::Protocol>,
        Timing { window, .. }: Timing,
    ) -> Result<ThreadUse, BenchError> {
        let timeout_ns = units::ns(self.scenario.load.timeout);
        let tick_ns = (timeout_ns / 4).clamp(units::ns(DRAIN_TICK), units::ns(TICK_MAX));
        let mut published = 0;
        let mut began = None;
        let mut used = None;
        loop {
            let now_ns = self.clock.now_ns();
            let next_ns = [window.start_ns, window.end_ns]
                .into_iter()
                .find(|boundary| *boundary > now_ns)
                .map_or(now_ns + units::ns(DRAIN_TICK), |at_ns| at_ns.min(now_ns + tick_ns));
            self.sleep_until(next_ns).await;
            let now_ns = self.clock.now_ns();
            if now_ns >= window.start_ns && began.is_none() {
                began = Some((now_ns, ThreadTimes::read()));
            }
            if now_ns >= window.end_ns && used.is_none() {
                thread.stop();
                used = began.map(|(since_ns, times)| ThreadUse {
                    wall_ns: now_ns - since_ns,
                    times: ThreadTimes::read().since(&times),
                });
            }
            self.check(thread, &mut published)?;
            if now_ns > timeout_ns {
                thread.expire(now_ns - timeout_ns, now_ns);
            }
            let given_up = now_ns >= window.end_ns + timeout_ns;
            let all_sent = match &thread.shared.borrow().pace {
                Pace::Open(dispatcher) => dispatcher.finished(),
                Pace::Closed { .. } => true,
            };
            if let Some(used) = used
                && (given_up || (all_sent && thread.is_idle()))
            {
                thread.shed_rest(now_ns);
                thread.expire(u64::MAX, now_ns);
                return Ok(used);
            }
        }
    }
}

/// Keeps the thread looking for replies instead of sleeping, until the runtime ends: the time a
/// sleeping CPU takes to wake is then not part of a reply's latency.
async fn stay_awake(mut alarm: Alarm) {
    while alarm.wait(Duration::ZERO).await.is_ok() {
        // Kernel threads that complete the server's writes may be bound to this CPU.
        std::thread::yield_now();
    }
}

/// Sends an open loop's requests when they are due.
async fn dispatch<P: Protocol>(thread: Rc<Thread<P>>, spin: bool) {
    let mut alarm = match Alarm::new(spin) {
        Ok(alarm) => alarm,
        Err(error) => {
            let failure = BenchError::System { doing: "making a timer".to_owned(), source: error };
            thread.shared.borrow_mut().failure.get_or_insert(failure);
            return;
        }
    };
    loop {
        let now_ns = thread.clock.now_ns();
        thread.pump(now_ns);
        let wake_ns = match &thread.shared.borrow().pace {
            Pace::Open(dispatcher) if dispatcher.finished() => return,
            Pace::Open(dispatcher) => dispatcher.wake_ns(),
            Pace::Closed { .. } => return,
        };
        match wake_ns {
            None => room(&thread).await,
            Some(at_ns) => {
                let wait_ns = at_ns.saturating_sub(thread.clock.now_ns()).max(SLEEP_MIN_NS);
                if let Err(source) = alarm.wait(Duration::from_nanos(wait_ns)).await {
                    let failure = BenchError::System { doing: "waiting".to_owned(), source };
                    thread.shared.borrow_mut().failure.get_or_insert(failure);
                    return;
                }
            }
        }
    }
}

/// Waits until a reply has made room.
async fn room<P>(thread: &Thread<P>) {
    let mut waited = false;
    poll_fn(|cx| {
        if waited {
            return Poll::Ready(());
        }
        waited = true;
        thread.shared.borrow_mut().dispatch = Some(cx.waker().clone());
        Poll::Pending
    })
    .await;
}

/// A wait finer than the runtime's own timers, which count in milliseconds.
struct Alarm {
    /// `None` to busy-wait.
    timer: Option<TimerFd>,
    /// Reading it completes when the timer has expired; at once when busy-waiting.
    file: monoio::fs::File,
    buffer: Vec<u8>,
}

impl Alarm {
    /// Busy-waiting reads `/dev/zero`, so that every turn goes through the ring: a task that wakes
    /// itself would be polled again before all others, and the runtime's timers would never fire.
    fn new(spin: bool) -> std::io::Result<Alarm> {
        let (timer, file) = if spin {
            (None, File::open("/dev/zero")?)
        } else {
            let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
            let copy: OwnedFd = timer.as_fd().try_clone_to_owned()?;
            (Some(timer), File::from(copy))
        };
        let file = monoio::fs::File::from_std(file)?;
        Ok(Alarm { timer, file, buffer: Vec::with_capacity(8) })
    }

    /// Waits for `after`, or for one turn of the ring when busy-waiting.
    async fn wait(&mut self, after: Duration) -> std::io::Result<()> {
        if let Some(timer) = &self.timer {
            let once = Expiration::OneShot(TimeSpec::from_duration(after));
            timer.set(once, TimerSetTimeFlags::empty())?;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let (result, buffer) = self.file.read_at(buffer, 0).await;
        self.buffer = buffer;
        result.map(|_| ())
    }
}
