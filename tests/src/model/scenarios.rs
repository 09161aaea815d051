//! For each rule a world in which it is needed: where that world begins, and how large it is.
//!
//! A beginning is a [`Script`]: steps of the same model, so that it is reachable, after which the
//! messages still on their way are lost. The search does the rest by itself.

use super::actions::Action;
use super::bounds::{Bounds, FAST, SLOW};
use super::rules::{Rule, Rules};
use super::state::{Message, Network, Node, Offset, State, Used, Uuid, Uuids};
use super::{Allowed, Invariant, Kept, ReplicationModel};

/// Steps that lead to where a search begins.
struct Script {
    model: ReplicationModel,
    state: State,
}

impl Script {
    fn new(bounds: Bounds, rules: Rules) -> Self {
        let model = ReplicationModel::new(bounds, rules);
        let state = model.start.clone();
        Script { model, state }
    }

    /// Every voter holds the term-start entry of node 0, which serves.
    fn settled(bounds: Bounds, rules: Rules) -> Self {
        let others: Vec<Node> = (1..bounds.nodes).collect();
        let mut script = Script::new(bounds, rules);
        script.act(Action::Hear { node: 0, record: 0 });
        script.act(Action::Fsync { node: 0 });
        for to in &others {
            script.replicate(0, *to);
        }
        script
    }

    fn act(&mut self, action: Action) -> &mut Self {
        self.try_act(action);
        self
    }

    /// Takes the step, if it changes anything.
    fn try_act(&mut self, action: Action) {
        if let Some(next) = self.model.after(&self.state, &action) {
            self.state = next;
        }
    }

    fn end(&self, node: Node) -> Offset {
        self.state.replicas[usize::from(node)].log_end()
    }

    fn sent(&self, wanted: impl Fn(&Message) -> bool) -> Vec<Message> {
        self.state.network.iter().filter(|message| wanted(message)).copied().collect()
    }

    /// `node` sends all it has; `to` writes it, but has not fsynced it yet.
    fn send(&mut self, node: Node, to: Node) -> &mut Self {
        let end = self.end(node);
        let before = self.sent(|_| true);
        self.act(Action::Send { node, to, prev: 0, end });
        for message in self.sent(|message| !before.contains(message)) {
            self.act(Action::Deliver(message));
        }
        self
    }

    /// The same, fsynced and acked.
    fn replicate(&mut self, node: Node, to: Node) -> &mut Self {
        self.send(node, to).act(Action::Fsync { node: to });
        let acks = |message: &Message| matches!(message, Message::Ack { to, .. } if *to == node);
        for message in self.sent(acks) {
            self.act(Action::Deliver(message));
        }
        self
    }

    /// A round of probes that `by` acks.
    fn probe(&mut self, node: Node, by: Node) -> &mut Self {
        self.act(Action::Probe { node });
        let probes = |message: &Message| matches!(message, Message::Probe { to, .. } if *to == by);
        for message in self.sent(probes) {
            self.act(Action::Deliver(message));
        }
        for message in self.sent(|message| matches!(message, Message::ProbeAck { .. })) {
            self.act(Action::Deliver(message));
        }
        self
    }

    fn write(&mut self, node: Node, sequence: u8) -> &mut Self {
        self.act(Action::Write { node, sequence }).act(Action::Fsync { node })
    }

    /// The controller takes a term, and these answer.
    fn fence(&mut self, nodes: &[Node]) -> &mut Self {
        let record = self.state.records.len() as u8 - 1;
        self.act(Action::TakeTerm { record });
        let election = self.state.elections.len() as u8 - 1;
        for node in nodes {
            self.act(Action::AnswerFence { node: *node, election });
        }
        self
    }

    /// These answer, and the first of them leads.
    fn elect(&mut self, nodes: &[Node]) -> &mut Self {
        self.fence(nodes);
        let election = self.state.elections.len() as u8 - 1;
        let winner = self.state.replicas[usize::from(nodes[0])].uuid;
        self.act(Action::Elect { election, winner }).hear(nodes[0])
    }

