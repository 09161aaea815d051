//! The shard's replicas: the replication engine, and what it asks of the log, of clients and of
//! other nodes.
//!
//! The engine decides; here its effects become records, answers and messages. Order matters in one
//! place: what is staged is offered to followers before the log can write it and let go of its
//! memory, so that the leader's own write and the followers' start together.

use std::sync::Arc;

use ironring_core::{
    ErrorCode, GroupSeq, Incarnation, NodeId, Now, Offset, PartitionId, SessionId, Term, WallTime,
};
use ironring_log::format::record::decode_wire;
use ironring_log::{AppendError, Appended, Priority, Record, RecordKind};
use ironring_ring::metadata::{Metadata, PartitionRecord, Replica, ReplicaId, Wish};
use ironring_ring::replication::{
    AckState, Effect, NotServing, Recovered, Replicate, Replicator, Run, Stage, Verdict,
};

use super::acks::Level;
use super::entries::entries_max;
use super::event::{Effects, PeerMessage, ToController};
use super::map::cluster_map;
use super::partition::{MERGED, Partition};
use super::{Phase, Shard};

/// The node of a replica that has no others.
const ALONE: NodeId = NodeId(1);
/// The log says what is committed once per so many entries: recovery applies the others only when
/// their leader says so.
const NOTE_EVERY: u64 = 1024;
/// Written groups kept in memory for followers that are a little late, in bytes.
const RECENT_BYTES: usize = 8 << 20;
/// Partitions handed over at a time when the node is to stop.
const HANDOVERS_MAX: usize = 16;
/// Most entries of one message.
pub(super) const SECTION_ENTRIES: u32 = 4096;

/// The engine of a shard, from the end of recovery on.
#[derive(Debug)]
pub(super) struct Replicas {
    pub engine: Replicator,
    run: Run,
    /// What metadata said last, by partition: told again only when it changes.
    pub metadata: Option<Arc<Metadata>>,
    /// What the log did not take yet.
    retry: Vec<Effect>,
    /// It had no space for something of it.
    no_space: bool,
}

impl Shard {
    /// Recovery is over: from here on the engine says what each replica does.
    pub(super) fn begin_replicas(&mut self, now: Now) {
        let of_log = Incarnation(u64::from(self.log.run()));
        let incarnation = self.config.incarnation.unwrap_or(of_log);
        let run = Run { storage: self.config.identity.storage, incarnation };
        let range = self.config.slices.range(self.id());
        let (first, end) = (PartitionId(range.start), PartitionId(range.end));
        let mut engine = Replicator::new(run, self.config.replication, now.mono, first, end);
        for id in (first.0..end.0).map(PartitionId) {
            engine.recovered(id, recovered(self.models.peek(id)));
        }
        self.replicas =
            Some(Replicas { engine, run, metadata: None, retry: Vec::new(), no_space: false });
        self.recall_hurt();
        match self.pending_metadata.take() {
            Some(metadata) => self.learn_metadata(now, metadata),
            None if self.config.alone => self.lead_alone(now),
            None => {}
        }
    }

    /// There is no cluster: every partition has one replica, which leads a new term.
    fn lead_alone(&mut self, now: Now) {
        let Some(replicas) = &self.replicas else { return };
        let run = replicas.run;
        for id in self.config.slices.range(self.id()).map(PartitionId) {
            let p = self.models.peek(id);
            let life = p.life.unwrap_or(0);
            let me = ReplicaId { storage: run.storage, life };
            let leader =
                ironring_ring::metadata::LeaderId { replica: me, incarnation: run.incarnation };
            let record = PartitionRecord {
                replicas: vec![Replica { node: ALONE, id: me, wish: Wish::Voter, renewal: 0 }],
                voters: vec![me],
                term: Term(p.term.0 + 1),
                leader: Some(leader),
                last_leader: Some(me),
                version: 0,
            };
            self.learn_record(now, id, &record);
        }
    }

