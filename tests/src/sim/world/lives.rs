//! Lives of the node: how one starts, what ends it, what is left of it.

use ironring_core::Instant;

use super::{Happening, RECOVERIES, Stage, World};
use crate::sim::crash::Trigger;
use crate::sim::disk::faults::Fault;
use crate::sim::subject::{Effects, Event, FailureKind, Node, Phase, Subject};

impl<N: Node> World<N> {
    pub(super) fn start(&mut self) -> Result<(), String> {
        self.life += 1;
        self.up = true;
        self.since = self.now;
        let injected = |s: &super::Slot<N::Subject>| s.disk.faults.injected.len();
        self.faults_before = self.slots.iter().map(injected).collect();
        // A directory is formatted until the node has served once: from then on an empty one is
        // a loss.
        let format = !self.served;
        self.trace.note(self.now, &[10, u64::from(self.life)], || format!("life {}", self.life));
        self.trigger = None;
        if self.stage == Stage::Load && self.crashes_left > 0 {
            let mut trigger = Trigger::draw(&mut self.rng);
            if self.requests_left == 0 {
                trigger = Trigger::Steps(1 + self.rng.below(200));
            }
            self.trigger = Some(trigger);
        }
        for index in 0..self.slots.len() {
            let subject = self.node.make(ironring_core::ShardId(index as u16));
            let slot = &mut self.slots[index];
            slot.subject = Some(subject);
            slot.fx = Effects::default();
            slot.turn_until = None;
            slot.timed = false;
            slot.spins = 0;
            slot.failed = false;
            slot.served = false;
            // A wrong bit on its way from the disk looks like a torn tail while the log is opened;
            // no log can tell. So reads are true until the node serves.
            slot.disk.faults.plan.per_million[Fault::ReadFlip as usize] = 0;
            self.handle(index, Event::Start { format })?;
            if self.crash_now {
                return Ok(());
            }
        }
        for index in 0..self.clients.len() {
            self.quiet_until[index] = 0;
            self.wakes[index] = super::NO_WAKE;
            let at = self.now + self.rng.below(30_000_000);
            self.wake_at(index, at);
        }
        Ok(())
    }

    /// What became of a shard after it handled an event.
    pub(super) fn look_at(&mut self, index: usize) -> Result<(), String> {
        let Some(subject) = self.slots[index].subject.as_ref() else { return Ok(()) };
        match subject.phase() {
            Phase::Opening => Ok(()),
            Phase::Serving => {
                let rate = self.profile.faults.per_million[Fault::ReadFlip as usize];
                let plan = &mut self.slots[index].disk.faults.plan;
                plan.per_million[Fault::ReadFlip as usize] = rate;
                self.slots[index].served = true;
                let all = self.slots.iter().all(|slot| slot.served);
                self.served |= all;
                if all && std::mem::take(&mut self.crashed) {
                    self.coverage.add(RECOVERIES, 1);
                }
                Ok(())
            }
            Phase::Stopped => self.stopped(),
            Phase::Failed(kind, why) if !self.slots[index].failed => {
                self.slots[index].failed = true;
                self.failed(index, kind, &why)
            }
            Phase::Failed(..) => Ok(()),
        }
    }

    fn failed(&mut self, index: usize, kind: FailureKind, why: &str) -> Result<(), String> {
        self.trace.note(self.now, &[11, index as u64], || format!("shard {index} failed: {why}"));
        let faults = &self.slots[index].disk.faults;
        let mut this_life = faults.injected[self.faults_before[index]..].iter();
        let explained = match kind {
            FailureKind::Device => this_life.any(|f| !f.fault.is_silent()),
            // A superblock that cannot be read may be what an interrupted format left.
            FailureKind::Damage => faults.any_silent() || this_life.next().is_some(),
        };
        if !explained {
            return Err(format!("shard {index} failed and nothing explains it: {why}"));
        }
        if kind == FailureKind::Damage && faults.any_silent() {
            // It was noticed, and one replica alone cannot do more.
            let when = if self.slots[index].served { "serving" } else { "opening" };
            self.coverage.add(&format!("damage noticed while {when}"), 1);
            self.stage = Stage::Over;
            return Ok(());
        }
        let at = self.now + self.rng.below(20_000_000);
        self.at(at, Happening::Exit);
        Ok(())
    }

    fn stopped(&mut self) -> Result<(), String> {
        let all = self
            .slots
            .iter()
            .all(|slot| slot.subject.as_ref().is_some_and(|s| s.phase() == Phase::Stopped));
        if all && self.stage == Stage::Stop {
            self.coverage.add("clean stops", 1);
            self.oracle.stopped_cleanly();
            self.crash_now = true;
        }
        Ok(())
    }

    /// The node dies, and will start again.
    pub(super) fn crash(&mut self) -> Result<(), String> {
        self.settle_connections()?;
        let power = self.rng.chance(self.profile.power_loss_percent, 100);
        let what = if power { "power loss" } else { "process killed" };
        self.coverage.add(what, 1);
        self.trace.note(self.now, &[12, u64::from(power)], || what.to_owned());
        let stopped = self.slots.iter().all(|slot| self.phase_is(slot, &Phase::Stopped));
        self.crashed |= self.served && !stopped;
        for slot in &mut self.slots {
            if let Some(subject) = slot.subject.take() {
                for (name, times) in subject.counted() {
                    self.coverage.add(&name, times);
                }
            }
            slot.turn_until = None;
            if power {
                slot.disk.power_loss();
            } else {
                slot.disk.kill();
            }
        }
        self.up = false;
        self.forgive_tail();
        self.oracle.crash();
        self.queue.retain(|_, happening| matches!(happening, Happening::Decay));
        self.channel.clear();
        if self.stage == Stage::Load && self.trigger.take().is_some() {
            self.crashes_left = self.crashes_left.saturating_sub(1);
        }
        match self.stage {
            Stage::Stop => self.stage = Stage::Drain,
            Stage::Audit => {
                // What was not read back yet is read by the next audit.
                self.audits_left += 1;
                self.audit.clear();
                self.stage = Stage::Drain;
            }
            _ => {}
        }
        let pause = 1_000_000 + self.rng.below(200_000_000);
        let at = self.now + pause;
        self.at(at, Happening::Start);
        Ok(())
    }

    /// Answers on their way arrive or not; every connection is gone.
    fn settle_connections(&mut self) -> Result<(), String> {
        let (answers, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.queue)
            .into_iter()
            .partition(|(_, happening)| matches!(happening, Happening::Answer { .. }));
        self.queue = rest.into_iter().collect();
        let mut cut = std::collections::BTreeSet::new();
        for (_, happening) in answers {
            let Happening::Answer { client, conn, request, outcome } = happening else {
                continue;
            };
            // Once one answer of a connection is lost, so are those behind it.
            if cut.contains(&conn) || self.rng.chance(1, 2) {
                cut.insert(conn);
                continue;
            }
            self.answer(client, conn, request, &outcome)?;
        }
        for index in 0..self.clients.len() {
            let next = self.new_conn();
            for request in self.clients[index].disconnected(next) {
                self.oracle.abandon(request);
            }
        }
        self.sent_at.clear();
        self.conn_in.clear();
        self.conn_out.clear();
        Ok(())
    }

    /// Nothing goes wrong any more.
    pub(super) fn end_trouble(&mut self) {
        self.trigger = None;
        for slot in &mut self.slots {
            slot.disk.faults.plan.until = Instant(0);
        }
    }
}
