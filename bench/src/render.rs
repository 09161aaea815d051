//! Results as tables for people. Everything here is also in the JSON.

use std::fmt::Write;

use crate::latency::Latency;
use crate::result::RunResult;
use crate::units::{show_bytes, show_ns, show_rate};

/// Columns of text, the first left and the others right aligned.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a heading.
    #[must_use]
    pub fn new(heading: &[&str]) -> Table {
        Table { rows: vec![heading.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table as lines.
    #[must_use]
    pub fn show(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let pad = " ".repeat(width - cell.chars().count());
                if line.is_empty() {
                    line = format!("{cell}{pad}");
                } else {
                    line.push_str("  ");
                    line.push_str(&pad);
                    line.push_str(cell);
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Headings of [`percentiles`].
pub const PERCENTILE_HEADINGS: [&str; 6] = ["p50", "p90", "p99", "p99.9", "p99.99", "max"];

/// The usual percentiles of a distribution as cells.
#[must_use]
pub fn percentiles(latency: Option<&Latency>) -> Vec<String> {
    let Some(l) = latency else { return vec!["-".to_owned(); PERCENTILE_HEADINGS.len()] };
    [l.p50_ns, l.p90_ns, l.p99_ns, l.p999_ns, l.p9999_ns, l.max_ns].map(show_ns).to_vec()
}

/// A run as a person reads it.
#[must_use]
pub fn run(result: &RunResult) -> String {
    let mut text = String::new();
    let s = &result.scenario;
    let mut line = |words: String| writeln!(text, "{words}").expect("strings take any text");
    let load = &s.load;
    let loop_kind = match result.offered_per_s {
        Some(_) => {
            let arrivals = format!("{:?}", load.arrivals).to_lowercase();
            format!("open loop at {} ({arrivals})", show_rate(load.rate))
        }
        None => "closed loop".to_owned(),
    };
    line(format!(
        "{}: {loop_kind}, {} connections x {}, {:.1} s, seed {}",
        s.name, load.connections, load.pipeline, result.window_s, result.seed
    ));
    let records = if result.records_per_s > result.achieved_per_s {
        format!(", {} records", show_rate(result.records_per_s))
    } else {
        String::new()
    };
    line(format!("throughput  {}{records}", show_rate(result.achieved_per_s)));
    let mut table = Table::new(&[&["latency"], &PERCENTILE_HEADINGS[..]].concat());
    let mut add = |name: &str, latency: Option<&Latency>| {
        if latency.is_some() {
            table.row([vec![name.to_owned()], percentiles(latency)].concat());
        }
    };
    add("from intended time", result.response.as_ref());
    add("from send time", result.service.as_ref());
    if result.kinds.len() > 1 {
        for (name, kind) in &result.kinds {
            add(&format!("  {name}"), kind.response.as_ref().or(kind.service.as_ref()));
        }
    }
    line(table.show().trim_end().to_owned());
    line(server(result));
    let check = &result.self_check;
    let lag = check.lag.as_ref().map_or(String::new(), |lag| {
        format!(", sends late by p50 {} p99 {}", show_ns(lag.p50_ns), show_ns(lag.p99_ns))
    });
    let wait = check
        .wait_share
        .map_or(String::new(), |share| format!(", waiting for CPU {:.1} %", share * 100.0));
    line(format!(
        "generator   CPU {:.0} %{} ({:.2} us/op){wait}{lag}",
        check.cpu_share * 100.0,
        if check.spinning { " spinning" } else { "" },
        check.cpu_us_per_op
    ));
    for caveat in &check.caveats {
        line(format!("note        {caveat}"));
    }
    for (reason, count) in &result.refused {
        line(format!("refused     {count} x {reason}"));
    }
    if check.is_clean() {
        line("clean       the generator was not the bottleneck".to_owned());
    }
    for problem in &check.bottleneck {
        line(format!("NOT CLEAN   {problem}"));
    }
    text
}

fn server(result: &RunResult) -> String {
    let server = &result.server;
    let mut parts = Vec::new();
    if let (Some(us), Some(share)) = (server.cpu_us_per_op, server.cpu_share) {
        parts.push(format!("CPU {:.0} % ({us:.2} us/op)", share * 100.0));
    }
    if let Some(syncs) = server.syncs_per_s {
        parts.push(format!("{} syncs", show_rate(syncs)));
    }
    if let Some(records) = server.records_per_sync {
        parts.push(format!("{records:.1} records per sync"));
    }
    if parts.is_empty() {
        parts.push("not observed (--server-pid shows its CPU)".to_owned());
    }
    format!("server      {}", parts.join(", "))
}

/// Bytes per second as a cell.
#[must_use]
pub fn bandwidth(bytes_per_s: f64) -> String {
    format!("{}/s", show_bytes(bytes_per_s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_blanks() {
        let mut table = Table::new(&["name", "value"]);
        table.row(["a".to_owned(), "1".to_owned()]);
        table.row(["longer name".to_owned(), "100".to_owned()]);
        assert_eq!(table.show(), "name         value\na                1\nlonger name    100\n");
    }
}
