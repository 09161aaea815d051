//! A snapshot as OpenMetrics text.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit as ClientUnit};

use super::catalogue::{METRICS, Metric, NodeValue, ShardValue, Unit, Value, in_state};
use super::histogram::LatencyHistogram;
use super::snapshot::{NodeSnapshot, ShardSnapshot, ShardState};

/// Content type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The snapshot's metrics as text. Costs a few hundred microseconds per ten shards, all of it on
/// the caller's thread.
///
/// # Errors
/// Never for a snapshot of ours: the encoder refuses only native histograms.
pub fn text(snapshot: NodeSnapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("ironring");
    registry.register_collector(Box::new(Scrape(snapshot)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Scrape(NodeSnapshot);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in METRICS {
            let unit = match metric.unit {
                Unit::None => None,
                Unit::Bytes => Some(&ClientUnit::Bytes),
                Unit::Seconds => Some(&ClientUnit::Seconds),
            };
            let kind = match metric.kind() {
                "counter" => MetricType::Counter,
                "histogram" => MetricType::Histogram,
                "info" => MetricType::Info,
                _ => MetricType::Gauge,
            };
            let family = encoder.encode_descriptor(metric.name, metric.help, unit, kind)?;
            self.samples(metric, family)?;
        }
        Ok(())
    }
}

impl Scrape {
    fn samples(&self, metric: &Metric, mut family: MetricEncoder<'_>) -> fmt::Result {
        let node = &self.0;
        match &metric.value {
            Value::Node(NodeValue::Identity) => family.encode_info(&[
                ("node", node.node.as_str()),
                ("cluster", node.cluster.as_str()),
                ("storage", node.storage.as_str()),
                ("version", node.version),
            ]),
            Value::Node(NodeValue::Counter(of)) => count(&mut family, of(node)),
            Value::Node(NodeValue::Gauge(of)) => family.encode_gauge(&of(node)),
            Value::Shard(value) => {
                for shard in &node.shards {
                    shard_samples(value, shard, &mut family)?;
                }
                Ok(())
            }
        }
    }
}

fn shard_samples(
    value: &ShardValue,
    shard: &ShardSnapshot,
    family: &mut MetricEncoder<'_>,
) -> fmt::Result {
    let number = shard.shard.to_string();
    let number = number.as_str();
    match value {
        ShardValue::Counter(of) => {
            count(&mut family.encode_family(&[("shard", number)])?, of(shard))
        }
        ShardValue::CounterBy(label, of) => {
            for (key, value) in of(shard) {
                count(&mut family.encode_family(&[("shard", number), (label, key)])?, *value)?;
            }
            Ok(())
        }
        ShardValue::Gauge(of) => {
            family.encode_family(&[("shard", number)])?.encode_gauge(&of(shard))
        }
        ShardValue::State => {
            for state in ShardState::ALL {
                let labels = [("shard", number), ("state", state.name())];
                family.encode_family(&labels)?.encode_gauge(&in_state(shard, state))?;
            }
            Ok(())
        }
        ShardValue::Histograms(label, histograms) => {
            for (name, of) in *histograms {
                let labels = [("shard", number), (label, name)];
                let labels = if label.is_empty() { &labels[..1] } else { &labels[..] };
                buckets(&mut family.encode_family(&labels)?, of(shard))?;
            }
            Ok(())
        }
    }
}

fn count(
    family: &mut MetricEncoder<'_>,
    value: impl prometheus_client::encoding::EncodeCounterValue,
) -> fmt::Result {
    family.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

fn buckets(family: &mut MetricEncoder<'_>, histogram: &LatencyHistogram) -> fmt::Result {
    let buckets: Vec<(f64, u64)> = histogram.buckets().collect();
    family.encode_histogram::<NoLabelSet>(
        histogram.sum_seconds(),
        histogram.count(),
        &buckets,
        None,
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::catalogue::series_names;

    fn snapshot() -> NodeSnapshot {
        let mut shard = ShardSnapshot { shard: 3, state: ShardState::Ready, ..Default::default() };
        shard.clients.requests.insert("Put", 7);
        shard.clients.errors.insert("overloaded", 2);
        shard.clients.write_latency.record(Duration::from_micros(10));
        shard.clients.write_latency.record(Duration::from_secs(60));
        shard.log.record_bytes = 4096;
        NodeSnapshot {
            node: "a".to_owned(),
            cluster: "c".to_owned(),
            version: "1.2.3",
            uptime_seconds: 1.5,
            shards: vec![ShardSnapshot::default(), shard],
            ..Default::default()
        }
    }

    #[test]
    fn values_appear_under_their_names_and_labels() {
        let text = text(snapshot()).unwrap();
        for line in [
            "# TYPE ironring_requests counter",
            "ironring_node_info{node=\"a\",cluster=\"c\",storage=\"\",version=\"1.2.3\"} 1",
            "ironring_uptime_seconds 1.5",
            "ironring_ready 0.0",
            "ironring_requests_total{shard=\"3\",opcode=\"Put\"} 7",
            "ironring_request_errors_total{shard=\"3\",code=\"overloaded\"} 2",
            "ironring_log_record_bytes_total{shard=\"3\"} 4096",
            "ironring_shard_state{shard=\"3\",state=\"ready\"} 1.0",
            "ironring_shard_state{shard=\"0\",state=\"ready\"} 0.0",
            "ironring_request_latency_seconds_count{shard=\"3\",kind=\"write\"} 2",
            "ironring_request_latency_seconds_bucket{le=\"0.000008192\",shard=\"3\",kind=\"write\"} 0",
            "ironring_request_latency_seconds_bucket{le=\"0.000012288\",shard=\"3\",kind=\"write\"} 1",
            "ironring_request_latency_seconds_bucket{le=\"+Inf\",shard=\"3\",kind=\"write\"} 2",
            "ironring_log_flush_latency_seconds_count{shard=\"3\"} 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|have| have == line), "{line}\nis not in\n{text}");
        }
    }

    #[test]
    fn every_series_of_the_catalogue_is_served_and_no_other() {
        let text = text(snapshot()).unwrap();
        let mut served: Vec<String> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split(['{', ' ']).next())
            .map(str::to_owned)
            .collect();
        served.sort();
        served.dedup();
        let mut named = series_names();
        named.sort();
        assert_eq!(served, named);
    }

    #[test]
    fn names_are_unique_and_carry_their_unit_once() {
        let mut names: Vec<String> = METRICS.iter().map(Metric::full_name).collect();
        for (metric, name) in METRICS.iter().zip(&names) {
            assert!(!metric.help.is_empty() && !metric.help.ends_with('.'), "{name}");
            assert!(!metric.name.ends_with("_bytes") && !metric.name.ends_with("_total"), "{name}");
        }
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
