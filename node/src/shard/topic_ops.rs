//! Requests about topics: append, read with long poll, offsets, trim, retention, descriptions.

use std::collections::BTreeMap;
use std::time::Duration;

use ironring_core::limits::{APPEND_RECORDS_MAX, RECORD_BYTES_MAX};
use ironring_core::{
    Durability, ErrorCode, Instant, Now, Offset, PartitionId, SessionId, Token, TopicId, WallTime,
};
use ironring_log::{Priority, RecordKind};
use ironring_net::list::AppendList;
use ironring_net::message::{AppendTo, ReadFrom, Response, TopicInfo, WriteOptions};

use super::acks::Answer;
use super::event::{ConnId, Effects};
use super::gather::{Item, Kind, Part};
use super::keys::Draft;
use super::names::TopicName;
use super::reads::{Turn, Waiting};
use super::{Ask, Shard};

/// Most reads that wait for records at a time.
pub const POLLS_MAX: usize = 16_384;
/// Longest wait of one read.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// An answer never holds more bytes than this, whatever the reader asks for.
const READ_BYTES_MAX: u32 = 8 << 20;
/// What a reader gets that names no limit.
const READ_BYTES_DEFAULT: u32 = 1 << 20;
/// Most batches one read looks at.
const READ_BATCHES_MAX: usize = 256;

/// What a reader wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub topic: TopicId,
    pub index: u32,
    pub max_records: u32,
    pub max_bytes: u32,
    /// The reader asked for what is oldest.
    pub oldest: bool,
}

#[derive(Clone, Copy, Debug)]
struct Poll {
    ask: Ask,
    want: Want,
    from: u64,
    until: Instant,
}

/// Reads that wait for records, by topic partition.
#[derive(Debug, Default)]
pub(super) struct Polls {
    waiting: BTreeMap<(TopicId, u32), Vec<Poll>>,
    count: usize,
}

impl Polls {
    /// A connection is gone.
    pub(super) fn forget(&mut self, me: ironring_core::ShardId, conn: ConnId) {
        for polls in self.waiting.values_mut() {
            polls.retain(|p| p.ask.origin.conn != conn || p.ask.origin.shard != me);
        }
        self.settle();
    }

    /// Takes all that wait, and says who they are.
    pub(super) fn take_all(&mut self) -> Vec<super::Origin> {
        self.count = 0;
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_values().flatten().map(|poll| poll.ask.origin).collect()
    }

    fn settle(&mut self) {
        self.waiting.retain(|_, polls| !polls.is_empty());
        self.count = self.waiting.values().map(Vec::len).sum();
    }
}

type Refusal = (ErrorCode, String);

impl Shard {
    fn topic(&self, id: TopicId) -> Result<&TopicInfo, Refusal> {
        let Some(meta) = &self.models.meta else {
            return Err((ErrorCode::NotReady, "the metadata have not arrived yet".to_owned()));
        };
        meta.topic(id).ok_or_else(|| match self.has_not_heard_of(id) {
            // Another node may have made it a moment ago.
            true => (ErrorCode::NotReady, format!("no topic of id {id} is known here yet")),
            false => (ErrorCode::UnknownTopic, format!("no topic has id {id}")),
        })
    }

    /// Whether another shard may know of a topic that this one does not.
    pub(super) fn has_not_heard_of(&self, id: TopicId) -> bool {
        let known = |meta: &super::meta::Meta| meta.topic(id).is_some() || meta.is_dropped(id);
        let decides = self.config.alone && self.models.holds_meta();
        !decides && self.models.meta.as_ref().is_some_and(|meta| !known(meta))
    }

    /// Which topic partition an append goes to.
    pub(super) fn append_index(&self, topic: TopicId, to: &AppendTo<'_>) -> Result<u32, Refusal> {
        Ok(match to {
            AppendTo::Partition(index) => *index,
            AppendTo::Key(key) => {
                (Token::of_key(key).0 >> 32) as u32 % self.topic(topic)?.partitions
            }
        })
    }

