//! Which key each request asks for.

use ironring_core::prng::Prng;
use rand::distr::Distribution;
use rand_distr::Zipf;

use crate::random::Source;
use crate::scenario::{KeyDistribution, Keys};

/// Bytes of every key: long enough for any key number, and the size Redis' own tool uses.
pub const KEY_BYTES: usize = 16;

/// A key's bytes: `key` and its number in 13 decimal digits.
#[must_use]
pub fn key_bytes(number: u64) -> [u8; KEY_BYTES] {
    let mut key = *b"key0000000000000";
    let mut rest = number;
    for digit in key[3..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

/// Chooses keys. Each generator thread has its own.
#[derive(Clone, Debug)]
pub struct KeyPicker {
    count: u64,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Uniform,
    Zipf {
        ranks: Zipf<f64>,
        /// Coprime to the count, so that `rank * stride % count` visits every key: hot keys are
        /// spread over the key space instead of being its beginning.
        stride: u64,
    },
    Latest {
        ages: Zipf<f64>,
        written: u64,
    },
    /// Each key once, in order: fills the key space. `step` threads share it.
    Sequence {
        next: u64,
        step: u64,
    },
}

impl KeyPicker {
    /// A picker for a scenario's key space. The count is at least 1 and theta above 0, as
    /// [`crate::scenario::Scenario::check`] requires.
    #[must_use]
    pub fn new(keys: &Keys) -> KeyPicker {
        let ranks = || {
            Zipf::new(keys.count as f64, keys.theta).expect("count >= 1 and theta > 0 were checked")
        };
        let kind = match keys.distribution {
            KeyDistribution::Uniform => Kind::Uniform,
            KeyDistribution::Zipf => Kind::Zipf { ranks: ranks(), stride: stride(keys.count) },
            KeyDistribution::Latest => Kind::Latest { ages: ranks(), written: keys.count },
        };
        KeyPicker { count: keys.count, kind }
    }

    /// Every key once: thread `first` of `step` takes keys `first`, `first + step`, ...
    #[must_use]
    pub fn sequence(count: u64, first: u64, step: u64) -> KeyPicker {
        KeyPicker { count, kind: Kind::Sequence { next: first, step } }
    }

    /// The key to write next; `None` when a sequence is at its end.
    pub fn write(&mut self, prng: &mut Prng) -> Option<u64> {
        match &mut self.kind {
            Kind::Latest { written, .. } => {
                *written += 1;
                Some((*written - 1) % self.count)
            }
            Kind::Sequence { next, step } => {
                let key = *next;
                *next += *step;
                (key < self.count).then_some(key)
            }
            Kind::Uniform | Kind::Zipf { .. } => self.read(prng),
        }
    }

    /// The key to read or delete next; `None` when a sequence is at its end.
    pub fn read(&mut self, prng: &mut Prng) -> Option<u64> {
        match &mut self.kind {
            Kind::Uniform => Some(prng.below(self.count)),
            Kind::Zipf { ranks, stride } => {
                let rank = ranks.sample(&mut Source(prng)) as u64 - 1;
                Some((u128::from(rank) * u128::from(*stride) % u128::from(self.count)) as u64)
            }
            Kind::Latest { ages, written } => {
                let age = ages.sample(&mut Source(prng)) as u64;
                Some(written.saturating_sub(age) % self.count)
            }
            Kind::Sequence { .. } => self.write(prng),
        }
    }
}

/// The first number from 0.618 of `count` upwards that has no divisor in common with it.
fn stride(count: u64) -> u64 {
    let start = (count as f64 * 0.618_033_988) as u64;
    (start.max(1)..).find(|n| gcd(*n, count) == 1).expect("a prime above count is coprime to it")
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn keys(count: u64, distribution: KeyDistribution) -> Keys {
        Keys { count, distribution, theta: 0.99, prefill: false }
    }

    fn frequencies(picker: &mut KeyPicker, draws: u64) -> Vec<u64> {
        let mut prng = Prng::new(7);
        let mut counts = BTreeMap::new();
        for _ in 0..draws {
            *counts.entry(picker.read(&mut prng).unwrap()).or_insert(0_u64) += 1;
        }
        let mut sorted: Vec<u64> = counts.into_values().collect();
        sorted.sort_unstable_by_key(|n| std::cmp::Reverse(*n));
        sorted
    }

    #[test]
    fn key_bytes_are_fixed_width_and_distinct() {
        assert_eq!(&key_bytes(0), b"key0000000000000");
        assert_eq!(&key_bytes(9_876_543_210_123), b"key9876543210123");
    }

    #[test]
    fn zipf_follows_its_law_at_a_fixed_seed() {
        let draws = 200_000;
        let mut picker = KeyPicker::new(&keys(1000, KeyDistribution::Zipf));
        let counts = frequencies(&mut picker, draws);
        let harmonic: f64 = (1..=1000).map(|r| f64::from(r).powf(-0.99)).sum();
        for rank in [1_usize, 2, 10, 100] {
            let expected = draws as f64 * (rank as f64).powf(-0.99) / harmonic;
            let got = counts[rank - 1] as f64;
            assert!((got / expected - 1.0).abs() < 0.15, "rank {rank}: {got} not {expected}");
        }
    }

    #[test]
    fn hot_zipf_keys_are_spread_and_every_rank_has_its_own_key() {
        for count in [1_u64, 2, 10, 1000, 4096] {
            let stride = stride(count);
            let mut seen: Vec<u64> = (0..count).map(|r| r * stride % count).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len() as u64, count);
        }
        let stride = stride(1000);
        assert!(stride % 1000 > 100, "neighbouring ranks are far apart");
    }

    #[test]
    fn uniform_reaches_every_key_about_equally() {
        let mut picker = KeyPicker::new(&keys(100, KeyDistribution::Uniform));
        let counts = frequencies(&mut picker, 100_000);
        assert_eq!(counts.len(), 100);
        assert!(counts[0] < 1200 && counts[99] > 800, "{} {}", counts[0], counts[99]);
    }

    #[test]
    fn latest_reads_what_was_just_written_most() {
        let mut prng = Prng::new(3);
        let mut picker = KeyPicker::new(&keys(1000, KeyDistribution::Latest));
        let newest = (0..10).map(|_| picker.write(&mut prng).unwrap()).last().unwrap();
        let mut hits = 0;
        for _ in 0..10_000 {
            let key = picker.read(&mut prng).unwrap();
            assert!(key < 1000);
            hits += u64::from(key == newest);
        }
        assert!(hits > 1000, "the newest key was read {hits} times of 10000");
    }

    #[test]
    fn a_sequence_covers_the_key_space_once_over_all_threads() {
        let mut prng = Prng::new(1);
        let mut seen = Vec::new();
        for first in 0..3 {
            let mut picker = KeyPicker::sequence(10, first, 3);
            while let Some(key) = picker.write(&mut prng) {
                seen.push(key);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
    }
}
