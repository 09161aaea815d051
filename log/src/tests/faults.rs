//! Device faults while the log is open, and damage found in the background.

use std::collections::BTreeSet;
use std::time::Duration;

use ironring_core::io::{FileName, IoError};
use ironring_core::{SegmentId, SlotId};

use super::disk::{Disk, Fault};
use super::run::{Run, small};
use crate::inspect::{self, SegmentInspector, SegmentItem};
use crate::{
    AppendError, DamageFinder, Location, LogConfig, LogFailure, LogStatus, Priority, ReadError,
    RecordKind,
};

const FIRST: FileName = FileName::Segment(SlotId(0));

fn eio() -> IoError {
    IoError::Os { errno: 5, message: "EIO".to_owned() }
}

fn fail_next(run: &mut Run, op: &'static str, file: Option<FileName>, error: IoError) {
    run.disk.faults.push(Fault { op, file, error, skip: 0, sticky: false });
}

#[test]
fn a_failed_group_write_ends_the_log_and_is_never_retried() {
    for error in [eio(), IoError::NoSpace, IoError::ShortWrite { got: 512 }] {
        let mut run = Run::opened(small(), Disk::default(), 1);
        run.settle();
        let durable = run.put_durable(b"a", b"1");
        fail_next(&mut run, "write", Some(FIRST), error);
        let lost = run.put(b"b", b"2");
        run.turn_ends();
        run.settle();
        let LogStatus::Failed(LogFailure::Io { op, .. }) = run.log.status() else {
            panic!("{:?}", run.log.status());
        };
        assert_eq!((op.name, op.file), ("durable write", Some(FIRST)));
        assert!(run.log.durable() < lost.group);
        assert_eq!(run.owner.flushed.len(), 1);
        let refused = run.append(RecordKind::Put, b"c", b"3", Priority::Reserve);
        assert_eq!(refused.unwrap_err(), AppendError::Closed);
        run.turn_ends();
        assert!(!run.step(), "nothing more is asked of the device");
        assert_eq!(run.read(durable.location).unwrap().body, b"1", "durable records are readable");
        assert!(matches!(run.read(lost.location), Err(ReadError::Io { .. })));
    }
}

#[test]
fn a_read_parked_behind_a_failed_group_is_answered() {
    let mut run = Run::opened(small(), Disk::default(), 2);
    run.settle();
    let lost = run.put(b"b", b"2");
    run.turn_ends();
    fail_next(&mut run, "write", Some(FIRST), eio());
    assert!(matches!(run.read(lost.location), Err(ReadError::Io { .. })));
}

#[test]
fn a_failed_sync_or_superblock_write_ends_the_log() {
    for (op, file) in [("sync", None), ("syncdir", None), ("write", Some(FileName::Superblock))] {
        let mut run = Run::opened(small(), Disk::default(), 3);
        fail_next(&mut run, op, file, eio());
        run.settle();
        assert!(matches!(run.log.status(), LogStatus::Failed(LogFailure::Io { .. })), "{op}");
    }
}

#[test]
fn a_failed_read_is_told_and_the_log_goes_on() {
    let mut run = Run::opened(small(), Disk::default(), 4);
    run.settle();
    let at = run.put_durable(b"a", b"1").location;
    fail_next(&mut run, "read", Some(FIRST), eio());
    assert!(matches!(run.read(at), Err(ReadError::Io { .. })));
    assert_eq!(run.log.status(), &LogStatus::Open);
    assert_eq!(run.read(at).unwrap().body, b"1");
}

#[test]
fn a_damaged_record_is_never_served_and_is_remembered() {
    let mut run = Run::opened(small(), Disk::default(), 5);
    run.settle();
    let at = run.put_durable(b"a", b"1").location;
    run.disk.flip(FIRST, at.pos as usize + 64);
    assert!(matches!(run.read(at), Err(ReadError::Corrupt { .. })));
    assert!(matches!(run.read(at), Err(ReadError::Corrupt { .. })));
    assert_eq!(run.log.damages().len(), 1, "a place is remembered once");
    assert_eq!(run.log.damages()[0].finder, DamageFinder::Read);
    assert_eq!(run.log.counters().reads_corrupt, 2);
}

/// A log with sealed segments; the scrub has a second for all of them.
fn sealed(seed: u64) -> Run {
    let mut config: LogConfig = small();
    config.scrub.period = Duration::from_secs(1);
    let mut run = Run::opened(config, Disk::default(), seed);
    for i in 0..100u8 {
        run.put_patiently(&[i], &[i; 60_000]).unwrap();
    }
    run.turn_ends();
    run.settle();
    run
}

