//! ironring's client protocol: tagged by correlation, answered in any order.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use ironring_core::{Durability, ErrorCode, Offset, SessionId, Token, TopicId};
use ironring_net::codec::{decode_response, encode_request};
use ironring_net::frame::{HEADER_BYTES, decode_header, set_correlation};
use ironring_net::list::AppendListBuilder;
use ironring_net::message::{
    AppendRecord, AppendTo, ClusterMap, Condition, ReadFrom, Request, Response, Retention,
    WriteOptions,
};
use serde_json::{Value, json};

use super::{Parsed, Protocol, Target, dial, send};
use crate::error::BenchError;
use crate::keys::key_bytes;
use crate::recorder::Outcome;
use crate::scenario::{Placement, Scenario};
use crate::workload::{Op, OpKind, Workload};

/// Name the generator gives itself in the handshake.
const CLIENT: &str = concat!("ironring-bench/", env!("CARGO_PKG_VERSION"));

/// An ironring node.
#[derive(Clone, Debug)]
pub struct IronringTarget {
    addr: String,
    durability: Durability,
    deadline_ms: u32,
    pipeline: usize,
    records_per_append: usize,
    read_bytes_max: u32,
    uses_topic: bool,
    topic: TopicId,
    partitions: u32,
    /// Where connections go, when they go to the shards that own their keys.
    placed: Option<Arc<Placed>>,
}

/// The shards of a cluster, each with what it leads.
#[derive(Debug)]
struct Placed {
    shards: Vec<(String, Arc<[bool]>)>,
    keys: u64,
}

impl Placed {
    /// By a map, as far as `wanted` takes the address of a shard.
    fn new(map: &ClusterMap, keys: u64, wanted: impl Fn(&str) -> bool) -> Placed {
        let mut shards: Vec<((&str, u16), Vec<bool>)> = Vec::new();
        for shard in map.shards.iter().filter(|shard| wanted(&shard.address)) {
            let name = (shard.address.as_str(), shard.shard);
            let at = shards.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
                shards.push((name, vec![false; map.partitions as usize]));
                shards.len() - 1
            });
            shards[at].1[shard.first as usize..shard.end as usize].fill(true);
        }
        let shards = shards.into_iter().map(|((at, _), owned)| (at.to_owned(), owned.into()));
        Placed { shards: shards.collect(), keys }
    }
}

impl IronringTarget {
    /// Reaches the node once; makes the scenario's topic when it is needed and missing.
    ///
    /// # Errors
    /// The node cannot be reached or refuses.
    pub fn prepare(scenario: &Scenario) -> Result<IronringTarget, BenchError> {
        let durability = scenario.write.durability.parse().map_err(BenchError::Usage)?;
        let mut target = IronringTarget {
            addr: scenario.addr.clone(),
            durability,
            deadline_ms: deadline_ms(scenario.load.timeout),
            pipeline: scenario.load.pipeline,
            records_per_append: scenario.topic.records_per_append,
            read_bytes_max: scenario.topic.read_bytes_max,
            uses_topic: scenario.mix.uses_topic(),
            topic: TopicId(0),
            partitions: scenario.topic.partitions,
            placed: None,
        };
        let mut control = Control::open(&target.addr)?;
        if scenario.load.placement != Placement::Any {
            let map = control.ask(&Request::ClusterMap, cluster_map)?;
            let all = scenario.load.placement == Placement::Owner;
            let own = |address: &str| all || same_host_and_port(address, &target.addr);
            let placed = Placed::new(&map, scenario.keys.count, own);
            if placed.shards.is_empty() {
                let why = format!("no shard of the map is at {}", target.addr);
                return Err(BenchError::Server(why));
            }
            target.placed = Some(Arc::new(placed));
        }
        if target.uses_topic {
            let name = scenario.topic.name.as_str();
            let retention = Retention::default();
            let create = Request::TopicCreate { name, partitions: target.partitions, retention };
            let (topic, partitions) = match control.ask(&create, topic_or_exists)? {
                Some(made) => made,
                None => {
                    control.ask(&Request::TopicDescribe { name }, topic_or_exists)?.ok_or_else(
                        || BenchError::Server(format!("topic {name} exists and does not")),
                    )?
                }
            };
            target.topic = topic;
            target.partitions = partitions;
        }
        Ok(target)
    }
}

