//! `study replication`: what copies cost. Durable puts by 64 connections on one node, two and three,
//! every partition on all of them, level quorum; beside three etcd members and three NATS servers
//! with a stream of three copies, where they are installed.
//!
//! The systems are measured one after another, in rounds; a round's figures were taken within a
//! minute or two of each other. Where one node leads everything that is written, the others do
//! nothing but follow: what leading and what following costs.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cluster::{Cluster, Member};
use super::node::{progress, scenario};
use super::rivals::{self, Rival};
use super::{Check, Figures, StudyResult};
use crate::cli::{ReplicationArgs, StudyCommon};
use crate::engine::Surroundings;
use crate::error::BenchError;
use crate::peers::{Spread, nats_can_sync};
use crate::protocol::ironring;
use crate::render::Table;
use crate::result::RunResult;
use crate::run::{self, Phases};
use crate::scenario::{Mix, Placement, ProtocolName, Scenario};
use crate::system::process_cpu_ns;
use crate::units::{show_ns, show_rate};

const CONNECTIONS: usize = 64;
const VALUE_BYTES: usize = 1024;
const KEYS: u64 = 100_000;
const WARMUP: Duration = Duration::from_secs(2);
/// A node tells what it has counted this much later, at the most.
const PUBLISHED_WITHIN: Duration = Duration::from_millis(1500);
/// Replicated puts over the better of the others, at the least.
const OVER_OTHERS_MIN: f64 = 5.0;

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Case {
    /// So many nodes, each leading a part.
    Nodes(u8),
    /// So many nodes, puts only to what one of them leads.
    OneLeads(u8),
    /// Three etcd members.
    Etcd,
    /// Three NATS servers.
    Nats,
}

impl Case {
    fn name(&self) -> String {
        match self {
            Case::Nodes(n) => format!("ironring, RF {n}"),
            Case::OneLeads(n) => format!("ironring, RF {n}, one leads"),
            Case::Etcd => "etcd, 3 members".to_owned(),
            Case::Nats => "NATS, R3".to_owned(),
        }
    }
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Puts a second.
    pub per_s: f64,
    /// Their latency, in nanoseconds.
    pub p50_ns: u64,
    /// The same.
    pub p99_ns: u64,
    /// CPU microseconds a put costs at each process; where one leads, that one first.
    pub cpu_us: Vec<f64>,
    /// Records in a durable write, at each node; where one leads, that one first.
    pub records_per_flush: Vec<f64>,
    /// Bytes the nodes sent each other for every byte of a value; nothing where it is not known.
    pub wire_per_byte: Option<f64>,
    /// Whether the generator was well.
    pub clean: bool,
}

/// All rounds of a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cells {
    /// What was measured.
    pub case: Case,
    /// Each round.
    pub rounds: Vec<Cell>,
}

/// What copies cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplicationResult {
    /// By case.
    pub cases: Vec<Cells>,
}

/// What other systems there are.
struct Others {
    etcd: Option<PathBuf>,
    /// And whether it can sync before it acknowledges.
    nats: Option<(PathBuf, bool)>,
    notes: Vec<String>,
}

impl Others {
    fn look(common: &StudyCommon) -> Others {
        let mut notes = Vec::new();
        let mut found = |name: &str| {
            let found = rivals::installed(name, "--version");
            notes.push(match &found {
                Some((_, version)) => format!("{name}: {version}"),
                None => format!("not measured: {name} is not installed"),
            });
            found.map(|(program, _)| program)
        };
        let etcd = found("etcd");
        let nats = found("nats-server").map(|program| {
            let sync = nats_can_sync(&program, &common.data_root);
            (program, sync)
        });
        if nats.as_ref().is_some_and(|(_, sync)| !sync) {
            notes.push("NATS: this version cannot sync before it acknowledges".to_owned());
        }
        Others { etcd, nats, notes }
    }
}

