//! `study scaling`: durable puts by more and more connections on one and on two shards. What group
//! commit makes of them (records per sync), what a request costs, and what a second shard brings.

use serde::{Deserialize, Serialize};

use super::node::{Node, Setup, progress, scenario};
use super::{Figures, StudyResult};
use crate::cli::ScalingArgs;
use crate::error::BenchError;
use crate::latency::Latency;
use crate::peers::Spread;
use crate::render::Table;
use crate::result::RunResult;
use crate::scenario::{Mix, Placement};
use crate::server::Scratch;
use crate::units::{show_ns, show_rate};

const CONNECTIONS: [usize; 4] = [1, 16, 64, 256];
const KEYS: u64 = 100_000;
const VALUE_BYTES: usize = 1024;

/// How many shards, and how clients find them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Shards of the node.
    pub shards: u16,
    /// Which shards connections are made to.
    pub placement: Placement,
}

const SHAPES: [Shape; 3] = [
    Shape { shards: 1, placement: Placement::Any },
    Shape { shards: 2, placement: Placement::Owner },
    Shape { shards: 2, placement: Placement::Any },
];

/// One shape with so many connections, over all rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Shards and placement.
    pub shape: Shape,
    /// Connections.
    pub connections: usize,
    /// The rounds.
    pub rounds: Vec<RunResult>,
    /// Puts per second over those of one shard, round by round.
    pub ratio: Option<Spread>,
}

/// Connections and shards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScalingResult {
    /// Each shape with each number of connections.
    pub cells: Vec<Cell>,
}

/// Runs it.
///
/// # Errors
/// A node misbehaves.
pub fn run(args: &ScalingArgs) -> Result<StudyResult, BenchError> {
    let common = &args.common;
    let both = [common.server_cpu, common.client_cpu];
    let mut nodes = Vec::new();
    let mut setups = Vec::new();
    for shards in [1, 2] {
        let cpus = if shards == 1 { &both[..1] } else { &both[..] };
        let setup = Setup::new(common, shards, cpus, &[])?;
        let scratch = Scratch::new(&common.data_root, "scaling", common.keep)?;
        let (mut node, _) = Node::start(&setup, &scratch)?;
        node.freeze()?;
        nodes.push((shards, node));
        setups.push(setup);
    }
    let mut cells: Vec<Cell> = Vec::new();
    for connections in CONNECTIONS {
        for shape in SHAPES {
            cells.push(Cell { shape, connections, rounds: Vec::new(), ratio: None });
        }
    }
    for round in 1..=args.rounds {
        for cell in &mut cells {
            let Shape { shards, placement } = cell.shape;
            let words = format!(
                "round {round} of {}: {shards} shards, {} connections",
                args.rounds, cell.connections
            );
            progress(common, &words);
            let put = Mix { put: 1, ..Mix::default() };
            let mut scenario =
                scenario("scaling", common, cell.connections, put, KEYS, VALUE_BYTES);
            scenario.duration = args.duration;
            scenario.warmup = std::time::Duration::from_secs(1);
            scenario.load.placement = placement;
            if shards > 1 {
                // There is no CPU that only the generator uses.
                scenario.load.pin.clear();
            }
            scenario.check()?;
            let (_, node) = nodes
                .iter_mut()
                .find(|(of, _)| *of == shards)
                .expect("a node was started for every shape");
            node.thaw()?;
            cell.rounds.push(node.measure(&scenario, common)?);
            node.freeze()?;
        }
    }
    for (_, mut node) in nodes {
        node.thaw()?;
        node.stop()?;
    }
    fill_ratios(&mut cells);
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let mut notes = vec![format!(
        "one shard runs on CPU {}, its generator on CPU {}; two shards run on both, and the \
         generator shares them",
        common.server_cpu, common.client_cpu
    )];
    if cpus < 3 {
        notes.push(format!(
            "this machine has {cpus} CPUs: two shards and the generator do not fit, so the ratio \
             says what is left for the shards, not what a second one brings"
        ));
    }
    notes.push(
        "placement owner: connections go to the shard that owns their keys, as clients with the \
         cluster map do; any: half of the requests cross to the other shard"
            .to_owned(),
    );
    Ok(StudyResult {
        quick: common.quick,
        server: setups[0].version.clone(),
        settings: setups.iter().flat_map(Setup::arguments).collect(),
        figures: Figures::Scaling(Box::new(ScalingResult { cells })),
        checks: Vec::new(),
        notes,
    })
}

