//! Who is let in, and what whoever is not is told.

use std::io::Write;
use std::net::TcpListener;

use ironring_core::{NodeId, ShardId, StorageUuid};
use ironring_net::peer::hello::ClusterUuid;
use ironring_net::peer::{Handshake, Member, Output, Refusal, Welcome};
use ironring_node::driver::peers::{Down, PeerShard, PeerTarget, Side};

use crate::harness::{SHARDS, Spec, TestNode, linked, wall_now};
use crate::support::under_every_runtime;

under_every_runtime! {
    both_sides_learn_who_is_there,
    each_pair_of_shards_has_a_connection_of_its_own,
    each_refusal_is_told_with_its_reason,
    the_dialler_refuses_as_well,
    whoever_listens_is_reached_without_an_id,
    a_token_lets_a_stranger_in,
    who_was_refused_is_let_in_when_the_reason_is_gone,
}

fn both_sides_learn_who_is_there() {
    let (one, two, here, there) = linked(0, 1);
    let remote = one.shards[0].ask(move |peers| peers.remote(here).unwrap().as_ref().clone());
    assert_eq!(remote.peer, two.shard(1));
    assert_eq!((remote.node_name.as_str(), remote.shard_count), ("node-2", SHARDS));
    assert_eq!(remote.storage, two.spec.local.storage);
    let remote = two.shards[1].ask(move |peers| peers.remote(there).unwrap().as_ref().clone());
    assert_eq!((remote.peer, remote.side), (one.shard(0), Side::Accepted));
    assert_eq!((remote.version, remote.incarnation), (2, one.spec.local.incarnation));
    let (peer, from) = (two.shard(1), one.shard(0));
    assert_eq!(one.shards[0].ask(move |peers| peers.dialled(peer)), Some(here));
    assert_eq!(two.shards[1].ask(move |peers| peers.accepted(from)), Some(there));
    assert_eq!(two.shards[0].ask(move |peers| peers.accepted(from)), None);
}

fn each_pair_of_shards_has_a_connection_of_its_own() {
    let (one, two) = (TestNode::start(Spec::new(1)), TestNode::start(Spec::new(2)));
    for (from, to) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        one.dial(from, two.target(), two.shard(to));
        two.dial(from, one.target(), one.shard(to));
    }
    for node in [&one, &two] {
        for shard in &node.shards {
            for _ in 0..2 * SHARDS {
                shard
                    .seen
                    .wait(|told| matches!(told, crate::harness::Told::Up { .. }).then_some(()));
            }
        }
    }
}

/// What a dialler made by `one` is told by an acceptor made by `two`.
fn refused(one: Spec, two: Spec, target: impl FnOnce(&mut PeerTarget), shard: u16) -> Down {
    let (one, two) = (TestNode::start(one), TestNode::start(two));
    let mut to = two.target();
    target(&mut to);
    let peer = PeerShard { node: to.node, shard: ShardId(shard) };
    one.dial(0, to, peer);
    let (_, told, reason) = one.shards[0].seen.down();
    assert_eq!(told, peer);
    // It is tried again, and told again.
    assert_eq!(one.shards[0].seen.down().2, reason);
    reason
}

fn expect_refusal(reason: &Down, expected: Refusal, by_us: bool) {
    match reason {
        Down::NotLetIn { refusal, message, by_us: us } => {
            assert_eq!((*refusal, *us), (expected, by_us), "{message}");
            assert!(!message.is_empty());
        }
        other => panic!("{other:?} instead of {expected:?}"),
    }
    assert!(!reason.gone());
}

