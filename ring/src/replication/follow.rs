//! What a follower does with entries.

use std::time::Duration;

use ironring_core::{GroupSeq, Instant, NodeId, Offset, PartitionId, Term};

use super::message::{AGE_UNKNOWN, Ack, AckState, Replicate};
use super::replica::{Follower, Heard, Role};
use super::{Effect, Replicator, TermStarts, Verdict};

/// How often a damaged follower asks for the state, by its leader's clock.
const ASK_EVERY: Duration = Duration::from_millis(500);

impl Replicator {
    /// Judges entries that arrived from a node. `term_of`: the term of the message's entry with that
    /// number. O(entries) comparisons at most, one for entries that are new.
    pub fn judge(
        &mut self,
        now: Instant,
        node: NodeId,
        message: &Replicate,
        term_of: &dyn Fn(u32) -> Term,
    ) -> Verdict {
        let partition = message.partition;
        if message.to != self.replica(partition).me.replica {
            return Verdict::Done;
        }
        let promised = self.replica(partition).promised;
        if message.term < promised {
            self.refuse_stale(node, message);
            return Verdict::Done;
        }
        if message.term > promised {
            self.promise(partition, message.term);
        }
        let lease_until = now + self.settings.lease;
        let r = self.replica_mut(partition);
        let Role::Follower(follower) = &mut r.role else {
            panic!("two leaders of {partition} in {}", message.term)
        };
        follower.heard = Some(Heard { node, leader: message.from, at: now });
        if message.probe > follower.probe {
            follower.probe = message.probe;
            follower.came.push(now, message.probe);
        }
        r.grants.grant(lease_until);
        if let Some(mismatch) = r.mismatch(message) {
            if let Role::Follower(follower) = &mut r.role {
                follower.answer = Some((mismatch, message.probe));
            }
            self.note_ack(partition);
            return Verdict::Done;
        }
        let (skip, differs) = r.compare(message, term_of);
        if skip == message.count {
            self.took(message, message.end(), term_of, None);
            return Verdict::Done;
        }
        let at = Offset(message.first.0 + u64::from(skip));
        Verdict::Append { skip, cut: differs.then_some(at) }
    }

    fn refuse_stale(&mut self, node: NodeId, message: &Replicate) {
        let r = self.replica_mut(message.partition);
        // The refusal must not promise what a crash could take back.
        if r.promised_durable < r.promised {
            return;
        }
        let ack = Ack {
            partition: message.partition,
            from: r.me,
            to: message.from.replica,
            term: message.term,
            state: AckState::Promised { term: r.promised },
            probe: Instant(0),
        };
        self.refusals.push((node, ack));
    }

    /// The log was cut: what was at `end` and behind is gone, by a record that is staged and lies
    /// before whatever replaces it.
    ///
    /// # Panics
    /// When something committed would be cut: the metadata group elected a replica that lacked it.
    pub fn cut(&mut self, partition: PartitionId, end: Offset) {
        let r = self.replica_mut(partition);
        assert!(end >= r.high_watermark, "{partition}: a cut at {end} below the high watermark");
        assert!(end < r.end, "{partition}: nothing to cut at {end}");
        r.end = end;
        r.terms.truncate(end);
        r.flushed_end = r.flushed_end.min(end);
        for (_, id, staged) in &mut self.staged {
            if let super::Staged::End(staged_end) = staged
                && *id == partition
            {
                *staged_end = end.min(*staged_end);
            }
        }
    }

    /// The entries of a message up to `end` are in the log; those that were not before are staged in
    /// `group`.
    pub fn took(
        &mut self,
        message: &Replicate,
        end: Offset,
        term_of: &dyn Fn(u32) -> Term,
        group: Option<GroupSeq>,
    ) {
        let partition = message.partition;
        let r = self.replica_mut(partition);
        assert_eq!(r.promised, message.term, "the message was judged in this turn");
        let before = r.end;
        while r.end < end {
            let number = (r.end.0 - message.first.0) as u32;
            r.terms.append(term_of(number), r.end);
            r.end = r.end.next();
        }
        let Role::Follower(follower) = &mut r.role else { return };
        follower.verified = follower.verified.max(end);
        follower.answer = None;
        let high_watermark = message.high_watermark.min(follower.verified);
        if message.high_watermark <= high_watermark.max(r.high_watermark)
            && message.age_ms != AGE_UNKNOWN
            && let Some(sent) = follower.came.before(message.answered)
        {
            let age = u64::from(message.age_ms) * 1_000_000;
            r.current = sent.0.checked_sub(age).map(Instant).max(r.current);
        }
        if high_watermark > r.high_watermark {
            r.high_watermark = high_watermark;
            self.note_progress(partition);
        }
        if end > before {
            let group = group.expect("what was appended is in a group");
            self.stage_end(partition, end, group);
        }
        self.look_at_repair(partition);
        self.note_ack(partition);
    }

    /// A message of a leader's term came that is no [`Replicate`]: what is lower has no effect any more.
    pub fn hear(&mut self, term: Term, partition: PartitionId) {
        if term > self.replica(partition).promised {
            self.promise(partition, term);
        }
    }

