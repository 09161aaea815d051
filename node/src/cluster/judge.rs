//! Whether what an operator orders may be done, and how: pure functions of the metadata and of how the
//! metadata group is, asked on the node that leads it ([`super::operate`] carries it out).
//!
//! A node counts as heard here when the metadata call it alive. Orders are judged one at a time and
//! on metadata that are behind everything that was decided, so two of them never rest on the same
//! node.

use std::collections::BTreeSet;

use ironring_core::{NodeId, PartitionId};
use ironring_ring::controller::{observes, places_beside, takes_replicas};
use ironring_ring::metadata::{
    Command, LeaderId, Member, MemberState, Metadata, PartitionRecord, RF_MAX, Replica,
    ReplicaChange, ReplicaId, Status, VoteWish, Wish,
};
use ironring_ring::replication::quorum::{commit_quorum, fence_quorum};
use serde::{Deserialize, Serialize};

use super::operation::{Operation, PaceWish, Refusal};
use super::steward::{VOTERS_MAX, may_vote};
use crate::raft::GroupStatus;

/// Changes of replicas in one command.
const CHANGES_MAX: usize = 256;

/// One thing to do for an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Have the group commit a command.
    Propose(Box<Command>),
    /// Have another node lead the group.
    LeadGroup(u64),
    /// Have the leader of a partition hand over.
    HandOver {
        /// Where the leader is.
        at: NodeId,
        /// The partition.
        partition: PartitionId,
        /// Who is to lead.
        to: ReplicaId,
    },
    /// Have a replica lead in the newest term.
    LeadUnclean {
        /// The partition.
        partition: PartitionId,
        /// Who is to lead.
        leader: LeaderId,
        /// Only if it has said how far its log is.
        known: bool,
    },
}

impl Step {
    fn propose(command: Command) -> Step {
        Step::Propose(Box::new(command))
    }
}

/// How an order is carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// In order; empty: it is as wanted already.
    pub steps: Vec<Step>,
    /// What is then so, for people.
    pub done: String,
    /// How many things change.
    pub changed: u64,
    /// What the operator should know besides.
    pub warnings: Vec<String>,
}

/// What a node still has to give away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remaining {
    /// Partitions it leads.
    pub leads: usize,
    /// Replicas it holds.
    pub replicas: usize,
    /// Those of them that stay: no other node can take them, because every node that takes replicas has
    /// one and none is on its way, or they only follow.
    pub stay: usize,
}

impl Remaining {
    /// What a node has.
    #[must_use]
    pub fn of(metadata: &Metadata, node: NodeId) -> Remaining {
        let takers: Vec<NodeId> = takers(metadata, node).map(|m| m.id).collect();
        let mut remaining = Remaining::default();
        for (i, record) in metadata.partitions().iter().enumerate() {
            let Some(replica) = on(record, node) else { continue };
            remaining.replicas += 1;
            remaining.leads += usize::from(record.leader.is_some_and(|l| l.replica == replica.id));
            let moves = metadata.moves().contains_key(&PartitionId(i as u32));
            let stays = replica.wish != Wish::Leaving && !moves;
            let held = |taker: &NodeId| on(record, *taker).is_some_and(|r| r.wish != Wish::Leaving);
            let follows = replica.wish == Wish::Observer;
            remaining.stay += usize::from(stays && (follows || takers.iter().all(held)));
        }
        remaining
    }
}

/// The replica on a node.
fn on(record: &PartitionRecord, node: NodeId) -> Option<&Replica> {
    record.replicas.iter().find(|replica| replica.node == node)
}

/// The other nodes that take replicas.
fn takers(metadata: &Metadata, not: NodeId) -> impl Iterator<Item = &Member> {
    metadata.members().filter(move |m| m.id != not && takes_replicas(m))
}

/// Nodes that take replicas and are not dead: as many replicas of a partition as there can be.
#[must_use]
pub fn room_for_replicas(metadata: &Metadata) -> usize {
    metadata.members().filter(|m| takes_replicas(m) && m.status != Status::Dead).count()
}

/// What to say when more nodes observe than a partition has places for, beside so many replicas.
#[must_use]
pub fn observers_beyond(metadata: &Metadata, rf: u8) -> Option<String> {
    let observers = metadata.members().filter(|m| observes(m)).count();
    let places = places_beside(usize::from(rf));
    (observers > places).then(|| {
        format!(
            "{observers} nodes observe, and beside {rf} replicas a partition has places for {places} \
             such copies: those beyond hold nothing of it"
        )
    })
}

