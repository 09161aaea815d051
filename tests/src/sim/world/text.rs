//! The trace's words: a number for the hash, a text for a person.

use ironring_core::io::{IoDone, IoOk, IoOp};

use crate::sim::op::Outcome;
use crate::sim::subject::Event;

pub(super) fn word_of(done: &IoDone) -> u64 {
    match &done.result {
        Ok(IoOk::Read(buf)) => u64::from(ironring_core::checksum::crc32c(buf)),
        Ok(IoOk::Opened(len)) => *len,
        Ok(_) => 1,
        Err(_) => 2,
    }
}

pub(super) fn op_word(op: &IoOp) -> u64 {
    match op {
        IoOp::WriteAt { buf, pos, .. } => {
            u64::from(ironring_core::checksum::crc32c(buf)) ^ (pos.0 << 32)
        }
        IoOp::ReadAt { pos, len, .. } => pos.0 ^ (u64::from(*len) << 40),
        _ => 0,
    }
}

pub(super) fn describe_op(op: &IoOp) -> String {
    match op {
        IoOp::WriteAt { file, pos, buf, durable } => {
            let how = if *durable { " durable" } else { "" };
            format!("write {file:?} {pos}+{}{how}", buf.len())
        }
        other => format!("{other:?}"),
    }
}

pub(super) fn describe(done: &IoDone) -> String {
    match &done.result {
        Ok(ok) => format!("{ok:?}"),
        Err(error) => error.to_string(),
    }
}

pub(super) fn tag_of<M>(event: &Event<M>) -> u64 {
    match event {
        Event::Start { .. } => 1,
        Event::Io(_) => 2,
        Event::Request { .. } => 3,
        Event::Closed(_) => 4,
        Event::Message(_) => 5,
        Event::TurnEnd => 6,
        Event::Timer => 7,
        Event::Stop => 8,
    }
}

pub(super) fn name_of<M>(event: &Event<M>) -> &'static str {
    match event {
        Event::Start { .. } => "start",
        Event::Io(_) => "a completion",
        Event::Request { .. } => "a request",
        Event::Closed(_) => "a closed connection",
        Event::Message(_) => "a message",
        Event::TurnEnd => "the end of its turn",
        Event::Timer => "its timer",
        Event::Stop => "stop",
    }
}

pub(super) fn outcome_word(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Session(id) => id.0,
        Outcome::Receipt(r) => r.offset,
        Outcome::Value(v) => v.version,
        Outcome::Values(v) => v.len() as u64,
        Outcome::Page { entries, .. } => entries.len() as u64,
        Outcome::Topic(id) => u64::from(id.0),
        Outcome::Topics(t) => t.len() as u64,
        Outcome::Appended { first, .. } => *first,
        Outcome::Records { records, end, .. } => records.len() as u64 ^ (end << 20),
        Outcome::Error { code, detail } => *code as u64 ^ (detail << 16),
    }
}

pub(super) fn short(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Value(v) => format!("version {} ({} bytes)", v.version, v.bytes.len()),
        Outcome::Values(v) => format!("{} values", v.len()),
        Outcome::Records { records, start, end } => {
            format!("{} records of {start}..{end}", records.len())
        }
        Outcome::Page { entries, more } => format!("{} entries, more: {more}", entries.len()),
        other => format!("{other:?}"),
    }
}
