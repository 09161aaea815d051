//! The node as a member: its part of the metadata group, from the start of core 0 to its end.

mod asked;
mod telling;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future;
use ironring_core::{Incarnation, Instant, NodeId, ShardId};
use ironring_net::peer::Refusal;
use ironring_net::peer::message::GoodbyeReason;
use ironring_ring::controller::Settings;
use ironring_ring::metadata::{Command, Facts, Metadata, Outcome, Rejected};
use tokio::sync::Notify;

use super::board::Board;
use super::catalog::{Catalog, decode_outcome};
use super::control::Control;
use super::identity::{ClusterIdentity, IdentityError, Stage, log_identity};
use super::plane::{self, Letter};
use super::refused::{self, Advice, Fate};
use super::roster;
use super::saver::{Note, Saver};
use super::shards::Shards;
use super::shortage::Shortage;
use super::steward::{self, Step};
use super::succession::{Succession, Turn};
use crate::driver::peers::{Down, LinkId, PeerShard, Remote, Side};
use crate::driver::runtime::Runtime;
use crate::driver::{clock, data_dir};
use crate::raft::host::{Host, Local, OnDriver};
use crate::raft::store::StoreConfig;
use crate::raft::{
    DriverDisk, GroupError, GroupStatus, LinkError, MetaGroup, Peer, RaftCalls, RaftConfig,
    RaftLink, Role, StartError, Surroundings,
};
use crate::shard::ToController;

/// The log of the metadata group is no shard's.
pub const META_SHARD: ShardId = ShardId(u16::MAX);
/// How many replicas a partition should have in a new cluster. There are no more than nodes.
const RF: u8 = 3;
/// How long a request may take.
pub(super) const WITHIN: Duration = Duration::from_secs(5);
/// How often to look when nothing happens.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Shortest wait for a moment the controller has named.
const NAP_MIN: Duration = Duration::from_millis(1);
/// Wait before what was not taken is sent again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// Wait for a leader that is just being elected.
const ELECTION_NAP: Duration = Duration::from_millis(2);
/// How long a leader that stops waits for another to lead.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);

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
    /// How patient this node is as the controller.
    pub controller: Settings,
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
    /// Another process is this node by now, or its id another's, as another member says.
    #[error("the cluster refuses this node: {message}")]
    NotLetIn {
        /// Why.
        refusal: Refusal,
        /// What is wrong, with the values that are.
        message: String,
    },
    /// The system has no descriptors left.
    #[error("the metadata group has no descriptors: {0}")]
    System(#[from] std::io::Error),
}

impl ClusterError {
    /// What can be done about it.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            ClusterError::Rejected(why) => refused::advice_of(why),
            ClusterError::NotLetIn { refusal, .. } => refused::advice(*refusal),
            _ => Advice::default(),
        }
    }
}

/// This node's membership while it runs. Lives on core 0.
pub struct Member<R: Runtime> {
    pub(super) runtime: Rc<R>,
    host: Rc<OnDriver<R>>,
    calls: Rc<RaftCalls<R>>,
    pub(super) place: Place,
    pub(super) shards: Box<dyn Shards>,
    pub(super) control: Control,
    succession: RefCell<Succession>,
    /// What its directory says of it.
    saver: Saver,
    group: RefCell<Option<MetaGroup<Catalog>>>,
    /// Something happened that [`Member::look`] should see.
    poke: Rc<Notify>,
    stopping: Cell<bool>,
    published: RefCell<Arc<Metadata>>,
    /// Telling the cluster what this node is: not before then, and one at a time.
    tell_at: Cell<Instant>,
    telling: Cell<bool>,
    /// Whether it is short of space; from when the metadata know it.
    shortage: Cell<Option<Shortage>>,
    /// Which other member is asked next.
    turn: Cell<usize>,
    /// Why it can be no member any more.
    refused: RefCell<Option<ClusterError>>,
    /// Why other nodes do not let it in, as far as that was told.
    not_let_in: RefCell<BTreeMap<NodeId, Refusal>>,
    /// A change of the group's members is under way, or was tried a moment ago.
    changing: Cell<bool>,
    /// An operator's order is being carried out.
    pub(super) operating: Cell<bool>,
    /// The cluster removed this node.
    left: Cell<bool>,
}

