//! The demo's one screen.

use std::time::Duration;

use serde::Serialize;

use super::child::{NodeChild, Totals};
use super::ledger::{Ledger, Verified};
use crate::cli::output::{Cell, Report, Tone, View};
use crate::cli::units;

/// What the demo measured and found.
#[derive(Debug, Serialize)]
pub struct DemoReport {
    /// Shards of the node.
    pub shards: u64,
    /// Acknowledged puts a second, the time the node was down included.
    pub puts_per_second: f64,
    /// Microseconds from request to durable ack: half of the puts took no longer.
    pub p50_us: u64,
    /// 99 % of the puts took no longer.
    pub p99_us: u64,
    /// 99.9 % of the puts took no longer.
    pub p999_us: u64,
    /// The longest one: it lived through the kill.
    pub max_us: u64,
    /// Durable writes of the log.
    pub fsyncs: u64,
    /// Records made durable by one of them, on average.
    pub records_per_fsync: f64,
    /// Seconds from the kill until every shard served again.
    pub down_seconds: f64,
    /// Seconds from the start of the new process until every shard served.
    pub recovery_seconds: f64,
    /// Puts acknowledged as durable.
    pub acked: u64,
    /// Of those, read back byte for byte.
    pub found: u64,
    /// Of those, gone.
    pub lost: u64,
    /// Read back with other bytes.
    pub wrong: u64,
    /// Puts whose outcome the client could not learn.
    pub unknown: u64,
    /// Puts that were refused but are there.
    pub refused_found: u64,
    /// Where clients connect.
    pub clients: String,
    /// Where health and metrics are.
    pub http: String,
}

impl DemoReport {
    /// Puts the figures together.
    #[must_use]
    pub fn new(
        ledger: &Ledger,
        verified: &Verified,
        totals: &Totals,
        loaded_for: Duration,
        down: Duration,
        recovery: Duration,
        node: &NodeChild,
    ) -> DemoReport {
        let mut latency = hdrhistogram::Histogram::<u64>::new_with_max(600_000_000, 3)
            .expect("the bounds are sound");
        for page in &ledger.pages {
            latency.add(&page.latency).expect("all histograms have the same bounds");
        }
        DemoReport {
            shards: totals.shards,
            puts_per_second: verified.acked as f64 / loaded_for.as_secs_f64(),
            p50_us: latency.value_at_quantile(0.5),
            p99_us: latency.value_at_quantile(0.99),
            p999_us: latency.value_at_quantile(0.999),
            max_us: latency.max(),
            fsyncs: totals.flushes,
            records_per_fsync: totals.records as f64 / totals.flushes.max(1) as f64,
            down_seconds: down.as_secs_f64(),
            recovery_seconds: recovery.as_secs_f64(),
            acked: verified.acked,
            found: verified.found,
            lost: verified.lost,
            wrong: verified.wrong,
            unknown: verified.unknown,
            refused_found: verified.refused_found,
            clients: node.clients.to_string(),
            http: node.http.to_string(),
        }
    }
}

impl Report for DemoReport {
    fn view(&self) -> View {
        let us = |n: u64| units::duration(Duration::from_micros(n));
        let seconds = |s: f64| units::duration(Duration::from_secs_f64(s));
        let verdict = format!("acked {}  found {}  lost {}", self.acked, self.found, self.lost);
        let tone = if self.lost + self.wrong == 0 { Tone::Good } else { Tone::Bad };
        View::new()
            .pairs([
                (
                    "durable puts",
                    Cell::from(format!("{:.0} /s on {} shards", self.puts_per_second, self.shards)),
                ),
                ("p50 to durable ack", Cell::from(us(self.p50_us))),
                ("p99", Cell::from(us(self.p99_us))),
                ("p99.9", Cell::from(us(self.p999_us))),
                ("longest (the kill)", Cell::from(us(self.max_us))),
                ("fsyncs", Cell::from(units::count(self.fsyncs))),
                ("records per fsync", Cell::from(format!("{:.1}", self.records_per_fsync))),
                ("down after SIGKILL", Cell::from(seconds(self.down_seconds))),
                ("start and recovery", Cell::from(seconds(self.recovery_seconds))),
                ("outcome unknown", Cell::from(self.unknown.to_string())),
                ("verified", Cell::toned(verdict, tone)),
            ])
            .text(self.next())
    }
}

impl DemoReport {
    /// What to try next: commands, each with a word on it.
    fn next(&self) -> String {
        let (scan, metrics) = (
            format!("ironring kv --addr {} scan demo/", self.clients),
            format!("curl http://{}/metrics", self.http),
        );
        let lines = [
            ("ironring demo --keep", "leave it serving"),
            (&scan, "with --keep: what it holds"),
            (&metrics, "with --keep: what it counts"),
            ("ironring doctor", "check this machine"),
        ];
        let lines = lines.map(|(command, word)| format!("  {command:48}  {word}"));
        format!("\nTry next:\n{}", lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn what_to_try_next_can_be_tried() {
        let report = DemoReport {
            shards: 1,
            puts_per_second: 0.0,
            p50_us: 0,
            p99_us: 0,
            p999_us: 0,
            max_us: 0,
            fsyncs: 0,
            records_per_fsync: 0.0,
            down_seconds: 0.0,
            recovery_seconds: 0.0,
            acked: 0,
            found: 0,
            lost: 0,
            wrong: 0,
            unknown: 0,
            refused_found: 0,
            clients: "127.0.0.1:12345".to_owned(),
            http: "127.0.0.1:12346".to_owned(),
        };
        let next = report.next();
        let commands = next.lines().map(|line| line.trim().split("  ").next().unwrap_or(""));
        let ours: Vec<&str> = commands.filter(|c| c.starts_with("ironring ")).collect();
        assert_eq!(ours.len(), 3, "{next}");
        for command in ours {
            let parsed = Cli::try_parse_from(command.split(' '));
            assert!(parsed.is_ok(), "{command}: {}", parsed.unwrap_err());
        }
    }
}
