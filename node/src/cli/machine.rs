//! `ironring doctor` and `ironring diskprobe`: the machine under a node.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::error::{CliError, EXIT_DOCTOR_FATAL};
use super::output::{Column, Output, Report, View};
use super::settings::SettingsArgs;
use super::start::{self, Prepared};
use super::units;
use crate::config::Machine;
use crate::diskprobe::{self, PROFILE_FILE, Profile, Throughput};
use crate::doctor::{Diagnosis, Severity, checks, facts::Facts};

/// Seconds a full probe takes.
const PROBE_SECONDS: u32 = 120;
/// Seconds a quick probe takes.
const QUICK_SECONDS: u32 = 30;

/// Checks the machine.
///
/// # Errors
/// When the configuration is wrong; what is wrong with the machine is the result.
pub fn doctor(settings: &SettingsArgs, output: Output) -> Result<ExitCode, CliError> {
    let Prepared { loaded, settled } = start::prepare(settings)?;
    let config = &loaded.config;
    let machine = Machine::read(&config.node.data_dir)
        .map_err(|error| CliError::io("the machine cannot be looked at", &error))?;
    let facts = Facts::gather(config, &settled, machine.memory_bytes);
    let diagnosis = Diagnosis::new(checks::all(config, &settled, &facts));
    output.print(&diagnosis).map_err(|error| CliError::io("stdout", &error))?;
    Ok(match diagnosis.severity {
        Severity::Fatal => ExitCode::from(EXIT_DOCTOR_FATAL),
        Severity::Ok | Severity::Warn => ExitCode::SUCCESS,
    })
}

/// Flags of `diskprobe`.
#[derive(Args, Debug)]
pub struct DiskprobeArgs {
    /// The configuration, which names the data directory.
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// Take 30 seconds instead of two minutes
    #[arg(long, conflicts_with = "seconds")]
    pub quick: bool,
    /// Take this many seconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: Option<u32>,
}

/// Measures the disk and keeps the result in the data directory.
///
/// # Errors
/// When the configuration is wrong, or the disk cannot be measured.
pub fn diskprobe(args: &DiskprobeArgs, output: Output) -> Result<(), CliError> {
    let loaded = args.settings.load()?;
    let dir = &loaded.config.node.data_dir;
    std::fs::create_dir_all(dir).map_err(|error| CliError::io(dir.display(), &error))?;
    let seconds = match (args.seconds, args.quick) {
        (Some(seconds), _) => seconds,
        (None, true) => QUICK_SECONDS,
        (None, false) => PROBE_SECONDS,
    };
    let bar = bar(u64::from(seconds));
    let profile =
        diskprobe::measure(dir, Duration::from_secs(u64::from(seconds)), &mut |turn, share| {
            bar.set_message(turn.to_owned());
            bar.set_position((share * f64::from(seconds)) as u64);
        });
    bar.finish_and_clear();
    let profile = profile.map_err(|error| CliError::io(dir.display(), &error))?;
    profile.save(dir).map_err(|error| CliError::io(dir.join(PROFILE_FILE).display(), &error))?;
    let scrub_bytes_per_second_max = profile.scrub_bytes_per_second();
    let file = dir.join(PROFILE_FILE);
    let measured = Measured { file, profile, scrub_bytes_per_second_max };
    output.print(&measured).map_err(|error| CliError::io("stdout", &error))
}

/// A bar of seconds on a terminal, nothing elsewhere.
fn bar(seconds: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} s  {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(seconds).with_style(style)
}

/// What `diskprobe` found, and where it was put.
#[derive(Serialize)]
struct Measured {
    file: std::path::PathBuf,
    #[serde(flatten)]
    profile: Profile,
    scrub_bytes_per_second_max: u64,
}

impl Report for Measured {
    fn view(&self) -> View {
        let columns = [
            Column::Left("MEASURED"),
            Column::Right("SIZE"),
            Column::Right("IN FLIGHT"),
            Column::Right("PER SECOND"),
            Column::Right("BANDWIDTH"),
            Column::Right("P50"),
            Column::Right("P99"),
        ];
        let seconds = |seconds: f64| units::duration(Duration::from_secs_f64(seconds));
        let row = |(name, throughput): (&str, &Throughput)| {
            vec![
                name.into(),
                units::bytes(throughput.bytes).into(),
                throughput.depth.to_string().into(),
                units::count(throughput.per_second as u64).into(),
                units::rate(throughput.bytes_per_second as f64).into(),
                seconds(throughput.p50_seconds).into(),
                seconds(throughput.p99_seconds).into(),
            ]
        };
        let profile = &self.profile;
        let fixed = [
            ("read, sequential", &profile.read_large),
            ("write, sequential", &profile.write_large),
            ("read, random", &profile.read_small),
            ("write, random", &profile.write_small),
        ];
        let durable = profile.durable.iter().map(|throughput| ("write, O_DSYNC", throughput));
        View::new().rows(&columns, fixed.into_iter().chain(durable).map(row).collect()).text(
            format!(
                "A node that starts here scrubs with at most {}.\nKept in {}.",
                units::rate(self.scrub_bytes_per_second_max as f64),
                self.file.display()
            ),
        )
    }
}
