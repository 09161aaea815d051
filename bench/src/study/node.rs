//! A node that a study starts, loads, kills and looks into.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::StudyCommon;
use crate::engine::Surroundings;
use crate::error::BenchError;
use crate::peers::find_ironring;
use crate::protocol::ironring;
use crate::result::RunResult;
use crate::run::{self, Phases};
use crate::scenario::{Keys, Load, Mix, Mode, Scenario, Values};
use crate::server::{Scratch, Server, free_port};
use crate::system::{Resident, disk_use, resident};

/// Time a node has to get ready: it may have a long log to read.
const READY_TIMEOUT: Duration = Duration::from_secs(1200);
/// Time it has to stop: it writes a last checkpoint.
const STOP_TIMEOUT: Duration = Duration::from_secs(600);
/// A disk may stall; in a closed loop that is no reason to give up on a reply.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How a study's node is started.
#[derive(Clone, Debug)]
pub struct Setup {
    program: PathBuf,
    /// What `ironring --version` says.
    pub version: String,
    shards: u16,
    cpus: Vec<usize>,
    settings: Vec<(String, String)>,
    extra: Vec<String>,
}

impl Setup {
    /// A node with these shards on these CPUs (none: all) and these settings; what the command
    /// line adds wins.
    ///
    /// # Errors
    /// There is no `ironring` program.
    pub fn new(
        common: &StudyCommon,
        shards: u16,
        cpus: &[usize],
        settings: &[(&str, String)],
    ) -> Result<Setup, BenchError> {
        let (program, version) =
            find_ironring(common.ironring.as_ref()).map_err(BenchError::Usage)?;
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
        Ok(Setup {
            program,
            version,
            shards,
            cpus: cpus.to_vec(),
            settings: settings.collect(),
            extra: common.ironring_args.clone(),
        })
    }

    /// The arguments beyond folder and addresses.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["--shards".to_owned(), self.shards.to_string()];
        for (key, value) in &self.settings {
            arguments.extend(["--set".to_owned(), format!("{key}={value}")]);
        }
        arguments.extend(self.extra.iter().cloned());
        arguments
    }

    /// The same with another value of a setting.
    #[must_use]
    pub fn with(&self, key: &str, value: String) -> Setup {
        let mut setup = self.clone();
        setup.settings.retain(|(other, _)| other != key);
        setup.settings.push((key.to_owned(), value));
        setup
    }
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    server: Server,
    addr: String,
    data: PathBuf,
}

impl Node {
    /// Starts it in `scratch`, where a node may have been before; returns it with the time from the
    /// start of the process until every shard serves.
    ///
    /// # Errors
    /// It does not get ready.
    pub fn start(setup: &Setup, scratch: &Arc<Scratch>) -> Result<(Node, Duration), BenchError> {
        let data = scratch.path().join("data");
        let addr = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new(&setup.program);
        command.current_dir(scratch.path()).arg("start").arg("--data-dir").arg(&data);
        command
            .args(["--listen", &addr, "--http", "127.0.0.1:0", "--peers", "127.0.0.1:0"])
            .args(setup.arguments());
        let began = Instant::now();
        let mut server = Server::start(command, scratch, &setup.cpus)?;
        server.wait_ready(READY_TIMEOUT, || ironring::ready(&addr))?;
        Ok((Node { server, addr, data }, began.elapsed()))
    }

    /// Where clients connect.
    #[must_use]
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// What its shards count.
    ///
    /// # Errors
    /// It does not answer.
    pub fn counters(&self) -> Result<Counters, BenchError> {
        ironring::stats(&self.addr).map(Counters)
    }

    /// Bytes its files take, by kind: `segment`, `checkpoint`, `superblock` and others.
    ///
    /// # Errors
    /// The data directory cannot be read.
    pub fn disk_use(&self) -> Result<BTreeMap<String, u64>, BenchError> {
        disk_use(&self.data).map_err(BenchError::file(&self.data))
    }

    /// Memory it occupies.
    ///
    /// # Errors
    /// It is gone.
    pub fn resident(&self) -> Result<Resident, BenchError> {
        resident(self.server.pid()).map_err(BenchError::system("memory of the node"))
    }

    /// Runs phases of a scenario against it; `None` when nothing was measured.
    ///
    /// # Errors
    /// The node misbehaves.
    pub fn run(
        &self,
        scenario: &Scenario,
        common: &StudyCommon,
        phases: Phases,
    ) -> Result<Option<RunResult>, BenchError> {
        let scenario = Scenario { addr: self.addr.clone(), ..scenario.clone() };
        let around = Surroundings { server_pid: Some(self.server.pid()), quiet: common.quiet };
        let measured = run::execute(&scenario, common.seed, around, phases)?;
        Ok(measured.map(|measured| RunResult::of(&scenario, common.seed, &measured)))
    }

