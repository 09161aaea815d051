//! Reads of keys, and the fetching they share with topics.
//!
//! A get costs at most one disk read a record (`tests/tests/get_cost.rs` counts them): none when
//! the record is cached, several only for a value that is stored in chunks. A read is
//! answered from committed state. When a record about what it asks for is on its way, it waits until
//! that is committed: its writer may know of it already, having asked for the level `async`.

use ironring_core::limits::{FRAME_BODY_BYTES_MAX, SCAN_ENTRIES_MAX};
use std::collections::{BTreeMap, BTreeSet};

use ironring_core::{ErrorCode, Now, Offset, PartitionId, Token, TopicId, WallTime};
use ironring_log::Location;
use ironring_log::index::Entry;
use ironring_net::list::{
    AppendList, KeyList, RecordListBuilder, ScanListBuilder, ValueListBuilder,
};
use ironring_net::message::{ReadFrom, Response, ScanEntry, TopicRecord, ValueRef};
use ironring_net::{Header, decode_request};
use ironring_ring::replication::{NotServing, ReadTicket};

use super::acks::{Answer, Level};
use super::event::{Effects, Origin};
use super::gather::{GATHERS_MAX, Gather, GatherId, Item, Kind, Part};
use super::memory::fits;
use super::models::{CachedRecord, Stored};
use super::partition::{CHUNKED, Partition, is_live};
use super::topic_ops::Want;
use super::{Ask, Shard};

/// A scan page with values stops before it holds more bytes than this.
const SCAN_PAGE_BYTES: usize = 1 << 20;
/// Room for the fields around the values of an answer.
const ANSWER_OVERHEAD_BYTES: usize = 64 << 10;

/// An answer with more is not begun when memory is short.
const LARGE_GATHER_BYTES: usize = 64 << 10;

/// Names a read that waits. Unique within one run of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgainId(u64);

/// A read that is begun again when what it waits for is committed.
#[derive(Debug)]
pub(super) enum Waiting {
    Get { key: Vec<u8> },
    MultiGet { count: u32, keys: Vec<u8> },
    Scan { prefix: Vec<u8>, after: Vec<u8>, limit: u32, values: bool },
    Topic { want: Want, from: ReadFrom, wait_ms: u32 },
    Offsets { topic: TopicId, index: u32, time: WallTime },
}

/// Reads that wait for records to be committed, at most [`GATHERS_MAX`].
#[derive(Debug, Default)]
pub(super) struct Again {
    waiting: BTreeMap<AgainId, (Ask, PartitionId, Waiting)>,
    last: u64,
}

impl Again {
    pub(super) fn take(&mut self, id: AgainId) {
        self.waiting.remove(&id);
    }
}

/// Reads that wait for a round of probes to say that this replica leads still, at most
/// [`GATHERS_MAX`].
#[derive(Debug, Default)]
pub(super) struct Leases {
    waiting: BTreeMap<ReadTicket, (Ask, PartitionId, Header, Vec<u8>)>,
    last: u64,
    bytes: usize,
}

impl Leases {
    /// Bytes of the requests that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes all that wait, and says who they are.
    pub(super) fn take_all(&mut self) -> Vec<Origin> {
        self.bytes = 0;
        std::mem::take(&mut self.waiting).into_values().map(|(ask, ..)| ask.origin).collect()
    }

    fn take(&mut self, ticket: ReadTicket) -> Option<(Ask, PartitionId, Header, Vec<u8>)> {
        let taken = self.waiting.remove(&ticket)?;
        self.bytes -= taken.3.len();
        Some(taken)
    }
}

/// Whether a read still has to wait for records that are on their way. It does so once: what is
/// committed then is new enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    First,
    Again,
}

