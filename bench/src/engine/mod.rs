//! Runs a scenario: threads, connections, and the clock they share.
//!
//! Each thread is one monoio runtime (io_uring) with its share of the connections and of the
//! schedule; threads share nothing while they run. The coordinating thread sleeps, and looks at
//! the server's CPU time and counters where the window begins and ends.

mod connection;
mod thread;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::error::BenchError;
use crate::protocol::Target;
use crate::recorder::{Recorder, Window};
use crate::scenario::{Mode, Scenario};
use crate::system::{Clock, ThreadTimes, process_cpu_ns};
use crate::units;
use crate::workload::OpKind;

/// Time between the last connection's handshake and the first request.
const START_DELAY: Duration = Duration::from_millis(20);
/// How often progress is shown.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// What one thread is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Put every key once, as fast as replies allow; nothing is measured.
    Prefill,
    /// The scenario itself.
    Measure,
}

/// What a generator thread used of its CPU inside the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadUse {
    /// Wall time between the two looks.
    pub wall_ns: u64,
    /// CPU and waiting time.
    pub times: ThreadTimes,
}

/// What a run gave.
#[derive(Clone, Debug)]
pub struct Measured {
    /// All threads' records.
    pub recorder: Recorder,
    /// Each thread's use of its CPU.
    pub threads: Vec<ThreadUse>,
    /// CPU time the server used inside the window, if its process is known.
    pub server_cpu_ns: Option<u64>,
    /// The server's counters where the window began and ended.
    pub stats: Option<(Value, Value)>,
}

/// What a run needs beyond the scenario.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings {
    /// Process of the server, to account its CPU.
    pub server_pid: Option<u32>,
    /// Show nothing while running.
    pub quiet: bool,
}

/// When a phase starts and what of it is measured; told to all threads once all are connected.
#[derive(Clone, Copy, Debug)]
struct Timing {
    start_ns: u64,
    window: Window,
}

/// Puts every key once.
///
/// # Errors
/// The server cannot be reached, refuses a put, or stops answering.
pub fn prefill<T: Target>(
    target: &T,
    scenario: &Scenario,
    seed: u64,
    quiet: bool,
) -> Result<(), BenchError> {
    let mut filling = scenario.clone();
    filling.load.mode = Mode::Closed;
    filling.load.pipeline = filling.load.pipeline.max(16);
    let run = Run::start(target, &filling, seed, Phase::Prefill)?;
    let bar = progress(quiet, scenario.keys.count, "keys");
    while !run.handles.iter().all(std::thread::JoinHandle::is_finished) {
        bar.set_position(run.replies.load(Ordering::Relaxed));
        std::thread::sleep(PROGRESS_EVERY);
    }
    bar.finish_and_clear();
    let (recorder, _) = run.join()?;
    if let Some((reason, count)) = recorder.counts().refused.iter().next() {
        return Err(BenchError::Server(format!("prefill: {count} puts were refused: {reason}")));
    }
    Ok(())
}

/// Runs the scenario's measured phase once. Prefilling is the caller's.
///
/// # Errors
/// The server cannot be reached, breaks a connection, or does not speak the protocol.
pub fn measure<T: Target>(
    target: &T,
    scenario: &Scenario,
    seed: u64,
    around: Surroundings,
) -> Result<Measured, BenchError> {
    let run = Run::start(target, scenario, seed, Phase::Measure)?;
    let window = run.timing.window;
    let bar = progress(around.quiet, units::ns(scenario.warmup + scenario.duration), "ns");
    let look = || -> Result<_, BenchError> {
        let cpu = around.server_pid.map(|pid| {
            process_cpu_ns(pid).map_err(BenchError::system(format!("CPU time of process {pid}")))
        });
        Ok((cpu.transpose()?, target.stats()?))
    };
    run.wait_until(window.start_ns, &bar);
    let before = look();
    run.wait_until(window.end_ns, &bar);
    let after = look();
    bar.finish_and_clear();
    // A server that died explains failed looks better than the looks themselves.
    let (recorder, threads) = run.join()?;
    let ((cpu_before, stats_before), (cpu_after, stats_after)) = (before?, after?);
    Ok(Measured {
        recorder,
        threads,
        server_cpu_ns: cpu_before.zip(cpu_after).map(|(a, b)| b.saturating_sub(a)),
        stats: stats_before.zip(stats_after),
    })
}

