//! The command line: `ironring <verb>`.
//!
//! Every command has one typed result, printed in the form `-o` asks for ([`output`]); every failure
//! is one [`error::CliError`] with a code, a hint and an exit status: 0 done, 1 failed, 2 used
//! wrongly, 10 not healthy, 11 `doctor` found something fatal, 74 and 78 of `start`: see [`error`].

pub mod arguments;
pub mod cluster;
pub mod config;
pub mod connect;
pub mod demo;
pub mod error;
pub mod explain;
pub mod force;
pub mod http;
pub mod inspect;
pub mod kv;
pub mod load;
pub mod machine;
pub mod node;
pub mod orders;
pub mod output;
pub mod partition;
pub mod settings;
pub mod start;
pub mod stats;
pub mod topic;
pub mod units;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use error::{CliError, USAGE};
use output::{Format, Output};

/// The whole command line.
#[derive(Parser, Debug)]
#[command(
    name = "ironring",
    version,
    about = "A distributed, log-structured storage node",
    arg_required_else_help = true,
    max_term_width = 100
)]
pub struct Cli {
    /// Form of the result
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub output: Format,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a node until it is told to stop
    Start(start::StartArgs),
    /// Start three nodes, load them, kill the leader, start it again, add a node, verify every acknowledged write
    Demo(demo::DemoArgs),
    /// Check whether this machine can run a node, and well; changes nothing
    Doctor(settings::SettingsArgs),
    /// Measure the disk under the data directory and keep the result for `start`
    Diskprobe(machine::DiskprobeArgs),
    /// Show the cluster, let nodes into it and out of it, and decide who votes and what is moved
    Cluster(cluster::ClusterArgs),
    /// Take a node out of service for a while, and back
    Node(node::NodeArgs),
    /// Show where partitions are, and move them by hand
    Partition(partition::PartitionArgs),
    /// Read and write keys
    Kv(kv::KvArgs),
    /// Define, fill and read topics
    Topic(topic::TopicArgs),
    /// Show what the shards of a cluster count; exit status 10 when one does not answer
    Stats(stats::StatsArgs),
    /// Look into the files of a stopped node and verify them
    Inspect(inspect::InspectArgs),
    /// Show or check the configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Explain an error code, or list all
    Explain {
        /// Name or number of the code
        code: Option<String>,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Runs the process's own command line. This is all of `main`.
#[must_use]
pub fn main() -> ExitCode {
    run(std::env::args_os().collect())
}

/// Runs one command line; the first argument is the program.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return misused(&args, &error),
    };
    let output = Output { format: cli.output };
    match dispatch(&cli.command, output) {
        Ok(exit) => exit,
        Err(error) => error.report(cli.output),
    }
}

fn dispatch(command: &Command, output: Output) -> Result<ExitCode, CliError> {
    match command {
        Command::Start(args) => start::run(args, output)?,
        Command::Demo(args) => demo::run(args, output)?,
        Command::Doctor(settings) => return machine::doctor(settings, output),
        Command::Diskprobe(args) => machine::diskprobe(args, output)?,
        Command::Cluster(args) => return cluster::run(args, output),
        Command::Node(args) => node::run(args, output)?,
        Command::Partition(args) => partition::run(args, output)?,
        Command::Kv(args) => kv::run(args, output)?,
        Command::Topic(args) => topic::run(args, output)?,
        Command::Stats(args) => stats::run(args, output)?,
        Command::Inspect(args) => return inspect::run(args, output),
        Command::Config(command) => config::run(command, output)?,
        Command::Explain { code } => explain::run(code.as_deref(), output)?,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "ironring", &mut script);
            output.write(&script).map_err(|error| CliError::io("stdout", &error))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A command line clap refused, or `--help` and `--version`, which it answers in the same way.
fn misused(args: &[OsString], error: &clap::Error) -> ExitCode {
    let format = wanted_format(args);
    if !error.use_stderr() || format == Format::Table {
        // Help that cannot be written leaves only the exit status to speak.
        _ = error.print();
        return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(error::EXIT_USAGE));
    }
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    CliError::local(&USAGE, first.trim_start_matches("error: ")).report(format)
}

/// The format a command line that does not parse asks for, as well as it can be told.
fn wanted_format(args: &[OsString]) -> Format {
    let words: Vec<&str> = args.iter().filter_map(|word| word.to_str()).collect();
    let named = words.iter().enumerate().find_map(|(index, word)| match *word {
        "-o" | "--output" => words.get(index + 1).copied(),
        word => word.strip_prefix("--output=").or_else(|| word.strip_prefix("-o")),
    });
    match named.map(|name| name.trim_start_matches('=')) {
        Some("json") => Format::Json,
        Some("jsonl") => Format::Jsonl,
        _ => Format::Table,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_format_is_found_in_a_line_that_does_not_parse() {
        let format = |line: &str| {
            let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            wanted_format(&args)
        };
        assert_eq!(format("ironring bogus -o json"), Format::Json);
        assert_eq!(format("ironring bogus -ojsonl"), Format::Jsonl);
        assert_eq!(format("ironring --output=json bogus"), Format::Json);
        assert_eq!(format("ironring bogus -o"), Format::Table);
        assert_eq!(format("ironring bogus -o nonsense"), Format::Table);
    }
}
