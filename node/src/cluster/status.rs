//! How the cluster is, as one node sees it: what `/v1/cluster/status` and `ironring cluster status`
//! say.

use std::collections::BTreeMap;

use ironring_core::{NodeId, StorageUuid};
use ironring_ring::metadata::{Member, Metadata, PartitionRecord, Status};
use serde::{Deserialize, Serialize};

use super::board::Board;
use super::judge::{observers_beyond, room_for_replicas};
use crate::raft::{GroupStatus, Role};

/// The cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Whether nothing needs anybody.
    pub healthy: bool,
    /// One sentence for each thing that does.
    pub reasons: Vec<String>,
    /// One sentence for each thing that is worth knowing and needs nobody at once.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The cluster's name; empty before this node has metadata.
    pub cluster: String,
    /// The cluster.
    pub uuid: StorageUuid,
    /// Version of the metadata this node has.
    pub epoch: u64,
    /// The node that says all this.
    pub node: NodeId,
    /// How the metadata group is here.
    pub metadata: GroupView,
    /// Partitions.
    pub partitions: PartitionsView,
    /// The members, by id.
    pub members: Vec<MemberView>,
}

/// The metadata group, as a member of it sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupView {
    /// What this node does in it.
    pub role: String,
    /// Its term.
    pub term: u64,
    /// Who leads it: the controller of the cluster.
    pub leader: Option<NodeId>,
    /// Last change this node has applied.
    pub applied: Option<u64>,
    /// Last change its newest snapshot has.
    pub snapshot: Option<u64>,
    /// Its voters.
    pub voters: Vec<NodeId>,
    /// Members without a vote.
    pub learners: Vec<NodeId>,
}

/// Partitions, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionsView {
    /// All.
    pub total: usize,
    /// Replicas each should have, when there are nodes enough.
    pub rf: u8,
    /// Voters a partition needs to take writes.
    #[serde(default)]
    pub min_voters: u8,
    /// Those with fewer, which take none.
    #[serde(default)]
    pub refusing_writes: usize,
    /// Those nobody leads.
    pub leaderless: usize,
    /// Those with fewer voters than replicas they should have, for as many nodes with a weight as there
    /// are.
    pub under_replicated: usize,
    /// Replicas on their way.
    pub moves: usize,
    /// Those whose replicas differ, and no majority of them agrees, as their leaders say.
    #[serde(default)]
    pub compare_undecided: u64,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberView {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Whether it is heard: `alive`, `suspect` or `dead`.
    pub status: String,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_unix_ms: u64,
    /// What an operator decided about it: `active`, `draining`, `leaving` or `lost`.
    pub state: String,
    /// Its part in the metadata group: `leader`, `voter`, `learner` or `none`.
    pub role: String,
    /// What an operator decided about its vote: `auto`, `voter` or `learner`.
    pub vote: String,
    /// Whether it refuses writes for want of space, or soon will: others lead in its place where they can.
    #[serde(default)]
    pub short_of_space: bool,
    /// Partitions it leads whose replicas differ without a majority that agrees.
    #[serde(default)]
    pub compare_undecided: u64,
    /// Partitions it leads.
    pub leads: usize,
    /// Replicas it holds.
    pub replicas: usize,
    /// Where it listens for clients.
    pub client_address: String,
    /// Where each of its shards listens for clients that know which one they want, in order of shard;
    /// empty: as any other.
    pub shard_addresses: Vec<String>,
    /// Where it listens for nodes.
    pub node_address: String,
    /// Where it serves HTTP.
    pub http_address: String,
    /// What fails together with it.
    pub rack: String,
    /// Its site.
    pub region: String,
    /// How much it should hold, 1 for as much as others.
    pub weight: f64,
    /// Its shards.
    pub shards: u16,
    /// Its data directory.
    pub storage: StorageUuid,
    /// Which run of its process.
    pub incarnation: u64,
    /// When it joined, in milliseconds since the Unix epoch.
    pub joined_unix_ms: u64,
}

impl Role {
    /// Its name in tables and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Role::Learner => "learner",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Leader => "leader",
            Role::LeaderWithoutQuorum => "leader-without-quorum",
            Role::Stopped => "stopped",
        }
    }
}

impl ClusterStatus {
    /// What the board says; `None` before the metadata group has started.
    #[must_use]
    pub fn of(board: &Board) -> Option<ClusterStatus> {
        Some(ClusterStatus::new(&board.metadata(), &board.group()?))
    }

