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

/// The cluster's name.
pub const CLUSTER: &str = "chaos";
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
pub struct Status {
    /// Nothing needs anybody.
    pub healthy: bool,
    /// What does.
    pub reasons: Vec<String>,
    /// The metadata group.
    pub metadata: Group,
    /// Partitions, counted.
    pub partitions: Counts,
    /// The members.
    pub members: Vec<Member>,
}

/// The metadata group.
#[derive(Clone, Debug, Deserialize)]
pub struct Group {
    /// Its term.
    pub term: u64,
    /// Who leads it.
    pub leader: Option<u64>,
    /// What the node that was asked is in it.
    pub role: String,
    /// Who votes.
    pub voters: Vec<u64>,
}

/// Partitions, counted.
#[derive(Clone, Debug, Deserialize)]
pub struct Counts {
    /// Those nobody leads.
    pub leaderless: u32,
    /// Those with too few voters.
    pub under_replicated: u32,
    /// Replicas on their way.
    pub moves: u32,
}

/// A member.
#[derive(Clone, Debug, Deserialize)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Whether it is heard.
    pub status: String,
    /// Whether it is short of space.
    #[serde(default)]
    pub short_of_space: bool,
    /// Partitions it leads.
    pub leads: u32,
    /// Replicas it holds.
    pub replicas: u32,
}

/// How many of so many nodes vote in the metadata group.
#[must_use]
pub fn voters_of(nodes: usize) -> usize {
    let most = nodes.min(7);
    most - usize::from(most.is_multiple_of(2))
}

impl Status {
    /// Whether all is as it has to be with so many nodes.
    #[must_use]
    pub fn settled(&self, nodes: usize) -> bool {
        self.healthy
            && self.metadata.voters.len() == voters_of(nodes)
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
    /// Flags of its own.
    flags: Vec<String>,
    child: Option<Child>,
    frozen: bool,
    /// It is no part of the cluster any more.
    gone: bool,
    /// It was told to end: what it ends with.
    asked: Option<Asked>,
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
    dir: PathBuf,
    ports: Ports,
    token: String,
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
        let mut nodes = Nodes::none(program, dir, count)?;
        for _ in 0..count {
            nodes.add(&[])?;
        }
        nodes.until_healthy()?;
        Ok(nodes)
    }

    /// No nodes, and room for so many below `dir`.
    ///
    /// # Errors
    /// There is no such program.
    pub fn none(program: &Path, dir: &Path, room: usize) -> Result<Nodes, ChaosError> {
        let program = program.canonicalize().map_err(system(program.display().to_string()))?;
        let links = Links::new((0..room).map(name_of).collect());
        Ok(Nodes {
            program,
            dir: dir.to_owned(),
            ports: Ports::new(),
            token: String::new(),
            nodes: Vec::new(),
            links,
            problems: Vec::new(),
        })
    }

    /// Starts one more, with flags of its own, and waits until it serves. The first founds the cluster.
    ///
    /// # Errors
    /// It does not start.
    pub fn add(&mut self, flags: &[&str]) -> Result<usize, ChaosError> {
        let index = self.nodes.len();
        let name = name_of(index);
        let folder = self.dir.join(&name);
        std::fs::create_dir_all(&folder).map_err(system(folder.display().to_string()))?;
        let (peers_port, proxy) = self.ports.take(PROXY_HOST)?;
        let target = SocketAddr::from(([127, 0, 0, 1], peers_port));
        self.links.serve(proxy, index, target).map_err(system("starting a proxy"))?;
        let (clients, http) = (self.address()?, self.address()?);
        self.nodes.push(Node {
            name,
            clients,
            http,
            peers_port,
            folder,
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            child: None,
            frozen: false,
            gone: false,
            asked: None,
        });
        self.run(index)?;
        self.until_serving(index)?;
        if index == 0 {
            self.token = self.new_token(&[])?;
        }
        Ok(index)
    }

    /// An address nobody listens at.
    ///
    /// # Errors
    /// There is none.
    pub fn address(&mut self) -> Result<String, ChaosError> {
        Ok(format!("{OWN_HOST}:{}", self.ports.take(OWN_HOST)?.0))
    }

    /// How many were ever added.
    #[must_use]
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// The `ironring` program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// What a node is called.
    #[must_use]
    pub fn name(&self, index: usize) -> &str {
        &self.nodes[index].name
    }

    /// The data directory of a node.
    #[must_use]
    pub fn data_dir(&self, index: usize) -> PathBuf {
        self.nodes[index].folder.join("data")
    }

