//! Other nodes, as one shard has them: its connections to them, what comes by these, and to whom it
//! goes.
//!
//! A shard talks to the shard of another node that has the same partition: it dials it for what it has
//! to ask (entries, probes) and answers where it was asked (acks). The controller, which is core 0 of
//! the node that leads the metadata group, dials every shard it fences, and shards dial core 0 there
//! for their requests. What does not find a connection is dropped: whoever needs an answer says it
//! again.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use ironring_core::{NodeId, PartitionId, ShardId};
use ironring_net::peer::{Frame, Message};
use ironring_ring::Slices;
use ironring_ring::metadata::Metadata;
use ironring_ring::replication::{Fence, FenceAnswer, Request};

use super::executor::Executor;
use super::peers::{Down, LinkId, PeerOwner, PeerShard, PeerTargets, Peers, Remote, Side};
use super::runtime::Runtime;
use super::traffic::Transfers;
use crate::cluster::identity::is_provisional;
use crate::cluster::{ClusterIdentity, Member, ToShard, roster};
use crate::peer::convert;
use crate::shard::{Effects, Event, PeerMessage, ToController};

/// The shard every node's part of the metadata group is on.
const CORE_0: ShardId = ShardId(0);

/// Where the answer to a fence goes.
#[derive(Clone, Copy, Debug)]
enum Controller {
    /// To core 0 of this node.
    Here,
    /// Back on the connection it came by.
    By(LinkId),
}

/// The other nodes of the cluster. Lives on the shard's executor.
pub struct Nodes<R: Runtime> {
    /// The connections.
    pub peers: Rc<Peers>,
    /// On core 0, the node as a member; set once it has begun.
    pub member: OnceCell<Rc<Member<R>>>,
    pub(super) identity: ClusterIdentity,
    /// The partitions of this shard.
    mine: std::ops::Range<u32>,
    partitions: u32,
    targets: RefCell<PeerTargets>,
    /// How each node divides the partitions among its shards.
    pub(super) slices: RefCell<BTreeMap<NodeId, Slices>>,
    /// Shards that have replicas of this shard's partitions.
    pub(super) partners: RefCell<BTreeSet<PeerShard>>,
    /// Transfers of state this shard receives, and those it sends.
    pub(super) coming: RefCell<Transfers>,
    pub(super) going: RefCell<Transfers>,
    /// Who fenced last.
    controller: Cell<Option<Controller>>,
}

impl<R: Runtime> Nodes<R> {
    /// Those the node's directory remembers, for a shard with the partitions `mine` of all.
    #[must_use]
    pub fn new(
        peers: Rc<Peers>,
        identity: ClusterIdentity,
        mine: std::ops::Range<u32>,
        partitions: u32,
    ) -> Nodes<R> {
        let nodes = Nodes {
            peers,
            member: OnceCell::new(),
            identity,
            mine,
            partitions,
            targets: RefCell::default(),
            slices: RefCell::default(),
            partners: RefCell::default(),
            coming: RefCell::default(),
            going: RefCell::default(),
            controller: Cell::new(None),
        };
        nodes.follow(&Metadata::default());
        nodes
    }

    /// Members have come, gone or moved, or replicas, perhaps.
    pub fn follow(&self, metadata: &Metadata) {
        let targets = roster::targets(&self.identity, metadata);
        if *self.targets.borrow() != targets {
            let slices = targets.nodes.iter().filter_map(|target| {
                Some((target.node, Slices::new(self.partitions, target.shard_count).ok()?))
            });
            self.slices.replace(slices.collect());
            self.peers.set_targets(targets.clone());
            self.targets.replace(targets);
        }
        self.peers.set_runs(roster::runs(metadata));
        self.want_partners(metadata);
    }

    /// Dials the shards that have replicas of this shard's partitions, and no others.
    fn want_partners(&self, metadata: &Metadata) {
        let mut partners = BTreeSet::new();
        let storage = self.identity.storage;
        for id in self.mine.clone().map(PartitionId) {
            let Some(record) = metadata.partition(id) else { continue };
            if record.replica_on(storage).is_none() {
                continue;
            }
            let others = record.replicas.iter().filter(|replica| replica.id.storage != storage);
            partners.extend(others.filter_map(|replica| self.shard_of(replica.node, id)));
        }
        let before = self.partners.replace(partners.clone());
        for gone in before.difference(&partners) {
            // Core 0 of a node is asked by others as well.
            if gone.shard != CORE_0 {
                self.peers.unwant(*gone);
            }
        }
        for partner in &partners {
            self.peers.want(*partner);
        }
    }

    /// The shard of another node that has a partition.
    pub(super) fn shard_of(&self, node: NodeId, partition: PartitionId) -> Option<PeerShard> {
        let slices = self.slices.borrow();
        let slices = slices.get(&node).filter(|_| partition.0 < self.partitions)?;
        Some(PeerShard { node, shard: slices.owner(partition) })
    }

    /// There may be a request for the member that somebody else laid down.
    pub fn poke(&self) {
        if let Some(member) = self.member.get() {
            member.poke();
        }
    }

