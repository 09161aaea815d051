//! The end of a run: clients hear the end of what they asked for, everything is read back, the
//! node dies or stops once more, and everything is read back again.

use ironring_core::PartitionId;

use super::{Stage, World};
use crate::sim::op::{Op, Outcome};
use crate::sim::subject::{Event, Node};

impl<N: Node> World<N> {
    /// Goes on to the next stage when this one has nothing left to do.
    pub(super) fn move_on(&mut self) -> Result<(), String> {
        let quiet = self.clients.iter().all(|c| c.outstanding() == 0);
        match self.stage {
            Stage::Load if self.requests_left == 0 && self.crashes_left == 0 => {
                self.stage = Stage::Drain;
                self.end_trouble();
                self.wake_all();
                self.move_on()
            }
            Stage::Load if self.requests_left == 0 && quiet => {
                // Lives that were to end in a crash do so.
                if self.trigger.is_some() {
                    self.crash_now = true;
                }
                Ok(())
            }
            Stage::Drain if quiet && self.up && !self.clients.iter().any(|c| c.has_retries()) => {
                self.begin_audit();
                Ok(())
            }
            Stage::Audit if quiet && self.audit.is_empty() => self.end_audit(),
            _ => Ok(()),
        }
    }

    fn wake_all(&mut self) {
        for index in 0..self.clients.len() {
            self.wake_at(index, self.now);
        }
    }

    fn begin_audit(&mut self) {
        self.stage = Stage::Audit;
        self.audits_left -= 1;
        let mut ops: Vec<Op> = self.oracle.keys().map(|key| Op::Get { key: key.clone() }).collect();
        for (topic, index) in self.oracle.parts() {
            ops.push(Op::TopicRead { topic, index, from: None, max_records: 0 });
        }
        if self.profile.load.topics > 0 {
            ops.push(Op::TopicList);
            let scan = |partition| Op::Scan {
                partition: PartitionId(partition),
                prefix: Vec::new(),
                after: Vec::new(),
                limit: 0,
                values: true,
            };
            ops.extend((0..self.node.partitions()).map(scan));
        }
        if ops.is_empty() {
            ops.push(Op::Get { key: b"nobody".as_slice().into() });
        }
        self.audit = ops.into();
        self.wake_at(0, self.now);
    }

    /// An answer of the audit: goes on where a page ended.
    pub(super) fn audited(&mut self, op: &Op, outcome: &Outcome) -> Result<(), String> {
        match (op, outcome) {
            (Op::TopicRead { topic, index, .. }, Outcome::Records { records, end, .. }) => {
                if let Some(last) = records.last()
                    && last.offset + 1 < *end
                {
                    self.audit.push_back(Op::TopicRead {
                        topic: *topic,
                        index: *index,
                        from: Some(last.offset + 1),
                        max_records: 0,
                    });
                }
            }
            (Op::Scan { partition, .. }, Outcome::Page { entries, more: true }) => {
                if let Some(last) = entries.last() {
                    self.audit.push_back(Op::Scan {
                        partition: *partition,
                        prefix: Vec::new(),
                        after: last.key.clone(),
                        limit: 0,
                        values: true,
                    });
                }
            }
            (op, Outcome::Error { code, .. }) if code.retriable() => {
                self.audit.push_back(op.clone());
            }
            _ => {}
        }
        Ok(())
    }

    fn end_audit(&mut self) -> Result<(), String> {
        self.coverage.add("audits", 1);
        if self.audits_left == 0 {
            self.stage = Stage::Over;
            return Ok(());
        }
        if self.rng.chance(1, 2) {
            self.stage = Stage::Drain;
            self.crash_now = true;
            return Ok(());
        }
        self.stage = Stage::Stop;
        self.since = self.now;
        (0..self.slots.len()).try_for_each(|index| self.handle(index, Event::Stop))
    }
}
