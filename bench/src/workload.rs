//! What each request does: operation, key and value, drawn from a seeded generator.

use std::path::Path;

use ironring_core::limits::VALUE_BYTES_MAX;
use ironring_core::prng::Prng;
use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::keys::KeyPicker;
use crate::scenario::{Mix, Scenario, Values};

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OpKind {
    /// Store a value.
    Put,
    /// Read a value.
    Get,
    /// Remove a key.
    Delete,
    /// Append a batch of records.
    Append,
    /// Read a batch of records.
    Read,
}

impl OpKind {
    /// Every kind, in the order of [`OpKind::index`].
    pub const ALL: [OpKind; 5] =
        [OpKind::Put, OpKind::Get, OpKind::Delete, OpKind::Append, OpKind::Read];

    /// Place in per-kind tables.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// Name in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        ["put", "get", "delete", "append", "read"][self.index()]
    }

    /// Whether it changes data.
    #[must_use]
    pub fn writes(self) -> bool {
        matches!(self, OpKind::Put | OpKind::Delete | OpKind::Append)
    }
}

/// One request to encode.
#[derive(Clone, Copy, Debug)]
pub struct Op<'a> {
    /// What to do.
    pub kind: OpKind,
    /// Number of the key.
    pub key: u64,
    /// The value to store; empty for reads. Topic appends have their records encoded in advance.
    pub value: &'a [u8],
}

/// Sizes of values.
#[derive(Clone, Debug)]
enum Sizes {
    Fixed(usize),
    Range(usize, usize),
    /// Size and the cumulated weight up to and including it.
    Weighted(Vec<(usize, u64)>),
}

impl Sizes {
    fn new(values: &Values) -> Result<Sizes, BenchError> {
        Ok(match (&values.file, values.min, values.max) {
            (Some(path), _, _) => Sizes::read(path)?,
            (None, Some(min), Some(max)) => Sizes::Range(min, max),
            _ => Sizes::Fixed(values.size),
        })
    }

    fn read(path: &Path) -> Result<Sizes, BenchError> {
        let text = std::fs::read_to_string(path).map_err(BenchError::file(path))?;
        Sizes::parse(&text).map_err(|e| BenchError::Usage(format!("{}: {e}", path.display())))
    }

    /// Lines of `size` or `size weight`; empty lines and `#` comments are skipped.
    fn parse(text: &str) -> Result<Sizes, String> {
        let mut table = Vec::new();
        let mut sum = 0_u64;
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(size) = words.next() else { continue };
            let bad = |what: &str| format!("line {}: {what}", index + 1);
            let size = crate::units::parse_bytes(size).map_err(|e| bad(&e))? as usize;
            if size > VALUE_BYTES_MAX {
                return Err(bad(&format!("size {size} is above {VALUE_BYTES_MAX}")));
            }
            let weight = match words.next() {
                Some(word) => word.parse::<u32>().map_err(|e| bad(&format!("weight: {e}")))?,
                None => 1,
            };
            if words.next().is_some() {
                return Err(bad("a size and at most one weight were expected"));
            }
            sum += u64::from(weight);
            table.push((size, sum));
        }
        if sum == 0 {
            return Err("no size with a weight above 0".to_owned());
        }
        Ok(Sizes::Weighted(table))
    }

    fn pick(&self, prng: &mut Prng) -> usize {
        match self {
            Sizes::Fixed(size) => *size,
            Sizes::Range(min, max) => min + prng.below((max - min) as u64 + 1) as usize,
            Sizes::Weighted(table) => {
                let (_, sum) = table[table.len() - 1];
                let at = prng.below(sum);
                table[table.partition_point(|(_, upto)| *upto <= at)].0
            }
        }
    }

    fn largest(&self) -> usize {
        match self {
            Sizes::Fixed(size) => *size,
            Sizes::Range(_, max) => *max,
            Sizes::Weighted(table) => table.iter().map(|(size, _)| *size).max().unwrap_or(0),
        }
    }
}

/// Draws the requests of one generator thread.
#[derive(Clone, Debug)]
pub struct Workload {
    prng: Prng,
    keys: KeyPicker,
    sizes: Sizes,
    /// Weight up to and including each kind.
    upto: [u64; 5],
    /// Random bytes values are cut from, so that they neither compress nor deduplicate, without
    /// drawing each of them.
    pool: Vec<u8>,
    /// How many different starts in the pool.
    starts: u64,
}

/// Different places in the pool a value may start at.
const POOL_SLACK_BYTES: usize = 64 << 10;

impl Workload {
    /// The requests of a scenario's main phase, from this seed.
    ///
    /// # Errors
    /// The file of value sizes cannot be read.
    pub fn new(scenario: &Scenario, seed: u64) -> Result<Workload, BenchError> {
        let keys = KeyPicker::new(&scenario.keys);
        Workload::build(scenario, &scenario.mix, keys, seed)
    }

