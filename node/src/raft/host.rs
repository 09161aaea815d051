//! What the metadata group needs of the thread it runs on, and which one that is.
//!
//! openraft asks for its runtime by functions without a handle, so the host of a thread is kept in
//! a variable of the thread. It is set before a group is started ([`install`]) and read only by
//! [`super::runtime`] and the tasks of a group. Everything of one group lives on one thread.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use ironring_core::Instant;
use ironring_core::prng::Prng;

use crate::driver::clock;
use crate::driver::runtime::Runtime;

/// A future that stays on its thread.
pub type Local<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A single-threaded executor with a clock and random numbers.
pub trait Host: 'static {
    /// Runs a task beside the others.
    fn spawn(&self, task: Local<'static, ()>);

    /// The time since some moment before the host was made. Never goes back.
    fn now(&self) -> Instant;

    /// Waits for so long, or a little longer.
    fn sleep(&self, duration: Duration) -> Local<'static, ()>;

    /// Random bits, for timeouts.
    fn random(&self) -> u64;

    /// Runs a task to its end, and those it spawned meanwhile. Only for hosts that are no
    /// executor's guests: tests.
    fn block_on(&self, _task: Pin<&mut dyn Future<Output = ()>>) {
        panic!("the driver's threads run their tasks themselves");
    }
}

thread_local! {
    static HOST: RefCell<Option<Rc<dyn Host>>> = const { RefCell::new(None) };
}

/// Makes `host` the one of this thread.
pub fn install(host: Rc<dyn Host>) {
    HOST.with(|slot| *slot.borrow_mut() = Some(host));
}

/// The host of this thread.
///
/// # Panics
/// When none was installed: a group was not started through [`super::MetaGroup::start`].
#[must_use]
pub fn current() -> Rc<dyn Host> {
    HOST.with(|slot| slot.borrow().clone()).expect("a host is installed before a group starts")
}

/// A shard's thread as a host. The group's tasks have a queue of their own.
pub struct OnDriver<R: Runtime> {
    runtime: Rc<R>,
    queue: R::Queue,
    random: RefCell<Prng>,
}

impl<R: Runtime> OnDriver<R> {
    /// The thread `runtime` runs on. `seed` should differ between nodes, or their elections tie.
    #[must_use]
    pub fn new(runtime: Rc<R>, seed: u64) -> OnDriver<R> {
        let queue = runtime.queue("metadata");
        OnDriver { runtime, queue, random: RefCell::new(Prng::new(seed)) }
    }
}

impl<R: Runtime> Host for OnDriver<R> {
    fn spawn(&self, task: Local<'static, ()>) {
        self.runtime.spawn_into(&self.queue, task);
    }

    fn now(&self) -> Instant {
        clock::now().mono
    }

    fn sleep(&self, duration: Duration) -> Local<'static, ()> {
        let runtime = Rc::clone(&self.runtime);
        Box::pin(async move { runtime.sleep(duration).await })
    }

    fn random(&self) -> u64 {
        self.random.borrow_mut().next_u64()
    }
}

/// Waits until `deadline` on this thread's host.
pub(super) fn sleep_until(deadline: Instant) -> Local<'static, ()> {
    Box::pin(async move {
        let host = current();
        // A host's timer may be a little early.
        while host.now() < deadline {
            host.sleep(deadline.since(host.now())).await;
        }
    })
}
