//! A cluster of nodes that a study starts, disturbs and looks at: processes on loopback.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::cli::StudyCommon;
use crate::error::BenchError;
use crate::peers::find_ironring;
use crate::protocol::ironring;
use crate::server::{Scratch, Server, free_port};

/// Time a node or the whole cluster may take to be as it should.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a node may take to end when it is asked to.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// What `ironring cluster status -o json` says, as far as a study needs it.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// Nothing needs anybody.
    pub healthy: bool,
    /// What does.
    pub reasons: Vec<String>,
    /// The metadata group.
    pub metadata: Group,
    /// The partitions.
    pub partitions: Partitions,
    /// The nodes.
    pub members: Vec<Member>,
}

/// The metadata group.
#[derive(Clone, Debug, Deserialize)]
pub struct Group {
    /// Who leads it.
    pub leader: Option<u64>,
    /// Who votes.
    pub voters: Vec<u64>,
}

/// Partitions, counted.
#[derive(Clone, Debug, Deserialize)]
pub struct Partitions {
    /// All.
    pub total: u32,
    /// Replicas each should have.
    pub rf: u32,
    /// Those nobody leads.
    pub leaderless: u32,
    /// Replicas on their way.
    pub moves: u32,
}

/// A node, as the cluster knows it.
#[derive(Clone, Debug, Deserialize)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// `alive`, `suspect` or `dead`.
    pub status: String,
    /// Partitions it leads.
    pub leads: u32,
    /// Replicas it holds.
    pub replicas: u32,
    /// Where it serves clients.
    pub client_address: String,
    /// Where its shards serve clients.
    pub shard_addresses: Vec<String>,
}

impl Member {
    /// Where its first shard serves clients.
    #[must_use]
    pub fn shard(&self) -> &String {
        self.shard_addresses.first().unwrap_or(&self.client_address)
    }
}

impl Status {
    /// Whether everybody lives, nothing moves and everybody leads about as much as others.
    #[must_use]
    pub fn settled(&self, nodes: usize) -> bool {
        let leads = || self.members.iter().map(|m| m.leads);
        let uneven = leads().max().unwrap_or(0) - leads().min().unwrap_or(0);
        self.healthy
            && self.members.len() == nodes
            && self.partitions.moves == 0
            && self.partitions.leaderless == 0
            && self.members.iter().all(|m| m.status == "alive")
            && uneven * 4 <= self.partitions.total / nodes as u32
    }
}

/// A node of the cluster.
#[derive(Debug)]
struct Node {
    name: String,
    clients: String,
    http: String,
    peers: String,
    cpus: String,
    scratch: Arc<Scratch>,
    server: Option<Server>,
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    program: PathBuf,
    /// What `ironring --version` says.
    pub version: String,
    settings: Vec<String>,
    token: String,
    nodes: Vec<Node>,
}

impl Cluster {
    /// Starts so many nodes of one shard each, and waits until every partition has its replicas.
    ///
    /// # Errors
    /// One does not start.
    pub fn start(common: &StudyCommon, nodes: usize) -> Result<Cluster, BenchError> {
        let (program, version) =
            find_ironring(common.ironring.as_ref()).map_err(BenchError::Usage)?;
        let settings = common.ironring_args.clone();
        let mut cluster =
            Cluster { program, version, settings, token: String::new(), nodes: Vec::new() };
        for index in 0..nodes {
            cluster.add(common, index)?;
        }
        // The metadata group's voters are an odd number.
        let voters = nodes - usize::from(nodes.is_multiple_of(2));
        cluster.until("every partition has its replicas", |status| {
            status.metadata.voters.len() == voters && status.settled(nodes)
        })?;
        Ok(cluster)
    }

