//! What metadata says about one partition, and the only ways in which it changes.
//!
//! The rules are those of the replication protocol's "Change of leader" and "Change of voters".
//! Every transition is conditional on what its author believed: a command that arrives late, twice
//! or from a leader of the past changes nothing, or raises `version` so that it never can.
//!
//! - `term` only grows, by one per election or transfer; there is one leader per term at most.
//! - `version` grows with every decided change of voters or replicas, and never goes back. An
//!   election leaves it alone: it freezes the voters by taking the leader away.
//! - Voters are replicas; the leader is a voter (an unclean election makes it one).

use ironring_core::{Incarnation, NodeId, StorageUuid, Term};
use serde::{Deserialize, Serialize};

/// Replicas a partition has at most, voters and learners together.
pub const REPLICAS_MAX: usize = 9;

/// A replica for ever: the storage it is on, and which of its lives there. A storage that was
/// replaced, and a replica that was dropped and added again, is another replica: it counts for
/// nothing it did before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ReplicaId {
    /// The storage.
    pub storage: StorageUuid,
    /// The version of the partition's record that added it.
    pub life: u64,
}

impl std::fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}.{}", self.storage.0, self.life)
    }
}

/// One run of one replica: who may hold a lease. A process that restarted is somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaderId {
    /// The replica.
    pub replica: ReplicaId,
    /// The run of its process.
    pub incarnation: Incarnation,
}

/// What a replica is meant to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Wish {
    /// A voter, as soon as it has caught up.
    Voter,
    /// A learner for good.
    Observer,
    /// Gone: it leaves the voters first, then it is dropped.
    Leaving,
}

/// A copy of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Replica {
    /// The node it is on.
    pub node: NodeId,
    /// Which it is.
    pub id: ReplicaId,
    /// What it is meant to become.
    pub wish: Wish,
    /// The request that began this life because the one before had lost its log, by a number that
    /// its storage uses once; 0: it was added.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub renewal: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// One partition's entry in metadata.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PartitionRecord {
    /// All copies, in the order placement prefers them as leaders.
    pub replicas: Vec<Replica>,
    /// Those that count, in order.
    pub voters: Vec<ReplicaId>,
    /// The present term; 0 before the first election.
    pub term: Term,
    /// Who leads it.
    pub leader: Option<LeaderId>,
    /// Who led last, or leads: kept while nobody does.
    pub last_leader: Option<ReplicaId>,
    /// See the module's documentation.
    pub version: u64,
}

/// Why a change was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Refused {
    /// Another election or transfer came first.
    #[error("the term is {0} by now")]
    Term(Term),
    /// The sender does not lead.
    #[error("the sender does not lead this term")]
    Leader,
    /// The term has a leader already.
    #[error("the term has a leader")]
    HasLeader,
    /// Another change of voters or replicas came first.
    #[error("the version is {0} by now")]
    Version(u64),
    /// It names a replica that does not exist (any more) or may not vote.
    #[error("it names a replica that may not vote")]
    Replica,
    /// It leaves out the leader, or everybody.
    #[error("the leader must be among the voters")]
    WithoutLeader,
    /// A replica with that storage or on that node is there already, or there are too many.
    #[error("there is such a replica, or there are too many")]
    Exists,
    /// A voter or leader is not dropped.
    #[error("a voter cannot be dropped")]
    Votes,
}

impl PartitionRecord {
    /// One of its replicas.
    #[must_use]
    pub fn replica(&self, id: ReplicaId) -> Option<&Replica> {
        self.replicas.iter().find(|r| r.id == id)
    }

    /// The replica on a storage.
    #[must_use]
    pub fn replica_on(&self, storage: StorageUuid) -> Option<&Replica> {
        self.replicas.iter().find(|r| r.id.storage == storage)
    }

    /// Whether a replica counts.
    #[must_use]
    pub fn is_voter(&self, id: ReplicaId) -> bool {
        self.voters.contains(&id)
    }

    /// Begins an election after term `seen`: the voters and the version it returns are those that
    /// count until the new leader proposes others.
    ///
    /// # Errors
    /// [`Refused::Term`]: another one began first.
    pub fn elect(&mut self, seen: Term) -> Result<(), Refused> {
        if self.term != seen {
            return Err(Refused::Term(self.term));
        }
        self.term = Term(self.term.0 + 1);
        self.leader = None;
        Ok(())
    }

