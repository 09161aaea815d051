//! Changes of the metadata: on shard 0, one durable command at a time.
//!
//! One at a time, because each is judged against the committed state: two creations of one name
//! must not both pass. They are rare, so waiting costs nobody anything.

use std::collections::VecDeque;
use std::sync::Arc;

use ironring_core::{ErrorCode, Now, PartitionId, SessionId, ShardId, TopicId, WallTime};
use ironring_log::{Priority, RecordKind};
use ironring_net::message::{Request, Response, Retention, TopicInfo};

use super::event::{Effects, ShardMessage};
use super::keys::Draft;
use super::meta::{Command, Meta, MetaSnapshot, SESSIONS_PER_GRANT};
use super::meta_group::Decided;
use super::{Ask, Shard};

/// Most changes that wait; more are refused as overload.
pub const META_QUEUE_MAX: usize = 1024;

const NOT_STARTED: &str = "the deadline passed before it was started";

/// A change somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wish {
    Create { name: String, partitions: u32, retention: Retention },
    Delete { name: String },
    Alter { name: String, retention: Retention },
    Session,
}

/// A change whose record is on its way to the disk.
#[derive(Debug)]
struct Busy {
    ask: Ask,
    wish: Wish,
    /// The topic as it is before the change.
    before: Option<TopicInfo>,
}

/// What is waiting and what is being made durable.
#[derive(Debug, Default)]
pub(super) struct MetaQueue {
    waiting: VecDeque<(Ask, Wish)>,
    /// The change whose record is on its way to the disk.
    busy: Option<Busy>,
    /// The last session number given out.
    pub(super) last_session: u64,
    /// With a metadata group: the last number of the block it granted.
    pub(super) block_end: u64,
    /// Names the change the group was asked for last.
    pub(super) ticket: u64,
    /// What the group decided about it.
    pub(super) decided: Option<Decided>,
    /// The newest metadata this shard knows.
    pub(super) known_epoch: u64,
}

impl MetaQueue {
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.busy.is_none()
    }

    /// Whatever the group decides about the change under way, nobody waits for it any more.
    fn forget_change(&mut self) {
        self.decided = None;
        self.ticket += 1;
    }
}

/// The session numbers of a run begin at the run's own, shifted by this.
const SESSION_RUN_SHIFT: u32 = 32;

impl Shard {
    pub(super) fn meta_request(
        &mut self,
        now: Now,
        ask: Ask,
        request: &Request<'_>,
        fx: &mut Effects,
    ) {
        let wish = match *request {
            Request::TopicCreate { name, partitions, retention } => {
                Wish::Create { name: name.to_owned(), partitions, retention }
            }
            Request::TopicDelete { name } => Wish::Delete { name: name.to_owned() },
            Request::TopicAlter { name, retention } => {
                Wish::Alter { name: name.to_owned(), retention }
            }
            Request::OpenSession => Wish::Session,
            _ => unreachable!("only metadata requests are routed here"),
        };
        if self.meta_queue.waiting.len() >= META_QUEUE_MAX {
            let why = "too many changes of the metadata wait";
            return self.refuse(ask.origin, ErrorCode::Overloaded, 100, why, fx);
        }
        self.meta_queue.waiting.push_back((ask, wish));
        self.advance_meta(now, fx);
    }

    /// Starts waiting changes until one needs the disk.
    fn advance_meta(&mut self, now: Now, fx: &mut Effects) {
        while self.meta_queue.busy.is_none() {
            let Some((ask, wish)) = self.meta_queue.waiting.pop_front() else { return };
            if ask.deadline <= now.mono {
                self.refuse(ask.origin, ErrorCode::DeadlineExceeded, 0, NOT_STARTED, fx);
                continue;
            }
            match self.command_for(now, &wish) {
                Ok(Some(command)) => {
                    if self.write_command(now, ask, &command, fx) {
                        let before = self.described(&command);
                        self.meta_queue.busy = Some(Busy { ask, wish, before });
                    }
                }
                Ok(None) => self.give_session(ask, fx),
                Err((code, why)) => self.refuse(ask.origin, code, 0, &why, fx),
            }
        }
    }

