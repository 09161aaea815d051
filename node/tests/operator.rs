//! An operator's day with the real binary: load, read, watch, stop, look into the files.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json as value};
use support::cluster::{Place, agreed, cluster, token, until};
use support::{NodeProcess, SMALL, data_dir};

fn ironring(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ironring")).args(args).output().expect("the binary runs")
}

/// Runs a command that must succeed, and gives its JSON.
#[track_caller]
fn json(args: &[&str]) -> Value {
    let output = ironring(&[args, &["-o", "json"]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
    serde_json::from_slice(&output.stdout).expect("the output is JSON")
}

/// Runs a command that must fail with this status, and gives its error.
#[track_caller]
fn failure(args: &[&str], exit: i32) -> Value {
    let output = ironring(&[args, &["-o", "json"]].concat());
    assert_eq!(output.status.code(), Some(exit), "{args:?}");
    serde_json::from_slice(&output.stderr).expect("the error is JSON")
}

fn get(node: &NodeProcess, path: &str) -> String {
    let mut stream = TcpStream::connect(node.http).expect("the HTTP thread listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
        .expect("the request is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the answer is text");
    answer
}

fn start(dir: &Path) -> (NodeProcess, String) {
    let node = NodeProcess::start(dir, &[SMALL, &["--shards", "2"]].concat());
    let address = node.clients.to_string();
    (node, address)
}

#[test]
fn keys_are_loaded_from_a_file_and_read_back_after_a_kill() {
    let (tmp, dir) = data_dir();
    let (node, address) = start(&dir);
    let addr = ["--addr", address.as_str()];
    let with = |args: &[&'static str]| [args, &addr].concat();

    let file = tmp.path().join("keys");
    let lines: String = (0..5000).map(|n| format!("key-{n}\tvalue {n}\n")).collect();
    std::fs::write(&file, lines).expect("the file is written");
    let file = file.to_str().expect("the path is UTF-8");
    let loaded = json(&[&["kv", "load", file], &addr[..]].concat());
    assert_eq!((&loaded["read"], &loaded["acked"]), (&5000.into(), &5000.into()));
    assert_eq!(loaded["unknown"], 0);

    let found = json(&with(&["kv", "get", "key-4711"]));
    assert_eq!(found["value"], "value 4711");
    let missing = failure(&with(&["kv", "get", "key-5000"]), 1);
    assert_eq!((&missing["code"], &missing["retriable"]), (&"not_found".into(), &false.into()));
    let page = json(&with(&["kv", "scan", "key-47", "--limit", "0"]));
    assert_eq!(page["entries"].as_array().map(Vec::len), Some(111));
    assert_eq!(page["more"], false);

    let put = json(&with(&["kv", "put", "key-1", "again"]));
    let version = put["version"].to_string();
    let stale = failure(&[&["kv", "cas", "key-1", "0", "x"], &addr[..]].concat(), 1);
    assert_eq!(stale["code"], "condition_failed");
    assert!(stale["message"].as_str().is_some_and(|text| text.ends_with(&version)), "{stale}");
    json(&[&["kv", "cas", "key-1", &version, "swapped"], &addr[..]].concat());
    json(&with(&["kv", "delete", "key-2"]));
    node.kill();

    let (node, address) = start(&dir);
    let both = json(&["kv", "multi-get", "key-1", "key-2", "--addr", &address]);
    assert_eq!((&both[0]["value"], &both[1]["found"]), (&"swapped".into(), &false.into()));
    assert!(node.client().ping().is_ok());
    assert_eq!(node.stop().0, 0);
}

#[test]
fn a_topic_is_filled_from_a_file_read_trimmed_and_dropped() {
    let (tmp, dir) = data_dir();
    let (node, address) = start(&dir);
    let with = |args: &[&'static str]| [args, &["--addr", address.as_str()]].concat();
    json(&with(&["topic", "create", "events", "--partitions", "3", "--keep-time", "7d"]));
    let file = tmp.path().join("events");
    let lines: String = (0..6000).map(|n| format!("event {n}\n")).collect();
    std::fs::write(&file, lines).expect("the file is written");
    let file = file.to_str().expect("the path is UTF-8");
    let args = ["topic", "append", "events", "--from-file", file, "--addr", &address];
    assert_eq!(json(&args)["acked"], 6000);

    let offsets = json(&with(&["topic", "offsets", "events"]));
    let ends = offsets.as_array().expect("a list").iter().map(|row| row["end"].as_u64());
    assert_eq!(ends.map(Option::unwrap_or_default).sum::<u64>(), 6000);
    let raw = ironring(&with(&["topic", "read", "events", "--limit", "0", "--raw"]));
    let text = String::from_utf8(raw.stdout).expect("the values are text");
    assert!(text.starts_with("event 0\nevent 1\n"), "{}", &text[..40]);
    assert_eq!(Some(text.lines().count() as u64), offsets[0]["end"].as_u64());

    json(&with(&["topic", "trim", "events", "--partition", "0", "--before", "100", "--yes"]));
    let gone = failure(&with(&["topic", "read", "events", "--from", "5"]), 1);
    assert_eq!(gone["code"], "offset_out_of_range");
    let rest = json(&with(&["topic", "read", "events", "--limit", "2"]));
    assert_eq!(
        (&rest["records"][0]["offset"], &rest["records"][0]["value"]),
        (&100.into(), &"event 100".into())
    );

    json(&with(&["topic", "delete", "events", "--yes"]));
    assert_eq!(json(&with(&["topic", "list"])), serde_json::json!([]));
    assert_eq!(node.stop().0, 0);
}

#[test]
fn a_running_node_is_watched_and_a_stopped_one_is_inspected() {
    let (_tmp, dir) = data_dir();
    let (node, address) = start(&dir);
    for key in ["a", "b", "c"] {
        json(&["kv", "put", key, "v", "--addr", &address]);
    }
    let stats = json(&["stats", "--addr", &address]);
    let shards = stats.as_array().expect("a list");
    let numbers: Vec<&Value> = shards.iter().map(|shard| &shard["shard"]).collect();
    assert_eq!(numbers, [&value!(0), &value!(1)], "in order");
    let puts: u64 = shards.iter().filter_map(|s| s["clients"]["requests"]["Put"].as_u64()).sum();
    // A shard that was not ready yet was asked again, and both requests count.
    assert!(puts >= 3, "{stats:#}");
    let answers = std::iter::repeat_with(|| get(&node, "/health/ready"));
    // Shards publish once a second: at first the node may say that it only starts.
    let answer = answers.take(600).inspect(|_| std::thread::sleep(Duration::from_millis(100)));
    assert!(answer.into_iter().any(|answer| answer.starts_with("HTTP/1.1 200")));
    assert!(get(&node, "/metrics").contains("ironring_shard_state{shard=\"1\",state=\"ready\"} 1"));

    let superblock = dir.join("shard-000/superblock");
    let superblock = superblock.to_str().expect("the path is UTF-8");
    let refused = failure(&["inspect", "superblock", superblock], 1);
    assert_eq!(refused["code"], "node_running");
    json(&["inspect", "superblock", superblock, "--running"]);
    assert_eq!(node.stop().0, 0);

    let mut records = 0;
    for entry in std::fs::read_dir(dir.join("shard-000")).expect("the shard has files") {
        let path = entry.expect("it can be read").path();
        let path = path.to_str().expect("the path is UTF-8");
        let name = path.rsplit('/').next().unwrap_or_default();
        if name == "superblock" {
            assert_eq!(json(&["inspect", "superblock", path])["chosen"]["shard"], 0);
        } else if name.ends_with(".ckp") {
            assert_eq!(json(&["inspect", "index", path])["damage"], Value::Null);
        } else if let Ok(found) = inspect_segment(path) {
            assert_eq!(found["damages"], 0, "{name}");
            records += found["records"].as_u64().unwrap_or_default();
        }
    }
    assert!(records > 0, "the log holds what was written");

    let copy = dir.join("copy.log");
    let segment = dir.join("shard-000/segment-00000000.log");
    let mut bytes = std::fs::read(segment).expect("the first segment is there");
    let last = bytes.windows(1).rposition(|byte| byte != [0]).expect("it holds something");
    bytes[last] ^= 1;
    std::fs::write(&copy, bytes).expect("the copy is written");
    let output = ironring(&["inspect", "segment", copy.to_str().expect("UTF-8"), "-o", "json"]);
    assert_eq!(output.status.code(), Some(10));
    let found: Value = serde_json::from_slice(&output.stdout).expect("the output is JSON");
    assert_eq!(found["damages"], 1);
}

#[test]
fn every_shard_of_a_cluster_is_counted_once_and_a_silent_one_is_named() {
    let mut places = ["a", "b", "c"].map(Place::new);
    let [a, b, c] = &mut places;
    let a = a.start(&["--cluster", "trio", "--set", "cluster.partitions=16"]);
    let (secret, seed) = (token(&a, &[]), a.peers.to_string());
    let joins = ["--cluster", "trio", "--token", &secret, "--seeds", &seed];
    let (b, c) = (b.start(&joins), c.start(&joins));
    agreed(&[&a, &b, &c], 3, None);
    until("every node leads something", || {
        let status = cluster(&a, &["status"])?;
        let leads = |member: &Value| member["leads"].as_u64() > Some(0);
        let rests = status["healthy"] == true && status["partitions"]["moves"] == 0;
        (rests && status["members"].as_array()?.iter().all(leads)).then_some(())
    });

    let address = a.clients.to_string();
    let args = ["stats", "--addr", &address, "-o", "json"];
    let asked = || -> (Option<i32>, Vec<Value>, Vec<u8>) {
        let output = ironring(&args);
        let rows = serde_json::from_slice(&output.stdout).expect("the output is a list");
        (output.status.code(), rows, output.stderr)
    };
    let names = |rows: &[Value]| rows.iter().map(|row| row["node"].clone()).collect::<Vec<_>>();
    // A map may be a moment older than the status.
    let rows = until("every shard is counted once", || {
        let (status, rows, _) = asked();
        assert_eq!(status, Some(0));
        assert!(rows.len() <= 3, "three shards, however their partitions lie: {rows:?}");
        (rows.len() == 3).then_some(rows)
    });
    assert_eq!(names(&rows), ["a", "b", "c"]);
    assert!(rows.iter().all(|row| row["shard"] == 0 && row.get("error").is_none()));

    // A node that gives everything away leads nothing, and is counted where members are asked for.
    let http = a.http.to_string();
    json(&["node", "drain", "c", "--wait", "--force", "--http", &http]);
    let all = json(&["stats", "--addr", &address, "--http", &http]);
    assert_eq!(names(all.as_array().expect("a list")), ["a", "b", "c"]);
    json(&["node", "resume", "c", "--http", &http]);
    let rows = until("it leads again", || Some(asked().1).filter(|rows| rows.len() == 3));

    // Without a majority the metadata stay as they are, and so does the map. Both go at once: what is
    // left of three would have time to change them.
    let silent = [&rows[1]["address"], &rows[2]["address"]];
    for node in [&b, &c] {
        nix::sys::signal::kill(node.pid(), nix::sys::signal::Signal::SIGKILL).expect("it runs");
    }
    b.kill();
    c.kill();
    let (status, rows, said) = asked();
    assert_eq!(status, Some(10));
    assert_eq!(names(&rows), [value!("a"), Value::Null, Value::Null]);
    for row in &rows[1..] {
        assert!(silent.contains(&&row["address"]), "{row}");
        assert_eq!((&row["shard"], &row["error"]["code"]), (&0.into(), &"connect_failed".into()));
    }
    let said: Value = serde_json::from_slice(&said).expect("the error is JSON");
    assert_eq!(said["faults"].as_array().map(Vec::len), Some(2), "{said}");
}

#[test]
fn what_is_said_of_a_token_lets_a_node_of_another_host_in() {
    let (_place, node) = Place::new("a").start_alone("trio");
    let http = node.http.to_string();
    let create = ["cluster", "token", "create", "--http", &http];
    let output = until("a token is made", || {
        Some(ironring(&create)).filter(|output| output.status.success())
    });
    let said = String::from_utf8(output.stdout).expect("it is text");
    let line = said.lines().find(|line| line.contains("ironring start")).expect("it says how");
    for flag in ["--cluster trio", "--data-dir", "--peers", "--listen", "--seeds", "--token"] {
        assert!(line.contains(flag), "{line}");
    }
    let made = json(&create);
    assert!(made["cluster"] == "trio" && made["token"].is_string(), "{made}");
}

#[test]
fn a_dry_run_says_what_a_start_makes_of_the_directory() {
    let mut place = Place::new("a");
    let path = place.dir.clone();
    let dir = path.to_str().expect("the path is UTF-8");
    let dry = ["start", "--dry-run", "--data-dir", dir];
    let plan = |more: &[&str]| json(&[&dry[..], more].concat());

    let new = plan(&["--node", "b", "--peers", "127.0.0.1:7002"]);
    assert_eq!((&new["will"], &new["node"]), (&"found".into(), &"b".into()));
    assert_eq!(new["peers"], "127.0.0.1:7002");
    let joins = plan(&["--seeds", "127.0.0.1:7001", "--token", "t"]);
    assert_eq!(
        (&joins["will"], &joins["seeds"], &joins["partitions"]),
        (&"join".into(), &value!(["127.0.0.1:7001"]), &Value::Null)
    );
    assert!(!path.exists(), "nothing is made");

    let node = place.start(&["--cluster", "trio", "--set", "cluster.partitions=16"]);
    let run = || std::fs::read(path.join("run")).expect("it counts its runs");
    let runs = run();
    let member = plan(&[]);
    assert_eq!((&member["will"], &member["id"]), (&"resume".into(), &1.into()));
    assert_eq!((&member["node"], &member["cluster"]), (&"a".into(), &"trio".into()));
    assert_eq!(member["partitions"], 16);
    assert_eq!(member["cpus"].as_array().map(Vec::len), Some(1), "one shard: {member}");
    assert_eq!(run(), runs, "it is no run");
    assert_eq!(node.stop().0, 0);

    // What a start refuses is refused, in its words and with its status.
    let refused = |more: &[&str]| {
        let output = ironring(&[&dry[..], more, &["-o", "json"]].concat());
        let error: Value = serde_json::from_slice(&output.stderr).expect("the error is JSON");
        let message = error["message"].as_str().expect("it says why").to_owned();
        (output.status.code(), message)
    };
    for flags in [["--shards", "2"], ["--node", "b"], ["--cluster", "other"]] {
        let (status, why) = refused(&flags);
        let (started, said) = NodeProcess::run(&path, &flags);
        assert_eq!(status, Some(started), "{why}: {said}");
        // The start names the directory by its whole path.
        let same = why.split_once("/data ").is_some_and(|(_, why)| said.contains(why));
        assert!(same, "{why}: {said}");
    }

    let emptied = ["node", "reinit", "--data-dir", dir, "--seeds", "127.0.0.1:7001", "--yes"];
    json(&emptied);
    let again = plan(&[]);
    assert_eq!((&again["will"], &again["node"]), (&"join".into(), &"a".into()));
    assert_eq!(again["seeds"], value!(["127.0.0.1:7001"]));

    std::fs::write(path.join("node.toml"), "nonsense").expect("it is written");
    let (_, why) = refused(&[]);
    assert!(why.contains("node.toml does not parse"), "{why}");
    assert_eq!(std::fs::read(path.join("node.toml")).expect("it is there"), b"nonsense");
}

/// A segment, or the refusal of a file that never had a header.
fn inspect_segment(path: &str) -> Result<Value, Value> {
    let output = ironring(&["inspect", "segment", path, "--records", "-o", "json"]);
    match output.status.code() {
        Some(0) => Ok(serde_json::from_slice(&output.stdout).expect("the output is JSON")),
        _ => Err(serde_json::from_slice(&output.stderr).expect("the error is JSON")),
    }
}
