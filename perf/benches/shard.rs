//! A whole shard without a device or sockets: what a durable put and a get cost the processor, from
//! the frame of the request to that of the answer.
//!
//! The disk is memory and answers at once. Puts come as 64 connections with one request each send
//! them: a group commit for every 64, each to another partition mostly.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ironring_core::io::{HeapAlloc, IoDone};
use ironring_core::{Durability, Instant, Now, SessionId, ShardId, StorageUuid, WallTime};
use ironring_log::{Identity, LogConfig};
use ironring_net::frame::HEADER_BYTES;
use ironring_net::message::{ClusterMap, Condition, Request, ShardAddress, WriteOptions};
use ironring_net::{decode_header, encode_request};
use ironring_node::shard::{
    ConnId, Effects, Event, MovementSettings, Phase, Shard, ShardConfig, compare,
};
use ironring_perf::keys::random_key;
use ironring_perf::memory_disk::MemoryDisk;
use ironring_ring::Slices;

const PARTITIONS: u32 = 256;
const KEYS: u64 = 100_000;
const CONNECTIONS: u64 = 64;
const BODY: [u8; 1024] = [7; 1024];

struct Solo {
    shard: Shard,
    disk: MemoryDisk,
    fx: Effects,
    now: Now,
    answers: u64,
    frame: Vec<u8>,
}

impl Solo {
    fn open() -> Solo {
        let slices = Slices::new(PARTITIONS, 1).expect("more partitions than shards");
        let own = ShardAddress { shard: 0, address: "a:1".to_owned(), first: 0, end: PARTITIONS };
        let config = ShardConfig {
            identity: Identity { storage: StorageUuid(7), shard: ShardId(0), salt: 1 },
            slices,
            log: LogConfig { segment_bytes: 16 << 20, ..LogConfig::default() },
            memory_bytes_max: 2 << 30,
            cache_bytes: 512 << 20,
            deadline_default: std::time::Duration::from_secs(10),
            deadline_max: std::time::Duration::from_secs(10),
            alone: true,
            has_others: false,
            incarnation: None,
            replication: ironring_ring::replication::Settings::default(),
            movement: MovementSettings::default(),
            compare: compare::Settings::default(),
            map: ClusterMap { epoch: 1, partitions: PARTITIONS, shards: vec![own] },
        };
        let mut solo = Solo {
            shard: Shard::new(config, Box::new(HeapAlloc)),
            disk: MemoryDisk::default(),
            fx: Effects::default(),
            now: Now { mono: Instant(1), wall: WallTime(1_700_000_000_000) },
            answers: 0,
            frame: Vec::new(),
        };
        solo.shard.handle(solo.now, Event::Start { format: true }, &mut solo.fx);
        while solo.shard.phase() == Phase::Opening {
            solo.turn();
            solo.shard.handle(solo.now, Event::Timer, &mut solo.fx);
        }
        for key in 0..KEYS {
            solo.put(key % CONNECTIONS, key);
            if key % CONNECTIONS == CONNECTIONS - 1 {
                solo.turn();
            }
        }
        solo.turn();
        solo
    }

    fn ask(&mut self, conn: u64, request: &Request<'_>) {
        self.frame.clear();
        encode_request(&mut self.frame, 1, 0, request).expect("it is within every limit");
        let header = decode_header(&self.frame).expect("it was just encoded");
        let (conn, body) = (ConnId(conn + 1), &self.frame[HEADER_BYTES..]);
        self.shard.handle(self.now, Event::Request { conn, header, body }, &mut self.fx);
    }

    fn put(&mut self, conn: u64, number: u64) {
        let mut key = [0; 16];
        random_key(&mut key, number);
        let options =
            WriteOptions { durability: Durability::Local, session: SessionId::NONE, sequence: 0 };
        let (condition, ttl_ms) = (Condition::None, 0);
        self.ask(conn, &Request::Put { options, condition, ttl_ms, key: &key, value: &BODY });
    }

    fn get(&mut self, conn: u64, number: u64) {
        let mut key = [0; 16];
        random_key(&mut key, number);
        self.ask(conn, &Request::Get { key: &key });
    }

    /// Ends the turn and lets the disk finish everything.
    fn turn(&mut self) {
        self.now.mono = Instant(self.now.mono.0 + 1_000_000);
        self.shard.handle(self.now, Event::TurnEnd, &mut self.fx);
        while let Some(request) = self.fx.io.pop() {
            let result = self.disk.execute(request.op);
            let done = IoDone { id: request.id, result };
            self.shard.handle(self.now, Event::Io(done), &mut self.fx);
            self.shard.handle(self.now, Event::TurnEnd, &mut self.fx);
        }
        let answers = &mut self.answers;
        self.fx.take_replies(|_, frame| {
            assert!(frame.len() >= HEADER_BYTES);
            *answers += 1;
        });
        self.fx.messages.clear();
    }
}

fn shard(c: &mut Criterion) {
    let mut solo = Solo::open();
    let mut group = c.benchmark_group("shard");
    group.throughput(Throughput::Elements(CONNECTIONS)).sample_size(60);
    let mut n = 0_u64;
    let mut next = || {
        n += 1;
        n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % KEYS
    };
    group.bench_function("put_1k_64", |b| {
        b.iter(|| {
            let before = solo.answers;
            for conn in 0..CONNECTIONS {
                solo.put(conn, next());
            }
            solo.turn();
            assert_eq!(solo.answers - before, CONNECTIONS, "every put is answered");
        });
    });
    group.bench_function("get_1k_64", |b| {
        b.iter(|| {
            let before = solo.answers;
            for conn in 0..CONNECTIONS {
                solo.get(conn, next());
            }
            solo.turn();
            assert_eq!(solo.answers - before, CONNECTIONS, "every get is answered");
        });
    });
    group.finish();
}

criterion_group!(benches, shard);
criterion_main!(benches);
