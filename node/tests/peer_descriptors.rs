//! Descriptors of the node plane, counted: alone in its program, because they are the process's.

#![expect(clippy::unwrap_used, reason = "a test file: a panic is a failed test")]

#[path = "peers/harness.rs"]
mod harness;
mod support;

use std::net::TcpStream;
use std::time::{Duration, Instant};

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

/// Sockets of this process: a runtime has other descriptors, of its own.
fn sockets() -> usize {
    descriptors().iter().filter(|name| name.starts_with("socket:")).count()
}

/// Waits until there are as many sockets as before: the kernel may still have connections for the
/// node to accept. What is leaked never goes.
fn settles(before: usize) {
    let begin = Instant::now();
    while sockets() != before {
        assert!(begin.elapsed() < support::PATIENCE, "{before} before, {} after", sockets());
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn a_thousand_quick_connects_leak_nothing() {
    let node = TestNode::start(Spec::new(1));
    let (before, all) = (sockets(), descriptors().len());
    for _ in 0..CONNECTS {
        drop(TcpStream::connect(node.address).unwrap());
    }
    settles(before);
    assert!(descriptors().len() < all + CONNECTS / 10, "others than sockets: {:?}", descriptors());
}

fn nodes_that_come_and_go_leak_nothing() {
    let node = TestNode::start(Spec::new(1));
    let before = sockets();
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
    settles(before);
}

#[test]
fn nothing_is_leaked() {
    for runtime in ["glommio", "monoio"] {
        support::RUNTIME.set(runtime);
        a_thousand_quick_connects_leak_nothing();
        nodes_that_come_and_go_leak_nothing();
    }
}
