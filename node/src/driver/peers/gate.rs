//! The door of a node: connections of other nodes until their handshake is judged.
//!
//! A stranger can make a node hold [`HANDSHAKES_MAX`] sockets with a small buffer each, for as long
//! as a handshake may take. When there are so many, the oldest has to go: a node that means it has
//! sent its `Hello` before its connection is accepted.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use ironring_core::{Instant, Now, ShardId};
use ironring_net::peer::frame::{HANDSHAKE_BYTES_MAX, HEADER_BYTES};
use ironring_net::peer::judge::malformed;
use ironring_net::peer::{
    Handshake, Hello, Input, Member, Output, PeerError, Policy, Refusal, Refused, VERSIONS,
    judge_hello,
};
use nix::sys::epoll::{EpollEvent, EpollFlags};
use socket2::SockRef;

use super::HANDSHAKES_MAX;
use super::event::{Remote, Side};
use super::handover::Newcomer;
use super::set::{DOOR, Peers};
use super::socket::{Moved, receive, transmit, tune};

/// Connections accepted in one round.
const ACCEPTS_PER_ROUND: usize = 64;
/// How long to accept nothing after a failure.
const ACCEPT_NAP: std::time::Duration = std::time::Duration::from_millis(50);
/// Bytes read of a guest at once: a handshake.
const GUEST_BYTES: usize = HEADER_BYTES + HANDSHAKE_BYTES_MAX as usize;

/// What the metadata say of a node at the door.
#[derive(Clone, Debug)]
pub struct Admission {
    /// The member with its id.
    pub member: Option<Member>,
    /// Why the token it showed does not let it join; none: it does. See
    /// [`ironring_net::peer::Policy::token`].
    pub token_refused: Option<(Refusal, String)>,
    /// This node is about to stop.
    pub stopping: bool,
}

