//! One thread's connections: what is pending on each, and the two tasks that move its bytes.
//!
//! Requests are encoded into a connection's buffer, and the writer task sends whatever has
//! gathered in one write; the reader task takes up to 64 KiB at a time and handles every reply in
//! it with one look at the clock. Reading and writing never wait for each other, so a server that
//! stops reading until its answers are taken cannot lock up the run.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use monoio::buf::IoBufMut;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt, OwnedReadHalf, OwnedWriteHalf};
use monoio::net::TcpStream;

use crate::error::BenchError;
use crate::lane::{Lane, Matched, Pending};
use crate::protocol::{Parsed, Protocol};
use crate::recorder::Recorder;
use crate::schedule::{Dispatcher, Sender};
use crate::system::Clock;
use crate::workload::Workload;

/// Bytes asked for per read.
const READ_BYTES: usize = 64 << 10;
/// A write buffer that grew beyond this is given back after its write.
const WRITE_BYTES_KEPT: usize = 4 << 20;

/// One connection.
pub struct Conn<P> {
    pub(super) lane: Lane,
    protocol: P,
    /// Encoded and not yet handed to the kernel.
    out: Vec<u8>,
    writer: Option<Waker>,
}

impl<P: Protocol> Conn<P> {
    /// A connection that has shaken hands.
    pub fn new(protocol: P, pipeline: usize) -> Conn<P> {
        Conn {
            lane: Lane::new(pipeline, P::TAGGED),
            protocol,
            out: Vec::with_capacity(READ_BYTES),
            writer: None,
        }
    }

    fn wake_writer(&mut self) {
        if !self.out.is_empty()
            && let Some(writer) = self.writer.take()
        {
            writer.wake();
        }
    }
}

/// What decides when requests are sent.
pub enum Pace {
    /// Replies do; true once no more are wanted.
    Closed {
        /// No further requests.
        stopped: bool,
    },
    /// A schedule does.
    Open(Dispatcher),
}

/// What the connections of a thread share.
pub struct Shared {
    pub(super) recorder: Recorder,
    pub(super) workload: Workload,
    pub(super) pace: Pace,
    /// The dispatching task, while it waits for room.
    pub(super) dispatch: Option<Waker>,
    /// The first thing that went wrong; it ends the run.
    pub(super) failure: Option<BenchError>,
    /// All replies so far, in and out of the window.
    pub(super) replies: u64,
    /// Whether a prefill has drawn its last key.
    pub(super) exhausted: bool,
    /// Where the search for a connection with room begins.
    cursor: usize,
}

impl Shared {
    /// The state of a thread that has sent nothing yet.
    pub fn new(recorder: Recorder, workload: Workload, pace: Pace) -> Shared {
        Shared {
            recorder,
            workload,
            pace,
            dispatch: None,
            failure: None,
            replies: 0,
            exhausted: false,
            cursor: 0,
        }
    }

    /// Sends one request if the connection has room and there is one left to send.
    fn send_on<P: Protocol>(&mut self, conn: &mut Conn<P>, intended_ns: u64, now_ns: u64) -> bool {
        if !conn.lane.has_room() {
            return false;
        }
        let Some(op) = self.workload.next() else {
            self.exhausted = true;
            return false;
        };
        let pending = Pending { kind: op.kind, intended_ns, sent_ns: now_ns };
        let tag = conn.lane.begin(pending).expect("there is room");
        conn.protocol.encode(&op, tag, &mut conn.out);
        true
    }
}

/// Everything one generator thread works on. Tasks of one thread only; borrows never span an
/// await.
pub struct Thread<P> {
    pub(super) clock: Clock,
    pub(super) shared: RefCell<Shared>,
    pub(super) conns: Vec<RefCell<Conn<P>>>,
    /// The run is over: what happens to connections is nobody's failure any more.
    pub(super) closing: Cell<bool>,
}

struct Dispatch<'a, P> {
    shared: &'a mut Shared,
    conns: &'a [RefCell<Conn<P>>],
}

impl<P: Protocol> Sender for Dispatch<'_, P> {
    fn send(&mut self, intended_ns: u64, now_ns: u64) -> bool {
        let start = self.shared.cursor;
        for step in 0..self.conns.len() {
            let at = (start + step) % self.conns.len();
            let conn = &mut *self.conns[at].borrow_mut();
            if self.shared.send_on(conn, intended_ns, now_ns) {
                conn.wake_writer();
                self.shared.cursor = at + 1;
                return true;
            }
        }
        false
    }

    fn shed(&mut self, intended_ns: u64, now_ns: u64) {
        if let Some(op) = self.shared.workload.next() {
            let kind = op.kind;
            self.shared.recorder.shed(kind, intended_ns, now_ns);
        }
    }

    fn lagged(&mut self, intended_ns: u64, lag_ns: u64) {
        self.shared.recorder.lagged(intended_ns, lag_ns);
    }
}

