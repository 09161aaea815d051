//! Strangers at the port of the node plane.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use ironring_core::ShardId;
use ironring_net::peer::{Handshake, Hello, Input, Kind, Output, Refusal, VERSIONS};
use ironring_node::driver::peers::{HANDSHAKES_MAX, Side};

use crate::harness::{Spec, TestNode, wall_now};
use crate::support::{PATIENCE, under_every_runtime};

under_every_runtime! {
    a_handshake_that_stops_in_the_middle_is_given_up,
    garbage_is_refused_and_harms_nobody,
    clocks_and_versions_are_judged,
    many_silent_strangers_keep_no_node_out,
    strangers_that_come_and_go_leave_nothing,
}

fn connect(node: &TestNode) -> TcpStream {
    let stream = TcpStream::connect(node.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Everything the node says until it closes.
fn rest(mut stream: &TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut said);
    said
}

/// Why, of a node that refuses.
fn refusal(said: &[u8]) -> Refusal {
    let mut input = Input::new();
    input.space(said.len())[..said.len()].copy_from_slice(said);
    input.filled(said.len());
    let frame = input.next_frame().unwrap().unwrap();
    assert_eq!(frame.header.kind, Kind::Refused);
    let Handshake::Refused(refused) = frame.handshake().unwrap() else { panic!("it is none") };
    refused.refusal
}

fn nobody_is_there(node: &TestNode) {
    node.shards[0].until(|peers| (peers.guests() == 0).then_some(()));
}

fn serves_still(node: &TestNode) {
    let other = TestNode::start(Spec::new(3));
    other.dial(0, node.target(), node.shard(1));
    other.shards[0].seen.up(Side::Dialled);
    node.shards[1].seen.up(Side::Accepted);
}

fn a_handshake_that_stops_in_the_middle_is_given_up() {
    let mut spec = Spec::new(1);
    spec.settings.handshake_timeout = Duration::from_millis(200);
    let node = TestNode::start(spec);
    let silent = connect(&node);
    let mut half = connect(&node);
    half.write_all(b"IRNP\0\0\x01").unwrap();
    assert!(rest(&silent).is_empty());
    assert!(rest(&half).is_empty());
    nobody_is_there(&node);
    serves_still(&node);
}

fn garbage_is_refused_and_harms_nobody() {
    let node = TestNode::start(Spec::new(1));
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 5000], b"IRNP and then something else, 32 long"]
    {
        let mut stream = connect(&node);
        stream.write_all(garbage).unwrap();
        let _ = stream.shutdown(Shutdown::Write);
        let said = rest(&stream);
        if said.is_empty() {
            // It had sent more than was looked at.
            continue;
        }
        assert_eq!(refusal(&said), Refusal::Malformed);
    }
    nobody_is_there(&node);
    serves_still(&node);
}

/// The answer to a `Hello` of node 1, changed by `change`.
fn answer_to(node: &TestNode, change: impl FnOnce(&mut Hello<'_>)) -> Refusal {
    let spec = Spec::new(1);
    let mut hello = Hello {
        versions: VERSIONS,
        identity: spec.local.identity(wall_now()),
        to_node: node.id(),
        from_shard: ShardId(0),
        to_shard: ShardId(0),
        token: &[],
        mark: 0,
    };
    change(&mut hello);
    let mut output = Output::new(1 << 20);
    output.handshake(&Handshake::Hello(hello)).unwrap();
    let mut stream = connect(node);
    stream.write_all(output.bytes()).unwrap();
    refusal(&rest(&stream))
}

fn clocks_and_versions_are_judged() {
    let node = TestNode::start(Spec::new(2));
    let late = answer_to(&node, |hello| hello.identity.wall.0 = 1);
    assert_eq!(late, Refusal::ClockSkew);
    assert_eq!(answer_to(&node, |hello| hello.versions = (9, 10)), Refusal::NoCommonVersion);
    let storage = node.spec.local.storage;
    assert_eq!(answer_to(&node, |hello| hello.identity.storage = storage), Refusal::WrongNode);
    nobody_is_there(&node);
}

fn many_silent_strangers_keep_no_node_out() {
    let node = TestNode::start(Spec::new(1));
    let strangers: Vec<TcpStream> = (0..2 * HANDSHAKES_MAX).map(|_| connect(&node)).collect();
    serves_still(&node);
    assert!(node.shards[0].ask(|peers| peers.guests()) <= HANDSHAKES_MAX);
    // The oldest had to go.
    assert!(rest(&strangers[0]).is_empty());
    drop(strangers);
    nobody_is_there(&node);
}

fn strangers_that_come_and_go_leave_nothing() {
    let node = TestNode::start(Spec::new(1));
    for _ in 0..200 {
        drop(connect(&node));
    }
    nobody_is_there(&node);
    serves_still(&node);
}
