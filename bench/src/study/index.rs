//! `study index`: many small keys. What a key costs in memory, how long a node with them needs to
//! start, and whether the memory ceiling holds when clients push against it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ironring_core::Token;
use ironring_net::client::ClientConfig;
use ironring_net::client::blocking::Client;
use ironring_net::message::{BatchOp, Condition};
use serde::{Deserialize, Serialize};

use super::node::{Node, Setup, progress, scenario};
use super::{Check, Figures, StudyResult};
use crate::cli::{IndexArgs, StudyCommon};
use crate::error::BenchError;
use crate::latency::Latency;
use crate::render::Table;
use crate::result::RunResult;
use crate::run::Phases;
use crate::scenario::{Mix, Mode};
use crate::server::Scratch;
use crate::system::pin_thread;
use crate::units::{show_bytes, show_ns, show_rate};

const KEYS: u64 = 50_000_000;
const KEYS_QUICK: u64 = 2_000_000;
const KEY_BYTES_MIN: usize = 8;
const KEY_BYTES_MAX: usize = 16;
const VALUE_BYTES: usize = 4;
/// Puts of one batch, all of one partition.
const BATCH: usize = 1000;
/// Connections that load.
const LOADERS: u64 = 4;
/// Longest a batch may take, with all its retries: a checkpoint of a large index is in the way.
const BATCH_DEADLINE: Duration = Duration::from_secs(60);
const CACHE_BYTES: u64 = 8 << 20;
/// Ceiling while loading: far from what the keys need.
const LOAD_MEMORY_BYTES: u64 = 12 << 30;
/// Memory that it is then given above eight fifths of what it uses with its keys.
const HEADROOM_BYTES: u64 = 256 << 20;
const MEMORY_BYTES_MIN: u64 = 128 << 20;
/// Required: bytes of memory for a key besides its own.
const KEY_OVERHEAD_MAX: f64 = 48.0;
/// Values of the clients that push with large ones.
const LARGE_BYTES: usize = 4 << 20;
const PUSH_CONNECTIONS: usize = 64;
const GET_RATE: f64 = 500.0;
const GET_KEYS: u64 = 1000;
const MEMORY_EVERY: Duration = Duration::from_millis(100);

/// Refusals that say what they are: not now, or not at all at this ceiling.
const TYPED: [&str; 2] = ["overloaded", "memory_full"];

/// A node that was started with its keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// What happened before.
    pub after: String,
    /// From the start of the process until every shard served, in seconds.
    pub seconds: f64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Those of checkpoints among them.
    pub checkpoint_bytes: u64,
    /// Records replayed.
    pub records: u64,
    /// Keys it has.
    pub keys: u64,
    /// Memory it occupies then, in bytes.
    pub resident_bytes: u64,
}

/// Clients that push against the ceiling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Push {
    /// The ceiling, by `memory.max_bytes`.
    pub ceiling_bytes: u64,
    /// Memory the process occupied before.
    pub resident_before_bytes: u64,
    /// The most it occupied.
    pub resident_peak_bytes: u64,
    /// The most the node accounted for.
    pub accounted_peak_bytes: u64,
    /// Clients that put new keys.
    pub new_keys: RunResult,
    /// Clients that put large values.
    pub large_values: RunResult,
    /// Clients that read all the while, in an open loop.
    pub gets: RunResult,
}

/// Many small keys, and the memory ceiling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IndexResult {
    /// Keys.
    pub keys: u64,
    /// Their mean length.
    pub key_bytes_mean: f64,
    /// Loading them, in seconds.
    pub load_s: f64,
    /// Memory the process occupied without keys.
    pub resident_empty_bytes: u64,
    /// And with them, cache included.
    pub resident_bytes: u64,
    /// Memory of the index by the node's count.
    pub index_bytes: u64,
    /// Bytes of cache then.
    pub cache_bytes: u64,
    /// Memory per key that the process gained, the cache not counted.
    pub resident_per_key: f64,
    /// Memory per key by the node's count.
    pub counted_per_key: f64,
    /// A clean stop with all keys, in seconds.
    pub stop_s: f64,
    /// Starts.
    pub starts: Vec<Start>,
    /// Clients that push against the ceiling.
    pub push: Push,
}

