//! Names to addresses. The system's resolver waits for its servers, so it does that in a thread of its
//! own: the tasks and timers of this one go on.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread::Builder;
use std::time::Duration;

use monoio::time::sleep;

/// How often a task looks whether the thread is done: its waker stays on this one.
const LOOK_EVERY: Duration = Duration::from_millis(1);

type Found = io::Result<Vec<SocketAddr>>;

/// Looks one name up. There is one thread at a time, however many attempts give up waiting for it:
/// the next one waits for the same.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    running: RefCell<Option<Receiver<Found>>>,
}

impl Lookup {
    /// Every address of `host:port`, in the order to try them in.
    pub async fn addresses(&self, text: &str) -> Found {
        if let Ok(address) = text.parse() {
            return Ok(vec![address]);
        }
        let text = text.to_owned();
        self.found_by(move || Ok(text.to_socket_addrs()?.collect())).await
    }

    async fn found_by(&self, resolve: impl FnOnce() -> Found + Send + 'static) -> Found {
        if self.running.borrow().is_none() {
            let (found, running) = channel();
            let look = move || {
                // Nobody may be left who wants to know.
                let _unwanted = found.send(resolve());
            };
            Builder::new().name("resolve".to_owned()).spawn(look)?;
            self.running.replace(Some(running));
        }
        loop {
            if let Some(found) = self.look() {
                return found;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// What was found, once it was.
    fn look(&self) -> Option<Found> {
        let mut running = self.running.borrow_mut();
        let found = match running.as_ref()?.try_recv() {
            Ok(found) => found,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => Err(io::Error::other("the resolver gave up")),
        };
        *running = None;
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::asynchronous::tests::run;
    use monoio::time::timeout;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_resolver_that_hangs_holds_nobody_up_and_is_asked_once() {
        let found = SocketAddr::from(([127, 0, 0, 1], 7));
        let asked = Arc::new(AtomicU32::new(0));
        let (answers, answer) = channel::<()>();
        run(async {
            let lookup = Lookup::default();
            let resolve = || {
                let asked = Arc::clone(&asked);
                move |answer: Option<Receiver<()>>| -> Found {
                    asked.fetch_add(1, Ordering::Relaxed);
                    // The limit is there so that the test fails instead of hanging.
                    if let Some(answer) = answer {
                        answer.recv_timeout(Duration::from_secs(20)).map_err(io::Error::other)?;
                    }
                    Ok(vec![found])
                }
            };
            let hangs = resolve();
            let first = lookup.found_by(move || hangs(Some(answer)));
            assert!(timeout(Duration::from_millis(20), first).await.is_err(), "timers stand still");
            let again = resolve();
            let second = lookup.found_by(move || again(None));
            assert!(timeout(Duration::from_millis(20), second).await.is_err());
            answers.send(()).unwrap();
            let last = resolve();
            assert_eq!(lookup.found_by(move || last(None)).await.unwrap(), [found]);
            assert_eq!(asked.load(Ordering::Relaxed), 1);
            let fresh = resolve();
            lookup.found_by(move || fresh(None)).await.unwrap();
            assert_eq!(asked.load(Ordering::Relaxed), 2, "what was found is not kept");
        });
    }

    #[test]
    fn an_address_is_no_name() {
        run(async {
            let lookup = Lookup::default();
            let addresses = lookup.addresses("[::1]:80").await.unwrap();
            assert_eq!(addresses, [SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 80))]);
            assert!(lookup.running.borrow().is_none());
            assert!(lookup.addresses("no port").await.is_err());
        });
    }
}
