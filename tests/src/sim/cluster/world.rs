//! The loop: messages, disks, clients, the controller and everything that goes wrong, by seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use ironring_core::prng::Prng;
use ironring_core::{Incarnation, Instant, NodeId, Offset, PartitionId, StorageUuid};
use ironring_log::{LogConfig, LogStatus};
use ironring_net::decode_header;
use ironring_net::frame::{HEADER_BYTES, flags, set_flags};
use ironring_node::shard::{ConnId, Event as ShardEvent, Phase, Shard, ToController, compare};
use ironring_ring::Slices;
use ironring_ring::controller::{self, Effect, Ticket as Proposal};
use ironring_ring::metadata::{Command, Metadata, Outcome};
use ironring_ring::replication::Settings;

pub mod half_filled;
pub mod kept;
pub mod last_copy;
mod rot;
mod troubles;
mod verdict;

use super::clients::Clients;
use super::node::{Making, Message, Node};
use crate::sim::disk::faults::FaultPlan;
use crate::sim::disk::{Latency, SimDisk, Ticket};
use crate::sim::op::{Outcome as Answer, RequestId};
use crate::sim::profile::Trouble;
use crate::sim::replicas::metadata::{ControllerNumber, Group, facts, join};
use crate::sim::replicas::node::Clock;
use crate::sim::schedule::Scheduled;
use crate::sim::shard_node::{decode, encode};
use crate::sim::trace::{Coverage, Trace};
use crate::sim::world::Report;
use rot::{Damage, Memory};
use troubles::{Cut, CutKind, Odds};

const MS: u64 = 1_000_000;
/// Trouble lasts so long; then everything heals and has to work again.
const TROUBLE_NS: u64 = 8_000 * MS;
/// How long the healed cluster has until clients stop, and until everything they asked is answered.
const HEALED_NS: u64 = 8_000 * MS;
const QUIET_NS: u64 = 3_000 * MS;
/// The pace of controllers, clients and troubles.
const TICK_NS: u64 = 10 * MS;
/// How often each node looks at its timers.
const TIMER_NS: u64 = 2 * MS;
/// A client waits so long for an answer.
const PATIENCE_NS: u64 = 2_500 * MS;
const DISK_BYTES: u64 = 48 << 20;
const CLIENTS: usize = 6;

#[derive(Debug)]
enum Event {
    Arrives { from: NodeId, to: usize, run: Incarnation, message: Message },
    Io { node: usize, run: Incarnation, ticket: Ticket },
    Timer { node: usize, run: Incarnation },
    TurnEnd { node: usize, run: Incarnation },
    LinkUp { node: usize, to: NodeId },
    Metadata { node: usize, run: Incarnation },
    ToController(ToController),
    Alive { node: usize, run: Incarnation },
    Commits { by: Option<(ControllerNumber, Proposal)>, command: Box<Command> },
    Gone { node: NodeId },
    Asks { node: usize, run: Incarnation, frame: Vec<u8>, client: usize },
    Answered { client: usize, frame: Vec<u8> },
    Tick,
}

struct World {
    rng: Prng,
    trace: Trace,
    coverage: Coverage,
    time: u64,
    order: u64,
    queue: BinaryHeap<Reverse<Scheduled<Event>>>,
    making: Making,
    nodes: Vec<Node>,
    group: Group,
    published: Arc<Metadata>,
    metadata_clock: Clock,
    odds: Odds,
    latency: Latency,
    /// What becomes of messages from one to another.
    cut: Vec<Vec<Cut>>,
    /// Until when a node hears nothing of the metadata group and the controller, nor they of it.
    isolated: Vec<u64>,
    /// When the last message between two nodes arrives.
    channel: BTreeMap<(usize, usize), u64>,
    clients: Clients,
    partitions: u32,
    next_storage: u128,
    healed: bool,
    acked_before_healing: u64,
    /// The node whose disk is damaged in this run.
    victim: Option<usize>,
    /// Its partitions that were seen damaged and led elsewhere.
    hurt_followers: BTreeSet<PartitionId>,
    /// Nothing more befalls it until then.
    spared_until: u64,
    /// Orders to hand over are lost on their way until then.
    no_orders_until: u64,
    /// Whose disks are damaged in this run.
    damage: Damage,
    /// The memory of the node that suffers: see [`rot`].
    memory: Memory,
    /// Voters a partition must have to take writes.
    min_voters: u8,
    /// By node: how much of each partition's log its disk was seen to have.
    durable: Vec<Vec<Offset>>,
    /// The same of all disks it ever had, whatever became of them.
    ever_durable: Vec<Vec<Offset>>,
    /// Answers that no client waits for.
    told: BTreeMap<RequestId, Answer>,
    /// Keys to be read at the end, once clients are done.
    audit: Vec<(PartitionId, crate::sim::op::Op)>,
}

