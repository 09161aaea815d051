//! The shipped [`Shard`]s of one node as subjects. Requests and answers go through the shipped
//! codec, so a frame that does not survive it fails the run.

use std::time::Duration;

use ironring_core::io::{HeapAlloc, IoOp};
use ironring_core::{
    ErrorCode, Incarnation, Instant, Now, Offset, PartitionId, SessionId, ShardId, StorageUuid,
};
use ironring_log::{Identity, LogConfig};
use ironring_net::frame::HEADER_BYTES;
use ironring_net::list::{AppendListBuilder, BatchListBuilder, KeyListBuilder};
use ironring_net::message::{
    self, AppendRecord, AppendTo, BatchOp, ClusterMap, ReadFrom, Request, Response, Retention,
    ShardAddress, WriteOptions,
};
use ironring_net::{decode_header, decode_response, encode_request};
use ironring_node::shard::{self, MetaAsk, Phase as ShardPhase, Shard, ShardConfig, ShardMessage};
use ironring_ring::Slices;

use crate::sim::log_alone::{count_log, is_group, kind_of_failure};
use crate::sim::op::{
    Change, Condition, Entry, Intent, KeyOp, Op, Outcome, Receipt, RequestId, TopicRecord, Value,
    payload,
};
use crate::sim::subject::{Conn, Effects, Event, Node, Phase, Subject};

/// One node of shipped shards.
#[derive(Clone, Debug)]
pub struct ShardNode {
    /// Partitions among shards.
    pub slices: Slices,
    /// Every shard's log.
    pub log: LogConfig,
    /// Ceiling of memory per shard, in bytes.
    pub memory_bytes_max: usize,
    /// Cache per shard, in bytes.
    pub cache_bytes: usize,
    /// Deadline of every request.
    pub deadline: Duration,
    /// Whether it is in no cluster: one that is in one asks a metadata group for changes.
    pub alone: bool,
}

impl Node for ShardNode {
    type Subject = Simulated;

    fn shards(&self) -> u16 {
        self.slices.shards()
    }

    fn partitions(&self) -> u32 {
        self.slices.partitions()
    }

    fn owner(&self, partition: PartitionId) -> ShardId {
        self.slices.owner(partition)
    }

    fn is_group(&self, op: &IoOp) -> bool {
        is_group(op)
    }

    fn make(&self, shard: ShardId) -> Simulated {
        let addresses = (0..self.slices.shards()).map(|shard| {
            let range = self.slices.range(ShardId(shard));
            let address = format!("127.0.0.1:{}", 7500 + shard);
            ShardAddress { shard, address, first: range.start, end: range.end }
        });
        let map = ClusterMap {
            epoch: 1,
            partitions: self.slices.partitions(),
            shards: addresses.collect(),
        };
        let config = ShardConfig {
            identity: Identity { storage: StorageUuid(0x5EED), shard, salt: 7 },
            slices: self.slices,
            log: self.log.clone(),
            memory_bytes_max: self.memory_bytes_max,
            cache_bytes: self.cache_bytes,
            deadline_default: self.deadline,
            deadline_max: self.deadline,
            alone: self.alone,
            has_others: false,
            incarnation: (!self.alone).then_some(Incarnation(1)),
            replication: ironring_ring::replication::Settings::default(),
            movement: ironring_node::shard::MovementSettings::default(),
            compare: shard::compare::Settings::default(),
            map,
        };
        Simulated { shard: Shard::new(config, Box::new(HeapAlloc)), fx: shard::Effects::default() }
    }
}

/// A shipped shard under simulation.
pub struct Simulated {
    shard: Shard,
    fx: shard::Effects,
}

impl Simulated {
    /// The shard itself.
    #[must_use]
    pub fn shard(&self) -> &Shard {
        &self.shard
    }
}

impl Subject for Simulated {
    type Message = ShardMessage;

    fn handle(&mut self, now: Now, event: Event<ShardMessage>, fx: &mut Effects<ShardMessage>) {
        let event = match event {
            Event::Request { conn, request, op } => {
                return self.request(now, conn, request, &op, fx);
            }
            Event::Start { format } => shard::Event::Start { format },
            Event::Io(done) => shard::Event::Io(done),
            Event::Closed(conn) => shard::Event::Closed(shard::ConnId(conn.0)),
            Event::Message(message) => shard::Event::Message(message),
            Event::TurnEnd => shard::Event::TurnEnd,
            Event::Timer => shard::Event::Timer,
            Event::Stop => shard::Event::Stop,
        };
        self.tell(now, event, fx);
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.shard.next_deadline()
    }

