//! Counters of the node, and how they become Prometheus metrics.
//!
//! - [`snapshot`]: what shards count, as plain structs. [`histogram`]: latencies.

pub mod histogram;
pub mod snapshot;

pub use histogram::LatencyHistogram;
pub use snapshot::{
    BackgroundCounters, ClientCounters, DiskCounters, LogCounters, MemoryCounters, NodeSnapshot,
    RecoveryReport, ShardSnapshot, ShardState,
};
