//! One node: the shipped replication engine over a simple log.

use std::collections::{BTreeMap, VecDeque};

use ironring_core::{Incarnation, Instant, NodeId, Offset, PartitionId, StorageUuid};
use ironring_ring::metadata::{LeaderId, PartitionRecord, ReplicaId};
use ironring_ring::replication::{
    Ack, AckState, Effect, Fence, FenceAnswer, ReadTicket, Replicate, Replicator, Request, Run,
    Settings, Stage, Verdict,
};

use super::checks::{Broken, Checks};
use super::log::{Disk, Entry, Part, Payload, Record, fold};
use super::nemesis::Moment;

/// A write whose client waits.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    offset: Offset,
    entry: Entry,
}

/// What a node sends.
#[derive(Clone, Debug)]
pub enum Message {
    /// Entries and where they belong.
    Replicate(Replicate, Vec<Entry>),
    /// An answer to them.
    Ack(Ack),
    /// From a controller.
    Fence(Fence),
    /// To all controllers.
    Fenced(FenceAnswer),
    /// To metadata.
    Ask(Request),
    /// To all controllers.
    Alive(Incarnation),
    /// From a controller.
    HandOver(PartitionId, ReplicaId),
    /// What metadata say.
    Record(PartitionId, PartitionRecord),
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// A node.
    Node(NodeId),
    /// The metadata group.
    Metadata,
}

/// A node's clock: it runs a little faster or slower than time, and began at another moment.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Parts per thousand of true time.
    pub permille: u64,
    /// What it showed at the beginning.
    pub begin: u64,
}

impl Clock {
    /// What it shows.
    pub fn at(&self, time: u64) -> Instant {
        Instant(self.begin + (u128::from(time) * u128::from(self.permille) / 1000) as u64)
    }
}

/// One run of its process.
#[derive(Debug)]
pub struct Process {
    /// The engine under test.
    pub engine: Replicator,
    /// Its log as the process sees it.
    pub parts: Vec<Part>,
    /// Per partition, in order of offset.
    waiting: Vec<VecDeque<Waiting>>,
    /// Reads that wait for a round of probes: what each must see.
    reads: BTreeMap<ReadTicket, (usize, Offset)>,
    next_ticket: u64,
    known_watermarks: Vec<Offset>,
    /// Steps it took since its last turn ended.
    steps: Vec<(Moment, PartitionId)>,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its number; 0 while it has not joined.
    pub id: NodeId,
    /// Its storage.
    pub storage: StorageUuid,
    /// How often its process was started.
    pub incarnation: Incarnation,
    /// Its clock.
    pub clock: Clock,
    /// Its disk.
    pub disk: Disk,
    /// Its process, while it runs.
    pub process: Option<Process>,
    /// It handles nothing until then.
    pub paused_until: u64,
    /// A group commit takes so long at most.
    pub flush_ns: u64,
    /// Most entries in one message.
    pub entries_max: u32,
}

/// What came out of one turn.
#[derive(Debug, Default)]
pub struct Turn {
    /// Messages to send.
    pub out: Vec<(To, Message)>,
    /// A group is being written.
    pub writes: bool,
    /// Clients that were told their write is safe.
    pub acked: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// Steps of the protocol that were taken.
    pub steps: Vec<(Moment, PartitionId)>,
    /// Partitions this node led when the turn began, and no more.
    left: Vec<PartitionId>,
}

impl Node {
    /// Starts the process.
    pub fn start(&mut self, now: Instant, settings: Settings) {
        self.incarnation = Incarnation(self.incarnation.0 + 1);
        let parts = self.disk.durable.clone();
        let run = Run { storage: self.storage, incarnation: self.incarnation };
        let end = PartitionId(parts.len() as u32);
        let mut engine = Replicator::new(run, settings, now, PartitionId(0), end);
        for (i, part) in parts.iter().enumerate() {
            engine.recovered(PartitionId(i as u32), part.recovered());
        }
        let n = parts.len();
        self.process = Some(Process {
            engine,
            waiting: vec![VecDeque::new(); n],
            reads: BTreeMap::new(),
            next_ticket: 0,
            known_watermarks: parts.iter().map(|_| Offset(0)).collect(),
            steps: Vec::new(),
            parts,
        });
    }

