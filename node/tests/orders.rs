//! What operators order of a cluster of real processes: nodes drain, leave and are given up, votes and
//! leaderships change hands, and what would break the cluster is refused.

#[path = "support/ledger.rs"]
mod ledger;
mod support;

use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ironring_net::client::ClientConfig;
use ironring_net::client::blocking::Client;
use ironring_net::message::Retention;
use ledger::{TOPIC, Told, Writer};

use serde_json::Value;
use support::cluster::{Place, agreed, cluster, ironring, keys, token, until};
use support::{NodeProcess, under_every_runtime};

under_every_runtime! {
    four_nodes_drain_hand_over_and_leave,
}

/// Nodes of one cluster, and where they are.
struct Nodes {
    places: Vec<Place>,
    nodes: Vec<NodeProcess>,
}

impl Nodes {
    /// A cluster of so many nodes, with replicas everywhere they belong.
    fn start(names: &[&str], more: &[&str]) -> Nodes {
        let mut places: Vec<Place> = names.iter().map(|name| Place::new(name)).collect();
        let founds = ["--cluster", "ordered", "--set", "cluster.partitions=16"];
        let first = places[0].start(&[&founds, more].concat());
        let (secret, seed) = (token(&first, &[]), first.peers.to_string());
        let joins = ["--cluster", "ordered", "--token", &secret, "--seeds", &seed];
        let joins = [&joins, more].concat();
        let rest = places[1..].iter_mut().map(|place| place.start(&joins));
        let nodes: Vec<NodeProcess> = std::iter::once(first).chain(rest).collect();
        let nodes = Nodes { places, nodes };
        nodes.settled(names.len());
        nodes
    }

    /// Waits until so many members are well, everything is replicated and nothing moves.
    fn settled(&self, members: usize) {
        until("the cluster is at rest", || {
            let status = cluster(&self.nodes[0], &["status"])?;
            let partitions = &status["partitions"];
            let rests = status["healthy"] == true && partitions["moves"] == 0;
            (rests && status["members"].as_array()?.len() == members).then_some(())
        });
    }

    fn member(&self, asked: usize, id: u64) -> Option<Value> {
        let members = cluster(&self.nodes[asked], &["members"])?;
        members.as_array()?.iter().find(|m| m["id"] == id).cloned()
    }
}

/// What a command says on stderr when it is refused, as JSON.
fn refused(node: &NodeProcess, args: &[&str]) -> String {
    let output = ironring(node, args);
    assert!(!output.status.success(), "{args:?} was not refused");
    let said: Value = serde_json::from_slice(&output.stderr).expect("a refusal is JSON");
    assert_eq!(said["code"], "refused", "{said}");
    said["message"].as_str().expect("it says why").to_owned()
}

