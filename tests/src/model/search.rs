//! Searching a world with `stateright`: all of it, until something breaks, or by random walks.

use std::collections::HashSet;
use std::num::NonZeroUsize;

use ironring_core::prng::Prng;
use stateright::{Checker, Chooser, HasDiscoveries, Model};

use super::{Action, Invariant, ReplicationModel, Rules, State, reduce};

/// What a search found.
#[derive(Debug)]
pub struct Outcome {
    /// States seen; on a walk, those seen again count again.
    pub states: usize,
    /// Steps of the longest way from the beginning.
    pub depth: usize,
    /// What broke, and by which steps.
    pub broken: Option<(Invariant, Vec<Action>)>,
    /// The search was cut before it had seen everything.
    pub cut: bool,
}

fn outcome(checker: &impl Checker<ReplicationModel>, cut: bool) -> Outcome {
    let found = checker.discoveries().into_values().map(|path| {
        shrink(checker.model(), path.into_actions()).expect("a discovery is a way to what broke")
    });
    let broken = found.min_by_key(|(invariant, steps)| (steps.len(), invariant.number()));
    let states = checker.unique_state_count();
    Outcome { states, depth: checker.max_depth(), broken, cut }
}

/// What `steps` break, if each of them can be taken where its turn comes.
fn replay(model: &ReplicationModel, steps: &[Action]) -> Option<Invariant> {
    let mut state = model.start.clone();
    let mut possible = Vec::new();
    for step in steps {
        possible.clear();
        model.actions(&state, &mut possible);
        if !possible.contains(step) {
            return None;
        }
        state = model.after(&state, step)?;
    }
    state.observer.broken.first()
}

/// `steps` without each that can be left out. stateright keeps the last way it found among many
/// of about the same length, not the shortest.
fn shrink(model: &ReplicationModel, steps: Vec<Action>) -> Option<(Invariant, Vec<Action>)> {
    let mut kept = steps;
    let mut broken = replay(model, &kept)?;
    let mut at = kept.len();
    while at > 0 {
        at -= 1;
        let mut fewer = kept.clone();
        fewer.remove(at);
        if let Some(still) = replay(model, &fewer) {
            (broken, kept) = (still, fewer);
            at = kept.len();
        }
    }
    Some((broken, kept))
}

/// Looks for a short way to something broken, in about `states_max` steps of the search.
pub fn shortest(model: ReplicationModel, states_max: NonZeroUsize) -> Outcome {
    let search = model.checker().finish_when(HasDiscoveries::AnyFailures);
    let checker = search.target_state_count(states_max.get()).spawn_bfs().join();
    let cut = checker.state_count() >= states_max.get();
    outcome(&checker, cut)
}

/// Sees every state there is, unless one is broken or there are more than `steps_max` steps. With
/// every rule, states that differ in nothing that can have an effect are seen once.
pub fn everything(model: ReplicationModel, steps_max: NonZeroUsize) -> Outcome {
    let reduces = model.rules == Rules::all();
    let alike = reduces && model.bounds.nodes > 2 && model.bounds.are_alike();
    let model = ReplicationModel { reduces, ..model };
    let search = model.checker().finish_when(HasDiscoveries::AnyFailures);
    let search = search.target_state_count(steps_max.get());
    let search = if alike { search.symmetry_fn(reduce::representative) } else { search };
    let checker = search.spawn_dfs().join();
    let cut = checker.state_count() >= steps_max.get();
    outcome(&checker, cut)
}

/// What each state of `model` comes to, seen to the end by a search of the plainest kind.
fn reached<T: Eq + std::hash::Hash>(
    model: &ReplicationModel,
    comes_to: impl Fn(&State) -> T,
) -> HashSet<T> {
    let mut seen = HashSet::from([model.start.clone()]);
    let mut pending = vec![model.start.clone()];
    let mut found = HashSet::new();
    let mut possible = Vec::new();
    while let Some(state) = pending.pop() {
        found.insert(comes_to(&state));
        possible.clear();
        model.actions(&state, &mut possible);
        let next = possible.iter().filter_map(|action| model.after(&state, action));
        for state in next {
            if seen.insert(state.clone()) {
                pending.push(state);
            }
        }
    }
    found
}

/// How many states a world has when what can have no effect is forgotten; none where that makes
/// another world of it. The world is seen to the end both ways.
pub fn states_alike(model: ReplicationModel) -> Option<usize> {
    let reduced = ReplicationModel { reduces: true, ..model.clone() };
    let forgotten = |state: &State| {
        let mut state = state.clone();
        reduced.reduce(&mut state);
        if model.bounds.are_alike() { reduce::representative(&state) } else { state }
    };
    let whole = reached(&model, forgotten);
    let short = reached(&reduced, forgotten);
    (whole == short).then_some(short.len())
}

/// Walks at random until `states_max` states were seen, each walk no longer than `depth_max`.
pub fn walk(
    model: ReplicationModel,
    seed: u64,
    depth_max: NonZeroUsize,
    states_max: NonZeroUsize,
) -> Outcome {
    let reduces = model.rules == Rules::all();
    let model = ReplicationModel { walks: true, reduces, ..model };
    let search = model.checker().finish_when(HasDiscoveries::AnyFailures);
    let search = search.target_max_depth(depth_max.get()).target_state_count(states_max.get());
    outcome(&search.spawn_simulation(seed, ByKind).join(), true)
}

/// How often a walk takes a step of this kind, if there are any, against one of another. What makes
/// progress is more frequent than trouble, of which the bounds allow little.
fn weight(action: &Action) -> u64 {
    match action {
        Action::Deliver(_) => 12,
        Action::Send { .. } | Action::Fsync { .. } => 6,
        Action::Hear { .. } | Action::AnswerFence { .. } | Action::Elect { .. } => 4,
        Action::Write { .. } => 3,
        _ => 1,
    }
}

/// Chooses a kind of step by its weight, then one of the kind; the same for the same seed, whatever
/// `rand` does. Of all steps alike nearly every one would be another delivery of an old message.
#[derive(Clone)]
struct ByKind;

impl Chooser<ReplicationModel> for ByKind {
    type State = Prng;

    fn new_state(&self, seed: u64) -> Prng {
        Prng::new(seed)
    }

    fn choose_initial_state(&self, prng: &mut Prng, states: &[State]) -> usize {
        prng.below(states.len() as u64) as usize
    }

    fn choose_action(&self, prng: &mut Prng, _: &State, actions: &[Action]) -> usize {
        let kind = |at: &usize| std::mem::discriminant(&actions[*at]);
        let mut kinds: Vec<usize> = Vec::new();
        for at in 0..actions.len() {
            if kinds.iter().all(|known| kind(known) != kind(&at)) {
                kinds.push(at);
            }
        }
        let mut left = prng.below(kinds.iter().map(|at| weight(&actions[*at])).sum());
        let chosen = kinds.iter().find(|at| {
            let taken = left < weight(&actions[**at]);
            left = left.saturating_sub(weight(&actions[**at]));
            taken
        });
        let chosen = chosen.expect("what is left is less than the sum of the weights");
        let alike = (0..actions.len()).filter(|at| kind(at) == kind(chosen));
        let alike: Vec<usize> = alike.collect();
        alike[prng.below(alike.len() as u64) as usize]
    }
}
