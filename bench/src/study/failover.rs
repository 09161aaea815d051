//! `study failover`: how long clients wait for their writes when a node of a cluster fails or stops.
//!
//! Three nodes on one machine, every partition on all of them, puts of level quorum in an open
//! loop. A node is disturbed, and the longest put of the time around counts, once for the
//! partitions that node led and once for those of others. Then the node comes back, and when the
//! cluster is as it was, the next turn begins. A planned transfer takes no node away: others lead,
//! one partition after the other, what the node led. What was acknowledged is read back at the end.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cluster::{Cluster, Member, Status};
use super::lanes::{Lanes, Sample, Spec};
use super::node::progress;
use super::{Check, Figures, StudyResult};
use crate::cli::FailoverArgs;
use crate::error::BenchError;
use crate::render::Table;

const NODES: usize = 3;
const REPEATS: usize = 50;
const REPEATS_QUICK: usize = 5;
/// Time looked at before the disturbance: what the machine does by itself.
const BEFORE: Duration = Duration::from_secs(2);
/// Time looked at after it.
const AFTER: Duration = Duration::from_secs(3);
/// What no partition is to wait for that another node leads.
const LATE: Duration = Duration::from_millis(50);
/// How long a silent node is silent: longer than every lease and session.
const SILENCE: Duration = Duration::from_secs(12);

/// What is done to a node.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// SIGKILL of the node that leads the metadata group.
    KillLeader,
    /// SIGKILL of another.
    KillFollower,
    /// SIGSTOP of the node that leads the metadata group, longer than every lease.
    Silence,
    /// SIGTERM of the node that leads the metadata group.
    Stop,
    /// Orders to have others lead the metadata group and every partition the node leads that does.
    Transfer,
}

impl Fault {
    const ALL: [Fault; 5] =
        [Fault::KillLeader, Fault::KillFollower, Fault::Silence, Fault::Stop, Fault::Transfer];

    fn name(self) -> &'static str {
        match self {
            Fault::KillLeader => "kill-leader",
            Fault::KillFollower => "kill-follower",
            Fault::Silence => "silence",
            Fault::Stop => "stop",
            Fault::Transfer => "transfer",
        }
    }
}

/// One disturbance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// Longest put of the seconds before, in milliseconds.
    pub before_ms: f64,
    /// Longest put of a partition the node led.
    pub led_ms: f64,
    /// Longest put of the other partitions.
    pub others_ms: f64,
    /// How many of those had a put of more than 50 ms: most of them when the machine stood still.
    #[serde(default)]
    pub others_late: usize,
    /// Puts around it.
    pub puts: usize,
    /// Those that failed, with all their retries.
    pub failed: usize,
}

/// All turns of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turns {
    /// What was done.
    pub fault: Fault,
    /// Each time.
    pub turns: Vec<Turn>,
}

/// What clients saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailoverResult {
    /// Puts a second that were due.
    pub rate: u32,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// By kind.
    pub kinds: Vec<Turns>,
    /// Puts acknowledged.
    pub acked: u64,
    /// Keys read back.
    pub keys: u64,
    /// Keys whose newest acknowledged value is not there.
    pub lost: u64,
    /// What puts failed with.
    pub errors: Vec<String>,
}

/// Runs it.
///
/// # Errors
/// The cluster does not come back, or cannot be started.
pub fn run(args: &FailoverArgs) -> Result<StudyResult, BenchError> {
    let common = &args.common;
    let repeats = args.repeats.unwrap_or(if common.quick { REPEATS_QUICK } else { REPEATS });
    let faults = if args.faults.is_empty() { Fault::ALL.to_vec() } else { args.faults.clone() };
    progress(common, "starting three nodes");
    let mut cluster = Cluster::start(common, NODES)?;
    let spec = Spec {
        addrs: cluster.addresses(),
        lanes: args.lanes,
        rate: args.rate,
        value_bytes: args.value_bytes,
        gets: false,
        partitions: cluster.status()?.partitions.total,
        seed: common.seed,
    };
    let lanes = Lanes::start(&spec);
    lanes.get_going();
    let mut result = FailoverResult {
        rate: args.rate,
        value_bytes: args.value_bytes,
        kinds: Vec::new(),
        acked: 0,
        keys: 0,
        lost: 0,
        errors: Vec::new(),
    };
    for fault in faults {
        let mut turns = Vec::new();
        for turn in 1..=repeats {
            let seen = disturb(&mut cluster, &lanes, fault)?;
            let Turn { before_ms, led_ms, others_ms, others_late, failed, .. } = seen;
            progress(
                common,
                &format!(
                    "{} {turn} of {repeats}: led by it {led_ms:.0} ms, by others {others_ms:.0} \
                     ms ({others_late} partitions late), before {before_ms:.0} ms, failed {failed}",
                    fault.name()
                ),
            );
            turns.push(seen);
            result.errors.extend(lanes.errors());
        }
        result.kinds.push(Turns { fault, turns });
    }
    cluster.until("it is as it was", |status| status.settled(NODES))?;
    result.acked = lanes.acked();
    let verdict = lanes.stop()?;
    (result.keys, result.lost) = (verdict.keys, verdict.lost);
    result.errors.sort();
    result.errors.dedup();
    let checks = result.checks();
    let notes = vec![
        format!(
            "{NODES} nodes of one shard on CPUs {} and {}, which the load shares",
            common.server_cpu, common.client_cpu
        ),
        "a put counts from the moment it was due; its client repeats it until it is acknowledged"
            .to_owned(),
    ];
    Ok(StudyResult {
        quick: common.quick,
        server: cluster.version.clone(),
        settings: common.ironring_args.clone(),
        figures: Figures::Failover(Box::new(result)),
        checks,
        notes,
    })
}

