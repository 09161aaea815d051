//! Writes of keys: put, delete, atomic batch.

use ironring_core::limits::{CHUNK_BYTES, RECORD_BYTES_MAX};
use ironring_core::{
    Durability, ErrorCode, Now, Offset, PartitionId, SessionId, Term, Token, WallTime,
};
use ironring_log::{AppendError, Appended, Priority, Record, RecordKind};
use ironring_net::list::BatchList;
use ironring_net::message::{BatchOp, Condition, Receipt, WriteOptions};

use super::acks::{Answer, Level};
use super::event::Effects;
use ironring_ring::placement::MAX_NODES;

use super::meta::SESSIONS_PER_GRANT;
use super::partition::MORE;
use super::sessions::{Outcome, Remembered, Verdict};
use super::{Ask, Phase, Shard};

/// A record header and key take less than this; for reserving room in a group.
const RECORD_OVERHEAD_BYTES: usize = 128;

/// What distinguishes one record from the next; the rest follows from the partition.
pub(super) struct Draft<'a> {
    pub kind: RecordKind,
    pub flags: u8,
    pub session: SessionId,
    pub sequence: u64,
    pub expires: WallTime,
    pub key: &'a [u8],
    pub body: &'a [u8],
}

impl Shard {
    /// Appends a record to a partition, where it waits to be committed.
    pub(super) fn append(
        &mut self,
        now: Now,
        partition: PartitionId,
        draft: &Draft<'_>,
        priority: Priority,
    ) -> Result<(Appended, Offset), AppendError> {
        let (term, offset) = self.next_place(now, partition)?;
        let record = Record {
            kind: draft.kind,
            flags: draft.flags,
            partition,
            term,
            offset,
            session: draft.session,
            sequence: draft.sequence,
            time: now.wall,
            expires: draft.expires,
            key: draft.key,
            body: draft.body,
        };
        let appended = self.log.append(&record, priority)?;
        self.models.appended(appended.location, &record);
        if partition != PartitionId::META {
            self.engine().appended(partition, offset.next(), appended.group);
        }
        Ok((appended, offset))
    }

    /// Term and offset of the next record of a partition.
    fn next_place(
        &mut self,
        now: Now,
        partition: PartitionId,
    ) -> Result<(Term, Offset), AppendError> {
        if partition == PartitionId::META {
            self.begin_term(now, partition)?;
            let p = self.models.peek(partition);
            return Ok((p.term, p.log_end));
        }
        // Whether it leads was asked when the request came, in this turn or, of a large value, before.
        self.engine().next_place(partition).map_err(|_| AppendError::Closed)
    }

    /// The first record of a run begins a new term in the partition of the node's own definitions.
    fn begin_term(&mut self, now: Now, partition: PartitionId) -> Result<(), AppendError> {
        let p = self.models.partition(partition);
        if p.term_started {
            return Ok(());
        }
        let record = Record {
            kind: RecordKind::TermStart,
            flags: 0,
            partition,
            term: ironring_core::Term(p.term.0 + 1),
            offset: p.log_end,
            session: SessionId::NONE,
            sequence: 0,
            time: now.wall,
            expires: WallTime(0),
            key: &[],
            body: &[],
        };
        let appended = self.log.append(&record, Priority::Reserve)?;
        self.models.appended(appended.location, &record);
        self.models.partition(partition).term_started = true;
        Ok(())
    }

