//! Client connections: sockets to [`Connection`] state machines and back.
//!
//! One task per executor goes round: it takes what other shards sent, reads every socket that is
//! ready, hands messages and frames to the shard, and lets the turn seal, submit and answer; then
//! it looks again. Answers are written by the turn with one non-blocking send a connection, many with
//! one system call; what a socket does not take waits until it does.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ironring_core::{ErrorCode, Instant, Now};
use ironring_net::codec::encode_response;
use ironring_net::connection::{CloseReason, Connection, Identity, Limits};
use ironring_net::message::Response;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, shutdown};

use super::batch::{WORTH_IT, receive_one, send_one};
use super::clock;
use super::executor::Executor;
use super::poller::{NODES, Ready};
use super::receive::{Given, Receive};
use super::runtime::Runtime;
use crate::shard::{ConnId, ConnectionBytes, Event};

/// How much is read at once: many frames when they are small.
const READ_BYTES: usize = 64 << 10;
/// Reads of one socket in one round, so that a busy one does not keep others waiting.
const READS_PER_ROUND: usize = 8;
/// Bytes read in one round: what is received must not keep what is received already waiting.
const READ_BYTES_PER_ROUND: usize = 1 << 20;
/// Sockets received from at once: what a round may read, when each has much.
const RECEIVES_TOGETHER: usize = READ_BYTES_PER_ROUND / READ_BYTES;
/// A buffer that is empty keeps this much, while there is no lack of memory.
const KEEP_BYTES: usize = 1 << 20;
/// Frames of one connection handled in one round.
const FRAMES_PER_ROUND: usize = 256;

/// Answers made in one round before they are written: more would pile up.
const ANSWER_BYTES_PER_ROUND: usize = 4 << 20;
/// Of what a client has sent, so much is taken before its connection is closed.
const UNREAD_MAX: usize = 1 << 20;
/// How long to accept nothing after a failure.
const ACCEPT_NAP: Duration = Duration::from_millis(50);

/// One client connection.
pub struct ConnState {
    /// Its name.
    pub id: ConnId,
    /// The protocol's view of it.
    pub protocol: RefCell<Connection>,
    /// Whether it is on the list of connections with answers to write.
    pub dirty: Cell<bool>,
    socket: OwnedFd,
    /// What the poller waits for: to read, to write.
    watched: Cell<(bool, bool)>,
    /// The socket took less than there was.
    blocked: Cell<bool>,
    closed: Cell<bool>,
    /// Frames that have arrived wait for the next round.
    held_back: Cell<bool>,
    /// Memory for the large request being received.
    given: RefCell<Option<Given>>,
    /// There is none for it yet.
    waits_for_memory: Cell<bool>,
    /// What of it is in [`Executor::connection_bytes`].
    counted: Cell<ConnectionBytes>,
    peer: Option<SocketAddr>,
}

/// What connections of one shard are told and allowed.
#[derive(Clone)]
pub struct Terms {
    /// What a client learns in the handshake.
    pub identity: Arc<Identity>,
    /// Limits of one connection.
    pub limits: Limits,
}

/// Serves every connection of an executor, and the other shards, round after round.
pub async fn rounds<R: Runtime>(executor: Rc<Executor<R>>) {
    let (mut ready, mut messages) = (VecDeque::new(), VecDeque::new());
    let mut together = Vec::with_capacity(RECEIVES_TOGETHER);
    // The shard held a group back when it was last looked at.
    let mut held = false;
    loop {
        executor.runtime.drive();
        if ready.is_empty() {
            executor.poller.ready(&mut ready);
        }
        let again = executor.poller.take_again();
        if messages.is_empty() {
            executor.mesh.take(&mut messages);
        }
        if executor.mesh.has_news() {
            executor.take_news();
        }
        let now = clock::mono();
        if ready.is_empty() && again.is_empty() && messages.is_empty() {
            if executor.holds_group(now) {
                // Its time ends without an event, and its records come from whoever runs meanwhile.
                held = true;
                std::thread::yield_now();
                executor.runtime.yield_now(now).await;
            } else if std::mem::take(&mut held) {
                executor.want_turn();
                executor.runtime.yield_now(now).await;
            } else if executor.idle.borrow_mut().looks(now) {
                std::thread::yield_now();
                executor.idle.borrow_mut().offered(now, clock::mono());
                executor.runtime.yield_now(now).await;
            } else {
                if executor.mesh.may_sleep() {
                    executor.poller.wait(&*executor.runtime).await;
                }
                executor.mesh.awake();
            }
            continue;
        }
        executor.idle.borrow_mut().busy(now);
        // What other shards want comes to an end as well; the rest is for the next round.
        while let Some(message) = messages.pop_front() {
            executor.mesh.handled(&message);
            executor.handle(Event::Message(message));
            if executor.effects.borrow().pending_bytes() > ANSWER_BYTES_PER_ROUND {
                break;
            }
        }
        let mut read = 0;
        // The rest has its turn in the next round, before anybody else.
        while read < READ_BYTES_PER_ROUND
            && let Some(next) = ready.front()
        {
            if next.conn == NODES {
                ready.pop_front();
                executor.nodes.round(&executor);
                executor.want_turn();
                continue;
            }
            take_together(&executor, &mut ready, &mut together);
            read += serve(&executor, &mut ready, &mut together);
        }
        for conn in again {
            if conn.waits_for_memory() {
                conn.read(&executor, None, READS_PER_ROUND);
            }
            conn.handle_frames(&executor, clock::now());
            conn.settle(&executor);
        }
        // The turn runs now.
        executor.runtime.yield_now(now).await;
    }
}

