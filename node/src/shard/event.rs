//! What goes into a shard and what comes out: the seam to drivers.

use std::collections::BTreeMap;
use std::sync::Arc;

use ironring_core::io::{IoDone, IoQueue};
use ironring_core::{ErrorCode, Instant, NodeId, PartitionId, ShardId};
use ironring_net::frame::set_age;
use ironring_net::message::Response;
use ironring_net::peer::message::{
    Compare, Compared, Diverged, Fetch, Fetched, SnapshotAnswer, SnapshotBegin, SnapshotPiece,
};
use ironring_net::{Header, codec, decode_header};
use ironring_ring::metadata::{Command, Metadata, Outcome, ReplicaId};
use ironring_ring::replication::{Ack, Fence, FenceAnswer, Replicate, Request};

use super::meta::MetaSnapshot;

/// Names a connection of one shard for the driver; never reused within a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// Who asked: where the answer has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The shard that accepted the connection.
    pub shard: ShardId,
    /// The connection, as that shard's driver names it.
    pub conn: ConnId,
    /// The client's name for the request.
    pub correlation: u64,
    /// What the request counts among those handed to other shards; 0: it was handed to none.
    pub handed_bytes: u32,
    /// Of a read that any replica may answer: how old what it is answered from may be, in milliseconds;
    /// 0: it is current, `u32::MAX`: nobody knows.
    pub age_ms: Option<u32>,
}

/// Something happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// First event of a run: open the log. `format`: an empty directory may be formatted.
    Start {
        /// Whether an empty directory is a new shard (true) or a loss (false).
        format: bool,
    },
    /// A file operation ended.
    Io(IoDone),
    /// A frame arrived on a connection of this shard; its checksums hold.
    Request {
        /// Which connection.
        conn: ConnId,
        /// The frame's header.
        header: Header,
        /// The frame's body.
        body: &'a [u8],
    },
    /// A connection is gone: answers to it are dropped.
    Closed(ConnId),
    /// Another shard of the node sent something.
    Message(ShardMessage),
    /// The newest committed metadata this node knows.
    Metadata(Arc<Metadata>),
    /// What the metadata group made of a [`MetaAsk`].
    MetaDecided {
        /// Its name.
        ticket: u64,
        /// What came of it.
        result: Result<Outcome, MetaFailure>,
    },
    /// A shard of another node, or the controller, says something about a partition of this shard.
    Peer {
        /// Which node.
        node: NodeId,
        /// What it says.
        message: PeerMessage<'a>,
    },
    /// A connection to the shards of a node is there (again): what was sent before may be lost.
    LinkUp(NodeId),
    /// The driver could not do what [`Effects::set_aside`] asks for.
    NotSetAside,
    /// The driver has handed over everything that was ready: seal what is staged.
    TurnEnd,
    /// [`super::Shard::next_deadline`] has passed.
    Timer,
    /// Make something durable, so that whoever asks knows that this shard can: see
    /// [`super::Shard::probe_done`].
    Probe {
        /// Names the probe; grows.
        ticket: u64,
    },
    /// Stop cleanly: refuse new requests, finish what was started, checkpoint.
    Stop,
}