    /// The newest metadata are here.
    pub(super) fn learn_metadata(&mut self, now: Now, metadata: Arc<Metadata>) {
        self.map = cluster_map(&metadata, &self.config.map);
        let Some(replicas) = &mut self.replicas else {
            self.pending_metadata = Some(metadata);
            return;
        };
        let before = replicas.metadata.replace(Arc::clone(&metadata));
        self.movement.follow(now.mono, &metadata, self.config.slices.range(self.id()));
        self.learn_catalogue(&metadata);
        for id in self.config.slices.range(self.id()).map(PartitionId) {
            let Some(record) = metadata.partition(id) else { continue };
            let known = before.as_ref().and_then(|before| before.partition(id));
            if known != Some(record) {
                self.engine().coming(id, metadata.moves().get(&id).map(|moved| moved.to));
                self.learn_record(now, id, record);
            }
        }
    }

    fn learn_record(&mut self, now: Now, id: PartitionId, record: &PartitionRecord) {
        let storage = self.config.identity.storage;
        let partitions = self.config.slices.range(self.id()).len();
        let p = self.models.partition(id);
        let others = record.replicas.iter().any(|r| r.id.storage != storage);
        p.commits_alone = record.voters.iter().all(|voter| voter.storage == storage);
        if others {
            p.keep_entries(entries_max(partitions));
            self.log.keep_recent(RECENT_BYTES);
        } else {
            p.keep_entries(0);
        }
        let p = self.models.peek(id);
        let (first, end) = (p.entries.first(), p.entries.end());
        debug_assert_eq!(end, p.log_end);
        let engine = self.engine();
        engine.forget_before(id, first);
        engine.record(now.mono, id, record);
    }

    /// How many voters a partition must have to take writes.
    pub(super) fn min_voters(&self) -> usize {
        let metadata = self.replicas.as_ref().and_then(|r| r.metadata.as_ref());
        metadata.map_or(1, |metadata| usize::from(metadata.min_voters().max(1)))
    }

    /// How many voters a partition has.
    pub(super) fn voters_of(&self, partition: PartitionId) -> usize {
        let replicas = self.replicas.as_ref();
        replicas.map_or(0, |replicas| replicas.engine.known(partition).voters.len())
    }

    /// Whether requests may come: everything is known, and what nobody else can lead is led here; or
    /// only space is missing for that, which reads need not wait for.
    pub(super) fn may_serve(&self) -> bool {
        let Some(replicas) = &self.replicas else { return false };
        if replicas.metadata.is_none() && !self.config.alone {
            return false;
        }
        if replicas.no_space {
            return true;
        }
        let mine = |id: &PartitionId| self.models.peek(*id).commits_alone;
        let served = |id| replicas.engine.view(id).leads == Some(Stage::Serving);
        let storage = self.config.identity.storage;
        let known = |id: &PartitionId| replicas.engine.known(*id).replica_on(storage).is_some();
        let range = self.config.slices.range(self.id());
        range.map(PartitionId).filter(mine).filter(known).all(served)
    }

    /// The engine of a shard that has one.
    pub(super) fn engine(&mut self) -> &mut Replicator {
        let replicas = self.replicas.as_mut().expect("records are appended after recovery");
        &mut replicas.engine
    }

    /// Does what the engine asks for. What the log does not take is tried again with the next turn.
    pub(super) fn follow_replicas(&mut self, now: Now, fx: &mut Effects) {
        let Some(replicas) = &mut self.replicas else { return };
        replicas.no_space = false;
        let mut effects = std::mem::take(&mut replicas.retry);
        effects.extend(replicas.engine.effects());
        while !effects.is_empty() {
            for effect in std::mem::take(&mut effects) {
                self.perform(now, effect, fx);
            }
            effects.extend(self.engine().effects());
        }
    }

