//! Named maxima, and how they relate. A limit a client meets is also in `docs/protocol.md`.

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// Longest value, in bytes. Longer than [`CHUNK_BYTES`] it is chunked through the log.
pub const VALUE_BYTES_MAX: usize = 16 << 20;
/// Values above this are written as several records of at most this many bytes.
pub const CHUNK_BYTES: usize = 256 << 10;
/// Largest body of one log record: a topic batch, an atomic batch or a chunk.
pub const RECORD_BYTES_MAX: usize = 2 << 20;
/// Largest frame body on the wire.
pub const FRAME_BODY_BYTES_MAX: usize = (16 << 20) + (64 << 10);
/// Most operations in one atomic batch or keys in one multi-get.
pub const BATCH_OPS_MAX: usize = 4096;
/// Most records in one topic append.
pub const APPEND_RECORDS_MAX: usize = 65_536;
/// Most entries one scan answer holds.
pub const SCAN_ENTRIES_MAX: usize = 4096;
/// Longest topic name, in bytes: lower-case letters, digits, `.`, `_`, `-`.
pub const TOPIC_NAME_BYTES_MAX: usize = 128;
/// Most partitions of one topic.
pub const TOPIC_PARTITIONS_MAX: u32 = 1024;
/// Most receipts kept per session and partition, so the most requests a session may have in
/// flight to one partition.
pub const SESSION_WINDOW: usize = 64;
/// Most sessions remembered per partition; the least recently used is expired first.
pub const SESSIONS_PER_PARTITION_MAX: usize = 4096;
/// Block size every direct write is padded to, unless the device asks for a larger one.
pub const BLOCK_BYTES: usize = 4096;
/// Commit groups aim at no more than this many bytes, so one group never delays the next for long.
pub const GROUP_BYTES_TARGET: usize = 1 << 20;

const _: () = assert!(RECORD_BYTES_MAX >= CHUNK_BYTES + KEY_BYTES_MAX);
const _: () = assert!(FRAME_BODY_BYTES_MAX > VALUE_BYTES_MAX + KEY_BYTES_MAX);
const _: () = assert!(BLOCK_BYTES.is_power_of_two());
