//! Other nodes, as one shard has them: its connections to them, and who hears what comes.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;

use ironring_net::peer::{Frame, Message};
use ironring_ring::metadata::Metadata;

use super::peers::{Down, LinkId, PeerOwner, PeerShard, PeerTargets, Peers, Remote, Side};
use super::runtime::Runtime;
use crate::cluster::{ClusterIdentity, Member, roster};

/// The other nodes of the cluster. Lives on the shard's executor.
pub struct Nodes<R: Runtime> {
    /// The connections.
    pub peers: Rc<Peers>,
    /// On core 0, the node as a member; set once it has begun.
    pub member: OnceCell<Rc<Member<R>>>,
    identity: ClusterIdentity,
    targets: RefCell<PeerTargets>,
}

impl<R: Runtime> Nodes<R> {
    /// Those the node's directory remembers.
    #[must_use]
    pub fn new(peers: Rc<Peers>, identity: ClusterIdentity) -> Nodes<R> {
        let nodes = Nodes { peers, member: OnceCell::new(), identity, targets: RefCell::default() };
        nodes.follow(&Metadata::default());
        nodes
    }

    /// Members have come, gone or moved, perhaps.
    pub fn follow(&self, metadata: &Metadata) {
        let targets = roster::targets(&self.identity, metadata);
        if *self.targets.borrow() != targets {
            self.peers.set_targets(targets.clone());
            self.targets.replace(targets);
        }
    }

    /// Handles what is ready.
    pub fn round(&self) {
        self.peers.round(&mut Ear(self));
    }

    /// There may be a request for the member that somebody else laid down.
    pub fn poke(&self) {
        if let Some(member) = self.member.get() {
            member.poke();
        }
    }

    /// Takes leave of all of them.
    pub fn stop(&self) {
        self.peers.stop();
        self.round();
    }
}

/// Who hears what comes.
struct Ear<'a, R: Runtime>(&'a Nodes<R>);

impl<R: Runtime> PeerOwner for Ear<'_, R> {
    fn up(&mut self, link: LinkId, remote: &Remote) {
        let (node, shard, side) = (remote.peer.node.0, remote.peer.shard.0, remote.side);
        tracing::debug!(link = link.0, node, shard, ?side, "link up");
    }

    fn down(&mut self, link: LinkId, _peer: PeerShard, side: Side, reason: &Down) {
        if let Some(member) = self.0.member.get() {
            member.down(link, side, reason);
        }
    }

    fn frame(&mut self, link: LinkId, frame: &Frame<'_>, message: Message<'_>) {
        let peers = &self.0.peers;
        match (message, self.0.member.get(), peers.remote(link)) {
            (Message::Raft(raft), Some(member), Some(remote)) => member.call(link, &remote, &raft),
            _ => {
                let kind = frame.header.kind.name();
                tracing::debug!(link = link.0, kind, "a frame nobody here takes");
                peers.grant(link, frame.payload.len() as u64);
            }
        }
    }
}
