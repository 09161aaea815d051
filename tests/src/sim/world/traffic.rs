//! Requests and answers on their way, and the clients at the end of it.

use std::collections::BTreeMap;

use ironring_core::{ErrorCode, ShardId};

use super::text::{outcome_word, short};
use super::{Happening, Stage, World};
use crate::sim::client::Reaction;
use crate::sim::op::{Op, Outcome, RequestId};
use crate::sim::subject::{Conn, Node, Phase};
use crate::sim::workload::KnownTopic;

impl<N: Node> World<N> {
    pub(super) fn send_replies(&mut self, index: usize) {
        let replies = std::mem::take(&mut self.slots[index].fx.replies);
        for (conn, request, outcome) in replies {
            let Some(client) = self.clients.iter().position(|c| c.conn == conn) else {
                continue;
            };
            let latency = 5_000 + self.rng.below(40_000);
            let at = self.conn_out.get(&conn).copied().unwrap_or(0).max(self.now + latency);
            self.conn_out.insert(conn, at);
            self.at(at, Happening::Answer { client, conn, request, outcome });
        }
    }

    pub(super) fn send_messages(&mut self, index: usize) {
        let messages = std::mem::take(&mut self.slots[index].fx.messages);
        for (ShardId(to), message) in messages {
            let latency = 1_000 + self.rng.below(30_000);
            let channel = (index as u16, to);
            let at = self.channel.get(&channel).copied().unwrap_or(0).max(self.now + latency);
            self.channel.insert(channel, at);
            self.at(at, Happening::Message { to, message });
        }
    }

    /// Wakes a client at `time`, or earlier if it is to wake earlier anyway.
    pub(super) fn wake_at(&mut self, index: usize, time: u64) {
        let time = time.max(self.quiet_until[index]);
        if time < self.wakes[index].0 {
            let number = self.next_happening + 1;
            self.wakes[index] = (time, number);
            self.at(time, Happening::Wake(index, number));
        }
    }

    pub(super) fn wake(&mut self, index: usize) -> Result<(), String> {
        if !self.up {
            return Ok(());
        }
        let serving = self.slots.iter().all(|s| self.phase_is(s, &Phase::Serving));
        if self.stage != Stage::Load && !serving {
            self.wake_at(index, self.now + 5_000_000);
            return Ok(());
        }
        let depth = self.profile.load.depth as usize;
        let auditing = self.stage == Stage::Audit && index == 0;
        let depth = if auditing { 16 } else { depth };
        while self.clients[index].outstanding() < depth {
            let Some(op) = self.next_op(index) else { break };
            self.send(index, op);
            // Mostly bursts; sometimes one at a time.
            if self.rng.chance(1, 4) {
                let again = self.now + self.workload.think_ns();
                self.wake_at(index, again);
                break;
            }
        }
        self.move_on()
    }

    fn next_op(&mut self, index: usize) -> Option<Op> {
        if index == 0 && self.stage == Stage::Audit {
            return self.audit.pop_front();
        }
        if index == 0 && self.lasting_asked < self.profile.load.topics {
            self.lasting_asked += 1;
            return Some(self.workload.lasting_topic());
        }
        let fresh = self.stage == Stage::Load && self.requests_left > 0;
        let retry = self.clients[index].has_retries();
        if self.stage == Stage::Audit || self.stage == Stage::Stop {
            return None;
        }
        let op = self.clients[index].next(&mut self.workload, fresh)?;
        if !retry {
            self.requests_left -= 1;
        }
        Some(op)
    }

    fn send(&mut self, index: usize, op: Op) {
        self.next_request += 1;
        let request = RequestId(self.next_request);
        let (conn, shard) = (self.clients[index].conn, self.clients[index].shard);
        self.oracle.send(request, &op, self.wall());
        self.sent_at.insert(request, self.now);
        self.clients[index].sent(request, op.clone());
        let latency = 5_000 + self.rng.below(40_000);
        let at = self.conn_in.get(&conn).copied().unwrap_or(0).max(self.now + latency);
        self.conn_in.insert(conn, at);
        self.at(at, Happening::Arrive { shard, conn, request, op });
        self.coverage.add("requests", 1);
        if self.rng.chance(self.profile.decay_per_million, 1_000_000) {
            let later = self.now + self.rng.below(20_000_000);
            self.at(later, Happening::Decay);
        }
        let breaks = self.profile.disconnect_one_in;
        if self.stage == Stage::Load && breaks > 0 && self.rng.chance(1, breaks) {
            self.disconnect(index);
        }
    }

