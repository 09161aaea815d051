//! What every thread of a node may look at: the newest metadata and how the metadata group is; and where
//! they lay down what they want of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use ironring_core::NodeId;
use ironring_log::Room;
use ironring_ring::metadata::{MemberState, Metadata};
use ironring_ring::placement::PaceMode;
use tokio::sync::oneshot;

use super::plane::{Answer, Ask, Failure};
use super::refused::Advice;
use super::status::ClusterStatus;
use crate::metrics::ClusterCounters;
use crate::raft::{GroupStatus, Role};
use crate::shard::MoveProgress;

/// Orders that may wait to be looked at.
const ORDERS_MAX: usize = 256;

/// What is said where nobody looks any more.
const CLOSED: &str = "this node has stopped taking part";

/// What somebody wants of the metadata group.
#[derive(Debug)]
pub struct Order {
    /// What.
    pub ask: Ask,
    /// Who is told what came of it.
    pub answer: oneshot::Sender<Answer>,
}

/// Makes the thread of the metadata group look at the board.
type Caller = Box<dyn Fn() + Send + Sync>;

/// Where orders lie.
#[derive(Debug)]
enum Desk {
    /// They are looked at.
    Open(Vec<Order>),
    /// Nobody looks any more.
    Closed,
}

impl Default for Desk {
    fn default() -> Desk {
        Desk::Open(Vec::new())
    }
}

/// Written by the thread of the metadata group, read by all; orders go the other way.
#[derive(Default)]
pub struct Board {
    orders: Mutex<Desk>,
    caller: OnceLock<Caller>,
    metadata: Mutex<Arc<Metadata>>,
    group: Mutex<Option<GroupStatus>>,
    failure: Mutex<Option<(String, Advice)>>,
    /// 0: nobody is known to lead.
    leader: AtomicU64,
    /// Terms of the metadata group since the node's start, the first left out.
    elections: AtomicU64,
    given_up_after_ms: AtomicU64,
    /// How fast replicas are moved by this node, unless an operator has said.
    pace: AtomicU8,
    /// How far moves are, by shard of this node.
    moves: Mutex<BTreeMap<u16, Vec<MoveProgress>>>,
    /// By shard of this node: the room it has, and how many partitions it leads whose replicas differ
    /// without a majority.
    conditions: Mutex<BTreeMap<u16, (Room, u64)>>,
    /// Operators' orders that were carried out here.
    orders_done: AtomicU64,
    /// Those that were refused here.
    orders_refused: AtomicU64,
    /// Elections of partitions' leaders that were decided to be held, by this node as the controller.
    partition_elections: AtomicU64,
    /// Leaderships of partitions handed over as planned, while this node was the controller.
    handovers: AtomicU64,
    /// Partitions that were given up but for one copy, by orders carried out here.
    unclean_elections: AtomicU64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board").field("group", &self.group).finish_non_exhaustive()
    }
}

impl Board {
    /// The newest committed metadata this node knows.
    #[must_use]
    pub fn metadata(&self) -> Arc<Metadata> {
        Arc::clone(&locked(&self.metadata))
    }

    /// How the group is; nothing before it has started.
    #[must_use]
    pub fn group(&self) -> Option<GroupStatus> {
        locked(&self.group).clone()
    }

    /// After how long silence, in milliseconds, what a node held is rebuilt elsewhere, if this node
    /// is the controller.
    #[must_use]
    pub fn given_up_after_ms(&self) -> u64 {
        self.given_up_after_ms.load(Ordering::Relaxed)
    }

    pub(super) fn set_given_up_after(&self, silence: Duration) {
        let ms = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
        self.given_up_after_ms.store(ms, Ordering::Relaxed);
    }

    /// How fast this node moves replicas, unless an operator has said.
    #[must_use]
    pub fn pace(&self) -> PaceMode {
        PaceMode::ALL[usize::from(self.pace.load(Ordering::Relaxed))]
    }

    /// This is how fast.
    pub fn set_pace(&self, pace: PaceMode) {
        self.pace.store(pace as u8, Ordering::Relaxed);
    }

