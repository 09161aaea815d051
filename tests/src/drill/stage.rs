//! What every drill begins and ends with, and what it waits for.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ironring_core::prng::Prng;
use ironring_node::cluster::overview::PartitionView;

use super::{Options, Step, probe};
use crate::chaos::clients::{Clients, DEADLINE, Habits, Heard};
use crate::chaos::judge::{Judgement, judge};
use crate::chaos::nodes::{ChaosError, Nodes, Status, system};
use crate::chaos::workload::PARTITIONS;
use crate::linear::Rules;

/// How long anything may take that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// A node without flags of its own.
pub const PLAIN: &[&str] = &[];
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Clients of a light load.
const CLIENTS: u32 = 6;
/// How long each waits at most between two operations, in milliseconds.
const PAUSE_MAX_MS: u64 = 25;
/// Acknowledged writes that show that a load goes on.
const MORE_ACKS: u64 = 100;

/// Where a drill is made: its folder, and the steps so far.
pub struct Stage {
    /// How it is made.
    pub options: Options,
    /// The drill's choices.
    pub prng: Prng,
    folder: Option<tempfile::TempDir>,
    interrupted: Arc<AtomicBool>,
    steps: Vec<Step>,
    clusters: u32,
}

impl Stage {
    /// An empty one.
    ///
    /// # Errors
    /// Its folder cannot be made.
    pub fn new(
        drill: &str,
        options: &Options,
        interrupted: Arc<AtomicBool>,
    ) -> Result<Stage, ChaosError> {
        let root = options.data_root.clone().unwrap_or_else(std::env::temp_dir);
        let named = || system(root.display().to_string());
        std::fs::create_dir_all(&root).map_err(named())?;
        let prefix = format!("drill-{drill}-");
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(&root).map_err(named())?;
        let (options, prng) = (options.clone(), Prng::new(options.seed));
        let (steps, folder) = (Vec::new(), Some(folder));
        Ok(Stage { options, prng, folder, interrupted, steps, clusters: 0 })
    }

    /// Notes a step that is as it has to be.
    pub fn saw(&mut self, done: impl Into<String>, seen: impl Into<String>) {
        self.check(done, seen, true);
    }

    /// Notes a step, and whether it is as it has to be.
    pub fn check(&mut self, done: impl Into<String>, seen: impl Into<String>, ok: bool) {
        let step = Step { done: done.into(), seen: seen.into(), ok };
        let mark = if ok { "" } else { " (NOT as it has to be)" };
        eprintln!("  {}: {}{mark}", step.done, step.seen);
        self.steps.push(step);
    }

    /// The steps, whether all were right, and where the folder was kept.
    pub fn end(mut self) -> (Vec<Step>, bool, Option<PathBuf>) {
        let passed = !self.steps.is_empty() && self.steps.iter().all(|step| step.ok);
        let folder = self.folder.take().filter(|_| self.options.keep && !passed);
        (self.steps, passed, folder.map(tempfile::TempDir::keep))
    }

    /// A folder of its own within the drill's.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn folder(&mut self, name: &str) -> Result<PathBuf, ChaosError> {
        let folder = self.folder.as_ref().expect("it is there until the end").path().join(name);
        std::fs::create_dir_all(&folder).map_err(system(folder.display().to_string()))?;
        Ok(folder)
    }

    /// A healthy cluster of nodes with these flags, and room for as many more as are named.
    ///
    /// # Errors
    /// It does not become one.
    pub fn cluster(&mut self, flags: &[&[&str]], more: usize) -> Result<Cluster, ChaosError> {
        self.clusters += 1;
        let folder = self.folder(&format!("cluster-{}", self.clusters))?;
        let mut nodes = Nodes::none(&self.options.program, &folder, flags.len() + more)?;
        for flags in flags {
            nodes.add(flags)?;
        }
        let took = nodes.until_healthy()?;
        let count = flags.len();
        self.saw(
            format!("start {count} nodes"),
            format!("healthy {:.1} s later", took.as_secs_f64()),
        );
        let interrupted = Arc::clone(&self.interrupted);
        let seed = self.options.seed;
        Ok(Cluster { nodes, load: None, interrupted, seed })
    }
}

