//! How messages of the group get to other nodes.

use std::time::Duration;

use super::host::Local;

/// Another member.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Its id.
    pub id: u64,
    /// Where it takes messages of the group.
    pub address: String,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The request was not sent.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// The connection ended before the answer; the request may have been taken.
    #[error("no answer: {0}")]
    Lost(String),
    /// No answer came in time; the request may have been taken.
    #[error("no answer in time")]
    Timeout,
}

/// Carries requests to other members and brings their answers. Requests to one peer may overtake
/// each other, be lost, or arrive twice: the group's protocol minds none of it.
pub trait RaftLink: 'static {
    /// Hands `request` to the peer's [`super::MetaGroup::handle`] and returns what that returns.
    /// Ends within about `timeout`.
    fn call(
        &self,
        to: &Peer,
        request: Vec<u8>,
        timeout: Duration,
    ) -> Local<'static, Result<Vec<u8>, LinkError>>;
}
