//! Clusters of real processes, and what `ironring` says of them.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{NodeProcess, PATIENCE, SMALL, address_of_its_own, data_dir};

/// Pause between two looks at a condition.
const LOOK: Duration = Duration::from_millis(20);

/// A node that can be started again where it was.
pub struct Place {
    _tmp: tempfile::TempDir,
    pub dir: PathBuf,
    pub name: String,
    /// Where it listens for nodes; the port is known after the first start.
    pub peers: String,
}

impl Place {
    pub fn new(name: &str) -> Place {
        let (tmp, dir) = data_dir();
        Place { _tmp: tmp, dir, name: name.to_owned(), peers: address_of_its_own() }
    }

    /// Starts it with these flags besides.
    pub fn start(&mut self, more: &[&str]) -> NodeProcess {
        let node = NodeProcess::start(&self.dir, &self.args(more));
        self.peers = node.peers.to_string();
        node
    }

    /// Starts it when it must end by itself; what it said.
    pub fn refused(&self, more: &[&str]) -> String {
        let (status, said) = NodeProcess::run(&self.dir, &self.args(more));
        assert!(matches!(status, 1 | 78), "{status}: {said}");
        said
    }

    pub fn args<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let mine = ["--shards", "1", "--node", &self.name, "--peers", &self.peers];
        [SMALL, &mine, more].concat()
    }
}

/// Runs a command that asks a node over HTTP.
pub fn ironring(node: &NodeProcess, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ironring"))
        .args(args)
        .args(["--http", &node.http.to_string(), "-o", "json"])
        .output()
        .expect("the program is there")
}

/// What `ironring cluster` prints for a node, as JSON; `None` when it fails.
pub fn cluster(node: &NodeProcess, args: &[&str]) -> Option<Value> {
    let output = ironring(node, &[&["cluster"], args].concat());
    serde_json::from_slice(&output.stdout).ok()
}

/// The same for `ironring topic`, over the client's protocol.
pub fn topics(node: &NodeProcess, args: &[&str]) -> Option<Value> {
    client(node, "topic", args)
}

/// The same for `ironring kv`.
pub fn keys(node: &NodeProcess, args: &[&str]) -> Option<Value> {
    client(node, "kv", args)
}

pub fn client(node: &NodeProcess, command: &str, args: &[&str]) -> Option<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_ironring"))
        .arg(command)
        .args(args)
        .args(["--addr", &node.clients.to_string(), "-o", "json"])
        .output()
        .expect("the program is there");
    serde_json::from_slice(&output.stdout).ok()
}

/// Looks until `wanted` gives something; `what` is wanted.
pub fn until<T>(what: &str, mut wanted: impl FnMut() -> Option<T>) -> T {
    let by = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = wanted() {
            return found;
        }
        assert!(Instant::now() < by, "never: {what}");
        std::thread::sleep(LOOK);
    }
}

/// A secret that lets a node in.
pub fn token(node: &NodeProcess, args: &[&str]) -> String {
    let made = until("a token is made", || cluster(node, &[&["token", "create"], args].concat()));
    made["token"].as_str().expect("its secret is shown").to_owned()
}

/// The leader, when this node knows one and so many voters.
pub fn leader(node: &NodeProcess, voters: usize) -> Option<u64> {
    let status = cluster(node, &["status"])?;
    let group = &status["metadata"];
    let all = group["voters"].as_array()?.len() == voters;
    all.then(|| group["leader"].as_u64()).flatten()
}

/// The leader all of them agree on.
pub fn agreed(nodes: &[&NodeProcess], voters: usize, not: Option<u64>) -> u64 {
    until("all agree on a leader", || {
        let leaders: Vec<u64> = nodes.iter().filter_map(|node| leader(node, voters)).collect();
        let first = *leaders.first()?;
        let same = leaders.len() == nodes.len() && leaders.iter().all(|leader| *leader == first);
        (same && not != Some(first)).then_some(first)
    })
}

impl Place {
    /// A cluster of one.
    pub fn start_alone(mut self, cluster: &str) -> (Place, NodeProcess) {
        let node = self.start(&["--cluster", cluster]);
        (self, node)
    }
}