    /// The folder the next node that is added will have.
    #[must_use]
    pub fn next_folder(&self) -> PathBuf {
        self.dir.join(name_of(self.nodes.len()))
    }

    /// Where a node itself listens for its peers, and no proxy.
    #[must_use]
    pub fn peers(&self, index: usize) -> String {
        format!("{OWN_HOST}:{}", self.nodes[index].peers_port)
    }

    /// What a node has written to its log so far.
    #[must_use]
    pub fn log(&self, index: usize) -> String {
        let log = std::fs::read(self.nodes[index].folder.join("node.log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Whether a node was not told to end, nor to stop running.
    #[must_use]
    pub fn is_up(&self, index: usize) -> bool {
        let node = &self.nodes[index];
        node.child.is_some() && node.asked.is_none() && !node.frozen
    }

    /// Has a node, which was told to end and has, never be started again.
    pub fn forget(&mut self, index: usize) {
        self.nodes[index].gone = true;
    }

    /// Flags of a node from its next start on.
    pub fn set_flags(&mut self, index: usize, flags: &[&str]) {
        self.nodes[index].flags = flags.iter().map(|&flag| flag.to_owned()).collect();
    }

    /// What a node answers to a command of the command line that asks over HTTP, as JSON.
    ///
    /// # Errors
    /// What it said instead.
    pub fn said(&self, index: usize, arguments: &[&str]) -> Result<serde_json::Value, String> {
        self.nodes[index].said(&self.program, arguments)
    }

    /// What a command of the command line that needs no node answers, as JSON.
    ///
    /// # Errors
    /// What it said instead.
    pub fn command(&self, arguments: &[&str]) -> Result<serde_json::Value, String> {
        let mut command = Command::new(&self.program);
        command.args(arguments).args(["-o", "json"]);
        answer(command)
    }

    /// How the cluster is, as a node sees it.
    ///
    /// # Errors
    /// What it said instead.
    pub fn status(&self, index: usize) -> Result<Status, String> {
        let said = self.said(index, &["cluster", "status"])?;
        serde_json::from_value(said).map_err(|error| error.to_string())
    }

    /// The sum of a counter over all its labels, at a node.
    ///
    /// # Errors
    /// It does not answer.
    pub fn metric(&self, index: usize, name: &str) -> Result<f64, ChaosError> {
        let text = metrics(&self.nodes[index].http).map_err(system("asking for metrics"))?;
        let of = |line: &str| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with(['{', ' '])
                .then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())
                .flatten()
        };
        Ok(text.lines().filter_map(of).sum::<f64>())
    }

    /// A node's counters and gauges by name, each summed over its labels; the states of its shards by
    /// `ironring_shard_state_` and the state.
    ///
    /// # Errors
    /// It does not answer.
    pub fn counters(&self, index: usize) -> io::Result<BTreeMap<String, f64>> {
        let text = metrics(&self.nodes[index].http)?;
        let mut sums: BTreeMap<String, f64> = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with("ironring_")) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
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

    /// Waits until a node that was told to end has; how it ended. It is not started again by itself.
    ///
    /// # Errors
    /// It does not end, or cannot be waited for.
    pub fn await_end(&mut self, index: usize) -> Result<Option<ExitStatus>, ChaosError> {
        let node = &mut self.nodes[index];
        let Some(mut child) = node.child.take() else { return Ok(None) };
        let (status, in_time) = ended_within(&mut child, PATIENCE)?;
        if !in_time {
            let why = format!("{} did not end within {PATIENCE:?}", node.name);
            return Err(ChaosError::Cluster(why));
        }
        Ok(Some(status))
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// It does not end.
    pub fn kill_now(&mut self, index: usize) -> Result<(), ChaosError> {
        self.kill(index)?;
        self.await_end(index).map(drop)
    }

    /// Tells that a node is to end by itself, so that nobody starts it again for that.
    pub fn let_end(&mut self, index: usize) {
        self.nodes[index].asked = Some(Asked::Kill);
    }

    /// Runs `ironring start` on a directory that is no node's here until it ends, and says how; one that
    /// does not end in time is killed.
    ///
    /// # Errors
    /// It cannot be started, or does not end.
    pub fn attempt(&mut self, data: &Path, flags: &[&str]) -> Result<Ended, ChaosError> {
        let (clients, http) = (self.address()?, self.address()?);
        let mut command = Command::new(&self.program);
        command.arg("start").arg("--data-dir").arg(data).args(["--shards", "1"]);
        command.args(["--listen", &clients, "--http", &http]);
        if !flags.contains(&"--peers") {
            command.args(["--peers", &self.address()?]);
        }
        command.args(flags).current_dir(&self.dir).stdin(Stdio::null()).stdout(Stdio::null());
        let log = data.with_extension("log");
        let file = File::create(&log).map_err(system(log.display().to_string()))?;
        command.stderr(file).process_group(0);
        let mut child = started(command).map_err(system(self.program.display().to_string()))?;
        let (status, in_time) = ended_within(&mut child, PATIENCE)?;
        let said = std::fs::read(&log).map_err(system(log.display().to_string()))?;
        let said = String::from_utf8_lossy(&said).into_owned();
        Ok(Ended { status: status.code(), in_time, said })
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
        self.run(index)
    }

    fn run(&mut self, index: usize) -> Result<(), ChaosError> {
        let seed = format!("{PROXY_HOST}:{}", self.nodes[0].peers_port);
        let node = &mut self.nodes[index];
        let mut command = Command::new(&self.program);
        command
            .current_dir(&node.folder)
            .arg("start")
            .arg("--data-dir")
            .arg(node.folder.join("data"));
        command.args(["--cluster", CLUSTER, "--node", &node.name, "--shards", "1"]);
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
        ] {
            command.args(["--set", &setting]);
        }
        if index > 0 {
            command.args(["--seeds", &seed]);
        }
        if !self.token.is_empty() {
            command.env("IRONRING__CLUSTER__TOKEN", &self.token);
        }
        command.args(&node.flags);
        let log = node.folder.join("node.log");
        let named = || system(log.display().to_string());
        let out = File::options().create(true).append(true).open(&log).map_err(named())?;
        let errors = out.try_clone().map_err(named())?;
        // Its own group: an interrupt of the terminal is for the harness.
        command.stdin(Stdio::null()).stdout(out).stderr(errors).process_group(0);
        node.child = Some(started(command).map_err(system(self.program.display().to_string()))?);
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
            if self.nodes[index].asked.is_some() && !self.nodes[index].gone {
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
        let all = (0..self.nodes.len()).filter(|index| !self.nodes[*index].gone);
        let all: Vec<usize> = all.collect();
        let mut at = 0;
        while at < all.len() {
            let said = self.status(all[at]);
            if said.as_ref().is_ok_and(|status| status.settled(all.len())) {
                at += 1;
                continue;
            }
            if begin.elapsed() > PATIENCE {
                let why = said.map_or_else(
                    |e| e,
                    |status| format!("{} {status:?}", status.reasons.join("; ")),
                );
                let name = &self.nodes[all[at]].name;
                let why = format!("not healthy within {PATIENCE:?}, {name} says: {why}");
                return Err(ChaosError::Cluster(why));
            }
            self.look()?;
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(begin.elapsed())
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

    /// The secret of a new token.
    ///
    /// # Errors
    /// None is made in time.
    pub fn new_token(&self, flags: &[&str]) -> Result<String, ChaosError> {
        let begin = Instant::now();
        loop {
            let create = [&["cluster", "token", "create"], flags].concat();
            let why = match self.nodes[0].said(&self.program, &create) {
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

/// How a process that was not let in ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its exit status; none: a signal.
    pub status: Option<i32>,
    /// By itself.
    pub in_time: bool,
    /// What it wrote to stderr.
    pub said: String,
}

/// What a command prints as JSON, or what it says on stderr instead.
fn answer(mut command: Command) -> Result<serde_json::Value, String> {
    let output = command.output().map_err(|e| e.to_string())?;
    serde_json::from_slice(&output.stdout)
        .map_err(|_| String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

fn name_of(index: usize) -> String {
    format!("n{}", index + 1)
}

/// Starts a process that hears the signals which the harness holds back.
fn started(mut command: Command) -> io::Result<Child> {
    // A child inherits the mask of the thread that starts it.
    let starting = std::thread::spawn(move || {
        pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&interrupts()), None)?;
        command.spawn()
    });
    starting.join().expect("the closure has nothing to panic with")
}

impl Node {
    /// What a command line says to the node, as JSON.
    fn said(&self, program: &Path, arguments: &[&str]) -> Result<serde_json::Value, String> {
        let (verb, rest) = arguments.split_first().expect("a command has a verb");
        let mut command = Command::new(program);
        command.arg(verb).args(["--http", &self.http]).args(rest).args(["-o", "json"]);
        answer(command)
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
#[derive(Debug)]
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
