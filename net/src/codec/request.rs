//! Requests: opcode by opcode, the writer next to the reader.

use ironring_core::limits::{
    FRAME_BODY_BYTES_MAX, KEY_BYTES_MAX, TOPIC_PARTITIONS_MAX, VALUE_BYTES_MAX,
};
use ironring_core::{Durability, PartitionId, SessionId, TopicId, WallTime};

use crate::VERSIONS;
use crate::error::{BodyError, RequestError};
use crate::frame::{self, HEADER_BYTES, Header, Opcode, flags};
use crate::list::{AppendList, BatchList, KeyList, read_condition, write_condition};
use crate::message::{AppendTo, Condition, ReadFrom, Request, Retention, WriteOptions};
use crate::wire::{
    Put, Reader, check_key_len, check_topic_name, key_len, optional_key_len, text_len, value_len,
    within,
};

const SCAN_VALUES: u8 = 1;

/// Appends the frame of a request to `out`. Costs one copy of the key and value and a checksum.
///
/// # Errors
/// When a field is over its limit or not allowed; `out` is as before.
pub fn encode_request(
    out: &mut Vec<u8>,
    correlation: u64,
    deadline_ms: u32,
    request: &Request<'_>,
) -> Result<(), BodyError> {
    let at = frame::begin(out, body_hint(request));
    let written = write_body(out, request).and_then(|opcode| {
        let len = out.len() - at - HEADER_BYTES;
        within(len, FRAME_BODY_BYTES_MAX, "frame body")?;
        Ok(opcode)
    });
    match written {
        Ok(opcode) => {
            let header = Header {
                version: VERSIONS.1,
                opcode: opcode as u8,
                status: 0,
                correlation,
                body_len: 0,
                deadline_ms,
                body_crc: 0,
            };
            frame::seal(out, at, header);
            Ok(())
        }
        Err(error) => {
            out.truncate(at);
            Err(error)
        }
    }
}

/// Room to reserve, so that a large body is not copied by a growing buffer.
fn body_hint(request: &Request<'_>) -> usize {
    64 + match request {
        Request::Put { key, value, .. } => key.len() + value.len(),
        Request::MultiGet { keys, .. } => keys.as_bytes().len(),
        Request::Batch { ops, .. } => ops.as_bytes().len(),
        Request::TopicAppend { records, .. } => records.as_bytes().len(),
        _ => 0,
    }
}

/// Reads the request a frame carries.
///
/// # Errors
/// [`RequestError`]: the frame is answered with its code, the connection goes on.
pub fn decode_request<'a>(header: &Header, body: &'a [u8]) -> Result<Request<'a>, RequestError> {
    header
        .check_body(body)
        .map_err(|computed| RequestError::BodyChecksum { stored: header.body_crc, computed })?;
    let opcode = Opcode::from_u8(header.opcode)
        .filter(|opcode| !opcode.is_response())
        .ok_or(RequestError::UnknownOpcode(header.opcode))?;
    let known = if may_be_stale(opcode) { flags::STALE } else { 0 };
    if header.status & !known != 0 {
        return Err(RequestError::UnknownFlags(header.status));
    }
    let mut reader = Reader::new(body);
    let request = read_body(opcode, &mut reader)?;
    reader.finish()?;
    Ok(request)
}

/// Whether a request may be answered by any replica, if it says so.
fn may_be_stale(opcode: Opcode) -> bool {
    matches!(
        opcode,
        Opcode::Get | Opcode::MultiGet | Opcode::Scan | Opcode::TopicRead | Opcode::TopicOffsets
    )
}

fn write_body(out: &mut Vec<u8>, request: &Request<'_>) -> Result<Opcode, BodyError> {
    match *request {
        Request::Hello { version_min, version_max, features, cluster, client } => {
            let cluster_len = text_len(cluster, "cluster name")?;
            let client_len = text_len(client, "client name")?;
            out.put(&[version_min, version_max, cluster_len, client_len]);
            out.put_u64(features);
            out.put(cluster.as_bytes());
            out.put(client.as_bytes());
            Ok(Opcode::Hello)
        }
        Request::Ping => Ok(Opcode::Ping),
        Request::ClusterMap => Ok(Opcode::ClusterMap),
        Request::OpenSession => Ok(Opcode::OpenSession),
        Request::Stats => Ok(Opcode::Stats),
        Request::Put { .. }
        | Request::Get { .. }
        | Request::Delete { .. }
        | Request::MultiGet { .. }
        | Request::Batch { .. }
        | Request::Scan { .. } => write_keys(out, request),
        _ => write_topics(out, request),
    }
}

