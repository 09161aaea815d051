//! What a leader knows of its followers, and what follows from it: commits, leases, proposals.

use std::collections::VecDeque;
use std::time::Duration;

use ironring_core::{Instant, NodeId, Offset, Term};

use super::message::{Ack, AckState};
use super::quorum::{commit_quorum, fence_quorum, reached};
use super::replica::LocalReplica;
use super::{ReadTicket, Settings};
use crate::metadata::{LeaderId, PartitionRecord, ReplicaId, Wish};

/// A snapshot is told to be needed again after so many times the wait for an ack.
const SNAPSHOT_AGAIN: u32 = 30;

/// How far a leader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its promise is on the way to the disk, or where its log goes on: see
    /// [`super::Replicator::jumped`].
    Promising,
    /// The entry that begins its term is not committed.
    Starting,
    /// It serves.
    Serving,
    /// It takes no more writes and waits for its successor to have everything.
    HandingOver {
        /// Who that is.
        to: ReplicaId,
        /// When it gives up and serves again.
        until: Instant,
    },
}

/// A replica that lacks fewer entries is up to date in a moment.
const NEAR: u64 = 1024;

/// A replica that is heard and has acked nothing of what it owes for so many times the timeout does not
/// write: its disk is full, or does not answer. Far longer than a busy disk takes.
const STALLED_AFTER: u32 = 4;
/// How often the wait for a change of voters that is refused is doubled.
const WAIT_DOUBLINGS_MAX: u32 = 6;

/// A replica that has not said for so long that its copy is damaged is whole.
const HURT_FOR: Duration = Duration::from_secs(2);

/// What a leader knows of another replica.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub node: NodeId,
    pub id: ReplicaId,
    /// The run that answered last: whom a transfer would name.
    pub run: Option<LeaderId>,
    /// The next entry to send.
    pub next: Offset,
    /// How much of the log it has fsynced, as acked in this term.
    pub acked: Offset,
    /// Whether it is known where its log equals ours: until then only probes are sent.
    pub matched: bool,
    /// A probe is due, whether there are entries or not.
    pub probe_due: bool,
    /// It is in the list of those to send to.
    pub noted: bool,
    /// It needs a snapshot: the entries it lacks are gone.
    pub snapshot: bool,
    /// When that was told, if it does.
    pub snapshot_told: Instant,
    /// When it asked for the state last, because its copy is damaged.
    pub hurt: Option<Instant>,
    /// Send time of the newest probe it has acked.
    pub lease_from: Option<Instant>,
    pub heard: Instant,
    /// When it acked something new, or had nothing to ack.
    pub progressed: Instant,
    /// When the leader last went back to an earlier entry for it: answers to what was sent before
    /// say nothing about what is on its way.
    pub rewound: Instant,
    /// When what it owes was sent last from its beginning.
    pub sent_again: Instant,
}

/// A change of voters whose outcome is not known.
#[derive(Clone, Debug)]
pub(super) struct Proposal {
    pub base: u64,
    pub voters: Vec<ReplicaId>,
    pub again_at: Instant,
}

/// A change of voters that was proposed and did not come to be.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    voters: Vec<ReplicaId>,
    /// How often, one after the other.
    times: u32,
    at: Instant,
}

#[derive(Debug)]
pub(super) struct Leader {
    pub me: LeaderId,
    pub term: Term,
    /// When this replica heard that it leads.
    named: Instant,
    pub stage: Stage,
    /// Offset of the entry that begins the term.
    pub term_start: Offset,
    pub peers: Vec<Peer>,
    pub voters: Vec<ReplicaId>,
    /// The only voter is this replica: said here, so that a write of a node alone need not look there.
    sole: bool,
    pub version: u64,
    pub proposal: Option<Proposal>,
    /// What was refused last, while nothing else was taken.
    pub refused: Option<Refusal>,
    /// Reads that wait for a round of probes sent after they came.
    pub reads: VecDeque<(ReadTicket, Instant)>,
}

impl Peer {
    /// One whose copy is damaged says so again and again.
    fn is_hurt(&self, now: Instant) -> bool {
        self.hurt.is_some_and(|at| now.since(at) < HURT_FOR)
    }

    /// Whether it writes nothing, however much it is heard. One that waits for a state, whole or damaged,
    /// is none of these.
    fn is_stalled(&self, now: Instant, settings: &Settings) -> bool {
        let is_sent_entries = self.matched && !self.snapshot && !self.is_hurt(now);
        is_sent_entries && now.since(self.progressed) > settings.replica_timeout * STALLED_AFTER
    }
}

