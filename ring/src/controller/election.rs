//! The election of one partition's leader, from the commit of its term to the choice.
//!
//! The term is taken in metadata first; voters and version are those of that commit. Then every
//! voter is fenced, until enough have answered that one of them must hold everything committed. The
//! one whose log is ahead leads, once every lease that anybody has granted has run out, or the last
//! leader itself has answered: then it has dropped its lease and leads no earlier term ever again,
//! and those of the leaders before it had run out when it was named. Where nobody has led yet, nobody
//! was granted one.

use ironring_core::{Instant, Offset, Term};

use crate::metadata::{LeaderId, PartitionRecord, ReplicaId};
use crate::replication::FenceAnswer;
use crate::replication::quorum::fence_quorum;

/// How an election stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// So many voters more have to answer.
    Needs(usize),
    /// A lease may run until then.
    Wait(Instant),
    /// Commit this one as the leader of the term.
    Lead(LeaderId),
}

/// One election. A new controller begins its own.
#[derive(Clone, Debug)]
pub struct Election {
    term: Term,
    voters: Vec<ReplicaId>,
    /// Whose lease may run.
    last_leader: Option<ReplicaId>,
    answers: Vec<FenceAnswer>,
    lease_end: Instant,
}

impl Election {
    /// The election that the commit which made `record` began.
    #[must_use]
    pub fn new(record: &PartitionRecord) -> Election {
        Election {
            term: record.term,
            voters: record.voters.clone(),
            last_leader: record.last_leader,
            answers: Vec::new(),
            lease_end: Instant(0),
        }
    }

    /// Its term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Voters that have not answered, who are to be fenced (again).
    pub fn missing(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        let answered = |id: &ReplicaId| self.answers.iter().any(|a| a.from.replica == *id);
        self.voters.iter().copied().filter(move |id| !answered(id))
    }

    /// An answer that arrived at `now`. Those of other terms and of replicas that do not vote are
    /// ignored. Of a voter that answers again, restarted perhaps, the newer answer counts.
    pub fn answer(&mut self, now: Instant, answer: FenceAnswer) {
        if answer.term != self.term || !self.voters.contains(&answer.from.replica) {
            return;
        }
        self.lease_end = self.lease_end.max(now + answer.lease_left);
        match self.answers.iter_mut().find(|a| a.from.replica == answer.from.replica) {
            Some(known) if known.from.incarnation > answer.from.incarnation => {}
            Some(known) => *known = answer,
            None => self.answers.push(answer),
        }
    }

    /// What a voter answered: the term of its last entry, and behind where its log ends.
    #[must_use]
    pub fn answered(&self, voter: ReplicaId) -> Option<(Term, Offset)> {
        let answer = self.answers.iter().find(|a| a.from.replica == voter)?;
        Some((answer.last_term, answer.log_end))
    }

