//! The loop: messages, disks, clients and controllers, by seed.
//!
//! - [`commits`]: the metadata group and who works on it.
//! - [`troubles`]: what goes wrong, as the nemesis orders it.
//! - [`healing`]: everything works again, and has to be whole.

mod commits;
mod healing;
mod troubles;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use ironring_core::prng::Prng;
use ironring_core::{Incarnation, NodeId, PartitionId, StorageUuid};
use ironring_ring::controller::Ticket;
use ironring_ring::metadata::{Command, PartitionRecord, ReplicaId};
use ironring_ring::replication::Request;

use super::checks::{Broken, Checks};
use super::log::{Disk, Part};
use super::metadata::{ControllerNumber, Group, facts, join};
use super::nemesis::{Action, Moment, Strike, Victim};
use super::network::Network;
use super::node::{Message, Node, To, Turn};
use super::plan::{Faults, MS, Plan, TICK_NS, any_length};
use crate::sim::profile::Trouble;
use crate::sim::schedule::Scheduled;
use crate::sim::trace::{Coverage, Trace};
use crate::sim::world::Report;
use healing::Healing;
use troubles::Proposed;

/// Records a node may hear again when it starts, of each partition.
const OLD_RECORDS: usize = 20;

/// How long a cluster may grow in peace.
const GROWS_NS: u64 = 2_000 * MS;

/// Something that happens later.
#[derive(Debug)]
enum Event {
    Arrives { from: To, to: To, message: Message },
    Flushed { node: usize, incarnation: Incarnation },
    Timer { node: usize, incarnation: Incarnation },
    Restarts { node: usize, incarnation: Incarnation },
    Commits { by: Option<(ControllerNumber, Ticket)>, command: Box<Command> },
    NotCommitted { by: (ControllerNumber, Ticket) },
    Gone { node: NodeId },
    Controllers,
    Struck { strike: Strike, actor: usize, partition: PartitionId },
    Tick,
}

struct World {
    rng: Prng,
    plan: Plan,
    trace: Trace,
    coverage: Coverage,
    time: u64,
    order: u64,
    queue: BinaryHeap<Reverse<Scheduled<Event>>>,
    nodes: Vec<Node>,
    network: Network,
    group: Group,
    /// Controllers are about to work.
    controllers_due: bool,
    checks: Checks,
    /// What disks held when they were lost or damaged.
    graves: Vec<(StorageUuid, Vec<Part>)>,
    /// What metadata said about each partition, the newest last.
    old_records: Vec<VecDeque<PartitionRecord>>,
    /// The changes of voters that leaders asked for and that may still be decided, by partition.
    proposed: Vec<Vec<Proposed>>,
    next_payload: u64,
    next_storage: u128,
    /// What fails at present.
    faults: Faults,
    /// How long a commit of metadata takes at present, at most.
    commit_ns: u64,
    phase: Phase,
    /// When links change again.
    round_at: u64,
}

/// How far a run is.
#[derive(Debug)]
enum Phase {
    /// Replicas are added, until then at the latest.
    Grows(u64),
    /// Until then things go wrong.
    Trouble(u64),
    /// Everything works again.
    Heals(Healing),
}

/// Runs one seed.
#[must_use]
pub fn run(trouble: Trouble, seed: u64, print: bool) -> Report {
    let mut world = World::new(trouble, Prng::new(seed ^ 0x5EED_0F0C_0DE5), print);
    let failure = world.live().err();
    Report {
        hash: world.trace.hash(),
        steps: world.trace.steps(),
        time_ns: world.time,
        coverage: world.coverage,
        failure,
    }
}

impl World {
    fn new(trouble: Trouble, mut rng: Prng, print: bool) -> World {
        let plan = Plan::draw(trouble, &mut rng);
        let (n, partitions) = (plan.nodes, plan.partitions);
        let node = |i: usize| Node {
            id: NodeId(u64::from(i == 0)),
            storage: StorageUuid(i as u128 + 1),
            incarnation: Incarnation(0),
            clock: plan.clocks[i],
            disk: Disk::new(partitions),
            process: None,
            paused_until: 0,
            flush_ns: MS / 2,
            entries_max: plan.entries_max,
        };
        let nodes: Vec<Node> = (0..n).map(node).collect();
        let first = facts(0, nodes[0].storage, Incarnation(0));
        World {
            trace: Trace::new(print),
            coverage: Coverage::default(),
            time: 0,
            order: 0,
            queue: BinaryHeap::new(),
            network: Network::new(n),
            group: Group::new(partitions as u32, plan.rf, first, plan.patience),
            controllers_due: false,
            checks: Checks::new(partitions),
            graves: Vec::new(),
            old_records: vec![VecDeque::new(); partitions],
            proposed: vec![Vec::new(); partitions],
            next_payload: 0,
            next_storage: n as u128,
            faults: Faults::default(),
            commit_ns: MS,
            round_at: 0,
            phase: Phase::Grows(if plan.grows_first { GROWS_NS } else { 0 }),
            nodes,
            plan,
            rng,
        }
    }

