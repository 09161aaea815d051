//! Descriptors of the node plane, counted: alone in its program, because they are the process's.

#![expect(clippy::unwrap_used, reason = "a test file: a panic is a failed test")]

#[path = "peers/harness.rs"]
mod harness;
mod support;

use std::net::TcpStream;

use harness::{Spec, TestNode};
use ironring_node::driver::peers::Side;

const CONNECTS: usize = 1000;

fn descriptors() -> Vec<String> {
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        // One that closed meanwhile is none.
        std::fs::read_link(entry.ok()?.path()).ok()?.into_os_string().into_string().ok()
    };
    std::fs::read_dir("/proc/self/fd").unwrap().filter_map(name).collect()
}

/// Sockets, when no handshake is in progress: a runtime has other descriptors, of its own.
fn sockets(node: &TestNode) -> usize {
    node.shards[0].until(|peers| (peers.guests() == 0).then_some(()));
    descriptors().iter().filter(|name| name.starts_with("socket:")).count()
}

fn a_thousand_quick_connects_leak_nothing() {
    let node = TestNode::start(Spec::new(1));
    // What is made once is made by then.
    drop(TcpStream::connect(node.address).unwrap());
    let (before, all) = (sockets(&node), descriptors().len());
    for _ in 0..CONNECTS {
        drop(TcpStream::connect(node.address).unwrap());
    }
    assert_eq!(sockets(&node), before);
    assert!(descriptors().len() < all + CONNECTS / 10, "others than sockets: {:?}", descriptors());
}

fn nodes_that_come_and_go_leak_nothing() {
    let node = TestNode::start(Spec::new(1));
    let before = sockets(&node);
    let mut spec = Spec::new(2);
    for _ in 0..20 {
        let other = TestNode::start(spec.clone());
        spec = other.spec.next_run(other.address);
        other.dial(0, node.target(), node.shard(1));
        other.shards[0].seen.up(Side::Dialled);
        node.shards[1].seen.up(Side::Accepted);
        other.stop();
        node.shards[1].seen.down();
    }
    assert_eq!(node.shards[1].ask(|peers| peers.links()), 0);
    assert_eq!(sockets(&node), before);
}

#[test]
fn nothing_is_leaked() {
    for runtime in ["glommio", "monoio"] {
        support::RUNTIME.set(runtime);
        a_thousand_quick_connects_leak_nothing();
        nodes_that_come_and_go_leak_nothing();
    }
}
