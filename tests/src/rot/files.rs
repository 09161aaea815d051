//! The files of a shard: which bytes are in use, corrupting them, and whether all of them are sound.
//!
//! Only bytes that a log relies on are corrupted: groups of segments that its superblock calls active
//! or sealed. The newest [`SPARED`] groups are left alone, because damage to the very last one, with
//! nothing behind it, cannot be told from a write that was under way (`docs/log-format.md`).

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ironring_core::io::FileName;
use ironring_core::prng::Prng;
use ironring_core::{GroupSeq, SlotId};
use ironring_log::RecordKind;
use ironring_log::format::group::GROUP_HEADER_BYTES;
use ironring_log::format::superblock::{SlotState, Superblock};
use ironring_log::inspect::{SegmentInspector, SegmentItem, checkpoint, superblock};
use serde::Serialize;

/// Groups at the end of a log that are not corrupted.
const SPARED: usize = 3;
/// A superblock that is being written is looked at again so often.
const LOOKS: usize = 50;

/// A range of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Its first byte.
    pub pos: u64,
    /// Its length.
    pub len: u64,
}

/// A record of the users' data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordAt {
    /// Where it lies.
    pub range: Range,
    /// Its partition.
    pub partition: u32,
}

/// A segment in use.
#[derive(Clone, Debug)]
pub struct Segment {
    /// The file.
    pub file: PathBuf,
    /// The slot and the segment in it.
    pub place: (u32, u32),
    /// Its groups that may be corrupted, in order.
    pub groups: Vec<Range>,
    /// The users' records in them.
    pub records: Vec<RecordAt>,
}

/// Which log a directory holds: another one when it was made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogId(u64, Option<SystemTime>);

fn log_id(dir: &Path) -> io::Result<LogId> {
    let of = |found: Metadata| LogId(found.ino(), found.created().ok());
    fs::metadata(dir.join(FileName::Superblock.file_name())).map(of)
}

