//! A round: what is ready is read, handshakes go on, deadlines are kept, the owner is told.

use std::cell::RefMut;
use std::rc::Rc;

use ironring_core::{Instant, Now};
use ironring_net::peer::message::Ping;
use ironring_net::peer::{
    Handshake, Hello, Input, Message, PeerError, Refusal, VERSIONS, Welcome, judge_run,
    judge_welcome,
};
use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};

use super::READ_BYTES_PER_ROUND;
use super::event::{Down, PeerOwner, Remote, Side};
use super::handover::Newcomer;
use super::link::{Link, Stage};
use super::set::{BELL, DOOR, Ended, Peers, TIMER};
use super::socket;
use crate::driver::clock;

/// Sockets handled in one round; the rest is found in the next.
const EVENTS_PER_ROUND: usize = 256;

impl Peers {
    /// Handles everything that is ready; false when nothing was. Does not wait.
    pub fn round(&self, owner: &mut impl PeerOwner) -> bool {
        let mut events = [EpollEvent::empty(); EVENTS_PER_ROUND];
        let found = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        if found == 0 && self.ended.borrow().is_empty() {
            return false;
        }
        let now = clock::now();
        self.in_round.set(true);
        for event in &events[..found] {
            match event.data() {
                BELL => self.take_newcomers(now, owner),
                TIMER => self.keep_deadlines(now.mono),
                DOOR => self.open_door(now),
                name => self.ready(now, name, event.events(), owner),
            }
        }
        self.tell_ended(owner);
        self.in_round.set(false);
        true
    }

    fn tell_ended(&self, owner: &mut impl PeerOwner) {
        loop {
            // Whoever is told may end others.
            let ended = std::mem::take(&mut *self.ended.borrow_mut());
            if ended.is_empty() {
                return;
            }
            for Ended { link, peer, side, reason } in ended {
                tracing::debug!(link = link.0, node = peer.node.0, shard = peer.shard.0, %reason, "link down");
                owner.down(link, peer, side, &reason);
            }
        }
    }

    fn ready(&self, now: Now, name: u64, flags: EpollFlags, owner: &mut impl PeerOwner) {
        let Some(link) = self.link(super::LinkId(name)) else {
            return self.hear_guest(now, name);
        };
        let end = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
        if link.stage.get() == Stage::Connecting {
            return self.greet(now, &link);
        }
        if flags.contains(EpollFlags::EPOLLOUT) && link.blocked.replace(false) {
            self.watch(&link);
            self.write(&link);
            if link.is_up() && !link.blocked.get() {
                // Credits owed may have found no room before.
                self.mark_dirty(&link);
                owner.room(link.id);
            }
        }
        if flags.intersects(EpollFlags::EPOLLIN | end) {
            let read = match link.stage.get() {
                Stage::Greeting => self.hear_answer(now, &link, owner),
                _ => Ok(()),
            };
            let read = read.and_then(|()| self.read(now, &link, owner));
            if let Err(reason) = read {
                self.end(&link, reason);
            }
            link.rest();
        }
    }

    /// Reads what has come, up to a bound, and hands frames to the owner.
    fn read(&self, now: Now, link: &Rc<Link>, owner: &mut impl PeerOwner) -> Result<(), Down> {
        // What was read behind the handshake comes first.
        self.take_frames(now, link, owner)?;
        let mut read = 0;
        while link.is_up() && read < READ_BYTES_PER_ROUND {
            let n = link.receive()?;
            if n == 0 {
                break;
            }
            read += n;
            self.take_frames(now, link, owner)?;
        }
        Ok(())
    }

