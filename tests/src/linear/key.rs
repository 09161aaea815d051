//! A partition of the key space: which way it is checked, and what its operations do one after
//! the other.
//!
//! Writes are applied in the order of their versions, a batch as one step. Keys that no batch,
//! multi-get or page joins are searched apart; the order by versions is checked over all of them.

use std::collections::{BTreeMap, BTreeSet};

use super::check::{Kind, Part, Rules, Stats, Violation};
use super::history::{Cell, Condition, Nanos};
use super::items::{Act, Item, KeyId, NEVER, Names, Put, Seen};
use super::order::{Ordered, order};
use super::resolve::resolve;
use super::search::{Found, Span, Spec, search};

/// The verdict about one part.
pub(super) enum Judgement {
    Fine,
    Refused(Violation),
    GaveUp,
}

/// Checks the items of one partition.
pub(super) fn check_partition(
    mut items: Vec<Item>,
    names: &Names,
    part: Part,
    rules: &Rules,
    stats: &mut Stats,
) -> Judgement {
    let resolved = match resolve(&mut items, names, part) {
        Ok(resolved) => resolved,
        Err(violation) => return Judgement::Refused(violation),
    };
    let groups = groups(&items, names.len());
    let searched: BTreeSet<usize> =
        resolved.to_search.iter().map(|key| groups[*key as usize]).collect();
    let group = |i: usize| items[i].keys().first().map(|key| groups[*key as usize]);
    let by_version = |i: usize| group(i).is_some_and(|g| !searched.contains(&g));
    let all: Vec<usize> = (0..items.len()).collect();
    let pointless = |i: usize| resolved.pointless(&items, i);
    let mut work = rules.work;
    let whole = order(&items, names, part, &resolved.placed, &all, by_version, &mut work);
    let doubtful: BTreeSet<usize> = resolved.doubtful.iter().filter_map(|i| group(*i)).collect();
    let mut to_search = searched.clone();
    let failed = !matches!(whole, Ordered::Yes);
    if let Ordered::No(violation) = whole
        && doubtful.is_subset(&searched)
    {
        return Judgement::Refused(violation);
    }
    let by_group = all.iter().filter(|i| !pointless(**i)).filter_map(|i| Some((group(*i)?, *i)));
    let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (g, i) in by_group.filter(|(g, _)| failed || searched.contains(g)) {
        members.entry(g).or_default().push(i);
    }
    let ambiguous = Some(&resolved.ambiguous);
    let mut gave_up = false;
    for (g, members) in members {
        let quick = if searched.contains(&g) {
            Ordered::GaveUp
        } else {
            order(&items, names, part, &resolved.placed, &members, |_| true, &mut work)
        };
        let verdict = match quick {
            Ordered::Yes => Judgement::Fine,
            Ordered::No(violation) if !doubtful.contains(&g) => Judgement::Refused(violation),
            _ => {
                to_search.insert(g);
                find_order(&items, &members, names, part, rules, stats, ambiguous)
            }
        };
        match verdict {
            Judgement::Fine => {}
            Judgement::Refused(_) => return verdict,
            Judgement::GaveUp => gave_up = true,
        }
    }
    if gave_up {
        return Judgement::GaveUp;
    }
    if failed {
        // Each group is fine alone: do versions of different groups contradict each other?
        let rest = |i: usize| group(i).is_some_and(|g| !to_search.contains(&g));
        let all: Vec<usize> = (0..items.len()).filter(|i| !pointless(*i)).collect();
        let again = order(&items, names, part, &resolved.placed, &all, rest, &mut work);
        if !matches!(again, Ordered::Yes) {
            return find_order(&items, &all, names, part, rules, stats, ambiguous);
        }
    }
    Judgement::Fine
}

/// The search alone: slow, and independent of the way by versions. `ambiguous` are the keys whose
/// versions are not all resolved; `None`: nothing is resolved yet.
pub(super) fn find_order(
    items: &[Item],
    members: &[usize],
    names: &Names,
    part: Part,
    rules: &Rules,
    stats: &mut Stats,
    ambiguous: Option<&BTreeSet<KeyId>>,
) -> Judgement {
    let members: Vec<&Item> = members.iter().map(|i| &items[*i]).collect();
    let keys: BTreeSet<KeyId> = members.iter().flat_map(|item| item.keys()).collect();
    let mut slots = vec![0; names.len()];
    for (slot, key) in keys.iter().enumerate() {
        slots[*key as usize] = slot;
    }
    let span = |item: &&Item| Span { inv: item.inv, res: item.res, certain: item.certain };
    let spans: Vec<Span> = members.iter().map(span).collect();
    let lazy = ambiguous.is_some_and(|ambiguous| ambiguous.is_disjoint(&keys));
    let slack = rules.clock_slack;
    let spec = KeySpec { items: &members, slots, keys: keys.len(), slack, lazy };
    let mut work = rules.work;
    let found = search(&spec, &spans, &mut work);
    stats.searched += members.len();
    stats.work += rules.work - work;
    match found {
        Found::Order => Judgement::Fine,
        Found::GaveUp => Judgement::GaveUp,
        Found::Nothing { longest, stuck } => {
            let why = format!(
                "no order of the operations explains its answer; the longest that was found \
                 explains {} of {}",
                longest.len(),
                members.len()
            );
            let ops = vec![members[stuck].op];
            Judgement::Refused(Violation { kind: Kind::NoOrder, part, ops, why })
        }
    }
}

