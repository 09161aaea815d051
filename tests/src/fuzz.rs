//! What fuzzers feed: one function per target, each taking any bytes. None may panic, whatever the
//! bytes; beyond that each checks what must hold of the outcome.
//!
//! `tests/fuzz` calls these from libFuzzer; `tests/tests/fuzz_inputs.rs` calls them with the seeds,
//! with every input that once failed and with seeded damage, so that `cargo test` needs no nightly.

mod recovery;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use ironring_core::checksum::crc32c;
use ironring_core::limits::{BLOCK_BYTES, FRAME_BODY_BYTES_MAX};
use ironring_core::prng::Prng;
use ironring_core::{Durability, Instant, Offset, SegmentId, SessionId, ShardId, StorageUuid};
use ironring_log::Identity;
use ironring_log::format::IdentitySeed;
use ironring_log::format::checkpoint::{CheckpointHeader, Frame, FrameReader};
use ironring_log::format::group::{GROUP_HEADER_BYTES, GroupHeader};
use ironring_log::format::record;
use ironring_log::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use ironring_log::format::superblock::Superblock;
use ironring_net::connection::{self, Connection, Limits};
use ironring_net::frame::{HEADER_BYTES, decode_header, set_flags};
use ironring_net::list::{AppendListBuilder, BatchListBuilder, KeyListBuilder};
use ironring_net::message::{
    AppendRecord, AppendTo, BatchOp, Condition, ReadFrom, Receipt, Request, Response, WriteOptions,
};
use ironring_net::{
    Header, VERSIONS, decode_request, decode_response, encode_request, encode_response,
};
use ironring_node::config::Sources;
use ironring_node::shard::checkpoint::restore_piece;
use ironring_node::shard::models::Models;

pub use recovery::recovery;

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is also that of its directory of inputs.
    pub name: &'static str,
    /// Takes one input.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const TARGETS: [Target; 6] = [
    Target { name: "frame", run: frame, seeds: frame_seeds },
    Target { name: "connection", run: connection, seeds: connection_seeds },
    Target { name: "disk_format", run: disk_format, seeds: recovery::format_seeds },
    Target { name: "recovery", run: recovery, seeds: recovery::seeds },
    Target { name: "checkpoint_piece", run: checkpoint_piece, seeds: recovery::piece_seeds },
    Target { name: "config", run: config, seeds: config_seeds },
];

/// A frame of either direction, as it came and with its checksums and length put right, so that
/// what lies behind them is reached. What decodes encodes to the same bytes again.
pub fn frame(data: &[u8]) {
    decode_frame(data);
    if data.len() < HEADER_BYTES || data.len() > HEADER_BYTES + FRAME_BODY_BYTES_MAX {
        return;
    }
    let body = &data[HEADER_BYTES..];
    let field =
        |at: usize| u32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
    let header = Header {
        version: data[4],
        opcode: data[5],
        status: u16::from_le_bytes([data[6], data[7]]),
        correlation: u64::from(field(8)) | u64::from(field(12)) << 32,
        body_len: body.len() as u32,
        deadline_ms: field(20),
        body_crc: crc32c(body),
    };
    decode_frame(&[&header.encode(), body].concat());
}

fn decode_frame(data: &[u8]) {
    let Ok(header) = decode_header(data) else { return };
    let Some(body) = data.get(HEADER_BYTES..header.frame_bytes()) else { return };
    // The version is for the connection to judge.
    let whole = [&Header { version: VERSIONS.1, ..header }.encode(), body].concat();
    if let Ok(request) = decode_request(&header, body) {
        let mut again = Vec::new();
        encode_request(&mut again, header.correlation, header.deadline_ms, &request)
            .expect("what was decoded keeps the limits");
        set_flags(&mut again, header.status);
        assert_eq!(whole, again, "{request:?}");
    }
    if let Ok(response) = decode_response(&header, body) {
        let mut again = Vec::new();
        encode_response(&mut again, header.correlation, &response);
        let same = decode_header(&again).expect("an encoded frame has a header");
        let back = decode_response(&same, &again[HEADER_BYTES..]);
        assert_eq!(back.as_ref(), Ok(&response));
    }
}