fn each_refusal_is_told_with_its_reason() {
    let (one, two) = (Spec::new(1), Spec::new(2));
    let same = |_: &mut PeerTarget| {};
    let check = |one: Spec, two: Spec, expected| {
        expect_refusal(&refused(one, two, same, 0), expected, false);
    };
    let mut other = one.clone();
    other.local.cluster_name = "other".to_owned();
    check(other, two.clone(), Refusal::WrongCluster);
    let mut other = one.clone();
    other.local.cluster = ClusterUuid(0xBAD);
    check(other, two.clone(), Refusal::WrongCluster);
    let meant = |target: &mut PeerTarget| target.node = NodeId(3);
    expect_refusal(&refused(one.clone(), two.clone(), meant, 0), Refusal::WrongNode, false);
    let many = |target: &mut PeerTarget| target.shard_count = SHARDS + 1;
    let reason = refused(one.clone(), two.clone(), many, SHARDS);
    expect_refusal(&reason, Refusal::NoSuchShard, false);
    let mut other = one.clone();
    other.local.storage = StorageUuid(99);
    check(other, two.clone(), Refusal::DuplicateNode);
    let mut stranger = one.clone();
    stranger.local.node = NodeId(77);
    check(stranger.clone(), two.clone(), Refusal::UnknownNode);
    stranger.local.token = b"guess".to_vec();
    check(stranger, two.clone(), Refusal::BadToken);
    let mut removing = two.clone();
    let member = Member { storage: one.local.storage, removed: true, newest: None };
    removing.members = vec![(1, member)];
    check(one.clone(), removing, Refusal::Removed);
    let mut stopping = two.clone();
    stopping.stopping = true;
    check(one, stopping, Refusal::Stopping);
}

/// Answers one `Hello` on a plain socket with what `answer` makes of the right one of node 2.
fn impostor(answer: fn(Welcome<'_>) -> Welcome<'_>) -> Down {
    let one = TestNode::start(Spec::new(1));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let peer = PeerShard { node: NodeId(2), shard: ShardId(1) };
    one.dial(0, PeerTarget { node: NodeId(2), address, shard_count: SHARDS }, peer);
    let (mut socket, _) = listener.accept().unwrap();
    let spec = Spec::new(2);
    let mut output = Output::new(1 << 20);
    let identity = spec.local.identity(wall_now());
    let welcome = answer(Welcome { version: 1, identity, shard: ShardId(1), credits: 0, mark: 0 });
    output.handshake(&Handshake::Welcome(welcome)).unwrap();
    socket.write_all(output.bytes()).unwrap();
    let reason = one.shards[0].seen.down().2;
    // It has no need of an answer: the connection just ends.
    drop(socket);
    reason
}

fn the_dialler_refuses_as_well() {
    let check = |answer: fn(Welcome<'_>) -> Welcome<'_>, expected| {
        expect_refusal(&impostor(answer), expected, true);
    };
    check(|welcome| Welcome { version: 9, ..welcome }, Refusal::NoCommonVersion);
    check(|welcome| Welcome { shard: ShardId(0), ..welcome }, Refusal::NoSuchShard);
    check(
        |mut welcome| {
            welcome.identity.cluster = ClusterUuid(0xBAD);
            welcome
        },
        Refusal::WrongCluster,
    );
    check(
        |mut welcome| {
            welcome.identity.node = NodeId(4);
            welcome
        },
        Refusal::WrongNode,
    );
    check(
        |mut welcome| {
            welcome.identity.wall.0 = 1;
            welcome
        },
        Refusal::ClockSkew,
    );
}

fn whoever_listens_is_reached_without_an_id() {
    let (one, two) = (TestNode::start(Spec::new(1)), TestNode::start(Spec::new(2)));
    let target = PeerTarget { node: NodeId(0), ..two.target() };
    one.dial(0, target, PeerShard { node: NodeId(0), shard: ShardId(0) });
    let (_, remote) = one.shards[0].seen.up(Side::Dialled);
    assert_eq!(remote.peer, two.shard(0));
}

fn a_token_lets_a_stranger_in() {
    let (mut one, mut two) = (Spec::new(1), Spec::new(2));
    two.members.clear();
    two.token = Some(b"secret".to_vec());
    one.local.token = b"secret".to_vec();
    // Before it joined it does not know the cluster.
    one.local.cluster = ClusterUuid::NONE;
    let (one, two) = (TestNode::start(one), TestNode::start(two));
    one.dial(1, two.target(), two.shard(1));
    one.shards[1].seen.up(Side::Dialled);
    two.shards[1].seen.up(Side::Accepted);
}

fn who_was_refused_is_let_in_when_the_reason_is_gone() {
    let spec = Spec::new(2);
    let mut stopping = spec.clone();
    stopping.stopping = true;
    let (one, two) = (TestNode::start(Spec::new(1)), TestNode::start(stopping));
    one.dial(0, two.target(), two.shard(0));
    expect_refusal(&one.shards[0].seen.down().2, Refusal::Stopping, false);
    let again = spec.next_run(two.address);
    drop(two);
    let two = TestNode::start(again);
    one.shards[0].seen.up(Side::Dialled);
    two.shards[0].seen.up(Side::Accepted);
}
