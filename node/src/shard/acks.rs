//! Answers that wait for a commit group to be durable.

use std::collections::VecDeque;

use ironring_core::{ErrorCode, GroupSeq, Instant, Offset};
use ironring_net::message::{Receipt, Response};

use super::event::Origin;
use super::gather::GatherId;

/// What to say when the group is durable.
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
    /// A read that saw a record that was not durable: go on with it.
    Gather(GatherId),
    /// An offset that is not within a topic partition that is being trimmed; the oldest one kept.
    OutOfRange(u64),
    /// Bounds of a topic partition that is being trimmed.
    Offsets {
        /// Oldest offset kept.
        start: u64,
        /// One past the newest.
        end: u64,
        /// First offset at the time asked for.
        at_time: u64,
    },
    /// A key that is gone, by a delete that was not durable when it was looked for.
    NotFound,
}

/// One waiting answer.
#[derive(Clone, Copy, Debug)]
pub struct Ack {
    /// Durable with this group.
    pub group: GroupSeq,
    /// Who waits; `None` when they were told the outcome is unknown.
    pub origin: Option<Origin>,
    /// When the request came, for the latency.
    pub since: Instant,
    /// When they stop waiting.
    pub deadline: Instant,
    /// What to say.
    pub answer: Answer,
}

/// The waiting answers of a shard, in the order of their groups. Bounded by the log's limit on
/// waiting bytes and the connections' limits on unanswered requests.
#[derive(Debug, Default)]
pub struct Acks {
    queue: VecDeque<Ack>,
}

impl Acks {
    /// Adds an answer. Groups never go backwards.
    pub fn push(&mut self, ack: Ack) {
        debug_assert!(self.queue.back().is_none_or(|last| last.group <= ack.group));
        self.queue.push_back(ack);
    }

    /// Takes the oldest answer whose group is durable.
    pub fn pop_durable(&mut self, durable: GroupSeq) -> Option<Ack> {
        if self.queue.front()?.group > durable {
            return None;
        }
        self.queue.pop_front()
    }

    /// Takes every answer, when the log has failed.
    pub fn drain(&mut self) -> impl Iterator<Item = Ack> {
        self.queue.drain(..)
    }

    /// Tells `expired` about every answer whose deadline has passed, once, and forgets who waited
    /// for it. O(waiting).
    pub fn expire(&mut self, now: Instant, mut expired: impl FnMut(&Ack)) {
        for ack in &mut self.queue {
            if ack.deadline <= now && ack.origin.is_some() {
                expired(ack);
                ack.origin = None;
            }
        }
    }

    /// How many wait.
    #[must_use]
    pub fn count(&self) -> usize {
        self.queue.len()
    }
}

impl Answer {
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
            Answer::OutOfRange(start) => Response::Error {
                code: ErrorCode::OffsetOutOfRange,
                detail: start,
                message: "the records were trimmed, or do not exist yet",
            },
            Answer::Offsets { start, end, at_time } => Response::Offsets { start, end, at_time },
            Answer::NotFound => {
                Response::Error { code: ErrorCode::NotFound, detail: 0, message: "no such key" }
            }
            Answer::Gather(_) => return None,
        })
    }
}
