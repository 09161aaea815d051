//! Tasks of one thread that wait for a condition, woken one at a time.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Who waits, in order of arrival.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    next: Cell<u64>,
    queue: RefCell<VecDeque<(u64, Waker)>>,
}

impl Waiters {
    /// Waits until `ready` says so. `ready` is asked again each time this task is woken.
    pub fn wait_until<F: FnMut() -> bool>(&self, ready: F) -> Wait<'_, F> {
        Wait { waiters: self, ready, place: None, done: false }
    }

    /// The condition may hold for one of them.
    pub fn wake_one(&self) {
        if let Some((_, waker)) = self.queue.borrow_mut().pop_front() {
            waker.wake();
        }
    }

    /// The condition may hold for all of them.
    pub fn wake_all(&self) {
        self.queue.borrow_mut().drain(..).for_each(|(_, waker)| waker.wake());
    }
}

pub(super) struct Wait<'a, F> {
    waiters: &'a Waiters,
    ready: F,
    /// Names this task's entry in the queue, which is gone once it was woken.
    place: Option<u64>,
    done: bool,
}

impl<F> Wait<'_, F> {
    /// Leaves the queue. False: the entry was gone, so this task has been woken.
    fn leave(&mut self) -> bool {
        let Some(place) = self.place.take() else { return true };
        let mut queue = self.waiters.queue.borrow_mut();
        let before = queue.len();
        queue.retain(|(entry, _)| *entry != place);
        queue.len() < before
    }
}

impl<F: FnMut() -> bool + Unpin> Future for Wait<'_, F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.leave();
        if (self.ready)() {
            self.done = true;
            return Poll::Ready(());
        }
        let place = self.waiters.next.get();
        self.waiters.next.set(place + 1);
        self.waiters.queue.borrow_mut().push_back((place, context.waker().clone()));
        self.place = Some(place);
        Poll::Pending
    }
}

impl<F> Drop for Wait<'_, F> {
    fn drop(&mut self) {
        // Woken, but gone before it could make use of it: the next one may.
        if !self.done && !self.leave() {
            self.waiters.wake_one();
        }
    }
}

/// A lock that tasks wait for.
#[derive(Debug, Default)]
pub(super) struct Gate {
    held: Cell<bool>,
    waiters: Waiters,
}

impl Gate {
    /// Waits until nobody else is inside.
    pub async fn enter(&self) -> Pass<'_> {
        self.waiters.wait_until(|| !self.held.replace(true)).await;
        Pass(self)
    }
}

/// Inside a [`Gate`] until dropped.
#[derive(Debug)]
pub(super) struct Pass<'a>(&'a Gate);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.held.set(false);
        self.0.waiters.wake_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct Task<F> {
        future: Pin<Box<F>>,
        woken: Arc<Count>,
    }

    impl<F: Future> Task<F> {
        fn new(future: F) -> Task<F> {
            Task { future: Box::pin(future), woken: Arc::new(Count(AtomicU32::new(0))) }
        }

        fn poll(&mut self) -> Option<F::Output> {
            let waker = Waker::from(Arc::clone(&self.woken));
            match self.future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(output) => Some(output),
                Poll::Pending => None,
            }
        }

        fn woken(&self) -> u32 {
            self.woken.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn one_at_a_time_and_each_in_turn() {
        let gate = Gate::default();
        let (mut a, mut b, mut c) =
            (Task::new(gate.enter()), Task::new(gate.enter()), Task::new(gate.enter()));
        let pass = a.poll().unwrap();
        assert!(b.poll().is_none() && c.poll().is_none());
        drop(pass);
        assert_eq!((b.woken(), c.woken()), (1, 0));
        let pass = b.poll().unwrap();
        assert!(c.poll().is_none());
        drop(pass);
        assert!(c.poll().is_some());
    }

    #[test]
    fn a_turn_that_is_not_taken_goes_to_the_next() {
        let gate = Gate::default();
        let (mut a, mut b, mut c) =
            (Task::new(gate.enter()), Task::new(gate.enter()), Task::new(gate.enter()));
        let pass = a.poll().unwrap();
        assert!(b.poll().is_none() && c.poll().is_none());
        drop(pass);
        drop(b);
        assert_eq!(c.woken(), 1);
        assert!(c.poll().is_some());
    }

    #[test]
    fn polled_twice_is_queued_once() {
        let (waiters, open) = (Waiters::default(), Rc::new(Cell::new(false)));
        let wait = || waiters.wait_until(|| open.get());
        let (mut a, mut b) = (Task::new(wait()), Task::new(wait()));
        assert!(a.poll().is_none() && b.poll().is_none() && a.poll().is_none());
        open.set(true);
        waiters.wake_one();
        assert_eq!((a.woken(), b.woken()), (0, 1));
        waiters.wake_one();
        waiters.wake_one();
        assert_eq!((a.woken(), b.woken()), (1, 1));
        assert!(a.poll().is_some() && b.poll().is_some());
    }
}
