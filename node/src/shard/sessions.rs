//! Retries applied once: per partition, the receipts of each session's recent requests.
//!
//! The table is a pure fold of the partition's committed records, so it survives restarts with the
//! log and its checkpoint; receipts of records that are not committed wait beside them
//! ([`super::pending`]). `admitted` runs ahead of both while a request is on its way to the log.
//!
//! A session's requests to one partition are numbered 1, 2, 3, ... A number is
//! - *next* (one more than the highest admitted): evaluated;
//! - *present*: answered with the first receipt again;
//! - *missing* inside the window (an earlier attempt was refused before evaluation): evaluated;
//! - *beyond next*: a gap, refused, because an earlier request is still to come;
//! - *older than the window*: refused, because whether it was applied is no longer known.

use std::collections::VecDeque;

use ironring_core::limits::{SESSION_WINDOW, SESSIONS_PER_PARTITION_MAX};
use ironring_core::{Offset, SessionId, StableMap, Term};

/// What a session's request came to, enough to give the same answer again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Written; the last record's offset.
    Written,
    /// A condition did not hold; the version found then.
    ConditionFailed(Offset),
    /// Records appended to a topic partition.
    Appended {
        /// Index of the topic partition.
        index: u32,
        /// Offset of the first record.
        first: u64,
        /// How many.
        count: u32,
    },
}

/// The receipt of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The request's number.
    pub sequence: u64,
    /// Offset of its (last) record.
    pub offset: Offset,
    /// The term it was written in.
    pub term: Term,
    /// How it ended.
    pub outcome: Outcome,
}

/// What to do with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Evaluate it.
    Evaluate,
    /// It was applied: answer with this once its offset is durable.
    Duplicate(Remembered),
    /// It is being worked on: the client is too fast with its retry.
    InProgress,
    /// A number was skipped; the one expected.
    Gap(u64),
    /// Numbers this old are forgotten.
    TooOld,
    /// The session was forgotten, or never begun here.
    Expired,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Session {
    /// Highest number evaluated or being evaluated in this run.
    admitted: u64,
    /// Highest number that is committed.
    last: u64,
    /// In order of sequence, at most [`SESSION_WINDOW`].
    recent: VecDeque<Remembered>,
    /// Numbers being evaluated over several turns (large values).
    in_progress: Vec<u64>,
    /// Offset of the newest record, for choosing whom to forget.
    touched: Offset,
}

/// The sessions one partition remembers. At most [`SESSIONS_PER_PARTITION_MAX`].
#[derive(Clone, Debug, Default)]
pub struct SessionTable {
    sessions: StableMap<SessionId, Session>,
    /// Sessions up to this id that are not in the table have been forgotten.
    expired_to: SessionId,
}

impl SessionTable {
    /// Judges a request; it changes nothing. `pending`: receipts of the session that are in the log and
    /// not committed, in order of their records. O(window + pending).
    #[must_use]
    pub fn judge(&self, session: SessionId, sequence: u64, pending: &[Remembered]) -> Verdict {
        let none = Session::default();
        let known = match self.sessions.get(&session) {
            Some(known) => known,
            // Forgotten; what is pending says that it was not when that was written.
            None if session <= self.expired_to && pending.is_empty() => return Verdict::Expired,
            // Never heard of: nothing of it was applied here.
            None => &none,
        };
        let newest = pending.iter().map(|r| r.sequence).max().unwrap_or(0);
        let (admitted, last) = (known.admitted.max(newest), known.last.max(newest));
        if sequence == admitted + 1 {
            return Verdict::Evaluate;
        }
        if sequence > admitted {
            return Verdict::Gap(admitted + 1);
        }
        if known.in_progress.contains(&sequence) {
            return Verdict::InProgress;
        }
        let receipts = pending.iter().rev().chain(known.recent.iter().rev());
        if let Some(found) = receipts.into_iter().find(|r| r.sequence == sequence) {
            return Verdict::Duplicate(*found);
        }
        if sequence + SESSION_WINDOW as u64 <= last { Verdict::TooOld } else { Verdict::Evaluate }
    }