    /// Ends an election.
    ///
    /// # Errors
    /// When the term is over or has a leader, or `leader` is not a voter.
    pub fn lead(&mut self, term: Term, leader: LeaderId) -> Result<(), Refused> {
        if self.term != term {
            return Err(Refused::Term(self.term));
        }
        if self.leader.is_some() {
            return Err(Refused::HasLeader);
        }
        if !self.is_voter(leader.replica) {
            return Err(Refused::Replica);
        }
        self.set_leader(leader);
        Ok(())
    }

    /// Ends an election with a replica that becomes the only voter: the winner of one that found a fence
    /// quorum where no commit quorum is left. It holds all that is committed, so the others may count for
    /// what they are known to have in common with it.
    ///
    /// # Errors
    /// When the term is over or has a leader, or there is no such replica.
    pub fn lead_unclean(&mut self, term: Term, leader: LeaderId) -> Result<(), Refused> {
        if self.term != term {
            return Err(Refused::Term(self.term));
        }
        if self.leader.is_some() {
            return Err(Refused::HasLeader);
        }
        if self.replica(leader.replica).is_none() {
            return Err(Refused::Replica);
        }
        self.voters = vec![leader.replica];
        self.version += 1;
        self.set_leader(leader);
        Ok(())
    }

    /// Ends an election, as an operator orders, with a replica that may lack what is committed. It becomes
    /// the only voter, and one that was to follow for good is to vote. Every other replica begins a new
    /// life: its log may have, as committed, what this one's has not, or has otherwise, and must count for
    /// nothing before it is filled from here.
    ///
    /// # Errors
    /// When the term is over or has a leader, or there is no such replica.
    pub fn lead_with_loss(&mut self, term: Term, leader: LeaderId) -> Result<(), Refused> {
        self.lead_unclean(term, leader)?;
        for replica in &mut self.replicas {
            if replica.id != leader.replica {
                (replica.id.life, replica.renewal) = (self.version, 0);
            } else if replica.wish == Wish::Observer {
                replica.wish = Wish::Voter;
            }
        }
        Ok(())
    }

    /// Hands the leadership of `term` from the storage that has it to another voter, in term + 1.
    ///
    /// # Errors
    /// When the sender does not lead that term, or the target is not a voter.
    pub fn transfer(&mut self, term: Term, from: ReplicaId, to: LeaderId) -> Result<(), Refused> {
        self.led_by(term, from)?;
        if !self.is_voter(to.replica) {
            return Err(Refused::Replica);
        }
        self.term = Term(term.0 + 1);
        self.set_leader(to);
        Ok(())
    }

    /// A leader's proposal of other voters.
    ///
    /// # Errors
    /// When term, leader or version do not match nothing changes. For any other reason the version
    /// is raised, so that a late duplicate of the proposal does not succeed.
    pub fn change_voters(
        &mut self,
        term: Term,
        from: ReplicaId,
        base: u64,
        voters: &[ReplicaId],
    ) -> Result<(), Refused> {
        self.led_by(term, from)?;
        if self.version != base {
            return Err(Refused::Version(self.version));
        }
        self.version += 1;
        if !voters.contains(&from) {
            return Err(Refused::WithoutLeader);
        }
        let may_vote =
            |uuid: &ReplicaId| self.replica(*uuid).is_some_and(|r| r.wish != Wish::Observer);
        if !voters.iter().all(may_vote) {
            return Err(Refused::Replica);
        }
        self.voters = voters.to_vec();
        self.voters.sort();
        self.voters.dedup();
        Ok(())
    }

    /// Adds a learner, which begins a new life on its storage.
    ///
    /// # Errors
    /// When one is on that node or storage, or there are [`REPLICAS_MAX`].
    pub fn add_replica(
        &mut self,
        node: NodeId,
        storage: StorageUuid,
        wish: Wish,
    ) -> Result<ReplicaId, Refused> {
        let taken = |r: &Replica| r.id.storage == storage || r.node == node;
        if self.replicas.len() >= REPLICAS_MAX || self.replicas.iter().any(taken) {
            return Err(Refused::Exists);
        }
        self.version += 1;
        let id = ReplicaId { storage, life: self.version };
        self.replicas.push(Replica { node, id, wish, renewal: 0 });
        Ok(id)
    }

