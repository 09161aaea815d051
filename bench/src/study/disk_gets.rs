//! `study disk-gets`: gets whose values are not in memory, beside fio's random reads of the same
//! disk. The node reads with direct I/O, so its own cache is the only one, and it is a tenth of the
//! set.

use serde::{Deserialize, Serialize};

use super::node::{Node, Setup, progress, scenario};
use super::{Check, Figures, StudyResult};
use crate::cli::DiskGetsArgs;
use crate::counters;
use crate::error::BenchError;
use crate::floor::fio::{FioResult, PreparedFile, RANDOM_READ_64};
use crate::peers::Spread;
use crate::render::Table;
use crate::result::RunResult;
use crate::run::Phases;
use crate::scenario::{Mix, Placement};
use crate::server::Scratch;
use crate::units::{show_bytes, show_ns, show_rate};

const CONNECTIONS: usize = RANDOM_READ_64.depth as usize;
const VALUE_BYTES: usize = 1024;
/// The set is this many times the cache.
const SET_PER_CACHE: u64 = 10;
const SET_BYTES: u64 = 2560 << 20;
const SET_BYTES_QUICK: u64 = 320 << 20;
/// Required of gets over fio's reads.
const RATIO_MIN: f64 = 0.7;

/// Reads that miss the cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskGetsResult {
    /// Bytes of values.
    pub set_bytes: u64,
    /// Bytes of cache.
    pub cache_bytes: u64,
    /// The node, round by round.
    pub gets: Vec<RunResult>,
    /// fio in the same rounds.
    pub fio: Vec<FioResult>,
    /// Disk reads the node made for a get, in the worst round.
    pub reads_per_get: f64,
    /// Gets over fio's reads, round by round.
    pub gets_ratio: Spread,
    /// The node's disk reads over fio's reads, round by round: gets answered from the cache do not
    /// count.
    pub reads_ratio: Spread,
}

/// Runs it.
///
/// # Errors
/// The node misbehaves or fio fails.
pub fn run(args: &DiskGetsArgs) -> Result<StudyResult, BenchError> {
    let common = &args.common;
    let set_bytes = args.set.unwrap_or(if common.quick { SET_BYTES_QUICK } else { SET_BYTES });
    let cache_bytes = set_bytes / SET_PER_CACHE;
    let both = [common.server_cpu, common.client_cpu];
    let setup = Setup::new(
        common,
        args.shards,
        &both[..usize::from(args.shards)],
        &[("memory.cache_bytes", cache_bytes.to_string())],
    )?;
    let keys = (set_bytes / VALUE_BYTES as u64).max(1);
    let mix = Mix { get: 1, ..Mix::default() };
    let mut scenario = scenario("disk-gets", common, CONNECTIONS, mix, keys, VALUE_BYTES);
    scenario.keys.prefill = true;
    scenario.duration = args.duration;
    scenario.warmup = std::time::Duration::from_secs(1);
    scenario.check()?;

    let scratch = Scratch::new(&common.data_root, "disk-gets", common.keep)?;
    let (mut node, _) = Node::start(&setup, &scratch)?;
    progress(common, &format!("filling with {} of values", show_bytes(set_bytes as f64)));
    node.run(&scenario, common, Phases::Prefill)?;
    node.freeze()?;
    if args.shards > 1 {
        // Clients know the map, and there is no CPU that only the generator uses.
        scenario.keys.prefill = false;
        scenario.load.placement = Placement::Owner;
        scenario.load.pin.clear();
        scenario.check()?;
    }
    let file = PreparedFile::create(scratch.path(), set_bytes)?;
    let (mut gets, mut fio) = (Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        progress(common, &format!("round {round} of {}", args.rounds));
        node.thaw()?;
        gets.push(node.measure(&scenario, &common.with_seed_of(round as u64))?);
        node.freeze()?;
        let seconds = u32::try_from(args.duration.as_secs().max(1)).unwrap_or(u32::MAX);
        fio.push(file.run(&RANDOM_READ_64, seconds)?);
    }
    node.thaw()?;
    node.stop()?;

    let figures = DiskGetsResult::of(set_bytes, cache_bytes, gets, fio)?;
    let reads = figures.reads_per_get;
    let ratio = figures.gets_ratio;
    let checks = vec![
        Check {
            what: "disk reads per get, worst round".to_owned(),
            required: "at most 1".to_owned(),
            measured: format!("{reads:.4}"),
            holds: reads <= 1.0,
        },
        Check {
            what: "gets over fio's random reads, median".to_owned(),
            required: format!("at least {RATIO_MIN}x"),
            measured: format!("{:.2}x ({:.2}..{:.2})", ratio.median, ratio.min, ratio.max),
            holds: ratio.median >= RATIO_MIN,
        },
    ];
    let notes = vec![
        match args.shards {
            1 => format!(
                "node on CPU {}, generator on CPU {}, fio on either; fio and the node take turns",
                common.server_cpu, common.client_cpu
            ),
            _ => "two shards and the generator share both CPUs; fio and the node take turns"
                .to_owned(),
        },
        "a value of 1 KiB lies in one 4 KiB block or across two: some reads are of 8 KiB"
            .to_owned(),
    ];
    Ok(StudyResult {
        quick: common.quick,
        server: setup.version.clone(),
        settings: setup.arguments(),
        figures: Figures::DiskGets(Box::new(figures)),
        checks,
        notes,
    })
}

