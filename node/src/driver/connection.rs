//! Client connections: sockets to [`Connection`] state machines and back.
//!
//! One task reads a connection; answers are written by the turn with one non-blocking send, and
//! only when the socket is full does a second task wait for it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};

use futures_lite::AsyncRead;
use glommio::net::{TcpListener, TcpStream};
use ironring_core::ErrorCode;
use ironring_net::codec::encode_response;
use ironring_net::connection::{CloseReason, Connection, Identity, Limits};
use ironring_net::message::Response;

use super::clock;
use super::executor::Executor;
use crate::shard::{ConnId, Event};

/// How much is read at once: many frames when they are small.
const READ_BYTES: usize = 64 << 10;
/// Frames of one connection handled before others get their turn.
const FRAMES_PER_TURN: usize = 256;

/// One client connection.
pub struct ConnState {
    /// Its name.
    pub id: ConnId,
    /// The protocol's view of it.
    pub protocol: RefCell<Connection>,
    /// Whether it is on the list of connections with answers to write.
    pub dirty: Cell<bool>,
    socket: OwnedFd,
    /// A task waits for the socket to take more.
    writing: Cell<bool>,
    /// The reading task, wherever it waits.
    reader: RefCell<Option<Waker>>,
    /// The reading task does not wait for the socket but for answers to be written.
    stalled: Cell<bool>,
    peer: Option<SocketAddr>,
}

impl ConnState {
    /// Makes the reading task look again: it may read on, or has to end.
    pub fn wake_reader(&self) {
        if let Some(waker) = self.reader.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Writes what the socket takes now; leaves the rest to a task.
    pub fn write(self: &Rc<Self>, executor: &Rc<Executor>) {
        if self.writing.get() {
            return;
        }
        let mut blocked = false;
        {
            let mut protocol = self.protocol.borrow_mut();
            while protocol.output().pending_bytes() > 0 {
                let sent = nix::sys::socket::send(
                    self.socket.as_raw_fd(),
                    protocol.output().bytes(),
                    nix::sys::socket::MsgFlags::MSG_DONTWAIT
                        | nix::sys::socket::MsgFlags::MSG_NOSIGNAL,
                );
                match sent {
                    Ok(n) => {
                        protocol.output().sent(clock::now().mono, n);
                        executor.shared.sockets[usize::from(executor.id().0)]
                            .bytes_out
                            .fetch_add(n as u64, Ordering::Relaxed);
                    }
                    Err(nix::errno::Errno::EAGAIN) => {
                        blocked = true;
                        break;
                    }
                    Err(nix::errno::Errno::EINTR) => {}
                    Err(_) => {
                        // The peer is gone; the reading task learns it from the socket.
                        protocol.peer_closed();
                        break;
                    }
                }
            }
        }
        if self.stalled.get() {
            self.wake_reader();
        }
        if blocked {
            self.writing.set(true);
            let (me, executor) = (Rc::clone(self), Rc::clone(executor));
            glommio::spawn_local(async move {
                me.wait_until_writable().await;
                me.writing.set(false);
                if !me.protocol.borrow().is_finished() {
                    me.write(&executor);
                }
            })
            .detach();
        }
    }

    /// Waits until the socket takes bytes, by polling it with growing pauses of at most 5 ms: a
    /// peer this slow has its answers in the socket's own buffer meanwhile.
    async fn wait_until_writable(&self) {
        let mut pause = std::time::Duration::from_micros(100);
        loop {
            glommio::timer::sleep(pause).await;
            if self.protocol.borrow().is_finished() {
                return;
            }
            let mut fds = [nix::poll::PollFd::new(
                std::os::fd::AsFd::as_fd(&self.socket),
                nix::poll::PollFlags::POLLOUT,
            )];
            let ready = nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO);
            if !matches!(ready, Ok(0)) {
                return;
            }
            pause = (pause * 2).min(std::time::Duration::from_millis(5));
        }
    }
}

/// What connections of one shard are told and allowed.
#[derive(Clone)]
pub struct Terms {
    /// What a client learns in the handshake.
    pub identity: Arc<Identity>,
    /// Limits of one connection.
    pub limits: Limits,
}

/// Accepts connections on `listener` for ever.
pub async fn accept(executor: Rc<Executor>, listener: TcpListener, terms: Terms) {
    loop {
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                // Out of descriptors, most likely: others may close theirs.
                tracing::warn!(%error, "accept failed");
                glommio::timer::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        if executor.stopping.get() {
            continue;
        }
        let shared = &executor.shared;
        let sockets = &shared.sockets[usize::from(executor.id().0)];
        if shared.connections.fetch_add(1, Ordering::Relaxed) >= shared.connections_max {
            shared.connections.fetch_sub(1, Ordering::Relaxed);
            sockets.refused.fetch_add(1, Ordering::Relaxed);
            refuse(&stream, shared.connections_max);
            continue;
        }
        sockets.accepted.fetch_add(1, Ordering::Relaxed);
        let _ = stream.set_nodelay(true);
        let Some(conn) = open(&executor, &stream, &terms) else {
            shared.connections.fetch_sub(1, Ordering::Relaxed);
            continue;
        };
        glommio::spawn_local(serve(Rc::clone(&executor), conn, stream)).detach();
    }
}

