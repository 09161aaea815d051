//! Rows from made-up machines: what is found decides severity and fix, nothing else does.

use std::path::PathBuf;

use super::facts::{DataFacts, DeviceFacts, DiskFacts, Facts};
use super::kernel::DirectAlignment;
use super::{Diagnosis, Row, Severity, checks};
use crate::cli::output::Report;
use crate::config::size::{GIB, KIB, MIB};
use crate::config::{Config, RuntimeName, Settled};

/// A machine with nothing to complain about.
fn good() -> Facts {
    Facts {
        kernel: "6.8.0-45-generic".to_owned(),
        io_uring_disabled: Some(0),
        io_uring: Ok(Vec::new()),
        seccomp: Some(0),
        memlock_soft: None,
        memlock_enforced: true,
        nofile_soft: 1 << 20,
        data: DataFacts {
            path: PathBuf::from("/data"),
            exists: true,
            looked_at: PathBuf::from("/data"),
            fs_magic: 0x5846_5342,
            fs_bytes: 1000 * GIB,
            free_bytes: 900 * GIB,
            writable: Ok(()),
            alignment: Some(DirectAlignment { memory: 4, offset: 512 }),
            direct_io: Ok(()),
            durable_p99_seconds: Ok(Some(0.0002)),
            disk: Some(DiskFacts {
                device: device("nvme0n1", Some(0), &["0", "1"]),
                write_cache: Some("write through".to_owned()),
                scheduler: Some("none".to_owned()),
                rotational: false,
            }),
        },
        memory_bytes: 64 * GIB,
        huge_pages: Some("madvise".to_owned()),
        swap_areas: Vec::new(),
        clock_source: Some("tsc".to_owned()),
        governors: vec!["performance".to_owned()],
        nics: vec![device("eth0", Some(0), &["0", "1"])],
        clock_sync: Some((true, 1500)),
        ports_taken: Vec::new(),
    }
}

fn device(name: &str, numa_node: Option<u32>, irq_cpus: &[&str]) -> DeviceFacts {
    let irq_cpus = irq_cpus.iter().map(|cpu| (*cpu).to_owned()).collect();
    DeviceFacts { name: name.to_owned(), numa_node, irq_cpus }
}

fn settled() -> Settled {
    Settled {
        cpus: vec![0, 1],
        cpus_shared: false,
        memory_max_bytes: 32 * GIB,
        cache_bytes: 8 * GIB,
        disk_bytes_max: 800 * GIB,
        scrub_bytes_per_second_max: 64 * MIB,
        movement_bytes_per_s: 64 * MIB,
        disk_measured: false,
        runtime: RuntimeName::Glommio,
        ring_depth: 1024,
        memlock_tight_bytes: None,
    }
}

/// The row of a check, after `change` was made to the good machine.
fn row_after(id: &str, change: impl FnOnce(&mut Facts, &mut Settled)) -> Row {
    let (mut facts, mut settled) = (good(), settled());
    change(&mut facts, &mut settled);
    let rows = checks::all(&Config::default(), &settled, &facts);
    // A finding must not spoil the rows of other checks, but for the three that look at one thing.
    let alike = ["io_uring", "io_uring-switch", "seccomp"];
    for row in rows.iter().filter(|row| row.id != id && !alike.contains(&row.id)) {
        assert_eq!(row.severity, Severity::Ok, "{} beside {id}", row.id);
    }
    rows.into_iter().find(|row| row.id == id).expect("there is such a check")
}

/// The same row's severity. Whatever is not right must come with a fix, and nothing else may.
fn severity_after(id: &str, change: impl FnOnce(&mut Facts, &mut Settled)) -> Severity {
    let row = row_after(id, change);
    assert_eq!(row.fix.is_empty(), row.severity == Severity::Ok, "{row:?}");
    row.severity
}