    /// Begins a new life of a replica that has lost its log and does not vote: it counts for nothing
    /// it did before. `renewal` names the request.
    ///
    /// # Errors
    /// When it votes or leads, or there is none.
    pub fn renew_replica(&mut self, id: ReplicaId, renewal: u64) -> Result<(), Refused> {
        if self.is_voter(id) || self.leader.is_some_and(|l| l.replica == id) {
            return Err(Refused::Votes);
        }
        let life = self.version + 1;
        let found = self.replicas.iter_mut().find(|r| r.id == id).ok_or(Refused::Replica)?;
        found.id.life = life;
        found.renewal = renewal;
        self.version = life;
        Ok(())
    }

    /// Changes what a replica is meant to become.
    ///
    /// # Errors
    /// When there is no such replica.
    pub fn set_wish(&mut self, id: ReplicaId, wish: Wish) -> Result<(), Refused> {
        let found = self.replicas.iter_mut().find(|r| r.id == id).ok_or(Refused::Replica)?;
        if found.wish != wish {
            found.wish = wish;
            self.version += 1;
        }
        Ok(())
    }

    /// Drops a replica that does not vote: its files may be deleted.
    ///
    /// # Errors
    /// When it votes, or there is none.
    pub fn drop_replica(&mut self, id: ReplicaId) -> Result<(), Refused> {
        if self.is_voter(id) || self.leader.is_some_and(|l| l.replica == id) {
            return Err(Refused::Votes);
        }
        if self.replica(id).is_none() {
            return Err(Refused::Replica);
        }
        self.replicas.retain(|r| r.id != id);
        self.version += 1;
        Ok(())
    }

    fn set_leader(&mut self, leader: LeaderId) {
        self.leader = Some(leader);
        self.last_leader = Some(leader.replica);
    }

