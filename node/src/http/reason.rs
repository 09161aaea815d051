//! What the names of refused orders mean, and what to do. Each is the name of a
//! [`Refusal`](crate::cluster::operation::Refusal), whose message says the same of the case at hand.

/// Why an order is refused.
#[derive(Debug)]
pub struct Reason {
    /// Its name in JSON and for `ironring explain`.
    pub name: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What to do.
    pub hint: &'static str,
}

macro_rules! reasons {
    ($( $name:literal, $meaning:literal, hint: $hint:literal; )*) => {
        /// Every reason.
        pub const REASONS: &[Reason] = &[
            $( Reason { name: $name, meaning: $meaning, hint: $hint }, )*
        ];
    };
}

reasons! {
    "no-node", "The cluster has no node of that number.", hint: "`ironring cluster members` lists them";
    "no-partition", "The cluster has no partition of that number.", hint: "`ironring partition list` lists them";
    "state", "An earlier order about the node stands against it: it drains, leaves or was given up.", hint: "`ironring cluster members` shows its state; `ironring node resume` takes back that it drains or leaves";
    "last-node", "No other node takes replicas: what the node holds has nowhere to go.", hint: "add a node first, or resume one that drains or leaves; --force does not help";
    "fewer-than-replicas", "Fewer nodes would be left than each partition has replicas.", hint: "add a node first; with --force partitions keep fewer replicas and survive fewer failures";
    "breaks-quorum", "Of the voters the metadata group would have no majority is heard: it would stand still.", hint: "start those that are silent, or give up the dead ones first (`ironring cluster leave NODE --lost`); --force does not help";
    "last-voter", "The node is the only voter of the metadata group, and no other member could vote in its place.", hint: "add a member first, or promote one (`ironring cluster promote`)";
    "too-many-voters", "The metadata group has as many voters as it may have.", hint: "demote one first (`ironring cluster demote`)";
    "not-dead", "Only a dead node is given up, and this one is heard, or not silent for long enough.", hint: "`ironring cluster leave` without --lost lets it go without loss; a silent node is dead after controller.session_timeout_ms";
    "loses-data", "Without the node partitions have no majority of their voters: what was acknowledged there may be on it alone.", hint: "start it again if that is possible; with --force it is given up, and `ironring partition elect-unclean` lets them go on with what is left";
    "not-heard", "The node is not heard: it does not run, or cannot be reached.", hint: "start it or mend its network, then give the order again";
    "no-vote", "The node has no vote in the metadata group, and only a voter leads it.", hint: "promote it first (`ironring cluster promote`)";
    "no-other-voter", "No other voter of the metadata group is heard and active, so nobody can lead in its place.", hint: "start another voter, or promote a member (`ironring cluster promote`)";
    "old-program", "A member runs a program that does not know what was ordered.", hint: "upgrade it; one that is gone for good is given up with `ironring cluster leave NODE --lost`";
    "keyspace", "The number of replicas or of voters is out of range, or there would be more voters than replicas.", hint: "use 1 to 7 replicas, and from 1 to as many voters as replicas";
    "stops-writes", "Partitions have fewer voters than the new minimum, and would take no writes until they have.", hint: "wait until they have (`ironring partition list`), or use --force";
    "not-moving", "No move of the partition is under way.", hint: "`ironring cluster rebalance status` lists those that are";
    "moving", "A move of the partition is under way, and there is one at a time.", hint: "wait until it is done, or cancel it (`ironring cluster rebalance cancel`)";
    "no-replica", "The node has no replica of the partition.", hint: "`ironring partition list` shows where the replicas are";
    "has-replica", "The node has a replica of the partition already.", hint: "choose a node that has none: `ironring partition list` shows where they are";
    "takes-none", "The node takes no replicas: it drains, leaves, is not heard, observes or has no weight.", hint: "choose another, or mend what keeps it (`ironring cluster members`)";
    "observer", "The node observes (node.role): it never votes.", hint: "choose another node";
    "not-voter", "The replica has no vote or is to leave, and only a voter leads a partition.", hint: "choose another: `ironring partition list` shows who votes";
    "leaderless", "Nobody leads the partition.", hint: "wait until a replica is elected; where most voters are gone for good see `ironring partition elect-unclean`";
    "led", "The partition has a leader: nothing has to be given up.", hint: "nothing has to be done";
    "quorum-heard", "Enough voters of the partition are heard to elect one of them without loss, or were a moment ago.", hint: "wait for the election; a silent node counts as gone when it is dead, after controller.session_timeout_ms";
    "unknown-copy", "The replica has not said how far its log is: it may be far behind, damaged or empty.", hint: "choose one that has; with --force it leads with whatever it has, and every other copy is emptied";
}

