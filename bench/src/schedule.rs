//! Intended send times of an open loop, and who sends when. No clock: time is an argument.
//!
//! The schedule is fixed before the run and never waits for the server. A request that is sent
//! late keeps its intended time, so that a stalled server shows in the latency of every request
//! that was due during the stall ("coordinated omission", Tene 2013). Requests not yet sent need
//! no memory: the schedule itself is the queue, and a request whose turn has not come within the
//! timeout is shed.

use ironring_core::prng::Prng;

use crate::scenario::ArrivalKind;

/// An endless sequence of send times.
#[derive(Clone, Debug)]
pub struct Arrivals {
    kind: ArrivalKind,
    gap_ns: f64,
    /// Next time, kept with its fraction so that the mean rate is exact.
    next_ns: f64,
    start_ns: u64,
    prng: Prng,
}

impl Arrivals {
    /// Times from `start_ns` at `rate` per second. Thread `thread` of `threads` sends its share
    /// (constant gaps interleave, and Poisson processes add up to one).
    #[must_use]
    pub fn new(
        kind: ArrivalKind,
        rate: f64,
        start_ns: u64,
        (thread, threads): (usize, usize),
        seed: u64,
    ) -> Arrivals {
        let gap_ns = 1e9 / rate * threads as f64;
        let mut arrivals = Arrivals { kind, gap_ns, next_ns: 0.0, start_ns, prng: Prng::new(seed) };
        match kind {
            ArrivalKind::Constant => {
                arrivals.next_ns = gap_ns * thread as f64 / threads as f64;
            }
            ArrivalKind::Poisson => arrivals.advance(),
        }
        arrivals
    }

    /// The time that is due next, in nanoseconds.
    #[must_use]
    pub fn next_ns(&self) -> u64 {
        self.start_ns + self.next_ns as u64
    }

