//! One server-side connection, without I/O: bytes in, requests out, responses in, bytes out.
//!
//! A driver owns the socket and calls, in this order and over and over:
//! - when [`Connection::wants_read`]: read into [`Connection::receive_space`], then
//!   [`Connection::received`] (or [`Connection::feed`]); [`Connection::peer_closed`] at the end;
//! - [`Connection::next_frame`] until it yields nothing, after bytes arrived *and* after a response
//!   was given or sent: frames held back by a limit come out then;
//! - [`Output::respond`] once for each frame yielded, in any order;
//! - write [`Output::bytes`] and say [`Output::sent`];
//! - [`Connection::timeout_at`] and [`Connection::on_timeout`] for a peer that does not move;
//! - [`Connection::is_finished`]: close the socket, [`Connection::close_reason`] says why.
//!
//! Invariants:
//! - No frame is yielded before the handshake; the handshake is answered here.
//! - At most `in_flight_max` frames are yielded and unanswered, and none is yielded while more than
//!   `output_bytes_pause` wait for the peer. Then nothing is read either: TCP pushes back.
//! - Input memory is bounded by the largest frame plus one read, and follows the bytes that came,
//!   not the length a header promises. Output memory is bounded by `output_bytes_max`, one frame
//!   and 1 MiB.
//! - The clock is an argument. The connection belongs to the shard that accepted it.

use std::sync::Arc;
use std::time::Duration;

use ironring_core::limits::{FRAME_BODY_BYTES_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX};
use ironring_core::{ErrorCode, Instant, StorageUuid};

use crate::VERSIONS;
use crate::codec::decode_request;
use crate::error::{FrameError, RequestError};
use crate::frame::{HELLO_BODY_BYTES_MAX, Header, Opcode};
use crate::input::Input;
use crate::message::{Request, Response, Welcome};

mod output;
#[cfg(test)]
mod tests;

pub use crate::input::RECEIVE_BYTES_MAX;
pub use output::Output;

/// Who the server is; what `Welcome` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name of the cluster, at most 255 bytes.
    pub cluster: String,
    /// Name of the node, at most 255 bytes.
    pub node: String,
    /// Version of the server program, at most 255 bytes.
    pub server: String,
    /// Identity of the node's storage.
    pub storage: StorageUuid,
    /// The shard that accepted the connection.
    pub shard: u16,
    /// Feature bits the server has.
    pub features: u64,
}

/// What one connection may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest body of a request; at most [`FRAME_BODY_BYTES_MAX`].
    pub frame_bytes_max: u32,
    /// Most requests yielded and not yet answered.
    pub in_flight_max: u32,
    /// No more requests are yielded while this many bytes wait for the peer.
    pub output_bytes_pause: usize,
    /// Answers that carry data become `overloaded` beyond this. The one that crosses it may be a
    /// whole frame; when answers without data then add another 1 MiB, the connection closes.
    pub output_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            frame_bytes_max: FRAME_BODY_BYTES_MAX as u32,
            in_flight_max: 1024,
            output_bytes_pause: 1 << 20,
            output_bytes_max: 64 << 20,
        }
    }
}

/// How long a peer may do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the start of the connection to the end of the handshake.
    pub handshake: Duration,
    /// While the peer owes the rest of a frame, or does not take its answers.
    pub stall: Duration,
    /// While there is nothing to do. Clients ping to stay.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            handshake: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            idle: Duration::from_secs(300),
        }
    }
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The peer closed it between two frames.
    #[error("closed by the peer")]
    PeerClosed,
    /// The peer closed it inside a frame.
    #[error("closed by the peer {bytes} bytes into a frame")]
    PeerClosedMidFrame {
        /// How many bytes of the frame had come.
        bytes: usize,
    },
    /// The byte stream cannot be followed any more.
    #[error("{0}")]
    Frame(FrameError),
    /// The first frame was not `Hello`.
    #[error("the first frame was not a handshake (opcode {opcode:#04x})")]
    HandshakeRequired {
        /// What it was.
        opcode: u8,
    },
    /// The first frame was a `Hello` that cannot be understood.
    #[error("bad handshake: {0}")]
    BadHandshake(RequestError),
    /// No protocol version in common.
    #[error("the client speaks versions {min} to {max}")]
    UnsupportedVersion {
        /// Lowest version of the client.
        min: u8,
        /// Highest version of the client.
        max: u8,
    },
    /// A frame after the handshake named another version than the handshake agreed on.
    #[error("frame of version {got} on a connection that speaks {agreed}")]
    VersionChanged {
        /// The frame's version.
        got: u8,
        /// The connection's version.
        agreed: u8,
    },
    /// The client looked for another cluster.
    #[error("the client looked for another cluster")]
    WrongCluster,
    /// No handshake in time.
    #[error("no handshake in time")]
    HandshakeTimeout,
    /// The peer stopped inside a frame, or stopped taking answers.
    #[error("the peer stalled")]
    Stalled,
    /// Nothing happened for a long time.
    #[error("idle")]
    Idle,
    /// The peer takes no answers and keeps asking.
    #[error("too many answers wait for the peer")]
    OutputOverflow,
    /// The node stops.
    #[error("the node stops")]
    Shutdown,
}

