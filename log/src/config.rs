//! What can be set about a log, with defaults and limits.

use std::time::Duration;

use ironring_core::limits::{BLOCK_BYTES, GROUP_BYTES_TARGET, KEY_BYTES_MAX, RECORD_BYTES_MAX};

use crate::format::record::RECORD_HEADER_BYTES;
use crate::format::superblock::SLOTS_MAX;
use crate::format::{GROUP_HEADER_BYTES, align_up};

/// Smallest segment.
pub const SEGMENT_BYTES_MIN: u32 = 1 << 20;
/// Largest segment: positions in a segment are `u32`.
pub const SEGMENT_BYTES_MAX: u32 = 1 << 30;
/// Largest block: bounded so that a superblock copy's extent is a multiple of it.
pub const BLOCK_BYTES_MAX: u32 = 64 << 10;

/// Settings of one shard's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Size of a segment file in bytes; a multiple of the block. Fixed when the log is formatted.
    pub segment_bytes: u32,
    /// Every write is a multiple of this; at least the device's block. Fixed when formatted.
    pub block_bytes: u32,
    /// The most bytes segments and checkpoints may take; 0: as much as the disk has.
    pub disk_bytes_max: u64,
    /// Empty segments that user records never take, so that deletes and compaction have room even
    /// on a full disk. The last of them is for compaction alone.
    pub reserve_segments: u32,
    /// Empty segments kept ready beyond the reserve.
    pub free_segments_target: u32,
    /// Bytes staged and in flight from which user appends are refused as overload. Appends of
    /// [`crate::Priority::Reserve`] may use twice as much.
    pub waiting_bytes_max: u32,
    /// Bytes of log between two checkpoints; at least twice the last checkpoint's size is used.
    pub checkpoint_interval_bytes: u64,
    /// After this long without a write an empty group records that the last one is durable.
    pub idle_floor_after: Duration,
    /// Compaction.
    pub compaction: CompactionConfig,
    /// Background verification.
    pub scrub: ScrubConfig,
}

/// Settings of compaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompactionConfig {
    /// A segment with at least this share of dead bytes is compacted when nothing presses.
    pub dead_percent_min: u8,
    /// Share of the device bytes (appends, and compaction's own reads and writes) compaction may
    /// use when nothing presses. It rises to 100 as free space shrinks.
    pub bandwidth_percent: u8,
    /// Segments in use may hold this many percent of the live bytes (of a small log, what two
    /// checkpoints pin and four segments more than those) before user appends wait for compaction.
    pub space_percent_max: u32,
}

/// Settings of the background verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubConfig {
    /// Every sealed byte is read and verified within this time.
    pub period: Duration,
    /// The most it reads a second, in bytes, also when it is behind.
    pub bytes_per_second_max: u64,
    /// The least it reads a second, in bytes, also when the period leaves it more time; 0 for none.
    pub bytes_per_second_min: u64,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig {
            segment_bytes: 64 << 20,
            block_bytes: BLOCK_BYTES as u32,
            disk_bytes_max: 0,
            reserve_segments: 2,
            free_segments_target: 2,
            waiting_bytes_max: 8 << 20,
            checkpoint_interval_bytes: 128 << 20,
            idle_floor_after: Duration::from_millis(50),
            compaction: CompactionConfig::default(),
            scrub: ScrubConfig::default(),
        }
    }
}

impl Default for CompactionConfig {
    fn default() -> CompactionConfig {
        CompactionConfig { dead_percent_min: 50, bandwidth_percent: 25, space_percent_max: 210 }
    }
}

impl Default for ScrubConfig {
    fn default() -> ScrubConfig {
        ScrubConfig {
            period: Duration::from_secs(14 * 86_400),
            bytes_per_second_max: 64 << 20,
            bytes_per_second_min: 0,
        }
    }
}

/// A setting that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("log setting `{field}`: {problem}")]
pub struct ConfigError {
    /// The setting's name.
    pub field: &'static str,
    /// What is wrong with its value, and which values work.
    pub problem: String,
}

