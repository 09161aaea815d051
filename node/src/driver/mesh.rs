//! Messages between the shards of one node: an inbox for each, filled by all others, with a place for the
//! newest metadata.
//!
//! A shard looks into its inbox once a round and takes all there is. One that sleeps is woken by a
//! descriptor in its epoll set; one that is awake is not, so under load a message costs its sender
//! a lock that is hardly ever taken, and no system call.
//!
//! An inbox is bounded by its senders: a shard hands over no more requests than it may have unanswered
//! at the others ([`crate::shard::ShardConfig::request_bytes_max`]), and makes no answers with data while
//! more of them wait for the same shard.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ironring_core::ShardId;
use ironring_ring::metadata::Metadata;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::cluster::ToShard;
use crate::shard::ShardMessage;

/// What waits for one shard.
struct Inbox {
    waiting: Mutex<VecDeque<ShardMessage>>,
    /// The newest metadata, when the shard has not taken them: older ones need nobody's attention.
    metadata: Mutex<Option<Arc<Metadata>>>,
    /// What was said to the shard about its partitions by the controller, or to core 0 as the controller.
    told: Mutex<Vec<ToShard>>,
    /// There may be either.
    news: AtomicBool,
    /// Bytes of answers that wait, here or with the shard that took them and did not yet pass them on.
    bytes: AtomicUsize,
    /// The shard sleeps, or is about to and will look once more.
    asleep: AtomicBool,
    /// Readable once more with each write to it; never read.
    bell: EventFd,
}

impl Inbox {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<ShardMessage>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the shard when it sleeps. Whoever is about to sleep says so before it looks for the last
    /// time: it sees what was put here, or is seen.
    fn ring(&self) {
        if self.asleep.swap(false, Ordering::SeqCst) {
            // Fails only when the counter is full, and then the bell has rung.
            let _ = self.bell.write(1);
        }
    }
}

fn answer_bytes(message: &ShardMessage) -> usize {
    match message {
        ShardMessage::Reply { frame, .. } => frame.len(),
        ShardMessage::Forward { .. } | ShardMessage::Meta(_) => 0,
    }
}

/// One shard's inbox, and its way to the others'.
pub struct Mesh {
    shard: usize,
    inboxes: Arc<[Inbox]>,
}

impl Mesh {
    /// One for every shard of a node.
    ///
    /// # Errors
    /// When the system has no descriptors left.
    pub fn all(shards: u16) -> std::io::Result<Vec<Mesh>> {
        let inbox = |_| -> std::io::Result<Inbox> {
            Ok(Inbox {
                waiting: Mutex::default(),
                metadata: Mutex::default(),
                told: Mutex::default(),
                news: AtomicBool::new(false),
                bytes: AtomicUsize::new(0),
                asleep: AtomicBool::new(false),
                bell: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            })
        };
        let inboxes: Arc<[Inbox]> = (0..shards).map(inbox).collect::<std::io::Result<_>>()?;
        let mesh = |shard| Mesh { shard, inboxes: Arc::clone(&inboxes) };
        Ok((0..usize::from(shards)).map(mesh).collect())
    }

