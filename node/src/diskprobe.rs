//! What the disk under the data directory can do, measured the way the node uses it: direct I/O on
//! a file whose blocks are all written.
//!
//! A probe fills an unnamed file in the data directory (nothing is left behind, however it ends),
//! then takes turns: large and small reads and writes with many in flight, and durable writes
//! (`O_DSYNC`) of three sizes, one at a time, as group commit does them. The result is kept in
//! [`PROFILE_FILE`]; a node that starts takes from it how fast it may scrub, and `doctor` judges it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ironring_core::prng::Prng;
use serde::{Deserialize, Serialize};

/// The profile's file in the data directory.
pub const PROFILE_FILE: &str = "diskprobe.json";
/// Version of the file's fields.
const PROFILE_VERSION: u32 = 1;
/// Largest test file.
const FILE_BYTES_MAX: u64 = 2 << 30;
/// Smallest test file that says anything about a disk: beyond the cache of most controllers' first
/// megabytes.
const FILE_BYTES_MIN: u64 = 64 << 20;
/// One large transfer.
const LARGE_BYTES: usize = 1 << 20;
/// One small transfer.
const SMALL_BYTES: usize = 4096;
/// Large transfers in flight.
const LARGE_DEPTH: usize = 8;
/// Small transfers in flight. Each has a thread of its own, so a disk that answers faster than the
/// CPUs can ask is measured at what the CPUs can ask.
const SMALL_DEPTH: usize = 32;
/// Sizes of durable writes: a lone record, a busy group, a large group.
const DURABLE_BYTES: [usize; 3] = [4 << 10, 64 << 10, 256 << 10];
/// Turns that share the time: the filling, four of throughput, three of durable writes.
const TURNS: u32 = 8;
/// Share of the measured read bandwidth scrubbing may take at most.
const SCRUB_SHARE: f64 = 0.1;
/// Bytes per second scrubbing may read while nothing was measured, all shards together: a tenth of
/// what an NVMe disk of the slow kind does.
pub const SCRUB_UNMEASURED: u64 = 64 << 20;

/// Memory aligned as direct I/O wants it.
pub struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// Strictest alignment a block device asks for in practice.
    const ALIGNMENT: usize = 4096;

    /// `len` zero bytes.
    #[must_use]
    pub fn zeroed(len: usize) -> AlignedBuffer {
        let memory = vec![0; len + AlignedBuffer::ALIGNMENT];
        let start = memory.as_ptr().align_offset(AlignedBuffer::ALIGNMENT);
        AlignedBuffer { memory, start, len }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    /// The bytes, to change them.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// Many transfers in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// Bytes of one transfer.
    pub bytes: u64,
    /// Transfers in flight.
    pub depth: u32,
    /// Transfers per second.
    pub per_second: f64,
    /// Bytes per second.
    pub bytes_per_second: u64,
    /// Half of the transfers took no longer.
    pub p50_seconds: f64,
    /// 99 of 100 transfers took no longer.
    pub p99_seconds: f64,
}

/// A disk, measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Version of these fields.
    pub version: u32,
    /// When it was measured, in milliseconds since the Unix epoch.
    pub measured_unix_ms: u64,
    /// How long it took.
    pub seconds: f64,
    /// Size of the test file.
    pub file_bytes: u64,
    /// Large sequential reads.
    pub read_large: Throughput,
    /// Large sequential overwrites.
    pub write_large: Throughput,
    /// Small random reads.
    pub read_small: Throughput,
    /// Small random overwrites, not durable.
    pub write_small: Throughput,
    /// Durable sequential overwrites, one at a time, by ascending size.
    pub durable: Vec<Throughput>,
}

impl Profile {
    /// Bytes per second that can be both read and written, in large pieces.
    #[must_use]
    pub fn bytes_per_second(&self) -> u64 {
        self.read_large.bytes_per_second.min(self.write_large.bytes_per_second).max(1)
    }

    /// Bytes per second scrubbing may read at most, all shards together: a tenth of what large
    /// reads reach.
    #[must_use]
    pub fn scrub_bytes_per_second(&self) -> u64 {
        ((self.read_large.bytes_per_second as f64 * SCRUB_SHARE) as u64).max(1)
    }

    /// The profile in a data directory, if the disk was measured.
    ///
    /// # Errors
    /// When there is a file that cannot be read or is not a profile of this version.
    pub fn load(data_dir: &Path) -> io::Result<Option<Profile>> {
        let path = data_dir.join(PROFILE_FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let profile: Profile = serde_json::from_str(&text)
            .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
        if profile.version != PROFILE_VERSION {
            return Err(io::Error::other(format!(
                "{}: version {} (this program reads {PROFILE_VERSION}); run `ironring diskprobe` again",
                path.display(),
                profile.version
            )));
        }
        Ok(Some(profile))
    }

    /// Puts the profile into a data directory: whole or not at all, and durable.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, data_dir: &Path) -> io::Result<()> {
        // Readable for the node's user even when someone else measured.
        let readable = std::fs::Permissions::from_mode(0o644);
        let mut file = tempfile::Builder::new()
            .prefix(".diskprobe-")
            .permissions(readable)
            .tempfile_in(data_dir)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(data_dir.join(PROFILE_FILE)).map_err(|error| error.error)?;
        File::open(data_dir)?.sync_all()
    }
}

