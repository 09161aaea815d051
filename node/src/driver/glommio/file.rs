//! Files: opened, measured, synced and closed by glommio, read and written on the [`Ring`].

use std::os::fd::AsRawFd;
use std::path::Path;
use std::rc::Rc;

use glommio::GlommioError;
use glommio::io::{DmaFile, OpenOptions};
use ironring_core::io::{IoBuf, IoError};

use super::ring::{Direction, Ring};
use crate::driver::buffers::Aligned;
use crate::driver::runtime::{File, OpenMode, io_error};

/// A file of an executor.
pub struct RingFile {
    file: DmaFile,
    write: Direction,
    ring: Rc<Ring>,
}

impl RingFile {
    /// Opens the file at `path`.
    pub async fn open(path: &Path, mode: OpenMode, ring: Rc<Ring>) -> Result<RingFile, IoError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        match mode {
            OpenMode::Plain => &mut options,
            OpenMode::Durable => options.custom_flags(libc::O_DSYNC),
            OpenMode::Create => options.create(true).truncate(true),
        };
        let file = options.dma_open(path).await.map_err(|e| error_of(&e))?;
        let write = match mode {
            OpenMode::Durable => Direction::WriteDurable,
            OpenMode::Plain | OpenMode::Create => Direction::Write,
        };
        Ok(RingFile { file, write, ring })
    }
}

impl File for RingFile {
    async fn size(&self) -> Result<u64, IoError> {
        self.file.file_size().await.map_err(|e| error_of(&e))
    }

    async fn read_at(&self, pos: u64, len: usize) -> Result<IoBuf, IoError> {
        // SAFETY: it is handed out only when all of it was read.
        let memory = Box::new(unsafe { Aligned::to_be_read(len) });
        let asked = self.ring.ask(Direction::Read, self.file.as_raw_fd(), pos, memory);
        let (memory, got) = asked.await.map_err(|e| io_error(&e))?;
        if got < len {
            return Err(IoError::ShortRead { got: got as u64 });
        }
        Ok(IoBuf::new(memory))
    }

    async fn write_at(&self, buf: IoBuf, pos: u64) -> Result<IoBuf, IoError> {
        let memory = buf.into_inner::<Aligned>().expect("the driver made every write buffer");
        let len = memory.len();
        let asked = self.ring.ask(self.write, self.file.as_raw_fd(), pos, memory);
        let (memory, wrote) = asked.await.map_err(|e| io_error(&e))?;
        if wrote < len {
            return Err(IoError::ShortWrite { got: wrote as u64 });
        }
        Ok(IoBuf::new(memory))
    }

    async fn sync_data(&self) -> Result<(), IoError> {
        self.file.fdatasync().await.map_err(|e| error_of(&e))
    }

    async fn close(self) -> Result<(), IoError> {
        self.file.close().await.map_err(|e| error_of(&e))
    }
}

/// An error of glommio in the seam's words.
pub fn error_of(error: &GlommioError<()>) -> IoError {
    match error {
        GlommioError::IoError(e) | GlommioError::EnhancedIoError { source: e, .. } => io_error(e),
        other => IoError::Os { errno: 0, message: other.to_string() },
    }
}
