//! The metadata group on one node: what the rest of the node calls.
//!
//! - A group lives on one thread, the one it was started on.
//! - A proposal that was answered is durable on a quorum and applied here.
//! - Time limits are the caller's: a proposal whose time is over may still be applied.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use std::time::Duration;

use ironring_core::Instant;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use openraft::raft::{AppendEntriesResponse, TransferLeaderRequest};
use openraft::{AsyncRuntime, BasicNode, ChangeMembers, Raft, ReadPolicy, Snapshot};

use super::config::{COMMAND_BYTES_MAX, RaftConfig, Timing};
use super::disk::RaftDisk;
use super::error::{GroupError, StartError};
use super::host::{self, Host};
use super::link::RaftLink;
use super::machine::{Machine, MetaMachine, Shared};
use super::message::{self, Answer, Request};
use super::network::{Factory, Limits};
use super::runtime::RaftRuntime;
use super::silence::SilenceWatch;
use super::snapshot::transfer::{Piece, Received, Receiver};
use super::snapshot::{SnapshotBytes, Snapshots};
use super::status::{GroupStatus, LeadershipWatch, Role, peer_of};
use super::store::{LogStore, Store, StoreConfig};
use super::types::{Command, LogPoint, Types};

/// How often to look whether a snapshot is due by time or size.
const SNAPSHOT_LOOK: Duration = Duration::from_secs(1);

/// What a group runs on.
pub struct Surroundings {
    /// The thread.
    pub host: Rc<dyn Host>,
    /// Its directory.
    pub disk: Rc<dyn RaftDisk>,
    /// The way to other members.
    pub link: Rc<dyn RaftLink>,
}

/// This node's part of the metadata group. A handle: clones are the same part.
pub struct MetaGroup<M: MetaMachine> {
    raft: Raft<Types, Machine<M>>,
    shared: Rc<Shared<M>>,
    store: Store,
    snapshots: Rc<Snapshots>,
    receiver: Rc<RefCell<Receiver>>,
    host: Rc<dyn Host>,
    id: u64,
    timing: Timing,
    /// When the leader was heard last; before that, when the group was started here.
    heard: Rc<Cell<Instant>>,
    /// A leader that was not heard for so long has been replaced, if that is possible.
    silence_max: Duration,
    snapshot_bytes_max: u64,
}

impl<M: MetaMachine> Clone for MetaGroup<M> {
    fn clone(&self) -> Self {
        MetaGroup {
            raft: self.raft.clone(),
            shared: Rc::clone(&self.shared),
            store: self.store.clone(),
            snapshots: Rc::clone(&self.snapshots),
            receiver: Rc::clone(&self.receiver),
            host: Rc::clone(&self.host),
            heard: Rc::clone(&self.heard),
            ..*self
        }
    }
}

impl<M: MetaMachine> MetaGroup<M> {
    /// Opens the directory, restores the state machine and takes part in the group. A node without
    /// members waits to be bootstrapped or added.
    ///
    /// # Errors
    /// What is wrong with settings or directory.
    pub async fn start(
        id: u64,
        config: &RaftConfig,
        store: StoreConfig,
        around: Surroundings,
        machine: M,
    ) -> Result<MetaGroup<M>, StartError> {
        let openraft = config.openraft()?;
        host::install(Rc::clone(&around.host));
        let retain = config.snapshot_retain;
        let snapshots = Rc::new(Snapshots::open(Rc::clone(&around.disk), retain).await?);
        let store = Store::open(around.disk, Rc::clone(&around.host), store).await?;
        let log = LogStore::new(store.clone(), snapshots.floor(), config.purge_batch);
        let shared = Rc::new(Shared::new(machine, Rc::clone(&snapshots), store.clone()));
        let limits = Limits {
            payload_bytes: config.payload_bytes_max,
            chunk_bytes: config.snapshot_chunk_bytes,
            chunk_timeout: config.snapshot_chunk_timeout,
        };
        let network = Factory { id, link: around.link, limits };
        let machine = Machine(Rc::clone(&shared));
        let raft = Raft::new(id, openraft.into(), network, log, machine).await;
        let raft = match raft {
            Ok(raft) => raft,
            Err(fatal) => {
                let error = store.failure().map(StartError::Store);
                // The directory is left as it is; what is staged is of no use.
                let _ = store.stop().await;
                return Err(error.unwrap_or_else(|| StartError::State(fatal.to_string())));
            }
        };
        let host_now = around.host.now();
        let group = MetaGroup {
            raft,
            shared,
            store,
            snapshots,
            receiver: Rc::default(),
            host: around.host,
            id,
            heard: Rc::new(Cell::new(host_now)),
            timing: config.timing(),
            silence_max: config.election_timeout_max,
            snapshot_bytes_max: config.snapshot_bytes_max,
        };
        let watch = SnapshotWatch {
            raft: group.raft.clone(),
            shared: Rc::downgrade(&group.shared),
            host: Rc::clone(&group.host),
            interval: config.snapshot_interval,
            log_bytes: config.snapshot_log_bytes,
        };
        group.host.spawn(Box::pin(watch.run()));
        let silence = SilenceWatch {
            id,
            raft: group.raft.clone(),
            host: Rc::clone(&group.host),
            timing: group.timing,
            heard: Rc::downgrade(&group.heard),
        };
        group.host.spawn(Box::pin(silence.run()));
        Ok(group)
    }

