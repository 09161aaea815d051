//! Snapshots of the metadata in files of their own.
//!
//! - A file is written under a temporary name, synced, renamed, and the directory synced; only then
//!   it counts. Its name says what it reflects: `snapshot-<index>-<term>.snap`.
//! - The newest that verifies is used. One that does not verify is set aside under another name,
//!   and never again taken for a snapshot.
//! - As many as configured are kept. Entries of the log are kept back to the second newest
//!   ([`Snapshots::floor`]), so that it can stand in for the newest.
//! - One for which the disk has no room is only in memory: it can be sent to others, and the log keeps
//!   the entries it reflects.

pub mod format;
pub mod transfer;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use ironring_core::io::IoError;
use tokio::sync::Mutex;

use super::disk::RaftDisk;
use super::store::{Floor, PurgeFloor, StoreError};
use super::types::{LogPoint, SnapshotMeta};

const TEMPORARY: &str = "snapshot.tmp";
const SUFFIX: &str = ".snap";
const DAMAGED: &str = ".damaged";

/// The bytes of a snapshot's body, shared.
pub type SnapshotBytes = Rc<[u8]>;

/// The snapshots of one node.
pub struct Snapshots {
    disk: Rc<dyn RaftDisk>,
    retain: usize,
    /// Those on disk, the newest last.
    kept: RefCell<Vec<LogPoint>>,
    newest: RefCell<Option<(SnapshotMeta, SnapshotBytes)>>,
    floor: PurgeFloor,
    damaged: Cell<u64>,
    /// Held while one is saved: one may be built while another is installed, and both are written
    /// under the same temporary name.
    saving: Mutex<()>,
}

fn file_name(at: LogPoint) -> String {
    format!("snapshot-{:020}-{:020}{SUFFIX}", at.index, at.term)
}

fn parse(name: &str) -> Option<LogPoint> {
    let (index, term) = name.strip_prefix("snapshot-")?.strip_suffix(SUFFIX)?.split_once('-')?;
    let at = LogPoint { index: index.parse().ok()?, term: term.parse().ok()? };
    (file_name(at) == name).then_some(at)
}

fn failed(verb: &str, name: &str, error: IoError) -> StoreError {
    match error {
        IoError::NoSpace => StoreError::NoSpace,
        error => StoreError::Snapshot(format!("{verb} {name}: {error}")),
    }
}

/// Whether the group's snapshots, or what becomes of them, have such names.
#[must_use]
pub fn is_ours(name: &str) -> bool {
    let whole = name.strip_suffix(DAMAGED).unwrap_or(name);
    name == TEMPORARY || parse(whole).is_some()
}

impl Snapshots {
    /// Looks at what is there.
    ///
    /// # Errors
    /// When the directory or a file cannot be read. A file that can be read and does not verify is
    /// set aside.
    pub async fn open(disk: Rc<dyn RaftDisk>, retain: usize) -> Result<Snapshots, StoreError> {
        let names = disk.names().await.map_err(|e| failed("listing", "the directory", e))?;
        let mut kept: Vec<LogPoint> = names.iter().filter_map(|name| parse(name)).collect();
        kept.sort_by_key(|at| (at.index, at.term));
        let mut damaged = 0;
        let mut newest = None;
        let mut good = Vec::new();
        while let Some(at) = kept.pop() {
            let name = file_name(at);
            if newest.is_some() {
                good.push(at);
                continue;
            }
            let file = disk.read(name.clone()).await.map_err(|e| failed("reading", &name, e))?;
            match format::decode(&file) {
                Ok((meta, body)) => {
                    newest = Some((meta, Rc::from(body)));
                    good.push(at);
                }
                Err(error) => {
                    tracing::error!(%name, %error, "a snapshot of the metadata is damaged");
                    damaged += 1;
                    let aside = format!("{name}{DAMAGED}");
                    let moved = disk.rename(name.clone(), aside).await;
                    moved.map_err(|e| failed("setting aside", &name, e))?;
                }
            }
        }
        if damaged > 0 {
            let synced = disk.sync_dir().await;
            synced.map_err(|e| failed("making durable the names in", "the directory", e))?;
        }
        good.reverse();
        let snapshots = Snapshots {
            disk,
            retain,
            kept: RefCell::new(good),
            newest: RefCell::new(newest),
            floor: Rc::default(),
            damaged: Cell::new(damaged),
            saving: Mutex::default(),
        };
        snapshots.set_floor();
        Ok(snapshots)
    }

