//! Frames on their way to a node, built where they are sent from.
//!
//! - The buffer is aligned and frames are multiples of [`ALIGN`] long, so rkyv archives straight into
//!   it. Records are copied once, from their owner into the payload; they move only when it grows.
//! - Frames are sent in the order in which they are finished, and numbered then.
//! - What is built is read back with the receiver's own checks before it may go: this side never
//!   sends what the other would end the connection for.
//! - A payload is sent only when the other side's credits cover it, and uses them up.
//! - Bounded: a frame with a payload is begun only while less than `bytes_max` is queued, one without
//!   while less than [`CONTROL_BYTES_MAX`] more is. So at most one frame goes beyond.
//! - Messages of the metadata group are queued like those without a payload, and have credits that no
//!   other payload uses up: a replica that catches up takes all there is, for as long as it lasts, and
//!   the group's signs of life go by the same connection.

use std::fmt;

use rkyv::ser::allocator::Arena;
use rkyv::util::AlignedVec;

use ironring_core::checksum::crc32c;

use super::error::{OutputError, PeerError};
use super::frame::{ALIGN, Frame, HANDSHAKE_VERSION, HEADER_BYTES, Header, Kind, padded};
use super::hello::Handshake;
use super::input::KEEP_BYTES;
use super::message::{ASKS_MAX, Message, Replicate, SECTIONS_MAX};
use super::{v1, v2};
use crate::error::BodyError;

/// What frames without a payload may queue beyond `bytes_max`: acks, credits and signs of life are
/// what makes the other side take what waits.
pub const CONTROL_BYTES_MAX: usize = 1 << 20;

/// Credits that are kept for messages of the metadata group, where [`GROUP_SHARE`] times as many are
/// given: with fewer, one large payload may need them all.
pub const GROUP_CREDITS: u64 = 256 << 10;
/// See [`GROUP_CREDITS`].
pub const GROUP_SHARE: u64 = 8;

/// Bytes to be written, aligned; what [`Output::take`] gives.
pub type Buffer = AlignedVec<ALIGN>;

/// Where messages are given and bytes to write are taken from.
pub struct Output {
    /// Whole frames, but for one that is being built; the part before `sent` is written already.
    buffer: Buffer,
    sent: usize,
    /// Bytes taken with [`Output::take`] and not yet written.
    taken: usize,
    bytes_max: usize,
    version: u16,
    /// Of the next frame.
    sequence: u64,
    /// Payload bytes the other side still takes.
    credits: u64,
    /// Of them, those for the metadata group.
    reserved: u64,
    /// Of the frame being built; kept for its memory.
    sections: Vec<v2::Section>,
    arena: Arena,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("queued_bytes", &self.queued_bytes())
            .field("version", &self.version)
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

impl Output {
    /// Of a new connection, of which about `bytes_max` may wait to be written.
    #[must_use]
    pub fn new(bytes_max: usize) -> Output {
        Output {
            buffer: Buffer::new(),
            sent: 0,
            taken: 0,
            bytes_max,
            version: HANDSHAKE_VERSION,
            sequence: 0,
            credits: 0,
            reserved: 0,
            sections: Vec::new(),
            arena: Arena::new(),
        }
    }

    /// From the next frame on the connection speaks `version`, one of [`super::VERSIONS`]. `credits`
    /// is what `Welcome` gave, 0 on the side that accepted.
    pub fn agree(&mut self, version: u16, credits: u64) {
        assert!(self.version == HANDSHAKE_VERSION, "a connection keeps its version");
        assert!((super::VERSIONS.0..=super::VERSIONS.1).contains(&version), "version {version}");
        self.version = version;
        self.credits = credits;
        self.reserved = if credits >= GROUP_SHARE * GROUP_CREDITS { GROUP_CREDITS } else { 0 };
    }

    /// The other side sent `Credits` of so many bytes.
    pub fn credit(&mut self, bytes: u64) {
        self.credits = self.credits.saturating_add(bytes);
    }