impl<R: Runtime> Member<R> {
    /// A member that does nothing before [`Member::live`].
    #[must_use]
    pub fn new(
        runtime: Rc<R>,
        calls: Rc<RaftCalls<R>>,
        place: Place,
        shards: Box<dyn Shards>,
    ) -> Rc<Member<R>> {
        let Settings { session_timeout, rebalance_grace, .. } = place.controller;
        place.board.set_given_up_after(session_timeout + rebalance_grace);
        let seed = place.identity.storage.0 as u64 ^ place.facts.incarnation.0;
        Rc::new(Member {
            host: Rc::new(OnDriver::new(Rc::clone(&runtime), seed)),
            runtime,
            calls,
            saver: Saver::new(
                &place.data_dir,
                Note { identity: place.identity.clone(), settled: None },
            ),
            place,
            shards,
            control: Control::default(),
            succession: RefCell::default(),
            group: RefCell::default(),
            poke: Rc::default(),
            stopping: Cell::new(false),
            published: RefCell::default(),
            tell_at: Cell::new(Instant(0)),
            telling: Cell::new(false),
            shortage: Cell::new(None),
            turn: Cell::new(0),
            refused: RefCell::default(),
            not_let_in: RefCell::default(),
            changing: Cell::new(false),
            operating: Cell::new(false),
            left: Cell::new(false),
        })
    }

    /// Ends [`Member::live`].
    pub fn stop(&self) {
        self.stopping.set(true);
        self.poke.notify_one();
    }

    /// Something may be on the board's desk.
    pub fn poke(&self) {
        self.poke.notify_one();
    }

