//! Fixtures the benches share: keys, entries, and a log on a disk in memory.
//!
//! `perf/README.md` says how to run the benches and what each one measures.

pub mod keys;
pub mod memory_disk;
pub mod solo_log;

/// Bytes of this process that are in memory, by the kernel's count.
///
/// # Panics
/// When `/proc` is not there.
#[must_use]
pub fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has /proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a VmRSS line");
    let kib: usize = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    kib * 1024
}