/// For each key, the smallest key it is joined with by some operation.
fn groups(items: &[Item], keys: usize) -> Vec<usize> {
    fn root(parents: &mut [usize], mut at: usize) -> usize {
        while parents[at] != at {
            parents[at] = parents[parents[at]];
            at = parents[at];
        }
        at
    }
    let mut parents: Vec<usize> = (0..keys).collect();
    for item in items {
        for pair in item.keys().windows(2) {
            let a = root(&mut parents, pair[0] as usize);
            let b = root(&mut parents, pair[1] as usize);
            parents[a.max(b)] = a.min(b);
        }
    }
    (0..keys).map(|key| root(&mut parents, key)).collect()
}

/// The version of a value.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Version {
    Known(u64),
    /// Not known yet: that of change `n` of an item whose first one is above `after` and whose last
    /// one is below `before`. `turn` counts such items in the order they were taken.
    Open {
        item: usize,
        n: u64,
        len: u64,
        turn: u32,
        after: u64,
        before: u64,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Slot {
    version: Version,
    value: u64,
    /// It expires not before the first and not after the second moment.
    expires: Option<(Nanos, Nanos)>,
}

/// Keys of a partition, the least that the last version can be, and the number of writes
/// without version.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct KeyState {
    slots: Box<[Option<Slot>]>,
    last: u64,
    turn: u32,
}

impl KeyState {
    /// Says which version a value has, and with it the others of the same batch; versions of
    /// writes taken before are smaller, those of later ones larger.
    fn bind(&mut self, slot: usize, version: u64) -> Option<()> {
        let slot = self.slots[slot].as_ref()?;
        let (item, turn, first, len) = match slot.version {
            Version::Known(known) => return (known == version).then_some(()),
            Version::Open { item, n, len, turn, after, before } => {
                let first = version.checked_sub(n)?;
                if first <= after || first + len > before {
                    return None;
                }
                (item, turn, first, len)
            }
        };
        for slot in self.slots.iter_mut().flatten() {
            let Version::Open { item: i, n, turn: t, after, before, .. } = &mut slot.version else {
                continue;
            };
            if *i == item {
                slot.version = Version::Known(first + *n);
            } else if *t > turn {
                *after = (first + len - 1).max(*after);
            } else {
                *before = first.min(*before);
            }
        }
        self.last = self.last.max(first + len - 1);
        Some(())
    }
}

/// What the operations on some keys of a partition do.
struct KeySpec<'a> {
    items: &'a [&'a Item],
    /// Per key its place in the state.
    slots: Vec<usize>,
    keys: usize,
    slack: Nanos,
    /// Writes without version never turn out to have one. Then they are taken only just before
    /// an operation on the same keys, whatever versions lie in between.
    lazy: bool,
}

impl Spec for KeySpec<'_> {
    type State = KeyState;

    fn initial(&self) -> KeyState {
        KeyState { slots: vec![None; self.keys].into_boxed_slice(), last: 0, turn: 0 }
    }

    fn step(&self, state: &KeyState, item: usize) -> Option<KeyState> {
        let op = item;
        let item = self.items[op];
        if let Act::Watch(seen) = &item.act
            && !seen.iter().all(|(key, seen)| self.may_see(state, *key, *seen))
        {
            return None;
        }
        let mut next = state.clone();
        match &item.act {
            Act::Watch(seen) => {
                for (key, seen) in seen {
                    self.sees(&mut next, item, *key, *seen)?;
                }
            }
            Act::Refused { changes, found } => next = self.refuses(state, item, changes, *found)?,
            Act::Write { changes, first } => self.writes(&mut next, op, changes, *first)?,
        }
        Some(next)
    }

    fn is_look(&self, item: usize) -> bool {
        !matches!(self.items[item].act, Act::Write { .. })
    }

    fn is_optional(&self, item: usize) -> bool {
        self.lazy
            && matches!(self.items[item].act, Act::Write { first: None, .. })
            && !self.items[item].certain
    }

    /// A write of unknown outcome that nothing depends on, or that is overwritten whole, might as
    /// well not have happened; one of disjoint keys may come later. Two of those go by number.
    fn follows(&self, run: &[usize], next: usize) -> bool {
        let shares = |a: usize, b: usize| {
            let keys = self.items[b].keys();
            self.items[a].keys().iter().any(|key| keys.contains(key))
        };
        let Some((last, earlier)) = run.split_last() else { return true };
        if self.is_optional(next) {
            return if shares(*last, next) { !self.hides(next, *last) } else { *last < next };
        }
        let used = |at: usize, u: usize| run[at + 1..].iter().any(|later| shares(u, *later));
        let needed = |u: usize| shares(u, next) && !self.hides(next, u);
        needed(*last) && earlier.iter().enumerate().all(|(at, u)| used(at, *u) || needed(*u))
    }

    fn weight(&self) -> usize {
        self.keys * size_of::<Option<Slot>>()
    }

    fn same(&self, a: usize, b: usize) -> bool {
        match (&self.items[a].act, &self.items[b].act) {
            (Act::Write { changes: a, first: None }, Act::Write { changes: b, first: None }) => {
                a == b && a.iter().all(|put| put.ttl == 0)
            }
            _ => false,
        }
    }
}

