//! Many records from a file: read line by line, put into batches by partition, sent by several
//! connections at once.
//!
//! Records of one partition go through one worker in the order of the file, so that of two lines
//! with the same key the later one wins. Workers wait for each other only through bounded queues,
//! and what is read and not sent yet is bounded too.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use ironring_core::limits::{RECORD_BYTES_MAX, VALUE_BYTES_MAX};
use serde::Serialize;

use super::error::{CliError, IO_FAILED};
use super::output::{Report, View};
use super::units;

/// Connections that send.
pub const WORKERS: usize = 4;
/// A batch is sent when it holds this many records.
const BATCH_RECORDS: usize = 1024;
/// A batch is sent when it holds this many bytes. With one more value it still fits a log record,
/// unless the value alone is that large (then it is alone in its batch).
const BATCH_BYTES: usize = RECORD_BYTES_MAX / 4;
/// Bytes of all batches that are being filled; above it the largest is sent as it is.
const FILLING_BYTES_MAX: usize = 16 << 20;
/// Batches that wait for one worker.
const QUEUE_BATCHES: usize = 4;
/// Longest line: a key, a tab and the longest value.
const LINE_BYTES_MAX: usize = VALUE_BYTES_MAX + 2048;

/// One record of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadRecord {
    /// Its key, empty for none.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

impl LoadRecord {
    fn bytes(&self) -> usize {
        self.key.len() + self.value.len()
    }
}

/// Records that go together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadBatch {
    /// The partition they belong to.
    pub partition: u32,
    /// The records, in the order of the file.
    pub records: Vec<LoadRecord>,
}

/// How lines become records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineFormat {
    /// `key<TAB>value`.
    KeyAndValue,
    /// The line is the value; the key is this prefix and the number of the line, twelve digits.
    Numbered(String),
    /// The line is the value, and there is no key.
    ValueOnly,
}

impl LineFormat {
    fn record(&self, number: u64, line: Vec<u8>) -> Result<LoadRecord, String> {
        match self {
            LineFormat::KeyAndValue => {
                let tab = line.iter().position(|byte| *byte == b'\t');
                let tab = tab.ok_or("there is no tab between key and value")?;
                if tab == 0 {
                    return Err("the key is empty".to_owned());
                }
                Ok(LoadRecord { key: line[..tab].to_vec(), value: line[tab + 1..].to_vec() })
            }
            LineFormat::Numbered(prefix) => {
                Ok(LoadRecord { key: format!("{prefix}{number:012}").into_bytes(), value: line })
            }
            LineFormat::ValueOnly => Ok(LoadRecord { key: Vec::new(), value: line }),
        }
    }
}

/// What a load did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Loaded {
    /// Lines read.
    pub read: u64,
    /// Records acknowledged.
    pub acked: u64,
    /// Bytes of keys and values acknowledged.
    pub acked_bytes: u64,
    /// Batches acknowledged.
    pub batches: u64,
    /// Records of batches whose outcome is not known: they may be stored or not.
    pub unknown: u64,
    /// Seconds it took.
    pub seconds: f64,
}

impl Report for Loaded {
    fn view(&self) -> View {
        let per_second = |number: f64| number / self.seconds.max(1e-9);
        let mut pairs = vec![
            ("read", format!("{} lines", self.read)),
            ("acked", format!("{} records in {} batches", self.acked, self.batches)),
            ("bytes", units::bytes(self.acked_bytes)),
            ("time", units::duration(Duration::from_secs_f64(self.seconds))),
            (
                "rate",
                format!(
                    "{}, {} records/s",
                    units::rate(per_second(self.acked_bytes as f64)),
                    units::count(per_second(self.acked as f64) as u64)
                ),
            ),
        ];
        if self.unknown > 0 {
            pairs.push(("unknown", format!("{} records may be stored or not", self.unknown)));
        }
        View::new().pairs(pairs)
    }
}

/// One connection's way to send a batch. Returns when it is acknowledged.
pub type Send<'a> = Box<dyn FnMut(&LoadBatch) -> Result<(), CliError> + std::marker::Send + 'a>;

/// Counts that workers share with the progress bar. Not a hot path: once per batch.
#[derive(Default)]
struct Progress {
    acked: AtomicU64,
    acked_bytes: AtomicU64,
    batches: AtomicU64,
    unknown: AtomicU64,
    failed: AtomicBool,
}

