//! What a leader does: begin, append, commit, propose voters, hand over.

use std::ops::Range;

use super::ReplicationModel;
use super::log::Entry;
use super::properties;
use super::rules::Rule;
use super::state::{Leader, Message, Node, Offset, Proposal, Record, State, Term};
use super::state::{Uuid, Uuids};

impl Leader {
    /// How far `uuid` acked in this term.
    pub fn acked_end(&self, uuid: Uuid) -> Offset {
        self.acked.iter().find(|(who, _)| *who == uuid).map_or(0, |(_, end)| *end)
    }

    fn note_ack(&mut self, uuid: Uuid, end: Offset) {
        match self.acked.binary_search_by_key(&uuid, |(who, _)| *who) {
            Ok(at) => self.acked[at].1 = self.acked[at].1.max(end),
            Err(at) => self.acked.insert(at, (uuid, end)),
        }
    }
}

impl ReplicationModel {
    pub(super) fn hear(&self, state: &mut State, node: usize, record: u8) {
        let heard = state.records[usize::from(record)];
        let replica = &mut state.replicas[node];
        let Some(leader) = &mut replica.leader else {
            if heard.leader == Some(replica.uuid) {
                self.lead(state, node, record, &heard);
            }
            return;
        };
        if record <= leader.seen {
            return;
        }
        if heard.term > leader.term || heard.leader != Some(replica.uuid) {
            replica.leader = None;
            return;
        }
        leader.seen = record;
        if heard.version > leader.version {
            leader.version = heard.version;
            leader.voters = heard.voters;
            leader.proposal = leader.proposal.filter(|open| open.base >= heard.version);
        }
        if heard.refused && !self.rules.has(Rule::RefusalRaisesVersion) {
            leader.proposal = None;
        }
        self.advance(state, node);
    }

    fn lead(&self, state: &mut State, node: usize, seen: u8, heard: &Record) {
        let term = heard.term;
        let replica = &state.replicas[node];
        let promised = replica.promised > term && self.rules.has(Rule::LeadNotBelowPromise);
        let from_before =
            term <= replica.led_or_promised_at_start && self.rules.has(Rule::RestartedLeaderAsks);
        let again = term <= replica.led && self.rules.has(Rule::LeadOnce);
        if promised || from_before || again || replica.repair_to > 0 {
            return;
        }
        if replica.promised < term {
            self.promise(state, node, term);
        }
        let replica = &mut state.replicas[node];
        replica.led = replica.led.max(term);
        let term_start = replica.log_end();
        replica.leader = Some(Leader {
            term,
            term_start,
            seen,
            voters: heard.voters,
            version: heard.version,
            proposal: None,
            acked: Vec::new(),
            rounds: Vec::new(),
            read: None,
        });
        properties::leads(state, node, term);
        state.replicas[node].log.push(Entry { term, sequence: 0 });
    }

    /// Whether the term-start entry of the leader on `node` is committed.
    pub(super) fn serves(state: &State, node: usize) -> bool {
        let replica = &state.replicas[node];
        let leader = replica.leader.as_ref();
        leader.is_some_and(|leader| leader.term_start < replica.high_watermark)
    }

    pub(super) fn send(&self, state: &mut State, node: usize, to: Node, part: Range<Offset>) {
        let replica = &state.replicas[node];
        let Some(leader) = &replica.leader else { return };
        if part.start < replica.base {
            return;
        }
        state.network.insert(Message::Replicate {
            from: node as Node,
            to,
            term: leader.term,
            prev_offset: part.start,
            prev_term: replica.last_term(part.start),
            entries: replica.log.below(part.end).from(part.start),
            high_watermark: replica.high_watermark,
        });
    }

    pub(super) fn on_ack(
        &self,
        state: &mut State,
        node: usize,
        from: Uuid,
        term: Term,
        end: Offset,
    ) {
        let Some(leader) = &mut state.replicas[node].leader else { return };
        if leader.term != term && self.rules.has(Rule::AckOfTerm) {
            return;
        }
        if leader.acked_end(from) >= end {
            return;
        }
        leader.note_ack(from, end);
        self.advance(state, node);
    }

