//! Histories for people: a timeline with a column per client.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::history::{Answer, Call, Cell, Change, Condition, History, Nanos, Operation};

const COLUMN_MAX: usize = 44;

/// One line per call and answer, in order of time; `|` where a client waits, `?` after an
/// operation that never got an answer. Operations are numbered as in the history.
pub(super) fn timeline(history: &History) -> String {
    let mut columns: BTreeMap<u32, usize> = BTreeMap::new();
    for op in &history.operations {
        columns.entry(op.client).or_insert(0);
    }
    for (at, column) in columns.values_mut().enumerate() {
        *column = at;
    }
    let mut events = Vec::new();
    for (i, op) in history.operations.iter().enumerate() {
        let unknown = if op.end.is_none() { " ?" } else { "" };
        events.push((op.start, false, i, format!("#{i} {}{unknown}", call(&op.call))));
        events.extend(op.end.map(|end| (end, true, i, format!("#{i} -> {}", answer(op)))));
    }
    events.sort();
    let widest = events.iter().map(|e| e.3.chars().count()).max().unwrap_or(0);
    let width = widest.clamp(10, COLUMN_MAX);
    let mut waiting = vec![0usize; columns.len()];
    let mut text = format!("{:>14}", "time");
    for client in columns.keys() {
        let _ = write!(text, "  {:width$}", format!("client {client}"));
    }
    for (time, is_answer, i, what) in events {
        let op = &history.operations[i];
        let column = columns[&op.client];
        let _ = write!(text, "\n{time:>14}");
        for (at, waits) in waiting.iter().enumerate() {
            let cell = if at == column {
                &what
            } else if *waits > 0 {
                "|"
            } else {
                ""
            };
            let _ = write!(text, "  {cell:width$}");
        }
        match (is_answer, op.end) {
            (true, _) => waiting[column] -= 1,
            (false, Some(_)) => waiting[column] += 1,
            (false, None) => {}
        }
    }
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n") + "\n"
}

/// An operation in one line.
pub(super) fn describe(op: &Operation) -> String {
    format!("{} -> {}", call(&op.call), answer(op))
}

fn call(call: &Call) -> String {
    match call {
        Call::Write { changes, .. } => {
            let texts: Vec<String> = changes.iter().map(change).collect();
            if texts.len() == 1 { texts.concat() } else { format!("batch [{}]", texts.join(", ")) }
        }
        Call::Get { keys, .. } => format!("get {}", keys.join(" ")),
        Call::Scan { prefix, after, .. } => format!("scan {prefix:?} after {after:?}"),
        Call::Append { values, .. } => format!("append {values:?}"),
        Call::Read { from: Some(from), .. } => format!("read from {from}"),
        Call::Read { from: None, .. } => "read from the oldest".to_owned(),
        Call::Offsets { .. } => "offsets".to_owned(),
        Call::Trim { before, .. } => format!("trim before {before}"),
    }
}

fn change(change: &Change) -> String {
    let Change { key, value, condition, ttl_ms } = change;
    let mut text = match value {
        Some(value) => format!("put {key}={value}"),
        None => format!("delete {key}"),
    };
    match condition {
        Condition::None => {}
        Condition::Absent => text += " if absent",
        Condition::Version(v) => text += &format!(" if at {v}"),
    }
    if *ttl_ms > 0 {
        text += &format!(" for {ttl_ms} ms");
    }
    text
}

fn cell(cell: &Cell) -> String {
    let value = cell.value.map_or("..".to_owned(), |v| v.to_string());
    cell.version.map_or(value.clone(), |version| format!("{value}@{version}"))
}

fn answer(op: &Operation) -> String {
    let text = match &op.answer {
        Answer::Receipt { version: Some(version), level } => format!("{level:?} @{version}"),
        Answer::Receipt { version: None, level } => format!("{level:?}"),
        Answer::Appended { first, level } => format!("{level:?} at {first}"),
        Answer::ConditionFailed { found } => format!("condition failed, found @{found}"),
        Answer::Cells(cells) => {
            let one = |c: &Option<Cell>| c.as_ref().map_or("absent".to_owned(), cell);
            cells.iter().map(one).collect::<Vec<_>>().join(" ")
        }
        Answer::Page { entries, more } => {
            let texts: Vec<String> =
                entries.iter().map(|(key, c)| format!("{key}={}", cell(c))).collect();
            format!("[{}]{}", texts.join(", "), if *more { " and more" } else { "" })
        }
        Answer::Records { records, start, end } => {
            let texts: Vec<String> = records.iter().map(|(o, v)| format!("{o}:{v}")).collect();
            format!("[{}] of {start}..{end}", texts.join(" "))
        }
        Answer::OutOfRange { start } => format!("out of range, start {start}"),
        Answer::Failed => "failed".to_owned(),
        Answer::Unknown => "?".to_owned(),
    };
    match op.age {
        None => text,
        Some(Nanos::MAX) => format!("{text} (stale, age unknown)"),
        Some(age) => format!("{text} (stale, age {age})"),
    }
}
