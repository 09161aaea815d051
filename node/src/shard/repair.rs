//! Records that cannot be read any more while the log is open: a flipped bit, a bad sector, a segment
//! that is gone under a running shard.
//!
//! The log names damaged segments. What a shard with other replicas does about one:
//! 1. *Salvage*: every record of it that is needed is read. What can be read is appended again, so
//!    that nothing is left to depend on the segment but what is lost.
//! 2. A partition that has lost something is *hurt*: that is written down, so that a restart does not
//!    forget it, and told the engine. It takes and acks entries, which it holds; it does not vote, does
//!    not begin to lead, and hands over when it leads and somebody whole can take over.
//! 3. Its leader sends the state ([`super::transfer`]). What this replica has in good condition it
//!    keeps; what lies in a damaged segment it takes. After a restart nobody knows which that was, and
//!    all of it counts as damaged.
//!    Entries are applied meanwhile: what was written or deleted since is not undone by what the
//!    leader read before ([`Partition::begin_repair`]).
//! 4. When no record of the partition lies in a damaged segment, and what was taken is fsynced, it is
//!    whole. When no record of any partition does, the segment is given back.
//!
//! A leader that is hurt while nobody whole can take over asks the other replicas for what it has lost
//! ([`super::fetch`]), so that copies which are all damaged heal when together they have everything. What
//! none of them has is given up: a record that says so takes its place ([`LOST`]), on the leader and,
//! with its state, on the others. So one bad sector of the last copy does not keep all the rest
//! from being copied.
//!
//! A partition without other replicas stays as it is: what cannot be read is refused as corrupt.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use ironring_core::{GroupSeq, Instant, Now, Offset, PartitionId, SegmentId, Term, WallTime};
use ironring_log::format::record::RECORD_HEADER_BYTES;
use ironring_log::format::record::decode_wire;
use ironring_log::{Location, Priority, ReadError, ReadId, Record, RecordKind};
use ironring_ring::replication::Stage;

use super::event::Effects;
use super::fetch::Want;
use super::names::{ChunkedBody, chunk_key, chunk_name, topic_name};
use super::partition::{CHUNKED, DISTRUSTED, LOST, MERGED, Partition, TOMBSTONE};
use super::replicas::Note;
use super::state::StateCursor;
use super::{Phase, Shard};

/// Records of damaged segments read at the same time.
const READS_MAX: usize = 16;
/// How often what is not whole is looked at, while there are few keys.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A damaged partition that has no leader for so long needs somebody.
const LEADERLESS_MAX: Duration = Duration::from_secs(30);
/// So many records that are given up are named in the log at a time.
const NAMED_MAX: usize = 8;
/// For so many keys of the shard a look is put off by a millisecond more: it walks all of them.
const KEYS_PER_MS: u64 = 1000;

/// A copy that is read from its beginning to its end. After a restart nobody knows what a damaged copy has
/// lost, and when it is the only one that votes nobody else is to be asked.
#[derive(Debug)]
struct ReadThrough {
    id: PartitionId,
    /// Where the next records are looked up; nothing behind the last.
    cursor: Option<StateCursor>,
    todo: VecDeque<Location>,
    reads: BTreeMap<ReadId, Location>,
    /// Something could not be read.
    lost: bool,
}

/// What a leader whose copy is damaged knows of what it has lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Losses {
    /// What lies outside of damaged segments is good.
    Known,
    /// Nothing, and nobody else is to be asked: it is read from its beginning to its end.
    ToBeRead,
    /// Nothing; another replica is to lead.
    Unknown,
    /// What is wrong with it can be read: most voters had something else. An operator decides.
    Distrusted,
}

impl Losses {
    /// Of a copy that was damaged in this run or read since (`known`), that is the only one to vote,
    /// that has something else than most voters since a term of that number, in the term it leads.
    fn of(known: bool, only_voter: bool, distrusted: Option<Term>, leads_in: Term) -> Losses {
        // It does not vote, so that it wins no election. Who leads all the same was ordered to, with what
        // it has, and the copies that were the majority are emptied.
        let ordered = only_voter && distrusted.is_some_and(|since| leads_in > since);
        match (distrusted.is_some() && !ordered, known, only_voter) {
            (true, ..) => Losses::Distrusted,
            (false, true, _) => Losses::Known,
            (false, false, true) => Losses::ToBeRead,
            (false, false, false) => Losses::Unknown,
        }
    }
}

