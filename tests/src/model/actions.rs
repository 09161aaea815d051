//! What may happen next, and the step that each happening is.

use super::ReplicationModel;
use super::rules::Rule;
use super::state::{Message, Node, Offset, State, Uuid, Uuids};

/// What of a log a crash leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kept {
    /// Everything below this end.
    Below(Offset),
    /// What was fsynced, as if the last cut had not been made.
    CutUndone,
    /// What replaced a cut, and behind it what was cut.
    Mixture,
}

/// One step of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "a node and what it does; the variants say which")]
pub enum Action {
    /// A node learns of a metadata record.
    Hear { node: Node, record: u8 },
    /// A client's write, or its retry, reaches a leader.
    Write { node: Node, sequence: u8 },
    /// A leader lets the first session expire.
    Expire { node: Node },
    /// A leader sends what it has from `prev` to `end`.
    Send { node: Node, to: Node, prev: Offset, end: Offset },
    /// A leader sends the state below `end`.
    SendSnapshot { node: Node, to: Node, end: Offset },
    /// A node compacts what is committed and fsynced.
    Compact { node: Node },
    /// A message arrives; it may arrive again.
    Deliver(Message),
    /// Everything a node has written becomes durable.
    Fsync { node: Node },
    /// A process dies and starts again.
    Crash { node: Node, kept: Kept },
    /// A node loses its disk.
    Wipe { node: Node },
    /// A node dies and finds its log damaged at `at`, below what it had fsynced.
    Damage { node: Node, at: Offset },
    /// The controller takes a term and begins an election among the voters of `record`.
    TakeTerm { record: u8 },
    /// A Fence reaches a voter, and its answer the controller.
    AnswerFence { node: Node, election: u8 },
    /// The controller commits the winner.
    Elect { election: u8, winner: Uuid },
    /// The controller commits the winner as the only voter: too few others are left to commit anything.
    ElectAlone { election: u8, winner: Uuid },
    /// A leader proposes voters.
    Propose { node: Node, voters: Uuids },
    /// A leader takes a timeout for an outcome; only without [`Rule::JointUntilSeen`].
    ForgetProposal { node: Node },
    /// Metadata refuses a proposal that it could have accepted.
    Refuse(Message),
    /// A leader hands over.
    HandOver { node: Node, target: Uuid },
    /// A leader sends a round of probes.
    Probe { node: Node },
    /// A leader answers a read under its lease.
    LeaseRead { node: Node },
    /// A read comes that waits for a round.
    BeginRead { node: Node },
    /// The round is there, and the read is answered.
    EndRead { node: Node },
    /// Time passes.
    Tick,
    /// The controller commits the drop of a replica.
    Drop { uuid: Uuid },
    /// A node deletes its replica's files.
    Delete { node: Node },
}

impl ReplicationModel {
    /// Adds everything that may happen in `state`; a few of them change nothing.
    pub(super) fn possible(&self, state: &State, actions: &mut Vec<Action>) {
        for (at, replica) in state.replicas.iter().enumerate() {
            if !replica.deleted {
                self.of_process(state, at as Node, actions);
                if replica.leader.is_some() {
                    self.of_leader(state, at as Node, actions);
                }
            }
        }
        for message in state.network.iter() {
            actions.push(Action::Deliver(*message));
            if matches!(message, Message::Propose { .. })
                && state.used.refusals < self.bounds.refusals
            {
                actions.push(Action::Refuse(*message));
            }
        }
        self.of_controller(state, actions);
        if state.used.ticks < self.bounds.ticks {
            actions.push(Action::Tick);
        }
    }

