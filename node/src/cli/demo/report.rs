//! The demo's one screen.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::ledger::{Ledger, Verified};
use super::load::Phase;
use super::nodes::{Nodes, Totals};
use crate::cli::output::{Cell, Column, Report, Tone, View};
use crate::cli::units;
use crate::cluster::status::ClusterStatus;

/// What the cluster did, apart from the load.
pub struct Course {
    /// From the first start until every partition had its voters.
    pub formed: Duration,
    /// The kill.
    pub kill: Kill,
    /// The node that was added.
    pub growth: Option<Growth>,
    /// Written by all nodes, all runs together.
    pub totals: Totals,
}

/// A node that was killed.
pub struct Kill {
    /// When.
    pub at: Instant,
    /// Its place among the nodes.
    pub index: usize,
    /// Its name. It led the metadata group.
    pub node: String,
    /// Partitions it led.
    pub led: usize,
    /// Most partitions that any node led.
    pub most: usize,
    /// All partitions.
    pub partitions: usize,
    /// From the kill until others led the group and all partitions; nothing when there were none.
    pub others_led: Option<Duration>,
    /// From its next start until it listened.
    pub started: Duration,
    /// From its next start until the cluster said that it is healthy.
    pub healthy: Duration,
    /// From its next start until every replica had everything.
    pub back: Duration,
}

impl fmt::Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Kill { node, led, most, partitions, .. } = self;
        write!(
            f,
            "node {node}, leader of the metadata group and of {led} of {partitions} partitions"
        )?;
        match led == most {
            true => write!(f, ", the most"),
            false => write!(f, " (another led {most})"),
        }
    }
}

/// A node that was added under load.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Growth {
    /// Its name.
    pub node: String,
    /// Replicas that have come to it: they vote, and what they replace is gone.
    pub moved: usize,
    /// Replicas on their way when it was looked at last.
    pub under_way: usize,
    /// As many as it should get when all have as many.
    pub fair_share: usize,
    /// From the start of the node until the last of those came.
    pub took: Duration,
}

impl Growth {
    /// No replica yet.
    #[must_use]
    pub fn new(node: String) -> Growth {
        Growth { node, ..Growth::default() }
    }

    /// Looks at the cluster; whether anything moves.
    pub fn look(&mut self, status: &ClusterStatus, elapsed: Duration) -> bool {
        let partitions = &status.partitions;
        let here = status.members.iter().find(|member| member.name == self.node);
        let replicas = here.map_or(0, |member| member.replicas);
        self.under_way = partitions.moves;
        let moved = replicas.saturating_sub(partitions.moves);
        if moved > self.moved {
            (self.moved, self.took) = (moved, elapsed);
        }
        self.fair_share =
            partitions.total * usize::from(partitions.rf) / status.members.len().max(1);
        self.under_way > 0
    }
}

/// What the demo measured and found.
#[derive(Debug, Serialize)]
pub struct DemoReport {
    /// Acknowledged puts a second, all of the time of the load.
    pub puts_per_second: f64,
    /// Microseconds from request to durable ack: half of the puts took no longer.
    pub p50_us: u64,
    /// 99 % of the puts took no longer.
    pub p99_us: u64,
    /// 99.9 % of the puts took no longer.
    pub p999_us: u64,
    /// The longest one.
    pub max_us: u64,
    /// The same, a part of the time each.
    pub phases: Vec<PhaseReport>,
    /// Durable writes of all nodes.
    pub fsyncs: u64,
    /// Records made durable by one of them, on average; a record counts on every node that has it.
    pub records_per_fsync: f64,
    /// Seconds from the first start until every partition had its voters.
    pub formed_seconds: f64,
    /// The node that was killed.
    pub killed: KillReport,
    /// The node that was added.
    pub added: Option<GrowthReport>,
    /// Puts acknowledged.
    pub acked: u64,
    /// Of those, read back byte for byte.
    pub found: u64,
    /// Of those, gone.
    pub lost: u64,
    /// Read back with other bytes.
    pub wrong: u64,
    /// Puts whose outcome the client could not learn.
    pub unknown: u64,
    /// Puts that were refused.
    pub refused: u64,
    /// Of those, there all the same.
    pub refused_found: u64,
    /// What a client was told last when a put did not succeed.
    pub last_error: Option<String>,
    /// The nodes.
    pub nodes: Vec<NodeReport>,
}

