//! Append, flush, read, reopen.

use std::time::Duration;

use ironring_core::GroupSeq;

use super::disk::Disk;
use super::run::{Run, small};
use crate::{AppendError, LogStatus, Priority, ReadError, RecordKind, TailState};

#[test]
fn a_new_log_takes_records_and_gives_them_back() {
    let mut run = Run::opened(small(), Disk::default(), 1);
    assert!(run.log.counters().recovery.formatted);
    let a = run.put(b"a", b"first");
    let b = run.put(b"b", &[7; 5000]);
    assert_eq!((a.group, b.group), (GroupSeq(1), GroupSeq(1)), "records of one turn share a group");
    run.turn_ends();
    run.settle();
    assert_eq!(run.log.durable(), GroupSeq(1));
    assert_eq!(run.owner.flushed.len(), 1);
    assert_eq!(run.owner.flushed[0].1.len(), 2);
    let reads = run.disk.reads;
    assert_eq!(run.read(b.location).unwrap().body, vec![7; 5000]);
    assert_eq!(run.disk.reads, reads + 1, "one disk read");
    assert_eq!(run.read(a.location).unwrap().body, b"first");
}

#[test]
fn a_log_reopens_after_a_stop_and_after_a_crash() {
    let mut run = Run::opened(small(), Disk::default(), 2);
    run.put_durable(b"a", b"1");
    run.put_durable(b"b", b"2");
    let mut run = Run::opened(small(), run.stop(), 3);
    assert_eq!(run.owner.index.len(), 2);
    assert_eq!(run.log.counters().recovery.tail, TailState::Clean);
    run.check_reads();
    run.put_durable(b"c", b"3");
    let mut run = Run::opened(small(), run.crash(), 4);
    assert_eq!(run.owner.index.len(), 3);
    run.check_reads();
}

#[test]
fn groups_roll_into_prepared_segments_and_come_back_in_order() {
    let mut run = Run::opened(small(), Disk::default(), 5);
    for i in 0..200u32 {
        run.put_patiently(&i.to_le_bytes(), &vec![i as u8; 30_000]).unwrap();
        if i % 3 == 0 {
            run.turn_ends();
        }
    }
    run.turn_ends();
    run.settle();
    assert!(run.log.counters().segments.sealed >= 5, "{:?}", run.log.counters().segments);
    let mut run = Run::opened(small(), run.crash(), 6);
    let offsets: Vec<u64> = run.owner.replayed.iter().map(|r| r.offset).collect();
    assert_eq!(offsets, (1..=200).collect::<Vec<_>>());
    run.check_reads();
}

#[test]
fn records_staged_while_a_group_is_in_flight_share_the_next_one() {
    let mut run = Run::opened(small(), Disk::default(), 7);
    run.settle();
    let first = run.put(b"a", b"");
    run.turn_ends();
    let others: Vec<_> = (0..10u8).map(|i| run.put(&[i], b"").group).collect();
    run.turn_ends();
    assert!(others.iter().all(|g| *g == first.group.next()));
    run.settle();
    assert_eq!(run.log.durable(), GroupSeq(2));
}

#[test]
fn an_idle_log_writes_one_empty_group() {
    let mut run = Run::opened(small(), Disk::default(), 8);
    run.put_durable(b"a", b"1");
    run.settle();
    assert!(run.log.next_deadline().is_some());
    run.pass(Duration::from_millis(60));
    run.settle();
    assert_eq!(run.log.durable(), GroupSeq(2));
    assert_eq!(run.log.counters().groups_empty, 1);
    run.pass(Duration::from_secs(5));
    run.settle();
    assert_eq!(run.log.counters().groups_empty, 1, "once");
}

#[test]
fn a_read_of_a_record_in_flight_waits_for_it() {
    let mut run = Run::opened(small(), Disk::default(), 9);
    let a = run.put(b"a", b"1");
    let read = run.read(a.location);
    assert_eq!(read.unwrap().body, b"1");
}

#[test]
fn reads_of_places_that_hold_no_record_are_refused() {
    let mut run = Run::opened(small(), Disk::default(), 10);
    let a = run.put_durable(b"a", b"1").location;
    for bad in [
        crate::Location { segment: ironring_core::SegmentId(99), ..a },
        crate::Location { pos: 0, ..a },
        crate::Location { pos: 900_000, ..a },
        crate::Location { len: u32::MAX, ..a },
        crate::Location { pos: a.pos + 1, ..a },
        crate::Location { len: a.len - 1, ..a },
    ] {
        assert!(matches!(run.read(bad), Err(ReadError::Corrupt { .. })), "{bad:?}");
    }
    assert_eq!(run.read(a).unwrap().body, b"1");
}

#[test]
fn appends_are_refused_when_too_much_waits_or_too_long() {
    let mut run = Run::opened(small(), Disk::default(), 11);
    run.settle();
    let body = vec![0; 200_000];
    let mut config = small();
    config.segment_bytes = 64 << 20;
    let mut big = Run::opened(config, Disk::default(), 12);
    let refused =
        (0..100).find_map(|_| big.append(RecordKind::Put, b"k", &body, Priority::User).err());
    assert_eq!(refused, Some(AppendError::Overloaded));
    assert!(big.append(RecordKind::Delete, b"k", b"", Priority::Reserve).is_ok());
    big.turn_ends();
    big.settle();
    assert!(big.append(RecordKind::Put, b"k", &body, Priority::User).is_ok());
    let long = run.append(RecordKind::Put, b"k", &vec![0; 1 << 20], Priority::User);
    assert_eq!(long.unwrap_err(), AppendError::TooLarge);
}

#[test]
fn a_group_may_hold_one_record_longer_than_the_target() {
    let mut config = small();
    config.segment_bytes = 8 << 20;
    let mut run = Run::opened(config.clone(), Disk::default(), 13);
    run.put(b"small", b"x");
    let long = run.put(b"long", &vec![9; 2 << 20]);
    run.put(b"after", b"y");
    run.turn_ends();
    run.settle();
    assert_eq!(run.read(long.location).unwrap().body.len(), 2 << 20);
    let mut run = Run::opened(config, run.crash(), 14);
    assert_eq!(run.owner.replayed.len(), 3);
    run.check_reads();
}

#[test]
fn nothing_is_taken_before_open_or_after_a_stop() {
    let mut run = Run::start(small(), Disk::default(), 15);
    let early = run.append(RecordKind::Put, b"k", b"v", Priority::User);
    assert_eq!(early.unwrap_err(), AppendError::Closed);
    run.until_opened();
    run.put(b"k", b"v");
    let disk = run.stop();
    let run = Run::opened(small(), disk, 16);
    assert_eq!(run.owner.index.len(), 1, "a stop writes what is staged");
}

#[test]
fn a_stop_while_opening_leaves_the_directory_as_it_is() {
    let mut run = Run::opened(small(), Disk::default(), 17);
    run.put_durable(b"k", b"v");
    let mut disk = run.stop();
    for steps in 0..12 {
        let mut run = Run::start(small(), disk, steps);
        for _ in 0..steps {
            run.step();
        }
        disk = run.stop();
    }
    let run = Run::opened(small(), disk, 18);
    assert_eq!(run.owner.index.len(), 1);
    assert!(matches!(run.log.status(), LogStatus::Open));
}
