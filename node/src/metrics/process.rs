//! What the kernel says about this process.

use serde::Serialize;

/// The process, as the kernel counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ProcessCounters {
    /// Memory it occupies.
    pub resident_bytes: u64,
    /// CPU time it took, user and system.
    pub cpu_seconds: f64,
    /// File descriptors it has open.
    pub open_descriptors: u64,
}

/// Memory the process occupies; 0 when the kernel does not tell.
#[must_use]
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok());
    let page_bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|bytes| u64::try_from(bytes).ok());
    pages.unwrap_or(0) * page_bytes.unwrap_or(4096)
}

impl ProcessCounters {
    /// Reads them from `/proc/self` and `getrusage`. A number the kernel does not tell is 0. Reads
    /// a directory entry per descriptor: not for a hot path.
    #[must_use]
    pub fn read() -> ProcessCounters {
        let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
        let seconds =
            |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        ProcessCounters {
            resident_bytes: resident_bytes(),
            cpu_seconds: usage
                .map_or(0.0, |usage| seconds(usage.user_time()) + seconds(usage.system_time())),
            open_descriptors: std::fs::read_dir("/proc/self/fd")
                .map_or(0, |entries| entries.count() as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_descriptors() {
        let process = ProcessCounters::read();
        assert!(process.resident_bytes > 1 << 20);
        assert!(process.open_descriptors >= 3);
        assert!(process.cpu_seconds >= 0.0);
    }
}
