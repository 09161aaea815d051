//! Real processes that are killed, stopped and damaged: nothing acknowledged is lost, nothing
//! refused appears, and damage is named instead of served.
//!
//! `IRONRING_CRASH_CYCLES=200` runs more kills than `cargo test` does, `IRONRING_CRASH_SEED` other
//! ones.

#![expect(clippy::unwrap_used, reason = "tests run under every runtime are plain functions")]

#[path = "support/ledger.rs"]
mod ledger;
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ironring_core::ErrorCode;
use ironring_core::prng::Prng;
use ironring_net::client::blocking::Client;
use ironring_net::client::{ClientConfig, ClientError};
use ironring_net::message::Retention;
use ledger::{TOPIC, Told, Writer};
use nix::sys::signal::{Signal, kill};
use support::{NodeProcess, PATIENCE, SMALL, address_of_its_own, data_dir, under_every_runtime};

const WRITERS: u32 = 3;
/// Writes that must be acknowledged in a cycle before its kill comes.
const ACKED_PER_CYCLE_MIN: u64 = 60;

under_every_runtime! {
    killed_at_random_moments_nothing_acknowledged_is_lost,
    a_process_stopped_for_two_seconds_goes_on_and_so_do_its_clients,
    a_full_disk_refuses_writes_until_something_is_deleted,
}

fn from_env(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().expect("a number is set"))
}

fn writers(node: &NodeProcess, seed: u64) -> Vec<Writer> {
    let mut client = node.client();
    client.topic_create(TOPIC, WRITERS, Retention::default()).expect("a new node has no topics");
    let writer = |id: u32| {
        let seed = seed << 8 | u64::from(id);
        let config = ClientConfig { deadline: PATIENCE, seed, ..node.config() };
        Writer::new(id, Client::connect(config).expect("the node listens"), seed)
    };
    (0..WRITERS).map(writer).collect()
}

/// Lets all writers write while `meanwhile` runs, which is told how many writes have ended.
fn write_during<T>(writers: &mut [Writer], meanwhile: impl FnOnce(&AtomicU64) -> T) -> T {
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
        let result = catch_unwind(AssertUnwindSafe(|| meanwhile(&ended)));
        stop.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| resume_unwind(panic))
    })
}