/// The superblock recovery would use.
fn chosen(dir: &Path) -> io::Result<Superblock> {
    let file = dir.join(FileName::Superblock.file_name());
    let mut why = String::new();
    for _ in 0..LOOKS {
        match superblock(&fs::read(&file)?).chosen {
            Ok(superblock) => return Ok(superblock),
            Err(error) => why = error,
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Err(io::Error::other(format!("{}: {why}", file.display())))
}

fn in_use(superblock: &Superblock) -> impl Iterator<Item = (SlotId, u32)> {
    let used = |state| matches!(state, SlotState::Active | SlotState::Sealed);
    let slots = superblock.slots.iter().enumerate().filter(move |(_, slot)| used(slot.state));
    slots.map(|(slot, entry)| (SlotId(slot as u32), entry.segment.0))
}

/// The segments in use of a shard's directory, in order of the log. Also of a node that runs.
///
/// # Errors
/// Files cannot be read, or are gone.
pub fn segments(dir: &Path) -> io::Result<Vec<Segment>> {
    let superblock = chosen(dir)?;
    let mut found = Vec::new();
    for (slot, segment) in in_use(&superblock) {
        let file = dir.join(FileName::Segment(slot).file_name());
        let Ok(bytes) = fs::read(&file) else { continue };
        // Another segment may be in the file by now, or its header may be damaged.
        let Ok(inspector) = SegmentInspector::new(&bytes) else { continue };
        if inspector.header().segment.0 != segment {
            continue;
        }
        found.push(look_into(file, (slot.0, segment), &bytes)?);
    }
    found.sort_by_key(|s: &Segment| s.place.1);
    if let Some(last) = found.iter_mut().rfind(|s| !s.groups.is_empty()) {
        last.groups.truncate(last.groups.len().saturating_sub(SPARED));
        let end = last.groups.last().map_or(0, |group| group.pos + group.len);
        last.records.retain(|record| record.range.pos < end);
    }
    Ok(found)
}

fn look_into(file: PathBuf, place: (u32, u32), bytes: &[u8]) -> io::Result<Segment> {
    let mut segment = Segment { file, place, groups: Vec::new(), records: Vec::new() };
    let mut inspector = SegmentInspector::new(bytes).map_err(io::Error::other)?;
    let block = inspector.header().block_bytes;
    let mut last = GroupSeq(0);
    while let Some(item) = inspector.next() {
        let SegmentItem::Group { pos, header, body: Ok(()), bytes, .. } = item else { continue };
        // What is left of a torn group lies behind the end.
        if header.sequence <= last {
            continue;
        }
        last = header.sequence;
        let len = u64::from(header.padded_len(block));
        segment.groups.push(Range { pos: u64::from(pos), len });
        for (at, record) in inspector.records(pos, bytes).flatten() {
            let data = matches!(
                record.kind,
                RecordKind::Put
                    | RecordKind::PutChunked
                    | RecordKind::Chunk
                    | RecordKind::TopicBatch
            );
            if data {
                let range = Range { pos: u64::from(at.pos), len: u64::from(at.len) };
                segment.records.push(RecordAt { range, partition: record.partition.0 });
            }
        }
    }
    Ok(segment)
}

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Damage {
    /// One bit flips.
    Bit {
        /// The byte.
        pos: u64,
        /// The bit of it.
        bit: u8,
    },
    /// Bytes are overwritten.
    Fill {
        /// The first.
        pos: u64,
        /// How many.
        len: u64,
        /// With noise of this seed; `None`: with zeros.
        noise: Option<u64>,
    },
    /// The file ends here.
    Truncate {
        /// Its length from then on.
        len: u64,
    },
    /// The file is gone.
    Delete,
}

/// Corrupts a file.
///
/// # Errors
/// The system refuses.
pub fn corrupt(path: &Path, damage: Damage) -> io::Result<()> {
    if damage == Damage::Delete {
        return fs::remove_file(path);
    }
    let file = File::options().read(true).write(true).open(path)?;
    match damage {
        Damage::Bit { pos, bit } => {
            let mut byte = [0];
            file.read_exact_at(&mut byte, pos)?;
            byte[0] ^= 1 << bit;
            file.write_all_at(&byte, pos)?;
        }
        Damage::Fill { pos, len, noise } => {
            let mut bytes = vec![0; len as usize];
            if let Some(seed) = noise {
                Prng::new(seed).fill(&mut bytes);
            }
            file.write_all_at(&bytes, pos)?;
        }
        Damage::Truncate { len } => file.set_len(len)?,
        Damage::Delete => {}
    }
    file.sync_data()
}

/// A corruption that was put into a segment.
#[derive(Clone, Debug)]
pub struct Site {
    dir: PathBuf,
    log: LogId,
    /// The slot and the segment in it.
    pub place: (u32, u32),
    /// The file.
    pub file: PathBuf,
    /// What was done to it.
    pub damage: Damage,
}

impl Site {
    /// Corrupts a segment of the log in `dir`.
    ///
    /// # Errors
    /// The system refuses.
    pub fn new(dir: &Path, segment: &Segment, damage: Damage) -> io::Result<Site> {
        let log = log_id(dir)?;
        corrupt(&segment.file, damage)?;
        let (place, file) = (segment.place, segment.file.clone());
        Ok(Site { dir: dir.to_owned(), log, place, file, damage })
    }

    /// Whether the log still relies on the segment. A log that cannot be looked at counts as if.
    #[must_use]
    pub fn is_left(&self) -> bool {
        let anew = log_id(&self.dir).is_ok_and(|log| log != self.log);
        let uses = |superblock: Superblock| {
            in_use(&superblock).any(|(slot, segment)| (slot.0, segment) == self.place)
        };
        !anew && chosen(&self.dir).map_or(true, uses)
    }
}

/// Draws flips of bits: mostly in records, now and then anywhere in a group. In at most `most` of the
/// segments, the last of them in every other round.
pub fn draw_flips(
    segments: &[Segment],
    prng: &mut Prng,
    (count, most): (u64, u64),
) -> Vec<(usize, Damage)> {
    let chosen = draw_segments(segments, prng, most);
    let mut drawn = Vec::new();
    for _ in 0..count {
        let Some(&at) = pick(&chosen, prng) else { break };
        let segment = &segments[at];
        let range = match pick(&segment.records, prng) {
            Some(record) if prng.chance(4, 5) => record.range,
            _ => match pick(&segment.groups, prng) {
                // Its header, as often as all of it.
                Some(group) if prng.chance(1, 2) => {
                    Range { len: GROUP_HEADER_BYTES as u64, ..*group }
                }
                Some(group) => *group,
                None => continue,
            },
        };
        drawn.push((at, flip_in(range, prng)));
    }
    drawn
}

/// Draws ranges of sectors to be overwritten: up to 64 KiB, within the groups of a segment.
pub fn draw_fills(
    segments: &[Segment],
    prng: &mut Prng,
    (count, most): (u64, u64),
) -> Vec<(usize, Damage)> {
    const SECTOR: u64 = 512;
    let chosen = draw_segments(segments, prng, most);
    let mut drawn = Vec::new();
    for _ in 0..count {
        let Some(&at) = pick(&chosen, prng) else { break };
        let segment = &segments[at];
        let Some(group) = pick(&segment.groups, prng) else { continue };
        let end = segment.groups.last().map_or(0, |last| last.pos + last.len);
        let pos = group.pos + prng.below(group.len / SECTOR) * SECTOR;
        let sectors = 1 << prng.below(8);
        let len = (sectors * SECTOR).min(end - pos);
        let noise = prng.chance(1, 2).then(|| prng.next_u64());
        drawn.push((at, Damage::Fill { pos, len, noise }));
    }
    drawn
}

/// Draws flips in records of partitions a node is the victim of.
pub fn draw_spread(
    segments: &[Segment],
    prng: &mut Prng,
    count: u64,
    is_victim: impl Fn(u32) -> bool,
) -> Vec<(usize, Damage)> {
    let records: Vec<(usize, RecordAt)> = segments
        .iter()
        .enumerate()
        .flat_map(|(at, segment)| segment.records.iter().map(move |record| (at, *record)))
        .filter(|(_, record)| is_victim(record.partition))
        .collect();
    let draw = |_| pick(&records, prng).copied();
    let drawn: Vec<(usize, RecordAt)> = (0..count).filter_map(draw).collect();
    drawn.into_iter().map(|(at, record)| (at, flip_in(record.range, prng))).collect()
}

fn draw_segments(segments: &[Segment], prng: &mut Prng, most: u64) -> Vec<usize> {
    let mut left: Vec<usize> =
        (0..segments.len()).filter(|at| !segments[*at].groups.is_empty()).collect();
    let mut chosen = Vec::new();
    if prng.chance(1, 2) {
        chosen.extend(left.pop());
    }
    while (chosen.len() as u64) < most && !left.is_empty() {
        chosen.push(left.swap_remove(prng.below(left.len() as u64) as usize));
    }
    chosen
}

fn flip_in(range: Range, prng: &mut Prng) -> Damage {
    Damage::Bit { pos: range.pos + prng.below(range.len), bit: prng.below(8) as u8 }
}

fn pick<'a, T>(from: &'a [T], prng: &mut Prng) -> Option<&'a T> {
    (!from.is_empty()).then(|| &from[prng.below(from.len() as u64) as usize])
}

