use std::time::Duration;

use ironring_core::io::OpId;

use super::*;

const SEGMENT: FileName = FileName::Segment(ironring_core::SlotId(1));
const OTHER: FileName = FileName::Segment(ironring_core::SlotId(2));

struct Bench {
    disk: SimDisk,
    now: Instant,
    next: u64,
}

impl Bench {
    fn new(seed: u64) -> Bench {
        Bench::with(seed, 1 << 20, FaultPlan::none())
    }

    fn with(seed: u64, capacity: u64, mut plan: FaultPlan) -> Bench {
        plan.until = Instant(u64::MAX);
        let mut disk = SimDisk::new(seed, capacity, Latency::default(), plan);
        disk.faults.plan.per_life_max = 0;
        let mut bench = Bench { disk, now: Instant(1), next: 0 };
        for file in [SEGMENT, OTHER] {
            bench.ok(IoOp::Create { file });
            bench.ok(write(file, 0, vec![0; 65536], true));
        }
        bench.ok(IoOp::SyncDir);
        bench.disk.faults.plan.per_life_max = 1;
        bench
    }

    fn submit(&mut self, op: IoOp) -> Ticket {
        self.next += 1;
        let (due, ticket) = self.disk.submit(self.now, IoRequest { id: OpId(self.next), op });
        self.now = self.now.max(due);
        ticket
    }

    fn run(&mut self, op: IoOp) -> Result<IoOk, IoError> {
        let ticket = self.submit(op);
        self.disk.complete(ticket).result
    }

    fn ok(&mut self, op: IoOp) -> IoOk {
        self.run(op).expect("no fault is planned")
    }

