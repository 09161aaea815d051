//! The near-linear way: the order of the writes is that of their versions, and all that is left to
//! find is a moment for each.
//!
//! Write i takes effect at a moment t(i) between its call and its answer, with t(1) <= t(2) <= ...
//! What an operation saw was so in certain *windows* of that order: after write a and before
//! write b. It needs a moment between its own call and answer in one of them, that is t(a) <= its
//! answer and t(b) >= its call for one window. The schedule with the earliest t that satisfies all
//! lower bounds is found by raising bounds: when the windows that begin early enough all end
//! before the call, every schedule has the last of them end later. That is a least fixpoint,
//! so the answer is exact. Without windows to choose from it takes one pass.

use super::check::{Kind, Part, Violation};
use super::history::{Cell, Condition, Nanos};
use super::items::{Act, Item, KeyId, NEVER, Names, Put, Seen};

/// What came out.
pub(super) enum Ordered {
    Yes,
    No(Violation),
    /// The bound of work was used up.
    GaveUp,
}

/// Positions `from..to` of the order of writes; position p is the state after the first p.
type Window = (usize, usize);

/// A lower bound of a write's moment, and the item whose call it is.
#[derive(Clone, Copy)]
struct Bound {
    at: Nanos,
    by: usize,
}

struct Step {
    /// Writes up to and with this one, counted from 1.
    position: usize,
    version: u64,
    value: Option<u64>,
}

struct Look {
    item: usize,
    windows: Vec<Window>,
}

struct Order<'a> {
    items: &'a [Item],
    names: &'a Names,
    part: Part,
    /// Items in order of version.
    writes: Vec<usize>,
    /// Per key, its changes in order.
    steps: Vec<Vec<Step>>,
}

/// Decides about the items `subset`. Writes that are not `placed` are left out. `judged` tells
/// what saw or expected something that counts.
pub(super) fn order(
    items: &[Item],
    names: &Names,
    part: Part,
    placed: &[bool],
    subset: &[usize],
    judged: impl Fn(usize) -> bool,
    work: &mut u64,
) -> Ordered {
    let mut order = Order { items, names, part, writes: Vec::new(), steps: Vec::new() };
    let result = order.lay_out(placed, subset).and_then(|()| {
        let looks = order.looks(subset, &judged)?;
        order.schedule(&looks, work)
    });
    match result {
        Ok(true) => Ordered::Yes,
        Ok(false) => Ordered::GaveUp,
        Err(violation) => Ordered::No(violation),
    }
}

