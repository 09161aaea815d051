//! What a leader does: take writes, send, commit, answer reads, propose voters, hand over.

use std::time::Duration;

use ironring_core::{GroupSeq, Instant, NodeId, Offset, PartitionId, Term};

use super::leader::{Leader, LogEnds, Proposal, Stage};
use super::message::{AGE_UNKNOWN, Ack, AckState, Replicate, Request};
use super::replica::Role;
use super::{Effect, NotServing, ReadTicket, Replicator, Section, TermStarts};
use crate::metadata::{ReplicaId, Wish};

/// An age as it is sent: milliseconds, rounded up.
fn age_ms(age: Duration) -> u32 {
    u32::try_from(age.as_micros().div_ceil(1000)).unwrap_or(AGE_UNKNOWN)
}

impl Replicator {
    /// Leads, when metadata name this run and nothing speaks against it; else says what does.
    pub(super) fn try_to_lead(&mut self, now: Instant, partition: PartitionId) {
        let r = self.replica(partition);
        let term = r.record.term;
        if r.record.leader != Some(r.me) || !r.may_lead(term) {
            return self.ask_again(partition);
        }
        if term > r.promised {
            self.promise(partition, term);
        }
        let leader = self.new_leader(now, partition);
        self.replica_mut(partition).role = Role::Leader(Box::new(leader));
        self.start_term(partition);
    }

    /// Begins the term once its promise is durable, and where the log begins.
    pub(super) fn start_term(&mut self, partition: PartitionId) {
        let r = self.replica_mut(partition);
        let (durable, offset) = (r.promised_durable, r.end);
        let begins = r.flushed_end >= r.start;
        let Role::Leader(leader) = &mut r.role else { return };
        if leader.stage == Stage::Promising && durable >= leader.term && begins {
            leader.stage = Stage::Starting;
            leader.term_start = offset;
            let term = leader.term;
            self.effects.push(Effect::StartTerm { partition, term, offset });
        }
    }

    /// Instead of the entry that begins the term a record was appended, in `group`, with which the log goes
    /// on at `end`: the state has something newer than the log, because an operator let a replica lead that
    /// was being sent it. [`Effect::StartTerm`] comes again when that is durable; nothing is sent before.
    /// `terms`: that of the one before `end`.
    ///
    /// # Panics
    /// When this replica has begun its term, or others vote: they may have what would be skipped.
    pub fn jumped(
        &mut self,
        partition: PartitionId,
        end: Offset,
        terms: TermStarts,
        group: GroupSeq,
    ) {
        let r = self.replica_mut(partition);
        assert!(end > r.end, "a log goes on behind its end");
        let Role::Leader(leader) = &mut r.role else { panic!("{partition} is led elsewhere") };
        assert_eq!(leader.stage, Stage::Starting, "{partition}: its term is to begin");
        assert_eq!(leader.voters, [r.me.replica], "{partition}: nobody else has a say");
        leader.stage = Stage::Promising;
        leader.peers.iter_mut().for_each(|peer| peer.next = end);
        (r.start, r.end, r.terms) = (end, end, terms);
        self.stage_end(partition, end, group);
        self.note_progress(partition);
    }

    /// What metadata have not decided is asked for again: an election when they name this storage
    /// and it cannot lead, the transfer this run has stepped down for.
    pub(super) fn ask_again(&mut self, partition: PartitionId) {
        let r = self.replica(partition);
        let me = r.me;
        if let Some((term, to)) = r.handed_over {
            let request = Request::Transfer { partition, term, from: me.replica, to };
            return self.effects.push(Effect::Ask(request));
        }
        let named = r.record.leader.is_some_and(|l| l.replica == me.replica);
        if named && r.record.term >= r.promised {
            let request = Request::Election { partition, term: r.record.term, from: me };
            self.effects.push(Effect::Ask(request));
        }
    }

    /// Term and offset for a write that is appended at once. O(1).
    ///
    /// # Errors
    /// When this replica does not serve, has fewer voters than `min_voters`, or hears no majority of
    /// them.
    pub fn admit(
        &self,
        now: Instant,
        partition: PartitionId,
        min_voters: usize,
    ) -> Result<(), NotServing> {
        let leader = self.serving(partition)?;
        let have = leader.voters.len();
        if have < min_voters {
            return Err(NotServing::FewVoters { have, need: min_voters });
        }
        if leader.quorum_silence(now) > self.settings.replica_timeout {
            return Err(NotServing::NoQuorum);
        }
        Ok(())
    }

