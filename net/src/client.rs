//! The client library. What decides is pure and shared; what waits is thin.
//!
//! - [`blocking`]: over `std::net`, one request at a time. For tools.
//! - `asynchronous` (feature `monoio`): pipelined. For the load generator and services.
//! - [`ClientError`]: what can go wrong, with *failed* and *unknown* kept apart.
//!
//! Both clients retry within the deadline of a call what the protocol says may be retried, with
//! exponential back-off and jitter. Writes carry a session and a sequence (unless the
//! configuration says otherwise), so a write whose answer was lost is repeated and applied once.

use std::time::Duration;

use ironring_core::Durability;

use crate::VERSIONS;
use crate::features;
use crate::message::Request;

mod answers;
#[cfg(feature = "monoio")]
pub mod asynchronous;
pub mod blocking;
mod call;
mod candidates;
mod error;
#[cfg(test)]
mod fake;
mod routing;
mod types;

pub use answers::Offsets;
pub use error::ClientError;
pub use routing::Routing;
pub use types::{Appended, Entry, Record, Records, ServerInfo, Stale, Value, WriteSettings};

/// How to reach a cluster and how to behave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// Where to connect, `host:port`, tried in this order; those that did not answer last time come
    /// after the others.
    pub addrs: Vec<String>,
    /// Refuse servers of any other cluster; empty: take any.
    pub cluster: String,
    /// Name and version of the program, for the server's log. At most 255 bytes.
    pub name: String,
    /// Longest wait for a TCP connection and its handshake.
    pub connect_timeout: Duration,
    /// Longest a call takes, with all its retries.
    pub deadline: Duration,
    /// How long a call that can be repeated waits for a node that says nothing before it asks again,
    /// perhaps another; twice as long after every third time. The time a reader asks to wait comes on
    /// top.
    pub attempt_timeout: Duration,
    /// Level of writes that do not ask for another.
    pub durability: Durability,
    /// Whether writes are numbered in a session, so that they can be repeated safely.
    pub session: bool,
    /// Whether requests go to the owning shard directly.
    pub shard_aware: bool,
    /// Seed of the jitter in pauses between retries. Clients should differ in it.
    pub seed: u64,
}

impl ClientConfig {
    /// The defaults for one address: 5 s for a connection, 10 s for a call, 500 ms for each of its first
    /// attempts, `quorum`, sessions, shard-aware.
    #[must_use]
    pub fn new(addr: impl Into<String>) -> ClientConfig {
        ClientConfig {
            addrs: vec![addr.into()],
            cluster: String::new(),
            name: concat!("ironring-rust/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(5),
            deadline: Duration::from_secs(10),
            attempt_timeout: Duration::from_millis(500),
            durability: Durability::Quorum,
            session: true,
            shard_aware: true,
            seed: 0,
        }
    }

    /// The first frame of a connection.
    fn hello(&self) -> Request<'_> {
        Request::Hello {
            version_min: VERSIONS.0,
            version_max: VERSIONS.1,
            features: if self.shard_aware { features::SHARD_AWARE } else { 0 },
            cluster: &self.cluster,
            client: &self.name,
        }
    }
}

/// What a client waits beyond the deadline it told the server: the answer that says so must come
/// back.
const GRACE: Duration = Duration::from_millis(250);

/// A deadline as the wire has it: at least a millisecond (0 would mean the server's default).
fn deadline_ms(left: Duration) -> u32 {
    u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1)
}