    /// Takes leave of all of them.
    pub fn stop(&self, executor: &Rc<Executor<R>>) {
        self.peers.stop();
        self.round(executor);
    }

    /// Handles what is ready.
    pub fn round(&self, executor: &Rc<Executor<R>>) {
        self.peers.round(&mut Ear { nodes: self, executor });
    }

    /// What somebody on this node says to this shard.
    pub fn hear(&self, executor: &Rc<Executor<R>>, message: ToShard) {
        let node = self.identity.node;
        match message {
            ToShard::Fences(fences) => {
                self.controller.set(Some(Controller::Here));
                for fence in fences {
                    let message = PeerMessage::Fence(fence);
                    executor.handle(Event::Peer { node, message });
                }
            }
            ToShard::HandOver(partition, to) => {
                let message = PeerMessage::HandOver { partition, to };
                executor.handle(Event::Peer { node, message });
            }
            ToShard::Decided(ticket, result) => {
                executor.handle(Event::MetaDecided { ticket, result });
            }
            ToShard::Controller(said) => {
                if let Some(member) = self.member.get() {
                    member.told(said);
                }
            }
        }
    }

    /// Sends what the shard has for others.
    pub fn send(&self, executor: &Executor<R>, fx: &mut Effects) {
        if !fx.peers.is_empty() {
            self.send_to_peers(&mut fx.peers);
        }
        if !fx.controller.is_empty() {
            self.send_to_controller(executor, std::mem::take(&mut fx.controller));
        }
        if let Some(member) = self.member.get() {
            fx.metadata.drain(..).for_each(|ask| member.change(ask));
        }
        self.tell_room(fx);
    }

    /// To core 0 of the node that leads the metadata group, or of the one that fenced.
    fn send_to_controller(&self, executor: &Executor<R>, said: Vec<ToController>) {
        let (mut asks, mut answers) = (Vec::new(), Vec::new());
        for one in said {
            match one {
                ToController::Ask(request) => asks.push(request),
                ToController::Fenced(answer) => answers.push(answer),
            }
        }
        if !answers.is_empty() {
            match self.controller.get() {
                Some(Controller::By(link)) => self.answer_fences(link, &answers),
                Some(Controller::Here) => {
                    let said = answers.into_iter().map(ToController::Fenced).collect();
                    executor.mesh.tell(CORE_0, ToShard::Controller(said));
                }
                // It was fenced by a run before this.
                None => {}
            }
        }
        if asks.is_empty() {
            return;
        }
        match executor.shared.board.leader() {
            Some(node) if node == self.identity.node => {
                let said = asks.into_iter().map(ToController::Ask).collect();
                executor.mesh.tell(CORE_0, ToShard::Controller(said));
            }
            Some(node) => self.ask(PeerShard { node, shard: CORE_0 }, &asks),
            None => {}
        }
    }

    fn answer_fences(&self, link: LinkId, answers: &[FenceAnswer]) {
        let answers: Vec<_> = answers.iter().map(convert::to_fence_answer).collect();
        for some in answers.chunks(ironring_net::peer::message::SECTIONS_MAX) {
            self.say(link, &Message::FenceAnswers(some.into()));
        }
    }

    fn ask(&self, peer: PeerShard, requests: &[Request]) {
        self.peers.want(peer);
        let Some(link) = self.peers.dialled(peer) else { return };
        let mut voters = Vec::new();
        for some in requests.chunks(ironring_net::peer::message::ASKS_MAX) {
            let asks = convert::to_asks(some, &mut voters);
            self.say(link, &Message::Asks((&*asks).into()));
        }
    }

    /// Sends a message that will be said again if it is lost.
    pub(super) fn say(&self, link: LinkId, message: &Message<'_>) {
        if let Some(Err(error)) = self.peers.output(link, |output| output.send(message)) {
            tracing::debug!(link = link.0, %error, "a message to another node is not sent");
        }
    }

    /// On core 0, as the controller: begins elections at another node.
    pub fn fence(&self, node: NodeId, fences: &[Fence]) {
        let mut by_shard: BTreeMap<PeerShard, Vec<_>> = BTreeMap::new();
        for fence in fences {
            if let Some(peer) = self.shard_of(node, fence.partition) {
                by_shard.entry(peer).or_default().push(convert::to_fence(fence));
            }
        }
        for (peer, fences) in by_shard {
            self.peers.want(peer);
            let Some(link) = self.peers.dialled(peer) else { continue };
            for some in fences.chunks(ironring_net::peer::message::SECTIONS_MAX) {
                self.say(link, &Message::Fences(some.into()));
            }
        }
        self.peers.flush();
    }
}

/// Who hears what comes.
struct Ear<'a, R: Runtime> {
    nodes: &'a Nodes<R>,
    executor: &'a Rc<Executor<R>>,
}

