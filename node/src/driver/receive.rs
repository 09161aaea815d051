//! How much large requests of one shard's connections may take while they are received.
//!
//! A connection always has room for small requests. A large one (more than 64 KiB) gets memory for all
//! of it before more than its beginning is read, in the order in which they asked; until then it waits
//! in its sender's socket. So what was given is always enough for whoever has it to end, and a sender
//! that stops in the middle is given up when others wait.
//!
//! Pure: the clock is an argument.

use std::collections::VecDeque;
use std::time::Duration;

use ironring_core::Instant;

use crate::shard::memory::fits;
use crate::shard::{ConnId, ConnectionBytes};

/// How long a request with memory may take when others wait for it: so long, and a second for each
/// [`BYTES_PER_SECOND_MIN`].
const PATIENCE: Duration = Duration::from_secs(10);
/// Slower peers make others wait too long.
const BYTES_PER_SECOND_MIN: usize = 256 << 10;
/// How long one that others wait for may bring nothing at all.
const QUIET_MAX: Duration = Duration::from_secs(5);

/// Memory for large requests.
#[derive(Debug)]
pub struct Receive {
    bytes_max: usize,
    given: usize,
    waiting: VecDeque<ConnId>,
    waits: u64,
}

/// Memory a connection was given.
#[derive(Debug)]
pub struct Given {
    bytes: usize,
    at: Instant,
}

impl Given {
    /// For how many bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Receive {
    /// At most `bytes_max` bytes together; one that needs more may have it when little is given.
    #[must_use]
    pub fn new(bytes_max: usize) -> Receive {
        Receive { bytes_max, given: 0, waiting: VecDeque::new(), waits: 0 }
    }

    /// Memory for a request of `conn`, or a place among those that wait. `held` is what earlier requests
    /// still take, though they are received.
    #[must_use]
    pub fn ask(&mut self, now: Instant, conn: ConnId, bytes: usize, held: usize) -> Option<Given> {
        let first = self.waiting.front().is_none_or(|first| *first == conn);
        if first && fits(self.given + held, bytes, self.bytes_max) {
            self.forget(conn);
            self.given += bytes;
            return Some(Given { bytes, at: now });
        }
        if !self.waiting.contains(&conn) {
            self.waiting.push_back(conn);
            self.waits += 1;
        }
        None
    }

    /// The request is over.
    pub fn give_back(&mut self, given: Given) {
        self.given -= given.bytes;
    }

    /// The connection does not wait any longer.
    pub fn forget(&mut self, conn: ConnId) {
        self.waiting.retain(|waiting| *waiting != conn);
    }

    /// Who is to ask again after memory was given back, or somebody stopped waiting.
    #[must_use]
    pub fn next(&self) -> Option<ConnId> {
        self.waiting.front().copied()
    }

    /// Whether a request has had its memory for too long, because others wait. Its last bytes came at
    /// `progress`.
    #[must_use]
    pub fn is_late(&self, now: Instant, given: &Given, progress: Instant) -> bool {
        let allowed = PATIENCE + Duration::from_secs((given.bytes / BYTES_PER_SECOND_MIN) as u64);
        let slow = now.since(given.at) > allowed;
        !self.waiting.is_empty() && (slow || now.since(progress.max(given.at)) > QUIET_MAX)
    }

    /// Whether memory lacks: what is only kept for later is to be freed.
    #[must_use]
    pub fn is_pressed(&self, all: ConnectionBytes) -> bool {
        !self.waiting.is_empty() || all.input.max(all.output) > self.bytes_max
    }

    /// Requests that had to wait.
    #[must_use]
    pub fn waits(&self) -> u64 {
        self.waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_waits_its_turn() {
        let mut receive = Receive::new(100);
        let now = Instant(0);
        let first = receive.ask(now, ConnId(1), 60, 0).expect("there is room");
        assert!(receive.ask(now, ConnId(2), 50, 0).is_none());
        assert!(receive.ask(now, ConnId(2), 50, 0).is_none(), "it has one place");
        assert!(
            receive.ask(now, ConnId(3), 10, 0).is_none(),
            "though it would fit: others were first"
        );
        assert_eq!((receive.next(), receive.waits()), (Some(ConnId(2)), 2));
        receive.give_back(first);
        assert!(receive.ask(now, ConnId(3), 10, 0).is_none());
        let second = receive.ask(now, ConnId(2), 50, 0).expect("its turn");
        let third = receive.ask(now, ConnId(3), 10, 0).expect("its turn");
        assert_eq!(receive.next(), None);
        receive.give_back(second);
        receive.give_back(third);
        assert_eq!(receive.given, 0);
        assert!(receive.ask(now, ConnId(1), 50, 51).is_none(), "what was received counts");
        assert!(receive.ask(now, ConnId(1), 50, 50).is_some());
    }

    #[test]
    fn one_alone_gets_what_it_needs() {
        let mut receive = Receive::new(100);
        let small = receive.ask(Instant(0), ConnId(3), 50, 0).expect("there is room");
        let large = receive.ask(Instant(0), ConnId(1), 500, 0).expect("little is given");
        assert!(receive.ask(Instant(0), ConnId(2), 1, 0).is_none());
        receive.give_back(small);
        receive.give_back(large);
        assert!(receive.ask(Instant(0), ConnId(2), 1, 0).is_some());
    }

    #[test]
    fn who_takes_long_is_late_only_while_others_wait() {
        let mut receive = Receive::new(100);
        let slow = receive.ask(Instant(0), ConnId(1), 100, 0).expect("there is room");
        let late = Instant(0) + PATIENCE + Duration::from_secs(1);
        let in_time = Instant(0) + PATIENCE;
        assert!(!receive.is_late(late, &slow, late));
        assert!(receive.ask(late, ConnId(2), 1, 0).is_none());
        assert!(receive.is_late(late, &slow, late) && !receive.is_late(in_time, &slow, in_time));
        assert!(receive.is_late(in_time, &slow, Instant(0)), "it brings nothing");
        receive.forget(ConnId(2));
        assert!(!receive.is_late(late, &slow, Instant(0)));
    }
}
