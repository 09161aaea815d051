//! Histories as text, recording from many threads, shrinking, and the weaker checks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::linear::{ClientLog, FinalKey, FinalState, explain, ledger, monotone_reads};

fn long_and_wrong() -> History {
    let mut ops = Vec::new();
    for i in 0..200u64 {
        let key = ["a", "b", "c"][i as usize % 3];
        ops.push(put((1, 10 * i..10 * i + 3), key, i + 1, i + 1));
        ops.push(get((2, 10 * i + 4..10 * i + 6), key, i + 1, i + 1));
    }
    ops.push(get((3, 1995..1996), "a", 100, 100));
    ops.push(delete((1, 2100..2101), "a", 500));
    History::new(ops)
}

#[test]
fn a_failing_history_shrinks_to_what_matters() {
    let history = long_and_wrong();
    let rules = Rules::default();
    let Verdict::Refused(violation) = check(&history, &rules).verdict else { panic!("accepted") };
    let small = explain(&history, &rules, &violation);
    assert_eq!(small.violation.kind, Kind::StaleRead);
    assert!(small.history.operations.len() <= 4, "{small}");
    let text = small.to_string();
    assert!(text.contains("client 3") && text.contains("100@100"), "{text}");
    assert!(text.contains("answered before it began"), "{text}");
}

#[test]
fn shrinking_keeps_the_writes_of_what_was_seen() {
    let plain = |value| vec![Some(Cell { version: None, value: Some(value) })];
    let ack = || Answer::Receipt { level: Level::Quorum, version: None };
    let history = History::new(vec![
        write((1, 0..10), vec![to("a", 1)], ack()),
        write((2, 1..10), vec![to("a", 2)], ack()),
        multi((4, 2..3), &["b"], vec![None]),
        multi((3, 11..12), &["a"], plain(1)),
        multi((3, 13..14), &["a"], plain(2)),
    ]);
    let rules = Rules::default();
    let Verdict::Refused(violation) = check(&history, &rules).verdict else { panic!("accepted") };
    let small = explain(&history, &rules, &violation);
    assert_eq!(small.history.operations.len(), 4, "{small}");
}

#[test]
fn text_brings_back_the_same_history() {
    let mut history = long_and_wrong();
    let mut stale = get((7, 3000..3001), "a", 1, 1);
    stale.age = Some(5);
    history.operations.extend([
        stale,
        unknown(create((4, 3000..3001), "a", 1, receipt(1))),
        refused((4, 3000..3001), "a", 1, 2),
        scan((4, 3000..3001), &[("a", 1, 1)]),
        append((4, 3000..3001), &[5, 6], 7),
        read((4, 3000..3001), 7, &[5, 6], 0, 9),
        out_of_range((4, 3000..3001), 70, 0),
        trim((4, 3000..3001), 8),
    ]);
    let history = History::new(history.operations);
    let text = format!("# kept by a test\n\n{}", history.to_text());
    assert_eq!(History::from_text(&text).unwrap(), history);
    let first = text.lines().nth(2).unwrap();
    assert_eq!(
        first,
        r#"{"c":1,"s":0,"e":3,"q":{"write":{"partition":0,"changes":[{"k":"a","to":1}]}},"a":{"receipt":{"level":"quorum","version":1}}}"#
    );
}