/// Takes those that are served together: up to the next that is no connection.
fn take_together<R: Runtime>(
    executor: &Executor<R>,
    ready: &mut VecDeque<Ready>,
    together: &mut Vec<(Ready, Rc<ConnState>)>,
) {
    let conns = executor.conns.borrow();
    while together.len() < RECEIVES_TOGETHER
        && ready.front().is_some_and(|next| next.conn != NODES)
        && let Some(event) = ready.pop_front()
    {
        together.extend(conns.get(&event.conn).map(|conn| (event, Rc::clone(conn))));
    }
}

/// Does what the sockets of some connections are ready for. How many bytes were read. Those that there is
/// no time for are ready still, before others.
fn serve<R: Runtime>(
    executor: &Rc<Executor<R>>,
    ready: &mut VecDeque<Ready>,
    together: &mut Vec<(Ready, Rc<ConnState>)>,
) -> usize {
    let mut received = receive_together(executor, together).into_iter();
    let mut read = 0;
    let mut rest = Vec::new();
    for (event, conn) in together.drain(..) {
        // What is received already is taken in any case.
        let received = if event.readable { received.next().flatten() } else { None };
        let full = read >= READ_BYTES_PER_ROUND;
        if full && event.readable && received.is_none() {
            rest.push(event);
            continue;
        }
        if event.writable && conn.blocked.get() {
            conn.blocked.set(false);
            executor.mark_dirty(&conn);
            executor.want_turn();
        }
        if event.readable {
            let reads = if full { 1 } else { READS_PER_ROUND };
            read += conn.read(executor, received, reads);
            executor.start_io_early();
        }
        if event.gone && conn.waits_for_memory() {
            // Nobody waits for the answer, and nobody tells that there is more to read.
            conn.protocol.borrow_mut().give_up();
            conn.settle(executor);
        } else if event.gone && !conn.watched.get().0 {
            // Answers may still be owed to nobody; the set must not report it until then.
            executor.poller.remove(&conn.socket);
        }
    }
    rest.into_iter().rev().for_each(|event| ready.push_front(event));
    read
}

/// What came of a receive into the front of [`Connection::receive_space`].
struct Received {
    result: nix::Result<usize>,
    /// How much there was room for.
    room: usize,
}

/// Receives from all that can be read, at once. In their order: none for those that are not to be read, or
/// when there are too few.
fn receive_together<R: Runtime>(
    executor: &Executor<R>,
    conns: &[(Ready, Rc<ConnState>)],
) -> Vec<Option<Received>> {
    if conns.len() < WORTH_IT {
        return Vec::new();
    }
    let readable = || conns.iter().filter(|(event, _)| event.readable).map(|(_, conn)| conn);
    let mut protocols: Vec<_> = readable().map(|conn| conn.protocol.borrow_mut()).collect();
    let mut what = Vec::with_capacity(protocols.len());
    let mut received = Vec::with_capacity(protocols.len());
    for (conn, protocol) in readable().zip(&mut protocols) {
        let ready = protocol.wants_read()
            && !conn.held_back.get()
            && !conn.waits_for_memory.get()
            && (protocol.large_frame_bytes() == 0 || conn.given.borrow().is_some());
        received.push(ready.then(|| {
            // All of one after another would be more than a round is to read.
            let space = protocol.receive_space(READ_BYTES);
            let room = space.len().min(READ_BYTES);
            let space = &mut space[..room];
            what.push((conn.socket.as_fd(), space));
            Received { result: Ok(0), room }
        }));
    }
    let mut results = Vec::with_capacity(what.len());
    executor.batch.receive(&mut what, &mut results);
    for (received, result) in received.iter_mut().flatten().zip(results) {
        received.result = result;
    }
    received
}

