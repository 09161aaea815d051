//! One connection: frames out, frames in.

#![expect(clippy::disallowed_types, reason = "waiting for a socket has a deadline")]

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use ironring_core::limits::FRAME_BODY_BYTES_MAX;

use crate::client::call::{check_version, closed, unexpected};
use crate::client::{ClientError, ServerInfo};
use crate::codec::{decode_response, encode_request};
use crate::frame::Header;
use crate::input::{Input, RECEIVE_BYTES_MAX};
use crate::message::{Request, Response};

/// A connection unused for longer is probed before it is used again: servers close idle ones.
const PROBE_AFTER: Duration = Duration::from_secs(1);

/// A connection after its handshake, for callers that make their own frames and match answers to
/// requests by correlation themselves.
#[derive(Debug)]
pub struct RawConnection {
    address: String,
    stream: TcpStream,
    input: Input,
    server: ServerInfo,
    /// The protocol version agreed on; nothing before that.
    version: Option<u8>,
    last_used: Instant,
}

impl RawConnection {
    /// Connects and says hello.
    ///
    /// # Errors
    /// [`ClientError::Io`] or [`ClientError::Timeout`] when there is no connection,
    /// [`ClientError::Server`] when the server refuses the handshake.
    pub fn connect(
        address: &str,
        hello: &Request<'_>,
        until: Instant,
    ) -> Result<RawConnection, ClientError> {
        let stream = connect_tcp(address, until)?;
        let server = ServerInfo {
            version: 0,
            features: 0,
            storage: Default::default(),
            cluster: String::new(),
            node: String::new(),
            server: String::new(),
            shard: 0,
            frame_bytes_max: 0,
            in_flight_max: 1,
        };
        let (input, last_used) = (Input::default(), Instant::now());
        let address = address.to_owned();
        let version = None;
        let mut raw = RawConnection { address, stream, input, server, version, last_used };
        let mut frame = Vec::new();
        encode_request(&mut frame, 1, 0, hello)?;
        raw.send(&frame, until)?;
        let (header, body) = raw.receive(until)?;
        raw.server = match decode_response(&header, body)? {
            Response::Welcome(welcome) => welcome.into(),
            Response::Error { code, detail, message } => {
                return Err(ClientError::Server { code, detail, message: message.to_owned() });
            }
            other => return Err(unexpected(&other)),
        };
        raw.version = Some(raw.server.version);
        Ok(raw)
    }

    /// What the server said of itself.
    #[must_use]
    pub fn server(&self) -> &ServerInfo {
        &self.server
    }

    /// Writes whole frames, one or many.
    ///
    /// # Errors
    /// When they are not written in time; some of the bytes may have been.
    pub fn send(&mut self, frames: &[u8], until: Instant) -> Result<(), ClientError> {
        let mut rest = frames;
        while !rest.is_empty() {
            let left = time_left(until)?;
            self.stream.set_write_timeout(Some(left)).map_err(|error| self.io(error))?;
            match self.stream.write(rest) {
                Ok(0) => return Err(self.io(closed())),
                Ok(written) => rest = &rest[written..],
                Err(error) if is_timeout(&error) => return Err(ClientError::Timeout),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.io(error)),
            }
        }
        self.last_used = Instant::now();
        Ok(())
    }

    /// The next frame, in place in the connection's buffer. The body's checksum is not checked yet:
    /// [`decode_response`] does.
    ///
    /// # Errors
    /// When no whole frame comes in time or the server closes; [`ClientError::Protocol`] when what
    /// comes is no frame, or one of another version.
    pub fn receive(&mut self, until: Instant) -> Result<(Header, &[u8]), ClientError> {
        let body_max = FRAME_BODY_BYTES_MAX as u32;
        let header = loop {
            if let Some(header) = self.input.peek(body_max)? {
                break header;
            }
            let left = time_left(until)?;
            self.stream.set_read_timeout(Some(left)).map_err(|error| self.io(error))?;
            let space = self.input.space(RECEIVE_BYTES_MAX, body_max);
            match self.stream.read(space) {
                Ok(0) => return Err(self.io(closed())),
                Ok(read) => self.input.filled(read),
                Err(error) if is_timeout(&error) => return Err(ClientError::Timeout),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.io(error)),
            }
        };
        if let Some(version) = self.version {
            check_version(&header, version)?;
        }
        self.last_used = Instant::now();
        Ok((header, self.input.take_body(&header)))
    }

    /// False when the server has closed the connection while it was unused.
    pub(super) fn is_alive(&mut self) -> bool {
        if self.last_used.elapsed() < PROBE_AFTER {
            return true;
        }
        let probe = || -> io::Result<bool> {
            self.stream.set_nonblocking(true)?;
            let peeked = self.stream.peek(&mut [0]);
            self.stream.set_nonblocking(false)?;
            Ok(matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock))
        };
        probe().unwrap_or(false)
    }

    fn io(&self, source: io::Error) -> ClientError {
        ClientError::Io { address: self.address.clone(), source }
    }
}

fn connect_tcp(address: &str, until: Instant) -> Result<TcpStream, ClientError> {
    let io = |source| ClientError::Io { address: address.to_owned(), source };
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for resolved in address.to_socket_addrs().map_err(io)? {
        match TcpStream::connect_timeout(&resolved, time_left(until)?) {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(io)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(io(last))
}

/// Time until a deadline, never zero: sockets take zero for "for ever".
fn time_left(until: Instant) -> Result<Duration, ClientError> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ClientError::Timeout) } else { Ok(left) }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
