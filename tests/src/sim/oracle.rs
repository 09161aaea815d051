//! The oracle: what a correct node may answer.
//!
//! It hears every request when it is sent and every answer when it arrives, and every crash. An
//! answer that no correct node could give is a violation. What it holds nodes to:
//! - a write acknowledged at level `local` or above survives every crash; so does a write of any
//!   level that a reader has seen, acknowledged or not: readers see only what is durable;
//! - a read shows what was there when it began, or later; never bytes nobody wrote;
//! - a write is applied at most once, also when it is retried in a later life of the node; a
//!   refused write is not applied at all; a batch is applied whole;
//! - versions and offsets grow in the order of acknowledgements; none is given twice;
//! - after a crash a write that was not acknowledged is there or not, and stays so.

mod keys;
mod ledger;
mod sessions;
mod topics;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use ironring_core::{Durability, ErrorCode, PartitionId, TopicId};

pub use keys::{Seen, Window};
pub use ledger::{Bounds, Part, Write};
pub use topics::Range;

use crate::sim::op::{Condition, Key, Op, Outcome, Receipt, RequestId, Value, WriteId};
use keys::Keys;
use ledger::{Ledger, News, What};
use sessions::Sessions;
use topics::Topics;

/// An answer no correct node could give.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{request:?} {op}: {why}")]
pub struct Violation {
    /// The request.
    pub request: RequestId,
    /// What it asked for.
    pub op: String,
    /// Why the answer is wrong.
    pub why: String,
}

#[derive(Debug)]
struct Pending {
    op: Op,
    wall: u64,
    /// Floors of the keys concerned when the request was sent.
    floors: BTreeMap<Key, u64>,
    range: Range,
    listing: (Vec<String>, Vec<String>),
    /// The retry of a write that may have been applied.
    retry: bool,
}

/// See the module's description.
#[derive(Debug, Default)]
pub struct Oracle {
    ledger: Ledger,
    keys: Keys,
    topics: Topics,
    sessions: Sessions,
    pending: BTreeMap<RequestId, Pending>,
    /// Codes that need no further explanation in this run.
    pub tolerated: BTreeSet<ErrorCode>,
    forgiven: bool,
}

impl Oracle {
    /// A request is sent. A write with a known number is a retry.
    pub fn send(&mut self, request: RequestId, op: &Op, wall: u64) {
        let mut pending = Pending {
            op: op.clone(),
            wall,
            floors: BTreeMap::new(),
            range: Range::default(),
            listing: self.topics.listing(),
            retry: false,
        };
        if let Some(intent) = op.intent() {
            pending.retry = self.ledger.get(intent.id).is_ok();
            let what = match op {
                Op::Write { ops, .. } => What::Keys(ops.clone()),
                Op::Append { topic, index, lens, .. } => {
                    What::Append((*topic, *index), lens.clone())
                }
                Op::Trim { topic, index, before, .. } => What::Trim((*topic, *index), *before),
                _ => unreachable!("only writes have an intent"),
            };
            self.ledger.send(*intent, what, wall);
        }
        match op {
            Op::Write { intent, ops, .. } => {
                self.keys.send(intent.id, intent.partition, ops);
                for op in ops {
                    pending.floors.insert(op.key.clone(), self.keys.floor(&op.key));
                }
            }
            Op::Get { key } => {
                pending.floors.insert(key.clone(), self.keys.floor(key));
            }
            Op::MultiGet { keys, .. } => {
                pending.floors.extend(keys.iter().map(|k| (k.clone(), self.keys.floor(k))));
            }
            Op::Scan { partition, .. } => {
                let known =
                    self.keys.names().filter(|k| self.keys.partition(k) == Some(*partition));
                pending.floors.extend(known.map(|k| (k.clone(), self.keys.floor(k))));
            }
            Op::TopicCreate { name, .. } => self.topics.send_create(name),
            Op::TopicDelete { name } => self.topics.send_delete(name),
            Op::TopicRead { topic, index, .. } => {
                pending.range = self.topics.range((*topic, *index));
            }
            Op::Trim { topic, index, before, .. } => {
                pending.range = self.topics.range((*topic, *index));
                self.topics.send_trim((*topic, *index), *before);
            }
            Op::OpenSession | Op::TopicList | Op::Append { .. } => {}
        }
        self.pending.insert(request, pending);
    }

