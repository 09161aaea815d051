//! The server's own counters: every number of its `Stats` object, before and after, by path.

use std::collections::BTreeMap;

use serde_json::Value;

/// What every numeric field grew by, by its dotted path. Fields that are missing on one side are
/// left out, and so are those that did not change.
#[must_use]
pub fn deltas(before: &Value, after: &Value) -> BTreeMap<String, f64> {
    let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
    flatten("", before, &mut old);
    flatten("", after, &mut new);
    new.into_iter()
        .filter_map(|(path, now)| {
            let change = now - old.get(&path)?;
            (change != 0.0).then_some((path, change))
        })
        .collect()
}

fn flatten(path: &str, value: &Value, into: &mut BTreeMap<String, f64>) {
    let join = |name: &str| {
        if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
    };
    match value {
        Value::Number(number) => {
            if let Some(number) = number.as_f64() {
                into.insert(path.to_owned(), number);
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                flatten(&join(name), value, into);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                flatten(&join(&index.to_string()), item, into);
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// Sum of the counters of this name, whatever they are part of; `None` without one.
#[must_use]
pub fn sum(deltas: &BTreeMap<String, f64>, name: &str) -> Option<f64> {
    sum_of(deltas, &[name])
}

/// Sum of the counters that count syncs, by the last part of their path; `None` without one.
#[must_use]
pub fn syncs(deltas: &BTreeMap<String, f64>) -> Option<f64> {
    sum_of(deltas, &["fsyncs", "syncs", "flushes", "fsyncs_total", "syncs_total", "flushes_total"])
}

fn sum_of(deltas: &BTreeMap<String, f64>, names: &[&str]) -> Option<f64> {
    let matching: Vec<f64> = deltas
        .iter()
        .filter(|(path, _)| path.rsplit('.').next().is_some_and(|last| names.contains(&last)))
        .map(|(_, change)| *change)
        .collect();
    (!matching.is_empty()).then(|| matching.iter().sum())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_number_that_changed_is_kept_by_its_path() {
        let before = json!({"shards": [{"fsyncs": 1, "name": "a"}, {"fsyncs": 5}], "up": true,
                            "log": {"bytes": 10}, "gone": 1});
        let after = json!({"shards": [{"fsyncs": 3, "name": "b"}, {"fsyncs": 9}], "up": true,
                           "log": {"bytes": 10}, "new": 1});
        let deltas = deltas(&before, &after);
        let expected = [("shards.0.fsyncs", 2.0), ("shards.1.fsyncs", 4.0)];
        assert_eq!(deltas, expected.map(|(p, v)| (p.to_owned(), v)).into());
        assert_eq!(syncs(&deltas), Some(6.0));
        assert_eq!((sum(&deltas, "fsyncs"), sum(&deltas, "syncs")), (Some(6.0), None));
        assert_eq!(syncs(&BTreeMap::new()), None);
    }
}