    fn take_frames(
        &self,
        now: Now,
        link: &Rc<Link>,
        owner: &mut impl PeerOwner,
    ) -> Result<(), Down> {
        // The owner may end the connection in the middle.
        while link.is_up() {
            let mut input: RefMut<'_, Input> = link.input.borrow_mut();
            let Some(frame) = input.next_frame()? else { break };
            let message = frame.message()?;
            match message {
                Message::Credits { bytes } => {
                    link.output.borrow_mut().credit(bytes);
                    owner.room(link.id);
                }
                Message::Ping(ping) => {
                    let pong = Message::Pong(Ping { wall: now.wall, ..ping });
                    // Without room for it the other side has enough to read.
                    let _ = link.output.borrow_mut().send(&pong);
                    self.mark_dirty(link);
                }
                Message::Goodbye(reason) => return Err(Down::Goodbye(reason)),
                message if link.side.takes(&message) => owner.frame(link.id, &frame, message),
                _ => return Err(Down::WrongSide(frame.header.kind)),
            }
        }
        Ok(())
    }

    /// The kernel has connected, or not: say who this is.
    fn greet(&self, now: Now, link: &Rc<Link>) {
        if let Err(error) = socket::dialled(&link.socket) {
            return self.end(link, Down::of_io(&error));
        }
        link.stage.set(Stage::Greeting);
        let local = self.local.borrow();
        let hello = self.hello(&local, now, link);
        let sent = link.output.borrow_mut().handshake(&Handshake::Hello(hello));
        if let Err(error) = sent {
            tracing::error!(%error, "this node cannot say who it is");
            return self.end(link, Down::Ended);
        }
        self.watch(link);
        self.write(link);
    }

