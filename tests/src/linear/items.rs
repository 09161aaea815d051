//! A partition's operations in the form that checks work on: keys are numbers in byte order, and
//! every operation is a write, a look at some keys, or a write that was refused.
//!
//! Invariants: `certain` items took effect between `inv` and `res`; others took effect after `inv`
//! or never, and their `res` is [`NEVER`]. A write acknowledged below the promised level is of
//! the second kind: a crash may lose it, and readers see only what is durable.

use std::collections::BTreeSet;

use super::check::{Kind, Part, Rules, Violation};
use super::history::{Answer, Call, Cell, Change, Condition, History, Nanos, Operation};

/// The response time of what has none.
pub(super) const NEVER: Nanos = Nanos::MAX;
const NANOS_PER_MS: u64 = 1_000_000;

/// A key of one partition: its place in byte order among those that were ever mentioned.
pub(super) type KeyId = u32;

/// What was seen of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It does not exist.
    Absent,
    /// It exists.
    Present(Cell),
}

/// One change of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Put {
    pub(super) key: KeyId,
    /// `None` deletes.
    pub(super) value: Option<u64>,
    pub(super) condition: Condition,
    /// 0: it does not expire.
    pub(super) ttl: Nanos,
}

/// What an operation does.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// Applies changes; `first` is the version of the first one, when known.
    Write { changes: Vec<Put>, first: Option<u64> },
    /// Sees keys, all at one moment.
    Watch(Vec<(KeyId, Seen)>),
    /// Sees that a condition does not hold.
    Refused { changes: Vec<Put>, found: u64 },
}

/// One operation.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// Its index in the history.
    pub(super) op: usize,
    pub(super) inv: Nanos,
    pub(super) res: Nanos,
    pub(super) certain: bool,
    pub(super) act: Act,
}

impl Item {
    /// The keys it touches.
    pub(super) fn keys(&self) -> Vec<KeyId> {
        match &self.act {
            Act::Write { changes, .. } | Act::Refused { changes, .. } => {
                changes.iter().map(|c| c.key).collect()
            }
            Act::Watch(seen) => seen.iter().map(|(key, _)| *key).collect(),
        }
    }
}

/// The keys of a partition, in byte order.
#[derive(Debug)]
pub(super) struct Names(Vec<String>);

