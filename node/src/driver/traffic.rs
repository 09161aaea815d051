//! What replicas say to those of other nodes, on its way: many partitions in a frame, one frame or
//! few for each connection.

use std::collections::BTreeMap;

use ironring_core::NodeId;
use ironring_net::peer::{Message, Output, OutputError};
use ironring_ring::replication::{Ack, Replicate};

use super::nodes::Nodes;
use super::peers::LinkId;
use super::runtime::Runtime;
use crate::peer::convert;
use crate::shard::{Effects, ToPeer};

/// What goes by one connection.
#[derive(Default)]
struct Batch {
    sections: Vec<(Replicate, Vec<u8>)>,
    acks: Vec<Ack>,
}

impl<R: Runtime> Nodes<R> {
    /// Sends what there is, and drops what has no way: the engine says it again.
    pub(super) fn send_to_peers(&self, messages: &mut Vec<(NodeId, ToPeer)>) {
        let mut batches: BTreeMap<LinkId, Batch> = BTreeMap::new();
        for (node, message) in messages.drain(..) {
            let partition = match &message {
                ToPeer::Replicate(message, _) => message.partition,
                ToPeer::Ack(ack) => ack.partition,
            };
            let Some(peer) = self.shard_of(node, partition) else { continue };
            match message {
                ToPeer::Replicate(message, records) => {
                    let Some(link) = self.peers.dialled(peer) else { continue };
                    batches.entry(link).or_default().sections.push((message, records));
                }
                ToPeer::Ack(ack) => {
                    let Some(link) = self.peers.accepted(peer) else { continue };
                    batches.entry(link).or_default().acks.push(ack);
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
