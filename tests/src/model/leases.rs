//! Leases, the reads they allow, and the clocks they are counted by.
//!
//! There is no absolute time. Whatever is being waited for is kept as what is left of it by the
//! clock of who waits, and a tick takes from each as many units as that clock makes in it.

use super::ReplicationModel;
use super::bounds::{LEASE, LEASE_OF_LEADER};
use super::properties;
use super::rules::Rule;
use super::state::{Leader, Message, Read, Round, State, Term, Uuid, Uuids};

impl ReplicationModel {
    fn lease(&self) -> u8 {
        if self.rules.has(Rule::DriftMargin) { LEASE_OF_LEADER } else { LEASE }
    }

    /// Whether `acked` are enough voters, while a proposal is open of both sets.
    fn is_quorum(leader: &Leader, joint: bool, acked: Uuids) -> bool {
        let enough = |voters: Uuids| voters.and(acked).len() >= voters.commit_quorum();
        enough(leader.voters) && (!joint || leader.proposal.is_none_or(|open| enough(open.voters)))
    }

    /// Whether the replica on `node` leads and holds the lease.
    pub(super) fn holds_lease(&self, state: &State, node: usize) -> bool {
        let Some(leader) = state.replicas[node].leader.as_ref().filter(|_| self.bounds.leases())
        else {
            return false;
        };
        let live = leader.rounds.iter().filter(|round| round.left > 0);
        let acked = live.fold(Uuids::default(), |all, round| Uuids(all.0 | round.acked.0));
        if !self.rules.has(Rule::LeaseFromQuorum) {
            return !acked.is_empty();
        }
        Self::is_quorum(leader, self.rules.has(Rule::JointLease), acked)
    }

    pub(super) fn probe(&self, state: &mut State, node: usize) {
        let round = state.used.rounds;
        let left = if self.bounds.leases() { self.lease() } else { 0 };
        let replica = &mut state.replicas[node];
        let own = replica.uuid;
        let Some(leader) = &mut replica.leader else { return };
        leader.rounds.push(Round { round, left, acked: Uuids::default().with(own) });
        if self.bounds.leases() {
            replica.grant_left = LEASE;
        }
        let term = leader.term;
        state.used.rounds += 1;
        for to in (0..self.bounds.nodes).filter(|to| usize::from(*to) != node) {
            state.network.insert(Message::Probe { from: node as u8, to, term, round });
        }
    }

    pub(super) fn on_probe_ack(
        &self,
        state: &mut State,
        node: usize,
        from: Uuid,
        term: Term,
        number: u8,
    ) {
        let full = if self.bounds.leases() { self.lease() } else { 0 };
        let Some(leader) = &mut state.replicas[node].leader else { return };
        if leader.term != term {
            return;
        }
        let sent = leader.rounds.iter_mut().find(|round| round.round == number);
        let Some(round) = sent.filter(|round| !round.acked.has(from)) else { return };
        round.acked = round.acked.with(from);
        if !self.rules.has(Rule::LeaseFromSend) {
            round.left = full;
        }
    }

    /// Changes nothing unless the answer is wrong.
    pub(super) fn lease_read(&self, state: &mut State, node: usize) {
        let serves = Self::serves(state, node) || !self.rules.has(Rule::ReadsAfterTermStart);
        let leads = state.replicas[node].leader.is_some();
        let checked = self.holds_lease(state, node) || !self.rules.has(Rule::ReadChecksLease);
        if leads && serves && checked {
            let need = state.observer.committed.end();
            properties::read(state, node, need);
        }
    }

    pub(super) fn begin_read(&self, state: &mut State, node: usize) {
        let need = state.observer.committed.end();
        let first_round = state.used.rounds;
        let Some(leader) = &mut state.replicas[node].leader else { return };
        if leader.read.is_none() {
            leader.read = Some(Read { need, first_round });
            state.used.reads += 1;
        }
    }

    pub(super) fn end_read(&self, state: &mut State, node: usize) {
        let serves = Self::serves(state, node) || !self.rules.has(Rule::ReadsAfterTermStart);
        let Some(leader) = state.replicas[node].leader.as_mut().filter(|_| serves) else { return };
        let Some(read) = leader.read else { return };
        let any = !self.rules.has(Rule::RoundAfterRead);
        let after = |round: &&Round| any || round.round >= read.first_round;
        let acked = leader.rounds.iter().filter(after);
        let acked = acked.fold(Uuids::default(), |all, round| Uuids(all.0 | round.acked.0));
        if Self::is_quorum(leader, self.rules.has(Rule::JointLease), acked) {
            leader.read = None;
            properties::read(state, node, read.need);
        }
    }

    pub(super) fn tick(&self, state: &mut State) {
        let mut waited = false;
        let mut wait = |left: &mut u8, rate: u8| {
            waited |= *left > 0;
            *left = left.saturating_sub(rate);
        };
        for (replica, rate) in state.replicas.iter_mut().zip(&self.bounds.rates) {
            wait(&mut replica.grant_left, *rate);
            for round in replica.leader.iter_mut().flat_map(|leader| &mut leader.rounds) {
                wait(&mut round.left, *rate);
            }
        }
        for election in &mut state.elections {
            wait(&mut election.wait, self.bounds.controller_rate);
            if !self.rules.has(Rule::WaitFromReceipt) {
                election.elapsed += self.bounds.controller_rate;
            }
        }
        if waited {
            state.used.ticks += 1;
        }
    }
}