fn write_keys(out: &mut Vec<u8>, request: &Request<'_>) -> Result<Opcode, BodyError> {
    match *request {
        Request::Put { options, condition, ttl_ms, key, value } => {
            let (kind, version) = write_condition(condition);
            let value_len = value_len(value)?;
            out.put(&[options.durability as u8, kind]);
            out.put_u16(key_len(key)?);
            out.put_u32(value_len);
            write_session(out, options)?;
            out.put_u64(version);
            out.put_u64(ttl_ms);
            out.put(key);
            out.put(value);
            Ok(Opcode::Put)
        }
        Request::Get { key } => {
            out.put_u16(key_len(key)?);
            out.put(key);
            Ok(Opcode::Get)
        }
        Request::Delete { options, condition, key } => {
            let (kind, version) = write_condition(condition);
            out.put(&[options.durability as u8, kind]);
            out.put_u16(key_len(key)?);
            out.put_u32(0);
            write_session(out, options)?;
            out.put_u64(version);
            out.put(key);
            Ok(Opcode::Delete)
        }
        Request::MultiGet { partition, keys } => {
            out.put_u32(partition.0);
            out.put_u32(keys.count());
            out.put(keys.as_bytes());
            Ok(Opcode::MultiGet)
        }
        Request::Batch { options, partition, ops } => {
            out.put(&[options.durability as u8, 0, 0, 0]);
            out.put_u32(partition.0);
            write_session(out, options)?;
            out.put_u32(ops.count());
            out.put(ops.as_bytes());
            Ok(Opcode::Batch)
        }
        Request::Scan { partition, prefix, after, limit, values } => {
            out.put_u32(partition.0);
            out.put_u32(limit);
            out.put(&[if values { SCAN_VALUES } else { 0 }, 0]);
            out.put_u16(optional_key_len(prefix, "prefix")?);
            out.put_u16(optional_key_len(after, "cursor")?);
            out.put(prefix);
            out.put(after);
            Ok(Opcode::Scan)
        }
        _ => unreachable!("write_body sends only these here"),
    }
}

fn write_topics(out: &mut Vec<u8>, request: &Request<'_>) -> Result<Opcode, BodyError> {
    match *request {
        Request::TopicCreate { name, partitions, retention } => {
            out.put_u32(check_partitions(partitions)?);
            write_retention(out, retention);
            write_topic_name(out, name)?;
            Ok(Opcode::TopicCreate)
        }
        Request::TopicDelete { name } => {
            write_topic_name(out, name)?;
            Ok(Opcode::TopicDelete)
        }
        Request::TopicDescribe { name } => {
            write_topic_name(out, name)?;
            Ok(Opcode::TopicDescribe)
        }
        Request::TopicList => Ok(Opcode::TopicList),
        Request::TopicAlter { name, retention } => {
            write_retention(out, retention);
            write_topic_name(out, name)?;
            Ok(Opcode::TopicAlter)
        }
        Request::TopicAppend { options, topic, to, records } => {
            let (kind, partition, key) = match to {
                AppendTo::Partition(partition) => (0, partition, [].as_slice()),
                AppendTo::Key(key) => (1, 0, key),
            };
            out.put(&[options.durability as u8, kind]);
            out.put_u16(optional_key_len(key, "key")?);
            out.put_u32(topic.0);
            write_session(out, options)?;
            out.put_u32(partition);
            out.put_u32(records.count());
            out.put(key);
            out.put(records.as_bytes());
            Ok(Opcode::TopicAppend)
        }
        Request::TopicRead { topic, partition, from, max_records, max_bytes, wait_ms } => {
            let (kind, value) = match from {
                ReadFrom::Offset(offset) => (0, offset),
                ReadFrom::Time(time) => (1, time.0),
                ReadFrom::Earliest => (2, 0),
                ReadFrom::Latest => (3, 0),
            };
            out.put_u32(topic.0);
            out.put_u32(partition);
            out.put(&[kind, 0, 0, 0]);
            out.put_u64(value);
            out.put_u32(max_records);
            out.put_u32(max_bytes);
            out.put_u32(wait_ms);
            Ok(Opcode::TopicRead)
        }
        Request::TopicOffsets { topic, partition, time } => {
            out.put_u32(topic.0);
            out.put_u32(partition);
            out.put_u64(time.0);
            Ok(Opcode::TopicOffsets)
        }
        Request::TopicTrim { options, topic, partition, before } => {
            out.put(&[options.durability as u8, 0, 0, 0]);
            out.put_u32(topic.0);
            write_session(out, options)?;
            out.put_u32(partition);
            out.put_u64(before);
            Ok(Opcode::TopicTrim)
        }
        _ => unreachable!("write_body sends only these here"),
    }
}

