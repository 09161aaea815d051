//! [`RaftLink`] over the connections of core 0 to that of other nodes: `Raft` frames, a request on the
//! connection this side dialled, its answer back on the same.
//!
//! - A call ends with its answer, with the connection it went by, or with its time, whichever is
//!   first; nothing of it is left then, and a late answer is dropped.
//! - Without a connection a call ends at once: who is asked again soon need not wait for a timeout.
//! - At most [`CALLS_MAX`] calls wait here, and as many requests are answered at once; more than that
//!   are refused, or not answered: the group's protocol asks again.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future;
use ironring_core::{NodeId, ShardId};
use ironring_net::peer::Message;
use ironring_net::peer::message::{Half, Raft};
use tokio::sync::oneshot;

use super::host::Local;
use super::link::{LinkError, Peer, RaftLink};
use crate::driver::peers::{Down, LinkId, PeerShard, Peers};
use crate::driver::runtime::Runtime;

/// Calls that wait for their answers, and requests of others that are being answered.
pub const CALLS_MAX: usize = 256;

/// The shard whose thread has the metadata group, on every node.
const GROUP_SHARD: ShardId = ShardId(0);

type Answer = Result<Vec<u8>, LinkError>;

struct Waiting {
    link: LinkId,
    answer: oneshot::Sender<Answer>,
}

/// The way of the metadata group to other members. The owner of the connections passes on what comes:
/// [`RaftCalls::answered`], [`RaftCalls::requested`], [`RaftCalls::down`].
pub struct RaftCalls<R: Runtime> {
    runtime: Rc<R>,
    peers: Rc<Peers>,
    waiting: Rc<RefCell<BTreeMap<u64, Waiting>>>,
    next_call: Cell<u64>,
    answering: Rc<Cell<usize>>,
}

impl<R: Runtime> RaftCalls<R> {
    /// Over the connections of this thread's shard.
    #[must_use]
    pub fn new(runtime: Rc<R>, peers: Rc<Peers>) -> Rc<RaftCalls<R>> {
        Rc::new(RaftCalls {
            runtime,
            peers,
            waiting: Rc::default(),
            next_call: Cell::new(0),
            answering: Rc::default(),
        })
    }

    /// An answer came on a connection this side dialled.
    pub fn answered(&self, link: LinkId, raft: &Raft<'_>) {
        let mut waiting = self.waiting.borrow_mut();
        // Calls are named by who asks: an answer counts only where its question went.
        if waiting.get(&raft.call).is_some_and(|call| call.link == link)
            && let Some(call) = waiting.remove(&raft.call)
        {
            // Its time may be over this moment.
            let _ = call.answer.send(Ok(raft.payload.to_vec()));
        }
        drop(waiting);
        self.peers.grant(link, raft.payload.len() as u64);
    }

    /// A request came on a connection this side accepted: `handle` makes its answer.
    pub fn requested<F>(&self, link: LinkId, raft: &Raft<'_>, handle: impl FnOnce(Vec<u8>) -> F)
    where
        F: Future<Output = Vec<u8>> + 'static,
    {
        let (call, bytes) = (raft.call, raft.payload.len() as u64);
        if self.answering.get() >= CALLS_MAX {
            return self.peers.grant(link, bytes);
        }
        let answering = Answering::new(&self.answering);
        let answer = handle(raft.payload.to_vec());
        let peers = Rc::clone(&self.peers);
        self.runtime.spawn(async move {
            let answer = answer.await;
            drop(answering);
            let message = Message::Raft(Raft { call, half: Half::Answer, payload: &answer });
            match peers.output(link, |output| output.send(&message)) {
                // Who asked may be gone, and asks again if not.
                None | Some(Ok(())) => {}
                Some(Err(error)) => {
                    tracing::debug!(link = link.0, %error, "an answer to the group is not sent");
                }
            }
            peers.grant(link, bytes);
            peers.flush();
        });
    }

    /// A connection is no more: calls that went by it have no answer.
    pub fn down(&self, link: LinkId, reason: &Down) {
        let mut waiting = self.waiting.borrow_mut();
        let lost: Vec<u64> =
            waiting.iter().filter(|(_, call)| call.link == link).map(|(id, _)| *id).collect();
        for call in lost {
            if let Some(call) = waiting.remove(&call) {
                let _ = call.answer.send(Err(LinkError::Lost(reason.to_string())));
            }
        }
    }

    /// Calls that wait for their answers.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Sends a request, or says why there will be no answer.
    fn ask(
        &self,
        to: &Peer,
        request: &[u8],
    ) -> Result<(u64, oneshot::Receiver<Answer>), LinkError> {
        let unreachable = |why: String| Err(LinkError::Unreachable(why));
        let peer = PeerShard { node: NodeId(to.id), shard: GROUP_SHARD };
        if self.waiting.borrow().len() >= CALLS_MAX {
            return unreachable(format!("{CALLS_MAX} calls wait already"));
        }
        if !self.peers.want(peer) {
            return unreachable(format!("node {} is none that may be dialled", to.id));
        }
        let Some(link) = self.peers.dialled(peer) else {
            return unreachable(format!("no connection to node {}", to.id));
        };
        let call = self.next_call.get();
        self.next_call.set(call + 1);
        let message = Message::Raft(Raft { call, half: Half::Request, payload: request });
        match self.peers.output(link, |output| output.send(&message)) {
            Some(Ok(())) => {}
            Some(Err(error)) => return unreachable(error.to_string()),
            None => return unreachable(format!("the connection to node {} has ended", to.id)),
        }
        let (answer, answered) = oneshot::channel();
        self.waiting.borrow_mut().insert(call, Waiting { link, answer });
        self.peers.flush();
        Ok((call, answered))
    }
}

impl<R: Runtime> RaftLink for RaftCalls<R> {
    /// By id: where a member listens is known from the targets of [`Peers`].
    fn call(&self, to: &Peer, request: Vec<u8>, timeout: Duration) -> Local<'static, Answer> {
        let (call, answered) = match self.ask(to, &request) {
            Ok(asked) => asked,
            Err(error) => return Box::pin(async { Err(error) }),
        };
        let forgets = Forgets { call, waiting: Rc::clone(&self.waiting) };
        let runtime = Rc::clone(&self.runtime);
        Box::pin(async move {
            let answer = async {
                let lost = || LinkError::Lost("the connections are gone".to_owned());
                answered.await.unwrap_or_else(|_| Err(lost()))
            };
            let late = async {
                runtime.sleep(timeout).await;
                Err(LinkError::Timeout)
            };
            let ended = future::or(answer, late).await;
            drop(forgets);
            ended
        })
    }
}

/// Takes a call out of those that wait, however it ends.
struct Forgets {
    call: u64,
    waiting: Rc<RefCell<BTreeMap<u64, Waiting>>>,
}

impl Drop for Forgets {
    fn drop(&mut self) {
        self.waiting.borrow_mut().remove(&self.call);
    }
}

/// One of the requests that are being answered.
struct Answering(Rc<Cell<usize>>);

impl Answering {
    fn new(all: &Rc<Cell<usize>>) -> Answering {
        all.set(all.get() + 1);
        Answering(Rc::clone(all))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