/// What replicas, leaders and the controller say about a partition of the shard that hears it. Only
/// members of the cluster get to say it: the driver has seen to that.
#[derive(Clone, Copy, Debug)]
pub enum PeerMessage<'a> {
    /// A leader: entries, or a probe.
    Replicate {
        /// The message.
        message: Replicate,
        /// Its entries, one behind the other, as
        /// [`ironring_log::format::record::decode_wire`] reads them.
        records: &'a [u8],
    },
    /// A follower.
    Ack(Ack),
    /// The controller: an election has begun.
    Fence(Fence),
    /// A leader: it begins to send its state.
    SnapshotBegin(SnapshotBegin),
    /// A leader: a piece of it. The frame names the transfer only; the driver knows the partition.
    SnapshotPiece {
        /// The partition.
        partition: PartitionId,
        /// The piece.
        piece: SnapshotPiece<'a>,
    },
    /// A follower: how it stands to it.
    SnapshotAnswer {
        /// The partition.
        partition: PartitionId,
        /// The answer.
        answer: SnapshotAnswer,
    },
    /// A leader: what a part of the partition comes to is wanted.
    Compare(Compare<'a>),
    /// A follower: what it comes to.
    Compared(Compared),
    /// A leader: this copy differs from most.
    Diverged(Diverged),
    /// A leader: it has lost these records.
    Fetch(Fetch<'a>),
    /// A follower: these of them it has.
    Fetched(Fetched<'a>),
    /// The controller: let another voter lead.
    HandOver {
        /// The partition.
        partition: PartitionId,
        /// Who is to lead it.
        to: ReplicaId,
    },
}

/// What a shard says to a shard of another node: the one there with the partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToPeer {
    /// Entries or a probe, with the entries' bytes.
    Replicate(Replicate, Vec<u8>),
    /// An answer to those.
    Ack(Ack),
    /// A state begins to come.
    SnapshotBegin(SnapshotBegin),
    /// A piece of it.
    SnapshotPiece {
        /// The partition.
        partition: PartitionId,
        /// The transfer.
        transfer: u64,
        /// 0, 1, 2, ...
        number: u32,
        /// Whether no more follow.
        last: bool,
        /// Records.
        payload: Vec<u8>,
    },
    /// An answer to those.
    SnapshotAnswer {
        /// The partition.
        partition: PartitionId,
        /// The answer.
        answer: SnapshotAnswer,
    },
    /// A question what a part of the partition comes to; its range stands beside it.
    Compare {
        /// The question, with an empty range.
        compare: Compare<'static>,
        /// The range.
        range: Vec<u8>,
    },
    /// The answer to it.
    Compared(Compared),
    /// What came of it: a copy that differs.
    Diverged(Diverged),
    /// A question for records that were lost, without their names, which stand beside it.
    Fetch {
        /// The question.
        fetch: Fetch<'static>,
        /// Names of records.
        wants: Vec<u8>,
    },
    /// The answer to it, without the records, which stand beside it.
    Fetched {
        /// The answer.
        fetched: Fetched<'static>,
        /// Records.
        records: Vec<u8>,
    },
}

/// A change of the metadata that a shard asks the group for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaAsk {
    /// Names it, for [`Event::MetaDecided`].
    pub ticket: u64,
    /// The change.
    pub command: Command,
}

/// Why the group has not made a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaFailure {
    /// It takes none now; nothing was changed.
    Unavailable(String),
    /// Nobody knows whether it did.
    Unknown,
}

/// What a shard says to the controller, wherever that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToController {
    /// A leader's or replica's request.
    Ask(Request),
    /// The answer to a fence.
    Fenced(FenceAnswer),
}

/// From shard to shard of one node. How much is on its way is bounded by whoever sends requests: see
/// [`super::ShardConfig::request_bytes_max`].
#[derive(Debug)]
pub enum ShardMessage {
    /// A request for a partition of the receiver.
    Forward {
        /// Who asked.
        origin: Origin,
        /// The frame's header.
        header: Header,
        /// The frame's body.
        body: Vec<u8>,
        /// When the request's deadline passes, on the node's monotonic clock.
        deadline: Instant,
    },
    /// An encoded response for a connection of the receiver.
    Reply {
        /// Which connection.
        conn: ConnId,
        /// The whole frame.
        frame: Vec<u8>,
        /// The request's [`Origin::handed_bytes`].
        handed_bytes: u32,
    },
    /// Shard 0 tells what the metadata are.
    Meta(MetaSnapshot),
}

/// An encoded response for one of the shard's own connections.
#[derive(Clone, Copy, Debug)]
struct LocalReply {
    conn: ConnId,
    from: usize,
    to: usize,
}

/// What a shard wants done. The driver empties it after every event.
#[derive(Debug, Default)]
pub struct Effects {
    /// File operations.
    pub io: IoQueue,
    /// Messages to other shards, in order.
    pub messages: Vec<(ShardId, ShardMessage)>,
    /// Messages to other nodes, in order.
    pub peers: Vec<(NodeId, ToPeer)>,
    /// Messages to the controller, in order.
    pub controller: Vec<ToController>,
    /// Changes of the metadata, in order.
    pub metadata: Vec<MetaAsk>,
    /// How many bytes of entries may be sent to each node before the next event; the driver says. A
    /// node that is not here has room.
    pub peer_room: BTreeMap<NodeId, usize>,
    /// Answers among these rest on leases, the first of which ends then: whoever delivers them looks at
    /// the clock again before, and when it is later calls [`Effects::doubt`]. A process that was
    /// stopped in the middle of a turn may have read what others have replaced meanwhile.
    pub valid_until: Option<Instant>,
    /// Move the log's files out of the way, for good: nothing refers to them. Then comes
    /// [`Event::Start`], with leave to format, or [`Event::NotSetAside`].
    pub set_aside: bool,
    /// The files that were set aside are not needed any more.
    pub drop_aside: bool,
    replies: Vec<LocalReply>,
    frames: Vec<u8>,
    /// Bytes of the answers among `messages`.
    sent_bytes: usize,
}

