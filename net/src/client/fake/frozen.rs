//! A node that takes nothing more.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use ironring_core::Instant;
use socket2::{Domain, Socket, Type};

use super::connection_of;

/// A node that greets the first who connects and reads nothing more until it is told to.
pub(crate) struct Frozen {
    address: SocketAddr,
    goes_on: Sender<()>,
    thread: JoinHandle<()>,
    /// Bytes read since.
    received: Arc<AtomicUsize>,
}

impl Frozen {
    pub fn start() -> Frozen {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        // Set before there is a connection, so that the kernel takes little on the node's behalf.
        socket.set_recv_buffer_size(64 << 10).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(1).unwrap();
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        let (goes_on, told) = channel();
        let received = Arc::default();
        let counted: Arc<AtomicUsize> = Arc::clone(&received);
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut connection = connection_of(0);
            while connection.output().bytes().is_empty() {
                let len = stream.read(connection.receive_space(4096)).unwrap();
                connection.received(Instant(0), len);
                assert!(len > 0 && connection.next_frame().unwrap().is_none());
            }
            stream.write_all(connection.output().bytes()).unwrap();
            if told.recv().is_err() {
                return;
            }
            let mut buffer = vec![0; 64 << 10];
            while let Ok(len @ 1..) = stream.read(&mut buffer) {
                counted.fetch_add(len, Ordering::Relaxed);
            }
        });
        Frozen { address, goes_on, thread, received }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn go_on(&self) {
        self.goes_on.send(()).unwrap();
    }

    /// Whether it has read all there was and seen the end.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    pub fn received(&self) -> usize {
        self.received.load(Ordering::Relaxed)
    }
}
