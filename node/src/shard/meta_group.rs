//! Changes of the metadata where there is a metadata group: shard 0 asks it, one change at a time, and
//! answers when this node's shards can know what came of it.
//!
//! Session numbers come in blocks, so that opening a session asks the group once in
//! [`SESSIONS_PER_GRANT`] times.

use std::sync::Arc;

use ironring_core::{ErrorCode, Now, SessionId, TopicId};
use ironring_net::message::{Response, Retention, TopicInfo};
use ironring_ring::metadata::{
    Catalogue, Command as GroupCommand, Metadata, Outcome, Rejected, Topic,
};

use super::Shard;
use super::event::{Effects, MetaAsk, MetaFailure};
use super::meta::{Command, Meta, SESSIONS_PER_GRANT};

/// What the group has decided about the change under way, until the metadata behind it are here.
#[derive(Debug)]
pub(super) struct Decided {
    epoch: u64,
    what: Change,
}

#[derive(Debug)]
enum Change {
    Topic(TopicInfo),
    /// The first of a block of session numbers.
    Sessions(u64),
}

impl Meta {
    /// What shards need of the cluster's catalogue.
    #[must_use]
    pub fn of(catalogue: &Catalogue) -> Meta {
        let topics = catalogue.topics().map(described);
        let mut meta = Meta::with_topics(topics, catalogue.dropped(), catalogue.last_topic());
        meta.epoch = catalogue.epoch;
        meta.sessions_granted = catalogue.sessions_granted;
        meta
    }
}

fn described(topic: &Topic) -> TopicInfo {
    TopicInfo {
        id: topic.id,
        name: topic.name.clone(),
        partitions: topic.partitions,
        retention: Retention { age_ms: topic.age_ms, bytes: topic.bytes },
        created: topic.created,
    }
}

/// The group's command for a change.
fn for_group(command: &Command) -> GroupCommand {
    match command {
        Command::CreateTopic(info) => GroupCommand::CreateTopic {
            name: info.name.clone(),
            partitions: info.partitions,
            age_ms: info.retention.age_ms,
            bytes: info.retention.bytes,
            at: info.created,
        },
        Command::DeleteTopic(id) => GroupCommand::DropTopic { id: *id },
        Command::AlterTopic(id, retention) => {
            GroupCommand::AlterTopic { id: *id, age_ms: retention.age_ms, bytes: retention.bytes }
        }
        Command::GrantSessions(_) => GroupCommand::GrantSessions { count: SESSIONS_PER_GRANT },
    }
}

impl Shard {
    /// Asks the group for a change.
    pub(super) fn ask_group(&mut self, command: &Command, fx: &mut Effects) {
        self.meta_queue.ticket += 1;
        let ask = MetaAsk { ticket: self.meta_queue.ticket, command: for_group(command) };
        fx.metadata.push(ask);
    }

    /// What the group made of the change under way.
    pub(super) fn group_decided(
        &mut self,
        now: Now,
        ticket: u64,
        result: Result<Outcome, MetaFailure>,
        fx: &mut Effects,
    ) {
        if ticket != self.meta_queue.ticket {
            return;
        }
        let (code, why) = match result {
            Ok(Outcome::Topic { topic, epoch }) => {
                let what = Change::Topic(described(&topic));
                self.meta_queue.decided = Some(Decided { epoch, what });
                return self.finish_change(now, fx);
            }
            Ok(Outcome::Sessions { first, epoch }) => {
                self.meta_queue.decided = Some(Decided { epoch, what: Change::Sessions(first) });
                return self.finish_change(now, fx);
            }
            Ok(Outcome::Rejected(Rejected::TopicExists(name))) => {
                (ErrorCode::TopicExists, format!("topic `{name}` exists"))
            }
            Ok(Outcome::Rejected(Rejected::NoTopic(TopicId(id)))) => {
                (ErrorCode::UnknownTopic, format!("no topic has id {id}"))
            }
            Ok(Outcome::Rejected(why)) => (ErrorCode::InvalidArgument, why.to_string()),
            Ok(Outcome::Done { .. } | Outcome::Joined { .. }) => {
                (ErrorCode::Unknown, "the metadata group answers something else".to_owned())
            }
            Err(MetaFailure::Unavailable(why)) => (ErrorCode::NotReady, why),
            Err(MetaFailure::Unknown) => {
                (ErrorCode::Unknown, "it is not known whether the change was made".to_owned())
            }
        };
        self.end_change(now, fx, |shard, ask, fx| shard.refuse(ask.origin, code, 0, &why, fx));
    }

    /// Answers the change under way, once the metadata it led to are here: whoever hears of a topic or
    /// a session can use it on this node.
    pub(super) fn finish_change(&mut self, now: Now, fx: &mut Effects) {
        let known = self.meta_queue.known_epoch;
        let Some(decided) = self.meta_queue.decided.take_if(|decided| decided.epoch <= known)
        else {
            return;
        };
        match decided.what {
            Change::Topic(info) => self.end_change(now, fx, |shard, ask, fx| {
                fx.reply(shard.config.shard(), ask.origin, &Response::Topic(info));
            }),
            Change::Sessions(first) => {
                self.meta_queue.last_session = first - 1;
                self.meta_queue.block_end = first - 1 + SESSIONS_PER_GRANT;
                self.end_change(now, fx, |shard, ask, fx| {
                    shard.meta_queue.last_session += 1;
                    let session = SessionId(shard.meta_queue.last_session);
                    fx.reply(shard.config.shard(), ask.origin, &Response::Session(session));
                });
            }
        }
    }

    /// The newest metadata are here: topics and session numbers are among them.
    pub(super) fn learn_catalogue(&mut self, metadata: &Metadata) {
        self.meta_queue.known_epoch = metadata.epoch();
        let catalogue = metadata.catalogue();
        if self.models.meta.as_ref().is_none_or(|known| known.epoch != catalogue.epoch) {
            self.learn_meta(&Arc::new(Meta::of(catalogue)));
        }
    }
}
