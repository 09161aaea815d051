//! The recovery tables, cell by cell, and every typed reason not to open.

use ironring_core::io::{FileName, IoError};
use ironring_core::{GroupSeq, SegmentId, ShardId, SlotId, StorageUuid};

use super::disk::{Disk, Fault};
use super::owner::record;
use super::run::{IDENTITY, Run, small};
use crate::format::group::{GROUP_HEADER_BYTES, GroupHeader};
use crate::format::segment::SegmentHeader;
use crate::format::superblock::{COPY_EXTENT_BYTES, Superblock};
use crate::format::{FORMAT_VERSION, IdentitySeed, record as record_format};
use crate::inspect::{SegmentInspector, SegmentItem};
use crate::{Identity, LogFailure, LogStatus, RecordKind, TailState};

const FIRST: FileName = FileName::Segment(SlotId(0));

/// A log with `n` groups of one put each, all durable, after a crash that lost nothing.
fn log_of(n: u64) -> Disk {
    let mut run = Run::opened(small(), Disk::default(), 1);
    run.settle();
    for i in 0..n {
        run.put_durable(&[i as u8], &[i as u8; 100]);
    }
    run.settle();
    run.crash()
}

/// Headers of the groups in a segment file, with their checksums.
fn groups(disk: &Disk, file: FileName) -> Vec<(GroupHeader, u32)> {
    let items = SegmentInspector::new(disk.contents(file)).expect("the header verifies");
    items
        .filter_map(|item| match item {
            SegmentItem::Group { header, header_crc, .. } => Some((header, header_crc)),
            _ => None,
        })
        .collect()
}

/// Puts a group with one record at `header.pos`, with right lengths and checksums.
fn plant(disk: &mut Disk, file: FileName, mut header: GroupHeader, spoil_record: bool) {
    let put = record(RecordKind::Put, 99, b"planted", b"x");
    let len = record_format::encoded_len(&put);
    let mut body = vec![0; len];
    record_format::encode(&put, header.segment, header.pos + GROUP_HEADER_BYTES as u32, &mut body);
    if spoil_record {
        body[len - 1] ^= 1;
    }
    header.body_len = len as u32;
    header.records = 1;
    header.body_crc = ironring_core::checksum::crc32c(&body);
    let mut bytes = [0; GROUP_HEADER_BYTES];
    header.encode(IdentitySeed::new(IDENTITY), &mut bytes);
    disk.edit(file, |file| {
        let at = header.pos as usize;
        file[at..at + GROUP_HEADER_BYTES].copy_from_slice(&bytes);
        file[at + GROUP_HEADER_BYTES..at + GROUP_HEADER_BYTES + len].copy_from_slice(&body);
    });
}

fn zero(disk: &mut Disk, file: FileName, pos: u32) {
    disk.edit(file, |bytes| bytes[pos as usize..pos as usize + 4096].fill(0));
}

/// Opens and expects this tail and this many records; then checks that the log goes on from there
/// and that what was cut does not come back.
fn expect_tail(disk: Disk, tail: TailState, records: usize) {
    let mut run = Run::opened(small(), disk, 2);
    assert_eq!(run.log.counters().recovery.tail, tail);
    assert_eq!(run.owner.replayed.len(), records);
    run.put_durable(b"after", &[0xEE; 100]);
    run.settle();
    let run = Run::opened(small(), run.crash(), 3);
    assert_eq!(run.owner.replayed.len(), records + 1);
    assert_eq!(run.owner.replayed[records].key, b"after");
}

/// Opens and expects corruption of this group; nothing on disk may have changed.
fn expect_corruption(disk: Disk, k: u64) -> LogFailure {
    let before: Vec<Vec<u8>> = disk.files.values().map(|f| f.now.clone()).collect();
    let run = Run::open(small(), disk, 4);
    let LogStatus::Failed(failure) = run.log.status().clone() else {
        panic!("it opened: {:?}", run.log.counters().recovery);
    };
    assert!(
        matches!(failure, LogFailure::Corruption { group, .. } if group == GroupSeq(k)),
        "{failure}"
    );
    let after: Vec<Vec<u8>> = run.disk.files.values().map(|f| f.now.clone()).collect();
    assert!(before == after, "a corrupt log was changed");
    failure
}

fn failure_of(disk: Disk) -> LogFailure {
    failure_as(IDENTITY, disk, true)
}

