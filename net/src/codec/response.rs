//! Responses: opcode by opcode, the writer next to the reader.

use ironring_core::limits::FRAME_BODY_BYTES_MAX;
use ironring_core::{
    Durability, ErrorCode, Offset, PartitionId, SessionId, StorageUuid, Term, TopicId, WallTime,
};

use crate::VERSIONS;
use crate::error::{BodyError, ResponseError};
use crate::frame::{self, HEADER_BYTES, Header, Opcode};
use crate::list::{Entry, RecordList, ScanList, ValueList};
use crate::message::{
    ClusterMap, Receipt, Response, Retention, ShardAddress, TopicInfo, ValueRef, Welcome,
};
use crate::wire::{Put, Reader, check_topic_name, text_len, within};

/// Longest message of an error; what is longer is cut.
const MESSAGE_BYTES_MAX: usize = 1024;
/// Smallest encoding of a shard in the cluster map and of a topic: no count can promise more.
const SHARD_BYTES_MIN: usize = 12;
const TOPIC_BYTES_MIN: usize = 33;

/// Appends the frame of a response to `out`. Costs one copy of the value and a checksum.
///
/// A response that breaks a limit (a name over 255 bytes, a frame over the largest) would be
/// refused by the client: it becomes an error that says so, and the request is answered all the
/// same.
pub fn encode_response(out: &mut Vec<u8>, correlation: u64, response: &Response<'_>) {
    let at = frame::begin(out, body_hint(response));
    let written = write_body(out, response).and_then(|header| {
        let len = out.len() - at - HEADER_BYTES;
        within(len, FRAME_BODY_BYTES_MAX, "answer")?;
        Ok(header)
    });
    let (opcode, status) = written.unwrap_or_else(|error| {
        out.truncate(at + HEADER_BYTES);
        write_error(out, error.code(), 0, &format!("the answer cannot be sent: {error}"))
    });
    let header = Header {
        version: VERSIONS.1,
        opcode: opcode as u8,
        status,
        correlation,
        body_len: 0,
        deadline_ms: 0,
        body_crc: 0,
    };
    frame::seal(out, at, header);
}

/// Room to reserve, so that a large body is not copied by a growing buffer.
fn body_hint(response: &Response<'_>) -> usize {
    64 + match response {
        Response::Value(value) => value.value.len(),
        Response::Values(list) => list.as_bytes().len(),
        Response::Page { entries, .. } => entries.as_bytes().len(),
        Response::Records { records, .. } => records.as_bytes().len(),
        Response::Stats(text) => text.len(),
        _ => 0,
    }
}

/// Reads the response a frame carries.
///
/// # Errors
/// [`ResponseError`]: the two sides disagree about the protocol; the connection is of no more use.
pub fn decode_response<'a>(header: &Header, body: &'a [u8]) -> Result<Response<'a>, ResponseError> {
    header
        .check_body(body)
        .map_err(|computed| ResponseError::BodyChecksum { stored: header.body_crc, computed })?;
    let opcode = Opcode::from_u8(header.opcode)
        .filter(|opcode| opcode.is_response())
        .ok_or(ResponseError::UnknownOpcode(header.opcode))?;
    let (status, is_error) = (header.status, opcode == Opcode::Error);
    if is_error != (status != 0) {
        return Err(ResponseError::Status { status, opcode: header.opcode });
    }
    let mut reader = Reader::new(body);
    let response = if is_error {
        let detail = reader.u64("detail")?;
        let len = reader.u16("message length")?;
        let message = reader.str(len.into(), "message")?;
        let Some(code) = ErrorCode::from_u16(status) else {
            return Err(ResponseError::UnknownCode { code: status, message: message.to_owned() });
        };
        Response::Error { code, detail, message }
    } else {
        read_body(opcode, &mut reader)?
    };
    reader.finish()?;
    Ok(response)
}

fn write_body(out: &mut Vec<u8>, response: &Response<'_>) -> Result<(Opcode, u16), BodyError> {
    let opcode = match response {
        Response::Error { code, detail, message } => {
            return Ok(write_error(out, *code, *detail, message));
        }
        Response::Welcome(welcome) => write_welcome(out, welcome)?,
        Response::Pong => Opcode::Pong,
        Response::ClusterMap(map) => write_map(out, map)?,
        Response::Session(session) => {
            out.put_u64(session.0);
            Opcode::Session
        }
        Response::Stats(text) => {
            out.put_u32(within(text.len(), FRAME_BODY_BYTES_MAX, "statistics")? as u32);
            out.put(text.as_bytes());
            Opcode::StatsText
        }
        Response::Receipt(receipt) => {
            write_receipt(out, receipt);
            Opcode::Receipt
        }
        Response::Value(value) => {
            value.write(out)?;
            Opcode::Value
        }
        Response::Values(list) => {
            out.put_u32(list.count());
            out.put(list.as_bytes());
            Opcode::Values
        }
        Response::Page { entries, more } => {
            out.put_u32(entries.count());
            out.put(&[u8::from(*more), 0, 0, 0]);
            out.put(entries.as_bytes());
            Opcode::Page
        }
        Response::Topic(topic) => {
            write_topic(out, topic)?;
            Opcode::Topic
        }
        Response::Topics(topics) => {
            out.put_u32(within(topics.len(), u32::MAX as usize, "topics")? as u32);
            topics.iter().try_for_each(|topic| write_topic(out, topic))?;
            Opcode::Topics
        }
        Response::Appended { receipt, partition, first, count } => {
            write_receipt(out, receipt);
            out.put_u32(*partition);
            out.put_u64(*first);
            out.put_u32(*count);
            Opcode::Appended
        }
        Response::Records { records, start, end } => {
            out.put_u64(*start);
            out.put_u64(*end);
            out.put_u32(records.count());
            out.put(records.as_bytes());
            Opcode::Records
        }
        Response::Offsets { start, end, at_time } => {
            out.put_u64(*start);
            out.put_u64(*end);
            out.put_u64(*at_time);
            Opcode::Offsets
        }
    };
    Ok((opcode, 0))
}

