//! `ironring inspect`: what lies in the files of a stopped node, and what does not verify.
//!
//! Reads files and changes nothing. Exits 10 when something does not verify.

mod superblock;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use ironring_log::format::segment::SegmentHeader;
use ironring_log::inspect::{SegmentInspector, SegmentItem};
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;

use super::connect::Blob;
use super::error::{CliError, EXIT_UNHEALTHY, IO_FAILED, NODE_RUNNING};
use super::output::{Cell, Column, Output, Report, Tone, View, each};
use super::units;
use superblock::SuperblockFound;

/// Widest key in a table.
const KEY_CHARS_MAX: usize = 40;

/// Flags of `inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// Look although a node uses the files: what is read may be half written
    #[arg(long, global = true)]
    pub running: bool,
    /// What to look at.
    #[command(subcommand)]
    pub command: InspectCommand,
}

/// A file of a shard's directory (`DATA_DIR/shard-NNN/`).
#[derive(Subcommand, Debug)]
pub enum InspectCommand {
    /// The copies of a superblock, and which one recovery would use
    Superblock {
        /// The file `superblock`
        file: PathBuf,
    },
    /// The commit groups of a segment, every checksum verified
    Segment {
        /// A file `segment-NNNNNNNN.log`
        file: PathBuf,
        /// Their records too
        #[arg(long)]
        records: bool,
    },
    /// A checkpoint of the index, every checksum verified
    #[command(visible_alias = "checkpoint")]
    Index {
        /// A checkpoint file
        file: PathBuf,
    },
}

/// Runs the command.
///
/// # Errors
/// When the file cannot be read or is nothing of the kind, or a node uses it.
pub fn run(args: &InspectArgs, output: Output) -> Result<ExitCode, CliError> {
    let (InspectCommand::Superblock { file }
    | InspectCommand::Segment { file, .. }
    | InspectCommand::Index { file }) = &args.command;
    let _stopped = if args.running { None } else { hold_stopped(file)? };
    let bytes = std::fs::read(file).map_err(|error| CliError::io(file.display(), &error))?;
    let stdout = |error| CliError::io("stdout", &error);
    let sound = match &args.command {
        InspectCommand::Superblock { file } => {
            let found = SuperblockFound::new(file, &bytes);
            output.print(&found).map_err(stdout)?;
            found.sound()
        }
        InspectCommand::Segment { file, records } => {
            let found = SegmentFound::new(file, &bytes, *records)?;
            output.print(&found).map_err(stdout)?;
            found.damages == 0
        }
        InspectCommand::Index { file } => {
            let found = CheckpointFound::new(file, &bytes)?;
            output.print(&found).map_err(stdout)?;
            found.damage.is_none()
        }
    };
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::from(EXIT_UNHEALTHY) })
}

/// Keeps nodes from starting on the file's data directory while it is looked at. `None`: the file
/// was copied out of a data directory, and nobody uses it.
fn hold_stopped(file: &Path) -> Result<Option<Flock<File>>, CliError> {
    let absolute =
        std::path::absolute(file).map_err(|error| CliError::io(file.display(), &error))?;
    let Some(data_dir) = absolute.parent().and_then(Path::parent) else { return Ok(None) };
    let path = data_dir.join("lock");
    let Ok(lock) = File::open(&path) else { return Ok(None) };
    match Flock::lock(lock, FlockArg::LockSharedNonblock) {
        Ok(held) => Ok(Some(held)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            Err(CliError::local(&NODE_RUNNING, format!("a node uses {}", data_dir.display())))
        }
        Err((_, errno)) => Err(CliError::io(path.display(), &errno.into())),
    }
}

fn verdict(damage: Option<&str>) -> Cell {
    damage.map_or_else(|| Cell::toned("ok", Tone::Good), |damage| Cell::toned(damage, Tone::Bad))
}

/// A segment file.
#[derive(Serialize)]
struct SegmentFound {
    file: PathBuf,
    storage: String,
    shard: u16,
    slot: u32,
    segment: u32,
    generation: u32,
    prepared_at_group: u64,
    segment_bytes: u32,
    block_bytes: u32,
    groups: u64,
    records: u64,
    /// Places that do not verify, header copies included.
    damages: u64,
    header_damage: Vec<String>,
    items: Vec<Item>,
}

/// A range of the file.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Item {
    Group {
        pos: u32,
        sequence: u64,
        run: u32,
        durable_floor: u64,
        records: u32,
        body_bytes: u32,
        damage: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        contents: Option<Vec<RecordFacts>>,
    },
    Damaged {
        pos: u32,
        damage: String,
    },
    Gap {
        pos: u32,
        bytes: u32,
        left_overs: u32,
    },
}

