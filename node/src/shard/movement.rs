//! Moves of replicas that leaders of this shard send: how fast they may go, and how far they are.
//!
//! A move is what the metadata call one: a replica that comes, and has no vote yet. What it is sent,
//! entries or pieces of a state, passes a [`Pace`]; everything else that replicas are sent does not,
//! such as what a node missed while it was down. Once the replica votes, commits wait for it, and it
//! is sent everything at once.
//!
//! What is written to a partition while it moves is allowed besides the pace, or a move might never
//! end. Entries and pieces take turns when both wait. A shard has its share of the node's bandwidth,
//! by the number of shards; a node that takes replicas is sent to by each of the others at its pace.
//!
//! The state that an observer is sent passes the pace too: nobody counts on it. What voters are sent
//! goes first, then moves, then observers; each have places of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use ironring_core::{Instant, NodeId, Now, Offset, PartitionId};
use ironring_ring::metadata::{Metadata, ReplicaId, Wish};
use ironring_ring::placement::{Pace, PaceMode, Progress};
use serde::{Deserialize, Serialize};

use super::Shard;
use super::state::state_bytes;
use crate::metrics::MovementCounters;

/// Bandwidth of a node when it was not measured.
pub const BANDWIDTH_UNMEASURED: u64 = 64 << 20;
/// How often it is looked how far moves are, and what the foreground takes.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// A shard that takes so many requests a second counts as busy, whatever they move.
const REQUESTS_FULL: u64 = 50_000;

/// How fast a shard's moves go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MovementSettings {
    /// Unless an operator has said otherwise.
    pub pace: PaceMode,
    /// What a shard could read, send or write at the most, in bytes per second.
    pub bandwidth_bytes_per_s: u64,
}

impl Default for MovementSettings {
    fn default() -> MovementSettings {
        MovementSettings { pace: PaceMode::default(), bandwidth_bytes_per_s: BANDWIDTH_UNMEASURED }
    }
}

/// Of what a move is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    /// Entries, one by one.
    Entries,
    /// What older ones add up to.
    State,
}

/// How far a move is, as the leader of its partition knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveProgress {
    /// Which partition's.
    pub partition: u32,
    /// The node the replica comes to.
    pub to: NodeId,
    /// Bytes sent since this leader began.
    pub sent_bytes: u64,
    /// Bytes still to be sent, about.
    pub left_bytes: u64,
    /// By how many bytes that shrinks in a second.
    pub rate_bytes_per_s: u64,
    /// Seconds to the end at that rate; none while it does not shrink.
    pub eta_s: Option<u64>,
}

/// Whom a state is for: who is first has its turn first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// A replica that votes, or did and lost its log.
    Voter,
    /// A replica that a move brings.
    Move,
    /// An observer's.
    Observer,
}

/// A move of a partition of this shard, or an observer that is being filled.
#[derive(Debug)]
struct Going {
    replica: ReplicaId,
    class: Class,
    /// Entries before this were allowed for; nothing while another replica leads.
    counted: Option<Offset>,
    sent_bytes: u64,
    /// Bytes sent and allowed since the last look.
    sent_lately: u64,
    owed_lately: u64,
    /// Of what was left at the first look.
    progress: Option<Progress>,
    said: Option<MoveProgress>,
}

impl Going {
    fn new(replica: ReplicaId, class: Class) -> Going {
        Going {
            replica,
            class,
            counted: None,
            sent_bytes: 0,
            sent_lately: 0,
            owed_lately: 0,
            progress: None,
            said: None,
        }
    }
}

/// What the foreground has done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Foreground {
    pub requests: u64,
    /// Read from the disk and written to it.
    pub bytes: u64,
    /// Time in which a group was being written.
    pub writing: Duration,
}

impl Foreground {
    /// How much of the shard it took since `before`, in thousandths, by what it took most of.
    fn busy_permille(&self, before: &Foreground, over: Duration, bandwidth: u64) -> u64 {
        let share = |done: u128, full_per_s: u64| {
            let full = u128::from(full_per_s.max(1)) * over.as_millis().max(1);
            u64::try_from(done * 1_000_000 / full).unwrap_or(u64::MAX)
        };
        let requests = share(u128::from(self.requests - before.requests), REQUESTS_FULL);
        let bytes = share(u128::from(self.bytes.saturating_sub(before.bytes)), bandwidth);
        let writing = self.writing.saturating_sub(before.writing);
        let writing = share(writing.as_micros(), 1_000_000);
        requests.max(bytes).max(writing).min(1000)
    }
}

