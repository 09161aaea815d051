//! The shard: one executor's slice of the ring, its log and its data models, without any I/O.
//!
//! A driver calls [`Shard::handle`] with what happened and executes the [`Effects`]; the simulator
//! does the same in virtual time. Rules the shard keeps:
//! - nothing is acked at a level above `async` before the log says its group is durable;
//! - readers see committed state only; who may have been told of more waits until it is committed;
//! - a request is refused whole or applied whole, and refusals change nothing;
//! - every queue is bounded: by the log's waiting bytes, [`gather::GATHERS_MAX`],
//!   [`uploads::UPLOADS_MAX`], [`meta_ops::META_QUEUE_MAX`], [`topic_ops::POLLS_MAX`].

pub mod acks;
pub mod checkpoint;
pub mod compare;
mod comparing;
pub mod config;
pub mod counters;
mod damage;
pub mod entries;
pub mod event;
mod expiry;
mod fetch;
pub mod fields;
pub mod gather;
mod keys;
pub mod large;
pub mod map;
pub mod memory;
pub mod meta;
mod meta_group;
mod meta_ops;
pub mod models;
mod movement;
pub mod names;
pub mod partition;
pub mod pending;
mod pins;
pub mod ranges;
mod reads;
mod repair;
mod replicas;
mod route;
mod sending;
pub mod sessions;
mod snapshot;
pub mod state;
mod taking;
mod topic_ops;
pub mod topics;
mod transfer;
mod uploads;

use std::sync::Arc;
use std::time::Duration;

use ironring_core::io::BufAlloc;
use ironring_core::{Durability, ErrorCode, GroupSeq, Instant, Now, Offset, PartitionId, ShardId};
use ironring_log::{Log, LogFailure, LogStatus};
use ironring_net::message::{ClusterMap, Response};
use ironring_ring::metadata::{Metadata, PartitionRecord};
use ironring_ring::replication::View;

pub use config::ShardConfig;
pub use event::{
    ConnId, Effects, Event, MetaAsk, MetaFailure, Origin, PeerMessage, ShardMessage, ToController,
    ToPeer,
};
pub use memory::ConnectionBytes;
pub use movement::{BANDWIDTH_UNMEASURED, MoveProgress, MovementSettings};

use acks::{Ack, Acks, Answer, Level};
use comparing::Comparing;
use counters::Counters;
use damage::Rebuild;
use expiry::Expiry;
use fetch::Fetches;
use gather::Gathers;
use memory::Memory;
use meta_ops::MetaQueue;
use models::Models;
use movement::Movement;
use partition::Space;
use reads::{Again, Leases};
use repair::Repair;
use replicas::Replicas;
use sending::Chunks;
use topic_ops::Polls;
use transfer::Transfers;
use uploads::Uploads;

/// How often deadlines, retention and expiry are looked after.
const SWEEP_EVERY: Duration = Duration::from_millis(20);
/// How long a shard that is to stop waits for others to lead what it leads.
const LEAVE_MAX: Duration = Duration::from_secs(5);
/// How often retention is looked after.
const RETENTION_EVERY: Duration = Duration::from_secs(1);

/// Where a shard is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Recovering; requests are refused.
    Opening,
    /// Serving.
    Serving,
    /// Its log is lost; it is out until it has another, which other replicas fill.
    Damaged,
    /// Finishing what was started.
    Stopping,
    /// Everything is durable; the driver may let go.
    Stopped,
    /// A disk fault: requests are refused for good.
    Failed,
}

