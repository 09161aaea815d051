//! The simulated world: one node of several shards, their disks, its clients, and time.
//!
//! Everything happens in one loop in order of virtual time; the same seed gives the same run, to
//! the last bit of [`Report::hash`]. The node dies at any moment between two effects, and comes
//! back with what its disks kept.
//!
//! What the world promises a subject is what a driver promises: events of one shard are handled to
//! completion, one after the other; a turn ends when nothing more is ready; effects are carried
//! out in order, at once or at the end of the turn, or file operations earlier than the answers
//! and messages made before them; messages between two shards and bytes on one connection keep
//! their order.

mod audit;
mod lives;
mod silent;
mod text;
mod traffic;

use std::collections::{BTreeMap, VecDeque};

use ironring_core::prng::Prng;
use ironring_core::{Instant, Now, WallTime};

use crate::sim::client::Client;
use crate::sim::crash::{Moment, Trigger, kind_of};
use crate::sim::disk::{Latency, SimDisk, Ticket};
use crate::sim::op::{Op, Outcome, RequestId};
use crate::sim::oracle::Oracle;
use crate::sim::profile::Profile;
use crate::sim::subject::{Conn, Effects, Event, Node, Phase, Subject};
use crate::sim::trace::{Coverage, Trace};
use crate::sim::workload::Workload;
use silent::SilentDamage;
use text::{describe, describe_op, name_of, op_word, tag_of, word_of};

/// A request that is not answered within this time is a violation, in nanoseconds.
const PATIENCE_NS: u64 = 300_000_000_000;
/// A shard whose deadline has passed after so many turns with a timer in a row is a violation: the
/// driver would spin.
const SPINS_MAX: u32 = 200;
/// Most events of one run.
const STEPS_MAX: u64 = 20_000_000;

const NO_WAKE: (u64, u64) = (u64::MAX, 0);

type Message<N> = <<N as Node>::Subject as Subject>::Message;

/// Counted once for every time the node served again after a crash.
pub const RECOVERIES: &str = "recoveries after a crash";

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Report {
    /// The trace of the run.
    pub hash: u64,
    /// Events handled.
    pub steps: u64,
    /// Virtual time passed, in nanoseconds.
    pub time_ns: u64,
    /// How often things happened.
    pub coverage: Coverage,
    /// What went wrong, if anything did.
    pub failure: Option<String>,
}

impl Report {
    /// Of a run that did not come to an end.
    #[must_use]
    pub fn failed(why: String) -> Report {
        let coverage = Coverage::default();
        Report { hash: 0, steps: 0, time_ns: 0, coverage, failure: Some(why) }
    }
}

/// Something that is going to happen.
#[derive(Debug)]
enum Happening<M> {
    /// All shards of the node start.
    Start,
    Io {
        shard: u16,
        ticket: Ticket,
        kind: &'static str,
    },
    Arrive {
        shard: u16,
        conn: Conn,
        request: RequestId,
        op: Op,
    },
    Answer {
        client: usize,
        conn: Conn,
        request: RequestId,
        outcome: Outcome,
    },
    Closed {
        shard: u16,
        conn: Conn,
    },
    Message {
        to: u16,
        message: M,
    },
    /// A client looks for something to do. Only the wake it waits for counts.
    Wake(usize, u64),
    /// The process ends after a failure it noticed itself.
    Exit,
    Decay,
}

/// One shard and its disk.
struct Slot<S: Subject> {
    subject: Option<S>,
    disk: SimDisk,
    fx: Effects<S::Message>,
    /// The turn goes on until this time.
    turn_until: Option<u64>,
    /// Effects wait for the end of the turn.
    deferred: bool,
    /// The timer fired in this turn.
    timed: bool,
    /// Turns in a row after which the deadline was still in the past.
    spins: u32,
    served: bool,
    failed: bool,
}

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Clients do what they like, and the node dies.
    Load,
    /// Clients hear the end of what they asked for; nothing more goes wrong.
    Drain,
    /// Everything is read back.
    Audit,
    /// The node is asked to stop.
    Stop,
    /// It is over.
    Over,
}

