//! Settings of the metadata group, and what openraft is told for them.
//!
//! What an operator sets is the *window*: a leader that dies is replaced no earlier than
//! `election_timeout_min` and no later than `election_timeout_max` after its last heartbeat
//! arrived. openraft's own settings mean something else. Let `lease` be its longest timeout and
//! `wait` its shortest. A follower campaigns when `lease` plus a random time from `wait` to
//! `lease` has passed since it heard of the leader, at the next tick (13/64 of a heartbeat); if
//! the campaign fails, another random time later. So its first campaign begins between
//! `lease + wait` and `2 * lease + tick`, and a second one by `3 * lease + 2 * tick`. Before any of
//! these, voters campaign in turn ([`super::silence`]): the first two turns, a `stagger` each, end
//! where openraft's campaigns begin.
//!
//! - `lease = 3/10 of the window's end` leaves a tenth of it for ticks, votes and their writes even
//!   when the first campaign fails;
//! - `stagger = lease / 12`: many times what votes and their writes take where disks are well;
//! - `wait = the window's begin + 2 * stagger - lease`, but from a half to five sixths of `lease`: what
//!   is between them keeps campaigns apart when turns have not.
//!
//! The window's end must therefore be at least twice its begin, and a heartbeat at most a third of
//! `wait`, so that two may be lost without a campaign.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

/// Longest command of a proposal, in bytes: less than a record of the log, more than any change of
/// metadata should need.
pub const COMMAND_BYTES_MAX: usize = 1 << 20;

const _: () = assert!(COMMAND_BYTES_MAX < ironring_core::limits::RECORD_BYTES_MAX);

/// Settings of the metadata group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftConfig {
    /// The cluster's name, for messages.
    pub cluster_name: String,
    /// How often a leader tells that it lives.
    pub heartbeat_interval: Duration,
    /// A leader is replaced no earlier than this after its last heartbeat.
    pub election_timeout_min: Duration,
    /// A leader that died is replaced by then, as long as a message and a write take less than a
    /// fiftieth of this.
    pub election_timeout_max: Duration,
    /// Most entries of one append request.
    pub max_payload_entries: u64,
    /// Bytes of entries from which an append request takes no more.
    pub payload_bytes_max: usize,
    /// Most entries of one write to the log.
    pub max_append_entries: u64,
    /// A snapshot is taken when so many entries were committed since the last.
    pub snapshot_entries: u64,
    /// A snapshot is taken when entries of so many bytes were applied since the last.
    pub snapshot_log_bytes: u64,
    /// A snapshot is taken this long after the last when anything was applied since.
    pub snapshot_interval: Duration,
    /// Snapshots kept.
    pub snapshot_retain: usize,
    /// Largest snapshot taken from a leader, in bytes.
    pub snapshot_bytes_max: u64,
    /// Bytes of a snapshot in one message.
    pub snapshot_chunk_bytes: usize,
    /// How long one message of a snapshot may take.
    pub snapshot_chunk_timeout: Duration,
    /// Entries kept behind a snapshot, for followers that are a little late.
    pub entries_kept: u64,
    /// A follower that is this many entries late gets a snapshot instead.
    pub lag_entries_max: u64,
    /// Entries forgotten in one step.
    pub purge_batch: u64,
}

impl Default for RaftConfig {
    fn default() -> RaftConfig {
        RaftConfig {
            cluster_name: "ironring".to_owned(),
            // A heartbeat is some hundred bytes to at most six nodes; four of them fit into the
            // shortest wait that follows from the default window.
            heartbeat_interval: Duration::from_millis(100),
            election_timeout_min: Duration::from_secs(1),
            election_timeout_max: Duration::from_secs(2),
            max_payload_entries: 100,
            payload_bytes_max: 1 << 20,
            max_append_entries: 100,
            snapshot_entries: 8192,
            snapshot_log_bytes: 16 << 20,
            snapshot_interval: Duration::from_secs(30 * 60),
            snapshot_retain: 3,
            snapshot_bytes_max: 256 << 20,
            snapshot_chunk_bytes: 256 << 10,
            snapshot_chunk_timeout: Duration::from_secs(5),
            entries_kept: 1000,
            lag_entries_max: 16_384,
            purge_batch: 100,
        }
    }
}