    /// Measures a scenario whose keys are there.
    ///
    /// # Errors
    /// The node misbehaves.
    pub fn measure(
        &self,
        scenario: &Scenario,
        common: &StudyCommon,
    ) -> Result<RunResult, BenchError> {
        let run = self.run(scenario, common, Phases::Measure)?;
        Ok(run.expect("only Phases::Prefill measures nothing"))
    }

    /// Stops it from running while something else is measured.
    ///
    /// # Errors
    /// It is gone.
    pub fn freeze(&mut self) -> Result<(), BenchError> {
        self.server.freeze()
    }

    /// Lets it run again.
    ///
    /// # Errors
    /// It is gone.
    pub fn thaw(&mut self) -> Result<(), BenchError> {
        self.server.thaw()
    }

    /// Sends it SIGKILL while others still hold it.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal_kill(&self) -> Result<(), BenchError> {
        self.server.signal_kill()
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(self) -> Result<(), BenchError> {
        self.server.kill()
    }

    /// Asks it to stop; returns how long that took.
    ///
    /// # Errors
    /// It does not stop cleanly.
    pub fn stop(self) -> Result<Duration, BenchError> {
        self.server.stop(STOP_TIMEOUT)
    }
}

/// The segment files of a node that was started in this folder.
///
/// # Errors
/// The folder cannot be read.
pub fn segment_files(scratch: &Path) -> Result<Vec<PathBuf>, BenchError> {
    let mut files = Vec::new();
    let data = scratch.join("data");
    let list = |folder: &Path| -> Result<Vec<PathBuf>, BenchError> {
        let entries = std::fs::read_dir(folder).map_err(BenchError::file(folder))?;
        let paths: Result<Vec<PathBuf>, _> = entries.map(|entry| entry.map(|e| e.path())).collect();
        paths.map_err(BenchError::file(folder))
    };
    for folder in list(&data)?.into_iter().filter(|path| path.is_dir()) {
        let is_segment = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("segment-"))
        };
        files.extend(list(&folder)?.into_iter().filter(is_segment));
    }
    files.sort();
    Ok(files)
}

/// What the shards of a node count.
#[derive(Clone, Debug)]
pub struct Counters(Value);

impl Counters {
    fn each(&self, pointer: &str) -> impl Iterator<Item = f64> {
        let shards = self.0["shards"].as_array().into_iter().flatten();
        shards.filter_map(move |shard| shard.pointer(pointer)?.as_f64())
    }

    /// Sum over the shards of a counter, by its JSON pointer.
    ///
    /// # Errors
    /// No shard has it: the node is of another version than this study was written for.
    pub fn sum(&self, pointer: &str) -> Result<u64, BenchError> {
        let mut found = false;
        let sum: f64 = self.each(pointer).inspect(|_| found = true).sum();
        if !found {
            return Err(BenchError::Server(format!("the node's Stats have no {pointer}")));
        }
        Ok(sum as u64)
    }

    /// Largest of the shards' figures.
    #[must_use]
    pub fn max(&self, pointer: &str) -> f64 {
        self.each(pointer).fold(0.0, f64::max)
    }
}

/// A closed loop with values of one size. `keys` are drawn uniformly.
#[must_use]
pub fn scenario(
    name: &str,
    common: &StudyCommon,
    connections: usize,
    mix: Mix,
    keys: u64,
    value_bytes: usize,
) -> Scenario {
    Scenario {
        name: name.to_owned(),
        seed: common.seed,
        load: Load {
            mode: Mode::Closed,
            connections,
            pipeline: 1,
            timeout: REQUEST_TIMEOUT,
            pin: vec![common.client_cpu],
            ..Load::default()
        },
        keys: Keys { count: keys, ..Keys::default() },
        values: Values { size: value_bytes, ..Values::default() },
        mix,
        ..Scenario::default()
    }
}

/// Says what a study does, to people who wait.
pub fn progress(common: &StudyCommon, words: &str) {
    if !common.quiet {
        eprintln!("{words}");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counters_are_summed_over_shards_and_a_missing_one_is_an_error() {
        let counters = Counters(json!({"shards": [
            {"log": {"records": 3}, "recovery": {"seconds": 0.5}},
            {"log": {"records": 4}, "recovery": {"seconds": 0.25}}]}));
        assert_eq!(counters.sum("/log/records").unwrap(), 7);
        assert_eq!(counters.max("/recovery/seconds"), 0.5);
        assert!(counters.sum("/log/record").unwrap_err().to_string().contains("/log/record"));
    }
}