impl Shard {
    /// Whether a read may be answered from what is applied here. If not, it was answered, or waits to
    /// be begun again.
    pub(super) fn may_read(
        &mut self,
        now: Now,
        ask: Ask,
        partition: PartitionId,
        (header, body): (Header, &[u8]),
        fx: &mut Effects,
    ) -> bool {
        let room = self.request_bytes_max();
        let full =
            self.leases.waiting.len() >= GATHERS_MAX || !fits(self.leases.bytes, body.len(), room);
        if full && !self.engine().has_lease(now.mono, partition) {
            let (code, detail, why) = match self.engine().next_place(partition) {
                Ok(_) => {
                    let why = "too many reads wait for the other replicas";
                    (ErrorCode::Overloaded, 5, why.to_owned())
                }
                Err(why) => self.not_serving(why),
            };
            self.refuse(ask.origin, code, detail, &why, fx);
            return false;
        }
        let ticket = ReadTicket(self.leases.last + 1);
        match self.engine().read(now.mono, partition, ticket) {
            Ok(true) => {
                self.rest_on_lease(now, partition, fx);
                return true;
            }
            Ok(false) => {}
            Err(why) => {
                let (code, detail, why) = self.not_serving(why);
                self.refuse(ask.origin, code, detail, &why, fx);
                return false;
            }
        }
        self.leases.last += 1;
        self.leases.bytes += body.len();
        self.leases.waiting.insert(ticket, (ask, partition, header, body.to_vec()));
        false
    }

    /// How old what this replica has of a partition may be, in milliseconds rounded up; `u32::MAX`:
    /// nobody knows. An error: it has no replica here.
    pub(super) fn age_ms(
        &mut self,
        now: Now,
        partition: PartitionId,
    ) -> Result<u32, (ErrorCode, u64, String)> {
        let engine = self.engine();
        let me = engine.me(partition).replica;
        let record = engine.known(partition);
        if record.replica(me).is_none() {
            let why = NotServing::Elsewhere(record.leader);
            return Err(self.not_serving(why));
        }
        let age = engine.age(now.mono, partition);
        let votes = record.is_voter(me);
        if self.models.peek(partition).distrusted {
            let why = "this copy has something else than most voters, and is being repaired";
            return Err((ErrorCode::NotReady, 0, why.to_owned()));
        }
        if age.is_none() && !votes {
            let why = "this replica has not caught up yet".to_owned();
            return Err((ErrorCode::NotReady, 0, why));
        }
        let ms = |age: std::time::Duration| age.as_micros().div_ceil(1000);
        Ok(age.map_or(u32::MAX, |age| u32::try_from(ms(age)).unwrap_or(u32::MAX - 1)))
    }

    /// Whether no other replica can lead the partition before the answers of this turn are delivered.
    pub(super) fn leads_for_certain(
        &mut self,
        now: Now,
        partition: PartitionId,
        fx: &mut Effects,
    ) -> bool {
        let certain = self.engine().has_lease(now.mono, partition);
        if certain {
            self.rest_on_lease(now, partition, fx);
        }
        certain
    }

    fn rest_on_lease(&mut self, now: Now, partition: PartitionId, fx: &mut Effects) {
        let until = self.engine().lease_until(now.mono, partition);
        fx.valid_until = Some(fx.valid_until.map_or(until, |first| first.min(until)));
    }

    /// A round of probes has ended, or the leadership has.
    pub(super) fn read_decided(
        &mut self,
        now: Now,
        ticket: ReadTicket,
        confirmed: bool,
        fx: &mut Effects,
    ) {
        let Some((ask, partition, header, body)) = self.leases.take(ticket) else { return };
        if !confirmed {
            let why = "another replica leads by now";
            return self.refuse(ask.origin, ErrorCode::NotLeader, 0, why, fx);
        }
        let request = decode_request(&header, &body).expect("it was a request when it came");
        self.execute(now, ask, partition, &request, fx);
    }

    /// Refuses the reads whose deadline has passed while they waited.
    pub(super) fn expire_leases(&mut self, now: Now, fx: &mut Effects) {
        let late = |(_, (ask, ..)): &(&ReadTicket, &(Ask, _, _, _))| ask.deadline <= now.mono;
        let late: Vec<ReadTicket> = self.leases.waiting.iter().filter(late).map(|w| *w.0).collect();
        let mut of = BTreeSet::new();
        for ticket in late {
            let Some((ask, partition, ..)) = self.leases.take(ticket) else { continue };
            of.insert(partition);
            let why = "the deadline passed before a majority of the replicas answered";
            self.refuse(ask.origin, ErrorCode::DeadlineExceeded, 0, why, fx);
        }
        // Who is cut off may hear of no majority for hours, and be asked all the time.
        let (replicas, waiting) = (&mut self.replicas, &self.leases.waiting);
        if let Some(replicas) = replicas {
            for partition in of {
                replicas.engine.keep_reads(partition, |ticket| waiting.contains_key(&ticket));
            }
        }
    }

