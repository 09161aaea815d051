//! What the fake cluster keeps: keys, topics, and receipts of sessions.

use std::collections::VecDeque;

use ironring_core::{Durability, ErrorCode, Offset, PartitionId, Term, Token, TopicId, WallTime};

use super::{PARTITIONS, State, ok, refuse};
use crate::client::call::options_of;
use crate::connection::Output;
use crate::list::{RecordListBuilder, ScanListBuilder};
use crate::message::*;

/// Entries of a page: few, so that scans have many.
const PAGE_ENTRIES: usize = 20;

/// The first answer to a numbered write.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Receipt(Receipt),
    Appended { receipt: Receipt, partition: u32, first: u64, count: u32 },
    ConditionFailed(u64),
}

type KeyAndValue = (Vec<u8>, Vec<u8>);

#[derive(Debug)]
pub(super) struct Topic {
    pub(super) info: TopicInfo,
    /// Start offset and records of each partition.
    partitions: Vec<(u64, VecDeque<KeyAndValue>)>,
}

impl State {
    pub(super) fn scan(
        &self,
        (partition, prefix, after, values): (PartitionId, &[u8], &[u8], bool),
        correlation: u64,
        output: &mut Output,
    ) {
        let mut buffer = Vec::new();
        let mut entries = ScanListBuilder::new(&mut buffer);
        let mut rest = self.keys.iter().filter(|(key, _)| {
            key.starts_with(prefix)
                && key.as_slice() > after
                && Token::of_key(key).partition(PARTITIONS) == partition
        });
        for (key, (version, value)) in rest.by_ref().take(PAGE_ENTRIES) {
            let value = values.then_some(value.as_slice());
            entries.push(ScanEntry { key, version: *version, value }).unwrap();
        }
        let more = rest.next().is_some();
        ok(output, correlation, &Response::Page { entries: entries.finish(), more });
    }

    fn topic(&mut self, id: TopicId) -> Option<&mut Topic> {
        self.topics.iter_mut().find(|topic| topic.info.id == id)
    }

    pub(super) fn topic_request(
        &mut self,
        request: &Request<'_>,
        correlation: u64,
        output: &mut Output,
    ) {
        let by_name =
            |topics: &[Topic], name: &str| topics.iter().position(|topic| topic.info.name == name);
        let response = match *request {
            Request::TopicCreate { name, .. } if by_name(&self.topics, name).is_some() => {
                return refuse(output, correlation, ErrorCode::TopicExists, 0);
            }
            Request::TopicCreate { name, partitions, retention } => {
                self.topics_made += 1;
                let id = TopicId(self.topics_made);
                let (name, created) = (name.to_owned(), WallTime(1));
                let info = TopicInfo { id, name, partitions, retention, created };
                let partitions = (0..partitions).map(|_| (0, VecDeque::new())).collect();
                self.topics.push(Topic { info: info.clone(), partitions });
                Response::Topic(info)
            }
            Request::TopicList => {
                Response::Topics(self.topics.iter().map(|topic| topic.info.clone()).collect())
            }
            Request::TopicDelete { name } | Request::TopicDescribe { name } => {
                let Some(at) = by_name(&self.topics, name) else {
                    return refuse(output, correlation, ErrorCode::UnknownTopic, 0);
                };
                let info = self.topics[at].info.clone();
                if matches!(request, Request::TopicDelete { .. }) {
                    self.topics.remove(at);
                }
                Response::Topic(info)
            }
            Request::TopicRead { topic, partition, .. } => {
                let Some(topic) = self.topic(topic) else {
                    return refuse(output, correlation, ErrorCode::UnknownTopic, 0);
                };
                let (start, records) = &topic.partitions[partition as usize];
                let mut buffer = Vec::new();
                let mut list = RecordListBuilder::new(&mut buffer);
                for ((key, value), offset) in records.iter().zip(*start..) {
                    list.push(TopicRecord { offset, time: WallTime(1), key, value }).unwrap();
                }
                let end = start + records.len() as u64;
                let records = list.finish();
                return ok(output, correlation, &Response::Records { records, start: *start, end });
            }
            Request::TopicOffsets { topic, partition, .. } => {
                let topic = self.topic(topic).unwrap();
                let (start, records) = &topic.partitions[partition as usize];
                let end = start + records.len() as u64;
                Response::Offsets { start: *start, end, at_time: end }
            }
            _ => panic!("the fake has no {request:?}"),
        };
        ok(output, correlation, &response);
    }

