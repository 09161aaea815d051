//! What replicas say to those of other nodes, on its way: many partitions in a frame, one frame or
//! few for each connection.

use std::collections::BTreeMap;

use ironring_core::{NodeId, PartitionId};
use ironring_net::peer::message::{
    Compare, Fetch, Fetched, SnapshotAnswer, SnapshotPiece, SnapshotState,
};
use ironring_net::peer::{Message, Output, OutputError};
use ironring_ring::replication::{Ack, Replicate};

use super::nodes::Nodes;
use super::peers::{LinkId, PeerShard};
use super::runtime::Runtime;
use crate::peer::convert;
use crate::shard::{Effects, ToPeer};

/// What goes by one connection.
#[derive(Default)]
struct Batch {
    sections: Vec<(Replicate, Vec<u8>)>,
    acks: Vec<Ack>,
    /// Of transfers and comparisons, in order.
    states: Vec<ToPeer>,
}

/// Which partition a transfer of state is of: but for the first, its frames do not say. Of a
/// partition and a shard there is one at a time, the newest.
#[derive(Default)]
pub(super) struct Transfers(BTreeMap<(PeerShard, u64), PartitionId>);

impl Transfers {
    /// A transfer with a shard begins, again perhaps. O(transfers).
    pub fn begin(&mut self, peer: PeerShard, transfer: u64, partition: PartitionId) {
        self.0.retain(|(other, _), known| *other != peer || *known != partition);
        self.0.insert((peer, transfer), partition);
    }

    /// The partition of a transfer.
    pub fn partition(&self, peer: PeerShard, transfer: u64) -> Option<PartitionId> {
        self.0.get(&(peer, transfer)).copied()
    }

    /// An answer has come or goes: a transfer that is over by it is forgotten.
    pub fn answered(&mut self, peer: PeerShard, answer: &SnapshotAnswer) {
        if !matches!(answer.state, SnapshotState::Resume { .. }) {
            self.0.remove(&(peer, answer.transfer));
        }
    }
}

impl ToPeer {
    /// The partition it is about.
    fn partition(&self) -> PartitionId {
        match self {
            ToPeer::Replicate(message, _) => message.partition,
            ToPeer::Ack(ack) => ack.partition,
            ToPeer::SnapshotBegin(begin) => begin.partition,
            ToPeer::SnapshotPiece { partition, .. } | ToPeer::SnapshotAnswer { partition, .. } => {
                *partition
            }
            ToPeer::Compare { compare, .. } => compare.partition,
            ToPeer::Compared(compared) => compared.partition,
            ToPeer::Diverged(diverged) => diverged.partition,
            ToPeer::Fetch { fetch, .. } => fetch.partition,
            ToPeer::Fetched { fetched, .. } => fetched.partition,
        }
    }

    /// Whether it answers what came by a connection of the other side.
    fn is_answer(&self) -> bool {
        matches!(
            self,
            ToPeer::Ack(_)
                | ToPeer::SnapshotAnswer { .. }
                | ToPeer::Compared(_)
                | ToPeer::Fetched { .. }
        )
    }
}

impl<R: Runtime> Nodes<R> {
    /// Sends what there is, and drops what has no way: the engine says it again.
    pub(super) fn send_to_peers(&self, messages: &mut Vec<(NodeId, ToPeer)>) {
        let mut batches: BTreeMap<LinkId, Batch> = BTreeMap::new();
        for (node, message) in messages.drain(..) {
            let Some(peer) = self.shard_of(node, message.partition()) else { continue };
            let link = match message.is_answer() {
                true => self.peers.accepted(peer),
                false => self.peers.dialled(peer),
            };
            let Some(link) = link else { continue };
            let batch = batches.entry(link).or_default();
            match message {
                ToPeer::Replicate(message, records) => batch.sections.push((message, records)),
                ToPeer::Ack(ack) => batch.acks.push(ack),
                state => {
                    self.note_transfer(peer, &state);
                    batch.states.push(state);
                }
            }
        }
        for (link, batch) in batches {
            if !batch.sections.is_empty() {
                let sent = self.peers.output(link, |output| replicate(output, &batch.sections));
                if let Some(Err(error)) = sent {
                    tracing::debug!(link = link.0, %error, "entries are not sent");
                }
            }
            let acks: Vec<_> = batch.acks.iter().map(convert::to_ack).collect();
            for some in acks.chunks(ironring_net::peer::message::SECTIONS_MAX) {
                self.say(link, &Message::Acks(some.into()));
            }
            for state in &batch.states {
                self.say_state(link, state);
            }
        }
    }

