//! `ironring stats`: what the shards of a cluster count, asked over the client protocol.
//!
//! Each shard counts for itself and answers for itself, so each is asked on its own port. Where that is
//! says the list of members, over HTTP; or the map for clients, which names the shards that lead
//! partitions and no others.

use std::collections::BTreeMap;

use clap::Args;
use ironring_core::Durability;
use ironring_net::client::ClientConfig;
use ironring_net::client::blocking::Client;
use ironring_net::message::ClusterMap;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::connect::ConnectArgs;
use super::error::{CONNECT_FAILED, CliError, EXIT_UNHEALTHY, Fault, PROTOCOL_ERROR};
use super::http::HttpArgs;
use super::output::{Cell, Column, Output, Report, Tone, View, each};
use super::units;
use crate::cluster::status::MemberView;

/// Most shards asked at the same time: nobody waits for those of a dead node one after the other.
const ASKED_AT_ONCE: usize = 32;

/// Arguments of `stats`.
#[derive(Args, Debug)]
pub struct StatsArgs {
    /// Which node to ask for the map, and how long to wait for each shard.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// HTTP address of a node: ask also shards that lead nothing (repeatable: tried in this order)
    #[arg(long, value_name = "HOST:PORT")]
    pub http: Vec<String>,
}

/// Asks every shard and prints its counters.
///
/// # Errors
/// When it cannot be told where they are; behind the output, with a status of its own, when a shard did
/// not answer.
pub fn run(args: &StatsArgs, output: Output) -> Result<(), CliError> {
    let StatsArgs { connect, http } = args;
    let places = match http.is_empty() {
        true => places(&connect.connect()?.cluster_map()?),
        false => {
            let http = HttpArgs { http: http.clone(), timeout: connect.timeout };
            let members: Vec<MemberView> = http.ask("GET", "/v1/cluster/members", None)?;
            places_of(&members)
        }
    };
    let stats = Stats::ask(connect, &places);
    output.print(&stats).map_err(|error| CliError::io("stdout", &error))?;
    stats.unanswered().map_or(Ok(()), Err)
}

/// The shards of a map by where they listen, each once: the map has an entry for each run of
/// partitions with the same leader.
fn places(map: &ClusterMap) -> BTreeMap<String, u16> {
    map.shards.iter().map(|shard| (shard.address.clone(), shard.shard)).collect()
}

/// The shards of all members by where they listen.
fn places_of(members: &[MemberView]) -> BTreeMap<String, u16> {
    let shards = members.iter().flat_map(|member| (0..).zip(&member.shard_addresses));
    shards.map(|(shard, address)| (address.clone(), shard)).collect()
}

/// Every shard's own words, whatever its version counts; in order of nodes and their shards.
#[derive(Serialize)]
#[serde(transparent)]
struct Stats(Vec<ShardStats>);

#[derive(Serialize)]
struct ShardStats {
    /// The node, as it calls itself; unknown of one that does not answer.
    node: Option<String>,
    address: String,
    /// Why there are no counters.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Value>,
    /// An object; of a shard that does not answer only its number.
    #[serde(flatten)]
    counters: Value,
}

impl Stats {
    /// Asks all. Takes as long as the slowest, for every [`ASKED_AT_ONCE`] of them.
    fn ask(connect: &ConnectArgs, places: &BTreeMap<String, u16>) -> Stats {
        let places: Vec<(u64, &str, u16)> = (0..)
            .zip(places)
            .map(|(lane, (address, shard))| (lane, address.as_str(), *shard))
            .collect();
        let mut shards: Vec<ShardStats> = Vec::with_capacity(places.len());
        for some in places.chunks(ASKED_AT_ONCE) {
            std::thread::scope(|scope| {
                let ask = |&(lane, address, shard): &(u64, &str, u16)| {
                    let address = address.to_owned();
                    scope.spawn(move || ShardStats::ask(connect, lane, address, shard))
                };
                let asked: Vec<_> = some.iter().map(ask).collect();
                let answered = asked.into_iter().map(|thread| thread.join());
                shards.extend(answered.map(|row| row.expect("asking does not panic")));
            });
        }
        shards.sort_by(|a, b| a.order().cmp(&b.order()));
        Stats(shards)
    }

