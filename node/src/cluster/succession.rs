//! What a voter of the metadata group does when the group's leader is known to be gone: pure.
//!
//! openraft waits until a leader has been silent for its window. When its process has ended, and its
//! kernel says so, nothing has to be waited for: the voters that are left take turns, the same in
//! everybody's eyes, so that two do not ask for votes at once. That a leader is gone is a suggestion:
//! who is wrong about it takes the leadership from a leader that lives, and no more.

use std::collections::BTreeSet;
use std::time::Duration;

use ironring_core::{Instant, NodeId};

use crate::raft::GroupStatus;

/// How long one voter has to be elected before it is the next one's turn: some votes and their
/// writes on a busy machine.
const TURN: Duration = Duration::from_millis(150);

/// A leader that is gone, and whose turn it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Vacancy {
    leader: u64,
    term: u64,
    since: Instant,
    turns: usize,
}

/// The succession to leaders of the metadata group, as one voter sees it.
#[derive(Debug, Default)]
pub(super) struct Succession {
    vacancy: Option<Vacancy>,
}

/// The leader that is gone, and whose turn it is to succeed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// Who led.
    pub gone: u64,
    /// Who is to ask for votes: this node, or another that this one makes way for.
    pub heir: u64,
}

impl Succession {
    /// Whose turn has begun since the last look.
    pub fn step(
        &mut self,
        now: Instant,
        status: &GroupStatus,
        gone: &BTreeSet<NodeId>,
    ) -> Option<Turn> {
        let is_gone = |id: &u64| gone.contains(&NodeId(*id));
        let leader = status.leader.filter(|id| *id != status.id && is_gone(id));
        let Some(leader) = leader.filter(|_| status.voters.contains(&status.id)) else {
            self.vacancy = None;
            return None;
        };
        let known = self.vacancy.filter(|v| (v.leader, v.term) == (leader, status.term));
        let fresh = Vacancy { leader, term: status.term, since: now, turns: 0 };
        let vacancy = self.vacancy.insert(known.unwrap_or(fresh));
        let heirs: Vec<u64> = status.voters.iter().copied().filter(|id| !is_gone(id)).collect();
        if now < vacancy.due() {
            return None;
        }
        // This node is one of them.
        let heir = heirs[vacancy.turns % heirs.len()];
        vacancy.turns += 1;
        Some(Turn { gone: leader, heir })
    }

    /// When the next turn begins, if nobody has come to lead by then.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.vacancy.as_ref().map(Vacancy::due)
    }
}

impl Vacancy {
    fn due(&self) -> Instant {
        self.since + TURN * u32::try_from(self.turns).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::tests::group_status;
    use crate::raft::Role;

    fn status(leader: Option<u64>, term: u64) -> GroupStatus {
        let all = group_status(&[1, 2, 3], &[]);
        GroupStatus { id: 3, role: Role::Follower, term, leader, ..all }
    }

    fn at(ms: u64) -> Instant {
        Instant(0) + Duration::from_millis(ms)
    }

    #[test]
    fn voters_take_turns_until_somebody_leads() {
        let mut succession = Succession::default();
        let nobody = BTreeSet::new();
        let gone = BTreeSet::from([NodeId(1)]);
        let turn = |heir| Some(Turn { gone: 1, heir });
        assert_eq!(succession.step(at(0), &status(Some(1), 4), &nobody), None);
        assert_eq!(succession.next_deadline(), None);
        assert_eq!(succession.step(at(5), &status(Some(1), 4), &gone), turn(2));
        assert_eq!(succession.next_deadline(), Some(at(155)));
        assert_eq!(succession.step(at(100), &status(Some(1), 4), &gone), None);
        assert_eq!(succession.step(at(155), &status(Some(1), 4), &gone), turn(3));
        assert_eq!(succession.step(at(400), &status(Some(1), 4), &gone), turn(2));
        // Somebody else asks for votes, or leads.
        assert_eq!(succession.step(at(401), &status(None, 5), &gone), None);
        assert_eq!(succession.next_deadline(), None);
        assert_eq!(succession.step(at(402), &status(Some(2), 5), &gone), None);
    }

    #[test]
    fn who_is_gone_has_no_turn_and_who_has_no_vote_takes_none() {
        let gone = BTreeSet::from([NodeId(1), NodeId(2)]);
        let turn = Succession::default().step(at(0), &status(Some(1), 4), &gone);
        assert_eq!(turn, Some(Turn { gone: 1, heir: 3 }));
        let learner = GroupStatus { voters: [1, 2].into(), ..status(Some(1), 4) };
        assert_eq!(Succession::default().step(at(0), &learner, &gone), None);
        // A leader does not succeed itself, whatever it has heard of its own process.
        let leader = GroupStatus { id: 1, ..status(Some(1), 4) };
        assert_eq!(Succession::default().step(at(0), &leader, &gone), None);
    }
}
