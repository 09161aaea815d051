//! States on their way to followers that cannot be sent entries: see [`super::state`].
//!
//! Leader: one piece is read at a time, and at most [`PIECES_AHEAD`] are read that the follower has
//! not answered. What is not answered in time was lost, or had no room at the other end: it is sent
//! again from there. A follower that knows nothing of the transfer has restarted: it begins anew.
//! What the follower does is in [`super::taking`].

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ironring_core::{Instant, NodeId, Now, Offset, PartitionId, Term};
use ironring_log::format::record::{decode_wire, encode_wire};
use ironring_log::{Location, ReadError, ReadId, Record, RecordKind};
use ironring_net::peer::message::{SnapshotAnswer, SnapshotBegin, SnapshotRefusal, SnapshotState};
use ironring_ring::metadata::ReplicaId;
use ironring_ring::replication::Stage;

use super::Shard;
use super::event::{Effects, ToPeer};
use super::movement::Share;
use super::partition::{LOST, MERGED};
use super::pins::{Pins, Seen};
use super::state::{StateCursor, state_bytes};
use super::taking::Install;
use crate::peer::convert::{to_leader, to_replica};

/// Most transfers a shard makes at a time, of each class; others wait for their turn.
const TRANSFERS_MAX: usize = 2;
/// Most pieces read and not answered.
const PIECES_AHEAD: usize = 8;
/// Most records of a transfer that are read at a time: clients' reads and writes wait behind them at
/// the disk, and a turn that asks for a thousand takes milliseconds.
const READS_AHEAD: usize = 8;
/// What is not answered for so long is sent again: some times what a write takes on a busy disk.
const SEND_AGAIN: Duration = Duration::from_millis(250);
/// When nothing is answered for so long, all of it begins anew.
const SILENT_MAX: Duration = Duration::from_secs(5);
/// The same when nothing could be sent: a record of a piece that is never read must not end it.
const STALLED_MAX: Duration = Duration::from_secs(20);
/// Wait before a piece is collected again of which something could not be read.
const READ_AGAIN: Duration = Duration::from_millis(100);

/// A transfer to one follower.
#[derive(Debug)]
struct Transfer {
    id: u64,
    to: ReplicaId,
    term: Term,
    /// Entries go on here.
    end: Offset,
    /// Where the next piece to be read begins; nothing behind the last.
    cursor: Option<StateCursor>,
    piece: Option<Piece>,
    /// Pieces the follower has.
    taken: u32,
    /// Their bytes, and about how many there are in all.
    taken_bytes: u64,
    total_bytes: u64,
    /// Those behind them that were read, as they are sent: sent again they are the same, because the
    /// next one begins where the one before it ended.
    ready: VecDeque<Ready>,
    /// How many of those were sent, and how many of them ever, before it went back.
    sent: usize,
    sent_ever: usize,
    /// When the follower was heard last, or was sent something while it owed no answer.
    heard: Instant,
    /// When something was sent last.
    sent_at: Instant,
}

/// A piece that can be sent.
#[derive(Debug)]
struct Ready {
    last: bool,
    payload: Vec<u8>,
}

impl Transfer {
    /// The follower has all pieces before `number`.
    fn answered(&mut self, now: Instant, number: u32) {
        let new = (number.saturating_sub(self.taken) as usize).min(self.sent_ever);
        let bytes = self.ready.drain(..new).map(|ready| ready.payload.len() as u64);
        self.taken_bytes += bytes.sum::<u64>();
        self.taken += new as u32;
        self.sent = self.sent.saturating_sub(new);
        self.sent_ever -= new;
        (self.heard, self.sent_at) = (now, now);
    }

    /// Whether there is a piece to send.
    fn is_ready(&self, room: usize) -> bool {
        self.ready.get(self.sent).is_some_and(|ready| ready.payload.len() <= room)
    }

