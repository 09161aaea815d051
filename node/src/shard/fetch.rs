//! Records a leader has lost, from replicas that have them.
//!
//! A leader whose copy is damaged hands over to a voter that is whole ([`super::repair`]). When no voter
//! is, every copy may still have what another has lost: the leader asks one replica after the other for
//! the records it lacks, by name, and is whole when it has them all. Then it sends its state to
//! the others as always.
//!
//! It asks in rounds: some names at a time, each replica once for each round, and then others, so that
//! what cannot be had keeps nothing waiting. What every other replica has said twice not to have is given
//! up: a disk may fail to read once what it reads the next time. One that may have it yet says nothing: in
//! its log it is on its way. One that has something else than most voters has nothing that counts, and
//! says so. Who has sent some of it is asked for more at once.
//!
//! A name is the kind of the record (u8), its offset (u64; 0: any) and its key (u32 and the bytes).
//! What is named is applied, and so committed: all replicas that have it have the same.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use ironring_core::{NodeId, Now, Offset, PartitionId, SessionId, Term, WallTime};
use ironring_log::format::record::{decode_wire, encode_wire};
use ironring_log::{Location, Priority, ReadError, ReadId, Record, RecordKind};
use ironring_net::peer::frame::FETCH_BYTES_MAX;
use ironring_net::peer::message::{Fetch, Fetched};
use ironring_ring::metadata::ReplicaId;
use ironring_ring::replication::Stage;

use super::Shard;
use super::event::{Effects, ToPeer};
use super::fields::{Malformed, Reader, Writer};
use super::names::{TopicName, chunk_key, chunk_name, topic_name};
use super::partition::{CHUNKED, LOST, MERGED, Partition, TOMBSTONE};
use super::transfer::as_sent;
use crate::peer::convert::{from_leader, from_replica, to_leader, to_replica};

/// Records asked for at a time.
const WANTS_MAX: usize = 64;
/// Names of lost records that one walk through a partition's keys collects, and their bytes: enough for
/// many questions, of which each follows the answer to the one before.
const NAMES_MAX: usize = 16 << 10;
const NAMES_BYTES_MAX: usize = 512 << 10;
/// Bytes of records answered at a time: with one more record a frame holds them.
const ANSWER_BYTES_MAX: u64 = 4 << 20;
/// Questions of leaders answered at a time.
const ANSWERS_MAX: usize = 4;

/// The name of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// Its kind.
    pub kind: RecordKind,
    /// Its offset; none: of one that is named by its key.
    pub offset: Offset,
    /// Its key.
    pub key: Vec<u8>,
}

impl Want {
    /// Its bytes in a question.
    fn bytes(&self) -> usize {
        1 + 8 + 4 + self.key.len()
    }

    /// A record of that name, to look for its place.
    pub(super) fn record(&self, partition: PartitionId) -> Record<'_> {
        Record {
            kind: self.kind,
            flags: 0,
            partition,
            term: Term(0),
            offset: self.offset,
            session: SessionId::NONE,
            sequence: 0,
            time: WallTime(0),
            expires: WallTime(0),
            key: &self.key,
            body: &[],
        }
    }

    /// Whether a record has that name.
    fn is(&self, record: &Record<'_>) -> bool {
        self.kind == record.kind
            && self.key == record.key
            && (self.offset == Offset::NONE || self.offset == record.offset)
    }
}

impl fmt::Display for Want {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            RecordKind::Chunk => match chunk_name(&self.key) {
                Ok((upload, index)) => write!(f, "part {index} of the value begun at {upload}"),
                Err(Malformed) => write!(f, "part of a value"),
            },
            RecordKind::TopicBatch => match topic_name(&self.key) {
                Ok(TopicName { topic, index, first, count }) => {
                    let end = first + u64::from(count);
                    write!(f, "records {first} to {end} of partition {index} of topic {topic}")
                }
                Err(Malformed) => write!(f, "records of a topic"),
            },
            _ => write!(f, "key \"{}\" (offset {})", self.key.escape_ascii(), self.offset),
        }
    }
}

fn encode_wants(wants: &[Want]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut w = Writer(&mut out);
    for want in wants {
        w.u8(want.kind as u8);
        w.u64(want.offset.0);
        w.bytes(&want.key);
    }
    out
}

