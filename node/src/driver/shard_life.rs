//! The life of one shard on its executor, from its sockets to its end; on core 0 with the node's part of
//! the metadata group.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ironring_core::{NodeId, PartitionId, ShardId};
use ironring_net::peer::Hello;
use ironring_ring::Slices;
use ironring_ring::metadata::{Metadata, Outcome, ReplicaId};
use ironring_ring::replication::Fence;
use tokio::sync::oneshot;

use super::buffers::Alloc;
use super::connection::{Terms, accept, rounds};
use super::device;
use super::executor::Executor;
use super::files::Files;
use super::mesh::Mesh;
use super::node::Shared;
use super::nodes::Nodes;
use super::peers::{Handover, Local, PeerSettings, Peers};
use super::poller::Poller;
use super::runtime::Runtime;
use crate::cluster::roster::{self, Moment};
use crate::cluster::{ClusterIdentity, Member, Place, Shards, ToShard};
use crate::raft::RaftCalls;
use crate::shard::{Event, MetaFailure, Phase, Shard, ShardConfig};

/// How long a shard waits for the others of its node before it ends: what they may take to hand over and
/// to give their answers, and a little more.
const ALL_LEFT_MAX: Duration = Duration::from_secs(12);
/// How often it looks whether they have left.
const ALL_LEFT_LOOK: Duration = Duration::from_millis(5);

/// What one shard's thread begins with.
pub(super) struct ShardStart {
    pub config: ShardConfig,
    pub dir: PathBuf,
    pub format: bool,
    pub terms: Terms,
    pub mesh: Mesh,
    pub handover: Handover,
    pub local: Local,
    pub peers: PeerSettings,
    pub identity: ClusterIdentity,
    pub sockets: (socket2::Socket, socket2::Socket),
    /// On core 0: the node's place in its cluster, and the door for other nodes.
    pub core_0: Option<(Place, socket2::Socket)>,
    pub shared: Arc<Shared>,
    pub node: NodeEndsToo,
}

impl ShardStart {
    /// Whether durable writes may wait for a flush of a disk's cache.
    pub fn flushes(&self) -> bool {
        let meta = self.core_0.as_ref().map(|(place, _)| &place.meta_dir);
        std::iter::once(&self.dir).chain(meta).any(|dir| device::flushes(dir))
    }
}

/// Stops the node when it goes: a node does not outlive any of its shards. A shard's thread owns
/// it, so it goes when the shard has ended, and when there is no executor to run it.
pub(super) struct NodeEndsToo {
    shared: Arc<Shared>,
    left: Cell<bool>,
}

impl NodeEndsToo {
    pub fn new(shared: Arc<Shared>) -> NodeEndsToo {
        NodeEndsToo { shared, left: Cell::new(false) }
    }

    /// The shard needs the metadata group no more.
    fn leave(&self) {
        if !self.left.replace(true) {
            self.shared.left.fetch_add(1, Ordering::Release);
        }
    }
}

impl Drop for NodeEndsToo {
    fn drop(&mut self) {
        self.leave();
        self.shared.stop();
    }
}

/// A shard's life on its executor.
pub(super) async fn run_shard<R: Runtime>(runtime: Rc<R>, start: ShardStart) -> Result<(), String> {
    let (slices, node) = (start.config.slices, start.node);
    let (mine, partitions) = (slices.range(start.config.shard()), slices.partitions());
    let shard = Shard::new(start.config, Box::new(Alloc));
    let poller = Poller::new(&*runtime, start.mesh.bell()).map_err(|e| e.to_string())?;
    if let Some(completions) = runtime.completions() {
        poller.add_wake(completions).map_err(|e| e.to_string())?;
    }
    let files = Files::new(Rc::clone(&runtime), &start.dir);
    let seed = start.identity.storage.0 as u64 ^ u64::from(shard.id().0);
    let peers = Peers::new(start.local, start.peers, start.handover, seed);
    let peers = peers.map_err(|e| e.to_string())?;
    poller.add_nodes(peers.descriptor()).map_err(|e| e.to_string())?;
    let nodes = Nodes::new(peers, start.identity, mine, partitions);
    let executor =
        Executor::new(Rc::clone(&runtime), shard, files, start.mesh, nodes, poller, start.shared);
    // Before anything of the other shards is taken.
    executor.handle(Event::Start { format: start.format });
    runtime.spawn(Rc::clone(&executor).turns());
    runtime.spawn(rounds(Rc::clone(&executor)));
    for socket in [start.sockets.0, start.sockets.1] {
        let listener = runtime.listener(socket).map_err(|e| e.to_string())?;
        runtime.spawn(accept(Rc::clone(&executor), listener, start.terms.clone()));
    }
    let member = match start.core_0 {
        Some(core_0) => Some(run_member(&runtime, &executor, core_0, slices)?),
        None => None,
    };
    let phase = Rc::clone(&executor).timer().await;
    if phase == Phase::Failed {
        executor.shared.stop();
    }
    node.leave();
    // Others of this node may still hand over what they lead: by commits of the metadata group, which
    // this node may lead, and they serve meanwhile. What they pass on is refused here, not lost.
    let by = super::clock::mono() + ALL_LEFT_MAX;
    while phase != Phase::Failed && !executor.shared.all_left() && super::clock::mono() < by {
        runtime.sleep(ALL_LEFT_LOOK).await;
    }
    if let Some((member, ended)) = member {
        member.stop();
        // A sender that is gone has ended as well.
        let _ = ended.await;
    }
    executor.nodes.stop(&executor);
    if phase == Phase::Failed {
        let shard = executor.shard.borrow();
        let failure = shard.failure().map_or_else(|| "failed".to_owned(), ToString::to_string);
        tracing::error!(shard = shard.id().0, "{failure}");
        return Err(failure);
    }
    Ok(())
}

