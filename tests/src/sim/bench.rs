//! One subject on one disk without the rest of the world: it is asked, and everything it wants done
//! is done until nothing is left. Nothing goes wrong by itself, and time passes only for requests:
//! a timer fires while an answer is missing, and not for work in the background.

use std::collections::BTreeSet;

use ironring_core::io::{FileName, IoOp};
use ironring_core::{Instant, Now, ShardId, WallTime};
use ironring_node::shard;

use crate::sim::disk::{SimDisk, Ticket};
use crate::sim::op::{Op, Outcome, RequestId};
use crate::sim::shard_node::Simulated;
use crate::sim::subject::{Conn, Effects, Event, Node, Phase, Subject};

/// Most timers that fire for one answer; an answer that needs more does not come.
const TIMERS_MAX: u32 = 100;

/// A subject on a disk.
pub struct Bench<S: Subject> {
    /// The disk.
    pub disk: SimDisk,
    /// The subject.
    pub subject: S,
    /// Reads of segments so far.
    pub segment_reads: u64,
    /// Reads of segments from here on are never answered.
    pub reads_hang: bool,
    fx: Effects<S::Message>,
    now: u64,
    requests: u64,
    in_flight: BTreeSet<(Instant, Ticket)>,
}

impl<S: Subject> Bench<S> {
    /// One shard of a node, opened on `disk`, or formatted there.
    pub fn open<N: Node<Subject = S>>(
        node: &N,
        shard: ShardId,
        disk: SimDisk,
        format: bool,
    ) -> Bench<S> {
        let mut bench = Bench::start(node, shard, disk, format);
        bench.settle();
        bench
    }

    /// One shard of a node on `disk` at the moment at which it begins to serve, with everything
    /// else it has begun still on its way.
    ///
    /// # Panics
    /// When it never serves.
    pub fn open_just_serving<N: Node<Subject = S>>(
        node: &N,
        shard: ShardId,
        disk: SimDisk,
        format: bool,
    ) -> Bench<S> {
        let mut bench = Bench::start(node, shard, disk, format);
        while bench.subject.phase() != Phase::Serving {
            assert!(bench.step(), "the shard is stuck: {:?}", bench.subject.phase());
        }
        bench
    }

    fn start<N: Node<Subject = S>>(
        node: &N,
        shard: ShardId,
        disk: SimDisk,
        format: bool,
    ) -> Bench<S> {
        let subject = node.make(shard);
        let fx = Effects::default();
        let mut bench = Bench {
            disk,
            subject,
            segment_reads: 0,
            reads_hang: false,
            fx,
            now: 1_000_000,
            requests: 0,
            in_flight: BTreeSet::new(),
        };
        bench.handle(Event::Start { format });
        bench
    }

    /// Passes time, without anything happening in it.
    pub fn pass(&mut self, milliseconds: u64) {
        self.now += milliseconds * 1_000_000;
    }

    fn clock(&self) -> Now {
        let wall = WallTime(1_700_000_000_000 + self.now / 1_000_000);
        Now { mono: Instant(self.now), wall }
    }

    fn handle(&mut self, event: Event<S::Message>) {
        let now = self.clock();
        self.subject.handle(now, event, &mut self.fx);
    }

    /// Ends turns and completes requests until no request is left.
    fn settle(&mut self) {
        while self.step() {}
    }

    /// Ends the turn and completes the request that is due first. False: there is none.
    #[must_use]
    pub fn step(&mut self) -> bool {
        self.handle(Event::TurnEnd);
        while let Some(request) = self.fx.io.pop() {
            let segment = matches!(request.op, IoOp::ReadAt { file: FileName::Segment(_), .. });
            self.segment_reads += u64::from(segment);
            if segment && self.reads_hang {
                continue;
            }
            self.in_flight.insert(self.disk.submit(Instant(self.now), request));
        }
        let Some((due, ticket)) = self.in_flight.pop_first() else { return false };
        self.now = self.now.max(due.0);
        let done = self.disk.complete(ticket);
        self.handle(Event::Io(done));
        true
    }

    /// What it wanted sent to other shards since the last time.
    pub fn messages(&mut self) -> Vec<(ShardId, S::Message)> {
        std::mem::take(&mut self.fx.messages)
    }

    /// A message of another shard arrives.
    pub fn deliver(&mut self, message: S::Message) {
        self.handle(Event::Message(message));
        self.settle();
    }

    /// The answer to a request that comes before anything that waits is written.
    pub fn ask_before_writes(&mut self, op: Op) -> Option<Outcome> {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.handle(Event::Request { conn: Conn(1), request, op });
        let answer = self.fx.replies.iter().position(|(_, answered, _)| *answered == request);
        answer.map(|at| self.fx.replies.remove(at).2)
    }

    /// The answers that come once everything that waits is written.
    pub fn answers(&mut self) -> Vec<Outcome> {
        self.settle();
        self.fx.replies.drain(..).map(|(_, _, outcome)| outcome).collect()
    }

    /// The answers to requests that arrive in one turn, in the order they were answered.
    pub fn ask_all(&mut self, ops: Vec<Op>) -> Vec<Outcome> {
        self.fx.replies.clear();
        let asked = ops.len();
        for op in ops {
            self.requests += 1;
            let request = RequestId(self.requests);
            self.handle(Event::Request { conn: Conn(1), request, op });
        }
        self.settle();
        for _ in 0..TIMERS_MAX {
            let missing = self.fx.replies.len() < asked;
            let Some(due) = self.subject.next_deadline().filter(|_| missing) else { break };
            self.now = self.now.max(due.0);
            self.handle(Event::Timer);
            self.settle();
        }
        self.fx.replies.drain(..).map(|(_, _, outcome)| outcome).collect()
    }

    /// The answer to one request, when there was one.
    pub fn ask(&mut self, op: Op) -> Option<Outcome> {
        self.ask_all(vec![op]).pop()
    }
}

impl Bench<Simulated> {
    /// Hands the shipped shard an event of its own, and the answers to requests that came of it.
    pub fn tell(&mut self, event: shard::Event<'_>) -> Vec<Outcome> {
        let now = self.clock();
        self.subject.tell(now, event, &mut self.fx);
        self.answers()
    }
}
