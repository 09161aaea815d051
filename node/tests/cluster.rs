//! A cluster of real processes: it forms, loses its leader, restarts, and keeps strangers out.

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use ironring_core::ErrorCode;
use ironring_net::client::ClientConfig;
use ironring_net::client::blocking::Client;
use support::cluster::{Place, agreed, cluster, keys, token, topics, until};
use support::{NodeProcess, data_dir, under_every_runtime};

under_every_runtime! {
    three_nodes_form_lose_their_leader_and_restart,
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

    // A minority says what it knows and how old that is, and takes nothing.
    let also = usize::try_from(second - 1).expect("ids are small");
    nodes[also].take().expect("it runs").kill();
    let alone = nodes.iter().flatten().next().expect("one is left");
    let found = keys(alone, &["get", "k", "--stale"]).expect("it has a replica");
    assert_eq!((found["found"].as_bool(), found["value"].as_str()), (Some(true), Some("v")));
    assert!(found["age_ms"].as_u64().is_some(), "{found}");
    let refused = until("it refuses", || {
        let config = ClientConfig { deadline: Duration::from_secs(3), ..alone.config() };
        let mut client = Client::connect(config).ok()?;
        let error = client.put(b"k", b"w").expect_err("there is no majority");
        error.code().filter(|code| *code != ErrorCode::Unknown)
    });
    assert!(matches!(refused, ErrorCode::NotLeader | ErrorCode::TooFewReplicas), "{refused:?}");
    nodes[also] = Some(places[also].start(&[]));
    let alone = nodes.iter().flatten().next().expect("one was left");
    until("writes are taken again", || keys(alone, &["put", "k", "w"]));

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
    // Who is left without a quorum says so, whatever it knew last.
    let mut nodes = nodes;
    let last = nodes.pop().expect("there are three");
    for node in nodes {
        let (status, said) = node.stop();
        assert_eq!(status, 0, "{said}");
    }
    until("it knows that nobody leads", || {
        let status = cluster(&last, &["status"])?;
        let group = &status["metadata"];
        let leaderless = group["leader"].is_null() || group["role"] == "leader-without-quorum";
        (leaderless && status["healthy"] == false).then_some(())
    });
    let (status, said) = last.stop();
    assert_eq!(status, 0, "{said}");
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

    // Nobody elsewhere finds a node that says it is on their own machine. An address for documentation.
    let said =
        stranger.refused(&["--cluster", "mine", "--seeds", "192.0.2.1:7412", "--token", "ir1-x"]);
    assert!(said.contains("find it at 127.") && said.contains("set listen.peers"), "{said}");

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

#[test]
fn a_directory_keeps_its_place_in_its_cluster() {
    let (place, node) = Place::new("a").start_alone("mine");
    agreed(&[&node], 1, None);
    node.kill();
    let said = place.refused(&["--cluster", "other"]);
    assert!(said.contains("belongs to cluster `mine`, not `other`"), "{said}");
    // Seeds that were forgotten at first are of no use any more, and that is said.
    let said = place.refused(&["--seeds", "127.0.0.1:1"]);
    assert!(said.contains("founded cluster `mine`") && said.contains("by itself"), "{said}");
    remove_meta(&place.dir);
    let said = place.refused(&[]);
    assert!(said.contains("the metadata group's log"), "{said}");
}

#[test]
fn an_old_copy_of_a_directory_is_not_let_in() {
    let (_first, a) = Place::new("a").start_alone("mine");
    let secret = token(&a, &[]);
    let seed = a.peers.to_string();
    let mut second = Place::new("b");
    let runs = |run: u64| {
        until("the run is known", || {
            let members = cluster(&a, &["members"])?;
            (members.as_array()?.get(1)?["incarnation"] == run).then_some(())
        });
    };
    let b = second.start(&["--cluster", "mine", "--seeds", &seed, "--token", &secret]);
    runs(1);
    until("the directory notes that its mark is known", || {
        let run = std::fs::read_to_string(second.dir.join("run")).ok()?;
        let mut marks = run.lines().skip(1).filter_map(|line| line.split(' ').nth(1));
        (marks.next() == marks.next()).then_some(())
    });
    b.kill();
    let (_tmp, backup) = data_dir();
    copy(&second.dir, &backup);
    let b = second.start(&[]);
    runs(2);
    b.kill();
    std::fs::remove_dir_all(&second.dir).expect("it is there");
    copy(&backup, &second.dir);
    // It has run twice, like the one that is known.
    let said = second.refused(&[]);
    assert!(said.contains("the cluster refuses this node: this is run 2 of node 2"), "{said}");
    // Nor does it become another by being started more often.
    let said = second.refused(&[]);
    assert!(said.contains("the cluster refuses this node: this is run 2 of node 2"), "{said}");
}

/// Copies a directory with everything in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("there is room");
    for entry in std::fs::read_dir(from).expect("it is there").flatten() {
        let to = to.join(entry.file_name());
        match entry.file_type().expect("it is there").is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).expect("there is room")),
        }
    }
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

/// A node that observes has everything, tells of it what may be old, and decides nothing.
#[test]
fn an_observer_follows_and_never_votes() {
    let mut places = ["a", "b"].map(Place::new);
    let role = ["--set", "node.role=observer"];
    let flags = ["--cluster", "pair", "--set", "cluster.partitions=16"];
    let a = places[0].start(&flags);
    let secret = token(&a, &[]);
    let seeds = a.peers.to_string();
    let joins = ["--cluster", "pair", "--token", &secret, "--seeds", &seeds];
    let b = places[1].start(&[&joins[..], &role].concat());
    put(&a, "k");
    let status = until("the observer has a copy of everything", || {
        let status = cluster(&b, &["status"])?;
        (status["members"][1]["replicas"] == 16).then_some(status)
    });
    let observer = &status["members"][1];
    assert_eq!(
        (&observer["role"], &observer["leads"]),
        (&"observer".into(), &0.into()),
        "{status}"
    );
    assert_eq!(status["healthy"], true, "{status}");
    assert_eq!(status["metadata"]["voters"].as_array().map(Vec::len), Some(1), "{status}");
    until("it has what was written", || {
        let found = keys(&b, &["get", "k", "--stale"])?;
        (found["found"] == true && found["age_ms"].as_u64().is_some()).then_some(())
    });
    let refused = support::cluster::ironring(&a, &["cluster", "promote", "b"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("never votes"), "{said}");
    // Nobody waits for it below level `all`.
    b.kill();
    put(&a, "l");
    // It starts as a node like the others, and takes part.
    let b = places[1].start(&[]);
    until("it votes for partitions", || {
        let status = cluster(&b, &["status"])?;
        let whole = status["healthy"] == true && status["partitions"]["under_replicated"] == 0;
        let lead = status["members"].as_array()?.iter().all(|m| m["leads"].as_u64() > Some(0));
        (whole && lead && status["members"][1]["role"] != "observer").then_some(())
    });
}
