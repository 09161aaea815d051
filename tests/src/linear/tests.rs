//! Tests of the checker, and short words to write histories with.

mod bad;
mod good;
mod machinery;
mod random;
mod reference;
mod speed;

use std::ops::Range;

use super::{
    Answer, Call, Cell, Change, Condition, History, Kind, Level, Operation, Rules, Verdict, check,
};

/// A client, and from when to when.
type When = (u32, Range<u64>);

fn done((client, time): When, call: Call, answer: Answer) -> Operation {
    Operation { client, start: time.start, end: Some(time.end), age: None, call, answer }
}

/// The same operation with an outcome nobody learned.
fn unknown(mut op: Operation) -> Operation {
    op.end = None;
    op.answer = Answer::Unknown;
    op
}

fn receipt(version: u64) -> Answer {
    Answer::Receipt { level: Level::Quorum, version: Some(version) }
}

fn to(key: &str, value: u64) -> Change {
    Change { key: key.into(), value: Some(value), condition: Condition::None, ttl_ms: 0 }
}

fn none(key: &str) -> Change {
    Change { key: key.into(), value: None, condition: Condition::None, ttl_ms: 0 }
}

fn conditional(change: Change, condition: Condition) -> Change {
    Change { condition, ..change }
}

fn write(when: When, changes: Vec<Change>, answer: Answer) -> Operation {
    done(when, Call::Write { partition: 0, changes }, answer)
}

fn put(when: When, key: &str, value: u64, version: u64) -> Operation {
    write(when, vec![to(key, value)], receipt(version))
}

fn delete(when: When, key: &str, version: u64) -> Operation {
    write(when, vec![none(key)], receipt(version))
}

fn cas(when: When, key: &str, value: u64, expected: u64, version: u64) -> Operation {
    write(when, vec![conditional(to(key, value), Condition::Version(expected))], receipt(version))
}

fn create(when: When, key: &str, value: u64, answer: Answer) -> Operation {
    write(when, vec![conditional(to(key, value), Condition::Absent)], answer)
}

fn refused(when: When, key: &str, expected: u64, found: u64) -> Operation {
    let change = conditional(to(key, 999), Condition::Version(expected));
    write(when, vec![change], Answer::ConditionFailed { found })
}

fn cell(value: u64, version: u64) -> Option<Cell> {
    Some(Cell { version: Some(version), value: Some(value) })
}

fn multi(when: When, keys: &[&str], cells: Vec<Option<Cell>>) -> Operation {
    let keys = keys.iter().map(|k| (*k).to_owned()).collect();
    done(when, Call::Get { partition: 0, keys }, Answer::Cells(cells))
}

fn get(when: When, key: &str, value: u64, version: u64) -> Operation {
    multi(when, &[key], vec![cell(value, version)])
}

fn absent(when: When, key: &str) -> Operation {
    multi(when, &[key], vec![None])
}

fn scan(when: When, entries: &[(&str, u64, u64)]) -> Operation {
    let one = |(k, value, version): &(&str, u64, u64)| {
        ((*k).to_owned(), Cell { version: Some(*version), value: Some(*value) })
    };
    let call = Call::Scan { partition: 0, prefix: String::new(), after: String::new() };
    done(when, call, Answer::Page { entries: entries.iter().map(one).collect(), more: false })
}

fn append(when: When, values: &[u64], first: u64) -> Operation {
    let call = Call::Append { topic: 1, index: 0, values: values.to_vec() };
    done(when, call, Answer::Appended { level: Level::Quorum, first })
}

fn read(when: When, from: u64, values: &[u64], start: u64, end: u64) -> Operation {
    let call = Call::Read { topic: 1, index: 0, from: Some(from), max: 0 };
    let records = (from..).zip(values.iter().copied()).collect();
    done(when, call, Answer::Records { records, start, end })
}

fn out_of_range(when: When, from: u64, start: u64) -> Operation {
    let call = Call::Read { topic: 1, index: 0, from: Some(from), max: 0 };
    done(when, call, Answer::OutOfRange { start })
}

fn trim(when: When, before: u64) -> Operation {
    done(when, Call::Trim { topic: 1, index: 0, before }, receipt(1))
}

fn verdict(operations: Vec<Operation>) -> Verdict {
    check(&History::new(operations), &Rules::default()).verdict
}

#[track_caller]
fn accepted(operations: Vec<Operation>) {
    assert_eq!(verdict(operations), Verdict::Linearizable);
}

/// Refused for this kind of reason; the operation that starts at `start` has the wrong answer.
#[track_caller]
fn refused_as(kind: Kind, start: u64, operations: Vec<Operation>) {
    let history = History::new(operations);
    let verdict = check(&history, &Rules::default()).verdict;
    let Verdict::Refused(violation) = verdict else {
        panic!("{kind:?} was not found: {verdict:?}")
    };
    assert_eq!(violation.kind, kind, "{violation}");
    assert_eq!(history.operations[violation.ops[0]].start, start, "{violation}");
}