    /// The next piece to send, with its number.
    fn next(&mut self, now: Instant, room: usize) -> Option<(u32, &Ready)> {
        let ready = self.ready.get(self.sent).filter(|r| r.payload.len() <= room)?;
        // What is sent again is no news: a follower that has restarted may not answer it at all.
        if self.sent_ever == 0 {
            self.heard = now;
        }
        let number = self.taken + self.sent as u32;
        self.sent += 1;
        self.sent_ever = self.sent_ever.max(self.sent);
        self.sent_at = now;
        Some((number, ready))
    }
}

/// A piece being read.
#[derive(Debug)]
struct Piece {
    says: Vec<Vec<u8>>,
    records: Vec<Option<Vec<u8>>>,
    /// Which of them are still to be asked for, and where they are.
    unread: VecDeque<(usize, Location)>,
    /// How many were not read yet, asked for or not.
    missing: usize,
    /// Something could not be read: its place was freed meanwhile, or is damaged. Looked up again at
    /// that time.
    again_at: Option<Instant>,
    next: Option<StateCursor>,
}

/// All of a shard's transfers.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    out: BTreeMap<(PartitionId, NodeId), Transfer>,
    /// Followers whose turn has not come.
    waiting: Vec<(PartitionId, NodeId)>,
    reads: BTreeMap<ReadId, (PartitionId, NodeId, u64, usize)>,
    /// The one that the pace let do something last: the others come before it.
    served: Option<(PartitionId, NodeId)>,
    pub(super) installs: BTreeMap<PartitionId, Install>,
    /// Entries that are kept for followers.
    pins: Pins,
    last: u64,
}

impl Transfers {
    /// Bytes of pieces being read or sent.
    pub(super) fn bytes(&self) -> usize {
        let pieces = self.out.values().filter_map(|t| t.piece.as_ref());
        let read = pieces.flat_map(|piece| piece.records.iter().flatten()).map(Vec::capacity);
        let ready = self.out.values().flat_map(|t| &t.ready).map(|r| r.payload.capacity());
        read.chain(ready).sum()
    }

    /// Bytes of a state that its follower has not, about, and where entries go on behind it; nothing:
    /// none is on its way there.
    pub(super) fn left(&self, to: (PartitionId, NodeId)) -> Option<(u64, Offset)> {
        let transfer = self.out.get(&to)?;
        Some((transfer.total_bytes.saturating_sub(transfer.taken_bytes), transfer.end))
    }

    /// Bytes of states that are still to come in, about.
    pub(super) fn incoming_bytes(&self) -> u64 {
        let left = |i: &Install| i.begin.total_bytes.saturating_sub(i.taken_bytes);
        self.installs.values().map(left).sum()
    }

    /// Bytes of pieces that are ready for a node: entries leave them room.
    pub(super) fn ready_bytes(&self, node: NodeId) -> usize {
        let to_it = self.out.iter().filter(|((_, to), _)| *to == node);
        to_it.flat_map(|(_, t)| t.ready.iter().skip(t.sent)).map(|r| r.payload.len()).sum()
    }

    /// The partition has another life or leader: what comes in counts no more.
    pub(super) fn forget_install(&mut self, partition: PartitionId) {
        self.installs.remove(&partition);
    }
}

impl Shard {
    /// A follower cannot be sent entries.
    pub(super) fn begin_transfer(&mut self, partition: PartitionId, node: NodeId) {
        let to = (partition, node);
        if !self.transfers.out.contains_key(&to) && !self.transfers.waiting.contains(&to) {
            self.transfers.waiting.push(to);
            self.movement.fill(to);
        }
    }

    /// Sends what can be sent, at the end of a turn.
    pub(super) fn advance_transfers(&mut self, now: Now, fx: &mut Effects) {
        self.movement.begin_states();
        if !self.transfers.out.is_empty() || !self.transfers.waiting.is_empty() {
            self.advance_all(now, fx);
        }
        self.follow_pins(now.mono);
    }

