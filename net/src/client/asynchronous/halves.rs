//! A connection as two halves for callers that make their own frames: the cheapest way in and out.
//!
//! Frames collect in [`Sender::buffer`] and leave in one write; a read takes up to 64 KiB and
//! yields every frame in it in place. Nothing is allocated per request.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ironring_core::limits::FRAME_BODY_BYTES_MAX;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt, Splitable};
use monoio::net::TcpStream;
use monoio::net::tcp::{TcpOwnedReadHalf, TcpOwnedWriteHalf};
use monoio::time::timeout;

use super::names::Lookup;
use crate::client::call::{check_version, closed, unexpected};
use crate::client::{ClientConfig, ClientError, ServerInfo};
use crate::codec::{decode_response, encode_request};
use crate::frame::Header;
use crate::input::{Input, RECEIVE_BYTES_MAX};
use crate::message::Response;

/// Frames out.
#[derive(Debug)]
pub struct Sender {
    address: String,
    stream: TcpOwnedWriteHalf,
    out: Vec<u8>,
}

/// Frames in.
#[derive(Debug)]
pub struct Receiver {
    address: String,
    stream: TcpOwnedReadHalf,
    input: Input,
    /// What the kernel reads into.
    read: Vec<u8>,
    /// The protocol version agreed on; nothing before that.
    version: Option<u8>,
}

/// Connects and says hello. The runtime must have its timer enabled.
///
/// # Errors
/// [`ClientError::Io`] or [`ClientError::Timeout`] when there is no connection,
/// [`ClientError::Server`] when the server refuses the handshake.
pub async fn connect(
    address: &str,
    config: &ClientConfig,
) -> Result<(Sender, Receiver, ServerInfo), ClientError> {
    connect_within(address, config, config.connect_timeout, &Lookup::default()).await
}

pub(super) async fn connect_within(
    address: &str,
    config: &ClientConfig,
    limit: Duration,
    lookup: &Lookup,
) -> Result<(Sender, Receiver, ServerInfo), ClientError> {
    let until = Instant::now() + limit;
    let shaking_hands = async {
        let io = |source| ClientError::Io { address: address.to_owned(), source };
        let addresses = lookup.addresses(address).await.map_err(io)?;
        let stream = connect_tcp(&addresses, until).await.map_err(io)?;
        stream.set_nodelay(true).map_err(io)?;
        let (read, write) = stream.into_split();
        let mut sender = Sender { address: address.to_owned(), stream: write, out: Vec::new() };
        let mut receiver = Receiver {
            address: address.to_owned(),
            stream: read,
            input: Input::default(),
            read: Vec::with_capacity(RECEIVE_BYTES_MAX),
            version: None,
        };
        encode_request(sender.buffer(), 1, 0, &config.hello())?;
        sender.flush().await?;
        let (header, body) = receiver.receive().await?;
        let server: ServerInfo = match decode_response(&header, body)? {
            Response::Welcome(welcome) => welcome.into(),
            Response::Error { code, detail, message } => {
                return Err(ClientError::Server { code, detail, message: message.to_owned() });
            }
            other => return Err(unexpected(&other)),
        };
        receiver.version = Some(server.version);
        Ok((sender, receiver, server))
    };
    timeout(limit, shaking_hands).await.unwrap_or(Err(ClientError::Timeout))
}

