//! The servers that can be measured side by side, and how each is made to be as durable as
//! ironring: every acknowledgement after the data was synced to disk.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::cli::PeersArgs;
use crate::error::BenchError;
use crate::protocol::Target;
use crate::protocol::etcd::EtcdTarget;
use crate::protocol::ironring;
use crate::protocol::nats::NatsTarget;
use crate::protocol::resp::RespTarget;
use crate::scenario::{ProtocolName, Scenario};
use crate::server::{START_TIMEOUT, Scratch, Server, free_port};
use crate::workload::Workload;

/// Room for etcd's database.
const ETCD_QUOTA_BYTES: &str = "8589934592";

/// A server that can be measured.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// One node with one shard.
    Ironring,
    /// The same on monoio instead of glommio.
    #[serde(rename = "ironring-monoio")]
    IronringMonoio,
    /// redis-server or valkey-server with `appendfsync always`.
    Redis,
    /// nats-server with a JetStream file store and `sync_interval: always`.
    Nats,
    /// One etcd member, through its JSON gateway.
    Etcd,
}

impl System {
    /// Name in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            System::Ironring => "ironring",
            System::IronringMonoio => "ironring-monoio",
            System::Redis => "redis",
            System::Nats => "nats",
            System::Etcd => "etcd",
        }
    }

    /// What it speaks.
    #[must_use]
    pub fn protocol(self) -> ProtocolName {
        match self {
            System::Ironring | System::IronringMonoio => ProtocolName::Ironring,
            System::Redis => ProtocolName::Redis,
            System::Nats => ProtocolName::Nats,
            System::Etcd => ProtocolName::Etcd,
        }
    }
}

/// A server program that was found on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// Which.
    pub system: System,
    /// Its program.
    pub program: PathBuf,
    /// What it says its version is.
    pub version: String,
    /// How it is started, and whether that is as durable as the others.
    pub settings: String,
    /// False when it acknowledges before its data is on disk: its write figures are then not
    /// comparable, and the report says so.
    pub durable: bool,
}

/// The program on PATH, or the path itself when it holds a slash.
pub fn find(name: &str) -> Option<PathBuf> {
    let is_file = |path: &PathBuf| path.is_file();
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(is_file);
    }
    let path = std::env::var_os("PATH")?;
    // Servers live in sbin on some distributions, which is not on every user's PATH.
    let folders =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(is_file)
}

pub fn first_line(program: &Path, flag: &str) -> String {
    let output = Command::new(program).arg(flag).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").trim().to_owned()
}

impl Installed {
    /// Looks for a server's program.
    ///
    /// # Errors
    /// A sentence about what is missing.
    pub fn look(system: System, args: &PeersArgs) -> Result<Installed, String> {
        let given =
            |path: &Option<PathBuf>| path.as_ref().map(|p| p.to_string_lossy().into_owned());
        let candidates: Vec<String> = match system {
            System::Ironring | System::IronringMonoio => {
                given(&args.ironring).map_or_else(beside_this_program, |p| vec![p])
            }
            System::Redis => given(&args.redis)
                .map_or_else(|| vec!["redis-server".into(), "valkey-server".into()], |p| vec![p]),
            System::Nats => {
                given(&args.nats).map_or_else(|| vec!["nats-server".into()], |p| vec![p])
            }
            System::Etcd => given(&args.etcd).map_or_else(|| vec!["etcd".into()], |p| vec![p]),
        };
        let program = candidates
            .iter()
            .find_map(|name| find(name))
            .ok_or_else(|| format!("{}: {} not found", system.name(), candidates.join(" or ")))?;
        let version = first_line(&program, "--version");
        let (settings, durable) = match system {
            System::Ironring => ("one shard, durability local".to_owned(), true),
            System::Etcd => {
                let how = "one member, fsync before each answer (its default); through its JSON \
                           gateway (HTTP/1.1, base64), which costs more than the gRPC of its own \
                           clients";
                (how.to_owned(), true)
            }
            System::IronringMonoio => ("one shard on monoio, durability local".to_owned(), true),
            System::Redis => ("appendonly yes, appendfsync always, no snapshots".to_owned(), true),
            System::Nats if nats_can_sync(&program, &args.data_root) => {
                ("JetStream file store, sync_interval always".to_owned(), true)
            }
            System::Nats => {
                let why = "JetStream file store; this version has no sync_interval: it \
                           acknowledges before the data is on disk";
                (why.to_owned(), false)
            }
        };
        Ok(Installed { system, program, version, settings, durable })
    }

