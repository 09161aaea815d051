//! Who is let in: a test for each row.

use ironring_core::{Incarnation, NodeId, ShardId, StorageUuid, WallTime};
use ironring_net::peer::hello::{ClusterUuid, Identity};
use ironring_net::peer::{
    Hello, Member, Policy, Refusal, Run, Welcome, judge_hello, judge_welcome,
};

use super::examples::{NOW, hello, identity, welcome};

fn member(storage: StorageUuid) -> Member {
    Member { storage, removed: false, newest: None }
}

fn policy() -> Policy<'static> {
    Policy {
        versions: (1, 1),
        clock_skew_max_ms: 500,
        member: Some(member(identity(2).storage)),
        token: Ok(()),
        stopping: false,
        credits: 16 << 20,
    }
}

fn refusal(theirs: &Hello<'_>, policy: &Policy<'_>) -> Option<Refusal> {
    let judged = judge_hello(&identity(1), theirs, policy);
    judged.err().map(|refused| {
        assert_eq!(refused.versions, policy.versions);
        assert!(!refused.message.is_empty());
        refused.refusal
    })
}

fn with(change: impl FnOnce(&mut Hello<'static>)) -> Hello<'static> {
    let mut hello = hello();
    change(&mut hello);
    hello
}

#[test]
fn a_member_is_welcome() {
    assert_eq!(judge_hello(&identity(1), &hello(), &policy()), Ok(welcome()));
    let anyone = with(|hello| hello.to_node = NodeId(0));
    assert_eq!(refusal(&anyone, &policy()), None);
}

#[test]
fn the_version_is_the_highest_both_speak() {
    for (ours, theirs, expected) in [
        ((1, 1), (1, 2), Some(1)),
        ((1, 2), (1, 2), Some(2)),
        ((2, 3), (1, 2), Some(2)),
        ((2, 3), (3, 4), Some(3)),
        ((1, 2), (3, 4), None),
        ((3, 4), (1, 2), None),
    ] {
        let policy = Policy { versions: ours, ..policy() };
        let judged = judge_hello(&identity(1), &with(|hello| hello.versions = theirs), &policy);
        match expected {
            Some(version) => assert_eq!(judged.unwrap().version, version),
            None => assert_eq!(judged.unwrap_err().refusal, Refusal::NoCommonVersion),
        }
    }
}

#[test]
fn versions_come_before_everything() {
    let stranger = with(|hello| {
        hello.versions = (7, 8);
        hello.identity.cluster_name = "other";
    });
    assert_eq!(refusal(&stranger, &policy()), Some(Refusal::NoCommonVersion));
}

#[test]
fn another_cluster_is_refused_by_name_and_by_uuid() {
    let named = with(|hello| hello.identity.cluster_name = "other");
    assert_eq!(refusal(&named, &policy()), Some(Refusal::WrongCluster));
    let same_name = with(|hello| hello.identity.cluster = ClusterUuid(9));
    assert_eq!(refusal(&same_name, &policy()), Some(Refusal::WrongCluster));
    let not_yet_known = with(|hello| hello.identity.cluster = ClusterUuid::NONE);
    assert_eq!(refusal(&not_yet_known, &policy()), None);
    let ours = Identity { cluster: ClusterUuid::NONE, ..identity(1) };
    assert!(judge_hello(&ours, &hello(), &policy()).is_ok());
}

#[test]
fn the_node_meant_is_the_node_reached() {
    let other = with(|hello| hello.to_node = NodeId(3));
    assert_eq!(refusal(&other, &policy()), Some(Refusal::WrongNode));
    let itself = with(|hello| {
        hello.identity = identity(1);
        hello.to_node = NodeId(0);
    });
    assert_eq!(refusal(&itself, &policy()), Some(Refusal::WrongNode));
}

#[test]
fn the_shard_meant_exists() {
    let none = with(|hello| hello.to_shard = ShardId(2));
    assert_eq!(refusal(&none, &policy()), Some(Refusal::NoSuchShard));
}

#[test]
fn an_id_belongs_to_one_data_directory() {
    let ours = with(|hello| hello.identity.node = NodeId(1));
    let unknown = Policy { member: None, ..policy() };
    assert_eq!(refusal(&ours, &unknown), Some(Refusal::DuplicateNode));
    let storage = StorageUuid(77);
    let other = with(|hello| hello.identity.storage = storage);
    assert_eq!(refusal(&other, &policy()), Some(Refusal::DuplicateNode));
    let moved = Policy { member: Some(member(storage)), ..policy() };
    assert_eq!(refusal(&other, &moved), None);
}

#[test]
fn a_stranger_needs_the_token() {
    let unknown = Policy { member: None, ..policy() };
    assert_eq!(refusal(&hello(), &unknown), Some(Refusal::UnknownNode));
    let joins = with(|hello| hello.token = b"let me in");
    assert_eq!(refusal(&joins, &unknown), None);
    let why = "the join token has expired";
    let expired = Policy { token: Err((Refusal::BadToken, why)), ..unknown };
    let refused = judge_hello(&identity(1), &joins, &expired).unwrap_err();
    assert_eq!((refused.refusal, &*refused.message), (Refusal::BadToken, why));
    assert_eq!(refusal(&hello(), &expired), Some(Refusal::UnknownNode));
}

#[test]
fn who_is_removed_stays_out() {
    let member = Some(Member { removed: true, ..member(identity(2).storage) });
    let removed = Policy { member, ..policy() };
    assert_eq!(refusal(&hello(), &removed), Some(Refusal::Removed));
    let with_token = with(|hello| hello.token = b"let me in");
    assert_eq!(refusal(&with_token, &removed), Some(Refusal::Removed));
}

#[test]
fn a_run_that_another_has_followed_stays_out() {
    let knows = |incarnation, mark| {
        let newest = Some(Run { incarnation: Incarnation(incarnation), mark });
        let member = Some(Member { newest, ..member(identity(2).storage) });
        judge_hello(&identity(1), &hello(), &Policy { member, ..policy() }).map(|_| ())
    };
    let mine = hello().mark;
    assert_eq!(knows(6, mine + 1), Ok(()), "this node has not heard of the newest run yet");
    assert_eq!(knows(7, mine), Ok(()));
    assert_eq!(knows(7, 0), Ok(()), "what said nothing of itself is not told from a copy");
    let refused = knows(7, mine + 1).unwrap_err();
    let why = "this is run 7 of node 2, and another process was that as well: its data directory is an \
               old copy, or another process runs on a copy of it";
    assert_eq!((refused.refusal, &*refused.message), (Refusal::OldRun, why));
    let refused = knows(8, mine).unwrap_err();
    let why = "this is run 7 of node 2, and run 8 of it is known: its data directory is an old copy, or \
               another process runs on a copy of it";
    assert_eq!((refused.refusal, &*refused.message), (Refusal::OldRun, why));
}

#[test]
fn clocks_may_differ_by_the_limit() {
    for (wall, expected) in [
        (NOW.0 - 501, Some(Refusal::ClockSkew)),
        (NOW.0 - 500, None),
        (NOW.0 + 500, None),
        (NOW.0 + 501, Some(Refusal::ClockSkew)),
        (0, Some(Refusal::ClockSkew)),
        (u64::MAX, Some(Refusal::ClockSkew)),
    ] {
        let theirs = with(|hello| hello.identity.wall = WallTime(wall));
        assert_eq!(refusal(&theirs, &policy()), expected, "{wall}");
    }
}

#[test]
fn a_stopping_node_lets_nobody_in() {
    let stopping = Policy { stopping: true, ..policy() };
    assert_eq!(refusal(&hello(), &stopping), Some(Refusal::Stopping));
}

#[test]
fn features_are_those_both_have() {
    let ours = Identity { features: 0b0110, ..identity(1) };
    let theirs = with(|hello| hello.identity.features = 0b1100);
    let welcome = judge_hello(&ours, &theirs, &policy()).unwrap();
    assert_eq!(welcome.identity.features, 0b0100);
}

#[test]
fn a_dialler_looks_at_who_answered() {
    type Change = fn(&mut Welcome<'static>);
    let rows: [(Change, Option<Refusal>); 10] = [
        (|_| {}, None),
        (|w| w.version = 2, Some(Refusal::NoCommonVersion)),
        (|w| w.identity.cluster_name = "other", Some(Refusal::WrongCluster)),
        (|w| w.identity.cluster = ClusterUuid(9), Some(Refusal::WrongCluster)),
        (|w| w.identity.cluster = ClusterUuid::NONE, None),
        (|w| w.identity.storage = identity(2).storage, Some(Refusal::WrongNode)),
        (|w| w.identity.node = NodeId(3), Some(Refusal::WrongNode)),
        (|w| w.shard = ShardId(0), Some(Refusal::NoSuchShard)),
        (|w| w.identity.wall = WallTime(NOW.0 + 501), Some(Refusal::ClockSkew)),
        (|w| w.identity.wall = WallTime(NOW.0 - 500), None),
    ];
    for (number, (change, expected)) in rows.into_iter().enumerate() {
        let mut theirs = welcome();
        change(&mut theirs);
        let judged = judge_welcome(&hello(), &theirs, 500);
        assert_eq!(judged.err().map(|refused| refused.refusal), expected, "row {number}");
    }
    let anyone = with(|hello| hello.to_node = NodeId(0));
    let mut same_id = welcome();
    same_id.identity.node = anyone.identity.node;
    let judged = judge_welcome(&anyone, &same_id, 500);
    assert_eq!(judged.unwrap_err().refusal, Refusal::DuplicateNode);
}

#[test]
fn refusals_have_their_numbers() {
    for (number, refusal) in (1..).zip(Refusal::ALL) {
        assert_eq!(refusal.code(), number);
        assert_eq!(Refusal::from_code(number), *refusal);
    }
    assert_eq!(Refusal::from_code(999), Refusal::Other(999));
    assert_eq!(Refusal::Other(999).code(), 999);
}
