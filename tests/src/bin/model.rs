//! Searches the model of the replication protocol: one world, with or without a rule.

use std::num::NonZeroUsize;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use ironring_tests::model::search::{self, Outcome};
use ironring_tests::model::{ReplicationModel, Rule, Rules, scenarios, table, worlds};

/// Searches the model of replication.md.
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Names the worlds and the rules.
    List,
    /// Prints what breaks without each rule, as docs/replication-model.md has it.
    Table,
    /// Searches one world.
    World {
        /// Its name.
        name: String,
        /// The rule that is left out.
        #[arg(long, value_parser = parse_rule)]
        without: Option<Rule>,
        /// How it is searched.
        #[arg(long, value_enum, default_value_t = How::Everything)]
        how: How,
        #[command(flatten)]
        limits: Limits,
    },
    /// Searches the world in which a rule is needed, without it.
    Without {
        /// The rule.
        #[arg(value_parser = parse_rule)]
        rule: Rule,
        /// Leave the rule in: nothing breaks.
        #[arg(long)]
        keep: bool,
        #[command(flatten)]
        limits: Limits,
    },
}

#[derive(Clone, Debug, clap::Args)]
struct Limits {
    /// States after which a search gives up.
    #[arg(long, default_value = "20000000")]
    states_max: NonZeroUsize,
    /// Steps after which a walk begins anew.
    #[arg(long, default_value = "120")]
    depth_max: NonZeroUsize,
    /// What a walk's choices come from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Changes a bound of the world, as in `terms=4`; may be given again.
    #[arg(long = "bound", value_parser = parse_bound)]
    bounds: Vec<(String, u8)>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum How {
    /// See every state.
    Everything,
    /// Look for a short way to something broken.
    Shortest,
    /// Walk at random.
    Walk,
    /// See everything twice, once without forgetting what can have no effect, and compare.
    Alike,
}

fn parse_rule(text: &str) -> Result<Rule, String> {
    let known = Rule::ALL.iter().find(|rule| rule.name() == text);
    known.copied().ok_or_else(|| format!("no rule `{text}`"))
}

fn parse_bound(text: &str) -> Result<(String, u8), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=NUMBER")?;
    let value = value.parse().map_err(|e| format!("`{value}`: {e}"))?;
    Ok((name.to_owned(), value))
}

fn report(outcome: &Outcome) -> ExitCode {
    let cut = if outcome.cut { " (cut)" } else { "" };
    println!("{} states{cut}, {} steps deep", outcome.states, outcome.depth);
    let Some((invariant, steps)) = &outcome.broken else {
        println!("nothing breaks");
        return ExitCode::SUCCESS;
    };
    println!("broken: {}", invariant.words());
    for (at, step) in steps.iter().enumerate() {
        println!("{:4}  {step:?}", at + 1);
    }
    ExitCode::FAILURE
}

fn main() -> ExitCode {
    match Options::parse().what {
        What::List => {
            for world in worlds::small().iter().chain(&worlds::medium()).chain(&worlds::large()) {
                println!("world {}", world.name);
            }
            for rule in Rule::ALL {
                println!("rule {}: {}", rule.name(), rule.says());
            }
            ExitCode::SUCCESS
        }
        What::Table => {
            table::rows().iter().for_each(|row| println!("{row}"));
            ExitCode::SUCCESS
        }
        What::World { name, without, how, limits } => {
            let Some(mut world) = worlds::named(&name) else {
                eprintln!("no world `{name}`: `model list` names them");
                return ExitCode::FAILURE;
            };
            for (name, value) in &limits.bounds {
                if !world.bounds.set(name, *value) {
                    eprintln!("no bound `{name}`");
                    return ExitCode::FAILURE;
                }
            }
            let rules = without.map_or(Rules::all(), |rule| Rules::all().without(rule));
            let model = ReplicationModel::new(world.bounds, rules);
            report(&match how {
                How::Alike => {
                    let Some(states) = search::states_alike(model) else {
                        eprintln!("what is forgotten has an effect");
                        return ExitCode::FAILURE;
                    };
                    println!("{states} states, whether or not the others are forgotten");
                    return ExitCode::SUCCESS;
                }
                How::Everything => search::everything(model, limits.states_max),
                How::Shortest => search::shortest(model, limits.states_max),
                How::Walk => search::walk(model, limits.seed, limits.depth_max, limits.states_max),
            })
        }
        What::Without { rule, keep, limits } => {
            let rules = if keep { Rules::all() } else { scenarios::rules_without(rule) };
            report(&search::shortest(scenarios::world(rule, rules), limits.states_max))
        }
    }
}