/// What is being repaired.
#[derive(Debug, Default)]
pub(super) struct Repair {
    /// Damaged segments the log has named, once, while there was nobody else to ask.
    suspects: BTreeSet<SegmentId>,
    /// Damaged segments that something may still refer to.
    emptying: BTreeSet<SegmentId>,
    /// Records of them that were not read yet.
    todo: VecDeque<(PartitionId, Location)>,
    reads: BTreeMap<ReadId, (PartitionId, Location)>,
    /// Records that cannot be read.
    lost: BTreeSet<Location>,
    /// Hurt partitions whose log does not say so yet.
    unsaid: BTreeSet<PartitionId>,
    /// Partitions that are whole when a group is durable.
    healing: Vec<(GroupSeq, PartitionId)>,
    /// The copy that is being read.
    through: Option<ReadThrough>,
    /// The newest term there was when a copy was found to differ from the majority, in this run.
    distrusted: BTreeMap<PartitionId, Term>,
    /// Copies that differ from the majority and are the only ones to vote, of which that was said.
    said: BTreeSet<PartitionId>,
    /// Copies that were read, and had lost nothing: there is nothing to be repaired.
    unharmed: BTreeSet<PartitionId>,
    /// Since when damaged partitions have no leader, and whether that was said.
    leaderless: BTreeMap<PartitionId, (Instant, bool)>,
    /// Partitions hurt in this run: what lies outside of damaged segments is known to be good.
    known: BTreeSet<PartitionId>,
    look_at: Instant,
}

impl Repair {
    /// Damaged segments that something may still refer to.
    pub(super) fn segments_damaged(&self) -> u64 {
        self.emptying.len() as u64
    }
}

impl Shard {
    /// Whether another replica of a partition can give back what this one has lost.
    fn has_other_replicas(&self, id: PartitionId) -> bool {
        let Some(replicas) = &self.replicas else { return false };
        let storage = self.config.identity.storage;
        replicas.engine.known(id).replicas.iter().any(|r| r.id.storage != storage)
    }

    /// Recovery is over: partitions that were hurt before are hurt still.
    pub(super) fn recall_hurt(&mut self) {
        for id in self.config.slices.range(self.id()).map(PartitionId) {
            if self.models.peek(id).hurt.is_some() {
                self.engine().hurt(id, false);
            }
        }
    }

    /// Does what can be done for what is damaged.
    pub(super) fn look_after_repairs(&mut self, now: Now, fx: &mut Effects) {
        // The log names each once: those that nothing can be done about yet are kept.
        self.repair.suspects.extend(self.log.take_suspects());
        if !matches!(self.phase, Phase::Serving | Phase::Opening) || self.replicas.is_none() {
            return;
        }
        let range = self.config.slices.range(self.id());
        let others = range.map(PartitionId).any(|id| self.has_other_replicas(id));
        if others && !self.repair.suspects.is_empty() {
            for segment in std::mem::take(&mut self.repair.suspects) {
                self.log.condemn(segment);
                self.repair.emptying.insert(segment);
            }
            self.repair.look_at = now.mono;
        }
        self.say_unsaid(now);
        if now.mono >= self.repair.look_at {
            let keys: u64 = self.models.iter().map(|p| p.keys.len() as u64).sum();
            self.repair.look_at = now.mono + LOOK_EVERY + Duration::from_millis(keys / KEYS_PER_MS);
            self.forget_late_repairs(now.mono);
            self.look_into_segments();
            self.ask_for_lost(now, fx);
            for id in self.config.slices.range(self.id()).map(PartitionId) {
                let hurt = self.models.peek(id).hurt.is_some();
                let led = self.engine().leader_of(id).is_some();
                self.note_leaderless(now, id, hurt && !led);
            }
        }
        self.salvage(fx);
        self.read_through(now, fx);
    }

