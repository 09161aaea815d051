//! The shard log: one append-only, direct-I/O log per shard, shared by all of its partitions.
//!
//! Pure state machines. I/O requests leave through [`ironring_core::io::IoQueue`] and completions
//! come back by [`Log::on_io`]; what the log learns (recovered records, durable groups, read
//! results, records to keep in a compaction) goes to a [`LogSink`], which the shard implements.
//!
//! Owned by exactly one shard; never shared.
//!
//! - [`mod@format`]: every byte on disk, one file per part; `docs/log-format.md` says the same in words.
//! - [`Log`]: the machine. Its parts, each with its own invariants in its header: `opening`
//!   (formatting and recovery), `staging` (group commit), `segments` (the slot table),
//!   `superblock_writer`, `provision` (zero-filling and preparing segments).

mod allocation;
mod api;
pub mod cache;
mod config;
pub mod format;
mod gather;
pub mod index;
pub mod inspect;
mod log;
mod opening;
mod ops;
mod provision;
mod read_ahead;
mod segment_walk;
mod segments;
mod staging;
mod status;
mod superblock_writer;

#[cfg(test)]
mod tests;

pub use api::*;
pub use config::{CompactionConfig, ConfigError, LogConfig, ScrubConfig};
pub use log::{Log, Room, Usage};
pub use status::{
    Damage, DamageFinder, LogCounters, LogFailure, LogStatus, OpenProgress, OpenStep,
    RecoveryReport, SegmentCounts, TailState,
};

/// Which data directory and which shard of it a log belongs to, and which log of that shard it is. In
/// every header on disk, so that a file in the wrong place is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The data directory.
    pub storage: ironring_core::StorageUuid,
    /// The shard.
    pub shard: ironring_core::ShardId,
    /// Drawn at random for a log that is made; a log that is there goes on with its own. Checksums begin
    /// from it, and it leaves the log's files nowhere: whoever may store bytes cannot make some that pass
    /// for the log's own. 0: the log is of format 1, and has none.
    pub salt: u64,
}