fn decode_wants(bytes: &[u8]) -> Result<Vec<Want>, Malformed> {
    let mut r = Reader::new(bytes);
    let mut wants = Vec::new();
    while !r.is_empty() && wants.len() < WANTS_MAX {
        let kind = r.u8()?;
        let kind =
            [RecordKind::Put, RecordKind::PutChunked, RecordKind::Chunk, RecordKind::TopicBatch]
                .into_iter()
                .find(|known| *known as u8 == kind)
                .ok_or(Malformed)?;
        wants.push(Want { kind, offset: Offset(r.u64()?), key: r.bytes()?.to_vec() });
    }
    Ok(wants)
}

impl Partition {
    /// Names of applied records that lie where `lost` says, from the one with the number `first` on: at
    /// most [`NAMES_MAX`], of [`NAMES_BYTES_MAX`]. O(records).
    fn wants(&self, first: usize, lost: impl Fn(&Location) -> bool) -> Vec<Want> {
        let (mut wants, mut bytes, mut number, mut full) = (Vec::new(), 0, 0, false);
        let mut take = |kind, offset, key: &[u8]| {
            number += 1;
            if number <= first || full {
                return;
            }
            let want = Want { kind, offset, key: key.to_vec() };
            bytes += want.bytes();
            full = wants.len() >= NAMES_MAX || bytes > NAMES_BYTES_MAX;
            if !full {
                wants.push(want);
            }
        };
        for (key, entry) in self.keys.range_after(None) {
            if entry.flags & TOMBSTONE == 0 && lost(&entry.location) {
                let chunked = entry.flags & CHUNKED != 0;
                let kind = if chunked { RecordKind::PutChunked } else { RecordKind::Put };
                take(kind, entry.version, key);
            }
        }
        for (upload, _, chunks) in self.large.iter() {
            for (index, _) in chunks.iter().enumerate().filter(|(_, at)| lost(at)) {
                take(RecordKind::Chunk, Offset::NONE, &chunk_key(upload, index as u32));
            }
        }
        for ((topic, index), found) in &self.topics {
            for batch in found.batches().filter(|batch| lost(&batch.at)) {
                let (topic, index, first, count) = (*topic, *index, batch.first, batch.count);
                let key = TopicName { topic, index, first, count }.encode();
                take(RecordKind::TopicBatch, Offset::NONE, &key);
            }
        }
        wants
    }
}

/// A leader's search for what its copy has lost.
#[derive(Debug, Default)]
struct Search {
    /// What is asked for in this round.
    wants: Vec<Want>,
    /// What was lost besides when the keys were walked.
    rest: VecDeque<Want>,
    /// Where among all that is lost the round began.
    first: usize,
    /// How many are to be asked in it, how many still are, and whose turn it is.
    others: usize,
    left: usize,
    turn: usize,
    /// The questions of the round, and whom each was for.
    asked: BTreeMap<u64, ReplicaId>,
    /// Who has none of it.
    without: BTreeSet<ReplicaId>,
    /// All have said so before.
    said: bool,
}

impl Search {
    /// A round begins, behind what the last one asked for; or at the beginning, when nothing is there.
    fn begin(&mut self, others: usize, wants: impl Fn(usize) -> Vec<Want>) {
        self.first += self.wants.len();
        if self.rest.is_empty() {
            self.rest = wants(self.first).into();
        }
        if self.rest.is_empty() && self.first > 0 {
            self.first = 0;
            self.rest = wants(0).into();
        }
        self.take_question(others);
    }

    /// As many of the names that were collected as a question has room for.
    fn take_question(&mut self, others: usize) {
        let mut bytes = 0;
        let fits = self.rest.iter().take(WANTS_MAX).take_while(|want| {
            bytes += want.bytes();
            bytes <= FETCH_BYTES_MAX as usize
        });
        let count = fits.count();
        self.wants = self.rest.drain(..count).collect();
        self.said = false;
        self.ask_all(others);
    }

    fn ask_all(&mut self, others: usize) {
        (self.others, self.left) = (others, others);
        self.asked.clear();
        self.without.clear();
    }

    /// A question goes to one of `others`: which of them.
    fn ask(&mut self, number: u64, others: &[ReplicaId]) -> usize {
        let to = self.turn % others.len();
        self.turn = self.turn.wrapping_add(1);
        self.left = self.left.saturating_sub(1);
        self.asked.insert(number, others[to]);
        to
    }

    /// A replica has sent some of it, and may have more: it is asked again.
    fn has_some(&mut self) {
        self.turn = self.turn.wrapping_sub(1);
        self.left += 1;
    }