/// Bytes of a stranger on a server's connection, in chunks: the first byte of the input says how
/// large they are. Memory stays bounded and every frame is answered.
pub fn connection(data: &[u8]) {
    let Some((&chunk, bytes)) = data.split_first() else { return };
    let identity = connection::Identity {
        cluster: "c".to_owned(),
        node: "n".to_owned(),
        server: "s".to_owned(),
        storage: StorageUuid(1),
        shard: 0,
        features: 0,
    };
    let limits = Limits { in_flight_max: 4, ..Limits::default() };
    let mut connection = Connection::new(Arc::new(identity), limits, Instant(0));
    let now = Instant(1);
    for piece in bytes.chunks(usize::from(chunk) + 1) {
        if !connection.wants_read() {
            break;
        }
        connection.feed(now, piece);
        while let Ok(Some(frame)) = connection.next_frame() {
            let correlation = frame.header.correlation;
            match frame.decode().map(|_| ()) {
                Ok(()) => connection.output().respond(now, correlation, &Response::Pong),
                Err(error) => connection.output().refuse(now, correlation, &error),
            }
        }
        let pending = connection.output().pending_bytes();
        assert!(pending <= limits.output_bytes_max, "{pending} bytes wait for the peer");
        connection.output().sent(now, pending);
    }
    connection.peer_closed();
    while let Ok(Some(frame)) = connection.next_frame() {
        let correlation = frame.header.correlation;
        connection.output().respond(now, correlation, &Response::Pong);
    }
    assert!(connection.close_reason().is_some(), "a closed connection says why");
}

/// Every structure on disk, read from any bytes. The log reads whole blocks, so short inputs are
/// filled with zeros.
pub fn disk_format(data: &[u8]) {
    let mut block = data.to_vec();
    block.resize(data.len().max(BLOCK_BYTES), 0);
    let data = block.as_slice();
    let identity = Identity { storage: StorageUuid(0x5EED), shard: ShardId(0), salt: 7 };
    let seed = IdentitySeed::new(identity);
    if let Ok((header, _)) = GroupHeader::decode(data, seed) {
        let body = &data[GROUP_HEADER_BYTES.min(data.len())..];
        if let Some(body) = body.get(..header.body_len as usize)
            && header.verify_body(body).is_ok()
        {
            let pos = header.pos.saturating_add(GROUP_HEADER_BYTES as u32);
            let _ = record::decode(body, header.segment, pos);
        }
    }
    let _ = record::decode(data, SegmentId(1), 8320);
    if let Ok(header) = SegmentHeader::decode(data) {
        let mut again = [0; SEGMENT_HEADER_BYTES];
        header.encode(&mut again);
        let back = SegmentHeader::decode(&again).map(|h| format!("{h:?}"));
        assert_eq!(back.ok(), Some(format!("{header:?}")));
    }
    if let Ok((superblock, _)) = Superblock::decode(data) {
        let back = Superblock::decode(&superblock.encode()).map(|(s, _)| format!("{s:?}"));
        assert_eq!(back.ok(), Some(format!("{superblock:?}")));
    }
    if let Ok((header, _)) = CheckpointHeader::decode(data) {
        let mut reader = FrameReader::new(header);
        reader.feed(data);
        while let Ok(Frame::Piece(piece)) = reader.next_frame() {
            assert!(piece.len() <= data.len());
        }
    }
}

/// A piece of a shard's checkpoint whose checksum held.
pub fn checkpoint_piece(data: &[u8]) {
    let mut models = Models::new(0, 8, 1 << 16);
    let _ = restore_piece(&mut models, data);
}

/// A configuration file.
pub fn config(data: &[u8]) {
    let Ok(mut file) = tempfile::NamedTempFile::new() else { return };
    if file.write_all(data).is_err() {
        return;
    }
    let sources = Sources { file: Some(file.path().to_owned()), ..Sources::default() };
    if let Err(error) = sources.load() {
        assert!(!error.to_string().is_empty(), "a problem is described");
    }
}