    fn of_process(&self, state: &State, node: Node, actions: &mut Vec<Action>) {
        let replica = &state.replicas[usize::from(node)];
        for record in 0..state.records.len() as u8 {
            actions.push(Action::Hear { node, record });
        }
        actions.push(Action::Fsync { node });
        if state.used.crashes < self.bounds.crashes {
            for end in replica.durable_end..=replica.log_end() {
                actions.push(Action::Crash { node, kept: Kept::Below(end) });
            }
            if !replica.old_tail.is_empty() {
                actions.push(Action::Crash { node, kept: Kept::CutUndone });
                if !self.rules.has(Rule::CutBeforeReplacement) {
                    actions.push(Action::Crash { node, kept: Kept::Mixture });
                }
            }
        }
        let nothing_lost = replica.log.is_empty() && replica.promised == 0;
        if state.used.wipes < self.bounds.wipes && !nothing_lost {
            actions.push(Action::Wipe { node });
        }
        if state.used.damages < self.bounds.damages {
            actions.extend((0..replica.durable_end).map(|at| Action::Damage { node, at }));
        }
        actions.push(Action::Delete { node });
        if state.used.compactions < self.bounds.compactions {
            actions.push(Action::Compact { node });
        }
        for election in 0..state.elections.len() as u8 {
            actions.push(Action::AnswerFence { node, election });
        }
    }

    fn of_leader(&self, state: &State, node: Node, actions: &mut Vec<Action>) {
        let replica = &state.replicas[usize::from(node)];
        let leader = replica.leader.as_ref().expect("the caller saw it");
        let writes = self.bounds.sequences();
        actions.extend(writes.map(|sequence| Action::Write { node, sequence }));
        if state.used.expiries < self.bounds.expiries {
            actions.push(Action::Expire { node });
        }
        for to in (0..self.bounds.nodes).filter(|to| *to != node) {
            let uuid = state.replicas[usize::from(to)].uuid;
            let wanted = leader.voters.has(uuid)
                || leader.proposal.is_some_and(|proposal| proposal.voters.has(uuid))
                || self.bounds.taught.has(uuid);
            if !wanted {
                continue;
            }
            let (first, last) = (replica.base, replica.log_end());
            if state.used.snapshots < self.bounds.snapshots {
                let mut ends = vec![replica.base, replica.high_watermark, last];
                ends.dedup();
                actions.extend(ends.iter().map(|end| Action::SendSnapshot { node, to, end: *end }));
            }
            if self.bounds.every_part {
                for prev in first..=last {
                    let ends = prev..=last;
                    actions.extend(ends.map(|end| Action::Send { node, to, prev, end }));
                }
            } else {
                let acked = leader.acked_end(uuid);
                actions.push(Action::Send { node, to, prev: first, end: last });
                if acked > first {
                    actions.push(Action::Send { node, to, prev: acked, end: last });
                }
            }
        }
        if state.used.proposals < self.bounds.proposals {
            self.proposals(state, node, leader.voters, actions);
        }
        if leader.proposal.is_some() && !self.rules.has(Rule::JointUntilSeen) {
            actions.push(Action::ForgetProposal { node });
        }
        if state.used.transfers < self.bounds.transfers {
            let targets = state.replicas.iter().map(|other| other.uuid);
            let others = targets.filter(|uuid| *uuid != replica.uuid);
            actions.extend(others.map(|target| Action::HandOver { node, target }));
        }
        if state.used.rounds < self.bounds.rounds {
            actions.push(Action::Probe { node });
        }
        if self.bounds.leases() {
            actions.push(Action::LeaseRead { node });
        }
        if state.used.reads < self.bounds.reads {
            actions.push(Action::BeginRead { node });
        }
        if leader.read.is_some() {
            actions.push(Action::EndRead { node });
        }
    }

    fn proposals(&self, state: &State, node: Node, voters: Uuids, actions: &mut Vec<Action>) {
        let there = state.replicas.iter().filter(|replica| !replica.deleted);
        let fresh = there.map(|replica| replica.uuid).filter(|uuid| !voters.has(*uuid));
        let fresh = Uuids::of(&fresh.collect::<Vec<_>>());
        for gone in voters.iter() {
            if voters.len() > 1 {
                actions.push(Action::Propose { node, voters: voters.without(gone) });
            }
            if self.bounds.exchanges {
                let changed = fresh.iter().map(|new| voters.without(gone).with(new));
                actions.extend(changed.map(|voters| Action::Propose { node, voters }));
            }
        }
        let grown = fresh.iter().map(|new| voters.with(new));
        actions.extend(grown.map(|voters| Action::Propose { node, voters }));
    }

