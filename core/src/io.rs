//! The seam: file operations a state machine asks for, and how they ended.
//!
//! A state machine pushes [`IoRequest`]s into an [`IoQueue`]; the driver executes them in any
//! order and hands each back once as an [`IoDone`]. Where order matters the state machine waits
//! for the completion before it asks for the next operation: two requests in the queue at the
//! same time may be executed and become durable in either order.
//!
//! What a driver promises:
//! - every request is completed exactly once, also after an error; none is dropped or retried;
//! - `WriteAt { durable: true }` completes only when the bytes survive a power failure;
//! - a failed or short write leaves the range undefined (old, new, or torn per device sector);
//! - `ReadAt` returns exactly `len` bytes or an error; reading past the end is `ShortRead`;
//! - buffers keep their address while the kernel may touch them (they are owned by the request).

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, DerefMut};

use crate::ids::{FilePos, SlotId};

/// Memory a device can read and write directly. The driver supplies it (see [`BufAlloc`]).
pub trait IoMem: Any {
    /// What is shown of the buffer: all of it, until [`IoMem::show`] says otherwise.
    fn bytes(&self) -> &[u8];
    /// The same, writable.
    fn bytes_mut(&mut self) -> &mut [u8];
    /// How many bytes there are, shown or not.
    fn capacity(&self) -> usize;
    /// Shows the first `len` bytes from here on. What was not shown before is undefined.
    fn show(&mut self, len: usize);
    /// For the driver, to get back the type it made.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

impl IoMem for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self
    }

    fn capacity(&self) -> usize {
        Vec::capacity(self)
    }

    fn show(&mut self, len: usize) {
        self.resize(len, 0);
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// An owned I/O buffer: aligned for direct I/O when it came from a node's driver, a plain
/// vector in tests and in the simulator. Its length is what is shown of it, and written.
pub struct IoBuf(Box<dyn IoMem>);

impl IoBuf {
    /// Wraps memory of the driver's own kind.
    #[must_use]
    pub fn new(mem: Box<dyn IoMem>) -> IoBuf {
        IoBuf(mem)
    }

    /// How long it can be.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// Gives it another length, without moving anything. What was beyond its length is undefined.
    ///
    /// # Panics
    /// When it cannot be that long.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "a buffer of {} bytes made {len}", self.capacity());
        self.0.show(len);
    }

    /// The driver's own type back, when it was a `T`.
    #[must_use]
    pub fn into_inner<T: 'static>(self) -> Option<Box<T>> {
        self.0.into_any().downcast::<T>().ok()
    }
}

impl Deref for IoBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl DerefMut for IoBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
    }
}

impl fmt::Debug for IoBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IoBuf({} bytes)", self.len())
    }
}

/// Where write buffers come from.
pub trait BufAlloc {
    /// A buffer with a length of exactly `len` bytes, contents undefined. `len` is a multiple of the block size.
    fn alloc(&mut self, len: usize) -> IoBuf;
}

/// Plain heap buffers, for tests and the simulator.
#[derive(Debug, Default)]
pub struct HeapAlloc;

impl BufAlloc for HeapAlloc {
    fn alloc(&mut self, len: usize) -> IoBuf {
        IoBuf::new(Box::new(vec![0u8; len]))
    }
}

/// A file of one shard's directory, by role. The driver turns it into a path with
/// [`FileName::file_name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileName {
    /// Four copies of the shard's segment table and pointers.
    Superblock,
    /// A segment file.
    Segment(SlotId),
    /// An index checkpoint, by number.
    Checkpoint(u64),
}

impl FileName {
    /// The name in the shard's directory.
    #[must_use]
    pub fn file_name(&self) -> String {
        match self {
            FileName::Superblock => "superblock".to_owned(),
            FileName::Segment(slot) => format!("segment-{:08}.log", slot.0),
            FileName::Checkpoint(n) => format!("checkpoint-{n:010}.ckp"),
        }
    }

    /// The role a directory entry has, or `None` for a file that is not ours.
    #[must_use]
    pub fn parse(name: &str) -> Option<FileName> {
        let parsed = if name == "superblock" {
            FileName::Superblock
        } else if let Some(n) = name.strip_prefix("segment-").and_then(|r| r.strip_suffix(".log")) {
            FileName::Segment(SlotId(n.parse().ok()?))
        } else {
            let n = name.strip_prefix("checkpoint-")?.strip_suffix(".ckp")?;
            FileName::Checkpoint(n.parse().ok()?)
        };
        (parsed.file_name() == name).then_some(parsed)
    }
}

