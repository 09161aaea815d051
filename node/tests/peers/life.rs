//! Connections end and come back.

use std::net::TcpListener;

use ironring_core::{Incarnation, NodeId, ShardId};
use ironring_net::peer::Refusal;
use ironring_net::peer::message::GoodbyeReason;
use ironring_node::driver::peers::{Down, LinkId, PeerShard, PeerTarget, PeerTargets, Side};

use crate::harness::{SHARDS, Seen, Spec, TestNode, Told, linked};
use crate::support::under_every_runtime;

under_every_runtime! {
    a_peer_that_is_killed_is_reported_and_found_again_with_its_next_run,
    a_peer_that_stops_takes_leave,
    nobody_listening_is_reported_at_once,
    a_newer_connection_takes_the_place_of_an_older,
    an_earlier_run_takes_nobodys_place,
    what_is_not_wanted_ends_and_is_not_dialled_again,
    another_address_is_dialled,
    a_node_that_was_removed_loses_its_connections_and_gets_no_others,
    whoever_never_answers_is_given_up,
    whoever_answers_nonsense_is_given_up,
}

fn down_of(seen: &Seen, link: LinkId) -> Down {
    seen.wait(|told| match told {
        Told::Down { link: got, reason, .. } if got == link => Some(reason),
        _ => None,
    })
}

fn a_peer_that_is_killed_is_reported_and_found_again_with_its_next_run() {
    let (one, two, here, _) = linked(0, 1);
    let again = two.spec.next_run(two.address);
    drop(two);
    let reason = down_of(&one.shards[0].seen, here);
    // Its process may have let go of this connection only: who listens says more.
    assert!(matches!(reason, Down::Closed | Down::Reset), "{reason:?}");
    // Nobody listens there meanwhile, and that is said, again and again.
    let (link, peer, reason) = one.shards[0].seen.down();
    assert_eq!(
        (peer, reason),
        (PeerShard { node: NodeId(2), shard: ShardId(1) }, Down::NobodyListens)
    );
    assert!(link > here);
    let two = TestNode::start(again);
    let (link, remote) = one.shards[0].seen.up(Side::Dialled);
    assert!(link > here);
    assert_eq!(remote.incarnation, Incarnation(2));
    two.shards[1].seen.up(Side::Accepted);
    assert_eq!(one.shards[0].replicate(link, b"again".to_vec()), Ok(()));
    let (_, _, payload) = two.shards[1].seen.frame(ironring_net::peer::Kind::Replicate);
    assert_eq!(payload, b"again");
}

fn a_peer_that_stops_takes_leave() {
    let (one, two, here, there) = linked(0, 0);
    two.stop();
    let reason = down_of(&one.shards[0].seen, here);
    assert_eq!(reason, Down::Goodbye(GoodbyeReason::Stopping));
    drop(one);
    let (one, two, _, there_too) = linked(0, 0);
    assert_eq!(there, there_too, "names are counted");
    one.stop();
    let reason = down_of(&two.shards[0].seen, there_too);
    assert_eq!(reason, Down::Goodbye(GoodbyeReason::Stopping));
}

fn nobody_listening_is_reported_at_once() {
    let spec = Spec::new(2);
    // An address that was free a moment ago.
    let address = TcpListener::bind(spec.listen).unwrap().local_addr().unwrap();
    let one = TestNode::start(Spec::new(1));
    let peer = PeerShard { node: NodeId(2), shard: ShardId(0) };
    one.dial(0, PeerTarget { node: NodeId(2), address, shard_count: SHARDS }, peer);
    let (_, told, reason) = one.shards[0].seen.down();
    assert_eq!((told, &reason), (peer, &Down::NobodyListens));
    assert!(reason.gone());
    let two = TestNode::start(Spec { listen: address, ..spec });
    one.shards[0].seen.up(Side::Dialled);
    two.shards[0].seen.up(Side::Accepted);
}

fn a_newer_connection_takes_the_place_of_an_older() {
    let (one, two, _, there) = linked(0, 0);
    let mut twin = one.spec.next_run(one.address);
    twin.listen = Spec::new(1).listen;
    let twin = TestNode::start(twin);
    twin.dial(0, two.target(), two.shard(0));
    twin.shards[0].seen.up(Side::Dialled);
    assert_eq!(down_of(&two.shards[0].seen, there), Down::Replaced);
    let (from, run) = (one.shard(0), Incarnation(2));
    let now = two.shards[0].until(move |peers| {
        peers
            .accepted(from)
            .filter(|link| peers.remote(*link).is_some_and(|remote| remote.incarnation == run))
    });
    assert!(now > there);
}