fn wait_for(ended: &AtomicU64, more: u64) {
    let (until, by) = (ended.load(Ordering::Relaxed) + more, Instant::now() + PATIENCE);
    while ended.load(Ordering::Relaxed) < until {
        assert!(Instant::now() < by, "writes do not go on");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Returns when the node serves keys of every shard.
fn wait_until_it_serves(node: &NodeProcess) {
    let begin = Instant::now();
    let keys: Vec<String> = (0..16).map(|n| format!("0/{n:06}")).collect();
    let mut client = node.client();
    let mut deadline = Duration::from_millis(20);
    client.set_deadline(deadline);
    while client.multi_get(&keys).is_err() {
        assert!(begin.elapsed() < PATIENCE, "the node does not recover");
        // Short at first, so that the end is noticed soon.
        deadline = (deadline * 5 / 4).min(Duration::from_secs(2));
        client.set_deadline(deadline);
    }
}

fn verify_all(node: &NodeProcess, writers: &mut [Writer]) {
    let mut reader = node.client();
    writers.iter_mut().for_each(|writer| writer.verify_all(&mut reader));
}

fn told(writers: &[Writer]) -> Told {
    let mut sum = Told::default();
    writers.iter().for_each(|writer| sum += writer.told);
    sum
}

fn wrong(writers: &[Writer]) -> Vec<&String> {
    writers.iter().flat_map(|writer| &writer.wrong).collect()
}

/// True for a refusal with this code.
fn refused_with<T>(told: &Result<T, ClientError>, code: ErrorCode) -> bool {
    matches!(told, Err(error) if error.code() == Some(code))
}

fn killed_at_random_moments_nothing_acknowledged_is_lost() {
    let cycles = from_env("IRONRING_CRASH_CYCLES", 4);
    let seed = from_env("IRONRING_CRASH_SEED", 1);
    let mut prng = Prng::new(seed);
    let (_tmp, dir) = data_dir();
    let args = [SMALL, &["--shards", "2", "--set", "log.checkpoint_interval_bytes=16MiB"]].concat();
    let mut node = NodeProcess::start_at(&address_of_its_own(), &dir, &args);
    let address = node.clients.to_string();
    let mut writers = writers(&node, seed);
    let mut recoveries = Vec::new();
    for cycle in 1..=cycles {
        let pause = Duration::from_millis(prng.below(300));
        // One stop in eight is an operator's.
        let kindly = prng.chance(1, 8);
        node = write_during(&mut writers, |ended| {
            wait_for(ended, ACKED_PER_CYCLE_MIN);
            std::thread::sleep(pause);
            if kindly {
                let (status, said) = node.stop();
                assert_eq!(status, 0, "cycle {cycle}, seed {seed}: {said}");
            } else {
                node.kill();
            }
            let begin = Instant::now();
            let node = NodeProcess::start_at(&address, &dir, &args);
            wait_until_it_serves(&node);
            recoveries.push(begin.elapsed());
            // What was in flight gets its answer.
            wait_for(ended, u64::from(WRITERS));
            node
        });
        let mut reader = node.client();
        let compared: usize = writers.iter_mut().map(|w| w.verify_touched(&mut reader)).sum();
        assert!(compared > 0, "cycle {cycle} wrote nothing");
        assert!(wrong(&writers).is_empty(), "cycle {cycle}, seed {seed}: {:?}", wrong(&writers));
    }
    verify_all(&node, &mut writers);
    recoveries.sort_unstable();
    let told = told(&writers);
    println!(
        "{cycles} cycles, seed {seed}: {} writes acknowledged, {} refused, {} unknown, {} wrong or \
         lost; serving again after {:?} (median), {:?} (longest), start of the process included",
        told.acked,
        told.refused,
        told.unknown,
        wrong(&writers).len(),
        recoveries[recoveries.len() / 2],
        recoveries[recoveries.len() - 1],
    );
    assert!(told.refused > 0, "the load has writes that are refused");
    assert!(wrong(&writers).is_empty(), "seed {seed}: {:?}", wrong(&writers));
}

fn a_process_stopped_for_two_seconds_goes_on_and_so_do_its_clients() {
    let (_tmp, dir) = data_dir();
    let node = NodeProcess::start(&dir, &[SMALL, &["--shards", "2"]].concat());
    let mut writers = writers(&node, 7);
    write_during(&mut writers, |ended| {
        wait_for(ended, ACKED_PER_CYCLE_MIN);
        kill(node.pid(), Signal::SIGSTOP).expect("it runs");
        std::thread::sleep(Duration::from_secs(2));
        kill(node.pid(), Signal::SIGCONT).expect("it is there");
        wait_for(ended, ACKED_PER_CYCLE_MIN);
    });
    assert_eq!(told(&writers).unknown, 0, "the clients waited for their answers");
    verify_all(&node, &mut writers);
    assert!(wrong(&writers).is_empty(), "{:?}", wrong(&writers));
    node.kill();
    let node = NodeProcess::start(&dir, &[]);
    verify_all(&node, &mut writers);
    assert!(wrong(&writers).is_empty(), "after a restart: {:?}", wrong(&writers));
}

/// Where in the files of shard 0 a text stands; the last such place when there are several.
fn find_in_segments(dir: &Path, text: &[u8]) -> (PathBuf, usize) {
    let mut found = None;
    let entries = std::fs::read_dir(dir.join("shard-000")).expect("the shard has files");
    for entry in entries {
        let path = entry.expect("it can be read").path();
        if path.extension().is_some_and(|e| e == "log") {
            let bytes = std::fs::read(&path).expect("the segment can be read");
            let at = bytes.windows(text.len()).rposition(|window| window == text);
            found = at.map(|at| (path, at)).or(found);
        }
    }
    found.expect("the text was written")
}

fn flip_bit(path: &Path, at: usize) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path);
    let file = file.expect("the node is stopped");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).expect("the place is in the file");
    file.write_all_at(&[byte[0] ^ 1], at as u64).expect("the file can be written");
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).expect("names are UTF-8")
}

/// Puts `count` values of `bytes` bytes, each of which begins with its key.
fn fill(client: &mut Client, prefix: &str, count: usize, bytes: usize) -> Vec<String> {
    let keys: Vec<String> = (0..count).map(|n| format!("{prefix}-{n:05}")).collect();
    for key in &keys {
        client.put(key.as_bytes(), &value_of(key, bytes)).expect("there is room");
    }
    keys
}

fn value_of(key: &str, bytes: usize) -> Vec<u8> {
    format!("value of {key} ").into_bytes().into_iter().cycle().take(bytes).collect()
}

