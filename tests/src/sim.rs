//! The deterministic simulator.
//!
//! - [`disk`]: a disk in virtual time that loses, tears, flips, misdirects and refuses.
//! - [`op`]: what simulated clients ask for and hear; [`workload`] draws it, [`client`] sends it.
//! - [`oracle`]: what a correct node may answer.
//! - [`subject`]: what is simulated.
//! - [`world`]: the loop of events, crashes and restarts; [`crash`] decides when, [`profile`] what
//!   goes wrong, [`trace`] remembers.

pub mod client;
pub mod crash;
pub mod disk;
pub mod op;
pub mod oracle;
pub mod profile;
pub mod subject;
pub mod trace;
pub mod workload;
pub mod world;