    /// Starts it in a folder of its own under `root`, waits until it answers, and returns it with
    /// its address.
    ///
    /// # Errors
    /// It does not start or does not answer.
    pub fn start(&self, root: &Path, args: &PeersArgs) -> Result<(Server, String), BenchError> {
        let scratch = Scratch::new(root, self.system.name(), args.keep)?;
        let port = free_port()?;
        let addr = format!("127.0.0.1:{port}");
        let command = self.command(scratch.path(), port, args)?;
        let mut server = Server::start(command, &scratch, &[args.server_cpu])?;
        server.wait_ready(START_TIMEOUT, || probe(self.system, &addr))?;
        Ok((server, addr))
    }

    fn command(&self, folder: &Path, port: u16, args: &PeersArgs) -> Result<Command, BenchError> {
        let mut command = Command::new(&self.program);
        command.current_dir(folder);
        match self.system {
            System::Ironring | System::IronringMonoio => {
                command.arg("start").arg("--data-dir").arg(folder.join("data"));
                command.args(["--listen", &format!("127.0.0.1:{port}"), "--shards", "1"]);
                command.args(["--http", &format!("127.0.0.1:{}", free_port()?)]);
                command.args(["--peers", "127.0.0.1:0"]);
                if self.system == System::IronringMonoio {
                    command.args(["--set", "driver.runtime=monoio"]);
                }
                command.args(&args.ironring_args);
            }
            System::Redis => {
                command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
                command.args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""]);
                command.arg("--dir").arg(folder);
            }
            System::Etcd => {
                let client = format!("http://127.0.0.1:{port}");
                let peer = format!("http://127.0.0.1:{}", free_port()?);
                command.args(["--name", "bench", "--data-dir"]).arg(folder.join("data"));
                command.args(["--listen-client-urls", &client]);
                command.args(["--advertise-client-urls", &client]);
                command.args(["--listen-peer-urls", &peer]);
                command.args(["--initial-advertise-peer-urls", &peer]);
                command.args(["--initial-cluster", &format!("bench={peer}")]);
                // It keeps every version of a key; its default of 2 GiB would end a long run.
                command.args(["--quota-backend-bytes", ETCD_QUOTA_BYTES]);
                command.args(["--logger", "zap", "--log-outputs", "stderr"]);
            }
            System::Nats => {
                let config = folder.join("nats.conf");
                let text = nats_config(folder, port, self.durable);
                std::fs::write(&config, text).map_err(BenchError::file(&config))?;
                command.arg("-c").arg(config);
            }
        }
        Ok(command)
    }
}

/// The ironring program and what it says its version is: the one given, else that of the same
/// build, else the one on PATH.
///
/// # Errors
/// A sentence about what is missing.
pub fn find_ironring(given: Option<&PathBuf>) -> Result<(PathBuf, String), String> {
    let candidates =
        given.map_or_else(beside_this_program, |path| vec![path.to_string_lossy().into_owned()]);
    let program = candidates
        .iter()
        .find_map(|name| find(name))
        .ok_or_else(|| format!("{} not found", candidates.join(" or ")))?;
    // It is started in a folder of its own.
    let program = program.canonicalize().map_err(|e| format!("{}: {e}", program.display()))?;
    let version = first_line(&program, "--version");
    Ok((program, version))
}

/// The ironring program of the same build, else the one on PATH.
fn beside_this_program() -> Vec<String> {
    let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name("ironring"));
    let beside = beside.map(|path| path.to_string_lossy().into_owned());
    beside.into_iter().chain(["ironring".to_owned()]).collect()
}

fn nats_config(folder: &Path, port: u16, sync: bool) -> String {
    let sync = if sync { "\n  sync_interval: always" } else { "" };
    format!(
        "listen: \"127.0.0.1:{port}\"\njetstream {{\n  store_dir: {:?}{sync}\n}}\n",
        folder.join("jetstream")
    )
}

/// Whether this nats-server knows `sync_interval`: older ones refuse the configuration.
pub fn nats_can_sync(program: &Path, root: &Path) -> bool {
    let Ok(folder) = tempfile::tempdir_in(root) else { return false };
    let config = folder.path().join("probe.conf");
    if std::fs::write(&config, nats_config(folder.path(), 4222, true)).is_err() {
        return false;
    }
    let checked = Command::new(program).arg("-t").arg("-c").arg(&config).output();
    checked.is_ok_and(|output| output.status.success())
}

/// Connects and shakes hands once.
fn probe(system: System, addr: &str) -> Result<(), BenchError> {
    let mut scenario = Scenario { addr: addr.to_owned(), ..Scenario::default() };
    scenario.check()?;
    let mut workload = Workload::new(&scenario, 1)?;
    match system {
        System::Ironring | System::IronringMonoio => ironring::ready(addr),
        System::Redis => RespTarget { addr: addr.to_owned() }.connect(0, &mut workload).map(|_| ()),
        System::Nats => NatsTarget::prepare(addr, 1).map(|_| ()),
        System::Etcd => EtcdTarget { addr: addr.to_owned() }.connect(0, &mut workload).map(|_| ()),
    }
}