/// Disk reads and gets of a run, by the node's own count.
fn counted(run: &RunResult) -> Option<(f64, f64)> {
    let counted = &run.server.counters;
    counters::sum(counted, "get_disk_reads").zip(counters::sum(counted, "gets"))
}

impl DiskGetsResult {
    fn of(
        set_bytes: u64,
        cache_bytes: u64,
        gets: Vec<RunResult>,
        fio: Vec<FioResult>,
    ) -> Result<DiskGetsResult, BenchError> {
        let nothing = || BenchError::Server("a round counted no gets or no disk reads".to_owned());
        let counts: Vec<(f64, f64)> =
            gets.iter().map(counted).collect::<Option<_>>().ok_or_else(nothing)?;
        let reads_per_get = counts.iter().map(|(reads, gets)| reads / gets).fold(0.0, f64::max);
        let over_fio = |rates: Vec<f64>| {
            Spread::of(rates.iter().zip(&fio).map(|(rate, fio)| rate / fio.iops).collect())
        };
        let gets_ratio = over_fio(gets.iter().map(|run| run.achieved_per_s).collect());
        // The counters span a little more than the window, so only their ratio is used.
        let reads = gets.iter().zip(&counts).map(|(run, (r, g))| run.achieved_per_s * r / g);
        let reads_ratio = over_fio(reads.collect());
        let (gets_ratio, reads_ratio) = gets_ratio.zip(reads_ratio).ok_or_else(nothing)?;
        let result = DiskGetsResult {
            set_bytes,
            cache_bytes,
            gets,
            fio,
            reads_per_get,
            gets_ratio,
            reads_ratio,
        };
        Ok(result)
    }

    /// As a person reads it.
    #[must_use]
    pub fn show(&self) -> String {
        let mut text = format!(
            "gets of 1 KiB values, {CONNECTIONS} connections, closed loop, {} of values with {} \
             of cache\n",
            show_bytes(self.set_bytes as f64),
            show_bytes(self.cache_bytes as f64)
        );
        let columns = [
            "round",
            "gets",
            "p50",
            "p99",
            "reads/get",
            "CPU us/get",
            "clean",
            "fio reads",
            "p50",
            "p99",
            "gets/fio",
            "reads/fio",
        ];
        let mut table = Table::new(&columns);
        for (i, (run, fio)) in self.gets.iter().zip(&self.fio).enumerate() {
            let latency = |pick: fn(&crate::latency::Latency) -> u64| {
                run.latency().map_or("-".to_owned(), |l| show_ns(pick(l)))
            };
            let (reads, gets) = counted(run).unwrap_or((f64::NAN, f64::NAN));
            let per_get = reads / gets;
            table.row([
                (i + 1).to_string(),
                show_rate(run.achieved_per_s),
                latency(|l| l.p50_ns),
                latency(|l| l.p99_ns),
                format!("{per_get:.3}"),
                run.server.cpu_us_per_op.map_or("-".to_owned(), |us| format!("{us:.2}")),
                if run.self_check.is_clean() { "yes" } else { "NO" }.to_owned(),
                show_rate(fio.iops),
                show_ns(fio.p50_ns),
                show_ns(fio.p99_ns),
                format!("{:.2}x", run.achieved_per_s / fio.iops),
                format!("{:.2}x", run.achieved_per_s * per_get / fio.iops),
            ]);
        }
        text += &table.show();
        text
    }
}
