//! `study recovery`: how long a node needs to serve again after SIGKILL under load, with a
//! checkpoint and without one, beside fio's sequential read of the same segment files. Nothing is
//! dropped by hand: both read with direct I/O, past the page cache.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::node::{Node, Setup, progress, scenario, segment_files};
use super::{Check, Figures, StudyResult};
use crate::cli::RecoveryArgs;
use crate::error::BenchError;
use crate::floor::fio::{FioResult, read_once};
use crate::peers::Spread;
use crate::render::{Table, bandwidth};
use crate::run::Phases;
use crate::scenario::Mix;
use crate::server::Scratch;
use crate::units::show_bytes;

const CONNECTIONS: usize = 64;
const VALUE_BYTES: usize = 1024;
const FILL_BYTES: u64 = 4 << 30;
const FILL_BYTES_QUICK: u64 = 512 << 20;
/// More log than any fill writes: no checkpoint comes about.
const NEVER_BYTES: u64 = 64 << 30;
/// Log between two checkpoints of a quick study; the whole one uses the node's default.
const INTERVAL_BYTES_QUICK: u64 = 32 << 20;
/// The load the node is killed under runs this long before.
const LOAD: Duration = Duration::from_secs(2);
const GIB: f64 = (1_u64 << 30) as f64;

/// One restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Restart {
    /// From the start of the process until every shard serves, in seconds.
    pub ready_s: f64,
    /// The slowest shard's recovery by its own account, in seconds.
    pub recovery_s: f64,
    /// Bytes the shards read to recover.
    pub read_bytes: u64,
    /// Those of checkpoints among them.
    pub checkpoint_bytes: u64,
    /// Records replayed.
    pub records: u64,
    /// fio's sequential read of the segment files, just before.
    pub fio: FioResult,
}

/// Restarts of one node that was killed under load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Restarts {
    /// Whether it had written checkpoints.
    pub with_checkpoint: bool,
    /// Bytes of log it held.
    pub log_bytes: u64,
    /// Keys it held.
    pub keys: u64,
    /// Restarts: the first after the load, the others of the same log.
    pub restarts: Vec<Restart>,
    /// Seconds until it served, per GiB of log.
    pub seconds_per_gib: Spread,
    /// The time fio needs to read the log over the time until the node served: what part of the
    /// disk's speed a restart has.
    pub over_fio: Spread,
}

/// Restarts after SIGKILL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecoveryResult {
    /// Without and with checkpoints.
    pub cases: Vec<Restarts>,
}

/// Runs it.
///
/// # Errors
/// A node misbehaves or fio fails.
pub fn run(args: &RecoveryArgs) -> Result<StudyResult, BenchError> {
    let common = &args.common;
    let fill_bytes = args.fill.unwrap_or(if common.quick { FILL_BYTES_QUICK } else { FILL_BYTES });
    let never = NEVER_BYTES.to_string();
    let without =
        Setup::new(common, 1, &[common.server_cpu], &[("log.checkpoint_interval_bytes", never)])?;
    let with = if common.quick {
        without.with("log.checkpoint_interval_bytes", INTERVAL_BYTES_QUICK.to_string())
    } else {
        Setup::new(common, 1, &[common.server_cpu], &[])?
    };
    let mut cases = Vec::new();
    for (setup, with_checkpoint) in [(&without, false), (&with, true)] {
        cases.push(case(args, setup, with_checkpoint, fill_bytes)?);
    }
    let missing: u64 = cases.iter().map(|case| expected_keys(fill_bytes) - case.keys).sum();
    let checks = vec![Check {
        what: "acknowledged keys missing after SIGKILL".to_owned(),
        required: "0".to_owned(),
        measured: missing.to_string(),
        holds: missing == 0,
    }];
    let notes = vec![
        format!("one shard on CPU {}", common.server_cpu),
        "serving: from the start of the process, its own start-up included".to_owned(),
        "over fio: time of fio's sequential read of the same segment files (1 MiB, depth 4, direct \
         I/O) over the time until the node serves; above 1 when a checkpoint saves reading"
            .to_owned(),
    ];
    Ok(StudyResult {
        quick: common.quick,
        server: with.version.clone(),
        settings: [without.arguments(), with.arguments()].concat(),
        figures: Figures::Recovery(Box::new(RecoveryResult { cases })),
        checks,
        notes,
    })
}

fn expected_keys(fill_bytes: u64) -> u64 {
    (fill_bytes / VALUE_BYTES as u64).max(1)
}

