//! How long a verdict takes. The figures are printed; the limits are for debug builds.

use std::time::{Duration, Instant};

use ironring_core::prng::Prng;

use super::random::{Shape, key_history};
use super::*;

#[test]
fn a_hundred_thousand_operations_in_seconds() {
    for (joint, unknown) in [(0, 0), (0, 1), (1, 1)] {
        let mut prng = Prng::new(7);
        let shape = Shape {
            clients: 50,
            operations: 100_000,
            partitions: 16,
            keys: 63,
            joint,
            unknown,
            values: 0,
        };
        let history = key_history(&mut prng, shape);
        let since = Instant::now();
        let report = check(&history, &Rules::default());
        let took = since.elapsed();
        println!("joint {joint}% unknown {unknown}%: {took:?}, {:?}", report.stats);
        assert_eq!(report.verdict, Verdict::Linearizable);
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
    let keys: Vec<String> = (0..50).map(key).collect();
    let cells = vec![Some(Cell { version: None, value: Some(1) }); 50];
    ops.push(done((60, 5..6), Call::Get { partition: 0, keys }, Answer::Cells(cells)));
    let a = vec![Some(Cell { version: None, value: Some(77) })];
    ops.push(unknown(put((61, 8..9), "a", 77, 0)));
    ops.push(multi((60, 10..11), &["a"], a));
    ops.push(absent((60, 12..13), "a"));
    let history = History::new(ops);
    for work in [100_000, 5_000_000] {
        let since = Instant::now();
        let report = check(&history, &Rules { work, ..Rules::default() });
        println!("bound {work}: {:?} after {:?}", report.verdict, since.elapsed());
        assert_eq!(report.verdict, Verdict::GaveUp(crate::linear::Part::Keys(0)));
        assert!(report.stats.work <= work);
    }
}
