//! `peers`: ironring and other servers, measured in the same run by the same generator.
//!
//! All servers of a scenario run from its beginning to its end, each in a fresh folder on the same
//! disk, pinned to the same CPU; those not being measured are frozen (SIGSTOP). Rounds alternate:
//! A B A B. A round's figures were taken within seconds of each other, so their ratio survives a
//! machine whose speed drifts; ratios are reported with their spread over the rounds.

mod plan;
mod system;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::cli::PeersArgs;
use crate::engine::Surroundings;
use crate::error::BenchError;
use crate::floor::fio::{self, FioResult, PreparedFile};
use crate::render::{Table, bandwidth};
use crate::result::{self, Content, Provenance, ResultFile, RunResult};
use crate::run::{self, Phases};
use crate::scenario::Scenario;
use crate::server::{self, Server};
use crate::system::pin_thread;
use crate::units::{show_ns, show_rate};

use plan::Plan;
pub use system::{Installed, System, find, find_ironring, first_line, nats_can_sync};

/// Size of the file fio works on.
const FIO_FILE_BYTES: u64 = 1 << 30;

/// What `etcdctl check perf` is asked for: 1,000 clients that put at 15,000 a second at most, which
/// is more than it reaches on one CPU.
const ETCDCTL_LOAD: &str = "xl";

/// Smallest, middle and largest of a figure over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Smallest.
    pub min: f64,
    /// Median.
    pub median: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// Of these figures; `None` without any.
    #[must_use]
    pub fn of(mut figures: Vec<f64>) -> Option<Spread> {
        figures.sort_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        let middle = figures.len() / 2;
        let median = if figures.len() % 2 == 1 {
            figures[middle]
        } else {
            f64::midpoint(figures[middle - 1], figures[middle])
        };
        Some(Spread { min, median, max })
    }
}

/// One scenario over all rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerScenario {
    /// Its name.
    pub name: String,
    /// What it shows.
    pub description: String,
    /// Each server's rounds, in order.
    pub rounds: BTreeMap<System, Vec<RunResult>>,
    /// fio in the same rounds, where the scenario is held against the disk.
    pub disk: Vec<FioResult>,
    /// Records per second of the first server over those of each other, round by round.
    pub ratios: BTreeMap<System, Spread>,
    /// Payload bandwidth of the first server over fio's, round by round.
    pub disk_ratio: Option<Spread>,
}

/// Servers side by side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeersResult {
    /// The servers, the first being the one held against the others.
    pub systems: Vec<Installed>,
    /// Those asked for and not measured, and why.
    pub missing: Vec<String>,
    /// The scenarios.
    pub scenarios: Vec<PeerScenario>,
    /// What a peer's own tool says of it, where it was asked for.
    #[serde(default)]
    pub own_tools: Vec<OwnTool>,
}

/// What a peer's own tool says of it: another load by another generator, so no figure to compare
/// with, but a sign of what its own protocol gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnTool {
    /// The peer.
    pub system: System,
    /// How it was run.
    pub command: String,
    /// What it printed.
    pub lines: Vec<String>,
}

/// The command.
///
/// # Errors
/// A server does not start or misbehaves.
pub fn command(args: &PeersArgs) -> Result<(), BenchError> {
    server::clean_up_when_interrupted()?;
    std::fs::create_dir_all(&args.data_root).map_err(BenchError::file(&args.data_root))?;
    let plans = plan::chosen(&args.scenarios)?;
    let mut result = PeersResult {
        systems: Vec::new(),
        missing: Vec::new(),
        scenarios: Vec::new(),
        own_tools: Vec::new(),
    };
    for system in &args.systems {
        match Installed::look(*system, args) {
            Ok(installed) => result.systems.push(installed),
            Err(why) => result.missing.push(why),
        }
    }
    if result.systems.is_empty() {
        return Err(BenchError::Usage(format!(
            "nothing to measure: {}",
            result.missing.join("; ")
        )));
    }
    for plan in plans {
        if let Some(scenario) = measure(&plan, &result.systems, args)? {
            print!("{}", table(&scenario, &result.systems));
            result.scenarios.push(scenario);
        }
    }
    let etcd = result.systems.iter().find(|installed| installed.system == System::Etcd);
    if let (Some(etcd), Some(etcdctl)) = (etcd, &args.etcdctl) {
        let said = etcd_says(etcd, etcdctl, args)?;
        print!("{}", own_tool(&said));
        result.own_tools.push(said);
    }
    for system in &result.systems {
        println!("{}: {} ({})", system.system.name(), system.version, system.settings);
    }
    for why in &result.missing {
        println!("not measured: {why}");
    }
    if let Some(out) = &args.out {
        let provenance = Provenance::here(&args.data_root);
        result::write(out, &ResultFile { provenance, content: Content::Peers(Box::new(result)) })?;
    }
    Ok(())
}

