//! Carries the group's log between memory and disk.
//!
//! - A change is in memory when [`Store::append`] returns, and durable when its `then` is called
//!   with `Ok`: the log's commit group it is part of was written.
//! - Changes become durable in the order they were made, so what survives a crash is a prefix.
//! - The first failure is the last thing that happens: every waiter hears it, every later call
//!   returns it, nothing is retried. Being asked to wait (the next segment is still being made
//!   ready) is no failure.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::time::Duration;

use futures_lite::future;
use ironring_core::io::{IoDone, IoQueue, IoRequest};
use ironring_core::{GroupSeq, Instant, Now, WallTime};
use ironring_log::{
    AppendError, Identity, Log, LogConfig, LogCounters, LogFailure, LogStatus, Priority,
};
use tokio::sync::{Notify, oneshot};

use super::change::{Change, ChangeError};
use super::state::RaftLogState;
use crate::raft::disk::RaftDisk;
use crate::raft::host::{Host, sleep_until};

/// A change nobody waits for is written this late at most.
const LAZY_MAX: Duration = Duration::from_millis(50);
/// How often to look whether the log takes a change it was too busy for.
const BUSY_NAP: Duration = Duration::from_millis(2);
/// A deadline that has passed already is looked at again this much later, never at once.
const NAP_MIN: Duration = Duration::from_micros(200);

/// Called when a change is durable, or never will be.
pub type Then = Box<dyn FnOnce(Result<(), StoreError>)>;

/// Settings of the group's log.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The log's own settings.
    pub log: LogConfig,
    /// Which data directory it belongs to.
    pub identity: Identity,
    /// An empty directory becomes a new log; otherwise it is an error.
    pub may_format: bool,
}

impl StoreConfig {
    /// Metadata is small: segments of 4 MiB, a checkpoint about every 8 MiB of log.
    #[must_use]
    pub fn new(identity: Identity, may_format: bool) -> StoreConfig {
        let log = LogConfig {
            segment_bytes: 4 << 20,
            checkpoint_interval_bytes: 8 << 20,
            ..LogConfig::default()
        };
        StoreConfig { log, identity, may_format }
    }
}

/// Why the store's life ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The log did not open, or a write failed.
    #[error("the metadata group's log: {0}")]
    Log(LogFailure),
    /// The disk is full. Metadata that cannot be written is a fault: a vote may not be refused.
    #[error("the metadata group's disk is full: make room and restart")]
    NoSpace,
    /// What was recovered is no log.
    #[error("{0}: re-initialise the node from its peers")]
    Damaged(#[from] ChangeError),
    /// The snapshots cannot be read or written.
    #[error("the metadata group's snapshots: {0}")]
    Snapshot(String),
    /// A committed command cannot be applied.
    #[error("entry {index} of the metadata group cannot be applied: {why}")]
    Command {
        /// The entry's index.
        index: u64,
        /// Why, and what to do.
        why: String,
    },
    /// The store was stopped.
    #[error("the metadata group's store has stopped")]
    Stopped,
}

impl From<StoreError> for std::io::Error {
    fn from(error: StoreError) -> std::io::Error {
        std::io::Error::other(error)
    }
}

struct Core {
    log: Log,
    state: RaftLogState,
    io: IoQueue,
    in_flight: usize,
    waiters: VecDeque<(GroupSeq, Then)>,
    /// Who waits for the log's status to change.
    watchers: Vec<oneshot::Sender<()>>,
    failure: Option<StoreError>,
    /// Changes nobody waits for are written by then.
    lazy_by: Option<Instant>,
}

struct Inner {
    core: RefCell<Core>,
    disk: Rc<dyn RaftDisk>,
    host: Rc<dyn Host>,
    poke: Rc<Notify>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.poke.notify_one();
    }
}

/// The group's log, open. A handle; clones are the same store.
#[derive(Clone)]
pub struct Store(Rc<Inner>);

impl Core {
    fn failure(&self) -> Option<StoreError> {
        self.failure.clone().or_else(|| match self.log.status() {
            LogStatus::Failed(failure) => Some(StoreError::Log(failure.clone())),
            LogStatus::Stopped => Some(StoreError::Stopped),
            _ => None,
        })
    }

    /// Waiters that have their answer.
    fn answered(&mut self) -> Vec<(Then, Result<(), StoreError>)> {
        let failure = self.failure();
        let durable = self.log.durable();
        let mut answered = Vec::new();
        while let Some((group, _)) = self.waiters.front() {
            let result = if *group <= durable && self.failure.is_none() {
                Ok(())
            } else if let Some(failure) = &failure {
                Err(failure.clone())
            } else {
                break;
            };
            let (_, then) = self.waiters.pop_front().expect("it was just looked at");
            answered.push((then, result));
        }
        answered
    }
}

