//! Which sockets are ready: one epoll set per executor, looked at once a round.
//!
//! glommio waits for each socket with an io_uring poll of its own: a submission, a completion, a
//! wake-up and a task for every request. Measured with 64 connections, that was a fifth of the CPU
//! of a get. One epoll set costs one system call a round, however many sockets are ready. The
//! runtime only has to sleep until the set itself is readable.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::task::{Poll, Waker};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::connection::ConnState;
use super::runtime::Runtime;
use crate::shard::ConnId;

/// Sockets handled in one round; the rest is found in the next.
const EVENTS_PER_ROUND: usize = 512;

/// The name no connection has: they are counted from 1.
const NO_CONNECTION: u64 = 0;
/// In [`Ready`]: other nodes want something. No connection is ever counted this far.
pub const NODES: ConnId = ConnId(u64::MAX);

/// The sockets of one executor.
pub struct Poller<R: Runtime> {
    epoll: Epoll,
    /// Memory for what the kernel tells: made once, because a busy shard asks for each request or two.
    events: RefCell<Box<[EpollEvent]>>,
    waiter: R::Waiter,
    /// Connections to go on with although their sockets have nothing new.
    again: RefCell<Vec<Rc<ConnState>>>,
    waker: RefCell<Option<Waker>>,
    woken: Cell<bool>,
}

/// One socket's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Which connection.
    pub conn: ConnId,
    /// It can be read, or is at its end.
    pub readable: bool,
    /// It takes bytes.
    pub writable: bool,
    /// Both directions are gone. Reported for as long as the socket is in the set.
    pub gone: bool,
}

impl<R: Runtime> Poller<R> {
    /// A set of no sockets, which `bell` wakes with every write to it.
    ///
    /// # Errors
    /// When the system has no descriptors left.
    pub fn new(runtime: &R, bell: BorrowedFd<'_>) -> std::io::Result<Poller<R>> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        // Edge by edge: what it says is said once, and nobody has to read it.
        epoll
            .add(bell, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, NO_CONNECTION))?;
        Ok(Poller {
            waiter: runtime.waiter(epoll.0.as_fd())?,
            epoll,
            events: RefCell::new(vec![EpollEvent::empty(); EVENTS_PER_ROUND].into()),
            again: RefCell::default(),
            waker: RefCell::new(None),
            woken: Cell::new(false),
        })
    }

    /// Adds a socket.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn add(&self, socket: &impl AsFd, conn: ConnId) -> std::io::Result<()> {
        Ok(self.epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, conn.0))?)
    }

    /// Adds a descriptor that only ends [`Poller::wait`]: nothing of it is in [`Poller::ready`] that
    /// names a connection.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn add_wake(&self, descriptor: BorrowedFd<'_>) -> std::io::Result<()> {
        Ok(self.epoll.add(descriptor, EpollEvent::new(EpollFlags::EPOLLIN, NO_CONNECTION))?)
    }

    /// Adds the descriptor of the connections to other nodes, reported as [`NODES`].
    ///
    /// # Errors
    /// When the system refuses.
    pub fn add_nodes(&self, descriptor: BorrowedFd<'_>) -> std::io::Result<()> {
        Ok(self.epoll.add(descriptor, EpollEvent::new(EpollFlags::EPOLLIN, NODES.0))?)
    }

    /// Changes what is waited for. With neither, only errors are reported.
    pub fn watch(&self, socket: &impl AsFd, conn: ConnId, read: bool, write: bool) {
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, read);
        flags.set(EpollFlags::EPOLLOUT, write);
        let mut event = EpollEvent::new(flags, conn.0);
        // Fails only for a socket that is not in the set, which is being closed.
        let _ = self.epoll.modify(socket, &mut event);
    }

    /// Removes a socket. Necessary before it is closed: another descriptor may refer to it.
    pub fn remove(&self, socket: &impl AsFd) {
        let _ = self.epoll.delete(socket);
    }

    /// Goes on with a connection in the next round.
    pub fn again(&self, conn: Rc<ConnState>) {
        self.again.borrow_mut().push(conn);
        self.wake();
    }

    /// Ends [`Poller::wait`], now or when it begins next.
    pub fn wake(&self) {
        self.woken.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Takes the connections to go on with.
    pub fn take_again(&self) -> Vec<Rc<ConnState>> {
        std::mem::take(&mut self.again.borrow_mut())
    }

    /// The sockets that are ready now. Does not wait.
    pub fn ready(&self, found: &mut VecDeque<Ready>) {
        let mut events = self.events.borrow_mut();
        found.clear();
        let Ok(n) = self.epoll.wait(&mut events, EpollTimeout::ZERO) else { return };
        found.extend(events[..n].iter().map(|event| {
            let flags = event.events();
            let end = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
            Ready {
                conn: ConnId(event.data()),
                readable: flags.intersects(EpollFlags::EPOLLIN | end),
                gone: flags.intersects(end),
                writable: flags.intersects(EpollFlags::EPOLLOUT | end),
            }
        }));
    }

    /// Waits until a socket is ready, the bell rings, or a connection is to go on. May end early.
    pub async fn wait(&self, runtime: &R) {
        let mut readable = std::pin::pin!(runtime.readable(&self.waiter));
        std::future::poll_fn(|cx| {
            if self.woken.take() {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            readable.as_mut().poll(cx)
        })
        .await;
    }
}