/// A run in progress.
pub struct World<N: Node> {
    node: N,
    profile: Profile,
    rng: Prng,
    now: u64,
    wall_start: u64,
    next_happening: u64,
    queue: BTreeMap<(u64, u64), Happening<Message<N>>>,
    slots: Vec<Slot<N::Subject>>,
    clients: Vec<Client>,
    /// When each client wakes next, and the number of that wake.
    wakes: Vec<(u64, u64)>,
    /// Refused clients wait until then.
    quiet_until: Vec<u64>,
    workload: Workload,
    oracle: Oracle,
    trace: Trace,
    coverage: Coverage,
    stage: Stage,
    life: u32,
    up: bool,
    /// All shards served at least once.
    served: bool,
    /// The node died with a log on every disk, and has not served again since.
    crashed: bool,
    trigger: Option<Trigger>,
    crash_now: bool,
    crashes_left: u32,
    requests_left: u32,
    next_request: u64,
    next_conn: u64,
    sent_at: BTreeMap<RequestId, u64>,
    /// When this life began, or was asked to end.
    since: u64,
    /// How many faults each disk had when this life began.
    faults_before: Vec<usize>,
    /// Order on the wire: when the last bytes of a connection or message channel arrive.
    conn_in: BTreeMap<Conn, u64>,
    conn_out: BTreeMap<Conn, u64>,
    channel: BTreeMap<(u16, u16), u64>,
    lasting_asked: u32,
    audit: VecDeque<Op>,
    audits_left: u32,
    silent: SilentDamage,
}

impl<N: Node> World<N> {
    /// Runs one seed to its end.
    #[must_use]
    pub fn run(node: N, profile: Profile, seed: u64, print: bool) -> Report {
        let mut world = World::new(node, profile, seed, print);
        let failure = world.live().err();
        world.report(failure)
    }

    fn new(node: N, profile: Profile, seed: u64, print: bool) -> World<N> {
        let mut rng = Prng::new(seed);
        let workload = Workload::new(rng.next_u64(), profile.load, node.partitions());
        let slots = (0..node.shards()).map(|_| {
            let latency =
                Latency { stall_one_in: [0, 50, 500][rng.below(3) as usize], ..Latency::default() };
            let seed = rng.next_u64();
            Slot {
                subject: None,
                disk: SimDisk::new(seed, profile.disk_bytes, latency, profile.faults),
                fx: Effects::default(),
                turn_until: None,
                deferred: false,
                timed: false,
                spins: 0,
                served: false,
                failed: false,
            }
        });
        let slots = slots.collect();
        let mut oracle = Oracle::default();
        oracle.tolerated.extend(profile.tolerated());
        let mut world = World {
            node,
            profile,
            rng,
            now: 1_000_000,
            wall_start: 1_700_000_000_000,
            next_happening: 0,
            queue: BTreeMap::new(),
            slots,
            clients: Vec::new(),
            wakes: vec![NO_WAKE; profile.load.clients as usize],
            quiet_until: vec![0; profile.load.clients as usize],
            workload,
            oracle,
            trace: Trace::new(print),
            coverage: Coverage::default(),
            stage: Stage::Load,
            life: 0,
            up: false,
            served: false,
            crashed: false,
            trigger: None,
            crash_now: false,
            crashes_left: profile.crashes_max,
            requests_left: profile.requests,
            next_request: 0,
            next_conn: 0,
            sent_at: BTreeMap::new(),
            since: 0,
            faults_before: Vec::new(),
            conn_in: BTreeMap::new(),
            conn_out: BTreeMap::new(),
            channel: BTreeMap::new(),
            lasting_asked: 0,
            audit: VecDeque::new(),
            audits_left: 2,
            silent: SilentDamage::default(),
        };
        for _ in 0..profile.load.clients {
            let conn = world.new_conn();
            let shard = world.rng.below(u64::from(world.node.shards())) as u16;
            let session = world.workload.wants_session();
            world.clients.push(Client::new(conn, shard, session));
        }
        world.at(1_000, Happening::Start);
        world
    }

    fn report(&self, failure: Option<String>) -> Report {
        let mut coverage = self.coverage.clone();
        for slot in &self.slots {
            for (name, times) in slot.subject.iter().flat_map(Subject::counted) {
                coverage.add(&name, times);
            }
            for injected in &slot.disk.faults.injected {
                coverage.add(&format!("fault {}", injected.fault.name()), 1);
            }
        }
        Report {
            hash: self.trace.hash(),
            steps: self.trace.steps(),
            time_ns: self.now,
            coverage,
            failure,
        }
    }