/// The moves of a shard.
#[derive(Debug)]
pub(super) struct Movement {
    config: MovementSettings,
    pace: Pace,
    going: BTreeMap<(PartitionId, NodeId), Going>,
    /// Replicas that observe.
    observers: BTreeMap<(PartitionId, NodeId), ReplicaId>,
    /// Partitions whose entries wait.
    held: BTreeSet<PartitionId>,
    /// A piece waits.
    state_waits: bool,
    last: Share,
    measured_at: Instant,
    foreground: Foreground,
    sent_bytes: u64,
    /// Read from the disk for states that are sent.
    read_bytes: u64,
}

impl Movement {
    pub fn new(config: MovementSettings) -> Movement {
        Movement {
            config,
            pace: Pace::new(config.pace, config.bandwidth_bytes_per_s, Instant(0)),
            going: BTreeMap::new(),
            observers: BTreeMap::new(),
            held: BTreeSet::new(),
            state_waits: false,
            last: Share::State,
            measured_at: Instant(0),
            foreground: Foreground::default(),
            sent_bytes: 0,
            read_bytes: 0,
        }
    }

    /// The newest metadata are here; `mine` are the shard's partitions.
    pub fn follow(&mut self, now: Instant, metadata: &Metadata, mine: Range<u32>) {
        let mode = metadata.pace().unwrap_or(self.config.pace);
        if mode != self.pace.mode() {
            self.pace.set_mode(now, mode);
        }
        let mut before = std::mem::take(&mut self.going);
        self.observers.clear();
        for id in mine.clone().map(PartitionId) {
            let replicas = metadata.partition(id).map_or(&[][..], |record| &record.replicas[..]);
            let observe = replicas.iter().filter(|r| r.wish == Wish::Observer);
            self.observers.extend(observe.map(|r| ((id, r.node), r.id)));
        }
        for (id, moved) in metadata.moves().range(PartitionId(mine.start)..PartitionId(mine.end)) {
            let Some(record) = metadata.partition(*id) else { continue };
            let Some(comes) = record.replica(moved.to).filter(|r| !record.is_voter(r.id)) else {
                continue;
            };
            let to = (*id, comes.node);
            let known = before.remove(&to).filter(|going| going.replica == moved.to);
            let going = known.unwrap_or_else(|| Going::new(comes.id, Class::Move));
            self.going.insert(to, Going { class: Class::Move, ..going });
        }
        before.retain(|to, going| {
            going.class == Class::Observer && self.observers.get(to) == Some(&going.replica)
        });
        before.append(&mut self.going);
        self.going = before;
    }

    /// A replica is to be sent the state: an observer is being filled from here on.
    pub fn fill(&mut self, to: (PartitionId, NodeId)) {
        if let Some(replica) = self.observers.get(&to) {
            self.going.entry(to).or_insert_with(|| Going::new(*replica, Class::Observer));
        }
    }

    /// It has the state, or is not to be sent it any more.
    pub fn filled(&mut self, to: (PartitionId, NodeId)) {
        if self.class(to) == Class::Observer {
            self.going.remove(&to);
        }
    }

    /// Whom what a node is sent of a partition is for.
    pub fn class(&self, to: (PartitionId, NodeId)) -> Class {
        self.going.get(&to).map_or(Class::Voter, |going| going.class)
    }

    /// Whether what a node is sent of a partition passes the pace.
    pub fn is_going(&self, partition: PartitionId, node: NodeId) -> bool {
        !self.going.is_empty() && self.going.contains_key(&(partition, node))
    }

    /// Pieces are about to be looked at: those that still wait say so again.
    pub fn begin_states(&mut self) {
        self.state_waits = false;
    }

    /// Whether a move's entries, or a piece of its state, may be sent now. What waits is noted, of
    /// entries by [`Movement::hold`].
    pub fn may_send(&mut self, now: Instant, what: Share) -> bool {
        let other_waits = match what {
            Share::Entries => self.state_waits,
            Share::State => !self.held.is_empty(),
        };
        let may = self.pace.is_open(now) && !(other_waits && self.last == what);
        self.state_waits |= !may && what == Share::State;
        if may {
            self.last = what;
        }
        may
    }

