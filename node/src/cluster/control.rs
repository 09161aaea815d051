//! The controller while this node leads the metadata group: the pure state machine of
//! [`ironring_ring::controller`], fed with what this node hears, and its effects carried out.

use std::cell::{Cell, Ref, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use ironring_core::{Incarnation, Instant, NodeId, Now, Offset, PartitionId, Term};
use ironring_ring::controller::{Controller, Effect, Planned, Planning, Settings, Ticket};
use ironring_ring::metadata::{Command, Metadata, Outcome, ReplicaId};
use nix::sched::{sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::catalog::{Catalog, decode_outcome};
use super::member::{Member, WITHIN};
use super::plane::{Ask, Letter};
use crate::driver::clock;
use crate::driver::runtime::Runtime;
use crate::raft::{GroupStatus, MetaGroup, Role};
use crate::shard::ToController;

/// The controller of one time that this node leads without a break.
struct Office {
    /// Which of them: a node may lead, hear of no quorum and lead again within one term.
    number: u64,
    term: u64,
    controller: Controller,
}

/// A proposal whose outcome came; nothing: it is not known.
type Decided = (Ticket, Option<Outcome>);

/// What this node knows of the cluster as its controller, while it is.
#[derive(Default)]
pub(super) struct Control {
    office: RefCell<Option<Office>>,
    /// How many offices there were.
    offices: Cell<u64>,
    /// Nodes whose process has ended and that were not heard since, also before this node led: a new
    /// controller need not wait for what its node knows.
    gone: RefCell<BTreeSet<NodeId>>,
    /// When each node was heard last.
    heard_at: RefCell<BTreeMap<NodeId, Instant>>,
    /// Who led before this node did: the others listen for it.
    predecessor: Cell<Option<NodeId>>,
    decided: RefCell<Vec<Decided>>,
    /// The plan that is being made, and for which office.
    plan: RefCell<Option<(u64, Receiver<Planned>)>>,
}

impl Control {
    /// Has a plan made on a thread of its own; `made` is called there when it is.
    fn plan(
        &self,
        office: u64,
        planning: Planning,
        metadata: Arc<Metadata>,
        made: impl Fn() + Send + 'static,
    ) {
        let (done, plan) = sync_channel(1);
        let thread = std::thread::Builder::new().name("ironring-plan".to_owned());
        let begun = thread.spawn(move || {
            leave_core();
            // Whoever wanted it may have ended.
            let _ = done.send(planning.make(&metadata));
            made();
        });
        if let Err(error) = begun {
            // What waits for the plan finds that nobody makes it.
            tracing::warn!(%error, "no thread can be made for a plan of moves");
        }
        *self.plan.borrow_mut() = Some((office, plan));
    }

    /// The plan that was made for an office: an empty one when nobody makes it any more.
    fn planned(&self, office: u64) -> Option<Planned> {
        let mut slot = self.plan.borrow_mut();
        let (of, plan) = slot.as_ref()?;
        let made = match plan.try_recv() {
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => Planned::default(),
            Ok(plan) => plan,
        };
        let is_ours = *of == office;
        *slot = None;
        is_ours.then_some(made)
    }

    /// A node was heard.
    pub fn heard(&self, node: NodeId, incarnation: Incarnation) {
        self.gone.borrow_mut().remove(&node);
        self.heard_at.borrow_mut().insert(node, clock::now().mono);
        if let Some(office) = &mut *self.office.borrow_mut() {
            office.controller.heard(clock::now().mono, node, incarnation);
        }
    }

    /// A node's process has ended.
    pub fn gone(&self, node: NodeId) {
        self.gone.borrow_mut().insert(node);
        if let Some(office) = &mut *self.office.borrow_mut() {
            office.controller.gone(node);
        }
    }

    /// Nodes whose process has ended and that were not heard since.
    pub fn known_gone(&self) -> Ref<'_, BTreeSet<NodeId>> {
        self.gone.borrow()
    }

    /// Shards of this node or of others say something.
    pub fn told(&self, metadata: &Metadata, said: Vec<ToController>) {
        let Some(office) = &mut *self.office.borrow_mut() else { return };
        let now = clock::now().mono;
        tracing::debug!("controller: {} answers and requests", said.len());
        for one in said {
            match one {
                ToController::Fenced(answer) => office.controller.answer(now, answer),
                ToController::Ask(request) => office.controller.request(now, metadata, &request),
            }
        }
    }

    /// How far a voter said its log is in the election under way: see [`Controller::answered`].
    pub fn answered(&self, partition: PartitionId, voter: ReplicaId) -> Option<(Term, Offset)> {
        let office = self.office.borrow();
        office.as_ref().and_then(|office| office.controller.answered(partition, voter))
    }

    /// When the controller wants to be looked at again.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        self.office.borrow().as_ref().map(|office| office.controller.next_deadline(now))
    }

    /// The office this node has, if it has one.
    fn office(&self) -> Option<u64> {
        self.office.borrow().as_ref().map(|office| office.number)
    }

    /// What came of a proposal of an office. One that is over has its own names for proposals.
    fn decided(&self, office: u64, decided: Decided) {
        if self.office() == Some(office) {
            self.decided.borrow_mut().push(decided);
        }
    }

    /// What is to be done now; nothing when this node does not lead the group.
    fn step(
        &self,
        now: Now,
        settings: Settings,
        (me, incarnation): (NodeId, Incarnation),
        status: &GroupStatus,
        metadata: &Metadata,
    ) -> Vec<Effect> {
        let mut office = self.office.borrow_mut();
        if status.role != Role::Leader {
            let leader = status.leader.or(status.silent_leader).filter(|id| *id != me.0);
            self.predecessor.set(leader.map(NodeId).or(self.predecessor.get()));
            *office = None;
            self.decided.borrow_mut().clear();
            return Vec::new();
        }
        if office.as_ref().is_none_or(|office| office.term != status.term) {
            let mut controller = Controller::new(now.mono, settings, metadata);
            // One that is no member any more is nobody's.
            self.gone.borrow_mut().retain(|node| metadata.member(*node).is_some());
            self.gone.borrow().iter().for_each(|node| controller.gone(*node));
            // Its silence is why this node leads, perhaps, and need not be waited for once more.
            let mut heard_at = self.heard_at.borrow_mut();
            heard_at.retain(|node, _| metadata.member(*node).is_some());
            let heard = self.predecessor.get().and_then(|node| Some((node, *heard_at.get(&node)?)));
            if let Some((node, at)) = heard {
                controller.heard_before(node, at);
            }
            let number = self.offices.get() + 1;
            self.offices.set(number);
            *office = Some(Office { number, term: status.term, controller });
            self.decided.borrow_mut().clear();
        }
        let Some(Office { controller, number, .. }) = &mut *office else { return Vec::new() };
        controller.heard(now.mono, me, incarnation);
        for (ticket, outcome) in self.decided.borrow_mut().drain(..) {
            controller.decided(now.mono, metadata, ticket, outcome.as_ref());
        }
        if let Some(plan) = self.planned(*number) {
            controller.planned(now.mono, metadata, &plan);
        }
        controller.step(now.mono, now.wall, metadata);
        let mut effects: Vec<Effect> = controller.effects().collect();
        effects.retain(|effect| match effect {
            Effect::Propose(ticket, command) if takes_a_voter(command, status) => {
                // It is proposed again at the next look.
                self.decided.borrow_mut().push((*ticket, None));
                false
            }
            _ => true,
        });
        effects
    }
}