impl<P: Protocol> Thread<P> {
    /// Runs `act` on the schedule of an open loop; nothing in a closed one.
    fn with_dispatcher(&self, act: impl FnOnce(&mut Dispatcher, &mut Dispatch<'_, P>)) {
        let mut shared = self.shared.borrow_mut();
        let stand_in = Pace::Closed { stopped: true };
        if let Pace::Open(mut dispatcher) = std::mem::replace(&mut shared.pace, stand_in) {
            act(&mut dispatcher, &mut Dispatch { shared: &mut shared, conns: &self.conns });
            shared.pace = Pace::Open(dispatcher);
        }
    }

    /// Sends what is due in an open loop.
    pub fn pump(&self, now_ns: u64) {
        self.with_dispatcher(|dispatcher, sender| dispatcher.pump(now_ns, sender));
    }

    /// Gives up what an open loop did not get to send.
    pub fn shed_rest(&self, now_ns: u64) {
        self.with_dispatcher(|dispatcher, sender| dispatcher.shed_rest(now_ns, sender));
    }

    /// Fills every connection of a closed loop.
    pub fn fill_all(&self, now_ns: u64) {
        for conn in &self.conns {
            let conn = &mut *conn.borrow_mut();
            fill(conn, &mut self.shared.borrow_mut(), now_ns);
        }
    }

    /// Ends a closed loop: replies release no more requests.
    pub fn stop(&self) {
        if let Pace::Closed { stopped } = &mut self.shared.borrow_mut().pace {
            *stopped = true;
        }
    }

    /// Counts what has waited since `before_ns` or longer as timed out.
    pub fn expire(&self, before_ns: u64, now_ns: u64) {
        let recorder = &mut self.shared.borrow_mut().recorder;
        for conn in &self.conns {
            let lane = &mut conn.borrow_mut().lane;
            lane.expire(before_ns, |pending| recorder.timed_out(pending, now_ns));
        }
    }

    /// Whether no connection awaits a reply.
    pub fn is_idle(&self) -> bool {
        self.conns.iter().all(|conn| conn.borrow().lane.is_idle())
    }

    /// Handles the whole messages at the beginning of `input`; returns how many bytes they took
    /// and how many the next one needs at least.
    fn handle(&self, index: usize, input: &[u8], now_ns: u64) -> Result<(usize, usize), String> {
        let mut taken = 0;
        let mut need = 1;
        let conn = &mut *self.conns[index].borrow_mut();
        let shared = &mut *self.shared.borrow_mut();
        while taken < input.len() {
            match conn.protocol.parse(&input[taken..])? {
                Parsed::Incomplete { need: more } => {
                    need = more;
                    break;
                }
                Parsed::Aside { len, answer } => {
                    conn.out.extend_from_slice(answer);
                    taken += len;
                }
                Parsed::Reply { len, tag, outcome } => {
                    taken += len;
                    shared.replies += 1;
                    match conn.lane.finish(tag) {
                        Matched::Request(request) => {
                            shared.recorder.reply(request, outcome, now_ns);
                        }
                        Matched::Late => shared.recorder.late_reply(now_ns),
                        Matched::Nothing => return Err("a reply to no request".to_owned()),
                    }
                }
            }
        }
        fill(conn, shared, now_ns);
        if let Pace::Open(dispatcher) = &shared.pace
            && dispatcher.blocked()
        {
            shared.cursor = index;
            if let Some(dispatch) = shared.dispatch.take() {
                dispatch.wake();
            }
        }
        Ok((taken, need))
    }

    /// Ends the writers; readers end when their sockets are shut down.
    pub fn close(&self) {
        self.closing.set(true);
        for conn in &self.conns {
            if let Some(writer) = conn.borrow_mut().writer.take() {
                writer.wake();
            }
        }
    }

    fn fail(&self, index: usize, problem: &str) {
        if self.closing.get() {
            return;
        }
        self.shared
            .borrow_mut()
            .failure
            .get_or_insert_with(|| BenchError::Server(format!("connection {index}: {problem}")));
    }
}

/// Sends on a closed loop's connection until its pipeline is full, and wakes its writer.
fn fill<P: Protocol>(conn: &mut Conn<P>, shared: &mut Shared, now_ns: u64) {
    if let Pace::Closed { stopped: false } = shared.pace {
        while shared.send_on(conn, now_ns, now_ns) {}
    }
    conn.wake_writer();
}

/// Reads replies until the connection or the run ends.
pub async fn read_loop<P: Protocol>(
    thread: Rc<Thread<P>>,
    index: usize,
    mut stream: OwnedReadHalf<TcpStream>,
) {
    let mut buffer: Vec<u8> = Vec::with_capacity(READ_BYTES);
    loop {
        let filled = buffer.len();
        let capacity = buffer.capacity();
        let (result, slice) = stream.read(buffer.slice_mut(filled..capacity)).await;
        buffer = slice.into_inner();
        match result {
            Ok(0) => return thread.fail(index, "closed by the server"),
            Ok(_) => {}
            Err(error) => return thread.fail(index, &format!("reading: {error}")),
        }
        match thread.handle(index, &buffer, thread.clock.now_ns()) {
            Ok((taken, need)) => {
                buffer.drain(..taken);
                if need > buffer.capacity() {
                    buffer.reserve(need - buffer.len());
                }
            }
            Err(problem) => return thread.fail(index, &problem),
        }
    }
}

/// Writes what gathers until the connection ends.
pub async fn write_loop<P: Protocol>(
    thread: Rc<Thread<P>>,
    index: usize,
    mut stream: OwnedWriteHalf<TcpStream>,
) {
    let mut spare: Vec<u8> = Vec::with_capacity(READ_BYTES);
    loop {
        let full = poll_fn(|cx| {
            if thread.closing.get() {
                return Poll::Ready(None);
            }
            let conn = &mut *thread.conns[index].borrow_mut();
            if conn.out.is_empty() {
                conn.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(Some(std::mem::replace(&mut conn.out, std::mem::take(&mut spare))))
        })
        .await;
        let Some(full) = full else { return };
        let (result, mut written) = stream.write_all(full).await;
        if let Err(error) = result {
            return thread.fail(index, &format!("writing: {error}"));
        }
        written.clear();
        if written.capacity() <= WRITE_BYTES_KEPT {
            spare = written;
        }
    }
}
