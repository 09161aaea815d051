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
        for to in 0..self.nodes() {
            while need[usize::from(to)] > 0 && self.take_by_chain(&mut need, to) {}
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
    /// there is none. O(n * P * rf) for the search.
    fn take_by_chain(&mut self, need: &mut [i64], to: u16) -> bool {
        let Some(chain) = self.chain(need, to) else { return false };
        let source = usize::from(chain[0].from);
        let most = need[usize::from(to)].min(-need[source]);
        let mut cursors = vec![0; chain.len()];
        let mut carried = false;
        for _ in 0..most {
            let Some(partitions) = self.along(&chain, &mut cursors) else { break };
            for (step, p) in chain.iter().zip(partitions) {
                self.swap(p, step.from, step.to);
            }
            need[source] += 1;
            need[usize::from(to)] -= 1;
            carried = true;
        }
        carried
    }

    /// A partition of its own for each step of the chain: two steps in one set might each keep its
    /// spread and together not.
    fn along(&self, chain: &[Step], cursors: &mut [usize]) -> Option<Vec<usize>> {
        let mut used = Vec::with_capacity(cursors.len());
        for (step, cursor) in chain.iter().zip(cursors) {
            let p = (*cursor..self.partitions()).find(|&p| {
                !used.contains(&p)
                    && self.swap_price(p, step.from, step.to) <= step.price
                    && self.can_swap(p, step.from, step.to)
            })?;
            *cursor = p;
            used.push(p);
        }
        Some(used)
    }

    /// The cheapest chain from a node with too many to `to`, which has too few (Dijkstra, backwards
    /// from `to`). Steps that undo or redirect a move made before are cheap, so that a chain makes
    /// as few new moves as it can.
    fn chain(&self, need: &[i64], to: u16) -> Option<Vec<Step>> {
        let nodes = usize::from(self.nodes());
        let mut best: Vec<Option<(u64, Step)>> = vec![None; nodes];
        let mut settled = vec![false; nodes];
        let (mut into, mut cost) = (to, 0);
        loop {
            settled[usize::from(into)] = true;
            if need[usize::from(into)] < 0 {
                return Some(follow(into, to, &best));
            }
            for p in 0..self.partitions() {
                for &from in self.set(p) {
                    if settled[usize::from(from)] || !self.can_swap(p, from, into) {
                        continue;
                    }
                    let price = self.swap_price(p, from, into);
                    let found = (cost + CHAIN_COSTS[price], Step { from, to: into, price });
                    let known = &mut best[usize::from(from)];
                    if known.as_ref().is_none_or(|(cost, _)| found.0 < *cost) {
                        *known = Some(found);
                    }
                }
            }
            let open = (0..self.nodes()).filter(|&n| !settled[usize::from(n)]);
            let known = open.filter_map(|n| best[usize::from(n)].as_ref().map(|b| (b.0, n)));
            (cost, into) = known.min()?;
        }
    }
}

/// One exchange of a chain, of partitions where it costs at most `price`.
#[derive(Clone, Copy)]
struct Step {
    from: u16,
    to: u16,
    price: usize,
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