fn read_body<'a>(opcode: Opcode, r: &mut Reader<'a>) -> Result<Response<'a>, BodyError> {
    Ok(match opcode {
        Opcode::Welcome => Response::Welcome(read_welcome(r)?),
        Opcode::Pong => Response::Pong,
        Opcode::Map => Response::ClusterMap(read_map(r)?),
        Opcode::Session => Response::Session(SessionId(r.u64("session")?)),
        Opcode::StatsText => {
            let len = r.u32("length")?;
            Response::Stats(r.str(len as usize, "statistics")?)
        }
        Opcode::Receipt => Response::Receipt(read_receipt(r)?),
        Opcode::Value => Response::Value(ValueRef::read(r)?),
        Opcode::Values => {
            let count = r.u32("number of values")?;
            Response::Values(ValueList::from_bytes(count, rest(r)?)?)
        }
        Opcode::Page => {
            let count = r.u32("number of entries")?;
            let more = r.flag("more")?;
            r.zeros::<3>("more")?;
            Response::Page { entries: ScanList::from_bytes(count, rest(r)?)?, more }
        }
        Opcode::Topic => Response::Topic(read_topic(r)?),
        Opcode::Topics => {
            let count = promised(r, r.rest().len(), TOPIC_BYTES_MIN, "topics")?;
            let topics = (0..count).map(|_| read_topic(r)).collect::<Result<_, _>>()?;
            Response::Topics(topics)
        }
        Opcode::Appended => Response::Appended {
            receipt: read_receipt(r)?,
            partition: r.u32("partition")?,
            first: r.u64("first offset")?,
            count: r.u32("number of records")?,
        },
        Opcode::Records => {
            let start = r.u64("start")?;
            let end = r.u64("end")?;
            let count = r.u32("number of records")?;
            Response::Records { records: RecordList::from_bytes(count, rest(r)?)?, start, end }
        }
        Opcode::Offsets => Response::Offsets {
            start: r.u64("start")?,
            end: r.u64("end")?,
            at_time: r.u64("offset at the time")?,
        },
        _ => unreachable!("decode_response passes on answers only, and reads errors itself"),
    })
}

/// A count that the remaining bytes can hold, at `bytes_min` each: nothing is allocated on the word
/// of a peer.
fn promised(
    r: &mut Reader<'_>,
    rest: usize,
    bytes_min: usize,
    field: &'static str,
) -> Result<usize, BodyError> {
    let count = r.u32(field)? as usize;
    if count > rest / bytes_min {
        return Err(BodyError::Truncated { field });
    }
    Ok(count)
}

/// Everything left: a list is the last field of its message.
fn rest<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], BodyError> {
    r.take(r.rest().len(), "list")
}

fn write_error(out: &mut Vec<u8>, code: ErrorCode, detail: u64, message: &str) -> (Opcode, u16) {
    let cut = (0..=MESSAGE_BYTES_MAX.min(message.len()))
        .rev()
        .find(|at| message.is_char_boundary(*at))
        .expect("0 is a boundary");
    let message = &message[..cut];
    out.put_u64(detail);
    out.put_u16(message.len() as u16);
    out.put(message.as_bytes());
    (Opcode::Error, code as u16)
}

fn write_welcome(out: &mut Vec<u8>, welcome: &Welcome<'_>) -> Result<Opcode, BodyError> {
    let cluster_len = text_len(welcome.cluster, "cluster name")?;
    let node_len = text_len(welcome.node, "node name")?;
    let server_len = text_len(welcome.server, "server version")?;
    out.put(&[welcome.version, cluster_len, node_len, server_len]);
    out.put_u16(welcome.shard);
    out.put_u16(0);
    out.put_u64(welcome.features);
    // In the order the text form shows them, as UUIDs are everywhere.
    out.put(&welcome.storage.0.to_be_bytes());
    out.put_u32(welcome.frame_bytes_max);
    out.put_u32(welcome.in_flight_max);
    out.put_u32(welcome.key_bytes_max);
    out.put_u32(welcome.value_bytes_max);
    out.put(welcome.cluster.as_bytes());
    out.put(welcome.node.as_bytes());
    out.put(welcome.server.as_bytes());
    Ok(Opcode::Welcome)
}

