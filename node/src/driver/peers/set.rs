//! The connections of one shard to other nodes: which there are, and which there should be.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use ironring_core::prng::Prng;
use ironring_core::{Instant, NodeId, ShardId};
use ironring_net::peer::message::GoodbyeReason;
use ironring_net::peer::{Input, Message, Output, Run};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::LINKS_MAX;
use super::backoff::{Backoff, jittered};
use super::event::{Down, LinkId, PeerShard, Remote, Side};
use super::gate::{Admit, Gate};
use super::handover::Handover;
use super::link::{ByteCount, Link, Stage};
use super::settings::{Local, PeerSettings, PeerTarget, PeerTargets};
use super::socket;
use crate::driver::clock;

/// Names in the epoll set that are no connection's.
pub(super) const BELL: u64 = 0;
pub(super) const TIMER: u64 = 1;
pub(super) const DOOR: u64 = 2;
const FIRST_NAME: u64 = 16;

/// A shard of another node that this side has something to ask.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// The connection, or the attempt at one.
    pub link: Option<LinkId>,
    /// Without one, when to dial.
    pub due: Instant,
    pub backoff: Backoff,
}

/// What ended and was not yet told.
pub(super) struct Ended {
    pub link: LinkId,
    pub peer: PeerShard,
    pub side: Side,
    pub reason: Down,
}

/// The connections of one shard. Lives on the shard's executor, behind an `Rc`.
///
/// - [`Peers::listen`], on one shard of a node, and [`Peers::set_targets`] when metadata change;
/// - [`Peers::want`] for each shard that there is something for, [`Peers::unwant`] when not any more;
/// - [`Peers::round`] when [`Peers::descriptor`] is readable, [`Peers::flush`] at the end of a turn;
/// - [`Peers::output`] to build frames, [`Peers::grant`] when payloads are done with.
pub struct Peers {
    pub(super) settings: PeerSettings,
    pub(super) local: RefCell<Local>,
    pub(super) epoll: Epoll,
    pub(super) handover: Handover,
    pub(super) links: RefCell<BTreeMap<LinkId, Rc<Link>>>,
    pub(super) targets: RefCell<BTreeMap<NodeId, PeerTarget>>,
    /// Nodes that were targets and are no more.
    pub(super) removed: RefCell<BTreeSet<NodeId>>,
    /// The newest run of each node that is known.
    pub(super) runs: RefCell<BTreeMap<NodeId, Run>>,
    pub(super) wanted: RefCell<BTreeMap<PeerShard, Wanted>>,
    pub(super) accepted: RefCell<BTreeMap<PeerShard, LinkId>>,
    pub(super) dirty: RefCell<Vec<Rc<Link>>>,
    pub(super) ended: RefCell<Vec<Ended>>,
    pub(super) gate: RefCell<Option<Gate>>,
    bytes: Rc<ByteCount>,
    prng: RefCell<Prng>,
    timer: TimerFd,
    /// When the timer rings, at the latest.
    pub(super) alarm: Cell<Instant>,
    next_name: Cell<u64>,
    pub(super) in_round: Cell<bool>,
    stopped: Cell<bool>,
}

const NEVER: Instant = Instant(u64::MAX);

