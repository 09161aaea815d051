//! Calls on topics. Topics are named here; their ids are looked up once and remembered.

#![expect(
    clippy::disallowed_types,
    reason = "a client waits for sockets: it reads the clock for deadlines"
)]

use std::time::Instant;

use ironring_core::{Durability, ErrorCode, PartitionId, WallTime};

use super::Client;
use crate::client::routing::append_index;
use crate::client::{Appended, ClientError, Offsets, Records, answers};
use crate::error::BodyError;
use crate::list::AppendListBuilder;
use crate::message::{AppendRecord, AppendTo, ReadFrom, Receipt, Request, Retention, TopicInfo};

impl Client {
    /// Makes a topic.
    ///
    /// # Errors
    /// `topic_exists`; [`ClientError::Unknown`] when it may have been made.
    pub async fn topic_create(
        &self,
        name: &str,
        partitions: u32,
        retention: Retention,
    ) -> Result<TopicInfo, ClientError> {
        let request = Request::TopicCreate { name, partitions, retention };
        self.call(None, request, answers::topic).await
    }

    /// Drops a topic and its records.
    ///
    /// # Errors
    /// `unknown_topic`; [`ClientError::Unknown`] when it may have been dropped.
    pub async fn topic_delete(&self, name: &str) -> Result<TopicInfo, ClientError> {
        self.inner.topics.borrow_mut().remove(name);
        self.call(None, Request::TopicDelete { name }, answers::topic).await
    }

    /// Describes a topic.
    ///
    /// # Errors
    /// `unknown_topic`, or as every call: [`ClientError`].
    pub async fn topic_describe(&self, name: &str) -> Result<TopicInfo, ClientError> {
        self.topic_describe_until(self.until(), name).await
    }

    async fn topic_describe_until(
        &self,
        until: Instant,
        name: &str,
    ) -> Result<TopicInfo, ClientError> {
        let request = Request::TopicDescribe { name };
        let topic = self.call_until(until, None, request, answers::topic).await?;
        self.inner.topics.borrow_mut().insert(name.to_owned(), topic.clone());
        Ok(topic)
    }

    /// Describes all topics.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn topic_list(&self) -> Result<Vec<TopicInfo>, ClientError> {
        self.call(None, Request::TopicList, answers::topics).await
    }

    /// Changes what a topic keeps.
    ///
    /// # Errors
    /// `unknown_topic`; [`ClientError::Unknown`] when it may have been changed.
    pub async fn topic_alter(
        &self,
        name: &str,
        retention: Retention,
    ) -> Result<TopicInfo, ClientError> {
        self.call(None, Request::TopicAlter { name, retention }, answers::topic).await
    }

    /// Appends records, all or none, with consecutive offsets. `durability`: `None` for the
    /// configuration's.
    ///
    /// # Errors
    /// [`ClientError::Unknown`] when they may have been appended; every other error: they were not.
    pub async fn topic_append(
        &self,
        name: &str,
        to: AppendTo<'_>,
        records: &[AppendRecord<'_>],
        durability: Option<Durability>,
    ) -> Result<Appended, ClientError> {
        let mut buffer = Vec::new();
        let mut list = AppendListBuilder::new(&mut buffer);
        records.iter().try_for_each(|record| list.push(*record))?;
        if list.is_empty() {
            let rule = "must hold at least one record";
            return Err(BodyError::Invalid { field: "append", rule }.into());
        }
        let (records, options) = (list.finish(), self.options(durability));
        let index = |topic: &TopicInfo| append_index(to, topic.partitions);
        let request = |topic: &TopicInfo| {
            let topic = topic.id;
            Request::TopicAppend { options, topic, to, records }
        };
        self.on_topic(name, index, request, answers::appended).await
    }

    /// Reads records. Waits up to `wait_ms`, beyond the deadline of the configuration, for the
    /// first; `max_records` and `max_bytes` of 0 leave the size to the server.
    ///
    /// # Errors
    /// `offset_out_of_range`, or as every call: [`ClientError`].
    pub async fn topic_read(
        &self,
        name: &str,
        partition: u32,
        from: ReadFrom,
        (max_records, max_bytes): (u32, u32),
        wait_ms: u32,
    ) -> Result<Records, ClientError> {
        let request = |topic: &TopicInfo| {
            let topic = topic.id;
            Request::TopicRead { topic, partition, from, max_records, max_bytes, wait_ms }
        };
        self.on_topic(name, |_| partition, request, answers::records).await
    }

    /// Start and end of a topic partition, and the first offset at or after `time` (0: none).
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn topic_offsets(
        &self,
        name: &str,
        partition: u32,
        time: WallTime,
    ) -> Result<Offsets, ClientError> {
        let request =
            |topic: &TopicInfo| Request::TopicOffsets { topic: topic.id, partition, time };
        self.on_topic(name, |_| partition, request, answers::offsets).await
    }

    /// Drops the records of a topic partition before an offset.
    ///
    /// # Errors
    /// As [`Client::topic_append`].
    pub async fn topic_trim(
        &self,
        name: &str,
        partition: u32,
        before: u64,
    ) -> Result<Receipt, ClientError> {
        let options = self.options(None);
        let request =
            |topic: &TopicInfo| Request::TopicTrim { options, topic: topic.id, partition, before };
        self.on_topic(name, |_| partition, request, answers::receipt).await
    }

    /// Sends a request about a topic partition. A remembered id that is not known to the server any
    /// more (the topic was dropped and made again) is looked up once more.
    async fn on_topic<'a, T>(
        &self,
        name: &str,
        index: impl Fn(&TopicInfo) -> u32,
        request: impl Fn(&TopicInfo) -> Request<'a>,
        read: impl Fn(&crate::message::Response<'_>) -> Option<T>,
    ) -> Result<T, ClientError> {
        let until = self.until();
        let remembered = self.inner.topics.borrow().get(name).cloned();
        if let Some(topic) = remembered {
            let partition = self.partition_for_topic(&topic, index(&topic), until).await?;
            match self.call_until(until, partition, request(&topic), &read).await {
                Err(error) if error.code() == Some(ErrorCode::UnknownTopic) => {
                    self.inner.topics.borrow_mut().remove(name);
                }
                result => return result,
            }
        }
        let topic = self.topic_describe_until(until, name).await?;
        let partition = self.partition_for_topic(&topic, index(&topic), until).await?;
        self.call_until(until, partition, request(&topic), &read).await
    }

    async fn partition_for_topic(
        &self,
        topic: &TopicInfo,
        index: u32,
        until: Instant,
    ) -> Result<Option<PartitionId>, ClientError> {
        if self.uses_partitions() {
            return Ok(Some(self.routing(until).await?.partition_of_topic(topic.id, index)));
        }
        Ok(None)
    }
}