    /// `node` learns of the last record.
    fn hear(&mut self, node: Node) -> &mut Self {
        let record = self.state.records.len() as u8 - 1;
        self.act(Action::Hear { node, record }).act(Action::Fsync { node })
    }

    fn crash(&mut self, node: Node, end: Offset) -> &mut Self {
        self.act(Action::Crash { node, kept: Kept::Below(end) })
    }

    /// `node` proposes `voters`, and metadata accepts.
    fn change(&mut self, node: Node, voters: &[Uuid]) -> &mut Self {
        let before = self.sent(|_| true);
        self.act(Action::Propose { node, voters: Uuids::of(voters) });
        for message in self.sent(|message| !before.contains(message)) {
            self.act(Action::Deliver(message));
        }
        self.hear(node)
    }

    /// Loses what is on its way, and begins the counts of what the bounds allow from here.
    fn begin_here(&mut self) -> ReplicationModel {
        self.state.network = Network::default();
        let rounds = self.state.used.rounds;
        self.state.used = Used { rounds, ..Used::default() };
        let mut model = self.model.clone();
        model.start = self.state.clone();
        model
    }

    /// The same with what is on its way.
    fn with_messages(&mut self) -> ReplicationModel {
        let network = self.state.network.clone();
        let mut model = self.begin_here();
        model.start.network = network;
        model
    }
}

fn three() -> Bounds {
    Bounds::quiet(3, &[0, 1, 2])
}

fn two() -> Bounds {
    Bounds::quiet(2, &[0, 1])
}

/// Why an invariant holds although a rule is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It does not: the rule alone keeps something from breaking.
    Alone,
    /// Another rule is enough; without both something breaks.
    With(Rule),
    /// Nothing breaks in the model. The reason says what the rule is for.
    NotForSafety(&'static str),
}

/// How much of the protocol rests on `rule`.
pub fn need(rule: Rule) -> Need {
    match rule {
        Rule::FenceFlushes => Need::With(Rule::LateFsyncAcksNothing),
        Rule::WritesAfterTermStart => Need::NotForSafety(
            "a write behind an uncommitted term start commits with it or not at all",
        ),
        Rule::ProposeWithSelf => Need::NotForSafety(
            "a leader outside V counts W(V) others; the rule keeps `leader in V` simple",
        ),
        Rule::TransferToVoter => Need::NotForSafety(
            "a learner that acked log_end holds all that is committed; the rule keeps `leader in V`",
        ),
        _ => Need::Alone,
    }
}

/// The rules without `rule`, and without the one that would stand in for it.
pub fn rules_without(rule: Rule) -> Rules {
    let rules = Rules::all().without(rule);
    match need(rule) {
        Need::With(other) => rules.without(other),
        Need::Alone | Need::NotForSafety(_) => rules,
    }
}

/// The world in which `rule` is needed, under `rules`.
pub fn world(rule: Rule, rules: Rules) -> ReplicationModel {
    match rule.section().split(' ').next() {
        Some("Append" | "State") => append_world(rule, rules),
        Some("Leader" | "Transfer") => leader_world(rule, rules),
        Some("Voters") => voters_world(rule, rules),
        Some("Leases") => lease_world(rule, rules),
        _ => other_world(rule, rules),
    }
}

/// The controller takes no term, and leaders send to node 2 only.
fn to_node_2(_: &State, action: &Action) -> bool {
    match action {
        Action::TakeTerm { .. } => false,
        Action::Send { to, .. } => *to == 2,
        _ => true,
    }
}

/// The controller takes no term.
fn without_elections(model: ReplicationModel) -> ReplicationModel {
    let allowed: Allowed = |_, action| !matches!(action, Action::TakeTerm { .. });
    ReplicationModel { allowed, ..model }
}

