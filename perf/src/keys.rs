//! Keys and index entries by number, the same in every run.

use ironring_core::prng::Prng;
use ironring_core::{Offset, SegmentId, WallTime};
use ironring_log::Location;
use ironring_log::index::Entry;

/// Fills `key` with the random bytes that belong to `number`.
pub fn random_key(key: &mut [u8], number: u64) {
    Prng::new(number.rotate_left(32)).fill(key);
}

/// Fills `key` with a constant prefix and `number`, big endian: keys in ascending order.
///
/// # Panics
/// When `key` is shorter than 8 bytes.
pub fn sequential_key(key: &mut [u8], number: u64) {
    let (prefix, counter) = key.split_at_mut(key.len() - 8);
    prefix.fill(b'k');
    counter.copy_from_slice(&number.to_be_bytes());
}

/// Where record `number` of 300 to 2,300 bytes might lie.
#[must_use]
pub fn location(number: u64) -> Location {
    Location {
        segment: SegmentId((number >> 17) as u32),
        pos: (number << 12) as u32,
        len: 300 + (number % 2_000) as u32,
    }
}

/// An entry as a put without expiry makes it.
#[must_use]
pub fn entry(number: u64) -> Entry {
    Entry {
        location: location(number),
        version: Offset(number + 1),
        expires: WallTime(0),
        flags: 0,
    }
}
