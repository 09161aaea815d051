//! What "0: find out" comes to on this machine.
//!
//! [`Machine::read`] looks; [`Settled::new`] decides, from what was seen alone, so that every
//! decision can be tested without the machine.

use std::path::Path;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use serde::Serialize;

use super::schema::{Config, RuntimeName};
use super::size::{KIB, MIB};
use crate::diskprobe::{Profile, SCRUB_UNMEASURED};
use crate::shard::BANDWIDTH_UNMEASURED;

/// Below this limit glommio makes no executor, whatever the kernel would allow.
pub const MEMLOCK_LEAST_BYTES: u64 = 512 * KIB;
/// Entries of a ring, most first: with less memory to lock the rings are smaller.
const RING_DEPTHS: [u32; 5] = [RING_DEPTH_MAX, 512, 256, 128, 64];
/// Entries of a ring where nothing limits it.
pub const RING_DEPTH_MAX: u32 = 1024;
/// Rings of one executor.
const RINGS: u64 = 3;
/// Memory that is locked for an executor besides: what glommio makes, the ring that files are read and
/// written on (128 submissions of 64 bytes, 1,024 completions of 16), and that of the sockets (64
/// submissions), rounded up.
const RINGS_MORE_BYTES: u64 = (8 + 32 + 8) * KIB;
/// From this on for each shard, what glommio registers besides its rings (192 KiB) is no matter.
const MEMLOCK_PLENTY_BYTES: u64 = MIB;
/// Bit of `CAP_IPC_LOCK` in a capability mask: a process that has it has no memlock limit.
const CAP_IPC_LOCK_BIT: u64 = 1 << 14;

/// What the process may use of the machine it runs on.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// CPUs the process may run on, ascending.
    pub cpus: Vec<u16>,
    /// Memory, or the control group's limit if that is less.
    pub memory_bytes: u64,
    /// Memory the process may lock; `None`: no limit.
    pub memlock_bytes: Option<u64>,
    /// Size of the file system that holds the data directory.
    pub disk_bytes: u64,
    /// What `ironring diskprobe` measured under the data directory, if it did and the result can be
    /// read.
    pub disk: Option<Profile>,
}

impl Machine {
    /// Looks at the machine. The data directory need not exist yet: the nearest directory above it
    /// that does counts.
    ///
    /// # Errors
    /// When the kernel refuses one of the questions, with its name.
    pub fn read(data_dir: &Path) -> std::io::Result<Machine> {
        let set = sched_getaffinity(Pid::from_raw(0))?;
        let cpus = (0..CpuSet::count())
            .filter(|cpu| set.is_set(*cpu).unwrap_or(false))
            .map(|cpu| cpu as u16)
            .collect();
        let existing = data_dir.ancestors().find(|path| path.exists());
        let here = Path::new(".");
        let fs = nix::sys::statvfs::statvfs(
            existing.filter(|path| !path.as_os_str().is_empty()).unwrap_or(here),
        )?;
        Ok(Machine {
            cpus,
            memory_bytes: memory_bytes()?,
            memlock_bytes: memlock_bytes()?,
            disk_bytes: fs.blocks() * fs.fragment_size(),
            // A profile that cannot be used is no reason not to start; `doctor` names it.
            disk: Profile::load(data_dir).ok().flatten(),
        })
    }
}

/// Total memory, or the least limit of the control groups the process is in.
fn memory_bytes() -> std::io::Result<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo")?;
    let total = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok())
        .ok_or_else(|| std::io::Error::other("/proc/meminfo has no MemTotal"))?
        * KIB;
    Ok(cgroup_memory_limit().map_or(total, |limit| limit.min(total)))
}

fn cgroup_memory_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let group = Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'));
    group
        .ancestors()
        .take_while(|dir| dir.starts_with("/sys/fs/cgroup"))
        .filter_map(|dir| std::fs::read_to_string(dir.join("memory.max")).ok())
        .filter_map(|text| text.trim().parse::<u64>().ok())
        .min()
}

/// RLIMIT_MEMLOCK, `None` when it is infinite or the process may ignore it.
///
/// # Errors
/// When the limit cannot be read.
pub fn memlock_bytes() -> std::io::Result<Option<u64>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let capabilities = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    if capabilities & CAP_IPC_LOCK_BIT != 0 {
        return Ok(None);
    }
    let (soft, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_MEMLOCK)?;
    Ok((soft != nix::sys::resource::RLIM_INFINITY).then_some(soft))
}

