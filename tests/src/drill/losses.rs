//! Nodes that are killed: in turn, a majority of them, all of them.

use std::time::Duration;

use ironring_core::Durability;
use ironring_net::client::ClientConfig;
use ironring_net::client::WriteSettings;
use ironring_net::client::blocking::Client;

use super::probe::{Door, is_typed, keys, tally};
use super::stage::{Cluster, PATIENCE, PLAIN, Stage};
use crate::chaos::nodes::{CLUSTER, ChaosError, Nodes, system};

/// Dead after a few seconds of silence, and rebuilt elsewhere at once.
const SOON_REBUILT: &[&str] =
    &["--set", "controller.session_timeout_ms=3000", "--set", "controller.rebalance_grace_s=0"];
/// Dead after a few seconds of silence, and never rebuilt by itself within a drill.
const SOON_DEAD: &[&str] = &["--set", "controller.session_timeout_ms=3000"];
/// The same, and told to the others as it listens: nothing may answer in the place of a node that is gone,
/// as a proxy does.
const SOON_DEAD_AND_SILENT: &[&str] =
    &["--set", "controller.session_timeout_ms=3000", "--set", "listen.peers_advertise=127.0.0.1"];
const NO_DATA: &[&str] = &["--weight", "0"];
/// Writes that every replica has before a majority is lost.
const KEPT_BY_ALL: u32 = 200;

/// See [`super::DRILLS`].
pub fn rf2(stage: &mut Stage) -> Result<(), ChaosError> {
    let mut cluster = stage.cluster(&[PLAIN, PLAIN, NO_DATA], 0)?;
    let two = ["cluster", "configure", "--replication-factor", "2", "--yes"];
    match cluster.nodes.said(0, &two) {
        Ok(said) => {
            cluster.nodes.until_healthy()?;
            stage.saw("cluster configure --replication-factor 2", said["done"].to_string());
        }
        // There are no more replicas than nodes that hold data.
        Err(why) if why.contains("unrecognized subcommand") => {
            stage.saw("use the default of three replicas", "two nodes hold data");
        }
        Err(why) => stage.check("cluster configure --replication-factor 2", why, false),
    }
    let status = cluster.nodes.status(0).map_err(ChaosError::Cluster)?;
    let replicas: Vec<u32> = status.members.iter().map(|member| member.replicas).collect();
    let voters = status.metadata.voters.len();
    let seen = format!("replicas {replicas:?}, {voters} voters in the metadata group");
    stage.check("look who holds what", seen, replicas == [16, 16, 0] && voters == 3);
    cluster.load()?;
    for victim in [0, 1, 2] {
        let name = cluster.nodes.name(victim).to_owned();
        let left: Vec<usize> = (0..3).filter(|index| *index != victim).collect();
        cluster.nodes.kill_now(victim)?;
        cluster.serves(stage, &format!("kill {name}"), &left)?;
        cluster.heal(stage, &format!("start {name} again"))?;
    }
    cluster.finish(stage).map(drop)
}

/// See [`super::DRILLS`].
pub fn one_after_the_other(stage: &mut Stage) -> Result<(), ChaosError> {
    of_five_by_themselves(stage)?;
    of_four_given_up(stage)?;
    of_three_given_up(stage)
}

/// Five nodes, whose voters survive two: nobody does anything.
fn of_five_by_themselves(stage: &mut Stage) -> Result<(), ChaosError> {
    let mut cluster = stage.cluster(&[SOON_REBUILT; 5], 0)?;
    cluster.load()?;
    for victim in [0, 1] {
        kill_and_rebuild(&mut cluster, stage, victim, 5)?;
    }
    cluster.finish(stage).map(drop)
}

/// Kills a node, waits until the others serve, and until they hold what it held.
fn kill_and_rebuild(
    cluster: &mut Cluster,
    stage: &mut Stage,
    victim: usize,
    count: usize,
) -> Result<(), ChaosError> {
    let name = cluster.nodes.name(victim).to_owned();
    cluster.nodes.kill_now(victim)?;
    let left: Vec<usize> = (0..count).filter(|index| cluster.nodes.is_up(*index)).collect();
    cluster.serves(stage, &format!("kill {name}"), &left)?;
    let asked = left[0];
    if left.len() < 3 {
        return Ok(());
    }
    cluster.until("what the dead node held is elsewhere", |nodes| {
        let status = nodes.status(asked).ok()?;
        let dead = status.members.iter().find(|member| member.name == name);
        let done = status.partitions.under_replicated == 0
            && status.partitions.leaderless == 0
            && status.partitions.moves == 0
            && dead.is_none_or(|dead| dead.replicas == 0);
        done.then_some(())
    })?;
    stage.saw(format!("wait for what {name} held"), "three voters everywhere, none on it");
    Ok(())
}

