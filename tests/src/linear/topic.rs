//! A topic partition: offsets are dense, a record never changes, the end and the start only rise.
//!
//! Two things grow: the log, append by append, and the start, trim by trim. Each place they pass
//! is an [`Event`] with a moment to be found, as in the order of a partition's writes; answers
//! bound these moments from both sides and put some before others. The earliest schedule that
//! satisfies the lower bounds decides. Values appended to one topic partition must be
//! distinct: a record that is read names its append.

use std::collections::{BTreeMap, BTreeSet};

use super::check::{Kind, Part, Rules, Violation};
use super::history::{Answer, Call, History, Level, Nanos, Operation};
use super::items::NEVER;

/// Choices tried when records nobody read must fill gaps; beyond, they are taken to fit.
const FILL_CHOICES_MAX: usize = 100_000;

/// An append: where its records are, when known.
struct Append<'a> {
    op: usize,
    values: &'a [u64],
    first: Option<u64>,
    certain: bool,
}

impl Append<'_> {
    fn len(&self) -> u64 {
        self.values.len() as u64
    }
}

/// The end or the start reaches a place. Bounds come with the operation they are due to.
#[derive(Clone, Copy)]
struct Event {
    low: (Nanos, usize),
    high: (Nanos, usize),
}

struct Topic<'a> {
    history: &'a History,
    operations: &'a [usize],
    part: Part,
    rules: &'a Rules,
    appends: Vec<Append<'a>>,
    /// Ends the log had, ascending, without 0; and starts.
    ends: Vec<u64>,
    starts: Vec<u64>,
    /// Those ends that known appends lead to.
    appended: BTreeSet<u64>,
    /// Of the ends, then of the starts.
    events: Vec<Event>,
    /// Which event comes no later than which, and the operation that says so.
    edges: Vec<(usize, usize, usize)>,
}

/// Checks the operations of one topic partition.
pub(super) fn check_topic(
    history: &History,
    operations: &[usize],
    part: Part,
    rules: &Rules,
) -> Result<(), Violation> {
    let mut topic = Topic {
        history,
        operations,
        part,
        rules,
        appends: Vec::new(),
        ends: Vec::new(),
        starts: Vec::new(),
        appended: BTreeSet::new(),
        events: Vec::new(),
        edges: Vec::new(),
    };
    topic.collect_appends()?;
    topic.place_records()?;
    topic.lay_out()?;
    topic.bound_starts()?;
    topic.bound_by_answers()?;
    topic.fill_gaps()?;
    topic.schedule()
}

impl<'a> Topic<'a> {
    fn no<T>(&self, kind: Kind, ops: &[usize], why: impl Into<String>) -> Result<T, Violation> {
        Err(Violation { kind, part: self.part, ops: ops.to_vec(), why: why.into() })
    }

    fn each(&self) -> impl Iterator<Item = (usize, &'a Operation)> + use<'a> {
        let history = self.history;
        self.operations.iter().map(move |i| (*i, &history.operations[*i]))
    }

    fn op(&self, op: usize) -> &'a Operation {
        &self.history.operations[op]
    }

    fn promised(&self, level: Level) -> bool {
        level >= self.rules.promise
    }

    fn collect_appends(&mut self) -> Result<(), Violation> {
        let mut values = BTreeSet::new();
        for (i, op) in self.each() {
            let Call::Append { values: appended, .. } = &op.call else { continue };
            let (first, certain) = match op.answer {
                Answer::Failed => continue,
                Answer::Unknown => (None, false),
                Answer::Appended { level, first } => (Some(first), self.promised(level)),
                _ => return self.no(Kind::Malformed, &[i], "the answer is not one to an append"),
            };
            if appended.is_empty() || !appended.iter().all(|value| values.insert(value)) {
                let why = "its values must be distinct from all others, and at least one";
                return self.no(Kind::Malformed, &[i], why);
            }
            self.appends.push(Append { op: i, values: appended, first, certain });
        }
        Ok(())
    }

