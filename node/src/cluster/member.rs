//! The node as a member: its part of the metadata group, from the start of core 0 to its end.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future;
use ironring_core::{Instant, ShardId};
use ironring_log::Identity as LogIdentity;
use ironring_ring::metadata::{Command, Facts, Metadata, Outcome, Rejected};
use tokio::sync::Notify;

use super::board::Board;
use super::catalog::{Catalog, decode_outcome};
use super::identity::{ClusterIdentity, IdentityError, Stage};
use crate::driver::clock;
use crate::driver::runtime::Runtime;
use crate::raft::host::{Host, Local, OnDriver};
use crate::raft::store::StoreConfig;
use crate::raft::{
    DriverDisk, GroupError, LinkError, MetaGroup, Peer, RaftConfig, RaftLink, Role, StartError,
    Surroundings,
};

/// The log of the metadata group is no shard's.
const META_SHARD: ShardId = ShardId(u16::MAX);
/// How many replicas a partition should have in a new cluster. There are no more than nodes.
const RF: u8 = 3;
/// How long a command of this node may take.
const WITHIN: Duration = Duration::from_secs(5);
/// How often to look when nothing happens.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Wait before a command that was not taken is sent again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// Wait for a leader that is just being elected.
const ELECTION_NAP: Duration = Duration::from_millis(2);

/// Called with the newest metadata, on the thread of the group.
pub type Publish = Box<dyn Fn(&Arc<Metadata>)>;

/// What a member begins with.
pub struct Place {
    /// Which node of which cluster it is.
    pub identity: ClusterIdentity,
    /// Where that is written.
    pub data_dir: PathBuf,
    /// The directory of the metadata group; an absolute path.
    pub meta_dir: PathBuf,
    /// What it says of itself.
    pub facts: Facts,
    /// How many partitions a cluster that is founded has.
    pub partitions: u32,
    /// Settings of the group.
    pub raft: RaftConfig,
    /// Where other threads look.
    pub board: Arc<Board>,
}

/// Why a member's life ended.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The metadata group did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The metadata group has stopped.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// Its place in the cluster cannot be written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The cluster refuses what the node is.
    #[error("the cluster refuses this node: {0}")]
    Rejected(Rejected),
    /// The system has no descriptors left.
    #[error("the metadata group has no descriptors: {0}")]
    System(#[from] std::io::Error),
}

/// This node's membership while it runs. Lives on core 0.
pub struct Member<R: Runtime> {
    runtime: Rc<R>,
    host: Rc<OnDriver<R>>,
    place: Place,
    publish: Publish,
    stage: Cell<Stage>,
    /// Something happened that [`Member::look`] should see.
    poke: Rc<Notify>,
    stopping: Cell<bool>,
    published: RefCell<Arc<Metadata>>,
    /// Telling the cluster what this node is: not before then, and one at a time.
    tell_at: Cell<Instant>,
    telling: Cell<bool>,
    rejected: RefCell<Option<Rejected>>,
}

impl<R: Runtime> Member<R> {
    /// A member that does nothing before [`Member::live`].
    #[must_use]
    pub fn new(runtime: Rc<R>, place: Place, publish: Publish) -> Rc<Member<R>> {
        let seed = place.identity.storage.0 as u64 ^ place.facts.incarnation.0;
        Rc::new(Member {
            host: Rc::new(OnDriver::new(Rc::clone(&runtime), seed)),
            runtime,
            stage: Cell::new(place.identity.stage),
            place,
            publish,
            poke: Rc::default(),
            stopping: Cell::new(false),
            published: RefCell::default(),
            tell_at: Cell::new(Instant(0)),
            telling: Cell::new(false),
            rejected: RefCell::default(),
        })
    }

    /// Ends [`Member::live`].
    pub fn stop(&self) {
        self.stopping.set(true);
        self.poke.notify_one();
    }