impl Leader {
    pub fn new(now: Instant, me: LeaderId, record: &PartitionRecord, end: Offset) -> Leader {
        let mut leader = Leader {
            me,
            term: record.term,
            named: now,
            stage: Stage::Promising,
            term_start: end,
            peers: Vec::new(),
            voters: Vec::new(),
            sole: false,
            version: 0,
            proposal: None,
            refused: None,
            reads: VecDeque::new(),
        };
        leader.follow(now, record, end);
        leader
    }

    /// Takes over what metadata say about this term: replicas, voters, and with a newer version the
    /// outcome of the proposal.
    pub fn follow(&mut self, now: Instant, record: &PartitionRecord, end: Offset) {
        self.peers.retain(|p| record.replica(p.id).is_some());
        for replica in &record.replicas {
            let known = self.peers.iter().any(|p| p.id == replica.id);
            if replica.id != self.me.replica && !known {
                self.peers.push(Peer {
                    node: replica.node,
                    id: replica.id,
                    run: None,
                    next: end,
                    acked: Offset::NONE,
                    matched: false,
                    probe_due: true,
                    noted: false,
                    snapshot: false,
                    snapshot_told: now,
                    hurt: None,
                    lease_from: None,
                    heard: now,
                    progressed: now,
                    rewound: Instant(0),
                    sent_again: now,
                });
            }
        }
        self.voters.clone_from(&record.voters);
        self.sole = self.voters == [self.me.replica];
        if let Some(open) = self.proposal.take_if(|open| record.version > open.base) {
            let before = self.refused.take().filter(|refused| refused.voters == open.voters);
            let times = before.map_or(1, |refused| refused.times.saturating_add(1));
            if record.voters != open.voters {
                self.refused = Some(Refusal { voters: open.voters, times, at: now });
            }
        }
        self.version = record.version;
    }

    /// Whether these voters were refused lately. Each time the wait until they are proposed again is twice
    /// as long, up to 64 heartbeats: whatever speaks against them may stay so.
    pub fn was_refused(&self, now: Instant, voters: &[ReplicaId], heartbeat: Duration) -> bool {
        self.refused.as_ref().is_some_and(|refused| {
            let wait = heartbeat * (1 << (refused.times - 1).min(WAIT_DOUBLINGS_MAX));
            refused.voters == voters && now < refused.at + wait
        })
    }

    fn peer(&self, id: ReplicaId) -> Option<&Peer> {
        self.peers.iter().find(|p| p.id == id)
    }

    /// How much of the log a replica has fsynced.
    fn acked(&self, id: ReplicaId, own: Offset) -> Offset {
        if id == self.me.replica { own } else { self.peer(id).map_or(Offset::NONE, |p| p.acked) }
    }

    /// Whether this replica is the only voter, and stays so.
    fn is_alone(&self) -> bool {
        self.sole && self.proposal.is_none()
    }

    /// Whether all that its predecessors committed is known to be: from when the entry that begins its
    /// term is committed.
    pub fn knows_commits(&self) -> bool {
        !matches!(self.stage, Stage::Promising | Stage::Starting)
    }

    /// Whether too few voters are heard, and write, to commit the entry that begins the term, and enough
    /// to elect another leader, which goes on without the others.
    pub fn is_stuck(&self, now: Instant, settings: &Settings) -> bool {
        let voters = self.voters.len();
        let is_heard = |id: &ReplicaId| {
            let peer = self.peer(*id);
            *id == self.me.replica
                || peer.is_some_and(|p| {
                    now.since(p.heard) <= settings.replica_timeout && !p.is_stalled(now, settings)
                })
        };
        let heard = self.voters.iter().filter(|id| is_heard(id)).count();
        self.stage == Stage::Starting
            && (fence_quorum(voters)..commit_quorum(voters)).contains(&heard)
    }

    /// Whether its own disk takes not even what begins its term, and others vote: it is full, or does not
    /// answer. `flushed_end`: of its own log.
    pub fn writes_nothing(&self, now: Instant, flushed_end: Offset, settings: &Settings) -> bool {
        !self.knows_commits()
            && flushed_end <= self.term_start
            && self.voters.len() > 1
            && now.since(self.named) > settings.replica_timeout * STALLED_AFTER
    }

