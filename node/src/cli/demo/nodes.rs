//! The demo's cluster: its nodes as processes, and what any of them says about it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::child::{Addresses, Launch, NodeChild, failure};
use super::interrupt::Interrupt;
use crate::cli::error::{CliError, DEMO_FAILED};
use crate::cli::http::HttpArgs;
use crate::cluster::status::{ClusterStatus, MemberView};
use crate::config::Machine;
use crate::http::cluster::{TokenView, TokenWish};

/// How often the cluster is looked at while something is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long a node may take to answer a question.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// How long the kernel may take to free a killed node's rings, and how often the demo looks.
const MEMORY_PATIENCE: Duration = Duration::from_secs(5);
const MEMORY_NAP: Duration = Duration::from_millis(50);
/// Names of nodes in the order of their start.
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// A node and, while it runs, its process.
struct Node {
    launch: Launch,
    child: Option<NodeChild>,
}

/// All nodes, in the order of their start. Their processes end with this value.
pub struct Nodes {
    base: PathBuf,
    shards: u16,
    cpus: Vec<u16>,
    token: Option<String>,
    nodes: Vec<Node>,
    interrupt: Interrupt,
}

/// Durable writes and the records in them, all shards of a node together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Durable writes.
    pub flushes: u64,
    /// Records in them.
    pub records: u64,
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, more: Totals) {
        self.flushes += more.flushes;
        self.records += more.records;
    }
}

impl Nodes {
    /// None yet; those to come live in `base`.
    ///
    /// # Errors
    /// When the machine cannot be looked at.
    pub fn new(base: PathBuf, shards: u16, interrupt: Interrupt) -> Result<Nodes, CliError> {
        let machine = Machine::read(&base)
            .map_err(|e| CliError::io("the machine cannot be looked at", &e))?;
        let (cpus, token, nodes) = (machine.cpus, None, Vec::new());
        Ok(Nodes { base, shards, cpus, token, nodes, interrupt })
    }

    /// Starts one more node, which founds the cluster when it is the first and joins it otherwise;
    /// its name.
    ///
    /// # Errors
    /// When it does not start, or is not let in.
    pub fn add(&mut self) -> Result<String, CliError> {
        let (index, name) = (self.nodes.len(), NAMES[self.nodes.len()].to_owned());
        let joins = match self.nodes.first() {
            None => None,
            Some(_) => Some((self.running()?.nodes, self.token()?)),
        };
        let shards = self.shards;
        let cpus = cpus_of(index, shards, &self.cpus);
        let dir = self.base.join(&name);
        let mut launch = Launch { name: name.clone(), dir, shards, cpus, joins, at: None };
        let child = NodeChild::start(&launch, &self.interrupt)?;
        launch.at = Some(child.at);
        self.nodes.push(Node { launch, child: Some(child) });
        Ok(name)
    }

    /// A secret that lets nodes in; made once.
    fn token(&mut self) -> Result<String, CliError> {
        if let Some(token) = &self.token {
            return Ok(token.clone());
        }
        let wish = serde_json::to_value(TokenWish::default()).expect("plain fields serialise");
        let begin = Instant::now();
        let made: TokenView = loop {
            match self.http()?.ask("POST", "/v1/cluster/tokens", Some(&wish)) {
                Ok(made) => break made,
                // The group begins while the node is already heard.
                Err(error) if error.retriable && begin.elapsed() < ANSWER_PATIENCE => {}
                Err(error) => return Err(error),
            }
            self.interrupt.nap(LOOK_EVERY)?;
        };
        let missing = || CliError::local(&DEMO_FAILED, "a token was made without a secret");
        Ok(self.token.insert(made.token.ok_or_else(missing)?).clone())
    }

    /// Kills a node with SIGKILL.
    pub fn kill(&mut self, index: usize) {
        if let Some(child) = self.nodes[index].child.take() {
            child.kill();
        }
    }

