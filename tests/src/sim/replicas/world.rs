//! The loop: messages, disks, clients, controllers and everything that goes wrong, by seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use ironring_core::prng::Prng;
use ironring_core::{Incarnation, Instant, NodeId, PartitionId, StorageUuid};
use ironring_ring::controller::{self, Effect, Ticket};
use ironring_ring::metadata::{Command, MemberState, Outcome, ReplicaId, Wish};
use ironring_ring::replication::Settings;

use super::checks::{Broken, Checks};
use super::log::{Disk, Part};
use super::metadata::{ControllerNumber, Group, facts, join};
use super::node::{Clock, Message, Node, To, Turn};
use crate::sim::profile::Trouble;
use crate::sim::trace::{Coverage, Trace};
use crate::sim::world::Report;

const MS: u64 = 1_000_000;
/// Trouble lasts so long; then everything heals and has to work again.
const TROUBLE_NS: u64 = 12_000 * MS;
/// How long the healed cluster has for that.
const HEALED_NS: u64 = 12_000 * MS;
/// The pace of controllers, clients and troubles.
const TICK_NS: u64 = 10 * MS;
/// How many old messages may come again.
const OLD_MESSAGES: usize = 100;

/// Something that happens later.
#[derive(Debug)]
enum Event {
    Arrives { from: To, to: To, message: Message },
    Flushed { node: usize, incarnation: Incarnation },
    Timer { node: usize, incarnation: Incarnation },
    Commits { by: Option<(ControllerNumber, Ticket)>, command: Box<Command> },
    Gone { node: NodeId },
    Tick,
}

#[derive(Debug)]
struct Scheduled {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// How much goes wrong.
#[derive(Clone, Copy, Debug)]
struct Odds {
    /// Of 1000 messages.
    lost: u64,
    doubled: u64,
    delayed: u64,
    /// An old message arrives once more.
    replayed: u64,
    /// Of 1000 ticks.
    crash: u64,
    pause: u64,
    cut_link: u64,
    slow_disk: u64,
    wipe: u64,
    damage: u64,
    refuse: u64,
    election: u64,
    operate: u64,
}

impl Odds {
    fn draw(trouble: Trouble, rng: &mut Prng) -> Odds {
        let mut some = |max: u64| if rng.chance(1, 2) { rng.below(max + 1) } else { 0 };
        let calm = Odds {
            lost: 0,
            doubled: 0,
            replayed: 0,
            delayed: some(5),
            crash: 0,
            pause: 0,
            cut_link: 0,
            slow_disk: 0,
            wipe: 0,
            damage: 0,
            refuse: 0,
            election: some(3),
            operate: some(10),
        };
        let rough = Odds {
            lost: some(100),
            doubled: some(100),
            replayed: some(50),
            delayed: some(100),
            crash: some(15),
            pause: some(10),
            cut_link: some(15),
            election: some(15),
            operate: some(20),
            ..calm
        };
        match trouble {
            Trouble::Calm => calm,
            Trouble::Crash => rough,
            Trouble::DiskFaults => Odds { slow_disk: some(20), ..rough },
            Trouble::Corruption => Odds { wipe: some(10), damage: some(15), ..rough },
            Trouble::Full => Odds { refuse: some(200), ..rough },
        }
    }
}

struct World {
    rng: Prng,
    trace: Trace,
    coverage: Coverage,
    time: u64,
    order: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    nodes: Vec<Node>,
    group: Group,
    metadata_clock: Clock,
    checks: Checks,
    settings: Settings,
    odds: Odds,
    /// Until when messages from one to another are lost; the last is the metadata group.
    cut: Vec<Vec<u64>>,
    /// Some of the messages that were sent, to be sent again at any time later.
    old: Vec<(To, To, Message)>,
    /// What disks held when they were lost or damaged.
    graves: Vec<(StorageUuid, Vec<Part>)>,
    next_payload: u64,
    next_storage: u128,
    partitions: usize,
    /// Writes acked since everything healed, by partition.
    acked_after_healing: u64,
    healed: bool,
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
        let n = 3 + rng.below(3) as usize;
        let partitions = 1 << rng.below(3);
        let rf =
            (1 + rng.below(n as u64) as usize).min(n).max(if rng.chance(3, 4) { 3 } else { 1 });
        let settings = Settings {
            replica_timeout: Duration::from_millis(300 + rng.below(1500)),
            replica_lag_max: 10 + rng.below(100),
            resend_after: Duration::from_millis(200 + rng.below(800)),
            ..Settings::default()
        };
        // The fastest clock and the slowest are as far apart as is promised.
        let half = u64::from(settings.drift_permille) / 2;
        let clock = |rng: &mut Prng| Clock {
            permille: 1000 - half + half * rng.below(3),
            begin: rng.below(1 << 40),
        };
        let nodes: Vec<Node> = (0..n)
            .map(|i| Node {
                id: NodeId(u64::from(i == 0)),
                storage: StorageUuid(i as u128 + 1),
                incarnation: Incarnation(0),
                clock: clock(&mut rng),
                disk: Disk::new(partitions),
                process: None,
                paused_until: 0,
                disk_slowness: 1,
            })
            .collect();
        let patience = controller::Settings {
            session_timeout: Duration::from_millis(1000 + rng.below(2000)),
            rebalance_grace: Duration::from_millis(rng.below(3000)),
            balance_every: Duration::from_millis(100 + rng.below(900)),
            ..controller::Settings::default()
        };
        let first = facts(0, nodes[0].storage, Incarnation(0));
        let group = Group::new(partitions as u32, rf as u8, first, patience);
        let metadata_clock = clock(&mut rng);
        let odds = Odds::draw(trouble, &mut rng);
        World {
            trace: Trace::new(print),
            coverage: Coverage::default(),
            time: 0,
            order: 0,
            queue: BinaryHeap::new(),
            group,
            metadata_clock,
            checks: Checks::new(partitions),
            settings,
            odds,
            cut: vec![vec![0; n + 1]; n + 1],
            old: Vec::new(),
            graves: Vec::new(),
            next_payload: 0,
            next_storage: n as u128,
            partitions,
            acked_after_healing: 0,
            healed: false,
            nodes,
            rng,
        }
    }