    fn live(&mut self) -> Result<(), String> {
        while self.stage != Stage::Over {
            if self.trace.steps() > STEPS_MAX {
                return Err(format!("the run does not end (stage {:?})", self.stage));
            }
            self.step()?;
            if std::mem::take(&mut self.crash_now) {
                self.crash()?;
            }
            self.check_patience()?;
        }
        Ok(())
    }

    fn check_patience(&self) -> Result<(), String> {
        let waiting = self.sent_at.iter().find(|(_, at)| self.now > **at + PATIENCE_NS);
        if let Some((request, at)) = waiting {
            return Err(format!("{request:?}, sent at {} ms, is not answered", at / 1_000_000));
        }
        let opening = self.up && self.slots.iter().any(|s| self.phase_is(s, &Phase::Opening));
        if opening && self.now > self.since + PATIENCE_NS {
            return Err("a shard does not open".to_owned());
        }
        if self.stage == Stage::Stop && self.now > self.since + PATIENCE_NS {
            return Err("a shard does not stop".to_owned());
        }
        Ok(())
    }

    fn phase_is(&self, slot: &Slot<N::Subject>, phase: &Phase) -> bool {
        slot.subject.as_ref().is_some_and(|s| s.phase() == *phase)
    }

    fn now(&self) -> Now {
        Now { mono: Instant(self.now), wall: WallTime(self.wall()) }
    }

    fn wall(&self) -> u64 {
        self.wall_start + self.now / 1_000_000
    }

    fn new_conn(&mut self) -> Conn {
        self.next_conn += 1;
        Conn(self.next_conn)
    }

    fn at(&mut self, time: u64, happening: Happening<Message<N>>) {
        self.next_happening += 1;
        self.queue.insert((time.max(self.now), self.next_happening), happening);
    }

    /// The next thing, in order of time: the end of a turn, a timer, or what is in the queue.
    fn step(&mut self) -> Result<(), String> {
        let queued = self.queue.first_key_value().map(|((time, _), _)| *time);
        let timers = self.slots.iter().enumerate().filter(|(_, s)| !s.timed);
        let timers = timers.filter_map(|(index, slot)| {
            let due = slot.subject.as_ref()?.next_deadline()?;
            Some((due.0.max(self.now), index))
        });
        let timer = timers.min();
        let turn = self.slots.iter().enumerate().filter_map(|(i, s)| Some((s.turn_until?, i)));
        let turn = turn.min();
        let next = [queued, timer.map(|t| t.0), turn.map(|t| t.0)].into_iter().flatten().min();
        let Some(next) = next else {
            return Err(format!("nothing can happen any more (stage {:?})", self.stage));
        };
        self.now = self.now.max(next);
        if let Some((until, shard)) = turn
            && until <= self.now
        {
            return self.end_turn(shard);
        }
        if let Some((due, shard)) = timer
            && due <= self.now
            && queued.is_none_or(|q| due <= q)
        {
            self.slots[shard].timed = true;
            return self.handle(shard, Event::Timer);
        }
        match self.queue.pop_first() {
            Some((_, happening)) => self.happen(happening),
            None => Ok(()),
        }
    }

    fn happen(&mut self, happening: Happening<Message<N>>) -> Result<(), String> {
        match happening {
            Happening::Start => self.start(),
            Happening::Io { shard, ticket, kind } => self.complete(shard, ticket, kind),
            Happening::Arrive { shard, conn, request, op } => {
                self.trace.note(self.now, &[1, request.0], || {
                    format!("shard {shard} <- {request:?} {op:?}")
                });
                self.handle(usize::from(shard), Event::Request { conn, request, op })
            }
            Happening::Answer { client, conn, request, outcome } => {
                self.answer(client, conn, request, &outcome)
            }
            Happening::Closed { shard, conn } => {
                self.handle(usize::from(shard), Event::Closed(conn))
            }
            Happening::Message { to, message } => {
                self.trace
                    .note(self.now, &[2, u64::from(to)], || format!("shard {to} <- {message:?}"));
                self.handle(usize::from(to), Event::Message(message))
            }
            Happening::Wake(client, number) if self.wakes[client].1 == number => {
                self.wakes[client] = NO_WAKE;
                self.wake(client)
            }
            Happening::Wake(..) => Ok(()),
            Happening::Exit => {
                self.coverage.add("life ended by a failure it noticed", 1);
                self.crash_now = true;
                Ok(())
            }
            Happening::Decay => {
                // What decays before the log was read looks as if it had been torn by the crash.
                if self.up && self.slots.iter().all(|slot| slot.served) {
                    self.decay();
                } else {
                    self.at(self.now + 10_000_000, Happening::Decay);
                }
                Ok(())
            }
        }
    }

