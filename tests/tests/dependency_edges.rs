//! Which package may use which: the table of the design, enforced. An edge that is not listed here
//! is a change of the design, not of a manifest.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::MetadataCommand;

const EDGES: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("net", &["core"]),
    ("log", &["core"]),
    ("ring", &["core"]),
    ("node", &["core", "net", "log", "ring"]),
    ("bench", &["core", "net"]),
    ("tests", &["core", "net", "log", "ring", "node", "bench"]),
    ("perf", &["core", "net", "log", "ring", "node", "bench"]),
];

const PREFIX: &str = "ironring-";

/// Internal edges that are not allowed, as `from -> to`.
fn strangers(found: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = EDGES.iter().copied().collect();
    let mut wrong = Vec::new();
    for (from, uses) in found {
        for to in uses {
            if !allowed.get(from.as_str()).is_some_and(|list| list.contains(&to.as_str())) {
                wrong.push(format!("{from} -> {to}"));
            }
        }
    }
    wrong
}

#[test]
fn only_the_edges_of_the_design_exist() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let metadata = MetadataCommand::new()
        .manifest_path(manifest)
        .no_deps()
        .exec()
        .expect("cargo metadata runs in the workspace");
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in &metadata.packages {
        let from = package.name.strip_prefix(PREFIX).expect("every package has the prefix");
        let uses = package.dependencies.iter().filter_map(|d| d.name.strip_prefix(PREFIX));
        found.insert(from.to_owned(), uses.map(str::to_owned).collect());
    }
    let known: BTreeSet<String> = EDGES.iter().map(|(name, _)| (*name).to_owned()).collect();
    let there: BTreeSet<String> = found.keys().cloned().collect();
    assert_eq!(there, known, "a package was added or removed: the design's table comes first");
    assert_eq!(strangers(&found), Vec::<String>::new());
}

#[test]
fn a_stranger_is_noticed() {
    let edge =
        |from: &str, to: &str| BTreeMap::from([(from.to_owned(), BTreeSet::from([to.to_owned()]))]);
    assert_eq!(strangers(&edge("log", "net")), ["log -> net"]);
    assert_eq!(strangers(&edge("core", "log")), ["core -> log"]);
    assert!(strangers(&edge("node", "log")).is_empty());
}