    /// Something was sent, of a move or not.
    pub fn sent(&mut self, now: Instant, partition: PartitionId, node: NodeId, bytes: usize) {
        if bytes == 0 || !self.is_going(partition, node) {
            return;
        }
        let bytes = bytes as u64;
        let taken = self.pace.take(now, bytes);
        debug_assert!(taken.is_ok(), "it was asked before whether it may be");
        self.sent_bytes += bytes;
        if let Some(going) = self.going.get_mut(&(partition, node)) {
            going.sent_bytes += bytes;
            going.sent_lately += bytes;
        }
    }

    /// So many bytes are read from the disk for a move, besides what is sent.
    pub fn read(&mut self, now: Instant, bytes: u64) {
        self.pace.charge(now, bytes);
        self.read_bytes += bytes;
    }

    /// Entries of a partition wait for their turn.
    pub fn hold(&mut self, partition: PartitionId) {
        self.held.insert(partition);
    }

    /// The partitions whose entries waited, when some may be sent.
    pub fn take_held(&mut self, now: Instant) -> BTreeSet<PartitionId> {
        match self.held.is_empty() || !self.pace.is_open(now) {
            true => BTreeSet::new(),
            false => std::mem::take(&mut self.held),
        }
    }

    /// What was written to a partition that moves: bytes of the entries from where was counted last.
    fn owe(&mut self, to: (PartitionId, NodeId), bytes: u64) {
        if let Some(going) = self.going.get_mut(&to) {
            going.owed_lately += bytes;
            self.pace.allow(bytes);
        }
    }

    /// What the foreground has done, about once a second.
    fn observe(&mut self, now: Instant, foreground: Foreground) {
        let over = now.since(self.measured_at);
        let bandwidth = self.config.bandwidth_bytes_per_s;
        let busy = foreground.busy_permille(&self.foreground, over, bandwidth);
        self.foreground = foreground;
        let bytes = u128::from(bandwidth) * u128::from(busy) / 1000;
        self.pace.observe_foreground(now, bytes as u64);
    }

    /// So much of a move is left; nothing: another replica leads. It was looked `since` before.
    fn measured(
        &mut self,
        (since, now): (Instant, Instant),
        to: (PartitionId, NodeId),
        left: Option<u64>,
    ) {
        let Some(going) = self.going.get_mut(&to) else { return };
        let sent = std::mem::take(&mut going.sent_lately);
        let owed = std::mem::take(&mut going.owed_lately);
        let Some(left_bytes) = left else {
            (going.progress, going.said, going.counted) = (None, None, None);
            return;
        };
        let progress = going.progress.get_or_insert_with(|| Progress::new(left_bytes, now));
        progress.copied(since, sent.saturating_sub(owed));
        let done = progress.report(now).done_bytes;
        progress.set_total(done + left_bytes);
        let report = progress.report(now);
        going.said = Some(MoveProgress {
            partition: to.0.0,
            to: to.1,
            sent_bytes: going.sent_bytes,
            left_bytes,
            rate_bytes_per_s: report.rate_bytes_per_s,
            eta_s: report.eta.map(|eta| eta.as_secs()),
        });
    }

    /// How far the moves are whose partitions are led here.
    pub fn progress(&self) -> impl Iterator<Item = MoveProgress> {
        self.going.values().filter_map(|going| going.said)
    }

    /// What there is to count of them.
    pub fn counters(&self) -> MovementCounters {
        MovementCounters {
            moves: self.progress().count() as u64,
            left_bytes: self.progress().map(|p| p.left_bytes).sum(),
            rate_bytes_per_s: self.progress().map(|p| p.rate_bytes_per_s).sum(),
            eta_s: self.progress().filter_map(|p| p.eta_s).max().unwrap_or(0),
            incoming_bytes: 0,
            sent_bytes: self.sent_bytes,
            pace_bytes_per_s: self.pace.rate_bytes_per_s(),
        }
    }
}