fn scrub_for(run: &mut Run, time: Duration) {
    let end = run.now.mono + time;
    while run.now.mono < end {
        run.pass(Duration::from_millis(20));
        run.settle();
    }
}

#[test]
fn every_sealed_byte_is_verified_within_the_period() {
    let mut run = sealed(6);
    let sealed = u64::from(run.log.counters().segments.sealed);
    assert!(sealed >= 5);
    scrub_for(&mut run, Duration::from_millis(2500));
    assert!(run.log.counters().scrub_rounds >= 1, "{:?}", run.log.counters());
    assert!(run.log.counters().scrub_bytes >= sealed * 900_000);
    assert_eq!(run.log.counters().damage, 0);
}

#[test]
fn a_least_rate_is_kept_although_the_period_leaves_more_time() {
    let mut config: LogConfig = small();
    config.scrub.bytes_per_second_min = 8 << 20;
    let mut run = Run::opened(config, Disk::default(), 6);
    for i in 0..60u8 {
        run.put_patiently(&[i], &[i; 60_000]).unwrap();
    }
    run.turn_ends();
    run.settle();
    scrub_for(&mut run, Duration::from_millis(2500));
    assert!(run.log.counters().scrub_rounds >= 1, "{:?}", run.log.counters());
}

#[test]
fn damage_in_a_sealed_segment_is_found_without_anyone_reading_it() {
    let mut run = sealed(7);
    run.disk.flip(FIRST, 300_000);
    scrub_for(&mut run, Duration::from_millis(2500));
    let damage = &run.log.damages()[0];
    assert_eq!((damage.finder, damage.file), (DamageFinder::Scrub, FIRST));
    assert_eq!(run.log.status(), &LogStatus::Open);
}

#[test]
fn a_segment_with_damage_is_not_freed() {
    let config = LogConfig { checkpoint_interval_bytes: 1 << 20, ..small() };
    let mut run = Run::opened(config, Disk::default(), 8);
    run.put_durable(b"precious", &[1; 1000]);
    let at = run.owner.index[&b"precious"[..]].1.unwrap();
    run.put_durable(b"x", &[2; 10_000]);
    run.disk.flip(FIRST, at.pos as usize + 200);
    for i in 0..1200u32 {
        run.put_patiently(b"other", &vec![i as u8; 10_000]).unwrap();
        if i % 8 == 0 {
            run.turn_ends();
            run.step();
        }
    }
    run.turn_ends();
    run.settle();
    assert!(run.log.counters().segments_freed > 0);
    assert_eq!(run.log.damages().len(), 1);
    assert_eq!(run.log.damages()[0].finder, DamageFinder::Compaction);
    assert!(matches!(run.read(at), Err(ReadError::Corrupt { .. })), "it is still there");
}

/// A log whose interval never ends, with damage in the segment it is writing, or (`rolled`) in one
/// before that, as its owner has noticed it.
fn damaged(seed: u64, rolled: bool) -> (Run, Location) {
    let mut run = Run::opened(small(), Disk::default(), seed);
    run.settle();
    let at = run.put_durable(b"precious", &[1; 1000]).location;
    for i in 0..if rolled { 30u8 } else { 1 } {
        run.put_patiently(&[i], &[i; 60_000]).unwrap();
        run.turn_ends();
        run.settle();
    }
    assert_eq!(run.log.counters().checkpoints, 0);
    run.disk.flip(FIRST, at.pos as usize + 200);
    assert!(matches!(run.read(at), Err(ReadError::Corrupt { .. })));
    run.log.condemn(at.segment);
    (run, at)
}

/// What an owner does about a damaged segment: all it needs of it is appended again.
fn salvage(run: &mut Run, segment: SegmentId) {
    let lies_there = |(_, at): &(u64, Option<Location>)| at.is_some_and(|a| a.segment == segment);
    let held = run.owner.index.iter().filter(|(_, entry)| lies_there(entry));
    let keys: Vec<Vec<u8>> = held.map(|(key, _)| key.clone()).collect();
    for key in keys {
        run.put_patiently(&key, &[9; 60_000]).unwrap();
    }
    run.turn_ends();
    run.log.retire(segment);
}

