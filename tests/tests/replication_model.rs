//! The replication protocol, searched: with all of its rules nothing breaks, and without any one of
//! them something does. `IRONRING_MODEL=large` searches worlds that take many minutes too.

use std::num::NonZeroUsize;

use ironring_tests::model::scenarios::{self, Need};
use ironring_tests::model::search::{self, Outcome};
use ironring_tests::model::{Action, Bounds, Kept, ReplicationModel, Rule, Rules, table, worlds};

const STATES_MAX: NonZeroUsize = NonZeroUsize::new(100_000_000).unwrap();
const WALK_DEPTH_MAX: NonZeroUsize = NonZeroUsize::new(150).unwrap();
/// The documentation has the table that this test finds.
const DOCUMENT: &str = include_str!("../../docs/replication-model.md");

fn large() -> bool {
    std::env::var("IRONRING_MODEL").is_ok_and(|value| value == "large")
}

fn assert_holds(name: &str, outcome: &Outcome) {
    let Some((invariant, steps)) = &outcome.broken else { return };
    let steps: Vec<String> = steps.iter().map(|step| format!("  {step:?}")).collect();
    panic!("{name} breaks {}\n{}", invariant.words(), steps.join("\n"));
}

#[test]
fn nothing_breaks_in_any_state_of_a_small_world() {
    let more = if large() { worlds::medium() } else { Vec::new() };
    for world in worlds::small().into_iter().chain(more) {
        let outcome =
            search::everything(ReplicationModel::new(world.bounds, Rules::all()), STATES_MAX);
        assert_holds(world.name, &outcome);
        assert!(!outcome.cut, "{} is too large to be seen to the end", world.name);
        println!("{}: {} states", world.name, outcome.states);
    }
}

#[test]
fn what_is_forgotten_in_small_worlds_has_no_effect() {
    for world in worlds::tiny() {
        let model = ReplicationModel::new(world.bounds, Rules::all());
        let alike = search::states_alike(model.clone());
        let seen = search::everything(model, STATES_MAX).states;
        assert_eq!(alike, Some(seen), "{}", world.name);
    }
}

#[test]
fn nothing_breaks_on_walks_through_large_worlds() {
    let (seeds, states) = if large() { (20, 500_000) } else { (1, 2_000) };
    for world in worlds::large() {
        for seed in 1..=seeds {
            let model = ReplicationModel::new(world.bounds.clone(), Rules::all());
            let states = NonZeroUsize::new(states).unwrap();
            let outcome = search::walk(model, seed, WALK_DEPTH_MAX, states);
            assert_holds(&format!("{}, seed {seed},", world.name), &outcome);
        }
    }
}

#[test]
fn a_leader_that_answers_fence_itself_is_elected_without_a_wait() {
    let alone = Bounds { ticks: 1, rounds: 1, crashes: 1, ..Bounds::quiet(1, &[0]) };
    let model = ReplicationModel::new(alone, Rules::all());
    let steps = [
        Action::Hear { node: 0, record: 0 },
        Action::Fsync { node: 0 },
        Action::Probe { node: 0 },
        Action::Crash { node: 0, kept: Kept::Below(1) },
        Action::TakeTerm { record: 0 },
        Action::AnswerFence { node: 0, election: 0 },
        Action::Elect { election: 0, winner: 0 },
        Action::Hear { node: 0, record: 2 },
    ];
    let state = steps.iter().fold(model.start.clone(), |state, step| {
        model.after(&state, step).unwrap_or_else(|| panic!("{step:?} changes nothing: {state:?}"))
    });
    assert!(state.replicas[0].leader.is_some(), "{state:?}");
    assert_eq!(state.used.ticks, 0, "no time has passed");
}

#[test]
fn without_any_one_rule_something_breaks() {
    let mut unlike = Vec::new();
    for rule in Rule::ALL {
        let outcome = table::without(*rule);
        let breaks = outcome.broken.is_some();
        let should = !matches!(scenarios::need(*rule), Need::NotForSafety(_));
        assert_eq!(breaks, should, "without {}: {outcome:?}", rule.name());
        let row = table::row(*rule, &outcome);
        if !DOCUMENT.lines().any(|line| line == row) {
            unlike.push(row);
        }
    }
    assert!(unlike.is_empty(), "docs/replication-model.md lacks:\n{}", unlike.join("\n"));
}

#[test]
fn a_rule_that_another_stands_in_for_breaks_nothing_alone() {
    for rule in Rule::ALL {
        if let Need::With(_) = scenarios::need(*rule) {
            let model = scenarios::world(*rule, Rules::all().without(*rule));
            let outcome = search::shortest(model, table::STATES_MAX);
            assert_holds(rule.name(), &outcome);
        }
    }
}

#[test]
fn the_worlds_that_break_without_a_rule_begin_unbroken_with_it() {
    for rule in Rule::ALL {
        for rules in [Rules::all(), scenarios::rules_without(*rule)] {
            let start = scenarios::world(*rule, rules).start;
            assert!(start.observer.broken.is_none(), "{}: {start:?}", rule.name());
        }
    }
}