#[test]
fn text_that_is_no_history_is_refused_with_its_line() {
    let wrong = |text: &str| History::from_text(text).unwrap_err().to_string();
    assert!(wrong("\n{}").starts_with("line 2: missing field"));
    let offsets = r#""q":{"offsets":{"topic":1,"index":0}}"#;
    assert!(wrong(&format!(r#"{{"c":1,"s":5,{offsets},"a":"failed"}}"#)).contains("an end"));
    let early = format!(r#"{{"c":1,"s":5,"e":4,{offsets},"a":"failed"}}"#);
    assert!(wrong(&early).contains("ends before"));
    let more = format!(r#"{{"c":1,"s":5,"x":4,{offsets},"a":"unknown"}}"#);
    assert!(wrong(&more).contains("unknown field"));
}

#[test]
fn many_threads_record_one_history() {
    let clock = AtomicU64::new(0);
    let tick = || clock.fetch_add(1, Ordering::SeqCst);
    let logs: Vec<_> = std::thread::scope(|scope| {
        let record = |client: u32| {
            let mut log = ClientLog::new(client, tick);
            for i in 0..50u64 {
                let value = u64::from(client) * 100 + i;
                let changes = vec![to(&format!("k{client}"), value)];
                let ticket = log.begin(Call::Write { partition: client, changes });
                let answer = if i % 7 == 0 { Answer::Unknown } else { receipt(i + 1) };
                log.finish(ticket, answer);
            }
            let _never_answered = log.begin(Call::Offsets { topic: 0, index: 0 });
            log
        };
        let threads: Vec<_> = (0..4).map(|client| scope.spawn(move || record(client))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let history = History::merge(logs);
    assert_eq!(history.operations.len(), 4 * 51);
    assert!(history.operations.is_sorted_by_key(|op| op.start));
    let unknown = history.operations.iter().filter(|op| op.end.is_none()).count();
    assert_eq!(unknown, 4 * 9);
    assert_eq!(check(&history, &Rules::default()).verdict, Verdict::Linearizable);
}

#[test]
fn the_history_in_the_documentation_fails_as_it_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/testing.md");
    let text = std::fs::read_to_string(path).unwrap();
    let lines: Vec<&str> =
        text.lines().map(str::trim_start).filter(|line| line.starts_with("{\"c\"")).collect();
    let history = History::from_text(&lines.join("\n")).unwrap();
    let verdict = check(&history, &Rules::default()).verdict;
    let Verdict::Refused(violation) = verdict else { panic!("{verdict:?}") };
    assert_eq!((violation.kind, violation.ops[0]), (Kind::Missing, 2), "{violation}");
}

fn account(keys: &[(&str, u64, u64)], topic: &[u64], start: u64) -> String {
    let history = History::new(vec![
        put((1, 0..1), "a", 1, 1),
        put((1, 2..3), "b", 2, 2),
        delete((1, 4..5), "b", 3),
        put((1, 6..7), "a", 3, 4),
        put((1, 8..9), "c", 4, 5),
        unknown(delete((1, 10..11), "c", 0)),
        append((1, 12..13), &[7, 8], 0),
    ]);
    let one = |(k, value, version): &(&str, u64, u64)| {
        ((*k).to_owned(), FinalKey { version: *version, value: *value })
    };
    let state = FinalState {
        keys: keys.iter().map(one).collect(),
        topics: BTreeMap::from([((1, 0), (start, topic.to_vec()))]),
    };
    ledger(&history, &Rules::default(), &state).to_string()
}

#[test]
fn the_ledger_accounts_for_every_acked_write() {
    let (a, c) = (("a", 3, 4), ("c", 4, 5));
    assert_eq!(account(&[a, c], &[7, 8], 0), "acked 7 found 7 lost 0");
    assert_eq!(account(&[a], &[8], 1), "acked 7 found 7 lost 0");
    // The old value of a: the second write is lost.
    assert_eq!(account(&[("a", 1, 1), c], &[7, 8], 0), "acked 7 found 6 lost 1");
    // No a: nothing deleted it.
    assert_eq!(account(&[c], &[7, 8], 0), "acked 7 found 6 lost 1");
    // b is back.
    assert_eq!(account(&[a, c, ("b", 2, 2)], &[7, 8], 0), "acked 7 found 6 lost 1");
    assert_eq!(account(&[a, c], &[7], 0), "acked 7 found 6 lost 1");
    assert_eq!(account(&[a, c], &[7, 9], 0), "acked 7 found 6 lost 1");
}

#[test]
fn one_client_never_sees_older_versions() {
    let ops = |client| {
        let stale = |op: Operation| Operation { age: Some(1000), ..op };
        vec![
            put((1, 0..1), "a", 1, 1),
            put((1, 2..3), "a", 2, 2),
            stale(get((2, 4..5), "a", 2, 2)),
            stale(get((client, 6..7), "a", 1, 1)),
        ]
    };
    let rules = Rules::default();
    assert_eq!(monotone_reads(&History::new(ops(3)), &rules), None);
    let violation = monotone_reads(&History::new(ops(2)), &rules).unwrap();
    assert_eq!((violation.kind, violation.ops), (Kind::WentBack, vec![3, 2]));
    // A client that has written sees at least that.
    assert!(monotone_reads(&History::new(ops(1)), &rules).is_some());
    let gone = vec![put((1, 0..1), "a", 1, 1), absent((1, 2..3), "a")];
    assert!(monotone_reads(&History::new(gone), &rules).is_some());
}