/// Loads `file`. `partition_of` places a record (with its index in the file); each of `senders` is
/// used by a thread of its own. The result is there even when the load failed midway.
pub fn run<'a>(
    name: &str,
    file: impl Read,
    format: &LineFormat,
    mut partition_of: impl FnMut(u64, &LoadRecord) -> Result<u32, CliError>,
    senders: Vec<Send<'a>>,
    bar: &ProgressBar,
) -> (Loaded, Result<(), CliError>) {
    let began = Instant::now();
    let progress = Progress::default();
    let mut read = 0;
    let result = std::thread::scope(|scope| {
        let mut queues = Vec::with_capacity(senders.len());
        let mut workers = Vec::with_capacity(senders.len());
        for send in senders {
            let (queue, batches) = sync_channel(QUEUE_BATCHES);
            queues.push(queue);
            let (progress, bar) = (&progress, bar.clone());
            workers.push(scope.spawn(move || work(batches, send, progress, &bar)));
        }
        let mut batching = Batching::new(queues);
        let fed = each_line(file, |line| {
            if progress.failed.load(Ordering::Relaxed) {
                return Ok(false);
            }
            read += 1;
            let at = |why| CliError::hinted(&IO_FAILED, format!("{name}:{read}: {why}"), LINE_HINT);
            let record = format.record(read, line).map_err(at)?;
            let partition = partition_of(read - 1, &record)?;
            batching.push(partition, record);
            Ok(true)
        });
        if fed.is_ok() {
            batching.flush_all();
        }
        // Without their queues the workers end after what they have.
        drop(batching);
        let worked: Result<(), CliError> = workers.into_iter().try_for_each(join);
        worked.and(fed.map_err(|error| match error {
            LineError::Io(error) => CliError::io(name, &error),
            LineError::TooLong => {
                let limit = units::bytes(LINE_BYTES_MAX as u64);
                CliError::hinted(
                    &IO_FAILED,
                    format!("{name}:{}: the line is longer than {limit}", read + 1),
                    LINE_HINT,
                )
            }
            LineError::Refused(error) => error,
        }))
    });
    bar.finish_and_clear();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let loaded = Loaded {
        read,
        acked: count(&progress.acked),
        acked_bytes: count(&progress.acked_bytes),
        batches: count(&progress.batches),
        unknown: count(&progress.unknown),
        seconds: began.elapsed().as_secs_f64(),
    };
    (loaded, result)
}

const LINE_HINT: &str =
    "correct the line and run the command again; `--help` shows what a line holds";

fn join(worker: ScopedJoinHandle<'_, Result<(), CliError>>) -> Result<(), CliError> {
    worker.join().unwrap_or_else(|_| Err(CliError::local(&IO_FAILED, "a sending thread panicked")))
}

/// Sends what comes until the queue ends. After a failure it lets the rest pass unsent, so that the
/// reader is never left waiting for a full queue.
fn work(
    batches: Receiver<LoadBatch>,
    mut send: Send<'_>,
    progress: &Progress,
    bar: &ProgressBar,
) -> Result<(), CliError> {
    let mut result = Ok(());
    for batch in batches {
        if progress.failed.load(Ordering::Relaxed) {
            continue;
        }
        let count = batch.records.len() as u64;
        match send(&batch) {
            Ok(()) => {
                let bytes = batch.records.iter().map(|record| record.bytes() as u64).sum();
                progress.acked.fetch_add(count, Ordering::Relaxed);
                progress.acked_bytes.fetch_add(bytes, Ordering::Relaxed);
                progress.batches.fetch_add(1, Ordering::Relaxed);
                bar.inc(bytes);
            }
            Err(error) => {
                if error.code == ironring_core::ErrorCode::Unknown.name() {
                    progress.unknown.fetch_add(count, Ordering::Relaxed);
                }
                progress.failed.store(true, Ordering::Relaxed);
                result = Err(error);
            }
        }
    }
    result
}

enum LineError {
    Io(std::io::Error),
    TooLong,
    Refused(CliError),
}

impl From<CliError> for LineError {
    fn from(error: CliError) -> LineError {
        LineError::Refused(error)
    }
}

