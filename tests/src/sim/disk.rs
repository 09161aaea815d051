//! A simulated disk directory: the driver's side of [`ironring_core::io`] in virtual time.
//!
//! What it assumes of real disks, which is what the log must survive:
//! - a completed write is visible at once and durable after a sync submitted later, or at its
//!   completion when it was a durable write;
//! - at a power failure every 512-byte sector that was not durable is old or new on its own;
//! - a created, replaced or removed name is durable after a directory sync, and not before;
//! - requests in flight together complete in any order, and a read that overlaps a write in
//!   flight sees each sector old or new.
//!
//! A misuse of the seam (unaligned, not open, two writes in flight to one place) is not a fault of
//! the disk but a bug of the caller: it is kept in [`SimDisk::misuse`] and fails the run.

pub mod faults;
pub mod image;
mod work;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use ironring_core::io::{FileName, IoBuf, IoDone, IoError, IoOk, IoOp, IoRequest};
use ironring_core::limits::BLOCK_BYTES;
use ironring_core::prng::Prng;
use ironring_core::{FilePos, Instant};

use faults::{Fault, FaultPlan, Faults};
use image::{Inode, Reached, SECTOR};
use work::{InFlight, Work, Write};

pub use work::Latency;

const EIO: i32 = 5;

/// Names a request the disk is working on; hand it to [`SimDisk::complete`] when it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// A change of the directory that is not durable yet; `inode` is `None` for a removal.
#[derive(Clone, Copy, Debug)]
struct NameChange {
    id: u64,
    name: FileName,
    inode: Option<u64>,
}

/// One shard's directory on a simulated device.
#[derive(Debug)]
pub struct SimDisk {
    rng: Prng,
    latency: Latency,
    capacity: u64,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    names: BTreeMap<FileName, u64>,
    durable_names: BTreeMap<FileName, u64>,
    name_changes: Vec<NameChange>,
    next_change: u64,
    open: BTreeSet<FileName>,
    in_flight: BTreeMap<Ticket, InFlight>,
    next_ticket: u64,
    completed_log_writes: u64,
    /// What goes wrong, and what did.
    pub faults: Faults,
    /// Ways in which the caller broke the seam's rules.
    pub misuse: Vec<String>,
}

impl SimDisk {
    /// An empty directory on a device of `capacity` bytes.
    #[must_use]
    pub fn new(seed: u64, capacity: u64, latency: Latency, plan: FaultPlan) -> SimDisk {
        let mut rng = Prng::new(seed);
        let faults = Faults::new(plan, rng.next_u64());
        SimDisk {
            rng,
            latency,
            capacity,
            inodes: BTreeMap::new(),
            next_inode: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            next_change: 0,
            open: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            next_ticket: 0,
            completed_log_writes: 0,
            faults,
            misuse: Vec::new(),
        }
    }

