//! What goes wrong, and when: at any time, or just behind a step of the protocol.
//!
//! Most violations need something to happen between one step and the next: a process that dies
//! with its promise not yet durable, a leader that is cut off while its successor is chosen. A seed
//! picks some of the steps and some of what can happen, and lets it happen there often.

use ironring_core::prng::Prng;

use super::plan::{any_length, every, one_of};
use crate::sim::profile::Trouble;

/// A step of the protocol, behind which something may happen to who took it, or to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A replica has promised a term, in memory.
    Promises,
    /// A voter answers Fence.
    Answers,
    /// A follower acks entries.
    Acks,
    /// A follower cuts its log.
    Cuts,
    /// A replica empties its log for a new life.
    Adopts,
    /// A leader begins its term.
    StartsTerm,
    /// A leader has committed the beginning of its term.
    Serves,
    /// A leader has committed something.
    Commits,
    /// A leader asks for other voters.
    Proposes,
    /// A leader names its successor.
    HandsOver,
    /// Metadata took a new term; it was the last leader's turn.
    ElectionBegins,
    /// Metadata named a leader.
    ElectionEnds,
    /// Metadata know other voters, or refused them; it is the leader's turn.
    VotersDecided,
}

/// All of them, and how rare each is.
const MOMENTS: [(Moment, u64); 13] = [
    (Moment::Promises, 1),
    (Moment::Answers, 1),
    (Moment::Acks, 10),
    (Moment::Cuts, 1),
    (Moment::Adopts, 1),
    (Moment::StartsTerm, 1),
    (Moment::Serves, 1),
    (Moment::Commits, 5),
    (Moment::Proposes, 2),
    (Moment::HandsOver, 1),
    (Moment::ElectionBegins, 1),
    (Moment::ElectionEnds, 1),
    (Moment::VotersDecided, 1),
];

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A process dies, and starts again soon or late.
    Crash,
    /// About every other process dies.
    Outage,
    /// A process stands still.
    Pause,
    /// A node loses links.
    Isolate,
    /// Links change in another way around a node, and what belongs to that: see
    /// [`Nemesis::round`].
    Round,
    /// A disk becomes slow, or fast again.
    Disk,
    /// Somebody orders an election.
    Elect,
    /// Another controller takes over.
    Controller,
    /// Clients write to whoever leads.
    Burst,
    /// Somebody asks the leader to hand over.
    HandOver,
    /// Other replicas are asked for, or nodes are drained.
    Operate,
    /// A connection is made again.
    Reconnect,
    /// A disk is replaced by an empty one.
    Wipe,
    /// A log loses what is in its middle.
    Damage,
}

/// What makes a difference just behind a step.
const SHARP: [Action; 7] = [
    Action::Crash,
    Action::Crash,
    Action::Crash,
    Action::Isolate,
    Action::Round,
    Action::Pause,
    Action::Elect,
];

/// Whom it happens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// Who took the step; anybody at other times.
    Actor,
    /// Somebody who leads the partition, or believes so.
    Leader,
    /// Anybody.
    Anybody,
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug)]
pub struct Strike {
    /// What.
    pub action: Action,
    /// To whom.
    pub victim: Victim,
    /// Before what the actor sends in this turn leaves it.
    pub unheard: bool,
}

/// Who decides what goes wrong in one seed.
#[derive(Debug)]
pub struct Nemesis {
    /// Strikes of 1000, by moment.
    moments: Vec<(Moment, u64)>,
    /// Strikes of 1000 ticks.
    any_time: u64,
    actions: Vec<Action>,
    /// What happens behind moments.
    sharp: Vec<Action>,
    /// A round takes about so long, and the next begins; or there are none.
    pub rounds_ns: Option<u64>,
    /// How long an election takes at most, when nothing goes wrong.
    pub election_ns: u64,
    /// Of 1000 nodes that die in such a round.
    pub dies: u64,
    /// How long what is wrong lasts, at most.
    pub lasts_ns: u64,
    /// How long a process is dead, at most.
    pub dead_ns: u64,
}