    /// The answer to a request arrived.
    ///
    /// # Errors
    /// When no correct node could have given it.
    pub fn answer(
        &mut self,
        request: RequestId,
        outcome: &Outcome,
        wall: u64,
    ) -> Result<(), Violation> {
        let pending = self.pending.remove(&request).expect("a request is answered once");
        self.judge(&pending, outcome, wall).map_err(|why| Violation {
            request,
            op: format!("{:?} -> {outcome:?}", pending.op),
            why,
        })
    }

    /// The client gave up on a request: whatever it asked for may have happened, or may happen
    /// still.
    pub fn abandon(&mut self, request: RequestId) {
        if let Some(pending) = self.pending.remove(&request)
            && let Some(intent) = pending.op.intent()
        {
            self.ledger.lost_sight(intent.id);
        }
    }

    /// Requests that wait for an answer.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// The node died. All requests it did not answer must have been abandoned.
    pub fn crash(&mut self) {
        assert!(self.pending.is_empty(), "a crash ends every request");
        self.ledger.crash();
        let forgiven = std::mem::take(&mut self.forgiven);
        self.keys.crash(&self.ledger, forgiven);
        self.topics.crash(&self.ledger, forgiven);
    }

    /// The node stopped when asked to: whatever it acknowledged, at any level, is durable.
    pub fn stopped_cleanly(&mut self) {
        self.ledger.promise_all();
    }