    /// Checks each answer by itself, and finds the places of appends whose receipt nobody has.
    fn place_records(&mut self) -> Result<(), Violation> {
        let mut authors = BTreeMap::new();
        let mut certain = BTreeMap::new();
        for (a, append) in self.appends.iter().enumerate() {
            for (n, value) in (0..).zip(append.values) {
                authors.insert(*value, (a, n));
                if let Some(first) = append.first.filter(|_| append.certain) {
                    certain.insert(first + n, (append.op, *value));
                }
            }
        }
        let mut seen: BTreeMap<u64, (usize, u64)> = BTreeMap::new();
        for (i, op) in self.each() {
            let Answer::Records { records, start, end } = &op.answer else { continue };
            self.well_formed(i, &op.call, records, *start, *end)?;
            for (offset, value) in records {
                let other = certain.get(offset).or_else(|| seen.get(offset));
                if let Some((other, _)) = other.filter(|(_, known)| known != value) {
                    let why = format!("offset {offset} holds {value}, and another value elsewhere");
                    return self.no(Kind::WrongValue, &[i, *other], why);
                }
                seen.insert(*offset, (i, *value));
                let Some((a, n)) = authors.get(value).copied() else {
                    let why = format!("offset {offset} holds {value}, which nobody appended");
                    return self.no(Kind::NeverWritten, &[i], why);
                };
                let append = &mut self.appends[a];
                let first = offset.checked_sub(n);
                if first.is_none() || append.first.is_some_and(|known| Some(known) != first) {
                    let ops = [i, append.op];
                    let why = format!("offset {offset} holds {value}, which belongs elsewhere");
                    return self.no(Kind::VersionReused, &ops, why);
                }
                append.first = first;
                append.certain = true;
            }
        }
        Ok(())
    }

    fn well_formed(
        &self,
        i: usize,
        call: &Call,
        records: &[(u64, u64)],
        start: u64,
        end: u64,
    ) -> Result<(), Violation> {
        let (from, max) = match call {
            Call::Offsets { .. } if records.is_empty() && start <= end => return Ok(()),
            Call::Read { from, max, .. } => (from.unwrap_or(start), *max as usize),
            _ => return self.no(Kind::Malformed, &[i], "the answer does not fit the question"),
        };
        if start > end || from < start || from > end {
            let why = format!("it is answered from {from}, with start {start} and end {end}");
            return self.no(Kind::Malformed, &[i], why);
        }
        if max > 0 && records.len() > max {
            return self.no(Kind::Malformed, &[i], format!("{} records", records.len()));
        }
        for (expected, (offset, _)) in (from..).zip(records) {
            if *offset != expected {
                let why = format!("offset {offset} came where {expected} should");
                return self.no(Kind::Hole, &[i], why);
            }
            if expected >= end {
                let why = format!("offset {offset} is not below the end, {end}");
                return self.no(Kind::Malformed, &[i], why);
            }
        }
        if records.is_empty() && from < end {
            let why = format!("nothing came from {from} on, and the end is {end}");
            return self.no(Kind::Hole, &[i], why);
        }
        Ok(())
    }

    /// Lists the ends and starts there were, and checks that appends neither overlap nor are cut.
    fn lay_out(&mut self) -> Result<(), Violation> {
        let mut ends = BTreeMap::new();
        let mut starts = BTreeSet::new();
        for (i, op) in self.each() {
            match (&op.call, &op.answer) {
                (_, Answer::Records { start, end, .. }) => {
                    ends.insert(*end, i);
                    starts.insert(*start);
                }
                (Call::Read { .. }, Answer::OutOfRange { start }) => {
                    starts.insert(*start);
                }
                (Call::Trim { before, .. }, Answer::Receipt { level, .. })
                    if self.promised(*level) =>
                {
                    starts.insert(*before);
                }
                _ => {}
            }
        }
        let mut placed: Vec<(u64, &Append)> =
            self.appends.iter().filter(|a| a.certain).filter_map(|a| Some((a.first?, a))).collect();
        placed.sort_by_key(|(first, _)| *first);
        for pair in placed.windows(2) {
            let ((first, a), (next, b)) = (pair[0], pair[1]);
            if first + a.len() > next {
                let why = format!("it has offset {next}, which another append has as well");
                return self.no(Kind::VersionReused, &[b.op, a.op], why);
            }
        }
        for (first, append) in &placed {
            let end = first + append.len();
            if let Some((cut, reader)) = ends.range(first + 1..end).next() {
                let why = format!("its end, {cut}, cuts the append of {first} to {end} in two");
                return self.no(Kind::Torn, &[*reader, append.op], why);
            }
        }
        for (first, append) in &placed {
            ends.entry(*first).or_insert(append.op);
            ends.entry(first + append.len()).or_insert(append.op);
        }
        self.appended = placed.iter().map(|(first, append)| first + append.len()).collect();
        self.ends = ends.into_keys().filter(|end| *end > 0).collect();
        self.starts = starts.into_iter().filter(|start| *start > 0).collect();
        let unbound = Event { low: (0, usize::MAX), high: (NEVER, usize::MAX) };
        self.events = vec![unbound; self.ends.len() + self.starts.len()];
        let chain = |from: usize, to: usize| (from + 1..to).map(|i| (i - 1, i, usize::MAX));
        self.edges.extend(chain(0, self.ends.len()));
        self.edges.extend(chain(self.ends.len(), self.events.len()));
        Ok(())
    }