/// Says who is let in.
pub type Admit = Box<dyn Fn(&Hello<'_>) -> Admission>;

/// A socket that was accepted and not judged.
struct Guest {
    socket: OwnedFd,
    input: Input,
    by: Instant,
}

/// The listening socket and who stands before it.
pub(super) struct Gate {
    listener: socket2::Socket,
    admit: Admit,
    /// By name; the oldest has the lowest.
    guests: BTreeMap<u64, Guest>,
    /// Nothing is accepted until then.
    shut_until: Option<Instant>,
    /// When the second began in which refusals are counted that are said, and how many there were.
    refusals: (Instant, u32),
}

/// Refusals that the log tells of, a second: strangers may come as often as they like.
const REFUSALS_TOLD: u32 = 10;

impl Gate {
    pub fn new(listener: socket2::Socket, admit: Admit) -> Gate {
        let refusals = (Instant(0), 0);
        Gate { listener, admit, guests: BTreeMap::new(), shut_until: None, refusals }
    }

    /// Whether the log tells of one more refusal.
    fn tells_refusal(&mut self, now: Instant) -> bool {
        if now.since(self.refusals.0) >= Duration::from_secs(1) {
            self.refusals = (now, 0);
        }
        self.refusals.1 += 1;
        self.refusals.1 <= REFUSALS_TOLD
    }
}

impl Peers {
    /// Handshakes in progress at this shard's door.
    #[must_use]
    pub fn guests(&self) -> usize {
        self.gate.borrow().as_ref().map_or(0, |gate| gate.guests.len())
    }

    /// Accepts who waits.
    pub(super) fn open_door(&self, now: Now) {
        for _ in 0..ACCEPTS_PER_ROUND {
            let accepted = match &*self.gate.borrow() {
                Some(gate) => gate.listener.accept(),
                None => return,
            };
            match accepted {
                Ok((socket, _)) => self.admit_guest(now, socket),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // It has gone already.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // Out of descriptors, most likely: others may close theirs.
                    tracing::warn!(%error, "accepting a node failed");
                    return self.shut_door(now.mono + ACCEPT_NAP);
                }
            }
        }
    }

    fn admit_guest(&self, now: Now, socket: socket2::Socket) {
        if let Err(error) = tune(SockRef::from(&socket)) {
            tracing::debug!(%error, "a connection was gone before it was looked at");
            return;
        }
        let (name, by) = (self.name(), now.mono + self.settings.handshake_timeout);
        {
            let mut gate = self.gate.borrow_mut();
            let Some(gate) = &mut *gate else { return };
            if gate.guests.len() >= HANDSHAKES_MAX
                && let Some((_, oldest)) = gate.guests.pop_first()
            {
                let _ = self.epoll.delete(&oldest.socket);
            }
            let socket: OwnedFd = socket.into();
            if self.epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, name)).is_err() {
                return;
            }
            gate.guests.insert(name, Guest { socket, input: Input::new(), by });
        }
        self.wake_at(by);
        self.hear_guest(now, name);
    }

    /// A guest may have said something.
    pub(super) fn hear_guest(&self, now: Now, name: u64) {
        let mut slot = self.gate.borrow_mut();
        let Some(gate) = &mut *slot else { return };
        let Some(guest) = gate.guests.get_mut(&name) else { return };
        let judged = match receive(&guest.socket, guest.input.space(GUEST_BYTES)) {
            Moved::Blocked => return,
            Moved::End | Moved::Failed(_) => None,
            Moved::Bytes(n) => {
                guest.input.filled(n);
                match self.judge_guest(now, &mut guest.input, &gate.admit) {
                    None => return,
                    Some(judged) => Some(judged),
                }
            }
        };
        let Some(Guest { socket, input, .. }) = gate.guests.remove(&name) else { return };
        let _ = self.epoll.delete(&socket);
        let tell = matches!(judged, Some(Err(_))) && gate.tells_refusal(now.mono);
        drop(slot);
        match judged {
            Some(Ok((to, remote))) => {
                let newcomer = Newcomer { socket, input, remote };
                if !self.handover.send(to, newcomer) {
                    tracing::warn!(shard = to.0, "a shard takes no more connections of nodes");
                }
            }
            Some(Err(refused)) => refuse(&socket, refused, tell),
            None => {}
        }
    }

    /// Who the guest is and whom it means; `None` while that is not known.
    fn judge_guest(
        &self,
        now: Now,
        input: &mut Input,
        admit: &Admit,
    ) -> Option<Result<(ShardId, Remote), Refused<'static>>> {
        let frame = match input.next_frame() {
            Ok(None) => return None,
            Ok(Some(frame)) => frame,
            Err(error) => return Some(Err(malformed(VERSIONS, &error))),
        };
        Some(match frame.handshake() {
            Ok(Handshake::Hello(hello)) => self.judge(now, &hello, admit),
            Ok(_) => {
                let kind = frame.header.kind as u8;
                Err(malformed(VERSIONS, &PeerError::UnknownKind { version: 0, kind }))
            }
            Err(error) => Err(malformed(VERSIONS, &error)),
        })
    }

    fn judge(
        &self,
        now: Now,
        hello: &Hello<'_>,
        admit: &Admit,
    ) -> Result<(ShardId, Remote), Refused<'static>> {
        let admission = admit(hello);
        let policy = Policy {
            versions: VERSIONS,
            clock_skew_max_ms: self.settings.clock_skew_max_ms,
            member: admission.member,
            token: match &admission.token_refused {
                Some((refusal, why)) => Err((*refusal, why)),
                None => Ok(()),
            },
            stopping: admission.stopping,
            credits: self.settings.window_bytes,
        };
        let local = self.local.borrow();
        let welcome = judge_hello(&local.identity(now.wall), hello, &policy)?;
        let spoken = (welcome.version, welcome.identity.features);
        let remote = Remote::new(Side::Accepted, hello.from_shard, &hello.identity, spoken);
        Ok((hello.to_shard, remote))
    }

    /// Sends guests away whose time is over, and opens the door again.
    pub(super) fn dismiss_guests(&self, now: Instant) {
        let mut gate = self.gate.borrow_mut();
        let Some(gate) = &mut *gate else { return };
        gate.guests.retain(|_, guest| {
            let stays = guest.by > now;
            match stays {
                true => self.wake_at(guest.by),
                false => drop(self.epoll.delete(&guest.socket)),
            }
            stays
        });
        match gate.shut_until {
            Some(until) if until > now => self.wake_at(until),
            Some(_) => {
                gate.shut_until = None;
                self.watch_door(gate, EpollFlags::EPOLLIN);
            }
            None => {}
        }
    }

    fn shut_door(&self, until: Instant) {
        let mut gate = self.gate.borrow_mut();
        let Some(gate) = &mut *gate else { return };
        gate.shut_until = Some(until);
        self.watch_door(gate, EpollFlags::empty());
        self.wake_at(until);
    }

    fn watch_door(&self, gate: &Gate, flags: EpollFlags) {
        // Fails only for a socket that is not in the set.
        let _ = self.epoll.modify(&gate.listener, &mut EpollEvent::new(flags, DOOR));
    }
}

/// Tells a guest why it is not let in, as far as its socket takes it at once.
fn refuse(socket: &OwnedFd, refused: Refused<'_>, tell: bool) {
    let (refusal, message) = (refused.refusal.name(), &refused.message);
    // What is no node may come as often as it likes.
    match refused.refusal {
        Refusal::Malformed => tracing::debug!(%message, "a stranger was refused"),
        _ if !tell => tracing::debug!(refusal, %message, "a node was refused"),
        _ => tracing::info!(refusal, %message, "a node was refused"),
    }
    let mut output = Output::new(GUEST_BYTES);
    if output.handshake(&Handshake::Refused(refused)).is_ok() {
        let _ = transmit(socket, output.bytes());
    }
    // A socket that is closed with bytes unread takes back what it has just sent.
    let _ = SockRef::from(socket).shutdown(std::net::Shutdown::Write);
    let mut rest = [0; GUEST_BYTES];
    while matches!(receive(socket, &mut rest), Moved::Bytes(GUEST_BYTES)) {}
}

// One answer fits what a guest's socket takes at once, whatever its buffer.
const _: () = assert!(GUEST_BYTES <= 4608);
