//! The client against a server in threads of this process that misbehaves on demand.

use std::time::Duration;

use super::*;
use crate::client::fake::{Act, Cluster, Silent, Wrong};
use crate::client::{Record, WriteSettings};
use crate::frame::Opcode;
use crate::message::{AppendRecord, AppendTo, BatchOp, Condition, ReadFrom, Retention};
use ironring_core::{Offset, WallTime};

fn config(cluster: &Cluster) -> ClientConfig {
    ClientConfig { name: "test".into(), ..ClientConfig::new(cluster.address(0)) }
}

fn client(cluster: &Cluster) -> Client {
    Client::connect(config(cluster)).unwrap()
}

fn without_session(cluster: &Cluster) -> Client {
    Client::connect(ClientConfig { session: false, ..config(cluster) }).unwrap()
}

#[test]
fn keys_are_written_read_and_removed() {
    let cluster = Cluster::start();
    let mut c = client(&cluster);
    assert_eq!(c.get(b"a").unwrap(), None);
    let first = c.put(b"a", b"one").unwrap();
    let value = c.get(b"a").unwrap().unwrap();
    assert_eq!((value.version, value.value.as_slice()), (first.offset, b"one".as_slice()));
    let second = c.cas(b"a", first.offset, b"two").unwrap();
    assert!(second.offset > first.offset && !second.duplicate);
    let error = c.cas(b"a", first.offset, b"three").unwrap_err();
    assert_eq!(error.current_version(), Some(second.offset));
    assert_eq!(c.put_if_absent(b"a", b"x").unwrap_err().current_version(), Some(second.offset));
    c.delete(b"a").unwrap();
    assert_eq!(c.get(b"a").unwrap(), None);
    let error = c.cas(b"a", second.offset, b"x").unwrap_err();
    assert_eq!(error.current_version(), Some(Offset::NONE));
    c.put_if_absent(b"a", b"again").unwrap();
    c.ping().unwrap();
    assert_eq!(c.stats().unwrap(), "{}");
}

#[test]
fn many_keys_are_read_across_partitions_and_scanned() {
    let cluster = Cluster::start();
    let mut c = client(&cluster);
    let keys: Vec<String> = (0..2500).map(|i| format!("key-{i:04}")).collect();
    for key in &keys {
        c.put(key.as_bytes(), key.to_uppercase().as_bytes()).unwrap();
    }
    c.put(b"other", b"").unwrap();
    let mut asked: Vec<&str> = keys.iter().step_by(7).map(String::as_str).collect();
    asked.insert(3, "missing");
    let found = c.multi_get(&asked).unwrap();
    for (key, value) in asked.iter().zip(&found) {
        let expected = (*key != "missing").then(|| key.to_uppercase().into_bytes());
        assert_eq!(value.as_ref().map(|v| v.value.clone()), expected, "{key}");
    }
    let mut scanned: Vec<Vec<u8>> =
        c.scan(b"key-", false).map(|entry| entry.unwrap().key).collect();
    scanned.sort();
    assert_eq!(scanned, keys.iter().map(|key| key.as_bytes().to_vec()).collect::<Vec<_>>());
    let with_values = c.scan(b"key-1", true).map(Result::unwrap);
    assert!(with_values.into_iter().all(|e| e.value.unwrap() == e.key.to_ascii_uppercase()));
}

#[test]
fn a_multi_get_whose_answer_is_too_large_is_split() {
    let cluster = Cluster::start();
    let mut c = client(&cluster);
    c.put(b"k", b"v").unwrap();
    cluster.on(Opcode::MultiGet, Act::Refuse(ErrorCode::TooLarge, 0));
    let found = c.multi_get(&[b"k", b"k", b"k"]).unwrap();
    assert_eq!(found.iter().flatten().count(), 3);
    assert_eq!(cluster.count(Opcode::MultiGet), 3);
}

