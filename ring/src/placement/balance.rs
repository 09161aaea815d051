//! Bounded load: exchanges of replicas that bring nodes to their share.
//!
//! First numbers, then sets. [`Assignment::balance`] decides how many replicas each node should end
//! with: only nodes outside the band around their share are brought to it, the rest give or take
//! just what that needs, fullest or emptiest first. Then [`Assignment::realise`] finds the
//! exchanges, directly between a node with too many and one with too few where some partition
//! allows it, else along the cheapest chain of nodes (augmenting paths; see the header of `spread`
//! for why chains suffice). No exchange makes the spread of a partition worse.

use super::assignment::Assignment;
use super::ring::Ring;

/// Classes of direct exchanges: price (3), leader (2), not proposed by the ring (2).
const CLASSES: usize = 12;
/// Cost of a step of a chain by its price. A new move outweighs some steps that make none.
const CHAIN_COSTS: [u64; 3] = [1, 2, 16];

impl Assignment<'_> {
    /// Brings every node outside its band into it. The band is its share, give or take
    /// `tolerance_percent` of it and at least one replica. With every node in its band nothing
    /// happens.
    pub(super) fn balance(&mut self, ring: &Ring, tolerance_percent: u8) {
        let goal = self.goal(tolerance_percent);
        if goal == self.loads() {
            return;
        }
        let proposed = ring.walk_all(self.partitions() as u32, self.copies());
        self.realise(self.need(&goal), &proposed);
        // Loads between the old ones and the shares may be out of reach of any well spread sets.
        // The shares themselves never are.
        let off = |(&load, &share)| outside(load, share, tolerance_percent);
        if self.loads().iter().zip(self.targets()).any(off) {
            self.realise(self.need(self.targets()), &proposed);
        }
    }

    /// Brings every node exactly to its share.
    pub(super) fn fill_shares(&mut self, ring: &Ring) {
        let proposed = ring.walk_all(self.partitions() as u32, self.copies());
        self.realise(self.need(self.targets()), &proposed);
    }

    fn copies(&self) -> usize {
        (0..self.partitions()).map(|p| self.set(p).len()).max().unwrap_or(0)
    }

    /// How many replicas each node should end with.
    fn goal(&self, tolerance_percent: u8) -> Vec<u32> {
        let mut goal = self.loads().to_vec();
        let share = self.targets();
        let mut missing = 0;
        for (goal, &share) in goal.iter_mut().zip(share) {
            if *goal < share && outside(*goal, share, tolerance_percent) {
                missing += share - *goal;
                *goal = share;
            }
        }
        for _ in 0..missing {
            let Some(n) = fullest(&goal, share) else { break };
            goal[n] -= 1;
        }
        // What the empty nodes took may have been enough for the full ones.
        let mut surplus = 0;
        for (goal, &share) in goal.iter_mut().zip(share) {
            if *goal > share && outside(*goal, share, tolerance_percent) {
                surplus += *goal - share;
                *goal = share;
            }
        }
        for _ in 0..surplus {
            let Some(n) = emptiest(&goal, share) else { break };
            goal[n] += 1;
        }
        goal
    }

    /// How many replicas each node is to take (above 0) or give.
    fn need(&self, goal: &[u32]) -> Vec<i64> {
        goal.iter().zip(self.loads()).map(|(&g, &l)| i64::from(g) - i64::from(l)).collect()
    }

    /// Makes exchanges until every need is met, or as near as there are any.
    fn realise(&mut self, mut need: Vec<i64>, proposed: &[Vec<u16>]) {
        for to in 0..self.nodes() {
            self.take_directly(&mut need, to, proposed);
        }
        if need.iter().any(|&need| need > 0) {
            let mut steps = Steps::new(self);
            for to in 0..self.nodes() {
                while need[usize::from(to)] > 0 && self.take_by_chain(&mut need, to, &mut steps) {}
            }
        }
    }

    /// Direct exchanges to one node: cheapest first, followers before leaders, and of these what
    /// the ring proposes before the rest.
    fn take_directly(&mut self, need: &mut [i64], to: u16, proposed: &[Vec<u16>]) {
        if need[usize::from(to)] <= 0 {
            return;
        }
        let mut found: [Vec<(usize, u16)>; CLASSES] = Default::default();
        for (p, proposal) in proposed.iter().enumerate() {
            for &from in self.set(p) {
                if need[usize::from(from)] < 0 && self.can_swap(p, from, to) {
                    let class = self.swap_price(p, from, to) * 4
                        + usize::from(self.leads(p, from)) * 2
                        + usize::from(!proposal.contains(&to));
                    found[class].push((p, from));
                }
            }
        }
        for (p, from) in found.into_iter().flatten() {
            if need[usize::from(to)] == 0 {
                break;
            }
            if need[usize::from(from)] < 0 && self.can_swap(p, from, to) {
                self.swap(p, from, to);
                need[usize::from(from)] += 1;
                need[usize::from(to)] -= 1;
            }
        }
    }

    /// Exchanges along the cheapest chain that ends at `to`, as many as it carries. False when
    /// there is none.
    fn take_by_chain(&mut self, need: &mut [i64], to: u16, steps: &mut Steps) -> bool {
        while let Some(chain) = steps.chain(need, to) {
            let source = usize::from(chain[0].from);
            let most = need[usize::from(to)].min(-need[source]);
            for carried in 1..=most {
                let Some(partitions) = self.along(&chain, steps) else { break };
                for (step, p) in chain.iter().zip(partitions) {
                    self.swap(p, step.from, step.to);
                    steps.note(self, p);
                }
                need[source] += 1;
                need[usize::from(to)] -= 1;
                if carried == most {
                    return true;
                }
            }
        }
        false
    }

    /// A partition of its own for each step of the chain; where there is none, `steps` learns so.
    /// Of its own, since two steps in one set might each keep its spread and together not.
    fn along(&self, chain: &[Step], steps: &mut Steps) -> Option<Vec<usize>> {
        let mut used: Vec<usize> = Vec::with_capacity(chain.len());
        for step in chain {
            let at = steps.at(step.from, step.to);
            let begin = steps.begin[at];
            let found = (begin..self.partitions()).find(|&p| {
                !used.contains(&p)
                    && self.can_swap(p, step.from, step.to)
                    && self.swap_price(p, step.from, step.to) <= step.price
            });
            let Some(found) = found else {
                steps.exhaust(at);
                return None;
            };
            if !used.iter().any(|p| (begin..found).contains(p)) {
                steps.begin[at] = found;
            }
            used.push(found);
        }
        Some(used)
    }
}

