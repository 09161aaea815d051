//! A deterministic executor whose time is virtual.
//!
//! - One thread. Which of the ready tasks runs next is drawn from the seed; when none is ready, time
//!   jumps to the next timer. So a run depends on nothing but its seed and what it is given.
//! - A task belongs to the scope it was spawned in: a node. A scope can be killed, which drops its
//!   tasks where they are, as the end of a process does.
//! - [`VirtualTime::trace`] sums up which task ran when: two runs that differ have two traces.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use ironring_core::Instant;
use ironring_core::prng::Prng;
use ironring_node::raft::host::{Host, Local};

/// Virtual time begins here: subtracting an hour is no trouble.
const BEGIN: Duration = Duration::from_secs(3600);
/// The task that is waited for.
const MAIN: u64 = 0;
/// A run without timers in which another thread wakes nobody for so long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(20);

/// Whose a task is.
pub type Scope = u64;

#[derive(Default)]
struct Ready {
    queue: Mutex<VecDeque<u64>>,
    woken: Condvar,
}

impl Ready {
    fn push(&self, id: u64) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(id);
        self.woken.notify_one();
    }
}

struct TaskWaker {
    id: u64,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.ready.push(self.id);
        }
    }
}

struct Task {
    scope: Scope,
    /// Taken out while it runs.
    future: Option<Local<'static, ()>>,
    waker: Arc<TaskWaker>,
}

struct Inner {
    now: Cell<u64>,
    order: RefCell<Prng>,
    random: RefCell<Prng>,
    tasks: RefCell<BTreeMap<u64, Task>>,
    next_task: Cell<u64>,
    timers: RefCell<BTreeMap<(u64, u64), Waker>>,
    next_timer: Cell<u64>,
    ready: Arc<Ready>,
    scope: Cell<Scope>,
    trace: Cell<u64>,
    polls: Cell<u64>,
}

/// The executor. A handle: clones are the same.
#[derive(Clone)]
pub struct VirtualTime(Rc<Inner>);

impl VirtualTime {
    /// An executor without tasks.
    #[must_use]
    pub fn new(seed: u64) -> VirtualTime {
        let mut seeds = Prng::new(seed);
        VirtualTime(Rc::new(Inner {
            now: Cell::new(BEGIN.as_nanos() as u64),
            order: RefCell::new(Prng::new(seeds.next_u64())),
            random: RefCell::new(Prng::new(seeds.next_u64())),
            tasks: RefCell::default(),
            next_task: Cell::new(MAIN + 1),
            timers: RefCell::default(),
            next_timer: Cell::new(0),
            ready: Arc::default(),
            scope: Cell::new(0),
            trace: Cell::new(seed),
            polls: Cell::new(0),
        }))
    }

