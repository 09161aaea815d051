//! Files with direct I/O through monoio's ring.

use std::path::Path;
use std::rc::Rc;

use ironring_core::io::{IoBuf, IoError};
use monoio::fs::{File as RingFile, OpenOptions};

use super::memory::{Memory, Pool};
use crate::driver::runtime::{File, OpenMode, io_error};

/// An open file, with the pool its reads take memory from.
pub struct DirectFile {
    file: RingFile,
    pool: Rc<Pool>,
}

impl DirectFile {
    /// Opens a file for direct I/O, or with the page cache where the file system has no direct I/O.
    pub async fn open(path: &Path, mode: OpenMode, pool: Rc<Pool>) -> Result<DirectFile, IoError> {
        let file = match open(path, mode, libc::O_DIRECT).await {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => open(path, mode, 0).await,
            opened => opened,
        };
        Ok(DirectFile { file: file.map_err(|e| io_error(&e))?, pool })
    }
}

async fn open(path: &Path, mode: OpenMode, direct: libc::c_int) -> std::io::Result<RingFile> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let durable = match mode {
        OpenMode::Plain => 0,
        OpenMode::Durable => libc::O_DSYNC,
        OpenMode::Create => {
            options.create(true).truncate(true);
            0
        }
    };
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, direct | durable);
    options.open(path).await
}

impl File for DirectFile {
    async fn size(&self) -> Result<u64, IoError> {
        Ok(self.file.metadata().await.map_err(|e| io_error(&e))?.len())
    }

    async fn read_at(&self, pos: u64, len: usize) -> Result<IoBuf, IoError> {
        let (read, memory) = self.file.read_at(self.pool.take(len), pos).await;
        let read = read.map_err(|e| io_error(&e))?;
        if read < len {
            return Err(IoError::ShortRead { got: read as u64 });
        }
        Ok(IoBuf::new(Box::new(memory)))
    }

    async fn write_at(&self, buf: IoBuf, pos: u64) -> Result<IoBuf, IoError> {
        let memory = *buf.into_inner::<Memory>().expect("the pool made every write buffer");
        let len = memory.len();
        let (wrote, memory) = self.file.write_at(memory, pos).await;
        let wrote = wrote.map_err(|e| io_error(&e))?;
        if wrote < len {
            return Err(IoError::ShortWrite { got: wrote as u64 });
        }
        Ok(IoBuf::new(Box::new(memory)))
    }

    async fn sync_data(&self) -> Result<(), IoError> {
        self.file.sync_data().await.map_err(|e| io_error(&e))
    }

    async fn close(self) -> Result<(), IoError> {
        self.file.close().await.map_err(|e| io_error(&e))
    }
}
