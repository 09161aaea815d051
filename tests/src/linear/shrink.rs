//! From a failing history to the few operations that matter.
//!
//! Operations are left out as long as the same operation stays impossible for the same kind of
//! reason. A write never goes without everything that saw it, or saw it gone: a history that fails
//! because its writes were cut away explains nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::check::{Part, Rules, Verdict, Violation, check, part_of};
use super::history::{Answer, Call, Cell, Condition, History, Operation};
use super::print::{describe, timeline};

/// Checks one shrinking may make.
const CHECKS_MAX: usize = 4000;
/// Operations those checks may read in all: long histories get fewer tries.
const READS_MAX: usize = 40_000_000;

/// A small history that is still wrong.
#[derive(Clone, Debug)]
pub struct Counterexample {
    /// The operations that are left.
    pub history: History,
    /// What is wrong; its operations are those of this history.
    pub violation: Violation,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { kind, part, ops, why } = &self.violation;
        writeln!(f, "{kind:?} in {part:?}")?;
        for (i, op) in ops.iter().filter_map(|i| Some((i, self.history.operations.get(*i)?))) {
            writeln!(f, "  #{i} by client {}: {}", op.client, describe(op))?;
        }
        writeln!(f, "about #{}: {why}", ops.first().copied().unwrap_or(0))?;
        f.write_str(&timeline(&self.history))
    }
}

/// Shrinks a history that [`check()`] refused with `violation`.
#[must_use]
pub fn explain(history: &History, rules: &Rules, violation: &Violation) -> Counterexample {
    let mut shrink = Shrink {
        history,
        rules,
        violation,
        needs: needs(history, violation.part),
        checks: CHECKS_MAX,
        reads: READS_MAX,
    };
    let mut kept: Vec<usize> = (0..history.operations.len())
        .filter(|i| part_of(&history.operations[*i].call) == violation.part)
        .collect();
    let mut size = kept.len().div_ceil(2);
    while size > 0 {
        let mut shrunk = false;
        let mut at = 0;
        while at < kept.len() {
            let end = (at + size).min(kept.len());
            match shrink.without(&kept, &kept[at..end]) {
                Some(fewer) => {
                    // What stands here next may be anywhere: go on at the same place.
                    kept = fewer;
                    shrunk = true;
                }
                None => at = end,
            }
        }
        if !(shrunk && size == 1) {
            size /= 2;
        }
    }
    let (history, violation) =
        shrink.try_these(&kept).unwrap_or((history.clone(), violation.clone()));
    Counterexample { history, violation }
}

struct Shrink<'a> {
    history: &'a History,
    rules: &'a Rules,
    violation: &'a Violation,
    /// Per write, the operations that make no sense without it.
    needs: BTreeMap<usize, Vec<usize>>,
    checks: usize,
    reads: usize,
}

impl Shrink<'_> {
    /// What is left of `kept` without `gone`, when it is still wrong in the same way.
    fn without(&mut self, kept: &[usize], gone: &[usize]) -> Option<Vec<usize>> {
        let mut all: BTreeSet<usize> = gone.iter().copied().collect();
        let mut open: Vec<usize> = gone.to_vec();
        while let Some(i) = open.pop() {
            for dependent in self.needs.get(&i).into_iter().flatten() {
                if all.insert(*dependent) {
                    open.push(*dependent);
                }
            }
        }
        if self.violation.ops.iter().any(|op| all.contains(op)) {
            return None;
        }
        let fewer: Vec<usize> = kept.iter().copied().filter(|i| !all.contains(i)).collect();
        self.try_these(&fewer).map(|_| fewer)
    }

    fn try_these(&mut self, kept: &[usize]) -> Option<(History, Violation)> {
        if self.checks == 0 || self.reads < kept.len() {
            return None;
        }
        self.checks -= 1;
        self.reads -= kept.len();
        let operations = kept.iter().map(|i| self.history.operations[*i].clone()).collect();
        let history = History { operations };
        let Verdict::Refused(violation) = check(&history, self.rules).verdict else { return None };
        let same_place = violation.ops.first().map(|i| kept.get(*i).copied())
            == self.violation.ops.first().map(|i| Some(*i));
        (violation.kind == self.violation.kind && same_place).then_some((history, violation))
    }
}

/// What each write is needed by.
fn needs(history: &History, part: Part) -> BTreeMap<usize, Vec<usize>> {
    let members: Vec<(usize, &Operation)> =
        history.operations.iter().enumerate().filter(|(_, op)| part_of(&op.call) == part).collect();
    let mut by_version: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    let mut by_value: BTreeMap<(&str, u64), Vec<usize>> = BTreeMap::new();
    let mut by_absence: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, op) in &members {
        for (key, cell) in sights(op) {
            match cell {
                None => by_absence.entry(key).or_default().push(*i),
                Some(Cell { version, value }) => {
                    if let Some(version) = version {
                        by_version.entry(version).or_default().push(*i);
                    }
                    if let Some(value) = value {
                        by_value.entry((key, value)).or_default().push(*i);
                    }
                }
            }
        }
    }
    let mut needs = BTreeMap::new();
    for (i, op) in &members {
        let mut dependents: Vec<usize> = match &op.call {
            // Offsets are dense: without an append, nothing of what comes later holds.
            Call::Append { .. } | Call::Trim { .. } => {
                let later = members.iter().filter(|(_, o)| o.end.is_none_or(|end| end >= op.start));
                later.map(|(j, _)| *j).collect()
            }
            Call::Write { changes, .. } => {
                let mut all = Vec::new();
                for (n, change) in changes.iter().enumerate() {
                    if let Answer::Receipt { version: Some(last), .. } = op.answer {
                        let version = last.saturating_sub((changes.len() - 1 - n) as u64);
                        all.extend(by_version.get(&version).into_iter().flatten());
                    }
                    let key = change.key.as_str();
                    if let Some(value) = change.value {
                        all.extend(by_value.get(&(key, value)).into_iter().flatten());
                    }
                    if change.value.is_none() || change.ttl_ms > 0 {
                        all.extend(by_absence.get(key).into_iter().flatten());
                    }
                }
                all
            }
            _ => Vec::new(),
        };
        dependents.retain(|j| j != i);
        needs.insert(*i, dependents);
    }
    needs
}

/// What an operation saw of keys, or found when it was applied.
fn sights(op: &Operation) -> Vec<(&str, Option<Cell>)> {
    let version = |v: u64| Some(Cell { version: Some(v), value: None });
    match (&op.call, &op.answer) {
        (Call::Get { keys, .. }, Answer::Cells(cells)) => {
            keys.iter().map(String::as_str).zip(cells.iter().copied()).collect()
        }
        (_, Answer::Page { entries, .. }) => {
            entries.iter().map(|(key, cell)| (key.as_str(), Some(*cell))).collect()
        }
        (Call::Write { changes, .. }, Answer::ConditionFailed { found }) => {
            let cell = if *found == 0 { None } else { version(*found) };
            changes.iter().map(|c| (c.key.as_str(), cell)).collect()
        }
        (Call::Write { changes, .. }, Answer::Receipt { version: given, .. }) => changes
            .iter()
            .filter_map(|c| match c.condition {
                Condition::Absent => Some((c.key.as_str(), None)),
                Condition::Version(v) => Some((c.key.as_str(), version(v))),
                Condition::None if *given == Some(0) => Some((c.key.as_str(), None)),
                Condition::None => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}
