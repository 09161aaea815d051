//! A cluster of real processes: it forms, loses its leader, restarts, and keeps strangers out.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{NodeProcess, PATIENCE, SMALL, address_of_its_own, data_dir, under_every_runtime};

under_every_runtime! {
    three_nodes_form_lose_their_leader_and_restart,
}

/// Pause between two looks at a condition.
const LOOK: Duration = Duration::from_millis(20);

/// A node that can be started again where it was.
struct Place {
    _tmp: tempfile::TempDir,
    dir: PathBuf,
    name: String,
    /// Where it listens for nodes; the port is known after the first start.
    peers: String,
}

impl Place {
    fn new(name: &str) -> Place {
        let (tmp, dir) = data_dir();
        Place { _tmp: tmp, dir, name: name.to_owned(), peers: address_of_its_own() }
    }

    /// Starts it with these flags besides.
    fn start(&mut self, more: &[&str]) -> NodeProcess {
        let node = NodeProcess::start(&self.dir, &self.args(more));
        self.peers = node.peers.to_string();
        node
    }

    /// Starts it when it must end by itself; what it said.
    fn refused(&self, more: &[&str]) -> String {
        let (status, said) = NodeProcess::run(&self.dir, &self.args(more));
        assert_eq!(status, 1, "{said}");
        said
    }

    fn args<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let mine = ["--shards", "1", "--node", &self.name, "--peers", &self.peers];
        [SMALL, &mine, more].concat()
    }
}

/// What `ironring cluster` prints for a node, as JSON; `None` when it fails.
fn cluster(node: &NodeProcess, args: &[&str]) -> Option<Value> {
    let http = node.http.to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_ironring"))
        .arg("cluster")
        .args(args)
        .args(["--http", &http, "-o", "json"])
        .output()
        .expect("the program is there");
    serde_json::from_slice(&output.stdout).ok()
}

/// The same for `ironring topic`, over the client's protocol.
fn topics(node: &NodeProcess, args: &[&str]) -> Option<Value> {
    client(node, "topic", args)
}

/// The same for `ironring kv`.
fn keys(node: &NodeProcess, args: &[&str]) -> Option<Value> {
    client(node, "kv", args)
}

fn client(node: &NodeProcess, command: &str, args: &[&str]) -> Option<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_ironring"))
        .arg(command)
        .args(args)
        .args(["--addr", &node.clients.to_string(), "-o", "json"])
        .output()
        .expect("the program is there");
    serde_json::from_slice(&output.stdout).ok()
}

/// Looks until `wanted` gives something; `what` is wanted.
fn until<T>(what: &str, mut wanted: impl FnMut() -> Option<T>) -> T {
    let by = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = wanted() {
            return found;
        }
        assert!(Instant::now() < by, "never: {what}");
        std::thread::sleep(LOOK);
    }
}

/// A secret that lets a node in.
fn token(node: &NodeProcess, args: &[&str]) -> String {
    let made = until("a token is made", || cluster(node, &[&["token", "create"], args].concat()));
    made["token"].as_str().expect("its secret is shown").to_owned()
}

/// The leader, when this node knows one and so many voters.
fn leader(node: &NodeProcess, voters: usize) -> Option<u64> {
    let status = cluster(node, &["status"])?;
    let group = &status["metadata"];
    let all = group["voters"].as_array()?.len() == voters;
    all.then(|| group["leader"].as_u64()).flatten()
}

/// The leader all of them agree on.
fn agreed(nodes: &[&NodeProcess], voters: usize, not: Option<u64>) -> u64 {
    until("all agree on a leader", || {
        let leaders: Vec<u64> = nodes.iter().filter_map(|node| leader(node, voters)).collect();
        let first = *leaders.first()?;
        let same = leaders.len() == nodes.len() && leaders.iter().all(|leader| *leader == first);
        (same && not != Some(first)).then_some(first)
    })
}

