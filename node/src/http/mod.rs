//! Health, metrics and status over HTTP, for machines that watch the node.
//!
//! One OS thread of its own with a single-threaded runtime. It sees the node only through
//! [`NodeView`], so a slow scrape costs a shard nothing, and a shard that hangs still has a process
//! that says so. There is no authentication: it listens on loopback unless told otherwise, and whoever
//! reaches it may let nodes into the cluster.
//!
//! - [`routes`]: what is served; [`ready`]: readiness; [`cluster`]: the cluster; [`orders`]: what
//!   operators order; [`request`]: what requests bring; [`error`], [`reason`]: refusals.
//! - [`listener`]: connections, how many and how long.

pub mod cluster;
pub mod error;
pub mod listener;
pub mod orders;
pub mod ready;
pub mod reason;
pub mod request;
pub mod routes;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::cluster::Board;
use crate::metrics::NodeSnapshot;

/// How long a stopping server waits for answers that were begun.
const STOP_MAX: Duration = Duration::from_secs(2);

/// The node as its HTTP thread sees it.
pub trait NodeView: Send + Sync + 'static {
    /// The latest snapshot: what each shard last published. Must not wait for a shard.
    fn snapshot(&self) -> NodeSnapshot;

    /// Has every shard make a small write durable, and waits for all of them, at most `timeout`.
    /// Runs on a thread that may block. It is called at most once at a time and once a second.
    ///
    /// # Errors
    /// A sentence for each shard that did not.
    fn probe_ready(&self, timeout: Duration) -> Result<(), Vec<String>>;

    /// The cluster as this node knows it, and where requests to it are laid down.
    fn board(&self) -> &Board;
}

/// A running HTTP thread. Dropping it stops the thread without waiting for it.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// One for readiness probes, and one for a plan.
const BLOCKING_THREADS: usize = 2;

impl Server {
    /// Listens and serves. Call it from a thread that is not pinned: the new thread inherits the
    /// CPUs of the one that makes it.
    ///
    /// # Errors
    /// When the address cannot be bound or the thread cannot be made.
    pub fn start(listen: SocketAddr, view: Arc<dyn NodeView>) -> io::Result<Server> {
        let listener = std::net::TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let thread =
            std::thread::Builder::new().name("ironring-http".to_owned()).spawn(move || {
                let served = runtime.block_on(serve(listener, view, stopped));
                if let Err(error) = served {
                    tracing::error!(%address, %error, "the HTTP thread stopped serving");
                }
                // A readiness probe that hangs with its shard must not keep the process.
                runtime.shutdown_background();
            })?;
        Ok(Server { address, stop, thread })
    }

    /// Where it listens; the port that was chosen when 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening, finishes answers that were begun within two seconds, and ends the thread.
    pub fn stop(self) {
        // Both can only fail when the thread has ended already, which is what is wanted.
        _ = self.stop.send(());
        _ = self.thread.join();
    }
}

async fn serve(
    listener: std::net::TcpListener,
    view: Arc<dyn NodeView>,
    stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    let listener = listener::Limited::new(tokio::net::TcpListener::from_std(listener)?);
    let (begin_stop, stop_begun) = oneshot::channel::<()>();
    let serving = axum::serve(listener, routes::router(view)).with_graceful_shutdown(async {
        // A sender that was dropped means the same as one that spoke.
        _ = stop_begun.await;
    });
    let stopping = async {
        _ = stopped.await;
        drop(begin_stop);
        tokio::time::sleep(STOP_MAX).await;
    };
    tokio::select! {
        served = serving => served,
        () = stopping => Ok(()),
    }
}