    fn phase(&self) -> Phase {
        match self.shard.phase() {
            ShardPhase::Opening => Phase::Opening,
            ShardPhase::Serving | ShardPhase::Stopping => Phase::Serving,
            ShardPhase::Stopped => Phase::Stopped,
            ShardPhase::Failed | ShardPhase::Damaged => {
                let failure = self.shard.failure().expect("a failed shard says why");
                Phase::Failed(kind_of_failure(failure), failure.to_string())
            }
        }
    }

    fn counted(&self) -> Vec<(String, u64)> {
        let mut counts = count_log(self.shard.log());
        let c = self.shard.counters();
        counts.push(("requests forwarded".to_owned(), c.forwarded));
        counts.push(("duplicates answered from receipts".to_owned(), c.duplicates));
        counts.push(("keys removed as expired".to_owned(), c.expired));
        counts
    }
}

impl Simulated {
    /// An event of the shipped shard's own.
    pub fn tell(&mut self, now: Now, event: shard::Event<'_>, fx: &mut Effects<ShardMessage>) {
        std::mem::swap(&mut self.fx.io, &mut fx.io);
        self.shard.handle(now, event, &mut self.fx);
        std::mem::swap(&mut self.fx.io, &mut fx.io);
        fx.messages.append(&mut self.fx.messages);
        self.fx.take_replies(|conn, frame| {
            let (request, outcome) = decode(frame);
            fx.replies.push((Conn(conn.0), request, outcome));
        });
    }

    /// What it has asked the metadata group for since the last time.
    pub fn asked_group(&mut self) -> Vec<MetaAsk> {
        std::mem::take(&mut self.fx.metadata)
    }

    fn request(
        &mut self,
        now: Now,
        conn: Conn,
        request: RequestId,
        op: &Op,
        fx: &mut Effects<ShardMessage>,
    ) {
        let frame = encode(request, op);
        let header = decode_header(&frame).expect("a frame we encoded has a header");
        let body = &frame[HEADER_BYTES..];
        let conn = shard::ConnId(conn.0);
        self.tell(now, shard::Event::Request { conn, header, body }, fx);
    }
}

/// The frame of a request, as the client library would send it.
#[must_use]
pub fn encode(request: RequestId, op: &Op) -> Vec<u8> {
    let mut frame = Vec::new();
    with_request(op, |wire| {
        encode_request(&mut frame, request.0, 0, wire).expect("the workload keeps the limits");
    });
    frame
}

