//! What the disk gives, measured by fio with direct I/O through io_uring.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::BenchError;
use crate::render::{Table, bandwidth};
use crate::units::{show_ns, show_rate};

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Name in results.
    pub name: &'static str,
    /// fio's `rw`.
    pub rw: &'static str,
    /// Bytes per operation.
    pub block_bytes: u32,
    /// Operations in flight.
    pub depth: u32,
    /// Whether every write waits for the disk (O_DSYNC).
    pub dsync: bool,
}

const fn write(name: &'static str, block_bytes: u32) -> Job {
    Job { name, rw: "randwrite", block_bytes, depth: 1, dsync: true }
}

const fn random_read(name: &'static str, depth: u32) -> Job {
    Job { name, rw: "randread", block_bytes: 4096, depth, dsync: false }
}

/// Overwrites of 256 KiB blocks, each on disk before the next: what a log that batches well can
/// reach.
pub const DSYNC_256K: Job = write("overwrite 256 KiB dsync", 256 << 10);

/// Random reads of one block, as many in flight as 64 connections make.
pub const RANDOM_READ_64: Job = random_read("random read 4 KiB x64", 64);

/// Reading files from their beginning to their end.
const READ_ONCE: Job =
    Job { name: "read 1 MiB x4 once", rw: "read", block_bytes: 1 << 20, depth: 4, dsync: false };

/// All measurements of `floor`.
pub const JOBS: [Job; 7] = [
    write("overwrite 4 KiB dsync", 4096),
    write("overwrite 64 KiB dsync", 64 << 10),
    DSYNC_256K,
    random_read("random read 4 KiB x1", 1),
    random_read("random read 4 KiB x16", 16),
    RANDOM_READ_64,
    Job { name: "read 1 MiB x8", rw: "read", block_bytes: 1 << 20, depth: 8, dsync: false },
];

/// What fio measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FioResult {
    /// The job's name.
    pub name: String,
    /// Bytes per operation.
    pub block_bytes: u32,
    /// Operations in flight.
    pub depth: u32,
    /// Operations per second.
    pub iops: f64,
    /// Bytes per second.
    pub bytes_per_s: f64,
    /// Median completion latency.
    pub p50_ns: u64,
    /// 99 %.
    pub p99_ns: u64,
    /// 99.9 %.
    pub p999_ns: u64,
}

/// A file that was written once, so that measured writes overwrite blocks that exist. Removed when
/// dropped.
#[derive(Debug)]
pub struct PreparedFile {
    path: PathBuf,
    bytes: u64,
}

