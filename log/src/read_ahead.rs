//! Reads a range of a file in order, several chunks in flight: sequential speed for recovery.

use std::collections::VecDeque;

use ironring_core::FilePos;
use ironring_core::io::{FileName, IoBuf, IoOp};

/// Bytes of one chunk.
pub(crate) const CHUNK_BYTES: u32 = 1 << 20;
/// Chunks in flight or waiting to be taken.
const DEPTH: usize = 4;

/// A window of chunks over `next..end` of a file. Chunks are numbered through the whole life of
/// the reader, so completions of a range that was given up are recognised and dropped.
#[derive(Debug)]
pub(crate) struct ReadAhead {
    file: FileName,
    next: u64,
    end: u64,
    /// Number of the chunk that `ready`'s front stands for.
    first: u64,
    ready: VecDeque<Option<IoBuf>>,
}

impl ReadAhead {
    /// Nothing to read until [`ReadAhead::restart`].
    pub fn new() -> ReadAhead {
        ReadAhead { file: FileName::Superblock, next: 0, end: 0, first: 0, ready: VecDeque::new() }
    }

    /// Gives up the old range and reads `start..end` of `file`, both multiples of the block.
    pub fn restart(&mut self, file: FileName, start: u64, end: u64) {
        self.first += self.ready.len() as u64;
        self.ready.clear();
        self.file = file;
        self.next = start;
        self.end = end;
    }

    /// Does not read past `end` (requests in flight are not recalled).
    pub fn stop_at(&mut self, end: u64) {
        self.end = self.end.min(end);
    }

    /// Reads on to `end` after all.
    pub fn extend_to(&mut self, end: u64) {
        self.end = end;
    }

    /// The next request to make with its chunk number, if there is room in the window.
    pub fn next_request(&mut self) -> Option<(u64, IoOp)> {
        if self.next >= self.end || self.ready.len() >= DEPTH {
            return None;
        }
        let len = u64::from(CHUNK_BYTES).min(self.end - self.next);
        let number = self.first + self.ready.len() as u64;
        let op = IoOp::ReadAt { file: self.file, pos: FilePos(self.next), len: len as u32 };
        self.next += len;
        self.ready.push_back(None);
        Some((number, op))
    }

    /// A chunk arrived, in any order.
    pub fn arrived(&mut self, number: u64, buf: IoBuf) {
        if let Some(i) = number.checked_sub(self.first)
            && let Some(place) = self.ready.get_mut(i as usize)
        {
            *place = Some(buf);
        }
    }

    /// True when `number` belongs to the range read at present.
    pub fn wants(&self, number: u64) -> bool {
        number >= self.first && number < self.first + self.ready.len() as u64
    }

    /// The next chunk in file order, when it is there.
    pub fn take(&mut self) -> Option<IoBuf> {
        self.ready.front()?.as_ref()?;
        self.first += 1;
        self.ready.pop_front().flatten()
    }

    /// Everything up to the end was taken.
    pub fn exhausted(&self) -> bool {
        self.next >= self.end && self.ready.is_empty()
    }
}