/// Measures the disk under `dir` for about `duration`. `progress` is told which turn begins and
/// which share of the time has passed.
///
/// # Errors
/// The first I/O error, or that there is too little space for the test file.
pub fn measure(
    dir: &Path,
    duration: Duration,
    progress: &mut dyn FnMut(&str, f64),
) -> io::Result<Profile> {
    let began = Instant::now();
    let turn = duration / TURNS;
    let file_bytes_max = file_bytes_max(dir)?;
    let unnamed = tempfile::tempfile_in(dir)?;
    let open = |flags: i32| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT | flags)
            .open(format!("/proc/self/fd/{}", unnamed.as_raw_fd()))
    };
    let direct = open(0)?;
    let durable = open(libc::O_DSYNC)?;

    progress("filling the test file", 0.0);
    let file_bytes = fill(&direct, file_bytes_max, turn)?;
    unnamed.sync_all()?;
    let mut turns_done = 0;
    let mut next = |what: &str| {
        turns_done += 1;
        progress(what, f64::from(turns_done) / f64::from(TURNS));
    };
    let probe = Probe { file_bytes, turn };
    next("large writes");
    let write_large =
        probe.run(&direct, Direction::Write, Order::Sequential, LARGE_BYTES, LARGE_DEPTH)?;
    next("large reads");
    let read_large =
        probe.run(&direct, Direction::Read, Order::Sequential, LARGE_BYTES, LARGE_DEPTH)?;
    next("small reads");
    let read_small =
        probe.run(&direct, Direction::Read, Order::Random, SMALL_BYTES, SMALL_DEPTH)?;
    next("small writes");
    let write_small =
        probe.run(&direct, Direction::Write, Order::Random, SMALL_BYTES, SMALL_DEPTH)?;
    let mut durable_writes = Vec::with_capacity(DURABLE_BYTES.len());
    for bytes in DURABLE_BYTES {
        next("durable writes");
        durable_writes.push(probe.run(&durable, Direction::Write, Order::Sequential, bytes, 1)?);
    }
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Ok(Profile {
        version: PROFILE_VERSION,
        measured_unix_ms: since_epoch.map_or(0, |time| time.as_millis() as u64),
        seconds: began.elapsed().as_secs_f64(),
        file_bytes,
        read_large,
        write_large,
        read_small,
        write_small,
        durable: durable_writes,
    })
}

/// A quarter of the free space, within the bounds.
fn file_bytes_max(dir: &Path) -> io::Result<u64> {
    let fs = nix::sys::statvfs::statvfs(dir)?;
    let free = fs.blocks_available() * fs.fragment_size();
    if free / 4 < FILE_BYTES_MIN {
        return Err(io::Error::new(
            io::ErrorKind::StorageFull,
            format!("{free} bytes are free; the test file needs {} at least", FILE_BYTES_MIN * 4),
        ));
    }
    Ok((free / 4).min(FILE_BYTES_MAX) / LARGE_BYTES as u64 * LARGE_BYTES as u64)
}

/// Writes the test file from its start until the time is over, but at least its smallest size.
/// Returns its size.
fn fill(file: &File, bytes_max: u64, time: Duration) -> io::Result<u64> {
    let buffer = noise(LARGE_BYTES, 0);
    let began = Instant::now();
    let mut position = 0;
    while position < bytes_max && (position < FILE_BYTES_MIN || began.elapsed() < time) {
        file.write_all_at(buffer.bytes(), position)?;
        position += LARGE_BYTES as u64;
    }
    Ok(position)
}

/// Bytes no disk can compress or deduplicate.
fn noise(len: usize, seed: u64) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::zeroed(len);
    let mut prng = Prng::new(seed);
    for word in buffer.bytes_mut().chunks_exact_mut(8) {
        word.copy_from_slice(&prng.next_u64().to_le_bytes());
    }
    buffer
}

#[derive(Clone, Copy)]
enum Direction {
    Read,
    Write,
}

#[derive(Clone, Copy)]
enum Order {
    Sequential,
    Random,
}

struct Probe {
    file_bytes: u64,
    turn: Duration,
}

