//! Checkpoints, compaction, a full disk, and crashes while all of it goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use ironring_core::io::FileName;
use ironring_core::prng::Prng;
use proptest::prelude::*;

use super::disk::Disk;
use super::run::{Run, small};
use crate::inspect;
use crate::{AppendError, LogConfig, LogStatus, Priority, RecordKind, Room};

/// Segments of 1 MiB, a checkpoint every MiB.
fn busy() -> LogConfig {
    LogConfig { checkpoint_interval_bytes: 1 << 20, ..small() }
}

fn overwrite(run: &mut Run, keys: u64, count: u32, len: usize) {
    for i in 0..count {
        let key = run.rng.below(keys).to_le_bytes();
        run.put_patiently(&key, &vec![i as u8; len]).expect("space is bounded");
        if i % 16 == 0 {
            run.turn_ends();
            run.step();
        }
    }
    run.turn_ends();
    run.settle();
}

#[test]
fn a_restart_replays_only_what_follows_the_checkpoint() {
    let mut run = Run::opened(busy(), Disk::default(), 1);
    overwrite(&mut run, 50, 400, 10_000);
    assert!(run.log.counters().checkpoints >= 2, "{:?}", run.log.counters());
    let index = run.owner.index.clone();
    let mut run = Run::opened(busy(), run.crash(), 2);
    let report = run.log.counters().recovery.clone();
    assert!(report.checkpoint >= 2 && report.checkpoints_bad == 0, "{report:?}");
    assert!(report.records < 300, "{report:?}");
    assert_eq!(run.owner.index, index);
    run.check_reads();
}

#[test]
fn a_stop_writes_a_checkpoint_and_the_next_start_replays_nothing() {
    let mut run = Run::opened(busy(), Disk::default(), 3);
    run.put_durable(b"a", b"1");
    let run = Run::opened(busy(), run.stop(), 4);
    assert_eq!(run.owner.replayed.len(), 0);
    assert_eq!(run.owner.index.len(), 1);
    let checkpoint = run.log.counters().recovery.checkpoint;
    let run = Run::opened(busy(), run.stop(), 5);
    assert_eq!(run.log.counters().recovery.checkpoint, checkpoint, "nothing new to say");
}

#[test]
fn endless_overwrites_stay_within_bounds() {
    let mut run = Run::opened(busy(), Disk::default(), 6);
    let (keys, len) = (800u64, 10_000);
    overwrite(&mut run, keys, 1000, len);
    let mut most = 0;
    for _ in 0..12 {
        overwrite(&mut run, keys, 1000, len);
        most = most.max(run.disk.bytes());
    }
    let live = keys * len as u64;
    // 2.1 times the live bytes, a segment that is not full, the empty ones, superblock and
    // checkpoints.
    let bound = live * 21 / 10 + (1 + 4 + 3) * (1 << 20);
    assert!(most <= bound, "{most} bytes on disk, {bound} allowed: {:?}", run.log.counters());
    let counters = run.log.counters();
    assert_eq!(counters.live_bytes, keys * (len as u64 + 64 + 8));
    assert!(counters.held_bytes >= counters.live_bytes && counters.disk_bytes <= run.disk.bytes());
    assert!(run.log.counters().segments_freed > 20, "{:?}", run.log.counters());
    run.check_reads();
    let index = run.owner.index.clone();
    let mut run = Run::opened(busy(), run.crash(), 7);
    assert_eq!(run.owner.index, index);
    run.check_reads();
}

/// Idle time is compaction's own: what it copied then was once held against it, and the load that
/// followed grew the log to its bound before a step was made.
#[test]
fn compaction_keeps_its_pace_after_long_idle_periods() {
    for seed in 60..62 {
        let mut run = Run::opened(busy(), Disk::default(), seed);
        let (keys, len) = (1600u64, 10_000);
        overwrite(&mut run, keys, 1600, len);
        for _ in 0..8 {
            // Users dirty half of what is there, then leave the log alone.
            overwrite(&mut run, keys, 800, len);
            for _ in 0..20 {
                run.pass(Duration::from_secs(1));
                run.settle();
            }
        }
        let idle = run.log.counters().clone();
        assert!(idle.compaction_read_bytes > 20 << 20, "nothing was done while idle: {idle:?}");
        let mut most = 0;
        for _ in 0..64 {
            overwrite(&mut run, keys, 100, len);
            let counters = run.log.counters();
            most = most.max(counters.held_bytes * 100 / counters.live_bytes);
        }
        let counters = run.log.counters();
        assert!(most <= 195, "{most} percent of the live bytes are held: {counters:?}");
    }
}

