//! The client against a server in threads of this process that misbehaves on demand.

use std::future::Future;

use super::*;
use crate::client::WriteSettings;
use crate::client::fake::{Act, Cluster, Silent, Wrong};
use crate::codec::{decode_response, encode_request};
use crate::frame::{Opcode, set_correlation};
use crate::message::{AppendRecord, AppendTo, BatchOp, Condition, ReadFrom, Retention};
use ironring_core::Token;
use monoio::{FusionDriver, RuntimeBuilder};

pub(super) fn run<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = RuntimeBuilder::<FusionDriver>::new().enable_timer().build().unwrap();
    runtime.block_on(future)
}

fn config(cluster: &Cluster) -> ClientConfig {
    ClientConfig { name: "test".into(), ..ClientConfig::new(cluster.address(0)) }
}

async fn client(cluster: &Cluster) -> Client {
    Client::connect(config(cluster)).await.unwrap()
}

#[test]
fn keys_and_topics_work_as_in_the_blocking_client() {
    let cluster = Cluster::start();
    run(async {
        let c = client(&cluster).await;
        c.ping().await.unwrap();
        assert_eq!(c.stats().await.unwrap(), "{}");
        assert_eq!(c.get(b"a").await.unwrap(), None);
        let first = c.put(b"a", b"one").await.unwrap();
        let second = c.cas(b"a", first.offset, b"two").await.unwrap();
        let error = c.cas(b"a", first.offset, b"x").await.unwrap_err();
        assert_eq!(error.current_version(), Some(second.offset));
        assert_eq!(c.get(b"a").await.unwrap().unwrap().value, b"two");
        let home = c.partition_of(b"a").await.unwrap();
        let (entries, more) = c.scan_page(home, b"", b"", 0, true).await.unwrap();
        assert_eq!((entries[0].key.as_slice(), more), (b"a".as_slice(), false));
        let put = BatchOp::Put { key: b"a", value: b"b", condition: Condition::None, ttl_ms: 0 };
        c.batch(&[put], WriteSettings::default()).await.unwrap();
        c.delete(b"a", WriteSettings::default()).await.unwrap();
        let absent = WriteSettings::when(Condition::Absent);
        c.put_with(b"a", b"again", absent).await.unwrap();

        let info = c.topic_create("t", 2, Retention::default()).await.unwrap();
        assert_eq!(c.topic_list().await.unwrap(), [info]);
        let records = [AppendRecord { key: b"k", value: b"v" }; 3];
        let appended = c.topic_append("t", AppendTo::Partition(1), &records, None).await.unwrap();
        let read = c.topic_read("t", 1, ReadFrom::Earliest, (0, 0), 0).await.unwrap();
        assert_eq!((read.records.len(), read.end), (3, appended.first + 3));
        c.topic_trim("t", 1, appended.first + 1).await.unwrap();
        let (start, end, _) = c.topic_offsets("t", 1, Default::default()).await.unwrap();
        assert_eq!((start, end), (appended.first + 1, appended.first + 3));
        c.topic_delete("t").await.unwrap();
        let gone = c.topic_read("t", 1, ReadFrom::Latest, (0, 0), 0).await.unwrap_err();
        assert_eq!(gone.code(), Some(ErrorCode::UnknownTopic));
    });
}

#[test]
fn many_tasks_share_few_connections() {
    let cluster = Cluster::start();
    run(async {
        let c = client(&cluster).await;
        let tasks: Vec<_> = (0..3000u32)
            .map(|i| {
                let c = c.clone();
                monoio::spawn(async move {
                    let key = format!("key-{i}");
                    c.put(key.as_bytes(), &i.to_le_bytes()).await.unwrap();
                    let value = c.get(key.as_bytes()).await.unwrap().unwrap();
                    assert_eq!(value.value, i.to_le_bytes());
                })
            })
            .collect();
        for task in tasks {
            task.await;
        }
        assert_eq!(c.inner.pipelines.borrow().len(), 2);
        let keys: Vec<String> = (0..3000).map(|i| format!("key-{i}")).collect();
        let found = c.multi_get(&keys).await.unwrap();
        assert!((0..3000u32).all(|i| found[i as usize].as_ref().unwrap().value == i.to_le_bytes()));
    });
    assert_eq!((cluster.applied(), cluster.connections()), (3000, 2));
    assert_eq!(cluster.count(Opcode::OpenSession), 1);
}