impl ConnState {
    /// Reads what has come, at most so many times, and handles it. How many bytes there were. `received`: how a
    /// first receive has just ended.
    fn read<R: Runtime>(
        self: &Rc<Self>,
        executor: &Rc<Executor<R>>,
        mut received: Option<Received>,
        reads: usize,
    ) -> usize {
        let sockets = &executor.shared.sockets[usize::from(executor.shard_number())];
        if !self.protocol.borrow().wants_read() {
            // It asks for memory anew when it does: others go first.
            self.forget_wait(executor);
        }
        let mut read = 0;
        for _ in 0..reads {
            let mut protocol = self.protocol.borrow_mut();
            let next = received.take().or_else(|| {
                // Frames that have arrived come first: the buffer only has room for what is left of one.
                let reads = protocol.wants_read()
                    && !self.held_back.get()
                    && self.has_memory(executor, &mut protocol);
                reads.then(|| {
                    let space = protocol.receive_space(READ_BYTES);
                    Received { room: space.len(), result: receive_one(&self.socket, space) }
                })
            });
            let Some(Received { result, room }) = next else { break };
            let now = clock::now();
            let more = match result {
                Ok(n) if n > 0 => {
                    protocol.received(now.mono, n);
                    read += n;
                    sockets.bytes_in.fetch_add(n as u64, Ordering::Relaxed);
                    n == room
                }
                // When the kernel is short of memory, the socket stays ready.
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOMEM | Errno::ENOBUFS) => false,
                Ok(_) | Err(_) => {
                    protocol.peer_closed();
                    false
                }
            };
            drop(protocol);
            self.handle_frames(executor, now);
            if !more || self.held_back.get() {
                break;
            }
        }
        self.settle(executor);
        read
    }

    /// Hands the frames that have arrived to the shard.
    fn handle_frames<R: Runtime>(self: &Rc<Self>, executor: &Rc<Executor<R>>, now: Now) {
        let mut protocol = self.protocol.borrow_mut();
        let mut shard = executor.shard.borrow_mut();
        let mut effects = executor.effects.borrow_mut();
        let mut handled = 0;
        let held_back = loop {
            let full =
                handled == FRAMES_PER_ROUND || effects.pending_bytes() > ANSWER_BYTES_PER_ROUND;
            if full {
                break true;
            }
            match protocol.next_frame() {
                Ok(Some(frame)) => {
                    let (header, body) = (frame.header, frame.body);
                    shard.handle(now, Event::Request { conn: self.id, header, body }, &mut effects);
                    handled += 1;
                }
                // Why it ends is told by `settle`.
                Ok(None) | Err(_) => break false,
            }
        };
        // The connection answers some frames by itself (the handshake). A socket that is full says
        // when it is not: until then a turn would only come back here.
        let answers = protocol.wants_write() && !self.blocked.get();
        let large = protocol.large_frame_bytes();
        drop((protocol, shard, effects));
        self.held_back.set(held_back);
        // What memory was given for is the first that was handled, if it is not at the front still.
        if handled > 0 || self.given.borrow().as_ref().is_some_and(|g| g.bytes() != large) {
            self.give_back(executor);
        }
        if answers {
            executor.mark_dirty(self);
        }
        if handled > 0 || answers {
            executor.want_turn();
        }
        if held_back {
            executor.poller.again(Rc::clone(self));
        }
    }

    /// The socket, to send to together with others'.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether there are answers, and the socket may take some.
    pub fn takes_answers(&self) -> bool {
        !self.blocked.get() && self.protocol.borrow().wants_write()
    }

    /// Writes what the socket takes now. `sent`: how a send of all there was has just ended.
    pub fn write<R: Runtime>(
        self: &Rc<Self>,
        executor: &Rc<Executor<R>>,
        now: Instant,
        mut sent: Option<nix::Result<usize>>,
    ) {
        let (mut moved, mut failed) = (false, false);
        let dropped;
        {
            let mut protocol = self.protocol.borrow_mut();
            let sockets = &executor.shared.sockets[usize::from(executor.shard_number())];
            while !self.blocked.get() && protocol.output().pending_bytes() > 0 {
                let bytes = protocol.output().bytes();
                match sent.take().unwrap_or_else(|| send_one(&self.socket, bytes)) {
                    Ok(n) => {
                        moved = true;
                        protocol.output().sent(now, n);
                        sockets.bytes_out.fetch_add(n as u64, Ordering::Relaxed);
                    }
                    Err(Errno::EAGAIN | Errno::ENOMEM | Errno::ENOBUFS) => self.blocked.set(true),
                    Err(Errno::EINTR) => {}
                    Err(_) => {
                        protocol.write_failed();
                        failed = true;
                    }
                }
            }
            dropped = protocol.output().is_discarding();
        }
        // Answers that went out, or nowhere, make room for frames that were held back; a failure is noticed by
        // whoever asks for the next frame.
        if failed || ((moved || dropped) && !self.watched.get().0) {
            executor.poller.again(Rc::clone(self));
        }
        self.settle(executor);
    }

    /// Whether there is memory for the request at the front. One that waits is gone on with when its
    /// turn has come.
    fn has_memory<R: Runtime>(&self, executor: &Executor<R>, protocol: &mut Connection) -> bool {
        let bytes = protocol.large_frame_bytes();
        let mut given = self.given.borrow_mut();
        if bytes == 0 || given.is_some() {
            return true;
        }
        let now = clock::mono();
        let held = executor.shard.borrow().upload_bytes();
        *given = executor.receive.borrow_mut().ask(now, self.id, bytes, held);
        let waits = given.is_none();
        if self.waits_for_memory.replace(waits) && !waits {
            protocol.read_on(now);
            next_receives(executor);
        }
        !waits
    }

    /// Gives memory back when the request is over.
    fn give_back<R: Runtime>(&self, executor: &Executor<R>) {
        if let Some(given) = self.given.borrow_mut().take() {
            executor.receive.borrow_mut().give_back(given);
            next_receives(executor);
        }
    }

    fn forget_wait<R: Runtime>(&self, executor: &Executor<R>) {
        if self.waits_for_memory.replace(false) {
            executor.receive.borrow_mut().forget(self.id);
            next_receives(executor);
        }
    }

    /// Whether its next request waits for memory.
    pub fn waits_for_memory(&self) -> bool {
        self.waits_for_memory.get()
    }

    /// Whether others have waited too long for the memory it has.
    pub fn holds_up(&self, now: Instant, receive: &Receive) -> bool {
        let progress = || self.protocol.borrow_mut().output().last_progress();
        self.given.borrow().as_ref().is_some_and(|given| receive.is_late(now, given, progress()))
    }

    /// Counts its memory, and frees what it only keeps while all together have too much.
    pub fn count_memory<R: Runtime>(&self, executor: &Executor<R>) {
        let mut protocol = self.protocol.borrow_mut();
        let mut all = executor.connection_bytes.get();
        let before = self.counted.get();
        let pressed = executor.receive.borrow().is_pressed(all);
        protocol.release_memory(if pressed { 0 } else { KEEP_BYTES });
        let now =
            ConnectionBytes { input: protocol.input_memory(), output: protocol.output_memory() };
        drop(protocol);
        all.input = all.input + now.input - before.input;
        all.output = all.output + now.output - before.output;
        self.counted.set(now);
        executor.connection_bytes.set(all);
    }

    /// Waits for what the protocol wants next, or ends the connection.
    pub fn settle<R: Runtime>(self: &Rc<Self>, executor: &Rc<Executor<R>>) {
        if self.closed.get() {
            return;
        }
        self.count_memory(executor);
        let (finished, read) = {
            let protocol = self.protocol.borrow();
            let ends = protocol.close_reason().is_some();
            let waits = self.held_back.get() || self.waits_for_memory.get();
            let reads = protocol.wants_read() && !ends && !waits;
            (protocol.is_finished(), reads)
        };
        if finished {
            return self.close(executor);
        }
        let wanted = (read, self.blocked.get());
        if self.watched.replace(wanted) != wanted {
            executor.poller.watch(&self.socket, self.id, wanted.0, wanted.1);
        }
    }

    fn close<R: Runtime>(self: &Rc<Self>, executor: &Rc<Executor<R>>) {
        self.closed.set(true);
        let reason = self.protocol.borrow().close_reason();
        let reason = reason.unwrap_or(CloseReason::Shutdown);
        tracing::debug!(conn = self.id.0, peer = ?self.peer, %reason, "connection closed");
        executor.poller.remove(&self.socket);
        hang_up(&self.socket);
        executor.conns.borrow_mut().remove(&self.id);
        let (mut all, mine) = (executor.connection_bytes.get(), self.counted.take());
        (all.input, all.output) = (all.input - mine.input, all.output - mine.output);
        executor.connection_bytes.set(all);
        self.give_back(executor);
        self.forget_wait(executor);
        executor.shared.connections.fetch_sub(1, Ordering::Relaxed);
        executor.handle(Event::Closed(self.id));
    }
}

