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
    let mut by_group: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for i in all {
        if let Some(g) = group(i).filter(|g| failed || searched.contains(g)) {
            by_group.entry(g).or_default().push(i);
        }
    }
    let mut gave_up = false;
    for (g, members) in by_group {
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
                find_order(&items, &members, names, part, rules, stats)
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
        let all: Vec<usize> = (0..items.len()).collect();
        let again = order(&items, names, part, &resolved.placed, &all, rest, &mut work);
        if !matches!(again, Ordered::Yes) {
            return find_order(&items, &all, names, part, rules, stats);
        }
    }
    Judgement::Fine
}

/// The search alone over a whole partition: slow, and independent of the way by versions.
pub(super) fn find_order(
    items: &[Item],
    members: &[usize],
    names: &Names,
    part: Part,
    rules: &Rules,
    stats: &mut Stats,
) -> Judgement {
    let members: Vec<&Item> = members.iter().map(|i| &items[*i]).collect();
    let keys: BTreeSet<KeyId> = members.iter().flat_map(|item| item.keys()).collect();
    let mut slots = vec![0; names.len()];
    for (slot, key) in keys.iter().enumerate() {
        slots[*key as usize] = slot;
    }
    let span = |item: &&Item| Span { inv: item.inv, res: item.res, certain: item.certain };
    let spans: Vec<Span> = members.iter().map(span).collect();
    let spec = KeySpec { items: &members, slots, keys: keys.len(), slack: rules.clock_slack };
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
    /// Not known yet: above `after`, below `before`.
    Between { after: u64, before: u64 },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Slot {
    version: Version,
    value: u64,
    /// It expires not before the first and not after the second moment.
    expires: Option<(Nanos, Nanos)>,
}

/// Keys of a partition, and the last known version.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct KeyState {
    slots: Box<[Option<Slot>]>,
    last: u64,
}

/// What the operations on some keys of a partition do.
struct KeySpec<'a> {
    items: &'a [&'a Item],
    /// Per key its place in the state.
    slots: Vec<usize>,
    keys: usize,
    slack: Nanos,
}

impl Spec for KeySpec<'_> {
    type State = KeyState;

    fn initial(&self) -> KeyState {
        KeyState { slots: vec![None; self.keys].into_boxed_slice(), last: 0 }
    }

    fn step(&self, state: &KeyState, item: usize) -> Option<KeyState> {
        let item = self.items[item];
        let mut next = state.clone();
        match &item.act {
            Act::Watch(seen) => {
                for (key, seen) in seen {
                    self.sees(&mut next, item, *key, *seen)?;
                }
            }
            Act::Refused { changes, found } => self.refuses(&mut next, item, changes, *found)?,
            Act::Write { changes, first } => self.writes(&mut next, item, changes, *first)?,
        }
        Some(next)
    }

    fn weight(&self) -> usize {
        self.keys * size_of::<Option<Slot>>()
    }

    fn same(&self, a: usize, b: usize) -> bool {
        match (&self.items[a].act, &self.items[b].act) {
            (
                Act::Write { changes: a, first: None },
                Act::Write { changes: b, first: None },
            ) => a == b && a.iter().all(|put| put.ttl == 0),
            _ => false,
        }
    }
}

impl KeySpec<'_> {
    /// Requires that a key is as it was seen. What was seen absent because it expired is gone.
    fn sees(&self, state: &mut KeyState, item: &Item, key: KeyId, seen: Seen) -> Option<()> {
        let slot = &mut state.slots[self.slots[key as usize]];
        let Seen::Present(Cell { version, value }) = seen else {
            let gone = slot.is_none_or(|s| s.expires.is_some_and(|(early, _)| early <= item.res));
            *slot = None;
            return gone.then_some(());
        };
        let slot = slot.as_mut()?;
        let alive = slot.expires.is_none_or(|(_, late)| item.inv <= late);
        if !alive || value.is_some_and(|value| value != slot.value) {
            return None;
        }
        let Some(version) = version else { return Some(()) };
        let fits = match slot.version {
            Version::Known(known) => known == version,
            Version::Between { after, before } => after < version && version < before,
        };
        slot.version = Version::Known(version);
        state.last = state.last.max(version);
        fits.then_some(())
    }

    fn condition(&self, state: &mut KeyState, item: &Item, put: &Put) -> Option<()> {
        let seen = match put.condition {
            Condition::None => return Some(()),
            Condition::Absent => Seen::Absent,
            Condition::Version(v) => Seen::Present(Cell { version: Some(v), value: None }),
        };
        self.sees(state, item, put.key, seen)
    }

    /// Requires that the first condition that does not hold finds `found`.
    fn refuses(
        &self,
        state: &mut KeyState,
        item: &Item,
        changes: &[Put],
        found: u64,
    ) -> Option<()> {
        let seen = match found {
            0 => Seen::Absent,
            v => Seen::Present(Cell { version: Some(v), value: None }),
        };
        for put in changes {
            let holds = match put.condition {
                Condition::None => continue,
                Condition::Absent => found == 0,
                Condition::Version(expected) => found == expected,
            };
            let mut refused = state.clone();
            if !holds && self.sees(&mut refused, item, put.key, seen).is_some() {
                *state = refused;
                return Some(());
            }
            self.condition(state, item, put)?;
        }
        None
    }

    fn writes(
        &self,
        state: &mut KeyState,
        item: &Item,
        changes: &[Put],
        first: Option<u64>,
    ) -> Option<()> {
        for put in changes {
            self.condition(state, item, put)?;
        }
        if let Some(first) = first {
            if first <= state.last {
                return None;
            }
            for slot in state.slots.iter_mut().flatten() {
                if let Version::Between { before, .. } = &mut slot.version {
                    *before = first.min(*before);
                }
            }
            state.last = first + changes.len() as u64 - 1;
        }
        for (n, put) in changes.iter().enumerate() {
            let version = match first {
                Some(first) => Version::Known(first + n as u64),
                None => {
                    // Earlier changes of the same batch take versions as well.
                    Version::Between { after: state.last + n as u64, before: u64::MAX }
                }
            };
            let expires = (put.ttl > 0).then(|| {
                let early = (item.inv + put.ttl).saturating_sub(self.slack);
                let late = if item.res == NEVER { NEVER } else { item.res + put.ttl + self.slack };
                (early, late)
            });
            let slot = put.value.map(|value| Slot { version, value, expires });
            state.slots[self.slots[put.key as usize]] = slot;
        }
        Some(())
    }
}
