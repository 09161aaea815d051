//! What endless overwrites cost a log in space and in writes, without a device: the shipped log on
//! a disk in memory that completes one request of each kind a turn, under a closed loop.
//!
//! `cargo run --release -p ironring-perf --example overwrite_space [LIVE_MIB] [SEGMENT_MIB] [INTERVAL_MIB] [BODY_BYTES]`
//!
//! One row for each way keys are chosen. `held` is what segments with records take, `files` what
//! all segment files and checkpoints take; both over live bytes, as average and largest over the
//! second half of the run. `written` is bytes of groups and checkpoints over bytes of records
//! appended, `read` what compaction read.

use std::collections::BTreeMap;
use std::time::Duration;

use ironring_core::io::{HeapAlloc, IoDone, IoQueue, IoRequest};
use ironring_core::prng::Prng;
use ironring_core::{GroupSeq, Instant, Now, ShardId, StorageUuid, WallTime};
use ironring_log::{
    AppendError, CheckpointSource, Identity, Keep, Location, Log, LogConfig, LogSink, LogStatus,
    Priority, ReadError, ReadId, Record, RestoreError,
};
use ironring_perf::memory_disk::MemoryDisk;
use ironring_perf::solo_log::put;

/// Puts staged in a turn: what 64 clients send while a group is written.
const PUTS_PER_TURN: usize = 64;
/// Written for each live byte.
const WRITTEN_PER_LIVE: u64 = 20;
/// Bytes of checkpoint a key takes, as in a shard.
const CHECKPOINT_BYTES_PER_KEY: usize = 49;
const KEYS_PER_PIECE: usize = 2048;

/// Which keys are overwritten.
#[derive(Clone, Copy, Debug)]
enum Choice {
    /// All alike.
    Uniform,
    /// A tenth of the keys gets nine tenths of the puts.
    Skewed,
    /// One after the other.
    Sequential,
}

/// Where each key's newest record lies.
struct Owner {
    places: Vec<(u64, Option<Location>)>,
    dead: Vec<Location>,
    cursor: usize,
}

fn number(record: &Record<'_>) -> usize {
    u64::from_le_bytes(record.key.try_into().expect("keys are eight bytes")) as usize
}

impl LogSink for Owner {
    fn restore(&mut self, _piece: &[u8]) -> Result<(), RestoreError> {
        Err(RestoreError("this log is never opened again".to_owned()))
    }

