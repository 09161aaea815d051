//! What the model's world consists of: replicas, messages on their way, the metadata group's
//! record, and what an observer of the whole remembers.

use super::log::Log;
use super::properties::Broken;

/// A storage uuid. The node it is on is `uuid % nodes`; a wiped disk adds `nodes`.
pub type Uuid = u8;
/// The index of a node.
pub type Node = u8;
/// A leadership generation; 0 is before the first.
pub type Term = u8;
/// An end or a position in the log.
pub type Offset = u8;
/// A set of storage uuids.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uuids(pub u16);

impl Uuids {
    /// The set of these.
    pub fn of(uuids: &[Uuid]) -> Self {
        uuids.iter().fold(Uuids::default(), |set, uuid| set.with(*uuid))
    }

    /// With `uuid` in it.
    pub fn with(self, uuid: Uuid) -> Self {
        Uuids(self.0 | 1 << uuid)
    }

    /// With `uuid` not in it.
    pub fn without(self, uuid: Uuid) -> Self {
        Uuids(self.0 & !(1 << uuid))
    }

    /// Whether `uuid` is in it.
    pub fn has(self, uuid: Uuid) -> bool {
        self.0 & (1 << uuid) != 0
    }

    /// How many there are.
    pub fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in both.
    pub fn and(self, other: Uuids) -> Self {
        Uuids(self.0 & other.0)
    }

    /// Each, in order.
    pub fn iter(self) -> impl Iterator<Item = Uuid> {
        (0..16).filter(move |uuid| self.has(*uuid))
    }

    /// W(V): how many of these voters a commit needs.
    pub fn commit_quorum(self) -> u32 {
        self.len() / 2 + 1
    }

    /// F(V): how many of these voters an election needs.
    pub fn fence_quorum(self) -> u32 {
        self.len() + 1 - self.commit_quorum()
    }
}

impl std::fmt::Debug for Uuids {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// A message on its way. Messages are never taken out of the network: each may arrive any number
/// of times, in any order, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Message {
    /// Entries, from a leader.
    Replicate {
        /// The leader's node.
        from: Node,
        /// The follower's node.
        to: Node,
        /// The leader's term.
        term: Term,
        /// Where `entries` begin.
        prev_offset: Offset,
        /// The term of the entry before them.
        prev_term: Term,
        /// All that the leader had from there on.
        entries: Log,
        /// The leader's.
        high_watermark: Offset,
    },
    /// What a follower holds.
    Ack {
        /// The follower.
        from: Uuid,
        /// The leader's node.
        to: Node,
        /// The term it is of.
        term: Term,
        /// Everything below it is held.
        end: Offset,
    },
    /// Instead of entries: what a log of them comes to, for a follower that lacks too many.
    Snapshot {
        /// The leader's node.
        from: Node,
        /// The follower's node.
        to: Node,
        /// The leader's term.
        term: Term,
        /// What it is the state of. The follower can read no entry out of it, only its end, the
        /// last one's term and the state.
        of: Log,
    },
    /// A voter's answer to Fence, where it may be late.
    Fenced {
        /// The term it promised.
        term: Term,
        /// The answer.
        answer: FenceAnswer,
        /// What was left of its grants when it answered.
        left: u8,
    },
    /// A leader's proposal of voters, to metadata.
    Propose {
        /// The leader.
        from: Uuid,
        /// Its term.
        term: Term,
        /// The version it is based on.
        base: u8,
        /// Whom it proposes.
        voters: Uuids,
    },
    /// A leader's handover, to metadata.
    Transfer {
        /// The leader.
        from: Uuid,
        /// The term that it gives up.
        term: Term,
        /// Who is to lead.
        target: Uuid,
    },
    /// A leader's probe.
    Probe {
        /// The leader's node.
        from: Node,
        /// The voter's node.
        to: Node,
        /// The leader's term.
        term: Term,
        /// Which round.
        round: u8,
    },
    /// A voter's grant.
    ProbeAck {
        /// The voter.
        from: Uuid,
        /// The leader's node.
        to: Node,
        /// The leader's term.
        term: Term,
        /// Which round.
        round: u8,
    },
}

/// Every message ever sent, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Network(Vec<Message>);

impl Network {
    /// Sends `message`; the same again is still the same.
    pub fn insert(&mut self, message: Message) {
        if let Err(at) = self.0.binary_search(&message) {
            self.0.insert(at, message);
        }
    }

    /// Each, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Message> {
        self.0.iter()
    }

    /// Keeps those that `wanted` wants.
    pub fn retain(&mut self, wanted: impl FnMut(&Message) -> bool) {
        self.0.retain(wanted);
    }
}

/// A round of probes a leader sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Round {
    /// Its number, unique in a run.
    pub round: u8,
    /// What is left of the lease it gives, by the leader's clock.
    pub left: u8,
    /// Who acked it.
    pub acked: Uuids,
}

/// A proposal whose outcome its leader does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Proposal {
    /// The version it is based on.
    pub base: u8,
    /// Whom it proposes.
    pub voters: Uuids,
}

/// A read that waits for its round of probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Read {
    /// How much was committed when it came.
    pub need: Offset,
    /// The first round that counts for it.
    pub first_round: u8,
}

/// What a leader knows; gone when it stops leading.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Leader {
    /// The term it leads.
    pub term: Term,
    /// Where its term-start entry is.
    pub term_start: Offset,
    /// The last metadata record it has seen.
    pub seen: u8,
    /// V, as that record has it.
    pub voters: Uuids,
    /// Its version.
    pub version: u8,
    /// The proposal that is open.
    pub proposal: Option<Proposal>,
    /// What each storage acked in this term, ascending by uuid.
    pub acked: Vec<(Uuid, Offset)>,
    /// Its rounds of probes.
    pub rounds: Vec<Round>,
    /// A read that waits.
    pub read: Option<Read>,
}

