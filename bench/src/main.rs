//! `ironring-bench`: an honest load generator for ironring and its peers.
//!
//! - [`scenario`], [`cli`]: what to do. [`workload`], [`keys`]: which requests.
//! - [`schedule`], [`lane`], [`recorder`]: when they are sent, what is unanswered, what was seen;
//!   pure, with time as an argument.
//! - [`protocol`]: requests and replies as bytes. [`engine`]: moves those bytes, on monoio.
//! - [`selfcheck`], [`result`], [`latency`], [`render`]: what the figures are worth, and showing
//!   them.
//! - [`run`], [`sweep`], [`floor`], [`peers`], [`study`], [`compare`], [`report`]: the commands.
//!
//! Exit code: 0 measured, 1 failed (with `--strict` also when the generator may have been the
//! bottleneck, or a study missed a requirement), 2 wrong usage.

mod cli;
mod compare;
mod counters;
mod engine;
mod error;
mod floor;
mod host;
mod keys;
mod lane;
mod latency;
mod peers;
mod protocol;
mod random;
mod recorder;
mod render;
mod report;
mod result;
mod run;
mod scenario;
mod schedule;
mod selfcheck;
mod server;
mod study;
mod sweep;
mod system;
mod units;
mod workload;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Verb};
use run::Verdict;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (outcome, strict) = match cli.verb {
        Verb::Run(args) => {
            let strict = args.output.strict;
            (run::command(args), strict)
        }
        Verb::Sweep(args) => {
            let strict = args.output.strict;
            (sweep::command(args), strict)
        }
        // Here the fault to fail for is the one the user asked to be told of.
        Verb::Compare(args) => (compare::command(&args), true),
        Verb::Report(args) => (report::command(&args).map(|()| Verdict::Good), false),
        Verb::Floor(args) => (floor::command(&args).map(|()| Verdict::Good), false),
        Verb::Peers(args) => (peers::command(&args).map(|()| Verdict::Good), false),
        Verb::Study(args) => {
            let strict = args.study.common().strict;
            (study::command(&args), strict)
        }
    };
    match outcome {
        Ok(Verdict::Good) => ExitCode::SUCCESS,
        Ok(Verdict::Doubtful) if strict => ExitCode::FAILURE,
        Ok(Verdict::Doubtful) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            if error.is_usage() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}