/// The node a fault is for.
fn victim(status: &Status, fault: Fault) -> Option<&Member> {
    let leads = |m: &&Member| Some(m.id) == status.metadata.leader;
    match fault {
        Fault::KillFollower => status.members.iter().find(|m| !leads(m)),
        _ => status.members.iter().find(leads),
    }
}

fn disturb(cluster: &mut Cluster, lanes: &Lanes, fault: Fault) -> Result<Turn, BenchError> {
    let settled = |status: &Status| {
        status.settled(NODES) && victim(status, fault).is_some_and(|m| m.leads > 0)
    };
    let look = |cluster: &mut Cluster| {
        let status = cluster.until("everybody leads something", settled)?;
        let member = victim(&status, fault).expect("it is settled").clone();
        let led = cluster.led_by(&member)?;
        Ok::<_, BenchError>((status, member, led))
    };
    // A partition that is just being handed over for balance would count where it was before.
    let (status, member, led) = loop {
        let (_, _, led) = look(cluster)?;
        let _old = lanes.take();
        std::thread::sleep(BEFORE);
        let seen = look(cluster)?;
        if seen.2 == led {
            break seen;
        }
    };
    let index = cluster.index_of(&member)?;
    let begin = lanes.now_us();
    match fault {
        Fault::KillLeader | Fault::KillFollower => {
            cluster.kill(index)?;
            std::thread::sleep(AFTER);
        }
        Fault::Silence => {
            cluster.freeze(index)?;
            std::thread::sleep(SILENCE);
            cluster.thaw(index)?;
            std::thread::sleep(AFTER);
        }
        Fault::Stop => {
            let took = cluster.stop(index)?;
            std::thread::sleep(AFTER.saturating_sub(took));
        }
        Fault::Transfer => {
            let others: Vec<&Member> =
                status.members.iter().filter(|m| m.id != member.id).collect();
            let name = |n: usize| others[n % others.len()].name.as_str();
            for (n, partition) in led.iter().enumerate() {
                cluster.transfer(Some(*partition), name(n))?;
            }
            cluster.transfer(None, name(0))?;
            std::thread::sleep(AFTER);
        }
    }
    let end = lanes.now_us();
    lanes.pass(end);
    let turn = Turn::of(&lanes.take(), (begin, end), &led);
    if !matches!(fault, Fault::Silence | Fault::Transfer) {
        cluster.bury(index)?;
        cluster.restart(index)?;
    }
    Ok(turn)
}

impl Turn {
    fn of(samples: &[Sample], (begin, end): (u64, u64), led: &BTreeSet<u32>) -> Turn {
        let around = |s: &&Sample| s.done_us >= begin && s.due_us < end;
        let longest = |which: &dyn Fn(&&Sample) -> bool| {
            let took = samples.iter().filter(which).map(|s| s.done_us.saturating_sub(s.due_us));
            took.max().unwrap_or(0) as f64 / 1000.0
        };
        let of_others = |s: &&Sample| around(s) && !led.contains(&s.partition);
        let late = |s: &&Sample| s.done_us.saturating_sub(s.due_us) > LATE.as_micros() as u64;
        let others_late: BTreeSet<u32> =
            samples.iter().filter(of_others).filter(late).map(|s| s.partition).collect();
        Turn {
            before_ms: longest(&|s| s.done_us < begin),
            led_ms: longest(&|s| around(s) && led.contains(&s.partition)),
            others_ms: longest(&of_others),
            others_late: others_late.len(),
            puts: samples.iter().filter(around).count(),
            failed: samples.iter().filter(around).filter(|s| !s.acked).count(),
        }
    }
}

