//! What the leader of the metadata group does beside leading it: members of the cluster become
//! members of the group, first without a vote, and leave it with the cluster.
//!
//! Who votes follows from the metadata. One that leaves, was given up, or is not wished to vote by an
//! operator has no vote; one that is wished to has one as soon as it has caught up; of the others as
//! many have one as make the number of voters odd. A leader that is to have no vote, or drains, first
//! lets another lead.

use std::collections::BTreeSet;

use ironring_core::{NodeId, WallTime};
use ironring_ring::metadata::{MemberState, Metadata, Status, VoteWish};

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
    /// The change of voters that a leader before has left half done goes on to its end.
    Finish,
    /// A node takes entries from here on.
    Add(u64, String),
    /// Nodes vote from here on.
    Promote(BTreeSet<u64>),
    /// These are the voters from here on.
    Voters(BTreeSet<u64>),
    /// Another voter leads from here on.
    HandOver(u64),
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
            Step::Finish => write!(f, "the change of voters that was half done is finished"),
            Step::Add(id, address) => {
                write!(f, "node {id} at {address} takes part, without a vote")
            }
            Step::Promote(ids) => {
                write!(f, "node {} votes", joined(ids))
            }
            Step::Voters(ids) => write!(f, "of all only node {} votes", joined(ids)),
            Step::HandOver(id) => write!(f, "node {id} leads"),
            Step::Remove(id) => write!(f, "node {id} takes part no more"),
            Step::Replace { dead, by, .. } => {
                write!(f, "node {by} votes in the place of node {dead}, which is dead")
            }
        }
    }
}

fn joined(ids: &BTreeSet<u64>) -> String {
    ids.iter().map(u64::to_string).collect::<Vec<_>>().join(" and ")
}

/// What a member of the group is to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Nothing: it is no member of the cluster.
    None,
    /// A member without a vote.
    Learner,
    /// A voter.
    Voter,
    /// Either.
    Any,
}

/// Whether a member may have a vote, or keep one.
pub(super) fn may_vote(metadata: &Metadata, id: u64) -> bool {
    matches!(part(metadata, id), Part::Voter | Part::Any)
}

fn is_alive(metadata: &Metadata, id: u64) -> bool {
    metadata.member(NodeId(id)).is_some_and(|member| member.status == Status::Alive)
}

fn part(metadata: &Metadata, id: u64) -> Part {
    let Some(member) = metadata.member(NodeId(id)) else { return Part::None };
    match (member.state, member.vote) {
        _ if member.facts.observer => Part::Learner,
        (MemberState::Leaving | MemberState::Lost, _) | (_, VoteWish::Learner) => Part::Learner,
        (_, VoteWish::Voter) => Part::Voter,
        (_, VoteWish::Auto) => Part::Any,
    }
}

