//! How long a shard with nothing to do looks for work before it sleeps.
//!
//! Going to sleep and being woken costs a shard some ten microseconds of work and its client the
//! time a sleeping processor takes to wake, which under a hypervisor is longer than a fast device
//! takes to write. Looking all the time would cost a processor when nothing comes. So a shard looks
//! as long as looking has paid lately, which is KVM's halt polling: work that came while it looked,
//! or soon after it slept, raises the limit to the maximum; work that came later halves it, to
//! nothing after a few times. A shard whose requests come 200 us apart looks until the next one
//! comes; one that hears something every millisecond sleeps at once.
//!
//! Looking is polite: between two looks the processor is offered to whoever else wants it, because
//! the kernel's own threads that finish a write may be bound to it, and nothing would be found before
//! they have run. When somebody else uses it for long (a client, another process), looking is in the
//! way: the shard sleeps at once for a while, and is woken with the priority of one that slept. One
//! long absence does not tell that: a hypervisor or a thread that is rarely awake takes a processor now
//! and then as well. Who shares the processor has it each time it is offered.
//!
//! Pure: the clock is an argument.

use std::time::Duration;

use ironring_core::Instant;

/// A limit that fell below this is none.
const LIMIT_MIN: Duration = Duration::from_micros(10);

/// Kernel threads give the processor back sooner than this.
const OFFER_MAX: Duration = Duration::from_micros(50);
/// That many longer absences in a row are somebody else's work.
const LONG_OFFERS: u32 = 3;
/// How long nothing is looked for when somebody else wants the processor.
const OTHERS_FIRST: Duration = Duration::from_millis(100);

/// The state of the decision.
#[derive(Debug)]
pub struct Idle {
    /// Longest time to look; zero: never.
    max: Duration,
    limit: Duration,
    /// When there was work last.
    busy_at: Instant,
    slept: bool,
    /// Offers in a row after which the processor was away for long.
    long_offers: u32,
    /// Until when others go first.
    others_until: Instant,
}

impl Idle {
    /// A shard that looks for `max` at the most, and begins by sleeping.
    #[must_use]
    pub fn new(max: Duration) -> Idle {
        Idle {
            max,
            limit: Duration::ZERO,
            busy_at: Instant(0),
            slept: false,
            long_offers: 0,
            others_until: Instant(0),
        }
    }

    /// There is work.
    pub fn busy(&mut self, now: Instant) {
        if std::mem::take(&mut self.slept) {
            let idle = now.since(self.busy_at);
            self.limit = if idle <= self.max { self.max } else { self.limit / 2 };
            if self.limit < LIMIT_MIN {
                self.limit = Duration::ZERO;
            }
        }
        self.busy_at = now;
    }

    /// There is no work: whether to look again. False: sleep.
    #[must_use]
    pub fn looks(&mut self, now: Instant) -> bool {
        let looks = now.since(self.busy_at) < self.limit && now >= self.others_until;
        self.slept = !looks;
        looks
    }

    /// The processor was offered to others, and is back.
    pub fn offered(&mut self, from: Instant, to: Instant) {
        if to.since(from) <= OFFER_MAX {
            self.long_offers = 0;
            return;
        }
        self.long_offers += 1;
        if self.long_offers == LONG_OFFERS {
            self.long_offers = 0;
            self.others_until = to + OTHERS_FIRST;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_micros(200);

    fn us(n: u64) -> Instant {
        Instant(n * 1000)
    }

    /// Microseconds looked in each of `gaps` between work.
    fn looked(idle: &mut Idle, gaps: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut at = 1_000_000;
        idle.busy(us(at));
        let mut all = Vec::new();
        for gap in gaps {
            let slept_after = (0..gap).find(|t| !idle.looks(us(at + t)));
            all.push(slept_after.unwrap_or(gap));
            at += gap;
            idle.busy(us(at));
        }
        all
    }

    #[test]
    fn work_that_comes_soon_is_waited_for_from_the_second_time_on() {
        let mut idle = Idle::new(MAX);
        assert_eq!(looked(&mut idle, [100, 100, 150, 20]), [0, 100, 150, 20]);
    }

    #[test]
    fn work_that_comes_late_is_soon_not_waited_for() {
        let mut idle = Idle::new(MAX);
        assert_eq!(
            looked(&mut idle, [50, 4_000, 4_000, 4_000, 4_000, 4_000, 4_000, 4_000]),
            [0, 200, 100, 50, 25, 13, 0, 0]
        );
        // One pause does not end it.
        assert_eq!(looked(&mut idle, [100, 100, 4_000, 90, 100]), [0, 100, 200, 90, 100]);
    }

    #[test]
    fn others_go_first_for_a_while_once_they_used_the_processor_again_and_again() {
        let mut idle = Idle::new(MAX);
        assert_eq!(looked(&mut idle, [100, 100]), [0, 100]);
        let at = 2_000_000;
        idle.busy(us(at));
        idle.offered(us(at), us(at + 60));
        idle.offered(us(at + 60), us(at + 120));
        assert!(idle.looks(us(at + 121)), "twice is chance");
        idle.offered(us(at + 121), us(at + 181));
        assert!(!idle.looks(us(at + 182)));
        idle.busy(us(at + 100_100));
        assert!(!idle.looks(us(at + 100_101)));
        assert!(idle.looks(us(at + 100_181)));
    }

    #[test]
    fn a_processor_that_is_away_for_long_now_and_then_is_not_wanted_by_others() {
        let mut idle = Idle::new(MAX);
        assert_eq!(looked(&mut idle, [100, 100]), [0, 100]);
        let at = 2_000_000;
        for n in 0..10 {
            let at = at + n * 1_000;
            idle.busy(us(at));
            // A hypervisor takes it twice; then a thread of the kernel's runs for a moment.
            idle.offered(us(at), us(at + 60));
            idle.offered(us(at + 60), us(at + 120));
            idle.offered(us(at + 120), us(at + 140));
            assert!(idle.looks(us(at + 141)));
        }
    }

    #[test]
    fn nothing_is_looked_for_when_it_is_off() {
        let mut idle = Idle::new(Duration::ZERO);
        assert_eq!(looked(&mut idle, [1, 1, 100, 1]), [0, 0, 0, 0]);
    }
}
