//! The state of the group's log: the fold of its records.
//!
//! - Every change sets what it names, whatever was there; so the last change that names a thing
//!   decides, and replaying records over a state that reflects them already gives the same state.
//! - When the log is open, entries have consecutive indexes, and the first is the one behind the
//!   last purged.

use std::collections::{BTreeMap, VecDeque};

use ironring_core::GroupSeq;
use ironring_log::{
    CheckpointSource, Keep, Location, LogSink, ReadError, ReadId, Record, RecordKind, RestoreError,
};

use super::change::{Change, ChangeError, StoredEntry};
use crate::raft::types::{Ballot, LogPoint};

/// Bytes from which a piece of a checkpoint takes no more changes.
const PIECE_BYTES: usize = 256 << 10;

/// Votes and entries.
#[derive(Debug, Default)]
pub struct RaftLogState {
    vote: Option<Ballot>,
    committed: Option<LogPoint>,
    purged: Option<LogPoint>,
    entries: BTreeMap<u64, StoredEntry>,
    /// What is left of the picture a checkpoint is made of.
    picture: VecDeque<Change>,
    error: Option<ChangeError>,
}

impl RaftLogState {
    /// The last vote.
    #[must_use]
    pub fn vote(&self) -> Option<Ballot> {
        self.vote
    }

    /// The last entry known to be committed.
    #[must_use]
    pub fn committed(&self) -> Option<LogPoint> {
        self.committed
    }

    /// The last entry that was purged.
    #[must_use]
    pub fn purged(&self) -> Option<LogPoint> {
        self.purged
    }

    /// The last entry, or the last purged when there is none.
    #[must_use]
    pub fn last(&self) -> Option<LogPoint> {
        self.entries.last_key_value().map(|(_, entry)| entry.at).or(self.purged)
    }

    /// Entries with these indexes that are there, in order.
    pub fn range(
        &self,
        range: impl std::ops::RangeBounds<u64>,
    ) -> impl Iterator<Item = &StoredEntry> {
        // A map refuses a range that ends before it begins; an empty answer is meant.
        let inverted = match (range.start_bound(), range.end_bound()) {
            (
                std::ops::Bound::Included(a) | std::ops::Bound::Excluded(a),
                std::ops::Bound::Included(b) | std::ops::Bound::Excluded(b),
            ) => a >= b && !range.contains(a),
            _ => false,
        };
        (!inverted).then(|| self.entries.range(range).map(|(_, entry)| entry)).into_iter().flatten()
    }

    /// The entry with this index.
    #[must_use]
    pub fn get(&self, index: u64) -> Option<&StoredEntry> {
        self.entries.get(&index)
    }

    /// How many entries are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no entry is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Makes a change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Vote(ballot) => self.vote = Some(ballot),
            Change::Entry(entry) => {
                self.entries.insert(entry.at.index, entry);
            }
            Change::Truncate(since) => {
                self.entries.split_off(&since);
            }
            Change::Purge(upto) => {
                self.entries = self.entries.split_off(&(upto.index + 1));
                self.purged = self.purged.max(Some(upto));
            }
            Change::Committed(upto) => self.committed = self.committed.max(Some(upto)),
        }
    }

    /// Whether what was recovered is a log.
    ///
    /// # Errors
    /// What it is instead.
    pub fn check(&self) -> Result<(), ChangeError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        let mut wanted = self.purged.map(|at| at.index + 1);
        for index in self.entries.keys() {
            if wanted.is_some_and(|wanted| wanted != *index) {
                let wanted = wanted.unwrap_or_default();
                return Err(ChangeError(format!("entry {wanted} is missing before {index}")));
            }
            wanted = Some(index + 1);
        }
        Ok(())
    }
}

impl LogSink for RaftLogState {
    fn restore(&mut self, piece: &[u8]) -> Result<(), RestoreError> {
        let changes = Change::list(piece).map_err(|error| RestoreError(error.to_string()))?;
        changes.into_iter().for_each(|change| self.apply(change));
        Ok(())
    }

    fn replay(&mut self, _at: Location, _group: GroupSeq, record: &Record<'_>) {
        let change = match record.kind {
            RecordKind::Raft => Change::decode(record.flags, record.body),
            other => Err(ChangeError(format!("a record of kind {other:?}"))),
        };
        match change {
            Ok(change) => self.apply(change),
            Err(error) => self.error = self.error.take().or(Some(error)),
        }
    }