    /// Looks what still refers to damaged segments.
    fn look_into_segments(&mut self) {
        if self.repair.emptying.is_empty() || !self.repair.todo.is_empty() {
            return;
        }
        let mut held: BTreeSet<SegmentId> = BTreeSet::new();
        let mut hurt = BTreeSet::new();
        let mut still_lost = BTreeSet::new();
        for p in self.models.iter() {
            p.live_places(|at| {
                if !self.repair.emptying.contains(&at.segment) {
                    return;
                }
                held.insert(at.segment);
                if self.repair.lost.contains(&at) {
                    still_lost.insert(at);
                    hurt.insert(p.id);
                } else if p.pending.iter().all(|pending| pending.at != at) {
                    // What is not applied yet is looked at when it is.
                    self.repair.todo.push_back((p.id, at));
                }
            });
        }
        self.repair.lost = still_lost;
        for id in hurt {
            self.hurt(id);
        }
        let empty = |segment: &SegmentId| !held.contains(segment);
        let done: Vec<SegmentId> = self.repair.emptying.iter().copied().filter(empty).collect();
        for segment in done {
            self.repair.emptying.remove(&segment);
            self.log.retire(segment);
        }
    }

    /// Reads records of damaged segments, a few at a time.
    fn salvage(&mut self, fx: &mut Effects) {
        while self.repair.reads.len() < READS_MAX
            && let Some((id, at)) = self.repair.todo.pop_front()
        {
            let read = self.chunks.next_read();
            self.repair.reads.insert(read, (id, at));
            self.log.read(read, at, &mut fx.io);
        }
    }

    /// A record of a damaged segment was read, or cannot be. False: the read is somebody else's.
    pub(super) fn salvage_read(
        &mut self,
        read: ReadId,
        result: &Result<Vec<u8>, ReadError>,
    ) -> bool {
        if let Some(through) = &mut self.repair.through
            && let Some(at) = through.reads.remove(&read)
        {
            let id = through.id;
            // One that lies elsewhere by now was read when it was moved.
            if result.is_err()
                && self.lose(id, at)
                && let Some(through) = &mut self.repair.through
            {
                through.lost = true;
            }
            return true;
        }
        let Some((id, at)) = self.repair.reads.remove(&read) else { return false };
        let record = result.as_ref().ok().and_then(|bytes| decode_wire(bytes).ok());
        match record {
            Some((record, _)) => {
                let needed = self.models.peek(id).holds_applied(at, &record);
                let copy = Record { flags: record.flags | MERGED, ..record };
                if !needed {
                    return true;
                }
                // What the log does not take now is found again with the next look.
                if let Ok(appended) = self.log.append(&copy, Priority::Reserve) {
                    self.models.appended(appended.location, &copy);
                    self.counters.repair.records_moved += 1;
                }
            }
            None => {
                self.lose(id, at);
            }
        }
        true
    }

    /// A record cannot be read. False: nothing refers to it any more.
    ///
    /// Whether something does is found by a walk through the partition, for the first record only: of one
    /// that is hurt already it does no harm to note a place too many, which the next look forgets. A walk for
    /// each record of a lost segment would take minutes.
    fn lose(&mut self, id: PartitionId, at: Location) -> bool {
        let p = self.models.peek(id);
        let mut needed = p.hurt.is_some();
        if !needed {
            p.live_places(|place| needed |= place == at);
        }
        if needed && self.repair.lost.insert(at) {
            self.counters.repair.records_lost += 1;
            self.hurt(id);
        }
        needed
    }

    /// Reads on in a copy of which nobody knows what it has lost, a few records at a time.
    pub(super) fn read_through(&mut self, now: Now, fx: &mut Effects) {
        let Some(mut through) = self.repair.through.take() else { return };
        let id = through.id;
        if self.models.peek(id).hurt.is_none() || self.losses(id) != Losses::ToBeRead {
            return;
        }
        while through.reads.len() < READS_MAX {
            if let Some(at) = through.todo.pop_front() {
                let read = self.chunks.next_read();
                through.reads.insert(read, at);
                self.log.read(read, at, &mut fx.io);
            } else if let Some(cursor) = through.cursor.take() {
                let piece = cursor.piece(self.models.peek(id));
                (through.todo, through.cursor) = (piece.places.into(), piece.next);
            } else {
                break;
            }
        }
        if !through.reads.is_empty() {
            self.repair.through = Some(through);
            return;
        }
        self.repair.known.insert(id);
        if !through.lost {
            self.repair.unharmed.insert(id);
            self.comparing.say(format!(
                "the copy of {id} was damaged before, and is the only one that votes: it was read, \
                 nothing of it is lost, and it counts as whole"
            ));
        }
        self.repair.look_at = now.mono;
    }

