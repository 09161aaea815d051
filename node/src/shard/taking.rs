//! States that come in, from leaders that cannot send entries: see [`super::state`] and, for the other
//! end, [`super::transfer`].
//!
//! Pieces become records as they come; the one that ends it all makes the log go on where the picture
//! began.

use std::collections::BTreeSet;
use std::time::Duration;

use ironring_core::{Instant, NodeId, Now, Offset, PartitionId, Term};
use ironring_log::format::record::decode_wire;
use ironring_log::{AppendError, Priority, Record, RecordKind};
use ironring_net::peer::message::{
    SnapshotAnswer, SnapshotBegin, SnapshotPiece, SnapshotRefusal, SnapshotState,
};

use super::Shard;
use super::event::{Effects, ToPeer};
use super::names::{ChunkedBody, chunk_key};
use super::partition::{LOST, MERGED, TOMBSTONE};
use super::replicas::Note;
use super::state::{Says, read_says};
use crate::peer::convert::from_replica;

/// A state that repairs, and of which nothing comes for so long, is forgotten: what is deleted meanwhile
/// takes memory. Long, because a state that is sent at the pace of moves may wait for its turn.
const REPAIR_SILENT_MAX: Duration = Duration::from_secs(300);

/// A state that comes in.
#[derive(Debug)]
pub(super) struct Install {
    pub(super) begin: SnapshotBegin,
    from: NodeId,
    next: u32,
    /// Bytes of the pieces that came.
    pub(super) taken_bytes: u64,
    /// When the last of them came.
    heard: Instant,
    /// The log is whole as a list of entries: only what is damaged is taken.
    repairs: bool,
}

impl Shard {
    /// A leader begins to send its state.
    pub(super) fn snapshot_begin(
        &mut self,
        now: Now,
        node: NodeId,
        begin: SnapshotBegin,
        fx: &mut Effects,
    ) {
        let partition = begin.partition;
        if !is_sound(&begin) {
            return;
        }
        let view = self.engine().view(partition);
        let me = self.engine().me(partition).replica;
        let answer = |state| ToPeer::SnapshotAnswer {
            partition,
            answer: SnapshotAnswer { transfer: begin.transfer, state },
        };
        let refusal = if from_replica(begin.to) != me {
            Some(SnapshotRefusal::NotAReplica)
        } else if begin.term < view.term {
            Some(SnapshotRefusal::OldTerm)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return fx.peers.push((node, answer(SnapshotState::Refused(refusal))));
        }
        self.engine().hear(begin.term, partition);
        let needs = self.engine().needs_state(partition, begin.end, begin.end_term);
        let leads = self.engine().view(partition).leads.is_some();
        let repairs = !needs && !leads && self.is_healed_by(partition, begin.end);
        if !needs && !repairs {
            return fx.peers.push((node, answer(SnapshotState::Complete)));
        }
        if repairs {
            if self.models.peek(partition).applied_end > begin.end {
                // What was deleted behind its end before now is not remembered. It is begun anew.
                let refused = SnapshotState::Refused(SnapshotRefusal::UnknownTransfer);
                return fx.peers.push((node, answer(refused)));
            }
            self.models.partition(partition).begin_repair();
            self.models.note_key_memory();
        }
        let heard = now.mono;
        let install = Install { begin, from: node, next: 0, taken_bytes: 0, heard, repairs };
        self.transfers.installs.insert(partition, install);
        fx.peers.push((node, answer(SnapshotState::Resume { number: 0 })));
    }

    /// A piece of a leader's state.
    pub(super) fn snapshot_piece(
        &mut self,
        now: Now,
        node: NodeId,
        partition: PartitionId,
        piece: SnapshotPiece<'_>,
        fx: &mut Effects,
    ) {
        let answer = |state| ToPeer::SnapshotAnswer {
            partition,
            answer: SnapshotAnswer { transfer: piece.transfer, state },
        };
        let known = self.transfers.installs.get(&partition);
        let Some(install) = known.filter(|i| i.begin.transfer == piece.transfer && i.from == node)
        else {
            let refused = SnapshotState::Refused(SnapshotRefusal::UnknownTransfer);
            return fx.peers.push((node, answer(refused)));
        };
        let (begin, next, repairs) = (install.begin, install.next, install.repairs);
        if piece.number != next {
            return fx.peers.push((node, answer(SnapshotState::Resume { number: next })));
        }
        if self.engine().view(partition).term != begin.term {
            self.transfers.forget_install(partition);
            let refused = SnapshotState::Refused(SnapshotRefusal::OldTerm);
            return fx.peers.push((node, answer(refused)));
        }
        let needed = match repairs {
            true => self.models.peek(partition).hurt.is_some(),
            false => self.engine().needs_state(partition, begin.end, begin.end_term),
        };
        if !needed {
            self.transfers.forget_install(partition);
            return fx.peers.push((node, answer(SnapshotState::Complete)));
        }
        match self.merge_piece(now, &begin, repairs, piece.payload) {
            Ok(()) => {}
            // It is sent again.
            Err(AppendError::Overloaded) => {
                return fx.peers.push((node, answer(SnapshotState::Resume { number: next })));
            }
            Err(AppendError::Closed) => return,
            Err(AppendError::NoSpace | AppendError::TooLarge) => {
                let refused = SnapshotState::Refused(SnapshotRefusal::NoSpace);
                return fx.peers.push((node, answer(refused)));
            }
        }
        if !piece.last {
            if let Some(install) = self.transfers.installs.get_mut(&partition) {
                install.next += 1;
                install.taken_bytes += piece.payload.len() as u64;
                install.heard = now.mono;
            }
            return fx.peers.push((node, answer(SnapshotState::Resume { number: next + 1 })));
        }
        if repairs {
            self.transfers.forget_install(partition);
            self.heal(now, partition);
            return fx.peers.push((node, answer(SnapshotState::Complete)));
        }
        let note = Note { kind: RecordKind::Jump, term: begin.term, offset: begin.end };
        let Ok(appended) = self.append_note(now, partition, note, &begin.end_term.0.to_le_bytes())
        else {
            return;
        };
        self.transfers.forget_install(partition);
        self.chunks.forget(partition);
        let terms = self.models.peek(partition).terms.clone();
        self.engine().installed(partition, begin.term, begin.end, terms, appended.group);
        self.heal(now, partition);
        fx.peers.push((node, answer(SnapshotState::Complete)));
    }

