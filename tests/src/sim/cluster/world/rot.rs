//! Disks that lose what was written: flipped bits, files that are gone, operations that fail.
//!
//! One node's disk does in a run, and from its first damage on nothing befalls the others, whose
//! replicas are whole and vote: a minority of every partition's copies is damaged, and whatever
//! becomes of it must cost nothing. When clients have stopped every record of every replica is read
//! from its disk and verified.
//!
//! In one of three runs it is all disks instead, once: records of every replica are damaged, most of
//! the copies of a partition among them, but each record is whole on one of them at least. From then on
//! nothing befalls anybody, and all copies have to become whole.
//!
//! Its memory fails too: a bit of a value flips between the checksum of the message that brought it and
//! the checksum of the record that keeps it. Nobody can tell by the copy alone; comparison has to find
//! it. Until then the node may lead, and tell clients what it has: of these answers the history keeps
//! what was written ([`Memory`]).

use std::collections::BTreeMap;

use ironring_core::io::FileName;
use ironring_core::{Instant, Offset, PartitionId};
use ironring_log::RecordKind;
use ironring_log::format::record;
use ironring_node::shard::{Phase, Shard, ToController, ToPeer};
use ironring_ring::metadata::Wish;
use ironring_ring::replication::Stage;

use super::{DISK_BYTES, HEALED_NS, MS, Message, TROUBLE_NS, World};
use crate::linear::{Answer, Operation};
use crate::sim::cluster::clients::number;
use crate::sim::disk::SimDisk;
use crate::sim::disk::faults::{Fault, FaultPlan};

/// The very last group cannot be told from one that was in flight when it is damaged before another
/// follows: so much later one has.
const GROUP_FOLLOWS_NS: u64 = 150 * MS;
/// So long after a voter was heard it may be handed the leadership, and an order to do so may arrive.
const ORDERS_STALE_NS: u64 = 1000 * MS;
/// So long after it was apart a leader has heard its voters again, and what it asked for because it had not
/// is committed.
const IN_TOUCH_NS: u64 = 500 * MS;

/// Where a record lies: on which node, in which file, from where on, how long.
type PlaceOnNode = (usize, FileName, u64, u64);

/// A memory in which bits flip.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The next value that comes is changed.
    armed: bool,
    /// What became of values, by the number of what they are now.
    changed: BTreeMap<u64, u64>,
}

/// Whose disks are damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// One node's, again and again.
    OfOneNode,
    /// All nodes', once.
    OfAll,
    /// All nodes', and it has happened.
    Done,
}

impl Memory {
    /// Whether a value was changed in this run.
    pub(super) fn has_failed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Puts what was written into answers that told what the memory made of it. What was asked when
    /// everything must have been repaired stays as it was answered.
    pub(super) fn forgive(&self, history: &mut [Operation]) -> u64 {
        let mut forgiven = 0;
        for operation in history.iter_mut().filter(|o| o.start < TROUBLE_NS + HEALED_NS) {
            let mut cells = Vec::new();
            match &mut operation.answer {
                Answer::Cells(found) => cells.extend(found.iter_mut().flatten()),
                Answer::Page { entries, .. } => cells.extend(entries.iter_mut().map(|e| &mut e.1)),
                _ => {}
            }
            for cell in cells {
                if let Some(was) = cell.value.and_then(|value| self.changed.get(&value)) {
                    cell.value = Some(*was);
                    forgiven += 1;
                }
            }
        }
        forgiven
    }
}

impl World {
    /// What a message is when the node's memory has had it: one value of it may be another.
    pub(super) fn in_memory(&mut self, node: usize, message: Message) -> Message {
        if !self.memory.armed || self.victim != Some(node) {
            return message;
        }
        let Message::Peer(ToPeer::Replicate(head, bytes)) = message else { return message };
        let id = head.partition;
        let shard = self.nodes[node].shard.as_ref();
        // Only what it has not got yet, and what nobody can take for a successor's.
        let takes = shard.and_then(|shard| shard.replica(id)).filter(|view| {
            view.leads.is_none() && view.term == head.term && head.first >= view.end
        });
        let mut out = Vec::new();
        let mut rest = &bytes[..];
        let mut done = takes.is_none();
        while let Ok((found, len)) = record::decode_wire(rest) {
            let mut body = found.body.to_vec();
            let stays = found.kind == RecordKind::Put && self.clients.is_seldom(found.key);
            if !done && stays && !body.is_empty() {
                let at = self.rng.below(body.len() as u64) as usize;
                body[at] ^= 1 << self.rng.below(8);
                self.memory.changed.insert(number(&body), number(found.body));
                self.coverage.add("values changed in memory", 1);
                self.note(&[13, node as u64], || {
                    format!("node {} changes {} of {id} in its memory", node + 1, found.offset)
                });
                done = true;
                self.memory.armed = false;
            }
            record::encode_wire(&ironring_log::Record { body: &body, ..found }, &mut out);
            rest = &rest[len..];
        }
        Message::Peer(ToPeer::Replicate(head, if rest.is_empty() { out } else { bytes }))
    }

