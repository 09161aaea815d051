//! Messages between the shards of one node: a bounded channel for each ordered pair.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Poll, Waker};

use glommio::channels::shared_channel::{
    ConnectedReceiver, ConnectedSender, SharedReceiver, SharedSender, new_bounded,
};
use ironring_core::ShardId;

use crate::driver::runtime::Mesh;
use crate::shard::ShardMessage;

/// Messages a channel holds before its sender waits.
const CHANNEL_MESSAGES: usize = 1024;

/// The ends of one shard before its executor runs.
pub struct Ends {
    senders: Vec<Option<SharedSender<ShardMessage>>>,
    receivers: Vec<Option<SharedReceiver<ShardMessage>>>,
}

/// What waits for one other shard. The queue is bounded by what the connections of this shard may
/// have in flight: each message is a request or an answer of one of them.
#[derive(Default)]
struct Lane {
    waiting: RefCell<VecDeque<ShardMessage>>,
    sender_waker: RefCell<Option<Waker>>,
}

/// One shard's ends of the channels.
pub struct ChannelMesh {
    lanes: Vec<Rc<Lane>>,
    closed: Rc<Cell<bool>>,
    receivers: RefCell<Vec<ConnectedReceiver<ShardMessage>>>,
}

impl Mesh for ChannelMesh {
    type Ends = Ends;

    fn ends(shards: u16) -> Vec<Ends> {
        let n = usize::from(shards);
        let mut all: Vec<Ends> = (0..n)
            .map(|_| Ends {
                senders: (0..n).map(|_| None).collect(),
                receivers: (0..n).map(|_| None).collect(),
            })
            .collect();
        for from in 0..n {
            for to in (0..n).filter(|to| *to != from) {
                let (sender, receiver) = new_bounded(CHANNEL_MESSAGES);
                all[from].senders[to] = Some(sender);
                all[to].receivers[from] = Some(receiver);
            }
        }
        all
    }

    async fn connect(ends: Ends) -> ChannelMesh {
        let lanes: Vec<Rc<Lane>> = ends.senders.iter().map(|_| Rc::default()).collect();
        let closed = Rc::new(Cell::new(false));
        for (lane, sender) in lanes.iter().zip(ends.senders) {
            if let Some(sender) = sender {
                let (lane, closed) = (Rc::clone(lane), Rc::clone(&closed));
                glommio::spawn_local(async move {
                    send_all(&lane, &sender.connect().await, &closed).await
                })
                .detach();
            }
        }
        let mut receivers = Vec::new();
        for receiver in ends.receivers.into_iter().flatten() {
            receivers.push(receiver.connect().await);
        }
        ChannelMesh { lanes, closed, receivers: RefCell::new(receivers) }
    }

    fn receive(&self, deliver: impl Fn(ShardMessage) + Clone + 'static) {
        for receiver in self.receivers.take() {
            let deliver = deliver.clone();
            glommio::spawn_local(async move {
                while let Some(message) = receiver.recv().await {
                    deliver(message);
                }
            })
            .detach();
        }
    }

    fn send(&self, to: ShardId, message: ShardMessage) {
        let lane = &self.lanes[usize::from(to.0)];
        lane.waiting.borrow_mut().push_back(message);
        if let Some(waker) = lane.sender_waker.borrow_mut().take() {
            waker.wake();
        }
    }

    fn close(&self) {
        self.closed.set(true);
        for lane in &self.lanes {
            if let Some(waker) = lane.sender_waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}

async fn send_all(lane: &Lane, sender: &ConnectedSender<ShardMessage>, closed: &Cell<bool>) {
    loop {
        let next = std::future::poll_fn(|cx| {
            if closed.get() {
                return Poll::Ready(None);
            }
            if let Some(message) = lane.waiting.borrow_mut().pop_front() {
                return Poll::Ready(Some(message));
            }
            *lane.sender_waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
        let Some(message) = next else { return };
        if sender.send(message).await.is_err() {
            // The other shard is gone: the node is stopping.
            return;
        }
    }
}
