//! `ironring stats`: what a node counts, asked over the client protocol.

use serde::Serialize;
use serde_json::Value;

use super::connect::ConnectArgs;
use super::error::{CliError, PROTOCOL_ERROR};
use super::output::{Cell, Column, Output, Report, Tone, View};
use super::units;

/// Asks the node and prints its counters.
///
/// # Errors
/// When the node cannot be asked, or answers something else than a JSON object.
pub fn run(connect: &ConnectArgs, output: Output) -> Result<(), CliError> {
    let text = connect.connect()?.stats()?;
    let stats: Value = serde_json::from_str(&text).map_err(|error| {
        CliError::local(&PROTOCOL_ERROR, format!("the counters are not JSON: {error}"))
    })?;
    output.print(&Stats(stats)).map_err(|error| CliError::io("stdout", &error))
}

/// The node's own words, whatever its version counts.
#[derive(Serialize)]
#[serde(transparent)]
struct Stats(Value);

impl Report for Stats {
    fn view(&self) -> View {
        let mut pairs: Vec<(String, String)> = Vec::new();
        flatten("", &self.0, &mut pairs);
        let view = View::new().pairs(pairs);
        match self.0.get("shards").and_then(Value::as_array) {
            Some(shards) if !shards.is_empty() => {
                view.rows(&COLUMNS, shards.iter().map(shard_row).collect())
            }
            _ => view,
        }
    }
}

/// Names and values of everything but the shards, `outer.inner` for objects.
fn flatten(path: &str, value: &Value, pairs: &mut Vec<(String, String)>) {
    let Value::Object(fields) = value else {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        pairs.push((path.to_owned(), text));
        return;
    };
    for (name, value) in fields.iter().filter(|(name, _)| *name != "shards") {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        flatten(&path, value, pairs);
    }
}

const COLUMNS: [Column; 11] = [
    Column::Right("SHARD"),
    Column::Left("STATE"),
    Column::Right("CONNECTIONS"),
    Column::Right("REQUESTS"),
    Column::Right("ERRORS"),
    Column::Right("WRITE P99"),
    Column::Right("FLUSH P99"),
    Column::Right("WAITING"),
    Column::Right("KEYS"),
    Column::Right("LIVE"),
    Column::Right("DEAD"),
];

/// The counters people look at first. One that is not there is a dash.
fn shard_row(shard: &Value) -> Vec<Cell> {
    let number = |pointer: &str| shard.pointer(pointer).and_then(Value::as_u64);
    let sum = |pointer: &str| {
        let by_name = shard.pointer(pointer).and_then(Value::as_object);
        by_name.map(|counts| counts.values().filter_map(Value::as_u64).sum::<u64>())
    };
    let seconds = |pointer: &str| {
        let seconds = shard.pointer(pointer).and_then(Value::as_f64).filter(|s| *s >= 0.0);
        seconds.map(std::time::Duration::from_secs_f64)
    };
    let text = |value: Option<String>| Cell::from(value.unwrap_or_else(|| "-".to_owned()));
    let state = shard.get("state").and_then(Value::as_str).unwrap_or("-");
    let tone = match state {
        "ready" => Tone::Good,
        "fenced" => Tone::Bad,
        _ => Tone::Warn,
    };
    vec![
        text(number("/shard").map(|number| number.to_string())),
        Cell::toned(state, tone),
        text(number("/clients/connections").map(units::count)),
        text(sum("/clients/requests").map(units::count)),
        text(sum("/clients/errors").map(units::count)),
        text(seconds("/clients/write_latency/p99_seconds").map(units::duration)),
        text(seconds("/log/flush_latency/p99_seconds").map(units::duration)),
        text(number("/log/waiting_bytes").map(units::bytes)),
        text(number("/memory/index_keys").map(units::count)),
        text(number("/disk/live_bytes").map(units::bytes)),
        text(number("/disk/dead_bytes").map(units::bytes)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{NodeSnapshot, ShardSnapshot, ShardState};

    #[test]
    fn a_snapshot_becomes_pairs_and_a_row_per_shard() {
        let mut shard = ShardSnapshot { shard: 4, state: ShardState::Ready, ..Default::default() };
        shard.clients.requests.insert("Put", 1200);
        shard.clients.requests.insert("Get", 300);
        shard.disk.live_bytes = 3 << 20;
        let node = NodeSnapshot { node: "n".to_owned(), shards: vec![shard], ..Default::default() };
        let table = Stats(serde_json::to_value(&node).unwrap()).view().render(None, false);
        assert!(table.contains("node                      n\n"), "{table}");
        assert!(table.contains("process.resident_bytes    0\n"), "{table}");
        let row = table.lines().last().unwrap();
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(cells[..5], ["4", "ready", "0", "1.5", "k"], "{row}");
        assert!(row.contains("3.0 MiB"), "{row}");
    }

    #[test]
    fn counters_of_another_version_are_shown_as_far_as_they_go() {
        let value = serde_json::json!({ "new": { "thing": 1 }, "shards": [{ "shard": 0 }] });
        let table = Stats(value).view().render(None, false);
        assert!(table.starts_with("new.thing  1\n"), "{table}");
        assert!(table.lines().last().unwrap().trim_start().starts_with("0  -"), "{table}");
    }
}
