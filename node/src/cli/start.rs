//! `ironring start`: from flags to a running node.

use std::path::Path;

use clap::Args;
use ironring_core::NodeId;
use serde::Serialize;

use super::error::{CONFIG_INVALID, CliError, DISK_FAILED, START_FAILED};
use super::output::{Cell, Output, Report, Tone, View};
use super::settings::SettingsArgs;
use super::units;
use crate::cluster::IdentityError;
use crate::config::settle::MEMLOCK_LEAST_BYTES;
use crate::config::{Loaded, Machine, Settled, TraceLevel};
use crate::driver::data_dir::DataDirError;
use crate::driver::intent::{Intent, Will};
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
    let prepared = prepare(&args.settings).map_err(not_prepared)?;
    for warning in prepared.loaded.config.warnings() {
        output.note(&format!("warning: {warning}"));
    }
    check_lockable_memory()?;
    if args.dry_run {
        let plan = Plan::new(&prepared)?;
        return output.print(&plan).map_err(|error| CliError::io("stdout", &error));
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
    #[serde(flatten)]
    will: Goes,
    node: String,
    cluster: String,
    data_dir: &'a Path,
    /// None: as many as the cluster has that the node joins.
    partitions: Option<u32>,
    clients: String,
    peers: String,
    http: String,
    #[serde(flatten)]
    settled: Settled,
}