impl Peers {
    /// No connections, and nobody to dial. `handover` says which shard's they are; `seed` makes the
    /// waits of different shards differ.
    ///
    /// # Errors
    /// When the system has no descriptors left.
    pub fn new(
        local: Local,
        settings: PeerSettings,
        handover: Handover,
        seed: u64,
    ) -> std::io::Result<Rc<Peers>> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?;
        // Edge by edge: what they say is said once, and nobody has to read it.
        let edge = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll.add(handover.bell(), EpollEvent::new(edge, BELL))?;
        epoll.add(timer.as_fd(), EpollEvent::new(edge, TIMER))?;
        Ok(Rc::new(Peers {
            settings,
            local: RefCell::new(local),
            epoll,
            handover,
            links: RefCell::default(),
            targets: RefCell::default(),
            removed: RefCell::default(),
            runs: RefCell::default(),
            wanted: RefCell::default(),
            accepted: RefCell::default(),
            dirty: RefCell::default(),
            ended: RefCell::default(),
            gate: RefCell::default(),
            bytes: Rc::default(),
            prng: RefCell::new(Prng::new(seed)),
            timer,
            alarm: Cell::new(NEVER),
            next_name: Cell::new(FIRST_NAME),
            in_round: Cell::new(false),
            stopped: Cell::new(false),
        }))
    }

    /// The shard whose connections they are.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.handover.shard()
    }

    /// Readable while [`Peers::round`] has something to do: a socket, a newcomer or a deadline. To be
    /// waited for level by level.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Accepts connections for every shard of the node on `socket`, which [`super::listen`] made.
    /// `admit` says who is let in.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen(&self, socket: socket2::Socket, admit: Admit) -> std::io::Result<()> {
        socket.set_nonblocking(true)?;
        self.epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, DOOR))?;
        *self.gate.borrow_mut() = Some(Gate::new(socket, admit));
        Ok(())
    }

    /// The newest run of each node that is known: what answers as an older one is an old copy of a data
    /// directory, and is not talked to.
    pub fn set_runs(&self, runs: BTreeMap<NodeId, Run>) {
        self.runs.replace(runs);
    }

    /// Who may be dialled from here on. Connections to nodes that are not among them end, and so do
    /// those to a node whose address is another; what waits to be dialled again is dialled at once. Nodes
    /// that were among them and are no more have their connections to this one ended as well, and
    /// get no others: ids are never given again.
    pub fn set_targets(&self, targets: PeerTargets) {
        self.local.borrow_mut().cluster = targets.cluster;
        let new: BTreeMap<NodeId, PeerTarget> =
            targets.nodes.into_iter().map(|target| (target.node, target)).collect();
        let old = self.targets.replace(new);
        let now = clock::mono();
        let mut over = Vec::new();
        for (key, wanted) in &mut *self.wanted.borrow_mut() {
            let new = self.targets.borrow().get(&key.node).cloned();
            if new.as_ref() == old.get(&key.node) {
                continue;
            }
            let reaches = new.as_ref().is_some_and(|t| key.shard.0 < t.shard_count);
            let moved = new.map(|t| t.address) != old.get(&key.node).map(|t| t.address);
            if let Some(link) = wanted.link.filter(|_| moved || !reaches) {
                over.push(link);
            }
            wanted.backoff.reset();
            wanted.due = now;
        }
        self.note_removed(&old);
        let removed = self.removed.borrow();
        let accepted = self.accepted.borrow();
        let gone = accepted.iter().filter(|(peer, _)| removed.contains(&peer.node));
        over.extend(gone.map(|(_, link)| *link));
        drop((removed, accepted));
        for link in over {
            self.close(link, GoodbyeReason::Removed);
        }
        self.wake_at(now);
    }

    /// Which nodes were targets and are no more. One that comes again, because what was known of it was
    /// older, is let in again.
    fn note_removed(&self, old: &BTreeMap<NodeId, PeerTarget>) {
        let targets = self.targets.borrow();
        let mut removed = self.removed.borrow_mut();
        removed.extend(old.keys());
        removed.retain(|node| !targets.contains_key(node));
    }

    /// Dials a shard of another node, now and whenever the connection is lost; false when there is no
    /// such shard among the targets.
    pub fn want(&self, peer: PeerShard) -> bool {
        if self.target(peer).is_none() {
            return false;
        }
        let now = clock::mono();
        self.wanted.borrow_mut().entry(peer).or_insert_with(|| {
            self.wake_at(now);
            Wanted { due: now, ..Wanted::default() }
        });
        true
    }

    /// There is nothing for that shard any more: its connection ends.
    pub fn unwant(&self, peer: PeerShard) {
        let wanted = self.wanted.borrow_mut().remove(&peer);
        if let Some(link) = wanted.and_then(|wanted| wanted.link) {
            self.close(link, GoodbyeReason::Idle);
        }
    }

    /// The connection that requests to a shard go by, when it is up.
    #[must_use]
    pub fn dialled(&self, peer: PeerShard) -> Option<LinkId> {
        let link = self.wanted.borrow().get(&peer)?.link?;
        self.link(link).filter(|link| link.is_up()).map(|link| link.id)
    }

    /// The connection that requests of a shard come by, when it is up.
    #[must_use]
    pub fn accepted(&self, peer: PeerShard) -> Option<LinkId> {
        self.accepted.borrow().get(&peer).copied()
    }

    /// Who is at the other end of a connection that is up.
    #[must_use]
    pub fn remote(&self, link: LinkId) -> Option<Rc<Remote>> {
        self.link(link)?.remote.borrow().clone()
    }

    /// Builds frames straight into the connection's output, which [`Peers::flush`] writes; `None`
    /// when it is not up.
    pub fn output<T>(&self, link: LinkId, build: impl FnOnce(&mut Output) -> T) -> Option<T> {
        let link = self.link(link).filter(|link| link.is_up())?;
        let built = build(&mut link.output.borrow_mut());
        self.mark_dirty(&link);
        Some(built)
    }

    /// Payload bytes a connection takes now.
    #[must_use]
    pub fn room(&self, link: LinkId) -> usize {
        let link = self.link(link).filter(|link| link.is_up());
        link.map_or(0, |link| link.output.borrow().room())
    }

    /// The owner is done with so many payload bytes of a connection: the other side learns with the
    /// next [`Peers::flush`] that it may send as many again.
    pub fn grant(&self, link: LinkId, bytes: u64) {
        let Some(link) = self.link(link) else { return };
        link.owed.set(link.owed.get() + bytes);
        self.mark_dirty(&link);
    }

    /// Writes what was built, one `send` a connection. Within a round it does nothing.
    pub fn flush(&self) {
        if self.in_round.get() {
            return;
        }
        let dirty = std::mem::take(&mut *self.dirty.borrow_mut());
        for link in dirty {
            link.dirty.set(false);
            link.pay();
            self.write(&link);
        }
    }

    /// Ends a connection, with a word to the other side if its socket takes it at once. It is told
    /// down in the next round; one that is wanted is dialled again.
    pub fn close(&self, link: LinkId, reason: GoodbyeReason) {
        let Some(link) = self.link(link) else { return };
        if link.is_up() {
            // What has no room need not be said.
            let _ = link.output.borrow_mut().send(&Message::Goodbye(reason));
            let _ = link.transmit();
        }
        self.end(&link, Down::Ended);
    }

    /// Ends everything, for good, with a word to the other sides.
    pub fn stop(&self) {
        self.stopped.set(true);
        self.wanted.borrow_mut().clear();
        *self.gate.borrow_mut() = None;
        let all: Vec<LinkId> = self.links.borrow().keys().copied().collect();
        for link in all {
            self.close(link, GoodbyeReason::Stopping);
        }
        self.wake_at(clock::mono());
    }

    /// Whether [`Peers::stop`] was called.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.get()
    }

    /// Bytes received and sent, over all connections there ever were.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.bytes.received.get(), self.bytes.sent.get())
    }

    /// Connections and attempts there are.
    #[must_use]
    pub fn links(&self) -> usize {
        self.links.borrow().len()
    }

    pub(super) fn link(&self, link: LinkId) -> Option<Rc<Link>> {
        self.links.borrow().get(&link).cloned()
    }

    pub(super) fn target(&self, peer: PeerShard) -> Option<PeerTarget> {
        let targets = self.targets.borrow();
        targets.get(&peer.node).filter(|t| peer.shard.0 < t.shard_count).cloned()
    }

    /// A name for the epoll set.
    pub(super) fn name(&self) -> u64 {
        let name = self.next_name.get();
        self.next_name.set(name + 1);
        name
    }

    pub(super) fn mark_dirty(&self, link: &Rc<Link>) {
        if !link.dirty.replace(true) {
            self.dirty.borrow_mut().push(Rc::clone(link));
        }
    }

    /// Sees to it that there is a round at `at`, or before.
    pub(super) fn wake_at(&self, at: Instant) {
        if at >= self.alarm.get() {
            return;
        }
        self.alarm.set(at);
        // Zero would stop it.
        let at = std::time::Duration::from_nanos(at.0.max(1));
        let at = Expiration::OneShot(TimeSpec::from_duration(at));
        let set = self.timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME);
        set.expect("the timer is open and the time is one");
    }

    /// A connection from its first moment on.
    pub(super) fn add(
        &self,
        (side, peer): (Side, PeerShard),
        (socket, input): (OwnedFd, Input),
        (stage, moment): (Stage, Instant),
    ) -> Result<Rc<Link>, Ended> {
        let id = LinkId(self.name());
        let ended = |reason| Ended { link: id, peer, side, reason };
        let wait = match stage {
            Stage::Connecting => EpollFlags::EPOLLOUT,
            _ => EpollFlags::EPOLLIN,
        };
        if let Err(errno) = self.epoll.add(&socket, EpollEvent::new(wait, id.0)) {
            return Err(ended(Down::System(errno)));
        }
        let link = Rc::new(Link {
            id,
            side,
            peer,
            socket,
            stage: Cell::new(stage),
            input: RefCell::new(input),
            output: RefCell::new(Output::new(self.settings.output_bytes_max)),
            remote: RefCell::new(None),
            moment: Cell::new(moment),
            blocked: Cell::new(false),
            dirty: Cell::new(false),
            owed: Cell::new(0),
            bytes: Rc::clone(&self.bytes),
        });
        self.links.borrow_mut().insert(id, Rc::clone(&link));
        Ok(link)
    }

    /// Whether there is room for another connection.
    pub(super) fn has_room(&self) -> bool {
        self.links.borrow().len() < LINKS_MAX
    }

    /// Waits for what the connection can do next.
    pub(super) fn watch(&self, link: &Link) {
        let mut flags = EpollFlags::EPOLLIN;
        flags.set(EpollFlags::EPOLLOUT, link.blocked.get());
        // Fails only for a socket that is not in the set, which is being closed.
        let _ = self.epoll.modify(&link.socket, &mut EpollEvent::new(flags, link.id.0));
    }

    /// Writes what the socket takes.
    pub(super) fn write(&self, link: &Rc<Link>) {
        if link.stage.get() == Stage::Over {
            return;
        }
        let was = link.blocked.get();
        match link.transmit() {
            Ok(()) if link.blocked.get() != was => self.watch(link),
            Ok(()) => {}
            Err(reason) => self.end(link, reason),
        }
    }

    /// Begins to dial a shard that is due.
    pub(super) fn dial(&self, now: Instant, peer: PeerShard) {
        let Some(target) = self.target(peer) else { return };
        if !self.has_room() {
            return self.fail_dial(now, peer, Down::TooMany);
        }
        let socket = match socket::dial(target.address) {
            Ok(socket) => socket,
            Err(error) => return self.fail_dial(now, peer, Down::of_io(&error)),
        };
        let by = now + self.settings.handshake_timeout;
        let begun = (Stage::Connecting, by);
        match self.add((Side::Dialled, peer), (socket, Input::new()), begun) {
            Ok(link) => {
                if let Some(wanted) = self.wanted.borrow_mut().get_mut(&peer) {
                    wanted.link = Some(link.id);
                }
                self.wake_at(by);
            }
            Err(ended) => self.fail_dial(now, peer, ended.reason),
        }
    }

    /// An attempt that ended before there was a socket to wait for.
    fn fail_dial(&self, now: Instant, peer: PeerShard, reason: Down) {
        let link = LinkId(self.name());
        self.dial_later(now, peer, &reason, false);
        self.tell(Ended { link, peer, side: Side::Dialled, reason });
    }

    /// When to dial again. `stable`: the connection had held.
    fn dial_later(&self, now: Instant, peer: PeerShard, reason: &Down, stable: bool) {
        let mut all = self.wanted.borrow_mut();
        let Some(wanted) = all.get_mut(&peer) else { return };
        let (mut prng, settings) = (self.prng.borrow_mut(), &self.settings);
        if stable {
            wanted.backoff.reset();
        }
        let wait = match reason {
            _ if stable && reason.let_go() => Duration::ZERO,
            Down::NotLetIn { .. } => jittered(settings.refused_retry, &mut prng),
            _ => wanted.backoff.failed(settings.backoff_min, settings.backoff_max, &mut prng),
        };
        wanted.link = None;
        wanted.due = now + wait;
        self.wake_at(wanted.due);
    }

    /// Ends a connection. Its descriptor is closed when the last who looks at it is done.
    pub(super) fn end(&self, link: &Rc<Link>, reason: Down) {
        let stage = link.stage.replace(Stage::Over);
        if stage == Stage::Over {
            return;
        }
        let now = clock::mono();
        // Before it is closed: the set would keep what another descriptor refers to.
        let _ = self.epoll.delete(&link.socket);
        let _ = socket2::SockRef::from(&link.socket).shutdown(std::net::Shutdown::Both);
        self.links.borrow_mut().remove(&link.id);
        let stable =
            stage == Stage::Up && now.since(link.moment.get()) >= self.settings.stable_after;
        match link.side {
            Side::Dialled => {
                let current = self.wanted.borrow().get(&link.peer).and_then(|w| w.link);
                if current == Some(link.id) {
                    self.dial_later(now, link.peer, &reason, stable);
                }
            }
            Side::Accepted => {
                let mut accepted = self.accepted.borrow_mut();
                if accepted.get(&link.peer) == Some(&link.id) {
                    accepted.remove(&link.peer);
                }
            }
        }
        self.tell(Ended { link: link.id, peer: link.peer, side: link.side, reason });
    }

    /// Has the owner told in a round.
    fn tell(&self, ended: Ended) {
        self.ended.borrow_mut().push(ended);
        if !self.in_round.get() {
            self.wake_at(clock::mono());
        }
    }
}
