//! Members come, get votes, lose them and go.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use futures_lite::future;
use ironring_node::cluster::steward::{Step, next_step};
use ironring_node::raft::{GroupError, GroupStatus, RaftConfig, Role};
use ironring_ring::metadata::Metadata;
use ironring_tests::sim::raft::cluster::Cluster;

use super::{SEEDS, ms, with_seeds};

fn address(node: u64) -> String {
    format!("node-{node}:1")
}

#[test]
fn a_group_grows_from_one_to_three_and_survives_the_first() {
    with_seeds(SEEDS, RaftConfig::default(), async |c: &Cluster| {
        c.form(&[1]).await;
        let mut commands = vec![c.propose(8).await];
        for node in [2, 3] {
            c.start(node).await;
            c.group(1).add_learner(node, address(node), true).await.expect("it leads");
            c.expect("a learner", |c| c.group(node).status().role == Role::Learner).await;
            commands.push(c.propose(8).await);
        }
        let status = c.group(1).status();
        assert_eq!((status.voters, status.learners), ([1].into(), [2, 3].into()));
        c.group(1).promote([2, 3].into()).await.expect("they have caught up");
        let status = c.group(1).status();
        assert_eq!((status.voters, status.learners), ([1, 2, 3].into(), [].into()));
        assert!(!status.changing && !status.joint);
        assert_eq!(status.addresses[&3], "node-3:1");
        commands.push(c.propose(8).await);
        c.crash(1);
        commands.push(c.propose(8).await);
        c.start(1).await;
        c.agree(&commands).await;
    });
}

#[test]
fn a_change_of_voters_whose_leader_is_lost_half_way_is_finished_by_the_next() {
    with_seeds(SEEDS, RaftConfig::default(), async |c: &Cluster| {
        c.form(&[1, 2, 3]).await;
        let mut commands = vec![c.propose(8).await];
        let lost = c.elected().await;
        let others: Vec<u64> = (1..=3).filter(|node| *node != lost).collect();
        c.start(4).await;
        c.group(lost).add_learner(4, address(4), true).await.expect("it leads");
        // Who asks for a change proposes its second half: asked once and no more, it never does.
        let mut wanted = BTreeSet::from([4]);
        wanted.extend(&others);
        let group = c.group(lost);
        let begun = future::poll_once(pin!(group.change_voters(wanted.clone(), true))).await;
        assert!(begun.is_none(), "{begun:?}");
        let half = |status: &GroupStatus| status.joint && !status.changing;
        c.expect("half a change everywhere", |c| c.look().values().all(half)).await;
        drop(group);
        c.crash(lost);
        commands.push(c.propose(8).await);
        let leader = c.elected().await;
        let status = c.group(leader).status();
        assert!(half(&status), "{status:?}");
        assert_eq!(next_step(&status, &Metadata::default()), Some(Step::Finish));
        c.group(leader).finish_change().await.expect("it leads");
        let status = c.group(leader).status();
        assert_eq!((status.voters, status.learners), (wanted.clone(), [lost].into()));
        assert!(!status.joint);
        commands.push(c.propose(8).await);
        c.start(lost).await;
        c.agree(&commands).await;
        let same = |status: &GroupStatus| status.voters == wanted && !status.joint;
        c.expect("the same voters everywhere", |c| c.look().values().all(same)).await;
    });
}

#[test]
fn a_learner_never_leads_and_does_not_count() {
    with_seeds(SEEDS, RaftConfig::default(), async |c: &Cluster| {
        c.form(&[1, 2]).await;
        let leader = c.elected().await;
        c.start(3).await;
        c.group(leader).add_learner(3, address(3), true).await.expect("it leads");
        let commands = vec![c.propose(8).await];
        c.crash(1);
        c.time.pass(Duration::from_secs(10)).await;
        assert_eq!(c.leader(), None, "one of two voters is no quorum");
        assert_eq!(c.group(3).status().role, Role::Learner);
        c.start(1).await;
        c.agree(&commands).await;
    });
}

#[test]
fn voters_are_demoted_and_removed_the_leader_too() {
    with_seeds(SEEDS, RaftConfig::default(), async |c: &Cluster| {
        c.form(&[1, 2, 3, 4]).await;
        let mut commands = vec![c.propose(8).await];
        let leader = c.elected().await;
        let others: Vec<u64> = (1..=4).filter(|node| *node != leader).collect();
        c.group(leader).demote([others[0]].into()).await.expect("it leads");
        let status = c.group(leader).status();
        assert_eq!((status.voters.len(), status.learners), (3, [others[0]].into()));
        c.group(leader).remove([others[0]].into()).await.expect("it leads");
        assert!(c.group(leader).status().learners.is_empty());
        commands.push(c.propose(8).await);
        c.crash(others[0]);
        // The leader itself goes: another takes over.
        let removed = c.group(leader).remove([leader].into()).await;
        removed.expect("the others agree");
        let another = |c: &Cluster| c.leader().is_some_and(|now| now != leader);
        c.expect("another leader", another).await;
        c.expect("that it is over", |c| c.group(leader).status().role != Role::Leader).await;
        c.crash(leader);
        commands.push(c.propose(8).await);
        let now = c.elected().await;
        assert_eq!(c.group(now).status().voters, others[1..].iter().copied().collect());
        c.agree(&commands).await;
    });
}

#[test]
fn what_is_not_allowed_is_refused() {
    with_seeds(4, RaftConfig::default(), async |c: &Cluster| {
        c.form(&[1, 2, 3]).await;
        let leader = c.elected().await;
        c.propose(8).await;
        let group = c.group(leader);
        let stranger = group.promote([9].into()).await;
        assert!(matches!(stranger, Err(GroupError::Membership(_))), "{stranger:?}");
        let nobody = group.change_voters([].into(), true).await;
        assert!(matches!(nobody, Err(GroupError::Membership(_))), "{nobody:?}");
        let long = group.propose(vec![0; (1 << 20) + 1], ms(100)).await;
        assert!(matches!(long, Err(GroupError::TooLarge { .. })), "{long:?}");
        let no_vote = group.transfer_leadership(9).await;
        assert!(matches!(no_vote, Err(GroupError::Membership(_))), "{no_vote:?}");
        c.expect("that all know the leader", |c| {
            c.look().values().all(|status| status.leader == Some(leader))
        })
        .await;
        let follower = [1, 2, 3].into_iter().find(|n| *n != leader).expect("two follow");
        let refused = c.group(follower).add_learner(7, address(7), false).await;
        let Err(GroupError::NotLeader { leader: Some(peer) }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!((peer.id, peer.address), (leader, address(leader)));
    });
}

#[test]
fn a_stopped_group_says_so() {
    with_seeds(4, RaftConfig::default(), async |c: &Cluster| {
        c.form(&[1]).await;
        let command = c.propose(8).await;
        let group = c.group(1);
        c.stop(1).await;
        let refused = group.propose(vec![1], ms(100)).await;
        assert!(matches!(refused, Err(GroupError::Stopped(_))), "{refused:?}");
        assert_eq!(group.status().role, Role::Stopped);
        c.start(1).await;
        c.agree(&[command]).await;
    });
}
