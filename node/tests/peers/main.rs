//! Connections between the shards of different nodes: two nodes of two executors each, over loopback,
//! in one process, under every runtime.

#![expect(clippy::unwrap_used, reason = "a test file: a panic is a failed test")]

#[path = "../support/mod.rs"]
mod support;

mod door;
mod frames;
mod handshake;
mod harness;
mod life;
mod raft;