impl Store {
    /// Opens the log in `disk`'s directory: makes it, or recovers it.
    ///
    /// # Errors
    /// What is wrong with the directory.
    pub async fn open(
        disk: Rc<dyn RaftDisk>,
        host: Rc<dyn Host>,
        config: StoreConfig,
    ) -> Result<Store, StoreError> {
        let log = Log::new(config.log, config.identity, disk.alloc());
        let core = Core {
            log,
            state: RaftLogState::default(),
            io: IoQueue::default(),
            in_flight: 0,
            waiters: VecDeque::new(),
            watchers: Vec::new(),
            failure: None,
            lazy_by: None,
        };
        let poke = Rc::new(Notify::new());
        let inner = Inner { core: RefCell::new(core), disk, host, poke: Rc::clone(&poke) };
        let store = Store(Rc::new(inner));
        store.0.turn(true, |core, _| core.log.start(config.may_format, &mut core.io));
        store.0.host.spawn(Box::pin(timer(Rc::downgrade(&store.0), poke)));
        store.until(|log| !matches!(log.status(), LogStatus::Opening(_))).await;
        let opened = {
            let core = store.0.core.borrow();
            match core.failure() {
                Some(failure) => Err(failure),
                None => core.state.check().map_err(StoreError::from),
            }
        };
        if let Err(error) = opened {
            store.0.core.borrow_mut().failure = Some(error.clone());
            store.0.poke.notify_one();
            return Err(error);
        }
        Ok(store)
    }

    /// Reads the state.
    pub fn with<T>(&self, read: impl FnOnce(&RaftLogState) -> T) -> T {
        read(&self.0.core.borrow().state)
    }

    /// What the log has counted.
    #[must_use]
    pub fn counters(&self) -> LogCounters {
        self.0.core.borrow().log.counters().clone()
    }

    /// Why nothing works any more, if that is so.
    #[must_use]
    pub fn failure(&self) -> Option<StoreError> {
        self.0.core.borrow().failure()
    }

    /// Ends the store's life with a failure found elsewhere.
    pub fn fail(&self, error: StoreError) {
        self.0.turn(false, |core, _| {
            core.failure.get_or_insert(error);
        });
    }

    /// Makes changes, in order, and has `then` called when all of them are durable.
    ///
    /// # Errors
    /// The failure that ended the store's life, now or before. `then` hears it as well.
    pub async fn append(&self, changes: Vec<Change>, then: Then) -> Result<(), StoreError> {
        let last = self.stage(changes, true).await;
        let result = last.as_ref().map(|_| ()).map_err(StoreError::clone);
        match last {
            Ok(group) => self.0.turn(true, |core, _| core.waiters.push_back((group, then))),
            Err(error) => then(Err(error)),
        }
        result
    }

    /// Makes changes and waits until they are durable.
    ///
    /// # Errors
    /// As [`Store::append`].
    pub async fn append_durable(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let (done, durable) = oneshot::channel();
        let then = move |result| {
            let _ = done.send(result);
        };
        self.append(changes, Box::new(then)).await?;
        durable.await.unwrap_or(Err(StoreError::Stopped))
    }

    /// Makes changes whose loss in a crash does no harm. They are written with the next that are
    /// waited for, or a little later.
    ///
    /// # Errors
    /// As [`Store::append`].
    pub async fn append_lazily(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.stage(changes, false).await.map(|_| ())
    }

    async fn stage(&self, changes: Vec<Change>, seal: bool) -> Result<GroupSeq, StoreError> {
        let mut last = self.0.core.borrow().log.durable();
        for change in changes {
            let (flags, body) = change.encode();
            let priority = match &change {
                Change::Entry(_) => Priority::User,
                _ => Priority::Reserve,
            };
            let record = change.record(flags, &body);
            loop {
                let appended = self.0.turn(false, |core, now| {
                    if let Some(failure) = core.failure() {
                        return Err(Some(failure));
                    }
                    match core.log.append(&record, priority) {
                        Ok(done) => {
                            core.state.apply(change.clone());
                            // The checkpoint holds what the state holds: no record is needed.
                            core.log.mark_dead(done.location);
                            core.lazy_by = core.lazy_by.or(Some(now.mono + LAZY_MAX));
                            Ok(done.group)
                        }
                        Err(AppendError::Overloaded) => Err(None),
                        Err(AppendError::NoSpace) => Err(Some(StoreError::NoSpace)),
                        Err(AppendError::Closed) => Err(Some(StoreError::Stopped)),
                        Err(AppendError::TooLarge) => {
                            unreachable!("the length of commands is checked when they come")
                        }
                    }
                });
                match appended {
                    Ok(group) => {
                        last = group;
                        break;
                    }
                    Err(Some(error)) => {
                        self.fail(error.clone());
                        return Err(error);
                    }
                    Err(None) => {
                        self.0.turn(true, |_, _| ());
                        self.0.host.sleep(BUSY_NAP).await;
                    }
                }
            }
        }
        if seal {
            self.0.turn(true, |_, _| ());
        }
        Ok(last)
    }

