//! Files with glommio's direct I/O.

use std::path::Path;
use std::rc::Rc;

use glommio::GlommioError;
use glommio::io::{DmaFile, OpenOptions};
use ironring_core::io::{IoBuf, IoError};

use super::buffers::{DmaMem, ReadMem};
use crate::driver::runtime::{File, OpenMode, io_error};

impl File for DmaFile {
    async fn size(&self) -> Result<u64, IoError> {
        self.file_size().await.map_err(|e| error_of(&e))
    }

    async fn read_at(&self, pos: u64, len: usize) -> Result<IoBuf, IoError> {
        let bytes = self.read_at_aligned(pos, len).await.map_err(|e| error_of(&e))?;
        if bytes.len() < len {
            return Err(IoError::ShortRead { got: bytes.len() as u64 });
        }
        Ok(IoBuf::new(Box::new(ReadMem(bytes))))
    }

    async fn write_at(&self, buf: IoBuf, pos: u64) -> Result<IoBuf, IoError> {
        let memory = buf.into_inner::<DmaMem>().expect("DmaAlloc made every write buffer");
        let len = memory.0.as_bytes().len();
        let wrote = self.write_rc_at(Rc::clone(&memory.0), pos).await;
        let wrote = wrote.map_err(|e| error_of(&e))?;
        if wrote < len {
            return Err(IoError::ShortWrite { got: wrote as u64 });
        }
        Ok(IoBuf::new(memory))
    }

    async fn sync_data(&self) -> Result<(), IoError> {
        self.fdatasync().await.map_err(|e| error_of(&e))
    }

    async fn close(self) -> Result<(), IoError> {
        DmaFile::close(self).await.map_err(|e| error_of(&e))
    }
}

/// Opens a file for direct I/O, or with the page cache where the file system has no direct I/O.
pub async fn open(path: &Path, mode: OpenMode) -> Result<DmaFile, IoError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match mode {
        OpenMode::Plain => &mut options,
        OpenMode::Durable => options.custom_flags(libc::O_DSYNC),
        OpenMode::Create => options.create(true).truncate(true),
    };
    options.dma_open(path).await.map_err(|e| error_of(&e))
}

/// An error of glommio in the seam's words.
pub fn error_of(error: &GlommioError<()>) -> IoError {
    match error {
        GlommioError::IoError(e) | GlommioError::EnhancedIoError { source: e, .. } => io_error(e),
        other => IoError::Os { errno: 0, message: other.to_string() },
    }
}