    /// How it stands. Among those whose logs are equally far, `preference` chooses: the smallest.
    #[must_use]
    pub fn decide(&self, now: Instant, preference: impl Fn(ReplicaId) -> u32) -> Decision {
        let needed = fence_quorum(self.voters.len());
        if self.answers.len() < needed {
            return Decision::Needs(needed - self.answers.len());
        }
        let dropped = match self.last_leader {
            Some(leader) => self.answers.iter().any(|a| a.from.replica == leader),
            None => true,
        };
        if now < self.lease_end && !dropped {
            return Decision::Wait(self.lease_end);
        }
        let place = |a: &&FenceAnswer| {
            let id = a.from.replica;
            (a.last_term, a.log_end, std::cmp::Reverse((preference(id), id)))
        };
        let best = self.answers.iter().max_by_key(place).expect("somebody has answered");
        Decision::Lead(best.from)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ironring_core::{Incarnation, PartitionId, StorageUuid};

    use super::*;

    fn id(storage: u128) -> ReplicaId {
        ReplicaId { storage: StorageUuid(storage), life: 0 }
    }

    fn election(voters: u128) -> Election {
        let voters = (1..=voters).map(id).collect();
        let term = Term(7);
        Election::new(&PartitionRecord { voters, term, ..PartitionRecord::default() })
    }

    fn answer(uuid: u128, last_term: u64, log_end: u64) -> FenceAnswer {
        FenceAnswer {
            partition: PartitionId(0),
            from: LeaderId { replica: id(uuid), incarnation: Incarnation(1) },
            term: Term(7),
            last_term: Term(last_term),
            log_end: Offset(log_end),
            lease_left: Duration::ZERO,
        }
    }

    fn led_by(decision: Decision) -> u128 {
        match decision {
            Decision::Lead(leader) => leader.replica.storage.0,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_longest_log_of_the_newest_term_leads() {
        let now = Instant(0);
        let mut e = election(3);
        e.answer(now, answer(1, 5, 90));
        assert_eq!(e.decide(now, |_| 0), Decision::Needs(1));
        assert_eq!(e.missing().map(|id| id.storage.0).collect::<Vec<_>>(), [2, 3]);
        e.answer(now, answer(2, 6, 20));
        assert_eq!(led_by(e.decide(now, |_| 0)), 2, "terms before lengths");
        e.answer(now, answer(3, 6, 21));
        assert_eq!(led_by(e.decide(now, |_| 0)), 3);
    }

    #[test]
    fn preference_only_breaks_ties() {
        let now = Instant(0);
        let mut e = election(3);
        e.answer(now, answer(1, 6, 20));
        e.answer(now, answer(2, 6, 20));
        assert_eq!(led_by(e.decide(now, |_| 0)), 1);
        assert_eq!(led_by(e.decide(now, |id| u32::from(id.storage.0 == 1))), 2);
        e.answer(now, answer(3, 6, 22));
        assert_eq!(led_by(e.decide(now, |id| u32::from(id.storage.0 == 3))), 3);
    }

    #[test]
    fn answers_that_do_not_count() {
        let now = Instant(0);
        let mut e = election(1);
        e.answer(now, FenceAnswer { term: Term(6), ..answer(1, 5, 90) });
        e.answer(now, answer(2, 5, 90));
        assert_eq!(e.decide(now, |_| 0), Decision::Needs(1));
        e.answer(now, answer(1, 5, 90));
        assert_eq!(led_by(e.decide(now, |_| 0)), 1);
    }

    #[test]
    fn leases_are_waited_out_from_when_the_answer_came() {
        let ms = Duration::from_millis;
        let t0 = Instant(0);
        let mut e = election(2);
        e.last_leader = Some(id(2));
        e.answer(t0 + ms(50), FenceAnswer { lease_left: ms(300), ..answer(1, 5, 90) });
        assert_eq!(e.decide(t0 + ms(50), |_| 0), Decision::Wait(t0 + ms(350)));
        assert_eq!(led_by(e.decide(t0 + ms(350), |_| 0)), 1);
    }

    #[test]
    fn where_nobody_has_led_no_lease_is_waited_for() {
        let mut e = election(2);
        // A replica that has just started may have forgotten a grant, as far as it knows.
        let lease_left = Duration::from_millis(300);
        e.answer(Instant(0), FenceAnswer { lease_left, ..answer(1, 0, 1) });
        assert_eq!(led_by(e.decide(Instant(0), |_| 0)), 1);
    }

    #[test]
    fn the_last_leaders_own_answer_ends_the_wait() {
        let ms = Duration::from_millis;
        let t0 = Instant(0);
        let mut e = election(3);
        e.last_leader = Some(id(2));
        for (uuid, left) in [(1, 300), (3, 300)] {
            e.answer(t0, FenceAnswer { lease_left: ms(left), ..answer(uuid, 5, 90) });
        }
        assert_eq!(e.decide(t0, |_| 0), Decision::Wait(t0 + ms(300)));
        e.answer(t0, FenceAnswer { term: Term(6), ..answer(2, 5, 90) });
        assert_eq!(e.decide(t0, |_| 0), Decision::Wait(t0 + ms(300)), "another term's answer");
        e.answer(t0, FenceAnswer { lease_left: ms(400), ..answer(2, 5, 90) });
        assert_eq!(led_by(e.decide(t0, |_| 0)), 1);
    }
}
