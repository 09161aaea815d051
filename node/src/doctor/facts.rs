//! What the machine is like, as plain data. Gathering reads `/proc` and `/sys`, asks the kernel, and
//! writes one temporary file in the data directory, which it removes. The judgement is in
//! [`super::checks`].

use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use super::kernel::{self, DirectAlignment};
use crate::config::settle::memlock_bytes;
use crate::config::{Config, Settled};
use crate::diskprobe::{AlignedBuffer, Profile};
use crate::driver::device::queue_of;

/// Bytes of the direct write and read that are tried.
const DIRECT_TRIAL_BYTES: usize = 4096;

/// Everything the checks judge. `None` and `Err` mean "could not be found out".
#[derive(Clone, Debug)]
pub struct Facts {
    /// `uname -r`.
    pub kernel: String,
    /// `kernel.io_uring_disabled`; `None`: the kernel has no such switch.
    pub io_uring_disabled: Option<u8>,
    /// Operations that are missing, or why no ring could be made.
    pub io_uring: Result<Vec<&'static str>, String>,
    /// Seccomp mode of this process: 0 none, 1 strict, 2 filter.
    pub seccomp: Option<u8>,
    /// Soft RLIMIT_MEMLOCK; `None`: infinite.
    pub memlock_soft: Option<u64>,
    /// Whether the kernel holds the process to it (`CAP_IPC_LOCK` frees it).
    pub memlock_enforced: bool,
    /// Soft RLIMIT_NOFILE.
    pub nofile_soft: u64,
    /// The data directory.
    pub data: DataFacts,
    /// Bytes of memory this process may use.
    pub memory_bytes: u64,
    /// `enabled` of transparent huge pages: the word in brackets.
    pub huge_pages: Option<String>,
    /// Swap areas in use.
    pub swap_areas: Vec<String>,
    /// The kernel's clock source.
    pub clock_source: Option<String>,
    /// Frequency governors of the CPUs, without repeats; empty: none to be seen.
    pub governors: Vec<String>,
    /// Network interfaces that have hardware.
    pub nics: Vec<DeviceFacts>,
    /// Clock synchronised, and its largest error in microseconds.
    pub clock_sync: Option<(bool, u64)>,
    /// Addresses of the configuration that cannot be bound, with the reason.
    pub ports_taken: Vec<(String, String)>,
}

/// The data directory and what it lies on.
#[derive(Clone, Debug)]
pub struct DataFacts {
    /// As configured.
    pub path: PathBuf,
    /// Whether it exists. Otherwise everything else is about the nearest directory above it.
    pub exists: bool,
    /// The directory that was looked at.
    pub looked_at: PathBuf,
    /// `statfs` magic of the file system.
    pub fs_magic: i64,
    /// Its size.
    pub fs_bytes: u64,
    /// What this user may still write.
    pub free_bytes: u64,
    /// Why no file could be made there.
    pub writable: Result<(), String>,
    /// What `statx` says about direct I/O.
    pub alignment: Option<DirectAlignment>,
    /// Why a direct write of 4 KiB and reading it back failed.
    pub direct_io: Result<(), String>,
    /// The slowest percent of durable 4 KiB writes, in seconds, when `diskprobe` measured it.
    pub durable_p99_seconds: Result<Option<f64>, String>,
    /// The disk; `None`: not on a disk of its own (tmpfs, network, overlay).
    pub disk: Option<DiskFacts>,
}

/// A block device.
#[derive(Clone, Debug, Default)]
pub struct DiskFacts {
    /// Its device.
    pub device: DeviceFacts,
    /// `write back` or `write through`.
    pub write_cache: Option<String>,
    /// The I/O scheduler in use.
    pub scheduler: Option<String>,
    /// Whether it spins.
    pub rotational: bool,
}

/// A device and where it sits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceFacts {
    /// `nvme0n1`, `eth0`.
    pub name: String,
    /// Its NUMA node; `None`: there is only one, or it is not known.
    pub numa_node: Option<u32>,
    /// For each interrupt, the CPUs that take it, as the kernel writes them.
    pub irq_cpus: Vec<String>,
}

