//! Chaos: a cluster of real node processes under a seeded schedule of faults, with what its clients
//! saw checked for linearizability ([`crate::linear`]).
//!
//! - [`plan`]: which faults come when. Pure: the same seed is the same schedule.
//! - [`workload`]: what a client asks for next, and what an answer means for the history. Pure.
//! - [`judge`]: from a history to a verdict. Pure.
//! - [`nodes`], [`links`], [`clients`], [`run`]: processes, the TCP proxies between them, clients,
//!   clocks.
//!
//! The schedule comes from a seed and the interleaving does not: a run cannot be repeated exactly.
//! What can be repeated is the judgement, from the history that a failed run leaves behind.

pub mod clients;
pub mod judge;
pub mod links;
pub mod nodes;
pub mod plan;
pub mod run;
pub mod workload;
