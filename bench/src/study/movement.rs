//! `study movement`: what clients see while replicas move. Three nodes on one machine, every partition on
//! all of them, some data, and an open loop of puts and gets at half of what the cluster can do. Then a
//! node is added; a node is drained; a node is killed, emptied and takes its place again. What was
//! acknowledged is read back at the end.
//!
//! What each change costs is seen beside the same time before it, a moment earlier.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;
use std::time::{Duration, Instant};

use ironring_net::client::asynchronous::Client;
use serde::{Deserialize, Serialize};

use super::cluster::{Cluster, Status};
use super::lanes::{Lanes, Sample, Spec, client_error, run as run_task};
use super::node::progress;
use super::{Check, Figures, StudyResult};
use crate::cli::{MovementArgs, StudyCommon};
use crate::error::BenchError;
use crate::render::Table;
use crate::units::{show_bytes, show_rate};

const NODES: usize = 3;
const FILL: u64 = 512 << 20;
const FILL_QUICK: u64 = 64 << 20;
/// Bytes of a value there is before.
const FILL_VALUE: usize = 16 << 10;
/// Requests of the fill under way at a time.
const FILL_TASKS: u64 = 32;
/// How long the closed loop runs that shows what the cluster can do.
const CAPACITY: Duration = Duration::from_secs(8);
/// And before it counts.
const WARMUP: Duration = Duration::from_secs(3);
/// Requests a second that no cluster does: each lane has always one under way.
const ALWAYS: u32 = 10_000_000;
/// Nothing moves for so long: nothing more will.
const REST: Duration = Duration::from_secs(3);
/// Time the replicas may take to move.
const PATIENCE: Duration = Duration::from_secs(1800);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Time between changes, for what the last one left to do.
const SETTLE: Duration = Duration::from_secs(5);
/// What has to hold.
const THROUGHPUT_MIN: f64 = 0.8;
const P99_MAX: f64 = 2.0;

/// What clients saw in some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Requests answered right, a second.
    pub per_s: f64,
    /// Latency of those that were due, counted from then, in milliseconds.
    pub p50_ms: f64,
    /// The same.
    pub p99_ms: f64,
    /// The same.
    pub max_ms: f64,
    /// Those that failed, with all their retries, or read something wrong.
    pub failed: u64,
}

/// A change of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// `add`, `drain` or `replace`.
    pub name: String,
    /// Replicas that were copied.
    pub copies: u64,
    /// The fewest with which every node has its share.
    pub copies_min: u64,
    /// From the order to when nothing moved any more.
    pub seconds: f64,
    /// Bytes leaders sent for moves.
    pub bytes: u64,
    /// Before it.
    pub before: Window,
    /// While replicas moved.
    pub during: Window,
    /// Longest request from the kill of the node until it was given up, in milliseconds; 0: none was
    /// killed.
    pub kill_ms: f64,
}

impl Change {
    /// Throughput while replicas moved over that before.
    #[must_use]
    pub fn throughput(&self) -> f64 {
        self.during.per_s / self.before.per_s.max(f64::MIN_POSITIVE)
    }

    /// The same of a latency.
    fn over(&self, of: impl Fn(&Window) -> f64) -> f64 {
        of(&self.during) / of(&self.before).max(f64::MIN_POSITIVE)
    }

    /// Bytes sent a second.
    fn rate(&self) -> f64 {
        self.bytes as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    fn line(&self) -> String {
        format!(
            "{}: {} of at least {} replicas copied in {:.1} s, {} at {}/s; {} before, {:.2}x \
             meanwhile; p50 {:.2} ms, {:.2}x; p99 {:.2} ms, {:.2}x; longest {:.0} ms; failed {}",
            self.name,
            self.copies,
            self.copies_min,
            self.seconds,
            show_bytes(self.bytes as f64),
            show_bytes(self.rate()),
            show_rate(self.before.per_s),
            self.throughput(),
            self.before.p50_ms,
            self.over(|w| w.p50_ms),
            self.before.p99_ms,
            self.over(|w| w.p99_ms),
            self.during.max_ms,
            self.during.failed,
        )
    }
}

/// What movement costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MovementResult {
    /// How fast replicas were moved.
    pub pace: String,
    /// Requests a second in a closed loop.
    pub capacity: f64,
    /// Requests a second that were due.
    pub rate: u32,
    /// Bytes of values there were before.
    pub fill_bytes: u64,
    /// Each change, in order.
    pub changes: Vec<Change>,
    /// Keys read back.
    pub keys: u64,
    /// Keys whose newest acknowledged value is not there.
    pub lost: u64,
    /// What requests failed with.
    pub errors: Vec<String>,
}

