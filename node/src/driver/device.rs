//! What the disk under a directory does with durable writes.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The folder in which the kernel says how it treats the disk under a directory; a partition leads to
/// its disk. `None` where there is none: a file system of its own kind, or of another machine.
#[must_use]
pub fn queue_of(dir: &Path) -> Option<PathBuf> {
    let device = fs::metadata(dir).ok()?.dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let mut block = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    if block.join("partition").exists() {
        block.pop();
    }
    Some(block.join("queue")).filter(|queue| queue.exists())
}

/// Whether a durable write may end in a flush of the disk's cache, for which the kernel lets the thread
/// wait that submitted the write: the disk has a cache that loses its content without power, and takes
/// no write around it (FUA). What cannot be found out counts as yes.
#[must_use]
pub fn flushes(dir: &Path) -> bool {
    let Some(queue) = queue_of(dir) else { return true };
    let says = |name, what| fs::read_to_string(queue.join(name)).is_ok_and(|s| s.trim() == what);
    !says("write_cache", "write through") && !says("fua", "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_disk_counts_as_one_that_flushes() {
        assert_eq!(queue_of(Path::new("/proc")), None);
        assert!(flushes(Path::new("/proc")));
        assert!(flushes(Path::new("/nowhere")));
    }
}