impl Probe {
    /// One turn: `depth` threads that transfer `bytes` each, again and again.
    fn run(
        &self,
        file: &File,
        direction: Direction,
        order: Order,
        bytes: usize,
        depth: usize,
    ) -> io::Result<Throughput> {
        let began = Instant::now();
        let threads = std::thread::scope(|scope| {
            let lanes: Vec<_> = (0..depth)
                .map(|lane| {
                    let lane =
                        Lane { direction, order, bytes, lane: lane as u64, lanes: depth as u64 };
                    scope.spawn(move || lane.run(file, self.file_bytes, began + self.turn))
                })
                .collect();
            let join = |lane: std::thread::ScopedJoinHandle<'_, io::Result<Histogram<u64>>>| {
                lane.join().unwrap_or_else(|_| Err(io::Error::other("a measuring thread panicked")))
            };
            lanes.into_iter().map(join).collect::<io::Result<Vec<_>>>()
        })?;
        let elapsed = began.elapsed().as_secs_f64();
        let mut all = latencies();
        for histogram in &threads {
            all.add(histogram).map_err(io::Error::other)?;
        }
        let count = all.len() as f64;
        Ok(Throughput {
            bytes: bytes as u64,
            depth: depth as u32,
            per_second: count / elapsed,
            bytes_per_second: (count * bytes as f64 / elapsed) as u64,
            p50_seconds: all.value_at_quantile(0.5) as f64 / 1e9,
            p99_seconds: all.value_at_quantile(0.99) as f64 / 1e9,
        })
    }
}

/// One thread's part of a turn.
struct Lane {
    direction: Direction,
    order: Order,
    bytes: usize,
    lane: u64,
    lanes: u64,
}

impl Lane {
    /// Transfers until the end, at least once. Returns how long each took, in nanoseconds.
    fn run(&self, file: &File, file_bytes: u64, end: Instant) -> io::Result<Histogram<u64>> {
        let mut buffer = noise(self.bytes, self.lane + 1);
        let mut prng = Prng::new(self.lane);
        let places = file_bytes / self.bytes as u64;
        let mut turn = 0;
        let mut took = latencies();
        loop {
            let place = match self.order {
                // Lanes interleave, so together they go through the file in order.
                Order::Sequential => (turn * self.lanes + self.lane) % places,
                Order::Random => prng.next_u64() % places,
            };
            let position = place * self.bytes as u64;
            let began = Instant::now();
            match self.direction {
                Direction::Read => file.read_exact_at(buffer.bytes_mut(), position)?,
                Direction::Write => file.write_all_at(buffer.bytes(), position)?,
            }
            let now = Instant::now();
            took.saturating_record((now - began).as_nanos() as u64);
            turn += 1;
            if now >= end {
                return Ok(took);
            }
        }
    }
}

/// From a microsecond to a minute, with three digits.
fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1000, 60_000_000_000, 3)
        .expect("the bounds are constants the histogram takes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_probe_measures_every_turn_and_leaves_only_its_profile() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Profile::load(dir.path()).unwrap(), None);
        let mut turns = Vec::new();
        let profile = measure(dir.path(), Duration::from_millis(160), &mut |turn, share| {
            assert!((0.0..1.0).contains(&share));
            turns.push(turn.to_owned());
        });
        let profile = match profile {
            Ok(profile) => profile,
            // tmpfs before Linux 6.6 refuses O_DIRECT: then there is nothing to measure here.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(turns.len() as u32, TURNS);
        assert!(profile.file_bytes >= FILE_BYTES_MIN);
        let throughputs =
            [profile.read_large, profile.write_large, profile.read_small, profile.write_small];
        for throughput in throughputs.iter().chain(&profile.durable) {
            assert!(throughput.per_second > 0.0 && throughput.p50_seconds > 0.0, "{throughput:?}");
            assert!(throughput.p50_seconds <= throughput.p99_seconds);
        }
        assert_eq!(profile.durable.len(), 3);

        profile.save(dir.path()).unwrap();
        let again = Profile::load(dir.path()).unwrap().unwrap();
        assert_eq!(again.file_bytes, profile.file_bytes);
        let names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names, [PROFILE_FILE]);
    }

    #[test]
    fn a_profile_that_cannot_be_used_is_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(PROFILE_FILE);
        std::fs::write(&path, "{}").unwrap();
        let refused = Profile::load(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("diskprobe.json: missing field"), "{refused}");

        let mut profile = made_up();
        profile.version = 99;
        profile.save(dir.path()).unwrap();
        let refused = Profile::load(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("version 99"), "{refused}");
    }

    fn made_up() -> Profile {
        let throughput =
            |bytes_per_second| Throughput { bytes_per_second, ..Throughput::default() };
        Profile {
            version: PROFILE_VERSION,
            measured_unix_ms: 0,
            seconds: 30.0,
            file_bytes: FILE_BYTES_MAX,
            read_large: throughput(2_000_000_000),
            write_large: throughput(1_000_000_000),
            read_small: throughput(1),
            write_small: throughput(1),
            durable: Vec::new(),
        }
    }

    #[test]
    fn scrubbing_takes_a_tenth_of_the_reads() {
        assert_eq!(made_up().scrub_bytes_per_second(), 200_000_000);
        assert_eq!(made_up().bytes_per_second(), 1_000_000_000);
    }

    #[test]
    fn buffers_are_aligned_and_keep_their_bytes() {
        for len in [1, 512, 4096, 100_000] {
            let mut buffer = AlignedBuffer::zeroed(len);
            assert_eq!(buffer.bytes().as_ptr().align_offset(AlignedBuffer::ALIGNMENT), 0);
            buffer.bytes_mut()[len - 1] = 7;
            assert_eq!((buffer.bytes().len(), buffer.bytes()[len - 1]), (len, 7));
        }
    }
}
