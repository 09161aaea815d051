//! The metadata group, as one register that changes a step at a time, and the controller's elections.

use super::ReplicationModel;
use super::rules::Rule;
use super::state::{Election, FenceAnswer, Message, Record, State, Term, Uuid, Uuids};

impl ReplicationModel {
    pub(super) fn take_term(&self, state: &mut State, voters_of: u8) {
        let record = *state.record();
        let term = if self.rules.has(Rule::NewTermPerElection) || record.term == 0 {
            record.term + 1
        } else {
            record.term
        };
        let voters = state.records[usize::from(voters_of)].voters;
        let earlier = record.last_leader.filter(|_| self.rules.has(Rule::LastLeaderIsKept));
        let last_leader = record.leader.or(earlier);
        state.records.push(Record { term, leader: None, last_leader, refused: false, ..record });
        let kept = match state.elections.last() {
            Some(last) if !self.rules.has(Rule::FenceAnswerOfTerm) => last.answers.clone(),
            _ => Vec::new(),
        };
        if self.rules.has(Rule::ElectInTerm) && !self.bounds.late_fences {
            state.elections.clear();
        }
        state.elections.push(Election { term, voters, answers: kept, wait: 0, elapsed: 0 });
    }

    pub(super) fn answer_fence(&self, state: &mut State, node: usize, election: usize) {
        let running = &state.elections[election];
        let term = running.term;
        let uuid = state.replicas[node].uuid;
        let counts = running.voters.has(uuid) || !self.rules.has(Rule::FenceVotersOnly);
        let late = self.bounds.late_fences;
        let again = !late && running.answers.iter().any(|answer| answer.uuid == uuid);
        let refuses = term < state.replicas[node].promised || state.replicas[node].repair_to > 0;
        let leads = state.replicas[node].leader.as_ref().is_some_and(|l| l.term >= term);
        if !counts || again || refuses || leads || !self.promise(state, node, term) {
            return;
        }
        // What is half installed counts as an empty log, which is no less than what it holds.
        let installing = state.replicas[node].installing;
        if self.rules.has(Rule::FenceFlushes) && !installing {
            self.flush(state, node);
            if !self.rules.has(Rule::LateFsyncAcksNothing) {
                self.ack(state, node);
            }
        }
        let replica = &mut state.replicas[node];
        if !self.rules.has(Rule::FenceKeepsGrants) {
            replica.grant_left = 0;
        }
        let log_end = replica.flushed_end.min(replica.log_end());
        let answer = FenceAnswer { uuid, last_term: replica.last_term(log_end), log_end };
        let left = replica.grant_left;
        state.observer.counted(uuid);
        if late {
            state.network.insert(Message::Fenced { term, answer, left });
        } else {
            self.note_answer(&mut state.elections[election], answer, left);
        }
    }

    /// An answer arrives at whichever controller waits for one.
    pub(super) fn on_fenced(&self, state: &mut State, term: Term, answer: FenceAnswer, left: u8) {
        let of_term = self.rules.has(Rule::FenceAnswerOfTerm);
        for election in &mut state.elections {
            let again = election.answers.iter().any(|known| known.uuid == answer.uuid);
            let asked = election.voters.has(answer.uuid) || !self.rules.has(Rule::FenceVotersOnly);
            if asked && !again && (election.term == term || !of_term) {
                self.note_answer(election, answer, left);
            }
        }
    }

    fn note_answer(&self, election: &mut Election, answer: FenceAnswer, left: u8) {
        election.answers.push(answer);
        election.answers.sort_unstable_by_key(|answer| answer.uuid);
        election.wait = election.wait.max(left.saturating_sub(election.elapsed));
    }

    /// Whether no lease can be alive: the last leader itself has answered, so it has dropped its
    /// own, and those of its predecessors were over when it was made the leader.
    fn leases_are_over(&self, state: &State, election: &Election) -> bool {
        let answered = |uuid| election.answers.iter().any(|answer| answer.uuid == uuid);
        if !self.rules.has(Rule::OnlyLastLeaderEndsWait) {
            return state.observer.leaders.iter().any(|(_, uuid)| answered(*uuid));
        }
        match state.record().last_leader {
            Some(last) => answered(last),
            None => !self.rules.has(Rule::LastLeaderIsKept),
        }
    }