impl Order<'_> {
    fn no(&self, kind: Kind, items: &[usize], why: String) -> Violation {
        let ops = items.iter().map(|i| self.items[*i].op).collect();
        Violation { kind, part: self.part, ops, why }
    }

    fn write(&self, item: usize) -> (u64, &[Put]) {
        match &self.items[item].act {
            Act::Write { changes, first } => (first.unwrap_or(0), changes),
            _ => unreachable!("only writes are laid out"),
        }
    }

    fn lay_out(&mut self, placed: &[bool], subset: &[usize]) -> Result<(), Violation> {
        let mut writes: Vec<usize> = subset.iter().copied().filter(|i| placed[*i]).collect();
        writes.sort_by_key(|i| self.write(*i).0);
        let mut steps: Vec<Vec<Step>> = Vec::new();
        steps.resize_with(self.names.len(), Vec::new);
        let mut last: Option<(u64, usize)> = None;
        for (position, item) in (1..).zip(&writes) {
            let (first, changes) = self.write(*item);
            if let Some((_, other)) = last.filter(|(end, _)| *end > first) {
                let why = format!("two writes have version {first}");
                return Err(self.no(Kind::VersionReused, &[*item, other], why));
            }
            for (version, put) in (first..).zip(changes) {
                let value = put.value;
                steps[put.key as usize].push(Step { position, version, value });
            }
            last = Some((first + changes.len() as u64, *item));
        }
        (self.writes, self.steps) = (writes, steps);
        Ok(())
    }

    fn looks(
        &self,
        subset: &[usize],
        judged: &impl Fn(usize) -> bool,
    ) -> Result<Vec<Look>, Violation> {
        for (position, item) in self.writes.iter().enumerate().filter(|(_, i)| judged(**i)) {
            self.conditions(position, *item)?;
        }
        let mut looks = Vec::new();
        for item in subset.iter().copied().filter(|i| judged(*i)) {
            let windows = match &self.items[item].act {
                Act::Write { .. } => continue,
                Act::Watch(seen) => self.watch(item, seen)?,
                Act::Refused { changes, found } => self.refusal(item, changes, *found)?,
            };
            looks.push(Look { item, windows });
        }
        Ok(looks)
    }

    /// The state before a write must satisfy its conditions.
    fn conditions(&self, position: usize, item: usize) -> Result<(), Violation> {
        for put in self.write(item).1 {
            let steps = &self.steps[put.key as usize];
            let before = steps.partition_point(|s| s.position <= position).checked_sub(1);
            let before = before.map(|at| &steps[at]);
            let found = before.filter(|s| s.value.is_some()).map(|s| s.version);
            let holds = match put.condition {
                Condition::None => true,
                Condition::Absent => found.is_none(),
                Condition::Version(expected) => found == Some(expected),
            };
            if !holds {
                let name = self.names.name(put.key);
                let found = found.map_or("no value".to_owned(), |v| format!("version {v}"));
                let why = format!(
                    "it was applied if {name} was {}, and just before it {name} had {found}",
                    expected(put.condition)
                );
                let writer = before.map(|s| self.writes[s.position - 1]);
                let ops: Vec<usize> = [item].into_iter().chain(writer).collect();
                return Err(self.no(Kind::ConditionNotHeld, &ops, why));
            }
        }
        Ok(())
    }

    fn watch(&self, item: usize, seen: &[(KeyId, Seen)]) -> Result<Vec<Window>, Violation> {
        let mut all = vec![(0, self.writes.len() + 1)];
        for (key, seen) in seen {
            all = both(&all, &self.windows(item, *key, *seen)?);
            if all.is_empty() {
                let name = self.names.name(*key);
                let why = format!("{name} was never like that together with the keys before it");
                return Err(self.no(Kind::Torn, &[item], why));
            }
        }
        Ok(all)
    }

    /// Where a key was as it was seen.
    fn windows(&self, item: usize, key: KeyId, seen: Seen) -> Result<Vec<Window>, Violation> {
        let steps = &self.steps[key as usize];
        let end = |at: usize| steps.get(at + 1).map_or(self.writes.len() + 1, |s| s.position);
        let Seen::Present(Cell { version, value }) = seen else { return Ok(self.absent(key)) };
        let name = self.names.name(key);
        let version = version.unwrap_or(0);
        let Ok(at) = steps.binary_search_by_key(&version, |s| s.version) else {
            let why = format!("version {version} of {name} was seen, and nobody wrote it");
            return Err(self.no(Kind::NeverWritten, &[item], why));
        };
        let step = &steps[at];
        if step.value.is_none() || value.is_some_and(|value| step.value != Some(value)) {
            let written = step.value.map_or("a delete".to_owned(), |v| format!("value {v}"));
            let seen = value.map_or("a value".to_owned(), |v| format!("value {v}"));
            let why = format!("{name} was seen with {seen}; its version {version} is {written}");
            let ops = [item, self.writes[step.position - 1]];
            return Err(self.no(Kind::WrongValue, &ops, why));
        }
        // Several changes of one key in one batch share a position: only the last is ever seen.
        Ok(if step.position < end(at) { vec![(step.position, end(at))] } else { Vec::new() })
    }

    fn absent(&self, key: KeyId) -> Vec<Window> {
        let mut windows = Vec::new();
        let mut since = Some(0);
        for step in &self.steps[key as usize] {
            match (step.value, since) {
                (Some(_), Some(from)) => {
                    if from < step.position {
                        windows.push((from, step.position));
                    }
                    since = None;
                }
                (None, None) => since = Some(step.position),
                _ => {}
            }
        }
        windows.extend(since.map(|from| (from, self.writes.len() + 1)));
        windows
    }

    /// Where the first condition that does not hold finds `found`.
    fn refusal(&self, item: usize, puts: &[Put], found: u64) -> Result<Vec<Window>, Violation> {
        let seen = match found {
            0 => Seen::Absent,
            v => Seen::Present(Cell { version: Some(v), value: None }),
        };
        let mut held = vec![(0, self.writes.len() + 1)];
        let mut all = Vec::new();
        let mut trouble = None;
        for put in puts {
            let fails = match put.condition {
                Condition::None => continue,
                Condition::Absent => found != 0,
                Condition::Version(expected) => found != expected,
            };
            if fails {
                match self.windows(item, put.key, seen) {
                    Ok(windows) => all.extend(both(&held, &windows)),
                    Err(violation) => trouble = Some(violation),
                }
            }
            held = both(&held, &self.holding(put));
        }
        let all = union(all);
        match (all.is_empty(), trouble) {
            (false, _) => Ok(all),
            (true, Some(violation)) => Err(violation),
            (true, None) => {
                let why = format!("it was refused for finding {}, which is", version_found(found));
                let why = format!("{why} what was asked for, or never was");
                Err(self.no(Kind::ConditionNotHeld, &[item], why))
            }
        }
    }

    fn holding(&self, put: &Put) -> Vec<Window> {
        match put.condition {
            Condition::None => vec![(0, self.writes.len() + 1)],
            Condition::Absent => self.absent(put.key),
            Condition::Version(v) => {
                let seen = Seen::Present(Cell { version: Some(v), value: None });
                self.windows(0, put.key, seen).unwrap_or_default()
            }
        }
    }

    /// Finds the earliest schedule; `false` when `work` is used up.
    fn schedule(&self, looks: &[Look], work: &mut u64) -> Result<bool, Violation> {
        let n = self.writes.len();
        let own = |i: &usize| Bound { at: self.items[*i].inv, by: *i };
        let mut low: Vec<Bound> = self.writes.iter().map(own).collect();
        let raise = |low: &mut [Bound], end: usize, item: usize| {
            let at = self.items[item].inv;
            if end <= n && at > low[end - 1].at {
                low[end - 1] = Bound { at, by: item };
            }
        };
        for look in looks {
            raise(&mut low, look.windows.last().map_or(n + 1, |w| w.1), look.item);
        }
        loop {
            let cost = (n + looks.len() + 1) as u64;
            if *work < cost {
                return Ok(false);
            }
            *work -= cost;
            for i in 1..n {
                if low[i - 1].at > low[i].at {
                    low[i] = low[i - 1];
                }
            }
            for (i, write) in self.writes.iter().enumerate() {
                if low[i].at > self.items[*write].res {
                    return Err(self.too_late(*write, low[i].by, looks));
                }
            }
            let mut raised = false;
            for look in looks {
                let Item { inv, res, .. } = self.items[look.item];
                let begin = |a: usize| if a == 0 { 0 } else { low[a - 1].at };
                let begun = look.windows.partition_point(|w| begin(w.0) <= res);
                let Some(last) = begun.checked_sub(1) else {
                    let after = self.writes[look.windows[0].0 - 1];
                    let by = low[look.windows[0].0 - 1].by;
                    return Err(self.too_early(look.item, after, by, looks));
                };
                let end = |b: usize| if b > n { NEVER } else { low[b - 1].at };
                // The ends ascend with the windows, so only the last can be open at the call.
                if end(look.windows[last].1) < inv {
                    raise(&mut low, look.windows[last].1, look.item);
                    raised = true;
                }
            }
            if !raised {
                return Ok(true);
            }
        }
    }

    /// `write` had its answer before the call of `by`, which has to come no later than it.
    fn too_late(&self, write: usize, by: usize, looks: &[Look]) -> Violation {
        let (version, _) = self.write(write);
        if let Act::Write { .. } = self.items[by].act {
            let lower = self.write(by).0;
            let why = format!(
                "it got version {version} and was answered before the write with the lower \
                 version {lower} was sent"
            );
            return self.no(Kind::VersionOrder, &[write, by], why);
        }
        let (kind, what) = self.saw(by);
        let mut ops = vec![by];
        ops.extend(self.ended_by(by, looks));
        ops.push(write);
        ops.dedup();
        let why = format!(
            "it saw {what}, which had been replaced: the write with version {version} was \
             answered before it began"
        );
        self.no(kind, &ops, why)
    }

    /// `look` was answered before `by` was sent, yet saw `write`, which comes no earlier than it.
    fn too_early(&self, look: usize, write: usize, by: usize, looks: &[Look]) -> Violation {
        let (_, what) = self.saw(look);
        let version = self.write(write).0;
        if let Act::Write { .. } = self.items[by].act {
            let why = format!(
                "it saw {what}, and was answered before that could be: version {version} comes \
                 no earlier than a write that was sent later"
            );
            let mut ops = vec![look, write, by];
            ops.dedup();
            return self.no(Kind::FromTheFuture, &ops, why);
        }
        let (_, before) = self.saw(by);
        let mut ops = vec![by, look, write];
        ops.extend(self.ended_by(by, looks));
        ops.dedup();
        let why = format!("it saw {before}; an operation that ended before it began saw {what}");
        self.no(Kind::WentBack, &ops, why)
    }

    /// The write that ended what a look saw.
    fn ended_by(&self, item: usize, looks: &[Look]) -> Option<usize> {
        let look = looks.iter().find(|look| look.item == item)?;
        self.writes.get(look.windows.last()?.1 - 1).copied()
    }

    fn saw(&self, item: usize) -> (Kind, String) {
        let one = |key: KeyId, seen: Seen| {
            let what = match seen {
                Seen::Absent => "no value".to_owned(),
                Seen::Present(cell) => format!("version {}", cell.version.unwrap_or(0)),
            };
            format!("{what} of {}", self.names.name(key))
        };
        match &self.items[item].act {
            Act::Watch(seen) => {
                let kind = match seen.as_slice() {
                    [(_, Seen::Absent)] => Kind::Missing,
                    _ => Kind::StaleRead,
                };
                let texts: Vec<String> = seen.iter().take(4).map(|(k, s)| one(*k, *s)).collect();
                let rest = if seen.len() > 4 { ", ..." } else { "" };
                (kind, texts.join(", ") + rest)
            }
            Act::Refused { found, .. } => (Kind::StaleRead, version_found(*found)),
            Act::Write { .. } => unreachable!("writes look at nothing"),
        }
    }
}

fn version_found(found: u64) -> String {
    if found == 0 { "no value".to_owned() } else { format!("version {found}") }
}

fn expected(condition: Condition) -> String {
    match condition {
        Condition::Version(version) => format!("at version {version}"),
        _ => "absent".to_owned(),
    }
}

/// The intersection of two lists of windows, each ascending and disjoint.
fn both(a: &[Window], b: &[Window]) -> Vec<Window> {
    let (mut i, mut j) = (0, 0);
    let mut all = Vec::new();
    while i < a.len() && j < b.len() {
        let window = (a[i].0.max(b[j].0), a[i].1.min(b[j].1));
        if window.0 < window.1 {
            all.push(window);
        }
        if a[i].1 < b[j].1 { i += 1 } else { j += 1 }
    }
    all
}

/// The same positions as disjoint windows, ascending.
fn union(mut windows: Vec<Window>) -> Vec<Window> {
    windows.sort_unstable();
    let mut all: Vec<Window> = Vec::new();
    for window in windows {
        match all.last_mut() {
            Some(last) if window.0 <= last.1 => last.1 = last.1.max(window.1),
            _ => all.push(window),
        }
    }
    all
}