impl Facts {
    /// Looks at the machine with the eyes of a node that has this configuration.
    #[must_use]
    pub fn gather(config: &Config, settled: &Settled, memory_bytes: u64) -> Facts {
        let status = read("/proc/self/status").unwrap_or_default();
        let memlock_soft = soft_limit(Resource::RLIMIT_MEMLOCK);
        Facts {
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
            io_uring_disabled: number("/proc/sys/kernel/io_uring_disabled"),
            io_uring: kernel::probe_io_uring(),
            seccomp: field(&status, "Seccomp:").and_then(|mode| mode.parse().ok()),
            memlock_soft,
            memlock_enforced: memlock_bytes().is_ok_and(|limit| limit.is_some()),
            nofile_soft: soft_limit(Resource::RLIMIT_NOFILE).unwrap_or(u64::MAX),
            data: DataFacts::gather(&config.node.data_dir),
            memory_bytes,
            huge_pages: bracketed("/sys/kernel/mm/transparent_hugepage/enabled"),
            swap_areas: swap_areas(),
            clock_source: read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            governors: governors(&settled.cpus),
            nics: nics(),
            clock_sync: kernel::clock_sync().ok(),
            ports_taken: ports_taken(config),
        }
    }
}

impl DataFacts {
    fn gather(path: &Path) -> DataFacts {
        let exists = path.is_dir();
        let above = path.ancestors().find(|dir| dir.is_dir());
        let looked_at = above.unwrap_or(Path::new("/")).to_owned();
        let fs = nix::sys::statfs::statfs(&looked_at).ok();
        let trial = DirectTrial::run(&looked_at);
        let block = fs.as_ref().map_or(0, |fs| u64::try_from(fs.block_size()).unwrap_or(0));
        DataFacts {
            path: path.to_owned(),
            exists,
            fs_magic: fs.as_ref().map_or(0, |fs| fs.filesystem_type().0),
            fs_bytes: fs.as_ref().map_or(0, |fs| fs.blocks() * block),
            free_bytes: fs.as_ref().map_or(0, |fs| fs.blocks_available() * block),
            writable: trial.writable,
            alignment: trial.alignment,
            direct_io: trial.direct_io,
            durable_p99_seconds: durable_p99(path).map_err(|error| error.to_string()),
            disk: disk_of(&looked_at),
            looked_at,
        }
    }
}

/// A temporary file, written and read with O_DIRECT.
struct DirectTrial {
    writable: Result<(), String>,
    alignment: Option<DirectAlignment>,
    direct_io: Result<(), String>,
}

impl DirectTrial {
    fn run(dir: &Path) -> DirectTrial {
        let file = match tempfile::Builder::new().prefix(".ironring-doctor-").tempfile_in(dir) {
            Ok(file) => file,
            Err(error) => {
                return DirectTrial {
                    writable: Err(error.to_string()),
                    alignment: None,
                    direct_io: Err("no file could be made".to_owned()),
                };
            }
        };
        DirectTrial {
            writable: Ok(()),
            alignment: kernel::direct_alignment(file.path()).ok().flatten(),
            direct_io: write_and_read_directly(file.path()).map_err(|error| error.to_string()),
        }
    }
}