    /// The client's connection breaks after what it sent was sent.
    fn disconnect(&mut self, index: usize) {
        let (old, shard) = (self.clients[index].conn, self.clients[index].shard);
        self.coverage.add("connections broken", 1);
        let next = self.new_conn();
        for request in self.clients[index].disconnected(next) {
            self.oracle.abandon(request);
            self.sent_at.remove(&request);
        }
        let at = self.conn_in.get(&old).copied().unwrap_or(self.now);
        self.at(at, Happening::Closed { shard, conn: old });
        let again = self.now + self.workload.think_ns();
        self.wake_at(index, again);
    }

    pub(super) fn answer(
        &mut self,
        index: usize,
        conn: Conn,
        request: RequestId,
        outcome: &Outcome,
    ) -> Result<(), String> {
        if self.clients[index].conn != conn {
            return Ok(());
        }
        let Some((op, reaction)) = self.clients[index].answered(request, outcome) else {
            return Err(format!("{request:?} is answered twice"));
        };
        self.trace.note(self.now, &[7, request.0, outcome_word(outcome)], || {
            format!("client {index} <- {request:?} {}", short(outcome))
        });
        self.sent_at.remove(&request);
        self.count_answer(outcome);
        self.oracle.answer(request, outcome, self.wall()).map_err(|v| v.to_string())?;
        self.learn(&op, outcome);
        if self.stage == Stage::Audit && index == 0 {
            self.audited(&op, outcome)?;
        }
        let early = matches!(
            outcome,
            Outcome::Error { code: ErrorCode::NotReady | ErrorCode::ShardFenced, .. }
        );
        let pause = match reaction {
            Reaction::Done if early => {
                // Too early to count as load; a patient client tries something else later.
                self.requests_left += u32::from(self.stage == Stage::Load);
                let pause = 5_000_000 + self.rng.below(20_000_000);
                self.quiet_until[index] = self.now + pause;
                pause
            }
            Reaction::Done => self.workload.think_ns(),
            Reaction::Retry => 1_000_000 + self.rng.below(30_000_000),
            Reaction::NewSession => {
                self.coverage.add("sessions given up", 1);
                self.workload.think_ns()
            }
        };
        self.wake_at(index, self.now + pause);
        self.move_on()
    }

    fn count_answer(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Error { code, .. } => {
                self.coverage.add(&format!("answer {}", code.name()), 1);
            }
            Outcome::Receipt(r) | Outcome::Appended { receipt: r, .. } if r.duplicate => {
                self.coverage.add("answer duplicate", 1);
            }
            _ => self.coverage.add("answer ok", 1),
        }
    }

    /// What clients tell each other: versions to expect, ends of topics.
    fn learn(&mut self, op: &Op, outcome: &Outcome) {
        match (op, outcome) {
            (Op::Write { ops, .. }, Outcome::Receipt(receipt)) => {
                for (index, op) in ops.iter().enumerate() {
                    let version = receipt.offset - (ops.len() - 1 - index) as u64;
                    self.workload.versions.insert(op.key.clone(), version);
                }
            }
            (Op::Get { key }, Outcome::Value(value)) => {
                self.workload.versions.insert(key.clone(), value.version);
            }
            (Op::Get { key }, Outcome::Error { code: ErrorCode::NotFound, .. }) => {
                self.workload.versions.remove(key);
            }
            (Op::TopicCreate { name, partitions, .. }, Outcome::Topic(id))
                if name.starts_with("lasting") =>
            {
                let ends = BTreeMap::new();
                self.workload.topics.push(KnownTopic { id: *id, partitions: *partitions, ends });
            }
            (Op::Append { topic, index, .. }, Outcome::Appended { first, count, .. }) => {
                let known = self.workload.topics.iter_mut().find(|t| t.id == *topic);
                if let Some(topic) = known {
                    topic.ends.insert(*index, first + u64::from(*count));
                }
            }
            _ => {}
        }
    }
}
