//! Leaders as even as the replicas allow, with the fewest changes.
//!
//! The result has the least sum of `leaders^2 / weight` of all choices, which for equal weights
//! means that counts differ by at most one wherever the replica lists allow that; and of the
//! choices with that sum it changes the fewest leaders.
//!
//! Method: a graph of the nodes, with an edge a -> b for every partition led by a that b may lead.
//! Passing leadership along a path moves one leader from its start to its end. While some path
//! lowers the sum it is taken, edges first (Harvey, Ladner, Lovasz and Tamir, Semi-matchings for
//! bipartite graphs and load balancing, 2003: without such a path the sum is least). An edge is
//! priced by what it changes: +1 away from the current leader, -1 back to it, else 0. Cycles of
//! negative price, which may pass from b to a where a and b could trade counts for nothing, are
//! then cancelled (Klein 1967: without one the price is least).

use ironring_core::NodeId;

use super::topology::Topology;

/// Who may lead a partition.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LeaderChoice {
    /// Nodes that may lead it, in any order: those of its voters that are reachable and up to date.
    pub eligible: Vec<NodeId>,
    /// Who leads it, if anyone.
    pub current: Option<NodeId>,
}

/// A leader for each partition; `None` only where nobody is eligible. Nodes that take no replicas
/// (draining, weight 0) lead only where no other may. 65,536 partitions on 100 nodes take
/// 0.07 s from leaders nearly even, 0.3 s when the lowest ids lead all.
#[must_use]
pub fn choose_leaders(topology: &Topology, partitions: &[LeaderChoice]) -> Vec<Option<NodeId>> {
    let mut graph = Graph::new(topology, partitions);
    graph.fill();
    graph.level_by_edges();
    while graph.level_by_path() {}
    while graph.cancel_cycle() {}
    let named = |at: u16| topology.data()[usize::from(at)].id;
    let fallback = |choice: &LeaderChoice| {
        choice.current.filter(|c| choice.eligible.contains(c)).or(choice.eligible.first().copied())
    };
    graph
        .leader
        .iter()
        .zip(partitions)
        .map(|(leader, choice)| leader.map(named).or_else(|| fallback(choice)))
        .collect()
}

/// Prices of an edge, as indices: back to the current leader, neither, away from it.
const PRICES: [i64; 3] = [-1, 0, 1];

struct Graph {
    n: usize,
    weight: Vec<u64>,
    load: Vec<u64>,
    eligible: Vec<Vec<u16>>,
    origin: Vec<Option<u16>>,
    leader: Vec<Option<u16>>,
    /// Partitions by (price, from, to), newest last; those `from` no longer leads are dropped when
    /// they come up.
    edges: Vec<Vec<u32>>,
}

/// Result of a search: price of the best way to each node, and the node before it.
struct Ways {
    price: Vec<Option<i64>>,
    before: Vec<Option<u16>>,
}

impl Graph {
    fn new(topology: &Topology, partitions: &[LeaderChoice]) -> Graph {
        let n = topology.data_nodes();
        let mut graph = Graph {
            n,
            weight: topology.data().iter().map(|d| u64::from(d.weight.hundredths())).collect(),
            load: vec![0; n],
            eligible: Vec::with_capacity(partitions.len()),
            origin: Vec::with_capacity(partitions.len()),
            leader: vec![None; partitions.len()],
            edges: vec![Vec::new(); PRICES.len() * n * n],
        };
        for choice in partitions {
            let mut eligible: Vec<u16> =
                choice.eligible.iter().filter_map(|&id| topology.index(id)).collect();
            eligible.sort_unstable();
            eligible.dedup();
            let origin = choice.current.and_then(|id| topology.index(id));
            graph.origin.push(origin.filter(|at| eligible.contains(at)));
            graph.eligible.push(eligible);
        }
        // Backwards, so that the first partitions come up first.
        for p in (0..partitions.len()).rev() {
            if let Some(leader) = graph.origin[p] {
                graph.lead(p, leader);
            }
        }
        graph
    }

    /// Whether a leader more at `b` and one fewer at `a` lower the sum.
    fn improves(&self, a: usize, b: usize) -> bool {
        self.load[a] > 0 && (2 * self.load[a] - 1) * self.weight[b] > self.next(b) * self.weight[a]
    }

    /// Whether a leader more at `b` and one fewer at `a` leave the sum as it is.
    fn trades(&self, a: usize, b: usize) -> bool {
        a != b
            && self.load[a] > 0
            && (2 * self.load[a] - 1) * self.weight[b] == self.next(b) * self.weight[a]
    }

    fn next(&self, node: usize) -> u64 {
        2 * self.load[node] + 1
    }

    /// Orders nodes by what the next leader adds, least first.
    fn compare_next(&self, a: usize, b: usize) -> std::cmp::Ordering {
        (self.next(a) * self.weight[b]).cmp(&(self.next(b) * self.weight[a]))
    }

    fn price(&self, p: usize, from: u16, to: u16) -> usize {
        match self.origin[p] {
            Some(origin) if origin == to => 0,
            Some(origin) if origin == from => 2,
            _ => 1,
        }
    }

    fn lead(&mut self, p: usize, node: u16) {
        if let Some(old) = self.leader[p].replace(node) {
            self.load[usize::from(old)] -= 1;
        }
        self.load[usize::from(node)] += 1;
        for at in 0..self.eligible[p].len() {
            let to = self.eligible[p][at];
            if to != node {
                let price = self.price(p, node, to);
                let edge = self.edge_index(price, node.into(), to.into());
                self.edges[edge].push(p as u32);
            }
        }
    }

    fn edge_index(&self, price: usize, from: usize, to: usize) -> usize {
        (price * self.n + from) * self.n + to
    }

