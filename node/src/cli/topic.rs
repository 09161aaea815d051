//! `ironring topic`: topics of a running node. What the verbs print is in [`reports`].

mod reports;

use std::ffi::OsString;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use ironring_core::{Durability, Token, WallTime};
use ironring_net::client::Record;
use ironring_net::client::blocking::Client;
use ironring_net::message::{AppendRecord, AppendTo, ReadFrom, Retention, TopicInfo};

use super::arguments;
use super::connect::{ConnectArgs, WriteArgs};
use super::error::{CliError, USAGE};
use super::load::{self, LineFormat, LoadBatch, LoadRecord};
use super::output::{Format, Output, Report};
use reports::{
    AppendedRow, Described, Dropped, OffsetRow, OffsetRows, RecordRow, RecordRows, TopicRow,
    TopicRows, Trimmed,
};

/// Longest the node is asked to wait for a record at once while following.
const FOLLOW_WAIT_MS: u32 = 5_000;
/// Records without a key that go to one partition before the next one's turn.
const UNKEYED_RUN: u64 = 1024;

/// Flags of `topic`.
#[derive(Args, Debug)]
pub struct TopicArgs {
    /// Where the node is.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: TopicCommand,
}

/// What a topic keeps.
#[derive(Args, Clone, Copy, Debug)]
pub struct RetentionArgs {
    /// Records older than this may be dropped, e.g. 7d; 0: age does not matter
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = arguments::duration)]
    pub keep_time: Duration,
    /// The oldest records are dropped when a partition holds more than this; 0: size does not matter
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = arguments::bytes)]
    pub keep_bytes: u64,
}

impl From<RetentionArgs> for Retention {
    fn from(args: RetentionArgs) -> Retention {
        Retention { age_ms: age_ms(args.keep_time), bytes: args.keep_bytes }
    }
}

fn age_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Whether a limit keeps less than the one before; 0 is none.
fn is_tighter(wanted: u64, now: u64) -> bool {
    wanted != 0 && (now == 0 || wanted < now)
}

/// What to do with topics.
#[derive(Subcommand, Debug)]
pub enum TopicCommand {
    /// Make a topic
    Create {
        /// Its name
        name: String,
        /// How many partitions, fixed for its life
        #[arg(long, value_name = "N", default_value_t = 1)]
        partitions: u32,
        /// What it keeps.
        #[command(flatten)]
        retention: RetentionArgs,
    },
    /// Drop a topic and all its records
    Delete {
        /// Its name
        name: String,
        /// Do it without asking
        #[arg(long)]
        yes: bool,
    },
    /// Show a topic and its partitions
    Describe {
        /// Its name
        name: String,
    },
    /// Show all topics
    List,
    /// Change what a topic keeps; what is not named stays as it is
    #[command(group(ArgGroup::new("limit").required(true).multiple(true)
        .args(["keep_time", "keep_bytes"])))]
    Alter {
        /// Its name
        name: String,
        /// Records older than this may be dropped, e.g. 7d; 0: age does not matter
        #[arg(long, value_name = "TIME", value_parser = arguments::duration)]
        keep_time: Option<Duration>,
        /// The oldest records are dropped when a partition holds more than this; 0: size does not matter
        #[arg(long, value_name = "SIZE", value_parser = arguments::bytes)]
        keep_bytes: Option<u64>,
        /// Do not ask before a limit is lowered, which drops records
        #[arg(long)]
        yes: bool,
    },
    /// Append records: the values given, or every line of a file
    Append {
        /// The topic
        name: String,
        /// The values, appended together to one partition
        values: Vec<OsString>,
        /// Key of the values; it decides the partition
        #[arg(long, value_name = "KEY", conflicts_with_all = ["partition", "from_file"])]
        key: Option<OsString>,
        /// The partition [default: 0 for values, all in turn for a file]
        #[arg(long, value_name = "N")]
        partition: Option<u32>,
        /// Append every line of this file (- for standard input)
        #[arg(long, value_name = "FILE", conflicts_with = "values")]
        from_file: Option<PathBuf>,
        /// Lines of the file are `key<TAB>value`; the key decides the partition
        #[arg(long, requires = "from_file", conflicts_with = "partition")]
        keyed: bool,
        /// How the writes are acknowledged.
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Read records of one partition
    Read {
        /// The topic
        name: String,
        /// The partition
        #[arg(long, value_name = "N", default_value_t = 0)]
        partition: u32,
        /// Where to begin: earliest, latest, an offset, or @ and milliseconds since 1970
        #[arg(long, value_name = "POSITION", default_value = "earliest", value_parser = arguments::read_from)]
        from: ReadFrom,
        /// At most this many records; 0 for all there are
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u64,
        /// Go on with records yet to come, until interrupted
        #[arg(long, short, conflicts_with = "limit")]
        follow: bool,
        /// Write values and nothing else, each with a line feed
        #[arg(long)]
        raw: bool,
    },
    /// Show first and last offsets of each partition
    Offsets {
        /// The topic
        name: String,
        /// Also the first offset at or after this time, in milliseconds since 1970
        #[arg(long, value_name = "MS")]
        at: Option<u64>,
    },
    /// Drop the records of a partition before an offset
    Trim {
        /// The topic
        name: String,
        /// The partition
        #[arg(long, value_name = "N")]
        partition: u32,
        /// The first offset that is kept
        #[arg(long, value_name = "OFFSET")]
        before: u64,
        /// Do it without asking
        #[arg(long)]
        yes: bool,
    },
}

