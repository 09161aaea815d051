//! Runs a cluster of real nodes under faults, and checks what its clients saw.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use ironring_tests::chaos::nodes::ChaosError;
use ironring_tests::chaos::plan::NODES;
use ironring_tests::chaos::run::{self, Options, check_file, show_judgement};

/// Starts a cluster on loopback, injects faults from a seeded schedule while clients read and write,
/// and checks that what they saw is linearizable and that nothing acknowledged is lost. Exits with 1
/// when anything is wrong or not proven, and keeps the history then.
#[derive(Debug, Parser)]
struct Arguments {
    /// The `ironring` program.
    #[arg(long, required_unless_present = "check")]
    ironring: Option<PathBuf>,
    /// How long faults are injected.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=86_400))]
    seconds: u64,
    /// What the schedule and the clients' choices come from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Nodes of the cluster: 3 or 5.
    #[arg(long, default_value_t = NODES[0], value_parser = parse_nodes)]
    nodes: usize,
    /// Where the run's folder is made; the system's folder for temporary files by default.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Keep the run's folder although nothing was wrong.
    #[arg(long)]
    keep: bool,
    /// Check this history again, and run nothing.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["ironring", "dir", "keep"])]
    check: Option<PathBuf>,
    /// How many steps a search of the history may take, per partition of the keys, before it gives up: more
    /// for long runs.
    #[arg(long, value_name = "N", default_value_t = 50_000_000)]
    steps: u64,
    /// How the report is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn parse_nodes(text: &str) -> Result<usize, String> {
    let nodes = text.parse().map_err(|error| format!("`{text}`: {error}"))?;
    if NODES.contains(&nodes) { Ok(nodes) } else { Err("3 or 5".to_owned()) }
}

fn main() -> ExitCode {
    match made(Arguments::parse()) {
        Ok((text, true)) => {
            println!("{}", text.trim_end());
            ExitCode::SUCCESS
        }
        Ok((text, false)) => {
            println!("{}", text.trim_end());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The report, and whether nothing was wrong.
fn made(arguments: Arguments) -> Result<(String, bool), ChaosError> {
    let json = arguments.output == Output::Json;
    if let Some(file) = &arguments.check {
        let judgement = check_file(file, arguments.steps)?;
        let text = if json { as_json(&judgement) } else { show_judgement(&judgement) };
        return Ok((text, judgement.is_fine()));
    }
    let report = run::run(&Options {
        program: arguments.ironring.expect("clap requires it without --check"),
        seconds: arguments.seconds,
        seed: arguments.seed,
        nodes: arguments.nodes,
        dir: arguments.dir,
        keep: arguments.keep,
        steps: arguments.steps,
    })?;
    Ok((if json { as_json(&report) } else { report.show() }, report.is_fine()))
}

fn as_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).expect("reports have text keys")
}