    /// Judges a request of a session; `None` when it was answered here.
    pub(super) fn judge(
        &mut self,
        now: Now,
        ask: Ask,
        partition: PartitionId,
        options: &WriteOptions,
        fx: &mut Effects,
    ) -> Option<()> {
        if !Shard::in_session(options) {
            return Some(());
        }
        let Some(meta) = &self.models.meta else {
            // Shard 0 is recovering still: any number may be one it gave out in an earlier run.
            let why = "the metadata have not arrived yet";
            self.refuse(ask.origin, ErrorCode::NotReady, 0, why, fx);
            return None;
        };
        let granted = meta.sessions_granted;
        // Another shard hears of a grant a moment after shard 0 gave a number out of it.
        let unheard = match (self.config.alone, self.models.holds_meta()) {
            (true, true) => 0,
            (true, false) => 2 * SESSIONS_PER_GRANT,
            // Every node may have been granted some since this one heard of any.
            (false, _) => 2 * SESSIONS_PER_GRANT * MAX_NODES as u64,
        };
        if options.session.0 > granted.saturating_add(unheard) {
            // Numbers nobody was given would push out the sessions of others.
            let why = "no such session was opened";
            self.refuse(ask.origin, ErrorCode::SessionExpired, 0, why, fx);
            return None;
        }
        if options.session.0 > granted {
            let why = "the session is not known here (yet)";
            self.refuse(ask.origin, ErrorCode::NotReady, 0, why, fx);
            return None;
        }
        let (code, detail, why) =
            match self.models.peek(partition).judge(options.session, options.sequence) {
                Verdict::Evaluate => return Some(()),
                Verdict::Duplicate(first) => {
                    self.answer_again(now, ask, partition, options, first, fx);
                    return None;
                }
                Verdict::InProgress => {
                    (ErrorCode::Overloaded, 10, "the first attempt is still being worked on")
                }
                // An old leader lacks what came after it: a client that believes in a gap repeats what
                // may have been applied.
                Verdict::Gap(_) if !self.leads_for_certain(now, partition, fx) => {
                    (ErrorCode::NotLeader, 0, "this replica may not lead the partition any more")
                }
                Verdict::Gap(expected) => (
                    ErrorCode::SequenceGap,
                    expected,
                    "an earlier request of the session has not arrived",
                ),
                Verdict::TooOld => (
                    ErrorCode::SequenceTooOld,
                    0,
                    "the receipt of this request is not kept any more",
                ),
                Verdict::Expired => (ErrorCode::SessionExpired, 0, "the session is not known"),
            };
        self.refuse(ask.origin, code, detail, why, fx);
        None
    }

    /// The first receipt again, once it is committed.
    fn answer_again(
        &mut self,
        now: Now,
        ask: Ask,
        partition: PartitionId,
        options: &WriteOptions,
        first: Remembered,
        fx: &mut Effects,
    ) {
        self.counters.duplicates += 1;
        let receipt = Receipt {
            durability: options.durability.max(Durability::Local),
            partition,
            term: first.term,
            offset: first.offset,
            duplicate: true,
        };
        let answer = match first.outcome {
            Outcome::Written => Answer::Receipt(receipt),
            Outcome::ConditionFailed(version) => Answer::ConditionFailed(version),
            Outcome::Appended { index, first, count } => {
                Answer::Appended { receipt, index, first, count }
            }
        };
        let level = level_of(receipt.durability);
        self.answer_after(now, level, (partition, first.offset), ask, answer, fx);
    }

    /// Answers a write when its record is as safe as was asked for: at once for `async`.
    pub(super) fn acknowledge_write(
        &mut self,
        now: Now,
        ask: Ask,
        durability: Durability,
        (partition, offset): (PartitionId, Offset),
        answer: Answer,
        fx: &mut Effects,
    ) {
        let offset = if durability == Durability::Async { Offset::NONE } else { offset };
        self.answer_after(now, level_of(durability), (partition, offset), ask, answer, fx);
    }

    pub(super) fn receipt(
        &self,
        options: &WriteOptions,
        partition: PartitionId,
        offset: Offset,
    ) -> Receipt {
        Receipt {
            durability: options.durability,
            partition,
            term: self.models.peek(partition).term,
            offset,
            duplicate: false,
        }
    }

    /// Refuses a write the log does not take.
    pub(super) fn refuse_append(&mut self, ask: Ask, error: AppendError, fx: &mut Effects) {
        let (code, detail) = match error {
            AppendError::Overloaded => (ErrorCode::Overloaded, 5),
            AppendError::NoSpace => (ErrorCode::NoSpace, 0),
            AppendError::TooLarge => (ErrorCode::TooLarge, 0),
            AppendError::Closed if self.phase == Phase::Serving => (ErrorCode::NotLeader, 0),
            AppendError::Closed => (ErrorCode::ShardFenced, 0),
        };
        self.refuse(ask.origin, code, detail, &error.to_string(), fx);
    }

    /// The version a condition is compared with: [`Offset::NONE`] when the key does not exist.
    pub(super) fn current_version(&self, now: Now, partition: PartitionId, key: &[u8]) -> Offset {
        self.models.peek(partition).newest_version(key, now.wall)
    }

