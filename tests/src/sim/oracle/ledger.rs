//! Every write of a run and what is known about it, and per partition the promise that must not be
//! broken: the offset up to which everything survives any crash.
//!
//! The rule all checks build on: one partition's records are in one log in order of offset, so what
//! a crash leaves is a prefix. If the record at offset n survives, all smaller offsets do.

use std::collections::BTreeMap;

use ironring_core::{Durability, PartitionId, TopicId};

use crate::sim::op::{Intent, KeyOp, Receipt, WriteId};

/// Names a topic partition.
pub type Part = (TopicId, u32);

/// What a write would change.
#[derive(Clone, Debug)]
pub enum What {
    /// Keys.
    Keys(Vec<KeyOp>),
    /// Appends records of these lengths.
    Append(Part, Vec<u32>),
    /// Drops records before an offset.
    Trim(Part, u64),
}

/// Whether a write may still turn out to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It may, or it was.
    Open,
    /// The node said that nothing was changed.
    Refused,
    /// It was applied and a crash took it; it must not come back.
    Lost,
}

/// One write.
#[derive(Clone, Debug)]
pub struct Write {
    /// Its number, partition, level and session.
    pub intent: Intent,
    /// What it changes.
    pub what: What,
    /// See [`Fate`].
    pub fate: Fate,
    /// The life of the node in which it was first sent.
    pub first_epoch: u32,
    /// The life in which it was last sent.
    pub last_epoch: u32,
    /// Wall time when it was first sent, in milliseconds.
    pub first_wall: u64,
    /// How often it was sent.
    pub attempts: u32,
    /// An attempt ended without an answer that says whether it was applied.
    pub uncertain: bool,
    /// The offset of its (last) record, once known.
    pub version: Option<u64>,
    /// For an append, the topic offset of its first record, once known.
    pub topic_first: Option<u64>,
    /// Promised to survive whatever its offset is.
    pub durable: bool,
    /// A crash may have taken it: nobody has looked since.
    pub maybe_lost: bool,
    /// Its offset must be larger than this.
    after: u64,
}

impl Write {
    /// Whether its effect was seen, or may be there without having been seen.
    #[must_use]
    pub fn possible(&self) -> bool {
        self.fate == Fate::Open
    }

    /// How many offsets it takes: a batch has one record per operation.
    #[must_use]
    pub fn span(&self) -> u64 {
        match &self.what {
            What::Keys(ops) => ops.len() as u64,
            What::Append(..) | What::Trim(..) => 1,
        }
    }

    /// The version operation `index` has when the write's last record is at `version`.
    #[must_use]
    pub fn version_of(&self, index: usize, version: u64) -> u64 {
        version.saturating_sub(self.span() - 1 - index as u64)
    }

    /// Whether its effect was seen or acknowledged.
    #[must_use]
    pub fn seen(&self) -> bool {
        self.version.is_some() || self.topic_first.is_some()
    }
}

/// What is promised about a partition.
#[derive(Clone, Debug, Default)]
struct Partition {
    /// Everything up to this offset survives.
    bound: u64,
    /// `bound` when this life began.
    start_bound: u64,
    /// Largest offset acknowledged in this life.
    end_seen: u64,
    /// Smallest offset of a write first sent in this life.
    epoch_first: Option<u64>,
    term: u64,
    by_version: BTreeMap<u64, WriteId>,
}

/// Promises at one moment; see [`Ledger::forgive`].
#[derive(Clone, Debug)]
pub struct Bounds {
    offsets: BTreeMap<PartitionId, u64>,
    /// How many sessions were opened.
    pub(super) sessions: usize,
    /// How many changes of the list of topics were acknowledged.
    pub(super) topics: usize,
}

/// What a check found out, for the models of keys and topics to take over.
#[derive(Debug, Default)]
pub struct News {
    /// Writes that survived the last crash.
    pub survived: Vec<WriteId>,
    /// Writes that did not.
    pub lost: Vec<WriteId>,
}

/// All writes of a run.
#[derive(Debug, Default)]
pub struct Ledger {
    epoch: u32,
    writes: BTreeMap<WriteId, Write>,
    partitions: BTreeMap<PartitionId, Partition>,
}