impl Nemesis {
    /// That of one seed. Times are measured in elections: so long one takes at most when nothing
    /// goes wrong.
    pub fn draw(trouble: Trouble, election_ns: u64, rng: &mut Prng) -> Nemesis {
        let gentle = [Action::Elect, Action::HandOver, Action::Operate, Action::Reconnect];
        let rough = [
            Action::Crash,
            Action::Outage,
            Action::Pause,
            Action::Isolate,
            Action::Round,
            Action::Round,
            Action::Disk,
            Action::Controller,
        ];
        let mut actions: Vec<Action> = Vec::new();
        let calm = trouble == Trouble::Calm;
        let possible = gentle.iter().chain(rough.iter().filter(|_| !calm));
        let possible: Vec<Action> = possible.copied().collect();
        // A few at a time: too many at once, and nothing goes on that could go wrong.
        for _ in 0..1 + rng.below(4) {
            actions.push(one_of(rng, &possible));
        }
        if trouble == Trouble::Corruption {
            // As often as all others together.
            let silent: &[Action] =
                one_of(rng, &[&[Action::Wipe], &[Action::Damage], &[Action::Wipe, Action::Damage]]);
            for _ in 0..actions.len() {
                actions.push(one_of(rng, silent));
            }
        }
        let mut moments = Vec::new();
        let mut sharp = Vec::new();
        if !calm {
            let busy = rng.chance(3, 4);
            for (moment, rare) in MOMENTS {
                if busy && rng.chance(2, 5) {
                    moments.push((moment, one_of(rng, &[50, 200, 600]) / rare));
                }
            }
            for _ in 0..1 + rng.below(2) {
                sharp.push(one_of(rng, &SHARP));
            }
        }
        Nemesis {
            moments,
            any_time: every(election_ns, rng, if calm { &[10] } else { &[1, 4, 16] }),
            actions,
            sharp,
            rounds_ns: (!calm && rng.chance(3, 4))
                .then(|| election_ns * one_of(rng, &[2, 3, 6]) / 2),
            election_ns,
            dies: one_of(rng, &[0, 300, 600]),
            lasts_ns: election_ns * one_of(rng, &[1, 2, 4]),
            dead_ns: one_of(rng, &[election_ns / 20, election_ns / 5, 2 * election_ns]),
        }
    }

    /// One round follows the other, and somebody dies at the steps of an election.
    pub fn duels(&mut self, election_ns: u64, rng: &mut Prng) {
        self.election_ns = election_ns;
        self.rounds_ns = Some(election_ns * one_of(rng, &[2, 3, 5]) / 2);
        self.dies = one_of(rng, &[0, 200, 500]);
        self.dead_ns = one_of(rng, &[election_ns / 20, election_ns / 5, election_ns]);
        self.any_time = 0;
        let steps = [Moment::Promises, Moment::Answers, Moment::StartsTerm, Moment::Serves];
        self.moments = draw_moments(&steps, rng);
        self.sharp = vec![one_of(rng, &SHARP)];
    }

    /// Whoever proposes or hands over is cut off or dies before it knows the outcome.
    pub fn changes(&mut self, rng: &mut Prng) {
        self.rounds_ns = None;
        self.any_time = one_of(rng, &[0, 5, 20]);
        let steps = [Moment::Proposes, Moment::VotersDecided, Moment::HandsOver, Moment::Commits];
        self.moments = draw_moments(&steps, rng);
        self.sharp = vec![one_of(rng, &[Action::Round, Action::Round, Action::Crash])];
    }

    /// Whether something happens behind a step.
    pub fn behind(&self, moment: Moment, rng: &mut Prng) -> Option<Strike> {
        let (_, rate) = self.moments.iter().find(|(known, _)| *known == moment)?;
        rng.chance(*rate, 1000).then(|| strike(&self.sharp, rng))
    }

    /// Whether something happens in a tick.
    pub fn any_time(&self, rng: &mut Prng) -> Option<Strike> {
        rng.chance(self.any_time, 1000).then(|| strike(&self.actions, rng))
    }

    /// What happens in a round in which links have changed: somebody else is to lead, clients go on
    /// writing to whoever believes to lead, and some that vote die. When, and to which node.
    pub fn round(&self, nodes: usize, rng: &mut Prng) -> Vec<(u64, Strike, usize)> {
        let election_ns = self.election_ns;
        let mut all = Vec::new();
        let mut add = |after, action, node| {
            all.push((after, Strike { action, victim: Victim::Actor, unheard: false }, node));
        };
        let elected = any_length(rng, 2 * election_ns);
        if rng.chance(3, 4) {
            add(elected, Action::Elect, 0);
        }
        for _ in 0..rng.below(4) {
            let after = if rng.chance(2, 3) { elected } else { 0 };
            add(after + any_length(rng, 2 * election_ns), Action::Burst, 0);
        }
        for node in 0..nodes {
            if rng.chance(self.dies, 1000) {
                let after = if rng.chance(1, 2) { elected } else { 0 };
                add(after + any_length(rng, 2 * election_ns), Action::Crash, node);
            }
        }
        all
    }
}

fn draw_moments(of: &[Moment], rng: &mut Prng) -> Vec<(Moment, u64)> {
    let rare = |moment| MOMENTS.iter().find(|(m, _)| *m == moment).map_or(1, |(_, rare)| *rare);
    let mut drawn: Vec<(Moment, u64)> = Vec::new();
    for moment in of {
        if rng.chance(1, 2) {
            drawn.push((*moment, one_of(rng, &[50, 200, 600]) / rare(*moment)));
        }
    }
    drawn
}

fn strike(actions: &[Action], rng: &mut Prng) -> Strike {
    Strike {
        action: one_of(rng, actions),
        victim: one_of(
            rng,
            &[Victim::Actor, Victim::Actor, Victim::Actor, Victim::Leader, Victim::Anybody],
        ),
        unheard: rng.chance(1, 3),
    }
}
