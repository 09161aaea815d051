//! What goes wrong, as the nemesis orders it.

use ironring_core::{PartitionId, StorageUuid, Term};
use ironring_ring::metadata::{Command, MemberState, ReplicaId};
use ironring_ring::replication::Request;

use super::{Event, World};
use crate::sim::replicas::checks::Broken;
use crate::sim::replicas::log::Disk;
use crate::sim::replicas::nemesis::{Action, Strike, Victim};
use crate::sim::replicas::network::draw_lost;
use crate::sim::replicas::node::{Message, To};
use crate::sim::replicas::plan::{MS, any_length, one_of};

/// Voters a leader asked for.
#[derive(Clone, Debug)]
pub(super) struct Proposed {
    term: Term,
    base: u64,
    voters: Vec<ReplicaId>,
}

impl World {
    pub(super) fn trouble_tick(&mut self) {
        let partition = PartitionId(self.rng.below(self.plan.partitions as u64) as u32);
        let anybody = self.rng.below(self.nodes.len() as u64) as usize;
        let likely = self.leader(partition).unwrap_or(anybody);
        if let Some(rounds_ns) = self.plan.nemesis.rounds_ns
            && self.round_may_end(partition, rounds_ns)
        {
            self.round(partition, likely, rounds_ns);
        }
        if self.rng.chance(self.plan.elections, 1000) {
            self.elect(partition);
        }
        if self.rng.chance(self.plan.handovers, 1000) {
            self.ask_to_hand_over(partition);
        }
        if self.rng.chance(self.plan.operations, 1000) {
            self.operate(anybody);
        }
        if let Some(strike) = self.plan.nemesis.any_time(&mut self.rng) {
            self.schedule(0, Event::Struck { strike, actor: anybody, partition });
        }
    }

    /// A round lasts until the leader it was about has a successor, and a little longer.
    fn round_may_end(&mut self, partition: PartitionId, rounds_ns: u64) -> bool {
        let led = self.group.state.partitions()[partition.0 as usize].leader.is_some();
        let long = self.time >= self.round_at + 3 * rounds_ns;
        self.time >= self.round_at && (long || led && self.rng.chance(1, 8))
    }

    /// Links change, and what else a round is made of is going to happen.
    fn round(&mut self, partition: PartitionId, likely: usize, lasts_ns: u64) {
        self.round_at = self.time + lasts_ns / 4 + self.rng.below(2 * lasts_ns);
        if self.rng.chance(1, 4) {
            return self.network.mend();
        }
        self.coverage.add("links cut", 1);
        self.note(&[13, likely as u64], || format!("a round around node {}", likely + 1));
        self.network.change(likely, self.round_at, &mut self.rng);
        let nodes = self.nodes.len();
        for (after, strike, actor) in self.plan.nemesis.round(nodes, &mut self.rng) {
            self.schedule(after, Event::Struck { strike, actor, partition });
        }
    }

    /// Somebody who leads a partition, or believes so.
    fn leader(&mut self, partition: PartitionId) -> Option<usize> {
        let leads = |node: &usize| self.nodes[*node].leads(partition);
        let leaders: Vec<usize> = (0..self.nodes.len()).filter(leads).collect();
        (!leaders.is_empty()).then(|| one_of(&mut self.rng, &leaders))
    }

    pub(super) fn struck(
        &mut self,
        strike: Strike,
        actor: usize,
        partition: PartitionId,
    ) -> Result<(), Broken> {
        if !self.is_trouble() {
            return Ok(());
        }
        let node = match strike.victim {
            Victim::Actor => actor,
            Victim::Leader => self.leader(partition).unwrap_or(actor),
            Victim::Anybody => self.rng.below(self.nodes.len() as u64) as usize,
        };
        self.note(&[11, node as u64], || format!("{:?} of node {}", strike.action, node + 1));
        let lasts = MS + any_length(&mut self.rng, self.plan.nemesis.lasts_ns);
        match strike.action {
            Action::Crash => {
                if self.nodes[node].process.is_some() {
                    self.crash(node);
                }
            }
            Action::Pause => {
                self.coverage.add("pauses", 1);
                let most = self.most(node, self.plan.nemesis.lasts_ns);
                let length = any_length(&mut self.rng, most);
                self.nodes[node].paused_until = self.time + length;
            }
            Action::Isolate => {
                self.coverage.add("nodes isolated", 1);
                let lost = draw_lost(self.nodes.len(), &mut self.rng);
                self.network.isolate(node, lost, self.time + lasts, &mut self.rng);
                if self.rng.chance(1, 3) {
                    self.elect(partition);
                }
            }
            Action::Round => self.round(partition, node, self.plan.nemesis.lasts_ns),
            Action::Disk => {
                let usual = self.plan.flush_ns[node];
                self.nodes[node].flush_ns = one_of(&mut self.rng, &[usual, MS / 10, lasts / 4]);
            }
            Action::Outage => {
                for node in 0..self.nodes.len() {
                    if self.nodes[node].process.is_some() && self.rng.chance(1, 2) {
                        self.crash(node);
                    }
                }
            }
            Action::Elect => self.elect(partition),
            Action::Controller => {
                self.new_controller();
                self.coverage.add("controllers replaced", 1);
            }
            Action::Burst => {
                for node in 0..self.nodes.len() {
                    if self.nodes[node].leads(partition) {
                        let times = 1 + self.rng.below(4);
                        self.write(node, partition, times)?;
                    }
                }
            }
            Action::HandOver => self.ask_to_hand_over(partition),
            Action::Operate => self.operate(node),
            Action::Reconnect => {
                let other = self.nodes[self.rng.below(self.nodes.len() as u64) as usize].id;
                if let Some(process) = &mut self.nodes[node].process {
                    process.engine.link_up(other);
                }
            }
            Action::Wipe => self.wipe(node),
            Action::Damage => self.damage(node, partition),
        }
        Ok(())
    }

