//! The verdict about a history, part by part.

use std::collections::BTreeMap;
use std::fmt;

use super::history::{Call, History, Level, Nanos};
use super::items::{Item, Names, apart, items};
use super::key::{Judgement, check_partition};
use super::topic::check_topic;

/// What the cluster promises, and how much work a verdict may take.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Writes acknowledged below this level may be lost.
    pub promise: Level,
    /// The answer to a multi-get is of one moment.
    pub multi_get_is_atomic: bool,
    /// One page of a scan is of one moment.
    pub page_is_atomic: bool,
    /// Added to the age that a stale answer states.
    pub age_slack: Nanos,
    /// How far clocks of nodes and clients may differ in measuring a time to live.
    pub clock_slack: Nanos,
    /// The start of a topic partition may rise without a trim.
    pub retention: bool,
    /// Steps a search may take per group of keys or topic partition before it gives up.
    pub work: u64,
}

impl Default for Rules {
    /// The promises of docs/protocol.md for a cluster with writes at the default level.
    fn default() -> Rules {
        Rules {
            promise: Level::Quorum,
            multi_get_is_atomic: true,
            page_is_atomic: true,
            age_slack: 0,
            clock_slack: 50_000_000,
            retention: false,
            work: 5_000_000,
        }
    }
}

/// What is checked by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// A partition of the key space.
    Keys(u32),
    /// A topic partition: topic and index.
    Topic(u32, u32),
}

/// How a history is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The answer contradicts itself or its question.
    Malformed,
    /// Something was read that nobody wrote.
    NeverWritten,
    /// A version or offset was read with another value than it was written with.
    WrongValue,
    /// One version or offset for two writes, or two for one write.
    VersionReused,
    /// Versions or offsets go against the order in which writes were answered and sent.
    VersionOrder,
    /// A read shows what had been replaced before it began.
    StaleRead,
    /// A read does not find what was there before it began.
    Missing,
    /// A read shows what can only be later.
    FromTheFuture,
    /// Two reads, one after the other, show the second state before the first.
    WentBack,
    /// A conditional write was applied or refused against its condition.
    ConditionNotHeld,
    /// What is of one moment never was at one moment.
    Torn,
    /// Offsets of a topic partition that hold nothing.
    Hole,
    /// Nothing more special than that no order explains the answers.
    NoOrder,
    /// An acknowledged write is not there at the end.
    Lost,
}

/// Why no correct cluster gives these answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What kind.
    pub kind: Kind,
    /// Where.
    pub part: Part,
    /// Indices of the operations concerned; the first one has the impossible answer.
    pub ops: Vec<usize>,
    /// What was seen and what had been expected, about the first operation ("it").
    pub why: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { kind, part, ops, why } = self;
        write!(f, "{kind:?} in {part:?}, operations {ops:?}: {why}")
    }
}

/// The answer to whether a history is linearizable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Linearizable,
    /// It is not.
    Refused(Violation),
    /// Nothing wrong was found, and the bound of work was used up in this part. Its keys are
    /// then checked one by one: only what joins them is open.
    GaveUp(Part),
}

/// What a check cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Operations of the history.
    pub operations: usize,
    /// Partitions and topic partitions.
    pub parts: usize,
    /// Operations that versions alone did not decide.
    pub searched: usize,
    /// Steps of searches.
    pub work: u64,
}

/// Verdict and cost.
#[derive(Clone, Debug)]
pub struct Report {
    /// The verdict.
    pub verdict: Verdict,
    /// The cost.
    pub stats: Stats,
}

/// Checks a history. Cost: O(n log n) for n operations whose answers carry versions; bounded by
/// [`Rules::work`] for others.
#[must_use]
pub fn check(history: &History, rules: &Rules) -> Report {
    let parts = parts(history);
    let operations = history.operations.len();
    let mut stats = Stats { operations, parts: parts.len(), ..Stats::default() };
    let mut verdict = Verdict::Linearizable;
    for (part, operations) in parts {
        let judgement = match part {
            Part::Keys(_) => match items(history, &operations, part, rules) {
                Ok((items, names)) => check_keys(&items, &names, part, rules, &mut stats),
                Err(violation) => Judgement::Refused(violation),
            },
            Part::Topic(..) => match check_topic(history, &operations, part, rules) {
                Ok(()) => Judgement::Fine,
                Err(violation) => Judgement::Refused(violation),
            },
        };
        match judgement {
            Judgement::Fine => {}
            Judgement::Refused(violation) => {
                return Report { verdict: Verdict::Refused(violation), stats };
            }
            Judgement::GaveUp => verdict = Verdict::GaveUp(part),
        }
    }
    Report { verdict, stats }
}

fn check_keys(
    items: &[Item],
    names: &Names,
    part: Part,
    rules: &Rules,
    stats: &mut Stats,
) -> Judgement {
    let whole = check_partition(items.to_vec(), names, part, rules, stats);
    if !matches!(whole, Judgement::GaveUp) {
        return whole;
    }
    // What is too hard as a whole may be plainly wrong in one key.
    match check_partition(apart(items), names, part, rules, stats) {
        Judgement::Refused(violation) => Judgement::Refused(violation),
        _ => Judgement::GaveUp,
    }
}

/// The operations of each part, in order of start.
pub(super) fn parts(history: &History) -> BTreeMap<Part, Vec<usize>> {
    let mut parts: BTreeMap<Part, Vec<usize>> = BTreeMap::new();
    for (i, op) in history.operations.iter().enumerate() {
        parts.entry(part_of(&op.call)).or_default().push(i);
    }
    parts
}

/// The part a call concerns.
pub(super) fn part_of(call: &Call) -> Part {
    match call {
        Call::Write { partition, .. }
        | Call::Get { partition, .. }
        | Call::Scan { partition, .. } => Part::Keys(*partition),
        Call::Append { topic, index, .. }
        | Call::Read { topic, index, .. }
        | Call::Offsets { topic, index }
        | Call::Trim { topic, index, .. } => Part::Topic(*topic, *index),
    }
}