#[test]
fn a_batch_is_one_partition_and_all_or_nothing() {
    let cluster = Cluster::start();
    let mut c = client(&cluster);
    let home = c.partition_of(b"k0").unwrap();
    let same = (1..).map(|i| format!("k{i}"));
    let same = same.filter(|k| c.partition_of(k.as_bytes()).unwrap() == home).take(1);
    let same: Vec<String> = same.collect();
    let same = same[0].as_bytes();
    let put = |key| BatchOp::Put { key, value: b"v", condition: Condition::Absent, ttl_ms: 0 };
    c.batch(&[put(b"k0"), put(same)], WriteSettings::default()).unwrap();
    assert_eq!(c.multi_get(&[b"k0", same]).unwrap().iter().flatten().count(), 2);
    let delete = BatchOp::Delete { key: same, condition: Condition::None };
    let error = c.batch(&[delete, put(b"k0")], WriteSettings::default()).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::ConditionFailed));
    assert!(c.get(same).unwrap().is_some());
    let foreign: Vec<u8> = (0..)
        .map(|i| format!("f{i}").into_bytes())
        .find(|k| Token::of_key(k).partition(16) != home)
        .unwrap();
    let error = c.batch(&[put(b"k0"), put(&foreign)], WriteSettings::default()).unwrap_err();
    assert!(matches!(error, ClientError::Request(_)), "{error}");
    assert!(matches!(c.batch(&[], WriteSettings::default()), Err(ClientError::Request(_))));
}

#[test]
fn topics_are_made_written_read_and_dropped() {
    let cluster = Cluster::start();
    let mut c = client(&cluster);
    let retention = Retention { age_ms: 5, bytes: 6 };
    let info = c.topic_create("orders", 4, retention).unwrap();
    assert_eq!((info.name.as_str(), info.partitions, info.retention), ("orders", 4, retention));
    let again = c.topic_create("orders", 4, retention).unwrap_err();
    assert_eq!(again.code(), Some(ErrorCode::TopicExists));
    assert_eq!(c.topic_list().unwrap(), [info]);
    let records =
        [AppendRecord { key: b"", value: b"one" }, AppendRecord { key: b"k", value: b"2" }];
    let first = c.topic_append("orders", AppendTo::Partition(1), &records, None).unwrap();
    assert_eq!((first.partition, first.count), (1, 2));
    let second = c.topic_append("orders", AppendTo::Partition(1), &records[..1], None).unwrap();
    assert_eq!(second.first, first.first + 2);
    let read = c.topic_read("orders", 1, ReadFrom::Earliest, (0, 0), 0).unwrap();
    assert_eq!(read.end, second.first + 1);
    assert_eq!(read.records.len(), 3);
    let expected = Record {
        offset: first.first + 1,
        time: read.records[1].time,
        key: b"k".to_vec(),
        value: b"2".to_vec(),
    };
    assert_eq!(read.records[1], expected);
    let by_key = c.topic_append("orders", AppendTo::Key(b"abc"), &records, None).unwrap();
    assert_eq!(by_key.partition, 0xba78_16bf % 4);
    c.topic_trim("orders", 1, second.first).unwrap();
    assert_eq!(
        c.topic_offsets("orders", 1, WallTime(0)).unwrap(),
        (second.first, second.first + 1, second.first + 1)
    );
    c.topic_delete("orders").unwrap();
    let gone = c.topic_read("orders", 1, ReadFrom::Earliest, (0, 0), 0).unwrap_err();
    assert_eq!(gone.code(), Some(ErrorCode::UnknownTopic));
    let none = c.topic_append("orders", AppendTo::Partition(0), &[], None).unwrap_err();
    assert!(matches!(none, ClientError::Request(_)));
}