/// What a command that is done prints.
fn done(node: &NodeProcess, args: &[&str]) -> Value {
    let output = ironring(node, args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    serde_json::from_slice(&output.stdout).expect("the result is JSON")
}

fn four_nodes_drain_hand_over_and_leave() {
    let mut nodes = Nodes::start(&["a", "b", "c", "d"], &[]);
    let all: Vec<&NodeProcess> = nodes.nodes.iter().collect();
    keys(all[0], &["put", "k", "v", "--durability", "all", "--timeout", "10s"])
        .expect("it is taken");

    // Draining: everything goes to the others, and comes back.
    let drained = done(all[2], &["node", "drain", "b", "--wait"]);
    assert!(says(&drained, "node b (2) is drained"), "{drained}");
    let member = nodes.member(0, 2).expect("it is a member");
    assert_eq!(
        (member["state"].as_str(), member["replicas"].as_u64()),
        (Some("draining"), Some(0))
    );
    until("it asks for no new clients", || {
        let ready = all[1].http_get("/health/ready");
        ready.contains("the node is draining").then_some(())
    });
    let list = done(all[0], &["partition", "list", "--node", "b"]);
    assert_eq!(list, serde_json::json!([]));
    let plan = done(all[3], &["cluster", "rebalance", "plan"]);
    assert_eq!(plan["copies"], 0, "{plan}");
    done(all[1], &["node", "resume"]);
    until("the node has replicas again", || {
        let member = nodes.member(0, 2)?;
        (member["state"] == "active" && member["replicas"].as_u64() > Some(6)).then_some(())
    });
    nodes.settled(4);

    // The metadata group is led by whom the operator wants, if that has a vote.
    let status = cluster(all[0], &["status"]).expect("it answers");
    let voters = ids(&status["metadata"]["voters"]);
    assert_eq!(voters.len(), 3, "four would survive no more");
    let leader = agreed(&all, 3, None);
    let next = *voters.iter().find(|id| **id != leader).expect("there are three");
    done(all[0], &["cluster", "transfer", "--to", &next.to_string()]);
    assert_eq!(agreed(&all, 3, Some(leader)), next);
    let learner = (1..=4).find(|id| !voters.contains(id)).expect("there are four nodes");
    let why = refused(all[0], &["cluster", "transfer", "--to", &learner.to_string()]);
    assert!(why.contains("has no vote in the metadata group"), "{why}");
    // A voter that is to vote no more makes room for the node without a vote.
    done(all[0], &["cluster", "demote", &next.to_string()]);
    until("the other one votes in its place", || {
        let status = cluster(all[0], &["status"])?;
        let voters = status["metadata"]["voters"].as_array()?;
        let votes = |id: u64| voters.iter().any(|voter| *voter == id);
        (voters.len() == 3 && votes(learner) && !votes(next)).then_some(())
    });
    done(all[0], &["cluster", "promote", &next.to_string(), "--auto"]);
    let taken = done(all[0], &["cluster", "snapshot"]);
    assert!(taken["node"] == 1 && taken["index"].as_u64() > Some(0), "{taken}");

    // Moving by hand, while nothing is moved for balance.
    done(all[0], &["cluster", "rebalance", "pause"]);
    let list = done(all[0], &["partition", "list"]);
    let first = &list[0];
    let voters = ids(&first["voters"]);
    let from = *voters.iter().find(|id| first["leader"] != **id).expect("there are three");
    let to = (1..=4).find(|id| !voters.contains(id)).expect("there are four nodes");
    let (source, target) = (from.to_string(), to.to_string());
    let order = ["partition", "move", "0", "--from", &source, "--to", &target];
    done(all[0], &order);
    until("the replica has moved", || {
        let list = done(all[1], &["partition", "list"]);
        let voters = ids(&list[0]["voters"]);
        (voters.contains(&to) && !voters.contains(&from) && list[0]["moving"].is_null())
            .then_some(())
    });
    let why = refused(all[0], &order);
    assert!(why.contains("has no replica of partition 0"), "{why}");
    done(all[0], &["cluster", "rebalance", "start"]);
    // Any node may have carried it out; this one hears of it in a moment.
    until("balancing goes on", || {
        (done(all[0], &["cluster", "rebalance", "status"])["balancing"] == true).then_some(())
    });

    // A node leaves, and ends when it is let go; the next would leave too few.
    let left = done(all[0], &["cluster", "leave", "d", "--wait"]);
    assert!(says(&left, "is no member any more"), "{left}");
    let (status, said) = nodes.nodes.pop().expect("there are four").wait();
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("node d (4) has left cluster `ordered`"), "{said}");
    nodes.settled(3);
    let again = nodes.places[3].refused(&[]);
    assert!(again.contains("node d (4) has left cluster `ordered`"), "{again}");
    let all: Vec<&NodeProcess> = nodes.nodes.iter().collect();
    agreed(&all, 3, None);
    let why = refused(all[0], &["cluster", "leave", "c"]);
    assert!(why.contains("2 nodes would be left for 3 replicas"), "{why}");
    let value = keys(all[1], &["get", "k"]).expect("it is there");
    assert!(value.to_string().contains('v'), "{value}");
}