const ONE_SHARD: &[&str] = &["--shards", "1"];

#[test]
fn one_damaged_record_is_not_served_and_all_others_are() {
    let (_tmp, dir) = data_dir();
    let node = NodeProcess::start(&dir, &[SMALL, ONE_SHARD].concat());
    // The first segment is sealed, and the checkpoint of the stop lies behind all of them.
    let keys = fill(&mut node.client(), "key", 150, 60_000);
    assert_eq!(node.stop().0, 0);
    let hurt = &keys[20];
    let (segment, at) = find_in_segments(&dir, format!("value of {hurt} ").as_bytes());
    assert_eq!(name(&segment), "segment-00000000.log", "the record is in the sealed segment");
    flip_bit(&segment, at);

    let inspect = ["inspect", "segment", segment.to_str().expect("UTF-8"), "-o", "json"];
    let inspected = Command::new(env!("CARGO_BIN_EXE_ironring")).args(inspect).output();
    let inspected = inspected.expect("the binary runs");
    assert_eq!(inspected.status.code(), Some(10));
    let report: serde_json::Value = serde_json::from_slice(&inspected.stdout).expect("JSON");
    assert_eq!(report["damages"], 1);

    let node = NodeProcess::start(&dir, &[]);
    let mut client = node.client();
    for _ in 0..2 {
        let told = client.get(hurt.as_bytes());
        assert!(refused_with(&told, ErrorCode::Corrupt), "{told:?}");
        let message = told.expect_err("checked above").to_string();
        assert!(message.contains("corrupt"), "{message}");
    }
    for key in keys.iter().filter(|key| *key != hurt) {
        let found = client.get(key.as_bytes()).expect("others are served");
        assert!(found.is_some_and(|found| found.value == value_of(key, 60_000)), "{key}");
    }
    client.put(hurt.as_bytes(), b"again").expect("a damaged value can be replaced");
    assert_eq!(client.get(hurt.as_bytes()).unwrap().unwrap().value, b"again");
    node.kill();
    let node = NodeProcess::start(&dir, &[]);
    assert_eq!(node.client().get(hurt.as_bytes()).unwrap().unwrap().value, b"again");
}

#[test]
fn damage_in_what_recovery_needs_is_named_and_the_node_does_not_start() {
    let (_tmp, dir) = data_dir();
    let node = NodeProcess::start(&dir, &[SMALL, ONE_SHARD].concat());
    let keys = fill(&mut node.client(), "key", 20, 1000);
    node.kill();
    let (segment, at) = find_in_segments(&dir, format!("value of {} ", keys[10]).as_bytes());
    flip_bit(&segment, at);
    for _ in 0..2 {
        let (status, said) = NodeProcess::run(&dir, &[]);
        assert_eq!(status, 74, "{said}");
        assert!(said.contains(&format!(" of {} (segment 1)", name(&segment))), "{said}");
        let position = said.split_once("is damaged at byte ").expect("it names a position").1;
        let position: usize = position.split(' ').next().unwrap_or_default().parse().unwrap();
        assert!(position <= at && at - position < 8192, "byte {position}, damaged at {at}");
        assert!(said.contains("it was durable, so nothing is cut"), "{said}");
    }
    // Nothing was changed: with the bit put right everything is there.
    flip_bit(&segment, at);
    let node = NodeProcess::start(&dir, &[]);
    let mut client = node.client();
    for key in &keys {
        let found = client.get(key.as_bytes()).unwrap();
        assert!(found.is_some_and(|found| found.value == value_of(key, 1000)), "{key}");
    }
}

#[test]
fn a_segment_that_is_gone_is_named_and_the_node_does_not_start() {
    let (tmp, dir) = data_dir();
    let node = NodeProcess::start(&dir, &[SMALL, ONE_SHARD].concat());
    let keys = fill(&mut node.client(), "key", 80, 60_000);
    assert_eq!(node.stop().0, 0);
    let (segment, _) = find_in_segments(&dir, format!("value of {} ", keys[5]).as_bytes());
    let aside = tmp.path().join("aside");
    std::fs::rename(&segment, &aside).unwrap();
    let (status, said) = NodeProcess::run(&dir, &[]);
    assert_eq!(status, 74, "{said}");
    let message = format!("{} is missing: restore it", name(&segment));
    assert!(said.contains(&message), "{said}");
    std::fs::rename(&aside, &segment).unwrap();
    let node = NodeProcess::start(&dir, &[]);
    let found = node.client().get(keys[5].as_bytes()).unwrap();
    assert!(found.is_some_and(|found| found.value == value_of(&keys[5], 60_000)));
}

