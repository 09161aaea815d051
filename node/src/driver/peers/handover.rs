//! From the door to the shard that is meant: sockets whose handshake was judged.
//!
//! Descriptors belong to the process, so a socket changes executors as a value. An inbox is bounded;
//! a shard that does not look into it loses newcomers, who dial again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use ironring_core::ShardId;
use ironring_net::peer::Input;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::event::Remote;

/// Sockets that wait for one shard.
const WAITING_MAX: usize = 256;

/// A socket of another node, let in.
pub(super) struct Newcomer {
    pub socket: OwnedFd,
    /// What was read of it; the `Hello` is taken.
    pub input: Input,
    pub remote: Remote,
}

struct Inbox {
    waiting: Mutex<Vec<Newcomer>>,
    bell: EventFd,
}

/// One shard's inbox, and the way to the others'.
pub struct Handover {
    shard: usize,
    inboxes: Arc<[Inbox]>,
}

impl Handover {
    /// One for every shard of a node.
    ///
    /// # Errors
    /// When the system has no descriptors left.
    pub fn all(shards: u16) -> std::io::Result<Vec<Handover>> {
        let inbox = |_| -> std::io::Result<Inbox> {
            let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
            Ok(Inbox { waiting: Mutex::default(), bell: EventFd::from_flags(flags)? })
        };
        let inboxes: Arc<[Inbox]> = (0..shards).map(inbox).collect::<std::io::Result<_>>()?;
        let handover = |shard| Handover { shard, inboxes: Arc::clone(&inboxes) };
        Ok((0..usize::from(shards)).map(handover).collect())
    }

    /// The shard this is the inbox of.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        ShardId(self.shard as u16)
    }

    /// Rings with every newcomer: to be waited for edge by edge, and not to be read.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.inboxes[self.shard].bell.as_fd()
    }

    /// Hands a socket over; false when too many wait already, and then it is closed.
    pub(super) fn send(&self, to: ShardId, newcomer: Newcomer) -> bool {
        let Some(inbox) = self.inboxes.get(usize::from(to.0)) else { return false };
        let mut waiting = inbox.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= WAITING_MAX {
            return false;
        }
        waiting.push(newcomer);
        drop(waiting);
        // Fails only when the counter is full, and then the bell has rung.
        let _ = inbox.bell.write(1);
        true
    }

    /// Takes what has come.
    pub(super) fn take(&self) -> Vec<Newcomer> {
        let inbox = &self.inboxes[self.shard];
        std::mem::take(&mut inbox.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