    /// Lets a read wait until the record at `offset` is committed.
    pub(super) fn wait_to_read(
        &mut self,
        now: Now,
        ask: Ask,
        partition: PartitionId,
        offset: Offset,
        waiting: Waiting,
        fx: &mut Effects,
    ) {
        if self.again.waiting.len() >= GATHERS_MAX {
            let why = "too many reads wait for writes";
            return self.refuse(ask.origin, ErrorCode::Overloaded, 5, why, fx);
        }
        self.again.last += 1;
        let id = AgainId(self.again.last);
        self.again.waiting.insert(id, (ask, partition, waiting));
        let again = Answer::Again(id);
        self.answer_after(now, Level::Applied, (partition, offset), ask, again, fx);
    }

    /// What a read waited for is committed.
    pub(super) fn read_again(&mut self, now: Now, id: AgainId, fx: &mut Effects) {
        let Some((ask, partition, waiting)) = self.again.waiting.remove(&id) else { return };
        let turn = Turn::Again;
        match waiting {
            Waiting::Get { key } => self.get(now, ask, partition, &key, turn, fx),
            Waiting::MultiGet { count, keys } => {
                let keys = KeyList::from_bytes(count, &keys).expect("it was a list when it came");
                self.multi_get(now, ask, partition, &keys, turn, fx);
            }
            Waiting::Scan { prefix, after, limit, values } => {
                let range = (prefix.as_slice(), after.as_slice());
                self.scan(now, ask, partition, range, (limit, values), turn, fx);
            }
            Waiting::Topic { want, from, wait_ms } => {
                self.topic_read(now, ask, want, from, wait_ms, turn, fx);
            }
            Waiting::Offsets { topic, index, time } => {
                self.topic_offsets(now, ask, (topic, index), time, turn, fx);
            }
        }
    }

    pub(super) fn get(
        &mut self,
        now: Now,
        ask: Ask,
        partition: PartitionId,
        key: &[u8],
        turn: Turn,
        fx: &mut Effects,
    ) {
        let p = self.models.peek(partition);
        if let (Turn::First, Some(pending)) = (turn, p.pending.key(key)) {
            let (offset, waiting) = (pending.offset, Waiting::Get { key: key.to_vec() });
            return self.wait_to_read(now, ask, partition, offset, waiting, fx);
        }
        self.counters.gets += 1;
        let Some(entry) = p.keys.get(key) else {
            return self.refuse(ask.origin, ErrorCode::NotFound, 0, "no such key", fx);
        };
        if !is_live(&entry, now.wall) {
            return self.refuse(ask.origin, ErrorCode::NotFound, 0, "the key has expired", fx);
        }
        if entry.flags & CHUNKED == 0 && self.may_answer(ask.origin.shard) {
            let me = self.config.shard();
            if let Some(found) = self.models.cached(entry.location, Some(entry.version)) {
                let value = ValueRef {
                    version: entry.version,
                    time: WallTime(found.time),
                    expires: entry.expires,
                    value: found.body,
                };
                return fx.reply(me, ask.origin, &Response::Value(value));
            }
        }
        let found = [(key, Some(entry))];
        self.gather(now, ask, partition, Kind::Get, &found, fx);
    }

