//! Replication of the partitions of one shard: who leads, what is committed, who may answer.
//!
//! [`Replicator`] is a pure state machine. It is told what metadata say, what the log did and what
//! came over the network, and it says what to send, to append and to answer. It never sees the bytes
//! of an entry: its owner has the log. The protocol and its invariants are those of the design's
//! replication document (a primary-backup log in the manner of PacificA and Vertical Paxos, with
//! Raft's rules for the log; elections are decided by the metadata group).
//!
//! How the owner works with it:
//! - [`Replicator::recovered`] once per partition, then [`Replicator::record`] whenever metadata say
//!   something about it;
//! - writes: [`Replicator::admit`] gives term and offset, the owner appends to its log and calls
//!   [`Replicator::appended`]; when the log is flushed, [`Replicator::flushed`];
//! - at the end of a turn it drains [`Replicator::effects`], [`Replicator::take_progress`],
//!   [`Replicator::take_acks`], and for each node it can send to, [`Replicator::next_section`];
//! - entries that arrive: [`Replicator::judge`] says what to do with them, and when they are in the
//!   log (or were there), [`Replicator::took`];
//! - [`Replicator::tick`] when [`Replicator::next_deadline`] has passed.
//!
//! Rules that hold between calls, for every replica: `start <= end`; `high_watermark <= end`;
//! `flushed_end <= end`; nothing below the high watermark is ever cut; an ack carries the promised
//! term and never more than what is fsynced *and* known to equal the leader's log.

mod fence;
mod follow;
mod lead;
mod leader;
mod lease;
pub mod message;
pub mod quorum;
mod replica;
mod terms;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ironring_core::{
    GroupSeq, Incarnation, Instant, NodeId, Offset, PartitionId, StorageUuid, Term,
};

pub use leader::Stage;
pub use message::{AGE_UNKNOWN, Ack, AckState, Fence, FenceAnswer, Replicate, Request};
pub use replica::Recovered;
pub use terms::TermStarts;

use crate::metadata::{LeaderId, PartitionRecord, ReplicaId};
use leader::Leader;
use replica::{LocalReplica, Role};

/// How long things take, the same on every node of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a follower that acks a probe keeps others from leading, by its own clock.
    pub lease: Duration,
    /// How much faster or slower than another any clock may run, in thousandths.
    pub drift_permille: u32,
    /// How often a leader probes its followers and repeats what was not decided.
    pub heartbeat: Duration,
    /// A voter that is silent or stuck for so long stops to count.
    pub replica_timeout: Duration,
    /// Stuck: it lacks more than this many entries.
    pub replica_lag_max: u64,
    /// What was not acked for so long is sent again.
    pub resend_after: Duration,
    /// A leader that hands over gives up after this long and serves on.
    pub handover_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            lease: Duration::from_millis(400),
            drift_permille: 50,
            heartbeat: Duration::from_millis(80),
            replica_timeout: Duration::from_millis(1500),
            replica_lag_max: 100_000,
            resend_after: Duration::from_secs(1),
            handover_timeout: Duration::from_secs(2),
        }
    }
}

impl Settings {
    /// How long a leader counts on a lease: shorter than who granted it, by the drift.
    #[must_use]
    pub fn lease_as_leader(&self) -> Duration {
        let left = 1000u32.saturating_sub(self.drift_permille);
        self.lease * left / 1000
    }

    /// How long another clock may have shown what this one shows as `elapsed`.
    #[must_use]
    pub fn at_most(&self, elapsed: Duration) -> Duration {
        elapsed + elapsed * self.drift_permille / 1000
    }
}

/// Names a read that waits for a round of probes; chosen by the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadTicket(pub u64);

/// One run of a process on one storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The storage.
    pub storage: StorageUuid,
    /// The run.
    pub incarnation: Incarnation,
}

