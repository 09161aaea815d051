//! Messages to bytes and back. No I/O, and no allocation but the output buffer (and the owned
//! parts of the rare administrative answers).
//!
//! Any bytes may be decoded: nothing panics, nothing allocates more than the bytes received
//! justify, and a byte too many is an error like a byte too few. Encoding applies the same limits,
//! so a client learns of a key too long before it is sent. The layouts are in `docs/protocol.md`.

mod request;
mod response;

pub use request::{decode_request, encode_request};
pub use response::{decode_response, encode_response};

#[cfg(test)]
mod tests;
