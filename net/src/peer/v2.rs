//! Version 2: what version 1 has, sections that say how old what their leader knows may be, the
//! comparison of replicas, and single records for a leader. **Frozen**, as `v1` is and by the same
//! rules.

use ironring_core::{Instant, Offset, PartitionId, Term, WallTime};
use rkyv::ser::allocator::Arena;
use rkyv::util::AlignedVec;

use super::archived::archived;
use super::error::PeerError;
use super::frame::{Frame, Kind, LIST_BODY_BYTES_MAX};
use super::list::Sections;
use super::message::{self, ComparedState, Message, SECTIONS_MAX};
use super::v1::{
    self, ArchivedSection as ArchivedHead, Item, Leader, Replica, Section as Head, leader,
    leader_id, plain, put, replica, replica_id, require, unknown, zero,
};
use crate::error::BodyError;

/// Values of [`Compared::state`].
mod compared_state {
    pub const DIGEST: u32 = 1;
    pub const LATER: u32 = 2;
}

archived! {
    /// An item of `Replicate`: that of version 1, and what makes it known how old it is.
    ArchivedSection Section, 128 {
        head: Head,
        answered_ns: u64,
        age_ms: u32,
        reserved: u32,
    }
    /// The body of `Compare`.
    ArchivedCompare Compare, 96 {
        number: u64,
        partition: u32,
        reserved: u32,
        to: Replica,
        from: Leader,
        term: u64,
        at: u64,
        expires_after_ms: u64,
    }
    /// The body of `Compared`.
    ArchivedCompared Compared, 80 {
        number: u64,
        partition: u32,
        state: u32,
        from: Leader,
        term: u64,
        items: u64,
        bytes: u64,
        hash: u64,
    }
    /// The body of `Diverged`.
    ArchivedDiverged Diverged, 80 {
        number: u64,
        partition: u32,
        reserved: u32,
        to: Replica,
        from: Leader,
        term: u64,
    }
    /// The body of `Fetch`.
    ArchivedFetch Fetch, 80 {
        number: u64,
        partition: u32,
        reserved: u32,
        to: Replica,
        from: Leader,
        term: u64,
    }
    /// The body of `Fetched`.
    ArchivedFetched Fetched, 56 {
        number: u64,
        partition: u32,
        reserved: u32,
        from: Leader,
        term: u64,
    }
}

/// The root of a vector is 8 bytes, as in version 1.
const _: () = assert!(SECTIONS_MAX * 128 + 8 <= LIST_BODY_BYTES_MAX as usize);

/// A section whose records are `payload_len` bytes of the payload from `payload_start` on.
pub fn section(from: &message::Replicate<'_>, payload_start: u32, payload_len: u32) -> Section {
    Section {
        head: v1::section(from, payload_start, payload_len),
        answered_ns: from.answered.0,
        age_ms: from.age_ms,
        reserved: 0,
    }
}

/// Archives the sections of a `Replicate` frame. The vector is borrowed from its owner to be reused.
pub fn write_sections(sections: &Vec<Section>, out: &mut AlignedVec, arena: &mut Arena) {
    put(sections, out, arena);
}

impl<'a> Item<'a, message::Replicate<'a>> for ArchivedSection {
    fn plain(&'a self, payload: &'a [u8]) -> message::Replicate<'a> {
        message::Replicate {
            answered: Instant(self.answered_ns.to_native()),
            age_ms: self.age_ms.to_native(),
            ..self.head.plain(payload)
        }
    }
}

/// Archives the body of `message` at the end of `out`, which is aligned.
pub fn write(message: &Message<'_>, out: &mut AlignedVec, arena: &mut Arena) {
    match message {
        Message::Compare(compare) => {
            let body = Compare {
                number: compare.number,
                partition: compare.partition.0,
                reserved: 0,
                to: replica(compare.to),
                from: leader(compare.from),
                term: compare.term.0,
                at: compare.at.0,
                expires_after_ms: compare.expires_after.0,
            };
            put(&body, out, arena);
        }
        Message::Compared(compared) => {
            let (state, items, bytes, hash) = match compared.state {
                ComparedState::Digest { items, bytes, hash } => {
                    (compared_state::DIGEST, items, bytes, hash)
                }
                ComparedState::Later => (compared_state::LATER, 0, 0, 0),
            };
            let body = Compared {
                number: compared.number,
                partition: compared.partition.0,
                state,
                from: leader(compared.from),
                term: compared.term.0,
                items,
                bytes,
                hash,
            };
            put(&body, out, arena);
        }
        Message::Diverged(diverged) => {
            let body = Diverged {
                number: diverged.number,
                partition: diverged.partition.0,
                reserved: 0,
                to: replica(diverged.to),
                from: leader(diverged.from),
                term: diverged.term.0,
            };
            put(&body, out, arena);
        }
        Message::Fetch(fetch) => {
            let body = Fetch {
                number: fetch.number,
                partition: fetch.partition.0,
                reserved: 0,
                to: replica(fetch.to),
                from: leader(fetch.from),
                term: fetch.term.0,
            };
            put(&body, out, arena);
        }
        Message::Fetched(fetched) => {
            let body = Fetched {
                number: fetched.number,
                partition: fetched.partition.0,
                reserved: 0,
                from: leader(fetched.from),
                term: fetched.term.0,
            };
            put(&body, out, arena);
        }
        other => v1::write(other, out, arena),
    }
}

