//! Calls on keys.

use std::collections::BTreeMap;
use std::time::Instant;

use ironring_core::limits::BATCH_OPS_MAX;
use ironring_core::{ErrorCode, Offset, PartitionId};

use super::{Client, Scan};
use crate::client::call::{Failure, accepted, unexpected};
use crate::client::{ClientError, Entry, Routing, Stale, Value, WriteSettings, answers};
use crate::error::BodyError;
use crate::frame::{Header, flags};
use crate::list::{BatchListBuilder, KeyListBuilder};
use crate::message::{BatchOp, Condition, Receipt, Request, Response};

impl Client {
    /// Stores a value.
    ///
    /// # Errors
    /// [`ClientError::Unknown`] when it may have been stored; every other error: it was not.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<Receipt, ClientError> {
        self.put_with(key, value, WriteSettings::default())
    }

    /// Stores a value under a condition, for a time, or with another durability.
    ///
    /// # Errors
    /// As [`Client::put`]; `condition_failed` names the version the key has
    /// ([`ClientError::current_version`]).
    pub fn put_with(
        &mut self,
        key: &[u8],
        value: &[u8],
        settings: WriteSettings,
    ) -> Result<Receipt, ClientError> {
        let until = self.until();
        let partition = self.partition_for(key, until)?;
        let options = self.options(settings.durability);
        let (condition, ttl_ms) = (settings.condition, settings.ttl_ms());
        let request = Request::Put { options, condition, ttl_ms, key, value };
        self.call_until(until, partition, request, answers::receipt)
    }

    /// Stores a value if the key has exactly this version.
    ///
    /// # Errors
    /// As [`Client::put_with`].
    pub fn cas(
        &mut self,
        key: &[u8],
        expected: Offset,
        value: &[u8],
    ) -> Result<Receipt, ClientError> {
        self.put_with(key, value, WriteSettings::when(Condition::Version(expected)))
    }

    /// Stores a value if the key does not exist.
    ///
    /// # Errors
    /// As [`Client::put_with`].
    pub fn put_if_absent(&mut self, key: &[u8], value: &[u8]) -> Result<Receipt, ClientError> {
        self.put_with(key, value, WriteSettings::when(Condition::Absent))
    }

    /// Reads a value; `None` when the key does not exist.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Value>, ClientError> {
        let until = self.until();
        let partition = self.partition_for(key, until)?;
        let found = self.call_until(until, partition, Request::Get { key }, answers::value);
        match found {
            Err(error) if error.code() == Some(ErrorCode::NotFound) => Ok(None),
            found => found.map(Some),
        }
    }

    /// Reads a value at the first node that has a replica of it and answers, which may not have the
    /// newest: also where no majority is left. Each known node is asked once; while the cluster map
    /// is not known those of the configuration first, the others only by a shard-aware client.
    ///
    /// # Errors
    /// When none answers: what the last one said.
    pub fn get_stale(&mut self, key: &[u8]) -> Result<Stale<Option<Value>>, ClientError> {
        let until = self.until();
        let known = Routing::addresses(&self.config.addrs, self.routing.as_ref());
        let found = self.get_stale_among(known.clone(), key, until);
        if found.is_ok() || self.routing.is_some() || !self.config.shard_aware {
            return found;
        }
        // Others may have a replica. Any node has the map, also one that is cut off.
        self.ask_for_map(until.min(Instant::now() + self.config.attempt_timeout));
        let mut others = Routing::addresses(&self.config.addrs, self.routing.as_ref());
        others.retain(|address| !known.contains(address));
        if others.is_empty() { found } else { self.get_stale_among(others, key, until) }
    }

    fn get_stale_among(
        &mut self,
        mut addresses: Vec<String>,
        key: &[u8],
        until: Instant,
    ) -> Result<Stale<Option<Value>>, ClientError> {
        let mut last = ClientError::Protocol("no address is configured".to_owned());
        // Not always the same one, so that reads spread.
        let first = self.prng.below(addresses.len().max(1) as u64) as usize;
        addresses.rotate_left(first);
        addresses.sort_by_key(|address| self.candidates.has_failed(address));
        for address in addresses {
            match self.get_stale_at(&address, key, until) {
                Ok(found) => return Ok(found),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn get_stale_at(
        &mut self,
        address: &str,
        key: &[u8],
        until: Instant,
    ) -> Result<Stale<Option<Value>>, ClientError> {
        let turn = until.min(Instant::now() + self.config.attempt_timeout);
        self.open(address, turn)?;
        let request = Request::Get { key };
        let times = (turn, turn);
        let read = |header: &Header, response: Response<'_>| {
            let age_ms = header.deadline_ms;
            match accepted(response) {
                Err(Failure::Refused { code: ErrorCode::NotFound, .. }) => {
                    Ok(Stale::new(None, age_ms))
                }
                Err(failure) => Err(failure),
                Ok(response) => match answers::value(&response) {
                    Some(value) => Ok(Stale::new(Some(value), age_ms)),
                    None => Err(Failure::Lost(unexpected(&response))),
                },
            }
        };
        let result = self.exchange_with(flags::STALE, address, &request, times, read);
        if let Err(failure @ Failure::Lost(_)) = &result {
            self.give_up(address, failure);
        }
        result.map_err(Failure::into_error)
    }

    /// Removes a key, whether or not it exists.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn delete(&mut self, key: &[u8]) -> Result<Receipt, ClientError> {
        self.delete_with(key, WriteSettings::default())
    }

    /// Removes a key under a condition or with another durability.
    ///
    /// # Errors
    /// As [`Client::put_with`].
    pub fn delete_with(
        &mut self,
        key: &[u8],
        settings: WriteSettings,
    ) -> Result<Receipt, ClientError> {
        let until = self.until();
        let partition = self.partition_for(key, until)?;
        let (options, condition) = (self.options(settings.durability), settings.condition);
        let request = Request::Delete { options, condition, key };
        self.call_until(until, partition, request, answers::receipt)
    }

    /// Applies all operations or none. All keys must belong to one partition
    /// ([`Client::partition_of`]).
    ///
    /// # Errors
    /// As [`Client::put_with`]; [`ClientError::Request`] when the keys span partitions.
    pub fn batch(
        &mut self,
        ops: &[BatchOp<'_>],
        settings: WriteSettings,
    ) -> Result<Receipt, ClientError> {
        let until = self.until();
        let mut buffer = Vec::new();
        let mut list = BatchListBuilder::new(&mut buffer);
        let mut partition = None;
        for op in ops {
            let (BatchOp::Put { key, .. } | BatchOp::Delete { key, .. }) = *op;
            let of_key = self.routing(until)?.partition_of(key);
            if *partition.get_or_insert(of_key) != of_key {
                let rule = "of a batch must belong to one partition";
                return Err(BodyError::Invalid { field: "keys", rule }.into());
            }
            list.push(*op)?;
        }
        let Some(partition) = partition else {
            let rule = "must hold at least one operation";
            return Err(BodyError::Invalid { field: "batch", rule }.into());
        };
        let options = self.options(settings.durability);
        let request = Request::Batch { options, partition, ops: list.finish() };
        self.call_until(until, Some(partition), request, answers::receipt)
    }

    /// Reads many keys, of any partitions, in the order given. Not a snapshot: each partition is
    /// read on its own.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub fn multi_get<K: AsRef<[u8]>>(
        &mut self,
        keys: &[K],
    ) -> Result<Vec<Option<Value>>, ClientError> {
        let until = self.until();
        let mut by_partition: BTreeMap<PartitionId, Vec<usize>> = BTreeMap::new();
        for (at, key) in keys.iter().enumerate() {
            let partition = self.routing(until)?.partition_of(key.as_ref());
            by_partition.entry(partition).or_default().push(at);
        }
        let mut found = vec![None; keys.len()];
        for (partition, wanted) in by_partition {
            for part in wanted.chunks(BATCH_OPS_MAX) {
                self.multi_get_part(until, partition, keys, part, &mut found)?;
            }
        }
        Ok(found)
    }

    /// Reads `keys[i]` for each `i` of `wanted` into `found[i]`. Asks for half as much when the
    /// answer does not fit a frame.
    fn multi_get_part<K: AsRef<[u8]>>(
        &mut self,
        until: Instant,
        partition: PartitionId,
        keys: &[K],
        wanted: &[usize],
        found: &mut [Option<Value>],
    ) -> Result<(), ClientError> {
        let mut buffer = Vec::new();
        let mut list = KeyListBuilder::new(&mut buffer);
        for at in wanted {
            list.push(keys[*at].as_ref())?;
        }
        let request = Request::MultiGet { partition, keys: list.finish() };
        let read = |response: &Response<'_>| answers::values(response, wanted.len());
        let answer = self.call_until(until, Some(partition), request, read);
        match answer {
            Ok(values) => {
                wanted.iter().zip(values).for_each(|(at, value)| found[*at] = value);
                Ok(())
            }
            Err(error) if error.code() == Some(ErrorCode::TooLarge) && wanted.len() > 1 => {
                let (front, back) = wanted.split_at(wanted.len() / 2);
                self.multi_get_part(until, partition, keys, front, found)?;
                self.multi_get_part(until, partition, keys, back, found)
            }
            Err(error) => Err(error),
        }
    }

    /// Walks all keys that begin with `prefix`: partition after partition, in byte order within
    /// each. Not a snapshot. Reads page by page as the iterator is driven.
    pub fn scan(&mut self, prefix: &[u8], values: bool) -> Scan<'_> {
        Scan::new(self, prefix.to_vec(), values)
    }

    /// One page of the keys of one partition, and whether there may be more after it.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub fn scan_page(
        &mut self,
        partition: PartitionId,
        prefix: &[u8],
        after: &[u8],
        limit: u32,
        values: bool,
    ) -> Result<(Vec<Entry>, bool), ClientError> {
        let request = Request::Scan { partition, prefix, after, limit, values };
        self.call(Some(partition), request, answers::page)
    }
}