    /// Whether a known append leads to an end.
    fn covered(&self, event: usize) -> bool {
        self.appended.contains(&self.ends[event])
    }

    /// The event that makes the end at least `end`; `None` when there is none.
    fn end_event(&self, end: u64) -> Option<usize> {
        let at = self.ends.partition_point(|e| *e < end);
        (at < self.ends.len()).then_some(at)
    }

    /// The event that makes the start at least `start`.
    fn start_event(&self, start: u64) -> Option<usize> {
        let at = self.starts.partition_point(|s| *s < start);
        (at < self.starts.len()).then_some(self.ends.len() + at)
    }

    fn not_before(&mut self, event: Option<usize>, at: Nanos, op: usize) {
        if let Some(event) = event.map(|e| &mut self.events[e])
            && event.low.0 < at
        {
            event.low = (at, op);
        }
    }

    fn not_after(&mut self, event: Option<usize>, at: Nanos, op: usize) {
        if let Some(event) = event.map(|e| &mut self.events[e])
            && event.high.0 > at
        {
            event.high = (at, op);
        }
    }

    fn order(&mut self, first: Option<usize>, second: Option<usize>, op: usize) {
        self.edges.extend(first.zip(second).map(|(first, second)| (first, second, op)));
    }

    /// A start that was seen is due to a trim of exactly that place, one that must have been
    /// reached to any trim of at least it.
    fn bound_starts(&mut self) -> Result<(), Violation> {
        let mut seen = BTreeMap::new();
        for (i, op) in self.each() {
            match (&op.call, &op.answer) {
                (_, Answer::Records { start, .. })
                | (Call::Read { .. }, Answer::OutOfRange { start }) => {
                    seen.entry(*start).or_insert(i);
                }
                _ => {}
            }
        }
        if self.rules.retention {
            return Ok(());
        }
        let trims: Vec<(u64, Nanos, usize)> = self
            .each()
            .filter_map(|(i, op)| match (&op.call, &op.answer) {
                (Call::Trim { before, .. }, Answer::Receipt { .. } | Answer::Unknown) => {
                    Some((*before, op.start, i))
                }
                _ => None,
            })
            .collect();
        for start in self.starts.clone() {
            let reader = seen.get(&start);
            let due = trims.iter().filter(|(before, ..)| match reader {
                Some(_) => *before == start,
                None => *before >= start,
            });
            match due.min_by_key(|(_, sent, _)| *sent) {
                Some((_, sent, op)) => self.not_before(self.start_event(start), *sent, *op),
                None => {
                    let reader = reader.copied().unwrap_or(usize::MAX);
                    let why = format!("the start is {start}, and nobody trimmed to there");
                    return self.no(Kind::NeverWritten, &[reader], why);
                }
            }
        }
        Ok(())
    }

