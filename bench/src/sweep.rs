//! `sweep`: the highest rate a server sustains (the knee), then latency at parts of it. A latency
//! means little without the load it was measured at, and a peak throughput little without the
//! latency it costs.

use serde::{Deserialize, Serialize};

use crate::cli::SweepArgs;
use crate::engine::Surroundings;
use crate::error::BenchError;
use crate::render::{PERCENTILE_HEADINGS, Table, percentiles};
use crate::result::{self, Content, Provenance, ResultFile, RunResult};
use crate::run::{Phases, Verdict, execute, seed_of};
use crate::scenario::{Mode, Scenario};
use crate::selfcheck::ACHIEVED_MIN;
use crate::units::{self, show_ns, show_rate};

/// The search ends when the knee is known to this factor.
const PRECISION: f64 = 1.05;
/// Most steps of a search.
const STEPS_MAX: usize = 24;
/// A server that does not sustain this rate has no knee worth naming.
const RATE_MIN: f64 = 1.0;
/// Without a limit of the user's: how far p99 may rise above that of the first sustained rate.
const P99_GROWTH_MAX: u64 = 10;
/// Parts of the knee that are measured at length, in percent.
const LEVELS: [u32; 3] = [50, 70, 90];

/// Looks for the highest sustained rate: doubles until one fails, then halves the ratio between
/// the best and the worst known. No I/O.
#[derive(Clone, Debug)]
pub struct KneeSearch {
    next: f64,
    sustained: Option<f64>,
    failed: Option<f64>,
    steps: usize,
}

impl KneeSearch {
    /// A search that begins at `from`.
    #[must_use]
    pub fn new(from: f64) -> KneeSearch {
        KneeSearch { next: from, sustained: None, failed: None, steps: 0 }
    }

    /// The rate to try; `None` when the search is over.
    #[must_use]
    pub fn next(&self) -> Option<f64> {
        let close = self.sustained.zip(self.failed).is_some_and(|(s, f)| f / s <= PRECISION);
        (!close && self.steps < STEPS_MAX && self.next >= RATE_MIN).then_some(self.next)
    }

    /// How the rate that was tried went.
    pub fn tried(&mut self, sustained: bool) {
        self.steps += 1;
        if sustained {
            self.sustained = Some(self.next);
        } else {
            self.failed = Some(self.next);
        }
        self.next = match (self.sustained, self.failed) {
            (Some(sustained), Some(failed)) => (sustained * failed).sqrt(),
            (Some(sustained), None) => sustained * 2.0,
            (None, _) => self.next / 2.0,
        };
    }

    /// The highest rate known to be sustained.
    #[must_use]
    pub fn knee(&self) -> Option<f64> {
        self.sustained
    }
}

/// Why a rate is not sustained; `None` when it is. A disturbed generator is no reason: what the
/// server did all the same, it can do.
#[must_use]
pub fn shortfall(run: &RunResult, p99_max_ns: Option<u64>) -> Option<String> {
    let offered = run.offered_per_s.unwrap_or(run.achieved_per_s);
    let lost = run.timeouts + run.sheds + run.refused.values().sum::<u64>();
    if run.achieved_per_s < offered * ACHIEVED_MIN {
        let share = run.achieved_per_s / offered * 100.0;
        return Some(format!("{share:.1} % of the rate was reached"));
    }
    if lost > 0 {
        return Some(format!("{lost} requests were not answered well"));
    }
    let p99_ns = run.latency().map_or(u64::MAX, |latency| latency.p99_ns);
    if p99_max_ns.is_some_and(|max| p99_ns > max) {
        return Some(format!("p99 was {}", show_ns(p99_ns)));
    }
    None
}

/// One rate that was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Requests per second.
    pub rate: f64,
    /// Why it is not sustained; `None` when it is.
    pub shortfall: Option<String>,
    /// What was measured.
    pub run: RunResult,
}

/// A part of the knee, measured at length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// Percent of the knee.
    pub percent: u32,
    /// What was measured.
    pub run: RunResult,
}