/// One frame of every kind of request, and a few answers.
fn frame_seeds() -> Vec<Vec<u8>> {
    let options =
        WriteOptions { durability: Durability::Local, session: SessionId(7), sequence: 3 };
    let (mut keys, mut ops, mut records) = (Vec::new(), Vec::new(), Vec::new());
    let mut list = KeyListBuilder::new(&mut keys);
    list.push(b"a").and_then(|()| list.push(b"bc")).expect("within the limits");
    let keys = list.finish();
    let mut list = BatchListBuilder::new(&mut ops);
    let put = BatchOp::Put { key: b"a", value: b"1", condition: Condition::Absent, ttl_ms: 9 };
    let delete = BatchOp::Delete { key: b"c", condition: Condition::Version(Offset(7)) };
    list.push(put).and_then(|()| list.push(delete)).expect("within the limits");
    let ops = list.finish();
    let mut list = AppendListBuilder::new(&mut records);
    list.push(AppendRecord { key: b"k", value: b"v" }).expect("within the limits");
    let records = list.finish();
    let (partition, topic) = (ironring_core::PartitionId(3), ironring_core::TopicId(1));
    let requests = [
        Request::Hello { version_min: 1, version_max: 1, features: 0, cluster: "c", client: "x" },
        Request::Ping,
        Request::ClusterMap,
        Request::OpenSession,
        Request::Put { options, condition: Condition::None, ttl_ms: 5, key: b"k", value: b"v" },
        Request::Get { key: b"k" },
        Request::Delete { options, condition: Condition::Absent, key: b"k" },
        Request::MultiGet { partition, keys },
        Request::Batch { options, partition, ops },
        Request::Scan { partition, prefix: b"a", after: b"", limit: 10, values: true },
        Request::TopicDescribe { name: "t" },
        Request::TopicList,
        Request::TopicAppend { options, topic, to: AppendTo::Key(b"k"), records },
        Request::TopicRead {
            topic,
            partition: 0,
            from: ReadFrom::Earliest,
            max_records: 0,
            max_bytes: 0,
            wait_ms: 0,
        },
        Request::TopicTrim { options, topic, partition: 0, before: 4 },
    ];
    let mut frames: Vec<Vec<u8>> = Vec::new();
    for (i, request) in requests.iter().enumerate() {
        let mut frame = Vec::new();
        encode_request(&mut frame, i as u64, 1000, request).expect("within the limits");
        frames.push(frame);
    }
    let receipt = Receipt {
        durability: Durability::Local,
        partition,
        term: ironring_core::Term(1),
        offset: Offset(5),
        duplicate: false,
    };
    let error = Response::Error {
        code: ironring_core::ErrorCode::NotFound,
        detail: 0,
        message: "no such key",
    };
    for response in [Response::Pong, Response::Receipt(receipt), error] {
        let mut frame = Vec::new();
        encode_response(&mut frame, 1, &response);
        frames.push(frame);
    }
    frames
}

fn connection_seeds() -> Vec<Vec<u8>> {
    let frames = frame_seeds();
    let all: Vec<u8> = frames[..15].concat();
    [0u8, 30, 255].iter().map(|chunk| [&[*chunk], all.as_slice()].concat()).collect()
}

fn config_seeds() -> Vec<Vec<u8>> {
    let whole = ironring_node::config::render::default_file();
    let odd = "[limits]\nconnections_max = -1\n[nowhere]\nx = \"\"\n";
    vec![whole.into_bytes(), odd.as_bytes().to_vec(), Vec::new()]
}

/// Damages an input at random places: for tests that run without a fuzzer.
pub fn damage(rng: &mut Prng, input: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=rng.below(4) {
        let len = bytes.len() as u64;
        match rng.below(5) {
            0 if len > 0 => bytes.truncate(rng.below(len) as usize),
            1 => bytes.extend_from_slice(&rng.next_u64().to_le_bytes()),
            2 if len > 8 => {
                let at = rng.below(len - 8) as usize;
                let special = [0, 1, u64::from(u32::MAX), u64::MAX, 1 << 31];
                let value = special[rng.below(5) as usize].to_le_bytes();
                bytes[at..at + 8].copy_from_slice(&value);
            }
            _ if len > 0 => {
                let at = rng.below(len) as usize;
                bytes[at] ^= 1 << rng.below(8);
            }
            _ => {}
        }
    }
    bytes
}

/// The inputs of `target` that once failed, by file name.
///
/// # Errors
/// When the directory cannot be read.
pub fn regressions(target: &str) -> std::io::Result<BTreeMap<String, Vec<u8>>> {
    let dir =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions").join(target);
    let mut inputs = BTreeMap::new();
    if !dir.exists() {
        return Ok(inputs);
    }
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        inputs.insert(name, std::fs::read(entry.path())?);
    }
    Ok(inputs)
}
