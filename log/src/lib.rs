//! The shard log: one append-only, direct-I/O log per shard, shared by all of its partitions.
//!
//! Pure state machines. I/O requests leave through [`ironring_core::io::IoQueue`] and completions
//! come back by [`Log::on_io`]; what the log learns (recovered records, durable groups, read
//! results, records to keep in a compaction) goes to a [`LogSink`], which the shard implements.
//!
//! Owned by exactly one shard; never shared.

pub mod api;
pub mod index;
