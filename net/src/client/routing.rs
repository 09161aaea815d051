//! Where a request goes: key to partition, partition to shard, shard to address. Pure.

use std::collections::BTreeSet;

use ironring_core::{PartitionId, Token, TopicId};

use crate::message::{AppendTo, ClusterMap, Request};

/// A cluster map, indexed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routing {
    map: ClusterMap,
    /// Addresses of shards that could not be reached from here, until the next map.
    unreachable: BTreeSet<String>,
    /// Maps in a row that were older than this one.
    older_maps: u32,
}

/// So many nodes may be behind.
const OLDER_MAPS_MAX: u32 = 8;

impl Routing {
    /// Uses a map as it was decoded.
    #[must_use]
    pub fn new(map: ClusterMap) -> Routing {
        Routing { map, unreachable: BTreeSet::new(), older_maps: 0 }
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

    /// The partition a request about keys is about.
    #[must_use]
    pub fn partition_about(&self, request: &Request<'_>) -> Option<PartitionId> {
        match request {
            Request::Put { key, .. } | Request::Delete { key, .. } | Request::Get { key } => {
                Some(self.partition_of(key))
            }
            Request::MultiGet { partition, .. }
            | Request::Batch { partition, .. }
            | Request::Scan { partition, .. } => Some(*partition),
            _ => None,
        }
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

    /// Uses a newer map; an older one only when there were several in a row: then this is another
    /// cluster than before.
    pub fn renew(&mut self, map: ClusterMap) {
        let older = map.epoch < self.map.epoch && self.older_maps < OLDER_MAPS_MAX;
        if older {
            self.older_maps += 1;
        } else {
            *self = Routing::new(map);
        }
    }

    /// Every address there is, `first` before the others.
    #[must_use]
    pub fn addresses(first: &[String], known: Option<&Routing>) -> Vec<String> {
        let mut all = first.to_vec();
        for shard in known.iter().flat_map(|known| &known.map.shards) {
            if !all.contains(&shard.address) {
                all.push(shard.address.clone());
            }
        }
        all
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
    fn a_node_that_is_behind_does_not_take_the_map_back() {
        let shard = |address: &str| ShardAddress {
            shard: 0,
            address: address.to_owned(),
            first: 0,
            end: 8,
        };
        let map =
            |epoch, address| ClusterMap { epoch, partitions: 8, shards: vec![shard(address)] };
        let mut routing = Routing::new(map(5, "new:1"));
        routing.renew(map(4, "old:1"));
        assert_eq!(routing.address_of(PartitionId(0)), Some("new:1"));
        routing.renew(map(5, "same:1"));
        assert_eq!(routing.address_of(PartitionId(0)), Some("same:1"));
        (0..=OLDER_MAPS_MAX).for_each(|_| routing.renew(map(1, "other:1")));
        assert_eq!(routing.address_of(PartitionId(0)), Some("other:1"));
        let seeds = ["seed:1".to_owned(), "other:1".to_owned()];
        assert_eq!(Routing::addresses(&seeds, Some(&routing)), seeds);
        assert_eq!(Routing::addresses(&seeds[..1], Some(&routing)), seeds);
    }

    #[test]
    fn a_key_chooses_the_topic_partition_by_the_upper_half_of_its_token() {
        assert_eq!(append_index(AppendTo::Partition(9), 4), 9);
        assert_eq!(append_index(AppendTo::Key(b"abc"), 1000), 0xba78_16bf % 1000);
    }
}