impl Shard {
    /// Allows for what was written to partitions that move. O(their new entries).
    pub(super) fn allow_for_writes(&mut self) {
        if self.movement.going.is_empty() || self.replicas.is_none() {
            return;
        }
        let all: Vec<(PartitionId, NodeId)> = self.movement.going.keys().copied().collect();
        for to in all {
            let id = to.0;
            let leads = self.engine().view(id).leads.is_some();
            let Some(going) = self.movement.going.get_mut(&to) else { continue };
            let entries = &self.models.peek(id).entries;
            let end = leads.then(|| entries.end());
            let from = std::mem::replace(&mut going.counted, end);
            if let (Some(from), Some(end)) = (from, end) {
                self.movement.owe(to, entries.bytes(from, end));
            }
        }
    }

    /// Looks how far moves are, and what else the shard does.
    pub(super) fn measure_moves(&mut self, now: Now) {
        if now.mono.since(self.movement.measured_at) < MEASURE_EVERY || self.replicas.is_none() {
            return;
        }
        let log = self.log.counters();
        // Entries are read about as they are sent, states as was counted.
        let moved = self.movement.sent_bytes.max(self.movement.read_bytes);
        self.movement.observe(
            now.mono,
            Foreground {
                requests: self.counters.requests.iter().map(|(_, n)| n).sum(),
                bytes: (log.read_bytes + log.group_bytes).saturating_sub(moved),
                writing: Duration::from_secs_f64(self.counters.flush_latency.sum_seconds()),
            },
        );
        let since = std::mem::replace(&mut self.movement.measured_at, now.mono);
        let all: Vec<_> =
            self.movement.going.iter().map(|((id, node), g)| (*id, *node, g.replica)).collect();
        for (id, node, replica) in all {
            let left = self.left_of_move(id, node, replica);
            self.movement.measured((since, now.mono), (id, node), left);
        }
    }

    /// Bytes a replica that comes is still to be sent; nothing when another leads.
    fn left_of_move(&mut self, id: PartitionId, node: NodeId, replica: ReplicaId) -> Option<u64> {
        let (acked, needs_state) = self.engine().follower(id, replica)?;
        let p = self.models.peek(id);
        let end = p.entries.end();
        Some(match self.transfers.left((id, node)) {
            Some((state, from)) => state + p.entries.bytes(from, end),
            None if needs_state => state_bytes(p),
            None => p.entries.bytes(acked.max(Offset::FIRST), end),
        })
    }

    /// How far the moves are whose partitions are led here.
    #[must_use]
    pub fn move_progress(&self) -> Vec<MoveProgress> {
        self.movement.progress().collect()
    }
}

#[cfg(test)]
mod tests {
    use ironring_core::{StorageUuid, Term};
    use ironring_ring::metadata::{Command, LeaderId, ReplicaChange};

    use super::*;
    use crate::cluster::tests::cluster_of;

    const P: PartitionId = PartitionId(3);
    const MIB: u64 = 1 << 20;

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    /// Two nodes; a replica of one partition comes to the second.
    fn moving() -> (Metadata, ReplicaId) {
        let mut metadata = cluster_of(2);
        let add = ReplicaChange::Add { node: NodeId(2), wish: Wish::Voter, replaces: None };
        metadata.apply(&Command::Replicas { changes: vec![(P, add)] });
        let comes = metadata.moves()[&P].to;
        assert_eq!(comes.storage, StorageUuid(2));
        (metadata, comes)
    }

    fn movement(pace: PaceMode) -> (Movement, Metadata) {
        let config = MovementSettings { pace, bandwidth_bytes_per_s: 100 * MIB };
        let (mut movement, metadata) = (Movement::new(config), moving().0);
        movement.follow(at(1000), &metadata, 0..8);
        (movement, metadata)
    }

    /// Bytes sent in a time, while there is always more.
    fn sent(movement: &mut Movement, from_ms: u64, until_ms: u64, what: Share) -> u64 {
        let before = movement.sent_bytes;
        for ms in from_ms..until_ms {
            movement.begin_states();
            while movement.may_send(at(ms), what) {
                movement.sent(at(ms), P, NodeId(2), 64 << 10);
            }
        }
        movement.sent_bytes - before
    }