#[derive(Serialize)]
struct RecordFacts {
    pos: u32,
    record_bytes: u32,
    record: String,
    partition: u32,
    term: u64,
    offset: u64,
    session: u64,
    sequence: u64,
    time_unix_ms: u64,
    key: Blob,
    body_bytes: usize,
    damage: Option<String>,
}

impl SegmentFound {
    fn new(file: &Path, bytes: &[u8], with_records: bool) -> Result<SegmentFound, CliError> {
        let mut inspector = SegmentInspector::new(bytes)
            .map_err(|error| nothing_of_the_kind(file, "segment", &error))?;
        let header_damage: Vec<String> = inspector
            .copies()
            .iter()
            .enumerate()
            .filter_map(|(copy, decoded)| Some((copy, decoded.err()?)))
            .map(|(copy, error)| format!("copy {copy}: {error}"))
            .collect();
        let mut found = SegmentFound::empty(file, inspector.header());
        found.damages = header_damage.len() as u64;
        found.header_damage = header_damage;
        while let Some(item) = inspector.next() {
            let item = found.item(&inspector, item, with_records);
            found.items.push(item);
        }
        Ok(found)
    }

    fn empty(file: &Path, header: &SegmentHeader) -> SegmentFound {
        SegmentFound {
            file: file.to_owned(),
            storage: header.identity.storage.to_string(),
            shard: header.identity.shard.0,
            slot: header.slot.0,
            segment: header.segment.0,
            generation: header.generation,
            prepared_at_group: header.prepared_at.0,
            segment_bytes: header.segment_bytes,
            block_bytes: header.block_bytes,
            groups: 0,
            records: 0,
            damages: 0,
            header_damage: Vec::new(),
            items: Vec::new(),
        }
    }

    /// Counts an item and states it.
    fn item(
        &mut self,
        inspector: &SegmentInspector<'_>,
        item: SegmentItem<'_>,
        with_records: bool,
    ) -> Item {
        match item {
            SegmentItem::Group { pos, header, body, bytes, .. } => {
                self.groups += 1;
                let mut damage = body.err().map(|error| error.to_string());
                let mut contents = Vec::new();
                if damage.is_none() {
                    contents = inspector.records(pos, bytes).map(record_facts).collect();
                    damage = contents.iter().find_map(|record| record.damage.clone());
                    self.records += contents.len() as u64;
                }
                self.damages += u64::from(damage.is_some());
                Item::Group {
                    pos,
                    sequence: header.sequence.0,
                    run: header.run,
                    durable_floor: header.durable_floor.0,
                    records: header.records,
                    body_bytes: header.body_len,
                    damage,
                    contents: with_records.then_some(contents),
                }
            }
            SegmentItem::Damaged { pos, error } => {
                self.damages += 1;
                Item::Damaged { pos, damage: error.to_string() }
            }
            SegmentItem::Gap { pos, len, left_overs } => Item::Gap { pos, bytes: len, left_overs },
        }
    }
}

