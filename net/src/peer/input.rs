//! Received bytes of one connection, handed out as frames where they lie.
//!
//! - The buffer begins on a boundary of [`ALIGN`] bytes and every frame is a multiple of it long: the
//!   body of a frame that arrived whole is aligned where it arrived, and is never copied.
//! - A frame that does not fit between its start and the end of the buffer moves once, to where all
//!   of it fits. Of a frame whose header is not yet whole at most 31 bytes may move twice.
//! - Memory: one frame of the largest kind and [`KEEP_BYTES`], 4 KiB of payload before a version is
//!   agreed on. It is reserved when a header announces it and touched as bytes arrive.
//! - A frame whose payload is not covered by the credits given to the other side is refused by its
//!   header, before memory is reserved for it.
//! - After an error nothing more comes out of it.

use rkyv::util::AlignedVec;

use super::error::PeerError;
use super::frame::decode_header;
use super::frame::{ALIGN, FRAME_BYTES_MAX, Frame, HANDSHAKE_VERSION, HEADER_BYTES, Header, MAGIC};

/// Memory a connection keeps between small frames, and most bytes taken from a socket at once.
pub const KEEP_BYTES: usize = 64 << 10;
/// A larger buffer is given back when so many frames in a row did not need it.
const SMALL_IN_A_ROW: u32 = 16;

/// Received bytes are `buffer[start..end]`; what is before is handled. The buffer's length is what
/// was ever written to, its capacity what may be.
#[derive(Debug)]
pub struct Input {
    buffer: AlignedVec<ALIGN>,
    start: usize,
    end: usize,
    /// Header of the frame at `start`, once it was read.
    header: Option<Header>,
    version: u16,
    /// Of the next frame.
    sequence: u64,
    /// Payload bytes the other side may still send.
    credits: u64,
    /// Frames since the last that did not fit [`KEEP_BYTES`].
    small_frames: u32,
    failed: Option<PeerError>,
}

impl Default for Input {
    fn default() -> Input {
        Input::new()
    }
}

impl Input {
    /// Of a new connection: it takes frames of the handshake.
    #[must_use]
    pub fn new() -> Input {
        Input {
            buffer: AlignedVec::new(),
            start: 0,
            end: 0,
            header: None,
            version: HANDSHAKE_VERSION,
            sequence: 0,
            credits: 0,
            small_frames: 0,
            failed: None,
        }
    }

    /// From the next frame on the connection speaks `version`. Once, right after the frame of the
    /// handshake that settles it was taken. `credits` is what the other side was given in `Welcome`,
    /// 0 on the side that dialled.
    pub fn agree(&mut self, version: u16, credits: u64) {
        assert!(self.version == HANDSHAKE_VERSION, "a connection keeps its version");
        assert!(self.header.is_none(), "agreed on before the next frame is looked at");
        self.version = version;
        self.credits = credits;
    }

    /// The other side was sent `Credits` of so many bytes.
    pub fn grant(&mut self, bytes: u64) {
        self.credits = self.credits.saturating_add(bytes);
    }

    /// The next frame, if all of it is here. Take frames until there is none before more is received.
    ///
    /// # Errors
    /// [`PeerError`], the same ever after: the connection is of no more use.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, PeerError> {
        match self.take_whole() {
            Ok(None) => Ok(None),
            Ok(Some((header, at))) => {
                match Frame::with_header(header, &self.buffer[at..at + header.frame_bytes()]) {
                    Ok(frame) => Ok(Some(frame)),
                    Err(error) => Err(*self.failed.insert(error)),
                }
            }
            Err(error) => Err(*self.failed.insert(error)),
        }
    }

    /// Header and place of the frame at the front when it is whole; it counts as taken then.
    fn take_whole(&mut self) -> Result<Option<(Header, usize)>, PeerError> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        let bytes = &self.buffer[self.start..self.end];
        let header = match self.header {
            Some(header) => header,
            None => {
                // Tell a stranger before it has sent a header's worth of something else.
                if let Some(got) = bytes.first_chunk::<4>().filter(|got| **got != MAGIC) {
                    return Err(PeerError::BadMagic { got: *got });
                }
                if bytes.len() < HEADER_BYTES {
                    return Ok(None);
                }
                let header = decode_header(bytes, self.version)?;
                if header.sequence != self.sequence {
                    let (got, expected) = (header.sequence, self.sequence);
                    return Err(PeerError::OutOfSequence { got, expected });
                }
                if self.version != HANDSHAKE_VERSION {
                    let (kind, len, left) = (header.kind, header.payload_len, self.credits);
                    let uncovered = PeerError::NoCredit { kind, len, left };
                    self.credits = left.checked_sub(len.into()).ok_or(uncovered)?;
                }
                *self.header.insert(header)
            }
        };
        if bytes.len() < header.frame_bytes() {
            return Ok(None);
        }
        let at = self.start;
        self.header = None;
        self.start += header.frame_bytes();
        self.sequence += 1;
        let small = header.frame_bytes() <= KEEP_BYTES;
        self.small_frames = if small { self.small_frames.saturating_add(1) } else { 0 };
        Ok(Some((header, at)))
    }

    /// Free memory behind what was received: at least 1 byte and at most `len`, which is 1 to
    /// [`KEEP_BYTES`].
    pub fn space(&mut self, len: usize) -> &mut [u8] {
        assert!((1..=KEEP_BYTES).contains(&len), "asked for {len} bytes at once");
        if self.failed.is_some() || self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        let room = self.buffer.capacity() - self.end;
        let front = self.header.map_or(0, |header| header.frame_bytes());
        let missing = if front > 0 { front.saturating_sub(self.buffered()).max(1) } else { len };
        let unneeded = self.small_frames >= SMALL_IN_A_ROW && front <= KEEP_BYTES;
        let shrinks = unneeded && self.buffer.capacity() > 2 * KEEP_BYTES;
        if room < missing || shrinks {
            self.relocate(front, shrinks);
        }
        let end = (self.end + len).min(self.buffer.capacity());
        if self.buffer.len() < end {
            self.buffer.resize(end, 0);
        }
        &mut self.buffer[self.end..end]
    }

    /// Moves what is buffered to the front of a buffer that holds all of a frame of `front` bytes.
    fn relocate(&mut self, front: usize, shrinks: bool) {
        let want = if front > KEEP_BYTES { front + KEEP_BYTES } else { KEEP_BYTES };
        assert!(self.buffered() <= want, "frames are taken before more is received");
        if self.buffer.capacity() < want || shrinks {
            let mut buffer = AlignedVec::with_capacity(want);
            buffer.extend_from_slice(&self.buffer[self.start..self.end]);
            self.buffer = buffer;
        } else {
            self.buffer.copy_within(self.start..self.end, 0);
        }
        (self.start, self.end) = (0, self.buffered());
    }

    /// `len` bytes were written to the front of [`Input::space`].
    pub fn filled(&mut self, len: usize) {
        assert!(len <= self.buffer.len() - self.end, "more bytes than there was space for");
        self.end += len;
    }

    /// Frees the buffer of a connection that has nothing in it.
    pub fn release(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            self.buffer = AlignedVec::new();
        }
    }

    /// Bytes received and not yet taken.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.end - self.start
    }

    /// Memory it has reserved.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.buffer.capacity()
    }
}

const _: () = assert!(KEEP_BYTES.is_multiple_of(ALIGN) && KEEP_BYTES < FRAME_BYTES_MAX);