    /// Leaves out what is not lost any more; when nothing is left of the question, begins the next one of
    /// the same walk through the keys. False: there is none.
    fn go_on(&mut self, is_lost: impl Fn(&Want) -> bool) -> bool {
        self.wants.retain(&is_lost);
        while self.wants.is_empty() && !self.rest.is_empty() {
            self.take_question(self.others);
            self.wants.retain(&is_lost);
        }
        !self.wants.is_empty()
    }

    /// A replica has nothing of what the question asked for. True: none of `others` has, and all have
    /// said so twice.
    fn has_none(&mut self, replica: ReplicaId, others: &[ReplicaId]) -> bool {
        self.without.insert(replica);
        let all = others.iter().all(|other| self.without.contains(other));
        if all && !std::mem::replace(&mut self.said, true) {
            self.ask_all(others.len());
            return false;
        }
        all
    }
}

/// What a leader asks for, and what this shard answers.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    searches: BTreeMap<PartitionId, Search>,
    answers: BTreeMap<u64, Answer>,
    reads: BTreeMap<ReadId, (u64, Offset)>,
    last: u64,
}

#[derive(Debug)]
struct Answer {
    node: NodeId,
    partition: PartitionId,
    term: Term,
    number: u64,
    records: Vec<u8>,
    missing: usize,
}

impl Shard {
    /// For each damaged partition that this replica leads: asks a replica for what is lost; heals it
    /// when nothing is any more.
    pub(super) fn ask_for_lost(&mut self, now: Now, fx: &mut Effects) {
        for id in self.config.slices.range(self.id()).map(PartitionId) {
            if self.models.peek(id).hurt.is_none()
                || self.engine().view(id).leads != Some(Stage::Serving)
                || !self.knows_its_losses(id)
            {
                self.fetches.searches.remove(&id);
                continue;
            }
            self.heal(now, id);
            self.ask(id, fx);
        }
    }

    /// Asks the next replica for what is lost. False: nothing is, or nobody can be asked.
    fn ask(&mut self, id: PartitionId, fx: &mut Effects) -> bool {
        let engine = self.engine();
        let (me, term) = (engine.me(id), engine.view(id).term);
        let replicas = engine.known(id).replicas.iter();
        let others: Vec<(NodeId, ReplicaId)> = replicas
            .filter(|r| r.id != me.replica && fx.peer_room.get(&r.node) != Some(&0))
            .map(|r| (r.node, r.id))
            .collect();
        if others.is_empty() {
            return false;
        }
        let mut search = self.fetches.searches.remove(&id).unwrap_or_default();
        let p = self.models.peek(id);
        let is_lost = |at: &Location| self.is_lost(at);
        if search.left == 0 {
            search.begin(others.len(), |first| p.wants(first, is_lost));
        }
        if !search.go_on(|want| p.place_of(&want.record(id)).is_some_and(|at| is_lost(&at))) {
            search.left = 0;
            self.fetches.searches.insert(id, search);
            return false;
        }
        self.fetches.last += 1;
        let number = self.fetches.last;
        let ids: Vec<ReplicaId> = others.iter().map(|(_, id)| *id).collect();
        let (node, to) = others[search.ask(number, &ids)];
        let wants = encode_wants(&search.wants);
        self.fetches.searches.insert(id, search);
        let fetch = Fetch {
            number,
            partition: id,
            to: to_replica(to),
            from: to_leader(me),
            term,
            wants: &[],
        };
        fx.peers.push((node, ToPeer::Fetch { fetch, wants }));
        true
    }

    /// A leader has lost records.
    pub(super) fn fetch_asked(&mut self, node: NodeId, fetch: &Fetch<'_>, fx: &mut Effects) {
        let (partition, term, number) = (fetch.partition, fetch.term, fetch.number);
        let engine = self.engine();
        let fits = from_replica(fetch.to) == engine.me(partition).replica
            && engine.view(partition).term == term
            && engine.view(partition).leads.is_none();
        let Ok(wants) = decode_wants(fetch.wants) else { return };
        if !fits || self.fetches.answers.len() >= ANSWERS_MAX {
            return;
        }
        let p = self.models.peek(partition);
        // It may be had from here in a moment, when it is committed; or be another's.
        let under_way = |want: &Want| p.pending.iter().any(|r| want.is(&r.record(partition)));
        if wants.iter().any(under_way) {
            return;
        }
        let mut left = ANSWER_BYTES_MAX;
        let mut places = Vec::new();
        for want in wants.iter().filter(|_| !p.distrusted) {
            let Some(at) = p.place_of(&want.record(partition)) else { continue };
            let Some(rest) = left.checked_sub(at.len.into()) else { break };
            left = rest;
            places.push((at, want.offset));
        }
        self.fetches.last += 1;
        let id = self.fetches.last;
        let mut answer = Answer { node, partition, term, number, records: Vec::new(), missing: 0 };
        for (at, offset) in places {
            let mut bytes = Vec::new();
            if self.log.copy_wire(at, &mut bytes) {
                answer.take(&bytes, offset);
                continue;
            }
            answer.missing += 1;
            let read = self.chunks.next_read();
            self.fetches.reads.insert(read, (id, offset));
            self.log.read(read, at, &mut fx.io);
        }
        self.fetches.answers.insert(id, answer);
        self.answer_fetch(id, fx);
    }

