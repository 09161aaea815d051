//! Values larger than one record: where their chunks lie.
//!
//! A large value is written as `Chunk` records, which nobody can see, and one `PutChunked` record
//! that makes them a value. An *upload* is the set of chunks; its id is the offset of its first
//! chunk, so it is unique in the partition for ever.

use std::collections::BTreeMap;

use ironring_core::{Offset, SegmentId};
use ironring_log::Location;

/// A chunk that has not been seen (yet).
const NOWHERE: Location = Location { segment: SegmentId(0), pos: 0, len: 0 };

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Upload {
    chunks: Vec<Location>,
    /// Version of the value it became; [`Offset::NONE`] while it is not one.
    version: Offset,
}

/// The large values of one partition, visible and on their way.
#[derive(Clone, Debug, Default)]
pub struct LargeValues {
    uploads: BTreeMap<Offset, Upload>,
    by_version: BTreeMap<Offset, Offset>,
}

impl LargeValues {
    /// A chunk lies at `at`; returns where it lay before, if anywhere.
    pub fn set_chunk(&mut self, upload: Offset, index: u32, at: Location) -> Option<Location> {
        let chunks = &mut self.uploads.entry(upload).or_default().chunks;
        let index = index as usize;
        if chunks.len() <= index {
            chunks.resize(index + 1, NOWHERE);
        }
        let before = std::mem::replace(&mut chunks[index], at);
        (before != NOWHERE && before != at).then_some(before)
    }

    /// The upload became the value with this version, of so many chunks. Those that were not seen yet
    /// may still come.
    pub fn finish(&mut self, upload: Offset, version: Offset, chunks: u32) {
        let found = self.uploads.entry(upload).or_default();
        found.version = version;
        if found.chunks.len() < chunks as usize {
            found.chunks.resize(chunks as usize, NOWHERE);
        }
        self.by_version.insert(version, upload);
    }

    /// Where the chunks of a value lie that were seen, in order.
    pub fn chunks(&self, version: Offset) -> impl Iterator<Item = Location> {
        let upload = self.by_version.get(&version).and_then(|upload| self.uploads.get(upload));
        let chunks = upload.map_or(&[][..], |upload| &upload.chunks);
        chunks.iter().copied().filter(|at| *at != NOWHERE)
    }

    /// Where all chunks of a value lie, in order; `None` while one of them was not seen.
    #[must_use]
    pub fn whole(&self, version: Offset) -> Option<&[Location]> {
        let upload = self.uploads.get(self.by_version.get(&version)?)?;
        (!upload.chunks.contains(&NOWHERE)).then_some(upload.chunks.as_slice())
    }

    /// The value is superseded: forgets it and tells which chunks died.
    pub fn remove(&mut self, version: Offset) -> Vec<Location> {
        match self.by_version.remove(&version) {
            Some(upload) => self.abort(upload),
            None => Vec::new(),
        }
    }

    /// The upload will never be a value: forgets it and tells which chunks died.
    pub fn abort(&mut self, upload: Offset) -> Vec<Location> {
        let Some(gone) = self.uploads.remove(&upload) else { return Vec::new() };
        self.by_version.remove(&gone.version);
        gone.chunks.into_iter().filter(|at| *at != NOWHERE).collect()
    }

    /// True when the chunk at `at` is the current copy of a chunk that is needed.
    #[must_use]
    pub fn holds(&self, upload: Offset, index: u32, at: Location) -> bool {
        self.uploads.get(&upload).and_then(|u| u.chunks.get(index as usize)) == Some(&at)
    }

    /// Where a chunk lies.
    #[must_use]
    pub fn place(&self, upload: Offset, index: u32) -> Option<Location> {
        let chunks = &self.uploads.get(&upload)?.chunks;
        chunks.get(index as usize).copied().filter(|at| *at != NOWHERE)
    }

    /// True when the chunk is needed, wherever its copies lie, or will be when it comes.
    #[must_use]
    pub fn has(&self, upload: Offset, index: u32) -> bool {
        self.uploads.get(&upload).is_some_and(|u| u.chunks.len() > index as usize)
    }

    /// True when there is neither a large value nor an upload.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.uploads.is_empty()
    }

    /// Every upload: id, version ([`Offset::NONE`] while unfinished), chunks. For the checkpoint.
    pub fn iter(&self) -> impl Iterator<Item = (Offset, Offset, &[Location])> {
        self.uploads.iter().map(|(id, u)| (*id, u.version, u.chunks.as_slice()))
    }

    /// Memory held, in bytes, to the accuracy the memory ceiling needs.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.uploads.len() * 96
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(pos: u32) -> Location {
        Location { segment: SegmentId(1), pos, len: 10 }
    }

    #[test]
    fn chunks_in_any_order_become_a_value_and_die_with_it() {
        let mut large = LargeValues::default();
        assert_eq!(large.set_chunk(Offset(5), 1, at(200)), None);
        assert_eq!(large.set_chunk(Offset(5), 0, at(100)), None);
        assert_eq!(large.iter().next().map(|u| u.1), Some(Offset::NONE));
        large.finish(Offset(5), Offset(7), 2);
        assert_eq!(large.whole(Offset(7)), Some(&[at(100), at(200)][..]));
        assert_eq!(large.set_chunk(Offset(5), 1, at(900)), Some(at(200)), "relocated");
        assert!(large.holds(Offset(5), 1, at(900)) && !large.holds(Offset(5), 1, at(200)));
        assert_eq!(large.remove(Offset(7)), [at(100), at(900)]);
        assert_eq!((large.whole(Offset(7)), large.chunks(Offset(7)).count()), (None, 0));
        assert!(large.remove(Offset(7)).is_empty());
    }
}
