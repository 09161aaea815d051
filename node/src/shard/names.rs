//! What keys of records name that are not keys of values, and the body that names a value's chunks.

use ironring_core::limits::{CHUNK_BYTES, VALUE_BYTES_MAX};
use ironring_core::{Offset, TopicId};

use super::fields::{Malformed, Reader, Writer};

/// Most chunks of a value.
const CHUNKS_MAX: u32 = VALUE_BYTES_MAX.div_ceil(CHUNK_BYTES) as u32;

/// The key of a `TopicBatch` or `TopicTrim` record: topic u32, index u32, first offset u64 (the
/// offset to trim before), count u32; little endian, 20 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicName {
    /// The topic.
    pub topic: TopicId,
    /// Index of the topic partition.
    pub index: u32,
    /// First offset of the batch, or first offset kept.
    pub first: u64,
    /// Records in the batch; 0 for a trim.
    pub count: u32,
}

impl TopicName {
    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; 20] {
        let mut out = [0; 20];
        out[..4].copy_from_slice(&self.topic.0.to_le_bytes());
        out[4..8].copy_from_slice(&self.index.to_le_bytes());
        out[8..16].copy_from_slice(&self.first.to_le_bytes());
        out[16..].copy_from_slice(&self.count.to_le_bytes());
        out
    }
}

/// The opposite of [`TopicName::encode`].
pub fn topic_name(key: &[u8]) -> Result<TopicName, Malformed> {
    let mut r = Reader::new(key);
    let name =
        TopicName { topic: TopicId(r.u32()?), index: r.u32()?, first: r.u64()?, count: r.u32()? };
    r.end()?;
    // A batch whose end is no offset was not made by this code.
    name.first.checked_add(u64::from(name.count)).ok_or(Malformed)?;
    Ok(name)
}

/// The key of a `Chunk` record: upload u64, index u32; little endian.
#[must_use]
pub fn chunk_key(upload: Offset, index: u32) -> [u8; 12] {
    let mut out = [0; 12];
    out[..8].copy_from_slice(&upload.0.to_le_bytes());
    out[8..].copy_from_slice(&index.to_le_bytes());
    out
}

/// The opposite of [`chunk_key`].
pub fn chunk_name(key: &[u8]) -> Result<(Offset, u32), Malformed> {
    let mut r = Reader::new(key);
    let name = (Offset(r.u64()?), r.u32()?);
    r.end()?;
    // An abort may name the one behind the last. Others were not made by this code.
    if name.1 > CHUNKS_MAX { Err(Malformed) } else { Ok(name) }
}

/// The body of a `PutChunked` record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkedBody {
    /// The upload that holds the value.
    pub upload: Offset,
    /// Chunks it has.
    pub chunks: u32,
    /// Bytes of the value.
    pub value_bytes: u64,
}

impl ChunkedBody {
    /// The bytes: upload u64, chunks u32, length u64; little endian.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(20);
        let mut w = Writer(&mut out);
        w.u64(self.upload.0);
        w.u32(self.chunks);
        w.u64(self.value_bytes);
        out
    }

    /// The opposite.
    pub fn decode(bytes: &[u8]) -> Result<ChunkedBody, Malformed> {
        let mut r = Reader::new(bytes);
        let body =
            ChunkedBody { upload: Offset(r.u64()?), chunks: r.u32()?, value_bytes: r.u64()? };
        r.end()?;
        if body.chunks > CHUNKS_MAX { Err(Malformed) } else { Ok(body) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_chunk_no_value_has_is_refused() {
        assert_eq!(chunk_name(&chunk_key(Offset(7), 63)), Ok((Offset(7), 63)));
        // An abort may name the one behind the last.
        assert_eq!(chunk_name(&chunk_key(Offset(7), 64)), Ok((Offset(7), 64)));
        assert_eq!(chunk_name(&chunk_key(Offset(7), 65)), Err(Malformed));
        assert_eq!(chunk_name(&chunk_key(Offset(7), u32::MAX)), Err(Malformed));
        let body = |chunks| ChunkedBody { upload: Offset(7), chunks, value_bytes: 1 }.encode();
        assert!(ChunkedBody::decode(&body(64)).is_ok());
        assert_eq!(ChunkedBody::decode(&body(65)), Err(Malformed));
    }
}
