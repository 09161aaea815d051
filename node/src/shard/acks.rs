//! Answers that wait for a record to be safe.

use std::collections::VecDeque;

use ironring_core::{ErrorCode, Instant, Offset, PartitionId};
use ironring_net::message::{Receipt, Response};

use super::event::Origin;
use super::reads::AgainId;

/// What to say when the record is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A write.
    Receipt(Receipt),
    /// An append to a topic.
    Appended {
        /// The receipt.
        receipt: Receipt,
        /// Index of the topic partition.
        index: u32,
        /// Offset of the first record.
        first: u64,
        /// How many.
        count: u32,
    },
    /// A condition did not hold; the version that was found.
    ConditionFailed(Offset),
    /// A read about records that were on their way: begin it again.
    Again(AgainId),
}

/// One waiting answer.
#[derive(Clone, Copy, Debug)]
pub struct Ack {
    /// The partition.
    pub partition: PartitionId,
    /// The record that has to be safe.
    pub offset: Offset,
    /// Who waits; `None` when they were told the outcome is unknown.
    pub origin: Option<Origin>,
    /// When the request came, for the latency.
    pub since: Instant,
    /// When they stop waiting.
    pub deadline: Instant,
    /// What to say.
    pub answer: Answer,
}

/// How far a record has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Fsynced by the leader.
    Flushed = 0,
    /// Committed and applied.
    Applied = 1,
    /// Fsynced by every replica, and applied.
    Everywhere = 2,
}

const LEVELS: usize = 3;

/// The waiting answers of a shard, per partition and level in the order of their records. Bounded by
/// the log's limit on waiting bytes and the connections' limits on unanswered requests.
#[derive(Debug)]
pub struct Acks {
    first: u32,
    queues: Vec<[VecDeque<Ack>; LEVELS]>,
    count: usize,
}

impl Acks {
    /// Of partitions `first..end`.
    #[must_use]
    pub fn new(first: u32, end: u32) -> Acks {
        Acks { first, queues: (first..end).map(|_| Default::default()).collect(), count: 0 }
    }

    fn queues(&mut self, partition: PartitionId) -> &mut [VecDeque<Ack>; LEVELS] {
        &mut self.queues[(partition.0 - self.first) as usize]
    }

    /// Adds an answer.
    pub fn push(&mut self, level: Level, ack: Ack) {
        self.count += 1;
        let queue = &mut self.queues(ack.partition)[level as usize];
        // A read may wait for an earlier record than the last write does.
        let after = match queue.back() {
            Some(last) if last.offset > ack.offset => {
                queue.partition_point(|other| other.offset <= ack.offset)
            }
            _ => queue.len(),
        };
        queue.insert(after, ack);
    }

    /// Takes the oldest answer of a partition and level whose record lies before `end`.
    pub fn pop_below(&mut self, level: Level, partition: PartitionId, end: Offset) -> Option<Ack> {
        let queue = &mut self.queues(partition)[level as usize];
        if queue.front()?.offset >= end {
            return None;
        }
        let ack = queue.pop_front();
        self.count -= 1;
        ack
    }

    /// Takes every answer of a partition, when its leader has lost its place.
    pub fn take(&mut self, partition: PartitionId) -> Vec<Ack> {
        let gone: Vec<Ack> = self.queues(partition).iter_mut().flat_map(std::mem::take).collect();
        self.count -= gone.len();
        gone
    }

    /// Takes every answer, when the log has failed.
    pub fn drain(&mut self) -> impl Iterator<Item = Ack> {
        self.count = 0;
        self.queues.iter_mut().flatten().flat_map(|queue| queue.drain(..))
    }

    /// Tells `expired` about every answer whose deadline has passed, once, and forgets who waited
    /// for it. O(waiting).
    pub fn expire(&mut self, now: Instant, mut expired: impl FnMut(&Ack)) {
        for ack in self.queues.iter_mut().flatten().flatten() {
            if ack.deadline <= now && ack.origin.is_some() {
                expired(ack);
                ack.origin = None;
            }
        }
    }

    /// How many wait.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }
}

impl Answer {
    /// What it says a write came to.
    #[must_use]
    pub fn receipt(&self) -> Option<&Receipt> {
        match self {
            Answer::Receipt(receipt) | Answer::Appended { receipt, .. } => Some(receipt),
            Answer::ConditionFailed(_) | Answer::Again(_) => None,
        }
    }

    /// The response, for the answers that are one.
    #[must_use]
    pub fn response(&self) -> Option<Response<'static>> {
        Some(match *self {
            Answer::Receipt(receipt) => Response::Receipt(receipt),
            Answer::Appended { receipt, index, first, count } => {
                Response::Appended { receipt, partition: index, first, count }
            }
            Answer::ConditionFailed(version) => Response::Error {
                code: ErrorCode::ConditionFailed,
                detail: version.0,
                message: "the key has another version than the condition asks for",
            },
            Answer::Again(_) => return None,
        })
    }
}
