use crate::cli::FloorArgs;
use crate::error::BenchError;
pub fn command(_a: &FloorArgs) -> Result<(), BenchError> { Ok(()) }