    /// What the command says when shards did not answer.
    fn unanswered(&self) -> Option<CliError> {
        let mut faults: Vec<Fault> = self.0.iter().filter_map(ShardStats::fault).collect();
        let first = faults.first_mut()?;
        first.hint = "`ironring cluster members` says which nodes are heard".to_owned();
        let error = CliError::local(&CONNECT_FAILED, "");
        Some(CliError { exit: EXIT_UNHEALTHY, faults, ..error })
    }
}

impl Report for Stats {
    fn view(&self) -> View {
        let requests: Vec<Vec<Cell>> = self.0.iter().map(ShardStats::requests).collect();
        let answered = self.0.iter().filter(|shard| shard.error.is_none());
        let storage: Vec<Vec<Cell>> = answered.map(ShardStats::storage).collect();
        View::new().rows(&REQUESTS, requests).rows(&STORAGE, storage)
    }

    fn items(&self) -> serde_json::Result<Vec<Value>> {
        each(&self.0)
    }
}

const REQUESTS: [Column; 10] = [
    Column::Left("NODE"),
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

const STORAGE: [Column; 10] = [
    Column::Left("NODE"),
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
    /// Asks the shard that listens at an address. `lane` is another for each.
    fn ask(connect: &ConnectArgs, lane: u64, address: String, shard: u16) -> ShardStats {
        match answer(connect, lane, &address, shard) {
            Ok((node, counters)) => ShardStats { node, address, error: None, counters },
            Err(error) => ShardStats {
                node: None,
                address,
                error: Some(error.json()),
                counters: json!({ "shard": shard }),
            },
        }
    }

    /// By node and shard; those of unknown nodes last.
    fn order(&self) -> (bool, Option<&str>, Option<u64>, &str) {
        (self.node.is_none(), self.node.as_deref(), self.number("/shard"), self.address.as_str())
    }

    /// Why it did not answer, if it did not.
    fn fault(&self) -> Option<Fault> {
        let why = self.error.as_ref()?["message"].as_str().unwrap_or_default();
        // Some errors begin with the address, and some do not.
        let why = why.strip_prefix(&format!("{}: ", self.address)).unwrap_or(why);
        let shard = self.number("/shard").unwrap_or_default();
        let message = format!("no counters of shard {shard} at {}: {why}", self.address);
        Some(Fault { message, hint: String::new() })
    }

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

    fn node(&self) -> Cell {
        or_dash(self.node.clone())
    }

    fn shard(&self) -> Cell {
        or_dash(self.number("/shard").map(|number| number.to_string()))
    }

    fn requests(&self) -> Vec<Cell> {
        let state = match self.error {
            Some(_) => "no answer",
            None => self.counters.get("state").and_then(Value::as_str).unwrap_or("-"),
        };
        let tone = match state {
            "ready" => Tone::Good,
            "fenced" | "no answer" => Tone::Bad,
            _ => Tone::Warn,
        };
        vec![
            self.node(),
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
            self.node(),
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

/// What one shard says: the name of its node, and its counters.
fn answer(
    connect: &ConnectArgs,
    lane: u64,
    address: &str,
    shard: u16,
) -> Result<(Option<String>, Value), CliError> {
    let addrs = vec![address.to_owned()];
    let config = ClientConfig { addrs, ..connect.config(Durability::Quorum, lane) };
    let mut client = Client::connect(config)?;
    let text = client.stats()?;
    let counters: Map<String, Value> = serde_json::from_str(&text).map_err(|error| {
        let message = format!("the counters of shard {shard} are no JSON object: {error}");
        CliError::local(&PROTOCOL_ERROR, message)
    })?;
    let node = client.servers().next().map(|(_, server)| server.node.clone());
    Ok((node, Value::Object(counters)))
}

fn or_dash(text: Option<String>) -> Cell {
    Cell::from(text.unwrap_or_else(|| "-".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ironring_net::message::ShardAddress;

    use super::*;
    use crate::metrics::{ShardSnapshot, ShardState};

    fn answered(counters: Value) -> Stats {
        let (node, address) = (Some("a".to_owned()), "h:1".to_owned());
        Stats(vec![ShardStats { node, address, error: None, counters }])
    }

    fn cells(line: &str) -> Vec<&str> {
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
    }

    #[test]
    fn a_snapshot_becomes_a_row_of_requests_and_one_of_storage() {
        let mut shard = ShardSnapshot { shard: 4, state: ShardState::Ready, ..Default::default() };
        shard.clients.requests.insert("Put", 1200);
        shard.clients.requests.insert("Get", 300);
        shard.clients.write_latency.record(Duration::from_micros(10));
        shard.disk.live_bytes = 3 << 20;
        shard.disk.segments_sealed = 7;
        let table = answered(serde_json::to_value(&shard).unwrap()).view().render(None, false);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(
            cells(lines[1]),
            ["a", "4", "ready", "h:1", "0", "1.5 k", "0", "-", "12 us", "-"]
        );
        assert_eq!(
            cells(lines[4]),
            ["a", "4", "0", "0 B", "0 B", "0 B", "3.0 MiB", "0 B", "0+0+7", "0"]
        );
    }

    #[test]
    fn counters_of_another_version_are_shown_as_far_as_they_go() {
        let stats = answered(json!({ "shard": 0, "new": { "thing": 1 } }));
        let table = stats.view().render(None, false);
        let row = cells(table.lines().nth(1).unwrap());
        assert_eq!(row[..4], ["a", "0", "-", "h:1"], "{table}");
        assert!(stats.unanswered().is_none());
    }

    #[test]
    fn a_shard_is_asked_once_however_its_partitions_lie() {
        let shard = |shard, address: &str, first| {
            let address = address.to_owned();
            ShardAddress { shard, address, first, end: first + 1 }
        };
        let shards = vec![shard(0, "a:1", 0), shard(0, "b:1", 1), shard(0, "a:1", 2)];
        let shards = [shards, vec![shard(1, "a:2", 3)]].concat();
        let map = ClusterMap { epoch: 1, partitions: 4, shards };
        let wanted = [("a:1", 0), ("a:2", 1), ("b:1", 0)].map(|(a, n)| (a.to_owned(), n));
        assert_eq!(places(&map), BTreeMap::from(wanted));
    }

    #[test]
    fn a_shard_that_does_not_answer_has_a_row_and_decides_the_exit_status() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let nobody = nobody.to_string();
        let timeout = Duration::from_millis(500);
        let connect = ConnectArgs { addr: Vec::new(), cluster: String::new(), timeout };
        let stats = Stats::ask(&connect, &BTreeMap::from([(nobody.clone(), 3)]));
        let json = serde_json::to_value(&stats).unwrap();
        assert_eq!((&json[0]["shard"], &json[0]["address"]), (&json!(3), &json!(nobody)));
        assert_eq!(json[0]["error"]["code"], "connect_failed", "{json}");
        let table = stats.view().render(None, false);
        let row = cells(table.lines().nth(1).unwrap());
        assert_eq!(row[..4], ["-", "3", "no answer", nobody.as_str()], "{table}");
        let error = stats.unanswered().unwrap();
        assert_eq!((error.exit, error.retriable), (EXIT_UNHEALTHY, true));
        let begin = format!("no counters of shard 3 at {nobody}: ");
        let message = &error.faults[0].message;
        let why = message.strip_prefix(&begin);
        assert!(why.is_some_and(|why| !why.contains(&nobody)), "{message}");
    }
}