/// An order to the cluster, asked again while it is refused for what will be otherwise.
fn order(cluster: &mut Cluster, at: usize, what: &[&str]) -> Result<String, ChaosError> {
    let mut last = String::new();
    let done = cluster.until("an order is carried out", |nodes| {
        let said = nodes.said(at, what);
        match said {
            Ok(said) => Some(said["done"].as_str().unwrap_or("done").to_owned()),
            Err(why) => {
                last = why;
                None
            }
        }
    });
    done.map_err(|error| ChaosError::Cluster(format!("{what:?}: {last}; {error}")))
}

/// Four nodes have three voters: the first that is lost is given up, so that another votes for it.
fn of_four_given_up(stage: &mut Stage) -> Result<(), ChaosError> {
    let mut cluster = stage.cluster(&[SOON_DEAD; 4], 0)?;
    cluster.load()?;
    cluster.nodes.kill_now(0)?;
    cluster.serves(stage, "of four, kill n1", &[1, 2, 3])?;
    let done = order(&mut cluster, 1, &["cluster", "leave", "n1", "--lost", "--yes"])?;
    stage.saw("cluster leave n1 --lost", done);
    cluster.nodes.forget(0);
    let took = cluster.nodes.until_healthy()?;
    let seen = format!("three voters everywhere {:.1} s later", took.as_secs_f64());
    stage.saw("wait for what n1 held", seen);
    cluster.nodes.kill_now(1)?;
    cluster.serves(stage, "kill n2", &[2, 3])?;
    cluster.finish(stage).map(drop)
}

/// Of three nodes two may be lost in turn when the first is given up and the second has no vote: then the
/// last decides alone.
fn of_three_given_up(stage: &mut Stage) -> Result<(), ChaosError> {
    let mut cluster = stage.cluster(&[SOON_DEAD; 3], 0)?;
    cluster.load()?;
    cluster.nodes.kill_now(0)?;
    cluster.serves(stage, "of three, kill n1", &[1, 2])?;
    let done = order(&mut cluster, 1, &["cluster", "leave", "n1", "--lost", "--force", "--yes"])?;
    stage.saw("cluster leave n1 --lost --force", done);
    cluster.nodes.forget(0);
    let done = order(&mut cluster, 1, &["cluster", "demote", "n2"])?;
    stage.saw("cluster demote n2", done);
    cluster.until("n3 votes alone", |nodes| {
        let status = nodes.status(2).ok()?;
        let whole = status.partitions.under_replicated == 0 && status.partitions.leaderless == 0;
        (status.metadata.voters == [3] && whole).then_some(())
    })?;
    let led = cluster.nodes.status(2).map_err(ChaosError::Cluster)?;
    let led: Vec<u32> = led.members.iter().map(|member| member.leads).collect();
    stage.saw("wait until n3 votes alone", format!("n2 and n3 lead {led:?} partitions"));
    cluster.nodes.kill_now(1)?;
    cluster.serves(stage, "kill n2", &[2])?;
    cluster.nodes.heal()?;
    let done = order(&mut cluster, 2, &["cluster", "promote", "n2", "--auto"])?;
    stage.saw("start n2 again, cluster promote n2 --auto", done);
    cluster.until("all is replicated again", |nodes| {
        let status = nodes.status(2).ok()?;
        let whole = status.partitions.under_replicated == 0 && status.partitions.leaderless == 0;
        (status.healthy && whole).then_some(())
    })?;
    cluster.finish(stage).map(drop)
}

/// See [`super::DRILLS`].
pub fn voters(stage: &mut Stage) -> Result<(), ChaosError> {
    for (count, survived) in [(3, 1), (5, 2), (7, 3)] {
        let mut cluster = stage.cluster(&vec![SOON_REBUILT; count], 0)?;
        cluster.load()?;
        for victim in 0..survived {
            kill_and_rebuild(&mut cluster, stage, victim, count)?;
        }
        let last = count - 1;
        let made = cluster.nodes.said(last, &["cluster", "token", "create"]);
        let seen = made.map_or_else(|why| why, |_| "a token is made".to_owned());
        let ok = seen == "a token is made";
        stage.check(format!("{count} voters, {survived} dead: change metadata"), seen, ok);
        one_too_many(&mut cluster, stage, (survived, count))?;
        cluster.nodes.restart(survived)?;
        let up: Vec<usize> = (survived..count).collect();
        cluster.serves(stage, "start that one again", &up)?;
        cluster.finish(stage)?;
    }
    Ok(())
}

