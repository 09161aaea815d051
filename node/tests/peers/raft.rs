//! The metadata group over connections between nodes.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use futures_lite::future;
use ironring_core::{NodeId, ShardId, StorageUuid};
use ironring_log::Identity;
use ironring_net::peer::message::Half;
use ironring_net::peer::{Frame, Kind, Member, Message};
use ironring_node::driver::glommio::Glommio;
use ironring_node::driver::monoio::Monoio;
use ironring_node::driver::peers::serve::serve;
use ironring_node::driver::peers::{
    Admission, Admit, Down, Handover, LinkId, PeerOwner, PeerShard, PeerTarget, PeerTargets, Peers,
    Remote, Side, listen,
};
use ironring_node::driver::runtime::{Join, Runtime};
use ironring_node::raft::host::OnDriver;
use ironring_node::raft::store::StoreConfig;
use ironring_node::raft::{
    DriverDisk, LinkError, MetaGroup, MetaMachine, Peer, RaftCalls, RaftConfig, RaftLink,
    Surroundings,
};

use crate::harness::{SHARDS, Spec, TestNode, seat};
use crate::support::{PATIENCE, RUNTIME, under_every_runtime};

under_every_runtime! {
    three_nodes_elect_a_leader_and_commit,
    a_call_without_an_answer_ends_with_a_typed_reason,
}

const NODES: u64 = 3;
const COMMANDS: u64 = 10;
const LOOK: Duration = Duration::from_millis(2);

/// A state machine that adds up.
#[derive(Default)]
struct Sum(u64);

impl MetaMachine for Sum {
    fn apply(&mut self, _index: u64, command: &[u8]) -> Result<Vec<u8>, String> {
        self.0 += command.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        Ok(self.0.to_le_bytes().to_vec())
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.to_le_bytes().to_vec()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.0 = u64::from_le_bytes(bytes.try_into().map_err(|_| "not eight bytes")?);
        Ok(())
    }
}

/// Passes the group's frames on; without a group they are not answered.
struct Owner<R: Runtime> {
    calls: Rc<RaftCalls<R>>,
    group: Option<MetaGroup<Sum>>,
}

impl<R: Runtime> PeerOwner for Owner<R> {
    fn up(&mut self, _link: LinkId, _remote: &Remote) {}

    fn down(&mut self, link: LinkId, _peer: PeerShard, _side: Side, reason: &Down) {
        self.calls.down(link, reason);
    }

    fn frame(&mut self, link: LinkId, _frame: &Frame<'_>, message: Message<'_>) {
        match (message, &self.group) {
            (Message::Raft(raft), _) if raft.half == Half::Answer => {
                self.calls.answered(link, &raft)
            }
            (Message::Raft(raft), Some(group)) => {
                let group = group.clone();
                let answer = |request: Vec<u8>| async move { group.handle(&request).await };
                self.calls.requested(link, &raft, answer);
            }
            _ => {}
        }
    }
}

/// What the nodes tell each other beside the group.
#[derive(Default)]
struct Board {
    /// What was acknowledged, all together.
    acked: Option<u64>,
    applied: BTreeSet<u64>,
}

struct NodeStart {
    node: u64,
    dir: PathBuf,
    socket: socket2::Socket,
    targets: PeerTargets,
    board: Arc<Mutex<Board>>,
}

fn admit_all() -> Admit {
    let storage = |node: NodeId| Spec::new(node.0).local.storage;
    Box::new(move |hello| Admission {
        member: Some(Member {
            storage: storage(hello.identity.node),
            removed: false,
            newest: None,
        }),
        token_refused: None,
        stopping: false,
    })
}

async fn group<R: Runtime>(
    runtime: &Rc<R>,
    node: u64,
    dir: &Path,
    link: Rc<RaftCalls<R>>,
) -> MetaGroup<Sum> {
    let identity = Identity { storage: StorageUuid(node.into()), shard: ShardId(0), salt: 7 };
    let mut store = StoreConfig::new(identity, true);
    store.log.segment_bytes = 1 << 20;
    let around = Surroundings {
        host: Rc::new(OnDriver::new(Rc::clone(runtime), node)),
        disk: Rc::new(DriverDisk::new(Rc::clone(runtime), dir).unwrap()),
        link,
    };
    MetaGroup::start(node, &RaftConfig::default(), store, around, Sum::default()).await.unwrap()
}

async fn member<R: Runtime>(runtime: Rc<R>, start: NodeStart) -> Result<(), String> {
    let NodeStart { node, dir, socket, targets, board } = start;
    let spec = Spec::new(node);
    let handover = Handover::all(1).unwrap().pop().unwrap();
    let peers = Peers::new(spec.local, spec.settings, handover, node).unwrap();
    peers.listen(socket, admit_all()).unwrap();
    let members: BTreeMap<u64, String> = (1..=NODES).map(|id| (id, format!("node-{id}"))).collect();
    let others: Vec<NodeId> = targets.nodes.iter().map(|target| target.node).collect();
    peers.set_targets(targets);
    for other in others {
        assert!(peers.want(PeerShard { node: other, shard: ShardId(0) }));
    }
    let calls = RaftCalls::new(Rc::clone(&runtime), Rc::clone(&peers));
    let group = group(&runtime, node, &dir, Rc::clone(&calls)).await;
    let owner = Rc::new(RefCell::new(Owner { calls, group: Some(group.clone()) }));
    let served =
        async { serve(Rc::clone(&runtime), peers, owner).await.map_err(|e| e.to_string()) };
    let worked = async {
        // Another member may have told this one already.
        let _ = group.bootstrap(members).await;
        let mut acked = 0;
        loop {
            if acked < COMMANDS
                && group.status().leader == Some(node)
                && group.propose(vec![1], PATIENCE).await.is_ok()
            {
                acked += 1;
            }
            let sum = group.read(|sum| sum.0);
            {
                let mut board = board.lock().unwrap();
                if acked == COMMANDS {
                    board.acked = Some(sum);
                }
                if board.acked.is_some_and(|acked| sum >= acked) {
                    board.applied.insert(node);
                }
                if board.applied.len() as u64 == NODES {
                    break;
                }
            }
            runtime.sleep(LOOK).await;
        }
        // Stays to answer the others until they have seen the same.
        runtime.sleep(20 * LOOK).await;
        group.shutdown().await.map_err(|e| e.to_string())
    };
    future::or(served, worked).await
}

