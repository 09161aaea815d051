//! The files of one shard: executes [`IoOp`]s with the runtime's direct I/O.
//!
//! A file is opened twice: plain, for reads and writes that need not be durable, and with O_DSYNC,
//! whose writes complete when they are durable. (An O_DSYNC write is 1.1 to 1.2 times as fast as a
//! write and an fdatasync; the runtimes have no per-write flag.)

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use ironring_core::io::{FileName, IoError, IoOk, IoOp};

use super::data_dir::{self, DataDirError};
use super::runtime::{File, OpenMode, Runtime, io_error};

struct Handles<F> {
    plain: Rc<F>,
    durable: Rc<F>,
}

impl<F> Clone for Handles<F> {
    fn clone(&self) -> Self {
        Handles { plain: Rc::clone(&self.plain), durable: Rc::clone(&self.durable) }
    }
}

/// Open files by role.
pub struct Files<R: Runtime> {
    dir: PathBuf,
    open: RefCell<BTreeMap<FileName, Handles<R::File>>>,
    runtime: Rc<R>,
}

impl<R: Runtime> Files<R> {
    /// The files in `dir`, none of them open.
    #[must_use]
    pub fn new(runtime: Rc<R>, dir: &Path) -> Files<R> {
        Files { dir: dir.to_owned(), open: RefCell::new(BTreeMap::new()), runtime }
    }

    /// Executes one operation to its end. Never retries.
    pub async fn execute(&self, op: IoOp) -> Result<IoOk, IoError> {
        match op {
            IoOp::List => self.list(),
            IoOp::Open { file } => self.open(file, false).await,
            IoOp::Create { file } => self.open(file, true).await,
            IoOp::ReadAt { file, pos, len } => {
                let handles = self.get(file)?;
                Ok(IoOk::Read(handles.plain.read_at(pos.0, len as usize).await?))
            }
            IoOp::WriteAt { file, pos, buf, durable } => {
                let handles = self.get(file)?;
                let target = if durable { &handles.durable } else { &handles.plain };
                Ok(IoOk::Written(target.write_at(buf, pos.0).await?))
            }
            IoOp::Sync { file } => {
                let handles = self.get(file)?;
                handles.plain.sync_data().await?;
                Ok(IoOk::Done)
            }
            IoOp::SyncDir => {
                self.runtime.sync_dir(&self.dir).await?;
                Ok(IoOk::Done)
            }
            IoOp::Remove { file } => {
                self.close(file).await?;
                self.runtime.remove(&self.path(file)).await?;
                Ok(IoOk::Done)
            }
            IoOp::Close { file } => {
                self.close(file).await?;
                Ok(IoOk::Done)
            }
        }
    }

    /// Closes every file and puts the directory out of the way; an empty one is in its place.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn set_aside(&self) -> Result<(), DataDirError> {
        let open = std::mem::take(&mut *self.open.borrow_mut());
        for handles in open.into_values() {
            // Nothing of them counts any more.
            let _ = close(handles.plain).await;
            let _ = close(handles.durable).await;
        }
        data_dir::set_aside(&self.dir)
    }

    /// Where they are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn path(&self, file: FileName) -> PathBuf {
        self.dir.join(file.file_name())
    }

    fn get(&self, file: FileName) -> Result<Handles<R::File>, IoError> {
        self.open.borrow().get(&file).cloned().ok_or(IoError::NotFound)
    }

    /// Names we know, with their lengths. Rare and short: a plain system call.
    fn list(&self) -> Result<IoOk, IoError> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(|e| io_error(&e))? {
            let entry = entry.map_err(|e| io_error(&e))?;
            let name = entry.file_name();
            if let Some(file) = name.to_str().and_then(FileName::parse) {
                let meta = entry.metadata().map_err(|e| io_error(&e))?;
                found.push((file, meta.len()));
            }
        }
        Ok(IoOk::Listed(found))
    }

    async fn open(&self, file: FileName, create: bool) -> Result<IoOk, IoError> {
        let path = self.path(file);
        if create {
            self.runtime.open(&path, OpenMode::Create).await?.close().await?;
        }
        let plain = self.runtime.open(&path, OpenMode::Plain).await?;
        let durable = self.runtime.open(&path, OpenMode::Durable).await?;
        let len = plain.size().await?;
        let handles = Handles { plain: Rc::new(plain), durable: Rc::new(durable) };
        let before = self.open.borrow_mut().insert(file, handles);
        if let Some(before) = before {
            close(before.plain).await?;
            close(before.durable).await?;
        }
        Ok(IoOk::Opened(len))
    }

    async fn close(&self, file: FileName) -> Result<(), IoError> {
        let handles = self.open.borrow_mut().remove(&file);
        if let Some(handles) = handles {
            close(handles.plain).await?;
            close(handles.durable).await?;
        }
        Ok(())
    }
}

/// Closes a file nobody else uses; a file that is still read closes when its last user is done.
async fn close<F: File>(file: Rc<F>) -> Result<(), IoError> {
    match Rc::try_unwrap(file) {
        Ok(file) => file.close().await,
        Err(_) => Ok(()),
    }
}