/// Runs it.
///
/// # Errors
/// A server misbehaves.
pub fn run(args: &ReplicationArgs) -> Result<StudyResult, BenchError> {
    let common = &args.common;
    std::fs::create_dir_all(&common.data_root).map_err(BenchError::file(&common.data_root))?;
    let mut others = Others::look(common);
    let mut cases = vec![Case::Nodes(1), Case::Nodes(2), Case::Nodes(3), Case::OneLeads(3)];
    cases.extend(others.etcd.is_some().then_some(Case::Etcd));
    cases.extend(others.nats.is_some().then_some(Case::Nats));
    let mut cells: Vec<Cells> =
        cases.into_iter().map(|case| Cells { case, rounds: Vec::new() }).collect();
    let mut version = String::new();
    for round in 1..=args.rounds {
        for Cells { case, rounds } in &mut cells {
            progress(common, &format!("round {round} of {}: {}", args.rounds, case.name()));
            let cell = match case {
                Case::Nodes(n) => nodes(args, *n, Placement::Owner, &mut version)?,
                Case::OneLeads(n) => nodes(args, *n, Placement::Leader, &mut version)?,
                Case::Etcd => {
                    let program = others.etcd.as_ref().expect("it is a case when it is there");
                    rival(args, ProtocolName::Etcd, &rivals::etcd(common, program)?)?
                }
                Case::Nats => {
                    let (program, sync) = others.nats.as_ref().expect("the same");
                    rival(args, ProtocolName::Nats, &rivals::nats(common, program, *sync)?)?
                }
            };
            let (rate, p50, p99) = (show_rate(cell.per_s), cell.p50_ns, cell.p99_ns);
            let (p50, p99) = (show_ns(p50), show_ns(p99));
            progress(common, &format!("  {rate} puts, p50 {p50}, p99 {p99}"));
            rounds.push(cell);
        }
    }
    let result = ReplicationResult { cases: cells };
    let mut notes = vec![format!(
        "all processes and the generator share CPUs {} and {}",
        common.server_cpu, common.client_cpu
    )];
    notes.append(&mut others.notes);
    Ok(StudyResult {
        quick: common.quick,
        server: version,
        settings: common.ironring_args.clone(),
        checks: result.checks(),
        figures: Figures::Replication(Box::new(result)),
        notes,
    })
}

fn put_scenario(args: &ReplicationArgs, addr: String, protocol: ProtocolName) -> Scenario {
    let put = Mix { put: 1, ..Mix::default() };
    let mut s = scenario("replication", &args.common, CONNECTIONS, put, KEYS, VALUE_BYTES);
    s.load.pin = Vec::new();
    (s.addr, s.protocol) = (addr, protocol);
    s.write.durability = "quorum".to_owned();
    if protocol == ProtocolName::Nats {
        s.mix = Mix { append: 1, ..Mix::default() };
        s.topic.replicas = 3;
    }
    s
}

/// Warms up, and measures with the CPU time of some processes, in microseconds a put.
fn measure(
    args: &ReplicationArgs,
    scenario: &Scenario,
    pids: &[u32],
    warm: impl FnOnce() -> Result<(), BenchError>,
) -> Result<(RunResult, Vec<f64>), BenchError> {
    let common = &args.common;
    let run = |duration: Duration| {
        let scenario = Scenario { duration, warmup: Duration::ZERO, ..scenario.clone() };
        scenario.clone().check()?;
        let around = Surroundings { server_pid: None, quiet: true };
        let measured = run::execute(&scenario, common.seed, around, Phases::Measure)?;
        let measured = measured.expect("only Phases::Prefill measures nothing");
        Ok::<RunResult, BenchError>(RunResult::of(&scenario, common.seed, &measured))
    };
    run(WARMUP)?;
    warm()?;
    let used = || -> Result<Vec<u64>, BenchError> {
        let each = pids.iter().map(|pid| process_cpu_ns(*pid));
        each.collect::<Result<_, _>>().map_err(BenchError::system("CPU time of a server"))
    };
    let before = used()?;
    let result = run(args.duration)?;
    let puts = result.achieved_per_s * result.window_s;
    let cpu =
        used()?.into_iter().zip(before).map(|(now, then)| (now - then) as f64 / 1000.0 / puts);
    Ok((result, cpu.collect()))
}

