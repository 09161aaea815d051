//! `ironring start`: from flags to a running node.

use clap::Args;
use serde::Serialize;

use super::error::{CliError, DISK_FAILED, START_FAILED};
use super::output::{Cell, Output, Report, Tone, View};
use super::settings::SettingsArgs;
use super::units;
use crate::config::settle::MEMLOCK_LEAST_BYTES;
use crate::config::{Loaded, Machine, Settled, TraceLevel};
use crate::driver::{self, Node, NodeError};
use crate::http::Server;

/// Flags of `start`.
#[derive(Args, Debug)]
pub struct StartArgs {
    /// The configuration.
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// Say what would be started, and start nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// A configuration that was checked against the machine.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The configuration and where each value came from.
    pub loaded: Loaded,
    /// What its open questions come to here.
    pub settled: Settled,
}

/// Loads the configuration and settles it on this machine.
///
/// # Errors
/// When either is impossible, with every reason.
pub fn prepare(settings: &SettingsArgs) -> Result<Prepared, CliError> {
    let loaded = settings.load()?;
    let machine = Machine::read(&loaded.config.node.data_dir)
        .map_err(|error| CliError::io("the machine cannot be looked at", &error))?;
    let settled = Settled::new(&loaded.config, &machine)
        .map_err(|error| CliError::local(&START_FAILED, error.to_string()))?;
    Ok(Prepared { loaded, settled })
}

/// Runs the command: returns when the node has stopped.
///
/// # Errors
/// When the node cannot start, or stopped because of a failure.
pub fn run(args: &StartArgs, output: Output) -> Result<(), CliError> {
    let prepared = prepare(&args.settings)?;
    for warning in prepared.loaded.config.warnings() {
        output.note(&format!("warning: {warning}"));
    }
    check_lockable_memory()?;
    if args.dry_run {
        return output.print(&Plan::new(&prepared)).map_err(|error| CliError::io("stdout", &error));
    }
    serve(prepared)
}

/// Refuses a limit below which there are no executors, before anything is made.
fn check_lockable_memory() -> Result<(), CliError> {
    use nix::sys::resource::{Resource, getrlimit};
    let (limit, _) = getrlimit(Resource::RLIMIT_MEMLOCK)
        .map_err(|error| CliError::io("the limit of lockable memory is not told", &error.into()))?;
    if limit >= MEMLOCK_LEAST_BYTES {
        return Ok(());
    }
    let (limit, least) = (units::bytes(limit), units::bytes(MEMLOCK_LEAST_BYTES));
    let what = format!(
        "the limit of lockable memory (`ulimit -l`) is {limit}, and the executors need {least} at \
         least: raise it (`ulimit -l`, memlock in /etc/security/limits.conf, LimitMEMLOCK= of a unit)"
    );
    Err(CliError::local(&START_FAILED, what))
}

/// What `start --dry-run` says.
#[derive(Serialize)]
struct Plan<'a> {
    node: &'a str,
    cluster: &'a str,
    data_dir: &'a std::path::Path,
    partitions: u32,
    clients: String,
    http: String,
    #[serde(flatten)]
    settled: &'a Settled,
}

impl<'a> Plan<'a> {
    fn new(prepared: &'a Prepared) -> Plan<'a> {
        let config = &prepared.loaded.config;
        Plan {
            node: &config.node.name,
            cluster: &config.cluster.name,
            data_dir: &config.node.data_dir,
            partitions: config.cluster.partitions,
            clients: config.listen.clients.to_string(),
            http: config.listen.http.to_string(),
            settled: &prepared.settled,
        }
    }
}

impl Report for Plan<'_> {
    fn view(&self) -> View {
        let settled = self.settled;
        let cpus: Vec<String> = settled.cpus.iter().map(u16::to_string).collect();
        let shards = format!("{} on CPU {}", settled.cpus.len(), cpus.join(", "));
        let source = if settled.disk_measured { "measured" } else { "not measured" };
        let rate = units::rate(settled.scrub_bytes_per_second_max as f64);
        let scrub = format!("at most {rate} (disk {source})");
        View::new().pairs([
            ("node", Cell::from(self.node)),
            ("cluster", Cell::from(self.cluster)),
            ("data", Cell::from(self.data_dir.display().to_string())),
            (
                "shards",
                Cell::toned(shards, if settled.cpus_shared { Tone::Warn } else { Tone::Plain }),
            ),
            ("partitions", Cell::from(self.partitions.to_string())),
            ("memory", Cell::from(units::bytes(settled.memory_max_bytes))),
            ("cache", Cell::from(units::bytes(settled.cache_bytes))),
            ("disk", Cell::from(units::bytes(settled.disk_bytes_max))),
            ("scrub", Cell::from(scrub)),
            ("runtime", Cell::from(settled.runtime.name())),
            ("clients", Cell::from(self.clients.as_str())),
            ("http", Cell::from(self.http.as_str())),
        ])
    }
}

/// Runs the node in this process.
fn serve(prepared: Prepared) -> Result<(), CliError> {
    trace_to_stderr(prepared.loaded.config.trace.level);
    let stop = driver::signals::stop_flag()
        .map_err(|error| CliError::io("signals cannot be handled", &error))?;
    let node = Node { loaded: prepared.loaded, settled: prepared.settled, stop };
    let http = node.loaded.config.listen.http;
    let mut server = None;
    let ended = node.run(|_, shared| {
        let view = std::sync::Arc::clone(shared);
        let started = Server::start(http, view)
            .map_err(|source| NodeError::Listen { address: http, source })?;
        let address = started.address();
        tracing::info!("http on {address}");
        server = Some(started);
        Ok(Some(address))
    });
    if let Some(server) = server {
        server.stop();
    }
    ended.map_err(|error| match error {
        NodeError::Shard { .. } => CliError::local(&DISK_FAILED, error.to_string()),
        NodeError::Cluster { why, hint } if !hint.is_empty() => {
            CliError::hinted(&START_FAILED, why, hint)
        }
        error => CliError::local(&START_FAILED, error.to_string()),
    })
}

/// Lines of the node's log go to stderr, one event a line.
fn trace_to_stderr(level: TraceLevel) {
    // openraft tells at each level what this program tells at the next.
    let (ours, openraft) = match level {
        TraceLevel::Error => ("error", "error"),
        TraceLevel::Warn => ("warn", "error"),
        TraceLevel::Info => ("info", "error"),
        TraceLevel::Debug => ("debug", "info"),
        TraceLevel::Trace => ("trace", "trace"),
    };
    let filter = tracing_subscriber::EnvFilter::new(format!("{ours},openraft={openraft}"));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr())
        && std::env::var_os("NO_COLOR").is_none();
    // A second node in the same process (tests) keeps the first one's.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .with_target(false)
        .try_init();
}
