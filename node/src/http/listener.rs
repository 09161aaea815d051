//! Connections of the HTTP thread: bounded in number, and dropped when they say nothing.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// Most connections at a time; more wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 64;
/// How long a connection may go without a byte from the client, or one that the client takes.
pub const IDLE_MAX: Duration = Duration::from_secs(30);
/// How long one may last that sends a little now and then; at a moment at which it sends nothing.
pub const AGE_MAX: Duration = Duration::from_secs(600);
/// How long to wait after the system refused to accept (it is out of descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener that hands out at most [`CONNECTIONS_MAX`] connections at a time.
pub struct Limited {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Limited {
    /// Limits a listener.
    #[must_use]
    pub fn new(listener: TcpListener) -> Limited {
        Limited { listener, places: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }
}

impl axum::serve::Listener for Limited {
    type Io = Connection<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection<TcpStream>, SocketAddr) {
        let place =
            Arc::clone(&self.places).acquire_owned().await.expect("nobody closes the semaphore");
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => return (Connection::new(stream, place), peer),
                Err(error) => {
                    tracing::warn!(%error, "an HTTP connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One connection, and its place among those allowed.
pub struct Connection<S> {
    stream: S,
    idle: Pin<Box<Sleep>>,
    born: Instant,
    _place: OwnedSemaphorePermit,
}

impl<S> Connection<S> {
    fn new(stream: S, place: OwnedSemaphorePermit) -> Connection<S> {
        Connection { stream, idle: Box::pin(sleep(IDLE_MAX)), born: Instant::now(), _place: place }
    }

    /// What the socket says; that it has waited for too long, when it has nothing to say.
    fn unless_idle<T>(
        &mut self,
        cx: &mut Context<'_>,
        moved: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match moved {
            Poll::Ready(result) => {
                let until = (Instant::now() + IDLE_MAX).min(self.born + AGE_MAX);
                self.idle.as_mut().reset(until);
                Poll::Ready(result)
            }
            Poll::Pending => {
                ready!(self.idle.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let moved = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.unless_idle(cx, moved)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.unless_idle(cx, moved)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// Runs a connection and its client in a time that passes when both wait.
    fn in_made_time<F>(test: impl FnOnce(Connection<DuplexStream>, DuplexStream) -> F)
    where
        F: Future<Output = ()>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let place = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
            let (ours, client) = duplex(16);
            test(Connection::new(ours, place), client).await;
        });
    }

    fn timed_out<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut)
    }

    #[test]
    fn a_client_that_says_nothing_is_dropped() {
        in_made_time(|mut connection, client| async move {
            let begin = Instant::now();
            assert!(timed_out(connection.read(&mut [0; 8]).await));
            assert_eq!(begin.elapsed().as_secs(), IDLE_MAX.as_secs());
            drop(client);
        });
    }

    #[test]
    fn a_client_that_takes_nothing_is_dropped() {
        in_made_time(|mut connection, client| async move {
            let begin = Instant::now();
            assert!(timed_out(connection.write_all(&[7; 64]).await));
            assert_eq!(begin.elapsed().as_secs(), IDLE_MAX.as_secs());
            drop(client);
        });
    }

    #[test]
    fn a_client_that_says_a_little_now_and_then_is_kept_for_so_long() {
        in_made_time(|mut connection, mut client| async move {
            let begin = Instant::now();
            let drips = tokio::spawn(async move {
                while client.write_all(b"x").await.is_ok() {
                    sleep(IDLE_MAX / 2).await;
                }
            });
            let mut bytes = 0;
            let end = loop {
                match connection.read(&mut [0; 8]).await {
                    Ok(n) => bytes += n,
                    Err(error) => break error.kind(),
                }
            };
            assert_eq!(end, io::ErrorKind::TimedOut);
            assert_eq!(begin.elapsed().as_secs(), AGE_MAX.as_secs());
            assert!(bytes as u64 >= 2 * AGE_MAX.as_secs() / IDLE_MAX.as_secs());
            drop(connection);
            drips.await.unwrap();
        });
    }
}
