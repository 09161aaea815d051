//! Records a leader has lost, from replicas that have them.
//!
//! A leader whose copy is damaged hands over to a voter that is whole ([`super::repair`]). When no voter
//! is, every copy may still have what another has lost: the leader asks one replica after the other for
//! the records it lacks, by name, and is whole when it has them all. Then it sends its state to
//! the others as always.
//!
//! A name is the kind of the record (u8), its offset (u64; 0: any) and its key (u32 and the bytes).
//! What is named is applied, and so committed: all replicas that have it have the same.

use std::collections::BTreeMap;

use ironring_core::{NodeId, Now, Offset, PartitionId, Term};
use ironring_log::format::record::{decode_wire, encode_wire};
use ironring_log::{Location, Priority, ReadError, ReadId, Record, RecordKind};
use ironring_net::peer::message::{Fetch, Fetched};
use ironring_ring::replication::Stage;

use super::Shard;
use super::event::{Effects, ToPeer};
use super::fields::{Malformed, Reader, Writer};
use super::partition::{CHUNKED, MERGED, Partition, TOMBSTONE, TopicName, chunk_key};
use crate::peer::convert::{from_replica, to_leader, to_replica};

/// Records asked for at a time.
const WANTS_MAX: usize = 64;
/// Bytes of records answered at a time: with one more record a frame holds them.
const ANSWER_BYTES_MAX: u64 = 4 << 20;
/// Questions of leaders answered at a time.
const ANSWERS_MAX: usize = 4;

/// The name of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    kind: RecordKind,
    offset: Offset,
    key: Vec<u8>,
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
    /// Names of applied records that lie where `lost` says, at most [`WANTS_MAX`]. O(records).
    fn wants(&self, lost: impl Fn(&Location) -> bool) -> Vec<Want> {
        let mut wants = Vec::new();
        for (key, entry) in self.keys.range_after(None) {
            if entry.flags & TOMBSTONE == 0 && lost(&entry.location) {
                let chunked = entry.flags & CHUNKED != 0;
                let kind = if chunked { RecordKind::PutChunked } else { RecordKind::Put };
                wants.push(Want { kind, offset: entry.version, key: key.to_vec() });
            }
        }
        for (upload, _, chunks) in self.large.iter() {
            for (index, _) in chunks.iter().enumerate().filter(|(_, at)| lost(at)) {
                let key = chunk_key(upload, index as u32).to_vec();
                wants.push(Want { kind: RecordKind::Chunk, offset: Offset::NONE, key });
            }
        }
        for ((topic, index), found) in &self.topics {
            for batch in found.batches().filter(|batch| lost(&batch.at)) {
                let (topic, index, first, count) = (*topic, *index, batch.first, batch.count);
                let key = TopicName { topic, index, first, count }.encode().to_vec();
                wants.push(Want { kind: RecordKind::TopicBatch, offset: Offset::NONE, key });
            }
        }
        wants.truncate(WANTS_MAX);
        wants
    }
}

/// What a leader asks for, and what this shard answers.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    /// Whose turn it is to be asked, and the question that is open.
    asking: BTreeMap<PartitionId, (usize, u64)>,
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
                continue;
            }
            self.heal(now, id);
            let wants = self.models.peek(id).wants(|at| self.is_lost(at));
            if wants.is_empty() {
                continue;
            }
            let engine = self.engine();
            let (me, term) = (engine.me(id), engine.view(id).term);
            let replicas = engine.known(id).replicas.clone();
            let others: Vec<_> = replicas
                .iter()
                .filter(|r| r.id != me.replica && fx.peer_room.get(&r.node) != Some(&0))
                .collect();
            if others.is_empty() {
                continue;
            }
            self.fetches.last += 1;
            let number = self.fetches.last;
            let (turn, open) = self.fetches.asking.entry(id).or_default();
            let to = others[*turn % others.len()];
            (*turn, *open) = (turn.wrapping_add(1), number);
            let fetch = Fetch {
                number,
                partition: id,
                to: to_replica(to.id),
                from: to_leader(me),
                term,
                wants: &[],
            };
            fx.peers.push((to.node, ToPeer::Fetch { fetch, wants: encode_wants(&wants) }));
        }
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
        let mut left = ANSWER_BYTES_MAX;
        let mut places = Vec::new();
        for want in &wants {
            let Some(at) = p.place_of(&named(partition, want)) else { continue };
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

    /// A replica has sent records that were lost here.
    pub(super) fn fetched(&mut self, now: Now, fetched: &Fetched<'_>) {
        let id = fetched.partition;
        let view = self.engine().view(id);
        let open = self.fetches.asking.get(&id).is_some_and(|(_, open)| *open == fetched.number);
        if !open || view.leads.is_none() || view.term != fetched.term {
            return;
        }
        let mut bytes = fetched.records;
        while let Ok((record, len)) = decode_wire(bytes) {
            bytes = &bytes[len..];
            let p = self.models.peek(id);
            let place = p.place_of(&record).filter(|at| self.is_lost(at));
            let Some(at) = place.filter(|_| record.partition == id && record.flags & MERGED != 0)
            else {
                continue;
            };
            // What the log does not take now is asked for again.
            let Ok(appended) = self.log.append(&record, Priority::Reserve) else { return };
            self.models.appended(appended.location, &record);
            self.found_again(at);
        }
        self.tell_log_space();
        self.heal(now, id);
    }
}

impl Answer {
    fn take(&mut self, bytes: &[u8], offset: Offset) {
        let Ok((record, _)) = decode_wire(bytes) else { return };
        if offset == Offset::NONE || offset == record.offset {
            encode_wire(&Record { flags: record.flags | MERGED, ..record }, &mut self.records);
        }
    }
}

/// A record of that name, to look for its place.
fn named(partition: PartitionId, want: &Want) -> Record<'_> {
    Record {
        kind: want.kind,
        flags: 0,
        partition,
        term: Term(0),
        offset: want.offset,
        session: ironring_core::SessionId::NONE,
        sequence: 0,
        time: ironring_core::WallTime(0),
        expires: ironring_core::WallTime(0),
        key: &want.key,
        body: &[],
    }
}

#[cfg(test)]
mod tests {
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
}
