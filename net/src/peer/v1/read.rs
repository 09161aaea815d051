//! Reads the bodies of version 1 where they lie: rkyv's check first, then what it cannot know.
//!
//! What [`read`] accepts has one encoding, but for where an empty vector points: rkyv's check takes
//! elements only in order and without overlap, bodies have the length their items need, and fields
//! without a meaning are 0.

use ironring_core::{Incarnation, Instant, Offset, PartitionId, StorageUuid, Term, WallTime};
use rkyv::api::high::HighValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;
use rkyv::vec::ArchivedVec;
use rkyv::{Portable, access};

use super::*;
use crate::error::BodyError;
use crate::frame::Header as ClientHeader;
use crate::peer::error::PeerError;
use crate::peer::frame::{Frame, Kind};
use crate::peer::list::{Acks, Asks, FenceAnswers, Fences, Replicas, Sections};
use crate::peer::message::{self, AckState, Half, SnapshotState};
use crate::peer::message::{GoodbyeReason, Message, SECTION_ENTRIES_MAX, SnapshotRefusal};

/// An archived item of a list in [`crate::peer::list`].
pub trait Item<'a, T> {
    /// What it says. It has passed the checks of [`read`]; `payload` is that of its frame.
    fn plain(&'a self, payload: &'a [u8]) -> T;
}

/// Reads the body of a frame.
pub fn read<'a>(frame: &Frame<'a>) -> Result<Message<'a>, PeerError> {
    let kind = frame.header.kind;
    Ok(match kind {
        Kind::Hello
        | Kind::Welcome
        | Kind::Refused
        | Kind::Compare
        | Kind::Compared
        | Kind::Diverged
        | Kind::Fetch
        | Kind::Fetched => {
            return Err(PeerError::UnknownKind { version: 1, kind: kind as u8 });
        }
        Kind::Replicate => {
            let sections = sections(frame, |section| section, |_| Ok(()))?;
            Message::Replicate(Sections::v1(sections, frame.payload))
        }
        Kind::Acks => {
            let acks = items(frame, SECTIONS_MAX, |ack| check_ack(ack).map(|()| 0))?;
            Message::Acks(Acks::v1(acks, frame.payload))
        }
        Kind::Fences => {
            let reserved =
                |fence: &ArchivedFence| zero("reserved", fence.reserved.to_native().into());
            let fences = items(frame, SECTIONS_MAX, |fence| reserved(fence).map(|()| 0))?;
            Message::Fences(Fences::v1(fences, frame.payload))
        }
        Kind::FenceAnswers => {
            let reserved =
                |answer: &ArchivedFenceAnswer| zero("reserved", answer.reserved.to_native().into());
            let answers = items(frame, SECTIONS_MAX, |answer| reserved(answer).map(|()| 0))?;
            Message::FenceAnswers(FenceAnswers::v1(answers, frame.payload))
        }
        Kind::Asks => Message::Asks(Asks::v1(items(frame, ASKS_MAX, check_ask)?, frame.payload)),
        Kind::Raft => Message::Raft(read_raft(frame)?),
        Kind::Forward => Message::Forward(read_forward(frame)?),
        Kind::ForwardAnswer => Message::ForwardAnswer(read_forward_answer(frame)?),
        Kind::SnapshotBegin => Message::SnapshotBegin(read_snapshot_begin(frame)?),
        Kind::SnapshotPiece => Message::SnapshotPiece(read_snapshot_piece(frame)?),
        Kind::SnapshotAnswer => Message::SnapshotAnswer(read_snapshot_answer(frame)?),
        Kind::Credits => {
            let bytes = plain::<ArchivedCredits>(frame)?.bytes.to_native();
            let rule = "must not be 0";
            let invalid = BodyError::Invalid { field: "bytes", rule };
            require(bytes > 0, invalid).map_err(|error| PeerError::Field { kind, error })?;
            Message::Credits { bytes }
        }
        Kind::Ping => Message::Ping(ping(plain(frame)?)),
        Kind::Pong => Message::Pong(ping(plain(frame)?)),
        Kind::Goodbye => Message::Goodbye(read_goodbye(frame)?),
    })
}

/// The archive of a kind without vectors: exactly the struct.
pub fn plain<'a, T>(frame: &Frame<'a>) -> Result<&'a T, PeerError>
where
    T: Portable + for<'v> CheckBytes<HighValidator<'v, Failure>>,
{
    let damaged = PeerError::Archive { kind: frame.header.kind };
    if frame.body.len() != size_of::<T>() {
        return Err(damaged);
    }
    access::<T, Failure>(frame.body).map_err(|Failure| damaged)
}