fn read_body<'a>(opcode: Opcode, r: &mut Reader<'a>) -> Result<Request<'a>, BodyError> {
    Ok(match opcode {
        Opcode::Hello => {
            let [version_min, version_max, cluster_len, client_len] = r.array("versions")?;
            let features = r.u64("features")?;
            let cluster = r.str(cluster_len.into(), "cluster name")?;
            let client = r.str(client_len.into(), "client name")?;
            Request::Hello { version_min, version_max, features, cluster, client }
        }
        Opcode::Ping => Request::Ping,
        Opcode::ClusterMap => Request::ClusterMap,
        Opcode::OpenSession => Request::OpenSession,
        Opcode::Stats => Request::Stats,
        Opcode::Put => read_put(r)?,
        Opcode::Get => {
            let key_len = check_key_len(r.u16("key length")?.into())?;
            Request::Get { key: r.take(key_len, "key")? }
        }
        Opcode::Delete => read_delete(r)?,
        Opcode::MultiGet => {
            let partition = PartitionId(r.u32("partition")?);
            let count = r.u32("number of keys")?;
            Request::MultiGet { partition, keys: KeyList::from_bytes(count, rest(r)?)? }
        }
        Opcode::Batch => {
            let durability = read_durability(r)?;
            r.zeros::<3>("durability")?;
            let partition = PartitionId(r.u32("partition")?);
            let options = read_session(r, durability)?;
            let count = r.u32("number of operations")?;
            Request::Batch { options, partition, ops: BatchList::from_bytes(count, rest(r)?)? }
        }
        Opcode::Scan => read_scan(r)?,
        Opcode::TopicList => Request::TopicList,
        Opcode::TopicCreate => {
            let partitions = check_partitions(r.u32("number of partitions")?)?;
            let retention = read_retention(r)?;
            Request::TopicCreate { name: read_topic_name(r)?, partitions, retention }
        }
        Opcode::TopicDelete => Request::TopicDelete { name: read_topic_name(r)? },
        Opcode::TopicDescribe => Request::TopicDescribe { name: read_topic_name(r)? },
        Opcode::TopicAlter => {
            let retention = read_retention(r)?;
            Request::TopicAlter { name: read_topic_name(r)?, retention }
        }
        Opcode::TopicAppend => read_append(r)?,
        Opcode::TopicRead => read_read(r)?,
        Opcode::TopicOffsets => Request::TopicOffsets {
            topic: TopicId(r.u32("topic")?),
            partition: r.u32("partition")?,
            time: WallTime(r.u64("time")?),
        },
        Opcode::TopicTrim => {
            let durability = read_durability(r)?;
            r.zeros::<3>("durability")?;
            let topic = TopicId(r.u32("topic")?);
            let options = read_session(r, durability)?;
            let partition = r.u32("partition")?;
            Request::TopicTrim { options, topic, partition, before: r.u64("first offset kept")? }
        }
        _ => unreachable!("decode_request passes on no opcode of a response"),
    })
}

fn read_put<'a>(r: &mut Reader<'a>) -> Result<Request<'a>, BodyError> {
    let durability = read_durability(r)?;
    let kind = r.u8("condition")?;
    let key_len = check_key_len(r.u16("key length")?.into())?;
    let value_len = within(r.u32("value length")? as usize, VALUE_BYTES_MAX, "value")?;
    let options = read_session(r, durability)?;
    let condition = read_condition(kind, r.u64("condition version")?)?;
    let ttl_ms = r.u64("ttl")?;
    let key = r.take(key_len, "key")?;
    let value = r.take(value_len, "value")?;
    Ok(Request::Put { options, condition, ttl_ms, key, value })
}

fn read_delete<'a>(r: &mut Reader<'a>) -> Result<Request<'a>, BodyError> {
    let durability = read_durability(r)?;
    let kind = r.u8("condition")?;
    let key_len = check_key_len(r.u16("key length")?.into())?;
    r.zeros::<4>("key length")?;
    let options = read_session(r, durability)?;
    let condition: Condition = read_condition(kind, r.u64("condition version")?)?;
    Ok(Request::Delete { options, condition, key: r.take(key_len, "key")? })
}

fn read_scan<'a>(r: &mut Reader<'a>) -> Result<Request<'a>, BodyError> {
    let partition = PartitionId(r.u32("partition")?);
    let limit = r.u32("limit")?;
    let flags = r.u8("scan flags")?;
    if flags & !SCAN_VALUES != 0 {
        return Err(BodyError::UnknownChoice { field: "scan flags", value: flags.into() });
    }
    r.zeros::<1>("scan flags")?;
    let prefix_len = within(r.u16("prefix length")?.into(), KEY_BYTES_MAX, "prefix")?;
    let after_len = within(r.u16("cursor length")?.into(), KEY_BYTES_MAX, "cursor")?;
    let prefix = r.take(prefix_len, "prefix")?;
    let after = r.take(after_len, "cursor")?;
    Ok(Request::Scan { partition, prefix, after, limit, values: flags & SCAN_VALUES != 0 })
}

