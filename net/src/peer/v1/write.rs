//! Archives messages as bodies of version 1, straight into the output buffer.

use rkyv::Serialize;
use rkyv::api::low::{LowSerializer, to_bytes_in_with_alloc};
use rkyv::rancor::Failure;
use rkyv::ser::allocator::{Arena, ArenaHandle};
use rkyv::util::AlignedVec;

use super::*;
use crate::peer::message::{self, AckState, Half, Message, SnapshotState};

type Serializer<'w, 'a> = LowSerializer<&'w mut AlignedVec, ArenaHandle<'a>, Failure>;

/// Archives the body of `message` at the end of `out`, which is aligned.
///
/// Sections go by [`write_sections`]: their ranges are known only once their records are placed.
pub fn write(message: &Message<'_>, out: &mut AlignedVec, arena: &mut Arena) {
    match message {
        Message::Replicate(_) => unreachable!("sections are pushed one by one"),
        Message::Acks(acks) => put(&acks.iter().map(ack).collect::<Vec<_>>(), out, arena),
        Message::Fences(fences) => put(&fences.iter().map(fence).collect::<Vec<_>>(), out, arena),
        Message::FenceAnswers(answers) => {
            put(&answers.iter().map(fence_answer).collect::<Vec<_>>(), out, arena);
        }
        Message::Asks(asks) => put(&asks.iter().map(ask).collect::<Vec<_>>(), out, arena),
        Message::Raft(raft) => {
            let half = match raft.half {
                Half::Request => half::REQUEST,
                Half::Answer => half::ANSWER,
            };
            put(&Raft { call: raft.call, half, reserved: 0 }, out, arena);
        }
        Message::Forward(forward) => put(&self::forward(forward), out, arena),
        Message::ForwardAnswer(answer) => put(&forward_answer(answer), out, arena),
        Message::SnapshotBegin(begin) => put(&snapshot_begin(begin), out, arena),
        Message::SnapshotPiece(piece) => {
            let (transfer, number) = (piece.transfer, piece.number);
            put(&SnapshotPiece { transfer, number, last: piece.last.into() }, out, arena);
        }
        Message::SnapshotAnswer(answer) => {
            let (state, value) = match answer.state {
                SnapshotState::Resume { number } => (snapshot_state::RESUME, number),
                SnapshotState::Complete => (snapshot_state::COMPLETE, 0),
                SnapshotState::Refused(reason) => (snapshot_state::REFUSED, reason as u32),
            };
            put(&SnapshotAnswer { transfer: answer.transfer, state, value }, out, arena);
        }
        Message::Credits { bytes } => put(&Credits { bytes: *bytes }, out, arena),
        Message::Ping(ping) | Message::Pong(ping) => {
            put(&Ping { sent_ns: ping.sent.0, wall_ms: ping.wall.0 }, out, arena);
        }
        Message::Goodbye(reason) => {
            put(&Goodbye { reason: *reason as u32, reserved: 0 }, out, arena);
        }
        Message::Compare(_)
        | Message::Compared(_)
        | Message::Diverged(_)
        | Message::Fetch(_)
        | Message::Fetched(_) => {
            unreachable!("a kind of a later version is refused before")
        }
    }
}

/// Archives the sections of a `Replicate` frame. The vector is borrowed from its owner to be reused.
pub fn write_sections(sections: &Vec<Section>, out: &mut AlignedVec, arena: &mut Arena) {
    put(sections, out, arena);
}

pub fn put<T>(value: &T, out: &mut AlignedVec, arena: &mut Arena)
where
    T: for<'w, 'a> Serialize<Serializer<'w, 'a>>,
{
    let written = to_bytes_in_with_alloc::<_, _, Failure>(value, out, arena.acquire());
    written.expect("a vector takes everything and an arena gives what is asked for");
}

/// A section whose records are `payload_len` bytes of the payload from `payload_start` on.
pub fn section(from: &message::Replicate<'_>, payload_start: u32, payload_len: u32) -> Section {
    Section {
        partition: from.partition.0,
        count: from.count,
        to: replica(from.to),
        from: leader(from.from),
        term: from.term.0,
        first: from.first.0,
        prev_term: from.prev_term.0,
        high_watermark: from.high_watermark.0,
        probe_ns: from.probe.0,
        payload_start,
        payload_len,
    }
}

