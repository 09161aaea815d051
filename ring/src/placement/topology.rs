//! The nodes of a cluster as placement sees them.
//!
//! Invariant: nodes are sorted by id and so are the *data nodes* (active, weight above 0), which
//! the other files name by their index among them (`u16`). So equal sets of nodes give equal
//! results, in whatever order they are listed.

use std::collections::BTreeMap;

use ironring_core::NodeId;

use super::tokens::Weight;

/// Most nodes of a cluster. The tables of leader balancing grow with its square.
pub const MAX_NODES: usize = 256;

/// What may be done with a node's replicas. Decided by the controller, not by failure detection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeState {
    /// Holds and takes replicas. Also a node that is silent, but not given up.
    Active,
    /// Serves what it has and gives it away: replicas move off it while there is somewhere to go.
    Draining,
    /// Given up: its copies count for nothing and cannot be read. A node that is in the map and
    /// not in the topology is treated alike.
    Lost,
}

/// A node and what placement needs to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Who it is.
    pub id: NodeId,
    /// How much it should hold; 0 for a node without data.
    pub weight: Weight,
    /// What fails together (a rack, a zone), by name within the region. A node without a rack
    /// counts as a rack of its own, so nodes can be labelled one at a time.
    pub rack: Option<String>,
    /// A site. Nodes without a region are in one region together.
    pub region: Option<String>,
    /// What may be done with its replicas.
    pub state: NodeState,
}

impl Node {
    /// An active node of weight 1 without rack or region.
    #[must_use]
    pub fn new(id: NodeId) -> Node {
        Node { id, weight: Weight::ONE, rack: None, region: None, state: NodeState::Active }
    }
}

/// Why a list of nodes is not a topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// Node ids begin with 1.
    #[error("node id 0: ids are above 0")]
    ZeroId,
    /// Two nodes have one id.
    #[error("node id {0} is there twice")]
    Duplicate(NodeId),
    /// More than [`MAX_NODES`].
    #[error("{0} nodes: at most {MAX_NODES}")]
    TooMany(usize),
}

/// A valid set of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    nodes: Vec<Node>,
    data: Vec<DataNode>,
}

/// A node that takes replicas, with its names replaced by numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DataNode {
    pub id: NodeId,
    pub weight: Weight,
    pub rack: u16,
    pub region: u16,
}

impl Topology {
    /// A topology of these nodes, in any order. With `spread` false racks and regions are ignored
    /// and only distinct nodes are asked for.
    pub fn new(mut nodes: Vec<Node>, spread: bool) -> Result<Topology, TopologyError> {
        if nodes.len() > MAX_NODES {
            return Err(TopologyError::TooMany(nodes.len()));
        }
        nodes.sort_by_key(|node| node.id);
        if nodes.first().is_some_and(|node| node.id.0 == 0) {
            return Err(TopologyError::ZeroId);
        }
        if let Some(pair) = nodes.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(TopologyError::Duplicate(pair[0].id));
        }
        let data = number(&nodes, spread);
        Ok(Topology { nodes, data })
    }

    /// All nodes, by id.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// How many nodes take replicas: active, with a weight above 0.
    #[must_use]
    pub fn data_nodes(&self) -> usize {
        self.data.len()
    }

    /// A node by its id. O(log n).
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.binary_search_by_key(&id, |node| node.id).ok().map(|at| &self.nodes[at])
    }

    pub(super) fn data(&self) -> &[DataNode] {
        &self.data
    }

    /// Index among the data nodes; `None` for a node that takes no replicas or is unknown.
    pub(super) fn index(&self, id: NodeId) -> Option<u16> {
        self.data.binary_search_by_key(&id, |node| node.id).ok().map(|at| at as u16)
    }
}

fn number(nodes: &[Node], spread: bool) -> Vec<DataNode> {
    let mut racks = BTreeMap::new();
    let mut regions = BTreeMap::new();
    let mut data = Vec::new();
    for node in nodes {
        if node.state != NodeState::Active || node.weight == Weight::ZERO {
            continue;
        }
        // Without spread every node is a rack and a region of its own: all choices cost the same.
        let alone = (!spread).then_some(node.id);
        let region_name = (alone, node.region.as_deref());
        let unnamed = node.rack.is_none().then_some(node.id);
        let rack_name = (region_name, unnamed, node.rack.as_deref());
        let next = regions.len() as u16;
        let region = *regions.entry(region_name).or_insert(next);
        let next = racks.len() as u16;
        let rack = *racks.entry(rack_name).or_insert(next);
        data.push(DataNode { id: node.id, weight: node.weight, rack, region });
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64, rack: Option<&str>, region: Option<&str>) -> Node {
        Node {
            rack: rack.map(str::to_owned),
            region: region.map(str::to_owned),
            ..Node::new(NodeId(id))
        }
    }

    #[test]
    fn bad_lists_are_refused() {
        let new = |ids: &[u64]| {
            Topology::new(ids.iter().map(|&id| Node::new(NodeId(id))).collect(), true)
        };
        assert_eq!(new(&[1, 0]), Err(TopologyError::ZeroId));
        assert_eq!(new(&[7, 3, 7]), Err(TopologyError::Duplicate(NodeId(7))));
        let many: Vec<u64> = (1..=257).collect();
        assert_eq!(new(&many), Err(TopologyError::TooMany(257)));
        assert_eq!(new(&[]).unwrap().data_nodes(), 0);
    }

    #[test]
    fn a_rack_is_named_within_its_region() {
        let t = Topology::new(
            vec![
                node(1, Some("a"), Some("x")),
                node(2, Some("a"), Some("y")),
                node(3, Some("a"), Some("x")),
                node(4, None, Some("x")),
                node(5, None, Some("x")),
            ],
            true,
        )
        .unwrap();
        let racks: Vec<u16> = t.data().iter().map(|n| n.rack).collect();
        let regions: Vec<u16> = t.data().iter().map(|n| n.region).collect();
        assert_eq!(racks, [0, 1, 0, 2, 3]);
        assert_eq!(regions, [0, 1, 0, 0, 0]);
    }

    #[test]
    fn only_active_nodes_with_a_weight_take_replicas() {
        let mut nodes: Vec<Node> = (1..=4).map(|id| Node::new(NodeId(id))).collect();
        nodes[0].weight = Weight::ZERO;
        nodes[1].state = NodeState::Draining;
        nodes[2].state = NodeState::Lost;
        let t = Topology::new(nodes, true).unwrap();
        assert_eq!(t.data_nodes(), 1);
        assert_eq!(t.index(NodeId(4)), Some(0));
        assert_eq!(t.index(NodeId(1)), None);
        assert_eq!(t.node(NodeId(2)).unwrap().state, NodeState::Draining);
    }
}
