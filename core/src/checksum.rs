//! CRC-32C (Castagnoli), the checksum of every disk and wire format.

/// Checksum of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    ::crc32c::crc32c(bytes)
}

/// Checksum of what `crc` covers followed by `bytes`.
#[must_use]
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    ::crc32c::crc32c_append(crc, bytes)
}

/// Checksum of what `first` covers followed by `second_len` bytes with the checksum `second`, without
/// looking at either. Costs about as much as summing 64 KiB.
#[must_use]
pub fn crc32c_combine(first: u32, second: u32, second_len: usize) -> u32 {
    ::crc32c::crc32c_combine(first, second, second_len)
}

#[cfg(test)]
mod tests {
    use super::{crc32c, crc32c_combine};

    #[test]
    fn combines() {
        assert_eq!(crc32c_combine(crc32c(b"1234"), crc32c(b"56789"), 5), 0xE306_9283);
        assert_eq!(crc32c_combine(crc32c(b"1234"), crc32c(b""), 0), crc32c(b"1234"));
    }

    #[test]
    fn is_castagnoli() {
        assert_eq!(super::crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(super::crc32c_append(super::crc32c(b"1234"), b"56789"), 0xE306_9283);
    }
}
