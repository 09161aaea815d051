//! What the controller, the leader of the metadata group, decides.

pub mod election;

pub use election::{Decision, Election};
