//! Finds the version of writes whose receipt nobody has, from what readers saw.
//!
//! A reader that saw version v with value x names the write: the one that was acknowledged with v,
//! or else the only write without a known version that stores x under this key. Where several
//! could be meant, the key is left to the search.

use std::collections::{BTreeMap, BTreeSet};

use super::check::{Kind, Part, Violation};
use super::history::{Cell, Condition};
use super::items::{Act, Item, KeyId, Names, Put, Seen};

/// What became known.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    /// Per item: it is a write that took effect, at a known version.
    pub(super) placed: Vec<bool>,
    /// Keys that versions alone do not decide.
    pub(super) to_search: BTreeSet<KeyId>,
    /// Values that were seen without their version.
    pub(super) plain: BTreeSet<(KeyId, u64)>,
    /// Keys whose versions more than one write may have.
    pub(super) ambiguous: BTreeSet<KeyId>,
    /// Writes that may have happened unseen, and that could explain why a key is absent.
    pub(super) doubtful: Vec<usize>,
}

impl Resolved {
    /// Whether an item of unknown outcome can explain nothing: nobody saw what it stores, and it
    /// makes no key absent.
    pub(super) fn pointless(&self, items: &[Item], item: usize) -> bool {
        let Act::Write { changes, first: None } = &items[item].act else { return false };
        let idle = |put: &Put| {
            let seen = self.plain.contains(&(put.key, put.value.unwrap_or(0)));
            put.value.is_some() && put.ttl == 0 && !seen && !self.ambiguous.contains(&put.key)
        };
        !items[item].certain && changes.iter().all(idle)
    }
}

struct Sighting {
    key: KeyId,
    version: u64,
    value: Option<u64>,
    item: usize,
}

/// Fills in the versions in `items` that can be found out.
pub(super) fn resolve(
    items: &mut [Item],
    names: &Names,
    part: Part,
) -> Result<Resolved, Violation> {
    let mut resolved = Resolved { placed: vec![false; items.len()], ..Resolved::default() };
    let Index { mut known, weak, open } = index(items, part, &mut resolved)?;
    for sighting in sightings(items, &mut resolved) {
        if let Some((i, n)) = known.get(&sighting.version) {
            // What goes by versions alone finds a better reason.
            let apart = resolved.to_search.contains(&sighting.key);
            if apart && !stores(&items[*i], *n, &sighting) {
                let name = names.name(sighting.key);
                let why = format!("version {} of {name} is of another write", sighting.version);
                let ops = vec![items[sighting.item].op, items[*i].op];
                return Err(Violation { kind: Kind::WrongValue, part, ops, why });
            }
            continue;
        }
        let none = Vec::new();
        let weak = weak.get(&sighting.version).unwrap_or(&none);
        let open = open.get(&sighting.key).unwrap_or(&none);
        let fits = |(i, n): &(usize, usize)| stores(&items[*i], *n, &sighting);
        let mut candidates: Vec<_> = weak.iter().copied().filter(fits).collect();
        if candidates.is_empty() {
            candidates = open.iter().copied().filter(fits).collect();
        }
        if candidates.len() > 1 {
            candidates.retain(|(i, n)| elsewhere(&items[*i], *n, &sighting).is_none());
        }
        match place(items, &candidates, &sighting, names, part)? {
            None => {
                resolved.to_search.insert(sighting.key);
                resolved.ambiguous.insert(sighting.key);
            }
            Some((i, first)) => {
                let Act::Write { changes, first: slot } = &mut items[i].act else { continue };
                *slot = Some(first);
                resolved.placed[i] = true;
                known.extend((0..changes.len()).map(|n| (first + n as u64, (i, n))));
            }
        }
    }
    note_doubts(items, &known, &mut resolved);
    Ok(resolved)
}

/// Changes by what is known of their versions: item and place in it.
#[derive(Default)]
struct Index {
    /// By versions that certainly exist.
    known: BTreeMap<u64, (usize, usize)>,
    /// By versions of writes that may have been lost.
    weak: BTreeMap<u64, Vec<(usize, usize)>>,
    /// By key, without a version.
    open: BTreeMap<KeyId, Vec<(usize, usize)>>,
}

fn index(items: &[Item], part: Part, resolved: &mut Resolved) -> Result<Index, Violation> {
    let Index { mut known, mut weak, mut open } = Index::default();
    for (i, item) in items.iter().enumerate() {
        let Act::Write { changes, first } = &item.act else { continue };
        resolved.placed[i] = item.certain && first.is_some();
        for (n, put) in changes.iter().enumerate() {
            match first {
                None => open.entry(put.key).or_default().push((i, n)),
                Some(first) if !item.certain => {
                    weak.entry(first + n as u64).or_default().push((i, n));
                }
                Some(first) => {
                    if let Some((other, _)) = known.insert(first + n as u64, (i, n)) {
                        let why = format!("two writes have version {}", first + n as u64);
                        let ops = vec![item.op, items[other].op];
                        return Err(Violation { kind: Kind::VersionReused, part, ops, why });
                    }
                }
            }
            if put.ttl > 0 || (item.certain && first.is_none()) {
                resolved.to_search.insert(put.key);
            }
        }
    }
    Ok(Index { known, weak, open })
}