/// The shards of this node and of others, as the member reaches them.
struct ItsShards<R: Runtime> {
    executor: Rc<Executor<R>>,
    slices: Slices,
}

impl<R: Runtime> Shards for ItsShards<R> {
    fn publish(&self, metadata: &Arc<Metadata>) {
        self.executor.mesh.publish(metadata);
    }

    fn fence(&self, fences: Vec<Fence>) {
        let mut by_shard: BTreeMap<ShardId, Vec<Fence>> = BTreeMap::new();
        for fence in fences {
            by_shard.entry(self.slices.owner(fence.partition)).or_default().push(fence);
        }
        for (shard, fences) in by_shard {
            self.executor.mesh.tell(shard, ToShard::Fences(fences));
        }
    }

    fn fence_at(&self, node: NodeId, fences: &[Fence]) {
        self.executor.nodes.fence(node, fences);
    }

    fn decided(&self, ticket: u64, result: Result<Outcome, MetaFailure>) {
        self.executor.mesh.tell(ShardId(0), ToShard::Decided(ticket, result));
    }

    fn hand_over(&self, partition: PartitionId, to: ReplicaId) {
        if partition.0 < self.slices.partitions() {
            let shard = self.slices.owner(partition);
            self.executor.mesh.tell(shard, ToShard::HandOver(partition, to));
        }
    }
}

/// Opens the door for other nodes and starts the node's part of the metadata group; what is returned
/// besides is told its end.
fn run_member<R: Runtime>(
    runtime: &Rc<R>,
    executor: &Rc<Executor<R>>,
    (place, door): (Place, socket2::Socket),
    slices: Slices,
) -> Result<(Rc<Member<R>>, oneshot::Receiver<()>), String> {
    let peers = &executor.nodes.peers;
    let left = place.identity.farewell();
    let (identity, shared) = (place.identity.clone(), Arc::clone(&executor.shared));
    let admit = move |hello: &Hello<'_>| {
        let (metadata, now) = (shared.board.metadata(), super::clock::now().wall);
        let leads = shared.board.group().is_some_and(|group| group.leader == Some(group.id));
        let moment = Moment { leads, stopping: shared.stop_wanted() };
        roster::admission(&identity, &metadata, hello, now, moment)
    };
    peers.listen(door, Box::new(admit)).map_err(|e| e.to_string())?;
    let calls = RaftCalls::new(Rc::clone(runtime), Rc::clone(peers));
    let board = Arc::clone(&place.board);
    let shards = Box::new(ItsShards { executor: Rc::clone(executor), slices });
    let member = Member::new(Rc::clone(runtime), calls, place, shards);
    // It is set here only.
    let _ = executor.nodes.member.set(Rc::clone(&member));
    let (ends, ended) = oneshot::channel();
    let (running, shared) = (Rc::clone(&member), Arc::clone(&executor.shared));
    member.spawn(async move {
        match Rc::clone(&running).live().await {
            Ok(()) if running.has_left() => {
                tracing::info!("{left}");
                shared.stop();
            }
            Ok(()) => {}
            Err(error) => {
                tracing::error!("{error}");
                board.fail(error.to_string(), error.advice());
                shared.stop();
            }
        }
        board.close();
        // Nobody waits when the shard's thread has ended first.
        let _ = ends.send(());
    });
    Ok((member, ended))
}
