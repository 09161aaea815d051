//! The nodes of a cluster, as metadata know them.

use ironring_core::{Incarnation, NodeId, StorageUuid, WallTime};
use serde::{Deserialize, Serialize};

use super::command::Rejected;

/// Where a node is reached, each as `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Addresses {
    /// By clients.
    pub client: String,
    /// By other nodes.
    pub node: String,
    /// By operators.
    pub http: String,
    /// By clients that know which of its shards they want, in order of shard; empty: as any other.
    #[serde(default)]
    pub shards: Vec<String>,
}

/// What tells a data directory from a copy of it: random marks that it draws, one after the other.
///
/// A mark is drawn once the one before is known to be in the metadata, and is kept over starts until
/// then. So the one that goes on is the directory that knows the mark in the metadata: as its own, or as
/// the one before. A copy, or what was restored from a backup, knows it no more as soon as the other has
/// drawn. 0 is no mark: the code that told of it knew none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lineage {
    /// The newest.
    pub mark: u64,
    /// The one before, which was in the metadata.
    pub previous: u64,
}

/// What a node says about itself when it joins or starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Its name, unique in the cluster.
    pub name: String,
    /// Its storage.
    pub storage: StorageUuid,
    /// The run of its process.
    pub incarnation: Incarnation,
    /// Where it is reached.
    pub addresses: Addresses,
    /// What fails together with it; empty: nothing else does.
    pub rack: String,
    /// Its site; empty: the one of all nodes that name none.
    pub region: String,
    /// How much it should hold, in hundredths of a usual node; 0: no data.
    pub weight: u16,
    /// How many shards it runs.
    pub shards: u16,
    /// The newest format of metadata commands it understands.
    pub format: u32,
    /// What tells its directory from a copy.
    #[serde(default)]
    pub lineage: Lineage,
    /// It holds a copy of every partition that neither votes nor leads, and has no vote in the metadata
    /// group. Since format 2.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub observer: bool,
    /// What is wrong with it at present. Since format 4.
    #[serde(default, skip_serializing_if = "Condition::is_sound")]
    pub condition: Condition,
}

/// What a node says is wrong with itself while it runs. It says so again when it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Condition {
    /// A shard of it refuses writes, or will with the next segment, because its disk is full or its
    /// limit is reached.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub short_of_space: bool,
    /// Partitions it leads whose replicas differ without a majority that agrees.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub compare_undecided: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Condition {
    /// The oldest format of metadata commands that has conditions.
    pub const FORMAT: u32 = 4;

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        *self == Condition::default()
    }
}

impl Facts {
    /// Whether `known`, which the metadata have or had once, is of a later run or of another process
    /// with the same run: then this one must end, whatever else there may be.
    #[must_use]
    pub fn is_superseded_by(&self, known: &Facts) -> bool {
        self.incarnation < known.incarnation
            || (self.incarnation == known.incarnation && self.is_unlike(known))
    }

    /// Whether a member that said `known` last may go on with this. `known` has to be the newest there
    /// is.
    #[must_use]
    pub fn continues(&self, known: &Facts) -> bool {
        let drawn_behind = self.lineage.previous == known.lineage.mark;
        !self.is_superseded_by(known) && (drawn_behind || !self.is_unlike(known))
    }

    fn is_unlike(&self, known: &Facts) -> bool {
        let (mine, theirs) = (self.lineage.mark, known.lineage.mark);
        mine != 0 && theirs != 0 && mine != theirs
    }
}

/// What may be done with a node, by an operator's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberState {
    /// It takes replicas and leads.
    Active,
    /// It serves what it has and gives it away.
    Draining,
    /// It leaves when it holds nothing any more.
    Leaving,
    /// It was given up: what it holds is gone.
    Lost,
}

impl MemberState {
    /// Its name in tables and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            MemberState::Active => "active",
            MemberState::Draining => "draining",
            MemberState::Leaving => "leaving",
            MemberState::Lost => "lost",
        }
    }
}

/// Whether a node votes in the metadata group, by an operator's decision.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum VoteWish {
    /// The cluster decides: it votes when that makes the number of voters odd.
    #[default]
    Auto,
    /// It votes, as long as it has caught up.
    Voter,
    /// It takes every change and has no vote.
    Learner,
}

impl VoteWish {
    /// Its name in tables and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            VoteWish::Auto => "auto",
            VoteWish::Voter => "voter",
            VoteWish::Learner => "learner",
        }
    }

    /// Whether nobody decided.
    #[must_use]
    pub fn is_auto(&self) -> bool {
        *self == VoteWish::Auto
    }
}

/// Whether a node is heard, in the controller's judgement. For people and placement; who leads and
/// who votes does not follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It is heard.
    Alive,
    /// It has been silent for a moment.
    Suspect,
    /// It has been silent for the session timeout.
    Dead,
}

impl Status {
    /// Its name in tables and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Status::Alive => "alive",
            Status::Suspect => "suspect",
            Status::Dead => "dead",
        }
    }
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its number, for ever.
    pub id: NodeId,
    /// What it said of itself last.
    pub facts: Facts,
    /// What may be done with it.
    pub state: MemberState,
    /// Whether it is heard.
    pub status: Status,
    /// When the status last changed, or the node joined.
    pub since: WallTime,
    /// When it joined.
    pub joined: WallTime,
    /// Whether it votes in the metadata group. Since format 2.
    #[serde(default, skip_serializing_if = "VoteWish::is_auto")]
    pub vote: VoteWish,
}

impl Member {
    /// Whether a process that says `facts` of itself may go on as this node, of which this is the
    /// newest there is.
    ///
    /// # Errors
    /// [`Rejected::OldRun`], [`Rejected::OtherCopy`].
    pub fn admits(&self, facts: &Facts) -> Result<(), Rejected> {
        let (node, run, known) = (self.id, facts.incarnation, self.facts.incarnation);
        match facts.continues(&self.facts) {
            true => Ok(()),
            false if run < known => Err(Rejected::OldRun { node, run, known }),
            false => Err(Rejected::OtherCopy { node }),
        }
    }
}
