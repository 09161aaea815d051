//! The node of the demo: this program, started as a process of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use ironring_net::client::ClientConfig;
use ironring_net::client::blocking::Client;

use crate::cli::error::{CliError, START_FAILED};

/// How long a node may take to say where it listens.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// How long a node may take to tell its counters.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// A running node process. Killed when dropped.
pub struct NodeChild {
    child: Child,
    /// Where clients connect.
    pub clients: SocketAddr,
    /// Where health and metrics are.
    pub http: SocketAddr,
    started: Instant,
    lines: mpsc::Receiver<String>,
}

/// Counters of a node, all shards added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Durable writes.
    pub flushes: u64,
    /// Records in them.
    pub records: u64,
    /// Shards.
    pub shards: u64,
}

impl Totals {
    /// Of two runs of the same node.
    #[must_use]
    pub fn sum(a: &Totals, b: &Totals) -> Totals {
        Totals {
            flushes: a.flushes + b.flushes,
            records: a.records + b.records,
            shards: a.shards.max(b.shards),
        }
    }
}

impl NodeChild {
    /// Starts a node on `data`; on `address` when it is to be found again where it was.
    pub fn start(
        data: &Path,
        shards: u16,
        address: Option<SocketAddr>,
    ) -> Result<NodeChild, CliError> {
        let program =
            std::env::current_exe().map_err(|e| CliError::io("this program is not found", &e))?;
        let listen = address.map_or("127.0.0.1:0".to_owned(), |a| a.to_string());
        let started = Instant::now();
        let mut command = Command::new(program);
        command
            .args([
                "start",
                "--listen",
                &listen,
                "--http",
                "127.0.0.1:0",
                "--peers",
                "127.0.0.1:0",
                "--data-dir",
            ])
            .arg(data);
        if address.is_none() {
            command.args(["--shards", &shards.to_string()]);
        }
        let mut child = command
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| CliError::io("the node cannot be started", &e))?;
        let stderr = child.stderr.take().expect("stderr was asked for");
        let (sender, lines) = mpsc::channel();
        // Reads on after the addresses are known, so that the node never waits for its log.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let (mut clients, mut http, mut said) = (None, None, String::new());
        loop {
            if let (Some(clients), Some(http)) = (clients, http) {
                return Ok(NodeChild { child, clients, http, started, lines });
            }
            match lines.recv_timeout(START_PATIENCE) {
                Ok(line) => {
                    clients = clients.or_else(|| address_after(&line, "clients on "));
                    http = http.or_else(|| address_after(&line, "http on "));
                    said.push_str(&line);
                    said.push('\n');
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    let what = format!("the node did not start:\n{}", said.trim_end());
                    return Err(CliError::local(&START_FAILED, what));
                }
            }
        }
    }

    /// Ends it at once.
    pub fn kill(mut self) {
        self.end();
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until every shard serves; how long that took from the start of the process.
    pub fn wait_ready(&mut self, patience: Duration) -> Result<Duration, CliError> {
        // Short at first: who asks a process that has just ended waits for nothing.
        let mut deadline = Duration::from_millis(50);
        loop {
            match self.totals_within(deadline) {
                Ok(_) => return Ok(self.started.elapsed()),
                Err(_) if self.child.try_wait().is_ok_and(|ended| ended.is_some()) => {
                    let said: Vec<String> = self.lines.iter().collect();
                    let what = format!("the node did not start:\n{}", said.join("\n"));
                    return Err(CliError::local(&START_FAILED, what));
                }
                Err(error) if self.started.elapsed() > patience => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
            deadline = (deadline * 5 / 4).min(ANSWER_PATIENCE);
        }
    }

    /// The counters of every shard, when all of them serve.
    pub fn totals(&self) -> Result<Totals, CliError> {
        self.totals_within(ANSWER_PATIENCE)
    }

    fn totals_within(&self, deadline: Duration) -> Result<Totals, CliError> {
        let failed = |error: ironring_net::client::ClientError| {
            CliError::local(&START_FAILED, format!("the node does not answer: {error}"))
        };
        let config = ClientConfig {
            session: false,
            shard_aware: false,
            deadline,
            ..ClientConfig::new(self.clients.to_string())
        };
        let map =
            Client::connect(config.clone()).and_then(|mut c| c.cluster_map()).map_err(failed)?;
        let mut totals = Totals { shards: map.shards.len() as u64, ..Totals::default() };
        for shard in &map.shards {
            let config = ClientConfig { addrs: vec![shard.address.clone()], ..config.clone() };
            let text = Client::connect(config).and_then(|mut c| c.stats()).map_err(failed)?;
            let stats: serde_json::Value = serde_json::from_str(&text)
                .map_err(|e| CliError::local(&START_FAILED, format!("bad stats: {e}")))?;
            if stats["state"] != "ready" {
                let what = format!("shard {} is {}", shard.shard, stats["state"]);
                return Err(CliError::local(&START_FAILED, what));
            }
            totals.flushes += stats["log"]["flushes"].as_u64().unwrap_or(0);
            totals.records += stats["log"]["records"].as_u64().unwrap_or(0);
        }
        Ok(totals)
    }
}

impl Drop for NodeChild {
    fn drop(&mut self) {
        self.end();
    }
}

fn address_after(line: &str, words: &str) -> Option<SocketAddr> {
    let rest = line.split_once(words)?.1;
    let end = rest.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}
