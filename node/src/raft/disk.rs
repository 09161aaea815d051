//! The directory of the metadata group: files of its log and its snapshots.
//!
//! A trait, so that the same store runs over real files and over the simulator's. Nothing is
//! retried; a failure is the store's end.

use std::future::{Future, poll_fn};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use ironring_core::io::{BufAlloc, IoError, IoOk, IoOp};
use ironring_core::limits::BLOCK_BYTES;

use super::host::Local;
use crate::driver::buffers::Alloc;
use crate::driver::files::Files;
use crate::driver::runtime::{File, OpenMode, Runtime, io_error};

/// Bytes of a snapshot written at once.
const WRITE_BYTES: usize = 1 << 20;

/// What an operation gives.
pub type Done<'a, T> = Local<'a, Result<T, IoError>>;

/// A directory of the metadata group alone.
pub trait RaftDisk: 'static {
    /// Executes one operation of the log.
    fn execute(&self, op: IoOp) -> Done<'_, IoOk>;

    /// Names of the directory's files, without those of the log.
    fn names(&self) -> Done<'_, Vec<String>>;

    /// Makes, or empties, a file, writes `bytes` to it and makes them durable; its name is not yet.
    /// The length of `bytes` is a multiple of the block size.
    fn write(&self, name: String, bytes: Vec<u8>) -> Done<'_, ()>;

    /// The whole of a file.
    fn read(&self, name: String) -> Done<'_, Vec<u8>>;

    /// Gives a file a name that another may have had.
    fn rename(&self, from: String, to: String) -> Done<'_, ()>;

    /// Removes a file.
    fn remove(&self, name: String) -> Done<'_, ()>;

    /// Makes names durable.
    fn sync_dir(&self) -> Done<'_, ()>;

    /// Where buffers of the log come from.
    fn alloc(&self) -> Box<dyn BufAlloc>;
}

/// A real directory, through the driver.
pub struct DriverDisk<R: Runtime> {
    dir: PathBuf,
    files: Files<R>,
    runtime: Rc<R>,
    /// Tells of completions, where the runtime's reactor does not.
    completions: Option<R::Waiter>,
}

impl<R: Runtime> DriverDisk<R> {
    /// The directory `dir`, which exists; an absolute path.
    ///
    /// # Errors
    /// When the system has no descriptors left.
    pub fn new(runtime: Rc<R>, dir: &Path) -> std::io::Result<DriverDisk<R>> {
        let files = Files::new(Rc::clone(&runtime), dir);
        let completions = runtime.completions().map(|fd| runtime.waiter(fd)).transpose()?;
        Ok(DriverDisk { dir: dir.to_owned(), files, runtime, completions })
    }

    /// Runs an operation to its end, and the runtime's file operations with it: nobody else may be
    /// there to submit them and to notice that they ended.
    async fn driven<T>(&self, op: impl Future<Output = T>) -> T {
        let Some(completions) = &self.completions else { return op.await };
        let mut op = pin!(op);
        let mut notice = pin!(async {
            loop {
                self.runtime.readable(completions).await;
                self.runtime.drive();
            }
        });
        poll_fn(|cx| {
            if let Poll::Ready(done) = op.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            self.runtime.drive();
            let never: Poll<()> = notice.as_mut().poll(cx);
            debug_assert!(never.is_pending());
            Poll::Pending
        })
        .await
    }

    async fn open(&self, name: &str, mode: OpenMode) -> Result<R::File, IoError> {
        self.runtime.open(&self.dir.join(name), mode).await
    }
}

impl<R: Runtime> RaftDisk for DriverDisk<R> {
    fn execute(&self, op: IoOp) -> Done<'_, IoOk> {
        Box::pin(self.driven(self.files.execute(op)))
    }

    fn names(&self) -> Done<'_, Vec<String>> {
        Box::pin(async {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(&self.dir).map_err(|e| io_error(&e))? {
                let entry = entry.map_err(|e| io_error(&e))?;
                if let Ok(name) = entry.file_name().into_string()
                    && ironring_core::io::FileName::parse(&name).is_none()
                {
                    names.push(name);
                }
            }
            Ok(names)
        })
    }

    fn write(&self, name: String, bytes: Vec<u8>) -> Done<'_, ()> {
        Box::pin(self.driven(async move {
            assert!(bytes.len().is_multiple_of(BLOCK_BYTES), "direct I/O writes whole blocks");
            let file = self.open(&name, OpenMode::Create).await?;
            for (i, part) in bytes.chunks(WRITE_BYTES).enumerate() {
                let mut buf = Alloc.alloc(part.len());
                buf.copy_from_slice(part);
                file.write_at(buf, (i * WRITE_BYTES) as u64).await?;
            }
            file.sync_data().await?;
            file.close().await
        }))
    }

    fn read(&self, name: String) -> Done<'_, Vec<u8>> {
        Box::pin(self.driven(async move {
            let file = self.open(&name, OpenMode::Plain).await?;
            let len = file.size().await?;
            // A file that is not whole blocks is not ours: the rest of it is not read.
            let len = usize::try_from(len).unwrap_or(usize::MAX) / BLOCK_BYTES * BLOCK_BYTES;
            let mut bytes = Vec::with_capacity(len);
            while bytes.len() < len {
                let part = WRITE_BYTES.min(len - bytes.len());
                bytes.extend_from_slice(&file.read_at(bytes.len() as u64, part).await?);
            }
            file.close().await?;
            Ok(bytes)
        }))
    }

    fn rename(&self, from: String, to: String) -> Done<'_, ()> {
        Box::pin(async move { self.runtime.rename(&self.dir.join(from), &self.dir.join(to)).await })
    }

    fn remove(&self, name: String) -> Done<'_, ()> {
        Box::pin(async move { self.runtime.remove(&self.dir.join(name)).await })
    }

    fn sync_dir(&self) -> Done<'_, ()> {
        Box::pin(self.runtime.sync_dir(&self.dir))
    }

    fn alloc(&self) -> Box<dyn BufAlloc> {
        Box::new(Alloc)
    }
}
