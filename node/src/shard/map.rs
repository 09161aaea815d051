//! What clients are told about where partitions are: with each, the shard that leads it.

use ironring_core::{PartitionId, StorageUuid};
use ironring_net::message::{ClusterMap, ShardAddress};
use ironring_ring::Slices;
use ironring_ring::metadata::{Metadata, PartitionRecord};

/// The map of a cluster with these metadata. A partition without a leader is said to be where the
/// next one probably is, so that whoever asks hears there when it is; one of whose nodes nothing is
/// known, where `own` has it. O(partitions).
#[must_use]
pub fn cluster_map(metadata: &Metadata, own: &ClusterMap) -> ClusterMap {
    let partitions = metadata.partitions().len() as u32;
    if partitions != own.partitions {
        return own.clone();
    }
    let mut shards: Vec<ShardAddress> = Vec::new();
    for (id, record) in (0..partitions).zip(metadata.partitions()) {
        let found = place(metadata, PartitionId(id), record).or_else(|| {
            let mine = own.shards.iter().find(|s| (s.first..s.end).contains(&id))?;
            Some((mine.shard, mine.address.clone()))
        });
        let Some((shard, address)) = found else { return own.clone() };
        match shards.last_mut() {
            Some(last) if last.address == address && last.end == id => last.end += 1,
            _ => shards.push(ShardAddress { shard, address, first: id, end: id + 1 }),
        }
    }
    ClusterMap { epoch: metadata.epoch(), partitions, shards }
}

fn place(metadata: &Metadata, id: PartitionId, record: &PartitionRecord) -> Option<(u16, String)> {
    let leads = record.leader.map(|leader| leader.replica);
    let voters = record.voters.iter().copied().filter(|voter| Some(*voter) != record.last_leader);
    let storages = leads.into_iter().chain(voters).chain(record.last_leader);
    let mut members = storages.filter_map(|r| member(metadata, r.storage));
    let facts = members.next()?;
    let slices = Slices::new(metadata.partitions().len() as u32, facts.shards).ok()?;
    let shard = slices.owner(id);
    let own = facts.addresses.shards.get(usize::from(shard.0));
    Some((shard.0, own.unwrap_or(&facts.addresses.client).clone()))
}

fn member(metadata: &Metadata, storage: StorageUuid) -> Option<&ironring_ring::metadata::Facts> {
    metadata.member_on(storage).map(|member| &member.facts)
}

#[cfg(test)]
mod tests {
    use ironring_core::{Incarnation, WallTime};
    use ironring_ring::metadata::{Addresses, COMMAND_FORMAT, Command, Condition, Facts, Lineage};

    use super::*;

    fn own() -> ClusterMap {
        let shard =
            |shard, first, end| ShardAddress { shard, address: format!("own:{shard}"), first, end };
        ClusterMap { epoch: 1, partitions: 4, shards: vec![shard(0, 0, 2), shard(1, 2, 4)] }
    }

    fn facts(shards: u16, own: &[&str]) -> Facts {
        let own = own.iter().map(|address| (*address).to_owned()).collect();
        let client = "node:1".to_owned();
        Facts {
            name: "a".to_owned(),
            storage: StorageUuid(1),
            incarnation: Incarnation(1),
            addresses: Addresses { client, shards: own, ..Addresses::default() },
            rack: String::new(),
            region: String::new(),
            weight: 100,
            shards,
            format: COMMAND_FORMAT,
            lineage: Lineage::default(),
            observer: false,
            condition: Condition::default(),
        }
    }

    fn founded(node: Facts) -> Metadata {
        let mut metadata = Metadata::default();
        let (name, uuid, at) = ("c".to_owned(), StorageUuid(9), WallTime(0));
        metadata.apply(&Command::Found { name, uuid, partitions: 4, rf: 3, node, at });
        metadata
    }

    #[test]
    fn every_partition_is_somewhere() {
        assert_eq!(cluster_map(&Metadata::default(), &own()), own(), "nothing is known yet");
        let ranges = |map: &ClusterMap| -> Vec<(String, u32, u32)> {
            map.shards.iter().map(|s| (s.address.clone(), s.first, s.end)).collect()
        };
        let map = cluster_map(&founded(facts(2, &["a:1", "a:2"])), &own());
        assert_eq!(ranges(&map), [("a:1".to_owned(), 0, 2), ("a:2".to_owned(), 2, 4)]);
        let map = cluster_map(&founded(facts(2, &[])), &own());
        assert_eq!(ranges(&map), [("node:1".to_owned(), 0, 4)]);
    }
}
