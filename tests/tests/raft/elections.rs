//! Who leads: elections, failures of leaders, partitions.

use std::cell::RefCell;
use std::time::Duration;

use ironring_node::raft::{GroupError, RaftConfig, Role};
use ironring_tests::sim::raft::cluster::Cluster;

use super::{SEEDS, ms, with_seeds};

#[test]
fn a_node_alone_leads_at_once() {
    with_seeds(SEEDS, RaftConfig::default(), async |c: &Cluster| {
        c.form(&[1]).await;
        let formed = c.time.elapsed();
        assert_eq!(c.elected().await, 1);
        assert!(c.time.elapsed() - formed < ms(50), "it waits for nobody");
        let command = c.propose(8).await;
        assert_eq!(c.group(1).status().millis_since_quorum_ack, Some(0));
        c.crash(1);
        c.start(1).await;
        let started = c.time.elapsed();
        assert_eq!(c.elected().await, 1);
        assert!(c.time.elapsed() - started < ms(100), "nor does it after a restart");
        c.agree(&[command]).await;
        let again = c.group(1).bootstrap([(1, "x:1".to_owned())].into()).await;
        assert_eq!(again, Err(GroupError::Bootstrapped));
    });
}

#[test]
fn three_and_five_elect_and_replicate() {
    for nodes in [&[1, 2, 3][..], &[1, 2, 3, 4, 5]] {
        with_seeds(SEEDS, RaftConfig::default(), async |c: &Cluster| {
            c.form(nodes).await;
            let mut commands = Vec::new();
            for len in [8, 1000, 100_000] {
                commands.push(c.propose(len).await);
            }
            c.agree(&commands).await;
            let all = c.look();
            let leads = all.values().filter(|s| s.role == Role::Leader).count();
            let follow = all.values().filter(|s| s.role == Role::Follower).count();
            assert_eq!((leads, follow), (1, nodes.len() - 1));
        });
    }
}

/// Kills the leader at a random time and returns how long its last heartbeat was ago when another
/// node led, at least and at most: the last that arrived was sent up to one interval (and a tick)
/// before the crash.
fn failovers(seeds: u64, nodes: &'static [u64], config: &RaftConfig) -> Vec<Duration> {
    let times = RefCell::new(Vec::new());
    with_seeds(seeds, config.clone(), async |c: &Cluster| {
        c.form(nodes).await;
        let mut commands = vec![c.propose(8).await];
        let leader = c.elected().await;
        c.time.pass(Duration::from_micros(c.below(1_000_000))).await;
        assert_eq!(c.leader(), Some(leader), "nothing happened, and another leads");
        c.crash(leader);
        let crashed = c.time.elapsed();
        let next = c.elected().await;
        assert_ne!(next, leader);
        times.borrow_mut().push(c.time.elapsed() - crashed);
        commands.push(c.propose(8).await);
        c.start(leader).await;
        c.agree(&commands).await;
    });
    times.into_inner()
}

#[test]
fn a_dead_leader_is_replaced_within_the_window() {
    let wide = RaftConfig {
        heartbeat_interval: ms(250),
        election_timeout_min: ms(3000),
        election_timeout_max: ms(6000),
        ..RaftConfig::default()
    };
    for (config, nodes) in [
        (RaftConfig::default(), &[1, 2, 3][..]),
        (RaftConfig::default(), &[1, 2, 3, 4, 5]),
        (wide, &[1, 2, 3]),
    ] {
        let mut times = failovers(40, nodes, &config);
        times.sort();
        let (least, most) = (times[0], times[times.len() - 1]);
        let at = |percent: usize| times[(times.len() - 1) * percent / 100];
        println!(
            "{} nodes, window {:?} to {:?}: replaced after {:?} (median {:?}, 90 % {:?}) to {:?}",
            nodes.len(),
            config.election_timeout_min,
            config.election_timeout_max,
            least,
            at(50),
            at(90),
            most
        );
        // The last heartbeat came up to an interval and a tick before the crash.
        let heartbeat = config.heartbeat_interval * 77 / 64 + ms(5);
        assert!(least + heartbeat >= config.election_timeout_min, "too early: {least:?}");
        assert!(most <= config.election_timeout_max, "too late: {most:?}");
    }
}

#[test]
fn voters_of_a_silent_leader_do_not_campaign_at_once() {
    for nodes in [&[1, 2, 3][..], &[1, 2, 3, 4, 5]] {
        let times = RefCell::new(Vec::new());
        with_seeds(100, RaftConfig::default(), async |c: &Cluster| {
            c.form(nodes).await;
            let command = c.propose(8).await;
            c.agree(&[command]).await;
            let leader = c.elected().await;
            let term = c.group(leader).status().term;
            c.time.pass(Duration::from_micros(c.below(1_000_000))).await;
            let others: Vec<u64> = nodes.iter().copied().filter(|node| *node != leader).collect();
            c.network.cut(&[leader], &others);
            let cut = c.time.elapsed();
            let replaced = |c: &Cluster| c.leader().is_some_and(|now| now != leader);
            c.expect("another leader", replaced).await;
            times.borrow_mut().push(c.time.elapsed() - cut);
            let next = c.leader().expect("it leads");
            assert_eq!(c.group(next).status().term, term + 1, "a campaign was in vain");
        });
        let mut times = times.into_inner();
        times.sort();
        let (least, most) = (times[0], times[times.len() - 1]);
        println!("{} nodes: replaced after {least:?} to {most:?}", nodes.len());
        assert!(most < ms(1300), "the second turn is over by then: {most:?}");
    }
}