    /// A record that a leader wants was read, or cannot be. False: the read is somebody else's.
    pub(super) fn fetch_read(
        &mut self,
        read: ReadId,
        result: &Result<Vec<u8>, ReadError>,
        fx: &mut Effects,
    ) -> bool {
        let Some((id, offset)) = self.fetches.reads.remove(&read) else { return false };
        if let Some(answer) = self.fetches.answers.get_mut(&id) {
            answer.missing -= 1;
            if let Ok(bytes) = result {
                answer.take(bytes, offset);
            }
            self.answer_fetch(id, fx);
        }
        true
    }

    fn answer_fetch(&mut self, id: u64, fx: &mut Effects) {
        if self.fetches.answers.get(&id).is_none_or(|answer| answer.missing > 0) {
            return;
        }
        let Some(answer) = self.fetches.answers.remove(&id) else { return };
        let Answer { node, partition, term, number, records, .. } = answer;
        let from = to_leader(self.engine().me(partition));
        let fetched = Fetched { number, partition, from, term, records: &[] };
        fx.peers.push((node, ToPeer::Fetched { fetched, records }));
    }

    /// A replica has sent records that were lost here: it is asked for more at once.
    pub(super) fn fetched(&mut self, now: Now, fetched: &Fetched<'_>, fx: &mut Effects) {
        let id = fetched.partition;
        let view = self.engine().view(id);
        let from = from_leader(fetched.from).replica;
        let search = self.fetches.searches.get(&id);
        let open = search.is_some_and(|s| s.asked.get(&fetched.number) == Some(&from));
        if !open || view.leads.is_none() || view.term != fetched.term {
            return;
        }
        if fetched.records.is_empty() {
            return self.nobody_has(now, id, from);
        }
        let mut bytes = fetched.records;
        let mut some = false;
        while let Ok((record, len)) = decode_wire(bytes) {
            bytes = &bytes[len..];
            let p = self.models.peek(id);
            let place = p.place_of(&record).filter(|at| self.is_lost(at));
            let fits = record.partition == id && record.flags & (MERGED | LOST) != 0;
            let Some(at) = place.filter(|_| fits) else { continue };
            let record = Record { flags: record.flags | MERGED, ..record };
            // What the log does not take now is asked for again.
            let Ok(appended) = self.log.append(&record, Priority::Reserve) else { return };
            self.models.appended(appended.location, &record);
            self.found_again(at);
            some = true;
        }
        self.tell_log_space();
        if some && let Some(search) = self.fetches.searches.get_mut(&id) {
            search.has_some();
            if self.ask(id, fx) {
                return;
            }
        }
        self.heal(now, id);
    }

    /// A replica has nothing of what was asked for: when none has, it is given up.
    fn nobody_has(&mut self, now: Now, id: PartitionId, from: ReplicaId) {
        let engine = self.engine();
        let me = engine.me(id).replica;
        let replicas = engine.known(id).replicas.iter();
        let others: Vec<ReplicaId> = replicas.map(|r| r.id).filter(|r| *r != me).collect();
        let Some(search) = self.fetches.searches.get_mut(&id) else { return };
        if search.has_none(from, &others) {
            let wants = std::mem::take(&mut search.wants);
            search.left = 0;
            self.give_up_lost(now, id, &wants);
        }
    }
}

impl Answer {
    fn take(&mut self, bytes: &[u8], offset: Offset) {
        let Ok((record, _)) = decode_wire(bytes) else { return };
        if offset == Offset::NONE || offset == record.offset {
            encode_wire(&as_sent(&record), &mut self.records);
        }
    }
}

#[cfg(test)]
mod tests {
    use ironring_core::SegmentId;