/// Runs it.
///
/// # Errors
/// The cluster cannot be started, or does not come to rest.
pub fn run(args: &MovementArgs) -> Result<StudyResult, BenchError> {
    let common = &args.common;
    let fill = args.fill.unwrap_or(if common.quick { FILL_QUICK } else { FILL });
    progress(common, "starting three nodes");
    let mut cluster = Cluster::start(common, NODES)?;
    cluster.ask(&["cluster", "rebalance", "start", "--pace", &args.pace])?;
    let values = fill / FILL_VALUE as u64;
    let mut spec = Spec {
        addrs: cluster.addresses(),
        lanes: args.lanes,
        rate: ALWAYS,
        value_bytes: args.value_bytes,
        gets: true,
        partitions: cluster.status()?.partitions.total,
        seed: common.seed,
    };
    progress(common, &format!("filling with {}", show_bytes((values * FILL_VALUE as u64) as f64)));
    fill_with(&spec, values)?;
    // It is always behind: there is no moment it has passed.
    let lanes = Lanes::start(&spec);
    std::thread::sleep(WARMUP);
    let (_warm, begin) = (lanes.take(), lanes.now_us());
    std::thread::sleep(CAPACITY);
    let capacity = Window::of(&lanes.take(), begin, lanes.now_us()).per_s;
    let first = lanes.stop()?;
    spec.rate = args.rate.unwrap_or((capacity / 2.0) as u32).max(1);
    progress(common, &format!("{} in a closed loop, {} are due", show_rate(capacity), spec.rate));
    let lanes = Lanes::start(&spec);
    lanes.get_going();
    std::thread::sleep(SETTLE);
    let mut result = MovementResult {
        pace: args.pace.clone(),
        capacity,
        rate: spec.rate,
        fill_bytes: values * FILL_VALUE as u64,
        changes: Vec::new(),
        keys: first.keys,
        lost: first.lost,
        errors: Vec::new(),
    };
    let mut study = Moving { common, cluster: &mut cluster, lanes: &lanes, before: args.before };
    for change in [Moving::add, Moving::drain, Moving::replace] {
        let change = change(&mut study)?;
        result.changes.push(change);
        result.errors.extend(lanes.errors());
    }
    let verdict = lanes.stop()?;
    spec.addrs = cluster.addresses();
    let missing = missing_of(&spec, values)?;
    result.keys += verdict.keys + values;
    result.lost += verdict.lost + missing;
    progress(common, &format!("{} keys read back, {} lost", result.keys, result.lost));
    result.errors.sort();
    result.errors.dedup();
    let notes = vec![
        format!(
            "nodes of one shard on CPUs {} and {}, which the load shares: a fourth node takes its \
             share of them by itself",
            common.server_cpu, common.client_cpu
        ),
        "a request counts from the moment it was due; its client repeats it until it is answered"
            .to_owned(),
    ];
    Ok(StudyResult {
        quick: common.quick,
        server: cluster.version.clone(),
        settings: common.ironring_args.clone(),
        checks: result.checks(),
        figures: Figures::Movement(Box::new(result)),
        notes,
    })
}

/// A study under way.
struct Moving<'a> {
    common: &'a StudyCommon,
    cluster: &'a mut Cluster,
    lanes: &'a Lanes,
    before: Duration,
}

/// By partition, the nodes with a replica that votes.
type Map = BTreeMap<u64, BTreeSet<u64>>;

