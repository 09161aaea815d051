//! What the controller, the leader of the metadata group, decides.
//!
//! [`Controller`] is a pure state machine over the committed [`Metadata`]. A new leader of the group
//! makes a new one: nothing in it has to survive, because every step it takes is a conditional
//! commit, and [`Controller::step`] works out what is to be done from the state there is, never
//! from what was planned. It works in rounds: nodes that are silent, elections, moves of replicas,
//! balance of leaders.
//!
//! - [`liveness`]: which nodes are heard. It only suggests; commits decide.
//! - [`election`]: one partition's election; [`elections`]: all that are under way.
//! - [`moves`]: replicas that come and go.

pub mod election;
mod elections;
mod liveness;
mod moves;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ironring_core::{Incarnation, Instant, NodeId, Offset, PartitionId, Term, WallTime};

pub use election::{Decision, Election};
pub use moves::{Planned, Planning, dry_run, observes, places_beside, takes_replicas};

use crate::metadata::{
    Command, Metadata, Outcome, PartitionRecord, ReplicaChange, ReplicaId, Wish,
};
use crate::replication::quorum::commit_quorum;
use crate::replication::{Fence, FenceAnswer, Request};
use elections::Elections;
use liveness::Liveness;

/// How patient a controller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A node that is silent for so long loses its leaderships.
    pub leader_timeout: Duration,
    /// A node that is silent for so long is dead, for people and for placement.
    pub session_timeout: Duration,
    /// What a dead node held is rebuilt elsewhere after so long more.
    pub rebalance_grace: Duration,
    /// How often a voter that has not answered is fenced again.
    pub fence_again: Duration,
    /// An election that finds no quorum for so long is begun again.
    pub election_patience: Duration,
    /// How often replicas and leaders are looked at for balance.
    pub balance_every: Duration,
    /// Moves under way at a time.
    pub moves_max: usize,
    /// Leaderships asked to be handed over at a time.
    pub handovers_max: usize,
}

/// Least time from one plan of moves to the next.
const MOVE_PAUSE: Duration = Duration::from_millis(50);

/// Least time from one look at leaders to the next, while nodes that are short of space lead: their
/// partitions take no writes until others lead.
const RELIEF_PAUSE: Duration = Duration::from_millis(250);

/// Shards of a node that was started so lately may still be opening their logs.
const NEW_FOR: Duration = Duration::from_secs(60);
/// A voter that has said that its log is lost, and not again for so long, may have another.
const LOST_FOR: Duration = Duration::from_secs(2);

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            leader_timeout: Duration::from_millis(600),
            session_timeout: Duration::from_secs(10),
            rebalance_grace: Duration::from_secs(600),
            fence_again: Duration::from_millis(50),
            election_patience: Duration::from_secs(1),
            balance_every: Duration::from_secs(2),
            moves_max: 8,
            handovers_max: 16,
        }
    }
}

/// A leader that asks for another election no sooner than this after it was named has begun to lead and
/// was not joined by enough voters, or has lost its log since.
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// Names a proposal, so that its outcome finds its way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What the owner of a controller is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Propose a command to the metadata group; when it is applied, or is known not to be, call
    /// [`Controller::decided`].
    Propose(Ticket, Box<Command>),
    /// Send a node everything it has to promise.
    Fence(NodeId, Vec<Fence>),
    /// Ask the node that leads a partition to hand it over.
    HandOver {
        /// The node.
        node: NodeId,
        /// The partition.
        partition: PartitionId,
        /// To whom.
        to: ReplicaId,
    },
    /// Make a plan of moves from the metadata of that step, on a thread that serves nobody: it may take
    /// seconds. Then call [`Controller::planned`].
    Plan(Planning),
}

/// What a proposal was about, while its outcome is not known.
#[derive(Debug)]
enum Proposed {
    Elections(Vec<PartitionId>),
    Leaders(Vec<PartitionId>),
    Voters(PartitionId),
    /// So many changes.
    Replicas(usize),
    Status,
    Member,
}