#[test]
fn the_files_of_another_node_are_refused_with_both_names() {
    let (_tmp_a, a) = data_dir();
    let (_tmp_b, b) = data_dir();
    for dir in [&a, &b] {
        let node = NodeProcess::start(dir, &[SMALL, ONE_SHARD].concat());
        fill(&mut node.client(), "key", 3, 100);
        assert_eq!(node.stop().0, 0);
    }
    let uuid = |dir: &Path| {
        let text = std::fs::read_to_string(dir.join("node.toml")).expect("a node was here");
        let rest = text.split_once("storage_uuid = \"").expect("it has a uuid").1;
        rest[..32].to_owned()
    };
    let aside = a.join("aside");
    std::fs::rename(a.join("shard-000"), &aside).unwrap();
    std::fs::create_dir(a.join("shard-000")).unwrap();
    for entry in std::fs::read_dir(b.join("shard-000")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), a.join("shard-000").join(entry.file_name())).unwrap();
    }
    let (status, said) = NodeProcess::run(&a, &[]);
    assert_eq!(status, 74, "{said}");
    let plain = said.replace('-', "");
    assert!(said.contains("put the files back where they belong"), "{said}");
    assert!(plain.contains(&uuid(&a)) && plain.contains(&uuid(&b)), "{said}");
    std::fs::remove_dir_all(a.join("shard-000")).unwrap();
    std::fs::rename(&aside, a.join("shard-000")).unwrap();
    let found = NodeProcess::start(&a, &[]).client().get(b"key-00001").unwrap();
    assert!(found.is_some_and(|found| found.value == value_of("key-00001", 100)));
}

fn a_full_disk_refuses_writes_until_something_is_deleted() {
    const BYTES: usize = 200_000;
    let (_tmp, dir) = data_dir();
    let full =
        ["--set", "log.disk_bytes_max=64MiB", "--set", "log.checkpoint_interval_bytes=16MiB"];
    let args = [SMALL, ONE_SHARD, &full].concat();
    let node = NodeProcess::start(&dir, &args);
    let mut client = node.client();
    // Shorter than what the client would spend on repeating what is refused.
    client.set_deadline(Duration::from_secs(1));
    let (mut stored, mut doubtful, begin) = (Vec::new(), 0, Instant::now());
    let (refused, no_space) = loop {
        assert!(begin.elapsed() < PATIENCE, "{} values are stored and no end", stored.len());
        let key = format!("key-{:05}", stored.len() + doubtful);
        match client.put(key.as_bytes(), &value_of(&key, BYTES)) {
            Ok(_) => stored.push(key),
            Err(error) => match error.code() {
                Some(ErrorCode::NoSpace) => break (key, error),
                // While compaction looks for garbage.
                Some(code) => assert_eq!(code, ErrorCode::Overloaded, "{error}"),
                None => doubtful += 1,
            },
        }
    };
    let bytes = stored.len() * BYTES;
    println!("full with {} values, {bytes} bytes, of 64 MiB: {no_space}", stored.len());
    assert!(bytes > 16 << 20 && bytes < 64 << 20, "{bytes} bytes of 64 MiB");

    client.set_deadline(PATIENCE);
    let check = |client: &mut Client, keys: &[String]| {
        for key in keys {
            let found = client.get(key.as_bytes()).expect("reads go on");
            assert!(found.is_some_and(|found| found.value == value_of(key, BYTES)), "{key}");
        }
    };
    check(&mut client, &stored);
    assert!(client.get(refused.as_bytes()).unwrap().is_none(), "what was refused is not there");

    let (deleted, kept) = stored.split_at(stored.len() / 2);
    for key in deleted {
        client.delete(key.as_bytes()).expect("deletes go on");
    }
    let (mut written, quarter) = (Vec::new(), stored.len() / 4);
    for n in 0..quarter {
        let key = format!("new-{n:05}");
        client.put(key.as_bytes(), &value_of(&key, BYTES)).expect("writes come back");
        written.push(key);
    }
    check(&mut client, kept);
    check(&mut client, &written);
    node.kill();
    let node = NodeProcess::start(&dir, &args);
    let mut client = node.client();
    check(&mut client, kept);
    check(&mut client, &written);
    for key in deleted {
        assert!(client.get(key.as_bytes()).unwrap().is_none(), "{key} was deleted");
    }
}