fn three_nodes_form_lose_their_leader_and_restart() {
    let mut places = ["a", "b", "c"].map(Place::new);
    let a = places[0].start(&["--cluster", "trio", "--set", "cluster.partitions=16"]);
    let secret = token(&a, &[]);
    let joins = |seed: &NodeProcess| {
        ["--cluster", "trio", "--token", &secret, "--seeds"]
            .map(str::to_owned)
            .into_iter()
            .chain([seed.peers.to_string()])
            .collect::<Vec<String>>()
    };
    let flags = joins(&a);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let b = places[1].start(&flags);
    // A member that does not lead sends the request on.
    let flags = joins(&b);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let c = places[2].start(&flags);
    let mut nodes = vec![Some(a), Some(b), Some(c)];

    let all: Vec<&NodeProcess> = nodes.iter().flatten().collect();
    let first = agreed(&all, 3, None);
    let members = cluster(all[2], &["members"]).expect("it answers");
    let names: Vec<&str> = members
        .as_array()
        .expect("it is a list")
        .iter()
        .filter_map(|m| m["name"].as_str())
        .collect();
    assert_eq!(names, ["a", "b", "c"]);

    // Every partition gets a replica everywhere, and everybody leads some.
    until("everything is replicated and led by all", || {
        let status = cluster(all[0], &["status"])?;
        let settled = status["healthy"] == true && status["partitions"]["under_replicated"] == 0;
        let members = status["members"].as_array()?;
        let lead = members.iter().all(|member| member["leads"].as_u64() > Some(0));
        (settled && lead).then_some(())
    });

    // A write that every replica is to have is acknowledged, also when nothing comes after it.
    for node in &all {
        let put = ["put", "k", "v", "--durability", "all", "--timeout", "10s"];
        keys(node, &put).expect("every replica has it");
    }

    // A topic that was made anywhere is everywhere.
    topics(all[2], &["create", "orders", "--partitions", "2"]).expect("it is made");
    for node in &all {
        until("the topic is known", || {
            topics(node, &["list"])?.to_string().contains("orders").then_some(())
        });
    }

    // Ids are given in the order of joining.
    let lost = usize::try_from(first - 1).expect("ids are small");
    nodes[lost].take().expect("it runs").kill();
    let left: Vec<&NodeProcess> = nodes.iter().flatten().collect();
    let second = agreed(&left, 3, Some(first));
    until("the others lead what it led", || {
        let status = cluster(left[0], &["status"])?;
        let gone = status["members"].as_array()?.get(lost)?["leads"] == 0;
        (gone && status["partitions"]["leaderless"] == 0).then_some(())
    });
    // Whoever is asked, a change is made.
    for node in &left {
        token(node, &["--single-use"]);
    }

    nodes[lost] = Some(places[lost].start(&[]));
    let all: Vec<&NodeProcess> = nodes.iter().flatten().collect();
    agreed(&all, 3, None);
    assert_ne!(first, second);

    for node in nodes.drain(..).flatten() {
        node.kill();
    }
    let nodes: Vec<NodeProcess> = places.iter_mut().map(|place| place.start(&[])).collect();
    let all: Vec<&NodeProcess> = nodes.iter().collect();
    agreed(&all, 3, None);
    let tokens = until("the tokens are there again", || {
        let tokens = cluster(all[0], &["token", "list"])?;
        (tokens.as_array()?.len() == 3).then_some(tokens)
    });
    assert!(tokens.to_string().find(&secret).is_none(), "secrets are not kept");
    until("the topic is there again", || {
        topics(all[1], &["list"])?.to_string().contains("orders").then_some(())
    });
    for node in nodes {
        let (status, said) = node.stop();
        assert_eq!(status, 0, "{said}");
    }
}

