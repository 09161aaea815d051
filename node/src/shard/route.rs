//! From a frame to the operation and the shard it belongs to.

use std::time::Duration;

use ironring_core::{ErrorCode, Instant, Now, PartitionId, SessionId, Token};
use ironring_net::frame::flags;
use ironring_net::message::{Request, Response};
use ironring_net::{Header, decode_request};

use super::event::{ConnId, Effects, Origin, ShardMessage};
use super::memory::fits;
use super::reads::Turn;
use super::{Ask, Shard};

/// What a message to another shard takes besides the request.
const MESSAGE_BYTES: usize = 256;
/// So many entries of a partition may wait to be committed when memory is short.
const WAITING_FREELY: usize = 1024;
/// When who is refused because more of them wait may ask again, in milliseconds.
const TRY_AGAIN_MS: u64 = 100;

/// Where a request has to be handled. The token of a key is computed once, here.
#[derive(Clone, Copy)]
enum Place {
    /// Anywhere.
    Here,
    /// Where the metadata are.
    Meta,
    /// With the owner of a partition.
    Partition(PartitionId),
}

impl Shard {
    /// A frame from one of this shard's own connections.
    pub(super) fn request(
        &mut self,
        now: Now,
        conn: ConnId,
        header: Header,
        body: &[u8],
        fx: &mut Effects,
    ) {
        let correlation = header.correlation;
        let (shard, handed_bytes, age_ms) = (self.id(), 0, None);
        let origin = Origin { shard, conn, correlation, handed_bytes, age_ms };
        let wanted = match header.deadline_ms {
            0 => self.config.deadline_default,
            ms => Duration::from_millis(u64::from(ms)).min(self.config.deadline_max),
        };
        let ask = Ask { origin, since: now.mono, deadline: now.mono + wanted };
        self.counters.requests.add(header.opcode);
        self.dispatch(now, ask, header, body, fx);
    }

    /// A message from another shard of the node.
    pub(super) fn message(&mut self, now: Now, message: ShardMessage, fx: &mut Effects) {
        match message {
            ShardMessage::Forward { mut origin, header, body, deadline } => {
                // Shard 0 sends back what this shard could not place: it is with nobody else then.
                if origin.shard == self.id() {
                    self.handed_bytes -= std::mem::take(&mut origin.handed_bytes) as usize;
                }
                let ask = Ask { origin, since: now.mono, deadline };
                self.counters.requests.add(header.opcode);
                self.dispatch(now, ask, header, &body, fx);
            }
            ShardMessage::Reply { conn, frame, handed_bytes } => {
                self.handed_bytes -= handed_bytes as usize;
                fx.pass_on(conn, &frame);
            }
            ShardMessage::Meta(snapshot) => self.learn_meta(&snapshot),
        }
    }

    fn dispatch(&mut self, now: Now, ask: Ask, header: Header, body: &[u8], fx: &mut Effects) {
        let request = match decode_request(&header, body) {
            Ok(request) => request,
            Err(error) => {
                return self.refuse(ask.origin, error.code(), 0, &error.to_string(), fx);
            }
        };
        let local = matches!(
            request,
            Request::Ping | Request::ClusterMap | Request::Stats | Request::Hello { .. }
        );
        if !local && let Err((code, why)) = self.admit(now.mono, &ask) {
            // Before its place is looked up: a shard that is opening does not know its topics.
            return self.refuse(ask.origin, code, 0, why, fx);
        }
        let (owner, partition) = match self.place(&request) {
            Ok(Place::Here) => (self.id(), PartitionId::META),
            Ok(Place::Meta) => (self.config.slices.owner(PartitionId::META), PartitionId::META),
            Ok(Place::Partition(p)) => (self.config.slices.owner(p), p),
            Err((code, message)) => return self.refuse(ask.origin, code, 0, &message, fx),
        };
        if owner == self.id() {
            let mut ask = ask;
            if header.status & flags::STALE != 0 && partition != PartitionId::META {
                match self.age_ms(now, partition) {
                    Ok(age_ms) => ask.origin.age_ms = Some(age_ms),
                    Err((code, detail, why)) => {
                        return self.refuse(ask.origin, code, detail, &why, fx);
                    }
                }
                self.counters.stale_reads += 1;
                return self.execute(now, ask, partition, &request, fx);
            }
            if self.may_execute(now, ask, partition, &request, (header, body), fx) {
                self.execute(now, ask, partition, &request, fx);
            }
            return;
        }
        let mut origin = ask.origin;
        if origin.shard == self.id() {
            let bytes = MESSAGE_BYTES + body.len();
            if !fits(self.handed_bytes, bytes, self.request_bytes_max()) {
                let why = "too many requests are with other shards";
                return self.refuse(origin, ErrorCode::Overloaded, 20, why, fx);
            }
            origin.handed_bytes = bytes as u32;
            self.handed_bytes += bytes;
        }
        self.counters.forwarded += 1;
        let message =
            ShardMessage::Forward { origin, header, body: body.to_vec(), deadline: ask.deadline };
        fx.messages.push((owner, message));
    }

