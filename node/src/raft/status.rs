//! What a group tells about itself, in plain types.

use std::collections::{BTreeMap, BTreeSet};

use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use openraft::{Instant, RaftMetrics, ServerState};

use super::channels::Watcher;
use super::config::Timing;
use super::link::Peer;
use super::types::{LogPoint, StoredMembership, Types};

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It takes entries and has no vote.
    Learner,
    /// It takes entries and votes.
    Follower,
    /// It asks for votes.
    Candidate,
    /// It leads, and a quorum knows it.
    Leader,
    /// It led, and hears of no quorum: it takes no proposals, and waits.
    LeaderWithoutQuorum,
    /// It has stopped, or failed.
    Stopped,
}

/// The state of a member at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// This node.
    pub id: u64,
    /// What it does.
    pub role: Role,
    /// Its term.
    pub term: u64,
    /// The leader it knows; one that was not heard for the election window is none.
    pub leader: Option<u64>,
    /// The leader it knew, when that has not been heard for the election window.
    pub silent_leader: Option<u64>,
    /// Index of its last entry.
    pub last_log: Option<u64>,
    /// The last entry it knows to be committed.
    pub committed: Option<LogPoint>,
    /// The last entry its state machine has applied.
    pub applied: Option<LogPoint>,
    /// The last entry its newest snapshot reflects.
    pub snapshot: Option<LogPoint>,
    /// The last entry that was purged.
    pub purged: Option<LogPoint>,
    /// Members with a vote; while they change, those of both configurations.
    pub voters: BTreeSet<u64>,
    /// Members without a vote.
    pub learners: BTreeSet<u64>,
    /// Where all of them are.
    pub addresses: BTreeMap<u64, String>,
    /// The newest change of members is not committed.
    pub changing: bool,
    /// A change of voters is half done: two configurations are in force.
    pub joint: bool,
    /// Of a leader: the time since it asked what a quorum has answered last.
    pub millis_since_quorum_ack: Option<u64>,
    /// Of a leader: the last entry each other member is known to have.
    pub matched: BTreeMap<u64, Option<u64>>,
    /// Snapshots that did not verify when this node started.
    pub damaged_snapshots: u64,
    /// Why it failed.
    pub failure: Option<String>,
}

impl GroupStatus {
    pub(super) fn new(m: &RaftMetrics<Types>, timing: Timing, damaged_snapshots: u64) -> Self {
        let membership = m.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let alone = voters.len() == 1 && voters.contains(&m.id);
        let ack = m.last_quorum_acked.map(|at| at.elapsed());
        let ack = if alone && m.state.is_leader() { Some(Default::default()) } else { ack };
        let failure = m.running_state.as_ref().err().map(ToString::to_string);
        let role = match m.state {
            _ if failure.is_some() => Role::Stopped,
            ServerState::Learner => Role::Learner,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Leader if ack.is_some_and(|age| age < timing.lease) => Role::Leader,
            ServerState::Leader => Role::LeaderWithoutQuorum,
            ServerState::Shutdown => Role::Stopped,
        };
        let matched = m.replication.iter().flatten();
        GroupStatus {
            id: m.id,
            role,
            term: m.current_term,
            leader: m.current_leader,
            silent_leader: None,
            last_log: m.last_log_index,
            committed: m.local_committed.map(LogPoint::from),
            applied: m.last_applied.map(LogPoint::from),
            snapshot: m.snapshot.map(LogPoint::from),
            purged: m.purged.map(LogPoint::from),
            learners: membership.learner_ids().collect(),
            addresses: membership.nodes().map(|(id, node)| (*id, node.addr.clone())).collect(),
            changing: m.membership_config != m.committed_membership_config,
            joint: membership.get_joint_config().len() > 1,
            voters,
            millis_since_quorum_ack: m
                .state
                .is_leader()
                .then(|| ack.map(|age| age.as_millis() as u64))
                .flatten(),
            matched: matched.map(|(id, at)| (*id, at.map(|at| LogPoint::from(at).index))).collect(),
            damaged_snapshots,
            failure,
        }
    }
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// The term.
    pub term: u64,
    /// The leader, when there is one.
    pub leader: Option<u64>,
}

impl Leadership {
    fn of(m: &RaftServerMetrics<Types>) -> Leadership {
        Leadership { term: m.vote.leader_id.term, leader: m.current_leader }
    }
}

/// Tells when another node leads, or none.
pub struct LeadershipWatch {
    metrics: Watcher<RaftServerMetrics<Types>>,
    last: Leadership,
}

impl LeadershipWatch {
    pub(super) fn new(metrics: Watcher<RaftServerMetrics<Types>>) -> LeadershipWatch {
        let last = Leadership::of(&metrics.borrow_watched());
        LeadershipWatch { metrics, last }
    }

    /// What was told last.
    #[must_use]
    pub fn last(&self) -> &Leadership {
        &self.last
    }

    /// The next change; `None` when the group has stopped. Changes that come fast may be told as
    /// one.
    pub async fn changed(&mut self) -> Option<Leadership> {
        loop {
            let now = Leadership::of(&self.metrics.borrow_and_update());
            if now != self.last {
                self.last = now.clone();
                return Some(now);
            }
            self.metrics.changed().await.ok()?;
        }
    }
}

pub(super) fn peer_of(membership: &StoredMembership, id: u64) -> Option<Peer> {
    let node = membership.get_node(&id)?;
    Some(Peer { id, address: node.addr.clone() })
}