impl<R: Runtime> PeerOwner for Ear<'_, R> {
    fn up(&mut self, link: LinkId, remote: &Remote) {
        let (node, shard, side) = (remote.peer.node, remote.peer.shard.0, remote.side);
        tracing::debug!(link = link.0, node = node.0, shard, ?side, "link up");
        if let Some(member) = self.nodes.member.get() {
            member.heard(remote);
        }
        if side == Side::Dialled {
            self.executor.handle(Event::LinkUp(node));
        }
    }

    fn down(&mut self, link: LinkId, peer: PeerShard, side: Side, reason: &Down) {
        if let Some(member) = self.nodes.member.get() {
            member.down(link, peer, side, reason);
        }
    }

    fn room(&mut self, _link: LinkId) {
        self.executor.want_turn();
    }

    fn frame(&mut self, link: LinkId, frame: &Frame<'_>, message: Message<'_>) {
        let peers = &self.nodes.peers;
        let Some(remote) = peers.remote(link) else { return };
        let member = self.nodes.member.get();
        if let (Message::Raft(raft), Some(member)) = (&message, member) {
            // It grants what it took itself.
            return member.call(link, &remote, raft);
        }
        if !is_provisional(remote.peer.node) {
            self.take(link, &remote, message);
        }
        if !frame.payload.is_empty() {
            peers.grant(link, frame.payload.len() as u64);
        }
    }
}

impl<R: Runtime> Ear<'_, R> {
    /// A message of a member. Who it is from is who the connection is with.
    fn take(&self, link: LinkId, remote: &Remote, message: Message<'_>) {
        let (node, executor) = (remote.peer.node, self.executor);
        match message {
            Message::Replicate(sections) => {
                for section in sections.iter() {
                    if section.from.replica.storage != remote.storage {
                        continue;
                    }
                    let message = convert::from_section(&section);
                    let message = PeerMessage::Replicate { message, records: section.records };
                    executor.handle(Event::Peer { node, message });
                }
            }
            Message::Acks(acks) => {
                for ack in acks.iter().filter(|ack| ack.from.replica.storage == remote.storage) {
                    let message = PeerMessage::Ack(convert::from_ack(&ack));
                    executor.handle(Event::Peer { node, message });
                }
            }
            Message::Fences(fences) => {
                self.nodes.controller.set(Some(Controller::By(link)));
                for fence in fences.iter() {
                    let message = PeerMessage::Fence(convert::from_fence(&fence));
                    executor.handle(Event::Peer { node, message });
                }
            }
            Message::FenceAnswers(answers) => {
                let theirs = answers.iter().filter(|a| a.from.replica.storage == remote.storage);
                let said = theirs.map(|a| ToController::Fenced(convert::from_fence_answer(&a)));
                self.to_member(remote, said.collect());
            }
            Message::Asks(asks) => {
                let said = asks.iter().map(|ask| ToController::Ask(convert::from_ask(&ask)));
                self.to_member(remote, said.collect());
            }
            Message::SnapshotBegin(begin) => {
                if begin.from.replica.storage == remote.storage {
                    let coming = &self.nodes.coming;
                    coming.borrow_mut().begin(remote.peer, begin.transfer, begin.partition);
                    let message = PeerMessage::SnapshotBegin(begin);
                    executor.handle(Event::Peer { node, message });
                }
            }
            Message::SnapshotPiece(piece) => {
                let partition = self.nodes.coming.borrow().partition(remote.peer, piece.transfer);
                if let Some(partition) = partition {
                    let message = PeerMessage::SnapshotPiece { partition, piece };
                    executor.handle(Event::Peer { node, message });
                }
            }
            Message::SnapshotAnswer(answer) => {
                let mut going = self.nodes.going.borrow_mut();
                let partition = going.partition(remote.peer, answer.transfer);
                going.answered(remote.peer, &answer);
                drop(going);
                if let Some(partition) = partition {
                    let message = PeerMessage::SnapshotAnswer { partition, answer };
                    executor.handle(Event::Peer { node, message });
                }
            }
            Message::Compare(compare) => {
                if compare.from.replica.storage == remote.storage {
                    executor.handle(Event::Peer { node, message: PeerMessage::Compare(compare) });
                }
            }
            Message::Compared(compared) => {
                if compared.from.replica.storage == remote.storage {
                    executor.handle(Event::Peer { node, message: PeerMessage::Compared(compared) });
                }
            }
            Message::Diverged(diverged) => {
                if diverged.from.replica.storage == remote.storage {
                    executor.handle(Event::Peer { node, message: PeerMessage::Diverged(diverged) });
                }
            }
            Message::Fetch(fetch) => {
                if fetch.from.replica.storage == remote.storage {
                    executor.handle(Event::Peer { node, message: PeerMessage::Fetch(fetch) });
                }
            }
            Message::Fetched(fetched) => {
                if fetched.from.replica.storage == remote.storage {
                    executor.handle(Event::Peer { node, message: PeerMessage::Fetched(fetched) });
                }
            }
            other => tracing::debug!(link = link.0, ?other, "a message nobody here takes"),
        }
    }

    fn to_member(&self, remote: &Remote, said: Vec<ToController>) {
        if let Some(member) = self.nodes.member.get() {
            member.heard(remote);
            member.told(said);
        }
    }
}
