//! A directory in memory. It executes each operation at once, so that a bench sees the cost of
//! the code above the device, plus one copy of what is written or read.

use std::collections::BTreeMap;

use ironring_core::io::{FileName, IoBuf, IoError, IoOk, IoOp};

/// Files by name.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    files: BTreeMap<FileName, Vec<u8>>,
}

impl MemoryDisk {
    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.len() as u64).sum()
    }

    /// Executes one operation in full.
    ///
    /// # Errors
    /// A file that does not exist; a read past the end.
    pub fn execute(&mut self, op: IoOp) -> Result<IoOk, IoError> {
        match op {
            IoOp::List => {
                let names = self.files.iter().map(|(name, file)| (*name, file.len() as u64));
                Ok(IoOk::Listed(names.collect()))
            }
            IoOp::Open { file } => Ok(IoOk::Opened(self.file(file)?.len() as u64)),
            IoOp::Create { file } => {
                self.files.insert(file, Vec::new());
                Ok(IoOk::Done)
            }
            IoOp::ReadAt { file, pos, len } => {
                let bytes = self.file(file)?;
                let start = (pos.0 as usize).min(bytes.len());
                let end = (start + len as usize).min(bytes.len());
                if end - start < len as usize {
                    return Err(IoError::ShortRead { got: (end - start) as u64 });
                }
                Ok(IoOk::Read(IoBuf::new(Box::new(bytes[start..end].to_vec()))))
            }
            IoOp::WriteAt { file, pos, buf, .. } => {
                let bytes = self.file(file)?;
                let start = pos.0 as usize;
                let end = start + buf.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[start..end].copy_from_slice(&buf);
                Ok(IoOk::Written(buf))
            }
            IoOp::Remove { file } => {
                self.files.remove(&file).ok_or(IoError::NotFound)?;
                Ok(IoOk::Done)
            }
            IoOp::Sync { .. } | IoOp::SyncDir | IoOp::Close { .. } => Ok(IoOk::Done),
        }
    }

    fn file(&mut self, name: FileName) -> Result<&mut Vec<u8>, IoError> {
        self.files.get_mut(&name).ok_or(IoError::NotFound)
    }
}