    fn complete(&mut self, shard: u16, ticket: Ticket, kind: &'static str) -> Result<(), String> {
        let index = usize::from(shard);
        let done = self.slots[index].disk.complete(ticket);
        self.note_silent(index, ticket);
        self.trace.note(self.now, &[3, u64::from(shard), done.id.0, word_of(&done)], || {
            format!("shard {shard} <- {kind} {:?}: {}", done.id, describe(&done))
        });
        if self.fires(kind, Moment::Done) {
            self.coverage.add(&format!("crash between the effect of {kind} and its event"), 1);
            self.crash_now = true;
            return Ok(());
        }
        self.handle(index, Event::Io(done))?;
        if self.fires(kind, Moment::Heard) {
            self.coverage.add(&format!("crash after {kind}"), 1);
            self.crash_now = true;
        }
        Ok(())
    }

    fn fires(&mut self, kind: &'static str, moment: Moment) -> bool {
        self.stage == Stage::Load && self.trigger.as_mut().is_some_and(|t| t.io(kind, moment))
    }

    /// Hands one event to a shard and takes what it wants done.
    fn handle(&mut self, index: usize, event: Event<Message<N>>) -> Result<(), String> {
        let now = self.now();
        let slot = &mut self.slots[index];
        let Some(subject) = slot.subject.as_mut() else { return Ok(()) };
        self.trace.note(self.now, &[4, index as u64, tag_of(&event)], || {
            format!("shard {index} handles {}", name_of(&event))
        });
        subject.handle(now, event, &mut slot.fx);
        if slot.turn_until.is_none() {
            slot.turn_until = Some(self.now + self.rng.below(30_000));
            slot.deferred = self.rng.chance(1, 2);
        }
        if !slot.deferred {
            self.carry_out(index)?;
        } else if !slot.fx.io.is_empty() && self.rng.chance(1, 4) {
            // What the driver does once a few have gathered, before the turn ends.
            self.coverage.add("file operations started early in a turn", 1);
            self.start_io(index)?;
        }
        self.look_at(index)?;
        if self.stage == Stage::Load && self.trigger.as_mut().is_some_and(Trigger::step) {
            self.coverage.add("crash after so many steps", 1);
            self.crash_now = true;
        }
        Ok(())
    }

    fn end_turn(&mut self, index: usize) -> Result<(), String> {
        let now = self.now();
        let slot = &mut self.slots[index];
        slot.turn_until = None;
        let Some(subject) = slot.subject.as_mut() else { return Ok(()) };
        self.trace.note(self.now, &[5, index as u64], || format!("shard {index} ends its turn"));
        subject.handle(now, Event::TurnEnd, &mut slot.fx);
        let late = subject.next_deadline().is_some_and(|at| at <= now.mono);
        slot.spins = if std::mem::take(&mut slot.timed) && late { slot.spins + 1 } else { 0 };
        if slot.spins > SPINS_MAX {
            return Err(format!("shard {index} wants its timer again and again"));
        }
        self.carry_out(index)?;
        self.look_at(index)
    }

    /// Does what a shard wants done. A crash in the middle leaves the rest undone.
    fn carry_out(&mut self, index: usize) -> Result<(), String> {
        self.send_replies(index);
        self.send_messages(index);
        self.start_io(index)
    }

    fn start_io(&mut self, index: usize) -> Result<(), String> {
        while let Some(request) = self.slots[index].fx.io.pop() {
            let kind = kind_of(&request.op);
            let group = self.node.is_group(&request.op);
            let (id, word) = (request.id, op_word(&request.op));
            let text = describe_op(&request.op);
            let (due, ticket) = self.slots[index].disk.submit(Instant(self.now), request);
            self.trace.note(self.now, &[6, index as u64, id.0, word, due.0], || {
                format!("shard {index} -> {id:?} {text}")
            });
            if group {
                self.note_group(index, ticket);
            }
            self.at(due.0, Happening::Io { shard: index as u16, ticket, kind });
            if let Some(misuse) = self.slots[index].disk.misuse.first() {
                return Err(format!("shard {index} misuses its disk: {misuse}"));
            }
            if self.fires(kind, Moment::Submitted) {
                self.coverage.add(&format!("crash with {kind} in flight"), 1);
                self.crash_now = true;
                return Ok(());
            }
        }
        Ok(())
    }
}
