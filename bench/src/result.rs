//! Result files: everything needed to judge a figure and to measure it again.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::counters;
use crate::engine::{Measured, records_per_op};
use crate::error::BenchError;
use crate::floor::FloorResult;
use crate::host::Host;
use crate::latency::Latency;
use crate::peers::PeersResult;
use crate::scenario::{Mode, Scenario};
use crate::selfcheck::{Evidence, SelfCheck};
use crate::study::StudyResult;
use crate::sweep::SweepResult;
use crate::units::show_bytes;
use crate::workload::OpKind;

/// Version of the result format; readers refuse others.
pub const FORMAT: u32 = 1;

/// Where and by what a result was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of the generator.
    pub version: String,
    /// Commit the generator was built from.
    pub commit: String,
    /// Whether the generator was built with optimizations.
    pub optimized: bool,
    /// When, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// On what.
    pub host: Host,
}

impl Provenance {
    /// Here and now.
    #[must_use]
    pub fn here(data: &Path) -> Provenance {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Provenance {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: env!("IRONRING_BENCH_COMMIT").to_owned(),
            optimized: !cfg!(debug_assertions),
            unix_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
            host: Host::look(data),
        }
    }

    /// The machine and the build in one line.
    #[must_use]
    pub fn line(&self) -> String {
        let host = &self.host;
        format!(
            "{} x {}, Linux {}, {} of memory, {}, disk {} ({}, write cache {}); commit {}{}",
            host.cores,
            host.cpu,
            host.kernel,
            show_bytes(host.memory_bytes as f64),
            host.filesystem,
            host.disk.name,
            host.disk.scheduler,
            host.disk.write_cache,
            self.commit,
            if self.optimized { "" } else { ", A DEBUG BUILD" }
        )
    }
}

/// One kind of operation in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KindResult {
    /// Replies per second.
    pub per_s: f64,
    /// From the intended send time; open loop only.
    pub response: Option<Latency>,
    /// From the actual send time.
    pub service: Option<Latency>,
}

/// One interval of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Its beginning, in seconds of the window.
    pub at_s: f64,
    /// Replies per second.
    pub per_s: f64,
    /// Median, from the intended time in an open loop.
    pub p50_ns: u64,
    /// 99 %.
    pub p99_ns: u64,
    /// Largest.
    pub max_ns: u64,
}

/// What the server spent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerUse {
    /// CPU microseconds per reply.
    pub cpu_us_per_op: Option<f64>,
    /// CPUs in use on average.
    pub cpu_share: Option<f64>,
    /// Growth of each of the server's counters in the window.
    pub counters: BTreeMap<String, f64>,
    /// Syncs per second, when the server counts them.
    pub syncs_per_s: Option<f64>,
    /// Records written per sync, when the server counts them.
    pub records_per_sync: Option<f64>,
}

/// Result of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// The scenario, with every override applied.
    pub scenario: Scenario,
    /// The seed in use.
    pub seed: u64,
    /// Length of the window.
    pub window_s: f64,
    /// Requests per second the schedule asked for in the window; open loop only. The scenario
    /// has the nominal rate.
    pub offered_per_s: Option<f64>,
    /// Replies per second inside the window, refusals not counted.
    pub achieved_per_s: f64,
    /// Records per second: more than replies where one request carries many.
    pub records_per_s: f64,
    /// Reads and deletes of keys that do not exist.
    pub missing: u64,
    /// Requests without a reply in time.
    pub timeouts: u64,
    /// Scheduled requests never sent.
    pub sheds: u64,
    /// Replies after their timeout.
    pub late_replies: u64,
    /// Refusals by reason, those of the warm-up included.
    pub refused: BTreeMap<String, u64>,
    /// From the intended send time; open loop only.
    pub response: Option<Latency>,
    /// From the actual send time.
    pub service: Option<Latency>,
    /// Each kind of operation.
    pub kinds: BTreeMap<String, KindResult>,
    /// The course over time.
    pub course: Vec<Interval>,
    /// The generator's view of itself.
    pub self_check: SelfCheck,
    /// What the server spent.
    pub server: ServerUse,
}

