//! What must hold whatever happens: the invariants of the replication protocol.

use std::collections::BTreeMap;

use ironring_core::{Offset, PartitionId, Term};
use ironring_ring::metadata::{LeaderId, PartitionRecord, ReplicaId};
use ironring_ring::replication::quorum::commit_quorum;

use super::log::{Entry, Part, Payload};

/// What was seen of one partition.
#[derive(Debug, Default)]
struct Seen {
    /// What is committed, for ever.
    committed: Vec<Entry>,
    /// The term of the leader that committed each.
    committed_in: Vec<Term>,
    leaders: BTreeMap<Term, LeaderId>,
    /// By offset and term: the payload, and the term of the entry before.
    written: BTreeMap<(Offset, Term), (Payload, Term)>,
    /// The end of what clients were told is written, or have read.
    promised_to_clients: Offset,
    /// Lives that began before this version are over, but for the one that is named: an operator has given
    /// up what they had.
    over: Option<(u64, Option<u64>)>,
}

impl Seen {
    /// Whether a replica of that life counts for nothing any more, and has not heard of it.
    fn is_over(&self, life: Option<u64>) -> bool {
        self.over.is_some_and(|(since, but)| life < Some(since) && life != but)
    }
}

/// The judge.
#[derive(Debug)]
pub struct Checks {
    seen: Vec<Seen>,
}

/// Why a run failed.
pub type Broken = String;

impl Checks {
    /// Of so many partitions.
    pub fn new(partitions: usize) -> Checks {
        Checks { seen: (0..partitions).map(|_| Seen::default()).collect() }
    }

    /// Entries of a partition that are committed so far.
    pub fn committed(&self, partition: usize) -> &[Entry] {
        &self.seen[partition].committed
    }

    /// A replica wrote an entry. Invariant 2: the same offset and term is the same entry, behind
    /// the same entries.
    pub fn wrote(&mut self, partition: usize, part: &Part, offset: Offset) -> Result<(), Broken> {
        let (term, payload) = *part.at(offset).expect("it was just written");
        let before = offset.0.checked_sub(1).map(Offset).and_then(|o| part.at(o));
        let prev = before.map_or(Term(0), |(term, _)| *term);
        let known = self.seen[partition].written.entry((offset, term)).or_insert((payload, prev));
        if *known != (payload, prev) {
            return Err(format!(
                "2: partition {partition} offset {offset} term {term}: {:?} and {:?}",
                known,
                (payload, prev)
            ));
        }
        Ok(())
    }

    /// A replica begins to lead. Invariant 1: nobody else does in that term. Invariant 3: it has
    /// everything committed in earlier terms.
    pub fn leads(
        &mut self,
        partition: usize,
        term: Term,
        who: LeaderId,
        part: &Part,
    ) -> Result<(), Broken> {
        let seen = &mut self.seen[partition];
        let known = *seen.leaders.entry(term).or_insert(who);
        if known != who {
            return Err(format!("1: {known:?} and {who:?} lead term {term} of {partition}"));
        }
        // It may hear late of a term that is over: of later ones it knows nothing.
        let earlier = seen.committed_in.partition_point(|committed| *committed < term);
        if !part.entries.starts_with(&seen.committed[..earlier]) {
            return Err(format!(
                "3: {who:?} leads term {term} of {partition} without all {earlier} entries that \
                 were committed before"
            ));
        }
        Ok(())
    }

    /// A replica's high watermark rose. `durable`: what of the partition is durable on each voter
    /// of `record`, or was before its disk was lost or its replica
    /// dropped: it may have acked that. Invariants 4, 9, 10 and 12.
    pub fn committed_to<'a>(
        &mut self,
        partition: usize,
        high_watermark: Offset,
        part: &Part,
        (leads, term): (bool, Term),
        record: &PartitionRecord,
        durable: &dyn Fn(ReplicaId) -> Vec<&'a Part>,
    ) -> Result<(), Broken> {
        let seen = &mut self.seen[partition];
        if seen.is_over(part.life) {
            return Ok(());
        }
        let end = high_watermark.0 as usize - 1;
        if part.entries.len() < end {
            return Err(format!("4: a high watermark of {end} above the log of {partition}"));
        }
        let both = end.min(seen.committed.len());
        if part.entries[..both] != seen.committed[..both] {
            return Err(format!("4/12: {partition}: what was committed is not what is committed"));
        }
        if end <= seen.committed.len() {
            return Ok(());
        }
        if !leads {
            return Err(format!("4: a follower of {partition} commits before its leader"));
        }
        let new = &part.entries[seen.committed.len()..end];
        let from = seen.committed.len();
        let holds = |part: &Part| part.entries.len() >= end && part.entries[from..end] == *new;
        let holding = record.voters.iter().filter(|v| durable(**v).into_iter().any(holds)).count();
        if holding < commit_quorum(record.voters.len()) {
            return Err(format!(
                "4: {partition}: committed to {end} with {holding} of {:?} holding it",
                record.voters
            ));
        }
        seen.committed.extend_from_slice(new);
        seen.committed_in.resize(end, term);
        Ok(())
    }

    /// By an operator's order a replica leads that has no more than this of a partition, and every other
    /// begins a new life, the number of which is `since`. What else was committed is given up, which is so
    /// many entries.
    pub fn given_up(&mut self, partition: usize, part: &Part, since: u64) -> usize {
        let seen = &mut self.seen[partition];
        let both = seen.committed.iter().zip(&part.entries);
        let kept = both.take_while(|(committed, has)| committed == has).count();
        let lost = seen.committed.len() - kept;
        seen.committed.truncate(kept);
        seen.committed_in.truncate(kept);
        seen.promised_to_clients = seen.promised_to_clients.min(Offset(kept as u64 + 1));
        seen.over = Some((since, part.life));
        lost
    }

    /// A client was told that the entry at an offset is written.
    pub fn acked(&mut self, partition: usize, offset: Offset, entry: Entry) -> Result<(), Broken> {
        let seen = &mut self.seen[partition];
        if seen.committed.get(offset.0 as usize - 1) != Some(&entry) {
            return Err(format!("6: {partition}: offset {offset} was acked and is not committed"));
        }
        seen.promised_to_clients = seen.promised_to_clients.max(offset.next());
        Ok(())
    }

    /// What a read that begins now must see.
    pub fn read_begins(&self, partition: usize) -> Offset {
        self.seen[partition].promised_to_clients
    }

    /// A read that began when `least` was to be seen was answered with everything before `end`.
    pub fn read_ends(
        &mut self,
        partition: usize,
        least: Offset,
        end: Offset,
    ) -> Result<(), Broken> {
        if end < least {
            return Err(format!("6: {partition}: a read saw {end}, after {least} was promised"));
        }
        let seen = &mut self.seen[partition];
        seen.promised_to_clients = seen.promised_to_clients.max(end);
        Ok(())
    }

    /// Who could answer reads under a lease at one moment. Invariant 8.
    pub fn leases(&self, partition: PartitionId, holders: &[LeaderId]) -> Result<(), Broken> {
        if holders.len() > 1 {
            return Err(format!("8: {holders:?} have leases of {partition} at the same time"));
        }
        Ok(())
    }
}
