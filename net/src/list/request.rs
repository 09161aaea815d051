//! Entries of the lists clients send.

use ironring_core::Offset;
use ironring_core::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

use super::Entry;
use crate::error::BodyError;
use crate::message::{AppendRecord, BatchOp, Condition};
use crate::wire::{Put, Reader, check_key_len, key_len, optional_key_len, value_len, within};

const OP_PUT: u8 = 1;
const OP_DELETE: u8 = 2;

/// The condition a kind byte and a version field mean.
pub(crate) fn read_condition(kind: u8, version: u64) -> Result<Condition, BodyError> {
    match (kind, version) {
        (0, 0) => Ok(Condition::None),
        (1, 0) => Ok(Condition::Absent),
        (2, version) => Ok(Condition::Version(Offset(version))),
        (0 | 1, _) => Err(BodyError::Reserved { field: "a condition without version" }),
        (kind, _) => Err(BodyError::UnknownChoice { field: "condition", value: kind.into() }),
    }
}

/// Kind byte and version field of a condition.
pub(crate) fn write_condition(condition: Condition) -> (u8, u64) {
    match condition {
        Condition::None => (0, 0),
        Condition::Absent => (1, 0),
        Condition::Version(version) => (2, version.0),
    }
}

impl<'a> Entry<'a> for &'a [u8] {
    fn read(reader: &mut Reader<'a>) -> Result<Self, BodyError> {
        let len = check_key_len(reader.u16("key length")?.into())?;
        reader.take(len, "key")
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), BodyError> {
        out.put_u16(key_len(self)?);
        out.put(self);
        Ok(())
    }
}

impl<'a> Entry<'a> for BatchOp<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, BodyError> {
        let op = reader.u8("operation")?;
        let condition_kind = reader.u8("condition")?;
        let key_len = check_key_len(reader.u16("key length")?.into())?;
        let value_len = within(reader.u32("value length")? as usize, VALUE_BYTES_MAX, "value")?;
        let condition = read_condition(condition_kind, reader.u64("condition version")?)?;
        let ttl_ms = reader.u64("ttl")?;
        let key = reader.take(key_len, "key")?;
        match op {
            OP_PUT => {
                let value = reader.take(value_len, "value")?;
                Ok(BatchOp::Put { key, value, condition, ttl_ms })
            }
            OP_DELETE if value_len == 0 && ttl_ms == 0 => Ok(BatchOp::Delete { key, condition }),
            OP_DELETE => Err(BodyError::Reserved { field: "the condition of a delete" }),
            op => Err(BodyError::UnknownChoice { field: "operation", value: op.into() }),
        }
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), BodyError> {
        let (op, key, value, condition, ttl_ms) = match *self {
            BatchOp::Put { key, value, condition, ttl_ms } => {
                (OP_PUT, key, value, condition, ttl_ms)
            }
            BatchOp::Delete { key, condition } => (OP_DELETE, key, [].as_slice(), condition, 0),
        };
        let (key_len, value_len) = (key_len(key)?, value_len(value)?);
        let (kind, version) = write_condition(condition);
        out.put_u8(op);
        out.put_u8(kind);
        out.put_u16(key_len);
        out.put_u32(value_len);
        out.put_u64(version);
        out.put_u64(ttl_ms);
        out.put(key);
        out.put(value);
        Ok(())
    }
}

impl<'a> Entry<'a> for AppendRecord<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, BodyError> {
        let value_len = within(reader.u32("value length")? as usize, VALUE_BYTES_MAX, "value")?;
        let key_len = within(reader.u16("key length")?.into(), KEY_BYTES_MAX, "key")?;
        reader.zeros::<2>("key length")?;
        let key = reader.take(key_len, "key")?;
        let value = reader.take(value_len, "value")?;
        Ok(AppendRecord { key, value })
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), BodyError> {
        let (value_len, key_len) = (value_len(self.value)?, optional_key_len(self.key, "key")?);
        out.put_u32(value_len);
        out.put_u16(key_len);
        out.put_u16(0);
        out.put(self.key);
        out.put(self.value);
        Ok(())
    }
}