    /// A request of several turns begins: later numbers are welcome meanwhile.
    pub fn begin(&mut self, session: SessionId, sequence: u64) {
        let known = self.sessions.entry(session).or_default();
        known.admitted = known.admitted.max(sequence);
        known.in_progress.push(sequence);
    }

    /// It ended, with a record in the log or without.
    pub fn end(&mut self, session: SessionId, sequence: u64) {
        if let Some(known) = self.sessions.get_mut(&session) {
            known.in_progress.retain(|s| *s != sequence);
            if known.in_progress.is_empty() && known.recent.is_empty() {
                self.sessions.remove(&session);
            }
        }
    }

    /// Folds a record of the log into the table. Idempotent.
    pub fn fold(&mut self, session: SessionId, remembered: Remembered) {
        if session <= self.expired_to && !self.sessions.contains_key(&session) {
            return;
        }
        self.remember(session, remembered);
    }

    /// Takes a receipt from a checkpoint, whatever the session's age: it was remembered then.
    pub fn restore(&mut self, session: SessionId, remembered: Remembered) {
        self.remember(session, remembered);
    }

    fn remember(&mut self, session: SessionId, remembered: Remembered) {
        while self.sessions.len() > SESSIONS_PER_PARTITION_MAX
            || (self.sessions.len() == SESSIONS_PER_PARTITION_MAX
                && !self.sessions.contains_key(&session))
        {
            if !self.forget_one(session) {
                break;
            }
        }
        let known = self.sessions.entry(session).or_default();
        if known.recent.iter().any(|r| r.sequence == remembered.sequence) {
            return;
        }
        known.admitted = known.admitted.max(remembered.sequence);
        known.last = known.last.max(remembered.sequence);
        known.touched = known.touched.max(remembered.offset);
        // Kept in order of number, and the lowest leaves: a late arrival must not push out a
        // receipt that is still inside the window.
        let place = known.recent.iter().rposition(|r| r.sequence < remembered.sequence);
        known.recent.insert(place.map_or(0, |i| i + 1), remembered);
        if known.recent.len() > SESSION_WINDOW {
            known.recent.pop_front();
        }
    }

