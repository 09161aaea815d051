//! Sockets a node listens on, and where that is.

use std::net::SocketAddr;
use std::time::Duration;

use super::node::NodeError;
use super::peers;
use crate::config::Config;

/// How long a start waits for an address that is in use, and how often it tries.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(2);
const ADDRESS_NAP: Duration = Duration::from_millis(10);

/// Where a running node can be reached.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Where clients connect first.
    pub clients: SocketAddr,
    /// One per shard.
    pub shards: Vec<SocketAddr>,
    /// Where other nodes connect.
    pub peers: SocketAddr,
}

/// Sockets that listen.
pub(super) struct Listeners {
    /// One per shard, all on the common address.
    pub common: Vec<socket2::Socket>,
    /// One per shard, each on its own.
    pub own: Vec<socket2::Socket>,
    /// For other nodes.
    pub peers: socket2::Socket,
    pub addresses: Addresses,
}

/// Where clients are told to connect for a socket on `address`.
pub(super) fn advertised(config: &Config, address: SocketAddr) -> String {
    if config.listen.advertise.is_empty() {
        address.to_string()
    } else {
        format!("{}:{}", config.listen.advertise, address.port())
    }
}

/// Binds the sockets of every shard: one on the common address, which the kernel spreads new
/// connections over, and one of its own, so that a client can choose its shard; and one for nodes.
pub(super) fn listen(config: &Config, shards: u16) -> Result<Listeners, NodeError> {
    let clients = config.listen.clients;
    // A socket without SO_REUSEPORT first: it fails when anybody else listens there, whereas the
    // shards' own sockets would quietly share the port with another process. A port the kernel
    // chooses is nobody else's, and stays ours: it is never let go between two sockets.
    if clients.port() != 0 {
        bind(clients, false)?;
    }
    let first = listener(clients, true)?;
    let clients = address_of(&first);
    let nodes = patiently(config.listen.peers, peers::listen)?;
    let addresses = Addresses { clients, shards: Vec::new(), peers: address_of(&nodes) };
    let mut listeners = Listeners { common: vec![first], own: Vec::new(), peers: nodes, addresses };
    for _ in 1..shards {
        listeners.common.push(listener(clients, true)?);
    }
    for shard in 0..shards {
        let port = match config.listen.shard_port_base {
            0 => 0,
            base => base.checked_add(shard).ok_or_else(|| {
                NodeError::Settings(format!("listen.shard_port_base {base} + {shard} is no port"))
            })?,
        };
        let own = listener(SocketAddr::new(clients.ip(), port), false)?;
        listeners.addresses.shards.push(address_of(&own));
        listeners.own.push(own);
    }
    Ok(listeners)
}

fn listener(address: SocketAddr, share: bool) -> Result<socket2::Socket, NodeError> {
    let socket = bind(address, share)?;
    socket.listen(1024).map_err(|source| NodeError::Listen { address, source })?;
    Ok(socket)
}

fn address_of(socket: &socket2::Socket) -> SocketAddr {
    let address = socket.local_addr().ok().and_then(|a| a.as_socket());
    address.expect("the socket was bound to an internet address")
}

fn bind(address: SocketAddr, share: bool) -> Result<socket2::Socket, NodeError> {
    patiently(address, |address| bind_now(address, share))
}

/// Makes a socket on `address`. Waits a little for an address in use: the kernel closes the sockets of a
/// process that was killed only when it has taken its rings down, behind the end of the process.
fn patiently(
    address: SocketAddr,
    make: impl Fn(SocketAddr) -> std::io::Result<socket2::Socket>,
) -> Result<socket2::Socket, NodeError> {
    let begin = std::time::Instant::now();
    loop {
        match make(address) {
            Err(source)
                if source.kind() == std::io::ErrorKind::AddrInUse
                    && begin.elapsed() < ADDRESS_PATIENCE =>
            {
                std::thread::sleep(ADDRESS_NAP);
            }
            made => return made.map_err(|source| NodeError::Listen { address, source }),
        }
    }
}

fn bind_now(address: SocketAddr, share: bool) -> std::io::Result<socket2::Socket> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if share {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}