/// One shard. See the module's documentation.
pub struct Shard {
    config: ShardConfig,
    log: Log,
    models: Models,
    acks: Acks,
    gathers: Gathers,
    uploads: Uploads,
    polls: Polls,
    meta_queue: MetaQueue,
    counters: Counters,
    phase: Phase,
    sweep_at: Instant,
    retention_at: Instant,
    expiry: Expiry,
    stop_wanted: bool,
    /// Until when other replicas may take over what this shard leads, before it stops.
    leave_until: Option<Instant>,
    /// Reads that wait for records to be committed.
    again: Again,
    /// Reads that wait to know that this replica leads still.
    leases: Leases,
    /// Who leads what; nothing before recovery is over.
    replicas: Option<Replicas>,
    /// Metadata that came before.
    pending_metadata: Option<Arc<Metadata>>,
    /// What clients are told of where partitions are.
    map: ClusterMap,
    /// Entries read for followers that are behind.
    chunks: Chunks,
    /// States on their way to and from other nodes.
    transfers: Transfers,
    /// How fast moves go, and how far they are.
    movement: Movement,
    /// A log that was lost, and what becomes of it.
    rebuild: Rebuild,
    /// Records that were lost, and what becomes of them.
    repair: Repair,
    /// Records that were lost, asked of others.
    fetches: Fetches,
    /// Replicas compared with others.
    comparing: Comparing,
    started_at: Instant,
    /// A probe on its way, with the group that must be durable.
    probe: Option<(u64, GroupSeq)>,
    probe_done: u64,
    /// Requests other shards have not answered.
    handed_bytes: usize,
    memory: Memory,
}

/// What every request carries along.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    origin: Origin,
    since: Instant,
    deadline: Instant,
}

impl Shard {
    /// A shard that waits for [`Event::Start`].
    #[must_use]
    pub fn new(config: ShardConfig, alloc: Box<dyn BufAlloc>) -> Shard {
        let range = config.slices.range(config.shard());
        let cache = config.cache_bytes.min(config.memory_bytes_max);
        Shard {
            log: Log::new(config.log.clone(), config.identity, alloc),
            models: Models::new(range.start, range.end, cache),
            acks: Acks::new(range.start, range.end),
            gathers: Gathers::default(),
            uploads: Uploads::default(),
            polls: Polls::default(),
            meta_queue: MetaQueue::default(),
            counters: Counters::default(),
            phase: Phase::Opening,
            sweep_at: Instant(0),
            retention_at: Instant(0),
            expiry: Expiry::default(),
            stop_wanted: false,
            leave_until: None,
            again: Again::default(),
            leases: Leases::default(),
            replicas: None,
            pending_metadata: None,
            map: config.map.clone(),
            chunks: Chunks::default(),
            transfers: Transfers::default(),
            movement: Movement::new(config.movement),
            rebuild: Rebuild::default(),
            repair: Repair::default(),
            fetches: Fetches::default(),
            comparing: Comparing::new(config.compare),
            started_at: Instant(0),
            probe: None,
            probe_done: 0,
            handed_bytes: 0,
            memory: Memory::default(),
            config,
        }
    }

