//! What must hold, by the numbers of replication.md.

use stateright::Property as Checked;

use super::ReplicationModel;
use super::log::Log;
use super::state::{Offset, State, Term, Uuid};

macro_rules! invariants {
    ($($name:ident = $number:literal, $words:literal;)*) => {
        /// One thing that must hold.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Invariant {
            $(#[doc = $words] $name = $number,)*
        }

        impl Invariant {
            /// All of them.
            pub const ALL: &'static [Invariant] = &[$(Invariant::$name,)*];

            /// Its number in replication.md.
            pub fn number(self) -> u8 {
                self as u8
            }

            /// Number and words.
            pub fn words(self) -> &'static str {
                match self { $(Invariant::$name => concat!($number, ". ", $words),)* }
            }
        }

        /// Each as a property that is always true.
        pub(super) fn properties() -> Vec<Checked<ReplicationModel>> {
            vec![$(Checked::always(
                concat!($number, ". ", $words),
                |_: &ReplicationModel, state: &State| !state.observer.broken.has(Invariant::$name),
            ),)*]
        }
    };
}

invariants! {
    OneLeader = 1, "At most one leader per partition and term.";
    LogMatching = 2, "Log matching.";
    LeaderComplete = 3, "Every leader's log holds every entry committed in an earlier term.";
    WatermarkFlushed = 4, "high_watermark never passes what W voters fsynced, and never goes back within one run of a process.";
    NothingBelowCut = 5, "Nothing below the high watermark is truncated.";
    ReadsSeeWrites = 6, "A quorum-acked write is read by every later linearizable read, for ever.";
    PromiseKept = 7, "A replica that promised t+1 acks nothing of t.";
    LeasesApart = 8, "Leases of two leaders never overlap.";
    VotersLoseNothing = 9, "No change of voters loses a committed entry.";
    ForgottenNeverCounts = 10, "A replica that forgot never counts.";
    AppliedOnce = 11, "A (session, sequence) is applied at most once.";
    SameStateHash = 12, "Two replicas that applied to the same offset have the same state hash.";
    DeletedAfterDrop = 13, "Nothing is deleted without a committed drop.";
}

/// Invariants found broken by a step, which no later state may show any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Broken(u16);

impl Broken {
    /// Notes that `invariant` was seen broken.
    pub fn note(&mut self, invariant: Invariant) {
        self.0 |= 1 << invariant.number();
    }

    /// Takes it back.
    pub fn forget(&mut self, invariant: Invariant) {
        self.0 &= !(1 << invariant.number());
    }

    /// Whether `invariant` was.
    pub fn has(self, invariant: Invariant) -> bool {
        self.0 & (1 << invariant.number()) != 0
    }

    /// Whether none was.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The first.
    pub fn first(self) -> Option<Invariant> {
        Invariant::ALL.iter().copied().find(|invariant| self.has(*invariant))
    }
}

/// Those that are seen in a state, not in a step.
const OF_STATES: [Invariant; 5] = [
    Invariant::LogMatching,
    Invariant::WatermarkFlushed,
    Invariant::LeasesApart,
    Invariant::VotersLoseNothing,
    Invariant::SameStateHash,
];

/// Notes what `state` shows broken.
pub(super) fn judge(model: &ReplicationModel, state: &mut State) {
    for invariant in OF_STATES {
        if !holds(model, state, invariant) {
            state.observer.broken.note(invariant);
        }
    }
}

fn holds(model: &ReplicationModel, state: &State, invariant: Invariant) -> bool {
    match invariant {
        Invariant::LogMatching => logs_match(state),
        Invariant::WatermarkFlushed => watermarks_are_committed(state),
        Invariant::LeasesApart => {
            let holders = (0..state.replicas.len()).filter(|node| model.holds_lease(state, *node));
            holders.count() <= 1
        }
        Invariant::VotersLoseNothing => fence_quorums_hold_the_committed(state),
        Invariant::SameStateHash => applied_agree(state),
        _ => true,
    }
}

fn pairs(state: &State) -> impl Iterator<Item = (usize, usize)> {
    let nodes = state.replicas.len();
    (0..nodes).flat_map(move |a| (a + 1..nodes).map(move |b| (a, b)))
}

fn logs_match(state: &State) -> bool {
    pairs(state).all(|(a, b)| {
        let (a, b) = (state.replicas[a].log, state.replicas[b].log);
        let pairs = a.iter().zip(b.iter()).zip(1..);
        let same = pairs.filter(|((a, b), _)| a.term == b.term).last().map_or(0, |(_, end)| end);
        a.below(same) == b.below(same)
    })
}

fn watermarks_are_committed(state: &State) -> bool {
    let committed = state.observer.committed;
    state.replicas.iter().all(|replica| {
        let end = replica.high_watermark;
        end <= committed.end() && replica.log.starts_with(committed.below(end))
    })
}