    fn place(&self, request: &Request<'_>) -> Result<Place, (ErrorCode, String)> {
        let partitions = self.config.slices.partitions();
        let of_key = |key: &[u8]| Place::Partition(Token::of_key(key).partition(partitions));
        let known = |partition: PartitionId| {
            if partition.0 < partitions {
                return Ok(Place::Partition(partition));
            }
            let why = format!("partition {partition} of {partitions}");
            Err((ErrorCode::WrongPartition, why))
        };
        Ok(match request {
            Request::Hello { .. }
            | Request::Ping
            | Request::ClusterMap
            | Request::Stats
            | Request::TopicList => Place::Here,
            Request::OpenSession
            | Request::TopicDescribe { .. }
            | Request::TopicCreate { .. }
            | Request::TopicDelete { .. }
            | Request::TopicAlter { .. } => Place::Meta,
            Request::Put { key, .. } | Request::Get { key } | Request::Delete { key, .. } => {
                of_key(key)
            }
            Request::MultiGet { partition, .. }
            | Request::Batch { partition, .. }
            | Request::Scan { partition, .. } => known(*partition)?,
            // A topic made a moment ago may not have been heard of here yet; shard 0 knows.
            Request::TopicAppend { topic, .. }
            | Request::TopicRead { topic, .. }
            | Request::TopicOffsets { topic, .. }
            | Request::TopicTrim { topic, .. }
                if self.has_not_heard_of(*topic) =>
            {
                Place::Meta
            }
            Request::TopicAppend { topic, to, .. } => {
                let index = self.append_index(*topic, to)?;
                Place::Partition(self.topic_place(*topic, index)?)
            }
            Request::TopicRead { topic, partition, .. }
            | Request::TopicOffsets { topic, partition, .. }
            | Request::TopicTrim { topic, partition, .. } => {
                Place::Partition(self.topic_place(*topic, *partition)?)
            }
        })
    }

    /// Whether this replica may take a request about a partition. If not, the request was answered, or
    /// waits.
    fn may_execute(
        &mut self,
        now: Now,
        ask: Ask,
        partition: PartitionId,
        request: &Request<'_>,
        frame: (Header, &[u8]),
        fx: &mut Effects,
    ) -> bool {
        if partition == PartitionId::META {
            return true;
        }
        let writes = matches!(
            request,
            Request::Put { .. }
                | Request::Delete { .. }
                | Request::Batch { .. }
                | Request::TopicAppend { .. }
                | Request::TopicTrim { .. }
        );
        if !writes {
            return self.may_read(now, ask, partition, frame, fx);
        }
        let min_voters = self.min_voters();
        let (code, detail, why) = match self.engine().admit(now.mono, partition, min_voters) {
            Err(why) => self.not_serving(why),
            Ok(()) => match self.too_much_waits(partition) {
                Some(why) => (ErrorCode::Overloaded, TRY_AGAIN_MS, why),
                None => return true,
            },
        };
        self.refuse(ask.origin, code, detail, &why, fx);
        false
    }

    /// Why no more is written to a partition: its other replicas write nothing, and what waits for them
    /// is in memory here.
    fn too_much_waits(&self, partition: PartitionId) -> Option<String> {
        let p = self.models.peek(partition);
        let waiting = p.pending.len();
        let too_much =
            p.waits_too_much() || (waiting > WAITING_FREELY && !self.has_memory_for(b""));
        too_much.then(|| format!("{waiting} entries wait for other replicas to write them"))
    }

