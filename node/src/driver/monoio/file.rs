//! Files with direct I/O through monoio's ring.

use std::path::Path;

use ironring_core::io::{IoBuf, IoError};
use monoio::fs::{File as RingFile, OpenOptions};

use crate::driver::buffers::Aligned;
use crate::driver::runtime::{File, OpenMode, io_error};

/// An open file.
pub struct DirectFile(RingFile);

impl DirectFile {
    /// Opens a file for direct I/O, or with the page cache where the file system has no direct I/O.
    pub async fn open(path: &Path, mode: OpenMode) -> Result<DirectFile, IoError> {
        let file = match open(path, mode, libc::O_DIRECT).await {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => open(path, mode, 0).await,
            opened => opened,
        };
        Ok(DirectFile(file.map_err(|e| io_error(&e))?))
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
        Ok(self.0.metadata().await.map_err(|e| io_error(&e))?.len())
    }

    async fn read_at(&self, pos: u64, len: usize) -> Result<IoBuf, IoError> {
        // SAFETY: it is handed out only when all of it was read.
        let memory = unsafe { Aligned::to_be_read(len) };
        let (read, memory) = self.0.read_at(memory, pos).await;
        let read = read.map_err(|e| io_error(&e))?;
        if read < len {
            return Err(IoError::ShortRead { got: read as u64 });
        }
        Ok(IoBuf::new(Box::new(memory)))
    }

    async fn write_at(&self, buf: IoBuf, pos: u64) -> Result<IoBuf, IoError> {
        let memory = *buf.into_inner::<Aligned>().expect("the driver made every write buffer");
        let len = memory.len();
        let (wrote, memory) = self.0.write_at(memory, pos).await;
        let wrote = wrote.map_err(|e| io_error(&e))?;
        if wrote < len {
            return Err(IoError::ShortWrite { got: wrote as u64 });
        }
        Ok(IoBuf::new(Box::new(memory)))
    }

    async fn sync_data(&self) -> Result<(), IoError> {
        self.0.sync_data().await.map_err(|e| io_error(&e))
    }

    async fn close(self) -> Result<(), IoError> {
        self.0.close().await.map_err(|e| io_error(&e))
    }
}

// SAFETY: the bytes stay where they are when the value is moved. What a write takes is initialised:
// only a read is given memory that is not, and nobody looks at it before the read filled it.
unsafe impl monoio::buf::IoBuf for Aligned {
    fn read_ptr(&self) -> *const u8 {
        self.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len()
    }
}

// SAFETY: as above. How much was read is told by the read: there is nothing to keep of it.
unsafe impl monoio::buf::IoBufMut for Aligned {
    fn write_ptr(&mut self) -> *mut u8 {
        self.as_mut_ptr()
    }

    fn bytes_total(&mut self) -> usize {
        self.len()
    }

    unsafe fn set_init(&mut self, _pos: usize) {}
}
