//! The driver: everything that touches a clock, a socket, a file or a thread.
//!
//! It executes what [`crate::shard::Shard`] wants done and decides nothing itself, so that another
//! driver can stand in its place: the simulator does. What depends on the asynchronous runtime is
//! behind [`runtime::Runtime`]; the rest is written once.

pub mod batch;
pub mod buffers;
pub mod clock;
pub mod connection;
pub mod data_dir;
pub mod device;
pub mod executor;
pub mod files;
pub mod glommio;
pub mod idle;
pub mod intent;
pub mod mesh;
pub mod monoio;
pub mod node;
pub mod nodes;
pub mod peers;
mod place;
pub mod poller;
pub mod receive;
pub mod rejoin;
pub mod runtime;
mod shard_life;
pub mod signals;
mod sockets;
mod stall;
mod traffic;

pub use node::{Node, NodeError, Shared};
pub use sockets::Addresses;