/// What is to be changed next: one step at a time, worked out from what there is. Voters are an odd
/// number: one more survives no more failures, and a group of two stops with either.
#[must_use]
pub fn next_step(status: &GroupStatus, metadata: &Metadata) -> Option<Step> {
    if status.changing {
        return None;
    }
    if status.joint {
        return Some(Step::Finish);
    }
    metadata.identity()?;
    let part = |id: u64| part(metadata, id);
    let at = |id: &u64| status.matched.get(id).copied().flatten();
    let stays = |id: &u64| may_vote(metadata, *id);
    let state = |id: &u64| metadata.member(NodeId(*id)).map(|member| member.state);
    let drains = state(&status.id) == Some(MemberState::Draining);
    if status.voters.contains(&status.id) && (drains || !stays(&status.id)) {
        // One that drains has its vote, and leads only where nobody else may.
        let fit = |id: &&u64| !drains || state(id) == Some(MemberState::Active);
        let heirs = status.voters.iter().filter(|id| stays(id) && **id != status.id);
        let heirs = heirs.filter(|id| is_alive(metadata, **id)).filter(fit);
        let active = |id: &u64| state(id) == Some(MemberState::Active);
        if let Some(heir) = heirs.max_by_key(|id| (active(id), at(id))) {
            return Some(Step::HandOver(*heir));
        }
    }
    let goes_on = |voters: &BTreeSet<u64>| goes_on(status, metadata, voters);
    let mut all = status.learners.iter().chain(&status.voters);
    let gone = all.find(|id| {
        let left = status.voters.iter().copied().filter(|voter| voter != *id).collect();
        part(**id) == Part::None && **id != status.id && goes_on(&left)
    });
    if let Some(gone) = gone {
        return Some(Step::Remove(*gone));
    }
    let takes_part = |id: u64| status.voters.contains(&id) || status.learners.contains(&id);
    let comes = |state| matches!(state, MemberState::Active | MemberState::Draining);
    let mut members = metadata.members();
    if let Some(new) = members.find(|m| !takes_part(m.id.0) && comes(m.state)) {
        return Some(Step::Add(new.id.0, new.facts.addresses.node.clone()));
    }
    let wanted = wanted_voters(status, metadata);
    if wanted == status.voters || !goes_on(&wanted) {
        return None;
    }
    let new: BTreeSet<u64> = wanted.difference(&status.voters).copied().collect();
    Some(match wanted.is_superset(&status.voters) {
        true => Step::Promote(new),
        false => Step::Voters(wanted),
    })
}

/// Whether enough of these voters are heard to commit anything: a change to others is not even finished,
/// nor taken back, until more come back. It is waited for, or for an operator who gives up who is dead.
fn goes_on(status: &GroupStatus, metadata: &Metadata, voters: &BTreeSet<u64>) -> bool {
    let heard = voters.iter().filter(|id| **id == status.id || is_alive(metadata, **id)).count();
    heard > voters.len() / 2
}

/// Who should vote, of those who take part and have caught up. Whoever leads keeps the vote until it
/// leads no more; one that is to lose it is not counted, or nobody would come in its place. Who is not
/// heard gets a vote only by an operator's wish: it would be one failure the less that the group survives.
fn wanted_voters(status: &GroupStatus, metadata: &Metadata) -> BTreeSet<u64> {
    let last = status.last_log.unwrap_or(0);
    let caught_up = |id: &&u64| {
        let at = status.matched.get(id).copied().flatten();
        at.is_some_and(|at| at + LAG_MAX >= last)
    };
    let keeps = |id: &&u64| may_vote(metadata, **id);
    let mut wanted: BTreeSet<u64> = status.voters.iter().filter(keeps).copied().collect();
    let ready = |wished: Part| -> Vec<u64> {
        let ready = status.learners.iter().filter(caught_up);
        ready.copied().filter(|id| part(metadata, *id) == wished).collect()
    };
    let room = VOTERS_MAX.saturating_sub(wanted.len());
    wanted.extend(ready(Part::Voter).into_iter().take(room));
    let mut fill = ready(Part::Any);
    fill.retain(|id| is_alive(metadata, *id));
    let most = (wanted.len() + fill.len()).min(VOTERS_MAX);
    let odd = if most.is_multiple_of(2) { most.saturating_sub(1) } else { most };
    let more = odd.saturating_sub(wanted.len());
    wanted.extend(fill.into_iter().take(more));
    wanted.extend(status.voters.get(&status.id));
    wanted
}

/// The vote of a member that is dead, and has been for [`DEAD_GRACE_MS`], goes to one that has caught
/// up: a group with dead voters survives fewer failures than it has voters for. One at a time; who
/// comes back takes entries, and may vote again when somebody else does not.
#[must_use]
pub fn replace_dead(status: &GroupStatus, metadata: &Metadata, now: WallTime) -> Option<Step> {
    if status.changing || status.joint {
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
        let may = is_alive(metadata, **id) && may_vote(metadata, **id);
        may && at.is_some_and(|at| at + LAG_MAX >= last)
    };
    let by = *status.learners.iter().find(fit)?;
    let mut voters = status.voters.clone();
    voters.remove(&dead);
    voters.insert(by);
    goes_on(status, metadata, &voters).then_some(Step::Replace { dead, by, voters })
}