/// Runs one seed.
#[must_use]
pub fn run(trouble: Trouble, log: LogConfig, seed: u64, print: bool) -> Report {
    let mut world = World::new(trouble, log, Prng::new(seed ^ 0xC1_0570), print);
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
    fn new(trouble: Trouble, mut log: LogConfig, mut rng: Prng, print: bool) -> World {
        if trouble == Trouble::DiskFaults {
            log.scrub.period = Duration::from_millis(300);
        }
        let n = 3 + rng.below(3) as usize;
        let partitions = 1 << rng.below(3);
        let rf = if rng.chance(3, 4) { 3 } else { 1 + rng.below(n as u64) as u8 };
        let replication = Settings {
            replica_timeout: Duration::from_millis(300 + rng.below(1500)),
            resend_after: Duration::from_millis(200 + rng.below(800)),
            ..Settings::default()
        };
        // The fastest clock and the slowest are as far apart as is promised.
        let half = u64::from(replication.drift_permille) / 2;
        let clock = |rng: &mut Prng| Clock {
            permille: 1000 - half + half * rng.below(3),
            begin: rng.below(1 << 40),
        };
        let latency =
            Latency { stall_one_in: [0, 200][rng.below(2) as usize], ..Latency::default() };
        let nodes: Vec<Node> = (0..n)
            .map(|i| Node {
                id: NodeId(u64::from(i == 0)),
                storage: StorageUuid(i as u128 + 1),
                incarnation: Incarnation(0),
                clock: clock(&mut rng),
                disk: SimDisk::new(rng.next_u64(), DISK_BYTES, latency, FaultPlan::none()),
                blank: true,
                shard: None,
                fx: ironring_node::shard::Effects::default(),
                paused_until: 0,
            })
            .collect();
        let patience = controller::Settings {
            session_timeout: Duration::from_millis(1000 + rng.below(2000)),
            rebalance_grace: Duration::from_millis(rng.below(3000)),
            balance_every: Duration::from_millis(100 + rng.below(900)),
            ..controller::Settings::default()
        };
        let first = facts(0, nodes[0].storage, Incarnation(0));
        let mut group = Group::new(partitions, rf, first, patience);
        let min_voters = if rf >= 2 && rng.chance(1, 3) { 2 } else { 1 };
        group.state.apply(&Command::SetKeyspace { rf, min_voters });
        let making = Making {
            slices: Slices::new(partitions, 1).expect("at least one partition"),
            log,
            cache_bytes: [0, 16 << 10, 1 << 20][rng.below(3) as usize],
            replication,
            compare: compare::Settings {
                interval: Duration::from_millis(200 + rng.below(1500)),
                ..compare::Settings::default()
            },
        };
        let large = Prng::new(rng.clone().next_u64() ^ 0x1A26E);
        let stale = Prng::new(rng.clone().next_u64() ^ 0x57A1E);
        let clients = Clients::new(CLIENTS, partitions, large, stale);
        World {
            trace: Trace::new(print),
            coverage: Coverage::default(),
            time: MS,
            order: 0,
            queue: BinaryHeap::new(),
            published: Arc::new(group.state.clone()),
            group,
            making,
            metadata_clock: clock(&mut rng),
            odds: Odds::draw(trouble, &mut rng),
            latency,
            cut: vec![vec![Cut::default(); n]; n],
            isolated: vec![0; n],
            channel: BTreeMap::new(),
            audit: clients.audit(),
            clients,
            partitions,
            next_storage: n as u128,
            healed: false,
            victim: None,
            hurt_followers: BTreeSet::new(),
            spared_until: 0,
            no_orders_until: 0,
            damage: if rng.chance(1, 3) { Damage::OfAll } else { Damage::OfOneNode },
            memory: Memory::default(),
            min_voters,
            durable: vec![vec![Offset::NONE; partitions as usize]; n],
            ever_durable: vec![vec![Offset::NONE; partitions as usize]; n],
            acked_before_healing: 0,
            told: BTreeMap::new(),
            nodes,
            rng,
        }
    }

    fn live(&mut self) -> Result<(), String> {
        let now = self.metadata_clock.at(self.time);
        self.group.new_controller(now);
        for i in 0..self.nodes.len() {
            self.start(i);
        }
        self.schedule(TICK_NS, Event::Tick);
        while let Some(Reverse(next)) = self.queue.pop() {
            if next.at > TROUBLE_NS + HEALED_NS + QUIET_NS {
                break;
            }
            self.time = next.at;
            if self.time > TROUBLE_NS && !self.healed {
                self.heal();
            }
            self.handle(next.event)?;
        }
        self.judge_the_end()
    }

    fn schedule(&mut self, after: u64, event: Event) {
        self.order += 1;
        self.queue.push(Reverse(Scheduled { at: self.time + after, order: self.order, event }));
    }

    fn note(&mut self, words: &[u64], text: impl FnOnce() -> String) {
        self.trace.note(self.time, words, text);
    }

    /// Puts an event off when its node does not handle any now. Nothing: its process is gone.
    fn awake(&mut self, node: usize, run: Incarnation, event: Event) -> Option<Event> {
        let n = &self.nodes[node];
        if n.incarnation != run || n.shard.is_none() {
            return None;
        }
        if n.paused_until > self.time {
            let wait = n.paused_until - self.time;
            self.schedule(wait, event);
            return None;
        }
        Some(event)
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Tick => {
                self.schedule(TICK_NS, Event::Tick);
                self.tick()
            }
            Event::ToController(said) => {
                let now = self.metadata_clock.at(self.time);
                self.note(&[4], || format!("-> controller: {said:?}"));
                match said {
                    ToController::Fenced(answer) => self.group.answer(now, &answer),
                    ToController::Ask(request) => self.group.request(now, &request, &mut self.rng),
                }
                Ok(())
            }
            Event::Commits { by, command } => {
                self.commits(by, &command);
                Ok(())
            }
            Event::Gone { node } => {
                self.group.gone(node);
                Ok(())
            }
            Event::LinkUp { node, to } => {
                if self.nodes[node].is_awake(self.time) {
                    self.nodes[node].handle(self.time, ShardEvent::LinkUp(to));
                }
                Ok(())
            }
            Event::Answered { client, frame } => {
                let (request, outcome) = decode(&frame);
                let age_ms = decode_header(&frame).expect("it was just decoded").deadline_ms;
                let waits = self.clients.all[client].waits;
                if waits.is_some_and(|(wanted, ..)| wanted == request) {
                    self.note(&[5, client as u64, request.0], || {
                        format!("client {client} hears {request:?}: {outcome:?}")
                    });
                    self.clients.hear(client, self.time, &outcome, age_ms)?;
                } else {
                    self.told.insert(request, outcome);
                }
                Ok(())
            }
            Event::Alive { node, run } => {
                let Some(event) = self.awake(node, run, Event::Alive { node, run }) else {
                    return Ok(());
                };
                if self.isolated[node] <= self.time {
                    let now = self.metadata_clock.at(self.time);
                    self.group.heard(now, self.nodes[node].id, run);
                }
                let delay = 50 * MS + self.rng.below(100 * MS);
                self.schedule(delay, event);
                Ok(())
            }
            event => self.handle_at_node(event),
        }
    }

    fn handle_at_node(&mut self, event: Event) -> Result<(), String> {
        let (node, run) = match &event {
            Event::Arrives { to, run, .. } => (*to, *run),
            Event::Io { node, run, .. }
            | Event::Timer { node, run }
            | Event::TurnEnd { node, run }
            | Event::Metadata { node, run }
            | Event::Asks { node, run, .. } => (*node, *run),
            other => unreachable!("handled elsewhere: {other:?}"),
        };
        let Some(event) = self.awake(node, run, event) else { return Ok(()) };
        let time = self.time;
        self.tell_room(node);
        match event {
            Event::Arrives { message: Message::HandOver(..), .. }
                if time < self.no_orders_until => {}
            Event::Arrives { from, message, .. } => {
                let id = self.nodes[node].id;
                self.note(&[3, id.0, from.0], || format!("{from} -> {id}: {}", short(&message)));
                let message = self.in_memory(node, message);
                self.nodes[node].receive(time, from, &message);
            }
            Event::Io { ticket, .. } => {
                let done = self.nodes[node].disk.complete(ticket);
                self.nodes[node].handle(time, ShardEvent::Io(done));
            }
            Event::Timer { .. } => {
                self.schedule(TIMER_NS, Event::Timer { node, run });
                let n = &mut self.nodes[node];
                let now = n.now(time).mono;
                let due = n.shard.as_ref().and_then(|shard| shard.next_deadline());
                if due.is_some_and(|due| due <= now) {
                    n.handle(time, ShardEvent::Timer);
                }
            }
            Event::Metadata { .. } => {
                let metadata = Arc::clone(&self.published);
                self.nodes[node].handle(time, ShardEvent::Metadata(metadata));
            }
            Event::Asks { frame, client, .. } => {
                let header = decode_header(&frame).expect("a frame we encoded has a header");
                let conn = ConnId(client as u64);
                let body = &frame[HEADER_BYTES..];
                self.nodes[node].handle(time, ShardEvent::Request { conn, header, body });
            }
            Event::TurnEnd { .. } => {}
            other => unreachable!("handled elsewhere: {other:?}"),
        }
        if self.rng.chance(3, 4) {
            self.nodes[node].handle(time, ShardEvent::TurnEnd);
        } else {
            let delay = self.rng.below(100_000);
            self.schedule(delay, Event::TurnEnd { node, run });
        }
        self.carry_out(node)
    }

    /// What a node wants done is done, or on its way.
    fn carry_out(&mut self, node: usize) -> Result<(), String> {
        let run = self.nodes[node].incarnation;
        while let Some(request) = self.nodes[node].fx.io.pop() {
            let (due, ticket) = self.nodes[node].disk.submit(Instant(self.time), request);
            self.schedule(due.0 - self.time, Event::Io { node, run, ticket });
        }
        self.nodes[node].fx.drop_aside = false;
        if std::mem::take(&mut self.nodes[node].fx.set_aside) {
            self.set_aside(node);
            self.nodes[node].handle(self.time, ShardEvent::Start { format: true });
            self.schedule(0, Event::TurnEnd { node, run });
        }
        self.judge_damaged(node)?;
        let id = self.nodes[node].id;
        for (to, message) in std::mem::take(&mut self.nodes[node].fx.peers) {
            self.send(id, node, to, Message::Peer(message));
        }
        let said = std::mem::take(&mut self.nodes[node].fx.controller);
        let heard = self.isolated[node] <= self.time;
        for said in said.into_iter().filter(|_| heard) {
            let delay = 50_000 + self.rng.below(2 * MS);
            self.schedule(delay, Event::ToController(said));
        }
        let mut replies = Vec::new();
        self.nodes[node].fx.take_replies(|conn, frame| replies.push((conn, frame.to_vec())));
        self.note_durable(node);
        for (conn, frame) in replies {
            self.judge_reply(node, &frame)?;
            let delay = 20_000 + self.rng.below(MS);
            self.schedule(delay, Event::Answered { client: conn.0 as usize, frame });
        }
        let explained = self.victim == Some(node) || self.damage == Damage::Done;
        if let Some(why) = self.nodes[node].failure(explained) {
            return Err(format!("node {} fails, and nothing explains it: {why}", node + 1));
        }
        Ok(())
    }

    /// Tells a node where nothing can be sent.
    fn tell_room(&mut self, node: usize) {
        let down = |cut: &Cut| cut.kind == CutKind::Down && cut.until > self.time;
        let to = self.cut[node].iter().enumerate().filter(|(_, cut)| down(cut));
        let rooms = to.map(|(other, _)| (self.nodes[other].id, 0)).collect();
        self.nodes[node].fx.peer_room = rooms;
    }

    fn send(&mut self, from: NodeId, sender: usize, to: NodeId, message: Message) {
        let Some(to) = self.nodes.iter().position(|n| n.id == to) else { return };
        let cut = self.cut[sender][to];
        let mut leaves = self.time;
        if cut.until > self.time {
            self.coverage.add("messages over cut links", 1);
            match cut.kind {
                CutKind::Late => leaves = cut.until,
                CutKind::Silent | CutKind::Down => return,
            }
        }
        let run = self.nodes[to].incarnation;
        let last = self.channel.get(&(sender, to)).copied().unwrap_or(0);
        let at = (leaves + 20_000 + self.rng.below(MS)).max(last + 1);
        self.channel.insert((sender, to), at);
        self.schedule(at - self.time, Event::Arrives { from, to, run, message });
    }

    fn start(&mut self, node: usize) {
        let making = self.making.clone();
        let n = &mut self.nodes[node];
        n.start(&making);
        let (run, storage, format) = (n.incarnation, n.storage, n.blank);
        let time = self.time;
        self.note(&[1, node as u64], || format!("node {} starts", node + 1));
        self.nodes[node].handle(time, ShardEvent::Start { format });
        self.schedule(TIMER_NS, Event::Timer { node, run });
        self.schedule(MS, Event::TurnEnd { node, run });
        self.schedule(2 * MS, Event::Alive { node, run });
        let delay = MS + self.rng.below(20 * MS);
        self.schedule(delay, Event::Metadata { node, run });
        let command = Box::new(join(facts(node, storage, run)));
        let delay = MS + self.rng.below(20 * MS);
        self.schedule(delay, Event::Commits { by: None, command });
        self.links_up(node);
    }

    /// Connections of a node are there again, both ways.
    fn links_up(&mut self, node: usize) {
        for other in 0..self.nodes.len() {
            for (a, b) in [(node, other), (other, node)] {
                if a != b {
                    let delay = MS + self.rng.below(20 * MS);
                    let to = self.nodes[b].id;
                    self.schedule(delay, Event::LinkUp { node: a, to });
                }
            }
        }
    }

    fn crash(&mut self, node: usize, power_loss: bool) {
        self.note(&[2, node as u64, u64::from(power_loss)], || {
            format!("node {} dies{}", node + 1, if power_loss { " with its machine" } else { "" })
        });
        let n = &mut self.nodes[node];
        // Until then there was nothing to lose.
        let opened = |shard: &Shard| *shard.log().status() == LogStatus::Open;
        n.blank &= !n.shard.as_ref().is_some_and(opened);
        n.shard = None;
        if power_loss {
            n.disk.power_loss()
        } else {
            n.disk.kill()
        }
        if !power_loss {
            let delay = self.rng.below(20 * MS);
            self.schedule(delay, Event::Gone { node: self.nodes[node].id });
        }
        self.coverage.add("crashes", 1);
    }

    fn tick(&mut self) -> Result<(), String> {
        for node in 0..self.nodes.len() {
            let shard = self.nodes[node].shard.as_ref();
            if shard.is_some_and(|shard| shard.phase() == Phase::Stopped) {
                self.crash(node, false);
                if self.healed {
                    self.start(node);
                }
            }
        }
        self.controllers();
        self.ask()?;
        if !self.healed {
            self.troubles();
        }
        Ok(())
    }

    fn controllers(&mut self) {
        if self.rng.chance(1, 5) {
            self.group.retire_old();
        }
        let now = self.metadata_clock.at(self.time);
        for (number, effect) in self.group.step(now) {
            match effect {
                Effect::Propose(ticket, command) => {
                    let delay = 200_000 + self.rng.below(5 * MS);
                    let by = Some((number, ticket));
                    self.schedule(delay, Event::Commits { by, command });
                }
                Effect::Fence(node, fences) => {
                    for fence in fences {
                        self.order_to(node, Message::Fence(fence));
                    }
                }
                Effect::HandOver { node, partition, to } => {
                    self.order_to(node, Message::HandOver(partition, to));
                }
                Effect::Plan(_) => unreachable!("the group has them made"),
            }
        }
    }

    fn order_to(&mut self, node: NodeId, message: Message) {
        let Some(to) = self.nodes.iter().position(|n| n.id == node) else { return };
        if self.isolated[to] > self.time {
            return;
        }
        let run = self.nodes[to].incarnation;
        let delay = 50_000 + self.rng.below(2 * MS);
        self.schedule(delay, Event::Arrives { from: NodeId(0), to, run, message });
    }

    /// A command is committed, and nodes begin to hear of it.
    fn commits(&mut self, by: Option<(ControllerNumber, Proposal)>, command: &Command) {
        let now = self.metadata_clock.at(self.time);
        self.note(&[6], || format!("commit: {command:?}"));
        let (outcome, _) = self.group.commit(now, command, by, true);
        self.published = Arc::new(self.group.state.clone());
        if let (Outcome::Joined { node, .. }, Command::Join { node: facts, .. }) =
            (&outcome, command)
            && let Some(joined) = self.nodes.iter().position(|n| n.storage == facts.storage)
        {
            self.nodes[joined].id = *node;
            self.links_up(joined);
        }
        for node in 0..self.nodes.len() {
            let run = self.nodes[node].incarnation;
            // Whoever comes back has entries to write before it applies them.
            let apart = self.isolated[node].saturating_sub(self.time);
            let late = if apart > 0 { 20 * MS } else { 5 * MS };
            let delay = apart + 100_000 + self.rng.below(late);
            self.schedule(delay, Event::Metadata { node, run });
        }
    }

    /// Clients ask for what comes to their minds.
    fn ask(&mut self) -> Result<(), String> {
        for client in 0..CLIENTS {
            let c = &self.clients.all[client];
            if c.waits.is_some() && self.time < c.until {
                continue;
            }
            if c.waits.is_some() {
                self.clients.all[client].waits = None;
                self.coverage.add("requests never answered", 1);
            }
            if self.clients.all[client].asks_at > self.time {
                continue;
            }
            let over = self.time > TROUBLE_NS + HEALED_NS;
            let (partition, op) = match over {
                true => match self.audit.pop() {
                    Some(read) => read,
                    None => continue,
                },
                false => {
                    let partition = PartitionId(self.rng.below(u64::from(self.partitions)) as u32);
                    (partition, self.clients.draw(partition, &mut self.rng))
                }
            };
            self.clients.all[client].asks_at = self.time + self.rng.below(30 * MS);
            let leader = self.published.partition(partition).and_then(|r| r.leader);
            let leads = |n: &Node| leader.is_some_and(|l| l.replica.storage == n.storage);
            let node = match self.nodes.iter().position(leads) {
                Some(node) if over || !self.rng.chance(1, 10) => node,
                _ => self.rng.below(self.nodes.len() as u64) as usize,
            };
            let stale = (!over).then(|| self.clients.draw_stale(&op, self.nodes.len())).flatten();
            let (node, stale) = stale.map_or((node, false), |node| (node, true));
            let times = (self.time, PATIENCE_NS);
            let request = self.clients.ask(client, times, (node, stale), (partition, &op));
            self.note(&[7, client as u64, request.0], || {
                let how = if stale { ", stale" } else { "" };
                format!("client {client} asks node {}{how}: {request:?} {op:?}", node + 1)
            });
            let mut frame = encode(request, &op);
            if stale {
                set_flags(&mut frame, flags::STALE);
            }
            let run = self.nodes[node].incarnation;
            let delay = 20_000 + self.rng.below(MS);
            self.schedule(delay, Event::Asks { node, run, frame, client });
        }
        Ok(())
    }
}

fn short(message: &Message) -> String {
    use ironring_node::shard::ToPeer;
    match message {
        Message::Peer(ToPeer::Replicate(head, bytes)) => format!("{head:?}, {} bytes", bytes.len()),
        Message::Peer(ToPeer::SnapshotPiece { partition, number, last, payload, .. }) => {
            format!("piece {number} of {partition}, last: {last}, {} bytes", payload.len())
        }
        other => format!("{other:?}"),
    }
}