    fn add(&mut self, common: &StudyCommon, index: usize) -> Result<(), BenchError> {
        let name = format!("n{}", index + 1);
        let address = || Ok::<String, BenchError>(format!("127.0.0.1:{}", free_port()?));
        // Nodes take turns on the CPUs there are; the generator goes wherever there is room.
        let cpu = if index.is_multiple_of(2) { common.server_cpu } else { common.client_cpu };
        self.nodes.push(Node {
            scratch: Scratch::new(&common.data_root, &name, common.keep)?,
            clients: address()?,
            http: address()?,
            peers: address()?,
            cpus: cpu.to_string(),
            server: None,
            name,
        });
        self.restart(index)?;
        if index == 0 {
            let token = self.until_said(&["cluster", "token", "create", "-o", "json"])?;
            let missing = || BenchError::Server("a token was made without a secret".to_owned());
            self.token = token["token"].as_str().ok_or_else(missing)?.to_owned();
        }
        Ok(())
    }

    /// Starts a node that does not run, where it was, and waits until its shard serves.
    ///
    /// # Errors
    /// It does not start.
    pub fn restart(&mut self, index: usize) -> Result<(), BenchError> {
        let seed = self.nodes[0].peers.clone();
        let node = &mut self.nodes[index];
        let folder = node.scratch.path();
        let mut command = Command::new(&self.program);
        command.current_dir(folder).arg("start").arg("--data-dir").arg(folder.join("data"));
        command.args(["--cluster", "bench", "--node", &node.name, "--shards", "1"]);
        command.args(["--listen", &node.clients, "--peers", &node.peers, "--http", &node.http]);
        command.args(["--set", &format!("node.cpus={}", node.cpus)]);
        if index > 0 {
            command.args(["--seeds", &seed]).env("IRONRING__CLUSTER__TOKEN", &self.token);
        }
        command.args(&self.settings);
        let mut server = Server::start(command, &node.scratch, &[])?;
        server.wait_ready(PATIENCE, || ironring::reachable(&node.clients))?;
        node.server = Some(server);
        Ok(())
    }

    /// Starts one node more, and waits until its shard serves; its place.
    ///
    /// # Errors
    /// It does not start.
    pub fn join(&mut self, common: &StudyCommon) -> Result<usize, BenchError> {
        let index = self.nodes.len();
        self.add(common, index)?;
        Ok(index)
    }

    /// The name of a node.
    #[must_use]
    pub fn name(&self, index: usize) -> &str {
        &self.nodes[index].name
    }