/// What was verified of a stopped log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Segments in use.
    pub segments: u64,
    /// Groups, each header and body.
    pub groups: u64,
    /// Records, each by its own checksum.
    pub records: u64,
    /// Checkpoints the superblock names.
    pub checkpoints: u64,
}

/// Verifies every byte a stopped log relies on. What does not verify, in words.
///
/// # Errors
/// The superblock cannot be read at all.
pub fn verify(dir: &Path) -> io::Result<(Verified, Vec<String>)> {
    let file = dir.join(FileName::Superblock.file_name());
    let copies = superblock(&fs::read(&file)?).copies;
    let mut wrong: Vec<String> = copies
        .iter()
        .enumerate()
        .filter_map(|(copy, found)| Some((copy, found.as_ref().err()?)))
        .map(|(copy, error)| format!("{}, copy {copy}: {error}", file.display()))
        .collect();
    let superblock = chosen(dir)?;
    let mut verified = Verified::default();
    let mut newest = GroupSeq(0);
    for (slot, segment) in in_use(&superblock) {
        let name = dir.join(FileName::Segment(slot).file_name());
        let entry = superblock.slots[slot.0 as usize];
        let found = fs::read(&name)
            .map_err(|error| error.to_string())
            .and_then(|bytes| verify_segment(&bytes, (segment, entry.used), &mut verified));
        match found {
            Ok(last) => newest = newest.max(last),
            Err(why) => wrong.push(format!("{}: {why}", name.display())),
        }
    }
    if newest < superblock.durable {
        wrong.push(format!("groups end at {newest:?}, {:?} was durable", superblock.durable));
    }
    for known in [superblock.newest, superblock.older].into_iter().filter(|c| c.number > 0) {
        let name = dir.join(FileName::Checkpoint(known.number).file_name());
        let found = fs::read(&name).map_err(|error| error.to_string()).and_then(|bytes| {
            let found = checkpoint(&bytes).map_err(|error| error.to_string())?;
            found.complete.map_err(|error| error.to_string())
        });
        match found {
            Ok(()) => verified.checkpoints += 1,
            Err(why) => wrong.push(format!("{}: {why}", name.display())),
        }
    }
    Ok((verified, wrong))
}