    /// Deduplicates, applies, answers.
    pub(super) fn write(&mut self, request: &Request<'_>, correlation: u64, output: &mut Output) {
        let options = options_of(request).unwrap();
        let Some(partition) = self.partition_of(request) else {
            return refuse(output, correlation, ErrorCode::UnknownTopic, 0);
        };
        let place = (options.session.0, partition);
        if options.session.0 != 0 {
            let answers = self.answers.entry(place).or_default();
            let expected = answers.len() as u64 + 1;
            if options.sequence > expected {
                return refuse(output, correlation, ErrorCode::SequenceGap, expected);
            }
            if let Some(first) = answers.get(options.sequence as usize - 1) {
                return respond(output, correlation, &first.clone(), true);
            }
        }
        let answer = self.apply(request, partition, options.durability);
        respond(output, correlation, &answer, false);
        if options.session.0 != 0 {
            self.answers.entry(place).or_default().push(answer);
        }
    }

    fn partition_of(&mut self, request: &Request<'_>) -> Option<PartitionId> {
        let (topic, to) = match *request {
            Request::Put { key, .. } | Request::Delete { key, .. } => {
                return Some(Token::of_key(key).partition(PARTITIONS));
            }
            Request::Batch { partition, .. } => return Some(partition),
            Request::TopicAppend { topic, to, .. } => (topic, to),
            Request::TopicTrim { topic, partition, .. } => (topic, AppendTo::Partition(partition)),
            _ => panic!("{request:?} is no write"),
        };
        let index = self.topic_index(topic, to)?;
        Some(Token::of_topic_partition(topic, index).partition(PARTITIONS))
    }

    fn topic_index(&mut self, topic: TopicId, to: AppendTo<'_>) -> Option<u32> {
        let partitions = self.topic(topic)?.info.partitions;
        Some(match to {
            AppendTo::Partition(index) => index,
            AppendTo::Key(key) => ((Token::of_key(key).0 >> 32) % u64::from(partitions)) as u32,
        })
    }

    fn holds(&self, key: &[u8], condition: Condition) -> Result<(), u64> {
        let current = self.keys.get(key).map_or(Offset::NONE, |(version, _)| *version);
        let holds = match condition {
            Condition::None => true,
            Condition::Absent => current == Offset::NONE,
            Condition::Version(version) => version == current && version != Offset::NONE,
        };
        if holds { Ok(()) } else { Err(current.0) }
    }

    fn apply(
        &mut self,
        request: &Request<'_>,
        partition: PartitionId,
        durability: Durability,
    ) -> Answer {
        let offset = Offset(self.applied as u64 + 1);
        let receipt = Receipt { durability, partition, term: Term(1), offset, duplicate: false };
        let held = match *request {
            Request::Put { key, condition, .. } | Request::Delete { key, condition, .. } => {
                self.holds(key, condition)
            }
            Request::Batch { ops, .. } => ops.iter().try_for_each(|op| match op {
                BatchOp::Put { key, condition, .. } | BatchOp::Delete { key, condition } => {
                    self.holds(key, condition)
                }
            }),
            _ => Ok(()),
        };
        if let Err(current) = held {
            return Answer::ConditionFailed(current);
        }
        self.applied += 1;
        match *request {
            Request::Put { key, value, .. } => {
                self.keys.insert(key.to_vec(), (offset, value.to_vec()));
            }
            Request::Delete { key, .. } => {
                self.keys.remove(key);
            }
            Request::Batch { ops, .. } => ops.iter().for_each(|op| match op {
                BatchOp::Put { key, value, .. } => {
                    self.keys.insert(key.to_vec(), (offset, value.to_vec()));
                }
                BatchOp::Delete { key, .. } => {
                    self.keys.remove(key);
                }
            }),
            Request::TopicAppend { topic, to, records, .. } => {
                let index = self.topic_index(topic, to).unwrap();
                let topic = self.topic(topic).unwrap();
                let (start, kept) = &mut topic.partitions[index as usize];
                let first = *start + kept.len() as u64;
                kept.extend(records.iter().map(|r| (r.key.to_vec(), r.value.to_vec())));
                let count = records.count();
                return Answer::Appended { receipt, partition: index, first, count };
            }
            Request::TopicTrim { topic, partition, before, .. } => {
                let topic = self.topic(topic).unwrap();
                let (start, kept) = &mut topic.partitions[partition as usize];
                while *start < before && kept.pop_front().is_some() {
                    *start += 1;
                }
            }
            _ => panic!("{request:?} is no write"),
        }
        Answer::Receipt(receipt)
    }
}

fn respond(output: &mut Output, correlation: u64, answer: &Answer, duplicate: bool) {
    match *answer {
        Answer::Receipt(receipt) => {
            ok(output, correlation, &Response::Receipt(Receipt { duplicate, ..receipt }));
        }
        Answer::Appended { receipt, partition, first, count } => {
            let receipt = Receipt { duplicate, ..receipt };
            ok(output, correlation, &Response::Appended { receipt, partition, first, count });
        }
        Answer::ConditionFailed(current) => {
            refuse(output, correlation, ErrorCode::ConditionFailed, current);
        }
    }
}

pub(super) fn found(version: Offset, value: &[u8]) -> ValueRef<'_> {
    ValueRef { version, time: WallTime(1), expires: WallTime(0), value }
}