/// One more is killed than the voters survive: nothing is decided any more, and what the dead one led is
/// refused.
fn one_too_many(
    cluster: &mut Cluster,
    stage: &mut Stage,
    (victim, count): (usize, usize),
) -> Result<(), ChaosError> {
    let name = cluster.nodes.name(victim).to_owned();
    let id = victim as u64 + 1;
    let led = cluster.partitions(count - 1)?;
    let led: Vec<u32> = led
        .iter()
        .filter(|partition| partition.leader.is_some_and(|leader| leader.0 == id))
        .map(|partition| partition.partition)
        .collect();
    cluster.nodes.kill_now(victim)?;
    let survivor = count - 1;
    let said = cluster.until("the metadata group decides nothing", |nodes| {
        nodes.said(survivor, &["cluster", "token", "create"]).err()
    })?;
    let typed = said.contains("cluster_unavailable") || said.contains("outcome_unknown");
    stage.check(format!("kill {name}, one too many: change metadata"), said, typed);

    let address = cluster.nodes.addresses()[survivor].clone();
    let keys = keys();
    let alone = survivor - victim == 1;
    let mut said = Vec::new();
    let mut acked_wrongly = Vec::new();
    for (partition, key) in keys.iter().enumerate() {
        // With no other node left nothing at all can be acknowledged.
        let must_refuse = alone || led.contains(&(partition as u32));
        let put = cluster.until("a write is answered", |_| {
            let answer = Door::open(&address).and_then(|mut door| door.put(key, b"too many"));
            // Whoever led until a moment ago has to notice first, and knows no outcome until then.
            answer.ok().filter(|said| is_typed(said) || !must_refuse)
        });
        match put {
            Ok(put) => said.push(put),
            Err(_) => acked_wrongly.push(partition),
        }
    }
    let led = led.len();
    let seen = format!(
        "of all partitions {}; {name} led {led}; not refused with a type: {acked_wrongly:?}",
        tally(said.iter())
    );
    stage.check("write to every partition at a survivor", seen, acked_wrongly.is_empty());
    Ok(())
}

/// See [`super::DRILLS`].
pub fn full_restart(stage: &mut Stage) -> Result<(), ChaosError> {
    let mut cluster = stage.cluster(&[PLAIN; 3], 0)?;
    cluster.load()?;
    for round in 1..=3 {
        let acked = cluster.heard().acked;
        for index in 0..3 {
            cluster.nodes.kill(index)?;
        }
        let mut order = vec![0, 1, 2];
        for last in (1..order.len()).rev() {
            order.swap(last, stage.prng.below(last as u64 + 1) as usize);
        }
        for index in &order {
            cluster.nodes.restart(*index)?;
            cluster.wait(Duration::from_millis(stage.prng.below(1500)))?;
        }
        let names: Vec<&str> = order.iter().map(|index| cluster.nodes.name(*index)).collect();
        let done = format!("{round}: kill all after {acked} acks, start {}", names.join(", "));
        cluster.serves(stage, &done, &[0, 1, 2])?;
    }
    cluster.finish(stage).map(drop)
}

