//! Everything that goes wrong, by seed, and how it ends.

use ironring_core::prng::Prng;
use ironring_core::{NodeId, Offset, PartitionId, StorageUuid};
use ironring_node::shard::Event as ShardEvent;
use ironring_ring::metadata::{Command, MemberState};

use super::rot::Damage;
use super::{DISK_BYTES, Event, MS, Message, Node, World};
use crate::sim::disk::SimDisk;
use crate::sim::disk::faults::FaultPlan;
use crate::sim::profile::Trouble;

/// How much goes wrong: of 1000 ticks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Odds {
    pub(super) crash: u64,
    pub(super) power_loss: u64,
    pub(super) stop: u64,
    pub(super) pause: u64,
    pub(super) cut_link: u64,
    pub(super) wipe: u64,
    pub(super) rot: u64,
    pub(super) election: u64,
    pub(super) hand_over: u64,
    pub(super) operate: u64,
}

impl Odds {
    pub(super) fn draw(trouble: Trouble, rng: &mut Prng) -> Odds {
        let mut some = |max: u64| if rng.chance(1, 2) { rng.below(max + 1) } else { 0 };
        let calm = Odds {
            crash: 0,
            power_loss: 0,
            stop: some(6),
            pause: 0,
            cut_link: 0,
            wipe: 0,
            rot: 0,
            election: some(3),
            hand_over: some(5),
            operate: some(6),
        };
        let rough = Odds {
            crash: some(12),
            power_loss: some(12),
            pause: some(6),
            cut_link: some(10),
            election: some(6),
            ..calm
        };
        match trouble {
            Trouble::Calm => calm,
            Trouble::Crash | Trouble::Full => rough,
            Trouble::DiskFaults => Odds { rot: 2 + some(20), ..rough },
            Trouble::Corruption => Odds { wipe: some(4), ..rough },
        }
    }
}

/// What a link that is cut does with messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum CutKind {
    /// They are lost, and nobody hears of it.
    #[default]
    Silent,
    /// The connection is known to be down: nothing fits into it until it is up again.
    Down,
    /// They arrive when it is whole again.
    Late,
}

/// A link that is cut.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cut {
    pub(super) until: u64,
    pub(super) kind: CutKind,
}

impl World {
    pub(super) fn troubles(&mut self) {
        let odds = self.odds;
        for i in 0..self.nodes.len() {
            if self.nodes[i].shard.is_none() && self.rng.chance(1, 30) {
                self.start(i);
            }
        }
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        if self.rng.chance(odds.rot, 1000) {
            self.rot();
        }
        let suffers = self.may_suffer(node);
        if self.nodes[node].shard.is_some() && suffers {
            if self.rng.chance(odds.crash, 1000) {
                self.crash(node, false);
            } else if self.rng.chance(odds.power_loss, 1000) {
                self.crash(node, true);
            } else if self.rng.chance(odds.stop, 1000) && self.nodes[node].is_awake(self.time) {
                self.note(&[10, node as u64], || format!("node {} is asked to stop", node + 1));
                self.coverage.add("stops", 1);
                self.nodes[node].handle(self.time, ShardEvent::Stop);
                let run = self.nodes[node].incarnation;
                self.schedule(0, Event::TurnEnd { node, run });
            }
        }
        if self.rng.chance(odds.pause, 1000) && suffers {
            self.coverage.add("pauses", 1);
            let length = self.rng.below(3000 * MS);
            self.nodes[node].paused_until = self.time + length;
        }
        if self.rng.chance(odds.cut_link, 1000) && suffers {
            self.coverage.add("links cut", 1);
            let other = self.rng.below(self.nodes.len() as u64) as usize;
            let length = self.rng.below(3000 * MS);
            let mut cuts = vec![(node, other)];
            if self.rng.chance(1, 2) {
                cuts.push((other, node));
            }
            if self.rng.chance(1, 3) && self.victim.is_none() {
                if self.rng.chance(3, 4) {
                    self.coverage.add("nodes isolated", 1);
                    self.isolated[node] = self.time + length;
                }
                let all = 0..self.nodes.len();
                cuts = all.flat_map(|other| [(node, other), (other, node)]).collect();
            }
            let kind = [CutKind::Silent, CutKind::Down, CutKind::Late][self.rng.below(3) as usize];
            if kind == CutKind::Down {
                // A connection is down for both of its ends.
                cuts.extend(cuts.clone().into_iter().map(|(a, b)| (b, a)));
            }
            for (a, b) in cuts {
                self.cut[a][b] = Cut { until: self.time + length, kind };
                let to = self.nodes[b].id;
                self.schedule(length + MS, Event::LinkUp { node: a, to });
            }
        }
        if self.rng.chance(odds.wipe, 1000) && self.damage != Damage::Done {
            self.wipe(node);
        }
        if self.rng.chance(odds.election, 1000) && self.damage != Damage::Done {
            let p = self.rng.below(u64::from(self.partitions)) as usize;
            let seen = self.group.state.partitions()[p].term;
            self.commits(None, &Command::Elect { partitions: vec![(PartitionId(p as u32), seen)] });
        }
        if self.rng.chance(odds.hand_over, 1000) {
            let p = PartitionId(self.rng.below(u64::from(self.partitions)) as u32);
            let record = &self.group.state.partitions()[p.0 as usize];
            let to = record.voters[self.rng.below(record.voters.len() as u64) as usize];
            let leader = record.leader.and_then(|l| record.replica(l.replica));
            if let Some(leader) = leader.map(|r| r.node) {
                self.order_to(leader, Message::HandOver(p, to));
            }
        }
        if self.rng.chance(odds.election, 1000) {
            let now = self.metadata_clock.at(self.time);
            self.group.new_controller(now);
        }
        let whole = self.victim.is_none() && self.damage != Damage::Done;
        if self.rng.chance(odds.operate, 1000) && whole {
            let node = self.nodes[self.rng.below(self.nodes.len() as u64) as usize].id;
            let state = [MemberState::Active, MemberState::Draining][self.rng.below(2) as usize];
            let command = if self.rng.chance(1, 2) {
                Command::SetMember { node, state }
            } else {
                let rf = 1 + self.rng.below(self.nodes.len() as u64) as u8;
                let min_voters = self.min_voters;
                Command::SetKeyspace { rf: rf.max(min_voters), min_voters }
            };
            self.commits(None, &command);
        }
    }

