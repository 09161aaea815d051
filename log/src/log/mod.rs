//! The log itself: what a shard calls, and how the parts work together.

mod checkpoint;
mod commit;
mod compaction;
mod life;
mod provisioning;
mod reads;
mod retire;
mod room;
mod scrub;

pub use room::{Room, Usage};

use ironring_core::io::{BufAlloc, IoDone, IoQueue};
use ironring_core::{GroupSeq, Instant, Now, SegmentId, SlotId};

use checkpoint::Checkpointer;
use commit::Claim;
use compaction::Compactor;
use scrub::Scrubber;

use crate::config::LogConfig;
use crate::format::IdentitySeed;
use crate::format::superblock::CheckpointRef;
use crate::gather::Gather;
use crate::opening::{Cx, Opening};
use crate::ops::{Ops, Purpose};
use crate::provision::Fill;
use crate::segments::Segments;
use crate::staging::{Place, Staging};
use crate::superblock_writer::SuperblockWriter;
use crate::{
    CheckpointSource, Damage, Identity, Location, LogCounters, LogFailure, LogSink, LogStatus,
    OpenProgress, OpenStep, ReadError, ReadId,
};

/// One shard's log.
///
/// - Life: [`Log::new`], [`Log::start`], then [`Log::on_io`] for every completion until
///   [`Log::status`] is `Open`; at the end [`Log::begin_stop`] until it is `Stopped`.
/// - Writes: [`Log::append`] any number of times, then [`Log::seal`] at the end of the turn.
///   `seal` is called at the end of *every* turn in which any other method was called: completions
///   and timers may stage records (relocations) or need requests made.
/// - Reads: [`Log::read`]; accounting: [`Log::mark_live`], [`Log::mark_dead`].
/// - Time: [`Log::on_timer`] whenever [`Log::next_deadline`] has passed.
///
/// A record counts as live from its append on; relocation moves the count. The owner calls
/// `mark_live` for every live record once after opening, and `mark_dead` once for each record that
/// stops being needed, at its present location.
pub struct Log {
    config: LogConfig,
    identity: Identity,
    alloc: Box<dyn BufAlloc>,
    status: LogStatus,
    ops: Ops,
    opening: Option<Opening>,
    /// Superblock versions still to settle before the log is open, when it is being opened.
    opening_versions: u32,
    stray_checkpoints: Vec<u64>,
    segments: Segments,
    staging: Staging,
    gather: Gather,
    superblock: SuperblockWriter,
    run: u32,
    newest: CheckpointRef,
    older: CheckpointRef,
    /// Where replay from the older checkpoint of the settled superblock begins.
    settled_older: SegmentId,
    checkpoint: Checkpointer,
    compaction: Compactor,
    scrub: Scrubber,
    damages: Vec<Damage>,
    /// Damaged segments the owner was not told of.
    suspects: Vec<SegmentId>,
    /// Segments the owner has given up, not free yet.
    retiring: Vec<SegmentId>,
    /// Segments from this one on the owner wants to stay as they are: see [`Log::hold_from`].
    held_from: Option<SegmentId>,
    /// The active segment, when the owner is emptying it.
    condemned_active: Option<SegmentId>,
    provision: ProvisionWork,
    /// A slot that is Absent in the superblock being written; then its file is removed.
    giving_way: Option<SlotId>,
    /// The disk had no space: growth waits until then.
    no_space_until: Option<Instant>,
    /// The last try to grow found no space.
    disk_is_full: bool,
    /// Who the active segment was taken for.
    active_claim: Claim,
    /// End of the last durable group.
    durable_end: Place,
    /// When the last group with records became durable, while no later group says so.
    floor_open_since: Option<Instant>,
    /// Reads of records that are not durable yet.
    parked: Vec<(ReadId, Location)>,
    /// Reads answered without a request; told with the next call that has a sink.
    answers: Vec<(ReadId, Location, ReadError)>,
    final_superblock: Option<u64>,
    counters: LogCounters,
}

/// What is being done to make segments ready.
enum ProvisionWork {
    Idle,
    Fill(Fill),
    /// The header of this slot's next segment is being written.
    Header(SlotId),
    /// A file there was no space for is being removed.
    Remove,
}