/// A part of the time of the load.
#[derive(Debug, Serialize)]
pub struct PhaseReport {
    /// What happened in it.
    pub phase: String,
    /// How long it was.
    pub seconds: f64,
    /// Acknowledged puts a second.
    pub puts_per_second: f64,
    /// Half of the puts acknowledged in it took no longer.
    pub p50_us: u64,
    /// 99 % of them took no longer.
    pub p99_us: u64,
    /// The longest one.
    pub max_us: u64,
    /// Longest time in which no connection had an ack.
    pub gap_us: u64,
}

/// The node that was killed with SIGKILL, which led the metadata group.
#[derive(Debug, Serialize)]
pub struct KillReport {
    /// Its name.
    pub node: String,
    /// Partitions it led.
    pub led_partitions: usize,
    /// Most partitions any node led.
    pub most_led_partitions: usize,
    /// All partitions.
    pub partitions: usize,
    /// Milliseconds in which no connection had an ack.
    pub write_gap_ms: f64,
    /// Milliseconds of the longest put until the node was started again; of all until the end when it was
    /// alone.
    pub longest_put_ms: f64,
    /// Milliseconds from the kill until others led the metadata group and all partitions.
    pub others_led_ms: Option<f64>,
    /// Seconds from its next start until it listened.
    pub started_seconds: f64,
    /// Seconds from its next start until all nodes were alive and all partitions led, with their voters.
    pub healthy_seconds: f64,
    /// Seconds from its next start until a write at level `all` was acknowledged in every partition.
    pub back_seconds: f64,
}

/// The node that was added under load.
#[derive(Debug, Serialize)]
pub struct GrowthReport {
    /// Its name.
    pub node: String,
    /// Partitions of which it came to have a voter, in another's place.
    pub moved_partitions: usize,
    /// Partitions on their way when the load ended.
    pub moving_partitions: usize,
    /// As many as it should get when all have as many.
    pub fair_share: usize,
    /// Seconds from its start until the last of them had moved.
    pub seconds: f64,
}

/// Where a node listens.
#[derive(Debug, Serialize)]
pub struct NodeReport {
    /// Its name.
    pub node: String,
    /// For clients.
    pub clients: String,
    /// For health, metrics and questions about the cluster.
    pub http: String,
}

fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

impl DemoReport {
    /// Puts the figures together.
    #[must_use]
    pub fn new(ledger: &Ledger, verified: &Verified, course: &Course, nodes: &Nodes) -> DemoReport {
        let Course { formed, kill, growth, totals } = course;
        let all = ledger.latency(None);
        let took: Duration = ledger.took.iter().sum();
        // A node alone is started again at once, and nothing is acknowledged before it serves.
        let failover = match kill.others_led {
            Some(_) => Phase::Killed,
            None => Phase::Back,
        } as usize;
        let killed = KillReport {
            node: kill.node.clone(),
            led_partitions: kill.led,
            most_led_partitions: kill.most,
            partitions: kill.partitions,
            write_gap_ms: millis(ledger.gaps[failover]),
            longest_put_ms: ledger.latency(Some(failover)).max() as f64 / 1000.0,
            others_led_ms: kill.others_led.map(millis),
            started_seconds: kill.started.as_secs_f64(),
            healthy_seconds: kill.healthy.as_secs_f64(),
            back_seconds: kill.back.as_secs_f64(),
        };
        let added = growth.as_ref().map(|growth| GrowthReport {
            node: growth.node.clone(),
            moved_partitions: growth.moved,
            moving_partitions: growth.under_way,
            fair_share: growth.fair_share,
            seconds: growth.took.as_secs_f64(),
        });
        DemoReport {
            puts_per_second: verified.acked as f64 / took.as_secs_f64(),
            p50_us: all.value_at_quantile(0.5),
            p99_us: all.value_at_quantile(0.99),
            p999_us: all.value_at_quantile(0.999),
            max_us: all.max(),
            phases: phases(ledger, kill, growth.as_ref()),
            fsyncs: totals.flushes,
            records_per_fsync: totals.records as f64 / totals.flushes.max(1) as f64,
            formed_seconds: formed.as_secs_f64(),
            killed,
            added,
            acked: verified.acked,
            found: verified.found,
            lost: verified.lost,
            wrong: verified.wrong,
            unknown: verified.unknown,
            refused: verified.refused,
            refused_found: verified.refused_found,
            last_error: ledger.last_error().map(str::to_owned),
            nodes: nodes
                .addresses()
                .map(|(name, at)| NodeReport {
                    node: name.to_owned(),
                    clients: at.clients.to_string(),
                    http: at.http.to_string(),
                })
                .collect(),
        }
    }