/// Runs it.
///
/// # Errors
/// The node misbehaves.
pub fn run(args: &IndexArgs) -> Result<StudyResult, BenchError> {
    let common = &args.common;
    let keys = args.keys.unwrap_or(if common.quick { KEYS_QUICK } else { KEYS });
    let settings = [
        ("memory.max_bytes", LOAD_MEMORY_BYTES.to_string()),
        ("memory.cache_bytes", CACHE_BYTES.to_string()),
    ];
    let setup = Setup::new(common, 1, &[common.server_cpu], &settings)?;
    let scratch = Scratch::new(&common.data_root, "index", common.keep)?;
    let (node, _) = Node::start(&setup, &scratch)?;
    let resident_empty_bytes = node.resident()?.bytes;
    progress(common, &format!("loading {keys} keys"));
    let load = load(&node, common, keys)?;
    let counters = node.counters()?;
    let resident_bytes = node.resident()?.bytes;
    let index_bytes = counters.sum("/memory/index_bytes")?;
    let cache_bytes = counters.sum("/memory/cache_bytes")?;
    let mut starts = Vec::new();
    node.kill()?;
    let node = start(&setup, &scratch, "SIGKILL", common, &mut starts)?;
    progress(common, "stopping cleanly");
    let stop_s = node.stop()?.as_secs_f64();
    let node = start(&setup, &scratch, "clean stop", common, &mut starts)?;
    let used = node.counters()?.sum("/memory/used_bytes")?;
    node.stop()?;
    // What the process takes beyond what it accounts for is its own to find room for.
    let ceiling = (used / 5 * 8 + HEADROOM_BYTES).max(MEMORY_BYTES_MIN);
    let push = push(&setup.with("memory.max_bytes", ceiling.to_string()), &scratch, args, ceiling)?;

    let of_keys = |bytes: u64| bytes as f64 / keys as f64;
    let result = IndexResult {
        keys,
        key_bytes_mean: load.key_bytes as f64 / keys as f64,
        load_s: load.seconds,
        resident_empty_bytes,
        resident_bytes,
        index_bytes,
        cache_bytes,
        resident_per_key: of_keys(
            resident_bytes.saturating_sub(resident_empty_bytes + cache_bytes),
        ),
        counted_per_key: of_keys(index_bytes),
        stop_s,
        starts,
        push,
    };
    let checks = checks(&result);
    let notes = vec![
        format!(
            "keys of {KEY_BYTES_MIN} to {KEY_BYTES_MAX} random bytes, values of {VALUE_BYTES}; \
             loaded as batches of {BATCH} by {LOADERS} connections"
        ),
        format!(
            "the ceiling is eight fifths of what the node uses with its keys plus {}; then {PUSH_CONNECTIONS} \
             connections put new keys, {PUSH_CONNECTIONS} put values of {}, and 4 read at {}",
            show_bytes(HEADROOM_BYTES as f64),
            show_bytes(LARGE_BYTES as f64),
            show_rate(GET_RATE)
        ),
        format!("node on CPU {}, generator on CPU {}", common.server_cpu, common.client_cpu),
    ];
    Ok(StudyResult {
        quick: common.quick,
        server: setup.version.clone(),
        settings: setup.arguments(),
        figures: Figures::Index(Box::new(result)),
        checks,
        notes,
    })
}