impl Log {
    /// A log that is not started. `config` must be valid.
    ///
    /// # Panics
    /// When [`LogConfig::validate`] fails.
    #[must_use]
    pub fn new(config: LogConfig, identity: Identity, alloc: Box<dyn BufAlloc>) -> Log {
        if let Err(error) = config.validate() {
            panic!("the configuration is checked when it is read: {error}");
        }
        let seed = IdentitySeed::new(identity);
        let segments = Segments::new(config.segment_bytes);
        let staging = Staging::new(seed, config.block_bytes, config.segment_bytes);
        let durable_end = staging.end();
        Log {
            identity,
            alloc,
            status: LogStatus::Opening(OpenProgress {
                step: OpenStep::Idle,
                bytes_done: 0,
                bytes_total: 0,
            }),
            ops: Ops::default(),
            opening: None,
            opening_versions: 0,
            stray_checkpoints: Vec::new(),
            segments,
            staging,
            gather: Gather::default(),
            superblock: SuperblockWriter::default(),
            run: 0,
            newest: NO_CHECKPOINT,
            older: NO_CHECKPOINT,
            settled_older: SegmentId(0),
            checkpoint: Checkpointer::new(durable_end),
            compaction: Compactor::new(),
            scrub: Scrubber::new(),
            damages: Vec::new(),
            suspects: Vec::new(),
            retiring: Vec::new(),
            held_from: None,
            condemned_active: None,
            provision: ProvisionWork::Idle,
            giving_way: None,
            no_space_until: None,
            disk_is_full: false,
            active_claim: Claim::User,
            durable_end,
            floor_open_since: None,
            parked: Vec::new(),
            answers: Vec::new(),
            final_superblock: None,
            counters: LogCounters::default(),
            config,
        }
    }

    /// Begins: an empty directory is formatted when `may_format`, otherwise it is an error; any
    /// other directory is recovered. Called once.
    pub fn start(&mut self, may_format: bool, io: &mut IoQueue) {
        assert!(self.opening.is_none() && self.run == 0, "a log is started once");
        let mut cx = Cx { ops: &mut self.ops, io, alloc: &mut *self.alloc };
        self.opening =
            Some(Opening::begin(self.config.clone(), self.identity, may_format, &mut cx));
    }

    /// A request of this log ended.
    pub fn on_io(
        &mut self,
        now: Now,
        done: IoDone,
        io: &mut IoQueue,
        sink: &mut (impl LogSink + CheckpointSource),
    ) {
        let pending = self.ops.take(done.id);
        match pending.purpose {
            Purpose::Read { read, at, slot } => self.read_done(read, at, slot, done.result, sink),
            _ if matches!(self.status, LogStatus::Failed(_) | LogStatus::Stopped) => {}
            Purpose::Compaction(slot) => self.compaction_done(slot, pending.op, done.result),
            Purpose::Scrub(slot) => self.scrub_done(slot, pending.op, done.result),
            Purpose::Checkpoint => self.checkpoint_done(now, pending.op, done.result, io, sink),
            Purpose::Opening(tag) => self.opening_done(tag, pending.op, done.result, io, sink),
            // What nothing refers to may stay; it is tried again when the log is opened.
            Purpose::Cleanup => {}
            Purpose::Provision => self.provision_done(now, pending.op, done.result, io),
            Purpose::Group | Purpose::Superblock => match done.result {
                Err(error) => self.fail(LogFailure::Io { op: pending.op, error }),
                Ok(ok) if pending.purpose == Purpose::Group => self.group_done(now, ok, io, sink),
                Ok(_) => self.superblock_copy_done(io),
            },
        }
        self.tell_answers(sink);
        self.background(now, io, sink);
        self.pump(now, io);
    }

    /// Time passed: the empty group of an idle log, retries after a full disk, background work.
    pub fn on_timer(
        &mut self,
        now: Now,
        io: &mut IoQueue,
        sink: &mut (impl LogSink + CheckpointSource),
    ) {
        self.tell_answers(sink);
        self.write_idle_floor(now);
        self.background(now, io, sink);
        self.pump(now, io);
    }

    /// Work that needs the owner.
    fn background(
        &mut self,
        now: Now,
        io: &mut IoQueue,
        sink: &mut (impl LogSink + CheckpointSource),
    ) {
        if matches!(self.status, LogStatus::Open | LogStatus::Stopping) {
            self.checkpoint_pump(now, io, sink);
            self.compaction_pump(now, io, sink);
            self.retire_pump();
            self.scrub_pump(now, io);
        }
    }

