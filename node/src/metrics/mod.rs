//! Counters of the node, and how they become Prometheus metrics.
//!
//! - [`snapshot`]: what shards count, as plain structs; [`histogram`]: latencies; [`process`]: what
//!   the kernel counts.
//! - [`catalogue`]: every metric with its name, unit and meaning; [`exposition`]: as text.

pub mod catalogue;
pub mod exposition;
pub mod histogram;
pub mod process;
pub mod snapshot;

pub use histogram::LatencyHistogram;
pub use process::{ProcessCounters, resident_bytes};
pub use snapshot::{
    BackgroundCounters, ClientCounters, ClusterCounters, DiskCounters, LogCounters, MemoryCounters,
    MovementCounters, NodeSnapshot, PeerCounters, RecoveryReport, RepairCounters, ShardSnapshot,
    ShardState, StallCounters,
};