    /// Runs a task in the queue of the metadata group.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.host.spawn(Box::pin(task));
    }

    /// Takes part in the metadata group until [`Member::stop`].
    ///
    /// # Errors
    /// Why it cannot, or can no longer.
    pub async fn live(self: Rc<Self>) -> Result<(), ClusterError> {
        let group = self.start().await?;
        let lived = self.lead_life(&group).await;
        let ended = group.shutdown().await;
        lived?;
        Ok(ended?)
    }

    async fn start(&self) -> Result<MetaGroup<Catalog>, ClusterError> {
        let identity = &self.place.identity;
        let log = LogIdentity { storage: identity.storage, shard: META_SHARD };
        let store = StoreConfig::new(log, identity.stage != Stage::Member);
        let around = Surroundings {
            host: Rc::clone(&self.host) as Rc<dyn Host>,
            disk: Rc::new(DriverDisk::new(Rc::clone(&self.runtime), &self.place.meta_dir)?),
            link: Rc::new(Nobody),
        };
        let catalog = Catalog::new(Rc::clone(&self.poke));
        let id = identity.node.0;
        Ok(MetaGroup::start(id, &self.place.raft, store, around, catalog).await?)
    }

    async fn lead_life(self: &Rc<Self>, group: &MetaGroup<Catalog>) -> Result<(), ClusterError> {
        if self.stage.get() == Stage::Founding {
            self.found(group).await?;
        }
        while !self.stopping.get() {
            self.look(group)?;
            let nap = self.runtime.sleep(LOOK_EVERY);
            future::or(self.poke.notified(), nap).await;
        }
        Ok(())
    }

    /// Makes a cluster of this node, or goes on with that where an earlier start ended.
    async fn found(&self, group: &MetaGroup<Catalog>) -> Result<(), ClusterError> {
        let Place { identity, facts, partitions, .. } = &self.place;
        while group.read(|catalog| catalog.newest().identity().is_none()) {
            if self.stopping.get() {
                return Ok(());
            }
            if group.status().voters.is_empty() {
                let me = (identity.node.0, facts.addresses.node.clone());
                match group.bootstrap([me].into()).await {
                    // The status tells a little later.
                    Ok(()) | Err(GroupError::Bootstrapped) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let command = Command::Found {
                name: identity.cluster.clone(),
                uuid: identity.uuid,
                partitions: *partitions,
                rf: RF,
                node: facts.clone(),
                at: clock::now().wall,
            };
            match group.propose(command.encode(), WITHIN).await {
                Ok(outcome) => match decode_outcome(&outcome) {
                    Ok(Outcome::Rejected(why)) if why != Rejected::Founded => {
                        return Err(ClusterError::Rejected(why));
                    }
                    _ => {}
                },
                Err(GroupError::NotLeader { .. } | GroupError::NoQuorum | GroupError::Unknown) => {
                    self.runtime.sleep(ELECTION_NAP).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.become_member()
    }

    /// The cluster has this node among its members: from here on a directory of the metadata group
    /// that is gone is a loss.
    fn become_member(&self) -> Result<(), ClusterError> {
        if self.stage.replace(Stage::Member) != Stage::Member {
            let identity = ClusterIdentity { stage: Stage::Member, ..self.place.identity.clone() };
            identity.save(&self.place.data_dir).map_err(IdentityError::from)?;
        }
        Ok(())
    }

    /// Looks at everything there is, and does what is due.
    fn look(self: &Rc<Self>, group: &MetaGroup<Catalog>) -> Result<(), ClusterError> {
        let status = group.status();
        if let (Role::Stopped, Some(failure)) = (status.role, &status.failure) {
            return Err(GroupError::Stopped(failure.clone()).into());
        }
        self.place.board.set_group(status);
        let newest = group.read(|catalog| Arc::clone(catalog.newest()));
        if !Arc::ptr_eq(&newest, &self.published.borrow()) {
            self.place.board.set_metadata(&newest);
            (self.publish)(&newest);
            *self.published.borrow_mut() = Arc::clone(&newest);
        }
        self.tell_facts(group, &newest);
        match self.rejected.borrow_mut().take() {
            Some(why) => Err(ClusterError::Rejected(why)),
            None => Ok(()),
        }
    }

    /// Tells the cluster what this node is like in this run, until the metadata say the same.
    fn tell_facts(self: &Rc<Self>, group: &MetaGroup<Catalog>, metadata: &Metadata) {
        let known = metadata.member(self.place.identity.node);
        let now = clock::now();
        let due = known.is_some_and(|member| member.facts != self.place.facts);
        if !due || now.mono < self.tell_at.get() || self.telling.replace(true) {
            return;
        }
        let command =
            Command::Join { node: self.place.facts.clone(), token: None, at: now.wall }.encode();
        let (me, group) = (Rc::clone(self), group.clone());
        self.spawn(async move {
            let told = group.propose(command, WITHIN).await;
            if let Ok(outcome) = told
                && let Ok(Outcome::Rejected(why)) = decode_outcome(&outcome)
            {
                *me.rejected.borrow_mut() = Some(why);
            }
            me.telling.set(false);
            me.tell_at.set(clock::now().mono + AGAIN_AFTER);
            me.poke.notify_one();
        });
    }
}

/// The way of a group of one to its other members.
struct Nobody;

impl RaftLink for Nobody {
    fn call(
        &self,
        to: &Peer,
        _request: Vec<u8>,
        _timeout: Duration,
    ) -> Local<'static, Result<Vec<u8>, LinkError>> {
        let why = format!("node {} is not a member", to.id);
        Box::pin(async { Err(LinkError::Unreachable(why)) })
    }
}
