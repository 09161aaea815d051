//! The last copy of everything has a record that cannot be read, and others are to be made of it.

use ironring_core::io::FileName;
use ironring_core::prng::Prng;
use ironring_core::{ErrorCode, PartitionId, SegmentId};
use ironring_log::format::record;
use ironring_log::{LogConfig, ScrubConfig};
use ironring_node::shard::{ConnId, Event as ShardEvent};
use ironring_ring::metadata::{Command, ReplicaChange, Wish};

use super::troubles::{Cut, CutKind};
use super::{MS, TICK_NS, World};
use crate::sim::cluster::world::Event;
use crate::sim::op::{Key, Op, Outcome, RequestId};
use crate::sim::profile::Trouble;
use crate::sim::shard_node::{decode, encode};
use ironring_net::decode_header;
use ironring_net::frame::HEADER_BYTES;

/// The node is alone so long, and writes.
const WRITES_UNTIL_NS: u64 = 3_000 * MS;
/// By then its scrub has met what is damaged.
const ALONE_UNTIL_NS: u64 = 5_000 * MS;
/// By then everything is copied.
const COPIED_NS: u64 = 15_500 * MS;

/// So long the first node sends its state to the one that stays.
const SENT_NS: u64 = 20_000 * MS;

/// A record of a key: where it begins, in which file, how long it is, and the key.
type Oldest = ((SegmentId, u32), FileName, u32, PartitionId, Vec<u8>);

/// A node that is alone writes, and loses one record; then others join. All else has to be copied to
/// them, the log has to name the record, and whoever reads it has to hear that it is lost. `again`: its
/// process ends as soon as it knows that its copy is damaged, and begins anew without knowing where.
///
/// # Errors
/// What did not hold.
pub fn last_copy(seed: u64, again: bool, print: bool) -> Result<(), String> {
    let mut world = new_world(seed, print);
    if world.group.state.rf() < 2 {
        return Ok(());
    }
    world.one_writes()?;
    let (id, key) = world.lose_a_record(|_| true).ok_or_else(|| {
        let shard = world.nodes[0].shard.as_ref();
        let keys = shard.map(|shard| shard.models().peek(PartitionId(0)).keys.len());
        format!("no record to be lost: {} acked, {keys:?} keys", world.clients.acked)
    })?;
    world.until(ALONE_UNTIL_NS)?;
    (1..world.nodes.len()).for_each(|node| world.start(node));
    if again {
        world.until_hurt(id)?;
        world.crash(0, true);
        world.start(0);
    }
    let mut lines = Vec::new();
    while world.time < COPIED_NS {
        world.until(world.time + 100 * MS)?;
        let shards = world.nodes.iter_mut().filter_map(|n| n.shard.as_mut());
        lines.extend(shards.flat_map(ironring_node::shard::Shard::take_lines));
    }
    let rf = usize::from(world.group.state.rf());
    for p in (0..world.partitions).map(PartitionId) {
        let record = world.group.state.partitions()[p.0 as usize].clone();
        if record.voters.len() != rf {
            let shards = world.nodes.iter().filter_map(|n| n.shard.as_ref());
            let found: Vec<_> =
                shards.map(|s| (s.phase(), s.models().peek(p).hurt, s.snapshot().repair)).collect();
            return Err(format!("{p} has not {rf} voters: {record:?} {found:?} {lines:?}"));
        }
        for replica in record.replicas {
            let node = world.nodes.iter().position(|n| n.storage == replica.id.storage);
            let node = node.ok_or("a replica of nobody")?;
            let shard = world.nodes[node].shard.as_ref().ok_or("a node is down")?;
            world.verify_records(shard, node, p)?;
            let has = shard.models().peek(id).keys.get(&key).is_some();
            if p == id && !has {
                return Err(format!("node {} has deleted what was lost", node + 1));
            }
        }
    }
    let given_up =
        |n: &super::Node| n.shard.as_ref().map_or(0, |s| s.snapshot().repair.records_given_up);
    let given_up: u64 = world.nodes.iter().map(given_up).sum();
    let named = key.escape_ascii().to_string();
    let repaired =
        |n: &super::Node| n.shard.as_ref().map_or(0, |s| s.snapshot().repair.records_lost);
    if again && repaired(&world.nodes[0]) == 0 {
        return Err("the copy was called whole unread".to_owned());
    }
    if given_up != 1 || !lines.iter().any(|line| line.contains(&named)) {
        return Err(format!("{given_up} are given up; {lines:?}"));
    }
    let leader = world.group.state.partitions()[id.0 as usize].leader.ok_or("no leader")?;
    let node = world.nodes.iter().position(|n| n.storage == leader.replica.storage);
    match world.get(node.ok_or("a leader of nobody")?, Key::from(&key[..])) {
        Outcome::Error { code: ErrorCode::Corrupt, .. } => Ok(()),
        other => Err(format!("a lost record is read as {other:?}")),
    }
}