    fn hello<'a>(&self, local: &'a super::Local, now: Now, link: &Link) -> Hello<'a> {
        Hello {
            versions: VERSIONS,
            identity: local.identity(now.wall),
            to_node: link.peer.node,
            from_shard: self.shard(),
            to_shard: link.peer.shard,
            token: &local.token,
            mark: local.mark,
        }
    }

    /// The answer to `Hello`.
    fn hear_answer(
        &self,
        now: Now,
        link: &Rc<Link>,
        owner: &mut impl PeerOwner,
    ) -> Result<(), Down> {
        link.receive()?;
        let answer = {
            let mut input = link.input.borrow_mut();
            let Some(frame) = input.next_frame()? else { return Ok(()) };
            match frame.handshake()? {
                Handshake::Welcome(welcome) => self.judge_answer(now, link, &welcome)?,
                Handshake::Refused(refused) => {
                    let (refusal, message) = (refused.refusal, refused.message.into_owned());
                    return Err(Down::NotLetIn { refusal, message, by_us: false });
                }
                Handshake::Hello(_) => {
                    let kind = frame.header.kind as u8;
                    return Err(PeerError::UnknownKind { version: 0, kind }.into());
                }
            }
        };
        let (remote, credits) = answer;
        let window = self.settings.window_bytes;
        link.input.borrow_mut().agree(remote.version, 0);
        link.output.borrow_mut().agree(remote.version, credits);
        self.raise(now.mono, link, remote, owner);
        self.grant(link.id, window);
        Ok(())
    }

    fn judge_answer(
        &self,
        now: Now,
        link: &Link,
        welcome: &Welcome<'_>,
    ) -> Result<(Remote, u64), Down> {
        let local = self.local.borrow();
        let hello = self.hello(&local, now, link);
        let judged = judge_welcome(&hello, welcome, self.settings.clock_skew_max_ms);
        judged.map_err(|refused| Down::NotLetIn {
            refusal: refused.refusal,
            message: refused.message.into_owned(),
            by_us: true,
        })?;
        let them = &welcome.identity;
        if let Some(newest) = self.runs.borrow().get(&them.node) {
            judge_run(them, welcome.mark, *newest).map_err(|message| Down::NotLetIn {
                refusal: Refusal::OldRun,
                message,
                by_us: true,
            })?;
        }
        let spoken = (welcome.version, welcome.identity.features);
        let remote = Remote::new(Side::Dialled, welcome.shard, &welcome.identity, spoken);
        Ok((remote, welcome.credits))
    }

    fn raise(&self, now: Instant, link: &Rc<Link>, remote: Remote, owner: &mut impl PeerOwner) {
        link.stage.set(Stage::Up);
        link.moment.set(now);
        let remote = Rc::new(remote);
        *link.remote.borrow_mut() = Some(Rc::clone(&remote));
        owner.up(link.id, &remote);
    }

    /// Welcomes whom the door let in.
    fn take_newcomers(&self, now: Now, owner: &mut impl PeerOwner) {
        for newcomer in self.handover.take() {
            if self.is_stopped() || !self.has_room() {
                // It dials again.
                continue;
            }
            self.welcome(now, newcomer, owner);
        }
    }

    fn welcome(&self, now: Now, newcomer: Newcomer, owner: &mut impl PeerOwner) {
        let Newcomer { socket, input, remote } = newcomer;
        let peer = remote.peer;
        if self.removed.borrow().contains(&peer.node) {
            // The door has let it in a moment before it was removed.
            return;
        }
        let older = self.accepted(peer).and_then(|id| self.link(id));
        if let Some(older) = older {
            let run = older.remote.borrow().as_ref().map(|r| r.incarnation);
            if run.is_some_and(|run| run > remote.incarnation) {
                return;
            }
            self.end(&older, Down::Replaced);
        }
        let begun = (Stage::Greeting, now.mono);
        let link = match self.add((Side::Accepted, peer), (socket, input), begun) {
            Ok(link) => link,
            Err(ended) => {
                tracing::warn!(reason = %ended.reason, "a connection of a node cannot be served");
                return;
            }
        };
        let local = self.local.borrow();
        let welcome = Welcome {
            version: remote.version,
            identity: ironring_net::peer::hello::Identity {
                features: remote.features,
                ..local.identity(now.wall)
            },
            shard: self.shard(),
            credits: self.settings.window_bytes,
            mark: local.mark,
        };
        let sent = link.output.borrow_mut().handshake(&Handshake::Welcome(welcome));
        drop(local);
        if let Err(error) = sent {
            tracing::error!(%error, "this node cannot say who it is");
            return self.end(&link, Down::Ended);
        }
        link.input.borrow_mut().agree(remote.version, self.settings.window_bytes);
        link.output.borrow_mut().agree(remote.version, 0);
        self.accepted.borrow_mut().insert(peer, link.id);
        self.mark_dirty(&link);
        self.raise(now.mono, &link, remote, owner);
        self.dial_soon(now.mono, peer);
        // What was read behind the handshake does not make the socket readable.
        if let Err(reason) = self.take_frames(now, &link, owner) {
            self.end(&link, reason);
        }
    }

    /// The node is there: shards of it that wait to be dialled again need not wait longer.
    fn dial_soon(&self, now: Instant, peer: super::PeerShard) {
        for (key, wanted) in &mut *self.wanted.borrow_mut() {
            if key.node == peer.node && wanted.link.is_none() && wanted.due > now {
                wanted.due = now;
                wanted.backoff.reset();
                self.wake_at(now);
            }
        }
    }

    /// Ends handshakes that take too long, dials whoever is due, and sets the next alarm.
    fn keep_deadlines(&self, now: Instant) {
        self.alarm.set(Instant(u64::MAX));
        let links: Vec<Rc<Link>> = self.links.borrow().values().cloned().collect();
        for link in links.iter().filter(|link| link.stage.get() < Stage::Up) {
            match link.moment.get() <= now {
                true => self.end(link, Down::HandshakeTimeout),
                false => self.wake_at(link.moment.get()),
            }
        }
        self.dismiss_guests(now);
        let mut due = Vec::new();
        for (peer, wanted) in &*self.wanted.borrow() {
            match wanted.due <= now {
                _ if wanted.link.is_some() => {}
                true => due.push(*peer),
                false => self.wake_at(wanted.due),
            }
        }
        for peer in due {
            self.dial(now, peer);
        }
    }
}
