//! Figures of a map: what each node holds, and how uneven that is.

use std::collections::BTreeMap;

use ironring_core::NodeId;

use super::topology::Topology;

/// What one node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeLoad {
    /// The node.
    pub node: NodeId,
    /// Replicas it holds.
    pub replicas: u32,
    /// Replicas that would be its fair share; 0 for a node that takes none.
    pub share: u32,
    /// Partitions it leads.
    pub leaders: u32,
    /// Bytes of its replicas, as far as sizes were given.
    pub bytes: u64,
}

/// How evenly a map loads the data nodes. Ratios are of the largest load per weight to the mean
/// per weight, in thousandths, rounded up: 1000 is even, 0 is said of nothing at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skew {
    /// All nodes of the topology and of the map, by id.
    pub nodes: Vec<NodeLoad>,
    /// Largest to mean number of replicas.
    pub replicas_permille: u64,
    /// Largest to mean number of leaders.
    pub leaders_permille: u64,
    /// Largest to mean number of bytes.
    pub bytes_permille: u64,
}

/// One partition of the map that is measured.
pub(super) struct Measured<'a> {
    pub replicas: &'a [NodeId],
    pub leader: Option<NodeId>,
    pub bytes: u64,
}

impl Skew {
    /// Figures of a map in which data node i should hold `shares[i]` replicas.
    pub(super) fn of<'a>(
        topology: &Topology,
        shares: &[u32],
        map: impl Iterator<Item = Measured<'a>>,
    ) -> Skew {
        let none = |node| NodeLoad { node, replicas: 0, share: 0, leaders: 0, bytes: 0 };
        let mut loads: BTreeMap<NodeId, NodeLoad> =
            topology.nodes().iter().map(|node| (node.id, none(node.id))).collect();
        for (node, &share) in topology.data().iter().zip(shares) {
            loads.entry(node.id).or_insert(none(node.id)).share = share;
        }
        for partition in map {
            for &node in partition.replicas {
                let load = loads.entry(node).or_insert(none(node));
                load.replicas += 1;
                load.bytes += partition.bytes;
            }
            if let Some(node) = partition.leader {
                loads.entry(node).or_insert(none(node)).leaders += 1;
            }
        }
        let ratio = |of: fn(&NodeLoad) -> u64| permille(topology, &loads, of);
        Skew {
            replicas_permille: ratio(|load| u64::from(load.replicas)),
            leaders_permille: ratio(|load| u64::from(load.leaders)),
            bytes_permille: ratio(|load| load.bytes),
            nodes: loads.into_values().collect(),
        }
    }
}

fn permille(
    topology: &Topology,
    loads: &BTreeMap<NodeId, NodeLoad>,
    of: fn(&NodeLoad) -> u64,
) -> u64 {
    let data = topology.data();
    let load = |id: &NodeId| loads.get(id).map_or(0, |load| u128::from(of(load)));
    let total: u128 = data.iter().map(|node| load(&node.id)).sum();
    let weights: u128 = data.iter().map(|node| u128::from(node.weight.hundredths())).sum();
    if total == 0 {
        return 0;
    }
    let largest = data
        .iter()
        .map(|node| {
            (load(&node.id) * weights * 1000).div_ceil(total * u128::from(node.weight.hundredths()))
        })
        .max();
    largest.map_or(0, |largest| u64::try_from(largest).unwrap_or(u64::MAX))
}
