//! What a shard counts: plain integers on its own thread, copied out once a second.

use ironring_core::ErrorCode;
use ironring_net::Opcode;

use crate::metrics::{LatencyHistogram, RepairCounters};

/// Counts by error code.
#[derive(Clone, Debug)]
pub struct ErrorCounts([u64; 128]);

impl Default for ErrorCounts {
    fn default() -> ErrorCounts {
        ErrorCounts([0; 128])
    }
}

const _: () = assert!((ErrorCode::OffsetOutOfRange as usize) < 128);

impl ErrorCounts {
    /// Counts one.
    pub fn add(&mut self, code: ErrorCode) {
        self.0[code as usize] += 1;
    }

    /// Codes that occurred, with how often.
    pub fn iter(&self) -> impl Iterator<Item = (ErrorCode, u64)> + '_ {
        ErrorCode::ALL.iter().map(|c| (*c, self.0[*c as usize])).filter(|(_, n)| *n > 0)
    }
}

/// Counts by opcode of request.
#[derive(Clone, Debug)]
pub struct RequestCounts([u64; 128]);

impl Default for RequestCounts {
    fn default() -> RequestCounts {
        RequestCounts([0; 128])
    }
}

impl RequestCounts {
    /// Counts one; opcodes of responses are nobody's request.
    pub fn add(&mut self, opcode: u8) {
        if let Some(count) = self.0.get_mut(usize::from(opcode)) {
            *count += 1;
        }
    }

    /// Opcodes that occurred, with how often.
    pub fn iter(&self) -> impl Iterator<Item = (Opcode, u64)> + '_ {
        Opcode::ALL
            .iter()
            .filter(|o| !o.is_response())
            .map(|o| (*o, self.0[*o as usize]))
            .filter(|(_, n)| *n > 0)
    }
}

/// Everything a shard counts besides its log.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Requests taken, forwarded ones at their owner too.
    pub requests: RequestCounts,
    /// Errors answered.
    pub errors: ErrorCounts,
    /// Requests handed to another shard.
    pub forwarded: u64,
    /// From a request's arrival to its answer, for answers that waited for the disk to write.
    pub ack_latency: LatencyHistogram,
    /// The same for answers that waited for the disk to read.
    pub read_latency: LatencyHistogram,
    /// From the start of a durable write to its end.
    pub flush_latency: LatencyHistogram,
    /// From the start to the first request served.
    pub recovery_took: std::time::Duration,
    /// Gets, and those of them that needed the disk.
    pub gets: u64,
    /// Disk reads made for gets: one at most for each, and for a chunked value one for each chunk.
    pub get_disk_reads: u64,
    /// Keys removed because their time had come.
    pub expired: u64,
    /// Reads that any replica was to answer, answered here.
    pub stale_reads: u64,
    /// Requests answered from their receipts.
    pub duplicates: u64,
    /// What was damaged, and what became of it; the gauges among these are not kept here.
    pub repair: RepairCounters,
    /// Memory of topics, sessions and large values at the last sweep, in bytes.
    pub other_memory_bytes: usize,
}
