//! A model of the replication protocol of one partition, for `stateright` to search.
//!
//! It is the protocol's rules and nothing of the product's code: replicas with disks that forget
//! what was not fsynced, messages that arrive late, again or never, a metadata group that is one
//! register, clocks within the promised drift. Each rule can be taken out ([`rules::Rule`]), and
//! each then has a world in which an invariant breaks ([`scenarios`]).
//!
//! Invariants of the model itself: a step depends on the state and the action alone; an action that
//! cannot happen changes nothing; no message leaves the network, so loss is a message that nobody
//! delivers and duplication one that somebody delivers twice. A search that is to see everything
//! forgets the messages that can change nothing any more (`reduce`).

mod actions;
mod bounds;
mod controller;
mod leader;
mod leases;
mod log;
mod properties;
mod reduce;
mod replica;
mod rules;
pub mod scenarios;
pub mod search;
mod sessions;
mod snapshots;
mod state;
pub mod table;
pub mod worlds;

use stateright::{Model, Property};

pub use actions::{Action, Kept};
pub use bounds::{Bounds, FAST, SLOW};
pub use log::{Entry, Log};
pub use properties::{Broken, Invariant};
pub use rules::{Rule, Rules};
pub use state::{Message, Record, Replica, State, Uuids};

/// Which steps of a world are taken; the others are as if they never happened.
pub type Allowed = fn(&State, &Action) -> bool;

/// The protocol in one world.
#[derive(Clone, Debug)]
pub struct ReplicationModel {
    /// How large it is.
    pub bounds: Bounds,
    /// The rules that are followed.
    pub rules: Rules,
    /// Where it begins.
    pub start: State,
    /// Which steps are taken.
    pub allowed: Allowed,
    /// An invariant that is not looked at, to see what else breaks.
    pub blind_to: Option<Invariant>,
    /// Whether steps that change nothing are left out before one is chosen, as a walk needs it.
    pub walks: bool,
    /// Whether what can have no effect any more is forgotten; only with every rule.
    pub reduces: bool,
}

impl ReplicationModel {
    /// A partition just created, led by node 0.
    pub fn new(bounds: Bounds, rules: Rules) -> Self {
        let record = Record {
            term: 1,
            leader: Some(0),
            last_leader: None,
            version: 1,
            voters: bounds.voters,
            dropped: Uuids::default(),
            refused: false,
        };
        let replica = |uuid| Replica { uuid, ..Replica::default() };
        let start = State {
            replicas: (0..bounds.nodes).map(replica).collect(),
            network: state::Network::default(),
            records: vec![record],
            elections: Vec::new(),
            used: state::Used::default(),
            observer: state::Observer::default(),
        };
        ReplicationModel {
            bounds,
            rules,
            start,
            allowed: |_, _| true,
            blind_to: None,
            walks: false,
            reduces: false,
        }
    }

    /// `state` after `action`, or none where it changes nothing.
    pub fn after(&self, state: &State, action: &Action) -> Option<State> {
        let mut next = state.clone();
        self.step(&mut next, action);
        if next == *state {
            return None;
        }
        properties::judge(self, &mut next);
        if self.reduces {
            self.reduce(&mut next);
            if next == *state {
                return None;
            }
        }
        if let Some(invariant) = self.blind_to {
            next.observer.broken.forget(invariant);
        }
        Some(next)
    }
}

impl Model for ReplicationModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.start.clone()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        // What is broken stays broken: there is nothing to learn behind it.
        if !state.observer.broken.is_none() {
            return;
        }
        self.possible(state, actions);
        actions.retain(|action| (self.allowed)(state, action));
        if self.walks {
            actions.retain(|action| self.after(state, action).is_some());
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.after(state, &action)
    }

    fn properties(&self) -> Vec<Property<ReplicationModel>> {
        properties::properties()
    }
}
