//! Latency distributions as results keep them: a few percentiles, a curve to plot, and `.hgrm`
//! files for the usual HdrHistogram tools.

use std::fmt::Write;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Points of the curve per halving of the distance to 100 %.
const TICKS_PER_HALVING: u32 = 5;
const NS_PER_MS: f64 = 1e6;

/// A distribution in nanoseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// How many samples.
    pub count: u64,
    /// Smallest.
    pub min_ns: u64,
    /// Arithmetic mean.
    pub mean_ns: f64,
    /// Standard deviation.
    pub stdev_ns: f64,
    /// Median.
    pub p50_ns: u64,
    /// 90 %.
    pub p90_ns: u64,
    /// 99 %.
    pub p99_ns: u64,
    /// 99.9 %.
    pub p999_ns: u64,
    /// 99.99 %.
    pub p9999_ns: u64,
    /// Largest.
    pub max_ns: u64,
    /// Quantile (0 to 1) and value, rising.
    pub curve: Vec<(f64, u64)>,
}

impl Latency {
    /// What a histogram of nanoseconds holds; `None` when it is empty.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Option<Latency> {
        if histogram.is_empty() {
            return None;
        }
        let at = |quantile| histogram.value_at_quantile(quantile);
        Some(Latency {
            count: histogram.len(),
            min_ns: histogram.min(),
            mean_ns: histogram.mean(),
            stdev_ns: histogram.stdev(),
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            p9999_ns: at(0.9999),
            max_ns: histogram.max(),
            curve: histogram
                .iter_quantiles(TICKS_PER_HALVING)
                // Nine decimals survive JSON as they are, and no run has more samples than that.
                .map(|point| {
                    let quantile = (point.quantile_iterated_to() * 1e9).round() / 1e9;
                    (quantile, point.value_iterated_to())
                })
                .collect(),
        })
    }
}

/// The text format of HdrHistogram's `outputPercentileDistribution`, in milliseconds.
#[must_use]
pub fn hgrm(histogram: &Histogram<u64>) -> String {
    let mut text = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
    let mut total = 0;
    let line = |text: &mut String, value: u64, quantile: f64, total: u64| {
        let value = value as f64 / NS_PER_MS;
        let written = if quantile < 1.0 {
            let inverse = 1.0 / (1.0 - quantile);
            writeln!(text, "{value:12.6} {quantile:14.12} {total:10} {inverse:14.2}")
        } else {
            writeln!(text, "{value:12.6} {quantile:14.12} {total:10}")
        };
        written.expect("writing to a string cannot fail");
    };
    for point in histogram.iter_quantiles(TICKS_PER_HALVING) {
        total += point.count_since_last_iteration();
        line(&mut text, point.value_iterated_to(), point.quantile_iterated_to(), total);
    }
    let (mean, stdev) = (histogram.mean() / NS_PER_MS, histogram.stdev() / NS_PER_MS);
    let (max, count) = (histogram.max() as f64 / NS_PER_MS, histogram.len());
    writeln!(
        text,
        "#[Mean    = {mean:12.6}, StdDeviation   = {stdev:12.6}]\n\
         #[Max     = {max:12.6}, Total count    = {count:12}]\n\
         #[Buckets = {:12}, SubBuckets     = {:12}]",
        histogram.buckets(),
        2048,
    )
    .expect("writing to a string cannot fail");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thousand() -> Histogram<u64> {
        let mut histogram = Histogram::new(3).unwrap();
        for ms in 1..=1000_u64 {
            histogram.record(ms * 1_000_000).unwrap();
        }
        histogram
    }

    #[test]
    fn percentiles_are_within_the_precision_asked_for() {
        let latency = Latency::of(&thousand()).unwrap();
        for (got, ms) in
            [(latency.p50_ns, 500.0), (latency.p99_ns, 990.0), (latency.max_ns, 1000.0)]
        {
            assert!((got as f64 / 1e6 / ms - 1.0).abs() < 0.002, "{got} is not {ms} ms");
        }
        assert_eq!(latency.count, 1000);
        assert!(latency.curve.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1));
        assert!((latency.curve.last().unwrap().0 - 1.0).abs() < 1e-9);
        assert_eq!(Latency::of(&Histogram::new(3).unwrap()), None);
    }

    #[test]
    fn hgrm_lines_have_four_columns_and_end_with_every_sample() {
        let text = hgrm(&thousand());
        let rows: Vec<Vec<&str>> = text
            .lines()
            .skip(2)
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().collect())
            .collect();
        let (last, others) = rows.split_last().unwrap();
        assert!(others.iter().all(|row| row.len() == 4));
        assert_eq!((last.len(), last[1], last[2]), (3, "1.000000000000", "1000"));
        assert!(text.contains("Total count    =         1000"));
    }
}