    /// Starts a node that was killed where it was. The kernel takes back a killed process's rings some
    /// time after it is gone: with a small limit of lockable memory there is no room for new ones
    /// until then.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_again(&mut self, index: usize) -> Result<(), CliError> {
        let begin = Instant::now();
        loop {
            match NodeChild::start(&self.nodes[index].launch, &self.interrupt) {
                Ok(child) => {
                    self.nodes[index].child = Some(child);
                    return Ok(());
                }
                Err(error)
                    if error.text(false).contains("lockable memory")
                        && begin.elapsed() < MEMORY_PATIENCE =>
                {
                    self.interrupt.nap(MEMORY_NAP)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks all to stop, the last first, and waits until they have.
    pub fn stop(mut self) {
        for node in self.nodes.iter_mut().rev() {
            if let Some(child) = node.child.take() {
                child.stop();
            }
        }
    }

    /// Whether somebody wants the demo to end.
    #[must_use]
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// Where all nodes listen, also those that do not run.
    pub fn addresses(&self) -> impl Iterator<Item = (&str, Addresses)> {
        let started = |node: &'_ Node| node.launch.at.expect("a node is kept when it has started");
        self.nodes.iter().map(move |node| (node.launch.name.as_str(), started(node)))
    }

    /// The place of the node that is a member by this name.
    #[must_use]
    pub fn index_of(&self, member: &MemberView) -> Option<usize> {
        self.nodes.iter().position(|node| node.launch.name == member.name)
    }

    fn running(&self) -> Result<Addresses, CliError> {
        let at = self.nodes.iter().find_map(|node| node.child.as_ref().map(|child| child.at));
        at.ok_or_else(|| CliError::local(&DEMO_FAILED, "no node runs"))
    }

    /// The way to ask the first node that runs.
    fn http(&self) -> Result<HttpArgs, CliError> {
        let http = vec![self.running()?.http.to_string()];
        Ok(HttpArgs { http, timeout: ANSWER_PATIENCE })
    }

    /// How the cluster is, as the first node that runs knows it.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> Result<ClusterStatus, CliError> {
        self.http()?.ask("GET", "/v1/cluster/status", None)
    }

    /// Looks at the cluster until it is as `wanted`.
    ///
    /// # Errors
    /// When that takes longer than `patience`, or a node ends by itself.
    pub fn until<T>(
        &mut self,
        what: &str,
        patience: Duration,
        mut wanted: impl FnMut(&ClusterStatus) -> Option<T>,
    ) -> Result<T, CliError> {
        let begin = Instant::now();
        loop {
            let status = self.status();
            if let Some(found) = status.as_ref().ok().and_then(&mut wanted) {
                return Ok(found);
            }
            self.all_run()?;
            if begin.elapsed() > patience {
                let now = match status {
                    Ok(status) if status.healthy => "it is healthy".to_owned(),
                    Ok(status) => status.reasons.join("; "),
                    Err(error) => error.text(false),
                };
                let what = format!("after {} s not yet: {what}; {now}", patience.as_secs());
                return Err(CliError::local(&DEMO_FAILED, what));
            }
            self.interrupt.nap(LOOK_EVERY)?;
        }
    }

    /// Makes sure that no node has ended by itself.
    ///
    /// # Errors
    /// When one has, with the end of its log.
    pub fn all_run(&mut self) -> Result<(), CliError> {
        // Who interrupts the demo on a terminal interrupts the nodes as well.
        self.interrupt.nap(Duration::ZERO)?;
        for Node { launch, child } in &mut self.nodes {
            if let Some(ended) = child.as_mut().and_then(NodeChild::ended) {
                let what = format!("node {} ended by itself ({ended})", launch.name);
                return Err(failure(launch, &what));
            }
        }
        Ok(())
    }

    /// What a node has written since it was started, as of a second ago at the most; nothing while it
    /// does not run.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn totals(&self, index: usize) -> Result<Totals, CliError> {
        let Some(child) = &self.nodes[index].child else { return Ok(Totals::default()) };
        let http = HttpArgs { http: vec![child.at.http.to_string()], timeout: ANSWER_PATIENCE };
        let node: serde_json::Value = http.ask("GET", "/v1/node", None)?;
        let mut totals = Totals::default();
        for shard in node["shards"].as_array().into_iter().flatten() {
            let number = |name: &str| shard["log"][name].as_u64().unwrap_or(0);
            totals += Totals { flushes: number("flushes"), records: number("records") };
        }
        Ok(totals)
    }

    /// How many nodes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }
}

/// The CPUs of a node's shards: those of one node after those of another, as far as there are any.
/// Without, every node would begin with the first. Empty when a node takes all.
fn cpus_of(node: usize, shards: u16, cpus: &[u16]) -> Vec<u16> {
    let shards = usize::from(shards);
    if shards == 0 || shards >= cpus.len() {
        return Vec::new();
    }
    (0..shards).map(|shard| cpus[(node * shards + shard) % cpus.len()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_share_the_cpus_there_are() {
        let all = |shards, cpus: &[u16]| -> Vec<Vec<u16>> {
            (0..4).map(|node| cpus_of(node, shards, cpus)).collect()
        };
        assert_eq!(all(1, &[0, 5]), [[0], [5], [0], [5]]);
        assert_eq!(all(2, &[0, 1, 2]), [[0, 1], [2, 0], [1, 2], [0, 1]]);
        assert_eq!(all(2, &[0, 1]), [[0; 0]; 4]);
        assert_eq!(all(0, &[0, 1]), [[0; 0]; 4]);
    }
}
