//! The judgement: one row per check, from [`Facts`] alone.

use std::time::Duration;

use super::facts::{DataFacts, DeviceFacts, Facts};
use super::{Row, Severity};
use crate::cli::units;
use crate::config::settle::{MEMLOCK_LEAST_BYTES, RING_DEPTH_MAX};
use crate::config::{Config, Settled};

/// Oldest kernel whose io_uring has every operation the executors use.
const KERNEL_LEAST: (u32, u32) = (5, 8);
/// Oldest kernel this is tested on; older ones have io_uring bugs that were fixed since.
const KERNEL_TESTED: (u32, u32) = (5, 15);
/// Descriptors beside connections and segments: rings, listeners, timers, logs.
const DESCRIPTORS_OWN: u64 = 256;
/// Largest clock error that goes unmentioned, in microseconds.
const CLOCK_ERROR_MAX_US: u64 = 1_000_000;
/// Slowest durable 4 KiB write, in 99 of 100, that goes unmentioned.
const DURABLE_P99_MAX: Duration = Duration::from_millis(10);

/// Every check, in the order they are shown.
#[must_use]
pub fn all(config: &Config, settled: &Settled, facts: &Facts) -> Vec<Row> {
    vec![
        kernel(facts),
        io_uring(facts),
        io_uring_switch(facts),
        seccomp(facts),
        memlock(settled, facts),
        descriptors(config, settled, facts),
        data_dir(&facts.data),
        direct_io(&facts.data),
        file_system(&facts.data),
        free_disk(config, settled, &facts.data),
        disk_kind(&facts.data),
        disk_speed(&facts.data),
        write_cache(&facts.data),
        scheduler(&facts.data),
        memory(settled, facts),
        huge_pages(facts),
        swap(facts),
        cpus(settled),
        governor(facts),
        clock_source(facts),
        time_sync(facts),
        numa(facts),
        interrupts(settled, facts),
        ports(facts),
    ]
}

fn row(id: &'static str, required: &str, found: impl Into<String>) -> Row {
    Row {
        id,
        required: required.to_owned(),
        found: found.into(),
        severity: Severity::Ok,
        fix: String::new(),
    }
}

impl Row {
    /// The same check, not passed.
    fn but(mut self, severity: Severity, fix: impl Into<String>) -> Row {
        self.severity = severity;
        self.fix = fix.into();
        self
    }
}

fn kernel(facts: &Facts) -> Row {
    let required = format!(
        "Linux {}.{}, better {}.{}",
        KERNEL_LEAST.0, KERNEL_LEAST.1, KERNEL_TESTED.0, KERNEL_TESTED.1
    );
    let row = row("kernel", &required, facts.kernel.as_str());
    let mut numbers = facts.kernel.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return row.but(Severity::Warn, "the version could not be read; check `uname -r`");
    };
    if (major, minor) < KERNEL_LEAST {
        return row
            .but(Severity::Fatal, "install a newer kernel: this one's io_uring lacks operations");
    }
    if (major, minor) < KERNEL_TESTED {
        return row.but(Severity::Warn, "install a newer kernel: io_uring bugs were fixed since");
    }
    row
}

fn io_uring(facts: &Facts) -> Row {
    let required = "a ring can be made and has every operation used";
    match &facts.io_uring {
        Ok(missing) if missing.is_empty() => row("io_uring", required, "all operations"),
        Ok(missing) => row("io_uring", required, format!("missing: {}", missing.join(", ")))
            .but(Severity::Fatal, "install a newer kernel"),
        Err(why) => row("io_uring", required, why.as_str()).but(
            Severity::Fatal,
            "allow io_uring: see the rows io_uring-switch and seccomp; in a container, use a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register",
        ),
    }
}