/// Calls `take` with each line, without its line feed, until it says false.
fn each_line(
    file: impl Read,
    mut take: impl FnMut(Vec<u8>) -> Result<bool, CliError>,
) -> Result<(), LineError> {
    let mut reader = BufReader::with_capacity(1 << 20, file);
    loop {
        let mut line = Vec::new();
        let limit = LINE_BYTES_MAX as u64 + 1;
        (&mut reader).take(limit).read_until(b'\n', &mut line).map_err(LineError::Io)?;
        match line.last() {
            None => return Ok(()),
            Some(b'\n') => _ = line.pop(),
            Some(_) if line.len() as u64 == limit => return Err(LineError::TooLong),
            Some(_) => {}
        }
        if !take(line)? {
            return Ok(());
        }
    }
}

/// Batches that are being filled, one per partition.
struct Batching {
    filling: BTreeMap<u32, (Vec<LoadRecord>, usize)>,
    bytes: usize,
    queues: Vec<SyncSender<LoadBatch>>,
}

impl Batching {
    fn new(queues: Vec<SyncSender<LoadBatch>>) -> Batching {
        Batching { filling: BTreeMap::new(), bytes: 0, queues }
    }

    fn push(&mut self, partition: u32, record: LoadRecord) {
        let bytes = record.bytes();
        let held = self.filling.get(&partition).map_or(0, |(_, bytes)| *bytes);
        if held > 0 && held + bytes > BATCH_BYTES {
            self.flush(partition);
        }
        let (records, held) = self.filling.entry(partition).or_default();
        records.push(record);
        *held += bytes;
        self.bytes += bytes;
        if records.len() >= BATCH_RECORDS || *held >= BATCH_BYTES {
            self.flush(partition);
        }
        if self.bytes > FILLING_BYTES_MAX {
            let largest = self.filling.iter().max_by_key(|(_, (_, bytes))| *bytes);
            if let Some(partition) = largest.map(|(partition, _)| *partition) {
                self.flush(partition);
            }
        }
    }

    fn flush(&mut self, partition: u32) {
        if let Some((records, bytes)) = self.filling.remove(&partition) {
            self.bytes -= bytes;
            let worker = partition as usize % self.queues.len();
            // A worker whose queue is gone has panicked, which its join reports.
            _ = self.queues[worker].send(LoadBatch { partition, records });
        }
    }

    fn flush_all(&mut self) {
        while let Some((&partition, _)) = self.filling.first_key_value() {
            self.flush(partition);
        }
    }
}