fn read_welcome<'a>(r: &mut Reader<'a>) -> Result<Welcome<'a>, BodyError> {
    let [version, cluster_len, node_len, server_len] = r.array("version")?;
    let shard = r.u16("shard")?;
    r.zeros::<2>("shard")?;
    Ok(Welcome {
        version,
        features: r.u64("features")?,
        storage: StorageUuid(u128::from_be_bytes(r.array("storage uuid")?)),
        shard,
        frame_bytes_max: r.u32("largest frame")?,
        in_flight_max: r.u32("most in flight")?,
        key_bytes_max: r.u32("longest key")?,
        value_bytes_max: r.u32("longest value")?,
        cluster: r.str(cluster_len.into(), "cluster name")?,
        node: r.str(node_len.into(), "node name")?,
        server: r.str(server_len.into(), "server version")?,
    })
}

fn write_map(out: &mut Vec<u8>, map: &ClusterMap) -> Result<Opcode, BodyError> {
    check_map(map)?;
    out.put_u64(map.epoch);
    out.put_u32(map.partitions);
    out.put_u32(within(map.shards.len(), u16::MAX as usize, "shards")? as u32);
    for shard in &map.shards {
        let address_len = text_len(&shard.address, "address")?;
        out.put_u16(shard.shard);
        out.put(&[address_len, 0]);
        out.put_u32(shard.first);
        out.put_u32(shard.end);
        out.put(shard.address.as_bytes());
    }
    Ok(Opcode::Map)
}

fn read_map(r: &mut Reader<'_>) -> Result<ClusterMap, BodyError> {
    let epoch = r.u64("epoch")?;
    let partitions = r.u32("number of partitions")?;
    let count = promised(r, r.rest().len(), SHARD_BYTES_MIN, "shards")?;
    let mut shards = Vec::with_capacity(count);
    for _ in 0..count {
        let shard = r.u16("shard")?;
        let address_len = r.u8("address length")?;
        r.zeros::<1>("address length")?;
        let first = r.u32("first partition")?;
        let end = r.u32("end of partitions")?;
        let address = r.str(address_len.into(), "address")?.to_owned();
        shards.push(ShardAddress { shard, address, first, end });
    }
    let map = ClusterMap { epoch, partitions, shards };
    check_map(&map)?;
    Ok(map)
}

/// A map answers for every partition exactly once: clients index it without further thought.
fn check_map(map: &ClusterMap) -> Result<(), BodyError> {
    const FIELD: &str = "cluster map";
    if !map.partitions.is_power_of_two() {
        let rule = "must have a power of two partitions";
        return Err(BodyError::Invalid { field: FIELD, rule });
    }
    let covered = map
        .shards
        .iter()
        .try_fold(0, |at, shard| (shard.first == at && shard.end >= at).then_some(shard.end));
    if covered != Some(map.partitions) {
        let rule = "must cover each partition once, in order";
        return Err(BodyError::Invalid { field: FIELD, rule });
    }
    Ok(())
}

fn write_receipt(out: &mut Vec<u8>, receipt: &Receipt) {
    out.put(&[receipt.durability as u8, receipt.duplicate.into(), 0, 0]);
    out.put_u32(receipt.partition.0);
    out.put_u64(receipt.term.0);
    out.put_u64(receipt.offset.0);
}

fn read_receipt(r: &mut Reader<'_>) -> Result<Receipt, BodyError> {
    let level = r.u8("durability")?;
    let durability = Durability::from_u8(level)
        .ok_or(BodyError::UnknownChoice { field: "durability", value: level.into() })?;
    let duplicate = r.flag("duplicate")?;
    r.zeros::<2>("duplicate")?;
    Ok(Receipt {
        durability,
        duplicate,
        partition: PartitionId(r.u32("partition")?),
        term: Term(r.u64("term")?),
        offset: Offset(r.u64("offset")?),
    })
}

fn write_topic(out: &mut Vec<u8>, topic: &TopicInfo) -> Result<(), BodyError> {
    let name_len = check_topic_name(&topic.name)?;
    out.put_u32(topic.id.0);
    out.put_u32(topic.partitions);
    out.put_u64(topic.retention.age_ms);
    out.put_u64(topic.retention.bytes);
    out.put_u64(topic.created.0);
    out.put_u8(name_len);
    out.put(topic.name.as_bytes());
    Ok(())
}

fn read_topic(r: &mut Reader<'_>) -> Result<TopicInfo, BodyError> {
    let id = TopicId(r.u32("topic")?);
    let partitions = r.u32("number of partitions")?;
    let retention = Retention { age_ms: r.u64("retention age")?, bytes: r.u64("retention bytes")? };
    let created = WallTime(r.u64("creation time")?);
    let name_len = r.u8("topic name length")?;
    let name = r.str(name_len.into(), "topic name")?;
    check_topic_name(name)?;
    Ok(TopicInfo { id, name: name.to_owned(), partitions, retention, created })
}
