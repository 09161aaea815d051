//! One run: a cluster, its clients, the schedule, and the report.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigmaskHow, pthread_sigmask};
use serde::Serialize;

use super::clients::{Clients, DEADLINE, Habits};
use super::judge::{Judgement, judge};
use super::nodes::{ChaosError, Nodes, interrupts, system};
use super::plan::{Action, Kind, Plan, Step};
use crate::linear::{History, Rules};

/// Clients of a run; every third one works without sessions.
const CLIENTS: u32 = 12;
/// A client waits this long at most between two operations.
const PAUSE_MAX_MS: u64 = 8;
const SLICE: Duration = Duration::from_millis(50);

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `ironring` program.
    pub program: PathBuf,
    /// How long faults are injected.
    pub seconds: u64,
    /// What the schedule and the clients' choices come from.
    pub seed: u64,
    /// Nodes of the cluster.
    pub nodes: usize,
    /// Where the run's folder is made; the system's folder for temporary files by default.
    pub dir: Option<PathBuf>,
    /// Keep the run's folder although nothing was wrong.
    pub keep: bool,
    /// Steps a search of the history may take per part of it before it gives up.
    pub steps: u64,
}

/// What a run came to.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What the schedule and the clients' choices came from.
    pub seed: u64,
    /// Nodes of the cluster.
    pub nodes: usize,
    /// Seconds with clients and faults.
    pub seconds: f64,
    /// It was interrupted.
    pub interrupted: bool,
    /// Faults injected, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Connections between nodes that went through the links.
    pub peer_connections: u64,
    /// Bytes that did.
    pub peer_bytes: u64,
    /// Seconds from the end of the faults until the cluster was healthy.
    pub healed_s: Option<f64>,
    /// What processes or the cluster did that they must not do.
    pub problems: Vec<String>,
    /// What the history is worth.
    pub judgement: Judgement,
    /// The run's folder, when it was kept: `history.jsonl` and the nodes' data and logs.
    pub kept: Option<PathBuf>,
}

impl Report {
    /// Whether nothing was wrong.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        self.problems.is_empty() && self.judgement.is_fine()
    }

    /// As a person reads it.
    #[must_use]
    pub fn show(&self) -> String {
        let mut text = format!(
            "seed {}, {} nodes, {:.0} s{}\n",
            self.seed,
            self.nodes,
            self.seconds,
            if self.interrupted { ", interrupted" } else { "" }
        );
        let faults: Vec<String> = self.faults.iter().map(|(k, n)| format!("{k} {n}")).collect();
        let total: u64 = self.faults.values().sum();
        let _ = writeln!(text, "faults: {total} ({})", faults.join(", "));
        let megabytes = self.peer_bytes / 1_000_000;
        let connections = self.peer_connections;
        let _ = writeln!(text, "links: {connections} connections, {megabytes} MB between nodes");
        match self.healed_s {
            Some(seconds) => drop(writeln!(text, "healthy {seconds:.1} s after the last fault")),
            None => text.push_str("not healthy after the last fault\n"),
        }
        for problem in &self.problems {
            let _ = writeln!(text, "PROBLEM: {problem}");
        }
        text += &show_judgement(&self.judgement);
        if let Some(kept) = &self.kept {
            let _ = writeln!(text, "kept: {}", kept.display());
        }
        text
    }
}

/// A judgement as a person reads it.
#[must_use]
pub fn show_judgement(judgement: &Judgement) -> String {
    let mut text = format!("{:<10}{:>9}{:>9}{:>9}\n", "operation", "ok", "failed", "unknown");
    for (kind, o) in &judgement.operations {
        let _ = writeln!(text, "{kind:<10}{:>9}{:>9}{:>9}", o.ok, o.failed, o.unknown);
    }
    let (gap, at) = (judgement.longest_without_ack_ms, judgement.longest_without_ack_from_ms);
    let _ = writeln!(text, "longest time without an acknowledged write: {gap} ms, from {at} ms on");
    let lost = judgement.acked - judgement.accounted;
    let _ = writeln!(text, "ledger: acked {}, lost {lost}", judgement.acked);
    let (total, verdict) = (judgement.total(), judgement.verdict);
    let _ = writeln!(text, "history of {total} operations: {verdict}");
    if let Some(part) = &judgement.undecided {
        let _ = writeln!(text, "UNDECIDED: {part} was too hard to search");
    }
    for violation in &judgement.violations {
        let _ = writeln!(text, "VIOLATION: {violation}");
    }
    if let Some(smallest) = &judgement.counterexample {
        let _ = writeln!(text, "{smallest}");
    }
    text
}

