//! One connection: its socket, its bytes and where it is in its life.
//!
//! Input and output are borrowed apart, so that a frame may be answered while it is looked at.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use ironring_core::Instant;
use ironring_net::peer::input::KEEP_BYTES;
use ironring_net::peer::{Input, Message, Output};

use super::RETAIN_BYTES;
use super::event::{Down, LinkId, PeerShard, Remote, Side};
use super::socket::{Moved, receive, transmit};

/// Where a connection is in its life; it only moves on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// The kernel connects.
    Connecting,
    /// `Hello` is sent, no answer is here.
    Greeting,
    /// Frames go both ways.
    Up,
    /// It is closed.
    Over,
}

/// Bytes that went over the connections of a shard, handshakes included.
#[derive(Debug, Default)]
pub(super) struct ByteCount {
    pub received: Cell<u64>,
    pub sent: Cell<u64>,
}

/// One connection.
pub(super) struct Link {
    pub id: LinkId,
    pub side: Side,
    /// The shard it reaches, or is meant to.
    pub peer: PeerShard,
    pub socket: OwnedFd,
    pub stage: Cell<Stage>,
    pub input: RefCell<Input>,
    pub output: RefCell<Output>,
    /// Who is there, from the end of the handshake on.
    pub remote: RefCell<Option<Rc<Remote>>>,
    /// When the handshake must be over; when it was.
    pub moment: Cell<Instant>,
    /// The socket took less than there was.
    pub blocked: Cell<bool>,
    /// It is on the list of those with something to write.
    pub dirty: Cell<bool>,
    /// Payload bytes the owner is done with, and the other side does not know.
    pub owed: Cell<u64>,
    /// Counts for all connections of the shard.
    pub bytes: Rc<ByteCount>,
}

impl Link {
    pub fn is_up(&self) -> bool {
        self.stage.get() == Stage::Up
    }

    /// Receives once; how many bytes, or none for now, or why there never will be.
    pub fn receive(&self) -> Result<usize, Down> {
        let mut input = self.input.borrow_mut();
        match receive(&self.socket, input.space(KEEP_BYTES)) {
            Moved::Bytes(n) => {
                input.filled(n);
                self.bytes.received.update(|bytes| bytes + n as u64);
                Ok(n)
            }
            Moved::Blocked => Ok(0),
            Moved::End => Err(Down::Closed),
            Moved::Failed(errno) => Err(Down::of(errno)),
        }
    }

    /// Tells the other side what it may send again, as far as there is room for that.
    pub fn pay(&self) {
        let bytes = self.owed.get();
        if bytes == 0 || !self.is_up() {
            return;
        }
        if self.output.borrow_mut().send(&Message::Credits { bytes }).is_ok() {
            self.owed.set(0);
            self.input.borrow_mut().grant(bytes);
        }
    }

    /// Sends what the socket takes, with one call when it takes everything.
    pub fn transmit(&self) -> Result<(), Down> {
        let mut output = self.output.borrow_mut();
        while !self.blocked.get() && output.queued_bytes() > 0 {
            let bytes = output.bytes();
            let all = bytes.len();
            match transmit(&self.socket, bytes) {
                Moved::Bytes(n) => {
                    output.sent(n);
                    self.bytes.sent.update(|bytes| bytes + n as u64);
                    // It says when it takes more; asking now would only tell that it does not.
                    self.blocked.set(n < all);
                }
                Moved::Blocked => self.blocked.set(true),
                Moved::End => return Err(Down::Closed),
                Moved::Failed(errno) => return Err(Down::of(errno)),
            }
        }
        if output.queued_bytes() == 0 && output.memory() > RETAIN_BYTES {
            output.release();
        }
        Ok(())
    }

    /// Frees a large buffer that is empty.
    pub fn rest(&self) {
        let mut input = self.input.borrow_mut();
        if input.memory() > RETAIN_BYTES {
            input.release();
        }
    }
}