    /// Term and offset of the next entry.
    ///
    /// # Errors
    /// When this replica does not serve.
    pub fn next_place(&self, partition: PartitionId) -> Result<(Term, Offset), NotServing> {
        let leader = self.serving(partition)?;
        Ok((leader.term, self.replica(partition).end))
    }

    fn serving(&self, partition: PartitionId) -> Result<&Leader, NotServing> {
        let r = self.replica(partition);
        let Role::Leader(leader) = &r.role else {
            return Err(NotServing::Elsewhere(r.record.leader));
        };
        match leader.stage {
            Stage::Serving => Ok(leader),
            _ => Err(NotServing::Changing),
        }
    }

    /// Entries up to `end` were appended in the leader's term; they are staged in `group`.
    ///
    /// # Panics
    /// When this replica does not lead: [`Replicator::admit`] was asked in this turn.
    pub fn appended(&mut self, partition: PartitionId, end: Offset, group: GroupSeq) {
        let r = self.replica_mut(partition);
        let leader = r.leader().expect("only a leader appends by itself");
        let (term, starts) = (leader.term, leader.stage == Stage::Starting);
        assert!(end > r.end, "an append adds entries");
        r.terms.append(term, r.end);
        r.end = end;
        self.stage_end(partition, end, group);
        if starts { self.wake(partition) } else { self.wake_matched(partition) }
    }

    /// Puts the partition on the list of each follower that can be sent entries.
    fn wake_matched(&mut self, partition: PartitionId) {
        let i = self.index(partition);
        let Role::Leader(leader) = &mut self.replicas[i].role else { return };
        for peer in &mut leader.peers {
            if peer.matched && !peer.noted {
                peer.noted = true;
                self.to_send.entry(peer.node).or_default().push_back(partition);
            }
        }
    }

    /// Puts the partition on the list of every follower, with entries or a probe that is due.
    pub fn wake(&mut self, partition: PartitionId) {
        let i = self.index(partition);
        let Role::Leader(leader) = &mut self.replicas[i].role else { return };
        for peer in &mut leader.peers {
            if !peer.noted {
                peer.noted = true;
                self.to_send.entry(peer.node).or_default().push_back(partition);
            }
        }
    }

    /// Nodes there is something to send to.
    pub fn nodes_to_send(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.to_send.iter().filter(|(_, list)| !list.is_empty()).map(|(node, _)| *node)
    }

    /// The next message for a node, with room for up to `entries_max` entries; the owner says by
    /// [`Replicator::sent`] how many it put in. `None`: there is nothing more to send.
    pub fn next_section(
        &mut self,
        now: Instant,
        node: NodeId,
        entries_max: u32,
    ) -> Option<Section> {
        loop {
            let partition = self.to_send.get_mut(&node)?.pop_front()?;
            if let Some(section) = self.section(now, node, partition, entries_max) {
                return Some(section);
            }
        }
    }

    fn section(
        &mut self,
        now: Instant,
        node: NodeId,
        partition: PartitionId,
        entries_max: u32,
    ) -> Option<Section> {
        let i = self.index(partition);
        let age_ms = self.age(now, partition).map_or(AGE_UNKNOWN, age_ms);
        let r = &mut self.replicas[i];
        let me = r.me;
        let (start, end, high_watermark) = (r.start, r.end, r.high_watermark);
        let Role::Leader(leader) = &mut r.role else { return None };
        let term = leader.term;
        let sends = leader.stage != Stage::Promising;
        let peer = leader.peers.iter_mut().find(|p| p.node == node)?;
        peer.noted = false;
        if !sends {
            return None;
        }
        if peer.next < start {
            if !peer.snapshot {
                (peer.snapshot, peer.snapshot_told) = (true, now);
                let has = peer.acked;
                self.effects.push(Effect::NeedsSnapshot { partition, node, has });
            }
            if !peer.probe_due {
                return None;
            }
        }
        // A replica that waits for a snapshot is still probed: it is alive, and may say so.
        let first = peer.next.max(start).min(end);
        // Most followers have what the leader had when its term began: they get its first entry
        // without being asked.
        let sends = peer.matched || first == leader.term_start;
        let count = if sends && !peer.snapshot { end.0 - first.0 } else { 0 };
        if count == 0 && !peer.probe_due {
            return None;
        }
        let probe = peer.probe_due;
        let message = Replicate {
            partition,
            to: peer.id,
            from: me,
            term,
            first,
            prev_term: r.terms.at(Offset(first.0 - 1)),
            count: count.min(u64::from(entries_max)) as u32,
            high_watermark,
            probe: now,
            answered: peer.lease_from.unwrap_or_default(),
            age_ms,
        };
        Some(Section { message, probe })
    }