impl Effects {
    /// Answers a request: encodes the response for a connection of `me`, or sends it to the shard
    /// that has the connection.
    pub fn reply(&mut self, me: ShardId, origin: Origin, response: &Response<'_>) {
        if origin.shard == me {
            let from = self.frames.len();
            codec::encode_response(&mut self.frames, origin.correlation, response);
            if let Some(age_ms) = origin.age_ms {
                set_age(&mut self.frames[from..], age_ms);
            }
            self.replies.push(LocalReply { conn: origin.conn, from, to: self.frames.len() });
        } else {
            let mut frame = Vec::new();
            codec::encode_response(&mut frame, origin.correlation, response);
            if let Some(age_ms) = origin.age_ms {
                set_age(&mut frame, age_ms);
            }
            self.sent_bytes =
                frame.len() + if self.messages.is_empty() { 0 } else { self.sent_bytes };
            let (conn, handed_bytes) = (origin.conn, origin.handed_bytes);
            let reply = ShardMessage::Reply { conn, frame, handed_bytes };
            self.messages.push((origin.shard, reply));
        }
    }

    /// Passes on a response another shard encoded.
    pub fn pass_on(&mut self, conn: ConnId, frame: &[u8]) {
        let from = self.frames.len();
        self.frames.extend_from_slice(frame);
        self.replies.push(LocalReply { conn, from, to: self.frames.len() });
    }

    /// Makes every response one that says that the outcome is not known.
    pub fn doubt(&mut self) {
        let frames = std::mem::take(&mut self.frames);
        for reply in &mut self.replies {
            let from = self.frames.len();
            encode_doubt(&frames[reply.from..reply.to], &mut self.frames);
            (reply.from, reply.to) = (from, self.frames.len());
        }
        for (_, message) in &mut self.messages {
            if let ShardMessage::Reply { frame, .. } = message {
                let said = std::mem::take(frame);
                encode_doubt(&said, frame);
            }
        }
    }

    /// Hands every response to `deliver`, in the order they were made, and forgets them.
    pub fn take_replies(&mut self, mut deliver: impl FnMut(ConnId, &[u8])) {
        for reply in self.replies.drain(..) {
            deliver(reply.conn, &self.frames[reply.from..reply.to]);
        }
        self.frames.clear();
        // One large value must not pin its memory for ever.
        if self.frames.capacity() > FRAMES_KEPT_BYTES {
            self.frames.shrink_to(FRAMES_KEPT_BYTES);
        }
    }

    /// Bytes of encoded responses that were not delivered yet, to this shard's connections or others.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.frames.len() + if self.messages.is_empty() { 0 } else { self.sent_bytes }
    }

    /// True when there are responses to deliver.
    #[must_use]
    pub fn has_replies(&self) -> bool {
        !self.replies.is_empty()
    }
}

fn encode_doubt(frame: &[u8], out: &mut Vec<u8>) {
    let header = decode_header(frame).expect("responses are encoded whole");
    let code = ErrorCode::Unknown;
    let message = "the node was stopped while it answered, and may not lead any more";
    codec::encode_response(out, header.correlation, &Response::Error { code, detail: 0, message });
}

/// Reply memory kept between events.
const FRAMES_KEPT_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use ironring_net::decode_response;
    use ironring_net::frame::HEADER_BYTES;

    use super::*;

    #[test]
    fn doubted_answers_say_so_to_the_same_requests() {
        let mut fx = Effects::default();
        for (shard, correlation) in [(0, 7), (1, 8)] {
            let (shard, conn) = (ShardId(shard), ConnId(3));
            let origin = Origin { shard, conn, correlation, handed_bytes: 0, age_ms: None };
            fx.reply(ShardId(0), origin, &Response::Pong);
        }
        fx.doubt();
        let mut said = Vec::new();
        for (_, message) in &fx.messages {
            if let ShardMessage::Reply { frame, .. } = message {
                said.push(frame.clone());
            }
        }
        fx.take_replies(|_, frame| said.push(frame.to_vec()));
        let said = said.iter().map(|frame| {
            let header = decode_header(frame).unwrap();
            let response = decode_response(&header, &frame[HEADER_BYTES..]).unwrap();
            let Response::Error { code, .. } = response else { panic!("{response:?}") };
            (header.correlation, code)
        });
        let said: Vec<_> = said.collect();
        assert_eq!(said, [(8, ErrorCode::Unknown), (7, ErrorCode::Unknown)]);
    }
}
