//! Nodes that only have connections: executors, a door and an owner that notes what it is told, all
//! in this process.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

use futures_lite::future;
use ironring_core::{
    Incarnation, Instant, NodeId, Offset, PartitionId, ShardId, StorageUuid, Term, WallTime,
};
use ironring_net::peer::hello::ClusterUuid;
use ironring_net::peer::message::{AGE_UNKNOWN, Ack, AckState, LeaderId, ReplicaId, Replicate};
use ironring_net::peer::{Frame, Kind, Member, Message, OutputError, Refusal};
use ironring_node::driver::glommio::Glommio;
use ironring_node::driver::monoio::Monoio;
use ironring_node::driver::peers::serve::serve;
use ironring_node::driver::peers::{
    Admission, Admit, Down, Handover, LinkId, Local, PeerOwner, PeerSettings, PeerShard,
    PeerTarget, PeerTargets, Peers, Remote, Side, listen,
};
use ironring_node::driver::runtime::{Join, Runtime, Seat};

use crate::support::{PATIENCE, RUNTIME, address_of_its_own};

pub const CLUSTER: ClusterUuid = ClusterUuid(0xC1);
/// Executors of a node.
pub const SHARDS: u16 = 2;
/// How often an executor looks whether the test wants something.
const LOOK: Duration = Duration::from_millis(1);

/// What an owner was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Up { link: LinkId, remote: Remote },
    Down { link: LinkId, peer: PeerShard, side: Side, reason: Down },
    Frame { link: LinkId, kind: Kind, items: usize, payload: Vec<u8> },
}

/// What a shard's owner was told so far.
#[derive(Default)]
pub struct Seen {
    told: Mutex<VecDeque<Told>>,
    more: Condvar,
}

impl Seen {
    fn push(&self, told: Told) {
        self.told.lock().unwrap().push_back(told);
        self.more.notify_all();
    }

    /// Takes the first that `want` takes, and everything before it, waiting for it.
    pub fn wait<T>(&self, mut want: impl FnMut(Told) -> Option<T>) -> T {
        let begin = std::time::Instant::now();
        let mut told = self.told.lock().unwrap();
        let mut passed = Vec::new();
        loop {
            while let Some(next) = told.pop_front() {
                if let Some(found) = want(next.clone()) {
                    return found;
                }
                passed.push(next);
            }
            let left = PATIENCE.checked_sub(begin.elapsed());
            let Some(left) = left else { panic!("it never came; instead: {passed:?}") };
            told = self.more.wait_timeout(told, left).unwrap().0;
        }
    }

    pub fn up(&self, side: Side) -> (LinkId, Remote) {
        self.wait(|told| match told {
            Told::Up { link, remote } if remote.side == side => Some((link, remote)),
            _ => None,
        })
    }

    pub fn down(&self) -> (LinkId, PeerShard, Down) {
        self.wait(|told| match told {
            Told::Down { link, peer, reason, .. } => Some((link, peer, reason)),
            _ => None,
        })
    }

    pub fn frame(&self, kind: Kind) -> (LinkId, usize, Vec<u8>) {
        self.wait(|told| match told {
            Told::Frame { link, kind: got, items, payload } if got == kind => {
                Some((link, items, payload))
            }
            _ => None,
        })
    }

    pub fn take_all(&self) -> Vec<Told> {
        self.told.lock().unwrap().drain(..).collect()
    }
}

/// How an owner behaves.
#[derive(Default)]
pub struct Manners {
    /// It keeps payloads: nothing is granted.
    pub keeps: AtomicBool,
}

struct Owner {
    peers: Rc<Peers>,
    seen: Arc<Seen>,
    manners: Arc<Manners>,
}

impl PeerOwner for Owner {
    fn up(&mut self, link: LinkId, remote: &Remote) {
        self.seen.push(Told::Up { link, remote: remote.clone() });
    }

    fn down(&mut self, link: LinkId, peer: PeerShard, side: Side, reason: &Down) {
        self.seen.push(Told::Down { link, peer, side, reason: reason.clone() });
    }

    fn frame(&mut self, link: LinkId, frame: &Frame<'_>, message: Message<'_>) {
        let items = match message {
            Message::Replicate(sections) => {
                let acks: Vec<Ack> = sections.iter().map(|section| ack(&section)).collect();
                let answer = Message::Acks((&*acks).into());
                self.peers.output(link, |output| output.send(&answer)).unwrap().unwrap();
                sections.len()
            }
            Message::Acks(acks) => acks.len(),
            _ => 1,
        };
        if !self.manners.keeps.load(Ordering::Relaxed) && !frame.payload.is_empty() {
            self.peers.grant(link, frame.payload.len() as u64);
        }
        let (kind, payload) = (frame.header.kind, frame.payload.to_vec());
        self.seen.push(Told::Frame { link, kind, items, payload });
    }
}

fn replica(number: u128) -> ReplicaId {
    ReplicaId { storage: StorageUuid(number), life: 1 }
}