    fn advance_all(&mut self, now: Now, fx: &mut Effects) {
        let mut waiting = std::mem::take(&mut self.transfers.waiting);
        waiting.sort_by_key(|to| self.movement.class(*to));
        for to in waiting {
            // Those that take their time keep no other waiting.
            let class = self.movement.class(to);
            let alike = |other: &&(PartitionId, NodeId)| self.movement.class(**other) == class;
            if self.transfers.out.keys().filter(alike).count() < TRANSFERS_MAX {
                self.start_transfer(now, to, fx);
            } else {
                self.transfers.waiting.push(to);
            }
        }
        let mut all: Vec<(PartitionId, NodeId)> = self.transfers.out.keys().copied().collect();
        let begin = all.partition_point(|to| Some(*to) <= self.transfers.served);
        all.rotate_left(begin);
        all.sort_by_key(|to| self.movement.class(*to));
        for to in all {
            if !self.is_wanted(to) {
                self.end_transfer(to);
                self.movement.filled(to);
                continue;
            }
            self.advance_transfer(now, to, fx);
        }
    }

    /// Lets go of entries that no follower needs any more.
    fn follow_pins(&mut self, now: Instant) {
        let mut pins = std::mem::take(&mut self.transfers.pins);
        let partitions = pins.partitions();
        pins.follow(now, |partition, replica| {
            let first = self.models.peek(partition).entries.first();
            let engine = self.engine();
            let view = engine.view(partition);
            view.leads?;
            let (acked, needs_state) = engine.follower(partition, replica)?;
            Some(Seen { term: view.term, acked, needs_state, first })
        });
        for partition in partitions {
            self.models.partition(partition).pinned = pins.first(partition);
        }
        self.log.hold_from(pins.segment());
        self.transfers.pins = pins;
    }

    /// Whether the follower still needs it and this replica still leads.
    fn is_wanted(&mut self, to: (PartitionId, NodeId)) -> bool {
        let (partition, node) = to;
        let Some(transfer) = self.transfers.out.get(&to) else { return false };
        let (term, id) = (transfer.term, transfer.to);
        let engine = self.engine();
        let view = engine.view(partition);
        let known = engine.known(partition).replica(id).is_some_and(|r| r.node == node);
        view.leads.is_some() && view.term == term && known
    }

    fn end_transfer(&mut self, to: (PartitionId, NodeId)) {
        self.transfers.out.remove(&to);
        self.transfers.pins.end(to);
        self.models.partition(to.0).pinned = self.transfers.pins.first(to.0);
    }

    fn start_transfer(&mut self, now: Now, to: (PartitionId, NodeId), fx: &mut Effects) {
        let (partition, node) = to;
        let engine = self.engine();
        let view = engine.view(partition);
        let replica = engine.known(partition).replicas.iter().find(|r| r.node == node).copied();
        let Some(replica) = replica.filter(|_| view.leads.is_some()) else {
            return self.movement.filled(to);
        };
        let may_begin = match view.leads {
            Some(Stage::Serving | Stage::HandingOver { .. }) => true,
            // The entry that begins the term may wait for this very follower. One whose log was looked
            // through, down to where this one begins, has none of the entries behind that which may be
            // committed and are not known to be: it gives up nothing that counts. Of a damaged one that
            // is not known.
            Some(Stage::Starting) => {
                let mismatches = engine.follower(partition, replica.id).is_some_and(|(_, m)| m);
                mismatches && engine.follower_hurt_at(partition, replica.id).is_none()
            }
            _ => false,
        };
        let p = self.models.partition(partition);
        if !may_begin || p.applied_end < p.entries.first() || p.hurt.is_some() {
            // Entries that are not committed are not part of the state, and have to be at hand.
            self.transfers.waiting.push(to);
            return;
        }
        let from = p.applied_end;
        // Entries that are not committed yet may lie before the active segment.
        let segment = p.pending.iter().map(|record| record.at.segment).min();
        let segment = segment.unwrap_or_else(|| self.log.active_segment());
        self.transfers.pins.begin(to, (replica.id, view.term), from, segment);
        self.models.partition(partition).pinned = self.transfers.pins.first(partition);
        self.transfers.last += 1;
        // Unique among runs, so that a late answer to an earlier run names nothing.
        let id = (u64::from(self.log.run()) << 32) | self.transfers.last;
        let p = self.models.peek(partition);
        let (end, total_bytes) = (p.applied_end, state_bytes(p));
        let transfer = Transfer {
            id,
            to: replica.id,
            term: view.term,
            end,
            cursor: Some(StateCursor::begin()),
            piece: None,
            taken: 0,
            taken_bytes: 0,
            total_bytes,
            ready: VecDeque::new(),
            sent: 0,
            sent_ever: 0,
            heard: now.mono,
            sent_at: now.mono,
        };
        self.transfers.out.insert(to, transfer);
        self.send_begin(to, fx);
    }

