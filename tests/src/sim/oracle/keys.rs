//! What may be read of each key.
//!
//! A read of a key is checked against the smallest version it may show (its *floor*): the largest
//! that was acknowledged or read before the read began. After a crash the floor is what was
//! promised to survive.

use std::collections::{BTreeMap, BTreeSet};

use ironring_core::PartitionId;

use super::ledger::{Ledger, News, What, Write};
use crate::sim::op::{Change, Condition, Key, KeyOp, WriteId, author, payload};

/// When a read began and ended, and what it may show at least.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// The key's floor when the read began.
    pub floor: u64,
    /// Wall time when it began, in milliseconds.
    pub begun: u64,
    /// Wall time when it ended.
    pub ended: u64,
}

/// What was read.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The version.
    pub version: u64,
    /// The expiry, when the answer has one.
    pub expires: Option<u64>,
    /// The bytes, when the answer has them.
    pub bytes: Option<&'a [u8]>,
}

#[derive(Debug, Default)]
struct KeyModel {
    partition: PartitionId,
    versions: BTreeMap<u64, (WriteId, usize)>,
    /// Writes whose version is not known.
    open: BTreeSet<WriteId>,
    floor: u64,
    durable_floor: u64,
    /// What the first read of a life saw: nothing older can appear later with a larger version.
    settled: (u32, u64),
    /// Pairs (expected, got) of successful conditions: no version may lie between.
    exclusions: Vec<(u64, u64)>,
}

/// All keys.
#[derive(Debug, Default)]
pub struct Keys {
    keys: BTreeMap<Key, KeyModel>,
}

impl Keys {
    /// Keys that were ever named in a write, in byte order.
    pub fn names(&self) -> impl Iterator<Item = &Key> {
        self.keys.keys()
    }

    /// The partition of a key that was ever written.
    #[must_use]
    pub fn partition(&self, key: &Key) -> Option<PartitionId> {
        self.keys.get(key).map(|model| model.partition)
    }

    /// The smallest version a read that begins at this moment may show.
    #[must_use]
    pub fn floor(&self, key: &Key) -> u64 {
        self.keys.get(key).map_or(0, |model| model.floor)
    }

    /// A write is sent.
    pub fn send(&mut self, id: WriteId, partition: PartitionId, ops: &[KeyOp]) {
        for op in ops {
            let model = self.keys.entry(op.key.clone()).or_default();
            model.partition = partition;
            if !model.versions.values().any(|(known, _)| *known == id) {
                model.open.insert(id);
            }
        }
    }

    /// The write will never be applied.
    pub fn refused(&mut self, id: WriteId, ops: &[KeyOp]) {
        for op in ops {
            if let Some(model) = self.keys.get_mut(&op.key) {
                model.open.remove(&id);
            }
        }
    }

    /// The write is at `version`, and so every key it touches is at least there.
    ///
    /// # Errors
    /// When that contradicts a condition that succeeded, or an earlier read.
    pub fn learned(&mut self, ledger: &Ledger, id: WriteId, version: u64) -> Result<(), String> {
        let write = ledger.get(id)?;
        let What::Keys(ops) = &write.what else { return Ok(()) };
        for (index, op) in ops.iter().enumerate() {
            let version = write.version_of(index, version);
            let model = self.keys.entry(op.key.clone()).or_default();
            model.open.remove(&id);
            if model.versions.insert(version, (id, index)).is_none() {
                let inside = model.exclusions.iter().find(|(a, b)| *a < version && version < *b);
                if let Some((expected, got)) = inside {
                    return Err(format!(
                        "{id:?} is at {version}, between {expected} and {got}, where a condition \
                         found nothing"
                    ));
                }
                let (epoch, first) = model.settled;
                if write.last_epoch < epoch && version > first {
                    return Err(format!(
                        "{id:?} of an earlier life is at {version}; a read had seen {first}"
                    ));
                }
            }
            model.floor = model.floor.max(version);
        }
        Ok(())
    }