#[test]
fn the_id_of_a_topic_made_anew_is_looked_up_again() {
    let cluster = Cluster::start();
    let (mut writer, mut other) = (client(&cluster), client(&cluster));
    let record = [AppendRecord { key: b"", value: b"v" }];
    let to = AppendTo::Partition(0);
    writer.topic_create("t", 1, Retention::default()).unwrap();
    writer.topic_append("t", to, &record, None).unwrap();
    other.topic_delete("t").unwrap();
    other.topic_create("t", 1, Retention::default()).unwrap();
    writer.topic_append("t", to, &record, None).unwrap();
    assert_eq!(other.topic_read("t", 0, ReadFrom::Earliest, (0, 0), 0).unwrap().records.len(), 1);
}

#[test]
fn a_write_whose_answer_is_lost_is_applied_once() {
    let cluster = Cluster::start();
    let mut c = client(&cluster);
    for (i, act) in [Act::CloseAfter, Act::CloseBefore, Act::CloseAfter].into_iter().enumerate() {
        cluster.on(Opcode::Put, act);
        let value = [i as u8];
        let receipt = c.put(b"k", &value).unwrap();
        assert_eq!(receipt.duplicate, act == Act::CloseAfter, "{act:?}");
        let stored = c.get(b"k").unwrap().unwrap();
        assert_eq!((stored.version, stored.value), (receipt.offset, value.to_vec()));
        assert_eq!(cluster.applied(), i + 1);
    }
}

#[test]
fn without_a_session_a_lost_answer_is_unknown_and_not_repeated() {
    let cluster = Cluster::start();
    let mut c = without_session(&cluster);
    cluster.on(Opcode::Put, Act::CloseAfter);
    let error = c.put(b"k", b"v").unwrap_err();
    assert!(matches!(error, ClientError::Unknown { .. }), "{error}");
    assert_eq!((cluster.count(Opcode::Put), cluster.applied()), (1, 1));
    cluster.on(Opcode::Put, Act::Refuse(ErrorCode::Unknown, 0));
    assert!(matches!(c.put(b"k", b"v"), Err(ClientError::Unknown { .. })));
    cluster.on(Opcode::Put, Act::Refuse(ErrorCode::Overloaded, 1));
    c.put(b"k", b"v").unwrap();
    assert_eq!(cluster.count(Opcode::OpenSession), 0);
}

#[test]
fn reads_are_repeated_over_new_connections() {
    let cluster = Cluster::start();
    let mut c = without_session(&cluster);
    c.put(b"k", b"v").unwrap();
    for act in [Act::CloseBefore, Act::Garbage, Act::Refuse(ErrorCode::NotReady, 0)] {
        cluster.on(Opcode::Get, act);
        assert_eq!(c.get(b"k").unwrap().unwrap().value, b"v", "{act:?}");
    }
}

#[test]
fn an_answer_that_does_not_come_is_unknown_for_a_write_and_a_timeout_for_a_read() {
    let cluster = Cluster::start();
    let mut c = client(&cluster);
    c.put(b"k", b"v").unwrap();
    c.set_deadline(Duration::from_millis(100));
    cluster.on(Opcode::Get, Act::Silence);
    assert!(matches!(c.get(b"k"), Err(ClientError::Timeout)));
    cluster.on(Opcode::Put, Act::Silence);
    let error = c.put(b"k", b"w").unwrap_err();
    assert!(matches!(error, ClientError::Unknown { .. }), "{error}");
    c.set_deadline(Duration::from_secs(10));
    // The next write must not pass for the one in doubt.
    let receipt = c.put(b"k", b"x").unwrap();
    assert!(!receipt.duplicate);
    assert_eq!(c.get(b"k").unwrap().unwrap().value, b"x");
    assert_eq!(cluster.count(Opcode::OpenSession), 2);
}

#[test]
fn a_refusal_leaves_the_sequence_free_and_a_failed_condition_uses_it_up() {
    let cluster = Cluster::start();
    let mut c = client(&cluster);
    cluster.on(Opcode::Put, Act::Refuse(ErrorCode::Overloaded, 1));
    cluster.on(Opcode::Put, Act::Refuse(ErrorCode::NoSpace, 0));
    c.put(b"k", b"1").unwrap();
    cluster.on(Opcode::Put, Act::Refuse(ErrorCode::TooLarge, 0));
    assert_eq!(c.put(b"k", b"2").unwrap_err().code(), Some(ErrorCode::TooLarge));
    assert!(c.put_if_absent(b"k", b"3").is_err());
    assert!(!c.put(b"k", b"4").unwrap().duplicate);
    assert_eq!(c.get(b"k").unwrap().unwrap().value, b"4");
    assert_eq!(cluster.sequences_seen(), [1, 1, 1, 2, 2, 3]);
}