/// Verifies the groups of a segment without holes, up to `used`, or of one that is not sealed up to the
/// last that follows. The last one.
fn verify_segment(
    bytes: &[u8],
    (segment, used): (u32, u32),
    verified: &mut Verified,
) -> Result<GroupSeq, String> {
    let mut inspector = SegmentInspector::new(bytes).map_err(|error| error.to_string())?;
    if inspector.header().segment.0 != segment {
        return Err(format!("it holds segment {}", inspector.header().segment));
    }
    for copy in inspector.copies() {
        copy.as_ref().map_err(|error| format!("header: {error}"))?;
    }
    let block = inspector.header().block_bytes;
    let (mut end, mut last) = (2 * block, GroupSeq(0));
    while let Some(item) = inspector.next() {
        if used > 0 && end >= used {
            break;
        }
        let SegmentItem::Group { pos, header, body, bytes, .. } = item else {
            if used > 0 {
                return Err(format!("no group at {end}"));
            }
            break;
        };
        let follows = pos == end && (last == GroupSeq(0) || header.sequence.0 == last.0 + 1);
        if !follows && used == 0 {
            break;
        }
        body.map_err(|error| format!("group at {pos}: {error}"))?;
        if !follows {
            return Err(format!("the group at {pos} does not follow the one before"));
        }
        for record in inspector.records(pos, bytes) {
            record.map_err(|(at, error)| format!("record at {at}: {error}"))?;
            verified.records += 1;
        }
        (end, last) = (pos + header.padded_len(block), header.sequence);
        verified.groups += 1;
    }
    if end < used {
        return Err(format!("groups end at {end}, the segment at {used}"));
    }
    verified.segments += 1;
    Ok(last)
}

/// The checkpoints of a directory, newest first.
///
/// # Errors
/// It cannot be read.
pub fn checkpoints(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if let Some(FileName::Checkpoint(number)) =
            FileName::parse(&entry.file_name().to_string_lossy())
        {
            found.push((number, entry.path()));
        }
    }
    found.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(records: u64) -> Segment {
        let groups: Vec<Range> =
            (0..records).map(|n| Range { pos: 8192 + n * 4096, len: 4096 }).collect();
        let record = |(n, group): (usize, &Range)| RecordAt {
            range: Range { pos: group.pos + 128, len: 500 },
            partition: n as u32,
        };
        let records = groups.iter().enumerate().map(record).collect();
        Segment { file: PathBuf::from("x"), place: (0, 1), groups, records }
    }

    #[test]
    fn what_is_drawn_lies_in_what_is_in_use() {
        let segments = [segment(0), segment(20), segment(5)];
        for seed in 0..200 {
            let mut prng = Prng::new(seed);
            let flips = draw_flips(&segments, &mut prng, (30, 2));
            assert_eq!(flips.len(), 30);
            let fills = draw_fills(&segments, &mut prng, (30, 2));
            assert_eq!(fills.len(), 30);
            for (at, damage) in flips.into_iter().chain(fills) {
                let groups = &segments[at].groups;
                let end = groups.last().map(|group| group.pos + group.len).unwrap();
                let (from, to) = match damage {
                    Damage::Bit { pos, .. } => (pos, pos + 1),
                    Damage::Fill { pos, len, .. } => (pos, pos + len),
                    other => panic!("{other:?}"),
                };
                assert!(from >= 8192 && to <= end && from < to, "{damage:?}");
            }
        }
        assert!(draw_flips(&segments[..1], &mut Prng::new(1), (9, 2)).is_empty());
    }

    #[test]
    fn a_spread_damages_records_of_the_victims_partitions_only() {
        let segments = [segment(20), segment(7)];
        let drawn = draw_spread(&segments, &mut Prng::new(3), 40, |p| p % 3 == 1);
        assert_eq!(drawn.len(), 40);
        for (at, damage) in drawn {
            let Damage::Bit { pos, .. } = damage else { panic!("{damage:?}") };
            let hit = |r: &&RecordAt| (r.range.pos..r.range.pos + r.range.len).contains(&pos);
            let record = segments[at].records.iter().find(hit).expect("it lies in a record");
            assert_eq!(record.partition % 3, 1);
        }
    }

    #[test]
    fn files_are_corrupted_as_they_are_told() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("f");
        fs::write(&path, [7; 1000]).unwrap();
        corrupt(&path, Damage::Bit { pos: 3, bit: 1 }).unwrap();
        corrupt(&path, Damage::Fill { pos: 10, len: 5, noise: None }).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!((bytes[3], &bytes[9..16]), (5, &[7, 0, 0, 0, 0, 0, 7][..]));
        corrupt(&path, Damage::Truncate { len: 4 }).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [7, 7, 7, 5]);
        corrupt(&path, Damage::Delete).unwrap();
        assert!(!path.exists());
    }
}
