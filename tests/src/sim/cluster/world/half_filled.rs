//! A replica that has half of a state is all that is left, and an operator lets it lead.

use ironring_core::{Durability, ErrorCode, Offset, PartitionId, Token};
use ironring_node::shard::Shard;
use ironring_node::shard::partition::Partition;
use ironring_ring::metadata::{Command, LeaderId};
use ironring_ring::replication::Stage;

use super::{Event, MS, World};
use crate::sim::cluster::world::last_copy::new_world;
use crate::sim::op::{
    self, Change, Condition, Intent, Key, KeyOp, Op, Outcome, RequestId, WriteId, author,
};
use crate::sim::shard_node::encode;

/// Keys of the state, and the bytes of each: several pieces.
const KEYS: usize = 60;
const PUT_BYTES: u32 = 10_000;
/// The follower has so many of them when the node that sends them is lost.
const HALF: usize = 20;
/// How often what passes in a moment is looked for: more often than a piece comes, or a disk writes.
const LOOK_NS: u64 = MS / 50;
/// Whatever is waited for has happened by then.
const PATIENCE_NS: u64 = 10_000 * MS;
/// Requests with greater numbers are this run's own.
const OWN_REQUESTS: u64 = u64::MAX / 2;
const OWN_WRITES: u64 = 1 << 40;

const P: PartitionId = PartitionId(0);

/// What a key is to be read as: who wrote it, in which version; nothing: it is deleted.
type Written = (Key, Option<(WriteId, u64)>);

/// A node sends its state to another and is lost in the middle of it; the other is made to lead with what
/// it has. From then on what it acks is what is read, on it and on all that are filled from it.
/// `fell_behind`: it had a log, which ends before what can be sent as entries. `restarts`: its process ends
/// and begins anew before the order, twice between the order and its first term, and after the writes.
/// False: the seed's cluster has one replica of each partition.
///
/// # Errors
/// What did not hold.
pub fn half_filled(
    seed: u64,
    fell_behind: bool,
    restarts: bool,
    print: bool,
) -> Result<bool, String> {
    let mut world = new_world(seed, print);
    if world.group.state.rf() < 2 {
        return Ok(false);
    }
    world.one_writes()?;
    world.fill()?;
    if fell_behind {
        world.start(1);
        world.wait(MS, "votes", |world| world.voters() == 2)?;
        world.crash(1, true);
        world.wait(MS, "is left out", |world| world.voters() == 1 && world.leads(0))?;
        world.until(world.time + 100 * MS)?;
        let end = world.end(0);
        while world.shard(0).is_some_and(|shard| shard.models().peek(P).entries.first() <= end) {
            if world.time > 10 * PATIENCE_NS {
                return Err("all entries are kept".to_owned());
            }
            world.fill()?;
        }
    }
    world.half_fill()?;
    let end = world.end(1);
    if restarts {
        world.again(1);
    }
    world.wait(MS, "has what it had", |world| world.second(|p| p.ahead().is_some()))?;
    world.lead_with_loss(1);
    if restarts {
        // Its log goes on, which is not on the disk yet; then it is, and what begins the term is not.
        world.wait(LOOK_NS, "goes on", |world| world.second(|p| p.log_end > end))?;
        let jumped = world.end(1);
        world.again(1);
        world.wait(LOOK_NS, "begins", |world| world.second(|p| p.log_end > jumped))?;
        world.again(1);
    }
    world.wait(MS, "leads", |world| world.leads(1))?;
    let written = world.write_what_it_has()?;
    if restarts {
        world.again(1);
        world.wait(MS, "leads again", |world| world.leads(1))?;
    }
    world.reads(1, &written)?;
    // The others come back, and are filled from it.
    world.heal();
    world.until(world.time + PATIENCE_NS)?;
    world.judge_partition(P)?;
    let leader = (0..world.nodes.len()).find(|node| world.leads(*node)).ok_or("nobody leads")?;
    world.reads(leader, &written)?;
    Ok(true)
}

fn write(number: u64, key: Key, change: Change, condition: Condition) -> Op {
    let id = WriteId(OWN_WRITES + number);
    let intent = Intent { id, partition: P, level: Durability::Quorum, session: None };
    Op::Write { intent, ops: vec![KeyOp { key, change, condition }], batch: false }
}

impl World {
    /// Keys of the partition.
    fn names(&self) -> Vec<Key> {
        let names = (0..).map(|n| format!("half{n:04}"));
        let of_it = names.filter(|n| Token::of_key(n.as_bytes()).partition(self.partitions) == P);
        of_it.take(KEYS).map(|name| Key::from(name.as_bytes())).collect()
    }

    fn shard(&self, node: usize) -> Option<&Shard> {
        self.nodes[node].shard.as_ref()
    }

    /// The first node writes all keys of the state.
    fn fill(&mut self) -> Result<(), String> {
        for (number, key) in self.names().into_iter().enumerate() {
            let put = Change::Put { len: PUT_BYTES, ttl_ms: 0 };
            self.receipt(0, write(number as u64, key, put, Condition::None))?;
        }
        Ok(())
    }

