//! What can be wrong with bytes from a peer, which [`ErrorCode`] says so, and whether the
//! connection can go on.
//!
//! A frame whose *header* is wrong leaves no way to find the next frame: the connection closes.
//! A frame whose header is right and whose *body* is wrong costs one request: it is answered with
//! an error and the connection goes on.

use ironring_core::ErrorCode;

/// The header of a frame is not one. Every variant ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Fewer bytes than a header.
    #[error("a frame header has 32 bytes, got {got}")]
    Short {
        /// How many there were.
        got: usize,
    },
    /// The peer speaks something else, or the stream lost its place.
    #[error("the bytes {got:02x?} do not begin an ironring frame")]
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
    /// The body is longer than the receiver takes. The header itself is intact.
    #[error("frame body of {len} bytes is over the limit of {max}")]
    BodyTooLong {
        /// Length in the header.
        len: u32,
        /// The receiver's limit.
        max: u32,
        /// The request it was, so that the answer can name it.
        correlation: u64,
    },
}

impl FrameError {
    /// The code the peer is told before the connection closes.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            FrameError::Short { .. } | FrameError::BadMagic { .. } => ErrorCode::Malformed,
            FrameError::HeaderChecksum { .. } => ErrorCode::BadChecksum,
            FrameError::BodyTooLong { .. } => ErrorCode::TooLarge,
        }
    }

    /// The request to answer; 0 when the header does not tell.
    #[must_use]
    pub fn correlation(&self) -> u64 {
        match self {
            FrameError::BodyTooLong { correlation, .. } => *correlation,
            _ => 0,
        }
    }
}

/// A body, or a list in it, does not hold what its message requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The bytes end inside a field.
    #[error("the body ends inside {field}")]
    Truncated {
        /// Which field.
        field: &'static str,
    },
    /// Bytes follow the last field.
    #[error("{bytes} bytes follow the end of the message")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A field that must be zero is not.
    #[error("reserved bytes after {field} are not zero")]
    Reserved {
        /// The field before them.
        field: &'static str,
    },
    /// Text is not UTF-8.
    #[error("{field} is not UTF-8")]
    NotUtf8 {
        /// Which field.
        field: &'static str,
    },
    /// A number that names one of several choices names none.
    #[error("{field} cannot be {value}")]
    UnknownChoice {
        /// Which field.
        field: &'static str,
        /// What it held.
        value: u64,
    },
    /// A field has a value that is not allowed.
    #[error("{field} {rule}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What is required of it.
        rule: &'static str,
    },
    /// A limit is exceeded.
    #[error("{field} of {len} is over the limit of {max}")]
    TooLarge {
        /// What is too long or too many.
        field: &'static str,
        /// How long or many.
        len: u64,
        /// How long or many at most.
        max: u64,
    },
}

impl BodyError {
    /// The code the sender is told.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            BodyError::Truncated { .. }
            | BodyError::Trailing { .. }
            | BodyError::Reserved { .. }
            | BodyError::NotUtf8 { .. }
            | BodyError::UnknownChoice { .. } => ErrorCode::Malformed,
            BodyError::Invalid { .. } => ErrorCode::InvalidArgument,
            BodyError::TooLarge { .. } => ErrorCode::TooLarge,
        }
    }
}

/// A request that arrived in an intact header cannot be served. The connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The body was damaged on the way.
    #[error("body checksum is {computed:#010x}, the header says {stored:#010x}")]
    BodyChecksum {
        /// What the header says.
        stored: u32,
        /// What the body's bytes give.
        computed: u32,
    },
    /// No request has this opcode.
    #[error("no request has opcode {0:#04x}")]
    UnknownOpcode(u8),
    /// A flag bit this version does not know.
    #[error("request flags {0:#06x} are not known")]
    UnknownFlags(u16),
    /// The body is not what the opcode requires.
    #[error(transparent)]
    Body(#[from] BodyError),
}

impl RequestError {
    /// The code the client is told.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            RequestError::BodyChecksum { .. } => ErrorCode::BadChecksum,
            RequestError::UnknownOpcode(_) => ErrorCode::UnknownOpcode,
            RequestError::UnknownFlags(_) => ErrorCode::Malformed,
            RequestError::Body(body) => body.code(),
        }
    }
}

/// A response cannot be understood. The client gives the connection up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// The body was damaged on the way.
    #[error("body checksum is {computed:#010x}, the header says {stored:#010x}")]
    BodyChecksum {
        /// What the header says.
        stored: u32,
        /// What the body's bytes give.
        computed: u32,
    },
    /// No response has this opcode.
    #[error("no response has opcode {0:#04x}")]
    UnknownOpcode(u8),
    /// The status says success on an error, or failure on an answer.
    #[error("status {status} does not go with opcode {opcode:#04x}")]
    Status {
        /// The header's status.
        status: u16,
        /// The header's opcode.
        opcode: u8,
    },
    /// An error whose code this build does not know.
    #[error("the server answered with unknown error {code}: {message}")]
    UnknownCode {
        /// The code.
        code: u16,
        /// The server's words.
        message: String,
    },
    /// The body is not what the opcode requires.
    #[error(transparent)]
    Body(#[from] BodyError),
}