    /// What wakes this shard: to be waited for edge by edge, and not to be read.
    #[must_use]
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.inbox().bell.as_fd()
    }

    /// Puts a message into another shard's inbox.
    pub fn send(&self, to: ShardId, message: ShardMessage) {
        let inbox = &self.inboxes[usize::from(to.0)];
        inbox.bytes.fetch_add(answer_bytes(&message), Ordering::Relaxed);
        inbox.waiting().push_back(message);
        inbox.ring();
    }

    /// Tells every shard, this one too, the newest metadata.
    pub fn publish(&self, metadata: &Arc<Metadata>) {
        for inbox in &*self.inboxes {
            let mut slot = inbox.metadata.lock().unwrap_or_else(PoisonError::into_inner);
            *slot = Some(Arc::clone(metadata));
            drop(slot);
            inbox.news.store(true, Ordering::SeqCst);
            inbox.ring();
        }
    }

    /// Whether something was published, or a shard was called, since this was asked last.
    #[must_use]
    pub fn has_news(&self) -> bool {
        let news = &self.inbox().news;
        news.load(Ordering::Relaxed) && news.swap(false, Ordering::SeqCst)
    }

    /// The newest metadata, when there are newer ones than were taken before.
    pub fn take_metadata(&self) -> Option<Arc<Metadata>> {
        self.inbox().metadata.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Says something to a shard, this one too. How much waits is bounded by who says it: the controller
    /// says nothing twice before it had time to be heard, and so do leaders.
    pub fn tell(&self, to: ShardId, message: ToShard) {
        let inbox = &self.inboxes[usize::from(to.0)];
        inbox.told.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        inbox.news.store(true, Ordering::SeqCst);
        inbox.ring();
    }

    /// What was said to this shard.
    pub fn take_told(&self) -> Vec<ToShard> {
        std::mem::take(&mut self.inbox().told.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What calls a shard from any thread: it finds that there are news.
    pub fn caller(&self, shard: ShardId) -> impl Fn() + Send + Sync + 'static {
        let (shard, inboxes) = (usize::from(shard.0), Arc::clone(&self.inboxes));
        move || {
            inboxes[shard].news.store(true, Ordering::SeqCst);
            inboxes[shard].ring();
        }
    }

    /// Takes what has come, in the order in which each shard sent it. `taken` must be empty.
    pub fn take(&self, taken: &mut VecDeque<ShardMessage>) {
        std::mem::swap(&mut *self.inbox().waiting(), taken);
    }

    /// A message that was taken is being handled.
    pub fn handled(&self, message: &ShardMessage) {
        self.inbox().bytes.fetch_sub(answer_bytes(message), Ordering::Relaxed);
    }

    /// Bytes of answers that wait for each shard.
    pub fn waiting_bytes(&self) -> impl Iterator<Item = usize> {
        self.inboxes.iter().map(|inbox| inbox.bytes.load(Ordering::Relaxed))
    }

    /// From here on the bell rings for a message. False when one has come already: the shard must
    /// not sleep. To be undone by [`Mesh::awake`].
    #[must_use]
    pub fn may_sleep(&self) -> bool {
        self.inbox().asleep.store(true, Ordering::SeqCst);
        self.inbox().waiting().is_empty() && !self.inbox().news.load(Ordering::SeqCst)
    }

    /// The shard looks by itself again.
    pub fn awake(&self) {
        self.inbox().asleep.store(false, Ordering::SeqCst);
    }

    fn inbox(&self) -> &Inbox {
        &self.inboxes[self.shard]
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn message(n: u32) -> ShardMessage {
        ShardMessage::Reply {
            conn: crate::shard::ConnId(0),
            frame: n.to_le_bytes().to_vec(),
            handed_bytes: 0,
        }
    }

    fn rang(mesh: &Mesh) -> bool {
        let mut bell = [PollFd::new(mesh.bell(), PollFlags::POLLIN)];
        poll(&mut bell, PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn only_a_shard_that_sleeps_is_woken() {
        let meshes = Mesh::all(2).unwrap();
        meshes[0].send(ShardId(1), message(1));
        assert!(!rang(&meshes[1]), "it is awake and will look");
        assert!(!meshes[1].may_sleep(), "something is there already");
        meshes[1].awake();
        let mut taken = VecDeque::new();
        meshes[1].take(&mut taken);
        assert_eq!(taken.len(), 1);
        assert!(meshes[1].may_sleep());
        meshes[0].send(ShardId(1), message(2));
        meshes[0].send(ShardId(1), message(3));
        assert!(rang(&meshes[1]));
        assert!(!rang(&meshes[0]));
    }

    #[test]
    fn the_newest_metadata_reach_everybody_once() {
        let meshes = Mesh::all(2).unwrap();
        assert!(meshes[1].may_sleep());
        let (older, newer) = (Arc::new(Metadata::default()), Arc::new(Metadata::default()));
        meshes[0].publish(&older);
        meshes[0].publish(&newer);
        assert!(rang(&meshes[1]) && !rang(&meshes[0]));
        for mesh in &meshes {
            assert!(!mesh.may_sleep());
            mesh.awake();
            assert!(mesh.has_news() && !mesh.has_news());
            let taken = mesh.take_metadata().unwrap();
            assert!(Arc::ptr_eq(&taken, &newer));
            assert!(mesh.take_metadata().is_none() && mesh.may_sleep());
        }
        meshes[0].caller(ShardId(1))();
        assert!(!meshes[1].may_sleep() && meshes[1].has_news());
    }

    #[test]
    fn messages_of_every_sender_arrive_once_and_in_its_order() {
        const EACH: u32 = 20_000;
        let mut meshes = Mesh::all(3).unwrap();
        let receiver = meshes.pop().unwrap();
        std::thread::scope(|scope| {
            for mesh in meshes {
                scope.spawn(move || {
                    for n in 0..EACH {
                        mesh.send(ShardId(2), message(n * 2 + mesh.shard as u32));
                    }
                });
            }
            let (mut next, mut taken) = ([0, 0], VecDeque::new());
            loop {
                receiver.take(&mut taken);
                for message in taken.drain(..) {
                    let ShardMessage::Reply { frame, .. } = message else { unreachable!() };
                    let n = u32::from_le_bytes(frame.try_into().unwrap());
                    let sender = n as usize % 2;
                    assert_eq!(n / 2, next[sender]);
                    next[sender] += 1;
                }
                if next == [EACH, EACH] {
                    break;
                }
                if receiver.may_sleep() {
                    // Without a timeout: a message that rang no bell would hang the test.
                    let mut bell = [PollFd::new(receiver.bell(), PollFlags::POLLIN)];
                    poll(&mut bell, PollTimeout::NONE).unwrap();
                    receiver.inbox().bell.read().unwrap();
                }
                receiver.awake();
            }
        });
    }
}
