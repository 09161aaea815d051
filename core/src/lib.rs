//! The words of ironring as types, and the seam between decisions and I/O.
//!
//! Everything here is pure: no clock, no threads, no randomness, no I/O. Other crates meet only
//! through these types, so a change here is a change of the design.
//!
//! - [`ids`]: one newtype per number space (offset, file position, partition, term, ...).
//! - [`time`]: instants and wall-clock times as arguments, never read here.
//! - [`io`]: file operations a state machine may ask for, and their completions.
//! - [`error`]: the error codes clients see, whether a retry can help, and what to do.
//! - [`limits`]: every named maximum, with const assertions on how they relate.
//! - [`checksum`], [`hash`], [`prng`]: crc32c, key tokens, seeded randomness.

pub mod checksum;
pub mod error;
pub mod hash;
pub mod ids;
pub mod io;
pub mod limits;
pub mod prng;
pub mod time;

pub use error::ErrorCode;
pub use hash::{StableMap, StableSet};
pub use ids::{
    Durability, FilePos, GroupSeq, NodeId, Offset, PartitionId, SegmentId, SessionId, ShardId,
    SlotId, StorageUuid, Term, Token, TopicId,
};
pub use time::{Instant, Now, WallTime};
