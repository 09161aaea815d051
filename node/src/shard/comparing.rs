//! Comparing replicas: reading what is compared, and what replicas say about it. What is compared
//! when, and what a difference means, [`super::compare`] decides.
//!
//! Both sides look up the records of a range when exactly the entries before the agreed offset are
//! applied; a follower stops there for a moment if it has to ([`Shard::comparison_reaches`]). What is
//! overwritten later is read all the same: its record lies where it lay until compaction frees the
//! segment, and then the range is compared anew.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ironring_core::{Instant, NodeId, Now, Offset, PartitionId, Term, TopicId, WallTime};
use ironring_log::format::record::decode_wire;
use ironring_log::{ReadError, ReadId};
use ironring_net::peer::message::{Compare, Compared, ComparedState, Diverged};
use ironring_ring::metadata::ReplicaId;
use ironring_ring::replication::Stage;

use super::compare::{ANSWER_MAX, Comparer, Outcome, Settings};
use super::event::{Effects, ToPeer};
use super::ranges::{Cursor, Digest, EXPIRY_MARGIN_MS, Item, Range};
use super::{Phase, Shard};
use crate::metrics::snapshot::CompareCounters;
use crate::peer::convert::{from_leader, from_replica, to_leader, to_replica};

/// Records of a comparison read at the same time.
const READS_MAX: usize = 8;
/// Comparisons of leaders that are waited for or read; more are answered "later".
const FOLLOWED_MAX: usize = 4;
/// A copy that differs is told so again after so long, until it is heard to know.
const TELL_AGAIN: Duration = Duration::from_millis(500);
/// Lines kept for the node's log; more are not said.
const LINES_MAX: usize = 16;

/// All of a shard's comparisons.
#[derive(Debug)]
pub(super) struct Comparing {
    settings: Settings,
    comparer: Comparer,
    /// Where the range that this shard has compared ends.
    next: Option<Cursor>,
    /// Comparisons of leaders that wait until as much is applied here.
    waiting: Vec<Asked>,
    jobs: BTreeMap<u64, Job>,
    reads: BTreeMap<ReadId, (u64, usize)>,
    last_job: u64,
    /// No further comparison of a leader is taken before.
    follow_at: Instant,
    /// Partitions whose copy here was found to differ, in this run.
    diverged: BTreeSet<PartitionId>,
    /// Copies elsewhere that differ and are not heard to be repaired yet. Metadata that lag, or a
    /// connection that breaks, make a replica miss that it was told.
    wrong: BTreeMap<(PartitionId, ReplicaId), Wrong>,
    counters: CompareCounters,
    lines: Vec<String>,
}

/// A leader's question.
#[derive(Clone, Debug)]
struct Asked {
    of: About,
    at: Offset,
    expires_after: WallTime,
    range: Range,
    until: Instant,
}

/// Which comparison, and whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct About {
    partition: PartitionId,
    term: Term,
    number: u64,
    /// The leader's node; nothing: this shard leads.
    leader: Option<NodeId>,
}

/// A copy elsewhere that differs.
#[derive(Clone, Copy, Debug)]
struct Wrong {
    /// Of the comparison that found it.
    number: u64,
    /// In which this replica led then.
    term: Term,
    /// When it was told first, and is told next.
    told_at: Instant,
    tell_at: Instant,
}

/// A range being read.
#[derive(Debug)]
struct Job {
    of: About,
    items: Vec<Item>,
    hashes: Vec<u64>,
    begun: usize,
    under_way: usize,
    failed: bool,
}

impl Comparing {
    pub(super) fn new(settings: Settings) -> Comparing {
        Comparing {
            settings,
            comparer: Comparer::new(settings),
            next: None,
            waiting: Vec::new(),
            jobs: BTreeMap::new(),
            reads: BTreeMap::new(),
            last_job: 0,
            follow_at: Instant(0),
            diverged: BTreeSet::new(),
            wrong: BTreeMap::new(),
            counters: CompareCounters::default(),
            lines: Vec::new(),
        }
    }

