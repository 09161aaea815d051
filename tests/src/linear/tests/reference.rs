//! What a topic partition does, operation by operation: slow, and independent of the way by
//! offsets.

use super::super::items::NEVER;
use super::super::search::{Found, Span, Spec, search};
use super::*;

struct TopicSpec<'a>(&'a [Operation]);

type Log = (Vec<u64>, u64);

impl Spec for TopicSpec<'_> {
    type State = Log;

    fn initial(&self) -> Log {
        (Vec::new(), 0)
    }

    fn step(&self, (log, start): &Log, op: usize) -> Option<Log> {
        let end = log.len() as u64;
        let same = Some((log.clone(), *start));
        match (&self.0[op].call, &self.0[op].answer) {
            (Call::Append { values, .. }, Answer::Appended { .. } | Answer::Unknown) => {
                if let Answer::Appended { first, .. } = self.0[op].answer
                    && first != end
                {
                    return None;
                }
                Some((log.iter().chain(values).copied().collect(), *start))
            }
            (Call::Trim { before, .. }, Answer::Receipt { .. } | Answer::Unknown) => {
                (*before <= end).then(|| (log.clone(), *before.max(start)))
            }
            (
                Call::Read { from: Some(from), .. },
                Answer::Records { records, start: s, end: e },
            ) => {
                let rest = log.get(*from as usize..)?;
                let expected = (*from..).zip(rest.iter().copied());
                let right = (s, *e) == (start, end)
                    && from >= start
                    && records.iter().copied().eq(expected.take(records.len()))
                    && (!records.is_empty() || *from == end);
                right.then_some(same?)
            }
            (Call::Read { from: Some(from), .. }, Answer::OutOfRange { start: s }) => {
                (s == start && (from < start || *from > end)).then_some(same?)
            }
            _ => None,
        }
    }

    fn same(&self, _: usize, _: usize) -> bool {
        false
    }

    fn is_look(&self, op: usize) -> bool {
        !self.0[op].call.is_write()
    }

    fn is_optional(&self, _: usize) -> bool {
        false
    }

    fn follows(&self, _: &[usize], _: usize) -> bool {
        true
    }

    fn weight(&self) -> usize {
        64
    }
}

/// The verdict of a plain search; `None` when it gave up.
pub(super) fn topic_is_fine(history: &History) -> Option<bool> {
    let span = |op: &Operation| Span {
        inv: op.start,
        res: op.end.unwrap_or(NEVER),
        certain: op.end.is_some(),
    };
    let spans: Vec<Span> = history.operations.iter().map(span).collect();
    match search(&TopicSpec(&history.operations), &spans, &mut 2_000_000) {
        Found::Order => Some(true),
        Found::Nothing { .. } => Some(false),
        Found::GaveUp => None,
    }
}