    fn bound_by_answers(&mut self) -> Result<(), Violation> {
        for a in 0..self.appends.len() {
            let Append { op, first, certain, .. } = self.appends[a];
            let Some(first) = first.filter(|_| certain) else { continue };
            let event = self.end_event(first + self.appends[a].len());
            let Operation { start, end, ref answer, .. } = *self.op(op);
            self.not_before(event, start, op);
            if let (Answer::Appended { level, .. }, Some(end)) = (answer, end)
                && self.promised(*level)
            {
                self.not_after(event, end, op);
            }
        }
        for (i, op) in self.each() {
            let Some(res) = op.end else { continue };
            let age = op.age.map_or(0, |age| age + self.rules.age_slack);
            let inv = op.start.saturating_sub(age);
            match (&op.call, &op.answer) {
                (_, Answer::Records { start, end, .. }) => {
                    let (end_is, end_next) = (self.reached(*end), self.end_event(end + 1));
                    let (start_is, start_next) = (self.began(*start), self.start_event(start + 1));
                    self.not_after(end_is, res, i);
                    self.not_before(end_next, inv, i);
                    self.not_after(start_is, res, i);
                    self.not_before(start_next, inv, i);
                    self.order(end_is, start_next, i);
                    self.order(start_is, end_next, i);
                }
                (Call::Read { from, .. }, Answer::OutOfRange { start }) => {
                    let (start_is, start_next) = (self.began(*start), self.start_event(start + 1));
                    self.not_after(start_is, res, i);
                    self.not_before(start_next, inv, i);
                    let Some(from) = from else {
                        return self.no(Kind::Malformed, &[i], "the oldest is never out of range");
                    };
                    if from == start {
                        return self.no(Kind::Malformed, &[i], "its offset is the start");
                    }
                    if from > start {
                        let end_next = self.end_event(*from);
                        self.not_before(end_next, inv, i);
                        self.order(start_is, end_next, i);
                    }
                }
                (Call::Trim { before, .. }, Answer::OutOfRange { .. }) => {
                    self.not_before(self.end_event(*before), inv, i);
                }
                (Call::Trim { before, .. }, Answer::Receipt { level, .. }) => {
                    self.bound_by_trim(i, *before, self.promised(*level), res)?;
                }
                (Call::Append { .. }, _) | (_, Answer::Failed) => {}
                _ => return self.no(Kind::Malformed, &[i], "the answer does not fit the question"),
            }
        }
        Ok(())
    }

    fn reached(&self, end: u64) -> Option<usize> {
        if end == 0 { None } else { self.end_event(end) }
    }

    fn began(&self, start: u64) -> Option<usize> {
        if start == 0 { None } else { self.start_event(start) }
    }

    /// A trim needs records to trim, before it is answered.
    fn bound_by_trim(
        &mut self,
        op: usize,
        before: u64,
        certain: bool,
        res: Nanos,
    ) -> Result<(), Violation> {
        if before == 0 || !certain {
            return Ok(());
        }
        let event = self.start_event(before);
        self.not_after(event, res, op);
        let mut end = self.end_event(before);
        if let Some(at) = end.filter(|at| self.ends[*at] > before && !self.covered(*at)) {
            // Appends nobody saw lead there; where the first of them ended is not known.
            end = at.checked_sub(1);
        }
        self.not_after(end, res, op);
        self.order(end, event, op);
        let unplaced: u64 = self.appends.iter().filter(|a| !a.certain).map(Append::len).sum();
        let last = self.ends.last().copied().unwrap_or(0);
        if last < before && last + unplaced < before {
            let why = format!("it was applied, and the end was never beyond {last}");
            return self.no(Kind::FromTheFuture, &[op], why);
        }
        Ok(())
    }

    /// Offsets below an end that no known append covers belong to appends of unknown outcome.
    fn fill_gaps(&mut self) -> Result<(), Violation> {
        let mut latest = (NEVER, usize::MAX);
        let mut gaps = Vec::new();
        for at in (0..self.ends.len()).rev() {
            latest = latest.min(self.events[at].high);
            if !self.covered(at) {
                let from = at.checked_sub(1).map_or(0, |before| self.ends[before]);
                gaps.push((at, self.ends[at] - from, latest));
            }
        }
        gaps.reverse();
        let mut fillers: Vec<(Nanos, u64, usize)> = self
            .appends
            .iter()
            .filter(|a| !a.certain)
            .map(|a| (self.op(a.op).start, a.len(), a.op))
            .collect();
        fillers.sort_unstable();
        let mut fill = Fill { gaps: &gaps, fillers: &fillers, used: vec![false; fillers.len()] };
        let mut budget = FILL_CHOICES_MAX;
        if fill.fits(0, 0, 0, &mut budget) {
            return Ok(());
        }
        let (at, len, (_, op)) = gaps[0];
        let (from, end) = (self.ends[at] - len, self.ends[at]);
        let reader = self
            .each()
            .find(|(_, op)| matches!(op.answer, Answer::Records { end: seen, .. } if seen >= end));
        let op = if op == usize::MAX { reader.map_or(op, |(i, _)| i) } else { op };
        let why = format!(
            "it comes after the offsets {from} to {}, and no append that was sent by then can \
             fill this or a later gap",
            end - 1
        );
        self.no(Kind::Hole, &[op], why)
    }