impl Cell {
    fn new(run: &RunResult, cpu_us: Vec<f64>) -> Cell {
        let latency = run.latency();
        Cell {
            per_s: run.achieved_per_s,
            p50_ns: latency.map_or(0, |l| l.p50_ns),
            p99_ns: latency.map_or(0, |l| l.p99_ns),
            cpu_us,
            records_per_flush: Vec::new(),
            wire_per_byte: None,
            clean: run.self_check.is_clean(),
        }
    }
}

fn nodes(
    args: &ReplicationArgs,
    count: u8,
    placement: Placement,
    version: &mut String,
) -> Result<Cell, BenchError> {
    let cluster = Cluster::start(&args.common, usize::from(count))?;
    version.clone_from(&cluster.version);
    let status = cluster.until("it is settled", |status| status.settled(usize::from(count)))?;
    let mut members: Vec<(Member, u32)> = status.members.into_iter().zip(cluster.pids()).collect();
    // The first is the one that leads, where one does.
    members.sort_by_key(|(member, _)| member.name.clone());
    let shards: Vec<String> = members.iter().map(|(member, _)| member.shard().clone()).collect();
    let pids: Vec<u32> = members.iter().map(|(_, pid)| *pid).collect();
    let mut scenario = put_scenario(args, shards[0].clone(), ProtocolName::Ironring);
    scenario.load.placement = placement;
    let between = || cluster.metric("ironring_peer_sent_bytes_total");
    let written = || -> Result<Vec<(f64, f64)>, BenchError> {
        let of = |shard: &String| {
            let stats = ironring::shard_stats(shard)?;
            let figure = |name: &str| stats.pointer(name).and_then(|n| n.as_f64()).unwrap_or(0.0);
            Ok((figure("/log/records"), figure("/log/flushes")))
        };
        shards.iter().map(of).collect()
    };
    let (mut before, mut sent) = (Vec::new(), 0.0);
    let (run, cpu) = measure(args, &scenario, &pids, || {
        std::thread::sleep(PUBLISHED_WITHIN);
        (before, sent) = (written()?, between()?);
        Ok(())
    })?;
    std::thread::sleep(PUBLISHED_WITHIN);
    let payload = run.achieved_per_s * run.window_s * VALUE_BYTES as f64;
    let wire = (between()? - sent) / payload;
    let per_flush = written()?.into_iter().zip(before).map(|((records, flushes), (r, f))| {
        let flushes = flushes - f;
        if flushes > 0.0 { (records - r) / flushes } else { 0.0 }
    });
    let records_per_flush = per_flush.collect();
    Ok(Cell { records_per_flush, wire_per_byte: Some(wire), ..Cell::new(&run, cpu) })
}

fn rival(
    args: &ReplicationArgs,
    protocol: ProtocolName,
    rival: &Rival,
) -> Result<Cell, BenchError> {
    let scenario = put_scenario(args, rival.leader.clone(), protocol);
    let (run, cpu) = measure(args, &scenario, &rival.pids(), || Ok(()))?;
    Ok(Cell::new(&run, cpu))
}

fn median(cells: &[Cell], figure: impl Fn(&Cell) -> f64) -> f64 {
    Spread::of(cells.iter().map(figure).collect()).map_or(0.0, |spread| spread.median)
}

impl ReplicationResult {
    fn find(&self, case: &Case) -> Option<&[Cell]> {
        self.cases.iter().find(|cells| cells.case == *case).map(|cells| cells.rounds.as_slice())
    }

