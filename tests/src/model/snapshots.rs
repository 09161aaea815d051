//! Compaction, and the snapshots that followers get in place of entries that are compacted.
//!
//! The model keeps a compacted entry in the log, for the observer alone: no replica sends it, and no
//! replica looks at its term.

use super::ReplicationModel;
use super::log::Log;
use super::properties::Invariant;
use super::rules::Rule;
use super::state::{Message, Node, Offset, State, Term};

impl ReplicationModel {
    /// Lets the entries go whose state is known to be committed and is fsynced.
    pub(super) fn compact(&self, state: &mut State, node: usize) {
        let replica = &mut state.replicas[node];
        let end = replica.high_watermark.min(replica.flushed_end).min(replica.durable_end);
        if end > replica.base && !replica.installing && replica.repair_to == 0 {
            replica.base = end;
            state.used.compactions += 1;
        }
    }

    pub(super) fn send_snapshot(&self, state: &mut State, node: usize, to: Node, end: Offset) {
        let replica = &state.replicas[node];
        let Some(leader) = &replica.leader else { return };
        let known = end <= replica.high_watermark || !self.rules.has(Rule::SnapshotOfCommitted);
        if end == 0 || end < replica.base || !known {
            return;
        }
        let (from, term, of) = (node as Node, leader.term, replica.log.below(end));
        state.network.insert(Message::Snapshot { from, to, term, of });
        state.used.snapshots += 1;
    }

    pub(super) fn on_snapshot(
        &self,
        state: &mut State,
        node: usize,
        from: Node,
        term: Term,
        of: Log,
    ) {
        let leads_it = state.replicas[node].leader.as_ref().is_some_and(|l| l.term >= term);
        if state.replicas[node].deleted || leads_it || !self.promise(state, node, term) {
            return;
        }
        let end = of.end();
        let replica = &state.replicas[node];
        if end <= replica.high_watermark && self.rules.has(Rule::SnapshotNotBehind) {
            return;
        }
        let last_term = of.get(end - 1).map_or(0, |entry| entry.term);
        let known = replica.base <= end && end <= replica.log_end();
        let matches = known && replica.last_term(end) == last_term;
        self.follow(state, node, term, from);
        let replica = &mut state.replicas[node];
        if matches && self.rules.has(Rule::SnapshotKeepsSuffix) {
            replica.verified = replica.verified.max(end);
        } else {
            if end < replica.high_watermark {
                state.observer.broken.note(Invariant::NothingBelowCut);
            }
            let replica = &mut state.replicas[node];
            replica.log = of;
            replica.base = end;
            replica.verified = end;
            replica.old_tail = Log::default();
            replica.durable_end = 0;
            replica.flushed_end = 0;
            replica.installing = true;
        }
        let replica = &mut state.replicas[node];
        replica.high_watermark = replica.high_watermark.max(end);
        self.ack(state, node);
    }
}
