//! A log of the simplest kind: records in commit groups, some of them durable.

use ironring_core::{GroupSeq, Offset, Term};
use ironring_ring::replication::{Recovered, TermStarts};

/// What a user wrote; 0 is the entry that begins a term.
pub type Payload = u64;

/// An entry of a partition.
pub type Entry = (Term, Payload);

/// A record of the log, of the partition with that number.
#[derive(Clone, Copy, Debug)]
pub enum Record {
    /// An entry at an offset, and the high watermark that was known when it was written.
    Entry(usize, Offset, Entry, Offset),
    /// A promise of a term.
    Promise(usize, Term),
    /// What is at the offset and behind is gone.
    Cut(usize, Offset),
    /// The partition begins a new life, empty.
    Adopt(usize, u64),
    /// Damage was filled.
    Repaired(usize),
}

/// One partition as a fold of records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Entry `i` has offset `i + 1`.
    pub entries: Vec<Entry>,
    /// The highest term promised or written.
    pub promised: Term,
    /// A high watermark known when something was written.
    pub high_watermark: Offset,
    /// Its life.
    pub life: Option<u64>,
    /// See [`Recovered::damaged_below`].
    pub damaged_below: Option<Offset>,
}

impl Part {
    /// Behind the last entry.
    pub fn end(&self) -> Offset {
        Offset(self.entries.len() as u64 + 1)
    }

    /// The entry at an offset.
    pub fn at(&self, offset: Offset) -> Option<&Entry> {
        self.entries.get(offset.0.checked_sub(1)? as usize)
    }

    /// What the engine is told when it starts.
    pub fn recovered(&self) -> Recovered {
        let mut terms = TermStarts::default();
        for (i, (term, _)) in self.entries.iter().enumerate() {
            terms.append(*term, Offset(i as u64 + 1));
        }
        Recovered {
            life: self.life,
            start: Offset::FIRST,
            end: self.end(),
            terms,
            promised: self.promised,
            high_watermark: self.high_watermark.clamp(Offset::FIRST, self.end()),
            damaged_below: self.damaged_below,
        }
    }
}

/// Folds one record.
pub fn fold(parts: &mut [Part], record: &Record) {
    match *record {
        Record::Entry(partition, offset, entry, high_watermark) => {
            let part = &mut parts[partition];
            assert_eq!(offset, part.end(), "entries follow each other");
            part.entries.push(entry);
            part.promised = part.promised.max(entry.0);
            part.high_watermark = part.high_watermark.max(high_watermark);
        }
        Record::Promise(partition, term) => {
            parts[partition].promised = parts[partition].promised.max(term);
        }
        Record::Cut(partition, end) => parts[partition].entries.truncate(end.0 as usize - 1),
        Record::Adopt(partition, life) => {
            let promised = parts[partition].promised;
            parts[partition] = Part { life: Some(life), promised, ..Part::default() };
        }
        Record::Repaired(partition) => parts[partition].damaged_below = None,
    }
}

/// A disk and what is on its way to it.
#[derive(Clone, Debug)]
pub struct Disk {
    /// What survives.
    pub durable: Vec<Part>,
    /// What partitions held in lives that ended here.
    pub ended: Vec<(usize, Part)>,
    /// Groups that are not durable: one may be in flight, one is staged.
    waiting: Vec<(GroupSeq, Record)>,
    /// The group that records join.
    pub staged: GroupSeq,
    /// The group being written.
    pub in_flight: Option<GroupSeq>,
}

impl Disk {
    /// An empty one.
    pub fn new(partitions: usize) -> Disk {
        Disk {
            durable: vec![Part::default(); partitions],
            ended: Vec::new(),
            waiting: Vec::new(),
            staged: GroupSeq(1),
            in_flight: None,
        }
    }

    /// Adds a record; the group it is in.
    pub fn append(&mut self, record: Record) -> GroupSeq {
        self.waiting.push((self.staged, record));
        self.staged
    }

    /// Begins to write the staged group, if there is one and none is being written.
    pub fn seal(&mut self) -> Option<GroupSeq> {
        if self.in_flight.is_some() || self.waiting.is_empty() {
            return None;
        }
        self.in_flight = Some(self.staged);
        self.staged = self.staged.next();
        self.in_flight
    }

    /// The group in flight is durable.
    pub fn complete(&mut self) -> GroupSeq {
        let group = self.in_flight.take().expect("a group was being written");
        let done = self.waiting.partition_point(|(g, _)| *g <= group);
        for (_, record) in self.waiting.drain(..done) {
            if let Record::Adopt(p, _) = record {
                self.ended.push((p, self.durable[p].clone()));
            }
            fold(&mut self.durable, &record);
        }
        group
    }

    /// The process dies. The group in flight is on the disk or not; what was staged is lost.
    pub fn crash(&mut self, in_flight_survives: bool) {
        if self.in_flight.is_some() && in_flight_survives {
            self.complete();
        }
        self.in_flight = None;
        self.waiting.clear();
    }
}
