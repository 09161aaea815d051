//! Lists inside messages, kept encoded: a count and the entries one after the other.
//!
//! A list is a pair of a number and borrowed bytes, so it is `Copy` and costs nothing to pass on.
//! It can only be made by a builder or by `from_bytes`, which walks every entry; so iterating never
//! fails. `as_bytes` and `from_bytes` let a server store a list as it came and read it again later.
//! The entry layouts are in `docs/protocol.md`.

use ironring_core::limits::{
    APPEND_RECORDS_MAX, BATCH_OPS_MAX, FRAME_BODY_BYTES_MAX, RECORD_BYTES_MAX, SCAN_ENTRIES_MAX,
    VALUE_BYTES_MAX,
};

use crate::error::BodyError;
use crate::message::{AppendRecord, BatchOp, ScanEntry, TopicRecord, ValueRef};
use crate::wire::Reader;

mod request;
mod response;

pub(crate) use request::{read_condition, write_condition};

/// Most bytes a [`BatchList`] or [`AppendList`] holds, so that one log record can hold the list and
/// up to 1 KiB of the server's own words about it.
pub const STORED_LIST_BYTES_MAX: usize = RECORD_BYTES_MAX - 1024;

/// Most bytes a list of an answer (or of keys) holds, so that a frame can hold the list and up to
/// 64 bytes of the message around it.
pub const LIST_BYTES_MAX: usize = FRAME_BODY_BYTES_MAX - 64;

/// Most entries of a [`RecordList`]: that many empty records fill a frame.
pub const RECORDS_MAX: usize = APPEND_RECORDS_MAX;

/// One entry of a list.
pub(crate) trait Entry<'a>: Sized {
    /// Takes one entry off the reader, checking every limit.
    fn read(reader: &mut Reader<'a>) -> Result<Self, BodyError>;
    /// Appends one entry, or nothing when a limit is exceeded.
    fn write(&self, out: &mut Vec<u8>) -> Result<(), BodyError>;
}