#[test]
fn a_good_machine_passes_every_check() {
    let rows = checks::all(&Config::default(), &settled(), &good());
    for row in &rows {
        assert_eq!((row.severity, row.fix.as_str()), (Severity::Ok, ""), "{row:?}");
    }
    let mut ids: Vec<_> = rows.iter().map(|row| row.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), rows.len(), "ids are unique");
}

#[test]
fn what_stops_a_node_is_fatal() {
    use Severity::Fatal;
    let fatal = [
        severity_after("kernel", |facts, _| facts.kernel = "5.4.0-1".to_owned()),
        severity_after("io_uring", |facts, _| facts.io_uring = Ok(vec!["STATX"])),
        severity_after("io_uring", |facts, _| facts.io_uring = Err("EPERM".to_owned())),
        severity_after("io_uring-switch", |facts, _| facts.io_uring_disabled = Some(2)),
        severity_after("seccomp", |facts, _| {
            facts.seccomp = Some(2);
            facts.io_uring = Err("EPERM".to_owned());
        }),
        severity_after("memlock", |facts, _| facts.memlock_soft = Some(64 * KIB)),
        severity_after("data-dir", |facts, _| facts.data.writable = Err("denied".to_owned())),
        severity_after("data-dir", |facts, _| {
            facts.data.exists = false;
            facts.data.writable = Err("denied".to_owned());
        }),
        severity_after("direct-io", |facts, _| facts.data.direct_io = Err("EINVAL".to_owned())),
        severity_after("direct-io", |facts, _| {
            facts.data.alignment = Some(DirectAlignment { memory: 8, offset: 16_384 });
        }),
        severity_after("file-system", |facts, _| facts.data.fs_magic = 0x0102_1994),
        severity_after("file-system", |facts, _| facts.data.fs_magic = 0x6969),
        severity_after("free-disk", |facts, _| facts.data.free_bytes = 64 * MIB),
        severity_after("memory", |_, settled| settled.memory_max_bytes = 65 * GIB),
    ];
    assert!(fatal.iter().all(|severity| *severity == Fatal), "{fatal:?}");
}

#[test]
fn what_only_slows_a_node_is_a_warning() {
    use Severity::Warn;
    let warnings = [
        severity_after("kernel", |facts, _| facts.kernel = "5.10.0".to_owned()),
        severity_after("kernel", |facts, _| facts.kernel = String::new()),
        severity_after("io_uring-switch", |facts, _| facts.io_uring_disabled = Some(1)),
        severity_after("memlock", |_, settled| settled.ring_depth = 512),
        severity_after("descriptors", |facts, _| facts.nofile_soft = 1024),
        severity_after("file-system", |facts, _| facts.data.fs_magic = 0x9123_683E),
        severity_after("file-system", |facts, _| facts.data.fs_magic = 1),
        severity_after("free-disk", |facts, _| facts.data.free_bytes = 50 * GIB),
        severity_after("disk", |facts, _| disk(facts).rotational = true),
        severity_after("disk", |facts, _| facts.data.disk = None),
        severity_after("disk-speed", |facts, _| facts.data.durable_p99_seconds = Ok(Some(0.02))),
        severity_after("disk-speed", |facts, _| {
            facts.data.durable_p99_seconds = Err("version 99".to_owned());
        }),
        severity_after("io-scheduler", |facts, _| disk(facts).scheduler = Some("bfq".to_owned())),
        severity_after("memory", |_, settled| settled.memory_max_bytes = 60 * GIB),
        severity_after("huge-pages", |facts, _| facts.huge_pages = Some("always".to_owned())),
        severity_after("swap", |facts, _| facts.swap_areas = vec!["/swap".to_owned()]),
        severity_after("cpus", |_, settled| settled.cpus_shared = true),
        severity_after("cpu-governor", |facts, _| facts.governors = vec!["powersave".to_owned()]),
        severity_after("clock-source", |facts, _| facts.clock_source = Some("hpet".to_owned())),
        severity_after("time-sync", |facts, _| facts.clock_sync = Some((false, 0))),
        severity_after("time-sync", |facts, _| facts.clock_sync = Some((true, 16_000_000))),
        severity_after("time-sync", |facts, _| facts.clock_sync = None),
        severity_after("numa", |facts, _| facts.nics[0].numa_node = Some(1)),
        severity_after("interrupts", |facts, _| {
            disk(facts).device.irq_cpus = vec!["3".to_owned(); 8]
        }),
        severity_after("ports", |facts, _| {
            facts.ports_taken =
                vec![("listen.http 127.0.0.1:7413".to_owned(), "in use".to_owned())];
        }),
    ];
    assert!(warnings.iter().all(|severity| *severity == Warn), "{warnings:?}");
}