    fn send_begin(&mut self, to: (PartitionId, NodeId), fx: &mut Effects) {
        let (partition, node) = to;
        let me = self.engine().me(partition);
        let Some(transfer) = self.transfers.out.get(&to) else { return };
        let p = self.models.peek(partition);
        let before = Offset(transfer.end.0 - 1);
        let begin = SnapshotBegin {
            transfer: transfer.id,
            partition,
            to: to_replica(transfer.to),
            from: to_leader(me),
            term: transfer.term,
            start: Offset::FIRST,
            end: transfer.end,
            end_term: p.terms.at(before),
            total_bytes: transfer.total_bytes,
        };
        fx.peers.push((node, ToPeer::SnapshotBegin(begin)));
    }

    fn advance_transfer(&mut self, now: Now, to: (PartitionId, NodeId), fx: &mut Effects) {
        let (partition, node) = to;
        if self.cannot_send_state(partition) {
            // Its place is for one that can be sent: this one may stay damaged for long.
            self.end_transfer(to);
            return self.begin_transfer(partition, node);
        }
        let Some(transfer) = self.transfers.out.get_mut(&to) else { return };
        if now.mono.since(transfer.heard.max(transfer.sent_at)) > STALLED_MAX {
            self.end_transfer(to);
            return self.begin_transfer(partition, node);
        }
        if transfer.sent_ever > 0 {
            if now.mono.since(transfer.heard) > SILENT_MAX {
                // From the beginning: the other side may have restarted.
                self.end_transfer(to);
                return self.begin_transfer(partition, node);
            }
            if now.mono.since(transfer.sent_at) > SEND_AGAIN {
                (transfer.sent, transfer.sent_at) = (0, now.mono);
            }
        }
        let read = transfer.piece.take_if(|piece| piece.missing == 0);
        match read.map(|piece| (piece.again_at, piece)) {
            // Whatever the piece lacks the follower would take for deleted.
            Some((Some(again_at), _)) if now.mono >= again_at => {
                self.read_piece(now.mono, to, fx);
            }
            Some((Some(_), piece)) => transfer.piece = Some(piece),
            Some((None, piece)) => {
                let payload = payload_of(&piece, partition, transfer.term, now);
                let last = piece.next.is_none();
                transfer.cursor = piece.next;
                transfer.ready.push_back(Ready { last, payload });
            }
            None => {}
        }
        let Some(transfer) = self.transfers.out.get_mut(&to) else { return };
        let mut room = fx.peer_room.get(&node).copied().unwrap_or(usize::MAX);
        let id = transfer.id;
        let going = self.movement.is_going(partition, node);
        while transfer.is_ready(room) && (!going || self.movement.may_send(now.mono, Share::State))
        {
            let Some((number, Ready { last, payload })) = transfer.next(now.mono, room) else {
                break;
            };
            room -= payload.len();
            self.transfers.served = Some(to);
            self.movement.sent(now.mono, partition, node, payload.len());
            let (transfer, last, payload) = (id, *last, payload.clone());
            let piece = ToPeer::SnapshotPiece { partition, transfer, number, last, payload };
            fx.peers.push((node, piece));
        }
        if let Some(left) = fx.peer_room.get_mut(&node) {
            *left = room;
        }
        let ahead = transfer.ready.len() < PIECES_AHEAD;
        let wanted = transfer.piece.is_none() && transfer.cursor.is_some() && ahead;
        if wanted && (!going || self.movement.may_send(now.mono, Share::State)) {
            self.read_piece(now.mono, to, fx);
        }
        self.read_records(to, fx);
    }

