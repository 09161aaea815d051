//! Recovery of a directory in which any bytes were changed: the log opens or says why not, and
//! what it serves was written.

use std::cell::OnceCell;

use ironring_core::io::FileName;
use ironring_core::prng::Prng;
use ironring_core::{Durability, PartitionId, ShardId, Token};
use ironring_log::{CompactionConfig, LogConfig};

use crate::sim::bench::Bench;
use crate::sim::disk::faults::FaultPlan;
use crate::sim::disk::{Latency, SimDisk};
use crate::sim::log_alone::LogNode;
use crate::sim::op::{
    Change, Condition, Intent, Key, KeyOp, Op, Outcome, WriteId, author, payload,
};
use crate::sim::subject::{Node, Phase, Subject};

fn node() -> LogNode {
    LogNode {
        config: LogConfig {
            segment_bytes: 1 << 20,
            free_segments_target: 1,
            checkpoint_interval_bytes: 64 << 10,
            compaction: CompactionConfig { dead_percent_min: 5, ..CompactionConfig::default() },
            ..LogConfig::default()
        },
    }
}

fn key(number: u64) -> Key {
    format!("k{}", number % 24).as_bytes().into()
}

/// What the untouched directory holds: its files, and every write that went into it.
#[derive(Clone)]
struct Image {
    files: Vec<(FileName, Vec<u8>)>,
    writes: Vec<Op>,
}

fn make_image() -> Image {
    let disk = SimDisk::new(1, 64 << 20, Latency::default(), FaultPlan::none());
    let mut bench = Bench::open(&node(), ShardId(0), disk, true);
    let mut rng = Prng::new(5);
    let mut writes = Vec::new();
    for number in 1..=160u64 {
        let key = key(rng.next_u64());
        let partition: PartitionId = Token::of_key(&key).partition(node().partitions());
        let change = match rng.below(6) {
            0 => Change::Delete,
            n => Change::Put { len: 8 + (rng.below(3000) << (n % 3)) as u32, ttl_ms: 0 },
        };
        let id = WriteId(number);
        let intent = Intent { id, partition, level: Durability::Local, session: None };
        let ops = vec![KeyOp { key, change, condition: Condition::None }];
        let op = Op::Write { intent, ops, batch: false };
        bench.ask(op.clone()).expect("a healthy log answers");
        writes.push(op);
    }
    let names: Vec<FileName> = bench.disk.files().map(|(name, _)| name).collect();
    let contents = |name| bench.disk.contents(name).expect("the file is listed");
    Image { files: names.into_iter().map(|name| (name, contents(name))).collect(), writes }
}

thread_local! {
    static IMAGE: OnceCell<Image> = const { OnceCell::new() };
}

fn image() -> Image {
    IMAGE.with(|cell| cell.get_or_init(make_image).clone())
}

/// Recovers a log after edits. The input is a list of edits of 8 bytes and more: file (u8), how
/// many bytes (u8, 0: the file is lost), position (u32), what to put there (the bytes).
pub fn recovery(data: &[u8]) {
    let image = image();
    let mut disk = SimDisk::new(1, 64 << 20, Latency::default(), FaultPlan::none());
    for (name, bytes) in &image.files {
        disk.restore(*name, bytes);
    }
    let mut rest = data;
    while let [file, len, p0, p1, p2, p3, more @ ..] = rest {
        let (name, bytes) = &image.files[usize::from(*file) % image.files.len()];
        let (now, later) = more.split_at(usize::from(*len).min(more.len()));
        let pos = u32::from_le_bytes([*p0, *p1, *p2, *p3]) as usize % bytes.len().max(1);
        if now.is_empty() {
            disk.lose_file(*name);
        } else if disk.contents(*name).is_some() {
            let fits = now.len().min(bytes.len() - pos);
            disk.overwrite(*name, pos as u64, &now[..fits]);
        }
        rest = later;
    }
    check(disk, &image);
}

/// Opens what is left and reads every key.
fn check(disk: SimDisk, image: &Image) -> usize {
    let mut bench = Bench::open(&node(), ShardId(0), disk, false);
    match bench.subject.phase() {
        Phase::Serving => {}
        Phase::Failed(_, why) => {
            assert!(!why.is_empty(), "a failure is described");
            return 0;
        }
        other => panic!("opening ended in {other:?}"),
    }
    let mut found = 0;
    for number in 0..24 {
        let key = key(number);
        match bench.ask(Op::Get { key: key.clone() }) {
            Some(Outcome::Value(value)) => {
                let (id, _) = author(&value.bytes).expect("values name their author");
                let len = image.writes.iter().find_map(|op| match op {
                    Op::Write { intent, ops, .. } if intent.id == id && ops[0].key == key => {
                        Some(ops[0].change)
                    }
                    _ => None,
                });
                let Some(Change::Put { len, .. }) = len else {
                    panic!("{key:?} has a value nobody wrote: {value:?}");
                };
                assert_eq!(value.bytes, payload(id, 0, len), "{key:?}");
                found += 1;
            }
            Some(Outcome::Error { .. }) => {}
            other => panic!("{key:?}: {other:?}"),
        }
    }
    assert!(bench.disk.misuse.is_empty(), "{:?}", bench.disk.misuse);
    found
}

/// Edits of each kind of file, and none.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let edit = |file: u8, pos: u32, bytes: &[u8]| {
        let mut input = vec![file, bytes.len() as u8];
        input.extend_from_slice(&pos.to_le_bytes());
        input.extend_from_slice(bytes);
        input
    };
    let files = image().files.len() as u8;
    let mut seeds = vec![Vec::new()];
    for file in 0..files {
        seeds.push(edit(file, 0, &[0xFF; 16]));
        seeds.push(edit(file, 8192 + 40, &[1, 2, 3]));
        seeds.push(edit(file, 0, &[]));
    }
    seeds
}

/// The beginning of every file, and the first groups.
pub(super) fn format_seeds() -> Vec<Vec<u8>> {
    let image = image();
    let mut seeds = Vec::new();
    for (_, bytes) in &image.files {
        seeds.push(bytes[..bytes.len().min(4096)].to_vec());
        if let Some(group) = bytes.get(8192..8192 + 4096) {
            seeds.push(group.to_vec());
        }
    }
    seeds
}

/// One piece of each kind.
pub(super) fn piece_seeds() -> Vec<Vec<u8>> {
    let mut rng = Prng::new(9);
    let mut pieces = vec![Vec::new()];
    for tag in 1..=4u8 {
        for len in [8, 40, 200] {
            let mut piece = vec![0; len];
            // Small numbers in most fields: counts and lengths that lead somewhere.
            for chunk in piece.chunks_mut(4) {
                chunk[0] = rng.below(5) as u8;
            }
            piece[0] = tag;
            pieces.push(piece);
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_untouched_image_opens_with_everything_in_it() {
        let image = image();
        let mut disk = SimDisk::new(1, 64 << 20, Latency::default(), FaultPlan::none());
        for (name, bytes) in &image.files {
            disk.restore(*name, bytes);
        }
        assert!(image.files.len() >= 4, "{} files", image.files.len());
        assert!(check(disk, &image) > 12);
    }
}