    use super::*;

    #[test]
    fn names_round_trip_and_others_are_refused() {
        let want =
            |kind, offset, key: &[u8]| Want { kind, offset: Offset(offset), key: key.to_vec() };
        let wants = vec![
            want(RecordKind::Put, 7, b"key"),
            want(RecordKind::PutChunked, 8, b""),
            want(RecordKind::Chunk, 0, &chunk_key(Offset(3), 1)),
            want(RecordKind::TopicBatch, 0, &[1; 20]),
        ];
        let bytes = encode_wants(&wants);
        assert_eq!(decode_wants(&bytes), Ok(wants));
        for len in 1..bytes.len() {
            let cut = decode_wants(&bytes[..len]);
            assert!(cut.is_err() || cut.is_ok_and(|some| some.len() < 4), "{len}");
        }
        let promise = want(RecordKind::Promise, 1, b"");
        assert_eq!(decode_wants(&encode_wants(&[promise])), Err(Malformed));
    }

    /// A partition whose keys `0..count` lie at places of their own.
    fn with_keys(count: u64, key_bytes: usize) -> Partition {
        let mut p = Partition::new(PartitionId(0));
        for n in 0..count {
            let mut key = n.to_be_bytes().to_vec();
            key.resize(key_bytes, 7);
            let want = Want { kind: RecordKind::Put, offset: Offset(n + 1), key };
            p.apply(place(n), &Record { flags: MERGED, ..want.record(p.id) }, &mut Vec::new());
        }
        p
    }

    fn place(n: u64) -> Location {
        Location { segment: SegmentId(1), pos: n as u32 * 64, len: 64 }
    }

    /// A put or delete of the key that [`with_keys`] numbers `n`.
    fn about(kind: RecordKind, offset: u64, n: u64) -> Want {
        let mut key = n.to_be_bytes().to_vec();
        key.resize(9, 7);
        Want { kind, offset: Offset(offset), key }
    }

    /// The leader has read a value for its state; then its key is deleted, there and here.
    #[test]
    fn a_repair_brings_no_deleted_key_back() {
        let (mut p, mut space) = (with_keys(1, 9), Vec::new());
        p.recovered(&mut space);
        p.hurt = Some(Offset(2));
        let (put, gone) = (about(RecordKind::Put, 1, 0), about(RecordKind::Delete, 5, 0));
        let sent = Record { flags: MERGED, ..put.record(p.id) };
        p.begin_repair();
        p.apply(place(1), &gone.record(p.id), &mut space);
        assert!(p.has_newer(&sent));
        p.merge(place(2), &sent, &mut space);
        assert_eq!(p.live_entry(&put.key, WallTime(0)), None);
        // Nor do other deletes count for less, or the same one for more.
        p.apply(place(1), &gone.record(p.id), &mut space);
        assert_eq!(p.live_entry(&put.key, WallTime(0)), None);
        // What is written after the delete is there, whatever comes then.
        let again = about(RecordKind::Put, 6, 0);
        p.apply(place(3), &again.record(p.id), &mut space);
        p.merge(place(4), &sent, &mut space);
        let entry = p.live_entry(&put.key, WallTime(0)).map(|e| (e.version, e.location));
        assert_eq!(entry, Some((Offset(6), place(3))));
        // Nothing is left of it when the copy is whole.
        p.apply(place(5), &about(RecordKind::Delete, 7, 0).record(p.id), &mut space);
        p.apply(place(6), &about(RecordKind::Delete, 8, 1).record(p.id), &mut space);
        assert_eq!(p.keys.len(), 2);
        let repaired = Record { kind: RecordKind::Repaired, ..put.record(p.id) };
        p.replayed(place(7), &repaired, &mut space);
        assert_eq!((p.hurt, p.is_repairing(), p.keys.len()), (None, false, 0));
        p.apply(place(8), &about(RecordKind::Put, 9, 1).record(p.id), &mut space);
        p.apply(place(9), &about(RecordKind::Delete, 10, 1).record(p.id), &mut space);
        assert_eq!(p.keys.len(), 0, "no tombstones are kept without a repair");
    }