/// Tells a connection too many why, as far as its socket takes it at once.
fn refuse(stream: &TcpStream, connections_max: u64) {
    let mut frame = Vec::new();
    let message = format!("the node serves {connections_max} connections already");
    let error =
        Response::Error { code: ErrorCode::TooManyConnections, detail: 100, message: &message };
    encode_response(&mut frame, 0, &error);
    let flags = nix::sys::socket::MsgFlags::MSG_DONTWAIT | nix::sys::socket::MsgFlags::MSG_NOSIGNAL;
    let _ = nix::sys::socket::send(stream.as_raw_fd(), &frame, flags);
}

fn open(executor: &Rc<Executor>, stream: &TcpStream, terms: &Terms) -> Option<Rc<ConnState>> {
    // A second descriptor, so that answers can be written while the stream waits for requests.
    let socket = nix::unistd::dup(stream_fd(stream)).ok()?;
    let id = executor.name_connection();
    let protocol = Connection::new(Arc::clone(&terms.identity), terms.limits, clock::now().mono);
    let conn = Rc::new(ConnState {
        id,
        protocol: RefCell::new(protocol),
        dirty: Cell::new(false),
        socket,
        writing: Cell::new(false),
        reader: RefCell::new(None),
        stalled: Cell::new(false),
        peer: stream.peer_addr().ok(),
    });
    executor.conns.borrow_mut().insert(id, Rc::clone(&conn));
    Some(conn)
}

fn stream_fd(stream: &TcpStream) -> std::os::fd::BorrowedFd<'_> {
    // SAFETY: the descriptor is the stream's, which outlives the borrow.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(stream.as_raw_fd()) }
}

/// A listener of glommio around a socket that is bound already.
#[must_use]
pub fn adopt(socket: socket2::Socket) -> TcpListener {
    // SAFETY: the descriptor is handed over: nothing else refers to it.
    unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) }
}

/// Serves one connection to its end.
async fn serve(executor: Rc<Executor>, conn: Rc<ConnState>, mut stream: TcpStream) {
    let reason = read_all(&executor, &conn, &mut stream).await;
    // What is owed is still written: wait for it, bounded by the connection's own timeouts.
    conn.stalled.set(true);
    std::future::poll_fn(|cx| {
        if conn.protocol.borrow().is_finished() {
            return Poll::Ready(());
        }
        *conn.reader.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    })
    .await;
    tracing::debug!(conn = conn.id.0, peer = ?conn.peer, %reason, "connection closed");
    executor.conns.borrow_mut().remove(&conn.id);
    executor.shared.connections.fetch_sub(1, Ordering::Relaxed);
    executor.handle(Event::Closed(conn.id));
    let _ = nix::sys::socket::shutdown(conn.socket.as_raw_fd(), nix::sys::socket::Shutdown::Both);
}

async fn read_all(
    executor: &Rc<Executor>,
    conn: &Rc<ConnState>,
    stream: &mut TcpStream,
) -> CloseReason {
    let sockets = &executor.shared.sockets[usize::from(executor.id().0)];
    loop {
        match handle_frames(executor, conn) {
            Ok(true) => {
                futures_lite::future::yield_now().await;
                continue;
            }
            Ok(false) => {}
            Err(reason) => {
                executor.mark_dirty(conn);
                executor.want_turn();
                return reason;
            }
        }
        let mut woken = false;
        let read = std::future::poll_fn(|cx| {
            let mut protocol = conn.protocol.borrow_mut();
            if let Some(reason) = protocol.close_reason() {
                return Poll::Ready(Err(reason));
            }
            *conn.reader.borrow_mut() = Some(cx.waker().clone());
            if !protocol.wants_read() || conn.stalled.get() {
                // Woken when answers were written: then frames that have arrived come first.
                conn.stalled.set(!woken);
                return if std::mem::replace(&mut woken, true) {
                    Poll::Ready(Ok(0))
                } else {
                    Poll::Pending
                };
            }
            let space = protocol.receive_space(READ_BYTES);
            match Pin::new(&mut *stream).poll_read(cx, space) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(0) | Err(_)) => {
                    protocol.peer_closed();
                    Poll::Ready(Ok(0))
                }
                Poll::Ready(Ok(n)) => {
                    protocol.received(clock::now().mono, n);
                    Poll::Ready(Ok(n))
                }
            }
        })
        .await;
        match read {
            Ok(n) => {
                sockets.bytes_in.fetch_add(n as u64, Ordering::Relaxed);
            }
            Err(reason) => return reason,
        }
    }
}

/// Hands the frames that have arrived to the shard; true when there may be more.
fn handle_frames(executor: &Rc<Executor>, conn: &Rc<ConnState>) -> Result<bool, CloseReason> {
    let now = clock::now();
    let mut protocol = conn.protocol.borrow_mut();
    let mut shard = executor.shard.borrow_mut();
    let mut effects = executor.effects.borrow_mut();
    let mut handled = 0;
    let ended = loop {
        match protocol.next_frame() {
            Ok(Some(frame)) => {
                let event =
                    Event::Request { conn: conn.id, header: frame.header, body: frame.body };
                shard.handle(now, event, &mut effects);
                handled += 1;
                if handled == FRAMES_PER_TURN {
                    break Ok(true);
                }
            }
            Ok(None) => break Ok(false),
            Err(reason) => break Err(reason),
        }
    };
    // The connection answers some frames by itself (the handshake).
    if protocol.wants_write() {
        executor.mark_dirty(conn);
    }
    drop((protocol, shard, effects));
    if handled > 0 || conn.dirty.get() {
        executor.want_turn();
    }
    ended
}