    fn live(&mut self) -> Result<(), Broken> {
        self.note(&[0], || "the world begins".to_owned());
        self.new_controller();
        for i in 0..self.nodes.len() {
            self.start(i);
        }
        self.schedule(TICK_NS, Event::Tick);
        while let Some(Reverse(next)) = self.queue.pop() {
            self.time = next.at;
            self.handle(next.event)?;
            match self.phase {
                Phase::Grows(until) if self.time > until || self.has_grown() => self.trouble(),
                Phase::Trouble(until) if self.time > until => self.heal(),
                _ => {}
            }
            if self.is_over()? {
                break;
            }
        }
        Ok(())
    }

    /// Whether there are as many voters as there are to be.
    fn has_grown(&self) -> bool {
        let rf = self.plan.rf as usize;
        self.group.state.partitions().iter().all(|record| record.voters.len() == rf)
    }

    fn trouble(&mut self) {
        let plan = &self.plan;
        self.trace.note(self.time, &[12], || format!("trouble begins: {plan:?}"));
        self.phase = Phase::Trouble(self.time + self.plan.trouble_ns);
        self.network.set_weather(self.plan.weather.clone());
        (self.faults, self.commit_ns) = (self.plan.faults, self.plan.commit_ns);
        for (node, flush_ns) in self.nodes.iter_mut().zip(&self.plan.flush_ns) {
            node.flush_ns = *flush_ns;
        }
    }

    fn is_trouble(&self) -> bool {
        matches!(self.phase, Phase::Trouble(_))
    }

    fn schedule(&mut self, after: u64, event: Event) {
        self.order += 1;
        self.queue.push(Reverse(Scheduled { at: self.time + after, order: self.order, event }));
    }

    fn note(&mut self, words: &[u64], text: impl FnOnce() -> String) {
        self.trace.note(self.time, words, text);
    }

    fn partitions(&self) -> impl Iterator<Item = PartitionId> + use<> {
        (0..self.plan.partitions as u32).map(PartitionId)
    }

    fn handle(&mut self, event: Event) -> Result<(), Broken> {
        match event {
            Event::Arrives { from, to, message } => self.arrives(from, to, message),
            Event::Flushed { node, incarnation } => self.flushed(node, incarnation),
            Event::Timer { node, incarnation } => self.timer(node, incarnation),
            Event::Restarts { node, incarnation } => {
                if self.nodes[node].incarnation == incarnation {
                    self.start(node);
                }
                Ok(())
            }
            Event::Commits { by, command } => {
                self.commits(by, &command);
                Ok(())
            }
            Event::NotCommitted { by } => {
                self.does_not_commit(by);
                Ok(())
            }
            Event::Gone { node } => {
                self.group.gone(node);
                self.controllers_soon();
                Ok(())
            }
            Event::Controllers => {
                self.controllers_due = false;
                self.controllers();
                Ok(())
            }
            Event::Struck { strike, actor, partition } => self.struck(strike, actor, partition),
            Event::Tick => {
                self.schedule(TICK_NS, Event::Tick);
                self.tick()
            }
        }
    }

    /// How long a node stands still.
    fn paused(&self, node: usize) -> Option<u64> {
        let until = self.nodes[node].paused_until;
        (until > self.time).then(|| until - self.time)
    }

    /// Whether that run of a node's process goes on.
    fn runs(&self, node: usize, incarnation: Incarnation) -> bool {
        self.nodes[node].incarnation == incarnation && self.nodes[node].process.is_some()
    }

    fn start(&mut self, node: usize) {
        if self.nodes[node].process.is_some() {
            return;
        }
        let now = self.nodes[node].clock.at(self.time);
        let settings = self.plan.settings;
        self.nodes[node].start(now, settings);
        let incarnation = self.nodes[node].incarnation;
        self.note(&[1, node as u64], || format!("node {} starts", node + 1));
        self.schedule(MS / 10, Event::Timer { node, incarnation });
        let command = Box::new(join(facts(node, self.nodes[node].storage, incarnation)));
        let delay = MS / 10 + self.rng.below(self.commit_ns);
        self.schedule(delay, Event::Commits { by: None, command });
        self.link_up_everywhere();
        for partition in self.partitions() {
            // Metadata are applied anew from a snapshot on: it may see what they once said.
            let old = &self.old_records[partition.0 as usize];
            if !old.is_empty() && self.rng.chance(1, 4) {
                let record = old[self.rng.below(old.len() as u64) as usize].clone();
                let to = To::Node(self.nodes[node].id);
                self.send(To::Metadata, to, Message::Record(partition, record));
            }
            self.tell(partition, Some(node));
        }
    }