/// A node that is alone writes, and loses a record of each of two partitions; of two that join one is
/// never heard, so that nobody says that it has none of what is lost: the two stay damaged. The other
/// has to be sent all the other partitions. False: the seed's cluster is not one where that can be.
///
/// # Errors
/// What did not hold.
pub fn hurt_leader(seed: u64, print: bool) -> Result<bool, String> {
    let mut world = new_world(seed, print);
    if world.group.state.rf() != 3 || world.partitions < 4 {
        return Ok(false);
    }
    // Nothing finds the damage before the state is read to be sent.
    world.making.log.scrub = ScrubConfig::default();
    world.one_writes()?;
    for other in 0..2 {
        let cut = Cut { until: u64::MAX, kind: CutKind::Down };
        (world.cut[2][other], world.cut[other][2]) = (cut, cut);
    }
    world.start(2);
    let storage = world.nodes[2].storage;
    while world.group.state.partitions().iter().any(|p| p.replica_on(storage).is_none()) {
        if world.time > COPIED_NS {
            return Err("the third node gets no replicas".to_owned());
        }
        world.until(world.time + MS)?;
    }
    // What was written is not in memory either.
    world.crash(0, true);
    world.start(0);
    world.until(world.time + 1_000 * MS)?;
    let hurt = [PartitionId(0), PartitionId(1)];
    for id in hurt {
        if world.lose_a_record(|of| of == id).is_none() {
            return Ok(false);
        }
    }
    world.start(1);
    world.until(world.time + 100 * MS)?;
    // Both are to have replicas at once: the one before is no move any more.
    let node = world.nodes[1].id;
    let add = ReplicaChange::Add { node, wish: Wish::Voter, replaces: None };
    for (i, p) in world.group.state.partitions().to_vec().iter().enumerate() {
        let id = PartitionId(i as u32);
        let replica = p.replica_on(storage).ok_or("the third node has no replica")?.id;
        let wish = |wish| ReplicaChange::Wish { replica, wish };
        let changes =
            [wish(Wish::Observer), add, wish(Wish::Voter)].map(|change| (id, change)).to_vec();
        world.commits(None, &Command::Replicas { changes });
    }
    world.until(world.time + SENT_NS)?;
    let storage = world.nodes[1].storage;
    for p in (0..world.partitions).map(PartitionId) {
        let record = &world.group.state.partitions()[p.0 as usize];
        let votes = record.replica_on(storage).is_some_and(|r| record.is_voter(r.id));
        let shard = world.nodes[0].shard.as_ref().ok_or("the first node is down")?;
        let is_hurt = shard.models().peek(p).hurt.is_some();
        if hurt.contains(&p) != is_hurt || votes == is_hurt {
            return Err(format!("{p}, damaged: {is_hurt}, is copied: {votes}; {record:?}"));
        }
    }
    Ok(true)
}

/// The world of a seed, where nothing befalls anybody.
pub(super) fn new_world(seed: u64, print: bool) -> World {
    let mut log = LogConfig {
        segment_bytes: 1 << 20,
        scrub: ScrubConfig {
            period: std::time::Duration::from_millis(300),
            ..ScrubConfig::default()
        },
        ..LogConfig::default()
    };
    (log.free_segments_target, log.checkpoint_interval_bytes) = (2, 16 << 10);
    let mut world = World::new(Trouble::Calm, log, Prng::new(seed), print);
    world.healed = true;
    world
}