impl Ledger {
    /// Which life of the node this is.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// A write by its number.
    ///
    /// # Errors
    /// When nobody ever sent it.
    pub fn get(&self, id: WriteId) -> Result<&Write, String> {
        self.writes.get(&id).ok_or_else(|| format!("nobody ever sent {id:?}"))
    }

    /// Every write, in order of number.
    pub fn writes(&self) -> impl Iterator<Item = &Write> {
        self.writes.values()
    }

    /// A write is sent, for the first time or again.
    pub fn send(&mut self, intent: Intent, what: What, wall: u64) {
        let after = self.partitions.entry(intent.partition).or_default().end_seen;
        let epoch = self.epoch;
        let write = self.writes.entry(intent.id).or_insert_with(|| Write {
            intent,
            what,
            fate: Fate::Open,
            first_epoch: epoch,
            last_epoch: epoch,
            first_wall: wall,
            attempts: 0,
            uncertain: false,
            version: None,
            topic_first: None,
            durable: false,
            maybe_lost: false,
            after,
        });
        if write.fate == Fate::Refused {
            // Refused, and sent again: only this attempt can apply it.
            write.fate = Fate::Open;
            write.after = after;
        }
        write.attempts += 1;
        write.last_epoch = epoch;
    }

    /// An attempt ended and nobody knows how.
    pub fn lost_sight(&mut self, id: WriteId) {
        if let Some(write) = self.writes.get_mut(&id) {
            write.uncertain = true;
        }
    }

    /// The node says that this attempt changed nothing. `final_answer`: not only this attempt, but
    /// the write as such (its session remembers).
    ///
    /// # Errors
    /// When its effect was seen all the same.
    pub fn refuse(&mut self, id: WriteId, final_answer: bool) -> Result<(), String> {
        let write = self.writes.get_mut(&id).expect("only sent writes are answered");
        if write.uncertain && !final_answer {
            return Ok(());
        }
        if write.seen() && !write.maybe_lost {
            return Err(format!("{id:?} was refused, and applied at {:?}", write.version));
        }
        write.fate = Fate::Refused;
        Ok(())
    }

    /// The write's record is at `version`: a receipt or a read says so.
    ///
    /// # Errors
    /// When that contradicts what was known.
    pub fn learn(&mut self, id: WriteId, version: u64) -> Result<News, String> {
        self.place(id, version, false)
    }

    /// As [`Ledger::learn`]; `applied_now` when it is known that this life applied it.
    fn place(&mut self, id: WriteId, version: u64, applied_now: bool) -> Result<News, String> {
        let epoch = self.epoch;
        let write = self.writes.get_mut(&id).ok_or_else(|| format!("nobody ever sent {id:?}"))?;
        match write.fate {
            Fate::Open => {}
            Fate::Refused => return Err(format!("{id:?} was refused, and is at {version}")),
            Fate::Lost => return Err(format!("{id:?} was lost in a crash, and is back")),
        }
        let partition = self.partitions.entry(write.intent.partition).or_default();
        match write.version {
            Some(known) if known != version && write.maybe_lost && applied_now => {
                // What the earlier life wrote is gone, and this one applied it anew.
                partition.by_version.remove(&known);
                write.version = Some(version);
                write.maybe_lost = false;
            }
            Some(known) if known != version => {
                return Err(format!("{id:?} was applied at {known} and again at {version}"));
            }
            Some(_) if !write.maybe_lost => return Ok(News::default()),
            Some(_) => {}
            None => {
                if version < write.after + write.span() {
                    let after = write.after;
                    return Err(format!("{id:?} is at {version}, sent after {after} was acked"));
                }
                if write.last_epoch < epoch && partition.epoch_first.is_some_and(|f| version >= f) {
                    return Err(format!("{id:?} was applied at {version}, after a crash ended it"));
                }
                write.version = Some(version);
            }
        }
        let fresh = applied_now || write.first_epoch == epoch;
        let mut news = News::default();
        if fresh {
            write.maybe_lost = false;
            if version <= partition.start_bound {
                let bound = partition.start_bound;
                return Err(format!("{id:?} got offset {version}; {bound} had been promised"));
            }
            partition.epoch_first = Some(partition.epoch_first.unwrap_or(version).min(version));
        } else {
            news.survived = self.survivors(id, version);
        }
        news.lost = self.overtaken(id, version, fresh);
        let partition = self.partitions.entry(self.writes[&id].intent.partition).or_default();
        if let Some(other) = partition.by_version.insert(version, id)
            && other != id
        {
            return Err(format!("{id:?} and {other:?} are both at offset {version}"));
        }
        Ok(news)
    }