#[test]
fn a_write_whose_answer_is_lost_is_applied_once_and_its_neighbours_too() {
    let cluster = Cluster::start();
    run(async {
        let c = client(&cluster).await;
        c.put(b"warm", b"").await.unwrap();
        cluster.on(Opcode::Put, Act::CloseAfter);
        cluster.on(Opcode::Put, Act::CloseBefore);
        let tasks: Vec<_> = (0..200u32)
            .map(|i| {
                let c = c.clone();
                monoio::spawn(async move { c.put(&i.to_le_bytes(), b"v").await.unwrap() })
            })
            .collect();
        for task in tasks {
            task.await;
        }
    });
    assert_eq!(cluster.applied(), 201);
}

#[test]
fn without_a_session_a_lost_answer_is_unknown() {
    let cluster = Cluster::start();
    run(async {
        let c = Client::connect(ClientConfig { session: false, ..config(&cluster) }).await.unwrap();
        cluster.on(Opcode::Put, Act::CloseAfter);
        let error = c.put(b"k", b"v").await.unwrap_err();
        assert!(matches!(error, ClientError::Unknown { .. }), "{error}");
        cluster.on(Opcode::Get, Act::CloseBefore);
        assert_eq!(c.get(b"k").await.unwrap().unwrap().value, b"v");
    });
    assert_eq!(cluster.count(Opcode::Put), 1);
}

#[test]
fn a_write_dropped_halfway_leaves_its_number_behind() {
    let cluster = Cluster::start();
    run(async {
        let c = client(&cluster).await;
        c.put(b"k", b"1").await.unwrap();
        cluster.on(Opcode::Put, Act::Silence);
        let dropped = timeout(Duration::from_millis(50), c.put(b"k", b"2")).await;
        assert!(dropped.is_err());
        let receipt = c.put(b"k", b"3").await.unwrap();
        assert!(!receipt.duplicate, "taken for the write that was dropped");
        assert_eq!(c.get(b"k").await.unwrap().unwrap().value, b"3");
    });
}

#[test]
fn a_shard_that_is_gone_is_gone_around() {
    let mut cluster = Cluster::start();
    run(async {
        let c = client(&cluster).await;
        for i in 0..50u32 {
            c.put(&i.to_le_bytes(), b"v").await.unwrap();
        }
        cluster.stop_shard(1);
        for i in 0..50u32 {
            assert!(c.get(&i.to_le_bytes()).await.unwrap().is_some());
            c.put(&i.to_le_bytes(), b"w").await.unwrap();
        }
    });
    assert_eq!(cluster.last_shard(), 0);
}

#[test]
fn no_more_are_sent_than_the_server_takes() {
    let cluster = Cluster::start();
    run(async {
        let config = config(&cluster);
        let (sender, receiver, mut server) = connect(&cluster.address(0), &config).await.unwrap();
        server.in_flight_max = 3;
        let pipeline = Pipeline::new(sender, receiver, server);
        for _ in 0..3 {
            cluster.on(Opcode::Get, Act::Silence);
        }
        let get = Request::Get { key: b"k" };
        let asked: Vec<_> = (0..3)
            .map(|_| {
                let pipeline = pipeline.clone();
                monoio::spawn(async move {
                    timeout(Duration::from_millis(100), pipeline.call(0, &get)).await.is_err()
                })
            })
            .collect();
        for task in asked {
            assert!(task.await, "nothing was answered");
        }
        // The server may still answer the three that were given up: they keep their places.
        let ping = pipeline.call(0, &Request::Ping);
        assert!(timeout(Duration::from_millis(100), ping).await.is_err());
        assert_eq!(cluster.count(Opcode::Ping), 0);
    });
}

#[test]
fn a_request_over_a_limit_takes_no_place() {
    let cluster = Cluster::start();
    run(async {
        let (sender, receiver, mut server) =
            connect(&cluster.address(0), &config(&cluster)).await.unwrap();
        server.in_flight_max = 1;
        let pipeline = Pipeline::new(sender, receiver, server);
        for _ in 0..3 {
            let refused = pipeline.call(0, &Request::Get { key: b"" }).await;
            assert!(matches!(refused, Err(Unanswered::Invalid(_))));
        }
        let answer = pipeline.call(0, &Request::Ping).await.unwrap();
        assert_eq!(answer.response(), Ok(Response::Pong));
    });
}