    /// Payload bytes the other side still takes.
    #[must_use]
    pub fn credits(&self) -> u64 {
        self.credits
    }

    /// Queues a frame of the handshake.
    ///
    /// # Errors
    /// [`OutputError`]; nothing is queued then.
    pub fn handshake(&mut self, handshake: &Handshake<'_>) -> Result<(), OutputError> {
        assert!(self.version == HANDSHAKE_VERSION, "the handshake is over");
        let payload = handshake.encode()?;
        let kind = handshake.kind();
        let start = self.begin(kind)?;
        self.buffer.extend_from_slice(&payload);
        self.seal(start, kind, payload.len(), |_| {})
    }

    /// Queues a message.
    ///
    /// # Errors
    /// [`OutputError`]; nothing is queued then.
    pub fn send(&mut self, message: &Message<'_>) -> Result<(), OutputError> {
        let (len, max, payload) = match message {
            Message::Replicate(sections) => {
                let mut frame = self.replicate()?;
                for section in sections.iter() {
                    frame.push(&section, [])?;
                }
                return frame.finish();
            }
            Message::Acks(acks) => (acks.len(), SECTIONS_MAX, &[][..]),
            Message::Fences(fences) => (fences.len(), SECTIONS_MAX, &[][..]),
            Message::FenceAnswers(answers) => (answers.len(), SECTIONS_MAX, &[][..]),
            Message::Asks(asks) => (asks.len(), ASKS_MAX, &[][..]),
            Message::Raft(raft) => (1, 1, raft.payload),
            Message::Forward(forward) => (1, 1, forward.body),
            Message::ForwardAnswer(answer) => (1, 1, answer.body),
            Message::SnapshotPiece(piece) => (1, 1, piece.payload),
            Message::Compare(compare) => (1, 1, compare.range),
            Message::Fetch(fetch) => (1, 1, fetch.wants),
            Message::Fetched(fetched) => (1, 1, fetched.records),
            _ => (1, 1, &[][..]),
        };
        let kind = message.kind();
        if kind.since() > self.version {
            let (version, kind) = (self.version, kind as u8);
            return Err(PeerError::UnknownKind { version, kind }.into());
        }
        if len > max {
            let error = BodyError::TooLarge { field: "list", len: len as u64, max: max as u64 };
            return Err(PeerError::Field { kind, error }.into());
        }
        let max = kind.payload_bytes_max();
        if payload.len() > max as usize {
            let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
            return Err(PeerError::TooLarge { kind, part: "payload", len, max }.into());
        }
        self.covers(kind, payload.len())?;
        let start = self.begin(kind)?;
        self.buffer.extend_from_slice(payload);
        self.seal(start, kind, payload.len(), |output| match output.version {
            1 => v1::write(message, &mut output.buffer, &mut output.arena),
            2 => v2::write(message, &mut output.buffer, &mut output.arena),
            version => unreachable!("version {version} was not agreed on"),
        })
    }

    /// Begins a frame of sections. It is queued when it is finished, and gone when it is dropped.
    ///
    /// # Errors
    /// [`OutputError::Full`].
    pub fn replicate(&mut self) -> Result<ReplicateFrame<'_>, OutputError> {
        let start = self.begin(Kind::Replicate)?;
        self.sections.clear();
        Ok(ReplicateFrame { output: self, start, sealed: false })
    }