#[test]
fn a_session_the_server_forgot_is_replaced() {
    let cluster = Cluster::start();
    let mut c = client(&cluster);
    c.put(b"k", b"1").unwrap();
    cluster.on(Opcode::Put, Act::Refuse(ErrorCode::SessionExpired, 0));
    assert!(!c.put(b"k", b"2").unwrap().duplicate);
    cluster.forget_sessions();
    assert!(!c.put(b"k", b"3").unwrap().duplicate, "a gap: the server lost the first sequences");
    assert_eq!(c.get(b"k").unwrap().unwrap().value, b"3");
    assert_eq!(cluster.count(Opcode::OpenSession), 3);
}

#[test]
fn requests_go_to_the_owning_shard_and_elsewhere_when_it_is_gone() {
    let mut cluster = Cluster::start();
    let mut c = client(&cluster);
    let key_of = |shard: u32| {
        (0..)
            .map(|i| format!("s{i}").into_bytes())
            .find(|k| Token::of_key(k).partition(16).0 / 8 == shard)
            .unwrap()
    };
    let keys = [key_of(0), key_of(1)];
    for (shard, key) in keys.iter().enumerate() {
        c.put(key, b"v").unwrap();
        assert_eq!(cluster.last_shard(), shard);
    }
    cluster.stop_shard(1);
    c.put(&keys[1], b"w").unwrap();
    assert_eq!(cluster.last_shard(), 0);
    assert_eq!(c.get(&keys[1]).unwrap().unwrap().value, b"w");
    let mut unaware =
        Client::connect(ClientConfig { shard_aware: false, ..config(&cluster) }).unwrap();
    unaware.put(&keys[1], b"x").unwrap();
    assert_eq!(cluster.last_shard(), 0);
}

#[test]
fn an_old_map_is_renewed() {
    let cluster = Cluster::start();
    let mut c = client(&cluster);
    c.put(b"k", b"v").unwrap();
    let before = cluster.count(Opcode::ClusterMap);
    cluster.on(Opcode::Put, Act::Refuse(ErrorCode::WrongPartition, 0));
    c.put(b"k", b"v").unwrap();
    assert_eq!(cluster.count(Opcode::ClusterMap), before + 1);
}

/// Without its own limit the attempt would take the whole deadline.
#[test]
fn a_node_that_says_nothing_is_asked_again() {
    let cluster = Cluster::start();
    let times = (Duration::from_millis(20), Duration::from_secs(3600));
    let (attempt_timeout, deadline) = times;
    let mut c =
        Client::connect(ClientConfig { attempt_timeout, deadline, ..config(&cluster) }).unwrap();
    cluster.on(Opcode::Put, Act::Silence);
    c.put(b"k", b"v").unwrap();
    assert_eq!(cluster.count(Opcode::Put), 2);
    assert_eq!(c.get(b"k").unwrap().unwrap().value, b"v");
}

#[test]
fn connecting_fails_with_the_reason() {
    let cluster = Cluster::start();
    let wrong = ClientConfig { cluster: "other".into(), ..config(&cluster) };
    assert_eq!(Client::connect(wrong).unwrap_err().code(), Some(ErrorCode::WrongCluster));
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let down = Client::connect(ClientConfig::new(address.clone())).unwrap_err();
    assert!(matches!(down, ClientError::Io { .. }), "{down}");
    // The next address is tried when the first does not answer.
    let addrs = vec![address, cluster.address(0)];
    Client::connect(ClientConfig { addrs, ..config(&cluster) }).unwrap().ping().unwrap();
    let none = Client::connect(ClientConfig { addrs: vec![], ..config(&cluster) }).unwrap_err();
    assert!(matches!(none, ClientError::Protocol(_)));
}

