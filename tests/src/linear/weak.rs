//! Checks weaker than linearizability: what one client sees never goes back, and what was
//! acknowledged is there at the end.
//!
//! Stale reads need no check of their own: one that states its age is a read whose call came that
//! much earlier, and [`super::check()`] takes it so.

use std::collections::BTreeMap;
use std::fmt;

use super::check::{Kind, Part, Rules, Violation};
use super::history::{Answer, Call, Cell, Change, History, Nanos, Operation};

/// A key at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinalKey {
    /// Its version.
    pub version: u64,
    /// The number or hash of its value.
    pub value: u64,
}

/// What is stored after the last operation, read when nothing runs any more.
#[derive(Clone, Debug, Default)]
pub struct FinalState {
    /// Keys that exist.
    pub keys: BTreeMap<String, FinalKey>,
    /// Per topic and index: the start, and the values from there on.
    pub topics: BTreeMap<(u32, u32), (u64, Vec<u64>)>,
}

/// How many acknowledged changes and records are accounted for.
#[derive(Clone, Debug, Default)]
pub struct LedgerCount {
    /// Acknowledged at the promised level.
    pub acked: usize,
    /// Of these, there at the end.
    pub found: usize,
    /// Of these, replaced, deleted, expired or trimmed since.
    pub replaced: usize,
    /// Those that are neither.
    pub lost: Vec<Violation>,
}

impl fmt::Display for LedgerCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LedgerCount { acked, found, replaced, lost } = self;
        write!(f, "acked {acked} found {} lost {}", found + replaced, lost.len())
    }
}

enum Fate {
    Found,
    Replaced,
    Lost(String),
}

/// Accounts for every acknowledged write.
#[must_use]
pub fn ledger(history: &History, rules: &Rules, state: &FinalState) -> LedgerCount {
    let mut writers: BTreeMap<&str, Vec<(usize, usize)>> = BTreeMap::new();
    for (i, op) in history.operations.iter().enumerate() {
        let counts = match &op.answer {
            Answer::Receipt { level, version } => *level >= rules.promise && *version != Some(0),
            answer => *answer == Answer::Unknown,
        };
        if let Call::Write { changes, .. } = &op.call
            && counts
        {
            for (n, change) in changes.iter().enumerate() {
                writers.entry(&change.key).or_default().push((i, n));
            }
        }
    }
    let mut count = LedgerCount::default();
    for (i, op) in history.operations.iter().enumerate() {
        let part = super::check::part_of(&op.call);
        match (&op.call, &op.answer) {
            (Call::Write { changes, .. }, Answer::Receipt { level, version })
                if *level >= rules.promise && *version != Some(0) =>
            {
                for (n, change) in changes.iter().enumerate() {
                    let later = (changes.len() - 1 - n) as u64;
                    let version = version.map(|last| last.saturating_sub(later));
                    let writers = &writers[change.key.as_str()];
                    let fate = key_fate(history, state, (i, n), change, version, writers);
                    count.add(fate, part, i);
                }
            }
            (Call::Append { topic, index, values }, Answer::Appended { level, first })
                if *level >= rules.promise =>
            {
                for (offset, value) in (*first..).zip(values) {
                    count.add(record_fate(state, (*topic, *index), offset, *value), part, i);
                }
            }
            _ => {}
        }
    }
    count
}

impl LedgerCount {
    fn add(&mut self, fate: Fate, part: Part, op: usize) {
        self.acked += 1;
        match fate {
            Fate::Found => self.found += 1,
            Fate::Replaced => self.replaced += 1,
            Fate::Lost(why) => {
                self.lost.push(Violation { kind: Kind::Lost, part, ops: vec![op], why });
            }
        }
    }
}

fn record_fate(state: &FinalState, topic: (u32, u32), offset: u64, value: u64) -> Fate {
    let Some((start, values)) = state.topics.get(&topic) else {
        return Fate::Lost("its topic partition is not there at the end".to_owned());
    };
    match offset.checked_sub(*start).map(|at| values.get(at as usize)) {
        None => Fate::Replaced,
        Some(Some(found)) if *found == value => Fate::Found,
        Some(found) => {
            Fate::Lost(format!("offset {offset} was acked with {value}; at the end {found:?}"))
        }
    }
}