fn io_uring_switch(facts: &Facts) -> Row {
    let required = "kernel.io_uring_disabled = 0";
    let fix = "sysctl -w kernel.io_uring_disabled=0, and set it in /etc/sysctl.d";
    match facts.io_uring_disabled {
        None => row("io_uring-switch", required, "no such switch in this kernel"),
        Some(0) => row("io_uring-switch", required, "0"),
        // Only members of kernel.io_uring_group may use it; the probe tells whether this user is.
        Some(1) if facts.io_uring.is_ok() => {
            row("io_uring-switch", required, "1, and this user may").but(
                Severity::Warn,
                format!("the node's user must be in kernel.io_uring_group; or {fix}"),
            )
        }
        Some(value) => {
            row("io_uring-switch", required, value.to_string()).but(Severity::Fatal, fix)
        }
    }
}

fn seccomp(facts: &Facts) -> Row {
    let required = "no filter that stops io_uring";
    match (facts.seccomp, &facts.io_uring) {
        (Some(0), _) => row("seccomp", required, "no filter"),
        (Some(_), Ok(_)) => row("seccomp", required, "a filter that lets io_uring pass"),
        (Some(_), Err(_)) => row("seccomp", required, "a filter, and io_uring is refused")
            .but(Severity::Fatal, "run with a seccomp profile that allows io_uring_setup, io_uring_enter, io_uring_register"),
        (None, _) => row("seccomp", required, "unknown").but(Severity::Warn, "check Seccomp in /proc/self/status"),
    }
}

fn memlock(settled: &Settled, facts: &Facts) -> Row {
    let limit = facts.memlock_soft.map_or_else(|| "unlimited".to_owned(), units::bytes);
    let free = if facts.memlock_enforced { "" } else { ", not enforced (CAP_IPC_LOCK)" };
    let depth = settled.ring_depth;
    let found = format!("{limit}{free}: rings of {depth} entries");
    let row = row("memlock", &units::bytes(MEMLOCK_LEAST_BYTES), found);
    let fix = "LimitMEMLOCK=infinity in the systemd unit, or `ulimit -l unlimited`";
    if facts.memlock_soft.is_some_and(|limit| limit < MEMLOCK_LEAST_BYTES) {
        return row.but(Severity::Fatal, fix);
    }
    if depth < RING_DEPTH_MAX {
        return row.but(Severity::Warn, format!("{fix}; larger rings take fewer system calls"));
    }
    row
}

fn descriptors(config: &Config, settled: &Settled, facts: &Facts) -> Row {
    let segments = settled.disk_bytes_max / config.log.segment_bytes;
    let needed = u64::from(config.limits.connections_max) + segments + DESCRIPTORS_OWN;
    let required = format!("{needed} (connections, segments and {DESCRIPTORS_OWN})");
    let found = match facts.nofile_soft {
        u64::MAX => "unlimited".to_owned(),
        limit => limit.to_string(),
    };
    let row = row("descriptors", &required, found);
    if facts.nofile_soft < needed {
        return row.but(
            Severity::Warn,
            format!(
                "LimitNOFILE={} in the systemd unit, or `ulimit -n {0}`",
                needed.next_power_of_two()
            ),
        );
    }
    row
}

fn data_dir(data: &DataFacts) -> Row {
    let required = "a directory this user can write";
    let path = data.path.display();
    match (&data.writable, data.exists) {
        (Ok(()), true) => row("data-dir", required, path.to_string()),
        (Ok(()), false) => row(
            "data-dir",
            required,
            format!("{path} is not there yet; it can be made in {}", data.looked_at.display()),
        ),
        (Err(why), true) => row("data-dir", required, format!("{path}: {why}")).but(
            Severity::Fatal,
            "give the node's user the directory: chown, or another node.data_dir",
        ),
        (Err(why), false) => row("data-dir", required, format!("{path} is not there: {why}")).but(
            Severity::Fatal,
            format!("make {path} and give it to the node's user, or set node.data_dir"),
        ),
    }
}