/// Runs etcd's own check on a member of its own.
fn etcd_says(etcd: &Installed, etcdctl: &Path, args: &PeersArgs) -> Result<OwnTool, BenchError> {
    let (server, addr) = etcd.start(&args.data_root, args)?;
    let arguments = ["check", "perf", "--load", ETCDCTL_LOAD];
    let endpoint = format!("--endpoints={addr}");
    let cpu = args.client_cpu;
    let mut command = Command::new(etcdctl);
    command.env("ETCDCTL_API", "3").arg(endpoint).args(arguments);
    // A child inherits its CPU from the thread that starts it.
    let output = std::thread::spawn(move || {
        pin_thread(cpu)?;
        command.output()
    });
    let output = output.join().expect("the closure has nothing to panic with");
    let output = output.map_err(|e| BenchError::Program {
        program: etcdctl.display().to_string(),
        problem: e.to_string(),
    })?;
    drop(server);
    // It exits with a failure when etcd does not reach what it asks for, which is no failure here.
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let said = |line: &&str| ["PASS", "FAIL", "Error"].iter().any(|word| line.starts_with(word));
    let lines = text.split(['\n', '\r']).map(str::trim).filter(said).map(str::to_owned).collect();
    Ok(OwnTool { system: System::Etcd, command: format!("etcdctl {}", arguments.join(" ")), lines })
}

/// What a peer's own tool said, as lines.
#[must_use]
pub fn own_tool(said: &OwnTool) -> String {
    let (name, command) = (said.system.name(), &said.command);
    format!("{name}, its own tool ({command}): {}\n", said.lines.join("; "))
}

/// A server of a scenario.
struct Contender {
    system: System,
    server: Server,
    scenario: Scenario,
}

impl Contender {
    fn run(&mut self, args: &PeersArgs, phases: Phases) -> Result<Option<RunResult>, BenchError> {
        self.server.thaw()?;
        let around = Surroundings { server_pid: Some(self.server.pid()), quiet: args.quiet };
        let measured = run::execute(&self.scenario, args.seed, around, phases)?;
        self.server.freeze()?;
        Ok(measured.map(|measured| RunResult::of(&self.scenario, args.seed, &measured)))
    }
}

/// Measures one scenario on all servers that can do it; `None` when none can.
fn measure(
    plan: &Plan,
    systems: &[Installed],
    args: &PeersArgs,
) -> Result<Option<PeerScenario>, BenchError> {
    let mut contenders = Vec::new();
    for installed in systems {
        let Some(mut scenario) = plan.scenario(installed.system) else { continue };
        let (server, addr) = installed.start(&args.data_root, args)?;
        scenario.addr = addr;
        scenario.duration = args.duration;
        scenario.warmup = args.warmup;
        scenario.load.pin = vec![args.client_cpu];
        scenario.check()?;
        let mut contender = Contender { system: installed.system, server, scenario };
        contender.run(args, Phases::Prefill)?;
        contenders.push(contender);
    }
    let Some(first) = contenders.first().map(|c| c.system) else { return Ok(None) };
    let file = match plan.disk() {
        Some(_) if fio::version().is_some() => {
            Some(PreparedFile::create(&args.data_root, FIO_FILE_BYTES)?)
        }
        _ => None,
    };
    let mut rounds: BTreeMap<System, Vec<RunResult>> = BTreeMap::new();
    let mut disk = Vec::new();
    for round in 1..=args.rounds {
        for contender in &mut contenders {
            if !args.quiet {
                eprintln!("{}: round {round}, {}", plan.name, contender.system.name());
            }
            let result = contender.run(args, Phases::Measure)?;
            rounds.entry(contender.system).or_default().extend(result);
        }
        if let (Some(job), Some(file)) = (plan.disk(), &file) {
            let seconds = u32::try_from(args.duration.as_secs().max(1)).unwrap_or(u32::MAX);
            disk.push(file.run(&job, seconds)?);
        }
    }
    let ratios = ratios(&rounds, first);
    let disk_ratio = disk_ratio(&rounds[&first], &disk);
    let (name, description) = (plan.name.to_owned(), plan.description.to_owned());
    Ok(Some(PeerScenario { name, description, rounds, disk, ratios, disk_ratio }))
}