    fn live(&mut self) -> Result<(), Broken> {
        let now = self.metadata_clock.at(0);
        self.group.new_controller(now);
        for i in 0..self.nodes.len() {
            self.start(i);
        }
        self.schedule(TICK_NS, Event::Tick);
        while let Some(Reverse(next)) = self.queue.pop() {
            if next.at > TROUBLE_NS + HEALED_NS {
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

    fn handle(&mut self, event: Event) -> Result<(), Broken> {
        match event {
            Event::Arrives { from, to, message } => self.arrives(from, to, &message),
            Event::Flushed { node, incarnation } => {
                if self.nodes[node].incarnation != incarnation || self.nodes[node].process.is_none()
                {
                    return Ok(());
                }
                if let Some(wait) = self.paused(node) {
                    self.schedule(wait, Event::Flushed { node, incarnation });
                    return Ok(());
                }
                let now = self.nodes[node].clock.at(self.time);
                self.nodes[node].flushed(now);
                self.turn(node)
            }
            Event::Timer { node, incarnation } => {
                if self.nodes[node].incarnation != incarnation {
                    return Ok(());
                }
                let wait = self.paused(node).unwrap_or(5 * MS);
                self.schedule(wait, Event::Timer { node, incarnation });
                if self.nodes[node].is_awake(self.time) {
                    let now = self.nodes[node].clock.at(self.time);
                    if let Some(process) = &mut self.nodes[node].process {
                        process.engine.tick(now);
                    }
                    if self.rng.chance(1, 10) {
                        let from = To::Node(self.nodes[node].id);
                        self.send(from, To::Metadata, Message::Alive(incarnation));
                    }
                    self.turn(node)?;
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
            Event::Tick => {
                self.schedule(TICK_NS, Event::Tick);
                self.tick()
            }
        }
    }

    fn paused(&self, node: usize) -> Option<u64> {
        let until = self.nodes[node].paused_until;
        (until > self.time).then(|| until - self.time)
    }

    fn start(&mut self, node: usize) {
        let now = self.nodes[node].clock.at(self.time);
        let settings = self.settings;
        self.nodes[node].start(now, settings);
        let incarnation = self.nodes[node].incarnation;
        self.note(&[1, node as u64], || format!("node {} starts", node + 1));
        self.schedule(MS, Event::Timer { node, incarnation });
        let command = Box::new(join(facts(node, self.nodes[node].storage, incarnation)));
        let delay = MS + self.rng.below(20 * MS);
        self.schedule(delay, Event::Commits { by: None, command });
        self.link_up_everywhere();
        for p in 0..self.partitions {
            self.tell(p, Some(node));
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
        self.coverage.add("crashes", 1);
    }

    /// Tells nodes what metadata say about a partition.
    fn tell(&mut self, partition: usize, only: Option<usize>) {
        let record = self.group.state.partitions()[partition].clone();
        for node in 0..self.nodes.len() {
            if only.is_none_or(|only| only == node) {
                let id = PartitionId(partition as u32);
                let message = Message::Record(id, record.clone());
                self.send(To::Metadata, To::Node(self.nodes[node].id), message);
            }
        }
    }

    fn send(&mut self, from: To, to: To, message: Message) {
        let index = |to: To| match to {
            To::Node(id) => self.nodes.iter().position(|n| n.id == id),
            To::Metadata => Some(self.nodes.len()),
        };
        if let (Some(a), Some(b)) = (index(from), index(to))
            && self.cut[a][b] > self.time
        {
            self.coverage.add("messages over cut links", 1);
            return;
        }
        if self.rng.chance(self.odds.replayed, 1000) {
            self.replay_one(from, to, &message);
        }
        let mut times = 1;
        if self.rng.chance(self.odds.lost, 1000) {
            self.coverage.add("messages lost", 1);
            times = 0;
        } else if self.rng.chance(self.odds.doubled, 1000) {
            self.coverage.add("messages doubled", 1);
            times = 2;
        }
        for _ in 0..times {
            let late = self.rng.chance(self.odds.delayed, 1000);
            let delay = if late { self.rng.below(2000 * MS) } else { 20_000 + self.rng.below(MS) };
            self.schedule(delay, Event::Arrives { from, to, message: message.clone() });
        }
    }

    /// An old message arrives once more, and this one may do so later.
    fn replay_one(&mut self, from: To, to: To, message: &Message) {
        let kept = (from, to, message.clone());
        if self.old.len() < OLD_MESSAGES {
            self.old.push(kept);
            return;
        }
        let i = self.rng.below(OLD_MESSAGES as u64) as usize;
        let (from, to, message) = std::mem::replace(&mut self.old[i], kept);
        self.coverage.add("messages replayed", 1);
        self.schedule(20_000, Event::Arrives { from, to, message });
    }

    fn arrives(&mut self, from: To, to: To, message: &Message) -> Result<(), Broken> {
        match to {
            To::Metadata => {
                self.metadata_hears(from, message);
                Ok(())
            }
            To::Node(id) => {
                let Some(node) = self.nodes.iter().position(|n| n.id == id) else {
                    return Ok(());
                };
                if self.nodes[node].process.is_none() {
                    return Ok(());
                }
                if let Some(wait) = self.paused(node) {
                    self.schedule(wait, Event::Arrives { from, to, message: message.clone() });
                    return Ok(());
                }
                let now = self.nodes[node].clock.at(self.time);
                let refuse = self.rng.chance(self.odds.refuse, 1000);
                let from = match from {
                    To::Node(id) => id,
                    To::Metadata => NodeId(0),
                };
                self.note(&[3, id.0, from.0], || format!("{from} -> {id}: {message:?}"));
                self.nodes[node].receive(now, from, message, refuse, &mut self.checks)?;
                self.turn(node)
            }
        }
    }

    fn metadata_hears(&mut self, from: To, message: &Message) {
        let now = self.metadata_clock.at(self.time);
        self.note(&[4], || format!("-> metadata: {message:?}"));
        match (from, message) {
            (_, Message::Fenced(answer)) => self.group.answer(now, answer),
            (_, Message::Ask(request)) => self.group.request(now, request, &mut self.rng),
            (To::Node(id), Message::Alive(incarnation)) => self.group.heard(now, id, *incarnation),
            _ => {}
        }
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
        let Turn { out, writes, acked, reads, .. } =
            this.turn(now, &mut self.checks, &partition_of)?;
        self.coverage.add("writes acked", acked);
        self.coverage.add("reads confirmed by probes", reads);
        if self.healed {
            self.acked_after_healing += acked;
        }
        let id = self.nodes[node].id;
        for (to, message) in out {
            self.send(To::Node(id), to, message);
        }
        if writes {
            let slow = self.nodes[node].disk_slowness;
            let took = (100_000 + self.rng.below(400_000)) * slow;
            let incarnation = self.nodes[node].incarnation;
            self.schedule(took, Event::Flushed { node, incarnation });
        }
        self.look_at_leases()
    }

    fn look_at_leases(&self) -> Result<(), Broken> {
        for p in 0..self.partitions {
            let id = PartitionId(p as u32);
            let holds = |n: &&Node| n.has_lease(n.clock.at(self.time), id);
            let holders: Vec<_> = self.nodes.iter().filter(holds).map(|n| n.run_of(p)).collect();
            self.checks.leases(id, &holders)?;
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), Broken> {
        self.look_at_leases()?;
        self.controllers();
        self.clients()?;
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
                        self.send(To::Metadata, To::Node(node), Message::Fence(fence));
                    }
                }
                Effect::HandOver { node, partition, to } => {
                    let message = Message::HandOver(partition, to);
                    self.send(To::Metadata, To::Node(node), message);
                }
            }
        }
        // Nodes hear of a commit by applying it: sooner or later each does.
        for p in 0..self.partitions {
            if self.rng.chance(1, 10) {
                self.tell(p, None);
            }
        }
    }

    /// A command is committed, and nodes begin to hear of it.
    fn commits(&mut self, by: Option<(ControllerNumber, Ticket)>, command: &Command) {
        let now = self.metadata_clock.at(self.time);
        let heard_back = !self.rng.chance(self.odds.lost, 1000);
        self.note(&[5], || format!("commit: {command:?}"));
        self.coverage.add(&format!("commits: {}", kind_of(command)), 1);
        let (outcome, changed) = self.group.commit(now, command, by, heard_back);
        if let (Outcome::Joined { node, .. }, Command::Join { node: facts, .. }) =
            (&outcome, command)
            && let Some(joined) = self.nodes.iter_mut().find(|n| n.storage == facts.storage)
        {
            joined.id = *node;
            self.link_up_everywhere();
        }
        for partition in changed {
            self.tell(partition.0 as usize, None);
        }
    }

    fn link_up_everywhere(&mut self) {
        let ids: Vec<NodeId> = self.nodes.iter().map(|n| n.id).collect();
        for node in &mut self.nodes {
            if let Some(process) = &mut node.process {
                ids.iter().for_each(|id| process.engine.link_up(*id));
            }
        }
    }

    fn clients(&mut self) -> Result<(), Broken> {
        for _ in 0..4 {
            let p = PartitionId(self.rng.below(self.partitions as u64) as u32);
            let node = self.rng.below(self.nodes.len() as u64) as usize;
            if !self.nodes[node].is_awake(self.time) {
                continue;
            }
            let now = self.nodes[node].clock.at(self.time);
            if self.rng.chance(1, 2) {
                self.next_payload += 1;
                let payload = self.next_payload;
                if self.nodes[node].write(p, payload, &mut self.checks)? {
                    self.coverage.add("writes taken", 1);
                }
            } else {
                self.nodes[node].read(now, p, &mut self.checks)?;
            }
            self.turn(node)?;
        }
        Ok(())
    }

    fn troubles(&mut self) {
        let odds = self.odds;
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        for i in 0..self.nodes.len() {
            if self.nodes[i].process.is_none() && self.rng.chance(1, 20) {
                self.start(i);
            }
        }
        if self.rng.chance(odds.crash, 1000) && self.nodes[node].process.is_some() {
            self.crash(node);
        }
        if self.rng.chance(odds.pause, 1000) {
            self.coverage.add("pauses", 1);
            let length = self.rng.below(3000 * MS);
            self.nodes[node].paused_until = self.time + length;
        }
        if self.rng.chance(odds.cut_link, 1000) {
            self.coverage.add("links cut", 1);
            let other = self.rng.below(self.nodes.len() as u64 + 1) as usize;
            let until = self.time + self.rng.below(3000 * MS);
            self.cut[node][other] = until;
            if self.rng.chance(1, 2) {
                self.cut[other][node] = until;
            }
        }
        if self.rng.chance(odds.slow_disk, 1000) {
            self.nodes[node].disk_slowness = [1, 20, 500][self.rng.below(3) as usize];
        }
        if self.rng.chance(odds.wipe, 1000) {
            self.wipe(node);
        }
        if self.rng.chance(odds.damage, 1000) {
            self.damage(node);
        }
        if self.rng.chance(odds.election, 1000) {
            let p = self.rng.below(self.partitions as u64) as usize;
            let seen = self.group.state.partitions()[p].term;
            let partitions = vec![(PartitionId(p as u32), seen)];
            self.commits(None, &Command::Elect { partitions });
        }
        if self.rng.chance(odds.election, 1000) {
            let now = self.metadata_clock.at(self.time);
            self.group.new_controller(now);
            self.coverage.add("controllers replaced", 1);
        }
        if self.rng.chance(odds.operate, 1000) {
            self.operate();
        }
    }

    /// Whether a partition can lose what one storage holds: enough others that count have
    /// everything that is committed.
    fn can_lose(&self, partition: usize, storage: StorageUuid) -> bool {
        let record = &self.group.state.partitions()[partition];
        let committed = self.checks.committed(partition);
        let whole = |id: &ReplicaId| {
            self.nodes.iter().filter(|n| n.storage == id.storage).any(|n| {
                let part = &n.disk.durable[partition];
                part.life == Some(id.life)
                    && part.damaged_below.is_none()
                    && part.entries.starts_with(committed)
            })
        };
        let others: Vec<&ReplicaId> =
            record.voters.iter().filter(|v| v.storage != storage).collect();
        // A learner may be on its way to become a voter.
        record.replica_on(storage).is_none()
            || (others.len() >= 2 && others.iter().all(|v| whole(v)))
    }

    /// A node loses its disk and comes back with an empty one.
    fn wipe(&mut self, node: usize) {
        let storage = self.nodes[node].storage;
        if (0..self.partitions).any(|p| !self.can_lose(p, storage)) {
            return;
        }
        self.coverage.add("disks wiped", 1);
        if self.nodes[node].process.is_some() {
            self.crash(node);
        }
        self.graves.push((storage, self.nodes[node].disk.durable.clone()));
        self.next_storage += 1;
        self.nodes[node].storage = StorageUuid(self.next_storage);
        self.nodes[node].disk = Disk::new(self.partitions);
        self.note(&[6, node as u64], || format!("node {} loses its disk", node + 1));
        let old = self.nodes[node].id;
        self.nodes[node].id = NodeId(0);
        self.commits(None, &Command::SetMember { node: old, state: MemberState::Lost });
    }

    /// A node's log of one partition is damaged in the middle, which it notices when it starts.
    fn damage(&mut self, node: usize) {
        let p = self.rng.below(self.partitions as u64) as usize;
        let storage = self.nodes[node].storage;
        let len = self.nodes[node].disk.durable[p].entries.len() as u64;
        if len < 2 || !self.can_lose(p, storage) {
            return;
        }
        if self.nodes[node].process.is_some() {
            self.crash(node);
        }
        self.graves.push((storage, self.nodes[node].disk.durable.clone()));
        let part = &mut self.nodes[node].disk.durable[p];
        let below = part.damaged_below.unwrap_or(part.end()).max(part.end());
        let left = self.rng.below(len);
        part.entries.truncate(left as usize);
        part.damaged_below = Some(below);
        self.coverage.add("logs damaged", 1);
        self.note(&[7, node as u64, p as u64, left], || {
            format!("node {}: partition {p} is damaged behind {left} entries", node + 1)
        });
    }

    /// An operator drains a node or lets it work again, or asks for more or fewer replicas.
    fn operate(&mut self) {
        let node = self.nodes[self.rng.below(self.nodes.len() as u64) as usize].id;
        let state = [MemberState::Active, MemberState::Draining][self.rng.below(2) as usize];
        let command = if self.rng.chance(1, 2) {
            Command::SetMember { node, state }
        } else {
            let rf = 1 + self.rng.below(self.nodes.len() as u64) as u8;
            Command::SetKeyspace { rf, min_voters: 1 }
        };
        self.commits(None, &command);
    }

    fn heal(&mut self) {
        self.healed = true;
        self.note(&[8], || "everything heals".to_owned());
        self.odds = Odds { lost: 0, doubled: 0, delayed: 0, replayed: 0, refuse: 0, ..self.odds };
        for row in &mut self.cut {
            row.fill(0);
        }
        for i in 0..self.nodes.len() {
            self.nodes[i].paused_until = 0;
            self.nodes[i].disk_slowness = 1;
            if self.nodes[i].process.is_none() {
                self.start(i);
            }
        }
        self.link_up_everywhere();
        let members: Vec<NodeId> = self.group.state.members().map(|m| m.id).collect();
        for node in members {
            if self.nodes.iter().any(|n| n.id == node) {
                let state = MemberState::Active;
                self.commits(None, &Command::SetMember { node, state });
            }
        }
        let rf = self.nodes.len().min(3) as u8;
        self.commits(None, &Command::SetKeyspace { rf, min_voters: 1 });
    }

    /// A healed cluster serves, and its replicas are equal.
    fn judge_the_end(&mut self) -> Result<(), Broken> {
        if self.acked_after_healing == 0 {
            return Err(format!(
                "nothing is written after healing: {:?}",
                self.group.state.partitions()
            ));
        }
        for p in 0..self.partitions {
            let record = &self.group.state.partitions()[p];
            if record.leader.is_none() {
                return Err(format!("nobody leads {p} after healing: {record:?}"));
            }
            let rf = self.nodes.len().min(3);
            if record.replicas.len() != rf {
                return Err(format!("{p} does not have {rf} replicas after healing: {record:?}"));
            }
            let committed = self.checks.committed(p);
            self.coverage.add("entries committed", committed.len() as u64);
            for replica in &record.replicas {
                let node = self.nodes.iter().find(|n| n.storage == replica.id.storage);
                let Some(process) = node.and_then(|n| n.process.as_ref()) else { continue };
                let have = process.parts[p].entries.len();
                // The last writes may still be on their way.
                if have + 200 < committed.len() {
                    return Err(format!(
                        "{:?} of {p} has {have} of {} entries after healing: {record:?}",
                        replica.id,
                        committed.len()
                    ));
                }
                if replica.wish != Wish::Voter || !record.is_voter(replica.id) {
                    return Err(format!("{:?} of {p} does not vote again: {record:?}", replica.id));
                }
            }
        }
        let now: Instant = self.metadata_clock.at(self.time);
        self.note(&[9, now.0], || "the end".to_owned());
        Ok(())
    }
}

fn kind_of(command: &Command) -> &'static str {
    match command {
        Command::Elect { .. } => "elections begun",
        Command::Lead { .. } => "elections ended",
        Command::Voters { .. } => "voters proposed",
        Command::Transfer { .. } => "leaderships transferred",
        Command::Replicas { .. } => "replicas changed",
        Command::Status { .. } => "status of nodes",
        Command::Join { .. } => "joins",
        _ => "orders of operators",
    }
}