/// Runs the command.
///
/// # Errors
/// What the node refused, or why it could not be asked.
pub fn run(args: &TopicArgs, output: Output) -> Result<(), CliError> {
    let connect = &args.connect;
    match &args.command {
        TopicCommand::Create { name, partitions, retention } => {
            let topic = connect.connect()?.topic_create(name, *partitions, (*retention).into())?;
            print(output, &TopicRow::from(topic))
        }
        TopicCommand::Delete { name, yes } => {
            arguments::confirm(*yes, &format!("dropping topic {name} and all its records"))?;
            let id = connect.connect()?.topic_delete(name)?.id.0;
            print(output, &Dropped { topic: name.clone(), id })
        }
        TopicCommand::Describe { name } => {
            let mut client = connect.connect()?;
            let topic = client.topic_describe(name)?;
            let partitions = offsets(&mut client, &topic, None)?;
            print(output, &Described { topic: topic.into(), offsets: partitions })
        }
        TopicCommand::List => {
            let topics = connect.connect()?.topic_list()?;
            print(output, &TopicRows(topics.into_iter().map(TopicRow::from).collect()))
        }
        TopicCommand::Alter { name, keep_time, keep_bytes, yes } => {
            let mut client = connect.connect()?;
            let now = client.topic_describe(name)?.retention;
            let wanted = Retention {
                age_ms: keep_time.map_or(now.age_ms, age_ms),
                bytes: keep_bytes.unwrap_or(now.bytes),
            };
            if is_tighter(wanted.age_ms, now.age_ms) || is_tighter(wanted.bytes, now.bytes) {
                let what = format!("dropping the records of {name} that are beyond the new limits");
                arguments::confirm(*yes, &what)?;
            }
            print(output, &TopicRow::from(client.topic_alter(name, wanted)?))
        }
        TopicCommand::Append { name, values, key, partition, from_file, keyed, write } => {
            let durability = write.durability;
            match from_file {
                Some(file) => {
                    let how =
                        FileAppend { name, file, keyed: *keyed, partition: *partition, durability };
                    how.run(connect, output)
                }
                None => append(connect, name, values, key.as_ref(), *partition, durability, output),
            }
        }
        TopicCommand::Read { name, partition, from, limit, follow, raw } => {
            let reading = Reading { name, partition: *partition, limit: *limit, raw: *raw, output };
            reading.run(&mut connect.connect()?, *from, *follow)
        }
        TopicCommand::Offsets { name, at } => {
            let mut client = connect.connect()?;
            let topic = client.topic_describe(name)?;
            print(output, &OffsetRows(offsets(&mut client, &topic, *at)?))
        }
        TopicCommand::Trim { name, partition, before, yes } => {
            let what = format!("dropping the records of {name}/{partition} before offset {before}");
            arguments::confirm(*yes, &what)?;
            let receipt = connect.connect()?.topic_trim(name, *partition, *before)?;
            print(output, &Trimmed::new(name, *partition, *before, receipt))
        }
    }
}

