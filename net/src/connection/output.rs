//! Answers on their way to the peer, and how much is in flight.

use ironring_core::limits::FRAME_BODY_BYTES_MAX;
use ironring_core::{ErrorCode, Instant};

use crate::codec::encode_response;
use crate::error::RequestError;
use crate::frame::{HEADER_BYTES, Opcode, decode_header, reserve};
use crate::input::{KEEP_BUSY_BYTES, KEEP_BYTES, SMALL_IN_A_ROW};
use crate::message::Response;

/// What may wait beyond the maximum: the one answer with data that crosses it, and 1 MiB of answers
/// without data.
const BEYOND_BYTES_MAX: usize = HEADER_BYTES + FRAME_BODY_BYTES_MAX + (1 << 20);
/// What a client is told to wait when its answers pile up.
const RETRY_AFTER_MS: u64 = 100;

/// Where answers are given and bytes to write are taken from.
#[derive(Debug)]
pub struct Output {
    /// Encoded frames; the part before `sent` is written already.
    buffer: Vec<u8>,
    sent: usize,
    /// Bytes the driver took with [`Output::take`] and has not yet written.
    taken: usize,
    bytes_max: usize,
    in_flight: u32,
    last_progress: Instant,
    /// Times in a row that everything was sent and had been little.
    small_in_a_row: u32,
    overflowed: bool,
    discarding: bool,
}

impl Output {
    pub(super) fn new(bytes_max: usize, now: Instant) -> Output {
        Output {
            buffer: Vec::new(),
            sent: 0,
            taken: 0,
            bytes_max,
            in_flight: 0,
            last_progress: now,
            small_in_a_row: 0,
            overflowed: false,
            discarding: false,
        }
    }

    /// Answers one of the frames that were yielded. Panics when more are answered than yielded.
    ///
    /// Data the peer does not take is not piled up without end: beyond `output_bytes_max` an answer
    /// that carries data is replaced by `overloaded`. A receipt never is: the write took place.
    pub fn respond(&mut self, now: Instant, correlation: u64, response: &Response<'_>) {
        self.answers_one(now);
        if carries_data(response) && self.pending_bytes() >= self.bytes_max {
            self.answer_overloaded(correlation);
        } else {
            self.answer(correlation, response);
        }
    }

    fn answers_one(&mut self, now: Instant) {
        self.in_flight = self.in_flight.checked_sub(1).expect("one answer for each frame yielded");
        // The peer cannot have taken what it was not given: its time begins now.
        if self.pending_bytes() == 0 {
            self.last_progress = self.last_progress.max(now);
        }
    }

    fn answer_overloaded(&mut self, correlation: u64) {
        let message = "the answers to this connection are not being read";
        let code = ErrorCode::Overloaded;
        self.answer(correlation, &Response::Error { code, detail: RETRY_AFTER_MS, message });
    }

    /// Like [`Output::respond`], for an answer that was encoded elsewhere: `frame` is one whole frame.
    /// `bytes_max` goes before the connection's own maximum where it is less, for a driver whose
    /// connections together take too much.
    pub fn respond_frame(&mut self, now: Instant, frame: &[u8], bytes_max: usize) {
        let header = decode_header(frame).expect("a frame this program encoded");
        let data = Opcode::from_u8(header.opcode).is_some_and(opcode_carries_data);
        self.answers_one(now);
        if data && self.pending_bytes() >= self.bytes_max.min(bytes_max) {
            return self.answer_overloaded(header.correlation);
        }
        if self.discarding || self.overflowed {
            return;
        }
        reserve(&mut self.buffer, frame.len());
        self.buffer.extend_from_slice(frame);
        if self.pending_bytes() > self.bytes_max + BEYOND_BYTES_MAX {
            self.overflowed = true;
            self.discard();
        }
    }

    /// Answers a yielded frame that could not be decoded.
    pub fn refuse(&mut self, now: Instant, correlation: u64, error: &RequestError) {
        let (code, message) = (error.code(), error.to_string());
        self.respond(now, correlation, &Response::Error { code, detail: 0, message: &message });
    }

