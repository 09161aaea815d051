//! The client protocol: messages, their bytes, the state of one connection, a client library; and the
//! protocol between nodes.
//!
//! - [`message`]: requests and responses as types; [`list`]: their lists, kept encoded.
//! - [`frame`]: the envelope every message travels in; [`codec`]: messages to bytes and back. No I/O.
//! - [`connection`]: one server-side connection: bytes in, requests out, responses in, bytes out.
//! - [`client`]: the client library: blocking, and asynchronous with the `monoio` feature.
//! - [`peer`]: the plane between nodes: frames archived with rkyv, and who is let in. No I/O either.
//!
//! `docs/protocol.md` and `docs/peer-protocol.md` describe the same for people who write another.

pub mod client;
pub mod codec;
pub mod connection;
pub mod error;
pub mod frame;
pub mod list;
pub mod message;
pub mod peer;

mod input;
mod wire;

pub use codec::{decode_request, decode_response, encode_request, encode_response};
pub use error::{BodyError, FrameError, RequestError, ResponseError};
pub use frame::{Header, Opcode, decode_header};

/// Protocol versions this build speaks, lowest and highest.
pub const VERSIONS: (u8, u8) = (1, 1);

/// Feature bits of the handshake.
pub mod features {
    /// The client connects to owning shards by the cluster map.
    pub const SHARD_AWARE: u64 = 1;

    /// Every bit this build knows.
    pub const KNOWN: u64 = SHARD_AWARE;
}