/// Versions that certainly existed, those with a value first: they say more.
fn sightings(items: &[Item], resolved: &mut Resolved) -> Vec<Sighting> {
    let mut all = Vec::new();
    for (item, i) in items.iter().zip(0..) {
        match &item.act {
            Act::Watch(seen) => {
                for (key, seen) in seen {
                    let Seen::Present(Cell { version, value }) = *seen else { continue };
                    match version {
                        Some(version) => all.push(Sighting { key: *key, version, value, item: i }),
                        None => {
                            resolved.to_search.insert(*key);
                            // Without a value either, anything could have been seen.
                            match value {
                                Some(value) => resolved.plain.insert((*key, value)),
                                None => resolved.ambiguous.insert(*key),
                            };
                        }
                    }
                }
            }
            Act::Refused { changes, found } => {
                if let ([put], 1..) = (changes.as_slice(), *found) {
                    all.push(Sighting { key: put.key, version: *found, value: None, item: i });
                }
            }
            Act::Write { changes, .. } if item.certain => {
                for put in changes {
                    if let Condition::Version(version) = put.condition {
                        all.push(Sighting { key: put.key, version, value: None, item: i });
                    }
                }
            }
            Act::Write { .. } => {}
        }
    }
    all.sort_by_key(|s| s.value.is_none());
    all
}

fn stores(item: &Item, change: usize, sighting: &Sighting) -> bool {
    let Act::Write { changes, .. } = &item.act else { return false };
    let Put { key, value, .. } = changes[change];
    let room = sighting.version > change as u64;
    room && key == sighting.key
        && value.is_some_and(|value| sighting.value.is_none_or(|seen| seen == value))
}

/// The version of this change, when it is known and not the one seen.
fn elsewhere(item: &Item, change: usize, sighting: &Sighting) -> Option<u64> {
    let Act::Write { first: Some(first), .. } = item.act else { return None };
    Some(first + change as u64).filter(|version| *version != sighting.version)
}

/// The only candidate, and the version of its first change; `None` when there are several.
fn place(
    items: &[Item],
    candidates: &[(usize, usize)],
    sighting: &Sighting,
    names: &Names,
    part: Part,
) -> Result<Option<(usize, u64)>, Violation> {
    let seen = || {
        let value = sighting.value.map_or(String::new(), |v| format!(" with value {v}"));
        format!("version {} of {}{value}", sighting.version, names.name(sighting.key))
    };
    let reader = items[sighting.item].op;
    match candidates {
        [] => {
            let why = format!("{} was seen, and nobody wrote it", seen());
            Err(Violation { kind: Kind::NeverWritten, part, ops: vec![reader], why })
        }
        [(i, n)] => {
            let first = sighting.version - *n as u64;
            let Some(other) = elsewhere(&items[*i], *n, sighting) else {
                return Ok(Some((*i, first)));
            };
            let why = format!("{} was seen; the same write is at version {other}", seen());
            let ops = vec![reader, items[*i].op];
            Err(Violation { kind: Kind::VersionReused, part, ops, why })
        }
        _ => Ok(None),
    }
}

/// Notes what could still hide something: writes that may have made a key absent, and conditions
/// on versions that nobody is known to have written.
fn note_doubts(items: &[Item], known: &BTreeMap<u64, (usize, usize)>, resolved: &mut Resolved) {
    for (i, item) in items.iter().enumerate() {
        let (changes, found) = match &item.act {
            Act::Watch(_) => continue,
            Act::Refused { changes, found } => (changes, Some(*found)),
            Act::Write { changes, .. } => (changes, None),
        };
        let open = found.is_none() && !item.certain && !resolved.placed[i];
        if open && changes.iter().any(|c| c.value.is_none() || c.ttl > 0) {
            resolved.doubtful.push(i);
        }
        let expected = changes.iter().filter_map(|c| match c.condition {
            Condition::Version(version) if changes.len() > 1 || open => Some(version),
            _ => None,
        });
        if expected.chain(found).any(|v| v > 0 && !known.contains_key(&v)) {
            let keys: Vec<KeyId> = item.keys();
            resolved.to_search.extend(&keys);
            resolved.ambiguous.extend(&keys);
        }
    }
}