/// Result of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SweepResult {
    /// Highest sustained rate; `None` when not even the lowest was.
    pub knee_per_s: Option<f64>,
    /// The p99 above which a rate counted as not sustained.
    pub p99_max_ns: Option<u64>,
    /// True when the generator may have been what ended the search: the server can do more.
    pub generator_limited: bool,
    /// Every step, in the order it was tried. A rate that fails is tried twice.
    pub steps: Vec<Step>,
    /// 50, 70 and 90 % of the knee.
    pub levels: Vec<Level>,
}

/// Runs the scenario of a sweep at one rate after the other.
struct Sweep {
    scenario: Scenario,
    seed: u64,
    around: Surroundings,
    quiet: bool,
    result: SweepResult,
}

impl Sweep {
    fn at(&self, rate: f64, duration: std::time::Duration) -> Result<RunResult, BenchError> {
        let mut scenario = self.scenario.clone();
        scenario.load.rate = rate;
        scenario.duration = duration;
        let measured = execute(&scenario, self.seed, self.around, Phases::Measure)?
            .expect("Phases::Measure measures");
        Ok(RunResult::of(&scenario, self.seed, &measured))
    }

    fn search(&mut self, from: f64, step: std::time::Duration) -> Result<(), BenchError> {
        let mut search = KneeSearch::new(from);
        while let Some(rate) = search.next() {
            // A neighbour's burst must not end the search: only what fails twice has failed.
            let sustained = self.step(rate, step)? || self.step(rate, step)?;
            search.tried(sustained);
        }
        self.result.knee_per_s = search.knee();
        self.result.generator_limited = generator_limited(&self.result.steps, search.failed);
        Ok(())
    }

    fn step(&mut self, rate: f64, duration: std::time::Duration) -> Result<bool, BenchError> {
        let run = self.at(rate, duration)?;
        let shortfall = shortfall(&run, self.result.p99_max_ns);
        let sustained = shortfall.is_none();
        if !self.quiet {
            let mut verdict = shortfall.clone().unwrap_or_else(|| "sustained".to_owned());
            if !run.self_check.is_clean() {
                verdict += " (generator disturbed)";
            }
            let p99 = run.latency().map_or("-".to_owned(), |l| show_ns(l.p99_ns));
            eprintln!("{:>10}  p99 {p99:>8}  {verdict}", show_rate(rate));
        }
        if sustained && self.result.p99_max_ns.is_none() {
            let p99_ns = run.latency().map(|latency| latency.p99_ns);
            self.result.p99_max_ns = p99_ns.map(|p99| p99.saturating_mul(P99_GROWTH_MAX));
        }
        self.result.steps.push(Step { rate, shortfall, run });
        Ok(sustained)
    }
}

/// Whether the lowest rate that failed failed with an unclean run.
fn generator_limited(steps: &[Step], failed: Option<f64>) -> bool {
    let last = steps.iter().rfind(|step| Some(step.rate) == failed);
    last.is_some_and(|step| !step.run.self_check.is_clean())
}

/// The command.
///
/// # Errors
/// The server cannot be reached or misbehaves.
pub fn command(args: SweepArgs) -> Result<Verdict, BenchError> {
    let mut scenario = args.overrides.resolve(args.scenario.as_ref())?;
    if !(args.from.is_finite() && args.from >= RATE_MIN) {
        return Err(BenchError::Usage(format!("--from {}: at least {RATE_MIN}", args.from)));
    }
    scenario.load.mode = Mode::Open;
    scenario.load.rate = args.from;
    scenario.check()?;
    let seed = seed_of(&scenario);
    let around = Surroundings { server_pid: args.server_pid, quiet: true };
    execute(&scenario, seed, around, Phases::Prefill)?;
    let duration = scenario.duration;
    let result = SweepResult {
        knee_per_s: None,
        p99_max_ns: args.p99_max.map(units::ns),
        generator_limited: false,
        steps: Vec::new(),
        levels: Vec::new(),
    };
    let mut sweep = Sweep { scenario, seed, around, quiet: args.output.quiet, result };
    sweep.search(args.from, args.step)?;
    for percent in LEVELS {
        if let Some(knee) = sweep.result.knee_per_s {
            let run = sweep.at(knee * f64::from(percent) / 100.0, duration)?;
            sweep.result.levels.push(Level { percent, run });
        }
    }
    let result = sweep.result;
    print!("{}", table(&result));
    let clean = !result.generator_limited
        && result.levels.iter().all(|level| level.run.self_check.is_clean());
    if let Some(out) = &args.output.out {
        let provenance = Provenance::here(&args.output.data_path);
        result::write(out, &ResultFile { provenance, content: Content::Sweep(Box::new(result)) })?;
    }
    Ok(if clean { Verdict::Good } else { Verdict::Doubtful })
}