    fn new(metadata: &Metadata, group: &GroupStatus) -> ClusterStatus {
        let members: Vec<MemberView> =
            metadata.members().map(|member| view(member, metadata, group)).collect();
        let partitions = partitions(metadata);
        let mut status = ClusterStatus {
            healthy: false,
            reasons: Vec::new(),
            warnings: warnings(metadata),
            cluster: metadata.identity().map_or_else(String::new, |i| i.name.clone()),
            uuid: metadata.identity().map_or_else(StorageUuid::default, |i| i.uuid),
            epoch: metadata.epoch(),
            node: NodeId(group.id),
            metadata: GroupView {
                role: group.role.name().to_owned(),
                term: group.term,
                leader: group.leader.map(NodeId),
                applied: group.applied.map(|at| at.index),
                snapshot: group.snapshot.map(|at| at.index),
                voters: group.voters.iter().copied().map(NodeId).collect(),
                learners: group.learners.iter().copied().map(NodeId).collect(),
            },
            partitions,
            members,
        };
        status.reasons = status.reasons_now(group);
        status.healthy = status.reasons.is_empty();
        status
    }

    fn reasons_now(&self, group: &GroupStatus) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.cluster.is_empty() {
            reasons.push("this node has no metadata yet".to_owned());
        }
        match group.role {
            Role::Stopped => reasons.push("the metadata group has stopped here".to_owned()),
            Role::LeaderWithoutQuorum => {
                reasons
                    .push("this node leads the metadata group and hears of no quorum".to_owned());
            }
            _ if group.leader.is_none() => reasons.push(match group.silent_leader {
                Some(silent) => format!(
                    "node {silent} led the metadata group and is not heard, and nobody leads it since"
                ),
                None => "nobody leads the metadata group, as far as this node knows".to_owned(),
            }),
            _ => {}
        }
        let partitions = &self.partitions;
        let refusing =
            format!("take no writes: they have fewer than {} voters", partitions.min_voters);
        for (count, what) in [
            (partitions.leaderless, "have no leader"),
            (partitions.under_replicated, "have fewer voters than they should"),
            (partitions.refusing_writes, refusing.as_str()),
            (
                partitions.compare_undecided as usize,
                "have replicas that differ, and no majority agrees",
            ),
        ] {
            if count > 0 {
                reasons.push(format!("{count} of {} partitions {what}", partitions.total));
            }
        }
        for member in self.members.iter().filter(|member| member.status != "alive") {
            reasons.push(format!("node {} ({}) is {}", member.name, member.id, member.status));
        }
        for member in self.members.iter().filter(|member| member.short_of_space) {
            reasons.push(format!("node {} ({}) is short of space", member.name, member.id));
        }
        reasons
    }
}

/// What an operator should know although nothing is wrong.
fn warnings(metadata: &Metadata) -> Vec<String> {
    let (rf, room) = (metadata.rf(), room_for_replicas(metadata));
    let mut warnings = Vec::new();
    if metadata.identity().is_some() && room < usize::from(rf) {
        warnings
            .push(format!("{rf} replicas of each partition are wanted and {room} nodes take them"));
    }
    warnings.extend(observers_beyond(metadata, rf));
    warnings
}

fn partitions(metadata: &Metadata) -> PartitionsView {
    let min_voters = metadata.min_voters();
    let refuses = |record: &&PartitionRecord| record.voters.len() < usize::from(min_voters);
    let wanted = metadata.voters_wanted();
    let records = metadata.partitions();
    // What a node said that is dead by now, others lead.
    let there = metadata.members().filter(|member| member.status != Status::Dead);
    let undecided = there.map(|member| member.facts.condition.compare_undecided);
    PartitionsView {
        total: records.len(),
        rf: metadata.rf(),
        min_voters,
        refusing_writes: records.iter().filter(refuses).count(),
        leaderless: records.iter().filter(|record| record.leader.is_none()).count(),
        under_replicated: records.iter().filter(|record| record.voters.len() < wanted).count(),
        moves: metadata.moves().len(),
        compare_undecided: undecided.sum(),
    }
}

fn view(member: &Member, metadata: &Metadata, group: &GroupStatus) -> MemberView {
    let id = member.id.0;
    let role = match () {
        () if group.leader == Some(id) => "leader",
        () if group.voters.contains(&id) => "voter",
        () if member.facts.observer => "observer",
        () if group.learners.contains(&id) => "learner",
        () => "none",
    };
    let mut held: BTreeMap<bool, usize> = BTreeMap::new();
    for record in metadata.partitions() {
        if let Some(replica) = record.replicas.iter().find(|replica| replica.node == member.id) {
            let leads = record.leader.is_some_and(|leader| leader.replica == replica.id);
            *held.entry(leads).or_default() += 1;
        }
    }
    let count = |leads| held.get(&leads).copied().unwrap_or(0);
    let facts = &member.facts;
    MemberView {
        id: member.id,
        name: facts.name.clone(),
        status: member.status.name().to_owned(),
        since_unix_ms: member.since.0,
        state: member.state.name().to_owned(),
        role: role.to_owned(),
        vote: member.vote.name().to_owned(),
        short_of_space: facts.condition.short_of_space,
        compare_undecided: facts.condition.compare_undecided,
        leads: count(true),
        replicas: count(true) + count(false),
        client_address: facts.addresses.client.clone(),
        shard_addresses: facts.addresses.shards.clone(),
        node_address: facts.addresses.node.clone(),
        http_address: facts.addresses.http.clone(),
        rack: facts.rack.clone(),
        region: facts.region.clone(),
        weight: f64::from(facts.weight) / 100.0,
        shards: facts.shards,
        storage: facts.storage,
        incarnation: facts.incarnation.0,
        joined_unix_ms: member.joined.0,
    }
}

