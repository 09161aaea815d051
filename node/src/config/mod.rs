//! Configuration: one list of keys, and where each value came from.
//!
//! A node's configuration is a TOML file, overridden by the environment
//! (`IRONRING__SECTION__KEY`), overridden by flags. The file is checked whole before anything
//! overrides it, so a mistake in it is found even when it would not matter today. Every problem is
//! reported with its place (file, line and column; variable; flag), all of them at once.
//!
//! - [`schema`]: every key with type, default, bounds and meaning; the [`Config`] structs.
//! - [`kind`]: how each kind of value is read and written; [`size`]: sizes such as `64MiB`.
//! - [`load`](mod@load): file, environment and flags into a [`Loaded`].
//! - [`validate`]: checks between keys.
//! - [`settle`]: what "0: find out" comes to on this machine.
//! - [`render`]: a configuration as TOML or as a table, with origins.

pub mod kind;
pub mod load;
pub mod render;
pub mod schema;
pub mod settle;
pub mod size;
pub mod validate;

#[cfg(test)]
mod tests;

pub use load::{ConfigError, Loaded, Origin, Problem, Setting, Sources};
pub use schema::find as find_key;
pub use schema::{
    ClusterConfig, Config, DriverConfig, KEYS, LimitsConfig, ListenConfig, LogConfig, MemoryConfig,
    NodeConfig, NodeRole, RuntimeName, SECTIONS, TraceConfig, TraceLevel,
};
pub use settle::{Machine, Settled};