/// The archive of a kind that lists: 1 to `max` items. `check` looks at one and tells how many bytes
/// of the body its own vectors take.
fn items<'a, T>(
    frame: &Frame<'a>,
    max: usize,
    check: impl Fn(&T) -> Result<usize, BodyError>,
) -> Result<&'a [T], PeerError>
where
    T: Portable + for<'v> CheckBytes<HighValidator<'v, Failure>>,
{
    let kind = frame.header.kind;
    let field = |error| PeerError::Field { kind, error };
    let archive = access::<ArchivedVec<T>, Failure>(frame.body);
    let items = archive.map_err(|Failure| PeerError::Archive { kind })?.as_slice();
    let rule = "must not be empty";
    require(!items.is_empty(), BodyError::Invalid { field: "list", rule }).map_err(field)?;
    within("list", items.len(), max).map_err(field)?;
    let mut need = ROOT + size_of_val(items);
    for item in items {
        need += check(item).map_err(field)?;
    }
    match frame.body.len() == need {
        true => Ok(items),
        false => Err(PeerError::Archive { kind }),
    }
}

/// Sections, whose ranges cover the payload one after the other without a gap. `head`: what an item has
/// of this version; `check` looks at the rest.
pub fn sections<'a, T>(
    frame: &Frame<'a>,
    head: impl for<'s> Fn(&'s T) -> &'s ArchivedSection,
    check: impl Fn(&T) -> Result<(), BodyError>,
) -> Result<&'a [T], PeerError>
where
    T: Portable + for<'v> CheckBytes<HighValidator<'v, Failure>>,
{
    let kind = frame.header.kind;
    let sections: &[T] = items(frame, SECTIONS_MAX, |item: &T| {
        check(item)?;
        let section = head(item);
        let count = section.count.to_native();
        within("count", count as usize, SECTION_ENTRIES_MAX as usize)?;
        let first = section.first.to_native();
        let rule = "and count must give an offset";
        let invalid = BodyError::Invalid { field: "first", rule };
        require(first.checked_add(count.into()).is_some(), invalid)?;
        let rule = "must be 0 exactly when there are no records";
        let invalid = BodyError::Invalid { field: "count", rule };
        require((count == 0) == (section.payload_len.to_native() == 0), invalid).map(|()| 0)
    })?;
    let (mut end, payload_len) = (0, frame.payload.len() as u32);
    for (number, section) in (0..).zip(sections.iter().map(&head)) {
        let (start, len) = (section.payload_start.to_native(), section.payload_len.to_native());
        if start != end || len > payload_len - end {
            return Err(PeerError::Range { kind, section: number });
        }
        end += len;
    }
    if end != payload_len {
        return Err(PeerError::Range { kind, section: sections.len() as u32 });
    }
    Ok(sections)
}

pub fn require(holds: bool, error: BodyError) -> Result<(), BodyError> {
    if holds { Ok(()) } else { Err(error) }
}

fn within(field: &'static str, len: usize, max: usize) -> Result<(), BodyError> {
    require(len <= max, BodyError::TooLarge { field, len: len as u64, max: max as u64 })
}

/// A field that has no meaning here.
pub fn zero(field: &'static str, value: u64) -> Result<(), BodyError> {
    require(value == 0, BodyError::Reserved { field })
}

pub fn unknown(field: &'static str, value: u32) -> BodyError {
    BodyError::UnknownChoice { field, value: value.into() }
}

fn is_zero(leader: &ArchivedLeader) -> bool {
    leader_id(leader) == message::LeaderId::default()
}

fn check_ack(ack: &ArchivedAck) -> Result<(), BodyError> {
    match ack.state.to_native() {
        ack_state::FLUSHED => zero("state_term", ack.state_term.to_native()),
        ack_state::MISMATCH => Ok(()),
        ack_state::PROMISED => zero("end", ack.end.to_native()),
        state => Err(unknown("state", state)),
    }
}

fn check_ask(ask: &ArchivedAsk) -> Result<usize, BodyError> {
    let no_incarnation = || zero("incarnation", ask.from.incarnation.to_native());
    let no_base = || zero("base", ask.base.to_native());
    let no_to = || require(is_zero(&ask.to), BodyError::Reserved { field: "to" });
    let no_voters = || zero("voters", ask.voters.len() as u64);
    match ask.kind.to_native() {
        ask_kind::VOTERS => {
            no_incarnation()?;
            no_to()?;
            let rule = "must not be empty";
            require(!ask.voters.is_empty(), BodyError::Invalid { field: "voters", rule })?;
            within("voters", ask.voters.len(), VOTERS_MAX)?;
        }
        ask_kind::TRANSFER => {
            no_incarnation()?;
            no_base()?;
            no_voters()?;
        }
        ask_kind::RENEW => {
            no_incarnation()?;
            no_to()?;
            no_voters()?;
            zero("term", ask.term.to_native())?;
        }
        ask_kind::ELECTION => {
            no_base()?;
            no_to()?;
            no_voters()?;
        }
        kind => return Err(unknown("kind", kind)),
    }
    Ok(size_of_val(ask.voters.as_slice()))
}