impl RunResult {
    /// Puts together what a run measured.
    #[must_use]
    pub fn of(scenario: &Scenario, seed: u64, measured: &Measured) -> RunResult {
        let recorder = &measured.recorder;
        let counts = recorder.counts();
        let window_s = recorder.window().length_ns() as f64 / 1e9;
        let open = scenario.load.mode == Mode::Open;
        let (response, service) = recorder.all_latency();
        let (response, service) = (response.as_ref().and_then(Latency::of), Latency::of(&service));
        let records: u64 = OpKind::ALL
            .iter()
            .map(|k| counts.completed_by_kind[k.index()] * records_per_op(scenario, *k))
            .sum();
        let refused = counts.refused.values().sum();
        // Every request due in the window is in the histogram or was refused. The nominal rate
        // would blame the server for the randomness of a short Poisson schedule.
        let scheduled = response.as_ref().map_or(0, |latency| latency.count) + refused;
        let offered_per_s = open.then(|| scheduled as f64 / window_s);
        let self_check = SelfCheck::of(Evidence {
            threads: &measured.threads,
            spinning: scenario.load.spin,
            lag: if open { Latency::of(recorder.lag()) } else { None },
            p99_ns: response.as_ref().or(service.as_ref()).map_or(0, |latency| latency.p99_ns),
            completed: counts.completed,
            scheduled: if open { scheduled } else { 0 },
            sheds: counts.sheds,
            timeouts: counts.timeouts,
            refused,
        });
        RunResult {
            scenario: scenario.clone(),
            seed,
            window_s,
            offered_per_s,
            achieved_per_s: counts.completed as f64 / window_s,
            records_per_s: records as f64 / window_s,
            missing: counts.missing,
            timeouts: counts.timeouts,
            sheds: counts.sheds,
            late_replies: counts.late_replies,
            refused: counts.refused.clone(),
            response,
            service,
            kinds: kinds(measured, window_s),
            course: course(measured),
            self_check,
            server: server_use(scenario, measured, window_s),
        }
    }

    /// The latency a reader should look at: from the intended time where there is one.
    #[must_use]
    pub fn latency(&self) -> Option<&Latency> {
        self.response.as_ref().or(self.service.as_ref())
    }
}

fn kinds(measured: &Measured, window_s: f64) -> BTreeMap<String, KindResult> {
    let recorder = &measured.recorder;
    OpKind::ALL
        .iter()
        .filter_map(|kind| {
            let latency = recorder.kind_latency(*kind)?;
            let completed = recorder.counts().completed_by_kind[kind.index()];
            let result = KindResult {
                per_s: completed as f64 / window_s,
                response: Latency::of(&latency.response),
                service: Latency::of(&latency.service),
            };
            Some((kind.name().to_owned(), result))
        })
        .collect()
}

fn course(measured: &Measured) -> Vec<Interval> {
    let window = measured.recorder.window();
    let interval_ns = window.interval_ns();
    measured
        .recorder
        .intervals()
        .iter()
        .enumerate()
        .map(|(index, histogram)| {
            let from_ns = index as u64 * interval_ns;
            let length_ns = interval_ns.min(window.length_ns() - from_ns);
            Interval {
                at_s: from_ns as f64 / 1e9,
                per_s: histogram.len() as f64 * 1e9 / length_ns as f64,
                p50_ns: histogram.value_at_quantile(0.5),
                p99_ns: histogram.value_at_quantile(0.99),
                max_ns: histogram.max(),
            }
        })
        .collect()
}

fn server_use(scenario: &Scenario, measured: &Measured, window_s: f64) -> ServerUse {
    let counts = measured.recorder.counts();
    let cpu_us = measured.server_cpu_ns.map(|ns| ns as f64 / 1e3);
    let counters = measured.stats.as_ref().map_or(BTreeMap::new(), |(a, b)| counters::deltas(a, b));
    let syncs = counters::syncs(&counters);
    let written: u64 = OpKind::ALL
        .iter()
        .filter(|kind| kind.writes())
        .map(|kind| counts.completed_by_kind[kind.index()] * records_per_op(scenario, *kind))
        .sum();
    ServerUse {
        cpu_us_per_op: cpu_us.map(|us| us / counts.completed.max(1) as f64),
        cpu_share: cpu_us.map(|us| us / 1e6 / window_s),
        syncs_per_s: syncs.map(|n| n / window_s),
        records_per_sync: syncs.filter(|n| *n > 0.0).map(|n| written as f64 / n),
        counters,
    }
}

