//! What it means for a node that others do not let it in, and what its operator can do: pure.

use ironring_net::peer::Refusal;
use ironring_ring::metadata::Rejected;

/// What a running member does when another does not let it in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is no member any more.
    Left,
    /// Another is this node: whatever others say, it is over.
    Over,
    /// It dials again: what is wrong may be mended, or be wrong at the other node.
    Again,
}

/// What a refusal in the handshake means for a node that is a member as far as it knows. Where the other
/// node is of another cluster, or of another version, it may be the one that has no business there.
#[must_use]
pub fn fate(refusal: Refusal) -> Fate {
    match refusal {
        Refusal::Removed => Fate::Left,
        // Ids are never given again, and both sides are of one cluster: that was compared before.
        Refusal::OldRun | Refusal::DuplicateNode => Fate::Over,
        _ => Fate::Again,
    }
}

/// What can be done about the failure of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advice {
    /// What the operator can do; empty: the words say it, or nothing is known that would help.
    pub hint: &'static str,
    /// Another start fails as well, unless somebody does something first. What may pass by itself counts as
    /// passing: a node that is started in vain costs less than one that stays down.
    pub lasts: bool,
}

impl Advice {
    /// About what may pass by itself.
    #[must_use]
    pub const fn passing(hint: &'static str) -> Advice {
        Advice { hint, lasts: false }
    }
}

/// What can be done about a refusal in the handshake. Those that may pass: clocks are set, members are
/// upgraded one after the other, and who answers at an address changes.
#[must_use]
pub fn advice(refusal: Refusal) -> Advice {
    let lasts = matches!(
        refusal,
        Refusal::WrongCluster
            | Refusal::UnknownNode
            | Refusal::BadToken
            | Refusal::Removed
            | Refusal::DuplicateNode
            | Refusal::OldRun
    );
    Advice { hint: hint(refusal), lasts }
}

/// What the operator of a refused node can do; empty where waiting is all.
#[must_use]
pub fn hint(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NoCommonVersion => {
            "run the same release of ironring on all nodes, or during an upgrade two that follow each other"
        }
        Refusal::WrongCluster => {
            "name the cluster as `ironring cluster status` does there (--cluster), or seeds of the cluster \
             that is meant (--seeds)"
        }
        Refusal::WrongNode | Refusal::NoSuchShard => {
            "check cluster.seeds and listen.peers_advertise: another node answers at that address"
        }
        Refusal::DuplicateNode | Refusal::OldRun => {
            "stop this process, and start it with an empty data directory and a join token; never start a \
             copy of a data directory"
        }
        Refusal::UnknownNode | Refusal::BadToken => {
            "`ironring cluster token create` on a member makes a token; start with --token TOKEN"
        }
        Refusal::Removed => {
            "`ironring node reinit` makes an empty node of the directory, which may join again"
        }
        Refusal::ClockSkew => {
            "set the clock of this machine or of the other (NTP); peers.clock_skew_max_ms is how much they \
             may differ"
        }
        Refusal::Malformed => "check that cluster.seeds names listen.peers of ironring nodes",
        Refusal::Stopping => "",
        Refusal::Other(_) => "another release of ironring said so: see its documentation",
    }
}

/// The same where the leader of the metadata group refused; without a hint where its words say it.
#[must_use]
pub fn advice_of(rejected: &Rejected) -> Advice {
    match rejected {
        Rejected::Token(_) | Rejected::NeedsToken => advice(Refusal::BadToken),
        Rejected::OldRun { .. } | Rejected::OtherCopy { .. } => advice(Refusal::OldRun),
        Rejected::Removed(_) => advice(Refusal::Removed),
        Rejected::NameTaken { .. } => Advice {
            hint: "choose another name (--node); if that node is lost for good, `ironring node reinit` of \
                   its directory puts an empty one in its place",
            lasts: true,
        },
        _ => Advice::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_can_mend_ends_a_member() {
        let of = |wanted: Fate| -> Vec<Refusal> {
            Refusal::ALL.iter().copied().filter(|refusal| fate(*refusal) == wanted).collect()
        };
        assert_eq!(of(Fate::Left), [Refusal::Removed]);
        assert_eq!(of(Fate::Over), [Refusal::DuplicateNode, Refusal::OldRun]);
        assert_eq!(fate(Refusal::Other(99)), Fate::Again, "a later version may mean anything");
    }

    #[test]
    fn whoever_can_do_something_is_told_what() {
        for refusal in Refusal::ALL {
            let waits = *refusal == Refusal::Stopping;
            assert_eq!(hint(*refusal).is_empty(), waits, "{refusal:?}");
        }
    }

    #[test]
    fn what_may_pass_is_worth_another_start() {
        for refusal in [Refusal::ClockSkew, Refusal::NoCommonVersion, Refusal::Stopping] {
            assert!(!advice(refusal).lasts, "{refusal:?}");
        }
        for refusal in Refusal::ALL {
            let over = fate(*refusal) != Fate::Again;
            assert!(!over || advice(*refusal).lasts, "{refusal:?} ends a member");
        }
    }
}
