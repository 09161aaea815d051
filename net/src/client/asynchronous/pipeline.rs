//! One connection shared by many requests at once.
//!
//! A request is encoded straight into the buffer that the writer task sends next; a slot waits for
//! its answer. The reader task puts each answer into its slot, in memory that is used again. So
//! requests that become ready in one turn of the executor leave in one write.
//!
//! Neither task outlives the last handle, or the first thing that goes wrong, by more than one turn of
//! the executor, whatever the peer does. What a connection holds has limits: requests in flight (the
//! server's), and bytes that wait to be written. Who waits for either is served in order of arrival.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::halves::{Broken, Receiver, Sender};
use super::waiters::Permits;
use crate::client::call::unexpected;
use crate::client::{ClientError, ServerInfo};
use crate::codec::{decode_response, encode_request};
use crate::error::ResponseError;
use crate::frame::{HEADER_BYTES, Header, set_flags};
use crate::message::{Request, Response};
use crate::wire::within;

/// Buffers of answers kept to be used again, and the largest kept.
const SPARE_BUFFERS_MAX: usize = 64;
const SPARE_BYTES_MAX: usize = 64 << 10;
/// Requests are not encoded while so much waits to be written: what a peer that takes nothing can make
/// a connection hold is this and one frame, beside what is being written.
const OUT_BYTES_MAX: usize = 4 << 20;

/// A connection many tasks of one thread send requests on. Cloning gives another handle; the
/// connection closes when the last is dropped, and what is not written by then never is.
#[derive(Clone, Debug)]
pub struct Pipeline {
    handle: Rc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Rc<Shared>,
    server: ServerInfo,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.end();
    }
}

#[derive(Debug)]
struct Shared {
    address: String,
    out: RefCell<Vec<u8>>,
    slots: RefCell<Slots>,
    /// One for each request that may be in flight. The slot of a request keeps it until it ends.
    room: Permits,
    /// One for who waits until there is less in `out`, each time it is.
    drained: Permits,
    /// The writer task, while it waits for something to write.
    writer: RefCell<Option<Waker>>,
    /// The two tasks, to be woken from waiting for the peer.
    writing: RefCell<Option<Waker>>,
    reading: RefCell<Option<Waker>>,
    broken: RefCell<Option<Broken>>,
    /// When something came last; before that, when the connection was made.
    heard: Cell<Instant>,
    /// It is broken, or no handle is left.
    over: Cell<bool>,
}

#[derive(Debug, Default)]
struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
    spare: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Slot {
    /// Tells uses of the slot apart: the upper half of the correlation. Never 0.
    generation: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    Free,
    Sent(Option<Waker>),
    /// Nobody waits any more, but the answer is still to come.
    Abandoned,
    Answered(Header, Vec<u8>),
}

impl Pipeline {
    /// Whether it is the same connection.
    #[must_use]
    pub fn is(&self, other: &Pipeline) -> bool {
        Rc::ptr_eq(&self.handle, &other.handle)
    }

    /// Takes over a connection. Spawns its two tasks on this thread's executor.
    #[must_use]
    pub fn new(sender: Sender, receiver: Receiver, server: ServerInfo) -> Pipeline {
        let shared = Rc::new(Shared {
            address: sender.address().to_owned(),
            out: RefCell::default(),
            slots: RefCell::default(),
            room: Permits::new(server.in_flight_max),
            drained: Permits::new(0),
            writer: RefCell::default(),
            writing: RefCell::default(),
            reading: RefCell::default(),
            broken: RefCell::default(),
            heard: Cell::new(Instant::now()),
            over: Cell::new(false),
        });
        monoio::spawn(write(sender, Rc::clone(&shared)));
        monoio::spawn(read(receiver, Rc::clone(&shared)));
        Pipeline { handle: Rc::new(Handle { shared, server }) }
    }

    /// What the server said of itself.
    #[must_use]
    pub fn server(&self) -> &ServerInfo {
        &self.handle.server
    }

