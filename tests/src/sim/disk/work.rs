//! What a simulated disk is asked to do, and how long it takes.

use std::time::Duration;

use ironring_core::Instant;
use ironring_core::io::{FileName, IoBuf, OpId};
use ironring_core::prng::Prng;

use super::faults::Fault;

/// How fast a disk is.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// Shortest read, in nanoseconds.
    pub read_ns: u64,
    /// Shortest write or sync, in nanoseconds.
    pub write_ns: u64,
    /// Operations take up to so many times the shortest.
    pub spread: u64,
    /// One operation of so many takes 100 times as long; 0: none does.
    pub stall_one_in: u64,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency { read_ns: 80_000, write_ns: 120_000, spread: 4, stall_one_in: 200 }
    }
}

impl Latency {
    /// How long this takes.
    pub(super) fn draw(self, rng: &mut Prng, work: &Work, fault: Option<Fault>) -> Duration {
        let (base, bytes) = match work {
            Work::Read { len, .. } => (self.read_ns, u64::from(*len)),
            Work::Write(w) => (self.write_ns, w.buf.len() as u64),
            Work::Sync { .. } | Work::SyncDir { .. } => (self.write_ns, 0),
            _ => (self.write_ns / 4, 0),
        };
        // About 1 GiB/s, so that long transfers really overlap short ones.
        let mut ns = base + rng.below(base * self.spread + 1) + bytes;
        if self.stall_one_in > 0 && rng.chance(1, self.stall_one_in) {
            ns *= 100;
        }
        if fault == Some(Fault::SlowSync) {
            ns += 1_000_000_000 + rng.below(9_000_000_000);
        }
        Duration::from_nanos(ns)
    }
}

/// A write on its way to the disk.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) file: FileName,
    pub(super) inode: u64,
    pub(super) pos: u64,
    pub(super) buf: IoBuf,
    pub(super) durable: bool,
}

#[derive(Debug)]
pub(super) enum Work {
    List,
    Open(FileName),
    Create(FileName),
    Read {
        file: FileName,
        inode: u64,
        pos: u64,
        len: u32,
    },
    Write(Write),
    Sync {
        file: FileName,
        inode: u64,
        mark: u64,
    },
    SyncDir {
        mark: u64,
    },
    Remove(FileName),
    Close(FileName),
    /// Refused at submission because it was a misuse.
    Misused,
}

impl Work {
    pub(super) fn inode(&self) -> Option<u64> {
        match self {
            Work::Read { inode, .. } | Work::Sync { inode, .. } => Some(*inode),
            Work::Write(write) => Some(write.inode),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) id: OpId,
    pub(super) submitted: Instant,
    pub(super) work: Work,
    pub(super) fault: Option<Fault>,
}