    /// What is promised at this moment, for [`Oracle::forgive`].
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        let mut bounds = self.ledger.bounds();
        bounds.sessions = self.sessions.count();
        bounds.topics = self.topics.count();
        bounds
    }

    /// The medium silently lost the newest writes, and nothing was written later that could tell:
    /// promises made since `bounds` about the partitions `concerned` do not hold. To be called
    /// just before [`Oracle::crash`].
    pub fn forgive(&mut self, bounds: &Bounds, concerned: impl Fn(PartitionId) -> bool) {
        self.ledger.forgive(bounds, &concerned);
        let ledger = &self.ledger;
        self.sessions.forgive(|p| concerned(p).then(|| ledger.bound(p)));
        if concerned(PartitionId::META) {
            self.sessions.forgive_opened_since(bounds.sessions);
            self.topics.forgive_changes_since(bounds.topics);
        }
        self.forgiven = true;
    }

    /// Keys that were ever written, in byte order.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.names()
    }

    /// Topic partitions to audit: those of topics that nobody asked to delete.
    pub fn parts(&self) -> impl Iterator<Item = Part> {
        self.topics.parts().filter(|(_, may_be_unknown)| !may_be_unknown).map(|(part, _)| part)
    }

    /// All writes of the run.
    pub fn writes(&self) -> impl Iterator<Item = &Write> {
        self.ledger.writes()
    }

    fn judge(&mut self, pending: &Pending, outcome: &Outcome, wall: u64) -> Result<(), String> {
        if let Outcome::Error { code, detail } = outcome {
            return self.judge_error(pending, *code, *detail, wall);
        }
        match (&pending.op, outcome) {
            (Op::OpenSession, Outcome::Session(id)) => self.sessions.opened(*id),
            (Op::Write { intent, .. }, Outcome::Receipt(receipt)) => {
                self.acked(intent.id, receipt, wall)
            }
            (Op::Trim { intent, topic, index, before }, Outcome::Receipt(receipt)) => {
                let durable = receipt.level >= Durability::Local;
                self.topics.trimmed((*topic, *index), *before, durable);
                self.acked(intent.id, receipt, wall)
            }
            (Op::Append { intent, lens, .. }, Outcome::Appended { receipt, first, count }) => {
                if *count as usize != lens.len() {
                    return Err(format!("{} records were sent", lens.len()));
                }
                self.acked(intent.id, receipt, wall)?;
                // Reads of a topic end where it is durable.
                let readable = receipt.level >= Durability::Local;
                self.topics.learned(&mut self.ledger, intent.id, *first, readable)
            }
            (Op::Get { key }, Outcome::Value(value)) => self.saw(pending, key, value, wall),
            (Op::MultiGet { keys, .. }, Outcome::Values(values)) => {
                if keys.len() != values.len() {
                    return Err(format!("{} keys were asked for", keys.len()));
                }
                keys.iter().zip(values).try_for_each(|(key, value)| match value {
                    Ok(value) => self.saw(pending, key, value, wall),
                    Err(ErrorCode::NotFound) => self.saw_nothing(pending, key, wall),
                    Err(code) => self.tolerate(*code),
                })
            }
            (Op::Scan { .. }, Outcome::Page { entries, more }) => {
                self.scanned(pending, entries, *more, wall)
            }
            (Op::TopicCreate { name, partitions, retain_bytes }, Outcome::Topic(id)) => {
                self.topics.created(name, *id, *partitions, *retain_bytes == 0)
            }
            (Op::TopicDelete { name }, Outcome::Topic(_)) => {
                self.topics.deleted(name);
                Ok(())
            }
            (Op::TopicList, Outcome::Topics(listed)) => {
                self.topics.listed(&pending.listing, listed)
            }
            (
                Op::TopicRead { topic, index, from, .. },
                Outcome::Records { records, start, end },
            ) => {
                let part = (*topic, *index);
                let ends = (*start, *end);
                self.topics.saw(&mut self.ledger, part, pending.range, *from, records, ends)
            }
            _ => Err("the answer does not belong to the question".to_owned()),
        }
    }

    fn window(&self, pending: &Pending, key: &Key, wall: u64) -> Window {
        let floor = pending.floors.get(key).copied().unwrap_or(0);
        Window { floor, begun: pending.wall, ended: wall }
    }

    fn saw(
        &mut self,
        pending: &Pending,
        key: &Key,
        value: &Value,
        wall: u64,
    ) -> Result<(), String> {
        let window = self.window(pending, key, wall);
        let seen = Seen {
            version: value.version,
            expires: Some(value.expires),
            bytes: Some(&value.bytes),
        };
        self.keys.saw(&mut self.ledger, key, window, seen).map_err(|why| named(key, &why))
    }

    fn saw_nothing(&mut self, pending: &Pending, key: &Key, wall: u64) -> Result<(), String> {
        let window = self.window(pending, key, wall);
        self.keys.saw_nothing(&mut self.ledger, key, window).map_err(|why| named(key, &why))
    }

    fn scanned(
        &mut self,
        pending: &Pending,
        entries: &[crate::sim::op::Entry],
        more: bool,
        wall: u64,
    ) -> Result<(), String> {
        let Op::Scan { prefix, after, limit, values, .. } = &pending.op else {
            unreachable!("only scans are judged here")
        };
        if *limit > 0 && entries.len() > *limit as usize {
            return Err(format!("{} entries; {limit} were asked for", entries.len()));
        }
        if entries.windows(2).any(|pair| pair[0].key >= pair[1].key) {
            return Err("the entries are not in order of key".to_owned());
        }
        for entry in entries {
            if !entry.key.starts_with(prefix) || (!after.is_empty() && entry.key <= *after) {
                return Err(format!("{} is outside the range", entry.key.escape_ascii()));
            }
            let key: Key = entry.key.as_slice().into();
            if *values != entry.value.is_some() {
                return Err("values are there, or not, against the request".to_owned());
            }
            let window = self.window(pending, &key, wall);
            let bytes = entry.value.as_deref();
            let seen = Seen { version: entry.version, expires: None, bytes };
            self.keys.saw(&mut self.ledger, &key, window, seen).map_err(|w| named(&key, &w))?;
        }
        let last = entries.last().map(|e| e.key.as_slice());
        if more && last.is_none() {
            return Err("an empty page says that there is more".to_owned());
        }
        let skipped: Vec<Key> = pending
            .floors
            .keys()
            .filter(|key| key.starts_with(prefix) && (after.is_empty() || ***key > **after))
            .filter(|key| !more || last.is_some_and(|last| ***key < *last))
            .filter(|key| !entries.iter().any(|e| *e.key == ***key))
            .cloned()
            .collect();
        skipped.iter().try_for_each(|key| self.saw_nothing(pending, key, wall))
    }

    fn acked(&mut self, id: WriteId, receipt: &Receipt, wall: u64) -> Result<(), String> {
        let news = self.ledger.receipt(id, receipt)?;
        self.spread(id, &news)?;
        self.keys.conditions(&self.ledger, id, receipt.offset, wall)?;
        if let Some((session, seq)) = self.ledger.get(id)?.intent.session
            && receipt.level >= Durability::Local
        {
            let offset = (receipt.offset > 0).then_some(receipt.offset);
            self.sessions.answered(session, receipt.partition, seq, offset);
        }
        Ok(())
    }

    fn spread(&mut self, id: WriteId, news: &News) -> Result<(), String> {
        self.keys.take(&self.ledger, news)?;
        match self.ledger.get(id)?.version {
            Some(version) => self.keys.learned(&self.ledger, id, version),
            None => Ok(()),
        }
    }

    fn tolerate(&self, code: ErrorCode) -> Result<(), String> {
        if self.tolerated.contains(&code) {
            return Ok(());
        }
        Err(format!("nothing explains the answer `{}`", code.name()))
    }

    fn judge_error(
        &mut self,
        pending: &Pending,
        code: ErrorCode,
        detail: u64,
        wall: u64,
    ) -> Result<(), String> {
        if let Some(intent) = pending.op.intent().copied() {
            self.refused(pending, &intent, code, detail, wall)?;
        }
        match (code, &pending.op) {
            (ErrorCode::NotFound, Op::Get { key }) => self.saw_nothing(pending, key, wall),
            (ErrorCode::ConditionFailed, Op::Write { .. })
            | (
                ErrorCode::SequenceGap | ErrorCode::SessionExpired | ErrorCode::Unknown,
                Op::Write { .. } | Op::Append { .. } | Op::Trim { .. },
            ) => Ok(()),
            (ErrorCode::OffsetOutOfRange, Op::TopicRead { topic, index, from, .. }) => {
                self.topics.out_of_range((*topic, *index), pending.range, *from, detail)
            }
            (ErrorCode::OffsetOutOfRange, Op::Trim { before, .. })
                if *before > pending.range.end =>
            {
                Ok(())
            }
            (ErrorCode::UnknownTopic, Op::TopicDelete { name })
                if self.topics.may_be_absent(name) =>
            {
                Ok(())
            }
            (
                ErrorCode::UnknownTopic,
                Op::TopicRead { topic, .. } | Op::Append { topic, .. } | Op::Trim { topic, .. },
            ) if self.topics.may_be_unknown(*topic) => Ok(()),
            _ => self.tolerate(code),
        }
    }

    fn refused(
        &mut self,
        pending: &Pending,
        intent: &crate::sim::op::Intent,
        code: ErrorCode,
        detail: u64,
        wall: u64,
    ) -> Result<(), String> {
        let id = intent.id;
        match (code, intent.session) {
            (ErrorCode::Unknown, _) => {
                self.ledger.lost_sight(id);
                return Ok(());
            }
            (ErrorCode::SequenceGap, Some((session, seq))) => {
                self.sessions.gap(session, intent.partition, seq, detail)?;
            }
            (ErrorCode::SessionExpired, Some((session, _))) => self.sessions.expired(session)?,
            _ => {}
        }
        let final_answer = code == ErrorCode::ConditionFailed;
        self.ledger.refuse(id, final_answer)?;
        let Op::Write { ops, .. } = &pending.op else { return Ok(()) };
        if !self.ledger.get(id)?.possible() {
            self.keys.refused(id, ops);
        }
        if !final_answer {
            return Ok(());
        }
        if let Some((session, seq)) = intent.session
            && intent.level >= Durability::Local
        {
            self.sessions.answered(session, intent.partition, seq, None);
        }
        match ops.as_slice() {
            [op] if !pending.retry => self.condition_failed(pending, op, detail, wall),
            _ => Ok(()),
        }
    }

    /// A failed condition tells the version it found: that is a read.
    fn condition_failed(
        &mut self,
        pending: &Pending,
        op: &crate::sim::op::KeyOp,
        found: u64,
        wall: u64,
    ) -> Result<(), String> {
        let held = match op.condition {
            Condition::None => true,
            Condition::Absent => found == 0,
            Condition::Version(expected) => found == expected,
        };
        if held {
            return Err(format!("the condition failed although {found} was found"));
        }
        if found == 0 {
            return self.saw_nothing(pending, &op.key, wall);
        }
        let window = self.window(pending, &op.key, wall);
        let seen = Seen { version: found, expires: None, bytes: None };
        self.keys.saw(&mut self.ledger, &op.key, window, seen).map_err(|why| named(&op.key, &why))
    }

    /// Ids of topics that exist for certain.
    #[must_use]
    pub fn topic_is_there(&self, id: TopicId) -> bool {
        !self.topics.may_be_unknown(id)
    }
}

fn named(key: &[u8], why: &str) -> String {
    format!("key {:?}: {why}", Key::from(key))
}