#[test]
fn the_number_of_replicas_is_changed_under_load_and_nothing_is_lost() {
    let nodes = Nodes::start(&["a", "b", "c"], &[]);
    let a = &nodes.nodes[0];
    let mut writers = writers(a);
    let configure = |more: &[&str]| done(a, &[&["cluster", "configure"], more].concat());
    let wait_for = |ended: &AtomicU64, more: u64| {
        let wanted = ended.load(Ordering::Relaxed) + more;
        until("writes go on", || (ended.load(Ordering::Relaxed) >= wanted).then_some(()));
    };
    let voters = |count: usize| {
        until("every partition has so many voters and replicas", || {
            let list = cluster_list(&nodes.nodes[1], &[])?;
            let fits = |p: &Value| {
                let learners = p["learners"].as_array().is_some_and(Vec::is_empty);
                ids(&p["voters"]).len() == count && learners && p["leader"].is_u64()
            };
            list.as_array()?.iter().all(fits).then_some(())
        });
    };
    write_during(&mut writers, |ended| {
        for (rf, count) in [("2", 2), ("3", 3), ("1", 1), ("3", 3)] {
            wait_for(ended, 50);
            let operated = configure(&["--replication-factor", rf, "--yes"]);
            assert!(says(&operated, &format!("partitions have {rf} replicas each")), "{operated}");
            voters(count);
            wait_for(ended, 50);
        }
    });
    let mut reader = Client::connect(nodes.nodes[2].config()).expect("the node listens");
    let mut told = Told::default();
    for writer in &mut writers {
        writer.verify_all(&mut reader);
        told += writer.told;
        assert!(writer.wrong.is_empty(), "{:?}", writer.wrong);
    }
    assert!(told.acked > 200, "{told:?}");

    // What is asked for is seen everywhere; what makes no sense, or stops writes, is refused.
    configure(&["--min-voters", "2"]);
    until("everybody knows", || {
        let status = cluster(&nodes.nodes[2], &["status"])?;
        (status["partitions"]["min_voters"] == 2 && status["warnings"] == serde_json::json!([]))
            .then_some(())
    });
    let operated = configure(&["--replication-factor", "5"]);
    assert!(operated["warnings"].to_string().contains("3 nodes take replicas"), "{operated}");
    until("it is said with the status", || {
        let status = cluster(&nodes.nodes[2], &["status"])?;
        let said = status["warnings"].to_string().contains("5 replicas of each partition");
        (said && status["healthy"] == true).then_some(())
    });
    let why = refused(a, &["cluster", "configure", "--min-voters", "4"]);
    assert!(why.contains("16 partitions have fewer than 4 voters"), "{why}");
    let why = refused(a, &["cluster", "configure", "--replication-factor", "1", "--yes"]);
    assert!(why.contains("of which 2 must vote"), "{why}");
    for wrong in [&["--replication-factor", "2"][..], &["--replication-factor", "8"], &[]] {
        let output = ironring(a, &[&["cluster", "configure"], wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?} is unconfirmed or no use");
    }
}

#[test]
fn moves_go_at_the_pace_that_was_set_and_say_how_far_they_are() {
    let slow = ["--set", "movement.bandwidth_bytes_per_s=1MiB"];
    let mut nodes = Nodes::start(&["a", "b", "c"], &slow);
    let status = |nodes: &Nodes| cluster(&nodes.nodes[2], &["rebalance", "status"]);
    let said = status(&nodes).expect("it answers");
    assert_eq!(
        (said["pace"].as_str(), &said["pace_ordered"]),
        (Some("gradual"), &Value::Bool(false))
    );
    let mut client = nodes.nodes[0].client();
    for n in 0..512 {
        client.put(format!("k{n}").as_bytes(), &[7; 64 << 10]).expect("it is taken");
    }
    let secret = token(&nodes.nodes[0], &[]);
    let mut d = Place::new("d");
    let seed = nodes.nodes[0].peers.to_string();
    let joins = ["--cluster", "ordered", "--token", &secret, "--seeds", &seed];
    nodes.nodes.push(d.start(&joins));
    until("a move says how much is left and for how long", || {
        let said = status(&nodes)?;
        let moves = said["moves"].as_array()?;
        let known = |m: &&Value| m["left_bytes"].as_u64() > Some(0) && m["eta_s"].is_u64();
        let one = moves.iter().find(known)?;
        let all = said["left_bytes"].as_u64() >= one["left_bytes"].as_u64();
        (all && one["to"] == 4 && one["stage"] == "catching-up").then_some(())
    });
    // Faster is an order to all; what is left of it comes to an end.
    let order = ["cluster", "rebalance", "start", "--pace", "aggressive"];
    let operated = done(&nodes.nodes[1], &order);
    assert!(says(&operated, "at the pace `aggressive`"), "{operated}");
    until("everybody knows", || {
        let said = status(&nodes)?;
        (said["pace"] == "aggressive" && said["pace_ordered"] == true).then_some(())
    });
    nodes.settled(4);
    until("nothing moves", || {
        let said = status(&nodes)?;
        let rests = said["moves"].as_array()?.is_empty() && said["left_bytes"] == 0;
        let replicas = nodes.member(0, 4)?["replicas"].as_u64();
        (rests && replicas > Some(8)).then_some(())
    });
    until("what was sent is counted", || {
        let sent = |n: &NodeProcess| n.metric("ironring_rebalance_sent_bytes_total");
        (nodes.nodes.iter().map(sent).sum::<f64>() > 4e6).then_some(())
    });
    done(&nodes.nodes[0], &["cluster", "rebalance", "start", "--pace", "configured"]);
    until("it is as configured", || (status(&nodes)?["pace_ordered"] == false).then_some(()));
    let wrong = ["cluster", "rebalance", "start", "--pace", "fast"];
    assert_eq!(ironring(&nodes.nodes[0], &wrong).status.code(), Some(2));
    let mut reader = nodes.nodes[3].client();
    for n in 0..512 {
        let found = reader.get(format!("k{n}").as_bytes()).expect("it answers");
        assert!(found.is_some_and(|found| found.value == [7; 64 << 10]), "k{n} is there");
    }
}

fn writers(node: &NodeProcess) -> Vec<Writer> {
    const WRITERS: u32 = 2;
    let mut client = node.client();
    client.topic_create(TOPIC, WRITERS, Retention::default()).expect("a new cluster has no topics");
    let writer = |id: u32| {
        let seed = 77 + u64::from(id);
        let deadline = Duration::from_secs(30);
        let config = ClientConfig { deadline, seed, ..node.config() };
        Writer::new(id, Client::connect(config).expect("the node listens"), seed)
    };
    (0..WRITERS).map(writer).collect()
}

/// Lets all writers write while `meanwhile` runs, which is told how many writes have ended.
fn write_during(writers: &mut [Writer], meanwhile: impl FnOnce(&AtomicU64)) {
    /// Stops the writers also when what runs meanwhile fails.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (stop, ended) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for writer in writers {
            let (stop, ended) = (&stop, &ended);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    writer.step();
                    ended.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _stop = Stop(&stop);
        meanwhile(&ended);
    });
}

