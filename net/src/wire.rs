//! Little-endian fields to and from bytes. A [`Reader`] never panics and never allocates.

use ironring_core::limits::{KEY_BYTES_MAX, TOPIC_NAME_BYTES_MAX, VALUE_BYTES_MAX};

use crate::error::BodyError;

/// Takes fields off the front of a body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// Bytes not yet taken.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn take(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], BodyError> {
        let (taken, rest) =
            self.rest.split_at_checked(len).ok_or(BodyError::Truncated { field })?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], BodyError> {
        let (taken, rest) =
            self.rest.split_first_chunk::<N>().ok_or(BodyError::Truncated { field })?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, BodyError> {
        Ok(self.array::<1>(field)?[0])
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, BodyError> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, BodyError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, BodyError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A byte that is 0 or 1.
    pub(crate) fn flag(&mut self, field: &'static str) -> Result<bool, BodyError> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(BodyError::UnknownChoice { field, value: value.into() }),
        }
    }

    /// Reserved bytes after `field`.
    pub(crate) fn zeros<const N: usize>(&mut self, field: &'static str) -> Result<(), BodyError> {
        if self.array::<N>(field)? == [0; N] { Ok(()) } else { Err(BodyError::Reserved { field }) }
    }

    pub(crate) fn str(&mut self, len: usize, field: &'static str) -> Result<&'a str, BodyError> {
        std::str::from_utf8(self.take(len, field)?).map_err(|_| BodyError::NotUtf8 { field })
    }

    /// Nothing may follow.
    pub(crate) fn finish(self) -> Result<(), BodyError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(BodyError::Trailing { bytes }),
        }
    }
}

/// Appends fields. A trait so that they read as methods of the output buffer.
pub(crate) trait Put {
    fn put(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// `len` when it is at most `max`.
pub(crate) fn within(len: usize, max: usize, field: &'static str) -> Result<usize, BodyError> {
    if len > max {
        return Err(BodyError::TooLarge { field, len: len as u64, max: max as u64 });
    }
    Ok(len)
}

/// A key's length as the wire has it: 1 to [`KEY_BYTES_MAX`].
pub(crate) fn key_len(key: &[u8]) -> Result<u16, BodyError> {
    check_key_len(key.len())?;
    Ok(key.len() as u16)
}

pub(crate) fn check_key_len(len: usize) -> Result<usize, BodyError> {
    if len == 0 {
        return Err(BodyError::Invalid { field: "key", rule: "must not be empty" });
    }
    within(len, KEY_BYTES_MAX, "key")
}

/// The length of bytes that may be empty and are at most as long as a key.
pub(crate) fn optional_key_len(key: &[u8], field: &'static str) -> Result<u16, BodyError> {
    Ok(within(key.len(), KEY_BYTES_MAX, field)? as u16)
}

/// A value's length as the wire has it.
pub(crate) fn value_len(value: &[u8]) -> Result<u32, BodyError> {
    Ok(within(value.len(), VALUE_BYTES_MAX, "value")? as u32)
}

/// The length of a short text (cluster, node, client, address).
pub(crate) fn text_len(text: &str, field: &'static str) -> Result<u8, BodyError> {
    Ok(within(text.len(), u8::MAX as usize, field)? as u8)
}

/// A topic name: 1 to 128 of `a-z 0-9 . _ -`.
pub(crate) fn check_topic_name(name: &str) -> Result<u8, BodyError> {
    const FIELD: &str = "topic name";
    within(name.len(), TOPIC_NAME_BYTES_MAX, FIELD)?;
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    if name.is_empty() || !name.bytes().all(allowed) {
        let rule = "must be 1 to 128 of: a-z, 0-9, `.`, `_`, `-`";
        return Err(BodyError::Invalid { field: FIELD, rule });
    }
    Ok(name.len() as u8)
}

const _: () = assert!(KEY_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!(TOPIC_NAME_BYTES_MAX <= u8::MAX as usize);