pub fn section(partition: u32, records: &[u8]) -> Replicate<'_> {
    Replicate {
        partition: PartitionId(partition),
        to: replica(2),
        from: LeaderId { replica: replica(1), incarnation: Incarnation(1) },
        term: Term(1),
        first: Offset(1),
        prev_term: Term(0),
        count: u32::from(!records.is_empty()),
        high_watermark: Offset(1),
        probe: Instant(7),
        answered: Instant(0),
        age_ms: AGE_UNKNOWN,
        records,
    }
}

fn ack(section: &Replicate<'_>) -> Ack {
    Ack {
        partition: section.partition,
        from: LeaderId { replica: section.to, incarnation: Incarnation(1) },
        to: section.from.replica,
        term: section.term,
        state: AckState::Flushed { end: section.first },
        probe: section.probe,
    }
}

/// What a node is made of.
#[derive(Clone)]
pub struct Spec {
    pub local: Local,
    pub settings: PeerSettings,
    pub members: Vec<(u64, Member)>,
    pub token: Option<Vec<u8>>,
    pub stopping: bool,
    pub listen: SocketAddr,
}

fn storage_of(node: u64) -> StorageUuid {
    StorageUuid(u128::from(node) << 64 | 7)
}

impl Spec {
    /// Node `node` of a cluster of nodes 1 to 9, on an address of its own.
    pub fn new(node: u64) -> Spec {
        let member = |id| (id, Member { storage: storage_of(id), removed: false, newest: None });
        Spec {
            local: Local {
                cluster_name: "test".to_owned(),
                cluster: CLUSTER,
                node: NodeId(node),
                node_name: format!("node-{node}"),
                storage: storage_of(node),
                incarnation: Incarnation(1),
                shard_count: SHARDS,
                token: Vec::new(),
                mark: 0,
            },
            settings: PeerSettings {
                backoff_max: Duration::from_millis(100),
                refused_retry: Duration::from_millis(100),
                ..PeerSettings::default()
            },
            members: (1..10).map(member).collect(),
            token: None,
            stopping: false,
            listen: address_of_its_own().parse().unwrap(),
        }
    }

    /// The next run of the same node, where `before` listened.
    pub fn next_run(&self, before: SocketAddr) -> Spec {
        let mut next = self.clone();
        next.local.incarnation.0 += 1;
        next.listen = before;
        next
    }

    fn admit(&self) -> Admit {
        let (members, token, stopping) = (self.members.clone(), self.token.clone(), self.stopping);
        Box::new(move |hello| Admission {
            member: members
                .iter()
                .find(|(id, _)| *id == hello.identity.node.0)
                .map(|(_, member)| *member),
            token_refused: (token.as_deref() != Some(hello.token))
                .then(|| (Refusal::BadToken, "no".to_owned())),
            stopping,
        })
    }
}

type Command = Box<dyn FnOnce(&Rc<Peers>) + Send>;

/// One executor.
pub struct TestShard {
    pub seen: Arc<Seen>,
    pub manners: Arc<Manners>,
    commands: Arc<Mutex<VecDeque<Command>>>,
}

impl TestShard {
    /// Runs `f` on the executor and returns what it does.
    pub fn ask<T: Send + 'static>(&self, f: impl FnOnce(&Rc<Peers>) -> T + Send + 'static) -> T {
        let (done, answer) = mpsc::channel();
        let command = move |peers: &Rc<Peers>| {
            let _ = done.send(f(peers));
            peers.flush();
        };
        self.commands.lock().unwrap().push_back(Box::new(command));
        answer.recv_timeout(PATIENCE).expect("the executor runs")
    }

    /// Sends one section as a frame.
    pub fn replicate(&self, link: LinkId, records: Vec<u8>) -> Result<(), OutputError> {
        self.ask(move |peers| {
            let sent = peers.output(link, |output| {
                let mut frame = output.replicate()?;
                frame.push(&section(1, &records), [])?;
                frame.finish()
            });
            sent.expect("the link is up")
        })
    }

    /// Looks until `f` gives something.
    pub fn until<T: Send + 'static>(
        &self,
        f: impl Fn(&Rc<Peers>) -> Option<T> + Send + Clone + 'static,
    ) -> T {
        let begin = std::time::Instant::now();
        loop {
            if let Some(found) = self.ask(f.clone()) {
                return found;
            }
            assert!(begin.elapsed() < PATIENCE, "it never came to be");
            std::thread::sleep(LOOK);
        }
    }
}

/// A node of [`SHARDS`] executors. Killed when dropped: its sockets close without a word.
pub struct TestNode {
    pub spec: Spec,
    pub address: SocketAddr,
    pub shards: Vec<TestShard>,
    killed: Arc<AtomicBool>,
    joins: Vec<Join>,
    _probe: tempfile::TempDir,
}

struct Start {
    local: Local,
    settings: PeerSettings,
    handover: Handover,
    door: Option<(socket2::Socket, Box<dyn FnOnce() -> Admit + Send>)>,
    seen: Arc<Seen>,
    manners: Arc<Manners>,
    commands: Arc<Mutex<VecDeque<Command>>>,
    killed: Arc<AtomicBool>,
}