    /// A condition that does not hold, answered when the version that was seen is committed. In a
    /// session the answer is remembered like any other. It tells what is there, as a read does: when that
    /// is committed already, it takes a lease, or an entry that can only be committed by who leads.
    pub(super) fn condition_failed(
        &mut self,
        now: Now,
        ask: Ask,
        options: &WriteOptions,
        partition: PartitionId,
        seen: Offset,
        fx: &mut Effects,
    ) {
        if !Shard::in_session(options) {
            // Absence may be a delete that is on its way.
            let after = match seen {
                Offset::NONE => Offset(self.models.peek(partition).log_end.0 - 1),
                seen => seen,
            };
            // What is on its way is committed by this leader, or never.
            let on_its_way = after >= self.models.peek(partition).applied_end;
            if on_its_way || self.leads_for_certain(now, partition, fx) {
                let answer = Answer::ConditionFailed(seen);
                return self.answer_after(now, Level::Applied, (partition, after), ask, answer, fx);
            }
        }
        let body = seen.0.to_le_bytes();
        let draft = Draft {
            kind: RecordKind::SessionMark,
            flags: 0,
            session: options.session,
            sequence: options.sequence,
            expires: WallTime(0),
            key: &[],
            body: &body,
        };
        match self.append(now, partition, &draft, Priority::Reserve) {
            Ok((_, offset)) => {
                let answer = Answer::ConditionFailed(seen);
                self.answer_after(now, Level::Applied, (partition, offset), ask, answer, fx);
            }
            Err(error) => self.refuse_append(ask, error, fx),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one request, used once")]
    pub(super) fn put(
        &mut self,
        now: Now,
        ask: Ask,
        partition: PartitionId,
        options: &WriteOptions,
        condition: Condition,
        ttl_ms: u64,
        key: &[u8],
        value: &[u8],
        fx: &mut Effects,
    ) {
        if self.judge(now, ask, partition, options, fx).is_none() {
            return;
        }
        if condition != Condition::None {
            let seen = self.current_version(now, partition, key);
            if !holds(condition, seen) {
                return self.condition_failed(now, ask, options, partition, seen, fx);
            }
        }
        if !self.has_memory_for(key) && self.models.peek(partition).keys.get(key).is_none() {
            let why = "the memory ceiling is reached: new keys are refused";
            return self.refuse(ask.origin, ErrorCode::MemoryFull, 0, why, fx);
        }
        let expires = expires_at(now, ttl_ms);
        if value.len() > CHUNK_BYTES {
            let put = super::uploads::LargePut { options: *options, condition, expires };
            return self.begin_upload(now, ask, partition, put, key, value, fx);
        }
        let draft = Draft {
            kind: RecordKind::Put,
            flags: 0,
            session: options.session,
            sequence: options.sequence,
            expires,
            key,
            body: value,
        };
        match self.append(now, partition, &draft, Priority::User) {
            Ok((_, offset)) => {
                let answer = Answer::Receipt(self.receipt(options, partition, offset));
                let place = (partition, offset);
                self.acknowledge_write(now, ask, options.durability, place, answer, fx);
            }
            Err(error) => self.refuse_append(ask, error, fx),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one request, used once")]
    pub(super) fn delete(
        &mut self,
        now: Now,
        ask: Ask,
        partition: PartitionId,
        options: &WriteOptions,
        condition: Condition,
        key: &[u8],
        fx: &mut Effects,
    ) {
        if self.judge(now, ask, partition, options, fx).is_none() {
            return;
        }
        let seen = self.current_version(now, partition, key);
        if !holds(condition, seen) {
            return self.condition_failed(now, ask, options, partition, seen, fx);
        }
        let draft = Draft {
            kind: RecordKind::Delete,
            flags: 0,
            session: options.session,
            sequence: options.sequence,
            expires: WallTime(0),
            key,
            body: &[],
        };
        match self.append(now, partition, &draft, Priority::Reserve) {
            Ok((_, offset)) => {
                let answer = Answer::Receipt(self.receipt(options, partition, offset));
                let place = (partition, offset);
                self.acknowledge_write(now, ask, options.durability, place, answer, fx);
            }
            Err(error) => self.refuse_append(ask, error, fx),
        }
    }

    /// All operations or none: conditions are checked first, and the records go into one group,
    /// which is durable whole or not at all. The receipt has the offset of the last operation;
    /// operation i of n has that minus n - 1 - i.
    pub(super) fn batch(
        &mut self,
        now: Now,
        ask: Ask,
        options: &WriteOptions,
        partition: PartitionId,
        ops: &BatchList<'_>,
        fx: &mut Effects,
    ) {
        if self.judge(now, ask, partition, options, fx).is_none() {
            return;
        }
        let bytes = match self.check_batch(partition, ops) {
            Ok(bytes) => bytes,
            Err((code, why)) => return self.refuse(ask.origin, code, 0, &why, fx),
        };
        for op in ops.iter() {
            let (BatchOp::Put { key, condition, .. } | BatchOp::Delete { key, condition }) = op;
            if condition == Condition::None {
                continue;
            }
            let seen = self.current_version(now, partition, key);
            if !holds(condition, seen) {
                return self.condition_failed(now, ask, options, partition, seen, fx);
            }
        }
        let adds = ops.iter().any(|op| matches!(op, BatchOp::Put { .. }));
        let priority = if adds { Priority::User } else { Priority::Reserve };
        if let Err(error) = self.log.reserve(bytes, priority) {
            return self.refuse_append(ask, error, fx);
        }
        let last = ops.len() - 1;
        let mut end = None;
        for (i, op) in ops.iter().enumerate() {
            let (kind, key, value, expires) = match op {
                BatchOp::Put { key, value, ttl_ms, .. } => {
                    (RecordKind::Put, key, value, expires_at(now, ttl_ms))
                }
                BatchOp::Delete { key, .. } => (RecordKind::Delete, key, &[][..], WallTime(0)),
            };
            let draft = Draft {
                kind,
                flags: if i == last { 0 } else { MORE },
                session: options.session,
                sequence: options.sequence,
                expires,
                key,
                body: value,
            };
            let appended = self
                .append(now, partition, &draft, Priority::Reserve)
                .expect("room for the whole batch was reserved in one group");
            end = Some(appended);
        }
        let (_, offset) = end.expect("an empty batch was refused");
        let answer = Answer::Receipt(self.receipt(options, partition, offset));
        self.acknowledge_write(now, ask, options.durability, (partition, offset), answer, fx);
    }

    /// The bytes its records take, if every operation may be in this batch.
    fn check_batch(
        &self,
        partition: PartitionId,
        ops: &BatchList<'_>,
    ) -> Result<usize, (ErrorCode, String)> {
        if ops.is_empty() {
            return Err((ErrorCode::InvalidArgument, "the batch is empty".to_owned()));
        }
        let partitions = self.config.slices.partitions();
        let mut bytes = 0;
        for op in ops.iter() {
            let (key, value) = match op {
                BatchOp::Put { key, value, .. } => (key, value),
                BatchOp::Delete { key, .. } => (key, &[][..]),
            };
            let home = Token::of_key(key).partition(partitions);
            if home != partition {
                let why = format!("a key belongs to partition {home}, not {partition}");
                return Err((ErrorCode::WrongPartition, why));
            }
            if value.len() > CHUNK_BYTES {
                let why = format!(
                    "a value of {} bytes in a batch: at most {CHUNK_BYTES}; put it by itself",
                    value.len()
                );
                return Err((ErrorCode::TooLarge, why));
            }
            if !self.has_memory_for(key) && self.models.peek(partition).keys.get(key).is_none() {
                let why = "the memory ceiling is reached: new keys are refused".to_owned();
                return Err((ErrorCode::MemoryFull, why));
            }
            bytes += key.len() + value.len() + RECORD_OVERHEAD_BYTES;
        }
        if bytes > RECORD_BYTES_MAX {
            let why = format!("a batch of {bytes} bytes: at most {RECORD_BYTES_MAX}");
            return Err((ErrorCode::TooLarge, why));
        }
        Ok(bytes)
    }
}

/// How far a record has to be for an answer of this level.
fn level_of(durability: Durability) -> Level {
    match durability {
        Durability::Async | Durability::Local => Level::Flushed,
        Durability::Quorum => Level::Applied,
        Durability::All => Level::Everywhere,
    }
}

/// Whether a condition holds for a key with this version ([`Offset::NONE`]: absent).
pub(super) fn holds(condition: Condition, seen: Offset) -> bool {
    match condition {
        Condition::None => true,
        Condition::Absent => seen == Offset::NONE,
        Condition::Version(version) => seen == version && seen != Offset::NONE,
    }
}

fn expires_at(now: Now, ttl_ms: u64) -> WallTime {
    if ttl_ms == 0 { WallTime(0) } else { WallTime(now.wall.0.saturating_add(ttl_ms)) }
}