impl CloseReason {
    /// Whether what is still to be sent is dropped: the peer would not take it anyway.
    fn is_abrupt(self) -> bool {
        matches!(
            self,
            CloseReason::HandshakeTimeout | CloseReason::Stalled | CloseReason::OutputOverflow
        )
    }
}

/// What the handshake told about the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The version both speak.
    pub version: u8,
    /// Feature bits both have.
    pub features: u64,
    /// Name and version of the client program.
    pub client: String,
}

/// One complete frame, in place in the connection's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The header, checked.
    pub header: Header,
    /// The body; its checksum is not checked yet.
    pub body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The request in it.
    ///
    /// # Errors
    /// What [`Output::refuse`] answers.
    pub fn decode(&self) -> Result<Request<'a>, RequestError> {
        decode_request(&self.header, self.body)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Connection {
    identity: Arc<Identity>,
    limits: Limits,
    opened: Instant,
    peer: Option<Peer>,
    input: Input,
    output: Output,
    /// The peer will send no more.
    peer_done: bool,
    closing: Option<CloseReason>,
}

impl Connection {
    /// A connection accepted at `now`. Panics when the limits contradict each other.
    #[must_use]
    pub fn new(identity: Arc<Identity>, limits: Limits, now: Instant) -> Connection {
        assert!(
            limits.frame_bytes_max as usize <= FRAME_BODY_BYTES_MAX,
            "frame_bytes_max too high"
        );
        assert!(limits.frame_bytes_max >= HELLO_BODY_BYTES_MAX, "frame_bytes_max too low");
        assert!(limits.in_flight_max > 0, "a connection needs a request in flight");
        assert!(limits.output_bytes_pause <= limits.output_bytes_max, "pause comes before the end");
        Connection {
            identity,
            limits,
            opened: now,
            peer: None,
            input: Input::default(),
            output: Output::new(limits.output_bytes_max, now),
            peer_done: false,
            closing: None,
        }
    }

    /// What the client said of itself, once it did.
    #[must_use]
    pub fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// Whether the driver should read from the socket.
    #[must_use]
    pub fn wants_read(&self) -> bool {
        self.close_reason().is_none() && !self.peer_done && self.takes_requests()
    }

    fn takes_requests(&self) -> bool {
        self.output.in_flight() < self.limits.in_flight_max
            && self.output.pending_bytes() < self.limits.output_bytes_pause
    }

    /// Memory to read into, at least one byte and at least `len` (at most [`RECEIVE_BYTES_MAX`]).
    /// Only to be asked for while [`Connection::wants_read`] and after [`Connection::next_frame`]
    /// yielded nothing.
    pub fn receive_space(&mut self, len: usize) -> &mut [u8] {
        self.input.space(len.clamp(1, RECEIVE_BYTES_MAX), self.body_bytes_max())
    }

    /// `len` bytes were read into the front of [`Connection::receive_space`].
    pub fn received(&mut self, now: Instant, len: usize) {
        self.input.filled(len);
        self.output.progressed(now);
    }

    /// Takes bytes the driver read into a buffer of its own (at most [`RECEIVE_BYTES_MAX`]).
    /// Costs a copy; saves each idle connection its buffer ([`Connection::release_memory`]).
    pub fn feed(&mut self, now: Instant, bytes: &[u8]) {
        assert!(bytes.len() <= RECEIVE_BYTES_MAX, "feed at most RECEIVE_BYTES_MAX at once");
        if !bytes.is_empty() {
            self.receive_space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
            self.received(now, bytes.len());
        }
    }

    /// The peer will send no more. Requests it sent before are still yielded and answered.
    pub fn peer_closed(&mut self) {
        self.peer_done = true;
    }

    /// A write to the peer failed. Requests it sent before are still yielded; what was not written, and
    /// every answer still to come, is dropped: a stream with a gap in it would be read as something else.
    /// Not while bytes taken with [`Output::take`] are under way.
    pub fn write_failed(&mut self) {
        self.peer_closed();
        self.output.discard();
    }