#[test]
fn everything_is_there_after_all_nodes_lost_power() {
    with_seeds(SEEDS, RaftConfig::default(), async |c: &Cluster| {
        c.form(&[1, 2, 3]).await;
        let mut commands = Vec::new();
        for round in 0..4 {
            for _ in 0..c.below(30) + 1 {
                commands.push(c.propose(50).await);
            }
            let term = c.group(1).status().term;
            for node in [1, 2, 3] {
                c.crash(node);
            }
            for node in [1, 2, 3] {
                c.start(node).await;
            }
            c.agree(&commands).await;
            // Who led may lead on in its term: its election is durable.
            let now = c.group(c.elected().await).status().term;
            assert!(now >= term, "round {round}: term {now} after {term}");
        }
    });
}

#[test]
fn a_node_that_was_cut_off_comes_back_without_an_election() {
    with_seeds(SEEDS, RaftConfig::default(), async |c: &Cluster| {
        c.form(&[1, 2, 3]).await;
        let mut commands = vec![c.propose(8).await];
        let leader = c.elected().await;
        c.agree(&commands).await;
        let lonely = [1, 2, 3].into_iter().find(|node| *node != leader).expect("there are others");
        let others: Vec<u64> = [1, 2, 3].into_iter().filter(|node| *node != lonely).collect();
        let term = c.group(leader).status().term;
        c.network.cut(&[lonely], &others);
        for _ in 0..10 {
            commands.push(c.propose(8).await);
            c.time.pass(ms(2000)).await;
        }
        assert_eq!(c.group(lonely).status().term, term, "it asks first, and nobody answers");
        c.network.heal();
        c.agree(&commands).await;
        c.time.pass(Duration::from_secs(10)).await;
        assert_eq!(c.leader(), Some(leader));
        assert!(c.look().values().all(|status| status.term == term), "no election");
    });
}

#[test]
fn a_leader_without_a_quorum_refuses_and_the_others_go_on() {
    with_seeds(SEEDS, RaftConfig::default(), async |c: &Cluster| {
        c.form(&[1, 2, 3, 4, 5]).await;
        let mut commands = vec![c.propose(8).await];
        let old = c.elected().await;
        let with = [1, 2, 3, 4, 5].into_iter().find(|n| *n != old).expect("there are others");
        let minority = [old, with];
        let majority: Vec<u64> = (1..=5).filter(|n| !minority.contains(n)).collect();
        c.network.cut(&minority, &majority);
        let lost = |c: &Cluster| c.group(old).status().role == Role::LeaderWithoutQuorum;
        c.expect("the loss of the quorum", lost).await;
        let refused = c.group(old).propose(b"minority".to_vec(), ms(100)).await;
        assert_eq!(refused, Err(GroupError::NoQuorum));
        let read = c.group(old).read_barrier(ms(500)).await;
        assert_eq!(read, Err(GroupError::NoQuorum));
        let refused = c.group(with).propose(b"minority".to_vec(), ms(100)).await;
        assert!(matches!(refused, Err(GroupError::NotLeader { .. })), "{refused:?}");
        let new = c.elected().await;
        assert!(majority.contains(&new));
        commands.push(c.propose(8).await);
        let index = c.group(new).read_barrier(ms(500)).await.expect("it leads");
        assert!(index >= 2);
        c.network.heal();
        c.agree(&commands).await;
        assert!(!c.journal(old).contains(&b"minority".to_vec()));
    });
}

#[test]
fn the_leadership_is_handed_on() {
    with_seeds(SEEDS, RaftConfig::default(), async |c: &Cluster| {
        c.form(&[1, 2, 3]).await;
        let mut commands = vec![c.propose(8).await];
        for _ in 0..4 {
            let leader = c.elected().await;
            let to = [1, 2, 3].into_iter().find(|n| *n != leader).expect("there are others");
            let mut watch = c.group(to).watch();
            let before = c.time.elapsed();
            c.group(leader).transfer_leadership(to).await.expect("nothing is in its way");
            let took = c.time.elapsed() - before;
            assert!(took < ms(500), "{took:?}: it does not wait for a timeout");
            c.expect("the other's lead", |c| c.leader() == Some(to)).await;
            assert_eq!(watch.changed().await.expect("it runs").leader, Some(to));
            commands.push(c.propose(8).await);
        }
        c.agree(&commands).await;
        let follower = [1, 2, 3].into_iter().find(|n| Some(*n) != c.leader()).expect("one follows");
        let refused = c.group(follower).transfer_leadership(follower).await;
        assert!(matches!(refused, Err(GroupError::NotLeader { leader: Some(_) })), "{refused:?}");
    });
}

/// Nodes die, come back and are cut off at random while commands are proposed over a network that
/// loses messages.
#[test]
fn nothing_that_was_answered_is_lost_whatever_happens() {
    with_seeds(SEEDS, RaftConfig::default(), async |c: &Cluster| {
        c.form(&[1, 2, 3]).await;
        c.network.lost_per_mille.set(30);
        let mut commands = vec![c.propose(8).await];
        for _ in 0..12 {
            let node = c.below(3) + 1;
            match c.below(3) {
                0 => {
                    c.crash(node);
                    commands.push(c.propose(64).await);
                    c.start(node).await;
                }
                1 => {
                    let others: Vec<u64> = (1..=3).filter(|other| *other != node).collect();
                    c.network.cut(&[node], &others);
                    c.time.pass(ms(c.below(4000))).await;
                    commands.push(c.propose(64).await);
                    c.network.heal();
                }
                _ => {
                    for _ in 0..5 {
                        commands.push(c.propose(64).await);
                    }
                }
            }
        }
        c.network.lost_per_mille.set(0);
        c.agree(&commands).await;
    });
}
