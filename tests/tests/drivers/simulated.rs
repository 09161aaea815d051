//! The simulator's shards on disks that never fail, in virtual time.

use std::collections::BTreeMap;
use std::time::Duration;

use ironring_core::{ErrorCode, Instant, Now, ShardId, WallTime};
use ironring_log::LogConfig;
use ironring_node::shard::ShardMessage;
use ironring_ring::Slices;
use ironring_tests::sim::disk::faults::FaultPlan;
use ironring_tests::sim::disk::{Latency, SimDisk, Ticket};
use ironring_tests::sim::op::{Op, Outcome, RequestId};
use ironring_tests::sim::shard_node::{ShardNode, Simulated};
use ironring_tests::sim::subject::{Conn, Effects, Event, Node as _, Phase, Subject};

use crate::{PARTITIONS, SEGMENT_BYTES, Target};

/// Nothing a script asks for takes so many steps.
const STEPS_MAX: u32 = 1_000_000;
const WALL_START_MS: u64 = 1_700_000_000_000;

pub struct SimulatedNode {
    node: ShardNode,
    shards: Vec<Slot>,
    now_ns: u64,
    requests: u64,
    answers: Vec<(RequestId, Outcome)>,
    served: bool,
}

struct Slot {
    subject: Simulated,
    fx: Effects<ShardMessage>,
    disk: SimDisk,
    due: BTreeMap<(Instant, Ticket), ()>,
}

impl SimulatedNode {
    pub fn start(shards: u16) -> SimulatedNode {
        let node = ShardNode {
            slices: Slices::new(PARTITIONS, shards).expect("fewer shards than partitions"),
            log: LogConfig {
                segment_bytes: SEGMENT_BYTES as u32,
                reserve_segments: 2,
                ..LogConfig::default()
            },
            memory_bytes_max: 64 << 20,
            cache_bytes: 8 << 20,
            deadline: Duration::from_secs(60),
            alone: true,
        };
        let slots = (0..shards).map(|shard| Slot {
            subject: node.make(ShardId(shard)),
            fx: Effects::default(),
            disk: SimDisk::new(u64::from(shard), 1 << 30, Latency::default(), FaultPlan::none()),
            due: BTreeMap::new(),
        });
        let shards = slots.collect();
        let mut node = SimulatedNode {
            node,
            shards,
            now_ns: 1_000_000,
            requests: 0,
            answers: Vec::new(),
            served: false,
        };
        node.serve();
        node
    }

    /// Begins a life of every shard.
    fn serve(&mut self) {
        let format = !self.served;
        for shard in 0..self.shards.len() {
            self.handle(shard, Event::Start { format });
        }
        self.run_until(|node| node.shards.iter().all(|s| s.subject.phase() == Phase::Serving));
        self.served = true;
    }

    fn now(&self) -> Now {
        let wall = WALL_START_MS + self.now_ns / 1_000_000;
        Now { mono: Instant(self.now_ns), wall: WallTime(wall) }
    }

    /// One event and the end of its turn; then everything they want done.
    fn handle(&mut self, shard: usize, event: Event<ShardMessage>) {
        let now = self.now();
        let slot = &mut self.shards[shard];
        slot.subject.handle(now, event, &mut slot.fx);
        slot.subject.handle(now, Event::TurnEnd, &mut slot.fx);
        while let Some(request) = slot.fx.io.pop() {
            let (due, ticket) = slot.disk.submit(now.mono, request);
            slot.due.insert((due, ticket), ());
        }
        assert_eq!(slot.disk.misuse, Vec::<String>::new());
        let replies = slot.fx.replies.drain(..).map(|(_, request, outcome)| (request, outcome));
        self.answers.extend(replies);
        for (to, message) in std::mem::take(&mut self.shards[shard].fx.messages) {
            self.handle(usize::from(to.0), Event::Message(message));
        }
    }

    fn run_until(&mut self, over: impl Fn(&SimulatedNode) -> bool) {
        for _ in 0..STEPS_MAX {
            if over(self) {
                return;
            }
            self.step();
        }
        panic!("nothing comes of it");
    }

    /// The next completion or deadline, whichever comes first.
    fn step(&mut self) {
        let completion = |slot: &Slot| slot.due.keys().next().copied();
        let first = (0..self.shards.len())
            .filter_map(|shard| Some((completion(&self.shards[shard])?, shard)))
            .min();
        let timer = (0..self.shards.len())
            .filter_map(|shard| Some((self.shards[shard].subject.next_deadline()?, shard)))
            .min();
        match (first, timer) {
            (Some(((due, ticket), shard)), timer) if timer.is_none_or(|(at, _)| due <= at) => {
                self.now_ns = self.now_ns.max(due.0);
                let slot = &mut self.shards[shard];
                slot.due.remove(&(due, ticket));
                let done = slot.disk.complete(ticket);
                self.handle(shard, Event::Io(done));
            }
            (_, Some((at, shard))) => {
                // A timer that is not followed by progress still takes time.
                self.now_ns = (self.now_ns + 1).max(at.0);
                self.handle(shard, Event::Timer);
            }
            _ => panic!("nothing can happen any more"),
        }
    }
}

impl Target for SimulatedNode {
    fn ask(&mut self, shard: u16, op: &Op) -> Outcome {
        loop {
            self.requests += 1;
            let request = RequestId(self.requests);
            let conn = Conn(u64::from(shard) + 1);
            self.handle(usize::from(shard), Event::Request { conn, request, op: op.clone() });
            self.run_until(|node| !node.answers.is_empty());
            let (answered, outcome) = self.answers.pop().expect("run until there is one");
            assert_eq!((answered, self.answers.len()), (request, 0));
            if !matches!(outcome, Outcome::Error { code: ErrorCode::NotReady, .. }) {
                return outcome;
            }
            self.step();
        }
    }

    fn restart(&mut self) {
        for shard in 0..self.shards.len() {
            self.handle(shard, Event::Stop);
        }
        self.run_until(|node| node.shards.iter().all(|s| s.subject.phase() == Phase::Stopped));
        for (shard, slot) in self.shards.iter_mut().enumerate() {
            slot.disk.kill();
            slot.due.clear();
            slot.subject = self.node.make(ShardId(shard as u16));
            slot.fx = Effects::default();
        }
        self.serve();
    }
}
