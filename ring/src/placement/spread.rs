//! How well a set of nodes is spread over racks and regions.
//!
//! A set costs its pairs of nodes that share a rack and, compared after that, its pairs that share
//! a region. The least cost uses as many racks as there can be, shares them evenly where there are
//! too few, and of those sets takes the ones with the most regions.
//!
//! Racks lie within regions, so the cost is a laminar convex function (Murota, Discrete Convex
//! Analysis, 2003). Three things follow, and the other files rest on them: choosing one node after
//! the other, each where it adds least, is optimal whatever breaks ties; a set that no exchange of
//! one node improves is optimal; and load can be passed on between nodes along chains of exchanges
//! that all keep their sets optimal.

use ironring_core::NodeId;

use super::topology::Topology;

/// Cost of a set of nodes: compare with `<`, least is best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct SpreadCost {
    /// Pairs of nodes in one rack.
    pub rack_pairs: u32,
    /// Pairs of nodes in one region.
    pub region_pairs: u32,
}

impl SpreadCost {
    fn plus(self, other: SpreadCost) -> SpreadCost {
        SpreadCost {
            rack_pairs: self.rack_pairs + other.rack_pairs,
            region_pairs: self.region_pairs + other.region_pairs,
        }
    }
}

impl Topology {
    /// Cost of these nodes; those that take no replicas are left out.
    #[must_use]
    pub fn spread_cost(&self, nodes: &[NodeId]) -> SpreadCost {
        let set: Vec<u16> = nodes.iter().filter_map(|&id| self.index(id)).collect();
        self.cost(&set)
    }

    /// The least cost of any `rf` data nodes (all of them, when there are fewer).
    #[must_use]
    pub fn best_spread(&self, rf: usize) -> SpreadCost {
        self.best_marginals(rf).into_iter().fold(SpreadCost::default(), SpreadCost::plus)
    }

    /// What `node` adds to the cost of `set`, which does not hold it. O(rf).
    pub(super) fn marginal(&self, set: &[u16], node: u16) -> SpreadCost {
        let of = self.data()[usize::from(node)];
        let mut cost = SpreadCost::default();
        for &other in set {
            let other = self.data()[usize::from(other)];
            cost.rack_pairs += u32::from(other.rack == of.rack);
            cost.region_pairs += u32::from(other.region == of.region);
        }
        cost
    }

    pub(super) fn cost(&self, set: &[u16]) -> SpreadCost {
        (0..set.len())
            .fold(SpreadCost::default(), |cost, at| cost.plus(self.marginal(&set[..at], set[at])))
    }

    /// Whether `to` in place of `from` leaves `set` as well spread as it is. Only what the two add
    /// to the others differs. O(rf).
    pub(super) fn swap_keeps_spread(&self, set: &[u16], from: u16, to: u16) -> bool {
        let (gone, new) = (self.data()[usize::from(from)], self.data()[usize::from(to)]);
        let (mut before, mut after) = (SpreadCost::default(), SpreadCost::default());
        for &other in set.iter().filter(|&&other| other != from) {
            let other = self.data()[usize::from(other)];
            before.rack_pairs += u32::from(other.rack == gone.rack);
            before.region_pairs += u32::from(other.region == gone.region);
            after.rack_pairs += u32::from(other.rack == new.rack);
            after.region_pairs += u32::from(other.region == new.region);
        }
        after <= before
    }

    /// What the 1st, 2nd, ... node of a best set adds. The same whichever best node is taken at
    /// each step, so a walk knows what to look for and can stop when it has found it.
    pub(super) fn best_marginals(&self, rf: usize) -> Vec<SpreadCost> {
        let mut set = Vec::new();
        let mut marginals = Vec::new();
        for _ in 0..rf.min(self.data_nodes()) {
            let best = (0..self.data_nodes() as u16)
                .filter(|node| !set.contains(node))
                .map(|node| (self.marginal(&set, node), node))
                .min()
                .expect("the set holds fewer than all data nodes");
            marginals.push(best.0);
            set.push(best.1);
        }
        marginals
    }
}