    /// Whether something may befall a node.
    pub(super) fn may_suffer(&self, node: usize) -> bool {
        if self.damage == Damage::Done {
            return false;
        }
        match self.victim {
            None => true,
            Some(victim) => node == victim && self.time >= self.spared_until,
        }
    }

    /// Whether every partition can lose its copy on a node.
    fn can_lose_copy(&self, node: usize) -> bool {
        let storage = self.nodes[node].storage;
        // Replicas are about to go when there are to be fewer.
        self.group.state.rf() >= 3
            && self.group.state.moves().is_empty()
            && (0..self.partitions).all(|p| {
                let record = &self.group.state.partitions()[p as usize];
                let id = PartitionId(p);
                let view = |n: &super::Node| n.shard.as_ref().and_then(|s| s.replica(id));
                let most = self.nodes.iter().filter_map(view).map(|v| v.high_watermark).max();
                let whole = |voter: &ironring_ring::metadata::ReplicaId| {
                    let of = self.nodes.iter().find(|n| n.storage == voter.storage);
                    of.filter(|n| n.is_awake(self.time))
                        .and_then(view)
                        .is_some_and(|v| Some(v.flushed_end) >= most)
                };
                let mut others = record.voters.iter().filter(|v| v.storage != storage);
                let stays = record.replicas.iter().all(|r| r.wish == Wish::Voter);
                stays && others.clone().count() >= 2 && others.all(whole)
            })
    }

    /// Whether a node and the others have heard each other for a while. One that has not may be about to go
    /// on as the only voter of what it leads.
    fn is_in_touch(&self, node: usize) -> bool {
        let lately = |until: u64| until > 0 && until.saturating_add(IN_TOUCH_NS) > self.time;
        let cut = |other: usize| {
            lately(self.cut[node][other].until) || lately(self.cut[other][node].until)
        };
        let apart = lately(self.isolated[node]) || lately(self.nodes[node].paused_until);
        !apart && !(0..self.nodes.len()).any(cut)
    }

    /// No link is cut any more, and those that were down are there again.
    fn join_all(&mut self) {
        for row in &mut self.cut {
            row.fill(super::Cut::default());
        }
        (0..self.nodes.len()).for_each(|node| self.links_up(node));
    }

    /// Records of all nodes are damaged, each on all replicas but one at the most.
    fn rot_everywhere(&mut self) {
        let awake = |n: &super::Node| n.is_awake(self.time);
        let serves =
            |n: &super::Node| n.shard.as_ref().is_some_and(|shard| shard.phase() == Phase::Serving);
        let all = 0..self.nodes.len();
        if !self.nodes.iter().all(|n| awake(n) && serves(n))
            || !all.clone().all(|node| self.can_lose_copy(node))
        {
            return;
        }
        self.damage = Damage::Done;
        self.join_all();
        self.isolated.fill(0);
        self.note(&[14], || "all nodes are damaged".to_owned());
        // One that leads everything has everything, and the others may lose all they have; not while it
        // hands over: it would wait for a majority of them.
        let leads = |node: usize| {
            let mut records = self.group.state.partitions().iter().enumerate();
            let storage = self.nodes[node].storage;
            let serves = |p: usize| {
                let view = self.nodes[node].shard.as_ref()?.replica(PartitionId(p as u32))?;
                Some(view.leads == Some(Stage::Serving))
            };
            records.all(|(p, r)| {
                let named = r.leader.is_some_and(|l| l.replica.storage == storage);
                named && serves(p) == Some(true)
            })
        };
        if let Some(leader) = all.clone().find(|node| leads(*node))
            && self.rng.chance(3, 4)
        {
            self.coverage.add("logs of all but a leader lost at once", 1);
            // What was ordered before anybody noticed would take the leadership to one of the others.
            self.no_orders_until = self.time + ORDERS_STALE_NS;
            for node in all.filter(|node| *node != leader) {
                self.lose_log(node);
            }
            return;
        }
        for id in (0..self.partitions).map(PartitionId) {
            let record = self.group.state.partitions()[id.0 as usize].clone();
            let holders: Vec<usize> = all
                .clone()
                .filter(|node| record.replica_on(self.nodes[*node].storage).is_some())
                .collect();
            // Which nodes have a record durable, by its key and version.
            let mut found: BTreeMap<(Vec<u8>, u64), Vec<PlaceOnNode>> = BTreeMap::new();
            for node in &holders {
                let Some(shard) = &self.nodes[*node].shard else { continue };
                for (key, entry) in shard.models().peek(id).keys.range_after(None) {
                    let at = entry.location;
                    let Some(file) = shard.log().file_of(at.segment) else { continue };
                    let held = self.nodes[*node].disk.contents(file).unwrap_or_default();
                    let durable = held
                        .get(at.pos as usize..(at.pos + at.len) as usize)
                        .is_some_and(|bytes| record::decode(bytes, at.segment, at.pos).is_ok());
                    if durable {
                        let place = (*node, file, u64::from(at.pos), u64::from(at.len));
                        found.entry((key.to_vec(), entry.version.0)).or_default().push(place);
                    }
                }
            }
            for places in found.into_values().filter(|places| places.len() == holders.len()) {
                let whole = self.rng.below(places.len() as u64) as usize;
                for (number, (node, file, pos, len)) in places.into_iter().enumerate() {
                    if number == whole || self.rng.chance(1, 3) {
                        continue;
                    }
                    let pos = pos + self.rng.below(len);
                    let held = self.nodes[node].disk.contents(file).unwrap_or_default();
                    let flipped = held[pos as usize] ^ (1 << self.rng.below(8));
                    self.nodes[node].disk.overwrite(file, pos, &[flipped]);
                    self.coverage.add("bits of records flipped", 1);
                    self.coverage.add("records damaged on several nodes at once", 1);
                }
            }
        }
    }