    #[test]
    fn only_a_replica_that_comes_and_does_not_vote_yet_is_paced() {
        let (mut movement, mut metadata) = movement(PaceMode::Gradual);
        assert!(movement.is_going(P, NodeId(2)));
        assert!(!movement.is_going(P, NodeId(1)) && !movement.is_going(PartitionId(4), NodeId(2)));
        movement.sent(at(1000), PartitionId(4), NodeId(2), 1 << 30);
        assert!(movement.may_send(at(1000), Share::Entries), "that was no move");
        let mut other = Movement::new(MovementSettings::default());
        other.follow(at(1000), &metadata, 4..8);
        assert!(!other.is_going(P, NodeId(2)), "another shard's");

        let record = metadata.partition(P).unwrap();
        let (first, comes) = (record.replicas[0].id, metadata.moves()[&P].to);
        let leader = LeaderId { replica: first, incarnation: ironring_core::Incarnation(1) };
        metadata.apply(&Command::Elect { partitions: vec![(P, Term(0))] });
        metadata.apply(&Command::Lead { partitions: vec![(P, Term(1), leader)] });
        let mut voters = vec![first, comes];
        voters.sort();
        let base = metadata.partition(P).unwrap().version;
        let (partition, term, from) = (P, Term(1), first);
        metadata.apply(&Command::Voters { partition, term, from, base, voters });
        assert!(metadata.partition(P).unwrap().is_voter(comes));
        movement.follow(at(1001), &metadata, 0..8);
        assert!(!movement.is_going(P, NodeId(2)), "commits wait for it by now");
    }

    #[test]
    fn an_observer_is_paced_while_it_is_filled_and_comes_last() {
        let (mut movement, mut metadata) = movement(PaceMode::Gradual);
        let (other, observer) = (PartitionId(4), (PartitionId(4), NodeId(2)));
        let add = ReplicaChange::Add { node: NodeId(2), wish: Wish::Observer, replaces: None };
        metadata.apply(&Command::Replicas { changes: vec![(other, add)] });
        movement.follow(at(1001), &metadata, 0..8);
        assert!(!movement.is_going(other, NodeId(2)), "it is not sent the state");
        movement.fill(observer);
        movement.fill((other, NodeId(1)));
        assert!(movement.is_going(other, NodeId(2)) && !movement.is_going(other, NodeId(1)));
        let classes = [(other, NodeId(1)), (P, NodeId(2)), observer].map(|to| movement.class(to));
        assert_eq!(classes, [Class::Voter, Class::Move, Class::Observer]);
        assert!(classes.is_sorted());
        movement.sent(at(1001), other, NodeId(2), 64 << 20);
        assert!(!movement.may_send(at(1002), Share::State), "that was its share");
        movement.measured((at(1001), at(2001)), observer, Some(7 * MIB));
        let said = movement.progress().find(|said| said.partition == other.0).unwrap();
        assert_eq!((said.sent_bytes, said.left_bytes), (64 * MIB, 7 * MIB));
        movement.follow(at(2002), &metadata, 0..8);
        assert_eq!(
            movement.class(observer),
            Class::Observer,
            "news of the metadata change nothing"
        );
        movement.filled((P, NodeId(2)));
        movement.filled(observer);
        assert!(movement.is_going(P, NodeId(2)) && !movement.is_going(other, NodeId(2)));
    }

    #[test]
    fn the_pace_is_a_share_of_the_bandwidth_and_an_operator_changes_it() {
        let (mut movement, mut metadata) = movement(PaceMode::Gradual);
        let second = sent(&mut movement, 1000, 2000, Share::State);
        assert!((9 * MIB..=12 * MIB).contains(&second), "{second}");
        metadata.apply(&Command::SetPace(Some(PaceMode::Aggressive)));
        movement.follow(at(2000), &metadata, 0..8);
        let second = sent(&mut movement, 2000, 3000, Share::Entries);
        assert!((48 * MIB..=56 * MIB).contains(&second), "{second}");
        metadata.apply(&Command::SetPace(None));
        movement.follow(at(3000), &metadata, 0..8);
        let second = sent(&mut movement, 3100, 4100, Share::Entries);
        assert!((9 * MIB..=12 * MIB).contains(&second), "{second}");
    }

    #[test]
    fn what_is_read_for_a_move_passes_its_pace_too() {
        let (mut movement, _) = movement(PaceMode::Gradual);
        sent(&mut movement, 1000, 2000, Share::State);
        // Of small values three times as much as is sent.
        let (mut sent, mut read) = (0, 0);
        for ms in 2000..4000 {
            movement.begin_states();
            while movement.may_send(at(ms), Share::State) {
                movement.sent(at(ms), P, NodeId(2), 64 << 10);
                movement.read(at(ms), 192 << 10);
                (sent, read) = (sent + (64 << 10), read + (192 << 10));
            }
        }
        assert!((18 * MIB..=23 * MIB).contains(&(sent + read)), "{sent} and {read}");
    }

