//! Tasks of one thread that wait for their turn: first come, first served.
//!
//! What is given back while somebody waits goes to who waits longest. It is never left where a task
//! that asks again at once, before the one that waits has run, could take it every time.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Permits that tasks take and give back.
#[derive(Debug)]
pub(super) struct Permits {
    free: Cell<u32>,
    closed: Cell<bool>,
    next: Cell<u64>,
    /// Who waits, in order of arrival. Nobody does while a permit is free.
    queue: RefCell<VecDeque<(u64, Waker)>>,
}

impl Permits {
    /// So many are free.
    pub fn new(free: u32) -> Permits {
        Permits {
            free: Cell::new(free),
            closed: Cell::new(false),
            next: Cell::new(0),
            queue: RefCell::default(),
        }
    }

    /// Waits for a permit. Once closed there is one for everybody.
    pub fn take(&self) -> Take<'_> {
        Take { permits: self, place: None, done: false }
    }

    /// Gives one back.
    pub fn give(&self) {
        if !self.closed.get() && !self.hand_over() {
            self.free.set(self.free.get() + 1);
        }
    }

    /// Gives one to who waits longest. False: nobody waits, and nobody has it.
    pub fn hand_over(&self) -> bool {
        let first = self.queue.borrow_mut().pop_front();
        if let Some((_, waker)) = first {
            waker.wake();
            return true;
        }
        false
    }

    /// Takes back those that are free.
    pub fn withdraw(&self) {
        self.free.set(0);
    }

    /// Whether somebody waits.
    pub fn is_awaited(&self) -> bool {
        !self.queue.borrow().is_empty()
    }

    /// Lets everybody through, from here on.
    pub fn close(&self) {
        self.closed.set(true);
        self.queue.borrow_mut().drain(..).for_each(|(_, waker)| waker.wake());
    }

    fn take_free(&self) -> bool {
        let free = self.free.get();
        self.free.set(free.saturating_sub(1));
        free > 0 || self.closed.get()
    }

    /// Whether the task of this place still waits. It is woken by `waker` from here on.
    fn still_waits(&self, place: u64, waker: &Waker) -> bool {
        let mut queue = self.queue.borrow_mut();
        let at = queue.binary_search_by_key(&place, |(place, _)| *place);
        if let Ok(at) = at {
            queue[at].1.clone_from(waker);
        }
        at.is_ok()
    }

    fn wait(&self, waker: &Waker) -> u64 {
        let place = self.next.get();
        self.next.set(place + 1);
        self.queue.borrow_mut().push_back((place, waker.clone()));
        place
    }

    /// False: it was not there any more, so it was given a permit.
    fn leave(&self, place: u64) -> bool {
        let mut queue = self.queue.borrow_mut();
        let at = queue.binary_search_by_key(&place, |(place, _)| *place);
        at.map(|at| queue.remove(at)).is_ok()
    }
}

/// Made by [`Permits::take`].
#[derive(Debug)]
pub(super) struct Take<'a> {
    permits: &'a Permits,
    /// This task's entry in the queue, which is gone once it was given a permit.
    place: Option<u64>,
    done: bool,
}

impl<'a> Future for Take<'a> {
    type Output = Permit<'a>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Permit<'a>> {
        let permits = self.permits;
        self.done = match self.place {
            Some(place) => !permits.still_waits(place, context.waker()),
            None => permits.take_free(),
        };
        if self.done {
            return Poll::Ready(Permit(permits));
        }
        if self.place.is_none() {
            self.place = Some(permits.wait(context.waker()));
        }
        Poll::Pending
    }
}

impl Drop for Take<'_> {
    fn drop(&mut self) {
        let Some(place) = self.place.filter(|_| !self.done) else { return };
        // It was given one, but is gone before it could make use of it: the next one may.
        if !self.permits.leave(place) {
            self.permits.give();
        }
    }
}

/// Given back when dropped.
#[derive(Debug)]
pub(super) struct Permit<'a>(&'a Permits);

impl Permit<'_> {
    /// Leaves it to the caller to give it back.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.give();
    }
}

/// A lock that tasks wait for.
#[derive(Debug)]
pub(super) struct Gate(Permits);

impl Default for Gate {
    fn default() -> Gate {
        Gate(Permits::new(1))
    }
}

impl Gate {
    /// Waits until nobody else is inside. Who enters is inside until the permit is dropped.
    pub fn enter(&self) -> Take<'_> {
        self.0.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn who_asks_again_at_once_waits_behind_those_that_wait() {
        let gate = Gate::default();
        let (mut a, mut b) = (Task::new(gate.enter()), Task::new(gate.enter()));
        let pass = a.poll().unwrap();
        assert!(b.poll().is_none());
        drop(pass);
        let mut again = Task::new(gate.enter());
        assert!(again.poll().is_none(), "b was woken and has not run yet");
        let pass = b.poll().unwrap();
        drop(pass);
        assert_eq!(again.woken(), 1);
        drop(again.poll().unwrap());
        assert!(Task::new(gate.enter()).poll().is_some(), "nobody waits any more");
    }

    #[test]
    fn polled_twice_is_queued_once_and_keeps_its_place() {
        let permits = Permits::new(0);
        let (mut a, mut b) = (Task::new(permits.take()), Task::new(permits.take()));
        assert!(a.poll().is_none() && b.poll().is_none() && a.poll().is_none());
        permits.give();
        assert_eq!((a.woken(), b.woken()), (1, 0));
        permits.give();
        permits.give();
        assert_eq!((a.woken(), b.woken()), (1, 1));
        let taken = (a.poll().unwrap(), b.poll().unwrap());
        assert!(Task::new(permits.take()).poll().is_some(), "the third was free");
        drop(taken);
    }

    #[test]
    fn one_that_is_kept_is_given_back_by_other_means() {
        let permits = Permits::new(1);
        Task::new(permits.take()).poll().unwrap().keep();
        let mut next = Task::new(permits.take());
        assert!(next.poll().is_none() && permits.is_awaited());
        assert!(permits.hand_over() && !permits.hand_over());
        assert!(next.poll().is_some());
    }

    #[test]
    fn nobody_waits_where_it_is_closed() {
        let permits = Permits::new(0);
        let (mut a, mut b) = (Task::new(permits.take()), Task::new(permits.take()));
        assert!(a.poll().is_none());
        permits.close();
        assert_eq!(a.woken(), 1);
        assert!(a.poll().is_some() && b.poll().is_some());
    }
}
