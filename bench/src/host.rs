//! The machine a result was measured on. What cannot be found out is `unknown`, never guessed.

use std::fs;
use std::os::linux::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The machine, as far as it matters to a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Model name of the first CPU.
    pub cpu: String,
    /// CPUs online.
    pub cores: usize,
    /// Frequency governor of CPU 0.
    pub governor: String,
    /// Kernel release.
    pub kernel: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Filesystem of the data path: type and mount options.
    pub filesystem: String,
    /// Block device of the data path.
    pub disk: Disk,
}

/// A block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Kernel name.
    pub name: String,
    /// Model, where the device tells.
    pub model: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Active scheduler, in brackets among those there are.
    pub scheduler: String,
    /// `write back` or `write through`.
    pub write_cache: String,
    /// Logical block size in bytes.
    pub block_bytes: u64,
}

const UNKNOWN: &str = "unknown";

fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn or_unknown(value: Option<String>) -> String {
    value.unwrap_or_else(|| UNKNOWN.to_owned())
}

impl Host {
    /// Looks at this machine; `data` is a path on the disk the server uses.
    #[must_use]
    pub fn look(data: &Path) -> Host {
        let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
        let meminfo = read("/proc/meminfo").unwrap_or_default();
        let device = fs::metadata(data).ok().map(|m| m.st_dev());
        Host {
            cpu: or_unknown(field(&cpuinfo, "model name")),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            governor: or_unknown(read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
            kernel: or_unknown(read("/proc/sys/kernel/osrelease")),
            memory_bytes: field(&meminfo, "MemTotal")
                .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok())
                .map_or(0, |kib| kib * 1024),
            filesystem: or_unknown(
                device.and_then(|d| mount(&read("/proc/self/mountinfo")?, &number(d))),
            ),
            disk: Disk::look(device),
        }
    }
}

/// `major:minor` of a device number.
fn number(device: u64) -> String {
    format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device))
}

/// Value of a `name : value` line.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

/// Type and options of the filesystem on a device, from `/proc/self/mountinfo`.
fn mount(mountinfo: &str, device: &str) -> Option<String> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        (left.split_whitespace().nth(2)? == device).then_some(())?;
        let mut right = right.split_whitespace();
        let kind = right.next()?;
        let options = left.split_whitespace().nth(5)?;
        Some(format!("{kind} ({options}; {})", right.nth(1).unwrap_or_default()))
    })
}

impl Disk {
    fn look(device: Option<u64>) -> Disk {
        let folder = device.and_then(|d| {
            let link = format!("/sys/dev/block/{}", number(d));
            let folder = fs::canonicalize(link).ok()?;
            // The queue belongs to the whole disk, one level above a partition.
            let whole = folder.join("queue").exists();
            if whole { Some(folder) } else { folder.parent().map(Path::to_owned) }
        });
        let Some(folder) = folder else {
            return Disk {
                name: UNKNOWN.to_owned(),
                model: UNKNOWN.to_owned(),
                size_bytes: 0,
                scheduler: UNKNOWN.to_owned(),
                write_cache: UNKNOWN.to_owned(),
                block_bytes: 0,
            };
        };
        let parsed = |name: &str| read(folder.join(name)).and_then(|text| text.parse::<u64>().ok());
        Disk {
            name: folder.file_name().map_or(UNKNOWN.into(), |n| n.to_string_lossy().into_owned()),
            model: or_unknown(read(folder.join("device/model"))),
            size_bytes: parsed("size").map_or(0, |sectors| sectors * 512),
            scheduler: or_unknown(read(folder.join("queue/scheduler"))),
            write_cache: or_unknown(read(folder.join("queue/write_cache"))),
            block_bytes: parsed("queue/logical_block_size").unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_device_with_type_and_options() {
        let info = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw,discard\n\
                    23 22 0:5 / /dev rw,nosuid - devtmpfs devtmpfs rw,size=4k\n";
        assert_eq!(mount(info, "254:0").unwrap(), "ext4 (rw,relatime; rw,discard)");
        assert_eq!(mount(info, "9:9"), None);
    }

    #[test]
    fn fields_are_found_whatever_their_padding() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\n";
        assert_eq!(field(text, "model name").unwrap(), "Some CPU @ 3 GHz");
        assert_eq!(field(text, "model"), None);
    }

    #[test]
    fn this_machine_has_a_kernel_and_a_missing_path_no_disk() {
        let host = Host::look(Path::new("/"));
        assert_ne!(host.kernel, UNKNOWN);
        assert!(host.cores > 0 && host.memory_bytes > 0);
        assert_eq!(Host::look(Path::new("/no/such/path")).disk.name, UNKNOWN);
    }
}
