//! What the index knows about a key, and how it is packed.
//!
//! Packed form, little endian, 11 to 30 bytes (15 for a record below 64 KiB in a partition of
//! less than four billion records):
//!
//! ```text
//! control  u8      bits 0-2 version bytes - 1, 3-4 length bytes - 1, 5 has expiry, 6 has flags
//! segment  u32
//! pos      u32
//! len      1..=4 bytes
//! version  1..=8 bytes
//! flags    u8      only when not 0
//! expires  u64     only when not 0
//! ```
//!
//! The form is private to one process: it is never written to disk or sent.

use ironring_core::{Offset, SegmentId, WallTime};

use crate::Location;

/// What the index holds for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where the key's record lies.
    pub location: Location,
    /// The offset of the record that wrote the key: its version.
    pub version: Offset,
    /// When the key expires; 0: never.
    pub expires: WallTime,
    /// Free for the index's owner. Zero is the cheapest (it takes no memory).
    pub flags: u8,
}

const HAS_EXPIRY: u8 = 1 << 5;
const HAS_FLAGS: u8 = 1 << 6;
/// Control byte, segment and position.
const FIXED_BYTES: usize = 1 + 4 + 4;
/// Longest packed entry.
pub(super) const PACKED_BYTES_MAX: usize = FIXED_BYTES + 4 + 8 + 1 + 8;

/// An entry in its packed form.
pub(super) struct Packed {
    bytes: [u8; PACKED_BYTES_MAX],
    len: usize,
}

impl Packed {
    pub(super) fn new(entry: &Entry) -> Packed {
        let mut packed = Packed { bytes: [0; PACKED_BYTES_MAX], len: 1 };
        let len_width = width(u64::from(entry.location.len));
        let version_width = width(entry.version.0);
        let mut control = (version_width - 1) as u8 | ((len_width - 1) as u8) << 3;
        packed.push(u64::from(entry.location.segment.0), 4);
        packed.push(u64::from(entry.location.pos), 4);
        packed.push(u64::from(entry.location.len), len_width);
        packed.push(entry.version.0, version_width);
        if entry.flags != 0 {
            control |= HAS_FLAGS;
            packed.push(u64::from(entry.flags), 1);
        }
        if entry.expires.0 != 0 {
            control |= HAS_EXPIRY;
            packed.push(entry.expires.0, 8);
        }
        packed.bytes[0] = control;
        packed
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, value: u64, width: usize) {
        self.bytes[self.len..self.len + width].copy_from_slice(&value.to_le_bytes()[..width]);
        self.len += width;
    }
}

/// Bytes a value needs, at least one.
fn width(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(8)
}

fn version_width(control: u8) -> usize {
    usize::from(control & 7) + 1
}

fn len_width(control: u8) -> usize {
    usize::from(control >> 3 & 3) + 1
}

/// Length of the packed entry that starts with this control byte.
pub(super) fn packed_bytes(control: u8) -> usize {
    FIXED_BYTES
        + len_width(control)
        + version_width(control)
        + usize::from(control & HAS_FLAGS != 0)
        + usize::from(control & HAS_EXPIRY != 0) * 8
}

/// Reads the packed entry at the start of `bytes`.
pub(super) fn unpack(bytes: &[u8]) -> Entry {
    let control = bytes[0];
    let mut at = 1;
    let mut take = |width: usize| {
        let mut word = [0u8; 8];
        word[..width].copy_from_slice(&bytes[at..at + width]);
        at += width;
        u64::from_le_bytes(word)
    };
    let segment = SegmentId(take(4) as u32);
    let pos = take(4) as u32;
    let len = take(len_width(control)) as u32;
    let version = Offset(take(version_width(control)));
    let flags = if control & HAS_FLAGS != 0 { take(1) as u8 } else { 0 };
    let expires = WallTime(if control & HAS_EXPIRY != 0 { take(8) } else { 0 });
    Entry { location: Location { segment, pos, len }, version, expires, flags }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(segment: u32, pos: u32, len: u32, version: u64, expires: u64, flags: u8) -> Entry {
        Entry {
            location: Location { segment: SegmentId(segment), pos, len },
            version: Offset(version),
            expires: WallTime(expires),
            flags,
        }
    }

    #[test]
    fn every_width_survives_packing() {
        let mut edges = vec![0u64, 1, u64::MAX];
        for bits in (8..64).step_by(8) {
            edges.extend([(1u64 << bits) - 1, 1 << bits]);
        }
        for &a in &edges {
            for &b in &edges {
                for flags in [0, 1, 255] {
                    let original = entry(a as u32, b as u32, a as u32, b, a, flags);
                    let packed = Packed::new(&original);
                    assert_eq!(unpack(packed.as_bytes()), original);
                    assert_eq!(packed_bytes(packed.as_bytes()[0]), packed.as_bytes().len());
                }
            }
        }
    }

    #[test]
    fn sizes_are_the_documented_ones() {
        let size = |e: Entry| Packed::new(&e).as_bytes().len();
        assert_eq!(size(entry(0, 0, 0, 0, 0, 0)), 11);
        assert_eq!(size(entry(9, 9, 65_535, u64::from(u32::MAX), 0, 0)), 15);
        assert_eq!(size(entry(1, 1, u32::MAX, u64::MAX, 1, 1)), PACKED_BYTES_MAX);
        assert_eq!(PACKED_BYTES_MAX, 30);
    }
}