impl Drop for PreparedFile {
    fn drop(&mut self) {
        // Nothing can be done about a file that will not go; the next run overwrites it.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// fio's version; `None` when it is not on PATH.
#[must_use]
pub fn version() -> Option<String> {
    let output = Command::new("fio").arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn failed(problem: impl Into<String>) -> BenchError {
    BenchError::Program { program: "fio".to_owned(), problem: problem.into() }
}

impl PreparedFile {
    /// Writes the file full, with direct I/O, and syncs it.
    ///
    /// # Errors
    /// fio is missing, or the disk is full.
    pub fn create(folder: &Path, bytes: u64) -> Result<PreparedFile, BenchError> {
        std::fs::create_dir_all(folder).map_err(BenchError::file(folder))?;
        let file = PreparedFile { path: folder.join("ironring-bench-fio.tmp"), bytes };
        let fill = ["--name=fill", "--rw=write", "--bs=1M", "--iodepth=4", "--end_fsync=1"];
        file.fio(&fill)?;
        Ok(file)
    }

    /// Runs a job on it for so many seconds.
    ///
    /// # Errors
    /// fio failed or printed something else than its JSON.
    pub fn run(&self, job: &Job, seconds: u32) -> Result<FioResult, BenchError> {
        let mut flags = vec![
            "--name=measure".to_owned(),
            format!("--rw={}", job.rw),
            format!("--bs={}", job.block_bytes),
            format!("--iodepth={}", job.depth),
            format!("--runtime={seconds}"),
            "--ramp_time=1".to_owned(),
            "--time_based".to_owned(),
            "--overwrite=1".to_owned(),
            "--norandommap".to_owned(),
            "--random_generator=tausworthe64".to_owned(),
        ];
        if job.dsync {
            flags.push("--sync=dsync".to_owned());
        }
        let text = self.fio(&flags)?;
        parse(&text, job).map_err(failed)
    }

    fn fio(&self, flags: &[impl AsRef<str>]) -> Result<String, BenchError> {
        let own = [format!("--filename={}", name(&self.path)), format!("--size={}", self.bytes)];
        fio(flags.iter().map(AsRef::as_ref).chain(own.iter().map(String::as_str)))
    }
}

/// Reads files once, one after the other, each from its beginning to its end. Changes nothing.
///
/// # Errors
/// fio failed or printed something else than its JSON.
pub fn read_once(files: &[PathBuf]) -> Result<FioResult, BenchError> {
    let names: Vec<String> = files.iter().map(|file| name(file)).collect();
    let flags = [
        "--name=measure".to_owned(),
        format!("--rw={}", READ_ONCE.rw),
        format!("--bs={}", READ_ONCE.block_bytes),
        format!("--iodepth={}", READ_ONCE.depth),
        format!("--filename={}", names.join(":")),
        "--file_service_type=sequential".to_owned(),
        "--readonly".to_owned(),
    ];
    parse(&fio(flags.iter().map(String::as_str))?, &READ_ONCE).map_err(failed)
}

/// A path as fio takes it: it separates names by colons.
fn name(path: &Path) -> String {
    path.display().to_string().replace(':', "\\:")
}

fn fio<'a>(flags: impl Iterator<Item = &'a str>) -> Result<String, BenchError> {
    let output = Command::new("fio")
        .args(flags)
        .args(["--direct=1", "--ioengine=io_uring", "--output-format=json"])
        .args(["--percentile_list=50:99:99.9"])
        .output()
        .map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Reads fio's JSON, which may follow lines of warnings.
fn parse(text: &str, job: &Job) -> Result<FioResult, String> {
    let start = text.find('{').ok_or("no JSON in its output")?;
    let json: Value = serde_json::from_str(&text[start..]).map_err(|e| format!("JSON: {e}"))?;
    let side = if job.rw.ends_with("read") { "read" } else { "write" };
    let figures = &json["jobs"][0][side];
    let number = |value: &Value, name: &str| {
        value.as_f64().ok_or_else(|| format!("no `{name}` in its {side} figures"))
    };
    let percentile = |name: &str| {
        let value = &figures["clat_ns"]["percentile"][name];
        number(value, name).map(|ns| ns as u64)
    };
    Ok(FioResult {
        name: job.name.to_owned(),
        block_bytes: job.block_bytes,
        depth: job.depth,
        iops: number(&figures["iops"], "iops")?,
        bytes_per_s: number(&figures["bw_bytes"], "bw_bytes")?,
        p50_ns: percentile("50.000000")?,
        p99_ns: percentile("99.000000")?,
        p999_ns: percentile("99.900000")?,
    })
}

/// Results as a table.
#[must_use]
pub fn table(results: &[FioResult]) -> String {
    let mut table = Table::new(&["disk (fio)", "operations", "bandwidth", "p50", "p99", "p99.9"]);
    for r in results {
        let latencies = [r.p50_ns, r.p99_ns, r.p999_ns].map(show_ns);
        let figures = [r.name.clone(), show_rate(r.iops), bandwidth(r.bytes_per_s)];
        table.row(figures.into_iter().chain(latencies));
    }
    table.show()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = r#"fio: a warning in front
{"fio version": "fio-3.33", "jobs": [{"jobname": "measure", "error": 0,
 "read": {"iops": 0, "bw_bytes": 0, "clat_ns": {"min": 0}},
 "write": {"iops": 10102.9, "bw_bytes": 41381466, "clat_ns": {"percentile":
 {"50.000000": 75264, "99.000000": 136192, "99.900000": 268288}}}}]}"#;

    #[test]
    fn the_side_that_was_measured_is_read() {
        let result = parse(OUTPUT, &JOBS[0]).unwrap();
        assert_eq!((result.iops as u64, result.bytes_per_s as u64), (10102, 41_381_466));
        assert_eq!((result.p50_ns, result.p99_ns, result.p999_ns), (75_264, 136_192, 268_288));
    }

    #[test]
    fn missing_figures_are_named() {
        let read = JOBS.iter().find(|job| job.rw == "randread").unwrap();
        assert!(parse(OUTPUT, read).unwrap_err().contains("50.000000"));
        assert!(parse("fio: no such engine", read).is_err());
    }

    #[test]
    fn every_write_job_waits_for_the_disk() {
        for job in JOBS {
            assert_eq!(job.dsync, job.rw == "randwrite", "{}", job.name);
        }
    }
}
