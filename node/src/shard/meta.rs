//! The node's metadata: topic definitions and session numbers, as a pure state machine.
//!
//! Where there is a metadata group, it is the group's, and shards have a copy (`meta_group`). A shard
//! that is alone (the simulator's) keeps it in its own log: a change is a [`Command`] in a record of
//! [`PartitionId::META`]; it is applied when the record is durable, and the result is broadcast to the
//! other shards as a [`MetaSnapshot`]. `apply` depends on nothing but the command: ids and times are in
//! it.
//!
//! [`PartitionId::META`]: ironring_core::PartitionId::META

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ironring_core::limits::{TOPIC_NAME_BYTES_MAX, TOPIC_PARTITIONS_MAX};
use ironring_core::{ErrorCode, TopicId, WallTime};
use ironring_net::message::{Retention, TopicInfo};

use super::fields::{Malformed, Reader, Writer};

/// How many session numbers one durable record sets aside.
pub const SESSIONS_PER_GRANT: u64 = 1024;

/// A change of the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Makes a topic.
    CreateTopic(TopicInfo),
    /// Drops a topic; its id is never used again.
    DeleteTopic(TopicId),
    /// Changes what a topic keeps.
    AlterTopic(TopicId, Retention),
    /// Session numbers up to this one may be given out.
    GrantSessions(u64),
}

/// What shards other than 0 know of the metadata. Shared, because it is replaced, never changed.
pub type MetaSnapshot = Arc<Meta>;

/// The metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Grows with each applied command.
    pub epoch: u64,
    topics: BTreeMap<TopicId, Arc<TopicInfo>>,
    names: BTreeMap<String, TopicId>,
    dropped: BTreeSet<TopicId>,
    last_topic: TopicId,
    /// Session numbers up to this one may be given out.
    pub sessions_granted: u64,
}

impl Meta {
    /// Metadata of these topics.
    pub(super) fn with_topics(
        topics: impl Iterator<Item = TopicInfo>,
        dropped: impl Iterator<Item = TopicId>,
        last_topic: TopicId,
    ) -> Meta {
        let topics: BTreeMap<_, _> = topics.map(|topic| (topic.id, Arc::new(topic))).collect();
        let names = topics.values().map(|topic| (topic.name.clone(), topic.id)).collect();
        Meta { topics, names, dropped: dropped.collect(), last_topic, ..Meta::default() }
    }

    /// The topic with this id.
    #[must_use]
    pub fn topic(&self, id: TopicId) -> Option<&TopicInfo> {
        self.topics.get(&id).map(|t| &**t)
    }

    /// The topic with this name.
    #[must_use]
    pub fn topic_named(&self, name: &str) -> Option<&TopicInfo> {
        self.names.get(name).and_then(|id| self.topic(*id))
    }

    /// All topics, in order of name.
    pub fn topics(&self) -> impl Iterator<Item = &TopicInfo> {
        self.names.values().filter_map(|id| self.topic(*id))
    }

    /// True when a committed command dropped this topic. Unknown is not dropped.
    #[must_use]
    pub fn is_dropped(&self, id: TopicId) -> bool {
        self.dropped.contains(&id)
    }

    /// The command that creates a topic, if the request is sound.
    pub fn create(
        &self,
        name: &str,
        partitions: u32,
        retention: Retention,
        now: WallTime,
    ) -> Result<Command, (ErrorCode, String)> {
        if !valid_name(name) {
            return Err((
                ErrorCode::InvalidArgument,
                format!(
                    "topic name `{name}`: use 1 to {TOPIC_NAME_BYTES_MAX} of a-z 0-9 . _ - and begin with a letter or digit"
                ),
            ));
        }
        if partitions == 0 || partitions > TOPIC_PARTITIONS_MAX {
            return Err((
                ErrorCode::InvalidArgument,
                format!("{partitions} partitions: use 1 to {TOPIC_PARTITIONS_MAX}"),
            ));
        }
        if self.names.contains_key(name) {
            return Err((ErrorCode::TopicExists, format!("topic `{name}` exists")));
        }
        Ok(Command::CreateTopic(TopicInfo {
            id: TopicId(self.last_topic.0 + 1),
            name: name.to_owned(),
            partitions,
            retention,
            created: now,
        }))
    }

    /// Applies a committed command. Idempotent: a command met again changes nothing.
    pub fn apply(&mut self, command: &Command) {
        self.epoch += 1;
        match command {
            Command::CreateTopic(info) => {
                if info.id <= self.last_topic {
                    return;
                }
                self.last_topic = info.id;
                self.names.insert(info.name.clone(), info.id);
                self.topics.insert(info.id, Arc::new(info.clone()));
            }
            Command::DeleteTopic(id) => {
                if let Some(info) = self.topics.remove(id) {
                    self.names.remove(&info.name);
                    self.dropped.insert(*id);
                }
            }
            Command::AlterTopic(id, retention) => {
                if let Some(info) = self.topics.get_mut(id) {
                    Arc::make_mut(info).retention = *retention;
                }
            }
            Command::GrantSessions(up_to) => {
                self.sessions_granted = self.sessions_granted.max(*up_to);
            }
        }
    }