    /// Credits for payloads of a kind.
    fn credits_for(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Raft => self.credits,
            _ => self.credits.saturating_sub(self.reserved),
        }
    }

    /// Whether the credits are enough for a payload of `need` bytes.
    fn covers(&self, kind: Kind, need: usize) -> Result<(), OutputError> {
        let left = self.credits_for(kind);
        match need as u64 <= left || need == 0 {
            true => Ok(()),
            false => Err(OutputError::NoCredit { need, left }),
        }
    }

    /// Leaves room for a header and returns where.
    fn begin(&mut self, kind: Kind) -> Result<usize, OutputError> {
        assert!(
            kind.is_handshake() == (self.version == HANDSHAKE_VERSION),
            "messages follow the handshake"
        );
        let first = kind.payload_bytes_max() == 0 || kind == Kind::Raft;
        let max = self.bytes_max + if first { CONTROL_BYTES_MAX } else { 0 };
        let queued = self.queued_bytes();
        if queued >= max {
            return Err(OutputError::Full { queued, max });
        }
        let start = self.buffer.len();
        assert!(start.is_multiple_of(ALIGN), "frames end on a boundary");
        self.buffer.resize(start + HEADER_BYTES, 0);
        Ok(start)
    }

    /// Writes the body behind a payload of `payload_len` bytes, and the header in front of it.
    fn seal(
        &mut self,
        start: usize,
        kind: Kind,
        payload_len: usize,
        body: impl FnOnce(&mut Output),
    ) -> Result<(), OutputError> {
        let payload_at = start + HEADER_BYTES;
        let body_at = payload_at + padded(payload_len);
        self.buffer.resize(body_at, 0);
        body(self);
        let body_end = self.buffer.len();
        self.buffer.resize(padded(body_end), 0);
        let header = Header {
            version: self.version,
            kind,
            body_len: (body_end - body_at) as u32,
            payload_len: payload_len as u32,
            sequence: self.sequence,
            content_crc: crc32c(&self.buffer[payload_at..]),
        };
        self.buffer[start..payload_at].copy_from_slice(&header.encode());
        let payload = &self.buffer[payload_at..payload_at + payload_len];
        let frame = Frame { header, payload, body: &self.buffer[body_at..body_end] };
        let checked = if kind.is_handshake() {
            frame.handshake().map(drop)
        } else {
            frame.message().map(drop)
        };
        if let Err(error) = checked {
            self.buffer.resize(start, 0);
            return Err(error.into());
        }
        self.sequence += 1;
        if !kind.is_handshake() {
            let left = self.credits.checked_sub(payload_len as u64);
            self.credits = left.expect("covered before it was taken");
        }
        Ok(())
    }

    /// The bytes to write, oldest first. Not while bytes taken with [`Output::take`] are under way.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        assert!(self.taken == 0, "the bytes taken before are written first");
        &self.buffer[self.sent..]
    }

    /// Takes everything to write and leaves `spare` (emptied) to collect what comes meanwhile, for
    /// drivers that cannot hold a borrow while they write. Not while bytes taken before are under
    /// way. What was taken counts as queued until [`Output::sent`].
    pub fn take(&mut self, mut spare: Buffer) -> Buffer {
        assert!(self.taken == 0, "the bytes taken before are written first");
        assert!(self.sent == 0, "either bytes or take, not both at once");
        spare.clear();
        let taken = std::mem::replace(&mut self.buffer, spare);
        self.taken = taken.len();
        taken
    }

    /// `len` more bytes were written to the socket.
    pub fn sent(&mut self, len: usize) {
        assert!(len <= self.queued_bytes(), "more bytes written than there were");
        if self.taken > 0 {
            self.taken = self.taken.checked_sub(len).expect("only taken bytes are written");
            return;
        }
        self.sent += len;
        if self.sent == self.buffer.len() {
            self.buffer.clear();
            self.sent = 0;
        } else if self.sent >= KEEP_BYTES.max(self.buffer.len() / 2) {
            // Moves at most as many bytes as were written since the last move. Frames stay on their
            // boundaries: what is left of the first boundary written moves with them.
            let moved = self.sent - self.sent % ALIGN;
            let len = self.buffer.len() - moved;
            self.buffer.copy_within(moved.., 0);
            self.buffer.resize(len, 0);
            self.sent -= moved;
        }
    }

    /// Frees the memory of a connection that has nothing to write.
    pub fn release(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = Buffer::new();
            self.sections = Vec::new();
            self.arena = Arena::new();
        }
    }

    /// Bytes of whole frames that the socket has not taken yet.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.taken + self.buffer.len() - self.sent
    }

    /// Payload bytes of replication it takes now: what the other side's credits cover and the queue has
    /// room for.
    #[must_use]
    pub fn room(&self) -> usize {
        let credits = self.credits_for(Kind::Replicate);
        let credits = usize::try_from(credits).unwrap_or(usize::MAX);
        credits.min(self.bytes_max.saturating_sub(self.queued_bytes()))
    }

    /// Memory it has.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.buffer.capacity() + self.sections.capacity() * size_of::<v2::Section>()
    }
}