#[test]
fn on_a_full_disk_users_are_refused_and_deletes_bring_writes_back() {
    let mut disk = Disk::default();
    disk.capacity = Some(14 << 20);
    let mut run = Run::opened(busy(), disk, 8);
    let mut key = 0u64;
    while run.put_patiently(&key.to_le_bytes(), &[1; 10_000]).is_ok() {
        key += 1;
        assert!(key < 2000, "the disk is never full");
    }
    run.turn_ends();
    run.settle();
    assert_eq!(run.log.status(), &LogStatus::Open, "a full disk is no fault");
    let refused = run.append(RecordKind::Put, b"more", &[1; 10_000], Priority::User);
    assert_eq!(refused.unwrap_err(), AppendError::NoSpace);
    assert_eq!(run.log.room(), Room::Short);
    run.check_reads();
    for k in 0..key / 2 {
        let mut tries = 0;
        while let Err(e) = run.append(RecordKind::Delete, &k.to_le_bytes(), b"", Priority::Reserve)
        {
            assert_eq!(e, AppendError::Overloaded);
            run.turn_ends();
            run.step();
            tries += 1;
            assert!(tries < 10_000, "deletes find no room");
        }
    }
    let mut waited = 0;
    while run.append(RecordKind::Put, b"more", &[1; 10_000], Priority::User).is_err() {
        run.turn_ends();
        run.settle();
        run.pass(Duration::from_secs(1));
        waited += 1;
        assert!(waited < 100, "writes do not come back: {:?}", run.log.counters());
    }
    while run.log.room() != Room::Plenty {
        run.turn_ends();
        run.settle();
        run.pass(Duration::from_secs(1));
        waited += 1;
        assert!(waited < 200, "there is no plenty of room: {:?}", run.log.counters());
    }
    run.check_reads();
}

#[test]
fn an_own_limit_is_kept() {
    let config = LogConfig { disk_bytes_max: 12 << 20, ..busy() };
    let mut run = Run::opened(config, Disk::default(), 9);
    run.settle();
    assert_eq!(run.log.room(), Room::Plenty);
    let mut key = 0u64;
    while run.put_patiently(&key.to_le_bytes(), &[1; 10_000]).is_ok() {
        key += 1;
        assert!(key < 2000, "the limit is not kept");
    }
    assert_eq!(run.log.room(), Room::Short);
    assert!(run.disk.bytes() <= (12 << 20) + (2 << 20), "segments, checkpoints; the superblock");
    run.turn_ends();
    run.settle();
    run.check_reads();
}

/// Seconds in which nobody writes.
fn rest(run: &mut Run, seconds: u32) {
    for _ in 0..seconds {
        run.pass(Duration::from_secs(1));
        run.settle();
    }
}

#[test]
fn what_is_held_stays_until_it_is_let_go() {
    let mut run = Run::opened(busy(), Disk::default(), 20);
    overwrite(&mut run, 10, 300, 10_000);
    let held = run.log.active_segment();
    let dead = run.put_durable(b"old", &[7; 1000]).location;
    run.put_durable(b"old", &[8; 1000]);
    run.log.hold_from(Some(held));
    let freed = run.log.counters().segments_freed;
    overwrite(&mut run, 10, 350, 10_000);
    rest(&mut run, 5);
    assert!(run.log.counters().segments_freed > freed, "those before it are freed");
    assert_eq!(run.read(dead).unwrap().body, [7; 1000]);
    run.log.hold_from(None);
    rest(&mut run, 5);
    assert_eq!(run.log.file_of(held), None, "{:?}", run.log.counters());
    assert_eq!(run.log.counters().live_bytes, run.live_bytes());
}

/// Users do not wait for what is held: garbage stays within its bounds.
#[test]
fn what_is_held_gives_way_to_users() {
    for disk_bytes_max in [0, 14 << 20] {
        let config = LogConfig { disk_bytes_max, ..busy() };
        let mut run = Run::opened(config, Disk::default(), 21);
        overwrite(&mut run, 10, 300, 10_000);
        let held = run.log.active_segment();
        run.put_durable(b"a", &[7; 1000]);
        run.log.hold_from(Some(held));
        let mut most = 0;
        for _ in 0..30 {
            overwrite(&mut run, 10, 100, 10_000);
            most = most.max(run.log.counters().held_bytes);
        }
        assert_eq!(run.log.file_of(held), None);
        assert!(most <= 8 << 20, "{most} bytes are held: {:?}", run.log.counters());
        run.check_reads();
    }
}