    fn flushed(
        &mut self,
        _group: GroupSeq,
        _records: &mut dyn Iterator<Item = (Location, Record<'_>)>,
    ) {
    }

    fn read_done(&mut self, _: ReadId, _: Location, _: Result<Record<'_>, ReadError>) {
        unreachable!("entries are read from memory");
    }

    /// Compaction only looks at what is older than both checkpoints, which hold all there is.
    fn keep(&mut self, _at: Location, _record: &Record<'_>) -> Keep {
        Keep::Drop
    }

    fn relocated(&mut self, _: Location, _: Location, _: GroupSeq, _: &Record<'_>) {
        unreachable!("compaction moves nothing: keep() drops every record");
    }
}

impl CheckpointSource for RaftLogState {
    /// Takes the whole picture at once: entries share their bytes with it.
    fn begin(&mut self) {
        let entries = self.entries.values().cloned().map(Change::Entry);
        let rest = [
            self.purged.map(Change::Purge),
            self.vote.map(Change::Vote),
            self.committed.map(Change::Committed),
        ];
        self.picture = rest.into_iter().flatten().chain(entries).collect();
    }

    fn next_piece(&mut self, out: &mut Vec<u8>) -> bool {
        if self.picture.is_empty() {
            return false;
        }
        while out.len() < PIECE_BYTES
            && let Some(change) = self.picture.pop_front()
        {
            change.put_piece(out);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::store::change::Payload;

    fn entry(term: u64, index: u64) -> Change {
        Change::Entry(StoredEntry { at: LogPoint { term, index }, payload: Payload::Blank })
    }

    fn indexes(state: &RaftLogState) -> Vec<(u64, u64)> {
        state.range(..).map(|e| (e.at.term, e.at.index)).collect()
    }

    #[test]
    fn changes_fold_and_fold_again_to_the_same() {
        let changes = [
            Change::Vote(Ballot { term: 1, node: 3, elected: false }),
            entry(1, 0),
            entry(1, 1),
            entry(1, 2),
            Change::Truncate(1),
            entry(2, 1),
            entry(2, 2),
            Change::Committed(LogPoint { term: 2, index: 1 }),
            Change::Purge(LogPoint { term: 1, index: 0 }),
            Change::Vote(Ballot { term: 2, node: 3, elected: true }),
        ];
        let mut state = RaftLogState::default();
        changes.iter().cloned().for_each(|change| state.apply(change));
        // Replay may begin anywhere before what the state reflects.
        for from in 0..=changes.len() {
            changes[from..].iter().cloned().for_each(|change| state.apply(change));
            assert_eq!(indexes(&state), [(2, 1), (2, 2)], "from {from}");
            assert_eq!(state.vote(), Some(Ballot { term: 2, node: 3, elected: true }));
            assert_eq!(state.purged(), Some(LogPoint { term: 1, index: 0 }));
            assert_eq!(state.last(), Some(LogPoint { term: 2, index: 2 }));
            assert_eq!(state.check(), Ok(()));
        }
    }

    #[test]
    fn a_picture_restores_to_the_same_and_later_changes_are_not_in_it() {
        let mut state = RaftLogState::default();
        (0..2000).for_each(|i| {
            let at = LogPoint { term: 1, index: i };
            let payload = Payload::Command(vec![i as u8; 300].into());
            state.apply(Change::Entry(StoredEntry { at, payload }));
        });
        state.apply(Change::Purge(LogPoint { term: 1, index: 9 }));
        state.begin();
        state.apply(Change::Truncate(20));
        let mut copy = RaftLogState::default();
        let (mut piece, mut pieces) = (Vec::new(), 0);
        while state.next_piece(&mut piece) {
            copy.restore(&piece).expect("the piece was just made");
            piece.clear();
            pieces += 1;
        }
        assert!(pieces > 1, "a piece is bounded");
        assert_eq!((copy.len(), copy.purged()), (1990, Some(LogPoint { term: 1, index: 9 })));
        assert_eq!(copy.check(), Ok(()));
        assert!(RaftLogState::default().restore(b"x").is_err());
    }

    #[test]
    fn a_hole_is_noticed() {
        let mut state = RaftLogState::default();
        state.apply(entry(1, 4));
        assert_eq!(state.check(), Ok(()), "a log may begin anywhere");
        state.apply(entry(1, 6));
        assert!(state.check().is_err());
        let mut state = RaftLogState::default();
        state.apply(Change::Purge(LogPoint { term: 1, index: 4 }));
        state.apply(entry(1, 6));
        assert!(state.check().is_err());
        #[expect(clippy::reversed_empty_ranges, reason = "openraft may ask so")]
        let none = state.range(9..3).count();
        assert_eq!(none, 0);
    }
}