type ThreadResult = Result<(Recorder, ThreadUse), BenchError>;

/// Threads at work.
struct Run {
    clock: Clock,
    timing: Timing,
    handles: Vec<std::thread::JoinHandle<ThreadResult>>,
    replies: Arc<AtomicU64>,
}

impl Run {
    fn start<T: Target>(
        target: &T,
        scenario: &Scenario,
        seed: u64,
        phase: Phase,
    ) -> Result<Run, BenchError> {
        let clock = Clock::start();
        let replies = Arc::new(AtomicU64::new(0));
        let (ready_tx, ready) = mpsc::channel();
        let mut handles = Vec::new();
        let mut starts = Vec::new();
        for index in 0..scenario.load.threads {
            let (start_tx, start) = mpsc::channel();
            starts.push(start_tx);
            let job = thread::Job {
                target: target.clone(),
                scenario: scenario.clone(),
                seed,
                phase,
                index,
                clock,
                replies: Arc::clone(&replies),
            };
            let ready = ready_tx.clone();
            let handle = std::thread::Builder::new()
                .name(format!("generator-{index}"))
                .spawn(move || job.run(&ready, &start))
                .map_err(BenchError::system("starting a generator thread"))?;
            handles.push(handle);
        }
        drop(ready_tx);
        let mut timing =
            Timing { start_ns: 0, window: Window { start_ns: u64::MAX, end_ns: u64::MAX } };
        let connected = ready.iter().take(handles.len()).count() == handles.len();
        if connected {
            timing.start_ns = clock.now_ns() + units::ns(START_DELAY);
            if phase == Phase::Measure {
                let start_ns = timing.start_ns + units::ns(scenario.warmup);
                let end_ns = start_ns + units::ns(scenario.duration);
                timing.window = Window { start_ns, end_ns };
            }
            for start in &starts {
                // A thread that is gone says why when it is joined.
                let _ = start.send(timing);
            }
        }
        drop(starts);
        let run = Run { clock, timing, handles, replies };
        if connected { Ok(run) } else { Err(run.join().err().unwrap_or_else(not_connected)) }
    }

    /// Sleeps, showing progress, until a time of the run or until a thread has ended early.
    fn wait_until(&self, at_ns: u64, bar: &ProgressBar) {
        loop {
            let now_ns = self.clock.now_ns();
            let early = self.handles.iter().any(std::thread::JoinHandle::is_finished);
            if now_ns >= at_ns || early {
                return;
            }
            bar.set_position(now_ns.saturating_sub(self.timing.start_ns));
            bar.set_message(format!("{} replies", self.replies.load(Ordering::Relaxed)));
            self.clock.sleep_until(at_ns.min(now_ns + units::ns(PROGRESS_EVERY)));
        }
    }

    /// Waits for all threads and adds up what they saw; the first failure wins.
    fn join(self) -> Result<(Recorder, Vec<ThreadUse>), BenchError> {
        let mut sum: Option<Recorder> = None;
        let mut uses = Vec::new();
        let mut failure = None;
        for handle in self.handles {
            match handle.join().expect("a panic in any thread aborts the process or fails the test")
            {
                Ok((recorder, used)) => {
                    uses.push(used);
                    match &mut sum {
                        Some(sum) => sum.merge(&recorder),
                        None => sum = Some(recorder),
                    }
                }
                Err(error) => {
                    failure.get_or_insert(error);
                }
            }
        }
        match (failure, sum) {
            (None, Some(sum)) => Ok((sum, uses)),
            (Some(failure), _) => Err(failure),
            (None, None) => Err(not_connected()),
        }
    }
}

fn not_connected() -> BenchError {
    BenchError::Server("not every thread could connect".to_owned())
}

fn progress(quiet: bool, length: u64, unit: &str) -> ProgressBar {
    let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(length) };
    let template = match unit {
        "ns" => "{wide_bar} {percent}% {msg}",
        _ => "{wide_bar} {pos}/{len} keys",
    };
    bar.set_style(ProgressStyle::with_template(template).expect("the templates are constants"));
    bar
}

/// Records one operation of this kind stands for: a topic append carries many.
#[must_use]
pub fn records_per_op(scenario: &Scenario, kind: OpKind) -> u64 {
    match (kind, scenario.protocol) {
        (OpKind::Append, crate::scenario::ProtocolName::Ironring) => {
            scenario.topic.records_per_append as u64
        }
        _ => 1,
    }
}
