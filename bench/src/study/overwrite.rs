//! `study overwrite`: a live set is overwritten over and over, uniformly, until twenty times its
//! size has been written. Compaction has to give the space back while the load goes on: how much
//! disk the node takes at most, and what clients see of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::node::{Node, Setup, progress, scenario};
use super::{Check, Figures, StudyResult};
use crate::cli::OverwriteArgs;
use crate::error::BenchError;
use crate::keys::KEY_BYTES;
use crate::peers::Spread;
use crate::render::Table;
use crate::run::Phases;
use crate::scenario::Mix;
use crate::server::Scratch;
use crate::units::{show_bytes, show_ns, show_rate};

const CONNECTIONS: usize = 64;
const VALUE_BYTES: usize = 1024;
const LIVE_BYTES: u64 = 1 << 30;
/// A quick study has everything at this part of its size: data, segments, checkpoint interval.
const QUICK_PART: u64 = 8;
/// Written for each live byte.
const WRITTEN_PER_LIVE: u64 = 20;
const SEGMENT_BYTES: u64 = 64 << 20;
const INTERVAL_BYTES: u64 = 256 << 20;
const RESERVE_SEGMENTS: u64 = 4;
/// Allowed disk use per live byte, the reserve not counted.
const DISK_PER_LIVE_MAX: f64 = 2.2;
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// A load that is not answered at all for so long has ended.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// The disk at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds since the overwriting began.
    pub at_s: f64,
    /// Bytes of segment files.
    pub segment_bytes: u64,
    /// Bytes of checkpoint files.
    pub checkpoint_bytes: u64,
    /// Bytes of all other files.
    pub other_bytes: u64,
    /// Bytes of records that something refers to, by the node's count.
    pub live_bytes: u64,
    /// Bytes of records that nothing refers to, and of padding.
    pub dead_bytes: u64,
    /// Segments with records, as bytes of files: what is neither empty nor kept in reserve.
    pub held_bytes: u64,
}

impl Sample {
    /// All files.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.segment_bytes + self.checkpoint_bytes + self.other_bytes
    }
}

/// What clients saw in one stretch of the load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// Its beginning, in seconds since the overwriting began.
    pub at_s: f64,
    /// Puts per second.
    pub per_s: f64,
    /// Median.
    pub p50_ns: u64,
    /// 99 %.
    pub p99_ns: u64,
    /// Largest.
    pub max_ns: u64,
    /// Puts that were refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Bytes compaction read in it.
    pub compaction_read_bytes: u64,
    /// Bytes of live records compaction wrote again in it.
    pub compaction_written_bytes: u64,
    /// Whether the generator was not the bottleneck.
    pub clean: bool,
}

/// Slices of one kind together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stretch {
    /// How many slices.
    pub slices: usize,
    /// Puts per second.
    pub per_s: Spread,
    /// 99 % of each slice.
    pub p99_ns: Spread,
}

/// Space under endless overwrites.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OverwriteResult {
    /// Bytes of keys and values that are live: what a user would say is stored.
    pub live_bytes: u64,
    /// Bytes of keys and values written over them.
    pub written_bytes: u64,
    /// How long that took, in seconds.
    pub seconds: f64,
    /// Size of a segment.
    pub segment_bytes: u64,
    /// Empty segments kept, by `log.reserve_segments`.
    pub reserve_segments: u64,
    /// Most bytes checkpoint files took at a time: the two that count and the next.
    pub checkpoint_bytes_max: u64,
    /// Most bytes of files that are neither segments nor checkpoints.
    pub other_bytes_max: u64,
    /// The disk, once a second.
    pub samples: Vec<Sample>,
    /// The load, stretch by stretch.
    pub slices: Vec<Slice>,
    /// Slices before compaction did anything.
    pub before: Option<Stretch>,
    /// Slices in which it read.
    pub during: Option<Stretch>,
    /// Bytes the node wrote to the device for each byte of keys and values.
    pub write_amplification: f64,
}