fn write_and_read_directly(path: &Path) -> io::Result<()> {
    let mut file =
        fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path)?;
    let mut written = AlignedBuffer::zeroed(DIRECT_TRIAL_BYTES);
    for (index, byte) in written.bytes_mut().iter_mut().enumerate() {
        *byte = (index % 251) as u8;
    }
    file.write_all(written.bytes())?;
    file.sync_data()?;
    file.seek(SeekFrom::Start(0))?;
    let mut read = AlignedBuffer::zeroed(DIRECT_TRIAL_BYTES);
    file.read_exact(read.bytes_mut())?;
    if read.bytes() == written.bytes() {
        Ok(())
    } else {
        Err(io::Error::other("what was read is not what was written"))
    }
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn number(path: &str) -> Option<u8> {
    read(path)?.parse().ok()
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// The chosen word of `always [madvise] never`.
fn bracketed(path: impl AsRef<Path>) -> Option<String> {
    let text = read(path)?;
    let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    Some(chosen.map_or(text.clone(), |(word, _)| word.to_owned()))
}

fn soft_limit(resource: Resource) -> Option<u64> {
    let (soft, _) = getrlimit(resource).ok()?;
    (soft != RLIM_INFINITY).then_some(soft)
}

fn swap_areas() -> Vec<String> {
    let swaps = read("/proc/swaps").unwrap_or_default();
    swaps
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

fn governors(cpus: &[u16]) -> Vec<String> {
    let path = |cpu| format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor");
    let mut found: Vec<String> = cpus.iter().filter_map(|cpu| read(path(cpu))).collect();
    found.sort();
    found.dedup();
    found
}

fn durable_p99(data_dir: &Path) -> io::Result<Option<f64>> {
    let profile = Profile::load(data_dir)?;
    Ok(profile.and_then(|profile| profile.durable.first().map(|write| write.p99_seconds)))
}

/// The disk a directory lies on. A partition leads to its disk.
fn disk_of(dir: &Path) -> Option<DiskFacts> {
    let queue = queue_of(dir)?;
    Some(DiskFacts {
        device: device_facts(queue.parent()?)?,
        write_cache: read(queue.join("write_cache")),
        scheduler: bracketed(queue.join("scheduler")),
        rotational: read(queue.join("rotational")).is_some_and(|flag| flag == "1"),
    })
}

fn nics() -> Vec<DeviceFacts> {
    let Ok(interfaces) = fs::read_dir("/sys/class/net") else { return Vec::new() };
    let mut found: Vec<DeviceFacts> = interfaces
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.join("device").exists())
        .filter_map(|path| device_facts(&path))
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// NUMA node and interrupts are properties of the nearest hardware device above a block device or
/// interface (for virtio, the PCI device above it).
fn device_facts(class: &Path) -> Option<DeviceFacts> {
    let name = class.file_name()?.to_string_lossy().into_owned();
    let hardware = fs::canonicalize(class.join("device")).ok();
    let chain = || hardware.iter().flat_map(|device| device.ancestors().take(3));
    let numa_node = chain()
        .find_map(|device| read(device.join("numa_node")))
        .and_then(|node| node.parse::<u32>().ok());
    let irqs = chain().find_map(|device| fs::read_dir(device.join("msi_irqs")).ok());
    let mut numbers: Vec<u32> = irqs
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    let cpus = |irq: &u32| {
        read(format!("/proc/irq/{irq}/effective_affinity_list"))
            .or_else(|| read(format!("/proc/irq/{irq}/smp_affinity_list")))
    };
    let irq_cpus = numbers.iter().filter_map(cpus).filter(|cpus| !cpus.is_empty()).collect();
    Some(DeviceFacts { name, numa_node, irq_cpus })
}

/// Binding is the only way to know; the socket is closed at once and nothing was connected.
fn ports_taken(config: &Config) -> Vec<(String, String)> {
    let listen = &config.listen;
    [
        ("listen.clients", listen.clients),
        ("listen.peers", listen.peers),
        ("listen.http", listen.http),
    ]
    .into_iter()
    .filter_map(|(key, address)| {
        let error = TcpListener::bind(address).err()?;
        Some((format!("{key} {address}"), error.to_string()))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Machine;

    #[test]
    fn looking_at_this_machine_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.node.data_dir = dir.path().to_owned();
        let machine = Machine::read(dir.path()).unwrap();
        let settled = Settled::new(&config, &machine).unwrap();
        let facts = Facts::gather(&config, &settled, machine.memory_bytes);
        assert!(facts.data.exists && facts.data.writable.is_ok());
        assert!(facts.data.fs_bytes > 0 && facts.data.free_bytes <= facts.data.fs_bytes);
        assert!(!facts.kernel.is_empty() && facts.nofile_soft > 0);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "the trial file is gone");
    }

    #[test]
    fn a_directory_that_is_not_there_is_judged_by_the_one_above() {
        let dir = tempfile::tempdir().unwrap();
        let facts = DataFacts::gather(&dir.path().join("a/b"));
        assert!(!facts.exists);
        assert_eq!(facts.looked_at, dir.path());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_taken_port_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = Config::default();
        config.listen.clients = taken.local_addr().unwrap();
        config.listen.http.set_port(0);
        config.listen.peers.set_port(0);
        let found = ports_taken(&config);
        assert_eq!(found.len(), 1);
        assert!(found[0].0.starts_with("listen.clients 127.0.0.1:"), "{found:?}");
    }
}