#[test]
fn requests_over_a_limit_are_refused_before_they_are_sent() {
    let cluster = Cluster::start();
    let mut c = client(&cluster);
    assert!(matches!(c.put(b"", b"v"), Err(ClientError::Request(_))));
    assert!(matches!(c.put(&[0; 1025], b"v"), Err(ClientError::Request(_))));
    assert_eq!(cluster.count(Opcode::Put), 0);
    assert!(!c.put(b"k", b"v").unwrap().duplicate);
}

#[test]
fn frames_of_the_callers_own_making_are_answered_by_correlation() {
    let cluster = Cluster::start();
    let until = Instant::now() + Duration::from_secs(10);
    let config = config(&cluster);
    let mut raw = RawConnection::connect(&cluster.address(0), &config.hello(), until).unwrap();
    assert_eq!(raw.server().node, "fake");
    let mut frames = Vec::new();
    for correlation in 100..200 {
        encode_request(&mut frames, correlation, 0, &Request::Ping).unwrap();
    }
    raw.send(&frames, until).unwrap();
    for correlation in 100..200 {
        let (header, body) = raw.receive(until).unwrap();
        assert_eq!(header.correlation, correlation);
        assert_eq!(decode_response(&header, body), Ok(Response::Pong));
    }
}

#[test]
fn an_address_that_says_nothing_leaves_time_for_the_next() {
    let (cluster, silent) = (Cluster::start(), Silent::start());
    let config = ClientConfig {
        addrs: vec![silent.address(), cluster.address(0)],
        connect_timeout: Duration::from_secs(3600),
        deadline: Duration::from_secs(2),
        ..config(&cluster)
    };
    let mut c = Client::connect(config).unwrap();
    c.ping().unwrap();
    c.topic_list().unwrap();
    c.put(b"k", b"v").unwrap();
    cluster.on(Opcode::Ping, Act::CloseBefore);
    c.ping().unwrap();
    assert_eq!(silent.connections(), 1, "it is tried again only when the others fail as well");
}

#[test]
fn a_node_that_fell_silent_is_left_for_another() {
    let cluster = Cluster::start();
    let addrs = vec![cluster.address(0), cluster.address(1)];
    let attempt_timeout = Duration::from_millis(200);
    let mut c =
        Client::connect(ClientConfig { addrs, attempt_timeout, ..config(&cluster) }).unwrap();
    cluster.on(Opcode::Ping, Act::Silence);
    c.ping().unwrap();
    assert_eq!(cluster.shards_of(Opcode::Ping), [0, 1]);
}

#[test]
fn the_leader_is_found_among_the_addresses_given_when_those_of_the_map_lead_nowhere() {
    let cluster = Cluster::start();
    cluster.hide_behind_a_firewall();
    let addrs = vec![cluster.address(0), cluster.address(1)];
    let deadline = Duration::from_secs(2);
    for session in [true, false] {
        let addrs = addrs.clone();
        let config = ClientConfig { addrs, deadline, session, ..config(&cluster) };
        let mut c = Client::connect(config).unwrap();
        for i in 0..20u32 {
            c.put(&i.to_le_bytes(), b"v").unwrap();
            assert!(c.get(&i.to_le_bytes()).unwrap().is_some());
        }
    }
}