#[test]
fn frames_of_the_callers_own_making_go_out_together() {
    let cluster = Cluster::start();
    run(async {
        let (mut sender, mut receiver, _) =
            connect(&cluster.address(0), &config(&cluster)).await.unwrap();
        let mut ping = Vec::new();
        encode_request(&mut ping, 0, 0, &Request::Ping).unwrap();
        for correlation in 0..500 {
            set_correlation(&mut ping, correlation);
            sender.buffer().extend_from_slice(&ping);
        }
        sender.flush().await.unwrap();
        let mut seen = 0;
        while seen < 500 {
            receiver.fill().await.unwrap();
            while let Some((header, body)) = receiver.next_frame().unwrap() {
                assert_eq!(header.correlation, seen);
                assert_eq!(decode_response(&header, body), Ok(Response::Pong));
                seen += 1;
            }
        }
    });
}

#[test]
fn connecting_fails_with_the_reason() {
    let cluster = Cluster::start();
    run(async {
        let wrong = ClientConfig { cluster: "other".into(), ..config(&cluster) };
        let error = Client::connect(wrong).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::WrongCluster));
    });
}

#[test]
fn who_connects_to_a_silent_node_holds_nobody_up() {
    let cluster = Cluster::start();
    let silent = Silent::start();
    let address = silent.address();
    run(async {
        let forever = Duration::from_secs(3600);
        let config = ClientConfig { connect_timeout: forever, ..config(&cluster) };
        let c = Client::connect(config).await.unwrap();
        let open = |until: Duration| {
            let (c, address) = (c.clone(), address.clone());
            monoio::spawn(async move { c.open(&address, Instant::now() + until).await.is_err() })
        };
        let first = open(Duration::from_millis(100));
        let others: Vec<_> = (0..20).map(|_| open(forever)).collect();
        let address = cluster.address(1);
        let live = c.open(&address, Instant::now() + forever);
        timeout(Duration::from_secs(60), live).await.unwrap().unwrap();
        assert!(first.await);
        for other in others {
            assert!(timeout(Duration::from_secs(60), other).await.unwrap());
        }
    });
    assert_eq!(silent.connections(), 1, "they shared how it went");
}

#[test]
fn a_connection_is_given_up_only_when_nothing_is_answered_on_it() {
    let cluster = Cluster::start();
    run(async {
        let attempt_timeout = Duration::from_secs(1);
        let c =
            Client::connect(ClientConfig { attempt_timeout, ..config(&cluster) }).await.unwrap();
        c.put(b"k", b"v").await.unwrap();
        let before = cluster.connections();
        cluster.on(Opcode::Get, Act::Silence);
        let over = Rc::new(Cell::new(false));
        let slow = monoio::spawn({
            let (c, over) = (c.clone(), Rc::clone(&over));
            async move {
                assert!(c.get(b"k").await.unwrap().is_some());
                over.set(true);
            }
        });
        while cluster.count(Opcode::Get) == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        while !over.get() {
            assert!(c.get(b"k").await.unwrap().is_some());
        }
        slow.await;
        assert_eq!(cluster.connections(), before, "others were answered on it");
        cluster.on(Opcode::Get, Act::Silence);
        assert!(c.get(b"k").await.unwrap().is_some());
        assert_eq!(cluster.connections(), before + 1, "nobody was answered on it");
    });
}

#[test]
fn an_address_that_says_nothing_leaves_time_for_the_next() {
    let (cluster, silent) = (Cluster::start(), Silent::start());
    run(async {
        let config = ClientConfig {
            addrs: vec![silent.address(), cluster.address(0)],
            connect_timeout: Duration::from_secs(3600),
            deadline: Duration::from_secs(2),
            ..config(&cluster)
        };
        let c = Client::connect(config).await.unwrap();
        c.ping().await.unwrap();
        c.topic_list().await.unwrap();
        c.put(b"k", b"v").await.unwrap();
        cluster.on(Opcode::Ping, Act::CloseBefore);
        c.ping().await.unwrap();
    });
    assert_eq!(silent.connections(), 1, "it is tried again only when the others fail as well");
}

#[test]
fn a_node_that_fell_silent_is_left_for_another() {
    let cluster = Cluster::start();
    run(async {
        let addrs = vec![cluster.address(0), cluster.address(1)];
        let attempt_timeout = Duration::from_millis(200);
        let config = ClientConfig { addrs, attempt_timeout, ..config(&cluster) };
        let c = Client::connect(config).await.unwrap();
        cluster.on(Opcode::Ping, Act::Silence);
        c.ping().await.unwrap();
    });
    assert_eq!(cluster.shards_of(Opcode::Ping), [0, 1]);
}