pub fn replica_id(replica: &ArchivedReplica) -> message::ReplicaId {
    message::ReplicaId {
        storage: StorageUuid(u128::from_le_bytes(replica.storage)),
        life: replica.life.to_native(),
    }
}

pub fn leader_id(leader: &ArchivedLeader) -> message::LeaderId {
    message::LeaderId {
        replica: replica_id(&leader.replica),
        incarnation: Incarnation(leader.incarnation.to_native()),
    }
}

impl<'a> Item<'a, message::ReplicaId> for ArchivedReplica {
    fn plain(&'a self, _payload: &'a [u8]) -> message::ReplicaId {
        replica_id(self)
    }
}

impl<'a> Item<'a, message::Replicate<'a>> for ArchivedSection {
    fn plain(&'a self, payload: &'a [u8]) -> message::Replicate<'a> {
        let start = self.payload_start.to_native() as usize;
        message::Replicate {
            partition: PartitionId(self.partition.to_native()),
            to: replica_id(&self.to),
            from: leader_id(&self.from),
            term: Term(self.term.to_native()),
            first: Offset(self.first.to_native()),
            prev_term: Term(self.prev_term.to_native()),
            count: self.count.to_native(),
            high_watermark: Offset(self.high_watermark.to_native()),
            probe: Instant(self.probe_ns.to_native()),
            answered: Instant(0),
            age_ms: message::AGE_UNKNOWN,
            records: &payload[start..start + self.payload_len.to_native() as usize],
        }
    }
}

impl<'a> Item<'a, message::Ack> for ArchivedAck {
    fn plain(&'a self, _payload: &'a [u8]) -> message::Ack {
        let (end, term) = (Offset(self.end.to_native()), Term(self.state_term.to_native()));
        message::Ack {
            partition: PartitionId(self.partition.to_native()),
            from: leader_id(&self.from),
            to: replica_id(&self.to),
            term: Term(self.term.to_native()),
            state: match self.state.to_native() {
                ack_state::FLUSHED => AckState::Flushed { end },
                ack_state::MISMATCH => AckState::Mismatch { end, term },
                ack_state::PROMISED => AckState::Promised { term },
                state => unreachable!("state {state} of an ack that was checked"),
            },
            probe: Instant(self.probe_ns.to_native()),
        }
    }
}

impl<'a> Item<'a, message::Fence> for ArchivedFence {
    fn plain(&'a self, _payload: &'a [u8]) -> message::Fence {
        message::Fence {
            partition: PartitionId(self.partition.to_native()),
            to: replica_id(&self.to),
            term: Term(self.term.to_native()),
        }
    }
}

impl<'a> Item<'a, message::FenceAnswer> for ArchivedFenceAnswer {
    fn plain(&'a self, _payload: &'a [u8]) -> message::FenceAnswer {
        message::FenceAnswer {
            partition: PartitionId(self.partition.to_native()),
            from: leader_id(&self.from),
            term: Term(self.term.to_native()),
            last_term: Term(self.last_term.to_native()),
            log_end: Offset(self.log_end.to_native()),
            lease_left_ns: self.lease_left_ns.to_native(),
        }
    }
}

impl<'a> Item<'a, message::Ask<'a>> for ArchivedAsk {
    fn plain(&'a self, payload: &'a [u8]) -> message::Ask<'a> {
        let partition = PartitionId(self.partition.to_native());
        let term = Term(self.term.to_native());
        match self.kind.to_native() {
            ask_kind::VOTERS => message::Ask::Voters {
                partition,
                term,
                from: replica_id(&self.from.replica),
                base: self.base.to_native(),
                voters: Replicas::v1(self.voters.as_slice(), payload),
            },
            ask_kind::TRANSFER => message::Ask::Transfer {
                partition,
                term,
                from: replica_id(&self.from.replica),
                to: leader_id(&self.to),
            },
            ask_kind::ELECTION => {
                message::Ask::Election { partition, term, from: leader_id(&self.from) }
            }
            ask_kind::RENEW => message::Ask::Renew {
                partition,
                replica: replica_id(&self.from.replica),
                renewal: self.base.to_native(),
            },
            kind => unreachable!("kind {kind} of a request that was checked"),
        }
    }
}

fn read_raft<'a>(frame: &Frame<'a>) -> Result<message::Raft<'a>, PeerError> {
    let raft: &ArchivedRaft = plain(frame)?;
    let field = |error| PeerError::Field { kind: frame.header.kind, error };
    zero("reserved", raft.reserved.to_native().into()).map_err(field)?;
    let half = match raft.half.to_native() {
        half::REQUEST => Half::Request,
        half::ANSWER => Half::Answer,
        half => return Err(field(unknown("half", half))),
    };
    Ok(message::Raft { call: raft.call.to_native(), half, payload: frame.payload })
}