/// See [`super::DRILLS`].
pub fn force_quorum(stage: &mut Stage) -> Result<(), ChaosError> {
    let mut cluster = stage.cluster(&[SOON_DEAD_AND_SILENT; 3], 0)?;
    write_kept(&cluster, 0..KEPT_BY_ALL, Durability::All)?;
    stage.saw("write to all three replicas", format!("acked {KEPT_BY_ALL}"));
    for lost in [0, 1] {
        cluster.nodes.kill_now(lost)?;
    }
    let running = force(&cluster.nodes, 2);
    let refused = running.as_ref().err().is_some_and(|why| why.contains("node_running"));
    let seen = running.map_or_else(|why| why, |done| done.to_string());
    stage.check("kill n1 and n2; force-quorum while n3 runs", seen, refused);
    cluster.nodes.terminate(2)?;
    cluster.nodes.await_end(2)?;
    let forced = force(&cluster.nodes, 2).map_err(ChaosError::Cluster)?;
    let seen = format!("only voter {}, voters before {}", forced["name"], forced["voters_before"]);
    stage.saw("stop n3; force-quorum", seen);
    cluster.nodes.restart(2)?;
    cluster.until("n3 leads the metadata group", |nodes| {
        let status = nodes.status(2).ok()?;
        (status.metadata.role == "leader" && status.metadata.voters == [3]).then_some(())
    })?;
    for lost in ["n1", "n2"] {
        let leave = ["cluster", "leave", lost, "--lost", "--force", "--yes"];
        let done = order(&mut cluster, 2, &leave)?;
        stage.saw(format!("start n3; cluster leave {lost} --lost --force"), done);
    }
    let mut unclean = 0;
    for partition in cluster.partitions(2)? {
        if partition.leader.is_none_or(|leader| leader.0 != 3) {
            let number = partition.partition.to_string();
            order(
                &mut cluster,
                2,
                &["partition", "elect-unclean", &number, "--to", "n3", "--yes"],
            )?;
            unclean += 1;
        }
    }
    stage.saw("partition elect-unclean, where nobody leads", format!("{unclean} partitions"));
    cluster.serves(stage, "write to n3 alone", &[2])?;
    read_kept(&cluster, &[2], stage, "read at n3", KEPT_BY_ALL)?;
    write_kept(&cluster, KEPT_BY_ALL..2 * KEPT_BY_ALL, Durability::Quorum)?;
    for lost in [0, 1] {
        let dir = cluster.nodes.data_dir(lost);
        let dir = dir.to_string_lossy();
        let done = cluster.nodes.command(&["node", "reinit", "--data-dir", &dir, "--yes"]);
        let done = done.map_err(ChaosError::Cluster)?;
        let name = cluster.nodes.name(lost).to_owned();
        let seen = format!("seeds {}", done["seeds"]);
        stage.saw(format!("node reinit {name}, start it"), seen);
        cluster.nodes.restart(lost)?;
        cluster.nodes.until_serving(lost)?;
    }
    let took = cluster.nodes.until_healthy()?;
    stage.saw("wait for three voters everywhere", format!("{:.1} s", took.as_secs_f64()));
    cluster.load()?;
    // What it has is as good as what the survivor has.
    cluster.nodes.kill_now(2)?;
    cluster.serves(stage, "kill n3", &[0, 1])?;
    read_kept(&cluster, &[0, 1], stage, "read at n1 and n2", 2 * KEPT_BY_ALL)?;
    cluster.finish(stage).map(drop)
}

fn force(nodes: &Nodes, index: usize) -> Result<serde_json::Value, String> {
    let dir = nodes.data_dir(index);
    let dir = dir.to_string_lossy();
    nodes.command(&["cluster", "force-quorum", CLUSTER, "--data-dir", &dir, "--yes"])
}

fn client(cluster: &Cluster, nodes: &[usize]) -> Result<Client, ChaosError> {
    let addresses = cluster.nodes.addresses();
    let addrs = nodes.iter().map(|index| addresses[*index].clone()).collect();
    let config = ClientConfig { addrs, deadline: PATIENCE, ..ClientConfig::new("") };
    Client::connect(config).map_err(|error| ChaosError::Cluster(error.to_string()))
}

fn kept(number: u32) -> (String, String) {
    (format!("kept-{number:04}"), format!("value of {number}"))
}

fn write_kept(
    cluster: &Cluster,
    numbers: std::ops::Range<u32>,
    durability: Durability,
) -> Result<(), ChaosError> {
    let up: Vec<usize> =
        (0..cluster.nodes.count()).filter(|index| cluster.nodes.is_up(*index)).collect();
    let mut client = client(cluster, &up)?;
    for number in numbers {
        let (key, value) = kept(number);
        let settings = WriteSettings { durability: Some(durability), ..WriteSettings::default() };
        let put = client.put_with(key.as_bytes(), value.as_bytes(), settings);
        put.map_err(|error| system(key)(std::io::Error::other(error)))?;
    }
    Ok(())
}

fn read_kept(
    cluster: &Cluster,
    nodes: &[usize],
    stage: &mut Stage,
    done: &str,
    count: u32,
) -> Result<(), ChaosError> {
    let mut client = client(cluster, nodes)?;
    let mut lost = Vec::new();
    for (key, value) in (0..count).map(kept) {
        let found = client.get(key.as_bytes());
        let found = found.map_err(|error| system(key.clone())(std::io::Error::other(error)))?;
        if found.is_none_or(|found| found.value != value.as_bytes()) {
            lost.push(key);
        }
    }
    let seen = format!("acked {count} lost {}: {lost:?}", lost.len());
    stage.check(done, seen.trim_end_matches(": []"), lost.is_empty());
    Ok(())
}