    fn perform(&mut self, now: Now, effect: Effect, fx: &mut Effects) {
        match effect {
            Effect::Promise { partition, term } => {
                let note = Note { kind: RecordKind::Promise, term, offset: Offset::NONE };
                match self.append_note(now, partition, note, &[]) {
                    Ok(appended) => {
                        self.engine().promise_staged(partition, term, appended.group);
                    }
                    Err(error) => self.try_again(effect, error),
                }
            }
            Effect::Adopt { partition, life } => {
                let storage = self.config.identity.storage;
                let known = self.engine().known(partition).replica_on(storage);
                if known.map(|r| r.id.life) != Some(life) {
                    return;
                }
                let term = self.models.peek(partition).term;
                let note = Note { kind: RecordKind::Adopt, term, offset: Offset::NONE };
                match self.append_note(now, partition, note, &life.to_le_bytes()) {
                    Ok(_) => {
                        self.transfers.forget_install(partition);
                        let first = self.models.peek(partition).log_end;
                        let engine = self.engine();
                        engine.adopted(now.mono, partition, life);
                        engine.forget_before(partition, first);
                    }
                    Err(error) => self.try_again(effect, error),
                }
            }
            Effect::StartTerm { partition, term, offset } => {
                let view = self.engine().view(partition);
                if view.leads != Some(Stage::Starting) || view.term != term {
                    return;
                }
                match self.pass_state(now, partition, term) {
                    Ok(false) => {}
                    // It begins when that is durable.
                    Ok(true) => return,
                    Err(error) => return self.try_again(effect, error),
                }
                let note = Note { kind: RecordKind::TermStart, term, offset };
                match self.append_note(now, partition, note, &[]) {
                    Ok(appended) => {
                        self.engine().appended(partition, offset.next(), appended.group);
                    }
                    Err(error) => self.try_again(effect, error),
                }
            }
            Effect::Serving { .. } => {}
            Effect::SteppedDown { partition, .. } => self.lose_place(now, partition, fx),
            Effect::Ask(request) => fx.controller.push(ToController::Ask(request)),
            Effect::Fenced(answer) => fx.controller.push(ToController::Fenced(answer)),
            Effect::ReadDecided { ticket, confirmed } => {
                self.read_decided(now, ticket, confirmed, fx);
            }
            Effect::NeedsSnapshot { partition, node, .. } => self.begin_transfer(partition, node),
            // Counted when it was found out.
            Effect::Repaired { .. } => {}
        }
    }

    fn try_again(&mut self, effect: Effect, error: AppendError) {
        if let Some(replicas) = &mut self.replicas {
            replicas.no_space |= error == AppendError::NoSpace;
            replicas.retry.push(effect);
        }
    }

    /// The node is asked to stop: others lead what this shard leads, a few partitions at a time, so
    /// that each is without a leader for a moment only. True while there are some left that can be
    /// handed over, and time for it.
    pub(super) fn leave(&mut self, now: Now) -> bool {
        let Some(until) = self.leave_until else { return false };
        if self.replicas.is_none() || now.mono >= until {
            return false;
        }
        let range = self.config.slices.range(self.id());
        let metadata = self.replicas.as_ref().and_then(|r| r.metadata.clone());
        let has_room = |node| metadata.as_ref().is_none_or(|m| !m.is_short_of_space(node));
        let mut under_way = 0;
        let mut left = false;
        for id in range.map(PartitionId) {
            let engine = self.engine();
            let me = engine.me(id);
            let record = engine.known(id);
            if record.leader != Some(me) || record.voters.len() < 2 {
                continue;
            }
            left = true;
            under_way += usize::from(engine.view(id).leads != Some(Stage::Serving));
            if under_way < HANDOVERS_MAX && engine.view(id).leads == Some(Stage::Serving) {
                // What speaks against it now may not in a moment.
                let to = engine.successor(now.mono, id, has_room);
                let given = engine.hand_over(now.mono, id, to);
                let given = given.or_else(|_| engine.hand_over(now.mono, id, None));
                under_way += usize::from(given.is_ok());
            }
        }
        left
    }

    /// The controller, or an operator, wants another to lead. A node that is short of space has better
    /// give the partition to anybody who can write than wait for the one that was meant.
    fn hand_over_as_asked(&mut self, now: Now, partition: PartitionId, to: ReplicaId) {
        let engine = self.engine();
        if engine.hand_over(now.mono, partition, Some(to)).is_ok() {
            return;
        }
        let storage = self.config.identity.storage;
        let Some(metadata) = self.replicas.as_ref().and_then(|r| r.metadata.clone()) else {
            return;
        };
        let me = metadata.member_on(storage).map(|member| member.id);
        if !me.is_some_and(|me| metadata.is_short_of_space(me)) {
            // What speaks against it the controller sees, and asks again.
            return;
        }
        let has_room = |node| !metadata.is_short_of_space(node);
        let engine = self.engine();
        if let Some(to) = engine.successor(now.mono, partition, has_room)
            && engine.known(partition).replica(to).is_some_and(|r| has_room(r.node))
        {
            let _ = engine.hand_over(now.mono, partition, Some(to));
        }
    }

