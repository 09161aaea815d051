//! The demo as CI and newcomers run it, shortened: what it finds, and that it leaves nothing behind.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn demo(dir: &Path, seconds: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironring"));
    command.args(["demo", "--connections", "4", "--seconds", seconds, "--dir"]).arg(dir).args(args);
    command.stdin(Stdio::null());
    command
}

/// What it prints as JSON.
fn report(args: &[&str]) -> Value {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory can be made");
    let output = demo(dir.path(), "2", args).args(["-o", "json"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(processes_in(dir.path()), [0; 0], "no node is left");
    assert_eq!(std::fs::read_dir(dir.path()).expect("it is there").count(), 0, "no file is left");
    let report: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert!(report["acked"].as_u64() > Some(0), "{report}");
    assert_eq!(report["acked"], report["found"], "{report}");
    for none in ["lost", "wrong", "refused_found"] {
        assert_eq!(report[none], 0, "{report}");
    }
    report
}

/// Processes that were started with files in `dir`.
fn processes_in(dir: &Path) -> Vec<i32> {
    let name = dir.to_str().expect("it is text");
    let processes = std::fs::read_dir("/proc").expect("Linux has it").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let of_it = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(name)
    };
    pids.filter(of_it).collect()
}

#[test]
fn a_cluster_loses_its_leader_and_grows() {
    let report = report(&[]);
    assert_eq!(report["nodes"].as_array().map(Vec::len), Some(4), "{report}");
    assert!(report["killed"]["others_led_ms"].as_f64() > Some(0.0), "{report}");
    assert!(report["added"]["moved_partitions"].as_u64() > Some(0), "{report}");
}

#[test]
fn a_node_alone_recovers() {
    let report = report(&["--nodes", "1"]);
    assert_eq!(report["nodes"].as_array().map(Vec::len), Some(1), "{report}");
    assert_eq!(report["added"], Value::Null, "{report}");
    assert!(report["killed"]["write_gap_ms"].as_f64() > Some(0.0), "{report}");
}

#[test]
fn who_is_interrupted_takes_everything_along() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory can be made");
    let mut command = demo(dir.path(), "600", &[]);
    let mut demo: Child = command.stderr(Stdio::piped()).spawn().expect("it runs");
    let mut lines = BufReader::new(demo.stderr.take().expect("it was asked for")).lines();
    let mut next = || lines.next().expect("it says more").expect("it is text");
    while !next().contains("connections put values") {}
    assert!(processes_in(dir.path()).len() > 3, "three nodes run");
    let pid = Pid::from_raw(demo.id().cast_signed());
    kill(pid, Signal::SIGINT).expect("it runs");
    assert_eq!(demo.wait().expect("it was started").code(), Some(1));
    assert!(next().contains("interrupted"));
    assert_eq!(processes_in(dir.path()), [0; 0], "no node is left");
    assert_eq!(std::fs::read_dir(dir.path()).expect("it is there").count(), 0, "no file is left");
}