    fn crash(&mut self, node: usize) {
        let survives = self.rng.chance(1, 2);
        self.note(&[2, node as u64, u64::from(survives)], || format!("node {} dies", node + 1));
        self.nodes[node].crash(survives);
        if self.rng.chance(1, 2) {
            // Its connections are reset, unless its machine died too.
            let delay = self.rng.below(20 * MS);
            self.schedule(delay, Event::Gone { node: self.nodes[node].id });
        }
        let incarnation = self.nodes[node].incarnation;
        let most = self.most(node, self.plan.nemesis.dead_ns);
        let dead = MS / 20 + any_length(&mut self.rng, most);
        self.schedule(dead, Event::Restarts { node, incarnation });
        self.coverage.add("crashes", 1);
    }

    /// How long a node may be dead or stand still, at most: not for long while too many others are,
    /// or nothing would go on that could go wrong.
    fn most(&self, node: usize, wanted: u64) -> u64 {
        let well = |other: &usize| *other != node && self.nodes[*other].is_awake(self.time);
        let enough = (0..self.nodes.len()).filter(well).count() >= self.nodes.len().div_ceil(2);
        let lease_ns = self.plan.settings.lease.as_nanos() as u64;
        if enough { wanted } else { wanted.min(lease_ns / 4) }
    }

    /// The index of a node with that number.
    fn index_of(&self, id: NodeId) -> Option<usize> {
        self.nodes.iter().position(|n| n.id == id)
    }

    fn send(&mut self, from: To, to: To, message: Message) {
        let index = |to: To| match to {
            To::Node(id) => self.index_of(id),
            To::Metadata => Some(self.nodes.len()),
        };
        let ends = (index(from), index(to));
        let mut ways = self.network.ways(self.time, ends, &mut self.rng, &mut self.coverage);
        let last = ways.pop();
        for way in ways {
            self.schedule(way, Event::Arrives { from, to, message: message.clone() });
        }
        if let Some(way) = last {
            self.schedule(way, Event::Arrives { from, to, message });
        }
    }

    fn arrives(&mut self, from: To, to: To, message: Message) -> Result<(), Broken> {
        let To::Node(id) = to else {
            self.metadata_hears(from, &message);
            return Ok(());
        };
        let Some(node) = self.index_of(id) else { return Ok(()) };
        if self.nodes[node].process.is_none() {
            return Ok(());
        }
        if let Some(wait) = self.paused(node) {
            self.schedule(wait, Event::Arrives { from, to, message });
            return Ok(());
        }
        let now = self.nodes[node].clock.at(self.time);
        let refuse = self.rng.chance(self.faults.refused, 1000);
        let from = match from {
            To::Node(id) => id,
            To::Metadata => NodeId(0),
        };
        self.note(&[3, id.0, from.0], || format!("{from} -> {id}: {message:?}"));
        self.nodes[node].receive(now, from, &message, refuse, &mut self.checks)?;
        // A turn handles all that came; its timer ends one at the latest.
        if self.rng.chance(self.plan.lazy, 1000) { Ok(()) } else { self.turn(node) }
    }

    fn flushed(&mut self, node: usize, incarnation: Incarnation) -> Result<(), Broken> {
        if !self.runs(node, incarnation) {
            return Ok(());
        }
        if let Some(wait) = self.paused(node) {
            self.schedule(wait, Event::Flushed { node, incarnation });
            return Ok(());
        }
        if self.rng.chance(self.faults.fsync_fails, 1000) {
            self.coverage.add("group commits that failed", 1);
            self.crash(node);
            return Ok(());
        }
        let now = self.nodes[node].clock.at(self.time);
        self.note(&[10, node as u64], || format!("node {} has flushed", node + 1));
        self.nodes[node].flushed(now);
        self.turn(node)
    }

    fn timer(&mut self, node: usize, incarnation: Incarnation) -> Result<(), Broken> {
        if !self.runs(node, incarnation) {
            return Ok(());
        }
        let pace = self.plan.settings.heartbeat.as_nanos() as u64 / 4;
        let wait = self.paused(node).unwrap_or(pace);
        self.schedule(wait, Event::Timer { node, incarnation });
        if !self.nodes[node].is_awake(self.time) {
            return Ok(());
        }
        if self.rng.chance(1, 4) {
            let from = To::Node(self.nodes[node].id);
            self.send(from, To::Metadata, Message::Alive(incarnation));
        }
        let now = self.nodes[node].clock.at(self.time);
        if let Some(process) = &mut self.nodes[node].process {
            process.engine.tick(now);
        }
        self.turn(node)
    }

