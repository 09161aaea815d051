//! Contiguous slices of the partition space, one per shard.

use std::ops::Range;

use ironring_core::{PartitionId, ShardId};

/// How P partitions are divided among the N shards of this node: shard i owns
/// `[i * P / N, (i + 1) * P / N)`, so sizes differ by at most one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slices {
    partitions: u32,
    shards: u16,
}

/// Why a pair of counts cannot be sliced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlicesError {
    /// Partitions must be a power of two between 1 and 65,536.
    #[error("{0} partitions: choose a power of two between 1 and 65536")]
    Partitions(u32),
    /// Each shard needs at least one partition.
    #[error("{shards} shards for {partitions} partitions: choose 1 to {partitions} shards")]
    Shards {
        /// Shards asked for.
        shards: u16,
        /// Partitions there are.
        partitions: u32,
    },
}

impl Slices {
    /// Slices for `partitions` (a power of two up to 65,536) and `shards` (1 to `partitions`).
    pub fn new(partitions: u32, shards: u16) -> Result<Slices, SlicesError> {
        if !partitions.is_power_of_two() || partitions > 65_536 {
            return Err(SlicesError::Partitions(partitions));
        }
        if shards == 0 || u32::from(shards) > partitions {
            return Err(SlicesError::Shards { shards, partitions });
        }
        Ok(Slices { partitions, shards })
    }

    /// P.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// N.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// The partitions a shard owns.
    #[must_use]
    pub fn range(&self, shard: ShardId) -> Range<u32> {
        assert!(shard.0 < self.shards, "shard {shard} of {}", self.shards);
        self.first(u32::from(shard.0))..self.first(u32::from(shard.0) + 1)
    }

    /// The shard that owns a partition; [`PartitionId::META`] belongs to shard 0. O(1).
    #[must_use]
    pub fn owner(&self, partition: PartitionId) -> ShardId {
        if partition == PartitionId::META {
            return ShardId(0);
        }
        assert!(partition.0 < self.partitions, "partition {partition} of {}", self.partitions);
        // The inverse of `first`: the largest i with i * P / N <= p.
        let p = u64::from(partition.0);
        let i = ((p + 1) * u64::from(self.shards) - 1) / u64::from(self.partitions);
        ShardId(i as u16)
    }

    fn first(&self, shard: u32) -> u32 {
        (u64::from(shard) * u64::from(self.partitions) / u64::from(self.shards)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_is_the_inverse_of_range() {
        for partitions in [1u32, 2, 8, 64, 256] {
            for shards in 1..=u16::try_from(partitions.min(64)).unwrap() {
                let slices = Slices::new(partitions, shards).unwrap();
                let mut next = 0;
                for shard in 0..shards {
                    let range = slices.range(ShardId(shard));
                    assert_eq!(range.start, next);
                    assert!(!range.is_empty());
                    for p in range.clone() {
                        assert_eq!(
                            slices.owner(PartitionId(p)),
                            ShardId(shard),
                            "{partitions}/{shards}/{p}"
                        );
                    }
                    next = range.end;
                }
                assert_eq!(next, partitions);
            }
        }
    }

    #[test]
    fn bad_counts_are_refused() {
        assert_eq!(Slices::new(100, 1), Err(SlicesError::Partitions(100)));
        assert_eq!(Slices::new(4, 5), Err(SlicesError::Shards { shards: 5, partitions: 4 }));
        assert_eq!(Slices::new(4, 0), Err(SlicesError::Shards { shards: 0, partitions: 4 }));
    }
}