    /// The whole state, for the checkpoint.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer(out);
        w.u64(self.epoch);
        w.u32(self.last_topic.0);
        w.u64(self.sessions_granted);
        w.u32(self.topics.len() as u32);
        for topic in self.topics.values() {
            encode_topic(&mut w, topic);
        }
        w.u32(self.dropped.len() as u32);
        for id in &self.dropped {
            w.u32(id.0);
        }
    }

    /// The opposite of [`Meta::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Meta, Malformed> {
        let mut r = Reader::new(bytes);
        let mut meta = Meta { epoch: r.u64()?, last_topic: TopicId(r.u32()?), ..Meta::default() };
        meta.sessions_granted = r.u64()?;
        for _ in 0..r.u32()? {
            let topic = decode_topic(&mut r)?;
            meta.names.insert(topic.name.clone(), topic.id);
            meta.topics.insert(topic.id, Arc::new(topic));
        }
        for _ in 0..r.u32()? {
            meta.dropped.insert(TopicId(r.u32()?));
        }
        r.end()?;
        Ok(meta)
    }
}

impl Command {
    /// The body of a `Meta` record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer(out);
        match self {
            Command::CreateTopic(info) => {
                w.u8(1);
                encode_topic(&mut w, info);
            }
            Command::DeleteTopic(id) => {
                w.u8(2);
                w.u32(id.0);
            }
            Command::AlterTopic(id, retention) => {
                w.u8(3);
                w.u32(id.0);
                w.u64(retention.age_ms);
                w.u64(retention.bytes);
            }
            Command::GrantSessions(up_to) => {
                w.u8(4);
                w.u64(*up_to);
            }
        }
    }

    /// The opposite of [`Command::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Command, Malformed> {
        let mut r = Reader::new(bytes);
        let command = match r.u8()? {
            1 => Command::CreateTopic(decode_topic(&mut r)?),
            2 => Command::DeleteTopic(TopicId(r.u32()?)),
            3 => {
                let id = TopicId(r.u32()?);
                Command::AlterTopic(id, Retention { age_ms: r.u64()?, bytes: r.u64()? })
            }
            4 => Command::GrantSessions(r.u64()?),
            _ => return Err(Malformed),
        };
        r.end()?;
        Ok(command)
    }
}

fn encode_topic(w: &mut Writer<'_>, topic: &TopicInfo) {
    w.u32(topic.id.0);
    w.u32(topic.partitions);
    w.u64(topic.retention.age_ms);
    w.u64(topic.retention.bytes);
    w.u64(topic.created.0);
    w.bytes(topic.name.as_bytes());
}

fn decode_topic(r: &mut Reader<'_>) -> Result<TopicInfo, Malformed> {
    Ok(TopicInfo {
        id: TopicId(r.u32()?),
        partitions: r.u32()?,
        retention: Retention { age_ms: r.u64()?, bytes: r.u64()? },
        created: WallTime(r.u64()?),
        name: String::from_utf8(r.bytes()?.to_vec()).map_err(|_| Malformed)?,
    })
}

fn valid_name(name: &str) -> bool {
    let ok =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    !name.is_empty()
        && name.len() <= TOPIC_NAME_BYTES_MAX
        && name.bytes().all(ok)
        && name.as_bytes()[0].is_ascii_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(meta: &Meta, name: &str) -> Result<Command, (ErrorCode, String)> {
        meta.create(name, 4, Retention::default(), WallTime(7))
    }

    #[test]
    fn ids_are_never_reused() {
        let mut meta = Meta::default();
        let first = create(&meta, "orders").unwrap();
        meta.apply(&first);
        assert_eq!(create(&meta, "orders").unwrap_err().0, ErrorCode::TopicExists);
        meta.apply(&Command::DeleteTopic(TopicId(1)));
        assert!(meta.is_dropped(TopicId(1)) && !meta.is_dropped(TopicId(2)));
        meta.apply(&create(&meta, "orders").unwrap());
        assert_eq!(meta.topic_named("orders").unwrap().id, TopicId(2));
        let again = meta.topics().cloned().collect::<Vec<_>>();
        meta.apply(&first);
        assert_eq!(
            meta.topics().cloned().collect::<Vec<_>>(),
            again,
            "an old command changes nothing"
        );
    }

    #[test]
    fn names_are_checked() {
        let meta = Meta::default();
        for bad in ["", "Upper", "has space", ".dot", "a/b", &"x".repeat(129)] {
            assert_eq!(create(&meta, bad).unwrap_err().0, ErrorCode::InvalidArgument, "{bad}");
        }
        assert!(meta.create("a", 0, Retention::default(), WallTime(0)).is_err());
        assert!(create(&meta, "0rders.v1_x-y").is_ok());
    }

    #[test]
    fn state_and_commands_round_trip() {
        let mut meta = Meta::default();
        let mut commands = vec![create(&meta, "a").unwrap()];
        meta.apply(&commands[0]);
        commands.push(create(&meta, "b").unwrap());
        commands.push(Command::AlterTopic(TopicId(2), Retention { age_ms: 5, bytes: 6 }));
        commands.push(Command::DeleteTopic(TopicId(1)));
        commands.push(Command::GrantSessions(2048));
        for command in &commands {
            let mut bytes = Vec::new();
            command.encode(&mut bytes);
            assert_eq!(Command::decode(&bytes).as_ref(), Ok(command));
            assert!(Command::decode(&bytes[..bytes.len() - 1]).is_err());
            meta.apply(command);
        }
        let mut bytes = Vec::new();
        meta.encode(&mut bytes);
        assert_eq!(Meta::decode(&bytes), Ok(meta));
    }
}