macro_rules! encoded_list {
    ($(#[$doc:meta])* $list:ident, $iter:ident, $builder:ident, $item:ty,
     what: $what:literal, count_max: $count_max:expr, bytes_max: $bytes_max:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $list<'a> {
            count: u32,
            bytes: &'a [u8],
        }

        impl<'a> $list<'a> {
            /// Most entries.
            pub const COUNT_MAX: usize = $count_max;
            /// Most encoded bytes.
            pub const BYTES_MAX: usize = $bytes_max;

            /// The list of `count` entries that `bytes` hold. Walks every entry, copies none.
            ///
            /// # Errors
            /// When a limit is exceeded, or the bytes are not exactly `count` entries.
            pub fn from_bytes(count: u32, bytes: &'a [u8]) -> Result<Self, BodyError> {
                crate::wire::within(count as usize, Self::COUNT_MAX, $what)?;
                crate::wire::within(bytes.len(), Self::BYTES_MAX, concat!("bytes of ", $what))?;
                let mut reader = Reader::new(bytes);
                for _ in 0..count {
                    <$item as Entry<'a>>::read(&mut reader)?;
                }
                reader.finish()?;
                Ok($list { count, bytes })
            }

            /// How many entries.
            #[must_use]
            pub fn len(&self) -> usize {
                self.count as usize
            }

            /// How many entries, as the wire has it.
            #[must_use]
            pub fn count(&self) -> u32 {
                self.count
            }

            /// True when there is no entry.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.count == 0
            }

            /// The encoded entries; `from_bytes` with the same count gives the list again.
            #[must_use]
            pub fn as_bytes(&self) -> &'a [u8] {
                self.bytes
            }

            /// The entries, in order.
            #[must_use]
            pub fn iter(&self) -> $iter<'a> {
                $iter { left: self.count, reader: Reader::new(self.bytes) }
            }
        }

        impl<'a> IntoIterator for $list<'a> {
            type Item = $item;
            type IntoIter = $iter<'a>;

            fn into_iter(self) -> $iter<'a> {
                self.iter()
            }
        }

        impl<'a> IntoIterator for &$list<'a> {
            type Item = $item;
            type IntoIter = $iter<'a>;

            fn into_iter(self) -> $iter<'a> {
                self.iter()
            }
        }

        #[doc = concat!("Iterates a [`", stringify!($list), "`].")]
        #[derive(Clone, Copy, Debug)]
        pub struct $iter<'a> {
            left: u32,
            reader: Reader<'a>,
        }

        impl<'a> Iterator for $iter<'a> {
            type Item = $item;

            fn next(&mut self) -> Option<$item> {
                self.left = self.left.checked_sub(1)?;
                let entry = <$item as Entry<'a>>::read(&mut self.reader);
                Some(entry.expect("from_bytes and the builder admit only whole entries"))
            }

            fn size_hint(&self) -> (usize, Option<usize>) {
                (self.left as usize, Some(self.left as usize))
            }
        }

        impl ExactSizeIterator for $iter<'_> {}

        #[doc = concat!("Encodes a [`", stringify!($list), "`] into a buffer of the caller.")]
        #[derive(Debug)]
        pub struct $builder<'b> {
            count: u32,
            out: &'b mut Vec<u8>,
        }

        impl<'b> $builder<'b> {
            /// An empty list. What `out` held is dropped, its memory is used again.
            pub fn new(out: &'b mut Vec<u8>) -> Self {
                out.clear();
                $builder { count: 0, out }
            }

            /// Adds an entry.
            ///
            /// # Errors
            /// When a limit is exceeded; the list is as before.
            pub fn push<'a>(&mut self, entry: $item) -> Result<(), BodyError> {
                crate::wire::within(self.len() + 1, $list::COUNT_MAX, $what)?;
                let before = self.out.len();
                entry.write(self.out)?;
                let bytes = self.out.len();
                if bytes > $list::BYTES_MAX {
                    self.out.truncate(before);
                    let field = concat!("bytes of ", $what);
                    let max = $list::BYTES_MAX as u64;
                    return Err(BodyError::TooLarge { field, len: bytes as u64, max });
                }
                self.count += 1;
                Ok(())
            }

            /// How many entries so far.
            #[must_use]
            pub fn len(&self) -> usize {
                self.count as usize
            }

            /// True when there is no entry yet.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.count == 0
            }

            /// Encoded bytes so far.
            #[must_use]
            pub fn bytes_len(&self) -> usize {
                self.out.len()
            }

            /// The list.
            #[must_use]
            pub fn finish(self) -> $list<'b> {
                $list { count: self.count, bytes: self.out }
            }
        }
    };
}

encoded_list!(
    /// Keys of a multi-get.
    KeyList, KeyIter, KeyListBuilder, &'a [u8],
    what: "keys", count_max: BATCH_OPS_MAX, bytes_max: LIST_BYTES_MAX
);
encoded_list!(
    /// Operations of an atomic batch.
    BatchList, BatchIter, BatchListBuilder, BatchOp<'a>,
    what: "batch operations", count_max: BATCH_OPS_MAX, bytes_max: STORED_LIST_BYTES_MAX
);
encoded_list!(
    /// Records to append to a topic partition.
    AppendList, AppendIter, AppendListBuilder, AppendRecord<'a>,
    what: "records", count_max: APPEND_RECORDS_MAX, bytes_max: STORED_LIST_BYTES_MAX
);
encoded_list!(
    /// Answer of a multi-get: one entry per key asked for, `None` for a key that does not exist.
    ValueList, ValueIter, ValueListBuilder, Option<ValueRef<'a>>,
    what: "values", count_max: BATCH_OPS_MAX, bytes_max: LIST_BYTES_MAX
);
encoded_list!(
    /// Entries of one page of a scan.
    ScanList, ScanIter, ScanListBuilder, ScanEntry<'a>,
    what: "scan entries", count_max: SCAN_ENTRIES_MAX, bytes_max: LIST_BYTES_MAX
);
encoded_list!(
    /// Records read from a topic partition.
    RecordList, RecordIter, RecordListBuilder, TopicRecord<'a>,
    what: "records", count_max: RECORDS_MAX, bytes_max: LIST_BYTES_MAX
);