fn append_world(rule: Rule, rules: Rules) -> ReplicationModel {
    match rule {
        Rule::LeadNotBelowPromise => ReplicationModel::new(two(), rules),
        Rule::RestartedLeaderAsks => {
            Script::settled(Bounds { crashes: 1, ..two() }, rules).begin_here()
        }
        Rule::LeadOnce => {
            let bounds = Bounds { transfers: 1, writes: 0, ..three() };
            let mut script = Script::settled(bounds, rules);
            without_elections(script.act(Action::HandOver { node: 0, target: 1 }).with_messages())
        }
        Rule::PromiseDurable => Script::settled(Bounds { crashes: 1, ..two() }, rules).begin_here(),
        // Node 1 does not know yet that the write is committed.
        Rule::ReadsAfterTermStart => {
            Script::settled(Bounds { reads: 1, rounds: 1, ..two() }, rules)
                .write(0, 1)
                .replicate(0, 1)
                .begin_here()
        }
        Rule::ProposeAfterTermStart => Script::settled(Bounds { proposals: 1, ..three() }, rules)
            .write(0, 1)
            .replicate(0, 1)
            .begin_here(),
        // Node 2 has a write of term 1 that was never committed, node 1 leads term 2 without it.
        Rule::PrevMatches
        | Rule::AckVerified
        | Rule::VerifiedOfTerm
        | Rule::HwWithinVerified
        | Rule::FlushedEndDropsAtCut => {
            let bounds = Bounds { every_part: rule != Rule::FlushedEndDropsAtCut, ..three() };
            let mut script = Script::settled(bounds, rules);
            script.act(Action::Write { node: 0, sequence: 1 }).send(0, 2);
            script.act(Action::Fsync { node: 2 }).crash(0, 1).elect(&[1, 0]).begin_here()
        }
        Rule::CutBeforeReplacement => {
            let bounds = Bounds { writes: 2, crashes: 1, ..Bounds::quiet(4, &[0, 1, 2, 3]) };
            let mut script = Script::settled(bounds, rules);
            script.write(0, 1).write(0, 2).send(0, 2).act(Action::Fsync { node: 2 });
            script.elect(&[1, 3]).begin_here()
        }
        // Raft's figure 8: a write of term 1 that only its leader has, a start of term 2 that only
        // its leader has, and the first leading again in term 3.
        Rule::CommitOwnTerm => {
            let bounds = Bounds { terms: 4, every_part: true, ..three() };
            let mut script = Script::settled(bounds, rules);
            script.write(0, 1).elect(&[2, 1]).elect(&[0, 1]);
            let mut model = script.begin_here();
            model.allowed = |state, action| match action {
                Action::Send { to, prev, end, .. } => *to == 1 && *prev == 0 && *end == 2,
                Action::Write { .. } => false,
                Action::AnswerFence { node, .. } => *node != 0,
                Action::TakeTerm { .. } => state.observer.committed.end() > 1,
                _ => true,
            };
            model
        }
        Rule::AckOfTerm => {
            let mut script = Script::settled(three(), rules);
            script.act(Action::Write { node: 0, sequence: 1 }).send(0, 2);
            script.act(Action::Fsync { node: 2 }).crash(0, 1).elect(&[0, 1]).with_messages()
        }
        Rule::CountByUuid => Script::settled(Bounds { wipes: 1, ..two() }, rules).begin_here(),
        Rule::CommitQuorum => ReplicationModel::new(three(), rules),
        Rule::WritesAfterTermStart => {
            let mut script = Script::settled(Bounds { crashes: 1, ..two() }, rules);
            script.elect(&[1, 0]).begin_here()
        }
        _ => Script::settled(Bounds { crashes: 1, ..two() }, rules).begin_here(),
    }
}

