//! Calls on keys.

#![expect(
    clippy::disallowed_types,
    reason = "a client waits for sockets: it reads the clock for deadlines"
)]

use std::collections::BTreeMap;
use std::time::Instant;

use ironring_core::limits::BATCH_OPS_MAX;
use ironring_core::{ErrorCode, Offset, PartitionId};

use super::Client;
use crate::client::call::{Failure, accepted, unexpected};
use crate::client::{ClientError, Entry, Stale, Value, WriteSettings, answers};
use crate::error::BodyError;
use crate::frame::flags;
use crate::list::{BatchListBuilder, KeyListBuilder};
use crate::message::{BatchOp, Condition, Receipt, Request, Response};

impl Client {
    /// The partition of a key when the configuration makes use of it.
    async fn partition_for(
        &self,
        key: &[u8],
        until: Instant,
    ) -> Result<Option<PartitionId>, ClientError> {
        if self.uses_partitions() {
            return Ok(Some(self.routing(until).await?.partition_of(key)));
        }
        Ok(None)
    }

    /// Stores a value.
    ///
    /// # Errors
    /// [`ClientError::Unknown`] when it may have been stored; every other error: it was not.
    pub async fn put(&self, key: &[u8], value: &[u8]) -> Result<Receipt, ClientError> {
        self.put_with(key, value, WriteSettings::default()).await
    }

    /// Stores a value under a condition, for a time, or with another durability.
    ///
    /// # Errors
    /// As [`Client::put`]; `condition_failed` names the version the key has
    /// ([`ClientError::current_version`]).
    pub async fn put_with(
        &self,
        key: &[u8],
        value: &[u8],
        settings: WriteSettings,
    ) -> Result<Receipt, ClientError> {
        let until = self.until();
        let partition = self.partition_for(key, until).await?;
        let options = self.options(settings.durability);
        let (condition, ttl_ms) = (settings.condition, settings.ttl_ms());
        let request = Request::Put { options, condition, ttl_ms, key, value };
        self.call_until(until, partition, request, answers::receipt).await
    }

    /// Stores a value if the key has exactly this version.
    ///
    /// # Errors
    /// As [`Client::put_with`].
    pub async fn cas(
        &self,
        key: &[u8],
        expected: Offset,
        value: &[u8],
    ) -> Result<Receipt, ClientError> {
        self.put_with(key, value, WriteSettings::when(Condition::Version(expected))).await
    }

