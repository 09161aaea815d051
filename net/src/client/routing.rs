//! Where a request goes: key to partition, partition to shard, shard to address. Pure.

use std::collections::BTreeSet;

use ironring_core::{PartitionId, Token, TopicId};

use crate::message::{AppendTo, ClusterMap};

/// A cluster map, indexed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routing {
    map: ClusterMap,
    /// Addresses of shards that could not be reached from here, until the next map.
    unreachable: BTreeSet<String>,
}

impl Routing {
    /// Uses a map as it was decoded.
    #[must_use]
    pub fn new(map: ClusterMap) -> Routing {
        Routing { map, unreachable: BTreeSet::new() }
    }

    /// The map.
    #[must_use]
    pub fn map(&self) -> &ClusterMap {
        &self.map
    }

    /// The partition a key belongs to. Costs a SHA-256.
    #[must_use]
    pub fn partition_of(&self, key: &[u8]) -> PartitionId {
        Token::of_key(key).partition(self.map.partitions)
    }

    /// The partition a topic partition lives in.
    #[must_use]
    pub fn partition_of_topic(&self, topic: TopicId, index: u32) -> PartitionId {
        Token::of_topic_partition(topic, index).partition(self.map.partitions)
    }

    /// The address of the shard that owns a partition, unless it could not be reached.
    #[must_use]
    pub fn address_of(&self, partition: PartitionId) -> Option<&str> {
        let at = self.map.shards.partition_point(|shard| shard.end <= partition.0);
        let address = self.map.shards.get(at)?.address.as_str();
        (!self.unreachable.contains(address)).then_some(address)
    }

    /// Leaves an address out until the next map.
    pub fn mark_unreachable(&mut self, address: &str) {
        self.unreachable.insert(address.to_owned());
    }
}

/// Index of the topic partition an append goes to.
#[must_use]
pub(super) fn append_index(to: AppendTo<'_>, partitions: u32) -> u32 {
    match to {
        AppendTo::Partition(index) => index,
        AppendTo::Key(key) => ((Token::of_key(key).0 >> 32) % u64::from(partitions.max(1))) as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::ShardAddress;

    #[test]
    fn each_partition_has_its_shards_address() {
        let shard = |shard: u16, first, end| ShardAddress {
            shard,
            address: format!("host:{shard}"),
            first,
            end,
        };
        let shards = vec![shard(0, 0, 3), shard(1, 3, 3), shard(2, 3, 8)];
        let mut routing = Routing::new(ClusterMap { epoch: 1, partitions: 8, shards });
        for (partition, expected) in [(0, "host:0"), (2, "host:0"), (3, "host:2"), (7, "host:2")] {
            assert_eq!(routing.address_of(PartitionId(partition)), Some(expected));
        }
        assert_eq!(routing.address_of(PartitionId(8)), None);
        routing.mark_unreachable("host:2");
        assert_eq!(routing.address_of(PartitionId(5)), None);
        assert_eq!(routing.partition_of(b"abc"), PartitionId(0xba >> 5));
    }

    #[test]
    fn a_key_chooses_the_topic_partition_by_the_upper_half_of_its_token() {
        assert_eq!(append_index(AppendTo::Partition(9), 4), 9);
        assert_eq!(append_index(AppendTo::Key(b"abc"), 1000), 0xba78_16bf % 1000);
    }
}