    fn read(&mut self, file: FileName, pos: u64, len: u32) -> Vec<u8> {
        match self.ok(IoOp::ReadAt { file, pos: FilePos(pos), len }) {
            IoOk::Read(buf) => buf.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    fn reopen(&mut self) {
        for file in [SEGMENT, OTHER] {
            self.ok(IoOp::Open { file });
        }
    }
}

fn write(file: FileName, pos: u64, bytes: Vec<u8>, durable: bool) -> IoOp {
    IoOp::WriteAt { file, pos: FilePos(pos), buf: IoBuf::new(Box::new(bytes)), durable }
}

fn always(fault: Fault) -> FaultPlan {
    FaultPlan::none().with(fault, 1_000_000)
}

#[test]
fn durable_and_synced_writes_survive_power_loss() {
    for seed in 0..50 {
        let mut b = Bench::new(seed);
        b.ok(write(SEGMENT, 0, vec![1; 4096], true));
        b.ok(write(SEGMENT, 4096, vec![2; 4096], false));
        b.ok(IoOp::Sync { file: SEGMENT });
        b.disk.power_loss();
        b.reopen();
        assert_eq!(b.read(SEGMENT, 0, 4096), vec![1; 4096]);
        assert_eq!(b.read(SEGMENT, 4096, 4096), vec![2; 4096]);
    }
}

#[test]
fn unsynced_writes_are_lost_kept_or_torn_at_sectors() {
    let (mut lost, mut kept, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let mut b = Bench::new(seed);
        b.ok(write(SEGMENT, 0, vec![1; 4096], false));
        assert_eq!(b.read(SEGMENT, 0, 4096), vec![1; 4096], "visible before it is durable");
        b.disk.power_loss();
        b.reopen();
        let after = b.read(SEGMENT, 0, 4096);
        let sectors: Vec<u8> = after.chunks(SECTOR).map(|s| s[0]).collect();
        assert!(after.chunks(SECTOR).all(|s| s.iter().all(|x| *x == s[0])), "a sector is whole");
        match sectors.iter().sum::<u8>() {
            0 => lost += 1,
            8 => kept += 1,
            _ => torn += 1,
        }
    }
    assert!(lost > 20 && kept > 20 && torn > 20, "{lost} {kept} {torn}");
}

#[test]
fn a_sync_covers_only_what_was_written_before_it_was_asked_for() {
    let mut changed = 0;
    for seed in 0..50 {
        let mut b = Bench::new(seed);
        b.ok(write(SEGMENT, 0, vec![1; 4096], false));
        let sync = b.submit(IoOp::Sync { file: SEGMENT });
        b.ok(write(SEGMENT, 4096, vec![2; 4096], false));
        b.disk.complete(sync).result.expect("no fault is planned");
        b.disk.power_loss();
        b.reopen();
        assert_eq!(b.read(SEGMENT, 0, 4096), vec![1; 4096]);
        changed += u32::from(b.read(SEGMENT, 4096, 4096) != vec![2; 4096]);
    }
    assert!(changed > 10, "the later write was not covered: {changed}");
}

#[test]
fn a_durable_write_replaces_older_unsynced_bytes_for_good() {
    for seed in 0..50 {
        let mut b = Bench::new(seed);
        b.ok(write(SEGMENT, 0, vec![1; 16384], false));
        b.ok(write(SEGMENT, 4096, vec![2; 4096], true));
        b.disk.power_loss();
        b.reopen();
        assert_eq!(b.read(SEGMENT, 4096, 4096), vec![2; 4096]);
    }
}

#[test]
fn names_need_a_directory_sync() {
    let (mut gone, mut there) = (0, 0);
    for seed in 0..50 {
        let mut b = Bench::new(seed);
        let file = FileName::Checkpoint(9);
        b.ok(IoOp::Create { file });
        b.ok(write(file, 0, vec![7; 4096], true));
        b.ok(IoOp::Remove { file: OTHER });
        b.disk.power_loss();
        match b.run(IoOp::Open { file }) {
            Ok(_) => {
                there += 1;
                assert_eq!(b.read(file, 0, 4096), vec![7; 4096]);
            }
            Err(e) => {
                gone += 1;
                assert_eq!(e, IoError::NotFound);
            }
        }
    }
    assert!(gone > 10 && there > 10, "{gone} {there}");

    let mut b = Bench::new(0);
    b.ok(IoOp::Remove { file: OTHER });
    b.ok(IoOp::SyncDir);
    b.disk.power_loss();
    assert!(b.run(IoOp::Open { file: OTHER }).is_err(), "a synced removal is for ever");
}

#[test]
fn a_killed_process_leaves_its_writes_readable_and_not_durable() {
    let mut lost = 0;
    for seed in 0..50 {
        let mut b = Bench::new(seed);
        b.ok(write(SEGMENT, 0, vec![1; 4096], false));
        b.disk.kill();
        b.reopen();
        assert_eq!(b.read(SEGMENT, 0, 4096), vec![1; 4096]);
        b.disk.power_loss();
        b.reopen();
        lost += u32::from(b.read(SEGMENT, 0, 4096) != vec![1; 4096]);
    }
    assert!(lost > 10, "{lost}");
}

#[test]
fn a_write_in_flight_may_or_may_not_have_happened() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..100 {
        let mut b = Bench::new(seed);
        b.submit(write(SEGMENT, 0, vec![1; 4096], true));
        b.disk.kill();
        b.reopen();
        let after = b.read(SEGMENT, 0, 4096);
        old += u32::from(after == vec![0; 4096]);
        new += u32::from(after == vec![1; 4096]);
    }
    assert!(old > 10 && new > 10 && old + new < 100, "{old} {new}");
}

#[test]
fn a_failed_sync_drops_dirty_data_and_a_second_sync_does_not_bring_it_back() {
    let mut dropped = 0;
    for seed in 0..50 {
        let mut b = Bench::with(seed, 1 << 20, always(Fault::SyncError));
        b.ok(write(SEGMENT, 0, vec![1; 4096], false));
        assert!(b.run(IoOp::Sync { file: SEGMENT }).is_err());
        b.ok(IoOp::Sync { file: SEGMENT });
        b.disk.power_loss();
        b.reopen();
        dropped += u32::from(b.read(SEGMENT, 0, 4096) != vec![1; 4096]);
        assert_eq!(b.disk.faults.count(Fault::SyncError), 1);
    }
    assert!(dropped > 10, "{dropped}");
}

#[test]
fn errors_and_short_transfers_are_reported() {
    let mut b = Bench::with(1, 1 << 20, always(Fault::ReadError));
    let read = IoOp::ReadAt { file: SEGMENT, pos: FilePos(0), len: 4096 };
    assert!(matches!(b.run(read), Err(IoError::Os { errno: EIO, .. })));

    let mut b = Bench::with(1, 1 << 20, always(Fault::ShortRead));
    let read = IoOp::ReadAt { file: SEGMENT, pos: FilePos(0), len: 4096 };
    assert!(matches!(b.run(read), Err(IoError::ShortRead { .. })));

    let mut b = Bench::with(1, 1 << 20, always(Fault::WriteError));
    assert!(matches!(b.run(write(SEGMENT, 0, vec![1; 4096], true)), Err(IoError::Os { .. })));

    let mut b = Bench::with(1, 1 << 20, always(Fault::ShortWrite));
    match b.run(write(SEGMENT, 0, vec![1; 8192], true)) {
        Err(IoError::ShortWrite { got }) => {
            let after = b.read(SEGMENT, 0, 8192);
            assert!(after[..got as usize].iter().all(|x| *x == 1));
            assert!(after[got as usize..].iter().all(|x| *x == 0));
        }
        other => panic!("{other:?}"),
    }

    let mut b = Bench::new(1);
    let past = IoOp::ReadAt { file: SEGMENT, pos: FilePos(65536 - 4096), len: 8192 };
    assert_eq!(b.run(past).expect_err("past the end"), IoError::ShortRead { got: 4096 });
}

#[test]
fn a_full_device_refuses_growth_and_takes_overwrites() {
    let mut b = Bench::with(1, 2 * 65536 + 4096, FaultPlan::none());
    b.ok(write(SEGMENT, 65536, vec![1; 4096], true));
    let more = b.run(write(OTHER, 65536, vec![1; 4096], true));
    assert_eq!(more.expect_err("full"), IoError::NoSpace);
    b.ok(write(OTHER, 0, vec![1; 4096], true));
    b.ok(IoOp::Remove { file: SEGMENT });
    b.ok(write(OTHER, 65536, vec![1; 4096], true));

    let mut b = Bench::with(1, 1 << 20, always(Fault::NoSpace));
    b.ok(write(OTHER, 0, vec![1; 4096], true));
    let more = b.run(write(OTHER, 65536, vec![1; 4096], true));
    assert_eq!(more.expect_err("injected"), IoError::NoSpace);
}

#[test]
fn slow_syncs_take_seconds() {
    let mut b = Bench::with(1, 1 << 20, always(Fault::SlowSync));
    let before = b.now;
    b.ok(write(SEGMENT, 0, vec![1; 4096], true));
    assert!(b.now.since(before) >= Duration::from_secs(1));
}

#[test]
fn a_read_flip_is_gone_at_the_next_read() {
    let mut b = Bench::with(1, 1 << 20, always(Fault::ReadFlip));
    let wrong: u32 = b.read(SEGMENT, 0, 4096).iter().map(|x| x.count_ones()).sum();
    assert_eq!(wrong, 1);
    assert_eq!(b.read(SEGMENT, 0, 4096), vec![0; 4096]);
}

#[test]
fn silent_faults_are_acknowledged_and_recorded() {
    let mut b = Bench::with(1, 1 << 20, always(Fault::LostWrite));
    b.ok(write(SEGMENT, 0, vec![1; 4096], true));
    assert_eq!(b.read(SEGMENT, 0, 4096), vec![0; 4096]);
    assert!(b.disk.faults.any_silent());

    let mut elsewhere = 0;
    for seed in 0..20 {
        let mut b = Bench::with(seed, 1 << 20, always(Fault::Misdirected));
        b.ok(write(SEGMENT, 4096, vec![1; 4096], true));
        let (file, pos) = b.disk.faults.injected[0].landed.expect("recorded");
        assert_eq!(b.read(file, pos.0, 4096), vec![1; 4096]);
        elsewhere += u32::from((file, pos) != (SEGMENT, FilePos(4096)));
    }
    assert!(elsewhere > 15, "{elsewhere}");

    let mut b = Bench::with(1, 1 << 20, always(Fault::MediaFlip));
    b.ok(write(SEGMENT, 0, vec![0xFF; 4096], true));
    let wrong: u32 = b.read(SEGMENT, 0, 4096).iter().map(|x| x.count_zeros()).sum();
    assert_eq!(wrong, 1);
    b.disk.power_loss();
    b.reopen();
    assert_ne!(b.read(SEGMENT, 0, 4096), vec![0xFF; 4096], "it is on the medium");
}

#[test]
fn decay_changes_one_bit_that_was_written() {
    let mut b = Bench::new(3);
    assert!(!b.disk.decay(b.now), "nothing but zeros");
    b.ok(write(OTHER, 8192, vec![0xFF; 4096], true));
    assert!(b.disk.decay(b.now));
    let wrong: u32 = b.read(OTHER, 8192, 4096).iter().map(|x| x.count_zeros()).sum();
    assert_eq!(wrong, 1);
}

#[test]
fn misuse_of_the_seam_is_noticed() {
    let mut b = Bench::new(1);
    let _ = b.run(write(SEGMENT, 100, vec![1; 4096], true));
    let _ = b.run(IoOp::ReadAt { file: FileName::Superblock, pos: FilePos(0), len: 4096 });
    b.submit(write(SEGMENT, 0, vec![1; 8192], true));
    b.submit(write(SEGMENT, 4096, vec![1; 4096], true));
    b.submit(IoOp::Close { file: SEGMENT });
    assert_eq!(b.disk.misuse.len(), 4, "{:?}", b.disk.misuse);
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let run = |seed| {
        let mut b = Bench::with(seed, 1 << 20, FaultPlan::none().with(Fault::MediaFlip, 300_000));
        for i in 0..20u64 {
            b.ok(write(SEGMENT, (i % 16) * 4096, vec![i as u8; 4096], i % 3 == 0));
        }
        b.disk.power_loss();
        (b.now, b.disk.contents(SEGMENT))
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}