/// Whether two texts name the same address.
fn same_host_and_port(a: &str, b: &str) -> bool {
    let resolved = |text: &str| text.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
    a == b || matches!((resolved(a), resolved(b)), (Ok(a), Ok(b)) if a == b)
}

/// Where partitions are, as a node knows it.
///
/// # Errors
/// The node cannot be reached or answers something else.
pub fn map(addr: &str) -> Result<ClusterMap, BenchError> {
    Control::open(addr)?.ask(&Request::ClusterMap, cluster_map)
}

/// Succeeds when a node answers clients.
///
/// # Errors
/// It does not.
pub fn reachable(addr: &str) -> Result<(), BenchError> {
    Control::open(addr).map(drop)
}

/// Where the shards of a node are.
fn cluster_map(response: &Response<'_>) -> Result<ClusterMap, String> {
    match response {
        Response::ClusterMap(map) if !map.shards.is_empty() => Ok(map.clone()),
        other => Err(unexpected(other)),
    }
}

/// What every shard of a node or cluster counts: `{"shards": [...]}`, in the order of the map. Each shard
/// answers for itself, and a connection to the node's address may land on any of them.
///
/// # Errors
/// The node cannot be reached or answers something else.
pub fn stats(addr: &str) -> Result<Value, BenchError> {
    let map = Control::open(addr)?.ask(&Request::ClusterMap, cluster_map)?;
    // In a cluster a shard leads many ranges of partitions.
    let mut shards: Vec<(&str, u16)> =
        map.shards.iter().map(|shard| (shard.address.as_str(), shard.shard)).collect();
    let mut seen = BTreeSet::new();
    shards.retain(|shard| seen.insert(*shard));
    let shards: Result<Vec<Value>, BenchError> =
        shards.into_iter().map(|(address, _)| shard_stats(address)).collect();
    Ok(json!({ "shards": shards? }))
}

/// What the shard at an address counts.
///
/// # Errors
/// It cannot be reached or answers something else.
pub fn shard_stats(addr: &str) -> Result<Value, BenchError> {
    Control::open(addr)?.ask(&Request::Stats, |response| match response {
        Response::Stats(text) => {
            serde_json::from_str::<Value>(text).map_err(|e| format!("Stats is no JSON: {e}"))
        }
        other => Err(unexpected(other)),
    })
}

/// Succeeds when every shard serves: a node answers while it formats or recovers, too.
///
/// # Errors
/// The node cannot be reached, or a shard is not ready.
pub fn ready(addr: &str) -> Result<(), BenchError> {
    let stats = stats(addr)?;
    for shard in stats["shards"].as_array().into_iter().flatten() {
        match shard["state"].as_str() {
            Some("ready") => {}
            state => {
                let state = state.unwrap_or("in no known state");
                return Err(BenchError::Server(format!("shard {} is {state}", shard["shard"])));
            }
        }
    }
    Ok(())
}

fn deadline_ms(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_millis().max(1)).unwrap_or(u32::MAX)
}

/// Id and partitions of a topic; `None` when the answer is that it exists already.
fn topic_or_exists(response: &Response<'_>) -> Result<Option<(TopicId, u32)>, String> {
    match response {
        Response::Topic(info) => Ok(Some((info.id, info.partitions))),
        Response::Error { code: ErrorCode::TopicExists, .. } => Ok(None),
        other => Err(unexpected(other)),
    }
}

fn unexpected(response: &Response<'_>) -> String {
    match response {
        Response::Error { code, message, .. } => format!("{}: {message}", code.name()),
        other => format!("an unexpected answer: {other:?}"),
    }
}

/// A blocking connection for the few requests around a run.
struct Control {
    stream: TcpStream,
    correlation: u64,
    /// Most requests the server lets a connection have unanswered.
    in_flight_max: u32,
}