#[cfg(test)]
mod tests {
    use ironring_ring::metadata::Command;

    use super::*;
    use crate::cluster::tests::{cluster_of as metadata, group_status as status};

    fn say(node: u64, said: Status) -> Command {
        Command::Status { nodes: vec![(NodeId(node), said)], at: WallTime(1) }
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
    fn a_member_that_is_not_heard_gets_no_vote_by_itself() {
        let mut metadata = metadata(5);
        metadata.apply(&say(4, Status::Dead));
        let now = status(&[1, 2, 3], &[4, 5]);
        assert_eq!(next_step(&now, &metadata), None, "an even number with the other alone");
        metadata.apply(&say(4, Status::Alive));
        assert_eq!(next_step(&now, &metadata), promote(&[4, 5]));
    }

    #[test]
    fn voters_that_could_commit_nothing_are_not_voted_for() {
        let mut metadata = metadata(3);
        metadata.apply(&say(3, Status::Dead));
        metadata.apply(&Command::SetVote { node: NodeId(2), vote: VoteWish::Learner });
        let three = status(&[1, 2, 3], &[]);
        // 1 and 3 would be the voters, and a majority of two is both.
        assert_eq!(next_step(&three, &metadata), None);
        metadata.apply(&say(3, Status::Alive));
        let voters = Some(Step::Voters([1, 3].into()));
        assert_eq!(next_step(&three, &metadata), voters);
        // Nor is a voter that is no member any more taken out while the rest is too few.
        metadata.apply(&say(3, Status::Dead));
        let gone = metadata_without(2, metadata);
        assert_eq!(next_step(&three, &gone), None);
        // Its operator gives the dead one up: what is left can go on alone.
        let mut lost = gone;
        lost.apply(&Command::SetMember { node: NodeId(3), state: MemberState::Lost });
        assert_eq!(next_step(&three, &lost), Some(Step::Voters([1].into())));
    }

    #[test]
    fn a_change_that_was_left_half_done_is_finished_before_any_other() {
        let mut metadata = metadata(4);
        let dead = Command::Status { nodes: vec![(NodeId(2), Status::Dead)], at: WallTime(1) };
        metadata.apply(&dead);
        let mut half = status(&[1, 2, 3], &[]);
        half.joint = true;
        assert_eq!(next_step(&half, &metadata), Some(Step::Finish), "node 4 comes later");
        half.learners.insert(4);
        half.matched.insert(4, Some(100));
        assert_eq!(replace_dead(&half, &metadata, WallTime(1 + DEAD_GRACE_MS)), None);
        half.changing = true;
        assert_eq!(next_step(&half, &metadata), None, "it is not committed");
    }

    #[test]
    fn seven_vote_at_the_most() {
        let metadata = metadata(9);
        let status = status(&[1, 2, 3, 4, 5], &[6, 7, 8, 9]);
        assert_eq!(next_step(&status, &metadata), promote(&[6, 7]));
    }

    #[test]
    fn what_operators_wish_counts_before_the_number() {
        let mut metadata = metadata(4);
        let wish = |metadata: &mut Metadata, node, vote| {
            metadata.apply(&Command::SetVote { node: NodeId(node), vote });
        };
        let voters = |ids: &[u64]| Some(Step::Voters(ids.iter().copied().collect()));
        wish(&mut metadata, 4, VoteWish::Voter);
        assert_eq!(next_step(&status(&[1, 2, 3], &[4]), &metadata), promote(&[4]));
        assert_eq!(next_step(&status(&[1, 2, 3, 4], &[]), &metadata), None);
        // Whoever takes its place comes in the same step.
        wish(&mut metadata, 4, VoteWish::Auto);
        wish(&mut metadata, 3, VoteWish::Learner);
        assert_eq!(next_step(&status(&[1, 2, 3], &[4]), &metadata), voters(&[1, 2, 4]));
        assert_eq!(next_step(&status(&[1, 2, 4], &[3]), &metadata), None);
        // Without anybody it goes all the same.
        wish(&mut metadata, 4, VoteWish::Learner);
        assert_eq!(next_step(&status(&[1, 2, 3], &[4]), &metadata), voters(&[1, 2]));
        assert_eq!(next_step(&status(&[1, 2], &[3, 4]), &metadata), None);
    }

    #[test]
    fn a_leader_that_is_to_have_no_vote_lets_another_lead_first() {
        let mut metadata = metadata(4);
        let set = |node, state| Command::SetMember { node: NodeId(node), state };
        metadata.apply(&set(1, MemberState::Leaving));
        let mut three = status(&[1, 2, 3], &[4]);
        three.matched.insert(3, Some(100));
        assert_eq!(next_step(&three, &metadata), Some(Step::HandOver(3)), "it has the most");
        let dead = Command::Status { nodes: vec![(NodeId(3), Status::Dead)], at: WallTime(2) };
        metadata.apply(&dead);
        assert_eq!(next_step(&three, &metadata), Some(Step::HandOver(2)));
        // Nobody else votes: somebody who is heard has to be given the vote before.
        assert_eq!(next_step(&status(&[1], &[2, 3, 4]), &metadata), promote(&[2]));
        // Another leads by then.
        let mut led = status(&[1, 2, 3], &[4]);
        (led.id, led.leader) = (2, Some(2));
        let voters = Some(Step::Voters([2, 3, 4].into()));
        assert_eq!(next_step(&led, &metadata), voters);
        metadata.apply(&set(3, MemberState::Lost));
        let voters = Some(Step::Voters([2].into()));
        assert_eq!(
            next_step(&status_of(2, &[1, 2, 3], &[]), &metadata_without(4, metadata)),
            voters
        );
    }

    #[test]
    fn an_only_voter_that_goes_gives_the_only_other_member_a_vote_first() {
        let leaving = Command::SetMember { node: NodeId(1), state: MemberState::Leaving };
        let demoted = Command::SetVote { node: NodeId(1), vote: VoteWish::Learner };
        for goes in [leaving, demoted] {
            let mut metadata = metadata(2);
            assert_eq!(next_step(&status(&[1], &[2]), &metadata), None);
            metadata.apply(&goes);
            assert_eq!(next_step(&status(&[1], &[2]), &metadata), promote(&[2]));
            assert_eq!(next_step(&status(&[1, 2], &[]), &metadata), Some(Step::HandOver(2)));
            let voters = Some(Step::Voters([2].into()));
            assert_eq!(next_step(&status_of(2, &[1, 2], &[]), &metadata), voters);
            assert_eq!(next_step(&status_of(2, &[2], &[1]), &metadata), None);
            // Nobody is there to take over.
            let mut behind = status(&[1], &[2]);
            behind.matched.insert(2, None);
            assert_eq!(next_step(&behind, &metadata), None);
        }
    }

    #[test]
    fn a_leader_that_drains_lets_an_active_voter_lead_and_keeps_its_vote() {
        let mut metadata = metadata(3);
        let set = |node| Command::SetMember { node: NodeId(node), state: MemberState::Draining };
        metadata.apply(&set(1));
        metadata.apply(&set(2));
        let step = next_step(&status(&[1, 2, 3], &[]), &metadata);
        assert_eq!(step, Some(Step::HandOver(3)));
        metadata.apply(&set(3));
        assert_eq!(next_step(&status(&[1, 2, 3], &[]), &metadata), None, "nobody else may lead");
    }

    fn status_of(leader: u64, voters: &[u64], learners: &[u64]) -> GroupStatus {
        GroupStatus { id: leader, leader: Some(leader), ..status(voters, learners) }
    }

    fn metadata_without(node: u64, mut metadata: Metadata) -> Metadata {
        metadata.apply(&Command::Remove { node: NodeId(node) });
        metadata
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
