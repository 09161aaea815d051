//! A small key-value owner of a log: what a shard does, with nothing else.

use std::collections::BTreeMap;

use ironring_core::{GroupSeq, Offset, PartitionId, SessionId, Term, WallTime};

use crate::{
    CheckpointSource, Keep, Location, LogSink, ReadError, ReadId, Record, RecordKind, RestoreError,
};

/// A record by value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    pub kind: RecordKind,
    pub offset: u64,
    pub key: Vec<u8>,
    pub body: Vec<u8>,
}

impl Owned {
    pub fn of(record: &Record<'_>) -> Owned {
        Owned {
            kind: record.kind,
            offset: record.offset.0,
            key: record.key.to_vec(),
            body: record.body.to_vec(),
        }
    }
}

/// A record with everything else at fixed values.
pub fn record<'a>(kind: RecordKind, offset: u64, key: &'a [u8], body: &'a [u8]) -> Record<'a> {
    Record {
        kind,
        flags: 0,
        partition: PartitionId(3),
        term: Term(1),
        offset: Offset(offset),
        session: SessionId::NONE,
        sequence: 0,
        time: WallTime(1_700_000_000_000),
        expires: WallTime(0),
        key,
        body,
    }
}

#[derive(Debug, Default)]
pub struct Owner {
    /// Key to (offset, location) of its newest record; a deleted key has none.
    pub index: BTreeMap<Vec<u8>, (u64, Option<Location>)>,
    pub replayed: Vec<Owned>,
    pub flushed: Vec<(GroupSeq, Vec<Owned>)>,
    pub reads: BTreeMap<ReadId, Result<Owned, ReadError>>,
    /// Old places of relocated records, with the group of the copy.
    pub relocated: Vec<(Location, Location, GroupSeq)>,
    /// Locations that stopped being needed in a callback: told to the log after it.
    pub dead: Vec<Location>,
    pub restored_pieces: usize,
    pub refuse_restore: bool,
    pub cursor: Option<Option<Vec<u8>>>,
    /// Entries a checkpoint piece holds.
    pub piece_entries: usize,
    /// Bytes added to each piece, so that checkpoints have a size.
    pub piece_padding: usize,
}

impl Owner {
    /// Applies a record at its place; idempotent by offset.
    pub fn apply(&mut self, at: Location, record: &Record<'_>) {
        let new = (record.offset.0, (record.kind == RecordKind::Put).then_some(at));
        if record.kind != RecordKind::Put && record.kind != RecordKind::Delete {
            return;
        }
        match self.index.get(record.key) {
            Some((offset, _)) if *offset > new.0 => {}
            Some((offset, Some(old))) if *offset == new.0 => {
                self.dead.push(*old);
                self.index.insert(record.key.to_vec(), new);
            }
            old => {
                self.dead.extend(old.and_then(|(_, at)| *at));
                self.index.insert(record.key.to_vec(), new);
            }
        }
    }
}

impl LogSink for Owner {
    fn restore(&mut self, piece: &[u8]) -> Result<(), RestoreError> {
        if self.refuse_restore {
            return Err(RestoreError("told to refuse".to_owned()));
        }
        self.restored_pieces += 1;
        let mut rest = piece;
        let mut take = |n: usize| {
            let (a, b) = rest.split_at(n);
            rest = b;
            a.to_vec()
        };
        let int = |b: Vec<u8>| u32::from_le_bytes(b.try_into().unwrap());
        let count = int(take(4));
        for _ in 0..count {
            let key_len = int(take(4)) as usize;
            let key = take(key_len);
            let offset = u64::from_le_bytes(take(8).try_into().unwrap());
            let (segment, pos, len) = (int(take(4)), int(take(4)), int(take(4)));
            let at = Location { segment: ironring_core::SegmentId(segment), pos, len };
            self.index.insert(key, (offset, (segment != 0).then_some(at)));
        }
        Ok(())
    }

    fn replay(&mut self, at: Location, _group: GroupSeq, record: &Record<'_>) {
        self.replayed.push(Owned::of(record));
        self.apply(at, record);
    }

    fn flushed(
        &mut self,
        group: GroupSeq,
        records: &mut dyn Iterator<Item = (Location, Record<'_>)>,
    ) {
        self.flushed.push((group, records.map(|(_, r)| Owned::of(&r)).collect()));
    }

    fn read_done(&mut self, read: ReadId, _at: Location, result: Result<Record<'_>, ReadError>) {
        let old = self.reads.insert(read, result.map(|r| Owned::of(&r)));
        assert!(old.is_none(), "a read is answered once");
    }

    fn keep(&mut self, at: Location, record: &Record<'_>) -> Keep {
        match self.index.get(record.key) {
            Some((_, Some(place))) if *place == at => Keep::Live,
            _ => Keep::Drop,
        }
    }

    fn relocated(&mut self, from: Location, to: Location, group: GroupSeq, record: &Record<'_>) {
        let entry = self.index.get_mut(record.key).expect("only live records are relocated");
        assert_eq!(entry.1, Some(from));
        entry.1 = Some(to);
        self.relocated.push((from, to, group));
    }
}

impl CheckpointSource for Owner {
    fn begin(&mut self) {
        self.cursor = Some(None);
    }

    fn next_piece(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(after) = self.cursor.clone() else { return false };
        let from = match after {
            None => std::ops::Bound::Unbounded,
            Some(key) => std::ops::Bound::Excluded(key),
        };
        let range = (from, std::ops::Bound::Unbounded);
        let entries: Vec<_> =
            self.index.range::<Vec<u8>, _>(range).take(self.piece_entries.max(1)).collect();
        let Some((last, _)) = entries.last() else {
            self.cursor = None;
            return false;
        };
        out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
        for (key, (offset, at)) in &entries {
            out.extend_from_slice(&(key.len() as u32).to_le_bytes());
            out.extend_from_slice(key);
            out.extend_from_slice(&offset.to_le_bytes());
            let at = at.map_or([0; 3], |at| [at.segment.0, at.pos, at.len]);
            at.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
        }
        out.resize(out.len() + self.piece_padding, 0xEE);
        self.cursor = Some(Some((*last).clone()));
        true
    }
}
