//! The processes of a cluster on loopback: started, disturbed, looked at, and killed when dropped.
//!
//! Node `i` listens for its peers on 127.0.0.1 and tells them 127.0.0.2, where a proxy of [`Links`]
//! listens on the same port.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask};
use nix::unistd::Pid;
use serde::Deserialize;

use super::links::Links;
use super::workload::PARTITIONS;

/// Time a node may take to serve or to end, and the cluster to be healthy.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// A node that answers at all answers in this time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Below the ports that the system gives to outgoing connections: one that is free while its node is
/// down stays free.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const OWN_HOST: &str = "127.0.0.1";
const PROXY_HOST: &str = "127.0.0.2";
const LOG_LINES: usize = 12;

/// What goes wrong with the harness itself.
#[derive(Debug, thiserror::Error)]
pub enum ChaosError {
    /// A call of the system failed.
    #[error("{doing}: {source}")]
    System {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The cluster is not as it has to be.
    #[error("{0}")]
    Cluster(String),
}

/// For `map_err`: names what was being done.
pub fn system(doing: impl Into<String>) -> impl FnOnce(io::Error) -> ChaosError {
    let doing = doing.into();
    move |source| ChaosError::System { doing, source }
}

/// What `ironring cluster status -o json` says, as far as it matters here.
#[derive(Clone, Debug, Deserialize)]
struct Status {
    healthy: bool,
    reasons: Vec<String>,
    metadata: Group,
    partitions: Counts,
    members: Vec<Member>,
}

#[derive(Clone, Debug, Deserialize)]
struct Group {
    voters: Vec<u64>,
}

#[derive(Clone, Debug, Deserialize)]
struct Counts {
    leaderless: u32,
    moves: u32,
}

#[derive(Clone, Debug, Deserialize)]
struct Member {
    status: String,
}

impl Status {
    fn settled(&self, nodes: usize) -> bool {
        self.healthy
            && self.metadata.voters.len() == nodes
            && self.members.len() == nodes
            && self.members.iter().all(|member| member.status == "alive")
            && self.partitions.leaderless == 0
            && self.partitions.moves == 0
    }
}

#[derive(Debug)]
struct Node {
    name: String,
    clients: String,
    http: String,
    peers_port: u16,
    folder: PathBuf,
    child: Option<Child>,
    frozen: bool,
    /// It was told to end: what it ends with.
    asked: Option<Asked>,
    /// It joins by the others, or did.
    joins: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Kill,
    Terminate,
}

/// A running cluster.
#[derive(Debug)]
pub struct Nodes {
    program: PathBuf,
    token: String,
    /// What every node is set to besides, `SECTION.KEY=VALUE`.
    settings: Vec<String>,
    nodes: Vec<Node>,
    /// The links between the nodes.
    pub links: Links,
    /// What nodes did that they must not do.
    pub problems: Vec<String>,
}

impl Nodes {
    /// Starts so many nodes below `dir`, and waits until every partition has its replicas.
    ///
    /// # Errors
    /// One does not start, or they do not become a healthy cluster in time.
    pub fn start(program: &Path, dir: &Path, count: usize) -> Result<Nodes, ChaosError> {
        Nodes::start_with(program, dir, count, &[])
    }

    /// The same with settings besides, each `SECTION.KEY=VALUE`.
    ///
    /// # Errors
    /// As [`Nodes::start`].
    pub fn start_with(
        program: &Path,
        dir: &Path,
        count: usize,
        settings: &[&str],
    ) -> Result<Nodes, ChaosError> {
        let program = program.canonicalize().map_err(system(program.display().to_string()))?;
        let names: Vec<String> = (1..=count).map(|n| format!("n{n}")).collect();
        let links = Links::new(names.clone());
        let mut nodes = Nodes {
            program,
            token: String::new(),
            settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
            nodes: Vec::new(),
            links,
            problems: Vec::new(),
        };
        let mut ports = Ports::new();
        for (index, name) in names.into_iter().enumerate() {
            let folder = dir.join(&name);
            std::fs::create_dir_all(&folder).map_err(system(folder.display().to_string()))?;
            let (peers_port, proxy) = ports.take(PROXY_HOST)?;
            let target = SocketAddr::from(([127, 0, 0, 1], peers_port));
            nodes.links.serve(proxy, index, target).map_err(system("starting a proxy"))?;
            let mut address = || Ok(format!("{OWN_HOST}:{}", ports.take(OWN_HOST)?.0));
            let (clients, http) = (address()?, address()?);
            let (child, frozen, asked) = (None, false, None);
            nodes.nodes.push(Node {
                name,
                clients,
                http,
                peers_port,
                folder,
                child,
                frozen,
                asked,
                joins: index > 0,
            });
            nodes.run(index)?;
            nodes.until_serving(index)?;
            if index == 0 {
                nodes.token = nodes.new_token()?;
            }
        }
        nodes.until_healthy()?;
        Ok(nodes)
    }