    /// A node loses its disk and comes back with an empty one, when enough others have everything.
    pub(super) fn wipe(&mut self, node: usize) {
        let storage = self.nodes[node].storage;
        let can_lose = |p: u32| {
            let record = &self.group.state.partitions()[p as usize];
            let id = PartitionId(p);
            let view = |n: &Node| n.shard.as_ref().and_then(|shard| shard.replica(id));
            let most = self.nodes.iter().filter_map(view).map(|v| v.high_watermark).max();
            let whole = |voter: StorageUuid| {
                let of = self.nodes.iter().find(|n| n.storage == voter);
                of.and_then(view).is_some_and(|v| Some(v.flushed_end) >= most)
            };
            let Some(replica) = record.replica_on(storage) else { return true };
            // A learner may become one of two voters meanwhile, and be missed for good.
            let others = record.voters.iter().filter(|v| v.storage != storage);
            record.is_voter(replica.id)
                && others.clone().count() >= 2
                && others.clone().all(|v| whole(v.storage))
        };
        if !(0..self.partitions).all(can_lose) {
            return;
        }
        self.coverage.add("disks wiped", 1);
        if self.nodes[node].shard.is_some() {
            self.crash(node, false);
        }
        self.next_storage += 1;
        let seed = self.rng.next_u64();
        let n = &mut self.nodes[node];
        let old = n.id;
        n.storage = StorageUuid(self.next_storage);
        n.disk = SimDisk::new(seed, DISK_BYTES, self.latency, FaultPlan::none());
        (n.blank, n.id) = (true, NodeId(0));
        self.durable[node].fill(Offset::NONE);
        self.note(&[8, node as u64], || format!("node {} loses its disk", node + 1));
        self.commits(None, &Command::SetMember { node: old, state: MemberState::Lost });
    }

    pub(super) fn heal(&mut self) {
        self.healed = true;
        self.acked_before_healing = self.clients.acked;
        self.note(&[9], || "everything heals".to_owned());
        for row in &mut self.cut {
            row.fill(Cut::default());
        }
        self.isolated.fill(0);
        for i in 0..self.nodes.len() {
            self.nodes[i].paused_until = 0;
            if self.nodes[i].shard.is_none() {
                self.start(i);
            }
            self.links_up(i);
        }
        let members: Vec<NodeId> = self.group.state.members().map(|m| m.id).collect();
        for node in members {
            if self.nodes.iter().any(|n| n.id == node) {
                self.commits(None, &Command::SetMember { node, state: MemberState::Active });
            }
        }
        let rf = self.nodes.len().min(3) as u8;
        let min_voters = self.min_voters;
        self.commits(None, &Command::SetKeyspace { rf, min_voters });
    }
}