/// Nodes, and clients that load them.
pub struct Cluster {
    /// The nodes.
    pub nodes: Nodes,
    load: Option<Clients>,
    interrupted: Arc<AtomicBool>,
    seed: u64,
}

impl Cluster {
    /// Begins a light load on all nodes there are.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn load(&mut self) -> Result<(), ChaosError> {
        self.load_with(DEADLINE)
    }

    /// The same with another deadline of each operation.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn load_with(&mut self, deadline: Duration) -> Result<(), ChaosError> {
        let seed = self.seed;
        let (clients, pause_max_ms) = (CLIENTS, PAUSE_MAX_MS);
        let habits = Habits { seed, clients, pause_max_ms, deadline, all: false };
        let addresses = self.nodes.addresses();
        self.load = Some(Clients::start(habits, &addresses, Instant::now())?);
        self.acks_go_on()
    }

    /// What the load has heard so far.
    pub fn heard(&self) -> Heard {
        self.load.as_ref().map(Clients::heard).unwrap_or_default()
    }

    /// Looks until `wanted` gives something; nodes that end by themselves meanwhile are a problem.
    ///
    /// # Errors
    /// It does not in time, with `what` was waited for.
    pub fn until<T>(
        &mut self,
        what: &str,
        wanted: impl FnMut(&Nodes) -> Option<T>,
    ) -> Result<T, ChaosError> {
        self.until_within(PATIENCE, what, wanted)
    }

    fn until_within<T>(
        &mut self,
        patience: Duration,
        what: &str,
        mut wanted: impl FnMut(&Nodes) -> Option<T>,
    ) -> Result<T, ChaosError> {
        let begin = Instant::now();
        loop {
            if let Some(found) = wanted(&self.nodes) {
                return Ok(found);
            }
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(ChaosError::Cluster("interrupted".to_owned()));
            }
            if begin.elapsed() > patience {
                let why =
                    format!("not within {} s: {what}{}", patience.as_secs(), self.complaints());
                return Err(ChaosError::Cluster(why));
            }
            self.nodes.look()?;
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// What nodes that run say is wrong, a line each.
    pub fn complaints(&self) -> String {
        let up = (0..self.nodes.count()).filter(|index| self.nodes.is_up(*index));
        let said = up.map(|index| {
            let said = self.nodes.status(index);
            let said = said.map_or_else(
                |error| error,
                |status| {
                    let Status { metadata, partitions, reasons, .. } = status;
                    format!("{reasons:?} {metadata:?} {partitions:?}")
                },
            );
            format!("\n{} says: {}", self.nodes.name(index), said.trim())
        });
        said.collect()
    }

    /// Waits for a time, looking after the nodes.
    ///
    /// # Errors
    /// Interrupted, or a node cannot be started again.
    pub fn wait(&mut self, time: Duration) -> Result<(), ChaosError> {
        let until = Instant::now() + time;
        self.until_within(PATIENCE.saturating_add(time), "time passes", |_| {
            (Instant::now() >= until).then_some(())
        })
    }

    /// Waits until the load has had more writes acknowledged.
    ///
    /// # Errors
    /// It has not in time.
    pub fn acks_go_on(&mut self) -> Result<(), ChaosError> {
        let Some(load) = &self.load else { return Ok(()) };
        let begin = Instant::now();
        let wanted = load.heard().acked + MORE_ACKS;
        while load.heard().acked < wanted {
            if begin.elapsed() > PATIENCE || self.interrupted.load(Ordering::Relaxed) {
                let heard = load.heard();
                let why = format!("the load has no writes acknowledged any more: {heard:?}");
                return Err(ChaosError::Cluster(why + &self.complaints()));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Waits until a key of every partition can be written and read, by a client that knows only these
    /// nodes at first, and until the load goes on; notes how long that took. Gives the value written.
    ///
    /// # Errors
    /// It cannot in time.
    pub fn serves(
        &mut self,
        stage: &mut Stage,
        done: &str,
        nodes: &[usize],
    ) -> Result<Vec<u8>, ChaosError> {
        let begin = Instant::now();
        let addresses = self.nodes.addresses();
        let addresses = nodes.iter().map(|index| addresses[*index].clone()).collect();
        let written = probe::write_all_partitions(addresses, PATIENCE);
        let value = written
            .map_err(|why| ChaosError::Cluster(format!("{done}: {why}{}", self.complaints())))?;
        let took = begin.elapsed().as_secs_f64();
        self.acks_go_on()?;
        let seen = format!("all {PARTITIONS} partitions written and read {took:.1} s later");
        stage.saw(done, seen);
        Ok(value)
    }

    /// The partitions as a node sees them.
    ///
    /// # Errors
    /// It does not answer.
    pub fn partitions(&self, index: usize) -> Result<Vec<PartitionView>, ChaosError> {
        partitions(&self.nodes, index).map_err(ChaosError::Cluster)
    }

    /// The number of the node that leads the metadata group, waiting for one.
    ///
    /// # Errors
    /// Nobody leads in time.
    pub fn leader(&mut self) -> Result<usize, ChaosError> {
        self.until("somebody leads the metadata group", |nodes| {
            let up = (0..nodes.count()).filter(|index| nodes.is_up(*index));
            let mut leading =
                up.filter(|index| nodes.status(*index).is_ok_and(|s| s.metadata.role == "leader"));
            leading.next()
        })
    }

    /// Ends the load but for its last reads, and waits until nothing of it is under way.
    ///
    /// # Errors
    /// Interrupted.
    pub fn rest(&mut self) -> Result<(), ChaosError> {
        let Some(load) = &self.load else { return Ok(()) };
        load.rest();
        self.wait(DEADLINE)
    }

    /// Waits until the cluster is healthy again with what runs, after everything was healed.
    ///
    /// # Errors
    /// It is not in time.
    pub fn heal(&mut self, stage: &mut Stage, done: &str) -> Result<(), ChaosError> {
        self.nodes.heal()?;
        let took = self.nodes.until_healthy()?;
        stage.saw(done, format!("healthy {:.1} s later", took.as_secs_f64()));
        Ok(())
    }

    /// Ends the load, heals, and judges what its clients saw.
    ///
    /// # Errors
    /// The cluster does not heal.
    pub fn finish(mut self, stage: &mut Stage) -> Result<Judgement, ChaosError> {
        let load = self.load.take();
        if let Some(load) = &load {
            load.rest();
        }
        self.heal(stage, "end the load and heal")?;
        let mut judgement = Judgement::default();
        if let Some(load) = load {
            let (history, all) = load.finish();
            judgement = judge(&history, &Rules::default());
            let (acked, lost) = (judgement.acked, judgement.acked - judgement.accounted);
            let operations = judgement.total();
            let (failed, unknown) = judgement
                .operations
                .values()
                .fold((0, 0), |(failed, unknown), o| (failed + o.failed, unknown + o.unknown));
            let mut seen = format!(
                "acked {acked} lost {lost}; {operations} operations, {failed} failed, {unknown} unknown: \
                 {}",
                judgement.verdict
            );
            for violation in &judgement.violations {
                seen += &format!("\n{violation}");
            }
            let ok = judgement.is_fine() && lost == 0 && acked > 0 && all;
            stage.check("read everything back", seen, ok);
        }
        for problem in std::mem::take(&mut self.nodes.problems) {
            stage.check("look after the nodes", problem, false);
        }
        Ok(judgement)
    }
}

/// The partitions as a node sees them.
///
/// # Errors
/// What it said instead.
pub fn partitions(nodes: &Nodes, index: usize) -> Result<Vec<PartitionView>, String> {
    let said = nodes.said(index, &["partition", "list"])?;
    serde_json::from_value(said).map_err(|error| error.to_string())
}