    /// Writes of earlier lives whose offset this one took, or a smaller one: they are gone.
    fn overtaken(&mut self, id: WriteId, version: u64, fresh: bool) -> Vec<WriteId> {
        let write = &self.writes[&id];
        let partition = write.intent.partition;
        let mut since = if fresh { self.epoch } else { write.first_epoch };
        if let Some((other, _)) = self.at(partition, version)
            && other != id
            && self.writes[&other].maybe_lost
        {
            since = since.max(self.writes[&other].last_epoch + 1);
        }
        let mut gone = self.undecided(partition, version..=u64::MAX);
        gone.retain(|other| *other != id && self.writes[other].last_epoch < since);
        self.drop_lost(&gone);
        gone
    }

    /// A record of an earlier life is there, so all that life wrote before it are.
    fn survivors(&mut self, id: WriteId, version: u64) -> Vec<WriteId> {
        let (partition, until) = (self.writes[&id].intent.partition, self.writes[&id].last_epoch);
        let mut there = self.undecided(partition, 0..=version);
        there.retain(|other| self.writes[other].first_epoch >= until);
        if self.writes[&id].maybe_lost && !there.contains(&id) {
            there.push(id);
        }
        for id in &there {
            self.writes.get_mut(id).expect("listed").maybe_lost = false;
        }
        there
    }

    fn undecided(
        &self,
        partition: PartitionId,
        versions: std::ops::RangeInclusive<u64>,
    ) -> Vec<WriteId> {
        let Some(partition) = self.partitions.get(&partition) else { return Vec::new() };
        let known = partition.by_version.range(versions).map(|(_, id)| *id);
        known.filter(|id| self.writes[id].maybe_lost).collect()
    }

    /// Somebody looked, and this write is not there: it is gone, and so is all that was written
    /// after it before the crash that took it.
    pub fn not_there(&mut self, id: WriteId) -> Vec<WriteId> {
        let write = &self.writes[&id];
        let (partition, until) = (write.intent.partition, write.last_epoch);
        let version = write.version.expect("only writes with a known place are missed");
        let mut gone = self.undecided(partition, version..=u64::MAX);
        gone.retain(|other| self.writes[other].last_epoch <= until);
        self.drop_lost(&gone);
        gone
    }

    /// These writes are gone for good.
    pub fn drop_lost(&mut self, gone: &[WriteId]) {
        for id in gone {
            let write = self.writes.get_mut(id).expect("listed");
            write.fate = Fate::Lost;
            write.maybe_lost = false;
            let partition = self.partitions.entry(write.intent.partition).or_default();
            if let Some(version) = write.version {
                partition.by_version.remove(&version);
            }
        }
    }

    /// The topic offset of an append's first record.
    ///
    /// # Errors
    /// When it was another one before.
    pub fn learn_first(&mut self, id: WriteId, first: u64) -> Result<(), String> {
        let write = self.writes.get_mut(&id).ok_or_else(|| format!("nobody ever sent {id:?}"))?;
        match (write.fate, write.topic_first) {
            (Fate::Refused, _) => Err(format!("{id:?} was refused, and is at {first}")),
            (Fate::Lost, _) => Err(format!("{id:?} was lost in a crash, and is back")),
            (_, Some(known)) if known != first => {
                Err(format!("{id:?} was appended at {known} and again at {first}"))
            }
            _ => {
                write.topic_first = Some(first);
                write.maybe_lost = false;
                Ok(())
            }
        }
    }