    /// Somebody takes a new term, or a controller is asked to. Elections that are under way are
    /// mostly left to end.
    fn elect(&mut self, partition: PartitionId) {
        let record = &self.group.state.partitions()[partition.0 as usize];
        let term = record.term;
        match record.leader {
            Some(from) if self.rng.chance(3, 4) => {
                let request = Request::Election { partition, term, from };
                self.metadata_hears(To::Metadata, &Message::Ask(request));
            }
            None if self.rng.chance(3, 4) => {}
            _ => self.commits(None, &Command::Elect { partitions: vec![(partition, term)] }),
        }
    }

    /// Somebody asks whoever leads to hand over to one of the replicas.
    fn ask_to_hand_over(&mut self, partition: PartitionId) {
        let record = &self.group.state.partitions()[partition.0 as usize];
        let ids: Vec<ReplicaId> = record.replicas.iter().map(|r| r.id).collect();
        let Some(node) = self.leader(partition).filter(|_| !ids.is_empty()) else { return };
        let to = one_of(&mut self.rng, &ids);
        let message = Message::HandOver(partition, to);
        self.send(To::Metadata, To::Node(self.nodes[node].id), message);
    }

    /// An operator drains a node, or asks for fewer replicas; and soon thinks better of it.
    fn operate(&mut self, node: usize) {
        let all = self.nodes.len() as u8;
        let (command, back) = if self.rng.chance(1, 3) {
            let set = |state| Command::SetMember { node: self.nodes[node].id, state };
            (set(MemberState::Draining), set(MemberState::Active))
        } else {
            let set = |rf| Command::SetKeyspace { rf, min_voters: 1 };
            (set(1 + self.rng.below(u64::from(all)) as u8), set(all))
        };
        self.commits(None, &command);
        let soon = any_length(&mut self.rng, 8 * self.plan.nemesis.election_ns);
        self.schedule(soon, Event::Commits { by: None, command: Box::new(back) });
    }

    pub(super) fn remember_proposal(
        &mut self,
        partition: PartitionId,
        term: Term,
        base: u64,
        voters: &[ReplicaId],
    ) {
        let record = &self.group.state.partitions()[partition.0 as usize];
        let open = &mut self.proposed[partition.0 as usize];
        open.retain(|p| p.term == record.term && p.base >= record.version);
        if !open.iter().any(|p| (p.term, p.base) == (term, base) && p.voters == voters) {
            open.push(Proposed { term, base, voters: voters.to_vec() });
        }
    }

    /// Whether a partition can lose what one storage holds, and somebody can still be elected: every
    /// other replica has what it had, and there is another wherever this one votes, now or when an
    /// open proposal is accepted.
    fn can_lose(&self, partition: PartitionId, storage: StorageUuid) -> bool {
        let p = partition.0 as usize;
        let record = &self.group.state.partitions()[p];
        if record.replica_on(storage).is_none() {
            return true;
        }
        let whole = |id: ReplicaId| {
            let node = self.nodes.iter().find(|n| n.storage == id.storage);
            node.is_some_and(|n| n.disk.durable[p].damaged_below.is_none())
        };
        let others = record.replicas.iter().filter(|r| r.id.storage != storage);
        let open = self.proposed[p].iter().filter(|p| p.base >= record.version);
        others.clone().all(|r| whole(r.id))
            && open.map(|p| &p.voters).chain([&record.voters]).all(|voters| {
                let others = voters.iter().filter(|v| v.storage != storage);
                others.count() > 0
            })
    }

    /// A node loses its disk and comes back with an empty one.
    fn wipe(&mut self, node: usize) {
        let storage = self.nodes[node].storage;
        if !self.partitions().all(|p| self.can_lose(p, storage)) {
            return;
        }
        self.coverage.add("disks wiped", 1);
        if self.nodes[node].process.is_some() {
            self.crash(node);
        }
        self.graves.push((storage, self.nodes[node].disk.durable.clone()));
        self.next_storage += 1;
        self.nodes[node].storage = StorageUuid(self.next_storage);
        self.nodes[node].disk = Disk::new(self.plan.partitions);
        self.note(&[6, node as u64], || format!("node {} loses its disk", node + 1));
        let old = self.nodes[node].id;
        self.nodes[node].id = ironring_core::NodeId(0);
        self.commits(None, &Command::SetMember { node: old, state: MemberState::Lost });
    }

    /// A node's log of one partition is damaged in the middle, which it notices when it starts.
    fn damage(&mut self, node: usize, partition: PartitionId) {
        let p = partition.0 as usize;
        let storage = self.nodes[node].storage;
        let len = self.nodes[node].disk.durable[p].entries.len() as u64;
        if len == 0 || !self.can_lose(partition, storage) {
            return;
        }
        if self.nodes[node].process.is_some() {
            self.crash(node);
        }
        self.graves.push((storage, self.nodes[node].disk.durable.clone()));
        let part = &mut self.nodes[node].disk.durable[p];
        let below = part.damaged_below.unwrap_or(part.end()).max(part.end());
        let left = self.rng.below(len);
        part.entries.truncate(left as usize);
        part.damaged_below = Some(below);
        self.coverage.add("logs damaged", 1);
        self.note(&[7, node as u64, u64::from(partition.0), left], || {
            format!("node {}: {partition} is damaged behind {left} entries", node + 1)
        });
    }
}