/// The configuration's open questions, answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Settled {
    /// The CPU of each shard: `cpus[i]` is shard `i`'s.
    pub cpus: Vec<u16>,
    /// True when several shards share a CPU.
    pub cpus_shared: bool,
    /// Ceiling of memory, all shards together.
    pub memory_max_bytes: u64,
    /// Cache, all shards together.
    pub cache_bytes: u64,
    /// Ceiling of disk, all shards together.
    pub disk_bytes_max: u64,
    /// Bytes per second scrubbing may read at most, all shards together.
    pub scrub_bytes_per_second_max: u64,
    /// Bytes per second the node could move at the most, all shards together.
    pub movement_bytes_per_s: u64,
    /// Whether that comes from a measurement of the disk.
    pub disk_measured: bool,
    /// What runs the shards.
    pub runtime: RuntimeName,
    /// Entries of each of a shard's rings.
    pub ring_depth: u32,
    /// What the process may lock, when that is little for so many shards.
    pub memlock_tight_bytes: Option<u64>,
}

/// Why a configuration cannot be used on this machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettleError {
    /// A CPU of `node.cpus` is not one of ours.
    #[error("node.cpus names CPU {cpu}, which this process may not use (it may use {allowed:?})")]
    CpuNotAllowed {
        /// The CPU.
        cpu: u16,
        /// Those that are.
        allowed: Vec<u16>,
    },
    /// More shards than partitions.
    #[error(
        "{shards} shards, but only {partitions} partitions to serve: set node.shards or raise cluster.partitions"
    )]
    ShardsWithoutPartition {
        /// Shards there would be.
        shards: usize,
        /// Partitions there are.
        partitions: u32,
    },
}

/// What the rings of one shard take of the memlock limit: kernels from 6.14 on charge them, and
/// without them there is no executor. A ring has 64 bytes for each entry, and 36 with a header for
/// the queues around them, each in whole pages (104 KiB measured for 1024 entries, 16 for 128).
fn rings_bytes(depth: u32) -> u64 {
    let (entries, queues) = (64 * u64::from(depth), 36 * u64::from(depth) + 512);
    RINGS * (entries.next_multiple_of(4 * KIB) + queues.next_multiple_of(4 * KIB))
        + RINGS_MORE_BYTES
}

/// The deepest rings a shard can have that may lock `share` bytes. What even the smallest do not fit is
/// for the kernel to refuse: before 6.14 it charges them to nobody.
fn ring_depth(share: u64) -> u32 {
    let fits = |depth: &u32| rings_bytes(*depth) <= share;
    RING_DEPTHS.into_iter().find(fits).unwrap_or(RING_DEPTHS[RING_DEPTHS.len() - 1])
}