    /// Kills it.
    pub fn crash(&mut self, in_flight_survives: bool) {
        self.disk.crash(in_flight_survives);
        self.process = None;
    }

    /// Whether it handles events at `time`.
    pub fn is_awake(&self, time: u64) -> bool {
        self.process.is_some() && self.paused_until <= time
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it runs")
    }

    fn step(&mut self, moment: Moment, partition: PartitionId) {
        self.process().steps.push((moment, partition));
    }

    /// Appends a record; the partition's log as the process sees it changes at once.
    fn append(&mut self, record: Record) -> ironring_core::GroupSeq {
        let process = self.process.as_mut().expect("it runs");
        fold(&mut process.parts, &record);
        self.disk.append(record)
    }

    /// A message arrived. `refuse`: the log takes nothing at present.
    pub fn receive(
        &mut self,
        now: Instant,
        from: NodeId,
        message: &Message,
        refuse: bool,
        checks: &mut Checks,
    ) -> Result<(), Broken> {
        match message {
            Message::Replicate(head, entries) => {
                self.replicate(now, from, head, entries, refuse, checks)?;
            }
            Message::Ack(ack) => self.process().engine.ack(now, ack),
            Message::Fence(fence) => self.process().engine.fence(now, fence),
            Message::Record(partition, record) => {
                self.process().engine.record(now, *partition, record);
            }
            Message::HandOver(partition, to) => {
                // What speaks against it the controller sees, and asks again.
                let _ = self.process().engine.hand_over(now, *partition, Some(*to));
            }
            Message::Fenced(_) | Message::Ask(_) | Message::Alive(_) => {}
        }
        Ok(())
    }

    fn replicate(
        &mut self,
        now: Instant,
        from: NodeId,
        head: &Replicate,
        entries: &[Entry],
        refuse: bool,
        checks: &mut Checks,
    ) -> Result<(), Broken> {
        let p = head.partition.0 as usize;
        let term_of = |i: u32| entries[i as usize].0;
        let verdict = self.process().engine.judge(now, from, head, &term_of);
        let Verdict::Append { skip, cut } = verdict else { return Ok(()) };
        if refuse {
            return Ok(());
        }
        if let Some(end) = cut {
            let committed = checks.committed(p).len() as u64;
            let part = &self.process().parts[p];
            if part.entries.starts_with(checks.committed(p)) && end.0 <= committed {
                return Err(format!("5: {p}: a committed entry is cut at {end}"));
            }
            self.append(Record::Cut(p, end));
            self.step(Moment::Cuts, head.partition);
            self.process().engine.cut(head.partition, end);
        }
        let mut group = None;
        for (i, entry) in entries.iter().enumerate().skip(skip as usize) {
            let offset = Offset(head.first.0 + i as u64);
            let high_watermark = self.process().engine.view(head.partition).high_watermark;
            group = Some(self.append(Record::Entry(p, offset, *entry, high_watermark)));
            checks.wrote(p, &self.process().parts[p], offset)?;
        }
        self.process().engine.took(head, head.end(), &term_of, group);
        Ok(())
    }

    /// The group in flight is durable.
    pub fn flushed(&mut self, now: Instant) {
        let group = self.disk.complete();
        self.process().engine.flushed(now, group);
    }

    /// A client writes. False: this node does not take it.
    pub fn write(
        &mut self,
        partition: PartitionId,
        payload: Payload,
        checks: &mut Checks,
    ) -> Result<bool, Broken> {
        let p = partition.0 as usize;
        let Ok((term, offset)) = self.process().engine.next_place(partition) else {
            return Ok(false);
        };
        let entry = (term, payload);
        let high_watermark = self.process().engine.view(partition).high_watermark;
        let group = self.append(Record::Entry(p, offset, entry, high_watermark));
        checks.wrote(p, &self.process().parts[p], offset)?;
        self.process().engine.appended(partition, offset.next(), group);
        self.process().waiting[p].push_back(Waiting { offset, entry });
        Ok(true)
    }