#[test]
fn a_read_that_may_be_old_asks_the_replicas_of_the_map() {
    let cluster = Cluster::start();
    client(&cluster).put(b"k", b"v").unwrap();
    let before = cluster.count(Opcode::ClusterMap);
    let refusal = Act::Refuse(ErrorCode::NotReady, 0);
    let mut c = client(&cluster);
    cluster.on(Opcode::Get, refusal);
    assert_eq!(c.get_stale(b"k").unwrap().found.unwrap().value, b"v");
    assert_eq!(cluster.shards_of(Opcode::Get), [0, 1]);
    c.get_stale(b"k").unwrap();
    assert_eq!(cluster.count(Opcode::ClusterMap), before + 1, "it is known by then");

    let mut c = client(&cluster);
    c.get_stale(b"k").unwrap();
    assert_eq!(cluster.shards_of(Opcode::Get).last(), Some(&0), "those given come first");
    cluster.on(Opcode::Get, refusal);
    cluster.on(Opcode::ClusterMap, Act::CloseBefore);
    let error = c.get_stale(b"k").unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::NotReady), "not that there is no map");
}

#[test]
fn all_that_a_call_takes_shares_its_deadline() {
    let cluster = Cluster::start();
    let times = (Duration::from_millis(200), Duration::from_secs(1));
    let (attempt_timeout, deadline) = times;
    let mut c =
        Client::connect(ClientConfig { attempt_timeout, deadline, ..config(&cluster) }).unwrap();
    for opcode in [Opcode::ClusterMap, Opcode::OpenSession, Opcode::Put] {
        cluster.on(opcode, Act::Silence);
    }
    // Each silence is waited for close to half the deadline.
    assert!(c.put(b"k", b"v").is_err());
    c.put(b"k", b"w").unwrap();
}

#[test]
fn a_leader_that_is_cut_off_is_left_for_its_successor() {
    for routes in [true, false] {
        let cluster = Cluster::start();
        let addrs = vec![cluster.address(0), cluster.address(1)];
        let config =
            ClientConfig { addrs, session: routes, shard_aware: routes, ..config(&cluster) };
        let mut c = Client::connect(config).unwrap();
        let mut keys = (0u32..).map(u32::to_le_bytes);
        let key = keys.find(|key| Token::of_key(key).partition(16).0 < 8).unwrap();
        c.put(&key, b"v").unwrap();
        assert_eq!((cluster.last_shard(), cluster.connections()), (0, 1));
        cluster.cut_off(0);
        c.put(&key, b"w").unwrap();
        assert_eq!(cluster.last_shard(), 1);
    }
}

#[test]
fn the_receipt_of_another_write_is_not_taken_for_ones_own() {
    let cluster = Cluster::start();
    let mut c = client(&cluster);
    c.put(b"k", b"1").unwrap();
    cluster.on(Opcode::Put, Act::Duplicate);
    let error = c.put(b"k", b"2").unwrap_err();
    assert!(matches!(error, ClientError::Unknown { .. }), "{error}");
    assert!(!c.put(b"k", b"3").unwrap().duplicate);
    assert_eq!(cluster.count(Opcode::OpenSession), 2, "the session is shared with somebody");
}

#[test]
fn an_error_code_of_a_newer_server_is_a_refusal() {
    let cluster = Cluster::start();
    let mut c = client(&cluster);
    c.put(b"k", b"1").unwrap();
    let before = cluster.connections();
    cluster.on(Opcode::Put, Act::Wrong(Wrong::Code));
    let error = c.put(b"k", b"2").unwrap_err();
    assert!(matches!(error, ClientError::Protocol(_)) && error.to_string().contains("999"));
    assert_eq!(cluster.count(Opcode::Put), 2, "it was not repeated");
    c.put(b"k", b"3").unwrap();
    assert_eq!((cluster.count(Opcode::OpenSession), cluster.connections()), (1, before));
}

#[test]
fn a_connection_is_given_up_when_an_answer_on_it_is_wrong() {
    let cluster = Cluster::start();
    let mut c = client(&cluster);
    c.put(b"k", b"v").unwrap();
    for act in [Act::Garbage, Act::Wrong(Wrong::BodyChecksum), Act::Wrong(Wrong::Version)] {
        let before = cluster.connections();
        cluster.on(Opcode::Get, act);
        assert_eq!(c.get(b"k").unwrap().unwrap().value, b"v");
        assert_eq!(cluster.connections(), before + 1, "{act:?}");
    }
}