    /// Whether this log cannot be brought to the leader's by entries from `end` on: it ends before, or
    /// the entry before `end` has another term than the leader's. Then nothing it has from there on
    /// was committed; otherwise nothing of it may be given up for a state.
    #[must_use]
    pub fn needs_state(&self, partition: PartitionId, end: Offset, end_term: Term) -> bool {
        let r = self.replica(partition);
        let has = r.end >= end && r.terms.at(Offset(end.0 - 1)) == end_term;
        end > r.high_watermark && !has && r.leader().is_none()
    }

    /// The state of a leader of `term` is in the log, up to `end`, by records staged in `group` and
    /// before; no entry is. `terms`: that of the one before `end`.
    ///
    /// # Panics
    /// When the term is over, or [`Replicator::needs_state`] says no.
    pub fn installed(
        &mut self,
        partition: PartitionId,
        term: Term,
        end: Offset,
        terms: TermStarts,
        group: GroupSeq,
    ) {
        self.staged
            .retain(|(_, id, what)| *id != partition || matches!(what, super::Staged::Promise(_)));
        let r = self.replica_mut(partition);
        assert_eq!(r.promised, term, "the owner asked for the term before it appended");
        assert!(end > r.high_watermark, "a state that is not newer is refused");
        // What is fsynced and known to be the leader's; the rest of the log is gone.
        r.flushed_end = r.flushed_end.min(r.high_watermark);
        (r.start, r.end, r.high_watermark) = (end, end, end);
        r.terms = terms;
        let Role::Follower(follower) = &mut r.role else {
            panic!("{partition}: a leader was sent a state in its own term")
        };
        follower.verified = follower.verified.max(end);
        follower.answer = None;
        self.stage_end(partition, end, group);
        self.note_progress(partition);
        self.look_at_repair(partition);
    }

    /// A damaged log counts again once what was damaged is filled and fsynced.
    pub(super) fn look_at_repair(&mut self, partition: PartitionId) {
        let r = self.replica_mut(partition);
        let Some(below) = r.damaged_below else { return };
        let Role::Follower(Follower { verified, .. }) = r.role else { return };
        if verified >= below && r.flushed_end >= below {
            r.damaged_below = None;
            self.effects.push(Effect::Repaired { partition });
        }
    }

    /// Something that was applied cannot be read any more, although the log is whole as a list of
    /// entries. Until [`Replicator::healed`] the replica neither votes nor begins to lead; it takes
    /// and acks entries, which it does hold. A leader goes on until a voter that is whole can take
    /// over: that is tried with every beat. A follower asks its leader for the whole state now and
    /// then, instead of an ack: by a mismatch at no offset at all. The first answer of a term is one,
    /// so that no leader takes it for a successor.
    ///
    /// `known`: what is lost is known, and can be asked of others one by one. Such a copy votes, and
    /// leads, when no leader is found without it for seconds: copies that are all damaged could not
    /// become whole otherwise.
    pub fn hurt(&mut self, partition: PartitionId, known: bool) {
        let r = self.replica_mut(partition);
        (r.hurt, r.resorts) = (true, known);
        r.fence_waits = false;
        if let Role::Follower(follower) = &mut r.role {
            follower.asked = Instant(0);
        }
    }

    /// Everything that was lost is there again and fsynced.
    pub fn healed(&mut self, partition: PartitionId) {
        let r = self.replica_mut(partition);
        if std::mem::take(&mut r.hurt) {
            self.effects.push(Effect::Repaired { partition });
        }
    }

    /// Whether [`Replicator::hurt`] holds.
    #[must_use]
    pub fn is_hurt(&self, partition: PartitionId) -> bool {
        self.replica(partition).hurt
    }

    /// Acks that are due, with the node each is for: one per partition, cumulative.
    pub fn take_acks(&mut self) -> Vec<(NodeId, Ack)> {
        let mut acks = std::mem::take(&mut self.refusals);
        for partition in std::mem::take(&mut self.acks) {
            let r = self.replica_mut(partition);
            r.ack_noted = false;
            let Role::Follower(follower) = &mut r.role else { continue };
            let Some(heard) = follower.heard else { continue };
            if r.promised_durable < r.promised {
                continue;
            }
            let asks = r.hurt && follower.probe >= follower.asked + ASK_EVERY;
            let (state, probe) = match follower.answer.take() {
                Some(answer) => answer,
                None if asks => {
                    follower.asked = follower.probe;
                    (AckState::Mismatch { end: Offset::NONE, term: Term(0) }, follower.probe)
                }
                // Nothing is known of how this log and the leader's compare.
                None if follower.verified == Offset::NONE => continue,
                None => {
                    let end = r.flushed_end.min(follower.verified);
                    (AckState::Flushed { end }, follower.probe)
                }
            };
            let ack = Ack {
                partition,
                from: r.me,
                to: heard.leader.replica,
                term: r.promised,
                state,
                probe,
            };
            acks.push((heard.node, ack));
        }
        acks
    }
}