impl Moving<'_> {
    fn add(&mut self) -> Result<Change, BenchError> {
        let before = self.look()?;
        let begun = self.begin()?;
        let index = self.cluster.join(self.common)?;
        let name = self.cluster.name(index).to_owned();
        let partitions = self.cluster.status()?.partitions;
        let share = u64::from(partitions.total * partitions.rf) / (NODES as u64 + 1);
        let done = |status: &Status| {
            let new = status.members.iter().find(|m| m.name == name);
            status.healthy && new.is_some_and(|m| u64::from(m.replicas) * 10 >= share * 9)
        };
        self.end(begun, "add", before, share, done)
    }

    fn drain(&mut self) -> Result<Change, BenchError> {
        let name = self.cluster.name(1).to_owned();
        let before = self.look()?;
        let begun = self.begin()?;
        let holds = self.replicas_of(&name)?;
        self.cluster.ask(&["node", "drain", &name])?;
        let done = |status: &Status| {
            let gone = status.members.iter().find(|m| m.name == name);
            status.healthy && gone.is_some_and(|m| m.replicas == 0 && m.leads == 0)
        };
        let change = self.end(begun, "drain", before, holds, done)?;
        progress(self.common, "resuming the node");
        self.cluster.ask(&["node", "resume", &name])?;
        let back = |status: &Status| {
            let back = status.members.iter().find(|m| m.name == name);
            status.healthy && back.is_some_and(|m| u64::from(m.replicas) * 10 >= holds * 8)
        };
        self.rest(back)?;
        Ok(change)
    }

    fn replace(&mut self) -> Result<Change, BenchError> {
        let index = 2;
        let name = self.cluster.name(index).to_owned();
        let before = self.look()?;
        let holds = self.replicas_of(&name)?;
        let (samples_from, map) = (self.lanes.now_us(), self.map()?);
        self.cluster.kill(index)?;
        self.cluster.bury(index)?;
        self.cluster.until("the killed node is dead", |status| {
            status.members.iter().any(|m| m.name == name && m.status == "dead")
        })?;
        let given_up = self.lanes.now_us();
        self.lanes.pass(given_up);
        let killed = Window::of(&self.lanes.take(), samples_from, given_up);
        let begun = Begun { map, ..self.begin()? };
        // An empty node takes the place of the dead one, which is given up with that.
        self.cluster.reinit(index)?;
        self.cluster.restart(index)?;
        let done = |status: &Status| {
            let full = u64::from(status.partitions.total * status.partitions.rf);
            let held: u64 = status.members.iter().map(|m| u64::from(m.replicas)).sum();
            let given_up = status.members.len() == NODES + 1;
            status.healthy && held == full && given_up
        };
        let mut change = self.end(begun, "replace", before, holds, done)?;
        change.kill_ms = killed.max_ms;
        change.during.failed += killed.failed;
        Ok(change)
    }

    /// What clients see while nothing changes.
    fn look(&self) -> Result<Window, BenchError> {
        std::thread::sleep(SETTLE);
        let (_old, begin) = (self.lanes.take(), self.lanes.now_us());
        std::thread::sleep(self.before);
        let end = self.lanes.now_us();
        self.lanes.pass(end);
        Ok(Window::of(&self.lanes.take(), begin, end))
    }

    fn begin(&self) -> Result<Begun, BenchError> {
        let (map, sent) = (self.map()?, self.cluster.counters(SENT)?);
        let _old = self.lanes.take();
        Ok(Begun { map, sent, at: Instant::now(), at_us: self.lanes.now_us() })
    }

    fn end(
        &self,
        begun: Begun,
        name: &str,
        before: Window,
        copies_min: u64,
        done: impl Fn(&Status) -> bool,
    ) -> Result<Change, BenchError> {
        let last = self.rest(done)?;
        let took = last.saturating_duration_since(begun.at);
        let end_us = begun.at_us + u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.lanes.pass(end_us);
        let during = Window::of(&self.lanes.take(), begun.at_us, end_us);
        let copied = |(partition, nodes): (&u64, &BTreeSet<u64>)| {
            let had = begun.map.get(partition);
            nodes.iter().filter(|node| had.is_none_or(|had| !had.contains(node))).count() as u64
        };
        let sent = self.cluster.counters(SENT)?;
        let since = |(index, sent): (&usize, &u64)| {
            sent.saturating_sub(begun.sent.get(index).copied().unwrap_or(0))
        };
        let change = Change {
            name: name.to_owned(),
            copies: self.map()?.iter().map(copied).sum(),
            copies_min,
            seconds: took.as_secs_f64(),
            bytes: sent.iter().map(since).sum(),
            before,
            during,
            kill_ms: 0.0,
        };
        // At once: what comes after it may fail.
        progress(self.common, &change.line());
        Ok(change)
    }

    /// Waits until the cluster is as it should be and nothing moves any more; since when.
    fn rest(&self, done: impl Fn(&Status) -> bool) -> Result<Instant, BenchError> {
        let begin = Instant::now();
        let mut last = begin;
        loop {
            let status = self.cluster.status();
            let now = Instant::now();
            let rests = matches!(&status, Ok(s) if s.partitions.moves == 0 && done(s));
            if !rests {
                last = now;
            } else if now - last >= REST {
                return Ok(last);
            }
            if now - begin > PATIENCE {
                let why = match status {
                    Ok(status) => format!(
                        "replicas do not come to rest, {} are moving: {}",
                        status.partitions.moves,
                        status.reasons.join("; ")
                    ),
                    Err(error) => error.to_string(),
                };
                return Err(BenchError::Server(why));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn replicas_of(&self, name: &str) -> Result<u64, BenchError> {
        let status = self.cluster.status()?;
        let member = status.members.iter().find(|m| m.name == name);
        Ok(member.map_or(0, |m| u64::from(m.replicas)))
    }

    fn map(&self) -> Result<Map, BenchError> {
        let list = self.cluster.ask(&["partition", "list"])?;
        let partitions = list.as_array().into_iter().flatten();
        let map = partitions.filter_map(|p| {
            let voters = p["voters"].as_array()?.iter().filter_map(serde_json::Value::as_u64);
            Some((p["partition"].as_u64()?, voters.collect()))
        });
        Ok(map.collect())
    }
}

/// What a node's leaders have sent for moves.
const SENT: &str = "/movement/sent_bytes";

/// How it was when a change began.
struct Begun {
    map: Map,
    sent: BTreeMap<usize, u64>,
    at: Instant,
    at_us: u64,
}

impl Window {
    /// Of the requests that were due in a time, in microseconds of the load.
    fn of(samples: &[Sample], begin: u64, end: u64) -> Window {
        let due = |s: &&Sample| (begin..end).contains(&s.due_us);
        let mut took: Vec<u64> =
            samples.iter().filter(due).map(|s| s.done_us.saturating_sub(s.due_us)).collect();
        took.sort_unstable();
        let at = |percent: usize| {
            let rank = (took.len() * percent).div_ceil(100).max(1);
            took.get(rank - 1).copied().unwrap_or(0) as f64 / 1000.0
        };
        let answered =
            samples.iter().filter(|s| s.acked && (begin..end).contains(&s.done_us)).count();
        Window {
            per_s: answered as f64 * 1e6 / (end.saturating_sub(begin)).max(1) as f64,
            p50_ms: at(50),
            p99_ms: at(99),
            max_ms: at(100),
            failed: samples.iter().filter(due).filter(|s| !s.acked).count() as u64,
        }
    }
}

fn fill_key(n: u64) -> String {
    format!("movement/{n}")
}

fn fill_value(n: u64) -> Vec<u8> {
    let mut value = format!("{n:016}").into_bytes();
    value.resize(FILL_VALUE, b'.');
    value
}

/// Does something with every number below `count`, some at a time, and sums what comes of it.
fn each<F>(spec: &Spec, count: u64, task: impl Fn(Client, u64) -> F) -> Result<u64, BenchError>
where
    F: Future<Output = Result<u64, BenchError>> + 'static,
{
    run_task(async {
        let client = Client::connect(spec.client(0)).await.map_err(|e| client_error(&e))?;
        let mut sum = 0;
        let mut under_way = VecDeque::new();
        for n in 0..count + FILL_TASKS {
            if n < count {
                under_way.push_back(monoio::spawn(task(client.clone(), n)));
            }
            if n + 1 >= FILL_TASKS
                && let Some(first) = under_way.pop_front()
            {
                let done: Result<u64, BenchError> = first.await;
                sum += done?;
            }
        }
        Ok(sum)
    })
}

fn fill_with(spec: &Spec, count: u64) -> Result<(), BenchError> {
    each(spec, count, |client, n| async move {
        let put = client.put(fill_key(n).as_bytes(), &fill_value(n)).await;
        put.map(|_| 0).map_err(|e| client_error(&e))
    })?;
    Ok(())
}

/// How many of the values there were before are not there.
fn missing_of(spec: &Spec, count: u64) -> Result<u64, BenchError> {
    each(spec, count, |client, n| async move {
        let found = client.get(fill_key(n).as_bytes()).await.map_err(|e| client_error(&e))?;
        Ok(u64::from(found.is_none_or(|found| found.value != fill_value(n))))
    })
}

impl MovementResult {
    fn checks(&self) -> Vec<Check> {
        let mut checks = Vec::new();
        let mut check = |what: String, required: String, measured: String, holds: bool| {
            checks.push(Check { what, required, measured, holds });
        };
        for change in &self.changes {
            let name = &change.name;
            let (throughput, p99) = (change.throughput(), change.over(|w| w.p99_ms));
            check(
                format!("{name}: throughput meanwhile"),
                format!("at least {THROUGHPUT_MIN:.1}x"),
                format!("{throughput:.2}x"),
                throughput >= THROUGHPUT_MIN,
            );
            check(
                format!("{name}: p99 meanwhile"),
                format!("at most {P99_MAX:.0}x"),
                format!("{p99:.2}x"),
                p99 <= P99_MAX,
            );
            let failed = change.during.failed;
            check(
                format!("{name}: failed requests"),
                "0".to_owned(),
                failed.to_string(),
                failed == 0,
            );
        }
        check("keys lost".to_owned(), "0".to_owned(), self.lost.to_string(), self.lost == 0);
        checks
    }

    /// As a person reads it.
    #[must_use]
    pub fn show(&self) -> String {
        let mut table = Table::new(&[
            "change",
            "copied",
            "fewest",
            "seconds",
            "sent",
            "rate",
            "requests",
            "meanwhile",
            "p50",
            "meanwhile",
            "p99",
            "meanwhile",
            "failed",
        ]);
        for change in &self.changes {
            table.row([
                change.name.clone(),
                change.copies.to_string(),
                change.copies_min.to_string(),
                format!("{:.1}", change.seconds),
                show_bytes(change.bytes as f64),
                format!("{}/s", show_bytes(change.rate())),
                show_rate(change.before.per_s),
                format!("{:.2}x", change.throughput()),
                format!("{:.2} ms", change.before.p50_ms),
                format!("{:.2}x", change.over(|w| w.p50_ms)),
                format!("{:.2} ms", change.before.p99_ms),
                format!("{:.2}x", change.over(|w| w.p99_ms)),
                change.during.failed.to_string(),
            ]);
        }
        let mut text = format!(
            "pace {}, {} of values before, puts and gets at {} a second, open loop; {} in a closed \
             one\n{}",
            self.pace,
            show_bytes(self.fill_bytes as f64),
            self.rate,
            show_rate(self.capacity),
            table.show()
        );
        for change in self.changes.iter().filter(|change| change.kill_ms > 0.0) {
            let _ = writeln!(
                text,
                "{}: longest request from the kill until the node was given up: {:.0} ms",
                change.name, change.kill_ms
            );
        }
        let _ = writeln!(text, "{} keys read back, {} lost", self.keys, self.lost);
        for error in &self.errors {
            let _ = writeln!(text, "a request failed: {error}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_what_was_due_in_it_and_counts_what_was_answered_in_it() {
        let sample = |due_us, done_us, acked| Sample { partition: 0, due_us, done_us, acked };
        let mut samples: Vec<Sample> = (0..100)
            .map(|n| sample(1_000_000 + n * 10_000, 1_002_000 + n * 10_000, true))
            .collect();
        samples.push(sample(900_000, 1_500_000, true));
        samples.push(sample(1_999_000, 2_500_000, false));
        let window = Window::of(&samples, 1_000_000, 2_000_000);
        let expected = Window { per_s: 101.0, p50_ms: 2.0, p99_ms: 2.0, max_ms: 501.0, failed: 1 };
        assert_eq!(window, expected);
        assert_eq!(Window::of(&[], 5, 5), Window::default());
    }

    #[test]
    fn what_costs_too_much_is_missed() {
        let before = Window { per_s: 100.0, p50_ms: 1.0, p99_ms: 2.0, max_ms: 3.0, failed: 0 };
        let change = |during| Change {
            name: "add".to_owned(),
            copies: 5,
            copies_min: 5,
            seconds: 2.0,
            bytes: 10,
            before,
            during,
            kill_ms: 0.0,
        };
        let result = |during| MovementResult {
            pace: "gradual".to_owned(),
            capacity: 200.0,
            rate: 100,
            fill_bytes: 1,
            changes: vec![change(during)],
            keys: 1,
            lost: 0,
            errors: Vec::new(),
        };
        let good = Window { per_s: 80.0, p99_ms: 4.0, ..before };
        assert!(result(good).checks().iter().all(|check| check.holds));
        for bad in [
            Window { per_s: 79.0, ..good },
            Window { p99_ms: 4.1, ..good },
            Window { failed: 1, ..good },
        ] {
            assert_eq!(result(bad).checks().iter().filter(|check| !check.holds).count(), 1);
        }
        assert!(result(good).show().contains("add"), "it is in the table");
    }
}
