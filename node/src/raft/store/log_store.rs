//! The store in openraft's words.

use std::cell::Cell;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::rc::Rc;

use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend};

use super::change::{Change, ChangeError, Payload, StoredEntry};
use super::writer::{Store, StoreError};
use crate::raft::message;
use crate::raft::types::{Command, Entry, LogId, LogPoint, Types, Vote};

/// What the snapshots say of how many entries may be forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    /// Up to which index they may: the older of two snapshots must be usable when the newest does not
    /// verify. `None`: nothing may.
    pub index: Option<u64>,
    /// The newest snapshot is not on disk: a log that ends before it is needed as well.
    pub newest_in_memory: bool,
}

/// See [`Floor`].
pub type PurgeFloor = Rc<Cell<Floor>>;

/// Entries and votes for openraft.
#[derive(Clone)]
pub struct LogStore {
    store: Store,
    floor: PurgeFloor,
    /// Entries forgotten in one step.
    batch: u64,
}

impl LogStore {
    /// The store behind openraft's interface.
    #[must_use]
    pub fn new(store: Store, floor: PurgeFloor, batch: u64) -> LogStore {
        LogStore { store, floor, batch }
    }
}

fn stored(entry: Entry) -> StoredEntry {
    let payload = match entry.payload {
        EntryPayload::Blank => Payload::Blank,
        EntryPayload::Normal(command) => Payload::Command(Rc::from(command.0)),
        EntryPayload::Membership(membership) => {
            Payload::Membership(Rc::from(message::encode(&membership)))
        }
    };
    StoredEntry { at: entry.log_id.into(), payload }
}

fn loaded(entry: &StoredEntry) -> Result<Entry, StoreError> {
    let payload = match &entry.payload {
        Payload::Blank => EntryPayload::Blank,
        Payload::Command(bytes) => EntryPayload::Normal(Command(bytes.to_vec())),
        Payload::Membership(bytes) => {
            let membership = message::decode(bytes).map_err(|error| {
                StoreError::Damaged(ChangeError(format!("membership of {}: {error}", entry.at)))
            })?;
            EntryPayload::Membership(membership)
        }
    };
    Ok(Entry { log_id: entry.at.into(), payload })
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.usable()?;
        let entries: Result<Vec<Entry>, StoreError> =
            self.store.with(|state| state.range(range).map(loaded).collect());
        Ok(entries?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.usable()?;
        Ok(self.store.with(|state| state.vote().map(Vote::from)))
    }
}

impl LogStore {
    fn usable(&self) -> Result<(), StoreError> {
        self.store.failure().map_or(Ok(()), Err)
    }

    /// Up to where entries may go: as far as openraft and the snapshots agree. Entries that end
    /// before `upto` all go: what follows comes from a snapshot, if that is on disk.
    fn purge_target(&self, upto: LogPoint) -> Option<LogPoint> {
        let floor = self.floor.get();
        self.store.with(|state| {
            let all = state.last().is_none_or(|last| last.index <= upto.index);
            if all && !floor.newest_in_memory {
                return Some(upto);
            }
            let floor = floor.index?;
            if upto.index <= floor {
                return Some(upto);
            }
            state.get(floor).map(|entry| entry.at)
        })
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        self.usable()?;
        Ok(self.store.with(|state| LogState {
            last_purged_log_id: state.purged().map(LogId::from),
            last_log_id: state.last().map(LogId::from),
        }))
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        Ok(self.store.append_durable(vec![Change::Vote(vote.into())]).await?)
    }

    /// Not waited for: what a crash loses here, the leader tells again.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let changes = committed.map(|id| Change::Committed(id.into()));
        Ok(self.store.append_lazily(changes.into_iter().collect()).await?)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        self.usable()?;
        // The record may have become durable when an entry it names did not: it did not count.
        Ok(self.store.with(|state| state.committed().min(state.last()).map(LogId::from)))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let changes = entries.into_iter().map(|entry| Change::Entry(stored(entry))).collect();
        let then = move |result: Result<(), StoreError>| {
            callback.io_completed(result.map_err(io::Error::from));
        };
        Ok(self.store.append(changes, Box::new(then)).await?)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let since = last.map_or(0, |id| LogPoint::from(id).index + 1);
        // Durable before anything that follows: of the log all changes are, and a snapshot that is
        // installed next is in a file of its own.
        Ok(self.store.append_durable(vec![Change::Truncate(since)]).await?)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let Some(target) = self.purge_target(upto.into()) else { return Ok(()) };
        let first = self.store.with(|state| state.range(..).next().map(|entry| entry.at.index));
        let mut next = first.unwrap_or(target.index);
        while next < target.index {
            let step = next.saturating_add(self.batch - 1).min(target.index);
            let Some(at) = self.store.with(|state| state.get(step).map(|entry| entry.at)) else {
                break;
            };
            self.store.append_lazily(vec![Change::Purge(at)]).await?;
            next = step + 1;
            // Others have their turn between two steps.
            futures_lite::future::yield_now().await;
        }
        if self.store.with(|state| state.purged()) < Some(target) {
            self.store.append_lazily(vec![Change::Purge(target)]).await?;
        }
        Ok(())
    }
}
