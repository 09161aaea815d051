//! The map while it is being worked on: sets of data nodes, and how many each node holds.
//!
//! Invariants: the nodes of a set are distinct; `loads[n]` is the number of sets with n in them.
//! Pinned sets never change. `origin` is what there is now, so that work can prefer exchanges that
//! cost no further move.

use super::targets::targets;
use super::topology::Topology;

pub(super) struct Assignment<'a> {
    pub topology: &'a Topology,
    sets: Vec<Vec<u16>>,
    origin: Vec<Vec<u16>>,
    leaders: Vec<Option<u16>>,
    pinned: Vec<bool>,
    loads: Vec<u32>,
    targets: Vec<u32>,
}

impl<'a> Assignment<'a> {
    /// These sets, with no leaders and nothing pinned.
    pub fn new(topology: &'a Topology, sets: Vec<Vec<u16>>, rf: usize) -> Assignment<'a> {
        let count = sets.len();
        let mut loads = vec![0; topology.data_nodes()];
        for &node in sets.iter().flatten() {
            loads[usize::from(node)] += 1;
        }
        Assignment {
            topology,
            origin: sets.clone(),
            sets,
            leaders: vec![None; count],
            pinned: vec![false; count],
            loads,
            targets: targets(topology, count as u32, rf),
        }
    }

    /// Names leaders, whose moves cost a transfer, and what may not change.
    pub fn with_limits(mut self, leaders: Vec<Option<u16>>, pinned: Vec<bool>) -> Assignment<'a> {
        assert!(leaders.len() == self.sets.len() && pinned.len() == self.sets.len());
        self.leaders = leaders;
        self.pinned = pinned;
        self
    }

    pub fn partitions(&self) -> usize {
        self.sets.len()
    }

    pub fn nodes(&self) -> u16 {
        self.loads.len() as u16
    }

    pub fn set(&self, partition: usize) -> &[u16] {
        &self.sets[partition]
    }

    pub fn into_sets(self) -> Vec<Vec<u16>> {
        self.sets
    }

    pub fn loads(&self) -> &[u32] {
        &self.loads
    }

    pub fn targets(&self) -> &[u32] {
        &self.targets
    }

    pub fn pinned(&self, partition: usize) -> bool {
        self.pinned[partition]
    }

    pub fn leads(&self, partition: usize, node: u16) -> bool {
        self.leaders[partition] == Some(node)
    }

    /// Whether `to` could take the place of `from` in this set with the spread no worse.
    pub fn can_swap(&self, partition: usize, from: u16, to: u16) -> bool {
        let set = &self.sets[partition];
        !self.pinned[partition]
            && set.contains(&from)
            && !set.contains(&to)
            && self.topology.swap_keeps_spread(set, from, to)
    }

    /// How many more moves the exchange makes of the whole: 0 (it undoes one), 1 or 2 (it makes a
    /// new one), in steps from -1 to 1.
    pub fn swap_price(&self, partition: usize, from: u16, to: u16) -> usize {
        let origin = &self.origin[partition];
        1 + usize::from(!origin.contains(&to)) - usize::from(!origin.contains(&from))
    }

    pub fn swap(&mut self, partition: usize, from: u16, to: u16) {
        assert!(!self.pinned[partition], "partition {partition} is pinned");
        assert!(!self.sets[partition].contains(&to), "nodes of a set are distinct");
        let place = self.sets[partition].iter_mut().find(|node| **node == from);
        *place.expect("the exchanged node is in the set") = to;
        self.loads[usize::from(from)] -= 1;
        self.loads[usize::from(to)] += 1;
    }

    pub fn add(&mut self, partition: usize, node: u16) {
        assert!(!self.sets[partition].contains(&node), "nodes of a set are distinct");
        self.sets[partition].push(node);
        self.loads[usize::from(node)] += 1;
    }

    pub fn remove(&mut self, partition: usize, node: u16) {
        let at = self.sets[partition].iter().position(|&other| other == node);
        self.sets[partition].remove(at.expect("the removed node is in the set"));
        self.loads[usize::from(node)] -= 1;
    }

    /// `Less` when `a` holds less of its share than `b`.
    pub fn compare_fill(&self, a: u16, b: u16) -> std::cmp::Ordering {
        let of = |n: u16| u64::from(self.loads[usize::from(n)]);
        let share = |n: u16| u64::from(self.targets[usize::from(n)].max(1));
        (of(a) * share(b)).cmp(&(of(b) * share(a)))
    }
}