/// Connects to the first of a name's addresses that lets it.
async fn connect_tcp(addresses: &[SocketAddr], until: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (at, address) in addresses.iter().enumerate() {
        // One that swallows packets must leave time for the others.
        let remaining = u32::try_from(addresses.len() - at).unwrap_or(u32::MAX);
        let share = until.saturating_duration_since(Instant::now()) / remaining;
        match timeout(share, TcpStream::connect_addr(*address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_elapsed) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

impl Sender {
    /// Where to append whole frames ([`encode_request`], [`crate::frame::set_correlation`]).
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Writes everything collected, in one write when the socket takes it.
    ///
    /// # Errors
    /// When the connection broke; the sender is of no more use.
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        let full = std::mem::take(&mut self.out);
        self.out = self.write(full).await?;
        Ok(())
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Writes a buffer and gives its memory back, empty.
    pub(super) async fn write(&mut self, bytes: Vec<u8>) -> Result<Vec<u8>, ClientError> {
        let (result, mut bytes) = self.stream.write_all(bytes).await;
        let io = |source| ClientError::Io { address: self.address.clone(), source };
        result.map_err(io)?;
        bytes.clear();
        Ok(bytes)
    }
}

impl Receiver {
    /// The next frame that has been read already, in place. The body's checksum is not checked yet:
    /// [`decode_response`] does.
    ///
    /// # Errors
    /// [`ClientError::Protocol`] when the bytes are no frame, or one of another version.
    pub fn next_frame(&mut self) -> Result<Option<(Header, &[u8])>, ClientError> {
        let Some(header) = self.peek()? else { return Ok(None) };
        Ok(Some((header, self.input.take_body(&header))))
    }

    fn peek(&mut self) -> Result<Option<Header>, ClientError> {
        let header = self.input.peek(FRAME_BODY_BYTES_MAX as u32)?;
        if let Some((header, version)) = header.as_ref().zip(self.version) {
            check_version(header, version)?;
        }
        Ok(header)
    }

    /// Waits for bytes and reads what there is, up to 64 KiB. Call [`Receiver::next_frame`] until
    /// it yields nothing before.
    ///
    /// # Errors
    /// When the connection broke or the server closed it.
    pub async fn fill(&mut self) -> Result<(), ClientError> {
        let (result, read) = self.stream.read(std::mem::take(&mut self.read)).await;
        self.read = read;
        let io = |source| ClientError::Io { address: self.address.clone(), source };
        match result.map_err(io)? {
            0 => Err(io(closed())),
            len => {
                let space = self.input.space(len, FRAME_BODY_BYTES_MAX as u32);
                space[..len].copy_from_slice(&self.read[..len]);
                self.input.filled(len);
                self.read.clear();
                Ok(())
            }
        }
    }

    /// The next frame, waited for.
    ///
    /// # Errors
    /// As [`Receiver::fill`] and [`Receiver::next_frame`].
    pub async fn receive(&mut self) -> Result<(Header, &[u8]), ClientError> {
        let header = loop {
            if let Some(header) = self.peek()? {
                break header;
            }
            self.fill().await?;
        };
        Ok((header, self.input.take_body(&header)))
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }
}

/// What became of a connection, to be told to each request that was on it.
#[derive(Clone, Debug)]
pub(super) struct Broken {
    address: String,
    kind: io::ErrorKind,
    reason: String,
}

impl Broken {
    pub fn new(address: &str, error: &ClientError) -> Broken {
        let kind = match error {
            ClientError::Io { source, .. } => source.kind(),
            ClientError::Protocol(_) => io::ErrorKind::InvalidData,
            ClientError::Timeout => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::Other,
        };
        let reason = match error {
            ClientError::Io { source, .. } => source.to_string(),
            other => other.to_string(),
        };
        Broken { address: address.to_owned(), kind, reason }
    }

    pub fn error(&self) -> ClientError {
        let source = io::Error::new(self.kind, self.reason.clone());
        ClientError::Io { address: self.address.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::asynchronous::tests::run;
    use crate::client::fake::Cluster;
    use std::net::TcpListener;

    #[test]
    fn every_address_of_a_name_is_tried() {
        let cluster = Cluster::start();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let live = cluster.address(0).parse().unwrap();
        run(async {
            let until = Instant::now() + Duration::from_secs(60);
            let stream = connect_tcp(&[closed, closed, live], until).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), live);
            let error = connect_tcp(&[closed], until).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            let error = connect_tcp(&[], until).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        });
    }

    /// The fake listens on 127.0.0.1 only, and the name may have `::1` first.
    #[test]
    fn a_name_is_as_good_as_an_address() {
        let cluster = Cluster::start();
        let local: SocketAddr = cluster.address(0).parse().unwrap();
        let address = format!("localhost:{}", local.port());
        run(async {
            connect(&address, &ClientConfig::new(&address)).await.unwrap();
        });
    }
}
