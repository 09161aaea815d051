//! A short log in two words, so that a world is cheap to copy and to compare.

use super::state::{Offset, Term};

/// Entries that fit.
pub(super) const ENTRIES_MAX: usize = 12;
/// Bits of an entry: its term, then its sequence.
const ENTRY_BITS: usize = 8;
/// Bits of its sequence.
const SEQUENCE_BITS: usize = 4;

/// The sequence of a term's start.
const TERM_START: u8 = 0;
/// The sequence that stands for the first session's expiry.
pub(super) const EXPIRY: u8 = 7;
/// The sequences of the second session begin behind it.
pub(super) const SECOND_SESSION: u8 = 8;

/// One entry of a log: a term's start, a session's write, or a session's expiry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entry {
    /// Of the leader that appended it.
    pub term: Term,
    /// The write's sequence in the first session, or [`SECOND_SESSION`] more in the second.
    pub sequence: u8,
}

impl Entry {
    /// Whether it is a client's.
    pub fn is_write(self) -> bool {
        self.sequence != TERM_START && self.sequence != EXPIRY
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.sequence {
            TERM_START => write!(f, "t{}", self.term),
            EXPIRY => write!(f, "t{} expiry", self.term),
            sequence => write!(f, "t{}#{sequence}", self.term),
        }
    }
}

/// Entries in order.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Log {
    packed: u128,
    len: u8,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Log {
    /// Its end.
    pub fn end(self) -> Offset {
        self.len
    }

    /// Whether it has no entry.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The entry at `at`.
    pub fn get(self, at: Offset) -> Option<Entry> {
        (at < self.len).then(|| {
            let bits = (self.packed >> (usize::from(at) * ENTRY_BITS)) as u8;
            Entry { term: bits >> SEQUENCE_BITS, sequence: bits & ((1 << SEQUENCE_BITS) - 1) }
        })
    }

    /// Appends one.
    pub fn push(&mut self, entry: Entry) {
        let at = usize::from(self.len);
        assert!(at < ENTRIES_MAX, "the bounds let a log grow past {ENTRIES_MAX} entries");
        assert!(entry.term < 16 && entry.sequence < 16, "an entry fits its bits: {entry:?}");
        let bits = u128::from(entry.term << SEQUENCE_BITS | entry.sequence);
        self.packed |= bits << (at * ENTRY_BITS);
        self.len += 1;
    }

    /// The entries below `end`.
    pub fn below(self, end: Offset) -> Log {
        if end >= self.len {
            return self;
        }
        Log { packed: self.packed & ((1 << (usize::from(end) * ENTRY_BITS)) - 1), len: end }
    }

    /// The entries from `at` on.
    pub fn from(self, at: Offset) -> Log {
        if at >= self.len {
            return Log::default();
        }
        Log { packed: self.packed >> (usize::from(at) * ENTRY_BITS), len: self.len - at }
    }

    /// These entries, then `more`.
    pub fn then(mut self, more: Log) -> Log {
        more.iter().for_each(|entry| self.push(entry));
        self
    }

    /// The same with a term's start where the first write is.
    pub fn without_first_write(self) -> Log {
        let mut found = false;
        let mut changed = Log::default();
        for entry in self.iter() {
            let first = entry.is_write() && !found;
            found |= first;
            changed
                .push(Entry { sequence: if first { TERM_START } else { entry.sequence }, ..entry });
        }
        changed
    }

    /// Whether it begins with `prefix`.
    pub fn starts_with(self, prefix: Log) -> bool {
        prefix.len <= self.len && self.below(prefix.len) == prefix
    }

    /// Each, in order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Entry> {
        (0..self.len).filter_map(move |at| self.get(at))
    }
}
