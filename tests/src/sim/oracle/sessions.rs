//! What a client may hear about its session: requests are numbered per session and partition, and
//! what was answered durably is never forgotten while the session lives.

use std::collections::{BTreeMap, BTreeSet};

use ironring_core::{PartitionId, SessionId};

/// Sequences that were answered at a level that survives, with the offset of their records.
#[derive(Debug, Default)]
struct Lane(BTreeMap<u64, u64>);

impl Lane {
    /// Every sequence up to this was answered.
    fn durable(&self) -> u64 {
        (1..).take_while(|seq| self.0.contains_key(seq)).last().unwrap_or(0)
    }
}

/// All sessions.
#[derive(Debug, Default)]
pub struct Sessions {
    opened: BTreeSet<SessionId>,
    lanes: BTreeMap<(SessionId, PartitionId), Lane>,
}

impl Sessions {
    /// A session was opened.
    ///
    /// # Errors
    /// When another client has one of that number.
    pub fn opened(&mut self, id: SessionId) -> Result<(), String> {
        if id == SessionId::NONE || !self.opened.insert(id) {
            return Err(format!("session {id} was given twice"));
        }
        Ok(())
    }

    /// A request of a session was answered for good, at a level that survives. `offset` is that of
    /// its record; `None` when the answer does not tell.
    pub fn answered(
        &mut self,
        session: SessionId,
        partition: PartitionId,
        seq: u64,
        offset: Option<u64>,
    ) {
        let lane = self.lanes.entry((session, partition)).or_default();
        let offset = offset.unwrap_or(u64::MAX);
        let known = lane.0.entry(seq).or_insert(offset);
        *known = (*known).min(offset);
    }

    /// Of these partitions only what is at or below a bound is promised still.
    pub fn forgive(&mut self, bound: impl Fn(PartitionId) -> Option<u64>) {
        for ((_, partition), lane) in &mut self.lanes {
            if let Some(bound) = bound(*partition) {
                lane.0.retain(|_, offset| *offset <= bound);
            }
        }
    }

    /// A request of this session heard that the session is not known.
    ///
    /// # Errors
    /// When it was opened: nothing in a simulation lets a session expire.
    pub fn expired(&self, session: SessionId) -> Result<(), String> {
        if self.opened.contains(&session) {
            return Err(format!("session {session} was opened, and is forgotten"));
        }
        Ok(())
    }

    /// A request heard that `expected` comes first.
    ///
    /// # Errors
    /// When that one was answered for good, or is not before the request.
    pub fn gap(
        &self,
        session: SessionId,
        partition: PartitionId,
        seq: u64,
        expected: u64,
    ) -> Result<(), String> {
        let durable = self.lanes.get(&(session, partition)).map_or(0, Lane::durable);
        if expected <= durable {
            return Err(format!("sequence {expected} is asked for; {durable} were answered"));
        }
        if expected >= seq {
            return Err(format!("sequence {expected} is asked for by the answer to {seq}"));
        }
        Ok(())
    }
}