/// Lets this thread run wherever the process may: it was made on core 0, which has a shard to run.
fn leave_core() {
    // The process's first thread is pinned to none.
    let anywhere = sched_getaffinity(Pid::this());
    if let Err(error) = anywhere.and_then(|cpus| sched_setaffinity(Pid::from_raw(0), &cpus)) {
        tracing::debug!(%error, "a plan of moves is made on core 0");
    }
}

/// Whether a command removes a member that votes: it would end, and its vote be missed.
fn takes_a_voter(command: &Command, status: &GroupStatus) -> bool {
    matches!(command, Command::Remove { node } if status.voters.contains(&node.0))
}

/// Terms that a command gives to partitions: by elections, or because a leadership is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NewTerms {
    elections: usize,
    handovers: usize,
}

impl NewTerms {
    fn of(command: &Command) -> Option<NewTerms> {
        match command {
            Command::Elect { partitions } => {
                Some(NewTerms { elections: partitions.len(), handovers: 0 })
            }
            Command::Transfer { .. } => Some(NewTerms { elections: 0, handovers: 1 }),
            _ => None,
        }
    }

    /// Those of partitions that were not refused.
    fn without(self, refused: usize) -> NewTerms {
        NewTerms {
            elections: self.elections.saturating_sub(refused),
            handovers: self.handovers.saturating_sub(refused),
        }
    }
}

/// An effect in a few words, for traces.
fn described(effect: &Effect) -> String {
    match effect {
        Effect::Propose(ticket, command) => {
            let name = match &**command {
                Command::Elect { partitions } => format!("elect, {}", partitions.len()),
                Command::Lead { partitions } => format!("lead, {}", partitions.len()),
                Command::Replicas { changes } => format!("replicas, {}", changes.len()),
                other => format!("{other:?}"),
            };
            format!("proposes {} ({name})", ticket.0)
        }
        Effect::Fence(node, fences) => format!("fences {} at node {node}", fences.len()),
        Effect::HandOver { node, partition, to } => {
            format!("node {node} is to hand over partition {partition} to {to:?}")
        }
        Effect::Plan(_) => "has moves planned".to_owned(),
    }
}