#[test]
fn a_dead_node_is_given_up_and_what_would_break_the_cluster_is_refused() {
    let patience = ["--set", "controller.session_timeout_ms=1500"];
    let mut nodes = Nodes::start(&["a", "b", "c"], &patience);
    let c = nodes.nodes.pop().expect("there are three");
    let why = refused(&nodes.nodes[0], &["cluster", "leave", "c", "--lost", "--yes"]);
    assert!(why.contains("node 3 is alive, and only a dead node is given up"), "{why}");
    let unsure = ironring(&nodes.nodes[0], &["cluster", "leave", "c", "--lost"]);
    assert_eq!(unsure.status.code(), Some(2), "it must be confirmed");
    c.kill();
    until("it is dead", || (nodes.member(0, 3)?["status"] == "dead").then_some(()));
    // Two of three voters are left: neither of them may go.
    for order in [["cluster", "demote", "b"], ["cluster", "leave", "b"]] {
        let why = refused(&nodes.nodes[0], &order);
        assert!(why.contains("it would stand still"), "{why}");
    }
    done(&nodes.nodes[0], &["cluster", "leave", "c", "--lost", "--yes", "--wait"]);
    nodes.settled(2);
    until("it has no vote any more", || {
        let status = cluster(&nodes.nodes[0], &["status"])?;
        (status["metadata"]["voters"].as_array()?.len() == 2).then_some(())
    });
    // It comes back and is told, and knows from then on.
    let (status, said) = NodeProcess::run(&nodes.places[2].dir, &nodes.places[2].args(&[]));
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("node c (3) has left cluster `ordered`"), "{said}");
    let said = nodes.places[2].refused(&[]);
    assert!(said.contains("node c (3) has left cluster `ordered`"), "{said}");
    keys(&nodes.nodes[1], &["put", "k", "v", "--durability", "all", "--timeout", "10s"])
        .expect("the others go on");
}

