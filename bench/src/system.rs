//! The few things asked of Linux: a monotonic clock, CPU pinning, and CPU accounting.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::units;

/// Ticks per second of `/proc/PID/stat`: `USER_HZ`, part of the kernel's ABI and 100 on every
/// architecture ironring builds for.
const TICKS_PER_S: u64 = 100;
/// What `st_blocks` counts in, whatever the file system's own block.
const SECTOR_BYTES: u64 = 512;

/// Monotonic nanoseconds since the run began. Copies agree, so threads can share one.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that reads 0 now.
    #[must_use]
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Nanoseconds since the start.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        units::ns(self.0.elapsed())
    }

    /// Blocks the thread until the clock reads at least `at_ns`.
    pub fn sleep_until(&self, at_ns: u64) {
        loop {
            let now_ns = self.now_ns();
            if now_ns >= at_ns {
                return;
            }
            std::thread::sleep(Duration::from_nanos(at_ns - now_ns));
        }
    }
}

/// Pins the calling thread, and every thread and process it starts from here on, to one CPU.
///
/// # Errors
/// There is no such CPU, or this process may not use it.
pub fn pin_thread(cpu: usize) -> io::Result<()> {
    pin_thread_to(&[cpu])
}

/// The same to any of these CPUs; none: it stays where it may run.
///
/// # Errors
/// One of them does not exist, or this process may use none of them.
pub fn pin_thread_to(cpus: &[usize]) -> io::Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// CPU and waiting time of the calling thread so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadTimes {
    /// On a CPU.
    pub cpu_ns: u64,
    /// Ready to run, but waiting for a CPU that others used. `None` where the kernel does not
    /// keep scheduler statistics.
    pub wait_ns: Option<u64>,
}

impl ThreadTimes {
    /// Reads them. Costs two system calls.
    #[must_use]
    pub fn read() -> ThreadTimes {
        let cpu = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
        let wait_ns = std::fs::read_to_string("/proc/thread-self/schedstat")
            .ok()
            .and_then(|text| text.split_whitespace().nth(1)?.parse().ok());
        ThreadTimes { cpu_ns: units::ns(cpu.unwrap_or_default()), wait_ns }
    }

    /// What was added since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &ThreadTimes) -> ThreadTimes {
        let wait = self.wait_ns.zip(earlier.wait_ns);
        ThreadTimes {
            cpu_ns: self.cpu_ns.saturating_sub(earlier.cpu_ns),
            wait_ns: wait.map(|(now, then)| now.saturating_sub(then)),
        }
    }
}

/// CPU time all threads of a process have used, in nanoseconds, to 10 ms.
///
/// # Errors
/// There is no such process.
pub fn process_cpu_ns(pid: u32) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&text)
        .map(|ticks| ticks * (1_000_000_000 / TICKS_PER_S))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("stat of {pid}")))
}

/// Memory a process occupies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resident {
    /// At present, in bytes.
    pub bytes: u64,
    /// The most it ever was, in bytes.
    pub peak_bytes: u64,
}

/// Memory a process occupies at present and at most so far.
///
/// # Errors
/// There is no such process.
pub fn resident(pid: u32) -> io::Result<Resident> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    parse_status(&text)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("status of {pid}")))
}

fn parse_status(text: &str) -> Option<Resident> {
    let bytes = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
    };
    Some(Resident { bytes: bytes("VmRSS:")?, peak_bytes: bytes("VmHWM:")? })
}

/// Bytes of disk that a folder's files take, whatever their length says, by the part of a file's
/// name before its first digit or dot. A file that goes while this looks counts as nothing.
///
/// # Errors
/// The folder itself cannot be read.
pub fn disk_use(folder: &Path) -> io::Result<BTreeMap<String, u64>> {
    let mut sizes = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    let mut first = true;
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if first => return Err(error),
            Err(_) => continue,
            Ok(entries) => entries,
        };
        first = false;
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                folders.push(entry.path());
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            let end = name.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(name.len());
            let kind = name[..end].trim_end_matches(['-', '_']).to_owned();
            *sizes.entry(kind).or_insert(0) += metadata.blocks() * SECTOR_BYTES;
        }
    }
    Ok(sizes)
}

/// User plus system ticks of a `/proc/PID/stat` line. The program's name may hold anything, so
/// fields are counted from its closing parenthesis.
fn parse_stat(text: &str) -> Option<u64> {
    let rest = &text[text.rfind(')')? + 1..];
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_program_name() {
        let line = "4242 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 120 30 7 7 20 0 8 0 99 1 2\n";
        assert_eq!(parse_stat(line), Some(150));
        assert_eq!(parse_stat("4242 (x) S 1 2"), None);
    }

    #[test]
    fn this_process_has_cpu_time_and_an_impossible_one_has_none() {
        process_cpu_ns(std::process::id()).unwrap();
        assert!(process_cpu_ns(u32::MAX).is_err());
    }

    #[test]
    fn resident_memory_is_read_in_bytes() {
        let text = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let expected = Resident { bytes: 1 << 20, peak_bytes: 2 << 20 };
        assert_eq!(parse_status(text), Some(expected));
        assert_eq!(parse_status("Name:\tx\n"), None);
        let own = resident(std::process::id()).unwrap();
        assert!(own.bytes > 0 && own.peak_bytes >= own.bytes);
    }

    #[test]
    fn disk_use_counts_blocks_and_not_lengths_by_kind() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("shard-000");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(inner.join("segment-00001"), vec![1; 10_000]).unwrap();
        std::fs::write(inner.join("segment-00002"), vec![1; 10_000]).unwrap();
        std::fs::File::create(folder.path().join("lock")).unwrap().set_len(1 << 20).unwrap();
        let sizes = disk_use(folder.path()).unwrap();
        assert_eq!(sizes.keys().collect::<Vec<_>>(), ["lock", "segment"]);
        assert_eq!(sizes["lock"], 0, "a hole takes no blocks");
        assert!(disk_use(&folder.path().join("none")).is_err());
    }

    #[test]
    fn thread_times_only_grow() {
        let before = ThreadTimes::read();
        let spent = std::hint::black_box((0..1_000_000_u64).fold(0, |a, b| a ^ b));
        assert_ne!(spent, 1);
        let after = ThreadTimes::read();
        assert!(after.cpu_ns > before.cpu_ns);
        assert_eq!(after.since(&before).cpu_ns, after.cpu_ns - before.cpu_ns);
    }

    #[test]
    fn pinning_to_a_cpu_that_cannot_exist_is_an_error() {
        assert!(pin_thread(usize::MAX).is_err());
    }
}