    /// How many sessions are remembered.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sessions.len()
    }

    /// Every remembered session with its receipts, ordered by id, from behind `after` on: for the
    /// checkpoint.
    pub fn export_after(
        &self,
        after: Option<SessionId>,
    ) -> impl Iterator<Item = (SessionId, &VecDeque<Remembered>)> {
        let later = |id: &SessionId| after.is_none_or(|after| *id > after);
        let mut ids: Vec<SessionId> = self.sessions.keys().copied().filter(later).collect();
        ids.sort();
        ids.into_iter().filter_map(|id| Some((id, &self.sessions.get(&id)?.recent)))
    }

    /// See [`SessionTable::judge`]; for the checkpoint.
    #[must_use]
    pub fn expired_to(&self) -> SessionId {
        self.expired_to
    }

    /// Restores what [`SessionTable::expired_to`] said.
    pub fn set_expired_to(&mut self, id: SessionId) {
        self.expired_to = self.expired_to.max(id);
    }

    /// Forgets the session whose newest record is oldest; false when all are being worked for. O(sessions), paid once per new session
    /// beyond the limit.
    fn forget_one(&mut self, except: SessionId) -> bool {
        let oldest = self
            .sessions
            .iter()
            .filter(|(id, s)| s.in_progress.is_empty() && **id != except)
            .min_by_key(|(id, s)| (s.touched, **id))
            .map(|(id, _)| *id);
        let Some(id) = oldest else { return false };
        self.sessions.remove(&id);
        self.expired_to = self.expired_to.max(id);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: SessionId = SessionId(9);

    fn written(sequence: u64, offset: u64) -> Remembered {
        let (term, outcome) = (Term(1), Outcome::Written);
        Remembered { sequence, offset: Offset(offset), term, outcome }
    }

    #[test]
    fn each_verdict() {
        let mut t = SessionTable::default();
        assert_eq!(t.judge(S, 1, &[]), Verdict::Evaluate);
        assert_eq!(t.judge(S, 2, &[]), Verdict::Gap(1), "number 1 may have been refused");
        t.fold(S, written(1, 10));
        assert_eq!(t.judge(S, 1, &[]), Verdict::Duplicate(written(1, 10)));
        assert_eq!(t.judge(S, 2, &[]), Verdict::Evaluate);
        assert_eq!(t.judge(S, 3, &[]), Verdict::Gap(2));
        t.begin(S, 2);
        assert_eq!(t.judge(S, 2, &[]), Verdict::InProgress);
        assert_eq!(t.judge(S, 3, &[]), Verdict::Evaluate);
        t.fold(S, written(3, 11));
        t.end(S, 2);
        assert_eq!(
            t.judge(S, 2, &[]),
            Verdict::Evaluate,
            "refused before evaluation: a retry is welcome"
        );
        for i in 4..=(3 + SESSION_WINDOW as u64) {
            t.fold(S, written(i, 20 + i));
        }
        assert_eq!(t.judge(S, 2, &[]), Verdict::TooOld);
        assert_eq!(t.judge(S, 3, &[]), Verdict::TooOld);
    }

    #[test]
    fn what_is_pending_counts() {
        let mut t = SessionTable::default();
        let pending = [written(1, 10), written(2, 11)];
        assert_eq!(t.judge(S, 1, &pending), Verdict::Duplicate(written(1, 10)));
        assert_eq!(t.judge(S, 3, &pending), Verdict::Evaluate);
        assert_eq!(t.judge(S, 4, &pending), Verdict::Gap(3));
        assert_eq!(t.judge(S, 1, &[]), Verdict::Evaluate, "it was cut off");
        t.fold(S, written(1, 10));
        assert_eq!(t.judge(S, 1, &pending[1..]), Verdict::Duplicate(written(1, 10)));
        assert_eq!(t.judge(S, 2, &[]), Verdict::Evaluate);
    }

    #[test]
    fn a_late_arrival_does_not_push_out_the_window() {
        let mut t = SessionTable::default();
        t.fold(S, written(1, 1));
        t.begin(S, 2);
        for i in 3..=(2 + SESSION_WINDOW as u64) {
            t.fold(S, written(i, i));
        }
        t.fold(S, written(2, 900));
        t.end(S, 2);
        assert_eq!(t.judge(S, 3, &[]), Verdict::Duplicate(written(3, 3)));
        assert_eq!(t.judge(S, 2, &[]), Verdict::TooOld);
    }

    #[test]
    fn folding_twice_changes_nothing() {
        let mut t = SessionTable::default();
        for i in 1..=5 {
            t.fold(S, written(i, i));
        }
        let all = |t: &SessionTable| -> Vec<_> {
            t.export_after(None).map(|(id, recent)| (id, recent.clone())).collect()
        };
        let before = all(&t);
        t.fold(S, written(3, 3));
        assert_eq!(all(&t), before);
        assert!(t.export_after(Some(S)).next().is_none());
    }

    #[test]
    fn forgotten_sessions_are_expired_not_new() {
        let mut t = SessionTable::default();
        for id in 1..=(SESSIONS_PER_PARTITION_MAX as u64 + 1) {
            t.fold(SessionId(id), written(1, id));
        }
        assert_eq!(t.count(), SESSIONS_PER_PARTITION_MAX);
        assert_eq!(t.judge(SessionId(1), 1, &[]), Verdict::Expired);
        assert_eq!(t.judge(SessionId(1), 2, &[]), Verdict::Expired);
        assert_eq!(t.judge(SessionId(2), 2, &[]), Verdict::Evaluate);
    }
}