#[test]
fn a_node_is_emptied_and_takes_its_place_again() {
    let patience = ["--set", "controller.session_timeout_ms=1500"];
    let mut nodes = Nodes::start(&["a", "b", "c"], &patience);
    let put = ["put", "k", "v", "--durability", "all", "--timeout", "10s"];
    keys(&nodes.nodes[0], &put).expect("it is taken");
    let c = nodes.nodes.pop().expect("there are three");
    let dir = nodes.places[2].dir.to_str().expect("it is plain").to_owned();
    let reinit = |more: &[&str]| offline(&[&["node", "reinit", "--data-dir", &dir], more].concat());
    let running = reinit(&["--yes"]);
    assert_eq!(error(&running)["code"], "node_running");
    c.kill();
    assert_eq!(error(&reinit(&[]))["code"], "not_confirmed");
    let emptied = reinit(&["--yes"]);
    assert!(emptied.status.success(), "{}", String::from_utf8_lossy(&emptied.stderr));
    let stranger = nodes.places[2].refused(&[]);
    assert!(stranger.contains("has no token to join"), "{stranger}");
    // It knows the others, and comes in as soon as the one before it is dead.
    let secret = token(&nodes.nodes[0], &["--single-use"]);
    let again = nodes.places[2].start(&["--token", &secret]);
    nodes.nodes.push(again);
    nodes.settled(3);
    let member = nodes.member(2, 4).expect("it has a number of its own");
    assert_eq!((member["name"].as_str(), member["replicas"].as_u64()), (Some("c"), Some(16)));
    assert!(nodes.member(0, 3).is_none(), "the one before it is no member any more");
    let value = keys(&nodes.nodes[2], &["get", "k"]).expect("it is there");
    assert!(value.to_string().contains('v'), "{value}");

    let alone = Place::new("alone");
    let (mut alone, node) = alone.start_alone("single");
    until("it is founded", || (cluster(&node, &["status"])?["healthy"] == true).then_some(()));
    node.kill();
    let dir = alone.dir.to_str().expect("it is plain");
    let refused = offline(&["node", "reinit", "--data-dir", dir, "--yes"]);
    let said = error(&refused)["message"].to_string();
    assert!(said.contains("knows no other member of cluster `single`"), "{said}");
    alone.start(&[]).kill();
}

#[test]
fn a_node_goes_on_alone_when_the_majority_is_lost_and_nothing_else_is_left() {
    let Nodes { mut places, mut nodes } = Nodes::start(&["a", "b", "c"], &[]);
    for key in 0..8 {
        let key = format!("k{key}");
        let put = ["put", &key, "v", "--durability", "all", "--timeout", "10s"];
        keys(&nodes[0], &put).expect("it is taken");
    }
    let dir = places[0].dir.to_str().expect("it is plain").to_owned();
    let force = |cluster: &str, more: &[&str]| {
        offline(&[&["cluster", "force-quorum", cluster, "--data-dir", &dir], more].concat())
    };
    assert_eq!(error(&force("ordered", &["--yes"]))["code"], "node_running");
    nodes.remove(0).kill();
    let refused = error(&force("ordered", &["--yes"]));
    assert_eq!(refused["code"], "quorum_reachable", "{refused}");
    assert!(refused["message"].to_string().contains("of the 3 voters"), "{refused}");
    nodes.drain(..).for_each(NodeProcess::kill);
    assert_eq!(error(&force("another", &["--yes"]))["code"], "usage");
    assert_eq!(error(&force("ordered", &[]))["code"], "not_confirmed");
    let forced = force("ordered", &["--yes"]);
    assert!(forced.status.success(), "{}", String::from_utf8_lossy(&forced.stderr));

    let a = places[0].start(&[]);
    assert_eq!(agreed(&[&a], 1, None), 1);
    // Those that are dead may still count as leaders at first, and so may the run before of the one that
    // is not: that one is no leader any more when this has seen all led.
    let elect = || {
        let partitions = cluster_list(&a, &[])?;
        let partitions = partitions.as_array()?;
        for partition in partitions.iter().filter(|p| p["leader"].is_null()) {
            let id = partition["partition"].to_string();
            ironring(&a, &["partition", "elect-unclean", &id, "--to", "a", "--yes"]);
        }
        partitions.iter().all(|p| p["leader"] == 1).then_some(())
    };
    until("it leads every partition", elect);
    for key in 0..8 {
        let key = format!("k{key}");
        let value = until("it is read", || {
            elect()?;
            keys(&a, &["get", &key, "--timeout", "10s"])
        });
        assert!(value.to_string().contains('v'), "{value}");
    }
}