fn failure_as(identity: Identity, disk: Disk, may_format: bool) -> LogFailure {
    let mut run = Run::start_as(identity, small(), disk, 5, may_format);
    run.until_opened();
    match run.log.status().clone() {
        LogStatus::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

#[test]
fn b_nothing_behind_the_last_group_is_a_clean_end() {
    expect_tail(log_of(3), TailState::Clean, 3);
    expect_tail(log_of(0), TailState::Clean, 0);
}

#[test]
fn c_a_damaged_last_group_is_uncertain_and_cut() {
    for offset in [8, 60, 120, 200, 280] {
        let mut disk = log_of(3);
        let last = groups(&disk, FIRST)[2].0;
        disk.flip(FIRST, last.pos as usize + offset);
        expect_tail(disk, TailState::Uncertain, 2);
    }
}

#[test]
fn c_a_group_whose_magic_is_gone_leaves_no_trace() {
    let mut disk = log_of(3);
    let last = groups(&disk, FIRST)[2].0;
    zero(&mut disk, FIRST, last.pos);
    expect_tail(disk, TailState::Clean, 2);
}

#[test]
fn d_later_groups_that_do_not_know_k_as_durable_mean_a_torn_tail() {
    let mut disk = log_of(3);
    let (last, crc) = groups(&disk, FIRST)[2];
    disk.flip(FIRST, last.pos as usize + 140);
    let later = GroupHeader {
        pos: last.pos + 4096,
        sequence: GroupSeq(4),
        durable_floor: GroupSeq(2),
        previous_crc: crc,
        ..last
    };
    plant(&mut disk, FIRST, later, false);
    expect_tail(disk, TailState::Torn, 2);
}

#[test]
fn a_left_over_behind_a_cut_never_follows_what_is_written_there_again() {
    let mut disk = log_of(3);
    let (last, crc) = groups(&disk, FIRST)[2];
    disk.flip(FIRST, last.pos as usize + 140);
    let later = GroupHeader {
        pos: last.pos + 4096,
        sequence: GroupSeq(4),
        durable_floor: GroupSeq(2),
        previous_crc: crc,
        ..last
    };
    plant(&mut disk, FIRST, later, false);
    // The new run writes a group of the same length and contents at the same place.
    let mut run = Run::opened(small(), disk, 2);
    run.next_offset = 3;
    run.put_durable(&[2], &[2; 100]);
    let disk = run.crash();
    let rewritten = groups(&disk, FIRST)[2];
    assert_eq!((rewritten.0.pos, rewritten.0.body_crc), (last.pos, last.body_crc));
    assert_ne!(rewritten.1, crc, "the run is part of the header");
    let run = Run::opened(small(), disk, 3);
    assert_eq!(run.owner.replayed.len(), 3);
    assert!(run.owner.replayed.iter().all(|r| r.key != b"planted"));
}

#[test]
fn e_damage_before_a_group_that_knows_it_as_durable_is_corruption() {
    for k in 1..=3u64 {
        for offset in [8usize, 60, 140] {
            let mut disk = log_of(4);
            let header = groups(&disk, FIRST)[k as usize - 1].0;
            disk.flip(FIRST, header.pos as usize + offset);
            let failure = expect_corruption(disk, k);
            let LogFailure::Corruption { file, segment, pos, .. } = failure else { unreachable!() };
            assert_eq!((file, segment, pos), (FIRST, SegmentId(1), header.pos));
        }
        let mut disk = log_of(4);
        let header = groups(&disk, FIRST)[k as usize - 1].0;
        zero(&mut disk, FIRST, header.pos);
        expect_corruption(disk, k);
    }
}

#[test]
fn e_the_empty_group_of_an_idle_log_makes_damage_to_the_last_record_known() {
    let mut run = Run::opened(small(), Disk::default(), 1);
    run.settle();
    run.put_durable(b"k", b"v");
    run.pass(std::time::Duration::from_millis(60));
    run.settle();
    let mut disk = run.crash();
    let header = groups(&disk, FIRST)[0].0;
    disk.flip(FIRST, header.pos as usize + 140);
    expect_corruption(disk, 1);
}

/// A log whose second segment holds groups; returns where the first segment's last group lies.
fn two_segments() -> (Disk, GroupHeader, FileName) {
    let mut run = Run::opened(small(), Disk::default(), 6);
    run.settle();
    let mut second = None;
    for i in 0..40u8 {
        let at = run.put_durable(&[i], &[i; 60_000]).location;
        if at.segment == SegmentId(2) {
            second = second.or(Some(i));
        }
        if second.is_some_and(|first| i >= first + 2) {
            break;
        }
    }
    // The version that seals the first segment must not be what detects the damage.
    let mut disk = run.crash();
    let last = groups(&disk, FIRST).last().expect("it has groups").0;
    forget_durable(&mut disk);
    let second = disk
        .files
        .keys()
        .copied()
        .find(|file| {
            matches!(file, FileName::Segment(_))
                && SegmentHeader::decode(disk.contents(*file))
                    .is_ok_and(|h| h.segment == SegmentId(2))
        })
        .expect("the second segment has a file");
    (disk, last, second)
}

/// Sets what the superblock knows as durable to nothing, in every copy.
fn forget_durable(disk: &mut Disk) {
    disk.edit(FileName::Superblock, |file| {
        for copy in file.chunks_mut(COPY_EXTENT_BYTES) {
            let (mut superblock, _) = Superblock::decode(copy).expect("all copies are good");
            superblock.durable = GroupSeq(0);
            let bytes = superblock.encode();
            copy[..bytes.len()].copy_from_slice(&bytes);
        }
    });
}

#[test]
fn e_damage_at_the_end_of_a_segment_is_known_from_the_next_one() {
    let (mut disk, last, _) = two_segments();
    disk.flip(FIRST, last.pos as usize + 140);
    expect_corruption(disk, last.sequence.0);
}

#[test]
fn e_damage_at_the_beginning_of_a_segment_is_known_from_the_groups_behind() {
    let (mut disk, last, second) = two_segments();
    disk.flip(second, 8192 + 140);
    let failure = expect_corruption(disk, last.sequence.0 + 1);
    let LogFailure::Corruption { segment, pos, .. } = failure else { unreachable!() };
    assert_eq!((segment, pos), (SegmentId(2), 8192));
}

#[test]
fn f_what_the_superblock_knows_as_durable_is_never_cut() {
    // Opening records how far the log was durable.
    let run = Run::opened(small(), log_of(3), 7);
    let mut disk = run.crash();
    let last = groups(&disk, FIRST)[2].0;
    disk.flip(FIRST, last.pos as usize + 140);
    expect_corruption(disk, 3);
    let run = Run::opened(small(), log_of(3), 7);
    let mut disk = run.crash();
    zero(&mut disk, FIRST, last.pos);
    expect_corruption(disk, 3);
}

#[test]
fn g_a_valid_group_that_does_not_follow_is_corruption() {
    let follow = |change: fn(&mut GroupHeader)| {
        let mut disk = log_of(3);
        let (last, crc) = groups(&disk, FIRST)[2];
        let mut next = GroupHeader {
            pos: last.pos + 4096,
            sequence: GroupSeq(4),
            durable_floor: GroupSeq(3),
            previous_crc: crc,
            ..last
        };
        change(&mut next);
        plant(&mut disk, FIRST, next, false);
        disk
    };
    // Unchanged it is simply the next group.
    let run = Run::opened(small(), follow(|_| {}), 8);
    assert_eq!(run.owner.replayed.len(), 4);
    expect_corruption(follow(|next| next.previous_crc ^= 1), 4);
    expect_corruption(follow(|next| next.sequence = GroupSeq(2)), 4);
    expect_corruption(follow(|next| next.sequence = GroupSeq(9)), 4);
    // Of an older run it is a left-over.
    expect_tail(follow(|next| next.run = 0), TailState::Clean, 3);
    // Of another place or segment it is nothing.
    expect_tail(follow(|next| next.segment = SegmentId(9)), TailState::Clean, 3);
}

#[test]
fn h_a_bad_record_in_a_body_that_verifies_is_corruption() {
    let mut disk = log_of(3);
    let (last, crc) = groups(&disk, FIRST)[2];
    let next = GroupHeader {
        pos: last.pos + 4096,
        sequence: GroupSeq(4),
        durable_floor: GroupSeq(3),
        previous_crc: crc,
        ..last
    };
    plant(&mut disk, FIRST, next, true);
    expect_corruption(disk, 4);
}

#[test]
fn i_a_read_error_is_a_failure_and_never_an_end() {
    let mut disk = log_of(3);
    let error = IoError::Os { errno: 5, message: "EIO".to_owned() };
    // The first read of the segment is that of its header.
    let fault = Fault { op: "read", file: Some(FIRST), error, skip: 1, sticky: false };
    disk.faults.push(fault);
    let run = Run::open(small(), disk, 9);
    assert!(matches!(run.log.status(), LogStatus::Failed(LogFailure::Io { .. })));
    let run = Run::opened(small(), run.crash(), 9);
    assert_eq!(run.owner.replayed.len(), 3);
}

#[test]
fn recovery_that_crashes_anywhere_finds_the_same_again() {
    let mut torn = log_of(3);
    let last = groups(&torn, FIRST)[2].0;
    torn.flip(FIRST, last.pos as usize + 140);
    for steps in 0..60 {
        let mut run = Run::start(small(), torn.clone(), steps);
        for _ in 0..steps {
            run.step();
        }
        let run = Run::opened(small(), run.crash(), steps + 1);
        assert_eq!(run.owner.replayed.len(), 2, "after {steps} steps");
    }
}

#[test]
fn what_recovery_read_is_durable_before_anything_is_written() {
    for file in [FIRST, FileName::Superblock] {
        let mut disk = log_of(3);
        let superblock = disk.files[&FileName::Superblock].now.clone();
        let error = IoError::Os { errno: 5, message: "input/output error".to_owned() };
        disk.faults.push(Fault { op: "sync", file: Some(file), error, skip: 0, sticky: false });
        let run = Run::open(small(), disk, 6);
        let status = run.log.status();
        assert!(matches!(status, LogStatus::Failed(LogFailure::Io { .. })), "{file:?}: {status:?}");
        let after = &run.disk.files[&FileName::Superblock].now;
        assert!(*after == superblock, "{file:?}: the superblock was written before the sync");
    }
}

#[test]
fn a_directory_of_another_node_or_shard_is_refused_by_name() {
    let other = Identity { storage: StorageUuid(0xB0B), ..IDENTITY };
    let failure = failure_as(other, log_of(1), true);
    assert!(
        matches!(failure, LogFailure::WrongStorage { expected, found, .. }
            if expected == other.storage && found == IDENTITY.storage),
        "{failure}"
    );
    let other = Identity { shard: ShardId(9), ..IDENTITY };
    let failure = failure_as(other, log_of(1), true);
    assert!(
        matches!(failure, LogFailure::WrongShard { expected: ShardId(9), found, .. } if found == IDENTITY.shard)
    );
    // A single segment file put into the wrong directory.
    let mut disk = log_of(1);
    disk.edit(FIRST, |bytes| {
        let mut header = SegmentHeader::decode(bytes).unwrap();
        header.identity.storage = StorageUuid(0xB0B);
        header.encode(bytes);
    });
    let failure = failure_of(disk);
    assert!(matches!(failure, LogFailure::WrongStorage { file: FIRST, .. }), "{failure}");
}

#[test]
fn a_log_goes_on_with_the_salt_it_was_made_with() {
    let mut disk = log_of(3);
    for salt in 1..4 {
        let id = Identity { salt, ..IDENTITY };
        let mut run = Run::start_as(id, small(), disk, salt, true);
        run.until_opened();
        assert_eq!(run.log.status(), &LogStatus::Open);
        assert_eq!(run.owner.replayed.len(), 2 + salt as usize, "with {salt}");
        run.put_durable(&[0xF0 + salt as u8], &[7; 100]);
        run.settle();
        disk = run.crash();
    }
    let superblock = &disk.files[&FileName::Superblock].now;
    let (read, _) = Superblock::decode(&superblock[..COPY_EXTENT_BYTES]).unwrap();
    assert_eq!(read.identity, IDENTITY);
    // A file of a log that was here before.
    disk.edit(FIRST, |bytes| {
        let mut header = SegmentHeader::decode(bytes).unwrap();
        header.identity.salt += 1;
        header.encode(bytes);
    });
    let failure = failure_of(disk);
    assert!(matches!(failure, LogFailure::WrongLog { file: FIRST }), "{failure}");
}

#[test]
fn an_empty_directory_is_formatted_only_when_allowed() {
    assert_eq!(failure_as(IDENTITY, Disk::default(), false), LogFailure::Absent);
}

#[test]
fn files_without_a_superblock_are_never_formatted_over() {
    let mut disk = log_of(1);
    disk.files.remove(&FileName::Superblock);
    assert!(matches!(failure_of(disk), LogFailure::SuperblockMissing(n) if n > 0));
}

#[test]
fn a_blank_superblock_next_to_groups_is_never_formatted_over() {
    let blank = |disk: &mut Disk| disk.edit(FileName::Superblock, |bytes| bytes.fill(0));
    let mut disk = log_of(1);
    blank(&mut disk);
    assert!(matches!(failure_of(disk), LogFailure::SuperblockUntrusted(_)));
    let mut disk = log_of(1);
    blank(&mut disk);
    disk.files.retain(|file, _| matches!(file, FileName::Superblock) || *file == FIRST);
    assert!(matches!(failure_of(disk), LogFailure::SuperblockUntrusted(_)));
}

#[test]
fn unreadable_superblock_copies_are_tolerated_while_two_agree_and_never_formatted_over() {
    for unreadable in 1..=4usize {
        let mut disk = log_of(2);
        for _ in 0..unreadable {
            let error = IoError::Os { errno: 5, message: "EIO".to_owned() };
            let file = Some(FileName::Superblock);
            disk.faults.push(Fault { op: "read", file, error, skip: 0, sticky: false });
        }
        let run = Run::open(small(), disk, 10);
        match run.log.status() {
            LogStatus::Open => {
                assert!(unreadable <= 2);
                let bad = run.log.counters().recovery.superblock_copies_bad;
                assert_eq!(bad, unreadable as u64);
            }
            LogStatus::Failed(LogFailure::SuperblockUntrusted(_)) => assert!(unreadable > 2),
            other => panic!("{other:?}"),
        }
        let run = Run::opened(small(), run.crash(), 11);
        assert_eq!(run.owner.replayed.len(), 2);
    }
}

#[test]
fn damaged_superblock_copies_are_healed_by_the_next_version() {
    let mut disk = log_of(2);
    for copy in [0, 3] {
        disk.flip(FileName::Superblock, copy * COPY_EXTENT_BYTES + 50);
    }
    let run = Run::opened(small(), disk, 12);
    assert_eq!(run.log.counters().recovery.superblock_copies_bad, 2);
    let run = Run::opened(small(), run.crash(), 13);
    assert_eq!(run.log.counters().recovery.superblock_copies_bad, 0);
    let mut disk = run.crash();
    for copy in 0..3 {
        disk.flip(FileName::Superblock, copy * COPY_EXTENT_BYTES + 50);
    }
    assert!(matches!(failure_of(disk), LogFailure::SuperblockUntrusted(_)));
}

#[test]
fn a_newer_format_asks_for_an_upgrade() {
    const NEWER: u32 = FORMAT_VERSION + 1;
    let newer = |bytes: &mut [u8], length: usize| {
        bytes[8..12].copy_from_slice(&NEWER.to_le_bytes());
        let crc = ironring_core::checksum::crc32c(&bytes[..12]);
        let crc = ironring_core::checksum::crc32c_append(crc, &bytes[16..length]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    };
    let mut disk = log_of(1);
    disk.edit(FileName::Superblock, |file| {
        for copy in file.chunks_mut(COPY_EXTENT_BYTES) {
            let length = u32::from_le_bytes(copy[16..20].try_into().unwrap()) as usize;
            newer(copy, length);
        }
    });
    let failure = failure_of(disk);
    assert!(matches!(failure, LogFailure::Newer { file: FileName::Superblock, found: NEWER, .. }));
    let mut disk = log_of(1);
    disk.edit(FIRST, |file| newer(file, 96));
    assert!(matches!(failure_of(disk), LogFailure::Newer { file: FIRST, found: NEWER, .. }));
}

#[test]
fn sizes_fixed_on_disk_are_compared_with_the_configuration() {
    let mut config = small();
    config.segment_bytes = 2 << 20;
    let run = Run::open(config, log_of(1), 14);
    let LogStatus::Failed(failure) = run.log.status() else { panic!() };
    let expected =
        LogFailure::Setting { what: "segment_bytes", configured: 2 << 20, found: 1 << 20 };
    assert_eq!(failure, &expected);
}

#[test]
fn a_missing_short_or_unreadable_segment_is_named() {
    let mut disk = log_of(1);
    disk.files.remove(&FIRST);
    assert_eq!(failure_of(disk), LogFailure::SegmentMissing { file: FIRST });
    let mut disk = log_of(1);
    disk.edit(FIRST, |bytes| bytes.truncate(500_000));
    let failure = failure_of(disk);
    assert!(matches!(failure, LogFailure::SegmentLength { file: FIRST, found: 500_000, .. }));
    let mut disk = log_of(1);
    disk.flip(FIRST, 20);
    let run = Run::opened(small(), disk, 15);
    assert_eq!(run.log.counters().recovery.segment_headers_bad, 1, "the copy is enough");
    let mut disk = run.crash();
    disk.flip(FIRST, 4096 + 20);
    assert!(matches!(failure_of(disk), LogFailure::SegmentHeader { file: FIRST, .. }));
}

#[test]
fn an_old_superblock_that_was_put_back_is_noticed() {
    let old = log_of(1);
    let mut run = Run::opened(small(), old.clone(), 16);
    for i in 0..100u8 {
        run.put_patiently(&[i], &[i; 60_000]).unwrap();
        run.turn_ends();
    }
    run.settle();
    let mut disk = run.crash();
    let bytes = old.contents(FileName::Superblock).to_vec();
    disk.edit(FileName::Superblock, |file| file.clone_from(&bytes));
    assert!(matches!(failure_of(disk), LogFailure::SuperblockStale { .. }));
}

/// A log with two checkpoints and records behind them.
fn checkpointed() -> (Disk, u64) {
    let mut config = small();
    config.checkpoint_interval_bytes = 100_000;
    let mut run = Run::opened(config, Disk::default(), 17);
    let mut i = 0u8;
    while run.log.counters().checkpoints < 3 {
        run.put_durable(&[i], &[i; 10_000]);
        i += 1;
    }
    run.settle();
    let newest = run.disk.files.keys().filter_map(|f| match f {
        FileName::Checkpoint(n) => Some(*n),
        _ => None,
    });
    let newest = newest.max().expect("there are checkpoints");
    (run.crash(), newest)
}

#[test]
fn a_damaged_checkpoint_falls_back_to_the_one_before() {
    let (disk, newest) = checkpointed();
    let whole = Run::opened(small(), disk.clone(), 18);
    assert_eq!(whole.log.counters().recovery.checkpoint, newest);
    let damages: [fn(&mut Vec<u8>); 4] = [
        |bytes| bytes[20] ^= 1,
        |bytes| bytes[100] ^= 1,
        |bytes| bytes.clear(),
        |bytes| bytes.truncate(80),
    ];
    for damage in damages {
        let mut bad = disk.clone();
        bad.edit(FileName::Checkpoint(newest), damage);
        let mut run = Run::opened(small(), bad, 19);
        let report = run.log.counters().recovery.clone();
        assert_eq!((report.checkpoint, report.checkpoints_bad), (newest - 1, 1));
        assert_eq!(run.owner.index, whole.owner.index);
        run.check_reads();
        run.put_durable(b"after", b"v");
        let run = Run::opened(small(), run.stop(), 20);
        let report = run.log.counters().recovery.clone();
        assert_eq!((report.checkpoint, report.checkpoints_bad), (newest + 1, 0));
        // The one that served stays until another is complete.
        let mut bad = run.stop();
        bad.edit(FileName::Checkpoint(newest + 1), damage);
        let run = Run::opened(small(), bad, 21);
        assert_eq!(run.log.counters().recovery.checkpoint, newest - 1);
        assert!(run.owner.index.contains_key(&b"after"[..]));
    }
    let mut bad = disk.clone();
    bad.files.remove(&FileName::Checkpoint(newest));
    let run = Run::opened(small(), bad, 20);
    assert_eq!(run.owner.index, whole.owner.index);
    let mut bad = disk;
    bad.files.retain(|file, _| !matches!(file, FileName::Checkpoint(_)));
    assert!(matches!(failure_of(bad), LogFailure::Checkpoints(_)));
}

#[test]
fn a_checkpoint_the_owner_cannot_take_is_a_failure() {
    let (disk, _) = checkpointed();
    let mut run = Run::start(small(), disk, 21);
    run.owner.refuse_restore = true;
    run.until_opened();
    assert!(matches!(run.log.status(), LogStatus::Failed(LogFailure::Restore(_))));
}

#[test]
fn a_crash_while_formatting_is_formatted_again() {
    for steps in 0..40 {
        let mut run = Run::start(small(), Disk::default(), steps);
        for _ in 0..steps {
            run.step();
        }
        let mut run = Run::opened(small(), run.crash(), steps);
        run.put_durable(b"k", b"v");
    }
}