impl OverwriteResult {
    /// The disk the node takes whatever is stored.
    #[must_use]
    pub fn reserve_bytes(&self) -> u64 {
        self.reserve_segments * self.segment_bytes
            + self.checkpoint_bytes_max
            + self.other_bytes_max
    }

    fn peak(&self) -> u64 {
        self.samples.iter().map(Sample::total_bytes).max().unwrap_or(0)
    }

    /// The most disk in use beyond the reserve, over what is live.
    #[must_use]
    pub fn peak_per_live(&self) -> f64 {
        self.peak().saturating_sub(self.reserve_bytes()) as f64 / self.live_bytes as f64
    }
}

/// Runs it.
///
/// # Errors
/// The node misbehaves.
pub fn run(args: &OverwriteArgs) -> Result<StudyResult, BenchError> {
    let common = &args.common;
    let part = if common.quick { QUICK_PART } else { 1 };
    let live = args.live.unwrap_or(LIVE_BYTES / part);
    let segment_bytes = SEGMENT_BYTES / part;
    let settings = [
        ("log.segment_bytes", segment_bytes.to_string()),
        ("log.checkpoint_interval_bytes", (INTERVAL_BYTES / part).to_string()),
        ("log.reserve_segments", RESERVE_SEGMENTS.to_string()),
    ];
    let setup = Setup::new(common, 1, &[common.server_cpu], &settings)?;
    let scratch = Scratch::new(&common.data_root, "overwrite", common.keep)?;
    let (node, _) = Node::start(&setup, &scratch)?;
    let keys = (live / VALUE_BYTES as u64).max(1);
    let put = Mix { put: 1, ..Mix::default() };
    let mut scenario = scenario("overwrite", common, CONNECTIONS, put, keys, VALUE_BYTES);
    scenario.keys.prefill = true;
    scenario.warmup = Duration::ZERO;
    scenario.duration = Duration::from_secs(if common.quick { 1 } else { 5 });
    scenario.check()?;
    progress(common, &format!("filling with {} of values", show_bytes(live as f64)));
    node.run(&scenario, common, Phases::Prefill)?;

    let per_put = (KEY_BYTES + VALUE_BYTES) as u64;
    let target = args.written.unwrap_or(live * WRITTEN_PER_LIVE);
    let written_before = node.counters()?.sum("/disk/written_bytes")?;
    let began = Instant::now();
    let done = AtomicBool::new(false);
    let (slices, samples) = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| watch(&node, began, &done));
        let slices = load(&node, &scenario, args, (began, target, per_put));
        done.store(true, Ordering::Release);
        let samples = match sampler.join() {
            Ok(samples) => samples,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        Ok::<_, BenchError>((slices?, samples?))
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let written_after = node.counters()?.sum("/disk/written_bytes")?;
    node.stop()?;

    let written_bytes: f64 =
        slices.iter().map(|s| s.per_s * scenario.duration.as_secs_f64() * per_put as f64).sum();
    let most = |figure: fn(&Sample) -> u64| samples.iter().map(figure).max().unwrap_or(0);
    let result = OverwriteResult {
        live_bytes: keys * per_put,
        written_bytes: written_bytes as u64,
        seconds,
        segment_bytes,
        reserve_segments: RESERVE_SEGMENTS,
        checkpoint_bytes_max: most(|s| s.checkpoint_bytes),
        other_bytes_max: most(|s| s.other_bytes),
        before: stretch(slices.iter().take_while(|s| s.compaction_read_bytes == 0)),
        during: stretch(slices.iter().filter(|s| s.compaction_read_bytes > 0)),
        write_amplification: (written_after - written_before) as f64 / written_bytes,
        samples,
        slices,
    };
    let peak = result.peak_per_live();
    let checks = vec![Check {
        what: "most disk in use beyond the reserve, over live bytes".to_owned(),
        required: format!("below {DISK_PER_LIVE_MAX}x"),
        measured: format!("{peak:.2}x"),
        holds: peak < DISK_PER_LIVE_MAX,
    }];
    let notes = vec![
        format!(
            "reserve {} = {} x {} of empty segments (log.reserve_segments, log.segment_bytes) + {} \
             of checkpoints at most (the two kept and the next) + {} of superblock and small files",
            show_bytes(result.reserve_bytes() as f64),
            result.reserve_segments,
            show_bytes(result.segment_bytes as f64),
            show_bytes(result.checkpoint_bytes_max as f64),
            show_bytes(result.other_bytes_max as f64)
        ),
        format!("node on CPU {}, generator on CPU {}", common.server_cpu, common.client_cpu),
    ];
    Ok(StudyResult {
        quick: common.quick,
        server: setup.version.clone(),
        settings: setup.arguments(),
        figures: Figures::Overwrite(Box::new(result)),
        checks,
        notes,
    })
}

