//! The deterministic simulator.
//!
//! - [`disk`]: a disk in virtual time that loses, tears, flips, misdirects and refuses.

pub mod disk;