#[test]
fn the_leader_is_found_among_the_addresses_given_when_those_of_the_map_lead_nowhere() {
    let cluster = Cluster::start();
    cluster.hide_behind_a_firewall();
    run(async {
        let addrs = vec![cluster.address(0), cluster.address(1)];
        let deadline = Duration::from_secs(2);
        let config = ClientConfig { addrs, deadline, ..config(&cluster) };
        let c = Client::connect(config).await.unwrap();
        let tasks: Vec<_> = (0..20u32)
            .map(|i| {
                let c = c.clone();
                monoio::spawn(async move { c.put(&i.to_le_bytes(), b"v").await.unwrap() })
            })
            .collect();
        for task in tasks {
            task.await;
        }
        for i in 0..20u32 {
            assert!(c.get(&i.to_le_bytes()).await.unwrap().is_some());
        }
    });
}

#[test]
fn a_read_that_may_be_old_asks_the_replicas_of_the_map() {
    let cluster = Cluster::start();
    run(async {
        client(&cluster).await.put(b"k", b"v").await.unwrap();
        let before = cluster.count(Opcode::ClusterMap);
        let refusal = Act::Refuse(ErrorCode::NotReady, 0);
        let c = client(&cluster).await;
        cluster.on(Opcode::Get, refusal);
        assert_eq!(c.get_stale(b"k").await.unwrap().found.unwrap().value, b"v");
        assert_eq!(cluster.shards_of(Opcode::Get), [0, 1]);
        c.get_stale(b"k").await.unwrap();
        assert_eq!(cluster.count(Opcode::ClusterMap), before + 1, "it is known by then");

        let c = client(&cluster).await;
        c.get_stale(b"k").await.unwrap();
        assert_eq!(cluster.shards_of(Opcode::Get).last(), Some(&0), "those given come first");
        cluster.on(Opcode::Get, refusal);
        cluster.on(Opcode::ClusterMap, Act::CloseBefore);
        let error = c.get_stale(b"k").await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::NotReady), "not that there is no map");
    });
}

#[test]
fn all_that_a_call_takes_shares_its_deadline() {
    let cluster = Cluster::start();
    run(async {
        let times = (Duration::from_millis(200), Duration::from_secs(1));
        let (attempt_timeout, deadline) = times;
        let config = ClientConfig { attempt_timeout, deadline, ..config(&cluster) };
        let c = Client::connect(config).await.unwrap();
        for opcode in [Opcode::ClusterMap, Opcode::OpenSession, Opcode::Put] {
            cluster.on(opcode, Act::Silence);
        }
        // Each silence is waited for close to half the deadline.
        assert!(c.put(b"k", b"v").await.is_err());
        c.put(b"k", b"w").await.unwrap();
    });
}

#[test]
fn a_leader_that_is_cut_off_is_left_for_its_successor() {
    for routes in [true, false] {
        let cluster = Cluster::start();
        run(async {
            let addrs = vec![cluster.address(0), cluster.address(1)];
            let config =
                ClientConfig { addrs, session: routes, shard_aware: routes, ..config(&cluster) };
            let c = Client::connect(config).await.unwrap();
            let mut keys = (0u32..).map(u32::to_le_bytes);
            let key = keys.find(|key| Token::of_key(key).partition(16).0 < 8).unwrap();
            c.put(&key, b"v").await.unwrap();
            assert_eq!((cluster.last_shard(), cluster.connections()), (0, 1));
            cluster.cut_off(0);
            c.put(&key, b"w").await.unwrap();
            assert_eq!(cluster.last_shard(), 1);
        });
    }
}

#[test]
fn a_task_that_writes_without_pause_lets_others_have_their_turn() {
    let cluster = Cluster::start();
    run(async {
        let c = client(&cluster).await;
        c.put(b"k", b"0").await.unwrap();
        let over = Rc::new(Cell::new(false));
        let writes = monoio::spawn({
            let (c, over) = (c.clone(), Rc::clone(&over));
            async move {
                while !over.get() {
                    c.put(b"k", b"1").await.unwrap();
                }
            }
        });
        // Whenever another task runs, that one is inside.
        while cluster.count(Opcode::Put) < 3 {
            sleep(Duration::from_millis(1)).await;
        }
        let written = c.put(b"k", b"2").await;
        over.set(true);
        writes.await;
        written.unwrap();
    });
}