    /// What ran when, in one number.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.0.trace.get()
    }

    /// How often a task ran.
    #[must_use]
    pub fn polls(&self) -> u64 {
        self.0.polls.get()
    }

    /// Virtual time since the run began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.0.now.get()) - BEGIN
    }

    /// Runs a task in a scope and waits for what it gives; `None` when the scope was killed.
    pub async fn run_in<T: 'static>(
        &self,
        scope: Scope,
        task: impl Future<Output = T> + 'static,
    ) -> Option<T> {
        let slot: Rc<RefCell<(Option<T>, Option<Waker>)>> = Rc::default();
        let done = Done(Rc::clone(&slot));
        self.spawn_in(scope, async move {
            let value = task.await;
            done.0.borrow_mut().0 = Some(value);
        });
        std::future::poll_fn(|cx| {
            let mut state = slot.borrow_mut();
            if state.0.is_some() || Rc::strong_count(&slot) == 1 {
                return Poll::Ready(state.0.take());
            }
            state.1 = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Runs a task in a scope.
    pub fn spawn_in(&self, scope: Scope, task: impl Future<Output = ()> + 'static) {
        let id = self.0.next_task.get();
        self.0.next_task.set(id + 1);
        let ready = Arc::clone(&self.0.ready);
        let waker = Arc::new(TaskWaker { id, queued: AtomicBool::new(true), ready });
        let task = Task { scope, future: Some(Box::pin(task)), waker };
        self.0.tasks.borrow_mut().insert(id, task);
        self.0.ready.push(id);
    }

    /// Drops every task of a scope.
    pub fn kill(&self, scope: Scope) {
        let mut tasks = self.0.tasks.borrow_mut();
        let doomed: Vec<u64> =
            tasks.iter().filter(|(_, task)| task.scope == scope).map(|(id, _)| *id).collect();
        let doomed: Vec<Task> = doomed.iter().filter_map(|id| tasks.remove(id)).collect();
        drop(tasks);
        // What they drop may wake and spawn.
        drop(doomed);
    }

    /// Waits.
    pub async fn pass(&self, duration: Duration) {
        self.sleep(duration).await;
    }

    /// Runs a task of no scope to its end.
    ///
    /// # Panics
    /// When it waits for something that never comes.
    pub fn run<T>(&self, task: impl Future<Output = T>) -> T {
        let mut result = None;
        self.block_on(pin!(async { result = Some(task.await) }));
        result.expect("the task ran to its end")
    }

    fn take_ready(&self) -> Option<u64> {
        let mut queue = self.0.ready.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let len = queue.len() as u64;
        let pick = if len > 1 { self.0.order.borrow_mut().below(len) as usize } else { 0 };
        queue.remove(pick)
    }

    fn note(&self, id: u64) {
        let mixed = self.0.trace.get() ^ self.0.now.get() ^ id.rotate_left(40);
        self.0.trace.set(mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23));
        self.0.polls.set(self.0.polls.get() + 1);
    }

    fn poll_task(&self, id: u64) {
        let taken = {
            let mut tasks = self.0.tasks.borrow_mut();
            // A task that ended or was killed may still be woken.
            let Some(task) = tasks.get_mut(&id) else { return };
            task.waker.queued.store(false, Ordering::Release);
            task.future.take().map(|future| (future, Arc::clone(&task.waker), task.scope))
        };
        let Some((mut future, waker, scope)) = taken else { return };
        self.note(id);
        self.0.scope.set(scope);
        let waker = Waker::from(waker);
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        self.0.scope.set(0);
        let mut tasks = self.0.tasks.borrow_mut();
        if polled.is_ready() {
            tasks.remove(&id);
        } else if let Some(task) = tasks.get_mut(&id) {
            task.future = Some(future);
            return;
        }
        drop(tasks);
        drop(future);
    }

    /// Jumps to the next timer. False: there is none.
    fn advance(&self) -> bool {
        let mut timers = self.0.timers.borrow_mut();
        let Some((&(at, _), _)) = timers.first_key_value() else { return false };
        self.0.now.set(self.0.now.get().max(at));
        let later = timers.split_off(&(at + 1, 0));
        let due = std::mem::replace(&mut *timers, later);
        drop(timers);
        due.into_values().for_each(Waker::wake);
        true
    }

    fn wait_for_other_threads(&self) {
        let queue = self.0.ready.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.ready.woken.wait_timeout_while(queue, STUCK_AFTER, |q| q.is_empty());
        let (queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!queue.is_empty(), "the run waits for something that never comes");
    }
}

/// Wakes who waits for a task when the task is gone, whatever became of it.
struct Done<T>(Rc<RefCell<(Option<T>, Option<Waker>)>>);

impl<T> Drop for Done<T> {
    fn drop(&mut self) {
        let waker = self.0.borrow_mut().1.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Host for VirtualTime {
    fn spawn(&self, task: Local<'static, ()>) {
        self.spawn_in(self.0.scope.get(), task);
    }

    fn now(&self) -> Instant {
        Instant(self.0.now.get())
    }

    fn sleep(&self, duration: Duration) -> Local<'static, ()> {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let at = self.0.now.get().saturating_add(nanos);
        Box::pin(Sleep { time: self.clone(), at, timer: None })
    }

    fn random(&self) -> u64 {
        self.0.random.borrow_mut().next_u64()
    }

    fn block_on(&self, mut task: Pin<&mut dyn Future<Output = ()>>) {
        let ready = Arc::clone(&self.0.ready);
        let main = Arc::new(TaskWaker { id: MAIN, queued: AtomicBool::new(true), ready });
        self.0.ready.push(MAIN);
        let waker = Waker::from(Arc::clone(&main));
        loop {
            match self.take_ready() {
                Some(MAIN) => {
                    main.queued.store(false, Ordering::Release);
                    self.note(MAIN);
                    if task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                        return;
                    }
                }
                Some(id) => self.poll_task(id),
                None if self.advance() => {}
                None => self.wait_for_other_threads(),
            }
        }
    }
}

struct Sleep {
    time: VirtualTime,
    at: u64,
    timer: Option<(u64, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let inner = Rc::clone(&self.time.0);
        if inner.now.get() >= self.at {
            return Poll::Ready(());
        }
        let at = self.at;
        let timer = *self.timer.get_or_insert_with(|| {
            inner.next_timer.set(inner.next_timer.get() + 1);
            (at, inner.next_timer.get())
        });
        inner.timers.borrow_mut().insert(timer, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            let gone = self.time.0.timers.borrow_mut().remove(&timer);
            drop(gone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seed: u64) -> (Vec<u64>, u64) {
        let time = VirtualTime::new(seed);
        let order: Rc<RefCell<Vec<u64>>> = Rc::default();
        time.run(async {
            for i in 0..20 {
                let (time, order) = (time.clone(), Rc::clone(&order));
                let nap = Duration::from_millis(time.random() % 3);
                time.clone().spawn_in(1, async move {
                    time.pass(nap).await;
                    order.borrow_mut().push(i);
                });
            }
            time.pass(Duration::from_secs(1)).await;
        });
        (order.take(), time.trace())
    }

    #[test]
    fn the_seed_decides() {
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        assert_eq!(run(3).0.len(), 20);
    }

    #[test]
    fn a_killed_scope_is_gone_and_others_are_not() {
        let time = VirtualTime::new(7);
        time.run(async {
            let forever = time.clone();
            let waits = time.run_in(5, async move { forever.pass(Duration::MAX).await });
            let mut waits = pin!(waits);
            let nap = time.pass(Duration::from_secs(2));
            futures_lite::future::or(async { assert_eq!(waits.as_mut().await, None) }, nap).await;
            assert_eq!(time.elapsed(), Duration::from_secs(2), "time is what passed");
            time.kill(5);
            assert_eq!(waits.await, None);
            assert_eq!(time.run_in(6, async { 3 }).await, Some(3));
        });
    }
}