    /// What was found and what not.
    fn verdict(&self) -> Cell {
        let sound = self.lost + self.wrong + self.refused_found == 0;
        let text = format!("acked {}  found {}  lost {}", self.acked, self.found, self.lost);
        Cell::toned(text, if sound { Tone::Good } else { Tone::Bad })
    }

    /// What to try next: commands, each with a word on it.
    fn next(&self) -> String {
        let Some(first) = self.nodes.first() else { return String::new() };
        let scan = format!("ironring kv --addr {} scan demo/", first.clients);
        let status = format!("ironring cluster --http {} status", first.http);
        let lines = [
            ("ironring demo --keep", "leave it serving"),
            (&status, "with --keep: how it is"),
            (&scan, "with --keep: what it holds"),
            ("ironring doctor", "check this machine"),
        ];
        let lines = lines.map(|(command, word)| format!("  {command:46}  {word}"));
        format!("Try next:\n{}", lines.join("\n"))
    }
}

/// The phases there were.
fn phases(ledger: &Ledger, kill: &Kill, growth: Option<&Growth>) -> Vec<PhaseReport> {
    let names = [
        (Phase::Whole, "all nodes run".to_owned()),
        (Phase::Killed, format!("{} killed", kill.node)),
        (Phase::Back, format!("{} started again", kill.node)),
        (Phase::Growing, format!("{} added", growth.map_or("", |growth| &growth.node))),
    ];
    let there_was = |phase: &Phase| match phase {
        Phase::Killed => kill.others_led.is_some(),
        Phase::Growing => growth.is_some(),
        Phase::Whole | Phase::Back => true,
    };
    let report = |(phase, name): (Phase, String)| {
        let (latency, took) = (ledger.latency(Some(phase as usize)), ledger.took[phase as usize]);
        PhaseReport {
            phase: name,
            seconds: took.as_secs_f64(),
            puts_per_second: latency.len() as f64 / took.as_secs_f64().max(f64::EPSILON),
            p50_us: latency.value_at_quantile(0.5),
            p99_us: latency.value_at_quantile(0.99),
            max_us: latency.max(),
            gap_us: u64::try_from(ledger.gaps[phase as usize].as_micros()).unwrap_or(u64::MAX),
        }
    };
    names.into_iter().filter(|(phase, _)| there_was(phase)).map(report).collect()
}

const PHASE: [Column; 7] = [
    Column::Left("UNDER LOAD"),
    Column::Right("SECONDS"),
    Column::Right("PUTS/S"),
    Column::Right("P50"),
    Column::Right("P99"),
    Column::Right("LONGEST"),
    Column::Right("NO ACK FOR"),
];

fn micros(us: u64) -> String {
    units::duration(Duration::from_micros(us))
}

fn seconds(s: f64) -> String {
    units::duration(Duration::from_secs_f64(s))
}

impl PhaseReport {
    fn row(&self) -> Vec<Cell> {
        vec![
            self.phase.as_str().into(),
            format!("{:.1}", self.seconds).into(),
            format!("{:.0}", self.puts_per_second).into(),
            micros(self.p50_us).into(),
            micros(self.p99_us).into(),
            micros(self.max_us).into(),
            micros(self.gap_us).into(),
        ]
    }
}

