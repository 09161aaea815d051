//! What a voter does when the controller begins an election.

use std::time::Duration;

use ironring_core::{Instant, PartitionId};

use super::message::{Fence, FenceAnswer};
use super::replica::Role;
use super::{Effect, Replicator};

/// A replica that has lost records votes when no leader was found without it for so long.
const HURT_VOTES_AFTER: Duration = Duration::from_secs(3);

impl Replicator {
    /// The controller has begun an election. It is answered when the promise is durable; then
    /// everything written before it is too.
    pub fn fence(&mut self, now: Instant, fence: &Fence) {
        let partition = fence.partition;
        let r = self.replica_mut(partition);
        if fence.to != r.me.replica || fence.term < r.promised || r.damaged_below.is_some() {
            return;
        }
        if !r.is_fit() {
            // Its log is whole as a list of entries, so that its vote is as good as any; but the others
            // may have what it has lost, and shall lead if they can.
            let since = *r.fenced_since.get_or_insert(now);
            if !r.resorts || now.since(since) < HURT_VOTES_AFTER {
                return;
            }
            r.resorted = Some(fence.term);
        }
        let r = self.replica(partition);
        if fence.term > r.promised {
            self.promise(partition, fence.term);
        } else if matches!(r.role, Role::Leader(_)) {
            // It came late: its election is over, and this replica won it.
            return;
        }
        let r = self.replica_mut(partition);
        r.fence_waits = true;
        if r.promised_durable == r.promised {
            self.answer_fence(now, partition);
        }
    }

    pub(super) fn answer_fence(&mut self, now: Instant, partition: PartitionId) {
        let (started, lease) = (self.started, self.settings.lease);
        let r = self.replica_mut(partition);
        r.fence_waits = false;
        let answer = FenceAnswer {
            partition,
            from: r.me,
            term: r.promised,
            last_term: r.terms.at(ironring_core::Offset(r.flushed_end.0 - 1)),
            log_end: r.flushed_end,
            lease_left: r.grants.left(now, started, lease),
        };
        self.effects.push(Effect::Fenced(answer));
    }
}
