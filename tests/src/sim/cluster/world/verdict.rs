//! What must hold when everything has healed.

use ironring_core::{Durability, Offset, PartitionId};
use ironring_log::Location;
use ironring_log::format::record;
use ironring_node::shard::{Phase, Shard};
use ironring_ring::metadata::ReplicaId;
use ironring_ring::replication::quorum::commit_quorum;

use super::World;
use crate::linear::{History, Rules, Verdict, check};
use crate::sim::cluster::clients;
use crate::sim::op::Outcome;
use crate::sim::shard_node::decode;

/// A key, its version, and what its record says.
type KeyHeld = (Vec<u8>, u64, Vec<u8>);

impl World {
    /// Takes down how much of each log a node's disk has.
    pub(super) fn note_durable(&mut self, node: usize) {
        let Some(shard) = &self.nodes[node].shard else { return };
        for (p, known) in self.durable[node].iter_mut().enumerate() {
            let view = shard.replica(PartitionId(p as u32));
            *known = view.map_or(*known, |view| view.flushed_end.max(*known));
            let ever = &mut self.ever_durable[node][p];
            *ever = (*known).max(*ever);
        }
    }

    /// What a node acks at level `quorum` or `all` is on as many disks as a commit takes of the least
    /// voters there may be; at level `all` every voter the node knows of has had it on its disk.
    pub(super) fn judge_reply(&self, node: usize, frame: &[u8]) -> Result<(), String> {
        let (_, Outcome::Receipt(receipt)) = decode(frame) else { return Ok(()) };
        if receipt.level < Durability::Quorum || receipt.offset == 0 {
            return Ok(());
        }
        let p = receipt.partition.0 as usize;
        let disks = self.durable.iter().filter(|ends| ends[p].0 > receipt.offset).count();
        let least = commit_quorum(usize::from(self.min_voters));
        if disks < least {
            let record = self.group.state.partition(receipt.partition);
            return Err(format!(
                "6: node {} acks {receipt:?}, which {disks} of {least} disks have: {record:?}",
                node + 1
            ));
        }
        let shard = self.nodes[node].shard.as_ref();
        let Some(record) = shard.and_then(|shard| shard.record_of(receipt.partition)) else {
            return Ok(());
        };
        let lacks = |voter: &&ReplicaId| {
            let on = record.replica(**voter).map(|replica| replica.node);
            let node = self.nodes.iter().position(|node| Some(node.id) == on);
            node.is_some_and(|node| self.ever_durable[node][p].0 <= receipt.offset)
        };
        if receipt.level == Durability::All
            && let Some(lacks) = record.voters.iter().find(lacks)
        {
            let node = node + 1;
            return Err(format!("6: node {node} acks {receipt:?}, {lacks:?} lacks it: {record:?}"));
        }
        Ok(())
    }

    /// A healed cluster serves, its replicas are equal, and what clients saw was possible.
    pub(super) fn judge_the_end(&mut self) -> Result<(), String> {
        self.coverage.add("writes acked", self.clients.acked);
        self.coverage.add("reads answered", self.clients.read);
        self.coverage.add("large values written", self.clients.large_values);
        let [current, old, unknown] = self.clients.stale_read;
        self.coverage.add("stale reads that were current", current);
        self.coverage.add("stale reads with an age", old);
        self.coverage.add("stale reads of unknown age", unknown);
        self.cover_repairs();
        let mut history = std::mem::take(&mut self.clients.history);
        let forgiven = self.memory.forgive(&mut history);
        self.coverage.add("changed values told", forgiven);
        let history = History::new(history);
        let rules = Rules::default();
        let report = check(&history, &rules);
        if let Verdict::Refused(violation) = &report.verdict {
            return Err(format!("not linearizable: {violation:?}"));
        }
        if self.clients.acked == self.acked_before_healing {
            let records = self.group.state.partitions();
            return Err(format!("nothing is written after healing: {records:?}"));
        }
        if !self.audit.is_empty() {
            return Err(format!("{} keys could not be read at the end", self.audit.len()));
        }
        for p in 0..self.partitions {
            self.judge_partition(PartitionId(p))?;
        }
        self.judge_lines()?;
        self.judge_comparison()
    }

    /// Only who is ordered to leads with part of a state.
    fn judge_lines(&mut self) -> Result<(), String> {
        let shards = self.nodes.iter_mut().filter_map(|n| n.shard.as_mut());
        match shards.flat_map(Shard::take_lines).find(|line| line.contains("offsets go on at")) {
            Some(line) => Err(format!("nobody gave anything up: {line}")),
            None => Ok(()),
        }
    }

    /// Replicas that are equal are never found to differ.
    fn judge_comparison(&self) -> Result<(), String> {
        for (node, n) in self.nodes.iter().enumerate() {
            let Some(shard) = &n.shard else { continue };
            let compare = shard.snapshot().compare;
            if compare.differing > 0 && !self.memory.has_failed() {
                return Err(format!("node {} finds differences: {compare:?}", node + 1));
            }
            if compare.undecided > 0 {
                return Err(format!("node {} cannot decide: {compare:?}", node + 1));
            }
        }
        Ok(())
    }

    /// What the record of a key says, as it lies on the node's disk.
    fn body_of(&self, node: usize, shard: &Shard, at: Location) -> Vec<u8> {
        let disk = &self.nodes[node].disk;
        let bytes = shard.log().file_of(at.segment).and_then(|file| disk.contents(file));
        let bytes = bytes.unwrap_or_default();
        let found = bytes.get(at.pos as usize..(at.pos + at.len) as usize).unwrap_or_default();
        record::decode(found, at.segment, at.pos).map_or_else(|_| Vec::new(), |r| r.0.body.to_vec())
    }

    pub(super) fn judge_partition(&self, id: PartitionId) -> Result<(), String> {
        let record = &self.group.state.partitions()[id.0 as usize];
        let rf = self.nodes.len().min(3);
        if record.replicas.len() != rf || record.voters.len() != rf {
            return Err(format!("{id} does not have {rf} voters after healing: {record:?}"));
        }
        let mut states = Vec::new();
        for replica in &record.replicas {
            let node = self.nodes.iter().find(|n| n.storage == replica.id.storage);
            let shard = node.and_then(|n| n.shard.as_ref());
            let Some(shard) = shard.filter(|shard| shard.phase() == Phase::Serving) else {
                return Err(format!("{:?} of {id} does not run after healing", replica.id));
            };
            let number = self.nodes.iter().position(|n| n.storage == replica.id.storage);
            let number = number.expect("it was found");
            self.verify_records(shard, number, id)?;
            let p = shard.models().peek(id);
            let keys: Vec<KeyHeld> = p
                .keys
                .range_after(None)
                .map(|(key, entry)| {
                    let body = self.body_of(number, shard, entry.location);
                    (key.to_vec(), entry.version.0, body)
                })
                .collect();
            states.push((p.applied_end, keys));
        }
        let (end, keys) = &states[0];
        for (other_end, other) in &states[1..] {
            if end != other_end || keys != other {
                let of = |(end, keys): &(Offset, Vec<KeyHeld>)| {
                    let keys: Vec<_> = keys
                        .iter()
                        .map(|(key, version, body)| (key.clone(), *version, clients::number(body)))
                        .collect();
                    (*end, keys)
                };
                let states: Vec<_> = states.iter().map(of).collect();
                return Err(format!("12: replicas of {id} differ: {states:?} {record:?}"));
            }
        }
        Ok(())
    }
}
