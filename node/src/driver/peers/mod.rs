//! Connections between the shards of different nodes.
//!
//! **Which connection carries what.** There is one connection per ordered pair of shards. The shard
//! that has something to ask dials; its requests go out on that connection and their answers come
//! back on it. A shard that has something to ask of the shard it is asked by dials a second one. So
//! nobody has to agree on who dials, two shards that dial each other at once do not collide, and an
//! answer needs no address. Requests that come on a connection this side dialled, and answers that
//! come on one it accepted, end the connection.
//!
//! **How it moves.** [`Peers`] has the connections of one shard in an epoll set of its own, with a
//! timer and a bell beside them. Its descriptor is readable while [`Peers::round`] has something to
//! do; nothing here is a task, and nothing waits. A round reads what has come and hands every frame
//! to the owner where it lies; at the end of its turn the owner calls [`Peers::flush`], which writes
//! with one `send` a connection. [`serve::serve`] does both for an owner without turns of its own.
//!
//! **The door.** The shard with [`Peers::listen`] accepts for all shards of its node, reads and judges
//! the handshake, and hands the socket, with whatever was read behind the handshake, to the shard that
//! is meant ([`Handover`]). That shard answers `Welcome`.
//!
//! Invariants:
//! - Every [`LinkId`] is one connection, or one attempt at one, and is told down exactly once; only
//!   after it was told up can it be sent to, and only then does it bring frames.
//! - One accepted connection per shard of another node: a newer one takes the place of the older,
//!   unless it is of an earlier run.
//! - Everything that is queued, tried again or in progress has its maximum here, of which
//!   [`LINK_BYTES_MAX`] is the sum for one connection.
//! - A peer whose kernel falls silent is gone after [`SILENT_MAX`]; one whose process is gone, at once.
//!   A process that hangs is for the owner to notice, by what it does not answer.
//!
//! Nothing is decided here: who is a member, whom to dial and what to say is the owner's business.

mod backoff;
mod event;
mod gate;
mod handover;
mod link;
mod round;
pub mod serve;
mod set;
mod settings;
mod socket;

pub use event::{Down, LinkId, PeerOwner, PeerShard, Remote, Side};
pub use gate::{Admission, Admit};
pub use handover::Handover;
pub use set::Peers;
pub use settings::{Local, PeerSettings, PeerTarget, PeerTargets};
pub use socket::{SILENT_MAX, listen};

use ironring_net::peer::frame::{FORWARD_BYTES_MAX, FRAME_BYTES_MAX, HANDSHAKE_BYTES_MAX};
use ironring_net::peer::input::KEEP_BYTES;
use ironring_net::peer::output::{CONTROL_BYTES_MAX, GROUP_CREDITS};

/// Connections of one shard, both ways and attempts included: beyond it none is dialled or accepted.
pub const LINKS_MAX: usize = 4096;
/// Handshakes in progress at one door: the oldest has to go for another.
pub const HANDSHAKES_MAX: usize = 128;
/// Bytes read from one connection in one round.
pub const READ_BYTES_PER_ROUND: usize = 1 << 20;
/// Payload bytes a peer may send that the owner is not yet done with, unless configured otherwise.
pub const WINDOW_BYTES: u64 = 24 << 20;
/// Bytes that may wait to be written, unless configured otherwise; one frame goes beyond.
pub const OUTPUT_BYTES_MAX: usize = 8 << 20;
/// An empty buffer larger than this is freed.
const RETAIN_BYTES: usize = 1 << 20;

/// What one connection may take with the default settings: one frame and what was read behind it, and
/// twice (a buffer doubles when it grows) what waits to be written. Nothing near it is held for long:
/// buffers are empty and freed when nothing is under way. What the owner keeps of payloads is beside
/// it, and is at most the window.
pub const LINK_BYTES_MAX: usize =
    FRAME_BYTES_MAX + KEEP_BYTES + 2 * (OUTPUT_BYTES_MAX + CONTROL_BYTES_MAX + FRAME_BYTES_MAX);

const _: () = assert!(LINK_BYTES_MAX <= 72 << 20);
// The largest payload there is can be sent when nothing else is under way.
const _: () = assert!(WINDOW_BYTES - GROUP_CREDITS >= FORWARD_BYTES_MAX as u64);
// What strangers can make a node hold.
const _: () = assert!(HANDSHAKES_MAX * KEEP_BYTES <= 8 << 20);
const _: () = assert!(HANDSHAKE_BYTES_MAX as usize + 32 <= KEEP_BYTES);
const _: () = assert!(READ_BYTES_PER_ROUND >= KEEP_BYTES);
