//! What every replica does: promise, follow, fsync, die and start again.

use super::ReplicationModel;
use super::actions::Kept;
use super::bounds::LEASE;
use super::log::Log;
use super::properties::Invariant;
use super::rules::Rule;
use super::state::{Message, Node, Offset, Replica, State, Term};

impl ReplicationModel {
    /// Promises `term`, and stops leading an earlier one. False: the promise made forbids it.
    pub(super) fn promise(&self, state: &mut State, node: usize, term: Term) -> bool {
        let replica = &mut state.replicas[node];
        if term < replica.promised {
            return !self.rules.has(Rule::RefuseOldTerm);
        }
        replica.promised = term;
        if self.rules.has(Rule::PromiseDurable) {
            replica.promised_on_disk = term;
        }
        let before = replica.leader.as_ref().is_some_and(|leader| leader.term < term);
        if before && self.rules.has(Rule::FencedLeaderDropsLease) {
            replica.leader = None;
        }
        let uuid = replica.uuid;
        state.observer.promised(uuid, term);
        true
    }

    pub(super) fn on_replicate(&self, state: &mut State, node: usize, message: &Message) {
        let Message::Replicate {
            from, term, prev_offset, prev_term, entries, high_watermark, ..
        } = message
        else {
            unreachable!("the caller matched it")
        };
        let leads_it = state.replicas[node].leader.as_ref().is_some_and(|l| l.term >= *term);
        if state.replicas[node].deleted || leads_it || !self.promise(state, node, *term) {
            return;
        }
        let replica = &mut state.replicas[node];
        // Below the base no term is known. What is there is committed, so every leader has it.
        let unlike = *prev_offset >= replica.base && replica.last_term(*prev_offset) != *prev_term;
        if *prev_offset > replica.log_end() || (unlike && self.rules.has(Rule::PrevMatches)) {
            return;
        }
        self.follow(state, node, *term, *from);
        let end = *prev_offset + entries.end();
        for (entry, at) in entries.iter().zip(*prev_offset..) {
            if at < state.replicas[node].base {
                continue;
            }
            let there = state.replicas[node].log.get(at);
            if there.is_some_and(|there| there.term != entry.term) {
                self.cut(state, node, at);
            }
            if at == state.replicas[node].log_end() {
                state.replicas[node].log.push(entry);
            }
        }
        if !self.rules.has(Rule::CutOnlyAtConflict) && end < state.replicas[node].log_end() {
            self.cut(state, node, end);
        }
        let replica = &mut state.replicas[node];
        replica.verified = replica.verified.max(end);
        let repaired = replica.verified >= replica.repair_to;
        if repaired && !self.rules.has(Rule::RepairedWhenFsynced) {
            replica.repair_to = 0;
        }
        let known = if self.rules.has(Rule::HwWithinVerified) {
            replica.verified
        } else {
            replica.log_end()
        };
        let told = known.min(*high_watermark);
        if told < replica.high_watermark && !self.rules.has(Rule::HwNeverBack) {
            replica.high_watermark = told;
            state.observer.broken.note(Invariant::WatermarkFlushed);
        } else {
            replica.high_watermark = replica.high_watermark.max(told);
        }
        self.ack(state, node);
    }

    /// What was verified counts for one term's leader.
    pub(super) fn follow(&self, state: &mut State, node: usize, term: Term, from: Node) {
        let replica = &mut state.replicas[node];
        if replica.verified_term != term {
            replica.verified_term = term;
            replica.verified_from = from;
            if self.rules.has(Rule::VerifiedOfTerm) {
                replica.verified = 0;
            }
        }
    }

    /// Truncates to `at`.
    fn cut(&self, state: &mut State, node: usize, at: Offset) {
        let replica = &mut state.replicas[node];
        if at < replica.high_watermark {
            state.observer.broken.note(Invariant::NothingBelowCut);
        }
        if !self.rules.has(Rule::SessionsRolledBack) {
            let gone = replica.log.from(at);
            replica.not_rolled_back |= gone.iter().fold(0, |set, entry| set | 1 << entry.sequence);
        }
        if at < replica.durable_end {
            let cut = replica.log.below(replica.durable_end).from(at);
            replica.old_tail = cut.then(replica.old_tail);
            replica.durable_end = at;
        }
        replica.log = replica.log.below(at);
        if self.rules.has(Rule::FlushedEndDropsAtCut) {
            replica.flushed_end = replica.flushed_end.min(at);
        }
    }

    /// Sends the cumulative ack of what was verified, if there is any.
    pub(super) fn ack(&self, state: &mut State, node: usize) {
        let replica = &state.replicas[node];
        let late = replica.verified_term < replica.promised;
        // Without either rule the ack is of its message's term, whatever was promised since.
        let both = [Rule::LateFsyncAcksNothing, Rule::RefuseOldTerm];
        let silent = late && both.iter().all(|rule| self.rules.has(*rule));
        if replica.leader.is_some() || replica.verified_term == 0 || silent {
            return;
        }
        let flushed = if self.rules.has(Rule::AckFlushed) {
            replica.flushed_end.min(replica.log_end())
        } else {
            replica.log_end()
        };
        let end =
            if self.rules.has(Rule::AckVerified) { flushed.min(replica.verified) } else { flushed };
        if end == 0 {
            return;
        }
        let (from, to, term) = (replica.uuid, replica.verified_from, replica.verified_term);
        state.observer.acked(from, term);
        state.observer.counted(from);
        state.network.insert(Message::Ack { from, to, term, end });
    }

