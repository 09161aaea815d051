//! A server that decodes requests and answers each with a receipt, and stores nothing: what the
//! network, the kernel and the protocol cost by themselves.

use std::io;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use ironring_core::Durability;
use ironring_net::codec::{decode_request, encode_response};
use ironring_net::frame::{HEADER_BYTES, decode_header};
use ironring_net::message::Response;
use monoio::buf::IoBufMut;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use monoio::{FusionDriver, RuntimeBuilder};

use crate::error::BenchError;
use crate::protocol::ironring::{Ironring, empty_receipt};
use crate::protocol::{Target, dial};
use crate::system::pin_thread;
use crate::workload::Workload;

/// Bytes asked for per read.
const READ_BYTES: usize = 64 << 10;
/// Entries of the io_uring submission queue.
const RING_ENTRIES: u32 = 4096;

/// A running echo server. It stops when dropped.
#[derive(Debug)]
pub struct EchoServer {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EchoServer {
    /// Starts it on a free loopback port, pinned to a CPU if one is given.
    ///
    /// # Errors
    /// The port, the CPU or io_uring is not to be had.
    pub fn start(cpu: Option<usize>) -> Result<EchoServer, BenchError> {
        let (tell, told) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("echo".to_owned())
            .spawn(move || {
                if let Err(error) = serve(cpu, &tell, &stopped) {
                    // The receiver is gone only when the server had started.
                    let _ = tell.send(Err(error));
                }
            })
            .map_err(BenchError::system("starting the echo server"))?;
        let addr = told
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("it ended at once")))
            .map_err(BenchError::system("starting the echo server"))?;
        Ok(EchoServer { addr, stop, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // The server looks at the sign whenever it has accepted a connection.
        if StdStream::connect(self.addr).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

fn serve(
    cpu: Option<usize>,
    tell: &mpsc::Sender<io::Result<SocketAddr>>,
    stop: &AtomicBool,
) -> io::Result<()> {
    if let Some(cpu) = cpu {
        pin_thread(cpu)?;
    }
    let mut runtime = RuntimeBuilder::<FusionDriver>::new().with_entries(RING_ENTRIES).build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        // The receiver waits for exactly this.
        let _ = tell.send(Ok(listener.local_addr()?));
        loop {
            let (stream, _) = listener.accept().await?;
            if stop.load(Ordering::Acquire) {
                return Ok(());
            }
            stream.set_nodelay(true)?;
            monoio::spawn(answer(stream));
        }
    })
}

/// Answers one connection until it closes.
async fn answer(mut stream: TcpStream) {
    let mut buffer: Vec<u8> = Vec::with_capacity(READ_BYTES);
    let mut out: Vec<u8> = Vec::with_capacity(READ_BYTES);
    loop {
        let (filled, capacity) = (buffer.len(), buffer.capacity());
        let (result, slice) = stream.read(buffer.slice_mut(filled..capacity)).await;
        buffer = slice.into_inner();
        if !matches!(result, Ok(n) if n > 0) {
            return;
        }
        let Some((taken, need)) = answer_frames(&buffer, &mut out) else { return };
        buffer.drain(..taken);
        if need > buffer.capacity() {
            buffer.reserve(need - buffer.len());
        }
        let (result, mut written) = stream.write_all(out).await;
        if result.is_err() {
            return;
        }
        written.clear();
        out = written;
    }
}

/// Answers the whole frames at the front of `input`: how many bytes they took, and how many the
/// next needs. `None`: these are no frames.
fn answer_frames(input: &[u8], out: &mut Vec<u8>) -> Option<(usize, usize)> {
    let mut taken = 0;
    loop {
        let rest = &input[taken..];
        if rest.len() < HEADER_BYTES {
            return Some((taken, HEADER_BYTES));
        }
        let header = decode_header(rest).ok()?;
        let Some(body) = rest.get(HEADER_BYTES..header.frame_bytes()) else {
            return Some((taken, header.frame_bytes()));
        };
        decode_request(&header, body).ok()?;
        encode_response(out, header.correlation, &Response::Receipt(empty_receipt()));
        taken += header.frame_bytes();
    }
}

/// The echo server as something to measure.
#[derive(Clone, Debug)]
pub struct EchoTarget {
    /// Where it listens.
    pub addr: SocketAddr,
    /// What the generator takes for a timeout.
    pub timeout: Duration,
}

impl Target for EchoTarget {
    type Protocol = Ironring;

    fn connect(
        &self,
        _lane: usize,
        _workload: &mut Workload,
    ) -> Result<(StdStream, Ironring), BenchError> {
        let stream = dial(&self.addr.to_string())?;
        Ok((stream, Ironring::for_keys(Durability::Async, self.timeout)))
    }

    fn stats(&self) -> Result<Option<serde_json::Value>, BenchError> {
        Ok(None)
    }
}