fn checks(result: &IndexResult) -> Vec<Check> {
    let push = &result.push;
    let overhead = result.counted_per_key - result.key_bytes_mean;
    let resident_overhead = result.resident_per_key - result.key_bytes_mean;
    let missing: u64 = result.starts.iter().map(|start| result.keys - start.keys).sum();
    let refusals: Vec<&str> = [&push.new_keys, &push.large_values, &push.gets]
        .into_iter()
        .flat_map(|run| run.refused.keys().map(String::as_str))
        .filter(|reason| !TYPED.contains(reason))
        .collect();
    // They read what others overwrite with megabytes: such an answer may be refused.
    let lost = push.gets.timeouts + push.gets.sheds + push.gets.missing;
    let at_most = format!("at most {KEY_OVERHEAD_MAX} bytes");
    let check = |what: &str, required: String, measured: String, holds: bool| Check {
        what: what.to_owned(),
        required,
        measured,
        holds,
    };
    vec![
        check(
            "memory of a key besides itself, by the node's count",
            at_most.clone(),
            format!("{overhead:.1} bytes"),
            overhead <= KEY_OVERHEAD_MAX,
        ),
        check(
            "memory of a key besides itself, resident",
            at_most,
            format!("{resident_overhead:.1} bytes"),
            resident_overhead <= KEY_OVERHEAD_MAX,
        ),
        check(
            "acknowledged keys missing after a start",
            "0".to_owned(),
            missing.to_string(),
            missing == 0,
        ),
        check(
            "resident memory while clients push",
            format!("at most {}", show_bytes(push.ceiling_bytes as f64)),
            show_bytes(push.resident_peak_bytes as f64),
            push.resident_peak_bytes <= push.ceiling_bytes,
        ),
        check(
            "refusals",
            format!("only {}", TYPED.join(" and ")),
            if refusals.is_empty() { "only those".to_owned() } else { refusals.join(", ") },
            refusals.is_empty(),
        ),
        check(
            "reads of others neither answered nor refused",
            "0".to_owned(),
            lost.to_string(),
            lost == 0,
        ),
    ]
}

fn start(
    setup: &Setup,
    scratch: &Arc<Scratch>,
    after: &str,
    common: &StudyCommon,
    starts: &mut Vec<Start>,
) -> Result<Node, BenchError> {
    progress(common, &format!("starting after {after}"));
    let (node, ready) = Node::start(setup, scratch)?;
    let counters = node.counters()?;
    starts.push(Start {
        after: after.to_owned(),
        seconds: ready.as_secs_f64(),
        read_bytes: counters.sum("/recovery/bytes_read")?,
        checkpoint_bytes: counters.sum("/recovery/checkpoint_bytes")?,
        records: counters.sum("/recovery/records")?,
        keys: counters.sum("/memory/index_keys")?,
        resident_bytes: node.resident()?.bytes,
    });
    Ok(node)
}