#[cfg(test)]
mod tests {
    use ironring_core::WallTime;
    use ironring_ring::metadata::{Command, Condition, Facts};

    use super::*;
    use crate::cluster::tests::{facts, group_status};

    fn group(role: Role, leader: Option<u64>, silent_leader: Option<u64>) -> GroupStatus {
        GroupStatus { role, leader, silent_leader, ..group_status(&[1, 2, 3], &[]) }
    }

    #[test]
    fn a_node_that_hears_no_leader_is_not_healthy() {
        let mut metadata = Metadata::default();
        metadata.apply(&Command::Found {
            name: "c".to_owned(),
            uuid: StorageUuid(1),
            partitions: 1,
            rf: 1,
            node: facts("a", 1),
            at: WallTime(1),
        });
        let why = |group: GroupStatus| {
            let status = ClusterStatus::new(&metadata, &group);
            assert_eq!(status.healthy, status.reasons.is_empty());
            assert_eq!(status.metadata.leader.map(|node| node.0), group.leader);
            status.reasons.join("; ")
        };
        let leaderless = "1 of 1 partitions have no leader";
        assert_eq!(why(group(Role::Follower, Some(2), None)), leaderless);
        let silent = "node 2 led the metadata group and is not heard, and nobody leads it since";
        let said = why(group(Role::Follower, None, Some(2)));
        assert_eq!(said, format!("{silent}; {leaderless}"));
        assert!(
            why(group(Role::Candidate, None, None)).contains("nobody leads the metadata group")
        );
    }

    #[test]
    fn what_nodes_say_is_wrong_with_them_needs_somebody() {
        let mut metadata = crate::cluster::tests::cluster_of(2);
        let group = group(Role::Leader, Some(1), None);
        let says = |short_of_space, compare_undecided| {
            let condition = Condition { short_of_space, compare_undecided };
            let node = Facts { storage: StorageUuid(2), condition, ..facts("n2", 1) };
            Command::Join { node, token: None, at: WallTime(2) }
        };
        metadata.apply(&says(true, 3));
        let status = ClusterStatus::new(&metadata, &group);
        let member = &status.members[1];
        assert_eq!((member.short_of_space, member.compare_undecided), (true, 3));
        assert_eq!(status.partitions.compare_undecided, 3);
        for reason in [
            "node n2 (2) is short of space",
            "3 of 8 partitions have replicas that differ, and no majority agrees",
        ] {
            assert!(status.reasons.contains(&reason.to_owned()), "{:?}", status.reasons);
        }
        metadata.apply(&says(false, 0));
        let status = ClusterStatus::new(&metadata, &group);
        assert!(!status.members[1].short_of_space && status.partitions.compare_undecided == 0);
        assert!(!status.reasons.iter().any(|why| why.contains("space") || why.contains("differ")));
    }

    #[test]
    fn too_few_nodes_are_worth_a_word_and_too_few_voters_stop_writes() {
        let mut metadata = crate::cluster::tests::cluster_of(2);
        let group = group(Role::Leader, Some(1), None);
        let of = |metadata: &Metadata| ClusterStatus::new(metadata, &group);
        assert_eq!(of(&metadata).warnings, Vec::<String>::new());
        metadata.apply(&Command::SetKeyspace { rf: 3, min_voters: 2 });
        let status = of(&metadata);
        let wanted = "3 replicas of each partition are wanted and 2 nodes take them";
        assert_eq!(status.warnings, [wanted]);
        let partitions = status.partitions;
        assert_eq!((partitions.rf, partitions.min_voters, partitions.refusing_writes), (3, 2, 8));
        let refusing = "8 of 8 partitions take no writes: they have fewer than 2 voters";
        assert!(status.reasons.contains(&refusing.to_owned()), "{:?}", status.reasons);
    }

    #[test]
    fn observers_beyond_the_places_there_are_are_told() {
        let mut metadata = crate::cluster::tests::cluster_of(9);
        metadata.apply(&Command::SetKeyspace { rf: 3, min_voters: 1 });
        for n in 4..=9 {
            let mut facts = metadata.member(NodeId(n)).unwrap().facts.clone();
            facts.observer = true;
            metadata.apply(&Command::Join { node: facts, token: None, at: WallTime(9) });
        }
        let group = group(Role::Leader, Some(1), None);
        let beyond = "6 nodes observe, and beside 3 replicas a partition has places for 5 such \
                      copies: those beyond hold nothing of it";
        assert_eq!(ClusterStatus::new(&metadata, &group).warnings, [beyond]);
    }
}