/// Runs a command that asks nobody.
fn offline(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ironring"))
        .args(args)
        .args(["-o", "json"])
        .output()
        .expect("the program is there")
}

fn error(output: &Output) -> Value {
    serde_json::from_slice(&output.stderr).expect("an error is JSON")
}

#[test]
fn a_partition_that_lost_its_majority_goes_on_with_one_replica_when_it_is_ordered_to() {
    let nodes = Nodes::start(&["a", "b", "c", "d", "e"], &[]);
    let a = &nodes.nodes[0];
    for key in 0..32 {
        let key = format!("k{key}");
        let put = ["put", &key, "v", "--durability", "all", "--timeout", "10s"];
        keys(a, &put).expect("it is taken");
    }
    let list = done(a, &["partition", "list"]);
    // Two of the voters are lost, the leader among them, and the node that is asked is neither.
    let lost = |partition: &Value| {
        let (leader, voters) = (partition["leader"].as_u64()?, ids(&partition["voters"]));
        let other = *voters.iter().find(|id| **id != leader && **id != 1)?;
        let last = *voters.iter().find(|id| **id != leader && **id != other)?;
        (leader != 1).then_some((partition["partition"].as_u64()?, leader, other, last))
    };
    let found = list.as_array().unwrap().iter().find_map(lost);
    let (partition, leader, other, last) = found.expect("one node does not lead everything");
    let (id, to) = (partition.to_string(), last.to_string());
    let order = ["partition", "elect-unclean", &id, "--to", &to, "--yes"];
    let why = refused(a, &order);
    assert!(why.contains("has a leader: nothing has to be given up"), "{why}");

    let mut running: Vec<Option<NodeProcess>> = nodes.nodes.into_iter().map(Some).collect();
    for id in [leader, other] {
        running[id as usize - 1].take().expect("it runs").kill();
    }
    let a = running[0].as_ref().expect("it runs");
    until("nobody leads it", || {
        let listed = cluster_list(a, &["--leaderless"])?;
        let there = |p: &Value| p["partition"] == partition;
        listed.as_array()?.iter().any(there).then_some(())
    });
    // The controller may have been lost as well, and the others are not silent for long yet.
    until("the order is taken", || ironring(a, &order).status.success().then_some(()));
    until("the replica leads", || {
        let listed = cluster_list(a, &["--node", &to])?;
        let partitions = listed.as_array()?;
        let it = partitions.iter().find(|p| p["partition"] == partition)?;
        (it["leader"] == last).then_some(())
    });
    // So do all the others that lost both.
    until("every partition is led", || {
        let leaderless = cluster_list(a, &["--leaderless"])?;
        for partition in leaderless.as_array()? {
            let alive = |id: &&u64| ![leader, other].contains(id);
            let to = ids(&partition["voters"]).iter().find(alive)?.to_string();
            let id = partition["partition"].to_string();
            ironring(a, &["partition", "elect-unclean", &id, "--to", &to, "--yes"]);
        }
        leaderless.as_array()?.is_empty().then_some(())
    });
    for key in 0..32 {
        let key = format!("k{key}");
        let value = until("it is read", || keys(a, &["get", &key, "--timeout", "10s"]));
        assert!(value.to_string().contains('v'), "{value}");
    }
}

/// The numbers of a list.
fn ids(value: &Value) -> Vec<u64> {
    value.as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
}

/// Whether what came of an order says this.
fn says(operated: &Value, words: &str) -> bool {
    operated["done"].as_str().is_some_and(|done| done.contains(words))
}

/// The partitions that pass a filter.
fn cluster_list(node: &NodeProcess, filter: &[&str]) -> Option<Value> {
    let output = ironring(node, &[&["partition", "list"], filter].concat());
    serde_json::from_slice(&output.stdout).ok()
}