/// Whoever waits for memory first asks again in the next round.
pub fn next_receives<R: Runtime>(executor: &Executor<R>) {
    let next = executor.receive.borrow().next();
    let conn = next.and_then(|id| executor.conns.borrow().get(&id).cloned());
    if let Some(conn) = conn {
        executor.poller.again(conn);
    }
}

/// Accepts connections on `listener` for ever.
pub async fn accept<R: Runtime>(executor: Rc<Executor<R>>, listener: R::Listener, terms: Terms) {
    loop {
        let socket = match executor.runtime.accept(&listener).await {
            Ok(socket) => socket,
            Err(error) => {
                // Out of descriptors, most likely: others may close theirs.
                tracing::warn!(%error, "accept failed");
                executor.runtime.sleep(ACCEPT_NAP).await;
                continue;
            }
        };
        if executor.stopping.get() {
            continue;
        }
        let shared = &executor.shared;
        let sockets = &shared.sockets[usize::from(executor.shard_number())];
        if shared.connections.fetch_add(1, Ordering::Relaxed) >= shared.connections_max {
            shared.connections.fetch_sub(1, Ordering::Relaxed);
            sockets.refused.fetch_add(1, Ordering::Relaxed);
            refuse(&socket, shared.connections_max);
            continue;
        }
        if let Err(error) = open(&executor, socket, &terms) {
            tracing::warn!(%error, "a connection cannot be served");
            shared.connections.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        sockets.accepted.fetch_add(1, Ordering::Relaxed);
    }
}

/// Tells a connection too many why, as far as its socket takes it at once.
fn refuse(socket: &OwnedFd, connections_max: u64) {
    let mut frame = Vec::new();
    let message = format!("the node serves {connections_max} connections already");
    let error =
        Response::Error { code: ErrorCode::TooManyConnections, detail: 100, message: &message };
    encode_response(&mut frame, 0, &error);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let _ = send(socket.as_raw_fd(), &frame, flags);
    hang_up(socket);
}

/// Ends what is sent, and takes what has come and nobody will read: a socket that is closed over it takes
/// back answers that it has not sent yet.
fn hang_up(socket: &OwnedFd) {
    let _ = shutdown(socket.as_raw_fd(), Shutdown::Write);
    let mut unread = [0; 16 << 10];
    for _ in 0..UNREAD_MAX / unread.len() {
        match recv(socket.as_raw_fd(), &mut unread, MsgFlags::MSG_DONTWAIT) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

fn open<R: Runtime>(
    executor: &Rc<Executor<R>>,
    socket: OwnedFd,
    terms: &Terms,
) -> std::io::Result<()> {
    let options = socket2::SockRef::from(&socket);
    let _ = options.set_tcp_nodelay(true);
    let peer = options.peer_addr().ok().and_then(|a| a.as_socket());
    let id = executor.name_connection();
    let protocol = Connection::new(Arc::clone(&terms.identity), terms.limits, clock::mono());
    executor.poller.add(&socket, id)?;
    let conn = Rc::new(ConnState {
        id,
        protocol: RefCell::new(protocol),
        dirty: Cell::new(false),
        socket,
        watched: Cell::new((true, false)),
        blocked: Cell::new(false),
        closed: Cell::new(false),
        held_back: Cell::new(false),
        given: RefCell::new(None),
        waits_for_memory: Cell::new(false),
        counted: Cell::default(),
        peer,
    });
    executor.conns.borrow_mut().insert(id, conn);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn answers_reach_a_client_that_has_sent_more_than_was_read() {
        const UNREAD: usize = 10_000;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&[1; UNREAD]).unwrap();
        while server.peek(&mut [0; UNREAD]).unwrap() < UNREAD {}
        // More than is on its way at once: the rest waits in this side's socket.
        server.set_nonblocking(true).unwrap();
        let mut sent = 0;
        loop {
            match server.write(&[2; 64 << 10]) {
                Ok(n) => sent += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        let server = OwnedFd::from(server);
        hang_up(&server);
        drop(server);
        let mut received = Vec::new();
        client.read_to_end(&mut received).expect("it is not reset");
        assert_eq!(received.len(), sent);
    }
}