/// Every cell over the one with the same connections and one shard.
fn fill_ratios(cells: &mut [Cell]) {
    let per_s =
        |cell: &Cell| -> Vec<f64> { cell.rounds.iter().map(|run| run.achieved_per_s).collect() };
    for i in 0..cells.len() {
        let base = cells
            .iter()
            .find(|c| c.shape.shards == 1 && c.connections == cells[i].connections)
            .map(per_s);
        if let Some(base) = base.filter(|_| cells[i].shape.shards > 1) {
            let pairs = per_s(&cells[i]).into_iter().zip(base);
            cells[i].ratio = Spread::of(pairs.map(|(ours, one)| ours / one).collect());
        }
    }
}

impl ScalingResult {
    /// As a person reads it.
    #[must_use]
    pub fn show(&self) -> String {
        let columns = [
            "connections",
            "shards",
            "placement",
            "puts",
            "over 1 shard",
            "p50",
            "p99",
            "records/sync",
            "syncs",
            "CPU us/put",
            "clean",
        ];
        let mut table = Table::new(&columns);
        for cell in &self.cells {
            let median = |figure: &dyn Fn(&RunResult) -> Option<f64>| {
                Spread::of(cell.rounds.iter().filter_map(figure).collect()).map(|s| s.median)
            };
            let latency = |pick: fn(&Latency) -> u64| {
                let median = median(&|run| run.latency().map(|l| pick(l) as f64));
                median.map_or("-".to_owned(), |ns| show_ns(ns as u64))
            };
            let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            let clean = cell.rounds.iter().filter(|run| run.self_check.is_clean()).count();
            table.row([
                cell.connections.to_string(),
                cell.shape.shards.to_string(),
                match cell.shape.placement {
                    Placement::Any => "any",
                    Placement::Owner => "owner",
                    Placement::Leader => "leader",
                }
                .to_owned(),
                dash(median(&|run| Some(run.achieved_per_s)).map(show_rate)),
                dash(cell.ratio.map(|r| format!("{:.2}x ({:.2}..{:.2})", r.median, r.min, r.max))),
                latency(|l| l.p50_ns),
                latency(|l| l.p99_ns),
                dash(median(&|run| run.server.records_per_sync).map(|n| format!("{n:.1}"))),
                dash(median(&|run| run.server.syncs_per_s).map(show_rate)),
                dash(median(&|run| run.server.cpu_us_per_op).map(|us| format!("{us:.2}"))),
                format!("{clean}/{}", cell.rounds.len()),
            ]);
        }
        format!("durable puts of 1 KiB, closed loop, medians over rounds\n{}", table.show())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_pair_rounds_of_the_same_connections() {
        let run = |per_s: f64| {
            let mut run = crate::result::example();
            run.achieved_per_s = per_s;
            run
        };
        let cell = |shards, connections, rates: [f64; 2]| Cell {
            shape: Shape { shards, placement: Placement::Any },
            connections,
            rounds: rates.map(run).to_vec(),
            ratio: None,
        };
        let mut cells = [
            cell(1, 1, [100.0, 50.0]),
            cell(2, 1, [150.0, 100.0]),
            cell(1, 64, [1000.0, 1000.0]),
            cell(2, 64, [900.0, 900.0]),
        ];
        fill_ratios(&mut cells);
        assert_eq!(cells[1].ratio, Some(Spread { min: 1.5, median: 1.75, max: 2.0 }));
        assert_eq!(cells[3].ratio.unwrap().median, 0.9);
        assert!(cells[0].ratio.is_none() && cells[2].ratio.is_none());
    }
}