/// A quiet log would replay the damaged group for ever.
#[test]
fn replay_begins_behind_damage_as_soon_as_it_is_found() {
    for rolled in [false, true] {
        let (mut run, at) = damaged(10, rolled);
        run.put(b"another", &[3; 10_000]);
        run.turn_ends();
        run.settle();
        assert_eq!(run.log.counters().checkpoints, 1, "rolled: {rolled}");
        run.pass(Duration::from_secs(5));
        run.settle();
        assert_eq!(run.log.counters().checkpoints, 1, "one says it");
        let mut run = Run::opened(small(), run.crash(), 11);
        assert!(run.owner.replayed.iter().all(|record| record.key != b"precious"));
        assert!(matches!(run.read(at), Err(ReadError::Corrupt { .. })), "it is not forgotten");
    }
}

/// One that was being written when the damage was found may begin before the damaged group.
#[test]
fn a_checkpoint_under_way_is_not_the_one_behind_the_damage() {
    let config = LogConfig { checkpoint_interval_bytes: 1 << 20, ..small() };
    let mut run = Run::opened(config.clone(), Disk::default(), 12);
    run.settle();
    for i in 0..18u8 {
        run.put_patiently(&[i], &[i; 60_000]).unwrap();
    }
    run.turn_ends();
    while run.log.counters().checkpoint_bytes == 0 {
        assert!(run.step(), "no checkpoint begins");
    }
    let at = run.put_durable(b"precious", &[1; 1000]).location;
    assert_eq!(run.log.counters().checkpoints, 0, "it is not over");
    let file = run.log.file_of(at.segment).unwrap();
    run.disk.flip(file, at.pos as usize + 200);
    assert!(matches!(run.read(at), Err(ReadError::Corrupt { .. })));
    run.settle();
    run.pass(Duration::from_secs(1));
    run.settle();
    assert_eq!(run.log.counters().checkpoints, 2);
    Run::opened(config, run.crash(), 13);
}

#[test]
fn a_checkpoint_behind_damage_is_tried_again_when_the_disk_was_full() {
    let (mut run, _) = damaged(14, true);
    fail_next(&mut run, "create", Some(FileName::Checkpoint(1)), IoError::NoSpace);
    run.put(b"another", &[3; 10_000]);
    run.turn_ends();
    run.settle();
    assert_eq!(run.log.counters().checkpoints_abandoned, 1);
    run.pass(Duration::from_secs(2));
    run.settle();
    assert_eq!(run.log.counters().checkpoints, 1);
    Run::opened(small(), run.crash(), 15);
}

/// Neither checkpoint may begin before it.
#[test]
fn a_segment_that_was_given_up_is_freed_in_a_quiet_log() {
    for rolled in [false, true] {
        let (mut run, at) = damaged(16, rolled);
        salvage(&mut run, at.segment);
        run.settle();
        for _ in 0..5 {
            run.pass(Duration::from_secs(1));
            run.settle();
        }
        assert_eq!(run.log.counters().segments_retired, 1, "rolled: {rolled}");
        let checkpoints = run.log.counters().checkpoints;
        assert!(checkpoints <= 3, "{checkpoints}");
        run.pass(Duration::from_secs(5));
        run.settle();
        assert_eq!(run.log.counters().checkpoints, checkpoints, "it rests");
        let mut run = Run::opened(small(), run.crash(), 17);
        run.check_reads();
    }
}

/// The process ends at any moment between the damage and the end of its repair.
#[test]
fn a_crash_while_damage_is_repaired_loses_nothing_that_was_appended_again() {
    let mut ends = BTreeSet::new();
    for steps in 0..120 {
        let (mut run, at) = damaged(18 + steps, true);
        if steps % 2 == 0 {
            run.settle();
        }
        salvage(&mut run, at.segment);
        let again = run.owner.index[&b"precious"[..]];
        for _ in 0..steps {
            if !run.step() {
                run.pass(Duration::from_secs(1));
            }
        }
        let durable = run.owner.flushed.iter().flat_map(|(_, records)| records);
        let was = durable.filter(|record| record.offset == again.0).count() > 0;
        if run.log.counters().checkpoints == 0 {
            continue;
        }
        let freed = run.log.counters().segments_retired > 0;
        let mut run = Run::opened(small(), run.crash(), 900 + steps);
        let (offset, place) = run.owner.index[&b"precious"[..]];
        assert!(offset == again.0 || !was && !freed, "{steps}");
        match run.read(place.unwrap()) {
            Ok(record) => assert_eq!(record.offset, again.0, "{steps}"),
            Err(error) => assert!(offset != again.0, "{steps}: {error}"),
        }
        ends.insert((was, freed));
    }
    assert_eq!(ends.len(), 3, "before, while and after: {ends:?}");
}

