//! Key tokens, and hash maps whose order does not depend on a random seed.

use std::hash::{BuildHasherDefault, Hasher};

use sha2::{Digest, Sha256};

use crate::ids::{PartitionId, Token, TopicId};

/// A hash map with a fixed hash function: the same inserts give the same order in every run.
pub type StableMap<K, V> = hashbrown::HashMap<K, V, BuildHasherDefault<StableHasher>>;
/// A hash set with a fixed hash function.
pub type StableSet<K> = hashbrown::HashSet<K, BuildHasherDefault<StableHasher>>;

/// A multiply-rotate hash (the FxHash family) finished with SplitMix's mixer. Fixed, fast on
/// small integer keys; not for keys an attacker chooses.
#[derive(Default, Clone)]
pub struct StableHasher(u64);

impl Hasher for StableHasher {
    fn finish(&self) -> u64 {
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0u8; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word) ^ (chunk.len() as u64) << 56);
        }
    }

    fn write_u8(&mut self, i: u8) {
        self.write_u64(u64::from(i));
    }

    fn write_u16(&mut self, i: u16) {
        self.write_u64(u64::from(i));
    }

    fn write_u32(&mut self, i: u32) {
        self.write_u64(u64::from(i));
    }

    fn write_u64(&mut self, i: u64) {
        self.0 = (self.0.rotate_left(5) ^ i).wrapping_mul(0x517C_C1B7_2722_0A95);
    }

    fn write_usize(&mut self, i: usize) {
        self.write_u64(i as u64);
    }
}

impl Token {
    /// The token of a key: the first 8 bytes, big endian, of SHA-256(key). SHA-256 so that a
    /// client in any language finds the owner with its standard library; ~0.1 us with SHA-NI.
    #[must_use]
    pub fn of_key(key: &[u8]) -> Token {
        let digest = Sha256::digest(key);
        let mut first = [0u8; 8];
        first.copy_from_slice(&digest[..8]);
        Token(u64::from_be_bytes(first))
    }

    /// The token that places partition `index` of a topic: that of the 9 bytes
    /// `"t"`, id (u32, big endian), index (u32, big endian).
    #[must_use]
    pub fn of_topic_partition(topic: TopicId, index: u32) -> Token {
        let mut name = [b't'; 9];
        name[1..5].copy_from_slice(&topic.0.to_be_bytes());
        name[5..].copy_from_slice(&index.to_be_bytes());
        Token::of_key(&name)
    }

    /// The partition that holds this token, of `partitions` equal ranges (a power of two).
    #[must_use]
    pub fn partition(self, partitions: u32) -> PartitionId {
        assert!(partitions.is_power_of_two(), "P is a power of two, checked at creation");
        let bits = partitions.trailing_zeros();
        PartitionId(if bits == 0 { 0 } else { (self.0 >> (64 - bits)) as u32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_the_first_bytes_of_sha256() {
        assert_eq!(Token::of_key(b"").0, 0xe3b0_c442_98fc_1c14);
        assert_eq!(Token::of_key(b"abc").0, 0xba78_16bf_8f01_cfea);
        assert_eq!(Token::of_key(b"abc").partition(256), PartitionId(0xba));
        assert_eq!(Token::of_key(b"abc").partition(1), PartitionId(0));
    }
}