/// The smallest figure that so many percent of all do not exceed.
fn percentile(figures: &[f64], percent: usize) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0.0)
}

impl Turns {
    fn each(&self, figure: impl Fn(&Turn) -> f64) -> Vec<f64> {
        self.turns.iter().map(figure).collect()
    }

    fn failed(&self) -> usize {
        self.turns.iter().map(|turn| turn.failed).sum()
    }
}

impl FailoverResult {
    fn checks(&self) -> Vec<Check> {
        let mut checks = Vec::new();
        let mut check = |what: String, required: &str, measured: String, holds: bool| {
            checks.push(Check { what, required: required.to_owned(), measured, holds });
        };
        for kind in &self.kinds {
            let name = kind.fault.name();
            let led = percentile(&kind.each(|turn| turn.led_ms), 95);
            let others = percentile(&kind.each(|turn| turn.others_ms), 95);
            let (led_max, others_max) = match kind.fault {
                // Others change their map, and elections are written to the same disks.
                Fault::KillLeader => (1000.0, None),
                Fault::KillFollower => (1000.0, Some(50.0)),
                // What it missed it is sent when it is back.
                Fault::Silence => (2000.0, None),
                Fault::Stop | Fault::Transfer => (50.0, Some(50.0)),
            };
            let ms = |figure: f64| format!("{figure:.0} ms");
            let of = [
                ("partitions it led", led, Some(led_max)),
                ("other partitions", others, others_max),
            ];
            for (which, measured, most) in of {
                let Some(most) = most else { continue };
                check(
                    format!("{name}: p95 of the gap, {which}"),
                    &format!("at most {}", ms(most)),
                    ms(measured),
                    measured <= most,
                );
            }
            let failed = kind.failed();
            check(format!("{name}: failed puts"), "0", failed.to_string(), failed == 0);
        }
        check("keys lost".to_owned(), "0", self.lost.to_string(), self.lost == 0);
        checks
    }

    /// As a person reads it.
    #[must_use]
    pub fn show(&self) -> String {
        let mut table =
            Table::new(&["fault", "longest put", "p50", "p95", "p99", "max", "turns", "failed"]);
        for kind in &self.kinds {
            for (what, figures) in [
                ("led by it", kind.each(|turn| turn.led_ms)),
                ("led by others", kind.each(|turn| turn.others_ms)),
                ("before it", kind.each(|turn| turn.before_ms)),
            ] {
                let at = |percent| format!("{:.0} ms", percentile(&figures, percent));
                table.row([
                    kind.fault.name().to_owned(),
                    what.to_owned(),
                    at(50),
                    at(95),
                    at(99),
                    at(100),
                    figures.len().to_string(),
                    kind.failed().to_string(),
                ]);
            }
        }
        let mut text = format!(
            "puts of {} bytes, level quorum, {} a second, open loop\n{}",
            self.value_bytes,
            self.rate,
            table.show()
        );
        let (acked, keys, lost) = (self.acked, self.keys, self.lost);
        let _ = writeln!(text, "acknowledged {acked} puts of {keys} keys, lost {lost}");
        for error in &self.errors {
            let _ = writeln!(text, "a put failed: {error}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(partition: u32, due_us: u64, done_us: u64) -> Sample {
        Sample { partition, due_us, done_us, acked: true }
    }

    #[test]
    fn the_longest_put_counts_where_its_partition_was_led() {
        let samples = [
            put(1, 0, 7_000),
            put(1, 9_000, 500_000),
            put(2, 11_000, 13_000),
            Sample { acked: false, ..put(2, 12_000, 73_000) },
            put(1, 900_000, 2_000_000),
        ];
        let turn = Turn::of(&samples, (10_000, 900_000), &BTreeSet::from([1]));
        let expected = Turn {
            before_ms: 7.0,
            led_ms: 491.0,
            others_ms: 61.0,
            others_late: 1,
            puts: 3,
            failed: 1,
        };
        assert_eq!(turn, expected);
    }

    #[test]
    fn a_percentile_is_one_of_the_figures() {
        let figures: Vec<f64> = (1..=50).rev().map(f64::from).collect();
        assert_eq!(percentile(&figures, 50), 25.0);
        assert_eq!(percentile(&figures, 95), 48.0);
        assert_eq!(percentile(&figures, 100), 50.0);
        assert_eq!(percentile(&[3.0], 99), 3.0);
        assert_eq!(percentile(&[], 50), 0.0);
    }
}
