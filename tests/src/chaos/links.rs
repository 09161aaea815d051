//! TCP proxies between the nodes of a cluster, one per ordered pair of nodes as far as anybody can
//! tell: a node's peers are told an address at which the harness listens (`listen.peers_advertise`), and
//! who dialled is in the first frame of each connection.
//!
//! A cut holds bytes back, as TCP does behind a broken cable: they arrive when the link heals, also
//! those of connections that were given up meanwhile. Nothing is lost or changed within a connection,
//! and the end of a connection waits like its bytes do.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ironring_net::peer::Handshake;
use ironring_net::peer::frame::{
    FRAME_BYTES_MAX, Frame, HANDSHAKE_VERSION, HEADER_BYTES, decode_header,
};

use super::plan::LinkState;

/// Between two looks at a link whose bytes are held back.
const HELD_POLL: Duration = Duration::from_millis(5);
/// A quiet connection looks so often whether the run is over.
const QUIET_POLL: Duration = Duration::from_millis(100);
/// Who dials has so long to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const CHUNK_BYTES: usize = 64 << 10;

const CUT: u64 = u64::MAX;

/// The links of a cluster.
#[derive(Clone, Debug)]
pub struct Links(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    names: Vec<String>,
    /// Per sender and receiver: 0, a delay in milliseconds, or [`CUT`].
    states: Vec<AtomicU64>,
    /// Open connections: who dialled, whom, and both sockets.
    connections: Mutex<Vec<Connection>>,
    passed_bytes: AtomicU64,
    dialled: AtomicU64,
    next: AtomicU64,
}

#[derive(Debug)]
struct Connection {
    id: u64,
    ends: [usize; 2],
    sockets: [TcpStream; 2],
}

impl Links {
    /// Open links between nodes of these names. Nothing is proxied yet: [`Links::serve`].
    #[must_use]
    pub fn new(names: Vec<String>) -> Links {
        let states = (0..names.len() * names.len()).map(|_| AtomicU64::new(0)).collect();
        Links(Arc::new(Shared {
            names,
            states,
            connections: Mutex::default(),
            passed_bytes: AtomicU64::new(0),
            dialled: AtomicU64::new(0),
            next: AtomicU64::new(0),
        }))
    }