    /// This replica led a partition, and does no more: nobody who waits will hear of it here.
    fn lose_place(&mut self, now: Now, partition: PartitionId, fx: &mut Effects) {
        self.settle(now, partition, fx);
        self.abandon_uploads(partition, fx);
        for ack in self.acks.take(partition) {
            self.give_up(&ack, ErrorCode::NotLeader, "another replica leads by now", fx);
        }
    }

    /// Applies what has become committed, and answers who waited for it.
    pub(super) fn commit(&mut self, now: Now, fx: &mut Effects) {
        let durable = self.models.durable;
        let Some(replicas) = &mut self.replicas else { return };
        replicas.engine.flushed(now.mono, durable);
        self.finish_healing(now);
        self.follow_replicas(now, fx);
        let progress = self.engine().take_progress();
        for partition in progress {
            self.settle(now, partition, fx);
            self.note_watermark(now, partition);
        }
        self.tell_log_space();
    }

    /// Applies what is committed of a partition, and answers who waited for it.
    fn settle(&mut self, now: Now, partition: PartitionId, fx: &mut Effects) {
        let view = self.engine().view(partition);
        self.comparison_reaches(now, partition, view.high_watermark, fx);
        self.models.commit(partition, view.high_watermark);
        let applied = self.models.peek(partition).applied_end;
        let ends = [
            (Level::Flushed, view.flushed_end),
            (Level::Applied, applied),
            (Level::Everywhere, applied.min(view.all_end)),
        ];
        for (level, end) in ends {
            while let Some(ack) = self.acks.pop_below(level, partition, end) {
                self.acknowledge(now, &ack, fx);
            }
        }
    }

    /// Says in the log what is committed, now and then.
    fn note_watermark(&mut self, now: Now, partition: PartitionId) {
        let p = self.models.peek(partition);
        if p.applied_end.0 >= p.noted.0 + NOTE_EVERY {
            // Without room for it recovery has a little more to wait for.
            let _ = self.note_applied(now, partition);
        }
    }

    /// Says in the log what is committed.
    pub(super) fn note_applied(
        &mut self,
        now: Now,
        partition: PartitionId,
    ) -> Result<Appended, AppendError> {
        let p = self.models.peek(partition);
        let note = Note { kind: RecordKind::Watermark, term: p.term, offset: p.applied_end };
        self.append_note(now, partition, note, &[])
    }

    /// Why a partition takes no request although the shard serves.
    pub(super) fn not_serving(&self, why: NotServing) -> (ErrorCode, u64, String) {
        match why {
            NotServing::FewVoters { .. } | NotServing::NoQuorum => {
                (ErrorCode::TooFewReplicas, 0, why.to_string())
            }
            NotServing::Changing if self.replicas.as_ref().is_some_and(|r| r.no_space) => {
                (ErrorCode::NoSpace, 0, AppendError::NoSpace.to_string())
            }
            NotServing::Changing => (ErrorCode::NotLeader, 0, why.to_string()),
            NotServing::Elsewhere(leader) => {
                let metadata = self.replicas.as_ref().and_then(|r| r.metadata.as_ref());
                let member = leader.zip(metadata).and_then(|(l, m)| m.member_on(l.replica.storage));
                let node = member.map_or(0, |member| member.id.0);
                (ErrorCode::NotLeader, node, why.to_string())
            }
        }
    }

