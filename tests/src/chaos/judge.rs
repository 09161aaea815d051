//! From what clients recorded to a verdict. Needs nothing but the history, so a kept one can be
//! judged again.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::linear::{
    Answer, Call, Condition, FinalKey, FinalState, History, Level, Nanos, Rules, Verdict, check,
    explain, ledger,
};

const NANOS_PER_MS: u64 = 1_000_000;

/// Operations of one kind, by what was heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outcomes {
    /// It was answered; a condition that did not hold is an answer.
    pub ok: u64,
    /// It certainly changed nothing.
    pub failed: u64,
    /// It may have taken effect.
    pub unknown: u64,
}

/// What a history is worth.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Judgement {
    /// Operations by kind: `get`, `put`, `create` (put if absent), `cas` (put at a version),
    /// `delete`, and `stale` (a get that some replica answered).
    pub operations: BTreeMap<&'static str, Outcomes>,
    /// The longest time in which no write was acknowledged, between the first ack and the last.
    pub longest_without_ack_ms: u64,
    /// When that time began, in milliseconds of the history's clock.
    pub longest_without_ack_from_ms: u64,
    /// `linearizable`, `violated` or `undecided`: its bound of work ended the search.
    pub verdict: &'static str,
    /// Steps the search for an order took.
    pub search_steps: u64,
    /// Acknowledged changes.
    pub acked: usize,
    /// Of these, there at the end or replaced since.
    pub accounted: usize,
    /// What is wrong; empty when nothing is.
    pub violations: Vec<String>,
    /// The part that was too hard to decide.
    pub undecided: Option<String>,
    /// The smallest history that is still wrong, as a timeline.
    pub counterexample: Option<String>,
    /// The same as lines to keep as a test.
    #[serde(skip)]
    pub counterexample_text: Option<String>,
}

impl Judgement {
    /// Whether the history is proven to be right.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        self.violations.is_empty() && self.undecided.is_none()
    }

    /// All operations.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.operations.values().map(|o| o.ok + o.failed + o.unknown).sum()
    }
}

/// Judges a history that ends with reads of every key.
#[must_use]
pub fn judge(history: &History, rules: &Rules) -> Judgement {
    let (gap, from) = longest_without_ack(history, rules.promise);
    let mut judgement = Judgement {
        operations: count(history),
        longest_without_ack_ms: gap / NANOS_PER_MS,
        longest_without_ack_from_ms: from / NANOS_PER_MS,
        ..Judgement::default()
    };
    let report = check(history, rules);
    judgement.search_steps = report.stats.work;
    judgement.verdict = match report.verdict {
        Verdict::Linearizable => "linearizable",
        Verdict::GaveUp(part) => {
            judgement.undecided = Some(format!("{part:?}"));
            "undecided"
        }
        Verdict::Refused(violation) => {
            judgement.violations.push(violation.to_string());
            let smallest = explain(history, rules, &violation);
            judgement.counterexample = Some(smallest.to_string());
            judgement.counterexample_text = Some(smallest.history.to_text());
            "violated"
        }
    };
    let (state, unread) = final_state(history, rules.promise);
    for key in unread {
        judgement.violations.push(format!("{key} was acknowledged and not read after that"));
    }
    let count = ledger(history, rules, &state);
    judgement.acked = count.acked;
    judgement.accounted = count.found + count.replaced;
    judgement.violations.extend(count.lost.iter().map(ToString::to_string));
    judgement
}

fn count(history: &History) -> BTreeMap<&'static str, Outcomes> {
    let mut operations: BTreeMap<&'static str, Outcomes> = BTreeMap::new();
    for op in &history.operations {
        let kind = match &op.call {
            Call::Write { changes, .. } => match changes.first() {
                Some(change) if change.value.is_none() => "delete",
                Some(change) => match change.condition {
                    Condition::None => "put",
                    Condition::Absent => "create",
                    Condition::Version(_) => "cas",
                },
                None => "other",
            },
            Call::Get { .. } if op.age.is_some() => "stale",
            Call::Get { .. } => "get",
            _ => "other",
        };
        let outcomes = operations.entry(kind).or_default();
        match op.answer {
            Answer::Failed => outcomes.failed += 1,
            Answer::Unknown => outcomes.unknown += 1,
            _ => outcomes.ok += 1,
        }
    }
    operations
}

/// The longest time between two acknowledged writes that nothing lies between, and when it began.
fn longest_without_ack(history: &History, promise: Level) -> (Nanos, Nanos) {
    let acked = history
        .operations
        .iter()
        .filter(|op| matches!(op.answer, Answer::Receipt { level, .. } if level >= promise));
    let mut ends: Vec<Nanos> = acked.filter_map(|op| op.end).collect();
    ends.sort_unstable();
    ends.windows(2).map(|pair| (pair[1] - pair[0], pair[0])).max().unwrap_or((0, 0))
}