    /// Collects the records of the next piece. What is read for a move passes its pace too, as the
    /// disk reads it: of small values that is far more than what is sent.
    fn read_piece(&mut self, now: Instant, to: (PartitionId, NodeId), fx: &mut Effects) {
        let (partition, node) = to;
        let Some(transfer) = self.transfers.out.get_mut(&to) else { return };
        let Some(cursor) = &transfer.cursor else { return };
        let found = cursor.piece(self.models.peek(partition));
        let mut piece = Piece {
            says: found.says,
            records: vec![None; found.places.len()],
            unread: VecDeque::new(),
            missing: 0,
            again_at: None,
            next: found.next,
        };
        let mut bytes_read = 0;
        for (number, at) in found.places.iter().enumerate() {
            let mut bytes = Vec::new();
            if self.log.copy_wire(*at, &mut bytes) {
                piece.records[number] = merged(&bytes);
                continue;
            }
            bytes_read += self.log.read_cost(*at);
            piece.unread.push_back((number, *at));
        }
        piece.missing = piece.unread.len();
        transfer.piece = Some(piece);
        if self.movement.is_going(partition, node) {
            self.transfers.served = Some(to);
            self.movement.read(now, bytes_read);
        }
        self.read_records(to, fx);
    }

    /// Asks for the next records of a piece.
    fn read_records(&mut self, to: (PartitionId, NodeId), fx: &mut Effects) {
        let (partition, node) = to;
        let Some(transfer) = self.transfers.out.get_mut(&to) else { return };
        let Some(piece) = &mut transfer.piece else { return };
        while piece.missing - piece.unread.len() < READS_AHEAD {
            let Some((number, at)) = piece.unread.pop_front() else { break };
            let read = self.chunks.next_read();
            self.transfers.reads.insert(read, (partition, node, transfer.id, number));
            self.log.read(read, at, &mut fx.io);
        }
    }

    /// A record of a piece was read, or cannot be. False: it was asked for by somebody else.
    pub(super) fn piece_read(
        &mut self,
        now: Instant,
        read: ReadId,
        result: &Result<Vec<u8>, ReadError>,
    ) -> bool {
        let Some((partition, node, id, number)) = self.transfers.reads.remove(&read) else {
            return false;
        };
        let transfer = self.transfers.out.get_mut(&(partition, node)).filter(|t| t.id == id);
        if let Some(piece) = transfer.and_then(|t| t.piece.as_mut())
            && let Some(record) = piece.records.get_mut(number)
        {
            piece.missing -= 1;
            *record = result.as_ref().ok().and_then(|bytes| merged(bytes));
            if record.is_none() {
                piece.again_at = Some(now + READ_AGAIN);
                piece.missing -= std::mem::take(&mut piece.unread).len();
            }
        }
        true
    }

    /// A follower says how it stands.
    pub(super) fn snapshot_answer(&mut self, now: Now, node: NodeId, answer: SnapshotAnswer) {
        let named =
            |(to, t): &(&(PartitionId, NodeId), &Transfer)| to.1 == node && t.id == answer.transfer;
        let Some(to) = self.transfers.out.iter().find(named).map(|(to, _)| *to) else { return };
        let Some(transfer) = self.transfers.out.get_mut(&to) else { return };
        match answer.state {
            // One that has no room for the next piece says so, and is sent it again in a moment.
            SnapshotState::Resume { number } if number > transfer.taken => {
                transfer.answered(now.mono, number);
            }
            SnapshotState::Resume { .. } => transfer.heard = now.mono,
            SnapshotState::Complete => {
                let end = transfer.end;
                // What was written meanwhile it has yet to be sent.
                self.transfers.out.remove(&to);
                let until = self.models.peek(to.0).log_end;
                self.transfers.pins.filled(now.mono, to, until);
                self.movement.filled(to);
                self.engine().snapshot_sent(to.0, node, end);
            }
            SnapshotState::Refused(SnapshotRefusal::UnknownTransfer) => {
                self.end_transfer(to);
                self.begin_transfer(to.0, to.1);
            }
            // Asked again after a while, by the engine or by silence.
            SnapshotState::Refused(_) => {}
        }
    }
}

