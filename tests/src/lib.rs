//! How ironring is tested as a whole: a deterministic simulator that runs the shipped state
//! machines ([`sim`]), tests of real processes, planted bugs and fuzz targets.

pub mod fuzz;
pub mod model;
pub mod sim;
