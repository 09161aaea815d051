//! What the node's directory says of its place in the cluster, written beside the thread of the
//! metadata group: a write ends in a sync, and core 0 has a shard to run meanwhile.
//!
//! One write at a time; of what is to be written meanwhile only the newest counts.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use ironring_core::Incarnation;

use super::identity::{ClusterIdentity, IdentityError};
use super::member::ClusterError;
use crate::driver::data_dir;

/// What is in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// `cluster.toml`.
    pub identity: ClusterIdentity,
    /// The run and its mark, once the metadata know them: `run`.
    pub settled: Option<(Incarnation, u64)>,
}

impl Note {
    /// Writes what differs from what is there.
    fn write(&self, before: &Note, dir: &Path) -> Result<(), IdentityError> {
        if let Some((run, mark)) = self.settled.filter(|_| self.settled != before.settled) {
            data_dir::settle_mark(dir, run, mark)?;
        }
        if self.identity != before.identity {
            self.identity.save(dir)?;
        }
        Ok(())
    }
}

/// Writes notes. Lives on core 0; its writes do not.
pub(super) struct Saver {
    dir: PathBuf,
    /// What is there, or will be once the write under way has ended.
    written: RefCell<Note>,
    wanted: RefCell<Option<Note>>,
    under_way: RefCell<Option<Receiver<Result<(), IdentityError>>>>,
    /// Writes that were begun.
    writes: Cell<u64>,
}

impl Saver {
    /// For the directory at `dir`, in which `there` is.
    pub fn new(dir: &Path, there: Note) -> Saver {
        Saver {
            dir: dir.to_owned(),
            written: RefCell::new(there),
            wanted: RefCell::default(),
            under_way: RefCell::default(),
            writes: Cell::new(0),
        }
    }

    /// The newest that is there or will be.
    pub fn newest(&self) -> Note {
        let wanted = self.wanted.borrow();
        wanted.as_ref().map_or_else(|| self.written.borrow().clone(), Note::clone)
    }

    /// Has this in the directory before long.
    pub fn want(&self, note: Note) {
        let is_there = note == *self.written.borrow();
        *self.wanted.borrow_mut() = (!is_there).then_some(note);
    }

    /// Has this in the directory when it returns. For what nobody may be told before it is there.
    ///
    /// # Errors
    /// Why the directory cannot be written.
    ///
    /// # Panics
    /// When a write is under way.
    pub fn write_now(&self, note: Note) -> Result<(), ClusterError> {
        assert!(self.under_way.borrow().is_none(), "one write at a time");
        note.write(&self.written.borrow(), &self.dir)?;
        *self.written.borrow_mut() = note;
        *self.wanted.borrow_mut() = None;
        Ok(())
    }

    /// Looks whether a write has ended, and begins the next. `ended` is called on another thread when
    /// one has. Whether nothing is left to be done.
    ///
    /// # Errors
    /// Why the directory cannot be written: that ends the member.
    pub fn step(&self, ended: impl Fn() + Send + 'static) -> Result<bool, ClusterError> {
        let ended_now = self.under_way.borrow().as_ref().map(Receiver::try_recv);
        match ended_now {
            None => {}
            Some(Err(TryRecvError::Empty)) => return Ok(false),
            Some(Err(TryRecvError::Disconnected)) => {
                panic!("a thread that writes has ended without a word")
            }
            Some(Ok(result)) => {
                *self.under_way.borrow_mut() = None;
                result?;
            }
        }
        let Some(note) = self.wanted.borrow_mut().take() else { return Ok(true) };
        let before = self.written.replace(note.clone());
        let (done, under_way) = sync_channel(1);
        let dir = self.dir.clone();
        std::thread::Builder::new().name("ironring-notes".to_owned()).spawn(move || {
            // Whoever began it may have ended.
            let _ = done.send(note.write(&before, &dir));
            ended();
        })?;
        self.writes.set(self.writes.get() + 1);
        *self.under_way.borrow_mut() = Some(under_way);
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use ironring_core::{NodeId, StorageUuid};

    use super::*;
    use crate::cluster::Stage;
    use crate::cluster::tests::directory;

    fn note(node: u64, settled: Option<(Incarnation, u64)>) -> Note {
        let (uuid, stage) = (StorageUuid(1), Stage::Member);
        let identity = ClusterIdentity::new(&directory(), uuid, NodeId(node), stage, Vec::new());
        Note { identity, settled }
    }

    /// Steps until nothing is left.
    fn finish(saver: &Saver) -> Result<(), ClusterError> {
        while !saver.step(|| ())? {
            std::thread::yield_now();
        }
        Ok(())
    }

    #[test]
    fn one_write_is_under_way_and_the_newest_wins() {
        let tmp = tempfile::tempdir().unwrap();
        let saver = Saver::new(tmp.path(), note(1, None));
        saver.want(note(1, None));
        assert!(saver.step(|| ()).unwrap(), "it is there");
        saver.want(note(2, None));
        // The first is under way until somebody looks.
        assert!(!saver.step(|| ()).unwrap());
        saver.want(note(3, None));
        let newest = note(4, Some((Incarnation(7), 0x77)));
        saver.want(newest.clone());
        assert_eq!(saver.newest(), newest);
        finish(&saver).unwrap();
        assert_eq!(saver.writes.get(), 2);
        let there = ClusterIdentity::load(tmp.path(), &directory()).unwrap();
        assert_eq!(there, Some(newest.identity));
        let run = std::fs::read_to_string(tmp.path().join("run")).unwrap();
        assert!(run.starts_with("7\nmark 0000000000000077\n"), "{run}");
    }

    #[test]
    fn a_write_that_fails_is_an_error() {
        let tmp = tempfile::tempdir().unwrap();
        let saver = Saver::new(&tmp.path().join("gone"), note(1, None));
        saver.want(note(2, None));
        let error = finish(&saver).unwrap_err();
        assert!(error.to_string().contains("cannot write"), "{error}");
    }
}