    /// How many of `voters` hold the log of the leader on `node` up to `end`, as far as it knows.
    fn held_by(&self, state: &State, node: usize, voters: Uuids, end: Offset) -> Uuids {
        let replica = &state.replicas[node];
        let Some(leader) = &replica.leader else { return Uuids::default() };
        let own = if self.rules.has(Rule::LeaderCountsFlushed) {
            replica.flushed_end
        } else {
            replica.log_end()
        };
        let acked = |uuid: Uuid| {
            if self.rules.has(Rule::CountByUuid) {
                leader.acked_end(uuid)
            } else {
                let of_node = state.node_of(uuid);
                let same = leader.acked.iter().filter(|(who, _)| state.node_of(*who) == of_node);
                same.map(|(_, end)| *end).max().unwrap_or(0)
            }
        };
        let holds = |uuid: Uuid| if uuid == replica.uuid { own } else { acked(uuid) } >= end;
        voters.iter().filter(|uuid| holds(*uuid)).fold(Uuids::default(), Uuids::with)
    }

    /// Raises the leader's high watermark as far as the acks allow.
    pub(super) fn advance(&self, state: &mut State, node: usize) {
        let replica = &state.replicas[node];
        let Some(leader) = &replica.leader else { return };
        let (term, voters) = (leader.term, leader.voters);
        let joint = leader.proposal.filter(|_| self.rules.has(Rule::JointCommit));
        let committed = (replica.high_watermark + 1..=replica.log_end()).rev().find_map(|end| {
            if replica.last_term(end) != term && self.rules.has(Rule::CommitOwnTerm) {
                return None;
            }
            let held = self.held_by(state, node, voters, end);
            let quorum =
                if self.rules.has(Rule::CommitQuorum) { voters.commit_quorum() } else { 1 };
            let held_jointly = joint.is_none_or(|open| {
                self.held_by(state, node, open.voters, end).len() >= open.voters.commit_quorum()
            });
            (held.len() >= quorum && held_jointly).then_some((end, held))
        });
        let Some((end, held)) = committed else { return };
        let own = replica.uuid;
        let leader = replica.leader.as_ref().expect("it leads, as just seen");
        let of_others: Vec<Uuid> =
            held.iter().filter(|uuid| *uuid != own && leader.acked_end(*uuid) < end).collect();
        for uuid in of_others {
            state.observer.counted(uuid);
        }
        if held.has(own) {
            state.observer.acked(own, term);
        }
        state.replicas[node].high_watermark = end;
        properties::committed(state, node, end, term);
    }

    pub(super) fn propose(&self, state: &mut State, node: usize, voters: Uuids) {
        if self.rules.has(Rule::ProposeAfterTermStart) && !Self::serves(state, node) {
            return;
        }
        let replica = &state.replicas[node];
        let held = self.held_by(state, node, voters, replica.high_watermark);
        let Some(leader) = &replica.leader else { return };
        let open = leader.proposal.is_some() && self.rules.has(Rule::OneProposal);
        let without_self = !voters.has(replica.uuid) && self.rules.has(Rule::ProposeWithSelf);
        let lacking =
            held.len() < voters.commit_quorum() && self.rules.has(Rule::VotersHoldCommitted);
        if open || without_self || lacking {
            return;
        }
        let (from, term, base) = (replica.uuid, leader.term, leader.version);
        state.network.insert(Message::Propose { from, term, base, voters });
        let leader = state.replicas[node].leader.as_mut().expect("it leads, as just seen");
        leader.proposal = Some(Proposal { base, voters });
        state.used.proposals += 1;
    }

    pub(super) fn forget_proposal(&self, state: &mut State, node: usize) {
        if let Some(leader) = &mut state.replicas[node].leader {
            leader.proposal = None;
            self.advance(state, node);
        }
    }

    pub(super) fn hand_over(&self, state: &mut State, node: usize, target: Uuid) {
        let replica = &mut state.replicas[node];
        let end = replica.log_end();
        let Some(leader) = &replica.leader else { return };
        let voter = leader.voters.has(target) || !self.rules.has(Rule::TransferToVoter);
        let caught_up =
            leader.acked_end(target) == end || !self.rules.has(Rule::TransferToCaughtUp);
        if !voter || !caught_up {
            return;
        }
        let (from, term) = (replica.uuid, leader.term);
        if self.rules.has(Rule::TransferStepsDown) {
            replica.leader = None;
        }
        state.network.insert(Message::Transfer { from, term, target });
        state.used.transfers += 1;
    }
}
