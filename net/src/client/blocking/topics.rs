//! Calls on topics. Topics are named here; their ids are looked up once and remembered.

#![expect(
    clippy::disallowed_types,
    reason = "a client waits for sockets: it reads the clock for deadlines"
)]

use std::time::Instant;

use ironring_core::{Durability, ErrorCode, WallTime};

use super::Client;
use crate::client::answers::{self, Offsets};
use crate::client::routing::append_index;
use crate::client::{Appended, ClientError, Records};
use crate::error::BodyError;
use crate::list::AppendListBuilder;
use crate::message::{AppendRecord, AppendTo, ReadFrom, Receipt, Request, Retention, TopicInfo};

impl Client {
    /// Makes a topic.
    ///
    /// # Errors
    /// `topic_exists`; [`ClientError::Unknown`] when it may have been made.
    pub fn topic_create(
        &mut self,
        name: &str,
        partitions: u32,
        retention: Retention,
    ) -> Result<TopicInfo, ClientError> {
        self.call(None, Request::TopicCreate { name, partitions, retention }, answers::topic)
    }

    /// Drops a topic and its records.
    ///
    /// # Errors
    /// `unknown_topic`; [`ClientError::Unknown`] when it may have been dropped.
    pub fn topic_delete(&mut self, name: &str) -> Result<TopicInfo, ClientError> {
        self.topics.remove(name);
        self.call(None, Request::TopicDelete { name }, answers::topic)
    }

    /// Describes a topic.
    ///
    /// # Errors
    /// `unknown_topic`, or as every call: [`ClientError`].
    pub fn topic_describe(&mut self, name: &str) -> Result<TopicInfo, ClientError> {
        self.topic_describe_until(self.until(), name)
    }

    fn topic_describe_until(
        &mut self,
        until: Instant,
        name: &str,
    ) -> Result<TopicInfo, ClientError> {
        let request = Request::TopicDescribe { name };
        let topic = self.call_until(until, None, request, answers::topic)?;
        self.topics.insert(name.to_owned(), topic.clone());
        Ok(topic)
    }

    /// Describes all topics.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub fn topic_list(&mut self) -> Result<Vec<TopicInfo>, ClientError> {
        self.call(None, Request::TopicList, answers::topics)
    }

    /// Changes what a topic keeps.
    ///
    /// # Errors
    /// `unknown_topic`; [`ClientError::Unknown`] when it may have been changed.
    pub fn topic_alter(
        &mut self,
        name: &str,
        retention: Retention,
    ) -> Result<TopicInfo, ClientError> {
        self.call(None, Request::TopicAlter { name, retention }, answers::topic)
    }

    /// Appends records, all or none, with consecutive offsets. `durability`: `None` for the
    /// configuration's.
    ///
    /// # Errors
    /// [`ClientError::Unknown`] when they may have been appended; every other error: they were not.
    pub fn topic_append(
        &mut self,
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
        self.with_topic(name, |client, topic, until| {
            let index = append_index(to, topic.partitions);
            let partition = client.partition_for_topic(topic, index, until)?;
            let topic = topic.id;
            let request = Request::TopicAppend { options, topic, to, records };
            client.call_until(until, partition, request, answers::appended)
        })
    }

    /// Reads records. Waits up to `wait_ms`, beyond the deadline of the configuration, for the
    /// first; `max_records` and `max_bytes` of 0 leave the size to the server.
    ///
    /// # Errors
    /// `offset_out_of_range`, or as every call: [`ClientError`].
    pub fn topic_read(
        &mut self,
        name: &str,
        partition: u32,
        from: ReadFrom,
        (max_records, max_bytes): (u32, u32),
        wait_ms: u32,
    ) -> Result<Records, ClientError> {
        self.with_topic(name, |client, topic, until| {
            let owner = client.partition_for_topic(topic, partition, until)?;
            let topic = topic.id;
            let request =
                Request::TopicRead { topic, partition, from, max_records, max_bytes, wait_ms };
            client.call_until(until, owner, request, answers::records)
        })
    }

    /// Start and end of a topic partition, and the first offset at or after `time` (0: none).
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub fn topic_offsets(
        &mut self,
        name: &str,
        partition: u32,
        time: WallTime,
    ) -> Result<Offsets, ClientError> {
        self.with_topic(name, |client, topic, until| {
            let owner = client.partition_for_topic(topic, partition, until)?;
            let request = Request::TopicOffsets { topic: topic.id, partition, time };
            client.call_until(until, owner, request, answers::offsets)
        })
    }

    /// Drops the records of a topic partition before an offset.
    ///
    /// # Errors
    /// As [`Client::topic_append`].
    pub fn topic_trim(
        &mut self,
        name: &str,
        partition: u32,
        before: u64,
    ) -> Result<Receipt, ClientError> {
        let options = self.options(None);
        self.with_topic(name, |client, topic, until| {
            let owner = client.partition_for_topic(topic, partition, until)?;
            let request = Request::TopicTrim { options, topic: topic.id, partition, before };
            client.call_until(until, owner, request, answers::receipt)
        })
    }

    /// Does something with a topic's id. A remembered id that is not known to the server any more
    /// (the topic was dropped and made again) is looked up once more.
    fn with_topic<T>(
        &mut self,
        name: &str,
        act: impl Fn(&mut Client, &TopicInfo, Instant) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let until = self.until();
        if let Some(topic) = self.topics.get(name).cloned() {
            match act(self, &topic, until) {
                Err(error) if error.code() == Some(ErrorCode::UnknownTopic) => {
                    self.topics.remove(name);
                }
                result => return result,
            }
        }
        let topic = self.topic_describe_until(until, name)?;
        act(self, &topic, until)
    }
}