    /// A shard of another node, or the controller, says something.
    pub(super) fn peer(
        &mut self,
        now: Now,
        node: NodeId,
        message: PeerMessage<'_>,
        fx: &mut Effects,
    ) {
        let partition = match &message {
            PeerMessage::Replicate { message, .. } => message.partition,
            PeerMessage::Ack(ack) => ack.partition,
            PeerMessage::Fence(fence) => fence.partition,
            PeerMessage::SnapshotBegin(begin) => begin.partition,
            PeerMessage::Compare(compare) => compare.partition,
            PeerMessage::Compared(compared) => compared.partition,
            PeerMessage::Diverged(diverged) => diverged.partition,
            PeerMessage::Fetch(fetch) => fetch.partition,
            PeerMessage::Fetched(fetched) => fetched.partition,
            PeerMessage::HandOver { partition, .. }
            | PeerMessage::SnapshotPiece { partition, .. }
            | PeerMessage::SnapshotAnswer { partition, .. } => *partition,
        };
        let mine = self.config.slices.range(self.id()).contains(&partition.0);
        let open = !matches!(self.phase, Phase::Failed | Phase::Stopped);
        if !mine || !open || self.replicas.is_none() {
            // Said again by whoever needs an answer.
            return;
        }
        match message {
            PeerMessage::Replicate { message, records } => {
                self.take_entries(now, node, &message, records, fx);
            }
            PeerMessage::Ack(ack) => {
                if self.is_of_our_log(&ack) {
                    self.engine().ack(now.mono, &ack);
                }
            }
            PeerMessage::Fence(fence) => self.engine().fence(now.mono, &fence),
            PeerMessage::SnapshotBegin(begin) => self.snapshot_begin(now, node, begin, fx),
            PeerMessage::SnapshotPiece { partition, piece } => {
                self.snapshot_piece(now, node, partition, piece, fx);
            }
            PeerMessage::SnapshotAnswer { answer, .. } => self.snapshot_answer(now, node, answer),
            PeerMessage::Compare(compare) => self.compare_asked(now, node, &compare, fx),
            PeerMessage::Compared(compared) => self.compared(&compared),
            PeerMessage::Diverged(diverged) => self.diverged(&diverged),
            PeerMessage::Fetch(fetch) => self.fetch_asked(node, &fetch, fx),
            PeerMessage::Fetched(fetched) => self.fetched(now, &fetched, fx),
            PeerMessage::HandOver { partition, to } => {
                self.hand_over_as_asked(now, partition, to);
            }
        }
        self.follow_replicas(now, fx);
        self.commit(now, fx);
    }

    /// Whether an ack can be true: it speaks of no more than was sent.
    fn is_of_our_log(&mut self, ack: &ironring_ring::replication::Ack) -> bool {
        let end = self.engine().view(ack.partition).end;
        !matches!(ack.state, AckState::Flushed { end: theirs } if theirs > end)
    }

    /// Entries from a leader.
    fn take_entries(
        &mut self,
        now: Now,
        node: NodeId,
        message: &Replicate,
        bytes: &[u8],
        fx: &mut Effects,
    ) {
        let Some(records) = decode_entries(message, bytes) else { return };
        if message.term == self.engine().view(message.partition).term
            && self.engine().view(message.partition).leads.is_some()
        {
            // Two leaders in one term: metadata never name two, so the message is not what it says.
            return;
        }
        if message.to == self.engine().me(message.partition).replica {
            // Who led gives up its place before it takes anything of its successor's: whoever waits for
            // an entry of its own must not take another at the same offset for it.
            self.engine().hear(message.term, message.partition);
            self.follow_replicas(now, fx);
        }
        let term_of = |number: u32| records[number as usize].term;
        let verdict = self.engine().judge(now.mono, node, message, &term_of);
        let Verdict::Append { skip, cut } = verdict else { return };
        let partition = message.partition;
        let first = records.get(skip as usize);
        if first.is_some_and(|record| !self.models.peek(partition).goes_on_with(record)) {
            // No leader has a log with terms that become less.
            return;
        }
        if let Some(end) = cut {
            let term = message.term;
            let note = Note { kind: RecordKind::Cut, term, offset: end };
            if self.append_note(now, partition, note, &[]).is_err() {
                return;
            }
            self.engine().cut(partition, end);
        }
        let mut group: Option<GroupSeq> = None;
        let mut end = Offset(message.first.0 + u64::from(skip));
        for record in &records[skip as usize..] {
            // The leader sends again what does not fit now.
            let Ok(appended) = self.log.append(record, Priority::Reserve) else { break };
            self.models.appended(appended.location, record);
            group = Some(appended.group);
            end = end.next();
        }
        self.engine().took(message, end, &term_of, group);
    }

    /// Appends a record of the engine's own, which no user wrote.
    pub(super) fn append_note(
        &mut self,
        now: Now,
        partition: PartitionId,
        note: Note,
        body: &[u8],
    ) -> Result<Appended, AppendError> {
        let record = Record {
            kind: note.kind,
            flags: 0,
            partition,
            term: note.term,
            offset: note.offset,
            session: SessionId::NONE,
            sequence: 0,
            time: now.wall,
            expires: WallTime(0),
            key: &[],
            body,
        };
        let appended = self.log.append(&record, Priority::Reserve)?;
        self.models.appended(appended.location, &record);
        Ok(appended)
    }
}

