//! Tries, on real nodes, what is promised of a cluster.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use clap::{Parser, ValueEnum};
use ironring_tests::chaos::run::watch_interrupts;
use ironring_tests::drill::{self, DRILLS, Drill, Options, Report};

/// Runs drills: each starts a cluster on loopback, loads it, does what its promise is about, and checks
/// that what was acknowledged is there. Exits with 1 when anything is not as promised.
#[derive(Debug, Parser)]
struct Arguments {
    /// Which drills; all of them unless given.
    #[arg(value_name = "NAME", value_parser = named)]
    names: Vec<Named>,
    /// List them, and run none.
    #[arg(long)]
    list: bool,
    /// The `ironring` program.
    #[arg(long, required_unless_present = "list")]
    ironring: Option<PathBuf>,
    /// Where the drills' folders are made; the system's folder for temporary files by default.
    #[arg(long, value_name = "DIR")]
    data_root: Option<PathBuf>,
    /// Keep the folder of a drill that failed: data and logs of its nodes.
    #[arg(long)]
    keep: bool,
    /// How long `steady` lasts.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    seconds: u64,
    /// Puts a second of `steady`.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
    /// What clients and orders of starts are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How the reports are printed.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// A drill of the command line.
#[derive(Clone, Copy)]
struct Named(&'static Drill);

impl std::fmt::Debug for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name)
    }
}

fn named(name: &str) -> Result<Named, String> {
    drill::find(name).map(Named).ok_or_else(|| "there is no such drill: see --list".to_owned())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        for drill in DRILLS {
            println!("{:<20} {}", drill.name, drill.about);
        }
        return ExitCode::SUCCESS;
    }
    let interrupted = match watch_interrupts() {
        Ok(interrupted) => interrupted,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let options = Options {
        program: arguments.ironring.expect("clap requires it without --list"),
        data_root: arguments.data_root,
        keep: arguments.keep,
        seconds: arguments.seconds,
        rate: arguments.rate,
        seed: arguments.seed,
    };
    let all: Vec<Named> = DRILLS.iter().map(Named).collect();
    let chosen = if arguments.names.is_empty() { all } else { arguments.names };
    let mut reports: Vec<Report> = Vec::new();
    for Named(drill) in chosen {
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
        eprintln!("{}: {}", drill.name, drill.about);
        let report = drill::run(drill, &options, &interrupted);
        if arguments.output == Output::Table {
            println!("{}", report.show());
        }
        reports.push(report);
    }
    if arguments.output == Output::Json {
        let text = serde_json::to_string_pretty(&reports).expect("reports have text keys");
        println!("{text}");
    }
    let passed = reports.iter().filter(|report| report.passed).count();
    eprintln!("{passed} of {} drills passed", reports.len());
    match passed == reports.len() && !interrupted.load(Ordering::Relaxed) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
