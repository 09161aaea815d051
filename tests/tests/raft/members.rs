//! Members come, get votes, lose them and go.

use std::time::Duration;

use ironring_node::raft::{GroupError, RaftConfig, Role};
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
        assert!(!status.changing);
        assert_eq!(status.addresses[&3], "node-3:1");
        commands.push(c.propose(8).await);
        c.crash(1);
        commands.push(c.propose(8).await);
        c.start(1).await;
        c.agree(&commands).await;
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