pub fn replica(id: message::ReplicaId) -> Replica {
    Replica { storage: id.storage.0.to_le_bytes(), life: id.life }
}

pub fn leader(id: message::LeaderId) -> Leader {
    Leader { replica: replica(id.replica), incarnation: id.incarnation.0 }
}

fn ack(ack: message::Ack) -> Ack {
    let (state, end, state_term) = match ack.state {
        AckState::Flushed { end } => (ack_state::FLUSHED, end.0, 0),
        AckState::Mismatch { end, term } => (ack_state::MISMATCH, end.0, term.0),
        AckState::Promised { term } => (ack_state::PROMISED, 0, term.0),
    };
    Ack {
        partition: ack.partition.0,
        state,
        from: leader(ack.from),
        to: replica(ack.to),
        term: ack.term.0,
        end,
        state_term,
        probe_ns: ack.probe.0,
    }
}

fn fence(fence: message::Fence) -> Fence {
    let to = replica(fence.to);
    Fence { partition: fence.partition.0, reserved: 0, to, term: fence.term.0 }
}

fn fence_answer(answer: message::FenceAnswer) -> FenceAnswer {
    FenceAnswer {
        partition: answer.partition.0,
        reserved: 0,
        from: leader(answer.from),
        term: answer.term.0,
        last_term: answer.last_term.0,
        log_end: answer.log_end.0,
        lease_left_ns: answer.lease_left_ns,
    }
}

fn ask(ask: message::Ask<'_>) -> Ask {
    let no_one = message::LeaderId::default();
    let no_run = |replica| message::LeaderId { replica, ..no_one };
    match ask {
        message::Ask::Voters { partition, term, from, base, voters } => Ask {
            partition: partition.0,
            kind: ask_kind::VOTERS,
            term: term.0,
            from: leader(no_run(from)),
            base,
            to: leader(no_one),
            voters: voters.iter().map(replica).collect(),
        },
        message::Ask::Transfer { partition, term, from, to } => Ask {
            partition: partition.0,
            kind: ask_kind::TRANSFER,
            term: term.0,
            from: leader(no_run(from)),
            base: 0,
            to: leader(to),
            voters: Vec::new(),
        },
        message::Ask::Election { partition, term, from } => Ask {
            partition: partition.0,
            kind: ask_kind::ELECTION,
            term: term.0,
            from: leader(from),
            base: 0,
            to: leader(no_one),
            voters: Vec::new(),
        },
        message::Ask::Renew { partition, replica, renewal } => Ask {
            partition: partition.0,
            kind: ask_kind::RENEW,
            term: 0,
            from: leader(no_run(replica)),
            base: renewal,
            to: leader(no_one),
            voters: Vec::new(),
        },
    }
}

fn forward(forward: &message::Forward<'_>) -> Forward {
    Forward {
        call: forward.call,
        correlation: forward.header.correlation,
        deadline_ms: forward.header.deadline_ms,
        body_crc: forward.header.body_crc,
        status: forward.header.status,
        version: forward.header.version,
        opcode: forward.header.opcode,
        reserved: 0,
    }
}

fn forward_answer(answer: &message::ForwardAnswer<'_>) -> ForwardAnswer {
    ForwardAnswer {
        call: answer.call,
        body_crc: answer.header.body_crc,
        status: answer.header.status,
        version: answer.header.version,
        opcode: answer.header.opcode,
    }
}

fn snapshot_begin(begin: &message::SnapshotBegin) -> SnapshotBegin {
    SnapshotBegin {
        transfer: begin.transfer,
        partition: begin.partition.0,
        reserved: 0,
        to: replica(begin.to),
        from: leader(begin.from),
        term: begin.term.0,
        start: begin.start.0,
        end: begin.end.0,
        end_term: begin.end_term.0,
        total_bytes: begin.total_bytes,
    }
}