fn disk(facts: &mut Facts) -> &mut DiskFacts {
    facts.data.disk.as_mut().expect("the good machine has a disk")
}

#[test]
fn what_a_virtual_machine_hides_is_no_fault() {
    const FINE: Severity = Severity::Ok;
    assert_eq!(severity_after("cpu-governor", |facts, _| facts.governors.clear()), FINE);
    assert_eq!(
        severity_after("disk-speed", |facts, _| facts.data.durable_p99_seconds = Ok(None)),
        FINE
    );
    assert_eq!(severity_after("direct-io", |facts, _| facts.data.alignment = None), FINE);
    assert_eq!(severity_after("io_uring-switch", |facts, _| facts.io_uring_disabled = None), FINE);
    assert_eq!(severity_after("seccomp", |facts, _| facts.seccomp = Some(2)), FINE);
    assert_eq!(
        severity_after("memlock", |facts, _| {
            facts.memlock_soft = Some(8 * MIB);
            facts.memlock_enforced = false;
        }),
        FINE
    );
    assert_eq!(
        severity_after("numa", |facts, _| {
            facts.nics[0].numa_node = None;
            disk(facts).device.numa_node = None;
        }),
        FINE
    );
}

#[test]
fn rows_say_what_is_required_found_and_to_be_done() {
    let row = row_after("memlock", |facts, settled| {
        facts.memlock_soft = Some(512 * KIB);
        settled.ring_depth = 512;
    });
    assert_eq!(row.required, "512 KiB");
    assert_eq!(row.found, "512 KiB: rings of 512 entries");
    assert!(row.fix.starts_with("LimitMEMLOCK=infinity"), "{}", row.fix);

    let row = row_after("descriptors", |facts, _| facts.nofile_soft = 1024);
    assert_eq!(row.required, "17152 (connections, segments and 256)");
    assert_eq!(row.fix, "LimitNOFILE=32768 in the systemd unit, or `ulimit -n 32768`");
}

#[test]
fn the_diagnosis_is_as_bad_as_its_worst_row() {
    let (mut facts, settled) = (good(), settled());
    let diagnose = |facts: &Facts| Diagnosis::new(checks::all(&Config::default(), &settled, facts));
    assert_eq!(diagnose(&facts).severity, Severity::Ok);
    assert!(!diagnose(&facts).view().render(None, false).contains("To do:"));

    facts.swap_areas.push("/dev/sdb2".to_owned());
    assert_eq!(diagnose(&facts).severity, Severity::Warn);
    facts.io_uring = Err("io_uring_setup: Operation not permitted (os error 1)".to_owned());
    let diagnosis = diagnose(&facts);
    assert_eq!(diagnosis.severity, Severity::Fatal);

    let table = diagnosis.view().render(None, false);
    assert!(table.starts_with("CHECK"), "{table}");
    assert!(
        table.contains("io_uring         FATAL     io_uring_setup: Operation not permitted"),
        "{table}"
    );
    assert!(table.contains("To do:\n\nio_uring  allow io_uring"), "{table}");
    assert!(table.ends_with("24 checks: 22 ok, 1 warnings, 1 fatal\n"), "{table}");

    let json = serde_json::to_value(&diagnosis).unwrap();
    assert_eq!(json["severity"], "fatal");
    assert_eq!(json["checks"][1]["id"], "io_uring");
    assert_eq!(diagnosis.items().unwrap().len(), 24);
}
