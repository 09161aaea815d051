//! Damage that no log can notice: when the newest bytes on a medium are lost silently and nothing
//! was written after them, what is left is a shorter log that looks whole. The promises made by
//! those bytes cannot be kept; every other silent loss must be noticed.

use std::collections::BTreeMap;

use ironring_core::Instant;

use super::World;
use crate::sim::disk::Ticket;
use crate::sim::oracle::Bounds;
use crate::sim::subject::Node;

/// A silent fault of this life.
#[derive(Debug)]
struct Harm {
    shard: usize,
    /// What was promised before the bytes concerned were written.
    before: Bounds,
    /// When it was done.
    at: u64,
    /// A group submitted later is on the medium: the harm cannot go unnoticed.
    covered: bool,
}

/// What is known about groups on their way and silent harm.
#[derive(Debug, Default)]
pub(super) struct SilentDamage {
    /// Groups in flight: when they were submitted, and what was promised then.
    groups: BTreeMap<(usize, Ticket), (u64, Bounds)>,
    /// Of each shard's newest completed groups, oldest first: what was promised at submission.
    recent: BTreeMap<usize, Vec<Bounds>>,
    harms: Vec<Harm>,
    seen: BTreeMap<usize, usize>,
}

/// How many completed groups are remembered per shard: harm reaches back that far.
const RECENT_MAX: usize = 3;

impl<N: Node> World<N> {
    /// A group was handed to the disk.
    pub(super) fn note_group(&mut self, shard: usize, ticket: Ticket) {
        self.silent.groups.insert((shard, ticket), (self.now, self.oracle.bounds()));
    }

    /// A request was completed: it may have been a group, and harm may have been done.
    pub(super) fn note_silent(&mut self, shard: usize, ticket: Ticket) {
        let group = self.silent.groups.remove(&(shard, ticket));
        let injected = &self.slots[shard].disk.faults.injected;
        let seen = self.silent.seen.insert(shard, injected.len()).unwrap_or(0);
        let fresh = injected[seen..].iter().any(|i| i.fault.is_silent());
        if fresh {
            self.coverage.add("silent damage", 1);
            self.harm(shard, group.as_ref().map(|(_, bounds)| bounds.clone()));
            return;
        }
        let Some((submitted, bounds)) = group else { return };
        for harm in &mut self.silent.harms {
            harm.covered |= harm.shard == shard && submitted > harm.at;
        }
        let recent = self.silent.recent.entry(shard).or_default();
        recent.push(bounds);
        if recent.len() > RECENT_MAX {
            recent.remove(0);
        }
    }

    fn harm(&mut self, shard: usize, own: Option<Bounds>) {
        let oldest = self.silent.recent.get(&shard).and_then(|r| r.first()).cloned();
        let Some(before) = oldest.or(own) else { return };
        self.silent.harms.push(Harm { shard, before, at: self.now, covered: false });
    }

    /// A bit on the medium flips.
    pub(super) fn decay(&mut self) {
        let shard = self.rng.below(self.slots.len() as u64) as usize;
        let before = self.slots[shard].disk.faults.injected.len();
        if self.now <= self.slots[shard].disk.faults.plan.until.0
            && self.slots[shard].disk.decay(Instant(self.now))
        {
            self.silent.seen.insert(shard, before + 1);
            self.trace.note(self.now, &[13, shard as u64], || {
                format!("disk {shard} decays: {:?}", self.slots[shard].disk.faults.injected.last())
            });
            self.coverage.add("silent damage", 1);
            self.harm(shard, None);
        }
    }

    /// The node died: promises that rested on bytes nobody can miss do not hold.
    pub(super) fn forgive_tail(&mut self) {
        let silent = std::mem::take(&mut self.silent);
        for harm in silent.harms.iter().filter(|h| !h.covered) {
            self.coverage.add("damage nothing written later could reveal", 1);
            let node = &self.node;
            let bounds = harm.before.clone();
            self.oracle.forgive(&bounds, |p| usize::from(node.owner(p).0) == harm.shard);
        }
        self.silent.seen = silent.seen;
        self.silent.recent = silent.recent;
        for harm in silent.harms.into_iter().filter(|h| !h.covered) {
            // It stays unnoticeable until something is written after it.
            self.silent.harms.push(Harm { at: self.now, ..harm });
        }
    }
}