    /// How far moves are of partitions that are led on this node, at most a second or so ago.
    #[must_use]
    pub fn moves(&self) -> Vec<MoveProgress> {
        locked(&self.moves).values().flatten().copied().collect()
    }

    /// How far those of a shard are.
    pub fn set_moves(&self, shard: u16, moves: Vec<MoveProgress>) {
        locked(&self.moves).insert(shard, moves);
    }

    /// What a shard says of itself, once a second.
    pub fn set_condition(&self, shard: u16, room: Room, undecided: u64) {
        locked(&self.conditions).insert(shard, (room, undecided));
    }

    /// The room in the fullest of so many shards. One that has not said is not known to have plenty.
    pub(super) fn room(&self, shards: u16) -> Room {
        let conditions = locked(&self.conditions);
        let least = conditions.values().map(|(room, _)| *room).min().unwrap_or_default();
        if conditions.len() < usize::from(shards) { least.min(Room::Tight) } else { least }
    }

    /// How many partitions this node leads whose replicas differ without a majority.
    pub(super) fn undecided(&self) -> u64 {
        locked(&self.conditions).values().map(|(_, undecided)| *undecided).sum()
    }

    /// Why the node is no member any more, when that ended it, and what can be done.
    #[must_use]
    pub fn failure(&self) -> Option<(String, Advice)> {
        locked(&self.failure).clone()
    }

    /// The node is no member any more.
    pub fn fail(&self, why: String, advice: Advice) {
        *locked(&self.failure) = Some((why, advice));
    }

    /// How the thread of the group is made to look, once it can be.
    pub fn set_caller(&self, caller: impl Fn() + Send + Sync + 'static) {
        // A node has one thread of the group.
        let _ = self.caller.set(Box::new(caller));
    }

    /// Lays an order down. What comes of it is told once; when nothing is, the node has stopped.
    pub fn order(&self, ask: Ask) -> oneshot::Receiver<Answer> {
        let (answer, told) = oneshot::channel();
        let why = match &mut *locked(&self.orders) {
            Desk::Open(orders) if orders.len() < ORDERS_MAX => {
                orders.push(Order { ask, answer });
                None
            }
            Desk::Open(_) => Some((answer, format!("{ORDERS_MAX} requests wait already"))),
            Desk::Closed => Some((answer, CLOSED.to_owned())),
        };
        if let Some((answer, why)) = why {
            // The other end is right here.
            let _ = answer.send(Answer::Failed(Failure::Unavailable(why)));
            return told;
        }
        self.call();
        told
    }

    /// An operator's order was carried out here, or refused.
    pub(super) fn count_order(&self, done: bool) {
        let counter = if done { &self.orders_done } else { &self.orders_refused };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// A partition goes on with one copy, whatever it lacks: an operator's order, carried out here.
    pub(super) fn count_unclean_election(&self) {
        self.unclean_elections.fetch_add(1, Ordering::Relaxed);
    }

    /// Partitions got new terms by proposals of this node's controller.
    pub(super) fn count_terms(&self, elections: usize, handovers: usize) {
        self.partition_elections.fetch_add(elections as u64, Ordering::Relaxed);
        self.handovers.fetch_add(handovers as u64, Ordering::Relaxed);
    }

    /// Makes the thread of the group look, once it can be made to.
    pub(super) fn call(&self) {
        if let Some(call) = self.caller.get() {
            call();
        }
    }

    pub(super) fn orders(&self) -> Vec<Order> {
        match &mut *locked(&self.orders) {
            Desk::Open(orders) => std::mem::take(orders),
            Desk::Closed => Vec::new(),
        }
    }

    /// The node is a member no longer: what lies here, and what comes, is answered at once.
    pub fn close(&self) {
        let desk = std::mem::replace(&mut *locked(&self.orders), Desk::Closed);
        let Desk::Open(orders) = desk else { return };
        for order in orders {
            // Who asked may have given up.
            let _ = order.answer.send(Answer::Failed(Failure::Unavailable(CLOSED.to_owned())));
        }
    }

    pub(super) fn set_metadata(&self, metadata: &Arc<Metadata>) {
        *locked(&self.metadata) = Arc::clone(metadata);
    }

    /// What an operator decided about this node, when it is to take no new work.
    #[must_use]
    pub fn going(&self) -> Option<MemberState> {
        let me = NodeId(locked(&self.group).as_ref()?.id);
        let state = self.metadata().member(me)?.state;
        (state != MemberState::Active).then_some(state)
    }

    /// The node that leads the metadata group, as far as this node knows: where the controller is.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        let id = self.leader.load(Ordering::Relaxed);
        (id != 0).then_some(NodeId(id))
    }

