//! The glommio driver: everything that touches a clock, a socket, a file or a thread.
//!
//! It executes what [`crate::shard::Shard`] wants done and decides nothing itself, so that another
//! driver can stand in its place: the simulator does.

pub mod buffers;
pub mod clock;
pub mod connection;
pub mod data_dir;
pub mod executor;
pub mod files;
pub mod idle;
pub mod mesh;
pub mod node;
pub mod poller;
pub mod signals;

pub use node::{Addresses, Node, NodeError, Shared};
