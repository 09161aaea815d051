//! Is what clients saw possible with one correct copy of the data? Checks recorded histories of
//! real clusters and of simulated ones for linearizability (Herlihy and Wing 1990).
//!
//! A [`History`] is checked part by part: a partition of the key space or a topic partition
//! (linearizability is local). Where answers carry versions, these give the order of the writes
//! and a part is decided in near-linear time, exactly ([`check()`] says which way was taken).
//! Where they do not, the algorithm of Wing and Gong (1993) with the memory of Lowe (2017) searches
//! for an order, within a bound of work and with a verdict of its own when that is used up.
//!
//! Invariants: a verdict never depends on hash order, time or chance; an operation without answer
//! may take effect at any time after its start, or never; [`Verdict::Refused`] is only said when
//! no order exists under the [`Rules`].

mod check;
mod history;
mod items;
mod key;
mod order;
mod print;
mod resolve;
mod search;
mod shrink;
mod text;
mod topic;
mod weak;

#[cfg(test)]
mod tests;

pub use check::{Kind, Part, Report, Rules, Stats, Verdict, Violation, check};
pub use history::{
    Answer, Call, Cell, Change, ClientLog, Condition, History, Level, Nanos, Operation, Ticket,
};
pub use shrink::{Counterexample, explain};
pub use text::ParseError;
pub use weak::{FinalKey, FinalState, LedgerCount, ledger, monotone_reads};
