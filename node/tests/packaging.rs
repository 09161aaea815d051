//! What is shipped beside the binary fits it: metric names that exist, flags that parse.

use std::path::Path;

use clap::Parser;
use ironring_node::cli::Cli;
use ironring_node::metrics::catalogue::series_names;

fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every word that begins like a metric of ours.
fn metrics_in(text: &str) -> Vec<&str> {
    let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !name(c)).filter(|word| word.starts_with("ironring_")).collect()
}

#[test]
fn dashboard_and_alerts_name_only_metrics_that_exist() {
    let known = series_names();
    for (file, least) in [("grafana/ironring.json", 40), ("prometheus/alerts.yml", 8)] {
        let text = shipped(file);
        let named = metrics_in(&text);
        assert!(named.len() >= least, "{file} names {} metrics", named.len());
        for metric in named {
            assert!(known.iter().any(|name| name == metric), "{file}: there is no {metric}");
        }
    }
}

#[test]
fn the_dashboard_is_json_with_a_query_in_every_panel() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&shipped("grafana/ironring.json")).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("it has panels");
    let mut ids: Vec<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    ids.dedup();
    assert_eq!(ids.len(), panels.len(), "ids are unique and ascend");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().expect("a panel has queries");
        assert!(!targets.is_empty(), "{}", panel["title"]);
        for target in targets {
            let query = target["expr"].as_str().expect("a query is text");
            let count = |c| query.matches(c).count();
            assert_eq!(count('('), count(')'), "{query}");
            assert!(query.contains("instance=~\"$instance\""), "{query}");
        }
    }
}

#[test]
fn every_alert_says_what_happened_and_what_to_do() {
    let text = shipped("prometheus/alerts.yml");
    let alerts = text.matches("- alert: ").count();
    assert!(alerts >= 8);
    for part in ["expr: ", "severity: ", "summary: ", "action: "] {
        assert_eq!(text.matches(part).count(), alerts, "{part}");
    }
}

#[test]
fn the_unit_starts_the_binary_with_flags_it_has() {
    let unit = shipped("systemd/ironring.service");
    let commands: Vec<&str> = unit
        .lines()
        .filter(|line| line.starts_with("ExecStart"))
        .filter_map(|line| line.split_once('=').map(|(_, command)| command))
        .collect();
    assert_eq!(commands.len(), 2);
    for command in commands {
        let parsed = Cli::try_parse_from(command.split(' '));
        assert!(parsed.is_ok(), "{command}: {:?}", parsed.err());
    }
}