/// The controller. See the module's documentation.
#[derive(Debug)]
pub struct Controller {
    settings: Settings,
    began: Instant,
    liveness: Liveness,
    elections: Elections,
    /// Elections that leaders asked for because they cannot lead, and of which term: they say nothing of
    /// a later leader.
    asked: BTreeMap<PartitionId, Term>,
    /// Leaders this controller has named: in which term, and when.
    named: BTreeMap<PartitionId, (Term, Instant)>,
    /// Partitions whose leader could not begin its term or go on, though enough had answered to elect it.
    stuck: BTreeSet<PartitionId>,
    /// Voters whose nodes live and whose logs are lost, and when they said so last.
    lost: BTreeMap<(PartitionId, ReplicaId), Instant>,
    proposed: BTreeMap<Ticket, Proposed>,
    last_ticket: u64,
    balance_at: Instant,
    /// Since moves were begun last, while there may be more to begin.
    moving_since: Option<Instant>,
    /// A plan of moves is being made.
    planning: bool,
    /// Copies that only follow are looked at once moves have been begun.
    observers_due: bool,
    /// How many nodes were short of space at the last step.
    short_seen: usize,
    /// When leaders are looked at before balance is due: nodes short of space lead what others may.
    relief_at: Option<Instant>,
    /// The last partition that was asked to be handed over: the next look begins behind it, so that those
    /// that cannot be handed over at present keep no others waiting.
    handed_last: Option<PartitionId>,
    /// The last member whose removal was proposed: the next look begins behind it, so that one that
    /// cannot be removed at present, because it still votes, keeps no others waiting.
    removed_last: NodeId,
    /// How many commands about replicas were refused whole, one after the other, and when the next may
    /// be proposed.
    replicas_refused: u32,
    replicas_at: Instant,
    effects: Vec<Effect>,
}

impl Controller {
    /// The controller of a leader that has just been elected: every node counts as heard now.
    #[must_use]
    pub fn new(now: Instant, settings: Settings, metadata: &Metadata) -> Controller {
        Controller {
            settings,
            began: now,
            liveness: Liveness::new(now, metadata),
            elections: Elections::default(),
            asked: BTreeMap::new(),
            named: BTreeMap::new(),
            stuck: BTreeSet::new(),
            lost: BTreeMap::new(),
            proposed: BTreeMap::new(),
            last_ticket: 0,
            balance_at: now + settings.balance_every,
            moving_since: None,
            planning: false,
            observers_due: false,
            short_seen: 0,
            relief_at: None,
            handed_last: None,
            removed_last: NodeId(0),
            replicas_refused: 0,
            replicas_at: now,
            effects: Vec::new(),
        }
    }

