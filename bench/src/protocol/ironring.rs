//! ironring's client protocol: tagged by correlation, answered in any order.

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use ironring_core::{Durability, ErrorCode, Offset, SessionId, TopicId};
use ironring_net::codec::{decode_response, encode_request};
use ironring_net::frame::{HEADER_BYTES, decode_header, set_correlation};
use ironring_net::list::AppendListBuilder;
use ironring_net::message::{
    AppendRecord, AppendTo, Condition, ReadFrom, Request, Response, Retention, WriteOptions,
};

use super::{Parsed, Protocol, Target, dial, send};
use crate::error::BenchError;
use crate::keys::key_bytes;
use crate::recorder::Outcome;
use crate::scenario::Scenario;
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
        };
        let mut control = Control::open(&target.addr)?;
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
        let control = Control::open(&self.addr)?;
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
        };
        if self.uses_topic {
            protocol.encode_append(&workload.records(self.records_per_append))?;
        }
        Ok((control.stream, protocol))
    }

    fn stats(&self) -> Result<Option<serde_json::Value>, BenchError> {
        Control::open(&self.addr)?.ask(&Request::Stats, |response| match response {
            Response::Stats(text) => {
                serde_json::from_str(text).map(Some).map_err(|e| format!("Stats is no JSON: {e}"))
            }
            other => Err(unexpected(other)),
        })
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
        let key = key_bytes(op.key);
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