    /// Whether the cluster removed this node, which is then to end.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.left.get()
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
        *self.group.borrow_mut() = Some(group.clone());
        let lived = self.lead_life(&group).await;
        if lived.is_ok() {
            self.hand_over(&group).await;
        }
        *self.group.borrow_mut() = None;
        let ended = group.shutdown().await;
        let saved = loop {
            match self.save() {
                Ok(false) => self.runtime.sleep(NAP_MIN).await,
                Ok(true) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if let Err(
            ClusterError::NotLetIn { refusal: Refusal::OldRun, .. }
            | ClusterError::Rejected(Rejected::OldRun { .. } | Rejected::OtherCopy { .. }),
        ) = &lived
        {
            let (dir, facts) = (&self.place.data_dir, &self.place.facts);
            let taken = data_dir::take_back_run(dir, facts.incarnation, facts.lineage);
            taken.map_err(IdentityError::from)?;
        }
        lived?;
        saved?;
        Ok(ended?)
    }

    async fn start(&self) -> Result<MetaGroup<Catalog>, ClusterError> {
        let identity = &self.place.identity;
        let log = log_identity(identity.storage, META_SHARD);
        let store = StoreConfig::new(log, identity.stage != Stage::Member);
        let around = Surroundings {
            host: Rc::clone(&self.host) as Rc<dyn Host>,
            disk: Rc::new(DriverDisk::new(Rc::clone(&self.runtime), &self.place.meta_dir)?),
            link: Rc::new(GroupLink(Rc::clone(&self.calls))),
        };
        let catalog = Catalog::new(Rc::clone(&self.poke));
        let id = identity.node.0;
        Ok(MetaGroup::start(id, &self.place.raft, store, around, catalog).await?)
    }

    async fn lead_life(self: &Rc<Self>, group: &MetaGroup<Catalog>) -> Result<(), ClusterError> {
        if self.place.identity.stage == Stage::Founding {
            self.found(group).await?;
        }
        while !self.stopping.get() && !self.left.get() {
            self.look(group)?;
            let now = clock::now().mono;
            let due = [self.control.next_deadline(now), self.succession.borrow().next_deadline()];
            let due = due.into_iter().flatten().min().map(|at| at.since(now).max(NAP_MIN));
            let nap = self.runtime.sleep(due.unwrap_or(LOOK_EVERY).min(LOOK_EVERY));
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
        Ok(())
    }

    /// A leader that stops lets another lead, so that nobody has to notice that it is gone.
    async fn hand_over(&self, group: &MetaGroup<Catalog>) {
        let status = group.status();
        if status.role != Role::Leader {
            return;
        }
        // Whoever has the most entries has the least to wait for.
        let others = status.voters.iter().filter(|id| **id != status.id);
        let Some(to) = others.max_by_key(|id| status.matched.get(id).copied().flatten()) else {
            return;
        };
        let hand_over = async {
            if let Err(error) = group.transfer_leadership(*to).await {
                tracing::info!("the metadata group is left without another leader: {error}");
            }
        };
        future::or(hand_over, self.runtime.sleep(HAND_OVER_MAX)).await;
    }

    /// Looks at everything there is, and does what is due.
    fn look(self: &Rc<Self>, group: &MetaGroup<Catalog>) -> Result<(), ClusterError> {
        let status = group.status();
        if let (Role::Stopped, Some(failure)) = (status.role, &status.failure) {
            return Err(GroupError::Stopped(failure.clone()).into());
        }
        let newest = group.read(|catalog| Arc::clone(catalog.newest()));
        if !Arc::ptr_eq(&newest, &self.published.borrow()) {
            self.remember(&newest)?;
            self.place.board.set_metadata(&newest);
            self.shards.publish(&newest);
            *self.published.borrow_mut() = Arc::clone(&newest);
        }
        if newest.was_removed(self.place.identity.storage) {
            self.leave();
        }
        self.save()?;
        self.tell_facts(&newest);
        if status.role == Role::Leader {
            self.change_members(group, &status, &newest);
        }
        self.succeed(group, &status);
        self.run_controller(group, &status, &newest);
        self.place.board.set_group(status);
        for order in self.place.board.orders() {
            let me = Rc::clone(self);
            self.spawn(async move {
                let answer = me.ask(Letter { ask: order.ask, forwarded: false }).await;
                // Who asked may have given up.
                let _ = order.answer.send(answer);
            });
        }
        self.refused.borrow_mut().take().map_or(Ok(()), Err)
    }

    /// Keeps what the directory has to say in step with the metadata.
    fn remember(&self, metadata: &Metadata) -> Result<(), ClusterError> {
        let mut note = self.saver.newest();
        let Some(me) = metadata.member(note.identity.node) else { return Ok(()) };
        let before = std::mem::replace(&mut note.identity.stage, Stage::Member);
        note.identity.known = roster::known(metadata, note.identity.node);
        let (mine, mark) = (&self.place.facts, self.place.facts.lineage.mark);
        let same = Facts { condition: mine.condition, ..me.facts.clone() } == *mine;
        if mark != 0 && same {
            note.settled = Some((mine.incarnation, mark));
        }
        if before != Stage::Member {
            // Once in the life of a directory, before anybody is told of metadata: from here on a
            // directory of the metadata group that is gone is a loss. Nothing was written before.
            return self.saver.write_now(note);
        }
        self.saver.want(note);
        Ok(())
    }

    /// The cluster removed this node: its directory says so from here on.
    fn leave(&self) {
        if self.left.replace(true) {
            return;
        }
        let mut note = self.saver.newest();
        note.identity.stage = Stage::Left;
        self.saver.want(note);
        self.poke.notify_one();
    }

    /// Lets writes go on; whether there is nothing to write.
    fn save(&self) -> Result<bool, ClusterError> {
        let board = Arc::clone(&self.place.board);
        self.saver.step(move || board.call())
    }

    /// Takes the next step that makes the members of the group those of the cluster.
    fn change_members(
        self: &Rc<Self>,
        group: &MetaGroup<Catalog>,
        status: &GroupStatus,
        metadata: &Metadata,
    ) {
        let step = steward::next_step(status, metadata)
            .or_else(|| steward::replace_dead(status, metadata, clock::now().wall));
        let Some(step) = step else { return };
        if self.changing.replace(true) {
            return;
        }
        let (me, group) = (Rc::clone(self), group.clone());
        self.spawn(async move {
            let done = match step.clone() {
                Step::Finish => group.finish_change().await,
                Step::Add(id, address) => group.add_learner(id, address, false).await,
                Step::Promote(ids) => group.promote(ids).await,
                Step::Voters(ids) => group.change_voters(ids, true).await,
                Step::HandOver(to) => group.transfer_leadership(to).await,
                Step::Remove(id) => group.remove([id].into()).await,
                Step::Replace { voters, .. } => group.change_voters(voters, true).await,
            };
            match done {
                Ok(()) => tracing::info!("metadata group: {step}"),
                Err(error) => {
                    tracing::debug!("metadata group, {step}: {error}");
                    me.runtime.sleep(AGAIN_AFTER).await;
                }
            }
            me.changing.set(false);
            me.poke.notify_one();
        });
    }

    /// Does what a voter does when the group's leader is gone.
    fn succeed(&self, group: &MetaGroup<Catalog>, status: &GroupStatus) {
        let gone = self.control.known_gone();
        let turn = self.succession.borrow_mut().step(clock::now().mono, status, &gone);
        let Some(Turn { gone, heir }) = turn else { return };
        tracing::info!("metadata group: its leader, node {gone}, is gone: node {heir} is to lead");
        let group = group.clone();
        self.spawn(async move {
            // A group that has stopped says so in its status.
            let _ = group.succeed(gone, heir).await;
        });
    }

    /// A node has said something.
    pub fn heard(&self, remote: &Remote) {
        if remote.side == Side::Dialled {
            self.not_let_in.borrow_mut().remove(&remote.peer.node);
        }
        self.control.heard(remote.peer.node, remote.incarnation);
    }

    /// Shards of this node or of another say something to the controller.
    pub fn told(&self, said: Vec<ToController>) {
        self.control.told(&self.published.borrow(), said);
        self.poke.notify_one();
    }

    /// A connection of this shard is no more, or an attempt at one failed.
    pub fn down(&self, link: LinkId, peer: PeerShard, side: Side, reason: &Down) {
        if side != Side::Dialled {
            return;
        }
        self.calls.down(link, reason);
        if let Down::NotLetIn { refusal, message, by_us } = reason {
            self.not_let_in(peer.node, (*refusal, message), *by_us);
        }
        // Whoever stops says so; whoever has ended, its kernel does.
        if reason.gone() || *reason == Down::Goodbye(GoodbyeReason::Stopping) {
            self.control.gone(peer.node);
            self.poke.notify_one();
        }
    }

    /// Another node does not let this one in, or this one not the other.
    fn not_let_in(&self, node: NodeId, (refusal, message): (Refusal, &str), by_us: bool) {
        // It is dialled again and again: what is known is not told again.
        let known = self.not_let_in.borrow_mut().insert(node, refusal) == Some(refusal);
        let (why, hint) = (refusal.name(), refused::hint(refusal));
        // Where waiting is all, nobody has to be told.
        if !known && !hint.is_empty() {
            match by_us {
                true => tracing::warn!("node {node} is not let in: {message} ({why}); {hint}"),
                false => {
                    tracing::warn!(
                        "node {node} does not let this node in: {message} ({why}); {hint}"
                    );
                }
            }
        }
        match refused::fate(refusal) {
            _ if by_us => {}
            // Whoever was removed while it was away is told at every door, and may hear of it nowhere
            // else.
            Fate::Left => self.leave(),
            Fate::Over => {
                let message = message.to_owned();
                *self.refused.borrow_mut() = Some(ClusterError::NotLetIn { refusal, message });
                self.poke.notify_one();
            }
            Fate::Again => {}
        }
    }

    /// This node, and which run of it.
    pub(super) fn me(&self) -> (NodeId, Incarnation) {
        (self.place.identity.node, self.place.facts.incarnation)
    }
}

/// The way of the metadata group to its other members.
struct GroupLink<R: Runtime>(Rc<RaftCalls<R>>);

impl<R: Runtime> RaftLink for GroupLink<R> {
    fn call(
        &self,
        to: &Peer,
        request: Vec<u8>,
        timeout: Duration,
    ) -> Local<'static, Result<Vec<u8>, LinkError>> {
        self.0.call(to, plane::group(request), timeout)
    }
}