#[cfg(test)]
mod tests {
    use ironring_core::{NodeId, PartitionId};
    use ironring_ring::metadata::{MemberState, Status};

    use super::*;
    use crate::cluster::operation::Refusal;

    /// One refusal of each kind.
    fn each() -> Vec<Refusal> {
        let (node, partition) = (NodeId(1), PartitionId(2));
        let all = vec![
            Refusal::NoNode(node),
            Refusal::NoPartition(partition),
            Refusal::State { node, state: MemberState::Lost },
            Refusal::LastNode(node),
            Refusal::FewerThanReplicas { left: 2, rf: 3 },
            Refusal::BreaksQuorum { voters: 3, heard: 1, needed: 2 },
            Refusal::LastVoter(node),
            Refusal::TooManyVoters(7),
            Refusal::NotDead { node, status: Status::Alive },
            Refusal::LosesData { node, partitions: 1 },
            Refusal::NotHeard(node),
            Refusal::NoVote(node),
            Refusal::NoOtherVoter,
            Refusal::OldProgram { node, has: 1, needs: 2 },
            Refusal::Keyspace { rf: 9, min_voters: 1 },
            Refusal::StopsWrites { partitions: 1, min_voters: 2 },
            Refusal::NotMoving(partition),
            Refusal::Moving(partition),
            Refusal::NoReplica { partition, node },
            Refusal::HasReplica { partition, node },
            Refusal::TakesNone(node),
            Refusal::Observer(node),
            Refusal::NotVoter { partition, node },
            Refusal::Leaderless(partition),
            Refusal::Led(partition),
            Refusal::QuorumHeard(partition),
            Refusal::UnknownCopy { partition, node },
        ];
        for refusal in &all {
            // A new kind does not compile here: it belongs above as well, and among the reasons.
            match refusal {
                Refusal::NoNode(_)
                | Refusal::NoPartition(_)
                | Refusal::State { .. }
                | Refusal::LastNode(_)
                | Refusal::FewerThanReplicas { .. }
                | Refusal::BreaksQuorum { .. }
                | Refusal::LastVoter(_)
                | Refusal::TooManyVoters(_)
                | Refusal::NotDead { .. }
                | Refusal::LosesData { .. }
                | Refusal::NotHeard(_)
                | Refusal::NoVote(_)
                | Refusal::NoOtherVoter
                | Refusal::OldProgram { .. }
                | Refusal::Keyspace { .. }
                | Refusal::StopsWrites { .. }
                | Refusal::NotMoving(_)
                | Refusal::Moving(_)
                | Refusal::NoReplica { .. }
                | Refusal::HasReplica { .. }
                | Refusal::TakesNone(_)
                | Refusal::Observer(_)
                | Refusal::NotVoter { .. }
                | Refusal::Leaderless(_)
                | Refusal::Led(_)
                | Refusal::QuorumHeard(_)
                | Refusal::UnknownCopy { .. } => {}
            }
        }
        all
    }

    #[test]
    fn every_refusal_of_an_order_has_a_reason() {
        let refused: Vec<&str> = each().iter().map(Refusal::name).collect();
        let known: Vec<&str> = REASONS.iter().map(|reason| reason.name).collect();
        assert_eq!(refused, known);
    }
}