    /// A partition has lost something.
    fn hurt(&mut self, id: PartitionId) {
        if self.models.peek(id).hurt.is_some() || !self.has_other_replicas(id) {
            return;
        }
        let p = self.models.partition(id);
        p.hurt = Some(p.log_end);
        self.repair.known.insert(id);
        self.repair.unsaid.insert(id);
        self.engine().hurt(id, true);
    }

    /// A copy that has something else than the majority: nothing of it is known to be good.
    pub(super) fn distrust(&mut self, id: PartitionId) {
        if !self.has_other_replicas(id) {
            return;
        }
        let p = self.models.partition(id);
        (p.hurt, p.distrusted) = (Some(p.log_end), true);
        let term = p.term;
        self.repair.distrusted.insert(id, term);
        self.repair.known.remove(&id);
        self.repair.unsaid.insert(id);
        self.engine().hurt(id, false);
    }

    /// Writes down which partitions are hurt.
    fn say_unsaid(&mut self, now: Now) {
        for id in std::mem::take(&mut self.repair.unsaid) {
            let p = self.models.peek(id);
            let Some(below) = p.hurt else { continue };
            let note = Note { kind: RecordKind::Damaged, term: p.term, offset: below };
            let body: &[u8] = if p.distrusted { &[DISTRUSTED] } else { &[] };
            if self.append_note(now, id, note, body).is_err() {
                self.repair.unsaid.insert(id);
            }
        }
    }

    /// Whether a state that ends at `end` can make a hurt partition whole. What was in the log when the
    /// damage was found is applied before: afterwards none of it is applied from a place that may be
    /// damaged.
    pub(super) fn is_healed_by(&self, id: PartitionId, end: Offset) -> bool {
        let p = self.models.peek(id);
        p.hurt.is_some_and(|below| p.applied_end >= below && end >= below)
    }

    /// Whether a hurt partition has what a record of its leader's state says, in a place that is good.
    pub(super) fn has_good(&self, record: &Record<'_>) -> bool {
        let id = record.partition;
        if !self.repair.known.contains(&id) {
            return false;
        }
        let place = self.models.peek(id).place_of(record);
        place.is_some_and(|at| !self.log.is_damaged(at.segment))
    }

    /// Whether a partition that is whole has what a record says, so far as is known.
    pub(super) fn has_whole(&self, record: &Record<'_>) -> bool {
        let p = self.models.peek(record.partition);
        let place = p.place_of(record).filter(|_| p.hurt.is_none());
        place.is_some_and(|at| !self.log.is_damaged(at.segment))
    }

