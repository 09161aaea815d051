//! What every partition needs whatever the loads are: enough replicas, no more, well spread.
//!
//! Works on the replicas that count (on data nodes). Each choice goes to the node that leaves the
//! best spread and then to the one that has least of its share, so that repairs even out loads
//! instead of waiting for the balance that follows.

use std::cmp::Ordering;

use ironring_core::PartitionId;

use super::assignment::Assignment;
use super::ring::{Ring, partition_start};

impl Assignment<'_> {
    /// Adds, removes and exchanges until every partition that is not pinned has `rf` nodes (all,
    /// when there are fewer) and a best spread. Partitions with the fewest copies go first.
    pub(super) fn repair(&mut self, ring: &Ring, rf: usize) {
        let wanted = rf.min(usize::from(self.nodes()));
        let best = self.topology.best_spread(wanted);
        let mut order: Vec<usize> = (0..self.partitions()).filter(|&p| !self.pinned(p)).collect();
        order.sort_by_key(|&p| self.set(p).len());
        for &p in &order {
            if self.set(p).len() < wanted {
                let start = partition_start(PartitionId(p as u32), self.partitions() as u32);
                let clockwise = ring.clockwise(start);
                while self.set(p).len() < wanted {
                    self.add_best(p, &clockwise);
                }
            }
            while self.set(p).len() > wanted {
                self.remove_best(p);
            }
        }
        for &p in &order {
            while self.topology.cost(self.set(p)) > best {
                self.swap_best(p);
            }
        }
    }

    fn add_best(&mut self, p: usize, clockwise: &[u16]) {
        let better = |&&a: &&u16, &&b: &&u16| {
            let cost = |n| self.topology.marginal(self.set(p), n);
            cost(a).cmp(&cost(b)).then_with(|| self.compare_fill(a, b))
        };
        let best = clockwise.iter().filter(|node| !self.set(p).contains(node)).min_by(better);
        let node = *best.expect("fewer replicas than data nodes");
        self.add(p, node);
    }

    /// Takes the node whose absence leaves the best spread; the leader last, then the fullest.
    fn remove_best(&mut self, p: usize) {
        let rest = |n: u16| {
            let rest: Vec<u16> = self.set(p).iter().copied().filter(|&m| m != n).collect();
            self.topology.cost(&rest)
        };
        let better = |a: &u16, b: &u16| {
            rest(*a)
                .cmp(&rest(*b))
                .then(self.leads(p, *a).cmp(&self.leads(p, *b)))
                .then_with(|| self.compare_fill(*b, *a))
        };
        let node = self.set(p).iter().copied().min_by(better);
        self.remove(p, node.expect("more replicas than wanted"));
    }

    fn swap_best(&mut self, p: usize) {
        let set = self.set(p);
        let mut best: Option<Swap> = None;
        for &from in set {
            let rest: Vec<u16> = set.iter().copied().filter(|&m| m != from).collect();
            let rest_cost = self.topology.cost(&rest);
            for to in (0..self.nodes()).filter(|to| !set.contains(to)) {
                let added = self.topology.marginal(&rest, to);
                let swap = Swap {
                    cost: (
                        rest_cost.rack_pairs + added.rack_pairs,
                        rest_cost.region_pairs + added.region_pairs,
                    ),
                    price: self.swap_price(p, from, to),
                    leads: self.leads(p, from),
                    from,
                    to,
                };
                if best.as_ref().is_none_or(|best| self.compare_swaps(&swap, best).is_lt()) {
                    best = Some(swap);
                }
            }
        }
        let swap = best.expect("a set that is not best has an exchange that improves it");
        let before = self.topology.cost(set);
        assert!(
            swap.cost < (before.rack_pairs, before.region_pairs),
            "a set that is not best has an exchange that improves it"
        );
        self.swap(p, swap.from, swap.to);
    }

    fn compare_swaps(&self, a: &Swap, b: &Swap) -> Ordering {
        (a.cost, a.price, a.leads)
            .cmp(&(b.cost, b.price, b.leads))
            .then_with(|| self.compare_fill(a.to, b.to))
            .then_with(|| self.compare_fill(b.from, a.from))
    }
}

struct Swap {
    cost: (u32, u32),
    price: usize,
    leads: bool,
    from: u16,
    to: u16,
}