fn run_members<R: Runtime>() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let board = Arc::new(Mutex::new(Board::default()));
    let sockets: Vec<socket2::Socket> =
        (1..=NODES).map(|_| listen("127.0.0.1:0".parse().unwrap()).unwrap()).collect();
    let targets: Vec<PeerTarget> = (1..)
        .zip(&sockets)
        .map(|(node, socket)| PeerTarget {
            node: NodeId(node),
            address: socket.local_addr().unwrap().as_socket().unwrap(),
            shard_count: 1,
        })
        .collect();
    let mut joins: Vec<Join> = Vec::new();
    for (node, socket) in (1..).zip(sockets) {
        let own = dir.path().join(node.to_string());
        std::fs::create_dir(&own).unwrap();
        let nodes = targets.iter().filter(|target| target.node.0 != node).cloned().collect();
        let targets = PeerTargets { cluster: crate::harness::CLUSTER, nodes };
        let board = Arc::clone(&board);
        let seat = seat(0, dir.path());
        let start = NodeStart { node, dir: own, socket, targets, board };
        joins.push(R::start(seat, move |runtime: Rc<R>| member(runtime, start)).unwrap());
    }
    for join in joins {
        join().unwrap().unwrap();
    }
    let board = board.lock().unwrap();
    assert!(board.acked.is_some_and(|acked| acked >= COMMANDS), "{:?}", board.acked);
    assert_eq!(board.applied.len() as u64, NODES);
}

fn three_nodes_elect_a_leader_and_commit() {
    match RUNTIME.get() {
        "glommio" => run_members::<Glommio>(),
        _ => run_members::<Monoio>(),
    }
}

struct Caller {
    target: PeerTarget,
    /// Called before the call that waits for the end of the connection.
    waits: mpsc::Sender<()>,
}

async fn caller<R: Runtime>(runtime: Rc<R>, start: Caller) -> Result<(), String> {
    let spec = Spec::new(1);
    let handover = Handover::all(1).unwrap().pop().unwrap();
    let peers = Peers::new(spec.local.clone(), spec.settings, handover, 1).unwrap();
    let calls = RaftCalls::new(Rc::clone(&runtime), Rc::clone(&peers));
    let owner = Rc::new(RefCell::new(Owner { calls: Rc::clone(&calls), group: None }));
    let call = |timeout| {
        let to = Peer { id: 2, address: "unused".to_owned() };
        calls.call(&to, b"a request".to_vec(), timeout)
    };
    let unreachable = |answer| matches!(answer, Err(LinkError::Unreachable(_)));
    let served = async {
        serve(Rc::clone(&runtime), Rc::clone(&peers), owner).await.map_err(|e| e.to_string())
    };
    let called = async {
        assert!(unreachable(call(PATIENCE).await), "nobody may be dialled");
        let peer = PeerShard { node: start.target.node, shard: ShardId(0) };
        peers.set_targets(PeerTargets { cluster: spec.local.cluster, nodes: vec![start.target] });
        assert!(unreachable(call(PATIENCE).await), "there is no connection yet");
        while peers.dialled(peer).is_none() {
            runtime.sleep(LOOK).await;
        }
        assert_eq!(call(Duration::from_millis(20)).await, Err(LinkError::Timeout));
        start.waits.send(()).unwrap();
        // It was sent: whether it was taken is not known.
        let lost = call(10 * PATIENCE).await;
        assert!(matches!(lost, Err(LinkError::Lost(_))), "the connection ended: {lost:?}");
        assert_eq!(calls.waiting(), 0);
        Ok(())
    };
    future::or(served, called).await
}

fn a_call_without_an_answer_ends_with_a_typed_reason() {
    let two = TestNode::start(Spec::new(2));
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (waits, waiting) = mpsc::channel();
    let target = PeerTarget { shard_count: SHARDS, ..two.target() };
    let (seat, start) = (seat(0, dir.path()), Caller { target, waits });
    let join = match RUNTIME.get() {
        "glommio" => Glommio::start(seat, move |runtime| caller::<Glommio>(runtime, start)),
        _ => Monoio::start(seat, move |runtime| caller::<Monoio>(runtime, start)),
    };
    waiting.recv_timeout(PATIENCE).unwrap();
    // The call that has timed out, and the one that waits.
    two.shards[0].seen.frame(Kind::Raft);
    two.shards[0].seen.frame(Kind::Raft);
    drop(two);
    join.unwrap()().unwrap().unwrap();
}