    /// Passes what arrives at `listener` to a node at `target`, until the process ends.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn serve(&self, listener: TcpListener, node: usize, target: SocketAddr) -> io::Result<()> {
        let links = self.clone();
        let accept = move || {
            for socket in listener.incoming().flatten() {
                let links = links.clone();
                // Without a thread the connection is closed, and dialled again.
                let _ =
                    std::thread::Builder::new().spawn(move || links.carry(socket, node, target));
            }
        };
        std::thread::Builder::new().name(format!("link-{node}")).spawn(accept).map(drop)
    }

    /// From now on what `from` sends to `to` fares so.
    pub fn set(&self, from: usize, to: usize, state: LinkState) {
        let state = match state {
            LinkState::Open => 0,
            LinkState::Delay(ms) => ms,
            LinkState::Cut => CUT,
        };
        self.state(from, to).store(state, Ordering::Relaxed);
    }

    /// Opens every link.
    pub fn heal(&self) {
        self.0.states.iter().for_each(|state| state.store(0, Ordering::Relaxed));
    }

    /// Breaks the connections between two nodes; says how many.
    pub fn reset(&self, a: usize, b: usize) -> usize {
        let connections = self.connections();
        let between = connections.iter().filter(|c| c.ends == [a, b] || c.ends == [b, a]);
        between
            .map(|c| c.sockets.iter().for_each(|socket| drop(socket.shutdown(Shutdown::Both))))
            .count()
    }

    /// Bytes that were passed on, and connections that were dialled.
    #[must_use]
    pub fn passed(&self) -> (u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.0.passed_bytes), read(&self.0.dialled))
    }

    fn state(&self, from: usize, to: usize) -> &AtomicU64 {
        &self.0.states[from * self.0.names.len() + to]
    }

    fn connections(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.0.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One connection from beginning to end.
    fn carry(&self, mut dialler: TcpStream, to: usize, target: SocketAddr) {
        let Some((from, hello)) = self.who_dials(&mut dialler) else { return };
        let Ok(node) = TcpStream::connect_timeout(&target, CONNECT_TIMEOUT) else { return };
        let both = |socket: &TcpStream| Some([socket.try_clone().ok()?, socket.try_clone().ok()?]);
        let _ = (dialler.set_nodelay(true), node.set_nodelay(true));
        let (Some([there_in, back_out]), Some([there_out, back_in])) =
            (both(&dialler), both(&node))
        else {
            return;
        };
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.0.dialled.fetch_add(1, Ordering::Relaxed);
        self.connections().push(Connection { id, ends: [from, to], sockets: [dialler, node] });
        std::thread::scope(|scope| {
            let there = || self.pump((from, to), there_in, there_out, hello);
            if std::thread::Builder::new().spawn_scoped(scope, there).is_ok() {
                self.pump((to, from), back_in, back_out, Vec::new());
            }
        });
        self.connections().retain(|connection| connection.id != id);
    }

    /// The node that dialled, and the bytes that said so.
    fn who_dials(&self, socket: &mut TcpStream) -> Option<(usize, Vec<u8>)> {
        socket.set_read_timeout(Some(HELLO_TIMEOUT)).ok()?;
        let mut bytes = vec![0; HEADER_BYTES];
        socket.read_exact(&mut bytes).ok()?;
        let frame = decode_header(&bytes, HANDSHAKE_VERSION).ok()?.frame_bytes();
        bytes.resize(frame.min(FRAME_BYTES_MAX), 0);
        socket.read_exact(&mut bytes[HEADER_BYTES..]).ok()?;
        let handshake = Frame::parse(&bytes, HANDSHAKE_VERSION).ok()?.handshake().ok()?;
        let Handshake::Hello(hello) = handshake else { return None };
        let name = hello.identity.node_name;
        let from = self.0.names.iter().position(|other| other == name)?;
        Some((from, bytes))
    }

    /// One direction of a connection. Ends when its source has ended and everything was passed on, or
    /// when either socket breaks.
    fn pump(
        &self,
        (from, to): (usize, usize),
        mut source: TcpStream,
        mut sink: TcpStream,
        first: Vec<u8>,
    ) {
        let state = || self.state(from, to).load(Ordering::Relaxed);
        let mut waiting: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
        if !first.is_empty() {
            waiting.push_back((Instant::now() + delay(state()), first));
        }
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut ended = false;
        loop {
            if state() == CUT {
                std::thread::sleep(HELD_POLL);
                continue;
            }
            while let Some((due, bytes)) = waiting.front() {
                if *due > Instant::now() || state() == CUT {
                    break;
                }
                // First, so that it is counted when somebody has it.
                self.0.passed_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                if sink.write_all(bytes).is_err() {
                    // Nobody reads this any more: the other side has to hear that.
                    let _ = source.shutdown(Shutdown::Both);
                    return;
                }
                waiting.pop_front();
            }
            let next =
                waiting.front().map(|(due, _)| due.saturating_duration_since(Instant::now()));
            if ended {
                match next {
                    Some(left) => std::thread::sleep(left.clamp(HELD_POLL / 5, QUIET_POLL)),
                    None => break,
                }
                continue;
            }
            let patience = next.map_or(QUIET_POLL, |left| left.clamp(HELD_POLL / 5, QUIET_POLL));
            let _ = source.set_read_timeout(Some(patience));
            match source.read(&mut chunk) {
                Ok(0) => ended = true,
                Ok(len) => {
                    let state = state();
                    let due =
                        Instant::now() + if state == CUT { Duration::ZERO } else { delay(state) };
                    waiting.push_back((due, chunk[..len].to_vec()));
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::Interrupted => {}
                    _ => ended = true,
                },
            }
        }
        let _ = sink.shutdown(Shutdown::Write);
    }
}

fn delay(state: u64) -> Duration {
    if state == CUT { Duration::ZERO } else { Duration::from_millis(state) }
}

#[cfg(test)]
mod tests {
    use ironring_core::{Incarnation, NodeId, ShardId, StorageUuid, WallTime};
    use ironring_net::peer::hello::{ClusterUuid, Identity};
    use ironring_net::peer::{Hello, Output};

