//! A directory in memory: what is durable, what is only written, faults on demand.

use std::collections::{BTreeMap, BTreeSet};

use ironring_core::io::{FileName, IoBuf, IoError, IoOk, IoOp};
use ironring_core::prng::Prng;

const SECTOR: usize = 512;

#[derive(Clone, Debug, Default)]
pub struct MemFile {
    /// What a read sees.
    pub now: Vec<u8>,
    /// What a power failure leaves for certain.
    durable: Vec<u8>,
    /// Ranges written since the last sync.
    unsynced: Vec<(usize, usize)>,
}

/// A fault to inject: the first operation with this name on this file (any when `None`) fails.
#[derive(Clone, Debug)]
pub struct Fault {
    pub op: &'static str,
    pub file: Option<FileName>,
    pub error: IoError,
    /// Operations that match and still succeed first.
    pub skip: usize,
    /// Stays after it struck.
    pub sticky: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub files: BTreeMap<FileName, MemFile>,
    durable_names: BTreeSet<FileName>,
    /// Files that were removed and whose names are still durable.
    ghosts: BTreeMap<FileName, MemFile>,
    opened: BTreeSet<FileName>,
    pub faults: Vec<Fault>,
    /// Bytes all files may have; `None`: no limit.
    pub capacity: Option<u64>,
    pub reads: u64,
}

pub fn name_of(op: &IoOp) -> (&'static str, Option<FileName>) {
    match op {
        IoOp::List => ("list", None),
        IoOp::Open { file } => ("open", Some(*file)),
        IoOp::Create { file } => ("create", Some(*file)),
        IoOp::ReadAt { file, .. } => ("read", Some(*file)),
        IoOp::WriteAt { file, .. } => ("write", Some(*file)),
        IoOp::Sync { file } => ("sync", Some(*file)),
        IoOp::SyncDir => ("syncdir", None),
        IoOp::Remove { file } => ("remove", Some(*file)),
        IoOp::Close { file } => ("close", Some(*file)),
    }
}

impl Disk {
    fn fault(&mut self, op: &IoOp) -> Option<IoError> {
        let (name, file) = name_of(op);
        let matches = |f: &Fault| f.op == name && (f.file.is_none() || f.file == file);
        let i = self.faults.iter().position(matches)?;
        if self.faults[i].skip > 0 {
            self.faults[i].skip -= 1;
            return None;
        }
        let error = self.faults[i].error.clone();
        if !self.faults[i].sticky {
            self.faults.remove(i);
        }
        Some(error)
    }

    pub fn bytes(&self) -> u64 {
        self.files.values().map(|f| f.now.len() as u64).sum()
    }

    fn open_file(&mut self, file: FileName) -> &mut MemFile {
        assert!(self.opened.contains(&file), "{file:?} is used while it is not open");
        self.files.get_mut(&file).expect("open files exist")
    }

    /// Executes one operation in full.
    pub fn execute(&mut self, op: IoOp) -> Result<IoOk, IoError> {
        if let Some(error) = self.fault(&op) {
            return Err(error);
        }
        match op {
            IoOp::List => {
                let all = self.files.iter().map(|(name, f)| (*name, f.now.len() as u64));
                Ok(IoOk::Listed(all.collect()))
            }
            IoOp::Open { file } => {
                let len = self.files.get(&file).ok_or(IoError::NotFound)?.now.len() as u64;
                self.opened.insert(file);
                Ok(IoOk::Opened(len))
            }
            IoOp::Create { file } => {
                if let Some(old) = self.files.remove(&file)
                    && self.durable_names.contains(&file)
                {
                    self.ghosts.entry(file).or_insert(old);
                }
                self.files.insert(file, MemFile::default());
                self.opened.insert(file);
                Ok(IoOk::Done)
            }
            IoOp::ReadAt { file, pos, len } => {
                self.reads += 1;
                let bytes = &self.open_file(file).now;
                let (start, end) = (pos.0 as usize, pos.0 as usize + len as usize);
                if end > bytes.len() {
                    return Err(IoError::ShortRead {
                        got: bytes.len().saturating_sub(start) as u64,
                    });
                }
                Ok(IoOk::Read(IoBuf::new(Box::new(bytes[start..end].to_vec()))))
            }
            IoOp::WriteAt { file, pos, buf, durable } => {
                let start = pos.0 as usize;
                assert!(start.is_multiple_of(4096) && buf.len().is_multiple_of(4096), "direct I/O");
                let end = start + buf.len();
                let grows = end.saturating_sub(self.open_file(file).now.len()) as u64;
                if self.capacity.is_some_and(|max| self.bytes() + grows > max) {
                    return Err(IoError::NoSpace);
                }
                let f = self.open_file(file);
                put(&mut f.now, start, &buf);
                if durable {
                    put(&mut f.durable, start, &buf);
                } else {
                    f.unsynced.push((start, end));
                }
                Ok(IoOk::Written(buf))
            }
            IoOp::Sync { file } => {
                let f = self.open_file(file);
                f.durable = f.now.clone();
                f.unsynced.clear();
                Ok(IoOk::Done)
            }
            IoOp::SyncDir => {
                self.durable_names = self.files.keys().copied().collect();
                self.ghosts.clear();
                Ok(IoOk::Done)
            }
            IoOp::Remove { file } => {
                let old = self.files.remove(&file).ok_or(IoError::NotFound)?;
                self.opened.remove(&file);
                if self.durable_names.contains(&file) {
                    self.ghosts.entry(file).or_insert(old);
                }
                Ok(IoOk::Done)
            }
            IoOp::Close { file } => {
                assert!(self.opened.remove(&file), "{file:?} is closed while it is not open");
                Ok(IoOk::Done)
            }
        }
    }