fn leader_world(rule: Rule, rules: Rules) -> ReplicationModel {
    match rule {
        Rule::VotersOfCommit => {
            let bounds = Bounds { proposals: 1, ..Bounds::quiet(3, &[0, 1]) };
            let mut script = Script::settled(bounds, rules);
            script.change(0, &[0, 1, 2]).write(0, 1).replicate(0, 2);
            let mut model = script.begin_here();
            model.bounds.proposals = 0;
            model
        }
        Rule::LateFsyncAcksNothing => Script::settled(three(), rules).begin_here(),
        // That a late ack breaks a promise is known from the rule above; here it loses a write.
        Rule::FenceFlushes => {
            let mut script = Script::settled(three(), rules);
            let mut model = script.write(0, 1).send(0, 2).begin_here();
            model.blind_to = Some(Invariant::PromiseKept);
            model
        }
        Rule::FenceAnswerOfTerm | Rule::ElectInTerm => {
            let mut script = Script::settled(Bounds { terms: 3, ..three() }, rules);
            script.fence(&[1, 2]);
            let winner = 2;
            script.act(Action::Elect { election: 0, winner }).hear(2).replicate(2, 0);
            script.begin_here()
        }
        // A write of term 1 that node 0 has alone, and a term 2 that is committed without it.
        Rule::LastTermFirst => {
            let mut script = Script::settled(Bounds { terms: 3, writes: 2, ..three() }, rules);
            script.write(0, 1).write(0, 2).elect(&[1, 2]).replicate(1, 2).begin_here()
        }
        Rule::FenceVotersOnly => {
            let mut script = Script::settled(Bounds::quiet(3, &[0, 1]), rules);
            script.write(0, 1).replicate(0, 1).begin_here()
        }
        Rule::FenceQuorum | Rule::LongestLogWins => {
            Script::settled(three(), rules).write(0, 1).replicate(0, 1).begin_here()
        }
        Rule::WaitOutLeases
        | Rule::WaitFromReceipt
        | Rule::OnlyLastLeaderEndsWait
        | Rule::LastLeaderIsKept
        | Rule::FencedLeaderDropsLease => wait_world(rule, rules),
        Rule::ElectOnce => ReplicationModel::new(two(), rules),
        Rule::TransferToVoter => {
            let bounds = Bounds { transfers: 1, ..Bounds::quiet(3, &[0, 1]) };
            let mut script = Script::settled(bounds, rules);
            without_elections(script.act(Action::HandOver { node: 0, target: 2 }).with_messages())
        }
        Rule::TransferToCaughtUp | Rule::TransferStepsDown => {
            let mut script = Script::settled(Bounds { transfers: 1, ..three() }, rules);
            let mut model = script.begin_here();
            model.allowed = to_node_2;
            model
        }
        Rule::TransferOfTerm => {
            let mut script = Script::settled(Bounds { terms: 3, transfers: 1, ..three() }, rules);
            script.act(Action::HandOver { node: 0, target: 1 }).elect(&[2, 0]).with_messages()
        }
        _ => Script::settled(three(), rules).begin_here(),
    }
}

fn voters_world(rule: Rule, rules: Rules) -> ReplicationModel {
    let bounds = Bounds { proposals: 1, terms: 1, ..three() };
    match rule {
        Rule::OneProposal => Script::settled(Bounds { proposals: 2, ..bounds }, rules).begin_here(),
        Rule::ProposalOfTerm => {
            let bounds = Bounds { terms: 2, ..bounds };
            let mut script = Script::settled(bounds, rules);
            script.act(Action::Propose { node: 0, voters: Uuids::of(&[0, 1]) });
            script.elect(&[2, 0]).with_messages()
        }
        Rule::ProposalOfVersion => {
            let mut script = Script::settled(Bounds { proposals: 2, ..bounds }, rules);
            let mut model = script.change(0, &[0, 1]).change(0, &[0, 1, 2]).with_messages();
            model.start.used.proposals = 2;
            model
        }
        Rule::RefusalRaisesVersion => {
            let mut model = Script::settled(Bounds { refusals: 1, ..bounds }, rules).begin_here();
            model.allowed = to_node_2;
            model
        }
        Rule::ProposalOfReplicas => {
            let bounds = Bounds { drops: 1, proposals: 1, terms: 1, ..Bounds::quiet(3, &[0, 1]) };
            let mut script = Script::settled(bounds, rules);
            script.act(Action::Propose { node: 0, voters: Uuids::of(&[0, 1, 2]) }).write(0, 1);
            let mut model = script.with_messages();
            model.bounds.proposals = 0;
            model.allowed = to_node_2;
            model
        }
        Rule::NewUuidAfterLoss => Script::settled(Bounds { wipes: 1, ..two() }, rules).begin_here(),
        Rule::CorruptDoesNotAnswer | Rule::RepairedWhenFsynced => {
            Script::settled(Bounds { damages: 1, ..two() }, rules).begin_here()
        }
        Rule::DamageIsRemembered => {
            Script::settled(Bounds { damages: 1, crashes: 1, ..two() }, rules).begin_here()
        }
        Rule::ProposeWithSelf => {
            let mut script = Script::settled(Bounds { terms: 2, ..bounds }, rules);
            script.act(Action::Propose { node: 0, voters: Uuids::of(&[1, 2]) }).with_messages()
        }
        _ => Script::settled(bounds, rules).begin_here(),
    }
}