    /// Bytes in use, by the length of the files a listing shows.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.names.values().map(|inode| self.inodes[inode].live().len()).sum()
    }

    /// Requests the disk is working on.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Writes to segment files that were completed, over all lives.
    #[must_use]
    pub fn completed_log_writes(&self) -> u64 {
        self.completed_log_writes
    }

    /// Names and contents' lengths, in order of name.
    pub fn files(&self) -> impl Iterator<Item = (FileName, u64)> {
        self.names.iter().map(|(name, inode)| (*name, self.inodes[inode].live().len()))
    }

    /// The file's bytes as a reader sees them, or `None` when there is no such file.
    #[must_use]
    pub fn contents(&self, file: FileName) -> Option<Vec<u8>> {
        let live = self.inodes[self.names.get(&file)?].live();
        let mut bytes = vec![0; usize::try_from(live.len()).expect("files are small")];
        live.read(0, &mut bytes);
        Some(bytes)
    }

    /// Puts a file there behind the caller's back, durably. For tests of recovery.
    pub fn restore(&mut self, file: FileName, bytes: &[u8]) {
        self.next_inode += 1;
        let mut inode = Inode::default();
        inode.write(0, bytes, true);
        self.inodes.insert(self.next_inode, inode);
        self.names.insert(file, self.next_inode);
        self.durable_names.insert(file, self.next_inode);
    }

    /// Overwrites bytes behind the caller's back, durably. For tests of recovery.
    pub fn overwrite(&mut self, file: FileName, pos: u64, bytes: &[u8]) {
        let inode = self.names[&file];
        self.inodes.get_mut(&inode).expect("a name has an inode").write(pos, bytes, true);
    }

    /// Removes a file behind the caller's back, durably. For tests of recovery.
    pub fn lose_file(&mut self, file: FileName) {
        self.names.remove(&file);
        self.durable_names.remove(&file);
    }

    /// Takes a request; it is done at the returned time, when [`SimDisk::complete`] is to be called.
    pub fn submit(&mut self, now: Instant, request: IoRequest) -> (Instant, Ticket) {
        let IoRequest { id, op } = request;
        let (work, candidates) = self.admit(op);
        let fault = self.faults.draw(now, candidates);
        let due = now + self.latency.draw(&mut self.rng, &work, fault);
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.in_flight.insert(ticket, InFlight { id, submitted: now, work, fault });
        (due, ticket)
    }

    fn admit(&mut self, op: IoOp) -> (Work, &'static [Fault]) {
        const WRITE: [Fault; 6] = [
            Fault::WriteError,
            Fault::ShortWrite,
            Fault::LostWrite,
            Fault::Misdirected,
            Fault::MediaFlip,
            Fault::SlowSync,
        ];
        match op {
            IoOp::List => (Work::List, &[]),
            IoOp::Open { file } => (Work::Open(file), &[]),
            IoOp::Create { file } => (Work::Create(file), &[Fault::NoSpace]),
            IoOp::ReadAt { file, pos, len } => match self.opened(file, "read") {
                Some(inode) if self.aligned(pos, u64::from(len), "read") => (
                    Work::Read { file, inode, pos: pos.0, len },
                    &[Fault::ReadError, Fault::ShortRead, Fault::ReadFlip],
                ),
                _ => (Work::Misused, &[]),
            },
            IoOp::WriteAt { file, pos, buf, durable } => match self.opened(file, "write") {
                Some(inode) if self.aligned(pos, buf.len() as u64, "write") => {
                    self.check_overlap(inode, pos.0, buf.len() as u64);
                    (Work::Write(Write { file, inode, pos: pos.0, buf, durable }), &WRITE)
                }
                _ => (Work::Misused, &[]),
            },
            IoOp::Sync { file } => match self.opened(file, "sync") {
                Some(inode) => {
                    let mark = self.inodes[&inode].mark();
                    let faults = &[Fault::SyncError, Fault::SlowSync];
                    (Work::Sync { file, inode, mark }, faults)
                }
                None => (Work::Misused, &[]),
            },
            IoOp::SyncDir => (Work::SyncDir { mark: self.next_change }, &[Fault::SyncError]),
            IoOp::Remove { file } => {
                self.check_quiet(file, "remove");
                (Work::Remove(file), &[])
            }
            IoOp::Close { file } => {
                self.opened(file, "close");
                self.check_quiet(file, "close");
                (Work::Close(file), &[])
            }
        }
    }

    fn opened(&mut self, file: FileName, verb: &str) -> Option<u64> {
        if self.open.contains(&file) {
            return self.names.get(&file).copied();
        }
        self.misuse.push(format!("{verb} of {file:?}, which is not open"));
        None
    }

    fn aligned(&mut self, pos: FilePos, len: u64, verb: &str) -> bool {
        let block = BLOCK_BYTES as u64;
        let fits = pos.0.is_multiple_of(block) && len.is_multiple_of(block) && len > 0;
        if !fits {
            self.misuse.push(format!("{verb} of {len} bytes at {pos}: not whole blocks"));
        }
        fits
    }

    /// A file is closed or removed only when nothing is in flight on it.
    fn check_quiet(&mut self, file: FileName, verb: &str) {
        let inode = self.names.get(&file);
        if inode.is_some() && self.in_flight.values().any(|r| r.work.inode() == inode.copied()) {
            self.misuse.push(format!("{verb} of {file:?} with a request in flight on it"));
        }
    }

    fn check_overlap(&mut self, inode: u64, pos: u64, len: u64) {
        let overlaps = self.in_flight.values().any(|other| match &other.work {
            Work::Write(w) => {
                w.inode == inode && w.pos < pos + len && pos < w.pos + w.buf.len() as u64
            }
            _ => false,
        });
        if overlaps {
            self.misuse.push(format!("two writes in flight over byte {pos}"));
        }
    }

    /// Ends a request: its effect takes place, and this is what the caller hears.
    pub fn complete(&mut self, ticket: Ticket) -> IoDone {
        let InFlight { id, submitted, work, fault } =
            self.in_flight.remove(&ticket).expect("a request is completed once");
        if fault == Some(Fault::SlowSync) {
            self.faults.record(submitted, Fault::SlowSync, None, FilePos(0));
        }
        let result = match work {
            Work::List => Ok(IoOk::Listed(self.files().collect())),
            Work::Open(file) => self.open(file),
            Work::Create(file) => self.create(submitted, file, fault),
            Work::Read { file, inode, pos, len } => {
                self.read(submitted, (file, inode), pos, len, fault)
            }
            Work::Write(write) => self.write(submitted, write, fault),
            Work::Sync { file, inode, mark } => self.sync(submitted, (file, inode), mark, fault),
            Work::SyncDir { mark } => self.sync_dir(submitted, mark, fault),
            Work::Remove(file) => self.remove(file),
            Work::Close(file) => {
                self.open.remove(&file);
                Ok(IoOk::Done)
            }
            Work::Misused => Err(os_error(22, "invalid argument")),
        };
        IoDone { id, result }
    }

    fn open(&mut self, file: FileName) -> Result<IoOk, IoError> {
        let inode = self.names.get(&file).ok_or(IoError::NotFound)?;
        self.open.insert(file);
        Ok(IoOk::Opened(self.inodes[inode].live().len()))
    }

    fn create(
        &mut self,
        at: Instant,
        file: FileName,
        fault: Option<Fault>,
    ) -> Result<IoOk, IoError> {
        if fault == Some(Fault::NoSpace) {
            self.faults.record(at, Fault::NoSpace, Some(file), FilePos(0));
            return Err(IoError::NoSpace);
        }
        self.next_inode += 1;
        self.inodes.insert(self.next_inode, Inode::default());
        self.change_name(file, Some(self.next_inode));
        self.open.insert(file);
        Ok(IoOk::Done)
    }

    fn remove(&mut self, file: FileName) -> Result<IoOk, IoError> {
        self.open.remove(&file);
        if !self.names.contains_key(&file) {
            return Err(IoError::NotFound);
        }
        self.change_name(file, None);
        Ok(IoOk::Done)
    }

    fn change_name(&mut self, name: FileName, inode: Option<u64>) {
        match inode {
            Some(inode) => self.names.insert(name, inode),
            None => self.names.remove(&name),
        };
        self.next_change += 1;
        self.name_changes.push(NameChange { id: self.next_change, name, inode });
    }

    fn read(
        &mut self,
        at: Instant,
        (file, inode): (FileName, u64),
        pos: u64,
        len: u32,
        fault: Option<Fault>,
    ) -> Result<IoOk, IoError> {
        let live = self.inodes[&inode].live();
        let got = live.len().saturating_sub(pos).min(u64::from(len));
        if got < u64::from(len) {
            return Err(IoError::ShortRead { got });
        }
        let mut bytes = vec![0; len as usize];
        live.read(pos, &mut bytes);
        self.mix_in_flight(inode, pos, &mut bytes);
        match fault {
            Some(fault @ Fault::ReadError) => {
                self.faults.record(at, fault, Some(file), FilePos(pos));
                Err(os_error(EIO, "input/output error"))
            }
            Some(fault @ Fault::ShortRead) => {
                self.faults.record(at, fault, Some(file), FilePos(pos));
                Err(IoError::ShortRead { got: self.rng.below(u64::from(len)) })
            }
            Some(fault @ Fault::ReadFlip) => {
                let hit = self.rng.below(bytes.len() as u64) as usize;
                bytes[hit] ^= 1 << self.rng.below(8);
                self.faults.record(at, fault, Some(file), FilePos(pos + hit as u64));
                Ok(IoOk::Read(IoBuf::new(Box::new(bytes))))
            }
            _ => Ok(IoOk::Read(IoBuf::new(Box::new(bytes)))),
        }
    }

    /// Sectors of writes still in flight may already be visible.
    fn mix_in_flight(&mut self, inode: u64, pos: u64, bytes: &mut [u8]) {
        for other in self.in_flight.values() {
            let Work::Write(w) = &other.work else { continue };
            if w.inode != inode {
                continue;
            }
            for (index, sector) in w.buf.chunks(SECTOR).enumerate() {
                let at = w.pos + (index * SECTOR) as u64;
                let inside = at >= pos && at < pos + bytes.len() as u64;
                if inside && self.rng.chance(1, 2) {
                    let from = (at - pos) as usize;
                    bytes[from..from + SECTOR].copy_from_slice(sector);
                }
            }
        }
    }

    fn write(&mut self, at: Instant, write: Write, fault: Option<Fault>) -> Result<IoOk, IoError> {
        let Write { file, inode, pos, buf, durable } = write;
        let data: &[u8] = &buf;
        let grows = (pos + data.len() as u64).saturating_sub(self.inodes[&inode].live().len());
        if grows > 0 {
            let full = self.used() + grows > self.capacity;
            if full || self.faults.draw(at, &[Fault::NoSpace]).is_some() {
                if !full {
                    self.faults.record(at, Fault::NoSpace, Some(file), FilePos(pos));
                }
                return Err(IoError::NoSpace);
            }
        }
        let sectors = data.len() / SECTOR;
        let node = self.inodes.get_mut(&inode).expect("an open file has an inode");
        if let Some(fault) = fault.filter(|f| *f != Fault::SlowSync) {
            self.faults.record(at, fault, Some(file), FilePos(pos));
            match fault {
                Fault::WriteError => {
                    let reached = Reached::draw(&mut self.rng, data);
                    node.write_torn(&mut self.rng, pos, data, reached);
                    return Err(os_error(EIO, "input/output error"));
                }
                Fault::ShortWrite => {
                    let reached = self.rng.below(sectors as u64) as usize;
                    node.write_torn(&mut self.rng, pos, data, Reached::Prefix(reached));
                    return Err(IoError::ShortWrite { got: (reached * SECTOR) as u64 });
                }
                Fault::LostWrite => {}
                Fault::Misdirected => self.misdirect(inode, data, durable),
                Fault::MediaFlip => {
                    let mut flipped = data.to_vec();
                    flipped[self.rng.below(data.len() as u64) as usize] ^= 1 << self.rng.below(8);
                    node.write(pos, &flipped, durable);
                }
                other => unreachable!("{other:?} is not drawn for writes"),
            }
        } else {
            node.write(pos, data, durable);
        }
        if matches!(file, FileName::Segment(_)) {
            self.completed_log_writes += 1;
        }
        Ok(IoOk::Written(buf))
    }

    /// Puts a write somewhere else: at another block of the same file or of another segment.
    fn misdirect(&mut self, inode: u64, data: &[u8], durable: bool) {
        let segments: Vec<(FileName, u64)> = self
            .names
            .iter()
            .filter(|(name, _)| matches!(name, FileName::Segment(_)))
            .map(|(name, inode)| (*name, *inode))
            .collect();
        let other = if self.rng.chance(1, 2) && !segments.is_empty() {
            segments[self.rng.below(segments.len() as u64) as usize].1
        } else {
            inode
        };
        let node = self.inodes.get_mut(&other).expect("a listed file has an inode");
        let blocks = node.live().len() / BLOCK_BYTES as u64;
        let fitting = blocks.saturating_sub((data.len() / BLOCK_BYTES) as u64) + 1;
        let landed = self.rng.below(fitting) * BLOCK_BYTES as u64;
        node.write(landed, data, durable);
        let name = self.names.iter().find(|(_, i)| **i == other).map(|(name, _)| *name);
        if let (Some(name), Some(last)) = (name, self.faults.injected.last_mut()) {
            last.landed = Some((name, FilePos(landed)));
        }
    }

    fn sync(
        &mut self,
        at: Instant,
        (file, inode): (FileName, u64),
        mark: u64,
        fault: Option<Fault>,
    ) -> Result<IoOk, IoError> {
        let node = self.inodes.get_mut(&inode).expect("an open file has an inode");
        if fault == Some(Fault::SyncError) {
            node.fail_sync(&mut self.rng, mark);
            self.faults.record(at, Fault::SyncError, Some(file), FilePos(0));
            return Err(os_error(EIO, "input/output error"));
        }
        node.sync(mark);
        Ok(IoOk::Done)
    }

    fn sync_dir(&mut self, at: Instant, mark: u64, fault: Option<Fault>) -> Result<IoOk, IoError> {
        if fault == Some(Fault::SyncError) {
            self.faults.record(at, Fault::SyncError, None, FilePos(0));
            return Err(os_error(EIO, "input/output error"));
        }
        let (covered, later) = self.name_changes.drain(..).partition(|c| c.id <= mark);
        self.name_changes = later;
        self.make_durable(covered);
        Ok(IoOk::Done)
    }

    fn make_durable(&mut self, changes: Vec<NameChange>) {
        for NameChange { name, inode, .. } in changes {
            match inode {
                Some(inode) => self.durable_names.insert(name, inode),
                None => self.durable_names.remove(&name),
            };
        }
        self.drop_orphans();
    }

    fn drop_orphans(&mut self) {
        let kept: BTreeSet<u64> = self
            .names
            .values()
            .chain(self.durable_names.values())
            .copied()
            .chain(self.name_changes.iter().filter_map(|c| c.inode))
            .chain(self.in_flight.values().filter_map(|r| r.work.inode()))
            .collect();
        self.inodes.retain(|inode, _| kept.contains(inode));
    }

    /// The process died; the machine did not. Requests in flight happened or not, and what was not
    /// durable stays so, although it can be read.
    pub fn kill(&mut self) {
        for (_, request) in std::mem::take(&mut self.in_flight) {
            match request.work {
                Work::Write(w) => {
                    let reached = Reached::draw(&mut self.rng, &w.buf);
                    let node = self.inodes.get_mut(&w.inode).expect("an open file has an inode");
                    let grows = (w.pos + w.buf.len() as u64).saturating_sub(node.live().len());
                    if grows == 0 || self.used() + grows <= self.capacity {
                        let node = self.inodes.get_mut(&w.inode).expect("looked up above");
                        node.write_torn(&mut self.rng, w.pos, &w.buf, reached);
                    }
                }
                Work::Create(file) if self.rng.chance(1, 2) => {
                    let created = self.create(Instant::default(), file, None);
                    assert!(created.is_ok(), "a create without a fault succeeds");
                }
                Work::Remove(file) if self.rng.chance(1, 2) && self.names.contains_key(&file) => {
                    self.change_name(file, None);
                }
                Work::Sync { inode, mark, .. } if self.rng.chance(1, 2) => {
                    self.inodes.get_mut(&inode).expect("an open file has an inode").sync(mark);
                }
                Work::SyncDir { mark } if self.rng.chance(1, 2) => {
                    let done = self.sync_dir(Instant::default(), mark, None);
                    assert!(done.is_ok(), "a directory sync without a fault succeeds");
                }
                _ => {}
            }
        }
        self.open.clear();
        self.faults.restart();
    }

    /// The machine lost power: of what was not durable, any sector and any name may be gone.
    pub fn power_loss(&mut self) {
        self.kill();
        let changes = std::mem::take(&mut self.name_changes);
        let kept = changes.into_iter().filter(|_| self.rng.chance(1, 2)).collect();
        self.make_durable(kept);
        self.names = self.durable_names.clone();
        self.drop_orphans();
        for inode in self.inodes.values_mut() {
            inode.power_loss(&mut self.rng);
        }
    }

    /// Inverts a random bit of a random block that was written. Returns false when there is none.
    pub fn decay(&mut self, now: Instant) -> bool {
        let mut blocks = Vec::new();
        for (name, inode) in self.names.iter().filter(|(_, i)| !self.inodes[*i].is_dirty()) {
            let written = self.inodes[inode].durable().written_blocks();
            blocks.extend(written.into_iter().map(|pos| (*name, *inode, pos)));
        }
        if blocks.is_empty() {
            return false;
        }
        let (name, inode, block) = blocks[self.rng.below(blocks.len() as u64) as usize];
        let pos = block + self.rng.below(BLOCK_BYTES as u64);
        let bit = self.rng.below(8) as u8;
        self.inodes.get_mut(&inode).expect("a listed file has an inode").flip(pos, bit);
        self.faults.record(now, Fault::MediaFlip, Some(name), FilePos(pos));
        true
    }
}

fn os_error(errno: i32, message: &str) -> IoError {
    IoError::Os { errno, message: message.to_owned() }
}
