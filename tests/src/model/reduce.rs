//! Fewer states for the same behaviour, so that larger worlds can be seen to the end.
//!
//! What is forgotten here can have no effect in any later state while every rule is followed: a
//! message whose delivery will always change nothing, a metadata record that no node can act on any
//! more, a number that is always compared with a larger one. Nodes that differ in nothing but their
//! index are exchanged, so that of states alike but for names one is seen.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::ReplicationModel;
use super::bounds::Bounds;
use super::log::Log;
use super::state::{Message, Network, Node, State, Term, Uuid, Uuids};

impl ReplicationModel {
    /// Forgets what can have no effect.
    pub(super) fn reduce(&self, state: &mut State) {
        let network = std::mem::take(&mut state.network);
        let mut kept = network;
        kept.retain(|message| self.may_matter(state, message));
        state.network = kept;
        self.forget_records(state);
        // An election that is over still asks for promises, but nobody counts the answers.
        let (term, decided) = (state.record().term, state.record().leader.is_some());
        for election in state.elections.iter_mut().filter(|of| of.term != term || decided) {
            election.answers.clear();
            election.wait = 0;
        }
        let crashes = state.used.crashes < self.bounds.crashes;
        for replica in &mut state.replicas {
            let floor = replica.led.max(replica.led_or_promised_at_start);
            replica.led_or_promised_at_start = 0;
            replica.led = if floor < replica.promised { 0 } else { floor };
            if replica.verified_term < replica.promised && replica.repair_to == 0 {
                (replica.verified, replica.verified_term, replica.verified_from) = (0, 0, 0);
            }
            if !crashes {
                replica.old_tail = Log::default();
            }
            let reads = self.bounds.reads > 0;
            for leader in replica.leader.iter_mut().filter(|_| !reads) {
                leader.rounds.retain(|round| round.left > 0);
            }
        }
    }

    /// Whether the node leads `term`.
    fn leads(state: &State, node: Node, term: Term) -> bool {
        let leader = state.replicas[usize::from(node)].leader.as_ref();
        leader.is_some_and(|leader| leader.term == term)
    }

    fn may_matter(&self, state: &State, message: &Message) -> bool {
        let used = &state.used;
        let bounds = &self.bounds;
        let wipes = used.wipes < bounds.wipes;
        // Verified and the high watermark are of one run of a process.
        let restarts = wipes || used.crashes < bounds.crashes || used.damages < bounds.damages;
        let record = state.record();
        let refused = |to: Node, term: Term| {
            let replica = &state.replicas[usize::from(to)];
            replica.deleted || (replica.promised_on_disk > term && !wipes)
        };
        match message {
            Message::Replicate { to, term, prev_offset, entries, high_watermark, .. } => {
                let replica = &state.replicas[usize::from(*to)];
                let known = replica.verified_term == *term
                    && replica.verified >= prev_offset + entries.end()
                    && replica.high_watermark >= *high_watermark;
                !refused(*to, *term) && (restarts || !known)
            }
            Message::Snapshot { to, term, of, .. } => {
                let known = state.replicas[usize::from(*to)].high_watermark >= of.end();
                // What of it changes something although it is behind is the promise.
                let promised = state.replicas[usize::from(*to)].promised >= *term;
                !refused(*to, *term) && (restarts || !known || !promised)
            }
            Message::Ack { from, to, term, end } => {
                let leader = state.replicas[usize::from(*to)].leader.as_ref();
                Self::leads(state, *to, *term)
                    && leader.is_some_and(|leader| leader.acked_end(*from) < *end)
            }
            Message::ProbeAck { from, to, term, round } => {
                let leader = state.replicas[usize::from(*to)].leader.as_ref();
                let sent = leader.and_then(|l| l.rounds.iter().find(|sent| sent.round == *round));
                let waits = sent.is_some_and(|sent| {
                    !sent.acked.has(*from) && (sent.left > 0 || bounds.reads > 0)
                });
                Self::leads(state, *to, *term) && waits
            }
            Message::Probe { to, term, .. } => !refused(*to, *term),
            Message::Propose { term, base, .. } => record.version == *base && record.term == *term,
            Message::Transfer { from, term, .. } => {
                record.term == *term && record.leader == Some(*from) && *term < bounds.terms
            }
            Message::Fenced { term, answer, .. } => {
                record.leader.is_none()
                    && state.elections.iter().any(|election| {
                        election.term == *term
                            && record.term == *term
                            && !election.answers.iter().any(|known| known.uuid == answer.uuid)
                    })
            }
        }
    }