/// What the owner is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Write to the log that `term` is promised, then call [`Replicator::promise_staged`].
    Promise {
        /// The partition.
        partition: PartitionId,
        /// The term.
        term: Term,
    },
    /// Metadata know this storage's replica as a new one: empty the partition's log, with a record
    /// that says for which life, then call [`Replicator::adopted`]. Nothing it holds counts any more.
    Adopt {
        /// The partition.
        partition: PartitionId,
        /// The life.
        life: u64,
    },
    /// Append the entry that begins `term` at `offset`, then call [`Replicator::appended`].
    StartTerm {
        /// The partition.
        partition: PartitionId,
        /// The term.
        term: Term,
        /// Its place: the end of the log.
        offset: Offset,
    },
    /// This replica leads and serves.
    Serving {
        /// The partition.
        partition: PartitionId,
        /// The term.
        term: Term,
    },
    /// This replica leads no more: whoever waits for it has to ask somebody else, and what was
    /// not committed may be cut.
    SteppedDown {
        /// The partition.
        partition: PartitionId,
        /// The term it led.
        term: Term,
    },
    /// Tell the controller.
    Ask(Request),
    /// Answer the controller's Fence.
    Fenced(FenceAnswer),
    /// The read may be answered from what is applied, or (false) somebody else leads.
    ReadDecided {
        /// Which.
        ticket: ReadTicket,
        /// Whether it may be answered.
        confirmed: bool,
    },
    /// A follower lacks entries that are gone: it needs a snapshot of the state.
    NeedsSnapshot {
        /// The partition.
        partition: PartitionId,
        /// Where the follower is.
        node: NodeId,
        /// What it has in common with this log.
        has: Offset,
    },
    /// What was damaged has been filled again and is fsynced.
    Repaired {
        /// The partition.
        partition: PartitionId,
    },
}

/// What to do with entries that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing more: they were refused, or are in the log already.
    Done,
    /// Append them from number `skip` on, then call [`Replicator::took`].
    Append {
        /// How many are in the log already.
        skip: u32,
        /// Before that, cut the log here and call [`Replicator::cut`]: what it has from there on
        /// was never committed.
        cut: Option<Offset>,
    },
}

/// Entries for one follower, to be sent as one [`Replicate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// The message; its `count` is how many entries there may be, at most.
    pub message: Replicate,
    /// It is due even without entries.
    pub probe: bool,
}

/// Where a replica is, for answers and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The term it has promised.
    pub term: Term,
    /// What it does in it, when it leads.
    pub leads: Option<Stage>,
    /// Behind the last entry.
    pub end: Offset,
    /// End of what is fsynced here.
    pub flushed_end: Offset,
    /// End of what is committed.
    pub high_watermark: Offset,
    /// End of what every replica has fsynced, but one that is only coming, as its leader knows; a
    /// follower, and who led until now, knows of nothing.
    pub all_end: Offset,
    /// When a follower last heard of its leader.
    pub leader_heard: Option<Instant>,
}

/// Why a write or read is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotServing {
    /// Somebody else leads, as far as is known here.
    #[error("this replica does not lead the partition")]
    Elsewhere(Option<LeaderId>),
    /// It will serve in a moment, or is handing over.
    #[error("the leadership of the partition is changing hands")]
    Changing,
    /// It leads, and has not heard a majority of the voters for long: what it takes might wait for ever,
    /// and another may lead by now.
    #[error("no majority of the partition's voters is heard")]
    NoQuorum,
    /// There are fewer voters than the keyspace asks for.
    #[error("{have} voters, and {need} are asked for")]
    FewVoters {
        /// How many there are.
        have: usize,
        /// How many there must be.
        need: usize,
    },
}

/// An entry in the queue of what becomes durable with a commit group.
#[derive(Clone, Copy, Debug)]
enum Staged {
    End(Offset),
    Promise(Term),
}

