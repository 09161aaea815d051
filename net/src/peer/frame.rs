//! The envelope: 32 bytes, then a payload, then a body archived with rkyv. Integers are little endian.
//!
//! | offset | size | field | meaning |
//! |---|---|---|---|
//! | 0 | 4 | magic | `IRNP` |
//! | 4 | 2 | version | version of the body; 0: handshake |
//! | 6 | 1 | kind | which message |
//! | 7 | 1 | flags | 0 |
//! | 8 | 4 | body_len | bytes of the archived body |
//! | 12 | 4 | payload_len | bytes of the payload |
//! | 16 | 8 | sequence | 0, 1, 2, ...: this frame's number on this connection and direction |
//! | 24 | 4 | content_crc | crc32c of everything behind the header, padding included |
//! | 28 | 4 | header_crc | crc32c of bytes 0..28 |
//!
//! The payload begins at byte 32, the body on the next boundary of 16 bytes behind the payload, and
//! the frame ends on the next such boundary behind the body; what lies between is zero. So each frame
//! of a stream begins on a boundary when the first does, and bodies lie aligned where they arrived.
//! The payload stands first because a body can be archived only when everything it tells is known:
//! a sender appends records to the payload while it collects them, and moves nothing afterwards.

use ironring_core::checksum::crc32c;
use ironring_core::limits::{FRAME_BODY_BYTES_MAX, RECORD_BYTES_MAX};

use super::error::PeerError;
use super::hello::Handshake;
use super::message::Message;
use super::{v1, v2};

/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"IRNP";
/// Length of a frame's header.
pub const HEADER_BYTES: usize = 32;
/// Body and payload begin at multiples of this, and frames end there.
pub const ALIGN: usize = 16;
/// The version in the header of `Hello`, `Welcome` and `Refused`.
pub const HANDSHAKE_VERSION: u16 = 0;

/// Largest payload of a handshake: what a stranger can make a node hold.
pub const HANDSHAKE_BYTES_MAX: u32 = 4096;
/// Largest payload of `Replicate`, `Raft` and `SnapshotPiece`: short enough that what waits behind
/// it is not late.
pub const PAYLOAD_BYTES_MAX: u32 = 8 << 20;
/// Largest payload of `Forward` and `ForwardAnswer`: a client's longest body.
pub const FORWARD_BYTES_MAX: u32 = FRAME_BODY_BYTES_MAX as u32;
/// Largest payload of `Compare`: two keys and what stands around them.
pub const COMPARE_BYTES_MAX: u32 = 16 << 10;
/// Largest payload of `Fetch`.
pub const FETCH_BYTES_MAX: u32 = 64 << 10;
/// Largest body of a kind that lists things.
pub const LIST_BODY_BYTES_MAX: u32 = 1 << 20;
/// Largest body of the other kinds.
pub const PLAIN_BODY_BYTES_MAX: u32 = 1 << 10;
/// Longest frame of any kind.
pub const FRAME_BYTES_MAX: usize =
    frame_bytes(PLAIN_BODY_BYTES_MAX as usize, FORWARD_BYTES_MAX as usize);

const CONTENT_CRC_AT: usize = 24;
const HEADER_CRC_AT: usize = 28;

/// `len` and the padding behind it.
pub(super) const fn padded(len: usize) -> usize {
    len.next_multiple_of(ALIGN)
}

const fn frame_bytes(body_len: usize, payload_len: usize) -> usize {
    HEADER_BYTES + padded(payload_len) + padded(body_len)
}

