//! The cluster's metadata as pure state: what the Raft group replicates.
//!
//! [`Metadata::apply`] depends on nothing but the state and the command, so every node that applied
//! the same log has the same metadata. It is the authority on who is a member, who holds, votes for
//! and leads each partition; the ring and the controller only propose.

pub mod command;
pub mod member;
pub mod partition;
pub mod token;
pub mod topic;

use std::collections::{BTreeMap, BTreeSet};

use ironring_core::{NodeId, PartitionId, StorageUuid, Term, WallTime};
use serde::{Deserialize, Serialize};

pub use command::{COMMAND_FORMAT, Command, Outcome, Rejected, ReplicaChange, Unreadable};
pub use member::{Addresses, Condition, Facts, Lineage, Member, MemberState, Status, VoteWish};
pub use partition::{LeaderId, PartitionRecord, REPLICAS_MAX, Refused, Replica, ReplicaId, Wish};
pub use token::{JoinToken, TOKEN_VALID_MS, TOKENS_MAX, TokenRefused};
pub use topic::{Catalogue, Topic};

use crate::placement::{MAX_NODES, PaceMode, Weight};

/// Most replicas a keyspace may ask for.
pub const RF_MAX: u8 = 7;
/// Partitions a cluster may have.
pub const PARTITIONS_MAX: u32 = 65_536;
/// Removed storages remembered, so that one of them is told why it is not let in.
const REMOVED_MAX: usize = 1024;

/// A replica on its way from one node to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The replica that comes.
    pub to: ReplicaId,
    /// The replica that leaves once the other votes.
    pub from: Option<ReplicaId>,
}

/// Who the cluster is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// What tells it from another of that name.
    pub uuid: StorageUuid,
    /// When it was founded.
    pub founded: WallTime,
}

/// The metadata of one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    identity: Option<Identity>,
    /// Grows with every command that changes something.
    epoch: u64,
    rf: u8,
    min_voters: u8,
    balancing: bool,
    /// None: as each node is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pace: Option<PaceMode>,
    members: BTreeMap<NodeId, Member>,
    last_node: NodeId,
    removed: BTreeSet<StorageUuid>,
    partitions: Vec<PartitionRecord>,
    moves: BTreeMap<PartitionId, Move>,
    tokens: BTreeMap<String, JoinToken>,
    #[serde(default)]
    catalogue: Catalogue,
}

impl Metadata {
    /// Who the cluster is; nothing before it is founded.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Grows with every command that changes something.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many replicas each partition should have.
    #[must_use]
    pub fn rf(&self) -> u8 {
        self.rf
    }

    /// Voters each partition should have: as many as replicas wanted, or one for each node that is to
    /// hold data while there are fewer.
    #[must_use]
    pub fn voters_wanted(&self) -> usize {
        let holds = |member: &&Member| member.facts.weight > 0 && !member.facts.observer;
        let hold = self.members().filter(holds).count();
        usize::from(self.rf).min(hold)
    }

    /// How many voters a partition needs to take writes.
    #[must_use]
    pub fn min_voters(&self) -> u8 {
        self.min_voters
    }

    /// Whether replicas are moved for balance.
    #[must_use]
    pub fn balancing(&self) -> bool {
        self.balancing
    }

    /// How fast replicas are moved, when an operator has said; else it is as each node is configured.
    #[must_use]
    pub fn pace(&self) -> Option<PaceMode> {
        self.pace
    }

    /// All nodes, in order of number.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// Whether a node said that it is short of space.
    #[must_use]
    pub fn is_short_of_space(&self, node: NodeId) -> bool {
        self.member(node).is_some_and(|m| m.facts.condition.short_of_space)
    }

    /// Whether every member's program knows a format of commands. Those that were given up read nothing
    /// more.
    #[must_use]
    pub fn all_know(&self, format: u32) -> bool {
        let mut stay = self.members().filter(|m| m.state != MemberState::Lost);
        stay.all(|m| m.facts.format >= format)
    }