    /// Puts every key once; thread `thread` of `threads`.
    ///
    /// # Errors
    /// The file of value sizes cannot be read.
    pub fn prefill(
        scenario: &Scenario,
        seed: u64,
        thread: usize,
        threads: usize,
    ) -> Result<Workload, BenchError> {
        let keys = KeyPicker::sequence(scenario.keys.count, thread as u64, threads as u64);
        let puts = Mix { put: 1, get: 0, delete: 0, append: 0, read: 0 };
        Workload::build(scenario, &puts, keys, seed)
    }

    fn build(
        scenario: &Scenario,
        mix: &Mix,
        keys: KeyPicker,
        seed: u64,
    ) -> Result<Workload, BenchError> {
        let sizes = Sizes::new(&scenario.values)?;
        let mut prng = Prng::new(seed);
        let mut pool = vec![0; sizes.largest() + POOL_SLACK_BYTES];
        prng.fill(&mut pool);
        let mut upto = [0; 5];
        let mut sum = 0;
        let weights = [mix.put, mix.get, mix.delete, mix.append, mix.read];
        for (slot, weight) in upto.iter_mut().zip(weights) {
            sum += u64::from(weight);
            *slot = sum;
        }
        assert!(sum > 0, "Scenario::check leaves no mix without weights");
        Ok(Workload { prng, keys, sizes, upto, pool, starts: POOL_SLACK_BYTES as u64 })
    }

    /// The next request; `None` when a prefill has put every key.
    pub fn next(&mut self) -> Option<Op<'_>> {
        let at = if self.upto[0] == self.upto[4] { 0 } else { self.prng.below(self.upto[4]) };
        let kind = OpKind::ALL[self.upto.partition_point(|upto| *upto <= at)];
        match kind {
            OpKind::Put => {
                let key = self.keys.write(&mut self.prng)?;
                let size = self.sizes.pick(&mut self.prng);
                let start = self.prng.below(self.starts) as usize;
                Some(Op { kind, key, value: &self.pool[start..start + size] })
            }
            OpKind::Get | OpKind::Delete => {
                Some(Op { kind, key: self.keys.read(&mut self.prng)?, value: &[] })
            }
            OpKind::Append | OpKind::Read => Some(Op { kind, key: 0, value: &[] }),
        }
    }

    /// Sizes of the records of one topic batch, and bytes to fill them with.
    pub fn records(&mut self, count: usize) -> Vec<&[u8]> {
        let mut spans = Vec::with_capacity(count);
        for _ in 0..count {
            let size = self.sizes.pick(&mut self.prng);
            spans.push((self.prng.below(self.starts) as usize, size));
        }
        spans.into_iter().map(|(start, size)| &self.pool[start..start + size]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(text: &str) -> Scenario {
        let mut scenario: Scenario = toml::from_str(text).unwrap();
        scenario.check().unwrap();
        scenario
    }

    #[test]
    fn the_mix_follows_its_weights() {
        let s = scenario("[mix]\nput = 3\nget = 6\ndelete = 1");
        let mut w = Workload::new(&s, 5).unwrap();
        let mut counts = [0_u64; 5];
        for _ in 0..100_000 {
            counts[w.next().unwrap().kind.index()] += 1;
        }
        for (got, expected) in counts.iter().zip([30_000_i64, 60_000, 10_000, 0, 0]) {
            assert!((*got as i64 - expected).abs() < 1000, "{counts:?}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_requests_and_another_seed_others() {
        let s = scenario("[mix]\nput = 1\nget = 1\n[values]\nmin = 10\nmax = 2000");
        let draw = |seed| {
            let mut w = Workload::new(&s, seed).unwrap();
            (0..100)
                .map(|_| {
                    let op = w.next().unwrap();
                    (op.kind, op.key, op.value.to_vec())
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn ranged_sizes_reach_both_ends() {
        let s = scenario("[values]\nmin = 10\nmax = 12");
        let mut w = Workload::new(&s, 1).unwrap();
        let mut seen: Vec<usize> = (0..100).map(|_| w.next().unwrap().value.len()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [10, 11, 12]);
    }

    #[test]
    fn a_size_file_is_weighted_and_its_errors_name_the_line() {
        let sizes = Sizes::parse("# comment\n100 9\n\n1KiB 1 # tail\n").unwrap();
        let mut prng = Prng::new(2);
        let large = (0..10_000).filter(|_| sizes.pick(&mut prng) == 1024).count();
        assert!((800..1200).contains(&large), "{large}");
        assert!(Sizes::parse("10\nten").unwrap_err().contains("line 2"));
        assert!(Sizes::parse("10 1 1").unwrap_err().contains("line 1"));
        assert!(Sizes::parse("10 0").unwrap_err().contains("weight"));
        assert!(Sizes::parse("999999999").unwrap_err().contains("above"));
    }
}