    /// Writes what is staged and a checkpoint, and closes the log.
    ///
    /// # Errors
    /// The failure that ended the store's life before.
    pub async fn stop(&self) -> Result<(), StoreError> {
        if let Some(failure) = self.failure() {
            // Nothing is to be written any more, but what is under way is waited for.
            self.until(|_| true).await;
            return if failure == StoreError::Stopped { Ok(()) } else { Err(failure) };
        }
        self.0.turn(true, |core, now| core.log.begin_stop(now, &mut core.io));
        self.until(|log| matches!(log.status(), LogStatus::Stopped | LogStatus::Failed(_))).await;
        match self.failure() {
            Some(StoreError::Stopped) | None => Ok(()),
            Some(error) => Err(error),
        }
    }

    /// Waits for something of the log, and that no operation is under way.
    async fn until(&self, is: impl Fn(&Log) -> bool) {
        loop {
            let changed = {
                let core = &mut *self.0.core.borrow_mut();
                // An open log may always be about to write: a floor, a segment to come.
                let ends = core.failure().is_some();
                if is(&core.log) && !(ends && core.in_flight > 0) {
                    return;
                }
                let (changed, change) = oneshot::channel();
                core.watchers.push(changed);
                change
            };
            let _ = changed.await;
        }
    }
}

impl Inner {
    fn now(&self) -> Now {
        // Records of the group carry no time: what the state machine needs is in its commands.
        Now { mono: self.host.now(), wall: WallTime(0) }
    }

    /// One turn of the log: `work`, then whatever it wants done.
    fn turn<T>(self: &Rc<Self>, seal: bool, work: impl FnOnce(&mut Core, Now) -> T) -> T {
        let (result, answered, requests) = {
            let core = &mut *self.core.borrow_mut();
            let now = self.now();
            let result = work(core, now);
            if seal {
                core.log.seal(now, &mut core.io);
                core.lazy_by = None;
            }
            let requests: Vec<IoRequest> = std::iter::from_fn(|| core.io.pop()).collect();
            core.in_flight += requests.len();
            (result, core.answered(), requests)
        };
        // Nothing is borrowed from here on: tasks may run, and waiters may append.
        requests.into_iter().for_each(|request| self.start(request));
        answered.into_iter().for_each(|(then, result)| then(result));
        self.poke.notify_one();
        result
    }

    fn start(self: &Rc<Self>, request: IoRequest) {
        let me = Rc::clone(self);
        self.host.spawn(Box::pin(async move {
            let result = me.disk.execute(request.op).await;
            let done = IoDone { id: request.id, result };
            let watchers = me.turn(true, |core, now| {
                core.in_flight -= 1;
                core.log.on_io(now, done, &mut core.io, &mut core.state);
                std::mem::take(&mut core.watchers)
            });
            tell(watchers);
        }));
    }

    fn deadline(&self) -> Option<Instant> {
        let core = self.core.borrow();
        [core.log.next_deadline(), core.lazy_by].into_iter().flatten().min()
    }
}

fn tell(watchers: Vec<oneshot::Sender<()>>) {
    for watcher in watchers {
        // Who does not hear it has gone.
        let _ = watcher.send(());
    }
}

/// Wakes the log at its deadlines, until it has ended or nobody has it any more.
async fn timer(inner: Weak<Inner>, poke: Rc<Notify>) {
    loop {
        let wait = {
            let Some(inner) = inner.upgrade() else { return };
            if inner.core.borrow().failure().is_some() {
                return;
            }
            let now = inner.host.now();
            let mut deadline = inner.deadline();
            if deadline.is_some_and(|at| at <= now) {
                let watchers = inner.turn(true, |core, now| {
                    core.log.on_timer(now, &mut core.io, &mut core.state);
                    std::mem::take(&mut core.watchers)
                });
                tell(watchers);
                deadline = inner.deadline().map(|at| at.max(now + NAP_MIN));
            }
            deadline
        };
        match wait {
            Some(at) => future::or(sleep_until(at), poke.notified()).await,
            None => poke.notified().await,
        }
    }
}