// One entry always fits an answer, so a server can always make progress.
const _: () = assert!(LIST_BYTES_MAX >= VALUE_BYTES_MAX + 32 * 1024);
const _: () = assert!(LIST_BYTES_MAX >= STORED_LIST_BYTES_MAX + 16 * APPEND_RECORDS_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Condition;
    use ironring_core::Offset;

    #[test]
    fn an_empty_list_needs_no_buffer() {
        assert_eq!(KeyList::from_bytes(0, &[]), Ok(KeyList::default()));
        assert_eq!(KeyList::default().iter().next(), None);
    }

    #[test]
    fn count_and_bytes_must_agree() {
        let mut buf = Vec::new();
        let mut builder = KeyListBuilder::new(&mut buf);
        builder.push(b"a").unwrap();
        builder.push(b"bc").unwrap();
        let list = builder.finish();
        let bytes = list.as_bytes();
        assert_eq!(KeyList::from_bytes(2, bytes), Ok(list));
        assert_eq!(KeyList::from_bytes(1, bytes), Err(BodyError::Trailing { bytes: 4 }));
        assert!(matches!(KeyList::from_bytes(3, bytes), Err(BodyError::Truncated { .. })));
        // A huge count costs nothing: it is refused before the walk.
        assert!(matches!(KeyList::from_bytes(u32::MAX, bytes), Err(BodyError::TooLarge { .. })));
    }

    #[test]
    fn a_refused_entry_leaves_the_list_as_it_was() {
        let mut buf = Vec::new();
        let mut builder = AppendListBuilder::new(&mut buf);
        builder.push(AppendRecord { key: b"k", value: b"v" }).unwrap();
        let before = builder.bytes_len();
        let big = vec![0; STORED_LIST_BYTES_MAX - before - 8 + 1];
        let refused = builder.push(AppendRecord { key: b"", value: &big });
        assert!(matches!(refused, Err(BodyError::TooLarge { .. })), "{refused:?}");
        assert_eq!((builder.len(), builder.bytes_len()), (1, before));
        builder.push(AppendRecord { key: b"", value: &big[1..] }).unwrap();
        let list = builder.finish();
        assert_eq!(list.as_bytes().len(), AppendList::BYTES_MAX);
        assert_eq!(AppendList::from_bytes(2, list.as_bytes()), Ok(list));
    }

    #[test]
    fn the_count_is_limited() {
        let mut buf = Vec::new();
        let mut builder = KeyListBuilder::new(&mut buf);
        for _ in 0..KeyList::COUNT_MAX {
            builder.push(b"k").unwrap();
        }
        assert!(matches!(builder.push(b"k"), Err(BodyError::TooLarge { field: "keys", .. })));
        assert_eq!(builder.finish().len(), KeyList::COUNT_MAX);
    }

    #[test]
    fn a_stored_batch_reads_back() {
        let ops = [
            BatchOp::Put { key: b"a", value: b"1", condition: Condition::Absent, ttl_ms: 9 },
            BatchOp::Put { key: b"b", value: b"", condition: Condition::None, ttl_ms: 0 },
            BatchOp::Delete { key: b"c", condition: Condition::Version(Offset(7)) },
        ];
        let mut buf = Vec::new();
        let mut builder = BatchListBuilder::new(&mut buf);
        for op in ops {
            builder.push(op).unwrap();
        }
        let stored = builder.finish().as_bytes().to_vec();
        let read = BatchList::from_bytes(3, &stored).unwrap();
        assert_eq!(read.iter().collect::<Vec<_>>(), ops);
        assert_eq!(read.iter().len(), 3);
    }
}