/// A bar of bytes with rate and time left on a terminal, nothing elsewhere. `bytes`: the size of
/// the file when it is known.
#[must_use]
pub fn bar(bytes: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = match bytes {
        Some(_) => {
            "{bar:30} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left"
        }
        None => "{spinner} {binary_bytes}  {binary_bytes_per_sec}",
    };
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bytes.map_or_else(ProgressBar::new_spinner, ProgressBar::new).with_style(style)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Loads `text` with three workers; partitions are the first byte of the key.
    fn load(
        text: &[u8],
        format: &LineFormat,
        refuse: impl Fn(&LoadBatch) -> Option<CliError> + Sync,
    ) -> (Loaded, Result<(), CliError>, Vec<LoadBatch>) {
        let sent = Mutex::new(Vec::new());
        let senders = (0..3)
            .map(|_| -> Send<'_> {
                Box::new(|batch| {
                    if let Some(error) = refuse(batch) {
                        return Err(error);
                    }
                    sent.lock().unwrap().push(batch.clone());
                    Ok(())
                })
            })
            .collect();
        let place =
            |_, record: &LoadRecord| Ok(u32::from(record.key.first().copied().unwrap_or(0)));
        let (loaded, result) = run("f", text, format, place, senders, &ProgressBar::hidden());
        (loaded, result, sent.into_inner().unwrap())
    }

    fn numbered(count: usize) -> Vec<u8> {
        (0..count)
            .flat_map(|n| format!("{}{n}\tv{n}\n", ["a", "b", "c", "d"][n % 4]).into_bytes())
            .collect()
    }

    #[test]
    fn every_line_is_sent_once_and_in_order_within_its_partition() {
        let (loaded, result, batches) = load(&numbered(10_000), &LineFormat::KeyAndValue, |_| None);
        assert_eq!(result, Ok(()));
        assert_eq!((loaded.read, loaded.acked, loaded.unknown), (10_000, 10_000, 0));
        assert_eq!(loaded.batches, batches.len() as u64);
        assert!(batches.iter().all(|batch| batch.records.len() <= BATCH_RECORDS));
        for (partition, first) in [(b'a', 0), (b'b', 1), (b'c', 2), (b'd', 3)] {
            let of = batches.iter().filter(|batch| batch.partition == u32::from(partition));
            let values: Vec<Vec<u8>> = of
                .flat_map(|batch| batch.records.iter().map(|record| record.value.clone()))
                .collect();
            let expected: Vec<Vec<u8>> =
                (first..10_000).step_by(4).map(|n| format!("v{n}").into_bytes()).collect();
            assert_eq!(values, expected);
        }
    }

    #[test]
    fn batches_stay_within_their_bytes_and_a_large_value_is_alone() {
        let line = |bytes: usize| [b"k\t".to_vec(), vec![b'x'; bytes], b"\n".to_vec()].concat();
        let text = [line(300 << 10), line(300 << 10), line(4 << 20), line(10)].concat();
        let (_, result, batches) = load(&text, &LineFormat::KeyAndValue, |_| None);
        assert_eq!(result, Ok(()));
        let sizes: Vec<Vec<usize>> = batches
            .iter()
            .map(|batch| batch.records.iter().map(|record| record.value.len()).collect())
            .collect();
        assert_eq!(sizes, [vec![300 << 10], vec![300 << 10], vec![4 << 20], vec![10]]);
    }

    #[test]
    fn what_is_being_filled_is_bounded() {
        let mut queues = Vec::new();
        let mut taken = Vec::new();
        for _ in 0..2 {
            let (queue, batches) = sync_channel(4000);
            queues.push(queue);
            taken.push(batches);
        }
        let mut batching = Batching::new(queues);
        for n in 0..4000u32 {
            batching.push(n % 1000, LoadRecord { key: vec![b'k'], value: vec![0; 20_000] });
            assert!(batching.bytes <= FILLING_BYTES_MAX);
        }
        batching.flush_all();
        assert_eq!(batching.bytes, 0);
        drop(batching);
        let records: usize = taken.into_iter().flatten().map(|batch| batch.records.len()).sum();
        assert_eq!(records, 4000);
    }

    #[test]
    fn lines_become_records_by_the_format() {
        let keys = |text: &[u8], format| {
            let (_, result, batches) = load(text, &format, |_| None);
            result.unwrap();
            batches.into_iter().flat_map(|batch| batch.records).collect::<Vec<_>>()
        };
        let record = |key: &str, value: &str| LoadRecord { key: key.into(), value: value.into() };
        assert_eq!(keys(b"k\tv\tw", LineFormat::KeyAndValue), [record("k", "v\tw")]);
        assert_eq!(
            keys(b"x\n\ny\r\n", LineFormat::Numbered("log/".to_owned())),
            [
                record("log/000000000001", "x"),
                record("log/000000000002", ""),
                record("log/000000000003", "y\r")
            ]
        );
        assert_eq!(keys(b"a\tb\n", LineFormat::ValueOnly), [record("", "a\tb")]);
        assert_eq!(keys(b"", LineFormat::ValueOnly), []);
    }

    #[test]
    fn a_wrong_line_is_named_and_what_was_acked_is_known() {
        let (loaded, result, _) =
            load(b"a\t1\nb\t2\nno tab\nc\t3\n", &LineFormat::KeyAndValue, |_| None);
        let error = result.unwrap_err();
        assert_eq!(error.faults[0].message, "f:3: there is no tab between key and value");
        assert_eq!(loaded.read, 3);
        let (_, result, _) = load(b"\t1\n", &LineFormat::KeyAndValue, |_| None);
        assert_eq!(result.unwrap_err().faults[0].message, "f:1: the key is empty");
    }

    #[test]
    fn a_refusal_ends_the_load_and_counts_what_is_unknown() {
        let refuse = |batch: &LoadBatch| {
            (batch.partition == u32::from(b'c'))
                .then(|| CliError::refused(ironring_core::ErrorCode::Unknown, "lost"))
        };
        let (loaded, result, sent) = load(&numbered(100_000), &LineFormat::KeyAndValue, refuse);
        assert_eq!(result.unwrap_err().code, "unknown");
        assert_eq!(loaded.unknown, BATCH_RECORDS as u64);
        let acked: usize = sent.iter().map(|batch| batch.records.len()).sum();
        assert_eq!(loaded.acked, acked as u64);
        assert!(loaded.acked < 100_000);
    }
}
