//! `ironring kv`: keys of a running node.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use ironring_core::{Durability, ErrorCode, Offset};
use ironring_net::client::blocking::Client;
use ironring_net::client::{Stale, Value, WriteSettings};
use ironring_net::message::{BatchOp, Condition, Receipt};
use serde::Serialize;

use super::arguments;
use super::connect::{Blob, ConnectArgs, WriteArgs};
use super::error::CliError;
use super::load::{self, LineFormat, LoadBatch, LoadRecord};
use super::output::{Cell, Column, Format, Output, Report, View, each};
use super::units;

/// Widest key or value in a table.
const CELL_CHARS_MAX: usize = 60;

/// Flags of `kv`.
#[derive(Args, Debug)]
pub struct KvArgs {
    /// Where the node is.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: KvCommand,
}

/// What to do with keys.
#[derive(Subcommand, Debug)]
pub enum KvCommand {
    /// Store a value
    Put {
        /// The key
        key: OsString,
        /// The value
        value: Option<OsString>,
        /// Take the value from a file (- for standard input)
        #[arg(long, value_name = "FILE")]
        value_file: Option<PathBuf>,
        /// Forget the key after this time
        #[arg(long, value_name = "TIME", value_parser = arguments::duration)]
        ttl: Option<Duration>,
        /// Only if the key does not exist
        #[arg(long)]
        if_absent: bool,
        /// How the write is acknowledged.
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Read a value
    Get {
        /// The key
        key: OsString,
        /// Write the value's bytes and nothing else
        #[arg(long)]
        raw: bool,
        /// Take what any replica knows, also where no majority is left; how old that may be is said
        #[arg(long)]
        stale: bool,
    },
    /// Remove a key
    Delete {
        /// The key
        key: OsString,
        /// Only if the key has this version
        #[arg(long, value_name = "N")]
        if_version: Option<u64>,
        /// How the write is acknowledged.
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Store a value if the key has exactly this version (compare and set)
    Cas {
        /// The key
        key: OsString,
        /// The version it must have, as `get` and `put` print it; 0: it must not exist
        version: u64,
        /// The value
        value: Option<OsString>,
        /// Take the value from a file (- for standard input)
        #[arg(long, value_name = "FILE")]
        value_file: Option<PathBuf>,
        /// How the write is acknowledged.
        #[command(flatten)]
        write: WriteArgs,
    },
    /// List keys, partition after partition, in byte order within each
    Scan {
        /// Only keys that begin with this
        #[arg(default_value = "")]
        prefix: OsString,
        /// At most this many; 0 for all
        #[arg(long, value_name = "N", default_value_t = 1000)]
        limit: u64,
        /// Values too
        #[arg(long)]
        values: bool,
    },
    /// Read several values
    MultiGet {
        /// The keys
        #[arg(required = true)]
        keys: Vec<OsString>,
    },
    /// Store every line of a file
    Load {
        /// Lines of `key<TAB>value` (- for standard input)
        file: PathBuf,
        /// Lines are values; the key is this prefix and the number of the line, twelve digits
        #[arg(long, value_name = "PREFIX")]
        prefix: Option<String>,
        /// How the writes are acknowledged.
        #[command(flatten)]
        write: WriteArgs,
    },
}

/// Runs the command.
///
/// # Errors
/// What the node refused, or why it could not be asked.
pub fn run(args: &KvArgs, output: Output) -> Result<(), CliError> {
    let connect = &args.connect;
    match &args.command {
        KvCommand::Put { key, value, value_file, ttl, if_absent, write } => {
            let value = arguments::value(value.as_ref(), value_file.as_ref())?;
            let condition = if *if_absent { Condition::Absent } else { Condition::None };
            let settings =
                WriteSettings { durability: Some(write.durability), condition, ttl: *ttl };
            let key = arguments::raw(key);
            let receipt = connect.connect()?.put_with(key, &value, settings)?;
            print(output, &Written::new(key, receipt))
        }
        KvCommand::Get { key, raw, stale } => {
            let (key, mut client) = (arguments::raw(key), connect.connect()?);
            let (found, age) = if *stale {
                let Stale { found, age } = client.get_stale(key)?;
                (found, Some(age))
            } else {
                (client.get(key)?, None)
            };
            get(key, found, age, *raw, output)
        }
        KvCommand::Delete { key, if_version, write } => {
            let condition = if_version.map_or(Condition::None, |v| Condition::Version(Offset(v)));
            let settings =
                WriteSettings { durability: Some(write.durability), condition, ttl: None };
            let key = arguments::raw(key);
            let receipt = connect.connect()?.delete_with(key, settings)?;
            print(output, &Written::new(key, receipt))
        }
        KvCommand::Cas { key, version, value, value_file, write } => {
            let value = arguments::value(value.as_ref(), value_file.as_ref())?;
            let condition = match version {
                0 => Condition::Absent,
                version => Condition::Version(Offset(*version)),
            };
            let settings =
                WriteSettings { durability: Some(write.durability), condition, ttl: None };
            let key = arguments::raw(key);
            let receipt = connect.connect()?.put_with(key, &value, settings)?;
            print(output, &Written::new(key, receipt))
        }
        KvCommand::Scan { prefix, limit, values } => {
            scan(&mut connect.connect()?, arguments::raw(prefix), *limit, *values, output)
        }
        KvCommand::MultiGet { keys } => {
            let keys: Vec<&[u8]> = keys.iter().map(|key| arguments::raw(key)).collect();
            let found = connect.connect()?.multi_get(&keys)?;
            let row = |(key, value): (&&[u8], Option<Value>)| Found::new(key, value);
            print(output, &FoundList(keys.iter().zip(found).map(row).collect()))
        }
        KvCommand::Load { file, prefix, write } => {
            let format = match prefix {
                Some(prefix) => LineFormat::Numbered(prefix.clone()),
                None => LineFormat::KeyAndValue,
            };
            load_file(connect, file, &format, write.durability, output)
        }
    }
}

fn print(output: Output, report: &impl Report) -> Result<(), CliError> {
    output.print(report).map_err(|error| CliError::io("stdout", &error))
}

/// Shows a value. `age`: of one that may be old, how old; nothing in it: nobody knows.
fn get(
    key: &[u8],
    found: Option<Value>,
    age: Option<Option<Duration>>,
    raw: bool,
    output: Output,
) -> Result<(), CliError> {
    let Some(value) = found else {
        let shown = Blob(key.to_vec()).cell(CELL_CHARS_MAX);
        return Err(CliError::refused(ErrorCode::NotFound, format!("there is no key {shown}")));
    };
    if raw {
        return output.write(&value.value).map_err(|error| CliError::io("stdout", &error));
    }
    let mut found = Found::new(key, Some(value));
    found.stale = age.map(|age| Staleness { age_ms: age.map(|age| age.as_millis() as u64) });
    print(output, &found)
}

fn scan(
    client: &mut Client,
    prefix: &[u8],
    limit: u64,
    values: bool,
    output: Output,
) -> Result<(), CliError> {
    let wanted = if limit == 0 { usize::MAX } else { usize::try_from(limit).unwrap_or(usize::MAX) };
    let mut entries = client.scan(prefix, values).map(|entry| {
        entry.map(|entry| ScanRow {
            key: Blob(entry.key),
            version: entry.version.0,
            value: entry.value.map(Blob),
        })
    });
    // Lines need not wait for each other: a scan of everything goes through without being held.
    if output.format == Format::Jsonl {
        for row in entries.by_ref().take(wanted) {
            print(output, &row?)?;
        }
        return Ok(());
    }
    let mut rows = Vec::new();
    for row in entries.by_ref().take(wanted) {
        rows.push(row?);
    }
    let more = entries.next().transpose()?.is_some();
    drop(entries);
    print(output, &ScanRows { entries: rows, more, values })
}

fn load_file(
    connect: &ConnectArgs,
    file: &std::path::Path,
    format: &LineFormat,
    durability: Durability,
    output: Output,
) -> Result<(), CliError> {
    let reader = arguments::open(file)?;
    let bytes =
        std::fs::metadata(file).ok().filter(std::fs::Metadata::is_file).map(|meta| meta.len());
    let mut placing = connect.connect()?;
    let mut senders: Vec<load::Send<'_>> = Vec::with_capacity(load::WORKERS);
    for lane in 0..load::WORKERS as u64 {
        let mut client = Client::connect(connect.config(durability, lane + 1))?;
        senders.push(Box::new(move |batch| put_all(&mut client, batch)));
    }
    let place = |_, record: &LoadRecord| Ok(placing.partition_of(&record.key)?.0);
    let name = file.display().to_string();
    let (loaded, result) = load::run(&name, reader, format, place, senders, &load::bar(bytes));
    print(output, &loaded)?;
    result
}

/// One atomic batch, or a plain put for a lone record (which may be larger than a batch).
fn put_all(client: &mut Client, batch: &LoadBatch) -> Result<(), CliError> {
    if let [record] = batch.records.as_slice() {
        client.put(&record.key, &record.value)?;
        return Ok(());
    }
    let mut ops = Vec::with_capacity(batch.records.len());
    for LoadRecord { key, value } in &batch.records {
        ops.push(BatchOp::Put { key, value, condition: Condition::None, ttl_ms: 0 });
    }
    client.batch(&ops, WriteSettings::default())?;
    Ok(())
}

/// An acknowledged write.
#[derive(Serialize)]
struct Written {
    key: Blob,
    version: u64,
    durability: &'static str,
    partition: u32,
    term: u64,
    duplicate: bool,
}

impl Written {
    fn new(key: &[u8], receipt: Receipt) -> Written {
        Written {
            key: Blob(key.to_vec()),
            version: receipt.offset.0,
            durability: receipt.durability.name(),
            partition: receipt.partition.0,
            term: receipt.term.0,
            duplicate: receipt.duplicate,
        }
    }
}

impl Report for Written {
    fn view(&self) -> View {
        View::new().pairs([
            ("key", self.key.cell(CELL_CHARS_MAX)),
            ("version", self.version.to_string()),
            ("durability", self.durability.to_owned()),
            ("partition", self.partition.to_string()),
            ("term", self.term.to_string()),
        ])
    }
}

/// A key and what it holds.
#[derive(Serialize)]
struct Found {
    key: Blob,
    found: bool,
    version: Option<u64>,
    time_unix_ms: Option<u64>,
    expires_unix_ms: Option<u64>,
    value: Option<Blob>,
    /// Of a read that any replica could answer.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    stale: Option<Staleness>,
}

/// How old an answer may be.
#[derive(Serialize)]
struct Staleness {
    /// Everything that had been committed so long ago is in it; nothing: the replica does not know.
    age_ms: Option<u64>,
}

impl Found {
    fn new(key: &[u8], value: Option<Value>) -> Found {
        let found = value.is_some();
        let (version, time, expires) = value.as_ref().map_or((None, None, None), |value| {
            let expires = (value.expires.0 > 0).then_some(value.expires.0);
            (Some(value.version.0), Some(value.time.0), expires)
        });
        Found {
            key: Blob(key.to_vec()),
            found,
            version,
            time_unix_ms: time,
            expires_unix_ms: expires,
            value: value.map(|value| Blob(value.value)),
            stale: None,
        }
    }
}

impl Report for Found {
    fn view(&self) -> View {
        let time = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), units::time);
        let value = self.value.as_ref();
        let mut pairs = vec![
            ("key", self.key.cell(CELL_CHARS_MAX)),
            ("version", self.version.unwrap_or(0).to_string()),
            ("written", time(self.time_unix_ms)),
            ("expires", time(self.expires_unix_ms)),
            ("value", value.map_or_else(String::new, |value| value.cell(usize::MAX - 1))),
        ];
        if let Some(Staleness { age_ms }) = self.stale {
            let age = age_ms.map_or_else(|| "unknown".to_owned(), |ms| format!("at most {ms} ms"));
            pairs.push(("age", age));
        }
        View::new().pairs(pairs)
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct FoundList(Vec<Found>);

impl Report for FoundList {
    fn view(&self) -> View {
        let columns = [Column::Left("KEY"), Column::Right("VERSION"), Column::Left("VALUE")];
        let row = |found: &Found| -> Vec<Cell> {
            let version =
                found.version.map_or_else(|| "-".to_owned(), |version| version.to_string());
            let value = found
                .value
                .as_ref()
                .map_or_else(|| "-".to_owned(), |value| value.cell(CELL_CHARS_MAX));
            vec![found.key.cell(CELL_CHARS_MAX).into(), version.into(), value.into()]
        };
        View::new().rows(&columns, self.0.iter().map(row).collect())
    }

    fn items(&self) -> serde_json::Result<Vec<serde_json::Value>> {
        each(&self.0)
    }
}

#[derive(Serialize)]
struct ScanRow {
    key: Blob,
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Blob>,
}

impl Report for ScanRow {
    fn view(&self) -> View {
        View::new().text(self.key.cell(CELL_CHARS_MAX))
    }
}

/// A page of keys.
#[derive(Serialize)]
struct ScanRows {
    entries: Vec<ScanRow>,
    /// Whether the limit cut the list.
    more: bool,
    #[serde(skip)]
    values: bool,
}

impl Report for ScanRows {
    fn view(&self) -> View {
        let all = [Column::Left("KEY"), Column::Right("VERSION"), Column::Left("VALUE")];
        let columns = if self.values { &all[..] } else { &all[..2] };
        let row = |row: &ScanRow| -> Vec<Cell> {
            let mut cells =
                vec![row.key.cell(CELL_CHARS_MAX).into(), row.version.to_string().into()];
            cells.extend(row.value.iter().map(|value| Cell::from(value.cell(CELL_CHARS_MAX))));
            cells
        };
        let view = View::new().rows(columns, self.entries.iter().map(row).collect());
        if self.more {
            return view.text(format!("{} keys; there are more (--limit)", self.entries.len()));
        }
        view
    }

    fn items(&self) -> serde_json::Result<Vec<serde_json::Value>> {
        each(&self.entries)
    }
}