    /// No replica has these records: from here on a record that says so stands for each. Then the
    /// partition is whole, but for what nobody has.
    pub(super) fn give_up_lost(&mut self, now: Now, id: PartitionId, wants: &[Want]) {
        let mut named = Vec::new();
        for want in wants {
            let p = self.models.peek(id);
            let at = p.place_of(&want.record(id)).filter(|at| self.is_lost(at));
            let Some((at, (time, expires, body))) = at.zip(p.stands_for(want)) else { continue };
            let record = Record {
                flags: MERGED | LOST,
                term: p.term,
                offset: if want.offset == Offset::NONE { p.applied_end } else { want.offset },
                time,
                expires,
                body: &body,
                ..want.record(id)
            };
            // What the log does not take now is asked for again.
            let Ok(appended) = self.log.append(&record, Priority::Reserve) else { break };
            self.models.appended(appended.location, &record);
            self.repair.lost.remove(&at);
            self.counters.repair.records_given_up += 1;
            named.push(want.to_string());
        }
        if named.is_empty() {
            return;
        }
        self.tell_log_space();
        let more = match named.len().saturating_sub(NAMED_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        named.truncate(NAMED_MAX);
        self.comparing.say(format!(
            "{id} has lost {}{more}: no replica can read it. Reads of it are refused as corrupt until \
             it is written again, or deleted; all else of the partition is copied",
            named.join(", ")
        ));
        self.heal(now, id);
    }

    /// The leader's whole state was taken: nothing of the partition lies in a damaged segment. Says
    /// so in the log.
    pub(super) fn heal(&mut self, now: Now, id: PartitionId) {
        let p = self.models.peek(id);
        if p.hurt.is_none() {
            return;
        }
        let mut damaged = false;
        p.live_places(|at| damaged |= self.log.is_damaged(at.segment));
        if damaged {
            // Asked again with the next look.
            return;
        }
        let note = Note { kind: RecordKind::Repaired, term: p.term, offset: Offset::NONE };
        if let Ok(appended) = self.append_note(now, id, note, &[]) {
            self.repair.known.remove(&id);
            self.repair.unsaid.remove(&id);
            self.repair.said.remove(&id);
            self.repair.distrusted.remove(&id);
            self.repair.healing.push((appended.group, id));
        }
    }

    /// Groups are durable: what they complete is whole.
    pub(super) fn finish_healing(&mut self, now: Now) {
        let durable = self.models.durable;
        let healing = std::mem::take(&mut self.repair.healing);
        for (group, id) in healing {
            if group > durable {
                self.repair.healing.push((group, id));
            } else if self.models.peek(id).hurt.is_none() {
                self.engine().healed(id);
                let repaired = !self.repair.unharmed.remove(&id);
                self.counters.repair.partitions_repaired += u64::from(repaired);
                self.note_healed(id, repaired);
                self.repair.look_at = now.mono;
            }
        }
    }

    /// Whether this replica leads a partition and cannot send its state: part of it is lost.
    pub(super) fn cannot_send_state(&self, id: PartitionId) -> bool {
        self.models.peek(id).hurt.is_some()
    }

    /// Whether what lies outside of damaged segments is known to be good, of a partition that this
    /// replica leads. That of the only voter is once it was read, which begins here: nobody else is to be
    /// asked.
    pub(super) fn knows_its_losses(&mut self, id: PartitionId) -> bool {
        let losses = self.losses(id);
        if self.models.peek(id).distrusted && losses != Losses::Distrusted {
            self.models.partition(id).distrusted = false;
            self.repair.unsaid.insert(id);
            self.comparing.say(format!(
                "the copy of {id} had something else than most of its voters, and was ordered to lead: \
                 what it has counts"
            ));
        }
        match losses {
            Losses::ToBeRead if self.repair.through.is_none() => {
                self.repair.through = Some(ReadThrough {
                    id,
                    cursor: Some(StateCursor::begin()),
                    todo: VecDeque::new(),
                    reads: BTreeMap::new(),
                    lost: false,
                });
            }
            Losses::Distrusted if self.is_only_voter(id) && self.repair.said.insert(id) => {
                self.comparing.say(format!(
                    "the copy of {id} has something else than most of its voters had, and is the only \
                     one that votes by now: it serves, and counts as damaged, so no other is filled \
                     from it. If another node has a copy that is to count, stop this one, let that \
                     lead (`ironring partition elect-unclean {number} --to NODE --force --yes`), and \
                     start this one again: it is emptied and filled from there. If this one is to \
                     count, restart it and let it lead in the same way",
                    number = id.0
                ));
            }
            _ => {}
        }
        losses == Losses::Known
    }

    /// What this replica, which leads a damaged partition, knows of what it has lost.
    fn losses(&mut self, id: PartitionId) -> Losses {
        let (known, only_voter) = (self.repair.known.contains(&id), self.is_only_voter(id));
        // Of one that was distrusted before a restart any term it leads is a later one.
        let since = self.repair.distrusted.get(&id).copied().unwrap_or_default();
        let distrusted = self.models.peek(id).distrusted.then_some(since);
        let leads_in = self.engine().view(id).term;
        Losses::of(known, only_voter, distrusted, leads_in)
    }

    fn is_only_voter(&mut self, id: PartitionId) -> bool {
        let engine = self.engine();
        engine.known(id).voters == [engine.me(id).replica]
    }

    /// Whether the record at a place cannot be read.
    pub(super) fn is_lost(&self, at: &Location) -> bool {
        self.repair.lost.contains(at)
    }

    /// A record that could not be read is there again, elsewhere.
    pub(super) fn found_again(&mut self, at: Location) {
        self.repair.lost.remove(&at);
        self.counters.repair.records_repaired += 1;
    }

    /// A damaged partition has no leader, or has one. When that lasts nobody whole is left to lead, and it
    /// is an operator's to say whose copy counts.
    pub(super) fn note_leaderless(&mut self, now: Now, id: PartitionId, is: bool) {
        if !is {
            self.repair.leaderless.remove(&id);
            return;
        }
        let (since, said) = self.repair.leaderless.entry(id).or_insert((now.mono, false));
        if now.mono.since(*since) >= LEADERLESS_MAX && !std::mem::replace(said, true) {
            self.comparing.say(format!(
                "the copy of {id} is damaged here and nobody leads it: too few of its voters are \
                 whole. Start the nodes that are down; if they are gone for good, stop those that are \
                 damaged, let the best copy lead (`ironring partition elect-unclean {number} --to NODE \
                 --yes`, with --force for one that has not said what it has), and start them again",
                number = id.0
            ));
        }
    }

    /// What to tell a reader of a record that cannot be read, when other replicas have it.
    pub(super) fn reads_elsewhere(&mut self, id: PartitionId) -> bool {
        self.replicas.is_some()
            && self.has_other_replicas(id)
            && self.engine().view(id).leads.is_some_and(|stage| stage != Stage::Promising)
    }
}

impl Partition {
    /// Where the applied state has what this record says, or something newer.
    pub(super) fn place_of(&self, record: &Record<'_>) -> Option<Location> {
        match record.kind {
            RecordKind::Put | RecordKind::PutChunked => {
                let entry = self.keys.get(record.key).filter(|e| e.flags & TOMBSTONE == 0)?;
                let chunked =
                    (record.kind == RecordKind::PutChunked) == (entry.flags & CHUNKED != 0);
                (entry.version > record.offset || (entry.version == record.offset && chunked))
                    .then_some(entry.location)
            }
            RecordKind::Chunk => {
                let (upload, index) = chunk_name(record.key).ok()?;
                self.large.place(upload, index)
            }
            RecordKind::TopicBatch => {
                let name = topic_name(record.key).ok()?;
                let topic = self.topics.get(&(name.topic, name.index))?;
                let batch = topic.batches_from(name.first).next()?;
                (batch.first == name.first && batch.count == name.count).then_some(batch.at)
            }
            _ => None,
        }
    }

