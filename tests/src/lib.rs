//! Placeholder module header, replaced as the crate is written.