    /// Empties the directory of a node that does not run, so that it joins again in its own place.
    ///
    /// # Errors
    /// It is refused.
    pub fn reinit(&self, index: usize) -> Result<(), BenchError> {
        let failed = |problem: String| BenchError::Program { program: "ironring".into(), problem };
        let mut command = Command::new(&self.program);
        command.args(["node", "reinit", "--yes", "--data-dir"]);
        command.arg(self.nodes[index].scratch.path().join("data"));
        let output = command.output().map_err(|e| failed(e.to_string()))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(failed(String::from_utf8_lossy(&output.stderr).into_owned())),
        }
    }

    /// Gives the first node an order, or asks it something, on the command line.
    ///
    /// # Errors
    /// It is refused, or not answered.
    pub fn ask(&self, arguments: &[&str]) -> Result<serde_json::Value, BenchError> {
        self.said(0, &[arguments, &["-o", "json"]].concat())
    }

    /// A counter of every node that runs, by its place: a JSON pointer into what its shard counts.
    ///
    /// # Errors
    /// One does not answer, or has no such counter.
    pub fn counters(&self, pointer: &str) -> Result<BTreeMap<usize, u64>, BenchError> {
        let runs = self.nodes.iter().enumerate().filter(|(_, node)| node.server.is_some());
        runs.map(|(index, node)| {
            let stats = ironring::shard_stats(&node.clients)?;
            let missing = || BenchError::Server(format!("the node's Stats have no {pointer}"));
            let value = stats.pointer(pointer).and_then(serde_json::Value::as_u64);
            Ok((index, value.ok_or_else(missing)?))
        })
        .collect()
    }

    /// Where clients connect.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.clients.clone()).collect()
    }

    /// The place of a member.
    ///
    /// # Errors
    /// It is none of the study's nodes.
    pub fn index_of(&self, member: &Member) -> Result<usize, BenchError> {
        let unknown = || BenchError::Server(format!("the cluster has a node {}", member.name));
        self.nodes.iter().position(|node| node.name == member.name).ok_or_else(unknown)
    }

    /// What a command line says to a node that runs, as JSON.
    fn said(&self, index: usize, arguments: &[&str]) -> Result<serde_json::Value, BenchError> {
        let failed = |problem: String| BenchError::Program { program: "ironring".into(), problem };
        let mut command = Command::new(&self.program);
        command.args(arguments).args(["--http", &self.nodes[index].http]);
        let output = command.output().map_err(|e| failed(e.to_string()))?;
        serde_json::from_slice(&output.stdout)
            .map_err(|e| failed(format!("{e}: {}", String::from_utf8_lossy(&output.stderr))))
    }

    /// Has a leadership handed to a member: a partition's, or without one the metadata group's.
    /// Whichever node it is said to passes it on.
    ///
    /// # Errors
    /// It is refused.
    pub fn transfer(&self, partition: Option<u32>, to: &str) -> Result<(), BenchError> {
        let runs = self.nodes.iter().find(|node| node.server.is_some());
        let none = || BenchError::Server("no node runs".to_owned());
        let path = match partition {
            Some(partition) => format!("/v1/partitions/{partition}/transfer"),
            None => "/v1/cluster/transfer".to_owned(),
        };
        let body = serde_json::json!({ "to": to }).to_string();
        asked(&runs.ok_or_else(none)?.http, "POST", &path, &body).map(|_| ())
    }

    fn until_said(&self, arguments: &[&str]) -> Result<serde_json::Value, BenchError> {
        let begin = Instant::now();
        loop {
            match self.said(0, arguments) {
                Err(error) if begin.elapsed() > PATIENCE => return Err(error),
                Err(_) => std::thread::sleep(LOOK_EVERY),
                Ok(said) => return Ok(said),
            }
        }
    }

    /// How the cluster is, by the first node that runs and says so.
    ///
    /// # Errors
    /// No node answers.
    pub fn status(&self) -> Result<Status, BenchError> {
        let mut last = BenchError::Server("no node runs".to_owned());
        for index in (0..self.nodes.len()).filter(|i| self.nodes[*i].server.is_some()) {
            let said = fetched(&self.nodes[index].http, "/v1/cluster/status");
            let read = said.and_then(|said| {
                serde_json::from_str(&said).map_err(|e| BenchError::Server(e.to_string()))
            });
            match read {
                Ok(status) => return Ok(status),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Looks at the cluster until it is as wanted.
    ///
    /// # Errors
    /// It takes too long.
    pub fn until(
        &self,
        what: &str,
        mut wanted: impl FnMut(&Status) -> bool,
    ) -> Result<Status, BenchError> {
        let begin = Instant::now();
        loop {
            let status = self.status();
            match status {
                Ok(status) if wanted(&status) => return Ok(status),
                _ if begin.elapsed() < PATIENCE => std::thread::sleep(LOOK_EVERY),
                Ok(status) => {
                    let why = status.reasons.join("; ");
                    return Err(BenchError::Server(format!("not in time: {what}; {why}")));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The partitions a member leads.
    ///
    /// # Errors
    /// It does not answer.
    pub fn led_by(&self, member: &Member) -> Result<BTreeSet<u32>, BenchError> {
        let map = ironring::map(&member.client_address)?;
        let its = |address: &String| {
            *address == member.client_address || member.shard_addresses.contains(address)
        };
        let ranges = map.shards.iter().filter(|shard| its(&shard.address));
        Ok(ranges.flat_map(|shard| shard.first..shard.end).collect())
    }

    /// What all nodes together have counted of a metric, and of all its labels.
    ///
    /// # Errors
    /// A node does not tell, or has no such metric.
    pub fn metric(&self, name: &str) -> Result<f64, BenchError> {
        self.nodes.iter().map(|node| scraped(&node.http, name)).sum()
    }

    fn server(&mut self, index: usize) -> Result<&mut Server, BenchError> {
        let missing = || BenchError::Server("a node that does not run".to_owned());
        self.nodes[index].server.as_mut().ok_or_else(missing)
    }

    /// Processes of all nodes, in order.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(|node| Some(node.server.as_ref()?.pid())).collect()
    }

    /// Sends SIGKILL, and does not wait.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self, index: usize) -> Result<(), BenchError> {
        self.server(index)?.signal_kill()
    }

    /// Waits until a node that was killed is gone.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn bury(&mut self, index: usize) -> Result<(), BenchError> {
        self.nodes[index].server.take().map_or(Ok(()), Server::kill)
    }

    /// Asks a node to stop with SIGTERM, and waits until it has; how long that took.
    ///
    /// # Errors
    /// It does not stop cleanly.
    pub fn stop(&mut self, index: usize) -> Result<Duration, BenchError> {
        match self.nodes[index].server.take() {
            Some(server) => server.stop(STOP_TIMEOUT),
            None => Ok(Duration::ZERO),
        }
    }

    /// Stops a node from running.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze(&mut self, index: usize) -> Result<(), BenchError> {
        self.server(index)?.freeze()
    }

    /// Lets it run again.
    ///
    /// # Errors
    /// It does not run.
    pub fn thaw(&mut self, index: usize) -> Result<(), BenchError> {
        self.server(index)?.thaw()
    }
}

/// A metric of a node, over all its labels.
fn scraped(http: &str, name: &str) -> Result<f64, BenchError> {
    let answer = fetched(http, "/metrics")?;
    total(&answer, name).ok_or_else(|| BenchError::Server(format!("{http} does not tell {name}")))
}

/// The body of what a node answers to a GET.
fn fetched(http: &str, path: &str) -> Result<String, BenchError> {
    asked(http, "GET", path, "")
}

/// The body of what a node answers. Over HTTP and not by a program, which would be seen in what is
/// measured beside it.
fn asked(http: &str, method: &str, path: &str, body: &str) -> Result<String, BenchError> {
    let failed = |problem: String| BenchError::Server(format!("{http}{path}: {problem}"));
    let mut answer = String::new();
    // In version 1.0 a body ends with its connection: there are no chunks to put together.
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.0\r\nHost: {http}\r\nContent-Length: {length}");
    let request = format!("{head}\r\nContent-Type: application/json\r\n\r\n{body}");
    TcpStream::connect(http)
        .and_then(|mut socket| {
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.write_all(request.as_bytes())?;
            socket.read_to_string(&mut answer)
        })
        .map_err(|e| failed(e.to_string()))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1) {
        Some("200" | "202") => Ok(body.to_owned()),
        _ => Err(failed(format!("{}: {body}", head.lines().next().unwrap_or("no answer")))),
    }
}

/// The sum of a metric's series in an exposition.
fn total(exposition: &str, name: &str) -> Option<f64> {
    let value = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let named = series.split('{').next() == Some(name);
        named.then(|| value.parse::<f64>().ok()).flatten()
    };
    let mut values = exposition.lines().filter_map(value).peekable();
    values.peek()?;
    Some(values.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_the_sum_of_its_series() {
        let text = "# HELP a_total x\na_total{shard=\"0\"} 2\na_total{shard=\"1\"} 3.5\nab 7\n";
        assert_eq!(total(text, "a_total"), Some(5.5));
        assert_eq!(total(text, "ab"), Some(7.0));
        assert_eq!(total(text, "b"), None);
    }
}