fn applied_agree(state: &State) -> bool {
    pairs(state).all(|(a, b)| {
        let (a, b) = (&state.replicas[a], &state.replicas[b]);
        let end = a.high_watermark.min(b.high_watermark);
        a.log.below(end) == b.log.below(end)
    })
}

/// Any F voters of V that can answer include one that holds every committed entry.
fn fence_quorums_hold_the_committed(state: &State) -> bool {
    let voters = state.record().voters;
    let lacking = voters.iter().filter_map(|uuid| state.replica_of(uuid)).filter(|replica| {
        !replica.deleted && replica.repair_to == 0 && !replica.holds(state.observer.committed)
    });
    (lacking.count() as u32) < voters.fence_quorum()
}

/// The observer's judgement of what a step does.
impl super::state::Observer {
    pub(super) fn promised(&mut self, uuid: Uuid, term: Term) {
        match self.promises.binary_search_by_key(&uuid, |(uuid, _)| *uuid) {
            Ok(at) => self.promises[at].1 = self.promises[at].1.max(term),
            Err(at) => self.promises.insert(at, (uuid, term)),
        }
    }

    /// `uuid` says that it holds entries in `term`.
    pub(super) fn acked(&mut self, uuid: Uuid, term: Term) {
        if self.promises.iter().any(|(who, promised)| *who == uuid && *promised > term) {
            self.broken.note(Invariant::PromiseKept);
        }
    }

    pub(super) fn counted(&mut self, uuid: Uuid) {
        if self.forgot.has(uuid) {
            self.broken.note(Invariant::ForgottenNeverCounts);
        }
    }

    pub(super) fn led(&mut self, uuid: Uuid, term: Term) {
        if self.leaders.iter().any(|(led, who)| *led == term && *who != uuid) {
            self.broken.note(Invariant::OneLeader);
        }
        if !self.leaders.contains(&(term, uuid)) {
            self.leaders.push((term, uuid));
            self.leaders.sort_unstable();
        }
    }
}

/// The leader on `node` raised its high watermark to `end`.
pub(super) fn committed(state: &mut State, node: usize, end: Offset, leader_term: Term) {
    let log = state.replicas[node].log.below(end);
    let known = state.observer.committed.end().min(log.end());
    let lost = state.observer.committed.below(known) != log.below(known);
    let mut seen = 0_u16;
    let twice = log.iter().filter(|entry| entry.is_write()).any(|entry| {
        let before = seen;
        seen |= 1 << entry.sequence;
        before == seen
    });
    let behind = state.replicas.iter().any(|replica| {
        replica.leader.as_ref().is_some_and(|leader| leader.term > leader_term)
            && !replica.log.starts_with(log)
    });
    let unflushed = !flushed_on_quorum(state, node, log);
    let broken = &mut state.observer.broken;
    if unflushed {
        broken.note(Invariant::WatermarkFlushed);
    }
    if lost {
        broken.note(Invariant::ReadsSeeWrites);
    }
    if twice {
        broken.note(Invariant::AppliedOnce);
    }
    if behind {
        broken.note(Invariant::LeaderComplete);
    }
    for entry in log.from(known).iter() {
        state.observer.committed.push(entry);
        state.observer.committed_in.push(leader_term);
    }
}

/// Whether W of the leader's voters have fsynced `log`. A storage that is gone had.
fn flushed_on_quorum(state: &State, node: usize, log: Log) -> bool {
    let Some(leader) = &state.replicas[node].leader else { return false };
    let flushed = leader.voters.iter().filter(|uuid| match state.replica_of(*uuid) {
        Some(replica) => replica.holds(log) || replica.repair_to > 0,
        None => true,
    });
    flushed.count() as u32 >= leader.voters.commit_quorum()
}

/// A read answered from the log below `end`, with `need` committed when it came.
pub(super) fn read(state: &mut State, node: usize, need: Offset) {
    let replica = &state.replicas[node];
    let seen = replica.log.below(replica.high_watermark);
    let mut writes = state.observer.committed.below(need).iter().filter(|e| e.is_write());
    if writes.any(|write| seen.iter().all(|entry| entry != write)) {
        state.observer.broken.note(Invariant::ReadsSeeWrites);
    }
}

/// `node` begins to lead `term`.
pub(super) fn leads(state: &mut State, node: usize, term: Term) {
    let uuid = state.replicas[node].uuid;
    state.observer.led(uuid, term);
    let observer = &mut state.observer;
    let earlier = observer.committed_in.iter().rposition(|of| *of < term).map_or(0, |at| at + 1);
    let log = state.replicas[node].log;
    if !log.starts_with(observer.committed.below(earlier as Offset)) {
        observer.broken.note(Invariant::LeaderComplete);
    }
}