    #[test]
    fn what_is_written_meanwhile_is_sent_besides() {
        let (mut movement, _) = movement(PaceMode::Gradual);
        sent(&mut movement, 1000, 2000, Share::Entries);
        movement.owe((P, NodeId(2)), 12 * MIB);
        let second = sent(&mut movement, 2000, 3000, Share::Entries);
        assert!((21 * MIB..=24 * MIB).contains(&second), "{second}");
    }

    #[test]
    fn entries_and_pieces_take_turns_while_both_wait() {
        let (mut movement, _) = movement(PaceMode::Gradual);
        let (mut entries, mut pieces) = (0, 0);
        for ms in 1000..3000 {
            if movement.take_held(at(ms)).contains(&P) || ms == 1000 {
                match movement.may_send(at(ms), Share::Entries) {
                    true => {
                        movement.sent(at(ms), P, NodeId(2), 256 << 10);
                        entries += 1;
                    }
                    false => movement.hold(P),
                }
                // There is always more.
                movement.hold(P);
            }
            movement.begin_states();
            if movement.may_send(at(ms), Share::State) {
                movement.sent(at(ms), P, NodeId(2), 256 << 10);
                pieces += 1;
            }
        }
        assert!(entries > 30 && pieces > 30, "{entries} and {pieces}");
        // One that waits no more is waited for no more.
        movement.begin_states();
        let alone = sent(&mut movement, 4000, 5000, Share::Entries);
        assert!(alone > 9 * MIB, "{alone}");
    }

    #[test]
    fn the_progressive_pace_takes_what_the_foreground_leaves() {
        let (mut movement, _) = movement(PaceMode::Progressive);
        let idle = Foreground::default();
        for s in 1..=20 {
            movement.observe(at(s * 1000), idle);
            movement.measured_at = at(s * 1000);
        }
        assert_eq!(movement.pace.rate_bytes_per_s(), 80 * MIB);
        for busy in [
            Foreground { requests: 1_000_000, ..idle },
            Foreground { bytes: 1 << 40, ..idle },
            Foreground { writing: Duration::from_secs(1), ..idle },
        ] {
            movement.foreground = idle;
            movement.observe(at(21_000), busy);
            assert_eq!(movement.pace.rate_bytes_per_s(), 10 * MIB, "{busy:?}");
        }
        let half = Foreground { writing: Duration::from_millis(500), ..idle };
        assert_eq!(half.busy_permille(&idle, Duration::from_secs(1), MIB), 500);
    }

    #[test]
    fn progress_says_what_is_left_and_when_it_will_be_done() {
        let (mut movement, _) = movement(PaceMode::Gradual);
        movement.measured((at(1000), at(1000)), (P, NodeId(2)), Some(100 * MIB));
        let said = |movement: &Movement| movement.progress().next();
        let first = said(&movement).unwrap();
        assert_eq!((first.left_bytes, first.eta_s), (100 * MIB, None), "nothing is known yet");
        let mut left = 100 * MIB;
        for s in 1..=20 {
            left -= sent(&mut movement, s * 1000, (s + 1) * 1000, Share::State).min(4 * MIB);
            left += MIB;
            movement.owe((P, NodeId(2)), MIB);
            let times = (at(s * 1000), at((s + 1) * 1000));
            movement.measured(times, (P, NodeId(2)), Some(left));
        }
        let now = said(&movement).unwrap();
        assert!(now.sent_bytes >= 200 * MIB && now.left_bytes == 40 * MIB, "{now:?}");
        // It sent ten a second, of which one was new; the look says that it shrank by nine.
        assert!(now.eta_s.is_some_and(|s| (4..=6).contains(&s)), "{now:?}");
        let counters = movement.counters();
        assert_eq!((counters.moves, counters.left_bytes), (1, 40 * MIB));
        movement.measured((at(21_000), at(22_000)), (P, NodeId(2)), None);
        assert_eq!(said(&movement), None, "another leads");
    }
}