    pub(super) fn elect(&self, state: &mut State, election: usize, winner: Uuid, alone: bool) {
        let record = *state.record();
        let running = &state.elections[election];
        let stale = running.term != record.term && self.rules.has(Rule::ElectInTerm);
        let decided = record.leader.is_some() && self.rules.has(Rule::ElectOnce);
        let waits = running.wait > 0
            && self.rules.has(Rule::WaitOutLeases)
            && !self.leases_are_over(state, running);
        let quorum = if self.rules.has(Rule::FenceQuorum) {
            running.voters.fence_quorum()
        } else {
            (running.voters.fence_quorum() - 1).max(1)
        };
        if stale || decided || waits || (running.answers.len() as u32) < quorum {
            return;
        }
        let rank = |answer: &FenceAnswer| {
            let by_term = self.rules.has(Rule::LastTermFirst);
            (if by_term { answer.last_term } else { 0 }, answer.log_end)
        };
        let largest = running.answers.iter().map(rank).max();
        let won = running.answers.iter().find(|answer| answer.uuid == winner).map(rank);
        if won < largest && self.rules.has(Rule::LongestLogWins) {
            return;
        }
        let leader = Some(winner);
        let mut named = Record { leader, last_leader: None, refused: false, ..record };
        if alone {
            (named.voters, named.version) = (Uuids::default().with(winner), record.version + 1);
        }
        state.records.push(named);
        let over = [Rule::ElectInTerm, Rule::ElectOnce, Rule::FenceAnswerOfTerm];
        if over.iter().all(|rule| self.rules.has(*rule)) && !self.bounds.late_fences {
            state.elections.clear();
        }
    }

    /// Whether metadata may accept the proposal.
    fn acceptable(&self, state: &State, message: &Message) -> bool {
        let Message::Propose { from, term, base, .. } = message else { return false };
        let record = state.record();
        let of_term = record.term == *term && record.leader == Some(*from);
        (of_term || !self.rules.has(Rule::ProposalOfTerm))
            && (record.version == *base || !self.rules.has(Rule::ProposalOfVersion))
            && record.version <= self.bounds.proposals + self.bounds.refusals + 1
    }

    pub(super) fn accept(&self, state: &mut State, message: &Message) {
        let Message::Propose { voters, .. } = message else { return };
        if self.acceptable(state, message) {
            let record = *state.record();
            let names_dropped = !voters.and(record.dropped).is_empty();
            if names_dropped && self.rules.has(Rule::ProposalOfReplicas) {
                self.raise_version(state);
                return;
            }
            let version = record.version + 1;
            state.records.push(Record { version, voters: *voters, refused: false, ..record });
        }
    }

    pub(super) fn refuse(&self, state: &mut State, message: &Message) {
        if self.acceptable(state, message) {
            self.raise_version(state);
            state.used.refusals += 1;
        }
    }

    /// Refuses what leader, term and version would allow.
    fn raise_version(&self, state: &mut State) {
        let record = *state.record();
        let raised = u8::from(self.rules.has(Rule::RefusalRaisesVersion));
        let version = record.version + raised;
        state.records.push(Record { version, refused: true, ..record });
    }

    pub(super) fn on_transfer(&self, state: &mut State, from: Uuid, term: Term, target: Uuid) {
        let record = *state.record();
        let of_term = record.term == term && record.leader == Some(from);
        let voter = record.voters.has(target) || !self.rules.has(Rule::TransferToVoter);
        if (of_term || !self.rules.has(Rule::TransferOfTerm))
            && voter
            && record.term < self.bounds.terms
        {
            let (term, leader) = (record.term + 1, Some(target));
            let last_leader = None;
            state.records.push(Record { term, leader, last_leader, refused: false, ..record });
            if self.rules.has(Rule::ElectInTerm) && !self.bounds.late_fences {
                state.elections.clear();
            }
        }
    }

    pub(super) fn drop_replica(&self, state: &mut State, uuid: Uuid) {
        let record = *state.record();
        let outside = !record.voters.has(uuid) || !self.rules.has(Rule::DropOnlyOutsideVoters);
        if outside && !record.dropped.has(uuid) {
            let dropped = record.dropped.with(uuid);
            state.records.push(Record { dropped, refused: false, ..record });
            state.used.drops += 1;
        }
    }
}