    /// The newest snapshot.
    pub(super) fn newest(&self) -> Option<(SnapshotMeta, SnapshotBytes)> {
        self.newest.borrow().clone()
    }

    /// What the log may forget.
    #[must_use]
    pub fn floor(&self) -> PurgeFloor {
        Rc::clone(&self.floor)
    }

    /// What the snapshots on disk reflect, the newest last.
    #[must_use]
    pub fn kept(&self) -> Vec<LogPoint> {
        self.kept.borrow().clone()
    }

    /// How many did not verify when they were opened.
    #[must_use]
    pub fn damaged(&self) -> u64 {
        self.damaged.get()
    }

    fn set_floor(&self) {
        let kept = self.kept.borrow();
        let index = kept.len().checked_sub(2).map(|second| kept[second].index);
        self.floor.set(Floor { index, newest_in_memory: false });
    }

    /// Whether the newest snapshot is this one, and on disk.
    pub(super) fn is_kept(&self, meta: &SnapshotMeta) -> bool {
        let newest = self.newest.borrow();
        !self.floor.get().newest_in_memory
            && newest.as_ref().is_some_and(|(newest, _)| newest == meta)
    }

    /// Has a snapshot in memory that could not be saved: the log must keep what it reflects.
    pub(super) fn hold(&self, meta: SnapshotMeta, body: SnapshotBytes) {
        if self.has_newer(&meta) {
            return;
        }
        self.floor.set(Floor { newest_in_memory: true, ..self.floor.get() });
        *self.newest.borrow_mut() = Some((meta, body));
    }

    /// Whether one that reflects more has come while this one was made.
    fn has_newer(&self, meta: &SnapshotMeta) -> bool {
        let newest = self.newest.borrow();
        newest.as_ref().is_some_and(|(newest, _)| newest.last_log_id > meta.last_log_id)
    }

    /// Keeps a snapshot, durably, and removes what is too many. One that has been overtaken is let go.
    ///
    /// # Errors
    /// After [`StoreError::NoSpace`] everything is as before, and it may be tried again.
    pub(super) async fn save(
        &self,
        meta: SnapshotMeta,
        body: SnapshotBytes,
    ) -> Result<(), StoreError> {
        // Before the first entry there is nothing to keep.
        let Some(at) = meta.last_log_id.map(LogPoint::from) else { return Ok(()) };
        let name = file_name(at);
        let failed = |verb| move |error| failed(verb, TEMPORARY, error);
        let _saving = self.saving.lock().await;
        if self.has_newer(&meta) {
            return Ok(());
        }
        let file = format::encode(&meta, &body);
        if let Err(error) = self.disk.write(TEMPORARY.to_owned(), file).await {
            let full = error == IoError::NoSpace;
            // What there is of it takes room that others lack; the next overwrites it in any case.
            if full && let Err(error) = self.disk.remove(TEMPORARY.to_owned()).await {
                tracing::warn!(%error, "what there is of a snapshot cannot be removed");
            }
            return Err(failed("writing")(error));
        }
        self.disk.rename(TEMPORARY.to_owned(), name).await.map_err(failed("renaming"))?;
        self.disk.sync_dir().await.map_err(failed("making durable the name of"))?;
        {
            let mut kept = self.kept.borrow_mut();
            kept.retain(|other| *other != at);
            kept.push(at);
            kept.sort_by_key(|at| (at.index, at.term));
        }
        *self.newest.borrow_mut() = Some((meta, body));
        self.set_floor();
        self.prune().await
    }

    async fn prune(&self) -> Result<(), StoreError> {
        loop {
            let oldest = {
                let mut kept = self.kept.borrow_mut();
                if kept.len() <= self.retain {
                    return Ok(());
                }
                file_name(kept.remove(0))
            };
            self.disk.remove(oldest.clone()).await.map_err(|e| failed("removing", &oldest, e))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures_lite::future::{block_on, yield_now, zip};
    use ironring_core::io::{BufAlloc, HeapAlloc, IoOk, IoOp};

    use super::super::disk::Done;
    use super::super::types::LogId;
    use super::*;

    type Inode = Rc<RefCell<Vec<u8>>>;

    /// Files as a kernel has them: whoever has one open writes on into it whatever it is called by then.
    #[derive(Default)]
    struct Inodes(RefCell<BTreeMap<String, Inode>>);

    impl RaftDisk for Inodes {
        fn execute(&self, _: IoOp) -> Done<'_, IoOk> {
            unreachable!("there is no log")
        }

        fn names(&self) -> Done<'_, Vec<String>> {
            Box::pin(async { Ok(self.0.borrow().keys().cloned().collect()) })
        }

        fn write(&self, name: String, bytes: Vec<u8>) -> Done<'_, ()> {
            Box::pin(async move {
                let inode = Rc::clone(self.0.borrow_mut().entry(name).or_default());
                inode.borrow_mut().clear();
                for (i, part) in bytes.chunks(bytes.len() / 2).enumerate() {
                    yield_now().await;
                    let at = i * bytes.len() / 2;
                    let mut file = inode.borrow_mut();
                    let len = file.len().max(at + part.len());
                    file.resize(len, 0);
                    file[at..at + part.len()].copy_from_slice(part);
                }
                Ok(())
            })
        }