    /// Something is damaged on the disk of the node that suffers.
    pub(super) fn rot(&mut self) {
        match self.damage {
            Damage::OfOneNode => {}
            Damage::OfAll => return self.rot_everywhere(),
            Damage::Done => return,
        }
        let node = match self.victim {
            Some(victim) => victim,
            None => self.rng.below(self.nodes.len() as u64) as usize,
        };
        if !self.is_in_touch(node) || !self.can_lose_copy(node) || self.time < self.spared_until {
            return;
        }
        let serves = |shard: &Shard| shard.phase() == Phase::Serving;
        if !self.nodes[node].shard.as_ref().is_some_and(serves) {
            return;
        }
        if self.victim.is_none() {
            self.victim = Some(node);
            self.join_all();
            (0..self.nodes.len()).for_each(|i| self.nodes[i].paused_until = 0);
        }
        self.spared_until = self.time + GROUP_FOLLOWS_NS + self.rng.below(1500 * MS);
        let kind = self.rng.below(11);
        self.note(&[11, node as u64, kind], || format!("node {} is damaged ({kind})", node + 1));
        match kind {
            0..4 => self.flip_bits(node),
            4 => self.lose_segment(node),
            5 => self.lose_log(node),
            6..9 => self.memory.armed = true,
            _ => self.fail_soon(node),
        }
    }

    fn flip_bits(&mut self, node: usize) {
        let bits = 1 + self.rng.below(24);
        for _ in 0..bits {
            if self.rng.chance(1, 2) {
                self.flip_in_record(node);
            } else if self.nodes[node].disk.decay(Instant(self.time)) {
                self.coverage.add("bits flipped", 1);
            }
        }
    }

    /// Flips a bit of a record that is needed: most of a disk is not.
    fn flip_in_record(&mut self, node: usize) {
        let id = PartitionId(self.rng.below(u64::from(self.partitions)) as u32);
        let Some(shard) = &self.nodes[node].shard else { return };
        let mut places = Vec::new();
        shard.models().peek(id).live_places(|at| places.push(at));
        if places.is_empty() {
            return;
        }
        let at = places[self.rng.below(places.len() as u64) as usize];
        let Some(file) = shard.log().file_of(at.segment) else { return };
        let disk = &mut self.nodes[node].disk;
        let held = disk.contents(file).unwrap_or_default();
        let durable = held
            .get(at.pos as usize..(at.pos + at.len) as usize)
            .is_some_and(|bytes| record::decode(bytes, at.segment, at.pos).is_ok());
        if durable {
            let pos = u64::from(at.pos) + self.rng.below(u64::from(at.len));
            let flipped = held[pos as usize] ^ (1 << self.rng.below(8));
            disk.overwrite(file, pos, &[flipped]);
            self.coverage.add("bits of records flipped", 1);
        }
    }