/// A key by its number: no two are the same.
fn key(number: u64) -> ([u8; KEY_BYTES_MAX], usize) {
    let mix = |mut n: u64| {
        n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ (n >> 31)
    };
    let (first, second) = (mix(number), mix(!number));
    let mut key = [0; KEY_BYTES_MAX];
    // The first eight bytes are a permutation of the numbers, so they alone differ.
    key[..8].copy_from_slice(&first.to_be_bytes());
    key[8..].copy_from_slice(&second.to_be_bytes());
    let lengths = (KEY_BYTES_MAX - KEY_BYTES_MIN + 1) as u64;
    (
        key,
        KEY_BYTES_MIN
            + (first.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % lengths as usize,
    )
}

struct Loaded {
    seconds: f64,
    key_bytes: u64,
}

/// Puts every key once, in batches, over a few connections.
fn load(node: &Node, common: &StudyCommon, keys: u64) -> Result<Loaded, BenchError> {
    let began = Instant::now();
    let done = AtomicU64::new(0);
    let key_bytes = std::thread::scope(|scope| {
        let done = &done;
        let loaders: Vec<_> = (0..LOADERS)
            .map(|first| scope.spawn(move || loader(node.addr(), common, (first, keys), done)))
            .collect();
        let mut shown = Instant::now();
        while !loaders.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(20));
            if shown.elapsed() > Duration::from_secs(5) {
                shown = Instant::now();
                progress(common, &format!("{} of {keys} keys", done.load(Ordering::Relaxed)));
            }
        }
        let joined = loaders.into_iter().map(|loader| match loader.join() {
            Ok(bytes) => bytes,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.sum::<Result<u64, BenchError>>()
    })?;
    Ok(Loaded { seconds: began.elapsed().as_secs_f64(), key_bytes })
}

/// One connection's share of the keys; returns their bytes.
fn loader(
    addr: &str,
    common: &StudyCommon,
    (first, keys): (u64, u64),
    done: &AtomicU64,
) -> Result<u64, BenchError> {
    let failed = |error: ironring_net::client::ClientError| {
        BenchError::Server(format!("loading keys: {error}"))
    };
    pin_thread(common.client_cpu).map_err(BenchError::system("pinning a loader"))?;
    let config = ClientConfig {
        // A batch that is put twice is the same; receipts would be memory that is no index.
        session: false,
        deadline: BATCH_DEADLINE,
        seed: first,
        ..ClientConfig::new(addr)
    };
    let mut client = Client::connect(config).map_err(failed)?;
    let partitions = client.cluster_map().map_err(failed)?.partitions;
    let mut waiting: Vec<Vec<u64>> = vec![Vec::with_capacity(BATCH); partitions as usize];
    let mut bytes = 0;
    let mut put = |client: &mut Client, numbers: &mut Vec<u64>| -> Result<(), BenchError> {
        let found: Vec<_> = numbers.iter().map(|number| (*number, key(*number))).collect();
        let ops: Vec<BatchOp<'_>> = found
            .iter()
            .map(|(_, (key, len))| BatchOp::Put {
                condition: Condition::None,
                ttl_ms: 0,
                key: &key[..*len],
                value: &key[..VALUE_BYTES],
            })
            .collect();
        client.batch(&ops, ironring_net::client::WriteSettings::default()).map_err(failed)?;
        bytes += found.iter().map(|(_, (_, len))| *len as u64).sum::<u64>();
        done.fetch_add(numbers.len() as u64, Ordering::Relaxed);
        numbers.clear();
        Ok(())
    };
    for number in (first..keys).step_by(LOADERS as usize) {
        let (bytes, len) = key(number);
        let partition = Token::of_key(&bytes[..len]).partition(partitions);
        let numbers = &mut waiting[partition.0 as usize];
        numbers.push(number);
        if numbers.len() == BATCH {
            put(&mut client, numbers)?;
        }
    }
    for numbers in waiting.iter_mut().filter(|numbers| !numbers.is_empty()) {
        put(&mut client, numbers)?;
    }
    Ok(bytes)
}

/// Puts new keys and large values under a ceiling that leaves little room for either, while others
/// read.
fn push(
    setup: &Setup,
    scratch: &Arc<Scratch>,
    args: &IndexArgs,
    ceiling_bytes: u64,
) -> Result<Push, BenchError> {
    let common = &args.common;
    progress(common, &format!("pushing against {}", show_bytes(ceiling_bytes as f64)));
    let (node, _) = Node::start(setup, scratch)?;
    let duration = args.duration;
    let timed = |name, connections, mix, keys, value_bytes| {
        let mut scenario = scenario(name, common, connections, mix, keys, value_bytes);
        scenario.duration = duration;
        scenario.warmup = Duration::ZERO;
        scenario
    };
    let put = Mix { put: 1, ..Mix::default() };
    let get = Mix { get: 1, ..Mix::default() };
    let mut gets = timed("others", 4, get, GET_KEYS, 64);
    gets.keys.prefill = true;
    gets.load.mode = Mode::Open;
    gets.load.rate = GET_RATE;
    gets.load.pipeline = 64;
    let mut new_keys = timed("new-keys", PUSH_CONNECTIONS, put.clone(), u64::MAX >> 24, 64);
    new_keys.load.pipeline = 16;
    let large = timed("large-values", PUSH_CONNECTIONS, put, GET_KEYS, LARGE_BYTES);
    for scenario in [&mut gets, &mut new_keys.clone(), &mut large.clone()] {
        scenario.check()?;
    }
    node.run(&gets, common, Phases::Prefill)?;
    let resident_before_bytes = node.resident()?.bytes;
    let done = AtomicBool::new(false);
    let quiet = StudyCommon { quiet: true, ..common.clone() };
    let (new_keys, large_values, gets, peaks) = std::thread::scope(|scope| {
        let (node, quiet, done) = (&node, &quiet, &done);
        let watcher = scope.spawn(move || watch(node, done));
        let runs = [&new_keys, &large, &gets]
            .map(|scenario| scope.spawn(move || node.measure(scenario, quiet)));
        let results = runs.map(|run| match run.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        done.store(true, Ordering::Release);
        let peaks = match watcher.join() {
            Ok(peaks) => peaks,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let [new_keys, large_values, gets] = results;
        Ok::<_, BenchError>((new_keys?, large_values?, gets?, peaks?))
    })?;
    node.stop()?;
    Ok(Push {
        ceiling_bytes,
        resident_before_bytes,
        resident_peak_bytes: peaks.0,
        accounted_peak_bytes: peaks.1,
        new_keys,
        large_values,
        gets,
    })
}

/// The most memory the node occupied, by the kernel's own peak, and accounted for.
fn watch(node: &Node, done: &AtomicBool) -> Result<(u64, u64), BenchError> {
    let mut peaks = (0, 0);
    let mut first = None;
    while !done.load(Ordering::Acquire) {
        let resident = node.resident()?;
        // The peak of the start is none of the push: it counts from where it was.
        let start = *first.get_or_insert(resident.peak_bytes);
        let now = if resident.peak_bytes > start { resident.peak_bytes } else { resident.bytes };
        let accounted = node.counters()?.sum("/memory/used_bytes")?;
        peaks = (peaks.0.max(now), peaks.1.max(accounted));
        std::thread::sleep(MEMORY_EVERY);
    }
    Ok(peaks)
}

impl IndexResult {
    /// As a person reads it.
    #[must_use]
    pub fn show(&self) -> String {
        let mut text = format!(
            "{} keys of {:.1} bytes loaded in {:.1} s ({})\n",
            self.keys,
            self.key_bytes_mean,
            self.load_s,
            show_rate(self.keys as f64 / self.load_s)
        );
        let mut table = Table::new(&["memory", "bytes", "per key", "besides the key"]);
        for (name, bytes, per_key) in [
            ("resident, gained", self.resident_bytes, self.resident_per_key),
            ("index, by its own count", self.index_bytes, self.counted_per_key),
        ] {
            table.row([
                name.to_owned(),
                show_bytes(bytes as f64),
                format!("{per_key:.1}"),
                format!("{:.1}", per_key - self.key_bytes_mean),
            ]);
        }
        text += &table.show();
        let columns =
            ["start after", "serving", "read", "checkpoint", "records", "keys", "resident"];
        let mut table = Table::new(&columns);
        for start in &self.starts {
            table.row([
                start.after.clone(),
                format!("{:.2} s", start.seconds),
                show_bytes(start.read_bytes as f64),
                show_bytes(start.checkpoint_bytes as f64),
                start.records.to_string(),
                start.keys.to_string(),
                show_bytes(start.resident_bytes as f64),
            ]);
        }
        text += &table.show();
        text += &format!("a clean stop took {:.2} s\n", self.stop_s);
        let push = &self.push;
        text += &format!(
            "ceiling {}: resident {} before, {} at most; accounted for {} at most\n",
            show_bytes(push.ceiling_bytes as f64),
            show_bytes(push.resident_before_bytes as f64),
            show_bytes(push.resident_peak_bytes as f64),
            show_bytes(push.accounted_peak_bytes as f64)
        );
        let mut table = Table::new(&["clients", "done", "p50", "p99", "max", "refused"]);
        for (name, run) in [
            ("put new keys", &push.new_keys),
            ("put large values", &push.large_values),
            ("read", &push.gets),
        ] {
            let latency = |pick: fn(&Latency) -> u64| {
                run.latency().map_or("-".to_owned(), |l| show_ns(pick(l)))
            };
            let refused: BTreeMap<&str, u64> =
                run.refused.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
            let refused: Vec<String> =
                refused.iter().map(|(reason, count)| format!("{count} x {reason}")).collect();
            table.row([
                name.to_owned(),
                show_rate(run.achieved_per_s),
                latency(|l| l.p50_ns),
                latency(|l| l.p99_ns),
                latency(|l| l.max_ns),
                if refused.is_empty() { "-".to_owned() } else { refused.join(", ") },
            ]);
        }
        text += &table.show();
        text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_differ_and_have_every_length() {
        let keys: BTreeSet<Vec<u8>> = (0..20_000)
            .map(|number| {
                let (bytes, len) = key(number);
                bytes[..len].to_vec()
            })
            .collect();
        assert_eq!(keys.len(), 20_000);
        let lengths: BTreeSet<usize> = keys.iter().map(Vec::len).collect();
        assert_eq!(lengths, (KEY_BYTES_MIN..=KEY_BYTES_MAX).collect());
        let mean = keys.iter().map(Vec::len).sum::<usize>() as f64 / 20_000.0;
        assert!((mean - 12.0).abs() < 0.1, "{mean}");
    }
}