fn print(output: Output, report: &impl Report) -> Result<(), CliError> {
    output.print(report).map_err(|error| CliError::io("stdout", &error))
}

fn offsets(
    client: &mut Client,
    topic: &TopicInfo,
    at: Option<u64>,
) -> Result<Vec<OffsetRow>, CliError> {
    (0..topic.partitions)
        .map(|partition| {
            let time = WallTime(at.unwrap_or(0));
            let (start, end, at_time) = client.topic_offsets(&topic.name, partition, time)?;
            Ok(OffsetRow { partition, start, end, at_time: at.map(|_| at_time) })
        })
        .collect()
}

fn append(
    connect: &ConnectArgs,
    name: &str,
    values: &[OsString],
    key: Option<&OsString>,
    partition: Option<u32>,
    durability: Durability,
    output: Output,
) -> Result<(), CliError> {
    if values.is_empty() {
        let hint = "give VALUES, or --from-file FILE";
        return Err(CliError::hinted(&USAGE, "there is nothing to append", hint));
    }
    let key = key.map_or(&b""[..], |key| arguments::raw(key));
    let to = match (key, partition) {
        (b"", partition) => AppendTo::Partition(partition.unwrap_or(0)),
        (key, _) => AppendTo::Key(key),
    };
    let mut records = Vec::with_capacity(values.len());
    for value in values {
        records.push(AppendRecord { key, value: arguments::raw(value) });
    }
    let appended = connect.connect()?.topic_append(name, to, &records, Some(durability))?;
    print(output, &AppendedRow::new(name, &appended))
}

/// `append --from-file`.
struct FileAppend<'a> {
    name: &'a str,
    file: &'a std::path::Path,
    keyed: bool,
    partition: Option<u32>,
    durability: Durability,
}

impl FileAppend<'_> {
    fn run(&self, connect: &ConnectArgs, output: Output) -> Result<(), CliError> {
        let reader: Box<dyn Read> = arguments::open(self.file)?;
        let meta = std::fs::metadata(self.file).ok().filter(std::fs::Metadata::is_file);
        let partitions = connect.connect()?.topic_describe(self.name)?.partitions;
        let mut senders: Vec<load::Send<'_>> = Vec::with_capacity(load::WORKERS);
        for lane in 0..load::WORKERS as u64 {
            let mut client = Client::connect(connect.config(self.durability, lane + 1))?;
            senders.push(Box::new(move |batch| append_all(&mut client, self.name, batch)));
        }
        let format = if self.keyed { LineFormat::KeyAndValue } else { LineFormat::ValueOnly };
        let place = |index, record: &LoadRecord| Ok(self.place(index, record, partitions));
        let bar = load::bar(meta.map(|meta| meta.len()));
        let name = self.file.display().to_string();
        let (loaded, result) = load::run(&name, reader, &format, place, senders, &bar);
        print(output, &loaded)?;
        result
    }

    /// Where a record goes: by its key as the protocol places keys, else to the partition named,
    /// else to all in turn.
    fn place(&self, index: u64, record: &LoadRecord, partitions: u32) -> u32 {
        let partitions = partitions.max(1);
        match self.partition {
            Some(partition) => partition,
            None if self.keyed => {
                ((Token::of_key(&record.key).0 >> 32) % u64::from(partitions)) as u32
            }
            None => (index / UNKEYED_RUN % u64::from(partitions)) as u32,
        }
    }
}