    /// Forgets states that repair and come no more, because their leader lost its place or is silent,
    /// and what was remembered for their sake.
    pub(super) fn forget_late_repairs(&mut self, now: Instant) {
        for id in self.config.slices.range(self.id()).map(PartitionId) {
            if !self.models.peek(id).is_repairing() {
                continue;
            }
            let term = self.engine().view(id).term;
            let comes = self.transfers.installs.get(&id).is_some_and(|install| {
                install.repairs
                    && install.begin.term == term
                    && now.since(install.heard) <= REPAIR_SILENT_MAX
            });
            if !comes {
                self.transfers.installs.retain(|of, install| *of != id || !install.repairs);
                self.models.partition(id).end_repair();
                self.models.note_key_memory();
            }
        }
    }

    /// A replica that is to begin a term may have part of a state that is newer than its log, when an operator
    /// lets it lead: what it writes would be taken for older and be ignored. Its log goes on behind that.
    /// True: it does from now on.
    pub(super) fn pass_state(
        &mut self,
        now: Now,
        partition: PartitionId,
        term: Term,
    ) -> Result<bool, AppendError> {
        let p = self.models.peek(partition);
        let (log_end, Some(end)) = (p.log_end, p.ahead()) else { return Ok(false) };
        let engine = self.engine();
        if engine.known(partition).voters != [engine.me(partition).replica] {
            // Whoever several elect has all that is committed, and nothing else is in a state.
            return Ok(false);
        }
        // What it has counts, because nobody else's does.
        let note = Note { kind: RecordKind::Watermark, term, offset: log_end };
        self.append_note(now, partition, note, &[])?;
        self.models.commit(partition, log_end);
        // Of the term that begins: no other log has an entry of that there.
        let note = Note { kind: RecordKind::Jump, term, offset: end };
        let appended = self.append_note(now, partition, note, &term.0.to_le_bytes())?;
        self.transfers.forget_install(partition);
        self.chunks.forget(partition);
        let terms = self.models.peek(partition).terms.clone();
        self.engine().jumped(partition, end, terms, appended.group);
        self.comparing.say(format!(
            "the copy of {partition} had only part of the state it was being sent, and was ordered to lead: \
             what it has counts, and offsets go on at {end} instead of {log_end}"
        ));
        Ok(true)
    }