    fn led_by(&self, term: Term, id: ReplicaId) -> Result<(), Refused> {
        if self.term != term {
            return Err(Refused::Term(self.term));
        }
        match self.leader {
            Some(leader) if leader.replica == id => Ok(()),
            _ => Err(Refused::Leader),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ReplicaId = ReplicaId { storage: StorageUuid(1), life: 0 };
    const B: ReplicaId = ReplicaId { storage: StorageUuid(2), life: 0 };
    const C: ReplicaId = ReplicaId { storage: StorageUuid(3), life: 0 };

    fn run(replica: ReplicaId) -> LeaderId {
        LeaderId { replica, incarnation: Incarnation(1) }
    }

    fn voter(id: ReplicaId) -> Replica {
        Replica { node: NodeId(id.storage.0 as u64), id, wish: Wish::Voter, renewal: 0 }
    }

    fn led_by_a() -> PartitionRecord {
        let mut p = PartitionRecord {
            replicas: [A, B, C].map(voter).to_vec(),
            voters: vec![A, B],
            ..PartitionRecord::default()
        };
        p.elect(Term(0)).unwrap();
        p.lead(Term(1), run(A)).unwrap();
        p
    }

    #[test]
    fn an_election_takes_one_term_and_ends_once() {
        let mut p = led_by_a();
        assert_eq!(p.elect(Term(0)), Err(Refused::Term(Term(1))));
        p.elect(Term(1)).unwrap();
        assert_eq!((p.term, p.leader, p.version), (Term(2), None, 0));
        assert_eq!(p.lead(Term(1), run(B)), Err(Refused::Term(Term(2))));
        assert_eq!(p.lead(Term(2), run(C)), Err(Refused::Replica), "a learner does not lead");
        p.lead(Term(2), run(B)).unwrap();
        assert_eq!(p.lead(Term(2), run(A)), Err(Refused::HasLeader));
    }

    #[test]
    fn voters_are_frozen_while_nobody_leads() {
        let mut p = led_by_a();
        p.elect(Term(1)).unwrap();
        assert_eq!(p.change_voters(Term(1), A, 0, &[A]), Err(Refused::Term(Term(2))));
        assert_eq!(p.change_voters(Term(2), A, 0, &[A]), Err(Refused::Leader));
        assert_eq!((p.voters.as_slice(), p.version), (&[A, B][..], 0));
    }

    #[test]
    fn a_proposal_counts_once_and_a_refused_one_never() {
        let mut p = led_by_a();
        p.change_voters(Term(1), A, 0, &[C, A]).unwrap();
        assert_eq!((p.voters.as_slice(), p.version), (&[A, C][..], 1));
        assert_eq!(p.change_voters(Term(1), A, 0, &[A, B]), Err(Refused::Version(1)));
        assert_eq!(p.change_voters(Term(1), A, 1, &[C]), Err(Refused::WithoutLeader));
        assert_eq!(p.change_voters(Term(1), A, 1, &[A]), Err(Refused::Version(2)));
        p.drop_replica(B).unwrap();
        assert_eq!(p.change_voters(Term(1), A, 3, &[A, B]), Err(Refused::Replica));
        assert_eq!((p.voters.as_slice(), p.version), (&[A, C][..], 4));
    }

    #[test]
    fn a_transfer_is_of_the_present_leader_to_a_voter() {
        let mut p = led_by_a();
        assert_eq!(p.transfer(Term(1), B, run(B)), Err(Refused::Leader));
        assert_eq!(p.transfer(Term(1), A, run(C)), Err(Refused::Replica));
        p.transfer(Term(1), A, run(B)).unwrap();
        assert_eq!((p.term, p.leader), (Term(2), Some(run(B))));
        assert_eq!(p.transfer(Term(1), A, run(B)), Err(Refused::Term(Term(2))), "again");
    }

    #[test]
    fn replicas_come_as_learners_and_go_when_they_do_not_vote() {
        let mut p = led_by_a();
        assert_eq!(p.drop_replica(A), Err(Refused::Votes));
        let add = |p: &mut PartitionRecord, node, storage| {
            p.add_replica(NodeId(node), StorageUuid(storage), Wish::Voter)
        };
        assert_eq!(add(&mut p, 9, 3), Err(Refused::Exists), "its storage has one");
        assert_eq!(add(&mut p, 3, 9), Err(Refused::Exists), "its node has one");
        p.drop_replica(C).unwrap();
        let again = add(&mut p, 3, 3).unwrap();
        assert_eq!((again.storage, again.life), (C.storage, 2), "it is somebody else");
        p.set_wish(again, Wish::Observer).unwrap();
        assert_eq!(p.version, 3);
        assert_eq!(p.change_voters(Term(1), A, 3, &[A, again]), Err(Refused::Replica));
        assert_eq!(p.drop_replica(C), Err(Refused::Replica));
    }

    #[test]
    fn a_replica_without_its_log_begins_a_new_life_when_it_does_not_vote() {
        let mut p = led_by_a();
        assert_eq!(p.renew_replica(A, 7), Err(Refused::Votes));
        assert_eq!(p.renew_replica(B, 7), Err(Refused::Votes), "its votes may be missed");
        p.renew_replica(C, 7).unwrap();
        let renewed = *p.replica_on(C.storage).unwrap();
        assert_eq!((renewed.id.life, renewed.renewal, p.version), (1, 7, 1));
        assert_eq!(p.renew_replica(C, 7), Err(Refused::Replica), "again");
        assert_eq!(
            p.change_voters(Term(1), A, 1, &[A, C]),
            Err(Refused::Replica),
            "it was another"
        );
        let json = serde_json::to_string(&p.replicas).unwrap();
        assert!(json.matches("renewal").count() == 1, "{json}");
    }

    #[test]
    fn an_unclean_leader_is_the_only_voter() {
        let mut p = led_by_a();
        assert_eq!(p.lead_unclean(Term(1), run(C)), Err(Refused::HasLeader));
        p.elect(Term(1)).unwrap();
        p.lead_unclean(Term(2), run(C)).unwrap();
        assert_eq!((p.voters.as_slice(), p.leader, p.version), (&[C][..], Some(run(C)), 1));
    }

    #[test]
    fn behind_an_election_with_loss_nobody_else_counts_for_what_it_was() {
        let mut p = led_by_a();
        p.set_wish(C, Wish::Observer).unwrap();
        p.renew_replica(C, 7).unwrap();
        let c = p.replica_on(C.storage).unwrap().id;
        assert_eq!(p.lead_with_loss(Term(1), run(c)), Err(Refused::HasLeader));
        p.elect(Term(1)).unwrap();
        assert_eq!(p.lead_with_loss(Term(2), run(C)), Err(Refused::Replica));
        p.lead_with_loss(Term(2), run(c)).unwrap();
        assert_eq!((p.voters.as_slice(), p.leader, p.version), (&[c][..], Some(run(c)), 3));
        let lives = [A, B].map(|old| p.replica_on(old.storage).unwrap().id.life);
        assert_eq!((lives, p.replica(A), p.replica(B)), ([3, 3], None, None));
        assert_eq!(p.change_voters(Term(2), c, 3, &[A, c]), Err(Refused::Replica), "as it was");
        assert_eq!(p.replica(c).unwrap().wish, Wish::Voter, "an observer's copy leads others");
        let a = p.replica_on(A.storage).unwrap().id;
        p.change_voters(Term(2), c, 4, &[a, c]).unwrap();
    }
}