fn an_earlier_run_takes_nobodys_place() {
    let (one, two) = (Spec::new(1), TestNode::start(Spec::new(2)));
    let mut newer = one.clone();
    newer.local.incarnation = Incarnation(5);
    newer.listen = Spec::new(1).listen;
    let (newer, older) = (TestNode::start(newer), TestNode::start(one));
    newer.dial(0, two.target(), two.shard(0));
    let (there, _) = two.shards[0].seen.up(Side::Accepted);
    older.dial(0, two.target(), two.shard(0));
    older.shards[0].seen.down();
    older.shards[0].seen.down();
    let from = older.shard(0);
    assert_eq!(two.shards[0].ask(move |peers| peers.accepted(from)), Some(there));
    assert!(two.shards[0].seen.take_all().is_empty(), "nobody was told anything");
}

fn what_is_not_wanted_ends_and_is_not_dialled_again() {
    let (one, two, here, there) = linked(0, 0);
    let peer = two.shard(0);
    one.shards[0].ask(move |peers| peers.unwant(peer));
    assert_eq!(down_of(&one.shards[0].seen, here), Down::Ended);
    let reason = down_of(&two.shards[0].seen, there);
    assert_eq!(reason, Down::Goodbye(GoodbyeReason::Idle));
    assert_eq!(one.shards[0].ask(move |peers| peers.dialled(peer)), None);
    // Nodes that are no targets are not dialled.
    let other = PeerShard { node: NodeId(9), shard: ShardId(0) };
    assert!(!one.shards[0].ask(move |peers| peers.want(other)));
    let beyond = PeerShard { shard: ShardId(SHARDS), ..peer };
    assert!(!one.shards[0].ask(move |peers| peers.want(beyond)));
}

fn a_node_that_was_removed_loses_its_connections_and_gets_no_others() {
    let (one, two, here, there) = linked(0, 0);
    let (cluster, from, target) = (two.spec.local.cluster, one.shard(0), one.target());
    let accepted = |two: &TestNode| two.shards[0].ask(move |peers| peers.accepted(from));
    let know = |nodes: Vec<PeerTarget>| {
        two.shards[0].ask(move |peers| peers.set_targets(PeerTargets { cluster, nodes }));
    };
    know(vec![target.clone()]);
    assert_eq!(accepted(&two), Some(there));
    know(Vec::new());
    let reason = down_of(&one.shards[0].seen, here);
    assert_eq!(reason, Down::Goodbye(GoodbyeReason::Removed));
    // The door, which has not heard of it, lets it in still, and the shard does not.
    let (_, _, reason) = one.shards[0].seen.down();
    assert!(matches!(reason, Down::Closed | Down::Reset), "{reason:?}");
    assert_eq!(accepted(&two), None);
    know(vec![target]);
    one.shards[0].seen.up(Side::Dialled);
}

fn another_address_is_dialled() {
    let (one, two, here, _) = linked(0, 0);
    let mut moved = two.spec.next_run(two.address);
    moved.listen = Spec::new(2).listen;
    let moved = TestNode::start(moved);
    one.dial(0, moved.target(), moved.shard(0));
    assert_eq!(down_of(&one.shards[0].seen, here), Down::Ended);
    let (_, remote) = one.shards[0].seen.up(Side::Dialled);
    assert_eq!(remote.incarnation, Incarnation(2));
}

fn dial_a_listener(reply: &'static [u8]) -> Down {
    let mut spec = Spec::new(1);
    spec.settings.handshake_timeout = std::time::Duration::from_millis(200);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let one = TestNode::start(spec);
    let peer = PeerShard { node: NodeId(2), shard: ShardId(0) };
    one.dial(0, PeerTarget { node: NodeId(2), address, shard_count: SHARDS }, peer);
    let (mut socket, _) = listener.accept().unwrap();
    std::io::Write::write_all(&mut socket, reply).unwrap();
    let reason = one.shards[0].seen.down().2;
    drop(socket);
    reason
}

fn whoever_never_answers_is_given_up() {
    assert_eq!(dial_a_listener(b""), Down::HandshakeTimeout);
    assert_eq!(dial_a_listener(b"IRNP\0"), Down::HandshakeTimeout);
}

fn whoever_answers_nonsense_is_given_up() {
    let reason = dial_a_listener(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    assert!(matches!(reason, Down::Protocol(_)), "{reason:?}");
    assert!(!matches!(reason, Down::NotLetIn { refusal: Refusal::Malformed, .. }));
}
