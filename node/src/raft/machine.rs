//! The replicated state machine, between openraft and what it really is.
//!
//! Applied state lives in memory. After a restart it is the newest snapshot and the committed
//! entries behind it, applied again: so applying must depend on nothing but index and command.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use futures_lite::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend};

use super::snapshot::{SnapshotBytes, Snapshots};
use super::store::{Store, StoreError};
use super::types::{LogId, LogPoint, Outcome, SnapshotMeta, StoredMembership, Types};

/// What the group replicates. Deterministic: the same commands in the same order give the same
/// state, answers and snapshots on every node.
pub trait MetaMachine: 'static {
    /// Applies the command of the entry with this index, and says what came of it.
    ///
    /// # Errors
    /// When this code does not understand the command; the node then stops instead of guessing.
    fn apply(&mut self, index: u64, command: &[u8]) -> Result<Vec<u8>, String>;

    /// All of the state.
    fn snapshot(&self) -> Vec<u8>;

    /// Replaces the state.
    ///
    /// # Errors
    /// When these are not the bytes of a snapshot; the node then stops.
    fn restore(&mut self, bytes: &[u8]) -> Result<(), String>;
}

/// The machine with its place in the log.
pub(super) struct Shared<M> {
    pub machine: RefCell<M>,
    applied: Cell<Option<LogId>>,
    membership: RefCell<StoredMembership>,
    /// Bytes of commands applied since the last snapshot.
    bytes: Rc<Cell<u64>>,
    /// Entries with commands applied since the last snapshot.
    commands: Rc<Cell<u64>>,
    snapshots: Rc<Snapshots>,
    store: Store,
}

impl<M> Shared<M> {
    pub fn new(machine: M, snapshots: Rc<Snapshots>, store: Store) -> Shared<M> {
        Shared {
            machine: RefCell::new(machine),
            applied: Cell::new(None),
            membership: RefCell::default(),
            bytes: Rc::default(),
            commands: Rc::default(),
            snapshots,
            store,
        }
    }

    /// Bytes and number of commands applied since the last snapshot.
    pub fn since_snapshot(&self) -> (u64, u64) {
        (self.bytes.get(), self.commands.get())
    }

    fn fail(&self, why: String) -> io::Error {
        self.fail_with(StoreError::Snapshot(why))
    }

    fn fail_apply(&self, index: u64, why: String) -> io::Error {
        self.fail_with(StoreError::Command { index, why })
    }

    fn fail_with(&self, error: StoreError) -> io::Error {
        self.store.fail(error.clone());
        error.into()
    }
}

/// The machine for openraft.
pub struct Machine<M>(pub(super) Rc<Shared<M>>);

impl<M> Machine<M> {
    /// The machine with the node's snapshots; `store` hears of failures.
    #[must_use]
    pub fn new(machine: M, snapshots: Rc<Snapshots>, store: Store) -> Machine<M> {
        Machine(Rc::new(Shared::new(machine, snapshots, store)))
    }
}

/// A snapshot that was taken and is to be kept.
pub struct Builder {
    meta: SnapshotMeta,
    body: SnapshotBytes,
    snapshots: Rc<Snapshots>,
    store: Store,
    since: [Rc<Cell<u64>>; 2],
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotBytes;

    async fn build_snapshot(
        &mut self,
    ) -> Result<openraft::type_config::alias::SnapshotOf<Types, SnapshotBytes>, io::Error> {
        let before: Vec<u64> = self.since.iter().map(|n| n.get()).collect();
        let (meta, body) = (self.meta.clone(), Rc::clone(&self.body));
        match self.snapshots.save(meta.clone(), Rc::clone(&body)).await {
            Ok(()) => {}
            Err(StoreError::NoSpace) => {
                tracing::warn!("no space for a snapshot of the metadata: its log is kept instead");
                self.snapshots.hold(meta, body);
            }
            Err(error) => {
                self.store.fail(error.clone());
                return Err(error.into());
            }
        }
        // What was applied while the file was written is not in it.
        for (now, before) in self.since.iter().zip(before) {
            now.set(now.get().saturating_sub(before));
        }
        Ok(Snapshot { meta: self.meta.clone(), snapshot: Rc::clone(&self.body) })
    }
}

impl<M: MetaMachine> RaftStateMachine<Types> for Machine<M> {
    type SnapshotData = SnapshotBytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.0.applied.get(), self.0.membership.borrow().clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let shared = &self.0;
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let outcome = match entry.payload {
                EntryPayload::Blank => Vec::new(),
                EntryPayload::Normal(command) => {
                    shared.bytes.set(shared.bytes.get() + command.0.len() as u64);
                    shared.commands.set(shared.commands.get() + 1);
                    let index = LogPoint::from(entry.log_id).index;
                    let applied = shared.machine.borrow_mut().apply(index, &command.0);
                    applied.map_err(|why| shared.fail_apply(index, why))?
                }
                EntryPayload::Membership(membership) => {
                    let stored = StoredMembership::new(Some(entry.log_id), membership);
                    *shared.membership.borrow_mut() = stored;
                    Vec::new()
                }
            };
            shared.applied.set(Some(entry.log_id));
            if let Some(responder) = responder {
                responder.send(Outcome(outcome));
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let shared = &self.0;
        Builder {
            meta: SnapshotMeta {
                last_log_id: shared.applied.get(),
                last_membership: shared.membership.borrow().clone(),
            },
            body: Rc::from(shared.machine.borrow().snapshot()),
            snapshots: Rc::clone(&shared.snapshots),
            store: shared.store.clone(),
            since: [Rc::clone(&shared.bytes), Rc::clone(&shared.commands)],
        }
    }

    /// From a leader, or the newest of this node when it starts.
    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        body: SnapshotBytes,
    ) -> Result<(), io::Error> {
        let shared = &self.0;
        // The log has not what it reflects, so it must be on disk whatever room there is.
        if !shared.snapshots.is_kept(meta)
            && let Err(error) = shared.snapshots.save(meta.clone(), Rc::clone(&body)).await
        {
            return Err(shared.fail_with(error));
        }
        if let Err(why) = shared.machine.borrow_mut().restore(&body) {
            return Err(shared.fail(format!("the state machine refuses a snapshot: {why}")));
        }
        shared.applied.set(meta.last_log_id);
        *shared.membership.borrow_mut() = meta.last_membership.clone();
        shared.bytes.set(0);
        shared.commands.set(0);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<openraft::type_config::alias::SnapshotOf<Types, SnapshotBytes>>, io::Error>
    {
        let newest = self.0.snapshots.newest();
        Ok(newest.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}