fn with_request(op: &Op, mut send: impl FnMut(&Request<'_>)) {
    match op {
        Op::OpenSession => send(&Request::OpenSession),
        Op::Write { intent, ops, batch } => with_write(intent, ops, *batch, send),
        Op::Get { key } => send(&Request::Get { key }),
        Op::MultiGet { partition, keys } => {
            let mut buf = Vec::new();
            let mut list = KeyListBuilder::new(&mut buf);
            for key in keys {
                list.push(key).expect("the workload keeps the limits");
            }
            send(&Request::MultiGet { partition: *partition, keys: list.finish() });
        }
        Op::Scan { partition, prefix, after, limit, values } => send(&Request::Scan {
            partition: *partition,
            prefix,
            after,
            limit: *limit,
            values: *values,
        }),
        Op::TopicCreate { name, partitions, retain_bytes } => send(&Request::TopicCreate {
            name,
            partitions: *partitions,
            retention: Retention { age_ms: 0, bytes: *retain_bytes },
        }),
        Op::TopicDelete { name } => send(&Request::TopicDelete { name }),
        Op::TopicList => send(&Request::TopicList),
        Op::Append { intent, topic, index, lens } => {
            let mut buf = Vec::new();
            let mut list = AppendListBuilder::new(&mut buf);
            for (i, len) in lens.iter().enumerate() {
                let value = payload(intent.id, i, *len);
                let record = AppendRecord { key: b"", value: &value };
                list.push(record).expect("the workload keeps the limits");
            }
            send(&Request::TopicAppend {
                options: options(intent),
                topic: *topic,
                to: AppendTo::Partition(*index),
                records: list.finish(),
            });
        }
        Op::TopicRead { topic, index, from, max_records } => send(&Request::TopicRead {
            topic: *topic,
            partition: *index,
            from: from.map_or(ReadFrom::Earliest, ReadFrom::Offset),
            max_records: *max_records,
            max_bytes: 1 << 20,
            wait_ms: 0,
        }),
        Op::Trim { intent, topic, index, before } => send(&Request::TopicTrim {
            options: options(intent),
            topic: *topic,
            partition: *index,
            before: *before,
        }),
    }
}

fn with_write(intent: &Intent, ops: &[KeyOp], batch: bool, mut send: impl FnMut(&Request<'_>)) {
    let options = options(intent);
    if batch {
        let mut buf = Vec::new();
        let mut list = BatchListBuilder::new(&mut buf);
        for (i, op) in ops.iter().enumerate() {
            let condition = condition(op.condition);
            let pushed = match op.change {
                Change::Put { len, ttl_ms } => {
                    let value = payload(intent.id, i, len);
                    list.push(BatchOp::Put { key: &op.key, value: &value, condition, ttl_ms })
                }
                Change::Delete => list.push(BatchOp::Delete { key: &op.key, condition }),
            };
            pushed.expect("the workload keeps the limits");
        }
        send(&Request::Batch { options, partition: intent.partition, ops: list.finish() });
        return;
    }
    let op = &ops[0];
    let condition = condition(op.condition);
    match op.change {
        Change::Put { len, ttl_ms } => {
            let value = payload(intent.id, 0, len);
            send(&Request::Put { options, condition, ttl_ms, key: &op.key, value: &value });
        }
        Change::Delete => send(&Request::Delete { options, condition, key: &op.key }),
    }
}

fn options(intent: &Intent) -> WriteOptions {
    let (session, sequence) = intent.session.unwrap_or((SessionId::NONE, 0));
    WriteOptions { durability: intent.level, session, sequence }
}

fn condition(condition: Condition) -> message::Condition {
    match condition {
        Condition::None => message::Condition::None,
        Condition::Absent => message::Condition::Absent,
        Condition::Version(version) => message::Condition::Version(Offset(version)),
    }
}

/// The answer a frame carries, and to which request.
#[must_use]
pub fn decode(frame: &[u8]) -> (RequestId, Outcome) {
    let header = decode_header(frame).expect("the shard encodes whole frames");
    assert_eq!(header.frame_bytes(), frame.len(), "one frame per answer");
    let response = decode_response(&header, &frame[HEADER_BYTES..]).expect("the shard's own bytes");
    (RequestId(header.correlation), outcome(&response))
}

fn outcome(response: &Response<'_>) -> Outcome {
    match response {
        Response::Session(id) => Outcome::Session(*id),
        Response::Receipt(r) => Outcome::Receipt(receipt(r)),
        Response::Value(v) => Outcome::Value(value(v)),
        Response::Values(list) => {
            let values = list.iter().map(|v| v.map(|v| value(&v)).ok_or(ErrorCode::NotFound));
            Outcome::Values(values.collect())
        }
        Response::Page { entries, more } => {
            let entries = entries.iter().map(|e| Entry {
                key: e.key.to_vec(),
                version: e.version.0,
                value: e.value.map(<[u8]>::to_vec),
            });
            Outcome::Page { entries: entries.collect(), more: *more }
        }
        Response::Topic(info) => Outcome::Topic(info.id),
        Response::Topics(list) => {
            Outcome::Topics(list.iter().map(|t| (t.name.clone(), t.id)).collect())
        }
        Response::Appended { receipt: r, first, count, .. } => {
            Outcome::Appended { receipt: receipt(r), first: *first, count: *count }
        }
        Response::Records { records, start, end } => {
            let records =
                records.iter().map(|r| TopicRecord { offset: r.offset, bytes: r.value.to_vec() });
            Outcome::Records { records: records.collect(), start: *start, end: *end }
        }
        Response::Error { code, detail, .. } => Outcome::Error { code: *code, detail: *detail },
        other => panic!("nobody asks for {other:?}"),
    }
}

fn receipt(r: &message::Receipt) -> Receipt {
    Receipt {
        level: r.durability,
        partition: r.partition,
        term: r.term.0,
        offset: r.offset.0,
        duplicate: r.duplicate,
    }
}

fn value(v: &message::ValueRef<'_>) -> Value {
    Value { version: v.version.0, expires: v.expires.0, bytes: v.value.to_vec() }
}