/// One node's copy of the partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Replica {
    /// Its storage.
    pub uuid: Uuid,
    /// Its promised term.
    pub promised: Term,
    /// What the disk has of it; behind only without [`super::Rule::PromiseDurable`].
    pub promised_on_disk: Term,
    /// The log as the process sees it.
    pub log: Log,
    /// The entries below it are compacted: there is a state of them, and nothing else.
    pub base: Offset,
    /// The end of what the process believes is fsynced.
    pub flushed_end: Offset,
    /// The end of what a power loss leaves for certain.
    pub durable_end: Offset,
    /// What the disk may still hold from `durable_end` on: a suffix cut since the last fsync.
    pub old_tail: Log,
    /// The end of what Replicates of `verified_term` matched.
    pub verified: Offset,
    /// The term that `verified` is of.
    pub verified_term: Term,
    /// Who led it.
    pub verified_from: Node,
    /// The end of what is known to be committed.
    pub high_watermark: Offset,
    /// No term up to this one may be led in this run.
    pub led_or_promised_at_start: Term,
    /// The last term led in this run.
    pub led: Term,
    /// What is left of the grants it gave, by its clock.
    pub grant_left: u8,
    /// A snapshot is being written in place of the log, and is not whole: a mark on the disk.
    pub installing: bool,
    /// The log is damaged until what a leader sent is fsynced to here.
    pub repair_to: Offset,
    /// It deleted its files.
    pub deleted: bool,
    /// Sequences that were truncated; kept only without [`super::Rule::SessionsRolledBack`].
    pub not_rolled_back: u16,
    /// What it leads.
    pub leader: Option<Leader>,
}

impl Replica {
    /// The end of the log.
    pub fn log_end(&self) -> Offset {
        self.log.end()
    }

    /// The term of the last entry below `end`; 0 when there is none.
    pub fn last_term(&self, end: Offset) -> Term {
        end.checked_sub(1).and_then(|at| self.log.get(at)).map_or(0, |entry| entry.term)
    }

    /// Whether its disk holds `entries` from the beginning, whatever happens.
    pub fn holds(&self, entries: Log) -> bool {
        self.log.below(self.durable_end).starts_with(entries)
    }
}

/// One committed state of the partition's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// The term.
    pub term: Term,
    /// Who leads it.
    pub leader: Option<Uuid>,
    /// While nobody does: who was the last to.
    pub last_leader: Option<Uuid>,
    /// Raised by every proposal, accepted or refused.
    pub version: u8,
    /// V.
    pub voters: Uuids,
    /// Replicas whose drop is committed.
    pub dropped: Uuids,
    /// The refused proposal this record answers.
    pub refused: bool,
}

/// One voter's answer to Fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FenceAnswer {
    /// The voter.
    pub uuid: Uuid,
    /// The term of its last entry.
    pub last_term: Term,
    /// The end of its log.
    pub log_end: Offset,
}

/// A controller's election of one term.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Election {
    /// The term.
    pub term: Term,
    /// The voters that count.
    pub voters: Uuids,
    /// Their answers.
    pub answers: Vec<FenceAnswer>,
    /// What is left to wait for leases, by the controller's clock.
    pub wait: u8,
    /// Units since the term was taken; kept only without [`super::Rule::WaitFromReceipt`].
    pub elapsed: u8,
}

/// How much of each bounded thing happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Used {
    /// Crashes.
    pub crashes: u8,
    /// Wiped disks.
    pub wipes: u8,
    /// Damaged logs.
    pub damages: u8,
    /// Proposals of voters.
    pub proposals: u8,
    /// Proposals refused for another reason.
    pub refusals: u8,
    /// Handovers.
    pub transfers: u8,
    /// Rounds of probes.
    pub rounds: u8,
    /// Reads that waited for a round.
    pub reads: u8,
    /// Steps of time.
    pub ticks: u8,
    /// Committed drops.
    pub drops: u8,
    /// Compactions.
    pub compactions: u8,
    /// Snapshots sent.
    pub snapshots: u8,
    /// Sessions that expired.
    pub expiries: u8,
}

/// What an observer of the whole remembers, to judge the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Observer {
    /// Everything that was ever committed.
    pub committed: Log,
    /// The term of the leader that committed each.
    pub committed_in: Vec<Term>,
    /// Who led each term.
    pub leaders: Vec<(Term, Uuid)>,
    /// The highest promise each storage ever made, ascending by uuid.
    pub promises: Vec<(Uuid, Term)>,
    /// Storages that lost what they held.
    pub forgot: Uuids,
    /// What was found broken on the way here.
    pub broken: Broken,
}

/// The whole world.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// By node.
    pub replicas: Vec<Replica>,
    /// Every message ever sent.
    pub network: Network,
    /// Every committed metadata record, the last one in force.
    pub records: Vec<Record>,
    /// Elections under way.
    pub elections: Vec<Election>,
    /// What the bounds count.
    pub used: Used,
    /// What the observer knows.
    pub observer: Observer,
}

impl State {
    /// The metadata in force.
    pub fn record(&self) -> &Record {
        self.records.last().expect("there is a record from the start")
    }

    /// The node of a storage.
    pub fn node_of(&self, uuid: Uuid) -> usize {
        usize::from(uuid) % self.replicas.len()
    }

    /// The replica on this storage, unless the storage is gone.
    pub fn replica_of(&self, uuid: Uuid) -> Option<&Replica> {
        Some(&self.replicas[self.node_of(uuid)]).filter(|replica| replica.uuid == uuid)
    }
}
