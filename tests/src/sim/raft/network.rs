//! The way between members: every message takes its time, may be lost, and pairs of nodes can be
//! cut off from each other. A lost message is never heard of; a node that is down refuses at once.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future;
use ironring_core::prng::Prng;
use ironring_node::raft::host::{Host, Local};
use ironring_node::raft::{LinkError, Peer, RaftLink};

use super::virtual_time::VirtualTime;

/// Answers requests of others.
pub type Handler = Rc<dyn Fn(Vec<u8>) -> Local<'static, Vec<u8>>>;

/// Everything between the members.
pub struct Network {
    time: VirtualTime,
    rng: RefCell<Prng>,
    handlers: RefCell<BTreeMap<u64, Handler>>,
    cut: RefCell<BTreeSet<(u64, u64)>>,
    /// Shortest time of a message one way.
    pub delay_min: Cell<Duration>,
    /// How much longer it may take.
    pub delay_more: Cell<Duration>,
    /// Of a thousand messages so many are lost.
    pub lost_per_mille: Cell<u64>,
    messages: Cell<u64>,
    bytes: Cell<u64>,
    largest: Cell<usize>,
}

impl Network {
    /// A network of which nothing is cut; a message takes 100 us to 2 ms.
    #[must_use]
    pub fn new(time: VirtualTime, seed: u64) -> Rc<Network> {
        Rc::new(Network {
            time,
            rng: RefCell::new(Prng::new(seed)),
            handlers: RefCell::default(),
            cut: RefCell::default(),
            delay_min: Cell::new(Duration::from_micros(100)),
            delay_more: Cell::new(Duration::from_micros(1900)),
            lost_per_mille: Cell::new(0),
            messages: Cell::new(0),
            bytes: Cell::new(0),
            largest: Cell::new(0),
        })
    }

    /// A node takes requests.
    pub fn attach(&self, node: u64, handler: Handler) {
        self.handlers.borrow_mut().insert(node, handler);
    }

    /// A node takes none any more.
    pub fn detach(&self, node: u64) {
        let gone = self.handlers.borrow_mut().remove(&node);
        drop(gone);
    }

    /// Nothing gets from one of `a` to one of `b`, nor back.
    pub fn cut(&self, a: &[u64], b: &[u64]) {
        let mut cut = self.cut.borrow_mut();
        for (&a, &b) in a.iter().flat_map(|a| b.iter().map(move |b| (a, b))) {
            cut.extend([(a, b), (b, a)]);
        }
    }

    /// Nothing is cut any more.
    pub fn heal(&self) {
        self.cut.borrow_mut().clear();
    }

    /// Requests so far, their bytes, and those of the longest.
    #[must_use]
    pub fn traffic(&self) -> (u64, u64, usize) {
        (self.messages.get(), self.bytes.get(), self.largest.get())
    }

    async fn travel(&self, from: u64, to: u64) {
        let (delay, lost) = {
            let mut rng = self.rng.borrow_mut();
            let more = rng.below(self.delay_more.get().as_nanos() as u64 + 1);
            let lost = rng.chance(self.lost_per_mille.get(), 1000);
            (self.delay_min.get() + Duration::from_nanos(more), lost)
        };
        self.time.sleep(delay).await;
        if lost || self.cut.borrow().contains(&(from, to)) {
            future::pending::<()>().await;
        }
    }
}

/// One member's end of the network.
pub struct Link {
    /// The network.
    pub network: Rc<Network>,
    /// The member.
    pub from: u64,
}

impl RaftLink for Link {
    fn call(
        &self,
        to: &Peer,
        request: Vec<u8>,
        timeout: Duration,
    ) -> Local<'static, Result<Vec<u8>, LinkError>> {
        let (network, from, to) = (Rc::clone(&self.network), self.from, to.id);
        network.messages.set(network.messages.get() + 1);
        network.bytes.set(network.bytes.get() + request.len() as u64);
        network.largest.set(network.largest.get().max(request.len()));
        Box::pin(async move {
            let answered = async {
                network.travel(from, to).await;
                let handler = network.handlers.borrow().get(&to).cloned();
                let down = || LinkError::Unreachable("nobody listens".to_owned());
                let handler = handler.ok_or_else(down)?;
                // The other node works on it, whether or not this one still waits.
                let answer = network.time.run_in(to, handler(request)).await;
                network.travel(to, from).await;
                answer.ok_or_else(down)
            };
            let late = async {
                network.time.sleep(timeout).await;
                Err(LinkError::Timeout)
            };
            future::or(answered, late).await
        })
    }
}
