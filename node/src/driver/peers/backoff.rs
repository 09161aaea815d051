//! How long to wait before dialling again. Pure: randomness is an argument.

use std::time::Duration;

use ironring_core::prng::Prng;

/// Waits that double from one failure to the next.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    next: Duration,
}

impl Backoff {
    /// The wait after one more failure, between half and all of what is due: `min` first, `max` at
    /// last.
    pub fn failed(&mut self, min: Duration, max: Duration, prng: &mut Prng) -> Duration {
        let wait = self.next.clamp(min, max);
        self.next = (wait * 2).min(max);
        jittered(wait, prng)
    }

    /// It went well: the next failure is the first.
    pub fn reset(&mut self) {
        self.next = Duration::ZERO;
    }
}

/// Between half and all of `wait`, so that many who failed together do not come back together.
pub fn jittered(wait: Duration, prng: &mut Prng) -> Duration {
    let half = wait / 2;
    let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX - 1);
    half + Duration::from_nanos(prng.below(nanos + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_their_maximum_and_begin_anew_after_success() {
        let ms = Duration::from_millis;
        let mut prng = Prng::new(7);
        let mut backoff = Backoff::default();
        let mut failed = |backoff: &mut Backoff| backoff.failed(ms(20), ms(1000), &mut prng);
        for due in [20, 40, 80, 160, 320, 640, 1000, 1000] {
            let wait = failed(&mut backoff);
            assert!(wait >= ms(due) / 2 && wait <= ms(due), "{wait:?} of {due} ms");
        }
        backoff.reset();
        assert!(failed(&mut backoff) <= ms(20));
    }

    #[test]
    fn waits_of_two_nodes_differ() {
        let waits = |seed| {
            let (mut prng, mut backoff) = (Prng::new(seed), Backoff::default());
            let (min, max) = (Duration::from_millis(20), Duration::from_secs(1));
            (0..8).map(|_| backoff.failed(min, max, &mut prng)).collect::<Vec<_>>()
        };
        assert_ne!(waits(1), waits(2));
        assert_eq!(waits(1), waits(1));
    }
}