fn direct_io(data: &DataFacts) -> Row {
    let required = "O_DIRECT with blocks of at most 4096 bytes";
    let said = match data.alignment {
        Some(alignment) => format!("memory {}, position {}", alignment.memory, alignment.offset),
        None => "alignment not told".to_owned(),
    };
    match (&data.direct_io, data.alignment) {
        (Err(why), _) => row("direct-io", required, format!("{said}; trial: {why}")).but(
            Severity::Fatal,
            "use a file system with direct I/O (XFS or ext4 on a local disk)",
        ),
        (Ok(()), Some(alignment)) if alignment.offset > 4096 || alignment.offset == 0 => {
            row("direct-io", required, said).but(
                Severity::Fatal,
                "use a device and file system with blocks of 4096 bytes or less",
            )
        }
        (Ok(()), _) => {
            row("direct-io", required, format!("{said}; 4096 bytes written and read back"))
        }
    }
}

/// `statfs` magics and what to think of them.
const FILE_SYSTEMS: &[(i64, &str, Severity, &str)] = &[
    (0x5846_5342, "xfs", Severity::Ok, ""),
    (0xEF53, "ext4", Severity::Ok, ""),
    (
        0xF2F5_2010,
        "f2fs",
        Severity::Warn,
        "use XFS or ext4: f2fs rewrites elsewhere what is overwritten in place",
    ),
    (
        0x9123_683E,
        "btrfs",
        Severity::Warn,
        "use XFS or ext4: btrfs copies on write, so preallocation is lost",
    ),
    (
        0x2FC1_2FC1,
        "zfs",
        Severity::Warn,
        "use XFS or ext4: ZFS copies on write and keeps its own cache",
    ),
    (0x794C_7630, "overlayfs", Severity::Warn, "put the data directory on a volume of its own"),
    (0x0102_1994, "tmpfs", Severity::Fatal, "put the data directory on a disk: tmpfs is memory"),
    (0x8584_58F6, "ramfs", Severity::Fatal, "put the data directory on a disk: ramfs is memory"),
    (0x6969, "nfs", Severity::Fatal, "put the data directory on a local disk"),
    (0xFF53_4D42, "cifs", Severity::Fatal, "put the data directory on a local disk"),
    (0x6573_5546, "fuse", Severity::Fatal, "put the data directory on a local disk"),
];

fn file_system(data: &DataFacts) -> Row {
    let required = "xfs or ext4";
    match FILE_SYSTEMS.iter().find(|(magic, ..)| *magic == data.fs_magic) {
        Some((_, name, Severity::Ok, _)) => row("file-system", required, *name),
        Some((_, name, severity, fix)) => row("file-system", required, *name).but(*severity, *fix),
        None => row("file-system", required, format!("unknown ({:#x})", data.fs_magic))
            .but(Severity::Warn, "use XFS or ext4, on which ironring is tested"),
    }
}

fn free_disk(config: &Config, settled: &Settled, data: &DataFacts) -> Row {
    let segments = settled.cpus.len() as u64 * (u64::from(config.log.reserve_segments) + 3);
    let least = segments * config.log.segment_bytes;
    let required =
        format!("{} to start, a tenth of the file system to stay fast", units::bytes(least));
    let found = format!("{} of {}", units::bytes(data.free_bytes), units::bytes(data.fs_bytes));
    let row = row("free-disk", &required, found);
    if data.free_bytes < least {
        return row.but(
            Severity::Fatal,
            "free space, or make log.segment_bytes or log.reserve_segments smaller",
        );
    }
    if data.free_bytes < data.fs_bytes / 10 {
        return row
            .but(Severity::Warn, "free space: file systems and flash slow down when nearly full");
    }
    row
}

fn disk_kind(data: &DataFacts) -> Row {
    let required = "a solid-state disk";
    match &data.disk {
        None => row("disk", required, "not on a disk of its own").but(
            Severity::Warn,
            "the disk's rows cannot be judged: put the data directory on a local disk",
        ),
        Some(disk) if disk.rotational => {
            row("disk", required, format!("{}, rotational", disk.device.name))
                .but(Severity::Warn, "use NVMe: every commit waits for a durable write")
        }
        Some(disk) => row("disk", required, disk.device.name.as_str()),
    }
}