    /// Appends the records of a piece, and deletes what the piece shows to be gone.
    fn merge_piece(
        &mut self,
        now: Now,
        begin: &SnapshotBegin,
        repairs: bool,
        mut bytes: &[u8],
    ) -> Result<(), AppendError> {
        let partition = begin.partition;
        // Damaged or foreign bytes are not taken; the frame's checksum held, so it is a bug of the
        // sender, and its next attempt may do better.
        let mut records = Vec::new();
        while !bytes.is_empty() {
            let Ok((record, len)) = decode_wire(bytes) else { return Err(AppendError::Closed) };
            let fits = record.partition == partition && is_of_a_state(&record);
            if !fits || record.flags & (MERGED | LOST) == 0 {
                return Err(AppendError::Closed);
            }
            records.push(Record { flags: record.flags | MERGED, ..record });
            bytes = &bytes[len..];
        }
        let values = records.iter().filter(|r| r.kind != RecordKind::State);
        let keys: BTreeSet<&[u8]> = values.map(|r| r.key).collect();
        let mut gone = Vec::new();
        for record in records.iter().filter(|r| r.kind == RecordKind::State) {
            if let Ok(Says::Keys(after, last)) = read_says(record.body) {
                let p = self.models.peek(partition);
                let range = p.keys.range_after(after);
                let within = range.take_while(|(key, _)| last.is_none_or(|last| *key <= last));
                let older = within
                    .filter(|(_, entry)| entry.version < begin.end && entry.flags & TOMBSTONE == 0);
                gone.extend(
                    older.filter(|(key, _)| !keys.contains(key)).map(|(key, _)| key.to_vec()),
                );
            }
        }
        for record in &records {
            if matches!(read_says(record.body), Ok(Says::Keys(..)))
                && record.kind == RecordKind::State
            {
                continue;
            }
            if repairs && self.models.peek(partition).has_newer(record) {
                // Never into the log: a checkpoint between the two would not remember a delete.
                self.abort_upload_of(record)?;
                continue;
            }
            if (repairs && self.has_good(record))
                || (record.flags & LOST != 0 && self.has_whole(record))
            {
                continue;
            }
            let appended = self.log.append(record, Priority::User)?;
            if repairs && record.kind != RecordKind::State {
                self.counters.repair.records_repaired += 1;
            }
            self.models.appended(appended.location, record);
        }
        for key in gone {
            let record = Record {
                kind: RecordKind::Delete,
                flags: MERGED,
                partition,
                term: begin.term,
                offset: Offset(begin.end.0 - 1),
                session: ironring_core::SessionId::NONE,
                sequence: 0,
                time: now.wall,
                expires: ironring_core::WallTime(0),
                key: &key,
                body: &[],
            };
            let appended = self.log.append(&record, Priority::Reserve)?;
            self.models.appended(appended.location, &record);
        }
        self.tell_log_space();
        Ok(())
    }

    /// A large value is not taken: its chunks, which came before it, are let go.
    fn abort_upload_of(&mut self, put: &Record<'_>) -> Result<(), AppendError> {
        let body = match put.kind {
            RecordKind::PutChunked => ChunkedBody::decode(put.body),
            _ => return Ok(()),
        };
        let p = self.models.peek(put.partition);
        let Some(body) = body.ok().filter(|body| p.large.has(body.upload, 0)) else {
            return Ok(());
        };
        let record = Record {
            kind: RecordKind::UploadAbort,
            flags: MERGED,
            session: ironring_core::SessionId::NONE,
            sequence: 0,
            key: &chunk_key(body.upload, 0),
            body: &[],
            ..*put
        };
        let appended = self.log.append(&record, Priority::Reserve)?;
        self.models.appended(appended.location, &record);
        Ok(())
    }
}

/// Whether a state can be what its leader says.
fn is_sound(begin: &SnapshotBegin) -> bool {
    (Offset::FIRST..Offset(u64::MAX)).contains(&begin.end) && begin.end_term <= begin.term
}

/// Whether a record is of a kind that a state is made of.
fn is_of_a_state(record: &Record<'_>) -> bool {
    use RecordKind::{Chunk, Put, PutChunked, State, TopicBatch};
    matches!(record.kind, State | Put | PutChunked | Chunk | TopicBatch)
}

#[cfg(test)]
mod tests {
    use ironring_core::StorageUuid;

    use super::*;

    #[test]
    fn a_state_that_ends_nowhere_or_in_a_later_term_is_refused() {
        let replica = ironring_net::peer::message::ReplicaId { storage: StorageUuid(1), life: 0 };
        let incarnation = ironring_core::Incarnation(1);
        let begin = |end, end_term| SnapshotBegin {
            transfer: 1,
            partition: PartitionId(0),
            to: replica,
            from: ironring_net::peer::message::LeaderId { replica, incarnation },
            term: Term(3),
            start: Offset::NONE,
            end: Offset(end),
            end_term: Term(end_term),
            total_bytes: 0,
        };
        assert!(is_sound(&begin(2, 3)) && is_sound(&begin(9, 1)));
        assert!(is_sound(&begin(1, 0)), "of a leader that has applied nothing yet");
        assert!(!is_sound(&begin(0, 0)), "there is no offset before it");
        assert!(!is_sound(&begin(u64::MAX, 3)), "nor can any be behind it");
        assert!(!is_sound(&begin(9, 4)), "its leader is of an earlier term");
    }

    /// A note of a replica's own would be taken for this one's when the log is replayed.
    #[test]
    fn a_state_is_made_of_values_chunks_and_batches() {
        let kinds = [RecordKind::State, RecordKind::Put, RecordKind::PutChunked, RecordKind::Chunk];
        let record = |kind| Record {
            kind,
            flags: MERGED,
            partition: PartitionId(0),
            term: Term(1),
            offset: Offset(1),
            session: ironring_core::SessionId::NONE,
            sequence: 0,
            time: ironring_core::WallTime(0),
            expires: ironring_core::WallTime(0),
            key: b"",
            body: b"",
        };
        assert!(kinds.into_iter().all(|kind| is_of_a_state(&record(kind))));
        assert!(is_of_a_state(&record(RecordKind::TopicBatch)));
        let others = [RecordKind::Jump, RecordKind::Cut, RecordKind::Adopt, RecordKind::Repaired];
        assert!(!others.into_iter().any(|kind| is_of_a_state(&record(kind))));
    }
}