    /// What is to be done, in order.
    pub fn effects(&mut self) -> std::vec::Drain<'_, Effect> {
        self.effects.drain(..)
    }

    /// A node was heard.
    pub fn heard(&mut self, now: Instant, node: NodeId, incarnation: Incarnation) {
        self.liveness.heard(now, node, incarnation);
    }

    /// A node was last heard before this controller was made. Of one that was listened for until then:
    /// the others may have been silent to this node and to nobody else.
    pub fn heard_before(&mut self, node: NodeId, at: Instant) {
        self.liveness.heard_before(node, at);
    }

    /// A node's process is known to have ended: nobody listens where it listened.
    pub fn gone(&mut self, node: NodeId) {
        self.liveness.gone(node);
    }

    /// A voter answered a Fence.
    pub fn answer(&mut self, now: Instant, answer: FenceAnswer) {
        self.elections.answer(now, answer);
    }

    /// How far a voter of a partition that nobody leads said its log is, in the election under way: the
    /// term of the last entry, and behind where it ends. Nothing: it has not answered, because it is not
    /// heard, or its copy is damaged or lost.
    #[must_use]
    pub fn answered(&self, partition: PartitionId, voter: ReplicaId) -> Option<(Term, Offset)> {
        self.elections.answered(partition, voter)
    }

    /// A leader asks for something.
    pub fn request(&mut self, now: Instant, metadata: &Metadata, request: &Request) {
        match request {
            Request::Election { partition, term, from } => {
                let named = |r: &PartitionRecord| {
                    r.term == *term && r.leader.is_some_and(|l| l.replica == from.replica)
                };
                if metadata.partition(*partition).is_some_and(named) {
                    self.asked.insert(*partition, *term);
                    // One that cannot lead at all says so at once.
                    let known = self.named.get(partition).filter(|(of, _)| of == term);
                    if known.is_some_and(|(_, at)| now.since(*at) >= STUCK_AFTER) {
                        self.stuck.insert(*partition);
                    }
                }
            }
            Request::Transfer { partition, term, from, to } => {
                let (partition, term, from, to) = (*partition, *term, *from, *to);
                let command = Command::Transfer { partition, term, from, to };
                self.propose_once(partition, command);
            }
            Request::Voters { partition, term, from, base, voters } => {
                if self.cuts_off(now, metadata, *partition, voters) {
                    // Which voters have lost their logs is known once they have had time to say so. It is
                    // asked again until then.
                    if now.since(self.began) > LOST_FOR {
                        self.asked.insert(*partition, *term);
                    }
                    return;
                }
                let command = Command::Voters {
                    partition: *partition,
                    term: *term,
                    from: *from,
                    base: *base,
                    voters: voters.clone(),
                };
                self.propose_once(*partition, command);
            }
            Request::Renew { partition, replica, renewal } => {
                let (replica, renewal) = (*replica, *renewal);
                let Some(record) = metadata.partition(*partition) else { return };
                if record.is_voter(replica) {
                    // Its leader leaves it out first, which is right to do.
                    self.lost.insert((*partition, replica), now);
                } else if record.replica(replica).is_some() {
                    let change = ReplicaChange::Renew { replica, renewal };
                    let command = Command::Replicas { changes: vec![(*partition, change)] };
                    self.propose_once(*partition, command);
                }
            }
        }
    }

    /// Whether a leader would go on without most of its voters although they are well: it is the
    /// leader that is cut off, and one of them should lead. Voters that have lost their logs are not well,
    /// however alive their nodes are, nor are those of nodes that have just started: they may have lost
    /// theirs and not know it yet, and an election would then find nobody. Those of nodes short of space
    /// may be unable to write anything, and should not lead.
    fn cuts_off(
        &self,
        now: Instant,
        metadata: &Metadata,
        partition: PartitionId,
        voters: &[ReplicaId],
    ) -> bool {
        let Some(record) = metadata.partition(partition) else { return false };
        let well = |id: &&ReplicaId| {
            let node = record.replica(**id).map(|r| r.node);
            let said = self.lost.get(&(partition, **id));
            let has_log = said.is_none_or(|at| now.since(*at) > LOST_FOR);
            let fit = has_log && record.replica(**id).is_some_and(|r| r.wish == Wish::Voter);
            let timeout = self.settings.leader_timeout;
            let is_up = |n| self.liveness.is_heard(now, n, timeout);
            fit && node.is_some_and(|n| {
                let has_room = !metadata.is_short_of_space(n);
                has_room && is_up(n) && !self.liveness.is_new(now, n, NEW_FOR)
            })
        };
        let left_out: Vec<_> = record.voters.iter().filter(|v| !voters.contains(v)).collect();
        let well = left_out.into_iter().filter(well).count();
        well >= commit_quorum(record.voters.len())
    }

    fn propose_once(&mut self, partition: PartitionId, command: Command) {
        // It is repeated by who asked: one at a time is enough.
        let waits = self
            .proposed
            .values()
            .any(|p| matches!(p, Proposed::Voters(known) if *known == partition));
        if !waits {
            self.propose(Proposed::Voters(partition), command);
        }
    }

    fn propose(&mut self, what: Proposed, command: Command) {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.proposed.insert(ticket, what);
        self.effects.push(Effect::Propose(ticket, Box::new(command)));
    }

    /// What came of a proposal: its outcome, or nothing when that is not known. `metadata` are those
    /// behind it.
    pub fn decided(
        &mut self,
        now: Instant,
        metadata: &Metadata,
        ticket: Ticket,
        outcome: Option<&Outcome>,
    ) {
        let Some(what) = self.proposed.remove(&ticket) else { return };
        let Some(Outcome::Done { refused, .. }) = outcome else { return };
        let taken = |id: &PartitionId| {
            let refused = refused.iter().any(|(r, _)| r == id);
            metadata.partition(*id).filter(|_| !refused)
        };
        match what {
            Proposed::Elections(partitions) => {
                for id in partitions {
                    if let Some(record) = taken(&id) {
                        self.elections.begin(now, id, record);
                        self.asked.remove(&id);
                    }
                }
            }
            Proposed::Leaders(partitions) => {
                for id in partitions {
                    if let Some(record) = taken(&id) {
                        self.named.insert(id, (record.term, now));
                        self.stuck.remove(&id);
                    }
                }
            }
            Proposed::Replicas(changes) => {
                self.replicas_decided(now, refused.len() >= changes);
            }
            Proposed::Voters(_) | Proposed::Status | Proposed::Member => {}
        }
    }

    /// Works out what is to be done. Called whenever something was heard or decided, and when
    /// [`Controller::next_deadline`] has passed.
    pub fn step(&mut self, now: Instant, wall: WallTime, metadata: &Metadata) {
        if metadata.identity().is_none() {
            return;
        }
        self.liveness.follow(now, metadata);
        self.liveness.look(now, self.settings.leader_timeout);
        let is_current = |id: &PartitionId, term: &Term| {
            metadata.partition(*id).is_some_and(|record| record.term == *term)
        };
        self.asked.retain(|id, term| is_current(id, term));
        self.lost.retain(|_, at| now.since(*at) <= LOST_FOR);
        self.tell_status(now, wall, metadata);
        self.begin_elections(now, metadata);
        self.go_on_electing(now, metadata);
        self.move_replicas(now, metadata);
        self.look_for_shortage(now, metadata);
        if now >= self.balance_at {
            self.balance_at = now + self.settings.balance_every;
            self.observers_due = true;
            self.plan_moves(now, metadata);
            if !self.planning {
                self.add_observers(now, metadata);
            }
            self.balance_leaders(now, metadata);
            return;
        }
        if self.has_room_to_move(now, metadata) {
            self.plan_moves(now, metadata);
        }
        if self.relief_at.is_some_and(|at| now >= at) {
            self.balance_leaders(now, metadata);
        }
    }

    /// A node that has run short of space is relieved of its leaderships at once.
    fn look_for_shortage(&mut self, now: Instant, metadata: &Metadata) {
        let short = metadata.members().filter(|m| m.facts.condition.short_of_space).count();
        if short > std::mem::replace(&mut self.short_seen, short) {
            self.relief_at = Some(now);
        }
    }

    /// Whether moves that were begun have ended, and others may begin without waiting for the next look:
    /// a plan is made for several at a time.
    fn has_room_to_move(&self, now: Instant, metadata: &Metadata) -> bool {
        let room = metadata.moves().len() * 2 <= self.settings.moves_max;
        room && self.moving_since.is_some_and(|since| now.since(since) >= MOVE_PAUSE)
    }

    /// When [`Controller::step`] is due at the latest.
    #[must_use]
    pub fn next_deadline(&self, now: Instant) -> Instant {
        let soon = self.elections.next_deadline(now, &self.settings);
        let silent = now + self.settings.leader_timeout / 8;
        [Some(self.balance_at), self.relief_at, soon, Some(silent)]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(silent)
    }

    fn waits_for(&self, what: impl Fn(&Proposed) -> bool) -> bool {
        self.proposed.values().any(what)
    }

    fn tell_status(&mut self, now: Instant, wall: WallTime, metadata: &Metadata) {
        if self.waits_for(|p| matches!(p, Proposed::Status)) {
            return;
        }
        let nodes = self.liveness.changes(now, metadata, &self.settings);
        if !nodes.is_empty() {
            self.propose(Proposed::Status, Command::Status { nodes, at: wall });
        }
    }
}

#[cfg(test)]
mod tests;