    pub(super) fn multi_get(
        &mut self,
        now: Now,
        ask: Ask,
        partition: PartitionId,
        keys: &KeyList<'_>,
        turn: Turn,
        fx: &mut Effects,
    ) {
        let partitions = self.config.slices.partitions();
        let p = self.models.peek(partition);
        let newest = keys.iter().filter_map(|key| p.pending.key(key)).map(|k| k.offset).max();
        if let (Turn::First, Some(offset)) = (turn, newest) {
            let waiting = Waiting::MultiGet { count: keys.count(), keys: keys.as_bytes().to_vec() };
            return self.wait_to_read(now, ask, partition, offset, waiting, fx);
        }
        let mut found = Vec::with_capacity(keys.len());
        let mut bytes = 0;
        for key in keys.iter() {
            let home = Token::of_key(key).partition(partitions);
            if home != partition {
                let why = format!("a key belongs to partition {home}, not {partition}");
                return self.refuse(ask.origin, ErrorCode::WrongPartition, 0, &why, fx);
            }
            let entry = p.keys.get(key);
            if let Some(entry) = &entry {
                bytes += value_bytes(p, entry);
            }
            found.push((key, entry.filter(|e| is_live(e, now.wall))));
        }
        self.counters.gets += found.len() as u64;
        if bytes > FRAME_BODY_BYTES_MAX - ANSWER_OVERHEAD_BYTES {
            let why = format!("the values are {bytes} bytes: ask for fewer keys at a time");
            return self.refuse(ask.origin, ErrorCode::TooLarge, 0, &why, fx);
        }
        self.gather(now, ask, partition, Kind::MultiGet, &found, fx);
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one request, used once")]
    pub(super) fn scan(
        &mut self,
        now: Now,
        ask: Ask,
        partition: PartitionId,
        (prefix, after): (&[u8], &[u8]),
        (limit, values): (u32, bool),
        turn: Turn,
        fx: &mut Effects,
    ) {
        let p = self.models.peek(partition);
        if let (Turn::First, Some(offset)) = (turn, p.pending.newest_with_prefix(prefix)) {
            let (prefix, after) = (prefix.to_vec(), after.to_vec());
            let waiting = Waiting::Scan { prefix, after, limit, values };
            return self.wait_to_read(now, ask, partition, offset, waiting, fx);
        }
        let limit = match limit as usize {
            0 => SCAN_ENTRIES_MAX,
            n => n.min(SCAN_ENTRIES_MAX),
        };
        let range = if after >= prefix && !after.is_empty() {
            p.keys.range_after(Some(after))
        } else {
            p.keys.range_from(prefix)
        };
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut more = false;
        for (key, entry) in range.take_while(|(key, _)| key.starts_with(prefix)) {
            if !is_live(&entry, now.wall) {
                continue;
            }
            let size = key.len() + 32 + if values { value_bytes(p, &entry) } else { 0 };
            if found.len() == limit || (bytes + size > SCAN_PAGE_BYTES && !found.is_empty()) {
                more = true;
                break;
            }
            bytes += size;
            found.push((key.to_vec(), entry));
        }
        let found: Vec<(&[u8], Option<Entry>)> =
            found.iter().map(|(key, entry)| (key.as_slice(), Some(*entry))).collect();
        self.gather(now, ask, partition, Kind::Scan { values, more }, &found, fx);
    }

    /// Starts collecting an answer about keys.
    fn gather(
        &mut self,
        now: Now,
        ask: Ask,
        partition: PartitionId,
        kind: Kind,
        found: &[(&[u8], Option<Entry>)],
        fx: &mut Effects,
    ) {
        let wants_values = !matches!(kind, Kind::Scan { values: false, .. });
        let p = self.models.peek(partition);
        let mut items = Vec::with_capacity(found.len());
        let mut parts = Vec::new();
        for (key, entry) in found {
            let first = parts.len();
            if let (Some(entry), true) = (entry, wants_values) {
                let Some(places) = p.value_places(entry) else {
                    let (code, why) = missing(p.may_be_completed(entry));
                    return self.refuse(ask.origin, code, 0, why, fx);
                };
                let offset = (entry.flags & CHUNKED == 0).then_some(entry.version);
                parts.extend(places.iter().map(|at| Part::new(*at, offset)));
            }
            items.push(Item {
                key: key.to_vec(),
                version: entry.map_or(Offset::NONE, |e| e.version),
                expires: entry.map_or(WallTime(0), |e| e.expires),
                count: 0,
                parts: first..parts.len(),
            });
        }
        self.start_gather(now, ask, partition, kind, items, parts, fx);
    }

    /// Starts collecting an answer from records.
    #[expect(clippy::too_many_arguments, reason = "the fields of one gather, used once")]
    pub(super) fn start_gather(
        &mut self,
        now: Now,
        ask: Ask,
        partition: PartitionId,
        kind: Kind,
        items: Vec<Item>,
        parts: Vec<Part>,
        fx: &mut Effects,
    ) {
        let bytes: usize = parts.iter().map(|part| part.at.len as usize).sum();
        let held = self.gathers.bytes() + fx.pending_bytes();
        let mut most = self.request_bytes_max();
        if bytes > LARGE_GATHER_BYTES {
            // Large answers are copied several times on their way out.
            most = most.min(self.memory_left() / 4);
        }
        let crowded = self.gathers.count() >= GATHERS_MAX || !self.may_answer(ask.origin.shard);
        if crowded || !fits(held, bytes, most) {
            let why = "too many reads wait for the disk";
            return self.refuse(ask.origin, ErrorCode::Overloaded, 5, why, fx);
        }
        let id = self.gathers.add(Gather {
            origin: Some(ask.origin),
            since: ask.since,
            deadline: ask.deadline,
            partition,
            kind,
            items,
            parts,
            outstanding: 0,
            failed: None,
            lost: false,
        });
        self.fetch(now, id, fx);
    }

    /// Asks for every part that is not cached.
    fn fetch(&mut self, now: Now, id: GatherId, fx: &mut Effects) {
        let Some(gather) = self.gathers.get_mut(id) else { return };
        let mut missing: Vec<(usize, Location)> = Vec::new();
        for (i, part) in gather.parts.iter_mut().enumerate() {
            match self.models.cached(part.at, part.offset) {
                Some(CachedRecord { time, offset, body }) => {
                    part.stored = Some(Stored { time, offset, body: body.to_vec() });
                }
                None => missing.push((i, part.at)),
            }
        }
        gather.outstanding = missing.len();
        let is_get = matches!(gather.kind, Kind::Get | Kind::MultiGet);
        if missing.is_empty() {
            return self.finish_gather(now, id, fx);
        }
        if is_get {
            self.counters.get_disk_reads += missing.len() as u64;
        }
        for (i, at) in missing {
            let read = self.gathers.begin_read(id, i);
            self.log.read(read, at, &mut fx.io);
        }
    }

    /// Takes what the log has read to the gathers that asked for it.
    pub(super) fn finish_reads(&mut self, now: Now, fx: &mut Effects) {
        if self.models.finished_reads.is_empty() {
            return;
        }
        let finished = std::mem::take(&mut self.models.finished_reads);
        for done in finished {
            let Some((id, part)) = self.gathers.end_read(done.read) else { continue };
            let Some(gather) = self.gathers.get_mut(id) else { continue };
            gather.outstanding -= 1;
            gather.lost |= done.lost;
            match done.result {
                Ok(stored) => gather.parts[part].stored = Some(stored),
                Err(error) => gather.failed = Some(error.to_string()),
            }
            if gather.outstanding == 0 {
                self.finish_gather(now, id, fx);
            }
        }
    }

    fn finish_gather(&mut self, now: Now, id: GatherId, fx: &mut Effects) {
        let Some(gather) = self.gathers.remove(id) else { return };
        let Some(origin) = gather.origin else { return };
        self.counters.read_latency.record(now.mono.since(gather.since));
        if let Some(why) = &gather.failed {
            // A place that nothing refers to any more was freed under the read, not damaged.
            if gather.is_stale(self.models.peek(gather.partition)) {
                let why = "what was read has been replaced meanwhile";
                return self.refuse(origin, ErrorCode::Overloaded, 1, why, fx);
            }
            if !gather.lost && self.reads_elsewhere(gather.partition) {
                let why =
                    "the record cannot be read here: another replica is to lead the partition";
                return self.refuse(origin, ErrorCode::NotLeader, 0, why, fx);
            }
            return self.refuse(origin, ErrorCode::Corrupt, 0, why, fx);
        }
        let me = self.config.shard();
        match &gather.kind {
            Kind::Get => {
                let item = &gather.items[0];
                let (time, value) = gather.value(item);
                let value =
                    ValueRef { version: item.version, time, expires: item.expires, value: &value };
                fx.reply(me, origin, &Response::Value(value));
            }
            Kind::MultiGet => {
                let mut bytes = Vec::new();
                let mut list = ValueListBuilder::new(&mut bytes);
                for item in &gather.items {
                    let (time, value) = gather.value(item);
                    let value = ValueRef {
                        version: item.version,
                        time,
                        expires: item.expires,
                        value: &value,
                    };
                    let entry = (item.version != Offset::NONE).then_some(value);
                    list.push(entry).expect("the size was checked before anything was read");
                }
                fx.reply(me, origin, &Response::Values(list.finish()));
            }
            Kind::Scan { values, more } => {
                let mut bytes = Vec::new();
                let mut list = ScanListBuilder::new(&mut bytes);
                for item in &gather.items {
                    let (_, value) = gather.value(item);
                    let value = values.then_some(&*value);
                    let entry = ScanEntry { key: &item.key, version: item.version, value };
                    list.push(entry).expect("the page was bounded when it was collected");
                }
                let page = Response::Page { entries: list.finish(), more: *more };
                fx.reply(me, origin, &page);
            }
            Kind::Topic { .. } => self.finish_topic_read(origin, &gather, fx),
        }
    }

    fn finish_topic_read(&mut self, origin: Origin, gather: &Gather, fx: &mut Effects) {
        let Kind::Topic { topic, index, from, oldest, max_records, max_bytes } = gather.kind else {
            return;
        };
        let p = self.models.peek(gather.partition);
        let Some(state) = p.topics.get(&(topic, index)) else {
            let why = "the topic was deleted meanwhile";
            return self.refuse(origin, ErrorCode::UnknownTopic, 0, why, fx);
        };
        let (start, end) = (state.start(), state.end());
        let from = if oldest { from.max(start) } else { from };
        if from < start {
            let why = format!("offset {from} was trimmed: the partition holds {start} to {end}");
            return self.refuse(origin, ErrorCode::OffsetOutOfRange, start, &why, fx);
        }
        let mut bytes = Vec::new();
        let mut list = RecordListBuilder::new(&mut bytes);
        'batches: for item in &gather.items {
            let Some(stored) = gather.parts[item.parts.start].stored.as_ref() else { continue };
            let Ok(records) = AppendList::from_bytes(item.count, &stored.body) else {
                let why = "a stored batch does not parse";
                return self.refuse(origin, ErrorCode::Corrupt, 0, why, fx);
            };
            for (i, record) in records.iter().enumerate() {
                let offset = item.version.0 + i as u64;
                if offset < from {
                    continue;
                }
                let size = record.key.len() + record.value.len() + 32;
                let full = list.len() >= max_records as usize
                    || list.bytes_len() + size > max_bytes as usize;
                if full && !list.is_empty() {
                    break 'batches;
                }
                let record = TopicRecord {
                    offset,
                    time: WallTime(stored.time),
                    key: record.key,
                    value: record.value,
                };
                if list.push(record).is_err() {
                    break 'batches;
                }
            }
        }
        let me = self.config.shard();
        fx.reply(me, origin, &Response::Records { records: list.finish(), start, end });
    }
}