    /// The value a quorum has reached; of both sets of voters while a change is open.
    fn quorum<T: Copy + Ord + Default>(&self, of: impl Fn(ReplicaId) -> T) -> T {
        if self.is_alone() {
            return of(self.me.replica);
        }
        let now = reached(&self.voters, &of).unwrap_or_default();
        match &self.proposal {
            Some(open) => now.min(reached(&open.voters, &of).unwrap_or_default()),
            None => now,
        }
    }

    /// The end of what is committed, when that is more than `high_watermark`. Entries of earlier
    /// terms are committed only by one of this term above them.
    pub fn committed(&self, own: Offset, high_watermark: Offset) -> Option<Offset> {
        let end = self.quorum(|id| self.acked(id, own));
        (end > high_watermark && end > self.term_start).then_some(end)
    }

    /// The end of what every replica has fsynced, but one that is only coming.
    pub fn all_end(&self, own: Offset, coming: Option<ReplicaId>) -> Offset {
        let counts = |p: &&Peer| Some(p.id) != coming || self.voters.contains(&p.id);
        self.peers.iter().filter(counts).map(|p| p.acked).fold(own, Offset::min)
    }

    /// When the newest round of probes was sent that a quorum has acked. The leader acks its own at
    /// once.
    pub fn quorum_probed(&self, now: Instant) -> Option<Instant> {
        self.quorum(|id| {
            if id == self.me.replica { Some(now) } else { self.peer(id).and_then(|p| p.lease_from) }
        })
    }

    /// Whether nobody else can be serving at `now`.
    pub fn has_lease(&self, now: Instant, settings: &Settings) -> bool {
        let serving = !matches!(self.stage, Stage::Promising);
        serving
            && self.quorum_probed(now).is_some_and(|from| now < from + settings.lease_as_leader())
    }

    /// How long ago the newest round of probes was sent that a quorum has acked; nothing before there
    /// was one in this term.
    pub fn quorum_silence(&self, now: Instant) -> Duration {
        self.quorum_probed(now).map_or(Duration::ZERO, |from| now.since(from))
    }

    /// Until when nobody else can be serving; for ever, when nobody else counts.
    pub fn lease_until(&self, now: Instant, settings: &Settings) -> Instant {
        match self.quorum_probed(now) {
            _ if self.is_alone() => Instant(u64::MAX),
            Some(from) => from + settings.lease_as_leader(),
            None => Instant(0),
        }
    }

    /// The next read that a round of probes has confirmed.
    pub fn next_read(&mut self, now: Instant) -> Option<ReadTicket> {
        let (ticket, asked) = *self.reads.front()?;
        let confirmed = self.quorum_probed(now).is_some_and(|from| from >= asked);
        confirmed.then(|| {
            self.reads.pop_front();
            ticket
        })
    }

    /// Takes an ack of this term. Returns whether it changes what is committed, perhaps.
    pub fn take_ack(&mut self, now: Instant, ack: &Ack, log: &LogEnds<'_>) -> bool {
        let Some(peer) = self.peers.iter_mut().find(|p| p.id == ack.from.replica) else {
            return false;
        };
        peer.heard = now;
        peer.run = Some(ack.from);
        peer.lease_from = peer.lease_from.max(Some(ack.probe));
        match ack.state {
            AckState::Flushed { end } => {
                assert!(end <= log.end, "a follower verified more than the leader sent");
                peer.matched = true;
                peer.snapshot = false;
                peer.next = peer.next.max(end);
                let news = end > peer.acked;
                if news || end == log.end {
                    peer.progressed = now;
                }
                peer.acked = peer.acked.max(end);
                news
            }
            AckState::Mismatch { end: Offset::NONE, .. } => {
                peer.hurt = Some(now);
                false
            }
            AckState::Mismatch { .. } if ack.probe < peer.rewound => false,
            AckState::Mismatch { end, term } => {
                peer.rewound = now;
                // Perhaps below what it acked: its log may have been damaged since. Sending too much
                // again does no harm.
                peer.next = end.min(log.terms.end_of(term, log.end)).max(Offset::FIRST);
                peer.matched = false;
                // One that waits for a snapshot is asked again with the next beat.
                peer.probe_due |= !peer.snapshot;
                false
            }
            AckState::Promised { .. } => false,
        }
    }

    /// Whether a voter of `voters` holds everything committed, on a commit quorum of them.
    fn hold_committed(&self, voters: &[ReplicaId], own: Offset, high_watermark: Offset) -> bool {
        let holding = voters.iter().filter(|id| self.acked(**id, own) >= high_watermark).count();
        holding >= commit_quorum(voters.len())
    }

