//! A proxy before a node that changes what diallers say of themselves: a clock that is off, versions of
//! another release, a cluster of the same name. Nobody has to be built for that.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ironring_net::peer::frame::{
    FRAME_BYTES_MAX, Frame, HANDSHAKE_VERSION, HEADER_BYTES, decode_header,
};
use ironring_net::peer::{Handshake, Hello, Output};

/// Who dials has so long to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What becomes of a Hello.
pub type Change = fn(&mut Hello<'_>);

/// The proxy. Takes no more connections once it is dropped.
pub struct Forge {
    /// Where it listens.
    pub address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Forge {
    /// Listens in place of the node at `target`.
    ///
    /// # Errors
    /// The system refuses.
    pub fn new(target: SocketAddr, change: Change) -> io::Result<Forge> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let accept = move || {
            while !ends.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((socket, _)) => {
                        // What fails is a connection that is closed, and dialled again.
                        std::thread::spawn(move || carry(socket, target, change));
                    }
                    Err(_) => std::thread::sleep(LOOK_EVERY),
                }
            }
        };
        let thread = Some(std::thread::Builder::new().name("forge".to_owned()).spawn(accept)?);
        Ok(Forge { address, over, thread })
    }
}

impl Drop for Forge {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to panic with, and nobody waits for what it would say.
            let _ = thread.join();
        }
    }
}

/// One connection from beginning to end.
fn carry(mut dialler: TcpStream, target: SocketAddr, change: Change) -> io::Result<()> {
    dialler.set_nonblocking(false)?;
    let hello = forged(&mut dialler, change)?;
    let mut node = TcpStream::connect(target)?;
    node.write_all(&hello)?;
    dialler.set_read_timeout(None)?;
    let (mut back_in, mut back_out) = (node.try_clone()?, dialler.try_clone()?);
    let back = std::thread::spawn(move || {
        let _ = io::copy(&mut back_in, &mut back_out);
        let _ = back_out.shutdown(Shutdown::Both);
    });
    let _ = io::copy(&mut dialler, &mut node);
    let _ = node.shutdown(Shutdown::Both);
    let _ = back.join();
    Ok(())
}

/// The dialler's Hello, changed.
fn forged(dialler: &mut TcpStream, change: Change) -> io::Result<Vec<u8>> {
    dialler.set_read_timeout(Some(HELLO_TIMEOUT))?;
    let mut bytes = vec![0; HEADER_BYTES];
    dialler.read_exact(&mut bytes)?;
    let header = decode_header(&bytes, HANDSHAKE_VERSION).map_err(io::Error::other)?;
    bytes.resize(header.frame_bytes().min(FRAME_BYTES_MAX), 0);
    dialler.read_exact(&mut bytes[HEADER_BYTES..])?;
    changed(&bytes, change)
}

fn changed(bytes: &[u8], change: Change) -> io::Result<Vec<u8>> {
    let frame = Frame::parse(bytes, HANDSHAKE_VERSION).map_err(io::Error::other)?;
    let Handshake::Hello(mut hello) = frame.handshake().map_err(io::Error::other)? else {
        return Err(io::Error::other("the first frame is no Hello"));
    };
    change(&mut hello);
    let mut output = Output::new(1 << 20);
    output.handshake(&Handshake::Hello(hello)).map_err(io::Error::other)?;
    Ok(output.bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use ironring_core::{Incarnation, NodeId, ShardId, StorageUuid, WallTime};
    use ironring_net::peer::hello::{ClusterUuid, Identity};

    use super::*;

    #[test]
    fn only_what_is_to_be_changed_is() {
        let identity = Identity {
            cluster_name: "chaos",
            cluster: ClusterUuid(1),
            node: NodeId(1),
            node_name: "a",
            storage: StorageUuid(1),
            incarnation: Incarnation(1),
            shard_count: 1,
            wall: WallTime(1),
            features: 0,
        };
        let (to_node, shard) = (NodeId(2), ShardId(0));
        let hello = Hello {
            versions: (1, 1),
            identity,
            to_node,
            from_shard: shard,
            to_shard: shard,
            token: b"secret",
            mark: 9,
        };
        let mut output = Output::new(1 << 20);
        output.handshake(&Handshake::Hello(hello)).unwrap();
        let bytes = changed(output.bytes(), |hello| hello.identity.wall = WallTime(77)).unwrap();
        let frame = Frame::parse(&bytes, HANDSHAKE_VERSION).unwrap();
        let expected = Hello { identity: Identity { wall: WallTime(77), ..identity }, ..hello };
        assert_eq!(frame.handshake().unwrap(), Handshake::Hello(expected));
    }
}