    fn note_transfer(&self, peer: PeerShard, message: &ToPeer) {
        match message {
            ToPeer::SnapshotBegin(begin) => {
                self.going.borrow_mut().begin(peer, begin.transfer, begin.partition);
            }
            ToPeer::SnapshotAnswer { answer, .. } => {
                self.coming.borrow_mut().answered(peer, answer);
            }
            _ => {}
        }
    }

    fn say_state(&self, link: LinkId, message: &ToPeer) {
        match message {
            ToPeer::SnapshotBegin(begin) => self.say(link, &Message::SnapshotBegin(*begin)),
            ToPeer::SnapshotPiece { transfer, number, last, payload, .. } => {
                let (transfer, number, last) = (*transfer, *number, *last);
                let piece = SnapshotPiece { transfer, number, last, payload };
                self.say(link, &Message::SnapshotPiece(piece));
            }
            ToPeer::SnapshotAnswer { answer, .. } => {
                self.say(link, &Message::SnapshotAnswer(*answer));
            }
            // What a node of the version before does not know is not sent: it answers nothing.
            ToPeer::Compare { compare, range } => {
                self.say(link, &Message::Compare(Compare { range, ..*compare }));
            }
            ToPeer::Compared(compared) => self.say(link, &Message::Compared(*compared)),
            ToPeer::Diverged(diverged) => self.say(link, &Message::Diverged(*diverged)),
            ToPeer::Fetch { fetch, wants } => {
                self.say(link, &Message::Fetch(Fetch { wants, ..*fetch }));
            }
            ToPeer::Fetched { fetched, records } => {
                self.say(link, &Message::Fetched(Fetched { records, ..*fetched }));
            }
            ToPeer::Replicate(..) | ToPeer::Ack(_) => {}
        }
    }

    /// Says how much the shard may send to each node before it is told again: what the slowest of the
    /// connections to it takes, and nothing while there is none.
    pub(super) fn tell_room(&self, fx: &mut Effects) {
        let partners = self.partners.borrow();
        if partners.is_empty() && fx.peer_room.is_empty() {
            return;
        }
        fx.peer_room.clear();
        for partner in &*partners {
            let room = self.peers.dialled(*partner).map(|link| self.peers.room(link));
            let least = fx.peer_room.entry(partner.node).or_insert(usize::MAX);
            if let Some(room) = room {
                *least = room.min(*least);
            }
        }
        // A node with which there is no connection at all.
        for room in fx.peer_room.values_mut().filter(|room| **room == usize::MAX) {
            *room = 0;
        }
    }
}

/// Queues sections, in as many frames as they need. What does not fit is lost, as a frame may be.
fn replicate(output: &mut Output, sections: &[(Replicate, Vec<u8>)]) -> Result<(), OutputError> {
    let mut rest = sections.iter().peekable();
    while rest.peek().is_some() {
        let mut frame = output.replicate()?;
        while let Some((message, records)) = rest.peek() {
            match frame.push(&convert::to_section(message, records), []) {
                Ok(()) => _ = rest.next(),
                Err(OutputError::FrameFull { .. }) if frame.sections() > 0 => break,
                Err(error) => {
                    frame.finish()?;
                    return Err(error);
                }
            }
        }
        frame.finish()?;
    }
    Ok(())
}