    fn replay(&mut self, _at: Location, _group: GroupSeq, _record: &Record<'_>) {}

    fn flushed(&mut self, _: GroupSeq, _: &mut dyn Iterator<Item = (Location, Record<'_>)>) {}

    fn read_done(&mut self, _: ReadId, _: Location, _: Result<Record<'_>, ReadError>) {}

    fn keep(&mut self, at: Location, record: &Record<'_>) -> Keep {
        if self.places[number(record)].1 == Some(at) { Keep::Live } else { Keep::Drop }
    }

    fn relocated(&mut self, _: Location, to: Location, _: GroupSeq, record: &Record<'_>) {
        self.places[number(record)].1 = Some(to);
    }
}

impl CheckpointSource for Owner {
    fn begin(&mut self) {
        self.cursor = 0;
    }

    fn next_piece(&mut self, out: &mut Vec<u8>) -> bool {
        let keys = KEYS_PER_PIECE.min(self.places.len() - self.cursor);
        out.resize(out.len() + keys * CHECKPOINT_BYTES_PER_KEY, 1);
        self.cursor += keys;
        keys > 0
    }
}

struct Node {
    log: Log,
    owner: Owner,
    disk: MemoryDisk,
    io: IoQueue,
    in_flight: Vec<IoRequest>,
    now: Now,
    offset: u64,
}

impl Node {
    fn new(config: LogConfig, keys: usize) -> Node {
        let identity = Identity { storage: StorageUuid(7), shard: ShardId(0), salt: 1 };
        let mut node = Node {
            log: Log::new(config, identity, Box::new(HeapAlloc)),
            owner: Owner { places: vec![(0, None); keys], dead: Vec::new(), cursor: 0 },
            disk: MemoryDisk::default(),
            io: IoQueue::default(),
            in_flight: Vec::new(),
            now: Now { mono: Instant(1), wall: WallTime(1_700_000_000_000) },
            offset: 1,
        };
        node.log.start(true, &mut node.io);
        for _ in 0..10_000 {
            node.submit();
            node.complete();
        }
        assert_eq!(node.log.status(), &LogStatus::Open);
        node
    }

    /// Gives the staged group and everything else that is wanted to the disk.
    fn submit(&mut self) {
        self.log.seal(self.now, &mut self.io);
        while let Some(request) = self.io.pop() {
            self.in_flight.push(request);
        }
    }

    /// Completes every request that is in flight; what follows from them is for the next turn.
    fn complete(&mut self) {
        self.now.mono = self.now.mono + Duration::from_micros(500);
        for request in std::mem::take(&mut self.in_flight) {
            let done = IoDone { id: request.id, result: self.disk.execute(request.op) };
            self.log.on_io(self.now, done, &mut self.io, &mut self.owner);
            self.tell();
        }
        if self.log.next_deadline().is_some_and(|at| at <= self.now.mono) {
            self.log.on_timer(self.now, &mut self.io, &mut self.owner);
            self.tell();
        }
    }

    fn tell(&mut self) {
        for at in self.owner.dead.drain(..) {
            self.log.mark_dead(at);
        }
    }

    /// False: refused as overload.
    fn put(&mut self, key: usize, body: &[u8]) -> bool {
        let name = (key as u64).to_le_bytes();
        match self.log.append(&put(self.offset, &name, body), Priority::User) {
            Ok(appended) => {
                let old = self.owner.places[key].1.replace(appended.location);
                self.owner.dead.extend(old);
                self.tell();
                self.offset += 1;
                true
            }
            Err(AppendError::Overloaded) => false,
            Err(error) => panic!("{error}"),
        }
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<u64>().expect("a number"));
    let live = arguments.next().unwrap_or(128) << 20;
    let segment = arguments.next().unwrap_or(8) << 20;
    let interval = arguments.next().unwrap_or(32) << 20;
    let body = vec![7; arguments.next().unwrap_or(1024) as usize];
    let config = LogConfig {
        segment_bytes: u32::try_from(segment).expect("a segment is at most 1 GiB"),
        checkpoint_interval_bytes: interval,
        ..LogConfig::default()
    };
    let keys = (live / body.len() as u64) as usize;
    println!(
        "{:>12} {:>12} {:>12} {:>9} {:>9} {:>11} {:>9}",
        "keys", "held avg/max", "files max", "written", "read", "checkpoints", "refused"
    );
    for choice in [Choice::Uniform, Choice::Skewed, Choice::Sequential] {
        row(&config, choice, keys, &body);
    }
}

fn row(config: &LogConfig, choice: Choice, keys: usize, body: &[u8]) {
    let mut node = Node::new(config.clone(), keys);
    let mut prng = Prng::new(1);
    let mut next = 0;
    let mut pick = |filled: bool| {
        next += 1;
        match choice {
            Choice::Uniform if filled => prng.below(keys as u64) as usize,
            Choice::Skewed if filled && prng.chance(9, 10) => {
                prng.below(keys as u64 / 10) as usize * 10
            }
            Choice::Skewed if filled => prng.below(keys as u64) as usize,
            _ => (next - 1) % keys,
        }
    };
    let total = keys as u64 * (1 + WRITTEN_PER_LIVE);
    let (mut done, mut refused) = (0, 0);
    let mut waits: Option<usize> = None;
    let mut seen: BTreeMap<&str, (f64, f64, u64)> = BTreeMap::new();
    let mut start = None;
    while done < total {
        node.submit();
        // They come while the group of the turn before is written, as those of a closed loop do.
        for _ in 0..PUTS_PER_TURN {
            let key = waits.take().unwrap_or_else(|| pick(done >= keys as u64));
            if !node.put(key, body) {
                refused += 1;
                waits = Some(key);
                break;
            }
            done += 1;
        }
        node.complete();
        let counters = node.log.counters();
        if done >= keys as u64 && start.is_none() {
            start = Some((counters.clone(), done));
        }
        let live = counters.live_bytes as f64;
        let mut note = |name, bytes: u64, from: u64| {
            if done >= from {
                let share = bytes as f64 / live;
                let (sum, most, count) = seen.entry(name).or_default();
                (*sum, *most, *count) = (*sum + share, most.max(share), *count + 1);
            }
        };
        note("held", counters.held_bytes, total / 2);
        note("files", counters.disk_bytes, keys as u64);
    }
    let (before, done_before) = start.expect("the keys were filled");
    let after = node.log.counters();
    let user = (done - done_before) * (body.len() as u64 + 72);
    let over = |bytes: u64| bytes as f64 / user as f64;
    let (sum, most, count) = seen["held"];
    println!(
        "{:>12} {:>5.2}x {:>4.2}x {:>11.2}x {:>8.2}x {:>8.2}x {:>11} {:>9}",
        format!("{choice:?}"),
        sum / count as f64,
        most,
        seen["files"].1,
        over(
            after.group_bytes + after.checkpoint_bytes
                - before.group_bytes
                - before.checkpoint_bytes
        ),
        over(after.compaction_read_bytes - before.compaction_read_bytes),
        after.checkpoints - before.checkpoints,
        refused
    );
}
