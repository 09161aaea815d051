//! One replica of one partition: what is durable, what is believed, and its role.

use std::collections::VecDeque;
use std::time::Duration;

use ironring_core::{Instant, NodeId, Offset, Term};

use super::Run;
use super::leader::Leader;
use super::lease::Grants;
use super::message::{AckState, Replicate};
use super::terms::TermStarts;
use crate::metadata::{LeaderId, PartitionRecord, ReplicaId};

/// No replica that metadata know has this life.
const NO_LIFE: u64 = u64::MAX;

/// What a replica's log holds, as its owner found it at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Which of its lives the log is of; none when the partition never had a replica here.
    pub life: Option<u64>,
    /// First offset whose entry can still be sent; what is below is known only as state.
    pub start: Offset,
    /// Behind the last entry. All of it is fsynced.
    pub end: Offset,
    /// Terms of the entries, and of the one before `start`.
    pub terms: TermStarts,
    /// The highest term promised, or seen in an entry.
    pub promised: Term,
    /// A high watermark that was known before; lower than it was is allowed.
    pub high_watermark: Offset,
    /// The log is damaged below this offset, which it had fsynced before.
    pub damaged_below: Option<Offset>,
}

impl Recovered {
    /// Of a replica that has never had an entry.
    #[must_use]
    pub fn empty() -> Recovered {
        Recovered {
            life: None,
            start: Offset::FIRST,
            end: Offset::FIRST,
            terms: TermStarts::default(),
            promised: Term(0),
            high_watermark: Offset::FIRST,
            damaged_below: None,
        }
    }
}

/// The leader a follower hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    pub node: NodeId,
    pub leader: LeaderId,
    pub at: Instant,
}

/// What a replica that does not lead knows.
#[derive(Clone, Debug, Default)]
pub(super) struct Follower {
    /// End of what is known to equal the log of the leader of the promised term.
    pub verified: Offset,
    pub heard: Option<Heard>,
    /// The newest probe taken, while it was not answered.
    pub probe: Instant,
    /// The probe with whose answer it asked for the state last.
    pub asked: Instant,
    /// Probes that came, and when.
    pub came: Came,
    /// An answer other than how far the log is flushed, and the probe of the message it is for.
    pub answer: Option<(AckState, Instant)>,
}

/// How many probes are remembered, at most one per [`CAME_EVERY`]: answers to them are under way
/// for less than the product.
const CAME_MAX: usize = 16;
const CAME_EVERY: Duration = Duration::from_millis(40);

/// When the newest probes of a leader came, oldest first. They tell a follower about when a message was
/// sent that names one it has answered: not before that one came, however long the message waited on
/// its way.
#[derive(Clone, Debug, Default)]
pub(super) struct Came(VecDeque<(Instant, Instant)>);

impl Came {
    /// A probe came, with a number above all before. O(1).
    pub fn push(&mut self, now: Instant, probe: Instant) {
        if self.0.back().is_some_and(|(_, at)| now.since(*at) < CAME_EVERY) {
            return;
        }
        if self.0.len() == CAME_MAX {
            self.0.pop_front();
        }
        self.0.push_back((probe, now));
    }

    /// A time that is not behind the coming of a probe: that of the newest remembered up to it.
    pub fn before(&self, probe: Instant) -> Option<Instant> {
        self.0.iter().rev().find(|(sent, _)| *sent <= probe).map(|(_, at)| *at)
    }
}

#[derive(Debug)]
pub(super) enum Role {
    Follower(Follower),
    Leader(Box<Leader>),
}

