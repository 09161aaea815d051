//! Sockets of the node plane: how they are made and when the kernel gives a silent peer up.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// A peer whose kernel answers nothing for so long is gone: unacknowledged bytes or unanswered probes.
pub const SILENT_MAX: Duration = Duration::from_secs(5);

/// A quiet connection is probed after this, and then every [`PROBE_EVERY`].
const PROBE_AFTER: Duration = Duration::from_secs(2);
const PROBE_EVERY: Duration = Duration::from_secs(1);
const PROBES: u32 = 3;
/// Connections the kernel keeps for the door.
const BACKLOG: i32 = 1024;

const _: () =
    assert!(PROBE_AFTER.as_secs() + PROBE_EVERY.as_secs() * PROBES as u64 <= SILENT_MAX.as_secs());

/// A socket that listens for other nodes, for [`super::Peers::listen`]. Its port is its own: nobody
/// else can listen there.
///
/// # Errors
/// When the address is in use, or not this machine's.
pub fn listen(address: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Frames go out at once, and silence has an end.
pub(super) fn tune(socket: SockRef<'_>) -> std::io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let probes =
        TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(PROBES);
    socket.set_tcp_keepalive(&probes)?;
    socket.set_tcp_user_timeout(Some(SILENT_MAX))
}

/// Begins to connect; the socket is writable when that has ended, one way or the other.
pub(super) fn dial(address: SocketAddr) -> std::io::Result<OwnedFd> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    tune(SockRef::from(&socket))?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}

/// How the attempt ended.
pub(super) fn dialled(socket: &OwnedFd) -> std::io::Result<()> {
    let socket = SockRef::from(socket);
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    let (here, there) = (socket.local_addr()?, socket.peer_addr()?);
    // On one machine a socket can reach itself when nobody listens at a port the kernel gives away.
    if here.as_socket() == there.as_socket() {
        return Err(std::io::Error::from_raw_os_error(libc::ECONNREFUSED));
    }
    Ok(())
}

/// What came of asking a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// So many bytes.
    Bytes(usize),
    /// None now.
    Blocked,
    /// The other side sends no more.
    End,
    /// The connection is no more.
    Failed(Errno),
}

/// Receives what is there.
pub(super) fn receive(socket: &OwnedFd, space: &mut [u8]) -> Moved {
    loop {
        return match recv(socket.as_raw_fd(), space, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => Moved::End,
            Ok(n) => Moved::Bytes(n),
            Err(Errno::EINTR) => continue,
            Err(Errno::EAGAIN) => Moved::Blocked,
            Err(errno) => Moved::Failed(errno),
        };
    }
}

/// Sends what the socket takes.
pub(super) fn transmit(socket: &OwnedFd, bytes: &[u8]) -> Moved {
    loop {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        return match send(socket.as_raw_fd(), bytes, flags) {
            Ok(n) => Moved::Bytes(n),
            Err(Errno::EINTR) => continue,
            Err(Errno::EAGAIN) => Moved::Blocked,
            Err(errno) => Moved::Failed(errno),
        };
    }
}
