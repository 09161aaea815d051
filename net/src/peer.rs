//! The plane between nodes: frames whose bodies are archived with rkyv and read where they lie.
//!
//! - [`frame`]: the fixed header, the kinds of frames, what each may hold at most.
//! - [`hello`] and [`judge`]: the handshake, whose layout never changes, and who is let in.
//! - [`message`], [`list`]: what the frames say, as plain types that belong to no version.
//! - `archived`: how versions write down their archived types.
//! - `v1`: the archived types of version 1, frozen; reading them with every check, and writing them.
//! - `v2`: those that version 2 added; all others are version 1's.
//! - [`input`], [`output`]: one connection's bytes to frames and back, without a copy of a payload.
//!
//! Nothing here knows sockets, clocks or what the messages mean. A frame is looked at by its fixed
//! header first (length, kind, version, place in the stream, checksums), then by rkyv's check of the
//! archive, then by the rules of its message; nothing is trusted before all three. Whatever fails
//! ends the connection: the other side is a node of the same cluster and does not send such a thing.
//!
//! **Versions.** rkyv's layouts have no room for change: a struct read as another is accepted with
//! wrong values. So a version's types never change once released. A version is a module beside
//! `v1`, one more arm in [`frame::Frame::message`] and in [`output::Output`], and where it changes
//! a list one more variant in [`list`]; messages stay what they are. A build speaks [`VERSIONS`], its own
//! and the one before, and the handshake settles on the highest both sides have.
//!
//! `docs/peer-protocol.md` has the same for people who write a peer.

pub mod error;
pub mod frame;
pub mod hello;
pub mod input;
pub mod judge;
pub mod list;
pub mod message;
pub mod output;

mod archived;
mod v1;
mod v2;

pub use error::{OutputError, PeerError};
pub use frame::{Frame, Kind};
pub use hello::{Handshake, Hello, Refusal, Refused, Welcome};
pub use input::Input;
pub use judge::{Member, Policy, Run, judge_hello, judge_run, judge_welcome};
pub use message::Message;
pub use output::Output;

/// Versions of the messages this build speaks, lowest and highest: never more than two.
pub const VERSIONS: (u16, u16) = (1, 2);

/// Where the plane listens unless configured otherwise.
pub const PORT: u16 = 7412;

const _: () = assert!(VERSIONS.0 >= 1 && VERSIONS.0 <= VERSIONS.1);
const _: () = assert!(VERSIONS.1 - VERSIONS.0 <= 1);