async fn life<R: Runtime>(runtime: Rc<R>, start: Start) -> Result<(), String> {
    let shard = start.handover.shard().0;
    let seed = start.local.node.0 * 100 + u64::from(shard);
    let peers = Peers::new(start.local, start.settings, start.handover, seed);
    let peers = peers.map_err(|e| e.to_string())?;
    if let Some((socket, admit)) = start.door {
        peers.listen(socket, admit()).map_err(|e| e.to_string())?;
    }
    let (seen, manners) = (start.seen, start.manners);
    let owner = Owner { peers: Rc::clone(&peers), seen, manners };
    let owner = Rc::new(RefCell::new(owner));
    let served = async {
        let served = serve(Rc::clone(&runtime), Rc::clone(&peers), Rc::clone(&owner)).await;
        served.map_err(|e| e.to_string())
    };
    let asked = async {
        while !start.killed.load(Ordering::Relaxed) {
            let next = start.commands.lock().unwrap().pop_front();
            match next {
                Some(command) => command(&peers),
                None => runtime.sleep(LOOK).await,
            }
        }
        Ok(())
    };
    future::or(served, asked).await
}

/// The wall clock.
pub fn wall_now() -> WallTime {
    ironring_node::driver::clock::now().wall
}

pub fn seat(shard: u16, dir: &Path) -> Seat {
    let probe = dir.join("probe");
    std::fs::write(&probe, vec![1; 4096]).unwrap();
    Seat { shard, cpu: None, memlock_tight_bytes: None, ring_depth: 64, flushes: true, probe }
}

impl TestNode {
    pub fn start(spec: Spec) -> TestNode {
        match RUNTIME.get() {
            "glommio" => TestNode::start_on::<Glommio>(spec),
            _ => TestNode::start_on::<Monoio>(spec),
        }
    }

    pub fn start_on<R: Runtime>(spec: Spec) -> TestNode {
        let probe = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let socket = listen(spec.listen).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let killed = Arc::new(AtomicBool::new(false));
        let (mut shards, mut joins, mut socket) = (Vec::new(), Vec::new(), Some(socket));
        for handover in Handover::all(SHARDS).unwrap() {
            let shard = TestShard {
                seen: Arc::default(),
                manners: Arc::default(),
                commands: Arc::default(),
            };
            let for_admit = spec.clone();
            let admit: Box<dyn FnOnce() -> Admit + Send> = Box::new(move || for_admit.admit());
            let seat = seat(handover.shard().0, probe.path());
            let start = Start {
                local: spec.local.clone(),
                settings: spec.settings.clone(),
                handover,
                door: socket.take().map(|socket| (socket, admit)),
                seen: Arc::clone(&shard.seen),
                manners: Arc::clone(&shard.manners),
                commands: Arc::clone(&shard.commands),
                killed: Arc::clone(&killed),
            };
            joins.push(R::start(seat, move |runtime: Rc<R>| life(runtime, start)).unwrap());
            shards.push(shard);
        }
        TestNode { spec, address, shards, killed, joins, _probe: probe }
    }

    pub fn id(&self) -> NodeId {
        self.spec.local.node
    }

    pub fn target(&self) -> PeerTarget {
        PeerTarget { node: self.id(), address: self.address, shard_count: SHARDS }
    }

    /// A shard of this node, as others name it.
    pub fn shard(&self, shard: u16) -> PeerShard {
        PeerShard { node: self.id(), shard: ShardId(shard) }
    }

    /// Tells a shard of this node whom it may dial, and to dial `peer`.
    pub fn dial(&self, shard: usize, target: PeerTarget, peer: PeerShard) {
        let cluster = self.spec.local.cluster;
        let wanted = self.shards[shard].ask(move |peers| {
            peers.set_targets(PeerTargets { cluster, nodes: vec![target] });
            peers.want(peer)
        });
        assert!(wanted, "{peer:?} is a target");
    }

    /// Stops in good order, or fails.
    pub fn stop(mut self) {
        for shard in &self.shards {
            shard.ask(|peers| peers.stop());
        }
        for join in self.joins.drain(..) {
            join().unwrap().unwrap();
        }
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.killed.store(true, Ordering::Relaxed);
        for join in self.joins.drain(..) {
            let ended = join();
            if !std::thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
    }
}

/// Two nodes, of which shard `from` of the first has dialled shard `to` of the second; the link at
/// both ends.
pub fn linked(from: u16, to: u16) -> (TestNode, TestNode, LinkId, LinkId) {
    let (one, two) = (TestNode::start(Spec::new(1)), TestNode::start(Spec::new(2)));
    one.dial(from.into(), two.target(), two.shard(to));
    let (here, _) = one.shards[usize::from(from)].seen.up(Side::Dialled);
    let (there, _) = two.shards[usize::from(to)].seen.up(Side::Accepted);
    (one, two, here, there)
}
