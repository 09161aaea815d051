//! What may be read of each topic partition, and which topics exist.

use std::collections::{BTreeMap, BTreeSet};

use ironring_core::TopicId;

use super::ledger::{Fate, Ledger, Part, What};
use crate::sim::op::{TopicRecord, WriteId, author, payload};

/// What a read that begins at this moment may show at least.
#[derive(Clone, Copy, Debug, Default)]
pub struct Range {
    /// The oldest offset is at least this.
    pub start: u64,
    /// The end is at least this.
    pub end: u64,
}

#[derive(Debug, Default)]
struct PartModel {
    records: BTreeMap<u64, (WriteId, usize)>,
    floor: Range,
    /// The oldest offset that a crash leaves is at least this: it was acknowledged as durable, or a
    /// reader was told, and readers see only what is durable.
    durable_start: u64,
    /// Largest offset anybody asked to trim to: the start is never beyond.
    trim_max: u64,
    retains_all: bool,
}

impl PartModel {
    /// A reader was told that this is the oldest offset.
    fn saw_start(&mut self, start: u64) {
        self.floor.start = self.floor.start.max(start);
        self.durable_start = self.durable_start.max(start);
    }
}

#[derive(Debug, Default)]
struct Name {
    id: Option<TopicId>,
    /// Acknowledged.
    created: bool,
    /// How often its deletion was asked for.
    deletes_sent: u32,
    deleted: bool,
}

/// All topics.
#[derive(Debug, Default)]
pub struct Topics {
    parts: BTreeMap<Part, PartModel>,
    names: BTreeMap<String, Name>,
    ids: BTreeSet<TopicId>,
    /// Acknowledged changes of the list of topics, in order.
    changes: Vec<Change>,
}

/// A change of the list of topics.
#[derive(Clone, Debug)]
enum Change {
    Created(String),
    Deleted(String),
}

impl Topics {
    /// A creation is sent. Names are used once.
    pub fn send_create(&mut self, name: &str) {
        self.names.entry(name.to_owned()).or_default();
    }

    /// A deletion is sent.
    pub fn send_delete(&mut self, name: &str) {
        self.names.entry(name.to_owned()).or_default().deletes_sent += 1;
    }

    /// A topic was made.
    ///
    /// # Errors
    /// When its id was used before.
    pub fn created(
        &mut self,
        name: &str,
        id: TopicId,
        partitions: u32,
        retains_all: bool,
    ) -> Result<(), String> {
        let model = self.names.entry(name.to_owned()).or_default();
        if model.id.is_some_and(|known| known != id) || (!self.ids.insert(id) && model.id.is_none())
        {
            return Err(format!("topic {name} got id {id}, which is not its own"));
        }
        model.id = Some(id);
        model.created = true;
        self.changes.push(Change::Created(name.to_owned()));
        for index in 0..partitions {
            let part = self.parts.entry((id, index)).or_default();
            part.retains_all = retains_all;
        }
        Ok(())
    }

    /// A topic was deleted.
    pub fn deleted(&mut self, name: &str) {
        self.names.entry(name.to_owned()).or_default().deleted = true;
        self.changes.push(Change::Deleted(name.to_owned()));
    }

    /// How many changes of the list were acknowledged, as far as they are promised.
    #[must_use]
    pub fn count(&self) -> usize {
        self.changes.len()
    }

    /// Of the changes after the first `count` nothing is promised: a topic may be gone, and its id
    /// given again, or be there still.
    pub fn forgive_changes_since(&mut self, count: usize) {
        for change in self.changes.drain(count.min(self.changes.len())..) {
            match change {
                Change::Created(name) => {
                    let model = self.names.entry(name).or_default();
                    model.created = false;
                    self.ids.retain(|id| model.id != Some(*id));
                }
                Change::Deleted(name) => self.names.entry(name).or_default().deleted = false,
            }
        }
    }

    /// Whether a request may hear that this topic does not exist.
    #[must_use]
    pub fn may_be_unknown(&self, id: TopicId) -> bool {
        self.names.values().all(|n| n.id != Some(id) || n.deletes_sent > 0 || !n.created)
    }

    /// Whether a deletion may hear that there is no topic of this name.
    #[must_use]
    pub fn may_be_absent(&self, name: &str) -> bool {
        self.names.get(name).is_none_or(|n| !n.created || n.deletes_sent > 1)
    }

    /// Names acknowledged when a listing began, and those deleted: the listing must show the first
    /// and not the second.
    #[must_use]
    pub fn listing(&self) -> (Vec<String>, Vec<String>) {
        let pick = |f: fn(&Name) -> bool| {
            self.names.iter().filter(|(_, n)| f(n)).map(|(name, _)| name.clone()).collect()
        };
        (pick(|n| n.created && n.deletes_sent == 0), pick(|n| n.deleted))
    }

    /// Topics were listed.
    ///
    /// # Errors
    /// When one is missing, or there although it must not be.
    pub fn listed(
        &mut self,
        (there, gone): &(Vec<String>, Vec<String>),
        listed: &[(String, TopicId)],
    ) -> Result<(), String> {
        for (name, id) in listed {
            let model = self.names.get(name).ok_or(format!("nobody made topic {name}"))?;
            if model.id.is_some_and(|known| known != *id) {
                return Err(format!("topic {name} had id {:?}, and has {id}", model.id));
            }
            if gone.contains(name) {
                return Err(format!("topic {name} was deleted, and is listed"));
            }
        }
        let missing = there.iter().find(|name| {
            self.names[*name].deletes_sent == 0 && !listed.iter().any(|(listed, _)| listed == *name)
        });
        match missing {
            Some(name) => Err(format!("topic {name} was made, and is not listed")),
            None => Ok(()),
        }
    }