    /// Where clients connect.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.clients.clone()).collect()
    }

    /// Starts a node that was told to end, once it has.
    ///
    /// # Errors
    /// Its process cannot be waited for or started.
    pub fn restart(&mut self, index: usize) -> Result<(), ChaosError> {
        self.ended(index)?;
        self.run(index)
    }

    /// Starts a node whose data directory was emptied or is gone: it joins by the others.
    ///
    /// # Errors
    /// As [`Nodes::restart`].
    pub fn restart_empty(&mut self, index: usize) -> Result<(), ChaosError> {
        self.nodes[index].joins = true;
        self.restart(index)
    }

    /// Waits until a node that was told to end has.
    ///
    /// # Errors
    /// Its process cannot be waited for.
    pub fn ended(&mut self, index: usize) -> Result<(), ChaosError> {
        let node = &mut self.nodes[index];
        if let Some(mut child) = node.child.take() {
            let asked = node.asked.take();
            let (status, in_time) = ended_within(&mut child, PATIENCE)?;
            let name = &node.name;
            if !in_time {
                let why = format!("{name} did not end within {PATIENCE:?} of {asked:?}");
                self.problems.push(why);
            } else if asked != Some(Asked::Kill) && !status.success() {
                let why =
                    format!("{name} ended with {status} on SIGTERM:\n{}", log_end(&node.folder));
                self.problems.push(why);
            }
        }
        Ok(())
    }

    /// A node's data directory.
    #[must_use]
    pub fn data_dir(&self, index: usize) -> PathBuf {
        self.nodes[index].folder.join("data")
    }

    /// What a command line says to a node, as JSON.
    ///
    /// # Errors
    /// Why it says nothing, in words.
    pub fn said(&self, index: usize, arguments: &[&str]) -> Result<serde_json::Value, String> {
        self.nodes[index].said(&self.program, arguments)
    }

