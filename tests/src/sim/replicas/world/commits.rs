//! The metadata group: what is committed, who hears of it, and the controllers that work on it.

use ironring_core::{NodeId, PartitionId};
use ironring_ring::controller::{Effect, Ticket};
use ironring_ring::metadata::{Command, Outcome};

use super::{Event, OLD_RECORDS, World};
use crate::sim::replicas::metadata::ControllerNumber;
use crate::sim::replicas::nemesis::Moment;
use crate::sim::replicas::node::{Message, To};

impl World {
    pub(super) fn new_controller(&mut self) {
        let now = self.metadata_clock();
        self.group.new_controller(now);
        self.controllers_soon();
    }

    fn metadata_clock(&self) -> ironring_core::Instant {
        self.plan.clocks[self.nodes.len()].at(self.time)
    }

    /// What happens to metadata as time goes by.
    pub(super) fn metadata_tick(&mut self) {
        if self.rng.chance(self.plan.retire, 1000) {
            self.group.retire_old();
        }
        self.controllers();
        // Nodes hear of a commit by applying it: sooner or later each does.
        for partition in self.partitions() {
            if self.rng.chance(1, 20) {
                self.tell(partition, None);
            }
        }
    }

    /// Tells nodes what metadata say about a partition.
    pub(super) fn tell(&mut self, partition: PartitionId, only: Option<usize>) {
        let record = self.group.state.partitions()[partition.0 as usize].clone();
        for node in 0..self.nodes.len() {
            if only.is_none_or(|only| only == node) {
                let message = Message::Record(partition, record.clone());
                self.send(To::Metadata, To::Node(self.nodes[node].id), message);
            }
        }
    }

    fn remember(&mut self, partition: PartitionId) {
        let record = self.group.state.partitions()[partition.0 as usize].clone();
        let old = &mut self.old_records[partition.0 as usize];
        if old.len() == OLD_RECORDS {
            old.pop_front();
        }
        old.push_back(record);
    }

    pub(super) fn metadata_hears(&mut self, from: To, message: &Message) {
        let now = self.metadata_clock();
        self.note(&[4], || format!("-> metadata: {message:?}"));
        match (from, message) {
            (_, Message::Fenced(answer)) => self.group.answer(now, answer),
            (_, Message::Ask(request)) => self.group.request(now, request, &mut self.rng),
            (To::Node(id), Message::Alive(incarnation)) => {
                return self.group.heard(now, id, *incarnation);
            }
            _ => return,
        }
        self.controllers_soon();
    }

    /// Something happened that controllers may want to act on.
    pub(super) fn controllers_soon(&mut self) {
        if self.plan.prompt && !self.controllers_due {
            self.controllers_due = true;
            self.schedule(0, Event::Controllers);
        }
    }

    pub(super) fn controllers(&mut self) {
        let now = self.metadata_clock();
        for (number, effect) in self.group.step(now) {
            match effect {
                Effect::Propose(ticket, command) => {
                    let delay = 50_000 + self.rng.below(self.commit_ns);
                    let by = (number, ticket);
                    let committed = self.group.is_present(number);
                    let event = if committed {
                        Event::Commits { by: Some(by), command }
                    } else {
                        Event::NotCommitted { by }
                    };
                    self.schedule(delay, event);
                }
                Effect::Fence(node, fences) => {
                    for fence in fences {
                        self.send(To::Metadata, To::Node(node), Message::Fence(fence));
                    }
                }
                Effect::HandOver { node, partition, to } => {
                    let message = Message::HandOver(partition, to);
                    self.send(To::Metadata, To::Node(node), message);
                }
                Effect::Plan(_) => unreachable!("the group has them made"),
            }
        }
    }

    /// A command is committed, and nodes begin to hear of it.
    pub(super) fn commits(&mut self, by: Option<(ControllerNumber, Ticket)>, command: &Command) {
        let now = self.metadata_clock();
        let lost = self.rng.chance(self.faults.commits_lost, 1000);
        if let Some(author) = by
            && lost
            && self.rng.chance(1, 2)
        {
            return self.does_not_commit(author);
        }
        self.note(&[5], || format!("commit: {command:?}"));
        self.coverage.add(&format!("commits: {}", kind_of(command)), 1);
        let (outcome, changed) = self.group.commit(now, command, by, !lost);
        if let (Outcome::Joined { node, .. }, Command::Join { node: facts, .. }) =
            (&outcome, command)
            && let Some(joined) = self.nodes.iter_mut().find(|n| n.storage == facts.storage)
        {
            joined.id = *node;
            self.link_up_everywhere();
        }
        for partition in changed {
            self.remember(partition);
            self.tell(partition, None);
            self.strike_behind_commit(command, partition);
        }
        self.controllers_soon();
    }

    /// A proposal is not committed, and its author does not learn that.
    pub(super) fn does_not_commit(&mut self, author: (ControllerNumber, Ticket)) {
        let now = self.metadata_clock();
        self.coverage.add("commits that did not happen", 1);
        self.note(&[5, 1], || format!("not committed: {author:?}"));
        self.group.lose(now, author);
    }

    /// Something may happen to whom a commit concerns, before or after they hear of it.
    fn strike_behind_commit(&mut self, command: &Command, partition: PartitionId) {
        let moment = match command {
            Command::Elect { .. } => Moment::ElectionBegins,
            Command::Lead { .. } | Command::Transfer { .. } => Moment::ElectionEnds,
            Command::Voters { .. } => Moment::VotersDecided,
            _ => return,
        };
        let record = &self.group.state.partitions()[partition.0 as usize];
        let Some(leader) = record.last_leader else { return };
        let Some(actor) = self.nodes.iter().position(|n| n.storage == leader.storage) else {
            return;
        };
        if let Some((strike, partition)) = self.strike_behind(&[(moment, partition)]) {
            self.schedule(0, Event::Struck { strike, actor, partition });
        }
    }

    pub(super) fn link_up_everywhere(&mut self) {
        let ids: Vec<NodeId> = self.nodes.iter().map(|n| n.id).collect();
        for node in &mut self.nodes {
            if let Some(process) = &mut node.process {
                ids.iter().for_each(|id| process.engine.link_up(*id));
            }
        }
    }
}

fn kind_of(command: &Command) -> &'static str {
    match command {
        Command::Elect { .. } => "elections begun",
        Command::Lead { .. } => "elections ended",
        Command::Voters { .. } => "voters proposed",
        Command::Transfer { .. } => "leaderships transferred",
        Command::Replicas { .. } => "replicas changed",
        Command::Status { .. } => "status of nodes",
        Command::Join { .. } => "joins",
        _ => "orders of operators",
    }
}
