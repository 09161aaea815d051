//! When to seal: how long the next group waits for those who were just answered.
//!
//! With one write in flight, clients that wait for their answers split into two halves that take
//! turns: one half is in flight while the other is staged, and each write carries half of what it
//! could. So when a write ends, the next one waits a moment for the clients it answered to come
//! back: until as many records are staged as were in flight and staged together, but no longer
//! than a quarter of what a write usually takes. On a slow device that nearly doubles what a group
//! carries; on a fast one the wait is shorter than handling the requests that come meanwhile. A
//! lone client is never made to wait: its next record completes the group.
//!
//! The wait counts from when the group could be sealed for the first time, not from the end of the write:
//! between the two the owner makes the answers of everything that was in it. (Measured: counted from the
//! end of the write, the wait was over before the first answer left, and 64 clients fell into halves:
//! 34 records in a group, where it is 40 and more.)

use std::time::Duration;

use ironring_core::Instant;

/// A group never waits longer than this, however slow the device is.
const WAIT_MAX: Duration = Duration::from_millis(2);
/// A group waits at most one part in this many of a usual write.
const WAIT_DIVISOR: u32 = 4;
/// The newest write counts one part in this many in what is usual.
const SMOOTHING: u32 = 8;

/// The state of the decision.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    began: Instant,
    /// What a write usually takes; zero before the first.
    usual: Duration,
    last: Option<Duration>,
    /// Records worth waiting for.
    expected: u32,
    /// How long, from the first look on.
    wait: Option<Duration>,
    until: Option<Instant>,
}

impl Gather {
    /// A write begins.
    pub fn write_begins(&mut self, now: Instant) {
        self.began = now;
        (self.wait, self.until) = (None, None);
    }

    /// It ended: `written` records were in it, `staged` have come since.
    pub fn write_ended(&mut self, now: Instant, written: u32, staged: u32) {
        let took = now.since(self.began);
        self.last = Some(took);
        self.usual = match self.usual {
            Duration::ZERO => took,
            usual => (usual * (SMOOTHING - 1) + took) / SMOOTHING,
        };
        self.expected = written.saturating_add(staged);
        self.wait = (written > 0).then_some((self.usual / WAIT_DIVISOR).min(WAIT_MAX));
        self.until = self.wait.map(|wait| now + wait);
    }

    /// The answers of what was written are made, and the next group could be sealed.
    pub fn looks(&mut self, now: Instant) {
        if let Some(wait) = self.wait.take() {
            self.until = Some(now + wait);
        }
    }

    /// Whether a group of `staged` records is to wait.
    pub fn holds(&self, now: Instant, staged: u32) -> bool {
        // One in eight may have left, or is slower than the rest.
        let enough = self.expected - self.expected / 8;
        staged < enough && self.until.is_some_and(|until| now < until)
    }

    /// When a group that waits is to be written at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        self.until
    }

    /// How long the last write took; told once.
    pub fn take_last(&mut self) -> Option<Duration> {
        self.last.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(n: u64) -> Instant {
        Instant(n * 1000)
    }

    #[test]
    fn halves_join_and_a_lone_client_never_waits() {
        let mut g = Gather::default();
        assert!(!g.holds(us(0), 1), "nothing is known yet");
        g.write_begins(us(0));
        g.write_ended(us(1000), 32, 32);
        assert!(g.holds(us(1000), 32) && g.holds(us(1249), 32));
        assert!(!g.holds(us(1100), 56), "enough have come");
        assert!(!g.holds(us(1250), 32), "a quarter of a write is the most");
        g.write_begins(us(1250));
        g.write_ended(us(2250), 1, 0);
        assert!(!g.holds(us(2260), 1), "its own record completes the group");
    }

    #[test]
    fn the_wait_begins_when_the_answers_are_made() {
        let mut g = Gather::default();
        g.write_begins(us(0));
        g.write_ended(us(1000), 32, 0);
        assert_eq!(g.deadline(), Some(us(1250)));
        g.looks(us(1400));
        assert!(g.holds(us(1649), 1) && !g.holds(us(1650), 1));
        g.looks(us(1600));
        assert_eq!(g.deadline(), Some(us(1650)), "only the first look counts");
        g.write_begins(us(1700));
        g.looks(us(1700));
        assert_eq!(g.deadline(), None);
    }

    #[test]
    fn the_wait_is_bounded_and_empty_groups_cause_none() {
        let mut g = Gather::default();
        g.write_begins(us(0));
        g.write_ended(us(1_000_000), 100, 0);
        assert!(g.holds(us(1_001_999), 1) && !g.holds(us(1_002_000), 1));
        g.write_begins(us(1_002_000));
        g.write_ended(us(1_003_000), 0, 5);
        assert!(!g.holds(us(1_003_000), 1));
        assert_eq!(g.take_last(), Some(Duration::from_millis(1)));
        assert_eq!(g.take_last(), None);
    }
}