/// A piece as it is sent.
fn payload_of(piece: &Piece, partition: PartitionId, term: Term, now: Now) -> Vec<u8> {
    let mut payload = Vec::new();
    let state = Record {
        kind: RecordKind::State,
        flags: MERGED,
        partition,
        term,
        offset: Offset::NONE,
        session: ironring_core::SessionId::NONE,
        sequence: 0,
        time: now.wall,
        expires: ironring_core::WallTime(0),
        key: &[],
        body: &[],
    };
    for body in &piece.says {
        encode_wire(&Record { body, ..state }, &mut payload);
    }
    piece.records.iter().flatten().for_each(|bytes| payload.extend_from_slice(bytes));
    payload
}

/// A record as it is sent in a piece. It was verified when it was read.
fn merged(bytes: &[u8]) -> Option<Vec<u8>> {
    let (record, _) = decode_wire(bytes).ok()?;
    let mut out = Vec::with_capacity(bytes.len());
    encode_wire(&as_sent(&record), &mut out);
    Some(out)
}

/// A record as it is part of a state that is sent: see [`LOST`].
pub(super) fn as_sent<'a>(record: &Record<'a>) -> Record<'a> {
    let flags = match record.flags & LOST {
        0 => record.flags | MERGED,
        _ => record.flags & !MERGED,
    };
    Record { flags, ..*record }
}

#[cfg(test)]
mod tests {
    use ironring_core::StorageUuid;

    use super::*;

    fn transfer() -> Transfer {
        let ready = |n| Ready { last: false, payload: vec![n; 10] };
        Transfer {
            id: 1,
            to: ReplicaId { storage: StorageUuid(1), life: 0 },
            term: Term(1),
            end: Offset(9),
            cursor: None,
            piece: None,
            taken: 0,
            taken_bytes: 0,
            total_bytes: 25,
            ready: [ready(1), ready(2)].into(),
            sent: 0,
            sent_ever: 0,
            heard: Instant(0),
            sent_at: Instant(0),
        }
    }

    fn sent(t: &mut Transfer, now: u64, room: usize) -> Option<(u32, u8)> {
        t.next(Instant(now), room).map(|(number, ready)| (number, ready.payload[0]))
    }

    #[test]
    fn pieces_are_sent_again_as_they_were_until_they_are_answered() {
        let mut t = transfer();
        assert_eq!(sent(&mut t, 5, 9), None, "there is no room");
        assert_eq!(sent(&mut t, 5, 10), Some((0, 1)));
        assert_eq!(sent(&mut t, 6, 10), Some((1, 2)));
        assert_eq!(sent(&mut t, 6, 10), None);
        t.sent = 0;
        assert_eq!(sent(&mut t, 7, 10), Some((0, 1)));
        t.answered(Instant(8), 1);
        assert_eq!((t.taken, t.sent, t.sent_ever), (1, 0, 1));
        assert_eq!(sent(&mut t, 9, 10), Some((1, 2)));
        // An answer to what was sent before it went back counts.
        t.sent = 0;
        t.answered(Instant(10), 2);
        assert_eq!((t.taken, t.sent, t.sent_ever, t.ready.len()), (2, 0, 0, 0));
        assert_eq!(t.taken_bytes, 20);
    }

    /// One that has restarted does not: it knows nothing of the transfer, and says nothing.
    #[test]
    fn sending_again_is_not_hearing() {
        let mut t = transfer();
        assert_eq!(sent(&mut t, 5, 10), Some((0, 1)));
        assert_eq!(t.heard, Instant(5));
        for now in 6..20 {
            t.sent = 0;
            assert_eq!(sent(&mut t, now, 10), Some((0, 1)));
        }
        assert_eq!((t.heard, t.sent_at), (Instant(5), Instant(19)));
    }
}