    /// When another replica of a partition that this one leads said last that its copy is damaged.
    #[must_use]
    pub fn follower_hurt_at(&self, partition: PartitionId, id: ReplicaId) -> Option<Instant> {
        let leader = self.replica(partition).leader()?;
        leader.peers.iter().find(|p| p.id == id).and_then(|p| p.hurt)
    }

    /// A message of [`Replicator::next_section`] was sent with that many entries.
    pub fn sent(&mut self, node: NodeId, section: &Section, count: u32) {
        let partition = section.message.partition;
        let i = self.index(partition);
        let end = self.replicas[i].end;
        let Role::Leader(leader) = &mut self.replicas[i].role else { return };
        let Some(peer) = leader.peers.iter_mut().find(|p| p.node == node) else { return };
        if count == 0 && !section.probe {
            return;
        }
        peer.probe_due = false;
        peer.next = Offset(section.message.first.0 + u64::from(count)).max(peer.next);
        if peer.matched && peer.next < end && !peer.noted && count > 0 {
            peer.noted = true;
            self.to_send.entry(node).or_default().push_back(partition);
        }
    }

    /// A connection to a node is there (again): what was sent before may be lost.
    pub fn link_up(&mut self, node: NodeId) {
        for i in 0..self.replicas.len() {
            let id = PartitionId(self.first.0 + i as u32);
            let Role::Leader(leader) = &mut self.replicas[i].role else { continue };
            let Some(peer) = leader.peers.iter_mut().find(|p| p.node == node) else { continue };
            if peer.acked > Offset::NONE {
                peer.next = peer.acked;
            }
            peer.probe_due = true;
            if !peer.noted {
                peer.noted = true;
                self.to_send.entry(node).or_default().push_back(id);
            }
        }
    }

    /// A follower has the state up to `end`: entries go on from there.
    pub fn snapshot_sent(&mut self, partition: PartitionId, node: NodeId, end: Offset) {
        let i = self.index(partition);
        let Role::Leader(leader) = &mut self.replicas[i].role else { return };
        let Some(peer) = leader.peers.iter_mut().find(|p| p.node == node) else { return };
        peer.snapshot = false;
        peer.matched = false;
        peer.probe_due = true;
        peer.next = peer.next.max(end);
        self.wake(partition);
    }

    /// A replica's answer.
    pub fn ack(&mut self, now: Instant, ack: &Ack) {
        let partition = ack.partition;
        let i = self.index(partition);
        let r = &mut self.replicas[i];
        let Role::Leader(leader) = &mut r.role else { return };
        if ack.term != leader.term || ack.to != r.me.replica {
            return;
        }
        if let AckState::Promised { term } = ack.state {
            if term > leader.term {
                self.step_down(partition);
            }
            return;
        }
        let asks = matches!(ack.state, AckState::Mismatch { end: Offset::NONE, .. });
        if asks && let Some(peer) = leader.peers.iter().find(|p| p.id == ack.from.replica) {
            let (node, has) = (peer.node, peer.acked);
            self.effects.push(Effect::NeedsSnapshot { partition, node, has });
        }
        let ends = LogEnds { end: r.end, terms: &r.terms };
        let (own, coming) = (r.flushed_end, r.coming);
        let everywhere = leader.all_end(own, coming);
        if leader.take_ack(now, ack, &ends) {
            // The slowest replica's ack commits nothing, and yet somebody may wait for it.
            let everywhere_moved = leader.all_end(own, coming) > everywhere;
            self.commit(now, partition);
            if everywhere_moved {
                self.note_progress(partition);
            }
        }
        self.answer_reads(now, partition);
        self.look_at_handover(now, partition);
        self.wake_behind(partition, ack.from.replica);
    }

    /// Goes on sending to a follower that is not up to date.
    fn wake_behind(&mut self, partition: PartitionId, id: ReplicaId) {
        let i = self.index(partition);
        let end = self.replicas[i].end;
        let Role::Leader(leader) = &mut self.replicas[i].role else { return };
        let Some(peer) = leader.peers.iter_mut().find(|p| p.id == id) else { return };
        let owed = peer.matched && peer.next < end;
        if (owed || (!peer.matched && peer.probe_due)) && !peer.noted {
            peer.noted = true;
            self.to_send.entry(peer.node).or_default().push_back(partition);
        }
    }