/// What a walk over a group's records yields.
type WalkedRecord<'a> = Result<
    (ironring_log::Location, ironring_log::Record<'a>),
    (u32, ironring_log::format::record::RecordError),
>;

fn record_facts(walked: WalkedRecord<'_>) -> RecordFacts {
    match walked {
        Ok((at, record)) => RecordFacts {
            pos: at.pos,
            record_bytes: at.len,
            record: format!("{:?}", record.kind),
            partition: record.partition.0,
            term: record.term.0,
            offset: record.offset.0,
            session: record.session.0,
            sequence: record.sequence,
            time_unix_ms: record.time.0,
            key: Blob(record.key.to_vec()),
            body_bytes: record.body.len(),
            damage: None,
        },
        Err((pos, error)) => RecordFacts {
            pos,
            record_bytes: 0,
            record: "?".to_owned(),
            partition: 0,
            term: 0,
            offset: 0,
            session: 0,
            sequence: 0,
            time_unix_ms: 0,
            key: Blob(Vec::new()),
            body_bytes: 0,
            damage: Some(error.to_string()),
        },
    }
}

impl Report for SegmentFound {
    fn view(&self) -> View {
        let columns = [
            Column::Right("BYTE"),
            Column::Left("WHAT"),
            Column::Right("SEQUENCE"),
            Column::Right("FLOOR"),
            Column::Right("RECORDS"),
            Column::Right("BYTES"),
            Column::Left("VERDICT"),
        ];
        let header = if self.header_damage.is_empty() {
            Cell::toned("both copies ok", Tone::Good)
        } else {
            Cell::toned(self.header_damage.join("; "), Tone::Bad)
        };
        let mut rows = Vec::with_capacity(self.items.len());
        for item in &self.items {
            item.rows(&mut rows);
        }
        View::new()
            .pairs([
                (
                    "segment",
                    Cell::from(format!(
                        "{} (generation {} of slot {})",
                        self.segment, self.generation, self.slot
                    )),
                ),
                ("storage", Cell::from(self.storage.as_str())),
                ("shard", Cell::from(self.shard.to_string())),
                (
                    "prepared",
                    Cell::from(format!("when group {} was newest", self.prepared_at_group)),
                ),
                ("header", header),
                ("groups", Cell::from(self.groups.to_string())),
                ("records", Cell::from(self.records.to_string())),
                (
                    "damages",
                    Cell::toned(
                        self.damages.to_string(),
                        if self.damages == 0 { Tone::Good } else { Tone::Bad },
                    ),
                ),
            ])
            .rows(&columns, rows)
    }

    fn items(&self) -> serde_json::Result<Vec<serde_json::Value>> {
        each(&self.items)
    }
}

impl Item {
    /// The item's row, and below it its records' when they were asked for.
    fn rows(&self, rows: &mut Vec<Vec<Cell>>) {
        match self {
            Item::Group {
                pos,
                sequence,
                durable_floor,
                records,
                body_bytes,
                damage,
                contents,
                ..
            } => {
                rows.push(vec![
                    pos.to_string().into(),
                    "group".into(),
                    sequence.to_string().into(),
                    durable_floor.to_string().into(),
                    records.to_string().into(),
                    body_bytes.to_string().into(),
                    verdict(damage.as_deref()),
                ]);
                rows.extend(contents.iter().flatten().map(RecordFacts::row));
            }
            Item::Damaged { pos, damage } => {
                let mut row = vec![pos.to_string().into(), "damaged".into()];
                row.resize(6, Cell::from("-"));
                row.push(verdict(Some(damage)));
                rows.push(row);
            }
            Item::Gap { pos, bytes, left_overs } => {
                let what = if *left_overs > 0 {
                    format!("unused, {left_overs} groups of an earlier segment")
                } else {
                    "unused".to_owned()
                };
                let mut row = vec![pos.to_string().into(), Cell::from(what)];
                row.resize(5, Cell::from("-"));
                row.extend([bytes.to_string().into(), Cell::from("")]);
                rows.push(row);
            }
        }
    }
}

impl RecordFacts {
    fn row(&self) -> Vec<Cell> {
        let what = format!(
            "  {} partition {} offset {} {}",
            self.record,
            self.partition,
            self.offset,
            self.key.cell(KEY_CHARS_MAX)
        );
        vec![
            self.pos.to_string().into(),
            what.into(),
            "".into(),
            "".into(),
            "".into(),
            self.record_bytes.to_string().into(),
            verdict(self.damage.as_deref()),
        ]
    }
}

/// A checkpoint file.
#[derive(Serialize)]
struct CheckpointFound {
    file: PathBuf,
    storage: String,
    shard: u16,
    number: u64,
    start_group: u64,
    pieces: usize,
    piece_bytes: u64,
    damage: Option<String>,
}

impl CheckpointFound {
    fn new(file: &Path, bytes: &[u8]) -> Result<CheckpointFound, CliError> {
        let found = ironring_log::inspect::checkpoint(bytes)
            .map_err(|error| nothing_of_the_kind(file, "checkpoint", &error))?;
        Ok(CheckpointFound {
            file: file.to_owned(),
            storage: found.header.identity.storage.to_string(),
            shard: found.header.identity.shard.0,
            number: found.header.number,
            start_group: found.header.start.0,
            pieces: found.pieces.len(),
            piece_bytes: found.pieces.iter().map(|piece| piece.len() as u64).sum(),
            damage: found.complete.err().map(|error| error.to_string()),
        })
    }
}

impl Report for CheckpointFound {
    fn view(&self) -> View {
        View::new().pairs([
            ("checkpoint", Cell::from(self.number.to_string())),
            ("storage", Cell::from(self.storage.as_str())),
            ("shard", Cell::from(self.shard.to_string())),
            ("replay from", Cell::from(format!("group {}", self.start_group))),
            ("pieces", Cell::from(format!("{}, {}", self.pieces, units::bytes(self.piece_bytes)))),
            ("verdict", verdict(self.damage.as_deref())),
        ])
    }
}

fn nothing_of_the_kind(file: &Path, kind: &str, error: &dyn std::fmt::Display) -> CliError {
    let message = format!("{} cannot be read as a {kind}: {error}", file.display());
    CliError::hinted(
        &IO_FAILED,
        message,
        "check that this is the right file of DATA_DIR/shard-NNN/",
    )
}
