//! The schedule of faults: rounds of one or two at a time, with calm in between in which a majority
//! can come back.
//!
//! Invariants, of every seed: at most one fault of links and at most one fault of each node at a
//! time; when the last step was taken every node runs and every link is open.

use ironring_core::prng::Prng;
use serde::Serialize;

/// Nodes a cluster may have.
pub const NODES: [usize; 2] = [3, 5];
/// A node is stopped from running for so long at most: longer than every lease and election.
pub const PAUSE_MAX_MS: u64 = 6_000;
/// Longest delay of what goes over a link.
pub const DELAY_MAX_MS: u64 = 50;
/// Calm between two rounds, at least and at most.
pub const CALM_MS: (u64, u64) = (2_000, 5_000);
/// Clients have the cluster for themselves for so long first.
const FIRST_AT_MS: u64 = 2_000;
/// A second fault of a round begins so long behind the first, at most.
const SECOND_AFTER_MAX_MS: u64 = 1_500;
/// From one node to the next in a rolling restart.
const ROLLING_EVERY_MS: u64 = 4_000;

/// What is done to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// SIGKILL, and a start some time later.
    Kill,
    /// SIGSTOP, and SIGCONT some time later.
    Pause,
    /// SIGTERM, and a start once it has ended.
    Stop,
    /// Nothing passes between two nodes.
    Cut,
    /// Nothing passes from one node to another; the way back is open.
    CutOneWay,
    /// Nothing passes between one node and all others.
    Isolate,
    /// Nothing passes from one node to the others, or from the others to it.
    IsolateOneWay,
    /// What passes takes longer.
    Delay,
    /// All connections between two nodes break.
    Reset,
    /// Every node is stopped and started, one after the other.
    Rolling,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 10] = [
        Kind::Kill,
        Kind::Pause,
        Kind::Stop,
        Kind::Cut,
        Kind::CutOneWay,
        Kind::Isolate,
        Kind::IsolateOneWay,
        Kind::Delay,
        Kind::Reset,
        Kind::Rolling,
    ];

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Kill => "kill",
            Kind::Pause => "pause",
            Kind::Stop => "stop",
            Kind::Cut => "cut",
            Kind::CutOneWay => "cut_one_way",
            Kind::Isolate => "isolate",
            Kind::IsolateOneWay => "isolate_one_way",
            Kind::Delay => "delay",
            Kind::Reset => "reset",
            Kind::Rolling => "rolling",
        }
    }

    /// Whether it is done to links; the others are done to processes.
    #[must_use]
    pub fn of_links(self) -> bool {
        !matches!(self, Kind::Kill | Kind::Pause | Kind::Stop | Kind::Rolling)
    }

    /// How often it comes, beside the others.
    fn weight(self) -> u64 {
        match self {
            Kind::Kill | Kind::Pause | Kind::Isolate => 4,
            Kind::Stop | Kind::Cut | Kind::CutOneWay | Kind::IsolateOneWay => 3,
            Kind::Delay => 2,
            Kind::Reset | Kind::Rolling => 1,
        }
    }
}

/// How what one node sends to another fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// It passes.
    Open,
    /// It waits until the link is open again, as behind a cut cable that is repaired.
    Cut,
    /// It arrives so many milliseconds late.
    Delay(u64),
}

/// A thing to do. Nodes are named by their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// SIGKILL.
    Kill(usize),
    /// SIGTERM.
    Terminate(usize),
    /// Start, once the process before has ended.
    Start(usize),
    /// Wait until the node serves.
    Await(usize),
    /// SIGSTOP.
    Freeze(usize),
    /// SIGCONT.
    Thaw(usize),
    /// From now on what the first node sends to the second fares so.
    Link(usize, usize, LinkState),
    /// Break the connections between two nodes, whoever dialled.
    Reset(usize, usize),
}

/// An action and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Milliseconds from the beginning.
    pub at_ms: u64,
    /// What to do.
    pub action: Action,
    /// Set on the first step of a fault.
    pub begins: Option<Kind>,
}

/// A fault of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// The node, for faults of one process.
    pub node: Option<usize>,
    /// From when, in milliseconds from the beginning.
    pub from_ms: u64,
    /// Until when.
    pub until_ms: u64,
}

/// A schedule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Its faults, in order of rounds.
    pub faults: Vec<Fault>,
    /// What to do, in order of time.
    pub steps: Vec<Step>,
}

impl Plan {
    /// The schedule of a seed for so many nodes (at least 2) and milliseconds.
    #[must_use]
    pub fn new(seed: u64, nodes: usize, lasts_ms: u64) -> Plan {
        assert!(nodes >= 2, "links need two nodes");
        let mut prng = Prng::new(seed);
        let mut plan = Plan::default();
        let mut at_ms = FIRST_AT_MS;
        loop {
            let round = round(&mut prng, nodes, at_ms);
            let until_ms = round.faults.iter().map(|fault| fault.until_ms).max().unwrap_or(at_ms);
            if until_ms > lasts_ms {
                break;
            }
            plan.faults.extend(round.faults);
            plan.steps.extend(round.steps);
            at_ms = until_ms + between(&mut prng, CALM_MS);
        }
        // Stable: steps of one moment keep their order.
        plan.steps.sort_by_key(|step| step.at_ms);
        plan
    }
}