    /// The command a wish needs; `None` for a session that was granted already.
    fn command_for(&self, now: Now, wish: &Wish) -> Result<Option<Command>, (ErrorCode, String)> {
        let meta = self.models.meta.as_ref().expect("shard 0 holds the metadata");
        let find = |name: &str| -> Result<TopicId, (ErrorCode, String)> {
            let unknown = || (ErrorCode::UnknownTopic, format!("no topic is named `{name}`"));
            meta.topic_named(name).map(|t| t.id).ok_or_else(unknown)
        };
        Ok(Some(match wish {
            Wish::Create { name, partitions, retention } => {
                meta.create(name, *partitions, *retention, now.wall)?
            }
            Wish::Delete { name } => Command::DeleteTopic(find(name)?),
            Wish::Alter { name, retention } => Command::AlterTopic(find(name)?, *retention),
            Wish::Session if self.meta_queue.last_session < self.sessions_end(meta) => {
                return Ok(None);
            }
            Wish::Session => Command::GrantSessions(meta.sessions_granted + SESSIONS_PER_GRANT),
        }))
    }

    /// The last session number this shard may give out.
    fn sessions_end(&self, meta: &Meta) -> u64 {
        if self.config.alone { meta.sessions_granted } else { self.meta_queue.block_end }
    }

    /// Ends the change under way with `answer`, and begins the next.
    pub(super) fn end_change(
        &mut self,
        now: Now,
        fx: &mut Effects,
        answer: impl FnOnce(&mut Shard, Ask, &mut Effects),
    ) {
        if let Some(Busy { ask, .. }) = self.meta_queue.busy.take() {
            answer(self, ask, fx);
        }
        self.advance_meta(now, fx);
    }

    /// The topic a command is about, as it is at present.
    fn described(&self, command: &Command) -> Option<TopicInfo> {
        match command {
            Command::DeleteTopic(id) => self.models.meta.as_ref()?.topic(*id).cloned(),
            _ => None,
        }
    }

    fn write_command(&mut self, now: Now, ask: Ask, command: &Command, fx: &mut Effects) -> bool {
        if !self.config.alone {
            self.ask_group(command, fx);
            return true;
        }
        let mut body = Vec::new();
        command.encode(&mut body);
        let draft = Draft {
            kind: RecordKind::Meta,
            flags: 0,
            session: SessionId::NONE,
            sequence: 0,
            expires: WallTime(0),
            key: &[],
            body: &body,
        };
        match self.append(now, PartitionId::META, &draft, Priority::Reserve) {
            Ok(_) => true,
            Err(error) => {
                self.refuse_append(ask, error, fx);
                false
            }
        }
    }

    fn give_session(&mut self, ask: Ask, fx: &mut Effects) {
        self.meta_queue.last_session += 1;
        let session = SessionId(self.meta_queue.last_session);
        fx.reply(self.config.shard(), ask.origin, &Response::Session(session));
    }

    /// Commands have become durable (the models have applied them): answer, and tell the others.
    pub(super) fn committed_meta(&mut self, now: Now, fx: &mut Effects) {
        if self.models.committed.is_empty() {
            return;
        }
        let committed = std::mem::take(&mut self.models.committed);
        for command in committed {
            if let Command::DeleteTopic(_) = command {
                self.models.drop_topics();
                self.tell_log_space();
            }
            let Some(Busy { ask, wish, before }) = self.meta_queue.busy.take() else { continue };
            let meta = self.models.meta.as_ref().expect("shard 0 holds the metadata");
            let me = self.config.shard();
            match (&wish, &command) {
                (Wish::Session, _) => self.give_session(ask, fx),
                (_, Command::CreateTopic(info)) => {
                    fx.reply(me, ask.origin, &Response::Topic(info.clone()));
                }
                (_, Command::AlterTopic(id, _)) => {
                    if let Some(info) = meta.topic(*id) {
                        fx.reply(me, ask.origin, &Response::Topic(info.clone()));
                    }
                }
                (Wish::Delete { .. }, Command::DeleteTopic(_)) => {
                    let info = before.expect("a topic that was found was deleted");
                    fx.reply(me, ask.origin, &Response::Topic(info));
                }
                _ => unreachable!("the command was made for this wish"),
            }
        }
        self.broadcast_meta(fx);
        self.advance_meta(now, fx);
    }

