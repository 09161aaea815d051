//! Runs a cluster of real nodes whose files are corrupted under load, and checks that all of it is
//! repaired, nothing is lost and nothing served wrong.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use ironring_tests::rot::run::{Options, run};

/// Each has a replica of every partition, so that one of them is a minority.
const NODES: usize = 3;

/// Starts a cluster on loopback, corrupts the files of a minority of its replicas again and again while
/// clients read and write, and checks that everything is repaired, nothing acknowledged is lost and
/// nothing is served wrong. Exits with 1 when anything is wrong or not proven, and keeps the files then.
#[derive(Debug, Parser)]
struct Arguments {
    /// The `ironring` program.
    #[arg(long)]
    ironring: PathBuf,
    /// How many corruptions are put in, at least.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    corruptions: u64,
    /// What the plan and the clients' choices come from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the run's folder is made; the system's folder for temporary files by default.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Keep the run's folder although nothing was wrong.
    #[arg(long)]
    keep: bool,
    /// How the report is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let report = match run(&Options {
        program: arguments.ironring,
        seed: arguments.seed,
        corruptions: arguments.corruptions,
        nodes: NODES,
        dir: arguments.dir,
        keep: arguments.keep,
    }) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let text = match arguments.output {
        Output::Text => report.show(),
        Output::Json => serde_json::to_string_pretty(&report).expect("reports have text keys"),
    };
    println!("{}", text.trim_end());
    if report.is_fine() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
