//! Keys whose time has come, removed from memory some at a time. Needs no record: an expired value is
//! invisible whether it is in the index or not.
//!
//! How many keys are looked at goes with what is found. As long as at least a quarter of them has expired,
//! each sweep looks at twice as many as the one before, so that values of a short life, written as fast as a
//! shard can, do not fill its memory; and half as many otherwise, so that values without one cost little.

use ironring_core::WallTime;

use super::models::Models;

/// Keys looked at in one sweep while few have expired.
const KEYS_MIN: usize = 512;
/// And most, when many have: about two milliseconds when all are removed.
const KEYS_MAX: usize = 4096;
/// Partitions looked at in one sweep.
const PARTITIONS_MAX: usize = 256;

/// Where the sweep of a shard has got to.
#[derive(Clone, Debug)]
pub struct Expiry {
    /// Position of the partition, as [`Models::nth`] has it.
    at: usize,
    /// The key looked at last in it; `None` before its first.
    after: Option<Vec<u8>>,
    /// Keys that the next sweep looks at.
    keys: usize,
}

/// What was found in one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Keys that were looked at.
    pub looked: usize,
    /// Of those, removed.
    pub expired: usize,
    /// The key looked at last.
    pub last: Option<Vec<u8>>,
}

impl Default for Expiry {
    fn default() -> Expiry {
        Expiry { at: 0, after: None, keys: KEYS_MIN }
    }
}

impl Expiry {
    /// Looks at the next keys; how many were removed. Each partition is looked at once at most.
    pub fn sweep(&mut self, models: &mut Models, now: WallTime) -> u64 {
        let (mut looked, mut expired) = (0, 0);
        for _ in 0..models.count().min(PARTITIONS_MAX) {
            let after = self.after.take();
            let found = models.expire(self.at, after.as_deref(), self.keys - looked, now);
            looked += found.looked;
            expired += found.expired;
            if looked == self.keys {
                self.after = found.last;
                break;
            }
            self.at = (self.at + 1) % models.count();
        }
        self.keys = match expired > 0 && expired * 4 >= looked {
            true => (self.keys * 2).min(KEYS_MAX),
            false => (self.keys / 2).max(KEYS_MIN),
        };
        expired as u64
    }
}

#[cfg(test)]
mod tests {
    use ironring_core::{Offset, PartitionId, SegmentId};
    use ironring_log::Location;
    use ironring_log::index::Entry;

    use super::*;

    fn fill(models: &mut Models, partition: u32, keys: std::ops::Range<u32>, expires: u64) {
        for n in keys {
            let location = Location { segment: SegmentId(1), pos: n * 4096, len: 100 };
            let (version, expires) = (Offset(u64::from(n) + 1), WallTime(expires));
            let entry = Entry { location, version, expires, flags: 0 };
            models.partition(PartitionId(partition)).keys.insert(&n.to_be_bytes(), entry);
        }
        models.note_key_memory();
    }

    /// Sweeps until a whole round finds nothing; how many that took.
    fn sweeps_to_expire(expiry: &mut Expiry, models: &mut Models, keys: u64) -> u32 {
        let (mut gone, mut sweeps) = (0, 0);
        while gone < keys {
            gone += expiry.sweep(models, WallTime(1000));
            sweeps += 1;
            assert!(sweeps < 10_000, "{gone} of {keys} keys are gone");
        }
        sweeps
    }

    #[test]
    fn what_has_expired_goes_and_its_memory_with_it() {
        let mut models = Models::new(0, 4, 1 << 20);
        models.recovered();
        fill(&mut models, 0, 0..10, 999);
        fill(&mut models, 0, 10..20, 0);
        fill(&mut models, 2, 0..10, 1000);
        fill(&mut models, 3, 0..10, 1001);
        let before = models.key_bytes();
        let mut expiry = Expiry::default();
        assert_eq!(expiry.sweep(&mut models, WallTime(1000)), 20, "few partitions: in one sweep");
        let left: Vec<usize> = models.all().map(|p| p.keys.len()).collect();
        assert_eq!(left, [10, 0, 0, 10, 0]);
        let after = models.key_bytes();
        models.note_key_memory();
        assert_eq!(after, models.key_bytes(), "it was kept up to date");
        assert!(after < before);
        assert_eq!(expiry.sweep(&mut models, WallTime(1000)), 0);
    }

    #[test]
    fn what_is_being_repaired_keeps_its_keys() {
        let mut models = Models::new(0, 1, 1 << 20);
        models.recovered();
        fill(&mut models, 0, 0..10, 1);
        models.partition(PartitionId(0)).begin_repair();
        let mut expiry = Expiry::default();
        assert_eq!(expiry.sweep(&mut models, WallTime(1000)), 0);
        models.partition(PartitionId(0)).end_repair();
        assert_eq!(expiry.sweep(&mut models, WallTime(1000)), 10);
    }

    #[test]
    fn the_more_has_expired_the_more_is_looked_at() {
        let mut models = Models::new(0, 1, 1 << 20);
        models.recovered();
        let mut expiry = Expiry::default();
        fill(&mut models, 0, 0..100_000, 1);
        let sweeps = sweeps_to_expire(&mut expiry, &mut models, 100_000);
        assert!(sweeps <= 30, "{sweeps} sweeps");
        // Values without an end take it back to where it was.
        fill(&mut models, 0, 0..100_000, 0);
        for _ in 0..10 {
            assert_eq!(expiry.sweep(&mut models, WallTime(1000)), 0);
        }
        assert_eq!(expiry.keys, KEYS_MIN);
        // All are met within a round: the expired one among them too.
        fill(&mut models, 0, 70_000..70_001, 1);
        assert!(sweeps_to_expire(&mut expiry, &mut models, 1) <= 100_000 / KEYS_MIN as u32 + 2);
    }

    #[test]
    fn empty_partitions_cost_no_sweep_each() {
        let mut models = Models::new(0, 1000, 1 << 20);
        models.recovered();
        fill(&mut models, 999, 0..10, 1);
        let sweeps = sweeps_to_expire(&mut Expiry::default(), &mut models, 10);
        assert!(sweeps <= 1000 / PARTITIONS_MAX as u32 + 1, "{sweeps} sweeps");
    }
}
