//! Entries of the lists servers send.

use ironring_core::limits::VALUE_BYTES_MAX;
use ironring_core::{Offset, WallTime};

use super::Entry;
use crate::error::BodyError;
use crate::message::{AppendRecord, ScanEntry, TopicRecord, ValueRef};
use crate::wire::{Put, Reader, check_key_len, key_len, value_len, within};

impl<'a> Entry<'a> for ValueRef<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, BodyError> {
        let version = Offset(reader.u64("version")?);
        let time = WallTime(reader.u64("time")?);
        let expires = WallTime(reader.u64("expiry")?);
        let len = within(reader.u32("value length")? as usize, VALUE_BYTES_MAX, "value")?;
        Ok(ValueRef { version, time, expires, value: reader.take(len, "value")? })
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), BodyError> {
        let value_len = value_len(self.value)?;
        out.put_u64(self.version.0);
        out.put_u64(self.time.0);
        out.put_u64(self.expires.0);
        out.put_u32(value_len);
        out.put(self.value);
        Ok(())
    }
}

impl<'a> Entry<'a> for Option<ValueRef<'a>> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, BodyError> {
        reader.flag("presence")?.then(|| ValueRef::read(reader)).transpose()
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), BodyError> {
        if let Some(found) = self {
            value_len(found.value)?;
        }
        out.put_u8(self.is_some().into());
        self.map_or(Ok(()), |found| found.write(out))
    }
}

impl<'a> Entry<'a> for ScanEntry<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, BodyError> {
        let key_len = check_key_len(reader.u16("key length")?.into())?;
        let has_value = reader.flag("presence of a value")?;
        reader.zeros::<1>("presence of a value")?;
        let value_len = within(reader.u32("value length")? as usize, VALUE_BYTES_MAX, "value")?;
        let version = Offset(reader.u64("version")?);
        let key = reader.take(key_len, "key")?;
        if !has_value && value_len != 0 {
            return Err(BodyError::Reserved { field: "an entry without value" });
        }
        let value = reader.take(value_len, "value")?;
        Ok(ScanEntry { key, version, value: has_value.then_some(value) })
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), BodyError> {
        let value = self.value.unwrap_or_default();
        let (key_len, value_len) = (key_len(self.key)?, value_len(value)?);
        out.put_u16(key_len);
        out.put_u8(self.value.is_some().into());
        out.put_u8(0);
        out.put_u32(value_len);
        out.put_u64(self.version.0);
        out.put(self.key);
        out.put(value);
        Ok(())
    }
}

/// Offset and time, then the entry exactly as it was appended.
impl<'a> Entry<'a> for TopicRecord<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, BodyError> {
        let offset = reader.u64("offset")?;
        let time = WallTime(reader.u64("time")?);
        let AppendRecord { key, value } = AppendRecord::read(reader)?;
        Ok(TopicRecord { offset, time, key, value })
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), BodyError> {
        let before = out.len();
        out.put_u64(self.offset);
        out.put_u64(self.time.0);
        let record = AppendRecord { key: self.key, value: self.value };
        record.write(out).inspect_err(|_| out.truncate(before))
    }
}
