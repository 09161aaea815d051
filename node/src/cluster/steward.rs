//! What the leader of the metadata group does beside leading it: members of the cluster become
//! members of the group, first without a vote, and leave it with the cluster.

use std::collections::BTreeSet;

use ironring_core::{NodeId, WallTime};
use ironring_ring::metadata::{Metadata, Status};

use crate::raft::GroupStatus;

/// Most voters of the metadata group: more make every change slower and survive nothing more.
pub const VOTERS_MAX: usize = 7;
/// How long a voter is dead before another gets its vote: longer than a restart of a machine takes.
const DEAD_GRACE_MS: u64 = 5 * 60 * 1000;
/// A member without a vote that lacks no more entries than these is ready for one.
const LAG_MAX: u64 = 64;

/// A change of the group's members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A node takes entries from here on.
    Add(u64, String),
    /// Nodes vote from here on.
    Promote(BTreeSet<u64>),
    /// A node takes no more part.
    Remove(u64),
    /// These vote from here on; who did and does no more stays without a vote.
    Replace {
        /// Whose vote goes.
        dead: u64,
        /// Who gets it.
        by: u64,
        /// All that vote then.
        voters: BTreeSet<u64>,
    },
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::Add(id, address) => {
                write!(f, "node {id} at {address} takes part, without a vote")
            }
            Step::Promote(ids) => {
                let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
                write!(f, "node {} votes", ids.join(" and "))
            }
            Step::Remove(id) => write!(f, "node {id} takes part no more"),
            Step::Replace { dead, by, .. } => {
                write!(f, "node {by} votes in the place of node {dead}, which is dead")
            }
        }
    }
}

/// What is to be changed next: one step at a time, worked out from what there is. Voters are an odd
/// number: one more survives no more failures, and a group of two stops with either.
#[must_use]
pub fn next_step(status: &GroupStatus, metadata: &Metadata) -> Option<Step> {
    if status.changing || metadata.identity().is_none() {
        return None;
    }
    let is_member = |id: &u64| metadata.members().any(|member| member.id.0 == *id);
    if let Some(gone) = status.learners.iter().chain(&status.voters).find(|id| !is_member(id)) {
        return Some(Step::Remove(*gone));
    }
    let takes_part = |id: u64| status.voters.contains(&id) || status.learners.contains(&id);
    if let Some(new) = metadata.members().find(|member| !takes_part(member.id.0)) {
        return Some(Step::Add(new.id.0, new.facts.addresses.node.clone()));
    }
    let last = status.last_log.unwrap_or(0);
    let caught_up = |id: &&u64| {
        let at = status.matched.get(id).copied().flatten();
        at.is_some_and(|at| at + LAG_MAX >= last)
    };
    let mut ready: Vec<u64> = status.learners.iter().filter(caught_up).copied().collect();
    let wanted = (status.voters.len() + ready.len()).min(VOTERS_MAX);
    let wanted = if wanted.is_multiple_of(2) { wanted - 1 } else { wanted };
    ready.truncate(wanted.saturating_sub(status.voters.len()));
    (!ready.is_empty()).then(|| Step::Promote(ready.into_iter().collect()))
}

