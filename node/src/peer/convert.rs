//! Messages of the replication engine (`ironring_ring`) as messages between nodes (`ironring_net`),
//! and back. The two crates do not know each other.
//!
//! - Every field of one has its field in the other, of the same meaning; nothing is lost either way.
//! - Only what comes from the wire can be too much for the engine: it has passed the checks of its
//!   frame, and each of these functions is total over that.
//! - Durations travel as nanoseconds in 64 bits (584 years); a longer one is cut to that, which makes
//!   whoever waits for its end wait as long as anybody can.
//!
//! Functions `to_*` make what is sent, functions `from_*` what the engine takes.

use std::time::Duration;

use ironring_net::peer::message as wire;
use ironring_ring::metadata::{LeaderId, ReplicaId};
use ironring_ring::replication::{Ack, AckState, Fence, FenceAnswer, Replicate, Request};

/// A replica.
#[must_use]
pub fn to_replica(id: ReplicaId) -> wire::ReplicaId {
    wire::ReplicaId { storage: id.storage, life: id.life }
}

/// A replica.
#[must_use]
pub fn from_replica(id: wire::ReplicaId) -> ReplicaId {
    ReplicaId { storage: id.storage, life: id.life }
}

/// A run of a replica.
#[must_use]
pub fn to_leader(id: LeaderId) -> wire::LeaderId {
    wire::LeaderId { replica: to_replica(id.replica), incarnation: id.incarnation }
}

/// A run of a replica.
#[must_use]
pub fn from_leader(id: wire::LeaderId) -> LeaderId {
    LeaderId { replica: from_replica(id.replica), incarnation: id.incarnation }
}

/// Entries or a probe, with the first of the bytes of its records: more may follow in
/// [`ironring_net::peer::output::ReplicateFrame::push`].
#[must_use]
pub fn to_section<'a>(message: &Replicate, records: &'a [u8]) -> wire::Replicate<'a> {
    wire::Replicate {
        partition: message.partition,
        to: to_replica(message.to),
        from: to_leader(message.from),
        term: message.term,
        first: message.first,
        prev_term: message.prev_term,
        count: message.count,
        high_watermark: message.high_watermark,
        probe: message.probe,
        answered: message.answered,
        age_ms: message.age_ms,
        records,
    }
}

/// Entries or a probe; their bytes stay where they arrived.
#[must_use]
pub fn from_section(section: &wire::Replicate<'_>) -> Replicate {
    Replicate {
        partition: section.partition,
        to: from_replica(section.to),
        from: from_leader(section.from),
        term: section.term,
        first: section.first,
        prev_term: section.prev_term,
        count: section.count,
        high_watermark: section.high_watermark,
        probe: section.probe,
        answered: section.answered,
        age_ms: section.age_ms,
    }
}

/// A replica's answer.
#[must_use]
pub fn to_ack(ack: &Ack) -> wire::Ack {
    wire::Ack {
        partition: ack.partition,
        from: to_leader(ack.from),
        to: to_replica(ack.to),
        term: ack.term,
        state: match ack.state {
            AckState::Flushed { end } => wire::AckState::Flushed { end },
            AckState::Mismatch { end, term } => wire::AckState::Mismatch { end, term },
            AckState::Promised { term } => wire::AckState::Promised { term },
        },
        probe: ack.probe,
    }
}

/// A replica's answer.
#[must_use]
pub fn from_ack(ack: &wire::Ack) -> Ack {
    Ack {
        partition: ack.partition,
        from: from_leader(ack.from),
        to: from_replica(ack.to),
        term: ack.term,
        state: match ack.state {
            wire::AckState::Flushed { end } => AckState::Flushed { end },
            wire::AckState::Mismatch { end, term } => AckState::Mismatch { end, term },
            wire::AckState::Promised { term } => AckState::Promised { term },
        },
        probe: ack.probe,
    }
}

/// The beginning of an election.
#[must_use]
pub fn to_fence(fence: &Fence) -> wire::Fence {
    wire::Fence { partition: fence.partition, to: to_replica(fence.to), term: fence.term }
}

/// The beginning of an election.
#[must_use]
pub fn from_fence(fence: &wire::Fence) -> Fence {
    Fence { partition: fence.partition, to: from_replica(fence.to), term: fence.term }
}

/// A voter's answer.
#[must_use]
pub fn to_fence_answer(answer: &FenceAnswer) -> wire::FenceAnswer {
    wire::FenceAnswer {
        partition: answer.partition,
        from: to_leader(answer.from),
        term: answer.term,
        last_term: answer.last_term,
        log_end: answer.log_end,
        lease_left_ns: u64::try_from(answer.lease_left.as_nanos()).unwrap_or(u64::MAX),
    }
}

/// A voter's answer.
#[must_use]
pub fn from_fence_answer(answer: &wire::FenceAnswer) -> FenceAnswer {
    FenceAnswer {
        partition: answer.partition,
        from: from_leader(answer.from),
        term: answer.term,
        last_term: answer.last_term,
        log_end: answer.log_end,
        lease_left: Duration::from_nanos(answer.lease_left_ns),
    }
}

/// Requests to the controller. `voters` is emptied, and holds what they list.
#[must_use]
pub fn to_asks<'a>(
    requests: &[Request],
    voters: &'a mut Vec<wire::ReplicaId>,
) -> Vec<wire::Ask<'a>> {
    voters.clear();
    for request in requests {
        if let Request::Voters { voters: named, .. } = request {
            voters.extend(named.iter().copied().map(to_replica));
        }
    }
    let mut rest: &'a [wire::ReplicaId] = voters;
    let ask = |request: &Request| match request {
        Request::Voters { partition, term, from, base, voters } => {
            let (named, behind) = rest.split_at(voters.len());
            rest = behind;
            wire::Ask::Voters {
                partition: *partition,
                term: *term,
                from: to_replica(*from),
                base: *base,
                voters: named.into(),
            }
        }
        Request::Transfer { partition, term, from, to } => wire::Ask::Transfer {
            partition: *partition,
            term: *term,
            from: to_replica(*from),
            to: to_leader(*to),
        },
        Request::Election { partition, term, from } => {
            wire::Ask::Election { partition: *partition, term: *term, from: to_leader(*from) }
        }
        Request::Renew { partition, replica, renewal } => wire::Ask::Renew {
            partition: *partition,
            replica: to_replica(*replica),
            renewal: *renewal,
        },
    };
    requests.iter().map(ask).collect()
}

/// A request to the controller.
#[must_use]
pub fn from_ask(ask: &wire::Ask<'_>) -> Request {
    match *ask {
        wire::Ask::Voters { partition, term, from, base, voters } => Request::Voters {
            partition,
            term,
            from: from_replica(from),
            base,
            voters: voters.iter().map(from_replica).collect(),
        },
        wire::Ask::Transfer { partition, term, from, to } => {
            Request::Transfer { partition, term, from: from_replica(from), to: from_leader(to) }
        }
        wire::Ask::Election { partition, term, from } => {
            Request::Election { partition, term, from: from_leader(from) }
        }
        wire::Ask::Renew { partition, replica, renewal } => {
            Request::Renew { partition, replica: from_replica(replica), renewal }
        }
    }
}

// Whatever the engine can name fits what the wire can list.
const _: () = assert!(ironring_ring::metadata::REPLICAS_MAX <= wire::VOTERS_MAX);
const _: () = assert!(ironring_ring::replication::AGE_UNKNOWN == wire::AGE_UNKNOWN);
