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
        println!("last {last}: {:?} after {:?}, {:?}", report.verdict, since.elapsed(), report.stats);
        assert!(report.stats.work <= Rules::default().work);
        match last {
            7 => assert!(!matches!(report.verdict, Verdict::Linearizable)),
            _ => assert_eq!(report.verdict, Verdict::Linearizable),
        }
    }
}
