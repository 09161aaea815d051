//! Which nodes a controller hears. A suggestion: no safety rests on it.

use std::collections::BTreeMap;
use std::time::Duration;

use ironring_core::{Incarnation, Instant, NodeId};

use super::Settings;
use crate::metadata::{Metadata, Status};

#[derive(Clone, Copy, Debug)]
struct Heard {
    at: Instant,
    incarnation: Incarnation,
    /// Its process has ended and was not heard since.
    gone: bool,
    /// When this run of it was heard first, if it was heard to begin.
    began: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Liveness {
    nodes: BTreeMap<NodeId, Heard>,
    /// When they were looked at last.
    looked: Instant,
}

impl Liveness {
    pub fn new(now: Instant, metadata: &Metadata) -> Liveness {
        let mut liveness = Liveness { nodes: BTreeMap::new(), looked: now };
        liveness.follow(now, metadata);
        liveness
    }

    /// Takes up new members, as heard now, and forgets those that left.
    pub fn follow(&mut self, now: Instant, metadata: &Metadata) {
        if metadata.members().map(|m| m.id).eq(self.nodes.keys().copied()) {
            return;
        }
        self.nodes.retain(|id, _| metadata.member(*id).is_some());
        for member in metadata.members() {
            let incarnation = member.facts.incarnation;
            let heard = Heard { at: now, incarnation, gone: false, began: None };
            self.nodes.entry(member.id).or_insert(heard);
        }
    }

    /// Takes note that this node looks. Between two looks that are far apart it heard nobody, or has not
    /// come to it: whoever was heard then counts as heard now, for the silence was this node's own.
    pub fn look(&mut self, now: Instant, timeout: Duration) {
        let before = std::mem::replace(&mut self.looked, now);
        if now.since(before) <= timeout / 2 {
            return;
        }
        for heard in self.nodes.values_mut() {
            if before.since(heard.at) < timeout {
                heard.at = heard.at.max(now);
            }
        }
    }

    pub fn heard(&mut self, now: Instant, node: NodeId, incarnation: Incarnation) {
        if let Some(known) = self.nodes.get_mut(&node)
            && incarnation >= known.incarnation
        {
            let began = if incarnation > known.incarnation { Some(now) } else { known.began };
            *known = Heard { at: now, incarnation, gone: false, began };
        }
    }

    /// A node was heard last before this node became the controller.
    pub fn heard_before(&mut self, node: NodeId, at: Instant) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.at = known.at.min(at);
        }
    }

    pub fn gone(&mut self, node: NodeId) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.gone = true;
        }
    }

    /// Whether a node has been heard within `timeout`.
    pub fn is_heard(&self, now: Instant, node: NodeId, timeout: Duration) -> bool {
        self.nodes.get(&node).is_some_and(|h| !h.gone && now.since(h.at) < timeout)
    }

    /// Whether a node's process was started within `time`: it is heard, and its shards may still read
    /// their logs, or have none.
    pub fn is_new(&self, now: Instant, node: NodeId, time: Duration) -> bool {
        let began = self.nodes.get(&node).and_then(|h| h.began);
        began.is_some_and(|began| now.since(began) < time)
    }

    /// The newest run of a node that was heard.
    pub fn incarnation(&self, node: NodeId) -> Option<Incarnation> {
        self.nodes.get(&node).map(|h| h.incarnation)
    }

    /// How long a node has been silent.
    pub fn silence(&self, now: Instant, node: NodeId) -> Duration {
        self.nodes.get(&node).map_or(Duration::MAX, |h| now.since(h.at))
    }

    /// Nodes whose status is not what metadata say.
    pub fn changes(
        &self,
        now: Instant,
        metadata: &Metadata,
        settings: &Settings,
    ) -> Vec<(NodeId, Status)> {
        let status = |id: NodeId| {
            if self.is_heard(now, id, settings.leader_timeout) {
                Status::Alive
            } else if self.silence(now, id) < settings.session_timeout {
                Status::Suspect
            } else {
                Status::Dead
            }
        };
        let differs = |m: &&crate::metadata::Member| status(m.id) != m.status;
        metadata.members().filter(differs).map(|m| (m.id, status(m.id))).collect()
    }
}