/// Reads the body of a frame.
pub fn read<'a>(frame: &Frame<'a>) -> Result<Message<'a>, PeerError> {
    Ok(match frame.header.kind {
        Kind::Replicate => {
            let reserved =
                |section: &ArchivedSection| zero("reserved", section.reserved.to_native().into());
            let sections = v1::sections(frame, head_of, reserved)?;
            Message::Replicate(Sections::v2(sections, frame.payload))
        }
        Kind::Compare => Message::Compare(read_compare(frame)?),
        Kind::Compared => Message::Compared(read_compared(frame)?),
        Kind::Diverged => Message::Diverged(read_diverged(frame)?),
        Kind::Fetch => Message::Fetch(read_fetch(frame)?),
        Kind::Fetched => Message::Fetched(read_fetched(frame)?),
        _ => return v1::read(frame),
    })
}

fn head_of(section: &ArchivedSection) -> &ArchivedHead {
    &section.head
}

fn read_compare<'a>(frame: &Frame<'a>) -> Result<message::Compare<'a>, PeerError> {
    let compare: &ArchivedCompare = plain(frame)?;
    let field = |error| PeerError::Field { kind: frame.header.kind, error };
    zero("reserved", compare.reserved.to_native().into()).map_err(field)?;
    let rule = "must not be empty";
    let invalid = BodyError::Invalid { field: "range", rule };
    require(!frame.payload.is_empty(), invalid).map_err(field)?;
    Ok(message::Compare {
        number: compare.number.to_native(),
        partition: PartitionId(compare.partition.to_native()),
        to: replica_id(&compare.to),
        from: leader_id(&compare.from),
        term: Term(compare.term.to_native()),
        at: Offset(compare.at.to_native()),
        expires_after: WallTime(compare.expires_after_ms.to_native()),
        range: frame.payload,
    })
}

fn read_compared(frame: &Frame<'_>) -> Result<message::Compared, PeerError> {
    let compared: &ArchivedCompared = plain(frame)?;
    let field = |error| PeerError::Field { kind: frame.header.kind, error };
    let (items, bytes) = (compared.items.to_native(), compared.bytes.to_native());
    let hash = compared.hash.to_native();
    let state = match compared.state.to_native() {
        compared_state::DIGEST => ComparedState::Digest { items, bytes, hash },
        compared_state::LATER => {
            for (name, value) in [("items", items), ("bytes", bytes), ("hash", hash)] {
                zero(name, value).map_err(field)?;
            }
            ComparedState::Later
        }
        state => return Err(field(unknown("state", state))),
    };
    Ok(message::Compared {
        number: compared.number.to_native(),
        partition: PartitionId(compared.partition.to_native()),
        from: leader_id(&compared.from),
        term: Term(compared.term.to_native()),
        state,
    })
}

fn read_diverged(frame: &Frame<'_>) -> Result<message::Diverged, PeerError> {
    let diverged: &ArchivedDiverged = plain(frame)?;
    let field = |error| PeerError::Field { kind: frame.header.kind, error };
    zero("reserved", diverged.reserved.to_native().into()).map_err(field)?;
    Ok(message::Diverged {
        number: diverged.number.to_native(),
        partition: PartitionId(diverged.partition.to_native()),
        to: replica_id(&diverged.to),
        from: leader_id(&diverged.from),
        term: Term(diverged.term.to_native()),
    })
}

fn read_fetch<'a>(frame: &Frame<'a>) -> Result<message::Fetch<'a>, PeerError> {
    let fetch: &ArchivedFetch = plain(frame)?;
    let field = |error| PeerError::Field { kind: frame.header.kind, error };
    zero("reserved", fetch.reserved.to_native().into()).map_err(field)?;
    let rule = "must not be empty";
    let invalid = BodyError::Invalid { field: "wants", rule };
    require(!frame.payload.is_empty(), invalid).map_err(field)?;
    Ok(message::Fetch {
        number: fetch.number.to_native(),
        partition: PartitionId(fetch.partition.to_native()),
        to: replica_id(&fetch.to),
        from: leader_id(&fetch.from),
        term: Term(fetch.term.to_native()),
        wants: frame.payload,
    })
}

fn read_fetched<'a>(frame: &Frame<'a>) -> Result<message::Fetched<'a>, PeerError> {
    let fetched: &ArchivedFetched = plain(frame)?;
    let field = |error| PeerError::Field { kind: frame.header.kind, error };
    zero("reserved", fetched.reserved.to_native().into()).map_err(field)?;
    Ok(message::Fetched {
        number: fetched.number.to_native(),
        partition: PartitionId(fetched.partition.to_native()),
        from: leader_id(&fetched.from),
        term: Term(fetched.term.to_native()),
        records: frame.payload,
    })
}