    /// What is known of a lost record besides its name: when it was written, when it expires, and of
    /// one that names chunks the body.
    fn stands_for(&self, want: &Want) -> Option<(WallTime, WallTime, Vec<u8>)> {
        let never = WallTime(0);
        match want.kind {
            RecordKind::Put => Some((never, self.keys.get(&want.key)?.expires, Vec::new())),
            RecordKind::PutChunked => {
                let expires = self.keys.get(&want.key)?.expires;
                let (upload, _, chunks) =
                    self.large.iter().find(|(_, version, _)| *version == want.offset)?;
                let head = RECORD_HEADER_BYTES + chunk_key(upload, 0).len();
                let bytes = chunks.iter().map(|at| u64::from(at.len).saturating_sub(head as u64));
                let value_bytes = bytes.sum();
                let body = ChunkedBody { upload, chunks: chunks.len() as u32, value_bytes };
                Some((never, expires, body.encode()))
            }
            RecordKind::TopicBatch => {
                let name = topic_name(&want.key).ok()?;
                let batch =
                    self.topics.get(&(name.topic, name.index))?.batches_from(name.first).next()?;
                Some((batch.time, never, Vec::new()))
            }
            _ => Some((never, never, Vec::new())),
        }
    }

    /// Whether the applied state refers to the record at `at`.
    fn holds_applied(&self, at: Location, record: &Record<'_>) -> bool {
        self.holds(at, &Record { flags: record.flags | MERGED, ..*record })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reading finds what a disk has lost. It does not find what a copy never had, or has otherwise.
    #[test]
    fn a_copy_that_differs_from_the_majority_is_not_whole_because_it_can_be_read() {
        let (of, term, since) = (Losses::of, Term(7), Some(Term(7)));
        assert_eq!(of(false, true, None, term), Losses::ToBeRead);
        assert_eq!(of(true, true, None, term), Losses::Known);
        assert_eq!(of(false, false, None, term), Losses::Unknown);
        for known in [false, true] {
            assert_eq!(of(known, true, since, term), Losses::Distrusted);
            assert_eq!(of(known, false, since, term), Losses::Distrusted);
            assert_eq!(of(known, false, since, Term(8)), Losses::Distrusted);
        }
        // An operator has let it lead.
        assert_eq!(of(false, true, since, Term(8)), Losses::ToBeRead);
    }
}