    /// Goes on to the time after it.
    pub fn advance(&mut self) {
        self.next_ns += match self.kind {
            ArrivalKind::Constant => self.gap_ns,
            ArrivalKind::Poisson => {
                // 53 random bits, shifted by half a step so that 0 cannot come out.
                let unit = ((self.prng.next_u64() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
                -unit.ln() * self.gap_ns
            }
        };
    }
}

/// What the dispatcher does with a request whose time has come.
pub trait Sender {
    /// Sends on a connection that has room; false when none has.
    fn send(&mut self, intended_ns: u64, now_ns: u64) -> bool;
    /// The request will not be sent: it waited for room for the whole timeout.
    fn shed(&mut self, intended_ns: u64, now_ns: u64);
    /// A request was sent `lag_ns` after it could have been.
    fn lagged(&mut self, intended_ns: u64, lag_ns: u64);
}

/// Sends what is due.
///
/// Being late because every connection is full is the server's doing and is not lag; being late
/// with room to send is the generator's own.
#[derive(Clone, Debug)]
pub struct Dispatcher {
    arrivals: Arrivals,
    end_ns: u64,
    shed_after_ns: u64,
    blocked: bool,
    /// When room last came back after all connections were full.
    room_since_ns: u64,
}

impl Dispatcher {
    /// Sends all arrivals before `end_ns`.
    #[must_use]
    pub fn new(arrivals: Arrivals, end_ns: u64, shed_after_ns: u64) -> Dispatcher {
        Dispatcher { arrivals, end_ns, shed_after_ns, blocked: false, room_since_ns: 0 }
    }

    /// When [`Dispatcher::pump`] has work next: `None` while it waits for room (call it when a
    /// reply comes) and after the last arrival.
    #[must_use]
    pub fn wake_ns(&self) -> Option<u64> {
        (!self.blocked && !self.finished()).then(|| self.arrivals.next_ns())
    }

    /// Whether arrivals are due that found no room.
    #[must_use]
    pub fn blocked(&self) -> bool {
        self.blocked
    }

    /// Whether every arrival was sent or shed.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.arrivals.next_ns() >= self.end_ns
    }

    /// Sends every arrival due by `now_ns`, oldest first.
    pub fn pump(&mut self, now_ns: u64, sender: &mut impl Sender) {
        if self.blocked {
            self.room_since_ns = now_ns;
        }
        while !self.finished() {
            let intended_ns = self.arrivals.next_ns();
            if intended_ns > now_ns {
                break;
            }
            if now_ns - intended_ns > self.shed_after_ns {
                sender.shed(intended_ns, now_ns);
            } else if sender.send(intended_ns, now_ns) {
                let possible_ns = intended_ns.max(self.room_since_ns);
                sender.lagged(intended_ns, now_ns.saturating_sub(possible_ns));
            } else {
                self.blocked = true;
                return;
            }
            self.arrivals.advance();
        }
        self.blocked = false;
    }

    /// Sheds what is due and was not sent, at the end of a run.
    pub fn shed_rest(&mut self, now_ns: u64, sender: &mut impl Sender) {
        while !self.finished() {
            sender.shed(self.arrivals.next_ns(), now_ns);
            self.arrivals.advance();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Takes at most `room` requests until it is given room again.
    #[derive(Default)]
    struct Fake {
        room: usize,
        sent: Vec<(u64, u64)>,
        shed: Vec<u64>,
        lags: Vec<u64>,
    }

    impl Sender for Fake {
        fn send(&mut self, intended_ns: u64, now_ns: u64) -> bool {
            if self.room == 0 {
                return false;
            }
            self.room -= 1;
            self.sent.push((intended_ns, now_ns));
            true
        }

        fn shed(&mut self, intended_ns: u64, _now_ns: u64) {
            self.shed.push(intended_ns);
        }

        fn lagged(&mut self, _intended_ns: u64, lag_ns: u64) {
            self.lags.push(lag_ns);
        }
    }

    fn constant(rate: f64) -> Arrivals {
        Arrivals::new(ArrivalKind::Constant, rate, 0, (0, 1), 1)
    }

    #[test]
    fn constant_times_do_not_drift() {
        // 3 per second does not divide a second: the fraction must be carried.
        let mut arrivals = constant(3.0);
        let mut count = 0;
        while arrivals.next_ns() < 1000 * SECOND {
            arrivals.advance();
            count += 1;
        }
        assert!((3000..=3001).contains(&count), "{count}");
    }

    #[test]
    fn threads_interleave_into_one_constant_schedule() {
        let mut all = Vec::new();
        for thread in 0..4 {
            let mut a = Arrivals::new(ArrivalKind::Constant, 1000.0, 0, (thread, 4), 1);
            for _ in 0..250 {
                all.push(a.next_ns());
                a.advance();
            }
        }
        all.sort_unstable();
        for (i, time) in all.iter().enumerate() {
            assert!(time.abs_diff(i as u64 * 1_000_000) <= 1, "{i}: {time}");
        }
    }

    #[test]
    fn poisson_gaps_have_the_mean_and_the_spread_of_an_exponential() {
        let mut arrivals = Arrivals::new(ArrivalKind::Poisson, 1000.0, 0, (0, 1), 9);
        let mut last = 0;
        let gaps: Vec<f64> = (0..100_000)
            .map(|_| {
                let gap = arrivals.next_ns() - last;
                last = arrivals.next_ns();
                arrivals.advance();
                gap as f64
            })
            .collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean / 1e6 - 1.0).abs() < 0.02, "mean gap {mean}");
        assert!(
            (variance.sqrt() / mean - 1.0).abs() < 0.02,
            "an exponential's deviation is its mean"
        );
    }

    #[test]
    fn everything_due_is_sent_once_and_in_order() {
        let mut d = Dispatcher::new(constant(1000.0), SECOND, SECOND);
        let mut fake = Fake { room: usize::MAX, ..Fake::default() };
        while let Some(wake) = d.wake_ns() {
            d.pump(wake + 300_000, &mut fake);
        }
        assert_eq!(fake.sent.len(), 1000);
        assert!(fake.sent.is_sorted());
        assert!(fake.lags.iter().all(|lag| *lag <= 300_000) && fake.lags.contains(&300_000));
        assert!(d.finished() && fake.shed.is_empty());
    }

    #[test]
    fn waiting_for_room_keeps_intended_times_and_is_not_lag() {
        let mut d = Dispatcher::new(constant(1000.0), SECOND, SECOND);
        let mut fake = Fake { room: 1, ..Fake::default() };
        d.pump(0, &mut fake);
        d.pump(1_000_000, &mut fake);
        assert!(d.blocked() && d.wake_ns().is_none(), "full: only a reply helps");
        fake.room = usize::MAX;
        d.pump(50_000_000, &mut fake);
        assert_eq!(fake.sent.len(), 51);
        assert_eq!(fake.sent[1], (1_000_000, 50_000_000), "the intended time is kept");
        assert!(
            fake.lags.iter().all(|lag| *lag == 0),
            "the server was full, not the generator late"
        );
        d.pump(51_500_000, &mut fake);
        assert_eq!(fake.lags.last(), Some(&500_000), "with room, late is late");
    }

    #[test]
    fn what_waits_longer_than_the_timeout_is_shed() {
        let mut d = Dispatcher::new(constant(1000.0), SECOND, 100_000_000);
        let mut fake = Fake::default();
        d.pump(500_000_000, &mut fake);
        assert_eq!(fake.shed.len(), 400, "due in 0..400 ms, too old at 500 ms");
        assert!(fake.sent.is_empty() && d.blocked());
        d.shed_rest(SECOND, &mut fake);
        assert_eq!(fake.shed.len(), 1000);
        assert!(d.finished());
    }
}