#[test]
fn a_segment_is_not_freed_while_it_is_read() {
    let mut run = Run::opened(busy(), Disk::default(), 10);
    overwrite(&mut run, 10, 600, 10_000);
    run.check_reads();
    assert!(run.log.counters().segments_freed > 0, "{:?}", run.log.counters());
}

/// An operation: its offset, key and value (none: a delete).
type Op = (u64, Vec<u8>, Option<Vec<u8>>);

/// What a prefix of the operations leaves: key to offset and value.
fn state_after(ops: &[Op]) -> BTreeMap<Vec<u8>, (u64, Option<Vec<u8>>)> {
    ops.iter().map(|(offset, key, body)| (key.clone(), (*offset, body.clone()))).collect()
}

/// One of the two checkpoints may always be lost.
fn spoil_newest_checkpoint(disk: &mut Disk) {
    let Some(file) = disk.files.get(&FileName::Superblock) else { return };
    if let Ok(superblock) = inspect::superblock(&file.now).chosen
        && superblock.newest.number != 0
    {
        disk.flip(FileName::Checkpoint(superblock.newest.number), 70);
    }
}

fn crash_while_compacting(seed: u64) {
    let mut rng = Prng::new(seed);
    let config = LogConfig { checkpoint_interval_bytes: 256 << 10, ..busy() };
    let mut disk = Disk::default();
    let mut ops: Vec<Op> = Vec::new();
    let mut durable = 0;
    for _ in 0..5 {
        while rng.chance(1, 3) {
            let mut run = Run::start(config.clone(), disk, rng.next_u64());
            for _ in 0..rng.below(80) {
                run.step();
            }
            disk = run.crash();
        }
        if rng.chance(1, 2) {
            spoil_newest_checkpoint(&mut disk);
        }
        let mut run = Run::opened(config.clone(), disk, rng.next_u64());
        // The state is that of a prefix, no shorter than what was durable.
        let last = run.owner.index.values().map(|(o, _)| *o).max().unwrap_or(0);
        let kept = ops.iter().take_while(|(o, ..)| *o <= last).count();
        assert!(kept >= durable, "{kept} of {durable} durable operations are left");
        ops.truncate(kept);
        let expected = state_after(&ops);
        let found: Vec<_> = run.owner.index.iter().map(|(k, v)| (k.clone(), v.0)).collect();
        let wanted: Vec<_> = expected.iter().map(|(k, v)| (k.clone(), v.0)).collect();
        assert_eq!(found, wanted);
        for (key, (_, body)) in &expected {
            let at = run.owner.index[key].1;
            assert_eq!(at.is_some(), body.is_some());
            if let Some(at) = at {
                assert_eq!(Some(run.read(at).unwrap().body), *body);
            }
        }
        for _ in 0..200 + rng.below(600) {
            match rng.below(12) {
                0..=6 => {
                    let key = rng.below(40).to_le_bytes().to_vec();
                    let delete = rng.chance(1, 8);
                    let mut body = vec![0; rng.below(40_000) as usize];
                    let random = body.len().min(8);
                    rng.fill(&mut body[..random]);
                    let offset = run.next_offset;
                    let done = if delete {
                        run.append(RecordKind::Delete, &key, b"", Priority::Reserve)
                    } else {
                        run.append(RecordKind::Put, &key, &body, Priority::User)
                    };
                    if done.is_ok() {
                        ops.push((offset, key, (!delete).then_some(body)));
                    }
                }
                7 => run.turn_ends(),
                8 => run.pass(Duration::from_millis(30)),
                _ => {
                    run.step();
                }
            }
        }
        assert_eq!(run.log.status(), &LogStatus::Open);
        let flushed: Vec<u64> =
            run.owner.flushed.iter().flat_map(|(_, r)| r.iter().map(|r| r.offset)).collect();
        let last = flushed.into_iter().max().unwrap_or(0);
        durable = ops.iter().filter(|(o, ..)| *o <= last).count().max(kept);
        disk = if rng.chance(1, 4) {
            durable = ops.len();
            run.stop()
        } else {
            run.crash()
        };
    }
}

/// A record was dropped because a newer one superseded it in memory; its segment was freed, and
/// power failed before the newer one was durable: both were gone.
#[test]
fn a_dropped_record_stays_until_what_superseded_it_is_durable() {
    crash_while_compacting(14_033_231_984_342_959_051);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 25, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn crashes_between_checkpoints_and_compactions_lose_nothing(seed: u64) {
        crash_while_compacting(seed);
    }
}
