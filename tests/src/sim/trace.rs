//! The trace of a run: a hash of everything that happened, and on request the text.

use std::collections::BTreeMap;

/// Folds what happens into 64 bits. Two runs are the same when their hashes are.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    hash: u64,
    steps: u64,
    print: bool,
}

impl Trace {
    /// A trace that is printed as well when `print` is set.
    #[must_use]
    pub fn new(print: bool) -> Trace {
        Trace { hash: 0x9E37_79B9_7F4A_7C15, steps: 0, print }
    }

    /// The hash so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many things happened.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Something happened at `at`; `words` tell what, `text` tells a person.
    pub fn note(&mut self, at: u64, words: &[u64], text: impl FnOnce() -> String) {
        self.steps += 1;
        self.fold(at);
        words.iter().for_each(|word| self.fold(*word));
        if self.print {
            println!("{:>14.6} ms  {}", at as f64 / 1e6, text());
        }
    }

    fn fold(&mut self, word: u64) {
        let mixed = (self.hash.rotate_left(7) ^ word).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        self.hash = mixed ^ (mixed >> 29);
    }
}

/// How often things happened that a simulation is meant to make happen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<String, u64>);

impl Coverage {
    /// It happened so many times more.
    pub fn add(&mut self, name: &str, times: u64) {
        if times > 0 {
            *self.0.entry(name.to_owned()).or_default() += times;
        }
    }

    /// How often it happened.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Everything, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, times)| (name.as_str(), *times))
    }

    /// Adds another run's.
    pub fn merge(&mut self, other: &Coverage) {
        other.iter().for_each(|(name, times)| self.add(name, times));
    }
}
