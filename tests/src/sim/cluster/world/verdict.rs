//! What must hold when everything has healed.

use ironring_core::PartitionId;
use ironring_node::shard::Phase;

use super::World;
use crate::linear::{History, Rules, Verdict, check};

impl World {
    /// A healed cluster serves, its replicas are equal, and what clients saw was possible.
    pub(super) fn judge_the_end(&mut self) -> Result<(), String> {
        self.coverage.add("writes acked", self.clients.acked);
        self.coverage.add("reads answered", self.clients.read);
        self.cover_repairs();
        let history = History::new(std::mem::take(&mut self.clients.history));
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
        Ok(())
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
            self.verify_records(shard, number.expect("it was found"), id)?;
            let p = shard.models().peek(id);
            let keys: Vec<(Vec<u8>, u64)> = p
                .keys
                .range_after(None)
                .map(|(key, entry)| (key.to_vec(), entry.version.0))
                .collect();
            states.push((p.applied_end, keys));
        }
        let (end, keys) = &states[0];
        for (other_end, other) in &states[1..] {
            if end != other_end || keys != other {
                return Err(format!("12: replicas of {id} differ: {states:?} {record:?}"));
            }
        }
        Ok(())
    }
}