    /// Forgets the records that no node can act on: nobody can begin to lead by it, and whoever
    /// leads has seen it or would learn of the later one all that it can learn of it.
    fn forget_records(&self, state: &mut State) {
        let mut at = 1;
        while at + 1 < state.records.len() {
            let record = state.records[at];
            let leads = |uuid: Uuid| {
                state.replica_of(uuid).is_some_and(|replica| {
                    let floor = replica.led.max(replica.led_or_promised_at_start);
                    !replica.deleted && replica.promised <= record.term && floor < record.term
                })
            };
            let waits = state.replicas.iter().filter_map(|replica| replica.leader.as_ref());
            let wanted = record.leader.is_some_and(leads)
                || waits
                    .into_iter()
                    .any(|leader| leader.term == record.term && usize::from(leader.seen) <= at);
            if wanted {
                at += 1;
                continue;
            }
            state.records.remove(at);
            let leaders = state.replicas.iter_mut().filter_map(|replica| replica.leader.as_mut());
            for leader in leaders.filter(|leader| usize::from(leader.seen) > at) {
                leader.seen -= 1;
            }
        }
    }
}

impl Bounds {
    /// Whether the nodes but the first differ in nothing but their index.
    pub(super) fn are_alike(&self) -> bool {
        let all = (0..self.nodes).fold(Uuids::default(), Uuids::with);
        let everybody = self.taught.and(all) == all;
        self.voters == all && everybody && self.rates.windows(2).all(|pair| pair[0] == pair[1])
    }
}

/// The same state with the nodes behind the first in another order: always the same one of all.
pub(super) fn representative(state: &State) -> State {
    let mut orders = Vec::new();
    permutations(&mut (0..state.replicas.len() as Node).collect(), 1, &mut orders);
    let renamed = orders.iter().map(|order| renamed(state, order));
    let hashed = renamed.map(|state| {
        let mut hasher = DefaultHasher::new();
        state.hash(&mut hasher);
        (hasher.finish(), state)
    });
    let least = hashed.min_by_key(|(hash, _)| *hash);
    least.expect("the order as it is is one of them").1
}

fn permutations(order: &mut Vec<Node>, fixed: usize, into: &mut Vec<Vec<Node>>) {
    if fixed >= order.len() {
        into.push(order.clone());
        return;
    }
    for at in fixed..order.len() {
        order.swap(fixed, at);
        permutations(order, fixed + 1, into);
        order.swap(fixed, at);
    }
}

/// `state` with every node called `order[node]`.
fn renamed(state: &State, order: &[Node]) -> State {
    let nodes = order.len() as Node;
    let node = |node: Node| order[usize::from(node)];
    let uuid = |uuid: Uuid| order[usize::from(uuid % nodes)] + uuid / nodes * nodes;
    let uuids = |set: Uuids| set.iter().map(uuid).fold(Uuids::default(), Uuids::with);
    let mut next = state.clone();
    for (before, replica) in state.replicas.iter().enumerate() {
        let mut replica = replica.clone();
        replica.uuid = uuid(replica.uuid);
        if replica.verified_term > 0 {
            replica.verified_from = node(replica.verified_from);
        }
        if let Some(leader) = &mut replica.leader {
            leader.voters = uuids(leader.voters);
            if let Some(proposal) = &mut leader.proposal {
                proposal.voters = uuids(proposal.voters);
            }
            leader.acked.iter_mut().for_each(|(who, _)| *who = uuid(*who));
            leader.acked.sort_unstable();
            leader.rounds.iter_mut().for_each(|round| round.acked = uuids(round.acked));
        }
        next.replicas[usize::from(node(before as Node))] = replica;
    }
    next.network = Network::default();
    for message in state.network.iter() {
        let mut message = *message;
        match &mut message {
            Message::Replicate { from, to, .. }
            | Message::Snapshot { from, to, .. }
            | Message::Probe { from, to, .. } => (*from, *to) = (node(*from), node(*to)),
            Message::Ack { from, to, .. } | Message::ProbeAck { from, to, .. } => {
                (*from, *to) = (uuid(*from), node(*to));
            }
            Message::Propose { from, voters, .. } => {
                (*from, *voters) = (uuid(*from), uuids(*voters));
            }
            Message::Transfer { from, target, .. } => {
                (*from, *target) = (uuid(*from), uuid(*target));
            }
            Message::Fenced { answer, .. } => answer.uuid = uuid(answer.uuid),
        }
        next.network.insert(message);
    }
    for record in &mut next.records {
        record.leader = record.leader.map(uuid);
        record.last_leader = record.last_leader.map(uuid);
        record.voters = uuids(record.voters);
        record.dropped = uuids(record.dropped);
    }
    for election in &mut next.elections {
        election.voters = uuids(election.voters);
        election.answers.iter_mut().for_each(|answer| answer.uuid = uuid(answer.uuid));
        election.answers.sort_unstable();
    }
    let observer = &mut next.observer;
    observer.leaders.iter_mut().for_each(|(_, who)| *who = uuid(*who));
    observer.promises.iter_mut().for_each(|(who, _)| *who = uuid(*who));
    observer.promises.sort_unstable();
    observer.forgot = uuids(observer.forgot);
    next
}