fn disk_speed(data: &DataFacts) -> Row {
    let required = format!("99 % of durable writes below {}", units::duration(DURABLE_P99_MAX));
    let row = |found: String| row("disk-speed", &required, found);
    match &data.durable_p99_seconds {
        Ok(None) => row("not measured: run `ironring diskprobe` once".to_owned()),
        Ok(Some(seconds)) => {
            let took = Duration::from_secs_f64(seconds.max(0.0));
            let row = row(format!("99 % below {}", units::duration(took)));
            if took > DURABLE_P99_MAX {
                return row.but(
                    Severity::Warn,
                    "use a disk with power-loss protection, or one nobody else is using",
                );
            }
            row
        }
        Err(why) => row(why.clone()).but(Severity::Warn, "run `ironring diskprobe` again"),
    }
}

fn write_cache(data: &DataFacts) -> Row {
    // Both are safe: with a volatile cache every durable write carries a flush. What it costs is
    // what `diskprobe` measures.
    let required = "any; write through (power-loss protected) makes fsync cheap";
    let cache = data.disk.as_ref().and_then(|disk| disk.write_cache.as_deref());
    match cache {
        Some("write back") => row("write-cache", required, "write back: every fsync flushes it"),
        Some(other) => row("write-cache", required, other),
        None => row("write-cache", required, "unknown"),
    }
}

fn scheduler(data: &DataFacts) -> Row {
    let required = "none";
    let Some(disk) = &data.disk else { return row("io-scheduler", required, "unknown") };
    match disk.scheduler.as_deref() {
        Some("none") | None => {
            row("io-scheduler", required, disk.scheduler.as_deref().unwrap_or("unknown"))
        }
        Some(_) if disk.rotational => row(
            "io-scheduler",
            "any on a rotational disk",
            disk.scheduler.as_deref().unwrap_or("unknown"),
        ),
        Some(other) => row("io-scheduler", required, other).but(
            Severity::Warn,
            format!(
                "echo none > /sys/block/{}/queue/scheduler, and a udev rule to keep it",
                disk.device.name
            ),
        ),
    }
}

fn memory(settled: &Settled, facts: &Facts) -> Row {
    let required =
        format!("{} (memory.max_bytes) within nine tenths", units::bytes(settled.memory_max_bytes));
    let row = row("memory", &required, units::bytes(facts.memory_bytes));
    if settled.memory_max_bytes > facts.memory_bytes {
        return row.but(Severity::Fatal, "lower memory.max_bytes: there is less memory than that");
    }
    if settled.memory_max_bytes > facts.memory_bytes / 10 * 9 {
        return row.but(
            Severity::Warn,
            "lower memory.max_bytes: the rest of the system needs memory too",
        );
    }
    row
}

fn huge_pages(facts: &Facts) -> Row {
    let required = "madvise or never";
    match facts.huge_pages.as_deref() {
        Some("always") => row("huge-pages", required, "always").but(
            Severity::Warn,
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled: compaction of pages stalls threads",
        ),
        other => row("huge-pages", required, other.unwrap_or("not in this kernel")),
    }
}

fn swap(facts: &Facts) -> Row {
    let required = "none";
    if facts.swap_areas.is_empty() {
        return row("swap", required, "none");
    }
    row("swap", required, facts.swap_areas.join(", "))
        .but(Severity::Warn, "swapoff -a, or MemorySwapMax=0 in the systemd unit: a swapped index makes every request wait for the disk")
}

fn cpus(settled: &Settled) -> Row {
    let required = "a CPU for each shard";
    let list: Vec<String> = settled.cpus.iter().map(u16::to_string).collect();
    let row =
        row("cpus", required, format!("{} shards on CPU {}", settled.cpus.len(), list.join(", ")));
    if settled.cpus_shared {
        return row.but(Severity::Warn, "lower node.shards: pinned shards on one CPU take turns");
    }
    row
}

fn governor(facts: &Facts) -> Row {
    let required = "performance";
    match facts.governors.as_slice() {
        [] => row("cpu-governor", required, "not visible (virtual machine)"),
        [one] if one == "performance" => row("cpu-governor", required, "performance"),
        some => row("cpu-governor", required, some.join(", ")).but(
            Severity::Warn,
            "cpupower frequency-set -g performance: short bursts of work never reach full speed",
        ),
    }
}