impl Names {
    pub(super) fn name(&self, key: KeyId) -> &str {
        &self.0[key as usize]
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn id(&self, name: &str) -> KeyId {
        let at = self.0.binary_search_by(|n| n.as_str().cmp(name));
        u32::try_from(at.expect("every key that is mentioned was collected"))
            .expect("a history has fewer than 2^32 keys")
    }

    fn collect(operations: &[(usize, &Operation)]) -> Names {
        let mut names = BTreeSet::new();
        for (_, op) in operations {
            match &op.call {
                Call::Write { changes, .. } => names.extend(changes.iter().map(|c| &c.key)),
                Call::Get { keys, .. } => names.extend(keys),
                _ => {}
            }
            if let Answer::Page { entries, .. } = &op.answer {
                names.extend(entries.iter().map(|(key, _)| key));
            }
        }
        Names(names.into_iter().cloned().collect())
    }

    fn puts(&self, changes: &[Change]) -> Vec<Put> {
        let put = |c: &Change| Put {
            key: self.id(&c.key),
            value: c.value,
            condition: c.condition,
            ttl: c.ttl_ms * NANOS_PER_MS,
        };
        changes.iter().map(put).collect()
    }
}

/// The items of `operations`, which all belong to one partition.
pub(super) fn items(
    history: &History,
    operations: &[usize],
    part: Part,
    rules: &Rules,
) -> Result<(Vec<Item>, Names), Violation> {
    let operations: Vec<_> = operations.iter().map(|i| (*i, &history.operations[*i])).collect();
    let names = Names::collect(&operations);
    let mut items = Vec::with_capacity(operations.len());
    for (index, op) in operations {
        let acts = acts(&names, op, rules).map_err(|why| Violation {
            kind: Kind::Malformed,
            part,
            ops: vec![index],
            why,
        })?;
        let age = op.age.map_or(0, |age| age.saturating_add(rules.age_slack));
        for (act, certain) in acts {
            items.push(Item {
                op: index,
                inv: op.start.saturating_sub(age),
                res: op.end.filter(|_| certain).unwrap_or(NEVER),
                certain,
                act,
            });
        }
    }
    Ok((items, names))
}

/// What an operation did, and whether it certainly did. More than one act when an answer need not
/// be of one moment.
fn acts(names: &Names, op: &Operation, rules: &Rules) -> Result<Vec<(Act, bool)>, String> {
    match (&op.call, &op.answer) {
        (Call::Write { changes, .. }, Answer::Unknown) => {
            Ok(vec![(Act::Write { changes: names.puts(changes), first: None }, false)])
        }
        (_, Answer::Failed | Answer::Unknown) => Ok(Vec::new()),
        (Call::Write { changes, .. }, Answer::Receipt { level, version }) => {
            let certain = *level >= rules.promise;
            let changes = names.puts(changes);
            if *version == Some(0) {
                return nothing_to_delete(&changes, certain);
            }
            let before_last = changes.len().saturating_sub(1) as u64;
            let first = match version.map(|v| v.checked_sub(before_last)) {
                Some(None | Some(0)) => return Err("its changes have no room for versions".into()),
                Some(first) => first,
                None => None,
            };
            Ok(vec![(Act::Write { changes, first }, certain)])
        }
        (Call::Write { changes, .. }, Answer::ConditionFailed { found }) => {
            Ok(vec![(Act::Refused { changes: names.puts(changes), found: *found }, true)])
        }
        (Call::Get { keys, .. }, Answer::Cells(cells)) => {
            if keys.len() != cells.len() {
                return Err(format!("{} keys were asked for", keys.len()));
            }
            let seen = keys.iter().zip(cells).map(|(key, cell)| (names.id(key), seen(*cell)));
            Ok(watches(seen.collect(), rules.multi_get_is_atomic))
        }
        (Call::Scan { prefix, after, .. }, Answer::Page { entries, more }) => {
            page(names, prefix, after, entries, *more)
                .map(|seen| watches(seen, rules.page_is_atomic))
        }
        _ => Err("the answer does not belong to the question".to_owned()),
    }
}

fn nothing_to_delete(changes: &[Put], certain: bool) -> Result<Vec<(Act, bool)>, String> {
    match changes {
        [Put { key, value: None, .. }] => {
            let watch = (Act::Watch(vec![(*key, Seen::Absent)]), true);
            Ok(if certain { vec![watch] } else { Vec::new() })
        }
        _ => Err("only a delete may have had nothing to do".to_owned()),
    }
}

fn seen(cell: Option<Cell>) -> Seen {
    cell.map_or(Seen::Absent, Seen::Present)
}

fn watches(seen: Vec<(KeyId, Seen)>, atomic: bool) -> Vec<(Act, bool)> {
    if atomic {
        return vec![(Act::Watch(seen), true)];
    }
    seen.into_iter().map(|one| (Act::Watch(vec![one]), true)).collect()
}

/// What a page says about every key of its range, also about those it does not list.
fn page(
    names: &Names,
    prefix: &str,
    after: &str,
    entries: &[(String, Cell)],
    more: bool,
) -> Result<Vec<(KeyId, Seen)>, String> {
    if entries.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
        return Err("the entries are not in order of key".to_owned());
    }
    let within = |key: &str| key.starts_with(prefix) && (after.is_empty() || key > after);
    if let Some((key, _)) = entries.iter().find(|(key, _)| !within(key)) {
        return Err(format!("{key} is outside of what was asked for"));
    }
    let last = entries.last().map(|(key, _)| key.as_str());
    if more && last.is_none() {
        return Err("an empty page says that there is more".to_owned());
    }
    let listed = |key: &str| entries.binary_search_by(|(k, _)| k.as_str().cmp(key)).ok();
    let covered = |key: &str| within(key) && (!more || last.is_some_and(|last| key <= last));
    let names = names.0.iter().enumerate().filter(|(_, key)| covered(key));
    Ok(names.map(|(i, key)| (i as KeyId, seen(listed(key).map(|at| entries[at].1)))).collect())
}

/// The same operations key by key: nothing is of one moment any more. Whatever is impossible even
/// so was impossible before.
pub(super) fn apart(items: &[Item]) -> Vec<Item> {
    let mut all = Vec::with_capacity(items.len());
    for item in items {
        let acts: Vec<Act> = match &item.act {
            Act::Watch(seen) => seen.iter().map(|one| Act::Watch(vec![*one])).collect(),
            Act::Refused { changes, .. } if changes.len() > 1 => Vec::new(),
            Act::Refused { .. } => vec![item.act.clone()],
            Act::Write { changes, first } => {
                let alone = |(n, put): (usize, &Put)| {
                    // Conditions are on what was there before the batch.
                    let again = changes[..n].iter().any(|other| other.key == put.key);
                    let condition = if again { Condition::None } else { put.condition };
                    let first = first.map(|first| first + n as u64);
                    Act::Write { changes: vec![Put { condition, ..*put }], first }
                };
                changes.iter().enumerate().map(alone).collect()
            }
        };
        all.extend(acts.into_iter().map(|act| Item { act, ..item.clone() }));
    }
    all
}