    /// One node.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.get(&node)
    }

    /// The node on a storage.
    #[must_use]
    pub fn member_on(&self, storage: StorageUuid) -> Option<&Member> {
        self.members.values().find(|m| m.facts.storage == storage)
    }

    /// Whether a storage's node was removed.
    #[must_use]
    pub fn was_removed(&self, storage: StorageUuid) -> bool {
        self.removed.contains(&storage)
    }

    /// Every partition's record, in order.
    #[must_use]
    pub fn partitions(&self) -> &[PartitionRecord] {
        &self.partitions
    }

    /// One partition's record.
    #[must_use]
    pub fn partition(&self, id: PartitionId) -> Option<&PartitionRecord> {
        self.partitions.get(id.0 as usize)
    }

    /// Replicas on their way.
    #[must_use]
    pub fn moves(&self) -> &BTreeMap<PartitionId, Move> {
        &self.moves
    }

    /// Join tokens, by id.
    #[must_use]
    pub fn tokens(&self) -> &BTreeMap<String, JoinToken> {
        &self.tokens
    }

    /// Topics and session numbers.
    #[must_use]
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// The whole state, for a snapshot.
    ///
    /// # Panics
    /// Never: the state is representable.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let snapshot = Snapshot { format: self.format(), metadata: self };
        serde_json::to_vec(&snapshot).expect("maps have keys that are written as strings")
    }

    /// The format of a snapshot: the oldest that has what is in it. Who does not know that must not take it
    /// for something else.
    #[must_use]
    pub fn format(&self) -> u32 {
        let needs_2 = |m: &Member| !m.vote.is_auto() || m.facts.observer;
        let is_sound = |m: &Member| m.facts.condition.is_sound();
        match self.members.values().any(needs_2) {
            _ if !self.members.values().all(is_sound) => Condition::FORMAT,
            _ if self.pace.is_some() => 3,
            true => 2,
            false => 1,
        }
    }

    /// The state from a snapshot.
    ///
    /// # Errors
    /// When it is of a newer format, or damaged.
    pub fn decode(bytes: &[u8]) -> Result<Metadata, Unreadable> {
        let FormatOnly { format } = serde_json::from_slice(bytes)?;
        if format > COMMAND_FORMAT {
            return Err(Unreadable::Newer(format));
        }
        let snapshot: Snapshot<Metadata> = serde_json::from_slice(bytes)?;
        Ok(snapshot.metadata)
    }

    /// Applies a committed command.
    pub fn apply(&mut self, command: &Command) -> Outcome {
        if self.identity.is_none() && !matches!(command, Command::Found { .. }) {
            return Outcome::Rejected(Rejected::NotFounded);
        }
        let before = self.epoch;
        let applied = self.dispatch(command);
        match applied {
            Ok(Changed::Partitions { refused, changed }) => {
                self.epoch = before + u64::from(changed);
                Outcome::Done { epoch: self.epoch, refused }
            }
            Ok(Changed::Node(node)) => {
                self.epoch = before + 1;
                Outcome::Joined { node, epoch: self.epoch }
            }
            Ok(Changed::Topic(topic)) => {
                self.epoch = before + 1;
                Outcome::Topic { topic, epoch: self.epoch }
            }
            Ok(Changed::Sessions(first)) => {
                self.epoch = before + 1;
                Outcome::Sessions { first, epoch: self.epoch }
            }
            Ok(Changed::Settings) => {
                self.epoch = before + 1;
                Outcome::Done { epoch: self.epoch, refused: Vec::new() }
            }
            Err(rejected) => Outcome::Rejected(rejected),
        }
    }

    fn dispatch(&mut self, command: &Command) -> Result<Changed, Rejected> {
        match command {
            Command::Found { name, uuid, partitions, rf, node, at } => {
                self.found(name, *uuid, *partitions, *rf, node, *at)
            }
            Command::Join { node, token, at } => self.join(node, token.as_deref(), *at),
            Command::Replace { node, token, at } => self.replace(node, token, *at),
            Command::SetVote { node, vote } => {
                self.member_mut(*node)?.vote = *vote;
                Ok(Changed::Settings)
            }
            Command::SetMember { node, state } => {
                self.member_mut(*node)?.state = *state;
                Ok(Changed::Settings)
            }
            Command::Remove { node } => self.remove(*node),
            Command::Status { nodes, at } => {
                for (node, status) in nodes {
                    if let Some(member) = self.members.get_mut(node)
                        && member.status != *status
                    {
                        member.status = *status;
                        member.since = *at;
                    }
                }
                Ok(Changed::Settings)
            }
            Command::SetKeyspace { rf, min_voters } => {
                if *rf == 0 || *rf > RF_MAX || *min_voters > *rf || *min_voters == 0 {
                    let why = format!(
                        "{rf} replicas of which {min_voters} must vote: use 1 to {RF_MAX}, and not \
                         more voters than replicas"
                    );
                    return Err(Rejected::Invalid(why));
                }
                (self.rf, self.min_voters) = (*rf, *min_voters);
                Ok(Changed::Settings)
            }
            Command::AddToken(token) => {
                self.forget_old_tokens(token.created);
                self.tokens.insert(token.id.clone(), token.clone());
                Ok(Changed::Settings)
            }
            Command::RevokeToken { id } => self
                .tokens
                .remove(id)
                .map(|_| Changed::Settings)
                .ok_or_else(|| Rejected::Invalid(format!("there is no join token `{id}`"))),
            Command::SetBalancing(on) => {
                self.balancing = *on;
                Ok(Changed::Settings)
            }
            Command::SetPace(pace) => {
                self.pace = *pace;
                Ok(Changed::Settings)
            }
            Command::CreateTopic { name, partitions, age_ms, bytes, at } => {
                let kept = (*age_ms, *bytes);
                self.catalogue.create(name, *partitions, kept, *at).map(Changed::Topic)
            }
            Command::DropTopic { id } => self.catalogue.drop_topic(*id).map(Changed::Topic),
            Command::AlterTopic { id, age_ms, bytes } => {
                self.catalogue.alter(*id, (*age_ms, *bytes)).map(Changed::Topic)
            }
            Command::GrantSessions { count } => Ok(Changed::Sessions(self.catalogue.grant(*count))),
            _ => self.change_partitions(command),
        }
    }

    fn found(
        &mut self,
        name: &str,
        uuid: StorageUuid,
        partitions: u32,
        rf: u8,
        node: &Facts,
        at: WallTime,
    ) -> Result<Changed, Rejected> {
        if self.identity.is_some() {
            return Err(Rejected::Founded);
        }
        if !partitions.is_power_of_two() || partitions > PARTITIONS_MAX || rf == 0 || rf > RF_MAX {
            let why = format!(
                "{partitions} partitions with {rf} replicas: use a power of two up to \
                 {PARTITIONS_MAX}, and 1 to {RF_MAX} replicas"
            );
            return Err(Rejected::Invalid(why));
        }
        if node.observer {
            let why = "an observer joins a cluster, it does not found one".to_owned();
            return Err(Rejected::Invalid(why));
        }
        self.identity = Some(Identity { name: name.to_owned(), uuid, founded: at });
        self.rf = rf;
        self.min_voters = 1;
        self.balancing = true;
        let id = self.add_member(node, at)?;
        let replica = Replica {
            node: id,
            id: ReplicaId { storage: node.storage, life: 0 },
            wish: Wish::Voter,
            renewal: 0,
        };
        let record = PartitionRecord {
            replicas: vec![replica],
            voters: vec![replica.id],
            ..PartitionRecord::default()
        };
        self.partitions = vec![record; partitions as usize];
        Ok(Changed::Node(id))
    }

    fn join(
        &mut self,
        node: &Facts,
        token: Option<&str>,
        at: WallTime,
    ) -> Result<Changed, Rejected> {
        check_facts(node)?;
        if self.removed.contains(&node.storage) {
            return Err(Rejected::Removed(node.storage));
        }
        let named = self.members.values().find(|m| m.facts.name == node.name);
        if let Some(other) = named.filter(|m| m.facts.storage != node.storage) {
            return Err(Rejected::NameTaken {
                name: node.name.clone(),
                id: other.id,
                storage: other.facts.storage,
            });
        }
        if let Some(known) = self.members.values_mut().find(|m| m.facts.storage == node.storage) {
            known.admits(node)?;
            known.facts = node.clone();
            return Ok(Changed::Node(known.id));
        }
        let token = token.ok_or(Rejected::NeedsToken)?;
        self.admit(node, token, at)
    }

    /// A node takes the place of the dead one that has its name. It is another node: a number is one
    /// storage's for ever, in the metadata group as everywhere.
    fn replace(&mut self, node: &Facts, token: &str, at: WallTime) -> Result<Changed, Rejected> {
        let other = |m: &&Member| m.facts.name == node.name && m.facts.storage != node.storage;
        let Some(old) = self.members.values().find(other) else {
            return self.join(node, Some(token), at);
        };
        let (id, status, kept) = (old.id, old.status, old.clone());
        if status != Status::Dead {
            return Err(Rejected::NotDead { name: node.name.clone(), id, status });
        }
        let old = self.member_mut(id)?;
        // No node can have been given such a name.
        old.facts.name = format!("{}~{id}", kept.facts.name);
        old.state = MemberState::Lost;
        self.join(node, Some(token), at).inspect_err(|_| {
            self.members.insert(id, kept);
        })
    }

    fn admit(&mut self, node: &Facts, token: &str, at: WallTime) -> Result<Changed, Rejected> {
        let shown = self.tokens.get(token).ok_or(Rejected::Token(TokenRefused::Unknown))?;
        shown.check(at).map_err(Rejected::Token)?;
        let token = shown.id.clone();
        let id = self.add_member(node, at)?;
        if let Some(shown) = self.tokens.get_mut(&token) {
            shown.used_by = Some(id);
        }
        Ok(Changed::Node(id))
    }

    fn add_member(&mut self, facts: &Facts, at: WallTime) -> Result<NodeId, Rejected> {
        check_facts(facts)?;
        if self.members.len() >= MAX_NODES {
            return Err(Rejected::TooMany(self.members.len()));
        }
        let id = NodeId(self.last_node.0 + 1);
        self.last_node = id;
        let member = Member {
            id,
            facts: facts.clone(),
            state: MemberState::Active,
            status: Status::Alive,
            since: at,
            joined: at,
            vote: VoteWish::Auto,
        };
        self.members.insert(id, member);
        Ok(id)
    }

    fn member_mut(&mut self, node: NodeId) -> Result<&mut Member, Rejected> {
        self.members.get_mut(&node).ok_or(Rejected::NoNode(node))
    }

    fn remove(&mut self, node: NodeId) -> Result<Changed, Rejected> {
        let storage = self.member_mut(node)?.facts.storage;
        if self.partitions.iter().any(|p| p.replicas.iter().any(|r| r.node == node)) {
            return Err(Rejected::HoldsReplicas(node));
        }
        self.members.remove(&node);
        if self.removed.len() >= REMOVED_MAX {
            self.removed.pop_first();
        }
        self.removed.insert(storage);
        Ok(Changed::Settings)
    }

    fn forget_old_tokens(&mut self, now: WallTime) {
        self.tokens.retain(|_, t| t.expires > now);
        while self.tokens.len() >= TOKENS_MAX {
            let oldest = self.tokens.values().min_by_key(|t| t.created).map(|t| t.id.clone());
            let Some(oldest) = oldest else { break };
            self.tokens.remove(&oldest);
        }
    }

    fn change_partitions(&mut self, command: &Command) -> Result<Changed, Rejected> {
        let mut refused = Vec::new();
        let mut changed = false;
        let mut note = |id: PartitionId, done: Result<(), Refused>| match done {
            Ok(()) => changed = true,
            Err(why) => refused.push((id, why)),
        };
        match command {
            Command::Elect { partitions } => {
                for (id, seen) in partitions {
                    note(*id, self.with(*id, |p| p.elect(*seen)));
                }
            }
            Command::Lead { partitions } => {
                for (id, term, leader) in partitions {
                    note(*id, self.with(*id, |p| p.lead(*term, *leader)));
                }
            }
            Command::LeadUnclean { partition, term, leader } => {
                note(*partition, self.with(*partition, |p| p.lead_unclean(*term, *leader)));
            }
            Command::LeadWithLoss { partition, term, leader } => {
                note(*partition, self.lead_with_loss(*partition, *term, *leader));
            }
            Command::Voters { partition, term, from, base, voters } => {
                let id = *partition;
                let before = self.partition(id).map(|p| p.version);
                let done = self.with(id, |p| p.change_voters(*term, *from, *base, voters));
                // A refusal may have raised the version, and everybody must hear of that.
                changed |= self.partition(id).map(|p| p.version) != before;
                if let Err(why) = done {
                    refused.push((id, why));
                }
            }
            Command::Transfer { partition, term, from, to } => {
                note(*partition, self.with(*partition, |p| p.transfer(*term, *from, *to)));
            }
            Command::Replicas { changes } => {
                for (id, change) in changes {
                    note(*id, self.change_replicas(*id, change));
                }
            }
            _ => return Err(Rejected::Invalid("not a command about partitions".to_owned())),
        }
        Ok(Changed::Partitions { refused, changed })
    }

    fn with(
        &mut self,
        id: PartitionId,
        change: impl FnOnce(&mut PartitionRecord) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        let record = self.partitions.get_mut(id.0 as usize).ok_or(Refused::Replica)?;
        change(record)
    }

    fn change_replicas(&mut self, id: PartitionId, change: &ReplicaChange) -> Result<(), Refused> {
        match *change {
            ReplicaChange::Add { node, wish, replaces } => {
                if self.moves.contains_key(&id) {
                    return Err(Refused::Exists);
                }
                let storage = self.members.get(&node).ok_or(Refused::Replica)?.facts.storage;
                let record = self.partitions.get_mut(id.0 as usize).ok_or(Refused::Replica)?;
                if replaces.is_some_and(|r| record.replica(r).is_none()) {
                    return Err(Refused::Replica);
                }
                let to = record.add_replica(node, storage, wish)?;
                if wish == Wish::Voter {
                    self.moves.insert(id, Move { to, from: replaces });
                }
                Ok(())
            }
            ReplicaChange::Wish { replica, wish } => {
                self.with(id, |p| p.set_wish(replica, wish))?;
                self.end_move(id);
                Ok(())
            }
            ReplicaChange::Drop { replica } => {
                self.with(id, |p| p.drop_replica(replica))?;
                self.end_move(id);
                Ok(())
            }
            ReplicaChange::Cancel => {
                let moved = self.moves.remove(&id).ok_or(Refused::Replica)?;
                self.with(id, |p| p.set_wish(moved.to, Wish::Leaving))
            }
            ReplicaChange::Renew { replica, renewal } => self.renew(id, replica, renewal),
        }
    }

    fn renew(&mut self, id: PartitionId, replica: ReplicaId, renewal: u64) -> Result<(), Refused> {
        self.with(id, |p| p.renew_replica(replica, renewal))?;
        self.follow_lives(id, &[replica]);
        Ok(())
    }

    fn lead_with_loss(
        &mut self,
        id: PartitionId,
        term: Term,
        leader: LeaderId,
    ) -> Result<(), Refused> {
        let replicas = self.partition(id).map_or(&[][..], |p| &p.replicas);
        let others: Vec<ReplicaId> =
            replicas.iter().map(|r| r.id).filter(|id| *id != leader.replica).collect();
        self.with(id, |p| p.lead_with_loss(term, leader))?;
        self.follow_lives(id, &others);
        Ok(())
    }

    /// A move goes on with who its replicas are now. `old`: those that have begun another life.
    fn follow_lives(&mut self, id: PartitionId, old: &[ReplicaId]) {
        let Some(record) = self.partitions.get(id.0 as usize) else { return };
        let Some(moved) = self.moves.get_mut(&id) else { return };
        let now = |known: ReplicaId| match record.replica_on(known.storage) {
            Some(replica) if old.contains(&known) => replica.id,
            _ => known,
        };
        *moved = Move { to: now(moved.to), from: moved.from.map(now) };
    }

    /// A move is over when the replica it began with votes and the other is gone, or when either
    /// cannot come to that any more.
    fn end_move(&mut self, id: PartitionId) {
        let Some(moved) = self.moves.get(&id) else { return };
        let Some(record) = self.partitions.get(id.0 as usize) else { return };
        let comes = record.replica(moved.to).is_some_and(|r| r.wish == Wish::Voter);
        let stays = moved.from.is_some_and(|from| record.replica(from).is_some());
        if !comes || (!stays && record.is_voter(moved.to)) {
            self.moves.remove(&id);
        }
    }
}

