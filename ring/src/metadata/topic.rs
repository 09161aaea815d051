//! Topic definitions and session numbers: what every node has to agree on before a client uses it.

use std::collections::{BTreeMap, BTreeSet};

use ironring_core::limits::{TOPIC_NAME_BYTES_MAX, TOPIC_PARTITIONS_MAX};
use ironring_core::{TopicId, WallTime};
use serde::{Deserialize, Serialize};

use super::command::Rejected;

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Its number, for ever: it is never given to another.
    pub id: TopicId,
    /// Its name, unique among the topics there are.
    pub name: String,
    /// How many partitions it has.
    pub partitions: u32,
    /// How long records are kept, in milliseconds; 0: for ever.
    pub age_ms: u64,
    /// How many bytes of each partition are kept; 0: all.
    pub bytes: u64,
    /// When it was made.
    pub created: WallTime,
}

/// All topics, and the session numbers that may be in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalogue {
    /// Grows with each change.
    pub epoch: u64,
    topics: BTreeMap<TopicId, Topic>,
    dropped: BTreeSet<TopicId>,
    last_topic: TopicId,
    /// Session numbers up to this one may have been given out.
    pub sessions_granted: u64,
}

impl Catalogue {
    /// All topics, by number.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.values()
    }

    /// Topics a committed command has dropped. Unknown is not dropped.
    pub fn dropped(&self) -> impl Iterator<Item = TopicId> + '_ {
        self.dropped.iter().copied()
    }

    /// The highest number a topic ever had.
    #[must_use]
    pub fn last_topic(&self) -> TopicId {
        self.last_topic
    }

    pub(super) fn create(
        &mut self,
        name: &str,
        partitions: u32,
        (age_ms, bytes): (u64, u64),
        at: WallTime,
    ) -> Result<Topic, Rejected> {
        if name.is_empty() || name.len() > TOPIC_NAME_BYTES_MAX {
            let why = format!("topic name `{name}`: use 1 to {TOPIC_NAME_BYTES_MAX} bytes");
            return Err(Rejected::Invalid(why));
        }
        if partitions == 0 || partitions > TOPIC_PARTITIONS_MAX {
            let why = format!("{partitions} partitions: use 1 to {TOPIC_PARTITIONS_MAX}");
            return Err(Rejected::Invalid(why));
        }
        if self.topics.values().any(|topic| topic.name == name) {
            return Err(Rejected::TopicExists(name.to_owned()));
        }
        let id = TopicId(self.last_topic.0 + 1);
        let topic = Topic { id, name: name.to_owned(), partitions, age_ms, bytes, created: at };
        self.last_topic = id;
        self.topics.insert(id, topic.clone());
        self.epoch += 1;
        Ok(topic)
    }

    pub(super) fn drop_topic(&mut self, id: TopicId) -> Result<Topic, Rejected> {
        let topic = self.topics.remove(&id).ok_or(Rejected::NoTopic(id))?;
        self.dropped.insert(id);
        self.epoch += 1;
        Ok(topic)
    }

    pub(super) fn alter(
        &mut self,
        id: TopicId,
        (age_ms, bytes): (u64, u64),
    ) -> Result<Topic, Rejected> {
        let topic = self.topics.get_mut(&id).ok_or(Rejected::NoTopic(id))?;
        (topic.age_ms, topic.bytes) = (age_ms, bytes);
        self.epoch += 1;
        Ok(topic.clone())
    }

    /// Sets session numbers aside; the first of them.
    pub(super) fn grant(&mut self, count: u64) -> u64 {
        let first = self.sessions_granted + 1;
        self.sessions_granted += count;
        self.epoch += 1;
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_never_given_twice_and_names_are_unique() {
        let mut catalogue = Catalogue::default();
        let create =
            |c: &mut Catalogue, name: &str| c.create(name, 4, (1, 2), WallTime(3)).map(|t| t.id);
        assert_eq!(create(&mut catalogue, "a"), Ok(TopicId(1)));
        assert_eq!(create(&mut catalogue, "a"), Err(Rejected::TopicExists("a".to_owned())));
        assert_eq!(catalogue.drop_topic(TopicId(1)).unwrap().name, "a");
        assert_eq!(catalogue.drop_topic(TopicId(1)), Err(Rejected::NoTopic(TopicId(1))));
        assert_eq!(create(&mut catalogue, "a"), Ok(TopicId(2)));
        assert_eq!(catalogue.alter(TopicId(2), (5, 6)).unwrap().bytes, 6);
        assert_eq!(catalogue.dropped().collect::<Vec<_>>(), [TopicId(1)]);
        assert_eq!((catalogue.grant(10), catalogue.grant(10)), (1, 11));
        assert_eq!(catalogue.epoch, 6);
        assert!(catalogue.create("b", 0, (0, 0), WallTime(0)).is_err());
    }
}