    /// A damaged copy neither votes nor begins to lead. One whose damage is found when it has begun goes
    /// on until another can take over.
    pub(super) fn judge_damaged(&mut self, node: usize) -> Result<(), String> {
        let n = &self.nodes[node];
        let Some(shard) = n.shard.as_ref().filter(|_| self.victim == Some(node)) else {
            return Ok(());
        };
        for id in (0..self.partitions).map(PartitionId) {
            if shard.models().peek(id).hurt.is_none() {
                self.hurt_followers.remove(&id);
                continue;
            }
            let leads = shard.replica(id).and_then(|view| view.leads);
            let begins = matches!(leads, Some(Stage::Promising | Stage::Starting));
            if begins && self.hurt_followers.contains(&id) {
                return Err(format!("node {}: a damaged copy of {id} begins to lead", node + 1));
            }
            if leads.is_none() {
                self.hurt_followers.insert(id);
            }
            let votes = |said: &ToController| match said {
                ToController::Fenced(answer) => answer.partition == id,
                ToController::Ask(_) => false,
            };
            if n.fx.controller.iter().any(votes) {
                return Err(format!("node {}: a damaged copy of {id} votes", node + 1));
            }
        }
        Ok(())
    }

    /// The process ends, and a segment is gone when it starts again.
    fn lose_segment(&mut self, node: usize) {
        self.crash(node, false);
        let disk = &mut self.nodes[node].disk;
        let segment =
            |(file, _): (FileName, u64)| matches!(file, FileName::Segment(_)).then_some(file);
        let segments: Vec<FileName> = disk.files().filter_map(segment).collect();
        if !segments.is_empty() {
            disk.lose_file(segments[self.rng.below(segments.len() as u64) as usize]);
            self.coverage.add("segments lost", 1);
        }
    }

    /// The process ends, and its log is gone when it starts again; who it is it knows.
    fn lose_log(&mut self, node: usize) {
        self.crash(node, false);
        let seed = self.rng.next_u64();
        self.nodes[node].disk = SimDisk::new(seed, DISK_BYTES, self.latency, FaultPlan::none());
        self.coverage.add("logs lost", 1);
    }

    /// The next operation of some kind fails.
    fn fail_soon(&mut self, node: usize) {
        let kinds = [Fault::ReadError, Fault::WriteError, Fault::SyncError, Fault::ReadFlip];
        let kind = kinds[self.rng.below(4) as usize];
        let plan = FaultPlan {
            per_life_max: 1,
            until: Instant(self.time + 300 * MS),
            ..FaultPlan::none().with(kind, 300_000)
        };
        self.nodes[node].disk.faults.plan = plan;
        self.coverage.add("operations failed", 1);
    }

    /// The node's files were put out of the way.
    pub(super) fn set_aside(&mut self, node: usize) {
        let seed = self.rng.next_u64();
        self.nodes[node].disk = SimDisk::new(seed, DISK_BYTES, self.latency, FaultPlan::none());
        self.durable[node].fill(Offset::NONE);
        self.coverage.add("logs set aside", 1);
        self.note(&[12, node as u64], || format!("node {} sets its log aside", node + 1));
    }

    /// Reads every record a partition's replica on a node refers to.
    pub(super) fn verify_records(
        &self,
        shard: &Shard,
        node: usize,
        id: PartitionId,
    ) -> Result<(), String> {
        let mut wrong = None;
        let p = shard.models().peek(id);
        if p.hurt.is_some() {
            return Err(format!("{id} is damaged on node {} after healing", node + 1));
        }
        p.live_places(|at| {
            let bytes =
                shard.log().file_of(at.segment).and_then(|f| self.nodes[node].disk.contents(f));
            let record = bytes
                .as_ref()
                .and_then(|bytes| bytes.get(at.pos as usize..(at.pos + at.len) as usize));
            if record.is_none_or(|bytes| record::decode(bytes, at.segment, at.pos).is_err()) {
                wrong = Some(at);
            }
        });
        match wrong {
            Some(at) => Err(format!("{id} on node {} has a damaged record at {at:?}", node + 1)),
            None => Ok(()),
        }
    }

    /// Counts what was repaired.
    pub(super) fn cover_repairs(&mut self) {
        for node in 0..self.nodes.len() {
            let Some(shard) = &self.nodes[node].shard else { continue };
            let repair = shard.snapshot().repair;
            for (name, n) in [
                ("records lost", repair.records_lost),
                ("records repaired", repair.records_repaired),
                ("records moved", repair.records_moved),
                ("partitions repaired", repair.partitions_repaired),
                ("segments retired", repair.segments_retired),
                ("logs rebuilt", repair.logs_rebuilt),
            ] {
                self.coverage.add(name, n);
            }
            let compare = shard.snapshot().compare;
            for (name, n) in [
                ("ranges compared", compare.ranges),
                ("ranges differing", compare.differing),
                ("ranges not compared", compare.skipped),
                ("passes of comparison", compare.passes),
                ("copies that differ", compare.copies_diverged),
                ("copies that differ, repaired", compare.copies_repaired),
            ] {
                self.coverage.add(name, n);
            }
        }
    }
}
