//! A node of the demo: this program, started as a process of its own.

use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::interrupt::Interrupt;
use crate::cli::error::{CliError, DEMO_FAILED};

/// How long a node may take to say where it listens: to join, it has to be let in first.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long a node may take to stop: more than its shards take to hand over and to answer.
const STOP_PATIENCE: Duration = Duration::from_secs(15);
/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Lines of a node's log that are shown when it fails.
const LOG_LINES_SHOWN: usize = 20;

/// Where a node listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// For clients.
    pub clients: SocketAddr,
    /// For other nodes.
    pub nodes: SocketAddr,
    /// For health, metrics and questions about the cluster.
    pub http: SocketAddr,
}

/// How a node is started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Its name.
    pub name: String,
    /// Everything of it is in here.
    pub dir: PathBuf,
    /// Its shards; 0: one per CPU.
    pub shards: u16,
    /// The CPUs its shards run on; empty: all.
    pub cpus: Vec<u16>,
    /// Where it asks to be let in, and the secret it shows; without, it founds a cluster.
    pub joins: Option<(SocketAddr, String)>,
    /// Where it listened before; free ports otherwise.
    pub at: Option<Addresses>,
}

/// Name of the cluster.
const CLUSTER: &str = "demo";

impl Launch {
    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn command(&self) -> Result<Command, CliError> {
        let failed = |what: &str, e: &std::io::Error| {
            CliError::io(format!("{what} {}", self.dir.display()), e)
        };
        fs::create_dir_all(&self.dir).map_err(|e| failed("nothing can be made in", &e))?;
        // Nothing that configures another node of this machine is to reach this one.
        let config = self.dir.join("empty.toml");
        fs::write(&config, "").map_err(|e| failed("nothing can be written in", &e))?;
        let log = OpenOptions::new().create(true).append(true).open(self.log());
        let log = log.map_err(|e| failed("no log can be made in", &e))?;
        let program =
            std::env::current_exe().map_err(|e| CliError::io("this program is not found", &e))?;
        let free: SocketAddr = ([127, 0, 0, 1], 0).into();
        let at = self.at.unwrap_or(Addresses { clients: free, nodes: free, http: free });
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("IRONRING__") {
                command.env_remove(name);
            }
        }
        command.args(["start", "--cluster", CLUSTER, "--node", &self.name, "--config"]).arg(config);
        command.arg("--data-dir").arg(self.dir.join("data"));
        command.args(["--shards", &self.shards.to_string(), "--listen", &at.clients.to_string()]);
        command.args(["--peers", &at.nodes.to_string(), "--http", &at.http.to_string()]);
        if !self.cpus.is_empty() {
            let cpus: Vec<String> = self.cpus.iter().map(u16::to_string).collect();
            command.args(["--set", &format!("node.cpus={}", cpus.join(","))]);
        }
        if let Some((seed, token)) = &self.joins {
            // Arguments can be read by everybody on the machine, the environment cannot.
            command.args(["--seeds", &seed.to_string()]).env("IRONRING__CLUSTER__TOKEN", token);
        }
        command.env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Ok(command)
    }
}

/// A running node process. Killed when dropped.
pub struct NodeChild {
    child: Child,
    /// Where it listens.
    pub at: Addresses,
}

impl NodeChild {
    /// Starts a node and waits until it says where it listens.
    ///
    /// # Errors
    /// When it ends instead, with what it said; when it takes too long, or nobody wants it any more.
    pub fn start(launch: &Launch, interrupt: &Interrupt) -> Result<NodeChild, CliError> {
        let mut command = launch.command()?;
        // A log that goes on where an earlier run of the node ended.
        let before = fs::metadata(launch.log()).map_or(0, |log| log.len());
        let child = command.spawn().map_err(|e| CliError::io("a node cannot be started", &e))?;
        let nowhere: SocketAddr = ([0, 0, 0, 0], 0).into();
        let at = Addresses { clients: nowhere, nodes: nowhere, http: nowhere };
        let mut node = NodeChild { child, at };
        let begin = Instant::now();
        loop {
            let ended = node.ended();
            if let Some(at) = said(&launch.log(), before).as_deref().and_then(addresses) {
                node.at = at;
                return Ok(node);
            }
            if ended.is_some() || begin.elapsed() > START_PATIENCE {
                let why = format!("node {} did not start", launch.name);
                return Err(CliError::local(&DEMO_FAILED, with_log(&why, &launch.log())));
            }
            interrupt.nap(LOOK_EVERY)?;
        }
    }

    /// How the process ended, when it has.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Ends it at once.
    pub fn kill(self) {}

    /// Asks it to stop, and waits until it has; one that takes longer than [`STOP_PATIENCE`] is killed.
    pub fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        // One that has ended by itself need not be asked.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let begin = Instant::now();
        // Whatever is left then is killed by the drop.
        while self.ended().is_none() && begin.elapsed() < STOP_PATIENCE {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for NodeChild {
    fn drop(&mut self) {
        // Both fail only when it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A failure of a node, with the last lines of its log.
#[must_use]
pub fn failure(launch: &Launch, what: &str) -> CliError {
    CliError::local(&DEMO_FAILED, with_log(what, &launch.log()))
}

fn with_log(what: &str, log: &Path) -> String {
    let said = said(log, 0).unwrap_or_default();
    let lines: Vec<&str> = said.lines().collect();
    let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
    format!("{what}; the end of its log:\n{}", shown.join("\n"))
}

/// What is in a log from a byte on.
fn said(log: &Path, from: u64) -> Option<String> {
    let bytes = fs::read(log).ok()?;
    Some(String::from_utf8_lossy(bytes.get(usize::try_from(from).ok()?..)?).into_owned())
}

/// Where a node says that it listens.
fn addresses(log: &str) -> Option<Addresses> {
    let after = |words: &str| -> Option<SocketAddr> {
        let (_, rest) = log.split_once(words)?;
        let end = rest.find(|c: char| c == ',' || c.is_whitespace())?;
        rest[..end].parse().ok()
    };
    let (clients, nodes) = (after("clients on ")?, after("nodes on ")?);
    Some(Addresses { clients, nodes, http: after("http on ")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_whole_lines() {
        let log = "I node 1: clients on 127.0.0.1:7, nodes on 127.0.0.1:8, 1 shards\nI http on ";
        assert_eq!(addresses(log), None);
        assert_eq!(addresses(&format!("{log}127.0.0.1:9")), None);
        let at = addresses(&format!("{log}127.0.0.1:9\n")).unwrap();
        let port = |n: u16| SocketAddr::from(([127, 0, 0, 1], n));
        assert_eq!(at, Addresses { clients: port(7), nodes: port(8), http: port(9) });
    }
}