/// What the last read of each key found, and the keys with an acknowledged write that no read began
/// after.
fn final_state(history: &History, promise: Level) -> (FinalState, Vec<String>) {
    let mut written: BTreeMap<&str, Nanos> = BTreeMap::new();
    let mut read: BTreeMap<&str, (Nanos, Option<FinalKey>)> = BTreeMap::new();
    for op in &history.operations {
        let Some(end) = op.end else { continue };
        match (&op.call, &op.answer) {
            (Call::Write { changes, .. }, Answer::Receipt { level, .. }) if *level >= promise => {
                for change in changes {
                    let last = written.entry(&change.key).or_default();
                    *last = end.max(*last);
                }
            }
            (Call::Get { keys, .. }, Answer::Cells(cells)) if op.age.is_none() => {
                for (key, cell) in keys.iter().zip(cells) {
                    let found = cell.and_then(|cell| {
                        Some(FinalKey { version: cell.version?, value: cell.value? })
                    });
                    let last = read.entry(key).or_insert((op.start, found));
                    if op.start >= last.0 {
                        *last = (op.start, found);
                    }
                }
            }
            _ => {}
        }
    }
    let late = |key: &str, end: Nanos| read.get(key).is_some_and(|(start, _)| *start >= end);
    let unread = written.iter().filter(|(key, end)| !late(key, **end));
    let unread = unread.map(|(key, _)| (*key).to_owned()).collect();
    let there = read.iter().filter_map(|(key, (_, found))| Some(((*key).to_owned(), (*found)?)));
    (FinalState { keys: there.collect(), ..FinalState::default() }, unread)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUT: &str = r#"{"c":1,"s":0,"e":3000000,"q":{"write":{"partition":0,"changes":[{"k":"a","to":1}]}},"a":{"receipt":{"level":"quorum","version":1}}}"#;
    const CAS: &str = r#"{"c":2,"s":4000000,"e":93000000,"q":{"write":{"partition":0,"changes":[{"k":"a","to":2,"if":{"version":1}}]}},"a":{"receipt":{"level":"all","version":4}}}"#;
    const REFUSED: &str = r#"{"c":1,"s":93000001,"e":93000002,"q":{"write":{"partition":0,"changes":[{"k":"a","to":3,"if":"absent"}]}},"a":{"condition_failed":{"found":4}}}"#;
    const UNKNOWN: &str =
        r#"{"c":3,"s":94000000,"q":{"write":{"partition":0,"changes":[{"k":"b"}]}},"a":"unknown"}"#;
    const FAILED: &str = r#"{"c":3,"s":95000000,"e":96000000,"q":{"get":{"partition":0,"keys":["a"]}},"a":"failed"}"#;

    fn read(at: u64, cell: &str) -> String {
        let end = at + 1;
        format!(
            r#"{{"c":1,"s":{at},"e":{end},"q":{{"get":{{"partition":0,"keys":["a"]}}}},"a":{{"cells":[{cell}]}}}}"#
        )
    }

    fn judged(lines: &[&str]) -> Judgement {
        judge(&History::from_text(&lines.join("\n")).unwrap(), &Rules::default())
    }

    #[test]
    fn a_right_history_is_counted_and_fine() {
        let end = read(97_000_000, r#"{"v":4,"is":2}"#);
        let judgement = judged(&[PUT, CAS, REFUSED, UNKNOWN, FAILED, &end]);
        assert!(judgement.is_fine(), "{judgement:?}");
        assert_eq!((judgement.acked, judgement.accounted), (2, 2));
        assert_eq!(judgement.longest_without_ack_ms, 90);
        assert_eq!(judgement.longest_without_ack_from_ms, 3);
        assert_eq!(judgement.total(), 6);
        let of = |kind: &str| judgement.operations[kind];
        assert_eq!(of("put"), Outcomes { ok: 1, ..Outcomes::default() });
        assert_eq!(of("cas"), Outcomes { ok: 1, ..Outcomes::default() });
        assert_eq!(of("create"), Outcomes { ok: 1, ..Outcomes::default() });
        assert_eq!(of("delete"), Outcomes { unknown: 1, ..Outcomes::default() });
        assert_eq!(of("get"), Outcomes { ok: 1, failed: 1, ..Outcomes::default() });
    }

    #[test]
    fn a_stale_read_is_a_violation_with_its_counterexample() {
        let stale = read(97_000_000, r#"{"v":1,"is":1}"#);
        let end = read(98_000_000, r#"{"v":4,"is":2}"#);
        let judgement = judged(&[PUT, CAS, &stale, &end]);
        assert_eq!(judgement.verdict, "violated");
        assert!(judgement.violations[0].starts_with("StaleRead"), "{:?}", judgement.violations);
        let kept = judgement.counterexample_text.as_deref().unwrap();
        assert_eq!(judged(&[kept]).verdict, "violated");
    }

    #[test]
    fn a_write_that_is_gone_at_the_end_is_lost() {
        let judgement = judged(&[PUT, &read(97_000_000, "null")]);
        assert!(!judgement.is_fine());
        let lost = judgement.violations.iter().any(|v| v.starts_with("Lost"));
        assert!(lost, "{:?}", judgement.violations);
        assert_eq!((judgement.acked, judgement.accounted), (1, 0));
    }

    #[test]
    fn what_nobody_read_in_the_end_is_not_proven() {
        let judgement = judged(&[PUT, &read(3_500_000, r#"{"v":1,"is":1}"#), CAS]);
        assert!(!judgement.is_fine());
        assert!(judgement.violations.iter().any(|v| v.contains("not read after")));
    }

    #[test]
    fn a_search_that_was_given_up_proves_nothing() {
        let put = |number: u64| {
            format!(
                r#"{{"c":{number},"s":0,"q":{{"write":{{"partition":0,"changes":[{{"k":"a","to":{number}}}]}}}},"a":"unknown"}}"#
            )
        };
        let puts: Vec<String> = (0..9).map(put).collect();
        let mut lines: Vec<&str> = puts.iter().map(String::as_str).collect();
        let ends: Vec<String> = (3..8).map(|n| read(n * 10, &format!(r#"{{"is":{n}}}"#))).collect();
        lines.extend(ends.iter().map(String::as_str));
        let history = History::from_text(&lines.join("\n")).unwrap();
        let judgement = judge(&history, &Rules { work: 1, ..Rules::default() });
        assert_eq!(judgement.verdict, "undecided");
        assert!(judgement.violations.is_empty() && !judgement.is_fine());
    }
}