    /// Forms the group, with these members and their addresses; this node is one of them. Every
    /// member may be told the same; a node alone leads at once.
    ///
    /// # Errors
    /// [`GroupError::Bootstrapped`] when the group has members.
    pub async fn bootstrap(&self, members: BTreeMap<u64, String>) -> Result<(), GroupError> {
        let nodes: BTreeMap<u64, BasicNode> =
            members.into_iter().map(|(id, address)| (id, BasicNode::new(address))).collect();
        // It asks for votes at once.
        match self.raft.initialize(nodes).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {
                Err(GroupError::Bootstrapped)
            }
            Err(RaftError::APIError(error)) => Err(GroupError::Membership(error.to_string())),
            Err(RaftError::Fatal(fatal)) => Err(fatal.into()),
        }
    }

    /// Proposes a command, waits until it is committed and applied here, and returns what the state
    /// machine made of it.
    ///
    /// # Errors
    /// See [`GroupError`]; only after [`GroupError::Unknown`] may it have been applied.
    pub async fn propose(&self, command: Vec<u8>, within: Duration) -> Result<Vec<u8>, GroupError> {
        if command.len() > COMMAND_BYTES_MAX {
            return Err(GroupError::TooLarge { got: command.len(), max: COMMAND_BYTES_MAX });
        }
        let status = self.status();
        if status.role == Role::Stopped {
            let why = status.failure.unwrap_or_else(|| "it was shut down".to_owned());
            return Err(GroupError::Stopped(why));
        }
        let write = self.raft.client_write(Command(command));
        match RaftRuntime::timeout(within, write).await {
            Ok(Ok(written)) => Ok(written.data.0),
            // It ran a moment ago: others may have taken the command before it ended.
            Ok(Err(RaftError::Fatal(_))) | Err(_) => Err(GroupError::Unknown),
            Ok(Err(error)) => Err(error.into()),
        }
    }

    /// Waits until the state machine here reflects everything that was answered anywhere before
    /// this call; returns the index it reflects.
    ///
    /// # Errors
    /// When this node does not lead, or no quorum says so in time.
    pub async fn read_barrier(&self, within: Duration) -> Result<u64, GroupError> {
        let read = self.raft.ensure_linearizable(ReadPolicy::ReadIndex);
        match RaftRuntime::timeout(within, read).await {
            Ok(at) => Ok(at?.index()),
            Err(_) => Err(GroupError::NoQuorum),
        }
    }

    /// Reads the state machine as it is here, which may be behind.
    pub fn read<T>(&self, read: impl FnOnce(&M) -> T) -> T {
        read(&self.shared.machine.borrow())
    }

    /// Adds a member without a vote, and waits until it has nearly all entries when `caught_up`.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub async fn add_learner(
        &self,
        id: u64,
        address: String,
        caught_up: bool,
    ) -> Result<(), GroupError> {
        self.raft.add_learner(id, BasicNode::new(address), caught_up).await?;
        Ok(())
    }

    /// Gives members without a vote one. Two configurations are in force meanwhile, and both must
    /// agree to every entry.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub async fn promote(&self, ids: BTreeSet<u64>) -> Result<(), GroupError> {
        self.change(ChangeMembers::AddVoterIds(ids), true).await
    }

    /// Takes members' votes; they stay without one.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub async fn demote(&self, ids: BTreeSet<u64>) -> Result<(), GroupError> {
        self.change(ChangeMembers::RemoveVoters(ids), true).await
    }

    /// Removes members, with or without a vote.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub async fn remove(&self, ids: BTreeSet<u64>) -> Result<(), GroupError> {
        let status = self.status();
        let voters: BTreeSet<u64> = ids.intersection(&status.voters).copied().collect();
        if !voters.is_empty() {
            self.change(ChangeMembers::RemoveVoters(voters), false).await?;
        }
        let learners: BTreeSet<u64> = ids.intersection(&status.learners).copied().collect();
        if !learners.is_empty() {
            self.change(ChangeMembers::RemoveNodes(learners), false).await?;
        }
        Ok(())
    }

    /// Makes these members the voters. Those who were and are no more stay without a vote when
    /// `retain`, and are removed otherwise.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub async fn change_voters(
        &self,
        voters: BTreeSet<u64>,
        retain: bool,
    ) -> Result<(), GroupError> {
        self.change(ChangeMembers::ReplaceAllVoters(voters), retain).await
    }

    /// Finishes the change of voters whose first half is committed: a leader that is lost between the
    /// halves leaves it so. Who has a vote only before the change stays without one.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub async fn finish_change(&self) -> Result<(), GroupError> {
        // Nobody is added to the newer of the two configurations, which becomes the only one.
        self.change(ChangeMembers::AddVoterIds(BTreeSet::new()), true).await
    }

    async fn change(
        &self,
        change: ChangeMembers<u64, BasicNode>,
        retain: bool,
    ) -> Result<(), GroupError> {
        self.raft.change_membership(change, retain).await?;
        Ok(())
    }

    /// Hands the leadership to a voter, and waits until it leads.
    ///
    /// # Errors
    /// [`GroupError::NotLeader`] when this node does not lead, and [`GroupError::Unknown`] when the
    /// other was asked to and did not come to lead in time: this node may lead still, or a third.
    pub async fn transfer_leadership(&self, to: u64) -> Result<(), GroupError> {
        let status = self.status();
        if status.leader != Some(self.id) {
            return Err(self.not_leader());
        }
        if !status.voters.contains(&to) {
            return Err(GroupError::Membership(format!("node {to} has no vote")));
        }
        if to == self.id {
            return Ok(());
        }
        self.raft.trigger().transfer_leader(to).await?;
        let mut watch = self.watch();
        let led = async {
            while watch.last().leader != Some(to) {
                watch.changed().await.ok_or(())?;
            }
            Ok::<(), ()>(())
        };
        match RaftRuntime::timeout(self.timing.lease * 4, led).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(GroupError::Unknown),
        }
    }

    fn not_leader(&self) -> GroupError {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader.and_then(|id| peer_of(&metrics.membership_config, id));
        GroupError::NotLeader { leader }
    }

    /// Has a snapshot taken; it is there a little later.
    ///
    /// # Errors
    /// When the group has stopped.
    pub async fn take_snapshot(&self) -> Result<(), GroupError> {
        Ok(self.raft.trigger().snapshot().await?)
    }

    /// The leader is known to be gone: this voter waits for it no longer, and when it is the heir
    /// itself, it asks for votes at once, which others grant although they heard of that leader a
    /// moment ago. Does nothing when this node has heard of a newer term by now.
    ///
    /// It is what the leader would have ordered if it had handed over. Nothing committed is at stake
    /// when it was not gone: votes are given by the usual rules, and nobody reads by a leader's lease.
    ///
    /// # Errors
    /// When the group has stopped.
    pub async fn succeed(&self, gone: u64, heir: u64) -> Result<(), GroupError> {
        let vote = self.raft.metrics().borrow_watched().vote;
        if vote.leader_id.voted_for != gone || !vote.committed {
            return Ok(());
        }
        let order = TransferLeaderRequest::new(vote, heir, None);
        // An entry that is being written is no reason to give up: another has its turn next.
        let _refused = self.raft.handle_transfer_leader(order).await?;
        Ok(())
    }

    /// How the group is, as this node knows it.
    #[must_use]
    pub fn status(&self) -> GroupStatus {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let mut status = GroupStatus::new(&metrics, self.timing, self.snapshots.damaged());
        if let Some(failure) = self.store.failure() {
            status.role = Role::Stopped;
            status.failure = Some(failure.to_string());
        }
        // openraft keeps the last leader until another is elected, which without a quorum is never.
        let hears = matches!(status.role, Role::Learner | Role::Follower | Role::Candidate);
        if hears && self.host.now().since(self.heard.get()) > self.silence_max {
            status.silent_leader = status.leader.take();
        }
        status
    }

    /// Tells of changes of the leader.
    #[must_use]
    pub fn watch(&self) -> LeadershipWatch {
        LeadershipWatch::new(self.raft.server_metrics())
    }

    /// What this node's snapshots reflect, the newest last.
    #[must_use]
    pub fn snapshots(&self) -> Vec<LogPoint> {
        self.snapshots.kept()
    }

    /// The group's log.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Answers a request of another member's [`RaftLink`].
    pub async fn handle(&self, request: &[u8]) -> Vec<u8> {
        let answer = match message::unpack(request) {
            Ok(request) => self.answer(request).await,
            Err(error) => Err(error.to_string()),
        };
        message::pack(&answer.unwrap_or_else(Answer::Refused))
    }

    async fn answer(&self, request: Request) -> Result<Answer, String> {
        Ok(match request {
            Request::Append(request) => {
                let answer: AppendEntriesResponse<Types> =
                    self.raft.append_entries(request).await.map_err(|e| e.to_string())?;
                // Who has an older vote leads no more.
                if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                    self.heard.set(self.host.now());
                }
                Answer::Append(answer)
            }
            Request::Vote(request) => {
                Answer::Vote(self.raft.vote(request).await.map_err(|e| e.to_string())?)
            }
            Request::PreVote(request) => {
                Answer::Vote(self.raft.pre_vote(request).await.map_err(|e| e.to_string())?)
            }
            Request::Transfer(request) => {
                let answer = self.raft.handle_transfer_leader(request).await;
                Answer::Transfer(answer.map_err(|e| e.to_string())?)
            }
            Request::Snapshot(piece) => self.receive(piece).await?,
        })
    }

    async fn receive(&self, piece: Piece) -> Result<Answer, String> {
        let mine = self.raft.metrics().borrow_watched().vote;
        if mine > piece.vote {
            return Ok(Answer::Snapshot { vote: mine, have: Some(0) });
        }
        self.heard.set(self.host.now());
        let (vote, meta) = (piece.vote, piece.meta.clone());
        let received = self.receiver.borrow_mut().receive(piece, self.snapshot_bytes_max);
        match received {
            Received::Have(have) => Ok(Answer::Snapshot { vote, have: Some(have) }),
            Received::TooLarge => {
                Err(format!("snapshots of at most {} bytes are taken", self.snapshot_bytes_max))
            }
            Received::Whole(body) => {
                let body: SnapshotBytes = Rc::from(body);
                let snapshot = Snapshot { meta, snapshot: body };
                let installed = self.raft.install_full_snapshot(vote, snapshot).await;
                let vote = installed.map_err(|e| e.to_string())?.vote;
                Ok(Answer::Snapshot { vote, have: None })
            }
        }
    }

    /// Takes no more part: writes what is staged, and closes the directory.
    ///
    /// # Errors
    /// The failure that had ended the group before.
    pub async fn shutdown(&self) -> Result<(), GroupError> {
        let joined = self.raft.shutdown().await;
        self.store.stop().await.map_err(|error| GroupError::Stopped(error.to_string()))?;
        joined.map_err(|error| GroupError::Stopped(error.to_string()))
    }
}

/// Takes snapshots that are due by time or by size; those due by number openraft takes.
struct SnapshotWatch<M: MetaMachine> {
    raft: Raft<Types, Machine<M>>,
    shared: Weak<Shared<M>>,
    host: Rc<dyn Host>,
    interval: Duration,
    log_bytes: u64,
}

impl<M: MetaMachine> SnapshotWatch<M> {
    async fn run(self) {
        let mut last: Instant = self.host.now();
        loop {
            self.host.sleep(SNAPSHOT_LOOK).await;
            let Some(shared) = self.shared.upgrade() else { return };
            let (bytes, commands) = shared.since_snapshot();
            drop(shared);
            let now = self.host.now();
            if commands == 0 {
                // Whatever is to come, the last snapshot says all there is until then.
                last = now;
                continue;
            }
            if bytes < self.log_bytes && now.since(last) < self.interval {
                continue;
            }
            last = now;
            if self.raft.trigger().snapshot().await.is_err() {
                return;
            }
        }
    }
}
