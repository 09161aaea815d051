//! Leases a replica has granted: while one runs, nobody else may serve reads.
//!
//! A grant is kept until it expires, whatever the replica promises or answers meanwhile. For one
//! lease after its start a replica counts as having granted one to somebody it does not remember.

use std::time::Duration;

use ironring_core::Instant;

use super::message::GrantLeft;
use crate::metadata::LeaderId;

/// Grants of one replica, of one partition.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    /// At most one per holder, and those that expired are dropped: one or two in practice.
    held: Vec<(LeaderId, Instant)>,
}

impl Grants {
    /// Grants a lease that ends at `until`.
    pub fn grant(&mut self, now: Instant, holder: LeaderId, until: Instant) {
        match self.held.iter_mut().find(|(known, _)| *known == holder) {
            Some((_, end)) => *end = until.max(*end),
            None => {
                self.held.retain(|(_, end)| *end > now);
                self.held.push((holder, until));
            }
        }
    }

    /// What is left, for a process that began to run at `started` and leases as long as `lease`.
    #[must_use]
    pub fn left(&self, now: Instant, started: Instant, lease: Duration) -> Vec<GrantLeft> {
        let forgotten = (None, started + lease);
        let held = self.held.iter().map(|(holder, end)| (Some(*holder), *end));
        held.chain([forgotten])
            .filter(|(_, end)| *end > now)
            .map(|(holder, end)| GrantLeft { holder, left: end.since(now) })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use ironring_core::Incarnation;

    use super::*;
    use crate::metadata::ReplicaId;

    #[test]
    fn a_grant_lasts_until_its_end_and_a_start_counts_as_one() {
        let holder = |n| LeaderId { incarnation: Incarnation(n), replica: ReplicaId::default() };
        let ms = Duration::from_millis;
        let lease = ms(400);
        let mut grants = Grants::default();
        let t0 = Instant(0);
        assert_eq!(grants.left(t0, t0, lease), [GrantLeft { holder: None, left: lease }]);
        grants.grant(t0, holder(1), t0 + lease);
        grants.grant(t0 + ms(100), holder(1), t0 + ms(500));
        grants.grant(t0 + ms(100), holder(1), t0 + ms(450));
        grants.grant(t0 + ms(200), holder(2), t0 + ms(600));
        let left = grants.left(t0 + ms(400), t0, lease);
        let wanted = [(1, 100), (2, 200)];
        let wanted = wanted.map(|(n, left)| GrantLeft { holder: Some(holder(n)), left: ms(left) });
        assert_eq!(left, wanted);
        assert!(grants.left(t0 + ms(600), t0, lease).is_empty());
    }
}