/// The first server's records per second over each other's, round by round.
fn ratios(rounds: &BTreeMap<System, Vec<RunResult>>, first: System) -> BTreeMap<System, Spread> {
    let others = rounds.iter().filter(|(system, _)| **system != first);
    others
        .filter_map(|(system, theirs)| {
            let pairs = rounds[&first].iter().zip(theirs);
            let figures = pairs.map(|(a, b)| a.records_per_s / b.records_per_s).collect();
            Some((*system, Spread::of(figures)?))
        })
        .collect()
}

/// Payload bandwidth over fio's, round by round.
fn disk_ratio(ours: &[RunResult], disk: &[FioResult]) -> Option<Spread> {
    let bytes = |run: &RunResult| run.records_per_s * run.scenario.values.size as f64;
    Spread::of(ours.iter().zip(disk).map(|(run, fio)| bytes(run) / fio.bytes_per_s).collect())
}

fn over_rounds(runs: &[RunResult], figure: impl Fn(&RunResult) -> Option<f64>) -> Option<Spread> {
    Spread::of(runs.iter().filter_map(figure).collect())
}

/// One scenario as a person reads it.
#[must_use]
pub fn table(scenario: &PeerScenario, systems: &[Installed]) -> String {
    let heading = format!("{}: {}\n", scenario.name, scenario.description);
    let columns =
        ["server", "records", "ratio (min..max)", "p50", "p99", "p99.9", "CPU us/op", "clean"];
    let mut table = Table::new(&columns);
    for (system, runs) in &scenario.rounds {
        let latency = |pick: fn(&crate::latency::Latency) -> u64| {
            over_rounds(runs, |run| run.latency().map(|l| pick(l) as f64))
                .map_or("-".to_owned(), |spread| show_ns(spread.median as u64))
        };
        let rate = over_rounds(runs, |run| Some(run.records_per_s));
        let ratio = scenario.ratios.get(system).map_or("-".to_owned(), ratio_text);
        let cpu = over_rounds(runs, |run| run.server.cpu_us_per_op);
        let clean = runs.iter().filter(|run| run.self_check.is_clean()).count();
        let durable = systems.iter().all(|s| s.system != *system || s.durable);
        table.row([
            format!("{}{}", system.name(), if durable { "" } else { " (NOT durable)" }),
            rate.map_or("-".to_owned(), |spread| show_rate(spread.median)),
            ratio,
            latency(|l| l.p50_ns),
            latency(|l| l.p99_ns),
            latency(|l| l.p999_ns),
            cpu.map_or("-".to_owned(), |spread| format!("{:.2}", spread.median)),
            format!("{clean}/{}", runs.len()),
        ]);
    }
    let mut text = heading + &table.show();
    if let Some(fio) = Spread::of(scenario.disk.iter().map(|f| f.bytes_per_s).collect()) {
        let ratio = scenario.disk_ratio.as_ref().map_or("-".to_owned(), ratio_text);
        text += &format!(
            "fio {}: {}; payload over fio {ratio}\n",
            scenario.disk[0].name,
            bandwidth(fio.median)
        );
    }
    text + "\n"
}

fn ratio_text(spread: &Spread) -> String {
    format!("{:.2}x ({:.2}..{:.2})", spread.median, spread.min, spread.max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_median_of_odd_and_even_counts() {
        let spread = Spread::of(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.0, 3.0));
        assert_eq!(Spread::of(vec![4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn ratios_pair_the_runs_of_a_round_and_not_their_medians() {
        let run = |per_s: f64| {
            let mut run = crate::result::example();
            run.records_per_s = per_s;
            run
        };
        // The machine halves its speed in round 2: every ratio is 2 all the same.
        let rounds = BTreeMap::from([
            (System::Ironring, vec![run(200.0), run(100.0), run(220.0)]),
            (System::Redis, vec![run(100.0), run(50.0), run(110.0)]),
        ]);
        let ratios = ratios(&rounds, System::Ironring);
        let expected = Spread { min: 2.0, median: 2.0, max: 2.0 };
        assert_eq!(ratios, BTreeMap::from([(System::Redis, expected)]));
    }
}