    /// What a turn of a node produced goes out, and what must hold is looked at.
    fn turn(&mut self, node: usize) -> Result<(), Broken> {
        let now = self.nodes[node].clock.at(self.time);
        let (before, rest) = self.nodes.split_at_mut(node);
        let (this, after) = rest.split_first_mut().expect("the node exists");
        let others: Vec<&Node> = before.iter().chain(after.iter()).collect();
        let graves = &self.graves;
        let partition_of = |id: ReplicaId, p: usize| -> Vec<&Part> {
            let alive = || others.iter().filter(|n| n.storage == id.storage).map(|n| &n.disk);
            let ended = alive().flat_map(|d| &d.ended).filter(|(q, _)| *q == p).map(|(_, e)| e);
            let lost = graves.iter().filter(|(s, _)| *s == id.storage).map(|(_, parts)| parts);
            let parts = alive().map(|d| &d.durable).chain(lost).filter_map(|parts| parts.get(p));
            parts.chain(ended).filter(|part| part.life == Some(id.life)).collect()
        };
        let Turn { out, writes, acked, reads, steps, .. } =
            this.turn(now, &mut self.checks, &partition_of)?;
        self.coverage.add("writes acked", acked);
        self.coverage.add("reads confirmed by probes", reads);
        for (_, message) in &out {
            if let Message::Ask(Request::Voters { partition, term, base, voters, .. }) = message {
                self.remember_proposal(*partition, *term, *base, voters);
            }
        }
        let strike = self.strike_behind(&steps);
        if let Some((strike, _)) = strike
            && strike.unheard
            && (strike.action, strike.victim) == (Action::Crash, Victim::Actor)
        {
            self.coverage.add("crashes before anything was sent", 1);
            self.crash(node);
            return self.look_at_leases();
        }
        let id = self.nodes[node].id;
        for (to, message) in out {
            self.send(To::Node(id), to, message);
        }
        if writes {
            let most = self.nodes[node].flush_ns;
            let took = most / 2 + self.rng.below(most);
            let incarnation = self.nodes[node].incarnation;
            self.schedule(took, Event::Flushed { node, incarnation });
        }
        if let Some((strike, partition)) = strike {
            self.schedule(0, Event::Struck { strike, actor: node, partition });
        }
        self.look_at_leases()
    }

    /// What the nemesis has in store behind one of these steps.
    fn strike_behind(&mut self, steps: &[(Moment, PartitionId)]) -> Option<(Strike, PartitionId)> {
        if !self.is_trouble() {
            return None;
        }
        let nemesis = &self.plan.nemesis;
        let rng = &mut self.rng;
        steps.iter().find_map(|(moment, p)| nemesis.behind(*moment, rng).map(|strike| (strike, *p)))
    }

    fn look_at_leases(&self) -> Result<(), Broken> {
        for (p, id) in self.partitions().enumerate() {
            let holds = |n: &&Node| n.has_lease(n.clock.at(self.time), id);
            let mut holders = self.nodes.iter().filter(holds);
            if holders.next().is_some() && holders.next().is_some() {
                let holders = self.nodes.iter().filter(holds).map(|n| n.run_of(p));
                self.checks.leases(id, &holders.collect::<Vec<_>>())?;
            }
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), Broken> {
        self.look_at_leases()?;
        self.metadata_tick();
        if self.is_trouble() {
            self.trouble_tick();
        }
        for partition in self.partitions() {
            self.clients(partition)?;
        }
        Ok(())
    }

    /// Clients ask everybody who leads a partition, or believes so: also leaders of the past.
    fn clients(&mut self, partition: PartitionId) -> Result<(), Broken> {
        let clients = self.plan.clients;
        for node in 0..self.nodes.len() {
            if !self.nodes[node].leads(partition) {
                continue;
            }
            if self.rng.chance(clients.writes, 1000) {
                let times = 1 + self.rng.below(clients.burst);
                self.write(node, partition, times)?;
            }
            if self.rng.chance(clients.reads, 1000) && self.nodes[node].is_awake(self.time) {
                let now = self.nodes[node].clock.at(self.time);
                self.nodes[node].read(now, partition, &mut self.checks)?;
                self.turn(node)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, node: usize, partition: PartitionId, times: u64) -> Result<(), Broken> {
        if !self.nodes[node].is_awake(self.time) {
            return Ok(());
        }
        for _ in 0..times {
            self.next_payload += 1;
            let payload = self.next_payload;
            if self.nodes[node].write(partition, payload, &mut self.checks)? {
                self.coverage.add("writes taken", 1);
            }
        }
        self.turn(node)
    }
}