    /// When [`Log::on_timer`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        if !self.answers.is_empty() {
            return Some(Instant::default());
        }
        match self.status {
            // A log that stops with nothing in flight has its next step to do.
            LogStatus::Stopping if self.ops.is_empty() => Some(Instant::default()),
            LogStatus::Open => {
                let floor = self.floor_open_since.map(|since| since + self.config.idle_floor_after);
                let checkpoint = self.checkpoint.retry_at;
                let compaction = self.compaction.look_at;
                let scrub = self.scrub.deadline();
                let held =
                    if self.staging.staged_records() > 0 { self.gather.deadline() } else { None };
                let all = [floor, self.no_space_until, checkpoint, compaction, scrub, held];
                all.into_iter().flatten().min()
            }
            _ => None,
        }
    }

    /// The end of a turn: writes the staged group unless one is in flight, and makes the requests
    /// other work needs.
    pub fn seal(&mut self, now: Now, io: &mut IoQueue) {
        self.gather.looks(now.mono);
        let held = self.gather.holds(now.mono, self.staging.staged_records());
        // A log that stops waits for nobody.
        let seal = !held || !matches!(self.status, LogStatus::Open);
        self.write_group(now, seal, io);
        self.pump(now, io);
    }

    /// Whether the staged group waits for more records; [`Log::seal`] writes it when it no longer
    /// does. The wait is much shorter than a timer's usual accuracy, so the owner should look by
    /// itself.
    #[must_use]
    pub fn holds_group(&self, now: Instant) -> bool {
        let staged = self.staging.staged_records();
        staged > 0 && self.gather.holds(now, staged)
    }

    /// How long the durable write took that ended last; told once.
    pub fn take_flush_time(&mut self) -> Option<std::time::Duration> {
        self.gather.take_last()
    }

    /// The last durable group.
    #[must_use]
    pub fn durable(&self) -> GroupSeq {
        self.staging.durable()
    }

    /// The group an append would join at present.
    #[must_use]
    pub fn staged(&self) -> GroupSeq {
        self.staging.staged()
    }

    /// Where the log is in its life.
    #[must_use]
    pub fn status(&self) -> &LogStatus {
        &self.status
    }

    /// Which run this is: durable in the superblock before the log opens, and larger than that of any
    /// run before it.
    #[must_use]
    pub fn run(&self) -> u32 {
        self.run
    }

    /// What it did so far.
    #[must_use]
    pub fn counters(&self) -> &LogCounters {
        &self.counters
    }

    /// The configuration it was made with.
    #[must_use]
    pub fn config(&self) -> &LogConfig {
        &self.config
    }

    /// The record at `at` is live: called once for each after the log opened.
    pub fn mark_live(&mut self, at: Location) {
        self.segments.mark_live(at);
    }

    /// The record at `at` is not needed any more. Of a segment that was freed: nothing happens.
    pub fn mark_dead(&mut self, at: Location) {
        self.segments.mark_dead(at);
    }

    /// The segment that was appended to last.
    #[must_use]
    pub fn active_segment(&self) -> SegmentId {
        self.staging.end().segment
    }

    /// The owner reads dead records of segments from this one on, or of none: compaction leaves those
    /// alone until space presses. Then it is as if nothing was held, and the owner hears of each record by
    /// [`LogSink::keep`].
    pub fn hold_from(&mut self, segment: Option<SegmentId>) {
        if self.held_from != segment {
            self.held_from = segment;
            self.compaction.look();
        }
    }

    /// The file a segment is in; for inspection.
    #[must_use]
    pub fn file_of(&self, segment: SegmentId) -> Option<ironring_core::io::FileName> {
        self.segments.find(segment).map(crate::segments::file_of)
    }

    /// Starts what can be started.
    fn pump(&mut self, now: Now, io: &mut IoQueue) {
        if matches!(self.status, LogStatus::Failed(_) | LogStatus::Stopped) {
            return;
        }
        self.provision(now, io);
        if let Some(sequence) = self.superblock.due() {
            let image = self.superblock_image(sequence);
            self.superblock.begin(image, &mut *self.alloc, &mut self.ops, io);
        }
        self.stop_if_done(now, io);
        self.counters.segments = self.segments.counts();
        self.counters.live_bytes = self.segments.live();
        self.counters.held_bytes = self.segments.held_bytes();
        let checkpoints = self.newest.bytes + self.older.bytes;
        self.counters.disk_bytes = self.segments.file_bytes() + checkpoints;
    }

    /// The log's life ends: nothing is acknowledged any more.
    fn fail(&mut self, failure: LogFailure) {
        let message = failure.to_string();
        self.status = LogStatus::Failed(failure);
        self.opening = None;
        for (read, at) in self.parked.drain(..) {
            self.answers.push((read, at, ReadError::Io { at, message: message.clone() }));
        }
    }
}

const NO_CHECKPOINT: CheckpointRef = CheckpointRef {
    number: 0,
    start: GroupSeq(0),
    segment: SegmentId(0),
    pos: 0,
    previous_crc: 0,
    previous_run: 0,
    bytes: 0,
};
