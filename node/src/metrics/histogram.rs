//! A latency histogram a shard can keep in plain integers: fixed buckets, two per octave.

use std::time::Duration;

use serde::ser::{Serialize, SerializeStruct, Serializer};

/// Finite upper bounds. The last one is about 17 s.
pub const BOUNDS: usize = 42;
/// The first bound, in nanoseconds: 8.192 us.
const FIRST_BOUND_NS: u64 = 1 << 13;

/// Upper bound of a bucket, in nanoseconds: 8.192 us x 1, 1.5, 2, 3, 4, 6, 8, ...
#[must_use]
pub const fn bound_ns(bucket: usize) -> u64 {
    let octave = FIRST_BOUND_NS << (bucket / 2);
    if bucket.is_multiple_of(2) { octave } else { octave / 2 * 3 }
}

/// How often something took how long. Recording costs a few instructions and no memory.
#[derive(Clone, PartialEq, Eq)]
pub struct LatencyHistogram {
    /// Not cumulative; the last one is for what is longer than every bound.
    counts: [u64; BOUNDS + 1],
    sum_ns: u64,
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        LatencyHistogram { counts: [0; BOUNDS + 1], sum_ns: 0 }
    }
}

impl std::fmt::Debug for LatencyHistogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in {:?}", self.count(), Duration::from_nanos(self.sum_ns))
    }
}

impl LatencyHistogram {
    /// Counts one event.
    pub fn record(&mut self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket_of(ns)] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// Adds the events of another one.
    pub fn merge(&mut self, other: &LatencyHistogram) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    /// Events counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their durations added up, in seconds.
    #[must_use]
    pub fn sum_seconds(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }

    /// Each bucket's upper bound in seconds and how many events fell into it alone. The last bound
    /// is infinite.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        self.counts.iter().enumerate().map(|(bucket, count)| {
            let bound = if bucket < BOUNDS { bound_ns(bucket) as f64 / 1e9 } else { f64::INFINITY };
            (bound, *count)
        })
    }

    /// The upper bound of the bucket that holds the event at `share` of all, in seconds: at most
    /// 1.5 times the true value. `None` without events; infinite when it is beyond the last bound.
    #[must_use]
    pub fn quantile_seconds(&self, share: f64) -> Option<f64> {
        let count = self.count();
        let wanted = ((count as f64 * share).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        self.buckets().find_map(|(bound, count)| {
            seen += count;
            (seen >= wanted).then_some(bound)
        })
    }
}

/// The bucket of a duration: the first whose bound is not below it.
fn bucket_of(ns: u64) -> usize {
    if ns <= FIRST_BOUND_NS {
        return 0;
    }
    // 2^octave < ns <= 2^(octave+1): the bound at 1.5 x 2^octave divides that range in two.
    let octave = (ns - 1).ilog2();
    let half = usize::from(ns > (1u64 << octave) / 2 * 3);
    ((octave - FIRST_BOUND_NS.ilog2()) as usize * 2 + 1 + half).min(BOUNDS)
}

impl Serialize for LatencyHistogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("LatencyHistogram", 6)?;
        object.serialize_field("count", &self.count())?;
        object.serialize_field("sum_seconds", &self.sum_seconds())?;
        let finite = |share| self.quantile_seconds(share).filter(|bound| bound.is_finite());
        object.serialize_field("p50_seconds", &finite(0.5))?;
        object.serialize_field("p99_seconds", &finite(0.99))?;
        object.serialize_field("p999_seconds", &finite(0.999))?;
        let filled: Vec<(Option<f64>, u64)> = self
            .buckets()
            .filter(|(_, count)| *count > 0)
            .map(|(bound, count)| (bound.is_finite().then_some(bound), count))
            .collect();
        object.serialize_field("buckets", &filled)?;
        object.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_grow_by_at_most_half() {
        for bucket in 1..BOUNDS {
            let (low, high) = (bound_ns(bucket - 1), bound_ns(bucket));
            assert!(low < high && high * 2 <= low * 3, "{bucket}: {low} {high}");
        }
        assert!(bound_ns(BOUNDS - 1) > 12_000_000_000);
    }

    #[test]
    fn an_event_falls_into_the_first_bucket_that_holds_it() {
        for bucket in 0..BOUNDS {
            assert_eq!(bucket_of(bound_ns(bucket)), bucket, "at the bound");
            assert_eq!(bucket_of(bound_ns(bucket) + 1), bucket + 1, "just above it");
        }
        assert_eq!(bucket_of(0), 0);
        assert_eq!(bucket_of(u64::MAX), BOUNDS);
    }

    #[test]
    fn counts_sums_and_quantiles_agree_with_what_was_recorded() {
        let mut histogram = LatencyHistogram::default();
        assert_eq!(histogram.quantile_seconds(0.5), None);
        for ms in 1..=1000 {
            histogram.record(Duration::from_millis(ms));
        }
        let mut twice = histogram.clone();
        twice.merge(&histogram);
        assert_eq!((histogram.count(), twice.count()), (1000, 2000));
        assert!((histogram.sum_seconds() - 500.5).abs() < 1e-9);
        for (share, truth) in [(0.5, 0.5), (0.99, 0.99), (0.001, 0.001)] {
            let quantile = twice.quantile_seconds(share).unwrap();
            assert!((truth..=truth * 1.5).contains(&quantile), "{share}: {quantile}");
        }
        histogram.record(Duration::from_secs(1000));
        assert_eq!(histogram.quantile_seconds(1.0), Some(f64::INFINITY));
        let json = serde_json::to_value(&histogram).unwrap();
        assert_eq!(json["count"], 1001);
        assert_eq!(json["buckets"].as_array().unwrap().last().unwrap()[0], serde_json::Value::Null);
    }
}