/// Puts in slices until enough has been written.
fn load(
    node: &Node,
    scenario: &crate::scenario::Scenario,
    args: &OverwriteArgs,
    (began, target, per_put): (Instant, u64, u64),
) -> Result<Vec<Slice>, BenchError> {
    let common = &args.common;
    let mut slices = Vec::new();
    let mut written = 0.0;
    let compaction = |node: &Node| -> Result<(u64, u64), BenchError> {
        let counters = node.counters()?;
        Ok((
            counters.sum("/background/compaction_read_bytes")?,
            counters.sum("/background/compaction_written_bytes")?,
        ))
    };
    let mut before = compaction(node)?;
    let mut answered = Instant::now();
    while written < target as f64 {
        let at_s = began.elapsed().as_secs_f64();
        let seeded = common.with_seed_of(slices.len() as u64 + 1);
        let run = node.measure(scenario, &seeded)?;
        let after = compaction(node)?;
        if run.achieved_per_s > 0.0 {
            answered = Instant::now();
        } else if answered.elapsed() > SILENCE_MAX {
            let refused = format!("no put was answered for {SILENCE_MAX:?}: {:?}", run.refused);
            return Err(BenchError::Server(refused));
        }
        written += run.achieved_per_s * run.window_s * per_put as f64;
        let latency = run.latency();
        slices.push(Slice {
            at_s,
            per_s: run.achieved_per_s,
            p50_ns: latency.map_or(0, |l| l.p50_ns),
            p99_ns: latency.map_or(0, |l| l.p99_ns),
            max_ns: latency.map_or(0, |l| l.max_ns),
            refused: run.refused.clone(),
            compaction_read_bytes: after.0 - before.0,
            compaction_written_bytes: after.1 - before.1,
            clean: run.self_check.is_clean(),
        });
        before = after;
        progress(
            common,
            &format!(
                "{} of {}: {}, p99 {}",
                show_bytes(written),
                show_bytes(target as f64),
                show_rate(run.achieved_per_s),
                show_ns(latency.map_or(0, |l| l.p99_ns))
            ),
        );
    }
    Ok(slices)
}

/// Looks at the disk once a second until `done`.
fn watch(node: &Node, began: Instant, done: &AtomicBool) -> Result<Vec<Sample>, BenchError> {
    let mut samples = Vec::new();
    loop {
        let last = done.load(Ordering::Acquire);
        let at = began.elapsed();
        let kinds = node.disk_use()?;
        let counters = node.counters()?;
        let of = |kind: &str| kinds.get(kind).copied().unwrap_or(0);
        let (segment_bytes, checkpoint_bytes) = (of("segment"), of("checkpoint"));
        let live_bytes = counters.sum("/disk/live_bytes")?;
        let dead_bytes = counters.sum("/disk/dead_bytes")?;
        samples.push(Sample {
            at_s: at.as_secs_f64(),
            segment_bytes,
            checkpoint_bytes,
            other_bytes: kinds.values().sum::<u64>() - segment_bytes - checkpoint_bytes,
            live_bytes,
            dead_bytes,
            held_bytes: live_bytes + dead_bytes,
        });
        if last {
            return Ok(samples);
        }
        let next = SAMPLE_EVERY.saturating_sub(began.elapsed() - at);
        std::thread::sleep(next);
    }
}