#[test]
fn a_full_disk_at_a_checkpoint_is_no_fault() {
    let config = LogConfig { checkpoint_interval_bytes: 1 << 20, ..small() };
    let mut run = Run::opened(config, Disk::default(), 9);
    run.settle();
    run.disk.faults.push(Fault {
        op: "create",
        file: Some(FileName::Checkpoint(1)),
        error: IoError::NoSpace,
        skip: 0,
        sticky: false,
    });
    for i in 0..150u32 {
        run.put_patiently(&[0], &vec![i as u8; 10_000]).unwrap();
        run.turn_ends();
        run.step();
    }
    run.settle();
    assert_eq!(run.log.counters().checkpoints_abandoned, 1);
    run.pass(Duration::from_secs(2));
    run.settle();
    for _ in 0..150u32 {
        run.put_patiently(&[0], &[7; 10_000]).unwrap();
        run.turn_ends();
        run.step();
    }
    run.settle();
    assert!(run.log.counters().checkpoints > 0);
    assert_eq!(run.log.status(), &LogStatus::Open);
}

/// A segment's file gives way to a checkpoint that finds no room; that finds some before the superblock
/// says so, and the slot is filled again. The next checkpoint without room must not find it given up.
#[test]
fn what_gave_way_once_is_not_deleted_when_it_is_in_use_again() {
    let config = LogConfig { checkpoint_interval_bytes: 1 << 20, ..small() };
    let mut run = Run::opened(config.clone(), Disk::default(), 21);
    run.settle();
    let write = |run: &mut Run, count: u32| {
        for i in 0..count {
            run.put_patiently(&[(i % 40) as u8], &vec![i as u8; 10_000]).unwrap();
            run.turn_ends();
            run.step();
        }
    };
    fail_next(&mut run, "create", Some(FileName::Checkpoint(1)), IoError::NoSpace);
    while run.log.counters().no_space == 0 {
        write(&mut run, 1);
    }
    run.held = Some(FileName::Superblock);
    run.pass(Duration::from_secs(2));
    while run.step() {}
    assert!(run.log.counters().checkpoint_bytes > 0, "the checkpoint was written");
    run.held = None;
    run.settle();
    for n in 2..40 {
        write(&mut run, 100);
        run.settle();
        if n % 5 == 0 {
            let next = run.log.counters().checkpoints as u32 + 2;
            for number in next..next + 3 {
                fail_next(
                    &mut run,
                    "create",
                    Some(FileName::Checkpoint(number.into())),
                    IoError::NoSpace,
                );
            }
        }
        run.pass(Duration::from_secs(2));
    }
    assert!(run.log.counters().no_space > 1);
    run.check_reads();
    Run::opened(config, run.crash(), 22).check_reads();
}

#[test]
fn a_stopped_log_can_be_looked_into() {
    let mut run = Run::opened(small(), Disk::default(), 10);
    for i in 0..3u8 {
        run.put_durable(&[i], &[i; 100]);
    }
    let mut disk = run.stop();
    let found = inspect::superblock(disk.contents(FileName::Superblock));
    assert!(found.copies.iter().all(Result::is_ok));
    let number = found.chosen.expect("all copies agree").newest.number;
    let checkpoint = inspect::checkpoint(disk.contents(FileName::Checkpoint(number))).unwrap();
    assert_eq!((checkpoint.pieces.len(), checkpoint.complete), (1, Ok(())));

    let keys = |disk: &Disk| -> Vec<u8> {
        let items = SegmentInspector::new(disk.contents(FIRST)).unwrap();
        let walker = SegmentInspector::new(disk.contents(FIRST)).unwrap();
        let mut keys = Vec::new();
        for item in items {
            if let SegmentItem::Group { pos, body: Ok(()), bytes, .. } = item {
                keys.extend(walker.records(pos, bytes).map(|r| r.unwrap().1.key[0]));
            }
        }
        keys
    };
    assert_eq!(keys(&disk), [0, 1, 2]);
    // Damage to one group hides no other.
    disk.flip(FIRST, 8192 + 4096 + 140);
    assert_eq!(keys(&disk), [0, 2]);
    disk.flip(FIRST, 8192 + 4096 + 30);
    assert_eq!(keys(&disk), [0, 2]);
    disk.flip(FIRST, 40);
    assert_eq!(keys(&disk), [0, 2], "the second copy of the header serves");
    disk.flip(FIRST, 4096 + 40);
    assert!(SegmentInspector::new(disk.contents(FIRST)).is_err());
    for garbage in [&[][..], &[0xff; 100], &[0; 4096]] {
        assert!(SegmentInspector::new(garbage).is_err());
        assert!(inspect::checkpoint(garbage).is_err());
        assert!(inspect::superblock(garbage).chosen.is_err());
    }
}