/// The replicas of one shard. See the module's documentation.
#[derive(Debug)]
pub struct Replicator {
    run: Run,
    settings: Settings,
    started: Instant,
    first: PartitionId,
    replicas: Vec<LocalReplica>,
    /// In order of groups.
    staged: VecDeque<(GroupSeq, PartitionId, Staged)>,
    effects: Vec<Effect>,
    progress: Vec<PartitionId>,
    acks: Vec<PartitionId>,
    /// Answers to leaders of the past.
    refusals: Vec<(NodeId, Ack)>,
    /// Partitions with something to send, by node.
    to_send: BTreeMap<NodeId, VecDeque<PartitionId>>,
    beat_at: Instant,
}

impl Replicator {
    /// Of the partitions from `first` to before `end`, on this run of a process. `started`: when
    /// the process began to run, or later.
    #[must_use]
    pub fn new(
        run: Run,
        settings: Settings,
        started: Instant,
        first: PartitionId,
        end: PartitionId,
    ) -> Replicator {
        let replicas =
            (first.0..end.0).map(|_| LocalReplica::new(run, Recovered::empty())).collect();
        Replicator {
            run,
            settings,
            started,
            first,
            replicas,
            staged: VecDeque::new(),
            effects: Vec::new(),
            progress: Vec::new(),
            acks: Vec::new(),
            refusals: Vec::new(),
            to_send: BTreeMap::new(),
            beat_at: started + settings.heartbeat,
        }
    }

    /// What a partition's log holds, before anything else is said about it.
    pub fn recovered(&mut self, partition: PartitionId, found: Recovered) {
        *self.replica_mut(partition) = LocalReplica::new(self.run, found);
    }

    /// The partition's log was emptied for a new life, by a record that lies before whatever follows.
    pub fn adopted(&mut self, now: Instant, partition: PartitionId, life: u64) {
        let run = self.run;
        self.staged.retain(|(_, id, what)| *id != partition || matches!(what, Staged::Promise(_)));
        let r = self.replica_mut(partition);
        let found = Recovered { life: Some(life), promised: r.promised, ..Recovered::empty() };
        let mut fresh = LocalReplica::new(run, found);
        fresh.promised_durable = r.promised_durable;
        fresh.promised_at_start = r.promised_at_start;
        fresh.left = r.left;
        fresh.coming = r.coming;
        std::mem::swap(&mut fresh.record, &mut r.record);
        std::mem::swap(&mut fresh.grants, &mut r.grants);
        (fresh.progress_noted, fresh.ack_noted) = (r.progress_noted, r.ack_noted);
        *r = fresh;
        self.try_to_lead(now, partition);
    }

    /// Who this storage's replica of a partition is, in this run.
    #[must_use]
    pub fn me(&self, partition: PartitionId) -> LeaderId {
        self.replica(partition).me
    }

    /// Entries before `start` can not be sent any more; with a lower one than before nothing happens.
    pub fn forget_before(&mut self, partition: PartitionId, start: Offset) {
        let r = self.replica_mut(partition);
        r.start = r.start.max(start.min(r.end));
    }

    fn index(&self, partition: PartitionId) -> usize {
        let i = partition.0.wrapping_sub(self.first.0) as usize;
        assert!(i < self.replicas.len(), "the owner sends each partition to its shard");
        i
    }

    fn replica(&self, partition: PartitionId) -> &LocalReplica {
        &self.replicas[self.index(partition)]
    }

    fn replica_mut(&mut self, partition: PartitionId) -> &mut LocalReplica {
        let i = self.index(partition);
        &mut self.replicas[i]
    }

    /// Where a partition's replica is. O(replicas).
    #[must_use]
    pub fn view(&self, partition: PartitionId) -> View {
        let r = self.replica(partition);
        let (leads, all_end, leader_heard) = match &r.role {
            Role::Leader(l) => (Some(l.stage), l.all_end(r.flushed_end, r.coming), None),
            Role::Follower(f) => (None, Offset::NONE, f.heard.map(|h| h.at)),
        };
        View {
            term: r.promised,
            leads,
            end: r.end,
            flushed_end: r.flushed_end,
            high_watermark: r.high_watermark,
            all_end,
            leader_heard,
        }
    }