fn round(prng: &mut Prng, nodes: usize, at_ms: u64) -> Plan {
    let mut round = Plan::default();
    let first = fault(prng, nodes, at_ms, &mut round, |_| true, None);
    if prng.chance(2, 5) {
        let at_ms = at_ms + prng.below(SECOND_AFTER_MAX_MS);
        let (kind, taken) = (first.kind, first.node);
        // Two faults of links would heal each other; a rolling restart touches every process.
        let fits = |other: Kind| {
            let both = [kind, other];
            !both.iter().all(|k| k.of_links())
                && (!both.contains(&Kind::Rolling) || both.iter().any(|k| k.of_links()))
        };
        fault(prng, nodes, at_ms, &mut round, fits, taken);
    }
    round
}

/// Adds a fault of a kind that fits, to any node but `taken`.
fn fault(
    prng: &mut Prng,
    nodes: usize,
    at_ms: u64,
    plan: &mut Plan,
    fits: impl Fn(Kind) -> bool,
    taken: Option<usize>,
) -> Fault {
    let kind = choose(prng, fits);
    let node = other_than(prng, nodes, taken);
    let other = other_than(prng, nodes, Some(node));
    let mut steps = Vec::new();
    let mut step = |after_ms: u64, action: Action| {
        let begins = steps.is_empty().then_some(kind);
        steps.push(Step { at_ms: at_ms + after_ms, action, begins });
    };
    let lasts_ms = match kind {
        Kind::Kill | Kind::Stop => {
            // Mostly as fast as a supervisor; sometimes others go on far without it.
            let most = if prng.chance(1, 4) { 8_000 } else { 2_500 };
            let lasts_ms = 100 + prng.below(most);
            step(0, if kind == Kind::Kill { Action::Kill(node) } else { Action::Terminate(node) });
            step(lasts_ms, Action::Start(node));
            lasts_ms
        }
        Kind::Pause => {
            let lasts_ms = 100 + prng.below(PAUSE_MAX_MS - 99);
            step(0, Action::Freeze(node));
            step(lasts_ms, Action::Thaw(node));
            lasts_ms
        }
        Kind::Rolling => {
            for (turn, node) in (0..nodes as u64).zip((0..nodes).cycle().skip(node)) {
                let after_ms = turn * ROLLING_EVERY_MS;
                step(after_ms, Action::Terminate(node));
                step(after_ms + 200, Action::Start(node));
                step(after_ms + 200, Action::Await(node));
            }
            nodes as u64 * ROLLING_EVERY_MS
        }
        Kind::Reset => {
            step(0, Action::Reset(node, other));
            0
        }
        Kind::Cut | Kind::CutOneWay | Kind::Isolate | Kind::IsolateOneWay | Kind::Delay => {
            let lasts_ms = 500 + prng.below(6_500);
            let state = match kind {
                Kind::Delay => LinkState::Delay(1 + prng.below(DELAY_MAX_MS)),
                _ => LinkState::Cut,
            };
            let touched = touched(prng, kind, nodes, node, other);
            for (from, to) in &touched {
                step(0, Action::Link(*from, *to, state));
            }
            for (from, to) in &touched {
                step(lasts_ms, Action::Link(*from, *to, LinkState::Open));
            }
            lasts_ms
        }
    };
    let of_one = matches!(kind, Kind::Kill | Kind::Pause | Kind::Stop).then_some(node);
    let fault = Fault { kind, node: of_one, from_ms: at_ms, until_ms: at_ms + lasts_ms };
    plan.steps.extend(steps);
    plan.faults.push(fault.clone());
    fault
}

/// The links a fault is about, as pairs of sender and receiver.
fn touched(
    prng: &mut Prng,
    kind: Kind,
    nodes: usize,
    node: usize,
    other: usize,
) -> Vec<(usize, usize)> {
    let out = || (0..nodes).filter(move |n| *n != node).map(move |n| (node, n));
    let back = |(from, to): (usize, usize)| (to, from);
    match kind {
        Kind::Cut => vec![(node, other), (other, node)],
        Kind::CutOneWay => vec![(node, other)],
        Kind::IsolateOneWay if prng.chance(1, 2) => out().collect(),
        Kind::IsolateOneWay => out().map(back).collect(),
        Kind::Delay if prng.chance(1, 2) => (0..nodes)
            .flat_map(|a| (0..nodes).map(move |b| (a, b)))
            .filter(|(a, b)| a != b)
            .collect(),
        _ => out().chain(out().map(back)).collect(),
    }
}

