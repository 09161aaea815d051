//! What the node says to other nodes, between the pure crates that do not know each other.
//!
//! [`convert`]: messages of the replication engine as messages of the wire, and back. Pure.

pub mod convert;

#[cfg(test)]
mod tests;
