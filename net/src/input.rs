//! Bytes received and not yet handled, on either side: frames are handed out where they lie.

use crate::error::FrameError;
use crate::frame::{HEADER_BYTES, Header, MAGIC, decode_header};

/// Most bytes taken from a socket at once.
pub const RECEIVE_BYTES_MAX: usize = 64 << 10;

/// Memory a connection keeps between small frames.
pub(crate) const KEEP_BYTES: usize = 64 << 10;
/// More than this is given back as soon as the large frame that needed it is gone. What lies between
/// is kept until [`SMALL_IN_A_ROW`] frames did not need it: frames a little over [`KEEP_BYTES`], one
/// after the other, would otherwise allocate each time (48 us instead of 8 for 64 KiB).
pub(crate) const KEEP_BUSY_BYTES: usize = 1 << 20;
/// How many.
pub(crate) const SMALL_IN_A_ROW: u32 = 16;

/// Received bytes are `buffer[start..end]`; what is before is handled, what is after is free.
#[derive(Debug, Default)]
pub(crate) struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Header of the frame at `start`, once it was read.
    header: Option<Header>,
    /// Frames taken since the last that did not fit [`KEEP_BYTES`].
    small_frames: u32,
}

impl Input {
    pub(crate) fn buffered(&self) -> usize {
        self.end - self.start
    }

    /// The header of the frame at the front when all of it is here. `body_max` is the largest body
    /// that is taken.
    pub(crate) fn peek(&mut self, body_max: u32) -> Result<Option<Header>, FrameError> {
        let bytes = &self.buffer[self.start..self.end];
        let header = match self.header {
            Some(header) => header,
            None => {
                // Tell a stranger before it has sent a header's worth of something else.
                if let Some(got) = bytes.first_chunk::<4>().filter(|got| **got != MAGIC) {
                    return Err(FrameError::BadMagic { got: *got });
                }
                if bytes.len() < HEADER_BYTES {
                    return Ok(None);
                }
                let header = decode_header(bytes)?;
                if header.body_len > body_max {
                    return Err(FrameError::BodyTooLong {
                        len: header.body_len,
                        max: body_max,
                        correlation: header.correlation,
                    });
                }
                *self.header.insert(header)
            }
        };
        Ok((bytes.len() >= header.frame_bytes()).then_some(header))
    }

    /// How long the frame at the front is, once `peek` has seen its header.
    fn front_bytes(&self) -> Option<usize> {
        self.header.map(|header| header.frame_bytes())
    }

    /// Memory the frame at the front needs beyond what a connection may always have; 0 while that
    /// is not known, or enough.
    pub(crate) fn large_frame_bytes(&self) -> usize {
        match self.front_bytes() {
            Some(bytes) if bytes > KEEP_BYTES => bytes + RECEIVE_BYTES_MAX,
            _ => 0,
        }
    }

    /// Memory it has.
    pub(crate) fn memory(&self) -> usize {
        self.buffer.capacity()
    }

    /// Takes the frame that `peek` reported and returns its body.
    pub(crate) fn take_body(&mut self, header: &Header) -> &[u8] {
        let body = self.start + HEADER_BYTES..self.start + header.frame_bytes();
        assert!(body.end <= self.end, "peek reports whole frames only");
        self.header = None;
        self.start = body.end;
        let small = header.frame_bytes() <= KEEP_BYTES;
        self.small_frames = if small { self.small_frames.saturating_add(1) } else { 0 };
        &self.buffer[body]
    }

    /// Free memory of at least `len` bytes behind what was received. Moves an incomplete frame to
    /// the front when there is no room behind it; grows no faster than bytes arrive.
    pub(crate) fn space(&mut self, len: usize, body_max: u32) -> &mut [u8] {
        let bound = HEADER_BYTES + body_max as usize + RECEIVE_BYTES_MAX;
        assert!(self.buffered() <= bound, "frames are taken before more is received");
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.buffer.len() - self.end < len || self.buffer.len() > KEEP_BYTES {
            self.compact(len);
        }
        if self.buffer.len() - self.end < len {
            let ceiling = self.front_bytes().unwrap_or(bound) + RECEIVE_BYTES_MAX;
            let grown = (2 * self.buffer.len()).min(ceiling).max(self.end + len);
            self.buffer.reserve_exact(grown - self.buffer.len());
            self.buffer.resize(grown, 0);
        }
        &mut self.buffer[self.end..]
    }

    /// Moves what is buffered to the front, and gives memory back once a large frame is gone.
    fn compact(&mut self, len: usize) {
        let small_enough = self.buffered() + len <= KEEP_BYTES;
        let needs_room = self.buffer.len() - self.end < len;
        let unneeded = self.buffer.len() > KEEP_BUSY_BYTES || self.small_frames >= SMALL_IN_A_ROW;
        let shrinks = small_enough && unneeded && self.buffer.len() > KEEP_BYTES;
        if self.start > 0 && (needs_room || shrinks) {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if shrinks && self.header.is_none_or(|header| header.frame_bytes() <= KEEP_BYTES) {
            self.buffer.truncate(KEEP_BYTES);
            self.buffer.shrink_to(KEEP_BYTES);
        }
    }

    /// `len` bytes were written to the front of `space`.
    pub(crate) fn filled(&mut self, len: usize) {
        assert!(len <= self.buffer.len() - self.end, "more bytes than there was space for");
        self.end += len;
    }

    /// Frees what is not needed for the bytes that are here, when it is more than `keep`.
    pub(crate) fn release(&mut self, keep: usize) {
        if self.buffer.capacity() <= keep || self.large_frame_bytes() > 0 {
            return;
        }
        if self.start == self.end {
            *self = Input { header: self.header, ..Input::default() };
        } else if self.buffered() <= KEEP_BYTES && self.buffer.capacity() > KEEP_BYTES {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            self.buffer.truncate(KEEP_BYTES);
            self.buffer.shrink_to(KEEP_BYTES);
        }
    }
}