    /// The process ends in order: nothing is lost.
    pub fn close_all(&mut self) {
        self.opened.clear();
    }

    /// The process dies: requests in flight happen in part, and what is written stays readable,
    /// but only what was synced survives a power failure later.
    pub fn kill(&mut self, in_flight: Vec<IoOp>, rng: &mut Prng) {
        self.opened.clear();
        for op in in_flight {
            if let IoOp::WriteAt { file, pos, buf, .. } = op
                && let Some(f) = self.files.get_mut(&file)
            {
                // All of it, none of it, or each sector by itself.
                let how = rng.below(3);
                for (i, sector) in buf.chunks(SECTOR).enumerate() {
                    if how == 0 || (how == 1 && rng.chance(1, 2)) {
                        let start = pos.0 as usize + i * SECTOR;
                        put(&mut f.now, start, sector);
                        f.unsynced.push((start, start + sector.len()));
                    }
                }
            }
        }
    }

    /// Power fails: requests in flight happen in part or not at all, sector by sector; so do writes
    /// that were not synced; names that were not synced may be as before.
    pub fn crash(&mut self, in_flight: Vec<IoOp>, rng: &mut Prng) {
        self.kill(in_flight, rng);
        for (name, ghost) in std::mem::take(&mut self.ghosts) {
            if rng.chance(1, 2) {
                self.files.insert(name, ghost);
            }
        }
        let names: Vec<FileName> = self.files.keys().copied().collect();
        for name in names {
            if !self.durable_names.contains(&name) && rng.chance(1, 2) {
                self.files.remove(&name);
            }
        }
        self.durable_names = self.files.keys().copied().collect();
        for f in self.files.values_mut() {
            let mut left = f.durable.clone();
            for (start, end) in std::mem::take(&mut f.unsynced) {
                let mut at = start;
                while at < end {
                    let to = (at + SECTOR).min(end);
                    if rng.chance(1, 2) {
                        put(&mut left, at, &f.now[at..to]);
                    }
                    at = to;
                }
            }
            f.durable = left.clone();
            f.now = left;
        }
    }

    /// Changes one bit of what is stored.
    pub fn flip(&mut self, file: FileName, byte: usize) {
        self.edit(file, |bytes| bytes[byte] ^= 0x10);
    }

    /// Changes what is stored.
    pub fn edit(&mut self, file: FileName, change: impl Fn(&mut Vec<u8>)) {
        let f = self.files.get_mut(&file).expect("the test knows its files");
        change(&mut f.now);
        f.durable = f.now.clone();
    }

    pub fn contents(&self, file: FileName) -> &[u8] {
        &self.files[&file].now
    }
}

fn put(bytes: &mut Vec<u8>, start: usize, new: &[u8]) {
    if bytes.len() < start + new.len() {
        bytes.resize(start + new.len(), 0);
    }
    bytes[start..start + new.len()].copy_from_slice(new);
}