#[test]
fn a_write_that_never_left_is_not_in_doubt() {
    let cluster = Cluster::start();
    run(async {
        let config = ClientConfig { session: false, shard_aware: false, ..config(&cluster) };
        let mut c = Client::connect(config.clone()).await.unwrap();
        Rc::get_mut(&mut c.inner).unwrap().config.deadline = Duration::from_millis(20);
        let address = cluster.address(0);
        let (sender, receiver, mut server) = connect(&address, &config).await.unwrap();
        server.in_flight_max = 1;
        let narrow = Pipeline::new(sender, receiver, server);
        c.inner.pipelines.borrow_mut().insert(address, narrow.clone());
        cluster.on(Opcode::Get, Act::Silence);
        let get = Request::Get { key: b"k" };
        assert!(timeout(Duration::from_millis(10), narrow.call(0, &get)).await.is_err());
        let error = c.put(b"k", b"v").await.unwrap_err();
        assert!(matches!(error, ClientError::Timeout), "{error}");
    });
    assert_eq!(cluster.count(Opcode::Put), 0);
}

#[test]
fn the_receipt_of_another_write_is_not_taken_for_ones_own() {
    let cluster = Cluster::start();
    run(async {
        let c = client(&cluster).await;
        c.put(b"k", b"1").await.unwrap();
        cluster.on(Opcode::Put, Act::Duplicate);
        let error = c.put(b"k", b"2").await.unwrap_err();
        assert!(matches!(error, ClientError::Unknown { .. }), "{error}");
        assert!(!c.put(b"k", b"3").await.unwrap().duplicate);
    });
    assert_eq!(cluster.count(Opcode::OpenSession), 2, "the session is shared with somebody");
}

#[test]
fn an_error_code_of_a_newer_server_is_a_refusal() {
    let cluster = Cluster::start();
    run(async {
        let c = client(&cluster).await;
        c.put(b"k", b"1").await.unwrap();
        let before = cluster.connections();
        cluster.on(Opcode::Put, Act::Wrong(Wrong::Code));
        let error = c.put(b"k", b"2").await.unwrap_err();
        assert!(matches!(error, ClientError::Protocol(_)) && error.to_string().contains("999"));
        assert_eq!(cluster.count(Opcode::Put), 2, "it was not repeated");
        c.put(b"k", b"3").await.unwrap();
        assert_eq!((cluster.count(Opcode::OpenSession), cluster.connections()), (1, before));
    });
}

#[test]
fn a_connection_is_given_up_when_an_answer_on_it_is_wrong() {
    let cluster = Cluster::start();
    run(async {
        let c = client(&cluster).await;
        c.put(b"k", b"v").await.unwrap();
        for act in [Act::Garbage, Act::Wrong(Wrong::BodyChecksum), Act::Wrong(Wrong::Version)] {
            let before = cluster.connections();
            cluster.on(Opcode::Get, act);
            assert_eq!(c.get(b"k").await.unwrap().unwrap().value, b"v");
            assert_eq!(cluster.connections(), before + 1, "{act:?}");
        }
    });
}

#[test]
fn a_node_whose_silence_is_noticed_by_the_way_loses_its_connection_as_well() {
    let cluster = Cluster::start();
    run(async {
        let addrs = vec![cluster.address(0), cluster.address(1)];
        let config = ClientConfig { addrs, ..config(&cluster) };
        let left = |c: &Client, shard: usize| {
            let address = cluster.address(shard);
            let failed = c.inner.candidates.borrow().has_failed(&address);
            failed && c.opened(&address).is_none()
        };
        let c = Client::connect(config.clone()).await.unwrap();
        c.put(b"k", b"v").await.unwrap();
        cluster.on(Opcode::Get, Act::Silence);
        assert_eq!(c.get_stale(b"k").await.unwrap().found.unwrap().value, b"v");
        let asked = cluster.shards_of(Opcode::Get);
        assert_eq!(asked.len(), 2);
        assert!(left(&c, asked[0]) && !left(&c, asked[1]));

        let c = Client::connect(config).await.unwrap();
        let until = || Instant::now() + Duration::from_secs(1);
        c.open(&cluster.address(1), until()).await.unwrap();
        cluster.on(Opcode::ClusterMap, Act::Silence);
        c.ask_for_map(until()).await;
        let asked = cluster.shards_of(Opcode::ClusterMap);
        assert!(left(&c, asked[asked.len() - 2]) && !left(&c, asked[asked.len() - 1]));
    });
}