    /// How the cluster is, in numbers.
    #[must_use]
    pub fn counters(&self) -> ClusterCounters {
        let Some(status) = ClusterStatus::of(self) else { return ClusterCounters::default() };
        let alive = status.members.iter().filter(|member| member.status == "alive");
        let me = status.members.iter().find(|member| member.id == status.node);
        ClusterCounters {
            members: status.members.len() as u64,
            members_alive: alive.count() as u64,
            epoch: status.epoch,
            term: status.metadata.term,
            leads: status.metadata.role == Role::Leader.name(),
            voters: status.metadata.voters.len() as u64,
            elections: self.elections.load(Ordering::Relaxed),
            partitions_led: me.map_or(0, |me| me.leads as u64),
            replicas: me.map_or(0, |me| me.replicas as u64),
            partitions_leaderless: status.partitions.leaderless as u64,
            partitions_under_replicated: status.partitions.under_replicated as u64,
            replication_factor: u64::from(status.partitions.rf),
            min_voters: u64::from(status.partitions.min_voters),
            partitions_refusing_writes: status.partitions.refusing_writes as u64,
            members_short_of_space: status.members.iter().filter(|m| m.short_of_space).count()
                as u64,
            moves: status.partitions.moves as u64,
            members_going: status.members.iter().filter(|m| m.state != "active").count() as u64,
            orders_done: self.orders_done.load(Ordering::Relaxed),
            orders_refused: self.orders_refused.load(Ordering::Relaxed),
            partition_elections: self.partition_elections.load(Ordering::Relaxed),
            handovers: self.handovers.load(Ordering::Relaxed),
            unclean_elections: self.unclean_elections.load(Ordering::Relaxed),
        }
    }

    pub(super) fn set_group(&self, status: GroupStatus) {
        self.leader.store(status.leader.unwrap_or(0), Ordering::Relaxed);
        let before = locked(&self.group).as_ref().map(|group| group.term);
        if before.is_some_and(|before| before != 0 && before != status.term) {
            self.elections.fetch_add(1, Ordering::Relaxed);
        }
        *locked(&self.group) = Some(status);
    }
}

#[cfg(test)]
mod tests {
    use ironring_ring::metadata::Command;

    use super::*;

    #[test]
    fn a_node_has_the_room_of_its_fullest_shard() {
        let board = Board::default();
        assert_eq!(board.room(2), Room::Tight, "nobody has said anything");
        board.set_condition(1, Room::Plenty, 2);
        assert_eq!(board.room(2), Room::Tight, "nor has shard 0");
        board.set_condition(0, Room::Plenty, 1);
        assert_eq!((board.room(2), board.undecided()), (Room::Plenty, 3));
        board.set_condition(0, Room::Short, 0);
        assert_eq!((board.room(2), board.undecided()), (Room::Short, 2));
        assert_eq!(board.room(3), Room::Short);
    }

    #[test]
    fn a_closed_board_answers_what_lies_there_and_what_comes() {
        let board = Board::default();
        let ask = || Ask::Change(Box::new(Command::SetBalancing(true)));
        let taken = board.order(ask());
        assert_eq!(board.orders().len(), 1);
        drop(taken);
        let mut waits = board.order(ask());
        assert!(waits.try_recv().is_err());
        board.close();
        for mut told in [waits, board.order(ask())] {
            let answer = told.try_recv().expect("it is told at once");
            assert_eq!(answer, Answer::Failed(Failure::Unavailable(CLOSED.to_owned())));
        }
        assert!(board.orders().is_empty());
    }
}