/// A setting that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("metadata group setting `{field}`: {problem}")]
pub struct RaftConfigError {
    /// The setting's name.
    pub field: &'static str,
    /// What is wrong with its value, and which values work.
    pub problem: String,
}

/// What openraft is told for a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A leader counts as alive for so long; openraft's longest election timeout.
    pub lease: Duration,
    /// Shortest wait for a campaign of openraft's own once the lease is over.
    pub wait: Duration,
    /// From one voter's turn to campaign to the next one's.
    pub stagger: Duration,
}

impl Timing {
    /// How long the first voter whose turn it is waits for a silent leader.
    #[must_use]
    pub fn first_turn(&self) -> Duration {
        self.lease + self.wait - 2 * self.stagger
    }
}

impl RaftConfig {
    /// What follows for openraft from the window.
    #[must_use]
    pub fn timing(&self) -> Timing {
        let lease = self.election_timeout_max * 3 / 10;
        let stagger = lease / 12;
        let wait = (self.election_timeout_min + 2 * stagger).saturating_sub(lease);
        Timing { lease, wait: wait.clamp(lease / 2, lease * 5 / 6), stagger }
    }

    /// Checks every setting and how they relate.
    ///
    /// # Errors
    /// The first setting that cannot work.
    pub fn validate(&self) -> Result<(), RaftConfigError> {
        let fail = |field, problem: String| Err(RaftConfigError { field, problem });
        let (min, max) = (self.election_timeout_min, self.election_timeout_max);
        if min < Duration::from_millis(100) {
            return fail("election_timeout_min_ms", "at least 100".to_owned());
        }
        if max < 2 * min {
            let problem = format!("at least twice election_timeout_min_ms ({})", 2 * millis(min));
            return fail("election_timeout_max_ms", problem);
        }
        if max > Duration::from_secs(600) {
            return fail("election_timeout_max_ms", "at most 600000".to_owned());
        }
        let longest = self.timing().wait / 3;
        if self.heartbeat_interval.is_zero() || self.heartbeat_interval > longest {
            let problem = format!(
                "from 1 to {} for elections within {} to {} ms",
                millis(longest),
                millis(min),
                millis(max)
            );
            return fail("heartbeat_interval_ms", problem);
        }
        let counts = [
            ("max_payload_entries", self.max_payload_entries),
            ("max_append_entries", self.max_append_entries),
            ("snapshot_entries", self.snapshot_entries),
            ("snapshot_log_bytes", self.snapshot_log_bytes),
            ("purge_batch_size", self.purge_batch),
        ];
        if let Some((field, _)) = counts.into_iter().find(|(_, n)| *n == 0) {
            return fail(field, "at least 1".to_owned());
        }
        if self.snapshot_interval < Duration::from_secs(1) {
            return fail("snapshot_interval", "at least 1 s".to_owned());
        }
        if self.snapshot_retain < 2 {
            return fail("snapshot_retain_count", "at least 2: one may be damaged".to_owned());
        }
        if !(4096..=16 << 20).contains(&self.snapshot_chunk_bytes) {
            return fail("snapshot_chunk_bytes", "from 4096 to 16777216".to_owned());
        }
        if !(4096..=16 << 20).contains(&self.payload_bytes_max) {
            return fail("payload_bytes_max", "from 4096 to 16777216".to_owned());
        }
        if self.lag_entries_max <= self.snapshot_entries {
            let problem = format!("more than snapshot_entries ({})", self.snapshot_entries);
            return fail("lag_entries_max", problem);
        }
        Ok(())
    }