/// Whether an order may be carried out, and how.
///
/// # Errors
/// Why not.
pub fn judge(
    operation: &Operation,
    metadata: &Metadata,
    group: &GroupStatus,
) -> Result<Verdict, Refusal> {
    let judge = Judge { metadata, group };
    match *operation {
        Operation::Drain { node, force } => judge.drain(node, force),
        Operation::Resume { node } => judge.resume(node),
        Operation::Leave { node, force } => judge.leave(node, force),
        Operation::GiveUp { node, force } => judge.give_up(node, force),
        Operation::Vote { node, vote } => judge.vote(node, vote),
        Operation::LeadGroup { node } => judge.lead_group(node),
        Operation::Balance { on, pace } => judge.balance(on, pace),
        Operation::Configure { rf, min_voters, force } => judge.configure((rf, min_voters), force),
        Operation::Cancel { partition } => judge.cancel(partition),
        Operation::Move { partition, from, to } => judge.move_replica(partition, from, to),
        Operation::Lead { partition, node } => judge.lead(partition, node),
        Operation::LeadUnclean { partition, node, force } => {
            judge.lead_unclean(partition, node, force)
        }
    }
}

/// Whether every member's program knows a command. One that was given up reads nothing more.
///
/// # Errors
/// [`Refusal::OldProgram`].
pub fn understood(metadata: &Metadata, command: &Command) -> Result<(), Refusal> {
    let needs = command.format();
    let stays = |m: &&Member| m.state != MemberState::Lost;
    match metadata.members().filter(stays).find(|m| m.facts.format < needs) {
        Some(m) => Err(Refusal::OldProgram { node: m.id, has: m.facts.format, needs }),
        None => Ok(()),
    }
}

/// Why the program of a node that joins, or is back, cannot read what the metadata group would send it: a
/// snapshot, and to a new member the log behind it, where any command may be that all members know.
#[must_use]
pub fn unreadable(metadata: &Metadata, command: &Command) -> Option<String> {
    let (Command::Join { node, .. } | Command::Replace { node, .. }) = command else { return None };
    let stays = |m: &&Member| m.state != MemberState::Lost;
    let known = match metadata.member_on(node.storage) {
        Some(_) => None,
        None => metadata.members().filter(stays).map(|m| m.facts.format).min(),
    };
    let (has, needs) = (node.format, metadata.format().max(known.unwrap_or(0)));
    (has < needs).then(|| {
        format!(
            "this program knows metadata commands up to format {has}, the cluster needs {needs}: \
             upgrade it"
        )
    })
}

struct Judge<'a> {
    metadata: &'a Metadata,
    group: &'a GroupStatus,
}

