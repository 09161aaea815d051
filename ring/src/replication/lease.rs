//! Leases a replica has granted: while one runs, nobody else may serve reads.
//!
//! A grant is kept until it expires, whatever the replica promises or answers meanwhile. For one
//! lease after its start a replica counts as having granted one to somebody it does not remember.

use std::time::Duration;

use ironring_core::Instant;

/// What one replica of one partition has granted, to whomever.
#[derive(Clone, Copy, Debug, Default)]
pub struct Grants {
    end: Instant,
}

impl Grants {
    /// Grants a lease that ends at `until`.
    pub fn grant(&mut self, until: Instant) {
        self.end = self.end.max(until);
    }

    /// How long a lease may still run, for a process that began to run at `started` and leases as
    /// long as `lease`.
    #[must_use]
    pub fn left(&self, now: Instant, started: Instant, lease: Duration) -> Duration {
        let forgotten = started + lease;
        self.end.max(forgotten).since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_lasts_until_its_end_and_a_start_counts_as_one() {
        let ms = Duration::from_millis;
        let (t0, lease) = (Instant(0), ms(400));
        let mut grants = Grants::default();
        assert_eq!(grants.left(t0, t0, lease), lease);
        assert_eq!(grants.left(t0 + ms(300), t0, lease), ms(100));
        grants.grant(t0 + ms(700));
        grants.grant(t0 + ms(600));
        assert_eq!(grants.left(t0 + ms(500), t0, lease), ms(200));
        assert_eq!(grants.left(t0 + ms(700), t0, lease), ms(0));
    }
}
