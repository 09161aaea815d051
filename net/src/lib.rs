//! The client protocol: messages, their bytes, the state of one connection, and a client library.
//!
//! - [`message`]: requests and responses as types; [`list`]: their lists, kept encoded.
//! - [`codec`]: frames to bytes and back. No I/O.
//! - [`connection`]: one server-side connection: bytes in, requests out, responses in, bytes out.
//! - [`client`]: the client library (blocking; asynchronous on monoio with the `monoio` feature).

pub mod message;

/// Protocol versions this build speaks, lowest and highest.
pub const VERSIONS: (u8, u8) = (1, 1);

/// Feature bits of the handshake.
pub mod features {
    /// The client connects to owning shards by the cluster map.
    pub const SHARD_AWARE: u64 = 1;
}