#[derive(Debug)]
pub(super) struct LocalReplica {
    /// Who it is, in this run.
    pub me: LeaderId,
    pub record: PartitionRecord,
    pub start: Offset,
    pub end: Offset,
    pub terms: TermStarts,
    /// No message of a lower term has an effect.
    pub promised: Term,
    /// That much of `promised` survives a crash.
    pub promised_durable: Term,
    /// Terms up to this one were begun by an earlier run: this run does not lead them.
    pub promised_at_start: Term,
    /// Terms up to this one were led or handed over by this run.
    pub left: Term,
    pub flushed_end: Offset,
    pub high_watermark: Offset,
    /// When all that was committed then was known to be so here: as the leader of that time said, or
    /// because this replica led. It stays true whoever leads.
    pub current: Option<Instant>,
    pub damaged_below: Option<Offset>,
    /// See [`super::Replicator::hurt`].
    pub hurt: bool,
    /// See [`super::Replicator::coming`].
    pub coming: Option<ReplicaId>,
    /// What is lost is known, so that it may vote when no leader is found without it.
    pub resorts: bool,
    /// Since when elections are under way without a leader, of a replica that is hurt.
    pub fenced_since: Option<Instant>,
    /// The term in which it has voted although it is hurt.
    pub resorted: Option<Term>,
    pub grants: Grants,
    /// A Fence of the promised term waits for the promise to be durable.
    pub fence_waits: bool,
    /// The transfer this run asked for in its last term.
    pub handed_over: Option<(Term, LeaderId)>,
    pub role: Role,
    /// Whether it is in the list of those that made progress, or owe an ack.
    pub progress_noted: bool,
    pub ack_noted: bool,
}

impl LocalReplica {
    pub fn new(run: Run, found: Recovered) -> LocalReplica {
        let life = found.life.unwrap_or(NO_LIFE);
        let replica = ReplicaId { storage: run.storage, life };
        LocalReplica {
            me: LeaderId { replica, incarnation: run.incarnation },
            record: PartitionRecord::default(),
            start: found.start,
            end: found.end,
            terms: found.terms,
            promised: found.promised,
            promised_durable: found.promised,
            promised_at_start: found.promised,
            left: Term(0),
            flushed_end: found.end,
            high_watermark: found.high_watermark,
            current: None,
            damaged_below: found.damaged_below,
            hurt: false,
            coming: None,
            resorts: false,
            fenced_since: None,
            resorted: None,
            grants: Grants::default(),
            fence_waits: false,
            handed_over: None,
            role: Role::Follower(Follower::default()),
            progress_noted: false,
            ack_noted: false,
        }
    }

    /// Which life the log is of: the version of the record that began it.
    pub fn life(&self) -> Option<u64> {
        Some(self.me.replica.life).filter(|life| *life != NO_LIFE)
    }

    pub fn leader(&self) -> Option<&Leader> {
        match &self.role {
            Role::Leader(leader) => Some(leader),
            Role::Follower(_) => None,
        }
    }

    /// Whether it may vote and begin to lead. One that has lost records may not: others have them. Of a
    /// replica that is the only voter, by an operator's decision or because nobody else was ever asked,
    /// nobody has more.
    pub fn is_fit(&self) -> bool {
        let alone = self.record.voters == [self.me.replica];
        self.damaged_below.is_none() && (!self.hurt || alone)
    }

    /// Whether this run may lead `term`.
    pub fn may_lead(&self, term: Term) -> bool {
        term >= self.promised
            && term > self.promised_at_start
            && term > self.left
            && (self.is_fit() || self.resorted == Some(term))
            && self.record.is_voter(self.me.replica)
    }

    /// Compares a message's place with the log. `None`: what is before its first entry is as the
    /// leader has it.
    pub fn mismatch(&self, message: &Replicate) -> Option<AckState> {
        // Everything below the high watermark is committed, and so the leader has it too.
        if message.first <= self.high_watermark {
            return None;
        }
        let prev = Offset(message.first.0 - 1);
        if message.first <= self.end && self.terms.at(prev) == message.prev_term {
            return None;
        }
        let end = self.terms.end_of(message.prev_term, self.end).min(message.first);
        let end = end.max(self.high_watermark);
        Some(AckState::Mismatch { end, term: self.terms.at(Offset(end.0 - 1)) })
    }

    /// How many of a message's entries are in the log already, and whether the next one's place
    /// holds an entry of another term.
    pub fn compare(&self, message: &Replicate, term_of: &dyn Fn(u32) -> Term) -> (u32, bool) {
        for i in 0..message.count {
            let offset = Offset(message.first.0 + u64::from(i));
            if offset >= self.end {
                return (i, false);
            }
            if offset >= self.high_watermark && self.terms.at(offset) != term_of(i) {
                return (i, true);
            }
        }
        (message.count, false)
    }
}