    /// A node's counters and gauges, each summed over its shards.
    ///
    /// # Errors
    /// It does not answer.
    pub fn counters(&self, index: usize) -> io::Result<BTreeMap<String, f64>> {
        let text = metrics(&self.nodes[index].http)?;
        let mut sums: BTreeMap<String, f64> = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with("ironring_")) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            // What is a state counts when it is that state.
            let name = match series.split_once('{') {
                Some(("ironring_shard_state", labels)) => match labels.split('"').nth(3) {
                    Some(state) => format!("ironring_shard_state_{state}"),
                    None => continue,
                },
                Some((name, _)) => name.to_owned(),
                None => series.to_owned(),
            };
            *sums.entry(name).or_default() += value.parse::<f64>().unwrap_or(0.0);
        }
        Ok(sums)
    }

    /// Runs a command on the data directory of a node that is stopped.
    ///
    /// # Errors
    /// It cannot be run, or fails.
    pub fn offline(&self, index: usize, arguments: &[&str]) -> Result<(), ChaosError> {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--data-dir").arg(self.data_dir(index)).stdin(Stdio::null());
        let output = command.output().map_err(system(arguments.join(" ")))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(ChaosError::Cluster(format!(
                "{}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr)
            ))),
        }
    }

    fn run(&mut self, index: usize) -> Result<(), ChaosError> {
        let others = self.nodes.iter().enumerate().filter(|(other, _)| *other != index);
        let seeds: Vec<String> =
            others.map(|(_, node)| format!("{PROXY_HOST}:{}", node.peers_port)).collect();
        let node = &mut self.nodes[index];
        let mut command = Command::new(&self.program);
        command
            .current_dir(&node.folder)
            .arg("start")
            .arg("--data-dir")
            .arg(node.folder.join("data"));
        command.args(["--cluster", "chaos", "--node", &node.name, "--shards", "1"]);
        command.args(["--listen", &node.clients, "--http", &node.http]);
        command.args(["--peers", &format!("{OWN_HOST}:{}", node.peers_port)]);
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        for setting in [
            format!("listen.peers_advertise={PROXY_HOST}"),
            format!("cluster.partitions={PARTITIONS}"),
            format!("node.cpus={}", index % cpus),
            // Small, so that logs are cut into segments, checkpointed and compacted within a run.
            "log.segment_bytes=4MiB".to_owned(),
            "log.checkpoint_interval_bytes=16MiB".to_owned(),
        ]
        .iter()
        .chain(&self.settings)
        {
            command.args(["--set", setting]);
        }
        if node.joins {
            command.args(["--seeds", &seeds.join(",")]);
            command.env("IRONRING__CLUSTER__TOKEN", &self.token);
        }
        let log = node.folder.join("node.log");
        let named = || system(log.display().to_string());
        let out = File::options().create(true).append(true).open(&log).map_err(named())?;
        let errors = out.try_clone().map_err(named())?;
        // Its own group: an interrupt of the terminal is for the harness.
        command.stdin(Stdio::null()).stdout(out).stderr(errors).process_group(0);
        // A child inherits the mask of the thread that starts it.
        let starting = std::thread::spawn(move || {
            pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&interrupts()), None)?;
            command.spawn()
        });
        let child = starting.join().expect("the closure has nothing to panic with");
        node.child = Some(child.map_err(system(self.program.display().to_string()))?);
        (node.asked, node.frozen) = (None, false);
        Ok(())
    }

    /// SIGKILL. Does not wait.
    ///
    /// # Errors
    /// It cannot be sent.
    pub fn kill(&mut self, index: usize) -> Result<(), ChaosError> {
        self.nodes[index].asked = Some(Asked::Kill);
        self.signal(index, Signal::SIGKILL)
    }

    /// SIGTERM. Does not wait.
    ///
    /// # Errors
    /// It cannot be sent.
    pub fn terminate(&mut self, index: usize) -> Result<(), ChaosError> {
        self.nodes[index].asked = Some(Asked::Terminate);
        self.signal(index, Signal::SIGTERM)
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// It cannot be sent.
    pub fn freeze(&mut self, index: usize) -> Result<(), ChaosError> {
        self.nodes[index].frozen = true;
        self.signal(index, Signal::SIGSTOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// It cannot be sent.
    pub fn thaw(&mut self, index: usize) -> Result<(), ChaosError> {
        self.nodes[index].frozen = false;
        self.signal(index, Signal::SIGCONT)
    }

    fn signal(&self, index: usize, signal: Signal) -> Result<(), ChaosError> {
        match &self.nodes[index].child {
            Some(child) => send(child, signal).map_err(system(format!("sending {signal}"))),
            None => Ok(()),
        }
    }

    /// Notes nodes that ended without being told to, and starts them again.
    ///
    /// # Errors
    /// One cannot be started.
    pub fn look(&mut self) -> Result<(), ChaosError> {
        for index in 0..self.nodes.len() {
            let node = &mut self.nodes[index];
            let Some(child) = node.child.as_mut().filter(|_| node.asked.is_none()) else {
                continue;
            };
            if let Some(status) = child.try_wait().map_err(system("looking at a node"))? {
                let why =
                    format!("{} ended by itself: {status}\n{}", node.name, log_end(&node.folder));
                self.problems.push(why);
                node.child = None;
                std::thread::sleep(LOOK_EVERY);
                self.run(index)?;
            }
        }
        Ok(())
    }

    /// Ends everything that was done to the cluster: links are open, processes run.
    ///
    /// # Errors
    /// One cannot be started.
    pub fn heal(&mut self) -> Result<(), ChaosError> {
        self.links.heal();
        for index in 0..self.nodes.len() {
            if self.nodes[index].frozen {
                self.thaw(index)?;
            }
            if self.nodes[index].asked.is_some() {
                self.restart(index)?;
            }
        }
        Ok(())
    }

    /// Waits until a node accepts clients; whether it does.
    ///
    /// # Errors
    /// It does not in time.
    pub fn until_serving(&mut self, index: usize) -> Result<(), ChaosError> {
        let begin = Instant::now();
        loop {
            let node = &self.nodes[index];
            if node.said(&self.program, &["cluster", "status"]).is_ok() {
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                let why = format!("{} does not serve:\n{}", node.name, log_end(&node.folder));
                return Err(ChaosError::Cluster(why));
            }
            self.look()?;
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until every node says that nothing needs anybody.
    ///
    /// # Errors
    /// It takes too long.
    pub fn until_healthy(&mut self) -> Result<Duration, ChaosError> {
        let begin = Instant::now();
        let count = self.nodes.len();
        let mut at = 0;
        loop {
            let node = &self.nodes[at];
            let said = node
                .said(&self.program, &["cluster", "status"])
                .and_then(|said| serde_json::from_value::<Status>(said).map_err(|e| e.to_string()));
            if said.as_ref().is_ok_and(|status| status.settled(count)) {
                at += 1;
                if at == count {
                    return Ok(begin.elapsed());
                }
                continue;
            }
            if begin.elapsed() > PATIENCE {
                let why = said.map_or_else(
                    |e| e,
                    |status| format!("{} {status:?}", status.reasons.join("; ")),
                );
                let name = &node.name;
                let why = format!("not healthy within {PATIENCE:?}, {name} says: {why}");
                return Err(ChaosError::Cluster(why));
            }
            self.look()?;
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Writes what each node says of the cluster into its folder: of a cluster that does not heal the
    /// files alone tell little. A node that says nothing leaves its error there.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn ask_all(&self) -> Result<(), ChaosError> {
        for node in &self.nodes {
            for (file, arguments) in
                [("status.json", ["cluster", "status"]), ("partitions.json", ["partition", "list"])]
            {
                let said = node.said(&self.program, &arguments);
                let text = said.map_or_else(|error| error, |said| format!("{said:#}"));
                let path = node.folder.join(file);
                std::fs::write(&path, text).map_err(system(path.display().to_string()))?;
            }
            let path = node.folder.join("metrics.txt");
            let text = metrics(&node.http).unwrap_or_else(|error| error.to_string());
            std::fs::write(&path, text).map_err(system(path.display().to_string()))?;
        }
        Ok(())
    }

    fn new_token(&self) -> Result<String, ChaosError> {
        let begin = Instant::now();
        loop {
            let why = match self.nodes[0].said(&self.program, &["cluster", "token", "create"]) {
                Ok(said) => match said["token"].as_str() {
                    Some(token) => return Ok(token.to_owned()),
                    None => "a token was made without a secret".to_owned(),
                },
                Err(why) => why,
            };
            if begin.elapsed() > PATIENCE {
                return Err(ChaosError::Cluster(why));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Node {
    /// What a command line says to the node, as JSON.
    fn said(&self, program: &Path, arguments: &[&str]) -> Result<serde_json::Value, String> {
        let (verb, rest) = arguments.split_first().expect("a command has a verb");
        let mut command = Command::new(program);
        command.arg(verb).args(["--http", &self.http]).args(rest).args(["-o", "json"]);
        let output = command.output().map_err(|e| e.to_string())?;
        serde_json::from_slice(&output.stdout)
            .map_err(|e| format!("{e}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(mut child) = node.child.take() {
                // Also one that was stopped dies of this.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// The counters of a node.
fn metrics(http: &str) -> io::Result<String> {
    let mut socket = TcpStream::connect(http)?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes())?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The signals that end a run early.
#[must_use]
pub fn interrupts() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM].into_iter().collect()
}

fn send(child: &Child, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    Ok(kill(Pid::from_raw(pid), signal)?)
}

/// How a process ended, and whether it did so in time; one that did not is killed.
fn ended_within(child: &mut Child, time: Duration) -> Result<(ExitStatus, bool), ChaosError> {
    let begin = Instant::now();
    while begin.elapsed() < time {
        if let Some(status) = child.try_wait().map_err(system("waiting for a node"))? {
            return Ok((status, true));
        }
        std::thread::sleep(LOOK_EVERY / 10);
    }
    child.kill().map_err(system("killing a node"))?;
    Ok((child.wait().map_err(system("waiting for a node"))?, false))
}

fn log_end(folder: &Path) -> String {
    let log = std::fs::read(folder.join("node.log")).unwrap_or_default();
    let text = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// Ports that nobody listens on.
struct Ports {
    next: u16,
}

impl Ports {
    fn new() -> Ports {
        // Runs that begin together look in different places.
        let span = u32::from(PORTS.end - PORTS.start);
        let offset = std::process::id().wrapping_mul(97) % span;
        Ports { next: PORTS.start + offset as u16 }
    }

    /// One that is free on the nodes' host and on `host`, and a listener on the latter.
    fn take(&mut self, host: &str) -> Result<(u16, TcpListener), ChaosError> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in PORTS {
            let port = self.next;
            self.next = if port + 1 == PORTS.end { PORTS.start } else { port + 1 };
            let free = match host {
                OWN_HOST => TcpListener::bind((OWN_HOST, port)),
                other => TcpListener::bind((OWN_HOST, port))
                    .and_then(|_own| TcpListener::bind((other, port))),
            };
            match free {
                Ok(listener) => return Ok((port, listener)),
                Err(error) => last = error,
            }
        }
        Err(system("looking for a free port")(last))
    }
}