fn append_all(client: &mut Client, name: &str, batch: &LoadBatch) -> Result<(), CliError> {
    let mut records = Vec::with_capacity(batch.records.len());
    for LoadRecord { key, value } in &batch.records {
        records.push(AppendRecord { key, value });
    }
    client.topic_append(name, AppendTo::Partition(batch.partition), &records, None)?;
    Ok(())
}

/// `read`, with where its records go.
struct Reading<'a> {
    name: &'a str,
    partition: u32,
    limit: u64,
    raw: bool,
    output: Output,
}

impl Reading<'_> {
    fn run(&self, client: &mut Client, from: ReadFrom, follow: bool) -> Result<(), CliError> {
        // One by one is how a stream is printed; a table of known length is printed as a whole.
        let streamed = follow || self.raw || self.output.format == Format::Jsonl;
        let mut held = Vec::new();
        let mut left = if follow || self.limit == 0 { u64::MAX } else { self.limit };
        let mut from = from;
        let end = loop {
            let wait_ms = if follow { FOLLOW_WAIT_MS } else { 0 };
            let max_records = u32::try_from(left).unwrap_or(0);
            let limits = (max_records, 0);
            let mut read = client.topic_read(self.name, self.partition, from, limits, wait_ms)?;
            read.records.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left -= read.records.len() as u64;
            match read.records.last() {
                Some(last) => from = ReadFrom::Offset(last.offset + 1),
                // Offsets after the end are only known once: what comes next must not be missed.
                None if from == ReadFrom::Latest => from = ReadFrom::Offset(read.end),
                None => {}
            }
            let caught_up = read.records.is_empty() || from == ReadFrom::Offset(read.end);
            if streamed {
                read.records.into_iter().try_for_each(|record| self.stream(record))?;
            } else {
                held.extend(read.records.into_iter().map(RecordRow::from));
            }
            if left == 0 || (caught_up && !follow) {
                break read.end;
            }
        };
        if streamed {
            return Ok(());
        }
        print(self.output, &RecordRows { records: held, end })
    }

    fn stream(&self, record: Record) -> Result<(), CliError> {
        let stdout = |error| CliError::io("stdout", &error);
        if self.raw {
            let mut line = record.value;
            line.push(b'\n');
            return self.output.write(&line).map_err(stdout);
        }
        let row = RecordRow::from(record);
        match self.output.format {
            // A stream has no end at which a document could be closed, so it is lines.
            Format::Json | Format::Jsonl => {
                let lines = Output { format: Format::Jsonl };
                lines.print(&row).map_err(stdout)
            }
            Format::Table => self.output.print(&row).map_err(stdout),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_tighter_that_lets_something_go() {
        for (wanted, now, tighter) in
            [(0, 0, false), (0, 5, false), (5, 0, true), (4, 5, true), (5, 5, false), (6, 5, false)]
        {
            assert_eq!(is_tighter(wanted, now), tighter, "{wanted} after {now}");
        }
    }

    #[test]
    fn lines_go_to_the_partition_named_or_their_keys_or_all_in_turn() {
        let file = std::path::Path::new("-");
        let durability = Durability::Quorum;
        let how = |keyed, partition| FileAppend { name: "t", file, keyed, partition, durability };
        let record = |key: &str| LoadRecord { key: key.into(), value: Vec::new() };
        assert_eq!(how(false, Some(7)).place(9999, &record(""), 8), 7);
        // SHA-256("abc") begins with ba7816bf: (0xba7816bf % 5) is what any client computes.
        assert_eq!(how(true, None).place(0, &record("abc"), 5), 0xba78_16bf_u32 % 5);
        let turns: Vec<u32> = [0, 1023, 1024, 2048, 3072]
            .iter()
            .map(|i| how(false, None).place(*i, &record(""), 3))
            .collect();
        assert_eq!(turns, [0, 0, 1, 2, 0]);
    }
}