    /// Finds the earliest moment of each event.
    fn schedule(&self) -> Result<(), Violation> {
        let n = self.events.len();
        let mut after: Vec<Vec<usize>> = vec![Vec::new(); n];
        let mut waits = vec![0; n];
        for (first, second, _) in &self.edges {
            after[*first].push(*second);
            waits[*second] += 1;
        }
        let mut low: Vec<(Nanos, usize)> = self.events.iter().map(|e| e.low).collect();
        let mut ready: Vec<usize> = (0..n).filter(|i| waits[*i] == 0).collect();
        let mut done = 0;
        while let Some(event) = ready.pop() {
            done += 1;
            let high = self.events[event].high;
            if low[event].0 > high.0 {
                return self.contradiction(event, low[event].1, high.1);
            }
            for next in &after[event] {
                low[*next] = low[*next].max(low[event]);
                waits[*next] -= 1;
                if waits[*next] == 0 {
                    ready.push(*next);
                }
            }
        }
        if done < n {
            let stuck = |(a, b, op): &&(usize, usize, usize)| {
                waits[*a] > 0 && waits[*b] > 0 && *op != usize::MAX
            };
            let mut ops: Vec<usize> = self.edges.iter().filter(stuck).map(|(.., op)| *op).collect();
            ops.sort_unstable();
            ops.dedup();
            ops.reverse();
            let why = "the start and the end it saw never were at one moment";
            return self.no(Kind::Torn, &ops, why);
        }
        Ok(())
    }

    /// The event comes no earlier than the call of `low`, and no later than the answer of `high`.
    fn contradiction(&self, event: usize, low: usize, high: usize) -> Result<(), Violation> {
        let is_end = event < self.ends.len();
        let (what, place) = if is_end {
            ("end", self.ends[event])
        } else {
            ("start", self.starts[event - self.ends.len()])
        };
        let reads = |op: usize| {
            let Operation { call, answer, .. } = self.op(op);
            !call.is_write() || matches!(answer, Answer::OutOfRange { .. })
        };
        match (reads(low), reads(high)) {
            (true, true) => {
                let why = format!("its {what} is below {place}, which an earlier read had seen");
                self.no(Kind::WentBack, &[low, high], why)
            }
            (true, false) => {
                let kind = if is_end { Kind::Missing } else { Kind::StaleRead };
                let why = format!("its {what} is below {place}, which was acknowledged before");
                self.no(kind, &[low, high], why)
            }
            (false, true) => {
                let why = format!("its {what} is at {place}, which was asked for only later");
                self.no(Kind::FromTheFuture, &[high, low], why)
            }
            (false, false) => {
                let why = format!(
                    "it was acknowledged with the {what} at {place}, before what lies below that \
                     was sent"
                );
                self.no(Kind::VersionOrder, &[high, low], why)
            }
        }
    }
}

/// Appends whose place nobody saw, and the gaps they must fill exactly.
struct Fill<'a> {
    /// Event, length, and the moment by which it is filled.
    gaps: &'a [(usize, u64, (Nanos, usize))],
    /// Moment it was sent, length, operation; in order of the first.
    fillers: &'a [(Nanos, u64, usize)],
    used: Vec<bool>,
}

impl Fill<'_> {
    /// Whether gaps from `gap` on can be filled, `filled` of that one being done by fillers
    /// before `from`.
    fn fits(&mut self, gap: usize, filled: u64, from: usize, budget: &mut usize) -> bool {
        let Some((_, len, (latest, _))) = self.gaps.get(gap).copied() else { return true };
        if filled == len {
            return self.fits(gap + 1, 0, 0, budget);
        }
        let mut tried = Vec::new();
        for i in from..self.fillers.len() {
            if *budget == 0 {
                return true;
            }
            *budget -= 1;
            let (sent, records, _) = self.fillers[i];
            // Of equally long ones the one sent first is as good as any.
            if self.used[i] || sent > latest || filled + records > len || tried.contains(&records) {
                continue;
            }
            tried.push(records);
            self.used[i] = true;
            if self.fits(gap, filled + records, i + 1, budget) {
                return true;
            }
            self.used[i] = false;
        }
        false
    }
}