#[test]
fn a_node_that_may_not_join_is_told_why() {
    let a = Place::new("a").start_alone("mine");
    let (place, a) = a;
    let seed = a.peers.to_string();
    let stranger = Place::new("b");
    let with = |cluster: &str, token: &str| {
        stranger.refused(&["--cluster", cluster, "--seeds", &seed, "--token", token])
    };
    let said = with("other", "x");
    assert!(said.contains("this node is of cluster `mine`, node b of `other`"), "{said}");
    let said = stranger.refused(&["--cluster", "mine", "--seeds", &seed]);
    assert!(said.contains("is not a member and has no token to join"), "{said}");
    let said = with("mine", "ir1-nonsense");
    assert!(said.contains("the join token is not known to this cluster"), "{said}");

    let secret = token(&a, &[]);
    let id = cluster(&a, &["token", "list"]).unwrap()[0]["id"].as_str().unwrap().to_owned();
    cluster(&a, &["token", "revoke", &id]).expect("it is revoked");
    let said = with("mine", &secret);
    assert!(said.contains("the join token is not known to this cluster"), "{said}");

    let secret = token(&a, &["--valid", "1s"]);
    until("the token has expired", || {
        let tokens = cluster(&a, &["token", "list"])?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
        let expires = u128::from(tokens[0]["expires_unix_ms"].as_u64()?);
        (expires + 100 < now.as_millis()).then_some(())
    });
    let said = with("mine", &secret);
    assert!(said.contains("the join token has expired"), "{said}");

    // A name belongs to one data directory.
    let secret = token(&a, &["--single-use"]);
    let twin = Place::new("a");
    let join = ["--cluster", "mine", "--seeds", &seed, "--token", &secret];
    let said = twin.refused(&join);
    assert!(said.contains("node 1 has the name `a` with another storage"), "{said}");

    // One use is one node, and the same node may ask again.
    let mut second = Place::new("b");
    second.start(&join).kill();
    second.start(&[]).kill();
    let said = Place::new("c").refused(&join);
    assert!(said.contains("the join token was for one node and has been used"), "{said}");
    drop((place, a));
}

impl Place {
    /// A cluster of one.
    fn start_alone(mut self, cluster: &str) -> (Place, NodeProcess) {
        let node = self.start(&["--cluster", cluster]);
        (self, node)
    }
}

#[test]
fn a_directory_keeps_its_place_in_its_cluster() {
    let (place, node) = Place::new("a").start_alone("mine");
    agreed(&[&node], 1, None);
    node.kill();
    let said = place.refused(&["--cluster", "other"]);
    assert!(said.contains("belongs to cluster `mine`, not `other`"), "{said}");
    remove_meta(&place.dir);
    let said = place.refused(&[]);
    assert!(said.contains("the metadata group's log"), "{said}");
}

fn remove_meta(dir: &Path) {
    std::fs::remove_dir_all(dir.join("meta")).expect("it is there");
}

/// Three nodes that replicate everything, each with one shard, and keys whose values fill segments.
fn three_with_values(places: &mut [Place; 3], keys: &[String]) -> Vec<NodeProcess> {
    let a = places[0].start(&["--cluster", "trio", "--set", "cluster.partitions=16"]);
    let secret = token(&a, &[]);
    let seed = a.peers.to_string();
    let join = ["--cluster", "trio", "--token", &secret, "--seeds", &seed];
    let b = places[1].start(&join);
    let c = places[2].start(&join);
    let nodes = vec![a, b, c];
    until_whole(&nodes[0]);
    for key in keys {
        put(&nodes[0], key);
    }
    nodes
}

fn until_whole(node: &NodeProcess) {
    until("everything is replicated", || {
        let status = cluster(node, &["status"])?;
        let alive = status["members"].as_array()?.iter().all(|member| member["status"] == "alive");
        let settled = status["healthy"] == true && status["partitions"]["under_replicated"] == 0;
        (alive && settled).then_some(())
    });
}

fn value_of(key: &str) -> Vec<u8> {
    format!("value of {key} ").into_bytes().into_iter().cycle().take(60_000).collect()
}

fn put(node: &NodeProcess, key: &str) {
    let value = value_of(key);
    until("the value is taken", || node.client().put(key.as_bytes(), &value).ok());
}

/// Every key has its value, whoever leads its partition.
fn verify(node: &NodeProcess, keys: &[String]) {
    for key in keys {
        let found = until("the key can be read", || node.client().get(key.as_bytes()).ok());
        assert!(found.is_some_and(|found| found.value == value_of(key)), "{key}");
    }
}