/// A sweep as a person reads it.
#[must_use]
pub fn table(result: &SweepResult) -> String {
    let Some(knee) = result.knee_per_s else {
        return "no rate was sustained\n".to_owned();
    };
    let mut table = Table::new(&[&["of the knee", "rate"], &PERCENTILE_HEADINGS[..]].concat());
    for level in &result.levels {
        let unclean = if level.run.self_check.is_clean() { "" } else { " NOT CLEAN" };
        let cells =
            [format!("{} %{unclean}", level.percent), show_rate(level.run.scenario.load.rate)];
        table.row(cells.into_iter().chain(percentiles(level.run.latency())));
    }
    let limit = if result.generator_limited {
        " or more: the generator was the limit (try --spin, --threads, or an idle CPU)"
    } else {
        ""
    };
    format!("knee: {}{limit}\n{}", show_rate(knee), table.show())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(from: f64, capacity: f64) -> (Option<f64>, usize) {
        let mut search = KneeSearch::new(from);
        let mut steps = 0;
        while let Some(rate) = search.next() {
            search.tried(rate <= capacity);
            steps += 1;
        }
        (search.knee(), steps)
    }

    #[test]
    fn the_knee_is_found_from_below_and_from_above() {
        for from in [10.0, 1000.0, 1_000_000.0] {
            let (knee, steps) = search(from, 43_210.0);
            let knee = knee.unwrap();
            assert!(knee <= 43_210.0 && knee * PRECISION >= 43_210.0, "{from}: {knee}");
            assert!(steps <= STEPS_MAX, "{steps}");
        }
    }

    #[test]
    fn a_search_ends_even_when_everything_or_nothing_is_sustained() {
        assert_eq!(search(1000.0, 0.0).0, None);
        assert_eq!(search(1000.0, f64::INFINITY).1, STEPS_MAX);
    }

    #[test]
    fn each_way_to_fall_short_is_told() {
        let good = crate::result::example();
        assert_eq!(shortfall(&good, None), None);
        let p99_ns = good.latency().unwrap().p99_ns;
        assert_eq!(shortfall(&good, Some(p99_ns)), None);
        assert!(shortfall(&good, Some(p99_ns - 1)).unwrap().contains("p99"));
        let mut slow = good.clone();
        slow.achieved_per_s *= 0.9;
        assert!(shortfall(&slow, None).unwrap().contains("90.0 %"));
        let mut lossy = good.clone();
        lossy.sheds = 1;
        assert!(shortfall(&lossy, None).is_some());
        let mut starved = good;
        starved.self_check.bottleneck.push("starved".to_owned());
        assert_eq!(shortfall(&starved, None), None);
    }

    #[test]
    fn the_generator_is_blamed_only_for_the_rate_that_ended_the_search() {
        let step = |rate: f64, clean: bool| {
            let mut run = crate::result::example();
            if !clean {
                run.self_check.bottleneck.push("starved".to_owned());
            }
            Step { rate, shortfall: Some(String::new()), run }
        };
        let steps = [step(1000.0, false), step(4000.0, true), step(2000.0, true)];
        assert!(!generator_limited(&steps, Some(2000.0)));
        assert!(generator_limited(&steps, Some(1000.0)));
        assert!(!generator_limited(&steps, None));
    }
}