    /// Takes over what a check found out about other writes.
    ///
    /// # Errors
    /// As [`Keys::learned`].
    pub fn take(&mut self, ledger: &Ledger, news: &News) -> Result<(), String> {
        for id in &news.survived {
            if let Some(version) = ledger.get(*id)?.version {
                self.learned(ledger, *id, version)?;
            }
        }
        self.drop_lost(ledger, &news.lost)
    }

    fn drop_lost(&mut self, ledger: &Ledger, lost: &[WriteId]) -> Result<(), String> {
        for id in lost {
            let write = ledger.get(*id)?;
            let (What::Keys(ops), Some(version)) = (&write.what, write.version) else { continue };
            for (index, op) in ops.iter().enumerate() {
                let version = write.version_of(index, version);
                if let Some(model) = self.keys.get_mut(&op.key) {
                    model.versions.remove(&version);
                    model.exclusions.retain(|(_, got)| *got != version);
                }
            }
        }
        Ok(())
    }

    /// A successful write says what it found: checks its conditions.
    ///
    /// # Errors
    /// When a condition cannot have held.
    pub fn conditions(
        &mut self,
        ledger: &Ledger,
        id: WriteId,
        version: u64,
        now: u64,
    ) -> Result<(), String> {
        let write = ledger.get(id)?;
        let What::Keys(ops) = &write.what else { return Ok(()) };
        for (index, op) in ops.iter().enumerate() {
            let version = write.version_of(index, version);
            let model = self.keys.entry(op.key.clone()).or_default();
            let before = model.versions.range(..version).next_back();
            let found = before.map(|(v, (id, index))| (*v, *id, *index));
            match op.condition {
                Condition::None => {}
                Condition::Version(expected) => {
                    if let Some((v, other, _)) = found
                        && v > expected
                        && !ledger.get(other)?.maybe_lost
                    {
                        return Err(format!("{id:?} expected {expected} and {other:?} is at {v}"));
                    }
                    model.exclusions.push((expected, version));
                }
                Condition::Absent => {
                    let Some((v, other, index)) = found else { continue };
                    let known = ledger.get(other)?;
                    let unexplained = !removes(known, index)
                        && !may_expire(known, index, now)
                        && !known.maybe_lost
                        && !model.open.iter().any(|o| may_remove(ledger, *o, &op.key));
                    if unexplained {
                        return Err(format!("{id:?} found no key, and {other:?} is at {v}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// A read found a value.
    ///
    /// # Errors
    /// When no correct node could have shown it.
    pub fn saw(
        &mut self,
        ledger: &mut Ledger,
        key: &Key,
        window: Window,
        seen: Seen<'_>,
    ) -> Result<(), String> {
        let Seen { version, expires, bytes } = seen;
        if version < window.floor {
            let floor = window.floor;
            return Err(format!("version {version} was read; {floor} was there before"));
        }
        let Some(model) = self.keys.get(key) else {
            return Err("a value was read of a key that nobody ever wrote".to_owned());
        };
        let partition = model.partition;
        let author = match bytes {
            Some(bytes) => Some(self.check_bytes(ledger, key, window, bytes, expires)?),
            None => self.known_author(ledger, key, partition, version)?,
        };
        let lost = self.above(ledger, key, version);
        self.drop_lost(ledger, &lost)?;
        if let Some((id, index)) = author {
            let last = version + ledger.get(id)?.span() - 1 - index as u64;
            let news = ledger.learn(id, last)?;
            self.learned(ledger, id, last)?;
            self.take(ledger, &news)?;
            ledger.promise(id);
        }
        let model = self.keys.get_mut(key).expect("looked up above");
        model.floor = model.floor.max(version);
        if model.settled.0 < ledger.epoch() {
            model.settled = (ledger.epoch(), version);
        }
        Ok(())
    }

    /// Who wrote the record at this offset, when that is known and undisputed.
    fn known_author(
        &self,
        ledger: &Ledger,
        key: &Key,
        partition: PartitionId,
        version: u64,
    ) -> Result<Option<(WriteId, usize)>, String> {
        let Some((id, index)) = ledger.at(partition, version) else { return Ok(None) };
        let write = ledger.get(id)?;
        if write.maybe_lost && self.may_have_place_of(ledger, key, write, index) {
            return Ok(None);
        }
        let What::Keys(ops) = &write.what else {
            return Err(format!("version {version} is a record of {id:?}, which is no key's"));
        };
        let op = ops.get(index).ok_or_else(|| format!("{id:?} has no operation {index}"))?;
        if op.key == *key && op.change != Change::Delete {
            return Ok(Some((id, index)));
        }
        Err(format!("version {version} is a record of {id:?}, which stored no value here"))
    }

    /// Whether a value of the key at the place of a write that a crash may have taken can be
    /// another's: the lost write stored none here, or one of unknown version may have the place.
    fn may_have_place_of(&self, ledger: &Ledger, key: &Key, lost: &Write, index: usize) -> bool {
        let stored = match &lost.what {
            What::Keys(ops) => {
                ops.get(index).is_some_and(|op| op.key == *key && op.change != Change::Delete)
            }
            What::Append(..) | What::Trim(..) => false,
        };
        let open = self.keys.get(key).into_iter().flat_map(|model| &model.open);
        let mut open = open.filter_map(|id| ledger.get(*id).ok());
        !stored || open.any(|w| w.possible() && w.last_epoch > lost.first_epoch)
    }

    fn check_bytes(
        &self,
        ledger: &Ledger,
        key: &Key,
        window: Window,
        bytes: &[u8],
        expires: Option<u64>,
    ) -> Result<(WriteId, usize), String> {
        let (id, index) = author(bytes).ok_or("a value without a tag was read")?;
        let write = ledger.get(id)?;
        let What::Keys(ops) = &write.what else {
            return Err(format!("{id:?} is no write of a key"));
        };
        let op = ops.get(index).ok_or_else(|| format!("{id:?} has no operation {index}"))?;
        let Change::Put { len, ttl_ms } = op.change else {
            return Err(format!("{id:?} stores no value"));
        };
        if op.key != *key {
            return Err(format!("the value is of another key: {id:?}"));
        }
        if bytes != payload(id, index, len) {
            return Err(format!("the bytes are not what {id:?} wrote"));
        }
        match expires {
            Some(0) if ttl_ms > 0 => return Err(format!("{id:?} lost its expiry")),
            Some(at) if at > 0 && ttl_ms == 0 => return Err(format!("{id:?} has an expiry: {at}")),
            Some(at) if at > 0 && at <= window.begun => {
                return Err(format!("{id:?} expired at {at} and was read at {}", window.begun));
            }
            Some(at) if at > 0 && at < write.first_wall + ttl_ms => {
                return Err(format!("{id:?} expires at {at}, too early"));
            }
            _ => {}
        }
        Ok((id, index))
    }

    /// Writes above `version` that a crash may have taken: they are not there, so it did.
    fn above(&self, ledger: &mut Ledger, key: &Key, version: u64) -> Vec<WriteId> {
        let Some(model) = self.keys.get(key) else { return Vec::new() };
        let later = model.versions.range(version + 1..);
        let missing = later.filter(|(_, (id, _))| ledger.get(*id).is_ok_and(|w| w.maybe_lost));
        let missing: Vec<WriteId> = missing.map(|(_, (id, _))| *id).collect();
        missing.into_iter().flat_map(|id| ledger.not_there(id)).collect()
    }

    /// A read found no value.
    ///
    /// # Errors
    /// When nothing explains that.
    pub fn saw_nothing(
        &mut self,
        ledger: &mut Ledger,
        key: &Key,
        window: Window,
    ) -> Result<(), String> {
        let Some(model) = self.keys.get(key) else { return Ok(()) };
        let floor = window.floor;
        let state = model.versions.get(&floor).copied();
        let floor_is_put = match state {
            Some((id, index)) => !removes(ledger.get(id)?, index),
            None => false,
        };
        // Each explanation: the least version the key has if it is the true one, and whether
        // that is a removal, which survives a crash once it was seen.
        let mut explanations: Vec<(u64, bool)> = Vec::new();
        if floor == 0 {
            explanations.push((0, true));
        }
        for (version, (id, index)) in model.versions.range(floor..) {
            let write = ledger.get(*id)?;
            if removes(write, *index) {
                explanations.push((*version, true));
            } else if may_expire(write, *index, window.ended) {
                explanations.push((*version, false));
            }
        }
        let mut open_explains = false;
        for id in &model.open {
            let write = ledger.get(*id)?;
            if !write.possible() {
                continue;
            }
            let What::Keys(ops) = &write.what else { continue };
            let touching = ops.iter().enumerate().filter(|(_, op)| op.key == *key);
            for (index, _) in touching {
                let least = if floor_is_put { floor + 1 } else { floor };
                open_explains |= removes(write, index) || may_expire(write, index, window.ended);
                if removes(write, index) {
                    explanations.push((least, true));
                } else if may_expire(write, index, window.ended) {
                    explanations.push((least, false));
                }
            }
        }
        let Some(least) = explanations.iter().map(|(least, _)| *least).min() else {
            let what = match state {
                Some((id, _)) => format!("{id:?} is at {floor}"),
                None => format!("version {floor} or later was there before"),
            };
            return Err(format!("no value was read; {what}"));
        };
        let durable = explanations.iter().all(|(_, durable)| *durable);
        let only_old = explanations.iter().all(|(version, _)| *version <= floor);
        let lost = if only_old && !floor_is_put && !open_explains {
            self.above(ledger, key, floor)
        } else {
            Vec::new()
        };
        self.drop_lost(ledger, &lost)?;
        let model = self.keys.get_mut(key).expect("looked up above");
        model.floor = model.floor.max(least);
        if durable {
            model.durable_floor = model.durable_floor.max(least);
        }
        Ok(())
    }

    /// The node died.
    pub fn crash(&mut self, ledger: &Ledger, forgiven: bool) {
        for model in self.keys.values_mut() {
            let bound = ledger.bound(model.partition);
            let there = |id: &WriteId| ledger.get(*id).is_ok_and(|write| !write.maybe_lost);
            let mut promised = model.versions.range(..=bound).rev();
            let promised = promised.find(|(_, (id, _))| there(id)).map_or(0, |(v, _)| *v);
            if forgiven && model.durable_floor > bound {
                // What is promised still is the newest version that is, which may be much older.
                model.durable_floor = 0;
            }
            model.durable_floor = model.durable_floor.max(promised);
            model.floor = model.durable_floor;
        }
    }
}

fn removes(write: &Write, index: usize) -> bool {
    let What::Keys(ops) = &write.what else { return false };
    ops.get(index).is_some_and(|op| op.change == Change::Delete)
}

fn may_expire(write: &Write, index: usize, now: u64) -> bool {
    let What::Keys(ops) = &write.what else { return false };
    ops.get(index).is_some_and(|op| match op.change {
        Change::Put { ttl_ms, .. } => ttl_ms > 0 && write.first_wall + ttl_ms <= now,
        Change::Delete => false,
    })
}

/// Whether a write of unknown version may have removed the key, at any time.
fn may_remove(ledger: &Ledger, id: WriteId, key: &Key) -> bool {
    let Ok(write) = ledger.get(id) else { return false };
    let What::Keys(ops) = &write.what else { return false };
    write.possible()
        && ops.iter().any(|op| match op.change {
            Change::Delete => op.key == *key,
            Change::Put { ttl_ms, .. } => op.key == *key && ttl_ms > 0,
        })
}