impl Control {
    fn open(addr: &str) -> Result<Control, BenchError> {
        let mut control = Control { stream: dial(addr)?, correlation: 0, in_flight_max: 0 };
        let (version_min, version_max) = ironring_net::VERSIONS;
        let hello =
            Request::Hello { version_min, version_max, features: 0, cluster: "", client: CLIENT };
        control.in_flight_max = control.ask(&hello, |response| match response {
            Response::Welcome(welcome) => Ok(welcome.in_flight_max),
            other => Err(unexpected(other)),
        })?;
        Ok(control)
    }

    fn ask<R>(
        &mut self,
        request: &Request<'_>,
        read: impl FnOnce(&Response<'_>) -> Result<R, String>,
    ) -> Result<R, BenchError> {
        self.correlation += 1;
        let mut frame = Vec::new();
        encode_request(&mut frame, self.correlation, 0, request)
            .map_err(|e| BenchError::Usage(e.to_string()))?;
        send(&mut self.stream, &frame)?;
        let reading = || "reading the server's answer".to_owned();
        let mut head = [0; HEADER_BYTES];
        self.stream.read_exact(&mut head).map_err(BenchError::system(reading()))?;
        let header = decode_header(&head).map_err(|e| BenchError::Server(e.to_string()))?;
        let mut body = vec![0; header.body_len as usize];
        self.stream.read_exact(&mut body).map_err(BenchError::system(reading()))?;
        let response =
            decode_response(&header, &body).map_err(|e| BenchError::Server(e.to_string()))?;
        read(&response).map_err(BenchError::Server)
    }
}

impl Target for IronringTarget {
    type Protocol = Ironring;

    fn connect(
        &self,
        lane: usize,
        workload: &mut Workload,
    ) -> Result<(TcpStream, Ironring), BenchError> {
        let shard = self.placed.as_ref().map(|placed| &placed.shards[lane % placed.shards.len()]);
        let control = Control::open(shard.map_or(&self.addr, |(address, _)| address))?;
        if self.pipeline > control.in_flight_max as usize {
            return Err(BenchError::Usage(format!(
                "load.pipeline = {}: the server allows {} unanswered requests per connection",
                self.pipeline, control.in_flight_max
            )));
        }
        let partition = (lane as u64 % u64::from(self.partitions)) as u32;
        let mut protocol = Ironring {
            options: WriteOptions {
                durability: self.durability,
                session: SessionId::NONE,
                sequence: 0,
            },
            deadline_ms: self.deadline_ms,
            topic: self.topic,
            partition,
            read_bytes_max: self.read_bytes_max,
            position: ReadFrom::Earliest,
            append: Vec::new(),
            owned: shard
                .zip(self.placed.as_ref())
                .map(|((_, owned), placed)| Owned { partitions: owned.clone(), keys: placed.keys }),
        };
        if self.uses_topic {
            protocol.encode_append(&workload.records(self.records_per_append))?;
        }
        Ok((control.stream, protocol))
    }

    fn stats(&self) -> Result<Option<Value>, BenchError> {
        stats(&self.addr).map(Some)
    }
}

/// The keys a connection's shard leads.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    /// Of each partition, whether it does.
    partitions: Arc<[bool]>,
    keys: u64,
}

impl Owned {
    /// The first owned key from this one on; the key itself when none is owned.
    fn from(&self, key: u64) -> u64 {
        let partitions = self.partitions.len() as u32;
        let owned = |key: &u64| {
            self.partitions[Token::of_key(&key_bytes(*key)).partition(partitions).0 as usize]
        };
        (key..self.keys).chain(0..key).find(owned).unwrap_or(key)
    }
}

/// One connection to an ironring node.
#[derive(Clone, Debug)]
pub struct Ironring {
    options: WriteOptions,
    deadline_ms: u32,
    topic: TopicId,
    partition: u32,
    read_bytes_max: u32,
    /// Where the next topic read begins: behind the last one, and at the start again at the end.
    position: ReadFrom,
    /// The frame of a topic append, encoded once; each use gets its own correlation.
    append: Vec<u8>,
    /// Where requests are to be kept to the keys of one shard.
    owned: Option<Owned>,
}