    /// The cheapest edge and a partition it stands for.
    fn edge(&mut self, from: usize, to: usize) -> Option<(i64, u32)> {
        for (price, &value) in PRICES.iter().enumerate() {
            let edge = self.edge_index(price, from, to);
            while let Some(&p) = self.edges[edge].last() {
                if self.leader[p as usize] == Some(from as u16) {
                    return Some((value, p));
                }
                self.edges[edge].pop();
            }
        }
        None
    }

    fn pass(&mut self, from: usize, to: usize) {
        let (_, p) = self.edge(from, to).expect("the edge was found by the search");
        self.lead(p as usize, to as u16);
    }

    /// Leaders for partitions without one: where the next adds least.
    fn fill(&mut self) {
        for p in 0..self.leader.len() {
            if self.leader[p].is_none() {
                let least = |&&a: &&u16, &&b: &&u16| self.compare_next(a.into(), b.into());
                if let Some(&node) = self.eligible[p].iter().min_by(least) {
                    self.lead(p, node);
                }
            }
        }
    }

    /// Nodes by what one fewer leader takes off the sum, most first.
    fn fullest_first(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.n).filter(|&a| self.load[a] > 0).collect();
        let off = |a: usize| 2 * self.load[a] - 1;
        order.sort_by(|&a, &b| (off(b) * self.weight[a]).cmp(&(off(a) * self.weight[b])));
        order
    }

    fn level_by_edges(&mut self) {
        'next: loop {
            let mut emptiest: Vec<usize> = (0..self.n).collect();
            emptiest.sort_by(|&a, &b| self.compare_next(a, b));
            for from in self.fullest_first() {
                for &to in &emptiest {
                    if !self.improves(from, to) {
                        break;
                    }
                    if self.edge(from, to).is_some() {
                        self.pass(from, to);
                        continue 'next;
                    }
                }
            }
            return;
        }
    }

    fn level_by_path(&mut self) -> bool {
        for from in self.fullest_first() {
            let ways = match self.search(&[from], false) {
                Ok(ways) => ways,
                Err(cycle) => {
                    self.pass_along(&cycle, false);
                    return true;
                }
            };
            let reached = (0..self.n).filter(|&to| to != from && ways.price[to].is_some());
            let end = reached
                .filter(|&to| self.improves(from, to))
                .min_by(|&a, &b| self.compare_next(a, b).then(ways.price[a].cmp(&ways.price[b])));
            if let Some(end) = end {
                let mut path = vec![end];
                while let Some(before) = ways.before[path[path.len() - 1]] {
                    path.push(before.into());
                }
                for step in path.windows(2).rev() {
                    self.pass(step[1], step[0]);
                }
                return true;
            }
        }
        false
    }

    /// Cancels one cycle of negative price. False when there is none.
    fn cancel_cycle(&mut self) -> bool {
        let all: Vec<usize> = (0..self.n).collect();
        let Err(cycle) = self.search(&all, true) else { return false };
        self.pass_along(&cycle, true);
        true
    }

    /// Passes leadership along a cycle. With `trade` a step that is cheaper as a trade of loads is
    /// left out; which ones is decided before the loads change.
    fn pass_along(&mut self, cycle: &[usize], trade: bool) {
        let mut steps = Vec::with_capacity(cycle.len());
        for step in cycle.windows(2) {
            let (from, to) = (step[0], step[1]);
            let back = self.edge(from, to).is_some_and(|(price, _)| price < 0);
            if back || !(trade && self.trades(to, from)) {
                steps.push((from, to));
            }
        }
        for (from, to) in steps {
            self.pass(from, to);
        }
    }

    /// Cheapest ways from `starts` (Bellman and Ford), or a cycle of negative price, first node
    /// last again. With `trade` also over pairs whose loads may be traded. O(n^2) a round, few
    /// rounds in practice, at most n.
    fn search(&mut self, starts: &[usize], trade: bool) -> Result<Ways, Vec<usize>> {
        let mut ways = Ways { price: vec![None; self.n], before: vec![None; self.n] };
        for &start in starts {
            ways.price[start] = Some(0);
        }
        loop {
            let mut changed = false;
            for from in 0..self.n {
                let Some(price) = ways.price[from] else { continue };
                for to in (0..self.n).filter(|&to| to != from) {
                    let free = (trade && self.trades(to, from)).then_some(0);
                    let edge = self.edge(from, to).map(|(price, _)| price);
                    let step = match (free, edge) {
                        (Some(free), Some(edge)) => free.min(edge),
                        (Some(step), None) | (None, Some(step)) => step,
                        (None, None) => continue,
                    };
                    if ways.price[to].is_none_or(|old| price + step < old) {
                        ways.price[to] = Some(price + step);
                        ways.before[to] = Some(from as u16);
                        changed = true;
                    }
                }
            }
            if let Some(cycle) = cycle(&ways.before) {
                return Err(cycle);
            }
            if !changed {
                return Ok(ways);
            }
        }
    }
}

/// A cycle among the predecessors, in the direction of the edges.
fn cycle(before: &[Option<u16>]) -> Option<Vec<usize>> {
    let mut visited = vec![usize::MAX; before.len()];
    for start in 0..before.len() {
        let mut at = start;
        while visited[at] == usize::MAX {
            visited[at] = start;
            match before[at] {
                Some(next) => at = next.into(),
                None => break,
            }
        }
        if visited[at] == start && before[at].is_some() {
            let mut cycle = vec![at];
            let mut back = at;
            while let Some(next) = before[back] {
                back = next.into();
                cycle.push(back);
                if back == at {
                    cycle.reverse();
                    return Some(cycle);
                }
            }
        }
    }
    None
}