/// A result file of any kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultFile {
    /// Where and by what it was measured.
    pub provenance: Provenance,
    /// What was measured.
    pub content: Content,
}

/// What a result file holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// One run.
    Run(Box<RunResult>),
    /// A search for the rate a server sustains.
    Sweep(Box<SweepResult>),
    /// What disk and network give.
    Floor(Box<FloorResult>),
    /// Servers side by side.
    Peers(Box<PeersResult>),
    /// A question about a node that took more than one run.
    Study(Box<StudyResult>),
}

/// A result as JSON.
///
/// # Errors
/// It holds something JSON has no words for.
pub fn json(result: &impl Serialize) -> Result<String, BenchError> {
    serde_json::to_string_pretty(result).map_err(|e| BenchError::System {
        doing: "writing a result as JSON".to_owned(),
        source: e.into(),
    })
}

/// Writes a result as JSON, replacing the file only once it is whole.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, result: &impl Serialize) -> Result<(), BenchError> {
    let text = json(result)?;
    let partial = path.with_extension("partial");
    std::fs::write(&partial, text + "\n").map_err(BenchError::file(&partial))?;
    std::fs::rename(&partial, path).map_err(BenchError::file(path))
}

/// Reads a result.
///
/// # Errors
/// The file cannot be read or is no result of this format.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, BenchError> {
    let text = std::fs::read_to_string(path).map_err(BenchError::file(path))?;
    serde_json::from_str(&text)
        .map_err(|e| BenchError::Usage(format!("{}: not a result file: {e}", path.display())))
}

/// A finished run with made-up figures, for tests of what is done with results.
#[cfg(test)]
pub fn example() -> RunResult {
    use crate::engine::ThreadUse;
    use crate::lane::Pending;
    use crate::recorder::{Outcome, Recorder, Window};
    use crate::system::ThreadTimes;

    let mut scenario = Scenario { name: "example".to_owned(), ..Scenario::default() };
    scenario.check().expect("the default scenario is valid");
    let window = Window { start_ns: 0, end_ns: 10_000_000_000 };
    let mut recorder = Recorder::new(window, true);
    for i in 0..10_000_u64 {
        let at_ns = i * 1_000_000;
        let request = Pending { kind: OpKind::Put, intended_ns: at_ns, sent_ns: at_ns };
        recorder.reply(request, Outcome::Ok, at_ns + 100_000 + i * 10);
    }
    let times = ThreadTimes { cpu_ns: 1_000_000_000, wait_ns: Some(0) };
    let measured = Measured {
        recorder,
        threads: vec![ThreadUse { wall_ns: 10_000_000_000, times }],
        server_cpu_ns: Some(2_000_000_000),
        stats: None,
    };
    RunResult::of(&scenario, 1, &measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_has_rates_shares_and_a_course() {
        let run = example();
        assert!((run.achieved_per_s - 1000.0).abs() < 1.0);
        assert_eq!(run.offered_per_s, Some(1000.0));
        assert!((run.server.cpu_us_per_op.unwrap() - 200.0).abs() < 1.0);
        assert!((run.server.cpu_share.unwrap() - 0.2).abs() < 1e-9);
        assert_eq!(run.course.len(), 10);
        assert!(run.course.iter().all(|i| (i.per_s - 1000.0).abs() <= 1.0));
        assert!(run.course[0].p50_ns > 100_000 && run.course[9].max_ns < 203_000);
        assert!(run.kinds.contains_key("put") && run.kinds.len() == 1);
        assert!(run.self_check.is_clean() && run.self_check.caveats.is_empty());
    }

    #[test]
    fn result_files_read_back_and_others_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.json");
        let file = ResultFile {
            provenance: Provenance::here(folder.path()),
            content: Content::Run(Box::new(example())),
        };
        write(&path, &file).unwrap();
        let again = folder.path().join("again.json");
        write(&again, &read::<ResultFile>(&path).unwrap()).unwrap();
        let text = |path| std::fs::read_to_string(path).unwrap();
        assert_eq!(text(&path), text(&again));
        std::fs::write(&path, "{}").unwrap();
        assert!(read::<ResultFile>(&path).unwrap_err().is_usage());
    }
}