    /// The log is lost, and with it everything that was being read.
    pub(super) fn reset(&mut self) {
        let (counters, lines) = (self.counters(), std::mem::take(&mut self.lines));
        *self = Comparing { counters, lines, ..Comparing::new(self.settings) };
    }

    /// What was counted.
    pub(super) fn counters(&self) -> CompareCounters {
        let counts = self.comparer.counts;
        CompareCounters {
            ranges: self.counters.ranges + counts.ranges,
            differing: self.counters.differing + counts.differing,
            skipped: self.counters.skipped + counts.skipped,
            passes: self.counters.passes + counts.passes,
            last_pass_unix_ms: counts.last_pass.0.max(self.counters.last_pass_unix_ms),
            undecided: self.comparer.undecided.len() as u64,
            ..self.counters
        }
    }

    /// Has a line written into the node's log.
    pub(super) fn say(&mut self, line: String) {
        if self.lines.len() < LINES_MAX {
            self.lines.push(line);
        }
    }
}

impl Shard {
    /// Lines for the node's log about replicas that differ or are damaged, since the last call.
    pub fn take_lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.comparing.lines)
    }

    /// Begins, ends and gives up comparisons.
    pub(super) fn advance_comparison(&mut self, now: Now, fx: &mut Effects) {
        if self.replicas.is_none() || self.phase != Phase::Serving {
            return;
        }
        self.drop_late_questions(now, fx);
        self.tell_those_that_differ(now, fx);
        if self.comparing.comparer.open().is_some() {
            self.look_at_comparison(now, fx);
        } else if self.comparing.comparer.wants(now.mono) && !self.stop_wanted {
            self.begin_comparison(now, fx);
        }
    }

    /// Partitions this replica leads, has whole, and is not alone with.
    fn comparable(&self) -> BTreeSet<PartitionId> {
        let Some(replicas) = &self.replicas else { return BTreeSet::new() };
        let of = self.config.slices.range(self.id()).map(PartitionId);
        of.filter(|id| {
            replicas.engine.view(*id).leads == Some(Stage::Serving)
                && self.models.peek(*id).hurt.is_none()
                && replicas.engine.known(*id).replicas.len() > 1
        })
        .collect()
    }

    /// Bytes of what this shard leads, about.
    fn comparable_bytes(&self, led: usize) -> u64 {
        let all = self.config.slices.range(self.id()).len().max(1) as u64;
        self.log.usage().live_bytes / all * led as u64
    }

    fn begin_comparison(&mut self, now: Now, fx: &mut Effects) {
        let led = self.comparable();
        let range = self.config.slices.range(self.id());
        let place =
            self.comparing.comparer.next_place(now.mono, now.wall, range, |id| led.contains(&id));
        let Some((partition, cursor)) = place else { return };
        let engine = self.engine();
        let (me, view) = (engine.me(partition), engine.view(partition));
        let others: Vec<(NodeId, ReplicaId)> = engine
            .known(partition)
            .replicas
            .iter()
            .filter(|r| r.id != me.replica && fx.peer_room.get(&r.node) != Some(&0))
            .map(|r| (r.node, r.id))
            .collect();
        let expires_after = WallTime(now.wall.0 + EXPIRY_MARGIN_MS);
        let p = self.models.peek(partition);
        let (range, next) = match cursor.next(p, expires_after) {
            Some(found) => found,
            // Its topics are gone meanwhile: nothing is left to compare there.
            None => (Range::Topic(TopicId(0), 0, 0, 0), None),
        };
        let (at, items) = (p.applied_end, range.items(p, expires_after));
        let asked = others.iter().map(|(_, id)| *id).chain([me.replica]).collect();
        let about = (partition, view.term, at);
        let number = self.comparing.comparer.begin(now.mono, about, range.clone(), asked);
        self.comparing.next = next;
        for (node, id) in others {
            let compare = Compare {
                number,
                partition,
                to: to_replica(id),
                from: to_leader(me),
                term: view.term,
                at,
                expires_after,
                range: &[],
            };
            fx.peers.push((node, ToPeer::Compare { compare, range: range.encode() }));
        }
        let of = About { partition, term: view.term, number, leader: None };
        self.begin_job(now, of, items, fx);
    }

    fn look_at_comparison(&mut self, now: Now, fx: &mut Effects) {
        let Some(open) = self.comparing.comparer.open() else { return };
        let (partition, term, number) = (open.partition, open.term, open.number);
        let engine = self.engine();
        let view = engine.view(partition);
        let me = engine.me(partition);
        if view.leads != Some(Stage::Serving) || view.term != term {
            self.comparing.comparer.give_up(now.mono);
            return;
        }
        if !self.comparing.comparer.is_over(now.mono) {
            return;
        }
        let votes = self.engine().known(partition).voters.clone();
        let led = self.comparable();
        let total = self.comparable_bytes(led.len());
        let (next, range) = (self.comparing.next.take(), self.config.slices.range(self.id()));
        let outcome = self.comparing.comparer.end(
            now.mono,
            now.wall,
            (me.replica, &votes),
            (next, total),
            range,
            |id| led.contains(&id),
        );
        match outcome {
            Outcome::Done | Outcome::Again => {}
            Outcome::Undecided => self.comparing.say(format!(
                "replicas of {partition} differ and no majority of its voters agrees: nothing is \
                 repaired; compare what each has (`ironring kv get --stale`), and empty the node that \
                 is wrong (`ironring node reinit`)"
            )),
            Outcome::Damaged(wrong) => {
                for id in wrong {
                    self.comparing.say(format!(
                        "the replica of {partition} on storage {} has something else than most of its \
                         voters: it is told to be repaired",
                        id.storage
                    ));
                    if id == me.replica {
                        self.differs(partition);
                        continue;
                    }
                    let wrong = Wrong { number, term, told_at: now.mono, tell_at: now.mono };
                    self.comparing.wrong.insert((partition, id), wrong);
                }
                self.tell_those_that_differ(now, fx);
            }
        }
    }

    /// Tells copies that differ so, until they are heard to be damaged: from then on they ask for the
    /// state by themselves.
    fn tell_those_that_differ(&mut self, now: Now, fx: &mut Effects) {
        for ((partition, id), mut wrong) in std::mem::take(&mut self.comparing.wrong) {
            let engine = self.engine();
            let (me, view) = (engine.me(partition), engine.view(partition));
            let leads = view.leads.is_some() && view.term == wrong.term;
            let replica = engine.known(partition).replica(id).copied();
            let knows = engine.follower_hurt_at(partition, id) >= Some(wrong.told_at);
            let Some(replica) = replica.filter(|_| leads && !knows) else { continue };
            if now.mono >= wrong.tell_at {
                wrong.tell_at = now.mono + TELL_AGAIN;
                let (number, term) = (wrong.number, wrong.term);
                let (to, from) = (to_replica(id), to_leader(me));
                let diverged = Diverged { number, partition, to, from, term };
                fx.peers.push((replica.node, ToPeer::Diverged(diverged)));
            }
            self.comparing.wrong.insert((partition, id), wrong);
        }
    }

    /// This copy has something else than the majority: all of it counts as damaged.
    fn differs(&mut self, partition: PartitionId) {
        self.comparing.counters.copies_diverged += 1;
        self.comparing.diverged.insert(partition);
        self.distrust(partition);
    }

    /// A damaged copy is whole again; `repaired`: because something in it was.
    pub(super) fn note_healed(&mut self, partition: PartitionId, repaired: bool) {
        let differed = self.comparing.diverged.remove(&partition) && repaired;
        self.comparing.counters.copies_repaired += u64::from(differed);
    }

    /// A leader compares.
    pub(super) fn compare_asked(
        &mut self,
        now: Now,
        node: NodeId,
        compare: &Compare<'_>,
        fx: &mut Effects,
    ) {
        let (partition, number, term) = (compare.partition, compare.number, compare.term);
        let of = About { partition, term, number, leader: Some(node) };
        let me = self.engine().me(partition).replica;
        let view = self.engine().view(partition);
        let fits = from_replica(compare.to) == me && term == view.term && view.leads.is_none();
        let Ok(range) = Range::decode(compare.range) else { return };
        let p = self.models.peek(partition);
        let under_way = self.comparing.waiting.len() + self.comparing.jobs.len();
        let takes = fits
            && self.phase == Phase::Serving
            && p.hurt.is_none()
            && p.applied_end <= compare.at
            && now.mono >= self.comparing.follow_at
            && under_way < FOLLOWED_MAX;
        if !takes {
            return self.answer_comparison(of, None, fx);
        }
        let (at, expires_after) = (compare.at, compare.expires_after);
        let until = now.mono + ANSWER_MAX;
        self.comparing.waiting.retain(|asked| asked.of.partition != partition);
        self.comparing.waiting.push(Asked { of, at, expires_after, range, until });
        self.comparison_reaches(now, partition, view.high_watermark, fx);
    }

    /// Everything before `end` is committed: a comparison that waits for less looks its range up on
    /// the way.
    pub(super) fn comparison_reaches(
        &mut self,
        now: Now,
        partition: PartitionId,
        end: Offset,
        fx: &mut Effects,
    ) {
        let due = |asked: &Asked| asked.of.partition == partition && asked.at <= end;
        let Some(at) = self.comparing.waiting.iter().position(due) else { return };
        let asked = self.comparing.waiting.swap_remove(at);
        self.models.commit(partition, asked.at);
        let p = self.models.peek(partition);
        if p.applied_end != asked.at || self.engine_term(partition) != Some(asked.of.term) {
            return self.answer_comparison(asked.of, None, fx);
        }
        let items = asked.range.items(self.models.peek(partition), asked.expires_after);
        self.begin_job(now, asked.of, items, fx);
    }

    fn engine_term(&self, partition: PartitionId) -> Option<Term> {
        self.replicas.as_ref().map(|replicas| replicas.engine.view(partition).term)
    }

    fn drop_late_questions(&mut self, now: Now, fx: &mut Effects) {
        if self.comparing.waiting.iter().all(|asked| asked.until > now.mono) {
            return;
        }
        let waiting = std::mem::take(&mut self.comparing.waiting);
        for asked in waiting {
            if asked.until > now.mono {
                self.comparing.waiting.push(asked);
            } else {
                self.answer_comparison(asked.of, None, fx);
            }
        }
    }

    fn begin_job(&mut self, now: Now, of: About, items: Vec<Item>, fx: &mut Effects) {
        self.comparing.last_job += 1;
        let id = self.comparing.last_job;
        let hashes = vec![0; items.len()];
        let job = Job { of, items, hashes, begun: 0, under_way: 0, failed: false };
        self.comparing.jobs.insert(id, job);
        self.go_on_reading(now.mono, id, fx);
    }

    /// Reads the next records of a range; answers when all were read.
    fn go_on_reading(&mut self, now: Instant, id: u64, fx: &mut Effects) {
        let mut bytes = Vec::new();
        loop {
            let Some(job) = self.comparing.jobs.get_mut(&id) else { return };
            let more = job.begun < job.items.len() && !job.failed;
            if !more || job.under_way >= READS_MAX {
                break;
            }
            let number = job.begun;
            let item = job.items[number];
            job.begun += 1;
            bytes.clear();
            if self.log.copy_wire(item.at, &mut bytes) {
                self.record_compared(id, number, Some(&bytes));
                continue;
            }
            job.under_way += 1;
            let read = self.chunks.next_read();
            self.comparing.reads.insert(read, (id, number));
            self.log.read(read, item.at, &mut fx.io);
        }
        let Some(job) = self.comparing.jobs.get(&id) else { return };
        if job.under_way > 0 || (job.begun < job.items.len() && !job.failed) {
            return;
        }
        let Some(job) = self.comparing.jobs.remove(&id) else { return };
        let bytes: u64 = job.items.iter().map(|item| u64::from(item.at.len)).sum();
        self.comparing.counters.bytes += bytes;
        let digest = (!job.failed).then(|| Digest::of(&job.hashes, bytes));
        match job.of.leader {
            Some(_) => {
                let rate = self.comparing.settings.bytes_per_second_max.max(1);
                let pause = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate);
                self.comparing.follow_at = now + pause;
                self.answer_comparison(job.of, digest, fx);
            }
            None => {
                let me = self.engine().me(job.of.partition).replica;
                self.comparing.comparer.heard(job.of.number, me, digest);
            }
        }
    }

    fn record_compared(&mut self, id: u64, number: usize, bytes: Option<&[u8]>) {
        let Some(job) = self.comparing.jobs.get_mut(&id) else { return };
        match bytes.and_then(|bytes| decode_wire(bytes).ok()) {
            Some((record, _)) => job.hashes[number] = job.items[number].hash(&record),
            None => job.failed = true,
        }
    }

    /// A record of a range was read, or cannot be. False: the read is somebody else's.
    pub(super) fn comparison_read(
        &mut self,
        now: Instant,
        read: ReadId,
        result: &Result<Vec<u8>, ReadError>,
        fx: &mut Effects,
    ) -> bool {
        let Some((id, number)) = self.comparing.reads.remove(&read) else { return false };
        self.record_compared(id, number, result.as_deref().ok());
        if let Some(job) = self.comparing.jobs.get_mut(&id) {
            job.under_way -= 1;
            self.go_on_reading(now, id, fx);
        }
        true
    }

    fn answer_comparison(&mut self, of: About, digest: Option<Digest>, fx: &mut Effects) {
        let Some(node) = of.leader else { return };
        let state = match digest {
            Some(Digest { items, bytes, hash }) => ComparedState::Digest { items, bytes, hash },
            None => ComparedState::Later,
        };
        let from = to_leader(self.engine().me(of.partition));
        let About { partition, term, number, .. } = of;
        fx.peers.push((node, ToPeer::Compared(Compared { number, partition, from, term, state })));
    }

    /// A replica has digested a range.
    pub(super) fn compared(&mut self, answer: &Compared) {
        let open = self.comparing.comparer.open();
        let is_it = |open: &super::compare::Open| {
            (open.partition, open.term) == (answer.partition, answer.term)
        };
        if !open.is_some_and(is_it) {
            return;
        }
        let digest = match answer.state {
            ComparedState::Digest { items, bytes, hash } => Some(Digest { items, bytes, hash }),
            ComparedState::Later => None,
        };
        let from = from_leader(answer.from).replica;
        self.comparing.comparer.heard(answer.number, from, digest);
    }

    /// The leader says that this copy has something else than most voters.
    pub(super) fn diverged(&mut self, diverged: &Diverged) {
        let partition = diverged.partition;
        let engine = self.engine();
        let (me, view) = (engine.me(partition).replica, engine.view(partition));
        let leader = engine.known(partition).leader;
        let fits = from_replica(diverged.to) == me
            && diverged.term == view.term
            && view.leads.is_none()
            && leader == Some(from_leader(diverged.from));
        if fits && !self.models.peek(partition).distrusted {
            self.comparing.say(format!(
                "this replica of {partition} has something else than most of its voters: it is \
                 repaired"
            ));
            self.differs(partition);
        }
    }
}