/// Makes a run. SIGINT and SIGTERM end its faults early; what was recorded is judged all the same.
/// To be called before any thread is started: threads inherit the mask of signals.
///
/// # Errors
/// When there is nothing to judge: the cluster does not come up, or the system refuses something.
pub fn run(options: &Options) -> Result<Report, ChaosError> {
    let interrupted = watch_interrupts()?;
    let root = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    std::fs::create_dir_all(&root).map_err(system(root.display().to_string()))?;
    let folder = tempfile::Builder::new()
        .prefix(&format!("chaos-{}-", options.seed))
        .tempdir_in(&root)
        .map_err(system(root.display().to_string()))?;
    let mut nodes = Nodes::start(&options.program, folder.path(), options.nodes)?;

    let epoch = Instant::now();
    let habits = Habits {
        seed: options.seed,
        clients: CLIENTS,
        pause_max_ms: PAUSE_MAX_MS,
        deadline: DEADLINE,
        all: true,
    };
    let clients = Clients::start(habits, &nodes.addresses(), epoch)?;

    let plan = Plan::new(options.seed, options.nodes, options.seconds * 1000);
    let until = Duration::from_secs(options.seconds);
    let mut done = Done::default();
    let disturbed = disturb(&mut nodes, &plan, (epoch, until), &interrupted, &mut done);
    let seconds = epoch.elapsed().as_secs_f64();
    clients.rest();
    let healed = disturbed.and_then(|()| nodes.heal()).and_then(|()| nodes.until_healthy());
    let mut problems = std::mem::take(&mut nodes.problems);
    let healed_s = match healed {
        Ok(time) => Some(time.as_secs_f64()),
        Err(error) => {
            problems.push(error.to_string());
            nodes.ask_all()?;
            None
        }
    };
    let (history, all) = clients.finish();
    if !all {
        problems.push("a client of the harness panicked".to_owned());
    }
    let (peer_bytes, peer_connections) = nodes.links.passed();
    drop(nodes);

    let file = folder.path().join("history.jsonl");
    let head = format!("# chaos: seed {}, {} nodes\n", options.seed, options.nodes);
    std::fs::write(&file, head + &done.timeline + &history.to_text())
        .map_err(system(file.display().to_string()))?;
    let judgement = judge(&history, &Rules { work: options.steps, ..Rules::default() });
    let mut report = Report {
        seed: options.seed,
        nodes: options.nodes,
        seconds,
        interrupted: interrupted.load(Ordering::Relaxed),
        faults: done.faults.into_iter().map(|(kind, n)| (kind.name(), n)).collect(),
        peer_connections,
        peer_bytes,
        healed_s,
        problems,
        judgement,
        kept: None,
    };
    if options.keep || !report.is_fine() {
        if let Some(text) = &report.judgement.counterexample_text {
            let file = folder.path().join("counterexample.jsonl");
            std::fs::write(&file, text).map_err(system(file.display().to_string()))?;
        }
        report.kept = Some(folder.keep());
    }
    Ok(report)
}

/// Judges a history that was kept.
///
/// # Errors
/// It cannot be read, or is none.
pub fn check_file(file: &Path, steps: u64) -> Result<Judgement, ChaosError> {
    let text = std::fs::read_to_string(file).map_err(system(file.display().to_string()))?;
    let history = History::from_text(&text)
        .map_err(|error| ChaosError::Cluster(format!("{}: {error}", file.display())))?;
    Ok(judge(&history, &Rules { work: steps, ..Rules::default() }))
}

/// Set from the first SIGINT or SIGTERM on, which end nothing by themselves any more.
///
/// # Errors
/// The system refuses.
pub fn watch_interrupts() -> Result<Arc<AtomicBool>, ChaosError> {
    let signals = interrupts();
    let doing = || system("watching for interrupts");
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&signals), None)
        .map_err(|error| doing()(error.into()))?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&interrupted);
    let watch = move || {
        while signals.wait().is_ok() {
            seen.store(true, Ordering::Relaxed);
        }
    };
    std::thread::Builder::new().name("interrupts".to_owned()).spawn(watch).map_err(doing())?;
    Ok(interrupted)
}

/// What was done to a cluster.
#[derive(Debug, Default)]
struct Done {
    faults: BTreeMap<Kind, u64>,
    /// Each step with its time, as comments for the history.
    timeline: String,
}

/// Takes the steps of a plan, each at its time or when the one before is done, and notes what was
/// done, also when it fails.
fn disturb(
    nodes: &mut Nodes,
    plan: &Plan,
    (epoch, until): (Instant, Duration),
    interrupted: &AtomicBool,
    done: &mut Done,
) -> Result<(), ChaosError> {
    // What takes long moves all that follows: the calm between rounds is not given up.
    let mut late = Duration::ZERO;
    for step in &plan.steps {
        let due = Duration::from_millis(step.at_ms) + late;
        if !wait(nodes, epoch, due, interrupted)? {
            return Ok(());
        }
        let begin = Instant::now();
        if let Some(kind) = step.begins {
            *done.faults.entry(kind).or_default() += 1;
        }
        let _ = writeln!(done.timeline, "# {:>13} {:?}", epoch.elapsed().as_nanos(), step.action);
        take(nodes, step)?;
        late += begin.elapsed();
    }
    wait(nodes, epoch, until, interrupted).map(drop)
}

/// Waits for a moment of the run; false when it was interrupted.
fn wait(
    nodes: &mut Nodes,
    epoch: Instant,
    due: Duration,
    interrupted: &AtomicBool,
) -> Result<bool, ChaosError> {
    while epoch.elapsed() < due {
        if interrupted.load(Ordering::Relaxed) {
            return Ok(false);
        }
        nodes.look()?;
        std::thread::sleep(due.saturating_sub(epoch.elapsed()).min(SLICE));
    }
    Ok(!interrupted.load(Ordering::Relaxed))
}

fn take(nodes: &mut Nodes, step: &Step) -> Result<(), ChaosError> {
    match step.action {
        Action::Kill(node) => nodes.kill(node),
        Action::Terminate(node) => nodes.terminate(node),
        Action::Start(node) => nodes.restart(node),
        Action::Await(node) => nodes.until_serving(node),
        Action::Freeze(node) => nodes.freeze(node),
        Action::Thaw(node) => nodes.thaw(node),
        Action::Link(from, to, state) => {
            nodes.links.set(from, to, state);
            Ok(())
        }
        Action::Reset(a, b) => {
            nodes.links.reset(a, b);
            Ok(())
        }
    }
}