    /// Raises the high watermark to what a quorum has fsynced.
    pub(super) fn commit(&mut self, now: Instant, partition: PartitionId) {
        let r = self.replica_mut(partition);
        let (own, high_watermark, end) = (r.flushed_end, r.high_watermark, r.end);
        let Role::Leader(leader) = &mut r.role else { return };
        let Some(committed) = leader.committed(own, high_watermark) else { return };
        assert!(committed <= end, "nobody has more of this term than its leader");
        let first = leader.stage == Stage::Starting;
        if first {
            leader.stage = Stage::Serving;
        }
        let term = leader.term;
        r.high_watermark = committed;
        self.note_progress(partition);
        if first {
            self.effects.push(Effect::Serving { partition, term });
            self.propose(now, partition);
        }
        self.look_at_handover(now, partition);
    }

    /// Whether a read may be answered from what is applied.
    ///
    /// Returns false when [`Effect::ReadDecided`] will tell: the lease has run out, and a round of
    /// probes is on its way. Who answers checks [`Replicator::has_lease`] again before it does.
    ///
    /// # Errors
    /// When this replica does not serve.
    pub fn read(
        &mut self,
        now: Instant,
        partition: PartitionId,
        ticket: ReadTicket,
    ) -> Result<bool, NotServing> {
        self.serving(partition)?;
        if self.has_lease(now, partition) {
            return Ok(true);
        }
        let r = self.replica_mut(partition);
        if let Role::Leader(leader) = &mut r.role {
            leader.reads.push_back((ticket, now));
            leader.peers.iter_mut().for_each(|p| p.probe_due = true);
        }
        self.wake(partition);
        Ok(false)
    }

    /// Whether this replica leads and nobody else can be serving.
    #[must_use]
    pub fn has_lease(&self, now: Instant, partition: PartitionId) -> bool {
        self.replica(partition).leader().is_some_and(|l| l.has_lease(now, &self.settings))
    }

    /// Until when [`Replicator::has_lease`] holds if nothing more is heard.
    #[must_use]
    pub fn lease_until(&self, now: Instant, partition: PartitionId) -> Instant {
        let leader = self.replica(partition).leader();
        leader.map_or(Instant(0), |l| l.lease_until(now, &self.settings))
    }

    /// How old what is committed here may be, by whatever clock: nothing of what was committed that long
    /// ago is missing. `None`: nobody knows, because no leader was heard in this run.
    #[must_use]
    pub fn age(&self, now: Instant, partition: PartitionId) -> Option<Duration> {
        let r = self.replica(partition);
        let from = match &r.role {
            Role::Leader(leader) if leader.knows_commits() => {
                if leader.has_lease(now, &self.settings) {
                    return Some(Duration::ZERO);
                }
                let until = leader.lease_until(now, &self.settings);
                (until > Instant(0)).then_some(until)
            }
            _ => r.current,
        };
        from.map(|at| self.settings.at_most(now.since(at)))
    }

    fn answer_reads(&mut self, now: Instant, partition: PartitionId) {
        let i = self.index(partition);
        let Role::Leader(leader) = &mut self.replicas[i].role else { return };
        while let Some(ticket) = leader.next_read(now) {
            self.effects.push(Effect::ReadDecided { ticket, confirmed: true });
        }
    }

    /// What a leader does every now and then.
    pub(super) fn beat(&mut self, now: Instant, partition: PartitionId) {
        let resend_after = self.settings.resend_after;
        if let Role::Leader(leader) = &mut self.replica_mut(partition).role {
            leader.beat(now, resend_after);
            if let Stage::HandingOver { until, .. } = leader.stage
                && now >= until
            {
                leader.stage = Stage::Serving;
            }
        }
        self.ask_if_stuck(now, partition);
        // Before it hands over: that waits for what most voters have, and may be begun anew each time it
        // has waited in vain. Without those that have lost their logs it comes to an end.
        self.propose(now, partition);
        self.leave_if_asked(now, partition);
        self.leave_if_hurt(now, partition);
        self.wake(partition);
    }

    /// A leader that cannot begin its term, for want of voters or of a disk that writes, asks for another
    /// election. One whose disk is at fault answers no fence, and so does not win it.
    fn ask_if_stuck(&mut self, now: Instant, partition: PartitionId) {
        let r = self.replica(partition);
        let Some(leader) = r.leader() else { return };
        let writes_nothing = leader.writes_nothing(now, r.flushed_end, &self.settings);
        if writes_nothing || leader.is_stuck(now, &self.settings) {
            let (term, from) = (leader.term, leader.me);
            self.effects.push(Effect::Ask(Request::Election { partition, term, from }));
        }
    }