macro_rules! kinds {
    ($( $(#[$doc:meta])* $name:ident = $code:literal since $since:literal, $body:expr, $payload:expr; )*) => {
        /// Which message a frame carries.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Kind { $( $(#[$doc])* $name = $code, )* }

        impl Kind {
            /// Every kind, in order of number.
            pub const ALL: &'static [Kind] = &[ $( Kind::$name, )* ];

            /// The kind a wire byte names.
            #[must_use]
            pub fn from_u8(code: u8) -> Option<Kind> {
                match code { $( $code => Some(Kind::$name), )* _ => None }
            }

            /// The message's name, for logs and metrics.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $( Kind::$name => stringify!($name), )* }
            }

            /// The version that brought it; handshakes belong to none, which is 0.
            #[must_use]
            pub fn since(self) -> u16 {
                match self { $( Kind::$name => $since, )* }
            }

            /// Longest body, in bytes.
            #[must_use]
            pub fn body_bytes_max(self) -> u32 {
                match self { $( Kind::$name => $body, )* }
            }

            /// Longest payload, in bytes; 0: frames of this kind have none.
            #[must_use]
            pub fn payload_bytes_max(self) -> u32 {
                match self { $( Kind::$name => $payload, )* }
            }
        }
    };
}

kinds! {
    /// [`super::hello::Hello`]
    Hello = 0x01 since 0, 0, HANDSHAKE_BYTES_MAX;
    /// [`super::hello::Welcome`]
    Welcome = 0x02 since 0, 0, HANDSHAKE_BYTES_MAX;
    /// [`super::hello::Refused`]
    Refused = 0x03 since 0, 0, HANDSHAKE_BYTES_MAX;
    /// [`Message::Replicate`]
    Replicate = 0x10 since 1, LIST_BODY_BYTES_MAX, PAYLOAD_BYTES_MAX;
    /// [`Message::Acks`]
    Acks = 0x11 since 1, LIST_BODY_BYTES_MAX, 0;
    /// [`Message::Fences`]
    Fences = 0x12 since 1, LIST_BODY_BYTES_MAX, 0;
    /// [`Message::FenceAnswers`]
    FenceAnswers = 0x13 since 1, LIST_BODY_BYTES_MAX, 0;
    /// [`Message::Asks`]
    Asks = 0x14 since 1, LIST_BODY_BYTES_MAX, 0;
    /// [`Message::Raft`]
    Raft = 0x20 since 1, PLAIN_BODY_BYTES_MAX, PAYLOAD_BYTES_MAX;
    /// [`Message::Forward`]
    Forward = 0x30 since 1, PLAIN_BODY_BYTES_MAX, FORWARD_BYTES_MAX;
    /// [`Message::ForwardAnswer`]
    ForwardAnswer = 0x31 since 1, PLAIN_BODY_BYTES_MAX, FORWARD_BYTES_MAX;
    /// [`Message::SnapshotBegin`]
    SnapshotBegin = 0x40 since 1, PLAIN_BODY_BYTES_MAX, 0;
    /// [`Message::SnapshotPiece`]
    SnapshotPiece = 0x41 since 1, PLAIN_BODY_BYTES_MAX, PAYLOAD_BYTES_MAX;
    /// [`Message::SnapshotAnswer`]
    SnapshotAnswer = 0x42 since 1, PLAIN_BODY_BYTES_MAX, 0;
    /// [`Message::Compare`]
    Compare = 0x43 since 2, PLAIN_BODY_BYTES_MAX, COMPARE_BYTES_MAX;
    /// [`Message::Compared`]
    Compared = 0x44 since 2, PLAIN_BODY_BYTES_MAX, 0;
    /// [`Message::Diverged`]
    Diverged = 0x45 since 2, PLAIN_BODY_BYTES_MAX, 0;
    /// [`Message::Fetch`]
    Fetch = 0x46 since 2, PLAIN_BODY_BYTES_MAX, FETCH_BYTES_MAX;
    /// [`Message::Fetched`]
    Fetched = 0x47 since 2, PLAIN_BODY_BYTES_MAX, PAYLOAD_BYTES_MAX;
    /// [`Message::Credits`]
    Credits = 0x50 since 1, PLAIN_BODY_BYTES_MAX, 0;
    /// [`Message::Ping`]
    Ping = 0x51 since 1, PLAIN_BODY_BYTES_MAX, 0;
    /// [`Message::Pong`]
    Pong = 0x52 since 1, PLAIN_BODY_BYTES_MAX, 0;
    /// [`Message::Goodbye`]
    Goodbye = 0x5F since 1, PLAIN_BODY_BYTES_MAX, 0;
}

impl Kind {
    /// Whether frames of this kind come before a version is agreed on.
    #[must_use]
    pub fn is_handshake(self) -> bool {
        matches!(self, Kind::Hello | Kind::Welcome | Kind::Refused)
    }
}

/// A frame's header, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Version of the body; [`HANDSHAKE_VERSION`] for a handshake.
    pub version: u16,
    /// Which message.
    pub kind: Kind,
    /// Length of the archived body in bytes.
    pub body_len: u32,
    /// Length of the payload in bytes.
    pub payload_len: u32,
    /// Number of the frame on its connection and direction, from 0.
    pub sequence: u64,
    /// Checksum of what follows the header.
    pub content_crc: u32,
}

impl Header {
    /// Length of the whole frame: a multiple of [`ALIGN`].
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        frame_bytes(self.body_len as usize, self.payload_len as usize)
    }

    /// The 32 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&self.version.to_le_bytes());
        bytes[6] = self.kind as u8;
        bytes[8..12].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.payload_len.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[CONTENT_CRC_AT..HEADER_CRC_AT].copy_from_slice(&self.content_crc.to_le_bytes());
        let crc = crc32c(&bytes[..HEADER_CRC_AT]);
        bytes[HEADER_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }
}

