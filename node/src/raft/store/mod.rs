//! Votes and entries of the metadata group, kept in a log of our own.
//!
//! - [`change`]: what a record says, byte for byte.
//! - [`state`]: the fold of all records, which is also the log's owner. No I/O, no time.
//! - [`writer`]: carries the log's requests to the disk and tells when a change is durable.
//! - [`log_store`]: the same in openraft's words.
//!
//! Entries are kept in memory; the log is read only when it is opened. Its checkpoint holds the
//! whole state, so no record of the log is ever needed that is older than the checkpoint, and
//! compaction copies nothing.

pub mod change;
mod log_store;
pub mod state;
pub mod writer;

pub use change::{Change, Payload, StoredEntry};
pub use log_store::{Floor, LogStore, PurgeFloor};
pub use state::RaftLogState;
pub use writer::{Store, StoreConfig, StoreError};