fn case(
    args: &RecoveryArgs,
    setup: &Setup,
    with_checkpoint: bool,
    fill_bytes: u64,
) -> Result<Restarts, BenchError> {
    let common = &args.common;
    let kind = if with_checkpoint { "with" } else { "without" };
    progress(common, &format!("{kind} checkpoints: filling {}", show_bytes(fill_bytes as f64)));
    let scratch = Scratch::new(&common.data_root, "recovery", common.keep)?;
    let (mut node, _) = Node::start(setup, &scratch)?;
    let keys = expected_keys(fill_bytes);
    let put = Mix { put: 1, ..Mix::default() };
    let mut scenario = scenario("recovery", common, CONNECTIONS, put, keys, VALUE_BYTES);
    scenario.keys.prefill = true;
    scenario.check()?;
    node.run(&scenario, common, Phases::Prefill)?;
    // The load goes on until its node is gone, which it reports as the failure that it is.
    scenario.duration = LOAD * 10;
    scenario.warmup = Duration::ZERO;
    std::thread::scope(|scope| -> Result<(), BenchError> {
        let killed = scope.spawn(|| {
            let quiet = crate::cli::StudyCommon { quiet: true, ..common.clone() };
            node.measure(&scenario, &quiet).is_err()
        });
        std::thread::sleep(LOAD);
        node.signal_kill()?;
        match killed.join() {
            Ok(true) => Ok(()),
            Ok(false) => Err(BenchError::Server("the load outlived its node".to_owned())),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    node.kill()?;
    let files = segment_files(scratch.path())?;
    let mut restarts = Vec::new();
    let mut keys = u64::MAX;
    let mut log_bytes = 0;
    for round in 1..=args.rounds {
        progress(common, &format!("{kind} checkpoints: restart {round} of {}", args.rounds));
        let fio = read_once(&files)?;
        let (restarted, ready) = Node::start(setup, &scratch)?;
        let counters = restarted.counters()?;
        restarts.push(Restart {
            ready_s: ready.as_secs_f64(),
            recovery_s: counters.max("/recovery/seconds"),
            read_bytes: counters.sum("/recovery/bytes_read")?,
            checkpoint_bytes: counters.sum("/recovery/checkpoint_bytes")?,
            records: counters.sum("/recovery/records")?,
            fio,
        });
        // The same log each time; the next run may have begun a segment of its own.
        if log_bytes == 0 {
            log_bytes = counters.sum("/disk/live_bytes")? + counters.sum("/disk/dead_bytes")?;
        }
        keys = keys.min(counters.sum("/memory/index_keys")?);
        node = restarted;
        node.kill()?;
    }
    Restarts::of(with_checkpoint, log_bytes, keys, restarts)
}

impl Restarts {
    fn of(
        with_checkpoint: bool,
        log_bytes: u64,
        keys: u64,
        restarts: Vec<Restart>,
    ) -> Result<Restarts, BenchError> {
        let of = |figure: &dyn Fn(&Restart) -> f64| {
            Spread::of(restarts.iter().map(figure).collect())
                .ok_or_else(|| BenchError::Usage("at least one round is needed".to_owned()))
        };
        let seconds_per_gib = of(&|r| r.ready_s / (log_bytes as f64 / GIB))?;
        let over_fio = of(&|r| log_bytes as f64 / r.fio.bytes_per_s / r.ready_s)?;
        Ok(Restarts { with_checkpoint, log_bytes, keys, restarts, seconds_per_gib, over_fio })
    }
}

impl RecoveryResult {
    /// As a person reads it.
    #[must_use]
    pub fn show(&self) -> String {
        let columns = [
            "checkpoints",
            "log",
            "restart",
            "serving",
            "recovery",
            "read",
            "checkpoint",
            "records",
            "s/GiB of log",
            "fio reads",
            "over fio",
        ];
        let mut table = Table::new(&columns);
        for case in &self.cases {
            for (i, restart) in case.restarts.iter().enumerate() {
                let gib = case.log_bytes as f64 / GIB;
                table.row([
                    if case.with_checkpoint { "yes" } else { "no" }.to_owned(),
                    show_bytes(case.log_bytes as f64),
                    (i + 1).to_string(),
                    format!("{:.2} s", restart.ready_s),
                    format!("{:.2} s", restart.recovery_s),
                    show_bytes(restart.read_bytes as f64),
                    show_bytes(restart.checkpoint_bytes as f64),
                    restart.records.to_string(),
                    format!("{:.3}", restart.ready_s / gib),
                    bandwidth(restart.fio.bytes_per_s),
                    format!(
                        "{:.2}x",
                        case.log_bytes as f64 / restart.fio.bytes_per_s / restart.ready_s
                    ),
                ]);
            }
        }
        let mut text = format!("restarts after SIGKILL under puts of 1 KiB\n{}", table.show());
        for case in &self.cases {
            let (per_gib, over) = (case.seconds_per_gib, case.over_fio);
            text += &format!(
                "{} checkpoints: {:.3} s per GiB ({:.3}..{:.3}), {:.2}x fio ({:.2}..{:.2})\n",
                if case.with_checkpoint { "with" } else { "without" },
                per_gib.median,
                per_gib.min,
                per_gib.max,
                over.median,
                over.min,
                over.max
            );
        }
        text
    }
}