    /// Memory the request being received needs beyond the 64 KiB a connection may always have; 0 for
    /// one that needs no more. Known when [`Connection::next_frame`] has yielded nothing. A driver
    /// that is short of memory does not read on before it has as much.
    #[must_use]
    pub fn large_frame_bytes(&self) -> usize {
        self.input.large_frame_bytes()
    }

    /// Memory taken by what was received.
    #[must_use]
    pub fn input_memory(&self) -> usize {
        self.input.memory()
    }

    /// Memory taken by answers.
    #[must_use]
    pub fn output_memory(&self) -> usize {
        self.output.memory()
    }

    /// The peer is not waited for any longer.
    pub fn give_up(&mut self) -> CloseReason {
        self.close_with(CloseReason::Stalled)
    }

    /// The driver reads on, after a time in which it did not: the peer's time begins now.
    pub fn read_on(&mut self, now: Instant) {
        self.output.progressed(now);
    }

    /// Frees the memory of buffers that hold nothing, or little, beyond `keep` bytes each; 64 KiB stay
    /// where there is something.
    pub fn release_memory(&mut self, keep: usize) {
        self.input.release(keep);
        self.output.release(keep);
    }

    /// The next request, if a whole one is here and the limits let it pass. It counts as in flight
    /// until [`Output::respond`] was called for it.
    ///
    /// # Errors
    /// Why the connection ends; the same from then on.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, CloseReason> {
        Ok(self.next_frame_and_output()?.map(|(frame, _)| frame))
    }

    /// Like [`Connection::next_frame`], with the output beside it: a request that can be answered at
    /// once is answered while it still lies in the input buffer.
    ///
    /// # Errors
    /// Why the connection ends; the same from then on.
    pub fn next_frame_and_output(
        &mut self,
    ) -> Result<Option<(Frame<'_>, &mut Output)>, CloseReason> {
        let Some(header) = self.next_header()? else { return Ok(None) };
        self.output.frame_yielded();
        let body = self.input.take_body(&header);
        Ok(Some((Frame { header, body }, &mut self.output)))
    }

    /// Header of the next frame to yield. Handles what the connection answers by itself.
    fn next_header(&mut self) -> Result<Option<Header>, CloseReason> {
        loop {
            if let Some(reason) = self.close_reason() {
                return Err(reason);
            }
            if !self.takes_requests() {
                return Ok(None);
            }
            let header = match self.input.peek(self.body_bytes_max()) {
                Ok(Some(header)) => header,
                Ok(None) if self.peer_done => {
                    let reason = match self.input.buffered() {
                        0 => CloseReason::PeerClosed,
                        bytes => CloseReason::PeerClosedMidFrame { bytes },
                    };
                    return Err(self.close_with(reason));
                }
                Ok(None) => return Ok(None),
                Err(error) => {
                    let (code, message) = (error.code(), error.to_string());
                    return Err(self.refuse_and_close(
                        error.correlation(),
                        (code, &message),
                        CloseReason::Frame(error),
                    ));
                }
            };
            match &self.peer {
                None => self.handshake(&header)?,
                Some(peer) if header.version != peer.version => {
                    let (got, agreed) = (header.version, peer.version);
                    let reason = CloseReason::VersionChanged { got, agreed };
                    let code = ErrorCode::UnsupportedVersion;
                    let message = reason.to_string();
                    return Err(self.refuse_and_close(
                        header.correlation,
                        (code, &message),
                        reason,
                    ));
                }
                Some(_) if header.opcode == Opcode::Hello as u8 => {
                    self.input.take_body(&header);
                    self.output.answer_error(
                        header.correlation,
                        ErrorCode::InvalidArgument,
                        "this connection has said hello already",
                    );
                }
                Some(_) => return Ok(Some(header)),
            }
        }
    }

    /// Before the handshake only a `Hello` is expected, so a stranger gets little memory.
    fn body_bytes_max(&self) -> u32 {
        if self.peer.is_some() { self.limits.frame_bytes_max } else { HELLO_BODY_BYTES_MAX }
    }

    fn handshake(&mut self, header: &Header) -> Result<(), CloseReason> {
        let correlation = header.correlation;
        if header.opcode != Opcode::Hello as u8 {
            let reason = CloseReason::HandshakeRequired { opcode: header.opcode };
            let told = (ErrorCode::HandshakeRequired, "send Hello first on every connection");
            return Err(self.refuse_and_close(correlation, told, reason));
        }
        let identity = Arc::clone(&self.identity);
        let (min, max, asked, client, cluster_fits) =
            match decode_request(header, self.input.take_body(header)) {
                Ok(Request::Hello { version_min, version_max, features, cluster, client }) => {
                    let fits = cluster.is_empty() || cluster == identity.cluster;
                    (version_min, version_max, features, client.to_owned(), fits)
                }
                Ok(_) => unreachable!("the opcode is Hello's"),
                Err(error) => {
                    let message = error.to_string();
                    let told = (error.code(), message.as_str());
                    let reason = CloseReason::BadHandshake(error);
                    return Err(self.refuse_and_close(correlation, told, reason));
                }
            };
        let version = max.min(VERSIONS.1);
        if min > max || version < min.max(VERSIONS.0) {
            let message = format!(
                "the client speaks protocol versions {min} to {max}, the server {} to {}",
                VERSIONS.0, VERSIONS.1
            );
            let told = (ErrorCode::UnsupportedVersion, message.as_str());
            let reason = CloseReason::UnsupportedVersion { min, max };
            return Err(self.refuse_and_close(correlation, told, reason));
        }
        if !cluster_fits {
            let message = format!("this node belongs to cluster `{}`", identity.cluster);
            let told = (ErrorCode::WrongCluster, message.as_str());
            return Err(self.refuse_and_close(correlation, told, CloseReason::WrongCluster));
        }
        let features = asked & identity.features;
        self.peer = Some(Peer { version, features, client });
        let welcome = Welcome {
            version,
            features,
            storage: identity.storage,
            cluster: &identity.cluster,
            node: &identity.node,
            server: &identity.server,
            shard: identity.shard,
            frame_bytes_max: self.limits.frame_bytes_max,
            in_flight_max: self.limits.in_flight_max,
            key_bytes_max: KEY_BYTES_MAX as u32,
            value_bytes_max: VALUE_BYTES_MAX as u32,
        };
        self.output.answer(correlation, &Response::Welcome(welcome));
        Ok(())
    }

    /// Answers with an error, then closes once it is sent.
    fn refuse_and_close(
        &mut self,
        correlation: u64,
        (code, message): (ErrorCode, &str),
        reason: CloseReason,
    ) -> CloseReason {
        self.output.answer_error(correlation, code, message);
        self.close_with(reason)
    }

    fn close_with(&mut self, reason: CloseReason) -> CloseReason {
        let reason = *self.closing.get_or_insert(reason);
        if reason.is_abrupt() {
            self.output.discard();
        }
        reason
    }

    /// Responses and the bytes to write.
    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Whether bytes wait to be written.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        self.output.pending_bytes() > 0
    }

    /// Ends the connection when the node stops: requests in flight are still answered, no new ones
    /// are yielded.
    pub fn shut_down(&mut self) {
        self.close_with(CloseReason::Shutdown);
    }

    /// Why the connection ends, when it does.
    #[must_use]
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.closing.or(self.output.overflowed().then_some(CloseReason::OutputOverflow))
    }

    /// True when the socket can be closed: the connection ends, every yielded request is answered
    /// and every answer is written (or given up).
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.close_reason().is_some_and(|reason| {
            reason.is_abrupt() || (self.output.in_flight() == 0 && !self.wants_write())
        })
    }

    /// When the peer will have done nothing for too long, if nothing happens before. `None` while
    /// the server owes an answer: the request's own deadline counts then.
    #[must_use]
    pub fn timeout_at(&self, timeouts: &Timeouts) -> Option<Instant> {
        self.timeout(timeouts).map(|(at, _)| at)
    }

    /// Closes the connection when `now` is at or past [`Connection::timeout_at`].
    pub fn on_timeout(&mut self, now: Instant, timeouts: &Timeouts) -> Option<CloseReason> {
        let (at, reason) = self.timeout(timeouts)?;
        (at <= now).then(|| {
            // A peer that does not take its last words is not waited for either.
            self.closing = reason.is_abrupt().then_some(reason).or(self.closing);
            self.close_with(reason)
        })
    }

    fn timeout(&self, timeouts: &Timeouts) -> Option<(Instant, CloseReason)> {
        if self.is_finished() {
            return None;
        }
        let quiet_since = self.output.last_progress();
        let owes_input = self.wants_read() && self.input.buffered() > 0;
        if self.wants_write() || owes_input {
            let stalled = (quiet_since + timeouts.stall, CloseReason::Stalled);
            let late = (self.opened + timeouts.handshake, CloseReason::HandshakeTimeout);
            let shaking_hands = self.peer.is_none() && self.closing.is_none();
            return Some(if shaking_hands && late.0 < stalled.0 { late } else { stalled });
        }
        if self.peer.is_none() {
            return Some((self.opened + timeouts.handshake, CloseReason::HandshakeTimeout));
        }
        (self.output.in_flight() == 0).then(|| (quiet_since + timeouts.idle, CloseReason::Idle))
    }
}