/// Leases need no log: what is written and sent is left out of their worlds.
fn without_log(_: &State, action: &Action) -> bool {
    let of_log =
        |message: &Message| matches!(message, Message::Replicate { .. } | Message::Ack { .. });
    match action {
        Action::Write { .. } | Action::Send { .. } | Action::Fsync { .. } => false,
        Action::LeaseRead { .. } => false,
        Action::Deliver(message) => !of_log(message),
        _ => true,
    }
}

fn lease_world(rule: Rule, rules: Rules) -> ReplicationModel {
    let bounds = Bounds { writes: 0, rounds: 2, ticks: 2, ..three() };
    let bounds = match rule {
        // Node 0 has its lease from node 1; with node 3 the voters need no answer of theirs.
        Rule::JointLease => {
            let four = Bounds::quiet(4, &[0, 1, 2]);
            let bounds = Bounds { writes: 0, rounds: 2, ticks: 1, proposals: 1, ..four };
            let mut script = Script::settled(bounds, rules);
            let mut model = script.probe(0, 1).begin_here();
            model.allowed = |state, action| match action {
                Action::AnswerFence { node, .. } => *node > 1,
                Action::Probe { node } => *node > 1,
                _ => without_log(state, action),
            };
            return model;
        }
        Rule::LeaseFromQuorum => Bounds { ticks: 1, ..bounds },
        // The leader's clock is slow, the voter's and the controller's are fast.
        Rule::DriftMargin => {
            Bounds { rates: vec![SLOW, FAST, FAST], controller_rate: FAST, ..bounds }
        }
        Rule::LeaseFromSend => Bounds { ticks: 3, ..bounds },
        Rule::GrantsAfterStart => Bounds { crashes: 1, ticks: 1, ..bounds },
        // Node 1 leads term 2 and serves; node 0 has not heard of it.
        Rule::ReadChecksLease => {
            let bounds = Bounds { writes: 1, ticks: 1, rounds: 0, ..three() };
            let mut script = Script::settled(bounds, rules);
            let mut model = script.elect(&[1, 2]).replicate(1, 2).begin_here();
            model.allowed = to_node_2;
            return model;
        }
        Rule::RoundAfterRead => {
            let bounds = Bounds { rounds: 1, reads: 1, ..three() };
            let mut script = Script::settled(bounds, rules);
            script.probe(0, 1).elect(&[1, 2]).replicate(1, 2);
            let mut model = script.act(Action::Write { node: 1, sequence: 1 }).begin_here();
            model.allowed = to_node_2;
            return model;
        }
        _ => bounds,
    };
    from_neighbours(Script::settled(bounds, rules).begin_here())
}

/// Where a lease is alive, and the controller has to wait or to know that it is over.
fn wait_world(rule: Rule, rules: Rules) -> ReplicationModel {
    let bounds = Bounds { writes: 0, rounds: 2, ticks: 2, ..three() };
    match rule {
        // The term is taken long before the voter grants a lease and answers.
        Rule::WaitFromReceipt => {
            let bounds = Bounds { late_fences: true, controller_rate: FAST, ..bounds };
            let mut script = Script::settled(bounds, rules);
            script.act(Action::TakeTerm { record: 0 }).act(Action::Tick);
            from_neighbours(script.begin_here())
        }
        // Node 0 led term 1, node 1 leads term 2.
        Rule::OnlyLastLeaderEndsWait => {
            let mut script = Script::settled(Bounds { terms: 3, ..bounds }, rules);
            script.elect(&[1, 2]).replicate(1, 2).replicate(1, 0);
            let mut model = script.begin_here();
            model.allowed = |state, action| match action {
                Action::AnswerFence { node, .. } => *node != 1,
                Action::Elect { winner, .. } => *winner == 2,
                Action::Deliver(Message::Probe { from, to, .. }) => *to == (*from + 1) % 3,
                _ => without_log(state, action),
            };
            model
        }
        // Term 2 has no leader.
        Rule::LastLeaderIsKept => {
            let mut script = Script::settled(Bounds { terms: 3, ..bounds }, rules);
            from_neighbours(script.fence(&[]).begin_here())
        }
        Rule::FencedLeaderDropsLease => {
            let mut model = Script::settled(bounds, rules).begin_here();
            model.allowed = |state, action| match action {
                Action::Elect { winner, .. } => *winner == 1,
                Action::Deliver(Message::Probe { from, to, .. }) => *to == *from + 1,
                _ => without_log(state, action),
            };
            model
        }
        _ => from_neighbours(Script::settled(bounds, rules).begin_here()),
    }
}