impl Gather {
    /// Where an item's parts lie at present; `None` when its value or batch is gone.
    fn places(&self, p: &Partition, item: &Item) -> Option<Vec<Location>> {
        if let Kind::Topic { topic, index, .. } = self.kind {
            let batch = p.topics.get(&(topic, index))?.batches_from(item.version.0).next()?;
            return (batch.first == item.version.0).then(|| vec![batch.at]);
        }
        let entry = p.keys.get(&item.key).filter(|e| e.version == item.version)?;
        p.value_places(&entry).map(<[Location]>::to_vec)
    }

    /// Whether something it reads has moved or is gone.
    fn is_stale(&self, p: &Partition) -> bool {
        self.items.iter().any(|item| {
            let parts = &self.parts[item.parts.clone()];
            !parts.is_empty()
                && self
                    .places(p, item)
                    .is_none_or(|now| !now.iter().eq(parts.iter().map(|part| &part.at)))
        })
    }

    /// The bytes of an item, and when its (first) record was written.
    fn value(&self, item: &Item) -> (WallTime, std::borrow::Cow<'_, [u8]>) {
        use std::borrow::Cow;
        let parts = &self.parts[item.parts.clone()];
        let stored: Vec<&Stored> = parts.iter().filter_map(|p| p.stored.as_ref()).collect();
        let time = WallTime(stored.first().map_or(0, |s| s.time));
        match stored.as_slice() {
            [] => (time, Cow::Borrowed(&[])),
            [one] => (time, Cow::Borrowed(&one.body)),
            many => {
                let bodies: Vec<&[u8]> = many.iter().map(|s| s.body.as_slice()).collect();
                (time, Cow::Owned(bodies.concat()))
            }
        }
    }
}

/// What a reader of a value is told of which not everything is here.
fn missing(may_come: bool) -> (ErrorCode, &'static str) {
    match may_come {
        true => {
            let why = "this replica is being filled and has not all of the value yet";
            (ErrorCode::NotReady, why)
        }
        false => {
            let why = "part of the value was lost, and this replica can get it from nowhere; \
                       writing it again heals it";
            (ErrorCode::Corrupt, why)
        }
    }
}

/// Bytes an entry's value adds to an answer, at most.
fn value_bytes(p: &super::partition::Partition, entry: &Entry) -> usize {
    if entry.flags & CHUNKED == 0 {
        return entry.location.len as usize;
    }
    p.large.chunks(entry.version).map(|at| at.len as usize).sum()
}