    /// One case's puts a second over another's, round by round.
    fn ratio(&self, of: &Case, over: &Case) -> Option<Spread> {
        let pairs = self.find(of)?.iter().zip(self.find(over)?);
        Spread::of(pairs.map(|(a, b)| a.per_s / b.per_s).collect())
    }

    fn checks(&self) -> Vec<Check> {
        let over = |case: Case| Some((case.name(), self.ratio(&Case::Nodes(3), &case)?));
        [over(Case::Etcd), over(Case::Nats)]
            .into_iter()
            .flatten()
            .map(|(name, ratio)| Check {
                what: format!("RF 3 over {name}"),
                required: format!("at least {OVER_OTHERS_MIN:.0}x"),
                measured: format!("{:.2}x ({:.2}..{:.2})", ratio.median, ratio.min, ratio.max),
                holds: ratio.median >= OVER_OTHERS_MIN,
            })
            .collect()
    }

    /// As a person reads it.
    #[must_use]
    pub fn show(&self) -> String {
        let mut table = Table::new(&[
            "system",
            "puts",
            "over RF 1",
            "p50",
            "p99",
            "CPU us/put",
            "of each process",
            "records/write of each",
            "wire B/B",
            "clean",
        ]);
        for Cells { case, rounds } in &self.cases {
            let each = |figures: &dyn Fn(&Cell) -> &Vec<f64>| {
                let count = rounds.iter().map(|cell| figures(cell).len()).max().unwrap_or(0);
                let one =
                    |i: usize| median(rounds, |cell| figures(cell).get(i).copied().unwrap_or(0.0));
                (0..count).map(|i| format!("{:.1}", one(i))).collect::<Vec<_>>().join(" ")
            };
            let ratio = self.ratio(case, &Case::Nodes(1));
            table.row([
                case.name(),
                show_rate(median(rounds, |cell| cell.per_s)),
                ratio.map_or("-".to_owned(), |r| {
                    format!("{:.2}x ({:.2}..{:.2})", r.median, r.min, r.max)
                }),
                show_ns(median(rounds, |cell| cell.p50_ns as f64) as u64),
                show_ns(median(rounds, |cell| cell.p99_ns as f64) as u64),
                format!("{:.1}", median(rounds, |cell| cell.cpu_us.iter().sum())),
                each(&|cell| &cell.cpu_us),
                each(&|cell| &cell.records_per_flush),
                match rounds.iter().any(|cell| cell.wire_per_byte.is_some()) {
                    true => format!("{:.2}", median(rounds, |c| c.wire_per_byte.unwrap_or(0.0))),
                    false => "-".to_owned(),
                },
                format!("{}/{}", rounds.iter().filter(|cell| cell.clean).count(), rounds.len()),
            ]);
        }
        format!(
            "puts of {VALUE_BYTES} bytes, level quorum, {CONNECTIONS} connections, closed loop\n{}",
            table.show()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(case: Case, rates: &[f64]) -> Cells {
        let cell = |per_s: &f64| Cell {
            per_s: *per_s,
            p50_ns: 1,
            p99_ns: 2,
            cpu_us: vec![1.0],
            records_per_flush: Vec::new(),
            wire_per_byte: None,
            clean: true,
        };
        Cells { case, rounds: rates.iter().map(cell).collect() }
    }

    #[test]
    fn three_copies_are_held_against_others_round_by_round() {
        let result = ReplicationResult {
            cases: vec![
                cells(Case::Nodes(1), &[100.0, 50.0]),
                cells(Case::Nodes(3), &[60.0, 30.0]),
                cells(Case::Etcd, &[10.0, 5.0]),
                cells(Case::Nats, &[20.0, 10.0]),
            ],
        };
        let holds: Vec<bool> = result.checks().iter().map(|check| check.holds).collect();
        assert_eq!(holds, [true, false]);
        assert!(result.show().contains("0.60x (0.60..0.60)"), "{}", result.show());
    }
}
