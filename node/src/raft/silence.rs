//! What a voter does when the leader has said nothing for long.
//!
//! openraft's voters each wait a random time; of three, two that are left asked for votes in the same
//! moment once in six times, and then both waited anew. So voters ask in turn, by number, one
//! [`Timing::stagger`] apart, and the first to ask has the others' votes before it is their turn.
//! openraft's own waits begin two turns later and are what is left when those who had a turn are away
//! as well.
//!
//! It only asks: a round of pre-votes goes first, which a voter that hears of a leader refuses, so that
//! who is merely cut off disturbs nobody.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::{Rc, Weak};
use std::time::Duration;

use ironring_core::Instant;
use openraft::Raft;
use openraft::async_runtime::WatchReceiver;

use super::config::Timing;
use super::host::Host;
use super::machine::{Machine, MetaMachine};
use super::types::Types;

/// Asks for votes when it is this voter's turn.
pub(super) struct SilenceWatch<M: MetaMachine> {
    pub id: u64,
    pub raft: Raft<Types, Machine<M>>,
    pub host: Rc<dyn Host>,
    pub timing: Timing,
    /// When the leader was heard last.
    pub heard: Weak<Cell<Instant>>,
}

impl<M: MetaMachine> SilenceWatch<M> {
    /// Runs until the group has stopped.
    pub async fn run(self) {
        loop {
            let Some(heard) = self.heard.upgrade().map(|heard| heard.get()) else { return };
            let now = self.host.now();
            // A leader that is elected while this sleeps is not silent before it wakes.
            let nap = match self.patience() {
                None => self.timing.lease,
                Some(patience) if now < heard + patience => patience - now.since(heard),
                Some(_) if self.raft.trigger().elect(true).await.is_err() => return,
                Some(_) => self.timing.lease,
            };
            self.host.sleep(nap).await;
        }
    }

    /// How long this voter waits for the leader it follows.
    fn patience(&self) -> Option<Duration> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let voters = metrics.membership_config.membership().voter_ids().collect();
        let vote = metrics.vote;
        vote.committed.then(|| patience(self.timing, self.id, vote.leader_id.voted_for, &voters))?
    }
}

/// How long a voter waits for a leader; `None` for who has no vote, and for the leader itself.
fn patience(timing: Timing, me: u64, leader: u64, voters: &BTreeSet<u64>) -> Option<Duration> {
    let place = voters.iter().filter(|id| **id != leader).position(|id| *id == me)?;
    Some(timing.first_turn() + timing.stagger * u32::try_from(place).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::RaftConfig;

    #[test]
    fn voters_wait_one_turn_longer_each() {
        let timing = RaftConfig::default().timing();
        let voters = BTreeSet::from([1, 4, 5, 9]);
        let turn = |me, leader| {
            let patience = patience(timing, me, leader, &voters)?;
            Some((patience - timing.first_turn()).as_millis() / timing.stagger.as_millis())
        };
        assert_eq!([1, 4, 5, 9].map(|me| turn(me, 4)), [Some(0), None, Some(1), Some(2)]);
        assert_eq!([1, 4, 5, 9].map(|me| turn(me, 9)), [Some(0), Some(1), Some(2), None]);
        // Who leads need not have a vote any more.
        assert_eq!([1, 4, 5, 9].map(|me| turn(me, 7)), [Some(0), Some(1), Some(2), Some(3)]);
        assert_eq!(turn(7, 1), None, "it has no vote");
        assert_eq!(timing.first_turn(), RaftConfig::default().election_timeout_min);
    }
}