impl KeySpec<'_> {
    /// Whether a write overwrites all of another without looking.
    fn hides(&self, write: usize, other: usize) -> bool {
        let Act::Write { changes, .. } = &self.items[write].act else { return false };
        changes.iter().all(|put| put.condition == Condition::None)
            && self.items[other].keys().iter().all(|key| changes.iter().any(|put| put.key == *key))
    }

    /// A glance before the state is copied.
    fn may_see(&self, state: &KeyState, key: KeyId, seen: Seen) -> bool {
        match (&state.slots[self.slots[key as usize]], seen) {
            (None, seen) => seen == Seen::Absent,
            (Some(slot), Seen::Absent) => slot.expires.is_some(),
            (Some(slot), Seen::Present(cell)) => cell.value.is_none_or(|v| v == slot.value),
        }
    }

    /// Requires that a key is as it was seen. What was seen absent because it expired is gone.
    fn sees(&self, state: &mut KeyState, item: &Item, key: KeyId, seen: Seen) -> Option<()> {
        let at = self.slots[key as usize];
        let slot = &mut state.slots[at];
        let Seen::Present(Cell { version, value }) = seen else {
            let gone = slot.is_none_or(|s| s.expires.is_some_and(|(early, _)| early <= item.res));
            *slot = None;
            return gone.then_some(());
        };
        let stored = slot.as_ref()?;
        let alive = stored.expires.is_none_or(|(_, late)| item.inv <= late);
        if !alive || value.is_some_and(|value| value != stored.value) {
            return None;
        }
        match version {
            Some(version) => state.bind(at, version),
            None => Some(()),
        }
    }

    fn condition(&self, state: &mut KeyState, item: &Item, put: &Put) -> Option<()> {
        let seen = match put.condition {
            Condition::None => return Some(()),
            Condition::Absent => Seen::Absent,
            Condition::Version(v) => Seen::Present(Cell { version: Some(v), value: None }),
        };
        self.sees(state, item, put.key, seen)
    }

    /// Requires that the first condition that does not hold finds `found`. When it could be any of
    /// several, because versions are open or values may have expired, none is decided on: that
    /// can only accept too much.
    fn refuses(&self, state: &KeyState, item: &Item, puts: &[Put], found: u64) -> Option<KeyState> {
        let seen = match found {
            0 => Seen::Absent,
            v => Seen::Present(Cell { version: Some(v), value: None }),
        };
        let mut held = state.clone();
        let mut only: Option<KeyState> = None;
        for put in puts {
            let holds = match put.condition {
                Condition::None => continue,
                Condition::Absent => found == 0,
                Condition::Version(expected) => found == expected,
            };
            let mut refused = held.clone();
            if !holds && self.sees(&mut refused, item, put.key, seen).is_some() {
                if only.as_ref().is_some_and(|other| *other != refused) {
                    return Some(state.clone());
                }
                only = Some(refused);
            }
            if self.condition(&mut held, item, put).is_none() {
                break;
            }
        }
        only
    }

    fn writes(
        &self,
        state: &mut KeyState,
        op: usize,
        changes: &[Put],
        first: Option<u64>,
    ) -> Option<()> {
        for put in changes {
            self.condition(state, self.items[op], put)?;
        }
        let len = changes.len() as u64;
        let (after, turn) = (state.last, state.turn);
        match first {
            Some(first) if first <= state.last => return None,
            Some(first) => {
                for slot in state.slots.iter_mut().flatten() {
                    if let Version::Open { before, .. } = &mut slot.version {
                        *before = first.min(*before);
                    }
                }
                state.last = first + len - 1;
            }
            None if self.lazy => {}
            None => {
                state.turn += 1;
                state.last += len;
            }
        }
        for (n, put) in (0..).zip(changes) {
            let version = match first {
                Some(first) => Version::Known(first + n),
                None => Version::Open { item: op, n, len, turn, after, before: u64::MAX },
            };
            let slot =
                put.value.map(|value| Slot { version, value, expires: self.expiry(op, put) });
            state.slots[self.slots[put.key as usize]] = slot;
        }
        Some(())
    }

    fn expiry(&self, op: usize, put: &Put) -> Option<(Nanos, Nanos)> {
        let Item { inv, res, .. } = self.items[op];
        let late = if *res == NEVER { NEVER } else { res + put.ttl + self.slack };
        (put.ttl > 0).then(|| ((inv + put.ttl).saturating_sub(self.slack), late))
    }
}
