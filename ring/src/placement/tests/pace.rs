//! Pace and progress.

use std::time::Duration;

use ironring_core::Instant;
use proptest::prelude::*;

use super::super::pace::{Pace, PaceMode, Progress};
use super::config;

const MIB: u64 = 1 << 20;
const START: Instant = Instant(5_000_000_000);

fn at(millis: u64) -> Instant {
    START + Duration::from_millis(millis)
}

/// Bytes granted in chunks of `chunk` until `until`, waiting as told.
fn granted(pace: &mut Pace, from: Instant, until: Instant, chunk: u64) -> u64 {
    let mut now = from;
    let mut bytes = 0;
    while now <= until {
        match pace.take(now, chunk) {
            Ok(()) => bytes += chunk,
            Err(wait) => now = now + wait.expect("not paused"),
        }
    }
    bytes
}

#[test]
fn modes_take_their_share() {
    for (mode, share) in [(PaceMode::Gradual, 10), (PaceMode::Aggressive, 50)] {
        let mut pace = Pace::new(mode, 1000 * MIB, START);
        assert_eq!(pace.rate_bytes_per_s(), 10 * share * MIB);
        let bytes = granted(&mut pace, START, at(10_000), 4 * MIB);
        let wanted = 100 * share * MIB;
        assert!(bytes.abs_diff(wanted) <= 4 * MIB, "{bytes} of {wanted}");
    }
}

#[test]
fn a_burst_is_bounded_and_a_large_chunk_passes() {
    let mut pace = Pace::new(PaceMode::Gradual, 100 * MIB, START);
    // Idle for a minute: a tenth of a second at 10 MiB/s is saved up, and one chunk of debt.
    let later = at(60_000);
    assert_eq!(pace.take(later, MIB), Ok(()));
    assert_eq!(pace.take(later, 50 * MIB), Ok(()));
    assert_eq!(pace.take(later, 1), Err(Some(Duration::from_secs(5))));
    assert_eq!(pace.take(at(64_999), 1), Err(Some(Duration::from_millis(1))));
    assert_eq!(pace.take(at(65_000), 1), Ok(()));
}

#[test]
fn progressive_rises_slowly_and_falls_at_once() {
    let mut pace = Pace::new(PaceMode::Progressive, 1000 * MIB, START);
    assert_eq!(pace.rate_bytes_per_s(), 100 * MIB);
    // Asked every millisecond, it rises by 100 MiB/s a second all the same.
    for ms in 1..=1000 {
        let _ = pace.take(at(ms), 1);
    }
    assert_eq!(pace.rate_bytes_per_s(), 200 * MIB);
    pace.observe_foreground(at(60_000), 0);
    assert_eq!(pace.rate_bytes_per_s(), 800 * MIB);
    pace.observe_foreground(at(60_000), 500 * MIB);
    assert_eq!(pace.rate_bytes_per_s(), 450 * MIB);
    pace.observe_foreground(at(60_000), 5000 * MIB);
    assert_eq!(pace.rate_bytes_per_s(), 100 * MIB);
    pace.observe_foreground(at(60_000), 0);
    assert_eq!(pace.rate_bytes_per_s(), 100 * MIB);
}

#[test]
fn an_unknown_bandwidth_still_moves() {
    for mode in [PaceMode::Gradual, PaceMode::Aggressive, PaceMode::Progressive] {
        let pace = Pace::new(mode, 0, START);
        assert_eq!(pace.rate_bytes_per_s(), MIB);
    }
}

#[test]
fn a_pause_grants_and_saves_nothing() {
    let mut pace = Pace::new(PaceMode::Gradual, 100 * MIB, START);
    assert_eq!(pace.take(START, 10 * MIB), Ok(()));
    pace.pause(at(500));
    assert_eq!(pace.rate_bytes_per_s(), 0);
    assert_eq!(pace.take(at(5000), 1), Err(None));
    pace.resume(at(9000));
    assert_eq!(pace.take(at(9000), 1), Err(Some(Duration::from_millis(500))));
    pace.set_mode(at(9000), PaceMode::Aggressive);
    assert_eq!(pace.take(at(9000), 1), Err(Some(Duration::from_millis(100))));
    pace.set_bandwidth(at(9000), 200 * MIB);
    assert_eq!(pace.take(at(9000), 1), Err(Some(Duration::from_millis(50))));
}

#[test]
fn what_is_allowed_passes_besides_the_rate() {
    let mut pace = Pace::new(PaceMode::Gradual, 100 * MIB, START);
    let one = granted(&mut pace, START, at(1000), MIB);
    let mut two = 0;
    for ms in (1000..2000).step_by(100) {
        pace.allow(MIB);
        assert!(pace.is_open(at(ms)));
        two += granted(&mut pace, at(ms), at(ms + 100), MIB);
    }
    assert!((two - one).abs_diff(10 * MIB) <= 2 * MIB, "{one} and {two}");
    assert!(!pace.is_open(at(2000)), "and no more than that");
    pace.allow(u64::MAX);
    let more = granted(&mut pace, at(2000), at(2001), MIB);
    assert!(more <= Pace::ALLOWED_MAX + 2 * MIB, "{more}");
}

#[test]
fn progress_counts_and_foresees() {
    let mut progress = Progress::new(1000, START);
    let report = progress.report(at(10));
    assert_eq!((report.left_bytes, report.rate_bytes_per_s, report.eta), (1000, 0, None));
    for second in 0..4 {
        progress.copied(at(second * 1000 + 500), 100);
    }
    let report = progress.report(at(4000));
    assert_eq!((report.done_bytes, report.left_bytes, report.rate_bytes_per_s), (400, 600, 100));
    assert_eq!(report.eta, Some(Duration::from_secs(6)));
    // It stands still: the rate falls until there is nothing to foresee.
    let slower = progress.report(at(8000)).rate_bytes_per_s;
    assert!(slower > 0 && slower < 70, "{slower}");
    assert_eq!(progress.report(at(200_000)).eta, None);
    progress.set_total(400);
    assert_eq!(progress.report(at(200_000)).eta, Some(Duration::ZERO));
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn over_time_the_rate_holds(
        bandwidth in 20 * MIB..4000 * MIB, chunks in proptest::collection::vec((1u64..8 * MIB, 0u64..400), 1..200),
    ) {
        let mut pace = Pace::new(PaceMode::Gradual, bandwidth, START);
        let rate = pace.rate_bytes_per_s();
        let (mut now, mut bytes) = (START, 0u64);
        for (chunk, idle_ms) in chunks {
            now = now + Duration::from_millis(idle_ms);
            if let Err(wait) = pace.take(now, chunk) {
                now = now + wait.unwrap();
                prop_assert_eq!(pace.take(now, chunk), Ok(()), "after the wait it was told");
            }
            bytes += chunk;
            let most = u128::from(rate) * (now.since(START) + Pace::BURST).as_nanos() / 1_000_000_000;
            prop_assert!(u128::from(bytes) <= most + u128::from(chunk) + 1, "{bytes} of {most}");
        }
    }

    #[test]
    fn time_that_goes_back_is_no_time(steps in proptest::collection::vec((0u64..2000, 1u64..MIB), 1..50)) {
        let mut pace = Pace::new(PaceMode::Progressive, 100 * MIB, START);
        let mut progress = Progress::new(10 * MIB, START);
        for (ms, bytes) in steps {
            let _ = pace.take(at(ms), bytes);
            progress.copied(at(ms), bytes);
            let report = progress.report(at(ms));
            prop_assert!(report.done_bytes >= bytes);
        }
    }
}
