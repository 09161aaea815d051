//! The files of one shard: executes [`IoOp`]s with glommio's direct I/O.
//!
//! A file is opened twice: plain, for reads and writes that need not be durable, and with O_DSYNC,
//! whose writes complete when they are durable. (An O_DSYNC write is 1.1 to 1.2 times as fast as a
//! write and an fdatasync; glommio has no per-write flag.)

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use glommio::GlommioError;
use glommio::io::{Directory, DmaFile, OpenOptions};
use ironring_core::io::{FileName, IoBuf, IoError, IoOk, IoOp};

use super::buffers::{DmaMem, ReadMem};

#[derive(Clone)]
struct Handles {
    plain: Rc<DmaFile>,
    durable: Rc<DmaFile>,
}

/// Open files by role.
pub struct Files {
    dir: PathBuf,
    open: RefCell<BTreeMap<FileName, Handles>>,
}

impl Files {
    /// The files in `dir`, none of them open.
    #[must_use]
    pub fn new(dir: &Path) -> Files {
        Files { dir: dir.to_owned(), open: RefCell::new(BTreeMap::new()) }
    }

    /// Executes one operation to its end. Never retries.
    pub async fn execute(&self, op: IoOp) -> Result<IoOk, IoError> {
        match op {
            IoOp::List => self.list(),
            IoOp::Open { file } => self.open(file, false).await,
            IoOp::Create { file } => self.open(file, true).await,
            IoOp::ReadAt { file, pos, len } => {
                let handles = self.get(file)?;
                let read = handles.plain.read_at_aligned(pos.0, len as usize).await;
                let bytes = read.map_err(|e| error_of(&e))?;
                if bytes.len() < len as usize {
                    return Err(IoError::ShortRead { got: bytes.len() as u64 });
                }
                Ok(IoOk::Read(IoBuf::new(Box::new(ReadMem(bytes)))))
            }
            IoOp::WriteAt { file, pos, buf, durable } => {
                let handles = self.get(file)?;
                let target = if durable { &handles.durable } else { &handles.plain };
                let memory = buf.into_inner::<DmaMem>().expect("DmaAlloc made every write buffer");
                let len = memory.0.as_bytes().len();
                let wrote = target.write_rc_at(Rc::clone(&memory.0), pos.0).await;
                let wrote = wrote.map_err(|e| error_of(&e))?;
                if wrote < len {
                    return Err(IoError::ShortWrite { got: wrote as u64 });
                }
                Ok(IoOk::Written(IoBuf::new(memory)))
            }
            IoOp::Sync { file } => {
                let handles = self.get(file)?;
                handles.plain.fdatasync().await.map_err(|e| error_of(&e))?;
                Ok(IoOk::Done)
            }
            IoOp::SyncDir => {
                let dir = Directory::open(&self.dir).await.map_err(|e| error_of(&e))?;
                let synced = dir.sync().await.map_err(|e| error_of(&e));
                dir.close().await.map_err(|e| error_of(&e))?;
                synced.map(|()| IoOk::Done)
            }
            IoOp::Remove { file } => {
                self.close(file).await?;
                std::fs::remove_file(self.path(file)).map_err(|e| error_of_std(&e))?;
                Ok(IoOk::Done)
            }
            IoOp::Close { file } => {
                self.close(file).await?;
                Ok(IoOk::Done)
            }
        }
    }

    fn path(&self, file: FileName) -> PathBuf {
        self.dir.join(file.file_name())
    }

    fn get(&self, file: FileName) -> Result<Handles, IoError> {
        self.open.borrow().get(&file).cloned().ok_or(IoError::NotFound)
    }

    /// Names we know, with their lengths. Rare and short: a plain system call.
    fn list(&self) -> Result<IoOk, IoError> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(|e| error_of_std(&e))? {
            let entry = entry.map_err(|e| error_of_std(&e))?;
            let name = entry.file_name();
            if let Some(file) = name.to_str().and_then(FileName::parse) {
                let meta = entry.metadata().map_err(|e| error_of_std(&e))?;
                found.push((file, meta.len()));
            }
        }
        Ok(IoOk::Listed(found))
    }

    async fn open(&self, file: FileName, create: bool) -> Result<IoOk, IoError> {
        let path = self.path(file);
        if create {
            let make = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .dma_open(&path)
                .await;
            close(Rc::new(make.map_err(|e| error_of(&e))?)).await?;
        }
        let plain = OpenOptions::new().read(true).write(true).dma_open(&path).await;
        let plain = plain.map_err(|e| error_of(&e))?;
        let durable = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DSYNC)
            .dma_open(&path)
            .await
            .map_err(|e| error_of(&e))?;
        let len = plain.file_size().await.map_err(|e| error_of(&e))?;
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
async fn close(file: Rc<DmaFile>) -> Result<(), IoError> {
    match Rc::try_unwrap(file) {
        Ok(file) => file.close().await.map_err(|e| error_of(&e)),
        Err(_) => Ok(()),
    }
}

fn error_of(error: &GlommioError<()>) -> IoError {
    match error {
        GlommioError::IoError(e) | GlommioError::EnhancedIoError { source: e, .. } => {
            error_of_std(e)
        }
        other => IoError::Os { errno: 0, message: other.to_string() },
    }
}

fn error_of_std(error: &std::io::Error) -> IoError {
    match error.raw_os_error() {
        Some(libc::ENOENT) => IoError::NotFound,
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => IoError::NoSpace,
        Some(errno) => IoError::Os { errno, message: error.to_string() },
        None => IoError::Os { errno: 0, message: error.to_string() },
    }
}