    /// Makes everything written durable.
    pub(super) fn flush(&self, state: &mut State, node: usize) {
        let replica = &mut state.replicas[node];
        replica.durable_end = replica.log_end();
        replica.flushed_end = replica.log_end();
        replica.old_tail = Log::default();
        replica.installing = false;
        // Repaired is what a leader's Replicates have filled again, and an fsync has kept.
        if replica.durable_end.min(replica.verified) >= replica.repair_to {
            replica.repair_to = 0;
        }
    }

    pub(super) fn fsync(&self, state: &mut State, node: usize) {
        let replica = &state.replicas[node];
        let settled = replica.durable_end == replica.log_end()
            && replica.old_tail.is_empty()
            && !replica.installing;
        if settled && replica.repair_to == 0 {
            return;
        }
        self.flush(state, node);
        if state.replicas[node].leader.is_some() {
            self.advance(state, node);
        } else {
            self.ack(state, node);
        }
    }

    pub(super) fn crash(&self, state: &mut State, node: usize, kept: Kept) {
        let before = &state.replicas[node];
        let mut log = before.log;
        let mut old_tail = Log::default();
        let mut durable_end = before.durable_end;
        match kept {
            Kept::Below(end) => {
                log = log.below(end);
                if end == durable_end {
                    old_tail = before.old_tail;
                }
            }
            Kept::CutUndone => {
                log = log.below(durable_end).then(before.old_tail);
                durable_end = log.end();
            }
            Kept::Mixture => {
                log = log.then(before.old_tail.from(log.end() - durable_end));
                durable_end = log.end();
            }
        }
        if !self.rules.has(Rule::RestartKeepsLog) {
            log = log.below(before.high_watermark);
            durable_end = durable_end.min(log.end());
        }
        // Part of a state is none, and no log either: the mark says so.
        let whole = log.end() >= before.base;
        let mut base = if whole { before.base } else { 0 };
        if !whole && self.rules.has(Rule::SnapshotAtomic) {
            (log, durable_end) = (Log::default(), 0);
        } else if !whole {
            // It takes what is there for the whole state, which has nothing of the first write.
            base = before.base;
            log = before.log.below(base).without_first_write();
            durable_end = base;
        }
        let remembers = self.rules.has(Rule::DamageIsRemembered);
        let repair_to = if remembers { before.repair_to } else { 0 };
        self.start(
            state,
            node,
            Replica { log, base, old_tail, durable_end, repair_to, ..before.clone() },
        );
        state.used.crashes += 1;
    }

    /// A process starts on what `disk` holds.
    fn start(&self, state: &mut State, node: usize, disk: Replica) {
        let grants = self.bounds.leases() && self.rules.has(Rule::GrantsAfterStart);
        state.replicas[node] = Replica {
            uuid: disk.uuid,
            promised: disk.promised_on_disk,
            promised_on_disk: disk.promised_on_disk,
            led_or_promised_at_start: disk.promised_on_disk,
            flushed_end: disk.durable_end,
            durable_end: disk.durable_end,
            log: disk.log,
            base: disk.base,
            high_watermark: if self.rules.has(Rule::RestartKnowsBase) { disk.base } else { 0 },
            old_tail: disk.old_tail,
            repair_to: disk.repair_to,
            grant_left: if grants { LEASE } else { 0 },
            ..Replica::default()
        };
    }

    pub(super) fn wipe(&self, state: &mut State, node: usize) {
        let before = state.replicas[node].uuid;
        let fresh = self.rules.has(Rule::NewUuidAfterLoss);
        let uuid = if fresh { before + self.bounds.nodes } else { before };
        state.observer.forgot = state.observer.forgot.with(before);
        self.start(state, node, Replica { uuid, ..Replica::default() });
        state.used.wipes += 1;
    }

    pub(super) fn damage(&self, state: &mut State, node: usize, at: Offset) {
        let mut disk = state.replicas[node].clone();
        if self.rules.has(Rule::CorruptDoesNotAnswer) {
            disk.repair_to = disk.repair_to.max(disk.durable_end);
        }
        let at = if at < disk.base { 0 } else { at };
        disk.base = disk.base.min(at);
        disk.log = disk.log.below(at);
        disk.durable_end = at;
        disk.old_tail = Log::default();
        self.start(state, node, disk);
        state.used.damages += 1;
    }

    pub(super) fn delete(&self, state: &mut State, node: usize) {
        let record = state.record();
        let uuid = state.replicas[node].uuid;
        let dropped = record.dropped.has(uuid);
        let left = state.records[0].voters.has(uuid) && !record.voters.has(uuid);
        if dropped || (left && !self.rules.has(Rule::DeleteAfterDrop)) {
            if !dropped {
                state.observer.broken.note(Invariant::DeletedAfterDrop);
            }
            state.observer.forgot = state.observer.forgot.with(uuid);
            state.replicas[node] = Replica { uuid, deleted: true, ..Replica::default() };
        }
    }

    pub(super) fn on_probe(
        &self,
        state: &mut State,
        node: usize,
        from: Node,
        term: Term,
        round: u8,
    ) {
        let leads_it = state.replicas[node].leader.as_ref().is_some_and(|l| l.term >= term);
        if state.replicas[node].deleted || leads_it || !self.promise(state, node, term) {
            return;
        }
        let replica = &mut state.replicas[node];
        if self.bounds.leases() {
            replica.grant_left = LEASE;
        }
        let uuid = replica.uuid;
        state.observer.acked(uuid, term);
        state.observer.counted(uuid);
        state.network.insert(Message::ProbeAck { from: uuid, to: from, term, round });
    }
}