    /// False once the connection broke.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.handle.shared.broken.borrow().is_none()
    }

    /// For how long nothing has come, whether anything was asked or not.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        self.handle.shared.heard.get().elapsed()
    }

    /// Sends a request and waits for its answer; waits first while too many are in flight. Dropping
    /// the future does not take the request back.
    ///
    /// # Errors
    /// [`Unanswered`]
    pub async fn call(
        &self,
        deadline_ms: u32,
        request: &Request<'_>,
    ) -> Result<Answer, Unanswered> {
        self.call_with(0, deadline_ms, request).await
    }

    /// The same with [flags](crate::frame::flags).
    ///
    /// # Errors
    /// [`Unanswered`]
    pub async fn call_with(
        &self,
        flags: u16,
        deadline_ms: u32,
        request: &Request<'_>,
    ) -> Result<Answer, Unanswered> {
        self.call_noting(flags, deadline_ms, request, &Cell::new(false)).await
    }

    /// The same. Sets `sent` once the request is on its way: who stops waiting before that knows that
    /// it was not applied.
    pub(super) async fn call_noting(
        &self,
        flags: u16,
        deadline_ms: u32,
        request: &Request<'_>,
        sent: &Cell<bool>,
    ) -> Result<Answer, Unanswered> {
        let shared = &self.handle.shared;
        let room = shared.room.take().await;
        let waits = shared.is_full() || shared.drained.is_awaited();
        if waits {
            shared.drained.take().await.keep();
        }
        let index = self.send(flags, deadline_ms, request);
        if waits && !shared.is_full() {
            shared.drained.hand_over();
        }
        let index = index?;
        room.keep();
        sent.set(true);
        Reply { shared, index, done: false }.await
    }

    /// Gives the connection up: what came on it is not what should have.
    pub(super) fn break_down(&self, error: &ClientError) {
        let shared = &self.handle.shared;
        shared.break_down(Broken::new(&shared.address, error));
    }

    /// Encodes a request for the writer task and returns the slot of its answer.
    fn send(&self, flags: u16, deadline_ms: u32, request: &Request<'_>) -> Result<u32, Unanswered> {
        let shared = &self.handle.shared;
        if let Some(broken) = &*shared.broken.borrow() {
            return Err(Unanswered::NotSent(broken.error()));
        }
        let mut slots = shared.slots.borrow_mut();
        let mut out = shared.out.borrow_mut();
        let at = out.len();
        let (index, correlation) = slots.take();
        let encoded = encode_request(&mut out, correlation, deadline_ms, request);
        let body_len = out.len().saturating_sub(at + HEADER_BYTES);
        let max = self.handle.server.frame_bytes_max as usize;
        let fits = encoded.and_then(|()| within(body_len, max, "frame body"));
        if let Err(error) = fits {
            out.truncate(at);
            slots.put_back(index);
            return Err(Unanswered::Invalid(error.into()));
        }
        if flags != 0 {
            set_flags(&mut out[at..], flags);
        }
        wake(&shared.writer);
        Ok(index)
    }
}

/// Why a request on a [`Pipeline`] got no answer.
#[derive(Debug)]
pub enum Unanswered {
    /// It breaks a limit.
    Invalid(ClientError),
    /// The connection was broken before.
    NotSent(ClientError),
    /// The connection broke before the answer came.
    Lost(ClientError),
}

impl From<Unanswered> for ClientError {
    fn from(unanswered: Unanswered) -> ClientError {
        let (Unanswered::Invalid(error) | Unanswered::NotSent(error) | Unanswered::Lost(error)) =
            unanswered;
        error
    }
}

/// An answer in memory that goes back to the connection when it is dropped.
#[derive(Debug)]
pub struct Answer {
    header: Header,
    body: Vec<u8>,
    shared: Rc<Shared>,
}

impl Answer {
    /// The response in it.
    ///
    /// # Errors
    /// When the answer does not parse. The connection is of no more use then, except after an error
    /// code this build does not know: that came in a sound frame.
    pub fn response(&self) -> Result<Response<'_>, ResponseError> {
        let response = decode_response(&self.header, &self.body);
        if let Err(error) = &response
            && !matches!(error, ResponseError::UnknownCode { .. })
        {
            let broken = Broken::new(&self.shared.address, &error.clone().into());
            self.shared.break_down(broken);
        }
        response
    }

    /// Milliseconds old it may be, as [`STALE`](crate::frame::flags::STALE) says.
    #[must_use]
    pub fn age_ms(&self) -> u32 {
        self.header.deadline_ms
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let mut slots = self.shared.slots.borrow_mut();
        if slots.spare.len() < SPARE_BUFFERS_MAX && self.body.capacity() <= SPARE_BYTES_MAX {
            slots.spare.push(std::mem::take(&mut self.body));
        }
    }
}

/// Waits for the answer in a slot.
struct Reply<'a> {
    shared: &'a Rc<Shared>,
    index: u32,
    done: bool,
}

impl Future for Reply<'_> {
    type Output = Result<Answer, Unanswered>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let shared = self.shared;
        let mut slots = shared.slots.borrow_mut();
        let slot = &mut slots.slots[self.index as usize];
        match std::mem::replace(&mut slot.state, State::Free) {
            State::Answered(header, body) => {
                slots.end(self.index, &shared.room);
                self.done = true;
                Poll::Ready(Ok(Answer { header, body, shared: Rc::clone(shared) }))
            }
            State::Sent(_) => {
                if let Some(broken) = &*shared.broken.borrow() {
                    slots.end(self.index, &shared.room);
                    self.done = true;
                    return Poll::Ready(Err(Unanswered::Lost(broken.error())));
                }
                slot.state = State::Sent(Some(context.waker().clone()));
                Poll::Pending
            }
            State::Free | State::Abandoned => unreachable!("the slot is this reply's until done"),
        }
    }
}

impl Drop for Reply<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut slots = self.shared.slots.borrow_mut();
        match slots.slots[self.index as usize].state {
            // It still counts as in flight: the server has it.
            State::Sent(_) if self.shared.broken.borrow().is_none() => {
                slots.slots[self.index as usize].state = State::Abandoned;
            }
            _ => slots.end(self.index, &self.shared.room),
        }
    }
}

