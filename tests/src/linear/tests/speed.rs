//! How long a verdict takes. The figures are printed; the limits are for debug builds.

use std::time::{Duration, Instant};

use ironring_core::prng::Prng;

use super::random::{Shape, key_history};
use super::*;

#[test]
fn a_hundred_thousand_operations_in_seconds() {
    for (joint, unknown) in [(0, 0), (0, 1), (0, 5), (1, 1), (1, 5)] {
        // Fewer where nothing is optimised: the figures are those of a release build.
        let operations = if cfg!(debug_assertions) { 20_000 } else { 100_000 };
        let mut prng = Prng::new(7);
        let shape =
            Shape { clients: 50, operations, partitions: 16, keys: 63, joint, unknown, values: 0 };
        let history = key_history(&mut prng, shape);
        let since = Instant::now();
        let report = check(&history, &Rules::default());
        let took = since.elapsed();
        println!(
            "joint {joint}% unknown {unknown}%: {took:?}, {:?} {:?}",
            report.verdict, report.stats
        );
        // Hundreds of unknown deletes among keys that scans join may be too much.
        let hard = joint > 0 && unknown > 1 && matches!(report.verdict, Verdict::GaveUp(_));
        assert!(hard || report.verdict == Verdict::Linearizable, "{:?}", report.verdict);
        assert!(took < Duration::from_secs(60), "{took:?}");
    }
}

#[test]
fn fifty_unknown_writes_end_in_a_verdict_or_in_giving_up() {
    let plain = |value| vec![Some(Cell { version: None, value: Some(value) })];
    let mut ops: Vec<Operation> =
        (0..50).map(|i| unknown(put((i, 0..1), "a", u64::from(i), 0))).collect();
    ops.extend((0..25u64).map(|i| multi((60, 10 * i + 10..10 * i + 11), &["a"], plain(i))));
    for last in [7, 24, 25] {
        let mut ops = ops.clone();
        ops.push(multi((60, 900..901), &["a"], plain(last)));
        let since = Instant::now();
        let report = check(&History::new(ops), &Rules::default());
        println!(
            "last {last}: {:?} after {:?}, {:?}",
            report.verdict,
            since.elapsed(),
            report.stats
        );
        assert!(report.stats.work <= Rules::default().work);
        match last {
            7 => assert!(matches!(report.verdict, Verdict::Refused(_))),
            _ => assert_eq!(report.verdict, Verdict::Linearizable),
        }
    }
}

#[test]
fn what_is_too_hard_is_given_up_within_the_bound_of_work() {
    let key = |i: u32| format!("k{i}");
    let batch = |i: u32| vec![to("a", u64::from(i)), to(&key(i), 1)];
    let mut ops: Vec<Operation> =
        (0..50).map(|i| unknown(write((i, 0..1), batch(i), receipt(0)))).collect();
    // Every batch writes `a`, so whoever sees all of them sees `a`; for each key alone it is fine.
    let keys: Vec<String> = std::iter::once("a".to_owned()).chain((0..50).map(key)).collect();
    let one = Some(Cell { version: None, value: Some(1) });
    let cells = std::iter::once(None).chain([one; 50]).collect();
    ops.push(done((60, 5..6), Call::Get { partition: 0, keys }, Answer::Cells(cells)));
    let history = History::new(ops.clone());
    for work in [100_000, 5_000_000] {
        let since = Instant::now();
        let report = check(&history, &Rules { work, ..Rules::default() });
        println!("bound {work}: {:?} after {:?}", report.verdict, since.elapsed());
        assert_eq!(report.verdict, Verdict::GaveUp(crate::linear::Part::Keys(0)));
        assert!(report.stats.work <= work + work / 10);
    }
    // What is wrong about one key is found nevertheless.
    ops.push(put((60, 20..21), "a", 500, 900));
    ops.push(put((60, 22..23), "a", 501, 901));
    ops.push(get((60, 24..25), "a", 500, 900));
    refused_as(Kind::StaleRead, 24, ops);
}