fn choose(prng: &mut Prng, fits: impl Fn(Kind) -> bool) -> Kind {
    let fitting = || Kind::ALL.into_iter().filter(|kind| fits(*kind));
    let mut at = prng.below(fitting().map(Kind::weight).sum());
    for kind in fitting() {
        match at.checked_sub(kind.weight()) {
            Some(rest) => at = rest,
            None => return kind,
        }
    }
    unreachable!("the draw is below the sum of the weights")
}

fn other_than(prng: &mut Prng, nodes: usize, taken: Option<usize>) -> usize {
    let free: Vec<usize> = (0..nodes).filter(|node| Some(*node) != taken).collect();
    free[prng.below(free.len() as u64) as usize]
}

fn between(prng: &mut Prng, (least, most): (u64, u64)) -> u64 {
    least + prng.below(most - least + 1)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn plans() -> impl Iterator<Item = (usize, Plan)> {
        (0..400).flat_map(|seed| NODES.map(|nodes| (nodes, Plan::new(seed, nodes, 120_000))))
    }

    #[test]
    fn a_seed_is_one_schedule() {
        assert_eq!(Plan::new(7, 3, 60_000), Plan::new(7, 3, 60_000));
        assert_ne!(Plan::new(7, 3, 60_000).steps, Plan::new(8, 3, 60_000).steps);
    }

    #[test]
    fn every_kind_comes_and_alone_as_well_as_in_pairs() {
        let mut kinds = BTreeSet::new();
        let (mut alone, mut paired) = (0, 0);
        for (_, plan) in plans() {
            kinds.extend(plan.faults.iter().map(|fault| fault.kind));
            for fault in &plan.faults {
                let others = plan.faults.iter().filter(|o| overlap(fault, o)).count() - 1;
                assert!(others <= 1, "{:?}", plan.faults);
                *(if others == 0 { &mut alone } else { &mut paired }) += 1;
            }
        }
        assert_eq!(kinds.len(), Kind::ALL.len());
        assert!(alone > 1_000 && paired > 1_000);
    }

    fn overlap(a: &Fault, b: &Fault) -> bool {
        a.from_ms <= b.until_ms && b.from_ms <= a.until_ms
    }

    #[test]
    fn there_is_calm_between_rounds_and_nothing_behind_the_end() {
        for (_, plan) in plans() {
            assert!(plan.steps.iter().all(|step| step.at_ms <= 120_000));
            assert!(plan.steps.is_sorted_by_key(|step| step.at_ms));
            let mut busy_until = 0;
            let mut faults = plan.faults.clone();
            faults.sort_by_key(|fault| fault.from_ms);
            let mut first_of_round = 0;
            for fault in faults {
                if fault.from_ms >= busy_until + CALM_MS.0 {
                    first_of_round = fault.from_ms;
                }
                assert!(fault.from_ms - first_of_round < SECOND_AFTER_MAX_MS);
                busy_until = busy_until.max(fault.until_ms);
            }
        }
    }

    /// Takes the steps in thought: each must be possible, and in the end nothing is left broken.
    #[test]
    fn every_step_is_possible_and_everything_heals() {
        for (nodes, plan) in plans() {
            let (mut down, mut frozen) = (BTreeMap::new(), BTreeMap::new());
            let mut links = BTreeMap::new();
            for step in &plan.steps {
                match step.action {
                    Action::Kill(n) | Action::Terminate(n) => {
                        assert!(n < nodes && !frozen.contains_key(&n));
                        assert_eq!(down.insert(n, step.at_ms), None);
                    }
                    Action::Start(n) => assert!(down.remove(&n).is_some()),
                    Action::Await(n) => assert!(!down.contains_key(&n)),
                    Action::Freeze(n) => {
                        assert!(n < nodes && !down.contains_key(&n));
                        assert_eq!(frozen.insert(n, step.at_ms), None);
                    }
                    Action::Thaw(n) => {
                        let since = frozen.remove(&n).unwrap();
                        assert!(step.at_ms - since <= PAUSE_MAX_MS);
                    }
                    Action::Link(a, b, state) => {
                        assert!(a != b && a < nodes && b < nodes);
                        match state {
                            LinkState::Open => assert!(links.remove(&(a, b)).is_some()),
                            LinkState::Delay(ms) => {
                                assert!((1..=DELAY_MAX_MS).contains(&ms));
                                assert_eq!(links.insert((a, b), state), None);
                            }
                            LinkState::Cut => assert_eq!(links.insert((a, b), state), None),
                        }
                    }
                    Action::Reset(a, b) => assert!(a != b && a < nodes && b < nodes),
                }
            }
            assert!(down.is_empty() && frozen.is_empty() && links.is_empty());
        }
    }

    #[test]
    fn each_fault_has_one_step_that_begins_it() {
        for (_, plan) in plans() {
            let mut begun: Vec<Kind> = plan.steps.iter().filter_map(|step| step.begins).collect();
            let mut planned: Vec<Kind> = plan.faults.iter().map(|fault| fault.kind).collect();
            begun.sort();
            planned.sort();
            assert_eq!(begun, planned);
        }
    }
}