    /// The partition that holds a topic partition.
    pub(super) fn topic_place(&self, topic: TopicId, index: u32) -> Result<PartitionId, Refusal> {
        let info = self.topic(topic)?;
        if index >= info.partitions {
            let why =
                format!("topic `{}` has {} partitions, not {index}", info.name, info.partitions);
            return Err((ErrorCode::UnknownPartition, why));
        }
        let token = Token::of_topic_partition(topic, index);
        Ok(token.partition(self.config.slices.partitions()))
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one request, used once")]
    pub(super) fn topic_append(
        &mut self,
        now: Now,
        ask: Ask,
        options: &WriteOptions,
        topic: TopicId,
        to: &AppendTo<'_>,
        records: &AppendList<'_>,
        fx: &mut Effects,
    ) {
        let place = self.append_index(topic, to).and_then(|i| Ok((i, self.topic_place(topic, i)?)));
        let (index, partition) = match place {
            Ok(found) => found,
            Err((code, why)) => return self.refuse(ask.origin, code, 0, &why, fx),
        };
        if self.judge(now, ask, partition, options, fx).is_none() {
            return;
        }
        if records.is_empty() {
            let why = "there is nothing to append";
            return self.refuse(ask.origin, ErrorCode::InvalidArgument, 0, why, fx);
        }
        let bytes = records.as_bytes();
        if bytes.len() > RECORD_BYTES_MAX {
            let why = format!("{} bytes in one append: at most {RECORD_BYTES_MAX}", bytes.len());
            return self.refuse(ask.origin, ErrorCode::TooLarge, 0, &why, fx);
        }
        if !self.has_memory_for(&[]) {
            let why = "the memory ceiling is reached: new records are refused";
            return self.refuse(ask.origin, ErrorCode::MemoryFull, 0, why, fx);
        }
        let p = self.models.peek(partition);
        let first = p
            .pending
            .topic_end(topic, index)
            .unwrap_or_else(|| p.topics.get(&(topic, index)).map_or(0, |t| t.end()));
        let count = records.count();
        let key = TopicName { topic, index, first, count }.encode();
        let draft = Draft {
            kind: RecordKind::TopicBatch,
            flags: 0,
            session: options.session,
            sequence: options.sequence,
            expires: WallTime(0),
            key: &key,
            body: bytes,
        };
        match self.append(now, partition, &draft, Priority::User) {
            Ok((_, offset)) => {
                let receipt = self.receipt(options, partition, offset);
                let answer = Answer::Appended { receipt, index, first, count };
                let place = (partition, offset);
                self.acknowledge_write(now, ask, options.durability, place, answer, fx);
            }
            Err(error) => self.refuse_append(ask, error, fx),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one request, used once")]
    pub(super) fn topic_read(
        &mut self,
        now: Now,
        ask: Ask,
        mut want: Want,
        from: ReadFrom,
        wait_ms: u32,
        turn: Turn,
        fx: &mut Effects,
    ) {
        if want.max_records == 0 {
            want.max_records = APPEND_RECORDS_MAX as u32;
        }
        want.max_bytes = match want.max_bytes {
            0 => READ_BYTES_DEFAULT,
            n => n.min(READ_BYTES_MAX),
        };
        let partition = match self.topic_place(want.topic, want.index) {
            Ok(found) => found,
            Err((code, why)) => return self.refuse(ask.origin, code, 0, &why, fx),
        };
        let trim = self.models.peek(partition).pending.trim(want.topic, want.index);
        if let (Turn::First, Some(offset)) = (turn, trim) {
            let waiting = Waiting::Topic { want, from, wait_ms };
            return self.wait_to_read(now, ask, partition, offset, waiting, fx);
        }
        want.oldest = matches!(from, ReadFrom::Earliest);
        let (start, end, at_time) = self.bounds(partition, &want, from);
        let from = match from {
            ReadFrom::Offset(offset) => offset,
            ReadFrom::Time(_) => at_time,
            ReadFrom::Earliest => start,
            ReadFrom::Latest => end,
        };
        if from < start || from > end {
            return self.out_of_range(ask, partition, &want, from, fx);
        }
        if from == end && wait_ms > 0 {
            if self.polls.count >= POLLS_MAX {
                let why = "too many readers wait for records";
                return self.refuse(ask.origin, ErrorCode::Overloaded, 100, why, fx);
            }
            let wait = Duration::from_millis(u64::from(wait_ms)).min(WAIT_MAX);
            let poll = Poll { ask, want, from, until: now.mono + wait };
            self.polls.waiting.entry((want.topic, want.index)).or_default().push(poll);
            self.polls.count += 1;
            return;
        }
        self.read_from(now, ask, partition, want, from, fx);
    }

    /// Start, end, and the first offset at a time.
    fn bounds(&self, partition: PartitionId, want: &Want, from: ReadFrom) -> (u64, u64, u64) {
        let Some(t) = self.models.peek(partition).topics.get(&(want.topic, want.index)) else {
            return (0, 0, 0);
        };
        let time = if let ReadFrom::Time(time) = from { time } else { WallTime(0) };
        (t.start(), t.end(), t.offset_at(time).clamp(t.start(), t.end()))
    }

    fn read_from(
        &mut self,
        now: Now,
        ask: Ask,
        partition: PartitionId,
        want: Want,
        from: u64,
        fx: &mut Effects,
    ) {
        let mut items = Vec::new();
        let mut parts = Vec::new();
        let mut bytes = 0;
        let mut records = 0;
        if let Some(state) = self.models.peek(partition).topics.get(&(want.topic, want.index)) {
            for batch in state.from_offset(from).take(READ_BATCHES_MAX) {
                let enough = bytes >= want.max_bytes || records >= want.max_records;
                if enough {
                    break;
                }
                bytes = bytes.saturating_add(batch.at.len);
                records = records.saturating_add((batch.end() - batch.first.max(from)) as u32);
                let part = parts.len();
                parts.push(Part::new(batch.at, None));
                items.push(Item {
                    key: Vec::new(),
                    version: Offset(batch.first),
                    expires: WallTime(0),
                    count: batch.count,
                    parts: part..part + 1,
                });
            }
        }
        let kind = Kind::Topic {
            topic: want.topic,
            index: want.index,
            from,
            oldest: want.oldest,
            max_records: want.max_records,
            max_bytes: want.max_bytes,
        };
        if items.is_empty() {
            return self.no_records(ask, partition, &want, fx);
        }
        self.start_gather(now, ask, partition, kind, items, parts, fx);
    }

    fn no_records(&mut self, ask: Ask, partition: PartitionId, want: &Want, fx: &mut Effects) {
        let (start, end, _) = self.bounds(partition, want, ReadFrom::Earliest);
        let records = ironring_net::list::RecordList::default();
        fx.reply(self.config.shard(), ask.origin, &Response::Records { records, start, end });
    }

    fn out_of_range(
        &mut self,
        ask: Ask,
        partition: PartitionId,
        want: &Want,
        offset: u64,
        fx: &mut Effects,
    ) {
        let (start, end, _) = self.bounds(partition, want, ReadFrom::Earliest);
        let why = format!("offset {offset}: the partition holds {start} to {end}");
        self.refuse(ask.origin, ErrorCode::OffsetOutOfRange, start, &why, fx);
    }

    /// Answers the reads whose records have come.
    pub(super) fn serve_polls(&mut self, now: Now, fx: &mut Effects) {
        if self.models.grown.is_empty() {
            return;
        }
        let grown = std::mem::take(&mut self.models.grown);
        for name in grown {
            let Some(polls) = self.polls.waiting.remove(&name) else { continue };
            self.polls.count -= polls.len();
            for poll in polls {
                self.serve_poll(now, &poll, fx);
            }
        }
    }

    /// Answers the reads that have waited long enough, those whose topic is gone, and all of them when
    /// the shard stops: a stop does not wait for what may never come.
    pub(super) fn expire_polls(&mut self, now: Now, fx: &mut Effects) {
        if self.polls.count == 0 {
            return;
        }
        let mut due = Vec::new();
        for ((topic, _), polls) in &mut self.polls.waiting {
            let gone = self.models.meta.as_ref().is_some_and(|m| m.is_dropped(*topic));
            due.extend(polls.extract_if(.., |p| p.until <= now.mono || gone || self.stop_wanted));
        }
        self.polls.settle();
        for poll in due {
            self.serve_poll(now, &poll, fx);
        }
    }

    fn serve_poll(&mut self, now: Now, poll: &Poll, fx: &mut Effects) {
        match self.topic_place(poll.want.topic, poll.want.index) {
            Ok(partition) => {
                let (start, _, _) = self.bounds(partition, &poll.want, ReadFrom::Earliest);
                let from = if poll.want.oldest { poll.from.max(start) } else { poll.from };
                // A wait that was longer than the deadline is no reason to refuse what came.
                let deadline = poll.ask.deadline.max(now.mono + self.config.deadline_default);
                let ask = Ask { deadline, ..poll.ask };
                self.read_from(now, ask, partition, poll.want, from, fx);
            }
            Err((code, why)) => self.refuse(poll.ask.origin, code, 0, &why, fx),
        }
    }

    pub(super) fn topic_offsets(
        &mut self,
        now: Now,
        ask: Ask,
        (topic, index): (TopicId, u32),
        time: WallTime,
        turn: Turn,
        fx: &mut Effects,
    ) {
        let partition = match self.topic_place(topic, index) {
            Ok(found) => found,
            Err((code, why)) => return self.refuse(ask.origin, code, 0, &why, fx),
        };
        let trim = self.models.peek(partition).pending.trim(topic, index);
        if let (Turn::First, Some(offset)) = (turn, trim) {
            let waiting = Waiting::Offsets { topic, index, time };
            return self.wait_to_read(now, ask, partition, offset, waiting, fx);
        }
        let want = Want { topic, index, max_records: 0, max_bytes: 0, oldest: false };
        let (start, end, at_time) = self.bounds(partition, &want, ReadFrom::Time(time));
        let at_time = if time.0 == 0 { end } else { at_time };
        fx.reply(self.config.shard(), ask.origin, &Response::Offsets { start, end, at_time });
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one request, used once")]
    pub(super) fn topic_trim(
        &mut self,
        now: Now,
        ask: Ask,
        options: &WriteOptions,
        topic: TopicId,
        index: u32,
        before: u64,
        fx: &mut Effects,
    ) {
        let partition = match self.topic_place(topic, index) {
            Ok(found) => found,
            Err((code, why)) => return self.refuse(ask.origin, code, 0, &why, fx),
        };
        if self.judge(now, ask, partition, options, fx).is_none() {
            return;
        }
        let want = Want { topic, index, max_records: 0, max_bytes: 0, oldest: false };
        let (_, end, _) = self.bounds(partition, &want, ReadFrom::Earliest);
        if before > end {
            return self.out_of_range(ask, partition, &want, before, fx);
        }
        match self.append_trim(now, partition, (topic, index), before, options) {
            Ok((_, offset)) => {
                let answer = Answer::Receipt(self.receipt(options, partition, offset));
                let place = (partition, offset);
                self.acknowledge_write(now, ask, options.durability, place, answer, fx);
            }
            Err(error) => self.refuse_append(ask, error, fx),
        }
    }

    fn append_trim(
        &mut self,
        now: Now,
        partition: PartitionId,
        (topic, index): (TopicId, u32),
        before: u64,
        options: &WriteOptions,
    ) -> Result<(ironring_log::Appended, Offset), ironring_log::AppendError> {
        let key = TopicName { topic, index, first: before, count: 0 }.encode();
        let draft = Draft {
            kind: RecordKind::TopicTrim,
            flags: 0,
            session: options.session,
            sequence: options.sequence,
            expires: WallTime(0),
            key: &key,
            body: &[],
        };
        self.append(now, partition, &draft, Priority::Reserve)
    }

    /// Lets go of records that are older or more than their topics keep.
    pub(super) fn apply_retention(&mut self, now: Now) {
        let Some(meta) = &self.models.meta else { return };
        let mut cuts = Vec::new();
        for p in self.models.iter() {
            for (name, state) in &p.topics {
                let Some(info) = meta.topic(name.0) else { continue };
                let keep = info.retention;
                if keep.age_ms == 0 && keep.bytes == 0 {
                    continue;
                }
                let oldest = match keep.age_ms {
                    0 => WallTime(0),
                    age => WallTime(now.wall.0.saturating_sub(age)),
                };
                let cut = state.retention_cut(oldest, keep.bytes);
                if cut > state.start() {
                    cuts.push((p.id, *name, cut));
                }
            }
        }
        let own =
            WriteOptions { durability: Durability::Local, session: SessionId::NONE, sequence: 0 };
        for (partition, name, cut) in cuts {
            if self.append_trim(now, partition, name, cut, &own).is_err() {
                // The log takes nothing now; the next round finds the same cut.
                return;
            }
        }
    }

    pub(super) fn topic_describe(&mut self, ask: Ask, name: &str, fx: &mut Effects) {
        let Some(meta) = &self.models.meta else {
            let why = "the metadata have not arrived yet";
            return self.refuse(ask.origin, ErrorCode::NotReady, 0, why, fx);
        };
        match meta.topic_named(name) {
            Some(info) => {
                fx.reply(self.config.shard(), ask.origin, &Response::Topic(info.clone()));
            }
            None => {
                let why = format!("no topic is named `{name}`");
                self.refuse(ask.origin, ErrorCode::UnknownTopic, 0, &why, fx);
            }
        }
    }

    pub(super) fn topic_list(&mut self, ask: Ask, fx: &mut Effects) {
        let Some(meta) = &self.models.meta else {
            let why = "the metadata have not arrived yet";
            return self.refuse(ask.origin, ErrorCode::NotReady, 0, why, fx);
        };
        let topics = meta.topics().cloned().collect();
        fx.reply(self.config.shard(), ask.origin, &Response::Topics(topics));
    }
}