fn stretch<'a>(slices: impl Iterator<Item = &'a Slice>) -> Option<Stretch> {
    let slices: Vec<&Slice> = slices.collect();
    Some(Stretch {
        slices: slices.len(),
        per_s: Spread::of(slices.iter().map(|s| s.per_s).collect())?,
        p99_ns: Spread::of(slices.iter().map(|s| s.p99_ns as f64).collect())?,
    })
}

impl OverwriteResult {
    /// As a person reads it.
    #[must_use]
    pub fn show(&self) -> String {
        let live = self.live_bytes as f64;
        let mut text = format!(
            "{} live, {} written over them in {:.0} s, {:.2} bytes to the device for each\n",
            show_bytes(live),
            show_bytes(self.written_bytes as f64),
            self.seconds,
            self.write_amplification
        );
        let mut table = Table::new(&["disk", "bytes", "over live"]);
        let mut row = |name: &str, bytes: u64| {
            let ratio = format!("{:.2}x", bytes as f64 / live);
            table.row([name.to_owned(), show_bytes(bytes as f64), ratio]);
        };
        let most = |figure: fn(&Sample) -> u64| self.samples.iter().map(figure).max().unwrap_or(0);
        row("peak, all files", self.peak());
        row("peak beyond the reserve", self.peak().saturating_sub(self.reserve_bytes()));
        row("final, all files", self.samples.last().map_or(0, Sample::total_bytes));
        row("reserve", self.reserve_bytes());
        row("most in segments with records", most(|s| s.held_bytes));
        text += &table.show();
        let mut table = Table::new(&["load", "slices", "puts (min..max)", "p99 (min..max)"]);
        for (name, stretch) in [("before compaction", &self.before), ("during", &self.during)] {
            let Some(s) = stretch else { continue };
            let rate = |per_s: f64| show_rate(per_s);
            let time = |ns: f64| show_ns(ns as u64);
            table.row([
                name.to_owned(),
                s.slices.to_string(),
                format!("{} ({}..{})", rate(s.per_s.median), rate(s.per_s.min), rate(s.per_s.max)),
                format!(
                    "{} ({}..{})",
                    time(s.p99_ns.median),
                    time(s.p99_ns.min),
                    time(s.p99_ns.max)
                ),
            ]);
        }
        text += &table.show();
        let clean = self.slices.iter().filter(|s| s.clean).count();
        text += &format!("clean {clean}/{} slices\n", self.slices.len());
        let mut refused: BTreeMap<&str, u64> = BTreeMap::new();
        for (reason, count) in self.slices.iter().flat_map(|s| &s.refused) {
            *refused.entry(reason).or_default() += count;
        }
        for (reason, count) in refused {
            text += &format!("refused {count} x {reason}\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_taken_off_the_peak_and_not_off_every_sample() {
        let sample = |segments: u64, checkpoints: u64| Sample {
            at_s: 0.0,
            segment_bytes: segments,
            checkpoint_bytes: checkpoints,
            other_bytes: 5,
            live_bytes: 0,
            dead_bytes: 0,
            held_bytes: 0,
        };
        let result = OverwriteResult {
            live_bytes: 100,
            written_bytes: 0,
            seconds: 1.0,
            segment_bytes: 10,
            reserve_segments: 4,
            checkpoint_bytes_max: 15,
            other_bytes_max: 5,
            samples: vec![sample(200, 15), sample(260, 10)],
            slices: Vec::new(),
            before: None,
            during: None,
            write_amplification: 1.0,
        };
        assert_eq!(result.reserve_bytes(), 60);
        assert!((result.peak_per_live() - 2.15).abs() < 1e-9);
        assert!(result.show().contains("2.15x"));
    }
}
