//! Sessions: which writes a leader takes, by the table of sequences that its log comes to.
//!
//! There are two sessions. The first may expire, which is an entry of the log, so that every leader
//! folds the same table. A session that is unknown because it is new and one that is unknown because
//! it expired look alike but for that entry.

use std::collections::BTreeSet;

use super::ReplicationModel;
use super::bounds::Bounds;
use super::log::{ENTRIES_MAX, EXPIRY, Entry, Log, SECOND_SESSION};
use super::properties::Invariant;
use super::rules::Rule;
use super::state::{Replica, State};

impl Bounds {
    /// The sequences of both sessions that clients send.
    pub(super) fn sequences(&self) -> impl Iterator<Item = u8> + use<> {
        let second = SECOND_SESSION + 1..=SECOND_SESSION + self.second_writes;
        (1..=self.writes).chain(second)
    }
}

fn is_second(sequence: u8) -> bool {
    sequence > SECOND_SESSION
}

fn number(sequence: u8) -> u8 {
    if is_second(sequence) { sequence - SECOND_SESSION } else { sequence }
}

impl ReplicationModel {
    /// What the table of sequences is folded from.
    fn folded(&self, replica: &Replica) -> Log {
        let end = if self.rules.has(Rule::SessionsToLogEnd) {
            replica.log_end()
        } else {
            replica.high_watermark
        };
        let begin = if self.rules.has(Rule::SnapshotHasSessions) { 0 } else { replica.base };
        replica.log.below(end).from(begin)
    }

    pub(super) fn write(&self, state: &mut State, node: usize, sequence: u8) {
        if self.rules.has(Rule::WritesAfterTermStart) && !Self::serves(state, node) {
            return;
        }
        let replica = &mut state.replicas[node];
        if usize::from(replica.log_end()) == ENTRIES_MAX {
            return;
        }
        let Some(leader) = &replica.leader else { return };
        let term = leader.term;
        let apart = self.rules.has(Rule::SequencesPerSession);
        let mut known = BTreeSet::new();
        for entry in self.folded(replica).iter() {
            if entry.sequence == EXPIRY && !is_second(sequence) {
                if self.rules.has(Rule::ExpiredIsRefused) {
                    return;
                }
                known.clear();
            } else if entry.is_write()
                && (!apart || is_second(entry.sequence) == is_second(sequence))
            {
                known.insert(number(entry.sequence));
            }
        }
        let last = known.last().copied().unwrap_or(0);
        let remembered = replica.not_rolled_back & 1 << sequence != 0;
        if number(sequence) <= last || remembered {
            // The retry gets the receipt of its first try.
            if !replica.log.iter().any(|entry| entry.sequence == sequence) {
                state.observer.broken.note(Invariant::ReadsSeeWrites);
            }
        } else if number(sequence) == last + 1 || !self.rules.has(Rule::GapIsRefused) {
            replica.log.push(Entry { term, sequence });
        }
    }

    pub(super) fn expire(&self, state: &mut State, node: usize) {
        if !Self::serves(state, node) {
            return;
        }
        let replica = &mut state.replicas[node];
        let full = usize::from(replica.log_end()) == ENTRIES_MAX;
        let already = replica.log.iter().any(|entry| entry.sequence == EXPIRY);
        let Some(leader) = replica.leader.as_ref().filter(|_| !full && !already) else { return };
        let term = leader.term;
        replica.log.push(Entry { term, sequence: EXPIRY });
        state.used.expiries += 1;
    }
}
