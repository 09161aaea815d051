//! Runs many seeds of a simulation, counts what happened in them, and names the first that fails.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use ironring_tests::sim::profile::Trouble;
use ironring_tests::sim::runs::{self, Target};
use ironring_tests::sim::trace::Coverage;
use ironring_tests::sim::world::{RECOVERIES, Report};

/// Runs the deterministic simulator.
#[derive(Debug, Parser)]
struct Options {
    /// Which seeds, first included, last excluded.
    #[arg(long, default_value = "0..200", value_parser = parse_range)]
    seeds: (u64, u64),
    /// What goes wrong: calm, crash, disk-faults, corruption, full, or all.
    #[arg(long, default_value = "all", value_parser = parse_profile)]
    profile: Profiles,
    /// What is simulated: log, shard, node, or replicas.
    #[arg(long, default_value = "node", value_parser = parse_target)]
    target: Target,
    /// Threads to run seeds on.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Run this seed alone, twice, and compare.
    #[arg(long)]
    replay: Option<u64>,
    /// Print the trace of the replayed seed.
    #[arg(long)]
    verbose: bool,
    /// Run every seed although one failed, and name all that fail.
    #[arg(long)]
    keep_going: bool,
}

#[derive(Clone, Debug)]
struct Profiles(Vec<(&'static str, Trouble)>);

fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let (first, end) = text.split_once("..").ok_or("write it as A..B")?;
    let number = |t: &str| t.parse::<u64>().map_err(|e| format!("`{t}`: {e}"));
    Ok((number(first)?, number(end)?))
}

fn parse_profile(text: &str) -> Result<Profiles, String> {
    if text == "all" {
        return Ok(Profiles(Trouble::ALL.to_vec()));
    }
    let known = Trouble::ALL.iter().find(|(name, _)| *name == text);
    known.map(|found| Profiles(vec![*found])).ok_or_else(|| format!("no profile `{text}`"))
}

fn parse_target(text: &str) -> Result<Target, String> {
    Target::named(text).ok_or_else(|| format!("no target `{text}`"))
}

#[derive(Default)]
struct Total {
    runs: u64,
    /// Runs in which the node died with a log on its disks and served again.
    crash_runs: u64,
    steps: u64,
    time_ns: u64,
    coverage: Coverage,
    failures: Vec<(u64, &'static str, String)>,
}

thread_local! {
    /// What this thread runs, for the message of a panic.
    static RUNNING: Cell<(&'static str, u64)> = const { Cell::new(("", 0)) };
}

/// A panic in the code under test ends the process, unless it was built with `panic = "unwind"`:
/// say first which seed it was.
fn name_seed_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let (profile, seed) = RUNNING.get();
        eprintln!("PANIC in profile {profile}, seed {seed}:");
        before(info);
    }));
}

/// One run of a sweep. Where panics unwind, one in the code under test fails its seed and no other.
fn run_one(target: Target, trouble: Trouble, seed: u64) -> Report {
    let run = AssertUnwindSafe(|| runs::run(target, trouble, seed, false));
    std::panic::catch_unwind(run).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Report::failed(format!("panic: {text}"))
    })
}

fn main() -> ExitCode {
    let options = Options::parse();
    name_seed_on_panic();
    match options.replay {
        Some(seed) => replay(&options, seed),
        None => sweep(&options),
    }
}

fn replay(options: &Options, seed: u64) -> ExitCode {
    let mut failed = false;
    for (name, trouble) in &options.profile.0 {
        RUNNING.set((name, seed));
        let report = runs::run(options.target, *trouble, seed, options.verbose);
        let again = runs::run(options.target, *trouble, seed, false);
        println!(
            "{name} seed {seed}: hash {:016x}, {} events, {:.3} s simulated",
            report.hash,
            report.steps,
            report.time_ns as f64 / 1e9
        );
        if again.hash != report.hash {
            println!("  NOT DETERMINISTIC: the second run gave {:016x}", again.hash);
            failed = true;
        }
        if let Some(why) = &report.failure {
            println!("  FAILED: {why}");
            failed = true;
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn sweep(options: &Options) -> ExitCode {
    let (first, end) = options.seeds;
    let began = Instant::now();
    let next = AtomicU64::new(first);
    let stop = AtomicBool::new(false);
    let total = Mutex::new(Total::default());
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    for (name, trouble) in &options.profile.0 {
                        RUNNING.set((name, seed));
                        let report = run_one(options.target, *trouble, seed);
                        let mut total = total.lock().expect("no thread panics");
                        let failed = report.failure.is_some();
                        add(&mut total, seed, name, report);
                        if failed && !options.keep_going {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let mut total = total.into_inner().expect("no thread panics");
    total.failures.sort();
    print(options, &total, began.elapsed().as_secs_f64());
    if total.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn add(total: &mut Total, seed: u64, name: &'static str, report: Report) {
    total.runs += 1;
    total.crash_runs += u64::from(report.coverage.count(RECOVERIES) > 0);
    total.steps += report.steps;
    total.time_ns += report.time_ns;
    total.coverage.merge(&report.coverage);
    if let Some(why) = report.failure {
        total.failures.push((seed, name, why));
    }
}

fn print(options: &Options, total: &Total, seconds: f64) {
    for (name, times) in total.coverage.iter() {
        println!("{times:>12}  {name}");
    }
    println!(
        "{} runs in {seconds:.1} s ({:.1}/s), {} events, {:.0} s simulated, {} failed",
        total.runs,
        total.runs as f64 / seconds,
        total.steps,
        total.time_ns as f64 / 1e9,
        total.failures.len()
    );
    println!(
        "{} crash-and-recover runs ({} recoveries after a crash)",
        total.crash_runs,
        total.coverage.count(RECOVERIES)
    );
    let target = Target::ALL.iter().find(|(_, t)| *t == options.target).map_or("", |(n, _)| n);
    for (seed, name, why) in &total.failures {
        println!("FAILED seed {seed}: {why}");
        println!(
            "  replay: cargo run --release -p ironring-tests --bin sim -- --target {target} \
             --profile {name} --replay {seed} --verbose"
        );
    }
}
