//! Rot: a cluster of real node processes whose files are corrupted, a minority of the replicas of
//! every partition at a time, under load with a ledger of what was acknowledged.
//!
//! - [`plan`]: what is corrupted, where and how often. Pure: the same seed is the same plan.
//! - [`files`]: what the files of a shard hold; corrupting them; whether they are sound.
//! - [`ledger`]: what clients were told, and whether an answer is right. Pure.
//! - [`run`], [`clients`]: the nodes, the clients and the report.
//!
//! A seed decides the rounds, their victims and what is drawn among the places there are. Which places
//! there are depends on what clients wrote by then, so that a run does not repeat byte for byte; what
//! it did is in its `corruptions.jsonl`.

pub mod clients;
pub mod files;
pub mod ledger;
pub mod plan;
pub mod run;
