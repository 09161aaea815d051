//! Every byte the log keeps on disk. All integers are little-endian; all layouts are explicit.
//!
//! [`superblock`], [`segment`] (its header), [`group`], [`record`], [`checkpoint`].

pub mod checkpoint;
pub mod group;
mod le;
pub mod record;
pub mod segment;
pub mod superblock;

use ironring_core::checksum::{crc32c, crc32c_append};

use crate::Identity;

pub use group::GROUP_HEADER_BYTES;
pub use record::RECORD_HEADER_BYTES;

/// The format this code writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 2;

/// `n` rounded up to a multiple of `block`, a power of two.
#[must_use]
pub const fn align_up(n: u32, block: u32) -> u32 {
    (n + block - 1) & !(block - 1)
}

/// Where a checksum of this log's groups starts from, so that bytes of another log, or bytes a user
/// stored, never pass for a group of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentitySeed(u32);

impl IdentitySeed {
    /// The seed of one log.
    #[must_use]
    pub fn new(identity: Identity) -> IdentitySeed {
        let crc = crc32c(&identity.storage.0.to_le_bytes());
        let crc = crc32c_append(crc, &identity.shard.0.to_le_bytes());
        IdentitySeed(match identity.salt {
            0 => crc,
            salt => crc32c_append(crc, &salt.to_le_bytes()),
        })
    }
}