impl KillReport {
    fn pairs(&self) -> Vec<(String, Cell)> {
        let KillReport { node, led_partitions, most_led_partitions, partitions, .. } = self;
        let most = match led_partitions == most_led_partitions {
            true => ", the most".to_owned(),
            false => format!(" (another led {most_led_partitions})"),
        };
        let led = format!("led the metadata and {led_partitions} of {partitions} partitions{most}");
        let gap = format!(
            "{:.0} ms without an ack; longest put {:.0} ms",
            self.write_gap_ms, self.longest_put_ms
        );
        let led_by_others = self
            .others_led_ms
            .map_or(String::new(), |ms| format!("; others led all after {ms:.0} ms"));
        let back = format!(
            "up in {}, all voters there in {}, `all` acked everywhere in {}",
            seconds(self.started_seconds),
            seconds(self.healthy_seconds),
            seconds(self.back_seconds)
        );
        vec![
            (format!("SIGKILL of {node}"), led.into()),
            ("write gap".to_owned(), format!("{gap}{led_by_others}").into()),
            (format!("restart of {node}"), back.into()),
        ]
    }
}

impl Report for DemoReport {
    fn view(&self) -> View {
        let mut pairs = vec![(
            "all durable puts".to_owned(),
            Cell::from(format!(
                "{:.0} /s, p50 {}, p99 {}, p99.9 {}",
                self.puts_per_second,
                micros(self.p50_us),
                micros(self.p99_us),
                micros(self.p999_us)
            )),
        )];
        let fsyncs = units::count(self.fsyncs);
        let records = format!("{:.1} ({fsyncs} fsyncs on all nodes)", self.records_per_fsync);
        pairs.push(("records per fsync".to_owned(), records.into()));
        pairs.extend(self.killed.pairs());
        if let Some(GrowthReport {
            node,
            moved_partitions,
            moving_partitions,
            fair_share,
            seconds: s,
        }) = &self.added
        {
            let moved = format!(
                "{moved_partitions} partitions moved to it in {} (a fair share: {fair_share}), {moving_partitions} moving",
                seconds(*s)
            );
            pairs.push((format!("node {node} added"), moved.into()));
        }
        if let Some(error) = self.last_error.as_ref().filter(|_| self.unknown + self.refused > 0) {
            let text = format!("{} unknown, {} refused: {error}", self.unknown, self.refused);
            pairs.push(("not acked".to_owned(), Cell::toned(text, Tone::Warn)));
        }
        pairs.push(("verified".to_owned(), self.verdict()));
        View::new()
            .rows(&PHASE, self.phases.iter().map(PhaseReport::row).collect())
            .pairs(pairs)
            .text(self.next())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    fn report() -> DemoReport {
        let killed = KillReport {
            node: "a".to_owned(),
            led_partitions: 85,
            most_led_partitions: 86,
            partitions: 256,
            write_gap_ms: 312.4,
            longest_put_ms: 400.0,
            others_led_ms: Some(290.0),
            started_seconds: 0.2,
            healthy_seconds: 0.5,
            back_seconds: 1.0,
        };
        let node = NodeReport {
            node: "a".to_owned(),
            clients: "127.0.0.1:12345".to_owned(),
            http: "127.0.0.1:12346".to_owned(),
        };
        DemoReport {
            puts_per_second: 0.0,
            p50_us: 0,
            p99_us: 0,
            p999_us: 0,
            max_us: 0,
            phases: Vec::new(),
            fsyncs: 0,
            records_per_fsync: 0.0,
            formed_seconds: 0.0,
            killed,
            added: None,
            acked: 3,
            found: 2,
            lost: 1,
            wrong: 0,
            unknown: 0,
            refused: 0,
            refused_found: 0,
            last_error: None,
            nodes: vec![node],
        }
    }

    #[test]
    fn what_to_try_next_can_be_tried() {
        let next = report().next();
        let commands = next.lines().map(|line| line.trim().split("  ").next().unwrap_or(""));
        let ours: Vec<&str> = commands.filter(|c| c.starts_with("ironring ")).collect();
        assert_eq!(ours.len(), 4, "{next}");
        for command in ours {
            let parsed = Cli::try_parse_from(command.split(' '));
            assert!(parsed.is_ok(), "{command}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let text = report().view().render(None, false);
        assert!(text.contains("acked 3  found 2  lost 1"), "{text}");
        assert!(text.contains("85 of 256 partitions (another led 86)"), "{text}");
        assert!(text.contains("312 ms without an ack; longest put 400 ms"), "{text}");
    }
}