impl Slots {
    /// A slot and the correlation that names this use of it.
    fn take(&mut self) -> (u32, u64) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, state: State::Free });
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1).max(1);
        slot.state = State::Sent(None);
        (index, u64::from(slot.generation) << 32 | u64::from(index))
    }

    fn put_back(&mut self, index: u32) {
        self.slots[index as usize].state = State::Free;
        self.free.push(index);
    }

    /// A request is in flight no more: another one may be.
    fn end(&mut self, index: u32, room: &Permits) {
        self.put_back(index);
        room.give();
    }

    /// Stores an answer, or drops it when nobody waits for it. False: nobody asked for it.
    fn answer(&mut self, header: Header, body: &[u8], room: &Permits) -> bool {
        let (index, generation) = (header.correlation as u32, (header.correlation >> 32) as u32);
        let Some(slot) = self.slots.get_mut(index as usize) else { return false };
        match &mut slot.state {
            State::Sent(waker) if slot.generation == generation => {
                if let Some(waker) = waker.take() {
                    waker.wake();
                }
                let mut kept = self.spare.pop().unwrap_or_default();
                kept.clear();
                kept.extend_from_slice(body);
                slot.state = State::Answered(header, kept);
                true
            }
            State::Abandoned if slot.generation == generation => {
                self.end(index, room);
                true
            }
            _ => false,
        }
    }
}

fn wake(waiting: &RefCell<Option<Waker>>) {
    if let Some(waker) = waiting.take() {
        waker.wake();
    }
}

impl Shared {
    /// Whether the writer has to take something before more is encoded.
    fn is_full(&self) -> bool {
        self.out.borrow().len() >= OUT_BYTES_MAX
    }

    /// Sends the two tasks home. What is not written is forgotten: a peer that takes nothing any more
    /// must not do it long after those who asked were told that the outcome is unknown.
    fn end(&self) {
        self.over.set(true);
        self.out.take();
        wake(&self.writer);
        wake(&self.writing);
        wake(&self.reading);
    }

    /// What `io` gives, or nothing when the connection is over before: the peer may stay silent for
    /// ever. `task` wakes the task that waits.
    async fn unless_over<T>(
        &self,
        task: &RefCell<Option<Waker>>,
        io: impl Future<Output = T>,
    ) -> Option<T> {
        let mut io = pin!(io);
        let wait = poll_fn(|context| {
            if self.over.get() {
                return Poll::Ready(None);
            }
            if let Poll::Ready(done) = io.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            match &mut *task.borrow_mut() {
                Some(waker) => waker.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
            Poll::Pending
        });
        wait.await
    }

    /// Tells everybody that waits. The first reason counts.
    fn break_down(&self, broken: Broken) {
        self.broken.borrow_mut().get_or_insert(broken);
        self.end();
        self.room.close();
        self.drained.close();
        let mut slots = self.slots.borrow_mut();
        for slot in &mut slots.slots {
            if let State::Sent(Some(waker)) = &slot.state {
                waker.wake_by_ref();
            }
        }
    }
}

async fn write(mut sender: Sender, shared: Rc<Shared>) {
    let mut spare = Vec::new();
    loop {
        let go_on = poll_fn(|context| {
            if shared.over.get() {
                return Poll::Ready(false);
            }
            if !shared.out.borrow().is_empty() {
                return Poll::Ready(true);
            }
            shared.writer.replace(Some(context.waker().clone()));
            Poll::Pending
        });
        if !go_on.await {
            // Without its two halves the connection closes.
            return;
        }
        let full = std::mem::replace(&mut *shared.out.borrow_mut(), spare);
        // One that was given to a task which was dropped is of no more use.
        shared.drained.withdraw();
        shared.drained.hand_over();
        match shared.unless_over(&shared.writing, sender.write(full)).await {
            Some(Ok(empty)) => spare = empty,
            Some(Err(error)) => return shared.break_down(Broken::new(sender.address(), &error)),
            None => return,
        }
    }
}

async fn read(mut receiver: Receiver, shared: Rc<Shared>) {
    let error = loop {
        match take_answers(&mut receiver, &shared) {
            Ok(()) => {}
            Err(error) => break error,
        }
        match shared.unless_over(&shared.reading, receiver.fill()).await {
            Some(Ok(())) => shared.heard.set(Instant::now()),
            Some(Err(error)) => break error,
            None => return,
        }
    };
    shared.break_down(Broken::new(receiver.address(), &error));
}

/// Hands out every answer that is here.
fn take_answers(receiver: &mut Receiver, shared: &Shared) -> Result<(), ClientError> {
    let mut slots = shared.slots.borrow_mut();
    while let Some((header, body)) = receiver.next_frame()? {
        if !slots.answer(header, body, &shared.room) {
            // An error of the connection itself, just before it closes.
            return Err(unexpected(&decode_response(&header, body)?));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