impl<'a> Plan<'a> {
    fn new(prepared: &'a Prepared) -> Result<Plan<'a>, CliError> {
        let (config, settled) = (&prepared.loaded.config, &prepared.settled);
        let Intent { will, identity } =
            Intent::read(&prepared.loaded, settled).map_err(ended_badly)?;
        let shards = usize::from(identity.shards);
        Ok(Plan {
            partitions: (!matches!(will, Will::Join(_))).then_some(identity.partitions),
            will: will.into(),
            node: identity.node,
            cluster: identity.cluster,
            data_dir: &config.node.data_dir,
            clients: config.listen.clients.to_string(),
            peers: config.listen.peers.to_string(),
            http: config.listen.http.to_string(),
            settled: Settled {
                cpus: settled.cpus.iter().copied().cycle().take(shards).collect(),
                cpus_shared: settled.cpus_shared || shards > settled.cpus.len(),
                ..settled.clone()
            },
        })
    }
}

/// How a start goes on.
#[derive(Debug, Serialize)]
#[serde(tag = "will", rename_all = "lowercase")]
enum Goes {
    Found,
    Join { seeds: Vec<String> },
    Resume { id: NodeId },
}

impl Goes {
    fn words(&self) -> String {
        match self {
            Goes::Found => "found a cluster".to_owned(),
            Goes::Join { seeds } => format!("join the cluster of {}", seeds.join(", ")),
            Goes::Resume { id } => format!("resume as node {id}"),
        }
    }
}

impl From<Will> for Goes {
    fn from(will: Will) -> Goes {
        match will {
            Will::Found => Goes::Found,
            Will::Join(seeds) => Goes::Join { seeds },
            Will::Resume(id) => Goes::Resume { id },
        }
    }
}

impl Report for Plan<'_> {
    fn view(&self) -> View {
        let settled = &self.settled;
        let cpus: Vec<String> = settled.cpus.iter().map(u16::to_string).collect();
        let shards = format!("{} on CPU {}", settled.cpus.len(), cpus.join(", "));
        let source = if settled.disk_measured { "measured" } else { "not measured" };
        let rate = units::rate(settled.scrub_bytes_per_second_max as f64);
        let scrub = format!("at most {rate} (disk {source})");
        let partitions =
            self.partitions.map_or_else(|| "as the cluster has".to_owned(), |n| n.to_string());
        View::new().pairs([
            ("will", Cell::from(self.will.words())),
            ("node", Cell::from(self.node.as_str())),
            ("cluster", Cell::from(self.cluster.as_str())),
            ("data", Cell::from(self.data_dir.display().to_string())),
            (
                "shards",
                Cell::toned(shards, if settled.cpus_shared { Tone::Warn } else { Tone::Plain }),
            ),
            ("partitions", Cell::from(partitions)),
            ("memory", Cell::from(units::bytes(settled.memory_max_bytes))),
            ("cache", Cell::from(units::bytes(settled.cache_bytes))),
            ("disk", Cell::from(units::bytes(settled.disk_bytes_max))),
            ("scrub", Cell::from(scrub)),
            ("runtime", Cell::from(settled.runtime.name())),
            ("clients", Cell::from(self.clients.as_str())),
            ("peers", Cell::from(self.peers.as_str())),
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
    ended.map_err(ended_badly)
}

/// The failure of a start that did not come as far as a node. What is wrong with the configuration stays
/// wrong; mistakes on the command line have a status of their own.
fn not_prepared(error: CliError) -> CliError {
    match [CONFIG_INVALID.name, START_FAILED.name].contains(&error.code) {
        true => error.needing_operator(),
        false => error,
    }
}

/// The failure of a node that did not start, or did not end as it was told to.
fn ended_badly(error: NodeError) -> CliError {
    let for_good = needs_operator(&error);
    let failure = match error {
        NodeError::Shard { .. } => CliError::local(&DISK_FAILED, error.to_string()),
        NodeError::Cluster { why, advice } if !advice.hint.is_empty() => {
            CliError::hinted(&START_FAILED, why, advice.hint)
        }
        error => CliError::local(&START_FAILED, error.to_string()),
    };
    if for_good { failure.needing_operator() } else { failure }
}

/// Whether the node would be refused again however often it is started, as a supervisor does. What may
/// pass counts as passing: a node that is started in vain costs less than one that stays down.
fn needs_operator(error: &NodeError) -> bool {
    match error {
        NodeError::DataDir(dir) | NodeError::Identity(IdentityError::DataDir(dir)) => match dir {
            DataDirError::BadIdentity { .. }
            | DataDirError::NoIdentity(_)
            | DataDirError::Mismatch { .. } => true,
            DataDirError::Io { .. } | DataDirError::InUse { .. } => false,
        },
        NodeError::Identity(IdentityError::Malformed { .. } | IdentityError::Mismatch { .. }) => {
            true
        }
        NodeError::Cluster { advice, .. } => advice.lasts,
        NodeError::Settings(_) => true,
        NodeError::Around(_)
        | NodeError::Listen { .. }
        | NodeError::System { .. }
        | NodeError::Executor { .. }
        | NodeError::Shard { .. } => false,
    }
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;

    use ironring_core::StorageUuid;
    use ironring_net::peer::Refusal;
    use ironring_ring::metadata::Rejected;

    use super::*;
    use crate::cli::error::{EXIT_DISK_FAILED, EXIT_FAILED, EXIT_OPERATOR_NEEDED, EXIT_USAGE};
    use crate::cli::error::{IO_FAILED, LocalCode, USAGE};
    use crate::cluster::refused::{self, Advice};

    fn why() -> String {
        "why".to_owned()
    }

    fn path() -> PathBuf {
        PathBuf::from("/data")
    }

    fn full() -> DataDirError {
        let source = io::Error::from_raw_os_error(libc::ENOSPC);
        DataDirError::Io { what: "cannot write", path: path(), source }
    }

    fn not_let_in(advice: Advice) -> NodeError {
        NodeError::Cluster { why: why(), advice }
    }

    #[test]
    fn what_stays_refused_until_somebody_acts_has_its_own_status() {
        let (name, id, storage) = ("a".to_owned(), NodeId(2), StorageUuid(3));
        let name_taken = Rejected::NameTaken { name, id, storage };
        for error in [
            NodeError::DataDir(DataDirError::Mismatch { path: path(), why: why() }),
            NodeError::DataDir(DataDirError::BadIdentity { path: path(), message: why() }),
            NodeError::DataDir(DataDirError::NoIdentity(path())),
            NodeError::Identity(IdentityError::Mismatch { path: path(), why: why() }),
            NodeError::Identity(IdentityError::Malformed { path: path(), message: why() }),
            NodeError::Settings("listen.shard_port_base 65535 + 1 is no port".to_owned()),
            not_let_in(refused::advice(Refusal::Removed)),
            not_let_in(refused::advice(Refusal::BadToken)),
            not_let_in(refused::advice_of(&name_taken)),
        ] {
            let said = error.to_string();
            assert_eq!(ended_badly(error).exit, EXIT_OPERATOR_NEEDED, "{said}");
        }
    }

    #[test]
    fn what_may_pass_is_worth_another_start() {
        let source = || io::Error::from(io::ErrorKind::AddrInUse);
        for error in [
            NodeError::DataDir(full()),
            NodeError::DataDir(DataDirError::InUse { path: path(), pid: why() }),
            NodeError::Identity(IdentityError::DataDir(full())),
            NodeError::Listen { address: ([127, 0, 0, 1], 7411).into(), source: source() },
            NodeError::System { what: "no descriptors for shards", source: source() },
            NodeError::Executor { shard: 0, message: why() },
            NodeError::Around("metadata.dir /meta: Permission denied".to_owned()),
            // Of seeds that do not answer.
            not_let_in(Advice::passing("check cluster.seeds (listen.peers of other nodes)")),
            not_let_in(refused::advice(Refusal::ClockSkew)),
        ] {
            let said = error.to_string();
            assert_eq!(ended_badly(error).exit, EXIT_FAILED, "{said}");
        }
        let disk = ended_badly(NodeError::Shard { shard: 0, message: why() });
        assert_eq!((disk.code, disk.exit), (DISK_FAILED.name, EXIT_DISK_FAILED));
    }

    #[test]
    fn a_refused_configuration_is_not_worth_another_start() {
        let exit = |code: &LocalCode| not_prepared(CliError::local(code, why())).exit;
        assert_eq!(exit(&CONFIG_INVALID), EXIT_OPERATOR_NEEDED);
        assert_eq!(exit(&START_FAILED), EXIT_OPERATOR_NEEDED, "it does not fit the machine");
        assert_eq!(exit(&USAGE), EXIT_USAGE);
        assert_eq!(exit(&IO_FAILED), EXIT_FAILED);
    }
}