    /// Topic partitions that were ever known, with whether the topic may have been deleted.
    pub fn parts(&self) -> impl Iterator<Item = (Part, bool)> {
        self.parts.keys().map(|part| (*part, self.may_be_unknown(part.0)))
    }

    /// What a read that begins now may show at least.
    #[must_use]
    pub fn range(&self, part: Part) -> Range {
        self.parts.get(&part).map(|model| model.floor).unwrap_or_default()
    }

    /// A trim is sent.
    pub fn send_trim(&mut self, part: Part, before: u64) {
        let model = self.parts.entry(part).or_default();
        model.trim_max = model.trim_max.max(before);
    }

    /// A trim was acknowledged.
    pub fn trimmed(&mut self, part: Part, before: u64, durable: bool) {
        let model = self.parts.entry(part).or_default();
        model.floor.start = model.floor.start.max(before);
        if durable {
            model.durable_start = model.durable_start.max(before);
        }
    }

    /// The records of an append are at `first` and after.
    ///
    /// # Errors
    /// When others are there.
    pub fn learned(
        &mut self,
        ledger: &mut Ledger,
        id: WriteId,
        first: u64,
        readable: bool,
    ) -> Result<(), String> {
        let write = ledger.get(id)?.clone();
        let What::Append(part, lens) = &write.what else {
            return Err(format!("{id:?} is no append"));
        };
        ledger.learn_first(id, first)?;
        let model = self.parts.entry(*part).or_default();
        for index in 0..lens.len() {
            let offset = first + index as u64;
            let Some(other) = model.records.insert(offset, (id, index)) else { continue };
            if other == (id, index) {
                continue;
            }
            let known = ledger.get(other.0)?;
            if !known.maybe_lost && known.fate != Fate::Lost {
                return Err(format!("offset {offset} of {part:?} holds {other:?} and {id:?}"));
            }
            ledger.drop_lost(&[other.0]);
            model.records.retain(|_, (author, _)| *author != other.0);
        }
        if readable {
            model.floor.end = model.floor.end.max(first + lens.len() as u64);
        }
        Ok(())
    }

    /// Records were read from `from` on (`None`: from the oldest).
    ///
    /// # Errors
    /// When no correct node could have shown them.
    pub fn saw(
        &mut self,
        ledger: &mut Ledger,
        part: Part,
        range: Range,
        from: Option<u64>,
        records: &[TopicRecord],
        (start, end): (u64, u64),
    ) -> Result<(), String> {
        if end < range.end {
            return Err(format!("the end is {end}; it was {} before", range.end));
        }
        self.check_start(part, range, start)?;
        // Of what is trimmed while it is read, the answer has the rest, or nothing.
        let trimmed = start > range.start;
        let mut expected = from.unwrap_or(start);
        if trimmed && expected >= range.start {
            expected = expected.max(start);
        }
        if records.is_empty() && expected < end && !trimmed {
            return Err(format!("nothing was read at {expected} although the end is {end}"));
        }
        for record in records {
            if record.offset != expected || expected < start || expected >= end {
                let offset = record.offset;
                return Err(format!("offset {offset} was read, not {expected} of {start}..{end}"));
            }
            expected += 1;
            let (id, index) = author(&record.bytes).ok_or("a record without a tag was read")?;
            let write = ledger.get(id)?;
            let What::Append(of, lens) = &write.what else {
                return Err(format!("{id:?} is no append"));
            };
            let len = lens.get(index).ok_or_else(|| format!("{id:?} has no record {index}"))?;
            if *of != part || record.bytes != payload(id, index, *len) {
                return Err(format!("offset {} is not what {id:?} wrote", record.offset));
            }
            let first = record.offset.checked_sub(index as u64);
            let first = first.ok_or_else(|| format!("{id:?} begins before offset 0"))?;
            self.learned(ledger, id, first, false)?;
            ledger.promise(id);
        }
        let model = self.parts.entry(part).or_default();
        model.floor.end = model.floor.end.max(end);
        model.saw_start(start);
        Ok(())
    }

    fn check_start(&self, part: Part, range: Range, start: u64) -> Result<(), String> {
        if start < range.start {
            return Err(format!("the start is {start}; it was {} before", range.start));
        }
        let model = self.parts.get(&part).ok_or("nobody made this topic")?;
        if model.retains_all && start > model.trim_max.max(1) {
            let asked = model.trim_max;
            return Err(format!("the start is {start}; nobody trimmed beyond {asked}"));
        }
        Ok(())
    }

    /// A read at `from` heard that this is out of range, and that the oldest is `start`.
    ///
    /// # Errors
    /// When it cannot have been.
    pub fn out_of_range(
        &mut self,
        part: Part,
        range: Range,
        from: Option<u64>,
        start: u64,
    ) -> Result<(), String> {
        self.check_start(part, range, start)?;
        match from {
            Some(from) if from < start || from > range.end => {
                self.parts.entry(part).or_default().saw_start(start);
                Ok(())
            }
            _ => Err(format!("{from:?} is within {start}..{}", range.end)),
        }
    }

    /// The node died. `forgiven`: promises about the newest trims do not hold.
    pub fn crash(&mut self, ledger: &Ledger, forgiven: bool) {
        for model in self.parts.values_mut() {
            if forgiven {
                model.durable_start = 0;
            }
            let kept = model.records.iter().rev().find(|(_, (id, _))| {
                ledger.get(*id).is_ok_and(|w| w.fate == Fate::Open && !w.maybe_lost)
            });
            model.floor.end = kept.map_or(0, |(offset, _)| offset + 1);
            model.floor.start = model.durable_start;
        }
    }
}