    /// Whether voters that write nothing may be left out: the others are a majority, or this replica is
    /// the only other. If most of several write nothing, they may go on in a moment, and one of them is as
    /// good a leader.
    fn outweighs_stalled(&self, now: Instant, settings: &Settings) -> bool {
        let writes = |id: &&ReplicaId| self.peer(**id).is_none_or(|p| !p.is_stalled(now, settings));
        let voters = self.voters.len();
        voters == 2 || self.voters.iter().filter(writes).count() >= commit_quorum(voters)
    }

    /// The voters there should be: without those that are silent, lag, write nothing or leave, with
    /// learners that have caught up. `None` when that is as it is, or cannot be proposed yet.
    pub fn wanted_voters(
        &self,
        now: Instant,
        replica: &LocalReplica,
        settings: &Settings,
    ) -> Option<Vec<ReplicaId>> {
        let mut wanted = vec![self.me.replica];
        let outweighs = self.outweighs_stalled(now, settings);
        for r in &replica.record.replicas {
            let Some(peer) = self.peer(r.id) else { continue };
            let silent = now.since(peer.heard) > settings.replica_timeout;
            let stuck = now.since(peer.progressed) > settings.replica_timeout
                && replica.end.0.saturating_sub(peer.acked.0) > settings.replica_lag_max;
            let stuck = stuck || outweighs && peer.is_stalled(now, settings);
            let stays = self.voters.contains(&r.id);
            let caught_up = peer.acked >= replica.high_watermark && peer.matched;
            if r.wish == Wish::Voter && !silent && !stuck && (stays || caught_up) {
                wanted.push(r.id);
            }
        }
        wanted.sort();
        let news = wanted != self.voters;
        let ready = self.hold_committed(&wanted, replica.flushed_end, replica.high_watermark);
        (news && ready).then_some(wanted)
    }

    /// The voter to hand over to: of those heard lately the one that has most; one on a node that is
    /// preferred goes before the others if it lacks little.
    pub fn successor(
        &self,
        now: Instant,
        replica: &LocalReplica,
        patience: Duration,
        preferred: impl Fn(NodeId) -> bool,
    ) -> Option<ReplicaId> {
        let fit = |p: &&Peer| {
            let stays = replica.record.replica(p.id).is_some_and(|r| r.wish == Wish::Voter);
            let votes = stays && self.voters.contains(&p.id) && p.run.is_some();
            votes && now.since(p.heard) < patience && !p.is_hurt(now)
        };
        let end = replica.end;
        let better =
            |p: &&Peer| (preferred(p.node) && self.is_near(now, p.id, end, patience), p.acked);
        self.peers.iter().filter(fit).max_by_key(better).map(|p| p.id)
    }

    /// Whether a replica's copy is damaged, as far as is known.
    pub fn is_hurt(&self, now: Instant, id: ReplicaId) -> bool {
        self.peer(id).is_some_and(|p| p.is_hurt(now))
    }

    /// Whether a replica was heard lately and lacks little: it can take over in a moment.
    pub fn is_near(&self, now: Instant, id: ReplicaId, end: Offset, patience: Duration) -> bool {
        self.peer(id).is_some_and(|p| {
            p.matched && now.since(p.heard) < patience && end.0.saturating_sub(p.acked.0) < NEAR
        })
    }

    /// The run of the successor, once it has everything, while it is heard.
    pub fn successor_ready(
        &self,
        now: Instant,
        end: Offset,
        patience: Duration,
    ) -> Option<LeaderId> {
        let Stage::HandingOver { to, .. } = self.stage else { return None };
        let ready = |p: &&Peer| p.acked == end && now.since(p.heard) < patience;
        self.peer(to).filter(ready).and_then(|p| p.run)
    }

    /// Sends again to those that owe an ack for long, and probes everybody.
    pub fn beat(&mut self, now: Instant, resend_after: Duration) {
        for peer in &mut self.peers {
            peer.probe_due = true;
            // A snapshot that was given up somewhere must not keep a replica out for ever.
            peer.snapshot &= now.since(peer.snapshot_told) < resend_after * SNAPSHOT_AGAIN;
            let owes = peer.next > peer.acked.max(Offset::FIRST);
            if !owes {
                peer.progressed = now;
            } else if peer.matched && now.since(peer.progressed.max(peer.sent_again)) > resend_after
            {
                peer.next = peer.acked.max(Offset::FIRST);
                peer.sent_again = now;
            }
        }
    }
}

/// What a leader's log holds.
pub(super) struct LogEnds<'a> {
    pub end: Offset,
    pub terms: &'a super::terms::TermStarts,
}