impl World {
    /// The first node is alone, and writes.
    pub(super) fn one_writes(&mut self) -> Result<(), String> {
        self.min_voters = 1;
        let rf = self.group.state.rf();
        self.group.state.apply(&Command::SetKeyspace { rf, min_voters: 1 });
        let now = self.metadata_clock.at(self.time);
        self.group.new_controller(now);
        self.start(0);
        self.schedule(TICK_NS, Event::Tick);
        self.until(WRITES_UNTIL_NS)?;
        self.clients.all.iter_mut().for_each(|client| client.asks_at = u64::MAX);
        self.until(WRITES_UNTIL_NS + 500 * MS)
    }

    pub(super) fn until(&mut self, time: u64) -> Result<(), String> {
        while let Some(std::cmp::Reverse(next)) = self.queue.pop() {
            if next.at > time {
                self.queue.push(std::cmp::Reverse(next));
                self.time = time;
                return Ok(());
            }
            self.time = next.at;
            self.handle(next.event)?;
        }
        Err("nothing happens any more".to_owned())
    }

    /// The first node has written down that its copy is damaged.
    fn until_hurt(&mut self, id: PartitionId) -> Result<(), String> {
        let hurt = |world: &World| {
            let shard = world.nodes[0].shard.as_ref();
            shard.is_some_and(|shard| shard.models().peek(id).hurt.is_some())
        };
        while !hurt(self) {
            if self.time > COPIED_NS {
                return Err("the damage was forgotten".to_owned());
            }
            self.until(self.time + MS)?;
        }
        self.until(self.time + 50 * MS)
    }

    /// Flips a bit of the oldest record of a key on the first node: no replay meets it.
    fn lose_a_record(
        &mut self,
        of: impl Fn(PartitionId) -> bool,
    ) -> Option<(PartitionId, Vec<u8>)> {
        let shard = self.nodes[0].shard.as_ref()?;
        let mut oldest: Option<Oldest> = None;
        for id in (0..self.partitions).map(PartitionId).filter(|id| of(*id)) {
            for (key, entry) in shard.models().peek(id).keys.range_after(None) {
                let at = entry.location;
                let place = (at.segment, at.pos);
                let older = oldest.as_ref().is_none_or(|(first, ..)| place < *first);
                if older && let Some(file) = shard.log().file_of(at.segment) {
                    oldest = Some((place, file, at.len, id, key.to_vec()));
                }
            }
        }
        let ((segment, at), file, len, id, key) = oldest?;
        let held = self.nodes[0].disk.contents(file)?;
        let bytes = held.get(at as usize..(at + len) as usize)?;
        record::decode(bytes, segment, at).ok()?;
        let last = at + len - 1;
        let flipped = held[last as usize] ^ 1;
        self.nodes[0].disk.overwrite(file, u64::from(last), &[flipped]);
        Some((id, key))
    }

    /// What a node answers to a read of a key.
    fn get(&mut self, node: usize, key: Key) -> Outcome {
        let frame = encode(RequestId(u64::MAX), &Op::Get { key });
        let header = decode_header(&frame).expect("a frame we encoded has a header");
        let (conn, body) = (ConnId(u64::from(u32::MAX)), &frame[HEADER_BYTES..]);
        let time = self.time;
        self.nodes[node].handle(time, ShardEvent::Request { conn, header, body });
        self.nodes[node].handle(time, ShardEvent::TurnEnd);
        for _ in 0..1000 {
            let mut answer = None;
            self.nodes[node].fx.take_replies(|to, frame| {
                answer = (to == conn).then(|| decode(frame).1).or(answer.take());
            });
            if let Some(answer) = answer {
                return answer;
            }
            let Some(request) = self.nodes[node].fx.io.pop() else { break };
            let (_, ticket) = self.nodes[node].disk.submit(ironring_core::Instant(time), request);
            let done = self.nodes[node].disk.complete(ticket);
            self.nodes[node].handle(time, ShardEvent::Io(done));
        }
        panic!("a read is not answered")
    }
}