/// One exchange of a chain, of a partition where it costs at most `price`.
#[derive(Clone, Copy)]
struct Step {
    from: u16,
    to: u16,
    price: usize,
}

/// The least price of an exchange from each node to each other, `NONE` when there is none. May be
/// too low, as sets change: a step that turns out not to exist is corrected then. n^2 words.
struct Steps {
    nodes: usize,
    price: Vec<usize>,
    /// No partition before this one has the exchange at this price.
    begin: Vec<usize>,
}

impl Steps {
    const NONE: usize = CHAIN_COSTS.len();

    /// O(n * P * rf).
    fn new(assignment: &Assignment<'_>) -> Steps {
        let nodes = usize::from(assignment.nodes());
        let none = vec![Self::NONE; nodes * nodes];
        let mut steps = Steps { nodes, price: none, begin: vec![0; nodes * nodes] };
        for p in 0..assignment.partitions() {
            steps.note(assignment, p);
        }
        steps
    }

    fn at(&self, from: u16, to: u16) -> usize {
        usize::from(from) * self.nodes + usize::from(to)
    }

    /// Takes in the exchanges of one set.
    fn note(&mut self, assignment: &Assignment<'_>, p: usize) {
        for &from in assignment.set(p) {
            for to in 0..assignment.nodes() {
                if !assignment.can_swap(p, from, to) {
                    continue;
                }
                let (at, price) = (self.at(from, to), assignment.swap_price(p, from, to));
                if price < self.price[at] {
                    self.price[at] = price;
                    self.begin[at] = p;
                } else if price == self.price[at] {
                    self.begin[at] = self.begin[at].min(p);
                }
            }
        }
    }

    /// No partition is left at the step's price (or only one that another step of the chain needs,
    /// which is given up): on to the next price, from the first partition.
    fn exhaust(&mut self, at: usize) {
        self.price[at] = (self.price[at] + 1).min(Self::NONE);
        self.begin[at] = 0;
    }

    /// The cheapest chain from a node with too many to `to`, which has too few (Dijkstra, backwards
    /// from `to`; O(n^2)). Steps that undo or redirect a move made before are cheap, so that a
    /// chain makes as few new moves as it can.
    fn chain(&self, need: &[i64], to: u16) -> Option<Vec<Step>> {
        let mut best: Vec<Option<(u64, Step)>> = vec![None; self.nodes];
        let mut settled = vec![false; self.nodes];
        let (mut into, mut cost) = (to, 0);
        loop {
            settled[usize::from(into)] = true;
            if need[usize::from(into)] < 0 {
                return Some(follow(into, to, &best));
            }
            for from in (0..self.nodes as u16).filter(|&n| !settled[usize::from(n)]) {
                let price = self.price[self.at(from, into)];
                let Some(&step_cost) = CHAIN_COSTS.get(price) else { continue };
                let known = &mut best[usize::from(from)];
                if known.is_none_or(|(known, _)| cost + step_cost < known) {
                    *known = Some((cost + step_cost, Step { from, to: into, price }));
                }
            }
            let open = (0..self.nodes as u16).filter(|&n| !settled[usize::from(n)]);
            (cost, into) = open.filter_map(|n| Some((best[usize::from(n)]?.0, n))).min()?;
        }
    }
}

fn follow(source: u16, to: u16, best: &[Option<(u64, Step)>]) -> Vec<Step> {
    let mut chain = Vec::new();
    let mut at = source;
    while at != to {
        let (_, step) = best[usize::from(at)].expect("every node of the search leads to its end");
        chain.push(step);
        at = step.to;
    }
    chain
}

/// Whether a load is outside the band around a share.
fn outside(load: u32, share: u32, tolerance_percent: u8) -> bool {
    let off = u64::from(load.abs_diff(share));
    off > 1 && off * 100 > u64::from(share) * u64::from(tolerance_percent)
}

/// The node furthest above its share, in parts of the share; `None` when none is above.
fn fullest(goal: &[u32], share: &[u32]) -> Option<usize> {
    let over = |n: usize| u64::from(goal[n] - share[n]);
    let mut best = None;
    for n in (0..goal.len()).filter(|&n| goal[n] > share[n]) {
        let fuller =
            |b: usize| over(n) * u64::from(share[b].max(1)) > over(b) * u64::from(share[n].max(1));
        if best.is_none_or(fuller) {
            best = Some(n);
        }
    }
    best
}

/// The node furthest below its share, in parts of the share; `None` when none is below.
fn emptiest(goal: &[u32], share: &[u32]) -> Option<usize> {
    let under = |n: usize| u64::from(share[n] - goal[n]);
    let mut best = None;
    for n in (0..goal.len()).filter(|&n| goal[n] < share[n]) {
        let emptier = |b: usize| under(n) * u64::from(share[b]) > under(b) * u64::from(share[n]);
        if best.is_none_or(emptier) {
            best = Some(n);
        }
    }
    best
}