/// Node 0 has its lease from node 1, which is elected and has its own from node 2.
fn from_neighbours(model: ReplicationModel) -> ReplicationModel {
    let allowed: Allowed = |state, action| match action {
        Action::AnswerFence { node, .. } => *node > 0,
        Action::Elect { winner, .. } => *winner == 1,
        Action::Deliver(Message::Probe { from, to, .. }) => *to == *from + 1,
        _ => without_log(state, action),
    };
    ReplicationModel { allowed, ..model }
}

fn other_world(rule: Rule, rules: Rules) -> ReplicationModel {
    let learner = Bounds { terms: 1, proposals: 1, ..three() };
    match rule {
        Rule::DropOnlyOutsideVoters => {
            let bounds = Bounds { terms: 1, drops: 1, ..two() };
            Script::settled(bounds, rules).begin_here()
        }
        Rule::SnapshotOfCommitted => {
            let bounds = Bounds { snapshots: 1, terms: 1, ..two() };
            Script::settled(bounds, rules).begin_here()
        }
        // A snapshot that was sent before what node 1 compacted.
        Rule::SnapshotNotBehind => {
            let bounds = Bounds { snapshots: 1, compactions: 1, terms: 1, ..two() };
            let mut script = Script::settled(bounds, rules);
            script.act(Action::SendSnapshot { node: 0, to: 1, end: 1 });
            script.write(0, 1).replicate(0, 1).send(0, 1).with_messages()
        }
        Rule::RestartKnowsBase => {
            let bounds = Bounds { snapshots: 1, compactions: 1, crashes: 1, terms: 1, ..two() };
            let mut script = Script::settled(bounds, rules);
            script.act(Action::SendSnapshot { node: 0, to: 1, end: 1 });
            script.write(0, 1).replicate(0, 1).send(0, 1);
            script.act(Action::Compact { node: 1 }).with_messages()
        }
        Rule::SnapshotKeepsSuffix => {
            let bounds = Bounds { snapshots: 1, terms: 1, ..two() };
            Script::settled(bounds, rules).begin_here()
        }
        // Node 1 lacks a write that is committed.
        Rule::SnapshotAtomic => {
            let bounds = Bounds { snapshots: 1, crashes: 1, ..three() };
            let mut script = Script::settled(bounds, rules);
            script.write(0, 1).replicate(0, 2).begin_here()
        }
        Rule::SnapshotHasSessions | Rule::ExpiredIsRefused => {
            let bounds = Bounds { compactions: 1, expiries: 1, terms: 1, ..two() };
            let mut script = Script::settled(bounds, rules);
            script.write(0, 1).replicate(0, 1).begin_here()
        }
        Rule::SequencesPerSession => {
            let bounds = Bounds { second_writes: 1, terms: 1, ..two() };
            Script::settled(bounds, rules).begin_here()
        }
        Rule::DeleteAfterDrop => Script::settled(learner, rules).begin_here(),
        Rule::SessionsRolledBack => {
            let mut script = Script::settled(Bounds { terms: 3, ..three() }, rules);
            script.write(0, 1).elect(&[1, 2]).replicate(1, 2).replicate(1, 0);
            script.elect(&[0, 2]).replicate(0, 2).begin_here()
        }
        _ => Script::settled(Bounds { writes: 2, terms: 1, ..two() }, rules).begin_here(),
    }
}