impl Ironring {
    /// A connection that puts, gets and deletes keys.
    #[must_use]
    pub fn for_keys(durability: Durability, timeout: Duration) -> Ironring {
        Ironring {
            options: WriteOptions { durability, session: SessionId::NONE, sequence: 0 },
            deadline_ms: deadline_ms(timeout),
            topic: TopicId(0),
            partition: 0,
            read_bytes_max: 0,
            position: ReadFrom::Earliest,
            append: Vec::new(),
            owned: None,
        }
    }

    fn encode_append(&mut self, records: &[&[u8]]) -> Result<(), BenchError> {
        let too_large = |e: ironring_net::error::BodyError| {
            BenchError::Usage(format!("one topic append of {} records: {e}", records.len()))
        };
        let mut list = Vec::new();
        let mut builder = AppendListBuilder::new(&mut list);
        for value in records {
            builder.push(AppendRecord { key: b"", value }).map_err(too_large)?;
        }
        let request = Request::TopicAppend {
            options: self.options,
            topic: self.topic,
            to: AppendTo::Partition(self.partition),
            records: builder.finish(),
        };
        self.append.clear();
        encode_request(&mut self.append, 0, self.deadline_ms, &request).map_err(too_large)
    }

    fn outcome(&mut self, response: &Response<'_>) -> Result<Outcome<'static>, String> {
        match response {
            Response::Receipt(_) | Response::Value(_) | Response::Appended { .. } => {
                Ok(Outcome::Ok)
            }
            Response::Records { records, start, end } => {
                let next = records.iter().last().map_or(*end, |record| record.offset + 1);
                self.position = ReadFrom::Offset(if next >= *end { *start } else { next });
                Ok(if records.is_empty() { Outcome::Missing } else { Outcome::Ok })
            }
            Response::Error { code: ErrorCode::NotFound, .. } => Ok(Outcome::Missing),
            Response::Error { code, .. } => {
                if *code == ErrorCode::OffsetOutOfRange {
                    self.position = ReadFrom::Earliest;
                }
                Ok(Outcome::Refused(code.name()))
            }
            other => Err(unexpected(other)),
        }
    }
}

impl Protocol for Ironring {
    const TAGGED: bool = true;

    fn encode(&mut self, op: &Op<'_>, tag: u32, out: &mut Vec<u8>) {
        let key = key_bytes(self.owned.as_ref().map_or(op.key, |owned| owned.from(op.key)));
        let options = self.options;
        let condition = Condition::None;
        let request = match op.kind {
            OpKind::Put => {
                Request::Put { options, condition, ttl_ms: 0, key: &key, value: op.value }
            }
            OpKind::Get => Request::Get { key: &key },
            OpKind::Delete => Request::Delete { options, condition, key: &key },
            OpKind::Append => {
                let at = out.len();
                out.extend_from_slice(&self.append);
                set_correlation(&mut out[at..], u64::from(tag));
                return;
            }
            OpKind::Read => Request::TopicRead {
                topic: self.topic,
                partition: self.partition,
                from: self.position,
                max_records: 0,
                max_bytes: self.read_bytes_max,
                wait_ms: 0,
            },
        };
        encode_request(out, u64::from(tag), self.deadline_ms, &request)
            .expect("keys have a fixed length and Scenario::check bounds values");
    }

    fn parse<'a>(&mut self, input: &'a [u8]) -> Result<Parsed<'a>, String> {
        if input.len() < HEADER_BYTES {
            return Ok(Parsed::Incomplete { need: HEADER_BYTES });
        }
        let header = decode_header(input).map_err(|e| e.to_string())?;
        let len = header.frame_bytes();
        let Some(body) = input.get(HEADER_BYTES..len) else {
            return Ok(Parsed::Incomplete { need: len });
        };
        let response = decode_response(&header, body).map_err(|e| e.to_string())?;
        let outcome = self.outcome(&response)?;
        let tag = u32::try_from(header.correlation).ok();
        Ok(Parsed::Reply { len, tag, outcome })
    }
}

/// A receipt with every field at its default, for servers that answer without storing.
#[must_use]
pub fn empty_receipt() -> ironring_net::message::Receipt {
    ironring_net::message::Receipt {
        durability: Durability::Async,
        partition: ironring_core::PartitionId(0),
        term: ironring_core::Term(0),
        offset: Offset::FIRST,
        duplicate: false,
    }
}

#[cfg(test)]
mod tests;
