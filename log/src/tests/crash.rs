//! Random work, random crashes: what was durable is there, once, in order; and nothing that was
//! lost once comes back.

use ironring_core::prng::Prng;
use proptest::prelude::*;

use super::disk::Disk;
use super::owner::Owned;
use super::run::{Run, small};
use crate::{LogConfig, LogStatus, Priority, RecordKind};

/// Works at random until the crash; returns the disk, what was durable, and all that was appended.
fn live(mut run: Run, steps: u64) -> (Disk, Vec<Owned>, Vec<Owned>) {
    let mut appended = Vec::new();
    for _ in 0..steps {
        match run.rng.below(10) {
            0..=3 => {
                let key = [run.rng.below(20) as u8];
                let len = match run.rng.below(8) {
                    0 => run.rng.below(300_000),
                    1..=3 => run.rng.below(5_000),
                    _ => run.rng.below(100),
                };
                let mut body = vec![0; len as usize];
                run.rng.fill(&mut body);
                let offset = run.next_offset;
                if run.append(RecordKind::Put, &key, &body, Priority::User).is_ok() {
                    appended.push(Owned { kind: RecordKind::Put, offset, key: key.to_vec(), body });
                }
            }
            4 | 5 => run.turn_ends(),
            6 => run.pass(std::time::Duration::from_millis(60)),
            _ => {
                run.step();
            }
        }
    }
    let durable = run.owner.flushed.iter().flat_map(|(_, records)| records.clone()).collect();
    assert_eq!(run.log.status(), &LogStatus::Open);
    let power_fails = run.rng.chance(1, 2);
    (if power_fails { run.crash() } else { run.kill() }, durable, appended)
}

fn crash_and_recover(config: &LogConfig, seed: u64, lives: u64) {
    let mut rng = Prng::new(seed);
    let mut disk = Disk::default();
    let mut known: Vec<Owned> = Vec::new();
    for _ in 0..lives {
        // Crashes while it is being formatted or recovered change nothing that was durable.
        while rng.chance(1, 3) {
            let mut run = Run::start(config.clone(), disk, rng.next_u64());
            for _ in 0..rng.below(60) {
                run.step();
            }
            disk = run.crash();
        }
        let mut run = Run::opened(config.clone(), disk, rng.next_u64());
        assert_eq!(run.owner.replayed.len(), known.len(), "{:?}", run.log.counters().recovery);
        assert_eq!(run.owner.replayed, known);
        run.check_reads();
        run.next_offset = 1 + known.last().map_or(0, |r| r.offset);
        let (after, durable, appended) = live(run, rng.below(120));
        disk = after;
        // Opened once more: what is there is what was durable, and at most the group in flight.
        let run = Run::opened(config.clone(), disk, rng.next_u64());
        let replayed = run.owner.replayed.clone();
        let all: Vec<Owned> = known.iter().chain(&appended).cloned().collect();
        assert!(replayed.len() >= known.len() + durable.len(), "a durable record is gone");
        assert_eq!(replayed[..], all[..replayed.len()], "not a prefix of what was appended");
        known = replayed;
        disk = run.crash();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn durable_records_survive_and_lost_ones_stay_lost(seed: u64) {
        crash_and_recover(&small(), seed, 6);
    }
}