    /// What this replica knows of another as its leader: how much of the log that has fsynced, and
    /// whether it needs the state, because the entries behind that are gone.
    #[must_use]
    pub fn follower(&self, partition: PartitionId, id: ReplicaId) -> Option<(Offset, bool)> {
        let leader = self.replica(partition).leader()?;
        leader.peers.iter().find(|p| p.id == id).map(|p| (p.acked, p.snapshot))
    }

    /// Forgets the reads of a partition that nobody waits for any more. O(reads that wait).
    pub fn keep_reads(&mut self, partition: PartitionId, waited_for: impl Fn(ReadTicket) -> bool) {
        if let Role::Leader(leader) = &mut self.replica_mut(partition).role {
            leader.reads.retain(|(ticket, _)| waited_for(*ticket));
        }
    }

    /// What metadata said last about a partition.
    #[must_use]
    pub fn known(&self, partition: PartitionId) -> &PartitionRecord {
        &self.replica(partition).record
    }

    /// In which terms a partition's entries were written.
    #[must_use]
    pub fn terms(&self, partition: PartitionId) -> &TermStarts {
        &self.replica(partition).terms
    }

    /// What the owner is to do, in order.
    pub fn effects(&mut self) -> std::vec::Drain<'_, Effect> {
        self.effects.drain(..)
    }

    /// Partitions whose ends moved since the last call: [`Replicator::view`] says where to.
    pub fn take_progress(&mut self) -> Vec<PartitionId> {
        let moved = std::mem::take(&mut self.progress);
        for id in &moved {
            self.replica_mut(*id).progress_noted = false;
        }
        moved
    }

    /// The log refers to `group` for a promise made by [`Effect::Promise`].
    pub fn promise_staged(&mut self, partition: PartitionId, term: Term, group: GroupSeq) {
        self.staged.push_back((group, partition, Staged::Promise(term)));
    }

    fn stage_end(&mut self, partition: PartitionId, end: Offset, group: GroupSeq) {
        match self.staged.back_mut() {
            Some((last, id, Staged::End(so_far))) if *last == group && *id == partition => {
                *so_far = end;
            }
            _ => self.staged.push_back((group, partition, Staged::End(end))),
        }
    }

    /// Every group up to `group` is durable.
    pub fn flushed(&mut self, now: Instant, group: GroupSeq) {
        while let Some((g, partition, what)) = self.staged.front().copied()
            && g <= group
        {
            self.staged.pop_front();
            match what {
                Staged::Promise(term) => self.promise_durable(now, partition, term),
                Staged::End(end) => self.end_durable(now, partition, end),
            }
        }
    }

    fn end_durable(&mut self, now: Instant, partition: PartitionId, end: Offset) {
        let r = self.replica_mut(partition);
        if end <= r.flushed_end {
            return;
        }
        assert!(end <= r.end, "a cut shortens what is on its way to the disk");
        r.flushed_end = end;
        self.note_progress(partition);
        let leads = self.replica(partition).leader().is_some();
        if leads {
            self.start_term(partition);
            self.commit(now, partition);
        } else {
            self.look_at_repair(partition);
            self.note_ack(partition);
        }
    }

    fn note_progress(&mut self, partition: PartitionId) {
        let r = self.replica_mut(partition);
        if !r.progress_noted {
            r.progress_noted = true;
            self.progress.push(partition);
        }
    }

    fn note_ack(&mut self, partition: PartitionId) {
        let r = self.replica_mut(partition);
        if !r.ack_noted {
            r.ack_noted = true;
            self.acks.push(partition);
        }
    }

    /// Promises a term: from here on no lower one has an effect.
    fn promise(&mut self, partition: PartitionId, term: Term) {
        self.step_down(partition);
        let r = self.replica_mut(partition);
        assert!(term > r.promised, "promises only grow");
        r.promised = term;
        r.fence_waits = false;
        r.role = Role::Follower(replica::Follower::default());
        self.effects.push(Effect::Promise { partition, term });
    }

    fn promise_durable(&mut self, now: Instant, partition: PartitionId, term: Term) {
        let r = self.replica_mut(partition);
        r.promised_durable = r.promised_durable.max(term);
        if r.promised != term {
            return;
        }
        if r.fence_waits {
            self.answer_fence(now, partition);
        }
        self.note_ack(partition);
        self.start_term(partition);
    }

    /// Ends this replica's leadership, if it has one.
    fn step_down(&mut self, partition: PartitionId) {
        let r = self.replica_mut(partition);
        let Role::Leader(leader) = &mut r.role else { return };
        let term = leader.term;
        let reads = std::mem::take(&mut leader.reads);
        // A quorum heard of nobody else when it took that probe. Of whoever is the only voter the time is
        // not known here.
        let led = leader.quorum_probed(Instant(u64::MAX));
        let led = led.filter(|at| leader.knows_commits() && *at < Instant(u64::MAX));
        r.current = r.current.max(led);
        r.left = r.left.max(term);
        r.role = Role::Follower(replica::Follower::default());
        for (ticket, _) in reads {
            self.effects.push(Effect::ReadDecided { ticket, confirmed: false });
        }
        self.effects.push(Effect::SteppedDown { partition, term });
    }

    /// A replica comes to the partition by a move: nobody who waits for every replica waits for it before
    /// it votes. It is filled as slowly as moves are, and what there was is safe without it.
    pub fn coming(&mut self, partition: PartitionId, replica: Option<ReplicaId>) {
        if std::mem::replace(&mut self.replica_mut(partition).coming, replica) != replica {
            self.note_progress(partition);
        }
    }

    /// Metadata say something about a partition. Old news are ignored: those older than what was
    /// heard before, and after a restart those older than the life the log is of. Who followed them
    /// would empty its log for a life that is over, and count again when it hears of its own.
    pub fn record(&mut self, now: Instant, partition: PartitionId, record: &PartitionRecord) {
        let storage = self.run.storage;
        let r = self.replica_mut(partition);
        let older_than_log = r.life().is_some_and(|life| record.version < life);
        if record.term < r.record.term || record.version < r.record.version || older_than_log {
            return;
        }
        r.record.clone_from(record);
        if record.leader.is_some() {
            r.fenced_since = None;
        }
        if r.handed_over.is_some_and(|(term, _)| record.term > term) {
            r.handed_over = None;
        }
        if let Some(mine) = record.replica_on(storage)
            && mine.id != r.me.replica
        {
            let life = mine.id.life;
            self.step_down(partition);
            return self.effects.push(Effect::Adopt { partition, life });
        }
        let me = r.me;
        if let Role::Leader(leader) = &mut r.role {
            if leader.term == record.term && record.leader == Some(me) {
                leader.follow(now, record, r.end);
                self.commit(now, partition);
                // Without a replica that is gone, every other may have what somebody waits for.
                self.note_progress(partition);
                self.wake(partition);
                return;
            }
            if leader.term > record.term {
                return;
            }
            self.step_down(partition);
        }
        self.try_to_lead(now, partition);
    }

    /// The leader of a partition, as far as is known here.
    #[must_use]
    pub fn leader_of(&self, partition: PartitionId) -> Option<LeaderId> {
        self.replica(partition).record.leader
    }

    /// When [`Replicator::tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Instant {
        self.beat_at
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) {
        if now < self.beat_at {
            return;
        }
        self.beat_at = now + self.settings.heartbeat;
        for i in 0..self.replicas.len() {
            let id = PartitionId(self.first.0 + i as u32);
            if self.replica(id).leader().is_some() {
                self.beat(now, id);
            } else {
                self.ask_again(id);
            }
        }
    }

    /// Whether this storage's replica of the partition is one that metadata know.
    #[must_use]
    pub fn is_replica(&self, partition: PartitionId) -> bool {
        let r = self.replica(partition);
        r.record.replica(r.me.replica).is_some()
    }

    fn new_leader(&self, now: Instant, partition: PartitionId) -> Leader {
        let r = self.replica(partition);
        Leader::new(now, r.me, &r.record, r.end)
    }
}

#[cfg(test)]
mod tests;