    /// Recovery is over: session numbers of earlier runs are not given out again, and the other
    /// shards learn what there is. Each run has numbers of its own, so that not even a medium that
    /// silently lost a grant can make two clients share a number, and take each other's receipts.
    pub(super) fn meta_opened(&mut self, fx: &mut Effects) {
        if self.models.holds_meta() && self.config.alone {
            let first = u64::from(self.log.run()) << SESSION_RUN_SHIFT;
            if let Some(meta) = &mut self.models.meta {
                meta.sessions_granted = meta.sessions_granted.max(first);
                self.meta_queue.last_session = meta.sessions_granted;
            }
            self.broadcast_meta(fx);
        }
        self.models.drop_topics();
        self.tell_log_space();
    }

    /// Answers whose deadline passed. With a metadata group the change under way is one of them: whom it is
    /// asked of, or what brings the metadata behind it, may be lost for long.
    pub(super) fn expire_changes(&mut self, now: Now, fx: &mut Effects) {
        let is_late = |ask: &Ask| ask.deadline <= now.mono;
        let all = std::mem::take(&mut self.meta_queue.waiting);
        let (late, waiting) = all.into_iter().partition::<VecDeque<_>, _>(|(ask, _)| is_late(ask));
        self.meta_queue.waiting = waiting;
        for (ask, _) in late {
            self.refuse(ask.origin, ErrorCode::DeadlineExceeded, 0, NOT_STARTED, fx);
        }
        if !self.config.alone && self.meta_queue.busy.as_ref().is_some_and(|b| is_late(&b.ask)) {
            self.meta_queue.forget_change();
            let why = "the deadline passed while the metadata group was asked";
            self.end_change(now, fx, |shard, ask, fx| {
                shard.refuse(ask.origin, ErrorCode::Unknown, 0, why, fx);
            });
        }
    }

    /// The log is gone: of the change under way the outcome is unknown, the others were not begun.
    pub(super) fn fail_meta(&mut self, fx: &mut Effects) {
        self.meta_queue.forget_change();
        if let Some(busy) = self.meta_queue.busy.take() {
            let why = "the disk failed while the change was on its way to it";
            self.refuse(busy.ask.origin, ErrorCode::Unknown, 0, why, fx);
        }
        for (ask, _) in std::mem::take(&mut self.meta_queue.waiting) {
            self.refuse(ask.origin, ErrorCode::ShardFenced, 0, "the disk failed", fx);
        }
    }

    fn broadcast_meta(&self, fx: &mut Effects) {
        let Some(meta) = &self.models.meta else { return };
        let snapshot: MetaSnapshot = Arc::new(meta.clone());
        for shard in 1..self.config.slices.shards() {
            fx.messages.push((ShardId(shard), ShardMessage::Meta(Arc::clone(&snapshot))));
        }
    }

    /// Shard 0 has told what there is.
    pub(super) fn learn_meta(&mut self, snapshot: &MetaSnapshot) {
        if self
            .models
            .meta
            .as_ref()
            .is_none_or(|known| known.epoch < snapshot.epoch || known == &**snapshot)
        {
            self.models.meta = Some((**snapshot).clone());
        }
        if self.phase == super::Phase::Serving {
            self.models.drop_topics();
            self.tell_log_space();
        }
    }

    /// Metadata have reached this shard.
    #[must_use]
    pub fn knows_meta(&self) -> bool {
        self.models.meta.is_some()
    }
}
