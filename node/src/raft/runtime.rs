//! openraft's runtime, on whatever [`super::host::Host`] the thread has.
//!
//! Nothing here knows an executor: tasks, clock, timers and random numbers are the host's, channels
//! are [`super::channels`]. So the same group runs on the driver's runtimes and in virtual time.

use std::convert::Infallible;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ironring_core::Instant;
use openraft::{AsyncRuntime, OptionalSend};
use tokio::sync::oneshot;

use super::channels::{RaftMpsc, RaftMutex, RaftOneshot, RaftWatch};
use super::host::{self, Local};

/// The host of the thread, in openraft's words.
#[derive(Debug)]
pub struct RaftRuntime;

/// The host's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RaftInstant(Instant);

impl Add<Duration> for RaftInstant {
    type Output = RaftInstant;

    fn add(self, by: Duration) -> RaftInstant {
        RaftInstant(self.0 + by)
    }
}

impl AddAssign<Duration> for RaftInstant {
    fn add_assign(&mut self, by: Duration) {
        *self = *self + by;
    }
}

impl Sub<Duration> for RaftInstant {
    type Output = RaftInstant;

    /// Before the clock's beginning there is no time.
    fn sub(self, by: Duration) -> RaftInstant {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        RaftInstant(Instant(self.0.0.saturating_sub(nanos)))
    }
}

impl SubAssign<Duration> for RaftInstant {
    fn sub_assign(&mut self, by: Duration) {
        *self = *self - by;
    }
}

impl Sub for RaftInstant {
    type Output = Duration;

    fn sub(self, earlier: RaftInstant) -> Duration {
        self.0.since(earlier.0)
    }
}

impl openraft::Instant for RaftInstant {
    fn now() -> RaftInstant {
        RaftInstant(host::current().now())
    }
}

/// Why a task has no result: its host ended first.
#[derive(Debug, thiserror::Error)]
#[error("the task ended without a result")]
pub struct TaskGone;

/// Waits for a task's result.
pub struct JoinHandle<T>(oneshot::Receiver<T>);

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, TaskGone>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(result.map_err(|_| TaskGone))
    }
}

/// A wait.
pub struct Sleep(Local<'static, ()>);

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

/// The time allowed for something is over.
#[derive(Debug, thiserror::Error)]
#[error("the time allowed is over")]
pub struct Elapsed;

/// A future with a deadline.
pub struct Timeout<F> {
    future: Pin<Box<F>>,
    deadline: Sleep,
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(value) = self.future.as_mut().poll(cx) {
            return Poll::Ready(Ok(value));
        }
        ready!(Pin::new(&mut self.deadline).poll(cx));
        Poll::Ready(Err(Elapsed))
    }
}

/// The host's random numbers.
#[derive(Debug)]
pub struct HostRng;

impl rand_core::TryRng for HostRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((host::current().random() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(host::current().random())
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for chunk in out.chunks_mut(8) {
            let bytes = host::current().random().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        Ok(())
    }
}

impl AsyncRuntime for RaftRuntime {
    type JoinError = TaskGone;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = RaftInstant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<T>;
    type ThreadLocalRng = HostRng;
    type Mpsc = RaftMpsc;
    type Watch = RaftWatch;
    type Oneshot = RaftOneshot;
    type Mutex<T: OptionalSend + 'static> = RaftMutex<T>;

    fn spawn<T>(future: T) -> JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        let (done, result) = oneshot::channel();
        host::current().spawn(Box::pin(async move {
            // Nobody may wait for it.
            let _ = done.send(future.await);
        }));
        JoinHandle(result)
    }

    fn sleep(duration: Duration) -> Sleep {
        Sleep(host::sleep_until(host::current().now() + duration))
    }

    fn sleep_until(deadline: RaftInstant) -> Sleep {
        Sleep(host::sleep_until(deadline.0))
    }

    fn timeout<R, F>(duration: Duration, future: F) -> Timeout<F>
    where
        F: Future<Output = R> + OptionalSend,
    {
        Timeout { future: Box::pin(future), deadline: RaftRuntime::sleep(duration) }
    }

    fn timeout_at<R, F>(deadline: RaftInstant, future: F) -> Timeout<F>
    where
        F: Future<Output = R> + OptionalSend,
    {
        Timeout { future: Box::pin(future), deadline: RaftRuntime::sleep_until(deadline) }
    }

    /// A panic aborts the process: no task outlives one.
    fn is_panic(_: &TaskGone) -> bool {
        false
    }

    fn thread_rng() -> HostRng {
        HostRng
    }

    /// The host of this thread; openraft calls it in its tests only.
    fn new(_threads: usize) -> RaftRuntime {
        RaftRuntime
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        let mut result = None;
        {
            let task = std::pin::pin!(async { result = Some(future.await) });
            host::current().block_on(task);
        }
        result.expect("the host ran the task to its end")
    }
}