/// The vote of a member that is dead, and has been for [`DEAD_GRACE_MS`], goes to one that has caught
/// up: a group with dead voters survives fewer failures than it has voters for. One at a time; who
/// comes back takes entries, and may vote again when somebody else does not.
#[must_use]
pub fn replace_dead(status: &GroupStatus, metadata: &Metadata, now: WallTime) -> Option<Step> {
    if status.changing {
        return None;
    }
    let status_of =
        |id: u64| metadata.member(NodeId(id)).map(|member| (member.status, member.since));
    let is_dead = |id: &&u64| {
        let since = status_of(**id).filter(|(status, _)| *status == Status::Dead);
        since.is_some_and(|(_, since)| now.0.saturating_sub(since.0) >= DEAD_GRACE_MS)
    };
    let dead = *status.voters.iter().find(is_dead)?;
    let last = status.last_log.unwrap_or(0);
    let fit = |id: &&u64| {
        let at = status.matched.get(id).copied().flatten();
        let alive = status_of(**id).is_some_and(|(status, _)| status == Status::Alive);
        alive && at.is_some_and(|at| at + LAG_MAX >= last)
    };
    let by = *status.learners.iter().find(fit)?;
    let mut voters = status.voters.clone();
    voters.remove(&dead);
    voters.insert(by);
    Some(Step::Replace { dead, by, voters })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ironring_core::StorageUuid;
    use ironring_ring::metadata::{Command, Facts};

    use super::*;
    use crate::cluster::tests::facts;
    use crate::cluster::token;
    use crate::raft::Role;

    fn metadata(nodes: u64) -> Metadata {
        let now = WallTime(1);
        let mut metadata = Metadata::default();
        metadata.apply(&Command::Found {
            name: "c".to_owned(),
            uuid: StorageUuid(1),
            partitions: 8,
            rf: 1,
            node: facts("n1", 1),
            at: now,
        });
        let (_, shown) = token::draw(now, 1000, false);
        let token = Some(shown.id.clone());
        metadata.apply(&Command::AddToken(shown));
        for n in 2..=nodes {
            let name = format!("n{n}");
            let node = Facts { storage: StorageUuid(n.into()), ..facts(&name, 1) };
            metadata.apply(&Command::Join { node, token: token.clone(), at: now });
        }
        metadata
    }

    fn status(voters: &[u64], learners: &[u64]) -> GroupStatus {
        let all = voters.iter().chain(learners);
        GroupStatus {
            id: 1,
            role: Role::Leader,
            term: 1,
            leader: Some(1),
            silent_leader: None,
            last_log: Some(100),
            committed: None,
            applied: None,
            snapshot: None,
            purged: None,
            voters: voters.iter().copied().collect(),
            learners: learners.iter().copied().collect(),
            addresses: BTreeMap::new(),
            changing: false,
            millis_since_quorum_ack: None,
            matched: all.map(|id| (*id, Some(99))).collect(),
            damaged_snapshots: 0,
            failure: None,
        }
    }

    fn promote(ids: &[u64]) -> Option<Step> {
        Some(Step::Promote(ids.iter().copied().collect()))
    }

    #[test]
    fn a_new_member_takes_entries_first_and_votes_when_the_number_of_voters_stays_odd() {
        let metadata = metadata(4);
        let step =
            |voters: &[u64], learners: &[u64]| next_step(&status(voters, learners), &metadata);
        assert!(matches!(step(&[1], &[]), Some(Step::Add(2, _))));
        assert!(matches!(step(&[1], &[2]), Some(Step::Add(3, _))));
        assert_eq!(step(&[1], &[2, 3, 4]), promote(&[2, 3]));
        assert_eq!(step(&[1, 2, 3], &[4]), None, "four survive no more than three");
        let mut behind = status(&[1], &[2, 3, 4]);
        behind.matched.insert(2, Some(3));
        behind.matched.insert(3, None);
        assert_eq!(next_step(&behind, &metadata), None);
        behind.matched.insert(3, Some(100));
        assert_eq!(next_step(&behind, &metadata), promote(&[3, 4]));
        behind.changing = true;
        assert_eq!(next_step(&behind, &metadata), None);
    }

    #[test]
    fn seven_vote_at_the_most() {
        let metadata = metadata(9);
        let status = status(&[1, 2, 3, 4, 5], &[6, 7, 8, 9]);
        assert_eq!(next_step(&status, &metadata), promote(&[6, 7]));
    }

    #[test]
    fn who_left_the_cluster_leaves_the_group() {
        let mut metadata = metadata(3);
        metadata.apply(&Command::Remove { node: NodeId(3) });
        let status = status(&[1], &[2, 3]);
        assert_eq!(next_step(&status, &metadata), Some(Step::Remove(3)));
    }

    #[test]
    fn who_is_dead_for_long_gives_its_vote_to_one_that_has_caught_up() {
        let mut metadata = metadata(5);
        let mut say = |nodes: &[(u64, Status)], at: u64| {
            let nodes = nodes.iter().map(|(id, status)| (NodeId(*id), *status)).collect();
            metadata.apply(&Command::Status { nodes, at: WallTime(at) });
            metadata.clone()
        };
        let group = status(&[1, 2, 3], &[4, 5]);
        let late = WallTime(1000 + DEAD_GRACE_MS);
        let all_alive = say(&[], 1000);
        assert_eq!(replace_dead(&group, &all_alive, late), None);
        let suspect = say(&[(2, Status::Suspect)], 1000);
        assert_eq!(replace_dead(&group, &suspect, late), None);
        let dead = say(&[(2, Status::Dead), (4, Status::Suspect)], 1000);
        assert_eq!(replace_dead(&group, &dead, WallTime(late.0 - 1)), None, "it may come back");
        let voters = BTreeSet::from([1, 3, 5]);
        let step = Step::Replace { dead: 2, by: 5, voters };
        assert_eq!(replace_dead(&group, &dead, late), Some(step), "node 4 is not heard");
        let mut behind = group.clone();
        behind.matched.insert(5, Some(3));
        assert_eq!(replace_dead(&behind, &dead, late), None);
        assert_eq!(replace_dead(&status(&[1, 2, 3], &[]), &dead, late), None, "nobody is left");
        let changing = GroupStatus { changing: true, ..group };
        assert_eq!(replace_dead(&changing, &dead, late), None);
    }
}