    /// This shard.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.config.shard()
    }

    /// Where it is in its life.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Why the log failed, when it did.
    #[must_use]
    pub fn failure(&self) -> Option<&LogFailure> {
        match self.log.status() {
            LogStatus::Failed(failure) => Some(failure),
            _ => None,
        }
    }

    /// The log, to look at.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The data models, to look at.
    #[must_use]
    pub fn models(&self) -> &Models {
        &self.models
    }

    /// When [`Event::Timer`] is wanted next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let mine = match self.phase {
            Phase::Serving | Phase::Stopping => Some(self.sweep_at),
            Phase::Damaged => Some(self.rebuild.deadline().max(self.sweep_at)),
            _ => None,
        };
        let replicas = self.replicas.as_ref().map(|replicas| replicas.engine.next_deadline());
        [mine, replicas, self.log.next_deadline()].into_iter().flatten().min()
    }

    /// Whether the staged group is held back for more records: [`Event::TurnEnd`] is wanted when it
    /// no longer is, and as soon as something was handled before.
    #[must_use]
    pub fn holds_group(&self, now: Instant) -> bool {
        self.log.holds_group(now)
    }

    /// Handles one event. Runs to completion; what it wants done is in `fx`.
    pub fn handle(&mut self, now: Now, event: Event<'_>, fx: &mut Effects) {
        match event {
            Event::Start { format } => {
                self.started_at = now.mono;
                if self.phase == Phase::Damaged {
                    self.begin_anew();
                }
                self.log.start(format, &mut fx.io);
            }
            Event::Io(done) => {
                self.send(now, fx);
                self.log.on_io(now, done, &mut fx.io, &mut self.models);
                self.after_log(now, fx);
            }
            Event::Request { conn, header, body } => self.request(now, conn, header, body, fx),
            Event::Closed(conn) => self.polls.forget(self.id(), conn),
            Event::Message(message) => self.message(now, message, fx),
            Event::NotSetAside => self.cannot_begin_anew(),
            Event::Metadata(metadata) => {
                self.learn_metadata(now, Arc::clone(&metadata));
                self.ask_for_lives(now, fx);
                self.look_at_filling(&metadata, fx);
                self.finish_change(now, fx);
                self.follow_replicas(now, fx);
                self.commit(now, fx);
                self.follow_status(now, fx);
            }
            Event::MetaDecided { ticket, result } => self.group_decided(now, ticket, result, fx),
            Event::Peer { node, message } => self.peer(now, node, message, fx),
            Event::LinkUp(node) => {
                if let Some(replicas) = &mut self.replicas {
                    replicas.engine.link_up(node);
                }
            }
            Event::TurnEnd => {
                self.advance_uploads(now, fx);
                self.follow_replicas(now, fx);
                self.allow_for_writes();
                self.send(now, fx);
                self.advance_transfers(now, fx);
                self.make_room();
                self.log.seal(now, &mut fx.io);
                self.tell_log_space();
            }
            Event::Timer => {
                if let Some(replicas) = &mut self.replicas {
                    replicas.engine.tick(now.mono);
                }
                self.send(now, fx);
                self.log.on_timer(now, &mut fx.io, &mut self.models);
                self.after_log(now, fx);
                self.look_after_repairs(now, fx);
                self.advance_comparison(now, fx);
                if now.mono >= self.sweep_at {
                    match self.phase {
                        Phase::Damaged => self.sweep_damaged(now, fx),
                        _ => self.sweep(now, fx),
                    }
                }
            }
            Event::Probe { ticket } => self.probe(now, ticket),
            Event::Stop => {
                if !self.stop_wanted {
                    self.stop_wanted = true;
                    self.leave_until = Some(now.mono + LEAVE_MAX);
                }
                self.expire_polls(now, fx);
                self.try_stop(now, fx);
            }
        }
    }

    /// Acts on what the log noted in the models during a call.
    fn after_log(&mut self, now: Now, fx: &mut Effects) {
        if let Some(took) = self.log.take_flush_time() {
            self.counters.flush_latency.record(took);
        }
        self.tell_log_space();
        self.follow_status(now, fx);
        self.finish_reads(now, fx);
        for (read, result) in std::mem::take(&mut self.models.read_entries) {
            let theirs = self.piece_read(now.mono, read, &result);
            let theirs = theirs
                || self.comparison_read(now.mono, read, &result, fx)
                || self.fetch_read(read, &result, fx);
            if !theirs && !self.salvage_read(read, &result) {
                self.entry_read(read, result);
            }
        }
        self.read_through(now, fx);
        self.commit(now, fx);
        if self.phase == Phase::Opening {
            self.follow_status(now, fx);
        }
        if let Some((ticket, group)) = self.probe
            && group <= self.models.durable
        {
            self.probe_done = ticket;
            self.probe = None;
        }
        self.committed_meta(now, fx);
        self.serve_polls(now, fx);
        if self.stop_wanted {
            self.try_stop(now, fx);
        }
    }

    /// Appends a record nobody needs. A shard that takes no records leaves the probe unanswered.
    fn probe(&mut self, now: Now, ticket: u64) {
        if !self.serving() {
            return;
        }
        let partition = PartitionId(self.config.slices.range(self.id()).start);
        if let Ok(appended) = self.note_applied(now, partition) {
            self.probe = Some((ticket, appended.group));
        }
    }

    /// The newest probe whose record is durable.
    #[must_use]
    pub fn probe_done(&self) -> u64 {
        self.probe_done
    }

    fn tell_log_space(&mut self) {
        if self.replicas.is_none() {
            // Counted once, from the state recovery ends with.
            self.models.space.clear();
            return;
        }
        for change in self.models.space.drain(..) {
            match change {
                Space::Live(at) => self.log.mark_live(at),
                Space::Dead(at) => self.log.mark_dead(at),
            }
        }
    }

    fn follow_status(&mut self, now: Now, fx: &mut Effects) {
        match (self.phase, self.log.status()) {
            (Phase::Opening, LogStatus::Open)
                if self.replicas.is_none() && self.has_room_to_begin() =>
            {
                self.models.recovered();
                self.models.durable = self.models.durable.max(self.log.durable());
                self.begin_replicas(now);
                self.follow_replicas(now, fx);
                self.tell_log_space();
            }
            (Phase::Opening, LogStatus::Open) if self.may_serve() => {
                self.phase = Phase::Serving;
                self.counters.recovery_took = now.mono.since(self.started_at);
                self.sweep_at = now.mono + SWEEP_EVERY;
                self.retention_at = now.mono + RETENTION_EVERY;
                self.meta_opened(fx);
                self.fit_memory();
            }
            (Phase::Stopping, LogStatus::Stopped) => self.phase = Phase::Stopped,
            (Phase::Failed | Phase::Damaged, _) => {}
            (_, LogStatus::Failed(_)) => {
                self.fail_waiting(fx);
                if self.can_be_rebuilt() {
                    self.phase = Phase::Damaged;
                    self.begin_rebuild(now, fx);
                } else {
                    self.phase = Phase::Failed;
                }
            }
            _ => {}
        }
    }

    /// A new log has one segment, which a burst fills before the next one is: it says that it
    /// serves when the next one is there. An old log has its segments, or goes on without.
    fn has_room_to_begin(&self) -> bool {
        !self.log.counters().recovery.formatted || self.log.next_segment_is_ready()
    }

    /// The log is gone: nobody who waits will ever know more.
    fn fail_waiting(&mut self, fx: &mut Effects) {
        let waiting: Vec<Ack> = self.acks.drain().collect();
        for ack in waiting {
            self.give_up(&ack, ErrorCode::ShardFenced, "the disk failed", fx);
        }
        self.fail_meta(fx);
    }

    /// Answers somebody whose group is not durable and who waits no longer. Of a write the outcome
    /// is unknown; a read has changed nothing and says why it ends.
    fn give_up(&mut self, ack: &Ack, read_code: ErrorCode, why: &str, fx: &mut Effects) {
        let Some(origin) = ack.origin else { return };
        match ack.answer {
            Answer::Again(id) => {
                self.again.take(id);
                self.refuse(origin, read_code, 0, why, fx);
            }
            Answer::Receipt(_) | Answer::Appended { .. } | Answer::ConditionFailed(_) => {
                let why = format!("{why} while the write was on its way to the disk");
                self.refuse(origin, ErrorCode::Unknown, 0, &why, fx);
            }
        }
    }

    fn try_stop(&mut self, now: Now, fx: &mut Effects) {
        if self.phase == Phase::Serving && self.leave(now) {
            self.follow_replicas(now, fx);
            return;
        }
        self.leave_until = None;
        if self.phase == Phase::Damaged && self.log.is_quiet() {
            self.phase = Phase::Stopped;
            return;
        }
        let finished = self.uploads.is_empty() && self.meta_queue.is_idle();
        if self.phase == Phase::Opening || (self.phase == Phase::Serving && finished) {
            self.phase = Phase::Stopping;
            self.log.begin_stop(now, &mut fx.io);
            self.follow_status(now, fx);
        }
    }

    /// Whether requests are taken.
    fn serving(&self) -> bool {
        self.phase == Phase::Serving && (!self.stop_wanted || self.leave_until.is_some())
    }

    fn acknowledge(&mut self, now: Now, ack: &Ack, fx: &mut Effects) {
        let Some(origin) = ack.origin else { return };
        if let Answer::Again(id) = ack.answer {
            self.read_again(now, id, fx);
            return;
        }
        if let Some(why) = self.lacks_voters(ack) {
            return self.refuse(origin, ErrorCode::Unknown, 0, &why, fx);
        }
        let Some(response) = ack.answer.response() else { return };
        self.counters.ack_latency.record(now.mono.since(ack.since));
        if let Response::Error { code, .. } = response {
            self.counters.errors.add(code);
        }
        fx.reply(self.config.shard(), origin, &response);
    }

    /// Why a write that is as safe as it can be here is not acked: its partition lost voters since it was
    /// taken, and what is committed now may be on fewer disks than the keyspace asks for. It is not undone:
    /// once there are voters enough they all have it, and whoever repeats it in its session hears so.
    fn lacks_voters(&self, ack: &Ack) -> Option<String> {
        let need = self.min_voters();
        let receipt = ack.answer.receipt().filter(|r| r.durability >= Durability::Quorum)?;
        // Who leads votes: what every write has need not be looked up.
        if need <= 1 {
            return None;
        }
        let have = self.voters_of(receipt.partition);
        (have < need).then(|| {
            format!("of the {need} voters the write needs {have} are left: it may yet be lost")
        })
    }

    /// Answers when the record at `offset` of a partition is safe, or at once when it is.
    fn answer_after(
        &mut self,
        now: Now,
        level: Level,
        (partition, offset): (PartitionId, Offset),
        ask: Ask,
        answer: Answer,
        fx: &mut Effects,
    ) {
        let ack = Ack {
            partition,
            offset,
            origin: Some(ask.origin),
            since: ask.since,
            deadline: ask.deadline,
            answer,
        };
        let applied = self.models.peek(partition).applied_end;
        let safe = match level {
            Level::Flushed => self.engine().view(partition).flushed_end,
            Level::Applied => applied,
            Level::Everywhere => applied.min(self.engine().view(partition).all_end),
        };
        if offset < safe { self.acknowledge(now, &ack, fx) } else { self.acks.push(level, ack) }
    }

    fn refuse(
        &mut self,
        origin: Origin,
        code: ErrorCode,
        detail: u64,
        message: &str,
        fx: &mut Effects,
    ) {
        self.counters.errors.add(code);
        fx.reply(self.config.shard(), origin, &Response::Error { code, detail, message });
    }

    /// Deadlines, retention, expiry, the memory ceiling: what time brings.
    fn sweep(&mut self, now: Now, fx: &mut Effects) {
        self.sweep_at = now.mono + SWEEP_EVERY;
        let mut late = Vec::new();
        self.acks.expire(now.mono, |ack| late.push(*ack));
        for ack in late {
            self.give_up(&ack, ErrorCode::DeadlineExceeded, "the deadline passed", fx);
        }
        let mut late = Vec::new();
        self.gathers.expire(now.mono, |origin| late.push(origin));
        for origin in late {
            let why = "the deadline passed while the disk was read";
            self.refuse(origin, ErrorCode::DeadlineExceeded, 0, why, fx);
        }
        self.expire_changes(now, fx);
        self.expire_leases(now, fx);
        // The last news may have come before the shard served.
        let metadata = self.replicas.as_ref().and_then(|r| r.metadata.clone());
        if let Some(metadata) = metadata {
            self.look_at_filling(&metadata, fx);
        }
        self.chunks.expire(now.mono);
        self.measure_moves(now);
        self.expire_polls(now, fx);
        if now.mono >= self.retention_at {
            self.retention_at = now.mono + RETENTION_EVERY;
            self.apply_retention(now);
        }
        self.sweep_expired(now);
        if self.stop_wanted {
            self.try_stop(now, fx);
        }
        self.fit_memory();
        self.log.seal(now, &mut fx.io);
        self.tell_log_space();
    }

    fn sweep_expired(&mut self, now: Now) {
        if self.phase == Phase::Serving {
            self.counters.expired += self.expiry.sweep(&mut self.models, now.wall);
        }
    }

    /// Records of the queue the driver executes; exposed for tests that inspect the order.
    #[must_use]
    pub fn waiting_acks(&self) -> usize {
        self.acks.count()
    }

    /// Version of a key with records that are on their way; for tests and inspection.
    #[must_use]
    pub fn version_of(&self, key: &[u8]) -> Option<Offset> {
        let id = ironring_core::Token::of_key(key).partition(self.config.slices.partitions());
        let p = self.models.peek(id);
        match p.pending.key(key) {
            Some(newest) => newest.exists.then_some(newest.offset),
            None => p.keys.get(key).map(|e| e.version),
        }
    }

    /// Where this shard's replica of a partition is; nothing before recovery is over.
    #[must_use]
    pub fn replica(&self, partition: PartitionId) -> Option<View> {
        self.replicas.as_ref().map(|replicas| replicas.engine.view(partition))
    }

    /// What this shard was told last about a partition; nothing before recovery is over.
    #[must_use]
    pub fn record_of(&self, partition: PartitionId) -> Option<&PartitionRecord> {
        self.replicas.as_ref().map(|replicas| replicas.engine.known(partition))
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}