    fn of_controller(&self, state: &State, actions: &mut Vec<Action>) {
        let last = state.records.len() as u8 - 1;
        let taken = state.elections.len() < usize::from(self.bounds.terms) + 1;
        if state.record().term < self.bounds.terms
            || (!self.rules.has(Rule::NewTermPerElection) && taken)
        {
            let known = if self.rules.has(Rule::VotersOfCommit) { last } else { 0 };
            actions.extend((known..=last).map(|record| Action::TakeTerm { record }));
        }
        for (election, running) in state.elections.iter().enumerate() {
            let winners = running.answers.iter().map(|answer| answer.uuid);
            let election = election as u8;
            actions.extend(winners.clone().map(|winner| Action::Elect { election, winner }));
            if self.bounds.alone {
                actions.extend(winners.map(|winner| Action::ElectAlone { election, winner }));
            }
        }
        if state.used.drops < self.bounds.drops {
            let there = state.replicas.iter().filter(|replica| !replica.deleted);
            actions.extend(there.map(|replica| Action::Drop { uuid: replica.uuid }));
        }
    }

    /// `state` after `action`; whether it could happen at all shows in whether anything changed.
    pub(super) fn step(&self, state: &mut State, action: &Action) {
        match action {
            Action::Hear { node, record } => self.hear(state, usize::from(*node), *record),
            Action::Write { node, sequence } => self.write(state, usize::from(*node), *sequence),
            Action::Expire { node } => self.expire(state, usize::from(*node)),
            Action::SendSnapshot { node, to, end } => {
                self.send_snapshot(state, usize::from(*node), *to, *end);
            }
            Action::Compact { node } => self.compact(state, usize::from(*node)),
            Action::Send { node, to, prev, end } => {
                self.send(state, usize::from(*node), *to, *prev..*end);
            }
            Action::Deliver(message) => self.deliver(state, message),
            Action::Fsync { node } => self.fsync(state, usize::from(*node)),
            Action::Crash { node, kept } => self.crash(state, usize::from(*node), *kept),
            Action::Wipe { node } => self.wipe(state, usize::from(*node)),
            Action::Damage { node, at } => self.damage(state, usize::from(*node), *at),
            Action::TakeTerm { record } => self.take_term(state, *record),
            Action::AnswerFence { node, election } => {
                self.answer_fence(state, usize::from(*node), usize::from(*election));
            }
            Action::Elect { election, winner } => {
                self.elect(state, usize::from(*election), *winner, false);
            }
            Action::ElectAlone { election, winner } => {
                self.elect(state, usize::from(*election), *winner, true);
            }
            Action::Propose { node, voters } => self.propose(state, usize::from(*node), *voters),
            Action::ForgetProposal { node } => self.forget_proposal(state, usize::from(*node)),
            Action::Refuse(message) => self.refuse(state, message),
            Action::HandOver { node, target } => self.hand_over(state, usize::from(*node), *target),
            Action::Probe { node } => self.probe(state, usize::from(*node)),
            Action::LeaseRead { node } => self.lease_read(state, usize::from(*node)),
            Action::BeginRead { node } => self.begin_read(state, usize::from(*node)),
            Action::EndRead { node } => self.end_read(state, usize::from(*node)),
            Action::Tick => self.tick(state),
            Action::Drop { uuid } => self.drop_replica(state, *uuid),
            Action::Delete { node } => self.delete(state, usize::from(*node)),
        }
    }

    fn deliver(&self, state: &mut State, message: &Message) {
        match message {
            Message::Replicate { to, .. } => self.on_replicate(state, usize::from(*to), message),
            Message::Ack { from, to, term, end } => {
                self.on_ack(state, usize::from(*to), *from, *term, *end);
            }
            Message::Snapshot { from, to, term, of } => {
                self.on_snapshot(state, usize::from(*to), *from, *term, *of);
            }
            Message::Fenced { term, answer, left } => {
                self.on_fenced(state, *term, *answer, *left);
            }
            Message::Propose { .. } => self.accept(state, message),
            Message::Transfer { from, term, target } => {
                self.on_transfer(state, *from, *term, *target);
            }
            Message::Probe { from, to, term, round } => {
                self.on_probe(state, usize::from(*to), *from, *term, *round);
            }
            Message::ProbeAck { from, to, term, round } => {
                self.on_probe_ack(state, usize::from(*to), *from, *term, *round);
            }
        }
    }
}