    fn voters(&self) -> usize {
        self.group.state.partitions()[P.0 as usize].voters.len()
    }

    /// Whether something is so on the second node, once it has read its log.
    fn second(&self, is: impl Fn(&Partition) -> bool) -> bool {
        let shard = self.shard(1).filter(|shard| shard.replica(P).is_some());
        shard.is_some_and(|shard| is(shard.models().peek(P)))
    }

    fn leads(&self, node: usize) -> bool {
        let view = self.shard(node).and_then(|shard| shard.replica(P));
        view.is_some_and(|view| view.leads == Some(Stage::Serving))
    }

    fn end(&self, node: usize) -> Offset {
        self.shard(node).map_or(Offset::NONE, |shard| shard.models().peek(P).log_end)
    }

    /// Looks every `step` whether something is so.
    fn wait(&mut self, step: u64, what: &str, is: impl Fn(&World) -> bool) -> Result<(), String> {
        let until = self.time + PATIENCE_NS;
        while !is(self) {
            if self.time > until {
                return Err(format!("it never {what}: {:?}", self.group.state.partition(P)));
            }
            self.until(self.time + step)?;
        }
        Ok(())
    }

    /// A process ends with its machine and begins anew.
    fn again(&mut self, node: usize) {
        self.crash(node, true);
        self.start(node);
    }

    /// The second node joins, and the first is lost when that has some of its state.
    fn half_fill(&mut self) -> Result<(), String> {
        self.start(1);
        let newer = |p: &Partition| {
            let versions = p.keys.range_after(None).map(|(_, entry)| entry.version);
            versions.filter(|version| *version >= p.log_end).count()
        };
        self.wait(LOOK_NS, "has half of the state", |world| world.second(|p| newer(p) >= HALF))?;
        self.crash(0, true);
        self.queue.retain(|next| !matches!(next.0.event, Event::Arrives { to: 1, .. }));
        if !self.second(|p| (HALF..KEYS).contains(&newer(p))) {
            return Err("it has more than half of the state".to_owned());
        }
        // Its disk has that too.
        self.until(self.time + 50 * MS)
    }

    fn lead_with_loss(&mut self, node: usize) {
        let term = self.group.state.partitions()[P.0 as usize].term;
        self.commits(None, &Command::Elect { partitions: vec![(P, term)] });
        let record = &self.group.state.partitions()[P.0 as usize];
        let replica = record.replica_on(self.nodes[node].storage).expect("it is being filled").id;
        let leader = LeaderId { replica, incarnation: self.nodes[node].incarnation };
        let term = record.term;
        self.commits(None, &Command::LeadWithLoss { partition: P, term, leader });
    }

    /// Puts and deletes what the second node has, with and without conditions.
    fn write_what_it_has(&mut self) -> Result<Vec<Written>, String> {
        let shard = self.shard(1).ok_or("the second node is down")?;
        let keys = shard.models().peek(P).keys.range_after(None);
        let held: Vec<(Key, u64)> =
            keys.map(|(key, entry)| (Key::from(key), entry.version.0)).collect();
        let mut written = Vec::new();
        for (number, (key, version)) in held.into_iter().enumerate() {
            let number = (KEYS + number) as u64;
            let put = Change::Put { len: op::TAG_BYTES as u32, ttl_ms: 0 };
            let (change, condition) = match number % 3 {
                0 => (put, Condition::None),
                1 => (Change::Delete, Condition::None),
                _ => (put, Condition::Version(version)),
            };
            let op = write(number, key.clone(), change, condition);
            let id = op.intent().map(|intent| intent.id).ok_or("it is a write")?;
            let new = self.receipt(1, op)?;
            written.push((key, (change != Change::Delete).then_some((id, new))));
        }
        Ok(written)
    }

    /// What was written last is what is read.
    fn reads(&mut self, node: usize, written: &[Written]) -> Result<(), String> {
        for (key, expected) in written {
            let found = match self.ask_node(node, &Op::Get { key: key.clone() })? {
                Outcome::Value(v) => author(&v.bytes).map(|(id, _)| (id, v.version)),
                Outcome::Error { code: ErrorCode::NotFound, .. } => None,
                other => return Err(format!("{key:?} is read as {other:?}")),
            };
            if found != *expected {
                return Err(format!("{key:?} is {found:?} instead of {expected:?}"));
            }
        }
        Ok(())
    }

    /// The offset of a write that has to succeed.
    fn receipt(&mut self, node: usize, op: Op) -> Result<u64, String> {
        match self.ask_node(node, &op)? {
            Outcome::Receipt(receipt) => Ok(receipt.offset),
            other => Err(format!("{op:?} is answered {other:?}")),
        }
    }

    /// What a node answers.
    fn ask_node(&mut self, node: usize, op: &Op) -> Result<Outcome, String> {
        let request = RequestId(OWN_REQUESTS + self.told.len() as u64);
        let frame = encode(request, op);
        let run = self.nodes[node].incarnation;
        self.schedule(0, Event::Asks { node, run, frame, client: 0 });
        self.wait(MS, "answers", |world| world.told.contains_key(&request))?;
        Ok(self.told[&request].clone())
    }
}