    /// A receipt: checks it against the write and takes its promise.
    ///
    /// # Errors
    /// When the receipt contradicts the request.
    pub fn receipt(&mut self, id: WriteId, receipt: &Receipt) -> Result<News, String> {
        let write = self.get(id)?;
        let intent = write.intent;
        if receipt.level < intent.level {
            return Err(format!("{id:?} asked for {:?}: {receipt:?}", intent.level));
        }
        if receipt.partition != intent.partition {
            return Err(format!("{id:?} belongs to {}: {receipt:?}", intent.partition));
        }
        if receipt.duplicate && write.attempts < 2 {
            return Err(format!("{id:?} was sent once: {receipt:?}"));
        }
        let news = self.place(id, receipt.offset, !receipt.duplicate)?;
        let partition = self.partitions.entry(intent.partition).or_default();
        if receipt.term < partition.term && !receipt.duplicate {
            return Err(format!("term went back from {}: {receipt:?}", partition.term));
        }
        partition.term = partition.term.max(receipt.term);
        partition.end_seen = partition.end_seen.max(receipt.offset);
        if receipt.level >= Durability::Local {
            self.promise(id);
        }
        Ok(news)
    }

    /// The write must survive from here on: it was acknowledged as durable, or a reader saw it and
    /// its writer asked for durability.
    pub fn promise(&mut self, id: WriteId) {
        let write = self.writes.get_mut(&id).expect("only sent writes are promised");
        write.durable = true;
        if let Some(version) = write.version {
            let partition = self.partitions.entry(write.intent.partition).or_default();
            partition.bound = partition.bound.max(version);
        }
    }

    /// Whatever was acknowledged or seen must survive.
    pub fn promise_all(&mut self) {
        let there = self.writes.values().filter(|w| w.possible() && w.seen() && !w.maybe_lost);
        let there: Vec<WriteId> = there.map(|w| w.intent.id).collect();
        there.into_iter().for_each(|id| self.promise(id));
    }

    /// Everything in this partition up to this offset survives.
    #[must_use]
    pub fn bound(&self, partition: PartitionId) -> u64 {
        self.partitions.get(&partition).map_or(0, |p| p.bound)
    }

    /// The write with a record at this offset, and which of its operations that is, when known.
    #[must_use]
    pub fn at(&self, partition: PartitionId, version: u64) -> Option<(WriteId, usize)> {
        let (last, id) = self.partitions.get(&partition)?.by_version.range(version..).next()?;
        let index = self.writes[id].span().checked_sub(1 + last - version)?;
        Some((*id, index as usize))
    }

    /// The promises of this moment.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        let offsets = self.partitions.iter().map(|(id, p)| (*id, p.bound)).collect();
        Bounds { offsets, sessions: 0, topics: 0 }
    }

    /// The medium silently lost the newest writes and nothing written later could tell: promises
    /// made since `bounds` do not hold. To be called before [`Ledger::crash`].
    pub fn forgive(&mut self, bounds: &Bounds, concerned: impl Fn(PartitionId) -> bool) {
        for (id, partition) in self.partitions.iter_mut().filter(|(id, _)| concerned(**id)) {
            partition.bound = partition.bound.min(bounds.offsets.get(id).copied().unwrap_or(0));
        }
        for write in self.writes.values_mut().filter(|w| concerned(w.intent.partition)) {
            let bound = self.partitions[&write.intent.partition].bound;
            if write.version.is_none_or(|v| v > bound) {
                write.durable = false;
            }
        }
    }

    /// The node died: what was not promised may be gone.
    pub fn crash(&mut self) {
        self.epoch += 1;
        for partition in self.partitions.values_mut() {
            partition.start_bound = partition.bound;
            partition.end_seen = partition.bound;
            partition.epoch_first = None;
        }
        for write in self.writes.values_mut().filter(|w| w.fate == Fate::Open) {
            let bound = self.partitions[&write.intent.partition].bound;
            write.after = write.after.min(bound);
            // An offset below the bound keeps a write only if it was still there when the bound was
            // promised: after a crash nobody has looked into, another may have its place.
            let there = !write.maybe_lost && write.version.is_some_and(|v| v <= bound);
            write.maybe_lost = write.seen() && !write.durable && !there;
        }
    }
}
