//! Why a call did not give what was asked for.

use std::io;

use ironring_core::{ErrorCode, Offset};

use crate::error::{BodyError, FrameError, ResponseError};

/// Why a call did not give what was asked for.
///
/// Every variant but [`ClientError::Unknown`] means that the call changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server refused.
    #[error("{}: {message}", code.name())]
    Server {
        /// Why.
        code: ErrorCode,
        /// A number the code defines (`docs/protocol.md`).
        detail: u64,
        /// The server's words.
        message: String,
    },
    /// No server could be reached, or the connection broke under a read.
    #[error("{address}: {source}")]
    Io {
        /// The address tried last.
        address: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The deadline passed before the request was sent, or before a read was answered.
    #[error("no answer in time")]
    Timeout,
    /// A write may have been applied or not: its answer did not come and it could not be repeated
    /// until one did. Read back what it would have changed.
    #[error("the outcome is unknown: {reason}")]
    Unknown {
        /// What kept the answer away.
        reason: String,
    },
    /// The server's bytes are not this protocol, or not the answer to what was asked; or it refused
    /// with an error code that this build does not know.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// The request breaks a limit or a rule; it was not sent.
    #[error(transparent)]
    Request(#[from] BodyError),
}

impl ClientError {
    /// The server's code, when the server refused.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ClientError::Server { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The version a key has (`Offset::NONE`: it does not exist), when a condition failed.
    #[must_use]
    pub fn current_version(&self) -> Option<Offset> {
        match self {
            ClientError::Server { code: ErrorCode::ConditionFailed, detail, .. } => {
                Some(Offset(*detail))
            }
            _ => None,
        }
    }

    /// What the user can do about it, in one sentence.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            ClientError::Server { code, .. } => code.hint(),
            ClientError::Io { .. } => "check the address and that the node runs",
            ClientError::Timeout => "the node is slow or unreachable: retry with a longer deadline",
            ClientError::Unknown { .. } => {
                "read back whether the write was applied before repeating it"
            }
            ClientError::Protocol(_) => {
                "check that it is an ironring client port, and the client as new as the server"
            }
            ClientError::Request(_) => "correct the request as the message says",
        }
    }
}

impl From<FrameError> for ClientError {
    fn from(error: FrameError) -> ClientError {
        ClientError::Protocol(error.to_string())
    }
}

impl From<ResponseError> for ClientError {
    fn from(error: ResponseError) -> ClientError {
        ClientError::Protocol(error.to_string())
    }
}