/// The segment of a data directory with these bytes, and where in it they are.
fn find_in_segments(dir: &Path, bytes: &[u8]) -> Option<(PathBuf, usize)> {
    let files = std::fs::read_dir(dir.join("shard-000")).expect("it is there");
    let mut files: Vec<PathBuf> = files.map(|entry| entry.expect("it is there").path()).collect();
    files.sort();
    let segments = files.into_iter().filter(|file| file.to_string_lossy().contains("segment-"));
    segments.into_iter().find_map(|file| {
        let held = std::fs::read(&file).expect("it is there");
        let at = held.windows(bytes.len()).position(|window| window == bytes)?;
        Some((file, at))
    })
}

fn flip_bit(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).expect("it is there");
    bytes[at] ^= 4;
    std::fs::write(file, bytes).expect("it can be written");
}

#[test]
fn a_log_that_is_lost_is_rebuilt_from_the_other_replicas() {
    let keys: Vec<String> = (0..60).map(|n| format!("key-{n:03}")).collect();
    let mut places = ["a", "b", "c"].map(Place::new);
    let mut nodes = three_with_values(&mut places, &keys);
    let shard = places[2].dir.join("shard-000");
    for damage in ["a flipped bit", "a lost segment", "a lost directory"] {
        // Killed, it has to replay what it wrote last.
        put(&nodes[0], "last");
        nodes.pop().expect("it runs").kill();
        match damage {
            "a flipped bit" => {
                let needle = format!("value of {} ", keys[59]);
                let (file, at) =
                    find_in_segments(&places[2].dir, needle.as_bytes()).expect("it has it");
                flip_bit(&file, at);
            }
            "a lost segment" => {
                let needle = format!("value of {} ", keys[59]);
                let (file, _) =
                    find_in_segments(&places[2].dir, needle.as_bytes()).expect("it has it");
                std::fs::remove_file(file).expect("it is there");
            }
            _ => {
                std::fs::remove_dir_all(&shard).expect("it is there");
                std::fs::create_dir(&shard).expect("it is gone");
            }
        }
        let c = places[2].start(&[]);
        c.until_metric("ironring_repair_logs_total", |n| n >= 1.0);
        until_whole(&nodes[0]);
        assert!(c.metric("ironring_repair_logs_lost_total") >= 1.0, "{damage}");
        until("the lost log's files are deleted", || {
            (!places[2].dir.join("shard-000.damaged").exists()).then_some(())
        });
        // What it has is as good as before: the others are not needed all the time.
        verify(&c, &keys);
        nodes.push(c);
    }
    nodes.remove(0).kill();
    verify(&nodes[1], &keys);
}

#[test]
fn records_that_cannot_be_read_are_repaired_while_the_node_serves() {
    let keys: Vec<String> = (0..120).map(|n| format!("key-{n:03}")).collect();
    let mut places = ["a", "b", "c"].map(Place::new);
    let mut nodes = three_with_values(&mut places, &keys);
    // The checkpoint of the stop lies behind all of it: nothing is noticed at the start.
    assert_eq!(nodes.pop().expect("it runs").stop().0, 0);
    let mut flipped = 0;
    for key in &keys[..30] {
        let needle = format!("value of {key} ");
        let (file, at) = find_in_segments(&places[2].dir, needle.as_bytes()).expect("it has it");
        if file.ends_with("segment-00000000.log") {
            flip_bit(&file, at);
            flipped += 1;
        }
    }
    assert!(flipped > 0, "the first segment holds the first keys");
    let c = places[2].start(&[]);
    until_whole(&nodes[0]);
    until("it leads again, and reads what is damaged", || {
        verify(&nodes[0], &keys);
        (c.metric("ironring_repair_records_total") > 0.0).then_some(())
    });
    c.until_metric("ironring_repair_partitions_damaged", |n| n == 0.0);
    assert!(c.metric("ironring_repair_records_lost_total") > 0.0);
    verify(&c, &keys);
}