    /// Executes a request whose data this shard owns; those of keys are in `partition`.
    pub(super) fn execute(
        &mut self,
        now: Now,
        ask: Ask,
        partition: PartitionId,
        request: &Request<'_>,
        fx: &mut Effects,
    ) {
        let me = self.id();
        // A read that may be old does not wait for what is on its way.
        let turn = if ask.origin.age_ms.is_some() { Turn::Again } else { Turn::First };
        match request {
            Request::Ping => return fx.reply(me, ask.origin, &Response::Pong),
            Request::ClusterMap => {
                return fx.reply(me, ask.origin, &Response::ClusterMap(self.map.clone()));
            }
            Request::Stats => {
                let text = self.stats_json();
                return fx.reply(me, ask.origin, &Response::Stats(&text));
            }
            Request::Hello { .. } => {
                let why = "the connection has said hello already";
                return self.refuse(ask.origin, ErrorCode::InvalidArgument, 0, why, fx);
            }
            _ => {}
        }
        match request {
            Request::Get { key } => self.get(now, ask, partition, key, turn, fx),
            Request::Put { options, condition, ttl_ms, key, value } => {
                self.put(now, ask, partition, options, *condition, *ttl_ms, key, value, fx);
            }
            Request::Delete { options, condition, key } => {
                self.delete(now, ask, partition, options, *condition, key, fx);
            }
            Request::MultiGet { partition, keys } => {
                self.multi_get(now, ask, *partition, keys, turn, fx);
            }
            Request::Batch { options, partition, ops } => {
                self.batch(now, ask, options, *partition, ops, fx);
            }
            Request::Scan { partition, prefix, after, limit, values } => {
                let wanted = (*limit, *values);
                self.scan(now, ask, *partition, (prefix, after), wanted, turn, fx);
            }
            Request::TopicAppend { options, topic, to, records } => {
                self.topic_append(now, ask, options, *topic, to, records, fx);
            }
            Request::TopicRead { topic, partition, from, max_records, max_bytes, wait_ms } => {
                let want = super::topic_ops::Want {
                    topic: *topic,
                    index: *partition,
                    max_records: *max_records,
                    max_bytes: *max_bytes,
                    oldest: false,
                };
                // Nor for what comes: it would be older by then than was said.
                let wait_ms = if turn == Turn::First { *wait_ms } else { 0 };
                self.topic_read(now, ask, want, *from, wait_ms, turn, fx);
            }
            Request::TopicOffsets { topic, partition, time } => {
                let name = (*topic, *partition);
                self.topic_offsets(now, ask, name, *time, turn, fx);
            }
            Request::TopicTrim { options, topic, partition, before } => {
                self.topic_trim(now, ask, options, *topic, *partition, *before, fx);
            }
            Request::TopicDescribe { name } => self.topic_describe(ask, name, fx),
            Request::TopicList => self.topic_list(ask, fx),
            Request::TopicCreate { .. }
            | Request::TopicDelete { .. }
            | Request::TopicAlter { .. }
            | Request::OpenSession => self.meta_request(now, ask, request, fx),
            Request::Hello { .. } | Request::Ping | Request::ClusterMap | Request::Stats => {
                unreachable!("answered above")
            }
        }
    }

    fn admit(&self, now: Instant, ask: &Ask) -> Result<(), (ErrorCode, &'static str)> {
        use super::Phase;
        match self.phase {
            Phase::Failed => {
                return Err((ErrorCode::ShardFenced, "the disk failed under this shard"));
            }
            Phase::Damaged => {
                let why = "the disk failed under this shard, which is rebuilt from other replicas";
                return Err((ErrorCode::ShardFenced, why));
            }
            Phase::Opening => return Err((ErrorCode::NotReady, "the shard is recovering")),
            Phase::Stopping | Phase::Stopped => {
                return Err((ErrorCode::NotReady, "the node is stopping"));
            }
            Phase::Serving if !self.serving() => {
                return Err((ErrorCode::NotReady, "the node is stopping"));
            }
            Phase::Serving => {}
        }
        if ask.deadline <= now {
            return Err((ErrorCode::DeadlineExceeded, "the deadline passed before it was started"));
        }
        Ok(())
    }

    /// True when the request belongs to a session.
    pub(super) fn in_session(options: &ironring_net::message::WriteOptions) -> bool {
        options.session != SessionId::NONE
    }
}