fn read_append<'a>(r: &mut Reader<'a>) -> Result<Request<'a>, BodyError> {
    let durability = read_durability(r)?;
    let kind = r.u8("kind of target")?;
    let key_len = within(r.u16("key length")?.into(), KEY_BYTES_MAX, "key")?;
    let topic = TopicId(r.u32("topic")?);
    let options = read_session(r, durability)?;
    let partition = r.u32("partition")?;
    let count = r.u32("number of records")?;
    let key = r.take(key_len, "key")?;
    let to = match kind {
        0 if key.is_empty() => AppendTo::Partition(partition),
        1 if partition == 0 => AppendTo::Key(key),
        0 | 1 => return Err(BodyError::Reserved { field: "the other kind of target" }),
        kind => {
            return Err(BodyError::UnknownChoice { field: "kind of target", value: kind.into() });
        }
    };
    let records = AppendList::from_bytes(count, rest(r)?)?;
    Ok(Request::TopicAppend { options, topic, to, records })
}

fn read_read<'a>(r: &mut Reader<'a>) -> Result<Request<'a>, BodyError> {
    let topic = TopicId(r.u32("topic")?);
    let partition = r.u32("partition")?;
    let kind = r.u8("where to begin")?;
    r.zeros::<3>("where to begin")?;
    let from = match (kind, r.u64("where to begin")?) {
        (0, offset) => ReadFrom::Offset(offset),
        (1, time) => ReadFrom::Time(WallTime(time)),
        (2, 0) => ReadFrom::Earliest,
        (3, 0) => ReadFrom::Latest,
        (2 | 3, _) => return Err(BodyError::Reserved { field: "where to begin" }),
        (kind, _) => {
            return Err(BodyError::UnknownChoice { field: "where to begin", value: kind.into() });
        }
    };
    let max_records = r.u32("most records")?;
    let max_bytes = r.u32("most bytes")?;
    Ok(Request::TopicRead {
        topic,
        partition,
        from,
        max_records,
        max_bytes,
        wait_ms: r.u32("wait")?,
    })
}

/// Everything left: a list is the last field of its message.
fn rest<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], BodyError> {
    r.take(r.rest().len(), "list")
}

fn write_session(out: &mut Vec<u8>, options: WriteOptions) -> Result<(), BodyError> {
    check_sequence(options)?;
    out.put_u64(options.session.0);
    out.put_u64(options.sequence);
    Ok(())
}

fn read_session(r: &mut Reader<'_>, durability: Durability) -> Result<WriteOptions, BodyError> {
    let session = SessionId(r.u64("session")?);
    let options = WriteOptions { durability, session, sequence: r.u64("sequence")? };
    check_sequence(options)?;
    Ok(options)
}

fn check_sequence(options: WriteOptions) -> Result<(), BodyError> {
    if options.session != SessionId::NONE && options.sequence == 0 {
        return Err(BodyError::Invalid { field: "sequence", rule: "of a session begins at 1" });
    }
    Ok(())
}

fn read_durability(r: &mut Reader<'_>) -> Result<Durability, BodyError> {
    let value = r.u8("durability")?;
    Durability::from_u8(value)
        .ok_or(BodyError::UnknownChoice { field: "durability", value: value.into() })
}

fn write_retention(out: &mut Vec<u8>, retention: Retention) {
    out.put_u64(retention.age_ms);
    out.put_u64(retention.bytes);
}

fn read_retention(r: &mut Reader<'_>) -> Result<Retention, BodyError> {
    Ok(Retention { age_ms: r.u64("retention age")?, bytes: r.u64("retention bytes")? })
}

fn write_topic_name(out: &mut Vec<u8>, name: &str) -> Result<(), BodyError> {
    out.put_u8(check_topic_name(name)?);
    out.put(name.as_bytes());
    Ok(())
}

fn read_topic_name<'a>(r: &mut Reader<'a>) -> Result<&'a str, BodyError> {
    let len = r.u8("topic name length")?;
    let name = r.str(len.into(), "topic name")?;
    check_topic_name(name)?;
    Ok(name)
}

fn check_partitions(partitions: u32) -> Result<u32, BodyError> {
    if partitions == 0 {
        let field = "number of partitions";
        return Err(BodyError::Invalid { field, rule: "must be at least 1" });
    }
    within(partitions as usize, TOPIC_PARTITIONS_MAX as usize, "number of partitions")?;
    Ok(partitions)
}
