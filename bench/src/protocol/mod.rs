//! What the engine needs to know of a protocol, so that every server is measured by the same
//! generator.

pub mod etcd;
pub mod ironring;
pub mod nats;
pub mod resp;

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::error::BenchError;
use crate::recorder::Outcome;
use crate::workload::{Op, Workload};

/// Time to connect, and for each answer of a handshake.
const SETUP_TIMEOUT: Duration = Duration::from_secs(10);

/// What the first bytes of the input are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// Not a whole message; it needs at least so many bytes in all.
    Incomplete {
        /// More than there are.
        need: usize,
    },
    /// A reply to a request.
    Reply {
        /// Bytes it took.
        len: usize,
        /// The tag of its request, in protocols that carry one.
        tag: Option<u32>,
        /// How the request went.
        outcome: Outcome<'a>,
    },
    /// A message that answers nothing, but wants these bytes sent back.
    Aside {
        /// Bytes it took.
        len: usize,
        /// What to send.
        answer: &'static [u8],
    },
}

/// One connection's side of a protocol: requests to bytes, bytes to replies. No I/O.
pub trait Protocol: 'static {
    /// Whether replies carry the tag of their request. Where they do not, they come in order.
    const TAGGED: bool;

    /// Appends the request's bytes to `out`. Called once per request on the hot path: no
    /// allocation beyond the growth of `out`.
    fn encode(&mut self, op: &Op<'_>, tag: u32, out: &mut Vec<u8>);

    /// Looks at the beginning of `input`, which is not empty.
    ///
    /// # Errors
    /// The bytes are not this protocol, with a sentence for a person.
    fn parse<'a>(&mut self, input: &'a [u8]) -> Result<Parsed<'a>, String>;
}

/// A server to measure. Blocking: used before and after a run, never during it.
pub trait Target: Clone + Send + Sync + 'static {
    /// What its connections speak.
    type Protocol: Protocol;

    /// Connects and shakes hands. `lane` counts the connections of a run; `workload` is where
    /// requests that are encoded in advance take their content from.
    ///
    /// # Errors
    /// The server cannot be reached or refuses.
    fn connect(
        &self,
        lane: usize,
        workload: &mut Workload,
    ) -> Result<(TcpStream, Self::Protocol), BenchError>;

    /// The server's own counters as JSON, where it has such.
    ///
    /// # Errors
    /// The server cannot be reached or answers something else.
    fn stats(&self) -> Result<Option<serde_json::Value>, BenchError>;
}

/// Connects with the timeouts of a handshake set.
///
/// # Errors
/// The address does not resolve or nothing listens there.
pub fn dial(addr: &str) -> Result<TcpStream, BenchError> {
    let doing = || format!("connecting to {addr}");
    let resolved: Vec<SocketAddr> =
        addr.to_socket_addrs().map_err(BenchError::system(doing()))?.collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in resolved {
        match TcpStream::connect_timeout(&candidate, SETUP_TIMEOUT) {
            Ok(stream) => {
                let set = || {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(SETUP_TIMEOUT))?;
                    stream.set_write_timeout(Some(SETUP_TIMEOUT))
                };
                set().map_err(BenchError::system(doing()))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(BenchError::System { doing: doing(), source: last })
}

/// Sends all of it during a handshake.
///
/// # Errors
/// The connection broke.
pub fn send(stream: &mut TcpStream, bytes: &[u8]) -> Result<(), BenchError> {
    stream.write_all(bytes).map_err(BenchError::system("sending to the server"))
}

/// Appends a number in decimal.
fn push_decimal(value: usize, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
pub mod split_check {
    //! Every protocol's parser must give the same replies however the bytes arrive.

    use super::*;

    /// A reply with its outcome as text.
    pub type Reply = (Option<u32>, String);

    /// All replies of `input`, which arrives in pieces cut at `cuts`.
    pub fn replies<P: Protocol>(protocol: &mut P, input: &[u8], cuts: &[usize]) -> Vec<Reply> {
        let mut found = Vec::new();
        let mut buffer = Vec::new();
        let mut from = 0;
        for cut in cuts.iter().copied().chain([input.len()]) {
            buffer.extend_from_slice(&input[from..cut]);
            from = cut;
            while !buffer.is_empty() {
                let len = match protocol.parse(&buffer).unwrap() {
                    Parsed::Incomplete { need } => {
                        assert!(need > buffer.len(), "asks for more than there is");
                        break;
                    }
                    Parsed::Reply { len, tag, outcome } => {
                        found.push((tag, format!("{outcome:?}")));
                        len
                    }
                    Parsed::Aside { len, .. } => len,
                };
                assert!(len > 0 && len <= buffer.len());
                buffer.drain(..len);
            }
        }
        assert!(buffer.is_empty(), "whole messages leave nothing over");
        found
    }

    /// Cuts `input` at every point, and into single bytes.
    pub fn every_split<P: Protocol>(mut protocol: impl FnMut() -> P, input: &[u8]) -> Vec<Reply> {
        let whole = replies(&mut protocol(), input, &[]);
        for cut in 0..=input.len() {
            assert_eq!(replies(&mut protocol(), input, &[cut]), whole, "cut at {cut}");
        }
        let bytes: Vec<usize> = (1..input.len()).collect();
        assert_eq!(replies(&mut protocol(), input, &bytes), whole, "byte by byte");
        whole
    }
}