    /// A client reads. Nothing: this node does not serve it.
    pub fn read(
        &mut self,
        now: Instant,
        partition: PartitionId,
        checks: &mut Checks,
    ) -> Result<(), Broken> {
        let p = partition.0 as usize;
        let least = checks.read_begins(p);
        let process = self.process();
        process.next_ticket += 1;
        let ticket = ReadTicket(process.next_ticket);
        match process.engine.read(now, partition, ticket) {
            Ok(true) => {
                let end = process.engine.view(partition).high_watermark;
                checks.read_ends(p, least, end)?;
            }
            Ok(false) => {
                process.reads.insert(ticket, (p, least));
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// The end of a turn: everything the engine wants is done.
    pub fn turn<'a>(
        &mut self,
        now: Instant,
        checks: &mut Checks,
        durable: &dyn Fn(ReplicaId, usize) -> Vec<&'a Part>,
    ) -> Result<Turn, Broken> {
        let mut turn = Turn::default();
        loop {
            let effects: Vec<Effect> = self.process().engine.effects().collect();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                self.perform(now, effect, &mut turn, checks)?;
            }
        }
        let entries_max = self.entries_max;
        let engine = &mut self.process().engine;
        let acks = engine.take_acks();
        let nodes: Vec<NodeId> = engine.nodes_to_send().collect();
        let mut sections = Vec::new();
        for node in nodes {
            while let Some(section) = engine.next_section(now, node, entries_max) {
                engine.sent(node, &section, section.message.count);
                sections.push((node, section.message));
            }
        }
        for (node, ack) in acks {
            let view = self.process().engine.view(ack.partition);
            let refusal = matches!(ack.state, AckState::Promised { .. });
            if !refusal && view.term != ack.term {
                return Err(format!("7: an ack of term {} after {}", ack.term, view.term));
            }
            if matches!(ack.state, AckState::Flushed { .. }) {
                self.step(Moment::Acks, ack.partition);
            }
            turn.out.push((To::Node(node), Message::Ack(ack)));
        }
        for (node, head) in sections {
            let part = &self.process().parts[head.partition.0 as usize];
            let from = head.first.0 as usize - 1;
            let entries = part.entries[from..from + head.count as usize].to_vec();
            turn.out.push((To::Node(node), Message::Replicate(head, entries)));
        }
        self.progress(&mut turn, checks, durable)?;
        turn.writes = self.disk.seal().is_some();
        turn.steps = std::mem::take(&mut self.process().steps);
        Ok(turn)
    }

    fn perform(
        &mut self,
        now: Instant,
        effect: Effect,
        turn: &mut Turn,
        checks: &mut Checks,
    ) -> Result<(), Broken> {
        match effect {
            Effect::Promise { partition, term } => {
                let group = self.append(Record::Promise(partition.0 as usize, term));
                self.process().engine.promise_staged(partition, term, group);
                self.step(Moment::Promises, partition);
            }
            Effect::Adopt { partition, life } => {
                let p = partition.0 as usize;
                if self.process().parts[p].life != Some(life) {
                    self.append(Record::Adopt(p, life));
                    self.process().known_watermarks[p] = Offset(0);
                    self.process().waiting[p].clear();
                    self.process().engine.adopted(now, partition, life);
                    self.step(Moment::Adopts, partition);
                }
            }
            Effect::StartTerm { partition, term, offset } => {
                let p = partition.0 as usize;
                if self.process().engine.view(partition).leads != Some(Stage::Starting) {
                    return Ok(());
                }
                let me = self.run_of(p);
                checks.leads(p, term, me, &self.process().parts[p])?;
                let high_watermark = self.process().engine.view(partition).high_watermark;
                let entry = (term, 0);
                let record = Record::Entry(p, offset, entry, high_watermark);
                let group = self.append(record);
                checks.wrote(p, &self.process().parts[p], offset)?;
                self.process().engine.appended(partition, offset.next(), group);
                self.step(Moment::StartsTerm, partition);
            }
            Effect::SteppedDown { partition, .. } => {
                // Whoever waits is told that the outcome is not known.
                self.process().waiting[partition.0 as usize].clear();
                turn.left.push(partition);
            }
            Effect::Ask(request) => {
                match &request {
                    Request::Voters { partition, .. } => self.step(Moment::Proposes, *partition),
                    Request::Transfer { partition, .. } => self.step(Moment::HandsOver, *partition),
                    Request::Election { .. } | Request::Renew { .. } => {}
                }
                turn.out.push((To::Metadata, Message::Ask(request)));
            }
            Effect::Fenced(answer) => {
                self.step(Moment::Answers, answer.partition);
                turn.out.push((To::Metadata, Message::Fenced(answer)));
            }
            Effect::ReadDecided { ticket, confirmed } => {
                let waiting = self.process().reads.remove(&ticket);
                if let (Some((p, least)), true) = (waiting, confirmed) {
                    let view = self.process().engine.view(PartitionId(p as u32));
                    checks.read_ends(p, least, view.high_watermark)?;
                    turn.reads += 1;
                }
            }
            Effect::Repaired { partition } => {
                self.append(Record::Repaired(partition.0 as usize));
            }
            Effect::Serving { partition, .. } => self.step(Moment::Serves, partition),
            Effect::NeedsSnapshot { .. } => {
                return Err("a log that begins at its beginning needs no snapshot".to_owned());
            }
        }
        Ok(())
    }

    /// Who this node's replica of a partition is.
    pub fn run_of(&self, partition: usize) -> LeaderId {
        let life = self.process.as_ref().and_then(|p| p.parts[partition].life);
        let life = life.unwrap_or(u64::MAX);
        let replica = ReplicaId { storage: self.storage, life };
        LeaderId { replica, incarnation: self.incarnation }
    }

    fn progress<'a>(
        &mut self,
        turn: &mut Turn,
        checks: &mut Checks,
        durable: &dyn Fn(ReplicaId, usize) -> Vec<&'a Part>,
    ) -> Result<(), Broken> {
        let me = self.storage;
        let disk = &self.disk;
        let process = self.process.as_mut().expect("it runs");
        for partition in process.engine.take_progress() {
            let p = partition.0 as usize;
            let view = process.engine.view(partition);
            let known = &mut process.known_watermarks[p];
            if view.high_watermark < *known {
                return Err(format!("4: {p}: the high watermark goes back to {view:?}"));
            }
            *known = view.high_watermark;
            let record = process.engine.known(partition);
            let on_disk = |id: ReplicaId| {
                let mut parts = durable(id, p);
                if id.storage == me {
                    parts.extend(disk.durable.get(p).filter(|part| part.life == Some(id.life)));
                }
                parts
            };
            let part = &process.parts[p];
            let leads = view.leads.is_some() || turn.left.contains(&partition);
            if leads {
                process.steps.push((Moment::Commits, partition));
            }
            checks.committed_to(
                p,
                view.high_watermark,
                part,
                (leads, view.term),
                record,
                &on_disk,
            )?;
            while let Some(first) = process.waiting[p].front().copied()
                && first.offset < view.high_watermark
            {
                process.waiting[p].pop_front();
                checks.acked(p, first.offset, first.entry)?;
                turn.acked += 1;
            }
        }
        Ok(())
    }

    /// Whether this node leads a partition, as far as it knows.
    pub fn leads(&self, partition: PartitionId) -> bool {
        self.process.as_ref().is_some_and(|p| p.engine.view(partition).leads.is_some())
    }

    /// Whether this node could answer a read without asking anybody.
    pub fn has_lease(&self, now: Instant, partition: PartitionId) -> bool {
        let Some(process) = &self.process else { return false };
        let serving = process.engine.view(partition).leads == Some(Stage::Serving);
        serving && process.engine.has_lease(now, partition)
    }
}