fn read_forward<'a>(frame: &Frame<'a>) -> Result<message::Forward<'a>, PeerError> {
    let forward: &ArchivedForward = plain(frame)?;
    let field = |error| PeerError::Field { kind: frame.header.kind, error };
    zero("reserved", forward.reserved.to_native().into()).map_err(field)?;
    let deadline_ms = forward.deadline_ms.to_native();
    let rule = "must be what is left, and something is";
    require(deadline_ms > 0, BodyError::Invalid { field: "deadline_ms", rule }).map_err(field)?;
    let header = ClientHeader {
        version: forward.version,
        opcode: forward.opcode,
        status: forward.status.to_native(),
        correlation: forward.correlation.to_native(),
        body_len: frame.payload.len() as u32,
        deadline_ms,
        body_crc: forward.body_crc.to_native(),
    };
    Ok(message::Forward { call: forward.call.to_native(), header, body: frame.payload })
}

fn read_forward_answer<'a>(frame: &Frame<'a>) -> Result<message::ForwardAnswer<'a>, PeerError> {
    let answer: &ArchivedForwardAnswer = plain(frame)?;
    let header = ClientHeader {
        version: answer.version,
        opcode: answer.opcode,
        status: answer.status.to_native(),
        correlation: 0,
        body_len: frame.payload.len() as u32,
        deadline_ms: 0,
        body_crc: answer.body_crc.to_native(),
    };
    Ok(message::ForwardAnswer { call: answer.call.to_native(), header, body: frame.payload })
}

fn read_snapshot_begin(frame: &Frame<'_>) -> Result<message::SnapshotBegin, PeerError> {
    let begin: &ArchivedSnapshotBegin = plain(frame)?;
    let field = |error| PeerError::Field { kind: frame.header.kind, error };
    zero("reserved", begin.reserved.to_native().into()).map_err(field)?;
    let (start, end) = (begin.start.to_native(), begin.end.to_native());
    let rule = "must not be before start";
    require(start <= end, BodyError::Invalid { field: "end", rule }).map_err(field)?;
    Ok(message::SnapshotBegin {
        transfer: begin.transfer.to_native(),
        partition: PartitionId(begin.partition.to_native()),
        to: replica_id(&begin.to),
        from: leader_id(&begin.from),
        term: Term(begin.term.to_native()),
        start: Offset(start),
        end: Offset(end),
        end_term: Term(begin.end_term.to_native()),
        total_bytes: begin.total_bytes.to_native(),
    })
}

fn read_snapshot_piece<'a>(frame: &Frame<'a>) -> Result<message::SnapshotPiece<'a>, PeerError> {
    let piece: &ArchivedSnapshotPiece = plain(frame)?;
    let last = match piece.last.to_native() {
        0 => false,
        1 => true,
        last => {
            let error = unknown("last", last);
            return Err(PeerError::Field { kind: frame.header.kind, error });
        }
    };
    let (transfer, number) = (piece.transfer.to_native(), piece.number.to_native());
    Ok(message::SnapshotPiece { transfer, number, last, payload: frame.payload })
}

fn read_snapshot_answer(frame: &Frame<'_>) -> Result<message::SnapshotAnswer, PeerError> {
    let answer: &ArchivedSnapshotAnswer = plain(frame)?;
    let field = |error| PeerError::Field { kind: frame.header.kind, error };
    let value = answer.value.to_native();
    let state = match answer.state.to_native() {
        snapshot_state::RESUME => SnapshotState::Resume { number: value },
        snapshot_state::COMPLETE => {
            zero("value", value.into()).map_err(field)?;
            SnapshotState::Complete
        }
        snapshot_state::REFUSED => SnapshotState::Refused(
            SnapshotRefusal::from_u32(value).ok_or_else(|| field(unknown("reason", value)))?,
        ),
        state => return Err(field(unknown("state", state))),
    };
    Ok(message::SnapshotAnswer { transfer: answer.transfer.to_native(), state })
}

fn ping(ping: &ArchivedPing) -> message::Ping {
    message::Ping {
        sent: Instant(ping.sent_ns.to_native()),
        wall: WallTime(ping.wall_ms.to_native()),
    }
}

fn read_goodbye(frame: &Frame<'_>) -> Result<GoodbyeReason, PeerError> {
    let goodbye: &ArchivedGoodbye = plain(frame)?;
    let field = |error| PeerError::Field { kind: frame.header.kind, error };
    zero("reserved", goodbye.reserved.to_native().into()).map_err(field)?;
    let reason = goodbye.reason.to_native();
    GoodbyeReason::from_u32(reason).ok_or_else(|| field(unknown("reason", reason)))
}