fn key_fate(
    history: &History,
    state: &FinalState,
    (op, n): (usize, usize),
    change: &Change,
    version: Option<u64>,
    writers: &[(usize, usize)],
) -> Fate {
    let found = state.keys.get(&change.key);
    let stored = change.value.zip(found).is_some_and(|(value, found)| value == found.value);
    let newer = found.is_some_and(|found| version.is_some_and(|version| found.version > version));
    let same = version.is_none_or(|version| found.is_some_and(|f| f.version == version));
    if (stored && same) || (found.is_none() && change.value.is_none()) {
        return Fate::Found;
    }
    if newer || (found.is_none() && change.ttl_ms > 0) {
        return Fate::Replaced;
    }
    let removes = |c: &Change| c.value.is_none() || c.ttl_ms > 0;
    let replaced = writers.iter().any(|(i, m)| {
        let other = &history.operations[*i];
        let Call::Write { changes, .. } = &other.call else { return false };
        // What may never have happened must at least fit what is there.
        let fits = match found {
            None => removes(&changes[*m]),
            Some(found) => changes[*m].value == Some(found.value),
        };
        (*i, *m) != (op, n)
            && (fits || matches!(other.answer, Answer::Receipt { .. }))
            && may_follow(other, *m, &history.operations[op], version, n)
    });
    if replaced {
        return Fate::Replaced;
    }
    let at = version.map_or(String::new(), |v| format!(" at version {v}"));
    let key = &change.key;
    Fate::Lost(match found {
        None => format!("{key} was acked{at}; at the end it is not there"),
        Some(FinalKey { version, value }) => {
            format!("{key} was acked{at}; at the end it is {value} at version {version}")
        }
    })
}

/// Whether change `m` of `other` may come after change `n` of `op`, which is at `version`.
fn may_follow(other: &Operation, m: usize, op: &Operation, version: Option<u64>, n: usize) -> bool {
    if std::ptr::eq(other, op) {
        return m > n;
    }
    let (Call::Write { changes, .. }, Answer::Receipt { version: Some(last), .. }) =
        (&other.call, &other.answer)
    else {
        return other.end.is_none_or(|end| end >= op.start);
    };
    let theirs = last.saturating_sub((changes.len() - 1 - m) as u64);
    match version {
        Some(version) => theirs > version,
        None => other.end.is_none_or(|end| end >= op.start),
    }
}

/// From when on, which version, and which operation told.
type Known = (Nanos, u64, usize);

/// Checks that no client sees a key older than it saw or wrote it before, on whatever node. Not
/// promised for stale reads of different replicas: ask only where the level promises it. Reads
/// that find nothing are judged for keys that are never deleted and do not expire.
#[must_use]
pub fn monotone_reads(history: &History, rules: &Rules) -> Option<Violation> {
    let mut lasting: BTreeMap<&str, bool> = BTreeMap::new();
    for op in &history.operations {
        let Call::Write { changes, .. } = &op.call else { continue };
        for change in changes {
            let stays = change.value.is_some() && change.ttl_ms == 0;
            *lasting.entry(&change.key).or_insert(true) &= stays;
        }
    }
    // Per client and key: what was known at the end of an operation, the largest so far.
    let mut known: BTreeMap<(u32, &str), Vec<Known>> = BTreeMap::new();
    let mut by_end: Vec<usize> = (0..history.operations.len()).collect();
    by_end.sort_by_key(|i| history.operations[*i].end);
    for i in by_end {
        let op = &history.operations[i];
        let Some(end) = op.end else { continue };
        for (key, version, is_read) in versions(op, rules) {
            if version == 0 && !lasting.get(key).copied().unwrap_or(true) {
                continue;
            }
            let known = known.entry((op.client, key)).or_default();
            let before = known.partition_point(|(end, ..)| *end < op.start).checked_sub(1);
            if let Some((_, newest, other)) = before.map(|at| known[at]).filter(|_| is_read)
                && version < newest
            {
                let why =
                    format!("client {} saw version {version} of {key} after {newest}", op.client);
                let part = super::check::part_of(&op.call);
                return Some(Violation { kind: Kind::WentBack, part, ops: vec![i, other], why });
            }
            match known.last().copied() {
                Some((_, newest, other)) if newest > version => known.push((end, newest, other)),
                _ => known.push((end, version, i)),
            }
        }
    }
    None
}

/// Keys with the version an operation saw, 0 for none, or gave them; whether it is a read.
fn versions<'a>(op: &'a Operation, rules: &Rules) -> Vec<(&'a str, u64, bool)> {
    let version = |cell: &Option<Cell>| match cell {
        None => Some(0),
        Some(cell) => cell.version,
    };
    match (&op.call, &op.answer) {
        (Call::Get { keys, .. }, Answer::Cells(cells)) => keys
            .iter()
            .zip(cells)
            .filter_map(|(key, cell)| Some((key.as_str(), version(cell)?, true)))
            .collect(),
        (_, Answer::Page { entries, .. }) => entries
            .iter()
            .filter_map(|(key, cell)| Some((key.as_str(), cell.version?, true)))
            .collect(),
        (Call::Write { changes, .. }, Answer::Receipt { level, version: Some(last) })
            if *level >= rules.promise && *last > 0 =>
        {
            let given = |n: usize| last.saturating_sub((changes.len() - 1 - n) as u64);
            let puts = changes.iter().enumerate().filter(|(_, c)| c.value.is_some());
            puts.map(|(n, c)| (c.key.as_str(), given(n), false)).collect()
        }
        _ => Vec::new(),
    }
}
