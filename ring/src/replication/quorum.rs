//! Quorums of one set of voters, or of two while a change is under way.

use crate::metadata::{REPLICAS_MAX, ReplicaId};

/// How many voters commit an entry.
#[must_use]
pub const fn commit_quorum(voters: usize) -> usize {
    voters / 2 + 1
}

/// How many voters an election needs: any that many include one that holds every committed entry.
#[must_use]
pub const fn fence_quorum(voters: usize) -> usize {
    voters - commit_quorum(voters) + 1
}

/// The largest value that a commit quorum of `voters` has reached, by `of`; `None` without voters.
/// O(voters log voters), no allocation for up to [`REPLICAS_MAX`].
pub fn reached<T: Copy + Ord + Default>(
    voters: &[ReplicaId],
    of: impl Fn(ReplicaId) -> T,
) -> Option<T> {
    assert!(voters.len() <= REPLICAS_MAX, "metadata bound the replicas of a partition");
    let mut values = [T::default(); REPLICAS_MAX];
    let values = &mut values[..voters.len()];
    for (value, id) in values.iter_mut().zip(voters) {
        *value = of(*id);
    }
    values.sort_unstable();
    voters.len().checked_sub(commit_quorum(voters.len())).map(|i| values[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let commit: Vec<usize> = (1..=7).map(commit_quorum).collect();
        let fence: Vec<usize> = (1..=7).map(fence_quorum).collect();
        assert_eq!(commit, [1, 2, 2, 3, 3, 4, 4]);
        assert_eq!(fence, [1, 1, 2, 2, 3, 3, 4]);
    }

    #[test]
    fn a_quorum_has_reached_the_middle() {
        let voters: Vec<ReplicaId> =
            (1..=5).map(|life| ReplicaId { life, ..ReplicaId::default() }).collect();
        let of = |id: ReplicaId| [9, 3, 7, 1, 5][id.life as usize - 1];
        let found: Vec<_> = (0..=5).map(|n| reached(&voters[..n], of)).collect();
        assert_eq!(found, [None, Some(9), Some(3), Some(7), Some(3), Some(5)]);
    }
}
