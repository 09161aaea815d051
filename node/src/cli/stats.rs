//! `ironring stats`: what the shards of a cluster count, asked over the client protocol.
//!
//! Each shard counts for itself and answers for itself, so each is asked on its own port.

use ironring_core::Durability;
use ironring_net::client::ClientConfig;
use ironring_net::client::blocking::Client;
use serde::Serialize;
use serde_json::Value;

use super::connect::ConnectArgs;
use super::error::{CliError, PROTOCOL_ERROR};
use super::output::{Cell, Column, Output, Report, Tone, View, each};
use super::units;

/// Asks every shard and prints its counters.
///
/// # Errors
/// When a shard cannot be asked, or answers something else than a JSON object.
pub fn run(connect: &ConnectArgs, output: Output) -> Result<(), CliError> {
    let map = connect.connect()?.cluster_map()?;
    let mut shards = Vec::with_capacity(map.shards.len());
    for shard in &map.shards {
        let config = ClientConfig {
            addrs: vec![shard.address.clone()],
            ..connect.config(Durability::Quorum, u64::from(shard.shard))
        };
        let text = Client::connect(config)?.stats()?;
        let counters = serde_json::from_str(&text).map_err(|error| {
            let message = format!("the counters of shard {} are not JSON: {error}", shard.shard);
            CliError::local(&PROTOCOL_ERROR, message)
        })?;
        shards.push(ShardStats { address: shard.address.clone(), counters });
    }
    output.print(&Stats { shards }).map_err(|error| CliError::io("stdout", &error))
}

/// Every shard's own words, whatever its version counts.
#[derive(Serialize)]
struct Stats {
    shards: Vec<ShardStats>,
}

#[derive(Serialize)]
struct ShardStats {
    address: String,
    #[serde(flatten)]
    counters: Value,
}

impl Report for Stats {
    fn view(&self) -> View {
        let requests: Vec<Vec<Cell>> = self.shards.iter().map(ShardStats::requests).collect();
        let storage: Vec<Vec<Cell>> = self.shards.iter().map(ShardStats::storage).collect();
        View::new().rows(&REQUESTS, requests).rows(&STORAGE, storage)
    }

    fn items(&self) -> serde_json::Result<Vec<Value>> {
        each(&self.shards)
    }
}

const REQUESTS: [Column; 9] = [
    Column::Right("SHARD"),
    Column::Left("STATE"),
    Column::Left("ADDRESS"),
    Column::Right("CONNECTIONS"),
    Column::Right("REQUESTS"),
    Column::Right("ERRORS"),
    Column::Right("READ P99"),
    Column::Right("WRITE P99"),
    Column::Right("FLUSH P99"),
];

const STORAGE: [Column; 9] = [
    Column::Right("SHARD"),
    Column::Right("KEYS"),
    Column::Right("INDEX"),
    Column::Right("CACHE"),
    Column::Right("WAITING"),
    Column::Right("LIVE"),
    Column::Right("DEAD"),
    Column::Right("SEGMENTS"),
    Column::Right("DAMAGES"),
];

/// The counters people look at first. One that is not there is a dash.
impl ShardStats {
    fn number(&self, pointer: &str) -> Option<u64> {
        self.counters.pointer(pointer).and_then(Value::as_u64)
    }

    fn count(&self, pointer: &str) -> Cell {
        or_dash(self.number(pointer).map(units::count))
    }

    fn bytes(&self, pointer: &str) -> Cell {
        or_dash(self.number(pointer).map(units::bytes))
    }

    fn seconds(&self, pointer: &str) -> Cell {
        let seconds = self.counters.pointer(pointer).and_then(Value::as_f64);
        let duration = seconds.and_then(|s| std::time::Duration::try_from_secs_f64(s).ok());
        or_dash(duration.map(units::duration))
    }

    fn sum(&self, pointer: &str) -> Cell {
        let by_name = self.counters.pointer(pointer).and_then(Value::as_object);
        let sum = by_name.map(|counts| counts.values().filter_map(Value::as_u64).sum());
        or_dash(sum.map(units::count))
    }

    fn shard(&self) -> Cell {
        or_dash(self.number("/shard").map(|number| number.to_string()))
    }

    fn requests(&self) -> Vec<Cell> {
        let state = self.counters.get("state").and_then(Value::as_str).unwrap_or("-");
        let tone = match state {
            "ready" => Tone::Good,
            "fenced" => Tone::Bad,
            _ => Tone::Warn,
        };
        vec![
            self.shard(),
            Cell::toned(state, tone),
            self.address.as_str().into(),
            self.count("/clients/connections"),
            self.sum("/clients/requests"),
            self.sum("/clients/errors"),
            self.seconds("/clients/read_latency/p99_seconds"),
            self.seconds("/clients/write_latency/p99_seconds"),
            self.seconds("/log/flush_latency/p99_seconds"),
        ]
    }

    fn storage(&self) -> Vec<Cell> {
        let segments = ["free", "active", "sealed"]
            .map(|state| self.number(&format!("/disk/segments_{state}")));
        let segments = match segments {
            [Some(free), Some(active), Some(sealed)] => Some(format!("{free}+{active}+{sealed}")),
            _ => None,
        };
        let damages = self.number("/background/damages");
        let tone = if damages.is_some_and(|count| count > 0) { Tone::Bad } else { Tone::Plain };
        vec![
            self.shard(),
            self.count("/memory/index_keys"),
            self.bytes("/memory/index_bytes"),
            self.bytes("/memory/cache_bytes"),
            self.bytes("/log/waiting_bytes"),
            self.bytes("/disk/live_bytes"),
            self.bytes("/disk/dead_bytes"),
            or_dash(segments),
            Cell::toned(damages.map_or_else(|| "-".to_owned(), |count| count.to_string()), tone),
        ]
    }
}

fn or_dash(text: Option<String>) -> Cell {
    Cell::from(text.unwrap_or_else(|| "-".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{ShardSnapshot, ShardState};

    fn rendered(counters: Value) -> String {
        let address = "h:1".to_owned();
        Stats { shards: vec![ShardStats { address, counters }] }.view().render(None, false)
    }

    #[test]
    fn a_snapshot_becomes_a_row_of_requests_and_one_of_storage() {
        let mut shard = ShardSnapshot { shard: 4, state: ShardState::Ready, ..Default::default() };
        shard.clients.requests.insert("Put", 1200);
        shard.clients.requests.insert("Get", 300);
        shard.clients.write_latency.record(std::time::Duration::from_micros(10));
        shard.disk.live_bytes = 3 << 20;
        shard.disk.segments_sealed = 7;
        let table = rendered(serde_json::to_value(&shard).unwrap());
        let lines: Vec<&str> = table.lines().collect();
        let cells = |line: &str| {
            line.split("  ")
                .map(str::trim)
                .filter(|c| !c.is_empty())
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(cells(lines[1]), ["4", "ready", "h:1", "0", "1.5 k", "0", "-", "12 us", "-"]);
        assert_eq!(
            cells(lines[4]),
            ["4", "0", "0 B", "0 B", "0 B", "3.0 MiB", "0 B", "0+0+7", "0"]
        );
    }

    #[test]
    fn counters_of_another_version_are_shown_as_far_as_they_go() {
        let table = rendered(serde_json::json!({ "shard": 0, "new": { "thing": 1 } }));
        assert!(table.lines().nth(1).unwrap().trim_start().starts_with("0  -"), "{table}");
    }
}
