//! What breaks without each rule, in lines of a table; the documentation holds the same lines.

use std::num::NonZeroUsize;

use super::rules::Rule;
use super::scenarios::{self, Need};
use super::search::{self, Outcome};

/// States after which the search for what a missing rule breaks gives up.
pub const STATES_MAX: NonZeroUsize = NonZeroUsize::new(200_000).expect("it is not zero");

/// Looks for what breaks without `rule`.
pub fn without(rule: Rule) -> Outcome {
    let rules = scenarios::rules_without(rule);
    search::shortest(scenarios::world(rule, rules), STATES_MAX)
}

/// The line of `rule`, of which `outcome` is what was found.
pub fn row(rule: Rule, outcome: &Outcome) -> String {
    let found = match (&outcome.broken, scenarios::need(rule)) {
        (Some((invariant, steps)), Need::With(other)) => {
            let (number, steps) = (invariant.number(), steps.len());
            format!("{number}, in {steps} steps, once `{}` is missing too", other.name())
        }
        (Some((invariant, steps)), _) => {
            format!("{}, in {} steps", invariant.number(), steps.len())
        }
        (None, Need::NotForSafety(reason)) => format!("nothing: {reason}"),
        (None, _) => "nothing found".to_owned(),
    };
    format!("| {} | `{}` | {} | {found} |", rule.section(), rule.name(), rule.says())
}

/// Every rule's line.
pub fn rows() -> Vec<String> {
    Rule::ALL.iter().map(|rule| row(*rule, &without(*rule))).collect()
}