/// Names one request; the completion carries it back. Unique within one run of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// One file operation.
#[derive(Debug)]
pub enum IoOp {
    /// Lists the shard's directory: names that [`FileName::parse`] knows, with their lengths.
    List,
    /// Opens an existing file for reading and writing; the completion has its length.
    Open {
        /// Which file.
        file: FileName,
    },
    /// Makes an empty file, truncating an old one of that name, and opens it.
    Create {
        /// Which file.
        file: FileName,
    },
    /// Reads `len` bytes at `pos`, both multiples of the block size.
    ReadAt {
        /// Which open file.
        file: FileName,
        /// First byte.
        pos: FilePos,
        /// How many bytes.
        len: u32,
    },
    /// Writes the whole buffer at `pos`; position and length are multiples of the block size.
    WriteAt {
        /// Which open file.
        file: FileName,
        /// First byte.
        pos: FilePos,
        /// What to write; comes back in the completion.
        buf: IoBuf,
        /// True: complete only when the bytes are durable (O_DSYNC).
        durable: bool,
    },
    /// Makes every completed write to the file durable, and its length (fdatasync).
    Sync {
        /// Which open file.
        file: FileName,
    },
    /// Makes created, renamed and removed names durable (fsync of the directory).
    SyncDir,
    /// Closes and removes a file.
    Remove {
        /// Which file.
        file: FileName,
    },
    /// Closes a file; its bytes stay.
    Close {
        /// Which open file.
        file: FileName,
    },
}

/// An operation with its name.
#[derive(Debug)]
pub struct IoRequest {
    /// Comes back in [`IoDone::id`].
    pub id: OpId,
    /// What to do.
    pub op: IoOp,
}

/// How a request ended well.
#[derive(Debug)]
pub enum IoOk {
    /// `List`: the known files, in no particular order.
    Listed(Vec<(FileName, u64)>),
    /// `Open`: the file's length in bytes.
    Opened(u64),
    /// `ReadAt`: exactly the bytes asked for.
    Read(IoBuf),
    /// `WriteAt`: all bytes were written (and are durable when asked); the buffer back.
    Written(IoBuf),
    /// Everything else.
    Done,
}

/// How a request ended badly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// The file does not exist.
    #[error("no such file")]
    NotFound,
    /// The device or quota is full (ENOSPC, EDQUOT, EFBIG).
    #[error("no space left on the device")]
    NoSpace,
    /// Fewer bytes than asked were there.
    #[error("short read: {got} bytes")]
    ShortRead {
        /// Bytes that were there.
        got: u64,
    },
    /// Fewer bytes than asked were written.
    #[error("short write: {got} bytes")]
    ShortWrite {
        /// Bytes that were written.
        got: u64,
    },
    /// Anything else, with the error number of the system.
    #[error("i/o error (errno {errno}): {message}")]
    Os {
        /// errno, 0 when there was none.
        errno: i32,
        /// The system's words.
        message: String,
    },
}

/// A completion.
#[derive(Debug)]
pub struct IoDone {
    /// Which request.
    pub id: OpId,
    /// How it ended.
    pub result: Result<IoOk, IoError>,
}

/// Requests on their way from a state machine to the driver, in the order they were made.
#[derive(Debug, Default)]
pub struct IoQueue {
    next_id: u64,
    requests: VecDeque<IoRequest>,
}

impl IoQueue {
    /// Adds a request and returns its name.
    pub fn push(&mut self, op: IoOp) -> OpId {
        self.next_id += 1;
        let id = OpId(self.next_id);
        self.requests.push_back(IoRequest { id, op });
        id
    }

    /// Takes the oldest request.
    pub fn pop(&mut self) -> Option<IoRequest> {
        self.requests.pop_front()
    }

    /// How many requests wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// True when none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_round_trip_and_strangers_are_refused() {
        for name in [FileName::Superblock, FileName::Segment(SlotId(7)), FileName::Checkpoint(42)] {
            assert_eq!(FileName::parse(&name.file_name()), Some(name));
        }
        for stranger in
            ["", "segment-7.log", "segment-0000000x.log", "superblock.bak", "lost+found"]
        {
            assert_eq!(FileName::parse(stranger), None, "{stranger}");
        }
    }
}
