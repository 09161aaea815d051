//! The deterministic simulator.
//!
//! - [`disk`]: a disk in virtual time that loses, tears, flips, misdirects and refuses.
//! - [`op`]: what simulated clients ask for and hear.
//! - [`oracle`]: what a correct node may answer.

pub mod disk;
pub mod op;
pub mod oracle;