    /// The same for openraft.
    pub(super) fn openraft(&self) -> Result<Config, RaftConfigError> {
        self.validate()?;
        let Timing { lease, wait, .. } = self.timing();
        let config = Config {
            cluster_name: self.cluster_name.clone(),
            heartbeat_interval: millis(self.heartbeat_interval).max(1),
            election_timeout_min: millis(wait),
            election_timeout_max: millis(lease),
            max_payload_entries: self.max_payload_entries,
            max_append_entries: Some(self.max_append_entries),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_entries),
            replication_lag_threshold: self.lag_entries_max,
            max_in_snapshot_log_to_keep: self.entries_kept,
            purge_batch_size: self.purge_batch,
            // openraft gives this much time to a snapshot as a whole; how long one message may take
            // is ours.
            install_snapshot_timeout: millis(Duration::from_secs(600)),
            snapshot_max_chunk_size: self.snapshot_chunk_bytes as u64,
            // A peer that cannot be reached is asked again soon: as long as one is missing, what
            // hears of it first is the window.
            backoff: format!("{0}ms {0}ms {0}ms", millis(self.heartbeat_interval).max(1)),
            enable_pre_vote: Some(true),
            // A leader without a quorum falls silent, so that a follower it can reach may join an
            // election of those it cannot.
            quorum_loss_probe_interval: Some(2 * millis(lease)),
            ..Config::default()
        };
        config.validate().map_err(|error| RaftConfigError {
            field: "election_timeout_max_ms",
            problem: error.to_string(),
        })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_works_and_each_bad_value_is_named() {
        RaftConfig::default().openraft().expect("the default is valid");
        let bad = |change: fn(&mut RaftConfig)| {
            let mut config = RaftConfig::default();
            change(&mut config);
            config.validate().expect_err("must be refused").field
        };
        let ms = Duration::from_millis;
        assert_eq!(bad(|c| c.election_timeout_min = Duration::ZERO), "election_timeout_min_ms");
        assert_eq!(
            bad(|c| c.election_timeout_max = c.election_timeout_min),
            "election_timeout_max_ms"
        );
        assert_eq!(bad(|c| c.heartbeat_interval = Duration::ZERO), "heartbeat_interval_ms");
        assert_eq!(bad(|c| c.heartbeat_interval = c.election_timeout_min), "heartbeat_interval_ms");
        assert_eq!(bad(|c| c.max_payload_entries = 0), "max_payload_entries");
        assert_eq!(bad(|c| c.max_append_entries = 0), "max_append_entries");
        assert_eq!(bad(|c| c.snapshot_entries = 0), "snapshot_entries");
        assert_eq!(bad(|c| c.snapshot_log_bytes = 0), "snapshot_log_bytes");
        assert_eq!(bad(|c| c.purge_batch = 0), "purge_batch_size");
        assert_eq!(bad(|c| c.snapshot_interval = Duration::ZERO), "snapshot_interval");
        assert_eq!(bad(|c| c.snapshot_retain = 1), "snapshot_retain_count");
        assert_eq!(bad(|c| c.snapshot_chunk_bytes = 1), "snapshot_chunk_bytes");
        assert_eq!(bad(|c| c.payload_bytes_max = 1), "payload_bytes_max");
        assert_eq!(bad(|c| c.lag_entries_max = 1), "lag_entries_max");
        let wide = RaftConfig { election_timeout_max: ms(10_000), ..RaftConfig::default() };
        wide.openraft().expect("a wide window is valid");
    }

    /// The arithmetic of the header, over many windows.
    #[test]
    fn the_window_holds_two_campaigns() {
        for min in [200, 333, 1000, 4000] {
            for factor in [20, 25, 40, 100] {
                let max = min * factor / 10;
                let config = RaftConfig {
                    election_timeout_min: Duration::from_millis(min),
                    election_timeout_max: Duration::from_millis(max),
                    heartbeat_interval: Duration::from_millis(min / 10),
                    ..RaftConfig::default()
                };
                config.openraft().expect("valid");
                let timing = config.timing();
                let Timing { lease, wait, stagger } = timing;
                // What is lost to rounding is less than a tick.
                let begin = timing.first_turn() + Duration::from_micros(1);
                assert!(begin >= config.election_timeout_min, "{min} {max}: too early");
                assert!(begin >= lease + 2 * stagger, "{min} {max}: refused for the lease");
                let ticks = config.heartbeat_interval * 13 / 32;
                assert!(3 * lease + ticks <= config.election_timeout_max, "{min} {max}: too late");
                assert!(lease - wait >= lease / 6, "{min} {max}: campaigns meet");
            }
        }
    }
}