impl LogConfig {
    /// Checks every setting and how they relate.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let fail = |field, problem: String| Err(ConfigError { field, problem });
        let block = self.block_bytes;
        if !block.is_power_of_two() || block < BLOCK_BYTES as u32 || block > BLOCK_BYTES_MAX {
            return fail(
                "block_bytes",
                format!("{block} is not a power of two from {BLOCK_BYTES} to {BLOCK_BYTES_MAX}"),
            );
        }
        let segment = self.segment_bytes;
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment)
            || !segment.is_multiple_of(block)
        {
            return fail(
                "segment_bytes",
                format!(
                    "{segment} is not a multiple of {block} from {SEGMENT_BYTES_MIN} to \
                     {SEGMENT_BYTES_MAX}"
                ),
            );
        }
        if self.reserve_segments < 2 {
            return fail(
                "reserve_segments",
                "at least 2: one for deletes and one for compaction".to_owned(),
            );
        }
        if self.free_segments_target == 0 {
            return fail("free_segments_target", "at least 1".to_owned());
        }
        let segments_min = u64::from(self.reserve_segments + self.free_segments_target) + 2;
        let bytes_min = segments_min * u64::from(segment);
        if self.disk_bytes_max != 0 && self.disk_bytes_max < bytes_min {
            return fail(
                "disk_bytes_max",
                format!(
                    "{} is less than {segments_min} segments ({bytes_min})",
                    self.disk_bytes_max
                ),
            );
        }
        let slots_bytes = SLOTS_MAX as u64 * u64::from(segment);
        if self.disk_bytes_max > slots_bytes {
            return fail(
                "disk_bytes_max",
                format!(
                    "{} is more than {SLOTS_MAX} segments hold ({slots_bytes}): raise segment_bytes",
                    self.disk_bytes_max
                ),
            );
        }
        if (self.waiting_bytes_max as usize) < GROUP_BYTES_TARGET {
            return fail("waiting_bytes_max", format!("at least {GROUP_BYTES_TARGET}"));
        }
        if self.checkpoint_interval_bytes < u64::from(block) {
            return fail("checkpoint_interval_bytes", format!("at least {block}"));
        }
        self.validate_background()
    }

    fn validate_background(&self) -> Result<(), ConfigError> {
        let fail = |field, problem: String| Err(ConfigError { field, problem });
        if !(1..=100).contains(&self.compaction.dead_percent_min) {
            return fail("compaction.dead_percent_min", "from 1 to 100".to_owned());
        }
        if !(1..=100).contains(&self.compaction.bandwidth_percent) {
            return fail("compaction.bandwidth_percent", "from 1 to 100".to_owned());
        }
        if !(130..=10_000).contains(&self.compaction.space_percent_max) {
            return fail("compaction.space_percent_max", "from 130 to 10000".to_owned());
        }
        if self.scrub.period.is_zero() {
            return fail("scrub.period", "more than 0".to_owned());
        }
        if self.scrub.bytes_per_second_max < 1 << 20 {
            return fail("scrub.bytes_per_second_max", "at least 1 MiB".to_owned());
        }
        Ok(())
    }

    /// The longest record (header, key and body) an append can take, in bytes.
    #[must_use]
    pub fn record_bytes_max(&self) -> usize {
        let room = (self.segment_bytes - 2 * self.block_bytes) as usize - GROUP_HEADER_BYTES;
        room.min(RECORD_HEADER_BYTES + KEY_BYTES_MAX + RECORD_BYTES_MAX)
    }

    /// The longest group on disk, in bytes: what recovery must be able to look past.
    #[must_use]
    pub(crate) fn group_bytes_max(&self) -> u32 {
        let body = self.record_bytes_max().max(GROUP_BYTES_TARGET);
        align_up((GROUP_HEADER_BYTES + body) as u32, self.block_bytes)
    }

    /// First byte of the first group in a segment: behind the two copies of the header.
    #[must_use]
    pub(crate) fn data_start(&self) -> u32 {
        2 * self.block_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::LogConfig;

    #[test]
    fn the_default_is_valid_and_each_bad_value_is_named() {
        assert_eq!(LogConfig::default().validate(), Ok(()));
        let bad = |change: fn(&mut LogConfig)| {
            let mut config = LogConfig::default();
            change(&mut config);
            config.validate().expect_err("must be refused").field
        };
        assert_eq!(bad(|c| c.block_bytes = 512), "block_bytes");
        assert_eq!(bad(|c| c.segment_bytes = 1000), "segment_bytes");
        assert_eq!(bad(|c| c.segment_bytes = (64 << 20) + 512), "segment_bytes");
        assert_eq!(bad(|c| c.reserve_segments = 1), "reserve_segments");
        assert_eq!(bad(|c| c.free_segments_target = 0), "free_segments_target");
        assert_eq!(bad(|c| c.disk_bytes_max = 1 << 20), "disk_bytes_max");
        assert_eq!(bad(|c| c.disk_bytes_max = u64::MAX), "disk_bytes_max");
        assert_eq!(bad(|c| c.waiting_bytes_max = 1), "waiting_bytes_max");
        assert_eq!(bad(|c| c.checkpoint_interval_bytes = 0), "checkpoint_interval_bytes");
        assert_eq!(bad(|c| c.compaction.dead_percent_min = 0), "compaction.dead_percent_min");
        assert_eq!(bad(|c| c.compaction.bandwidth_percent = 101), "compaction.bandwidth_percent");
        assert_eq!(bad(|c| c.compaction.space_percent_max = 100), "compaction.space_percent_max");
        assert_eq!(bad(|c| c.scrub.bytes_per_second_max = 0), "scrub.bytes_per_second_max");
        assert_eq!(bad(|c| c.scrub.period = std::time::Duration::ZERO), "scrub.period");
    }
}