/// A record of a replica's own.
pub(super) struct Note {
    pub kind: RecordKind,
    pub term: Term,
    pub offset: Offset,
}

/// The entries of a message, when they are what it says.
fn decode_entries<'a>(message: &Replicate, mut bytes: &'a [u8]) -> Option<Vec<Record<'a>>> {
    let mut records = Vec::with_capacity(message.count as usize);
    let mut before = message.prev_term;
    for number in 0..message.count {
        let (record, len) = decode_wire(bytes).ok()?;
        let offset = Offset(message.first.0 + u64::from(number));
        let fits = record.partition == message.partition
            && record.offset == offset
            && (before..=message.term).contains(&record.term)
            && record.kind.is_entry()
            && record.flags & MERGED == 0;
        if !fits {
            return None;
        }
        before = record.term;
        records.push(record);
        bytes = &bytes[len..];
    }
    bytes.is_empty().then_some(records)
}

impl Partition {
    /// Whether the term of an entry is not before that of the one it is to follow.
    fn goes_on_with(&self, record: &Record<'_>) -> bool {
        record.term >= self.terms.at(Offset(record.offset.0.saturating_sub(1)))
    }
}

/// What a partition's log holds.
fn recovered(p: &Partition) -> Recovered {
    Recovered {
        life: p.life,
        start: p.entries.first(),
        end: p.log_end,
        terms: p.terms.clone(),
        promised: p.term,
        high_watermark: p.applied_end,
        damaged_below: None,
    }
}

#[cfg(test)]
mod tests {
    use ironring_core::Instant;
    use ironring_log::format::record::encode_wire;
    use ironring_ring::metadata::LeaderId;

    use super::*;

    /// A message of term 5 with entries of these terms from offset 4 on, behind one of term 2.
    fn message(terms: &[u64]) -> (Replicate, Vec<u8>) {
        let mut bytes = Vec::new();
        for (number, term) in terms.iter().enumerate() {
            let record = Record {
                kind: RecordKind::Put,
                flags: 0,
                partition: PartitionId(3),
                term: Term(*term),
                offset: Offset(4 + number as u64),
                session: SessionId::NONE,
                sequence: 0,
                time: WallTime(0),
                expires: WallTime(0),
                key: b"k",
                body: b"v",
            };
            encode_wire(&record, &mut bytes);
        }
        let message = Replicate {
            partition: PartitionId(3),
            to: ReplicaId::default(),
            from: LeaderId { replica: ReplicaId::default(), incarnation: Incarnation(1) },
            term: Term(5),
            first: Offset(4),
            prev_term: Term(2),
            count: terms.len() as u32,
            high_watermark: Offset(1),
            probe: Instant(0),
            answered: Instant(0),
            age_ms: 0,
        };
        (message, bytes)
    }

    #[test]
    fn entries_whose_terms_are_not_those_of_a_log_are_not_taken() {
        let taken = |terms: &[u64]| {
            let (message, bytes) = message(terms);
            decode_entries(&message, &bytes).map(|records| records.len())
        };
        assert_eq!(taken(&[]), Some(0));
        assert_eq!(taken(&[2, 2, 3, 5]), Some(4));
        assert_eq!(taken(&[5, 3]), None, "terms only grow");
        assert_eq!(taken(&[1, 3]), None, "the entry before is of a later term");
        assert_eq!(taken(&[5, 6]), None, "nothing is newer than its leader");
    }

    #[test]
    fn entries_that_do_not_go_on_from_the_log_are_not_taken() {
        let mut p = Partition::new(PartitionId(3));
        p.terms.append(Term(1), Offset(1));
        p.terms.append(Term(3), Offset(2));
        let (_, bytes) = message(&[2, 3]);
        let (first, len) = decode_wire(&bytes).unwrap();
        let (second, _) = decode_wire(&bytes[len..]).unwrap();
        assert!(!p.goes_on_with(&first), "the log has a later term there");
        assert!(p.goes_on_with(&second));
    }
}