    /// Proposes the voters there should be, or repeats what was proposed.
    fn propose(&mut self, now: Instant, partition: PartitionId) {
        let settings = self.settings;
        let i = self.index(partition);
        let r = &self.replicas[i];
        let me = r.me.replica;
        let Some(leader) = r.leader() else { return };
        let (term, version) = (leader.term, leader.version);
        let request = |base: u64, voters: &[ReplicaId]| {
            let voters = voters.to_vec();
            Effect::Ask(Request::Voters { partition, term, from: me, base, voters })
        };
        if let Some(open) = &leader.proposal {
            if now >= open.again_at {
                self.effects.push(request(open.base, &open.voters));
                let again_at = now + settings.heartbeat;
                if let Role::Leader(leader) = &mut self.replicas[i].role
                    && let Some(open) = &mut leader.proposal
                {
                    open.again_at = again_at;
                }
            }
            return;
        }
        if leader.stage != Stage::Serving {
            return;
        }
        let Some(voters) = leader.wanted_voters(now, r, &settings) else { return };
        if leader.was_refused(now, &voters, settings.heartbeat) {
            return;
        }
        self.effects.push(request(version, &voters));
        let again_at = now + settings.heartbeat;
        if let Role::Leader(leader) = &mut self.replicas[i].role {
            leader.proposal = Some(Proposal { base: version, voters, again_at });
        }
    }

    /// A leader that is to leave hands over to the voter that has most.
    fn leave_if_asked(&mut self, now: Instant, partition: PartitionId) {
        let r = self.replica(partition);
        let leaving = r.record.replica(r.me.replica).is_some_and(|r| r.wish == Wish::Leaving);
        if !leaving {
            return;
        }
        if let Some(to) = self.successor(now, partition, |_| true) {
            // What speaks against it at present is asked again with the next beat.
            let _ = self.hand_over(now, partition, Some(to));
        }
    }

    /// A leader whose copy is damaged hands over to a voter that is whole and up to date. Without one
    /// there is nobody better: it goes on, because stepping down would take away all of the partition
    /// for the sake of what cannot be read of it.
    fn leave_if_hurt(&mut self, now: Instant, partition: PartitionId) {
        let r = self.replica(partition);
        if !r.hurt {
            return;
        }
        if let Some(to) = self.successor(now, partition, |_| true) {
            // What speaks against it at present is asked again with the next beat.
            let _ = self.hand_over(now, partition, Some(to));
        }
    }

    /// The voter that would take over best: of those heard lately one on a `preferred` node that lacks
    /// little, or the one that has most.
    #[must_use]
    pub fn successor(
        &self,
        now: Instant,
        partition: PartitionId,
        preferred: impl Fn(NodeId) -> bool,
    ) -> Option<ReplicaId> {
        let r = self.replica(partition);
        r.leader()?.successor(now, r, self.settings.lease, preferred)
    }

    /// Hands the leadership to another voter: no more writes are taken, and when it has everything this
    /// replica steps down and asks metadata to name it.
    ///
    /// One that is named must lack little: nobody reads or writes while it is waited for. Without a name
    /// it is [`Replicator::successor`], whatever it lacks: this replica goes away.
    ///
    /// # Errors
    /// When this replica does not serve, a change of voters is open, or there is no such voter that was
    /// heard lately: what one has acked that is silent may be gone with its disk.
    pub fn hand_over(
        &mut self,
        now: Instant,
        partition: PartitionId,
        to: Option<ReplicaId>,
    ) -> Result<(), NotServing> {
        let leader = self.serving(partition)?;
        let r = self.replica(partition);
        let lease = self.settings.lease;
        let (to, fit) = match to {
            Some(to) => (to, leader.is_near(now, to, r.end, lease)),
            None => match leader.successor(now, r, lease, |_| true) {
                Some(to) => (to, true),
                None => {
                    return Err(NotServing::FewVoters { have: leader.voters.len(), need: 2 });
                }
            },
        };
        let votes = to != r.me.replica && leader.voters.contains(&to);
        let fit = fit && votes && !leader.is_hurt(now, to);
        if leader.proposal.is_some() || !fit {
            return Err(NotServing::Changing);
        }
        let until = now + self.settings.handover_timeout;
        if let Role::Leader(leader) = &mut self.replica_mut(partition).role {
            leader.stage = Stage::HandingOver { to, until };
        }
        self.wake(partition);
        self.look_at_handover(now, partition);
        Ok(())
    }

    fn look_at_handover(&mut self, now: Instant, partition: PartitionId) {
        let patience = self.settings.lease;
        let r = self.replica(partition);
        let Some(leader) = r.leader() else { return };
        let Some(to) = leader.successor_ready(now, r.end, patience) else { return };
        if r.high_watermark < r.end {
            // Who waits for these entries is answered first.
            return;
        }
        let term = leader.term;
        self.step_down(partition);
        self.replica_mut(partition).handed_over = Some((term, to));
        self.ask_again(partition);
    }
}
