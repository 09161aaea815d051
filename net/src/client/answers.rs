//! Takes what was asked for out of a response; `None` when the response is of another kind.

use ironring_core::SessionId;

use super::{Appended, Entry, Records, Value};
use crate::message::{ClusterMap, Receipt, Response, TopicInfo};

/// Start, end, and the first offset at or after a time, of a topic partition.
pub type Offsets = (u64, u64, u64);

pub(super) fn pong(response: &Response<'_>) -> Option<()> {
    matches!(response, Response::Pong).then_some(())
}

pub(super) fn stats(response: &Response<'_>) -> Option<String> {
    match response {
        Response::Stats(text) => Some((*text).to_owned()),
        _ => None,
    }
}

pub(super) fn map(response: &Response<'_>) -> Option<ClusterMap> {
    match response {
        Response::ClusterMap(map) => Some(map.clone()),
        _ => None,
    }
}

pub(super) fn session(response: &Response<'_>) -> Option<SessionId> {
    match response {
        Response::Session(session) => Some(*session),
        _ => None,
    }
}

pub(super) fn receipt(response: &Response<'_>) -> Option<Receipt> {
    match response {
        Response::Receipt(receipt) => Some(*receipt),
        _ => None,
    }
}

pub(super) fn value(response: &Response<'_>) -> Option<Value> {
    match response {
        Response::Value(value) => Some(Value::from(*value)),
        _ => None,
    }
}

/// As many values as keys were asked for.
pub(super) fn values(response: &Response<'_>, asked: usize) -> Option<Vec<Option<Value>>> {
    match response {
        Response::Values(values) if values.len() == asked => {
            Some(values.iter().map(|value| value.map(Value::from)).collect())
        }
        _ => None,
    }
}

/// A page, unless it says that there is more but not after which key.
pub(super) fn page(response: &Response<'_>) -> Option<(Vec<Entry>, bool)> {
    match response {
        Response::Page { entries, more } if !(*more && entries.is_empty()) => {
            Some((entries.iter().map(Entry::from).collect(), *more))
        }
        _ => None,
    }
}

pub(super) fn topic(response: &Response<'_>) -> Option<TopicInfo> {
    match response {
        Response::Topic(topic) => Some(topic.clone()),
        _ => None,
    }
}

pub(super) fn topics(response: &Response<'_>) -> Option<Vec<TopicInfo>> {
    match response {
        Response::Topics(topics) => Some(topics.clone()),
        _ => None,
    }
}

pub(super) fn appended(response: &Response<'_>) -> Option<Appended> {
    match *response {
        Response::Appended { receipt, partition, first, count } => {
            Some(Appended { receipt, partition, first, count })
        }
        _ => None,
    }
}

pub(super) fn records(response: &Response<'_>) -> Option<Records> {
    match response {
        Response::Records { records, start, end } => Some(Records {
            records: records.iter().map(Into::into).collect(),
            start: *start,
            end: *end,
        }),
        _ => None,
    }
}

pub(super) fn offsets(response: &Response<'_>) -> Option<Offsets> {
    match response {
        Response::Offsets { start, end, at_time } => Some((*start, *end, *at_time)),
        _ => None,
    }
}