    use super::*;

    fn hello(name: &str) -> Vec<u8> {
        let identity = Identity {
            cluster_name: "chaos",
            cluster: ClusterUuid(1),
            node: NodeId(1),
            node_name: name,
            storage: StorageUuid(1),
            incarnation: Incarnation(1),
            shard_count: 1,
            wall: WallTime(1),
            features: 0,
        };
        let hello = Hello {
            versions: (1, 1),
            identity,
            to_node: NodeId(2),
            from_shard: ShardId(0),
            to_shard: ShardId(0),
            token: &[],
            mark: 0,
        };
        let mut output = Output::new(1 << 20);
        output.handshake(&Handshake::Hello(hello)).unwrap();
        output.bytes().to_vec()
    }

    /// A dialled connection from `a` to `b`, and what `b` accepted.
    fn connected(links: &Links) -> (TcpStream, TcpStream, usize) {
        let node = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = proxy.local_addr().unwrap();
        links.serve(proxy, 1, node.local_addr().unwrap()).unwrap();
        let mut dialler = TcpStream::connect(address).unwrap();
        let first = hello("a");
        dialler.write_all(&first).unwrap();
        let (mut accepted, _) = node.accept().unwrap();
        let mut read = vec![0; first.len()];
        accepted.read_exact(&mut read).unwrap();
        assert_eq!(read, first);
        (dialler, accepted, first.len())
    }

    fn links() -> Links {
        Links::new(vec!["a".to_owned(), "b".to_owned()])
    }

    fn nothing_comes(socket: &mut TcpStream) {
        socket.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
        let error = socket.read(&mut [0; 8]).unwrap_err();
        assert!(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut));
        socket.set_read_timeout(None).unwrap();
    }

    fn comes(socket: &mut TcpStream, what: &[u8]) {
        let mut read = vec![0; what.len()];
        socket.read_exact(&mut read).unwrap();
        assert_eq!(read, what);
    }

    #[test]
    fn a_link_that_is_cut_one_way_holds_that_way_only_and_loses_nothing() {
        let links = links();
        let (mut a, mut b, first) = connected(&links);
        links.set(0, 1, LinkState::Cut);
        a.write_all(b"held").unwrap();
        b.write_all(b"passes").unwrap();
        comes(&mut a, b"passes");
        nothing_comes(&mut b);
        links.heal();
        comes(&mut b, b"held");
        assert_eq!(links.passed(), (first as u64 + 10, 1));
    }

    #[test]
    fn the_end_of_a_connection_is_held_back_too() {
        let links = links();
        let (a, mut b, _) = connected(&links);
        links.set(0, 1, LinkState::Cut);
        drop(a);
        nothing_comes(&mut b);
        links.set(0, 1, LinkState::Open);
        assert_eq!(b.read(&mut [0; 8]).unwrap(), 0);
    }

    #[test]
    fn what_is_delayed_keeps_its_order() {
        let links = links();
        let (mut a, mut b, _) = connected(&links);
        links.set(0, 1, LinkState::Delay(20));
        for n in 0..20u8 {
            a.write_all(&[n]).unwrap();
        }
        links.set(0, 1, LinkState::Open);
        a.write_all(&[20]).unwrap();
        comes(&mut b, &(0..=20).collect::<Vec<u8>>());
    }

    #[test]
    fn a_reset_breaks_what_is_between_the_two() {
        let links = links();
        let (mut a, mut b, _) = connected(&links);
        assert_eq!(links.reset(1, 0), 1);
        assert_eq!(a.read(&mut [0; 8]).unwrap(), 0);
        assert_eq!(b.read(&mut [0; 8]).unwrap(), 0);
    }

    #[test]
    fn a_stranger_is_not_let_through() {
        let links = links();
        let node = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = proxy.local_addr().unwrap();
        links.serve(proxy, 1, node.local_addr().unwrap()).unwrap();
        let mut stranger = TcpStream::connect(address).unwrap();
        stranger.write_all(&hello("nobody")).unwrap();
        assert_eq!(stranger.read(&mut [0; 8]).unwrap_or(0), 0);
        assert_eq!(links.passed(), (0, 0));
    }
}