    /// One that ends in the middle leaves nothing either, and the next begins with nothing.
    #[test]
    fn a_repair_that_ends_early_leaves_no_tombstones() {
        let (mut p, mut space) = (with_keys(2, 9), Vec::new());
        p.recovered(&mut space);
        p.begin_repair();
        p.apply(place(3), &about(RecordKind::Delete, 5, 0).record(p.id), &mut space);
        assert_eq!(p.keys.len(), 2);
        p.begin_repair();
        assert_eq!((p.keys.len(), p.is_repairing()), (1, true));
        p.apply(place(4), &about(RecordKind::Delete, 6, 1).record(p.id), &mut space);
        p.end_repair();
        assert_eq!((p.keys.len(), p.is_repairing()), (0, false));
    }

    fn replica(life: u64) -> ReplicaId {
        ReplicaId { life, ..ReplicaId::default() }
    }

    /// Of 200 lost records the first 100 are nowhere, and the others are had all the same.
    #[test]
    fn records_that_nobody_has_keep_no_others_waiting() {
        let p = with_keys(200, 9);
        let others = [replica(1), replica(2)];
        let mut search = Search::default();
        let mut seen = BTreeSet::new();
        for number in 0..20 {
            if search.left == 0 {
                search.begin(others.len(), |first| p.wants(first, |_| true));
            }
            search.ask(number, &others);
            seen.extend(search.wants.iter().map(|want| want.offset));
        }
        assert_eq!(seen.len(), 200);
    }

    /// Otherwise a lost segment of small values would take half an hour: 64 of them with each look.
    #[test]
    fn an_answer_is_followed_by_the_next_question_and_the_keys_are_walked_once() {
        let (p, walks) = (with_keys(1000, 9), std::cell::Cell::new(0));
        let others = [replica(1), replica(2)];
        let (mut search, mut found) = (Search::default(), BTreeSet::new());
        search.begin(others.len(), |first| {
            walks.set(walks.get() + 1);
            p.wants(first, |_| true)
        });
        let mut asked = BTreeSet::new();
        for number in 0.. {
            asked.insert(search.ask(number, &others));
            assert!((1..=WANTS_MAX).contains(&search.wants.len()));
            found.extend(search.wants.iter().map(|want| want.offset));
            search.has_some();
            if !search.go_on(|want| !found.contains(&want.offset)) {
                break;
            }
        }
        assert_eq!((found.len(), walks.get()), (1000, 1));
        assert_eq!(asked.len(), 1, "the one that has it all is asked for all of it");
        // What an answer had no room for is asked for before anything else.
        let mut search = Search::default();
        search.begin(others.len(), |first| p.wants(first, |_| true));
        let last = search.wants[WANTS_MAX - 1].offset;
        assert!(search.go_on(|want| want.offset >= last));
        assert_eq!(search.wants.len(), 1);
        assert_eq!(search.wants[0].offset, last);
        // What was found otherwise, or written again, is not asked for.
        assert!(!search.go_on(|_| false));
    }

    #[test]
    fn a_question_fits_its_frame() {
        let p = with_keys(200, 1024);
        let mut search = Search::default();
        let mut asked = 0;
        while asked < 200 {
            search.begin(1, |first| p.wants(first, |_| true));
            let wants = &search.wants;
            assert_eq!(wants[0].offset, Offset(asked + 1));
            assert!((asked > 150 || wants.len() >= 32) && wants.len() < WANTS_MAX);
            assert!(encode_wants(wants).len() <= FETCH_BYTES_MAX as usize);
            asked += wants.len() as u64;
        }
        assert!(p.wants(200, |_| true).is_empty());
    }

    #[test]
    fn what_every_replica_is_without_is_given_up_and_nothing_earlier() {
        let p = with_keys(3, 9);
        let others = [replica(1), replica(2)];
        let mut search = Search::default();
        search.begin(2, |first| p.wants(first, |_| true));
        let asked: Vec<ReplicaId> = (0..2).map(|n| others[search.ask(n, &others)]).collect();
        assert!(asked.contains(&others[0]) && asked.contains(&others[1]) && search.left == 0);
        assert!(!search.has_none(others[0], &others));
        // A third came meanwhile, and was not asked.
        assert!(!search.has_none(others[1], &[replica(1), replica(2), replica(3)]));
        assert!(!search.has_none(others[1], &others), "they are asked once more");
        assert_eq!(search.left, 2);
        assert!(!search.has_none(others[1], &others));
        assert!(search.has_none(others[0], &others));
        // In the next round nobody has said anything.
        search.begin(2, |first| p.wants(first, |_| true));
        assert!(!search.has_none(others[1], &others));
        // One that has some is asked for the rest.
        let first = search.ask(7, &others);
        search.has_some();
        assert_eq!((search.ask(8, &others), search.left), (first, 1));
    }
}