/// What a command came to.
enum Changed {
    Settings,
    Node(NodeId),
    Topic(Topic),
    Sessions(u64),
    Partitions { refused: Vec<(PartitionId, Refused)>, changed: bool },
}

fn check_facts(facts: &Facts) -> Result<(), Rejected> {
    let sound = |name: &str, max: usize| {
        name.len() <= max && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    if facts.name.is_empty() || !sound(&facts.name, 64) {
        let why = format!("node name `{}`: use 1 to 64 of a-z A-Z 0-9 . _ -", facts.name);
        return Err(Rejected::Invalid(why));
    }
    if !sound(&facts.rack, 64) || !sound(&facts.region, 64) {
        let why = format!(
            "rack `{}` and region `{}`: use up to 64 of a-z A-Z 0-9 . _ -",
            facts.rack, facts.region
        );
        return Err(Rejected::Invalid(why));
    }
    if let Err(error) = Weight::from_hundredths(facts.weight) {
        return Err(Rejected::Invalid(error.to_string()));
    }
    if facts.shards == 0 {
        return Err(Rejected::Invalid("a node has at least one shard".to_owned()));
    }
    Ok(())
}

#[derive(Serialize, Deserialize)]
struct Snapshot<T> {
    format: u32,
    metadata: T,
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

#[cfg(test)]
mod tests;