fn clock_source(facts: &Facts) -> Row {
    let required = "tsc, kvm-clock, hyperv or arch_sys_counter";
    let found = facts.clock_source.as_deref().unwrap_or("unknown");
    let row = row("clock-source", required, found);
    if ["tsc", "kvm-clock", "arch_sys_counter"].contains(&found) || found.starts_with("hyperv") {
        return row;
    }
    row.but(Severity::Warn, "boot with clocksource=tsc if the CPU has an invariant TSC: reading this clock is a slow call")
}

fn time_sync(facts: &Facts) -> Row {
    let required = "a synchronised clock";
    let fix = "run chrony or systemd-timesyncd: record times and expiry are wall-clock time";
    match facts.clock_sync {
        Some((true, error_us)) if error_us <= CLOCK_ERROR_MAX_US => row(
            "time-sync",
            required,
            format!("synchronised, error at most {} ms", error_us.div_ceil(1000)),
        ),
        Some((true, error_us)) => {
            row("time-sync", required, format!("synchronised, error up to {} ms", error_us / 1000))
                .but(Severity::Warn, fix)
        }
        Some((false, _)) => row("time-sync", required, "not synchronised").but(Severity::Warn, fix),
        None => row("time-sync", required, "unknown").but(Severity::Warn, fix),
    }
}

fn numa(facts: &Facts) -> Row {
    let required = "disk and network on one node";
    let disk = facts.data.disk.as_ref().map(|disk| &disk.device);
    let placed: Vec<(&DeviceFacts, u32)> = disk
        .into_iter()
        .chain(&facts.nics)
        .filter_map(|device| device.numa_node.map(|node| (device, node)))
        .collect();
    if placed.is_empty() {
        return row("numa", required, "one node");
    }
    let names: Vec<String> =
        placed.iter().map(|(device, node)| format!("{} on {node}", device.name)).collect();
    let row = row("numa", required, names.join(", "));
    if placed.iter().any(|(_, node)| *node != placed[0].1) {
        return row.but(Severity::Warn, "name the CPUs of the disk's node in node.cpus, and use a network card on the same node");
    }
    row
}

fn interrupts(settled: &Settled, facts: &Facts) -> Row {
    let required = "each device's interrupts on more than one CPU";
    let disk = facts.data.disk.as_ref().map(|disk| &disk.device);
    let devices: Vec<&DeviceFacts> = disk.into_iter().chain(&facts.nics).collect();
    let spread = |device: &DeviceFacts| {
        let mut cpus = device.irq_cpus.clone();
        cpus.sort();
        cpus.dedup();
        cpus
    };
    let seen: Vec<String> = devices
        .iter()
        .filter(|device| !device.irq_cpus.is_empty())
        .map(|device| {
            format!(
                "{}: {} on CPU {}",
                device.name,
                device.irq_cpus.len(),
                spread(device).join(" ")
            )
        })
        .collect();
    if seen.is_empty() {
        return row("interrupts", required, "not visible");
    }
    let row = row("interrupts", required, seen.join("; "));
    // A device with a queue or two has few interrupts to spread; only a crowd on one CPU is wrong.
    let crowded = |device: &&&DeviceFacts| device.irq_cpus.len() > 4 && spread(device).len() == 1;
    match devices.iter().find(crowded) {
        Some(device) if settled.cpus.len() > 1 => row.but(
            Severity::Warn,
            format!("spread the interrupts of {} over the CPUs: run irqbalance, or write /proc/irq/*/smp_affinity_list", device.name),
        ),
        _ => row,
    }
}

fn ports(facts: &Facts) -> Row {
    let required = "addresses of the configuration are free";
    if facts.ports_taken.is_empty() {
        return row("ports", required, "free");
    }
    let taken: Vec<String> =
        facts.ports_taken.iter().map(|(address, why)| format!("{address}: {why}")).collect();
    row("ports", required, taken.join("; ")).but(
        Severity::Warn,
        "if this is not the node itself already running, choose other addresses under [listen]",
    )
}
