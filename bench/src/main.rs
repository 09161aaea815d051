//! `ironring-bench`: an honest load generator for ironring and its peers.
//!
//! - [`scenario`], [`cli`]: what to do. [`workload`], [`keys`]: which requests.
//! - [`schedule`], [`lane`], [`recorder`]: when they are sent, what is unanswered, what was seen;
//!   pure, with time as an argument.
//! - [`protocol`]: requests and replies as bytes. [`engine`]: moves those bytes, on monoio.
//! - [`selfcheck`], [`result`], [`latency`], [`render`]: what the figures are worth, and showing
//!   them.
//! - [`run`], [`floor`], [`peers`]: the commands.
//!
//! Exit code: 0 measured, 1 failed (with `--strict` also when the generator may have been the
//! bottleneck), 2 wrong usage.

mod cli;
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
mod result;
mod run;
mod scenario;
mod schedule;
mod selfcheck;
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
        Verb::Floor(args) => (floor::command(&args).map(|()| Verdict::Clean), false),
        Verb::Peers(args) => (peers::command(&args).map(|()| Verdict::Clean), false),
    };
    match outcome {
        Ok(Verdict::Clean) => ExitCode::SUCCESS,
        Ok(Verdict::Bottleneck) if strict => ExitCode::FAILURE,
        Ok(Verdict::Bottleneck) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            if error.is_usage() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}
