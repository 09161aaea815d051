//! What can be wrong with frames from a node, and why one cannot be sent.

use crate::error::BodyError;

use super::frame::Kind;

/// Bytes from a node are not what they must be. Every variant ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Fewer bytes than the frame has. Never from [`super::Input`], which waits for them.
    #[error("a frame of {need} bytes, got {got}")]
    Short {
        /// How many there must be.
        need: usize,
        /// How many there were.
        got: usize,
    },
    /// The other side speaks something else, or the stream lost its place.
    #[error("the bytes {got:02x?} do not begin a frame between nodes")]
    BadMagic {
        /// What stood there instead.
        got: [u8; 4],
    },
    /// The header was damaged on the way.
    #[error("frame header checksum is {computed:#010x}, the header says {stored:#010x}")]
    HeaderChecksum {
        /// What the header says.
        stored: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// A version other than the one agreed on; 0 is the handshake's.
    #[error("frame of version {got}, this connection speaks {expected}")]
    Version {
        /// The header's.
        got: u16,
        /// The connection's.
        expected: u16,
    },
    /// No frame of this version has this kind.
    #[error("version {version} has no frames of kind {kind:#04x}")]
    UnknownKind {
        /// The header's version.
        version: u16,
        /// The header's kind.
        kind: u8,
    },
    /// A flag no version has.
    #[error("frame flags {0:#04x} are not known")]
    UnknownFlags(u8),
    /// More than a frame of this kind may hold.
    #[error("{} {part} of {len} bytes is over the limit of {max}", kind.name())]
    TooLarge {
        /// The frame's kind.
        kind: Kind,
        /// `body` or `payload`.
        part: &'static str,
        /// Length in the header.
        len: u32,
        /// The limit.
        max: u32,
    },
    /// The other side sent more than it was given leave to.
    #[error("{} payload of {len} bytes, given credit for {left}", kind.name())]
    NoCredit {
        /// The frame's kind.
        kind: Kind,
        /// Length in the header.
        len: u32,
        /// What was left of the credits.
        left: u64,
    },
    /// A frame is missing, repeated or out of order.
    #[error("frame number {got}, expected {expected}")]
    OutOfSequence {
        /// The header's.
        got: u64,
        /// The one after the last.
        expected: u64,
    },
    /// Body or payload was damaged on the way.
    #[error("frame content checksum is {computed:#010x}, the header says {stored:#010x}")]
    ContentChecksum {
        /// What the header says.
        stored: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// Bytes between or behind the parts are not zero.
    #[error("padding of a {} frame is not zero", kind.name())]
    Padding {
        /// The frame's kind.
        kind: Kind,
    },
    /// The body is not an archive of the kind's type, or does not lie on a boundary of 16 bytes.
    #[error("the body is not an archived {}", kind.name())]
    Archive {
        /// The frame's kind.
        kind: Kind,
    },
    /// A section's bytes do not follow those of the section before, or end outside the payload.
    #[error("section {section} of a {} frame does not have its place in the payload", kind.name())]
    Range {
        /// The frame's kind.
        kind: Kind,
        /// Which, from 0; their number when bytes are left over behind the last.
        section: u32,
    },
    /// A field does not hold what its message requires.
    #[error("{}: {error}", kind.name())]
    Field {
        /// The frame's kind.
        kind: Kind,
        /// What is wrong.
        error: BodyError,
    },
}

/// A frame cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutputError {
    /// As much is queued as may be: try again when some of it is written.
    #[error("{queued} bytes are queued already, of at most {max}")]
    Full {
        /// Bytes that wait.
        queued: usize,
        /// The output's limit.
        max: usize,
    },
    /// The other side does not take so many payload bytes yet: try again when it gives more.
    #[error("a payload of {need} bytes, the other side takes {left}")]
    NoCredit {
        /// Bytes of the frame's payload.
        need: usize,
        /// What is left of the credits.
        left: u64,
    },
    /// It does not fit into this frame: finish the frame and begin another.
    #[error("the frame has no room for {what}")]
    FrameFull {
        /// What has no room.
        what: &'static str,
    },
    /// The message is not one that a peer would take.
    #[error(transparent)]
    Message(#[from] PeerError),
}