    /// An answer of the connection itself: no yielded frame is waiting for it.
    pub(super) fn answer(&mut self, correlation: u64, response: &Response<'_>) {
        if self.discarding || self.overflowed {
            return;
        }
        encode_response(&mut self.buffer, correlation, response);
        if self.pending_bytes() > self.bytes_max + BEYOND_BYTES_MAX {
            self.overflowed = true;
            self.discard();
        }
    }

    pub(super) fn answer_error(&mut self, correlation: u64, code: ErrorCode, message: &str) {
        self.answer(correlation, &Response::Error { code, detail: 0, message });
    }

    /// The bytes to write, oldest first. Not while bytes taken with [`Output::take`] are under way.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        assert!(self.taken == 0, "the bytes taken before are written first");
        &self.buffer[self.sent..]
    }

    /// Takes everything to write and leaves `spare` (emptied) to collect what comes meanwhile, for
    /// drivers that cannot hold a borrow while they write. Not while bytes taken before are under
    /// way. What was taken counts as pending until [`Output::sent`].
    pub fn take(&mut self, mut spare: Vec<u8>) -> Vec<u8> {
        assert!(self.taken == 0, "the bytes taken before are written first");
        assert!(self.sent == 0, "either bytes or take, not both at once");
        spare.clear();
        let taken = std::mem::replace(&mut self.buffer, spare);
        self.taken = taken.len();
        taken
    }

    /// `len` more bytes were written to the socket.
    pub fn sent(&mut self, now: Instant, len: usize) {
        assert!(len <= self.pending_bytes(), "more bytes written than there were");
        if len > 0 {
            self.progressed(now);
        }
        if self.taken > 0 {
            self.taken = self.taken.checked_sub(len).expect("only taken bytes are written");
            return;
        }
        self.sent += len;
        if self.sent == self.buffer.len() {
            let small = self.buffer.len() <= KEEP_BYTES;
            self.small_in_a_row = if small { self.small_in_a_row.saturating_add(1) } else { 0 };
            self.buffer.clear();
            self.sent = 0;
            // As for input: what is needed again at once is not given back.
            if self.buffer.capacity() > KEEP_BUSY_BYTES || self.small_in_a_row >= SMALL_IN_A_ROW {
                self.buffer.shrink_to(KEEP_BYTES);
            }
        } else if self.sent >= KEEP_BYTES.max(self.buffer.len() / 2) {
            // Moves at most as many bytes as were written since the last move.
            self.buffer.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Bytes of answers the socket has not taken yet.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.taken + self.buffer.len() - self.sent
    }

    /// Frames yielded and not yet answered.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    pub(super) fn frame_yielded(&mut self) {
        self.in_flight += 1;
    }

    pub(super) fn progressed(&mut self, now: Instant) {
        self.last_progress = self.last_progress.max(now);
    }

    /// When the peer last sent or took something, or was first given something to take.
    #[must_use]
    pub fn last_progress(&self) -> Instant {
        self.last_progress
    }

    pub(super) fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// Whether every answer still to come is dropped.
    #[must_use]
    pub fn is_discarding(&self) -> bool {
        self.discarding
    }

    /// Drops what waits, and every answer still to come.
    pub(super) fn discard(&mut self) {
        self.discarding = true;
        (self.buffer, self.sent) = (Vec::new(), 0);
    }

    pub(super) fn memory(&self) -> usize {
        self.buffer.capacity()
    }

    pub(super) fn release(&mut self, keep: usize) {
        if self.buffer.capacity() > keep && self.buffer.is_empty() {
            self.buffer = Vec::new();
        }
    }
}

/// Answers to reads: the client can ask again, and loses nothing but time.
fn carries_data(response: &Response<'_>) -> bool {
    matches!(
        response,
        Response::Value(_)
            | Response::Values(_)
            | Response::Page { .. }
            | Response::Records { .. }
            | Response::Stats(_)
            | Response::Topics(_)
            | Response::ClusterMap(_)
    )
}

/// The same for an encoded answer.
fn opcode_carries_data(opcode: Opcode) -> bool {
    matches!(
        opcode,
        Opcode::Value
            | Opcode::Values
            | Opcode::Page
            | Opcode::Records
            | Opcode::StatsText
            | Opcode::Topics
            | Opcode::Map
    )
}