impl<R: Runtime> Member<R> {
    /// Does what the controller wants done, when it is here.
    pub(super) fn run_controller(
        self: &Rc<Self>,
        group: &MetaGroup<Catalog>,
        status: &GroupStatus,
        metadata: &Arc<Metadata>,
    ) {
        let me = self.me();
        let settings = self.place.controller;
        let effects = self.control.step(clock::now(), settings, me, status, metadata);
        // Effects are of an office.
        let Some(office) = self.control.office() else { return };
        for effect in effects {
            tracing::debug!("controller: {}", described(&effect));
            match effect {
                Effect::Propose(ticket, command) => {
                    self.propose(group, office, ticket, &command);
                }
                Effect::Fence(node, fences) if node == me.0 => self.shards.fence(fences),
                Effect::Fence(node, fences) => self.shards.fence_at(node, &fences),
                Effect::HandOver { node, partition, to } if node == me.0 => {
                    self.shards.hand_over(partition, to);
                }
                Effect::HandOver { node, partition, to } => {
                    self.have_handed_over(node, partition, to);
                }
                Effect::Plan(planning) => {
                    let board = Arc::clone(&self.place.board);
                    self.control.plan(office, planning, Arc::clone(metadata), move || board.call());
                }
            }
        }
    }

    fn propose(
        self: &Rc<Self>,
        group: &MetaGroup<Catalog>,
        office: u64,
        ticket: Ticket,
        command: &Command,
    ) {
        let (me, group, terms) = (Rc::clone(self), group.clone(), NewTerms::of(command));
        let command = command.encode();
        self.spawn(async move {
            let proposed = group.propose(command, WITHIN).await;
            let outcome = proposed.ok().and_then(|bytes| decode_outcome(&bytes).ok());
            if let (Some(terms), Some(Outcome::Done { refused, .. })) = (terms, &outcome) {
                let NewTerms { elections, handovers } = terms.without(refused.len());
                me.place.board.count_terms(elections, handovers);
            }
            let known = outcome.is_some();
            tracing::debug!(ticket = ticket.0, known, "the controller's proposal is decided");
            me.control.decided(office, (ticket, outcome));
            me.poke();
        });
    }

    /// Asks another node to have a leader there hand over. The controller asks again when it does not.
    fn have_handed_over(self: &Rc<Self>, node: NodeId, partition: PartitionId, to: ReplicaId) {
        let me = Rc::clone(self);
        self.spawn(async move {
            let ask = Ask::HandOver { partition, to };
            let _ = me.call_node(node, Letter { ask, forwarded: true }).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use ironring_core::WallTime;

    use super::*;
    use crate::cluster::tests::{cluster_of, group_status};

    fn status(role: Role) -> GroupStatus {
        GroupStatus { role, ..group_status(&[1], &[]) }
    }

    #[test]
    fn terms_are_counted_by_what_gives_them() {
        let partitions = (0..3).map(|n| (PartitionId(n), ironring_core::Term(1))).collect();
        let terms = NewTerms::of(&Command::Elect { partitions }).unwrap();
        assert_eq!(terms.without(1), NewTerms { elections: 2, handovers: 0 });
        let from = ReplicaId::default();
        let to = ironring_ring::metadata::LeaderId { replica: from, incarnation: Incarnation(1) };
        let (partition, term) = (PartitionId(1), ironring_core::Term(1));
        let terms = NewTerms::of(&Command::Transfer { partition, term, from, to }).unwrap();
        assert_eq!((terms.handovers, terms.without(1).handovers), (1, 0));
        assert_eq!(NewTerms::of(&Command::SetBalancing(true)), None);
    }

    #[test]
    fn a_member_is_removed_when_it_votes_no_more() {
        let (control, mut metadata) = (Control::default(), cluster_of(3));
        let state = ironring_ring::metadata::MemberState::Leaving;
        metadata.apply(&Command::SetMember { node: NodeId(2), state });
        let mut mono = 1;
        let mut removed = |voters: &[u64]| {
            mono += 1_000_000;
            let now = Now { mono: Instant(mono), wall: WallTime(1) };
            let (me, group) = ((NodeId(1), Incarnation(1)), group_status(voters, &[]));
            let effects = control.step(now, Settings::default(), me, &group, &metadata);
            effects.iter().find_map(|effect| match effect {
                Effect::Propose(_, command) => match &**command {
                    Command::Remove { node } => Some(node.0),
                    _ => None,
                },
                _ => None,
            })
        };
        assert_eq!(removed(&[1, 2, 3]), None);
        assert_eq!(removed(&[1, 2, 3]), None);
        assert_eq!(removed(&[1, 3]), Some(2), "what was held back is proposed again");
    }

    #[test]
    fn an_outcome_is_told_to_the_office_that_proposed_and_to_no_other_of_its_term() {
        let (control, metadata) = (Control::default(), Metadata::default());
        let step = |role| {
            let now = Now { mono: Instant(1), wall: WallTime(1) };
            let me = (NodeId(1), Incarnation(1));
            control.step(now, Settings::default(), me, &status(role), &metadata);
            control.office()
        };
        let first = step(Role::Leader).unwrap();
        assert_eq!(step(Role::Leader), Some(first));
        control.decided(first, (Ticket(1), None));
        assert_eq!(control.decided.borrow().len(), 1);
        assert_eq!(step(Role::LeaderWithoutQuorum), None);
        control.decided(first, (Ticket(2), None));
        let second = step(Role::Leader).unwrap();
        assert_ne!(first, second);
        control.decided(first, (Ticket(3), None));
        assert!(control.decided.borrow().is_empty(), "these were not its own");
    }
}