impl Judge<'_> {
    fn member(&self, node: NodeId) -> Result<&Member, Refusal> {
        self.metadata.member(node).ok_or(Refusal::NoNode(node))
    }

    fn record(&self, partition: PartitionId) -> Result<&PartitionRecord, Refusal> {
        self.metadata.partition(partition).ok_or(Refusal::NoPartition(partition))
    }

    fn is_heard(&self, node: NodeId) -> bool {
        // Who judges is the leader itself.
        node.0 == self.group.id
            || self.metadata.member(node).is_some_and(|m| m.status == Status::Alive)
    }

    fn set(&self, member: &Member, state: MemberState, done: String) -> Verdict {
        let set = Command::SetMember { node: member.id, state };
        Verdict { steps: vec![Step::propose(set)], done, changed: 1, warnings: Vec::new() }
    }

    fn drain(&self, node: NodeId, force: bool) -> Result<Verdict, Refusal> {
        let member = self.member(node)?;
        let named = named(member);
        match member.state {
            MemberState::Draining => return Ok(as_it_is(format!("{named} is draining"))),
            MemberState::Active => {}
            state => return Err(Refusal::State { node, state }),
        }
        let left = takers(self.metadata, node).filter(|m| m.status != Status::Dead).count();
        if left == 0 {
            return Err(Refusal::LastNode(node));
        }
        // Those that leave were let go because of the nodes there were then.
        let someone_leaves = self.metadata.members().any(|m| m.state == MemberState::Leaving);
        let rf = self.metadata.rf();
        if someone_leaves && takes_replicas(member) && left < usize::from(rf) && !force {
            return Err(Refusal::FewerThanReplicas { left, rf });
        }
        let remaining = Remaining::of(self.metadata, node);
        let mut verdict = self.set(member, MemberState::Draining, format!("{named} drains"));
        if remaining.stay > 0 {
            verdict.warnings.push(format!(
                "{} of its {} replicas stay, because every other node has one: it serves them on",
                remaining.stay, remaining.replicas
            ));
        }
        Ok(verdict)
    }

    fn resume(&self, node: NodeId) -> Result<Verdict, Refusal> {
        let member = self.member(node)?;
        match member.state {
            MemberState::Active => Ok(as_it_is(format!("{} is active", named(member)))),
            // What it held is being forgotten.
            state @ MemberState::Lost => Err(Refusal::State { node, state }),
            _ => {
                let done = format!("{} takes replicas and leads again", named(member));
                Ok(self.set(member, MemberState::Active, done))
            }
        }
    }

    fn leave(&self, node: NodeId, force: bool) -> Result<Verdict, Refusal> {
        let member = self.member(node)?;
        match member.state {
            MemberState::Leaving => return Ok(as_it_is(format!("{} is leaving", named(member)))),
            state @ MemberState::Lost => return Err(Refusal::State { node, state }),
            _ => {}
        }
        self.stays_a_quorum(node)?;
        let left = takers(self.metadata, node).filter(|m| m.status != Status::Dead).count();
        let (rf, remaining) = (self.metadata.rf(), Remaining::of(self.metadata, node));
        if left == 0 {
            return Err(Refusal::LastNode(node));
        }
        let short = left < usize::from(rf) && remaining.replicas > 0;
        if short && !force {
            return Err(Refusal::FewerThanReplicas { left, rf });
        }
        let done = format!(
            "{} leaves: it gives away {} replicas and {} leaderships, and then ends",
            named(member),
            remaining.replicas,
            remaining.leads
        );
        let mut verdict = self.set(member, MemberState::Leaving, done);
        if short {
            verdict.warnings.push(format!("partitions keep {left} replicas instead of {rf}"));
        }
        Ok(verdict)
    }

    /// Whether the group goes on when a node votes no more.
    fn stays_a_quorum(&self, without: NodeId) -> Result<(), Refusal> {
        let voters: BTreeSet<NodeId> = self.group.voters.iter().copied().map(NodeId).collect();
        if !voters.contains(&without) {
            return Ok(());
        }
        // Those of earlier orders may vote still, and will not.
        let stays = |id: &NodeId| may_vote(self.metadata, id.0);
        let left: Vec<NodeId> =
            voters.into_iter().filter(|voter| *voter != without && stays(voter)).collect();
        if left.is_empty() {
            // Before it goes, one that takes part already gets the vote.
            let heir = |id: &u64| {
                let member = self.metadata.member(NodeId(*id));
                member.is_some_and(|m| {
                    m.state == MemberState::Active
                        && m.vote != VoteWish::Learner
                        && !m.facts.observer
                        && self.is_heard(m.id)
                })
            };
            let heir = self.group.learners.iter().any(heir);
            return if heir { Ok(()) } else { Err(Refusal::LastVoter(without)) };
        }
        let heard = left.iter().filter(|voter| self.is_heard(**voter)).count();
        let needed = left.len() / 2 + 1;
        if heard < needed {
            return Err(Refusal::BreaksQuorum { voters: left.len(), heard, needed });
        }
        Ok(())
    }

    fn give_up(&self, node: NodeId, force: bool) -> Result<Verdict, Refusal> {
        let member = self.member(node)?;
        if member.state == MemberState::Lost {
            return Ok(as_it_is(format!("{} is given up", named(member))));
        }
        let status = member.status;
        if self.is_heard(node) || status != Status::Dead {
            return Err(Refusal::NotDead { node, status });
        }
        let stranded = |record: &&PartitionRecord| {
            let Some(replica) = on(record, node) else { return false };
            let others = record.voters.iter().filter(|voter| **voter != replica.id);
            let node_of = |voter: &&ReplicaId| record.replica(**voter).map(|r| r.node);
            let heard = others.filter(|v| node_of(v).is_some_and(|n| self.is_heard(n))).count();
            record.is_voter(replica.id) && heard < commit_quorum(record.voters.len())
        };
        let partitions = self.metadata.partitions().iter().filter(stranded).count();
        if partitions > 0 && !force {
            return Err(Refusal::LosesData { node, partitions });
        }
        let done = format!("{} is given up, with the replicas it holds", named(member));
        let mut verdict = self.set(member, MemberState::Lost, done);
        if partitions > 0 {
            verdict.warnings.push(format!(
                "{partitions} partitions have no majority of their voters: see `ironring partition \
                 list --leaderless`"
            ));
        }
        let (left, rf) = (takers(self.metadata, node).count(), self.metadata.rf());
        if left < usize::from(rf) {
            verdict.warnings.push(format!("partitions have {left} replicas at most, not {rf}"));
        }
        Ok(verdict)
    }

    fn vote(&self, node: NodeId, vote: VoteWish) -> Result<Verdict, Refusal> {
        let member = self.member(node)?;
        let set = Command::SetVote { node, vote };
        understood(self.metadata, &set)?;
        if let state @ (MemberState::Leaving | MemberState::Lost) = member.state {
            return Err(Refusal::State { node, state });
        }
        let voters = &self.group.voters;
        let mut after = voters.clone();
        match vote {
            VoteWish::Voter if member.facts.observer => return Err(Refusal::Observer(node)),
            VoteWish::Voter if !voters.contains(&node.0) => {
                if !self.is_heard(node) {
                    return Err(Refusal::NotHeard(node));
                }
                // Others may be promoted and not have their vote yet.
                let promised = |m: &&Member| m.vote == VoteWish::Voter && m.id != node;
                let mut votes = voters.clone();
                votes.extend(self.metadata.members().filter(promised).map(|m| m.id.0));
                if votes.len() >= VOTERS_MAX {
                    return Err(Refusal::TooManyVoters(votes.len()));
                }
                after.insert(node.0);
            }
            VoteWish::Learner if voters.contains(&node.0) => {
                self.stays_a_quorum(node)?;
                after.remove(&node.0);
            }
            _ => {}
        }
        let done = match vote {
            VoteWish::Auto => format!("the cluster decides whether {} votes", named(member)),
            VoteWish::Voter => format!("{} votes in the metadata group", named(member)),
            VoteWish::Learner => format!("{} has no vote in the metadata group", named(member)),
        };
        if member.vote == vote {
            return Ok(as_it_is(done));
        }
        let mut warnings = Vec::new();
        if after.len().is_multiple_of(2) && !after.is_empty() {
            let (n, survives) = (after.len(), (after.len() - 1) / 2);
            warnings.push(format!(
                "{n} voters survive the loss of {survives}, as {} do, unless the cluster finds \
                 another",
                n - 1
            ));
        }
        Ok(Verdict { steps: vec![Step::propose(set)], done, changed: 1, warnings })
    }

    fn lead_group(&self, node: Option<NodeId>) -> Result<Verdict, Refusal> {
        let me = NodeId(self.group.id);
        let to = match node {
            Some(node) => node,
            None => self.successor().ok_or(Refusal::NoOtherVoter)?,
        };
        let member = self.member(to)?;
        let done = format!("{} leads the metadata group", named(member));
        if to == me {
            return Ok(as_it_is(done));
        }
        if !self.group.voters.contains(&to.0) {
            return Err(Refusal::NoVote(to));
        }
        if !self.is_heard(to) {
            return Err(Refusal::NotHeard(to));
        }
        if member.state != MemberState::Active {
            return Err(Refusal::State { node: to, state: member.state });
        }
        let steps = vec![Step::LeadGroup(to.0)];
        Ok(Verdict { steps, done, changed: 1, warnings: Vec::new() })
    }

    /// Whoever of the other voters should lead: the one that has the most.
    fn successor(&self) -> Option<NodeId> {
        let fit = |id: &&u64| {
            let member = self.metadata.member(NodeId(**id));
            member.is_some_and(|m| {
                m.state == MemberState::Active
                    && m.status == Status::Alive
                    && m.vote != VoteWish::Learner
            })
        };
        let others = self.group.voters.iter().filter(|id| **id != self.group.id);
        let at = |id: &&u64| self.group.matched.get(id).copied().flatten();
        others.filter(fit).max_by_key(at).copied().map(NodeId)
    }

    fn balance(&self, on: bool, pace: Option<PaceWish>) -> Result<Verdict, Refusal> {
        let mut done = match on {
            true => "replicas are moved for balance".to_owned(),
            false => "no more moves are begun for balance; those under way go on, and nodes that \
                      drain or were lost are still seen to"
                .to_owned(),
        };
        let mut steps = Vec::new();
        if self.metadata.balancing() != on {
            steps.push(Step::propose(Command::SetBalancing(on)));
        }
        if let Some(pace) = pace {
            done.push_str(&match pace.mode() {
                Some(mode) => format!(", at the pace `{}`", mode.name()),
                None => ", at the pace each node is configured for".to_owned(),
            });
            if self.metadata.pace() != pace.mode() {
                let set = Command::SetPace(pace.mode());
                understood(self.metadata, &set)?;
                steps.push(Step::propose(set));
            }
        }
        let changed = steps.len() as u64;
        Ok(Verdict { steps, done, changed, warnings: Vec::new() })
    }

    fn configure(
        &self,
        (rf, min_voters): (Option<u8>, Option<u8>),
        force: bool,
    ) -> Result<Verdict, Refusal> {
        let (rf_now, min_now) = (self.metadata.rf(), self.metadata.min_voters());
        let (rf, min_voters) = (rf.unwrap_or(rf_now), min_voters.unwrap_or(min_now));
        if !(1..=RF_MAX).contains(&rf) || !(1..=rf).contains(&min_voters) {
            return Err(Refusal::Keyspace { rf, min_voters });
        }
        let partitions = self.metadata.partitions();
        let few = partitions.iter().filter(|p| p.voters.len() < usize::from(min_voters)).count();
        if few > 0 && min_voters > min_now && !force {
            return Err(Refusal::StopsWrites { partitions: few, min_voters });
        }
        let done = format!(
            "partitions have {rf} replicas each, and take writes while {min_voters} of them vote"
        );
        if (rf, min_voters) == (rf_now, min_now) {
            return Ok(as_it_is(done));
        }
        let mut warnings = Vec::new();
        let room = room_for_replicas(self.metadata);
        if room < usize::from(rf) {
            warnings.push(format!(
                "{room} nodes take replicas: partitions have {room} until there are {rf}"
            ));
        }
        warnings.extend(observers_beyond(self.metadata, rf));
        if min_voters == rf && rf > 1 {
            warnings.push("a partition that loses one replica takes no writes".to_owned());
        }
        if few > 0 {
            warnings.push(format!("{few} partitions have fewer voters, and take no writes now"));
        }
        if rf < rf_now && !self.metadata.balancing() {
            warnings.push(format!(
                "balancing is paused: what is beyond {rf} replicas stays until `ironring cluster \
                 rebalance start`"
            ));
        }
        let steps = vec![Step::propose(Command::SetKeyspace { rf, min_voters })];
        Ok(Verdict { steps, done, changed: 1, warnings })
    }

    fn cancel(&self, partition: Option<PartitionId>) -> Result<Verdict, Refusal> {
        let moves = self.metadata.moves();
        if let Some(partition) = partition {
            self.record(partition)?;
            if !moves.contains_key(&partition) {
                return Err(Refusal::NotMoving(partition));
            }
        }
        let mut steps = Vec::new();
        let mut warnings = Vec::new();
        if partition.is_none() && self.metadata.balancing() {
            steps.push(Step::propose(Command::SetBalancing(false)));
        } else if partition.is_some() && self.metadata.balancing() {
            warnings.push("balancing is on: the move may be begun again".to_owned());
        }
        let given_up = moves.iter().filter(|(id, _)| partition.is_none_or(|only| only == **id));
        let mut changes = Vec::new();
        let mut count = 0;
        for (id, moved) in given_up {
            count += 1;
            changes.push((*id, ReplicaChange::Cancel));
            // In the same command: what was to make room stays.
            if let Some(replica) = moved.from {
                changes.push((*id, ReplicaChange::Wish { replica, wish: Wish::Voter }));
            }
        }
        let commands = changes
            .chunks(CHANGES_MAX)
            .map(|changes| Step::propose(Command::Replicas { changes: changes.to_vec() }));
        steps.extend(commands);
        let done = format!("{count} moves are given up");
        Ok(Verdict { steps, done, changed: count, warnings })
    }

    fn move_replica(
        &self,
        partition: PartitionId,
        from: NodeId,
        to: NodeId,
    ) -> Result<Verdict, Refusal> {
        let record = self.record(partition)?;
        self.member(from)?;
        let taker = self.member(to)?;
        let leaves = on(record, from).ok_or(Refusal::NoReplica { partition, node: from })?;
        if on(record, to).is_some() {
            return Err(Refusal::HasReplica { partition, node: to });
        }
        if self.metadata.moves().contains_key(&partition) || leaves.wish == Wish::Leaving {
            return Err(Refusal::Moving(partition));
        }
        if record.leader.is_none() {
            return Err(Refusal::Leaderless(partition));
        }
        if !takes_replicas(taker) || !self.is_heard(to) {
            return Err(Refusal::TakesNone(to));
        }
        let replaces = Some(leaves.id);
        let add = ReplicaChange::Add { node: to, wish: Wish::Voter, replaces };
        let command = Command::Replicas { changes: vec![(partition, add)] };
        let mut warnings = Vec::new();
        if self.metadata.balancing() {
            warnings.push("balancing is on: the replica may be moved again".to_owned());
        }
        let done = format!("partition {partition} moves from node {from} to node {to}");
        Ok(Verdict { steps: vec![Step::propose(command)], done, changed: 1, warnings })
    }

    fn lead(&self, partition: PartitionId, node: NodeId) -> Result<Verdict, Refusal> {
        let record = self.record(partition)?;
        let member = self.member(node)?;
        let leader = record.leader.and_then(|leader| record.replica(leader.replica));
        let leader = leader.ok_or(Refusal::Leaderless(partition))?;
        let replica = on(record, node).ok_or(Refusal::NoReplica { partition, node })?;
        let done = format!("{} leads partition {partition}", named(member));
        if leader.node == node {
            return Ok(as_it_is(done));
        }
        if !record.is_voter(replica.id) || replica.wish != Wish::Voter {
            return Err(Refusal::NotVoter { partition, node });
        }
        if !self.is_heard(node) {
            return Err(Refusal::NotHeard(node));
        }
        if member.state != MemberState::Active {
            return Err(Refusal::State { node, state: member.state });
        }
        let steps = vec![Step::HandOver { at: leader.node, partition, to: replica.id }];
        let warnings =
            vec!["leaderships are kept even: the controller may hand it back".to_owned()];
        Ok(Verdict { steps, done, changed: 1, warnings })
    }

    /// What no order undoes: every other copy is emptied. So nobody may be left who would be elected
    /// without loss, or who may lead on unheard; and what the replica has must be known.
    fn lead_unclean(
        &self,
        partition: PartitionId,
        node: NodeId,
        force: bool,
    ) -> Result<Verdict, Refusal> {
        let record = self.record(partition)?;
        let member = self.member(node)?;
        let replica = on(record, node).ok_or(Refusal::NoReplica { partition, node })?;
        if record.leader.is_some() {
            return Err(Refusal::Led(partition));
        }
        if !self.is_heard(node) {
            return Err(Refusal::NotHeard(node));
        }
        let member_of = |voter: &ReplicaId| self.metadata.member(record.replica(*voter)?.node);
        let heard = |voter: &&ReplicaId| member_of(voter).is_some_and(|m| self.is_heard(m.id));
        let may_return = |voter: &&ReplicaId| {
            let stays = |m: &Member| m.state != MemberState::Lost && m.status != Status::Dead;
            heard(voter) || member_of(voter).is_some_and(stays)
        };
        let voters = record.voters.len();
        let may_lead_on = record.voters.iter().filter(may_return).count() >= commit_quorum(voters);
        // A damaged copy that is all there is answers no election; only its operator can let it lead.
        let is_all =
            !record.voters.iter().filter(|id| **id != replica.id).any(|id| may_return(&id));
        let may_lead_on = may_lead_on && !(force && is_all);
        let others_elect = record.voters.iter().filter(heard).count() >= fence_quorum(voters)
            && !record.is_voter(replica.id);
        if may_lead_on || others_elect {
            return Err(Refusal::QuorumHeard(partition));
        }
        if !force && !record.is_voter(replica.id) {
            return Err(Refusal::UnknownCopy { partition, node });
        }
        let leader = LeaderId { replica: replica.id, incarnation: member.facts.incarnation };
        let term = record.term;
        understood(self.metadata, &Command::LeadWithLoss { partition, term, leader })?;
        let done = format!(
            "{} leads partition {partition} and is its only voter: what it lacks is lost, and every \
             other copy is emptied and filled from it",
            named(member)
        );
        let mut warnings = Vec::new();
        if replica.wish == Wish::Observer {
            warnings.push(format!(
                "{} is an observer (node.role): its copy of partition {partition} votes and leads \
                 until others have caught up",
                named(member)
            ));
        }
        let steps = vec![Step::LeadUnclean { partition, leader, known: !force }];
        Ok(Verdict { steps, done, changed: 1, warnings })
    }
}

fn as_it_is(done: String) -> Verdict {
    Verdict { done, ..Verdict::default() }
}

fn named(member: &Member) -> String {
    format!("node {} ({})", member.facts.name, member.id)
}

#[cfg(test)]
mod tests;
