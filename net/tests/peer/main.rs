//! The plane between nodes, from outside: exact bytes, damage, streams, limits, who is let in.

#![expect(clippy::unwrap_used, reason = "a test file: a panic is a failed test")]

mod damage;
mod document;
mod examples;
mod golden;
mod judge;
mod limits;
mod stream;