/// A frame of sections that is being built, each with the bytes of its records.
#[derive(Debug)]
pub struct ReplicateFrame<'a> {
    output: &'a mut Output,
    start: usize,
    sealed: bool,
}

impl ReplicateFrame<'_> {
    /// Adds a section. Its records are those of `section` and then those of `more`: entries of one
    /// partition lie scattered in a shard's log.
    ///
    /// # Errors
    /// [`OutputError::FrameFull`]: finish this frame and put the section into the next;
    /// [`OutputError::NoCredit`]: finish it and wait for credits. The frame is as it was.
    pub fn push<'r>(
        &mut self,
        section: &Replicate<'r>,
        more: impl IntoIterator<Item = &'r [u8]>,
    ) -> Result<(), OutputError> {
        if self.output.sections.len() == SECTIONS_MAX {
            return Err(OutputError::FrameFull { what: "another section" });
        }
        let before = self.output.buffer.len();
        for records in std::iter::once(section.records).chain(more) {
            let need = self.payload_len() + records.len();
            let covered = self.output.covers(Kind::Replicate, need);
            if need > Kind::Replicate.payload_bytes_max() as usize || covered.is_err() {
                self.output.buffer.resize(before, 0);
                return covered.and(Err(OutputError::FrameFull { what: "the section's records" }));
            }
            self.output.buffer.extend_from_slice(records);
        }
        let at = before - self.start - HEADER_BYTES;
        let len = self.output.buffer.len() - before;
        self.output.sections.push(v2::section(section, at as u32, len as u32));
        Ok(())
    }

    /// Payload bytes it still takes: what the frame has room for, or less when credits run out.
    #[must_use]
    pub fn room(&self) -> usize {
        let credits = self.output.credits_for(Kind::Replicate);
        let max = u64::from(Kind::Replicate.payload_bytes_max()).min(credits);
        max as usize - self.payload_len()
    }

    fn payload_len(&self) -> usize {
        self.output.buffer.len() - self.start - HEADER_BYTES
    }

    /// Sections it has.
    #[must_use]
    pub fn sections(&self) -> usize {
        self.output.sections.len()
    }

    /// Queues the frame. Without a section there is none, and nothing is queued.
    ///
    /// # Errors
    /// [`OutputError::Message`] when a section is not one that a peer would take.
    pub fn finish(mut self) -> Result<(), OutputError> {
        if self.output.sections.is_empty() {
            return Ok(());
        }
        let payload_len = self.payload_len();
        self.sealed = true;
        self.output.seal(self.start, Kind::Replicate, payload_len, |output| match output.version {
            1 => {
                let heads = output.sections.drain(..).map(|section| section.head).collect();
                v1::write_sections(&heads, &mut output.buffer, &mut output.arena);
            }
            2 => v2::write_sections(&output.sections, &mut output.buffer, &mut output.arena),
            version => unreachable!("version {version} was not agreed on"),
        })
    }
}

impl Drop for ReplicateFrame<'_> {
    fn drop(&mut self) {
        if !self.sealed {
            self.output.buffer.resize(self.start, 0);
        }
    }
}