        fn read(&self, name: String) -> Done<'_, Vec<u8>> {
            Box::pin(async move {
                let file = self.0.borrow().get(&name).map(|inode| inode.borrow().clone());
                file.ok_or_else(|| gone(&name))
            })
        }

        fn rename(&self, from: String, to: String) -> Done<'_, ()> {
            Box::pin(async move {
                let inode = self.0.borrow_mut().remove(&from).ok_or_else(|| gone(&from))?;
                self.0.borrow_mut().insert(to, inode);
                Ok(())
            })
        }

        fn remove(&self, name: String) -> Done<'_, ()> {
            Box::pin(async move {
                self.0.borrow_mut().remove(&name).map(drop).ok_or_else(|| gone(&name))
            })
        }

        fn sync_dir(&self) -> Done<'_, ()> {
            Box::pin(async {
                yield_now().await;
                Ok(())
            })
        }

        fn alloc(&self) -> Box<dyn BufAlloc> {
            Box::new(HeapAlloc)
        }
    }

    fn gone(name: &str) -> IoError {
        IoError::Os { errno: 2, message: format!("{name} is not there") }
    }

    fn meta(index: u64) -> SnapshotMeta {
        let at = LogId::from(LogPoint { term: 1, index });
        SnapshotMeta { last_log_id: Some(at), ..SnapshotMeta::default() }
    }

    #[test]
    fn one_that_is_built_and_one_that_is_installed_meanwhile_do_not_mix() {
        // Each is longer than the other once: what is written last is whole.
        for (older_bytes, newer_bytes) in [(50_000, 20_000), (20_000, 50_000)] {
            let disk: Rc<Inodes> = Rc::default();
            let open = || block_on(Snapshots::open(Rc::clone(&disk) as Rc<dyn RaftDisk>, 3));
            let snapshots = open().unwrap();
            let older = snapshots.save(meta(5), Rc::from(vec![5; older_bytes]));
            let newer = snapshots.save(meta(9), Rc::from(vec![9; newer_bytes]));
            assert_eq!(block_on(zip(older, newer)), (Ok(()), Ok(())));
            assert_eq!(snapshots.newest().map(|(meta, _)| meta), Some(meta(9)));
            let again = open().unwrap();
            assert_eq!((again.damaged(), again.kept()), (0, snapshots.kept()));
            let (newest, body) = again.newest().unwrap();
            assert_eq!((newest, body.len()), (meta(9), newer_bytes));
        }
    }

    #[test]
    fn one_that_was_overtaken_takes_nobodys_place() {
        let disk: Rc<Inodes> = Rc::default();
        let snapshots = block_on(Snapshots::open(disk, 3)).unwrap();
        let body: SnapshotBytes = Rc::from([1; 10]);
        block_on(snapshots.save(meta(9), Rc::clone(&body))).unwrap();
        block_on(snapshots.save(meta(5), Rc::clone(&body))).unwrap();
        snapshots.hold(meta(5), body);
        assert!(snapshots.is_kept(&meta(9)));
        assert_eq!(snapshots.kept(), [LogPoint { term: 1, index: 9 }]);
    }

    #[test]
    fn names_round_trip_and_strangers_are_refused() {
        let at = LogPoint { term: 3, index: 8192 };
        assert_eq!(parse(&file_name(at)), Some(at));
        let damaged = format!("{}{DAMAGED}", file_name(at));
        for stranger in [TEMPORARY, "snapshot-1-2.snap", "superblock", "", damaged.as_str()] {
            assert_eq!(parse(stranger), None, "{stranger}");
            assert_eq!(is_ours(stranger), [TEMPORARY, &damaged].contains(&stranger), "{stranger}");
        }
    }
}