    /// Reads a value; `None` when the key does not exist.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn get(&self, key: &[u8]) -> Result<Option<Value>, ClientError> {
        let until = self.until();
        let partition = self.partition_for(key, until).await?;
        match self.call_until(until, partition, Request::Get { key }, answers::value).await {
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
    pub async fn get_stale(&self, key: &[u8]) -> Result<Stale<Option<Value>>, ClientError> {
        let until = self.until();
        let known = self.known_addresses();
        let has_map = self.inner.routing.borrow().is_some();
        let found = self.get_stale_among(known.clone(), key, until).await;
        if found.is_ok() || has_map || !self.is_aware() {
            return found;
        }
        // Others may have a replica. Any node has the map, also one that is cut off.
        self.ask_for_map(until.min(Instant::now() + self.inner.config.attempt_timeout)).await;
        let mut others = self.known_addresses();
        others.retain(|address| !known.contains(address));
        if others.is_empty() { found } else { self.get_stale_among(others, key, until).await }
    }

    async fn get_stale_among(
        &self,
        mut addresses: Vec<String>,
        key: &[u8],
        until: Instant,
    ) -> Result<Stale<Option<Value>>, ClientError> {
        let mut last = ClientError::Protocol("no address is configured".to_owned());
        // Not always the same one, so that reads spread.
        let first = self.inner.prng.borrow_mut().below(addresses.len().max(1) as u64) as usize;
        addresses.rotate_left(first);
        addresses.sort_by_key(|address| self.inner.candidates.borrow().has_failed(address));
        for address in addresses {
            match self.get_stale_at(&address, key, until).await {
                Ok(found) => return Ok(found),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn get_stale_at(
        &self,
        address: &str,
        key: &[u8],
        until: Instant,
    ) -> Result<Stale<Option<Value>>, ClientError> {
        let turn = until.min(Instant::now() + self.inner.config.attempt_timeout);
        let pipeline = self.open(address, turn).await?;
        let read = |age_ms, response: Response<'_>| match accepted(response) {
            Err(Failure::Refused { code: ErrorCode::NotFound, .. }) => Ok(Stale::new(None, age_ms)),
            Err(failure) => Err(failure),
            Ok(response) => match answers::value(&response) {
                Some(value) => Ok(Stale::new(Some(value), age_ms)),
                None => Err(Failure::Lost(unexpected(&response))),
            },
        };
        let (asked, request) = (Instant::now(), Request::Get { key });
        let asking = Self::exchange_with(flags::STALE, &pipeline, &request, (turn, turn), read);
        asking.await.map_err(|failure| {
            self.leave_if_silent(&pipeline, asked, &failure);
            failure.into_error()
        })
    }

    /// Removes a key, whether or not it exists unless the settings ask.
    ///
    /// # Errors
    /// As [`Client::put_with`].
    pub async fn delete(
        &self,
        key: &[u8],
        settings: WriteSettings,
    ) -> Result<Receipt, ClientError> {
        let until = self.until();
        let partition = self.partition_for(key, until).await?;
        let (options, condition) = (self.options(settings.durability), settings.condition);
        let request = Request::Delete { options, condition, key };
        self.call_until(until, partition, request, answers::receipt).await
    }

    /// Applies all operations or none. All keys must belong to one partition
    /// ([`Client::partition_of`]).
    ///
    /// # Errors
    /// As [`Client::put_with`]; [`ClientError::Request`] when the keys span partitions.
    pub async fn batch(
        &self,
        ops: &[BatchOp<'_>],
        settings: WriteSettings,
    ) -> Result<Receipt, ClientError> {
        let until = self.until();
        let routing = self.routing(until).await?;
        let mut buffer = Vec::new();
        let mut list = BatchListBuilder::new(&mut buffer);
        let mut partition = None;
        for op in ops {
            let (BatchOp::Put { key, .. } | BatchOp::Delete { key, .. }) = *op;
            let of_key = routing.partition_of(key);
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
        self.call_until(until, Some(partition), request, answers::receipt).await
    }

    /// Reads many keys, of any partitions, in the order given. Not a snapshot: each partition is
    /// read on its own, one after the other.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn multi_get<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
    ) -> Result<Vec<Option<Value>>, ClientError> {
        let until = self.until();
        let routing = self.routing(until).await?;
        let mut by_partition: BTreeMap<PartitionId, Vec<usize>> = BTreeMap::new();
        for (at, key) in keys.iter().enumerate() {
            by_partition.entry(routing.partition_of(key.as_ref())).or_default().push(at);
        }
        let mut found = vec![None; keys.len()];
        let mut buffer = Vec::new();
        for (partition, wanted) in by_partition {
            // Parts still to be read; one whose answer does not fit a frame is cut in two.
            let mut parts: Vec<&[usize]> = wanted.chunks(BATCH_OPS_MAX).collect();
            while let Some(part) = parts.pop() {
                let mut list = KeyListBuilder::new(&mut buffer);
                part.iter().try_for_each(|at| list.push(keys[*at].as_ref()))?;
                let request = Request::MultiGet { partition, keys: list.finish() };
                let read = |response: &Response<'_>| answers::values(response, part.len());
                match self.call_until(until, Some(partition), request, read).await {
                    Ok(values) => {
                        part.iter().zip(values).for_each(|(at, value)| found[*at] = value);
                    }
                    Err(error) if error.code() == Some(ErrorCode::TooLarge) && part.len() > 1 => {
                        let (front, back) = part.split_at(part.len() / 2);
                        parts.extend([front, back]);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(found)
    }

    /// One page of the keys of one partition in byte order, and whether there may be more after
    /// it. All keys: each partition of [`Client::cluster_map`], page by page.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn scan_page(
        &self,
        partition: PartitionId,
        prefix: &[u8],
        after: &[u8],
        limit: u32,
        values: bool,
    ) -> Result<(Vec<Entry>, bool), ClientError> {
        let request = Request::Scan { partition, prefix, after, limit, values };
        self.call(Some(partition), request, answers::page).await
    }
}