impl Settled {
    /// Decides.
    ///
    /// # Errors
    /// When the configuration names CPUs that are not there, or comes to more shards than
    /// partitions.
    pub fn new(config: &Config, machine: &Machine) -> Result<Settled, SettleError> {
        let wanted = &config.node.cpus;
        if let Some(cpu) = wanted.iter().find(|cpu| !machine.cpus.contains(cpu)) {
            let allowed = machine.cpus.clone();
            return Err(SettleError::CpuNotAllowed { cpu: *cpu, allowed });
        }
        let from = if wanted.is_empty() { &machine.cpus } else { wanted };
        let shards = match config.node.shards {
            0 => from.len(),
            shards => usize::from(shards),
        };
        if shards > config.cluster.partitions as usize {
            let partitions = config.cluster.partitions;
            return Err(SettleError::ShardsWithoutPartition { shards, partitions });
        }
        let memory_max_bytes = match config.memory.max_bytes {
            0 => machine.memory_bytes / 10 * 6,
            bytes => bytes,
        };
        let runtime = config.driver.runtime;
        Ok(Settled {
            cpus: from.iter().copied().cycle().take(shards).collect(),
            cpus_shared: shards > from.len(),
            memory_max_bytes,
            cache_bytes: match config.memory.cache_bytes {
                0 => memory_max_bytes / 4,
                bytes => bytes,
            },
            disk_bytes_max: match config.log.disk_bytes_max {
                0 => machine.disk_bytes / 10 * 9,
                bytes => bytes,
            },
            scrub_bytes_per_second_max: machine
                .disk
                .as_ref()
                .map_or(SCRUB_UNMEASURED, Profile::scrub_bytes_per_second),
            movement_bytes_per_s: match config.movement.bandwidth_bytes_per_s {
                0 => machine.disk.as_ref().map_or(BANDWIDTH_UNMEASURED, Profile::bytes_per_second),
                bytes => bytes,
            },
            disk_measured: machine.disk.is_some(),
            ring_depth: machine
                .memlock_bytes
                .map_or(RING_DEPTH_MAX, |limit| ring_depth(limit / shards as u64)),
            memlock_tight_bytes: machine
                .memlock_bytes
                .filter(|limit| limit / (shards as u64) < MEMLOCK_PLENTY_BYTES),
            runtime,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::size::GIB;

    fn machine() -> Machine {
        Machine {
            cpus: vec![0, 1, 4, 5],
            memory_bytes: 10 * GIB,
            memlock_bytes: Some(8 * MIB),
            disk_bytes: 100 * GIB,
            disk: None,
        }
    }

    #[test]
    fn zeros_become_shares_of_the_machine() {
        let settled = Settled::new(&Config::default(), &machine()).unwrap();
        assert_eq!(settled.cpus, [0, 1, 4, 5]);
        assert!(!settled.cpus_shared);
        assert_eq!(settled.memory_max_bytes, 6 * GIB);
        assert_eq!(settled.cache_bytes, 6 * GIB / 4);
        assert_eq!(settled.disk_bytes_max, 90 * GIB);
        assert_eq!(settled.ring_depth, 1024);
        assert_eq!((settled.scrub_bytes_per_second_max, settled.disk_measured), (64 * MIB, false));
        assert_eq!(settled.movement_bytes_per_s, 64 * MIB);
    }

    #[test]
    fn a_measured_disk_bounds_scrubbing() {
        let dir = tempfile::tempdir().unwrap();
        let profile = serde_json::json!({
            "version": 1, "measured_unix_ms": 0, "seconds": 1.0, "file_bytes": 0,
            "read_large": throughput(3_000_000_000), "write_large": throughput(1),
            "read_small": throughput(1), "write_small": throughput(1), "durable": [],
        });
        std::fs::write(dir.path().join("diskprobe.json"), profile.to_string()).unwrap();
        let machine = Machine::read(dir.path()).unwrap();
        let mut config = Config::default();
        config.node.shards = 1;
        let settled = Settled::new(&config, &machine).unwrap();
        assert_eq!(
            (settled.scrub_bytes_per_second_max, settled.disk_measured),
            (300_000_000, true)
        );
        std::fs::write(dir.path().join("diskprobe.json"), "damaged").unwrap();
        assert_eq!(Machine::read(dir.path()).unwrap().disk, None);
    }

    fn throughput(bytes_per_second: u64) -> serde_json::Value {
        serde_json::json!({
            "bytes": 1, "depth": 1, "per_second": 1.0, "bytes_per_second": bytes_per_second,
            "p50_seconds": 0.0, "p99_seconds": 0.0,
        })
    }

    #[test]
    fn with_little_to_lock_the_rings_are_smaller() {
        let mut tight = machine();
        let mut config = Config::default();
        let mut depth = |memlock_bytes, shards| {
            tight.memlock_bytes = memlock_bytes;
            config.node.shards = shards;
            Settled::new(&config, &tight).unwrap().ring_depth
        };
        assert_eq!(depth(None, 64), 1024);
        assert_eq!(depth(Some(8 * MIB), 16), 1024);
        let of_512_kib = [1, 2, 4, 8, 16].map(|shards| depth(Some(512 * KIB), shards));
        assert_eq!(of_512_kib, [1024, 512, 128, 64, 64]);
        assert_eq!(Settled::new(&config, &tight).unwrap().memlock_tight_bytes, Some(512 * KIB));
    }

    #[test]
    fn rings_take_what_was_measured() {
        let measured = [(1024, 104), (512, 52), (256, 28), (128, 16), (64, 8)];
        for (depth, kib) in measured {
            assert_eq!(rings_bytes(depth), RINGS * kib * KIB + RINGS_MORE_BYTES, "{depth} entries");
        }
        assert_eq!(measured.map(|(depth, _)| depth), RING_DEPTHS);
    }

    #[test]
    fn shards_go_to_the_named_cpus_in_order_and_share_when_there_are_more() {
        let mut config = Config::default();
        config.node.cpus = vec![5, 0];
        assert_eq!(Settled::new(&config, &machine()).unwrap().cpus, [5, 0]);

        config.node.cpus.clear();
        config.node.shards = 6;
        let settled = Settled::new(&config, &machine()).unwrap();
        assert_eq!(settled.cpus, [0, 1, 4, 5, 0, 1]);
        assert!(settled.cpus_shared);
    }

    #[test]
    fn what_the_machine_cannot_do_is_refused() {
        let mut config = Config::default();
        config.node.cpus = vec![0, 2];
        let refused = Settled::new(&config, &machine()).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "node.cpus names CPU 2, which this process may not use (it may use [0, 1, 4, 5])"
        );
        config.node.cpus.clear();
        config.cluster.partitions = 2;
        let refused = Settled::new(&config, &machine()).unwrap_err();
        assert_eq!(refused, SettleError::ShardsWithoutPartition { shards: 4, partitions: 2 });
    }

    #[test]
    fn the_machine_under_the_test_can_be_read() {
        let machine = Machine::read(Path::new("/nonexistent/ironring/data")).unwrap();
        assert!(!machine.cpus.is_empty());
        assert!(machine.memory_bytes > 64 * MIB && machine.disk_bytes > 0);
    }
}