/// Reads a header of a connection that speaks `version` ([`HANDSHAKE_VERSION`] before one is agreed
/// on). Lengths are within the limits of the kind when this succeeds.
///
/// # Errors
/// [`PeerError`] of the first thing that is wrong.
pub fn decode_header(bytes: &[u8], version: u16) -> Result<Header, PeerError> {
    let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Err(PeerError::Short { need: HEADER_BYTES, got: bytes.len() });
    };
    let u32_at =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let got = [bytes[0], bytes[1], bytes[2], bytes[3]];
    if got != MAGIC {
        return Err(PeerError::BadMagic { got });
    }
    let (stored, computed) = (u32_at(HEADER_CRC_AT), crc32c(&bytes[..HEADER_CRC_AT]));
    if stored != computed {
        return Err(PeerError::HeaderChecksum { stored, computed });
    }
    let got = u16::from_le_bytes([bytes[4], bytes[5]]);
    if got != version {
        return Err(PeerError::Version { got, expected: version });
    }
    let handshake = version == HANDSHAKE_VERSION;
    let kind = Kind::from_u8(bytes[6])
        .filter(|kind| kind.is_handshake() == handshake && kind.since() <= version)
        .ok_or(PeerError::UnknownKind { version, kind: bytes[6] })?;
    if bytes[7] != 0 {
        return Err(PeerError::UnknownFlags(bytes[7]));
    }
    let within = |part, len, max| {
        if len > max { Err(PeerError::TooLarge { kind, part, len, max }) } else { Ok(len) }
    };
    Ok(Header {
        version,
        kind,
        body_len: within("body", u32_at(8), kind.body_bytes_max())?,
        payload_len: within("payload", u32_at(12), kind.payload_bytes_max())?,
        sequence: u64::from(u32_at(16)) | u64::from(u32_at(20)) << 32,
        content_crc: u32_at(CONTENT_CRC_AT),
    })
}

/// A whole frame where it lies in a buffer: lengths, checksums and padding are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The header.
    pub header: Header,
    /// Opaque bytes that the body describes.
    pub payload: &'a [u8],
    /// The archive.
    pub body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads the frame at the front of `bytes`; [`Header::frame_bytes`] tells where the next begins.
    ///
    /// # Errors
    /// [`PeerError`] of the first thing that is wrong.
    pub fn parse(bytes: &'a [u8], version: u16) -> Result<Frame<'a>, PeerError> {
        Frame::with_header(decode_header(bytes, version)?, bytes)
    }

    /// The same when the header was read before. Costs one pass over the frame, for its checksum.
    pub(super) fn with_header(header: Header, bytes: &'a [u8]) -> Result<Frame<'a>, PeerError> {
        let need = header.frame_bytes();
        let Some(content) = bytes.get(HEADER_BYTES..need) else {
            return Err(PeerError::Short { need, got: bytes.len() });
        };
        let computed = crc32c(content);
        if computed != header.content_crc {
            return Err(PeerError::ContentChecksum { stored: header.content_crc, computed });
        }
        let (payload, rest) = content.split_at(header.payload_len as usize);
        let (between, rest) = rest.split_at(padded(payload.len()) - payload.len());
        let (body, behind) = rest.split_at(header.body_len as usize);
        if between.iter().chain(behind).any(|byte| *byte != 0) {
            return Err(PeerError::Padding { kind: header.kind });
        }
        Ok(Frame { header, payload, body })
    }

    /// What the frame says, read in place: nothing is copied but single fields, nothing allocated.
    ///
    /// # Errors
    /// [`PeerError`] when the archive is not one, or what it says is not allowed.
    pub fn message(&self) -> Result<Message<'a>, PeerError> {
        match self.header.version {
            1 => v1::read(self),
            2 => v2::read(self),
            got => Err(PeerError::Version { got, expected: super::VERSIONS.1 }),
        }
    }

    /// What a frame of the handshake says.
    ///
    /// # Errors
    /// [`PeerError`] when it is not one.
    pub fn handshake(&self) -> Result<Handshake<'a>, PeerError> {
        let (version, kind) = (self.header.version, self.header.kind);
        if version != HANDSHAKE_VERSION {
            return Err(PeerError::Version { got: version, expected: HANDSHAKE_VERSION });
        }
        Handshake::decode(kind, self.payload)
    }
}

const _: () = assert!(HEADER_CRC_AT + 4 == HEADER_BYTES && HEADER_BYTES.is_multiple_of(ALIGN));
// One record of any size, with whatever stands before it in the log, can be replicated.
const _: () = assert!(PAYLOAD_BYTES_MAX as usize >= 2 * RECORD_BYTES_MAX);
const _: () = assert!(FORWARD_BYTES_MAX as usize == FRAME_BODY_BYTES_MAX);
const _: () = assert!(
    FRAME_BYTES_MAX >= frame_bytes(LIST_BODY_BYTES_MAX as usize, PAYLOAD_BYTES_MAX as usize)
);
