//! How ironring is tested as a whole: a deterministic simulator that runs the shipped state
//! machines ([`sim`]), a checker of what clients saw ([`linear`]), tests of real processes under
//! faults ([`chaos`]), with files that are corrupted ([`rot`]) and in drills ([`drill`]),
//! planted bugs and fuzz targets.

pub mod chaos;
pub mod drill;
pub mod fuzz;
pub mod linear;
pub mod model;
pub mod rot;
pub mod sim;
